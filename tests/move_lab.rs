//! Whole moves by the real program between real pools, and what the clusters that hold them promise.
//!
//! It needs the storage lab: two machines with OpenZFS, which `PROXMOVE_LAB_ENV` says how to reach. Each runs one
//! simulated cluster, whose guests write numbered records into zvols (`sim/site.rs`); the program runs here. Read next:
//! `support/sites.rs`, `move_lab/pools.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/machines.rs"]
mod machines;
#[path = "support/not_run.rs"]
mod not_run;
#[path = "move_lab/pools.rs"]
mod pools;
#[path = "move_lab/relief.rs"]
mod relief;
#[path = "move_lab/returns.rs"]
mod returns;
#[path = "support/sites.rs"]
mod sites;
#[path = "support/stage.rs"]
mod stage;

use std::time::Duration;

use machines::{Lab, Machine};
use proxmove::sim::world::scenario::{DiskSpec, GuestSpec};
use serde_json::{Value, json};
use sites::{Site, Sites, cluster, files, zfspool};
use stage::{Ended, MIB, disk, guest, launch_at, program};

/// What a move may take under emulation, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(1500);

fn lab(what: &str) -> Option<Lab> {
    match Lab::find() {
        Ok(lab) => Some(lab),
        Err(why) => {
            not_run::not_run(format!("the storage lab: {what}"), why);
            None
        }
    }
}

fn on(storage: &str, disk: DiskSpec) -> DiskSpec {
    DiskSpec {
        storage: storage.to_owned(),
        ..disk
    }
}

/// Returns a guest with a disk of 8 KiB blocks, one of 16 KiB blocks, and a sparse one.
fn three_zvols(write_rate: u64) -> GuestSpec {
    let disks = vec![
        on("z8", disk("scsi0", "raw", 64 * MIB)),
        on("z16", disk("scsi1", "raw", 48 * MIB)),
        on("thin", disk("virtio2", "raw", 48 * MIB)),
    ];
    guest(565, "web1", disks, write_rate)
}

/// Returns a guest with a disk whose space is reserved and a sparse one, small enough to be moved four times.
fn two_small_zvols(write_rate: u64) -> GuestSpec {
    let disks = vec![
        on("z8", disk("scsi0", "raw", 24 * MIB)),
        on("thin", disk("virtio2", "raw", 16 * MIB)),
    ];
    guest(565, "web1", disks, write_rate)
}

fn three_pools() -> Vec<proxmove::sim::world::scenario::StorageSpec> {
    vec![
        zfspool("z8", &[("blocksize", "8k")]),
        zfspool("z16", &[("blocksize", "16k")]),
        zfspool("thin", &[("sparse", "1")]),
    ]
}

fn tank() -> Vec<proxmove::sim::world::scenario::StorageSpec> {
    vec![zfspool("tank", &[("sparse", "1")])]
}

fn run(sites: &Sites, arguments: &[&str]) -> Ended {
    launch_at(&sites.home, arguments, &[])
        .patient(PATIENCE)
        .wait()
}

/// Returns the VMID of the guest of that name.
async fn vmid(site: &Site, name: &str) -> u32 {
    let (_, _, guests) = site.ask("GET", "/cluster/resources?type=vm", "").await;
    // What the resources say may be some moments old; the configurations are not.
    let vmids = guests.as_array().unwrap().iter();
    let mut vmids = vmids.map(|guest| u32::try_from(guest["vmid"].as_u64().unwrap()).unwrap());
    vmids
        .find(|vmid| site.guest(*vmid)["config"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {name}"))
}

/// Returns the dataset of a zvol's device.
fn dataset(device: &str) -> &str {
    device.strip_prefix("/dev/zvol/").unwrap()
}

fn property(machine: &Machine, name: &str, dataset: &str) -> String {
    let line = format!("zfs get -Hp -o value {name} {dataset}");
    machine.run(&line).trim().to_owned()
}

/// Returns the guids of a zvol's snapshots, oldest first.
fn guids(machine: &Machine, dataset: &str) -> Vec<String> {
    let line = format!("zfs list -Hp -t snapshot -o guid -s createtxg -d1 {dataset}");
    machine.run(&line).lines().map(str::to_owned).collect()
}

/// Fails the test unless each disk's newest snapshot on the target is one of the source's, with its data, and the source
/// has changed since in nothing.
fn chained(source: (&Site, &[String]), target: (&Site, &[String])) {
    assert_eq!(source.1.len(), target.1.len());
    for (from, to) in source.1.iter().zip(target.1) {
        let (from, to) = (dataset(from), dataset(to));
        let there = guids(&source.0.machine, from);
        let here = guids(&target.0.machine, to);
        let newest = here
            .last()
            .unwrap_or_else(|| panic!("{to} has no snapshot"));
        assert_eq!(
            there.last(),
            Some(newest),
            "{from} and {to} have no common end"
        );
        let known: Vec<&String> = there.iter().filter(|guid| here.contains(guid)).collect();
        assert_eq!(known, here.iter().collect::<Vec<_>>(), "{to} has others");
        assert_eq!(property(&source.0.machine, "written", from), "0", "{from}");
        for name in ["volsize", "volblocksize"] {
            assert_eq!(
                property(&source.0.machine, name, from),
                property(&target.0.machine, name, to),
                "{name} of {to}"
            );
        }
    }
}

fn summary(ended: &Ended) -> Value {
    let summary = ended.events().pop().unwrap();
    assert_eq!(summary["event"], "move-done", "{summary}");
    summary
}

fn figures(what: &str, ended: &Ended, records: u64) {
    let summary = summary(ended);
    eprintln!(
        "{what}: {records} records, {:.1} s, downtime {} s, {} rounds, {} KiB carried, {} KiB of them at the end",
        ended.duration.as_secs_f64(),
        summary["downtime_seconds"],
        summary["rounds"],
        summary["carried"].as_u64().unwrap_or(0) / 1024,
        summary["final_carried"].as_u64().unwrap_or(0) / 1024,
    );
}

/// Fails the test unless the guest was moved: retired and stopped there, running here. Proves its records, on both.
/// Returns the target's VMID and the number of records.
async fn moved(source: (&Site, u32), target: &Site) -> (u32, u64) {
    let (source, old) = source;
    let retired = source.guest(old);
    assert_eq!(retired["config"]["name"], "web1--MIGRATED");
    assert_eq!(retired["config"]["onboot"], "0");
    assert_eq!(retired["running"], false);
    let new = vmid(target, "web1").await;
    let running = target.guest(new);
    assert_eq!(running["running"], true, "{running}");
    assert!(running["config"]["lock"].is_null(), "{running}");
    let ledger = source.ledger(old);
    let records = target.prove(&ledger, &target.images(new));
    assert_eq!(source.prove(&ledger, &source.images(old)), records);
    (new, records)
}

/// Has a guest go on writing where it was moved to, and keeps its former self from doing so when it is back.
fn write_on(from: (&Site, u32), to: (&Site, u32)) {
    let (former, old) = from;
    former.order(&json!({"order": "write", "vmid": old, "rate": 0}));
    let (site, vmid) = to;
    let ledger = format!("{}/from-the-other.json", site.directory);
    site.machine.put(&former.ledger(old), &ledger);
    site.order(&json!({"order": "write", "vmid": vmid, "rate": MIB / 16, "ledger": ledger}));
    site.await_records(vmid, 60);
}

/// Moves a guest that writes there and back again to another one, by two ordinary moves, and proves each way.
async fn there_and_back() {
    let Some(lab) = lab("a move between zpools, there and back") else {
        return;
    };
    let sites = Sites::start(
        &lab,
        program(),
        cluster("apple", "node1", three_pools(), vec![three_zvols(MIB / 2)]),
        cluster("banana", "node2", tank(), Vec::new()),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 200);
    let there = run(
        &sites,
        &[
            "--json", "--yes", "apple", "banana", "node2", "tank", "web1",
        ],
    )
    .expect(0);
    let (new, records) = moved((apple, 565), banana).await;
    chained((apple, &apple.images(565)), (banana, &banana.images(new)));
    figures("there", &there, records);

    // It goes on writing where it is now, and is moved back. Its drives find their old storages.
    let ledger = format!("{}/from-apple.json", banana.directory);
    banana.machine.put(&apple.ledger(565), &ledger);
    banana.order(&json!({"order": "write", "vmid": new, "rate": MIB / 8, "ledger": ledger}));
    banana.await_records(new, 100);
    let back = run(
        &sites,
        &[
            "--json",
            "--yes",
            "--map-storage",
            "scsi0=z8,virtio2=thin",
            "banana",
            "apple",
            "node1",
            "z16",
            "web1",
        ],
    )
    .expect(0);
    let (again, records) = moved((banana, new), apple).await;
    chained((banana, &banana.images(new)), (apple, &apple.images(again)));
    figures("back", &back, records);
    assert_ne!(again, 565);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_guest_with_three_zvols_is_moved_and_comes_back() {
    there_and_back().await;
}

/// Returns what `cleanup -n` would remove.
fn removable(sites: &Sites) -> Vec<String> {
    let listed = run(sites, &["cleanup", "-n", "--json"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let items = listed["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["action"] == "remove")
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the number of snapshots and bookmarks of disks.
fn kept(site: &Site, images: &[String]) -> usize {
    let count = |image: &String| {
        let line = format!(
            "zfs list -H -t snapshot,bookmark -o name -d1 {}",
            dataset(image)
        );
        site.machine.run(&line).lines().count()
    };
    images.iter().map(count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_carries_what_has_changed() {
    let Some(lab) = lab("a way back between zpools") else {
        return;
    };
    let sites = Sites::start(
        &lab,
        program(),
        cluster(
            "apple",
            "node1",
            three_pools(),
            vec![two_small_zvols(MIB / 8)],
        ),
        cluster("banana", "node2", tank(), Vec::new()),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 200);
    let there = [
        "--json", "--yes", "apple", "banana", "node2", "tank", "web1",
    ];
    let there = run(&sites, &there).expect(0);
    let (new, records) = moved((apple, 565), banana).await;
    figures("there", &there, records);
    let (old, here) = (apple.images(565), banana.images(new));
    let devices = |site: &Site, images: &[String]| -> Vec<String> {
        let guid = |image: &String| property(&site.machine, "guid", dataset(image));
        images.iter().map(guid).collect()
    };
    let before = devices(apple, &old);

    // Back: into the very zvols it came from.
    write_on((apple, 565), (banana, new));
    run(&sites, &["back", "-n", "banana", "web1"]).expect(0);
    let back = run(&sites, &["back", "--json", "--yes", "banana", "web1"]).expect(0);
    let (again, records) = moved((banana, new), apple).await;
    assert_eq!(again, 565);
    assert_eq!(
        (apple.images(565), devices(apple, &old)),
        (old.clone(), before)
    );
    chained((banana, &here), (apple, &old));
    figures("back", &back, records);

    // And there again.
    write_on((banana, new), (apple, 565));
    let forth = run(&sites, &["back", "--json", "--yes", "apple", "web1"]).expect(0);
    let (again, records) = moved((apple, 565), banana).await;
    assert_eq!((again, banana.images(new)), (new, here.clone()));
    chained((apple, &old), (banana, &here));
    figures("there again", &forth, records);
    let carried = |ended: &Ended| summary(ended)["carried"].as_u64().unwrap();
    let [first, second, third] = [&there, &back, &forth].map(carried);
    eprintln!("{first} bytes there, {second} back, {third} there again");
    // How much the guest writes meanwhile depends on how busy the machine is.
    assert!(second * 2 < first, "{first} bytes there, {second} back");
    assert!(
        third * 2 < first,
        "{first} bytes there, {third} there again"
    );

    // Of each disk one snapshot is left on both sides.
    assert_eq!((kept(apple, &old), kept(banana, &here)), (2, 2));
    let left = removable(&sites);
    assert_eq!(left.len(), 4, "{left:#?}");
    assert!(
        left.iter().all(|name| name.contains("proxmove-565-")),
        "{left:#?}"
    );

    // Somebody writes to the former self: refused, with the evidence.
    apple.machine.run(&format!(
        "dd if=/dev/urandom of={} bs=64k count=1 seek=9 conv=fsync",
        old[1]
    ));
    let no = run(&sites, &["back", "--yes", "banana", "web1"]).expect(4);
    let said = format!("{}{}", no.stdout, no.stderr);
    assert!(
        said.contains("former-diverged") && said.contains("was written to"),
        "{said}"
    );
    eprintln!("{said}");

    // Cleaned up, there is nothing in common any more.
    apple
        .machine
        .run(&format!("zfs snapshot {}@mine", dataset(&old[0])));
    let cleaned = run(&sites, &["cleanup", "--yes"]).expect(0);
    assert!(cleaned.stdout.contains("Removed 4."), "{}", cleaned.stdout);
    assert_eq!(removable(&sites), [] as [&str; 0]);
    assert_eq!((kept(apple, &old), kept(banana, &here)), (1, 0));
    let no = run(&sites, &["back", "--yes", "banana", "web1"]).expect(4);
    let said = format!("{}{}", no.stdout, no.stderr);
    assert!(said.contains("no snapshot in common"), "{said}");

    write_on((apple, 565), (banana, new));
    // An ordinary move goes beside it, and leaves nothing for a way back when none is wanted.
    let forgotten = [
        "--forget", "--json", "--yes", "banana", "apple", "node1", "thin", "web1",
    ];
    run(&sites, &forgotten).expect(0);
    let (other, records) = moved_to_another((banana, new), apple, 565).await;
    assert_eq!(kept(banana, &here) + kept(apple, &apple.images(other)), 0);
    eprintln!("{records} records");
}

/// Like [`moved`], for a cluster that has a retired guest of that name, too.
async fn moved_to_another(source: (&Site, u32), target: &Site, former: u32) -> (u32, u64) {
    assert_eq!(target.guest(former)["config"]["name"], "web1--MIGRATED");
    let (new, records) = moved(source, target).await;
    assert_ne!(new, former);
    (new, records)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_guest_is_moved_from_files_to_zvols_and_back() {
    let Some(lab) = lab("a move between files and zvols, there and back") else {
        return;
    };
    let disks = vec![
        on("files", disk("scsi0", "raw", 64 * MIB)),
        on("files", disk("virtio1", "raw", 32 * MIB)),
    ];
    let sites = Sites::start(
        &lab,
        program(),
        cluster(
            "apple",
            "node1",
            vec![files("files")],
            vec![guest(565, "web1", disks, MIB / 2)],
        ),
        cluster("banana", "node2", tank(), Vec::new()),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 200);
    let there = run(
        &sites,
        &[
            "--json", "--yes", "apple", "banana", "node2", "tank", "web1",
        ],
    )
    .expect(0);
    let (new, records) = moved((apple, 565), banana).await;
    figures("files to zvols", &there, records);

    let ledger = format!("{}/from-apple.json", banana.directory);
    banana.machine.put(&apple.ledger(565), &ledger);
    banana.order(&json!({"order": "write", "vmid": new, "rate": MIB / 8, "ledger": ledger}));
    banana.await_records(new, 100);
    let back = run(
        &sites,
        &[
            "--json", "--yes", "banana", "apple", "node1", "files", "web1",
        ],
    )
    .expect(0);
    let (_, records) = moved((banana, new), apple).await;
    figures("zvols to files", &back, records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_guest_is_moved_between_files_of_the_lab() {
    let Some(lab) = lab("a move between files of the lab's machines") else {
        return;
    };
    let disks = vec![on("files", disk("scsi0", "qcow2", 32 * MIB))];
    let sites = Sites::start(
        &lab,
        program(),
        cluster(
            "apple",
            "node1",
            vec![files("files")],
            vec![guest(565, "web1", disks, MIB / 2)],
        ),
        cluster("banana", "node2", vec![files("files")], Vec::new()),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 200);
    // A dry run writes nothing.
    let place = ["apple", "banana", "node2", "files", "web1"];
    run(&sites, &[&["-n"], &place[..]].concat()).expect(0);
    for site in [apple, banana] {
        let asked = site.order(&json!({"order": "requests"}));
        assert_eq!(asked["requests"], json!([]));
    }
    let there = run(&sites, &[&["--json", "--yes"], &place[..]].concat()).expect(0);
    let (_, records) = moved((apple, 565), banana).await;
    figures("files to files", &there, records);
}
