//! The manifest: what the target is known to hold, a fingerprint per chunk, in a file of its own.
//!
//! It claims only what was on the target's disk before the claim was written, and a claim is withdrawn before its chunk
//! is overwritten; so whatever is killed whenever, a claim is true. It also says which file is ours. The layout is a
//! header of [`HEADER`] bytes (a magic word, a length, JSON) and 32 bytes for each chunk; a hole claims nothing.
//! Never touches a volume. Read next: `receive.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::chunk::{CHUNK, Fingerprint};
use super::error::PorterError;
use super::evict;
use super::receive::SILENCE;
use super::wire::Layout;

/// Bytes before the first fingerprint.
const HEADER: u64 = 4096;
const MAGIC: &[u8; 8] = b"pxmvman1";
/// Fingerprints handled at once.
const BATCH: u64 = 2048;
/// How long to wait for an earlier pass to notice that its operator is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// How long one that has noticed takes to end; after that it is somebody's who was taken over from.
const GRACE: Duration = Duration::from_secs(3);

/// What the manifest says about the file it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The target volume.
    pub(crate) path: String,
    /// Its inode, or the guid of a zvol; `None` between writing the manifest and creating the volume.
    pub(crate) inode: Option<u64>,
    /// The volume's size at the newest pass, where the device that holds it may be larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// What the fingerprints are of.
    pub(crate) layout: Layout,
    /// Whether the directory of the volume is ours, too.
    pub(crate) made_directory: bool,
    /// Bytes of a chunk.
    pub(crate) chunk: u64,
    /// The running kernel's boot, while a pass that keeps metadata in memory (guest layout) is at work; else empty.
    pub(crate) writing_since: String,
    /// Whether the volume was there before its manifest, and nobody has read all of it yet: then its content is told from
    /// the disk, since what is not claimed need not differ.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unread: bool,
}

/// An open manifest.
pub(crate) struct Manifest {
    file: File,
    path: PathBuf,
    /// What it says about the volume; written by [`Manifest::write_header`].
    pub(crate) header: Header,
}

impl Manifest {
    /// Opens a manifest for reading; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Manifest>, PorterError> {
        match File::open(path) {
            Ok(file) => Manifest::over(file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PorterError::file("open", path)(error)),
        }
    }

    /// Opens a manifest for a pass, alone.
    pub(crate) fn open_locked(path: &Path) -> Result<Option<Manifest>, PorterError> {
        loop {
            let file = match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(PorterError::file("open", path)(error)),
            };
            lock(&file, path, LOCK_PATIENCE)?;
            // The one that held the lock may have removed the file, and another one made it anew.
            let locked = file
                .metadata()
                .map_err(PorterError::file("look at", path))?
                .ino();
            if std::fs::metadata(path).is_ok_and(|found| found.ino() == locked) {
                return Manifest::over(file, path).map(Some);
            }
        }
    }

    fn over(file: File, path: &Path) -> Result<Manifest, PorterError> {
        let damaged = || {
            PorterError::Unsupported(format!(
                "{} is damaged or of another version of proxmove",
                path.display()
            ))
        };
        let mut head = [0; 12];
        file.read_exact_at(&mut head, 0).map_err(|_| damaged())?;
        let length = u64::from(u32::from_le_bytes([head[8], head[9], head[10], head[11]]));
        if head[..8] != *MAGIC || length > HEADER - 12 {
            return Err(damaged());
        }
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, 12).map_err(|_| damaged())?;
        let header: Header = serde_json::from_slice(&json).map_err(|_| damaged())?;
        if header.chunk != CHUNK as u64 {
            return Err(damaged());
        }
        Ok(Manifest {
            file,
            path: path.to_owned(),
            header,
        })
    }

    /// Creates a manifest that claims nothing, for a volume that does not exist yet, and locks it.
    ///
    /// It appears complete or not at all.
    pub(crate) fn create_locked(
        path: &Path,
        volume: &Path,
        layout: Layout,
    ) -> Result<Manifest, PorterError> {
        let draft = path.with_extension(format!("manifest-{}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(PorterError::file("create", &draft))?;
        lock(&file, &draft, Duration::ZERO)?;
        let manifest = Manifest {
            file,
            path: path.to_owned(),
            header: Header {
                path: volume.display().to_string(),
                inode: None,
                size: None,
                layout,
                made_directory: false,
                chunk: CHUNK as u64,
                writing_since: String::new(),
                unread: false,
            },
        };
        manifest.write_header()?;
        // Of two passes that begin at the same moment, one must lose before the volume is created.
        let placed = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &draft,
            rustix::fs::CWD,
            path,
            rustix::fs::RenameFlags::NOREPLACE,
        );
        match placed {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                remove_file(&draft)?;
                return Err(busy(path));
            }
            // A file system that cannot promise that.
            Err(_) => {
                std::fs::rename(&draft, path).map_err(PorterError::file("create", path))?;
            }
        }
        sync_directory(path)?;
        Ok(manifest)
    }

    /// Writes the header, durably.
    pub(crate) fn write_header(&self) -> Result<(), PorterError> {
        let json = serde_json::to_vec(&self.header)
            .map_err(|error| PorterError::file("write", &self.path)(error.into()))?;
        if json.len() as u64 > HEADER - 12 {
            return Err(PorterError::Unsupported(String::from(
                "the target's path is too long",
            )));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes.resize(HEADER as usize, 0);
        self.file
            .write_all_at(&bytes, 0)
            .map_err(PorterError::file("write", &self.path))?;
        self.sync()
    }

    /// Returns what is claimed of `count` chunks from `first` on.
    pub(crate) fn read(&self, first: u64, count: usize) -> Result<Vec<Fingerprint>, PorterError> {
        let mut bytes = vec![0; count * 32];
        let mut filled = 0;
        while filled < bytes.len() {
            let at = HEADER + first * 32 + filled as u64;
            match self.file.read_at(&mut bytes[filled..], at) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PorterError::file("read", &self.path)(error)),
            }
        }
        Ok(bytes
            .as_chunks::<32>()
            .0
            .iter()
            .copied()
            .map(Fingerprint)
            .collect())
    }

    /// Returns how many chunks it speaks of; all further ones are unknown.
    pub(crate) fn chunks(&self) -> Result<u64, PorterError> {
        let length = self
            .file
            .metadata()
            .map_err(PorterError::file("look at", &self.path))?
            .len();
        Ok(length.saturating_sub(HEADER) / 32)
    }

    /// Calls `each` with runs of up to a few thousand claims for the chunks before `end`, in order.
    pub(crate) fn scan(
        &self,
        end: u64,
        mut each: impl FnMut(u64, &[Fingerprint]) -> Result<(), PorterError>,
    ) -> Result<(), PorterError> {
        let mut first = 0;
        while first < end {
            let count = (end - first).min(BATCH);
            each(first, &self.read(first, count as usize)?)?;
            first += count;
        }
        Ok(())
    }

    /// Writes the same claim for `count` chunks. Not durable before [`Manifest::sync`].
    pub(crate) fn write(
        &self,
        first: u64,
        mut count: u64,
        fingerprint: Fingerprint,
    ) -> Result<(), PorterError> {
        let bytes = fingerprint.0.repeat(count.min(BATCH) as usize);
        let mut next = first;
        while count > 0 {
            let now = count.min(BATCH);
            self.file
                .write_all_at(&bytes[..now as usize * 32], HEADER + next * 32)
                .map_err(PorterError::file("write", &self.path))?;
            next += now;
            count -= now;
        }
        Ok(())
    }

    /// Withdraws what is claimed of these chunks, durably when anything was. Call before overwriting them.
    pub(crate) fn withdraw(&self, runs: &[(u64, u64)]) -> Result<(), PorterError> {
        let mut withdrawn = false;
        let end = self.chunks()?;
        for (first, count) in runs {
            let mut next = *first;
            let stop = (first + count).min(end);
            while next < stop {
                let now = (stop - next).min(BATCH);
                let claims = self.read(next, now as usize)?;
                if claims.iter().any(|claim| *claim != Fingerprint::ABSENT) {
                    self.write(next, now, Fingerprint::ABSENT)?;
                    withdrawn = true;
                }
                next += now;
            }
        }
        // Without this, a power failure could bring back the claim beside the new data.
        if withdrawn { self.sync() } else { Ok(()) }
    }

    /// Forgets all claims from chunk `end` on, durably.
    pub(crate) fn truncate(&self, end: u64) -> Result<(), PorterError> {
        if self.chunks()? > end {
            self.file
                .set_len(HEADER + end * 32)
                .map_err(PorterError::file("shorten", &self.path))?;
            self.sync()?;
        }
        Ok(())
    }

    /// Forgets all claims, durably.
    pub(crate) fn forget_all(&self) -> Result<(), PorterError> {
        self.truncate(0)
    }

    /// Forgets all claims about a volume that is complete, durably: what it holds is told from the disk then.
    pub(crate) fn doubt(&mut self) -> Result<(), PorterError> {
        self.suspect()?;
        self.forget_all()
    }

    /// Notes, durably, that claims may be wrong: until one pass has read all of the volume, passes tell what is on the disk.
    pub(crate) fn suspect(&mut self) -> Result<(), PorterError> {
        self.header.unread = true;
        self.write_header()
    }

    /// Makes all claims durable.
    pub(crate) fn sync(&self) -> Result<(), PorterError> {
        rustix::fs::fdatasync(&self.file)
            .map_err(io::Error::from)
            .map_err(PorterError::file("write out", &self.path))
    }

    /// Notes that a pass is at work which keeps an image's metadata in memory, or that it ended in order.
    pub(crate) fn set_writing(&mut self, writing: bool) -> Result<(), PorterError> {
        self.header.writing_since = if writing { boot_id() } else { String::new() };
        self.write_header()
    }

    /// Says whether the machine itself went down under such a pass: then the image's metadata cannot be trusted.
    ///
    /// A killed process is no such case: what it wrote is in the kernel's hands, in the order in which it was written.
    pub(crate) fn broken_off_by_a_crash(&self) -> bool {
        !self.header.writing_since.is_empty() && self.header.writing_since != boot_id()
    }

    /// Removes the manifest's file.
    pub(crate) fn remove(&self) -> Result<(), PorterError> {
        remove_file(&self.path)
    }
}

/// Removes a file of ours; that there is none is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), PorterError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PorterError::file("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), PorterError> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let file = File::open(directory).map_err(PorterError::file("open", directory))?;
    match rustix::fs::fsync(&file) {
        // Some network file systems do not sync directories, since they write them through.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(PorterError::file("write out", directory)(error.into())),
    }
}

fn busy(path: &Path) -> PorterError {
    PorterError::Busy {
        path: path.display().to_string(),
        patience: SILENCE.as_secs(),
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| String::from("unknown"))
}

fn lock(file: &File, path: &Path, patience: Duration) -> Result<(), PorterError> {
    let started = Instant::now();
    let mut evicted = false;
    loop {
        if !evicted && started.elapsed() >= GRACE {
            evicted = true;
            evict::others(path);
        }
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(busy(path));
            }
            // A file system without locks: go on without.
            Err(
                rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK,
            ) => {
                return Ok(());
            }
            Err(error) => return Err(PorterError::file("lock", path)(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole() -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.manifest");
        let manifest =
            Manifest::create_locked(&path, Path::new("/srv/x.raw"), Layout::File).expect("made");
        manifest
            .write(0, 3, Fingerprint::of(b"some"))
            .expect("written");
        std::fs::read(&path).expect("read")
    }

    proptest! {
        #[test]
        fn fuzz_manifests(bytes in crate::mutations::bytes(vec![whole()])) {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            io::Write::write_all(&mut file, &bytes).expect("written");
            if let Ok(Some(manifest)) = Manifest::open(file.path()) {
                let chunks = manifest.chunks().expect("a number");
                prop_assert!(chunks <= bytes.len() as u64);
                manifest.scan(chunks, |_, _| Ok(())).expect("read to its end");
                let _ = (manifest.read(0, 5), manifest.broken_off_by_a_crash());
            }
        }
    }
}
