//! A guest that does not come up on its target, between pools: it returns, and the next try carries an increment.
//!
//! Of its disks two go from zvol to zvol, where the target is rolled back to the final snapshot, and one from a file to a
//! zvol, where the next pass reads what is there. Read next: `../boot_check.rs`, the same with files.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sites::{Site, Sites, cluster, files};
use super::stage::{Ended, MIB, disk, guest, launch_at, program};
use super::{PATIENCE, three_pools, vmid};
use super::{chained, dataset, figures, guids, lab, moved, on, property, run, summary, tank};

const TARGET: u32 = 300;

/// What a guest writes on the target before somebody finds that it has not come up.
const RATE: u64 = MIB / 8;

const TRY: [&str; 13] = [
    "--json",
    "--yes",
    "--target-vmid",
    "300",
    "--boot-check",
    "8s",
    "--on-failure",
    "return",
    "apple",
    "banana",
    "node2",
    "tank",
    "web1",
];

/// Returns how many records of a ledger are found on disks, whatever else is wrong with them.
fn found(site: &Site, ledger: &[u8], images: &[String]) -> u64 {
    let file = format!("{}/failed-boot.json", site.directory);
    site.machine.put(ledger, &file);
    let line = format!(
        "{} sim-proof --ledger {file} {}",
        site.program(),
        images.join(" ")
    );
    let output = site.machine.try_run(&line);
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    verdict["found"].as_u64().unwrap()
}

/// Returns the bytes that all passes of a move carried.
fn carried(ended: &Ended) -> u64 {
    let passes = ended.told("pass-done");
    passes
        .iter()
        .map(|pass| pass["carried"].as_u64().unwrap())
        .sum()
}

/// Returns the zvols that a target guest has or will have, in the order of the drives.
fn zvols(site: &Site) -> Vec<String> {
    (0..3)
        .map(|number| format!("{}/tank/vm-{TARGET}-disk-{number}", site.dataset))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_come_up_returns_and_the_next_try_is_an_increment() {
    let Some(lab) = lab("a return between zpools") else {
        return;
    };
    let disks = vec![
        on("z8", disk("scsi0", "raw", 32 * MIB)),
        on("thin", disk("virtio1", "raw", 24 * MIB)),
        on("files", disk("virtio2", "raw", 16 * MIB)),
    ];
    let mut spec = guest(565, "web1", disks, MIB / 32);
    spec.config.insert("agent".to_owned(), "1".to_owned());
    let storages = [three_pools(), vec![files("files")]].concat();
    let sites = Sites::start_filled(
        &lab,
        program(),
        cluster("apple", "node1", storages, vec![spec]),
        cluster("banana", "node2", tank(), Vec::new()),
        0.8,
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 40);
    let before = apple.guest(565)["config"].clone();
    let (old, new) = (apple.images(565), zvols(banana));

    // It starts there, writes, and does not come up.
    banana.order(&json!({"order": "hang", "vmid": TARGET, "rate": RATE}));
    let first = run(&sites, &TRY).expect(5);
    let failed = &first.told("move-failed")[0];
    assert!(
        failed["error"]
            .to_string()
            .contains("was returned to its source")
            && failed["error"].to_string().contains("does not answer"),
        "{failed:#}"
    );
    let source = apple.guest(565);
    assert_eq!(
        (&source["config"], &source["running"]),
        (&before, &json!(true))
    );
    let target = banana.guest(TARGET);
    assert_eq!(target["config"]["name"], "web1--CREATING");
    assert_eq!(target["running"], false);
    let written = banana.ledger(TARGET);
    let ledger: Value = serde_json::from_slice(&written).unwrap();
    assert!(ledger["last_sequence"].as_u64().unwrap() > 0, "{ledger}");

    // Nothing is on the zvols that came from zvols since the snapshot that the source has as well.
    let identity = |dataset: &String| property(&banana.machine, "guid", dataset);
    let zvols_before: Vec<String> = new.iter().map(identity).collect();
    for place in 0..2 {
        let (from, to) = (dataset(&old[place]), &new[place]);
        assert_eq!(property(&banana.machine, "written", to), "0", "{to}");
        let (there, here) = (guids(&apple.machine, from), guids(&banana.machine, to));
        assert!(there.contains(here.last().unwrap()), "{there:?} {here:?}");
    }

    // The cause is removed: the same command moves it, from there on.
    banana.order(&json!({"order": "hang", "vmid": TARGET}));
    let second = run(&sites, &TRY).expect(0);
    let (moved_to, records) = moved((apple, 565), banana).await;
    assert_eq!(moved_to, TARGET);
    assert_eq!(vmid(banana, "web1").await, TARGET);
    let images = banana.images(TARGET);
    chained((apple, &old[..2]), (banana, &images[..2]));
    let zvols_after: Vec<String> = new.iter().map(identity).collect();
    assert_eq!(zvols_before, zvols_after, "they are the same zvols");
    assert_eq!(found(banana, &written, &images), 0, "of the failed boot");
    figures("after a return", &second, records);
    let (whole, rest) = (carried(&first), carried(&second));
    eprintln!(
        "{} KiB carried at first, {} KiB after the return; {} records of the failed boot gone",
        whole / 1024,
        rest / 1024,
        ledger["last_sequence"]
    );
    assert_eq!(rest, summary(&second)["carried"].as_u64().unwrap());
    assert!(rest * 2 < whole, "{whole} bytes at first, {rest} again");
    let notices: Vec<String> = second
        .told("notice")
        .iter()
        .map(|notice| notice["text"].to_string())
        .collect();
    assert!(
        !notices.iter().any(|text| text.contains("beginning")),
        "{notices:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_that_was_killed_is_ended_by_an_abort_and_nothing_is_left() {
    let Some(lab) = lab("a killed return between zpools") else {
        return;
    };
    let disks = vec![on("z8", disk("scsi0", "raw", 16 * MIB))];
    let mut spec = guest(565, "web1", disks, MIB / 32);
    spec.config.insert("agent".to_owned(), "1".to_owned());
    let sites = Sites::start(
        &lab,
        program(),
        cluster("apple", "node1", three_pools(), vec![spec]),
        cluster("banana", "node2", tank(), Vec::new()),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 40);
    let before = apple.guest(565)["config"].clone();
    let zvol = dataset(&apple.images(565)[0]).to_owned();
    banana.order(&json!({"order": "hang", "vmid": TARGET, "rate": RATE}));
    run(&sites, &TRY).expect(5);

    // It fails again, and whoever returns it is killed.
    let again = launch_at(&sites.home, &TRY, &[]).patient(PATIENCE);
    let began = Instant::now();
    while !banana.guest(TARGET)["config"]["description"]
        .to_string()
        .contains("returning: yes")
    {
        assert!(began.elapsed() < PATIENCE, "it is not returned");
        std::thread::sleep(Duration::from_millis(100));
    }
    again.kill().expect(-9);
    eprintln!(
        "killed when the source was {} and ran: {}",
        apple.guest(565)["config"]["name"],
        apple.guest(565)["running"]
    );

    run(&sites, &["abort", "--json", "apple", "banana", "web1"]).expect(0);
    let source = apple.guest(565);
    assert_eq!(
        (&source["config"], &source["running"]),
        (&before, &json!(true))
    );
    let (_, _, guests) = banana.ask("GET", "/cluster/resources?type=vm", "").await;
    assert_eq!(guests, json!([]));
    let left = banana.machine.run(&format!(
        "zfs list -H -o name -t volume,snapshot,bookmark -r {}",
        banana.dataset
    ));
    assert_eq!(left, "");
    let left = apple.machine.run(&format!(
        "zfs list -H -o name -t snapshot,bookmark -d1 {zvol}"
    ));
    assert_eq!(left, "", "our snapshots of the source");
}
