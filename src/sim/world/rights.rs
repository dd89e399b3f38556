//! Users, tokens, roles, and what somebody may do on a path.
//!
//! Pure values and lookups. A token of `root@pam` has all privileges without being `root@pam`.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use super::scenario::{TokenSpec, UserSpec};

/// A user of a cluster.
pub type User = UserSpec;

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `mover@pve`.
    pub user: String,
    /// The token's name.
    pub token: Option<String>,
}

impl Identity {
    /// Returns `mover@pve` or `mover@pve!token`.
    pub fn id(&self) -> String {
        match &self.token {
            Some(token) => format!("{}!{token}", self.user),
            None => self.user.clone(),
        }
    }

    /// Tells whether this is root itself, not one of its tokens.
    pub fn is_root(&self) -> bool {
        self.user == "root@pam" && self.token.is_none()
    }
}

const VM: &[&str] = &[
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];
const VM_BEFORE_9: &[&str] = &["VM.Monitor"];
const VM_SINCE_9: &[&str] = &[
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Replicate",
];
const DATASTORE: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
];
const SYSTEM: &[&str] = &[
    "Group.Allocate",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
];
const SINCE_7: &[&str] = &[
    "SDN.Allocate",
    "SDN.Audit",
    "Sys.AccessNetwork",
    "Sys.Incoming",
];
const SINCE_8: &[&str] = &["Mapping.Audit", "Mapping.Modify", "Mapping.Use", "SDN.Use"];

/// Returns every privilege a release knows.
pub fn all_privileges(release: (u32, u32)) -> BTreeSet<&'static str> {
    let mut all: BTreeSet<&str> = [VM, DATASTORE, SYSTEM]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    if release >= (7, 0) {
        all.extend(SINCE_7);
    }
    if release >= (8, 0) {
        all.extend(SINCE_8);
    }
    match release >= (9, 0) {
        true => all.extend(VM_SINCE_9),
        false => all.extend(VM_BEFORE_9),
    }
    all
}

/// Returns the privileges of a role, or of a single privilege's name.
fn role(name: &str, release: (u32, u32)) -> BTreeSet<&'static str> {
    let all = all_privileges(release);
    let pick = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<&'static str> {
        all.iter()
            .copied()
            .filter(|privilege| wanted(privilege))
            .collect()
    };
    match name {
        "Administrator" => all,
        "NoAccess" => BTreeSet::new(),
        "PVEAdmin" => pick(&|p| {
            !matches!(
                p,
                "Sys.PowerMgmt"
                    | "Sys.Modify"
                    | "Sys.Incoming"
                    | "Sys.AccessNetwork"
                    | "Realm.Allocate"
                    | "Permissions.Modify"
            )
        }),
        "PVEAuditor" => pick(&|p| {
            matches!(
                p,
                "VM.Audit"
                    | "Datastore.Audit"
                    | "Sys.Audit"
                    | "Pool.Audit"
                    | "SDN.Audit"
                    | "Mapping.Audit"
                    | "VM.GuestAgent.Audit"
            )
        }),
        "PVEVMAdmin" => pick(&|p| p.starts_with("VM.")),
        "PVEVMUser" => pick(&|p| {
            matches!(
                p,
                "VM.Audit"
                    | "VM.Backup"
                    | "VM.Config.CDROM"
                    | "VM.Config.Cloudinit"
                    | "VM.Console"
                    | "VM.PowerMgmt"
                    | "VM.GuestAgent.Audit"
            )
        }),
        "PVEDatastoreAdmin" => pick(&|p| p.starts_with("Datastore.")),
        "PVEDatastoreUser" => pick(&|p| matches!(p, "Datastore.Audit" | "Datastore.AllocateSpace")),
        "PVEPoolAdmin" => pick(&|p| p.starts_with("Pool.")),
        "PVEPoolUser" => pick(&|p| p == "Pool.Audit"),
        "PVESDNAdmin" => pick(&|p| p.starts_with("SDN.")),
        "PVESDNUser" => pick(&|p| matches!(p, "SDN.Audit" | "SDN.Use")),
        "PVESysAdmin" => pick(&|p| {
            p.starts_with("Sys.") && !matches!(p, "Sys.PowerMgmt" | "Sys.Modify" | "Sys.Incoming")
        }),
        "PVEMappingUser" => pick(&|p| matches!(p, "Mapping.Audit" | "Mapping.Use")),
        other => pick(&|p| p == other),
    }
}

/// Returns what an access list gives on a path: the entry of the longest prefix counts.
fn granted(
    acl: &BTreeMap<String, String>,
    path: &str,
    release: (u32, u32),
) -> BTreeSet<&'static str> {
    let prefixes = std::iter::successors(Some(path), |path| match path.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", _)) => Some("/"),
        Some((parent, _)) => Some(parent),
    });
    for prefix in prefixes {
        if let Some(roles) = acl.get(prefix) {
            return roles
                .split(',')
                .flat_map(|name| role(name.trim(), release))
                .collect();
        }
    }
    BTreeSet::new()
}

impl Cluster {
    /// Returns what somebody may do on a path.
    pub fn privileges(&self, who: &Identity, path: &str) -> BTreeSet<&'static str> {
        let release = self.release();
        let Some(user) = self.users.get(&who.user) else {
            return BTreeSet::new();
        };
        let mut paths = vec![path.to_owned()];
        let guest = path
            .strip_prefix("/vms/")
            .and_then(|vmid| vmid.parse().ok());
        if let Some(pool) = guest.and_then(|vmid| self.pool_of(vmid)) {
            paths.push(format!("/pool/{pool}"));
        }
        let of = |acl: &BTreeMap<String, String>| -> BTreeSet<&'static str> {
            paths
                .iter()
                .flat_map(|path| granted(acl, path, release))
                .collect()
        };
        let own = match user.id.as_str() {
            "root@pam" => all_privileges(release),
            _ => of(&user.acl),
        };
        match who.token.as_ref().and_then(|name| token(user, name)) {
            Some(token) if token.privsep => own.intersection(&of(&token.acl)).copied().collect(),
            _ => own,
        }
    }

    /// Tells whether somebody has at least one of the privileges on a path.
    pub fn may(&self, who: &Identity, path: &str, any: &[&str]) -> bool {
        let has = self.privileges(who, path);
        any.iter().any(|privilege| has.contains(privilege))
    }

    /// Returns the paths that have an entry of their own for anybody.
    pub fn acl_paths(&self) -> BTreeSet<String> {
        let of = |user: &User| {
            let tokens = user
                .tokens
                .iter()
                .flat_map(|token| token.acl.keys().cloned());
            user.acl.keys().cloned().chain(tokens).collect::<Vec<_>>()
        };
        self.users.values().flat_map(of).collect()
    }

    /// Removes what anybody had on a guest that is gone.
    pub fn forget_rights(&mut self, vmid: u32) {
        let path = format!("/vms/{vmid}");
        for user in self.users.values_mut() {
            user.acl.remove(&path);
            for token in &mut user.tokens {
                token.acl.remove(&path);
            }
        }
    }
}

/// Returns a user's token of that name.
pub fn token<'a>(user: &'a User, name: &str) -> Option<&'a TokenSpec> {
    user.tokens.iter().find(|token| token.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_decides() {
        let acl = BTreeMap::from([
            ("/".to_owned(), "PVEAuditor".to_owned()),
            ("/vms/100".to_owned(), "PVEVMUser".to_owned()),
        ]);
        let may = |path, privilege| granted(&acl, path, (8, 4)).contains(privilege);
        assert!(may("/vms/101", "VM.Audit"));
        assert!(!may("/vms/101", "VM.PowerMgmt"));
        assert!(may("/vms/100", "VM.PowerMgmt"));
        assert!(!may("/vms/100", "Sys.Audit"));
        assert!(may("/storage/data", "Datastore.Audit"));
    }

    #[test]
    fn releases_know_different_privileges() {
        assert!(all_privileges((8, 4)).contains("VM.Monitor"));
        assert!(!all_privileges((9, 0)).contains("VM.Monitor"));
        assert!(!all_privileges((7, 4)).contains("SDN.Use"));
    }
}
