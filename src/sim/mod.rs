//! A simulated Proxmox VE: clusters that answer over real HTTPS, with real disk images behind them.
//!
//! For `proxmove demo`, for the tests, and for rehearsing. It is never kinder than the real thing: what Proxmox VE
//! refuses, it refuses in the same words. It does not clone, back up or save memory, and nothing runs inside its containers. Read next:
//! [`world`] (the state), [`api`] (the answers), [`host`] (SSH servers), [`guest`] (what running guests write),
//! [`players`] (who plays them), [`orders`] (what nodes and colleagues do), [`stage`] (all of it together, with an operator's home), [`site`] (one cluster on a
//! storage machine).

pub mod api;
pub mod guest;
pub mod host;
pub mod orders;
pub mod players;
pub mod site;
pub mod stage;
pub mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use world::World;
use world::faults::Faults;
use world::machine::{GuestMachine, IdleMachine};
use world::scenario::Scenario;

use api::server::{Server, acceptor};

/// One cluster of a running simulation, as a client sees it.
#[derive(Clone, Debug)]
pub struct SimulatedCluster {
    /// Its alias.
    pub alias: String,
    /// Where its API listens.
    pub address: SocketAddr,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// Its certificate as PEM; it is its own authority.
    pub certificate_pem: String,
    /// Its nodes and the directory that is the root of each one's file system.
    pub nodes: Vec<SimulatedNode>,
}

/// One node of a simulated cluster.
#[derive(Clone, Debug)]
pub struct SimulatedNode {
    /// Its name.
    pub name: String,
    /// The directory its storages are under: `/srv/x` of the scenario is `ROOT/srv/x`.
    pub root: PathBuf,
    /// Whether it is up.
    pub online: bool,
}

/// How a way to a cluster is ended, and what it shows of itself.
type Way = (tokio::sync::watch::Sender<bool>, tokio_rustls::TlsAcceptor);

/// Running clusters. They end when this is dropped; the directory is removed when the simulation made it.
pub struct Simulation {
    /// The clusters, in the order of the scenario.
    pub clusters: Vec<SimulatedCluster>,
    /// Where everything is.
    pub directory: PathBuf,
    world: Arc<Mutex<World>>,
    machine: Arc<dyn GuestMachine>,
    faults: Faults,
    /// The first way to each cluster.
    ways: Vec<Way>,
    runtime: Option<tokio::runtime::Runtime>,
    _temporary: Option<tempfile::TempDir>,
}

impl Simulation {
    /// Starts the clusters of a scenario in a temporary directory; their guests never write.
    pub fn start(scenario: Scenario) -> io::Result<Simulation> {
        Simulation::start_with(scenario, Arc::new(IdleMachine))
    }

    /// Starts the clusters in a temporary directory, with `machine` playing the guests.
    pub fn start_with(
        scenario: Scenario,
        machine: Arc<dyn GuestMachine>,
    ) -> io::Result<Simulation> {
        let temporary = tempfile::Builder::new().prefix("proxmove-sim-").tempdir()?;
        let directory = temporary.path().to_owned();
        let mut simulation = Simulation::start_in(scenario, machine, &directory)?;
        simulation._temporary = Some(temporary);
        Ok(simulation)
    }

    /// Starts the clusters in a directory, which must be empty and is kept.
    pub fn start_in(
        scenario: Scenario,
        machine: Arc<dyn GuestMachine>,
        directory: &Path,
    ) -> io::Result<Simulation> {
        Simulation::start_at(
            scenario,
            machine,
            directory,
            (Ipv4Addr::LOCALHOST, 0).into(),
        )
    }

    /// Starts the clusters in a directory, listening at an address; several clusters need port 0, for any that is free.
    pub fn start_at(
        scenario: Scenario,
        machine: Arc<dyn GuestMachine>,
        directory: &Path,
        address: SocketAddr,
    ) -> io::Result<Simulation> {
        let world = Arc::new(Mutex::new(world::setup::build(&scenario, directory)?));
        // A runtime of its own: clients that block their thread must not stop the server.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("simulation")
            .enable_all()
            .build()?;
        let mut simulation = Simulation {
            clusters: Vec::new(),
            directory: directory.to_owned(),
            world,
            machine,
            faults: Faults::default(),
            ways: Vec::new(),
            runtime: Some(runtime),
            _temporary: None,
        };
        for place in 0..scenario.clusters.len() {
            let (cluster, way) = simulation.serve(place, address)?;
            simulation.clusters.push(cluster);
            simulation.ways.push(way);
        }
        simulation.keep_broadcasting(Duration::from_millis(scenario.pace.broadcast.max(1)));
        simulation.keep_managing(Duration::from_millis(scenario.pace.ha.max(1)));
        simulation.play_running_guests();
        Ok(simulation)
    }

    /// Returns the cluster of that alias.
    pub fn cluster(&self, alias: &str) -> Option<&SimulatedCluster> {
        self.clusters.iter().find(|cluster| cluster.alias == alias)
    }

    /// Returns the rules for faults and the record of requests.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Looks at the state itself, for tests that compare or break it. Requests wait meanwhile.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state for a callback that outlives this borrow.
    pub fn shared_world(&self) -> Arc<Mutex<World>> {
        Arc::clone(&self.world)
    }

    /// Returns the runtime the simulation is served by, for other servers of the same simulation.
    pub fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.as_ref().map(tokio::runtime::Runtime::handle)
    }

    /// Serves a cluster a second time, at another address with the port and the certificate of the first, as another node
    /// of it does.
    pub fn serve_also(&self, alias: &str, address: std::net::IpAddr) -> io::Result<()> {
        let place = self.clusters.iter().position(|known| known.alias == alias);
        let unknown = || io::Error::new(io::ErrorKind::NotFound, alias.to_owned());
        let place = place.ok_or_else(unknown)?;
        let (Some((_, tls)), Some(cluster)) = (self.ways.get(place), self.clusters.get(place))
        else {
            return Err(unknown());
        };
        let listener = TcpListener::bind((address, cluster.address.port()))?;
        listener.set_nonblocking(true)?;
        let (_, off) = tokio::sync::watch::channel(false);
        self.listen(self.server(place, off), listener, tls.clone())
    }

    /// Ends the first way to a cluster: its connections break, and new ones are refused.
    pub fn end_first_way(&self, alias: &str) {
        let ways = self.clusters.iter().zip(&self.ways);
        for (cluster, (off, _)) in ways {
            if cluster.alias == alias {
                off.send_replace(true);
            }
        }
    }

    fn listen(
        &self,
        server: Server,
        listener: TcpListener,
        tls: tokio_rustls::TlsAcceptor,
    ) -> io::Result<()> {
        if let Some(runtime) = &self.runtime {
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(server.serve(listener, tls));
        }
        Ok(())
    }

    fn serve(&self, place: usize, address: SocketAddr) -> io::Result<(SimulatedCluster, Way)> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        if !address.ip().is_unspecified() && !address.ip().is_loopback() {
            names.push(address.ip().to_string());
        }
        let certificate = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        let fingerprint: [u8; 32] = Sha256::digest(certificate.cert.der()).into();
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut world = self.world();
        let cluster = &mut world.clusters[place];
        let pairs: Vec<String> = fingerprint
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        cluster.fingerprint = pairs.join(":");
        let described = SimulatedCluster {
            alias: cluster.alias.clone(),
            address,
            fingerprint,
            certificate_pem: certificate.cert.pem(),
            nodes: cluster
                .nodes
                .iter()
                .map(|node| SimulatedNode {
                    name: node.name.clone(),
                    root: cluster.directory.join(&node.name),
                    online: node.online,
                })
                .collect(),
        };
        drop(world);
        let tls = acceptor(&certificate)?;
        let (end, off) = tokio::sync::watch::channel(false);
        self.listen(self.server(place, off), listener, tls.clone())?;
        Ok((described, (end, tls)))
    }

    fn server(&self, place: usize, off: tokio::sync::watch::Receiver<bool>) -> Server {
        Server {
            world: self.world.clone(),
            place,
            machine: self.machine.clone(),
            faults: self.faults.clone(),
            off,
        }
    }

    /// Has the HA manager and the nodes do their rounds, and nodes go down and come up as they were asked to.
    fn keep_managing(&self, every: Duration) {
        let Some(runtime) = &self.runtime else {
            return;
        };
        let places = self.world().clusters.len();
        let servers: Vec<Server> = (0..places)
            .map(|place| self.server(place, tokio::sync::watch::channel(false).1))
            .collect();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                for server in &servers {
                    orders::round(server);
                }
            }
        });
    }

    fn keep_broadcasting(&self, every: Duration) {
        let world = self.world.clone();
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
                    for cluster in &mut world.clusters {
                        cluster.refresh_broadcasts();
                    }
                }
            });
        }
    }

    fn play_running_guests(&self) {
        let world = self.world();
        for cluster in &world.clusters {
            for guest in cluster.guests.values().filter(|guest| guest.run.is_some()) {
                self.machine.start(&cluster.running_guest(guest));
            }
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        {
            let mut world = self.world();
            for cluster in &mut world.clusters {
                let running: Vec<_> = cluster
                    .guests
                    .values()
                    .filter(|guest| guest.run.is_some())
                    .cloned()
                    .collect();
                for guest in running {
                    self.machine.stop(&cluster.running_guest(&guest), true);
                }
            }
        }
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would wait, and may not be done inside another runtime.
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("clusters", &self.clusters)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
