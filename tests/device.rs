//! Porters that read from and write to block devices: loop devices stand for zvols, and real processes for two hosts.
//!
//! What only ZFS can tell, whose a zvol is and whether it was written to, is tested in `zvol_lab.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[path = "support/disks.rs"]
mod disks;
#[path = "support/not_run.rs"]
mod not_run;

use disks::{MIB, hash, noise, qemu};
use not_run::not_run;

/// The guid that an engine would read from ZFS.
const GUID: u64 = 7;

/// A loop device over a sparse file, detached with the value.
struct Loop {
    path: String,
    backing: PathBuf,
}

impl Loop {
    fn new(backing: PathBuf, size: u64) -> Option<Loop> {
        let file = File::create_new(&backing).expect("creates");
        file.set_len(size).expect("sets the length");
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&backing)
            .output();
        let made = made.ok().filter(|made| made.status.success())?;
        let path = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        Some(Loop { path, backing })
    }

    fn allocated(&self) -> u64 {
        // What the kernel has not written out yet takes no space yet.
        File::open(&self.path)
            .and_then(|device| device.sync_all())
            .expect("writes out");
        allocated(&self.backing)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.path]).status();
    }
}

fn allocated(path: impl AsRef<std::path::Path>) -> u64 {
    fs::metadata(path).expect("there").blocks() * 512
}

/// What a sender said at its end.
#[derive(Clone, Copy, Debug)]
struct Done {
    carried: u64,
    repaired: u64,
}

struct Lab {
    root: tempfile::TempDir,
    source: String,
    source_format: &'static str,
    target: String,
    target_format: &'static str,
    /// Further words of the receiver's command line.
    words: Vec<String>,
    limit: Option<u64>,
    /// Kills the receiver when so much was carried.
    kill_at: Option<u64>,
}

impl Lab {
    fn new() -> Lab {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
        let path = |name: &str| root.path().join(name).display().to_string();
        Lab {
            source: path("source"),
            source_format: "raw",
            target: path("target"),
            target_format: "raw",
            words: Vec::new(),
            limit: None,
            kill_at: None,
            root,
        }
    }

    fn device(&self, name: &str, size: u64) -> Option<Loop> {
        let device = Loop::new(self.root.path().join(name), size);
        if device.is_none() {
            let test = std::thread::current();
            not_run(test.name().unwrap_or("a device"), "no loop device");
        }
        device
    }

    /// Says what an engine says of a zvol that is ours.
    fn vouch(&mut self, guid: u64, fresh: bool) {
        self.words = vec![String::from("--guid"), guid.to_string()];
        if fresh {
            self.words.extend(["--fresh", "yes"].map(String::from));
        }
    }

    /// Runs one pass between two porters.
    fn pass(&self, purpose: &str) -> Result<Done, String> {
        let layout = if self.source_format == self.target_format {
            "file"
        } else {
            "guest"
        };
        let temp = self.root.path().display().to_string();
        let porter = |verb: &str, arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_proxmove"));
            command.args(["porter", verb]).args(arguments);
            command.stderr(Stdio::piped());
            command
        };
        let to = ["--path", &self.target, "--temp", &temp, "--name", "a-1"];
        let mut receiver = porter("receive", &to)
            .args(["--format", self.target_format])
            .args(&self.words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let (have, data) = (receiver.stdout.take(), receiver.stdin.take());
        let from = ["--path", &self.source, "--format", self.source_format];
        let mut sender = porter("send", &from);
        sender.args(["--layout", layout, "--purpose", purpose]);
        if let Some(limit) = self.limit {
            sender.args(["--limit", &limit.to_string()]);
        }
        let mut sender = sender
            .stdin(Stdio::from(have.expect("piped")))
            .stdout(Stdio::from(data.expect("piped")))
            .spawn()
            .expect("starts");
        let mut done = None;
        let mut said = String::new();
        let lines = BufReader::new(sender.stderr.take().expect("piped")).lines();
        for line in lines.map(|line| line.expect("reads")) {
            let told: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
            let carried = told["progress"]["carried"].as_u64().unwrap_or(0);
            if self.kill_at.is_some_and(|most| carried > most) {
                receiver.kill().expect("kills");
            }
            if let Some(counts) = told["done"]["counts"].as_object() {
                done = Some(Done {
                    carried: counts["carried"].as_u64().expect("a number"),
                    repaired: told["done"]["repaired"].as_u64().expect("a number"),
                });
            }
            if told["error"].is_object() {
                said = line;
            }
        }
        let sent = sender.wait().expect("ends").success();
        let received = receiver.wait_with_output().expect("ends");
        match done {
            Some(done) if sent && received.status.success() => Ok(done),
            _ => Err(said + &String::from_utf8_lossy(&received.stderr)),
        }
    }

    fn done(&self, purpose: &str) -> Done {
        self.pass(purpose).expect("passes")
    }

    /// Asks what there is of the target.
    fn observed(&self) -> String {
        let temp = self.root.path().display().to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_proxmove"))
            .args(["porter", "observe", "--path", &self.target])
            .args(["--temp", &temp, "--name", "a-1"])
            .args(&self.words)
            .output()
            .expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn guest_hash(&self, path: &str, format: &str) -> blake3::Hash {
        if format == "raw" {
            return hash(path);
        }
        let plain = self.root.path().join("plain").display().to_string();
        qemu("qemu-img", &["convert", "-O", "raw", path, &plain]).expect("converts");
        hash(&plain)
    }

    fn same(&self) {
        assert_eq!(
            self.guest_hash(&self.source, self.source_format),
            self.guest_hash(&self.target, self.target_format)
        );
    }
}

/// Writes as a guest would, to an image of any format.
fn write(path: &str, format: &str, offset: u64, length: u64, seed: u64) {
    if format == "raw" {
        noise(path, offset, length, seed);
    } else {
        let pattern = format!("write -P {} {offset} {length}", seed % 200 + 1);
        qemu("qemu-io", &["-f", format, "-c", &pattern, path]).expect("writes");
    }
}

fn pairing(source: Option<&'static str>, target: Option<&'static str>) {
    let size = 64 * MIB;
    let mut lab = Lab::new();
    let mut devices = Vec::new();
    match source {
        Some(format) => {
            let made = ["create", "-f", format, &lab.source, &size.to_string()];
            if qemu("qemu-img", &made).is_none() {
                return;
            }
            lab.source_format = format;
        }
        None => {
            let Some(device) = lab.device("source-disk", size) else {
                return;
            };
            lab.source.clone_from(&device.path);
            devices.push(device);
        }
    }
    match target {
        Some(format) => lab.target_format = format,
        None => {
            let Some(device) = lab.device("target-disk", size) else {
                return;
            };
            lab.target.clone_from(&device.path);
            devices.push(device);
            lab.vouch(GUID, true);
        }
    }
    write(&lab.source, lab.source_format, 0, 9 * MIB + 512, 1);
    write(&lab.source, lab.source_format, 50 * MIB + 8192, 3 * MIB, 2);
    let first = lab.done("precopy");
    assert!(first.carried <= 13 * MIB, "{first:?}");
    if target.is_none() {
        lab.vouch(GUID, false);
    }
    write(&lab.source, lab.source_format, 5 * MIB, MIB, 3);
    let warm = lab.done("precopy");
    assert!(warm.carried <= MIB, "{warm:?}");
    write(&lab.source, lab.source_format, 30 * MIB + 4096, MIB, 4);
    let last = lab.done("final-full");
    assert!(last.carried <= MIB + 131_072, "{last:?}");
    assert_eq!(last.repaired, 0);
    lab.same();
    assert_eq!(lab.done("final-full").carried, 0);
    let used = match devices.last().filter(|_| target.is_none()) {
        Some(device) => device.allocated(),
        None => allocated(&lab.target),
    };
    assert!(used < 20 * MIB, "sparse: {used}");
    if lab.target_format == "qcow2" {
        qemu("qemu-img", &["check", &lab.target]);
    }
}

#[test]
fn a_raw_file_to_a_device() {
    pairing(Some("raw"), None);
}

#[test]
fn a_qcow2_image_to_a_device() {
    pairing(Some("qcow2"), None);
}

#[test]
fn a_device_to_a_raw_file() {
    pairing(None, Some("raw"));
}

#[test]
fn a_device_to_a_qcow2_image() {
    pairing(None, Some("qcow2"));
}

#[test]
fn a_killed_receiver_is_resumed() {
    let mut lab = Lab::new();
    let size = 96 * MIB;
    let Some(device) = lab.device("disk", size) else {
        return;
    };
    lab.target.clone_from(&device.path);
    noise(&lab.source, 0, size, 1);
    lab.vouch(GUID, true);
    (lab.limit, lab.kill_at) = (Some(24 * MIB), Some(60 * MIB));
    lab.pass("precopy").expect_err("was killed");
    lab.vouch(GUID, false);
    (lab.limit, lab.kill_at) = (None, None);
    let rest = lab.done("precopy");
    assert!(rest.carried < 80 * MIB, "{rest:?}");
    lab.same();
}

#[test]
fn what_nobody_vouches_for_is_not_touched() {
    let mut lab = Lab::new();
    let Some(device) = lab.device("disk", 8 * MIB) else {
        return;
    };
    lab.target.clone_from(&device.path);
    noise(&lab.source, 0, 8 * MIB, 1);
    noise(&device.path, 0, 8 * MIB, 2);
    let before = hash(&device.path);
    for words in [vec![], vec![String::from("--adopt"), String::from("yes")]] {
        lab.words = words;
        let error = lab.pass("precopy").expect_err("is foreign");
        assert!(error.contains("\"kind\":\"foreign\""), "{error}");
        assert!(lab.observed().contains("foreign"), "{}", lab.observed());
    }
    assert_eq!(hash(&device.path), before);
    // A file that somebody left where a device should be.
    lab.target = lab.root.path().join("file").display().to_string();
    fs::write(&lab.target, "precious").expect("writes");
    lab.vouch(GUID, true);
    let error = lab.pass("precopy").expect_err("is foreign");
    assert!(error.contains("\"kind\":\"foreign\""), "{error}");
    assert_eq!(fs::read(&lab.target).expect("reads"), b"precious");
    // A device that is in use.
    lab.target.clone_from(&device.path);
    let used = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::EXCL.bits() as i32)
        .open(&device.path)
        .expect("opens");
    let error = lab.pass("precopy").expect_err("is in use");
    assert!(error.contains("busy"), "{error}");
    assert_eq!(hash(&device.path), before);
    drop(used);
}

#[test]
fn nothing_is_believed_of_a_device_that_was_made_anew() {
    let mut lab = Lab::new();
    let Some(device) = lab.device("disk", 8 * MIB) else {
        return;
    };
    lab.target.clone_from(&device.path);
    noise(&lab.source, 0, 4 * MIB, 1);
    File::options()
        .write(true)
        .open(&lab.source)
        .and_then(|file| file.set_len(8 * MIB))
        .expect("sets the length");
    lab.vouch(GUID, true);
    lab.done("final-full");
    lab.same();
    assert!(
        lab.observed().contains("\"in_place\":8388608"),
        "{}",
        lab.observed()
    );
    // Another one under the same name, which is not empty.
    noise(&device.path, 0, 8 * MIB, 9);
    lab.vouch(GUID + 1, false);
    assert!(
        lab.observed().contains("\"in_place\":0"),
        "{}",
        lab.observed()
    );
    let again = lab.done("final-transfer");
    assert_eq!(again.carried, 4 * MIB);
    lab.same();
}

#[test]
fn a_device_may_be_larger_and_must_not_be_smaller() {
    let mut lab = Lab::new();
    let Some(device) = lab.device("disk", 8 * MIB) else {
        return;
    };
    lab.target.clone_from(&device.path);
    let size = 5 * MIB + 512;
    noise(&lab.source, 0, size, 1);
    noise(&device.path, size, 8 * MIB - size, 2);
    lab.vouch(GUID, false);
    lab.done("final-full");
    let bytes = fs::read(&device.path).expect("reads");
    assert!(bytes[..size as usize] == fs::read(&lab.source).expect("reads"));
    assert!(bytes[size as usize..].iter().all(|byte| *byte == 0));
    // It grows within the last chunk, and then to the very end.
    for size in [size + 1024, 8 * MIB] {
        noise(&lab.source, size - 512, 512, size);
        let grown = lab.done("final-full");
        assert!(grown.carried <= 2 * 65536, "{grown:?}");
    }
    lab.same();
    noise(&lab.source, 8 * MIB, 512, 3);
    let error = lab.pass("precopy").expect_err("does not fit");
    assert!(error.contains("8388608 bytes"), "{error}");
}

#[test]
fn what_became_zero_gives_its_space_back() {
    let mut lab = Lab::new();
    let Some(device) = lab.device("disk", 32 * MIB) else {
        return;
    };
    lab.target.clone_from(&device.path);
    noise(&lab.source, 0, 32 * MIB, 1);
    lab.vouch(GUID, true);
    lab.done("precopy");
    assert!(device.allocated() >= 32 * MIB);
    let file = File::options()
        .write(true)
        .open(&lab.source)
        .expect("opens");
    file.write_all_at(&vec![0; 20 * MIB as usize], 6 * MIB)
        .expect("writes");
    lab.vouch(GUID, false);
    let last = lab.done("final-full");
    assert_eq!(last.carried, 0, "zeros do not travel");
    lab.same();
    assert!(device.allocated() <= 13 * MIB, "{}", device.allocated());
}
