//! The nodes that serve a cluster's API: those that were configured, and those that the cluster itself has told of.
//!
//! Those of the configuration come first, in their order. The others are asked only when no connection to any of those
//! comes about, so that one that is out of this machine's reach costs nothing. They are believed by the same rules: one
//! whose certificate does not hold is left out for good. Pure, but for what it remembers. Read next: `http.rs`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::config::ClusterConfig;
use crate::pve::inventory::Node;

/// More are not tried: each that is out of reach costs the time of a connection that does not come about.
const MOST: usize = 5;

/// The places to ask, and which of them is asked.
#[derive(Debug)]
pub(super) struct Places {
    /// `host:port` of the configuration.
    configured: Vec<String>,
    port: u16,
    /// `host:port` as the cluster tells.
    found: OnceLock<Vec<String>>,
    asked: AtomicUsize,
    distrusted: Mutex<BTreeSet<usize>>,
}

impl Places {
    /// Returns the places of the configuration.
    pub(super) fn of(config: &ClusterConfig) -> Places {
        let also = config.also.iter();
        let also = also.map(|(host, port)| address(host, *port));
        let first = address(&config.host, config.port);
        Places {
            configured: std::iter::once(first).chain(also).collect(),
            port: config.port,
            found: OnceLock::new(),
            asked: AtomicUsize::new(0),
            distrusted: Mutex::default(),
        }
    }

    /// Takes note of the members that the cluster tells of; the first time counts. Returns those that are new.
    pub(super) fn learn(&self, members: &[Node]) -> Vec<String> {
        let addresses: Vec<String> = members
            .iter()
            .filter(|node| node.online)
            .filter_map(|node| Some(address(node.address.as_deref()?, self.port)))
            .filter(|address| !self.configured.contains(address))
            .collect();
        if addresses.is_empty() {
            return Vec::new();
        }
        let distinct: BTreeSet<String> = addresses.into_iter().collect();
        let found: Vec<String> = distinct.into_iter().take(MOST).collect();
        match self.found.set(found.clone()) {
            Ok(()) => found,
            Err(_) => Vec::new(),
        }
    }

    /// Returns which place is asked.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns the address of the place that is asked.
    pub(super) fn address(&self) -> &str {
        let place = self.asked();
        let found = self.found.get().map_or(&[][..], Vec::as_slice);
        let mut all = self.configured.iter().chain(found);
        all.nth(place).map_or("", String::as_str)
    }

    /// Says whether a place was told of by the cluster, rather than configured.
    pub(super) fn is_found(&self, place: usize) -> bool {
        place >= self.configured.len()
    }

    /// Asks another place from now on, unless another request has seen to that already; returns how many there are. With
    /// `unreachable`, where no connection came about, those count that the cluster has told of.
    pub(super) fn ask_after(&self, place: usize, unreachable: bool) -> usize {
        let found = match unreachable {
            true => self.found.get().map_or(0, Vec::len),
            false => 0,
        };
        let distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ring: Vec<usize> = (0..self.configured.len() + found)
            .filter(|known| !distrusted.contains(known))
            .collect();
        let next = ring.iter().find(|known| **known > place).or(ring.first());
        let next = next.copied().unwrap_or(0);
        let _ = self
            .asked
            .compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
        ring.len()
    }

    /// Leaves a place out from now on; says whether it was in until then.
    pub(super) fn distrust(&self, place: usize) -> bool {
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(place)
    }
}

fn address(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Credentials, Secret};

    fn places(also: &[&str]) -> Places {
        Places::of(&ClusterConfig {
            alias: "apple".parse().expect("an alias"),
            host: "10.0.0.1".to_owned(),
            port: 8006,
            credentials: Credentials::Token {
                id: "mover@pve!t1".to_owned(),
                secret: Secret::new("hush"),
            },
            also: also.iter().map(|host| ((*host).to_owned(), 8006)).collect(),
            fingerprints: Vec::new(),
            ca: None,
        })
    }

    fn member(name: &str, address: &str, online: bool) -> Node {
        Node {
            name: name.parse().expect("a node"),
            online,
            address: Some(address.to_owned()),
            maintenance: false,
        }
    }

    fn walk(places: &Places, unreachable: &[bool]) -> Vec<String> {
        let each = unreachable.iter().map(|unreachable| {
            places.ask_after(places.asked(), *unreachable);
            places.address().to_owned()
        });
        each.collect()
    }

    #[test]
    fn what_the_cluster_tells_of_comes_last_and_only_when_nothing_else_is_reached() {
        let places = places(&["10.0.0.2"]);
        let told = places.learn(&[
            member("n1", "10.0.0.1", true),
            member("n3", "fd00::3", true),
            member("n4", "10.0.0.4", false),
        ]);
        assert_eq!(told, ["[fd00::3]:8006"]);
        assert_eq!(
            places.learn(&[member("n5", "10.0.0.5", true)]),
            [] as [String; 0]
        );
        assert_eq!(
            walk(&places, &[true, true, true]),
            ["10.0.0.2:8006", "[fd00::3]:8006", "10.0.0.1:8006"]
        );
        // An answer that broke off is no reason to go so far.
        assert_eq!(
            walk(&places, &[false, false]),
            ["10.0.0.2:8006", "10.0.0.1:8006"]
        );
        assert!(!places.is_found(1) && places.is_found(2));
    }

    #[test]
    fn one_that_is_not_believed_is_left_out() {
        let places = places(&[]);
        places.learn(&[
            member("n2", "10.0.0.2", true),
            member("n3", "10.0.0.3", true),
        ]);
        assert_eq!(places.ask_after(0, true), 3);
        assert_eq!(places.asked(), 1);
        assert!(places.distrust(1) && !places.distrust(1));
        assert_eq!(places.ask_after(1, true), 2);
        assert_eq!(places.address(), "10.0.0.3:8006");
    }
}
