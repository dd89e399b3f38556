//! Rights: which privileges a move needs on which paths, and the command that grants a missing one.
//!
//! Pure. Computed from the keys and storages that are really used, with the differences between releases. It says what
//! is missing; `check` makes verdicts of it and `moves/check.rs` a table. Read next: `check/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::facts::{SourceFacts, TargetFacts, WantedGuest};
use crate::plan::ha::HaWish;
use crate::pve::drive::{Drive, DriveKey};
use crate::pve::guest::Power;
use crate::pve::id::{PoolId, StorageId, Vmid};
use crate::pve::inventory::{Permissions, Release};
use crate::pve::property::PropertyString;

/// One thing the login must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The path it is checked on.
    pub path: String,
    /// The path to grant it on: `/vms` for a guest that does not exist yet.
    pub grant_path: String,
    /// The privileges, any of which is enough; the first is the one to grant.
    pub privileges: Vec<&'static str>,
    /// What it is for.
    pub purpose: String,
}

impl Right {
    fn new(path: impl Into<String>, privileges: &[&'static str], purpose: &str) -> Right {
        let path = path.into();
        Right {
            grant_path: path.clone(),
            path,
            privileges: privileges.to_vec(),
            purpose: purpose.to_owned(),
        }
    }

    fn granted_on(mut self, path: &str) -> Right {
        self.grant_path = path.to_owned();
        self
    }

    /// Says whether `user` with these permissions has this right.
    pub fn held(&self, user: &str, permissions: &Permissions) -> bool {
        user == "root@pam"
            || self
                .privileges
                .iter()
                .any(|privilege| permissions.allows(&self.path, privilege))
    }
}

/// Returns the privilege behind a configuration key; `None` for keys only root may set, or none at all.
///
/// qemu-server checks these groups when a VM is created or changed.
pub fn privileges_for(key: &str) -> Option<&'static [&'static str]> {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    Some(match key {
        "cores" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "smp" | "sockets" | "vcpus" => {
            &["VM.Config.CPU"]
        }
        "memory" | "balloon" | "shares" | "allow-ksm" => &["VM.Config.Memory"],
        "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "smbios1" | "tablet" | "vga"
        | "watchdog" | "audio0" | "rng0" => &["VM.Config.HWType"],
        "agent" | "autostart" | "bios" | "description" | "keyboard" | "localtime"
        | "migrate_downtime" | "migrate_speed" | "name" | "onboot" | "ostype" | "protection"
        | "reboot" | "startdate" | "startup" | "tdf" | "template" | "tags" => {
            &["VM.Config.Options"]
        }
        "boot" | "bootdisk" | "vmstatestorage" => &["VM.Config.Disk"],
        "cicustom" | "cipassword" | "citype" | "ciuser" | "ciupgrade" | "nameserver"
        | "searchdomain" | "sshkeys" => &["VM.Config.Cloudinit", "VM.Config.Network"],
        "freeze" => &["VM.PowerMgmt"],
        _ => match stem {
            "numa" => &["VM.Config.CPU"],
            "net" => &["VM.Config.Network"],
            "ipconfig" => &["VM.Config.Cloudinit", "VM.Config.Network"],
            "usb" | "serial" | "hostpci" => &["VM.Config.HWType"],
            _ => return None,
        },
    })
}

/// Returns path and privilege of a refusal in Proxmox VE's words: `Permission check failed (/vms/565, VM.Config.Disk)`.
///
/// A refusal that names several privileges, with `|` between them, is answered with the first.
pub fn refused_right(why: &str) -> Option<(&str, &str)> {
    let (_, right) = why.split_once("Permission check failed (")?;
    let (path, privileges) = right.split_once(')')?.0.split_once(", ")?;
    let privilege = privileges.split(['|', ',']).next()?;
    Some((path, privilege.trim())).filter(|(path, _)| path.starts_with('/'))
}

/// Returns what a move needs on the source for one guest.
pub fn on_source(guest: &WantedGuest, ha: HaWish) -> Vec<Right> {
    let path = format!("/vms/{}", guest.detail.place.vmid);
    let mut rights = vec![Right::new(
        &path,
        &["VM.Config.Options"],
        "rename and retire the source",
    )];
    if guest.detail.power == Power::Running {
        rights.push(Right::new(&path, &["VM.PowerMgmt"], "shut the source down"));
    }
    if ha != HaWish::Refuse && (guest.detail.ha_managed || guest.ha_state.is_some()) {
        rights.extend(of_ha());
    }
    rights
}

/// Reading and changing HA resources.
fn of_ha() -> [Right; 2] {
    [
        Right::new("/", &["Sys.Audit"], "see what HA has for the guest"),
        Right::new("/", &["Sys.Console"], "change what HA does with the guest"),
    ]
}

/// What of a translated guest needs rights on the target.
#[derive(Clone, Copy, Debug)]
pub struct TargetUse<'a> {
    /// Its VMID there.
    pub vmid: Vmid,
    /// All keys that will be set, with their values.
    pub keys: &'a BTreeMap<String, String>,
    /// The drives that will be set, with their values.
    pub drives: &'a BTreeMap<DriveKey, String>,
    /// The storages that will hold its volumes.
    pub storages: &'a BTreeSet<StorageId>,
    /// The pool it joins.
    pub pool: Option<&'a PoolId>,
    /// Whether it will be started.
    pub start: bool,
    /// Whether it is given to HA.
    pub joins_ha: bool,
    /// Whether its agent will be asked then.
    pub asks_agent: bool,
    /// The target's release.
    pub release: Release,
}

/// Returns what a move needs on the target for one guest.
pub fn on_target(used: &TargetUse<'_>) -> Vec<Right> {
    let guest = format!("/vms/{}", used.vmid);
    let on_guest = |privileges: &[&'static str], purpose: &str| {
        Right::new(&guest, privileges, purpose).granted_on("/vms")
    };
    let mut rights = vec![
        on_guest(&["VM.Allocate"], "create the guest"),
        on_guest(&["VM.Audit"], "read the new guest's configuration"),
        on_guest(&["VM.Config.Options"], "name the guest"),
    ];
    for key in used.keys.keys() {
        if let Some(privileges) = privileges_for(key) {
            rights.push(on_guest(privileges, &format!("set {}", group(key))));
        }
    }
    for (key, value) in used.drives {
        let cdrom = Drive::parse(*key, value).is_ok_and(|drive| drive.is_cdrom());
        rights.push(if cdrom {
            on_guest(&["VM.Config.CDROM"], "set CD-ROM drives")
        } else {
            on_guest(&["VM.Config.Disk"], "attach drives")
        });
        if let Some(storage) = value.strip_suffix(":cloudinit") {
            rights.push(Right::new(
                format!("/storage/{storage}"),
                &["Datastore.AllocateSpace"],
                "create the cloud-init drive",
            ));
        }
    }
    for storage in used.storages {
        rights.push(Right::new(
            format!("/storage/{storage}"),
            &[
                "Datastore.AllocateSpace",
                "Datastore.Allocate",
                "Datastore.Audit",
            ],
            "see and attach volumes",
        ));
    }
    if used.release >= (Release { major: 8, minor: 0 }) {
        rights.extend(networks(used.keys));
    }
    let entropy = used.keys.get("rng0").map(String::as_str);
    if entropy.is_some_and(|value| value.contains("/dev/hwrng")) {
        rights.push(Right::new(
            "/mapping/hwrng",
            &["Mapping.Use"],
            "use /dev/hwrng",
        ));
    }
    if let Some(pool) = used.pool {
        rights.push(Right::new(
            format!("/pool/{pool}"),
            &["Pool.Allocate"],
            "put the guest into its pool",
        ));
    }
    if used.keys.contains_key("startup") {
        rights.push(Right::new("/", &["Sys.Modify"], "set the start order"));
    }
    if used.start {
        rights.push(on_guest(&["VM.PowerMgmt"], "start the guest"));
    }
    if used.joins_ha {
        rights.extend(of_ha());
    }
    if used.asks_agent {
        let privileges: &[&str] = match used.release >= (Release { major: 9, minor: 0 }) {
            true => &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"],
            false => &["VM.Monitor"],
        };
        rights.push(on_guest(
            privileges,
            "ask the guest's agent whether it is up",
        ));
    }
    rights.sort();
    rights.dedup_by(|a, b| a.path == b.path && a.privileges == b.privileges);
    rights
}

/// From PVE 8.0 every bridge is checked, as part of the zone `localnetwork`.
fn networks(keys: &BTreeMap<String, String>) -> Vec<Right> {
    let cards = keys
        .iter()
        .filter(|(key, _)| key.strip_prefix("net").is_some_and(is_number));
    cards
        .filter_map(|(_, value)| {
            let card = PropertyString::parse(value);
            let zone = format!("/sdn/zones/localnetwork/{}", card.value("bridge")?);
            let path = match card.value("tag") {
                Some(tag) => format!("{zone}/{tag}"),
                None => zone.clone(),
            };
            Some(Right::new(path, &["SDN.Use"], "connect to the bridge").granted_on(&zone))
        })
        .collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn group(key: &str) -> &str {
    match key.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "net" => "network cards",
        "ipconfig" => "cloud-init's addresses",
        _ => key,
    }
}

/// Returns what any move needs on the source cluster, for `proxmove check`.
pub fn for_any_source() -> Vec<Right> {
    vec![
        Right::new("/vms", &["VM.Audit"], "see guests and their configuration"),
        Right::new(
            "/vms",
            &["VM.Config.Options"],
            "rename and retire the source",
        ),
        Right::new("/vms", &["VM.PowerMgmt"], "shut the source down"),
        Right::new(
            "/vms",
            &["VM.Config.Disk"],
            "read the size of a guest's volumes",
        ),
        Right::new(
            "/storage",
            &["Datastore.Audit", "Datastore.Allocate"],
            "read the size of a guest's volumes",
        ),
        Right::new("/", &["Sys.Audit"], "see nodes, HA and replication"),
    ]
}

/// Returns what any move needs on the target cluster, for `proxmove check`.
pub fn for_any_target(release: Release) -> Vec<Right> {
    let mut rights: Vec<Right> = [
        ("VM.Audit", "read the new guest's configuration"),
        ("VM.Allocate", "create guests"),
        ("VM.Config.CPU", "set processors"),
        ("VM.Config.Memory", "set memory"),
        ("VM.Config.HWType", "set hardware"),
        ("VM.Config.Options", "set names and options"),
        ("VM.Config.Network", "set network cards"),
        ("VM.Config.Disk", "attach drives"),
        ("VM.Config.CDROM", "set CD-ROM drives"),
        ("VM.Config.Cloudinit", "set cloud-init"),
        ("VM.PowerMgmt", "start the guest"),
    ]
    .into_iter()
    .map(|(privilege, purpose)| match privilege {
        "VM.Config.Cloudinit" => Right::new(
            "/vms",
            &["VM.Config.Cloudinit", "VM.Config.Network"],
            purpose,
        ),
        "VM.Audit" => Right::new("/vms", &["VM.Audit"], purpose),
        _ => Right::new("/vms", &[privilege], purpose),
    })
    .collect();
    rights.push(Right::new(
        "/storage",
        &["Datastore.AllocateSpace", "Datastore.Allocate"],
        "see and create volumes",
    ));
    if release >= (Release { major: 8, minor: 0 }) {
        rights.push(Right::new("/sdn/zones", &["SDN.Use"], "connect to bridges"));
    }
    rights.push(Right::new(
        "/pool",
        &["Pool.Allocate"],
        "put guests into pools",
    ));
    rights.push(Right::new("/", &["Sys.Audit"], "see nodes and bridges"));
    rights.push(Right::new(
        "/",
        &["Sys.Modify"],
        "set the start order of guests that have one",
    ));
    rights
}

/// The rights that are missing, grouped by the path to grant them on: path to (privileges, purposes).
pub type Missing = BTreeMap<String, (BTreeSet<&'static str>, BTreeSet<String>)>;

/// Returns what of `rights` is missing.
pub fn missing(rights: &[Right], user: &str, permissions: &Permissions) -> Missing {
    let mut missing = Missing::new();
    for right in rights.iter().filter(|right| !right.held(user, permissions)) {
        let entry = missing.entry(right.grant_path.clone()).or_default();
        entry.0.extend(right.privileges.first());
        entry.1.insert(right.purpose.clone());
    }
    missing
}

/// Returns the rights missing on the source for one guest.
pub fn missing_on_source(source: &SourceFacts, guest: &WantedGuest, ha: HaWish) -> Missing {
    missing(&on_source(guest, ha), &source.user, &source.permissions)
}

/// Returns the rights missing on the target for one guest.
pub fn missing_on_target(target: &TargetFacts, used: &TargetUse<'_>) -> Missing {
    missing(&on_target(used), &target.user, &target.permissions)
}

/// Returns the role of Proxmox VE's own that holds a privilege; `None` where only Administrator does.
fn role(privilege: &str) -> Option<&'static str> {
    match privilege {
        "Datastore.Audit" | "Datastore.AllocateSpace" => Some("PVEDatastoreUser"),
        "Datastore.Allocate" => Some("PVEDatastoreAdmin"),
        "SDN.Use" => Some("PVESDNUser"),
        "Mapping.Use" => Some("PVEMappingUser"),
        "Sys.Audit" => Some("PVEAuditor"),
        _ if privilege.starts_with("VM.") => Some("PVEVMAdmin"),
        _ if privilege.starts_with("Pool.") => Some("PVEPoolAdmin"),
        _ => None,
    }
}

/// Returns the command that grants privileges on a path to a user or token, to be run as root on a node.
pub fn grant_command(user: &str, path: &str, privileges: &[&str]) -> String {
    let mut commands = Vec::new();
    let mut roles = BTreeSet::new();
    let mut own = Vec::new();
    for privilege in privileges {
        match role(privilege) {
            Some(role) => {
                roles.insert(role.to_owned());
            }
            None => own.push(*privilege),
        }
    }
    if !own.is_empty() {
        let name = format!("Proxmove{}", own.join("").replace('.', ""));
        commands.push(format!("pveum role add {name} --privs '{}'", own.join(" ")));
        roles.insert(name);
    }
    // A token's '!' would be taken for history by an interactive shell.
    let who = if user.contains('!') {
        format!("--tokens '{user}'")
    } else {
        format!("--users {user}")
    };
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    commands.push(format!("pveum acl modify {path} {who} --roles {roles}"));
    commands.join(" && ")
}

#[cfg(test)]
mod tests;
