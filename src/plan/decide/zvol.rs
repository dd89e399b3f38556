//! Deciding about zvols: where they are, what they take, and what becomes of their encryption on the way.
//!
//! Pure. The rules of encryption and of flags are in `route/stream.rs`; here they are asked, and their answers told. Read
//! next: `../route/stream.rs`.

use super::Draft;
use crate::config::{StorageConfig, StoragePath};
use crate::plan::facts::HostFacts;
use crate::plan::facts::zfs::{ZfsFacts, ZfsRights, ZvolFacts};
use crate::plan::route::stream::{self, Began, Encrypting, Sides};
use crate::plan::route::{Capability, Impossible, Place};
use crate::plan::{ConfigNote, Verdict};
use crate::pve::drive::DriveKey;
use crate::pve::id::Volid;
use crate::pve::inventory::{Storage, Volume};
use crate::transfer::{EngineKind, StreamFlags, Zvol};
use crate::units::Bytes;

/// Returns the dataset of a volume; `None` where volumes are files.
pub(super) fn dataset(section: &StorageConfig, volid: &Volid) -> Option<String> {
    match &section.path {
        StoragePath::Directory(_) => None,
        StoragePath::Zfs(dataset) => Some(format!("{dataset}/{}", volid.last_name())),
    }
}

/// Returns what a host said about a source volume that is a zvol.
pub(super) fn facts<'a>(host: &'a HostFacts, volid: &Volid) -> Option<&'a ZvolFacts> {
    host.zfs.as_ref()?.zvols.get(volid.last_name())
}

/// Returns the source volume; `None` where it is a file.
pub(super) fn source(section: &StorageConfig, host: &HostFacts, volid: &Volid) -> Option<Zvol> {
    let facts = facts(host, volid);
    Some(Zvol {
        dataset: dataset(section, volid)?,
        sparse: facts.is_some_and(|facts| facts.sparse),
        block_size: facts.and_then(|facts| facts.block_size),
    })
}

/// Returns the target volume as its storage wants it; `None` where it will be a file.
pub(super) fn target(
    section: &StorageConfig,
    storage: Option<&Storage>,
    volid: &Volid,
) -> Option<Zvol> {
    Some(Zvol {
        dataset: dataset(section, volid)?,
        sparse: is_sparse(section, storage),
        block_size: storage
            .and_then(|storage| storage.settings.get("blocksize"))
            .and_then(|text| block_size(text)),
    })
}

/// Says whether volumes of a storage take only the space they use.
pub(super) fn is_sparse(section: &StorageConfig, storage: Option<&Storage>) -> bool {
    match Place::of(&section.path) {
        Place::Directory => true,
        Place::Zfs => storage
            .and_then(|storage| storage.settings.get("sparse"))
            .is_some_and(|sparse| matches!(sparse.as_str(), "1" | "yes" | "on" | "true")),
    }
}

/// Reads a storage's `blocksize`: `16k`, `1M`, `8192`.
pub(super) fn block_size(text: &str) -> Option<Bytes> {
    let text = text.trim();
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    bytes.is_power_of_two().then_some(Bytes(bytes))
}

/// Returns the bytes a volume occupies, as far as they matter on the target.
pub(super) fn occupied(
    capability: &Capability,
    volume: &Volume,
    zvol: Option<&ZvolFacts>,
) -> Option<Bytes> {
    let Some(zvol) = zvol else {
        return volume.used;
    };
    // Files are not compressed, and neither is what the image engine carries.
    match capability.engine {
        EngineKind::Zfs => zvol.referenced.or(volume.used),
        EngineKind::Image => zvol.logical.or(volume.used),
    }
}

/// What one volume's way over or out of ZFS is decided from.
pub(super) struct Way<'a> {
    pub(super) name: &'a str,
    pub(super) key: DriveKey,
    pub(super) capability: &'a Capability,
    pub(super) source_host: &'a HostFacts,
    pub(super) target_host: &'a HostFacts,
    pub(super) source: &'a Volid,
    /// The target volume, when an earlier run recorded it.
    pub(super) recorded: Option<&'a Volid>,
    pub(super) allow_plain: bool,
    pub(super) start: bool,
}

impl Way<'_> {
    /// Returns the flags of its stream, and tells the draft what becomes of its encryption.
    pub(super) fn stream(&self, draft: &mut Draft) -> Result<StreamFlags, Impossible> {
        let zvol = facts(self.source_host, self.source);
        let (source, target) = (self.source_host.zfs.as_ref(), self.target_host.zfs.as_ref());
        let began = self
            .recorded
            .and_then(|volid| facts(self.target_host, volid).map(|facts| (volid, facts)));
        let began = match began {
            None => Began::Nothing,
            // Blocks that arrived as they were bring their own key; others have that of the dataset above them.
            Some((volid, facts)) => match &facts.encryption {
                Some(own) if own.root.ends_with(&format!("/{}", volid.last_name())) => Began::Kept,
                Some(_) | None => Began::Changed,
            },
        };
        let inherited = target.and_then(|zfs| zfs.encryption.as_ref());
        let encrypting = stream::encrypting(&Sides {
            engine: self.capability.engine,
            source: zvol.and_then(|zvol| zvol.encryption.as_ref()),
            target: inherited,
            began,
            allow_plain: self.allow_plain,
            start: self.start,
        })?;
        let flags = match (self.capability.engine, source, zvol, target) {
            (EngineKind::Zfs, Some(source), Some(zvol), Some(target)) => {
                let flags = stream::flags(source, zvol, target, encrypting)?;
                self.blocks(zvol, flags, draft);
                flags
            }
            (EngineKind::Zfs | EngineKind::Image, ..) => StreamFlags::default(),
        };
        match encrypting {
            Encrypting::Nowhere => {}
            Encrypting::Anew => {
                let root = inherited.map_or("", |encryption| encryption.root.as_str());
                draft.changes.push(ConfigNote {
                    key: self.key.to_string(),
                    action: "changed",
                    reason: format!("is encrypted on the target, with the key of {root}"),
                });
            }
            Encrypting::Kept => draft.verdicts.push(Verdict::warn(
                self.name,
                "key-stays",
                format!(
                    "{}: {} travels encrypted as it is, and its key does not travel",
                    self.key, self.source
                ),
                "load its key on the target before the guest is started there: zfs load-key DATASET",
            )),
            Encrypting::Opened => draft.verdicts.push(Verdict::warn(
                self.name,
                "lands-plain",
                format!(
                    "{}: {} is encrypted, and its copy will not be (--allow-plain)",
                    self.key, self.source
                ),
                "leave --allow-plain out, and choose a storage on an encrypted dataset",
            )),
        }
        Ok(flags)
    }

    /// Warns of blocks that become smaller on the way.
    fn blocks(&self, zvol: &ZvolFacts, flags: StreamFlags, draft: &mut Draft) {
        let Some(size) = zvol.block_size.filter(|size| *size > stream::SMALL_BLOCK) else {
            return;
        };
        if !flags.large_blocks && !flags.raw {
            draft.verdicts.push(Verdict::warn(
                self.name,
                "blocks-split",
                format!(
                    "{}: its blocks of {size} become blocks of {}, for a pool lacks the feature large_blocks",
                    self.key,
                    stream::SMALL_BLOCK
                ),
                "zpool set feature@large_blocks=enabled POOL, on both sides, to keep them",
            ));
        }
    }

    /// Refuses block devices that the login may not open: the image engine reads and writes them.
    pub(super) fn devices(&self) -> Option<Impossible> {
        let zvols = |place: Place, host: &HostFacts| match (place, &host.zfs) {
            (Place::Zfs, Some(zfs)) => closed(zfs).map(|user| (host.address.clone(), user)),
            (Place::Zfs, None) | (Place::Directory, _) => None,
        };
        let (address, user) = match self.capability.engine {
            EngineKind::Zfs => None,
            EngineKind::Image => zvols(self.capability.source, self.source_host)
                .or_else(|| zvols(self.capability.target, self.target_host)),
        }?;
        Some(Impossible {
            code: "device-right-missing",
            reason: format!("{user} may not open block devices on {address}"),
            remedy: format!("adduser {user} disk there, or log in as root"),
        })
    }
}

/// Returns the login that may not open block devices.
fn closed(zfs: &ZfsFacts) -> Option<String> {
    match &zfs.rights {
        ZfsRights::Root | ZfsRights::Delegated { devices: true, .. } => None,
        ZfsRights::Delegated { user, .. } => Some(user.clone()),
    }
}
