//! The receiving side of a command's stream: checks what arrives, and feeds it to a command here.
//!
//! ```text
//!  input --> unpack, check --> the command's standard input
//!                                output --> how much it took in, complaints, and the word of success
//! ```
//! The command starts with the first piece, so that a sender that fails at once leaves no trace here. When the stream
//! breaks off, the command sees an early end of its input and keeps what it has, as `zfs receive -s` does; it is waited
//! for in any case, so that nothing still writes when this has ended. Only after the sender's word that this was all and
//! the command's own success is success told. From time to time another command is run beside it, which has the pool write
//! out what it got: a machine that loses its power loses only what came since. Never decides what to run. Read next: `pour.rs`, `program.rs`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::error::PorterError;
use super::peer::peer_error;
use super::program::{Program, Want};
use super::receive::{SILENCE, listen};
use super::tell::{Line, Teller};
use super::wire::{self, Frame};

/// Frames decoded ahead of writing: few, since they are lost when the command is killed.
const QUEUE: usize = 16;
/// After how many pieces the sender is told: often enough that it never waits for that alone.
const TELL: u64 = 8;
/// What errors call the command.
pub(crate) const NAME: &str = "zfs receive";
/// How often a command that was told the end is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What to do with a stream.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The command line that takes it in.
    pub(crate) run: String,
    /// The command line that has written out what was taken in, and after how many bytes it is run again.
    pub(crate) flush: Option<(String, u64)>,
}

/// Has the streams from and to a sender go to and from a command.
pub(crate) fn catch(
    order: &Order,
    input: impl Read + Send + 'static,
    mut output: impl Write,
    teller: &Teller,
) -> Result<(), PorterError> {
    say(&mut output, wire::PREFACE)?;
    let frames = listen(input, QUEUE);
    let mut catcher = Catcher {
        frames,
        program: None,
        next: 0,
        size: 0,
        digest: blake3::Hasher::new(),
        flushed: 0,
        flushing: None,
    };
    let result = catcher.run(order, &mut output, teller);
    match &result {
        Ok(digest) => say(
            &mut output,
            &wire::encode(&Frame::Done {
                digest: *digest,
                repaired: 0,
            }),
        )?,
        Err(PorterError::Gone | PorterError::Peer(_)) => {}
        Err(error) => {
            let report = serde_json::to_vec(&error.report()).unwrap_or_default();
            // The other side may be gone as well; our own standard error still tells.
            let _ = say(&mut output, &wire::encode(&Frame::Fail(report)));
        }
    }
    result.map(|_| ())
}

fn say(output: &mut impl Write, bytes: &[u8]) -> Result<(), PorterError> {
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map_err(|_| PorterError::Gone)
}

struct Catcher {
    frames: Receiver<Result<Frame, PorterError>>,
    program: Option<(Program, Option<ChildStdin>)>,
    next: u64,
    size: u64,
    digest: blake3::Hasher,
    /// How much there was when it was last written out, and who does that.
    flushed: u64,
    flushing: Option<Child>,
}

impl Catcher {
    fn run(
        &mut self,
        order: &Order,
        output: &mut impl Write,
        teller: &Teller,
    ) -> Result<[u8; 32], PorterError> {
        let taken = self.take_all(order, output, teller);
        let Some((mut program, input)) = self.program.take() else {
            return taken.and_then(|_| {
                Err(PorterError::Protocol(String::from(
                    "a stream without content",
                )))
            });
        };
        // From here on it sees the end of its input, and keeps what it has.
        drop(input);
        let finished = self.settle(&mut program);
        match (taken, finished) {
            (Ok(digest), Ok(())) => Ok(digest),
            (Ok(_), Err(error)) => Err(error),
            // What it said about a stream that was cut off explains nothing.
            (Err(error), _) => Err(error),
        }
    }

    /// Takes pieces until the sender has sent everything.
    fn take_all(
        &mut self,
        order: &Order,
        output: &mut impl Write,
        teller: &Teller,
    ) -> Result<[u8; 32], PorterError> {
        loop {
            let frame = match self.frames.recv_timeout(SILENCE) {
                Ok(frame) => frame?,
                Err(_) => return Err(PorterError::Gone),
            };
            match frame {
                Frame::Chunk { index, bytes, .. } if index == self.next => {
                    self.next += 1;
                    self.size += bytes.len() as u64;
                    self.digest.update(&bytes);
                    self.feed(&order.run, &bytes)?;
                    if self.next.is_multiple_of(TELL) {
                        // A sender that is gone shows where it is listened to, after everything that came from it.
                        let _ = say(output, &wire::encode(&Frame::Heard { count: self.next }));
                    }
                    self.flush(order);
                    let done = self.size;
                    teller.tell_sometimes(|| Line::Check { done });
                }
                Frame::Alive => {}
                Frame::Fail(report) => return Err(peer_error(&report)),
                Frame::End { size, digest, .. } => {
                    let found = *self.digest.finalize().as_bytes();
                    if size != self.size || digest != found {
                        return Err(PorterError::Digest);
                    }
                    return Ok(found);
                }
                _ => {
                    return Err(PorterError::Protocol(String::from(
                        "a frame at the wrong time",
                    )));
                }
            }
        }
    }

    /// Has what was taken in written out, when that was so much since and nobody is at it. Failing is no failure: what it
    /// is for may never happen.
    fn flush(&mut self, order: &Order) {
        let Some((line, every)) = &order.flush else {
            return;
        };
        if self.size - self.flushed < *every {
            return;
        }
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if self.flushing.as_mut().is_none_or(ended) {
            self.flushed = self.size;
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec {line}"));
            command.stdin(Stdio::null()).stdout(Stdio::null());
            self.flushing = command.stderr(Stdio::null()).spawn().ok();
        }
    }

    fn feed(&mut self, run: &str, bytes: &[u8]) -> Result<(), PorterError> {
        if self.program.is_none() {
            let mut program = Program::start(run, NAME, Want::Input)?;
            let input = program.input();
            self.program = Some((program, input));
        }
        let Some((program, Some(input))) = &mut self.program else {
            return Err(PorterError::Gone);
        };
        if input.write_all(bytes).is_err() {
            // It closed its input, so it ends by itself and has said why.
            return match program.finish() {
                Err(error) => Err(error),
                Ok(()) => Err(program.error(String::from("ended before the stream did"))),
            };
        }
        Ok(())
    }

    /// Waits for the program's end, and meanwhile takes the signs of life that the sender goes on giving.
    fn settle(&mut self, program: &mut Program) -> Result<(), PorterError> {
        let mut listening = true;
        while program.ended().is_none() {
            let began = Instant::now();
            if listening {
                match self.frames.recv_timeout(LOOK) {
                    Ok(Ok(_)) | Err(RecvTimeoutError::Timeout) => {}
                    Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => listening = false,
                }
            }
            std::thread::sleep(LOOK.saturating_sub(began.elapsed()));
        }
        program.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::super::pour::{self, pour};
    use super::*;

    fn teller() -> Teller {
        Teller::new(Box::new(std::io::sink()))
    }

    /// Pours what `make` prints into what `take` reads; with `cut`, the connection ends after so many bytes.
    fn run(
        make: &str,
        take: &str,
        cut: Option<usize>,
    ) -> (Result<u64, String>, Result<(), String>) {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (sender, door) = match cut {
            None => (here, None),
            Some(cut) => {
                let (sender, door) = UnixStream::pair().expect("a pair");
                (sender, Some((door, here, cut)))
            }
        };
        let take = take.to_owned();
        let catching = std::thread::spawn(move || {
            let output = there.try_clone().expect("a clone");
            let order = Order {
                run: take,
                flush: None,
            };
            catch(&order, there, output, &teller()).map_err(|error| error.to_string())
        });
        let passing = door.map(|(mut from, mut to, cut)| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let read = Read::by_ref(&mut from)
                    .take(cut as u64)
                    .read_to_end(&mut bytes);
                let written = read.and_then(|_| to.write_all(&bytes));
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                written.map(drop)
            })
        });
        let order = pour::Order {
            run: make.to_owned(),
            total: 0,
            limit: None,
        };
        let input = sender.try_clone().expect("a clone");
        let poured = pour(&order, input, sender, &teller())
            .map(|outcome| outcome.counts.carried)
            .map_err(|error| error.to_string());
        if let Some(passing) = passing {
            // It may have found the other side gone.
            let _ = passing.join();
        }
        (poured, catching.join().expect("no panic"))
    }

    #[test]
    fn what_is_poured_is_caught() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("caught");
        let take = format!("sh -c 'cat > {}'", file.display());
        let make = "sh -c 'seq 1 300000; head -c 300000 /dev/zero'";
        let (poured, caught) = run(make, &take, None);
        assert_eq!(caught, Ok(()));
        let bytes = std::fs::read(&file).expect("a file");
        assert_eq!(poured, Ok(bytes.len() as u64));
        assert!(bytes.starts_with(b"1\n2\n") && bytes.ends_with(&[0; 300_000]));
    }

    #[test]
    fn a_stream_that_breaks_off_never_looks_complete() {
        let directory = tempfile::tempdir().expect("a directory");
        for cut in [0, 10, 70_000, 200_000] {
            let file = directory.path().join(cut.to_string());
            // As zfs receive does, it keeps what came, and is done before the catcher is.
            let take = format!("sh -c 'cat > {}; echo cut off >&2; exit 1'", file.display());
            let (poured, caught) = run("head -c 3000000 /dev/urandom", &take, Some(cut));
            assert!(poured.is_err() && caught.is_err(), "{cut}");
            let kept = std::fs::metadata(&file).map_or(0, |file| file.len());
            assert!(
                kept as usize <= cut && kept.is_multiple_of(65536),
                "{cut}: {kept}"
            );
        }
    }

    #[test]
    fn the_end_that_failed_is_named_on_both_sides() {
        let failing = "sh -c 'echo one; echo no such snapshot >&2; exit 3'";
        let (poured, caught) = run(failing, "sh -c 'cat >/dev/null'", None);
        let reason = "zfs send exited with 3: no such snapshot";
        assert_eq!(poured, Err(reason.to_owned()));
        assert_eq!(caught, Err(reason.to_owned()));
        let full = "sh -c 'head -c 100 >/dev/null; echo out of space >&2; exit 1'";
        let (poured, caught) = run("cat /dev/zero", full, None);
        let reason = "zfs receive exited with 1: out of space";
        assert_eq!(caught, Err(reason.to_owned()));
        assert_eq!(poured, Err(reason.to_owned()));
    }

    #[test]
    fn no_more_than_so_much_is_on_its_way() {
        let directory = tempfile::tempdir().expect("a directory");
        let count = directory.path().join("count");
        // Takes some, and is killed while the rest waits; what the sender gave away meanwhile is counted.
        let take = "sh -c 'head -c 1000000 >/dev/null; sleep 2; kill -9 $$'";
        let make = format!(
            "sh -c 'dd if=/dev/zero bs=64k count=1000 status=none | tee {}'",
            count.display()
        );
        let (poured, caught) = run(&make, take, None);
        let reason = "zfs receive was killed by signal 9";
        assert_eq!(caught, Err(reason.to_owned()));
        assert_eq!(poured, Err(reason.to_owned()));
        let made = std::fs::metadata(&count).expect("a file").len();
        // 4 MiB on their way, 2 MiB read ahead, and what pipes hold.
        assert!(made > 4_000_000 && made < 8_500_000, "{made}");
    }

    #[test]
    fn what_was_taken_in_is_written_out_from_time_to_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("flushed");
        let order = Order {
            run: "sh -c 'while head -c 65536 | grep -q .; do sleep 0.01; done'".to_owned(),
            flush: Some((format!("sh -c 'echo >> {}'", file.display()), 1 << 20)),
        };
        let (here, there) = UnixStream::pair().expect("a pair");
        let output = there.try_clone().expect("a clone");
        let catching = std::thread::spawn(move || catch(&order, there, output, &teller()));
        let order = pour::Order {
            run: "sh -c 'yes | head -c 8388608'".to_owned(),
            total: 0,
            limit: None,
        };
        let input = here.try_clone().expect("a clone");
        pour(&order, input, here, &teller()).expect("no trouble");
        catching.join().expect("no panic").expect("no trouble");
        let times = std::fs::metadata(&file).expect("a file").len();
        assert!((1..=8).contains(&times), "{times}");
    }

    #[test]
    fn without_content_nothing_is_run() {
        let (poured, caught) = run("false", "touch /nonexistent/file", None);
        assert_eq!(poured, Err("zfs send exited with 1".to_owned()));
        assert_eq!(caught, Err("zfs send exited with 1".to_owned()));
    }
}
