//! A cluster to empty nodes of: three to five nodes with VMs, containers, templates, HA, shared and local storages.
//!
//! For tests of evacuation and restore, and of the simulator itself. A test describes guests with [`vm`] and [`ct`],
//! starts a [`Lab`] and asks through the real client ([`Lab::api`]).
//!
//! - Storages: `san` is shared by all nodes (images, rootdir); `local` is a directory of each node (images, rootdir,
//!   iso with `tiny.iso`); `fast` is a zfspool of the first two nodes only.
//! - Nodes: `node1` to `nodeN`, 64 GiB and 8 CPUs each; change them in the [`ClusterSpec`] before the start.
//! - What goes wrong: [`Lab::orders`] cuts power, boots nodes, has colleagues migrate guests and switches maintenance;
//!   `migration_fault` of a guest lets its migrations fail half-way.
//! - Crashes at every call: [`Lab::calls`] counts the requests of a run, and [`Lab::crash_at`] has another run die with
//!   its n-th one, before or after that is carried out; [`Lab::mend`] has the cluster answer again, for the rerun.
//! - Properties: [`Lab::replay`] goes through everything that happened, [`Lab::peak`] is the most memory that guests had
//!   on a node at any moment (those on their way counted), [`Lab::fewest_running`] how few of some ran at one time.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proxmove::cluster::http::HttpApi;
use proxmove::config::{ClusterConfig, Credentials, Secret};
use proxmove::pve::guest::{GuestKind, GuestRef};
use proxmove::pve::id::{NodeName, Vmid};
use proxmove::pve::migration::{MigrateRequest, StorageMap};
use proxmove::sim::Simulation;
use proxmove::sim::orders::Orders;
use proxmove::sim::world::guest::Guest;
use proxmove::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, HaSpec, NodeSpec, Pace, Scenario, StorageSpec,
};
use proxmove::sim::world::{Cluster, Moment};

/// The alias of the cluster.
pub const ALIAS: &str = "apple";

/// How long a test waits for what should come at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One GiB.
pub const GIB: u64 = 1 << 30;

/// A cluster of `count` nodes with the three storages and no guests.
pub fn cluster(version: &str, count: usize) -> ClusterSpec {
    let nodes = (1..=count).map(|number| NodeSpec {
        name: format!("node{number}"),
        ..NodeSpec::default()
    });
    let storage = |id: &str, kind: &str, content: &str| StorageSpec {
        id: id.to_owned(),
        kind: kind.to_owned(),
        path: format!("/srv/{id}"),
        content: content.to_owned(),
        ..StorageSpec::default()
    };
    ClusterSpec {
        alias: ALIAS.to_owned(),
        version: version.to_owned(),
        nodes: nodes.collect(),
        storages: vec![
            StorageSpec {
                shared: true,
                ..storage("san", "dir", "images,rootdir")
            },
            StorageSpec {
                isos: BTreeMap::from([("tiny.iso".to_owned(), 1 << 20)]),
                ..storage("local", "dir", "images,rootdir,iso")
            },
            StorageSpec {
                nodes: vec!["node1".to_owned(), "node2".to_owned()],
                extra: BTreeMap::from([("pool".to_owned(), "fast".to_owned())]),
                ..storage("fast", "zfspool", "images,rootdir")
            },
        ],
        ..ClusterSpec::default()
    }
}

/// A running VM with a disk of 64 MiB on `storage` and 1 GiB of memory.
pub fn vm(vmid: u32, node: &str, storage: &str) -> GuestSpec {
    let config = [("memory", "1024"), ("ostype", "l26"), ("net0", NET)];
    GuestSpec {
        vmid,
        name: format!("vm{vmid}"),
        node: node.to_owned(),
        config: owned(&config),
        running: true,
        disks: vec![DiskSpec {
            storage: storage.to_owned(),
            format: "raw".to_owned(),
            ..DiskSpec::default()
        }],
        ..GuestSpec::default()
    }
}

/// A running container with a root disk of 64 MiB on `storage` and 512 MiB of memory.
pub fn ct(vmid: u32, node: &str, storage: &str) -> GuestSpec {
    let config = [
        ("memory", "512"),
        ("ostype", "debian"),
        ("cores", "1"),
        ("unprivileged", "1"),
    ];
    GuestSpec {
        vmid,
        kind: "lxc".to_owned(),
        name: format!("ct{vmid}"),
        node: node.to_owned(),
        config: owned(&config),
        running: true,
        disks: vec![DiskSpec {
            key: "rootfs".to_owned(),
            storage: storage.to_owned(),
            format: "raw".to_owned(),
            ..DiskSpec::default()
        }],
        ..GuestSpec::default()
    }
}

const NET: &str = "virtio=BC:24:11:00:00:01,bridge=vmbr0";

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Small changes to a guest, in the order of the words.
pub trait Adjust: Sized {
    /// Sets a key of its configuration.
    fn with(self, key: &str, value: &str) -> Self;
    /// Gives it that much memory.
    fn gib(self, memory: u64) -> Self;
    /// Has it stopped.
    fn stopped(self) -> Self;
    /// Makes it a template, which never runs.
    fn template(self) -> Self;
}

impl Adjust for GuestSpec {
    fn with(mut self, key: &str, value: &str) -> GuestSpec {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    fn gib(self, memory: u64) -> GuestSpec {
        self.with("memory", &(memory * 1024).to_string())
    }

    fn stopped(mut self) -> GuestSpec {
        self.running = false;
        self
    }

    fn template(self) -> GuestSpec {
        self.stopped().with("template", "1")
    }
}

/// Small changes to a cluster.
pub trait ClusterSpecExt: Sized {
    /// Gives it these guests.
    fn guests(self, guests: Vec<GuestSpec>) -> Self;
}

impl ClusterSpecExt for ClusterSpec {
    fn guests(mut self, guests: Vec<GuestSpec>) -> ClusterSpec {
        self.guests = guests;
        self
    }
}

/// A guest of HA that is to run.
pub fn ha(guest: u32) -> HaSpec {
    HaSpec {
        guest,
        state: "started".to_owned(),
        ..HaSpec::default()
    }
}

/// A mix of everything: 6 VMs, 3 containers and a template on `node1`, some more elsewhere.
pub fn mixed(version: &str, nodes: usize) -> ClusterSpec {
    let mut spec = cluster(version, nodes);
    spec.guests = vec![
        vm(101, "node1", "san").gib(8).with("tags", "prod;web"),
        vm(102, "node1", "san").gib(4).with("tags", "prod"),
        vm(103, "node1", "local").gib(2),
        vm(104, "node1", "fast").stopped(),
        vm(105, "node1", "san")
            .with("onboot", "1")
            .with("startup", "order=1"),
        vm(106, "node1", "local").with("ide2", "local:iso/tiny.iso,media=cdrom"),
        ct(111, "node1", "san"),
        ct(112, "node1", "local"),
        ct(113, "node1", "san").stopped(),
        vm(190, "node1", "san").template(),
        vm(201, "node2", "san").gib(16),
        ct(202, "node2", "san"),
        vm(301, "node3", "san").gib(2),
    ];
    spec.ha = vec![ha(105)];
    spec
}

/// A running cluster.
pub struct Lab {
    /// The simulation.
    pub simulation: Simulation,
    /// Who cuts power, boots nodes and migrates guests as a colleague.
    pub orders: Orders,
}

impl Lab {
    /// Starts a cluster; everything in it takes milliseconds.
    pub fn start(spec: ClusterSpec) -> Lab {
        Lab::start_at(spec, Pace::quick())
    }

    /// Starts a cluster at a pace.
    pub fn start_at(spec: ClusterSpec, pace: Pace) -> Lab {
        let scenario = Scenario {
            clusters: vec![spec],
            pace,
        };
        let simulation = Simulation::start(scenario).unwrap();
        let orders = simulation.orders(ALIAS).unwrap();
        Lab { simulation, orders }
    }

    /// Returns a client logged in as root.
    pub fn api(&self) -> HttpApi {
        self.api_of("root@pam", "root")
    }

    /// Returns a client of a user.
    pub fn api_of(&self, user: &str, password: &str) -> HttpApi {
        api_of(&self.simulation, user, password)
    }

    /// Looks at the cluster.
    pub fn look<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.simulation.world().clusters[0])
    }

    /// Changes the cluster, as if by magic.
    pub fn change<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        change(&mut self.simulation.world().clusters[0])
    }

    /// Returns a guest as it is.
    pub fn guest(&self, vmid: u32) -> Guest {
        self.look(|cluster| cluster.guests[&vmid].clone())
    }

    /// Returns where a guest is now.
    pub fn place(&self, vmid: u32) -> GuestRef {
        let guest = self.guest(vmid);
        GuestRef {
            node: guest.node.parse().unwrap(),
            kind: match guest.container {
                true => GuestKind::Lxc,
                false => GuestKind::Qemu,
            },
            vmid: Vmid::new(vmid).unwrap(),
        }
    }

    /// Returns the numbers of the guests on a node.
    pub fn on(&self, node: &str) -> Vec<u32> {
        self.look(|cluster| {
            let guests = cluster.guests.values();
            guests
                .filter(|guest| guest.node == node)
                .map(|guest| guest.vmid)
                .collect()
        })
    }

    /// Goes through everything that happened: `look` sees how each guest was after each change.
    pub fn replay(&self, mut look: impl FnMut(&BTreeMap<u32, Moment>)) {
        let history = self.look(|cluster| cluster.history.clone());
        let mut guests = BTreeMap::new();
        for moment in history {
            guests.insert(moment.vmid, moment);
            // The first moments tell the guests one by one; a node is judged when all are known.
            if guests.len() == self.look(|cluster| cluster.guests.len()) {
                look(&guests);
            }
        }
    }

    /// Returns the most memory that guests had on a node at any moment.
    pub fn peak(&self, node: &str) -> u64 {
        let memory: BTreeMap<u32, u64> = self.look(|cluster| {
            let guests = cluster.guests.values();
            guests.map(|guest| (guest.vmid, guest.memory())).collect()
        });
        let mut peak = 0;
        self.replay(|guests| {
            let needed = guests.values().filter(|guest| {
                guest.running && (guest.node == node || guest.coming_to.as_deref() == Some(node))
            });
            peak = needed
                .map(|guest| memory[&guest.vmid])
                .sum::<u64>()
                .max(peak);
        });
        peak
    }

    /// Returns how few of these guests ran at one time.
    pub fn fewest_running(&self, vmids: &[u32]) -> usize {
        let mut fewest = vmids.len();
        self.replay(|guests| {
            let running = vmids.iter().filter(|vmid| guests[vmid].running).count();
            fewest = running.min(fewest);
        });
        fewest
    }

    /// Waits until the cluster is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Cluster) -> bool) {
        let started = Instant::now();
        while !self.look(&wanted) {
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Counts the requests since the last [`Lab::mend`], logins included.
    pub fn calls(&self) -> usize {
        self.simulation.faults().requests().len()
    }

    /// Runs something that dies with its n-th request (counted from 1): with `after` that one is carried out, but
    /// neither it nor a later one is answered. Returns what came out when it needed fewer requests.
    pub async fn crash_at<T>(
        &self,
        nth: usize,
        after: bool,
        run: impl Future<Output = T>,
    ) -> Option<T> {
        let died = self.simulation.faults().die_at(nth, after);
        tokio::select! {
            result = run => Some(result),
            () = died.notified() => None,
        }
    }

    /// Has the cluster answer again, and counts calls from here.
    pub fn mend(&self) {
        let faults = self.simulation.faults();
        faults.revive();
        faults.clear();
        faults.forget();
    }
}

/// Returns a client of a user of the first cluster.
pub fn api_of(simulation: &Simulation, user: &str, password: &str) -> HttpApi {
    let cluster = &simulation.clusters[0];
    let config = ClusterConfig {
        alias: ALIAS.parse().unwrap(),
        host: cluster.address.ip().to_string(),
        port: cluster.address.port(),
        credentials: Credentials::Password {
            user: user.to_owned(),
            password: Secret::new(password),
        },
        also: Vec::new(),
        fingerprints: vec![cluster.fingerprint],
        ca: None,
    };
    HttpApi::connect(config, true).polling_every(Duration::from_millis(10))
}

/// Returns a node's name.
pub fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// A request for a live migration, or one with a restart.
pub fn to(target: &str) -> MigrateRequest {
    MigrateRequest {
        target: node(target),
        online: true,
        with_local_disks: false,
        restart: true,
        timeout: None,
        target_storage: StorageMap::Same,
    }
}
