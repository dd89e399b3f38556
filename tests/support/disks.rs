//! Disks for tests: content that repeats nowhere, its hash, and QEMU's own tools as the judge.
#![allow(dead_code, unreachable_pub)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use crate::not_run::not_run;

pub const MIB: u64 = 1 << 20;

/// Returns the hash of a file's or device's bytes.
pub fn hash(path: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path).expect("opens"), &mut hasher).expect("reads");
    hasher.finalize()
}

/// Writes bytes that repeat nowhere.
pub fn noise(path: &str, offset: u64, length: u64, seed: u64) {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("opens");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length as usize];
    random.fill(&mut bytes);
    file.write_all_at(&bytes, offset).expect("writes");
}

/// Runs one of QEMU's tools; `None` where it is missing, which is noted.
pub fn qemu(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {output:?}"
            );
            Some(text)
        }
        Err(error) => {
            not_run(program, error);
            None
        }
    }
}
