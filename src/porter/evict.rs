//! Ending a receiver that somebody else began and that still works on the same target.
//!
//! Whoever begins a pass holds the move's claim; a receiver that holds the target's lock longer than one that is ending
//! belongs to somebody who was taken over from. That machine may sleep with its connection open, and its pass between the
//! hosts may go on for hours. A receiver may end at any moment: what it wrote stays true. Only processes of this host with
//! the very words of a receiver for the same files are ended. Read next: `manifest.rs`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Ends receivers for the files of this manifest, other than this process; returns how many were told to.
pub(super) fn others(manifest: &Path) -> usize {
    let Some((temp, name)) = places(manifest) else {
        return 0;
    };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let own = getpid();
    let processes = entries.flatten().filter_map(|entry| {
        let process = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        (process != own && receives(&words, temp, name)).then_some(process)
    });
    processes
        .filter(|process| kill_process(*process, Signal::TERM).is_ok())
        .count()
}

/// Returns the directory and the name of a manifest's files.
fn places(manifest: &Path) -> Option<(&[u8], &[u8])> {
    let temp = manifest.parent()?.as_os_str().as_bytes();
    let name = manifest.file_name()?.as_bytes();
    let name = name
        .strip_prefix(b"proxmove-")?
        .strip_suffix(b".manifest")?;
    Some((temp, name))
}

/// Says whether these are the words of a receiver for those files: each ends with a NUL.
fn receives(words: &[u8], temp: &[u8], name: &[u8]) -> bool {
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let has = |first: &[u8], second: &[u8]| words.windows(2).any(|pair| pair == [first, second]);
    words.get(1..3) == Some(&[b"porter", b"receive"])
        && has(b"--temp", temp)
        && has(b"--name", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_receiver_of_the_same_files_is_meant() {
        let manifest = Path::new("/srv/temp/proxmove-600-100-scsi0.manifest");
        let (temp, name) = places(manifest).expect("a manifest");
        let check = |line: &str, expect| {
            let words = line.replace(' ', "\0") + "\0";
            assert_eq!(receives(words.as_bytes(), temp, name), expect, "{line}");
        };
        let whole = "/srv/temp/proxmove-porter-1f porter receive --path /x --temp /srv/temp --name 600-100-scsi0";
        check(whole, true);
        check(&whole.replace("receive", "send"), false);
        check(&whole.replace("receive", "observe"), false);
        check(&whole.replace("scsi0", "scsi1"), false);
        check(&whole.replace("scsi0", "scsi0-2"), false);
        check(
            &whole.replace("--temp /srv/temp", "--temp /srv/other"),
            false,
        );
        check(&format!("bash -c {whole}"), false);
        check("", false);
        assert_eq!(places(Path::new("/srv/temp/else")), None);
    }
}
