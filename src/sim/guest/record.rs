//! The record a simulated guest writes: one block of 4 KiB that says what it is, and proves it.
//!
//! Pure. A record that was written in part, or mixed with another, does not pass its own BLAKE3. Read next:
//! `ledger.rs`, which knows what records must be on a disk.
//!
//! ```text
//!    0  magic            8 bytes
//!    8  seed             u64, little endian like all that follow
//!   16  sequence         u64, counts the guest's writes from 1, over all its disks
//!   24  disk             u64, which of the guest's disks
//!   32  offset           u64, in the disk as the guest sees it
//!   40  payload          4024 bytes derived from the above
//! 4064  BLAKE3           32 bytes over all before
//! ```

/// The size of a record, and what its offsets are multiples of: the smallest write of most file systems.
pub const RECORD: usize = 4096;

const MAGIC: &[u8; 8] = b"\xC3proxrec";
const PAYLOAD: usize = 40;
const HASH: usize = RECORD - blake3::OUT_LEN;

/// What identifies a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The guest's seed.
    pub seed: u64,
    /// The number of the write.
    pub sequence: u64,
    /// The index of the disk.
    pub disk: u64,
    /// Where on the disk, in bytes.
    pub offset: u64,
}

/// What a block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// A whole record.
    Whole(Record),
    /// The beginning or the end of a record, with something else in it.
    Torn,
    /// Nothing that a guest wrote.
    Other,
}

impl Record {
    /// Returns the record's block.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; RECORD];
        block[..8].copy_from_slice(MAGIC);
        for (place, value) in [self.seed, self.sequence, self.disk, self.offset]
            .into_iter()
            .enumerate()
        {
            block[8 + place * 8..16 + place * 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut payload = blake3::Hasher::new();
        payload.update(&block[..PAYLOAD]);
        payload.finalize_xof().fill(&mut block[PAYLOAD..HASH]);
        let hash = blake3::hash(&block[..HASH]);
        block[HASH..].copy_from_slice(hash.as_bytes());
        block
    }

    /// Says what a block is. A block of another size than [`RECORD`] is [`Block::Other`].
    pub fn decode(block: &[u8]) -> Block {
        if block.len() != RECORD || !block.starts_with(MAGIC) {
            return Block::Other;
        }
        let number = |place: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&block[place..place + 8]);
            u64::from_le_bytes(bytes)
        };
        let record = Record {
            seed: number(8),
            sequence: number(16),
            disk: number(24),
            offset: number(32),
        };
        // Not only the hash: a record may not hold what no writer would have put there.
        if record.encode() == block {
            Block::Whole(record)
        } else {
            Block::Torn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD_7: Record = Record {
        seed: 1,
        sequence: 7,
        disk: 0,
        offset: 8192,
    };

    #[test]
    fn a_record_survives_and_a_torn_one_is_known() {
        let block = RECORD_7.encode();
        assert_eq!(Record::decode(&block), Block::Whole(RECORD_7));
        let newer = Record {
            sequence: 8,
            ..RECORD_7
        }
        .encode();
        for cut in [16, 17, 40, 512, 2048, 4064, 4095] {
            let mut mixed = newer[..cut].to_vec();
            mixed.extend(&block[cut..]);
            assert_eq!(
                Record::decode(&mixed),
                if cut == 16 {
                    Block::Whole(RECORD_7)
                } else {
                    Block::Torn
                }
            );
        }
        assert_eq!(Record::decode(&[0; RECORD]), Block::Other);
        assert_eq!(Record::decode(&block[1..]), Block::Other);
    }

    proptest::proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(bit in 0..RECORD * 8) {
            let mut block = RECORD_7.encode();
            block[bit / 8] ^= 1 << (bit % 8);
            proptest::prop_assert!(!matches!(Record::decode(&block), Block::Whole(_)));
        }
    }
}
