//! What a cluster refuses to migrate, early or late, and what it says beforehand.

use super::cluster::{self, Adjust, Lab, ct, to, vm};
use super::{lab, log, with_local_disks};
use proxmove::cluster::{Api, ApiError};
use proxmove::pve::migration::{MigrateRequest, StorageMap};
use proxmove::sim::world::scenario::{
    ClusterSpec, GuestSpec, MappingSpec, NodeSpec, ReplicationSpec, SnapshotSpec, UserSpec,
};

/// Migrates 101 to node2 with its local disks, and returns what is said against it.
async fn refusal(lab: &Lab) -> String {
    let place = lab.place(101);
    let error = lab
        .api()
        .migrate(&place, &with_local_disks("node2"), &|_| ())
        .await
        .unwrap_err();
    let guest = lab.guest(101);
    assert_eq!((guest.node.as_str(), guest.migrating_to), ("node1", None));
    log(&error)
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(
            text.contains(expected),
            "'{expected}' is missing in: {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_the_node_and_local_images_stay() {
    let cases: [(&str, GuestSpec, &[&str]); 6] = [
        (
            "hostpci",
            vm(101, "node1", "san").with("hostpci0", "0000:01:00.0"),
            &[
                "migration aborted",
                "can't migrate VM which uses local devices: hostpci0",
            ],
        ),
        (
            "usb and serial",
            vm(101, "node1", "san")
                .with("usb0", "host=1234:5678")
                .with("serial0", "/dev/ttyS0"),
            &["can't migrate VM which uses local devices: serial0, usb0"],
        ),
        (
            "iso",
            vm(101, "node1", "san").with("ide2", "local:iso/tiny.iso,media=cdrom"),
            &[
                "can't migrate local disk 'local:iso/tiny.iso': local cdrom image",
                "can't migrate VM - check log",
            ],
        ),
        (
            "cdrom",
            vm(101, "node1", "san").with("ide2", "cdrom,media=cdrom"),
            &["can't migrate local cdrom drive"],
        ),
        (
            "snapshot",
            GuestSpec {
                snapshots: vec![SnapshotSpec {
                    name: "before".to_owned(),
                    ..SnapshotSpec::default()
                }],
                ..vm(101, "node1", "local")
            },
            &["online storage migration not possible if non-replicated snapshot exists"],
        ),
        (
            "somebody else's volume",
            vm(101, "node1", "san").with("scsi5", "local:777/vm-777-disk-0.raw"),
            &["can't migrate VM - check log"],
        ),
    ];
    for (what, guest, expected) in cases {
        let lab = lab(vec![guest]);
        let text = refusal(&lab).await;
        assert!(lab.guest(101).run.is_some(), "{what}");
        says(&text, expected);
    }
    // A socket and a spice port go along.
    let lab = lab(vec![
        vm(101, "node1", "san")
            .with("serial0", "socket")
            .with("usb0", "spice"),
    ]);
    lab.api()
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_so_beforehand() {
    let guest = vm(101, "node1", "fast")
        .with("hostpci0", "0000:01:00.0")
        .with("hostpci1", "mapping=gpu")
        .with("ide2", "local:iso/tiny.iso,media=cdrom");
    let lab = Lab::start(ClusterSpec {
        guests: vec![guest, ct(111, "node1", "san")],
        mappings: vec![MappingSpec {
            id: "gpu".to_owned(),
            nodes: vec!["node2".to_owned()],
            live_migration: false,
        }],
        ..cluster::cluster("8.4.1", 3)
    });
    let api = lab.api();
    let said = api
        .migrate_preconditions(&lab.place(101), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said.local_resources, ["hostpci0", "hostpci1"]);
    assert_eq!(said.mapped_resources["hostpci1"].name, "gpu");
    let allowed: Vec<_> = said
        .allowed_nodes
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(allowed, ["node2"]);
    let third = &said.not_allowed[&cluster::node("node3")];
    assert_eq!(
        (third.storages.join(","), third.resources.join(",")),
        ("fast".to_owned(), "hostpci1".to_owned())
    );
    let iso = said.local_disks.iter().find(|disk| disk.cdrom).unwrap();
    assert_eq!(iso.volid.to_string(), "local:iso/tiny.iso");
    // Before release 9 nothing is said about containers, and before 8.4 little about running VMs.
    assert_eq!(
        api.migrate_preconditions(&lab.place(111), None)
            .await
            .unwrap(),
        None
    );
    let old = Lab::start(ClusterSpec {
        guests: vec![vm(101, "node1", "san")],
        ..cluster::cluster("7.4.17", 3)
    });
    let said = old
        .api()
        .migrate_preconditions(&old.place(101), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said.allowed_nodes, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_cannot_take_it() {
    let mut spec = ClusterSpec {
        guests: vec![
            vm(101, "node1", "fast"),
            vm(102, "node1", "san"),
            vm(103, "node1", "san"),
        ],
        ..cluster::cluster("9.1.2", 5)
    };
    spec.nodes[2].bridges = vec!["vmbr7".to_owned()];
    spec.nodes[3].qemu = "8.0.0".to_owned();
    spec.nodes[4] = NodeSpec {
        online: false,
        ..spec.nodes[4].clone()
    };
    let lab = Lab::start(spec);
    let api = lab.api();
    let try_it = |vmid: u32, target: &'static str| {
        let (api, lab) = (&api, &lab);
        async move {
            let error = api
                .migrate(&lab.place(vmid), &with_local_disks(target), &|_| ())
                .await;
            log(&error.unwrap_err())
        }
    };
    says(
        &try_it(101, "node3").await,
        &["storage 'fast' is not available on node 'node3'"],
    );
    says(&try_it(101, "node1").await, &["target is local node"]);
    says(
        &try_it(101, "node9").await,
        &["no such cluster node 'node9'"],
    );
    // A bridge and the release of QEMU show only when the VM is started on the target.
    says(
        &try_it(102, "node3").await,
        &["migration problems", "bridge 'vmbr0' does not exist"],
    );
    says(
        &try_it(102, "node4").await,
        &[
            "migration problems",
            "Installed QEMU version '8.0.0' is too old",
        ],
    );
    says(
        &try_it(102, "node5").await,
        &["migration aborted", "Can't connect to destination address"],
    );
    assert!(lab.guest(102).run.is_some() && lab.guest(102).node == "node1");
    let cold = MigrateRequest {
        online: false,
        ..to("node2")
    };
    let error = api
        .migrate(&lab.place(103), &cold, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "can't migrate running VM without --online");
    let wrong = MigrateRequest {
        target_storage: StorageMap::All("nowhere".parse().unwrap()),
        ..to("node2")
    };
    let error = api
        .migrate(&lab.place(103), &wrong, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "storage 'nowhere' does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_without_room_takes_nothing() {
    let mut spec = ClusterSpec {
        guests: vec![vm(101, "node1", "local")],
        ..cluster::cluster("9.1.2", 3)
    };
    spec.storages
        .push(proxmove::sim::world::scenario::StorageSpec {
            id: "small".to_owned(),
            path: "/srv/small".to_owned(),
            content: "images".to_owned(),
            capacity: 1 << 20,
            ..Default::default()
        });
    let lab = Lab::start(spec);
    // An image counts with what is really written to it.
    let path = lab.look(|cluster| {
        cluster
            .directory
            .join("node1/srv/local/images/101/vm-101-disk-0.raw")
    });
    std::fs::write(path, vec![7_u8; 2 << 20]).unwrap();
    let mapped = MigrateRequest {
        target_storage: StorageMap::Each(
            [("local".parse().unwrap(), "small".parse().unwrap())].into(),
        ),
        ..with_local_disks("node2")
    };
    let error = lab
        .api()
        .migrate(&lab.place(101), &mapped, &|_| ())
        .await
        .unwrap_err();
    says(
        &log(&error),
        &["migration aborted", "No space left on device"],
    );
    assert_eq!(lab.guest(101).lock(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_quorum_and_replication_count() {
    let lab = Lab::start(ClusterSpec {
        guests: vec![vm(101, "node1", "san")],
        users: vec![UserSpec {
            id: "viewer@pve".to_owned(),
            password: "look".to_owned(),
            acl: [("/".to_owned(), "PVEAuditor".to_owned())].into(),
            ..UserSpec::default()
        }],
        replication: vec![ReplicationSpec {
            guest: 101,
            target: "node3".to_owned(),
            schedule: "*/15".to_owned(),
            running: false,
        }],
        ..cluster::cluster("9.1.2", 3)
    });
    let viewer = lab.api_of("viewer@pve", "look");
    let error = viewer
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ApiError::Forbidden { reason, .. } if reason.contains("VM.Migrate")),
        "{error}"
    );
    let error = viewer
        .describe_node(&cluster::node("node1"), "mine", None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ApiError::Forbidden { reason, .. } if reason.contains("Sys.Modify")),
        "{error}"
    );
    let text = refusal(&lab).await;
    says(
        &text,
        &["Cannot live-migrate replicated VM to node 'node2' - not a replication target"],
    );
    lab.orders.cut_power("node2");
    lab.orders.cut_power("node3");
    let error = lab
        .api()
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "cluster not ready - no quorum?");
}
