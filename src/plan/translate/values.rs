//! Values that are not simply copied, one function per key.
//!
//! Pure. Read next: `boot.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Translator;
use crate::plan::rights;
use crate::pve::property::PropertyString;

pub(super) fn arch(t: &mut Translator<'_>, key: &str, value: &str) {
    if value == "x86_64" {
        t.note(key, "dropped", "x86_64 is what the target assumes");
    } else {
        t.root_key(key, value, "the target must be able to emulate it");
    }
}

/// A new id tells Windows that it was cloned or rolled back, so it is kept where that is allowed.
pub(super) fn vmgenid(t: &mut Translator<'_>, key: &str, value: &str) {
    if t.root {
        t.copy(key, value);
        return;
    }
    let command = format!("qm set {} --vmgenid {value}", t.input.vmid);
    t.note(
        key,
        "dropped",
        format!(
            "only root@pam may set it, so the target makes a new one; to keep it, run '{command}' as root on the \
             target node before the first start"
        ),
    );
    let config = &t.input.guest.detail.config;
    let windows = config
        .value("ostype")
        .is_some_and(|ostype| ostype.starts_with('w'));
    if windows {
        t.warn(
            "vmgenid-new",
            "a Windows guest gets a new generation id, which domain controllers and databases take for a rollback",
            format!("use root@pam with its password, or --skip-start and '{command}'"),
        );
    }
}

/// Protection would keep the placeholder from being removed, so it comes last.
pub(super) fn protection(t: &mut Translator<'_>, key: &str, value: &str) {
    t.finish(key, value);
    t.note(key, "kept for later", "set when the guest is complete");
}

pub(super) fn startup(t: &mut Translator<'_>, key: &str, value: &str) {
    if t.root || t.input.target.permissions.allows("/", "Sys.Modify") {
        t.finish(key, value);
        t.note(key, "kept for later", "set when the guest is complete");
        return;
    }
    let grant = rights::grant_command(&t.input.target.user, "/", &["Sys.Modify"]);
    t.note(key, "dropped", "needs Sys.Modify on /");
    t.warn(
        "startup-dropped",
        format!(
            "its start order ({value}) is not carried: that needs Sys.Modify on / of the target"
        ),
        format!(
            "{grant}, or set it later: qm set {} --startup {value}",
            t.input.vmid
        ),
    );
}

/// The API takes texts in base64's alphabet only; old configurations hold plain ones.
pub(super) fn smbios(t: &mut Translator<'_>, key: &str, value: &str) {
    let mut properties = PropertyString::parse(value);
    let encoded = properties.value("base64") == Some("1");
    let plain = |text: &str| {
        let body = text.trim_end_matches('=');
        text.len() - body.len() <= 2
            && !body.is_empty()
            && body
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/')
    };
    let is_text =
        |part: &Option<String>| !matches!(part.as_deref(), None | Some("uuid" | "base64"));
    let must_encode = !encoded
        && properties
            .parts
            .iter()
            .any(|(part, text)| is_text(part) && !plain(text));
    if !must_encode {
        return t.copy(key, value);
    }
    for (part, text) in &mut properties.parts {
        if is_text(part) {
            *text = STANDARD.encode(text.as_bytes());
        }
    }
    properties.set("base64", "1");
    t.copy(key, &properties.to_string());
    t.note(
        key,
        "changed",
        "its texts are encoded in base64, as the API demands; the guest sees the same",
    );
}

pub(super) fn memory(t: &mut Translator<'_>, key: &str, value: &str) {
    match value.strip_prefix("current=") {
        Some(plain) if !t.fit.at_least(8, 1) && !plain.contains(',') => {
            t.copy(key, plain);
            t.note(
                key,
                "changed",
                "written as a plain number for an older target",
            );
        }
        _ => t.copy(key, value),
    }
}

/// 1024 was the default weight up to PVE 6 (cgroup v1); beside guests with today's default of 100 it is a tenfold share.
pub(super) fn cpuunits(t: &mut Translator<'_>, key: &str, value: &str) {
    if value == "1024" && t.input.source_release.major <= 6 && t.fit.at_least(7, 0) {
        t.note(
            key,
            "dropped",
            "1024 was the default of the source's release; the target's own default is used",
        );
    } else {
        t.copy(key, value);
    }
}

pub(super) fn cpu(t: &mut Translator<'_>, key: &str, value: &str) {
    let properties = PropertyString::parse(value);
    let model = properties
        .bare()
        .or_else(|| properties.value("cputype"))
        .unwrap_or_default()
        .to_owned();
    if model.starts_with("custom-") {
        let set = t.set_command("cpu", "x86-64-v2-AES");
        t.refuse(
            "cpu-custom",
            format!("its CPU model {model} is defined in the source cluster only"),
            format!("choose a model that every cluster has, such as: {set}"),
        );
    } else if model.starts_with("x86-64-v") && !t.fit.at_least(8, 0) {
        let set = t.set_command("cpu", "kvm64");
        t.refuse(
            "cpu-too-new",
            format!(
                "its CPU model {model} came with PVE 8.0, the target has {}",
                t.input.target.release
            ),
            format!("choose an older model, such as: {set}"),
        );
    } else {
        t.copy(key, value);
    }
}

/// A versioned machine, `pc-i440fx-9.2+pve1` as ("pc-i440fx", [9, 2, 1]).
fn machine_version(text: &str) -> Option<(&str, Vec<u32>)> {
    let (family, version) = text.rsplit_once('-')?;
    let numbers: Option<Vec<u32>> = version
        .split(['.', '+'])
        .map(|part| part.trim_start_matches("pve").parse().ok())
        .collect();
    numbers.map(|numbers| (family, numbers))
}

pub(super) fn machine(t: &mut Translator<'_>, key: &str, value: &str) {
    let properties = PropertyString::parse(value);
    let name = properties
        .bare()
        .or_else(|| properties.value("type"))
        .unwrap_or_default()
        .to_owned();
    let Some((family, wanted)) = machine_version(&name) else {
        return t.copy(key, value);
    };
    let known: Vec<Vec<u32>> = t
        .input
        .target
        .machines
        .iter()
        .filter_map(|machine| machine_version(machine))
        .filter(|(at, _)| *at == family)
        .map(|(_, version)| version)
        .collect();
    let (Some(oldest), Some(newest)) = (known.iter().min(), known.iter().max()) else {
        return t.copy(key, value);
    };
    let shown = |version: &[u32]| match version {
        [major, minor, patch, ..] => format!("{family}-{major}.{minor}+pve{patch}"),
        _ => format!(
            "{family}-{}",
            version
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(".")
        ),
    };
    if wanted > *newest {
        let set = t.set_command("machine", &shown(newest));
        let reason = format!(
            "its machine {name} is newer than the target's QEMU, which knows {} at most",
            shown(newest)
        );
        t.refuse(
            "machine-too-new",
            reason,
            format!("update the target, or: {set}"),
        );
    } else if wanted < *oldest {
        let set = t.set_command("machine", &shown(oldest));
        let reason = format!(
            "its machine {name} is older than any the target's QEMU knows ({} at least)",
            shown(oldest)
        );
        t.refuse("machine-too-old", reason, set);
    } else {
        t.copy(key, value);
    }
}

/// Up to PVE 8.3 only root could set it at all; later /dev/hwrng needs a mapping right, which `rights` knows.
pub(super) fn rng(t: &mut Translator<'_>, key: &str, value: &str) {
    if t.root || t.fit.at_least(8, 4) {
        t.copy(key, value);
    } else {
        t.root_key(key, value, "on PVE 8.3 and older");
    }
}

pub(super) fn cicustom(t: &mut Translator<'_>, key: &str, value: &str) {
    let missing: Vec<String> =
        PropertyString::parse(value)
            .parts
            .iter()
            .map(|(_, volid)| volid.clone())
            .filter(|volid| {
                let storage = volid.split(':').next().unwrap_or_default();
                !t.input.target.storages.iter().any(|at| {
                    at.id.as_str() == storage && at.active && at.content.contains("snippets")
                })
            })
            .collect();
    if missing.is_empty() {
        t.copy(key, value);
        t.warn(
            "cicustom",
            format!("its cloud-init snippets must be on the target too: {value}"),
            "copy these files by hand before the guest is started",
        );
    } else {
        let delete = t.delete_command(key);
        t.refuse(
            "cicustom",
            format!(
                "no storage of the target node can hold its cloud-init snippets: {}",
                missing.join(", ")
            ),
            format!("create the storage with content 'snippets' and copy the files, or: {delete}"),
        );
    }
}

/// The API answers with stars in place of the password.
pub(super) fn cipassword(t: &mut Translator<'_>, key: &str, _value: &str) {
    t.note(key, "dropped", "the API does not tell it");
    let set = format!("qm set {} --cipassword", t.input.vmid);
    t.warn(
        "cipassword",
        "its cloud-init password cannot be read and is not carried; what is set inside the guest stays as it is",
        format!("set it again on the target: {set}"),
    );
}

pub(super) fn vmstatestorage(t: &mut Translator<'_>, key: &str, value: &str) {
    let exists = t
        .input
        .target
        .storages
        .iter()
        .any(|storage| storage.id.as_str() == value);
    if exists {
        t.copy(key, value);
    } else {
        t.note(
            key,
            "dropped",
            format!("the target node has no storage {value}"),
        );
    }
}

pub(super) fn network(t: &mut Translator<'_>, key: &str, value: &str) {
    let mut properties = PropertyString::parse(value);
    let mapped = properties
        .value("bridge")
        .and_then(|bridge| Some((bridge.to_owned(), t.input.bridges.get(bridge)?.clone())));
    if let Some((from, to)) = mapped.filter(|(from, to)| from != to) {
        properties.set("bridge", &to);
        t.note(
            key,
            "changed",
            format!("bridge {from} becomes {to} (--map-bridge)"),
        );
        t.copy(key, &properties.to_string());
    } else {
        t.copy(key, value);
    }
}

/// The guest keeps its topology; on which of the old host's memory nodes it lay is no business of the new one.
pub(super) fn numa(t: &mut Translator<'_>, key: &str, value: &str) {
    let mut properties = PropertyString::parse(value);
    if properties.remove("hostnodes") {
        properties.remove("policy");
        t.note(
            key,
            "changed",
            "without 'hostnodes' and 'policy', which name memory of the old host",
        );
        t.copy(key, &properties.to_string());
    } else {
        t.copy(key, value);
    }
}
