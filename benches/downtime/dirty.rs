//! Writing an exact number of bytes into a disk, scattered in one of two ways. Never the same place twice.

use proxmove::sim::guest::{Access, Image};

use crate::Failure;

/// How what is dirty is scattered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pattern {
    /// Aligned pieces of 64 KiB, as files and logs leave them.
    Chunks,
    /// Single blocks of 4 KiB anywhere, as databases leave them.
    Blocks,
}

impl Pattern {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pattern::Chunks => "64 KiB",
            Pattern::Blocks => "random 4 KiB",
        }
    }

    fn unit(self) -> u64 {
        match self {
            Pattern::Chunks => 64 << 10,
            Pattern::Blocks => 4 << 10,
        }
    }
}

/// Writes `share` of the disk anew, with bytes that do not compress; returns how many.
pub(crate) fn write(
    image: &Image,
    pattern: Pattern,
    share: f64,
    seed: u64,
) -> Result<u64, Failure> {
    let unit = pattern.unit();
    let units = image.size / unit;
    let wanted = (units as f64 * share) as usize;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut places = random.choose_multiple(0..units, wanted);
    // A guest's cache writes back in ascending order.
    places.sort_unstable();
    let disk = image.open(Access::Write)?;
    let mut bytes = vec![0; unit as usize];
    for place in &places {
        random.fill(&mut bytes);
        disk.write(&bytes, place * unit)?;
    }
    disk.sync()?;
    Ok(places.len() as u64 * unit)
}
