//! The fallback for hosts where no porter can run: dd, sha256sum and stat, through this machine.
//!
//! A volume is compared in blocks of 64 MiB by their SHA-256, computed on both hosts, and blocks that differ are copied
//! whole. So a pass after the first one is dear in small changes, but it resumes and verifies as a porter's does: after
//! the last pass every block was read from the target's disk and is equal. Formats cannot be changed, compression and
//! the direct route do not exist, and both kinds of verification are the full one. Ownership and the seal are in one
//! small text file on the target. Read next: `image.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::carry::{PATIENCE, unless_still};
use super::image::{end_of, failed, host, operation};
use super::lines::Side;
use super::upload::{PATIENCE as SHORT, shell};
use super::{Pair, Pass, PassReport, Progress, Route, TransferError, VolumeState};
use crate::host::{Exit, Output, ShellError};
use crate::porter::Bucket;
use crate::units::Bytes;

/// Bytes of a block: some seconds of a slow link, and few enough hashes to hold all of a volume's.
const BLOCK: u64 = 64 << 20;
const TITLE: &str = "proxmove stock 1";

/// Prints kind, size, times and inode of a source.
const STATE: &str = r#"if test -b "$1"; then echo "block $(blockdev --getsize64 "$1")"
else stat -L -c 'file %s %.9Y %.9Z %i' -- "$1"; fi"#;
/// Prints what is at the target's path, then our mark.
const LOOK: &str = r#"test -e "$1" || test -L "$1" || { echo absent; exit 0; }
stat -c 'there %i %s %.9Y %b %B' -- "$1" && if test -e "$2"; then cat -- "$2"; fi"#;
/// Creates the target, mark first; ends with 17 when somebody else was faster.
const CREATE: &str = r#"umask 027
printf '%s\npath %s\ninode new\n' "$3" "$1" > "$2" || exit 1
directory=$(dirname -- "$1"); test -d "$directory" || mkdir -- "$directory" || exit 1
(set -C; : > "$1") 2>/dev/null || { rm -f -- "$2"; exit 17; }"#;
/// Notes the target's inode, which breaks a seal, and sets its size.
const OPEN: &str = r#"printf '%s\npath %s\ninode %s\n' "$3" "$1" "$(stat -c %i -- "$1")" > "$2" &&
truncate -s "$4" -- "$1""#;
/// Seals: `$4` is the source's state, `$5` the digest.
const SEAL: &str = r#"sync -- "$1" && sync -- "$(dirname -- "$1")" &&
printf '%s\npath %s\ninode %s\nsource %s\ntarget %s\ndigest %s\n' "$3" "$1" "$(stat -c %i -- "$1")" "$4" \
"$(stat -c '%s %.9Y' -- "$1")" "$5" > "$2.new" && sync -- "$2.new" && mv -f -- "$2.new" "$2""#;
/// Prints a hash for each block, past the page cache where that works. A block that cannot be read gets a hash that
/// equals no other one.
const HASH: &str = r#"sync -- "$1" 2>/dev/null; flag=
dd if="$1" of=/dev/null bs=1M count=1 iflag=direct 2>/dev/null && flag=iflag=direct
for block in $2; do
{ dd if="$1" bs=1M skip=$((block * 64)) count=64 $flag 2>/dev/null || cat /proc/sys/kernel/random/uuid; } |
sha256sum | cut -c 1-64; done"#;
const READ: &str = r#"exec dd if="$1" bs=1M skip="$2" count="$3" status=none"#;
/// Empties a range and writes only what is not zero into it, so that the target stays sparse where it can.
const WRITE: &str = r#"how=
fallocate -p -o $(($2 * 1048576)) -l $(($3 * 1048576)) "$1" 2>/dev/null && how=,sparse
exec dd of="$1" bs=1M seek="$2" conv=notrunc$how iflag=fullblock status=none"#;
const DISCARD: &str = r#"rm -f -- "$1" && rm -f -- "$2""#;

type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What is known of a target.
struct Found {
    mark: BTreeMap<String, String>,
    inode: String,
    size_and_time: String,
    allocated: u64,
}

/// Finds out what the target holds; changes nothing.
pub(crate) async fn observe(pair: &Pair) -> Result<VolumeState, TransferError> {
    let found = match look(pair).await? {
        Whose::Nobodys => return Ok(VolumeState::Absent),
        Whose::Foreign => return Ok(VolumeState::Foreign),
        Whose::Ours(found) => found,
    };
    let partial = VolumeState::Partial {
        in_place: Bytes(found.allocated),
    };
    let (Some(source), Some(target), Some(digest)) = (
        found.mark.get("source"),
        found.mark.get("target"),
        found.mark.get("digest"),
    ) else {
        return Ok(partial);
    };
    let now = state(pair).await?;
    if !now.starts_with("file ") {
        return Ok(partial);
    }
    Ok(match (now == *source, found.size_and_time == *target) {
        (true, true) => VolumeState::Synced {
            digest: digest.clone(),
        },
        (true, false) => VolumeState::TargetNewer,
        (false, _) => VolumeState::SourceNewer,
    })
}

/// Breaks the seal; a pass compares both sides in any case.
pub(crate) async fn unseal(pair: &Pair) -> Result<(), TransferError> {
    const OPERATION: &str = "giving up what the target holds";
    let Whose::Ours(found) = look(pair).await? else {
        return Ok(());
    };
    // Noting the inode anew is all it takes; the size stays.
    let size = found.size_and_time.split(' ').next().unwrap_or_default();
    let arguments = [pair.target.path.as_str(), &mark_path(pair), TITLE, size];
    short(pair, Side::Target, OPERATION, OPEN, &arguments)
        .await
        .map(drop)
}

/// Removes the target volume when it is ours.
pub(crate) async fn discard(pair: &Pair) -> Result<(), TransferError> {
    match look(pair).await? {
        Whose::Nobodys => Ok(()),
        Whose::Foreign => Err(foreign(pair)),
        Whose::Ours(_) => {
            let arguments = [pair.target.path.as_str(), &mark_path(pair)];
            short(
                pair,
                Side::Target,
                "removal of the copy",
                DISCARD,
                &arguments,
            )
            .await
            .map(|_| ())
        }
    }
}

/// Runs one pass.
pub(crate) async fn carry(
    pair: &Pair,
    pass: Pass,
    tell: Tell<'_>,
) -> Result<PassReport, TransferError> {
    let operation = operation(pass);
    if pair.source.format != pair.target.format {
        return Err(trouble(
            pair,
            Side::Source,
            operation,
            "only the porter can change the format of a volume",
        ));
    }
    if pair.route == Route::Direct {
        return Err(TransferError::DirectRoute {
            drive: pair.drive,
            source_address: pair.source.shell.address().to_owned(),
            target_address: pair.target.shell.address().to_owned(),
            reason: String::from("only the porter can use it"),
        });
    }
    let started = Instant::now();
    let before = state(pair).await?;
    let size = size_of(&before).ok_or_else(|| {
        trouble(
            pair,
            Side::Source,
            operation,
            "the source tells no size that can be read",
        )
    })?;
    // A write from here on has another time than the state above, whatever the kernel's clock ticks.
    tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    let fresh = open(pair, operation, size).await?;
    let mut work = Work {
        pair,
        operation,
        size,
        tell,
        progress: Progress {
            total: Bytes(size),
            ..Progress::default()
        },
        bucket: pair
            .limit
            .map(|limit| Bucket::new(limit.as_bytes_per_second(), Instant::now())),
    };
    if fresh && pass == Pass::Precopy {
        work.copy(0, size.div_ceil(BLOCK)).await?;
    } else {
        let (source, differing) = work.compare().await?;
        for (first, count) in runs(&differing) {
            work.copy(first, count).await?;
        }
        if pass != Pass::Precopy {
            let digest = work.prove(&source, &differing, &before).await?;
            return Ok(work.report(started, Some(digest)));
        }
    }
    Ok(work.report(started, None))
}

struct Work<'a> {
    pair: &'a Pair,
    operation: &'static str,
    size: u64,
    tell: Tell<'a>,
    progress: Progress,
    bucket: Option<Bucket>,
}

impl Work<'_> {
    fn report(&self, started: Instant, digest: Option<String>) -> PassReport {
        PassReport {
            progress: self.progress,
            duration: started.elapsed(),
            digest,
            repaired: Bytes::ZERO,
            repaired_at: None,
        }
    }

    /// Hashes both sides at once; returns the source's hashes and the blocks that differ.
    async fn compare(&mut self) -> Result<(Vec<String>, Vec<u64>), TransferError> {
        let blocks: Vec<u64> = (0..self.size.div_ceil(BLOCK)).collect();
        let done = AtomicU64::new(0);
        let (total, tell) = (self.progress, self.tell);
        let step = |_: u64| {
            let scanned = done.fetch_add(1, Ordering::Relaxed) * BLOCK / 2;
            tell(Progress {
                scanned: Bytes(scanned.min(total.total.0)),
                ..total
            });
        };
        let (source, target) = tokio::try_join!(
            self.hash(Side::Source, &blocks, &step),
            self.hash(Side::Target, &blocks, &step),
        )?;
        let differing = (0..)
            .zip(source.iter().zip(&target))
            .filter(|(_, (source, target))| source != target)
            .map(|(block, _)| block)
            .collect();
        self.progress.scanned = Bytes(self.size);
        Ok((source, differing))
    }

    /// Returns the hash of each of these blocks, read from the disk.
    async fn hash(
        &self,
        side: Side,
        blocks: &[u64],
        step: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<String>, TransferError> {
        // A command line holds some thousand numbers.
        let mut hashes = Vec::new();
        let end = end_of(self.pair, side);
        for some in blocks.chunks(2000) {
            let list: Vec<String> = some.iter().map(u64::to_string).collect();
            let command = shell(HASH, &[&end.path, &list.join(" ")]);
            let stream = end.shell.stream(&command).await;
            let mut stream = stream.map_err(|error| host(self.operation, self.pair, error))?;
            let moved = AtomicU64::new(0);
            let reading = async {
                let mut text = Vec::new();
                while let Some(bytes) = stream.output.recv().await {
                    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                    text.extend_from_slice(&bytes);
                    moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    (0..lines).for_each(step);
                }
                while stream.errors.recv().await.is_some() {}
                (text, stream.exit.await)
            };
            let Some((text, _)) = unless_still(&moved, PATIENCE, reading).await else {
                return Err(self.silent(side, command.brief()));
            };
            hashes.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
        }
        let whole = hashes.iter().all(|hash| hash.len() == 64);
        if hashes.len() != blocks.len() || !whole {
            return Err(trouble(
                self.pair,
                side,
                self.operation,
                "the volume could not be hashed to its end",
            ));
        }
        Ok(hashes)
    }

    /// Copies blocks from host to host.
    async fn copy(&mut self, first: u64, count: u64) -> Result<(), TransferError> {
        if count == 0 {
            return Ok(());
        }
        let pair = self.pair;
        let trouble = |error| host(self.operation, pair, error);
        let (skip, length) = ((first * 64).to_string(), (count * 64).to_string());
        let read = shell(READ, &[&pair.source.path, &skip, &length]);
        let write = shell(WRITE, &[&pair.target.path, &skip, &length]);
        let mut writer = pair.target.shell.stream(&write).await.map_err(trouble)?;
        let mut reader = pair.source.shell.stream(&read).await.map_err(trouble)?;
        let moved = AtomicU64::new(0);
        let (progress, bucket, tell) = (&mut self.progress, &mut self.bucket, self.tell);
        let mut copied = 0;
        let copying = async {
            while let Some(bytes) = reader.output.recv().await {
                if let Some(bucket) = bucket.as_mut() {
                    tokio::time::sleep(bucket.take(bytes.len(), Instant::now())).await;
                }
                let length = bytes.len() as u64;
                moved.fetch_add(length, Ordering::Relaxed);
                if writer.input.send(bytes).await.is_err() {
                    break;
                }
                copied += length;
                progress.carried += Bytes(length);
                progress.wire += Bytes(length);
                progress.scanned = progress.scanned.max(Bytes(first * BLOCK + copied));
                tell(*progress);
            }
            drop(writer.input);
            let mut words = Vec::new();
            while writer.output.recv().await.is_some() {}
            while let Some(bytes) = writer.errors.recv().await {
                words.extend(bytes);
            }
            // A reader whose output nobody takes ends by itself.
            drop(reader.output);
            (reader.exit.await, writer.exit.await, words)
        };
        let Some((read_exit, write_exit, words)) = unless_still(&moved, PATIENCE, copying).await
        else {
            return Err(self.silent(Side::Source, read.brief()));
        };
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        for (side, exit) in [(Side::Target, write_exit), (Side::Source, read_exit)] {
            match exit {
                Ok(Ok(Exit::Code(0))) => {}
                Ok(Ok(exit)) => {
                    let reason = format!("dd {exit} {words}");
                    return Err(self::trouble(pair, side, self.operation, reason.trim()));
                }
                Ok(Err(error)) => return Err(host(self.operation, pair, error)),
                Err(_) => {
                    return Err(self::trouble(pair, side, self.operation, "dd vanished"));
                }
            }
        }
        let expected = (self.size - first * BLOCK).min(count * BLOCK);
        if copied != expected {
            let reason = format!("{copied} of {expected} bytes came; {words}");
            return Err(self::trouble(pair, Side::Source, self.operation, &reason));
        }
        Ok(())
    }

    /// Reads what was copied from the target's disk, checks that the source held still, seals.
    async fn prove(
        &mut self,
        source: &[String],
        copied: &[u64],
        before: &str,
    ) -> Result<String, TransferError> {
        let found = self.hash(Side::Target, copied, &|_| {}).await?;
        for (block, found) in copied.iter().zip(&found) {
            if source.get(*block as usize) != Some(found) {
                return Err(TransferError::Differs {
                    drive: self.pair.drive,
                    offset: block * BLOCK,
                });
            }
        }
        if state(self.pair).await? != before {
            return Err(trouble(
                self.pair,
                Side::Source,
                self.operation,
                "the source was written to during the final pass; is the guest really stopped?",
            ));
        }
        let mut digest = blake3::Hasher::new();
        digest.update(&self.size.to_le_bytes());
        source.iter().for_each(|hash| {
            digest.update(hash.as_bytes());
        });
        let digest = digest.finalize().to_hex().to_string();
        let arguments = [
            self.pair.target.path.as_str(),
            &mark_path(self.pair),
            TITLE,
            before,
            &digest,
        ];
        short(self.pair, Side::Target, self.operation, SEAL, &arguments).await?;
        Ok(digest)
    }

    fn silent(&self, side: Side, command: String) -> TransferError {
        let silent = ShellError::Silent {
            address: end_of(self.pair, side).shell.address().to_owned(),
            command,
            silence: PATIENCE,
        };
        host(self.operation, self.pair, silent)
    }
}

/// Makes sure that the target is ours and has its size; says whether it has no content yet.
async fn open(pair: &Pair, operation: &'static str, size: u64) -> Result<bool, TransferError> {
    let mark = mark_path(pair);
    let path = pair.target.path.as_str();
    let fresh = match look(pair).await? {
        Whose::Foreign => return Err(foreign(pair)),
        Whose::Ours(found) => found.allocated == 0,
        Whose::Nobodys => {
            let output = run(pair, Side::Target, operation, CREATE, &[path, &mark, TITLE]).await?;
            match output.exit {
                Exit::Code(0) => true,
                Exit::Code(17) => return Err(foreign(pair)),
                Exit::Code(_) | Exit::Signal(_) => {
                    return Err(failed(pair, Side::Target, operation, &output));
                }
            }
        }
    };
    let arguments = [path, &mark, TITLE, &size.to_string()];
    short(pair, Side::Target, operation, OPEN, &arguments).await?;
    Ok(fresh)
}

enum Whose {
    Nobodys,
    Foreign,
    Ours(Found),
}

async fn look(pair: &Pair) -> Result<Whose, TransferError> {
    let arguments = [pair.target.path.as_str(), &mark_path(pair)];
    let output = short(pair, Side::Target, "look at the target", LOOK, &arguments).await?;
    Ok(whose(
        &String::from_utf8_lossy(&output.stdout),
        &pair.target.path,
    ))
}

/// Reads what [`LOOK`] printed.
fn whose(text: &str, path: &str) -> Whose {
    let mut lines = text.lines();
    let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let ["there", inode, size, time, blocks, unit] = words.as_slice() else {
        return match words.as_slice() {
            ["absent"] => Whose::Nobodys,
            _ => Whose::Foreign,
        };
    };
    if lines.next() != Some(TITLE) {
        return Whose::Foreign;
    }
    let mark: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(' '))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let found = Found {
        inode: (*inode).to_owned(),
        size_and_time: format!("{size} {time}"),
        allocated: number(blocks) * number(unit),
        mark,
    };
    let same_file = match found.mark.get("inode").map(String::as_str) {
        // Stopped between creating the file and noting its inode: then it is still empty.
        Some("new") => *size == "0",
        Some(inode) => inode == found.inode,
        None => false,
    };
    if same_file && found.mark.get("path").is_some_and(|named| named == path) {
        Whose::Ours(found)
    } else {
        Whose::Foreign
    }
}

async fn state(pair: &Pair) -> Result<String, TransferError> {
    let arguments = [pair.source.path.as_str()];
    let output = short(pair, Side::Source, "look at the source", STATE, &arguments).await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn size_of(state: &str) -> Option<u64> {
    state.split(' ').nth(1)?.parse().ok()
}

/// Joins neighbours: `1 2 3 7` are three blocks from 1 on and one from 7 on.
fn runs(blocks: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == *block => *count += 1,
            _ => runs.push((*block, 1)),
        }
    }
    runs
}

fn mark_path(pair: &Pair) -> String {
    format!("{}/proxmove-{}.stock", pair.target.temp, pair.name)
}

fn foreign(pair: &Pair) -> TransferError {
    TransferError::Foreign {
        address: pair.target.shell.address().to_owned(),
        path: pair.target.path.clone(),
    }
}

fn trouble(pair: &Pair, side: Side, operation: &'static str, reason: &str) -> TransferError {
    TransferError::Porter {
        operation,
        drive: pair.drive,
        address: end_of(pair, side).shell.address().to_owned(),
        reason: reason.to_owned(),
    }
}

async fn run(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    script: &str,
    arguments: &[&str],
) -> Result<Output, TransferError> {
    end_of(pair, side)
        .shell
        .run(&shell(script, arguments), &[], SHORT)
        .await
        .map_err(|error| host(operation, pair, error))
}

async fn short(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    script: &str,
    arguments: &[&str],
) -> Result<Output, TransferError> {
    let output = run(pair, side, operation, script, arguments).await?;
    if output.exit == Exit::Code(0) {
        Ok(output)
    } else {
        Err(failed(pair, side, operation, &output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let found = match whose(text, "/images/1/disk") {
            Whose::Nobodys => "nobody's",
            Whose::Foreign => "foreign",
            Whose::Ours(_) => "ours",
        };
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn only_a_file_our_mark_names_is_ours() {
        let mark = "proxmove stock 1\npath /images/1/disk\n";
        check("absent\n", "nobody's");
        check("there 5 100 1.0 8 512\n", "foreign");
        check(&format!("there 5 100 1.0 8 512\n{mark}inode 5\n"), "ours");
        check(
            &format!("there 6 100 1.0 8 512\n{mark}inode 5\n"),
            "foreign",
        );
        check(&format!("there 6 0 1.0 0 512\n{mark}inode new\n"), "ours");
        check(
            &format!("there 6 9 1.0 8 512\n{mark}inode new\n"),
            "foreign",
        );
        let other = "proxmove stock 1\npath /images/2/disk\ninode 5\n";
        check(&format!("there 5 100 1.0 8 512\n{other}"), "foreign");
        check("", "foreign");
    }

    #[test]
    fn neighbours_are_joined() {
        assert_eq!(runs(&[1, 2, 3, 7]), [(1, 3), (7, 1)]);
        assert_eq!(runs(&[]), []);
    }
}
