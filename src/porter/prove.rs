//! The proof at the end of a last pass: what was written is read from the disk, and all of it has one digest.
//!
//! Writes nothing to the volume; withdraws a claim that turns out to be false. Read next: `seal.rs`.

use std::sync::Arc;

use super::chunk::{CHUNK, Digest, Fingerprint, chunks_of};
use super::content::{BLOCK, Block, Content, RawContent};
use super::error::PorterError;
use super::manifest::Manifest;
use super::qcow2::Image;
use super::receive::Order;
use super::tell::{Line, Teller};
use super::wire::Layout;

/// Opens what is really on the target's disk.
pub(crate) fn open_content(
    order: &Order,
    layout: Layout,
    size: u64,
) -> Result<Arc<dyn Content>, PorterError> {
    Ok(if order.image && layout == Layout::Guest {
        Arc::new(Image::open(&order.path)?)
    } else {
        Arc::new(RawContent::open(&order.path, Some(size))?)
    })
}

/// The chunks that were written in this pass, one bit each: 2 MiB for a TiB.
pub(crate) struct Touched {
    bits: Vec<u64>,
    chunks: u64,
}

impl Touched {
    pub(crate) fn new(chunks: u64) -> Touched {
        Touched {
            bits: Vec::new(),
            chunks,
        }
    }

    pub(crate) fn add(&mut self, first: u64, count: u64) {
        let last = first + count;
        let words = (last.div_ceil(64)) as usize;
        if self.bits.len() < words {
            self.bits.resize(words, 0);
        }
        let mut next = first;
        while next < last {
            let (word, bit) = ((next / 64) as usize, next % 64);
            let span = (64 - bit).min(last - next);
            let mask = if span == 64 {
                u64::MAX
            } else {
                ((1 << span) - 1) << bit
            };
            self.bits[word] |= mask;
            next += span;
        }
    }

    fn has(&self, index: u64) -> bool {
        self.bits
            .get((index / 64) as usize)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Returns the next run at or after `from` of at most `most` chunks.
    fn next_run(&self, from: u64, most: u64) -> Option<(u64, u64)> {
        let mut first = from;
        while first < self.chunks && !self.has(first) {
            let word = (first / 64) as usize;
            first = match self.bits.get(word) {
                None => return None,
                Some(0) => (word as u64 + 1) * 64,
                Some(_) => first + 1,
            };
        }
        let count = (first..self.chunks)
            .take(most as usize)
            .take_while(|index| self.has(*index))
            .count() as u64;
        (count > 0).then_some((first, count))
    }
}

/// Reads what was written in this pass from the disk and compares it with what was received.
pub(crate) fn read_back(
    order: &Order,
    layout: Layout,
    size: u64,
    manifest: &Manifest,
    touched: &Touched,
    teller: &Teller,
) -> Result<(), PorterError> {
    let content = open_content(order, layout, size)?;
    let path = order.path.display().to_string();
    let chunk = CHUNK as u64;
    let mut block = Block::new();
    let (mut from, mut done) = (0, 0);
    while let Some((first, count)) = touched.next_run(from, (BLOCK / CHUNK) as u64) {
        let offset = first * chunk;
        let length = ((first + count) * chunk).min(size) - offset;
        content
            .read(&mut block, offset, length as usize)
            .map_err(|source| PorterError::Place {
                operation: "read",
                path: path.clone(),
                offset,
                source,
            })?;
        let claims = manifest.read(first, count as usize)?;
        let bytes = block.bytes(length as usize);
        for (index, (claim, found)) in (first..).zip(claims.iter().zip(bytes.chunks(CHUNK))) {
            if *claim != Fingerprint::of(found) {
                // Nothing may rely on what the manifest says of this chunk.
                manifest.withdraw(&[(index, 1)])?;
                return Err(PorterError::Differs {
                    path,
                    offset: index * chunk,
                });
            }
        }
        from = first + count;
        done += length;
        teller.tell_sometimes(|| Line::Check { done });
    }
    Ok(())
}

/// Returns the digest of what the manifest claims, which must be something for every chunk.
pub(crate) fn digest(manifest: &Manifest, size: u64) -> Result<[u8; 32], PorterError> {
    let mut digest = Digest::default();
    manifest.scan(chunks_of(size), |first, claims| {
        for (index, claim) in (first..).zip(claims) {
            if *claim == Fingerprint::ABSENT {
                return Err(PorterError::Protocol(format!(
                    "nothing for chunk {index} (offset {})",
                    index * CHUNK as u64
                )));
            }
            digest.absorb(*claim, 1);
        }
        Ok(())
    })?;
    Ok(digest.finish(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_runs_come_back_in_order() {
        let mut touched = Touched::new(1000);
        for (first, count) in [(3, 1), (63, 2), (128, 64), (500, 300), (999, 1)] {
            touched.add(first, count);
        }
        let mut runs = Vec::new();
        let mut from = 0;
        while let Some((first, count)) = touched.next_run(from, 200) {
            runs.push((first, count));
            from = first + count;
        }
        assert_eq!(
            runs,
            [(3, 1), (63, 2), (128, 64), (500, 200), (700, 100), (999, 1)]
        );
    }
}
