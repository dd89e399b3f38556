//! The engine for ZFS against real pools on two hosts behind real sshd: the lab of `tests/lab`.
//!
//! `PROXMOVE_LAB_ENV` names the file that says how the two hosts are reached; without it nothing here runs. The tests
//! make volumes of their own in the pool `tank` of each host and remove them; run them one at a time. How many
//! interruptions are tried says `PROXMOVE_LAB_POSITIONS`, of how many MiB `PROXMOVE_LAB_STREAM`, which porter is used
//! `PROXMOVE_LAB_PORTER`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "zfs_lab/breaking.rs"]
mod breaking;
#[path = "zfs_lab/cutting.rs"]
mod cutting;
#[path = "zfs_lab/lab.rs"]
mod lab;
#[path = "support/not_run.rs"]
mod not_run;
#[path = "zfs_lab/odd.rs"]
mod odd;
#[path = "zfs_lab/snapshots.rs"]
mod snapshots;

use lab::{Lab, MIB};
use proxmove::transfer::{Engine as _, News, Pass, Route, Tool, Verify, VolumeState};
use proxmove::units::Bytes;

const FINAL: Pass = Pass::Final(Verify::Full);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_volumes_in_rounds_and_the_way_back() {
    let Some(lab) = Lab::open("three volumes between pools").await else {
        return;
    };
    let volumes = [
        ("scsi0", 24 * MIB, "-o volblocksize=8k"),
        ("scsi1", 16 * MIB, "-o volblocksize=16k"),
        ("virtio2", 64 * MIB, "-s -o volblocksize=16k"),
    ];
    let mut pairs = Vec::new();
    for (drive, size, how) in volumes {
        let pair = lab.pair("565-126", drive, size).await;
        lab.create(&pair, size, how).await;
        let filled = if drive == "virtio2" { 16 } else { size / MIB };
        lab.fill(&pair, 0, filled).await;
        pairs.push(pair);
    }
    pairs[0].target.zvol.as_mut().unwrap().sparse = false;
    let engine = lab.engine();
    engine.prepare(&pairs).await.unwrap();
    for pair in &pairs {
        assert_eq!(engine.observe(pair).await.unwrap(), VolumeState::Absent);
    }
    let mut times = Vec::new();
    for round in 0..3 {
        let pass = if round == 2 { FINAL } else { Pass::Precopy };
        engine.begin(&pairs, pass).await.unwrap();
        for pair in &pairs {
            let report = engine.carry(pair, pass, &|_| {}).await.unwrap();
            eprintln!(
                "round {round} {}: {} carried, {} on the wire, {:.1} s {:?}",
                pair.drive,
                report.progress.carried,
                report.progress.wire,
                report.duration.as_secs_f64(),
                report.digest
            );
            times.push(report.duration);
            assert_eq!(report.digest.is_some(), round == 2);
            let state = engine.observe(pair).await.unwrap();
            match (round, &state) {
                (2, VolumeState::Synced { digest }) => {
                    assert_eq!(Some(digest), report.digest.as_ref());
                }
                (0 | 1, VolumeState::Partial { .. }) => {}
                _ => panic!("round {round}: {state:?}"),
            }
            if round < 2 {
                lab.fill(pair, 4 + 3 * round, 2).await;
            }
        }
    }
    for (pair, (_, _, how)) in pairs.iter().zip(volumes) {
        let (source, target) = (lab.hash_source(pair).await, lab.hash_target(pair).await);
        assert_eq!(source, target, "{}", pair.drive);
        let block = if how.contains("8k") { "8192" } else { "16384" };
        assert_eq!(
            lab.b(&format!(
                "zfs get -Hp -o value volblocksize {}",
                lab.target(pair)
            ))
            .await,
            block
        );
        let reserved = lab
            .b(&format!(
                "zfs get -Hp -o value refreservation {}",
                lab.target(pair)
            ))
            .await;
        let sparse = pair.target.zvol.as_ref().unwrap().sparse;
        assert_eq!(reserved == "0", sparse, "{}: {reserved}", pair.drive);
        engine.tidy(pair).await.unwrap();
        engine.tidy(pair).await.unwrap();
        let guids =
            |name: String| format!("zfs list -Hp -t snapshot -o guid -s createtxg -d 1 {name}");
        let (here, there) = (
            lab.a(&guids(lab.source(pair))).await,
            lab.b(&guids(lab.target(pair))).await,
        );
        assert_eq!(
            here.lines().count(),
            1,
            "superseded snapshots are gone: {here}"
        );
        assert_eq!(here, there);
        let left = lab
            .b(&format!(
                "zfs list -Hp -t snapshot -o name,proxmove:move,userrefs -d 1 {}",
                lab.target(pair)
            ))
            .await;
        assert!(
            left.ends_with("@proxmove-565-126-3-final\t565-126\t1"),
            "{left}"
        );
        let mark = lab
            .b(&format!(
                "zfs get -Hp -o value proxmove:move {}",
                lab.target(pair)
            ))
            .await;
        assert_eq!(mark, "-");
        assert_eq!(engine.observe(pair).await.unwrap(), VolumeState::Foreign);
        assert!(engine.discard(pair).await.is_err());
    }
    lab.no_files(&pairs[0]).await;

    // The way back: the former source is named by the move's notes, and only what was written meanwhile travels.
    let mut back: Vec<_> = pairs
        .iter()
        .map(|pair| lab.turned(pair, "126-565"))
        .collect();
    for (pair, forth) in back.iter_mut().zip(&pairs) {
        pair.adopt = true;
        lab.dirty_target(forth, 8, 4).await;
    }
    engine.prepare(&back).await.unwrap();
    engine.begin(&back, FINAL).await.unwrap();
    for pair in &back {
        let report = engine.carry(pair, FINAL, &|_| {}).await.unwrap();
        let wire = report.progress.wire.0;
        eprintln!(
            "back {}: {} on the wire for 4 MiB written",
            pair.drive,
            Bytes(wire)
        );
        assert!(wire < 6 * MIB, "{wire}");
        assert!(matches!(
            engine.observe(pair).await.unwrap(),
            VolumeState::Synced { .. }
        ));
        engine.tidy(pair).await.unwrap();
    }
    for pair in &pairs {
        assert_eq!(lab.hash_source(pair).await, lab.hash_target(pair).await);
        let names = lab
            .a(&format!(
                "zfs list -H -t snapshot -o name -d 1 {}",
                lab.source(pair)
            ))
            .await;
        assert!(
            names.ends_with("@proxmove-126-565-1-final") && names.lines().count() == 1,
            "{names}"
        );
    }
    lab.remove(&pairs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn little_travels_when_little_was_written() {
    let Some(lab) = Lab::open("the size of an increment").await else {
        return;
    };
    let size = 256 * MIB;
    let pair = lab.pair("565-127", "scsi0", size).await;
    lab.create(&pair, size, "-s -o volblocksize=16k").await;
    lab.fill(&pair, 0, 64).await;
    let engine = lab.engine();
    let pairs = [pair];
    engine.prepare(&pairs).await.unwrap();
    engine.begin(&pairs, Pass::Precopy).await.unwrap();
    let full = engine
        .carry(&pairs[0], Pass::Precopy, &|_| {})
        .await
        .unwrap();
    lab.fill(&pairs[0], 40, 8).await;
    let began = std::time::Instant::now();
    engine.begin(&pairs, FINAL).await.unwrap();
    let last = engine.carry(&pairs[0], FINAL, &|_| {}).await.unwrap();
    eprintln!(
        "full: {} in {:.1} s; final after 8 MiB were written: {} on the wire, {:.1} s of downtime caused by the volume",
        full.progress.wire,
        full.duration.as_secs_f64(),
        last.progress.wire,
        began.elapsed().as_secs_f64()
    );
    assert!(
        last.progress.wire.0 * 10 <= 8 * MIB * 13,
        "{}",
        last.progress.wire
    );
    assert_eq!(
        lab.hash_source(&pairs[0]).await,
        lab.hash_target(&pairs[0]).await
    );
    // What is written after the final pass shows, on either side.
    lab.fill(&pairs[0], 1, 1).await;
    assert_eq!(
        engine.observe(&pairs[0]).await.unwrap(),
        VolumeState::SourceNewer
    );
    engine.begin(&pairs, FINAL).await.unwrap();
    engine.carry(&pairs[0], FINAL, &|_| {}).await.unwrap();
    lab.dirty_target(&pairs[0], 3, 1).await;
    assert_eq!(
        engine.observe(&pairs[0]).await.unwrap(),
        VolumeState::TargetNewer
    );
    engine.begin(&pairs, FINAL).await.unwrap();
    let refused = engine.carry(&pairs[0], FINAL, &|_| {}).await.unwrap_err();
    eprintln!("a target that was used: {refused}");
    assert!(
        refused.to_string().contains("after the final pass"),
        "{refused}"
    );
    engine.discard(&pairs[0]).await.unwrap();
    assert_eq!(
        engine.observe(&pairs[0]).await.unwrap(),
        VolumeState::Absent
    );
    let left = lab
        .a(&format!(
            "zfs list -H -t snapshot,bookmark -o name -d 1 {}",
            lab.source(&pairs[0])
        ))
        .await;
    assert_eq!(left, "");
    lab.remove(&pairs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn directly_from_host_to_host_and_with_the_tools_of_the_hosts() {
    let Some(lab) = Lab::open("the direct route between pools").await else {
        return;
    };
    for (name, route, tool) in [
        ("565-128", Route::Direct, Tool::Porter),
        ("565-129", Route::Relay, Tool::Stock),
    ] {
        let mut pair = lab.pair(name, "scsi0", 32 * MIB).await;
        (pair.route, pair.tool) = (route, tool);
        lab.create(&pair, 32 * MIB, "-s").await;
        lab.fill(&pair, 0, 24).await;
        let engine = lab.engine();
        let pairs = [pair];
        engine.prepare(&pairs).await.unwrap();
        for pass in [Pass::Precopy, FINAL] {
            engine.begin(&pairs, pass).await.unwrap();
            let seen = std::sync::atomic::AtomicU64::new(0);
            let tell = |news: News| {
                if let News::Progress(now) = news {
                    seen.fetch_max(now.scanned.0, std::sync::atomic::Ordering::Relaxed);
                }
            };
            let report = engine.carry(&pairs[0], pass, &tell).await.unwrap();
            eprintln!(
                "{route:?} {tool:?}: {} carried, {} on the wire, {:.1} s, {} seen on the way",
                report.progress.carried,
                report.progress.wire,
                report.duration.as_secs_f64(),
                Bytes(seen.into_inner()),
            );
            lab.fill(&pairs[0], 2, 1).await;
            if pass == Pass::Precopy {
                assert!(report.progress.wire.0 > 20 * MIB);
            }
        }
        engine.begin(&pairs, FINAL).await.unwrap();
        engine.carry(&pairs[0], FINAL, &|_| {}).await.unwrap();
        assert_eq!(
            lab.hash_source(&pairs[0]).await,
            lab.hash_target(&pairs[0]).await
        );
        engine.tidy(&pairs[0]).await.unwrap();
        lab.no_files(&pairs[0]).await;
        lab.remove(&pairs).await;
    }
}
