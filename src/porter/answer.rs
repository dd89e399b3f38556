//! The receiver's side of a question: reads a chunk of the target, tells its pages, and keeps it for the patch.
//!
//! ```text
//!  ask --> read the chunk --> keep it --> tell the prints of its pages
//!  patch --> take what was kept --> paste --> check the whole fingerprint --> the writer
//! ```
//! What is patched is the very buffer whose prints were told. A chunk that cannot be read is answered with no prints,
//! and then comes whole. At most [`ASKED`] chunks are kept. Writes nothing. Read next: `pages.rs`, `receive.rs`.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::chunk::{CHUNK, Fingerprint};
use super::error::PorterError;
use super::pages::prints;
use super::receive::Output;
use super::target::Disk;
use super::wire::{Frame, Patch};

/// Questions that may be open at once: 16 MiB of chunks on either side, and 5000 questions a second over a way of 50 ms.
pub(crate) const ASKED: usize = 256;
/// Reads at once, since storage behind a network answers one read slowly and several as fast.
const READERS: usize = 3;

/// Chunks that were asked for and not yet patched; an empty one could not be read.
type Kept = Arc<Mutex<HashMap<u64, Vec<u8>>>>;

/// The threads that answer.
pub(crate) struct Answers {
    questions: SyncSender<u64>,
    kept: Kept,
    threads: Vec<JoinHandle<()>>,
}

impl Answers {
    /// Starts answering from `disk` to `output`.
    pub(crate) fn start(disk: &Arc<dyn Disk>, output: &Output) -> Answers {
        let (questions, asked) = sync_channel(ASKED);
        let asked = Arc::new(Mutex::new(asked));
        let kept = Kept::default();
        let reader = |_| {
            let (asked, kept) = (Arc::clone(&asked), Arc::clone(&kept));
            let (disk, output) = (Arc::clone(disk), output.clone());
            std::thread::spawn(move || {
                while let Some(index) = next(&asked) {
                    // Who does not take the answer is gone, which the pass notices by itself.
                    if answer(index, disk.as_ref(), &kept, &output).is_none() {
                        break;
                    }
                }
            })
        };
        let threads = (0..READERS).map(reader).collect();
        Answers {
            questions,
            kept,
            threads,
        }
    }

    /// Ends the threads, after which nothing of them holds the disk open.
    pub(crate) fn finish(self) {
        drop(self.questions);
        for thread in self.threads {
            // One that panicked holds nothing any more either.
            let _ = thread.join();
        }
    }

    /// Queues a question.
    pub(crate) fn ask(&self, index: u64) -> Result<(), PorterError> {
        let kept = self.kept.lock().map_err(|_| PorterError::Gone)?.len();
        if kept > ASKED {
            return Err(too_many());
        }
        match self.questions.try_send(index) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(too_many()),
            Err(TrySendError::Disconnected(_)) => Err(PorterError::Gone),
        }
    }

    /// Forgets a chunk that came whole.
    pub(crate) fn forget(&self, index: u64) {
        if let Ok(mut kept) = self.kept.lock() {
            kept.remove(&index);
        }
    }

    /// Returns the chunk that a patch makes, which has the fingerprint that the patch names; it is `length` bytes long.
    pub(crate) fn patched(&self, patch: &Patch, length: usize) -> Result<Vec<u8>, PorterError> {
        let kept = self.kept.lock().ok();
        let kept = kept.and_then(|mut kept| kept.remove(&patch.index));
        let mut chunk = if patch.over_zeros {
            vec![0; length]
        } else {
            kept.ok_or_else(|| {
                PorterError::Protocol(format!("a patch for chunk {} unasked", patch.index))
            })?
        };
        let pasted = chunk.len() == length && patch.pages.paste(&patch.bytes, &mut chunk);
        if !pasted || Fingerprint::of(&chunk) != patch.fingerprint {
            return Err(PorterError::Protocol(format!(
                "a patch for chunk {} (offset {}) damaged",
                patch.index,
                patch.index.saturating_mul(CHUNK as u64)
            )));
        }
        Ok(chunk)
    }
}

fn next(asked: &Mutex<Receiver<u64>>) -> Option<u64> {
    asked.lock().ok()?.recv().ok()
}

fn answer(index: u64, disk: &dyn Disk, kept: &Kept, output: &Output) -> Option<()> {
    let mut chunk = vec![0; disk.length(index)];
    if disk.read(index, &mut chunk).is_err() {
        chunk = Vec::new();
    }
    let prints = prints(&chunk);
    // Kept before it is told: the patch may be here the next moment.
    kept.lock().ok()?.insert(index, chunk);
    output.frame(&Frame::Prints { index, prints }).ok()
}

fn too_many() -> PorterError {
    PorterError::Protocol(String::from("too many questions at once"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::{Sender, channel};

    use super::super::pages::{PAGE, Pages};
    use super::super::target::RawDisk;
    use super::super::wire::read_frame;
    use super::*;

    struct Heard(Sender<Vec<u8>>);

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).expect("heard");
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_patch_fits_the_chunk_that_was_asked_for_and_no_other() {
        let file = tempfile::tempfile().expect("temporary file");
        let length = 3 * CHUNK as u64 + 5000;
        file.set_len(length).expect("sets the length");
        let truncated = file.try_clone().expect("opens");
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(file).expect("a disk"));
        disk.write(1, &[7; CHUNK]).expect("writes");
        disk.write(3, &[7; 5000]).expect("writes");
        let (sender, heard) = channel();
        let answers = Answers::start(&disk, &Output::new(Heard(sender)));
        let answer = |index| {
            answers.ask(index).expect("may be asked");
            let bytes = heard.recv().expect("answers");
            match read_frame(&mut bytes.as_slice()).expect("parses") {
                Some(Frame::Prints { index: of, prints }) if of == index => prints,
                other => panic!("{other:?}"),
            }
        };
        for (index, length) in [(1, CHUNK), (3, 5000)] {
            let mut chunk = vec![7; length];
            chunk[PAGE..][..10].fill(8);
            let pages = Pages::differing(&chunk, &answer(index));
            assert_eq!(pages, Pages(0b10));
            let patch = Patch {
                index,
                fingerprint: Fingerprint::of(&chunk),
                over_zeros: false,
                pages,
                bytes: pages.cut(&chunk),
            };
            assert_eq!(answers.patched(&patch, length).expect("fits"), chunk);
            let again = answers.patched(&patch, length).expect_err("is used up");
            assert!(again.to_string().contains("unasked"), "{again}");
            let mut damaged = patch.clone();
            damaged.bytes[17] ^= 1;
            let mut elsewhere = patch.clone();
            elsewhere.pages = Pages(0b1);
            let mut short = patch.clone();
            short.bytes.pop();
            let mut zeros = patch;
            zeros.over_zeros = true;
            for wrong in [damaged, elsewhere, short, zeros] {
                answer(index);
                let error = answers.patched(&wrong, length).expect_err("is wrong");
                assert!(error.to_string().contains("damaged"), "{error}");
            }
        }
        truncated.set_len(10).expect("sets the length");
        assert_eq!(answer(1), Vec::<[u8; 16]>::new(), "cannot be read");
        answers.forget(1);
        answers.finish();
        assert_eq!(Arc::strong_count(&disk), 1);
    }

    #[test]
    fn a_sender_that_asks_too_much_is_refused() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(CHUNK as u64).expect("sets the length");
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(file).expect("a disk"));
        let answers = Answers::start(&disk, &Output::new(std::io::sink()));
        let refused = (0..10 * ASKED as u64).find_map(|index| answers.ask(index).err());
        let refused = refused.expect("must be refused").to_string();
        assert!(refused.contains("too many questions"), "{refused}");
        answers.finish();
    }
}
