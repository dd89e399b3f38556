//! A whole stage: simulated clusters, an SSH host for every node, guests that write, and an operator's home with keys,
//! known hosts and a proxmoverc. For the demo, for `proxmove sim`, and for tests that run the real program.
//!
//! Everything is in one directory and ends with the stage. Read next: `players.rs`, `demo.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use super::Simulation;
use super::guest::{Ledger, Verdict};
use super::host::{HostSettings, POWERED_OFF, PROGRAMS, Server, SimHost, generate_key};
use super::orders::install_programs;
use super::players::{Play, Players};
use super::world::machine::GuestMachine;
use super::world::scenario::{ClusterSpec, Scenario, StorageSpec};

/// What a stage is made of.
pub struct StageSettings {
    /// The clusters.
    pub scenario: Scenario,
    /// The kind of SSH server of all hosts.
    pub server: Server,
    /// Seed of what the guests write.
    pub seed: u64,
    /// Confines what a guest writes to a region of this many bytes of each disk; `None` for all of it.
    pub hot_bytes: Option<u64>,
    /// How much of each running guest's disks is filled before it starts, 0.0 to 1.0.
    pub filled: f64,
}

/// A running stage.
pub struct Stage {
    /// The clusters.
    pub simulation: Simulation,
    /// The operator's home: `.ssh` and `.proxmoverc`.
    pub home: PathBuf,
    /// The hosts by `CLUSTER-NODE`.
    pub hosts: BTreeMap<String, SimHost>,
    players: Arc<Players>,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Starts everything. Must be called within a tokio runtime that outlives the stage.
    pub async fn start(settings: StageSettings) -> io::Result<Stage> {
        let directory = tempfile::Builder::new().prefix("proxmove-sim-").tempdir()?;
        let home = directory.path().join("home");
        let ssh = home.join(".ssh");
        std::fs::create_dir_all(&ssh)?;
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o700))?;
        let (_, public) = generate_key(&ssh).map_err(io::Error::other)?;
        let players = Arc::new(Players::new(Play {
            seed: settings.seed,
            hot_bytes: settings.hot_bytes,
            filled: settings.filled,
            ledgers: None,
        }));
        let clusters = directory.path().join("clusters");
        std::fs::create_dir(&clusters)?;
        let machine = Arc::clone(&players) as Arc<dyn GuestMachine>;
        let simulation = Simulation::start_in(settings.scenario.clone(), machine, &clusters)?;
        let specs = &settings.scenario.clusters;
        let mut hosts = BTreeMap::new();
        let mut known_hosts = String::new();
        for cluster in &simulation.clusters {
            for node in &cluster.nodes {
                let name = format!("{}-{}", cluster.alias, node.name);
                let own = directory.path().join("hosts").join(&name);
                std::fs::create_dir_all(own.join("etc/pve"))?;
                let files = clusters.join(&cluster.alias).join("pmxcfs");
                symlink(files.join("nodes"), own.join("etc/pve/nodes"))?;
                symlink(format!("nodes/{}", node.name), own.join("etc/pve/local"))?;
                if let Some(spec) = specs.iter().find(|spec| spec.alias == cluster.alias) {
                    let programs = own.join(PROGRAMS);
                    let directory = simulation.directory.join(&cluster.alias);
                    install_programs(&programs, &directory, spec, &node.name)?;
                    let off = directory.join(format!("{}.powered-off", node.name));
                    std::os::unix::fs::symlink(off, own.join(POWERED_OFF))?;
                }
                let host = SimHost::start(HostSettings {
                    name: name.clone(),
                    directory: own,
                    authorized_keys: vec![public.clone()],
                    server: settings.server.clone(),
                })
                .await
                .map_err(io::Error::other)?;
                let _ = writeln!(known_hosts, "{}", host.known_hosts_line);
                hosts.insert(name, host);
            }
        }
        std::fs::write(ssh.join("known_hosts"), known_hosts)?;
        let stage = Stage {
            simulation,
            home,
            hosts,
            players,
            _directory: directory,
        };
        stage.write_proxmoverc(&settings.scenario)?;
        Ok(stage)
    }

    /// Returns the path of the stage's proxmoverc.
    pub fn proxmoverc(&self) -> PathBuf {
        self.home.join(".proxmoverc")
    }

    /// Returns the number of the guest with that name.
    pub fn vmid(&self, cluster: &str, name: &str) -> Option<u32> {
        let world = self.simulation.world();
        let cluster = world.clusters.iter().find(|known| known.alias == cluster)?;
        let named = |config: &BTreeMap<String, String>| {
            config.get("name").is_some_and(|known| known == name)
        };
        cluster
            .guests
            .values()
            .find(|guest| named(&guest.config))
            .map(|guest| guest.vmid)
    }

    /// Returns what a guest has written; of a running one what it had when it was last stopped.
    pub fn ledger(&self, cluster: &str, vmid: u32) -> Option<Ledger> {
        self.players.ledger(cluster, vmid)
    }

    /// Proves that a moved guest's disks hold every record its source had completed.
    ///
    /// The target guest's disks are those it was last started with, in the order of their drives.
    pub fn check(&self, source: (&str, u32), target: (&str, u32)) -> io::Result<Verdict> {
        let ledger = self
            .ledger(source.0, source.1)
            .ok_or_else(|| io::Error::other("the source guest was never stopped"))?;
        let images = self
            .players
            .images(target.0, target.1)
            .ok_or_else(|| io::Error::other("the target guest was never started"))?;
        ledger.check(&images).map_err(io::Error::other)
    }

    /// Has a guest that was moved go on writing where its source ended; with a rate of 0, has it stop writing at its next
    /// start.
    pub fn go_on(&self, source: (&str, u32), guest: (&str, u32), rate: u64) -> io::Result<()> {
        let ledger = self.ledger(source.0, source.1);
        let mut world = self.simulation.world();
        let cluster = world
            .clusters
            .iter_mut()
            .find(|known| known.alias == guest.0);
        let cluster = cluster.ok_or_else(|| io::Error::other("there is no such cluster"))?;
        let found = cluster.guests.get_mut(&guest.1);
        let found = found.ok_or_else(|| io::Error::other("there is no such guest"))?;
        let writes = found.run.is_some() && found.write_rate > 0;
        found.write_rate = rate;
        if rate == 0 || writes {
            return Ok(());
        }
        let found = found.clone();
        if let Some(ledger) = ledger {
            self.players.remember(guest.0, guest.1, ledger);
        }
        if found.run.is_some() {
            self.players.start(&cluster.running_guest(&found));
        }
        match self.players.trouble(guest.0, guest.1) {
            Some(trouble) => Err(io::Error::other(trouble)),
            None => Ok(()),
        }
    }

    /// Returns how many records a guest has completed since it was started last.
    pub fn completed(&self, cluster: &str, vmid: u32) -> u64 {
        self.players.completed(cluster, vmid)
    }

    fn write_proxmoverc(&self, scenario: &Scenario) -> io::Result<()> {
        let mut text = String::from("; written by proxmove sim\n");
        for (cluster, spec) in self.simulation.clusters.iter().zip(&scenario.clusters) {
            let (user, password) = login(spec);
            let fingerprint: Vec<String> = cluster
                .fingerprint
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            let _ = writeln!(
                text,
                "\n[pve:{}]\napi=https://{user}:{password}@{}\nfingerprint={}",
                cluster.alias,
                cluster.address,
                fingerprint.join(":")
            );
            for storage in spec.storages.iter().filter(|storage| holds_images(storage)) {
                for node in &cluster.nodes {
                    if !storage.nodes.is_empty() && !storage.nodes.contains(&node.name) {
                        continue;
                    }
                    let Some(host) = self.hosts.get(&format!("{}-{}", cluster.alias, node.name))
                    else {
                        continue;
                    };
                    // All nodes see one and the same directory of a storage that is shared.
                    let root = match storage.shared {
                        true => &self
                            .simulation
                            .directory
                            .join(&cluster.alias)
                            .join("shared"),
                        false => &node.root,
                    };
                    let path = root.join(storage.path.trim_start_matches('/'));
                    let temp = path.join("temp");
                    std::fs::create_dir_all(&temp)?;
                    let _ = writeln!(
                        text,
                        "\n  [storage:{}:{}@{}]\n  ssh={}@127.0.0.1:{}\n  path={}\n  temp={}",
                        cluster.alias,
                        storage.id,
                        node.name,
                        host.user,
                        host.port,
                        path.join("images").display(),
                        temp.display()
                    );
                }
            }
        }
        std::fs::write(self.proxmoverc(), text)?;
        std::fs::set_permissions(self.proxmoverc(), std::fs::Permissions::from_mode(0o600))
    }
}

fn holds_images(storage: &StorageSpec) -> bool {
    storage.kind == "dir"
        && storage
            .content
            .split(',')
            .any(|content| content == "images")
}

fn login(cluster: &ClusterSpec) -> (String, String) {
    let first = cluster.users.first();
    first.map_or_else(
        || ("root@pam".to_owned(), "root".to_owned()),
        |user| (user.id.clone(), user.password.clone()),
    )
}
