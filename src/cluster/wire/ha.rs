//! High availability on the wire: status, rules of release 9, groups of the releases before it.
//!
//! Never asks a cluster. Read next: `schema.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Entry, Odd, list, words};
use crate::pve::ha::{HaResource, HaRule, HaRuleKind, HaSettings, HaSid};
use crate::pve::id::NodeName;

/// Decodes `GET /cluster/ha/status/current`: the services among the entries.
pub fn services(value: &Value) -> Result<Vec<HaResource>, Odd> {
    let found = list(value, "HA status", |entry| {
        if entry.text("type")? != "service" {
            return Some(None);
        }
        Some(Some(HaResource {
            sid: entry.id("sid")?,
            state: entry.text("state")?,
            requested: entry.text("request_state"),
            node: entry.id("node"),
            group: entry.text("group"),
            failback: entry.flag("failback"),
            max_restart: number(entry, "max_restart"),
            max_relocate: number(entry, "max_relocate"),
        }))
    })?;
    Ok(found.into_iter().flatten().collect())
}

fn number(entry: Entry<'_>, key: &str) -> Option<u32> {
    entry.count(key).and_then(|number| number.try_into().ok())
}

/// Decodes `GET /cluster/ha/resources/{sid}`. A resource without a state is to be started.
pub fn settings(value: &Value) -> Result<HaSettings, Odd> {
    let entry = Entry::of(value)?;
    let state = entry.text("state").unwrap_or_else(|| "started".to_owned());
    Ok(HaSettings {
        // The first releases called it so.
        state: match state.as_str() {
            "enabled" => "started".to_owned(),
            _ => state,
        },
        group: entry.text("group"),
        failback: entry.flag("failback"),
        max_restart: number(entry, "max_restart"),
        max_relocate: number(entry, "max_relocate"),
        comment: entry.text("comment"),
    })
}

/// Decodes `GET /cluster/ha/status/manager_status`: the guests that the HA manager acts on.
pub fn acted_on(value: &Value) -> Result<BTreeSet<HaSid>, Odd> {
    let entry = Entry::of(value)?;
    let manager = entry.entry("manager_status");
    let services = manager.and_then(|manager| manager.entry("service_status"));
    // A cluster without HA has no status.
    Ok(services
        .into_iter()
        .flat_map(|services| services.fields())
        .filter_map(|(sid, _)| sid.parse().ok())
        .collect())
}

/// Decodes `GET /cluster/ha/rules`.
pub fn rules(value: &Value) -> Result<Vec<HaRule>, Odd> {
    list(value, "HA rules", |entry| {
        let kind = match entry.text("type")?.as_str() {
            "node-affinity" => HaRuleKind::NodeAffinity {
                nodes: nodes(&entry.text("nodes")?),
                strict: entry.flag("strict").unwrap_or(false),
            },
            "resource-affinity" => match entry.text("affinity")?.as_str() {
                "positive" => HaRuleKind::Together,
                "negative" => HaRuleKind::Apart,
                _ => return None,
            },
            _ => return None,
        };
        let resources = entry.text("resources")?;
        Some(HaRule {
            name: entry.text("rule")?,
            kind,
            resources: words(&resources)
                .filter_map(|sid| sid.parse().ok())
                .collect(),
            // HA leaves rules out that contradict each other, and says so in `errors`.
            in_force: !entry.flag("disable").unwrap_or(false) && entry.value("errors").is_none(),
        })
    })
}

/// Decodes `GET /cluster/ha/groups`; the guests of each come from the HA resources.
pub fn groups(value: &Value, resources: &[HaResource]) -> Result<Vec<HaRule>, Odd> {
    list(value, "HA groups", |entry| {
        let name = entry.text("group")?;
        let members: BTreeSet<HaSid> = resources
            .iter()
            .filter(|resource| resource.group.as_ref() == Some(&name))
            .map(|resource| resource.sid)
            .collect();
        Some(HaRule {
            kind: HaRuleKind::NodeAffinity {
                nodes: nodes(&entry.text("nodes")?),
                strict: entry.flag("restricted").unwrap_or(false),
            },
            name,
            resources: members,
            in_force: true,
        })
    })
}

/// Reads `n1:2,n2`: nodes with priorities, 0 when none is given.
fn nodes(text: &str) -> BTreeMap<NodeName, u32> {
    let pairs = words(text).filter_map(|word| {
        let (name, priority) = word.split_once(':').unwrap_or((word, "0"));
        Some((name.parse().ok()?, priority.parse().ok()?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Vec<HaResource> {
        services(&json!([
            {"id": "quorum", "type": "quorum", "node": "n1", "status": "OK", "quorate": 1},
            {"id": "master", "type": "master", "node": "n1", "timestamp": 0, "status": "n1 (active)"},
            {"id": "lrm:n1", "type": "lrm", "node": "n1", "status": "n1 (maintenance mode)"},
            {"id": "service:vm:100", "type": "service", "sid": "vm:100", "node": "n1", "crm_state": "started",
                "state": "migrate", "request_state": "started", "max_restart": 1, "max_relocate": "2", "group": "west"},
            {"id": "service:ct:101", "type": "service", "sid": "ct:101", "state": "ignored", "request_state": "ignored"},
            {"id": "service:vm:102", "type": "service", "sid": "vm:102", "state": "queued"},
            {"type": "later"}]))
        .expect("a list")
    }

    #[test]
    fn services_are_read_and_queued_ones_have_no_node() {
        let found = status();
        let states: Vec<_> = found.iter().map(|service| service.state.as_str()).collect();
        assert_eq!(states, ["migrate", "ignored", "queued"]);
        assert_eq!(found[0].max_relocate, Some(2));
        assert!(found[0].is_managed() && !found[1].is_managed() && found[2].node.is_none());
    }

    #[test]
    fn what_ha_was_asked_is_read() {
        let found = settings(
            &json!({"sid": "vm:100", "type": "vm", "state": "enabled", "max_restart": 3,
            "failback": 0, "comment": "a b", "digest": "x"}),
        )
        .expect("settings");
        assert_eq!(found.state, "started");
        assert_eq!((found.max_restart, found.max_relocate), (Some(3), None));
        assert_eq!(found.failback, Some(false));
        let acted = acted_on(
            &json!({"manager_status": {"service_status": {"vm:100": {"state": "started"},
            "ct:101": {}}}, "lrm_status": {}, "quorum": {}}),
        )
        .expect("a status");
        let acted: Vec<String> = acted.iter().map(ToString::to_string).collect();
        assert_eq!(acted, ["vm:100", "ct:101"]);
        let none = acted_on(&json!({"manager_status": {}, "quorum": {"node": "n1"}}));
        assert_eq!(none.expect("a status").len(), 0);
    }

    #[test]
    fn rules_and_groups_say_the_same() {
        let found = rules(&json!([
            {"rule": "west", "type": "node-affinity", "resources": "vm:100,ct:101", "nodes": "n1:2,n2", "strict": 1,
                "order": 0, "digest": "x"},
            {"rule": "apart", "type": "resource-affinity", "resources": "vm:100,vm:102", "affinity": "negative",
                "disable": 1},
            {"rule": "odd", "type": "resource-affinity", "resources": "vm:1", "affinity": "positive",
                "errors": {"resources": ["rule is defined with less than two resources"]}},
            {"rule": "new", "type": "colour-affinity", "resources": "vm:100"}]))
        .expect("a list");
        assert_eq!(found.len(), 3);
        let in_force: Vec<_> = found.iter().map(|rule| rule.in_force).collect();
        assert_eq!(in_force, [true, false, false]);
        let HaRuleKind::NodeAffinity { nodes, strict } = &found[0].kind else {
            panic!("{:?}", found[0]);
        };
        let priorities: Vec<u32> = nodes.values().copied().collect();
        assert_eq!((priorities, *strict), (vec![2, 0], true));
        assert_eq!(found[1].kind, HaRuleKind::Apart);
        let groups = groups(
            &json!([{"group": "west", "type": "group", "nodes": "n1:2,n2", "restricted": 1, "nofailback": 0}]),
            &status(),
        )
        .expect("a list");
        assert_eq!(groups[0].kind, found[0].kind);
        assert_eq!(groups[0].resources.len(), 1);
    }
}
