//! The receiving side of a pass: says what the target has, writes what differs, and proves it.
//!
//! ```text
//!  manifest or disk --> what we have of each chunk --> output
//!  questions --> read the chunk --> what tells its pages apart --> output
//!  input --> unpack, patch, check --> write batches --> sync, then claim in the manifest
//! ```
//! Before the last pass succeeds, everything is on the disk, was compared with what the source has (full verification:
//! as read from the disk, past its caches), and both sides agree on a digest of the whole. When the other side goes
//! away, what arrived is synced and claimed first. Touches no file that no manifest of ours names. Read next:
//! `have.rs`, `answer.rs`, `write.rs`, `prove.rs`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::answer::Answers;
use super::chunk::{CHUNK, chunks_of};
use super::content::Content;
use super::device::{self, Device};
use super::error::PorterError;
use super::have::{Heard, Repaired, tell_claims, tell_disk};
use super::manifest::{Manifest, sync_directory};
use super::peer::peer_error;
use super::places::Places;
use super::prove::{Touched, digest, open_content, read_back};
use super::qcow2::Image;
use super::seal::{Seal, SourceState};
use super::target::{self, Disk, RawDisk};
use super::tell::{Line, Teller};
use super::wire::{self, Frame, Layout, Patch, Purpose};
use super::write::{Item, Writer};

/// After this long without a word from the other side, which speaks every few seconds, it is taken to be gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);
/// Frames decoded ahead of writing.
const QUEUE: usize = 64;

/// Where to receive.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The target volume.
    pub(crate) path: PathBuf,
    /// Our own files beside it.
    pub(crate) places: Places,
    /// Whether the target is an image whose guest-visible content is received, when the sender sends such.
    pub(crate) image: bool,
    /// Whether a volume without a manifest is ours, too.
    pub(crate) adopt: bool,
    /// Whether such a volume is complete, as a guest left it: an image is then written on instead of made anew.
    pub(crate) kept: bool,
    /// What the engine says of a target that is a block device.
    pub(crate) device: Option<Device>,
}

/// Runs one pass over the streams from and to a sender.
pub(crate) fn receive(
    order: &Order,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    teller: &Teller,
) -> Result<(), PorterError> {
    let output = Output::new(output);
    output.bytes(wire::PREFACE)?;
    let frames = listen(input, QUEUE);
    let result = Pass::begin(order, &frames, output.clone())
        .and_then(|pass| pass.run(order, &frames, teller));
    if let Err(error) = &result
        && !matches!(error, PorterError::Gone | PorterError::Peer(_))
    {
        let report = serde_json::to_vec(&error.report()).unwrap_or_default();
        // The other side may be gone as well; our own standard error still tells.
        let _ = output.frame(&Frame::Fail(report));
    }
    result
}

/// The way back to the sender, shared by the thread that tells what we have and the one that answers.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl Output {
    pub(crate) fn new(output: impl Write + Send + 'static) -> Output {
        Output(Arc::new(Mutex::new(Box::new(output))))
    }

    pub(crate) fn frame(&self, frame: &Frame) -> Result<(), PorterError> {
        self.bytes(&wire::encode(frame))
    }

    fn bytes(&self, bytes: &[u8]) -> Result<(), PorterError> {
        let mut output = self.0.lock().map_err(|_| PorterError::Gone)?;
        output
            .write_all(bytes)
            .and_then(|()| output.flush())
            .map_err(|_| PorterError::Gone)
    }
}

/// Starts the thread that decodes frames, at most `ahead` of them before they are taken.
pub(crate) fn listen(
    mut input: impl Read + Send + 'static,
    ahead: usize,
) -> Receiver<Result<Frame, PorterError>> {
    let (queue, frames) = sync_channel(ahead);
    std::thread::spawn(move || {
        let mut greeting = wire::read_preface(&mut input).err();
        loop {
            let frame = match greeting.take() {
                Some(error) => Err(error),
                None => match wire::read_frame(&mut input) {
                    Ok(Some(frame)) => Ok(frame),
                    Ok(None) => Err(PorterError::Gone),
                    Err(error) => Err(error),
                },
            };
            let stop = frame.is_err();
            if queue.send(frame).is_err() || stop {
                break;
            }
        }
    });
    frames
}

fn next(frames: &Receiver<Result<Frame, PorterError>>) -> Result<Frame, PorterError> {
    match frames.recv_timeout(SILENCE) {
        Ok(Ok(Frame::Fail(report))) => Err(peer_error(&report)),
        Ok(frame) => frame,
        Err(_) => Err(PorterError::Gone),
    }
}

/// A pass whose target is ours and ready.
struct Pass {
    purpose: Purpose,
    layout: Layout,
    size: u64,
    manifest: Arc<Manifest>,
    disk: Arc<dyn Disk>,
    output: Output,
    heard: Arc<Heard>,
}

impl Pass {
    fn begin(
        order: &Order,
        frames: &Receiver<Result<Frame, PorterError>>,
        output: Output,
    ) -> Result<Pass, PorterError> {
        let Frame::Hello {
            layout,
            purpose,
            size,
        } = next(frames)?
        else {
            return Err(PorterError::Protocol(String::from(
                "something else than a hello",
            )));
        };
        let path = &order.path;
        let image = order.image && layout == Layout::Guest;
        let ready = |manifest, disk| Pass {
            purpose,
            layout,
            size,
            manifest: Arc::new(manifest),
            disk: Arc::from(disk),
            output,
            heard: Arc::default(),
        };
        if let Some(device) = order.device {
            if order.image {
                return Err(PorterError::Unsupported(format!(
                    "{} is a device, and shall hold an image; only raw devices are written",
                    path.display()
                )));
            }
            let manifest = order.places.manifest();
            let (disk, manifest) = device::claim(path, &manifest, layout, device, size)?;
            Seal::break_it(&order.places.seal())?;
            let disk: Box<dyn Disk> = Box::new(disk);
            return Ok(ready(manifest, disk));
        }
        let claimed = target::claim(path, &order.places.manifest(), layout, order.adopt)?;
        let mut manifest = claimed.manifest;
        if !claimed.fresh && Seal::is_broken_by(&order.places.seal(), &SourceState::of(path)?) {
            // Something else wrote there since the final pass, and left the claims behind as they were. A pass that reads all
            // of the disk finds out, and counts what it finds; any other one must not believe them.
            match purpose {
                Purpose::FinalFull => manifest.suspect()?,
                Purpose::Precopy | Purpose::FinalTransfer => manifest.doubt()?,
            }
        }
        Seal::break_it(&order.places.seal())?;
        let trouble = || PorterError::file("prepare", path);
        let mut old_size = 0;
        let mut disk: Box<dyn Disk> = if image {
            // From here on a crash of the machine may leave an image whose tables are half written.
            manifest.set_writing(true)?;
            // Whether its tables were written to their end, only the lost manifest knew; a guest leaves them in order.
            if claimed.fresh || (claimed.adopted && !order.kept) {
                manifest.header.unread = false;
                manifest.write_header()?;
                Box::new(Image::create(claimed.file, path, size)?)
            } else {
                let image = Image::open_writable(claimed.file, path)?;
                old_size = image.size();
                Box::new(image)
            }
        } else {
            if claimed.fresh {
                claimed.file.set_len(0).map_err(trouble())?;
            }
            old_size = claimed.file.metadata().map_err(trouble())?.len();
            Box::new(RawDisk::new(claimed.file).map_err(trouble())?)
        };
        if old_size != size {
            // The chunk in which the volume ended or will end becomes another one.
            let edge = old_size.min(size);
            if edge % CHUNK as u64 != 0 {
                manifest.withdraw(&[(edge / CHUNK as u64, 1)])?;
            }
            manifest.truncate(chunks_of(size))?;
            disk.resize(size).map_err(trouble())?;
        }
        Ok(ready(manifest, disk))
    }

    fn run(
        self,
        order: &Order,
        frames: &Receiver<Result<Frame, PorterError>>,
        teller: &Teller,
    ) -> Result<(), PorterError> {
        let repaired = Arc::new(Repaired::default());
        let telling = self.start_telling(order, Arc::clone(&repaired))?;
        let mut writer = Writer::start(
            Arc::clone(&self.disk),
            Arc::clone(&self.manifest),
            order.path.clone(),
        );
        let mut touched = Touched::new(chunks_of(self.size));
        let answers = Answers::start(&self.disk, &self.output);
        let arrived = self.take_all(frames, &mut writer, &answers, &mut touched);
        // The sender has heard all it needs, or will never hear anything again.
        self.heard.note(u64::MAX);
        answers.finish();
        // Whatever happened, what has arrived is synced and claimed.
        let written = writer.finish();
        let end = match arrived {
            Ok(end) => {
                written?;
                end
            }
            Err(Stopped::Writer) => return Err(written.err().unwrap_or(PorterError::Gone)),
            Err(Stopped::Because(error)) => {
                // A disk that cannot be read ends the pass from here; the sender only echoes it.
                let finished = telling.is_finished();
                return Err(match finished.then(|| join(telling)) {
                    Some(Err(own)) if !matches!(own, PorterError::Gone) => own,
                    _ => error,
                });
            }
        };
        join(telling)?;
        let repaired = repaired.seen().map_or(0, |(bytes, offset)| {
            teller.tell(&Line::Repaired { offset });
            bytes
        });
        self.complete(order, &end, &touched, repaired, teller)
    }

    /// Takes frames until the sender has sent everything.
    fn take_all(
        &self,
        frames: &Receiver<Result<Frame, PorterError>>,
        writer: &mut Writer,
        answers: &Answers,
        touched: &mut Touched,
    ) -> Result<End, Stopped> {
        let chunks = chunks_of(self.size);
        loop {
            let item = match next(frames).map_err(Stopped::Because)? {
                Frame::Chunk {
                    index,
                    fingerprint,
                    bytes,
                } => {
                    if index >= chunks || bytes.len() != self.disk.length(index) {
                        return Err(outside(index));
                    }
                    answers.forget(index);
                    touched.add(index, 1);
                    Item::Chunk {
                        index,
                        fingerprint,
                        bytes,
                    }
                }
                Frame::Ask { index } => {
                    if index >= chunks {
                        return Err(outside(index));
                    }
                    answers.ask(index).map_err(Stopped::Because)?;
                    continue;
                }
                Frame::Patch(patch) => {
                    if patch.index >= chunks {
                        return Err(outside(patch.index));
                    }
                    let length = self.disk.length(patch.index);
                    let chunk = answers.patched(&patch, length).map_err(Stopped::Because)?;
                    touched.add(patch.index, 1);
                    patched(patch, chunk)
                }
                Frame::Heard { count } => {
                    self.heard.note(count);
                    continue;
                }
                Frame::Zero { first, count } => {
                    if count == 0 || first.checked_add(count).is_none_or(|end| end > chunks) {
                        return Err(outside(first));
                    }
                    touched.add(first, count);
                    Item::Zero { first, count }
                }
                Frame::Alive => continue,
                Frame::End {
                    size,
                    digest,
                    state,
                } if size == self.size => return Ok(End { digest, state }),
                _ => {
                    return Err(Stopped::Because(PorterError::Protocol(String::from(
                        "a frame at the wrong time",
                    ))));
                }
            };
            if !writer.push(item) {
                return Err(Stopped::Writer);
            }
        }
    }

    /// Proves what was received, seals it, and answers.
    fn complete(
        self,
        order: &Order,
        end: &End,
        touched: &Touched,
        repaired: u64,
        teller: &Teller,
    ) -> Result<(), PorterError> {
        let Pass {
            purpose,
            layout,
            size,
            manifest,
            disk,
            output,
            heard: _,
        } = self;
        let path = &order.path;
        // An image writes the last of its tables when it is closed.
        disk.sync().map_err(PorterError::file("write out", path))?;
        drop(disk);
        if purpose == Purpose::FinalFull {
            read_back(order, layout, size, &manifest, touched, teller)?;
        }
        let digest = if purpose == Purpose::Precopy {
            [0; 32]
        } else {
            digest(&manifest, size)?
        };
        if purpose != Purpose::Precopy && digest != end.digest {
            return Err(PorterError::Digest);
        }
        if order.device.is_none() {
            sync_directory(path)?;
        }
        let mut manifest = Arc::into_inner(manifest).ok_or(PorterError::Gone)?;
        if !manifest.header.writing_since.is_empty() || manifest.header.unread {
            manifest.header.unread = false;
            manifest.set_writing(false)?;
        }
        if purpose != Purpose::Precopy {
            let source: SourceState = serde_json::from_slice(&end.state)
                .map_err(|_| PorterError::Protocol(String::from("no state of its source")))?;
            let target = SourceState::of(path)?;
            Seal {
                version: 1,
                source,
                digest: super::chunk::hex(&digest),
                path: path.display().to_string(),
                target_size: target.size,
                target_written: target.written,
            }
            .write(&order.places.seal())?;
        }
        output.frame(&Frame::Done { digest, repaired })
    }

    /// Starts the thread that tells the sender what we have.
    fn start_telling(
        &self,
        order: &Order,
        repaired: Arc<Repaired>,
    ) -> Result<JoinHandle<Result<(), PorterError>>, PorterError> {
        let output = self.output.clone();
        let heard = Arc::clone(&self.heard);
        let manifest = Arc::clone(&self.manifest);
        let chunks = chunks_of(self.size);
        if self.purpose != Purpose::FinalFull && !manifest.header.unread {
            return Ok(std::thread::spawn(move || {
                tell_claims(&manifest, chunks, &output, &heard)
            }));
        }
        let content = open_content(order, self.layout, self.size)?;
        let path = order.path.clone();
        Ok(std::thread::spawn(move || {
            let told = tell_disk(content, &path, &manifest, &output, &repaired, &heard);
            if let Err(error) = &told {
                let report = serde_json::to_vec(&error.report()).unwrap_or_default();
                // If this cannot be told, the sender is gone and the pass ends anyway.
                let _ = output.frame(&Frame::Fail(report));
            }
            told
        }))
    }
}

/// What the sender said at its end.
struct End {
    digest: [u8; 32],
    state: Vec<u8>,
}

/// Why no more frames are taken.
enum Stopped {
    /// The writer failed; it knows why.
    Writer,
    /// Something else.
    Because(PorterError),
}

/// Returns what is to be written of a patched chunk.
fn patched(patch: Patch, chunk: Vec<u8>) -> Item {
    let Patch {
        index,
        fingerprint,
        over_zeros,
        pages,
        bytes,
    } = patch;
    if over_zeros {
        // Nobody has looked at what is there.
        Item::Chunk {
            index,
            fingerprint,
            bytes: chunk,
        }
    } else {
        Item::Pages {
            index,
            fingerprint,
            pages,
            bytes,
        }
    }
}

fn outside(index: u64) -> Stopped {
    Stopped::Because(PorterError::Protocol(format!(
        "chunk {index}, which is not part of the volume"
    )))
}

fn join(thread: JoinHandle<Result<(), PorterError>>) -> Result<(), PorterError> {
    thread.join().unwrap_or(Err(PorterError::Gone))
}
