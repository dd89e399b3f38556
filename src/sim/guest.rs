//! Guests of the simulation: while one "runs", it writes numbered records into its disk images at a set rate.
//!
//! So a test can prove which writes a moved disk must hold. A guest writes as a virtual machine would: into the images
//! themselves, without telling anyone, at places of its own choosing. It knows nothing of moves, and nothing here may
//! read a ledger to decide what to copy.
//!
//! Read next: `guest/record.rs` (what is written), `guest/ledger.rs` (what must be there), `guest/image.rs`.

mod device;
mod fill;
mod image;
mod ledger;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use fill::fill;
pub use image::{Access, Disk, Format, Image};
pub use ledger::{Ledger, Verdict, Write};
pub use record::{Block, RECORD, Record};

/// How long a guest writes without looking up: short enough for an even rate, long enough not to be all overhead.
const TICK: Duration = Duration::from_millis(10);
/// How often images that keep something back are flushed. Until then, records count as in flight.
const FLUSH: Duration = Duration::from_millis(200);
/// What a guest that fell behind its rate makes up for at most; a disk that is slow for a while causes no burst.
const ARREARS: Duration = Duration::from_millis(500);

/// What can go wrong with a guest. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// An image could not be used.
    #[error("cannot {verb} the image of {drive}, '{path}'", path = path.display())]
    Image {
        /// What failed.
        verb: &'static str,
        /// The drive.
        drive: String,
        /// The image file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A ledger could not be read or written.
    #[error("cannot {verb} the ledger '{path}'", path = path.display())]
    Ledger {
        /// What failed.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest has another number of disks.
    #[error("the ledger is one of {expected} disks, not of {given}")]
    Disks {
        /// As the ledger says.
        expected: usize,
        /// As the caller says.
        given: usize,
    },
    /// A disk or region has no room for a record.
    #[error("{drive} has no room for a record of {RECORD} bytes")]
    Room {
        /// The drive.
        drive: String,
    },
    /// The guest's thread could not be started.
    #[error("cannot start the guest")]
    Thread(#[source] io::Error),
    /// The guest's thread panicked, which is a bug.
    #[error("the guest died")]
    Died,
}

/// What a guest does while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How much it writes per second, over all disks, which take turns. 0 for a guest that only sits there.
    pub bytes_per_second: u64,
    /// What its places and its records derive from. Two guests of a test want different ones.
    pub seed: u64,
    /// Confines the writes on each disk to a region of this many bytes, whose place derives from the seed; `None` for
    /// the whole disk.
    pub hot_bytes: Option<u64>,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            bytes_per_second: 1 << 20,
            seed: 1,
            hot_bytes: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Stop,
    Kill,
}

#[derive(Debug)]
struct Progress {
    wish: Wish,
    /// Whether the guest follows the wish to pause.
    paused: bool,
    /// Whether the guest has ended, for whatever reason.
    ended: bool,
    completed: u64,
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, wish: Wish) {
        self.lock().wish = wish;
        self.changed.notify_all();
    }
}

/// A running guest. Dropping it kills the guest and waits for that; nobody gets its ledger then.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Ledger, GuestError>>>,
}

impl Writer {
    /// Starts a guest that has never written before.
    pub fn start(images: Vec<Image>, workload: Workload) -> Result<Writer, GuestError> {
        let ledger = Ledger::new(workload.seed, images.len());
        Writer::resume(images, workload, ledger)
    }

    /// Starts a guest again, on the same images or on copies of them, with sequence numbers above those of its ledger.
    ///
    /// The ledger's seed is kept, whatever the workload says. What was in flight stays so where it may still be on a
    /// disk: until its offset is written again.
    pub fn resume(
        images: Vec<Image>,
        workload: Workload,
        ledger: Ledger,
    ) -> Result<Writer, GuestError> {
        if images.len() != ledger.completed.len() {
            return Err(GuestError::Disks {
                expected: ledger.completed.len(),
                given: images.len(),
            });
        }
        let targets = images
            .iter()
            .enumerate()
            .map(|(index, image)| Target::open(index, image, &workload, ledger.seed))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress {
                wish: Wish::Run,
                paused: false,
                ended: false,
                completed: 0,
            }),
            changed: Condvar::new(),
        });
        let guest = Guest {
            random: fastrand::Rng::with_seed(ledger.seed ^ ledger.last_sequence.rotate_left(32)),
            unflushed: Vec::new(),
            targets,
            ledger,
            shared: Arc::clone(&shared),
        };
        let rate = workload.bytes_per_second;
        let thread = std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || guest.live(rate))
            .map_err(GuestError::Thread)?;
        Ok(Writer {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns how many records this run completed.
    pub fn completed(&self) -> u64 {
        self.shared.lock().completed
    }

    /// Suspends the guest; returns when it writes no more. What it wrote stays in flight where it was not flushed.
    pub fn pause(&self) {
        self.shared.wish(Wish::Pause);
        let mut progress = self.shared.lock();
        while !progress.paused && !progress.ended {
            progress = self
                .shared
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets a suspended guest go on.
    pub fn unpause(&self) {
        self.shared.wish(Wish::Run);
    }

    /// Shuts the guest down: it finishes its write, flushes, syncs, and ends. Blocks until it has.
    ///
    /// Fails with what made the guest end early, such as a full file system.
    pub fn stop(self) -> Result<Ledger, GuestError> {
        self.end(Wish::Stop)
    }

    /// Ends the guest at once, as a power cut would: it finishes the system call it is in, and flushes nothing.
    pub fn kill(self) -> Result<Ledger, GuestError> {
        self.end(Wish::Kill)
    }

    fn end(mut self, wish: Wish) -> Result<Ledger, GuestError> {
        self.shared.wish(wish);
        let thread = self.thread.take().ok_or(GuestError::Died)?;
        thread.join().map_err(|_| GuestError::Died)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.wish(Wish::Kill);
            let _ = thread.join();
        }
    }
}

/// A disk and the region of it that is written to.
#[derive(Debug)]
struct Target {
    disk: Disk,
    format: Format,
    first_block: u64,
    blocks: u64,
}

impl Target {
    fn open(
        index: usize,
        image: &Image,
        workload: &Workload,
        seed: u64,
    ) -> Result<Target, GuestError> {
        let all = image.size / RECORD as u64;
        let blocks = workload
            .hot_bytes
            .map_or(all, |hot| all.min(hot / RECORD as u64));
        if blocks == 0 {
            return Err(GuestError::Room {
                drive: image.drive.clone(),
            });
        }
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(index as u64));
        Ok(Target {
            disk: image.open(Access::Write)?,
            format: image.format,
            first_block: random.u64(0..=all - blocks),
            blocks,
        })
    }
}

/// The guest's own thread.
struct Guest {
    targets: Vec<Target>,
    ledger: Ledger,
    random: fastrand::Rng,
    /// Written, but kept back by an image.
    unflushed: Vec<Write>,
    shared: Arc<Shared>,
}

impl Guest {
    fn live(mut self, rate: u64) -> Result<Ledger, GuestError> {
        let shared = Arc::clone(&self.shared);
        let lived = self.write_until_told(rate);
        let mut progress = shared.lock();
        progress.ended = true;
        drop(progress);
        shared.changed.notify_all();
        lived.map(|()| self.ledger)
    }

    fn write_until_told(&mut self, rate: u64) -> Result<(), GuestError> {
        let mut since = Instant::now();
        let mut written: u64 = 0;
        let mut flushed = Instant::now();
        loop {
            match self.next_wish(&mut since, &mut written) {
                Wish::Run | Wish::Pause => {}
                Wish::Stop => {
                    for target in &self.targets {
                        target.disk.sync()?;
                    }
                    self.complete();
                    return Ok(());
                }
                Wish::Kill => {
                    self.ledger.in_flight.append(&mut self.unflushed);
                    return Ok(());
                }
            }
            let elapsed = since.elapsed();
            let due = (elapsed.as_secs_f64() * rate as f64) as u64;
            let arrears = (ARREARS.as_secs_f64() * rate as f64) as u64;
            written = written.max(due.saturating_sub(arrears));
            let tick = Instant::now();
            while written + RECORD as u64 <= due && tick.elapsed() < TICK {
                self.write_one()?;
                written += RECORD as u64;
            }
            if flushed.elapsed() >= FLUSH {
                self.flush()?;
                flushed = Instant::now();
            }
        }
    }

    /// Waits for the next tick or for another wish than to run, and returns the wish.
    fn next_wish(&self, since: &mut Instant, written: &mut u64) -> Wish {
        let mut progress = self.shared.lock();
        if progress.wish == Wish::Run {
            progress = self
                .shared
                .changed
                .wait_timeout(progress, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        while progress.wish == Wish::Pause {
            progress.paused = true;
            self.shared.changed.notify_all();
            progress = self
                .shared
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
            // Time that passed in suspension is not owed.
            (*since, *written) = (Instant::now(), 0);
        }
        progress.paused = false;
        progress.wish
    }

    fn write_one(&mut self) -> Result<(), GuestError> {
        self.ledger.last_sequence += 1;
        let sequence = self.ledger.last_sequence;
        // Disks take turns.
        let disk = (sequence % self.targets.len().max(1) as u64) as usize;
        let Some(target) = self.targets.get(disk) else {
            return Ok(());
        };
        let offset = (target.first_block + self.random.u64(..target.blocks)) * RECORD as u64;
        let record = Record {
            seed: self.ledger.seed,
            sequence,
            disk: disk as u64,
            offset,
        };
        target.disk.write(&record.encode(), offset)?;
        self.unflushed.push(Write {
            disk,
            offset,
            sequence,
        });
        if target.format == Format::Raw {
            // In the page cache, or in the device: a killed process leaves it behind, so it is as good as complete.
            let write = self.unflushed.pop();
            self.note(write);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), GuestError> {
        if self.unflushed.is_empty() {
            return Ok(());
        }
        for target in &self.targets {
            target.disk.flush()?;
        }
        self.complete();
        Ok(())
    }

    fn complete(&mut self) {
        for write in std::mem::take(&mut self.unflushed) {
            self.note(Some(write));
        }
    }

    fn note(&mut self, write: Option<Write>) {
        let Some(write) = write else { return };
        if let Some(completed) = self.ledger.completed.get_mut(write.disk) {
            completed.insert(write.offset, write.sequence);
        }
        self.ledger
            .in_flight
            .retain(|old| (old.disk, old.offset) != (write.disk, write.offset));
        self.shared.lock().completed += 1;
    }
}
