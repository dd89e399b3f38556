//! The way back by the real program: a guest goes to its former self, and only what has changed travels.
//!
//! The guests write numbered records wherever they are; each way is proved by them. Read next: `support/stage.rs`;
//! `move_lab.rs` for the same between pools.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "back/given_up.rs"]
mod given_up;
#[path = "support/stage.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proxmove::sim::stage::Stage;
use proxmove::sim::world::scenario::DiskSpec;
use serde_json::Value;
use stage::{
    Ended, MIB, clusters, config, disk, guest, launch, moved, names, nothing_left, proved,
    received, run, runs, to_banana, write_on,
};

fn there(stage: &Stage, name: &str) -> Ended {
    run(stage, &to_banana(&[], &[name])).expect(0)
}

fn back(stage: &Stage, options: &[&str], cluster: &str, name: &str) -> Ended {
    run(
        stage,
        &[&["back", "--json", "--yes"], options, &[cluster, name]].concat(),
    )
}

fn carried(ended: &Ended) -> u64 {
    let summary = ended.events().pop().unwrap();
    assert_eq!(summary["event"], "move-done", "{summary}");
    summary["carried"].as_u64().unwrap()
}

/// Returns the images of a guest of apple, by their inodes.
fn images(stage: &Stage, vmid: u32) -> BTreeMap<PathBuf, u64> {
    let directory = stage
        .simulation
        .directory
        .join(format!("apple/node1/var/lib/vz/images/{vmid}"));
    let files = std::fs::read_dir(directory).unwrap().flatten();
    files
        .map(|file| (file.path(), file.metadata().unwrap().ino()))
        .collect()
}

fn edit(
    stage: &Stage,
    cluster: &str,
    vmid: u32,
    change: impl FnOnce(&mut BTreeMap<String, String>),
) {
    let mut world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter_mut()
        .find(|known| known.alias == cluster);
    change(&mut cluster.unwrap().guests.get_mut(&vmid).unwrap().config);
}

/// Everything of a configuration but the places of volumes and what belongs to one guest only.
fn settings(config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = ["digest", "meta", "vmgenid"];
    let mut settings = config.clone();
    settings.retain(|key, _| !own.contains(&key.as_str()));
    for (key, value) in &mut settings {
        if proxmove::sim::world::guest::is_drive(key) {
            let mut options: Vec<&str> = value.split(',').skip(1).collect();
            options.sort_unstable();
            *value = options.join(",");
        }
    }
    settings
}

/// Moves a writing guest there, back and there again, and proves and measures each way.
async fn to_and_fro(disks: Vec<DiskSpec>, turned: bool) {
    let mut world = clusters(vec![guest(565, "web1", disks, MIB)]);
    if turned {
        world[0].version = "9.1.2".to_owned();
        world[1].version = "8.4.1".to_owned();
    }
    let stage = stage::start(world, |settings| {
        settings.seed = 21;
        settings.hot_bytes = Some(2 * MIB);
        settings.filled = 0.5;
    })
    .await;
    let whole = there(&stage, "web1");
    let new = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", new));
    let before = images(&stage, 565);

    // On banana it goes on, and its configuration is changed.
    write_on(&stage, ("apple", 565), ("banana", new), MIB);
    edit(&stage, "banana", new, |config| {
        config.insert("cores".to_owned(), "3".to_owned());
        config.insert("description".to_owned(), "other notes".to_owned());
        config.remove("tags");
        let protected = config.insert("protection".to_owned(), "1".to_owned());
        assert_eq!(protected, None);
    });
    stage.simulation.faults().forget();
    let plan = back(&stage, &["-n"], "banana", "web1").expect(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["guests"][0]["to"], "apple/565 on node1", "{plan}");
    assert!(
        plan["verdicts"].to_string().contains("former-overwritten"),
        "{plan}"
    );
    nothing_left(&stage);

    let home = back(&stage, &[], "banana", "web1").expect(0);
    assert_eq!(moved(&stage, ("banana", new), "apple", "web1"), 565);
    let records = proved(&stage, ("banana", new), ("apple", 565));
    assert_eq!(images(&stage, 565), before, "the same files");
    let (ours, theirs) = (config(&stage, "apple", 565), config(&stage, "banana", new));
    assert!(
        ours.keys().all(|key| !key.starts_with("unused")),
        "{ours:?}"
    );
    assert_eq!(ours["description"], "other notes");
    let mut expected = settings(&theirs);
    for (key, value) in [
        ("name", "web1"),
        ("onboot", "1"),
        ("description", "other notes"),
    ] {
        expected.insert(key.to_owned(), value.to_owned());
    }
    assert_eq!(settings(&ours), expected);
    nothing_left(&stage);

    // And there again, as the same command leads forward: the guest is protected there now.
    write_on(&stage, ("banana", new), ("apple", 565), MIB);
    let forth = back(&stage, &[], "apple", "web1").expect(0);
    assert_eq!(moved(&stage, ("apple", 565), "banana", "web1"), new);
    proved(&stage, ("apple", 565), ("banana", new));
    assert_eq!(names(&stage, "banana"), ["web1"]);
    nothing_left(&stage);
    let [first, second, third] = [&whole, &home, &forth].map(carried);
    eprintln!(
        "{records} records; carried {} KiB there, {} KiB back, {} KiB there again; on the wire {}, {}, {} KiB",
        first / 1024,
        second / 1024,
        third / 1024,
        received(&stage, "565") / 1024,
        received(&stage, &format!("{new}-565")) / 1024,
        wire(&forth) / 1024,
    );
    assert!(second * 8 < first, "{first} bytes there, {second} back");
    assert!(
        third * 8 < first,
        "{first} bytes there, {third} there again"
    );

    // There is no way from where it is not.
    let no = back(&stage, &[], "apple", "web1").expect(4);
    assert!(
        no.stderr.contains("it is not there any more")
            || no.stdout.contains("it is not there any more")
    );
}

fn wire(ended: &Ended) -> u64 {
    ended.events().pop().unwrap()["wire"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_goes_there_back_and_there_again_and_only_what_changed_travels() {
    let disks = vec![
        disk("scsi0", "raw", 256 * MIB),
        disk("virtio1", "qcow2", 128 * MIB),
    ];
    to_and_fro(disks, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_that_is_converted_each_way_is_written_on_and_not_made_anew() {
    let state = DiskSpec {
        options: "version=v2.0".to_owned(),
        // Before release 9 it has to be raw.
        ..disk("tpmstate0", "qcow2", 128 * MIB)
    };
    to_and_fro(vec![state], true).await;
}

/// Runs `back` and returns the refusal's text.
#[track_caller]
fn refused(stage: &Stage, name: &str, code: &str) -> String {
    let before = (config(stage, "apple", 565), images(stage, 565));
    stage.simulation.faults().forget();
    let ended = run(stage, &["back", "--yes", "banana", name]).expect(4);
    assert_eq!(stage.simulation.faults().writes(), [], "{}", ended.stderr);
    assert_eq!(before, (config(stage, "apple", 565), images(stage, 565)));
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains(code), "{code}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_former_self_that_was_used_meanwhile_is_refused_with_the_evidence() {
    let disks = vec![disk("scsi0", "raw", 32 * MIB)];
    let others = vec![disk("scsi0", "raw", 32 * MIB)];
    let guests = vec![
        guest(565, "web1", disks, MIB),
        guest(566, "web2", others, 0),
    ];
    let stage = stage::start(clusters(guests), |_| {}).await;
    refused(&stage, "web1", "banana has no guest web1");
    there(&stage, "web1");
    let image = images(&stage, 565).into_keys().next().unwrap();
    let kept = config(&stage, "apple", 565);

    // Somebody started it, for as long as it runs.
    let start = |on: bool| {
        let mut world = stage.simulation.world();
        let apple = world
            .clusters
            .iter_mut()
            .find(|known| known.alias == "apple")
            .unwrap();
        let run = apple.guests[&566].run.clone();
        apple.guests.get_mut(&565).unwrap().run = run.filter(|_| on);
    };
    start(true);
    refused(&stage, "web1", "former-running");
    start(false);

    // Its notes do not say where it was moved to, or speak of another place.
    edit(&stage, "apple", 565, |config| {
        config.insert("description".to_owned(), "mine".to_owned());
    });
    refused(&stage, "web1", "does not say where it was moved to");
    edit(&stage, "apple", 565, |config| {
        let elsewhere = kept["description"].replace("moved to banana/", "moved to cherry/");
        config.insert("description".to_owned(), elsewhere);
    });
    refused(&stage, "web1", "says that it was moved to cherry/");
    edit(&stage, "apple", 565, |config| *config = kept.clone());

    // It was used, and stopped again.
    std::thread::sleep(Duration::from_secs(7));
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"what somebody wrote meanwhile", MIB)
        .unwrap();
    drop(file);
    let said = refused(&stage, "web1", "former-written");
    assert!(said.contains("after that guest was retired"), "{said}");
    assert!(
        said.contains("proxmove banana apple node1 STORAGE web1"),
        "{said}"
    );

    // Its volume is gone.
    let aside = image.with_extension("aside");
    std::fs::rename(&image, &aside).unwrap();
    let before = config(&stage, "apple", 565);
    let ended = run(&stage, &["back", "--yes", "banana", "web1"]).expect(4);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("former-volume-missing"), "{said}");
    assert_eq!(before, config(&stage, "apple", 565));
    std::fs::rename(&aside, &image).unwrap();

    // The ordinary move leaves all of it alone, and says what there would be.
    let whole = run(
        &stage,
        &[
            "--json", "--yes", "banana", "apple", "node1", "local", "web1",
        ],
    )
    .expect(0);
    assert!(
        whole.stdout.contains("proxmove back banana web1"),
        "{}",
        whole.stdout
    );
    let again = stage.vmid("apple", "web1").unwrap();
    assert_ne!(again, 565);
    assert_eq!(before, config(&stage, "apple", 565));
    nothing_left(&stage);
}

const GUESTS: u32 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_way_back_that_is_killed_anywhere_is_finished_by_the_same_command() {
    let guests = (0..GUESTS)
        .map(|number| {
            let disks = vec![
                disk("virtio0", "raw", 64 * MIB),
                disk("scsi1", "qcow2", 32 * MIB),
            ];
            guest(200 + number, &format!("vm{number}"), disks, 64 * 1024)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| {
        settings.seed = 5;
        settings.hot_bytes = Some(MIB);
        settings.filled = 0.3;
    })
    .await;
    let names: Vec<String> = (0..GUESTS).map(|number| format!("vm{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    run(&stage, &to_banana(&[], &all)).expect(0);
    let mut random = fastrand::Rng::with_seed(8);
    let mut length = Duration::ZERO;
    let mut rungs = BTreeSet::new();
    for number in 0..GUESTS {
        let (vmid, name) = (200 + number, format!("vm{number}"));
        let new = moved(&stage, ("apple", vmid), "banana", &name);
        let before = images(&stage, vmid);
        write_on(&stage, ("apple", vmid), ("banana", new), 64 * 1024);
        let start = || launch(&stage, &["back", "--json", "--yes", "banana", &name], &[]);
        if number == 0 {
            length = start().wait().expect(0).duration;
        } else {
            // Twice in a row, each time somewhere on the way.
            for _ in 0..2 {
                let moment = length.mul_f64(random.f64());
                let mut running = start();
                let began = Instant::now();
                while began.elapsed() < moment && !running.is_over() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                if running.is_over() {
                    break;
                }
                running.kill();
                let both = runs(&stage, "apple", vmid) && runs(&stage, "banana", new);
                assert!(!both, "{name} runs twice");
                assert_eq!(images(&stage, vmid), before);
                let (here, there) = (config(&stage, "apple", vmid), config(&stage, "banana", new));
                rungs.insert((
                    here["name"].replace(&name, ""),
                    there["name"].replace(&name, ""),
                ));
            }
            let mut ended = start().wait();
            if ended.code != 0 && ended.code != 4 {
                // A killed run's own commands may still have been ending.
                ended = start().wait();
            }
            if stage.vmid("apple", &name) != Some(vmid) {
                ended.expect(0);
            }
        }
        assert_eq!(moved(&stage, ("banana", new), "apple", &name), vmid);
        proved(&stage, ("banana", new), ("apple", vmid));
        assert_eq!(images(&stage, vmid), before, "the same files");
    }
    eprintln!("killed at {rungs:?}");
    assert!(rungs.len() > 1, "{rungs:?}");
    nothing_left(&stage);
}
