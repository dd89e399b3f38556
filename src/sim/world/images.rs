//! Disk images as real files: creating, measuring, growing, removing.
//!
//! Never keeps an image open. The guest-visible size always comes from the file itself.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatCreateBuilder, FormatDriverBuilder, PermissiveImplicitOpenGate};
use imago::{Storage, StorageCreateOptions};

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The size the guest sees, in bytes.
    pub size: u64,
    /// The bytes the file takes on disk.
    pub used: u64,
    /// Unix time of the last change.
    pub changed: i64,
}

/// Returns what Proxmox VE takes for the format of a volume: that of its name's ending.
pub fn format_of(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "raw" => Some("raw"),
        "qcow2" => Some("qcow2"),
        "vmdk" => Some("vmdk"),
        _ => None,
    }
}

/// Creates an image of `size` bytes; fails when the file exists.
pub fn create(path: &Path, format: &str, size: u64) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match format {
        "raw" => fs::File::create_new(path)?.set_len(size),
        "qcow2" => {
            let file = File::create_open(StorageCreateOptions::new().filename(path))?;
            let builder: imago::qcow2::Qcow2CreateBuilder<File> =
                Qcow2::<File>::create_builder(file);
            builder.size(size).create()
        }
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("cannot create a {other} image"),
        )),
    }
}

/// Measures an image. `Ok(None)`: it is not in the format its name says.
pub fn measure(path: &Path, format: &str) -> io::Result<Option<ImageFacts>> {
    let meta = fs::metadata(path)?;
    let size = match format {
        "qcow2" => match open(path, false) {
            Ok(image) => image.size(),
            Err(_) => return Ok(None),
        },
        _ => meta.len(),
    };
    Ok(Some(ImageFacts {
        size,
        used: meta.blocks() * 512,
        changed: meta.mtime(),
    }))
}

/// Grows an image to `size` bytes.
pub fn grow(path: &Path, format: &str, size: u64) -> io::Result<()> {
    match format {
        "qcow2" => {
            let mut image = open(path, true)?;
            image.resize(size, imago::format::PreallocateMode::None)?;
            image.flush()
        }
        _ => fs::OpenOptions::new().write(true).open(path)?.set_len(size),
    }
}

fn open(path: &Path, writable: bool) -> io::Result<FormatAccess<File>> {
    let image = Qcow2::<File>::builder_path(path)
        .write(writable)
        .open(PermissiveImplicitOpenGate::default())?;
    Ok(FormatAccess::new(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_real_and_measured_from_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        for format in ["raw", "qcow2"] {
            let path = dir.path().join(format!("100/vm-100-disk-0.{format}"));
            create(&path, format, 5 << 20).expect("created");
            assert!(create(&path, format, 1).is_err());
            let facts = measure(&path, format).expect("readable").expect("an image");
            assert_eq!(facts.size, 5 << 20, "{format}");
            grow(&path, format, 6 << 20).expect("grown");
            let facts = measure(&path, format).expect("readable").expect("an image");
            assert_eq!(facts.size, 6 << 20, "{format}");
        }
        let broken = dir.path().join("broken.qcow2");
        fs::write(&broken, b"not an image").expect("written");
        assert_eq!(measure(&broken, "qcow2").expect("readable"), None);
    }
}
