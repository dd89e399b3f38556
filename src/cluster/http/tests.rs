//! The client against a scripted server on the loopback: real TLS, real HTTP, real broken connections.

mod late;
mod migrate;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use server::{Reply, Server, ok};

use super::*;
use crate::cluster::{Api, ConfigChange};
use crate::config::Credentials;
use crate::pve::guest::{GuestKind, GuestRef, Power};

fn place(vmid: u32) -> GuestRef {
    GuestRef {
        node: "n1".parse().expect("name"),
        kind: GuestKind::Qemu,
        vmid: crate::pve::id::Vmid::new(vmid).expect("vmid"),
    }
}

fn quick() -> Pace {
    let pauses = |n| vec![Duration::from_millis(1); n];
    Pace {
        broken: pauses(2),
        proxy: pauses(2),
        lost: pauses(2),
        poll: Duration::from_millis(5),
        patience: Duration::from_millis(400),
        lock: Duration::from_millis(200),
        late: Duration::from_secs(60),
    }
}

fn client(server: &Server, credentials: Credentials, trust: Trust) -> HttpApi {
    let (fingerprints, ca, verify) = match trust {
        Trust::Fingerprint(fingerprints) => (fingerprints, None, true),
        Trust::Roots { ca } => (Vec::new(), ca, true),
        Trust::Anybody => (Vec::new(), None, false),
    };
    let config = ClusterConfig {
        alias: "apple".parse().expect("alias"),
        host: "127.0.0.1".to_owned(),
        port: server.port,
        credentials,
        also: Vec::new(),
        fingerprints,
        ca,
    };
    let mut api = HttpApi::connect(config, verify);
    api.pace = quick();
    api
}

fn password() -> Credentials {
    Credentials::Password {
        user: "mover@pve".to_owned(),
        password: Secret::new("hush"),
    }
}

fn token() -> Credentials {
    Credentials::Token {
        id: "mover@pve!t1".to_owned(),
        secret: Secret::new("hush"),
    }
}

/// A client with a token and the right pin: what most tests want.
fn simple(server: &Server) -> HttpApi {
    client(
        server,
        token(),
        Trust::Fingerprint(vec![server.fingerprint]),
    )
}

const LOGIN: &str =
    r#"{"username":"mover@pve","ticket":"PVE:mover@pve:1::a+b/c==","CSRFPreventionToken":"C1"}"#;
const VERSION: &str = r#"{"version":"8.4.1","release":"8.4"}"#;
const UPID: &str = "UPID:n1:00000156:0005FD9D:6B010177:qmstart:100:mover@pve:";

#[tokio::test]
async fn a_ticket_goes_into_the_cookie_and_the_token_into_writes_only() {
    let server = Server::start(|request, _| match request.line() {
        "POST /api2/json/access/ticket" => ok(LOGIN),
        "GET /api2/json/version" => ok(VERSION),
        "PUT /api2/json/nodes/n1/qemu/100/config" => ok("null"),
        other => panic!("{other}"),
    })
    .await;
    let api = client(
        &server,
        password(),
        Trust::Fingerprint(vec![server.fingerprint]),
    );
    assert_eq!(api.release().await.expect("release").to_string(), "8.4");
    assert_eq!(api.user().await.expect("user"), "mover@pve");
    let change = ConfigChange {
        set: [
            ("description".to_owned(), "a=b;c&d +%\n".to_owned()),
            ("onboot".to_owned(), String::new()),
        ]
        .into(),
        delete: vec!["description".to_owned(), "net0".to_owned()],
        digest: Some("d1".to_owned()),
    };
    api.configure(&place(100), &change)
        .await
        .expect("null is success");
    let seen = server.seen();
    assert_eq!(seen.len(), 3, "one login for all: {seen:?}");
    assert_eq!(seen[0].body, "username=mover%40pve&password=hush");
    let cookie = "PVEAuthCookie=PVE%3Amover%40pve%3A1%3A%3Aa%2Bb%2Fc%3D%3D";
    assert_eq!(seen[1].header("cookie"), Some(cookie));
    assert_eq!(seen[1].header("csrfpreventiontoken"), None);
    assert_eq!(seen[2].header("csrfpreventiontoken"), Some("C1"));
    assert_eq!(
        seen[2].body,
        "description=a%3Db%3Bc%26d%20%2B%25%0A&delete=net0%2Conboot&digest=d1"
    );
    assert!(api.clock_skew_seconds().await.expect("skew").abs() < 30);
    assert!(!format!("{api:?}").contains("hush"));
}

#[tokio::test]
async fn a_token_needs_no_login() {
    let server = Server::start(|_, _| ok(VERSION)).await;
    simple(&server).release().await.expect("release");
    let seen = server.seen();
    let authorization = "PVEAPIToken=mover@pve!t1=hush";
    assert_eq!(seen[0].header("authorization"), Some(authorization));
    assert_eq!((seen.len(), seen[0].header("cookie")), (1, None));
}

#[tokio::test]
async fn a_refused_ticket_is_replaced_once_and_harmless_requests_are_repeated() {
    let server = Server::start(|request, count| match request.line() {
        "POST /api2/json/access/ticket" => ok(&LOGIN.replace("C1", &format!("C{count}"))),
        _ if request.header("cookie").is_some() && count == 0 => {
            Reply::new(401, "permission denied - invalid PVE ticket", "")
        }
        "GET /api2/json/version" => ok(VERSION),
        "POST /api2/json/nodes/n1/qemu" => Reply::new(401, "No ticket", ""),
        other => panic!("{other}"),
    })
    .await;
    let api = client(
        &server,
        password(),
        Trust::Fingerprint(vec![server.fingerprint]),
    );
    api.release().await.expect("repeated after the login");
    assert_eq!(
        server.lines(),
        [
            "POST /api2/json/access/ticket",
            "GET /api2/json/version",
            "POST /api2/json/access/ticket",
            "GET /api2/json/version"
        ]
    );
    let error = api
        .create(&place(100), &BTreeMap::new())
        .await
        .expect_err("401");
    assert!(matches!(error, ApiError::Login { .. }), "{error}");
    let creates = server
        .lines()
        .iter()
        .filter(|line| line.ends_with("/qemu"))
        .count();
    assert_eq!(creates, 1, "a create is not repeated");
}

#[tokio::test]
async fn an_old_ticket_is_renewed_with_itself_and_an_expired_one_with_the_password() {
    let server = Server::start(|request, _| match request.line() {
        "POST /api2/json/access/ticket" => ok(LOGIN),
        _ => ok(VERSION),
    })
    .await;
    let api = client(
        &server,
        password(),
        Trust::Fingerprint(vec![server.fingerprint]),
    );
    api.release().await.expect("release");
    api.age_ticket(Duration::from_secs(65 * 60)).await;
    api.release().await.expect("release");
    api.age_ticket(Duration::from_secs(125 * 60)).await;
    api.release().await.expect("release");
    let logins: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|r| r.line().starts_with("POST"))
        .map(|r| r.body)
        .collect();
    let passwords: Vec<_> = logins
        .iter()
        .filter_map(|body| body.split("password=").nth(1))
        .collect();
    assert_eq!(
        passwords,
        ["hush", "PVE%3Amover%40pve%3A1%3A%3Aa%2Bb%2Fc%3D%3D", "hush"]
    );
}

#[tokio::test]
async fn a_second_factor_names_the_remedy() {
    let server =
        Server::start(|_, _| ok(r#"{"NeedTFA":1,"ticket":"PVE:!tfa!x","username":"tfa@pve"}"#))
            .await;
    let api = client(&server, password(), Trust::Anybody);
    let error = api.release().await.expect_err("second factor").to_string();
    assert!(
        error.contains("API token") && error.contains("token="),
        "{error}"
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 1, "the useless ticket is not used");
}

#[tokio::test]
async fn a_refused_password_is_a_login_error_without_the_password() {
    let server = Server::start(|_, _| Reply::new(401, "authentication failure", "")).await;
    let api = client(&server, password(), Trust::Anybody);
    let error = api.release().await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "apple refused the login of mover@pve: authentication failure"
    );
    assert!(!format!("{error:?}").contains("hush"));
    let command = Credentials::PasswordCommand {
        user: "a@pve".into(),
        command: "echo hush; exit 4".into(),
    };
    let error = client(&server, command, Trust::Anybody)
        .release()
        .await
        .expect_err("exit 4");
    assert!(
        matches!(&error, ApiError::Login { reason, .. } if reason.contains("password_command")),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hush;"));
}

#[tokio::test]
async fn a_password_command_runs_once() {
    let server = Server::start(|request, _| match request.line() {
        "POST /api2/json/access/ticket" => ok(LOGIN),
        _ => ok(VERSION),
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let counter = directory.path().join("runs");
    let command = format!(
        "echo run >> {}; echo 'hush hush'; echo second",
        counter.display()
    );
    let credentials = Credentials::PasswordCommand {
        user: "mover@pve".into(),
        command,
    };
    let api = client(&server, credentials, Trust::Anybody);
    api.release().await.expect("release");
    api.age_ticket(Duration::from_secs(3 * 3600)).await;
    api.release().await.expect("release");
    assert_eq!(std::fs::read_to_string(counter).expect("runs"), "run\n");
    assert_eq!(
        server.seen()[0].body,
        "username=mover%40pve&password=hush%20hush"
    );
}

#[tokio::test]
async fn certificates_are_judged_by_pin_authority_or_not_at_all() {
    let server = Server::start(|_, _| ok(VERSION)).await;
    let refused = |api: HttpApi| async move {
        let error = api.release().await.expect_err("not trusted");
        let ApiError::Certificate { reason, .. } = error else {
            panic!("{error:?}");
        };
        reason
    };
    let seen = tls::shown(&server.fingerprint);
    let reason = refused(client(&server, token(), Trust::Fingerprint(vec![[7; 32]]))).await;
    assert!(
        reason.contains(&seen) && reason.contains("07:07"),
        "{reason}"
    );
    assert!(reason.contains("pvenode cert info"), "{reason}");
    let reason = refused(client(&server, token(), Trust::Roots { ca: None })).await;
    assert!(
        reason.contains(&format!("fingerprint={seen} in [pve:apple]")),
        "{reason}"
    );
    assert!(reason.contains("ca="), "{reason}");
    let reason = refused(client(
        &server,
        token(),
        Trust::Roots {
            ca: Some("/nowhere.pem".into()),
        },
    ))
    .await;
    assert!(reason.contains("ca=/nowhere.pem"), "{reason}");
    assert_eq!(
        server.seen().len(),
        0,
        "nothing was sent to a server that is not trusted"
    );

    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &server.ca_pem).expect("written");
    let ca = Some(ca.display().to_string());
    client(&server, token(), Trust::Roots { ca })
        .release()
        .await
        .expect("trusted by its authority");
    client(&server, token(), Trust::Anybody)
        .release()
        .await
        .expect("anybody is trusted");
}

#[tokio::test]
async fn the_reason_phrase_is_the_message_where_the_body_has_none() {
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/version" => {
            Reply::new(500, "VM 100 is locked (migrate)", r#"{"data":null}"#)
        }
        "GET /api2/json/cluster/nextid" => {
            Reply::new(403, "Permission check failed (/, Sys.Audit)", "")
        }
        "GET /api2/json/access/permissions" => Reply::new(
            400,
            "Parameter verification failed.",
            r#"{"data":null,"errors":{"path":"bad"}}"#,
        ),
        _ => Reply::new(301, "Moved", "").location("https://elsewhere.invalid/"),
    })
    .await;
    let api = simple(&server);
    let error = api.release().await.expect_err("500");
    assert_eq!(
        error.to_string(),
        "apple answered 'GET /version' with 500: VM 100 is locked (migrate)"
    );
    let error = api.free_vmid().await.expect_err("403");
    assert!(
        matches!(&error, ApiError::Forbidden { reason, .. } if reason.contains("Sys.Audit")),
        "{error}"
    );
    let error = api.permissions().await.expect_err("400");
    assert_eq!(
        error.to_string(),
        "apple refused 'GET /access/permissions': path: bad"
    );
    let error = api.pools().await.expect_err("301");
    assert!(
        matches!(error, ApiError::Refused { status: 301, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_get_is_repeated_after_a_broken_connection_and_a_post_is_not() {
    let server = Server::start(|request, count| match request.line() {
        "GET /api2/json/version" if count < 2 => Reply::cut(),
        "GET /api2/json/version" => ok(VERSION),
        "GET /api2/json/nodes/n1/qemu/100/config" => Reply::new(
            500,
            "Configuration file 'nodes/n1/qemu-server/100.conf' does not exist",
            "",
        ),
        _ => Reply::cut(),
    })
    .await;
    let api = simple(&server);
    api.release().await.expect("the third time");
    assert_eq!(server.lines().len(), 3);
    let error = api
        .create(&place(100), &[("name".into(), "x".into())].into())
        .await
        .expect_err("cut");
    assert!(
        matches!(
            error,
            ApiError::Unreachable {
                maybe_done: true,
                ..
            }
        ),
        "{error:?}"
    );
    let posts = server
        .lines()
        .iter()
        .filter(|line| line.starts_with("POST"))
        .count();
    assert_eq!(posts, 1);
}

#[tokio::test]
async fn a_proxy_failure_of_a_get_is_repeated_for_a_while_only() {
    let server = Server::start(|_, _| Reply::new(595, "No route to host", "")).await;
    let error = simple(&server).release().await.expect_err("595");
    assert!(
        matches!(error, ApiError::Refused { status: 595, .. }),
        "{error}"
    );
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_server_that_never_answered_is_not_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let mut server = Server::start(|_, _| ok(VERSION)).await;
    server.port = port;
    let error = simple(&server).release().await.expect_err("refused");
    assert!(
        matches!(&error, ApiError::Unreachable { maybe_done: false, reason, .. } if reason.contains("refused")),
        "{error}"
    );
}

#[tokio::test]
async fn a_start_is_followed_through_silent_proxies_to_the_running_guest() {
    let server = Server::start(|request, count| {
        let running = request.times("/status/start") > 0 && request.times("/log") > 0;
        match request.line() {
            line if line.starts_with("GET") && line.ends_with("/qemu/100/status/current") => {
                ok(if running {
                    r#"{"status":"running","qmpstatus":"running"}"#
                } else {
                    r#"{"status":"stopped"}"#
                })
            }
            "POST /api2/json/nodes/n1/qemu/100/status/start" => ok(&format!("\"{UPID}\"")),
            line if line.ends_with("/log") => ok(r#"[{"n":1,"t":"TASK OK"}]"#),
            line if line.ends_with("/status") => match count {
                0 | 2 => Reply::new(595, "Connection refused", ""),
                1 => Reply::cut(),
                3 => ok(r#"{"status":"running"}"#),
                _ => ok(r#"{"status":"stopped","exitstatus":"WARNINGS: 1"}"#),
            },
            other => panic!("{other}"),
        }
    })
    .await;
    simple(&server).start(&place(100)).await.expect("started");
    let polls: Vec<_> = server
        .lines()
        .into_iter()
        .filter(|line| line.ends_with("%3A/status"))
        .collect();
    assert_eq!(polls.len(), 5);
    let path = "GET /api2/json/nodes/n1/tasks/UPID%3An1%3A00000156%3A0005FD9D%3A6B010177%3Aqmstart%3A100%3Amover%40pve%3A/status";
    assert_eq!(polls[0], path);
}

#[tokio::test]
async fn a_failed_task_gives_its_exit_status_and_the_end_of_its_log() {
    let server = Server::start(|request, _| match request.line() {
        line if line.ends_with("/status/current") => ok(r#"{"status":"stopped"}"#),
        line if line.ends_with("/status/start") => ok(&format!("\"{UPID}\"")),
        line if line.ends_with("/log") && request.query.contains("start=0") => {
            ok(r#"[{"n":1,"t":"bridge 'vmbr9' does not exist"},{"n":2,"t":"TASK ERROR: start failed"}]"#)
        }
        line if line.ends_with("/log") => ok("[]"),
        _ => ok(r#"{"status":"stopped","exitstatus":"start failed"}"#),
    })
    .await;
    let error = simple(&server)
        .start(&place(100))
        .await
        .expect_err("failed");
    let ApiError::Task {
        kind,
        guest,
        node,
        exit_status,
        log,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (&*kind, &*guest, &*node, &*exit_status),
        ("qmstart", "100", "n1", "start failed")
    );
    assert_eq!(
        log,
        ["bridge 'vmbr9' does not exist", "TASK ERROR: start failed"]
    );
}

#[tokio::test]
async fn a_task_without_any_sign_of_progress_is_given_up() {
    let server = Server::start(|request, _| match request.line() {
        line if line.ends_with("/status/current") => ok(r#"{"status":"stopped"}"#),
        line if line.ends_with("/status/start") => ok(&format!("\"{UPID}\"")),
        line if line.ends_with("/log") => ok(r#"[{"n":1,"t":"no content"}]"#),
        _ => ok(r#"{"status":"running"}"#),
    })
    .await;
    let error = simple(&server)
        .start(&place(100))
        .await
        .expect_err("stalled");
    assert!(
        matches!(&error, ApiError::Stalled { upid, .. } if upid == UPID),
        "{error}"
    );
}

#[tokio::test]
async fn a_create_of_unknown_fate_is_settled_by_the_guests_name_and_notes() {
    for (name, expect) in [("web1--CREATING", true), ("somebody-elses", false)] {
        let server = Server::start(move |request, count| match request.line() {
            line if line.starts_with("POST") => Reply::new(596, "Connection timed out", ""),
            _ if count == 0 => Reply::new(500, "Configuration file 'x' does not exist", ""),
            _ if count == 1 => ok(r#"{"lock":"create","digest":"d"}"#),
            _ => ok(&format!(
                r#"{{"name":"{name}","description":"from apple","digest":"e"}}"#
            )),
        })
        .await;
        let config = [
            ("name", "web1--CREATING"),
            ("description", "from apple"),
            ("memory", "64"),
        ];
        let config = config
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let result = simple(&server).create(&place(100), &config).await;
        assert_eq!(result.is_ok(), expect, "{name}: {result:?}");
        assert_eq!(server.lines().len(), 4);
    }
}

#[tokio::test]
async fn a_change_waits_for_passing_locks_and_is_settled_by_reading() {
    let change = ConfigChange {
        set: [("name".to_owned(), "web1".to_owned())].into(),
        ..ConfigChange::default()
    };
    let server = Server::start(|request, count| match (request.line(), count) {
        (line, 0) if line.starts_with("PUT") => Reply::new(
            500,
            "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout",
            "",
        ),
        (line, 1) if line.starts_with("PUT") => Reply::new(500, "VM is locked (create)", ""),
        (line, 2) if line.starts_with("PUT") => Reply::cut(),
        (line, 0) if line.starts_with("GET") => ok(r#"{"name":"old"}"#),
        (line, _) if line.starts_with("GET") => ok(r#"{"name":"web1"}"#),
        other => panic!("{other:?}"),
    })
    .await;
    simple(&server)
        .configure(&place(100), &change)
        .await
        .expect("done after all");
    let puts = server
        .lines()
        .iter()
        .filter(|line| line.starts_with("PUT"))
        .count();
    assert_eq!(puts, 3);

    let locked = Server::start(|_, _| Reply::new(500, "VM is locked (migrate)", "")).await;
    let error = simple(&locked)
        .configure(&place(100), &change)
        .await
        .expect_err("locked");
    assert_eq!(error.reason(), "VM is locked (migrate)");
    assert_eq!(
        locked.lines().len(),
        1,
        "somebody else's lock is not waited for"
    );
}

#[tokio::test]
async fn a_shutdown_says_its_patience_and_believes_only_the_status() {
    let ha = "UPID:n1:00000156:0005FD9D:6B010177:hastop:100:mover@pve:";
    let server = Server::start(move |request, count| match request.line() {
        line if line.ends_with("/status/current") && count < 4 => {
            ok(r#"{"status":"running","qmpstatus":"running"}"#)
        }
        line if line.ends_with("/status/current") => ok(r#"{"status":"stopped"}"#),
        line if line.ends_with("/status/shutdown") => ok(&format!("\"{ha}\"")),
        line if line.ends_with("/log") => ok("[]"),
        _ => ok(r#"{"status":"stopped","exitstatus":"OK"}"#),
    })
    .await;
    let api = simple(&server);
    api.shutdown(&place(100), Duration::from_secs(90))
        .await
        .expect("stopped in the end");
    let seen = server.seen();
    let posted = seen
        .iter()
        .find(|r| r.line().starts_with("POST"))
        .expect("a POST");
    assert_eq!(posted.body, "timeout=90&forceStop=1");
    let before = seen.len();
    api.shutdown(&place(100), Duration::from_secs(90))
        .await
        .expect("stopped already");
    assert_eq!(server.seen().len(), before + 1, "only the status is read");
}

#[tokio::test]
async fn a_delete_never_takes_unreferenced_volumes_and_a_missing_guest_is_success() {
    let server = Server::start(|request, _| match request.line() {
        "DELETE /api2/json/nodes/n1/qemu/100" => ok(&format!("\"{UPID}\"")),
        "DELETE /api2/json/nodes/n1/qemu/101" => Reply::new(
            500,
            "Configuration file 'nodes/n1/qemu-server/101.conf' does not exist",
            "",
        ),
        "DELETE /api2/json/nodes/n1/qemu/102" => Reply::new(500, "VM is protected", ""),
        line if line.ends_with("/log") => ok("[]"),
        _ => ok(r#"{"status":"stopped","exitstatus":"OK"}"#),
    })
    .await;
    let api = simple(&server);
    api.delete(&place(100)).await.expect("deleted");
    api.delete(&place(101)).await.expect("missing");
    api.delete(&place(102)).await.expect_err("protected");
    let deletes: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|r| r.line().starts_with("DELETE"))
        .collect();
    assert_eq!(deletes.len(), 3);
    for request in deletes {
        assert_eq!(
            (request.query.as_str(), request.body.as_str()),
            ("destroy-unreferenced-disks=0", "")
        );
    }
}

#[tokio::test]
async fn a_member_of_the_pool_already_is_success() {
    for (release, members, expect) in [("8.4", 100, true), ("7.4", 100, true), ("8.4", 101, false)]
    {
        let server = Server::start(move |request, _| match request.line() {
            "GET /api2/json/version" => ok(&format!(r#"{{"release":"{release}"}}"#)),
            line if line.starts_with("PUT") => Reply::new(
                500,
                "update pools failed: VM 100 is already a pool member",
                "",
            ),
            "GET /api2/json/pools" => ok(&format!(
                r#"[{{"poolid":"a/b","members":[{{"vmid":{members}}}]}}]"#
            )),
            "GET /api2/json/pools/a%2Fb" => ok(&format!(r#"{{"members":[{{"vmid":{members}}}]}}"#)),
            other => panic!("{other}"),
        })
        .await;
        let result = simple(&server)
            .join_pool(&"a/b".parse().expect("pool"), place(100).vmid)
            .await;
        assert_eq!(result.is_ok(), expect, "{release}: {result:?}");
        let put = server
            .seen()
            .into_iter()
            .find(|r| r.line().starts_with("PUT"))
            .expect("a PUT");
        let (line, body) = match release {
            "8.4" => ("PUT /api2/json/pools", "poolid=a%2Fb&vms=100"),
            _ => ("PUT /api2/json/pools/a%2Fb", "vms=100"),
        };
        assert_eq!((put.line(), put.body.as_str()), (line, body));
    }
}

#[tokio::test]
async fn what_is_forbidden_or_missing_by_release_is_left_out() {
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/cluster/status" => {
            Reply::new(403, "Permission check failed (/, Sys.Audit)", "")
        }
        "GET /api2/json/nodes" => ok(r#"[{"node":"n1","status":"online"}]"#),
        "GET /pve-docs/api-viewer/apidoc.js" => Reply::new(404, "Not Found", ""),
        line if line.ends_with("/network") => ok(r#"[{"iface":"vmbr0","type":"bridge"}]"#),
        "GET /api2/json/nodes/n1/storage/data/content/data%3A100%2Fvm-100-disk-0.raw" => {
            ok(r#"{"path":"/srv/x.raw","size":"4096","format":"raw","used":0}"#)
        }
        _ => Reply::new(501, "Method not implemented", ""),
    })
    .await;
    let api = simple(&server);
    let nodes = api.nodes().await.expect("nodes");
    assert_eq!(
        (nodes.len(), nodes[0].online, nodes[0].maintenance),
        (1, true, false)
    );
    let node = &nodes[0].name;
    assert_eq!(
        api.machines(node).await.expect("machines"),
        Vec::<String>::new()
    );
    assert_eq!(api.config_schema().await.expect("schema"), None);
    assert_eq!(api.bridges(node).await.expect("bridges"), ["vmbr0"]);
    let seen = server.seen();
    assert!(seen.iter().any(|r| r.query == "type=any_bridge"));
    let schema = seen
        .iter()
        .find(|r| r.line().contains("apidoc"))
        .expect("asked");
    assert_eq!(
        schema.header("authorization"),
        None,
        "no login for the public file"
    );
    let volid = "data:100/vm-100-disk-0.raw".parse().expect("volid");
    let volume = api.volume(node, &volid).await.expect("volume");
    assert_eq!(volume.path.as_deref(), Some("/srv/x.raw"));
}

#[tokio::test]
async fn a_guest_is_put_together_from_four_answers() {
    let server = Server::start(|request, _| match request.line().rsplit('/').next() {
        Some("config") => ok(r#"{"name":"web1","memory":64,"lock":"suspended","digest":"d"}"#),
        Some("pending") => ok(r#"[{"key":"memory","value":64,"pending":"96"}]"#),
        Some("snapshot") => ok(r#"[{"name":"current","running":1}]"#),
        Some("current") => ok(r#"{"status":"running","qmpstatus":"paused","ha":{"managed":1}}"#),
        other => panic!("{other:?}"),
    })
    .await;
    let guest = simple(&server).guest(&place(100)).await.expect("guest");
    assert_eq!((guest.name(), guest.power), ("web1", Power::Running));
    assert_eq!(
        (guest.qmp_status.as_str(), guest.lock.as_deref()),
        ("paused", Some("suspended"))
    );
    assert!(guest.ha_managed && guest.snapshots.is_empty() && guest.pending.len() == 1);
    assert_eq!(server.lines().len(), 4);
}

#[tokio::test]
async fn a_start_without_an_answer_is_followed_by_its_task() {
    let server = Server::start(|request, count| match request.line() {
        line if line.ends_with("/status/start") => Reply::new(599, "Too many redirections", ""),
        line if line.ends_with("/status/current") && request.times("/log") > 0 => {
            ok(r#"{"status":"running"}"#)
        }
        line if line.ends_with("/status/current") => ok(r#"{"status":"stopped"}"#),
        "GET /api2/json/nodes/n1/tasks" if count == 0 => ok("[]"),
        "GET /api2/json/nodes/n1/tasks" => {
            let other = UPID.replace(":100:", ":101:");
            let done = r#""endtime":5"#;
            ok(&format!(
                r#"[{{"upid":"{other}"}},{{"upid":"{UPID}",{done}}},{{"upid":"{UPID}"}}]"#
            ))
        }
        line if line.ends_with("/log") => ok(r#"[{"n":1,"t":"TASK OK"}]"#),
        _ => ok(r#"{"status":"stopped","exitstatus":"OK"}"#),
    })
    .await;
    simple(&server).start(&place(100)).await.expect("started");
    let lines = server.lines();
    let count = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!((count("/status/start"), count("/tasks")), (1, 2));
    assert_eq!(count("qmstart%3A100%3Amover%40pve%3A/status"), 1);
}

#[tokio::test]
async fn a_start_that_never_arrived_is_an_error_of_unknown_fate() {
    let server = Server::start(|request, _| match request.line() {
        line if line.ends_with("/status/start") => Reply::cut(),
        line if line.ends_with("/tasks") => ok("[]"),
        _ => ok(r#"{"status":"stopped"}"#),
    })
    .await;
    let error = simple(&server).start(&place(100)).await.expect_err("lost");
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
    let posts = server
        .lines()
        .iter()
        .filter(|line| line.starts_with("POST"))
        .count();
    assert_eq!(posts, 1, "a start is not sent twice");
}

/// Of several nodes that serve the same API one that answers is asked, and asked again; tests/again/finished.rs lets one die
/// in the middle of a move.
#[tokio::test]
async fn when_a_node_does_not_answer_the_next_one_is_asked() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = dead.local_addr().expect("its address").port();
    drop(dead);
    let server = Server::start(|request, _| match request.line() {
        "GET /api2/json/version" => ok(VERSION),
        "PUT /api2/json/nodes/n1/qemu/100/config" => ok("null"),
        other => panic!("{other}"),
    })
    .await;
    let here = |port| ("127.0.0.1".to_owned(), port);
    let mut config = simple(&server).config;
    config.port = port;
    config.also = vec![here(server.port)];
    let mut api = HttpApi::connect(config.clone(), true);
    api.pace = quick();
    // A write that reached nobody goes to the next node as well.
    let change = ConfigChange {
        set: [("onboot".to_owned(), "0".to_owned())].into(),
        ..ConfigChange::default()
    };
    let changed = api.configure(&place(100), &change).await;
    changed.expect("the second one answers");
    api.release().await.expect("and is asked again");
    assert_eq!(server.seen().len(), 2);
    config.also = vec![here(port)];
    let mut api = HttpApi::connect(config, true);
    api.pace = quick();
    let error = api.release().await.expect_err("nobody answers");
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error:?}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_node_that_the_cluster_tells_of_is_asked_when_no_configured_one_is_reached() {
    let member = |address: &str| crate::pve::inventory::Node {
        name: "n2".parse().expect("a node"),
        online: true,
        address: Some(address.to_owned()),
        maintenance: false,
    };
    let second = Server::start_at("127.0.0.2:0", |_, _| ok(VERSION)).await;
    let mut config = simple(&second).config;
    // Nobody listens there.
    config.host = "127.0.0.1".to_owned();
    let mut api = HttpApi::connect(config.clone(), true);
    api.pace = quick();
    api.release().await.expect_err("nobody answers");
    assert_eq!(api.places.learn(&[member("127.0.0.2")]).len(), 1);
    api.release().await.expect("the second one answers");
    assert_eq!(second.seen().len(), 1);

    // The same, but with a certificate that was not pinned: it gets no request, and the error is about the first one.
    config.fingerprints = vec![[7; 32]];
    let mut api = HttpApi::connect(config, true);
    api.pace = quick();
    api.places.learn(&[member("127.0.0.2")]);
    let error = api.release().await.expect_err("it is not believed");
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error:?}");
    assert_eq!(second.seen().len(), 1);
}
