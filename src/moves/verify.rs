//! Comparing the volumes of a finished move again: the retired source's and the target's, while both guests are stopped.
//!
//! Changes nothing but putting the porter there and taking it away. Read next: `transfer/compare.rs`.

use std::sync::Arc;

use serde::Serialize;

use super::again::Which;
use super::hosts::Hosts;
use super::survey::{self, Sections};
use crate::cluster::{Api, ApiError};
use crate::host::ShellError;
use crate::plan::decide::volume::path_of;
use crate::plan::facts::member;
use crate::plan::mark::{MIGRATED, Mark};
use crate::plan::route;
use crate::pve::drive::{Bus, Drive, DriveKey};
use crate::pve::guest::{GuestDetail, GuestKind, Power};
use crate::pve::inventory::Node;
use crate::transfer::image::ImageEngine;
use crate::transfer::probe::with_causes;
use crate::transfer::{
    End, Engine, EngineKind, Format, Pair, Route, StreamFlags, Tool, TransferError,
};
use crate::units::Bytes;

/// What a comparison found about one drive, or why there was none about a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The guest.
    pub guest: String,
    /// The drive; none where the whole guest could not be compared.
    pub drive: Option<String>,
    /// Whether both sides are equal; none where they could not be compared.
    pub equal: Option<bool>,
    /// BLAKE3 of both, when they are equal.
    pub digest: Option<String>,
    /// Bytes compared.
    pub size: Option<u64>,
    /// The first offset at which they differ, to 64 KiB.
    pub offset: Option<u64>,
    /// What else is to be said.
    pub note: String,
}

/// What a comparison is made with.
pub struct Verifier<'a> {
    /// The source cluster.
    pub source: Arc<dyn Api>,
    /// The target cluster.
    pub target: Arc<dyn Api>,
    /// Reads the volumes.
    pub engine: ImageEngine,
    /// Connections to the storage hosts.
    pub hosts: Arc<Hosts>,
    /// Where the volumes are.
    pub sections: Sections<'a>,
}

/// One side's guest and its node.
struct Side {
    detail: GuestDetail,
    node: Node,
}

impl Verifier<'_> {
    /// Compares all guests, one after the other.
    pub async fn verify(&self, which: &Which) -> Vec<Finding> {
        let mut findings = Vec::new();
        for name in &which.guests {
            match self.guest(name).await {
                Ok(found) => findings.extend(found),
                Err(note) => findings.push(Finding {
                    guest: name.clone(),
                    drive: None,
                    equal: None,
                    digest: None,
                    size: None,
                    offset: None,
                    note,
                }),
            }
        }
        findings
    }

    async fn guest(&self, name: &str) -> Result<Vec<Finding>, String> {
        let retired = format!("{name}{MIGRATED}");
        let source = one(self.source.as_ref(), &retired).await?;
        let target = one(self.target.as_ref(), name).await?;
        if Mark::parse(target.detail.description()).is_some() {
            return Err("its move is not finished; resume it first".to_owned());
        }
        for (side, cluster) in [(&source, &self.source), (&target, &self.target)] {
            if side.detail.power != Power::Stopped {
                return Err(format!(
                    "{} on {} is not stopped: what it writes differs from the other side by right",
                    side.detail.name(),
                    cluster.alias()
                ));
            }
        }
        let (theirs, _) = target.detail.config.drives();
        let mut findings = Vec::new();
        for drive in source.detail.config.drives().0 {
            if drive.key.bus == Bus::Unused || drive.is_cdrom() || drive.volume().is_none() {
                continue;
            }
            let other = theirs.iter().find(|other| other.key == drive.key);
            let mut found = Finding {
                guest: name.to_owned(),
                drive: Some(drive.key.to_string()),
                equal: None,
                digest: None,
                size: None,
                offset: None,
                note: String::new(),
            };
            let compared = match other {
                Some(other) => self.drive(&source, &drive, &target, other).await,
                None => Err(Failed::Text("the target has no such drive".to_owned())),
            };
            match compared {
                Ok(equal) => {
                    found.equal = Some(true);
                    found.size = Some(equal.size.0);
                    found.digest = Some(equal.digest);
                }
                Err(Failed::Transfer(TransferError::Differs { offset, .. })) => {
                    found.equal = Some(false);
                    found.offset = Some(offset);
                    found.note = "the target was used since, or one of the disks does not keep what it is given".to_owned();
                }
                Err(Failed::Transfer(error)) => found.note = with_causes(&error),
                Err(Failed::Text(text)) => found.note = text,
            }
            findings.push(found);
        }
        if findings.is_empty() {
            return Err("it has no volumes to compare".to_owned());
        }
        Ok(findings)
    }

    async fn drive(
        &self,
        source: &Side,
        here: &Drive,
        target: &Side,
        there: &Drive,
    ) -> Result<crate::transfer::compare::Equal, Failed> {
        let key = here.key;
        let (from, size) = self.end(&self.source, source, here).await?;
        let (to, _) = self.end(&self.target, target, there).await?;
        let pair = Pair {
            drive: key,
            engine: EngineKind::Image,
            stream: StreamFlags::default(),
            source: from,
            target: to,
            size,
            name: pair_name(source, target, key),
            route: Route::Relay,
            tool: Tool::Porter,
            limit: None,
            adopt: false,
            kept: false,
            forget: false,
            snapshots: Vec::new(),
        };
        let pairs = std::slice::from_ref(&pair);
        self.engine.prepare(pairs).await.map_err(Failed::Transfer)?;
        let compared = self.engine.compare(&pair).await.map_err(Failed::Transfer);
        // Whatever came of it, the porter goes.
        let tidied = self.engine.tidy(&pair).await.map_err(Failed::Transfer);
        let equal = compared?;
        tidied?;
        Ok(equal)
    }

    async fn end(
        &self,
        api: &Arc<dyn Api>,
        side: &Side,
        drive: &Drive,
    ) -> Result<(End, Bytes), Failed> {
        let text = |error: &(dyn std::error::Error + 'static)| Failed::Text(with_causes(error));
        let Some(volid) = drive.volume() else {
            return Err(Failed::Text("it has no volume".to_owned()));
        };
        let volume = api
            .volume(&side.node.name, volid)
            .await
            .map_err(|error: ApiError| text(&error))?;
        let storages = api
            .storages(&side.node.name)
            .await
            .map_err(|error: ApiError| text(&error))?;
        let storage = storages.iter().find(|storage| storage.id == volid.storage);
        let section = self
            .sections
            .find(api.alias(), &side.node, &volid.storage, storage)
            .map_err(Failed::Text)?;
        let shell = self
            .hosts
            .shell(&section.ssh)
            .map_err(|error: ShellError| text(&error))?;
        let end = End {
            shell,
            peer: section.peer.clone().unwrap_or_else(|| section.ssh.clone()),
            path: path_of(&section, volid),
            // Only read: a device node is as good as a file.
            zvol: None,
            format: route::format(&volume.format).unwrap_or(Format::Raw),
            temp: section.temp.clone(),
        };
        Ok((end, volume.size))
    }
}

enum Failed {
    Transfer(TransferError),
    Text(String),
}

fn pair_name(source: &Side, target: &Side, key: DriveKey) -> String {
    let (from, to) = (source.detail.place.vmid, target.detail.place.vmid);
    format!("{from}-{to}-{key}")
}

/// Returns the only guest of that name, and its node.
async fn one(api: &dyn Api, name: &str) -> Result<Side, String> {
    let failed = |error: ApiError| with_causes(&error);
    let nodes = api.nodes().await.map_err(failed)?;
    let (guests, _) = survey::guests(api, &nodes).await.map_err(failed)?;
    let mut named = guests
        .iter()
        .filter(|guest| guest.place.kind == GuestKind::Qemu && guest.name.as_deref() == Some(name));
    let guest = match (named.next(), named.next()) {
        (Some(only), None) => only,
        (None, _) => return Err(format!("{} has no guest {name}", api.alias())),
        (Some(_), Some(_)) => return Err(format!("{} has several guests {name}", api.alias())),
    };
    let node = member(&nodes, &guest.place.node)
        .filter(|node| node.online)
        .ok_or_else(|| format!("node {} of {} is offline", guest.place.node, api.alias()))?;
    Ok(Side {
        detail: api.guest(&guest.place).await.map_err(failed)?,
        node: node.clone(),
    })
}

/// Returns the findings for people.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for found in findings {
        let place = match &found.drive {
            Some(drive) => format!("{} {drive}", found.guest),
            None => found.guest.clone(),
        };
        let verdict = match (found.equal, found.offset) {
            (Some(true), _) => format!(
                "equal, {}, blake3 {}",
                Bytes(found.size.unwrap_or(0)),
                found.digest.as_deref().unwrap_or_default()
            ),
            (Some(false), Some(offset)) => {
                format!("DIFFERS from offset {offset} on: {}", found.note)
            }
            _ => format!("not compared: {}", found.note),
        };
        out.push_str(&format!("{place}: {verdict}\n"));
    }
    out
}
