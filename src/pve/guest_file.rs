//! A guest's configuration file, as Proxmox VE keeps it in /etc/pve: text in, text with snapshots out.
//!
//! Pure. What is there is kept as it is, byte for byte: only sections of snapshots are added, and the line that says
//! which of them the present state comes from. Nothing is written into a file that is locked. Read next:
//! `host/node_file.rs`, which reads and writes it.
//!
//! ```text
//!  #notes, one line with a # for each
//!  key: value                   the present configuration, with parent: NAME
//!
//!  [PENDING], [special:...]     what is not ours
//!
//!  [NAME]                       a snapshot: its own notes and configuration, and snaptime, parent
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The section of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The snapshot's name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Everything else in it, with `snaptime` and `parent`.
    pub keys: BTreeMap<String, String>,
}

/// Why nothing can be added. Display is a lowercase fragment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Something of Proxmox VE works on the guest.
    #[error("the guest is locked ({0})")]
    Locked(String),
    /// There are other snapshots, which are not ours to change.
    #[error("the guest has a snapshot {0} already, which is another one")]
    Taken(String),
    /// A value would be more than its line.
    #[error("{key} of snapshot {section} cannot be written: it has a line break or no text")]
    Value {
        /// The section.
        section: String,
        /// The key.
        key: String,
    },
    /// A name that Proxmox VE would not take for that of a snapshot.
    #[error("'{0}' is no name of a snapshot")]
    Name(String),
}

/// Returns the name in a line that begins a section.
fn heading(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix('[')?.strip_suffix(']')
}

fn value_of<'a>(lines: impl IntoIterator<Item = &'a str>, key: &str) -> Option<&'a str> {
    lines.into_iter().find_map(|line| {
        let (at, value) = line.split_once(':')?;
        (at == key).then(|| value.trim())
    })
}

/// Returns the file with these snapshots; the present state comes from `parent`.
///
/// Sections that are there already and say the same stay; so a repeat changes nothing.
pub fn with_sections(
    text: &str,
    sections: &[Section],
    parent: Option<&str>,
) -> Result<String, Unfit> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| heading(line).is_some());
    let (main, rest) = lines.split_at(first.unwrap_or(lines.len()));
    if let Some(lock) = value_of(main.iter().copied(), "lock") {
        return Err(Unfit::Locked(lock.to_owned()));
    }
    let mut out = String::with_capacity(text.len());
    let is_parent = |line: &&&str| line.split_once(':').is_some_and(|(key, _)| key == "parent");
    let mut main: Vec<&str> = main
        .iter()
        .filter(|line| !is_parent(line))
        .copied()
        .collect();
    while main.last().is_some_and(|line| line.trim().is_empty()) {
        main.pop();
    }
    for line in main {
        let _ = writeln!(out, "{line}");
    }
    if let Some(parent) = parent {
        let _ = writeln!(out, "parent: {parent}");
    }
    let mut rest: Vec<&str> = rest.to_vec();
    while rest.last().is_some_and(|line| line.trim().is_empty()) {
        rest.pop();
    }
    if !rest.is_empty() {
        out.push('\n');
    }
    for line in &rest {
        let _ = writeln!(out, "{line}");
    }
    for section in sections {
        let begins = |line: &&str| heading(line) == Some(section.name.as_str());
        let there = rest.iter().position(begins);
        let Some(there) = there else {
            out.push('\n');
            out.push_str(&rendered(section)?);
            continue;
        };
        let body = rest[there + 1..].iter().copied();
        let body: Vec<&str> = body.take_while(|line| heading(line).is_none()).collect();
        let says = |key| value_of(body.iter().copied(), key);
        let wants = |key: &str| section.keys.get(key).map(String::as_str);
        if says("snaptime") != wants("snaptime") || says("parent") != wants("parent") {
            return Err(Unfit::Taken(section.name.clone()));
        }
    }
    Ok(out)
}

/// Returns a section as Proxmox VE writes it.
fn rendered(section: &Section) -> Result<String, Unfit> {
    let reserved = |name: &str| matches!(name.to_ascii_lowercase().as_str(), "current" | "pending");
    let starts = section.name.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !starts
        || section.name.len() < 2
        || !section.name.chars().all(rest)
        || reserved(&section.name)
    {
        return Err(Unfit::Name(section.name.clone()));
    }
    let mut out = format!("[{}]\n", section.name);
    for line in section.description.lines() {
        let _ = writeln!(out, "#{}", encoded(line));
    }
    for (key, value) in &section.keys {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if value.trim().is_empty() || value.contains(['\n', '\r']) || !key.chars().all(plain) {
            return Err(Unfit::Value {
                section: section.name.clone(),
                key: key.clone(),
            });
        }
        let _ = writeln!(out, "{key}: {value}");
    }
    Ok(out)
}

/// Returns a line of notes as Proxmox VE writes it: control characters, colons, percent signs and what is not ASCII are
/// encoded.
fn encoded(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for byte in line.bytes() {
        match byte {
            b' '..=b'~' if byte != b':' && byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "#proxmove%3A notes\nboot: order=scsi0\nname: web1--CREATING\nscsi0: tank:vm-126-disk-0,size=1G\n";

    fn section(name: &str, keys: &[(&str, &str)]) -> Section {
        Section {
            name: name.to_owned(),
            description: "before: 100%\nthe upgräde".to_owned(),
            keys: keys
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn snapshots_are_added_and_nothing_else_is_touched() {
        let sections = [
            section("s1", &[("snaptime", "7"), ("name", "web1")]),
            section("s2", &[("snaptime", "9"), ("parent", "s1")]),
        ];
        let after = with_sections(FILE, &sections, Some("s2")).expect("fits");
        assert_eq!(
            after,
            format!(
                "{FILE}parent: s2\n\n[s1]\n#before%3A 100%25\n#the upgr%C3%A4de\nname: web1\nsnaptime: 7\n\n[s2]\n\
                 #before%3A 100%25\n#the upgr%C3%A4de\nparent: s1\nsnaptime: 9\n"
            )
        );
        // A repeat changes nothing.
        assert_eq!(with_sections(&after, &sections, Some("s2")), Ok(after));
    }

    #[test]
    fn other_sections_stay_and_the_parent_belongs_to_the_present() {
        let text = format!(
            "{FILE}parent: old\n\n[special:cloudinit]\nname: x\n\n[PENDING]\ncores: 2\n\n\n"
        );
        let after = with_sections(&text, &[section("s1", &[("snaptime", "7")])], Some("s1"));
        let after = after.expect("fits");
        assert!(
            after.starts_with(&format!(
                "{FILE}parent: s1\n\n[special:cloudinit]\nname: x\n\n[PENDING]\ncores: 2\n\n[s1]\n"
            )),
            "{after}"
        );
    }

    #[test]
    fn what_must_not_be_written_is_not() {
        let one = [section("s1", &[("snaptime", "7")])];
        let locked = format!("lock: backup\n{FILE}");
        assert_eq!(
            with_sections(&locked, &one, None),
            Err(Unfit::Locked("backup".to_owned()))
        );
        // A lock inside a snapshot's section is no lock.
        let inside = format!("{FILE}\n[s0]\nlock: backup\nsnaptime: 1\n");
        assert!(with_sections(&inside, &one, None).is_ok());
        let other = format!("{FILE}\n[s1]\nsnaptime: 8\n");
        assert_eq!(
            with_sections(&other, &one, None),
            Err(Unfit::Taken("s1".to_owned()))
        );
        for (name, key, value) in [
            ("s1", "args", "a\nlock: x"),
            ("s1", "args", ""),
            ("s1", "a]\n[b", "x"),
            ("pending", "args", "x"),
            ("s1]\n[s2", "args", "x"),
            ("1s", "args", "x"),
        ] {
            assert!(
                with_sections(FILE, &[section(name, &[(key, value)])], None).is_err(),
                "{name} {key} {value}"
            );
        }
    }
}
