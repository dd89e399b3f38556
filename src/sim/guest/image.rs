//! A guest's disk image as the guest sees it: raw, qcow2 or a block device, read and written by offset.
//!
//! It needs no tool of the system. It never opens a file that an image refers to (a backing file). Read next:
//! `device.rs`, `fill.rs`, `../guest.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Storage,
    StorageCreateOptions, StorageOpenOptions,
};
use serde::{Deserialize, Serialize};

use super::GuestError;
use super::device::Device;

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes: a sparse file, or a block device.
    Raw,
    /// QEMU's copy-on-write format, version 3, without a backing file.
    Qcow2,
}

/// One disk of a simulated guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The drive it is attached as, such as `virtio0`; for messages.
    pub drive: String,
    /// The image file or block device.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The size of the disk, in bytes.
    pub size: u64,
}

impl Image {
    /// Creates the image: empty and sparse. Fails where the file exists.
    pub fn create(&self) -> Result<(), GuestError> {
        let created = match self.format {
            Format::Raw => File::create_new(&self.path).and_then(|file| file.set_len(self.size)),
            Format::Qcow2 => File::create_new(&self.path).and_then(|_| self.format_qcow2()),
        };
        created.map_err(|source| self.error("create", source))
    }

    fn format_qcow2(&self) -> io::Result<()> {
        let options = StorageCreateOptions::new()
            .filename(&self.path)
            .overwrite(true);
        let file = ImagoFile::create_open(options)?;
        Qcow2::<ImagoFile>::create_builder(file)
            .size(self.size)
            .create()
    }

    /// Opens the image. What is written through it is visible to others at the next [`Disk::flush`].
    pub fn open(&self, access: Access) -> Result<Disk, GuestError> {
        let write = access == Access::Write;
        let inner = match self.format {
            Format::Raw if Device::is_at(&self.path) => {
                Device::open(&self.path, write).map(Inner::Device)
            }
            Format::Raw => OpenOptions::new()
                .read(true)
                .write(write)
                .open(&self.path)
                .map(Inner::Raw),
            Format::Qcow2 => self.open_qcow2(write),
        };
        Ok(Disk {
            inner: inner.map_err(|source| self.error("open", source))?,
            image: self.clone(),
        })
    }

    fn open_qcow2(&self, write: bool) -> io::Result<Inner> {
        let options = StorageOpenOptions::new().filename(&self.path).write(write);
        let image = Qcow2::<ImagoFile>::builder(ImagoFile::open(options)?)
            .backing(None)
            .write(write)
            .open(DenyImplicitOpenGate::default())?;
        Ok(Inner::Qcow2(Box::new(FormatAccess::new(image))))
    }

    fn error(&self, verb: &'static str, source: io::Error) -> GuestError {
        GuestError::Image {
            verb,
            drive: self.drive.clone(),
            path: self.path.clone(),
            source,
        }
    }
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// An open image.
#[derive(Debug)]
pub struct Disk {
    inner: Inner,
    image: Image,
}

#[derive(Debug)]
enum Inner {
    Raw(File),
    Device(Device),
    Qcow2(Box<FormatAccess<ImagoFile>>),
}

impl Disk {
    /// Returns the size that the image has, which need not be the one that was expected.
    pub fn size(&self) -> Result<u64, GuestError> {
        match &self.inner {
            Inner::Raw(file) => file
                .metadata()
                .map(|metadata| metadata.len())
                .map_err(|source| self.image.error("measure", source)),
            Inner::Device(device) => device
                .size()
                .map_err(|source| self.image.error("measure", source)),
            Inner::Qcow2(image) => Ok(image.size()),
        }
    }

    /// Fills `buffer` from `offset` on, with zeros behind the end of the disk.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), GuestError> {
        let read = match &self.inner {
            Inner::Raw(file) => read_raw(file, buffer, offset),
            Inner::Device(device) => device.read(buffer, offset),
            Inner::Qcow2(image) => image.read(buffer, offset),
        };
        read.map_err(|source| self.image.error("read", source))
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), GuestError> {
        let written = match &self.inner {
            Inner::Raw(file) => file.write_all_at(bytes, offset),
            Inner::Device(device) => device.write(bytes, offset),
            Inner::Qcow2(image) => image.write(bytes, offset),
        };
        written.map_err(|source| self.image.error("write", source))
    }

    /// Hands everything written so far to the kernel, so that other processes read it, and a killed process loses
    /// none of it. Does nothing for raw images and devices, where each write does that.
    pub fn flush(&self) -> Result<(), GuestError> {
        match &self.inner {
            Inner::Raw(_) | Inner::Device(_) => Ok(()),
            Inner::Qcow2(image) => image
                .flush()
                .map_err(|source| self.image.error("flush", source)),
        }
    }

    /// Flushes, and has the kernel write everything to the disk below.
    pub fn sync(&self) -> Result<(), GuestError> {
        self.flush()?;
        let synced = match &self.inner {
            Inner::Raw(file) => file.sync_data(),
            Inner::Device(device) => device.sync(),
            Inner::Qcow2(image) => image.sync(),
        };
        synced.map_err(|source| self.image.error("sync", source))
    }
}

fn read_raw(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
