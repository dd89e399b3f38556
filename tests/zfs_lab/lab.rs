//! The two hosts of the lab, and volumes on them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxmove::config::SshAddress;
use proxmove::host::command::Command;
use proxmove::host::ssh::{SshEnvironment, SshOptions};
use proxmove::host::{Output, Shell};
use proxmove::moves::hosts::Hosts;
use proxmove::report::Operator;
use proxmove::transfer::zfs::ZfsEngine;
use proxmove::transfer::{End, EngineKind, Format, Pair, Route, StreamFlags, Tool, Zvol};
use proxmove::units::Bytes;

use crate::not_run::not_run;

pub(crate) const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(180);

struct Nobody;

impl Operator for Nobody {
    fn confirm(&self, _question: &str) -> Option<bool> {
        None
    }
}

pub(crate) struct Lab {
    _home: tempfile::TempDir,
    hosts: Arc<Hosts>,
    pub(crate) a: Arc<dyn Shell>,
    pub(crate) b: Arc<dyn Shell>,
    addresses: [SshAddress; 2],
}

/// Reads `NAME=value` lines; the values of the lab need no unquoting.
fn read(path: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

impl Lab {
    /// Connects to both hosts; `None`, noted, where there is no lab.
    pub(crate) async fn open(what: &str) -> Option<Lab> {
        let Ok(path) = std::env::var("PROXMOVE_LAB_ENV") else {
            not_run(format!("the storage lab: {what}"), "it is not up");
            return None;
        };
        let known = read(&path);
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        std::fs::create_dir(&ssh).unwrap();
        std::fs::copy(&known["LAB_KEY"], ssh.join("id_ed25519")).unwrap();
        std::fs::copy(&known["LAB_KNOWN_HOSTS"], ssh.join("known_hosts")).unwrap();
        let hosts = Arc::new(Hosts::new(SshOptions {
            ciphers: None,
            operator: Arc::new(Nobody),
            environment: SshEnvironment::below(home.path(), "root"),
        }));
        let address = |port: &str| SshAddress {
            user: Some("root".to_owned()),
            host: "127.0.0.1".to_owned(),
            port: Some(known[port].parse().unwrap()),
        };
        let peer = |name: &str| SshAddress {
            user: Some("root".to_owned()),
            host: known[name].clone(),
            port: Some(22),
        };
        let a = hosts.shell(&address("LAB_A_PORT")).unwrap();
        let b = hosts.shell(&address("LAB_B_PORT")).unwrap();
        a.verified().await.unwrap();
        b.verified().await.unwrap();
        let lab = Lab {
            _home: home,
            hosts,
            a,
            b,
            addresses: [peer("LAB_A_ADDRESS"), peer("LAB_B_ADDRESS")],
        };
        // What tests left that failed.
        lab.a("rm -rf /var/tmp/proxmove-*").await;
        lab.b("rm -rf /var/tmp/proxmove-*").await;
        Some(lab)
    }

    pub(crate) fn engine(&self) -> ZfsEngine {
        let porter = std::env::var_os("PROXMOVE_LAB_PORTER");
        let porter = porter.map_or_else(|| env!("CARGO_BIN_EXE_proxmove").into(), PathBuf::from);
        ZfsEngine::new(porter).with_direct(self.hosts.grant())
    }

    /// A pair of this move from node A to node B; what an earlier run left of it is removed.
    pub(crate) async fn pair(&self, of: &str, drive: &str, size: u64) -> Pair {
        let (source, target) = of.split_once('-').unwrap();
        let end = |shell: &Arc<dyn Shell>, peer: &SshAddress, guest: &str| {
            let dataset = format!("tank/vm-{guest}-{of}-{drive}");
            End {
                shell: Arc::clone(shell),
                peer: peer.clone(),
                path: format!("/dev/zvol/{dataset}"),
                zvol: Some(Zvol {
                    dataset,
                    sparse: true,
                    block_size: None,
                }),
                format: Format::Raw,
                temp: "/var/tmp".to_owned(),
            }
        };
        let pair = Pair {
            drive: drive.parse().unwrap(),
            engine: EngineKind::Zfs,
            stream: StreamFlags {
                compressed: true,
                large_blocks: true,
                embedded: true,
                raw: false,
            },
            source: end(&self.a, &self.addresses[0], source),
            target: end(&self.b, &self.addresses[1], target),
            size: Bytes(size),
            name: format!("{of}-{drive}"),
            route: Route::Relay,
            tool: Tool::Porter,
            limit: None,
            adopt: false,
            snapshots: Vec::new(),
            kept: false,
            forget: false,
        };
        self.remove(std::slice::from_ref(&pair)).await;
        pair
    }

    /// Has a pair use this lab's connections.
    pub(crate) fn at(&self, pair: &mut Pair) {
        pair.source.shell = Arc::clone(&self.a);
        pair.target.shell = Arc::clone(&self.b);
    }

    /// The same volumes, the other way round.
    pub(crate) fn turned(&self, pair: &Pair, of: &str) -> Pair {
        Pair {
            source: pair.target.clone(),
            target: pair.source.clone(),
            name: format!("{of}-{}", pair.drive),
            ..pair.clone()
        }
    }

    pub(crate) fn source(&self, pair: &Pair) -> String {
        pair.source.zvol.as_ref().unwrap().dataset.clone()
    }

    pub(crate) fn target(&self, pair: &Pair) -> String {
        pair.target.zvol.as_ref().unwrap().dataset.clone()
    }

    /// Runs a script on node A, which has to succeed.
    pub(crate) async fn a(&self, script: &str) -> String {
        succeed(script, run(&self.a, script).await)
    }

    /// Runs a script on node B, which has to succeed.
    pub(crate) async fn b(&self, script: &str) -> String {
        succeed(script, run(&self.b, script).await)
    }

    pub(crate) async fn create(&self, pair: &Pair, size: u64, how: &str) {
        let dataset = self.source(pair);
        self.a(&format!(
            "zfs create -V {size} {how} {dataset} && udevadm settle"
        ))
        .await;
    }

    /// Writes random bytes into the source, `at` and `count` in MiB.
    pub(crate) async fn fill(&self, pair: &Pair, at: u64, count: u64) {
        let path = &pair.source.path;
        self.a(&format!("{WRITE} of={path} seek={at} count={count}"))
            .await;
    }

    pub(crate) async fn dirty_target(&self, pair: &Pair, at: u64, count: u64) {
        let path = &pair.target.path;
        self.b(&format!(
            "udevadm settle; {WRITE} of={path} seek={at} count={count}"
        ))
        .await;
    }

    pub(crate) async fn hash_source(&self, pair: &Pair) -> String {
        self.a(&format!("udevadm settle; sha256sum < {}", pair.source.path))
            .await
    }

    pub(crate) async fn hash_target(&self, pair: &Pair) -> String {
        self.b(&format!("udevadm settle; sha256sum < {}", pair.target.path))
            .await
    }

    /// Nothing of ours lies on either host.
    pub(crate) async fn no_files(&self, pair: &Pair) {
        let list = format!("ls -A {} | grep proxmove; true", pair.source.temp);
        assert_eq!(self.a(&list).await, "");
        assert_eq!(self.b(&list).await, "");
    }

    pub(crate) async fn remove(&self, pairs: &[Pair]) {
        for pair in pairs {
            self.a(&remove(&self.source(pair))).await;
            self.b(&remove(&self.target(pair))).await;
        }
    }
}

const WRITE: &str = "dd if=/dev/urandom bs=1M conv=notrunc,fsync status=none";

fn remove(dataset: &str) -> String {
    format!(
        "for try in 1 2 3 4 5; do
           zfs list -H -o name {dataset} >/dev/null 2>&1 || exit 0
           zfs receive -A {dataset} 2>/dev/null
           for snapshot in $(zfs list -H -t snapshot -o name -d 1 {dataset} 2>/dev/null); do
             for tag in $(zfs holds -H $snapshot | cut -f 2); do zfs release $tag $snapshot; done
           done
           zfs destroy -r {dataset} && exit 0; sleep 1
         done 2>/dev/null; ! zfs list -H -o name {dataset} >/dev/null 2>&1"
    )
}

/// Cuts the power of node A or B, and waits until it has booted again.
pub(crate) async fn reboot(letter: char) {
    let up = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/up");
    let rebooted = tokio::process::Command::new(up)
        .args(["--reboot", &letter.to_string()])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&rebooted.stderr);
    assert!(rebooted.status.success(), "node-{letter}: {said}");
}

pub(crate) async fn run(shell: &Arc<dyn Shell>, script: &str) -> Output {
    let command = Command::new("sh").arg("-c").arg(script);
    shell.run(&command, b"", PATIENCE).await.unwrap()
}

fn succeed(script: &str, output: Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.exit,
        proxmove::host::Exit::Code(0),
        "{script}: {words}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
