//! The sender's ear: what the receiver has, its answers, its verdict, its complaints.
//!
//! A thread of its own reads all the time, so that a receiver never waits for a sender that is writing. What it reads
//! is kept; the protocol says how much that can be, and a receiver that says more ends the pass. Never writes. Read
//! next: `send.rs`, `wire.rs`.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::chunk::Fingerprint;
use super::error::{PorterError, Report};
use super::pages::PagePrint;
use super::receive::SILENCE;
use super::send::HEARTBEAT;
use super::tell::Meter;
use super::wire::{self, Frame, HAVE_AHEAD};

/// What may be said to us.
#[derive(Default)]
struct Permitted {
    /// Fingerprints and runs that we told the receiver to have heard.
    heard: AtomicU64,
    /// Questions asked.
    asked: AtomicU64,
    /// Pieces of a stream sent to a catcher.
    poured: AtomicU64,
}

/// The way in.
pub(crate) struct Peer {
    incoming: Receiver<Result<Frame, PorterError>>,
    permitted: Arc<Permitted>,
    runs: VecDeque<(Fingerprint, u64)>,
    answers: VecDeque<(u64, Vec<PagePrint>)>,
    used: u64,
    caught: u64,
    ended: bool,
}

/// What came of waiting for the verdict.
pub(crate) enum Waited {
    /// The digest and the bytes repaired, or why there are none.
    Answer(Result<([u8; 32], u64), PorterError>),
    /// Not yet.
    Nothing,
}

impl Peer {
    /// Starts listening.
    pub(crate) fn listen(mut input: impl Read + Send + 'static, meter: Arc<Meter>) -> Peer {
        // Without a bound of its own: `Limits` bounds it.
        let (queue, incoming) = channel();
        let permitted = Arc::new(Permitted::default());
        let mut limits = Limits {
            permitted: Arc::clone(&permitted),
            told: 0,
            answered: 0,
            caught: 0,
            ended: false,
        };
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
                    Ok(Some(frame)) => limits.check(frame),
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
            permitted,
            runs: VecDeque::new(),
            answers: VecDeque::new(),
            used: 0,
            caught: 0,
            ended: false,
        }
    }

    /// Returns what the receiver has of the next chunks: one fingerprint, and how many of at most `most` it is of.
    pub(crate) fn have(&mut self, most: u64) -> Result<(Fingerprint, u64), PorterError> {
        loop {
            if let Some((fingerprint, count)) = self.runs.front_mut() {
                let taken = most.min(*count);
                let found = *fingerprint;
                *count -= taken;
                if *count == 0 {
                    self.runs.pop_front();
                    self.used += 1;
                }
                return Ok((found, taken));
            }
            if self.ended {
                return Ok((Fingerprint::ABSENT, most));
            }
            match self.incoming.recv_timeout(SILENCE) {
                Ok(frame) => self.take(frame?)?,
                Err(_) => return Err(PorterError::Gone),
            }
        }
    }

    /// Returns how much was used of what the receiver told, when it is time to tell it.
    pub(crate) fn heard(&self) -> Option<u64> {
        let told = self.permitted.heard.load(Ordering::Relaxed);
        if self.used - told < HAVE_AHEAD / 8 {
            return None;
        }
        self.permitted.heard.store(self.used, Ordering::Relaxed);
        Some(self.used)
    }

    /// Notes that a question is about to be asked.
    pub(crate) fn asked(&self) {
        self.permitted.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns an answer; `None` when there is none and it shall not be waited for.
    ///
    /// `left` is the number of frames still to be written: the receiver's silence counts from when there are none.
    pub(crate) fn answer(
        &mut self,
        wait: bool,
        left: &AtomicU64,
    ) -> Result<Option<(u64, Vec<PagePrint>)>, PorterError> {
        let mut silence = Duration::ZERO;
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
            }
            let patience = if wait { HEARTBEAT } else { Duration::ZERO };
            match self.incoming.recv_timeout(patience) {
                Ok(frame) => {
                    silence = Duration::ZERO;
                    self.take(frame?)?;
                }
                Err(RecvTimeoutError::Timeout) if !wait => return Ok(None),
                Err(RecvTimeoutError::Timeout) if left.load(Ordering::Relaxed) > 0 => {
                    silence = Duration::ZERO;
                }
                Err(RecvTimeoutError::Timeout) if silence < SILENCE => silence += HEARTBEAT,
                Err(_) => return Err(PorterError::Gone),
            }
        }
    }

    /// Notes that a piece of a stream is sent, `number` with it, and returns how many the catcher has passed on.
    pub(crate) fn poured(&mut self, number: u64) -> Result<u64, PorterError> {
        self.permitted.poured.store(number, Ordering::Relaxed);
        while let Ok(frame) = self.incoming.try_recv() {
            self.take(frame?)?;
        }
        Ok(self.caught)
    }

    /// Waits for a sign of the catcher's, for so long.
    pub(crate) fn await_catcher(&mut self, patience: Duration) -> Result<(), PorterError> {
        match self.incoming.recv_timeout(patience) {
            Ok(frame) => self.take(frame?),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(PorterError::Gone),
        }
    }

    /// Waits for the receiver's verdict.
    pub(crate) fn wait(&mut self, patience: Duration) -> Waited {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(Ok(Frame::Done { digest, repaired })) => {
                    return Waited::Answer(Ok((digest, repaired)));
                }
                Ok(frame) => {
                    if let Err(error) = frame.and_then(|frame| self.take(frame)) {
                        return Waited::Answer(Err(error));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Waited::Nothing,
                Err(RecvTimeoutError::Disconnected) => {
                    return Waited::Answer(Err(PorterError::Gone));
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), PorterError> {
        match frame {
            Frame::Have(list) => self.runs.extend(list.into_iter().map(|found| (found, 1))),
            Frame::HaveRun { count, fingerprint } if count > 0 => {
                self.runs.push_back((fingerprint, count));
            }
            Frame::HaveEnd => self.ended = true,
            Frame::Prints { index, prints } => self.answers.push_back((index, prints)),
            Frame::Heard { count } => self.caught = count,
            Frame::Fail(report) => return Err(peer_error(&report)),
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    /// Returns the receiver's complaint when it left one, else that it is gone.
    pub(crate) fn last_words(&mut self) -> PorterError {
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

/// Counts what is said, and refuses what is too much.
struct Limits {
    permitted: Arc<Permitted>,
    told: u64,
    answered: u64,
    caught: u64,
    ended: bool,
}

impl Limits {
    fn check(&mut self, frame: Frame) -> Result<Frame, PorterError> {
        match &frame {
            Frame::Have(list) => self.told += list.len() as u64,
            Frame::HaveRun { .. } => self.told += 1,
            Frame::Prints { .. } => self.answered += 1,
            Frame::HaveEnd if !self.ended => self.ended = true,
            // Each says more than the one before, and none more than there is: so there are not too many.
            Frame::Heard { count } if *count > self.caught => self.caught = *count,
            Frame::Done { .. } | Frame::Fail(_) => {}
            _ => return Err(unexpected()),
        }
        let heard = self.permitted.heard.load(Ordering::Relaxed);
        let asked = self.permitted.asked.load(Ordering::Relaxed);
        let poured = self.permitted.poured.load(Ordering::Relaxed);
        if self.told > heard + HAVE_AHEAD || self.answered > asked || self.caught > poured {
            return Err(PorterError::Protocol(String::from("more than it may")));
        }
        Ok(frame)
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
