//! Networks: bridges must exist on the target node, because Proxmox VE itself notices only at the start.
//!
//! Pure. Read next: `space.rs`.

use std::collections::BTreeMap;

use super::did_you_mean;
use crate::plan::facts::TargetFacts;
use crate::plan::{MoveRequest, Verdict};
use crate::pve::property::PropertyString;

/// Refuses each network card whose bridge the target node does not have; `keys` is the translated configuration.
pub fn bridges(
    name: &str,
    keys: &BTreeMap<String, String>,
    target: &TargetFacts,
    request: &MoveRequest,
) -> Vec<Verdict> {
    let Some(known) = &target.bridges else {
        return Vec::new();
    };
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (key, value) in keys {
        if !key.starts_with("net") {
            continue;
        }
        let card = PropertyString::parse(value);
        if let Some(bridge) = card
            .value("bridge")
            .filter(|bridge| !known.iter().any(|at| at == bridge))
        {
            missing.entry(bridge.to_owned()).or_default().push(key);
        }
    }
    missing
        .into_iter()
        .map(|(bridge, cards)| {
            let hint = did_you_mean(&bridge, known.iter().map(String::as_str));
            let example = known.first().map_or("BRIDGE", String::as_str);
            Verdict::refuse(
                name,
                "bridge-missing",
                format!(
                    "node {} has no bridge {bridge}, which {} needs{hint}",
                    request.node,
                    cards.join(" and ")
                ),
                format!("--map-bridge {bridge}={example}, or create the bridge"),
            )
        })
        .collect()
}

/// Warns of mappings that match no network card of any guest: most likely a typing mistake.
pub fn unused_mappings<'a>(
    request: &MoveRequest,
    values: impl Iterator<Item = &'a str>,
) -> Vec<Verdict> {
    let used: Vec<String> = values
        .filter_map(|value| {
            PropertyString::parse(value)
                .value("bridge")
                .map(str::to_owned)
        })
        .collect();
    request
        .bridges
        .keys()
        .filter(|bridge| !used.contains(bridge))
        .map(|bridge| {
            Verdict::warn(
                "",
                "mapping-unused",
                format!("--map-bridge {bridge}=... matches no network card"),
                "check the name of the source's bridge",
            )
            .of_request()
        })
        .collect()
}
