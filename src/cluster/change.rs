//! Whether a configuration shows a change: how a PUT of unknown fate is judged by its result.
//!
//! Pure. Proxmox VE rewrites what it is given (sizes are added, tags sorted, sub-keys reordered), so texts cannot just be
//! compared. Never decides what to do about it. Read next: `act.rs`.

use std::collections::BTreeSet;

use super::ConfigChange;
use crate::pve::guest::GuestConfig;
use crate::pve::property::PropertyString;

/// Says whether `config` has everything that `change` sets, and nothing that it deletes.
///
/// False is not "it was not done": the server may write a value in a way that is not known here.
pub(super) fn shows(config: &GuestConfig, change: &ConfigChange) -> bool {
    let set = change
        .set
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .all(|(key, wanted)| {
            config
                .value(key)
                .is_some_and(|found| same_value(key, wanted, found))
        });
    let emptied = change
        .set
        .iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(key, _)| key);
    set && change
        .delete
        .iter()
        .filter(|key| !change.set.contains_key(*key))
        .chain(emptied)
        .all(|key| config.value(key).is_none())
}

fn same_value(key: &str, wanted: &str, found: &str) -> bool {
    let words = |text: &str| -> BTreeSet<String> {
        text.split([';', ',', ' '])
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect()
    };
    match key {
        "tags" => words(wanted) == words(found),
        // Free text: only the end may differ, where a line break comes and goes.
        "description" => wanted.trim_end() == found.trim_end(),
        _ => wanted == found || contains(wanted, found),
    }
}

/// Says whether every part of one property string is in the other; a drive's `size` is the server's own.
fn contains(wanted: &str, found: &str) -> bool {
    let parts = |text: &str| {
        let parts = PropertyString::parse(text).parts.into_iter();
        parts
            .map(|(key, value)| (key.filter(|key| key != "file" && key != "volume"), value))
            .collect::<Vec<_>>()
    };
    let found = parts(found);
    let wanted = parts(wanted);
    !wanted.is_empty()
        && wanted
            .iter()
            .filter(|(key, _)| key.as_deref() != Some("size"))
            .all(|part| found.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &[(&str, &str)], set: &[(&str, &str)], delete: &[&str], expect: bool) {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let config = GuestConfig(config.iter().map(owned).collect());
        let change = ConfigChange {
            set: set.iter().map(owned).collect(),
            delete: delete.iter().map(|key| (*key).to_owned()).collect(),
            digest: None,
        };
        assert_eq!(shows(&config, &change), expect, "{set:?} -{delete:?}");
    }

    #[test]
    fn a_change_is_recognised_in_the_servers_own_writing() {
        let config = [
            ("name", "web1--CLONING"),
            ("onboot", "0"),
            ("tags", "a;b"),
            ("description", "one\ntwo"),
            (
                "virtio0",
                "data:100/vm-100-disk-0.raw,discard=on,size=104858K",
            ),
        ];
        check(
            &config,
            &[("name", "web1--CLONING"), ("onboot", "0")],
            &[],
            true,
        );
        check(&config, &[("name", "web1")], &[], false);
        check(&config, &[("tags", "B a")], &["lock"], true);
        check(&config, &[], &["onboot"], false);
        check(&config, &[("onboot", "0")], &["onboot"], true);
        check(&config, &[("onboot", "")], &[], false);
        check(&config, &[("lock", "")], &[], true);
        check(&config, &[("description", "one\ntwo\n")], &[], true);
        let drive = |text| [("virtio0", text)];
        check(
            &config,
            &drive("data:100/vm-100-disk-0.raw,size=1G,discard=on"),
            &[],
            true,
        );
        check(
            &config,
            &drive("file=data:100/vm-100-disk-0.raw"),
            &[],
            true,
        );
        check(
            &config,
            &drive("data:100/vm-100-disk-0.raw,ssd=1"),
            &[],
            false,
        );
        check(&config, &drive("data:100/vm-100-disk-1.raw"), &[], false);
        check(&config, &[("missing", "1")], &[], false);
    }
}
