//! proxmove moves virtual machines between Proxmox VE clusters over SSH.
//!
//! **Observe, decide, act, tell.** `cluster` (the PVE API) and `host` (machines reached over SSH) observe. `plan`
//! decides and is pure. `moves` and `transfer` act. `report` tells. A move is one loop: observe, derive the state, take
//! the next step, observe again; resuming is the same loop started later.
//!
//! Read in this order: [`units`], [`pve`], [`config`], [`plan`], [`cluster`], [`host`], [`transfer`], [`porter`],
//! [`moves`], [`report`], [`cli`], and [`sim`] for the simulated clusters of `proxmove demo` and the tests.
//!
//! Who may use whom: units <- pve <- config <- plan <- report <- {transfer, moves} <- cli <- main.

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod error;
pub mod evacuation;
pub mod host;
pub mod moves;
pub mod plan;
pub mod porter;
pub mod pve;
pub mod report;
pub mod sim;
pub mod transfer;
pub mod units;

#[cfg(test)]
#[path = "../tests/support/mutations.rs"]
mod mutations;
/// What a test could not do here; shared with the tests outside.
#[cfg(test)]
#[path = "../tests/support/not_run.rs"]
mod not_run;
