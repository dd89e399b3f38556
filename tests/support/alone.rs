//! A test alone, in namespaces of its own: what it mounts and connects there is seen by nobody else, and ends with it.
//!
//! The test runs itself once more, in another process. A test file takes it in with `#[path = "support/alone.rs"] mod
//! alone;` and has a module `not_run`. Read next: `../accidents.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::not_run::not_run;

/// Set in the process that is alone.
const ALONE: &str = "PROXMOVE_TESTS_ALONE";

/// What a test has for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Its mounts.
    Mounts,
    /// Its mounts, and a network that begins as a loopback interface.
    Network,
}

/// Says whether this is the process that is to do the test. Otherwise the test with that name was done in one, or it
/// was noted that this machine cannot; a test that fails there fails here.
#[track_caller]
pub fn alone(test: &str, own: Own) -> bool {
    if std::env::var_os(ALONE).is_some() {
        if own == Own::Network {
            must("ip", &["link", "set", "lo", "up"]);
        }
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        not_run(test, "needs root");
        return false;
    }
    let mut unshare = vec!["--mount"];
    if own == Own::Network {
        unshare.push("--net");
        if !can("ip", &["-V"]) {
            not_run(test, "iproute2 is not installed");
            return false;
        }
    }
    let mut trial = unshare.clone();
    trial.extend(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    if !can("unshare", &trial) {
        not_run(test, "no namespaces of its own");
        return false;
    }
    let output = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    eprint!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed");
    assert!(said.contains(" 1 passed;"), "there is no test {test}");
    false
}

fn can(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    for stream in [Command::stdin, Command::stdout, Command::stderr] {
        stream(&mut command, Stdio::null());
    }
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command that must succeed.
#[track_caller]
pub fn must(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A small file system in memory over a directory; unmounted when dropped.
pub struct SmallDisk {
    /// Where it is.
    pub path: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty one of so many bytes.
    pub fn mount(path: &Path, size: u64) -> SmallDisk {
        SmallDisk::mount_as(path, size, "exec")
    }

    /// Mounts an empty one with another option, such as `noexec`.
    pub fn mount_as(path: &Path, size: u64, option: &str) -> SmallDisk {
        let options = format!("size={size},mode=755,{option}");
        let place = path.to_str().unwrap();
        must("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", place]);
        SmallDisk {
            path: path.to_owned(),
        }
    }

    /// Makes it larger, or smaller.
    pub fn resize(&self, size: u64) {
        let options = format!("remount,size={size}");
        must("mount", &["-o", &options, self.path.to_str().unwrap()]);
    }

    /// Returns a file that takes all the room there is, as a log that runs wild does.
    pub fn ballast(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.path.join("somebody-elses.log");
        let mut file = std::fs::File::create(&path).unwrap();
        let page = vec![0x55; 4096];
        while file.write_all(&page).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever still works there ends with its files.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
