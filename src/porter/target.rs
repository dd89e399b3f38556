//! Writing a volume: the trait [`Disk`], raw files, and whose file it is. Block devices are in `device.rs`.
//!
//! A target volume is created here with O_EXCL, after a manifest was written that names it; a file that no manifest of
//! ours names is foreign and never touched. Read next: `manifest.rs`, `receive.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use super::chunk::{CHUNK, length_of};
use super::error::PorterError;
use super::manifest::{Header, Manifest};
use super::wire::Layout;

/// Something that can be written as a volume. Nothing is durable before [`Disk::sync`].
pub(crate) trait Disk: Send + Sync {
    /// Writes one chunk's bytes.
    fn write(&self, index: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_part(index, 0, bytes)
    }
    /// Writes some bytes at `offset` of a chunk, which do not reach beyond it.
    fn write_part(&self, index: u64, offset: usize, bytes: &[u8]) -> io::Result<()>;
    /// Reads a chunk as it was written so far, durable or not; `bytes` has its length.
    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Makes these chunks zero, and gives their space back where that is possible.
    fn zero(&self, first: u64, count: u64) -> io::Result<()>;
    /// Changes the size; new bytes are zero.
    fn resize(&mut self, size: u64) -> io::Result<()>;
    /// Returns after everything written so far is on the disk.
    fn sync(&self) -> io::Result<()>;
    /// Returns the length of a chunk, 0 past the end.
    fn length(&self, index: u64) -> usize;
}

/// A file, written as it is.
pub(crate) struct RawDisk {
    file: File,
    size: u64,
}

impl RawDisk {
    /// Takes a file that is open for writing.
    pub(crate) fn new(file: File) -> io::Result<RawDisk> {
        let size = file.metadata()?.len();
        // What is read here is scattered. Advice only.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(RawDisk { file, size })
    }
}

impl Disk for RawDisk {
    fn write_part(&self, index: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all_at(bytes, index * CHUNK as u64 + offset as u64)
    }

    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, index * CHUNK as u64)
    }

    fn zero(&self, first: u64, count: u64) -> io::Result<()> {
        let start = first * CHUNK as u64;
        let end = (first + count).saturating_mul(CHUNK as u64).min(self.size);
        if start >= end {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, punch, start, end - start) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; CHUNK];
                (first..first + count).try_for_each(|index| {
                    let length = length_of(index, self.size);
                    self.write(index, &zeros[..length])
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.size = size;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn length(&self, index: u64) -> usize {
        length_of(index, self.size)
    }
}

/// Who a file at a target's path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is no file.
    Nobody,
    /// The manifest names it.
    Us,
    /// Somebody else.
    Foreign,
}

/// Finds out whose file is at `path`, given our manifest when there is one.
pub(crate) fn owner(path: &Path, header: Option<&Header>) -> Result<Owner, PorterError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(PorterError::file("look at", path)(error)),
    };
    let Some(header) = header else {
        return Ok(Owner::Foreign);
    };
    let named = header.path == path.display().to_string() && found.is_file();
    let same = match header.inode {
        Some(inode) => inode == found.ino(),
        // We stopped between creating the file and noting its inode: then it is still empty.
        None => found.len() == 0,
    };
    Ok(if named && same {
        Owner::Us
    } else {
        Owner::Foreign
    })
}

/// A target that is ours, open and locked.
pub(crate) struct Claimed {
    /// The file.
    pub(crate) file: File,
    /// Its manifest, locked against other passes.
    pub(crate) manifest: Manifest,
    /// Whether the file has no content yet.
    pub(crate) fresh: bool,
    /// Whether the file was there without a manifest, which claims nothing now.
    pub(crate) adopted: bool,
}

/// Takes possession of the target: opens what is ours, or creates it, manifest first.
///
/// With `adopt`, the caller vouches that a file without a manifest is ours as well.
pub(crate) fn claim(
    path: &Path,
    manifest_path: &Path,
    layout: Layout,
    adopt: bool,
) -> Result<Claimed, PorterError> {
    if let Some(mut manifest) = Manifest::open_locked(manifest_path)? {
        match owner(path, Some(&manifest.header))? {
            // An adoption that was broken off.
            Owner::Foreign if adopt && manifest.header.inode.is_none() => {
                return take_over(path, manifest, layout);
            }
            Owner::Foreign => return Err(foreign(path)),
            Owner::Us => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .map_err(PorterError::file("open", path))?;
                let fresh = manifest.header.layout != layout
                    || manifest.header.inode.is_none()
                    || manifest.broken_off_by_a_crash();
                if fresh {
                    manifest.forget_all()?;
                    manifest.header.unread = false;
                }
                manifest.header.layout = layout;
                note_inode(&mut manifest, &file, path)?;
                return Ok(Claimed {
                    file,
                    manifest,
                    fresh,
                    adopted: false,
                });
            }
            Owner::Nobody => {
                manifest.forget_all()?;
                manifest.header.unread = false;
                manifest.header.path = path.display().to_string();
                manifest.header.layout = layout;
                manifest.header.inode = None;
                manifest.write_header()?;
                return create(path, manifest);
            }
        }
    }
    if owner(path, None)? != Owner::Nobody {
        let plain = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        if !adopt || !plain {
            return Err(foreign(path));
        }
        let manifest = Manifest::create_locked(manifest_path, path, layout)?;
        return take_over(path, manifest, layout);
    }
    let manifest = Manifest::create_locked(manifest_path, path, layout)?;
    create(path, manifest)
}

fn create(path: &Path, mut manifest: Manifest) -> Result<Claimed, PorterError> {
    if let Some(directory) = path.parent() {
        match std::fs::create_dir(directory) {
            Ok(()) => {
                manifest.header.made_directory = true;
                manifest.write_header()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PorterError::file("create", directory)(error)),
        }
    }
    let file = match OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        // Proxmox VE runs guests as root; nobody else has to read their disks.
        .mode(0o640)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            manifest.remove()?;
            return Err(foreign(path));
        }
        Err(error) => {
            manifest.remove()?;
            return Err(PorterError::file("create", path)(error));
        }
    };
    note_inode(&mut manifest, &file, path)?;
    Ok(Claimed {
        file,
        manifest,
        fresh: true,
        adopted: false,
    })
}

/// Opens a file that is there and that the caller says is ours; the manifest claims nothing of it.
fn take_over(path: &Path, mut manifest: Manifest, layout: Layout) -> Result<Claimed, PorterError> {
    manifest.forget_all()?;
    manifest.header.path = path.display().to_string();
    manifest.header.layout = layout;
    manifest.header.unread = true;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        // What a link leads to was never ours.
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(PorterError::file("open", path))?;
    note_inode(&mut manifest, &file, path)?;
    Ok(Claimed {
        file,
        manifest,
        fresh: false,
        adopted: true,
    })
}

fn note_inode(manifest: &mut Manifest, file: &File, path: &Path) -> Result<(), PorterError> {
    let found = file
        .metadata()
        .map_err(PorterError::file("look at", path))?;
    manifest.header.inode = Some(found.ino());
    manifest.write_header()
}

pub(crate) fn foreign(path: &Path) -> PorterError {
    PorterError::Foreign {
        path: path.display().to_string(),
    }
}
