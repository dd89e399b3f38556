//! What two porters say to each other: frames on a byte stream.
//!
//! Both sides begin with [`PREFACE`], so that a login script that prints something is recognised as such. A frame is a
//! kind, a length (little endian) and a body; no frame is longer than [`MAX_BODY`], so memory is bounded whatever a
//! peer claims. Every chunk carries the fingerprint of its content, which the reader checks here, before anybody writes
//! it; a patch is checked in `answer.rs`, where the chunk is that it is for. This module never touches a disk.
//!
//! ```text
//!  sender                                receiver
//!    Hello                 -->
//!                          <--   Have, HaveRun ... HaveEnd       (not more than HAVE_AHEAD beyond Heard)
//!    Chunk, Zero, Heard    -->
//!    Ask                   -->
//!                          <--   Prints
//!    Patch (or Chunk)      -->
//!    End                   -->
//!                          <--   Done
//! ```
//! What the receiver may say unasked is limited, so that an answer never waits behind a backlog of it, and so that the
//! sender can always read: neither side stops reading to write. Read next: `send.rs`, `receive.rs`.

use std::io::{self, Read};

use super::chunk::{CHUNK, Fingerprint};
use super::error::PorterError;
use super::pages::{PAGES, PagePrint, Pages};

/// The first bytes of each direction.
pub(crate) const PREFACE: &[u8] = b"proxmove porter 2\n";
/// The longest body: a chunk that did not compress, with room for its head.
pub(crate) const MAX_BODY: usize = CHUNK + 4096;
/// How many fingerprints a frame holds at most.
pub(crate) const LIST: usize = 1024;
/// How many fingerprints and runs of them a receiver tells beyond those that the sender has made use of: 1 MiB, which
/// is of 2 GiB of a volume without holes.
pub(crate) const HAVE_AHEAD: u64 = 32 * 1024;

/// What is compared and carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layout {
    /// The bytes of the file or device itself.
    File,
    /// What the guest sees, whatever the format around it.
    Guest,
}

/// What a pass is for, as `transfer::Pass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The manifest is trusted, nothing is sealed.
    Precopy,
    /// The manifest is trusted; leaves a seal.
    FinalTransfer,
    /// The target's disk is read; leaves a seal.
    FinalFull,
}

/// The pages of one chunk that differ from what the receiver has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) index: u64,
    /// Of the whole chunk as it shall become.
    pub(crate) fingerprint: Fingerprint,
    /// The other pages are zero, and the chunk was not asked for; else they are as they were told in the answer.
    pub(crate) over_zeros: bool,
    /// Which pages.
    pub(crate) pages: Pages,
    /// Their bytes, unpacked. Whether they are right shows only in the patched chunk.
    pub(crate) bytes: Vec<u8>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Sender: what comes.
    Hello {
        layout: Layout,
        purpose: Purpose,
        size: u64,
    },
    /// Sender: the content of one chunk, already unpacked and checked when it comes from [`read_frame`].
    Chunk {
        index: u64,
        fingerprint: Fingerprint,
        bytes: Vec<u8>,
    },
    /// Sender: these chunks are all zero.
    Zero { first: u64, count: u64 },
    /// Sender: which pages does the receiver have of this chunk?
    Ask { index: u64 },
    /// Sender: some pages of a chunk.
    Patch(Patch),
    /// Sender: so many fingerprints and runs of them, since the beginning, were made use of. Catcher: so many pieces of the
    /// stream, since the beginning, were passed on.
    Heard { count: u64 },
    /// Sender: nothing to say, but alive.
    Alive,
    /// Sender: everything was sent; what it holds, and the source's state as JSON (empty after a pre-copy).
    End {
        size: u64,
        digest: [u8; 32],
        state: Vec<u8>,
    },
    /// Receiver: what it has of the next chunks.
    Have(Vec<Fingerprint>),
    /// Receiver: the next `count` chunks all have this fingerprint.
    HaveRun {
        count: u64,
        fingerprint: Fingerprint,
    },
    /// Receiver: of all further chunks nothing is known.
    HaveEnd,
    /// Receiver: the answer to a question; no prints when the chunk cannot be read.
    Prints { index: u64, prints: Vec<PagePrint> },
    /// Receiver: everything is on disk; bytes that were not what the manifest said.
    Done { digest: [u8; 32], repaired: u64 },
    /// Either: an error report as JSON.
    Fail(Vec<u8>),
}

/// Returns the frame's bytes. A chunk is sent as it is; see [`packed_chunk`] for a compressed one.
pub(crate) fn encode(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Hello {
            layout,
            purpose,
            size,
        } => {
            let layout = match layout {
                Layout::File => 0,
                Layout::Guest => 1,
            };
            let purpose = match purpose {
                Purpose::Precopy => 0,
                Purpose::FinalTransfer => 1,
                Purpose::FinalFull => 2,
            };
            join(
                1,
                &[
                    &[layout, purpose],
                    &(CHUNK as u32).to_le_bytes(),
                    &size.to_le_bytes(),
                ],
            )
        }
        Frame::Chunk {
            index,
            fingerprint,
            bytes,
        } => chunk(*index, fingerprint, bytes),
        Frame::Zero { first, count } => join(4, &[&first.to_le_bytes(), &count.to_le_bytes()]),
        Frame::Alive => join(5, &[]),
        Frame::End {
            size,
            digest,
            state,
        } => join(6, &[&size.to_le_bytes(), digest, state]),
        Frame::Have(list) => {
            let parts: Vec<&[u8]> = list
                .iter()
                .map(|fingerprint| fingerprint.0.as_slice())
                .collect();
            join(7, &parts)
        }
        Frame::HaveRun { count, fingerprint } => join(8, &[&count.to_le_bytes(), &fingerprint.0]),
        Frame::HaveEnd => join(9, &[]),
        Frame::Done { digest, repaired } => join(10, &[digest, &repaired.to_le_bytes()]),
        Frame::Fail(report) => join(11, &[&report[..report.len().min(CHUNK)]]),
        Frame::Ask { index } => join(12, &[&index.to_le_bytes()]),
        Frame::Prints { index, prints } => join(13, &[&index.to_le_bytes(), prints.as_flattened()]),
        Frame::Patch(patch) => self::patch(patch, false),
        Frame::Heard { count } => join(16, &[&count.to_le_bytes()]),
    }
}

/// Returns the bytes of a patch's frame; `packed` when zstd compressed its bytes.
pub(crate) fn patch(patch: &Patch, packed: bool) -> Vec<u8> {
    join(
        if packed { 15 } else { 14 },
        &[
            &patch.index.to_le_bytes(),
            &patch.fingerprint.0,
            &[u8::from(patch.over_zeros)],
            &patch.pages.0.to_le_bytes(),
            &patch.bytes,
        ],
    )
}

/// Returns the bytes of a chunk's frame, not compressed.
pub(crate) fn chunk(index: u64, fingerprint: &Fingerprint, bytes: &[u8]) -> Vec<u8> {
    join(2, &[&index.to_le_bytes(), &fingerprint.0, bytes])
}

/// Returns the bytes of a chunk's frame with a body that zstd compressed.
pub(crate) fn packed_chunk(index: u64, fingerprint: &Fingerprint, packed: &[u8]) -> Vec<u8> {
    join(3, &[&index.to_le_bytes(), &fingerprint.0, packed])
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.push(kind);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Reads the preface of the other side. What comes instead is quoted in the error.
pub(crate) fn read_preface(input: &mut impl Read) -> Result<(), PorterError> {
    let mut seen = [0; PREFACE.len()];
    let mut filled = 0;
    while filled < seen.len() {
        match input.read(&mut seen[filled..]) {
            Ok(0) if filled == 0 => return Err(PorterError::Gone),
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(PorterError::Gone),
        }
        if seen[..filled] != PREFACE[..filled] {
            break;
        }
    }
    if seen == *PREFACE {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&seen[..filled]).into_owned();
    Err(PorterError::Protocol(format!(
        "'{}' instead of a porter's greeting",
        text.escape_debug()
    )))
}

/// Reads the next frame; `None` at a clean end of the stream.
///
/// A chunk is unpacked and its bytes are compared with its fingerprint.
pub(crate) fn read_frame(input: &mut impl Read) -> Result<Option<Frame>, PorterError> {
    let mut kind = [0];
    loop {
        match input.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(PorterError::Gone),
        }
    }
    let mut length = [0; 4];
    input
        .read_exact(&mut length)
        .map_err(|_| PorterError::Gone)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BODY {
        return Err(PorterError::Protocol(format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).map_err(|_| PorterError::Gone)?;
    decode(kind[0], body).map(Some)
}

fn decode(kind: u8, body: Vec<u8>) -> Result<Frame, PorterError> {
    let mut rest = body.as_slice();
    let frame = match kind {
        1 => {
            let [layout, purpose] = take::<2>(&mut rest)?;
            let chunk = u32::from_le_bytes(take(&mut rest)?);
            if chunk as usize != CHUNK {
                return Err(PorterError::Protocol(format!("chunks of {chunk} bytes")));
            }
            Frame::Hello {
                layout: match layout {
                    0 => Layout::File,
                    1 => Layout::Guest,
                    _ => return Err(PorterError::Protocol(format!("layout {layout}"))),
                },
                purpose: match purpose {
                    0 => Purpose::Precopy,
                    1 => Purpose::FinalTransfer,
                    2 => Purpose::FinalFull,
                    _ => return Err(PorterError::Protocol(format!("purpose {purpose}"))),
                },
                size: number(&mut rest)?,
            }
        }
        2 | 3 => {
            let index = number(&mut rest)?;
            let fingerprint = Fingerprint(take(&mut rest)?);
            let bytes = if kind == 2 {
                rest.to_vec()
            } else {
                zstd::bulk::decompress(rest, CHUNK)
                    .map_err(|_| PorterError::Protocol(format!("chunk {index} damaged")))?
            };
            rest = &[];
            let fits = !bytes.is_empty() && bytes.len() <= CHUNK;
            if !fits || Fingerprint::of(&bytes) != fingerprint {
                return Err(PorterError::Protocol(format!(
                    "chunk {index} (offset {}) damaged",
                    index.saturating_mul(CHUNK as u64)
                )));
            }
            Frame::Chunk {
                index,
                fingerprint,
                bytes,
            }
        }
        4 => Frame::Zero {
            first: number(&mut rest)?,
            count: number(&mut rest)?,
        },
        5 => Frame::Alive,
        6 => Frame::End {
            size: number(&mut rest)?,
            digest: take(&mut rest)?,
            state: std::mem::take(&mut rest).to_vec(),
        },
        7 => {
            let (list, odd) = rest.as_chunks::<32>();
            let list = list.iter().copied().map(Fingerprint).collect();
            rest = odd;
            Frame::Have(list)
        }
        8 => Frame::HaveRun {
            count: number(&mut rest)?,
            fingerprint: Fingerprint(take(&mut rest)?),
        },
        9 => Frame::HaveEnd,
        10 => Frame::Done {
            digest: take(&mut rest)?,
            repaired: number(&mut rest)?,
        },
        11 => Frame::Fail(std::mem::take(&mut rest).to_vec()),
        12 => Frame::Ask {
            index: number(&mut rest)?,
        },
        13 => {
            let index = number(&mut rest)?;
            let (prints, odd) = rest.as_chunks::<16>();
            if prints.len() > PAGES {
                return Err(PorterError::Protocol(format!("{} pages", prints.len())));
            }
            let prints = prints.to_vec();
            rest = odd;
            Frame::Prints { index, prints }
        }
        14 | 15 => {
            let index = number(&mut rest)?;
            let fingerprint = Fingerprint(take(&mut rest)?);
            let over_zeros = match take::<1>(&mut rest)? {
                [0] => false,
                [1] => true,
                [other] => return Err(PorterError::Protocol(format!("a patch over {other}"))),
            };
            let pages = Pages(u16::from_le_bytes(take(&mut rest)?));
            let bytes = if kind == 14 {
                rest.to_vec()
            } else {
                zstd::bulk::decompress(rest, CHUNK).map_err(|_| {
                    PorterError::Protocol(format!("a patch for chunk {index} damaged"))
                })?
            };
            rest = &[];
            Frame::Patch(Patch {
                index,
                fingerprint,
                over_zeros,
                pages,
                bytes,
            })
        }
        16 => Frame::Heard {
            count: number(&mut rest)?,
        },
        _ => return Err(PorterError::Protocol(format!("a frame of kind {kind}"))),
    };
    if rest.is_empty() {
        Ok(frame)
    } else {
        Err(PorterError::Protocol(format!(
            "a frame of kind {kind} that is too long"
        )))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PorterError> {
    match rest.split_first_chunk::<N>() {
        Some((head, tail)) => {
            *rest = tail;
            Ok(*head)
        }
        None => Err(PorterError::Protocol(String::from(
            "a frame that is too short",
        ))),
    }
}

fn number(rest: &mut &[u8]) -> Result<u64, PorterError> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(frame: Frame) {
        let bytes = encode(&frame);
        assert_eq!(
            read_frame(&mut bytes.as_slice()).expect("own frames parse"),
            Some(frame)
        );
    }

    #[test]
    fn frames_survive_the_wire() {
        check(Frame::Hello {
            layout: Layout::Guest,
            purpose: Purpose::FinalFull,
            size: u64::MAX,
        });
        let bytes = vec![7; 1000];
        check(Frame::Chunk {
            index: 3,
            fingerprint: Fingerprint::of(&bytes),
            bytes,
        });
        check(Frame::Zero { first: 1, count: 2 });
        check(Frame::Alive);
        check(Frame::End {
            size: 9,
            digest: [3; 32],
            state: b"{}".to_vec(),
        });
        check(Frame::Have(vec![
            Fingerprint::ZERO,
            Fingerprint::ABSENT,
            Fingerprint::of(b"x"),
        ]));
        check(Frame::HaveRun {
            count: 5,
            fingerprint: Fingerprint::ABSENT,
        });
        check(Frame::HaveEnd);
        check(Frame::Done {
            digest: [1; 32],
            repaired: 4,
        });
        check(Frame::Fail(b"{}".to_vec()));
        check(Frame::Ask { index: 77 });
        for pages in [0, 1, PAGES] {
            check(Frame::Prints {
                index: 5,
                prints: vec![[6; 16]; pages],
            });
        }
        for over_zeros in [false, true] {
            check(Frame::Patch(Patch {
                index: 8,
                fingerprint: Fingerprint::of(b"x"),
                over_zeros,
                pages: Pages(0b101),
                bytes: vec![3; 8192],
            }));
        }
        check(Frame::Heard { count: 9 });
    }

    #[test]
    fn a_compressed_chunk_is_unpacked_and_checked() {
        let bytes = vec![9; CHUNK];
        let fingerprint = Fingerprint::of(&bytes);
        let packed = zstd::bulk::compress(&bytes, 1).expect("compresses");
        let frame = packed_chunk(4, &fingerprint, &packed);
        assert_eq!(
            read_frame(&mut frame.as_slice()).expect("parses"),
            Some(Frame::Chunk {
                index: 4,
                fingerprint,
                bytes
            })
        );
    }

    #[test]
    fn a_flipped_bit_in_a_chunk_is_found() {
        let bytes = vec![7; 1000];
        let clean = chunk(3, &Fingerprint::of(&bytes), &bytes);
        for place in [13, 44, 45, 700, clean.len() - 1] {
            let mut damaged = clean.clone();
            damaged[place] ^= 4;
            let error = read_frame(&mut damaged.as_slice()).expect_err("must be refused");
            assert!(error.to_string().contains("damaged"), "{place}: {error}");
        }
    }

    #[test]
    fn a_chatty_login_script_is_quoted() {
        let error = read_preface(&mut &b"Welcome to node1!\nproxmove porter 2\n"[..])
            .expect_err("not a greeting");
        assert!(error.to_string().contains("Welcome to node1"), "{error}");
    }

    /// Returns what porters say, several frames each: what they have, what they ask, chunks, patches, the end.
    fn streams() -> Vec<Vec<u8>> {
        let zero = Fingerprint::ZERO;
        let some = Fingerprint::of(b"some");
        let bytes = vec![7; 300];
        let packed = zstd::bulk::compress(&bytes, 1).expect("compresses");
        let chunks = [
            chunk(3, &Fingerprint::of(&bytes), &bytes),
            packed_chunk(4, &Fingerprint::of(&bytes), &packed),
        ];
        let hello = Frame::Hello {
            layout: Layout::Guest,
            purpose: Purpose::FinalFull,
            size: 1 << 40,
        };
        let end = Frame::End {
            size: 1 << 40,
            digest: [3; 32],
            state: b"{\"size\":5}".to_vec(),
        };
        let frames = [
            vec![
                hello,
                Frame::Alive,
                Frame::Zero { first: 2, count: 9 },
                Frame::Ask { index: 1 },
            ],
            vec![
                Frame::Have(vec![some, zero, some]),
                Frame::HaveRun {
                    count: 70,
                    fingerprint: zero,
                },
                Frame::HaveEnd,
                Frame::Heard { count: 9 },
            ],
            vec![end, Frame::Fail(b"{\"kind\":\"gone\"}".to_vec())],
            vec![Frame::Done {
                digest: [1; 32],
                repaired: 4,
            }],
        ];
        let joined = frames
            .iter()
            .map(|frames| frames.iter().flat_map(encode).collect());
        joined.chain([chunks.concat()]).collect()
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut input = bytes.as_slice();
            let _ = read_preface(&mut input);
            let mut input = bytes.as_slice();
            while let Ok(Some(_)) = read_frame(&mut input) {}
        }

        #[test]
        fn fuzz_frames(stream in crate::mutations::bytes(streams())) {
            let mut input = stream.as_slice();
            while let Ok(Some(frame)) = read_frame(&mut input) {
                let again = encode(&frame);
                prop_assert_eq!(read_frame(&mut again.as_slice()).ok().flatten(), Some(frame));
            }
        }

        #[test]
        fn garbage_in_a_plausible_frame_never_panics(
            kind in 0u8..20,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let frame = join(kind, &[&body]);
            let _ = read_frame(&mut frame.as_slice());
        }
    }
}
