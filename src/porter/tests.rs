//! Tests of whole passes, sender and receiver in one process over pipes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::chunk::CHUNK;
use super::error::PorterError;
use super::pages::PAGE;
use super::places::{self, Places, Target};
use super::send::Outcome;
use super::tell::Teller;
use super::wire::{Layout, Purpose};
use super::{receive, send};

mod patches;

const MIB: u64 = 1 << 20;

/// A source, a target and a temp directory.
struct Lab {
    root: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    source_image: bool,
    target_image: bool,
    limit: Option<u64>,
    adopt: bool,
    kept: bool,
}

impl Lab {
    fn new() -> Lab {
        // Not on a memory file system: O_DIRECT and holes shall be those of a disk.
        let root = tempfile::tempdir_in(scratch()).expect("temporary directory");
        Lab {
            source: root.path().join("source"),
            target: root.path().join("126/target"),
            source_image: false,
            target_image: false,
            limit: None,
            adopt: false,
            kept: false,
            root,
        }
    }

    fn places(&self) -> Places {
        Places::new(&self.root.path().display().to_string(), "pair-1").expect("a good name")
    }

    /// Runs a pass; each direction may be cut after some bytes.
    fn pass_cut(
        &self,
        purpose: Purpose,
        forth: u64,
        back: u64,
    ) -> (Result<Outcome, PorterError>, Result<(), PorterError>) {
        let layout = if self.source_image == self.target_image {
            Layout::File
        } else {
            Layout::Guest
        };
        let order = send::Order {
            path: self.source.clone(),
            layout,
            image: self.source_image && layout == Layout::Guest,
            purpose,
            limit: self.limit,
            snapshot: None,
        };
        let receiving = receive::Order {
            path: self.target.clone(),
            places: self.places(),
            image: self.target_image,
            adopt: self.adopt,
            kept: self.kept,
            device: None,
        };
        let (data_out, data_in) = io::pipe().expect("pipe");
        let (have_out, have_in) = io::pipe().expect("pipe");
        let receiver = std::thread::spawn(move || {
            let teller = Teller::new(Box::new(io::sink()));
            receive::receive(
                &receiving,
                data_out,
                Cut {
                    inner: Some(have_in),
                    left: back,
                },
                &teller,
            )
        });
        let teller = Teller::new(Box::new(io::sink()));
        let sent = send::send(
            &order,
            have_out,
            Cut {
                inner: Some(data_in),
                left: forth,
            },
            &teller,
        );
        (sent, receiver.join().expect("no panic"))
    }

    fn pass(&self, purpose: Purpose) -> Outcome {
        let (sent, received) = self.pass_cut(purpose, u64::MAX, u64::MAX);
        received.expect("receives");
        sent.expect("sends")
    }

    fn refused(&self, purpose: Purpose) -> (PorterError, PorterError) {
        let (sent, received) = self.pass_cut(purpose, u64::MAX, u64::MAX);
        (
            sent.expect_err("must be refused"),
            received.expect_err("must be refused"),
        )
    }

    fn same(&self) {
        let mut source = File::open(&self.source).expect("source");
        let mut target = File::open(&self.target).expect("target");
        let (mut left, mut right) = (blake3::Hasher::new(), blake3::Hasher::new());
        io::copy(&mut source, &mut left).expect("reads");
        io::copy(&mut target, &mut right).expect("reads");
        assert_eq!(
            source.metadata().expect("source").len(),
            target.metadata().expect("target").len()
        );
        assert_eq!(left.finalize(), right.finalize());
    }

    fn sealed(&self) -> bool {
        match places::observe(&self.target, &self.places(), None).expect("observes") {
            Target::Ours {
                seal: Some(seal),
                kept: true,
                ..
            } => seal.source == super::SourceState::of(&self.source).expect("source"),
            Target::Ours { .. } | Target::Absent | Target::Foreign => false,
        }
    }
}

/// A stream that breaks after some bytes.
struct Cut<W> {
    inner: Option<W>,
    left: u64,
}

impl<W: Write> Write for Cut<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(inner) = &mut self.inner else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let now = (bytes.len() as u64).min(self.left) as usize;
        if now == 0 && !bytes.is_empty() {
            self.inner = None;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.left -= now as u64;
        inner.write(&bytes[..now])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills a range with bytes that do not compress.
fn noise(path: &Path, offset: u64, length: u64, seed: u64) {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("opens");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = offset;
    while at < offset + length {
        let mut bytes = vec![0; (offset + length - at).min(MIB) as usize];
        random.fill(&mut bytes);
        file.write_all_at(&bytes, at).expect("writes");
        at += bytes.len() as u64;
    }
}

fn set_length(path: &Path, length: u64) {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .and_then(|file| file.set_len(length))
        .expect("sets the length");
}

/// Runs a program of QEMU's; `None`, and a line that says so, where there is none.
fn qemu(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {text}{errors}"
            );
            Some(text)
        }
        Err(error) => {
            let mut stderr = io::stderr();
            writeln!(stderr, "not run: {program}: {error}").expect("prints");
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn raw_round_trip_keeps_holes_and_sends_only_what_differs() {
    let lab = Lab::new();
    noise(&lab.source, 0, 8 * MIB, 1);
    noise(&lab.source, 100 * MIB, 4 * MIB, 2);
    set_length(&lab.source, 300 * MIB + 777);
    let first = lab.pass(Purpose::Precopy);
    lab.same();
    assert_eq!(first.counts.carried, 12 * MIB);
    assert!(first.counts.wire < 12 * MIB + MIB / 4, "{:?}", first.counts);
    assert_eq!(first.counts.scanned, 300 * MIB + 777);
    let used = fs::metadata(&lab.target).expect("target").blocks() * 512;
    assert!(used <= 13 * MIB, "{used}");
    assert!(!lab.sealed());

    let idle = lab.pass(Purpose::Precopy);
    assert_eq!(idle.counts.carried, 0);
    assert!(idle.counts.wire < 100_000, "{:?}", idle.counts);

    noise(&lab.source, 5 * MIB, MIB, 3);
    for purpose in [Purpose::FinalFull, Purpose::FinalTransfer] {
        let last = lab.pass(purpose);
        lab.same();
        assert!(lab.sealed());
        assert!(last.counts.wire < 2 * MIB, "{:?}", last.counts);
        assert_eq!(last.repaired, 0);
    }
}

#[test]
fn a_chunk_that_becomes_zero_gives_its_space_back() {
    let lab = Lab::new();
    noise(&lab.source, 0, 16 * MIB, 1);
    lab.pass(Purpose::Precopy);
    let file = OpenOptions::new()
        .write(true)
        .open(&lab.source)
        .expect("opens");
    file.write_all_at(&vec![0; 12 * MIB as usize], MIB)
        .expect("writes");
    let last = lab.pass(Purpose::FinalFull);
    lab.same();
    assert_eq!(last.counts.carried, 0);
    assert!(last.counts.wire < 100_000, "{:?}", last.counts);
    let used = fs::metadata(&lab.target).expect("target").blocks() * 512;
    assert!(used <= 5 * MIB, "{used}");
}

#[test]
fn odd_and_empty_sizes_survive_in_all_passes() {
    for size in [0, 1, 511, 513, CHUNK as u64 - 1, CHUNK as u64, 3 * MIB + 5] {
        let lab = Lab::new();
        noise(&lab.source, 0, size, size);
        set_length(&lab.source, size);
        lab.pass(Purpose::Precopy);
        lab.same();
        let last = lab.pass(Purpose::FinalFull);
        lab.same();
        assert_eq!(last.counts.carried, 0, "{size}");
        assert!(lab.sealed());
    }
}

#[test]
fn a_volume_may_grow_and_shrink_between_passes() {
    let lab = Lab::new();
    noise(&lab.source, 0, 2 * MIB + 100, 1);
    lab.pass(Purpose::Precopy);
    for size in [5 * MIB + 3, 5 * MIB + 900, MIB + 1, MIB + 2, 4 * MIB] {
        set_length(&lab.source, size);
        let pass = lab.pass(Purpose::Precopy);
        lab.same();
        assert!(
            pass.counts.carried <= 2 * CHUNK as u64,
            "{size}: {:?}",
            pass.counts
        );
    }
    noise(&lab.source, 3 * MIB, 4 * MIB, 2);
    lab.pass(Purpose::FinalFull);
    lab.same();
}

#[test]
fn interrupted_anywhere_a_pass_resumes_with_little_sent_twice() {
    let lab = Lab::new();
    let size = 64 * MIB;
    noise(&lab.source, 0, size, 1);
    let mut random = fastrand::Rng::with_seed(7);
    let mut sent = 0;
    let mut cuts = 0;
    loop {
        let forth = random.u64(0..12 * MIB);
        let back = if random.bool() {
            u64::MAX
        } else {
            random.u64(0..40_000)
        };
        let (result, _) = lab.pass_cut(Purpose::Precopy, forth, back);
        match result {
            Ok(outcome) => {
                sent += outcome.counts.carried;
                break;
            }
            Err(_) => cuts += 1,
        }
        assert!(cuts < 200, "does not converge");
        if let Ok(Target::Ours { seal, .. }) = places::observe(&lab.target, &lab.places(), None) {
            assert!(seal.is_none());
        }
    }
    lab.same();
    assert!(cuts > 3, "{cuts}");
    assert!(sent < size, "{sent}");
    let last = lab.pass(Purpose::FinalFull);
    assert_eq!(last.counts.carried, 0);
    assert_eq!(last.repaired, 0, "every claim was true");
}

#[test]
fn what_arrived_before_a_cut_is_not_sent_again() {
    let lab = Lab::new();
    noise(&lab.source, 0, 32 * MIB, 1);
    let (result, _) = lab.pass_cut(Purpose::Precopy, 20 * MIB, u64::MAX);
    assert!(result.is_err());
    let again = lab.pass(Purpose::Precopy);
    assert!(
        again.counts.carried <= 12 * MIB + 2 * CHUNK as u64,
        "{:?}",
        again.counts
    );
    lab.same();
}

#[test]
fn a_byte_that_rots_on_the_target_is_found_repaired_and_counted() {
    let lab = Lab::new();
    noise(&lab.source, 0, 8 * MIB, 1);
    lab.pass(Purpose::FinalFull);
    assert!(lab.sealed());
    let file = OpenOptions::new()
        .write(true)
        .open(&lab.target)
        .expect("opens");
    file.write_all_at(b"rot", 3 * MIB + 77).expect("writes");
    file.sync_all().expect("syncs");
    assert!(!lab.sealed(), "a target written to is not synced");
    let again = lab.pass(Purpose::FinalFull);
    assert_eq!(again.repaired, CHUNK as u64);
    assert_eq!(again.counts.carried, PAGE as u64);
    lab.same();
    assert!(lab.sealed());
}

#[test]
fn verification_of_the_transfer_alone_trusts_the_disk() {
    let lab = Lab::new();
    noise(&lab.source, 0, 8 * MIB, 1);
    let full = lab.pass(Purpose::FinalFull);
    let transfer = lab.pass(Purpose::FinalTransfer);
    assert_eq!(full.digest, transfer.digest);
}

#[test]
fn a_target_written_to_since_its_seal_is_not_believed_whatever_is_verified() {
    for purpose in [Purpose::FinalTransfer, Purpose::FinalFull] {
        let lab = Lab::new();
        noise(&lab.source, 0, 8 * MIB, 1);
        lab.pass(purpose);
        noise(&lab.target, 3 * MIB, MIB, 9);
        lab.pass(Purpose::Precopy);
        let last = lab.pass(Purpose::FinalTransfer);
        lab.same();
        assert_eq!(last.repaired, 0);
        assert!(lab.sealed());
    }
}

#[test]
fn a_source_written_to_during_the_final_pass_is_refused() {
    let mut lab = Lab::new();
    noise(&lab.source, 0, 32 * MIB, 1);
    // Slow enough to write in the middle of it.
    lab.limit = Some(20 * MIB);
    let path = lab.source.clone();
    let writing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        noise(&path, 0, 512, 9);
    });
    let (sent, received) = lab.refused(Purpose::FinalFull);
    writing.join().expect("writes");
    assert!(matches!(sent, PorterError::SourceChanged { .. }), "{sent}");
    assert_eq!(received.report().kind, "source-changed");
    assert!(!lab.sealed());
    lab.limit = None;
    lab.pass(Purpose::FinalFull);
    lab.same();
}

#[test]
fn a_write_to_the_source_breaks_the_seal() {
    let lab = Lab::new();
    noise(&lab.source, 0, MIB, 1);
    lab.pass(Purpose::FinalFull);
    assert!(lab.sealed());
    noise(&lab.source, 10, 1, 2);
    assert!(!lab.sealed());
}

#[test]
fn a_foreign_file_is_never_touched() {
    let lab = Lab::new();
    noise(&lab.source, 0, MIB, 1);
    fs::create_dir(lab.root.path().join("126")).expect("creates");
    fs::write(&lab.target, "precious").expect("writes");
    let check = || {
        let (sent, received) = lab.refused(Purpose::Precopy);
        assert!(
            matches!(received, PorterError::Foreign { .. }),
            "{received}"
        );
        assert_eq!(sent.report().kind, "foreign");
        assert_eq!(
            places::observe(&lab.target, &lab.places(), None).expect("observes"),
            Target::Foreign
        );
        places::discard(&lab.target, &lab.places()).expect_err("must be refused");
        assert_eq!(fs::read(&lab.target).expect("reads"), b"precious");
    };
    check();
    // Ours once, but somebody put another file in its place.
    fs::remove_file(&lab.target).expect("removes");
    lab.pass(Purpose::Precopy);
    fs::write(lab.root.path().join("other"), "precious").expect("writes");
    fs::rename(lab.root.path().join("other"), &lab.target).expect("renames");
    check();
}

#[test]
fn a_volume_whose_manifest_was_lost_is_adopted_when_it_is_vouched_for() {
    for (purpose, target_image) in [
        (Purpose::FinalFull, false),
        (Purpose::FinalTransfer, false),
        (Purpose::Precopy, false),
        (Purpose::FinalFull, true),
    ] {
        let mut lab = Lab::new();
        lab.target_image = target_image;
        let size = 8 * MIB;
        noise(&lab.source, 0, size, 1);
        lab.pass(Purpose::Precopy);
        places::tidy(&lab.places()).expect("loses all files of ours");
        noise(&lab.source, MIB, 10, 2);
        set_length(&lab.source, size + 512);
        lab.refused(purpose);
        let seen = places::observe(&lab.target, &lab.places(), None).expect("observes");
        assert_eq!(seen, Target::Foreign);
        lab.adopt = true;
        let pass = lab.pass(purpose);
        // Whatever the pass, what is there is read and not carried; only an image may be half written.
        if !target_image {
            let little = PAGE as u64 + CHUNK as u64;
            assert!(pass.counts.carried <= little, "{:?}", pass.counts);
        } else {
            assert_eq!(pass.counts.carried, size);
        }
        lab.adopt = false;
        let last = lab.pass(Purpose::FinalFull);
        assert_eq!((last.counts.carried, last.repaired), (0, 0));
        assert!(lab.sealed());
        if !target_image {
            lab.same();
        }
    }
}

#[test]
fn a_volume_that_was_kept_is_read_and_written_on_until_it_was_read_to_its_end() {
    for (purpose, target_image) in [
        (Purpose::Precopy, false),
        (Purpose::FinalTransfer, false),
        (Purpose::FinalFull, false),
        (Purpose::Precopy, true),
        (Purpose::FinalFull, true),
    ] {
        let mut lab = Lab::new();
        lab.target_image = target_image;
        noise(&lab.source, 0, 8 * MIB, 1);
        lab.pass(Purpose::FinalFull);
        places::tidy(&lab.places()).expect("the move ends");
        let inode = fs::metadata(&lab.target).expect("a target").ino();
        noise(&lab.source, MIB, 10, 2);
        set_length(&lab.source, 9 * MIB);
        (lab.adopt, lab.kept) = (true, true);
        // A first pass that is cut off leaves a manifest that claims nothing yet, and the volume is still read.
        let manifest = super::manifest::Manifest::create_locked(
            &lab.places().manifest(),
            &lab.target,
            if target_image {
                Layout::Guest
            } else {
                Layout::File
            },
        )
        .expect("a manifest");
        drop(manifest);
        let pass = lab.pass(purpose);
        assert!(
            pass.counts.carried <= 2 * CHUNK as u64,
            "{purpose:?} {:?}",
            pass.counts
        );
        let last = lab.pass(Purpose::FinalFull);
        assert_eq!((last.counts.carried, last.repaired), (0, 0));
        assert_eq!(fs::metadata(&lab.target).expect("a target").ino(), inode);
        if !target_image {
            lab.same();
        }
    }
}

#[test]
fn only_a_plain_file_is_adopted() {
    let mut lab = Lab::new();
    lab.adopt = true;
    noise(&lab.source, 0, MIB, 1);
    let precious = lab.root.path().join("precious");
    fs::write(&precious, "precious").expect("writes");
    fs::create_dir(lab.root.path().join("126")).expect("creates");
    std::os::unix::fs::symlink(&precious, &lab.target).expect("links");
    let (_, received) = lab.refused(Purpose::Precopy);
    assert!(
        matches!(received, PorterError::Foreign { .. }),
        "{received}"
    );
    assert_eq!(fs::read(&precious).expect("reads"), b"precious");
    // Another file in the place of ours is not adopted either while our manifest names that one.
    fs::remove_file(&lab.target).expect("removes");
    lab.pass(Purpose::Precopy);
    fs::rename(&precious, &lab.target).expect("renames");
    let (_, received) = lab.refused(Purpose::Precopy);
    assert!(
        matches!(received, PorterError::Foreign { .. }),
        "{received}"
    );
    assert_eq!(fs::read(&lab.target).expect("reads"), b"precious");
}

#[test]
fn discard_and_tidy_leave_nothing_of_ours_and_everything_else() {
    let lab = Lab::new();
    noise(&lab.source, 0, MIB, 1);
    lab.pass(Purpose::FinalFull);
    let bystander = lab.root.path().join("proxmove-pair-10.manifest");
    fs::write(&bystander, "").expect("writes");
    let leftover = lab.root.path().join("proxmove-pair-1.agent-abc");
    fs::create_dir(&leftover).expect("creates");
    fs::write(leftover.join("known_hosts"), "").expect("writes");
    for _ in 0..2 {
        places::discard(&lab.target, &lab.places()).expect("discards");
        let mut left: Vec<_> = fs::read_dir(lab.root.path())
            .expect("lists")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["proxmove-pair-10.manifest", "source"]);
    }
}

#[test]
fn a_limit_is_kept() {
    let mut lab = Lab::new();
    noise(&lab.source, 0, 4 * MIB, 1);
    lab.limit = Some(4 * MIB);
    let started = Instant::now();
    lab.pass(Purpose::Precopy);
    assert!(started.elapsed() > Duration::from_millis(800));
    lab.same();
}

#[test]
fn a_full_disk_is_an_error_and_resumable() {
    let lab = Lab::new();
    noise(&lab.source, 0, 8 * MIB, 1);
    let small = lab.root.path().join("126");
    fs::create_dir(&small).expect("creates");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs", text(&small)])
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        writeln!(io::stderr(), "not run: a full disk (cannot mount a tmpfs)").expect("prints");
        return;
    }
    let (sent, received) = lab.pass_cut(Purpose::FinalFull, u64::MAX, u64::MAX);
    let grown = Command::new("mount")
        .args(["-o", "remount,size=20m", text(&small)])
        .status();
    let error = received.err().map(|error| error.report());
    let resumed = lab.pass_cut(Purpose::FinalFull, u64::MAX, u64::MAX);
    let sealed = lab.sealed();
    Command::new("umount")
        .arg(&small)
        .status()
        .expect("unmounts");
    let error = error.expect("must fail");
    assert!(error.text.contains("No space left"), "{error:?}");
    assert!(error.offset.is_some(), "{error:?}");
    assert_eq!(sent.expect_err("must fail").report().kind, "file");
    assert!(grown.is_ok_and(|status| status.success()));
    resumed.0.expect("resumes");
    assert!(sealed);
}

#[test]
fn a_file_image_keeps_its_internal_snapshots() {
    let mut lab = Lab::new();
    (lab.source_image, lab.target_image) = (true, true);
    let source = text(&lab.source).to_owned();
    if qemu("qemu-img", &["create", "-f", "qcow2", &source, "64M"]).is_none() {
        return;
    }
    qemu(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 7 1M 3M", &source],
    );
    lab.pass(Purpose::Precopy);
    qemu("qemu-img", &["snapshot", "-c", "before", &source]);
    qemu(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 9 2M 100k", &source],
    );
    lab.pass(Purpose::FinalFull);
    lab.same();
    let target = text(&lab.target);
    let listed = qemu("qemu-img", &["snapshot", "-l", target]).expect("lists");
    assert!(listed.contains("before"), "{listed}");
    qemu("qemu-img", &["check", "-f", "qcow2", target]);
}

/// Converts between formats, with changes and a cut in between.
fn convert(from: &str, to: &str, size: &str) {
    let mut lab = Lab::new();
    (lab.source_image, lab.target_image) = (from == "qcow2", to == "qcow2");
    let source = text(&lab.source).to_owned();
    let target = text(&lab.target).to_owned();
    if qemu("qemu-img", &["create", "-f", from, &source, size]).is_none() {
        return;
    }
    let write = |what: &str| qemu("qemu-io", &["-f", from, "-c", what, &source]);
    write("write -P 7 1M 3M");
    write("write -P 8 40001k 12k");
    write("write -P 5 50M 8M");
    let (cut, _) = lab.pass_cut(Purpose::Precopy, 2000, u64::MAX);
    assert!(cut.is_err());
    lab.pass(Purpose::Precopy);
    write("write -P 9 2M 100k");
    write("write -z 50M 6M");
    write("write -P 3 20M 70k");
    let last = lab.pass(Purpose::FinalFull);
    assert!(last.counts.carried < MIB, "{:?}", last.counts);
    assert_eq!(last.repaired, 0);
    assert!(lab.sealed());
    let compared = qemu(
        "qemu-img",
        &["compare", "-f", from, "-F", to, &source, &target],
    );
    assert!(compared.expect("compares").contains("identical"));
    if to == "qcow2" {
        qemu("qemu-img", &["check", "-f", "qcow2", &target]);
    }
    let used = fs::metadata(&lab.target).expect("target").blocks() * 512;
    assert!(used < 12 * MIB, "{used}");
    let transfer = lab.pass(Purpose::FinalTransfer);
    assert_eq!(transfer.counts.carried, 0);
    assert_eq!(transfer.digest, last.digest);
}

#[test]
fn raw_becomes_qcow2() {
    convert("raw", "qcow2", "96M");
    convert("raw", "qcow2", "67108864512");
}

#[test]
fn qcow2_becomes_raw() {
    convert("qcow2", "raw", "96M");
    convert("qcow2", "raw", "67108864512");
}

#[test]
fn a_converted_volume_may_grow_and_is_made_anew_after_a_crash_of_its_host() {
    let mut lab = Lab::new();
    lab.target_image = true;
    noise(&lab.source, 0, 3 * MIB + 512, 1);
    lab.pass(Purpose::Precopy);
    for size in [9 * MIB, 4 * MIB + 512, 30 * MIB] {
        set_length(&lab.source, size);
        noise(&lab.source, 3 * MIB, MIB, size);
        lab.pass(Purpose::Precopy);
    }
    let (source, target) = (text(&lab.source), text(&lab.target));
    let identical = || {
        let compared = qemu(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "qcow2", source, target],
        );
        if let Some(compared) = compared {
            assert!(compared.contains("identical"), "{compared}");
            qemu("qemu-img", &["check", "-f", "qcow2", target]);
        }
    };
    identical();
    // As a power failure during a pass leaves it: tables in any state, and a manifest of another boot.
    let mut manifest = super::manifest::Manifest::open_locked(&lab.places().manifest())
        .expect("opens")
        .expect("there");
    manifest.header.writing_since = String::from("another boot");
    manifest.write_header().expect("writes");
    drop(manifest);
    noise(&lab.target, 64 * 1024, 64 * 1024, 5);
    let last = lab.pass(Purpose::FinalFull);
    assert_eq!(last.counts.carried, 4 * MIB);
    identical();
}

#[test]
fn an_image_with_a_backing_file_is_not_converted() {
    let mut lab = Lab::new();
    lab.source_image = true;
    let base = lab.root.path().join("base");
    if qemu("qemu-img", &["create", "-f", "qcow2", text(&base), "8M"]).is_none() {
        return;
    }
    let source = text(&lab.source);
    qemu(
        "qemu-img",
        &[
            "create",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            text(&base),
            source,
        ],
    );
    let (sent, _) = lab.refused(Purpose::Precopy);
    assert!(sent.to_string().contains("backing file"), "{sent}");
}

#[test]
fn an_image_that_cannot_be_read_right_is_not_converted() {
    let mut lab = Lab::new();
    lab.source_image = true;
    let source = text(&lab.source);
    let luks = [
        "create",
        "-f",
        "qcow2",
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        source,
        "8M",
    ];
    if qemu("qemu-img", &luks).is_none() {
        return;
    }
    let (sent, _) = lab.refused(Purpose::Precopy);
    assert!(sent.to_string().contains("encrypted"), "{sent}");
    qemu(
        "qemu-img",
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "extended_l2=on",
            source,
            "8M",
        ],
    );
    let (sent, _) = lab.refused(Purpose::Precopy);
    assert!(
        sent.report().text.contains("incompatible feature"),
        "{:?}",
        sent.report()
    );
    fs::write(source, vec![7; 4096]).expect("writes");
    lab.refused(Purpose::Precopy);
}

#[test]
fn compressed_clusters_and_v2_images_are_converted() {
    let mut lab = Lab::new();
    lab.source_image = true;
    let plain = lab.root.path().join("plain");
    noise(&plain, 0, MIB, 1);
    noise(&plain, 5 * MIB, MIB, 2);
    fs::write(lab.root.path().join("text"), "ten bytes\n".repeat(200_000)).expect("writes");
    for (input, more) in [("plain", "compat=1.1"), ("text", "compat=0.10")] {
        let input = lab.root.path().join(input);
        set_length(&input, 16 * MIB);
        let arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", more];
        let arguments = [&arguments[..], &[text(&input), text(&lab.source)]].concat();
        if qemu("qemu-img", &arguments).is_none() {
            return;
        }
        lab.pass(Purpose::FinalFull);
        let compared = [
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(&lab.source),
            text(&lab.target),
        ];
        assert!(
            qemu("qemu-img", &compared)
                .expect("compares")
                .contains("identical")
        );
    }
}

#[test]
fn a_volume_being_written_to_is_precopied_and_then_passed_whole() {
    let lab = Lab::new();
    noise(&lab.source, 0, 24 * MIB, 1);
    let stop = Arc::new(Mutex::new(false));
    let (path, stopped) = (lab.source.clone(), Arc::clone(&stop));
    let writing = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(3);
        while !*stopped.lock().expect("lock") {
            noise(&path, random.u64(0..24 * MIB - 5000), 5000, random.u64(..));
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    for _ in 0..4 {
        lab.pass(Purpose::Precopy);
    }
    *stop.lock().expect("lock") = true;
    writing.join().expect("writes");
    let last = lab.pass(Purpose::FinalFull);
    lab.same();
    assert_eq!(last.repaired, 0);
}

#[test]
fn what_the_disk_did_not_keep_is_named_by_its_offset() {
    let lab = Lab::new();
    noise(&lab.source, 0, 4 * MIB, 1);
    lab.pass(Purpose::FinalFull);
    noise(&lab.target, 2 * MIB + 9, 1, 77);
    let manifest = super::manifest::Manifest::open_locked(&lab.places().manifest())
        .expect("opens")
        .expect("there");
    let order = receive::Order {
        path: lab.target.clone(),
        places: lab.places(),
        image: false,
        adopt: false,
        kept: false,
        device: None,
    };
    let mut touched = super::prove::Touched::new(64);
    touched.add(0, 64);
    let teller = Teller::new(Box::new(io::sink()));
    let check =
        || super::prove::read_back(&order, Layout::File, 4 * MIB, &manifest, &touched, &teller);
    let Err(PorterError::Differs { offset, .. }) = check() else {
        panic!("must differ");
    };
    assert_eq!(offset, 2 * MIB);
    let claim = manifest.read(32, 1).expect("reads");
    assert_eq!(claim, [super::chunk::Fingerprint::ABSENT], "withdrawn");
}

#[test]
fn a_block_device_is_read_but_never_synced_by_a_seal() {
    let mut lab = Lab::new();
    let file = lab.source.clone();
    noise(&file, 0, 3 * MIB, 1);
    set_length(&file, 16 * MIB);
    let attached = Command::new("losetup")
        .args(["-f", "--show", text(&file)])
        .output();
    let device = match attached {
        Ok(output) if output.status.success() => {
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
        }
        Ok(_) | Err(_) => {
            writeln!(io::stderr(), "not run: a block device (no loop device)").expect("prints");
            return;
        }
    };
    lab.source = device.clone();
    let passed = [Purpose::Precopy, Purpose::FinalFull]
        .map(|purpose| lab.pass_cut(purpose, u64::MAX, u64::MAX));
    let sealed = places::observe(&lab.target, &lab.places(), None);
    Command::new("losetup")
        .arg("-d")
        .arg(&device)
        .status()
        .expect("detaches");
    for (sent, received) in passed {
        received.expect("receives");
        assert_eq!(sent.expect("sends").counts.total, 16 * MIB);
    }
    lab.source = file;
    lab.same();
    let Ok(Target::Ours {
        seal: Some(seal), ..
    }) = sealed
    else {
        panic!("must be ours: {sealed:?}");
    };
    assert!(!seal.source.file, "the engine takes no such seal for proof");
}

#[test]
fn two_passes_never_write_one_target() {
    let lab = Lab::new();
    noise(&lab.source, 0, MIB, 1);
    lab.pass(Purpose::Precopy);
    let held = super::manifest::Manifest::open_locked(&lab.places().manifest())
        .expect("opens")
        .expect("there");
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(held);
    });
    let started = Instant::now();
    lab.pass(Purpose::Precopy);
    assert!(started.elapsed() >= Duration::from_millis(600), "it waited");
    releasing.join().expect("releases");
}

#[test]
fn a_receiver_greeted_by_noise_says_so() {
    let lab = Lab::new();
    noise(&lab.source, 0, MIB, 1);
    let order = send::Order {
        path: lab.source.clone(),
        layout: Layout::File,
        image: false,
        purpose: Purpose::Precopy,
        limit: None,
        snapshot: None,
    };
    let teller = Teller::new(Box::new(io::sink()));
    let input = io::Cursor::new(b"Linux node1 6.8\n".to_vec()).chain(io::empty());
    let error = send::send(&order, input, io::sink(), &teller).expect_err("must fail");
    assert!(error.to_string().contains("Linux node1"), "{error}");
}

/// Returns a directory on a disk.
fn scratch() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .filter(|path| path.is_dir())
        .unwrap_or_else(std::env::temp_dir)
}
