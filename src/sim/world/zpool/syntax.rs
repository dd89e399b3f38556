//! The command lines that Proxmox VE's plugin for zfspool storages runs, and what it reads from their output.
//!
//! Pure: it runs nothing. Read next: `../zpool.rs`, which does.

use std::collections::BTreeMap;

const MEBIBYTE: u64 = 1 << 20;

/// A zvol as `zfs list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zvol {
    /// Its name below the storage's dataset.
    pub(super) name: String,
    /// What the guest sees, in bytes.
    pub(super) size: u64,
    /// What its data takes, in bytes.
    pub(super) used: u64,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns a size as it is asked for: Proxmox VE rounds up to a whole MiB, and counts in KiB.
fn rounded(bytes: u64) -> String {
    let kibibytes = bytes.div_ceil(MEBIBYTE).saturating_mul(1024);
    format!("{kibibytes}k")
}

/// Returns the arguments that create a zvol, with the storage's own `sparse` and `blocksize`.
pub(super) fn create(
    dataset: &str,
    bytes: u64,
    settings: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut arguments = words(&["create"]);
    if settings.get("sparse").is_some_and(|sparse| sparse == "1") {
        arguments.push("-s".to_owned());
    }
    if let Some(size) = settings.get("blocksize") {
        arguments.extend(words(&["-b", size]));
    }
    arguments.extend(["-V".to_owned(), rounded(bytes), dataset.to_owned()]);
    arguments
}

/// Returns the arguments that give a zvol another size.
pub(super) fn resize(dataset: &str, bytes: u64) -> Vec<String> {
    let size = format!("volsize={}", rounded(bytes));
    words(&["set", &size, dataset])
}

/// Returns the arguments that destroy a zvol with its snapshots.
pub(super) fn destroy(dataset: &str) -> Vec<String> {
    words(&["destroy", "-r", dataset])
}

/// Returns the arguments that ask for properties as numbers, one a line.
pub(super) fn get(properties: &str, dataset: &str) -> Vec<String> {
    words(&["get", "-o", "value", "-Hp", properties, dataset])
}

/// Returns the arguments that list the zvols right below a dataset.
pub(super) fn list(dataset: &str) -> Vec<String> {
    words(&[
        "list",
        "-o",
        "name,volsize,usedbydataset",
        "-t",
        "volume",
        "-d1",
        "-Hp",
        dataset,
    ])
}

/// Returns the arguments that list the snapshots of a zvol, oldest first.
pub(super) fn snapshots(dataset: &str) -> Vec<String> {
    words(&[
        "list",
        "-H",
        "-d",
        "1",
        "-t",
        "snapshot",
        "-o",
        "name",
        "-s",
        "createtxg",
        dataset,
    ])
}

/// Reads the answer to [`snapshots`].
pub(super) fn snapshot_names(output: &str) -> Vec<&str> {
    let names = output.lines().filter_map(|line| line.split_once('@'));
    names.map(|(_, name)| name).collect()
}

/// Reads the two numbers of an answer to [`get`].
pub(super) fn two_numbers(output: &str) -> Option<(u64, u64)> {
    let mut numbers = output.lines().map(|line| line.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Reads the answer to [`list`]; what is not right below the dataset is left out.
pub(super) fn zvols(output: &str, dataset: &str) -> Vec<Zvol> {
    let zvol = |line: &str| {
        let mut fields = line.split('\t');
        let (parent, name) = fields.next()?.rsplit_once('/')?;
        Some(Zvol {
            name: name.to_owned(),
            size: fields.next()?.parse().ok()?,
            used: fields.next()?.parse().ok()?,
        })
        .filter(|_| parent == dataset)
    };
    output.lines().filter_map(zvol).collect()
}

/// Returns what Proxmox VE reports of a command that failed: the last line it said.
pub(super) fn complaint(errors: &str) -> String {
    let said = errors.lines().rev().find(|line| !line.trim().is_empty());
    format!("zfs error: {}", said.unwrap_or("unknown"))
}

/// Tells whether a complaint is about a dataset that is not there.
pub(super) fn is_missing(complaint: &str) -> bool {
    complaint.contains("dataset does not exist")
}

/// Tells whether a complaint is one that passes: somebody, such as udev, has the device open.
pub(super) fn is_busy(complaint: &str) -> bool {
    complaint.contains(": dataset is busy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zvol_is_created_as_the_storage_says() {
        let line = |settings: &[(&str, &str)], bytes| {
            let settings = settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            create("tank/vm/vm-100-disk-0", bytes, &settings).join(" ")
        };
        assert_eq!(
            line(&[("pool", "tank/vm")], 128 << 20),
            "create -V 131072k tank/vm/vm-100-disk-0"
        );
        assert_eq!(
            line(&[("sparse", "1"), ("blocksize", "8k")], 540_672),
            "create -s -b 8k -V 1024k tank/vm/vm-100-disk-0"
        );
        assert_eq!(
            line(&[("sparse", "0")], (1 << 20) + 1),
            "create -V 2048k tank/vm/vm-100-disk-0"
        );
    }

    #[test]
    fn answers_are_read() {
        let listed = "tank/vm/vm-100-disk-0\t134217728\t98304\ntank/vm/other/vm-1-disk-0\t1\t1\n";
        assert_eq!(
            zvols(listed, "tank/vm"),
            [Zvol {
                name: "vm-100-disk-0".to_owned(),
                size: 134_217_728,
                used: 98_304
            }]
        );
        assert_eq!(
            two_numbers("7800950784\n98304\n"),
            Some((7_800_950_784, 98_304))
        );
        assert_eq!(two_numbers("7800950784\n-\n"), None);
        assert_eq!(two_numbers(""), None);
    }

    #[test]
    fn complaints_are_those_of_proxmox_ve() {
        let missing = complaint("cannot open 'tank/none': dataset does not exist\n");
        assert_eq!(
            missing,
            "zfs error: cannot open 'tank/none': dataset does not exist"
        );
        assert!(is_missing(&missing));
        let warned =
            "Warning: volblocksize (8192) is less than ...\ncannot create 'a/b': out of space\n";
        assert_eq!(
            complaint(warned),
            "zfs error: cannot create 'a/b': out of space"
        );
        assert!(is_busy(&complaint(
            "cannot destroy 'a/b': dataset is busy\n"
        )));
        // Of a held snapshot; there is nothing to wait for.
        assert!(!is_busy(&complaint(
            "cannot destroy snapshot a/b@s: it's being held. Run 'zfs holds -r a/b@s' to see holders.\n"
        )));
    }
}
