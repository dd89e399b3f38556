//! The direct route between two OpenSSH servers that do not trust each other, and what a hostile source host can do
//! with the agent it is lent: nothing beyond the one login.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/not_run.rs"]
mod not_run;
#[path = "support/sshd.rs"]
mod sshd;
#[path = "support/stage.rs"]
mod stage;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxmove::sim::host::Server;
use proxmove::sim::stage::Stage;
use sshd::{Agent, Sshd, free_port};
use stage::{
    MIB, clusters, disk, guest, launch, moved, nothing_left, program, proved, runs, to_banana,
};

const SIZE: u64 = 128 * MIB;

/// Starts two OpenSSH servers for `apple` and `banana`, and takes the operator's key out of the home into an agent.
async fn lab() -> (Stage, Agent, String) {
    let web1 = guest(565, "web1", vec![disk("scsi0", "raw", SIZE)], 64 * 1024);
    let stage = stage::start(clusters(vec![web1]), |settings| {
        settings.server = Server::OpenSsh("/usr/sbin/sshd".into());
        settings.hot_bytes = Some(MIB);
        settings.filled = 0.6;
    })
    .await;
    let key = stage.home.join(".ssh/id_ed25519");
    let agent = Agent::start(&[&key]);
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    fs::remove_file(&key).unwrap();
    fs::remove_file(key.with_extension("pub")).unwrap();
    (stage, agent, public)
}

fn host_directory(stage: &Stage, name: &str) -> PathBuf {
    stage.home.with_file_name("hosts").join(name)
}

/// Adds lines to the target storage's section, and changes where the operator reaches it.
fn retarget(stage: &Stage, ssh_port: Option<u16>, peer_port: u16) {
    let host = &stage.hosts["banana-node2"];
    let text = fs::read_to_string(stage.proxmoverc()).unwrap();
    let (before, section) = text.split_once("[storage:banana:local-ssd@node2]").unwrap();
    let ssh = format!("ssh={}@127.0.0.1:{}", host.user, host.port);
    assert!(section.contains(&ssh), "{section}");
    let reached = ssh_port.unwrap_or(host.port);
    let lines = format!(
        "ssh={user}@127.0.0.1:{reached}\n  peer={user}@127.0.0.1:{peer_port}",
        user = host.user
    );
    let section = section.replacen(&ssh, &lines, 1);
    fs::write(
        stage.proxmoverc(),
        format!("{before}[storage:banana:local-ssd@node2]{section}"),
    )
    .unwrap();
}

/// Passes connections on to a port and counts the bytes of both directions. Ends with the process.
fn counting_door(to: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let ways = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ];
            for (mut from, mut into) in ways {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        counted.fetch_add(length as u64, Ordering::Relaxed);
                        if into.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (port, count)
}

/// What a command of a hostile source host came to.
struct Attempt {
    succeeded: bool,
    words: String,
}

/// Runs a command as whoever is root on the source host would, with the lent agent.
fn attempt(home: &Path, socket: &str, command: &[&str]) -> Attempt {
    let output = Command::new(command[0])
        .args(&command[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("SSH_AUTH_SOCK", socket)
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Attempt {
        succeeded: output.status.success(),
        words: String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout),
    }
}

fn ssh<'a>(port: &'a str, user: &'a str, socket: &'a str) -> Vec<&'a str> {
    vec![
        "ssh",
        "-F",
        "none",
        "-v",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "PreferredAuthentications=publickey",
        "-o",
        socket,
        "-p",
        port,
        "-l",
        user,
        "127.0.0.1",
        "true",
    ]
}

fn accepted(log: &str, user: &str) -> usize {
    log.matches(&format!("Accepted publickey for {user} "))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_do_not_trust_each_other_copy_directly_and_the_lent_agent_is_of_no_other_use() {
    if !sshd::is_here("the direct route") {
        return;
    }
    let (stage, agent, public) = lab().await;
    let source_home = host_directory(&stage, "apple-node1");
    let target_home = host_directory(&stage, "banana-node2");
    for home in [&source_home, &target_home] {
        assert!(!home.join(".ssh").exists());
    }
    let target = &stage.hosts["banana-node2"];
    let (target_port, user) = (target.port, target.user.clone());
    // The operator comes through a door that counts; the source host is told the way by peer=.
    let (door, passed) = counting_door(target_port);
    retarget(&stage, Some(door), target_port);
    let key = target
        .known_hosts_line
        .split_once(' ')
        .unwrap()
        .1
        .to_owned();
    let known = stage.home.join(".ssh/known_hosts");
    let text = fs::read_to_string(&known).unwrap();
    fs::write(&known, format!("{text}[127.0.0.1]:{door} {key}\n")).unwrap();

    // A third host, and another account behind the target's own host key: both would let the operator's key in.
    let third = Sshd::start(&[]);
    third.authorize(&public);
    let target_key = target_home.join("ssh_host_ed25519_key");
    let line = format!("HostKey {}", target_key.display());
    let twin = Sshd::start_with(&[], &[&line]);
    twin.authorize(&public);
    let other = if user == "root" { Some("nobody") } else { None };
    if other.is_none() {
        not_run::not_run("the lent agent and another user", "needs root");
    }
    let operators = format!("IdentityAgent={}", agent.socket.display());
    let (third_port, twin_port, own_port) = (
        third.port.to_string(),
        twin.port.to_string(),
        target_port.to_string(),
    );
    let operator = |port: &str, user: &str| attempt(&source_home, "", &ssh(port, user, &operators));
    assert!(operator(&third_port, &user).succeeded);
    assert_eq!(accepted(&third.log(), &user), 1);
    if let Some(other) = other {
        operator(&twin_port, other);
        assert_eq!(accepted(&twin.log(), other), 1, "{}", twin.log());
    }
    // Without the operator, the source host gets nowhere.
    let alone = attempt(
        &source_home,
        "",
        &ssh(&own_port, &user, "IdentityAgent=none"),
    );
    assert!(!alone.succeeded, "{}", alone.words);

    let socket = agent.socket.to_str().unwrap();
    let words = to_banana(&["--route", "direct", "--bwlimit", "60"], &["web1"]);
    let mut running = launch(
        &stage,
        &words,
        &[("SSH_AUTH_SOCK", socket), ("USER", &user)],
    );
    // The source host's own ssh names the lent socket.
    let lent = loop {
        if running.is_over() {
            panic!("{}", running.wait().expect(-1).stdout);
        }
        let found = stage::processes(&stage).into_iter().find_map(|(_, line)| {
            let (_, rest) = line.split_once("IdentityAgent=")?;
            rest.split(' ').next().map(str::to_owned)
        });
        match found {
            Some(lent) if Path::new(&lent).exists() => break lent,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_ne!(lent, socket);
    let identity = format!("IdentityAgent={lent}");

    // It answers, with the one key in use ...
    let listed = attempt(&source_home, &lent, &["ssh-add", "-L"]);
    assert!(listed.succeeded, "{}", listed.words);
    let of_key = |text: &str| text.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(listed.words.trim().lines().count(), 1);
    assert_eq!(of_key(&listed.words), of_key(&public));
    // ... but signs nothing for another host,
    let refused = |attempt: &Attempt| {
        assert!(!attempt.succeeded, "{}", attempt.words);
        assert!(
            attempt.words.contains("agent refused operation"),
            "{}",
            attempt.words
        );
    };
    refused(&attempt(
        &source_home,
        &lent,
        &ssh(&third_port, &user, &identity),
    ));
    assert_eq!(accepted(&third.log(), &user), 1, "{}", third.log());
    // nor for another user on the target's own host key,
    if let Some(other) = other {
        refused(&attempt(
            &source_home,
            &lent,
            &ssh(&twin_port, other, &identity),
        ));
        assert_eq!(accepted(&twin.log(), other), 1, "{}", twin.log());
    }
    // nor a file,
    fs::write(source_home.join("stolen.pub"), &public).unwrap();
    fs::write(source_home.join("text"), "I owe you").unwrap();
    let signed = attempt(
        &source_home,
        &lent,
        &[
            "ssh-keygen",
            "-Y",
            "sign",
            "-n",
            "file",
            "-f",
            "stolen.pub",
            "text",
        ],
    );
    refused(&signed);
    assert!(!source_home.join("text.sig").exists());
    // and takes and gives up no keys.
    let wiped = attempt(&source_home, &lent, &["ssh-add", "-D"]);
    assert!(!wiped.succeeded, "{}", wiped.words);
    assert!(
        !running.is_over(),
        "the move was over before the attempts were"
    );

    let ended = running.wait().expect(0);
    let vmid = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", vmid));
    nothing_left(&stage);
    assert!(!Path::new(&lent).parent().unwrap().exists(), "{lent}");
    for home in [&source_home, &target_home] {
        assert!(!home.join(".ssh").exists());
    }
    // Through the operator went the porter and talk, not the disk.
    let carried = ended.events().pop().unwrap()["carried"].as_u64().unwrap();
    let wire = ended.events().pop().unwrap()["wire"].as_u64().unwrap();
    let porter = fs::metadata(program()).unwrap().len();
    let beside = passed.load(Ordering::Relaxed).saturating_sub(porter);
    assert!(wire > 16 * MIB, "{wire}");
    assert!(beside < 4 * MIB, "{beside} bytes beside the porter");
    eprintln!(
        "direct: {} MiB carried, {} MiB on the wire, {} KiB beside the porter ({} MiB) between operator and target, {:.1} s",
        carried / MIB,
        wire / MIB,
        beside / 1024,
        porter / MIB,
        ended.duration.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_way_between_the_hosts_auto_relays_and_direct_says_why_not() {
    if !sshd::is_here("the fallback of the direct route") {
        return;
    }
    let (stage, agent, _) = lab().await;
    retarget(&stage, None, free_port());
    let socket = agent.socket.to_str().unwrap();
    let environment = [("SSH_AUTH_SOCK", socket)];
    let with = |route| to_banana(&["--route", route], &["web1"]);
    let direct = launch(&stage, &with("direct"), &environment).wait();
    assert!(
        [4, 5].contains(&direct.code),
        "{} {}",
        direct.code,
        direct.stdout
    );
    let said = format!("{}{}", direct.stdout, direct.stderr);
    assert!(said.contains("Connection refused"), "{said}");
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(runs(&stage, "apple", 565));
    eprintln!(
        "direct: {} {}",
        direct.code,
        direct
            .told("move-failed")
            .first()
            .map_or(direct.stderr.clone(), |event| event["error"].to_string())
    );

    let auto = launch(&stage, &with("auto"), &environment).wait().expect(0);
    let warnings = auto.told("warning");
    let relays = |text: &str| text.contains("relaying") && text.contains("Connection refused");
    assert!(
        warnings
            .iter()
            .any(|event| relays(event["text"].as_str().unwrap())),
        "{warnings:?}"
    );
    let vmid = moved(&stage, ("apple", 565), "banana", "web1");
    proved(&stage, ("apple", 565), ("banana", vmid));
    nothing_left(&stage);
}
