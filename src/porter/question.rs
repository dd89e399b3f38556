//! The sender's side of a question: which way a chunk that differs travels, and the chunks whose answers are awaited.
//!
//! Pure apart from what it keeps; sends nothing and waits for nothing. At most [`ASKED`] chunks are kept. Read next:
//! `pages.rs`, `answer.rs` (the other side), `send.rs`.

use std::collections::HashMap;

use super::answer::ASKED;
use super::chunk::Fingerprint;
use super::error::PorterError;
use super::pages::{PAGE, PagePrint, Pages};

/// How a chunk that differs travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All of it.
    Whole,
    /// These pages; the others are zero.
    OverZeros(Pages),
    /// These pages; the others are there.
    Pages(Pages),
    /// Not before the receiver was asked what it has.
    Ask,
}

/// The questions of a pass.
#[derive(Default)]
pub(crate) struct Questions {
    waiting: HashMap<u64, (Fingerprint, Vec<u8>)>,
    worth: Worth,
}

impl Questions {
    /// Decides about a chunk that is not zero and not what the receiver has.
    pub(crate) fn way(&mut self, have: Fingerprint, chunk: &[u8]) -> Way {
        let pages = chunk.len().div_ceil(PAGE);
        let content = Pages::not_zero(chunk);
        let known = have != Fingerprint::ABSENT && have != Fingerprint::ZERO;
        // A single page costs little more than the question.
        if known && pages > 1 && content.count() > 1 && self.worth.ask() {
            return Way::Ask;
        }
        without_asking(content, pages)
    }

    /// Keeps a chunk until its answer is here.
    pub(crate) fn keep(&mut self, index: u64, fingerprint: Fingerprint, chunk: &[u8]) {
        self.waiting.insert(index, (fingerprint, chunk.to_vec()));
    }

    /// Returns a kept chunk and how it travels, given the answer; never [`Way::Ask`].
    pub(crate) fn settle(
        &mut self,
        index: u64,
        prints: &[PagePrint],
    ) -> Result<(Fingerprint, Vec<u8>, Way), PorterError> {
        let Some((fingerprint, chunk)) = self.waiting.remove(&index) else {
            return Err(PorterError::Protocol(format!(
                "an answer about chunk {index} unasked"
            )));
        };
        let pages = chunk.len().div_ceil(PAGE);
        let differing = Pages::differing(&chunk, prints);
        self.worth.note(differing.count() as usize, pages);
        let content = Pages::not_zero(&chunk);
        let way = if (differing.count() as usize) < pages && differing.count() <= content.count() {
            Way::Pages(differing)
        } else {
            without_asking(content, pages)
        };
        Ok((fingerprint, chunk, way))
    }

    /// Says whether no answer is awaited.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Says whether as many answers are awaited as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= ASKED
    }
}

fn without_asking(content: Pages, pages: usize) -> Way {
    if (content.count() as usize) < pages {
        Way::OverZeros(content)
    } else {
        Way::Whole
    }
}

/// Whether questions pay: a question costs the receiver a read and the chunk a way back and forth.
struct Worth {
    /// The share of a chunk that questions spared lately.
    spared: f64,
    unasked: u32,
}

/// Below this share, sending everything is as good.
const ENOUGH: f64 = 1.0 / 8.0;
/// Then still one of so many chunks is asked for, since what a guest writes changes along its disk.
const PROBE: u32 = 16;

impl Default for Worth {
    fn default() -> Worth {
        Worth {
            spared: 1.0,
            unasked: 0,
        }
    }
}

impl Worth {
    fn ask(&mut self) -> bool {
        if self.spared >= ENOUGH {
            return true;
        }
        self.unasked += 1;
        if self.unasked < PROBE {
            return false;
        }
        self.unasked = 0;
        true
    }

    fn note(&mut self, differing: usize, pages: usize) {
        let spared = 1.0 - differing as f64 / pages.max(1) as f64;
        self.spared += (spared - self.spared) / 8.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::CHUNK;
    use super::super::pages::prints;
    use super::*;

    #[test]
    fn a_chunk_takes_the_cheapest_way() {
        let known = Fingerprint::of(b"something");
        let full = vec![7; CHUNK];
        let mut sparse = vec![0; CHUNK];
        sparse[PAGE] = 1;
        sparse[9 * PAGE] = 1;
        let mut lonely = vec![0; CHUNK];
        lonely[3 * PAGE] = 1;
        let check = |have, chunk: &[u8], expect| {
            assert_eq!(Questions::default().way(have, chunk), expect);
        };
        check(known, &full, Way::Ask);
        check(Fingerprint::ABSENT, &full, Way::Whole);
        check(Fingerprint::ZERO, &full, Way::Whole);
        check(known, &sparse, Way::Ask);
        let both = Way::OverZeros(Pages(1 << 1 | 1 << 9));
        check(Fingerprint::ABSENT, &sparse, both);
        check(Fingerprint::ZERO, &sparse, both);
        check(known, &lonely, Way::OverZeros(Pages(1 << 3)));
        check(known, &full[..PAGE], Way::Whole);

        let answered = |chunk: &[u8], prints: &[PagePrint]| {
            let mut questions = Questions::default();
            questions.keep(4, known, chunk);
            let (_, kept, way) = questions.settle(4, prints).expect("was asked");
            assert_eq!(kept, chunk);
            assert!(questions.is_empty());
            questions.settle(4, prints).expect_err("was settled");
            way
        };
        let mut other = full.clone();
        other[CHUNK - 1] = 0;
        assert_eq!(answered(&full, &prints(&other)), Way::Pages(Pages(1 << 15)));
        assert_eq!(answered(&full, &prints(&full)), Way::Pages(Pages(0)));
        assert_eq!(answered(&full, &prints(&vec![8; CHUNK])), Way::Whole);
        assert_eq!(answered(&full, &[]), Way::Whole);
        assert_eq!(answered(&sparse, &prints(&full)), both);
    }

    #[test]
    fn questions_that_spare_nothing_become_few_and_come_back() {
        let mut worth = Worth::default();
        let mut run = |differing: usize, chunks: u32| {
            let mut asked = 0;
            for _ in 0..chunks {
                if worth.ask() {
                    asked += 1;
                    worth.note(differing, 16);
                }
            }
            asked
        };
        let rewritten = run(16, 1000);
        assert!((60..120).contains(&rewritten), "{rewritten}");
        let scattered = run(1, 1000);
        assert!(scattered > 950, "{scattered}");
    }
}
