//! `proxmove sim --scenario ...` and `proxmove sim-proof`: what the storage lab runs on its machines.
//!
//! Standard output carries JSON only: a line when the cluster is up, then one answer for each order on standard input.
//! Its end, SIGTERM or Ctrl-C end the cluster. Read next: `sim/site.rs`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::print;
use crate::cli::SiteArgs;
use crate::error::{ExitCode, Failure};
use crate::moves::interrupt::Interrupt;
use crate::sim::guest::{Access, Format, GuestError, Image, Ledger};
use crate::sim::players::Play;
use crate::sim::site::{Site, SiteSettings};
use crate::sim::world::images::format_of;

/// Serves one cluster of a scenario until it is told to end.
pub(super) async fn serve(arguments: SiteArgs) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::listen(|_| {}).map_err(|error| broken(&error))?;
    let text = std::fs::read(&arguments.scenario).map_err(|error| broken(&error))?;
    let settings = SiteSettings {
        scenario: serde_json::from_slice(&text).map_err(|error| broken(&error))?,
        cluster: arguments.cluster,
        listen: arguments.listen,
        directory: arguments.directory,
        play: Play {
            seed: arguments.seed,
            hot_bytes: arguments.hot,
            filled: arguments.filled,
            ledgers: None,
        },
    };
    // Filling disks takes a while, and is no work for the runtime's own threads.
    let site = tokio::task::spawn_blocking(|| Site::start(settings))
        .await
        .map_err(|error| broken(&error))?
        .map_err(|error| broken(&error))?;
    tell(&site.ready())?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let order = tokio::select! {
            order = orders.next_line() => order.map_err(|error| broken(&error))?,
            () = interrupt.asked() => None,
        };
        match order {
            Some(order) => tell(&site.obey(&order))?,
            None => return Ok(ExitCode::Done),
        };
    }
}

/// Prints the verdict on a guest's disks. Fails unless every record is there, whole and the newest.
pub(super) fn prove(ledger: &Path, images: &[PathBuf]) -> Result<ExitCode, Failure> {
    let verdict = Ledger::load(ledger)
        .and_then(|ledger| {
            let images: Vec<Image> = images
                .iter()
                .map(|path| image(path))
                .collect::<Result<_, _>>()?;
            ledger.check(&images)
        })
        .map_err(|error| Failure::new(ExitCode::Bug, &error).context("nothing was proved"))?;
    tell(&serde_json::to_value(&verdict).map_err(|error| broken(&error))?)?;
    match verdict.is_complete() {
        true => Ok(ExitCode::Done),
        false => Err(Failure::message(ExitCode::Bug, verdict.to_string())),
    }
}

fn image(path: &Path) -> Result<Image, GuestError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut image = Image {
        drive: name.clone().into_owned(),
        path: path.to_owned(),
        format: match format_of(&name) {
            Some("qcow2") => Format::Qcow2,
            _ => Format::Raw,
        },
        size: 0,
    };
    image.size = image.open(Access::Read)?.size()?;
    Ok(image)
}

fn tell(value: &Value) -> Result<ExitCode, Failure> {
    print(&format!("{value}\n"))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ExitCode::Bug, error).context("the simulated cluster does not run")
}
