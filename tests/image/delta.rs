//! What a pass costs when little of a volume was written, in small pieces: between real porters, with real images.

use std::collections::BTreeSet;

use super::*;

const PAGE: u64 = 4096;

/// Writes to `count` pages of a guest's disk, at random places, as its guest would; returns their bytes.
fn scatter(path: &str, format: Format, size: u64, count: u64, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pages = BTreeSet::new();
    while (pages.len() as u64) < count {
        pages.insert(random.u64(0..size / PAGE));
    }
    match format {
        Format::Raw => {
            for page in &pages {
                noise(path, page * PAGE, PAGE, random.u64(..));
            }
        }
        Format::Qcow2 => {
            let commands: String = pages
                .iter()
                .map(|page| format!("write -P {} {} 4k\n", random.u8(1..), page * PAGE))
                .collect();
            let mut child = Command::new("qemu-io")
                .args(["-f", "qcow2", path])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("qemu-io, where qemu-img is");
            let mut input = child.stdin.take().expect("piped");
            input.write_all(commands.as_bytes()).expect("writes");
            drop(input);
            assert!(child.wait().expect("ends").success());
        }
    }
    count * PAGE
}

fn fill(path: &str, size: u64) {
    for part in 0..size / (32 * MIB) {
        noise(path, part * 32 * MIB, 32 * MIB, part);
    }
}

async fn costs_at_most_twice(from: Format, to: Format) {
    let lab = Lab::new(from, to, Tool::Porter);
    let size = 256 * MIB;
    let (source, target) = (&lab.pair.source.path, &lab.pair.target.path);
    let name = |format| match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    let plain = format!("{source}.plain");
    fill(&plain, size);
    let made = ["convert", "-f", "raw", "-O", name(from), &plain, source];
    if qemu("qemu-img", &made).is_none() {
        return;
    }
    fs::remove_file(&plain).expect("removes");
    lab.done(Pass::Precopy).await;
    let dirty = scatter(source, from, size, size / PAGE / 100, 7);
    let last = lab.done(FINAL).await;
    let progress = last.progress;
    note(&format!(
        "{} to {}: {dirty} bytes dirty, carried {}, wire {}",
        name(from),
        name(to),
        progress.carried.0,
        progress.wire.0
    ));
    assert!(progress.carried.0 >= dirty, "{progress:?}");
    assert!(progress.carried.0 <= 2 * dirty, "{progress:?}");
    assert!(progress.wire.0 <= 2 * dirty, "{progress:?}");
    assert_eq!(last.repaired, Bytes::ZERO);
    assert!(matches!(lab.state().await, VolumeState::Synced { .. }));
    let compare = ["compare", "-f", name(from), "-F", name(to), source, target];
    let compared = qemu("qemu-img", &compare).expect("compares");
    assert!(compared.contains("identical"), "{compared}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_percent_dirty_costs_at_most_two() {
    costs_at_most_twice(Format::Raw, Format::Raw).await;
    costs_at_most_twice(Format::Qcow2, Format::Qcow2).await;
    costs_at_most_twice(Format::Raw, Format::Qcow2).await;
    costs_at_most_twice(Format::Qcow2, Format::Raw).await;
}

/// Prints the speed of each kind of pass; run it with `--ignored --nocapture`, built for release.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, asserts nothing about speed"]
async fn speed_of_passes() {
    let lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    let size = 1024 * MIB;
    fill(&lab.pair.source.path, size);
    lab.engine
        .prepare(std::slice::from_ref(&lab.pair))
        .await
        .expect("prepares");
    let tell = |name: &str, report: &PassReport| {
        let seconds = report.duration.as_secs_f64();
        note(&format!(
            "{name}: {:.0} MB/s, {seconds:.2} s, carried {}, wire {}",
            size as f64 / 1e6 / seconds,
            report.progress.carried.0,
            report.progress.wire.0
        ));
    };
    tell("first pre-copy", &lab.done(Pass::Precopy).await);
    tell("rescan", &lab.done(Pass::Precopy).await);
    let pages = size / PAGE / 100;
    scatter(&lab.pair.source.path, Format::Raw, size, pages, 1);
    tell("pre-copy of 1 % scattered", &lab.done(Pass::Precopy).await);
    scatter(&lab.pair.source.path, Format::Raw, size, pages, 2);
    let transfer = Pass::Final(Verify::Transfer);
    tell("final of 1 %, transfer", &lab.done(transfer).await);
    scatter(&lab.pair.source.path, Format::Raw, size, pages, 3);
    tell("final of 1 %, full", &lab.done(FINAL).await);
    lab.same();
}
