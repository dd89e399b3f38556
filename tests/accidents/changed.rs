//! Images that vanish, bytes that change on the way and where they lie, and SSH servers that die.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proxmove::sim::host::Server;
use proxmove::sim::stage::Stage;

use crate::sshd;
use crate::stage::faults::{CONFIG, before};
use crate::stage::{
    self, MIB, clusters, config, disk, guest, launch, nothing_left, runs, to_banana,
};
use crate::{await_porter, finishes, image, said, source_image, target_storage};

const SIZE: u64 = 64 * MIB;

/// Starts one running guest; its hosts are real SSH servers when that is asked for.
async fn one(format: &str, openssh: bool) -> Stage {
    let specs = vec![guest(
        600,
        "vm0",
        vec![disk("scsi0", format, SIZE)],
        64 * 1024,
    )];
    stage::start(clusters(specs), |settings| {
        settings.filled = 0.5;
        if openssh {
            settings.server = Server::OpenSsh("/usr/sbin/sshd".into());
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_that_vanishes_while_it_is_copied() {
    for format in ["raw", "qcow2"] {
        let stage = one(format, false).await;
        let before = config(&stage, "apple", 600);
        let image = source_image(&stage, 600);
        let away = stage.simulation.directory.join("renamed-away");
        let words = to_banana(&["--bwlimit", "40"], &["vm0"]);
        let mut running = launch(&stage, &words, &[]);
        await_porter(&stage, &mut running, "send", Duration::from_millis(300));
        fs::rename(&image, &away).unwrap();
        let (error, state, next) = said(&running.wait().expect(5));
        assert!(error.contains("scsi0"), "{error}");
        assert!(error.contains(image.to_str().unwrap()), "{error}");
        assert!(error.contains("No such file or directory"), "{error}");
        assert!(
            state.starts_with("vm0 is RUNNING on apple as before"),
            "{state}"
        );
        assert!(next.starts_with("run the same command again"), "{next}");
        assert_eq!(config(&stage, "apple", 600), before);
        assert!(runs(&stage, "apple", 600));
        // Nor is anything begun while it is away.
        let refused = stage::run(&stage, &words);
        assert!([4, 5].contains(&refused.code), "{}", refused.code);
        assert!(refused.stdout.contains("scsi0"), "{}", refused.stdout);
        assert!(runs(&stage, "apple", 600) && !image.exists());
        fs::rename(&away, &image).unwrap();
        finishes(&stage, &words, 600);
        nothing_left(&stage);
    }
}

/// Passes connections on to a port, and changes one byte on the way there once so many have passed, where it is asked to.
fn door(to: u16, after: u64, breaks: &Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let breaks = Arc::clone(breaks);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let breaks = Arc::clone(&breaks);
            std::thread::spawn(move || pass(client, server, Some((after, breaks))));
            std::thread::spawn(move || pass(back, forth, None));
        }
    });
    port
}

fn pass(mut from: TcpStream, mut into: TcpStream, breaks: Option<(u64, Arc<AtomicBool>)>) {
    let passed = AtomicU64::new(0);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let before = passed.fetch_add(length as u64, Ordering::Relaxed);
        if let Some((after, breaks)) = &breaks
            && before > *after
            && breaks.swap(false, Ordering::Relaxed)
        {
            buffer[length / 2] ^= 0x10;
        }
        if into.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Write);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_byte_that_changes_on_the_way_never_lands() {
    if !sshd::is_here("a byte that changes on the way") {
        return;
    }
    let stage = one("raw", true).await;
    let host = &stage.hosts["banana-node2"];
    let breaks = Arc::new(AtomicBool::new(true));
    let port = door(host.port, 8 * MIB, &breaks);
    let text = fs::read_to_string(stage.proxmoverc()).unwrap();
    let reached = format!("ssh={}@127.0.0.1:{}", host.user, host.port);
    let (before, section) = text.split_once("[storage:banana:local-ssd@node2]").unwrap();
    let peer = format!("{reached}\n  peer={}@127.0.0.1:{port}", host.user);
    let section = section.replacen(&reached, &peer, 1);
    fs::write(
        stage.proxmoverc(),
        format!("{before}[storage:banana:local-ssd@node2]{section}"),
    )
    .unwrap();

    let words = to_banana(&["--route", "direct"], &["vm0"]);
    let (error, state, _) = said(&stage::run(&stage, &words).expect(5));
    assert!(!breaks.load(Ordering::Relaxed), "nothing was changed");
    assert!(error.contains("scsi0"), "{error}");
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before"),
        "{state}"
    );
    finishes(&stage, &words, 600);
    same_images(&stage);
    nothing_left(&stage);
}

/// Fails the test unless the source's image and the target's are the same bytes; the target must not have written.
fn same_images(stage: &Stage) {
    let target = stage.vmid("banana", "vm0").unwrap();
    let copy = image(&target_storage(stage).join("images"), target);
    // The target runs and writes nothing, since nobody told it to go on.
    assert_eq!(
        fs::read(source_image(stage, 600)).unwrap(),
        fs::read(copy).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_byte_that_changes_on_the_targets_disk_is_told_and_copied_again() {
    let stage = one("raw", false).await;
    let images = target_storage(&stage).join("images");
    let changed = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&changed);
    // After the pre-copies, before the final pass.
    let rot = move || {
        let copy = image(&images, 100);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(copy)
            .unwrap();
        let (mut byte, offset) = ([0], 5 * MIB + 4321);
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        noted.fetch_add(1, Ordering::Relaxed);
    };
    before(&stage, "apple", ("PUT", CONFIG), rot);
    let words = to_banana(&[], &["vm0"]);
    let ended = stage::run(&stage, &words).expect(0);
    assert_eq!(changed.load(Ordering::Relaxed), 1);
    let warnings = ended.told("warning");
    let told = warnings
        .iter()
        .find(|event| event.to_string().contains("were not what had been written"));
    let told = told.unwrap_or_else(|| panic!("nobody was told: {warnings:?}"))["text"].to_string();
    eprintln!("{told}");
    for words in ["scsi0", "64.0 KiB", "vm-100-disk-0.raw", "5242880"] {
        assert!(told.contains(words), "no {words}: {told}");
    }
    let target = stage::moved(&stage, ("apple", 600), "banana", "vm0");
    stage::proved(&stage, ("apple", 600), ("banana", target));
    same_images(&stage);
    nothing_left(&stage);
}

/// Returns the process of the SSH server with that configuration.
fn listener(config: &str) -> u32 {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut found = entries.filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&words)
            .contains(config)
            .then_some(process)
    });
    found
        .next()
        .unwrap_or_else(|| panic!("no server with {config}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ssh_servers_that_die_in_the_middle() {
    if !sshd::is_here("SSH servers that die") {
        return;
    }
    for (side, route) in [
        ("banana-node2", "direct"),
        ("apple-node1", "direct"),
        ("banana-node2", "relay"),
    ] {
        let stage = one("raw", true).await;
        let words = to_banana(&["--bwlimit", "40", "--route", route], &["vm0"]);
        let mut running = launch(&stage, &words, &[]);
        await_porter(&stage, &mut running, "receive", Duration::from_millis(400));
        let config = format!("{side}/sshd_config");
        let config = stage.home.with_file_name("hosts").join(config);
        let sessions = sshd::children(listener(config.to_str().unwrap()));
        assert!(!sessions.is_empty());
        for session in sessions {
            sshd::children(session).into_iter().for_each(stage::kill);
            stage::kill(session);
        }
        let (error, state, _) = said(&running.wait().expect(5));
        assert!(error.contains("scsi0"), "{error}");
        assert!(
            state.starts_with("vm0 is RUNNING on apple as before"),
            "{state}"
        );
        finishes(&stage, &words, 600);
        nothing_left(&stage);
    }
}
