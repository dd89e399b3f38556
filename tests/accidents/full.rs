//! No space left: on the target's storage before and after the stop, where proxmove keeps its own files, and at home.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proxmove::host::Shell as _;
use proxmove::sim::stage::Stage;

use crate::alone::{Own, SmallDisk, alone};
use crate::home::{Home, PATIENCE, sh};
use crate::sshd::{self, Sshd};
use crate::stage::faults::{CONFIG, before};
use crate::stage::{
    self, MIB, clusters, disk, guest, launch, names, nothing_left, program, runs, to_banana,
};
use crate::{await_porter, finishes, image, said, source_image, target_storage, with_vm0};

const SIZE: u64 = 64 * MIB;
/// Enough for the porter, or for a few disks.
const ROOM: u64 = 256 * MIB;

/// Starts guests whose target storage is a small disk; proxmove's own files are on another one.
async fn on_a_small_disk(formats: &[&str]) -> (Stage, SmallDisk) {
    let guests = (0..)
        .zip(formats)
        .map(|(number, format)| {
            let disks = vec![disk("scsi0", format, SIZE)];
            guest(600 + number, &format!("vm{number}"), disks, 64 * 1024)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| {
        settings.filled = 0.4;
        settings.hot_bytes = Some(8 * MIB);
    })
    .await;
    let images = target_storage(&stage).join("images");
    fs::create_dir_all(&images).unwrap();
    let small = SmallDisk::mount(&images, ROOM);
    (stage, small)
}

/// Says whether QEMU's tools are here; notes that the test was not run where they are not.
fn has_qemu(test: &str) -> bool {
    let here = Command::new("qemu-io").arg("--version").output().is_ok();
    if !here {
        crate::not_run::not_run(test, "qemu-utils is not installed");
    }
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_fills_up_while_the_guest_runs() {
    let test = "full::a_target_that_fills_up_while_the_guest_runs";
    if !has_qemu(test) || !alone(test, Own::Mounts) {
        return;
    }
    let (stage, small) = on_a_small_disk(&["raw", "qcow2"]).await;
    for number in 0..2 {
        let (vmid, name) = (600 + number, format!("vm{number}"));
        let words = to_banana(&["--bwlimit", "40"], &[&name]);
        let mut running = launch(&stage, &words, &[]);
        await_porter(&stage, &mut running, "receive", Duration::from_millis(500));
        let ballast = small.ballast();
        let (error, state, next) = said(&running.wait().expect(5));
        let host = &stage.hosts["banana-node2"];
        let place = format!(
            "storage local-ssd of banana, on {}@127.0.0.1:{}, is full",
            host.user, host.port
        );
        assert!(error.contains(&place), "{error}");
        assert!(error.contains("scsi0"), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
        assert!(
            state.starts_with(&format!("{name} is RUNNING on apple")),
            "{state}"
        );
        assert!(
            next.starts_with("make room there, then run the same command again"),
            "{next}"
        );
        assert!(runs(&stage, "apple", vmid));
        // Still full: it ends the same way, or is refused for it, and the guest goes on.
        let again = stage::run(&stage, &words);
        assert!(
            [4, 5].contains(&again.code),
            "{}{}",
            again.code,
            again.stdout
        );
        assert!(runs(&stage, "apple", vmid));
        // Once by more room, once by tidying up.
        if number == 0 {
            small.resize(2 * ROOM);
        } else {
            fs::remove_file(&ballast).unwrap();
        }
        let target = finishes(&stage, &words, vmid);
        is_whole(&image(&small.path, target));
        let _ = fs::remove_file(ballast);
    }
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_is_full_when_the_guest_is_down() {
    let test = "full::a_target_that_is_full_when_the_guest_is_down";
    if !has_qemu(test) || !alone(test, Own::Mounts) {
        return;
    }
    let (stage, small) = on_a_small_disk(&["raw", "qcow2"]).await;
    let small = Arc::new(small);
    for number in 0..2 {
        let (vmid, name) = (600 + number, format!("vm{number}"));
        let words = to_banana(&[], &[&name]);
        let (filled, source) = (Arc::clone(&small), source_image(&stage, vmid));
        stage.simulation.faults().clear();
        before(&stage, "apple", ("PUT", CONFIG), move || {
            last_words(&source);
            filled.ballast();
        });
        let (error, state, next) = said(&stage::run(&stage, &words).expect(6));
        assert!(error.contains("storage local-ssd of banana"), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
        let stopped = format!("{name} is STOPPED on apple as {name}--CLONING; no data is lost");
        assert_eq!(state, stopped);
        assert!(
            next.starts_with("make room there, then run the same command again"),
            "{next}"
        );
        assert!(
            next.contains(&format!("proxmove abort apple banana {name}")),
            "{next}"
        );
        fs::remove_file(small.path.join("somebody-elses.log")).unwrap();
        let target = finishes(&stage, &words, vmid);
        is_whole(&image(&small.path, target));
        small.resize(2 * ROOM);
    }
    nothing_left(&stage);
    drop(stage);
}

/// Writes what a guest wrote right before its end, where no guest here has records (they lie in 8 MiB whose place follows
/// from seed and VMID) and little else was: the final delta needs room for it.
fn last_words(image: &Path) {
    let raw = image
        .extension()
        .is_some_and(|extension| extension == "raw");
    let status = Command::new("qemu-io")
        .args([
            "-f",
            if raw { "raw" } else { "qcow2" },
            "-c",
            "write -P 0x5a 34M 12M",
        ])
        .arg(image)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

/// Fails the test when QEMU finds fault with an image.
#[track_caller]
fn is_whole(image: &Path) {
    if image
        .extension()
        .is_some_and(|extension| extension == "qcow2")
    {
        let image = image.to_str().unwrap();
        let output = Command::new("qemu-img")
            .args(["check", image])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_room_for_proxmoves_own_files() {
    if !alone("full::no_room_for_proxmoves_own_files", Own::Mounts) {
        return;
    }
    let stage = with_vm0(SIZE, 0.1).await;
    let temp = target_storage(&stage).join("temp");
    let words = to_banana(&[], &["vm0"]);
    let place = format!(
        "the directory for proxmove's own files, {} on ",
        temp.display()
    );
    // Too small for the porter, of which the plan warns: nothing is begun.
    let small = SmallDisk::mount(&temp, 8 * MIB);
    let ended = stage::run(&stage, &words).expect(5);
    let warned = ended.told("warning")[0].to_string();
    assert!(warned.contains(" has 8.0 MiB free"), "{warned}");
    let (error, state, next) = said(&ended);
    assert!(error.contains(&place), "{error}");
    assert_eq!(
        state,
        "vm0 is RUNNING on apple as before; nothing was changed"
    );
    assert!(
        next.starts_with("make room there, then run the same command again"),
        "{next}"
    );
    assert_eq!(names(&stage, "banana"), [] as [String; 0]);
    assert_eq!(
        fs::read_dir(&temp).unwrap().count(),
        0,
        "half a porter lies there"
    );
    // Full after the porter was put there.
    small.resize(ROOM);
    let small = Arc::new(small);
    let filled = Arc::clone(&small);
    before(&stage, "banana", ("POST", "/nodes/node2/qemu"), move || {
        filled.ballast();
    });
    let (error, state, next) = said(&stage::run(&stage, &words).expect(5));
    assert!(error.contains(&place), "{error}");
    assert!(state.starts_with("vm0 is RUNNING on apple"), "{state}");
    assert!(
        next.starts_with("make room there, then run the same command again"),
        "{next}"
    );
    fs::remove_file(temp.join("somebody-elses.log")).unwrap();
    finishes(&stage, &words, 600);
    nothing_left(&stage);
    drop(small);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_at_home_keeps_no_move_from_its_end() {
    if !alone(
        "full::a_full_disk_at_home_keeps_no_move_from_its_end",
        Own::Mounts,
    ) {
        return;
    }
    let stage = with_vm0(8 * MIB, 0.1).await;
    let directory = tempfile::tempdir().unwrap();
    let home = SmallDisk::mount(directory.path(), 16 * MIB);
    let copy = Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", stage.home.display()))
        .arg(&home.path)
        .status();
    assert!(copy.unwrap().success());
    home.ballast();
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let told = |arguments: &[&str]| {
        Command::new(program())
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &home.path)
            .env("TMPDIR", &home.path)
            .stdin(Stdio::null())
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap()
            .code()
    };
    // A plan that could not be written was not shown; a move does not depend on its log.
    let dry = ["-n", "apple", "banana", "node2", "local-ssd", "vm0"];
    assert_eq!(told(&dry), Some(5));
    assert!(runs(&stage, "apple", 600));
    let mut words = to_banana(&[], &["vm0"]);
    words.push("--debug");
    assert_eq!(told(&words), Some(0));
    let target = stage::moved(&stage, ("apple", 600), "banana", "vm0");
    stage::proved(&stage, ("apple", 600), ("banana", target));
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_key_that_cannot_be_remembered_is_not_half_remembered() {
    let test = "full::a_host_key_that_cannot_be_remembered_is_not_half_remembered";
    if !sshd::is_here(test) || !alone(test, Own::Mounts) {
        return;
    }
    let host = Sshd::start(&[]);
    let home = Home::stranger().answers(true);
    host.authorize(&home.public);
    let ssh = home.file(".ssh");
    let keys =
        ["id_ed25519", "id_ed25519.pub"].map(|name| (name, fs::read(ssh.join(name)).unwrap()));
    let small = SmallDisk::mount(&ssh, 64 * 1024);
    for (name, bytes) in keys {
        fs::write(ssh.join(name), bytes).unwrap();
    }
    Command::new("chmod")
        .arg("600")
        .arg(ssh.join("id_ed25519"))
        .status()
        .unwrap();
    // The rest of the last page there is: a line begins to fit.
    let before = format!("#{}\n", "x".repeat(4096 - 42));
    fs::write(ssh.join("known_hosts"), &before).unwrap();
    let ballast = small.ballast();
    let refused = home.shell(&host).run(&sh("true"), &[], PATIENCE).await;
    let refused = refused.err().unwrap().to_string();
    eprintln!("{refused}");
    assert!(refused.contains("cannot remember the key of"), "{refused}");
    assert!(
        refused.contains("known_hosts: No space left on device"),
        "{refused}"
    );
    assert_eq!(home.known(), before);
    fs::remove_file(ballast).unwrap();
    home.shell(&host)
        .run(&sh("true"), &[], PATIENCE)
        .await
        .unwrap();
    assert!(home.known().starts_with(&before) && home.known().len() > before.len());
    drop(small);
}
