//! Turns a scenario into a world: directories, ISO files, disk images, guests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::guest::{Guest, Run, Snapshot};
use super::ha::HaManager;
use super::rights::User;
use super::scenario::{ClusterSpec, GuestSpec, Scenario, UserSpec};
use super::task::unix_now;
use super::{Cluster, Pool, World};
use crate::sim::api::check::format_size;

/// Builds the world under `directory`; every cluster gets a directory of its alias.
pub fn build(scenario: &Scenario, directory: &Path) -> io::Result<World> {
    let clusters = scenario
        .clusters
        .iter()
        .map(|spec| cluster(spec, &directory.join(&spec.alias)))
        .collect::<io::Result<_>>()?;
    Ok(World {
        clusters,
        pace: scenario.pace.clone(),
    })
}

fn cluster(spec: &ClusterSpec, directory: &Path) -> io::Result<Cluster> {
    let mut users: BTreeMap<String, User> = spec
        .users
        .iter()
        .map(|user| (user.id.clone(), user.clone()))
        .collect();
    users.entry("root@pam".to_owned()).or_insert(UserSpec {
        id: "root@pam".to_owned(),
        password: "root".to_owned(),
        ..UserSpec::default()
    });
    let mut cluster = Cluster {
        alias: spec.alias.clone(),
        version: spec.version.clone(),
        clock_skew: spec.clock_skew,
        nodes: spec.nodes.clone(),
        storages: spec.storages.clone(),
        users,
        pools: spec
            .pools
            .iter()
            .map(|name| (name.clone(), Pool::default()))
            .collect(),
        replication: spec.replication.clone(),
        ha: spec.ha.clone(),
        ha_groups: spec.ha_groups.clone(),
        ha_rules: spec.ha_rules.clone(),
        manager: HaManager::new(&spec.maintenance),
        mappings: spec.mappings.clone(),
        booted: BTreeMap::new(),
        power_requests: Vec::new(),
        history: Vec::new(),
        guests: BTreeMap::new(),
        boots: BTreeMap::new(),
        tasks: Vec::new(),
        broadcasts: BTreeMap::new(),
        filed: BTreeMap::new(),
        directory: directory.to_owned(),
        ticket_key: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        fingerprint: String::new(),
        born: Instant::now(),
        last_pid: 1_000,
    };
    directories(&cluster)?;
    for guest in &spec.guests {
        add_guest(&mut cluster, guest)?;
    }
    cluster.refresh_broadcasts();
    cluster.make_files()?;
    let vmids: Vec<u32> = cluster.guests.keys().copied().collect();
    for vmid in vmids {
        cluster.remember(vmid);
    }
    cluster.settle_ha();
    Ok(cluster)
}

fn directories(cluster: &Cluster) -> io::Result<()> {
    for node in &cluster.nodes {
        fs::create_dir_all(cluster.directory.join(&node.name))?;
        if !node.online {
            fs::write(cluster.power_off_file(&node.name), "")?;
        }
        for storage in &cluster.storages {
            if storage.kind != "dir"
                || !cluster.storage_serves(storage, &node.name)
                || storage.unmounted
            {
                continue;
            }
            let root = cluster.storage_path(storage, &node.name);
            fs::create_dir_all(root.join("images"))?;
            for (name, size) in &storage.isos {
                let path = root.join("template/iso").join(name);
                fs::create_dir_all(root.join("template/iso"))?;
                fs::File::create(path)?.set_len(*size)?;
            }
        }
    }
    Ok(())
}

fn add_guest(cluster: &mut Cluster, spec: &GuestSpec) -> io::Result<()> {
    let node = match spec.node.as_str() {
        "" => cluster
            .nodes
            .first()
            .map(|node| node.name.clone())
            .unwrap_or_default(),
        name => name.to_owned(),
    };
    let mut guest = Guest::new(spec.vmid, &node);
    guest.container = spec.kind == "lxc";
    guest.write_rate = spec.write_rate;
    guest.shutdown = spec.shutdown;
    guest.ignores_shutdown = spec.ignores_shutdown;
    guest.cpu = spec.cpu;
    guest.migration_fault = spec.migration_fault.clone();
    guest.config = spec.config.clone();
    let name_key = if guest.container { "hostname" } else { "name" };
    guest.config.insert(name_key.to_owned(), spec.name.clone());
    if !guest.container {
        fill_in(cluster, &mut guest, &node);
    }
    for disk in &spec.disks {
        let storage = cluster
            .storage(&disk.storage)
            .map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        let mut name = cluster.free_volume_name(storage, &node, spec.vmid, &disk.format);
        if guest.container && storage.kind == "zfspool" {
            name.file = name.file.replacen("vm-", "subvol-", 1);
        }
        cluster
            .allocate(&name, &node, disk.size)
            .map_err(io::Error::other)?;
        let mut value = name.volid();
        let mut options: Vec<String> = disk.options.split(',').map(str::to_owned).collect();
        options.push(format!("size={}", format_size(disk.size)));
        options.retain(|option| !option.is_empty());
        options.sort();
        if !disk.key.starts_with("unused") {
            for option in options {
                value.push(',');
                value.push_str(&option);
            }
        }
        guest.config.insert(disk.key.clone(), value);
    }
    if let Some(lock) = &spec.lock {
        guest.config.insert("lock".to_owned(), lock.clone());
    }
    if !guest.config.contains_key("boot") && !guest.container {
        let first = guest
            .drives()
            .map(|(key, _)| key.clone())
            .find(|key| !key.starts_with("efidisk") && !key.starts_with("tpmstate"));
        let order = first.map_or(" ".to_owned(), |key| format!("order={key}"));
        guest.config.insert("boot".to_owned(), order);
    }
    guest.pending = spec.pending.clone();
    let mut parent = None;
    for snapshot in &spec.snapshots {
        guest.snapshots.push(Snapshot {
            name: snapshot.name.clone(),
            description: snapshot.description.clone(),
            with_memory: snapshot.with_memory,
            taken: unix_now(),
            parent: parent.replace(snapshot.name.clone()),
            config: guest.config.clone(),
        });
    }
    if let Some(parent) = parent {
        guest.config.insert("parent".to_owned(), parent);
    }
    if spec.running {
        guest.run = Some(Run {
            pid: cluster.next_pid(),
            since: Instant::now(),
            qmp_status: spec
                .qmp_status
                .clone()
                .unwrap_or_else(|| "running".to_owned()),
        });
    }
    if let Some(pool) = &spec.pool {
        let pool = cluster.pools.entry(pool.clone()).or_default();
        pool.members.insert(spec.vmid);
    }
    cluster.guests.insert(spec.vmid, guest);
    Ok(())
}

/// Adds what every VM has that was created by the server: its ids and where it comes from.
pub fn fill_in(cluster: &Cluster, guest: &mut Guest, node: &str) {
    let mut default = |key: &str, value: String| {
        guest.config.entry(key.to_owned()).or_insert(value);
    };
    default("smbios1", format!("uuid={}", uuid()));
    default("vmgenid", uuid());
    default(
        "meta",
        format!(
            "creation-qemu={},ctime={}",
            cluster.qemu_version(node),
            unix_now()
        ),
    );
}

/// Returns a random UUID.
pub fn uuid() -> String {
    let random = fastrand::u128(..);
    let text = format!("{random:032x}");
    format!(
        "{}-{}-4{}-a{}-{}",
        &text[..8],
        &text[8..12],
        &text[13..16],
        &text[17..20],
        &text[20..]
    )
}

/// Returns a random MAC address of Proxmox's own range.
pub fn mac() -> String {
    let random = fastrand::u32(..);
    format!(
        "BC:24:11:{:02X}:{:02X}:{:02X}",
        random & 0xff,
        (random >> 8) & 0xff,
        (random >> 16) & 0xff
    )
}
