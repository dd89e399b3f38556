//! Chunks and their fingerprints: the units in which a copy is compared.
//!
//! Pure: bytes in, values out; reads no file and keeps no state. Read next: `wire.rs`.

/// Bytes of a chunk; the last chunk of a volume may be shorter.
///
/// 64 KiB is QEMU's default cluster, so a cluster that a guest dirtied costs one chunk; 32 bytes of fingerprint for it
/// make half a GiB of manifest for a TiB.
pub(crate) const CHUNK: usize = 64 * 1024;

/// What is known of a chunk's content: nothing, that it is all zero, or the BLAKE3 of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    /// Nothing is known. All bits zero, so that a hole in a manifest claims nothing.
    pub(crate) const ABSENT: Fingerprint = Fingerprint([0; 32]);
    /// All bytes are zero, whatever the chunk's length.
    pub(crate) const ZERO: Fingerprint = Fingerprint([0xff; 32]);

    /// Returns the fingerprint of a chunk's bytes.
    pub(crate) fn of(bytes: &[u8]) -> Fingerprint {
        if is_zero(bytes) {
            return Fingerprint::ZERO;
        }
        Fingerprint(*blake3::hash(bytes).as_bytes())
    }
}

/// Says whether all bytes are zero. Folds whole blocks, which the compiler turns into vector instructions.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<256>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Returns how many chunks hold `size` bytes.
pub(crate) fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK as u64)
}

/// Returns the length of chunk `index` of a volume of `size` bytes; 0 past its end.
pub(crate) fn length_of(index: u64, size: u64) -> usize {
    let start = index.saturating_mul(CHUNK as u64);
    size.saturating_sub(start).min(CHUNK as u64) as usize
}

/// The digest of a whole volume: BLAKE3 over all fingerprints in order, and the size.
///
/// Both sides build it from what they hold, so that equal digests mean equal content.
#[derive(Default)]
pub(crate) struct Digest {
    hasher: blake3::Hasher,
}

impl Digest {
    /// Takes in the next `count` chunks that all have this fingerprint.
    pub(crate) fn absorb(&mut self, fingerprint: Fingerprint, mut count: u64) {
        const BATCH: usize = 128;
        if count >= BATCH as u64 {
            let block = fingerprint.0.repeat(BATCH);
            while count >= BATCH as u64 {
                self.hasher.update(&block);
                count -= BATCH as u64;
            }
        }
        for _ in 0..count {
            self.hasher.update(&fingerprint.0);
        }
    }

    /// Returns the digest of a volume of `size` bytes.
    pub(crate) fn finish(mut self, size: u64) -> [u8; 32] {
        self.hasher.update(&size.to_le_bytes());
        *self.hasher.finalize().as_bytes()
    }
}

/// Returns bytes as lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_recognised_at_any_length() {
        for length in [0, 1, 255, 256, 257, 1000, CHUNK] {
            let mut bytes = vec![0; length];
            assert_eq!(Fingerprint::of(&bytes), Fingerprint::ZERO, "{length}");
            if let Some(last) = bytes.last_mut() {
                *last = 1;
                assert_ne!(Fingerprint::of(&bytes), Fingerprint::ZERO, "{length}");
            }
        }
    }

    #[test]
    fn digest_is_the_same_for_runs_and_single_chunks() {
        let other = Fingerprint::of(b"x");
        let mut runs = Digest::default();
        runs.absorb(Fingerprint::ZERO, 1000);
        runs.absorb(other, 1);
        let mut singles = Digest::default();
        for _ in 0..1000 {
            singles.absorb(Fingerprint::ZERO, 1);
        }
        singles.absorb(other, 1);
        assert_eq!(runs.finish(7), singles.finish(7));
    }

    #[test]
    fn digest_depends_on_the_size() {
        assert_ne!(Digest::default().finish(1), Digest::default().finish(2));
    }

    #[test]
    fn the_last_chunk_may_be_short() {
        assert_eq!(chunks_of(0), 0);
        assert_eq!(chunks_of(CHUNK as u64 + 1), 2);
        assert_eq!(length_of(1, CHUNK as u64 + 1), 1);
        assert_eq!(length_of(2, CHUNK as u64 + 1), 0);
    }
}
