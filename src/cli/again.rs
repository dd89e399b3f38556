//! Commands for moves that were begun earlier: `status`, `resume`, `abort`, `verify`.
//!
//! Declarations, and what they become. Read next: `../moves/again.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::afterwards::{AfterwardsInstead, OtherAfterwards};
use super::arguments::{guest, time};
use super::common::{CommonArgs, ConnectionArgs, OutputArgs, settle};
use super::{Common, Conduct};
use crate::moves::again::Which;
use crate::pve::id::ClusterAlias;
use crate::units::Bandwidth;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show only moves from or to these clusters; all clusters of the configuration are asked in any case
    #[arg(value_name = "CLUSTER")]
    clusters: Vec<ClusterAlias>,
    /// Read the notes of every VM: also finds moves whose source is on a cluster that is not in the configuration
    #[arg(long)]
    thorough: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct Guests {
    /// Alias of the source cluster
    #[arg(value_name = "SOURCE")]
    source: ClusterAlias,
    /// Alias of the destination cluster
    #[arg(value_name = "DESTINATION")]
    destination: ClusterAlias,
    /// One or more VMs (guests), by the names they had before the move
    #[arg(value_name = "VM", required = true, value_parser = guest)]
    guests: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    guests: Guests,
    /// Ask for confirmation before shutting down the VM, also if that was not asked for at first
    #[arg(long)]
    wait_before_stop: bool,
    #[command(flatten)]
    several: Several,
    /// Answer every question with yes
    #[arg(long)]
    yes: bool,
    /// Limit bandwidth in Mbit/s, instead of the limit at first
    #[arg(long, value_name = "MBPS", value_parser = clap::value_parser!(u64).range(1..=10_000_000), help_heading = "Copying")]
    bwlimit: Option<u64>,
    /// Drives to copy at the same time, instead of the number at first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Copying")]
    parallel: Option<u8>,
    #[command(flatten)]
    afterwards: OtherAfterwards,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct AbortArgs {
    #[command(flatten)]
    guests: Guests,
    /// Leave a VM stopped that ran before the move
    #[arg(long)]
    skip_start: bool,
    /// Give up what was written on the destination, also when the VM has run there: it is switched off there first
    #[arg(long)]
    discard_target: bool,
    /// How long a cluster or storage machine that cannot be reached is waited for
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10min")]
    patience: Duration,
    #[command(flatten)]
    several: Several,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    guests: Guests,
    #[command(flatten)]
    common: CommonArgs,
}

/// What to do about others: other operators, and the other VMs of a command.
#[derive(Debug, Default, Args)]
pub(super) struct Several {
    /// Take a move over that somebody else works on; they are told and stop
    #[arg(long)]
    take_over: bool,
    /// After the first VM that fails, do not begin the others
    #[arg(long)]
    fail_fast: bool,
}

impl Several {
    /// Returns how to go about moves that wait for nobody's lock.
    pub(super) fn conduct(self, yes: bool, common: CommonArgs) -> Conduct {
        Conduct {
            yes,
            take_over: self.take_over,
            fail_fast: self.fail_fast,
            wait_for_locks: Duration::ZERO,
            common: common.settle(),
        }
    }
}

/// `proxmove status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCommand {
    /// Moves that touch these clusters; all when empty.
    pub clusters: BTreeSet<ClusterAlias>,
    /// `--thorough`.
    pub thorough: bool,
    /// What most commands know.
    pub common: Common,
}

/// `proxmove resume`.
#[derive(Clone, Debug)]
pub struct ResumeCommand {
    /// Which moves.
    pub which: Which,
    /// `--wait-before-stop`, beside what was asked for at first.
    pub wait_before_stop: bool,
    /// `--bwlimit`, instead.
    pub limit: Option<Bandwidth>,
    /// `--parallel`, instead.
    pub parallel: Option<usize>,
    /// `--boot-check` and `--on-failure`, instead.
    pub afterwards: AfterwardsInstead,
    /// How to go about it.
    pub conduct: Conduct,
}

/// `proxmove verify`.
#[derive(Clone, Debug)]
pub struct VerifyCommand {
    /// Which moves.
    pub which: Which,
    /// What most commands know.
    pub common: Common,
}

/// `proxmove abort`.
#[derive(Clone, Debug)]
pub struct AbortCommand {
    /// Which moves.
    pub which: Which,
    /// `false` with `--skip-start`.
    pub start: bool,
    /// `--discard-target`: what is only on the target is given up.
    pub discard_target: bool,
    /// `--patience`.
    pub patience: Duration,
    /// How to go about it. Nothing is asked.
    pub conduct: Conduct,
}

fn which(guests: Guests) -> Result<Which, clap::Error> {
    super::named_once(&guests.guests)?;
    Ok(Which {
        source: guests.source,
        target: guests.destination,
        guests: guests.guests,
    })
}

impl StatusArgs {
    pub(super) fn command(self) -> StatusCommand {
        StatusCommand {
            clusters: self.clusters.into_iter().collect(),
            thorough: self.thorough,
            common: settle(self.connection, &self.output),
        }
    }
}

impl ResumeArgs {
    pub(super) fn command(self) -> Result<ResumeCommand, clap::Error> {
        Ok(ResumeCommand {
            which: which(self.guests)?,
            wait_before_stop: self.wait_before_stop,
            limit: self.bwlimit.map(Bandwidth::mbit_per_second),
            parallel: self.parallel.map(usize::from),
            afterwards: self.afterwards.instead(),
            conduct: self.several.conduct(self.yes, self.common),
        })
    }
}

impl VerifyArgs {
    pub(super) fn command(self) -> Result<VerifyCommand, clap::Error> {
        Ok(VerifyCommand {
            which: which(self.guests)?,
            common: self.common.settle(),
        })
    }
}

impl AbortArgs {
    pub(super) fn command(self) -> Result<AbortCommand, clap::Error> {
        Ok(AbortCommand {
            which: which(self.guests)?,
            start: !self.skip_start,
            discard_target: self.discard_target,
            patience: self.patience,
            conduct: self.several.conduct(false, self.common),
        })
    }
}
