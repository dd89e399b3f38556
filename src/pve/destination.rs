//! A place on another cluster: `ALIAS:NODE:STORAGE`.
//!
//! Pure. Read next: `id.rs`.

use std::fmt;
use std::str::FromStr;

use super::id::{ClusterAlias, InvalidId, NodeName, StorageId};

/// Where guests go on another cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The cluster, by its alias in proxmoverc.
    pub cluster: ClusterAlias,
    /// The node there.
    pub node: NodeName,
    /// The storage for their volumes.
    pub storage: StorageId,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.cluster, self.node, self.storage)
    }
}

impl FromStr for Destination {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Destination, InvalidId> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        match parts.as_slice() {
            [cluster, node, storage] => Ok(Destination {
                cluster: cluster.parse()?,
                node: node.parse()?,
                storage: storage.parse()?,
            }),
            _ => Err(InvalidId {
                kind: "place on another cluster",
                text: text.to_owned(),
                hint: Some("ALIAS:NODE:STORAGE, such as banana:node2:local-ssd"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_three_parts() {
        let place: Destination = "banana:node2:local-ssd".parse().expect("parses");
        assert_eq!(place.node.as_str(), "node2");
        assert_eq!(place.to_string(), "banana:node2:local-ssd");
        for wrong in ["", "banana", "banana:node2", "a:b:c:d", "banana::ssd"] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
