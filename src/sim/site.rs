//! One simulated cluster on a machine of its own: the storages it has are that machine's, and so is the SSH server.
//!
//! For moves between real pools, with one process of this kind on each storage machine and the operator's program
//! elsewhere. It starts no SSH server, writes no proxmoverc and removes no volume: whoever made the pools does all that.
//! What cannot be asked by the API is ordered by lines of JSON. Read next: `commands/site.rs`, `world/zpool.rs`.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Simulation;
use super::guest::Ledger;
use super::players::{Play, Players, ledger_file};
use super::world::Boot;
use super::world::machine::GuestMachine;
use super::world::scenario::Scenario;

/// What a site is made of.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// The clusters.
    pub scenario: Scenario,
    /// The alias of the one to serve.
    pub cluster: String,
    /// Where its API listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Where directory storages and ledgers are; made when it is missing, and kept.
    pub directory: PathBuf,
    /// How guests are played; their ledgers are saved in the directory whatever this says.
    pub play: Play,
}

/// A running site.
#[derive(Debug)]
pub struct Site {
    simulation: Simulation,
    players: Arc<Players>,
    cluster: String,
    directory: PathBuf,
}

/// What a site does on request.
#[derive(Debug, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
enum Order {
    /// Has a guest that does not write begin to, at once when it runs, else when it starts.
    Write {
        vmid: u32,
        /// Bytes per second.
        rate: u64,
        /// The ledger to go on from: that of the guest it was moved from.
        ledger: Option<PathBuf>,
    },
    /// Has a guest hang whenever it is started from now on: it writes at that rate, and its agent never answers. Without a
    /// rate it boots as it should.
    Hang {
        vmid: u32,
        /// Bytes per second.
        rate: Option<u64>,
    },
    /// Tells how a guest is.
    Guest { vmid: u32 },
    /// Tells which guests run.
    Running,
    /// Tells which requests were made that would change something, and forgets them.
    Requests,
}

impl Site {
    /// Starts the cluster and its running guests. Fails when one of them cannot write.
    pub fn start(mut settings: SiteSettings) -> io::Result<Site> {
        let alias = settings.cluster;
        settings
            .scenario
            .clusters
            .retain(|cluster| cluster.alias == alias);
        if settings.scenario.clusters.is_empty() {
            let text = format!("there is no cluster '{alias}' in the scenario");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        std::fs::create_dir_all(&settings.directory)?;
        let players = Arc::new(Players::new(Play {
            ledgers: Some(settings.directory.clone()),
            ..settings.play
        }));
        let machine = Arc::clone(&players) as Arc<dyn GuestMachine>;
        let simulation = Simulation::start_at(
            settings.scenario,
            machine,
            &settings.directory,
            settings.listen,
        )?;
        let vmids: Vec<u32> = simulation
            .world()
            .clusters
            .iter()
            .flat_map(|cluster| cluster.guests.keys().copied())
            .collect();
        if let Some(trouble) = vmids.iter().find_map(|vmid| players.trouble(&alias, *vmid)) {
            return Err(io::Error::other(trouble));
        }
        Ok(Site {
            simulation,
            players,
            cluster: alias,
            directory: settings.directory,
        })
    }

    /// Returns what a client needs: address, certificate, and the directory that is the root of each node.
    pub fn ready(&self) -> Value {
        let Some(cluster) = self.simulation.cluster(&self.cluster) else {
            return Value::Null;
        };
        let pairs: Vec<String> = cluster
            .fingerprint
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let nodes: Vec<Value> = cluster
            .nodes
            .iter()
            .map(|node| json!({"name": node.name, "root": node.root}))
            .collect();
        json!({
            "ready": cluster.alias, "address": cluster.address.to_string(),
            "fingerprint": pairs.join(":"), "certificate": cluster.certificate_pem, "nodes": nodes,
        })
    }

    /// Carries out an order, which is a JSON object, and returns the answer; one with `error` when it was not done.
    pub fn obey(&self, line: &str) -> Value {
        let done = serde_json::from_str(line)
            .map_err(|error| error.to_string())
            .and_then(|order| self.carry_out(order));
        done.unwrap_or_else(|error| json!({"error": error}))
    }

    fn carry_out(&self, order: Order) -> Result<Value, String> {
        match order {
            Order::Write { vmid, rate, ledger } => self.write(vmid, rate, ledger),
            Order::Hang { vmid, rate } => {
                let mut world = self.simulation.world();
                let cluster = world.clusters.first_mut().ok_or("there is no cluster")?;
                let boot = rate.map(|write_rate| Boot {
                    mute: true,
                    write_rate,
                    ..Boot::default()
                });
                cluster.boots.insert(vmid, boot.unwrap_or_default());
                Ok(json!({"hangs": rate.is_some()}))
            }
            Order::Guest { vmid } => self.describe(vmid),
            Order::Running => {
                let world = self.simulation.world();
                let guests = world.clusters.iter().flat_map(|cluster| &cluster.guests);
                let running = guests.filter(|(_, guest)| guest.run.is_some());
                let vmids: Vec<u32> = running.map(|(vmid, _)| *vmid).collect();
                Ok(json!({"running": vmids}))
            }
            Order::Requests => {
                let faults = self.simulation.faults();
                let writes: Vec<String> = faults
                    .writes()
                    .iter()
                    .map(|request| format!("{} {}", request.method, request.path))
                    .collect();
                faults.forget();
                Ok(json!({"requests": writes}))
            }
        }
    }

    fn write(&self, vmid: u32, rate: u64, ledger: Option<PathBuf>) -> Result<Value, String> {
        let mut world = self.simulation.world();
        let cluster = world.clusters.first_mut().ok_or("there is no cluster")?;
        let guest = cluster
            .guests
            .get_mut(&vmid)
            .ok_or_else(|| format!("there is no guest {vmid}"))?;
        if guest.run.is_some() && guest.write_rate > 0 {
            return Err(format!("guest {vmid} writes already"));
        }
        if let Some(path) = ledger {
            let ledger = Ledger::load(&path).map_err(|error| error.to_string())?;
            self.players.remember(&self.cluster, vmid, ledger);
        }
        guest.write_rate = rate;
        let guest = guest.clone();
        if guest.run.is_some() {
            self.players.start(&cluster.running_guest(&guest));
        }
        match self.players.trouble(&self.cluster, vmid) {
            Some(trouble) => Err(trouble),
            None => Ok(json!({"writes": vmid})),
        }
    }

    fn describe(&self, vmid: u32) -> Result<Value, String> {
        let world = self.simulation.world();
        let cluster = world.clusters.first().ok_or("there is no cluster")?;
        let guest = cluster
            .guests
            .get(&vmid)
            .ok_or_else(|| format!("there is no guest {vmid}"))?;
        let images = cluster.running_guest(guest).images;
        let images: Vec<Value> = images
            .iter()
            .map(|image| json!({"drive": image.drive.to_string(), "path": image.path, "size": image.size}))
            .collect();
        Ok(json!({
            "running": guest.run.is_some(), "config": guest.config, "images": images,
            "completed": self.players.completed(&self.cluster, vmid),
            "trouble": self.players.trouble(&self.cluster, vmid),
            "ledger": ledger_file(&self.directory, vmid),
        }))
    }
}
