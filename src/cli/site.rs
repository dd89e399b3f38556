//! Options of `proxmove sim`; those for one cluster on a storage machine are the project's own, and hidden.
//!
//! Declarations only. Read next: `../commands/site.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::common::OutputArgs;

#[derive(Debug, Args)]
pub(super) struct SimArgs {
    #[command(flatten)]
    pub(super) site: Option<SiteArgs>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// One cluster on a storage machine; for the project's own tests.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct SiteArgs {
    /// Scenario, as JSON
    #[arg(long, value_name = "FILE", hide = true, required = false, requires_all = ["cluster", "directory"])]
    pub scenario: PathBuf,
    /// Alias of the cluster to serve
    #[arg(
        long,
        value_name = "ALIAS",
        hide = true,
        required = false,
        requires = "scenario"
    )]
    pub cluster: String,
    /// Where the API listens
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        hide = true,
        requires = "scenario",
        default_value = "127.0.0.1:0"
    )]
    pub listen: SocketAddr,
    /// Where directory storages and ledgers are
    #[arg(
        long,
        value_name = "DIRECTORY",
        hide = true,
        required = false,
        requires = "scenario"
    )]
    pub directory: PathBuf,
    /// Seed of what guests write
    #[arg(
        long,
        value_name = "N",
        hide = true,
        requires = "scenario",
        default_value_t = 1
    )]
    pub seed: u64,
    /// Confine what a guest writes to so many bytes of each disk
    #[arg(long, value_name = "BYTES", hide = true, requires = "scenario")]
    pub hot: Option<u64>,
    /// How much of the disks is filled, 0 to 1
    #[arg(
        long,
        value_name = "FRACTION",
        hide = true,
        requires = "scenario",
        default_value_t = 0.0
    )]
    pub filled: f64,
}
