//! What goes wrong at a call, and who comes in between.

use std::sync::Arc;

use proxmove::plan::claim::{Claim, Claimant};
use proxmove::plan::mark::Mark;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};

/// The path of a guest's configuration.
pub const CONFIG: &str = "/nodes/*/qemu/*/config";

/// Has the n-th call of that kind of a cluster fail, which then has done nothing.
pub fn fails(stage: &Stage, cluster: &str, (method, path): (&str, &str), nth: usize) {
    stage.simulation.faults().add(Fault {
        cluster: Some(cluster.to_owned()),
        nth: Some(nth),
        ..Fault::first(method, path, FaultKind::Error(500, "boom".to_owned()))
    });
}

/// Has something happen right before the first call of that kind of a cluster is carried out.
pub fn before(
    stage: &Stage,
    cluster: &str,
    (method, path): (&str, &str),
    then: impl Fn() + Send + Sync + 'static,
) {
    stage.simulation.faults().add(Fault {
        cluster: Some(cluster.to_owned()),
        ..Fault::first(method, path, FaultKind::Before(Arc::new(then)))
    });
}

/// Lets bob, on another machine, claim the move of a guest to `banana`, with a sign that is so many seconds old.
pub fn claimed_by_bob(stage: &Stage, name: &str, age: i64) {
    let mut world = stage.simulation.world();
    let banana = world
        .clusters
        .iter_mut()
        .find(|cluster| cluster.alias == "banana")
        .unwrap();
    let (guest, mut mark) = banana
        .guests
        .values_mut()
        .find_map(|guest| {
            let mark = Mark::parse(guest.config.get("description")?)?;
            (mark.name == name).then_some((guest, mark))
        })
        .unwrap();
    let seen = jiff::Timestamp::now().as_second() - age;
    let bob = Claimant {
        by: "bob@desk".to_owned(),
        process: "77.123".to_owned(),
        machine: "000000000000".to_owned(),
    };
    let seen = jiff::Timestamp::from_second(seen).unwrap();
    mark.claim = Some(Claim::new(&bob, seen));
    guest.config.insert("description".to_owned(), mark.render());
}
