//! Filling an image with what disks hold: data that compresses and data that does not, zeros, and holes.
//!
//! Read next: `image.rs`.

use super::GuestError;
use super::image::{Access, Image};

/// What is decided at once. Larger than a cluster of qcow2 and smaller than what a file system allocates for a file of
/// some size, so both formats come out sparse.
const EXTENT: usize = 1 << 20;
/// Of eight written extents: so many hold noise, so many text, and the rest zeros, which a guest has written too.
const NOISE_OF_EIGHT: u8 = 3;
const TEXT_OF_EIGHT: u8 = 3;

/// Writes about `fraction` (0 to 1) of an image's extents of 1 MiB and leaves the others as they are: holes, in an
/// image that was just created.
///
/// The same seed gives the same content. Returns the number of bytes written, zeros included.
pub fn fill(image: &Image, fraction: f64, seed: u64) -> Result<u64, GuestError> {
    let disk = image.open(Access::Write)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = 0;
    let mut offset = 0;
    let mut extent = vec![0; EXTENT];
    while offset < image.size {
        let length = (image.size - offset).min(EXTENT as u64);
        if random.f64() < fraction {
            draw(&mut extent, &mut random);
            disk.write(&extent[..length as usize], offset)?;
            written += length;
        }
        offset += length;
    }
    disk.sync()?;
    Ok(written)
}

fn draw(extent: &mut [u8], random: &mut fastrand::Rng) {
    match random.u8(..8) {
        kind if kind < NOISE_OF_EIGHT => random.fill(extent),
        kind if kind < NOISE_OF_EIGHT + TEXT_OF_EIGHT => {
            // Lines that differ in their numbers, like a log: compresses to about a fifth.
            let mut text = Vec::with_capacity(extent.len() + 64);
            while text.len() < extent.len() {
                text.extend_from_slice(
                    format!(
                        "{:08x} guest[{}]: wrote block\n",
                        random.u32(..),
                        random.u8(..)
                    )
                    .as_bytes(),
                );
            }
            extent.copy_from_slice(&text[..extent.len()]);
        }
        _ => extent.fill(0),
    }
}
