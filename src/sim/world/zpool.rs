//! A zfspool storage on a real pool: its volumes are zvols of the machine that the simulation runs on.
//!
//! It runs what Proxmox VE's own plugin runs, and fails with the same words. It never creates a pool or the storage's
//! dataset, and never touches what is not right below that. The world is locked meanwhile, so other requests wait,
//! which they would not on a real node. Read next: `zpool/syntax.rs`, `storage.rs`.

mod syntax;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::images::ImageFacts;
use super::scenario::StorageSpec;
use super::storage::{Space, Volume, VolumeName};

/// How long a zvol's device may take to appear. udev makes it, and under emulation that takes a while.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
/// How often Proxmox VE tries to destroy a zvol that is busy, a second apart.
const DESTROY_TRIES: u32 = 6;

/// The dataset of a storage.
#[derive(Clone, Copy, Debug)]
pub struct Zpool<'a> {
    storage: &'a StorageSpec,
    dataset: &'a str,
}

impl StorageSpec {
    /// Returns the storage's dataset when it is kept on a real pool.
    pub fn zpool(&self) -> Option<Zpool<'_>> {
        let dataset = self.extra.get("pool").filter(|_| self.kind == "zfspool")?;
        self.real.then_some(Zpool {
            storage: self,
            dataset,
        })
    }
}

fn run(program: &str, arguments: &[String]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| {
            format!(
                "command '{program} {}' failed: {error}",
                arguments.join(" ")
            )
        })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(syntax::complaint(&String::from_utf8_lossy(&output.stderr))),
    }
}

fn zfs(arguments: &[String]) -> Result<String, String> {
    run("zfs", arguments)
}

impl Zpool<'_> {
    fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.dataset)
    }

    /// Returns the device of a zvol, whether it exists or not.
    pub fn device(&self, name: &str) -> PathBuf {
        Path::new("/dev/zvol").join(self.dataset).join(name)
    }

    /// Checks that the pool is there, as done before each use of the storage.
    pub fn activate(&self) -> Result<(), String> {
        let pool = self.dataset.split('/').next().unwrap_or_default();
        let list = ["list", "-H", "-o", "name", pool].map(str::to_owned);
        run("zpool", &list).map(drop).map_err(|_| {
            format!(
                "could not activate storage '{}', zfs error: cannot import '{pool}': no such pool available",
                self.storage.id
            )
        })
    }

    /// Returns what is used and free; `None` when the dataset is not there, which makes the storage inactive.
    pub fn space(&self) -> Option<Space> {
        let output = zfs(&syntax::get("available,used", self.dataset)).ok()?;
        let (available, used) = syntax::two_numbers(&output)?;
        Some(Space {
            total: available + used,
            used,
            available,
        })
    }

    /// Lists the zvols.
    pub fn volumes(&self) -> Vec<(String, u64, u64)> {
        let output = zfs(&syntax::list(self.dataset)).unwrap_or_default();
        let zvols = syntax::zvols(&output, self.dataset).into_iter();
        zvols
            .map(|zvol| (zvol.name, zvol.size, zvol.used))
            .collect()
    }

    /// Looks at a zvol; `Ok(None)` when there is none.
    pub fn look(&self, name: VolumeName) -> Result<Option<Volume>, String> {
        match zfs(&syntax::get("volsize,usedbydataset", &self.of(&name.file))) {
            Ok(output) => match syntax::two_numbers(&output) {
                Some((size, used)) => Ok(Some(self.volume(name, size, used))),
                None => Err("Could not get zfs volume size".to_owned()),
            },
            Err(complaint) if syntax::is_missing(&complaint) => Ok(None),
            Err(complaint) => Err(complaint),
        }
    }

    /// Returns a zvol with what is known of it.
    pub fn volume(&self, name: VolumeName, size: u64, used: u64) -> Volume {
        Volume {
            path: self.device(&name.file),
            name,
            facts: Some(ImageFacts {
                size,
                used,
                changed: 0,
            }),
            file_size: size,
            changed: 0,
            used,
        }
    }

    /// Creates a zvol and waits for its device.
    pub fn allocate(&self, name: &VolumeName, bytes: u64) -> Result<PathBuf, String> {
        let owner = name.owner.unwrap_or_default();
        if !name.file.starts_with(&format!("vm-{owner}-")) {
            return Err(format!(
                "illegal name '{}' - should be 'vm-{owner}-*'",
                name.file
            ));
        }
        let dataset = self.of(&name.file);
        zfs(&syntax::create(&dataset, bytes, &self.storage.extra))?;
        self.await_device(&name.file, 300)
    }

    /// Waits for the device of a zvol, as done before a guest uses it. `told` is how many seconds Proxmox VE says it
    /// has waited: 10 in a request, 300 in a task. A zvol that does not exist is not waited for.
    pub fn await_device(&self, name: &str, told: u32) -> Result<PathBuf, String> {
        let device = self.device(name);
        let is_there =
            |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
        let began = Instant::now();
        while !is_there(&device) {
            let exists = zfs(&syntax::get("volsize", &self.of(name))).is_ok();
            if !exists || began.elapsed() > DEVICE_PATIENCE {
                return Err(format!(
                    "timeout: no zvol device link for '{name}' found after {told} sec."
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(device)
    }

    /// Opens a zvol's device as a guest would, and closes it again: one that is read-only does not open.
    pub fn try_open(&self, name: &str) -> Result<(), String> {
        let device = self.await_device(name, 300)?;
        let opened = OpenOptions::new().read(true).write(true).open(device);
        opened
            .map(drop)
            .map_err(|_| "start failed: QEMU exited with code 1".to_owned())
    }

    /// Gives a zvol another size.
    pub fn resize(&self, name: &VolumeName, bytes: u64) -> Result<(), String> {
        zfs(&syntax::resize(&self.of(&name.file), bytes)).map(drop)
    }

    /// Says whether a zvol may be rolled back to a snapshot: it must be its newest.
    pub fn may_roll_back(&self, name: &VolumeName, snapshot: &str) -> Result<(), String> {
        let output = zfs(&syntax::snapshots(&self.of(&name.file)))?;
        let names = syntax::snapshot_names(&output);
        let volid = name.volid();
        match names.last() {
            Some(newest) if *newest == snapshot => Ok(()),
            _ if !names.contains(&snapshot) => Err(format!(
                "can't rollback, snapshot '{snapshot}' does not exist on '{volid}'"
            )),
            _ => Err(format!(
                "can't rollback, '{snapshot}' is not most recent snapshot on '{volid}'"
            )),
        }
    }

    /// Takes, destroys or goes back to a snapshot: `verb` is that of zfs.
    pub fn on_snapshot(
        &self,
        verb: &[&str],
        name: &VolumeName,
        snapshot: &str,
    ) -> Result<(), String> {
        let mut arguments: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
        arguments.push(format!("{}@{snapshot}", self.of(&name.file)));
        zfs(&arguments).map(drop)
    }

    /// Destroys a zvol with its snapshots; one that is not there is no error.
    pub fn free(&self, name: &VolumeName) -> Result<(), String> {
        let arguments = syntax::destroy(&self.of(&name.file));
        let mut tries = 1;
        loop {
            match zfs(&arguments) {
                Ok(_) => return Ok(()),
                Err(complaint) if syntax::is_missing(&complaint) => return Ok(()),
                Err(complaint) if syntax::is_busy(&complaint) && tries < DESTROY_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Err(complaint) => return Err(complaint),
            }
        }
    }
}
