//! `proxmove evacuate`, `restore`, `cordon`, `uncordon`: the command line and the configuration put together, the plan
//! shown, consent asked for, the result printed.
//!
//! Read next: `evacuation/mod.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::back::clusters;
use super::{Process, audience, cluster, derived, hosts, load, print};
use crate::cli::Common;
use crate::cli::evacuate::{CordonCommand, EvacuateCommand, RestoreCommand, RunArgs};
use crate::cluster::http::HttpApi;
use crate::config::evacuate::EvacuateConfig;
use crate::config::{Config, SshAddress};
use crate::error::{ExitCode, Failure};
use crate::evacuation::across::Movers;
use crate::evacuation::outcome::Outcomes;
use crate::evacuation::{
    EvacuationError, EvacuationJob, Evacuator, Pace, RestoreJob, observe, restore as returning,
};
use crate::moves::interrupt::Interrupt;
use crate::plan::evacuate::budget::Budget;
use crate::plan::evacuate::note::Stage;
use crate::plan::evacuate::policy::Policies;
use crate::plan::evacuate::schedule::Parallel;
use crate::plan::evacuate::select::Selection;
use crate::plan::evacuate::way::Allowed;
use crate::plan::evacuate::{Request, show};
use crate::plan::restore;
use crate::pve::id::{ClusterAlias, NodeName};
use crate::report::choose;
use crate::transfer::engines::Engines;
use crate::transfer::image::ImageEngine;
use crate::units::Bandwidth;

/// How guests are moved to other clusters.
#[derive(Default)]
struct Moving {
    bridges: BTreeMap<String, String>,
    limit: Option<Bandwidth>,
}

/// What the commands about one cluster have in common.
pub(super) struct Site {
    config: Config,
    settings: EvacuateConfig,
    tools: Evacuator,
    json: bool,
    /// Whether questions are answered: by a person, or by `--yes`.
    dry_run: bool,
}

impl Site {
    fn new(
        process: &Process,
        alias: &ClusterAlias,
        common: &Common,
        run: &RunArgs,
        moving: Moving,
    ) -> Result<Site, Failure> {
        let config = load(common, process)?;
        let section = cluster(&config, alias)?.clone();
        let settings = config
            .evacuations
            .get(alias)
            .cloned()
            .unwrap_or_else(|| EvacuateConfig::usual(alias.clone()));
        let hosts = hosts(process, common);
        let (reporter, operator) = choose(&audience(process, common, run.yes || run.execute));
        let interrupt = Interrupt::listen(|down| {
            let exit = if down {
                ExitCode::SourceDown
            } else {
                ExitCode::Interrupted
            };
            std::process::exit(exit.code().into())
        })
        .map_err(|error| Failure::new(ExitCode::Bug, &error))?;
        let movers = Movers {
            bridges: moving.bridges,
            limit: moving.limit,
            ..Movers::new(
                config.clone(),
                Box::new(derived),
                clusters(&config, common.verify_tls),
                Arc::new(Engines::new(
                    ImageEngine::new(&process.executable).with_direct(hosts.grant()),
                )),
                &process.identity,
            )
        };
        let tools = Evacuator {
            api: Arc::new(HttpApi::connect(section, common.verify_tls)),
            hosts,
            addresses: addresses(&config, alias),
            reporter,
            operator,
            interrupt,
            movers: Some(Arc::new(movers)),
            identity: process.identity.clone(),
            pace: Pace {
                look: run.look,
                patience: run.patience.unwrap_or(settings.patience),
                stop_timeout: run.stop_timeout.unwrap_or(settings.stop_timeout),
            },
        };
        Ok(Site {
            config,
            settings,
            tools,
            json: common.json,
            dry_run: run.dry_run,
        })
    }

    /// Asks whether to go on with what was shown, unless that was given already. Without anybody to ask, nothing begins.
    async fn consent(&self, question: String, given: bool) -> bool {
        !self.dry_run && (given || self.tools.ask(question).await == Some(true))
    }

    fn show(&self, text: &str, json: &serde_json::Value) -> Result<(), Failure> {
        if self.json {
            print(&format!("{json}\n")).map(drop)
        } else {
            print(text).map(drop)
        }
    }

    fn show_outcomes(&self, outcomes: &Outcomes) -> Result<(), Failure> {
        self.show(&format!("\n{}", outcomes.text()), &outcomes.json())
    }

    fn next_steps(&self) {
        if !self.json {
            let _ = print(
                "\nNothing was changed. Run it with --execute, or at a terminal, to begin.\n",
            );
        }
    }
}

/// Returns how the configuration reaches the nodes of a cluster.
fn addresses(config: &Config, alias: &ClusterAlias) -> BTreeMap<NodeName, SshAddress> {
    config
        .storages
        .iter()
        .filter(|storage| storage.cluster == *alias)
        .filter_map(|storage| Some((storage.node.clone()?, storage.ssh.clone())))
        .collect()
}

fn failure(error: &EvacuationError, node: &NodeName) -> Failure {
    let exit = match error {
        EvacuationError::Interrupted => ExitCode::Interrupted,
        _ => ExitCode::Failed,
    };
    let next = match error {
        EvacuationError::Maintenance { .. } => {
            "make a login as root by SSH work, or use --no-ha-maintenance"
        }
        _ => "run the same command again to go on, or 'proxmove restore' to go back",
    };
    Failure::new(exit, error)
        .state(format!(
            "guests of {node} that were begun are marked with their origin, and the node may be closed"
        ))
        .next(next)
}

/// `proxmove evacuate`.
pub(super) async fn evacuate(
    process: &Process,
    command: &EvacuateCommand,
) -> Result<ExitCode, Failure> {
    let moving = Moving {
        bridges: command.bridges.clone(),
        limit: command.limit,
    };
    let site = Site::new(
        process,
        &command.cluster,
        &command.common,
        &command.run,
        moving,
    )?;
    if let Some(across) = &command.across {
        cluster(&site.config, &across.to.cluster)?;
    }
    if command.rolling {
        return super::rolling::run(&site, command).await;
    }
    let Some(node) = &command.node else {
        return Ok(ExitCode::Usage);
    };
    site.evacuate(command, node, false).await
}

impl Site {
    /// Plans, shows, asks, and does it.
    pub(super) async fn evacuate(
        &self,
        command: &EvacuateCommand,
        node: &NodeName,
        consented: bool,
    ) -> Result<ExitCode, Failure> {
        let request = self.request(command, node);
        let (inventory, plan) = self.tools.plan(&request).await.map_err(|error| {
            Failure::new(ExitCode::Failed, &error)
                .state("nothing was changed")
                .next("'proxmove check' looks closer at what the API says")
        })?;
        self.show(&show::text(&plan), &show::json(&plan))?;
        if plan.refused() {
            return Err(Failure::message(
                ExitCode::Refused,
                format!("the evacuation of {node} is refused, for the reasons above"),
            )
            .state("nothing was changed")
            .next("follow the remedies and run the same command again"));
        }
        let going = plan
            .guests
            .iter()
            .filter(|guest| guest.action != crate::plan::evacuate::Action::Stay)
            .count();
        let question = format!(
            "Evacuate {node} of {}: {going} guest(s), as shown?",
            plan.cluster
        );
        if !self.consent(question, consented).await {
            self.next_steps();
            return Ok(ExitCode::Done);
        }
        let parallel = Parallel {
            total: command.parallel.unwrap_or(self.settings.parallel),
            per_target: command
                .parallel_per_target
                .unwrap_or(self.settings.parallel_per_target),
        };
        let job = EvacuationJob {
            evacuator: self.tools.clone(),
            request,
            inventory,
            plan,
            parallel,
            replan: command.replan,
            fail_fast: command.fail_fast,
        };
        let outcomes = job.run().await.map_err(|error| failure(&error, node))?;
        self.show_outcomes(&outcomes)?;
        Ok(outcomes.exit())
    }

    fn request(&self, command: &EvacuateCommand, node: &NodeName) -> Request {
        let settings = &self.settings;
        let mut storages = settings.storages.clone();
        storages.extend(command.storages.clone());
        let to = if command.to.is_empty() {
            // A node of the list may be the one that is emptied.
            let others = settings.to.iter().filter(|other| *other != node);
            others.cloned().collect()
        } else {
            command.to.iter().cloned().collect()
        };
        Request {
            node: node.clone(),
            to,
            select: Selection {
                only: command.select.only(),
                exclude: command.select.exclude.clone(),
            },
            policies: Policies {
                default: command.policy.unwrap_or(settings.policy),
                rules: settings.policies.clone(),
            },
            budgets: self
                .config
                .budgets
                .iter()
                .filter(|budget| {
                    budget
                        .cluster
                        .as_ref()
                        .is_none_or(|only| *only == command.cluster)
                })
                .map(|budget| Budget {
                    name: budget.name.clone(),
                    guests: budget.guests.clone(),
                    min_running: budget.min_running,
                })
                .collect(),
            limits: settings.limits,
            allowed: Allowed {
                local_disks: settings.local_disks && !command.no_local_disks,
                storages,
            },
            ha_maintenance: settings.ha_maintenance && !command.no_ha_maintenance,
            stop_unplaced: command.stop_unplaced,
            across: command.across.clone(),
        }
    }

    /// Plans, shows, asks, and brings everything back.
    pub(super) async fn restore(
        &self,
        mut request: restore::Request,
        parallel: Option<usize>,
        consented: bool,
    ) -> Result<ExitCode, Failure> {
        let node = request.node.clone();
        let wait = !self.dry_run;
        let plan = returning::plan(&self.tools, &mut request, wait)
            .await
            .map_err(|error| failure(&error, &node))?;
        self.show(&restore::text(&plan), &restore::json(&plan))?;
        let refused = plan
            .verdicts
            .iter()
            .any(|verdict| verdict.severity == crate::plan::Severity::Refuse);
        if refused {
            return Err(Failure::message(
                ExitCode::Refused,
                format!("the restore of {node} is refused, for the reasons above"),
            )
            .state("nothing was changed")
            .next("follow the remedies and run the same command again"));
        }
        let who = request
            .closed
            .as_ref()
            .filter(|closed| closed.stage == Stage::Evacuating && closed.by != self.tools.identity)
            .map(|closed| {
                format!(
                    "{} may still be evacuating it (since {}). ",
                    closed.by, closed.since
                )
            })
            .unwrap_or_default();
        let count = restore::acting(&plan).count();
        let question = format!("{who}Restore {node}: {count} guest(s), as shown?");
        if !self.consent(question, consented).await {
            self.next_steps();
            return Ok(ExitCode::Done);
        }
        let job = RestoreJob {
            evacuator: self.tools.clone(),
            request,
            plan,
            parallel: parallel.unwrap_or(self.settings.parallel),
        };
        let outcomes = job.run().await.map_err(|error| failure(&error, &node))?;
        self.show_outcomes(&outcomes)?;
        Ok(outcomes.exit())
    }

    /// Returns a request for everything that came from a node.
    pub(super) fn everything_back(&self, node: &NodeName) -> restore::Request {
        restore::Request {
            node: node.clone(),
            move_guests: true,
            also_moved_on: false,
            select: Selection::default(),
            limits: self.settings.limits,
            allowed: Allowed {
                local_disks: true,
                // The other way round: what went from A to B comes back to A.
                storages: self
                    .settings
                    .storages
                    .iter()
                    .map(|(from, to)| (to.clone(), from.clone()))
                    .collect(),
            },
            closed: None,
        }
    }

    pub(super) fn tools(&self) -> &Evacuator {
        &self.tools
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

/// `proxmove restore`.
pub(super) async fn restore(
    process: &Process,
    command: &RestoreCommand,
) -> Result<ExitCode, Failure> {
    let site = Site::new(
        process,
        &command.cluster,
        &command.common,
        &command.run,
        Moving::default(),
    )?;
    let mut request = site.everything_back(&command.node);
    request.move_guests = !command.no_move;
    request.also_moved_on = command.also_moved_on;
    request.select = Selection {
        only: command.select.only(),
        exclude: command.select.exclude.clone(),
    };
    request.allowed.storages.extend(command.storages.clone());
    site.restore(request, command.parallel, false).await
}

/// `proxmove cordon` and `proxmove uncordon`.
pub(super) async fn cordon(
    process: &Process,
    command: &CordonCommand,
) -> Result<ExitCode, Failure> {
    let site = Site::new(
        process,
        &command.cluster,
        &command.common,
        &command.run,
        Moving::default(),
    )?;
    let node = &command.node;
    let failed = |error: EvacuationError| {
        Failure::new(ExitCode::Failed, &error)
            .state(format!("{node} may be closed or open; its notes say which"))
            .next("run the same command again")
    };
    let inventory = observe::listing(site.tools.api.as_ref())
        .await
        .map_err(|error| Failure::new(ExitCode::Failed, &error).state("nothing was changed"))?;
    if !inventory.nodes.contains_key(node) {
        let known: Vec<&str> = inventory
            .nodes
            .keys()
            .map(NodeName::as_str)
            .take(20)
            .collect();
        return Err(Failure::message(
            ExitCode::Refused,
            format!("{} has no node {node}", command.cluster),
        )
        .state("nothing was changed")
        .next(format!("use one of {}", known.join(", "))));
    }
    let before = site.tools.closed(node).await.map_err(failed)?;
    let words = match (&before, command.close) {
        (Some(closed), _) => format!("{node} is closed now ({})", closed.describe()),
        (None, _) => format!("{node} is open now"),
    };
    let verb = if command.close { "Close" } else { "Open" };
    if !site.json {
        print(&format!("{words}\n"))?;
    }
    if !site.consent(format!("{verb} {node}?"), false).await {
        site.next_steps();
        return Ok(ExitCode::Done);
    }
    let ha = !command.no_ha_maintenance && site.settings.ha_maintenance;
    if command.close {
        site.tools
            .cordon(node, &inventory, ha)
            .await
            .map_err(failed)?;
    } else {
        site.tools.uncordon(node, ha).await.map_err(failed)?;
    }
    let after = site.tools.closed(node).await.map_err(failed)?;
    let json = serde_json::json!({
        "cluster": command.cluster.as_str(),
        "node": node.as_str(),
        "closed": after.as_ref().map(|closed| closed.describe()),
    });
    let text = match &after {
        Some(closed) => format!("{node} is closed ({})\n", closed.describe()),
        None => format!("{node} is open\n"),
    };
    site.show(&text, &json)?;
    Ok(ExitCode::Done)
}
