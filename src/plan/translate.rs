//! Translating a guest's configuration for another cluster, key by key.
//!
//! Pure. Every key is copied, kept for the end, changed, dropped with a note, or refused with a remedy: nothing is lost
//! silently. It never looks at volumes (`decide` does) and never says whether a bridge exists (`check/network.rs`).
//! What is done with which key follows from who may set it and what it means on another host. Read next:
//! `translate/schema.rs` (what the target knows), `translate/values.rs` (values that change), `translate/boot.rs`, `translate/drives.rs`.

mod boot;
pub(crate) mod drives;
pub(crate) mod schema;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::facts::{TargetFacts, WantedGuest};
use crate::plan::{ConfigNote, Verdict};
use crate::pve::drive::DriveKey;
use crate::pve::id::Vmid;
use crate::pve::inventory::Release;
use schema::{Fit, Known};

/// What a translation starts from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The name the operator used.
    pub name: &'a str,
    /// The guest.
    pub guest: &'a WantedGuest,
    /// The source cluster's release.
    pub source_release: Release,
    /// Where it goes.
    pub target: &'a TargetFacts,
    /// Its VMID there.
    pub vmid: Vmid,
    /// `--map-bridge`.
    pub bridges: &'a BTreeMap<String, String>,
    /// The drives that will exist on the target; a boot order may name no other.
    pub drives: &'a BTreeSet<DriveKey>,
    /// The source's `onboot` before the move.
    pub onboot: bool,
    /// Whether root itself writes what is translated.
    pub root: bool,
}

/// A translated configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// What the placeholder is created with.
    pub create: BTreeMap<String, String>,
    /// What is set at the very end.
    pub finish: BTreeMap<String, String>,
    /// What is different, and why.
    pub changes: Vec<ConfigNote>,
    /// What must not or should not go on.
    pub verdicts: Vec<Verdict>,
}

/// What is done with a key.
enum Rule {
    /// Copied, as far as the target knows it.
    Copy,
    /// Carried by other means: `name`, `description`, drives, `lock` (which is refused elsewhere).
    Elsewhere,
    /// Left out, for this reason.
    Drop(&'static str),
    /// Only `root@pam` with a password may set it; without it the guest would run the same.
    RootElseDrop(&'static str),
    /// Only `root@pam` with a password may set it, and without it the guest would be another one.
    RootElseRefuse(&'static str),
    /// A device of the host, which `check/devices.rs` judges; what it lets pass is copied.
    Device,
    /// Has a function of its own.
    Special(fn(&mut Translator<'_>, &str, &str)),
    /// Not a key this release of proxmove has heard of.
    Unknown,
}

/// Keys that mean the same everywhere.
pub(crate) const COPIED: &[&str] = &[
    "acpi",
    "agent",
    "allow-ksm",
    "audio0",
    "autostart",
    "balloon",
    "bios",
    "citype",
    "ciupgrade",
    "ciuser",
    "cores",
    "cpulimit",
    "freeze",
    "hotplug",
    "keyboard",
    "kvm",
    "localtime",
    "migrate_downtime",
    "migrate_speed",
    "nameserver",
    "numa",
    "ostype",
    "reboot",
    "scsihw",
    "searchdomain",
    "shares",
    "sockets",
    "sshkeys",
    "startdate",
    "tablet",
    "tags",
    "tdf",
    "vcpus",
    "vga",
    "watchdog",
];

fn rule(key: &str) -> Rule {
    if COPIED.contains(&key) {
        return Rule::Copy;
    }
    if key.parse::<DriveKey>().is_ok() {
        return Rule::Elsewhere;
    }
    match key {
        "name" | "description" | "digest" | "lock" | "template" | "onboot" | "boot"
        | "bootdisk" => Rule::Elsewhere,
        "meta" => Rule::Drop("the target writes its own (QEMU version and time of creation)"),
        "parent"
        | "snaptime"
        | "snapstate"
        | "vmstate"
        | "runningmachine"
        | "runningcpu"
        | "running-nets-host-mtu" => Rule::Drop("belongs to a snapshot, which is not carried"),
        "smp" | "cdrom" => Rule::Drop("an old alias that Proxmox VE no longer writes"),
        "affinity" => Rule::Drop("names processor cores of the old host"),
        "hugepages" | "keephugepages" => Rule::RootElseDrop(
            "only root@pam may set it; the guest sees the same memory without it",
        ),
        "spice_enhancements" => Rule::RootElseDrop("only root@pam may set it"),
        "args" => Rule::RootElseRefuse("arguments for QEMU, with paths that are those of the host"),
        "hookscript" => {
            Rule::RootElseRefuse("the script must exist on the target under the same volume id")
        }
        "amd-sev" | "intel-tdx" => Rule::RootElseRefuse("a feature of the host's processor"),
        "arch" => Rule::Special(values::arch),
        "vmgenid" => Rule::Special(values::vmgenid),
        "protection" => Rule::Special(values::protection),
        "startup" => Rule::Special(values::startup),
        "smbios1" => Rule::Special(values::smbios),
        "memory" => Rule::Special(values::memory),
        "cpuunits" => Rule::Special(values::cpuunits),
        "cpu" => Rule::Special(values::cpu),
        "machine" => Rule::Special(values::machine),
        "rng0" => Rule::Special(values::rng),
        "cicustom" => Rule::Special(values::cicustom),
        "cipassword" => Rule::Special(values::cipassword),
        "vmstatestorage" => Rule::Special(values::vmstatestorage),
        "ivshmem" => Rule::Device,
        _ => match stem(key) {
            "ipconfig" => Rule::Copy,
            "net" => Rule::Special(values::network),
            "numa" => Rule::Special(values::numa),
            "hostpci" | "usb" | "serial" | "parallel" | "virtiofs" => Rule::Device,
            _ => Rule::Unknown,
        },
    }
}

/// Returns a key without its number.
pub(crate) fn stem(key: &str) -> &str {
    key.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Translates everything but the drives.
pub fn translate(input: &Input<'_>) -> Translation {
    let mut translator = Translator {
        input: *input,
        fit: Fit::of(input.target),
        root: input.root,
        out: Translation::default(),
    };
    for (key, value) in &input.guest.detail.config.0 {
        translator.key(key, value);
    }
    if input.onboot {
        translator.finish("onboot", "1");
    }
    boot::order(&mut translator);
    translator.out
}

/// One translation at work.
struct Translator<'a> {
    input: Input<'a>,
    fit: Fit<'a>,
    root: bool,
    out: Translation,
}

impl Translator<'_> {
    fn key(&mut self, key: &str, value: &str) {
        match rule(key) {
            Rule::Copy => self.copy(key, value),
            Rule::Elsewhere => {}
            Rule::Drop(reason) => self.note(key, "dropped", reason),
            Rule::RootElseDrop(reason) => {
                if self.root {
                    self.copy(key, value);
                } else {
                    self.note(key, "dropped", reason);
                }
            }
            Rule::RootElseRefuse(reason) => self.root_key(key, value, reason),
            Rule::Device => {
                if crate::plan::check::devices::local(key, value).is_none() {
                    self.copy(key, value);
                }
            }
            Rule::Special(translate) => translate(self, key, value),
            Rule::Unknown => self.unknown(key, value),
        }
    }

    /// Copies a key as far as the target knows it and its sub-keys.
    fn copy(&mut self, key: &str, value: &str) {
        if let Some(value) = self.fitted(key, value) {
            self.out.create.insert(key.to_owned(), value);
        }
    }

    /// Keeps a key for the end.
    fn finish(&mut self, key: &str, value: &str) {
        if let Some(value) = self.fitted(key, value) {
            self.out.finish.insert(key.to_owned(), value);
        }
    }

    /// Returns the value the target will accept, and notes or refuses what it will not.
    fn fitted(&mut self, key: &str, value: &str) -> Option<String> {
        match self.fit.key(key) {
            Known::Yes => {}
            Known::NoButHarmless => {
                self.note(
                    key,
                    "dropped",
                    format!("PVE {} does not know it", self.input.target.release),
                );
                return None;
            }
            Known::No => {
                self.refuse(
                    "key-unsupported",
                    format!(
                        "{key}: the target's PVE {} does not know this key",
                        self.input.target.release
                    ),
                    format!(
                        "update the target, or remove it: {}",
                        self.delete_command(key)
                    ),
                );
                return None;
            }
        }
        let (value, notes, verdicts) = self.fit.value(self.input.name, key, value);
        self.out.changes.extend(notes);
        self.out.verdicts.extend(verdicts);
        Some(value)
    }

    fn root_key(&mut self, key: &str, value: &str, what: &str) {
        if self.root {
            self.copy(key, value);
            self.warn(
                "key-of-the-host",
                format!("{key} is copied as it is: {what}"),
                format!("look at it before the move: {key}: {value}"),
            );
            return;
        }
        self.note(key, "needs root", what.to_owned());
        self.refuse(
            "key-needs-root",
            format!("{key} may be set by root@pam with a password only ({what})"),
            format!(
                "use root@pam with its password for {}, or remove it: {}",
                self.input.target.alias,
                self.delete_command(key)
            ),
        );
    }

    fn unknown(&mut self, key: &str, value: &str) {
        if self.fit.lists(key) {
            self.copy(key, value);
            self.note(
                key,
                "copied",
                "unknown to this release of proxmove, known to the target",
            );
        } else {
            self.refuse(
                "key-unsupported",
                format!("{key}: nothing is known about this key"),
                format!("remove it: {}", self.delete_command(key)),
            );
        }
    }

    fn note(&mut self, key: &str, action: &'static str, reason: impl Into<String>) {
        self.out.changes.push(ConfigNote {
            key: key.to_owned(),
            action,
            reason: reason.into(),
        });
    }

    fn refuse(&mut self, code: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        let verdict = Verdict::refuse(self.input.name, code, reason, remedy);
        self.out.verdicts.push(verdict);
    }

    fn warn(&mut self, code: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        let verdict = Verdict::warn(self.input.name, code, reason, remedy);
        self.out.verdicts.push(verdict);
    }

    fn set_command(&self, key: &str, value: &str) -> String {
        format!("qm set {} --{key} {value}", self.source_vmid())
    }

    fn delete_command(&self, key: &str) -> String {
        format!("qm set {} --delete {key}", self.source_vmid())
    }

    fn source_vmid(&self) -> Vmid {
        self.input.guest.detail.place.vmid
    }
}
