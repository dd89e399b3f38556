//! Reading a volume: the trait [`Content`], files and block devices, and the reading ahead.
//!
//! Reads go past the page cache (O_DIRECT), which neither evicts what a guest or the node keeps there nor trusts it;
//! where that is not possible, cached pages are written out and dropped. Never writes. Read next: `qcow2.rs` for
//! images, `target.rs` for writing.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::fs::{Advice, OFlags, SeekFrom};

use super::chunk::{CHUNK, chunks_of};
use super::error::PorterError;

/// Bytes read at once: with several requests in flight enough for a disk's full speed, little enough to hold some dozens.
pub(crate) const BLOCK: usize = 8 * CHUNK;
/// What O_DIRECT wants buffers, offsets and lengths to be multiples of, on all disks in use.
const ALIGNMENT: usize = 4096;
/// Reads in flight: a disk of many parts is several times faster with some, and a single one does not become slower.
const READERS: usize = 8;
/// Pieces planned ahead, and so the blocks that may be waiting to be taken.
const AHEAD: usize = 2 * READERS;
/// The longest run of zero chunks told at once, so that progress is seen to move through large holes.
const LONGEST_RUN: u64 = 1 << 18;

/// A stretch of a volume that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether it is known to be all zero without reading it.
    pub(crate) zero: bool,
    /// First offset behind it.
    pub(crate) end: u64,
}

/// Something that can be read as a volume.
pub(crate) trait Content: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;
    /// Returns the kind of the stretch that begins at `offset`, which lies before the end.
    fn extent(&self, offset: u64) -> io::Result<Extent>;
    /// Reads `length` bytes at `offset` into the beginning of the block. Fails when there are fewer.
    fn read(&self, block: &mut Block, offset: u64, length: usize) -> io::Result<()>;
}

/// A buffer of [`BLOCK`] bytes that begins where O_DIRECT wants it.
pub(crate) struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    /// Makes a buffer.
    pub(crate) fn new() -> Block {
        let memory = vec![0; BLOCK + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Block { memory, start }
    }

    /// Returns the first `length` bytes.
    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        &self.memory[self.start..][..length.min(BLOCK)]
    }

    /// Returns the first `length` bytes, to be written.
    pub(crate) fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..length.min(BLOCK)]
    }
}

/// A file or block device, read as it is.
pub(crate) struct RawContent {
    cached: File,
    direct: Option<File>,
    direct_works: AtomicBool,
    size: u64,
    padding: u64,
    holes: bool,
}

impl RawContent {
    /// Opens a file or device whose size is taken to be `size`, or what it is now.
    ///
    /// What the page cache holds of it is written out, and dropped where O_DIRECT is refused.
    pub(crate) fn open(path: &Path, size: Option<u64>) -> Result<RawContent, PorterError> {
        let cached = File::open(path).map_err(PorterError::file("open", path))?;
        let direct = File::options()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)
            .ok();
        // A volume of which pages are still to be written must not be judged by its disk before they are.
        rustix::fs::fdatasync(&cached)
            .map_err(io::Error::from)
            .map_err(PorterError::file("write out", path))?;
        if direct.is_none() {
            // Advice only: a file system that ignores it reads from memory what it has just written out.
            let _ = rustix::fs::fadvise(&cached, 0, None, Advice::DontNeed);
        }
        let size = match size {
            Some(size) => size,
            None => rustix::fs::seek(&cached, SeekFrom::End(0))
                .map_err(io::Error::from)
                .map_err(PorterError::file("measure", path))?,
        };
        let holes = cached
            .metadata()
            .map_err(PorterError::file("look at", path))?
            .is_file();
        Ok(RawContent {
            cached,
            direct_works: AtomicBool::new(direct.is_some()),
            direct,
            size,
            padding: 0,
            holes,
        })
    }

    /// Makes the size a multiple of `sector`; the bytes behind the file's end read as zero.
    pub(crate) fn pad_to(&mut self, sector: u64) {
        self.padding = self.size.next_multiple_of(sector) - self.size;
    }

    fn read_direct(
        &self,
        file: &File,
        block: &mut Block,
        offset: u64,
        length: usize,
    ) -> io::Result<()> {
        let whole = length.next_multiple_of(ALIGNMENT);
        let mut filled = 0;
        while filled < length {
            let buffer = &mut block.bytes_mut(whole)[filled..];
            match file.read_at(buffer, offset + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // What follows an odd count is the end of the file.
                Ok(count) if count % ALIGNMENT != 0 && filled + count < length => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Content for RawContent {
    fn size(&self) -> u64 {
        self.size + self.padding
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let data = Extent {
            zero: false,
            end: self.size(),
        };
        if !self.holes {
            return Ok(data);
        }
        match rustix::fs::seek(&self.cached, SeekFrom::Data(offset)) {
            Ok(start) if start > offset => Ok(Extent {
                zero: true,
                end: start.min(self.size()),
            }),
            Ok(_) => match rustix::fs::seek(&self.cached, SeekFrom::Hole(offset)) {
                Ok(end) if end > offset => Ok(Extent {
                    zero: false,
                    end: if end >= self.size { self.size() } else { end },
                }),
                Ok(_) | Err(_) => Ok(data),
            },
            // No data from here to the end, which may lie before the size that was asked for.
            Err(rustix::io::Errno::NXIO) => {
                let end = rustix::fs::seek(&self.cached, SeekFrom::End(0))?;
                Ok(Extent {
                    zero: end >= self.size,
                    end: self.size(),
                })
            }
            // A file system without holes.
            Err(_) => Ok(data),
        }
    }

    fn read(&self, block: &mut Block, offset: u64, length: usize) -> io::Result<()> {
        let whole = length;
        let length = (self.size.saturating_sub(offset)).min(whole as u64) as usize;
        self.read_file(block, offset, length)?;
        block.bytes_mut(whole)[length..].fill(0);
        Ok(())
    }
}

impl RawContent {
    fn read_file(&self, block: &mut Block, offset: u64, length: usize) -> io::Result<()> {
        if let Some(file) = &self.direct
            && self.direct_works.load(Ordering::Relaxed)
        {
            match self.read_direct(file, block, offset, length) {
                Err(error) if error.raw_os_error() == Some(INVALID) => {
                    self.direct_works.store(false, Ordering::Relaxed);
                    let _ = rustix::fs::fadvise(&self.cached, 0, None, Advice::DontNeed);
                }
                result => return result,
            }
        }
        self.cached.read_exact_at(block.bytes_mut(length), offset)?;
        // Advice only, see above.
        let _ = rustix::fs::fadvise(
            &self.cached,
            offset,
            NonZeroU64::new(length as u64),
            Advice::DontNeed,
        );
        Ok(())
    }
}

/// EINVAL: how file systems say that they do not do O_DIRECT, some of them only when reading.
const INVALID: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// What the reading ahead found, in order and without gaps.
pub(crate) enum Piece {
    /// These chunks are zero.
    Zero { first: u64, count: u64 },
    /// This many bytes from chunk `first` on.
    Data {
        first: u64,
        block: Block,
        length: usize,
    },
    /// These chunks could not be read this time.
    Unknown { first: u64, count: u64 },
}

/// Whether a chunk that cannot be read ends the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tolerance {
    /// It counts as unknown: the image is being written to, a later pass will see it whole.
    Skip,
    /// It is an error.
    Fail,
}

/// Reads a whole volume in order, some blocks ahead of who takes them.
///
/// ```text
///  plan --> job --> reader 1 --> block --+
///    |  +-> job --> reader 2 --> block --+--> next()
///    +----- whose turn it is ------------+
/// ```
/// Several reads are in flight at once, since few disks give their speed to one. The order in which they were planned
/// is the order in which they are taken.
pub(crate) struct Ahead {
    turns: Receiver<Turn>,
    readers: Vec<Receiver<Result<Piece, PorterError>>>,
    used: SyncSender<Block>,
}

/// Where the next piece comes from.
enum Turn {
    /// From the plan itself: nothing had to be read.
    Planned(Result<Piece, PorterError>),
    /// From the reader of that number.
    Reader(usize),
}

/// A stretch to read.
struct Job {
    first: u64,
    length: usize,
}

impl Ahead {
    /// Starts reading.
    pub(crate) fn start(content: Arc<dyn Content>, path: PathBuf, tolerance: Tolerance) -> Ahead {
        let (turn, turns) = sync_channel(AHEAD);
        let (used, free) = sync_channel(AHEAD + READERS);
        let free = Arc::new(Mutex::new(free));
        let mut jobs = Vec::new();
        let mut readers = Vec::new();
        for _ in 0..READERS {
            // A reader's queue is as long as all turns, so that it waits for nobody but the plan.
            let (job, own) = sync_channel(AHEAD);
            let (sender, pieces) = sync_channel(AHEAD);
            jobs.push(job);
            readers.push(pieces);
            let reader = Reader {
                content: Arc::clone(&content),
                path: path.clone(),
                tolerance,
                free: Arc::clone(&free),
            };
            std::thread::spawn(move || reader.run(&own, &sender));
        }
        let plan = Plan {
            content,
            path,
            tolerance,
            turn,
            jobs,
        };
        std::thread::spawn(move || plan.run());
        Ahead {
            turns,
            readers,
            used,
        }
    }

    /// Returns the next piece, `None` at the end.
    pub(crate) fn next(&self) -> Option<Result<Piece, PorterError>> {
        match self.turns.recv().ok()? {
            Turn::Planned(piece) => Some(piece),
            Turn::Reader(number) => self.readers.get(number)?.recv().ok(),
        }
    }

    /// Gives a block back.
    pub(crate) fn give_back(&self, block: Block) {
        // When no reader needs more blocks, this one is simply freed.
        let _ = self.used.try_send(block);
    }
}

/// The thread that finds out what is to be read, in order.
struct Plan {
    content: Arc<dyn Content>,
    path: PathBuf,
    tolerance: Tolerance,
    turn: SyncSender<Turn>,
    jobs: Vec<SyncSender<Job>>,
}

impl Plan {
    /// Goes on until the end, an error, or until nobody takes pieces any more.
    fn run(self) {
        let size = self.content.size();
        let chunk = CHUNK as u64;
        let mut next = 0;
        let mut numbers = (0..self.jobs.len()).cycle();
        // Data is asked for once and read to its end: some file systems walk all of it to find that end.
        let mut data = Extent {
            zero: false,
            end: 0,
        };
        while next < chunks_of(size) {
            let offset = next * chunk;
            let extent = if offset < data.end {
                Ok(data)
            } else {
                self.content.extent(offset)
            };
            if let Ok(extent) = &extent
                && !extent.zero
            {
                data = *extent;
            }
            let (turn, count) = match extent {
                Ok(extent) if extent.end <= offset => {
                    let piece = Piece::Unknown {
                        first: next,
                        count: 1,
                    };
                    (Turn::Planned(Ok(piece)), 1)
                }
                Ok(extent) => {
                    let whole = if extent.end >= size {
                        chunks_of(size)
                    } else {
                        extent.end / chunk
                    };
                    if extent.zero && whole > next {
                        let count = (whole - next).min(LONGEST_RUN);
                        (Turn::Planned(Ok(Piece::Zero { first: next, count })), count)
                    } else {
                        // A chunk that begins with a hole is read alone.
                        let end = extent.end.max(offset + 1).next_multiple_of(chunk);
                        let length = (end.min(size) - offset).min(BLOCK as u64) as usize;
                        let number = numbers.next().unwrap_or_default();
                        let job = Job {
                            first: next,
                            length,
                        };
                        if self.jobs[number].send(job).is_err() {
                            return;
                        }
                        (Turn::Reader(number), chunks_of(length as u64))
                    }
                }
                Err(error) => {
                    let piece = failed(&self.path, self.tolerance, next, 1, error);
                    (Turn::Planned(piece), 1)
                }
            };
            next += count;
            let stop = matches!(turn, Turn::Planned(Err(_)));
            if self.turn.send(turn).is_err() || stop {
                return;
            }
        }
    }
}

/// One of the threads that read.
struct Reader {
    content: Arc<dyn Content>,
    path: PathBuf,
    tolerance: Tolerance,
    free: Arc<Mutex<Receiver<Block>>>,
}

impl Reader {
    /// Reads what is planned until there is no more, or until nobody takes it any more.
    fn run(&self, jobs: &Receiver<Job>, pieces: &SyncSender<Result<Piece, PorterError>>) {
        while let Ok(Job { first, length }) = jobs.recv() {
            let mut block = self.block();
            let offset = first * CHUNK as u64;
            let piece = match self.content.read(&mut block, offset, length) {
                Ok(()) => Ok(Piece::Data {
                    first,
                    block,
                    length,
                }),
                Err(error) => {
                    let count = chunks_of(length as u64);
                    failed(&self.path, self.tolerance, first, count, error)
                }
            };
            if pieces.send(piece).is_err() {
                return;
            }
        }
    }

    /// Returns a block that was given back, or a new one.
    fn block(&self) -> Block {
        let free = self.free.lock().ok();
        free.and_then(|free| free.try_recv().ok())
            .unwrap_or_else(Block::new)
    }
}

/// Turns chunks that cannot be read into what the pass makes of them.
fn failed(
    path: &Path,
    tolerance: Tolerance,
    first: u64,
    count: u64,
    source: io::Error,
) -> Result<Piece, PorterError> {
    // A file that became shorter while it was read is short only until the next pass.
    let passing = source.kind() == io::ErrorKind::UnexpectedEof;
    match tolerance {
        Tolerance::Skip if passing || source.raw_os_error().is_none() => {
            Ok(Piece::Unknown { first, count })
        }
        Tolerance::Skip | Tolerance::Fail => Err(PorterError::Place {
            operation: "read",
            path: path.display().to_string(),
            offset: first * CHUNK as u64,
            source,
        }),
    }
}
