//! Pure: the command lines of zfs(8) that are used here.
//!
//! `receive -F` is not among them, on purpose. Never runs anything. Read next: `read.rs` (what they print), `look.rs`.

use super::name::{HOLD, MARK};
use crate::host::command::Command;
use crate::transfer::StreamFlags;

/// What a stream starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// A snapshot of the same volume.
    Snapshot(String),
    /// A bookmark of it.
    Bookmark(String),
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Everything a snapshot has.
    Full { to: String },
    /// What differs between two of them.
    Increment { base: Base, to: String },
    /// The rest of an interrupted one.
    Resume { token: String },
}

/// zfs in English, and found where administrators' programs are although the login may not look there.
fn env() -> Command {
    Command::new("env")
        .arg("LC_ALL=C")
        .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn zfs(verb: &str) -> Command {
    env().arg("zfs").arg(verb)
}

/// Has a pool write out what it only remembers, which no count includes before that, and then runs zfs. Who may not do
/// the first sees what was written some seconds later.
const CLOSELY: &str = r#"zpool sync -- "$1" 2>/dev/null >&2; shift; exec zfs "$@""#;

/// Asks all about some datasets and what hangs on them.
pub(crate) fn look(datasets: &[&str]) -> Command {
    zfs("get").args(look_arguments(None)).args(datasets)
}

/// Asks all about one dataset after its pool wrote everything out, and how much was written to it since a snapshot.
pub(crate) fn look_closely(dataset: &str, since: Option<&str>) -> Command {
    let pool = dataset.split('/').next().unwrap_or(dataset);
    env()
        .args(["sh", "-c", CLOSELY, "proxmove", pool, "get"])
        .args(look_arguments(since))
        .arg(dataset)
}

/// Has the pool of a dataset write out what it only remembers; anybody may ask for that.
pub(crate) fn write_out(dataset: &str) -> Command {
    let pool = dataset.split('/').next().unwrap_or(dataset);
    env().args(["zpool", "sync", "--", pool])
}

fn look_arguments(since: Option<&str>) -> Vec<String> {
    const PROPERTIES: [&str; 9] = [
        "type",
        "guid",
        "createtxg",
        "written",
        "logicalreferenced",
        "refreservation",
        "userrefs",
        "receive_resume_token",
        MARK,
    ];
    let mut properties = PROPERTIES.map(String::from).to_vec();
    properties.extend(since.map(|snapshot| format!("written@{snapshot}")));
    let mut arguments = [
        "-Hp",
        "-d",
        "1",
        "-t",
        "filesystem,volume,snapshot,bookmark",
        "-o",
        "name,property,value,source",
    ]
    .map(String::from)
    .to_vec();
    arguments.push(properties.join(","));
    arguments
}

/// Takes one snapshot of all datasets at the same moment, marked as of the move.
pub(crate) fn snapshot(datasets: &[&str], name: &str, of: &str) -> Command {
    zfs("snapshot")
        .args(["-o", &format!("{MARK}={of}")])
        .args(datasets.iter().map(|dataset| format!("{dataset}@{name}")))
}

/// Holds snapshots.
pub(crate) fn hold(datasets: &[&str], name: &str) -> Command {
    zfs("hold")
        .arg(HOLD)
        .args(datasets.iter().map(|dataset| format!("{dataset}@{name}")))
}

/// Lets a snapshot go.
pub(crate) fn release(dataset: &str, snapshot: &str) -> Command {
    zfs("release")
        .arg(HOLD)
        .arg(format!("{dataset}@{snapshot}"))
}

/// Asks who holds a snapshot.
pub(crate) fn holds(dataset: &str, snapshot: &str) -> Command {
    zfs("holds").arg("-H").arg(format!("{dataset}@{snapshot}"))
}

/// Destroys a snapshot, and nothing that depends on it.
pub(crate) fn destroy_snapshot(dataset: &str, snapshot: &str) -> Command {
    zfs("destroy").arg(format!("{dataset}@{snapshot}"))
}

/// Destroys a bookmark.
pub(crate) fn destroy_bookmark(dataset: &str, bookmark: &str) -> Command {
    zfs("destroy").arg(format!("{dataset}#{bookmark}"))
}

/// Destroys a volume that has no snapshots any more; with some it fails.
pub(crate) fn destroy_volume(dataset: &str) -> Command {
    zfs("destroy").arg(dataset)
}

/// Remembers the place of a snapshot under the same name.
pub(crate) fn bookmark(dataset: &str, snapshot: &str) -> Command {
    zfs("bookmark")
        .arg(format!("{dataset}@{snapshot}"))
        .arg(format!("{dataset}#{snapshot}"))
}

/// Marks a dataset or snapshot as of the move.
pub(crate) fn mark(what: &str, of: &str) -> Command {
    zfs("set").arg(format!("{MARK}={of}")).arg(what)
}

/// Takes the mark off.
pub(crate) fn unmark(what: &str) -> Command {
    zfs("inherit").arg(MARK).arg(what)
}

/// Reserves the space for a whole volume, or none.
pub(crate) fn reserve(dataset: &str, sparse: bool) -> Command {
    zfs("set")
        .arg(if sparse {
            "refreservation=none"
        } else {
            "refreservation=auto"
        })
        .arg(dataset)
}

/// Takes a volume back to its newest snapshot; with newer ones it fails.
pub(crate) fn rollback(dataset: &str, snapshot: &str) -> Command {
    zfs("rollback").arg(format!("{dataset}@{snapshot}"))
}

/// Throws away what an interrupted receive left.
pub(crate) fn abandon(dataset: &str) -> Command {
    zfs("receive").arg("-A").arg(dataset)
}

/// Makes a stream.
pub(crate) fn send(dataset: &str, stream: &Stream, flags: StreamFlags) -> Command {
    stream_arguments(zfs("send"), dataset, stream, flags)
}

/// Makes a stream, and tells each second on standard error how far it is.
pub(crate) fn send_aloud(dataset: &str, stream: &Stream, flags: StreamFlags) -> Command {
    stream_arguments(zfs("send").arg("-vP"), dataset, stream, flags)
}

/// Asks how large a stream would be, and whether it can be made at all.
pub(crate) fn estimate(dataset: &str, stream: &Stream, flags: StreamFlags) -> Command {
    stream_arguments(zfs("send").arg("-nvP"), dataset, stream, flags)
}

fn stream_arguments(
    command: Command,
    dataset: &str,
    stream: &Stream,
    flags: StreamFlags,
) -> Command {
    let base = match stream {
        // A token knows its flags.
        Stream::Resume { token } => return command.arg("-t").arg(token),
        Stream::Full { .. } => None,
        Stream::Increment { base, .. } => Some(match base {
            Base::Snapshot(name) => format!("@{name}"),
            Base::Bookmark(name) => format!("#{name}"),
        }),
    };
    let to = match stream {
        Stream::Full { to } | Stream::Increment { to, .. } => to.as_str(),
        Stream::Resume { .. } => "",
    };
    let chosen = [
        (flags.compressed, "-c"),
        (flags.large_blocks, "-L"),
        (flags.embedded, "-e"),
        (flags.raw, "-w"),
    ];
    let command = command.args(chosen.iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
    match base {
        Some(base) => command.arg("-i").arg(base),
        None => command,
    }
    .arg(format!("{dataset}@{to}"))
}

/// Takes a stream in, keeping what arrived when it breaks off. A new volume is marked as of the move from its first byte.
pub(crate) fn receive(dataset: &str, new_of: Option<&str>) -> Command {
    let command = zfs("receive").args(["-s", "-u"]);
    match new_of {
        Some(of) => command.args(["-o", &format!("{MARK}={of}")]),
        None => command,
    }
    .arg(dataset)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(command: &Command, expect: Expect) {
        let line = command.line();
        let zfs = line.split_once(" zfs ").map_or(line, |(_, rest)| rest);
        expect.assert_eq(zfs);
    }

    #[test]
    fn command_lines() {
        let flags = StreamFlags {
            compressed: true,
            large_blocks: true,
            embedded: true,
            raw: false,
        };
        let full = Stream::Full { to: "a".into() };
        let increment = |base| Stream::Increment {
            base,
            to: "b".into(),
        };
        let resume = Stream::Resume {
            token: "1-f".into(),
        };
        check(&send("p/v", &full, flags), expect!["send -c -L -e p/v@a"]);
        let raw = StreamFlags { raw: true, ..flags };
        let from = increment(Base::Snapshot("a".into()));
        check(
            &send("p/v", &from, raw),
            expect!["send -c -L -e -w -i @a p/v@b"],
        );
        let from = increment(Base::Bookmark("a".into()));
        check(
            &estimate("p/v", &from, StreamFlags::default()),
            expect!["send -nvP -i '#a' p/v@b"],
        );
        check(&send("p/v", &resume, flags), expect!["send -t 1-f"]);
        check(
            &receive("p/v", Some("5-6")),
            expect!["receive -s -u -o proxmove:move=5-6 p/v"],
        );
        check(
            &snapshot(&["p/v", "p/w x"], "proxmove-5-6-1", "5-6"),
            expect!["snapshot -o proxmove:move=5-6 p/v@proxmove-5-6-1 'p/w x@proxmove-5-6-1'"],
        );
        check(&abandon("p/v"), expect!["receive -A p/v"]);
    }
}
