//! Writing what arrives, and claiming it: the order that keeps every claim true.
//!
//! ```text
//!  chunks --> batch: withdraw old claims, write --> pending --> checkpoint: sync the data, then claim, sync the claims
//! ```
//! The checkpoint runs in a thread of its own while further batches are written. A killed receiver loses what was
//! pending: at most about two times [`PENDING`]. Read next: `manifest.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::chunk::{CHUNK, Fingerprint};
use super::error::PorterError;
use super::manifest::Manifest;
use super::pages::{PAGE, Pages};
use super::target::Disk;

/// Chunks that wait to be written.
const QUEUE: usize = 64;
/// A batch is written when it has this many bytes ...
const BATCH: usize = 4 << 20;
/// ... or is this old: one withdrawal, which may cost a sync, serves the whole batch.
const BATCH_TIME: Duration = Duration::from_millis(200);
/// Bytes after which a checkpoint is due.
const PENDING: u64 = 48 << 20;
/// Time after which a checkpoint is due, however little there is.
const PENDING_TIME: Duration = Duration::from_secs(1);

/// Something to write.
pub(crate) enum Item {
    /// One chunk, checked.
    Chunk {
        index: u64,
        fingerprint: Fingerprint,
        bytes: Vec<u8>,
    },
    /// Some pages of a chunk, checked: with what is on the disk of the others, they make this fingerprint.
    Pages {
        index: u64,
        fingerprint: Fingerprint,
        pages: Pages,
        bytes: Vec<u8>,
    },
    /// A run of zero chunks.
    Zero { first: u64, count: u64 },
}

/// A run of chunks with the same new claim.
type Claim = (u64, u64, Fingerprint);

/// The thread that writes.
pub(crate) struct Writer {
    queue: Option<SyncSender<Item>>,
    thread: JoinHandle<Result<(), PorterError>>,
}

impl Writer {
    /// Starts writing to `disk`, whose path is for messages.
    pub(crate) fn start(disk: Arc<dyn Disk>, manifest: Arc<Manifest>, path: PathBuf) -> Writer {
        let (queue, items) = sync_channel(QUEUE);
        let thread = std::thread::spawn(move || {
            let checkpoints =
                Checkpoints::start(Arc::clone(&disk), Arc::clone(&manifest), path.clone());
            let mut work = Work {
                disk,
                manifest,
                path,
                checkpoints,
                pending: Vec::new(),
                pending_bytes: 0,
                last: Instant::now(),
            };
            let written = work.run(&items);
            // What was written before an error is claimed all the same.
            let claimed = work.finish();
            match (written, claimed) {
                // Writing stopped because the checkpoint did, which knows why.
                (Err(PorterError::Gone), Err(cause)) => Err(cause),
                (written, claimed) => written.and(claimed),
            }
        });
        Writer {
            queue: Some(queue),
            thread,
        }
    }

    /// Queues something; `false` when writing has failed.
    pub(crate) fn push(&mut self, item: Item) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| queue.send(item).is_ok())
    }

    /// Writes, syncs and claims everything that was queued.
    pub(crate) fn finish(self) -> Result<(), PorterError> {
        drop(self.queue);
        self.thread.join().unwrap_or(Err(PorterError::Gone))
    }
}

struct Work {
    disk: Arc<dyn Disk>,
    manifest: Arc<Manifest>,
    path: PathBuf,
    checkpoints: Checkpoints,
    pending: Vec<Claim>,
    pending_bytes: u64,
    last: Instant,
}

impl Work {
    fn run(&mut self, items: &Receiver<Item>) -> Result<(), PorterError> {
        loop {
            let (batch, ended) = gather(items);
            self.write(batch)?;
            self.checkpoint()?;
            if ended {
                return Ok(());
            }
        }
    }

    fn write(&mut self, batch: Vec<Item>) -> Result<(), PorterError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for item in &batch {
            let (first, count) = match item {
                Item::Chunk { index, .. } | Item::Pages { index, .. } => (*index, 1),
                Item::Zero { first, count } => (*first, *count),
            };
            match runs.last_mut() {
                Some((start, length)) if *start + *length == first => *length += count,
                _ => runs.push((first, count)),
            }
        }
        self.manifest.withdraw(&runs)?;
        for item in joined(batch) {
            let (first, count, fingerprint, result) = match item {
                Item::Chunk {
                    index,
                    fingerprint,
                    bytes,
                } => {
                    self.pending_bytes += bytes.len() as u64;
                    (index, 1, fingerprint, self.disk.write(index, &bytes))
                }
                Item::Pages {
                    index,
                    fingerprint,
                    pages,
                    bytes,
                } => {
                    self.pending_bytes += bytes.len() as u64;
                    (index, 1, fingerprint, self.pages(index, pages, &bytes))
                }
                Item::Zero { first, count } => (
                    first,
                    count,
                    Fingerprint::ZERO,
                    self.disk.zero(first, count),
                ),
            };
            result.map_err(|source| PorterError::Place {
                operation: "write",
                path: self.path.display().to_string(),
                offset: first * CHUNK as u64,
                source,
            })?;
            self.pending.push((first, count, fingerprint));
        }
        Ok(())
    }

    fn pages(&self, index: u64, pages: Pages, bytes: &[u8]) -> io::Result<()> {
        let runs = pages.runs(self.disk.length(index)).unwrap_or_default();
        let mut rest = bytes;
        for (offset, length) in runs {
            let (run, more) = rest.split_at(length.min(rest.len()));
            self.disk.write_part(index, offset, run)?;
            rest = more;
        }
        Ok(())
    }

    /// Hands what is pending to the checkpoint when it is due; waits only when far too much is pending.
    fn checkpoint(&mut self) -> Result<(), PorterError> {
        let due = self.pending_bytes >= PENDING || self.last.elapsed() >= PENDING_TIME;
        if self.pending.is_empty() || !due {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let handed = if self.pending_bytes >= 2 * PENDING {
            self.checkpoints.queue.send(pending).map_err(|_| None)
        } else {
            match self.checkpoints.queue.try_send(pending) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(pending)) => Err(Some(pending)),
                Err(TrySendError::Disconnected(_)) => Err(None),
            }
        };
        match handed {
            Ok(()) => {
                self.pending_bytes = 0;
                self.last = Instant::now();
                Ok(())
            }
            Err(Some(pending)) => {
                self.pending = pending;
                Ok(())
            }
            // The checkpoint failed; `finish` says why.
            Err(None) => Err(PorterError::Gone),
        }
    }

    fn finish(mut self) -> Result<(), PorterError> {
        let pending = std::mem::take(&mut self.pending);
        let handed = self.checkpoints.queue.send(pending);
        drop(self.checkpoints.queue);
        let synced = self
            .checkpoints
            .thread
            .join()
            .unwrap_or(Err(PorterError::Gone));
        synced.and(handed.map_err(|_| PorterError::Gone))
    }
}

/// Joins zero chunks that follow each other, since giving space back is dear by the call and not by the byte.
fn joined(batch: Vec<Item>) -> Vec<Item> {
    let mut joined: Vec<Item> = Vec::with_capacity(batch.len());
    for item in batch {
        match (joined.last_mut(), item) {
            (
                Some(Item::Zero { first, count }),
                Item::Zero {
                    first: next,
                    count: more,
                },
            ) if *first + *count == next => *count += more,
            (_, item) => joined.push(item),
        }
    }
    joined
}

/// Collects what arrives within a moment; says whether the queue has ended.
fn gather(items: &Receiver<Item>) -> (Vec<Item>, bool) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let started = Instant::now();
    while bytes < BATCH {
        let left = BATCH_TIME.saturating_sub(started.elapsed());
        match items.recv_timeout(left) {
            Ok(item) => {
                bytes += match &item {
                    Item::Chunk { bytes, .. } => bytes.len(),
                    // Each costs a claim, however small it is.
                    Item::Pages { bytes, .. } => bytes.len().max(PAGE),
                    // Zero chunks cost a call each.
                    Item::Zero { .. } => CHUNK / 8,
                };
                batch.push(item);
            }
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return (batch, true),
        }
    }
    (batch, false)
}

/// The thread that makes claims true and then writes them.
struct Checkpoints {
    queue: SyncSender<Vec<Claim>>,
    thread: JoinHandle<Result<(), PorterError>>,
}

impl Checkpoints {
    fn start(disk: Arc<dyn Disk>, manifest: Arc<Manifest>, path: PathBuf) -> Checkpoints {
        // No room: whoever hands over knows that the checkpoint before has ended.
        let (queue, work) = sync_channel::<Vec<Claim>>(0);
        let thread = std::thread::spawn(move || {
            while let Ok(claims) = work.recv() {
                disk.sync().map_err(PorterError::file("write out", &path))?;
                for (first, count, fingerprint) in &claims {
                    manifest.write(*first, *count, *fingerprint)?;
                }
                manifest.sync()?;
            }
            Ok(())
        });
        Checkpoints { queue, thread }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::super::wire::Layout;
    use super::*;

    /// A disk that looks at the manifest at each call: no claim may be there that a kill right now would make a lie.
    struct Witness {
        manifest: Arc<Manifest>,
        unsynced: Mutex<BTreeSet<u64>>,
    }

    impl Witness {
        fn no_claim(&self, index: u64) {
            let claim = self.manifest.read(index, 1).expect("reads");
            assert_eq!(claim, [Fingerprint::ABSENT], "chunk {index}");
        }
    }

    impl Disk for Witness {
        fn write(&self, index: u64, _: &[u8]) -> io::Result<()> {
            self.no_claim(index);
            self.unsynced.lock().expect("lock").insert(index);
            Ok(())
        }
        fn write_part(&self, index: u64, _: usize, bytes: &[u8]) -> io::Result<()> {
            self.write(index, bytes)
        }
        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn zero(&self, first: u64, count: u64) -> io::Result<()> {
            (first..first + count).try_for_each(|index| self.write(index, &[]))
        }
        fn resize(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            let unsynced = std::mem::take(&mut *self.unsynced.lock().expect("lock"));
            unsynced.iter().for_each(|index| self.no_claim(*index));
            Ok(())
        }
        fn length(&self, _: u64) -> usize {
            CHUNK
        }
    }

    #[test]
    fn no_claim_stands_while_its_chunk_is_not_on_the_disk() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("proxmove-x.manifest");
        let manifest = Manifest::create_locked(&path, &directory.path().join("x"), Layout::File);
        let manifest = Arc::new(manifest.expect("creates"));
        for round in 0..3 {
            let witness = Arc::new(Witness {
                manifest: Arc::clone(&manifest),
                unsynced: Mutex::default(),
            });
            let disk: Arc<dyn Disk> = witness;
            let mut writer = Writer::start(disk, Arc::clone(&manifest), path.clone());
            let bytes = vec![round; CHUNK];
            let fingerprint = Fingerprint::of(&bytes);
            for index in (0..3000).step_by(round as usize + 1) {
                let bytes = bytes.clone();
                assert!(writer.push(Item::Chunk {
                    index,
                    fingerprint,
                    bytes
                }));
            }
            for index in (3000..4000).step_by(7) {
                assert!(writer.push(Item::Pages {
                    index,
                    fingerprint,
                    pages: Pages(0b1001),
                    bytes: vec![round; 2 * PAGE],
                }));
            }
            assert!(writer.push(Item::Zero {
                first: 5000,
                count: 9000
            }));
            writer.finish().expect("writes");
            assert_eq!(manifest.read(0, 1).expect("reads"), [fingerprint]);
            assert_eq!(manifest.read(3007, 1).expect("reads"), [fingerprint]);
            let last = manifest.read(13_999, 2).expect("reads");
            assert_eq!(last, [Fingerprint::ZERO, Fingerprint::ABSENT]);
        }
    }
}
