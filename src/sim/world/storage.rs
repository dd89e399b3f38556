//! Storages and their volumes: where a volume's file is, who owns it, what is free.
//!
//! Directory storages hold images; so do zfspool storages, with a file standing for each zvol, or on a real pool
//! (`zpool.rs`). Errors are the texts Proxmox VE would die with.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::images::{self, ImageFacts};
use super::scenario::StorageSpec;
use super::{Cluster, images::format_of};

/// A volume of a directory storage, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeName {
    /// The storage.
    pub storage: String,
    /// `images`, `iso` ...
    pub content: &'static str,
    /// The guest it belongs to.
    pub owner: Option<u32>,
    /// The file's name.
    pub file: String,
}

impl VolumeName {
    /// Returns the volume's id.
    pub fn volid(&self) -> String {
        match self.owner {
            Some(_) if format_of(&self.file).is_none() => format!("{}:{}", self.storage, self.file),
            Some(owner) => format!("{}:{owner}/{}", self.storage, self.file),
            None => format!("{}:{}/{}", self.storage, self.content, self.file),
        }
    }

    /// Returns the format its name says.
    pub fn format(&self) -> &'static str {
        match self.content {
            "images" => format_of(&self.file).unwrap_or("raw"),
            _ => "iso",
        }
    }
}

/// A volume with what its file says.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its file.
    pub path: PathBuf,
    /// `None` for a file that is not in its format.
    pub facts: Option<ImageFacts>,
    /// Bytes of the file.
    pub file_size: u64,
    /// Unix time of its last change.
    pub changed: i64,
    /// Bytes on disk.
    pub used: u64,
}

/// What is used and free on a storage, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// In use.
    pub used: u64,
    /// Free.
    pub available: u64,
}

impl Cluster {
    /// Returns a storage's settings.
    pub fn storage(&self, id: &str) -> Result<&StorageSpec, String> {
        self.storages
            .iter()
            .find(|storage| storage.id == id)
            .ok_or_else(|| format!("storage '{id}' does not exist"))
    }

    /// Returns the directory of a storage on a node, mapped into the simulation's own directory.
    pub fn storage_path(&self, storage: &StorageSpec, node: &str) -> PathBuf {
        let root = match storage.shared {
            true => self.directory.join("shared"),
            false => self.directory.join(node),
        };
        root.join(storage.path.trim_start_matches('/'))
    }

    /// Returns the directory of a pool's device files; a file there stands for each zvol.
    fn zfs_devices(&self, storage: &StorageSpec, node: &str) -> PathBuf {
        let pool = storage.extra.get("pool").map_or("rpool", String::as_str);
        self.directory.join(node).join("dev/zvol").join(pool)
    }

    /// Tells whether a storage is there for a node: enabled and not bound to others.
    pub fn storage_serves(&self, storage: &StorageSpec, node: &str) -> bool {
        !storage.disabled
            && (storage.nodes.is_empty() || storage.nodes.iter().any(|name| name == node))
    }

    /// Returns a storage that may be used on a node, or the complaint.
    pub fn usable_storage(&self, id: &str, node: &str) -> Result<&StorageSpec, String> {
        let storage = self.storage(id)?;
        if storage.disabled {
            return Err(format!("storage '{id}' is disabled"));
        }
        if !self.storage_serves(storage, node) {
            return Err(format!("storage '{id}' is not available on node '{node}'"));
        }
        Ok(storage)
    }

    /// Returns a storage that is usable and mounted, or the complaint.
    pub fn active_storage(&self, id: &str, node: &str) -> Result<&StorageSpec, String> {
        let storage = self.usable_storage(id, node)?;
        if storage.unmounted {
            return Err(format!(
                "unable to activate storage '{id}' - directory is expected to be a mount point but is not mounted: '{}'",
                self.storage_path(storage, node).display()
            ));
        }
        if let Some(zpool) = storage.zpool() {
            zpool.activate()?;
        }
        Ok(storage)
    }

    /// Takes a volume id apart.
    pub fn parse_volume(&self, volid: &str) -> Result<VolumeName, String> {
        let (storage, name) = volid
            .split_once(':')
            .ok_or_else(|| format!("unable to parse volume ID '{volid}'"))?;
        self.storage(storage)?;
        if self.storage(storage)?.kind == "zfspool" {
            let is_whole = !name.contains('/')
                && !name.contains(char::is_whitespace)
                && name
                    .splitn(3, '-')
                    .nth(2)
                    .is_some_and(|rest| !rest.is_empty());
            let owner = owner_in_name(name).filter(|_| is_whole);
            return match owner {
                Some(owner) => Ok(VolumeName {
                    storage: storage.to_owned(),
                    content: "images",
                    owner: Some(owner),
                    file: name.to_owned(),
                }),
                None => Err(format!("unable to parse zfs volume name '{name}'")),
            };
        }
        let wrong = || format!("unable to parse directory volume name '{name}'");
        let (first, rest) = name.split_once('/').ok_or_else(wrong)?;
        if rest.is_empty() || rest.split('/').any(|part| part == ".." || part.is_empty()) {
            return Err(wrong());
        }
        let volume = |content, owner, file: &str| VolumeName {
            storage: storage.to_owned(),
            content,
            owner,
            file: file.to_owned(),
        };
        match first {
            "iso" if !rest.contains('/') => Ok(volume("iso", None, rest)),
            "vztmpl" if !rest.contains('/') => Ok(volume("vztmpl", None, rest)),
            "snippets" => Ok(volume("snippets", None, rest)),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let owner = digits.parse().map_err(|_| wrong())?;
                // A linked clone is named BASE-OWNER/BASE/OWNER/NAME; only plain images are supported here.
                match !rest.contains('/') && format_of(rest).is_some() {
                    true => Ok(volume("images", Some(owner), rest)),
                    false => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }

    /// Returns the file of a volume on a node.
    pub fn volume_path(&self, name: &VolumeName, node: &str) -> Result<PathBuf, String> {
        let storage = self.storage(&name.storage)?;
        if let Some(zpool) = storage.zpool() {
            return Ok(zpool.device(&name.file));
        }
        if storage.kind == "zfspool" {
            return Ok(self.zfs_devices(storage, node).join(&name.file));
        }
        let root = self.storage_path(storage, node);
        Ok(match (name.content, name.owner) {
            ("images", Some(owner)) => root.join("images").join(owner.to_string()).join(&name.file),
            ("iso", _) => root.join("template/iso").join(&name.file),
            ("vztmpl", _) => root.join("template/cache").join(&name.file),
            (other, _) => root.join(other).join(&name.file),
        })
    }

    /// Looks at a volume's file; `Ok(None)` when there is none.
    pub fn look_at_volume(&self, name: VolumeName, node: &str) -> Result<Option<Volume>, String> {
        if let Some(zpool) = self.storage(&name.storage)?.zpool() {
            return zpool.look(name);
        }
        let path = self.volume_path(&name, node)?;
        let Ok(meta) = fs::metadata(&path) else {
            return Ok(None);
        };
        let facts = images::measure(&path, name.format()).map_err(|error| error.to_string())?;
        Ok(Some(Volume {
            name,
            facts,
            file_size: meta.len(),
            changed: meta.mtime(),
            used: meta.blocks() * 512,
            path,
        }))
    }

    /// Lists the volumes of a storage on a node.
    pub fn volumes(&self, storage: &StorageSpec, node: &str) -> Vec<Volume> {
        if let Some(zpool) = storage.zpool() {
            let volume = |(name, size, used)| {
                let name = self.parse_volume(&format!("{}:{name}", storage.id)).ok()?;
                Some(zpool.volume(name, size, used))
            };
            return zpool.volumes().into_iter().filter_map(volume).collect();
        }
        if storage.kind == "zfspool" {
            let names = entries(&self.zfs_devices(storage, node)).into_iter();
            return names
                .filter_map(|(name, _)| self.parse_volume(&format!("{}:{name}", storage.id)).ok())
                .filter_map(|name| self.look_at_volume(name, node).ok().flatten())
                .collect();
        }
        let root = self.storage_path(storage, node);
        let holds = |what: &str| storage.content.split(',').any(|word| word == what);
        let mut names = Vec::new();
        if holds("images") || holds("rootdir") {
            for (owner, dir) in entries(&root.join("images")) {
                let Ok(owner) = owner.parse::<u32>() else {
                    continue;
                };
                for (file, _) in entries(&dir) {
                    if format_of(&file).is_some() {
                        names.push(("images", Some(owner), file));
                    }
                }
            }
        }
        if holds("iso") {
            for (file, _) in entries(&root.join("template/iso")) {
                names.push(("iso", None, file));
            }
        }
        names
            .into_iter()
            .filter_map(|(content, owner, file)| {
                let name = VolumeName {
                    storage: storage.id.clone(),
                    content,
                    owner,
                    file,
                };
                self.look_at_volume(name, node).ok().flatten()
            })
            .collect()
    }

    /// Returns the bytes in use on a storage.
    fn used_bytes(&self, storage: &StorageSpec, node: &str) -> u64 {
        self.volumes(storage, node).iter().map(|v| v.used).sum()
    }

    /// Returns what is used and free on a storage; `None` where it is not active.
    pub fn space(&self, storage: &StorageSpec, node: &str) -> Option<Space> {
        if !self.storage_serves(storage, node) || storage.unmounted {
            return None;
        }
        if let Some(zpool) = storage.zpool() {
            return zpool.space();
        }
        let used = self.used_bytes(storage, node);
        Some(Space {
            total: storage.capacity,
            used,
            available: storage.capacity.saturating_sub(used),
        })
    }

    /// Returns the lowest free name for a new image of a guest.
    pub fn free_volume_name(
        &self,
        storage: &StorageSpec,
        node: &str,
        vmid: u32,
        format: &str,
    ) -> VolumeName {
        let prefixes = [format!("vm-{vmid}-disk-"), format!("base-{vmid}-disk-")];
        let taken: Vec<u32> = self
            .volumes(storage, node)
            .iter()
            .filter(|volume| volume.name.owner == Some(vmid))
            .filter_map(|volume| {
                let stem = volume.name.file.split('.').next()?;
                prefixes
                    .iter()
                    .find_map(|p| stem.strip_prefix(p.as_str()))?
                    .parse()
                    .ok()
            })
            .collect();
        let number = (0..).find(|n| !taken.contains(n)).unwrap_or(0);
        VolumeName {
            storage: storage.id.clone(),
            content: "images",
            owner: Some(vmid),
            file: match storage.kind.as_str() {
                "zfspool" => format!("vm-{vmid}-disk-{number}"),
                _ => format!("vm-{vmid}-disk-{number}.{format}"),
            },
        }
    }

    /// Creates a volume with that many bytes; refuses beyond the capacity of the storage.
    pub fn allocate(&self, name: &VolumeName, node: &str, size: u64) -> Result<PathBuf, String> {
        let storage = self.active_storage(&name.storage, node)?;
        if let Some(zpool) = storage.zpool() {
            return zpool.allocate(name, size);
        }
        let path = self.volume_path(name, node)?;
        if path.exists() {
            return Err(format!("disk image '{}' already exists", path.display()));
        }
        // Images are sparse, so that only what is written counts, but an image that could never fit is refused.
        if size > 1 << 44 {
            return Err(format!(
                "unable to create image: qemu-img: {}: The image size is too large for file format '{}' (try using a \
                 larger cluster size)",
                path.display(),
                name.format()
            ));
        }
        if self.used_bytes(storage, node) >= storage.capacity {
            return Err(format!(
                "unable to create image: qemu-img: {}: No space left on device",
                path.display()
            ));
        }
        images::create(&path, name.format(), size)
            .map_err(|error| format!("unable to create image: {error}"))?;
        Ok(path)
    }

    /// Gives a volume another size.
    pub fn resize(&self, volume: &Volume, size: u64) -> Result<(), String> {
        match self.storage(&volume.name.storage)?.zpool() {
            Some(zpool) => zpool.resize(&volume.name, size),
            None => images::grow(&volume.path, volume.name.format(), size)
                .map_err(|error| error.to_string()),
        }
    }

    /// Removes a volume's file and its directory when that is empty.
    pub fn free(&self, name: &VolumeName, node: &str) -> Result<(), String> {
        if let Some(zpool) = self.storage(&name.storage)?.zpool() {
            return zpool.free(name);
        }
        let path = self.volume_path(name, node)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("unlink '{}' failed - {error}", path.display())),
        }
        if let Some(parent) = path.parent() {
            // Fails while other images are in it, which is as it should be.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Returns the owner in a name such as `vm-100-disk-0`.
pub(super) fn owner_in_name(name: &str) -> Option<u32> {
    let kinds = ["vm-", "base-", "subvol-", "basevol-"];
    let rest = kinds.iter().find_map(|kind| name.strip_prefix(kind))?;
    rest.split('-').next()?.parse().ok()
}

fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    found.sort();
    found
}
