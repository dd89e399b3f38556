//! proxmove dies with any of its calls, before or after that is carried out; then the same command, or a restore, on
//! another machine. In the end everything is where it should be, as it was.
//!
//! Some of the calls at each run; `PROXMOVE_CRASHES=all` for all of them, each before and after it is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxmove::cluster::Api;
use proxmove::config::SshAddress;
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
use proxmove::sim::Simulation;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::Cluster;
use proxmove::sim::world::scenario::ClusterSpec;

use crate::cluster::{Adjust, ClusterSpecExt as _, Lab, cluster, ct, ha, node, vm};
use crate::state;

/// Tells nobody.
struct Silent;

impl Reporter for Silent {
    fn tell(&self, _: &Event) {}
}

/// Which guests there are.
#[derive(Clone, Copy, PartialEq)]
enum World {
    /// One of each way: live, live with a disk, shut down and moved, restarted, moved while stopped, stopped in place.
    Plain,
    /// Guests of HA, running, stopped, and a container, beside one that is none. There are hosts, for maintenance mode.
    Ha,
}

/// The one that stays where it is, stopped.
const STAYS: u32 = 105;

impl World {
    fn spec(self) -> ClusterSpec {
        match self {
            World::Plain => cluster("9.1.2", 3).guests(vec![
                vm(101, "node1", "san"),
                vm(102, "node1", "local"),
                vm(103, "node1", "san").with("tags", "evacuate-migrate"),
                ct(111, "node1", "san"),
                vm(104, "node1", "local").stopped(),
                vm(STAYS, "node1", "san").with("tags", "evacuate-stop"),
            ]),
            World::Ha => {
                let mut spec = cluster("9.1.2", 3).guests(vec![
                    vm(101, "node1", "san"),
                    ct(111, "node1", "san"),
                    vm(102, "node1", "san"),
                    vm(103, "node1", "san").stopped(),
                ]);
                let mut parked = ha(103);
                parked.state = "stopped".to_owned();
                spec.ha = vec![ha(101), ha(111), parked];
                spec
            }
        }
    }

    async fn start(self) -> Ground {
        match self {
            World::Plain => Ground::Lab(Box::new(Lab::start(self.spec()))),
            World::Ha => Ground::Stage(Box::new(state::start(self.spec()).await)),
        }
    }
}

/// Where proxmove runs and dies.
enum Ground {
    Lab(Box<Lab>),
    Stage(Box<Stage>),
}

impl Ground {
    fn simulation(&self) -> &Simulation {
        match self {
            Ground::Lab(lab) => &lab.simulation,
            Ground::Stage(stage) => &stage.simulation,
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.simulation().world().clusters[0])
    }

    fn tools(&self, who: &str) -> Evacuator {
        let (home, addresses) = match self {
            Ground::Lab(_) => ("/nonexistent".into(), BTreeMap::new()),
            Ground::Stage(stage) => {
                let nodes = ["node1", "node2", "node3"].map(|name| {
                    let host = &stage.hosts[&format!("apple-{name}")];
                    let address = SshAddress {
                        user: Some(host.user.clone()),
                        host: "127.0.0.1".to_owned(),
                        port: Some(host.port),
                    };
                    (node(name), address)
                });
                (stage.home.clone(), nodes.into())
            }
        };
        Evacuator {
            api: Arc::new(crate::cluster::api_of(
                self.simulation(),
                "root@pam",
                "root",
            )) as Arc<dyn Api>,
            hosts: Arc::new(Hosts::new(SshOptions {
                ciphers: None,
                operator: Arc::new(AlwaysYes),
                environment: SshEnvironment::below(home, "root"),
            })),
            addresses,
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

    /// Has the cluster answer again, and waits until nothing is at work any more.
    fn settle(&self) {
        self.mend();
        let began = std::time::Instant::now();
        while !self.look(|cluster| cluster.tasks.iter().all(|task| task.ended.is_some())) {
            assert!(
                began.elapsed() < crate::cluster::PATIENCE,
                "tasks do not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn mend(&self) {
        let faults = self.simulation().faults();
        faults.revive();
        faults.clear();
        faults.forget();
    }

    async fn evacuate(&self, who: &str) -> Result<Outcomes, EvacuationError> {
        let evacuator = self.tools(who);
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

    async fn bring_back(&self, who: &str) -> Result<Outcomes, EvacuationError> {
        let evacuator = self.tools(who);
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
            parallel: 1,
        }
        .run()
        .await
    }

    /// The calls at which to die: every one that changes something with its neighbours, and every seventh of the others,
    /// another seventh for each course.
    fn moments(&self, offset: usize) -> Vec<usize> {
        let requests = self.simulation().faults().requests();
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
}

fn allowed() -> Allowed {
    Allowed {
        local_disks: true,
        storages: BTreeMap::new(),
    }
}

type State = BTreeMap<u32, (String, bool, Option<String>, BTreeMap<String, String>)>;

fn state_of(ground: &Ground) -> State {
    ground.look(|cluster| {
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

fn notes(ground: &Ground) -> String {
    ground.look(|cluster| cluster.nodes[0].description.clone())
}

/// Where everything is after an evacuation that nothing disturbed.
fn check_evacuated(ground: &Ground, before: &State, what: &str) {
    for (vmid, (node, running, lock, config)) in state_of(ground) {
        let (stays, ran) = (vmid == STAYS, before[&vmid].1);
        assert_eq!(node == "node1", stays, "{what}: {vmid} is on {node}");
        assert_eq!(running, ran && !stays, "{what}: {vmid}");
        assert_eq!(lock, None, "{what}: {vmid}");
        let notes = &config["description"];
        assert!(notes.contains("origin: node1"), "{what}: {vmid}");
        assert_eq!(
            notes.contains("running: yes"),
            ran,
            "{what}: {vmid} was running"
        );
    }
    let notes = notes(ground);
    assert!(notes.contains("stage: evacuated"), "{what}: {notes}");
}

fn check_restored(ground: &Ground, before: &State, what: &str) {
    for (vmid, now) in state_of(ground) {
        assert_eq!(now, before[&vmid], "{what}: {vmid}");
    }
    assert_eq!(notes(ground), "", "{what}");
    let maintained = ground.look(|cluster| cluster.manager.maintenance.contains("node1"));
    assert!(!maintained, "{what}: it is in maintenance");
}

/// What dies, and what comes after it.
#[derive(Clone, Copy, PartialEq)]
enum Course {
    EvacuateAndAgain,
    EvacuateAndRestore,
    RestoreAndAgain,
}

/// Lets a course die at every moment, each time in a new world, and a colleague end it on another machine. `few` takes so many
/// of the moments only.
async fn dies_anywhere(world: World, course: Course, few: Option<usize>) {
    let begin = async |ground: &Ground| {
        if course == Course::RestoreAndAgain {
            ground.evacuate("ann@laptop").await.unwrap();
            ground.settle();
        }
    };
    let run = async |ground: &Ground| match course {
        Course::RestoreAndAgain => ground.bring_back("ann@laptop").await,
        Course::EvacuateAndAgain | Course::EvacuateAndRestore => {
            ground.evacuate("ann@laptop").await
        }
    };
    let ground = world.start().await;
    begin(&ground).await;
    let undisturbed = run(&ground).await.unwrap();
    let failed = |outcomes: &Outcomes| {
        let mut guests = outcomes.guests.iter();
        guests.any(|guest| guest.result == Fate::Failed)
    };
    assert!(!failed(&undisturbed), "{}", undisturbed.text());
    let mut moments = ground.moments(course as usize * 2 + 1);
    assert!(moments.len() > 30, "{}", moments.len());
    if let Some(few) = few {
        let every = moments.len().div_ceil(few);
        moments = moments.into_iter().step_by(every).collect();
    }
    let mut tries: Vec<(usize, bool)> = (moments.into_iter().enumerate())
        .map(|(turn, nth)| (nth, turn % 2 == 0))
        .collect();
    if std::env::var("PROXMOVE_CRASHES").is_ok_and(|which| which == "all") {
        let calls = ground.simulation().faults().requests().len();
        tries = (1..=calls)
            .flat_map(|nth| [(nth, false), (nth, true)])
            .collect();
    }
    let mut died = 0;
    for (nth, after) in &tries {
        let (nth, after) = (*nth, *after);
        let side = if after { "after" } else { "before" };
        let what = format!("died at call {nth}, {side}");
        let ground = world.start().await;
        let before = state_of(&ground);
        begin(&ground).await;
        let dead = ground.simulation().faults().die_at(nth, after);
        tokio::select! {
            _ = run(&ground) => {}
            () = dead.notified() => died += 1,
        }
        ground.settle();
        if course == Course::EvacuateAndAgain {
            let again = ground.evacuate("bob@desk").await.unwrap();
            assert!(again.problems.is_empty(), "{what}: {}", again.text());
            // A container that the HA manager was restarting elsewhere already is none of the second run's.
            let began = std::time::Instant::now();
            let down = |(vmid, now): (u32, (_, bool, _, _))| before[&vmid].1 && !now.1;
            while world == World::Ha
                && began.elapsed() < crate::cluster::PATIENCE
                && state_of(&ground).into_iter().any(down)
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            check_evacuated(&ground, &before, &what);
        } else {
            let back = ground.bring_back("bob@desk").await.unwrap();
            let well = back.guests.iter().all(|guest| guest.result == Fate::Ok);
            assert!(well, "{what}: {}", back.text());
            check_restored(&ground, &before, &what);
        }
    }
    eprintln!("{died} of {} died", tries.len());
    let most = tries.len() * if world == World::Plain { 8 } else { 5 };
    assert!(died * 10 > most, "{died} of {} died", tries.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_dies_anywhere_is_gone_on_with_by_a_colleague() {
    dies_anywhere(World::Plain, Course::EvacuateAndAgain, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_dies_anywhere_is_undone_by_a_restore() {
    dies_anywhere(World::Plain, Course::EvacuateAndRestore, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_dies_anywhere_is_gone_on_with_by_a_colleague() {
    dies_anywhere(World::Plain, Course::RestoreAndAgain, None).await;
}

/// The moments that are tried with guests of HA; each takes the HA manager's rounds.
const FEW: Option<usize> = Some(16);

#[tokio::test(flavor = "multi_thread")]
async fn with_guests_of_ha_an_evacuation_that_dies_is_gone_on_with() {
    dies_anywhere(World::Ha, Course::EvacuateAndAgain, FEW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_guests_of_ha_an_evacuation_that_dies_is_undone() {
    dies_anywhere(World::Ha, Course::EvacuateAndRestore, FEW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_guests_of_ha_a_restore_that_dies_is_gone_on_with() {
    dies_anywhere(World::Ha, Course::RestoreAndAgain, FEW).await;
}
