//! The real program empties simulated nodes and brings everything back: the runbook, scenarios as data, the operator's
//! other commands, the end of proxmove at every call.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "evacuating/across.rs"]
mod across;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "evacuating/crashes.rs"]
mod crashes;
#[path = "evacuating/nodes.rs"]
mod nodes;
#[path = "evacuating/runbook.rs"]
mod runbook;
#[path = "evacuating/scenarios.rs"]
mod scenarios;
#[path = "support/stage.rs"]
mod stage;
#[path = "evacuating/state.rs"]
mod state;
