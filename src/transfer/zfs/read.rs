//! Pure: what zfs(8) prints, to values.
//!
//! Nothing is guessed from a name that zfs can tell: identity is the guid, order is createtxg. What cannot be read is
//! left out, never a panic. Read next: `decide.rs`.

use super::name::MARK;

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// What follows the `@`.
    pub(crate) name: String,
    pub(crate) guid: u64,
    /// createtxg: larger is later, on the same pool.
    pub(crate) created: u64,
    /// The mark set on the snapshot itself; an inherited one is its volume's, and does not count.
    pub(crate) mark: Option<String>,
    /// Whether somebody holds it.
    pub(crate) held: bool,
}

/// A bookmark: the place of a snapshot that may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bookmark {
    /// What follows the `#`.
    pub(crate) name: String,
    /// The guid of the snapshot it was made of.
    pub(crate) guid: u64,
    pub(crate) created: u64,
}

/// What zfs says of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) dataset: String,
    /// `volume` or `filesystem`.
    pub(crate) kind: String,
    pub(crate) guid: u64,
    /// Bytes written since the newest snapshot, as of the pool's last transaction group.
    pub(crate) written: u64,
    /// Bytes written since the snapshot that was asked about.
    pub(crate) since: Option<u64>,
    /// Bytes of content.
    pub(crate) content: u64,
    /// Bytes reserved for it.
    pub(crate) reserved: u64,
    /// Continues a receive that was interrupted.
    pub(crate) token: Option<String>,
    /// The mark set on the dataset itself.
    pub(crate) mark: Option<String>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Oldest first.
    pub(crate) bookmarks: Vec<Bookmark>,
}

/// Reads what [`super::syntax::look`] printed: one volume for each dataset that exists, in the order asked for.
pub(crate) fn read_volumes(printed: &str, datasets: &[&str]) -> Vec<Option<Volume>> {
    datasets
        .iter()
        .map(|dataset| read_volume(printed, dataset))
        .collect()
}

fn read_volume(printed: &str, dataset: &str) -> Option<Volume> {
    let mut volume = Volume {
        dataset: dataset.to_owned(),
        ..Volume::default()
    };
    let mut exists = false;
    for line in printed.lines() {
        let mut columns = line.split('\t');
        let (Some(name), Some(property), Some(value)) =
            (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        let source = columns.next().unwrap_or("-");
        let Some(rest) = name.strip_prefix(dataset) else {
            continue;
        };
        if rest.is_empty() {
            exists = true;
            volume.take(property, value, source);
        } else if let Some(name) = rest.strip_prefix('@') {
            snapshot_of(&mut volume, name).take(property, value, source);
        } else if let Some(name) = rest.strip_prefix('#') {
            bookmark_of(&mut volume, name).take(property, value);
        }
    }
    volume.snapshots.sort_by_key(|snapshot| snapshot.created);
    volume.bookmarks.sort_by_key(|bookmark| bookmark.created);
    exists.then_some(volume)
}

fn snapshot_of<'a>(volume: &'a mut Volume, name: &str) -> &'a mut Snapshot {
    let known = volume.snapshots.iter().position(|known| known.name == name);
    let place = known.unwrap_or_else(|| {
        volume.snapshots.push(Snapshot {
            name: name.to_owned(),
            guid: 0,
            created: 0,
            mark: None,
            held: false,
        });
        volume.snapshots.len() - 1
    });
    &mut volume.snapshots[place]
}

fn bookmark_of<'a>(volume: &'a mut Volume, name: &str) -> &'a mut Bookmark {
    let known = volume.bookmarks.iter().position(|known| known.name == name);
    let place = known.unwrap_or_else(|| {
        volume.bookmarks.push(Bookmark {
            name: name.to_owned(),
            guid: 0,
            created: 0,
        });
        volume.bookmarks.len() - 1
    });
    &mut volume.bookmarks[place]
}

fn count(value: &str) -> u64 {
    value.parse().unwrap_or(0)
}

/// Returns a value that was set on the very thing, not on something above it.
fn own(value: &str, source: &str) -> Option<String> {
    (source == "local" && value != "-").then(|| value.to_owned())
}

impl Volume {
    fn take(&mut self, property: &str, value: &str, source: &str) {
        match property {
            "type" => self.kind = value.to_owned(),
            "guid" => self.guid = count(value),
            "written" => self.written = count(value),
            "logicalreferenced" => self.content = count(value),
            "refreservation" => self.reserved = count(value),
            "receive_resume_token" => self.token = Some(value.to_owned()).filter(|it| it != "-"),
            MARK => self.mark = own(value, source),
            // Without such a snapshot there is no number.
            _ if property.starts_with("written@") => self.since = value.parse().ok(),
            _ => {}
        }
    }

    /// Returns the snapshot with this guid.
    pub(crate) fn snapshot(&self, guid: u64) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.guid == guid)
    }

    /// Returns the newest snapshot.
    pub(crate) fn newest(&self) -> Option<&Snapshot> {
        self.snapshots.last()
    }
}

impl Snapshot {
    fn take(&mut self, property: &str, value: &str, source: &str) {
        match property {
            "guid" => self.guid = count(value),
            "createtxg" => self.created = count(value),
            "userrefs" => self.held = count(value) > 0,
            MARK => self.mark = own(value, source),
            _ => {}
        }
    }
}

impl Bookmark {
    fn take(&mut self, property: &str, value: &str) {
        match property {
            "guid" => self.guid = count(value),
            "createtxg" => self.created = count(value),
            _ => {}
        }
    }
}

/// Reads what [`super::syntax::estimate`] printed.
pub(crate) fn read_size(printed: &str) -> Option<u64> {
    printed.lines().rev().find_map(|line| {
        let (word, size) = line.split_once('\t')?;
        (word == "size").then(|| size.trim().parse().ok()).flatten()
    })
}

/// Reads how far a stream is from a line that [`super::syntax::send_aloud`] told: time, bytes, snapshot.
pub(crate) fn read_told(line: &str) -> Option<u64> {
    let mut columns = line.split('\t');
    let time = columns.next()?;
    let is_time = time.len() == 8 && time.bytes().filter(|byte| *byte == b':').count() == 2;
    let bytes = columns.next()?.parse().ok()?;
    is_time.then_some(bytes)
}

/// Reads the tags of [`super::syntax::holds`].
pub(crate) fn read_holds(printed: &str) -> Vec<String> {
    let tag = |line: &str| line.split('\t').nth(1).map(str::to_owned);
    printed.lines().filter_map(tag).collect()
}

/// Says whether zfs complained about nothing but datasets that do not exist.
pub(crate) fn only_missing(errors: &str) -> bool {
    let mut lines = errors.lines().filter(|line| !line.trim().is_empty());
    let missing = |line: &str| line.contains("dataset does not exist");
    lines.clone().count() > 0 && lines.all(missing)
}

/// Says whether zfs complained that another receive still works on the same volume.
pub(crate) fn still_receiving(words: &str) -> bool {
    words.contains("dataset is busy") || words.contains("contains partially-complete state")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    const PRINTED: &str = "tank/v\ttype\tvolume\t-\ntank/v\tguid\t77\t-\ntank/v\twritten\t8192\t-\n\
        tank/v\tlogicalreferenced\t4096\t-\ntank/v\trefreservation\t0\tdefault\ntank/v\treceive_resume_token\t1-a-b\t-\n\
        tank/v\tproxmove:move\t5-6\tlocal\ntank/v@new\tguid\t2\t-\ntank/v@new\tcreatetxg\t9\t-\n\
        tank/v@new\tproxmove:move\t5-6\tinherited from tank/v\ntank/v@old\tguid\t1\t-\ntank/v@old\tcreatetxg\t8\t-\n\
        tank/v@old\tproxmove:move\t5-6\tlocal\ntank/v@old\tuserrefs\t1\t-\ntank/v#mark\tguid\t1\t-\n\
        tank/v#mark\tcreatetxg\t8\t-\ntank/v2\tguid\t99\t-\n";

    #[test]
    fn volumes_are_read_with_what_hangs_on_them() {
        let volumes = read_volumes(PRINTED, &["tank/v", "tank/none"]);
        assert_eq!(volumes.len(), 2);
        assert_eq!(volumes[1], None);
        let volume = volumes[0].clone().expect("a volume");
        expect![[r#"
            Volume {
                dataset: "tank/v",
                kind: "volume",
                guid: 77,
                written: 8192,
                since: None,
                content: 4096,
                reserved: 0,
                token: Some(
                    "1-a-b",
                ),
                mark: Some(
                    "5-6",
                ),
                snapshots: [
                    Snapshot {
                        name: "old",
                        guid: 1,
                        created: 8,
                        mark: Some(
                            "5-6",
                        ),
                        held: true,
                    },
                    Snapshot {
                        name: "new",
                        guid: 2,
                        created: 9,
                        mark: None,
                        held: false,
                    },
                ],
                bookmarks: [
                    Bookmark {
                        name: "mark",
                        guid: 1,
                        created: 8,
                    },
                ],
            }
        "#]]
        .assert_debug_eq(&volume);
    }

    #[test]
    fn sizes_and_words() {
        let printed = "resume token contents:\nnvlist version: 0\n\tobject = 0x1\nfull\ttank/v@a\t215\nsize\t215\n";
        assert_eq!(read_size(printed), Some(215));
        assert_eq!(read_size("size\tmuch\n"), None);
        assert_eq!(read_told("16:20:01\t4096\ttank/v@a"), Some(4096));
        assert_eq!(read_told("size\t4096"), None);
        assert_eq!(
            read_holds("t/v@a\tproxmove\tThu Nov 26 19:10 2026\nt/v@a\tkeep\tThu\n"),
            ["proxmove", "keep"]
        );
        let missing = "cannot open 'tank/v': dataset does not exist\n";
        assert!(only_missing(missing));
        assert!(!only_missing(&format!(
            "{missing}cannot open 'x': I/O error\n"
        )));
        assert!(!only_missing(""));
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_read(text in "(tank/v[@#]?[a-z]{0,3}\t(guid|type|createtxg|x)\t[0-9-]{0,30}\t?(local)?\n|.{0,20}\n){0,20}") {
            read_volumes(&text, &["tank/v", ""]);
            read_size(&text);
            read_told(&text);
            read_holds(&text);
            only_missing(&text);
        }

        #[test]
        fn fuzz_what_zfs_prints(text in crate::mutations::text(&[PRINTED, "size\t1234567\n", "received 5 bytes"])) {
            read_volumes(&text, &["tank/v", "tank/v2", ""]);
            read_size(&text);
            read_told(&text);
            read_holds(&text);
            let _ = (only_missing(&text), still_receiving(&text));
        }

        #[test]
        fn anything_at_all_is_read(text in any::<String>()) {
            read_volumes(&text, &["tank/v", "", "ü"]);
            read_size(&text);
            read_told(&text);
            read_holds(&text);
        }
    }
}
