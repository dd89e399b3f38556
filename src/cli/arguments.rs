//! The command line as clap knows it. Its help texts are the manual.
//!
//! Declarations only; `cli.rs` turns them into a request. Names and meanings of the original's options never change.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::afterwards::Afterwards;
use super::again::{AbortArgs, ResumeArgs, Several, StatusArgs, VerifyArgs};
use super::common::{CommonArgs, ConnectionArgs, OutputArgs};
use super::evacuate::{CordonArgs, EvacuateArgs, RestoreArgs};
use super::site::SimArgs;
use crate::pve::drive::DriveKey;
use crate::pve::id::{ClusterAlias, NodeName, StorageId, Vmid};

/// How long a guest may take to shut down. Chosen long: a guest that is switched off may lose data, and one that
/// hangs only makes its operator wait.
pub(super) const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(120);

const USAGE: &str = "proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
       proxmove [OPTIONS] COMMAND ...";

const AFTER_HELP: &str = "\
Cluster aliases and storage locations are defined in ~/.proxmoverc (or see \
--config); proxmoverc.sample explains it. It needs [pve:ALIAS] sections with the \
API's URL. [storage:ALIAS:NAME] sections with \"ssh\", \"path\" and \"temp\" can be \
left out where the API knows it all; 'proxmove config show' prints them.

A move that was interrupted is continued by the same command. The source VM \
stays where it is, stopped, as NAME--MIGRATED.

Exit codes:
    0  done
    1  a bug in proxmove
    2  the command line was not understood
    3  the configuration cannot be used
    4  refused; nothing was changed
    5  failed; the source VM is as it was
    6  failed, and the source VM is down; the error says what to do
  130  interrupted; the source VM is up
With several VMs, the worst counts; down is the worst of all.";

const EVACUATE_HELP: &str = "\
Policies, for each guest by its tag 'evacuate-POLICY', or by [evacuate:CLUSTER] \
in the configuration (KubeVirt's words mean the same: LiveMigrate, \
LiveMigrateIfPossible, None, External):
  auto          live where possible, else with a stop and a start elsewhere, \
else stopped (the default)
  live-migrate  live, or the evacuation is refused
  migrate       shut down, moved, started there
  stop          shut down in place
  force-stop    switched off in place
  ignore        left alone
Templates stay. [budget:NAME] sections say what must go on running meanwhile.

See docs/EVACUATION.rst, and 'proxmove --help' for the exit codes.";

/// Moves virtual machines from one Proxmox VE cluster to another.
#[derive(Debug, Parser)]
#[command(
    name = "proxmove",
    version,
    override_usage = USAGE,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    // The same everywhere: it is the width every terminal has, and help texts are compared in tests.
    term_width = 80
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    // For clap to know the options; `cli.rs` reads them, because a flattened `Option` is always `None` when the
    // structure has flattened parts itself.
    #[command(flatten)]
    _classic: Option<MoveArgs>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Move VMs: the same as without a command, for a SOURCE that is called like a command
    #[command(
        override_usage = "proxmove move [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...",
        after_help = "See 'proxmove --help' for the configuration and the exit codes."
    )]
    Move(MoveArgs),
    /// Try everything a move needs, without moving anything
    ///
    /// Tests the configuration, whether APIs and storage machines can be reached, rights, tools, free space and clocks.
    /// Names each missing right and the command that grants it. With VMs, it also checks these.
    #[command(
        override_usage = "proxmove check [OPTIONS] SOURCE DESTINATION NODEID STORAGE [VM...]",
        after_help = "Exit codes: 0 all is well, 3 the configuration cannot be used, 4 a move would be refused."
    )]
    Check(CheckArgs),
    /// Show the configuration
    #[command(arg_required_else_help = true)]
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print a completion script for a shell
    #[command(
        after_help = "For bash: proxmove completions bash > ~/.local/share/bash-completion/completions/proxmove"
    )]
    Completions {
        /// Shell to complete for
        shell: Shell,
    },
    /// Print the manual page: proxmove man | man -l -
    Man,
    /// Move a VM between two simulated clusters, and leave nothing behind
    ///
    /// Starts two simulated clusters in a temporary directory, moves a running VM with two disks from one to the other,
    /// and removes everything. Needs no configuration, no cluster and no rights.
    Demo(OutputArgs),
    /// Keep two simulated clusters running, to try proxmove out
    ///
    /// Prints a proxmoverc for them. They end with Ctrl-C, and nothing is left behind.
    Sim(SimArgs),
    /// Judge a guest's disks by the ledger of a simulated guest
    #[command(hide = true)]
    SimProof {
        /// The ledger
        #[arg(long, value_name = "FILE")]
        ledger: PathBuf,
        /// The disks in the order of the guest's drives: block devices, raw files, or files whose names end in .qcow2
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<PathBuf>,
    },
    /// Move VMs back to where they came from, and send only what has changed
    ///
    /// CLUSTER is where the VMs are now. Where they came from is found on the configured clusters: a stopped VM
    /// NAME--MIGRATED whose notes say that it was moved there. It becomes NAME again, under its old VMID and with the
    /// present configuration; its disks are overwritten with what has changed since. Afterwards the VM on CLUSTER is
    /// NAME--MIGRATED, and the same command leads forward again.
    #[command(
        override_usage = "proxmove back [OPTIONS] CLUSTER VM...",
        after_help = "The disks of NAME--MIGRATED are the fallback of the first move: only this command overwrites them. It is \
                      refused when somebody used them meanwhile. An interrupted way back is continued by the same command.\n\n\
                      See 'proxmove --help' for the configuration and the exit codes."
    )]
    Back(BackArgs),
    /// List and remove what moves have left behind
    ///
    /// Looks at the configured clusters, or at those named, and at their storage machines: snapshots, bookmarks and
    /// holds kept for a way back, temporary files, and uploaded programs. Only what carries proxmove's mark is listed, and
    /// nothing that a move in progress needs is removed. VMs and disks are never removed; a VM NAME--CREATING is listed
    /// with what can be done about it.
    #[command(
        override_usage = "proxmove cleanup [OPTIONS] [CLUSTER...]",
        after_help = "Exit codes: 0 done, or nothing is left to do; 4 nobody was there to agree, nothing was removed; 5 something \
                      could not be asked or removed."
    )]
    Cleanup(CleanupArgs),
    /// Show every move that is not finished
    ///
    /// Asks all clusters of the configuration, and no storage machine: how far each move is, how the VM was left, who began
    /// it and who works on it, and the commands that go on with it or go back.
    #[command(
        override_usage = "proxmove status [OPTIONS] [CLUSTER...]",
        after_help = "Exit codes: 0 all clusters answered, 3 the configuration cannot be used, 5 some did not answer."
    )]
    Status(StatusArgs),
    /// Go on with moves that were begun earlier, by what was asked for then
    ///
    /// The notes of NAME--CREATING on the destination say what was asked for; nothing has to be typed again. The command a
    /// move was begun with, typed again, does the same.
    #[command(
        override_usage = "proxmove resume [OPTIONS] SOURCE DESTINATION VM...",
        after_help = "See 'proxmove --help' for the configuration and the exit codes."
    )]
    Resume(ResumeArgs),
    /// Give moves up: the source VM becomes as it was, what was copied is removed
    ///
    /// First the source gets its name, onboot and notes back, and is started if it ran; then the copies and the placeholder
    /// are removed. Once the VM has run on the destination there is no way back by this.
    #[command(
        override_usage = "proxmove abort [OPTIONS] SOURCE DESTINATION VM...",
        after_help = "See 'proxmove --help' for the configuration and the exit codes."
    )]
    Abort(AbortArgs),
    /// Compare the volumes of a finished move again, while both VMs are stopped
    ///
    /// Each storage machine reads its own volume, and only digests travel. A VM that has run on the destination differs from
    /// its source by right.
    #[command(
        override_usage = "proxmove verify [OPTIONS] SOURCE DESTINATION VM...",
        after_help = "Exit codes: 0 all are equal, 3 the configuration cannot be used, 4 something was not compared, 5 something differs."
    )]
    Verify(VerifyArgs),
    /// Move all guests off a node, before maintenance
    ///
    /// Shows what happens to each guest, where it goes and why, and how full the other nodes are before and after. At a
    /// terminal it asks before it begins; otherwise only --execute or --yes begins. The node is closed first ('cordon').
    /// Each guest is marked with the node it belongs to, so that 'proxmove restore' brings it back, from any machine.
    #[command(
        override_usage = "proxmove evacuate [OPTIONS] CLUSTER NODE
       proxmove evacuate [OPTIONS] --rolling CLUSTER",
        after_help = EVACUATE_HELP
    )]
    Evacuate(EvacuateArgs),
    /// Bring all guests back to a node that was evacuated
    ///
    /// Waits until the node is back and healthy, brings back what came from it, in the start order, starts what was
    /// running, and opens the node. Guests that somebody has moved on since are left and listed. It may be repeated, works
    /// partly, and needs no file.
    #[command(
        override_usage = "proxmove restore [OPTIONS] CLUSTER NODE",
        after_help = "See 'proxmove --help' for the exit codes."
    )]
    Restore(RestoreArgs),
    /// Close a node: no proxmove places guests there any more
    ///
    /// Writes a block into the node's notes, where colleagues see it too. Where HA is in use, HA maintenance is switched
    /// on, which moves the guests of HA away.
    #[command(override_usage = "proxmove cordon [OPTIONS] CLUSTER NODE")]
    Cordon(CordonArgs),
    /// Open a node that was closed; moves nothing
    #[command(override_usage = "proxmove uncordon [OPTIONS] CLUSTER NODE")]
    Uncordon(CordonArgs),
}

#[derive(Debug, Args)]
pub(super) struct BackArgs {
    /// Alias of the cluster the VMs are on now
    #[arg(value_name = "CLUSTER")]
    pub(super) cluster: ClusterAlias,
    /// One or more VMs (guests) to move back, by name
    #[arg(value_name = "VM", required = true, value_parser = guest)]
    pub(super) guests: Vec<String>,
    /// Go back to this cluster, when there is more than one former VM
    #[arg(long, value_name = "CLUSTER")]
    pub(super) to: Option<ClusterAlias>,

    #[command(flatten)]
    pub(super) wishes: Wishes,
    #[command(flatten)]
    pub(super) several: Several,
    #[command(flatten)]
    pub(super) tuning: Tuning,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// How a VM is moved back.
#[derive(Debug, Args)]
pub(super) struct Wishes {
    /// Show the plan and stop before doing any writes
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Do not start the VM there
    #[arg(long)]
    pub(super) skip_start: bool,
    /// Ask for confirmation before shutting down the VM; copying goes on meanwhile
    #[arg(long)]
    pub(super) wait_before_stop: bool,
    /// Let disks that are encrypted by ZFS lie unencrypted on the destination, where its storage is not encrypted
    #[arg(long)]
    pub(super) allow_plain: bool,
    /// Leave no snapshots behind for another way back
    #[arg(long)]
    pub(super) forget: bool,
    /// Wait so long for VMs that are locked, by a backup for example, instead of refusing them at once
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s", hide_default_value = true)]
    pub(super) wait_for_locks: Duration,
    /// Answer every question with yes
    #[arg(long)]
    pub(super) yes: bool,
    /// Keep copying while the VM runs until the rest is estimated to take less than this (30s, 2min), as long as that
    /// pays
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Downtime")]
    pub(super) max_downtime: Option<Duration>,
    /// How long the VM may take to shut down before it is switched off
    #[arg(long, value_name = "TIME", value_parser = time_to_stop, default_value = "120s", help_heading = "Downtime")]
    pub(super) stop_timeout: Duration,
    #[command(flatten)]
    pub(super) afterwards: Afterwards,
}

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// Clusters to look at; all of the configuration otherwise
    #[arg(value_name = "CLUSTER")]
    pub(super) clusters: Vec<ClusterAlias>,
    /// Only list what would be removed
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Also give up moves that nobody works on and whose source is as it was; what they copied goes with them
    #[arg(long)]
    pub(super) abandoned: bool,
    /// Remove without asking
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Print all clusters and storages, each with where it comes from
    ///
    /// Asks the clusters for storages that have no section in the configuration. Secrets are shown as ***.
    Show {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    #[command(flatten)]
    pub(super) place: Place,
    /// One or more VMs (guests) to move, by name
    #[arg(value_name = "VM", required = true, value_parser = guest)]
    pub(super) guests: Vec<String>,

    /// Show the plan and stop before doing any writes
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Do the move, but skip copying of the disks; implies --skip-start
    #[arg(long)]
    pub(super) skip_disks: bool,
    /// Do the move, but do not start the new VM
    #[arg(long)]
    pub(super) skip_start: bool,
    /// Prepare the move, but ask for confirmation before shutting down the old VM (useful if you have to move
    /// networks/IPs); copying goes on meanwhile, so that little is left to copy
    #[arg(long)]
    pub(super) wait_before_stop: bool,
    /// Continue when the target VM already exists; allows moving to the same cluster
    #[arg(long)]
    pub(super) ignore_exists: bool,
    /// Let disks that are encrypted by ZFS lie unencrypted on the destination, where its storage is not encrypted
    #[arg(long)]
    pub(super) allow_plain: bool,
    /// Move the VM's snapshots too, so that it can be rolled back to them on the destination; needs root on its node
    #[arg(long, conflicts_with = "skip_disks")]
    pub(super) with_snapshots: bool,
    /// Leave no snapshots behind for a way back that sends only what has changed
    #[arg(long)]
    pub(super) forget: bool,
    /// Answer every question with yes
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) several: Several,
    /// Wait so long for VMs that are locked, by a backup for example, instead of refusing them at once
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s", hide_default_value = true)]
    pub(super) wait_for_locks: Duration,

    /// VMID on the destination; the next free one otherwise
    #[arg(long, value_name = "VMID", help_heading = "Mapping")]
    pub(super) target_vmid: Option<Vmid>,

    /// Keep copying while the VM runs until the rest is estimated to take less than this (30s, 2min), as long as that
    /// pays
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Downtime")]
    pub(super) max_downtime: Option<Duration>,
    /// How long the VM may take to shut down before it is switched off
    #[arg(long, value_name = "TIME", value_parser = time_to_stop, default_value = "120s", help_heading = "Downtime")]
    pub(super) stop_timeout: Duration,
    #[command(flatten)]
    pub(super) afterwards: Afterwards,

    #[command(flatten)]
    pub(super) tuning: Tuning,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) place: Place,
    /// VMs (guests) to check, by name
    #[arg(value_name = "VM", value_parser = guest)]
    pub(super) guests: Vec<String>,
    /// Accept a target VM that already exists; allows moving to the same cluster
    #[arg(long)]
    pub(super) ignore_exists: bool,
    /// Accept that disks that are encrypted by ZFS would lie unencrypted on the destination
    #[arg(long)]
    pub(super) allow_plain: bool,
    /// Check whether the VM's snapshots could be moved too
    #[arg(long)]
    pub(super) with_snapshots: bool,
    #[command(flatten)]
    pub(super) tuning: Tuning,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// Alias of the source cluster
    #[arg(value_name = "SOURCE")]
    pub(super) source: ClusterAlias,
    /// Alias of the destination cluster
    #[arg(value_name = "DESTINATION")]
    pub(super) destination: ClusterAlias,
    /// Node on the destination cluster
    #[arg(value_name = "NODEID")]
    pub(super) node: NodeName,
    /// Storage on the destination node
    #[arg(value_name = "STORAGE")]
    pub(super) storage: StorageId,
}

#[derive(Debug, Args)]
pub(super) struct Tuning {
    /// Connect interfaces on bridge A of the source to bridge B of the destination; repeatable, or comma separated
    #[arg(long, value_name = "A=B", value_parser = bridge_pair, value_delimiter = ',', help_heading = "Mapping")]
    pub(super) map_bridge: Vec<(String, String)>,
    /// Put this drive (scsi1) onto another storage than STORAGE; repeatable, or comma separated
    #[arg(long, value_name = "DRIVE=STORAGE", value_parser = drive_pair, value_delimiter = ',', help_heading = "Mapping")]
    pub(super) map_storage: Vec<(DriveKey, StorageId)>,

    /// Limit bandwidth in Mbit/s
    #[arg(long, value_name = "MBPS", value_parser = clap::value_parser!(u64).range(1..=10_000_000), help_heading = "Copying")]
    pub(super) bwlimit: Option<u64>,
    /// How the bytes travel: directly from storage machine to storage machine, relayed through this machine, or
    /// directly where that works
    #[arg(long, value_enum, default_value_t, help_heading = "Copying")]
    pub(super) route: RouteArg,
    /// Drives to copy at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Copying")]
    pub(super) parallel: u8,
    /// What to compare before the source is retired: what can be read back from the target's disks (full), or only what
    /// arrived there
    #[arg(long, value_enum, default_value_t, help_heading = "Copying")]
    pub(super) verify: VerifyArg,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum RouteArg {
    // Direct where the machines reach each other, else relay.
    #[default]
    Auto,
    // From storage machine to storage machine.
    Direct,
    // Through this machine.
    Relay,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum VerifyArg {
    // Read back what is on the target's disks.
    #[default]
    Full,
    // Trust the target's disks to keep what arrived.
    Transfer,
}

pub(super) fn guest(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a VM's name is one word".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a time with its unit, such as 30s or 2min".to_owned())
}

pub(super) fn time_to_stop(text: &str) -> Result<Duration, String> {
    match time(text)? {
        short if short < Duration::from_secs(1) => {
            Err("a guest needs at least 1s to stop".to_owned())
        }
        long => Ok(long),
    }
}

pub(super) fn pair(text: &str) -> Result<(&str, &str), String> {
    match text
        .split_once('=')
        .map(|(from, to)| (from.trim(), to.trim()))
    {
        Some((from, to)) if !from.is_empty() && !to.is_empty() && !to.contains('=') => {
            Ok((from, to))
        }
        _ => Err("write two names with '=' between them".to_owned()),
    }
}

pub(super) fn bridge_pair(text: &str) -> Result<(String, String), String> {
    let (from, to) = pair(text)?;
    // The names of Linux interfaces and of PVE's virtual networks; anything else could change the meaning of netN.
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    if is_name(from) && is_name(to) {
        Ok((from.to_owned(), to.to_owned()))
    } else {
        Err("a bridge's name has letters, digits, '.', '-' and '_'".to_owned())
    }
}

fn drive_pair(text: &str) -> Result<(DriveKey, StorageId), String> {
    let (drive, storage) = pair(text)?;
    Ok((
        drive
            .parse()
            .map_err(|error: crate::pve::id::InvalidId| error.to_string())?,
        storage
            .parse()
            .map_err(|error: crate::pve::id::InvalidId| error.to_string())?,
    ))
}
