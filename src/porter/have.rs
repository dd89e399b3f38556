//! Telling the sender what the target has of each chunk, in order: from the manifest, or from the disk itself.
//!
//! Runs ahead of the writing: of a chunk it tells before it can be overwritten, since the sender waits for it; and not
//! too far ahead, since answers to questions take the same way. Writes nothing to the volume. Read next: `receive.rs`,
//! `answer.rs`.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::chunk::{CHUNK, Fingerprint, length_of};
use super::content::{Ahead, Content, Piece, Tolerance};
use super::error::PorterError;
use super::manifest::Manifest;
use super::receive::Output;
use super::wire::{Frame, HAVE_AHEAD, LIST};

/// Equal neighbours from here on are told as a run.
const SHORTEST_RUN: u64 = 4;

/// How much of what was told the sender has made use of.
#[derive(Default)]
pub(crate) struct Heard {
    count: Mutex<u64>,
    more: Condvar,
}

impl Heard {
    /// Notes what the sender says, which counts from the beginning; `u64::MAX` when nobody needs to wait any more.
    pub(crate) fn note(&self, count: u64) {
        if let Ok(mut heard) = self.count.lock() {
            *heard = count.max(*heard);
        }
        self.more.notify_all();
    }

    /// Waits until so much more than was heard may have been told.
    fn wait(&self, told: u64) -> Result<(), PorterError> {
        let heard = self.count.lock().map_err(|_| PorterError::Gone)?;
        self.more
            .wait_while(heard, |heard| told > heard.saturating_add(HAVE_AHEAD))
            .map(drop)
            .map_err(|_| PorterError::Gone)
    }
}

/// What of the target's disk was not what the manifest claims.
pub(crate) struct Repaired {
    bytes: AtomicU64,
    first: AtomicU64,
}

impl Default for Repaired {
    fn default() -> Repaired {
        Repaired {
            bytes: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
        }
    }
}

impl Repaired {
    fn note(&self, index: u64, length: usize) {
        let offset = index * CHUNK as u64;
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        self.first.fetch_min(offset, Ordering::Relaxed);
    }

    /// Returns how many bytes, and the first offset; `None` when the disk kept everything.
    pub(crate) fn seen(&self) -> Option<(u64, u64)> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (bytes > 0).then(|| (bytes, self.first.load(Ordering::Relaxed)))
    }
}

/// Tells what the manifest claims.
pub(crate) fn tell_claims(
    manifest: &Manifest,
    chunks: u64,
    output: &Output,
    heard: &Heard,
) -> Result<(), PorterError> {
    let mut teller = Runs::new(output, heard);
    manifest.scan(chunks.min(manifest.chunks()?), |_, claims| {
        claims.iter().try_for_each(|claim| teller.add(*claim, 1))
    })?;
    teller.end()
}

/// Tells what is on the disk, and corrects the manifest where it claims something else.
pub(crate) fn tell_disk(
    content: Arc<dyn Content>,
    path: &Path,
    manifest: &Manifest,
    output: &Output,
    repaired: &Repaired,
    heard: &Heard,
) -> Result<(), PorterError> {
    let size = content.size();
    let mut teller = Runs::new(output, heard);
    let ahead = Ahead::start(content, path.to_owned(), Tolerance::Fail);
    let settle = |first: u64, found: &[Fingerprint]| -> Result<(), PorterError> {
        let claims = manifest.read(first, found.len())?;
        for (index, (claim, found)) in (first..).zip(claims.iter().zip(found)) {
            if claim != found {
                if *claim != Fingerprint::ABSENT {
                    repaired.note(index, length_of(index, size));
                }
                manifest.write(index, 1, *found)?;
            }
        }
        Ok(())
    };
    while let Some(piece) = ahead.next() {
        match piece? {
            Piece::Zero { first, count } => {
                let zeros = [Fingerprint::ZERO; 1024];
                let mut next = first;
                while next < first + count {
                    let now = (first + count - next).min(1024);
                    settle(next, &zeros[..now as usize])?;
                    next += now;
                }
                teller.add(Fingerprint::ZERO, count)?;
            }
            Piece::Data {
                first,
                block,
                length,
            } => {
                let found: Vec<Fingerprint> = block
                    .bytes(length)
                    .chunks(CHUNK)
                    .map(Fingerprint::of)
                    .collect();
                ahead.give_back(block);
                settle(first, &found)?;
                found
                    .into_iter()
                    .try_for_each(|found| teller.add(found, 1))?;
            }
            Piece::Unknown { count, .. } => teller.add(Fingerprint::ABSENT, count)?,
        }
    }
    teller.end()
}

/// Gathers fingerprints into frames.
struct Runs<'a> {
    output: &'a Output,
    heard: &'a Heard,
    told: u64,
    list: Vec<Fingerprint>,
    last: Option<(Fingerprint, u64)>,
}

impl<'a> Runs<'a> {
    fn new(output: &'a Output, heard: &'a Heard) -> Runs<'a> {
        Runs {
            output,
            heard,
            told: 0,
            list: Vec::new(),
            last: None,
        }
    }

    fn add(&mut self, fingerprint: Fingerprint, count: u64) -> Result<(), PorterError> {
        match &mut self.last {
            Some((last, seen)) if *last == fingerprint => {
                *seen += count;
                Ok(())
            }
            _ => {
                self.settle()?;
                self.last = Some((fingerprint, count));
                Ok(())
            }
        }
    }

    fn settle(&mut self) -> Result<(), PorterError> {
        let Some((fingerprint, count)) = self.last.take() else {
            return Ok(());
        };
        if count < SHORTEST_RUN {
            for _ in 0..count {
                self.list.push(fingerprint);
            }
        }
        // A block's worth at a time, so that the sender never waits for fingerprints that exist already.
        if self.list.len() >= LIST / 16 || (count >= SHORTEST_RUN && !self.list.is_empty()) {
            self.tell_list()?;
        }
        if count >= SHORTEST_RUN {
            self.tell(1, &Frame::HaveRun { count, fingerprint })?;
        }
        Ok(())
    }

    fn tell_list(&mut self) -> Result<(), PorterError> {
        let list = std::mem::take(&mut self.list);
        self.tell(list.len() as u64, &Frame::Have(list))
    }

    fn tell(&mut self, entries: u64, frame: &Frame) -> Result<(), PorterError> {
        self.told += entries;
        self.heard.wait(self.told)?;
        self.output.frame(frame)
    }

    fn end(mut self) -> Result<(), PorterError> {
        self.settle()?;
        if !self.list.is_empty() {
            self.tell_list()?;
        }
        self.output.frame(&Frame::HaveEnd)
    }
}
