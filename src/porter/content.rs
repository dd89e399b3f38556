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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{Advice, OFlags, SeekFrom};

use super::chunk::{CHUNK, chunks_of};
use super::error::PorterError;

/// Bytes read at once: enough for a disk's full speed with one request in flight, little enough to hold a dozen.
pub(crate) const BLOCK: usize = 16 * CHUNK;
/// What O_DIRECT wants buffers, offsets and lengths to be multiples of, on all disks in use.
const ALIGNMENT: usize = 4096;
/// Blocks read ahead.
const AHEAD: usize = 6;
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

/// A thread that reads a whole volume in order, a few blocks ahead of who takes them.
pub(crate) struct Ahead {
    pieces: Receiver<Result<Piece, PorterError>>,
    used: SyncSender<Block>,
}

impl Ahead {
    /// Starts reading.
    pub(crate) fn start(content: Arc<dyn Content>, path: PathBuf, tolerance: Tolerance) -> Ahead {
        let (sender, pieces) = sync_channel(AHEAD);
        let (used, free) = sync_channel(AHEAD + 2);
        std::thread::spawn(move || {
            let mut reader = Reader {
                content,
                path,
                tolerance,
                sender,
                free,
            };
            reader.run();
        });
        Ahead { pieces, used }
    }

    /// Returns the next piece, `None` at the end.
    pub(crate) fn next(&self) -> Option<Result<Piece, PorterError>> {
        self.pieces.recv().ok()
    }

    /// Gives a block back.
    pub(crate) fn give_back(&self, block: Block) {
        // When the reader needs no more blocks, this one is simply freed.
        let _ = self.used.try_send(block);
    }
}

struct Reader {
    content: Arc<dyn Content>,
    path: PathBuf,
    tolerance: Tolerance,
    sender: SyncSender<Result<Piece, PorterError>>,
    free: Receiver<Block>,
}

impl Reader {
    /// Reads until the end, an error, or until nobody takes pieces any more.
    fn run(&mut self) {
        let size = self.content.size();
        let chunk = CHUNK as u64;
        let mut next = 0;
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
            let (piece, count) = match extent {
                Ok(extent) if extent.end <= offset => (Ok(self.unknown(next, size)), 1),
                Ok(extent) => {
                    let whole = if extent.end >= size {
                        chunks_of(size)
                    } else {
                        extent.end / chunk
                    };
                    if extent.zero && whole > next {
                        let count = (whole - next).min(LONGEST_RUN);
                        (Ok(Piece::Zero { first: next, count }), count)
                    } else {
                        // A chunk that begins with a hole is read alone.
                        let end = extent.end.max(offset + 1).next_multiple_of(chunk);
                        let length = (end.min(size) - offset).min(BLOCK as u64) as usize;
                        (self.read(next, length), chunks_of(length as u64))
                    }
                }
                Err(error) => (self.failed(next, 1, offset, error), 1),
            };
            next += count;
            let stop = piece.is_err();
            if self.sender.send(piece).is_err() || stop {
                return;
            }
        }
    }

    fn unknown(&self, first: u64, size: u64) -> Piece {
        Piece::Unknown {
            first,
            count: u64::from(first < chunks_of(size)),
        }
    }

    fn read(&self, first: u64, length: usize) -> Result<Piece, PorterError> {
        let mut block = self.free.try_recv().unwrap_or_else(|_| Block::new());
        let offset = first * CHUNK as u64;
        match self.content.read(&mut block, offset, length) {
            Ok(()) => Ok(Piece::Data {
                first,
                block,
                length,
            }),
            Err(error) => self.failed(first, chunks_of(length as u64), offset, error),
        }
    }

    fn failed(
        &self,
        first: u64,
        count: u64,
        offset: u64,
        source: io::Error,
    ) -> Result<Piece, PorterError> {
        // A file that became shorter while it was read is short only until the next pass.
        let passing = source.kind() == io::ErrorKind::UnexpectedEof;
        match self.tolerance {
            Tolerance::Skip if passing || source.raw_os_error().is_none() => {
                Ok(Piece::Unknown { first, count })
            }
            Tolerance::Skip | Tolerance::Fail => Err(PorterError::Place {
                operation: "read",
                path: self.path.display().to_string(),
                offset,
                source,
            }),
        }
    }
}
