//! What surprised us about Proxmox VE, held against what the client makes of it.

use proxmove::cluster::ApiError;
use proxmove::cluster::task;
use proxmove::cluster::wire::{self, guest, inventory};
use proxmove::pve::guest::{GuestKind, Power};
use proxmove::units::Bytes;
use serde_json::Value;

use crate::recorded::{Recorded, at, noted};

fn data(entry: &Recorded) -> Value {
    entry
        .data()
        .unwrap_or_else(|error| panic!("{}: {error}", entry.place))
}

fn refusal(file: &str, note: &str) -> ApiError {
    noted(file, note).data().expect_err("a refusal")
}

/// Checks the words of a refusal in one release's files.
fn check(file: &str, note: &str, expect: &str) {
    assert_eq!(refusal(file, note).to_string(), expect, "{file}: {note}");
}

#[test]
fn refusals_are_in_the_servers_words() {
    for (version, node) in [("pve8", "nodea1"), ("pve9", "nodeg1")] {
        let errors = &format!("{version}-errors");
        let login = "laboratory refused the login of somebody@pve: authentication failure";
        check(errors, "wrong password pam", login);
        check(
            errors,
            "bad name underscore",
            &format!(
                "laboratory refused 'PUT /nodes/{node}/qemu/100/config': name: invalid format - value does not look \
                 like a valid DNS name"
            ),
        );
        check(
            errors,
            "unknown vm destroy",
            &format!(
                "laboratory answered 'DELETE /nodes/{node}/qemu/999' with 500: Configuration file \
                 'nodes/{node}/qemu-server/999.conf' does not exist"
            ),
        );
        check(
            errors,
            "during shutdown: rename",
            &format!(
                "laboratory answered 'PUT /nodes/{node}/qemu/100/config' with 500: can't lock file \
                 '/var/lock/qemu-server/lock-100.conf' - got timeout"
            ),
        );
        check(
            errors,
            "body >600k",
            &format!(
                "laboratory answered 'PUT /nodes/{node}/qemu/100/config' with 501: for data too large"
            ),
        );
        let pool = refusal(errors, "pool put again");
        assert_eq!(
            pool.reason(),
            "update pools failed: VM 101 is already a pool member"
        );
        let more = &format!("{version}-more");
        let paused = refusal(more, "shutdown while paused");
        assert_eq!(paused.reason(), "VM is paused - cannot shutdown");
        // With the cluster's file system down the body is empty.
        let down = refusal(more, "pmxcfs down: version");
        assert!(
            down.reason()
                .starts_with("RPCEnvironment init request failed"),
            "{down}"
        );
        let dead = refusal(more, "vm on dead node: status");
        assert!(
            matches!(&dead, ApiError::Refused { status: 595, reason, .. } if reason == "No route to host")
        );
    }
    // 9.2 says less about a ticket that is not one.
    let reason = |file| {
        refusal(file, "use of partial TFA ticket")
            .reason()
            .to_owned()
    };
    assert_eq!(
        reason("pve8-errors"),
        "permission denied - invalid PVE ticket"
    );
    assert_eq!(reason("pve9-errors"), "Authentication failed!");
    let created = noted("pve9-more", "immediately PUT config")
        .data()
        .expect_err("locked");
    assert_eq!(created.reason(), "VM is locked (create)");
}

#[test]
fn a_guests_state_is_what_status_current_says() {
    for version in ["pve8", "pve9"] {
        let status = |file: &str, note: &str| {
            guest::status(&data(&noted(&format!("{version}-{file}"), note))).expect("a status")
        };
        let locked = status("errors", "locked: status");
        assert_eq!(
            (locked.power, locked.lock.as_deref()),
            (Power::Stopped, Some("migrate"))
        );
        let paused = status("more", "status paused");
        assert_eq!(
            (paused.power, paused.qmp_status.as_str()),
            (Power::Running, "paused")
        );
        assert_eq!(
            paused.running_machine.as_deref(),
            Some("pc-i440fx-10.0+pve0")
        );
        assert!(!paused.ha_managed);
        let asleep = status("more", "status hibernated");
        assert_eq!(
            (asleep.power, asleep.lock.as_deref()),
            (Power::Stopped, Some("suspended"))
        );
        assert_eq!(asleep.qmp_status, "");
        let during = status("errors", "during shutdown: status");
        assert_eq!(during.power, Power::Running);
    }
}

#[test]
fn configurations_keep_what_a_move_must_judge() {
    for version in ["pve8", "pve9"] {
        let more = format!("{version}-more");
        let config = |note| guest::config(&data(&noted(&more, note))).expect("a configuration");
        let asleep = config("config hibernated (lock suspended, vmstate)");
        assert_eq!(asleep.value("lock"), Some("suspended"));
        assert_eq!(asleep.value("runningmachine"), Some("pc-i440fx-10.0+pve0"));
        assert!(
            asleep
                .value("vmstate")
                .is_some_and(|volid| volid.starts_with("data:132/vm-132-state-suspend-"))
        );
        let (drives, wrong) = asleep.drives();
        assert!(wrong.is_empty());
        let linked = drives[0].volume().expect("a volume").to_string();
        assert_eq!(
            linked,
            "data:131/base-131-disk-0.qcow2/132/vm-132-disk-0.qcow2"
        );
        // Right after a create there is nothing but the lock.
        let early = config("immediately GET config");
        assert_eq!(early.0.keys().collect::<Vec<_>>(), ["digest", "lock"]);
        assert_eq!(early.value("lock"), Some("create"));
        let snapshots = guest::snapshots(&data(&noted(&more, "snap list"))).expect("a list");
        let shown: Vec<_> = snapshots
            .iter()
            .map(|s| (s.name.as_str(), s.with_memory))
            .collect();
        assert_eq!(shown, [("ram", true)]);
    }
    let odd =
        guest::config(&data(&noted("pve8-errors", "locked: GET config"))).expect("a configuration");
    assert_eq!(
        odd.value("description"),
        Some("a%0Ab\r\nc\n\n#x: y\n[snap]"),
        "decoded, and not once more"
    );
    assert_eq!(odd.value("onboot"), Some("1"), "a number becomes text");
    let changes =
        guest::pending(&data(&noted("pve8-errors", "running: pending2"))).expect("a list");
    let mut shown: Vec<_> = changes
        .iter()
        .map(|c| (c.key.as_str(), c.value.as_deref()))
        .collect();
    shown.sort();
    let expect = [
        ("boot", Some("order=virtio0;ide3")),
        ("ide2", None),
        ("memory", Some("96")),
    ];
    assert_eq!(shown, expect);
}

#[test]
fn the_listing_lags_and_says_less() {
    let guests = guest::resources(&data(&at("pve9-happy-move", 29))).expect("a list");
    assert_eq!(guests.len(), 1);
    assert_eq!(
        (guests[0].name.as_deref(), guests[0].power),
        (None, Power::Unknown)
    );
    assert_eq!(
        (guests[0].lock.as_deref(), guests[0].memory),
        (Some("create"), None)
    );
    let guests = guest::resources(&data(&at("pve9-happy-move", 32))).expect("a list");
    assert_eq!(guests[0].tags, ["prod", "web"]);
    // A reused VMID shows the name of the guest before.
    let guests = guest::resources(&data(&at("pve8-happy-move", 29))).expect("a list");
    assert_eq!(guests[0].name.as_deref(), Some("the-vm-to-move"));
    for (version, node) in [("pve8", "nodea1"), ("pve9", "nodeg1")] {
        let list = data(&noted(&format!("{version}-more"), "lxc list"));
        let node = node.parse().expect("a name");
        let containers = guest::guests_on(&list, &node, GuestKind::Lxc).expect("a list");
        assert_eq!(containers[0].name.as_deref(), Some("ct110"));
        assert_eq!(
            (containers[0].power, containers[0].memory),
            (Power::Stopped, Some(Bytes::mib(128)))
        );
    }
}

#[test]
fn storages_and_volumes() {
    let storages = inventory::storages(&data(&noted("pve8-errors", "storage list with inactive")))
        .expect("a list");
    let state = |name: &str| {
        let storage = storages
            .iter()
            .find(|s| s.id.as_str() == name)
            .expect("a storage");
        (storage.enabled, storage.active, storage.available)
    };
    assert_eq!(state("data"), (true, true, Bytes(61_205_463_040)));
    assert_eq!(state("off"), (false, false, Bytes::ZERO));
    assert_eq!(state("unmounted"), (true, false, Bytes::ZERO));
    let settings = inventory::storage_settings(&data(&at("pve8-happy-move", 20))).expect("a list");
    let of = |name: &str| &settings[&name.parse().expect("an id")];
    assert_eq!(of("data")["path"], "/srv/data");
    assert_eq!(
        (&*of("off")["disable"], &*of("elsewhere")["nodes"]),
        ("1", "othernode")
    );
    assert_eq!(of("local")["prune-backups"], "keep-all=1");
    for version in ["pve8", "pve9"] {
        let errors = format!("{version}-errors");
        let volumes = inventory::volumes(&data(&noted(&errors, "content with corrupt file")))
            .expect("a list");
        let corrupt = volumes
            .iter()
            .filter(|volume| volume.format == "invalid")
            .count();
        assert_eq!(corrupt, 2, "a corrupt image does not hide the others");
        let volid = "data:101/vm-101-disk-2.raw".parse().expect("a volume id");
        let volume = inventory::volume(&data(&noted(&errors, "rescan-ish: volume info")), &volid)
            .expect("a volume");
        assert_eq!(
            volume.path.as_deref(),
            Some("/srv/data/images/101/vm-101-disk-2.raw")
        );
        assert_eq!(
            (volume.size, volume.used),
            (Bytes(3_146_240), Some(Bytes::ZERO))
        );
    }
}

#[test]
fn the_rest_of_the_inventory() {
    let members = inventory::cluster_status(&data(&at("pve8-smoke", 7))).expect("a list");
    assert_eq!(members.len(), 1, "a stand-alone node is a cluster of one");
    assert_eq!(
        (members[0].name.as_str(), members[0].online),
        ("nodea1", true)
    );
    assert_eq!(members[0].address.as_deref(), Some("10.99.0.11"));
    let bridges = inventory::bridges(&data(&at("pve8-smoke", 20))).expect("a list");
    assert_eq!(bridges, ["vmbr0"], "no plain interfaces");
    let rights = inventory::permissions(&data(&at("pve8-smoke", 22))).expect("rights");
    assert!(rights.allows("/vms/100", "VM.Allocate") && !rights.allows("/vms/100", "VM.Fly"));
    for (version, release) in [("pve8", "8.4"), ("pve9", "9.2")] {
        let errors = format!("{version}-errors");
        let none =
            inventory::permissions(&data(&noted(&errors, "nobody: permissions"))).expect("rights");
        assert!(!none.allows("/", "VM.Audit"));
        let free =
            wire::vmid(&data(&noted(&errors, "nobody: nextid"))).expect("a number in a text");
        assert_eq!(free.number(), 102);
        let seen = wire::release(&data(&noted(&errors, "token: ok"))).expect("a release");
        assert_eq!(seen.to_string(), release);
        // 8.4 gives one object where a list is expected.
        let lines = task::log_lines(&data(&noted(&errors, "task unescaped upid log unknown")))
            .expect("lines");
        assert_eq!(
            lines,
            [(
                1,
                "unable to open file - No such file or directory".to_owned()
            )]
        );
    }
}
