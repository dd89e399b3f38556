//! Networks that swallow packets: two hosts with a network namespace each, and a bridge between them and the operator
//! that stops passing frames on. Nobody is told; only silence is to be noticed.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxmove::plan::mark::Mark;
use proxmove::sim::host::Server;
use proxmove::sim::stage::Stage;
use proxmove::sim::world::faults::{Fault, FaultKind};

use crate::alone::{Own, alone, must};
use crate::stage::{self, MIB, clusters, disk, guest, launch, nothing_left, runs, to_banana};
use crate::{await_porter, finishes, said, sshd};

const SIZE: u64 = 64 * MIB;
/// Longer than any silence proxmove bears: the porters 120 s, a connection of the operator's 60 s.
const MOST: Duration = Duration::from_secs(200);

/// Host, its namespace, its address, and its port of the bridge.
const HOSTS: [(&str, &str, &str, &str); 2] = [
    ("apple-node1", "source", "10.77.0.2", "to-source"),
    ("banana-node2", "target", "10.77.0.3", "to-target"),
];

/// The wires, and an SSH server of each host at the end of one.
struct Network {
    servers: Vec<Child>,
}

impl Network {
    /// Connects the hosts of a stage; the operator's proxmoverc and known hosts have their new addresses.
    fn lay(stage: &Stage) -> Network {
        // Names of namespaces are files.
        fs::create_dir_all("/run/netns").unwrap();
        must("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"]);
        must("ip", &["link", "add", "bridge0", "type", "bridge"]);
        must("ip", &["address", "add", "10.77.0.1/24", "dev", "bridge0"]);
        must("ip", &["link", "set", "bridge0", "up"]);
        let mut servers = Vec::new();
        let mut known = String::new();
        let mut proxmoverc = fs::read_to_string(stage.proxmoverc()).unwrap();
        for (name, space, address, port) in HOSTS {
            must("ip", &["netns", "add", space]);
            must(
                "ip",
                &[
                    "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space,
                ],
            );
            must("ip", &["link", "set", port, "master", "bridge0", "up"]);
            let cidr = format!("{address}/24");
            must("ip", &["-n", space, "address", "add", &cidr, "dev", "eth0"]);
            must("ip", &["-n", space, "link", "set", "eth0", "up"]);
            must("ip", &["-n", space, "link", "set", "lo", "up"]);
            let host = &stage.hosts[name];
            let own = stage.home.with_file_name("hosts").join(name);
            let config = fs::read_to_string(own.join("sshd_config")).unwrap();
            let file: PathBuf = own.join("sshd_config-on-the-wire");
            fs::write(&file, config.replace("127.0.0.1", address)).unwrap();
            let log = fs::File::create(own.join("sshd-on-the-wire.log")).unwrap();
            let server = Command::new("ip")
                .args(["netns", "exec", space, "/usr/sbin/sshd", "-D", "-e", "-f"])
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            servers.push(server);
            let key = host.known_hosts_line.split_once(' ').unwrap().1;
            known.push_str(&format!("[{address}]:{} {key}\n", host.port));
            let here = format!("@127.0.0.1:{}\n", host.port);
            proxmoverc = proxmoverc.replace(&here, &format!("@{address}:{}\n", host.port));
            await_answer(address, host.port);
        }
        fs::write(stage.home.join(".ssh/known_hosts"), known).unwrap();
        fs::write(stage.proxmoverc(), proxmoverc).unwrap();
        Network { servers }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for server in &mut self.servers {
            for session in sshd::children(server.id()) {
                sshd::children(session).into_iter().for_each(stage::kill);
                stage::kill(session);
            }
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn await_answer(address: &str, port: u16) {
    let began = Instant::now();
    while std::net::TcpStream::connect((address, port)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{address} does not answer"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has the bridge pass frames between the hosts, or swallow them. The operator reaches both.
fn between_hosts(passes: bool) {
    for (_, _, _, port) in HOSTS {
        let isolated = if passes { "off" } else { "on" };
        must(
            "ip",
            &[
                "link",
                "set",
                port,
                "type",
                "bridge_slave",
                "isolated",
                isolated,
            ],
        );
    }
}

/// Connects the target host with everybody, or with nobody.
fn target_host(connected: bool) {
    match connected {
        true => must("ip", &["link", "set", "to-target", "master", "bridge0"]),
        false => must("ip", &["link", "set", "to-target", "nomaster"]),
    }
}

/// Returns when whoever moves the guest gave a sign last, in seconds since 1970.
fn newest_sign(stage: &Stage) -> Option<i64> {
    let target = stage.vmid("banana", "vm0--CREATING")?;
    let notes = stage::config(stage, "banana", target).remove("description")?;
    Some(Mark::parse(&notes)?.claim?.seen.as_second())
}

async fn one() -> Stage {
    let specs = vec![guest(
        600,
        "vm0",
        vec![disk("scsi0", "raw", SIZE)],
        64 * 1024,
    )];
    stage::start(clusters(specs), |settings| {
        settings.filled = 0.5;
        settings.server = Server::OpenSsh("/usr/sbin/sshd".into());
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn packets_between_the_hosts_are_lost_in_the_middle() {
    let test = "network::packets_between_the_hosts_are_lost_in_the_middle";
    if !sshd::is_here(test) || !alone(test, Own::Network) {
        return;
    }
    let stage = one().await;
    let network = Network::lay(&stage);
    let direct = to_banana(&["--bwlimit", "40", "--route", "direct"], &["vm0"]);
    let mut running = launch(&stage, &direct, &[]).patient(MOST);
    await_porter(&stage, &mut running, "receive", Duration::from_secs(1));
    let began = Instant::now();
    between_hosts(false);
    let mut signs = Vec::new();
    while !running.is_over() {
        signs.extend(newest_sign(&stage));
        std::thread::sleep(Duration::from_millis(500));
    }
    let ended = running.wait().expect(5);
    eprintln!("noticed after {:.0} s", began.elapsed().as_secs_f64());
    // Meanwhile it gave signs that it is alive, one a minute; afterwards the move is nobody's.
    signs.dedup();
    let first = signs.first().copied().unwrap_or_default();
    let after: Vec<i64> = signs.iter().map(|sign| sign - first).collect();
    eprintln!("signs after {after:?} s");
    let gaps: Vec<i64> = after.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.len() > 1 && gaps.iter().all(|gap| (55..120).contains(gap)),
        "{after:?}"
    );
    assert_eq!(newest_sign(&stage), None);
    let (error, state, next) = said(&ended);
    assert!(error.contains("scsi0"), "{error}");
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before"),
        "{state}"
    );
    assert!(next.starts_with("run the same command again"), "{next}");
    assert!(runs(&stage, "apple", 600));

    // Still no way between them: whoever asked for the direct route is told so, anybody else is relayed.
    let (error, state, _) = said(&stage::run(&stage, &direct).expect(5));
    assert!(error.contains("no direct way from"), "{error}");
    assert!(
        state.starts_with("vm0 is RUNNING on apple as before"),
        "{state}"
    );
    let relayed = to_banana(&["--bwlimit", "100"], &["vm0"]);
    let mut ended = stage::run(&stage, &relayed);
    // The receiver that heard nothing any more keeps the volume until it has waited long enough itself.
    if ended.code == 5 && ended.stdout.contains("an earlier pass still works on") {
        std::thread::sleep(Duration::from_secs(60));
        ended = stage::run(&stage, &relayed);
    }
    let ended = ended.expect(0);
    let warnings = ended.told("warning");
    assert!(
        warnings
            .iter()
            .any(|event| event.to_string().contains("relaying")),
        "{warnings:?}"
    );
    let target = stage::moved(&stage, ("apple", 600), "banana", "vm0");
    stage::proved(&stage, ("apple", 600), ("banana", target));
    between_hosts(true);
    nothing_left(&stage);
    drop(network);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_target_host_falls_silent_when_the_guest_is_down() {
    let test = "network::the_target_host_falls_silent_when_the_guest_is_down";
    if !sshd::is_here(test) || !alone(test, Own::Network) {
        return;
    }
    let stage = one().await;
    let network = Network::lay(&stage);
    let cut = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&cut);
    stage.simulation.faults().add(Fault {
        cluster: Some("apple".to_owned()),
        ..Fault::first(
            "PUT",
            "/nodes/*/qemu/*/config",
            FaultKind::Before(Arc::new(move || {
                target_host(false);
                done.store(true, Ordering::Relaxed);
            })),
        )
    });
    let words = to_banana(&["--route", "relay"], &["vm0"]);
    let began = Instant::now();
    let ended = launch(&stage, &words, &[]).patient(MOST).wait().expect(6);
    assert!(cut.load(Ordering::Relaxed));
    eprintln!("ended after {:.0} s", began.elapsed().as_secs_f64());
    let (error, state, next) = said(&ended);
    assert!(error.contains("10.77.0.3"), "{error}");
    assert_eq!(
        state,
        "vm0 is STOPPED on apple as vm0--CLONING; no data is lost"
    );
    assert!(
        next.contains("run the same command again to resume"),
        "{next}"
    );
    // The same command meanwhile says that the host is away, and that the guest is down.
    let began = Instant::now();
    let away = launch(&stage, &words, &[]).patient(MOST).wait();
    eprintln!(
        "{} after {:.0} s: {}",
        away.code,
        began.elapsed().as_secs_f64(),
        away.stdout
    );
    assert!([4, 6].contains(&away.code), "{}", away.code);
    assert!(away.stdout.contains("10.77.0.3"), "{}", away.stdout);
    target_host(true);
    finishes(&stage, &words, 600);
    nothing_left(&stage);
    drop(network);
}
