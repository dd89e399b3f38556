//! First pass: the text of proxmoverc to sections of keys and values, none of them understood yet.
//!
//! Pure. It never judges a name or a value, and never repeats a line in a message, because any line may hold a
//! secret. Read next: `parse.rs`, the second pass.
//!
//! rust-ini does the splitting, but the lines are cleaned first, because of what it does with a file people wrote:
//! - it stops at the first bad line, and we report all of them;
//! - an indented comment line becomes a key, and a line without `=` swallows the lines after it;
//! - a backslash at the end of a line joins the next one even with escapes off, and a backslash in front of `=` or `]`
//!   hides it; passwords hold backslashes.

use ini::{Ini, ParseOption};

use super::Problem;

/// One section as written. Duplicates of sections and keys are kept, for the second pass to refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// What stands between the brackets; `None` for keys above the first section.
    pub(super) name: Option<String>,
    /// Keys in lower case and their values, in the order of the file.
    pub(super) entries: Vec<(String, String)>,
}

/// What one line turned out to be.
enum Line<'a> {
    Empty,
    Header(&'a str),
    Entry(&'a str),
    Wrong(&'static str),
}

/// Splits the text into sections; what cannot be split is added to `problems`.
pub(super) fn sections(text: &str, file: &str, problems: &mut Vec<Problem>) -> Vec<Section> {
    let mut clean = String::with_capacity(text.len());
    let mut place = file.to_owned();
    // The keys below a broken header belong to no section; judging them would only report the same mistake again.
    let mut lost = false;
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        match classify(line) {
            Line::Empty => {}
            Line::Header(name) => {
                lost = false;
                place = format!("[{name}]");
                clean.push_str(&place);
                clean.push('\n');
            }
            Line::Entry(entry) if !lost => {
                clean.push_str(entry);
                // The space keeps a backslash at the end from joining the next line; rust-ini trims it off again.
                clean.push_str(if entry.ends_with('\\') { " \n" } else { "\n" });
            }
            Line::Entry(_) => {}
            Line::Wrong(what) => {
                let header = line.trim_start().starts_with('[');
                lost |= header;
                problems.push(Problem {
                    section: if header {
                        file.to_owned()
                    } else {
                        place.clone()
                    },
                    key: None,
                    message: format!("line {} {what}", index + 1),
                    hint: Some(
                        if header {
                            "[pve:ALIAS] or [storage:ALIAS:NAME@NODE]"
                        } else {
                            "KEY=VALUE"
                        }
                        .to_owned(),
                    ),
                });
            }
        }
    }
    split(&clean, file, problems)
}

fn classify(line: &str) -> Line<'_> {
    let line = without_comment(line.trim()).trim();
    if line.is_empty() {
        return Line::Empty;
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Line::Wrong("holds a control character");
    }
    if let Some(rest) = line.strip_prefix('[') {
        let Some((name, after)) = rest.split_once(']') else {
            return Line::Wrong("has a section without its ']'");
        };
        let after = after.trim_start();
        if !after.is_empty() && !after.starts_with([';', '#']) {
            return Line::Wrong("has text after the section's ']'");
        }
        if name.contains(['[', '\\']) {
            return Line::Wrong("has a character in a section's name that cannot be there");
        }
        return Line::Header(name.trim());
    }
    match line.find(['=', ':']) {
        None => Line::Wrong("is neither a section, nor a key with a value, nor a comment"),
        Some(0) => Line::Wrong("has a value without a key"),
        Some(end) if line[..end].contains('\\') => Line::Wrong("has a backslash in its key"),
        Some(_) => Line::Entry(line),
    }
}

/// Returns the line up to its comment: `;` or `#` at the beginning or after white space, never inside a word.
fn without_comment(line: &str) -> &str {
    let mut after_space = true;
    for (place, c) in line.char_indices() {
        if after_space && (c == ';' || c == '#') {
            return &line[..place];
        }
        after_space = c.is_whitespace();
    }
    line
}

fn split(clean: &str, file: &str, problems: &mut Vec<Problem>) -> Vec<Section> {
    let option = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        enabled_indented_mutiline_value: false,
        enabled_preserve_key_leading_whitespace: false,
    };
    let ini = match Ini::load_from_str_opt(clean, option) {
        Ok(ini) => ini,
        Err(error) => {
            // Its line numbers are those of the cleaned text, so they are of no use to anybody.
            problems.push(Problem {
                section: file.to_owned(),
                key: None,
                message: format!("cannot be read: {}", error.msg),
                hint: None,
            });
            return Vec::new();
        }
    };
    ini.iter()
        .map(|(name, properties)| Section {
            name: name.map(str::to_owned),
            entries: properties
                .iter()
                .map(|(key, value)| (key.trim().to_lowercase(), value.to_owned()))
                .collect(),
        })
        .filter(|section| section.name.is_some() || !section.entries.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(&str, &[(&str, &str)])], wrong: &[&str]) {
        let mut problems = Vec::new();
        let found = sections(text, "rc", &mut problems);
        let found: Vec<_> = found
            .iter()
            .map(|section| {
                let entries: Vec<_> = section
                    .entries
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                (section.name.as_deref().unwrap_or("-"), entries)
            })
            .collect();
        let expect: Vec<_> = expect
            .iter()
            .map(|(name, entries)| (*name, entries.to_vec()))
            .collect();
        assert_eq!(found, expect, "{text}");
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, wrong, "{text}");
    }

    #[test]
    fn comments_end_a_line_only_after_white_space() {
        check("[a] ; x\nk=v ; w\n", &[("a", &[("k", "v")])], &[]);
        check("[a]; x\nk = v\t# w\n", &[("a", &[("k", "v")])], &[]);
        check("[a]\nk=p;q#r\n", &[("a", &[("k", "p;q#r")])], &[]);
        check(
            "; c\n  # c = d\n[a]\n   ; k=v\n  k=v\n",
            &[("a", &[("k", "v")])],
            &[],
        );
        check("[a]\nk= ; nothing\n", &[("a", &[("k", "")])], &[]);
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        check("[a]\nk=\"q\" 'r'\n", &[("a", &[("k", "\"q\" 'r'")])], &[]);
        check(
            r"[a]
k=back\slash\
l=two\\
m=\=x\
",
            &[(
                "a",
                &[("k", r"back\slash\"), ("l", r"two\\"), ("m", r"\=x\")],
            )],
            &[],
        );
        check(
            "[a]\nk=a=b:c\nl: d\n",
            &[("a", &[("k", "a=b:c"), ("l", "d")])],
            &[],
        );
    }

    #[test]
    fn indentation_case_of_keys_and_line_ends_do_not_matter() {
        check(
            "\u{feff}[a]\r\n  K = v\r\n\r\n    [b:c]\r\n\tl=w",
            &[("a", &[("k", "v")]), ("b:c", &[("l", "w")])],
            &[],
        );
    }

    #[test]
    fn duplicates_are_kept_for_the_second_pass() {
        check(
            "[a]\nk=1\nk=2\n[b]\n[a]\nk=3\n",
            &[
                ("a", &[("k", "1"), ("k", "2")]),
                ("b", &[]),
                ("a", &[("k", "3")]),
            ],
            &[],
        );
    }

    #[test]
    fn every_bad_line_is_reported_and_none_is_repeated() {
        check(
            "k=0\n[a]\nSECRET\n=SECRET\nk=v\n[b\nk=lost\n[c] d\n[e]\nl\\m=SECRET\n",
            &[("-", &[("k", "0")]), ("a", &[("k", "v")]), ("e", &[])],
            &[
                "[a]: line 3 is neither a section, nor a key with a value, nor a comment (hint: KEY=VALUE)",
                "[a]: line 4 has a value without a key (hint: KEY=VALUE)",
                "rc: line 6 has a section without its ']' (hint: [pve:ALIAS] or [storage:ALIAS:NAME@NODE])",
                "rc: line 8 has text after the section's ']' (hint: [pve:ALIAS] or [storage:ALIAS:NAME@NODE])",
                "[e]: line 10 has a backslash in its key (hint: KEY=VALUE)",
            ],
        );
    }
}
