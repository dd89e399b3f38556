//! A guest that is moved with its snapshots between real pools, by the real program, and rolled back where it is then.
//!
//! It needs the storage lab, as `move_lab.rs` does, and is a program of its own since it says what is at /etc/pve on the
//! lab's machines. Read next: `support/sites.rs`, `src/sim/world/pmxcfs.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/machines.rs"]
mod machines;
#[path = "support/not_run.rs"]
mod not_run;
#[path = "support/sites.rs"]
mod sites;
#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use machines::{Lab, Machine};
use proxmove::sim::world::scenario::DiskSpec;
use serde_json::{Value, json};
use sites::{Site, Sites, cluster, zfspool};
use stage::{MIB, disk, guest, launch_at, program};

/// What a move may take under emulation.
const PATIENCE: Duration = Duration::from_secs(1500);

fn on(storage: &str, disk: DiskSpec) -> DiskSpec {
    DiskSpec {
        storage: storage.to_owned(),
        ..disk
    }
}

/// Lets a site's configuration files be at /etc/pve on its machine, as they are on a node.
fn mount(site: &Site, alias: &str) {
    let files = format!("{}/{alias}/pmxcfs", site.directory);
    site.machine
        .run(&format!("rm -f /etc/pve && ln -s {files} /etc/pve"));
}

/// Takes a snapshot by the API, as an operator does.
async fn take(site: &Site, name: &str) {
    let path = "/nodes/node1/qemu/565/snapshot";
    let body = format!("snapname={name}&description=before {name}: 100%25");
    assert_eq!(site.ask_task("POST", path, &body).await, "OK");
}

/// Returns the hash of what each disk had in a snapshot.
fn hashes(machine: &Machine, images: &[String], snapshot: &str) -> Vec<String> {
    let hash = |image: &String| {
        let dataset = image.strip_prefix("/dev/zvol/").unwrap();
        let clone = format!("{dataset}-look");
        machine.run(&format!(
            "zfs clone {dataset}@{snapshot} {clone} && udevadm settle && sha256sum < /dev/zvol/{clone} && udevadm settle &&
             for try in 1 2 3 4 5; do zfs destroy {clone} && exit 0; sleep 1; done; exit 1"
        ))
    };
    images.iter().map(hash).collect()
}

/// Returns the hash of what each disk has now.
fn present(machine: &Machine, images: &[String]) -> Vec<String> {
    let hash = |image: &String| machine.run(&format!("udevadm settle; sha256sum < {image}"));
    images.iter().map(hash).collect()
}

/// Returns the names of a disk's snapshots, oldest first.
fn taken(machine: &Machine, image: &str) -> Vec<String> {
    let dataset = image.strip_prefix("/dev/zvol/").unwrap();
    let listed = machine.run(&format!(
        "zfs list -H -t snapshot -o name -s createtxg -d 1 {dataset} 2>/dev/null; true"
    ));
    let names = listed.lines().filter_map(|line| line.split_once('@'));
    names.map(|(_, name)| name.to_owned()).collect()
}

/// Returns the snapshots that a cluster shows of a guest, without the entry `current`, and that entry's parent.
async fn listed(site: &Site, path: &str) -> (BTreeMap<String, Value>, Value) {
    let (status, _, list) = site.ask("GET", &format!("{path}/snapshot"), "").await;
    assert_eq!(status, 200);
    let mut parent = Value::Null;
    let mut all = BTreeMap::new();
    for entry in list.as_array().unwrap() {
        match entry["name"].as_str().unwrap() {
            "current" => parent = entry["parent"].clone(),
            name => {
                all.insert(name.to_owned(), entry.clone());
            }
        }
    }
    (all, parent)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(400), "never: {what}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

const MOVE: [&str; 6] = [
    "--with-snapshots",
    "apple",
    "banana",
    "node2",
    "tank",
    "web1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_moved_with_its_snapshots_and_rolled_back_on_the_target() {
    let lab = match Lab::find() {
        Ok(lab) => lab,
        Err(why) => {
            return not_run::not_run("the storage lab: a move with snapshots", why);
        }
    };
    let disks = vec![
        on("z8", disk("scsi0", "raw", 24 * MIB)),
        on("thin", disk("virtio1", "raw", 16 * MIB)),
    ];
    let sites = Sites::start(
        &lab,
        program(),
        cluster(
            "apple",
            "node1",
            vec![
                zfspool("z8", &[("blocksize", "8k")]),
                zfspool("thin", &[("sparse", "1")]),
            ],
            vec![guest(565, "web1", disks, MIB / 16)],
        ),
        cluster(
            "banana",
            "node2",
            vec![zfspool("tank", &[("sparse", "1")])],
            Vec::new(),
        ),
    );
    let (apple, banana) = (&sites.source, &sites.target);
    let launch = |options: &[&str]| {
        let arguments = [options, &["--yes"], &MOVE[..]].concat();
        launch_at(&sites.home, &arguments, &[]).patient(PATIENCE)
    };

    // Three snapshots with different data each, while it runs, and one of somebody else.
    let images = apple.images(565);
    let mut recorded = BTreeMap::new();
    for (place, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        apple.await_records(565, 40 * (1 + place as u64));
        take(apple, name).await;
        recorded.insert(name, hashes(&apple.machine, &images, name));
        if name == "s2" {
            for image in &images {
                let dataset = image.strip_prefix("/dev/zvol/").unwrap();
                apple
                    .machine
                    .run(&format!("zfs snapshot {dataset}@autosnap_daily"));
            }
        }
    }
    assert_ne!(recorded["s1"], recorded["s2"]);
    assert_ne!(recorded["s2"], recorded["s3"]);

    // Where nobody may write the configuration, nothing begins.
    banana.machine.run("rm -f /etc/pve");
    let refused = launch(&[]).wait().expect(4);
    assert!(refused.stderr.contains("[node-file]"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("there is no /etc/pve"),
        "{}",
        refused.stderr
    );
    mount(banana, "banana");
    let place = [&["-n"], &MOVE[..]].concat();
    let plan = launch_at(&sites.home, &place, &[])
        .patient(PATIENCE)
        .wait()
        .expect(0);
    for name in ["s1", "s2", "s3"] {
        let line = plan
            .stdout
            .lines()
            .find(|line| line.contains(&format!("snapshot  {name} (")));
        assert!(
            line.is_some_and(|line| line.contains("travels")),
            "{}",
            plan.stdout
        );
    }
    for site in [apple, banana] {
        let asked = site.order(&json!({"order": "requests"}));
        let writes: Vec<&Value> = asked["requests"].as_array().unwrap().iter().collect();
        let writes = writes
            .iter()
            .filter(|it| !it.as_str().unwrap().ends_with("/snapshot"));
        assert_eq!(writes.count(), 0, "{asked}");
    }

    // Killed while the snapshots travel.
    let target = format!("/dev/zvol/{}/tank/vm-100-disk-0", banana.dataset);
    let running = launch(&["--bwlimit", "24"]);
    until("s1 is on the target", || {
        taken(&banana.machine, &target).contains(&"s1".to_owned())
    });
    drop(running.kill());
    let after_the_kill = taken(&banana.machine, &target);
    eprintln!("killed when the target had {after_the_kill:?}");
    assert!(
        !after_the_kill.contains(&"s3".to_owned()),
        "too late to be an interruption"
    );

    // Another one is taken while it goes on: it would have been left behind, and is planned for.
    let running = launch(&["--json"]);
    until("s2 is on the target", || {
        taken(&banana.machine, &target).contains(&"s2".to_owned())
    });
    take(apple, "s4").await;
    recorded.insert("s4", hashes(&apple.machine, &images, "s4"));
    let ended = running.wait().expect(0);
    let warnings = ended.told("warning");
    assert!(
        warnings.iter().any(|told| told["text"]
            .to_string()
            .contains("s4 is new; it is planned anew")),
        "{warnings:?}"
    );
    let summary = ended.events().pop().unwrap();
    assert_eq!(summary["event"], "move-done", "{summary}");
    eprintln!(
        "moved with four snapshots in {:.1} s, downtime {} s, {} KiB carried in the last run",
        ended.duration.as_secs_f64(),
        summary["downtime_seconds"],
        summary["carried"].as_u64().unwrap() / 1024
    );

    // The guest is there, with every record it had written.
    let running = banana.guest(100);
    assert_eq!(running["config"]["name"], "web1");
    assert_eq!(running["running"], true, "{running}");
    let moved = banana.images(100);
    let ledger = apple.ledger(565);
    let records = banana.prove(&ledger, &moved);
    assert_eq!(apple.prove(&ledger, &images), records);

    // The API shows the same snapshots, and the pools have them and nothing else.
    let (path, old) = ("/nodes/node2/qemu/100", "/nodes/node1/qemu/565");
    assert_eq!(listed(banana, path).await, listed(apple, old).await);
    let names = ["s1", "s2", "s3", "s4"];
    for (image, source) in moved.iter().zip(&images) {
        assert_eq!(taken(&banana.machine, image), names);
        let with_foreign = ["s1", "s2", "autosnap_daily", "s3", "s4"];
        assert_eq!(taken(&apple.machine, source), with_foreign);
    }
    let (_, _, section) = banana
        .ask("GET", &format!("{path}/config?snapshot=s2"), "")
        .await;
    assert_eq!(section["description"], "before s2: 100%");
    assert_eq!(section["parent"], "s1");
    assert_eq!(section["scsi0"], "tank:vm-100-disk-0,size=24M");
    assert_eq!(section["virtio1"], "tank:vm-100-disk-1,size=16M");
    let text = banana
        .machine
        .run("cat /etc/pve/nodes/node2/qemu-server/100.conf");
    assert!(!text.contains("proxmove"), "{text}");

    // It is rolled back to each, the newest first, as ZFS can do it.
    let task = |method: &'static str, what: String| async move {
        let (status, path) = (method, format!("/nodes/node2/qemu/100{what}"));
        banana.ask_task(status, &path, "").await
    };
    let refused = task("POST", "/snapshot/s1/rollback".to_owned()).await;
    assert!(
        refused.contains("'s1' is not most recent snapshot"),
        "{refused}"
    );
    for name in names.into_iter().rev() {
        assert_eq!(
            task("POST", format!("/snapshot/{name}/rollback")).await,
            "OK"
        );
        assert_eq!(banana.guest(100)["running"], false);
        assert_eq!(present(&banana.machine, &moved), recorded[name], "{name}");
        assert_eq!(listed(banana, path).await.1, name);
        if name != "s1" {
            assert_eq!(task("DELETE", format!("/snapshot/{name}")).await, "OK");
        }
    }
    assert_eq!(task("POST", "/status/start".to_owned()).await, "OK");
    banana.machine.run("rm -f /etc/pve");
    eprintln!(
        "{records} records; rolled back to {names:?}, each with the hash it had on the source"
    );
}
