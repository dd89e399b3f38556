//! An operator whose program is killed in the middle of a stream, and another one, at another home, who goes on.

use std::time::{Duration, Instant};

use super::sites::{Sites, cluster, zfspool};
use super::stage::{MIB, disk, guest, launch_at, program};
use super::{PATIENCE, chained, figures, lab, moved, on, tank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_operator_goes_on_where_one_was_killed() {
    let Some(lab) = lab("a killed operator between zpools") else {
        return;
    };
    let disks = vec![on("z16", disk("scsi0", "raw", 96 * MIB))];
    let source = vec![zfspool("z16", &[("blocksize", "16k")])];
    let sites = Sites::start_filled(
        &lab,
        program(),
        cluster(
            "apple",
            "node1",
            source,
            vec![guest(565, "web1", disks, MIB / 4)],
        ),
        cluster("banana", "node2", tank(), Vec::new()),
        0.8,
    );
    let (apple, banana) = (&sites.source, &sites.target);
    apple.await_records(565, 100);
    let order = [
        "--json", "--yes", "apple", "banana", "node2", "tank", "web1",
    ];
    // Slowly, so that it is in the middle of it for a while.
    let slow = [&["--bwlimit", "24"], &order[..]].concat();
    let first = launch_at(&sites.home, &slow, &[]).patient(PATIENCE);
    let receives = || {
        banana
            .machine
            .try_run("pgrep -f '^zfs receive'")
            .status
            .success()
    };
    let began = Instant::now();
    while !receives() {
        assert!(began.elapsed() < PATIENCE, "nothing is received");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(8));
    assert!(receives(), "it was too fast");
    first.kill().expect(-9);

    let home = sites.another_home();
    let second = launch_at(home.path(), &order, &[]).patient(PATIENCE);
    let second = second.wait().expect(0);
    let notices: Vec<String> = second
        .told("notice")
        .iter()
        .map(|notice| notice["text"].as_str().unwrap().to_owned())
        .collect();
    let rest = "scsi0: rest of a stream: an interrupted stream is continued where it broke off";
    assert!(notices.iter().any(|notice| notice == rest), "{notices:?}");
    let (new, records) = moved((apple, 565), banana).await;
    chained((apple, &apple.images(565)), (banana, &banana.images(new)));
    figures("by two operators", &second, records);
}
