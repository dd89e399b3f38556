//! What the operator typed, as a [`Request`]; and the manual, because the help texts are it.
//!
//! It judges words, never clusters: whether a node or a guest exists is found out later. It neither prints nor reads
//! the environment nor exits; usage errors, `--help` and `--version` come back as [`clap::Error`], which knows its text
//! and its exit code (2 or 0). Read next: `cli/arguments.rs` (the command line as clap knows it), `main.rs`.

mod afterwards;
mod again;
mod arguments;
mod common;
pub mod evacuate;
mod site;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use clap_complete::Shell;

use crate::plan::MoveRequest;
use crate::plan::ha::HaWish;
use crate::plan::returning::OnFailure;
use crate::pve::id::ClusterAlias;
use crate::transfer::{Route, Verify};
use crate::units::Bandwidth;
pub use afterwards::AfterwardsInstead;
use again::Several;
pub use again::{AbortCommand, ResumeCommand, StatusCommand, VerifyCommand};
use arguments::{Cli, ConfigVerb, MoveArgs, RouteArg, Tuning, Verb, VerifyArg};
use common::{ConnectionArgs, settle};
use evacuate::{CordonCommand, EvacuateCommand, RestoreCommand};
use site::SimArgs;
pub use site::SiteArgs;

/// The ciphers to prefer unless `--ssh-ciphers` says otherwise: the fastest where the processor knows AES.
pub const DEFAULT_SSH_CIPHERS: &str = "aes128-gcm@openssh.com,aes128-ctr";

/// What to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Move guests.
    Move(MoveCommand),
    /// Try everything a move needs, and move nothing. The list of guests may be empty.
    Check(MoveCommand),
    /// Show every move that is not finished.
    Status(StatusCommand),
    /// Go on with moves that were begun earlier.
    Resume(ResumeCommand),
    /// Bring the sources of moves back as they were.
    Abort(AbortCommand),
    /// Compare the volumes of finished moves again.
    Verify(VerifyCommand),
    /// Print the configuration with what is derived.
    ConfigShow(Common),
    /// Print a completion script.
    Completions(Shell),
    /// Print the manual page, in roff.
    Man,
    /// Move a guest between two simulated clusters and tidy up.
    Demo(Common),
    /// Keep simulated clusters running.
    Sim(Common),
    /// Serve one simulated cluster on this storage machine.
    Site(SiteArgs),
    /// Judge disks by the ledger of a simulated guest.
    SimProof {
        /// The ledger.
        ledger: PathBuf,
        /// The disks, in the order of the guest's drives.
        images: Vec<PathBuf>,
    },
    /// Move guests back to their former selves.
    Back(BackCommand),
    /// List and remove what moves have left behind.
    Cleanup(CleanupCommand),
    /// Move all guests off a node, or go through all nodes.
    Evacuate(Box<EvacuateCommand>),
    /// Bring them back.
    Restore(Box<RestoreCommand>),
    /// Close or open a node.
    Cordon(Box<CordonCommand>),
    /// Run as the half of proxmove on a storage host; the arguments are the porter's own.
    Porter(Vec<OsString>),
}

impl Request {
    /// Says whether `--debug` was given.
    pub fn debug(&self) -> bool {
        match self {
            Request::Move(command) | Request::Check(command) => command.conduct.common.debug,
            Request::Status(command) => command.common.debug,
            Request::Resume(command) => command.conduct.common.debug,
            Request::Abort(command) => command.conduct.common.debug,
            Request::Verify(command) => command.common.debug,
            Request::ConfigShow(common) | Request::Demo(common) | Request::Sim(common) => {
                common.debug
            }
            Request::Back(command) => command.command.conduct.common.debug,
            Request::Cleanup(command) => command.common.debug,
            Request::Evacuate(command) => command.common.debug,
            Request::Restore(command) => command.common.debug,
            Request::Cordon(command) => command.common.debug,
            Request::Completions(_)
            | Request::Man
            | Request::Site(_)
            | Request::SimProof { .. }
            | Request::Porter(_) => false,
        }
    }
}

/// A move, and how to go about it.
#[derive(Clone, Debug)]
pub struct MoveCommand {
    /// What decisions depend on.
    pub request: MoveRequest,
    /// `-n`: show the plan, change nothing.
    pub dry_run: bool,
    /// How to go about it.
    pub conduct: Conduct,
}

/// How to go about moves, whichever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// `--yes`: take every question as answered with yes.
    pub yes: bool,
    /// `--take-over`: take a move over that somebody else works on.
    pub take_over: bool,
    /// `--fail-fast`: after the first guest that fails, do not begin the others.
    pub fail_fast: bool,
    /// `--wait-for-locks`: how long guests are waited for that something else has locked.
    pub wait_for_locks: Duration,
    /// What most commands know.
    pub common: Common,
}

impl Conduct {
    /// Returns how to go about moves that nobody is asked about: nobody's are taken over, and nobody is waited for.
    pub fn unasked(common: Common) -> Conduct {
        Conduct {
            yes: true,
            take_over: false,
            fail_fast: false,
            wait_for_locks: Duration::ZERO,
            common,
        }
    }
}

/// A way back: what is known of it before its clusters are asked.
#[derive(Clone, Debug)]
pub struct BackCommand {
    /// The cluster the guests are on.
    pub cluster: ClusterAlias,
    /// `--to`.
    pub to: Option<ClusterAlias>,
    /// The move, without where it goes: cluster, node and storage are found.
    pub command: MoveCommand,
}

/// What to clean up.
#[derive(Clone, Debug)]
pub struct CleanupCommand {
    /// The clusters to look at; all when there is none.
    pub clusters: Vec<ClusterAlias>,
    /// `-n`: list only.
    pub dry_run: bool,
    /// `--abandoned`: moves that nobody works on are given up, where the source is as it was.
    pub abandoned: bool,
    /// `--yes`.
    pub yes: bool,
    /// What most commands know.
    pub common: Common,
}

/// What most commands know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// `--config`; `None` for [`crate::config::default_path`].
    pub config: Option<PathBuf>,
    /// `false` with `--no-verify-ssl`.
    pub verify_tls: bool,
    /// `--ssh-ciphers`, comma separated, best first; `None` for those of the SSH library (`-`).
    pub ssh_ciphers: Option<String>,
    /// `--json`.
    pub json: bool,
    /// `--debug`.
    pub debug: bool,
}

/// Understands a command line, the program's name included.
///
/// `porter` as the very first argument is not looked at any further: its arguments are written by proxmove itself.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == "porter") {
        return Ok(Request::Porter(arguments.split_off(2)));
    }
    let arguments = verb_first(arguments);
    let matches = command()
        .try_get_matches_from(&arguments)
        .map_err(|error| {
            misspelled(&arguments)
                .filter(|_| is_incomplete(&error))
                .unwrap_or(error)
        })?;
    if matches.subcommand_name().is_none() {
        return move_command(MoveArgs::from_arg_matches(&matches)?).map(Request::Move);
    }
    let nothing = ConnectionArgs::default;
    match Verb::from_arg_matches(&matches)? {
        Verb::Move(arguments) => move_command(arguments).map(Request::Move),
        Verb::Check(arguments) => check_command(arguments).map(Request::Check),
        Verb::Config {
            verb: ConfigVerb::Show { connection, output },
        } => Ok(Request::ConfigShow(settle(connection, &output))),
        Verb::Completions { shell } => Ok(Request::Completions(shell)),
        Verb::Man => Ok(Request::Man),
        Verb::Demo(output) => Ok(Request::Demo(settle(nothing(), &output))),
        Verb::Sim(SimArgs {
            site: Some(site), ..
        }) => Ok(Request::Site(site)),
        Verb::Sim(SimArgs { site: None, output }) => Ok(Request::Sim(settle(nothing(), &output))),
        Verb::Status(arguments) => Ok(Request::Status(arguments.command())),
        Verb::Resume(arguments) => arguments.command().map(Request::Resume),
        Verb::Abort(arguments) => arguments.command().map(Request::Abort),
        Verb::Verify(arguments) => arguments.command().map(Request::Verify),
        Verb::SimProof { ledger, images } => Ok(Request::SimProof { ledger, images }),
        Verb::Back(arguments) => back_command(arguments).map(Request::Back),
        Verb::Cleanup(arguments) => Ok(Request::Cleanup(CleanupCommand {
            clusters: arguments.clusters,
            dry_run: arguments.dry_run,
            abandoned: arguments.abandoned,
            yes: arguments.yes,
            common: arguments.common.settle(),
        })),
        Verb::Evacuate(arguments) => Ok(Request::Evacuate(Box::new(arguments.command()))),
        Verb::Restore(arguments) => Ok(Request::Restore(Box::new(arguments.command()))),
        Verb::Cordon(arguments) => Ok(Request::Cordon(Box::new(arguments.command(true)))),
        Verb::Uncordon(arguments) => Ok(Request::Cordon(Box::new(arguments.command(false)))),
    }
}

/// Writes the completion script for a shell.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics when it cannot write, and a closed pipe is not a bug.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "proxmove", &mut script);
    out.write_all(&script)
}

/// Writes the manual page, in roff.
pub fn manual(out: &mut dyn Write) -> io::Result<()> {
    clap_mangen::Man::new(command())
        .title("PROXMOVE")
        .manual("User Commands")
        .render(out)
}

fn command() -> clap::Command {
    Cli::command()
}

fn error(kind: ErrorKind, text: impl std::fmt::Display) -> clap::Error {
    command().error(kind, text)
}

/// Moves a subcommand's name in front of the options that were typed before it.
///
/// So `proxmove -c FILE check ...` works, and a subcommand is one only as the first word that is not an option: a
/// node or a guest may be called `check`. (A cluster of such a name is reached by `proxmove move check ...`.)
fn verb_first(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut command = command();
    command.build();
    if let Some(place) = first_word(&command, &arguments)
        && command
            .get_subcommands()
            .any(|verb| arguments[place] == verb.get_name())
    {
        let verb = arguments.remove(place);
        arguments.insert(1, verb);
    }
    arguments
}

fn is_incomplete(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::MissingRequiredArgument
}

/// Returns the error for a SOURCE that looks like a slip in a command's name.
///
/// The classic form takes any first word for a cluster, so clap itself cannot know.
fn misspelled(arguments: &[OsString]) -> Option<clap::Error> {
    let command = command();
    let word = arguments.get(first_word(&command, arguments)?)?.to_str()?;
    let verb = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .find(|verb| strsim::damerau_levenshtein(word, verb) == 1)?;
    Some(error(
        ErrorKind::InvalidSubcommand,
        format!(
            "there is no command '{word}'; did you mean '{verb}'?\n\nAs a SOURCE, '{word}' needs DESTINATION, NODEID, \
             STORAGE and VM behind it."
        ),
    ))
}

/// Returns the place of the first argument that is neither an option nor an option's value.
fn first_word(command: &clap::Command, arguments: &[OsString]) -> Option<usize> {
    let takes_value = |option: &str| {
        command
            .get_arguments()
            .filter(|known| match option.strip_prefix("--") {
                Some(long) => known.get_long() == Some(long),
                None => option
                    .strip_prefix('-')
                    .is_some_and(|s| known.get_short().is_some_and(|c| s == c.to_string())),
            })
            .any(|known| known.get_action().takes_values())
    };
    let mut words = arguments.iter().enumerate().skip(1);
    while let Some((place, word)) = words.next() {
        match word.to_str() {
            // Behind "--", everything is a name.
            Some("--") => return None,
            Some(option) if option.starts_with('-') && option != "-" => {
                if takes_value(option) {
                    words.next();
                }
            }
            _ => return Some(place),
        }
    }
    None
}

fn move_command(arguments: MoveArgs) -> Result<MoveCommand, clap::Error> {
    let guests = arguments.guests;
    if arguments.target_vmid.is_some() && guests.len() > 1 {
        return Err(error(
            ErrorKind::ArgumentConflict,
            "--target-vmid is for one VM, and several were named",
        ));
    }
    let mut command = MoveCommand {
        request: MoveRequest {
            skip_disks: arguments.skip_disks,
            // Without its disks, the guest cannot start.
            skip_start: arguments.skip_start || arguments.skip_disks,
            wait_before_stop: arguments.wait_before_stop,
            ignore_exists: arguments.ignore_exists,
            allow_plain: arguments.allow_plain,
            with_snapshots: arguments.with_snapshots,
            forget: arguments.forget,
            target_vmid: arguments.target_vmid,
            max_downtime: arguments.max_downtime,
            stop_timeout: arguments.stop_timeout,
            ..request(arguments.place, guests, arguments.tuning)?
        },
        dry_run: arguments.dry_run,
        conduct: Conduct {
            wait_for_locks: arguments.wait_for_locks,
            ..arguments.several.conduct(arguments.yes, arguments.common)
        },
    };
    arguments.afterwards.put(&mut command.request);
    Ok(command)
}

fn check_command(arguments: arguments::CheckArgs) -> Result<MoveCommand, clap::Error> {
    Ok(MoveCommand {
        request: MoveRequest {
            ignore_exists: arguments.ignore_exists,
            allow_plain: arguments.allow_plain,
            with_snapshots: arguments.with_snapshots,
            ..request(arguments.place, arguments.guests, arguments.tuning)?
        },
        dry_run: true,
        conduct: Several::default().conduct(false, arguments.common),
    })
}

fn back_command(arguments: arguments::BackArgs) -> Result<BackCommand, clap::Error> {
    let (cluster, wishes) = (arguments.cluster, arguments.wishes);
    // Where it goes is found later; until then it stays in place.
    let place = arguments::Place {
        source: cluster.clone(),
        destination: cluster.clone(),
        node: known("unknown")?,
        storage: known("unknown")?,
    };
    let mut command = BackCommand {
        cluster,
        to: arguments.to,
        command: MoveCommand {
            request: MoveRequest {
                skip_start: wishes.skip_start,
                wait_before_stop: wishes.wait_before_stop,
                allow_plain: wishes.allow_plain,
                forget: wishes.forget,
                max_downtime: wishes.max_downtime,
                stop_timeout: wishes.stop_timeout,
                ..request(place, arguments.guests, arguments.tuning)?
            },
            dry_run: wishes.dry_run,
            conduct: Conduct {
                wait_for_locks: wishes.wait_for_locks,
                ..arguments.several.conduct(wishes.yes, arguments.common)
            },
        },
    };
    wishes.afterwards.put(&mut command.command.request);
    Ok(command)
}

fn known<T: std::str::FromStr>(text: &str) -> Result<T, clap::Error>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|why| error(ErrorKind::ValueValidation, why))
}

fn request(
    place: arguments::Place,
    guests: Vec<String>,
    tuning: Tuning,
) -> Result<MoveRequest, clap::Error> {
    named_once(&guests)?;
    Ok(MoveRequest {
        source: place.source,
        target: place.destination,
        node: place.node,
        storage: place.storage,
        guests,
        skip_disks: false,
        skip_start: false,
        wait_before_stop: false,
        ignore_exists: false,
        allow_plain: false,
        with_snapshots: false,
        forget: false,
        target_vmid: None,
        bridges: unique("--map-bridge", tuning.map_bridge)?,
        storages: unique("--map-storage", tuning.map_storage)?,
        max_downtime: None,
        stop_timeout: arguments::DEFAULT_STOP_TIMEOUT,
        boot_check: None,
        on_failure: OnFailure::Keep,
        ha: HaWish::Refuse,
        route: match tuning.route {
            RouteArg::Auto => None,
            RouteArg::Direct => Some(Route::Direct),
            RouteArg::Relay => Some(Route::Relay),
        },
        verify: match tuning.verify {
            VerifyArg::Full => Verify::Full,
            VerifyArg::Transfer => Verify::Transfer,
        },
        limit: tuning.bwlimit.map(Bandwidth::mbit_per_second),
        parallel: usize::from(tuning.parallel),
    })
}

/// Refuses a list in which a VM stands twice.
fn named_once(guests: &[String]) -> Result<(), clap::Error> {
    let mut seen = std::collections::BTreeSet::new();
    match guests.iter().find(|guest| !seen.insert(guest.as_str())) {
        Some(twice) => Err(error(
            ErrorKind::ValueValidation,
            format!("VM '{twice}' is named twice"),
        )),
        None => Ok(()),
    }
}

/// Makes a map of `A=B` pairs; two different answers for one `A` are refused.
fn unique<K, V>(option: &str, pairs: Vec<(K, V)>) -> Result<BTreeMap<K, V>, clap::Error>
where
    K: Ord + Clone + std::fmt::Display,
    V: PartialEq,
{
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.get(&key).is_some_and(|known| *known != value) {
            return Err(error(
                ErrorKind::ValueValidation,
                format!("{option} maps '{key}' to two different names"),
            ));
        }
        map.insert(key, value);
    }
    Ok(map)
}
