//! Colleagues who change a guest while it is being moved: what they did is on the target, or they are told why not.
//!
//! The real program against the simulation, and a second client that changes the guest meanwhile. Read next:
//! `meanwhile.rs`, for what else happens beside a move.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxmove::cluster::{Api, ConfigChange};
use proxmove::pve::guest::{GuestKind, GuestRef};
use proxmove::sim::guest::{Format, Image};
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::GuestSpec;
use stage::{
    Ended, MIB, Running, clusters, config, disk, guest, launch, moved, names, nothing_left,
    processes, proved, run, runs,
};

fn writing(number: u32, size: u64) -> GuestSpec {
    let disks = vec![disk("scsi0", "raw", size)];
    let mut spec = guest(600 + number, &format!("vm{number}"), disks, 16 * 1024);
    let second = spec.config["net0"].replace("BC:24", "BC:25");
    spec.config.insert("net1".to_owned(), second);
    spec
}

fn place(vmid: u32) -> GuestRef {
    GuestRef {
        node: "node1".parse().unwrap(),
        kind: GuestKind::Qemu,
        vmid: vmid.to_string().parse().unwrap(),
    }
}

/// A colleague's change of a guest on apple.
async fn change(stage: &Stage, vmid: u32, set: &[(&str, &str)], delete: &[&str]) {
    let colleague = cluster::api_of(&stage.simulation, "root@pam", stage::SECRET);
    let change = ConfigChange {
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        delete: delete.iter().map(|key| (*key).to_owned()).collect(),
        digest: None,
    };
    colleague.configure(&place(vmid), &change).await.unwrap();
}

/// A colleague makes a drive larger; the guest itself does not use what is new.
fn grow(stage: &Stage, vmid: u32, key: &str, size: u64) {
    let mut world = stage.simulation.world();
    let apple = &mut world.clusters[0];
    let value = apple.guests[&vmid].config[key].clone();
    let (volid, options) = value.split_once(',').unwrap();
    let name = apple.parse_volume(volid).unwrap();
    let volume = apple.look_at_volume(name, "node1").unwrap().unwrap();
    apple.resize(&volume, size).unwrap();
    let options = options
        .split(',')
        .filter(|option| !option.starts_with("size="));
    let options: Vec<&str> = options.collect();
    let value = format!("{volid},{},size={}M", options.join(","), size / MIB);
    let guest = apple.guests.get_mut(&vmid).unwrap();
    guest.config.insert(key.to_owned(), value);
}

/// Begins to move guests, so slowly that there is time to change them.
fn slowly(stage: &Stage, guests: &[&str]) -> Running {
    let running = launch(stage, &stage::to_banana(&["--bwlimit", "60"], guests), &[]);
    copying(stage);
    running
}

/// Waits until something is copied.
fn copying(stage: &Stage) {
    while !processes(stage)
        .iter()
        .any(|(_, line)| line.contains("porter send"))
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn warnings(ended: &Ended) -> Vec<String> {
    let told = ended.told("warning");
    let texts = told.iter().map(|told| told["text"].as_str().unwrap());
    texts
        .filter(|text| text.contains("has changed"))
        .map(str::to_owned)
        .collect()
}

/// Returns the keys of a target that its retired source has otherwise, but for those that a move must change.
fn differing(stage: &Stage, source: u32, target: u32) -> BTreeMap<String, String> {
    let (source, target) = (
        config(stage, "apple", source),
        config(stage, "banana", target),
    );
    const OTHERS: [&str; 5] = ["name", "onboot", "description", "meta", "vmgenid"];
    let keys = source.keys().chain(target.keys());
    let keys = keys.filter(|key| !OTHERS.contains(&key.as_str()) && !key.starts_with("scsi"));
    keys.filter(|key| source.get(*key) != target.get(*key))
        .map(|key| {
            (
                key.clone(),
                format!("{:?} {:?}", source.get(key), target.get(key)),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_changed_while_a_guest_is_copied_is_on_the_target() {
    let stage = stage::start(clusters(vec![writing(0, 64 * MIB)]), |settings| {
        settings.filled = 0.9;
    })
    .await;
    let running = slowly(&stage, &["vm0"]);
    // What a guest that runs takes on or gives up at once.
    let set = [
        ("scsi1", "local-ssd:1"),
        ("tags", "changed;prod;web"),
        ("description", "the notes of vm0, written anew"),
    ];
    change(&stage, 600, &set, &["net1"]).await;
    grow(&stage, 600, "scsi0", 96 * MIB);
    let ended = running.wait().expect(0);
    assert_eq!(
        warnings(&ended),
        [
            "vm0 has changed since its move was planned: net1 is gone, scsi0 is another, scsi1 is new, tags is another; it is \
             planned anew"
        ]
    );
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    let now = config(&stage, "banana", target);
    assert_eq!(differing(&stage, 600, target), BTreeMap::new());
    assert_eq!(now["description"], "the notes of vm0, written anew");
    assert!(now["scsi0"].contains("size=96M"), "{}", now["scsi0"]);
    assert!(now["scsi1"].contains("size=1G"), "{}", now["scsi1"]);
    let summary = ended.told("move-done");
    assert_eq!(summary[0]["verified"].as_array().unwrap().len(), 2);
    // The guest wrote to the drive it began with.
    let volid = now["scsi0"].split(',').next().unwrap();
    let world = stage.simulation.world();
    let name = world.clusters[1].parse_volume(volid).unwrap();
    let image = Image {
        drive: "scsi0".to_owned(),
        path: world.clusters[1].volume_path(&name, "node2").unwrap(),
        format: Format::Raw,
        size: 96 * MIB,
    };
    drop(world);
    let verdict = stage.ledger("apple", 600).unwrap().check(&[image]).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_waits_for_its_turn_is_moved_as_it_is_then() {
    let guests = vec![
        writing(0, 48 * MIB),
        writing(1, 16 * MIB),
        writing(2, 16 * MIB),
    ];
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.9).await;
    let running = slowly(&stage, &["vm0", "vm1", "vm2"]);
    // One is changed and stopped, one is deleted.
    let colleague = cluster::api_of(&stage.simulation, "root@pam", stage::SECRET);
    let patience = Duration::from_secs(30);
    colleague.shutdown(&place(601), patience).await.unwrap();
    change(&stage, 601, &[("memory", "4096"), ("cores", "4")], &[]).await;
    colleague.shutdown(&place(602), patience).await.unwrap();
    colleague.delete(&place(602)).await.unwrap();
    let ended = running.wait().expect(6);
    assert_eq!(
        warnings(&ended),
        [
            "vm1 has changed since its move was planned: it was stopped, cores is another, memory is another; it is \
          planned anew"
        ]
    );
    moved(&stage, ("apple", 600), "banana", "vm0");
    let target = stage.vmid("banana", "vm1").unwrap();
    assert!(!runs(&stage, "banana", target) && !runs(&stage, "apple", 601));
    assert_eq!(config(&stage, "apple", 601)["name"], "vm1--MIGRATED");
    let now = config(&stage, "banana", target);
    assert_eq!(
        (now["memory"].as_str(), now["cores"].as_str()),
        ("4096", "4")
    );
    let failed = &ended.told("move-failed")[0];
    assert_eq!(failed["guest"], "vm2");
    let error = failed["error"].to_string();
    assert!(error.contains("the source guest is gone"), "{error}");
    assert!(
        !names(&stage, "banana")
            .iter()
            .any(|name| name.starts_with("vm2"))
    );
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_changes_all_the_time_is_not_stopped() {
    let stage = stage::start(clusters(vec![writing(0, 16 * MIB)]), |_| {}).await;
    let before = config(&stage, "apple", 600);
    let (world, mut memory) = (stage.simulation.shared_world(), 2048);
    let grows = std::sync::Mutex::new(move || {
        memory += 16;
        let mut world = world.lock().unwrap();
        let guest = world.clusters[0].guests.get_mut(&600).unwrap();
        guest.config.insert("memory".to_owned(), memory.to_string());
    });
    stage.simulation.faults().add(Fault {
        cluster: Some("apple".to_owned()),
        nth: None,
        ..Fault::first(
            "GET",
            "/nodes/node1/qemu/600/snapshot",
            FaultKind::Before(Arc::new(move || (grows.lock().unwrap())())),
        )
    });
    let words = stage::to_banana(&[], &["vm0"]);
    let ended = run(&stage, &words).expect(5);
    let failed = &ended.told("move-failed")[0];
    let state = failed["state"].as_str().unwrap();
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before"),
        "{state}"
    );
    assert!(warnings(&ended).len() >= 3, "{:?}", warnings(&ended));
    assert!(runs(&stage, "apple", 600));
    let mut now = config(&stage, "apple", 600);
    now.insert("memory".to_owned(), before["memory"].clone());
    assert_eq!(now, before);
    // Left in peace, it moves.
    stage.simulation.faults().clear();
    run(&stage, &words).expect(0);
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    proved(&stage, ("apple", 600), ("banana", target));
    assert_eq!(differing(&stage, 600, target), BTreeMap::new());
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_forbids_a_move_also_forbids_going_on_with_it() {
    let stage = stage::start(clusters(vec![writing(0, 48 * MIB)]), |settings| {
        settings.filled = 0.9;
    })
    .await;
    let running = slowly(&stage, &["vm0"]);
    // This waits for the guest's next start.
    change(&stage, 600, &[("cores", "4")], &[]).await;
    let ended = running.wait().expect(5);
    let failed = &ended.told("move-failed")[0];
    let error = failed["error"].to_string();
    assert!(error.contains("[pending-changes]"), "{error}");
    assert!(error.contains("qm set 600 --revert cores"), "{error}");
    assert!(!error.contains("nothing was changed"), "{error}");
    let state = failed["state"].as_str().unwrap();
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before; vm0--CREATING"),
        "{state}"
    );
    let next = failed["next"].as_str().unwrap();
    assert!(
        next.starts_with("mend that, then run the same command again"),
        "{next}"
    );
    let colleague = cluster::api_of(&stage.simulation, "root@pam", stage::SECRET);
    colleague
        .shutdown(&place(600), Duration::from_secs(30))
        .await
        .unwrap();
    colleague.start(&place(600)).await.unwrap();
    run(&stage, &["resume", "--yes", "apple", "banana", "vm0"]).expect(0);
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    assert_eq!(config(&stage, "banana", target)["cores"], "4");
    assert_eq!(differing(&stage, 600, target), BTreeMap::new());
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drive_that_was_copied_and_is_gone_is_refused_with_what_to_do_about_its_copy() {
    let mut spec = writing(0, 16 * MIB);
    spec.disks.push(disk("scsi1", "raw", 4 * MIB));
    let stage = stage::start(clusters(vec![spec]), |_| {}).await;
    let slow = ["--max-downtime", "1ms"];
    run(&stage, &stage::to_banana(&slow, &["vm0"])).expect(5);
    change(&stage, 600, &[], &["scsi1"]).await;
    let before = config(&stage, "apple", 600);
    assert!(!before.contains_key("scsi1"));
    let ended = run(&stage, &stage::to_banana(&[], &["vm0"])).expect(4);
    let error = ended.told("move-failed")[0]["error"].to_string();
    assert!(error.contains("[drive-gone]"), "{error}");
    assert!(error.contains("proxmove abort apple banana vm0"), "{error}");
    // Nobody knows any more on which host its copy is, but the cluster has it.
    let abort = ["abort", "--json", "apple", "banana", "vm0"];
    let ended = run(&stage, &abort).expect(5);
    let next = ended.told("move-failed")[0]["next"].to_string();
    let copy = "local-ssd:100/vm-100-disk-1.raw";
    assert!(
        next.contains(&format!("on node2: pvesm free {copy}")),
        "{next}"
    );
    let mut world = stage.simulation.world();
    let banana = &mut world.clusters[1];
    let name = banana.parse_volume(copy).unwrap();
    banana.free(&name, "node2").unwrap();
    drop(world);
    run(&stage, &abort).expect(0);
    assert!(runs(&stage, "apple", 600));
    assert_eq!(config(&stage, "apple", 600), before);
    assert_eq!(stage.vmid("banana", "vm0--CREATING"), None);
}
