//! Pages: the parts of a chunk in which two versions of it are compared, so that a small write travels as a small one.
//!
//! Pure: bytes in, values out. A page is told apart from another one by half a fingerprint; that finds the difference
//! and proves nothing. What proves a patched chunk is its whole fingerprint. Read next: `wire.rs`, `question.rs` (the
//! sender's side), `answer.rs` (the receiver's).

use super::chunk::{CHUNK, is_zero};

/// Bytes of a page; the last page of a chunk may be shorter. What most guests and their file systems write at least.
pub(crate) const PAGE: usize = 4096;
/// Pages of a whole chunk: one bit each in a [`Pages`].
pub(crate) const PAGES: usize = CHUNK / PAGE;

/// What tells a page from another one: the first half of its BLAKE3.
pub(crate) type PagePrint = [u8; 16];

/// Some pages of a chunk, the first one in the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages(pub(crate) u16);

impl Pages {
    /// Returns the pages of `chunk` that are not what `theirs` says; all of them when that speaks of another length.
    pub(crate) fn differing(chunk: &[u8], theirs: &[PagePrint]) -> Pages {
        let comparable = theirs.len() == chunk.len().div_ceil(PAGE);
        Pages::that(chunk, |number, page| {
            !comparable || theirs.get(number) != Some(&print(page))
        })
    }

    /// Returns the pages of `chunk` that are not all zero.
    pub(crate) fn not_zero(chunk: &[u8]) -> Pages {
        Pages::that(chunk, |_, page| !is_zero(page))
    }

    fn that(chunk: &[u8], chosen: impl Fn(usize, &[u8]) -> bool) -> Pages {
        let mut pages = 0;
        for (number, page) in chunk.chunks(PAGE).take(PAGES).enumerate() {
            if chosen(number, page) {
                pages |= 1 << number;
            }
        }
        Pages(pages)
    }

    /// Returns how many there are.
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns the places of these pages in a chunk of `length` bytes, neighbours joined: offset and length.
    ///
    /// `None` when one of them lies behind the end.
    pub(crate) fn runs(self, length: usize) -> Option<Vec<(usize, usize)>> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for number in (0..PAGES).filter(|number| self.0 >> number & 1 == 1) {
            let start = number * PAGE;
            if start >= length {
                return None;
            }
            let bytes = PAGE.min(length - start);
            match runs.last_mut() {
                Some((offset, run)) if *offset + *run == start => *run += bytes,
                _ => runs.push((start, bytes)),
            }
        }
        Some(runs)
    }

    /// Returns the bytes of these pages of `chunk`, one after the other.
    pub(crate) fn cut(self, chunk: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.count() as usize * PAGE);
        for (offset, length) in self.runs(chunk.len()).unwrap_or_default() {
            bytes.extend_from_slice(&chunk[offset..offset + length]);
        }
        bytes
    }

    /// Puts what [`Pages::cut`] returned into another version of the chunk; `false` when it does not fit there.
    pub(crate) fn paste(self, bytes: &[u8], chunk: &mut [u8]) -> bool {
        let Some(runs) = self.runs(chunk.len()) else {
            return false;
        };
        let mut rest = bytes;
        for (offset, length) in runs {
            let Some((run, more)) = rest.split_at_checked(length) else {
                return false;
            };
            chunk[offset..offset + length].copy_from_slice(run);
            rest = more;
        }
        rest.is_empty()
    }
}

/// Returns what tells the pages of a chunk apart.
pub(crate) fn prints(chunk: &[u8]) -> Vec<PagePrint> {
    chunk.chunks(PAGE).map(print).collect()
}

fn print(page: &[u8]) -> PagePrint {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(page).as_bytes()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_joined_and_the_last_page_may_be_short() {
        let check = |pages: u16, length: usize, expect: Option<&[(usize, usize)]>| {
            assert_eq!(Pages(pages).runs(length).as_deref(), expect, "{pages:b}");
        };
        check(0, CHUNK, Some(&[]));
        check(0b1011, CHUNK, Some(&[(0, 2 * PAGE), (3 * PAGE, PAGE)]));
        check(u16::MAX, CHUNK, Some(&[(0, CHUNK)]));
        check(0b11, PAGE + 5, Some(&[(0, PAGE + 5)]));
        check(0b10, PAGE, None);
        check(1 << 15, CHUNK - PAGE, None);
    }

    #[test]
    fn prints_of_another_length_say_nothing() {
        let chunk = vec![7; 3 * PAGE];
        assert_eq!(Pages::differing(&chunk, &prints(&chunk)), Pages(0));
        assert_eq!(Pages::differing(&chunk, &prints(&chunk)[..2]), Pages(0b111));
        assert_eq!(Pages::differing(&chunk, &[]), Pages(0b111));
    }

    proptest! {
        #[test]
        fn a_cut_pasted_makes_the_chunks_equal(
            length in 1usize..=CHUNK,
            edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..40),
        ) {
            let theirs: Vec<u8> = (0..length).map(|place| (place / 7) as u8).collect();
            let mut ours = theirs.clone();
            for (place, byte) in edits {
                ours[place as usize % length] = byte;
            }
            let pages = Pages::differing(&ours, &prints(&theirs));
            let mut patched = theirs;
            prop_assert!(pages.paste(&pages.cut(&ours), &mut patched));
            prop_assert_eq!(&patched, &ours);
            let mut zeros = vec![0; length];
            let pages = Pages::not_zero(&ours);
            prop_assert!(pages.paste(&pages.cut(&ours), &mut zeros));
            prop_assert_eq!(zeros, ours);
        }

        #[test]
        fn pages_that_do_not_fit_are_refused(pages: u16, length in 1usize..=CHUNK, bytes in 0usize..=CHUNK) {
            let fits = Pages(pages).runs(length).map(|runs| runs.iter().map(|run| run.1).sum::<usize>());
            let pasted = Pages(pages).paste(&vec![1; bytes], &mut vec![0; length]);
            prop_assert_eq!(pasted, fits == Some(bytes));
        }
    }
}
