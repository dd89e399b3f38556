//! The sending side of a command's stream: runs it here, sends what it writes, and says when that was all.
//!
//! ```text
//!  command --> 64 KiB pieces --> hash, compress --> pace --> output
//!                    input --> complaints, and the word that all has arrived
//! ```
//! The pieces travel as chunks (`wire.rs`), numbered from zero, each with its fingerprint. The end is a frame of its own,
//! sent only after the command ended well: a stream that was cut off can never look complete. Pieces are not kept; who
//! wants to continue a broken stream starts another command. Of what was sent no more than [`AHEAD`] is on its way at any
//! time, since that is what has to be sent again when the other end is killed. Never decides what to run. Read next: `catch.rs`,
//! `program.rs`.

use std::io::{Read, Write};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::chunk::{CHUNK, Fingerprint, hex};
use super::error::PorterError;
use super::pace::{Chooser, Mode};
use super::peer::{Peer, Waited};
use super::program::{Program, Want};
use super::send::{HEARTBEAT, Outcome, Outgoing};
use super::tell::{Line, Meter, Teller};
use super::wire::{self, Frame};

/// What to send, and how.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The command line whose output is sent.
    pub(crate) run: String,
    /// About how many bytes it will write.
    pub(crate) total: u64,
    /// Bytes per second on the wire.
    pub(crate) limit: Option<u64>,
}

/// Pieces sent that the other side's command has not taken in yet: 4 MiB, as much as the buffers of two SSH connections
/// hold anyway, so that it is never these that a fast line waits for.
const AHEAD: u64 = 64;
/// Pieces read ahead of sending.
const QUEUE: usize = 32;
/// How long the command may write nothing. Looking for what changed in a large volume takes minutes at most.
const STALL: Duration = Duration::from_secs(600);
/// How long the other side may take to put what has arrived on its disk.
const SETTLE: Duration = Duration::from_secs(3600);
/// What errors call the command.
pub(crate) const NAME: &str = "zfs send";

/// Runs the command over the streams to and from a catcher.
pub(crate) fn pour(
    order: &Order,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    teller: &Teller,
) -> Result<Outcome, PorterError> {
    let meter = Arc::new(Meter::default());
    meter.total.store(order.total, Ordering::Relaxed);
    let mut pass = Pass {
        peer: Peer::listen(input, Arc::clone(&meter)),
        line: Outgoing::start(output, order.limit, Arc::clone(&meter)),
        meter: Arc::clone(&meter),
        chooser: Chooser::new(Instant::now()),
        compressor: zstd::bulk::Compressor::new(1).ok(),
        next: 0,
    };
    let mut program = Program::start(&order.run, NAME, Want::Output)?;
    let result = pass.run(&mut program, teller);
    program.kill();
    match result {
        Ok(digest) => Ok(Outcome {
            counts: meter.counts(),
            digest: hex(&digest),
            repaired: 0,
        }),
        Err(error) => {
            if !matches!(error, PorterError::Gone | PorterError::Peer(_)) {
                let report = serde_json::to_vec(&error.report()).unwrap_or_default();
                let _ = pass.line.push(wire::encode(&Frame::Fail(report)));
            }
            pass.line.close();
            // What was sent in vain is told as well.
            teller.tell(&Line::Progress(meter.counts()));
            Err(error)
        }
    }
}

struct Pass {
    peer: Peer,
    line: Outgoing,
    meter: Arc<Meter>,
    chooser: Chooser,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    next: u64,
}

impl Pass {
    fn run(&mut self, program: &mut Program, teller: &Teller) -> Result<[u8; 32], PorterError> {
        let Some(output) = program.output() else {
            return Err(program.error(String::from("has no output")));
        };
        // A line that is dead already shows at the first piece.
        let _ = self.line.push(wire::PREFACE.to_vec());
        let pieces = read(output);
        let mut digest = blake3::Hasher::new();
        let mut size = 0;
        let mut heard = Instant::now();
        loop {
            self.peer.answer(false, &self.line.left)?;
            match pieces.recv_timeout(Duration::from_secs(1)) {
                Ok(piece) => {
                    heard = Instant::now();
                    digest.update(&piece);
                    size += piece.len() as u64;
                    self.await_room(teller)?;
                    self.piece(&piece)?;
                    self.meter.scanned.store(size, Ordering::Relaxed);
                    self.meter.carried.store(size, Ordering::Relaxed);
                    self.meter.total.fetch_max(size, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) if heard.elapsed() < STALL => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(program.error(format!("gave nothing for {STALL:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            teller.tell_sometimes(|| Line::Progress(self.meter.counts()));
        }
        program.finish()?;
        let digest = *digest.finalize().as_bytes();
        self.send(wire::encode(&Frame::End {
            size,
            digest,
            state: Vec::new(),
        }))?;
        self.meter.total.store(size, Ordering::Relaxed);
        let arrived = self.wait(teller)?;
        if arrived == digest {
            Ok(digest)
        } else {
            Err(PorterError::Digest)
        }
    }

    /// Waits until the other side has all of it.
    fn wait(&mut self, teller: &Teller) -> Result<[u8; 32], PorterError> {
        let mut since = Instant::now();
        loop {
            match self.peer.wait(HEARTBEAT) {
                Waited::Answer(answer) => return answer.map(|(digest, _)| digest),
                Waited::Nothing if since.elapsed() < SETTLE => {
                    self.send(wire::encode(&Frame::Alive))?;
                }
                Waited::Nothing => return Err(PorterError::Gone),
            }
            if self.line.left.load(Ordering::Relaxed) > 1 {
                since = Instant::now();
            }
            teller.tell(&Line::Progress(self.meter.counts()));
        }
    }

    /// Waits until the other side has passed enough on. That it does nothing for too long is noticed by who sees both.
    fn await_room(&mut self, teller: &Teller) -> Result<(), PorterError> {
        while self.next - self.peer.poured(self.next + 1)? >= AHEAD {
            self.peer.await_catcher(HEARTBEAT)?;
            teller.tell_sometimes(|| Line::Progress(self.meter.counts()));
        }
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), PorterError> {
        let fingerprint = Fingerprint::of(bytes);
        let packed = match (self.chooser.mode(), &mut self.compressor) {
            (Mode::Packed, Some(compressor)) => compressor
                .compress(bytes)
                .ok()
                .filter(|packed| packed.len() < bytes.len()),
            (Mode::Packed | Mode::Plain, _) => None,
        };
        let frame = match packed {
            Some(packed) => wire::packed_chunk(self.next, &fingerprint, &packed),
            None => wire::chunk(self.next, &fingerprint, bytes),
        };
        self.next += 1;
        let length = frame.len();
        let full = self.send(frame)?;
        self.chooser.note(bytes.len(), length, full, Instant::now());
        Ok(())
    }

    /// Queues bytes; when the line is dead, what the other side said last is the reason.
    fn send(&mut self, bytes: Vec<u8>) -> Result<bool, PorterError> {
        match self.line.push(bytes) {
            Some(full) => Ok(full),
            None => Err(self.peer.last_words()),
        }
    }
}

/// Reads pieces in a thread of its own; the queue ends with the stream.
fn read(mut output: ChildStdout) -> Receiver<Vec<u8>> {
    let (queue, pieces) = sync_channel(QUEUE);
    std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(CHUNK);
            // An error ends the stream as an end does: the command's exit tells whether that was all.
            let read = output.by_ref().take(CHUNK as u64).read_to_end(&mut piece);
            if read.is_err() || piece.is_empty() || queue.send(piece).is_err() {
                break;
            }
        }
    });
    pieces
}
