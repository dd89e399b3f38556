//! The porters' JSON lines, read: progress for the eyes, results, and which of several errors to tell.
//!
//! Pure: text in, values out. Read next: `carry.rs`.

use crate::porter::{Line, Report};
use crate::pve::drive::DriveKey;
use crate::transfer::{Progress, TransferError};
use crate::units::Bytes;

/// What a side that is not a porter says is kept up to this many lines.
const WORDS: usize = 10;
/// Longer lines than any of ours are cut.
const LONGEST: usize = 64 * 1024;

/// Which host's standard error is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The host of the source volume.
    Source,
    /// The host of the target volume.
    Target,
}

/// What the sender reported at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) progress: Progress,
    pub(crate) digest: String,
    pub(crate) repaired: Bytes,
    /// The first offset of what was repaired, as the receiver said.
    pub(crate) repaired_at: Option<u64>,
}

/// Everything that was told on one side.
#[derive(Debug)]
pub(crate) struct Told {
    side: Side,
    partial: Vec<u8>,
    last: Option<Line>,
    /// The sender's result.
    pub(crate) finished: Option<Finished>,
    /// Where the receiver first found something else on its disk than had been written there.
    pub(crate) repaired_at: Option<u64>,
    /// Errors, with the side they are about.
    pub(crate) errors: Vec<(Side, Report)>,
    /// The last lines that are not ours.
    pub(crate) words: Vec<String>,
}

impl Told {
    /// Starts listening to one side.
    pub(crate) fn new(side: Side) -> Told {
        Told {
            side,
            partial: Vec::new(),
            last: None,
            finished: None,
            repaired_at: None,
            errors: Vec::new(),
            words: Vec::new(),
        }
    }

    /// Takes in bytes as they come, calls `tell` for each progress, and says whether something moved.
    pub(crate) fn take(&mut self, bytes: &[u8], tell: &(dyn Fn(Progress) + Send + Sync)) -> bool {
        let mut moved = false;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.partial);
            moved |= self.line(&line, tell);
        }
        let room = LONGEST.saturating_sub(self.partial.len());
        self.partial
            .extend_from_slice(&rest[..rest.len().min(room)]);
        moved
    }

    /// Takes in what has no end of line.
    pub(crate) fn end(&mut self) {
        let line = std::mem::take(&mut self.partial);
        self.line(&line, &|_| {});
    }

    fn line(&mut self, line: &[u8], tell: &(dyn Fn(Progress) + Send + Sync)) -> bool {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            let text = String::from_utf8_lossy(line).trim().to_owned();
            if !text.is_empty() {
                if self.words.len() == WORDS {
                    self.words.remove(0);
                }
                self.words.push(text);
            }
            return false;
        };
        match &line {
            Line::Progress(counts) => tell(progress(counts)),
            Line::Check { .. } => {}
            Line::Repaired { offset } => self.repaired_at = Some(*offset),
            Line::Done {
                counts,
                digest,
                repaired,
            } => {
                self.finished = Some(Finished {
                    progress: progress(counts),
                    digest: digest.clone(),
                    repaired: Bytes(*repaired),
                    repaired_at: None,
                });
            }
            Line::Error(report) => {
                let other = match self.side {
                    Side::Source => Side::Target,
                    Side::Target => Side::Source,
                };
                let side = if report.peer { other } else { self.side };
                self.errors.push((side, report.clone()));
            }
        }
        let moved = self.last.as_ref() != Some(&line);
        self.last = Some(line);
        moved
    }
}

fn progress(counts: &crate::porter::Counts) -> Progress {
    Progress {
        scanned: Bytes(counts.scanned),
        total: Bytes(counts.total),
        carried: Bytes(counts.carried),
        wire: Bytes(counts.wire),
    }
}

/// Returns how much an error explains: the side that broke a connection knows why, the other one only that.
fn weight(report: &Report) -> u8 {
    match report.kind.as_str() {
        "gone" => 0,
        "no-answer" => 1,
        "protocol" => 2,
        "direct" => 3,
        _ => 4,
    }
}

/// Picks the error that explains most; of equal ones the first.
pub(crate) fn most_telling(errors: &[(Side, Report)]) -> Option<&(Side, Report)> {
    errors.iter().rev().max_by_key(|(_, report)| weight(report))
}

/// Who a pass is about, for errors.
pub(crate) struct About<'a> {
    pub(crate) operation: &'static str,
    pub(crate) drive: DriveKey,
    pub(crate) source: &'a str,
    pub(crate) target: &'a str,
    /// Whether the source host connected to the target host itself.
    pub(crate) direct: bool,
}

impl About<'_> {
    /// Turns a porter's report into an error of the engine.
    pub(crate) fn error(&self, side: Side, report: &Report) -> TransferError {
        let address = match side {
            Side::Source => self.source,
            Side::Target => self.target,
        }
        .to_owned();
        match (report.kind.as_str(), &report.path, report.offset) {
            ("foreign", Some(path), _) => TransferError::Foreign {
                address,
                path: path.clone(),
            },
            ("differs", _, Some(offset)) => TransferError::Differs {
                drive: self.drive,
                offset,
            },
            ("direct" | "no-answer", _, _) if self.direct => TransferError::DirectRoute {
                drive: self.drive,
                source_address: self.source.to_owned(),
                target_address: self.target.to_owned(),
                reason: report.text.clone(),
            },
            _ => TransferError::Porter {
                operation: self.operation,
                drive: self.drive,
                address,
                reason: report.text.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: &str) -> Report {
        Report {
            kind: kind.to_owned(),
            text: format!("{kind} happened"),
            path: None,
            offset: None,
            peer: false,
        }
    }

    #[test]
    fn lines_may_come_in_pieces_and_between_others() {
        let mut told = Told::new(Side::Source);
        let seen = std::sync::Mutex::new(Vec::new());
        let tell = |progress: Progress| seen.lock().expect("lock").push(progress.scanned.0);
        let text =
            b"motd\n{\"progress\":{\"scanned\":5,\"total\":9,\"carried\":1,\"wire\":2}}\n{\"err";
        for byte in text {
            told.take(&[*byte], &tell);
        }
        told.take(
            b"or\":{\"kind\":\"gone\",\"text\":\"x\",\"peer\":true}}\nlast words",
            &tell,
        );
        told.end();
        assert_eq!(*seen.lock().expect("lock"), [5]);
        assert_eq!(told.words, ["motd", "last words"]);
        assert_eq!(told.errors[0].0, Side::Target);
    }

    proptest::proptest! {
        #[test]
        fn fuzz_what_porters_say(bytes in crate::mutations::bytes(vec![
            b"motd\n{\"progress\":{\"scanned\":5,\"total\":9,\"carried\":1,\"wire\":2}}\n{\"check\":{\"done\":5}}\n".to_vec(),
            b"{\"done\":{\"counts\":{\"scanned\":5,\"total\":9,\"carried\":1,\"wire\":2},\"digest\":\"ab\",\"repaired\":3}}\n".to_vec(),
            b"{\"repaired\":{\"offset\":65536}}\n{\"error\":{\"kind\":\"file\",\"text\":\"x\",\"path\":\"/a\",\"offset\":7,\"peer\":true}}\n".to_vec(),
        ]), cut in 0usize..200) {
            let mut told = Told::new(Side::Source);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            told.take(first, &|_| {});
            told.take(second, &|_| {});
            told.end();
            let about = About {
                operation: "x",
                drive: "scsi0".parse().expect("a drive"),
                source: "a",
                target: "b",
                direct: true,
            };
            if let Some((side, report)) = most_telling(&told.errors) {
                let _ = about.error(*side, report).to_string();
            }
            proptest::prop_assert!(told.words.len() <= WORDS);
        }
    }

    #[test]
    fn the_same_progress_again_is_no_move() {
        let mut told = Told::new(Side::Target);
        let line = b"{\"check\":{\"done\":5}}\n";
        assert!(told.take(line, &|_| {}));
        assert!(!told.take(line, &|_| {}));
    }

    #[test]
    fn the_cause_is_told_and_not_the_echo() {
        let errors = [
            (Side::Source, report("gone")),
            (Side::Target, report("file")),
            (Side::Source, report("protocol")),
        ];
        let (side, found) = most_telling(&errors).expect("one");
        assert_eq!((*side, found.kind.as_str()), (Side::Target, "file"));
    }
}
