//! The real program against a stage of simulated clusters: run, watched, killed, and judged by what is there afterwards.
//!
//! A test file takes it in with `#[path = "support/stage.rs"] mod stage;`. Calls block, so the tests need a tokio
//! runtime of several threads. It ends only processes it started or that work in the stage's own directory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proxmove::sim::host::Server;
use proxmove::sim::stage::{Stage, StageSettings};
use proxmove::sim::world::scenario::{
    ClusterSpec, DiskSpec, GuestSpec, NodeSpec, Pace, Scenario, StorageSpec, UserSpec,
};
use serde_json::Value;

/// Longer than any run of the program here takes; what is not ready by then hangs.
const PATIENCE: Duration = Duration::from_secs(240);

pub const MIB: u64 = 1 << 20;

/// Returns a disk of a guest.
pub fn disk(key: &str, format: &str, size: u64) -> DiskSpec {
    DiskSpec {
        key: key.to_owned(),
        format: format.to_owned(),
        size,
        ..DiskSpec::default()
    }
}

/// Returns a running guest with a configuration that has something of everything.
pub fn guest(vmid: u32, name: &str, disks: Vec<DiskSpec>, write_rate: u64) -> GuestSpec {
    let mac = format!("BC:24:11:00:{:02X}:{:02X}", vmid >> 8 & 0xff, vmid & 0xff);
    let first = disks.first().map_or("virtio0", |disk| &disk.key).to_owned();
    let config = [
        ("cores", "2".to_owned()),
        ("memory", "2048".to_owned()),
        ("ostype", "l26".to_owned()),
        ("scsihw", "virtio-scsi-single".to_owned()),
        ("net0", format!("virtio={mac},bridge=vmbr0")),
        ("ide2", "none,media=cdrom".to_owned()),
        ("boot", format!("order={first};ide2")),
        ("onboot", "1".to_owned()),
        ("tags", "prod;web".to_owned()),
        ("description", format!("the notes of {name}\nin two lines")),
    ];
    GuestSpec {
        vmid,
        name: name.to_owned(),
        config: config
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        running: true,
        disks,
        write_rate,
        ..GuestSpec::default()
    }
}

/// The password of the operator on both clusters, which nothing may ever show.
pub const SECRET: &str = "Kx7-not-to-be-seen-Qv2";

/// Returns `apple` with these guests, and an empty `banana` with two nodes and the storage `local-ssd`.
pub fn clusters(guests: Vec<GuestSpec>) -> Vec<ClusterSpec> {
    let node = |name: &str| NodeSpec {
        name: name.to_owned(),
        ..NodeSpec::default()
    };
    let users = vec![UserSpec {
        id: "root@pam".to_owned(),
        password: SECRET.to_owned(),
        ..UserSpec::default()
    }];
    let local_ssd = StorageSpec {
        id: "local-ssd".to_owned(),
        path: "/srv/local-ssd".to_owned(),
        content: "images".to_owned(),
        ..StorageSpec::default()
    };
    let apple = ClusterSpec {
        alias: "apple".to_owned(),
        nodes: vec![node("node1"), node("node2")],
        storages: vec![StorageSpec::default(), local_ssd.clone()],
        users: users.clone(),
        guests,
        ..ClusterSpec::default()
    };
    let banana = ClusterSpec {
        alias: "banana".to_owned(),
        version: "9.1.2".to_owned(),
        nodes: vec![node("node1"), node("node2")],
        storages: vec![StorageSpec::default(), local_ssd],
        users,
        ..ClusterSpec::default()
    };
    vec![apple, banana]
}

/// Starts a stage with quick tasks.
pub async fn start(clusters: Vec<ClusterSpec>, change: impl FnOnce(&mut StageSettings)) -> Stage {
    let mut settings = StageSettings {
        scenario: Scenario {
            clusters,
            pace: Pace::quick(),
        },
        server: Server::Embedded,
        seed: 1,
        hot_bytes: None,
        filled: 0.1,
    };
    change(&mut settings);
    Stage::start(settings).await.unwrap()
}

/// Returns the program, without its debugging information where `strip` is there: it is uploaded to every host.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_proxmove"));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let modified = fs::metadata(&built).unwrap().modified().unwrap();
        let age = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        let slim = directory.join(format!("slim-{}", age.as_nanos()));
        if slim.exists() {
            return slim;
        }
        for old in fs::read_dir(directory).unwrap().flatten() {
            if old.file_name().to_string_lossy().starts_with("slim-") {
                let _ = fs::remove_file(old.path());
            }
        }
        let draft = directory.join(format!("slim-draft-{}", std::process::id()));
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(&draft)
            .arg(&built)
            .status();
        if stripped.is_ok_and(|status| status.success()) {
            fs::rename(&draft, &slim).unwrap();
            slim
        } else {
            built
        }
    })
}

/// Returns the words of a move of these guests of `apple` to the storage `local-ssd` of `banana`.
pub fn to_banana<'a>(options: &[&'a str], guests: &[&'a str]) -> Vec<&'a str> {
    let place = ["apple", "banana", "node2", "local-ssd"];
    [&["--json", "--yes"], options, &place, guests].concat()
}

/// A started program.
pub struct Running {
    child: Child,
    output: Option<JoinHandle<String>>,
    errors: Option<JoinHandle<String>>,
    command: String,
    began: Instant,
    patience: Duration,
}

/// A program that has ended.
pub struct Ended {
    /// Its exit code; -9 for one that was killed.
    pub code: i32,
    /// What it printed, and what it said.
    pub stdout: String,
    pub stderr: String,
    pub command: String,
    pub duration: Duration,
}

/// Starts the program at home on a stage.
pub fn launch(stage: &Stage, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
    launch_at(&stage.home, arguments, environment)
}

/// Starts the program at an operator's home.
pub fn launch_at(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let gather = |mut stream: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let output = gather(Box::new(child.stdout.take().unwrap()));
    let errors = gather(Box::new(child.stderr.take().unwrap()));
    Running {
        child,
        output: Some(output),
        errors: Some(errors),
        command: format!("proxmove {}", arguments.join(" ")),
        began: Instant::now(),
        patience: PATIENCE,
    }
}

/// Runs the program to its end.
pub fn run(stage: &Stage, arguments: &[&str]) -> Ended {
    launch(stage, arguments, &[]).wait()
}

impl Running {
    /// Waits longer than usual before it takes the program for hung.
    pub fn patient(mut self, patience: Duration) -> Running {
        self.patience = patience;
        self
    }

    /// Returns its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Says whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it with SIGKILL and returns what it had said.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.wait()
    }

    /// Returns the number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(process) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(process, signal);
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.began.elapsed() > self.patience {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let duration = self.began.elapsed();
        assert!(duration < self.patience, "{} hangs", self.command);
        let ended = Ended {
            code: status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or(0)),
            stdout: self.output.take().unwrap().join().unwrap(),
            stderr: self.errors.take().unwrap().join().unwrap(),
            command: self.command.clone(),
            duration,
        };
        for text in [&ended.stdout, &ended.stderr] {
            assert!(!text.contains(SECRET), "{} shows a secret", ended.command);
        }
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(
            self.code, code,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.stdout, self.stderr
        );
        self
    }

    /// Returns the events; fails the test when standard output has anything that is not a JSON object a line.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| match serde_json::from_str(line) {
                Ok(event @ Value::Object(_)) => event,
                other => panic!("not a JSON object: {line:?} ({other:?})"),
            })
            .collect()
    }

    /// Returns the events of one kind.
    #[track_caller]
    pub fn told(&self, kind: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["event"] == kind);
        events
    }
}

/// Returns a guest's configuration as the cluster holds it.
pub fn config(stage: &Stage, cluster: &str, vmid: u32) -> BTreeMap<String, String> {
    let world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter()
        .find(|known| known.alias == cluster)
        .unwrap();
    cluster.guests[&vmid].config.clone()
}

/// Says whether a guest runs.
pub fn runs(stage: &Stage, cluster: &str, vmid: u32) -> bool {
    let world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter()
        .find(|known| known.alias == cluster)
        .unwrap();
    cluster.guests[&vmid].run.is_some()
}

/// Returns the names of all guests of a cluster.
pub fn names(stage: &Stage, cluster: &str) -> Vec<String> {
    let world = stage.simulation.world();
    let cluster = world
        .clusters
        .iter()
        .find(|known| known.alias == cluster)
        .unwrap();
    cluster.guests.values().map(|guest| guest.name()).collect()
}

/// Fails the test unless a guest was moved: records, the retired source, the running target. Returns the target's VMID.
#[track_caller]
pub fn moved(stage: &Stage, source: (&str, u32), target: &str, name: &str) -> u32 {
    let vmid = stage
        .vmid(target, name)
        .unwrap_or_else(|| panic!("no {name} on {target}: {:?}", names(stage, target)));
    let retired = config(stage, source.0, source.1);
    assert_eq!(retired["name"], format!("{name}--MIGRATED"));
    assert_eq!(retired["onboot"], "0");
    assert!(
        retired["description"].contains("proxmove: moved to "),
        "{}",
        retired["description"]
    );
    assert!(
        !runs(stage, source.0, source.1),
        "the source of {name} runs"
    );
    assert!(runs(stage, target, vmid), "{name} does not run on {target}");
    let kept = config(stage, target, vmid);
    assert!(!kept.contains_key("lock"));
    assert!(
        !kept
            .get("description")
            .is_some_and(|text| text.contains("proxmove:")),
        "{kept:?}"
    );
    vmid
}

/// Has a guest go on writing where it is now, and waits until it has written some records.
pub fn write_on(stage: &Stage, from: (&str, u32), at: (&str, u32), rate: u64) {
    // Where it was, it must not begin to write when it comes back: it would go on from its old ledger.
    stage.go_on(at, from, 0).unwrap();
    stage.go_on(from, at, rate).unwrap();
    let began = Instant::now();
    while stage.completed(at.0, at.1) < 40 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not write"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Proves the records of a moved guest that wrote; returns how many there were.
#[track_caller]
pub fn proved(stage: &Stage, source: (&str, u32), target: (&str, u32)) -> u64 {
    let verdict = stage.check(source, target).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
    assert_eq!((verdict.torn, verdict.stale, verdict.foreign), (0, 0, 0));
    verdict.expected
}

/// Returns the processes whose arguments name the stage's directory: porters and whatever they started.
pub fn processes(stage: &Stage) -> Vec<(u32, String)> {
    let directory = stage.simulation.directory.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&words).replace('\0', " ");
            line.contains(&directory).then_some((id, line))
        })
        .collect()
}

/// Kills a process that works for the stage.
pub fn kill(process: u32) {
    if let Some(process) = rustix::process::Pid::from_raw(process as i32) {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

/// Returns all files of ours that are left on the hosts.
pub fn left_files(stage: &Stage) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![stage.simulation.directory.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("proxmove-") {
                found.push(entry.path());
            } else if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    found
}

/// Fails the test when a command line on a host, which `ps` would show there, or a guest's notes hold the secret.
#[track_caller]
pub fn no_secret_was_shown(stage: &Stage) {
    for (name, host) in &stage.hosts {
        let lines = host
            .commands()
            .map(|commands| commands.lines())
            .unwrap_or_default();
        assert!(lines.iter().all(|line| !line.contains(SECRET)), "on {name}");
    }
    let world = stage.simulation.world();
    let guests = world
        .clusters
        .iter()
        .flat_map(|cluster| cluster.guests.values());
    for guest in guests {
        assert!(
            guest.config.values().all(|value| !value.contains(SECRET)),
            "guest {}",
            guest.vmid
        );
    }
}

/// Fails the test when a process or file of ours is left on the hosts, or a secret was shown there; processes that are about to end are waited for.
#[track_caller]
pub fn nothing_left(stage: &Stage) {
    no_secret_was_shown(stage);
    let begin = Instant::now();
    while !processes(stage).is_empty() && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(processes(stage), []);
    assert_eq!(left_files(stage), [] as [PathBuf; 0]);
}

/// Returns how many bytes all hosts received for receivers of the pair that begins with `name`.
pub fn received(stage: &Stage, name: &str) -> u64 {
    let named = format!("{name}-");
    let lines = stage.hosts.values().flat_map(|host| host.received());
    lines
        .filter(|(line, _)| {
            let words: Vec<&str> = line
                .split([' ', '\''])
                .filter(|word| !word.is_empty())
                .collect();
            let receives = words.windows(2).any(|pair| pair == ["porter", "receive"]);
            receives
                && words
                    .windows(2)
                    .any(|pair| pair[0] == "--name" && pair[1].starts_with(&named))
        })
        .map(|(_, bytes)| bytes)
        .sum()
}
