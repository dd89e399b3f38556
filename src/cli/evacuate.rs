//! The commands about nodes: evacuate, restore, cordon, uncordon. Declarations, and what they mean as values.
//!
//! Read next: `commands/evacuate.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::Common;
use super::arguments::{bridge_pair, pair, time_to_stop};
use super::common::CommonArgs;
use crate::plan::evacuate::across::Across;
use crate::pve::destination::Destination;
use crate::pve::evacuation::{Policy, Selector};
use crate::pve::id::{ClusterAlias, InvalidId, NodeName, PoolId, StorageId, Vmid};
use crate::units::Bandwidth;

/// Which guests a command is about.
#[derive(Clone, Debug, Args)]
pub struct SelectArgs {
    /// Only guests that match: tag=web, pool=prod, name=db1, or a VMID; repeatable, any of them counts
    #[arg(long, value_name = "KIND=VALUE", help_heading = "Selecting guests")]
    pub selector: Vec<Selector>,
    /// Only guests of this pool; as --selector pool=POOL
    #[arg(long, value_name = "POOL", help_heading = "Selecting guests")]
    pub pool: Vec<PoolId>,
    /// Only these guests; as --selector VMID
    #[arg(
        long,
        value_name = "VMID",
        value_delimiter = ',',
        help_heading = "Selecting guests"
    )]
    pub vmid: Vec<Vmid>,
    /// Not guests that match, written as for --selector
    #[arg(long, value_name = "KIND=VALUE", help_heading = "Selecting guests")]
    pub exclude: Vec<Selector>,
}

impl SelectArgs {
    /// Returns all selectors that name guests.
    pub fn only(&self) -> Vec<Selector> {
        let pools = self.pool.iter().cloned().map(Selector::Pool);
        let vmids = self.vmid.iter().copied().map(Selector::Vmid);
        self.selector
            .iter()
            .cloned()
            .chain(pools)
            .chain(vmids)
            .collect()
    }
}

/// Whether and how it runs.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Show the plan and stop before doing any writes
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do it without asking, as --yes
    #[arg(long, conflicts_with = "dry_run")]
    pub execute: bool,
    /// Answer every question with yes
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// How long what is waited for may show no change [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = time_to_stop, help_heading = "Waiting")]
    pub patience: Option<Duration>,
    /// How long a guest may take to shut down before it is switched off [default: 3min]
    #[arg(long, value_name = "TIME", value_parser = time_to_stop, help_heading = "Waiting")]
    pub stop_timeout: Option<Duration>,
    /// Time between two looks at what is waited for
    #[arg(long, value_name = "TIME", value_parser = any_time, default_value = "5s", hide = true)]
    pub look: Duration,
}

/// `proxmove evacuate`.
#[derive(Debug, Args)]
pub(super) struct EvacuateArgs {
    /// Alias of the cluster
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterAlias,
    /// Node to empty
    #[arg(value_name = "NODE", required_unless_present = "rolling")]
    node: Option<NodeName>,
    /// Nodes that guests may go to; repeatable, or comma separated; all others when left out
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    to: Vec<NodeName>,
    /// What happens to guests that neither a tag nor the configuration says anything about
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// Put disks of a storage that is not shared onto another one; repeatable, or comma separated
    #[arg(long, value_name = "A=B", value_parser = storage_pair, value_delimiter = ',')]
    map_storage: Vec<(StorageId, StorageId)>,
    /// Do not carry disks of storages that are not shared
    #[arg(long)]
    no_local_disks: bool,
    /// Do not switch HA maintenance on; move guests of HA one by one, like the others
    #[arg(long)]
    no_ha_maintenance: bool,
    /// Stop guests that find no room, instead of refusing the evacuation
    #[arg(long)]
    stop_unplaced: bool,
    /// Move guests that no other node takes to another cluster, to this node and storage there
    ///
    /// They are moved as by 'proxmove SOURCE DESTINATION NODEID STORAGE VM', with a short stop; all that forbids it is
    /// found before anything begins. 'restore' brings them back, with what has changed. Containers and guests of HA cannot go.
    #[arg(
        long,
        value_name = "ALIAS:NODE:STORAGE",
        help_heading = "To another cluster"
    )]
    to_cluster: Option<Destination>,
    /// Move all VMs there, also those that other nodes would take
    #[arg(long, requires = "to_cluster", help_heading = "To another cluster")]
    all_to_cluster: bool,
    /// Connect network cards on bridge A to bridge B there; repeatable, or comma separated
    #[arg(long, value_name = "A=B", value_parser = bridge_pair, value_delimiter = ',', requires = "to_cluster",
        help_heading = "To another cluster")]
    map_bridge: Vec<(String, String)>,
    /// Limit for each move there, in Mbit/s
    #[arg(long, value_name = "MBPS", value_parser = clap::value_parser!(u64).range(1..), requires = "to_cluster",
        help_heading = "To another cluster")]
    bwlimit: Option<u64>,
    /// Choose another node for a guest when the planned one does not do any more
    #[arg(long)]
    replan: bool,
    /// Begin nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Guests that leave at one time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    parallel: Option<u16>,
    /// Guests that arrive at one node at one time [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    parallel_per_target: Option<u16>,
    /// Go through all nodes of the cluster, or those of --nodes: evacuate, maintain, restore, next
    #[arg(long, conflicts_with = "node")]
    rolling: bool,
    /// Nodes to go through, in this order
    #[arg(long, value_name = "NODE", value_delimiter = ',', requires = "rolling")]
    nodes: Vec<NodeName>,
    /// Command to run on each empty node; without it you are asked to go on
    #[arg(long, value_name = "COMMAND", requires = "rolling")]
    command: Option<String>,
    /// How long the command may be silent
    #[arg(long, value_name = "TIME", value_parser = time_to_stop, default_value = "30min", requires = "command")]
    command_silence: Duration,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// `proxmove restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// Alias of the cluster
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterAlias,
    /// Node whose guests come back
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Move nothing: only open the node and remove the notes on its guests
    #[arg(long)]
    no_move: bool,
    /// Bring back guests too that somebody has moved on since
    #[arg(long)]
    also_moved_on: bool,
    /// Put disks of a storage that is not shared onto another one; repeatable, or comma separated
    #[arg(long, value_name = "A=B", value_parser = storage_pair, value_delimiter = ',')]
    map_storage: Vec<(StorageId, StorageId)>,
    /// Guests of one place in the start order that come back at one time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    parallel: Option<u16>,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// `proxmove cordon` and `proxmove uncordon`.
#[derive(Debug, Args)]
pub(super) struct CordonArgs {
    /// Alias of the cluster
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterAlias,
    /// Node to close or open
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Leave HA maintenance as it is
    #[arg(long)]
    no_ha_maintenance: bool,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// An evacuation as it was typed. What is `None` or empty is left to the configuration.
#[derive(Clone, Debug)]
pub struct EvacuateCommand {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// The node to empty; `None` with `--rolling`.
    pub node: Option<NodeName>,
    /// `--to`.
    pub to: Vec<NodeName>,
    /// `--policy`.
    pub policy: Option<Policy>,
    /// `--map-storage`.
    pub storages: BTreeMap<StorageId, StorageId>,
    /// `--no-local-disks`.
    pub no_local_disks: bool,
    /// `--no-ha-maintenance`.
    pub no_ha_maintenance: bool,
    /// `--stop-unplaced`.
    pub stop_unplaced: bool,
    /// `--to-cluster` and `--all-to-cluster`.
    pub across: Option<Across>,
    /// `--map-bridge`.
    pub bridges: BTreeMap<String, String>,
    /// `--bwlimit`.
    pub limit: Option<Bandwidth>,
    /// `--replan`.
    pub replan: bool,
    /// `--fail-fast`.
    pub fail_fast: bool,
    /// `--parallel`.
    pub parallel: Option<usize>,
    /// `--parallel-per-target`.
    pub parallel_per_target: Option<usize>,
    /// `--rolling`.
    pub rolling: bool,
    /// `--nodes`.
    pub nodes: Vec<NodeName>,
    /// `--command`, and how long it may be silent.
    pub command: Option<(String, Duration)>,
    /// Which guests.
    pub select: SelectArgs,
    /// Whether and how.
    pub run: RunArgs,
    /// What most commands know.
    pub common: Common,
}

/// A restore as it was typed.
#[derive(Clone, Debug)]
pub struct RestoreCommand {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// The node.
    pub node: NodeName,
    /// `--no-move`.
    pub no_move: bool,
    /// `--also-moved-on`.
    pub also_moved_on: bool,
    /// `--map-storage`.
    pub storages: BTreeMap<StorageId, StorageId>,
    /// `--parallel`.
    pub parallel: Option<usize>,
    /// Which guests.
    pub select: SelectArgs,
    /// Whether and how.
    pub run: RunArgs,
    /// What most commands know.
    pub common: Common,
}

/// Closing or opening a node, as it was typed.
#[derive(Clone, Debug)]
pub struct CordonCommand {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// The node.
    pub node: NodeName,
    /// Whether it is closed, or opened.
    pub close: bool,
    /// `--no-ha-maintenance`.
    pub no_ha_maintenance: bool,
    /// Whether and how.
    pub run: RunArgs,
    /// What most commands know.
    pub common: Common,
}

impl EvacuateArgs {
    pub(super) fn command(self) -> EvacuateCommand {
        let silence = self.command_silence;
        EvacuateCommand {
            cluster: self.cluster,
            node: self.node,
            to: self.to,
            policy: self.policy,
            storages: self.map_storage.into_iter().collect(),
            no_local_disks: self.no_local_disks,
            no_ha_maintenance: self.no_ha_maintenance,
            stop_unplaced: self.stop_unplaced,
            across: self.to_cluster.map(|to| Across {
                to,
                all: self.all_to_cluster,
            }),
            bridges: self.map_bridge.into_iter().collect(),
            limit: self.bwlimit.map(Bandwidth::mbit_per_second),
            replan: self.replan,
            fail_fast: self.fail_fast,
            parallel: self.parallel.map(usize::from),
            parallel_per_target: self.parallel_per_target.map(usize::from),
            rolling: self.rolling,
            nodes: self.nodes,
            command: self.command.map(|line| (line, silence)),
            select: self.select,
            run: self.run,
            common: self.common.settle(),
        }
    }
}

impl RestoreArgs {
    pub(super) fn command(self) -> RestoreCommand {
        RestoreCommand {
            cluster: self.cluster,
            node: self.node,
            no_move: self.no_move,
            also_moved_on: self.also_moved_on,
            storages: self.map_storage.into_iter().collect(),
            parallel: self.parallel.map(usize::from),
            select: self.select,
            run: self.run,
            common: self.common.settle(),
        }
    }
}

impl CordonArgs {
    pub(super) fn command(self, close: bool) -> CordonCommand {
        CordonCommand {
            cluster: self.cluster,
            node: self.node,
            close,
            no_ha_maintenance: self.no_ha_maintenance,
            run: self.run,
            common: self.common.settle(),
        }
    }
}

fn storage_pair(text: &str) -> Result<(StorageId, StorageId), String> {
    let (from, to) = pair(text)?;
    let id = |text: &str| text.parse().map_err(|error: InvalidId| error.to_string());
    Ok((id(from)?, id(to)?))
}

fn any_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a time with its unit, such as 5s".to_owned())
}
