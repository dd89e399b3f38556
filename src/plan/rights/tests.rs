use super::*;
use crate::plan::ha::HaWish;
use crate::plan::sample::{World, id, release};

fn needed(keys: &[(&str, &str)], drives: &[(&str, &str)], at: &str) -> Vec<String> {
    let keys = keys
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let drives = drives
        .iter()
        .map(|(k, v)| (id(k), (*v).to_owned()))
        .collect();
    let rights = on_target(&TargetUse {
        vmid: id("126"),
        keys: &keys,
        drives: &drives,
        storages: &BTreeSet::new(),
        pool: None,
        start: false,
        joins_ha: false,
        asks_agent: false,
        release: release(at),
    });
    let base = ["VM.Allocate", "VM.Audit", "VM.Config.Options"];
    rights
        .iter()
        .map(|right| format!("{} {}", right.path, right.privileges.join("|")))
        .filter(|text| !base.iter().any(|name| *text == format!("/vms/126 {name}")))
        .collect()
}

#[test]
fn asking_the_agent_needs_another_privilege_from_9_on() {
    for (at, expect) in [
        ("8.4", "VM.Monitor"),
        ("9.0", "VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted"),
    ] {
        let rights = on_target(&TargetUse {
            vmid: id("126"),
            keys: &BTreeMap::new(),
            drives: &BTreeMap::new(),
            storages: &BTreeSet::new(),
            pool: None,
            start: true,
            joins_ha: false,
            asks_agent: true,
            release: release(at),
        });
        let asked = rights
            .iter()
            .find(|right| right.purpose.contains("agent"))
            .map(|right| (right.path.as_str(), right.privileges.join("|")));
        assert_eq!(asked, Some(("/vms/126", expect.to_owned())), "{at}");
    }
}

#[test]
fn each_key_needs_its_privilege() {
    for (key, value, at, expect) in [
        ("cores", "2", "8.4", "/vms/126 VM.Config.CPU"),
        ("numa0", "cpus=0", "8.4", "/vms/126 VM.Config.CPU"),
        ("memory", "1", "8.4", "/vms/126 VM.Config.Memory"),
        ("smbios1", "uuid=1", "8.4", "/vms/126 VM.Config.HWType"),
        ("serial0", "socket", "8.4", "/vms/126 VM.Config.HWType"),
        ("boot", "order=net0", "8.4", "/vms/126 VM.Config.Disk"),
        ("freeze", "1", "8.4", "/vms/126 VM.PowerMgmt"),
        (
            "ciuser",
            "x",
            "8.4",
            "/vms/126 VM.Config.Cloudinit|VM.Config.Network",
        ),
        ("net0", "virtio=X", "8.4", "/vms/126 VM.Config.Network"),
        (
            "net0",
            "virtio=X,bridge=vmbr0",
            "7.4",
            "/vms/126 VM.Config.Network",
        ),
        (
            "net0",
            "virtio=X,bridge=vmbr0",
            "8.0",
            "/sdn/zones/localnetwork/vmbr0 SDN.Use;/vms/126 VM.Config.Network",
        ),
        (
            "net0",
            "virtio=X,bridge=vmbr0,tag=5",
            "9.1",
            "/sdn/zones/localnetwork/vmbr0/5 SDN.Use;/vms/126 VM.Config.Network",
        ),
        (
            "rng0",
            "source=/dev/urandom",
            "9.1",
            "/vms/126 VM.Config.HWType",
        ),
        (
            "rng0",
            "source=/dev/hwrng",
            "9.1",
            "/mapping/hwrng Mapping.Use;/vms/126 VM.Config.HWType",
        ),
        ("startup", "order=1", "9.1", "/ Sys.Modify"),
        ("tags", "a;b", "9.1", ""),
    ] {
        assert_eq!(
            needed(&[(key, value)], &[], at).join(";"),
            expect,
            "{key}: {value}"
        );
    }
    for (key, value, expect) in [
        (
            "scsi0",
            "ssd:126/vm-126-disk-0.raw,discard=on",
            "/vms/126 VM.Config.Disk",
        ),
        ("ide2", "none,media=cdrom", "/vms/126 VM.Config.CDROM"),
        (
            "ide2",
            "ssd:cloudinit",
            "/storage/ssd Datastore.AllocateSpace;/vms/126 VM.Config.Disk",
        ),
    ] {
        assert_eq!(
            needed(&[], &[(key, value)], "8.4").join(";"),
            expect,
            "{key}: {value}"
        );
    }
}

#[test]
fn every_key_that_is_copied_has_a_known_privilege() {
    for key in crate::plan::translate::COPIED {
        assert!(privileges_for(key).is_some(), "{key}");
    }
}

#[test]
fn a_stopped_guest_needs_no_power() {
    let mut world = World::new();
    let count = |world: &mut World| on_source(world.guest(), HaWish::Refuse).len();
    assert_eq!(count(&mut world), 2);
    world.guest().detail.power = Power::Stopped;
    assert_eq!(count(&mut world), 1);
}

#[test]
fn root_has_every_right_and_its_token_has_not() {
    let right = Right::new("/", &["Sys.Modify"], "x");
    let nothing = Permissions::default();
    assert!(right.held("root@pam", &nothing));
    assert!(!right.held("root@pam!token", &nothing));
    assert!(!right.held("mover@pve", &nothing));
}

#[test]
fn commands_grant_what_is_missing() {
    for (user, privileges, expect) in [
        (
            "mover@pve",
            &["VM.Allocate", "VM.Config.Disk"][..],
            "pveum acl modify /x --users mover@pve --roles PVEVMAdmin",
        ),
        (
            "mover@pve!t",
            &["SDN.Use"],
            "pveum acl modify /x --tokens 'mover@pve!t' --roles PVESDNUser",
        ),
        (
            "mover@pve",
            &["Sys.Modify"],
            "pveum role add ProxmoveSysModify --privs 'Sys.Modify' && pveum acl modify /x --users mover@pve --roles \
             ProxmoveSysModify",
        ),
        (
            "mover@pve",
            &["Pool.Allocate", "Sys.Audit"],
            "pveum acl modify /x --users mover@pve --roles PVEAuditor,PVEPoolAdmin",
        ),
    ] {
        assert_eq!(grant_command(user, "/x", privileges), expect);
    }
}

#[test]
fn networks_are_a_matter_of_the_release() {
    let paths = |at| {
        for_any_target(release(at))
            .iter()
            .any(|right| right.path == "/sdn/zones")
    };
    assert!(!paths("7.4"));
    assert!(paths("8.0"));
    assert!(!for_any_source().is_empty());
}

#[test]
fn a_right_is_read_off_a_refusal() {
    let check = |why: &str, expect| assert_eq!(refused_right(why), expect, "{why}");
    check(
        "apple refused 'GET /x': Permission check failed (/vms/565, VM.Config.Disk)",
        Some(("/vms/565", "VM.Config.Disk")),
    );
    check(
        "Permission check failed (/storage/san, Datastore.Audit|Datastore.AllocateSpace)",
        Some(("/storage/san", "Datastore.Audit")),
    );
    check("Permission check failed (user != root@pam)", None);
    check("Permission check failed", None);
    check("no such volume", None);
}
