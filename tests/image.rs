//! The image engine with real porters, real processes and real images: this machine is both hosts.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxmove::config::SshAddress;
use proxmove::host::local::LocalShell;
use proxmove::transfer::carry::DirectAccess;
use proxmove::transfer::image::ImageEngine;
use proxmove::transfer::{
    End, Engine, EngineKind, Format, News, Pair, Pass, PassReport, Progress, Route, StreamFlags,
    Tool, TransferError, Verify, VolumeState,
};
use proxmove::units::{Bandwidth, Bytes};

#[path = "image/delta.rs"]
mod delta;
#[path = "support/disks.rs"]
mod disks;
#[path = "support/not_run.rs"]
mod not_run;

use disks::{MIB, hash, noise, qemu};

const FINAL: Pass = Pass::Final(Verify::Full);

struct Lab {
    root: tempfile::TempDir,
    engine: ImageEngine,
    pair: Pair,
}

impl Lab {
    fn new(from: Format, to: Format, tool: Tool) -> Lab {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
        let end = |host: &str, path: &str, format| {
            let temp = root.path().join(format!("temp-{host}"));
            fs::create_dir(&temp).expect("creates");
            End {
                shell: Arc::new(LocalShell::new(host)),
                peer: address("127.0.0.1", 22),
                path: root.path().join(path).display().to_string(),
                zvol: None,
                format,
                temp: temp.display().to_string(),
            }
        };
        let pair = Pair {
            drive: "virtio0".parse().expect("a drive"),
            engine: EngineKind::Image,
            stream: StreamFlags::default(),
            source: end("apple1", "source", from),
            target: end("banana1", "126/vm-126-disk-0", to),
            size: Bytes(64 * MIB),
            name: String::from("apple-565-virtio0"),
            route: Route::Relay,
            tool,
            limit: None,
            adopt: false,
            snapshots: Vec::new(),
            kept: false,
            forget: false,
        };
        Lab {
            engine: ImageEngine::new(env!("CARGO_BIN_EXE_proxmove")),
            root,
            pair,
        }
    }

    async fn pass(&self, pass: Pass) -> Result<PassReport, TransferError> {
        self.engine.carry(&self.pair, pass, &|_| {}).await
    }

    async fn done(&self, pass: Pass) -> PassReport {
        self.pass(pass).await.expect("passes")
    }

    async fn state(&self) -> VolumeState {
        self.engine.observe(&self.pair).await.expect("observes")
    }

    fn same(&self) {
        assert_eq!(hash(&self.pair.source.path), hash(&self.pair.target.path));
    }

    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = ["temp-apple1", "temp-banana1"]
            .iter()
            .flat_map(|temp| fs::read_dir(self.root.path().join(temp)).expect("lists"))
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        left.sort();
        left
    }
}

fn address(host: &str, port: u16) -> SshAddress {
    SshAddress {
        user: Some(String::from("root")),
        host: host.to_owned(),
        port: Some(port),
    }
}

fn note(text: &str) {
    writeln!(io::stderr(), "{text}").expect("prints");
}

async fn whole_move(tool: Tool) {
    let lab = Lab::new(Format::Raw, Format::Raw, tool);
    let source = lab.pair.source.path.clone();
    noise(&source, 0, 20 * MIB, 1);
    noise(&source, 150 * MIB + 5, 3 * MIB, 2);
    assert_eq!(lab.state().await, VolumeState::Absent);
    assert!(lab.left().is_empty(), "looking changes nothing");
    lab.engine
        .prepare(std::slice::from_ref(&lab.pair))
        .await
        .expect("prepares");
    lab.engine
        .prepare(std::slice::from_ref(&lab.pair))
        .await
        .expect("prepares again");
    assert_eq!(lab.state().await, VolumeState::Absent);

    let seen = Mutex::new(Vec::new());
    let tell = |news: News| {
        if let News::Progress(progress) = news {
            seen.lock().expect("lock").push(progress);
        }
    };
    let first = lab
        .engine
        .carry(&lab.pair, Pass::Precopy, &tell)
        .await
        .expect("passes");
    assert_eq!(first.digest, None);
    assert_eq!(first.progress.scanned, first.progress.total);
    lab.same();
    let VolumeState::Partial { in_place } = lab.state().await else {
        panic!("must be partial");
    };
    assert!(in_place >= Bytes(23 * MIB), "{in_place:?}");

    noise(&source, 7 * MIB, MIB, 3);
    let last = lab.done(FINAL).await;
    lab.same();
    let digest = last.digest.expect("a digest");
    assert_eq!(
        lab.state().await,
        VolumeState::Synced {
            digest: digest.clone()
        }
    );
    let again = lab.done(FINAL).await;
    assert_eq!(again.digest.as_ref(), Some(&digest));
    assert_eq!(again.progress.carried, Bytes::ZERO);
    let used = fs::metadata(&lab.pair.target.path)
        .expect("target")
        .blocks()
        * 512;
    assert!(used < 30 * MIB, "sparse: {used}");
    let mode = fs::metadata(&lab.pair.target.path)
        .expect("target")
        .permissions()
        .mode();
    assert_eq!(mode & 0o007, 0, "nobody else reads a guest's disk");

    noise(&source, 1, 1, 4);
    assert_eq!(lab.state().await, VolumeState::SourceNewer);
    lab.done(FINAL).await;
    lab.same();
    noise(&lab.pair.target.path, 1, 1, 5);
    assert_eq!(lab.state().await, VolumeState::TargetNewer);
    lab.done(FINAL).await;
    lab.same();

    lab.engine.tidy(&lab.pair).await.expect("tidies");
    lab.engine.tidy(&lab.pair).await.expect("tidies again");
    assert!(lab.left().is_empty(), "{:?}", lab.left());
    lab.same();
    // Without our files beside it, the copy is the guest's and nobody's to remove.
    assert_eq!(lab.state().await, VolumeState::Foreign);
    assert!(matches!(
        lab.engine.discard(&lab.pair).await,
        Err(TransferError::Foreign { .. })
    ));
    assert!(matches!(
        lab.pass(Pass::Precopy).await,
        Err(TransferError::Foreign { .. })
    ));
    lab.same();
}

#[tokio::test]
async fn a_whole_move_with_porters() {
    whole_move(Tool::Porter).await;
}

#[tokio::test]
async fn a_whole_move_with_stock_tools() {
    whole_move(Tool::Stock).await;
}

async fn discards(tool: Tool) {
    let lab = Lab::new(Format::Raw, Format::Raw, tool);
    noise(&lab.pair.source.path, 0, MIB, 1);
    lab.done(Pass::Precopy).await;
    for _ in 0..2 {
        lab.engine.discard(&lab.pair).await.expect("discards");
        assert!(!Path::new(&lab.pair.target.path).exists());
        assert!(lab.left().is_empty(), "{:?}", lab.left());
    }
    assert!(Path::new(&lab.pair.source.path).exists());
}

#[tokio::test]
async fn a_copy_of_ours_can_be_discarded() {
    discards(Tool::Porter).await;
    discards(Tool::Stock).await;
}

#[tokio::test]
async fn stock_tools_resume_grow_and_find_rot() {
    let lab = Lab::new(Format::Raw, Format::Raw, Tool::Stock);
    let source = lab.pair.source.path.clone();
    noise(&source, 0, 70 * MIB, 1);
    lab.done(Pass::Precopy).await;
    noise(&source, 140 * MIB, MIB + 17, 2);
    let second = lab.done(Pass::Precopy).await;
    assert!(second.progress.carried <= Bytes(141 * MIB), "{second:?}");
    lab.same();
    noise(&lab.pair.target.path, 100, 3, 9);
    let last = lab.done(FINAL).await;
    assert_eq!(last.progress.carried, Bytes(64 * MIB));
    lab.same();
    let mut other = Lab::new(Format::Raw, Format::Qcow2, Tool::Stock);
    noise(&other.pair.source.path, 0, MIB, 1);
    let error = other
        .pass(Pass::Precopy)
        .await
        .expect_err("must be refused");
    assert!(error.to_string().contains("only the porter"), "{error}");
    other.pair.target.format = Format::Raw;
    other.pair.route = Route::Direct;
    assert!(matches!(
        other.pass(Pass::Precopy).await,
        Err(TransferError::DirectRoute { .. })
    ));
}

async fn converts(from: (Format, &str), to: (Format, &str)) {
    let lab = Lab::new(from.0, to.0, Tool::Porter);
    let (source, target) = (lab.pair.source.path.as_str(), lab.pair.target.path.as_str());
    if qemu("qemu-img", &["create", "-f", from.1, source, "200M"]).is_none() {
        return;
    }
    qemu("qemu-io", &["-f", from.1, "-c", "write -P 7 3M 5M", source]);
    lab.done(Pass::Precopy).await;
    qemu(
        "qemu-io",
        &["-f", from.1, "-c", "write -P 8 100M 1M", source],
    );
    let last = lab.done(FINAL).await;
    assert!(last.progress.carried <= Bytes(2 * MIB));
    let compared = qemu(
        "qemu-img",
        &["compare", "-f", from.1, "-F", to.1, source, target],
    );
    assert!(compared.expect("compares").contains("identical"));
    if to.0 == Format::Qcow2 {
        qemu("qemu-img", &["check", target]);
    }
    assert!(matches!(lab.state().await, VolumeState::Synced { .. }));
}

#[tokio::test]
async fn formats_are_changed_on_the_way() {
    converts((Format::Raw, "raw"), (Format::Qcow2, "qcow2")).await;
    converts((Format::Qcow2, "qcow2"), (Format::Raw, "raw")).await;
}

#[tokio::test]
async fn errors_name_the_host_and_the_cause() {
    let lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    let error = lab.pass(Pass::Precopy).await.expect_err("no source");
    let text = error.to_string();
    assert!(
        text.contains("apple1") && text.contains("No such file"),
        "{text}"
    );
    noise(&lab.pair.source.path, 0, MIB, 1);
    fs::create_dir(lab.root.path().join("126")).expect("creates");
    fs::write(&lab.pair.target.path, "precious").expect("writes");
    let error = lab.pass(Pass::Precopy).await.expect_err("foreign");
    assert!(
        matches!(&error, TransferError::Foreign { address, .. } if address == "banana1"),
        "{error}"
    );
    assert_eq!(fs::read(&lab.pair.target.path).expect("reads"), b"precious");
}

#[tokio::test]
async fn a_porter_that_was_removed_is_put_back() {
    let lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    noise(&lab.pair.source.path, 0, MIB, 1);
    lab.done(Pass::Precopy).await;
    for name in lab.left() {
        if name.starts_with("proxmove-porter-") {
            let _ = fs::remove_file(lab.root.path().join("temp-banana1").join(&name));
        }
    }
    lab.done(FINAL).await;
    lab.same();
}

#[tokio::test]
async fn a_damaged_porter_is_replaced_before_it_runs() {
    let lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    noise(&lab.pair.source.path, 0, MIB, 1);
    lab.done(Pass::Precopy).await;
    let temp = lab.root.path().join("temp-banana1");
    let name = lab
        .left()
        .into_iter()
        .find(|name| name.starts_with("proxmove-porter-"))
        .expect("the porter");
    fs::write(temp.join(&name), "#!/bin/sh\necho proxmove porter 2\n").expect("writes");
    // A run of its own, which finds a file by that name.
    let engine = ImageEngine::new(env!("CARGO_BIN_EXE_proxmove"));
    engine
        .carry(&lab.pair, FINAL, &|_| {})
        .await
        .expect("passes");
    assert!(fs::metadata(temp.join(&name)).expect("there").len() > 100_000);
}

/// Returns the processes whose command line has both words; the words hold the test's own directory.
fn processes(first: &str, second: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        if words.iter().any(|word| word == first) && words.iter().any(|word| word == second) {
            found.push(pid);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_porters_resume_and_send_little_twice() {
    let mut lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    let size = 400 * MIB;
    for part in 0..10 {
        noise(&lab.pair.source.path, part * 40 * MIB, 40 * MIB, part);
    }
    lab.pair.limit = Some(Bandwidth::bytes_per_second(120 * MIB));
    let mut random = fastrand::Rng::with_seed(11);
    let mut carried = 0;
    let kills = 4;
    for round in 0..kills {
        let seen = Mutex::new(Progress::default());
        let tell = |news: News| {
            if let News::Progress(progress) = news {
                *seen.lock().expect("lock") = progress;
            }
        };
        let victim = if round % 2 == 0 { "receive" } else { "send" };
        let path = if round % 2 == 0 {
            lab.pair.target.path.clone()
        } else {
            lab.pair.source.path.clone()
        };
        let pause = Duration::from_millis(random.u64(1300..2000));
        let killer = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            for pid in processes(victim, &path) {
                let _ = Command::new("kill").args(["-9", &pid]).status();
            }
        });
        let ended = lab.engine.carry(&lab.pair, Pass::Precopy, &tell).await;
        killer.await.expect("kills");
        carried += seen.lock().expect("lock").carried.0;
        if ended.is_ok() {
            break;
        }
    }
    lab.pair.limit = None;
    carried += lab.done(Pass::Precopy).await.progress.carried.0;
    lab.same();
    let twice = carried.saturating_sub(size);
    note(&format!(
        "sent twice after {kills} kills: {} MiB",
        twice / MIB
    ));
    assert!(twice < kills * 120 * MIB, "{twice}");
    let last = lab.done(FINAL).await;
    assert_eq!(last.progress.carried, Bytes::ZERO);
    assert_eq!(last.repaired, Bytes::ZERO);
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real sshd that accepts one key, and an agent that holds it.
struct Network {
    _sshd: Running,
    _agent: Running,
    port: u16,
    agent_socket: PathBuf,
    host_key: String,
    user_key: String,
}

fn network(root: &Path) -> Option<Network> {
    let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
        .iter()
        .find(|path| Path::new(path).exists());
    let Some(sshd) = sshd else {
        note("not run: the direct route (no sshd)");
        return None;
    };
    let directory = root.join("ssh");
    fs::create_dir(&directory).expect("creates");
    fs::create_dir_all("/run/sshd").ok()?;
    let key = |name: &str| {
        let path = directory.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path)
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        path
    };
    let (host_key, user_key) = (key("host"), key("user"));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let config = directory.join("config");
    fs::write(
        &config,
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nPidFile none\n",
            host_key.display(),
            user_key.with_extension("pub").display()
        ),
    )
    .expect("writes");
    let sshd = Running(
        Command::new(sshd)
            .args(["-D", "-f"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .ok()?,
    );
    let agent_socket = directory.join("agent");
    let agent = Running(
        Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&agent_socket)
            .stdout(Stdio::null())
            .spawn()
            .ok()?,
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while !agent_socket.exists() || std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            Instant::now() < deadline,
            "sshd or ssh-agent does not start"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let added = Command::new("ssh-add")
        .arg("-q")
        .arg(&user_key)
        .env("SSH_AUTH_SOCK", &agent_socket)
        .status();
    assert!(added.is_ok_and(|status| status.success()));
    let public = fs::read_to_string(host_key.with_extension("pub")).expect("reads");
    Some(Network {
        _sshd: sshd,
        _agent: agent,
        port,
        agent_socket,
        host_key: format!("[whatever]:22 {public}"),
        user_key: fs::read_to_string(user_key.with_extension("pub")).expect("reads"),
    })
}

fn ask(agent: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(agent)?;
    stream.write_all(&(request.len() as u32).to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn granted(network: &Network, known_hosts: &str, answers: bool) -> DirectAccess {
    let agent = network.agent_socket.clone();
    DirectAccess {
        address: address("127.0.0.1", network.port),
        known_hosts: known_hosts.to_owned(),
        ciphers: None,
        answerer: Arc::new(move |request: &[u8]| {
            if answers {
                ask(&agent, request).unwrap_or_else(|_| vec![5])
            } else {
                vec![5]
            }
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_direct_route_needs_only_the_operators_agent() {
    let mut lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    let Some(network) = network(lab.root.path()) else {
        return;
    };
    lab.pair.route = Route::Direct;
    noise(&lab.pair.source.path, 0, 20 * MIB, 1);
    let other_key = format!("[whatever]:22 {}", network.user_key);
    for (known_hosts, answers) in [
        (network.host_key.as_str(), false),
        (other_key.as_str(), true),
        ("", true),
    ] {
        let access = granted(&network, known_hosts, answers);
        lab.engine = ImageEngine::new(env!("CARGO_BIN_EXE_proxmove"))
            .with_direct(Arc::new(move |_| Ok(access.clone())));
        let error = lab.pass(Pass::Precopy).await.expect_err("must be refused");
        note(&format!("refused: {error}"));
        assert!(
            matches!(error, TransferError::DirectRoute { .. }),
            "{error}"
        );
        assert!(!Path::new(&lab.pair.target.path).exists());
    }
    let access = granted(&network, &network.host_key, true);
    lab.engine = ImageEngine::new(env!("CARGO_BIN_EXE_proxmove"))
        .with_direct(Arc::new(move |_| Ok(access.clone())));
    let first = lab.done(Pass::Precopy).await;
    assert_eq!(first.progress.carried, Bytes(20 * MIB));
    lab.same();
    let last = lab.done(FINAL).await;
    assert!(last.digest.is_some());
    lab.engine.tidy(&lab.pair).await.expect("tidies");
    assert!(lab.left().is_empty(), "{:?}", lab.left());

    // An error of the receiver is not taken for one of the route.
    let error = lab.pass(Pass::Precopy).await.expect_err("foreign now");
    assert!(
        matches!(&error, TransferError::Foreign { address, .. } if address == "banana1"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_direct_pass_leaves_no_process_behind() {
    let mut lab = Lab::new(Format::Raw, Format::Raw, Tool::Porter);
    let Some(network) = network(lab.root.path()) else {
        return;
    };
    lab.pair.route = Route::Direct;
    lab.pair.limit = Some(Bandwidth::bytes_per_second(5 * MIB));
    noise(&lab.pair.source.path, 0, 40 * MIB, 1);
    let access = granted(&network, &network.host_key, true);
    lab.engine = ImageEngine::new(env!("CARGO_BIN_EXE_proxmove"))
        .with_direct(Arc::new(move |_| Ok(access.clone())));
    // Dropped when much has arrived, however long connecting takes.
    let far = tokio::sync::Notify::new();
    let tell = |news: News| match news {
        News::Progress(progress) if progress.carried > Bytes(15 * MIB) => far.notify_one(),
        News::Progress(_) | News::Decision(_) => {}
    };
    tokio::select! {
        ended = lab.engine.carry(&lab.pair, Pass::Precopy, &tell) => panic!("too early: {ended:?}"),
        () = far.notified() => {}
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let running = || {
        !processes("send", &lab.pair.source.path).is_empty()
            || !processes("receive", &lab.pair.target.path).is_empty()
    };
    while running() {
        assert!(Instant::now() < deadline, "a porter stayed behind");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        lab.left().iter().all(|name| !name.contains("agent")),
        "{:?}",
        lab.left()
    );
    let VolumeState::Partial { in_place } = lab.state().await else {
        panic!("must be partial");
    };
    assert!(
        in_place > Bytes(5 * MIB),
        "what arrived is kept: {in_place:?}"
    );
}
