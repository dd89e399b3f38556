//! The simulated cluster through the real client: migrating, HA, node notes, nodes that fail. What Proxmox VE refuses is
//! refused in its words, and what it takes time for takes time.
#![allow(clippy::unwrap_used)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "sim_cluster/ha.rs"]
mod ha;
#[path = "sim_cluster/nodes.rs"]
mod nodes;
#[path = "sim_cluster/refusals.rs"]
mod refusals;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cluster::{Adjust, Lab, ct, mixed, to, vm};
use proxmove::cluster::{Api, ApiError, ConfigChange};
use proxmove::pve::guest::Power;
use proxmove::pve::migration::{MigrateRequest, StorageMap};
use proxmove::sim::world::faults::{Fault, FaultKind};
use proxmove::sim::world::scenario::{ClusterSpec, Pace};

/// Starts a cluster of three nodes with these guests.
fn lab(guests: Vec<proxmove::sim::world::scenario::GuestSpec>) -> Lab {
    Lab::start(ClusterSpec {
        guests,
        ..cluster::cluster("9.1.2", 3)
    })
}

/// Returns the log of the last failure, which is where Proxmox VE says why.
fn log(error: &ApiError) -> String {
    match error {
        ApiError::Task {
            log, exit_status, ..
        } => format!("{exit_status}\n{}", log.join("\n")),
        other => other.to_string(),
    }
}

fn with_local_disks(target: &str) -> MigrateRequest {
    MigrateRequest {
        with_local_disks: true,
        ..to(target)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_on_shared_storage_goes_on_running_elsewhere() {
    let lab = lab(vec![vm(101, "node1", "san").gib(4)]);
    let api = lab.api();
    let said = Mutex::new(Vec::new());
    let tell = |line: &str| said.lock().unwrap().push(line.to_owned());
    let migrated = api.migrate(&lab.place(101), &to("node2"), &tell).await;
    assert_eq!(migrated.unwrap().problem, None);
    let guest = lab.guest(101);
    assert_eq!((guest.node.as_str(), guest.run.is_some()), ("node2", true));
    assert_eq!((guest.lock(), guest.migrating_to.as_deref()), (None, None));
    let said = said.into_inner().unwrap().join("\n");
    assert!(
        said.contains("starting migration of VM 101 to node 'node2'"),
        "{said}"
    );
    assert!(said.contains("migration active, transferred"), "{said}");
    assert!(said.contains("migration finished successfully"), "{said}");
    // While it was on its way its memory was needed on both.
    assert_eq!((lab.peak("node1"), lab.peak("node2")), (4 << 30, 4 << 30));
    let detail = api.guest(&lab.place(101)).await.unwrap();
    assert_eq!((detail.power, detail.name()), (Power::Running, "vm101"));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_it_takes_follows_from_the_memory() {
    let pace = Pace {
        migration: 4 << 30,
        ..Pace::quick()
    };
    let spec = ClusterSpec {
        guests: vec![
            vm(101, "node1", "san").gib(4),
            vm(102, "node1", "san").gib(1).stopped(),
        ],
        ..cluster::cluster("8.4.1", 3)
    };
    let lab = Lab::start_at(spec, pace);
    let api = lab.api();
    let started = Instant::now();
    api.migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap();
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    // Memory of a guest that does not run is not carried.
    let started = Instant::now();
    api.migrate(&lab.place(102), &to("node2"), &|_| ())
        .await
        .unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn local_disks_travel_only_when_asked_for_and_are_where_the_guest_is() {
    let lab = lab(vec![
        vm(101, "node1", "local"),
        vm(102, "node1", "fast").stopped(),
    ]);
    let api = lab.api();
    let error = api
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    let text = log(&error);
    assert!(text.starts_with("migration aborted"), "{text}");
    assert!(
        text.contains("can't live migrate attached local disks without with-local-disks option"),
        "{text}"
    );
    assert_eq!(
        (lab.guest(101).node.as_str(), lab.guest(101).lock()),
        ("node1", None)
    );
    let seen = api
        .migrate_preconditions(&lab.place(101), None)
        .await
        .unwrap()
        .unwrap();
    assert!(seen.running);
    assert_eq!(
        seen.local_disks[0].volid.to_string(),
        "local:101/vm-101-disk-0.raw"
    );

    api.migrate(&lab.place(101), &with_local_disks("node2"), &|_| ())
        .await
        .unwrap();
    let file = |node: &str| {
        lab.look(|cluster| {
            cluster
                .directory
                .join(node)
                .join("srv/local/images/101/vm-101-disk-0.raw")
        })
    };
    assert!(file("node2").exists() && !file("node1").exists());
    assert!(lab.guest(101).run.is_some());

    // Disks of a stopped guest are copied without further ado, but only between storages of one kind.
    let mapped = MigrateRequest {
        target_storage: StorageMap::All("local".parse().unwrap()),
        ..to("node3")
    };
    let error = api
        .migrate(&lab.place(102), &mapped, &|_| ())
        .await
        .unwrap_err();
    let text = log(&error);
    assert!(
        text.contains("cannot migrate from storage type 'zfspool' to 'dir'"),
        "{text}"
    );
    api.migrate(&lab.place(102), &to("node2"), &|_| ())
        .await
        .unwrap();
    assert_eq!(lab.guest(102).node, "node2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_restarted_on_the_way() {
    let lab = lab(vec![
        ct(111, "node1", "san"),
        ct(112, "node1", "local"),
        ct(113, "node1", "san").stopped(),
        ct(114, "node1", "san").with("mp0", "/mnt/data,mp=/data"),
    ]);
    let api = lab.api();
    let cold = MigrateRequest {
        restart: false,
        ..to("node2")
    };
    let error = api
        .migrate(&lab.place(111), &cold, &|_| ())
        .await
        .unwrap_err();
    assert!(
        log(&error).contains("can't migrate running container without --online or --restart"),
        "{error}"
    );
    let said = Mutex::new(Vec::new());
    let tell = |line: &str| said.lock().unwrap().push(line.to_owned());
    api.migrate(&lab.place(111), &to("node2"), &tell)
        .await
        .unwrap();
    let said = said.into_inner().unwrap().join("\n");
    assert!(
        said.contains("shutdown CT 111") && said.contains("start container on target node"),
        "{said}"
    );
    for vmid in [112, 113] {
        api.migrate(&lab.place(vmid), &to("node2"), &|_| ())
            .await
            .unwrap();
    }
    let runs = |vmid| (lab.guest(vmid).node, lab.guest(vmid).run.is_some());
    assert_eq!(
        (lab.fewest_running(&[111, 112]), lab.fewest_running(&[114])),
        (1, 1)
    );
    assert_eq!(runs(111), ("node2".to_owned(), true));
    assert_eq!(runs(112), ("node2".to_owned(), true));
    assert_eq!(runs(113), ("node2".to_owned(), false));
    let error = api
        .migrate(&lab.place(114), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert!(
        log(&error).contains("cannot migrate local bind mount point 'mp0'"),
        "{}",
        log(&error)
    );
    assert_eq!(runs(114), ("node1".to_owned(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_half_way_leaves_the_guest_where_it_was() {
    let mut container = ct(111, "node1", "san");
    container.migration_fault = "no".to_owned();
    let mut machine = vm(101, "node1", "san").gib(8);
    machine.migration_fault = "Unable to write to socket: Broken pipe".to_owned();
    let lab = lab(vec![machine, container]);
    let api = lab.api();
    let error = api
        .migrate(&lab.place(101), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    let text = log(&error);
    assert!(text.starts_with("migration problems"), "{text}");
    assert!(
        text.contains("Broken pipe") && text.contains("online migrate failure"),
        "{text}"
    );
    let error = api
        .migrate(&lab.place(111), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    let text = log(&error);
    assert!(
        text.starts_with("migration aborted") && text.contains("start container on source node"),
        "{text}"
    );
    for vmid in [101, 111] {
        let guest = lab.guest(vmid);
        assert_eq!(
            (guest.node.as_str(), guest.run.is_some(), guest.lock()),
            ("node1", true, None)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_a_colleague_is_recognised_and_followed() {
    let pace = Pace {
        migration: 8 << 30,
        ..Pace::quick()
    };
    let spec = ClusterSpec {
        guests: vec![vm(101, "node1", "san").gib(4)],
        ..cluster::cluster("8.4.1", 3)
    };
    let lab = Lab::start_at(spec, pace);
    let api = lab.api();
    let place = lab.place(101);
    assert_eq!(api.running_migration(&place).await.unwrap(), None);
    let upid = lab.orders.migrate("colleague@pve", 101, "node3").unwrap();
    lab.until("the lock is set", |cluster| {
        cluster.guests[&101].lock() == Some("migrate")
    });
    let found = api.running_migration(&place).await.unwrap().unwrap();
    assert_eq!((found.to_string(), found.user()), (upid, "colleague@pve"));
    assert_eq!(
        api.running_tasks().await.unwrap(),
        std::slice::from_ref(&found)
    );
    // What is locked is refused at once.
    let error = api
        .migrate(&place, &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "VM is locked (migrate)");
    let error = api.migrate_preconditions(&place, None).await.unwrap_err();
    assert_eq!(error.reason(), "VM is locked (migrate)");
    api.follow(&found, &|_| ()).await.unwrap();
    assert_eq!(lab.guest(101).node, "node3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_is_lost_is_found_and_not_repeated() {
    let lab = lab(vec![
        vm(101, "node1", "san").gib(16),
        vm(102, "node1", "san"),
    ]);
    let api = lab.api();
    let faults = lab.simulation.faults();
    faults.add(Fault::first("POST", "*/101/migrate", FaultKind::LostAnswer));
    let migrated = api.migrate(&lab.place(101), &to("node2"), &|_| ()).await;
    migrated.unwrap();
    assert_eq!(lab.guest(101).node, "node2");
    let asked = |vmid: &str| {
        faults
            .writes()
            .iter()
            .filter(|write| write.path.contains(vmid))
            .count()
    };
    assert_eq!(asked("/101/"), 1);
    // One that never arrived is a failure, and nothing was done.
    faults.add(Fault::first(
        "POST",
        "*/102/migrate",
        FaultKind::LostRequest,
    ));
    let error = api
        .migrate(&lab.place(102), &to("node2"), &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ApiError::Unreachable {
                maybe_done: true,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(lab.guest(102).node, "node1");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_are_started_shut_down_and_stopped() {
    let mut stubborn = ct(112, "node1", "san");
    stubborn.ignores_shutdown = true;
    let lab = lab(vec![
        vm(101, "node1", "san"),
        ct(111, "node1", "san"),
        stubborn,
    ]);
    let api = lab.api();
    for vmid in [101, 111] {
        let place = lab.place(vmid);
        for _ in 0..2 {
            api.shutdown(&place, Duration::from_secs(5)).await.unwrap();
            assert!(lab.guest(vmid).run.is_none());
        }
        for _ in 0..2 {
            api.start(&place).await.unwrap();
            assert!(lab.guest(vmid).run.is_some());
        }
        for _ in 0..2 {
            api.stop(&place).await.unwrap();
            assert!(lab.guest(vmid).run.is_none());
        }
    }
    // What does not shut down in time is killed.
    api.shutdown(&lab.place(112), Duration::from_secs(1))
        .await
        .unwrap();
    assert!(lab.guest(112).run.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_notes_are_written_to_both_kinds() {
    let lab = lab(vec![vm(101, "node1", "san"), ct(111, "node1", "san")]);
    let api = lab.api();
    for vmid in [101, 111] {
        let place = lab.place(vmid);
        let before = api.guest(&place).await.unwrap();
        let change = ConfigChange {
            set: [
                ("tags".to_owned(), "b;a".to_owned()),
                ("description".to_owned(), "from node1\nstarted".to_owned()),
            ]
            .into(),
            delete: Vec::new(),
            digest: before.config.value("digest").map(str::to_owned),
        };
        api.configure(&place, &change).await.unwrap();
        let after = api.guest(&place).await.unwrap();
        assert_eq!(after.config.value("tags"), Some("a;b"));
        assert_eq!(after.description(), "from node1\nstarted");
        assert_eq!(after.pending, []);
        // The digest of before is stale.
        let error = api.configure(&place, &change).await.unwrap_err();
        assert!(error.reason().contains("checksum mismatch"), "{error}");
    }
    let listed = api.guests().await.unwrap();
    let tags: Vec<_> = listed.iter().map(|guest| guest.tags.join(";")).collect();
    assert_eq!(tags, ["a;b", "a;b"]);
    let unknown = ConfigChange {
        set: [("name".to_owned(), "x".to_owned())].into(),
        ..ConfigChange::default()
    };
    let error = api.configure(&lab.place(111), &unknown).await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Parameters { errors, .. } if errors.contains_key("name")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proxmove_can_die_at_every_call_of_a_migration() {
    let lab = lab(vec![vm(101, "node1", "san")]);
    let mut nth = 1;
    loop {
        for after in [false, true] {
            let api = lab.api();
            let (from, target) = match lab.guest(101).node.as_str() {
                "node1" => ("node1", "node2"),
                _ => ("node2", "node1"),
            };
            let place = lab.place(101);
            let request = to(target);
            let run = api.migrate(&place, &request, &|_| ());
            let finished = lab.crash_at(nth, after, run).await;
            lab.mend();
            lab.until("all tasks ended", |cluster| {
                cluster.tasks.iter().all(|task| task.ended.is_some())
            });
            let guest = lab.guest(101);
            assert!(guest.node == from || guest.node == target);
            assert!(guest.run.is_some() && guest.lock().is_none());
            if let Some(result) = finished {
                result.unwrap();
                assert!(
                    nth > 3,
                    "a login, a migrate and a look at the task at least"
                );
                return;
            }
        }
        nth += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mixed_cluster_is_as_described() {
    let lab = Lab::start(mixed("9.1.2", 4));
    let api = lab.api();
    let guests = api.guests().await.unwrap();
    let on_first: Vec<_> = guests
        .iter()
        .filter(|guest| guest.place.node.as_str() == "node1")
        .collect();
    assert_eq!(on_first.len(), 10);
    let template = on_first.iter().find(|guest| guest.template).unwrap();
    assert_eq!(template.place.vmid.number(), 190);
    let largest = on_first.iter().max_by_key(|guest| guest.memory).unwrap();
    assert_eq!((largest.place.vmid.number(), largest.cpus), (101, Some(1)));
    assert_eq!(largest.tags, ["prod", "web"]);
    let managed: Vec<_> = guests
        .iter()
        .filter_map(|guest| guest.ha_state.clone())
        .collect();
    assert_eq!(managed, ["started"]);
}
