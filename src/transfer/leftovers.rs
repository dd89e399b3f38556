//! Leftovers of moves on a storage host: found by their marks and names, removed one by one.
//!
//! Looking changes nothing. Before something is removed, the host looks once more whether it is still ours. It never
//! removes a volume and never decides; `plan/cleanup.rs` does. Read next: `plan/cleanup.rs`.

use std::collections::BTreeMap;

use super::upload::{PATIENCE, shell};
use super::zfs::{HOLD, MARK};
use crate::host::{Exit, Output, Shell};
use crate::plan::cleanup::{Kind, Leftover, move_in};
use crate::plan::facts::HostKey;
use crate::transfer::probe::with_causes;

/// Lists what is in temp, with size, age, and whether a program runs from it; then private directories elsewhere whose
/// maker is gone. `end` shows that nothing was cut off.
const FILES: &str = r#"now=$(date +%s)
tell() { test -e "$1" || test -L "$1" || return 0
used=no; case "${1##*/}" in proxmove-porter-*) for exe in /proc/[0-9]*/exe; do
test "$(readlink "$exe" 2>/dev/null)" = "$1" && used=yes; done;; esac
kib=$(du -sk -- "$1" 2>/dev/null | cut -f 1); made=$(stat -c %Y -- "$1" 2>/dev/null) || return 0
echo "file $used ${kib:-0} $((now - made)) $1"; }
for file in "$1"/proxmove-*; do case "$file" in *.agent-*) continue;; esac; tell "$file"; done
for left in "$1"/proxmove-*.agent-* /tmp/proxmove-*.agent-* "${XDG_RUNTIME_DIR:-/tmp}"/proxmove-*.agent-*; do
maker="${left##*.agent-}"; test -e "/proc/${maker%%-*}" || tell "$left"; done
echo end"#;

/// Lists everything below a dataset with its mark.
const ZFS: &str = r#"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL
echo "now $(date +%s)"
zfs get -Hp -r -t volume,snapshot,bookmark -o name,property,value,source "type,used,creation,$2" "$1" || exit 1
echo end"#;

const REMOVE_FILE: &str =
    r#"case "${1##*/}" in proxmove-?*) rm -rf -- "$1";; *) echo "not ours" >&2; exit 1;; esac"#;

/// Destroys a snapshot that still bears the mark, after our hold is gone. That it is gone already is fine.
const REMOVE_SNAPSHOT: &str = r#"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL
found=$(zfs get -Hp -o value,source "$2" "$1" 2>&1) || case "$found" in *"does not exist"*) exit 0;;
*) printf '%s\n' "$found" >&2; exit 1;; esac
test "$found" = "$(printf '%s\tlocal' "$3")" || { echo "it does not bear the mark any more" >&2; exit 1; }
zfs release "$4" "$1" 2>/dev/null; zfs destroy "$1""#;

const REMOVE_BOOKMARK: &str = r#"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL
case "$1" in *'#proxmove-'?*) ;; *) echo "not ours" >&2; exit 1;; esac
found=$(zfs destroy "$1" 2>&1) && exit 0
case "$found" in *"does not exist"*) exit 0;; *) printf '%s\n' "$found" >&2; exit 1;; esac"#;

/// Finds all leftovers at one place of a host; the error says why that is not possible.
pub async fn find(shell_of: &dyn Shell, place: &HostKey) -> Result<Vec<Leftover>, String> {
    let listed = ask(shell_of, FILES, &[&place.temp]).await?;
    let mut found = files(&listed).ok_or("its answer was cut off")?;
    if let Some(dataset) = &place.dataset {
        let listed = ask(shell_of, ZFS, &[dataset, MARK]).await?;
        found.extend(zfs(&listed).ok_or("its answer was cut off")?);
    }
    Ok(found)
}

/// Removes a leftover; that it is gone already is fine.
pub async fn remove(shell_of: &dyn Shell, leftover: &Leftover) -> Result<(), String> {
    let (script, words) = match leftover.kind {
        Kind::File | Kind::Porter => (REMOVE_FILE, vec![leftover.name.as_str()]),
        Kind::Snapshot => (
            REMOVE_SNAPSHOT,
            vec![leftover.name.as_str(), MARK, leftover.of.as_str(), HOLD],
        ),
        Kind::Bookmark => (REMOVE_BOOKMARK, vec![leftover.name.as_str()]),
        Kind::Volume | Kind::Placeholder => {
            return Err("guests and volumes are never removed".to_owned());
        }
    };
    ask(shell_of, script, &words).await.map(drop)
}

async fn ask(shell_of: &dyn Shell, script: &str, words: &[&str]) -> Result<String, String> {
    let command = shell(script, words);
    let Output {
        exit,
        stdout,
        stderr,
        ..
    } = shell_of
        .run(&command, &[], PATIENCE)
        .await
        .map_err(|error| with_causes(&error))?;
    match exit {
        Exit::Code(0) => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        Exit::Code(_) | Exit::Signal(_) => {
            let said = String::from_utf8_lossy(&stderr).trim().replace('\n', "; ");
            Err(if said.is_empty() {
                exit.to_string()
            } else {
                said
            })
        }
    }
}

/// Reads the list of files; `None` when it was cut off.
fn files(listed: &str) -> Option<Vec<Leftover>> {
    let mut found: BTreeMap<String, Leftover> = BTreeMap::new();
    for line in listed.lines() {
        let mut words = line.splitn(5, ' ');
        let (Some("file"), Some(used), Some(kib), Some(age), Some(path)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            continue;
        };
        let Some(rest) = path
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_prefix("proxmove-"))
        else {
            continue;
        };
        let (kind, of) = if rest.starts_with("porter-") {
            (Kind::Porter, String::new())
        } else if let Some(of) = move_in(rest).filter(|_| is_file_of_ours(rest)) {
            (Kind::File, of)
        } else {
            continue;
        };
        let (Ok(kib), Ok(age)) = (kib.parse::<u64>(), age.parse::<i64>()) else {
            continue;
        };
        found.insert(
            path.to_owned(),
            Leftover {
                kind,
                name: path.to_owned(),
                of,
                bytes: kib << 10,
                age,
                used: used == "yes",
            },
        );
    }
    let ended = listed.lines().next_back() == Some("end");
    ended.then(|| found.into_values().collect())
}

/// Says whether a name has one of the endings that only our files have.
fn is_file_of_ours(rest: &str) -> bool {
    const ENDINGS: [&str; 4] = ["manifest", "seal", "stock", "agent"];
    rest.split_once('.').is_some_and(|(_, ending)| {
        ENDINGS.iter().any(|known| {
            ending
                .strip_prefix(known)
                .is_some_and(|more| more.is_empty() || more.starts_with('-'))
        })
    })
}

/// Reads what `zfs get` printed; `None` when it was cut off.
fn zfs(listed: &str) -> Option<Vec<Leftover>> {
    #[derive(Default)]
    struct Seen<'a> {
        kind: &'a str,
        used: u64,
        created: i64,
        mark: Option<&'a str>,
    }
    let mut now = 0;
    let mut seen: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    for line in listed.lines() {
        if let Some(clock) = line.strip_prefix("now ") {
            now = clock.trim().parse().unwrap_or(0);
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, property, value, source] = columns.as_slice() else {
            continue;
        };
        let entry = seen.entry(name).or_default();
        match *property {
            "type" => entry.kind = value,
            "used" => entry.used = value.parse().unwrap_or(0),
            "creation" => entry.created = value.parse().unwrap_or(0),
            // An inherited value says nothing about this very thing.
            MARK if *source == "local" => entry.mark = Some(value),
            _ => {}
        }
    }
    let leftover = |kind, name: &str, of: &str, seen: &Seen<'_>| Leftover {
        kind,
        name: name.to_owned(),
        of: of.to_owned(),
        bytes: seen.used,
        age: now - seen.created,
        used: false,
    };
    let found = seen.iter().filter_map(|(name, seen)| {
        let own = |sign: char| name.split_once(sign).map(|(_, own)| own);
        match (seen.kind, seen.mark) {
            ("snapshot", Some(mark)) => {
                let rest = own('@')?.strip_prefix("proxmove-")?.strip_prefix(mark)?;
                rest.starts_with('-')
                    .then(|| leftover(Kind::Snapshot, name, mark, seen))
            }
            ("bookmark", _) => {
                let rest = own('#')?.strip_prefix("proxmove-")?;
                let of = move_in(rest)?;
                let number = rest.strip_prefix(&of)?.strip_prefix('-')?;
                let number = number.strip_suffix("-final").unwrap_or(number);
                number
                    .bytes()
                    .all(|byte| byte.is_ascii_digit())
                    .then(|| leftover(Kind::Bookmark, name, &of, seen))
            }
            ("volume", Some(mark)) => Some(leftover(Kind::Volume, name, mark, seen)),
            _ => None,
        }
    });
    let ended = listed.lines().next_back() == Some("end");
    ended.then(|| found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn fuzz_lists_of_leftovers(text in crate::mutations::text(&[
            "file no 12 99 /srv/temp/proxmove-100-126-scsi0.manifest\nfile yes 5000 3 /tmp/proxmove-porter-0a1b2c3d4e5f6071\nend\n",
            "now 1700000000\ntank/v@proxmove-1-2-x\ttype\tsnapshot\t-\ntank/v@proxmove-1-2-x\tused\t8192\t-\n\
             tank/v@proxmove-1-2-x\tcreation\t1699999999\t-\ntank/v@proxmove-1-2-x\tproxmove:move\t1-2\tlocal\nend\n",
        ])) {
            let _ = (files(&text), zfs(&text));
        }
    }

    fn told(found: Option<Vec<Leftover>>) -> Vec<String> {
        let found = found.expect("a whole answer").into_iter();
        found
            .map(|one| format!("{:?} {} of {} {}", one.kind, one.name, one.of, one.bytes))
            .collect()
    }

    #[test]
    fn only_files_of_ours_are_found() {
        let listed = "file no 4 70 /t/proxmove-565-126-virtio0.manifest\n\
                      file no 8 70 /t/proxmove-565-126-virtio0.manifest-4711\n\
                      file yes 9000 5 /t/proxmove-porter-0123456789abcdef\n\
                      file no 4 70 /t/proxmove-565-126-notes.txt\n\
                      file no 4 70 /t/proxmove-notes\n\
                      file no 0 9 /tmp/proxmove-1-2-scsi0.agent-77-x y\nend\n";
        assert_eq!(
            told(files(listed)),
            [
                "File /t/proxmove-565-126-virtio0.manifest of 565-126 4096",
                "File /t/proxmove-565-126-virtio0.manifest-4711 of 565-126 8192",
                "Porter /t/proxmove-porter-0123456789abcdef of  9216000",
                "File /tmp/proxmove-1-2-scsi0.agent-77-x y of 1-2 0",
            ]
        );
        assert_eq!(files("file no 4 70 /t/proxmove-porter-1\n"), None);
    }

    #[test]
    fn only_what_bears_the_mark_itself_is_found() {
        let thing = |name: &str, kind: &str, mark: &str, source: &str| {
            format!(
                "{name}\ttype\t{kind}\t-\n{name}\tused\t4096\t-\n{name}\tcreation\t40\t-\n\
                 {name}\tproxmove:move\t{mark}\t{source}\n"
            )
        };
        let listed = [
            "now 100\n".to_owned(),
            thing("p/a", "volume", "-", "-"),
            thing("p/a@proxmove-1-2-3-final", "snapshot", "1-2", "local"),
            thing(
                "p/a@proxmove-1-2-4",
                "snapshot",
                "1-2",
                "inherited from p/a",
            ),
            thing("p/a@proxmove-1-22-4", "snapshot", "1-2", "local"),
            thing(
                "p/a@proxmove-1-2-scsi0-seal",
                "snapshot",
                "1-2-scsi0",
                "local",
            ),
            thing("p/a@daily", "snapshot", "1-2", "local"),
            thing("p/a#proxmove-1-2-3-final", "bookmark", "-", "-"),
            thing("p/a#proxmove-1-2-mine", "bookmark", "-", "-"),
            thing("p/a#daily", "bookmark", "-", "-"),
            thing("p/b", "volume", "1-2", "local"),
            thing("p/c", "volume", "1-2", "inherited from p"),
            "end\n".to_owned(),
        ];
        assert_eq!(
            told(zfs(&listed.concat())),
            [
                "Bookmark p/a#proxmove-1-2-3-final of 1-2 4096",
                "Snapshot p/a@proxmove-1-2-3-final of 1-2 4096",
                "Snapshot p/a@proxmove-1-2-scsi0-seal of 1-2-scsi0 4096",
                "Volume p/b of 1-2 4096",
            ]
        );
        assert_eq!(zfs("now 3\n"), None);
    }
}
