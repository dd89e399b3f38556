//! Writing to a block device: whose it is, how it is taken, and how its space is given back.
//!
//! A device has no inode that would tell it from another one of the same name, and a porter cannot ask ZFS. So the
//! engine, which reads on the zvol itself that it is ours, hands its guid over, and the manifest keeps that in place of
//! an inode: of a zvol that was made anew under the same name, the manifest then claims nothing. A device for which no
//! guid is given is foreign, and so is anything at a device's path that is none, such as a file that was left in /dev.
//!
//! A device may be larger than the volume, since sizes are rounded up; what lies behind the volume is zero. Its size is
//! never changed here.
//!
//! What is read back goes past the page cache, but not past the cache of ZFS: it proves what ZFS was given, and that the
//! disks keep it is proved by ZFS's own checksums when they are read. Read next: `target.rs` (files), `transfer/device.rs` (who makes and marks a zvol).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::chunk::{CHUNK, Fingerprint, chunks_of, is_zero, length_of};
use super::error::PorterError;
use super::manifest::{Header, Manifest};
use super::target::{Disk, Owner, foreign};
use super::wire::Layout;

/// What the engine says of a device that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Tells it from another one of the same name.
    pub(crate) guid: u64,
    /// Whether it was made for this pass, and so reads as zeros.
    pub(crate) fresh: bool,
}

/// Finds out whose device is at `path`, given what the engine says of it.
pub(crate) fn owner(path: &Path) -> Result<Owner, PorterError> {
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => Ok(Owner::Us),
        Ok(_) => Ok(Owner::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Owner::Nobody),
        Err(error) => Err(PorterError::file("look at", path)(error)),
    }
}

/// Says whether a manifest speaks of this very device.
pub(crate) fn is_named(path: &Path, header: &Header, device: Device) -> bool {
    header.path == path.display().to_string() && header.inode == Some(device.guid)
}

/// Takes possession of a device for a volume of `size` bytes. The manifest comes back locked and true.
pub(crate) fn claim(
    path: &Path,
    manifest_path: &Path,
    layout: Layout,
    device: Device,
    size: u64,
) -> Result<(DeviceDisk, Manifest), PorterError> {
    let mut manifest = match Manifest::open_locked(manifest_path)? {
        Some(manifest) => manifest,
        None => Manifest::create_locked(manifest_path, path, layout)?,
    };
    if owner(path)? != Owner::Us {
        return Err(foreign(path));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        // Fails while a file system is mounted from it, or another receiver writes to it.
        .custom_flags(OFlags::EXCL.bits() as i32)
        .open(path)
        .map_err(PorterError::file("open", path))?;
    let known = is_named(path, &manifest.header, device);
    if !known || manifest.header.layout != layout {
        manifest.forget_all()?;
    }
    let old_size = manifest.header.size.unwrap_or(size);
    if known && old_size != size {
        // The chunk in which the volume ended or will end becomes another one.
        let edge = old_size.min(size);
        if edge % CHUNK as u64 != 0 {
            manifest.withdraw(&[(edge / CHUNK as u64, 1)])?;
        }
        manifest.truncate(chunks_of(size))?;
    }
    let disk = DeviceDisk::new(file, path, size)?;
    manifest.header.path = path.display().to_string();
    manifest.header.layout = layout;
    manifest.header.inode = Some(device.guid);
    manifest.header.size = Some(size);
    if !known {
        // One that was not made for this pass may hold much of what is to come.
        manifest.header.unread = !device.fresh;
    }
    manifest.write_header()?;
    if device.fresh && !known {
        manifest.write(0, chunks_of(size), Fingerprint::ZERO)?;
        manifest.sync()?;
    }
    Ok((disk, manifest))
}

/// Returns the size of a device, or of a file.
pub(crate) fn measure(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// A block device, written as it is.
pub(crate) struct DeviceDisk {
    file: File,
    path: PathBuf,
    size: u64,
    discards: AtomicBool,
}

impl DeviceDisk {
    /// Takes a device that is open for writing; makes sure that the volume fits and that what lies behind it is zero.
    fn new(file: File, path: &Path, size: u64) -> Result<DeviceDisk, PorterError> {
        let room = measure(&file).map_err(PorterError::file("measure", path))?;
        if room < size {
            return Err(PorterError::Unsupported(format!(
                "{} has {room} bytes, and the volume needs {size}",
                path.display()
            )));
        }
        let disk = DeviceDisk {
            file,
            path: path.to_owned(),
            size,
            discards: AtomicBool::new(true),
        };
        // Read ahead would fetch what nobody asks for. Advice only.
        let _ = rustix::fs::fadvise(&disk.file, 0, None, Advice::Random);
        disk.wipe(size, room)
            .map_err(PorterError::file("prepare", path))?;
        Ok(disk)
    }

    /// Asks the device to give the space of a range back, which promises nothing about what it reads as then.
    ///
    /// By util-linux' own tool, since the system call for it cannot be made without unsafe code. Where that does not
    /// work, the space stays taken unless ZFS compresses zeros away.
    fn discard(&self, start: u64, length: u64) {
        if !self.discards.load(Ordering::Relaxed) {
            return;
        }
        let done = Command::new("blkdiscard")
            // We have the device open ourselves, exclusively.
            .arg("--force")
            .args(["--offset", &start.to_string()])
            .args(["--length", &length.to_string()])
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !done.is_ok_and(|status| status.success()) {
            self.discards.store(false, Ordering::Relaxed);
        }
    }

    /// Makes a range zero by writing where it is not.
    ///
    /// What is zero already is left alone: where ZFS does not compress, written zeros would take space.
    fn wipe(&self, start: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; CHUNK];
        let mut found = vec![0; CHUNK];
        let mut at = start;
        while at < end {
            let length = (end - at).min(CHUNK as u64) as usize;
            self.file.read_exact_at(&mut found[..length], at)?;
            if !is_zero(&found[..length]) {
                self.file.write_all_at(&zeros[..length], at)?;
            }
            at += length as u64;
        }
        Ok(())
    }
}

impl Disk for DeviceDisk {
    fn write_part(&self, index: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all_at(bytes, index * CHUNK as u64 + offset as u64)
    }

    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, index * CHUNK as u64)
    }

    /// Gives the space back where the device can, and the kernel promises that it then reads as zeros. A zvol can only
    /// discard, which leaves the beginning and the end of a range alone that are no whole blocks of it; so what is not
    /// zero after that is written.
    fn zero(&self, first: u64, count: u64) -> io::Result<()> {
        let start = first * CHUNK as u64;
        let end = (first + count).saturating_mul(CHUNK as u64).min(self.size);
        if start >= end {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, punch, start, end - start) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        self.discard(start, end - start);
        self.wipe(start, end)
    }

    /// Only says whether the volume fits: the size of a device is not changed here.
    fn resize(&mut self, size: u64) -> io::Result<()> {
        if measure(&self.file)? < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.size = size;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        rustix::fs::fdatasync(&self.file)?;
        // What was written is not kept in memory beside what ZFS keeps of it. Advice only.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    fn length(&self, index: u64) -> usize {
        length_of(index, self.size)
    }
}
