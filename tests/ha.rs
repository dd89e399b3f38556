//! Guests that HA manages: `--ha suspend` and `--ha recreate`, and what an abort or a return makes of them.
//!
//! The real program against the simulation, whose HA manager starts what it is to keep running. Read next:
//! `src/plan/ha.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::Boot;
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::{ClusterSpec, HaGroupSpec, HaSpec, UserSpec};
use stage::faults::{CONFIG, fails};
use stage::{
    Ended, MIB, SECRET, clusters, config, disk, guest, kill, launch, moved, names, proved, run,
    runs, to_banana,
};

/// Several rounds of the HA manager and its nodes.
const ROUNDS: Duration = Duration::from_millis(800);

fn resource(guest: u32, state: &str) -> HaSpec {
    HaSpec {
        guest,
        state: state.to_owned(),
        group: Some("west".to_owned()),
        max_restart: Some(3),
        comment: Some("ask Ann first".to_owned()),
        ..HaSpec::default()
    }
}

/// Apple with `web1`, which HA keeps running, and banana.
fn with_ha() -> Vec<ClusterSpec> {
    let mut spec = guest(
        565,
        "web1",
        vec![disk("scsi0", "qcow2", 16 * MIB)],
        64 * 1024,
    );
    spec.config.insert("agent".to_owned(), "1".to_owned());
    let mut clusters = clusters(vec![spec]);
    clusters[0].ha = vec![resource(565, "started")];
    clusters[0].ha_groups = vec![HaGroupSpec {
        name: "west".to_owned(),
        nodes: "node1,node2".to_owned(),
        ..HaGroupSpec::default()
    }];
    clusters
}

async fn stage_with_ha() -> Stage {
    stage::start(with_ha(), |_| {}).await
}

/// Has the attaching fail, with the source stopped and HA out of the way.
fn attaching_fails(stage: &Stage) {
    fails(stage, "banana", ("PUT", CONFIG), 2);
}

fn ha(stage: &Stage, cluster: &str) -> Vec<HaSpec> {
    let world = stage.simulation.world();
    let mut clusters = world.clusters.iter();
    let cluster = clusters.find(|known| known.alias == cluster).unwrap();
    cluster.ha.clone()
}

fn state(stage: &Stage, cluster: &str, guest: u32) -> Option<String> {
    let found = ha(stage, cluster).into_iter();
    let mut found = found.filter(|ha| ha.guest == guest);
    found.next().map(|ha| ha.state)
}

fn go(stage: &Stage, options: &[&str]) -> Ended {
    let options = [&["--target-vmid", "300"], options].concat();
    run(stage, &to_banana(&options, &["web1"]))
}

fn left(ended: &Ended) -> String {
    ended.events().pop().unwrap()["left"].to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_wish_it_is_refused_and_with_it_ha_ignores_the_source() {
    let stage = stage_with_ha().await;
    let ended = go(&stage, &[]).expect(4);
    assert!(ended.stdout.contains("ha-managed"), "{}", ended.stdout);
    assert!(ended.stdout.contains("--ha suspend"), "{}", ended.stdout);
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(state(&stage, "apple", 565).as_deref(), Some("started"));

    let ended = go(&stage, &["--ha", "suspend"]).expect(0);
    assert!(
        left(&ended).contains("ha-manager remove vm:565"),
        "{}",
        left(&ended)
    );
    let target = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", target));
    // HA has had the time to start the retired source, and has not.
    std::thread::sleep(ROUNDS);
    assert!(!runs(&stage, "apple", 565));
    assert_eq!(state(&stage, "apple", 565).as_deref(), Some("ignored"));
    assert_eq!(ha(&stage, "banana").len(), 0);
    let world = stage.simulation.world();
    let apple = &world.clusters[0];
    let started: Vec<_> = apple
        .history
        .iter()
        .filter(|moment| moment.vmid == 565 && moment.running)
        .collect();
    assert_eq!(started.len(), 1, "{started:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_target_is_given_to_ha_with_the_same_wishes() {
    let stage = stage_with_ha().await;
    let ended = go(&stage, &["--ha", "recreate"]).expect(0);
    let warned: Vec<String> = ended
        .told("warning")
        .iter()
        .map(|told| told["text"].to_string())
        .collect();
    // Banana is of release 9: groups are rules there.
    assert!(
        warned
            .iter()
            .any(|text| text.contains("(west) are not carried")),
        "{warned:?}"
    );
    moved(&stage, ("apple", 565), "banana", "web1");
    assert_eq!(ha(&stage, "apple").len(), 0);
    let there = ha(&stage, "banana");
    let [there] = there.as_slice() else {
        panic!("{there:?}");
    };
    assert_eq!((there.guest, there.state.as_str()), (300, "started"));
    assert_eq!(there.max_restart, Some(3));
    assert_eq!(there.comment.as_deref(), Some("ask Ann first"));
    assert_eq!(there.group, None);
    std::thread::sleep(ROUNDS);
    assert!(runs(&stage, "banana", 300) && !runs(&stage, "apple", 565));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_release_takes_a_group_of_that_name() {
    let mut clusters = with_ha();
    clusters[1].version = clusters[0].version.clone();
    clusters[1].ha_groups = clusters[0].ha_groups.clone();
    let stage = stage::start(clusters, |_| {}).await;
    go(&stage, &["--ha", "recreate"]).expect(0);
    let there = ha(&stage, "banana");
    assert_eq!(there[0].group.as_deref(), Some("west"), "{there:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_abort_gives_the_source_back_to_ha() {
    for wish in ["suspend", "recreate"] {
        let stage = stage_with_ha().await;
        let before: BTreeMap<String, String> = config(&stage, "apple", 565);
        attaching_fails(&stage);
        go(&stage, &["--ha", wish]).expect(6);
        stage.simulation.faults().clear();
        assert_eq!(state(&stage, "apple", 565).as_deref(), Some("ignored"));
        std::thread::sleep(ROUNDS);
        assert!(!runs(&stage, "apple", 565), "HA has started it");
        run(&stage, &["abort", "--json", "apple", "banana", "web1"]).expect(0);
        assert!(runs(&stage, "apple", 565));
        assert_eq!(config(&stage, "apple", 565), before);
        assert_eq!(names(&stage, "banana"), [] as [String; 0]);
        let back = ha(&stage, "apple");
        assert_eq!(back.len(), 1);
        assert_eq!(
            (&back[0].state[..], back[0].group.as_deref()),
            ("started", Some("west"))
        );
        std::thread::sleep(ROUNDS);
        assert!(runs(&stage, "apple", 565));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_abort_of_a_way_back_gives_the_guest_back_to_ha_where_it_is() {
    let stage = stage_with_ha().await;
    go(&stage, &["--ha", "recreate"]).expect(0);
    let settings = |stage: &Stage| format!("{:?}", ha(stage, "banana"));
    let before = settings(&stage);
    assert_eq!(state(&stage, "banana", 300).as_deref(), Some("started"));
    // The first one makes the former self the placeholder, the second writes down what HA had.
    fails(&stage, "apple", ("PUT", CONFIG), 3);
    let words = ["back", "--json", "--yes", "--ha", "recreate"];
    run(&stage, &[&words[..], &["banana", "web1"]].concat()).expect(6);
    stage.simulation.faults().clear();
    assert_eq!(state(&stage, "banana", 300).as_deref(), Some("ignored"));
    run(&stage, &["abort", "--json", "banana", "apple", "web1"]).expect(0);
    assert_eq!(settings(&stage), before);
    assert_eq!(ha(&stage, "apple").len(), 0);
    assert_eq!(names(&stage, "apple"), ["web1--MIGRATED"]);
    std::thread::sleep(ROUNDS);
    assert!(runs(&stage, "banana", 300) && !runs(&stage, "apple", 565));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_is_to_stay_stopped_stays_out_of_ha() {
    // Before the drives are attached, and when they are.
    for nth in [2, 3] {
        let stage = stage_with_ha().await;
        fails(&stage, "banana", ("PUT", CONFIG), nth);
        go(&stage, &["--ha", "suspend"]).expect(6);
        stage.simulation.faults().clear();
        let words = ["abort", "--json", "--skip-start", "apple", "banana", "web1"];
        let ended = run(&stage, &words).expect(0);
        assert!(
            left(&ended).contains("ha-manager set vm:565 --state started"),
            "{}",
            left(&ended)
        );
        assert_eq!(names(&stage, "banana"), [] as [String; 0]);
        std::thread::sleep(ROUNDS);
        assert!(!runs(&stage, "apple", 565));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_does_not_come_up_returns_to_ha() {
    let stage = stage_with_ha().await;
    let boot = Boot {
        mute: true,
        ..Boot::default()
    };
    stage.simulation.world().clusters[1].boots.insert(300, boot);
    let options = [
        "--ha",
        "recreate",
        "--boot-check",
        "1s",
        "--on-failure",
        "return",
    ];
    go(&stage, &options).expect(5);
    assert!(runs(&stage, "apple", 565) && !runs(&stage, "banana", 300));
    assert_eq!(state(&stage, "apple", 565).as_deref(), Some("started"));
    assert_eq!(ha(&stage, "banana").len(), 0);
    // The next try takes it from HA once more.
    stage.simulation.world().clusters[1].boots.clear();
    go(&stage, &options).expect(0);
    assert_eq!(state(&stage, "banana", 300).as_deref(), Some("started"));
    assert_eq!(state(&stage, "apple", 565), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_is_killed_at_a_call_to_ha_is_resumed_and_given_up() {
    for (call, cluster, method, path) in [
        (0, "apple", "PUT", "/cluster/ha/resources/vm:565"),
        (1, "banana", "POST", "/cluster/ha/resources"),
        (2, "apple", "DELETE", "/cluster/ha/resources/vm:565"),
    ] {
        for after in ["resume", "abort"] {
            let stage = stage_with_ha().await;
            let process = Arc::new(AtomicU32::new(0));
            let victim = Arc::clone(&process);
            stage.simulation.faults().add(Fault {
                cluster: Some(cluster.to_owned()),
                ..Fault::first(
                    method,
                    path,
                    FaultKind::After(Arc::new(move || kill(victim.load(Ordering::SeqCst)))),
                )
            });
            let words = to_banana(&["--target-vmid", "300", "--ha", "recreate"], &["web1"]);
            let running = launch(&stage, &words, &[]);
            process.store(running.process(), Ordering::SeqCst);
            running.wait().expect(-9);
            stage.simulation.faults().clear();
            let what = format!("{method} {path}, then {after}");
            if after == "resume" {
                run(&stage, &["resume", "--json", "apple", "banana", "web1"]).expect(0);
                moved(&stage, ("apple", 565), "banana", "web1");
                assert_eq!(state(&stage, "apple", 565), None, "{what}");
                let there = state(&stage, "banana", 300);
                assert_eq!(there.as_deref(), Some("started"), "{what}");
                continue;
            }
            let ended = run(&stage, &["abort", "--json", "apple", "banana", "web1"]);
            if call == 0 {
                assert_eq!(ended.code, 0, "{what}: {}", ended.stdout);
            } else {
                // It runs on the target: that is refused, and the wish to give it up takes it from HA there, too.
                assert_eq!(ended.code, 4, "{what}: {}", ended.stdout);
                let words = ["abort", "--json", "--discard-target"];
                run(&stage, &[&words[..], &["apple", "banana", "web1"]].concat()).expect(0);
                assert_eq!(ha(&stage, "banana").len(), 0, "{what}");
            }
            assert!(runs(&stage, "apple", 565), "{what}");
            let back = ha(&stage, "apple");
            assert_eq!(back.len(), 1, "{what}");
            assert_eq!(back[0].state, "started", "{what}");
            assert_eq!(back[0].max_restart, Some(3), "{what}");
            assert_eq!(back[0].comment.as_deref(), Some("ask Ann first"), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_may_not_change_ha_is_told_beforehand() {
    let mut clusters = with_ha();
    // All that a move needs, and nothing of HA but to see it.
    clusters[0].users = vec![UserSpec {
        id: "root@pam".to_owned(),
        password: SECRET.to_owned(),
        ..UserSpec::default()
    }];
    let mut mover = clusters[0].users[0].clone();
    mover.id = "mover@pve".to_owned();
    mover.acl = BTreeMap::from([(
        "/".to_owned(),
        "PVEVMAdmin,PVEDatastoreAdmin,PVEAuditor".to_owned(),
    )]);
    clusters[0].users.push(mover);
    let stage = stage::start(clusters, |_| {}).await;
    let path = stage.proxmoverc();
    let text = std::fs::read_to_string(&path).unwrap();
    let (apple, rest) = text.split_once("[pve:banana]").unwrap();
    let apple = apple.replace("root@pam", "mover@pve");
    std::fs::write(&path, format!("{apple}[pve:banana]{rest}")).unwrap();
    let ended = go(&stage, &["--ha", "suspend"]).expect(4);
    assert!(
        ended.stdout.contains("Sys.Console") && ended.stdout.contains("pveum"),
        "{}",
        ended.stdout
    );
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(state(&stage, "apple", 565).as_deref(), Some("started"));
}
