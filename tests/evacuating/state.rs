//! What a guest is like, so that before and after can be compared field by field; and a stage of one cluster.

use std::collections::BTreeMap;

use proxmove::sim::stage::Stage;
use proxmove::sim::world::scenario::ClusterSpec;

use crate::cluster::ALIAS;
use crate::stage;

/// A guest as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) node: String,
    pub(crate) running: bool,
    pub(crate) lock: Option<String>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) snapshots: usize,
}

/// Starts one cluster with hosts.
pub(crate) async fn start(spec: ClusterSpec) -> Stage {
    stage::start(vec![spec], |settings| settings.filled = 0.0).await
}

/// Returns all guests.
pub(crate) fn all(stage: &Stage) -> BTreeMap<u32, State> {
    let world = stage.simulation.world();
    world.clusters[0]
        .guests
        .values()
        .map(|guest| {
            let state = State {
                node: guest.node.clone(),
                running: guest.run.is_some(),
                lock: guest.lock().map(str::to_owned),
                config: guest.config.clone(),
                snapshots: guest.snapshots.len(),
            };
            (guest.vmid, state)
        })
        .collect()
}

/// Returns the notes of a node.
pub(crate) fn notes(stage: &Stage, node: &str) -> String {
    let world = stage.simulation.world();
    let nodes = &world.clusters[0].nodes;
    let found = nodes.iter().find(|known| known.name == node).unwrap();
    found.description.clone()
}

/// Returns the arguments of a command with what makes it quick and talkative.
pub(crate) fn quick<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec![words[0], ALIAS];
    all.extend(&words[1..]);
    all.extend(["--look", "20ms", "--patience", "8s", "--stop-timeout", "1s"]);
    all
}
