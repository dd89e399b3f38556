//! Streams between pools: what becomes of a volume's encryption, and the flags both pools can work with.
//!
//! Pure. A stream is never decrypted silently: what was encrypted arrives encrypted, unless the operator allowed
//! otherwise. Read next: `../check/zfs.rs`.

use super::Impossible;
use crate::plan::facts::zfs::{Encryption, ZfsFacts, ZvolFacts};
use crate::transfer::{EngineKind, StreamFlags};
use crate::units::Bytes;

/// What becomes of a volume's encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypting {
    /// Neither side is encrypted.
    Nowhere,
    /// The target encrypts what arrives with its own key.
    Anew,
    /// The blocks travel as they are; their key stays where it is.
    Kept,
    /// It is encrypted on the source and not on the target, as the operator allowed.
    Opened,
}

/// What an earlier run has made of a target volume. Blocks that travel as they are and others never meet in one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// There is none yet.
    Nothing,
    /// It keeps the source's encryption.
    Kept,
    /// It does not.
    Changed,
}

/// What a decision about encryption starts from.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Who copies.
    pub engine: EngineKind,
    /// The source volume's encryption.
    pub source: Option<&'a Encryption>,
    /// The encryption of the dataset the target volume lies in.
    pub target: Option<&'a Encryption>,
    /// What an earlier run has made of the target volume.
    pub began: Began,
    /// `--allow-plain`.
    pub allow_plain: bool,
    /// Whether the guest will be started on the target.
    pub start: bool,
}

/// Decides what becomes of a volume's encryption.
pub fn encrypting(sides: &Sides<'_>) -> Result<Encrypting, Impossible> {
    let Some(source) = sides.source else {
        return match sides.target {
            None => Ok(Encrypting::Nowhere),
            Some(target) if target.key_loaded => Ok(Encrypting::Anew),
            Some(target) => Err(Impossible {
                code: "target-key-not-loaded",
                reason: format!(
                    "the target's dataset is encrypted, and the key of {} is not loaded there",
                    target.root
                ),
                remedy: format!("load it on the target's host: zfs load-key {}", target.root),
            }),
        };
    };
    let kept = match sides.engine {
        EngineKind::Zfs => sides.began != Began::Changed,
        EngineKind::Image => false,
    };
    if !kept && !source.key_loaded {
        return Err(Impossible {
            code: "source-key-not-loaded",
            reason: format!(
                "it is encrypted, and the key of {} is not loaded",
                source.root
            ),
            remedy: format!(
                "load it on the source's host: zfs load-key {}; or begin with a ZFS storage, which needs no key",
                source.root
            ),
        });
    }
    let unlocked = source.key_loaded && sides.began != Began::Kept;
    match sides.target {
        Some(target) if unlocked && target.key_loaded => Ok(Encrypting::Anew),
        None if unlocked && sides.allow_plain => Ok(Encrypting::Opened),
        Some(_) | None if kept && !sides.start => Ok(Encrypting::Kept),
        Some(target) if kept && !target.key_loaded => Err(stays(&format!(
            "load the key of the target's dataset: zfs load-key {}",
            target.root
        ))),
        Some(_) | None if kept => Err(stays(if source.key_loaded {
            "choose a storage on an encrypted dataset, or let it lie there unencrypted with --allow-plain"
        } else {
            "load its key on the source first"
        })),
        Some(_) | None => Err(Impossible {
            code: "encryption-lost",
            reason: "it is encrypted, and its copy would not be".to_owned(),
            remedy: "choose a ZFS storage on an encrypted dataset, or let it lie there unencrypted with --allow-plain"
                .to_owned(),
        }),
    }
}

/// Refuses to start a guest that could not read its volume.
fn stays(remedy: &str) -> Impossible {
    Impossible {
        code: "key-not-there",
        reason:
            "it is encrypted and would keep its key, which is not on the target: the guest could not start there"
                .to_owned(),
        remedy: format!(
            "{remedy}; or use --skip-start, and load the volume's key on the target before the guest is started"
        ),
    }
}

/// From this version on, compressed blocks can travel as they are, and an interrupted receive can continue.
const COMPRESSED: (u32, u32) = (0, 7);

/// The largest block that every pool and every stream knows.
pub const SMALL_BLOCK: Bytes = Bytes::kib(128);

/// Returns the flags of a stream: what the pools on both sides support.
pub fn flags(
    source: &ZfsFacts,
    zvol: &ZvolFacts,
    target: &ZfsFacts,
    encrypting: Encrypting,
) -> Result<StreamFlags, Impossible> {
    if encrypting == Encrypting::Kept {
        let zstd = zvol.compression.starts_with("zstd");
        let large = zvol.block_size.is_some_and(|size| size > SMALL_BLOCK);
        let needed = [
            ("encryption", true),
            ("lz4_compress", source.uses("lz4_compress")),
            ("zstd_compress", zstd),
            ("large_blocks", large),
        ];
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|(feature, needed)| *needed && !target.has(feature))
            .map(|(feature, _)| feature)
            .collect();
        if !missing.is_empty() {
            return Err(Impossible {
                code: "pool-feature-missing",
                reason: format!(
                    "it is encrypted and travels as it is, which the target's pool cannot take without: {}",
                    missing.join(", ")
                ),
                remedy: "enable the features on the target's pool (zpool set feature@NAME=enabled POOL), or let it lie \
                         there unencrypted with --allow-plain, for which its key must be loaded"
                    .to_owned(),
            });
        }
        // It implies all others.
        return Ok(StreamFlags {
            raw: true,
            ..StreamFlags::default()
        });
    }
    let new_enough = |facts: &ZfsFacts| facts.version.is_some_and(|version| version >= COMPRESSED);
    let readable = |feature| target.has(feature) || !source.uses(feature);
    let both = |feature| source.has(feature) && target.has(feature);
    // What lies inside of a record about blocks is not encrypted, so encrypted datasets have none and take none.
    let embeds = zvol.encryption.is_none() && target.encryption.is_none();
    Ok(StreamFlags {
        compressed: new_enough(source)
            && new_enough(target)
            && readable("lz4_compress")
            && readable("zstd_compress"),
        large_blocks: both("large_blocks"),
        embedded: embeds && both("embedded_data"),
        raw: false,
    })
}

#[cfg(test)]
mod tests;
