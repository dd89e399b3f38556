//! QCOW2 images by what the guest sees: reading and writing their content through the crate imago.
//!
//! Only used when source and target have different formats. Images with a backing file or an external data file are
//! refused, since their content is not in the file alone, and so are encrypted ones and such that use a feature imago
//! does not know. Nothing in an image can make the porter open another file. Read
//! next: `target.rs`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::RwLock;

use imago::file::File as ImageFile;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping,
};
use rustix::fs::Advice;

use super::chunk::{CHUNK, length_of};
use super::content::{Block, Content, Extent};
use super::error::PorterError;
use super::target::Disk;

/// The guest's view of an image.
pub(crate) struct Image {
    // Reading and writing share the lock; discarding clusters needs it alone, as imago demands.
    access: RwLock<FormatAccess<ImageFile>>,
    file: File,
    size: u64,
}

impl Image {
    /// Opens an image for reading. What the page cache held of it is written out and dropped before.
    pub(crate) fn open(path: &Path) -> Result<Image, PorterError> {
        let file = File::open(path).map_err(PorterError::file("open", path))?;
        rustix::fs::fdatasync(&file)
            .map_err(io::Error::from)
            .map_err(PorterError::file("write out", path))?;
        // Advice only.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Image::over(file, path, false)
    }

    /// Opens an image of ours for writing.
    pub(crate) fn open_writable(file: File, path: &Path) -> Result<Image, PorterError> {
        Image::over(file, path, true)
    }

    /// Formats `file`, which is ours and loses all content, as an image of `size` bytes with 64 KiB clusters.
    pub(crate) fn create(file: File, path: &Path, size: u64) -> Result<Image, PorterError> {
        let trouble = || PorterError::file("format", path);
        file.set_len(0).map_err(trouble())?;
        let storage = duplicate(&file).map_err(trouble())?;
        Qcow2::<ImageFile>::create_builder(storage)
            .size(size)
            .cluster_size(CHUNK)
            .create()
            .map_err(trouble())?;
        Image::over(file, path, true)
    }

    fn over(file: File, path: &Path, write: bool) -> Result<Image, PorterError> {
        let trouble = || PorterError::file("read the image", path);
        let mut head = [0; 36];
        file.read_exact_at(&mut head, 0).map_err(trouble())?;
        // Bytes 32 to 35 say how the content is encrypted; imago would hand out what is stored.
        if head[..4] == *b"QFI\xfb" && head[32..] != [0; 4] {
            return Err(PorterError::Unsupported(format!(
                "{} is encrypted; only images that are not can be converted",
                path.display()
            )));
        }
        let storage = duplicate(&file).map_err(trouble())?;
        let image = Qcow2::<ImageFile>::builder(storage)
            .backing(None)
            .data_file(None)
            .write(write)
            .open(DenyImplicitOpenGate::default())
            .map_err(trouble())?;
        if image.implicit_backing_file().is_some() {
            return Err(PorterError::Unsupported(format!(
                "{} has a backing file; only images that stand alone can be converted",
                path.display()
            )));
        }
        if image.requires_external_data_file() {
            return Err(PorterError::Unsupported(format!(
                "{} keeps its data in another file; only images that stand alone can be converted",
                path.display()
            )));
        }
        let access = FormatAccess::new(image);
        let size = access.size();
        Ok(Image {
            access: RwLock::new(access),
            file,
            size,
        })
    }

    fn shared(&self) -> io::Result<std::sync::RwLockReadGuard<'_, FormatAccess<ImageFile>>> {
        self.access
            .read()
            .map_err(|_| io::Error::other("an earlier operation on the image failed"))
    }

    fn alone(&self) -> io::Result<std::sync::RwLockWriteGuard<'_, FormatAccess<ImageFile>>> {
        self.access
            .write()
            .map_err(|_| io::Error::other("an earlier operation on the image failed"))
    }
}

fn duplicate(file: &File) -> io::Result<ImageFile> {
    ImageFile::try_from(file.try_clone()?)
}

impl Content for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let access = self.shared()?;
        let size = self.size;
        let kind = |at: u64| -> io::Result<(bool, u64)> {
            let (mapping, length) = access.get_mapping(at, size - at)?;
            Ok((matches!(mapping, Mapping::Zero { .. }), length))
        };
        let (zero, length) = kind(offset)?;
        let mut end = offset + length;
        // Runs end at every table of the image; join what follows, up to a bound that keeps this call short.
        for _ in 0..64 {
            if end >= size || length == 0 || (!zero && end - offset >= CHUNK as u64) {
                break;
            }
            match kind(end)? {
                (next, more) if next == zero && more > 0 => end += more,
                _ => break,
            }
        }
        Ok(Extent {
            zero,
            end: end.min(size),
        })
    }

    fn read(&self, block: &mut Block, offset: u64, length: usize) -> io::Result<()> {
        self.shared()?.read(block.bytes_mut(length), offset)
    }
}

impl Disk for Image {
    fn write_part(&self, index: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.shared()?
            .write(bytes, index * CHUNK as u64 + offset as u64)
    }

    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.shared()?.read(bytes, index * CHUNK as u64)
    }

    fn zero(&self, first: u64, count: u64) -> io::Result<()> {
        let mut access = self.alone()?;
        let mut at = first * CHUNK as u64;
        let end = (first + count).saturating_mul(CHUNK as u64).min(self.size);
        while at < end {
            let (mapping, length) = access.get_mapping(at, end - at)?;
            let zero = matches!(mapping, Mapping::Zero { .. });
            let length = length.clamp(1, end - at);
            if !zero {
                access.discard_to_zero(at, length)?;
            }
            at += length;
        }
        Ok(())
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.alone()?.resize(size, PreallocateMode::None)?;
        self.size = size;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.shared()?.flush()?;
        rustix::fs::fsync(&self.file)?;
        Ok(())
    }

    fn length(&self, index: u64) -> usize {
        length_of(index, self.size)
    }
}
