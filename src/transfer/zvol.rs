//! Pure: the command lines about a zvol that the image engine reads from or writes to, and what comes back.
//!
//! Nothing here runs a command or decides what to do. Names become part of a command only through
//! [`crate::host::command`]. Read next: `device.rs`, where they run, and why.

use crate::host::command::Command;
use crate::units::Bytes;

use super::Zvol;
use super::upload::shell;

/// The user property that says which pair a zvol or a snapshot of ours belongs to.
pub(crate) const MARK: &str = "proxmove:move";
/// The user property of a target's snapshot that says what was proved of it: the digest of the final pass.
pub(crate) const DIGEST: &str = "proxmove:digest";

/// Sizes are rounded up to it: a multiple of every block size that a zvol may have, and what Proxmox VE rounds to
/// (pve-storage, ZFSPoolPlugin.pm, zfs_create_zvol).
const ROUND: u64 = 1 << 20;

/// Waits for a device's node: as long as udev is busy, and fifteen seconds beyond that.
const AWAIT: &str = r#"left=150
until test -b "$1"; do
test -e /run/udev/queue || left=$((left - 1))
test "$left" -gt 0 || { echo "no device appears at $1" >&2; exit 1; }
sleep 0.1
done"#;

/// Returns the name of the snapshot by which a pair's zvol is sealed.
pub(crate) fn seal_name(dataset: &str, pair: &str) -> String {
    format!("{dataset}@proxmove-{pair}-seal")
}

/// Returns the size a zvol needs to hold so many bytes.
pub(crate) fn rounded(size: Bytes) -> Bytes {
    Bytes(size.0.max(1).next_multiple_of(ROUND))
}

/// Asks what a dataset is.
pub(crate) fn look(dataset: &str) -> Command {
    get(
        &[
            "type",
            "guid",
            "volsize",
            "refreservation",
            "referenced",
            MARK,
        ],
        dataset,
    )
}

/// Asks what a snapshot is.
pub(crate) fn look_at_seal(snapshot: &str) -> Command {
    get(&["guid", DIGEST, MARK], snapshot)
}

/// Asks how much was written to a zvol since its seal, after what is on its way was written out: the page cache of the
/// device, then the pool's open transaction, of which ZFS counts nothing before that.
pub(crate) fn written_since(dataset: &str, device: &str, snapshot: &str) -> Command {
    settle(dataset, device).and(&get(&[&written(snapshot)], dataset))
}

/// Makes a zvol of this size for a pair.
pub(crate) fn create(zvol: &Zvol, size: Bytes, pair: &str) -> Command {
    let mut command = zfs("create").args(["-V", &rounded(size).0.to_string()]);
    if zvol.sparse {
        command = command.arg("-s");
    }
    if let Some(block_size) = zvol.block_size {
        command = command.args(["-o", &format!("volblocksize={}", block_size.0)]);
    }
    command
        .args(["-o", &format!("{MARK}={pair}")])
        .arg(&zvol.dataset)
}

/// Marks a zvol as a pair's.
pub(crate) fn mark(dataset: &str, pair: &str) -> Command {
    zfs("set").arg(format!("{MARK}={pair}")).arg(dataset)
}

/// Takes the mark off.
pub(crate) fn unmark(dataset: &str) -> Command {
    zfs("inherit").arg(MARK).arg(dataset)
}

/// Makes a zvol larger.
pub(crate) fn grow(dataset: &str, size: Bytes) -> Command {
    zfs("set")
        .arg(format!("volsize={}", rounded(size).0))
        .arg(dataset)
}

/// Reserves all the space a zvol may need, or none.
pub(crate) fn reserve(dataset: &str, all: bool) -> Command {
    zfs("set")
        .arg(if all {
            "refreservation=auto"
        } else {
            "refreservation=none"
        })
        .arg(dataset)
}

/// Takes a pair's snapshot, after what is on its way to the device was written out.
pub(crate) fn seal(
    dataset: &str,
    device: &str,
    snapshot: &str,
    pair: &str,
    digest: Option<&str>,
) -> Command {
    let mut take = zfs("snapshot").args(["-o", &format!("{MARK}={pair}")]);
    if let Some(digest) = digest {
        take = take.args(["-o", &format!("{DIGEST}={digest}")]);
    }
    settle(dataset, device).and(&take.arg(snapshot))
}

/// Removes one dataset or snapshot, and nothing that belongs to it.
pub(crate) fn destroy(name: &str) -> Command {
    zfs("destroy").arg(name)
}

/// Waits until a device's node is there.
pub(crate) fn await_device(device: &str) -> Command {
    shell(AWAIT, &[device])
}

fn settle(dataset: &str, device: &str) -> Command {
    let pool = dataset.split('/').next().unwrap_or(dataset);
    Command::new("sync")
        .args(["--", device])
        .and(&Command::new("zpool").args(["sync", pool]))
}

fn written(snapshot: &str) -> String {
    let short = snapshot
        .split_once('@')
        .map_or(snapshot, |(_, short)| short);
    format!("written@{short}")
}

fn get(properties: &[&str], name: &str) -> Command {
    zfs("get")
        .args(["-Hp", "-o", "property,value,source"])
        .arg(properties.join(","))
        .arg(name)
}

/// Starts a command whose words are the same in every locale.
fn zfs(verb: &str) -> Command {
    Command::new("env").args(["LC_ALL=C", "zfs", verb])
}

/// Says whether ZFS said that there is no such dataset or snapshot.
pub(crate) fn is_missing(stderr: &str) -> bool {
    stderr.contains("does not exist") || stderr.contains("could not find any snapshots to destroy")
}

/// Says whether ZFS said that somebody was faster.
pub(crate) fn is_taken(stderr: &str) -> bool {
    stderr.contains("already exists")
}

/// Says whether ZFS said that there is no room.
pub(crate) fn is_full(stderr: &str) -> bool {
    stderr.contains("out of space")
}

/// Says whether ZFS said that something still has it open.
pub(crate) fn is_busy(stderr: &str) -> bool {
    stderr.contains("is busy")
}

/// A zvol that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Tells it from another one of the same name.
    pub(crate) guid: u64,
    /// Bytes.
    pub(crate) size: Bytes,
    /// Whether space is reserved for it.
    pub(crate) reserved: bool,
    /// What it takes.
    pub(crate) referenced: Bytes,
    /// The pair whose mark it bears; a mark that it inherited is none.
    pub(crate) pair: Option<String>,
}

/// A snapshot that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenSeal {
    /// Tells it from another one of the same name.
    pub(crate) guid: u64,
    /// The pair whose mark it bears.
    pub(crate) pair: Option<String>,
    /// What was proved of a target.
    pub(crate) digest: Option<String>,
}

/// Reads the answer to [`look`], `None` when the dataset is no zvol; the error is what is wrong with it.
pub(crate) fn seen(printed: &str) -> Result<Option<Seen>, String> {
    let answer = Answer(printed);
    match answer.value("type") {
        Some("volume") => {}
        Some(_) => return Ok(None),
        None => return Err(answer.strange("type")),
    }
    Ok(Some(Seen {
        guid: answer.number("guid")?,
        size: Bytes(answer.number("volsize")?),
        reserved: answer.number("refreservation")? > 0,
        referenced: Bytes(answer.number("referenced")?),
        pair: answer.own(MARK),
    }))
}

/// Reads the answer to [`look_at_seal`].
pub(crate) fn seen_seal(printed: &str) -> Result<SeenSeal, String> {
    let answer = Answer(printed);
    Ok(SeenSeal {
        guid: answer.number("guid")?,
        pair: answer.own(MARK),
        digest: answer.own(DIGEST),
    })
}

/// Reads the answer to [`written_since`].
pub(crate) fn seen_written(printed: &str, snapshot: &str) -> Result<Bytes, String> {
    Answer(printed).number(&written(snapshot)).map(Bytes)
}

/// Lines of property, value and source.
struct Answer<'a>(&'a str);

impl<'a> Answer<'a> {
    fn find(&self, property: &str) -> Option<(&'a str, &'a str)> {
        self.0.lines().find_map(|line| {
            let mut words = line.split('\t');
            (words.next() == Some(property)).then_some((words.next()?, words.next()?))
        })
    }

    fn value(&self, property: &str) -> Option<&'a str> {
        self.find(property).map(|(value, _)| value)
    }

    fn number(&self, property: &str) -> Result<u64, String> {
        match self.value(property) {
            // How a reservation of nothing may be told.
            Some("none") => Ok(0),
            value => value
                .and_then(|value| value.parse().ok())
                .ok_or_else(|| self.strange(property)),
        }
    }

    /// Returns a user property that was set on this very dataset.
    fn own(&self, property: &str) -> Option<String> {
        match self.find(property) {
            Some((value, "local")) => Some(value.to_owned()),
            Some(_) | None => None,
        }
    }

    fn strange(&self, property: &str) -> String {
        format!(
            "zfs told no {property}, but '{}'",
            self.0.trim().escape_debug()
        )
    }
}

#[cfg(test)]
mod tests;
