//! Every option, shown by what the real program does with it against the simulation.
//!
//! `tests/cli.rs` shows how options are understood; here is what comes of them. Read next: `support/world.rs`.
#![allow(clippy::unwrap_used)]

#[path = "support/not_run.rs"]
mod not_run;
#[path = "support/world.rs"]
mod world;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxmove::sim::host::Server;
use proxmove::sim::world::faults::{Fault, FaultKind};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use world::{CLASSIC, Case, Run, World, listing, scenarios};

/// A world with a running guest that writes to one disk.
const RUNNING: &str = r#"{"guest": {
    "running": true, "write_rate": 262144,
    "disks": [{"key": "virtio0", "format": "raw", "size": 16777216}]
}}"#;

/// The same with two disks, and another bridge and storage on the target node.
const TWO_DISKS: &str = r#"{"guest": {
    "running": true, "write_rate": 262144,
    "disks": [
        {"key": "virtio0", "format": "raw", "size": 8388608},
        {"key": "scsi1", "format": "raw", "size": 8388608}
    ]},
    "target": {"nodes": [{"name": "node1"}, {"name": "node2", "bridges": ["vmbr0", "vmbr7"]}]}
}"#;

async fn world(case: &str) -> World {
    let case: Case = serde_json::from_str(case).unwrap();
    case.start(Server::Embedded).await
}

/// Reads the events of a run.
fn events(stdout: &str) -> Vec<Value> {
    let lines = stdout.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    let named = events.iter().filter(|event| event["event"] == name);
    named.collect()
}

/// Moves the guest with these options and expects that exit code.
async fn moved(world: &World, options: &str, code: i32) -> Vec<Value> {
    let run = world.run(&format!("--json {options} {CLASSIC}")).await;
    assert_eq!(run.code, Some(code), "{options}: {run:?}");
    events(&run.stdout)
}

/// Returns the plan as JSON.
async fn plan(world: &World, options: &str) -> Value {
    let run = world.run(&format!("-n --json {options} {CLASSIC}")).await;
    assert_eq!(run.code, Some(0), "{options}: {run:?}");
    serde_json::from_str(&run.stdout).unwrap()
}

/// Proves that the moved guest has all its records.
fn is_whole(world: &World) {
    let vmid = world.stage.vmid("banana", "web1").unwrap();
    let verdict = world.stage.check(("apple", 565), ("banana", vmid)).unwrap();
    assert!(verdict.is_complete(), "{verdict:?}");
}

fn images(world: &World, storage: &str, vmid: u32) -> PathBuf {
    let clusters = &world.stage.simulation.directory;
    clusters.join(format!("banana/node2/{storage}/images/{vmid}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn config_names_another_file() {
    let world = world("{}").await;
    let other = world.stage.home.join("elsewhere.rc");
    std::fs::rename(world.stage.proxmoverc(), &other).unwrap();
    let run = world.run(&format!("-n {CLASSIC}")).await;
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("/.proxmoverc"), "{run:?}");
    for option in ["-c elsewhere.rc", "-celsewhere.rc", "--config=elsewhere.rc"] {
        let run = world.run(&format!("-n {option} {CLASSIC}")).await;
        assert_eq!(run.code, Some(0), "{option}: {run:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dry_run_plans_and_writes_nothing_wherever_it_stands() {
    let world = world(RUNNING).await;
    world.stage.simulation.faults().forget();
    let expect = world.run(&format!("-n --target-vmid 300 {CLASSIC}")).await;
    assert_eq!(expect.code, Some(0), "{expect:?}");
    assert!(
        expect.stdout.contains("-> banana/300 on node2"),
        "{expect:?}"
    );
    for line in [
        "--dry-run apple --target-vmid 300 banana node2 local-ssd web1",
        "apple banana node2 local-ssd web1 --target-vmid=300 -n",
        "move apple banana -n node2 local-ssd --target-vmid 300 web1",
    ] {
        let run = world.run(line).await;
        // How much is occupied may change while the guest writes.
        let drives = |run: &Run| {
            run.stdout
                .lines()
                .filter(|line| !line.contains("MiB"))
                .count()
        };
        assert_eq!(
            (run.code, drives(&run)),
            (Some(0), drives(&expect)),
            "{line}"
        );
        assert!(
            run.stdout.contains("-> banana/300 on node2"),
            "{line}: {run:?}"
        );
    }
    assert_eq!(world.writes(), Vec::<String>::new());
    assert!(!images(&world, "srv/local-ssd", 300).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bwlimit_slows_the_copy_and_the_plan_knows() {
    let world = world(RUNNING).await;
    let (slow, fast) = (plan(&world, "--bwlimit 8").await, plan(&world, "").await);
    let seconds = |plan: &Value| plan["guests"][0]["copy-seconds"].as_u64().unwrap();
    assert!(seconds(&slow) > seconds(&fast), "{slow:#} {fast:#}");
    let events = moved(&world, "--bwlimit 8", 0).await;
    let passes = named(&events, "pass-done");
    let first = passes.first().unwrap();
    let (wire, seconds) = (
        first["wire"].as_f64().unwrap(),
        first["seconds"].as_f64().unwrap(),
    );
    // Half of the disk is filled with what zstd cannot make smaller.
    assert!(wire > 4e6, "{first}");
    // 8 Mbit/s are 1 MB/s. A megabyte may be on its way at the start.
    assert!(seconds >= (wire - 1e6) / 1e6, "{first}");
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_verify_ssl_accepts_any_certificate() {
    let case = Case::read(&scenarios().join("refusals/self-signed.json"));
    let world = case.start(Server::Embedded).await;
    let run = world.run(CLASSIC).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("fingerprint="), "{run:?}");
    moved(&world, "--no-verify-ssl", 0).await;
    assert!(world.config("banana", "web1").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn skip_disks_makes_a_guest_without_copying() {
    let world = world(RUNNING).await;
    let events = moved(&world, "--skip-disks --target-vmid 300", 0).await;
    assert!(named(&events, "pass-done").is_empty());
    assert_eq!(named(&events, "move-done")[0]["wire"], 0);
    let config = world.config("banana", "web1").unwrap();
    assert!(!config.contains_key("virtio0"), "{config:?}");
    assert_eq!(config["cores"], "2");
    assert_eq!(world.runs("banana", 300), Some(false), "it is not started");
    assert_eq!(world.runs("apple", 565), Some(false));
    assert!(!images(&world, "srv/local-ssd", 300).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn skip_start_leaves_the_new_guest_stopped() {
    let world = world(RUNNING).await;
    let events = moved(&world, "--skip-start --target-vmid 300", 0).await;
    assert_eq!(
        named(&events, "move-done")[0]["downtime_seconds"],
        Value::Null
    );
    assert_eq!(world.runs("banana", 300), Some(false));
    assert_eq!(world.runs("apple", 565), Some(false));
    let config = world.config("banana", "web1").unwrap();
    assert!(
        config.contains_key("virtio0"),
        "its disk is attached: {config:?}"
    );
    let disk = "images/565/vm-565-disk-0.raw";
    let clusters = &world.stage.simulation.directory;
    let source = std::fs::read(clusters.join("apple/node1/var/lib/vz").join(disk)).unwrap();
    let target = images(&world, "srv/local-ssd", 300).join("vm-300-disk-0.raw");
    assert!(source == std::fs::read(target).unwrap(), "the disks differ");
}

/// A move on a pseudo terminal, which `script` makes: what it says comes on `stdout`, events go to a file.
struct Terminal {
    child: tokio::process::Child,
    events: PathBuf,
}

impl Terminal {
    fn start(world: &World, options: &str) -> Terminal {
        let events = world.root.join("events");
        let command = format!(
            "'{}' --json {options} {CLASSIC} >'{}'",
            env!("CARGO_BIN_EXE_proxmove"),
            events.display()
        );
        let child = tokio::process::Command::new("script")
            .args(["-q", "-e", "-f", "-c", &command, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &world.stage.home)
            .env("SHELL", "/bin/sh")
            .current_dir(&world.stage.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Terminal { child, events }
    }

    /// Waits for words on the terminal; returns all that was shown.
    async fn wait_for(&mut self, words: &str) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut shown = Vec::new();
        let reading = async {
            let out = self.child.stdout.as_mut().unwrap();
            let mut buffer = [0; 4096];
            loop {
                let text = String::from_utf8_lossy(&shown);
                if text.contains(words) {
                    return text.into_owned();
                }
                let read = out.read(&mut buffer).await.unwrap();
                assert!(read > 0, "it ended: {text}");
                shown.extend(&buffer[..read]);
            }
        };
        let shown = tokio::time::timeout(world::PATIENCE, reading).await;
        shown.unwrap_or_else(|_| panic!("no '{words}'"))
    }

    /// Returns the passes that are done so far.
    fn passes(&self) -> usize {
        let text = std::fs::read_to_string(&self.events).unwrap();
        text.matches(r#""event":"pass-done""#).count()
    }

    /// Types a line, and returns the exit code.
    async fn answer(&mut self, line: &str) -> Option<i32> {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(line.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
        let ended = tokio::time::timeout(world::PATIENCE, async {
            // Read to the end, lest it waits for somebody to read.
            let mut out = self.child.stdout.take().unwrap();
            let _ = tokio::io::copy(&mut out, &mut tokio::io::sink()).await;
            self.child.wait().await.unwrap()
        });
        ended.await.unwrap().code()
    }
}

fn has_script() -> bool {
    let there = Path::new("/usr/bin/script").exists();
    if !there {
        not_run::not_run(
            "--wait-before-stop on a terminal",
            "/usr/bin/script is missing",
        );
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wait_before_stop_asks_and_copies_meanwhile() {
    if !has_script() {
        return;
    }
    let world = world(RUNNING).await;
    let mut terminal = Terminal::start(&world, "--wait-before-stop --target-vmid 300");
    let shown = terminal.wait_for("[y/N]").await;
    assert!(shown.contains("web1 is copied"), "{shown}");
    world.has_no_secret(&shown);
    let passes = terminal.passes();
    assert!(passes > 0);
    let begin = Instant::now();
    while terminal.passes() == passes {
        assert!(
            begin.elapsed() < world::PATIENCE,
            "it does not copy meanwhile"
        );
        assert_eq!(world.runs("apple", 565), Some(true));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(terminal.answer("n\n").await, Some(130));
    assert_eq!(world.runs("apple", 565), Some(true), "no is no");
    assert_eq!(world.runs("banana", 300), Some(false));

    let mut terminal = Terminal::start(&world, "--wait-before-stop");
    terminal.wait_for("Continue? [y/N]").await;
    let input = terminal.child.stdin.as_mut().unwrap();
    input.write_all(b"y\n").await.unwrap();
    terminal.wait_for("finish the move? [y/N]").await;
    assert_eq!(terminal.answer("y\n").await, Some(0));
    assert_eq!(world.runs("banana", 300), Some(true));
    assert_eq!(world.runs("apple", 565), Some(false));
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn yes_answers_what_would_be_asked() {
    let world = world(RUNNING).await;
    let run = world.run(&format!("--wait-before-stop {CLASSIC}")).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("--yes"), "{run:?}");
    assert_eq!(world.writes(), Vec::<String>::new());
    moved(&world, "--wait-before-stop --yes", 0).await;
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ssh_ciphers_are_what_the_connection_uses() {
    if !Path::new("/usr/sbin/sshd").exists() {
        not_run::not_run("--ssh-ciphers", "openssh-server is not installed");
        return;
    }
    let case: Case = serde_json::from_str("{}").unwrap();
    let world = case.start(Server::OpenSsh("/usr/sbin/sshd".into())).await;
    for (option, expect) in [
        (
            "",
            "ciphers aes128-gcm@openssh.com to it, aes128-gcm@openssh.com from it",
        ),
        (
            "--ssh-ciphers aes256-ctr",
            "ciphers aes256-ctr to it, aes256-ctr from it",
        ),
        (
            "--ssh-ciphers nonsense,aes192-ctr",
            "ciphers aes192-ctr to it, aes192-ctr from it",
        ),
    ] {
        let run = world.run(&format!("-n --debug {option} {CLASSIC}")).await;
        assert_eq!(run.code, Some(0), "{option}: {run:?}");
        assert_eq!(
            run.stderr.matches(expect).count(),
            2,
            "{option}: {}",
            run.stderr
        );
    }
    let run = world
        .run(&format!("-n --debug --ssh-ciphers - {CLASSIC}"))
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains(" to it, "), "{run:?}");
    let run = world
        .run(&format!("-n --ssh-ciphers nonsense {CLASSIC}"))
        .await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stdout.contains("nonsense"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn debug_adds_lines_for_developers_without_secrets() {
    let world = world(RUNNING).await;
    let quiet = world.run(&format!("-n {CLASSIC}")).await;
    assert!(!quiet.stderr.contains("DEBUG"), "{quiet:?}");
    // `run` itself looks for secrets.
    let run = world.run(&format!("--debug {CLASSIC}")).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    for words in [
        "DEBUG",
        "POST /access/ticket 200",
        "logged in with key",
        "qemu/565/status/shutdown",
    ] {
        assert!(run.stderr.contains(words), "no {words}: {}", run.stderr);
    }
    for never in ["PVEAuthCookie", "CSRFPreventionToken", "PVE:root@pam:"] {
        assert!(!run.stderr.contains(never), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ignore_exists_makes_a_second_guest_of_that_name() {
    let case = Case::read(&scenarios().join("refusals/name-taken.json"));
    let world = case.start(Server::Embedded).await;
    moved(&world, "--ignore-exists --target-vmid 300", 0).await;
    assert_eq!(
        world.runs("banana", 200),
        Some(false),
        "the other is still there"
    );
    assert_eq!(world.runs("banana", 300), Some(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn help_and_version_need_nothing() {
    let world = world("{}").await;
    std::fs::remove_file(world.stage.proxmoverc()).unwrap();
    for line in [
        "-h",
        "--help",
        "move --help",
        "check -h",
        "config show --help",
    ] {
        let run = world.run(line).await;
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (Some(0), ""),
            "{line}: {run:?}"
        );
        assert!(run.stdout.contains("Usage: proxmove"), "{line}: {run:?}");
    }
    let run = world.run("--version").await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(
        run.stdout,
        format!("proxmove {}\n", env!("CARGO_PKG_VERSION"))
    );
    let run = world.run("man").await;
    assert_eq!(run.code, Some(0));
    assert!(run.stdout.contains(".TH PROXMOVE 1"), "{}", run.stdout);
    assert!(
        run.stdout.contains("wait\\-before\\-stop"),
        "{}",
        run.stdout
    );
    for (shell, words) in [
        ("bash", "complete -F _proxmove"),
        ("zsh", "#compdef proxmove"),
        ("fish", "complete -c proxmove"),
    ] {
        let run = world.run(&format!("completions {shell}")).await;
        assert_eq!(run.code, Some(0), "{shell}: {run:?}");
        assert!(run.stdout.contains(words), "{shell}: {}", run.stdout);
        assert!(run.stdout.contains("max-downtime"), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mappings_choose_vmid_bridge_and_storage() {
    let world = world(TWO_DISKS).await;
    let options = "--target-vmid 4711 --map-bridge vmbr0=vmbr7 --map-storage scsi1=local";
    moved(&world, options, 0).await;
    assert_eq!(world.stage.vmid("banana", "web1"), Some(4711));
    let config = world.config("banana", "web1").unwrap();
    assert!(config["net0"].contains("bridge=vmbr7"), "{config:?}");
    assert!(config["net0"].contains("BC:24:11:00:00:65"), "{config:?}");
    assert!(
        config["virtio0"].starts_with("local-ssd:4711/"),
        "{config:?}"
    );
    assert!(config["scsi1"].starts_with("local:4711/"), "{config:?}");
    assert!(images(&world, "var/lib/vz", 4711).exists());
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn max_downtime_that_cannot_be_held_stops_before_the_shutdown() {
    let world = world(RUNNING).await;
    let events = moved(&world, "--max-downtime 1ms --target-vmid 300", 5).await;
    let failed = named(&events, "move-failed");
    assert_eq!(failed[0]["exit_code"], 5, "{failed:?}");
    assert!(
        failed[0].to_string().contains("--max-downtime"),
        "{failed:?}"
    );
    assert_eq!(world.runs("apple", 565), Some(true));
    let writes = world.writes();
    assert!(
        !writes.iter().any(|write| write.contains("shutdown")),
        "{writes:?}"
    );
    assert!(
        !writes.iter().any(|write| write.starts_with("apple")),
        "{writes:?}"
    );
    // The same command with more patience goes on from there.
    moved(&world, "--max-downtime 10min", 0).await;
    assert_eq!(world.runs("banana", 300), Some(true));
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stop_timeout_is_how_long_a_guest_may_take() {
    let case = r#"{"guest": {"running": true, "ignores_shutdown": true}}"#;
    let world = world(case).await;
    moved(&world, "--stop-timeout 2s", 0).await;
    assert_eq!(world.runs("apple", 565), Some(false), "it was switched off");
    let requests = world.stage.simulation.faults().writes();
    let stop = requests
        .iter()
        .find(|write| write.path.ends_with("/status/shutdown"));
    let params = &stop.unwrap().params;
    assert_eq!(
        params.get("timeout").map(String::as_str),
        Some("2"),
        "{params:?}"
    );
    assert_eq!(
        params.get("forceStop").map(String::as_str),
        Some("1"),
        "{params:?}"
    );
}

/// A world in which the storage hosts do not reach each other.
async fn split() -> World {
    let edit = serde_json::json!({
        "section": "storage:banana:local-ssd@node2", "find": "temp=", "replace": "peer=127.0.0.1:1\n  temp="
    });
    let mut case: Case = serde_json::from_str(RUNNING).unwrap();
    case.edits.push(serde_json::from_value(edit).unwrap());
    case.start(Server::OpenSsh("/usr/sbin/sshd".into())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn route_relay_works_where_the_hosts_do_not_reach_each_other() {
    if !Path::new("/usr/sbin/sshd").exists() {
        not_run::not_run("--route", "openssh-server is not installed");
        return;
    }
    let world = split().await;
    let route = |plan: &Value| plan["guests"][0]["drives"][0]["route"].clone();
    assert_eq!(route(&plan(&world, "").await), "direct", "it is tried");
    assert_eq!(route(&plan(&world, "--route direct").await), "direct");
    assert_eq!(route(&plan(&world, "--route relay").await), "relay");
    let events = moved(&world, "--route direct", 5).await;
    assert_eq!(named(&events, "move-failed").len(), 1, "{events:?}");
    assert_eq!(world.runs("apple", 565), Some(true));
    let events = moved(&world, "--route relay", 0).await;
    assert!(named(&events, "warning").is_empty(), "{events:?}");
    is_whole(&world);

    let world = split().await;
    let events = moved(&world, "--route auto", 0).await;
    let warnings = named(&events, "warning");
    assert!(warnings[0].to_string().contains("relaying"), "{warnings:?}");
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_says_how_many_drives_are_copied_at_once() {
    for (option, together) in [("--parallel 1", false), ("--parallel 2", true)] {
        let world = world(TWO_DISKS).await;
        // Slow enough for both to be seen at work.
        let events = moved(&world, &format!("{option} --bwlimit 24"), 0).await;
        let first_done = events
            .iter()
            .position(|event| event["event"] == "pass-done");
        let mut drives: Vec<&Value> = events[..first_done.unwrap()]
            .iter()
            .filter(|event| event["event"] == "progress")
            .map(|event| &event["drive"])
            .collect();
        drives.sort_by_key(|drive| drive.to_string());
        drives.dedup();
        assert_eq!(drives.len() == 2, together, "{option}: {drives:?}");
        is_whole(&world);
    }
}

/// Moves a guest whose target disk is damaged behind the program's back, just before the stop; returns whether the
/// target's disk is the source's in the end.
async fn survives_damage(options: &str) -> bool {
    let case = r#"{
        "guest": {"running": true},
        "files": {"apple/node1/var/lib/vz/images/565/vm-565-disk-0.raw": 16777216}
    }"#;
    let world = world(case).await;
    let target = images(&world, "srv/local-ssd", 300).join("vm-300-disk-0.raw");
    let (damaged, path) = (Arc::new(AtomicBool::new(false)), target.clone());
    let done = Arc::clone(&damaged);
    let damage = move || {
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        let written = file.and_then(|file| file.write_all_at(b"damage", 5_000_000));
        done.store(written.is_ok(), Ordering::Relaxed);
    };
    world.stage.simulation.faults().add(Fault::first(
        "POST",
        "/nodes/node1/qemu/565/status/shutdown",
        FaultKind::Before(Arc::new(damage)),
    ));
    moved(&world, &format!("--target-vmid 300 {options}"), 0).await;
    assert!(damaged.load(Ordering::Relaxed), "the disk was not there");
    let clusters = &world.stage.simulation.directory;
    let source = clusters.join("apple/node1/var/lib/vz/images/565/vm-565-disk-0.raw");
    std::fs::read(source).unwrap() == std::fs::read(target).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn verify_full_reads_back_and_transfer_trusts_the_disk() {
    assert!(survives_damage("").await, "full is the default");
    assert!(survives_damage("--verify full").await);
    assert!(!survives_damage("--verify transfer").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn check_tells_what_is_in_order_and_what_is_not() {
    let place = "apple banana node2 local-ssd";
    let here = world("{}").await;
    let before = listing(&here.root);
    let run = here.run(&format!("check {place}")).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    for words in [
        "apple\n  ok    reached, logged in as root@pam\n",
        "node node2 is online",
        "its clock agrees",
        "the porter can run there",
        " 0 failures\n",
    ] {
        assert!(run.stdout.contains(words), "no {words}: {}", run.stdout);
    }
    let run = here.run(&format!("check --json {place} web1")).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let documents: Vec<Value> = serde_json::Deserializer::from_str(&run.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(documents[0][0]["level"], "ok");
    assert_eq!(documents[1]["guests"][0]["name"], "web1");
    here.is_untouched(&before, "check");

    let mut case = Case::read(&scenarios().join("refusals/missing-right-source.json"));
    case.target = serde_json::json!({"clock_skew": 600});
    let here = case.start(Server::Embedded).await;
    let run = here.run(&format!("check {place}")).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    for words in [
        "FAIL  missing: VM.Config.Options on /vms",
        "-> pveum acl modify /vms ",
        "mover@pve",
        "s ahead of this machine's\n        -> synchronise",
    ] {
        assert!(run.stdout.contains(words), "no {words}: {}", run.stdout);
    }
    let run = here.run(&format!("check --json {place}")).await;
    let findings: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let failed = |subject: &str| {
        let mut all = findings.iter();
        all.any(|finding| finding["subject"] == subject && finding["level"] == "fail")
    };
    assert!(failed("apple") && failed("banana"), "{}", run.stdout);

    for (skew, level) in [(-60, "warn"), (-600, "FAIL")] {
        let case = format!(r#"{{"source": {{"clock_skew": {skew}}}}}"#);
        let here = world(&case).await;
        let run = here.run(&format!("check {place}")).await;
        let line = run
            .stdout
            .lines()
            .find(|line| line.contains("behind this machine's"));
        assert!(
            line.unwrap_or_default().starts_with(&format!("  {level}")),
            "{run:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn config_show_derives_what_the_file_leaves_out() {
    let world = world("{}").await;
    let text = std::fs::read_to_string(world.stage.proxmoverc()).unwrap();
    // Everything but the clusters, and one storage of the source.
    let section = text.find("  [storage:banana").unwrap();
    let end = text[section..]
        .find("\n\n[")
        .map_or(text.len(), |end| section + end);
    let text = format!("{}{}", &text[..section], &text[end..]);
    assert!(!text.contains("[storage:banana"), "{text}");
    std::fs::write(world.stage.proxmoverc(), text).unwrap();
    let run = world.run("config show").await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let shown = world.plain(&run.stdout);
    for words in [
        "[pve:apple] ; from {stage}/home/.proxmoverc\napi=https://root@pam:***@",
        "[storage:apple:local@node1] ; from {stage}/home/.proxmoverc\n",
        "[storage:banana:local-ssd@node2] ; from ",
        "srv/local-ssd/images\n  temp=",
    ] {
        assert!(shown.contains(words), "no {words}: {shown}");
    }
    let run = world.run("config show --json").await;
    let shown: Value = serde_json::from_str(&run.stdout).unwrap();
    let storages = shown["storages"].as_array().unwrap();
    let of = |cluster: &str| storages.iter().find(|at| at["cluster"] == cluster).unwrap();
    assert_eq!(of("apple")["derived"], false, "{shown:#}");
    assert_eq!(of("banana")["derived"], true, "{shown:#}");
}
