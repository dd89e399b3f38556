//! The sending side of a pass: reads the source once, in order, and sends the chunks that differ.
//!
//! ```text
//!  source --> reading ahead --> compare, compress --> pace --> output
//!                                     ^
//!                  input --> what the receiver has of each chunk
//! ```
//! Every arrow is a bounded queue between threads, so disk, hashing and network overlap and memory does not depend on
//! the volume's size. The fingerprint is taken from the very buffer that is sent: a chunk that changes while it is read
//! is sent as it was read, and differs again at the next pass. Never writes to the source. Read next: `receive.rs`.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::chunk::{CHUNK, Digest, Fingerprint, chunks_of, hex};
use super::content::{Ahead, Content, Piece, RawContent, Tolerance};
use super::error::{PorterError, Report};
use super::pace::{Bucket, Chooser, Mode};
use super::qcow2::Image;
use super::receive::SILENCE;
use super::seal::SourceState;
use super::tell::{Counts, Line, Meter, Teller};
use super::wire::{self, Frame, Layout, Purpose};

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
const HEARTBEAT: Duration = Duration::from_secs(5);
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
        if self.meter.scanned.load(Ordering::Relaxed) != self.size {
            // Only a reader that died ends early without saying why.
            return Err(PorterError::Unsupported(format!(
                "reading {} ended early",
                order.path.display()
            )));
        }
        let state = if last_pass {
            let after = SourceState::of(&order.path)?;
            if after != *before {
                return Err(changed(&order.path));
            }
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
            let (have, run) = self.peer.have(end - next)?;
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
            let (have, _) = self.peer.have(1)?;
            let fingerprint = Fingerprint::of(chunk);
            self.digest.absorb(fingerprint, 1);
            if fingerprint != have {
                if fingerprint == Fingerprint::ZERO {
                    self.send(wire::encode(&Frame::Zero {
                        first: index,
                        count: 1,
                    }))?;
                } else {
                    self.chunk(index, &fingerprint, chunk)?;
                }
            }
            self.scanned(index + 1);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        index: u64,
        fingerprint: &Fingerprint,
        bytes: &[u8],
    ) -> Result<(), PorterError> {
        let packed = match (self.chooser.mode(), &mut self.compressor) {
            (Mode::Packed, Some(compressor)) => compressor
                .compress(bytes)
                .ok()
                .filter(|packed| packed.len() < bytes.len()),
            (Mode::Packed | Mode::Plain, _) => None,
        };
        let frame = match packed {
            Some(packed) => wire::packed_chunk(index, fingerprint, &packed),
            None => wire::chunk(index, fingerprint, bytes),
        };
        let length = frame.len();
        let full = self.send(frame)?;
        self.chooser.note(bytes.len(), length, full, Instant::now());
        self.meter
            .carried
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Passes over chunks that could not be read this time.
    fn unknown(&mut self, first: u64, count: u64) -> Result<(), PorterError> {
        let mut left = count;
        while left > 0 {
            left -= self.peer.have(left)?.1;
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
struct Outgoing {
    queue: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Outgoing {
    fn start(
        mut output: impl Write + Send + 'static,
        limit: Option<u64>,
        meter: Arc<Meter>,
    ) -> Outgoing {
        let (queue, frames) = sync_channel::<Vec<u8>>(QUEUE);
        let thread = std::thread::spawn(move || {
            let mut bucket = limit.map(|rate| Bucket::new(rate, Instant::now()));
            loop {
                let frame = match frames.recv_timeout(HEARTBEAT) {
                    Ok(frame) => frame,
                    Err(RecvTimeoutError::Timeout) => wire::encode(&Frame::Alive),
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
            }
        });
        Outgoing {
            queue: Some(queue),
            thread: Some(thread),
        }
    }

    /// Queues bytes and says whether it had to wait for room; `None` when nobody takes them any more.
    fn push(&mut self, bytes: Vec<u8>) -> Option<bool> {
        let queue = self.queue.as_ref()?;
        match queue.try_send(bytes) {
            Ok(()) => Some(false),
            Err(TrySendError::Full(bytes)) => queue.send(bytes).ok().map(|()| true),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }

    /// Writes what is queued, and ends.
    fn close(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing more to write.
            let _ = thread.join();
        }
    }
}

/// The way in: what the receiver has, its answer, its complaints.
struct Peer {
    incoming: Receiver<Result<Frame, PorterError>>,
    runs: VecDeque<(Fingerprint, u64)>,
    ended: bool,
}

enum Waited {
    Answer(Result<([u8; 32], u64), PorterError>),
    Nothing,
}

impl Peer {
    fn listen(mut input: impl Read + Send + 'static, meter: Arc<Meter>) -> Peer {
        let (queue, incoming) = sync_channel(16);
        std::thread::spawn(move || {
            let mut input = Counted {
                input: &mut input,
                meter,
            };
            if let Err(error) = wire::read_preface(&mut input) {
                let error = match error {
                    PorterError::Gone => PorterError::NoAnswer,
                    other => other,
                };
                // Nobody left to tell means that the pass has ended already.
                let _ = queue.send(Err(error));
                return;
            }
            loop {
                let frame = match wire::read_frame(&mut input) {
                    Ok(Some(frame)) => Ok(frame),
                    Ok(None) => Err(PorterError::Gone),
                    Err(error) => Err(error),
                };
                let stop = frame.is_err();
                if queue.send(frame).is_err() || stop {
                    break;
                }
            }
        });
        Peer {
            incoming,
            runs: VecDeque::new(),
            ended: false,
        }
    }

    /// Returns what the receiver has of the next chunks: one fingerprint, and how many of at most `most` it is of.
    fn have(&mut self, most: u64) -> Result<(Fingerprint, u64), PorterError> {
        loop {
            if let Some((fingerprint, count)) = self.runs.front_mut() {
                let taken = most.min(*count);
                let found = *fingerprint;
                *count -= taken;
                if *count == 0 {
                    self.runs.pop_front();
                }
                return Ok((found, taken));
            }
            if self.ended {
                return Ok((Fingerprint::ABSENT, most));
            }
            match self.incoming.recv_timeout(SILENCE) {
                Ok(Ok(Frame::Have(list))) => {
                    self.runs.extend(list.into_iter().map(|found| (found, 1)));
                }
                Ok(Ok(Frame::HaveRun { count, fingerprint })) if count > 0 => {
                    self.runs.push_back((fingerprint, count));
                }
                Ok(Ok(Frame::HaveEnd)) => self.ended = true,
                Ok(Ok(Frame::Alive)) => {}
                Ok(Ok(Frame::Fail(report))) => return Err(peer_error(&report)),
                Ok(Ok(_)) => return Err(unexpected()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(PorterError::Gone),
            }
        }
    }

    /// Waits for the receiver's verdict.
    fn wait(&mut self, patience: Duration) -> Waited {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(Ok(Frame::Done { digest, repaired })) => {
                    return Waited::Answer(Ok((digest, repaired)));
                }
                Ok(Ok(Frame::Fail(report))) => return Waited::Answer(Err(peer_error(&report))),
                Ok(Ok(Frame::Have(_) | Frame::HaveRun { .. } | Frame::HaveEnd | Frame::Alive)) => {}
                Ok(Ok(_)) => return Waited::Answer(Err(unexpected())),
                Ok(Err(error)) => return Waited::Answer(Err(error)),
                Err(RecvTimeoutError::Timeout) => return Waited::Nothing,
                Err(RecvTimeoutError::Disconnected) => {
                    return Waited::Answer(Err(PorterError::Gone));
                }
            }
        }
    }

    /// Returns the receiver's complaint when it left one, else that it is gone.
    fn last_words(&mut self) -> PorterError {
        while let Ok(word) = self.incoming.recv_timeout(Duration::from_secs(5)) {
            match word {
                Ok(Frame::Fail(report)) => return peer_error(&report),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        PorterError::Gone
    }
}

fn unexpected() -> PorterError {
    PorterError::Protocol(String::from("a frame at the wrong time"))
}

/// Reads an error that came as JSON.
pub(crate) fn peer_error(json: &[u8]) -> PorterError {
    match serde_json::from_slice::<Report>(json) {
        Ok(report) => PorterError::Peer(report),
        Err(_) => PorterError::Protocol(String::from("an error that cannot be read")),
    }
}

/// Counts what comes in.
struct Counted<R> {
    input: R,
    meter: Arc<Meter>,
}

impl<R: Read> Read for Counted<&mut R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.meter.wire.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
