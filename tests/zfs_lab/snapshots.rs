//! Snapshots of the guest's own that travel with a volume.

use proxmove::transfer::{Engine as _, Pair, Pass, VolumeState};

use crate::FINAL;
use crate::lab::{Lab, MIB};

/// The names and guids of a volume's snapshots, oldest first; those of the guest's own.
fn list(dataset: &str) -> String {
    format!("zfs list -Hp -t snapshot -o name,guid -s createtxg -d 1 {dataset} | sed 's/^[^@]*@//'")
}

async fn names(lab: &Lab, pair: &Pair) -> (String, String) {
    let here = lab.a(&list(&lab.source(pair))).await;
    let there = lab.b(&list(&lab.target(pair))).await;
    (here, there)
}

fn only(names: &str) -> Vec<&str> {
    let first = |line: &str| line.split('\t').next().map(str::len);
    names
        .lines()
        .map(|line| &line[..first(line).unwrap()])
        .collect()
}

/// The hash of what a volume had in a snapshot.
fn hash(dataset: &str, snapshot: &str) -> String {
    let clone = format!("{dataset}-look");
    format!(
        "zfs clone {dataset}@{snapshot} {clone} && udevadm settle && sha256sum < /dev/zvol/{clone} && udevadm settle &&
         for try in 1 2 3 4 5; do zfs destroy {clone} && exit 0; sleep 1; done; exit 1"
    )
}

async fn carry(lab: &Lab, pair: &Pair, pass: Pass) {
    let engine = lab.engine();
    let pairs = std::slice::from_ref(pair);
    engine.prepare(pairs).await.unwrap();
    engine.begin(pairs, pass).await.unwrap();
    let report = engine.carry(pair, pass, &|_| {}).await.unwrap();
    eprintln!(
        "{:?}: {} on the wire, {:.1} s",
        pair.snapshots,
        report.progress.wire,
        report.duration.as_secs_f64()
    );
}

async fn take(lab: &Lab, pair: &Pair, name: &str, at: u64) {
    lab.fill(pair, at, 2).await;
    lab.a(&format!("zfs snapshot {}@{name}", lab.source(pair)))
        .await;
}

fn want(pair: &mut Pair, names: &[&str]) {
    pair.snapshots = names.iter().map(|name| (*name).to_owned()).collect();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn snapshots_of_the_guest_travel_with_their_volume() {
    let Some(lab) = Lab::open("snapshots of the guest's own").await else {
        return;
    };
    let mut pair = lab.pair("565-130", "scsi0", 48 * MIB).await;
    lab.create(&pair, 48 * MIB, "-s -o volblocksize=16k").await;
    lab.fill(&pair, 0, 16).await;
    for (at, name) in [(0, "s1"), (2, "autosnap_daily"), (4, "s2")] {
        take(&lab, &pair, name, at).await;
    }
    want(&mut pair, &["s1", "s2"]);
    carry(&lab, &pair, Pass::Precopy).await;
    let (here, there) = names(&lab, &pair).await;
    assert_eq!(
        only(&here),
        ["s1", "autosnap_daily", "s2", "proxmove-565-130-1"]
    );
    assert_eq!(only(&there), ["s1", "s2", "proxmove-565-130-1"]);
    assert!(
        there.lines().all(|line| here.contains(line)),
        "{here}\n{there}"
    );

    // One that was taken between two of ours comes with the next round.
    take(&lab, &pair, "s3", 6).await;
    want(&mut pair, &["s1", "s2", "s3"]);
    carry(&lab, &pair, Pass::Precopy).await;
    let (_, there) = names(&lab, &pair).await;
    assert_eq!(only(&there), ["s1", "s2", "s3", "proxmove-565-130-2"]);

    // One that a round passed over is fetched by going back.
    take(&lab, &pair, "s4", 8).await;
    carry(&lab, &pair, Pass::Precopy).await;
    want(&mut pair, &["s1", "s2", "s3", "s4"]);
    carry(&lab, &pair, Pass::Precopy).await;
    let (_, there) = names(&lab, &pair).await;
    assert_eq!(only(&there), ["s1", "s2", "s3", "s4", "proxmove-565-130-4"]);

    // One that was deleted is said to be gone, and goes on the target when it is wanted no more.
    lab.a(&format!("zfs destroy {}@s2", lab.source(&pair)))
        .await;
    let engine = lab.engine();
    let gone = engine
        .carry(&pair, Pass::Precopy, &|_| {})
        .await
        .unwrap_err();
    eprintln!("a snapshot that was deleted meanwhile: {gone}");
    assert!(
        gone.to_string().contains("has no snapshot s2 any more"),
        "{gone}"
    );
    // Another one under the name of one that was carried.
    lab.a(&format!("zfs destroy {}@s4", lab.source(&pair)))
        .await;
    take(&lab, &pair, "s4", 10).await;
    want(&mut pair, &["s1", "s3", "s4"]);
    carry(&lab, &pair, FINAL).await;
    let (here, there) = names(&lab, &pair).await;
    assert_eq!(
        only(&there),
        [
            "s1",
            "s3",
            "proxmove-565-130-4",
            "s4",
            "proxmove-565-130-5-final"
        ]
    );
    assert!(
        there.lines().all(|line| here.contains(line)),
        "{here}\n{there}"
    );
    let state = engine.observe(&pair).await.unwrap();
    assert!(matches!(state, VolumeState::Synced { .. }), "{state:?}");
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);

    // Without one of them it is not complete.
    lab.a(&format!("zfs snapshot {}@s5", lab.source(&pair)))
        .await;
    let mut more = pair.clone();
    want(&mut more, &["s1", "s3", "s4", "s5"]);
    let state = engine.observe(&more).await.unwrap();
    assert!(matches!(state, VolumeState::Partial { .. }), "{state:?}");
    carry(&lab, &more, FINAL).await;
    let state = engine.observe(&more).await.unwrap();
    assert!(matches!(state, VolumeState::Synced { .. }), "{state:?}");

    // Nothing of ours is left that would keep Proxmox VE from rolling back.
    for _ in 0..2 {
        engine.tidy(&more).await.unwrap();
    }
    let (here, there) = names(&lab, &more).await;
    assert_eq!(only(&here), ["s1", "autosnap_daily", "s3", "s4", "s5"]);
    assert_eq!(only(&there), ["s1", "s3", "s4", "s5"]);
    let left = format!(
        "zfs list -Hp -t snapshot,bookmark -o proxmove:move,userrefs -d 1 {} | sort -u",
        lab.target(&more)
    );
    assert_eq!(lab.b(&left).await, "-\t0");
    assert_eq!(engine.observe(&more).await.unwrap(), VolumeState::Foreign);
    for name in ["s5", "s4", "s3", "s1"] {
        let recorded = lab.a(&hash(&lab.source(&more), name)).await;
        let target = lab.target(&more);
        lab.b(&format!("zfs rollback {target}@{name}")).await;
        assert_eq!(lab.hash_target(&more).await, recorded, "{name}");
        lab.b(&format!("zfs destroy {target}@{name}")).await;
    }
    lab.remove(&[pair]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_volume_begun_without_snapshots_is_begun_again_but_not_while_the_guest_is_down() {
    let Some(lab) = Lab::open("snapshots that are asked for later").await else {
        return;
    };
    let mut pair = lab.pair("565-131", "scsi0", 32 * MIB).await;
    lab.create(&pair, 32 * MIB, "-s").await;
    take(&lab, &pair, "s1", 0).await;
    carry(&lab, &pair, Pass::Precopy).await;
    want(&mut pair, &["s1"]);
    carry(&lab, &pair, Pass::Precopy).await;
    let (_, there) = names(&lab, &pair).await;
    assert_eq!(only(&there), ["s1", "proxmove-565-131-2"]);
    // And without them again.
    want(&mut pair, &[]);
    carry(&lab, &pair, FINAL).await;
    want(&mut pair, &["s1"]);
    let engine = lab.engine();
    lab.b(&format!("zfs destroy {}@s1", lab.target(&pair)))
        .await;
    engine
        .begin(std::slice::from_ref(&pair), FINAL)
        .await
        .unwrap();
    let refused = engine.carry(&pair, FINAL, &|_| {}).await.unwrap_err();
    eprintln!("snapshots that are asked for while the guest is down: {refused}");
    assert!(
        refused
            .to_string()
            .contains("go on without --with-snapshots"),
        "{refused}"
    );
    want(&mut pair, &[]);
    engine.carry(&pair, FINAL, &|_| {}).await.unwrap();
    // What is discarded goes with all that came.
    engine.discard(&pair).await.unwrap();
    assert_eq!(engine.observe(&pair).await.unwrap(), VolumeState::Absent);
    let (here, _) = (lab.a(&list(&lab.source(&pair))).await, ());
    assert_eq!(only(&here), ["s1"]);
    lab.remove(&[pair]).await;
}
