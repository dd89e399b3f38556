//! The sending side of a pass: reads the source once, in order, and sends the chunks that differ.
//!
//! ```text
//!  source --> reading ahead --> compare, ask, compress --> pace --> output
//!                                     ^
//!                  input --> what the receiver has of each chunk, and of the pages of some
//! ```
//! Every arrow is a bounded queue between threads, so disk, hashing and network overlap and memory does not depend on
//! the volume's size. Of a chunk that differs only those pages are sent that do: the receiver is asked for them, and
//! reading goes on until it answers. The fingerprint is taken from the very buffer that is sent: a chunk that changes
//! while it is read is sent as it was read, and differs again at the next pass. Never writes to the source. Read next:
//! `peer.rs`, `question.rs`, `receive.rs`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::chunk::{CHUNK, Digest, Fingerprint, chunks_of, hex};
use super::content::{Ahead, Content, Piece, RawContent, Tolerance};
use super::error::PorterError;
use super::pace::{Bucket, Chooser, Mode};
use super::pages::Pages;
use super::peer::{Peer, Waited};
use super::qcow2::Image;
use super::question::{Questions, Way};
use super::seal::SourceState;
use super::tell::{Counts, Line, Meter, Teller};
use super::wire::{self, Frame, Layout, Patch, Purpose};

/// What to send, and how.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The source volume.
    pub(crate) path: PathBuf,
    /// What of it is carried.
    pub(crate) layout: Layout,
    /// Whether the source is an image whose guest-visible content is carried.
    pub(crate) image: bool,
    /// What the pass is for.
    pub(crate) purpose: Purpose,
    /// Bytes per second on the wire.
    pub(crate) limit: Option<u64>,
    /// The snapshot since which the source, a zvol, must not have been written to; for the seal.
    pub(crate) snapshot: Option<u64>,
}

/// What a pass did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Totals.
    pub(crate) counts: Counts,
    /// The digest, in hexadecimal.
    pub(crate) digest: String,
    /// Bytes on the target's disk that were not what the manifest said.
    pub(crate) repaired: u64,
}

/// Frames waiting to be written: some milliseconds of a fast link, a fraction of a second of a slow one.
const QUEUE: usize = 48;
/// How often something is written at least, so that the receiver knows that we live.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longer than the coarsest clock a kernel stamps files with: a write after this pause has another time than before.
const TICK: Duration = Duration::from_millis(25);

/// Runs one pass over the streams to and from a receiver.
pub(crate) fn send(
    order: &Order,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    teller: &Teller,
) -> Result<Outcome, PorterError> {
    let last_pass = order.purpose != Purpose::Precopy;
    let before = SourceState::of(&order.path)?;
    if last_pass {
        std::thread::sleep(TICK);
    }
    let content = open(order)?;
    let size = content.size();
    let meter = Arc::new(Meter::default());
    meter.total.store(size, Ordering::Relaxed);

    let peer = Peer::listen(input, Arc::clone(&meter));
    let mut line = Outgoing::start(output, order.limit, Arc::clone(&meter));
    // A line that is dead already shows at the first chunk.
    let _ = line.push(wire::PREFACE.to_vec());
    let _ = line.push(wire::encode(&Frame::Hello {
        layout: order.layout,
        purpose: order.purpose,
        size,
    }));

    let tolerance = if last_pass {
        Tolerance::Fail
    } else {
        Tolerance::Skip
    };
    let ahead = Ahead::start(content, order.path.clone(), tolerance);
    let mut pass = Pass {
        size,
        peer,
        line,
        meter: Arc::clone(&meter),
        digest: Digest::default(),
        chooser: Chooser::new(Instant::now()),
        compressor: zstd::bulk::Compressor::new(1).ok(),
        questions: Questions::default(),
    };
    let result = pass.run(order, &ahead, &before, teller);
    match result {
        Ok((digest, repaired)) => Ok(Outcome {
            counts: meter.counts(),
            digest: hex(&digest),
            repaired,
        }),
        Err(error) => {
            pass.break_off(&error);
            Err(error)
        }
    }
}

fn open(order: &Order) -> Result<Arc<dyn Content>, PorterError> {
    if order.image {
        return Ok(Arc::new(Image::open(&order.path)?));
    }
    let mut content = RawContent::open(&order.path, None)?;
    if order.layout == Layout::Guest {
        // A guest sees whole sectors, and the image will hold whole sectors.
        content.pad_to(512);
    }
    Ok(Arc::new(content))
}

struct Pass {
    size: u64,
    peer: Peer,
    line: Outgoing,
    meter: Arc<Meter>,
    digest: Digest,
    chooser: Chooser,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    questions: Questions,
}

impl Pass {
    fn run(
        &mut self,
        order: &Order,
        ahead: &Ahead,
        before: &SourceState,
        teller: &Teller,
    ) -> Result<([u8; 32], u64), PorterError> {
        let last_pass = order.purpose != Purpose::Precopy;
        while let Some(piece) = ahead.next() {
            match piece? {
                Piece::Zero { first, count } => self.zeros(first, count)?,
                Piece::Data {
                    first,
                    block,
                    length,
                } => {
                    self.data(first, block.bytes(length))?;
                    ahead.give_back(block);
                }
                Piece::Unknown { first, count } => self.unknown(first, count)?,
            }
            teller.tell_sometimes(|| Line::Progress(self.meter.counts()));
        }
        while !self.questions.is_empty() {
            self.answer(true)?;
            teller.tell_sometimes(|| Line::Progress(self.meter.counts()));
        }
        if self.meter.scanned.load(Ordering::Relaxed) != self.size {
            // Only a reader that died ends early without saying why.
            return Err(PorterError::Unsupported(format!(
                "reading {} ended early",
                order.path.display()
            )));
        }
        let state = if last_pass {
            let mut after = SourceState::of(&order.path)?;
            if after != *before {
                return Err(changed(&order.path));
            }
            after.snapshot = order.snapshot;
            after.to_json()
        } else {
            Vec::new()
        };
        let digest = std::mem::take(&mut self.digest).finish(self.size);
        self.send(wire::encode(&Frame::End {
            size: self.size,
            digest,
            state,
        }))?;
        let done = loop {
            match self.peer.wait(HEARTBEAT) {
                Waited::Answer(answer) => break answer?,
                Waited::Nothing => self.send(wire::encode(&Frame::Alive)).map(drop)?,
            }
            teller.tell_sometimes(|| Line::Progress(self.meter.counts()));
        };
        if last_pass && done.0 != digest {
            return Err(PorterError::Digest);
        }
        Ok((digest, done.1))
    }

    /// Handles a run of zero chunks: those the receiver does not have as zero are told to be.
    fn zeros(&mut self, first: u64, count: u64) -> Result<(), PorterError> {
        let mut next = first;
        let end = first + count;
        while next < end {
            let (have, run) = self.have(end - next)?;
            if have != Fingerprint::ZERO {
                self.send(wire::encode(&Frame::Zero {
                    first: next,
                    count: run,
                }))?;
            }
            next += run;
        }
        self.digest.absorb(Fingerprint::ZERO, count);
        self.scanned(end);
        Ok(())
    }

    fn data(&mut self, first: u64, bytes: &[u8]) -> Result<(), PorterError> {
        for (index, chunk) in (first..).zip(bytes.chunks(CHUNK)) {
            let (have, _) = self.have(1)?;
            let fingerprint = Fingerprint::of(chunk);
            self.digest.absorb(fingerprint, 1);
            if fingerprint != have {
                if fingerprint == Fingerprint::ZERO {
                    self.send(wire::encode(&Frame::Zero {
                        first: index,
                        count: 1,
                    }))?;
                } else {
                    self.differs(index, have, fingerprint, chunk)?;
                }
            }
            self.answer(false)?;
            self.scanned(index + 1);
        }
        Ok(())
    }

    /// Sends a chunk that is not what the receiver has, or asks what the receiver has of it.
    fn differs(
        &mut self,
        index: u64,
        have: Fingerprint,
        fingerprint: Fingerprint,
        chunk: &[u8],
    ) -> Result<(), PorterError> {
        match self.questions.way(have, chunk) {
            Way::Whole | Way::Pages(_) => self.chunk(index, &fingerprint, chunk),
            Way::OverZeros(pages) => self.patch(index, fingerprint, true, pages, chunk),
            Way::Ask => {
                while self.questions.is_full() {
                    self.answer(true)?;
                }
                self.questions.keep(index, fingerprint, chunk);
                self.peer.asked();
                self.send(wire::encode(&Frame::Ask { index })).map(drop)
            }
        }
    }

    /// Makes use of the answers that are here; waits for one when told to.
    fn answer(&mut self, wait: bool) -> Result<(), PorterError> {
        if self.questions.is_empty() {
            return Ok(());
        }
        let mut wait = wait;
        while let Some((index, prints)) = self.peer.answer(wait, &self.line.left)? {
            wait = false;
            let (fingerprint, chunk, way) = self.questions.settle(index, &prints)?;
            match way {
                Way::OverZeros(pages) => self.patch(index, fingerprint, true, pages, &chunk)?,
                Way::Pages(pages) => self.patch(index, fingerprint, false, pages, &chunk)?,
                Way::Whole | Way::Ask => self.chunk(index, &fingerprint, &chunk)?,
            }
        }
        Ok(())
    }

    /// Returns what the receiver has of the next chunks, and lets it tell more.
    fn have(&mut self, most: u64) -> Result<(Fingerprint, u64), PorterError> {
        let have = self.peer.have(most)?;
        if let Some(count) = self.peer.heard() {
            self.send(wire::encode(&Frame::Heard { count }))?;
        }
        Ok(have)
    }

    fn chunk(
        &mut self,
        index: u64,
        fingerprint: &Fingerprint,
        bytes: &[u8],
    ) -> Result<(), PorterError> {
        let frame = match self.pack(bytes) {
            Some(packed) => wire::packed_chunk(index, fingerprint, &packed),
            None => wire::chunk(index, fingerprint, bytes),
        };
        self.content(frame, bytes.len())
    }

    fn patch(
        &mut self,
        index: u64,
        fingerprint: Fingerprint,
        over_zeros: bool,
        pages: Pages,
        chunk: &[u8],
    ) -> Result<(), PorterError> {
        let bytes = pages.cut(chunk);
        let length = bytes.len();
        let packed = self.pack(&bytes);
        let is_packed = packed.is_some();
        let patch = Patch {
            index,
            fingerprint,
            over_zeros,
            pages,
            bytes: packed.unwrap_or(bytes),
        };
        self.content(wire::patch(&patch, is_packed), length)
    }

    /// Compresses bytes when that pays at present.
    fn pack(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match (self.chooser.mode(), &mut self.compressor) {
            (Mode::Packed, Some(compressor)) => compressor
                .compress(bytes)
                .ok()
                .filter(|packed| packed.len() < bytes.len()),
            (Mode::Packed | Mode::Plain, _) => None,
        }
    }

    /// Sends a frame that holds so many bytes of content.
    fn content(&mut self, frame: Vec<u8>, content: usize) -> Result<(), PorterError> {
        let length = frame.len();
        let full = self.send(frame)?;
        self.chooser.note(content, length, full, Instant::now());
        self.meter
            .carried
            .fetch_add(content as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Passes over chunks that could not be read this time.
    fn unknown(&mut self, first: u64, count: u64) -> Result<(), PorterError> {
        let mut left = count;
        while left > 0 {
            left -= self.have(left)?.1;
        }
        // The digest of such a pass means nothing, and nobody asks for it.
        self.digest.absorb(Fingerprint::ABSENT, count);
        self.scanned(first + count);
        Ok(())
    }

    fn scanned(&self, chunks: u64) {
        let bytes = if chunks >= chunks_of(self.size) {
            self.size
        } else {
            chunks * CHUNK as u64
        };
        self.meter.scanned.store(bytes, Ordering::Relaxed);
    }

    /// Queues bytes; says whether the queue was full. When the line is dead, what the receiver said last is the reason.
    fn send(&mut self, bytes: Vec<u8>) -> Result<bool, PorterError> {
        match self.line.push(bytes) {
            Some(full) => Ok(full),
            None => Err(self.peer.last_words()),
        }
    }

    /// Tells the receiver why we stop, when it can still hear.
    fn break_off(&mut self, error: &PorterError) {
        if !matches!(error, PorterError::Gone | PorterError::Peer(_)) {
            let report = serde_json::to_vec(&error.report()).unwrap_or_default();
            let _ = self.line.push(wire::encode(&Frame::Fail(report)));
        }
        self.line.close();
    }
}

fn changed(path: &Path) -> PorterError {
    PorterError::SourceChanged {
        path: path.display().to_string(),
    }
}

/// The way out: a thread that writes frames at the permitted pace.
pub(crate) struct Outgoing {
    queue: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    /// Frames that are not written yet.
    pub(crate) left: Arc<AtomicU64>,
}

impl Outgoing {
    /// Starts the thread; it writes a sign of life when there was nothing else to write for a while.
    pub(crate) fn start(
        mut output: impl Write + Send + 'static,
        limit: Option<u64>,
        meter: Arc<Meter>,
    ) -> Outgoing {
        let (queue, frames) = sync_channel::<Vec<u8>>(QUEUE);
        let left = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&left);
        let thread = std::thread::spawn(move || {
            let mut bucket = limit.map(|rate| Bucket::new(rate, Instant::now()));
            loop {
                let (frame, counts) = match frames.recv_timeout(HEARTBEAT) {
                    Ok(frame) => (frame, 1),
                    Err(RecvTimeoutError::Timeout) => (wire::encode(&Frame::Alive), 0),
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                if let Some(bucket) = &mut bucket {
                    std::thread::sleep(bucket.take(frame.len(), Instant::now()));
                }
                if output
                    .write_all(&frame)
                    .and_then(|()| output.flush())
                    .is_err()
                {
                    break;
                }
                meter.wire.fetch_add(frame.len() as u64, Ordering::Relaxed);
                counter.fetch_sub(counts, Ordering::Relaxed);
            }
        });
        Outgoing {
            queue: Some(queue),
            thread: Some(thread),
            left,
        }
    }

    /// Queues bytes and says whether it had to wait for room; `None` when nobody takes them any more.
    pub(crate) fn push(&mut self, bytes: Vec<u8>) -> Option<bool> {
        let queue = self.queue.as_ref()?;
        self.left.fetch_add(1, Ordering::Relaxed);
        match queue.try_send(bytes) {
            Ok(()) => Some(false),
            Err(TrySendError::Full(bytes)) => queue.send(bytes).ok().map(|()| true),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }

    /// Writes what is queued, and ends.
    pub(crate) fn close(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing more to write.
            let _ = thread.join();
        }
    }
}
