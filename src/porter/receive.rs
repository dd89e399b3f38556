//! The receiving side of a pass: says what the target has, writes what differs, and proves it.
//!
//! ```text
//!  manifest or disk --> what we have of each chunk --> output
//!  input --> unpack, check --> write batches --> sync, then claim in the manifest
//! ```
//! Before the last pass succeeds, everything is on the disk, was compared with what the source has (full verification:
//! as read from the disk, past its caches), and both sides agree on a digest of the whole. When the other side goes
//! away, what arrived is synced and claimed first. Touches no file that no manifest of ours names. Read next:
//! `write.rs`, `target.rs`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::chunk::{CHUNK, Digest, Fingerprint, chunks_of};
use super::content::{Ahead, BLOCK, Block, Content, Piece, RawContent, Tolerance};
use super::error::PorterError;
use super::manifest::{Manifest, sync_directory};
use super::places::Places;
use super::qcow2::Image;
use super::seal::{Seal, SourceState};
use super::send::peer_error;
use super::target::{self, Disk, RawDisk};
use super::tell::{Line, Teller};
use super::wire::{self, Frame, LIST, Layout, Purpose};
use super::write::{Item, Writer};

/// After this long without a word from the other side, which speaks every few seconds, it is taken to be gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);
/// Frames decoded ahead of writing.
const QUEUE: usize = 64;
/// Equal neighbours from here on are told as a run.
const SHORTEST_RUN: u64 = 4;

/// Where to receive.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The target volume.
    pub(crate) path: PathBuf,
    /// Our own files beside it.
    pub(crate) places: Places,
    /// Whether the target is an image whose guest-visible content is received, when the sender sends such.
    pub(crate) image: bool,
}

/// Runs one pass over the streams from and to a sender.
pub(crate) fn receive(
    order: &Order,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    teller: &Teller,
) -> Result<(), PorterError> {
    let output = Output(Arc::new(Mutex::new(Box::new(output))));
    output.bytes(wire::PREFACE)?;
    let frames = listen(input);
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
struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl Output {
    fn frame(&self, frame: &Frame) -> Result<(), PorterError> {
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

fn listen(mut input: impl Read + Send + 'static) -> Receiver<Result<Frame, PorterError>> {
    let (queue, frames) = sync_channel(QUEUE);
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
        let claimed = target::claim(&order.path, &order.places.manifest(), layout)?;
        Seal::break_it(&order.places.seal())?;
        let mut manifest = claimed.manifest;
        let path = &order.path;
        let image = order.image && layout == Layout::Guest;
        let trouble = || PorterError::file("prepare", path);
        let mut old_size = 0;
        let mut disk: Box<dyn Disk> = if image {
            // From here on a crash of the machine may leave an image whose tables are half written.
            manifest.set_writing(true)?;
            if claimed.fresh {
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
        Ok(Pass {
            purpose,
            layout,
            size,
            manifest: Arc::new(manifest),
            disk: Arc::from(disk),
            output,
        })
    }

    fn run(
        self,
        order: &Order,
        frames: &Receiver<Result<Frame, PorterError>>,
        teller: &Teller,
    ) -> Result<(), PorterError> {
        let repaired = Arc::new(AtomicU64::new(0));
        let telling = self.start_telling(order, Arc::clone(&repaired))?;
        let mut writer = Writer::start(
            Arc::clone(&self.disk),
            Arc::clone(&self.manifest),
            order.path.clone(),
        );
        let mut touched = Touched::new(chunks_of(self.size));
        let arrived = self.take_all(frames, &mut writer, &mut touched);
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
        let repaired = repaired.load(Ordering::Relaxed);
        self.complete(order, &end, &touched, repaired, teller)
    }

    /// Takes frames until the sender has sent everything.
    fn take_all(
        &self,
        frames: &Receiver<Result<Frame, PorterError>>,
        writer: &mut Writer,
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
                    touched.add(index, 1);
                    Item::Chunk {
                        index,
                        fingerprint,
                        bytes,
                    }
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
        sync_directory(path)?;
        let mut manifest = Arc::into_inner(manifest).ok_or(PorterError::Gone)?;
        if !manifest.header.writing_since.is_empty() {
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
        repaired: Arc<AtomicU64>,
    ) -> Result<JoinHandle<Result<(), PorterError>>, PorterError> {
        let output = self.output.clone();
        let manifest = Arc::clone(&self.manifest);
        let chunks = chunks_of(self.size);
        if self.purpose != Purpose::FinalFull {
            return Ok(std::thread::spawn(move || {
                tell_claims(&manifest, chunks, &output)
            }));
        }
        let content = open_content(order, self.layout, self.size)?;
        let path = order.path.clone();
        Ok(std::thread::spawn(move || {
            let told = tell_disk(content, &path, &manifest, &output, &repaired);
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

fn outside(index: u64) -> Stopped {
    Stopped::Because(PorterError::Protocol(format!(
        "chunk {index}, which is not part of the volume"
    )))
}

fn join(thread: JoinHandle<Result<(), PorterError>>) -> Result<(), PorterError> {
    thread.join().unwrap_or(Err(PorterError::Gone))
}

/// Opens what is really on the target's disk.
fn open_content(order: &Order, layout: Layout, size: u64) -> Result<Arc<dyn Content>, PorterError> {
    Ok(if order.image && layout == Layout::Guest {
        Arc::new(Image::open(&order.path)?)
    } else {
        Arc::new(RawContent::open(&order.path, Some(size))?)
    })
}

/// Tells what the manifest claims.
fn tell_claims(manifest: &Manifest, chunks: u64, output: &Output) -> Result<(), PorterError> {
    let mut teller = Runs::new(output);
    manifest.scan(chunks.min(manifest.chunks()?), |_, claims| {
        claims.iter().try_for_each(|claim| teller.add(*claim, 1))
    })?;
    teller.end()
}

/// Tells what is on the disk, and corrects the manifest where it claims something else.
fn tell_disk(
    content: Arc<dyn Content>,
    path: &Path,
    manifest: &Manifest,
    output: &Output,
    repaired: &AtomicU64,
) -> Result<(), PorterError> {
    let size = content.size();
    let mut teller = Runs::new(output);
    let ahead = Ahead::start(content, path.to_owned(), Tolerance::Fail);
    let settle = |first: u64, found: &[Fingerprint]| -> Result<(), PorterError> {
        let claims = manifest.read(first, found.len())?;
        for (index, (claim, found)) in (first..).zip(claims.iter().zip(found)) {
            if claim != found {
                if *claim != Fingerprint::ABSENT {
                    let length = super::chunk::length_of(index, size);
                    repaired.fetch_add(length as u64, Ordering::Relaxed);
                }
                manifest.write(index, 1, *found)?;
            }
        }
        Ok(())
    };
    while let Some(piece) = ahead.next() {
        match piece? {
            Piece::Zero { first, count } => {
                let zeros = [Fingerprint::ZERO; 1024];
                let mut next = first;
                while next < first + count {
                    let now = (first + count - next).min(1024);
                    settle(next, &zeros[..now as usize])?;
                    next += now;
                }
                teller.add(Fingerprint::ZERO, count)?;
            }
            Piece::Data {
                first,
                block,
                length,
            } => {
                let found: Vec<Fingerprint> = block
                    .bytes(length)
                    .chunks(CHUNK)
                    .map(Fingerprint::of)
                    .collect();
                ahead.give_back(block);
                settle(first, &found)?;
                found
                    .into_iter()
                    .try_for_each(|found| teller.add(found, 1))?;
            }
            Piece::Unknown { count, .. } => teller.add(Fingerprint::ABSENT, count)?,
        }
    }
    teller.end()
}

/// Gathers fingerprints into frames.
struct Runs<'a> {
    output: &'a Output,
    list: Vec<Fingerprint>,
    last: Option<(Fingerprint, u64)>,
}

impl<'a> Runs<'a> {
    fn new(output: &'a Output) -> Runs<'a> {
        Runs {
            output,
            list: Vec::new(),
            last: None,
        }
    }

    fn add(&mut self, fingerprint: Fingerprint, count: u64) -> Result<(), PorterError> {
        match &mut self.last {
            Some((last, seen)) if *last == fingerprint => {
                *seen += count;
                Ok(())
            }
            _ => {
                self.settle()?;
                self.last = Some((fingerprint, count));
                Ok(())
            }
        }
    }

    fn settle(&mut self) -> Result<(), PorterError> {
        let Some((fingerprint, count)) = self.last.take() else {
            return Ok(());
        };
        if count < SHORTEST_RUN {
            for _ in 0..count {
                self.list.push(fingerprint);
            }
        }
        // A block's worth at a time, so that the sender never waits for fingerprints that exist already.
        if self.list.len() >= LIST / 16 || (count >= SHORTEST_RUN && !self.list.is_empty()) {
            self.output
                .frame(&Frame::Have(std::mem::take(&mut self.list)))?;
        }
        if count >= SHORTEST_RUN {
            self.output.frame(&Frame::HaveRun { count, fingerprint })?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), PorterError> {
        self.settle()?;
        if !self.list.is_empty() {
            self.output
                .frame(&Frame::Have(std::mem::take(&mut self.list)))?;
        }
        self.output.frame(&Frame::HaveEnd)
    }
}

/// The chunks that were written in this pass, one bit each: 2 MiB for a TiB.
struct Touched {
    bits: Vec<u64>,
    chunks: u64,
}

impl Touched {
    fn new(chunks: u64) -> Touched {
        Touched {
            bits: Vec::new(),
            chunks,
        }
    }

    fn add(&mut self, first: u64, count: u64) {
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
fn read_back(
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
fn digest(manifest: &Manifest, size: u64) -> Result<[u8; 32], PorterError> {
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
