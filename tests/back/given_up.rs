//! Ways back that are given up: the former self is retired again, is found again, and proves nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use proxmove::plan::mark::Mark;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};

use crate::stage::faults::CONFIG;
use crate::stage::{
    self, Ended, MIB, clusters, config, disk, guest, launch, left_files, moved, names,
    nothing_left, proved, run, runs, write_on,
};
use crate::{back, edit, images, there};

fn give_up(stage: &Stage, name: &str) -> Ended {
    run(stage, &["abort", "--json", "banana", "apple", name])
}

fn steps(ended: &Ended) -> Vec<String> {
    let steps = ended.told("step-started");
    let steps = steps.iter().map(|step| step["step"].as_str().unwrap());
    steps.map(str::to_owned).collect()
}

/// Fails the test unless the former self of a guest is retired as it was found, and says what has happened to it.
#[track_caller]
fn shelved(stage: &Stage, vmid: u32, name: &str, new: u32) {
    assert!(!runs(stage, "apple", vmid));
    let former = config(stage, "apple", vmid);
    assert_eq!(former["name"], format!("{name}--MIGRATED"));
    assert_eq!(former["onboot"], "0");
    let notes = &former["description"];
    assert!(
        notes.contains(&format!("the notes of {name}\nin two lines")),
        "{notes}"
    );
    let said = format!(
        "proxmove: moved to banana/{new}; a way back was given up, its volumes are partly overwritten"
    );
    assert!(notes.contains(&said), "{notes}");
    assert_eq!(notes.matches("proxmove: moved to").count(), 1, "{notes}");
    let mark = Mark::parse(notes).unwrap();
    assert!(mark.kept.is_some() && mark.claim.is_none(), "{notes}");
}

/// Where a way back is made to stop, what of its calls fails there, and its exit code.
type Stop = (
    &'static str,
    Option<(&'static str, &'static str, &'static str, usize)>,
    i32,
);

/// The target's first change is the one that makes the former self a placeholder.
const STOPS: &[Stop] = &[
    ("precopied", None, 5),
    ("stopped", Some(("banana", "PUT", CONFIG, 1)), 6),
    ("synced", Some(("apple", "PUT", CONFIG, 2)), 6),
    ("attached", Some(("apple", "PUT", CONFIG, 3)), 6),
    ("target-named", Some(("banana", "PUT", CONFIG, 2)), 6),
    (
        "switched-over",
        Some(("apple", "POST", "/nodes/*/qemu/*/status/start", 1)),
        6,
    ),
];

/// Goes back until it stops there.
fn stop_at(stage: &Stage, (rung, fails, code): &Stop, name: &str) {
    let faults = stage.simulation.faults();
    faults.clear();
    if let Some((cluster, method, path, nth)) = fails {
        stage::faults::fails(stage, cluster, (method, path), *nth);
    }
    let options: &[&str] = match fails {
        Some(_) => &[],
        None => &["--max-downtime", "1ms"],
    };
    let ended = back(stage, options, "banana", name);
    faults.clear();
    assert_eq!(
        ended.code, *code,
        "{rung}: {}{}",
        ended.stdout, ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn from_every_rung_the_former_self_is_retired_again_and_found_again() {
    let guests = (0..STOPS.len() as u32)
        .map(|number| {
            let disks = vec![
                disk("scsi0", "qcow2", 16 * MIB),
                disk("scsi1", "raw", 8 * MIB),
            ];
            guest(600 + number, &format!("vm{number}"), disks, 64 * 1024)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.3).await;
    for (number, stop) in STOPS.iter().enumerate() {
        let (vmid, name) = (600 + number as u32, format!("vm{number}"));
        there(&stage, &name);
        let new = moved(&stage, ("apple", vmid), "banana", &name);
        let files = images(&stage, vmid);
        write_on(&stage, ("apple", vmid), ("banana", new), 64 * 1024);
        let before: BTreeMap<String, String> = config(&stage, "banana", new);
        stop_at(&stage, stop, &name);
        let status = run(&stage, &["status"]).expect(0).stdout;
        assert!(
            status.contains(&format!("proxmove abort banana apple {name}")),
            "{}: {status}",
            stop.0
        );

        let ended = give_up(&stage, &name).expect(0);
        assert_eq!(steps(&ended).last().map(String::as_str), Some("shelve"));
        let told = ended.told("move-aborted")[0]["left"].to_string();
        assert!(
            told.contains(&format!("{name}--MIGRATED"))
                && told.contains(&format!("proxmove back banana {name}")),
            "{told}"
        );
        assert_eq!(config(&stage, "banana", new), before, "{}", stop.0);
        assert!(runs(&stage, "banana", new), "{}", stop.0);
        shelved(&stage, vmid, &name, new);
        assert_eq!(images(&stage, vmid), files, "{}", stop.0);

        // Given up for good: nothing is under way any more, and a second abort changes nothing.
        let quiet = run(&stage, &["status"]).expect(0).stdout;
        assert_eq!(quiet, "no move is in progress\n");
        stage.simulation.faults().forget();
        give_up(&stage, &name).expect(0);
        assert_eq!(stage.simulation.faults().writes(), []);

        let again = back(&stage, &["--verify", "transfer"], "banana", &name).expect(0);
        assert!(
            again.stdout.contains("nothing tells whether the volume"),
            "{}",
            again.stdout
        );
        assert_eq!(moved(&stage, ("banana", new), "apple", &name), vmid);
        proved(&stage, ("banana", new), ("apple", vmid));
        assert_eq!(images(&stage, vmid), files, "the same files");
    }
    assert_eq!(names(&stage, "apple").len(), STOPS.len());
    nothing_left(&stage);
}

/// What proxmove's own files on the host claim is from before it was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_somebody_writes_to_a_former_self_afterwards_is_overwritten_whatever_was_claimed() {
    let guests = (0..STOPS.len() as u32)
        .map(|number| {
            let disks = vec![disk("scsi0", "raw", 16 * MIB)];
            guest(600 + number, &format!("vm{number}"), disks, 0)
        })
        .collect();
    let stage = stage::start(clusters(guests), |settings| settings.filled = 0.3).await;
    for (number, stop) in STOPS.iter().enumerate() {
        let (vmid, name) = (600 + number as u32, format!("vm{number}"));
        there(&stage, &name);
        moved(&stage, ("apple", vmid), "banana", &name);
        stop_at(&stage, stop, &name);
        give_up(&stage, &name).expect(0);
        let image = images(&stage, vmid).into_keys().next().unwrap();
        let file = std::fs::File::options().write(true).open(image).unwrap();
        file.write_all_at(&[7; 4096], 5 * MIB + 123).unwrap();
        drop(file);
        let options = ["--verify", "transfer", "--skip-start"];
        back(&stage, &options, "banana", &name).expect(0);
        let found = run(&stage, &["verify", "banana", "apple", &name]);
        assert_eq!(
            found.code, 0,
            "{}: {}{}",
            stop.0, found.stdout, found.stderr
        );
    }
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_way_back_that_was_killed_while_it_copied_is_given_up_in_one_call_and_found_again() {
    let disks = vec![disk("scsi0", "raw", 128 * MIB)];
    let stage = stage::start(clusters(vec![guest(565, "web1", disks, MIB)]), |settings| {
        settings.hot_bytes = Some(32 * MIB);
        settings.filled = 0.2;
    })
    .await;
    there(&stage, "web1");
    let new = moved(&stage, ("apple", 565), "banana", "web1");
    let before = images(&stage, 565);
    write_on(&stage, ("apple", 565), ("banana", new), 4 * MIB);
    let slowly = [
        "back",
        "--json",
        "--yes",
        "--bwlimit",
        "8",
        "banana",
        "web1",
    ];
    let running = launch(&stage, &slowly, &[]);
    let began = Instant::now();
    while !left_files(&stage)
        .iter()
        .any(|file| file.extension().is_some_and(|kind| kind == "manifest"))
    {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not copy"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    running.kill();
    // Nothing of it is taken for anybody's; it is told what to do about it.
    let listed = run(&stage, &["cleanup", "-n"]).expect(0);
    assert!(
        listed.stdout.contains("never delete it")
            && listed
                .stdout
                .contains("gives the move up and retires it again, as web1--MIGRATED"),
        "{}",
        listed.stdout
    );
    let placeholder = config(&stage, "apple", 565);
    assert_eq!(placeholder["name"], "web1--CREATING");
    assert!(placeholder["unused0"].contains("vm-565-disk-0") && !placeholder.contains_key("scsi0"));
    assert!(runs(&stage, "banana", new));

    // The answer to the call is lost, and it is made again.
    let faults = stage.simulation.faults();
    faults.add(Fault {
        cluster: Some("apple".to_owned()),
        // The claim is taken by the first one.
        nth: Some(2),
        ..Fault::first("PUT", CONFIG, FaultKind::LostAnswer)
    });
    faults.forget();
    let ended = give_up(&stage, "web1").expect(0);
    assert_eq!(steps(&ended), ["shelve"]);
    shelved(&stage, 565, "web1", new);
    let shelving: Vec<_> = faults
        .writes()
        .into_iter()
        .filter(|write| write.method == "PUT" && write.cluster == "apple")
        .collect();
    assert_eq!(shelving.len(), 2, "{shelving:?}");
    faults.clear();

    let again = back(&stage, &[], "banana", "web1").expect(0);
    assert!(
        again.stdout.contains("nothing tells whether the volume"),
        "{}",
        again.stdout
    );
    assert_eq!(moved(&stage, ("banana", new), "apple", "web1"), 565);
    proved(&stage, ("banana", new), ("apple", 565));
    assert_eq!(images(&stage, 565), before, "the same files");
    nothing_left(&stage);
}

/// As it was done before an abort did it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_was_given_up_by_its_name_alone_is_found_as_well() {
    let disks = vec![disk("scsi0", "raw", 16 * MIB)];
    let stage = stage::start(clusters(vec![guest(600, "vm0", disks, 0)]), |_| {}).await;
    there(&stage, "vm0");
    let new = moved(&stage, ("apple", 600), "banana", "vm0");
    stop_at(&stage, &STOPS[0], "vm0");
    edit(&stage, "apple", 600, |config| {
        config.insert("name".to_owned(), "vm0--MIGRATED".to_owned());
    });
    back(&stage, &[], "banana", "vm0").expect(0);
    assert_eq!(moved(&stage, ("banana", new), "apple", "vm0"), 600);
    nothing_left(&stage);
}
