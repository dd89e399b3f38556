//! Guests that go to another cluster, and come back: the mover of this project, used for guests of a node.
//!
//! The mover has its own memory, its mark, so whatever ended early is gone on with. Here is what moves are made with; read
//! next: `across/look.rs`, how far guests are that were sent there, and what the mover says about those that are to go;
//! `across/passage.rs`, one move, one way back, or one that is given up.

mod look;
mod passage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Evacuator, chain};
use crate::cluster::Api;
use crate::config::Config;
use crate::moves::Mover;
use crate::moves::back::{self, Clusters, WayBack};
use crate::moves::batch::Batch;
use crate::moves::claim;
use crate::moves::survey::Derive;
use crate::plan::MoveRequest;
use crate::plan::claim::Claimant;
use crate::plan::facts::ExistingMoves;
use crate::plan::order::Order;
use crate::pve::destination::Destination;
use crate::pve::id::ClusterAlias;
use crate::report::{Reporter, operator::AlwaysYes};
use crate::transfer::Engine;
use crate::units::Bandwidth;

/// What guests are moved to other clusters with.
pub struct Movers {
    /// proxmoverc.
    pub config: Config,
    /// Derives storage sections that proxmoverc does not have.
    pub derive: Box<Derive<'static>>,
    /// All configured clusters.
    pub clusters: Clusters,
    /// Copies volumes.
    pub engine: Arc<dyn Engine>,
    /// Who this run is, for the claims of moves.
    pub claimant: Claimant,
    /// `--map-bridge`.
    pub bridges: BTreeMap<String, String>,
    /// `--bwlimit`.
    pub limit: Option<Bandwidth>,
}

impl Movers {
    /// Returns what moves of an operator are made with.
    pub fn new(
        config: Config,
        derive: Box<Derive<'static>>,
        clusters: Clusters,
        engine: Arc<dyn Engine>,
        identity: &str,
    ) -> Movers {
        Movers {
            config,
            derive,
            clusters,
            engine,
            claimant: claim::here(identity),
            bridges: BTreeMap::new(),
            limit: None,
        }
    }
}

impl Evacuator {
    /// Returns a cluster of the configuration, or this one.
    fn cluster(&self, alias: &ClusterAlias) -> Option<Arc<dyn Api>> {
        if alias == self.api.alias() {
            return Some(Arc::clone(&self.api));
        }
        let clusters = &self.movers.as_ref()?.clusters;
        clusters.get(alias).map(Arc::clone)
    }

    /// Returns what moves guests from one cluster to another; `None` where one is not configured.
    fn batch(
        &self,
        source: &ClusterAlias,
        target: &ClusterAlias,
        former: ExistingMoves,
        reporter: Arc<dyn Reporter>,
    ) -> Option<Batch<'_>> {
        let movers = self.movers.as_ref()?;
        Some(Batch {
            mover: Mover {
                source: self.cluster(source)?,
                target: self.cluster(target)?,
                engine: Arc::clone(&movers.engine),
                reporter,
                // The plan was consented to as a whole.
                operator: Arc::new(AlwaysYes),
                interrupt: self.interrupt.clone(),
                claimant: movers.claimant.clone(),
                take_over: false,
            },
            hosts: Arc::clone(&self.hosts),
            config: &movers.config,
            derive: &*movers.derive,
            former,
            fail_fast: false,
            wait_for_locks: Duration::ZERO,
        })
    }

    fn move_request(
        &self,
        source: &ClusterAlias,
        place: &Destination,
        guests: Vec<String>,
    ) -> MoveRequest {
        let (node, storage) = (place.node.clone(), place.storage.clone());
        let order = Order::plain(place.cluster.clone(), node, storage);
        let movers = self.movers.as_ref();
        MoveRequest {
            guests,
            stop_timeout: self.pace.stop_timeout,
            bridges: movers
                .map(|movers| movers.bridges.clone())
                .unwrap_or_default(),
            limit: movers.and_then(|movers| movers.limit),
            ..order.request(source, &place.cluster, "")
        }
    }

    /// Finds the way back of a guest that was sent to another cluster.
    async fn find_back(&self, own: &str, from: &Destination) -> Result<WayBack, String> {
        let movers = self.movers.as_ref();
        let movers = movers.ok_or("other clusters are not known here")?;
        let mut clusters = movers.clusters.clone();
        clusters.insert(self.api.alias().clone(), Arc::clone(&self.api));
        let to = Some(self.api.alias());
        back::find(own, &from.cluster, to, &clusters, &self.identity)
            .await
            .map_err(|error| chain(&error))
    }

    /// Returns the request of a way back.
    fn back_request(
        &self,
        own: &str,
        way: &WayBack,
        bridges: &BTreeMap<String, String>,
    ) -> Result<MoveRequest, String> {
        let place = Destination {
            cluster: way.target.clone(),
            node: way.existing.target.node.clone(),
            // Only asked for where its former self has no drive at all.
            storage: "local".parse().map_err(|error| chain(&error))?,
        };
        let source = &way.existing.mark.source_cluster;
        let mut base = self.move_request(source, &place, Vec::new());
        // The other way round: what was connected to A, and to B there, is connected to A again.
        base.bridges = bridges
            .iter()
            .map(|(from, to)| (to.clone(), from.clone()))
            .collect();
        way.request(own, &base).map_err(|error| chain(&error))
    }
}
