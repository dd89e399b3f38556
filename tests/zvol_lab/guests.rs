//! The two guests of the storage lab, reached over real SSH, and a pair of volumes between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxmove::config::SshAddress;
use proxmove::host::command::Command;
use proxmove::host::ssh::{SshEnvironment, SshOptions, SshShell};
use proxmove::host::{Exit, Shell};
use proxmove::report::Operator;
use proxmove::transfer::image::ImageEngine;
use proxmove::transfer::{
    End, Engine as _, EngineKind, Format, Pair, Pass, PassReport, Route, StreamFlags, Tool,
    TransferError, VolumeState, Zvol,
};
use proxmove::units::Bytes;

use crate::not_run::not_run;

/// Names the file with the lab's addresses; without it no test here can run.
const LAB: &str = "PROXMOVE_LAB_ENV";
/// The guests are emulated, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const MIB: u64 = 1 << 20;
/// Where the tests' own datasets are, in a pool that only the lab has.
pub(crate) const ROOT: &str = "tank/zvol-lab";
/// Where their files are.
pub(crate) const FILES: &str = "/var/tmp/zvol-lab";

/// The guests share one emulated processor each: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Nobody is there to be asked: the guests' keys are known.
struct Nobody;

impl Operator for Nobody {
    fn confirm(&self, _: &str) -> Option<bool> {
        None
    }
}

/// A guest.
pub(crate) struct Guest(pub(crate) Arc<SshShell>);

impl Guest {
    /// Runs a script that must succeed, and returns what it printed.
    pub(crate) async fn run(&self, script: &str) -> String {
        let command = Command::new("sh").args(["-ec", script]);
        let output = self.0.run(&command, &[], PATIENCE).await.expect("runs");
        assert_eq!(output.exit, Exit::Code(0), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns a property of a dataset.
    pub(crate) async fn get(&self, property: &str, dataset: &str) -> String {
        self.run(&format!("zfs get -Hp -o value {property} {dataset}"))
            .await
    }

    pub(crate) async fn number(&self, property: &str, dataset: &str) -> u64 {
        let text = self.get(property, dataset).await;
        text.parse().unwrap_or(0)
    }
}

/// Both guests, and a pair that a test fills in.
pub(crate) struct Lab {
    pub(crate) source: Guest,
    pub(crate) target: Guest,
    pub(crate) engine: ImageEngine,
    pub(crate) pair: Pair,
    _home: tempfile::TempDir,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

/// What holds a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Raw,
    Qcow2,
    Zvol,
}

impl Lab {
    /// Connects to both guests and removes what an earlier test left; `None` without a lab, which is noted.
    pub(crate) async fn new(test: &str, from: Kind, to: Kind) -> Option<Lab> {
        let Some(file) = std::env::var_os(LAB) else {
            not_run(
                format!("the storage lab: {test}"),
                format!("{LAB} is not set"),
            );
            return None;
        };
        let alone = ALONE.lock().await;
        let text = std::fs::read_to_string(&file).expect("reads the lab's addresses");
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let home = tempfile::tempdir().expect("temporary directory");
        let own = home.path().join(".ssh");
        std::fs::create_dir(&own).expect("creates");
        for (from, to) in [
            ("LAB_KEY", "id_ed25519"),
            ("LAB_KNOWN_HOSTS", "known_hosts"),
        ] {
            std::fs::copy(values[from], own.join(to)).expect("copies");
        }
        let guest = |port: &str| {
            let address = SshAddress {
                user: Some(String::from("root")),
                host: String::from("127.0.0.1"),
                port: values[port].parse().ok(),
            };
            let options = SshOptions {
                ciphers: None,
                operator: Arc::new(Nobody),
                environment: SshEnvironment::below(home.path(), "root"),
            };
            Guest(Arc::new(
                SshShell::new(&address, options).expect("an address"),
            ))
        };
        let (source, target) = (guest("LAB_A_PORT"), guest("LAB_B_PORT"));
        for guest in [&source, &target] {
            let clean = format!(
                "zfs list {ROOT} >/dev/null 2>&1 && zfs destroy -r {ROOT}; rm -rf {FILES}; mkdir {FILES}; \
                 zfs create -o mountpoint=none {ROOT}"
            );
            guest.run(&clean).await;
        }
        let pair = Pair {
            drive: "scsi0".parse().expect("a drive"),
            engine: EngineKind::Image,
            stream: StreamFlags::default(),
            source: end(&source, from, "vm-565-disk-0"),
            target: end(&target, to, "vm-126-disk-0"),
            size: Bytes(64 * MIB),
            name: String::from("565-126-scsi0"),
            route: Route::Relay,
            tool: Tool::Porter,
            limit: None,
            adopt: false,
            snapshots: Vec::new(),
            kept: false,
            forget: false,
        };
        let engine = ImageEngine::new(env!("CARGO_BIN_EXE_proxmove"));
        let lab = Lab {
            source,
            target,
            engine,
            pair,
            _home: home,
            _alone: alone,
        };
        lab.make_source(from).await;
        Some(lab)
    }

    /// Makes a source of 64 MiB with 20 MiB in it.
    async fn make_source(&self, kind: Kind) {
        let path = &self.pair.source.path;
        match kind {
            Kind::Raw => self.source.run(&format!("truncate -s 64M {path}")).await,
            Kind::Qcow2 => {
                self.source
                    .run(&format!("qemu-img create -q -f qcow2 {path} 64M"))
                    .await
            }
            Kind::Zvol => {
                self.source
                    .run(&format!(
                        "zfs create -s -V 64M {ROOT}/vm-565-disk-0; udevadm settle"
                    ))
                    .await
            }
        };
        self.write(0, 20 * MIB).await;
    }

    /// Writes random bytes to the source as its guest would.
    pub(crate) async fn write(&self, offset: u64, length: u64) {
        let path = &self.pair.source.path;
        let script = match self.pair.source.format {
            Format::Raw => dirty(path, offset, length),
            Format::Qcow2 => format!(
                "head -c {length} /dev/urandom > {FILES}/bytes; \
                 qemu-io -f qcow2 -c 'write -s {FILES}/bytes {offset} {length}' {path}; rm {FILES}/bytes"
            ),
        };
        self.source.run(&script).await;
    }

    /// Writes random bytes to the target, as nobody should.
    pub(crate) async fn spoil(&self, offset: u64, length: u64) {
        let script = dirty(&self.pair.target.path, offset, length);
        self.target.run(&script).await;
    }

    pub(crate) async fn pass(&self, pass: Pass) -> Result<PassReport, TransferError> {
        self.engine.carry(&self.pair, pass, &|_| {}).await
    }

    pub(crate) async fn done(&self, pass: Pass) -> PassReport {
        self.pass(pass).await.expect("passes")
    }

    pub(crate) async fn state(&self) -> VolumeState {
        self.engine.observe(&self.pair).await.expect("observes")
    }

    /// Compares what a guest sees of both sides.
    pub(crate) async fn same(&self) {
        let mut hashes = Vec::new();
        for (guest, end) in [
            (&self.source, &self.pair.source),
            (&self.target, &self.pair.target),
        ] {
            let path = &end.path;
            let script = match end.format {
                Format::Raw => format!("sha256sum < {path}"),
                Format::Qcow2 => format!(
                    "qemu-img check -q {path}; qemu-img convert -O raw {path} {FILES}/plain; \
                     sha256sum < {FILES}/plain; rm {FILES}/plain"
                ),
            };
            hashes.push(guest.run(&script).await);
        }
        assert_eq!(hashes[0], hashes[1]);
    }

    /// Returns how much the target takes.
    pub(crate) async fn used(&self) -> u64 {
        match &self.pair.target.zvol {
            Some(zvol) => {
                self.target.run("zpool sync tank").await;
                self.target.number("referenced", &zvol.dataset).await
            }
            None => {
                let path = &self.pair.target.path;
                let blocks = self.target.run(&format!("sync; stat -c %b {path}")).await;
                blocks.parse::<u64>().expect("a number") * 512
            }
        }
    }
}

fn dirty(path: &str, offset: u64, length: u64) -> String {
    format!(
        "head -c {length} /dev/urandom | dd of={path} bs=64k iflag=fullblock oflag=seek_bytes seek={offset} \
         conv=notrunc,fsync status=none"
    )
}

fn end(guest: &Guest, kind: Kind, name: &str) -> End {
    let dataset = format!("{ROOT}/{name}");
    let (path, zvol, format) = match kind {
        Kind::Raw => (format!("{FILES}/{name}.raw"), None, Format::Raw),
        Kind::Qcow2 => (format!("{FILES}/{name}.qcow2"), None, Format::Qcow2),
        Kind::Zvol => {
            let path = format!("/dev/zvol/{dataset}");
            let zvol = Zvol {
                dataset,
                sparse: true,
                block_size: Some(Bytes(16384)),
            };
            (path, Some(zvol), Format::Raw)
        }
    };
    End {
        shell: guest.0.clone(),
        peer: SshAddress {
            user: None,
            host: String::from("10.77.0.11"),
            port: None,
        },
        path,
        zvol,
        format,
        temp: FILES.to_owned(),
    }
}
