//! The lines of `[evacuate:CLUSTER]` and `[budget:NAME]`, with what holds where the file is silent.
//!
//! Pure. Each line can be read again as it is written. Read next: `config/evacuate.rs`.

use crate::config::evacuate::{BudgetConfig, EvacuateConfig};
use crate::pve::evacuation::{MemoryBasis, Policy, Reserve, Selector};

/// Returns how a cluster's nodes are evacuated.
pub(super) fn evacuate_lines(config: &EvacuateConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![("policy", config.policy.to_string())];
    for policy in Policy::ALL {
        let of_policy = config.policies.iter().filter(|(_, of)| *of == policy);
        let selectors: Vec<String> = of_policy
            .map(|(selector, _)| selector.to_string())
            .collect();
        if !selectors.is_empty() {
            lines.push((policy.as_str(), selectors.join(", ")));
        }
    }
    if !config.to.is_empty() {
        let nodes: Vec<&str> = config.to.iter().map(|node| node.as_str()).collect();
        lines.push(("to", nodes.join(", ")));
    }
    lines.push(("local_disks", yes_no(config.local_disks)));
    if !config.storages.is_empty() {
        let pairs = config.storages.iter();
        let pairs: Vec<String> = pairs.map(|(from, to)| format!("{from}={to}")).collect();
        lines.push(("map_storage", pairs.join(", ")));
    }
    let limits = &config.limits;
    let memory = match limits.memory {
        MemoryBasis::Both => "both",
        MemoryBasis::Assigned => "assigned",
        MemoryBasis::Used => "used",
    };
    lines.extend([
        ("ha_maintenance", yes_no(config.ha_maintenance)),
        ("parallel", config.parallel.to_string()),
        (
            "parallel_per_target",
            config.parallel_per_target.to_string(),
        ),
        ("memory", memory.to_owned()),
        ("memory_reserve", reserve(limits.memory_reserve)),
        ("storage_reserve", reserve(limits.storage_reserve)),
        ("cpu_limit", format!("{}%", limits.cpu_percent)),
    ]);
    if let Some(hundredths) = limits.cpu_overcommit {
        let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        lines.push(("cpu_overcommit", text));
    }
    for (key, time) in [
        ("stop_timeout", config.stop_timeout),
        ("patience", config.patience),
    ] {
        lines.push((key, humantime::format_duration(time).to_string()));
    }
    lines
}

/// Returns what must go on running.
pub(super) fn budget_lines(config: &BudgetConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![match &config.guests {
        Selector::Vmid(vmid) => ("vmid", vmid.to_string()),
        Selector::Tag(tag) => ("tag", tag.clone()),
        Selector::Pool(pool) => ("pool", pool.to_string()),
        Selector::Name(name) => ("name", name.clone()),
    }];
    lines.push(("min_running", config.min_running.to_string()));
    let cluster = config.cluster.as_ref();
    lines.extend(cluster.map(|alias| ("cluster", alias.to_string())));
    lines
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// Returns a reserve as the file has it; it was a whole number of MiB there.
fn reserve(reserve: Reserve) -> String {
    match reserve {
        Reserve::Percent(percent) => format!("{percent}%"),
        Reserve::Bytes(bytes) if bytes.0.is_multiple_of(1 << 30) => format!("{}G", bytes.0 >> 30),
        Reserve::Bytes(bytes) => format!("{}M", bytes.0 >> 20),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::config::show::text;

    const PVE: &str = "[pve:apple]\napi=https://root@pam:x@host:8006\n";

    #[test]
    fn what_is_shown_of_evacuations_and_budgets_can_be_read_again() {
        let file = format!(
            "{PVE}[evacuate:apple]\npolicy=migrate\nstop=tag:lab, 101\nlive-migrate=pool:prod\nto=pve2, pve3\n\
             local_disks=no\nmap_storage=local-zfs=tank, local=data\nparallel=3\nmemory=used\nmemory_reserve=1536M\n\
             storage_reserve=8G\ncpu_overcommit=1.5\nstop_timeout=90s\n\
             [budget:web]\ntag=web\nmin_running=2\n[budget:db]\nname=db1\nmin_running=1\ncluster=apple\n"
        );
        let config = parse(&file, "rc").expect("parses");
        let shown = text(&config, "rc");
        for line in [
            "[evacuate:apple] ; from rc",
            "policy=migrate",
            "stop=tag=lab, vmid=101",
            "memory_reserve=1536M",
            "storage_reserve=8G",
            "cpu_overcommit=1.50",
            "stop_timeout=1m 30s",
            "[budget:db] ; from rc",
            "name=db1",
        ] {
            assert!(shown.lines().any(|known| known == line), "{line}: {shown}");
        }
        // The password is not shown, and is all that is lost.
        let again = parse(&shown, "rc").expect("parses again");
        assert_eq!(again.evacuations, config.evacuations);
        assert_eq!(again.budgets, config.budgets);
    }
}
