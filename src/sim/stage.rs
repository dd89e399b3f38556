//! A whole stage: simulated clusters, an SSH host for every node, guests that write, and an operator's home with keys,
//! known hosts and a proxmoverc. For the demo, for `proxmove sim`, and for tests that run the real program.
//!
//! Everything is in one directory and ends with the stage. Read next: `demo.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Simulation;
use super::guest::{Format, Image, Ledger, Verdict, Workload, Writer, fill};
use super::host::{HostSettings, Server, SimHost, generate_key};
use super::world::machine::{GuestImage, GuestMachine, RunningGuest};
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
    guests: Arc<Guests>,
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
        let guests = Arc::new(Guests::new(&settings));
        let clusters = directory.path().join("clusters");
        std::fs::create_dir(&clusters)?;
        let machine = Arc::clone(&guests) as Arc<dyn GuestMachine>;
        let simulation = Simulation::start_in(settings.scenario.clone(), machine, &clusters)?;
        let mut hosts = BTreeMap::new();
        let mut known_hosts = String::new();
        for cluster in &simulation.clusters {
            for node in &cluster.nodes {
                let name = format!("{}-{}", cluster.alias, node.name);
                let own = directory.path().join("hosts").join(&name);
                std::fs::create_dir_all(&own)?;
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
            guests,
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
        let played = self.guests.lock();
        played
            .get(&(cluster.to_owned(), vmid))
            .and_then(|guest| guest.ledger.clone())
    }

    /// Proves that a moved guest's disks hold every record its source had completed.
    ///
    /// The target guest's disks are those it was last started with, in the order of their drives.
    pub fn check(&self, source: (&str, u32), target: (&str, u32)) -> io::Result<Verdict> {
        let ledger = self
            .ledger(source.0, source.1)
            .ok_or_else(|| io::Error::other("the source guest was never stopped"))?;
        let images = {
            let played = self.guests.lock();
            let guest = played.get(&(target.0.to_owned(), target.1));
            guest
                .map(|guest| guest.images.clone())
                .ok_or_else(|| io::Error::other("the target guest was never started"))?
        };
        ledger.check(&images).map_err(io::Error::other)
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
                    let path = node.root.join(storage.path.trim_start_matches('/'));
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

/// Plays the running guests of a stage.
struct Guests {
    seed: u64,
    hot_bytes: Option<u64>,
    filled: f64,
    played: Mutex<BTreeMap<(String, u32), Played>>,
}

/// A guest that was started at least once.
#[derive(Default)]
struct Played {
    images: Vec<Image>,
    writer: Option<Writer>,
    ledger: Option<Ledger>,
}

impl Guests {
    fn new(settings: &StageSettings) -> Guests {
        Guests {
            seed: settings.seed,
            hot_bytes: settings.hot_bytes,
            filled: settings.filled,
            played: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, u32), Played>> {
        self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn play(&self, guest: &RunningGuest) -> Result<(), super::guest::GuestError> {
        let mut played = self.lock();
        let entry = played
            .entry((guest.cluster.clone(), guest.vmid))
            .or_default();
        let first_time = entry.images.is_empty();
        entry.images = guest.images.iter().map(image).collect();
        if guest.write_rate == 0 {
            return Ok(());
        }
        if first_time && self.filled > 0.0 {
            for image in &entry.images {
                fill(image, self.filled, self.seed)?;
            }
        }
        let workload = Workload {
            bytes_per_second: guest.write_rate,
            seed: self.seed ^ u64::from(guest.vmid) << 32,
            hot_bytes: self.hot_bytes,
        };
        let images = entry.images.clone();
        entry.writer = Some(match entry.ledger.take() {
            Some(ledger) => Writer::resume(images, workload, ledger)?,
            None => Writer::start(images, workload)?,
        });
        Ok(())
    }
}

fn image(image: &GuestImage) -> Image {
    Image {
        drive: image.drive.to_string(),
        path: Path::new(&image.path).to_owned(),
        format: match image.format.as_str() {
            "qcow2" => Format::Qcow2,
            _ => Format::Raw,
        },
        size: image.size,
    }
}

impl GuestMachine for Guests {
    fn start(&self, guest: &RunningGuest) {
        if let Err(error) = self.play(guest) {
            log::error!("simulated guest {} does not write: {error}", guest.vmid);
        }
    }

    fn stop(&self, guest: &RunningGuest, hard: bool) {
        let mut played = self.lock();
        let Some(entry) = played.get_mut(&(guest.cluster.clone(), guest.vmid)) else {
            return;
        };
        let Some(writer) = entry.writer.take() else {
            return;
        };
        match if hard { writer.kill() } else { writer.stop() } {
            Ok(ledger) => entry.ledger = Some(ledger),
            Err(error) => log::error!("simulated guest {} wrote badly: {error}", guest.vmid),
        }
    }
}
