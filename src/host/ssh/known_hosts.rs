//! known_hosts: which key a host is known by, as OpenSSH writes it down (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
//!
//! Judges keys and words the judgement; asks nobody and connects nowhere. Only [`remember`] writes, and only appends.
//! Read next: `connect.rs`.

use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::hmac;
use sha2::{Digest as _, Sha256};

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: PathBuf,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Key,
    Authority,
    Revoked,
}

/// One line that names the host in question.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mark: Mark,
    blob: Vec<u8>,
    place: Place,
}

/// Everything the known_hosts files say about one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownHost {
    entries: Vec<Entry>,
}

/// The judgement on a key that a host presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the one written down.
    Known,
    /// Nothing is written down; the place of a `@cert-authority` line that proxmove cannot use, if there is one.
    Unknown(Option<Place>),
    /// Another one is written down.
    Changed {
        /// The fingerprint of the one written down.
        known: String,
        /// Where.
        place: Place,
    },
    /// It is marked as revoked.
    Revoked(Place),
}

/// Returns the name a host's key is filed under: `host`, or `[host]:port` for another port than 22.
pub(super) fn entry_name(host: &str, port: u16) -> String {
    if port == 22 {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    }
}

/// Returns the type inside a key's wire form, as `ssh-ed25519`; empty when it is not a key.
pub(super) fn key_type(blob: &[u8]) -> &str {
    let length = blob
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
    blob.get(4..)
        .and_then(|rest| rest.get(..length))
        .and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or_default()
}

/// Returns the fingerprint as OpenSSH shows it, `SHA256:` and base64 without padding.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// Returns a known_hosts line, without line end.
pub(super) fn line(name: &str, blob: &[u8]) -> String {
    format!("{name} {} {}", key_type(blob), STANDARD.encode(blob))
}

impl KnownHost {
    /// Reads what `files` say about `name` (see [`entry_name`]); files that do not exist say nothing.
    pub(super) fn read(files: &[PathBuf], name: &str) -> std::io::Result<KnownHost> {
        let mut known = KnownHost::default();
        for file in files {
            match std::fs::read(file) {
                Ok(bytes) => known.add(&String::from_utf8_lossy(&bytes), file, name),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{}: {error}", file.display());
                    return Err(std::io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(known)
    }

    /// Takes over the lines of `text` that name the host. Lines that make no sense are skipped, as OpenSSH does.
    fn add(&mut self, text: &str, file: &Path, name: &str) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace().peekable();
            let mark = match words.peek() {
                Some(&"@cert-authority") => Mark::Authority,
                Some(&"@revoked") => Mark::Revoked,
                Some(word) if word.starts_with(['#', '@']) => continue,
                Some(_) => Mark::Key,
                None => continue,
            };
            if mark != Mark::Key {
                words.next();
            }
            let (Some(names), Some(kind), Some(key)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(blob) = STANDARD.decode(key) else {
                continue;
            };
            if key_type(&blob) == kind && names_match(names, name) {
                let place = Place {
                    file: file.to_owned(),
                    line: index + 1,
                };
                self.entries.push(Entry { mark, blob, place });
            }
        }
    }

    /// Returns the types of key the host is known by, in the order of the files.
    pub(super) fn types(&self) -> Vec<&str> {
        let mut types = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.mark == Mark::Key) {
            let kind = key_type(&entry.blob);
            if !types.contains(&kind) {
                types.push(kind);
            }
        }
        types
    }

    /// Judges the key a host presented.
    ///
    /// A host that is known by another type of key only is judged as changed: its known type was asked for first, so
    /// whoever answers does not have that key.
    pub(super) fn judge(&self, blob: &[u8]) -> Verdict {
        let with = |mark: Mark| self.entries.iter().filter(move |entry| entry.mark == mark);
        if let Some(entry) = with(Mark::Revoked).find(|entry| entry.blob == blob) {
            return Verdict::Revoked(entry.place.clone());
        }
        if with(Mark::Key).any(|entry| entry.blob == blob) {
            return Verdict::Known;
        }
        let same_type = with(Mark::Key).find(|entry| key_type(&entry.blob) == key_type(blob));
        if let Some(entry) = same_type.or_else(|| with(Mark::Key).next()) {
            return Verdict::Changed {
                known: fingerprint(&entry.blob),
                place: entry.place.clone(),
            };
        }
        Verdict::Unknown(
            with(Mark::Authority)
                .next()
                .map(|entry| entry.place.clone()),
        )
    }
}

/// Matches the first field of a line, hashed or a list of patterns, with a name.
fn names_match(names: &str, name: &str) -> bool {
    if let Some(hashed) = names.strip_prefix("|1|") {
        return hashed_name_matches(hashed, name).unwrap_or(false);
    }
    let mut matched = false;
    for pattern in names.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
        if pattern_matches(pattern.as_bytes(), name.as_bytes()) {
            if negated {
                return false;
            }
            matched = true;
        }
    }
    matched
}

/// Compares `SALT|HASH` with the keyed SHA-1 of the name, OpenSSH's `HashKnownHosts`.
fn hashed_name_matches(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let salt = STANDARD.decode(salt).ok()?;
    let hash = STANDARD.decode(hash).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::sign(&key, name.to_ascii_lowercase().as_bytes()).as_ref() == hash)
}

/// Matches `*` and `?` as OpenSSH does, in linear space and without recursion.
fn pattern_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Appends a line to a known_hosts file; creates the file (0600) and its directory (0700) where needed.
pub(super) fn remember(file: &Path, line: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let mut opened = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    // A last line without line end would swallow ours.
    let mut text = String::new();
    let end = opened.seek(SeekFrom::End(0))?;
    if end > 0 {
        opened.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        opened.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    text.push_str(line);
    text.push('\n');
    // One write, so that two processes appending at once do not mix their lines.
    let written = opened.write_all(text.as_bytes());
    if written.is_err() {
        // Half a line, of a disk that became full, would be read as another key of this host.
        let whole = end + text.len() as u64;
        if opened.metadata().is_ok_and(|now| now.len() < whole) {
            opened.set_len(end)?;
        }
    }
    written
}

#[cfg(test)]
mod tests;
