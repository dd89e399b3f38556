//! Plays the running guests of a simulation: each writes into its disks, and its ledger is kept when it ends.
//!
//! Only guests with a write rate write; those that a move creates have none, so what they were given stays as it is. It
//! never asks why a guest starts. Read next: `guest.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::guest::{Format, GuestError, Image, Ledger, Workload, Writer, fill};
use super::world::machine::{GuestImage, GuestMachine, RunningGuest};

/// How the guests are played.
#[derive(Clone, Debug, Default)]
pub struct Play {
    /// Seed of what the guests write.
    pub seed: u64,
    /// Confines what a guest writes to a region of this many bytes of each disk; `None` for all of it.
    pub hot_bytes: Option<u64>,
    /// How much of each running guest's disks is filled before it starts for the first time, 0.0 to 1.0.
    pub filled: f64,
    /// Where to save the ledger of each guest that ends, as `ledger-VMID.json`.
    pub ledgers: Option<PathBuf>,
}

/// The guests of a simulation.
#[derive(Debug)]
pub struct Players {
    play: Play,
    played: Mutex<BTreeMap<(String, u32), Played>>,
}

/// A guest that was started at least once.
#[derive(Debug, Default)]
struct Played {
    images: Vec<Image>,
    writer: Option<Writer>,
    ledger: Option<Ledger>,
    trouble: Option<String>,
}

impl Players {
    /// Returns one that plays nobody yet.
    pub fn new(play: Play) -> Players {
        Players {
            play,
            played: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, u32), Played>> {
        self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, cluster: &str, vmid: u32, look: impl Fn(&Played) -> T) -> Option<T> {
        self.lock().get(&(cluster.to_owned(), vmid)).map(look)
    }

    /// Returns what a guest has written; of a running one what it had when it was last stopped.
    pub fn ledger(&self, cluster: &str, vmid: u32) -> Option<Ledger> {
        self.of(cluster, vmid, |guest| guest.ledger.clone())?
    }

    /// Returns the disks that a guest was last started with, in the order of their drives.
    pub fn images(&self, cluster: &str, vmid: u32) -> Option<Vec<Image>> {
        self.of(cluster, vmid, |guest| guest.images.clone())
    }

    /// Returns how many records a guest has completed since it was started last; 0 for one that does not write.
    pub fn completed(&self, cluster: &str, vmid: u32) -> u64 {
        let completed = self.of(cluster, vmid, |guest| {
            guest.writer.as_ref().map_or(0, Writer::completed)
        });
        completed.unwrap_or(0)
    }

    /// Returns why a guest does not write as it should, or did not when it was stopped.
    pub fn trouble(&self, cluster: &str, vmid: u32) -> Option<String> {
        self.of(cluster, vmid, |guest| guest.trouble.clone())?
    }

    /// Has a guest go on from a ledger, such as that of the guest it was moved from, when it is started next.
    pub fn remember(&self, cluster: &str, vmid: u32, ledger: Ledger) {
        let mut played = self.lock();
        played.entry((cluster.to_owned(), vmid)).or_default().ledger = Some(ledger);
    }

    fn begin(&self, guest: &RunningGuest) -> Result<(), GuestError> {
        let mut played = self.lock();
        let entry = played
            .entry((guest.cluster.clone(), guest.vmid))
            .or_default();
        let first_time = entry.images.is_empty() && entry.ledger.is_none();
        entry.images = guest.images.iter().map(image).collect();
        if guest.write_rate == 0 {
            return Ok(());
        }
        if first_time && self.play.filled > 0.0 {
            for image in &entry.images {
                fill(image, self.play.filled, self.play.seed)?;
            }
        }
        let workload = Workload {
            bytes_per_second: guest.write_rate,
            seed: self.play.seed ^ u64::from(guest.vmid) << 32,
            hot_bytes: self.play.hot_bytes,
        };
        let images = entry.images.clone();
        entry.writer = Some(match entry.ledger.take() {
            Some(ledger) => Writer::resume(images, workload, ledger)?,
            None => Writer::start(images, workload)?,
        });
        Ok(())
    }

    fn end(&self, guest: &RunningGuest, hard: bool) -> Result<(), GuestError> {
        let mut played = self.lock();
        let entry = played.get_mut(&(guest.cluster.clone(), guest.vmid));
        let Some((entry, writer)) = entry.and_then(|entry| {
            let writer = entry.writer.take()?;
            Some((entry, writer))
        }) else {
            return Ok(());
        };
        let ledger = if hard { writer.kill() } else { writer.stop() }?;
        if let Some(directory) = &self.play.ledgers {
            ledger.save(&ledger_file(directory, guest.vmid))?;
        }
        entry.ledger = Some(ledger);
        Ok(())
    }

    fn note(&self, guest: &RunningGuest, trouble: &GuestError) {
        let mut text = trouble.to_string();
        let mut cause = std::error::Error::source(trouble);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        log::error!("simulated guest {}: {text}", guest.vmid);
        let mut played = self.lock();
        let key = (guest.cluster.clone(), guest.vmid);
        played.entry(key).or_default().trouble = Some(text);
    }
}

/// Returns where the ledger of a guest is saved.
pub fn ledger_file(directory: &Path, vmid: u32) -> PathBuf {
    directory.join(format!("ledger-{vmid}.json"))
}

fn image(image: &GuestImage) -> Image {
    Image {
        drive: image.drive.to_string(),
        path: image.path.clone(),
        format: match image.format.as_str() {
            "qcow2" => Format::Qcow2,
            _ => Format::Raw,
        },
        size: image.size,
    }
}

impl GuestMachine for Players {
    fn start(&self, guest: &RunningGuest) {
        if let Err(error) = self.begin(guest) {
            self.note(guest, &error);
        }
    }

    fn stop(&self, guest: &RunningGuest, hard: bool) {
        if let Err(error) = self.end(guest, hard) {
            self.note(guest, &error);
        }
    }
}
