//! A block device as a guest's disk, used the way QEMU uses one by default: past the page cache.
//!
//! A write that has returned is in the zvol or logical volume itself, so a snapshot of that holds it, and so does what
//! another process reads, however it reads. A read finds what is there, never what this machine remembers of it. It
//! never asks where the device comes from. Read next: `image.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What addresses in memory and offsets are multiples of: no device of the last decades wants more.
const ALIGNMENT: usize = 4096;

/// An open block device.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
}

impl Device {
    /// Says whether a block device is at this path.
    pub(super) fn is_at(path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
    }

    /// Opens it.
    pub(super) fn open(path: &Path, write: bool) -> io::Result<Device> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(direct)
            .open(path)?;
        Ok(Device { file })
    }

    /// Returns its size: that of its end, as its metadata say 0.
    pub(super) fn size(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// Fills `buffer` from `offset` on, with zeros behind the end.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let lead = (offset % ALIGNMENT as u64) as usize;
        let mut bounce = Bounce::new((lead + buffer.len()).next_multiple_of(ALIGNMENT));
        let aligned = bounce.bytes();
        let begin = offset - lead as u64;
        let mut filled = 0;
        while filled < aligned.len() {
            match self
                .file
                .read_at(&mut aligned[filled..], begin + filled as u64)
            {
                Ok(0) => break,
                // Only at the end of the device can less be read than was asked for, and then it is the end.
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.copy_from_slice(&aligned[lead..lead + buffer.len()]);
        Ok(())
    }

    /// Writes whole blocks.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut bounce = Bounce::new(bytes.len());
        bounce.bytes().copy_from_slice(bytes);
        self.file.write_all_at(bounce.bytes(), offset)
    }

    /// Has the device keep what was written, should its machine lose power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Memory at an address that a device can be read to and written from; zeros at first.
struct Bounce {
    memory: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Bounce {
    fn new(length: usize) -> Bounce {
        let memory = vec![0; length + ALIGNMENT];
        let begin = memory.as_ptr().addr().next_multiple_of(ALIGNMENT) - memory.as_ptr().addr();
        Bounce {
            memory,
            begin,
            length,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned() {
        for length in [0, 1, 4096, 5000, 1 << 20] {
            let mut bounce = Bounce::new(length);
            assert_eq!(bounce.bytes().len(), length);
            assert_eq!(bounce.bytes().as_ptr().addr() % ALIGNMENT, 0, "{length}");
        }
    }

    #[test]
    fn any_part_is_read_and_whole_blocks_are_written() {
        // A file stands for the device where its file system allows O_DIRECT; a real one is in the lab.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let path = directory.path().join("device");
        File::create_new(&path)
            .and_then(|file| file.set_len(64 << 10))
            .expect("a file");
        assert!(!Device::is_at(&path));
        let Ok(device) = Device::open(&path, true) else {
            return;
        };
        assert_eq!(device.size().expect("a size"), 64 << 10);
        let block: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
        device.write(&block, 4096).expect("written");
        device.sync().expect("synced");
        for (offset, length) in [(4096, 8192), (5000, 10), (8191, 2), (100, 5000)] {
            let mut part = vec![0xff; length];
            device.read(&mut part, offset as u64).expect("read");
            let expected: Vec<u8> = (offset..offset + length)
                .map(|place| place.checked_sub(4096).map_or(0, |n| block[n]))
                .collect();
            assert_eq!(part, expected, "{offset} {length}");
        }
        let mut behind = vec![0xff; 5000];
        device.read(&mut behind, (64 << 10) - 1000).expect("read");
        assert_eq!(behind, vec![0; 5000]);
    }
}
