//! Migrating, notes of nodes and HA rules against a scripted server: what is sent, and how odd ends are judged.

use super::server::{Reply, Server, ok};
use super::{VERSION, place, simple};
use crate::cluster::{Api, ApiError};
use crate::pve::guest::{GuestKind, GuestRef};
use crate::pve::id::NodeName;
use crate::pve::migration::{MigrateRequest, StorageMap};

const TASK: &str = "UPID:n1:00000156:0005FD9D:6B010177:qmigrate:100:mover@pve:";
const MISSING: &str = "Configuration file 'nodes/n2/qemu-server/100.conf' does not exist";

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

fn request() -> MigrateRequest {
    MigrateRequest {
        target: node("n2"),
        online: true,
        with_local_disks: true,
        restart: true,
        timeout: Some(std::time::Duration::from_secs(90)),
        target_storage: StorageMap::Each(
            [("a".parse().expect("id"), "b".parse().expect("id"))].into(),
        ),
    }
}

/// A server whose migration ends like that, after which the guest is on its target or not.
async fn ended(exit: &'static str, arrived: bool) -> Server {
    Server::start(move |request, _| match request.line() {
        "POST /api2/json/nodes/n1/qemu/100/migrate" => ok(&format!("\"{TASK}\"")),
        line if line.ends_with("/status") => {
            ok(&format!(r#"{{"status":"stopped","exitstatus":"{exit}"}}"#))
        }
        line if line.ends_with("/log") => ok(r#"[{"n":1,"t":"found local disk"},{"n":2,"t":"x"}]"#),
        "GET /api2/json/nodes/n2/qemu/100/config" if arrived => ok(r#"{"name":"web1"}"#),
        "GET /api2/json/nodes/n2/qemu/100/config" => Reply::new(500, MISSING, r#"{"data":null}"#),
        other => panic!("{other}"),
    })
    .await
}

#[tokio::test]
async fn what_counts_is_where_the_guest_is() {
    let told = std::sync::Mutex::new(Vec::new());
    let tell = |line: &str| told.lock().expect("in order").push(line.to_owned());
    let server = ended("OK", true).await;
    let migrated = simple(&server)
        .migrate(&place(100), &request(), &tell)
        .await;
    assert_eq!(migrated.expect("success").problem, None);
    assert_eq!(
        told.into_inner().expect("in order"),
        ["found local disk", "x"]
    );
    let asked = server
        .seen()
        .into_iter()
        .find(|seen| seen.line().starts_with("POST"));
    assert_eq!(
        asked.expect("a request").body,
        "target=n2&online=1&with-local-disks=1&targetstorage=a%3Ab"
    );
    // A server that stumbles over the tidying has migrated all the same.
    let server = ended("migration problems", true).await;
    let migrated = simple(&server)
        .migrate(&place(100), &request(), &|_| ())
        .await;
    let problem = migrated.expect("success").problem.expect("a problem");
    assert!(problem.contains("migration problems"), "{problem}");
    let server = ended("migration problems", false).await;
    let error = simple(&server)
        .migrate(&place(100), &request(), &|_| ())
        .await;
    let error = error.expect_err("a failure");
    assert!(matches!(error, ApiError::Task { .. }), "{error}");
}

#[tokio::test]
async fn a_container_is_asked_for_in_its_own_words() {
    let container = GuestRef {
        kind: GuestKind::Lxc,
        ..place(100)
    };
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/version" => ok(VERSION),
        "POST /api2/json/nodes/n1/lxc/100/migrate" => Reply::new(500, "no", r#"{"data":null}"#),
        other => panic!("{other}"),
    })
    .await;
    let api = simple(&server);
    let error = api.migrate(&container, &request(), &|_| ()).await;
    assert_eq!(error.expect_err("refused").reason(), "no");
    let asked = server
        .seen()
        .into_iter()
        .find(|seen| seen.line().starts_with("POST"));
    assert_eq!(
        asked.expect("a request").body,
        "target=n2&restart=1&timeout=90&target-storage=a%3Ab"
    );
    // Release 8.4 says nothing beforehand, and is not asked.
    let said = api.migrate_preconditions(&container, None).await;
    assert_eq!(said.expect("nothing"), None);
    let asked = server.lines();
    assert!(
        !asked
            .iter()
            .any(|line| line.starts_with("GET") && line.ends_with("/migrate"))
    );
}

#[tokio::test]
async fn notes_without_an_answer_are_read_again() {
    let server = Server::start(|request, _| match request.line() {
        "PUT /api2/json/nodes/n1/config" => Reply::cut(),
        "GET /api2/json/nodes/n1/config" => ok(r#"{"description":"closed\n","digest":"d2"}"#),
        other => panic!("{other}"),
    })
    .await;
    let api = simple(&server);
    api.describe_node(&node("n1"), "closed", Some("d1"))
        .await
        .expect("it is there");
    let error = api.describe_node(&node("n1"), "open", Some("d1")).await;
    assert!(
        matches!(
            error,
            Err(ApiError::Unreachable {
                maybe_done: true,
                ..
            })
        ),
        "{error:?}"
    );
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies[0], "description=closed&digest=d1");
}

#[tokio::test]
async fn rules_take_the_place_of_groups() {
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/version" => ok(r#"{"version":"9.1.2","release":"9.1"}"#),
        "GET /api2/json/cluster/ha/rules" => ok(
            r#"[{"rule":"apart","type":"resource-affinity","affinity":"negative","resources":"vm:100,ct:101"}]"#,
        ),
        "GET /api2/json/cluster/ha/groups" => Reply::new(
            500,
            "cannot index groups: ha groups have been migrated to rules",
            r#"{"data":null}"#,
        ),
        other => panic!("{other}"),
    })
    .await;
    let rules = simple(&server).ha_rules().await.expect("rules");
    assert_eq!((rules.len(), rules[0].resources.len()), (1, 2));
    // Somebody without the right to see them must not take them for none.
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/version" => ok(VERSION),
        _ => Reply::new(
            403,
            "Permission check failed (/, Sys.Audit)",
            r#"{"data":null}"#,
        ),
    })
    .await;
    let error = simple(&server).ha_rules().await;
    assert!(
        matches!(error, Err(ApiError::Forbidden { .. })),
        "{error:?}"
    );
}
