//! Reading a volume for its digests alone, so that two of them can be compared without anything being written.
//!
//! ```text
//! span 0 1f2e...        the digest of the first 64 MiB as a guest sees them
//! span 1 ...
//! whole 17179869184 9a8b...
//! ```
//! The whole's digest is the one a final pass agrees on. Each line is also the sign that it gets on. Never writes. Read
//! next: `chunk.rs`, `content.rs`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::chunk::{CHUNK, Digest, Fingerprint, hex, length_of};
use super::content::{Ahead, BLOCK, Block, Content, Piece, RawContent, Tolerance};
use super::error::PorterError;
use super::qcow2::Image;

/// Chunks of a span.
pub(crate) const SPAN: u64 = 1024;

fn open(path: &Path, image: bool) -> Result<Arc<dyn Content>, PorterError> {
    if image {
        return Ok(Arc::new(Image::open(path)?));
    }
    let mut content = RawContent::open(path, None)?;
    content.pad_to(512);
    Ok(Arc::new(content))
}

/// Tells the digest of every span and of the whole volume.
pub(crate) fn scan(path: &Path, image: bool, output: impl Write) -> Result<(), PorterError> {
    let content = open(path, image)?;
    let size = content.size();
    let ahead = Ahead::start(content, path.to_owned(), Tolerance::Fail);
    let mut told = Spans {
        output,
        next: 0,
        span: Digest::default(),
        whole: Digest::default(),
        size,
    };
    while let Some(piece) = ahead.next() {
        match piece? {
            Piece::Zero { count, .. } => told.absorb(Fingerprint::ZERO, count)?,
            Piece::Data { block, length, .. } => {
                for chunk in block.bytes(length).chunks(CHUNK) {
                    told.absorb(Fingerprint::of(chunk), 1)?;
                }
                ahead.give_back(block);
            }
            Piece::Unknown { first, .. } => {
                return Err(PorterError::Unsupported(format!(
                    "chunk {first} of {} cannot be read",
                    path.display()
                )));
            }
        }
    }
    told.end(path)
}

/// Tells the fingerprint of each chunk of one span.
pub(crate) fn chunks(
    path: &Path,
    image: bool,
    span: u64,
    mut output: impl Write,
) -> Result<(), PorterError> {
    let content = open(path, image)?;
    let (first, size) = (span.saturating_mul(SPAN), content.size());
    let mut block = Block::new();
    let per_block = (BLOCK / CHUNK) as u64;
    let mut at = first;
    while at < first + SPAN && length_of(at, size) > 0 {
        let count = per_block.min(first + SPAN - at);
        let length: usize = (at..at + count).map(|index| length_of(index, size)).sum();
        content
            .read(&mut block, at * CHUNK as u64, length)
            .map_err(PorterError::file("read", path))?;
        for (place, chunk) in block.bytes(length).chunks(CHUNK).enumerate() {
            let print = hex(&Fingerprint::of(chunk).0);
            writeln!(output, "chunk {} {print}", at + place as u64)
                .map_err(|_| PorterError::Gone)?;
        }
        at += count;
    }
    output.flush().map_err(|_| PorterError::Gone)
}

struct Spans<W> {
    output: W,
    next: u64,
    span: Digest,
    whole: Digest,
    size: u64,
}

impl<W: Write> Spans<W> {
    fn absorb(&mut self, print: Fingerprint, mut count: u64) -> Result<(), PorterError> {
        while count > 0 {
            let room = SPAN - self.next % SPAN;
            let now = room.min(count);
            self.span.absorb(print, now);
            self.whole.absorb(print, now);
            self.next += now;
            count -= now;
            if self.next.is_multiple_of(SPAN) {
                self.tell_span()?;
            }
        }
        Ok(())
    }

    fn tell_span(&mut self) -> Result<(), PorterError> {
        let index = (self.next - 1) / SPAN;
        let digest = std::mem::take(&mut self.span).finish(0);
        writeln!(self.output, "span {index} {}", hex(&digest)).map_err(|_| PorterError::Gone)?;
        self.output.flush().map_err(|_| PorterError::Gone)
    }

    fn end(mut self, path: &Path) -> Result<(), PorterError> {
        if self.next != super::chunk::chunks_of(self.size) {
            // Only a reader that died ends early without saying why.
            return Err(PorterError::Unsupported(format!(
                "reading {} ended early",
                path.display()
            )));
        }
        if !self.next.is_multiple_of(SPAN) {
            self.tell_span()?;
        }
        let whole = hex(&self.whole.finish(self.size));
        writeln!(self.output, "whole {} {whole}", self.size).map_err(|_| PorterError::Gone)?;
        self.output.flush().map_err(|_| PorterError::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &Path) -> Vec<String> {
        let mut out = Vec::new();
        scan(path, false, &mut out).expect("it is read");
        String::from_utf8(out)
            .expect("text")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_changed_byte_changes_its_span_its_chunk_and_the_whole_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        // Two spans and a bit; mostly holes.
        let size = (2 * SPAN + 3) * CHUNK as u64 + 512;
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(size).expect("a size");
        let before = told(&path);
        assert_eq!(before.len(), 4, "{before:?}");
        assert!(before[3].starts_with(&format!("whole {size} ")));
        let offset = (SPAN + 7) * CHUNK as u64 + 11;
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", offset).expect("written");
        let after = told(&path);
        let changed: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
        assert_eq!(changed, [false, true, false, true]);
        let mut out = Vec::new();
        chunks(&path, false, 1, &mut out).expect("it is read");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count() as u64, SPAN);
        let zero = hex(&Fingerprint::ZERO.0);
        let other: Vec<&str> = text.lines().filter(|line| !line.ends_with(&zero)).collect();
        assert_eq!(other.len(), 1);
        assert!(
            other[0].starts_with(&format!("chunk {} ", SPAN + 7)),
            "{other:?}"
        );
        let mut out = Vec::new();
        chunks(&path, false, 2, &mut out).expect("it is read");
        assert_eq!(String::from_utf8(out).expect("text").lines().count(), 4);
    }
}
