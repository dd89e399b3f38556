//! Plans of scenarios, compared with what is expected of them.

use std::collections::BTreeSet;

use proxmove::plan::evacuate::{across, decide, rights, show};
use proxmove::plan::{Severity, Verdict, restore};
use proxmove::pve::inventory::Permissions;

use crate::scenario::{Expect, Scenario, read};

fn codes(verdicts: &[Verdict], severity: Severity) -> BTreeSet<String> {
    verdicts
        .iter()
        .filter(|verdict| verdict.severity == severity)
        .map(|verdict| verdict.code.to_owned())
        .collect()
}

fn check_verdicts(name: &str, verdicts: &[Verdict], expect: &Expect, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let refused = codes(verdicts, Severity::Refuse);
    if refused != expect.refused {
        wrong.push(format!(
            "{name}: refused for {refused:?}, not {:?}",
            expect.refused
        ));
    }
    let warned = codes(verdicts, Severity::Warn);
    if !expect.warned.is_subset(&warned) {
        wrong.push(format!(
            "{name}: warned of {warned:?}, not {:?}",
            expect.warned
        ));
    }
    for words in &expect.says {
        if !text.contains(words.as_str()) {
            wrong.push(format!("{name}: does not say '{words}'"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(text.to_owned());
    }
    wrong
}

fn evacuation(scenario: &Scenario) -> Vec<String> {
    let name = &scenario.name;
    let (inventory, request) = (scenario.inventory(), scenario.request());
    let mut plan = decide::decide(&inventory, &request);
    across::settle(&mut plan, &inventory, &request, &scenario.said());
    let text = show::text(&plan);
    let mut wrong = Vec::new();
    for guest in &plan.guests {
        let target = guest.place_to().map(|place| format!(" {place}"));
        let found = format!("{}{}", guest.action.as_str(), target.unwrap_or_default());
        let vmid = guest.place.vmid.to_string();
        match scenario.expect.guests.get(&vmid) {
            Some(expected) if *expected == found => {}
            Some(expected) => wrong.push(format!("{name}: {vmid}: {found}, not {expected}")),
            // Refused plans may leave it open.
            None if plan.refused() => {}
            None => wrong.push(format!("{name}: {vmid}: {found}, and nothing is expected")),
        }
    }
    for vmid in scenario.expect.guests.keys() {
        if !plan
            .guests
            .iter()
            .any(|guest| guest.place.vmid.to_string() == *vmid)
        {
            wrong.push(format!("{name}: {vmid} is not in the plan"));
        }
    }
    if let Some(order) = &scenario.expect.order {
        let found: Vec<u32> = plan
            .guests
            .iter()
            .map(|guest| guest.place.vmid.number())
            .collect();
        if found != *order {
            wrong.push(format!("{name}: the order is {found:?}, not {order:?}"));
        }
    }
    if !plan.unseen.is_empty() {
        wrong.push(format!("{name}: {:?} were not seen", plan.unseen));
    }
    wrong.extend(check_verdicts(
        name,
        &plan.verdicts,
        &scenario.expect,
        &text,
    ));
    wrong
}

fn return_of(scenario: &Scenario) -> Vec<String> {
    let name = &scenario.name;
    let plan = restore::decide(&scenario.inventory(), &scenario.restore());
    let mut wrong = Vec::new();
    for guest in &plan.guests {
        let start = if guest.start { " start" } else { "" };
        let found = format!("{}{start}", guest.action.as_str());
        let vmid = guest.place.vmid.to_string();
        if scenario.expect.guests.get(&vmid) != Some(&found) {
            let expected = scenario.expect.guests.get(&vmid);
            wrong.push(format!("{name}: {vmid}: {found}, not {expected:?}"));
        }
    }
    if plan.guests.len() != scenario.expect.guests.len() {
        wrong.push(format!(
            "{name}: {} guests are in the plan",
            plan.guests.len()
        ));
    }
    if let Some(order) = &scenario.expect.order {
        let found: Vec<u32> = plan
            .guests
            .iter()
            .map(|guest| guest.place.vmid.number())
            .collect();
        if found != *order {
            wrong.push(format!("{name}: the order is {found:?}, not {order:?}"));
        }
    }
    let text = restore::text(&plan);
    wrong.extend(check_verdicts(
        name,
        &plan.verdicts,
        &scenario.expect,
        &text,
    ));
    wrong
}

fn run(file: &str, judge: fn(&Scenario) -> Vec<String>, at_least: usize) {
    let scenarios = read(file);
    assert!(
        scenarios.len() >= at_least,
        "{file} has {}",
        scenarios.len()
    );
    let wrong: Vec<String> = scenarios.iter().flat_map(judge).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn plans_of_evacuations_are_as_expected() {
    run("plans.json", evacuation, 40);
}

#[test]
fn plans_of_restores_are_as_expected() {
    run("restores.json", return_of, 12);
}

/// Each policy for each kind of guest on each kind of storage; the data file explains itself.
#[test]
fn every_policy_for_every_guest_on_every_storage() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/scenarios/evacuation/policies.txt"
    );
    let table = std::fs::read_to_string(path).unwrap();
    let policies = [
        "auto",
        "live-migrate",
        "migrate",
        "stop",
        "force-stop",
        "ignore",
    ];
    let mut judged = 0;
    let mut wrong = Vec::new();
    let rows = table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    for row in rows {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells.len(), 3 + policies.len(), "{row}");
        for (policy, expected) in policies.iter().zip(&cells[3..]) {
            judged += 1;
            let scenario = of_table(cells[0], cells[1], cells[2], policy);
            let plan = decide::decide(&scenario.inventory(), &scenario.request());
            let found = if plan.refused() {
                "REFUSED"
            } else {
                plan.guests[0].action.as_str()
            };
            if found != *expected {
                let text = show::text(&plan);
                wrong.push(format!(
                    "{} {policy}: {found}, not {expected}\n{text}",
                    cells[..3].join(" ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(judged, 28 * policies.len());
}

fn of_table(kind: &str, power: &str, disks: &str, policy: &str) -> Scenario {
    let (local, rest) = match disks {
        "shared" => ("[]", ""),
        "zfs" => (r#"[{"storage":"zfs"}]"#, ""),
        "lvmthin" => (r#"[{"storage":"thin"}]"#, ""),
        "qcow2" => (r#"[{"storage":"local","format":"qcow2"}]"#, ""),
        "zfs-to-lvm" => (r#"[{"storage":"zfs"}]"#, ""),
        "zfs-snapshots" => (r#"[{"storage":"zfs"}]"#, r#","snapshots":true"#),
        "iso" => (r#"[{"storage":"local","cdrom":true}]"#, ""),
        "device" => ("[]", r#","devices":["hostpci0"]"#),
        other => panic!("{other}?"),
    };
    let map = if disks == "zfs-to-lvm" {
        r#"{"zfs":"thin"}"#
    } else {
        "{}"
    };
    let text = format!(
        r#"{{"name":"table","guests":[{{"vmid":101,"lxc":{},"running":{},"local":{local}{rest}}}],
            "request":{{"policy":"{policy}","map":{map}}},"expect":{{}}}}"#,
        kind == "lxc",
        power == "running",
    );
    serde_json::from_str(&text).unwrap()
}

/// The document's table of features names scenarios and tests that exist.
#[test]
fn every_feature_of_the_document_is_shown_by_something_that_exists() {
    let root = env!("CARGO_MANIFEST_DIR");
    let document = std::fs::read_to_string(format!("{root}/docs/EVACUATION.rst")).unwrap();
    let (_, table) = document.split_once("Features of the four models").unwrap();
    let read = |path: &str| std::fs::read_to_string(format!("{root}/tests/{path}")).unwrap();
    let files = [
        ("plan: ", read("scenarios/evacuation/plans.json")),
        ("run: ", read("scenarios/evacuation/running.json")),
        ("back: ", read("scenarios/evacuation/restores.json")),
    ];
    let sources: String = ["plan", "properties"]
        .map(|name| read(&format!("evacuation/{name}.rs")))
        .into_iter()
        .chain(
            ["across", "crashes", "nodes", "runbook", "scenarios"]
                .map(|name| read(&format!("evacuating/{name}.rs"))),
        )
        .collect();
    let mut judged = 0;
    for cell in table
        .lines()
        .filter_map(|line| line.strip_prefix("     - "))
    {
        let mentioned = cell
            .split("; ")
            .flat_map(|part| part.split('('))
            .map(|mention| mention.trim_end_matches(')'));
        for mention in mentioned {
            if let Some(name) = mention.strip_prefix("test: ") {
                judged += 1;
                assert!(
                    sources.contains(&format!("fn {name}(")),
                    "there is no test {name}"
                );
            }
            for (kind, file) in &files {
                if let Some(name) = mention.strip_prefix(kind) {
                    judged += 1;
                    assert!(
                        file.contains(&format!("\"name\": \"{name}\"")),
                        "no scenario '{name}'"
                    );
                }
            }
        }
    }
    assert!(judged > 30, "{judged}");
}

#[test]
fn missing_rights_are_found_before_anything_is_changed() {
    let text = r#"{"name": "rights", "guests": [{"vmid": 101}, {"vmid": 102}], "request": {"policy": "migrate"}, "expect": {}}"#;
    let scenario: Scenario = serde_json::from_str(text).unwrap();
    let plan = decide::decide(&scenario.inventory(), &scenario.request());
    each_right_is_missed(&|permissions| rights::judge(permissions, &plan));
}

#[test]
fn a_restore_misses_rights_before_anything_is_changed() {
    let text = r#"{"name": "rights", "guests": [{"vmid": 101, "node": "pve2", "running": false, "away": {"origin": "pve1", "to": "pve2"}}], "expect": {}}"#;
    let scenario: Scenario = serde_json::from_str(text).unwrap();
    let plan = restore::decide(&scenario.inventory(), &scenario.restore());
    assert_eq!(plan.guests[0].action.as_str(), "move");
    each_right_is_missed(&|permissions| restore::judge_rights(permissions, &plan));
}

/// Takes away one right after the other, and expects each to be missed alone.
fn each_right_is_missed(judge: &dyn Fn(&Permissions) -> Vec<Verdict>) {
    let granted = |privileges: &[&str]| {
        let privileges = privileges.iter().map(|name| ((*name).to_owned(), true));
        Permissions([("/".to_owned(), privileges.collect())].into())
    };
    let all = [
        "VM.Audit",
        "VM.Migrate",
        "VM.PowerMgmt",
        "VM.Config.Options",
        "Sys.Modify",
    ];
    assert_eq!(judge(&granted(&all)), []);
    for (at, missing) in all.iter().enumerate() {
        let mut some = all.to_vec();
        some.remove(at);
        let found = judge(&granted(&some));
        assert_eq!(found.len(), 1, "without {missing}: {found:?}");
        assert!(found[0].remedy.contains(missing), "{found:?}");
        let refuses = found[0].severity == Severity::Refuse;
        assert_eq!(refuses, *missing != "VM.Audit");
    }
}
