//! The image engine with real zvols: two guests with OpenZFS, reached over real SSH. Needs the storage lab.

use std::io::Write as _;

use proxmove::transfer::{Engine as _, Pass, TransferError, Verify, VolumeState};
use proxmove::units::{Bandwidth, Bytes};

#[path = "zvol_lab/guests.rs"]
mod guests;
#[path = "support/not_run.rs"]
mod not_run;

use guests::{Kind, Lab, MIB, ROOT};

const FINAL: Pass = Pass::Final(Verify::Full);
const SEAL: &str = "proxmove-565-126-scsi0-seal";

fn note(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("prints");
}

async fn snapshots(lab: &Lab) -> String {
    let list = format!("zfs list -H -r -t snapshot -o name {ROOT}");
    lab.source.run(&list).await + &lab.target.run(&list).await
}

/// Moves a volume as a move does, with all that can happen to it in between.
async fn pairing(test: &str, from: Kind, to: Kind) {
    let Some(lab) = Lab::new(test, from, to).await else {
        return;
    };
    assert_eq!(lab.state().await, VolumeState::Absent);
    let first = lab.done(Pass::Precopy).await;
    assert!(matches!(lab.state().await, VolumeState::Partial { .. }));
    assert_eq!(snapshots(&lab).await, "", "a pre-copy leaves none");

    lab.write(5 * MIB, MIB).await;
    let warm = lab.done(Pass::Precopy).await;
    lab.write(30 * MIB, MIB).await;
    let last = lab.done(FINAL).await;
    lab.same().await;
    let used = lab.used().await;
    let carried = [&first, &warm, &last].map(|report| report.progress.carried.0);
    let wire = [&first, &warm, &last].map(|report| report.progress.wire.0);
    let seconds = [&first, &warm, &last].map(|report| report.duration.as_millis());
    note(&format!(
        "{from:?} to {to:?}: carried {carried:?}, wire {wire:?}, ms {seconds:?}, the target takes {used}"
    ));
    assert!(carried[0] >= 20 * MIB && carried[0] <= 21 * MIB);
    assert!(carried[1] <= MIB && carried[2] <= MIB);
    assert_eq!(last.repaired, Bytes::ZERO);
    assert!(used < 24 * MIB, "sparse: {used}");
    let digest = last.digest.expect("a digest");
    assert_eq!(lab.state().await, VolumeState::Synced { digest });

    // Facts, not flags: whoever writes to either side is noticed.
    lab.spoil(9 * MIB, 512).await;
    assert_eq!(lab.state().await, VolumeState::TargetNewer);
    lab.write(7 * MIB + 512, 512).await;
    assert_eq!(lab.state().await, VolumeState::SourceNewer);
    if to != Kind::Qcow2 {
        assert_eq!(lab.done(FINAL).await.repaired, Bytes(65536));
        lab.same().await;
        assert!(matches!(lab.state().await, VolumeState::Synced { .. }));
    }
    lab.engine.tidy(&lab.pair).await.expect("tidies");
    lab.engine.tidy(&lab.pair).await.expect("tidies again");
    assert_eq!(snapshots(&lab).await, "");
    assert_eq!(lab.state().await, VolumeState::Foreign);
    for ended in [
        lab.engine.discard(&lab.pair).await,
        lab.pass(Pass::Precopy).await.map(drop),
    ] {
        assert!(
            matches!(ended, Err(TransferError::Foreign { .. })),
            "{ended:?}"
        );
    }
    assert_eq!(snapshots(&lab).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_to_zvol() {
    pairing("raw_to_zvol", Kind::Raw, Kind::Zvol).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qcow2_to_zvol() {
    pairing("qcow2_to_zvol", Kind::Qcow2, Kind::Zvol).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zvol_to_raw() {
    pairing("zvol_to_raw", Kind::Zvol, Kind::Raw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zvol_to_qcow2() {
    pairing("zvol_to_qcow2", Kind::Zvol, Kind::Qcow2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zvol_of_ours_can_be_discarded_and_no_other_one() {
    const TEST: &str = "a_zvol_of_ours_can_be_discarded_and_no_other_one";
    let Some(mut lab) = Lab::new(TEST, Kind::Raw, Kind::Zvol).await else {
        return;
    };
    let dataset = format!("{ROOT}/vm-126-disk-0");
    lab.done(Pass::Precopy).await;
    lab.done(FINAL).await;
    for _ in 0..2 {
        lab.engine.discard(&lab.pair).await.expect("discards");
        assert_eq!(lab.state().await, VolumeState::Absent);
    }
    assert_eq!(snapshots(&lab).await, "");
    // Somebody else's of the same name, under a parent that bears a mark, which it inherits.
    lab.target
        .run(&format!(
            "zfs set proxmove:move={} {ROOT}; zfs create -s -V 64M {dataset}; udevadm settle",
            lab.pair.name
        ))
        .await;
    lab.spoil(0, MIB).await;
    let guid = lab.target.get("guid", &dataset).await;
    let hash = format!("sha256sum < {}", lab.pair.target.path);
    let before = lab.target.run(&hash).await;
    assert_eq!(lab.state().await, VolumeState::Foreign);
    for ended in [
        lab.pass(Pass::Precopy).await.map(drop),
        lab.pass(FINAL).await.map(drop),
        lab.engine.discard(&lab.pair).await,
    ] {
        assert!(
            matches!(ended, Err(TransferError::Foreign { .. })),
            "{ended:?}"
        );
    }
    lab.engine.tidy(&lab.pair).await.expect("tidies");
    assert_eq!(lab.target.run(&hash).await, before);
    assert_eq!(lab.target.get("guid", &dataset).await, guid);
    // The mark of the move vouches for it: then it is taken, and nothing is believed of it.
    lab.pair.adopt = true;
    lab.done(FINAL).await;
    lab.same().await;
    // Nor is a snapshot removed that is not ours.
    lab.target
        .run(&format!(
            "zfs destroy {dataset}@{SEAL}; zfs snapshot {dataset}@{SEAL}"
        ))
        .await;
    let refused = lab.pass(FINAL).await.expect_err("is not ours");
    assert!(
        matches!(refused, TransferError::Foreign { .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_during_the_final_pass_is_noticed() {
    const TEST: &str = "a_write_during_the_final_pass_is_noticed";
    let Some(mut lab) = Lab::new(TEST, Kind::Zvol, Kind::Raw).await else {
        return;
    };
    lab.pair.limit = Some(Bandwidth::bytes_per_second(4 * MIB));
    let began = tokio::sync::Notify::new();
    let tell = |_| began.notify_one();
    let write = async {
        began.notified().await;
        lab.write(60 * MIB, 4096).await;
    };
    let (ended, ()) = tokio::join!(lab.engine.carry(&lab.pair, FINAL, &tell), write);
    let error = ended.expect_err("is noticed").to_string();
    note(&error);
    assert!(error.contains("is the guest really stopped"), "{error}");
    assert_eq!(lab.state().await, VolumeState::SourceNewer);
    lab.pair.limit = None;
    lab.done(FINAL).await;
    lab.same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_and_what_became_zero_gives_its_space_back() {
    const TEST: &str = "a_volume_grows_and_what_became_zero_gives_its_space_back";
    let Some(mut lab) = Lab::new(TEST, Kind::Raw, Kind::Zvol).await else {
        return;
    };
    // Without compression, zeros that are written take space.
    lab.target
        .run(&format!("zfs set compression=off {ROOT}"))
        .await;
    lab.done(Pass::Precopy).await;
    let source = lab.pair.source.path.clone();
    lab.source
        .run(&format!(
            "truncate -s 67637760 {source}; fallocate -p -o 4096 -l 10M {source}"
        ))
        .await;
    lab.pair.size = Bytes(67_637_760);
    lab.done(FINAL).await;
    let dataset = format!("{ROOT}/vm-126-disk-0");
    assert_eq!(lab.target.number("volsize", &dataset).await, 65 * MIB);
    let hash = format!("head -c 67637760 {} | sha256sum", lab.pair.target.path);
    let original = format!("sha256sum < {source}");
    assert_eq!(lab.target.run(&hash).await, lab.source.run(&original).await);
    let used = lab.used().await;
    note(&format!("20 MiB, of which 10 became zero, take {used}"));
    assert!(used < 12 * MIB, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_volume_is_sealed_where_there_is_no_room_for_a_snapshot() {
    const TEST: &str = "a_reserved_volume_is_sealed_where_there_is_no_room_for_a_snapshot";
    let Some(mut lab) = Lab::new(TEST, Kind::Raw, Kind::Zvol).await else {
        return;
    };
    let dataset = format!("{ROOT}/vm-126-disk-0");
    lab.target.run(&format!("zfs set quota=80M {ROOT}")).await;
    if let Some(zvol) = &mut lab.pair.target.zvol {
        zvol.sparse = false;
    }
    lab.done(FINAL).await;
    assert!(matches!(lab.state().await, VolumeState::Synced { .. }));
    assert_eq!(lab.target.number("refreservation", &dataset).await, 0);
    lab.engine.tidy(&lab.pair).await.expect("tidies");
    let reserved = lab.target.number("refreservation", &dataset).await;
    assert!(reserved >= 64 * MIB, "{reserved}");
    lab.same().await;
}
