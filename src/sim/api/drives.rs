//! Drives in a configuration: who may name which volume, allocating new ones, attaching what is there.
//!
//! Attaching looks at the real file or zvol: it must exist, be in the format its name says, and gives the drive its
//! size.

use std::collections::BTreeMap;

use super::check::{format_size, parse_property};
use super::{Call, Refusal};
use crate::sim::api::config_keys;
use crate::sim::api::schema::Format;
use crate::sim::world::Cluster;
use crate::sim::world::guest::volume_of;
use crate::sim::world::storage::VolumeName;

const CLOUD_INIT_SIZE: u64 = 4 << 20;

/// A drive's value taken apart.
pub(super) struct Parts {
    pub(super) volume: String,
    pub(super) options: BTreeMap<String, String>,
}

impl Parts {
    /// Takes a value apart that was checked before.
    pub(super) fn parse(key: &str, value: &str) -> Parts {
        let property = match config_keys::key(key).map(|param| param.format) {
            Some(Format::Property(property)) => Some(property),
            _ => None,
        };
        let parsed = property.and_then(|property| parse_property(property, value).ok());
        let mut options = parsed.unwrap_or_default();
        let volume = options
            .remove("file")
            .unwrap_or_else(|| volume_of(value).to_owned());
        Parts { volume, options }
    }

    /// Writes it as the server does: the volume, then the options in order.
    fn print(&self) -> String {
        let mut text = self.volume.clone();
        for (key, value) in &self.options {
            text.push_str(&format!(",{key}={value}"));
        }
        text
    }
}

/// What the volume part of a drive asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Nothing,
    Path,
    New {
        storage: &'a str,
        gibibytes: &'a str,
    },
    CloudInit {
        storage: &'a str,
    },
    Existing,
}

fn wanted(volume: &str) -> Wanted<'_> {
    if matches!(volume, "none" | "cdrom") {
        return Wanted::Nothing;
    }
    if volume.starts_with('/') {
        return Wanted::Path;
    }
    match volume.split_once(':') {
        Some((storage, "cloudinit")) => Wanted::CloudInit { storage },
        Some((storage, size))
            if size.starts_with(|c: char| c.is_ascii_digit())
                && size.parse::<f64>().is_ok_and(f64::is_finite) =>
        {
            Wanted::New {
                storage,
                gibibytes: size,
            }
        }
        _ => Wanted::Existing,
    }
}

fn only_root_paths(call: &Call<'_>) -> Refusal {
    let line = if call.release() >= (9, 0) { 651 } else { 569 };
    Refusal::died(format!(
        "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line {line}."
    ))
}

/// Checks that the caller may use what a drive names; done before anything is changed.
pub(super) fn may_use(call: &Call<'_>, vmid: u32, key: &str, value: &str) -> Result<(), Refusal> {
    let parts = Parts::parse(key, value);
    if let Some(source) = parts.options.get("import-from")
        && source.starts_with('/')
        && !call.who.is_root()
    {
        return Err(only_root_paths(call));
    }
    match wanted(&parts.volume) {
        Wanted::Nothing => match parts.volume == "cdrom" {
            true => call.require("/", &["Sys.Console"]),
            false => Ok(()),
        },
        Wanted::Path if call.who.is_root() => Ok(()),
        Wanted::Path => Err(only_root_paths(call)),
        Wanted::New { storage, .. } | Wanted::CloudInit { storage } => {
            call.cluster.storage(storage)?;
            call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            let storage = call.cluster.usable_storage(storage, &call.node)?;
            match storage.content.split(',').any(|word| word == "images") {
                true => Ok(()),
                false => Err(Refusal::param(
                    "storage",
                    format!("storage '{}' does not support vm images", storage.id),
                )),
            }
        }
        Wanted::Existing => {
            let name = call.cluster.parse_volume(&parts.volume)?;
            may_access(call, &name, Some(vmid))
        }
    }
}

/// Checks that the caller may use an existing volume, for a guest or for itself.
pub(super) fn may_access(
    call: &Call<'_>,
    name: &VolumeName,
    vmid: Option<u32>,
) -> Result<(), Refusal> {
    let path = format!("/storage/{}", name.storage);
    let Some(owner) = name.owner else {
        return call.require(&path, &["Datastore.Audit", "Datastore.AllocateSpace"]);
    };
    if vmid == Some(owner) || call.cluster.may(&call.who, &path, &["Datastore.Allocate"]) {
        return Ok(());
    }
    let owner_path = format!("/vms/{owner}");
    call.require(&path, &["Datastore.Audit"])?;
    call.require(&owner_path, &["VM.Config.Disk"])
}

/// Turns what a client asks for into the drive's stored value; allocates when asked to. `created` gets what was
/// allocated, so that a failure can undo it.
pub(super) fn resolve(
    cluster: &Cluster,
    node: &str,
    vmid: u32,
    key: &str,
    value: &str,
    created: &mut Vec<VolumeName>,
    log: &mut Vec<String>,
) -> Result<String, String> {
    let mut parts = Parts::parse(key, value);
    match wanted(&parts.volume) {
        Wanted::Nothing => {
            parts.options.remove("size");
            if parts.volume == "none" {
                parts.options.insert("media".to_owned(), "cdrom".to_owned());
            }
        }
        Wanted::Path => {}
        Wanted::CloudInit { storage } => {
            let format = parts.options.remove("format");
            let ending = match cluster.storage(storage)?.kind.as_str() {
                "zfspool" => String::new(),
                _ => format!(".{}", format.as_deref().unwrap_or("qcow2")),
            };
            let name = VolumeName {
                storage: storage.to_owned(),
                content: "images",
                owner: Some(vmid),
                file: format!("vm-{vmid}-cloudinit{ending}"),
            };
            parts.volume = new_volume(cluster, node, name, CLOUD_INIT_SIZE, created, log)?;
            parts.options.insert("media".to_owned(), "cdrom".to_owned());
            log.push(format!(
                "{key}: successfully created disk '{}'",
                parts.print()
            ));
        }
        Wanted::New { storage, gibibytes } => {
            if parts.options.contains_key("import-from") {
                return Err("importing volumes is not simulated".to_owned());
            }
            let wanted = parts.options.remove("format");
            let (format, asked) = allocation(key, gibibytes, wanted, &parts.options)?;
            let storage = cluster.active_storage(storage, node)?;
            if storage.kind == "zfspool" && format != "raw" {
                return Err(format!("unsupported format '{format}'"));
            }
            let name = cluster.free_volume_name(storage, node, vmid, &format);
            parts.volume = new_volume(cluster, node, name.clone(), asked, created, log)?;
            // Of firmware variables, the size that the volume has got is shown; of others, the one that was asked for.
            let got = match key {
                "efidisk0" => cluster.look_at_volume(name, node)?,
                _ => None,
            };
            let size = got
                .and_then(|volume| volume.facts)
                .map_or(asked, |facts| facts.size);
            parts.options.insert("size".to_owned(), format_size(size));
            log.push(format!(
                "{key}: successfully created disk '{}'",
                parts.print()
            ));
        }
        Wanted::Existing => attach(cluster, node, key, &mut parts)?,
    }
    Ok(parts.print())
}

/// Returns the format and the bytes of a new volume; firmware variables and TPM state have sizes of their own.
fn allocation(
    key: &str,
    gibibytes: &str,
    format: Option<String>,
    options: &BTreeMap<String, String>,
) -> Result<(String, u64), String> {
    let format = format.unwrap_or_else(|| "raw".to_owned());
    if key == "efidisk0" {
        let large = options.get("efitype").is_some_and(|kind| kind == "4m");
        return Ok((format, if large { 540_672 } else { 131_072 }));
    }
    if key == "tpmstate0" {
        return Ok(("raw".to_owned(), 4 << 20));
    }
    let kibibytes = gibibytes
        .parse::<f64>()
        .map(|number| (number * f64::from(1u32 << 20)).ceil())
        .map_err(|_| format!("unable to parse size '{gibibytes}'"))?;
    Ok((format, (kibibytes as u64).saturating_mul(1024)))
}

fn new_volume(
    cluster: &Cluster,
    node: &str,
    name: VolumeName,
    size: u64,
    created: &mut Vec<VolumeName>,
    log: &mut Vec<String>,
) -> Result<String, String> {
    let path = cluster.allocate(&name, node, size)?;
    let volid = name.volid();
    if cluster.storage(&name.storage)?.zpool().is_some() {
        created.push(name);
        return Ok(volid);
    }
    let more = match name.format() {
        "qcow2" => format!(
            "cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib size={size} \
             lazy_refcounts=off refcount_bits=16"
        ),
        _ => format!("size={size} preallocation=off"),
    };
    log.push(format!(
        "Formatting '{}', fmt={} {more}",
        path.display(),
        name.format()
    ));
    created.push(name);
    Ok(volid)
}

fn attach(cluster: &Cluster, node: &str, key: &str, parts: &mut Parts) -> Result<(), String> {
    let name = cluster.parse_volume(&parts.volume)?;
    let storage = cluster.active_storage(&name.storage, node)?;
    if let Some(zpool) = storage.zpool() {
        zpool.await_device(&name.file, 10)?;
    }
    let format = name.format();
    let missing = || format!("volume '{}' does not exist", parts.volume);
    let volume = cluster.look_at_volume(name, node)?.ok_or_else(missing)?;
    if let Some(given) = parts.options.get("format")
        && given != format
        && format != "iso"
    {
        return Err(format!(
            "drive '{key}' - volume '{}' - 'format={given}' option different from storage format '{format}'",
            parts.volume
        ));
    }
    let Some(facts) = volume.facts else {
        return Err(format!(
            "qemu-img: Could not open '{}': Image is not in {format} format",
            volume.path.display()
        ));
    };
    if facts.size == 0 {
        return Err(missing());
    }
    parts
        .options
        .insert("size".to_owned(), format_size(facts.size));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_told_from_sizes() {
        let new = |storage, gibibytes| Wanted::New { storage, gibibytes };
        assert_eq!(wanted("data:0.5"), new("data", "0.5"));
        assert_eq!(wanted("data:32"), new("data", "32"));
        assert_eq!(wanted("data:100/vm-100-disk-0.raw"), Wanted::Existing);
        assert_eq!(wanted("none"), Wanted::Nothing);
        assert_eq!(wanted("/dev/sda"), Wanted::Path);
        assert_eq!(
            wanted("data:cloudinit"),
            Wanted::CloudInit { storage: "data" }
        );
    }

    #[test]
    fn options_are_written_in_order() {
        let parts = Parts::parse("scsi1", "data:100/a.raw,ssd=1,discard=on,size=1G");
        assert_eq!(parts.print(), "data:100/a.raw,discard=on,size=1G,ssd=1");
    }
}
