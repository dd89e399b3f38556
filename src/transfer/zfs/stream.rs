//! One stream from `zfs send` to `zfs receive`, between two porters or with the tools of the hosts alone.
//!
//! Without porters the stream goes through this machine: compressed by zstd or lz4 where both hosts have it, smoothed by
//! mbuffer where a host has that, counted and limited here. A stream that breaks off lacks its end record, so that
//! `zfs receive` never takes it for complete. Which stream, is decided elsewhere. Read next: `pass.rs`,
//! `porter/pour.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::look::{dataset, must, trouble};
use super::read;
use super::syntax::{self, Stream};
use super::{ZfsEngine, name};
use crate::host::command::Command;
use crate::host::{Exit, ShellError};
use crate::porter::Bucket;
use crate::transfer::carry::{PATIENCE, unless_still};
use crate::transfer::image::{end_of, host};
use crate::transfer::lines::Side;
use crate::transfer::upload::shell;
use crate::transfer::{Pair, Progress, Route, Tool, TransferError};
use crate::units::Bytes;

/// Names those of these programs that a host has.
const TOOLS: &str = r#"for tool in zstd lz4 mbuffer; do
command -v "$tool" >/dev/null 2>&1 && echo "$tool"; done; true"#;

/// Of a stream so large, each of so many parts is written out at the target's pool when it has arrived, so that a target
/// that loses its power costs at most that much. Pools do that by themselves every five seconds, which on a fast line is
/// a lot.
const LARGE: u64 = 64 << 20;
const PARTS: u64 = 256;
const SMALLEST_PART: u64 = 4 << 20;
const LARGEST_PART: u64 = 256 << 20;

/// Lines of the programs' own words that are kept.
const WORDS: usize = 8;

type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl ZfsEngine {
    /// Carries a stream of about `size` bytes; a new target is marked as it is made.
    pub(crate) async fn stream(
        &self,
        pair: &Pair,
        operation: &'static str,
        stream: &Stream,
        size: u64,
        is_new: bool,
        tell: Tell<'_>,
    ) -> Result<Progress, TransferError> {
        let of = name::move_of(pair);
        let source = dataset(pair, Side::Source, operation)?;
        let target = dataset(pair, Side::Target, operation)?;
        let receive = syntax::receive(target, is_new.then_some(of.as_str()));
        if pair.tool == Tool::Stock {
            let send = syntax::send_aloud(source, stream, pair.stream);
            return stock(pair, operation, send, receive, size, tell).await;
        }
        let send = syntax::send(source, stream, pair.stream);
        let mut pour = ["pour", "--run", send.line(), "--total"]
            .map(String::from)
            .to_vec();
        pour.push(size.to_string());
        if let Some(limit) = pair.limit {
            pour.push(String::from("--limit"));
            pour.push(limit.as_bytes_per_second().to_string());
        }
        let mut catch = ["catch", "--run", receive.line()]
            .map(String::from)
            .to_vec();
        if size >= LARGE {
            let every = (size / PARTS).clamp(SMALLEST_PART, LARGEST_PART);
            let flush = syntax::write_out(target);
            catch.extend(["--flush", flush.line(), "--every"].map(String::from));
            catch.push(every.to_string());
        }
        let finished = self
            .porters
            .carry(pair, operation, &pour, &catch, tell)
            .await?;
        Ok(finished.progress)
    }
}

/// Carries a stream through this machine with what the hosts have.
async fn stock(
    pair: &Pair,
    operation: &'static str,
    send: Command,
    receive: Command,
    size: u64,
    tell: Tell<'_>,
) -> Result<Progress, TransferError> {
    if pair.route == Route::Direct {
        return Err(TransferError::DirectRoute {
            drive: pair.drive,
            source_address: pair.source.shell.address().to_owned(),
            target_address: pair.target.shell.address().to_owned(),
            reason: String::from("only the porter can use it"),
        });
    }
    let ask = shell(TOOLS, &[]);
    let here = must(pair, Side::Source, operation, &ask).await?;
    let there = must(pair, Side::Target, operation, &ask).await?;
    let (send, receive) = pipelines(send, receive, &here, &there);
    let trouble = |error| host(operation, pair, error);
    let mut writer = pair.target.shell.stream(&receive).await.map_err(trouble)?;
    let mut reader = pair.source.shell.stream(&send).await.map_err(trouble)?;
    let limit = pair.limit.map(|limit| limit.as_bytes_per_second());
    let mut bucket = limit.map(|rate| Bucket::new(rate, Instant::now()));
    let (moved, wire, scanned) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let now = || {
        let scanned = scanned.load(Ordering::Relaxed);
        Progress {
            scanned: Bytes(scanned),
            total: Bytes(size.max(scanned)),
            carried: Bytes(scanned),
            wire: Bytes(wire.load(Ordering::Relaxed)),
        }
    };
    let pump = async {
        while let Some(bytes) = reader.output.recv().await {
            if let Some(bucket) = bucket.as_mut() {
                tokio::time::sleep(bucket.take(bytes.len(), Instant::now())).await;
            }
            moved.fetch_add(1, Ordering::Relaxed);
            wire.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if writer.input.send(bytes).await.is_err() {
                break;
            }
            tell(now());
        }
        // The receiver sees the end, and the sender that nobody listens.
        drop(writer.input);
        drop(reader.output);
    };
    let hear = async {
        let mut words = Words::default();
        while let Some(bytes) = reader.errors.recv().await {
            if let Some(told) = words.take(&bytes) {
                scanned.fetch_max(told, Ordering::Relaxed);
                moved.fetch_add(1, Ordering::Relaxed);
            }
        }
        words
    };
    let hear_there = async {
        let mut words = Words::default();
        while let Some(bytes) = writer.errors.recv().await {
            words.take(&bytes);
        }
        words
    };
    let silent = async { while writer.output.recv().await.is_some() {} };
    let whole = async {
        let (_, (), here, there, sent, received) =
            tokio::join!(pump, silent, hear, hear_there, reader.exit, writer.exit);
        (here, there, sent, received)
    };
    let Some((here, there, sent, received)) = unless_still(&moved, PATIENCE, whole).await else {
        return Err(host(
            operation,
            pair,
            ShellError::Silent {
                address: end_of(pair, Side::Source).shell.address().to_owned(),
                command: send.brief(),
                silence: PATIENCE,
            },
        ));
    };
    let ends = [(Side::Source, sent, here), (Side::Target, received, there)];
    judge(pair, operation, ends)?;
    // It tells how far it is each second only; at its end it is through.
    scanned.fetch_max(size, Ordering::Relaxed);
    Ok(now())
}

type End = (
    Side,
    Result<Result<Exit, ShellError>, tokio::sync::oneshot::error::RecvError>,
    Words,
);

/// Finds out whether both ends did their work; a sender that complained explains more than a receiver that starved.
fn judge(pair: &Pair, operation: &'static str, ends: [End; 2]) -> Result<(), TransferError> {
    let mut failed = Vec::new();
    for (side, exit, words) in ends {
        let words = words.end();
        match exit {
            Ok(Ok(Exit::Code(0))) if side == Side::Target || words.is_empty() => {}
            Ok(Ok(exit)) => failed.push((side, format!("{exit}: {words}"), words.is_empty())),
            Ok(Err(error)) => return Err(host(operation, pair, error)),
            Err(_) => failed.push((side, String::from("vanished"), true)),
        }
    }
    let received = !failed.iter().any(|(side, ..)| *side == Side::Target);
    let telling = failed.iter().find(|(.., mute)| !mute).or(failed.first());
    match telling {
        Some((side, reason, _)) if !received => {
            let program = match side {
                Side::Source => "zfs send",
                Side::Target => "zfs receive",
            };
            Err(trouble(
                pair,
                *side,
                operation,
                format!("{program} {reason}"),
            ))
        }
        // What arrived is complete; zfs receive says so.
        Some(_) | None => Ok(()),
    }
}

/// Puts compression and buffers where the hosts have them.
fn pipelines(send: Command, receive: Command, here: &str, there: &str) -> (Command, Command) {
    let has = |tools: &str, tool: &str| tools.lines().any(|line| line.trim() == tool);
    let both = |tool: &&str| has(here, tool) && has(there, tool);
    let buffer = || Command::new("mbuffer").args(["-q", "-s", "128k", "-m", "64M"]);
    let mut sending = send;
    let mut receiving: Option<Command> = has(there, "mbuffer").then(buffer);
    if let Some(tool) = ["zstd", "lz4"].iter().find(|tool| both(tool)) {
        sending = sending.pipe(&Command::new(tool).args(["-q", "-1", "-c"]));
        let unpack = Command::new(tool).args(["-q", "-d", "-c"]);
        receiving = Some(match receiving {
            Some(first) => first.pipe(&unpack),
            None => unpack,
        });
    }
    if has(here, "mbuffer") {
        sending = sending.pipe(&buffer());
    }
    let receiving = match receiving {
        Some(first) => first.pipe(&receive),
        None => receive,
    };
    (sending, receiving)
}

/// What a pipeline says on standard error.
#[derive(Default)]
struct Words {
    partial: Vec<u8>,
    lines: Vec<String>,
}

impl Words {
    /// Takes bytes in; returns how far the sender says it is, when it says so.
    fn take(&mut self, bytes: &[u8]) -> Option<u64> {
        let mut told = None;
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            told = self.line(&String::from_utf8_lossy(&line)).or(told);
        }
        self.partial.truncate(64 * 1024);
        told
    }

    fn line(&mut self, line: &str) -> Option<u64> {
        let line = line.trim();
        if let Some(told) = read::read_told(line) {
            return Some(told);
        }
        let announces = ["full\t", "incremental\t", "size\t", "TIME"];
        if !line.is_empty() && !announces.iter().any(|word| line.starts_with(word)) {
            if self.lines.len() == WORDS {
                self.lines.remove(0);
            }
            self.lines.push(line.to_owned());
        }
        None
    }

    fn end(mut self) -> String {
        let rest = std::mem::take(&mut self.partial);
        self.line(&String::from_utf8_lossy(&rest));
        self.lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_use_what_is_there() {
        let check = |here: &str, there: &str| {
            let (send, receive) =
                pipelines(Command::new("send"), Command::new("receive"), here, there);
            format!("{send} => {receive}")
        };
        assert_eq!(
            check("", "zstd\nmbuffer\n"),
            "send => mbuffer -q -s 128k -m 64M | receive"
        );
        assert_eq!(
            check("lz4\nzstd\nmbuffer\n", "zstd\nlz4\n"),
            "send | zstd -q -1 -c | mbuffer -q -s 128k -m 64M => zstd -q -d -c | receive"
        );
        assert_eq!(
            check("lz4\n", "lz4\n"),
            "send | lz4 -q -1 -c => lz4 -q -d -c | receive"
        );
    }

    #[test]
    fn progress_is_no_complaint() {
        let mut words = Words::default();
        assert_eq!(
            words.take(b"full\ttank/v@a\t99\nsize\t99\n16:20:01\t40"),
            None
        );
        assert_eq!(words.take(b"96\ttank/v@a\nwarning: x\n"), Some(4096));
        assert_eq!(words.end(), "warning: x");
    }
}
