//! One case per key: what becomes of it.

use std::collections::{BTreeMap, BTreeSet};

use super::drives::{self, Sparse};
use super::schema::Fit;
use super::*;
use crate::plan::sample::{World, code, id, release, storage};
use crate::pve::drive::Drive;
use crate::pve::inventory::ConfigSchema;
use proptest::prelude::*;

/// What becomes of one key: `create`, `finish`, notes (`key action`) and codes, in one text.
fn shown(lines: &str, change: impl FnOnce(&mut World)) -> String {
    let mut world = World::of(lines);
    world.target.user = "mover@pve".to_owned();
    change(&mut world);
    let drives: BTreeSet<DriveKey> = world
        .guest()
        .detail
        .config
        .drives()
        .0
        .iter()
        .map(|drive| drive.key)
        .collect();
    let guest = world.source.wanted["web1"].clone();
    let out = translate(&Input {
        name: "web1",
        guest: &guest,
        source_release: world.source.release,
        target: &world.target,
        vmid: id("126"),
        bridges: &world.request.bridges,
        drives: &drives,
        onboot: guest.detail.config.value("onboot") == Some("1"),
        root: world.target.user == "root@pam",
    });
    let pairs = |map: &BTreeMap<String, String>| {
        map.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut parts = Vec::new();
    if !out.create.is_empty() {
        parts.push(format!("create {}", pairs(&out.create)));
    }
    if !out.finish.is_empty() {
        parts.push(format!("finish {}", pairs(&out.finish)));
    }
    parts.extend(
        out.changes
            .iter()
            .map(|note| format!("{} {}", note.key, note.action)),
    );
    parts.extend(out.verdicts.iter().map(code));
    for note in &out.changes {
        assert!(!note.reason.is_empty(), "{note:?}");
    }
    parts.join(", ")
}

fn check(line: &str, expect: &str) {
    assert_eq!(shown(line, |_| {}), expect, "{line}");
}

#[test]
fn keys_that_mean_the_same_everywhere_are_copied() {
    for key in super::COPIED {
        let expect = format!("create {key}=1");
        check(&format!("{key}: 1"), &expect);
    }
    check("ipconfig0: ip=dhcp", "create ipconfig0=ip=dhcp");
    check(
        "agent: 1,fstrim_cloned_disks=1",
        "create agent=1,fstrim_cloned_disks=1",
    );
    check(
        "sshkeys: ssh-ed25519%20AAAA%3D%3D%20x%40y",
        "create sshkeys=ssh-ed25519%20AAAA%3D%3D%20x%40y",
    );
}

/// All configuration keys of PVE 9.2 that GET config may show.
const KEYS: &str = "acpi affinity agent allow-ksm amd-sev arch args audio0 autostart balloon bios boot bootdisk cicustom \
    cipassword citype ciupgrade ciuser cores cpu cpulimit cpuunits description efidisk0 freeze hookscript hostpci0 \
    hotplug hugepages ide0 intel-tdx ipconfig0 ivshmem keephugepages keyboard kvm localtime lock machine memory meta \
    migrate_downtime migrate_speed name nameserver net0 numa numa0 onboot ostype parallel0 parent protection reboot \
    rng0 running-nets-host-mtu runningcpu runningmachine sata0 scsi0 scsihw searchdomain serial0 shares smbios1 smp \
    snaptime sockets spice_enhancements sshkeys startdate startup tablet tags tdf template tpmstate0 unused0 usb0 vcpus \
    vga virtio0 virtiofs0 vmgenid vmstate vmstatestorage watchdog digest";

#[test]
fn every_key_of_the_newest_release_has_a_rule() {
    for key in KEYS.split_whitespace() {
        assert!(!matches!(rule(key), Rule::Unknown), "{key}");
    }
}

#[test]
fn what_is_carried_elsewhere_is_left_alone() {
    for key in ["name", "description", "digest"] {
        check(&format!("{key}: x"), "");
    }
    check("onboot: 1", "finish onboot=1");
    check("onboot: 0", "");
}

#[test]
fn bookkeeping_is_dropped_with_a_note() {
    for key in [
        "meta",
        "parent",
        "snaptime",
        "runningmachine",
        "runningcpu",
        "running-nets-host-mtu",
        "smp",
        "affinity",
    ] {
        check(&format!("{key}: x"), &format!("{key} dropped"));
    }
}

#[test]
fn keys_of_root_are_refused_or_dropped() {
    for key in ["args", "hookscript", "amd-sev", "intel-tdx"] {
        check(
            &format!("{key}: x"),
            &format!("{key} needs root, !key-needs-root"),
        );
    }
    for key in [
        "hugepages",
        "keephugepages",
        "spice_enhancements",
        "vmgenid",
    ] {
        check(&format!("{key}: x"), &format!("{key} dropped"));
    }
    check("arch: aarch64", "arch needs root, !key-needs-root");
    check("arch: x86_64", "arch dropped");
    let root = |world: &mut World| world.target.user = "root@pam".to_owned();
    assert_eq!(shown("args: -x", root), "create args=-x, key-of-the-host");
    assert_eq!(shown("vmgenid: x", root), "create vmgenid=x");
    assert_eq!(shown("hugepages: 2", root), "create hugepages=2");
    // A token of root is not root.
    let token = |world: &mut World| world.target.user = "root@pam!x".to_owned();
    assert_eq!(shown("args: -x", token), "args needs root, !key-needs-root");
    assert_eq!(
        shown("ostype: win11\nvmgenid: x", |_| {}),
        "create ostype=win11, vmgenid dropped, vmgenid-new"
    );
}

#[test]
fn protection_and_start_order_come_last() {
    check(
        "protection: 1",
        "finish protection=1, protection kept for later",
    );
    check("startup: order=2", "startup dropped, startup-dropped");
    let right = |world: &mut World| {
        let held = BTreeMap::from([("Sys.Modify".to_owned(), true)]);
        world.target.permissions.0.insert("/".to_owned(), held);
    };
    assert_eq!(
        shown("startup: order=2,up=30", right),
        "finish startup=order=2,up=30, startup kept for later"
    );
}

#[test]
fn boot_orders_name_only_what_will_exist() {
    check(
        "boot: order=virtio0;net0\nvirtio0: san:565/a.raw\nnet0: virtio=X",
        "create net0=virtio=X, finish boot=order=virtio0;net0, boot kept for later",
    );
    check(
        "boot: order=virtio0;ide2;net0\nvirtio0: san:565/a.raw",
        "finish boot=order=virtio0, boot changed, boot kept for later",
    );
    check("boot: order=ide2", "boot changed");
    check(
        "boot: cdn\nbootdisk: scsi0\nscsi0: san:565/a.raw",
        "finish boot=cdn bootdisk=scsi0, boot kept for later",
    );
    check("bootdisk: scsi0", "boot kept for later");
    // What Proxmox VE assumes: the first disk, the first CD-ROM drive, the first card.
    check(
        "sata0: san:565/b.raw\nscsi0: san:565/a.raw\nide2: none,media=cdrom\nnet3: virtio=X\nefidisk0: san:565/e.raw",
        "create net3=virtio=X, finish boot=order=scsi0;ide2;net3, boot added",
    );
}

#[test]
fn smbios_texts_are_encoded_where_they_must() {
    check(
        "smbios1: uuid=76223226-e334-488c-ae8a-a174690e2803",
        "create smbios1=uuid=76223226-e334-488c-ae8a-a174690e2803",
    );
    check(
        "smbios1: uuid=1-2,base64=1,product=dm0=",
        "create smbios1=uuid=1-2,base64=1,product=dm0=",
    );
    check(
        "smbios1: uuid=1-2,manufacturer=Acme",
        "create smbios1=uuid=1-2,manufacturer=Acme",
    );
    check(
        "smbios1: uuid=1-2,manufacturer=Acme Inc.,product=vm",
        "create smbios1=uuid=1-2,manufacturer=QWNtZSBJbmMu,product=dm0=,base64=1, smbios1 changed",
    );
}

#[test]
fn processors_and_memory_fit_the_target() {
    check("cpu: host,flags=+aes;-x", "create cpu=host,flags=+aes;-x");
    check("cpu: custom-fast", "!cpu-custom");
    check("cpu: x86-64-v2-AES", "create cpu=x86-64-v2-AES");
    let old = |world: &mut World| world.target.release = release("7.4");
    assert_eq!(shown("cpu: cputype=x86-64-v2-AES", old), "!cpu-too-new");
    assert_eq!(
        shown("memory: current=2048", old),
        "create memory=2048, memory changed"
    );
    check("memory: current=2048", "create memory=current=2048");
    check("memory: 2048", "create memory=2048");
    check("cpuunits: 1024", "create cpuunits=1024");
    let ancient = |world: &mut World| world.source.release = release("6.4");
    assert_eq!(shown("cpuunits: 1024", ancient), "cpuunits dropped");
    assert_eq!(shown("cpuunits: 2048", ancient), "create cpuunits=2048");
    check("numa: 1", "create numa=1");
    check(
        "numa0: cpus=0-1,hostnodes=0,memory=1024,policy=bind",
        "create numa0=cpus=0-1,memory=1024, numa0 changed",
    );
    check(
        "rng0: source=/dev/urandom",
        "create rng0=source=/dev/urandom",
    );
    assert_eq!(
        shown("rng0: source=/dev/urandom", old),
        "rng0 needs root, !key-needs-root"
    );
}

#[test]
fn machines_must_be_known_to_the_target() {
    let machines = |world: &mut World| {
        world.target.machines = [
            "pc",
            "q35",
            "pc-i440fx-5.1",
            "pc-i440fx-9.0",
            "pc-i440fx-9.2+pve1",
            "pc-q35-9.2",
        ]
        .map(str::to_owned)
        .to_vec();
    };
    for (value, expect) in [
        ("q35", "create machine=q35"),
        ("pc-i440fx-9.0", "create machine=pc-i440fx-9.0"),
        ("pc-i440fx-8.1", "create machine=pc-i440fx-8.1"),
        ("pc-i440fx-9.2+pve1", "create machine=pc-i440fx-9.2+pve1"),
        ("pc-i440fx-10.0+pve1", "!machine-too-new"),
        ("pc-i440fx-9.2+pve2", "!machine-too-new"),
        ("pc-i440fx-2.4", "!machine-too-old"),
        ("type=pc-q35-10.1,viommu=intel", "!machine-too-new"),
        (
            "type=pc-q35-9.2,viommu=intel",
            "create machine=type=pc-q35-9.2,viommu=intel",
        ),
        ("odd", "create machine=odd"),
    ] {
        assert_eq!(
            shown(&format!("machine: {value}"), machines),
            expect,
            "{value}"
        );
    }
    check("machine: pc-i440fx-99.0", "create machine=pc-i440fx-99.0");
}

#[test]
fn cloud_init_is_carried_as_far_as_the_api_tells() {
    check("cipassword: **********", "cipassword dropped, cipassword");
    check("cicustom: user=snip:snippets/a.yml", "!cicustom");
    let snippets = |world: &mut World| {
        world
            .target
            .storages
            .push(storage("snip", "dir", &["snippets"]));
    };
    assert_eq!(
        shown("cicustom: user=snip:snippets/a.yml", snippets),
        "create cicustom=user=snip:snippets/a.yml, cicustom"
    );
    check("vmstatestorage: tank", "vmstatestorage dropped");
    check("vmstatestorage: ssd", "create vmstatestorage=ssd");
}

#[test]
fn network_cards_keep_their_address_and_change_their_bridge() {
    let map = |world: &mut World| {
        world
            .request
            .bridges
            .insert("vmbr0".to_owned(), "vmbr1".to_owned());
    };
    assert_eq!(
        shown("net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5", map),
        "create net0=virtio=BC:24:11:00:00:01,bridge=vmbr1,tag=5, finish boot=order=net0, net0 changed, boot added"
    );
    assert_eq!(
        shown("net0: virtio=BC:24:11:00:00:01,bridge=vmbr7", map),
        "create net0=virtio=BC:24:11:00:00:01,bridge=vmbr7, finish boot=order=net0, boot added"
    );
}

#[test]
fn devices_of_the_host_are_not_copied() {
    for line in [
        "hostpci0: 01:00.0",
        "usb0: host=1:2",
        "serial0: /dev/ttyS0",
        "parallel0: /dev/parport0",
        "virtiofs0: x",
        "ivshmem: size=1",
    ] {
        check(line, "");
    }
    check("serial0: socket", "create serial0=socket");
    check("usb0: spice", "create usb0=spice");
}

fn schema(world: &mut World) {
    let keys = [
        ("memory", None),
        ("agent", Some(vec!["enabled", "type"])),
        ("machine", Some(vec!["type"])),
        ("net[n]", Some(vec!["virtio", "bridge"])),
        ("sshkeys", None),
        ("newkey", None),
        ("boot", None),
    ];
    world.target.schema = Some(ConfigSchema(
        keys.into_iter()
            .map(|(key, parts)| {
                let parts = parts.map(|parts| parts.into_iter().map(str::to_owned).collect());
                (key.to_owned(), parts)
            })
            .collect(),
    ));
}

#[test]
fn the_targets_schema_decides_what_it_knows() {
    for (line, expect) in [
        ("memory: 2048", "create memory=2048"),
        ("allow-ksm: 0", "allow-ksm dropped"),
        ("reboot: 0", "!key-unsupported"),
        (
            "agent: enabled=1,freeze-fs=0",
            "create agent=enabled=1, agent changed",
        ),
        (
            "machine: type=q35,viommu=intel",
            "create machine=type=q35,viommu=intel, !key-unsupported",
        ),
        (
            "net0: virtio=X,bridge=vmbr0,mtu=9000",
            "create net0=virtio=X,bridge=vmbr0,mtu=9000, finish boot=order=net0, boot added, !key-unsupported",
        ),
        ("sshkeys: a=b", "create sshkeys=a=b"),
        ("newkey: 1", "create newkey=1, newkey copied"),
        ("otherkey: 1", "!key-unsupported"),
    ] {
        assert_eq!(shown(line, schema), expect, "{line}");
    }
    check("otherkey: 1", "!key-unsupported");
}

#[test]
fn without_a_schema_the_release_decides() {
    let old = |world: &mut World| world.target.release = release("6.4");
    for (line, expect) in [
        ("ciupgrade: 1", "ciupgrade dropped"),
        ("allow-ksm: 0", "allow-ksm dropped"),
        (
            "agent: 1,freeze-fs-on-backup=0",
            "create agent=1, agent changed",
        ),
        ("vga: qxl,clipboard=vnc", "create vga=qxl, vga changed"),
    ] {
        assert_eq!(shown(line, old), expect, "{line}");
    }
}

fn attached(key: &str, value: &str, change: impl FnOnce(&mut World)) -> String {
    let mut world = World::new();
    change(&mut world);
    let drive = Drive::parse(id(key), value).expect("a drive");
    let fit = Fit::of(&world.target);
    let volid = id("ssd:126/vm-126-disk-0.qcow2");
    let out = drives::attached("web1", &drive, &volid, Sparse::Yes, &fit);
    let mut parts = vec![out.value];
    parts.extend(out.notes.iter().map(|note| note.action.to_owned()));
    parts.extend(out.verdicts.iter().map(code));
    parts.join(" ")
}

#[test]
fn drives_keep_their_properties() {
    let volume = "san:565/vm-565-disk-0.qcow2";
    for (key, properties, expect) in [
        (
            "virtio0",
            "format=qcow2,iops_rd=4000,iops_wr=500,size=50G",
            ",iops_rd=4000,iops_wr=500,discard=on added",
        ),
        (
            "scsi0",
            "discard=ignore,iothread=1,ssd=1",
            ",discard=ignore,iothread=1,ssd=1",
        ),
        ("sata0", "cache=writeback", ",cache=writeback"),
        ("ide0", "serial=abc,size=4G", ",serial=abc"),
        (
            "efidisk0",
            "efitype=4m,pre-enrolled-keys=1,size=528K",
            ",efitype=4m,pre-enrolled-keys=1",
        ),
        ("tpmstate0", "size=4M,version=v2.0", ",version=v2.0"),
        ("scsi0", "shared=1,discard=on", ",discard=on changed"),
        (
            "ide0",
            "cyls=1,heads=2,secs=3,trans=none",
            " changed changed changed changed",
        ),
        (
            "scsi0",
            "replicate=0,backup=0,discard=on",
            ",replicate=0,backup=0,discard=on",
        ),
    ] {
        let shown = attached(key, &format!("{volume},{properties}"), |_| {});
        assert_eq!(
            shown,
            format!("ssd:126/vm-126-disk-0.qcow2{expect}"),
            "{key} {properties}"
        );
    }
    let old = |world: &mut World| world.target.release = release("7.0");
    assert_eq!(
        attached("scsi0", &format!("{volume},product=x,discard=on"), old),
        "ssd:126/vm-126-disk-0.qcow2,discard=on !key-unsupported"
    );
    assert_eq!(
        attached("tpmstate0", &format!("{volume},version=v2.0"), old),
        "ssd:126/vm-126-disk-0.qcow2,version=v2.0 !key-unsupported"
    );
    let drive = Drive::parse(id("scsi0"), volume).expect("a drive");
    let world = World::new();
    let thick = drives::attached(
        "web1",
        &drive,
        &id("ssd:x"),
        Sparse::No,
        &Fit::of(&world.target),
    );
    assert_eq!(thick.value, "ssd:x");
}

proptest! {
    #[test]
    fn no_key_is_lost_silently(key in "[a-z]{1,10}[0-9]{0,2}", value in "[a-z0-9=,:;/-]{1,24}") {
        let result = shown(&format!("{key}: {value}"), |_| {});
        let elsewhere = matches!(rule(&key), Rule::Elsewhere | Rule::Device);
        prop_assert!(elsewhere || !result.is_empty(), "{key}: {value}");
    }

    #[test]
    fn no_value_panics(key in prop::sample::select(vec!["smbios1", "machine", "cpu", "boot", "net0", "numa0", "memory", "cicustom", "agent", "scsi0", "efidisk0"]), value in "[ -~]{0,40}") {
        let mut world = World::new();
        world.guest().detail.config.0.insert(key.to_owned(), value);
        let _ = world.codes();
    }
}
