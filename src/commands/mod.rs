//! What each command does: real clusters, real hosts and real people put together and set to work.
//!
//! Decides nothing about guests. Results (plans, findings, sections) go to standard output, talk goes through `report`.
//! Read next: `moves/batch.rs`.

mod again;
mod back;
mod check;
mod cleanup;
mod demo;
mod evacuate;
mod rolling;
mod show;
mod site;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{self, Common, Conduct, MoveCommand, Request};
use crate::cluster::http::HttpApi;
use crate::config::{self, ClusterConfig, Config, StorageConfig, derive};
use crate::error::{ExitCode, Failure};
use crate::host::ssh::{SshEnvironment, SshOptions};
use crate::moves::Mover;
use crate::moves::batch::Batch;
use crate::moves::claim;
use crate::moves::hosts::Hosts;
use crate::moves::interrupt::Interrupt;
use crate::plan::facts::ExistingMoves;
use crate::pve::id::ClusterAlias;
use crate::pve::inventory::{Node, Storage};
use crate::report::{Audience, choose};
use crate::transfer::engines::Engines;
use crate::transfer::image::ImageEngine;

/// What `main` found out about the process; nothing else looks at it.
#[derive(Clone, Debug)]
pub struct Process {
    /// SSH keys, agent, known hosts.
    pub ssh: SshEnvironment,
    /// Who runs this, `user@machine`.
    pub identity: String,
    /// This executable: it is what storage hosts run as the porter.
    pub executable: PathBuf,
    /// Whether NO_COLOR is set.
    pub no_color: bool,
}

/// Carries a request out.
pub async fn run(request: Request, process: &Process) -> Result<ExitCode, Failure> {
    match request {
        Request::Move(command) => {
            let config = load(&command.conduct.common, process)?;
            let clusters = (&command.request.source, &command.request.target);
            Wiring::new(process, clusters, &command.conduct, config, None)?
                .run(&command)
                .await
        }
        Request::Status(command) => again::status(process, &command).await,
        Request::Resume(command) => again::resume(process, &command).await,
        Request::Abort(command) => again::abort(process, &command).await,
        Request::Verify(command) => again::verify(process, &command).await,
        Request::Check(command) => check::run(process, &command).await,
        Request::ConfigShow(common) => show::run(process, &common).await,
        Request::Completions(shell) => written(cli::completions(shell, &mut io::stdout())),
        Request::Man => written(cli::manual(&mut io::stdout())),
        Request::Demo(common) => demo::run(process, &common).await,
        Request::Sim(_) => demo::keep(process).await,
        Request::Site(arguments) => site::serve(arguments).await,
        Request::SimProof { ledger, images } => site::prove(&ledger, &images),
        Request::Back(command) => back::run(process, &command).await,
        Request::Cleanup(command) => cleanup::run(process, &command).await,
        Request::Evacuate(command) => evacuate::evacuate(process, &command).await,
        Request::Restore(command) => evacuate::restore(process, &command).await,
        Request::Cordon(command) => evacuate::cordon(process, &command).await,
        // The porter is synchronous and never gets here.
        Request::Porter(_) => Ok(ExitCode::Usage),
    }
}

fn written(result: io::Result<()>) -> Result<ExitCode, Failure> {
    Failure::unless_written(result).map(|()| ExitCode::Done)
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    written(io::stdout().write_all(text.as_bytes()))
}

fn file(common: &Common, process: &Process) -> PathBuf {
    common
        .config
        .clone()
        .unwrap_or_else(|| config::default_path(&process.ssh.home))
}

fn load(common: &Common, process: &Process) -> Result<Config, Failure> {
    config::load(&file(common, process)).map_err(|error| Failure::config(&error))
}

fn cluster<'a>(config: &'a Config, alias: &ClusterAlias) -> Result<&'a ClusterConfig, Failure> {
    config.clusters.get(alias).ok_or_else(|| {
        let known: Vec<&str> = config.clusters.keys().map(ClusterAlias::as_str).collect();
        Failure::message(
            ExitCode::Config,
            format!("there is no cluster '{alias}' in proxmoverc"),
        )
        .state("nothing was changed")
        .next(match known.as_slice() {
            [] => format!("add a section [pve:{alias}]"),
            _ => format!(
                "use one of {}, or add a section [pve:{alias}]",
                known.join(", ")
            ),
        })
    })
}

/// Derives the section of a storage that proxmoverc does not have.
fn derived(
    cluster: &ClusterAlias,
    node: &Node,
    storage: &Storage,
) -> Result<StorageConfig, String> {
    let address = node
        .address
        .as_deref()
        .ok_or_else(|| format!("the cluster does not know an address of node {}", node.name))?;
    derive::storage_section(cluster, storage, &node.name, address)
        .map_err(|error| error.to_string())
}

fn audience(process: &Process, common: &Common, yes: bool) -> Audience {
    Audience {
        json: common.json,
        yes,
        debug: common.debug,
        stdin_is_terminal: io::stdin().is_terminal(),
        stderr_is_terminal: io::stderr().is_terminal(),
        no_color: process.no_color,
    }
}

fn hosts(process: &Process, common: &Common) -> Arc<Hosts> {
    // `--yes` answers questions about the move; an unknown host key is a question of trust, and is always asked.
    let (_, person) = choose(&audience(process, common, false));
    Arc::new(Hosts::new(SshOptions {
        ciphers: common.ssh_ciphers.clone(),
        operator: person,
        environment: process.ssh.clone(),
    }))
}

/// Everything a move is made with.
struct Wiring {
    config: Config,
    hosts: Arc<Hosts>,
    mover: Mover,
    former: ExistingMoves,
    fail_fast: bool,
    wait_for_locks: Duration,
}

impl Wiring {
    /// Puts together what moves between two clusters are made with; signals are listened for, unless somebody does already.
    fn new(
        process: &Process,
        (source, target): (&ClusterAlias, &ClusterAlias),
        conduct: &Conduct,
        config: Config,
        interrupt: Option<Interrupt>,
    ) -> Result<Wiring, Failure> {
        let common = &conduct.common;
        let source = cluster(&config, source)?.clone();
        let target = cluster(&config, target)?.clone();
        let hosts = hosts(process, common);
        let (reporter, operator) = choose(&audience(process, common, conduct.yes));
        let image = ImageEngine::new(&process.executable).with_direct(hosts.grant());
        let engine = Engines::new(image);
        let interrupt = match interrupt {
            Some(interrupt) => interrupt,
            None => Interrupt::listen(|down| {
                let exit = if down {
                    ExitCode::SourceDown
                } else {
                    ExitCode::Interrupted
                };
                std::process::exit(exit.code().into())
            })
            .map_err(|error| Failure::new(ExitCode::Bug, &error))?,
        };
        Ok(Wiring {
            hosts,
            mover: Mover {
                source: Arc::new(HttpApi::connect(source, common.verify_tls)),
                target: Arc::new(HttpApi::connect(target, common.verify_tls)),
                engine: Arc::new(engine),
                reporter,
                operator,
                interrupt,
                claimant: claim::here(&process.identity),
                take_over: conduct.take_over,
            },
            config,
            former: ExistingMoves::new(),
            fail_fast: conduct.fail_fast,
            wait_for_locks: conduct.wait_for_locks,
        })
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            mover: self.mover.clone(),
            hosts: Arc::clone(&self.hosts),
            config: &self.config,
            derive: &derived,
            former: self.former.clone(),
            fail_fast: self.fail_fast,
            wait_for_locks: self.wait_for_locks,
        }
    }

    async fn run(&self, command: &MoveCommand) -> Result<ExitCode, Failure> {
        if command.dry_run {
            self.show_plan(command).await
        } else {
            Ok(self.batch().run(&command.request).await)
        }
    }

    async fn show_plan(&self, command: &MoveCommand) -> Result<ExitCode, Failure> {
        let json = command.conduct.common.json;
        self.batch()
            .dry_run(&command.request, json, &mut io::stdout())
            .await
    }
}
