//! Storage sections that were left out: what proxmoverc would say, derived from what the cluster says.
//!
//! Pure: the caller has asked the API. It never overrides a section of the file ([`Config::add_derived`] sees to
//! that), and derives nothing for storages whose volumes are not files or zvols. Read next: `show.rs`.
//!
//! [`Config::add_derived`]: super::Config::add_derived

use super::{Origin, SshAddress, StorageConfig, StoragePath};
use crate::pve::id::{ClusterAlias, NodeName, StorageId};
use crate::pve::inventory::Storage;

/// Where proxmove keeps its own files on a host whose storage has no directory of its own.
///
/// Only root can write above it, unlike /var/tmp, where anybody could put something in its place.
const TEMP_BESIDE_ZFS: &str = "/var/lib/proxmove";

/// The directory for proxmove's own files in a directory storage. Proxmox VE looks only into directories named by
/// content type, so that it never shows up as a volume.
const TEMP_IN_DIRECTORY: &str = "proxmove-temp";

/// Why no section can be derived. Display is a lowercase fragment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// Its volumes are neither files nor zvols.
    #[error("storage {storage} is of type {kind}, for which no section can be derived")]
    Kind {
        /// The storage.
        storage: StorageId,
        /// Its type in storage.cfg.
        kind: String,
    },
    /// It is not for disk images.
    #[error("storage {storage} does not hold disk images (its content is: {content})")]
    Content {
        /// The storage.
        storage: StorageId,
        /// What it holds.
        content: String,
    },
    /// Its entry lacks what says where the volumes are.
    #[error("storage {storage} has no usable '{setting}' in storage.cfg")]
    Setting {
        /// The storage.
        storage: StorageId,
        /// `path`, `pool` or `content-dirs`.
        setting: &'static str,
    },
    /// The node has no usable address.
    #[error("node {node} has no usable address")]
    Address {
        /// The node.
        node: NodeName,
    },
}

/// Returns the section a storage would have on one node, with that node as its host.
///
/// The layout of a directory storage is `{path}/images/VMID/NAME`, where `content-dirs` may rename `images`; nfs and
/// cifs are mounted at `/mnt/pve/STORAGE` where no path is given (pve-storage, Plugin.pm and NFSPlugin.pm). A zvol is
/// `{pool}/NAME`. The login is root@ADDRESS, as between the nodes of a cluster.
pub fn storage_section(
    cluster: &ClusterAlias,
    storage: &Storage,
    node: &NodeName,
    address: &str,
) -> Result<StorageConfig, DeriveError> {
    let missing = |setting| DeriveError::Setting {
        storage: storage.id.clone(),
        setting,
    };
    if !storage.content.contains("images") {
        let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
        return Err(DeriveError::Content {
            storage: storage.id.clone(),
            content: content.join(", "),
        });
    }
    if address.is_empty() || address.starts_with('-') || address.contains(char::is_whitespace) {
        return Err(DeriveError::Address { node: node.clone() });
    }
    let (place, path, temp) = match storage.kind.as_str() {
        "dir" | "nfs" | "cifs" => {
            let base = match storage.settings.get("path") {
                Some(path) => path.trim_end_matches('/').to_owned(),
                None if storage.kind == "dir" => return Err(missing("path")),
                None => format!("/mnt/pve/{}", storage.id),
            };
            if !base.starts_with('/') {
                return Err(missing("path"));
            }
            let images = match storage.settings.get("content-dirs") {
                Some(text) => images_directory(text).ok_or_else(|| missing("content-dirs"))?,
                None => "images",
            };
            let temp = format!("{base}/{TEMP_IN_DIRECTORY}");
            (
                base.clone(),
                StoragePath::Directory(format!("{base}/{images}")),
                temp,
            )
        }
        "zfspool" => {
            let pool = storage
                .settings
                .get("pool")
                .ok_or_else(|| missing("pool"))?;
            if pool.is_empty() || pool.starts_with(['/', '-']) {
                return Err(missing("pool"));
            }
            (
                pool.clone(),
                StoragePath::Zfs(pool.clone()),
                TEMP_BESIDE_ZFS.to_owned(),
            )
        }
        kind => {
            return Err(DeriveError::Kind {
                storage: storage.id.clone(),
                kind: kind.to_owned(),
            });
        }
    };
    Ok(StorageConfig {
        cluster: cluster.clone(),
        storage: storage.id.clone(),
        node: Some(node.clone()),
        ssh: SshAddress {
            user: Some("root".to_owned()),
            host: address.to_owned(),
            port: None,
        },
        peer: None,
        path,
        temp,
        origin: Origin::Derived(format!(
            "storage.cfg of {cluster}: {} {place} on {node} ({address})",
            storage.kind
        )),
    })
}

/// Returns the directory for images out of `images=img,iso=isos`; `images` where it is not renamed.
fn images_directory(content_dirs: &str) -> Option<&str> {
    let directory = content_dirs
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .find(|(content, _)| content.trim() == "images")
        .map_or("images", |(_, directory)| {
            directory.trim().trim_matches('/')
        });
    let usable = !directory.is_empty() && directory.split('/').all(|part| part != "..");
    usable.then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    fn check(kind: &str, content: &str, settings: &[(&str, &str)], expect: &str) {
        let storage = Storage {
            id: "ssd".parse().expect("an id"),
            kind: kind.to_owned(),
            content: content.split(',').map(str::to_owned).collect(),
            enabled: true,
            active: true,
            shared: false,
            available: Bytes::gib(1),
            total: Bytes::gib(2),
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let cluster = "banana".parse().expect("an alias");
        let node = "node1".parse().expect("a name");
        let found = match storage_section(&cluster, &storage, &node, "10.0.0.1") {
            Ok(section) => {
                let Origin::Derived(origin) = &section.origin else {
                    panic!("not derived")
                };
                format!(
                    "ssh={} path={} temp={} ({origin})",
                    section.ssh, section.path, section.temp
                )
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn directories() {
        check(
            "dir",
            "images,iso",
            &[("path", "/var/lib/vz/")],
            "ssh=root@10.0.0.1 path=/var/lib/vz/images temp=/var/lib/vz/proxmove-temp \
             (storage.cfg of banana: dir /var/lib/vz on node1 (10.0.0.1))",
        );
        check(
            "nfs",
            "images",
            &[
                ("server", "san"),
                ("content-dirs", "iso=isos,images=img/vm"),
            ],
            "ssh=root@10.0.0.1 path=/mnt/pve/ssd/img/vm temp=/mnt/pve/ssd/proxmove-temp \
             (storage.cfg of banana: nfs /mnt/pve/ssd on node1 (10.0.0.1))",
        );
        check(
            "cifs",
            "images",
            &[("path", "/mnt/x"), ("content-dirs", "iso=isos")],
            "ssh=root@10.0.0.1 path=/mnt/x/images temp=/mnt/x/proxmove-temp \
             (storage.cfg of banana: cifs /mnt/x on node1 (10.0.0.1))",
        );
    }

    #[test]
    fn zvols() {
        check(
            "zfspool",
            "images,rootdir",
            &[("pool", "rpool/data")],
            "ssh=root@10.0.0.1 path=zfs:rpool/data temp=/var/lib/proxmove \
             (storage.cfg of banana: zfspool rpool/data on node1 (10.0.0.1))",
        );
    }

    #[test]
    fn what_cannot_be_derived_says_why() {
        check(
            "lvmthin",
            "images",
            &[("vgname", "pve")],
            "storage ssd is of type lvmthin, for which no section can be derived",
        );
        check(
            "dir",
            "iso,vztmpl",
            &[("path", "/srv")],
            "storage ssd does not hold disk images (its content is: iso, vztmpl)",
        );
        check(
            "dir",
            "images",
            &[],
            "storage ssd has no usable 'path' in storage.cfg",
        );
        check(
            "dir",
            "images",
            &[("path", "/srv"), ("content-dirs", "images=../x")],
            "storage ssd has no usable 'content-dirs' in storage.cfg",
        );
        check(
            "zfspool",
            "images",
            &[],
            "storage ssd has no usable 'pool' in storage.cfg",
        );
    }
}
