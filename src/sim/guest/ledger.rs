//! What a guest has written, and whether a disk holds it.
//!
//! A ledger never reads the guest's own images by itself: it is given the ones to judge, such as those of the target of
//! a move. Read next: `record.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::GuestError;
use super::image::{Access, Image};
use super::record::{Block, RECORD, Record};

/// How many findings a verdict describes; all are counted.
const EXAMPLES: usize = 10;

/// The records of a guest that was stopped or killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The guest's seed.
    pub seed: u64,
    /// The number of the last write that was begun.
    pub last_sequence: u64,
    /// For each disk, for each offset, the last write that was completed.
    pub completed: Vec<BTreeMap<u64, u64>>,
    /// Writes that were under way when the guest was killed, or not flushed: each may be on its disk or not, in full
    /// or in part. In the order they were begun; empty after a stop.
    pub in_flight: Vec<Write>,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The index of the disk.
    pub disk: usize,
    /// Where, in bytes.
    pub offset: u64,
    /// Its number.
    pub sequence: u64,
}

/// The judgement on a guest's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Offsets at which a completed record must be.
    pub expected: u64,
    /// Of these, the ones where it is, whole.
    pub found: u64,
    /// Of these, the ones that hold no record.
    pub missing: u64,
    /// Of these, the ones that hold a part of a record.
    pub torn: u64,
    /// Of these, the ones that hold an older record of theirs.
    pub stale: u64,
    /// Of these, the ones that hold a record that belongs elsewhere, is another guest's, or was written later than
    /// the ledger knows.
    pub foreign: u64,
    /// The first few of what is wrong, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Says whether every expected record is there, whole, and the newest.
    pub fn is_complete(&self) -> bool {
        self.found == self.expected
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} records found, {} missing, {} torn, {} stale, {} foreign",
            self.found, self.expected, self.missing, self.torn, self.stale, self.foreign
        )?;
        for example in &self.examples {
            write!(f, "; {example}")?;
        }
        Ok(())
    }
}

impl Ledger {
    /// Returns the ledger of a guest with so many disks that has not written yet.
    pub fn new(seed: u64, disks: usize) -> Ledger {
        Ledger {
            seed,
            last_sequence: 0,
            completed: vec![BTreeMap::new(); disks],
            in_flight: Vec::new(),
        }
    }

    /// Returns the number of offsets that hold a completed record.
    pub fn records(&self) -> u64 {
        self.completed.iter().map(|disk| disk.len() as u64).sum()
    }

    /// Writes the ledger as JSON. A ledger that was there is replaced as a whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), GuestError> {
        let error = |source| GuestError::Ledger {
            verb: "write",
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_vec(self).map_err(|source| error(source.into()))?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(error)
    }

    /// Reads a ledger that was saved.
    pub fn load(path: &Path) -> Result<Ledger, GuestError> {
        std::fs::read(path)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(|source| GuestError::Ledger {
                verb: "read",
                path: path.to_owned(),
                source,
            })
    }

    /// Judges images, in the order of the guest's disks: is every completed record there, whole, and the newest?
    ///
    /// A write in flight may take the place of a completed record; even a part of it may, as with a guest that lost
    /// power. Fails when the number of images is another than that of the disks, or one cannot be read.
    pub fn check(&self, images: &[Image]) -> Result<Verdict, GuestError> {
        if images.len() != self.completed.len() {
            return Err(GuestError::Disks {
                expected: self.completed.len(),
                given: images.len(),
            });
        }
        let mut verdict = Verdict::default();
        let mut block = vec![0; RECORD];
        for (index, (image, completed)) in images.iter().zip(&self.completed).enumerate() {
            let disk = image.open(Access::Read)?;
            for (&offset, &sequence) in completed {
                disk.read(&mut block, offset)?;
                let finding = self.judge(
                    Write {
                        disk: index,
                        offset,
                        sequence,
                    },
                    &block,
                );
                verdict.expected += 1;
                let (count, problem) = match finding {
                    Finding::Found => (&mut verdict.found, None),
                    Finding::Missing => (&mut verdict.missing, Some("missing".to_owned())),
                    Finding::Torn => (&mut verdict.torn, Some("torn".to_owned())),
                    Finding::Stale(held) => (&mut verdict.stale, Some(format!("still {held}"))),
                    Finding::Foreign(record) => {
                        (&mut verdict.foreign, Some(format!("taken by {record:?}")))
                    }
                };
                *count += 1;
                if let Some(problem) = problem.filter(|_| verdict.examples.len() < EXAMPLES) {
                    verdict.examples.push(format!(
                        "{} at {offset}: record {sequence} is {problem}",
                        image.drive
                    ));
                }
            }
        }
        Ok(verdict)
    }

    fn judge(&self, expected: Write, block: &[u8]) -> Finding {
        let mut over_it = self
            .in_flight
            .iter()
            .filter(|write| (write.disk, write.offset) == (expected.disk, expected.offset));
        match Record::decode(block) {
            Block::Whole(record) => {
                let at_home = record.seed == self.seed
                    && record.disk == expected.disk as u64
                    && record.offset == expected.offset;
                if !at_home {
                    Finding::Foreign(record)
                } else if record.sequence == expected.sequence
                    || over_it.any(|write| write.sequence == record.sequence)
                {
                    Finding::Found
                } else if record.sequence < expected.sequence {
                    Finding::Stale(record.sequence)
                } else {
                    Finding::Foreign(record)
                }
            }
            Block::Torn if over_it.next().is_some() => Finding::Found,
            Block::Torn => Finding::Torn,
            Block::Other => Finding::Missing,
        }
    }
}

enum Finding {
    Found,
    Missing,
    Torn,
    Stale(u64),
    Foreign(Record),
}
