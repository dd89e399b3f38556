//! proxmove dies with any of its calls, before or after that is carried out; then the same command, or a restore, on
//! another machine. In the end everything is where it should be, as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxmove::cluster::Api;
use proxmove::evacuation::outcome::{Outcomes, Result as Fate};
use proxmove::evacuation::{
    EvacuationError, EvacuationJob, Evacuator, Pace, RestoreJob, observe, restore as returning,
};
use proxmove::host::ssh::{SshEnvironment, SshOptions};
use proxmove::moves::hosts::Hosts;
use proxmove::moves::interrupt::Interrupt;
use proxmove::plan::evacuate::Request;
use proxmove::plan::evacuate::policy::Policies;
use proxmove::plan::evacuate::schedule::Parallel;
use proxmove::plan::evacuate::select::Selection;
use proxmove::plan::evacuate::way::Allowed;
use proxmove::plan::restore;
use proxmove::pve::evacuation::Limits;
use proxmove::report::{Event, Reporter, operator::AlwaysYes};
use proxmove::sim::world::scenario::{ClusterSpec, GuestSpec};

use crate::cluster::{Adjust, ClusterSpecExt as _, Lab, cluster, ct, node, vm};

/// Tells nobody.
struct Silent;

impl Reporter for Silent {
    fn tell(&self, _: &Event) {}
}

fn tools(lab: &Lab, who: &str) -> Evacuator {
    let environment = SshEnvironment::below("/nonexistent", "root");
    Evacuator {
        api: Arc::new(lab.api()) as Arc<dyn Api>,
        hosts: Arc::new(Hosts::new(SshOptions {
            ciphers: None,
            operator: Arc::new(AlwaysYes),
            environment,
        })),
        addresses: BTreeMap::new(),
        reporter: Arc::new(Silent),
        operator: Arc::new(AlwaysYes),
        interrupt: Interrupt::never(),
        identity: who.to_owned(),
        pace: Pace {
            look: Duration::from_millis(10),
            patience: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(1),
        },
        movers: None,
    }
}

fn allowed() -> Allowed {
    Allowed {
        local_disks: true,
        storages: BTreeMap::new(),
    }
}

async fn evacuate(lab: &Lab, who: &str) -> Result<Outcomes, EvacuationError> {
    let evacuator = tools(lab, who);
    let request = Request {
        node: node("node1"),
        to: [].into(),
        select: Selection::default(),
        policies: Policies::default(),
        budgets: Vec::new(),
        limits: Limits::default(),
        allowed: allowed(),
        ha_maintenance: true,
        stop_unplaced: false,
        across: None,
    };
    let (inventory, plan) = observe::evacuation(&evacuator.api, &request).await.unwrap();
    assert!(!plan.refused(), "{:?}", plan.verdicts);
    EvacuationJob {
        evacuator,
        request,
        inventory,
        plan,
        parallel: Parallel::default(),
        replan: false,
        fail_fast: false,
    }
    .run()
    .await
}

async fn bring_back(lab: &Lab, who: &str) -> Result<Outcomes, EvacuationError> {
    let evacuator = tools(lab, who);
    let mut request = restore::Request {
        node: node("node1"),
        move_guests: true,
        also_moved_on: false,
        select: Selection::default(),
        limits: Limits::default(),
        allowed: allowed(),
        closed: None,
    };
    let plan = returning::plan(&evacuator, &mut request, true).await?;
    RestoreJob {
        evacuator,
        request,
        plan,
    }
    .run()
    .await
}

/// One of each way: live, live with a disk, shut down and moved, restarted, moved while stopped, stopped in place.
fn guests() -> Vec<GuestSpec> {
    vec![
        vm(101, "node1", "san"),
        vm(102, "node1", "local"),
        vm(103, "node1", "san").with("tags", "evacuate-migrate"),
        ct(111, "node1", "san"),
        vm(104, "node1", "local").stopped(),
        vm(105, "node1", "san").with("tags", "evacuate-stop"),
    ]
}

fn spec() -> ClusterSpec {
    cluster("9.1.2", 3).guests(guests())
}

type State = BTreeMap<u32, (String, bool, Option<String>, BTreeMap<String, String>)>;

fn state(lab: &Lab) -> State {
    lab.look(|cluster| {
        cluster
            .guests
            .values()
            .map(|guest| {
                let lock = guest.lock().map(str::to_owned);
                let state = (
                    guest.node.clone(),
                    guest.run.is_some(),
                    lock,
                    guest.config.clone(),
                );
                (guest.vmid, state)
            })
            .collect()
    })
}

fn settle(lab: &Lab) {
    lab.mend();
    lab.until("all tasks ended", |cluster| {
        cluster.tasks.iter().all(|task| task.ended.is_some())
    });
}

/// Where everything is after an evacuation that nothing disturbed.
fn check_evacuated(lab: &Lab, what: &str) {
    for (vmid, (node, running, lock, config)) in state(lab) {
        let stays = vmid == 105;
        assert_eq!(node == "node1", stays, "{what}: {vmid} is on {node}");
        assert_eq!(running, vmid != 104 && !stays, "{what}: {vmid}");
        assert_eq!(lock, None, "{what}: {vmid}");
        assert!(
            config["description"].contains("origin: node1"),
            "{what}: {vmid}"
        );
        let ran = config["description"].contains("running: yes");
        assert_eq!(ran, vmid != 104, "{what}: {vmid} was running");
    }
    let notes = lab.look(|cluster| cluster.nodes[0].description.clone());
    assert!(notes.contains("stage: evacuated"), "{what}: {notes}");
}

fn check_restored(lab: &Lab, before: &State, what: &str) {
    for (vmid, now) in state(lab) {
        assert_eq!(now, before[&vmid], "{what}: {vmid}");
    }
    let notes = lab.look(|cluster| cluster.nodes[0].description.clone());
    assert_eq!(notes, "", "{what}");
}

/// The calls at which to die: every one that changes something with its neighbours, and every seventh of the others,
/// another seventh for each direction.
fn moments(lab: &Lab, offset: usize) -> Vec<usize> {
    let requests = lab.simulation.faults().requests();
    let writes = |at: usize| {
        requests
            .get(at)
            .is_some_and(|request| request.method != "GET")
    };
    (0..requests.len())
        .filter(|at| {
            writes(*at) || writes(at + 1) || (*at > 0 && writes(at - 1)) || at % 7 == offset
        })
        .map(|at| at + 1)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_dies_anywhere_is_gone_on_with_by_a_colleague() {
    let lab = Lab::start(spec());
    let outcomes = evacuate(&lab, "ann@laptop").await.unwrap();
    assert!(
        outcomes
            .guests
            .iter()
            .all(|guest| guest.result != Fate::Failed),
        "{}",
        outcomes.text()
    );
    check_evacuated(&lab, "undisturbed");
    let moments = moments(&lab, 0);
    assert!(moments.len() > 40, "{}", moments.len());
    let mut died = 0;
    for (turn, nth) in moments.iter().enumerate() {
        let after = turn % 2 == 0;
        let what = format!(
            "died at call {nth}, {}",
            if after { "after" } else { "before" }
        );
        let lab = Lab::start(spec());
        let run = evacuate(&lab, "ann@laptop");
        died += usize::from(lab.crash_at(*nth, after, run).await.is_none());
        settle(&lab);
        let again = evacuate(&lab, "bob@desk").await.unwrap();
        assert!(again.problems.is_empty(), "{what}: {}", again.text());
        check_evacuated(&lab, &what);
    }
    assert!(
        died * 10 > moments.len() * 8,
        "{died} of {} died",
        moments.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_dies_anywhere_is_undone_by_a_restore() {
    let lab = Lab::start(spec());
    evacuate(&lab, "ann@laptop").await.unwrap();
    let moments = moments(&lab, 3);
    for (turn, nth) in moments.iter().enumerate() {
        let after = turn % 2 == 1;
        let what = format!(
            "died at call {nth}, {}",
            if after { "after" } else { "before" }
        );
        let lab = Lab::start(spec());
        let before = state(&lab);
        let run = evacuate(&lab, "ann@laptop");
        let _ = lab.crash_at(*nth, after, run).await;
        settle(&lab);
        let back = bring_back(&lab, "bob@desk").await.unwrap();
        assert!(
            back.guests.iter().all(|guest| guest.result == Fate::Ok),
            "{what}: {}",
            back.text()
        );
        check_restored(&lab, &before, &what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_dies_anywhere_is_gone_on_with_by_a_colleague() {
    let lab = Lab::start(spec());
    evacuate(&lab, "ann@laptop").await.unwrap();
    lab.mend();
    bring_back(&lab, "ann@laptop").await.unwrap();
    let moments = moments(&lab, 5);
    for (turn, nth) in moments.iter().enumerate() {
        let after = turn % 2 == 0;
        let what = format!(
            "died at call {nth}, {}",
            if after { "after" } else { "before" }
        );
        let lab = Lab::start(spec());
        let before = state(&lab);
        evacuate(&lab, "ann@laptop").await.unwrap();
        lab.mend();
        let run = bring_back(&lab, "ann@laptop");
        let _ = lab.crash_at(*nth, after, run).await;
        settle(&lab);
        let back = bring_back(&lab, "bob@desk").await.unwrap();
        assert!(
            back.guests.iter().all(|guest| guest.result == Fate::Ok),
            "{what}: {}",
            back.text()
        );
        check_restored(&lab, &before, &what);
    }
}
