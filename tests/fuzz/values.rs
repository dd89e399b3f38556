//! Small values: property strings, drives, names, UPIDs, the file of a guest, proxmoverc.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use proptest::prelude::*;
use proxmove::cluster::task::{self, Upid};
use proxmove::pve::drive::{Drive, DriveKey};
use proxmove::pve::evacuation::{MemoryBasis, Policy, Reserve, Selector};
use proxmove::pve::guest_file::{Section, with_sections};
use proxmove::pve::ha::HaSid;
use proxmove::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, Volid, owner};
use proxmove::pve::inventory::Release;
use proxmove::pve::property::PropertyString;

use crate::mutations::text;

const PROPERTIES: [&str; 9] = [
    "virtio=BC:24:11:2C:6D:35,bridge=vmbr0,firewall=1,tag=12",
    "local-zfs:vm-100-disk-0,discard=on,iothread=1,size=32G,ssd=1",
    "local:565/vm-565-disk-0.qcow2,size=512M",
    "none,media=cdrom",
    "local:iso/debian-12.5.0-amd64-netinst.iso,media=cdrom,size=629M",
    "ceph:vm-7-cloudinit,media=cdrom",
    "file=tank:base-9-disk-0/vm-100-disk-1,backup=0,mbps_rd=10.5",
    "order=scsi0;ide2;net0",
    "/dev/disk/by-id/ata-WDC,serial=abc%20def",
];

const FILE: &str = "#web%20server\nboot: order=scsi0;ide2\ncores: 2\nide2: none,media=cdrom\nmemory: 2048\nname: web1\n\
    net0: virtio=BC:24:11:2C:6D:35,bridge=vmbr0\nparent: later\nscsi0: local:100/vm-100-disk-0.qcow2,size=32G\n\
    scsihw: virtio-scsi-single\n\n[PENDING]\ncores: 4\n\n[early]\ncores: 1\nsnaptime: 1700000000\n\n[later]\ncores: 2\n\
    parent: early\nsnaptime: 1700000100\n\n[special:cloudinit]\nname: web1\n";

/// The password in it.
const HIDDEN: &str = "Qz7hiddenQz7";

const RC: &str = "; a comment\n[pve:apple]\napi=https://mover@pve:Qz7hiddenQz7@apple.example.com:8006\nalso=node2, node3:8007\n\n\
    [pve:banana]\napi=https://banana.example.com:8006\ntoken=mover@pve!proxmove=12345678-1234-1234-1234-123456789abc\n\
    fingerprint=AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99\n\n\
    [storage:banana:local-ssd@node2]\nssh=root@node2.banana.example.com:2222\npath=/srv/local-ssd/images\n\
    temp=/srv/local-ssd/temp\npeer=root@10.0.0.2\n[storage:apple:tank]\nssh=root@apple\npath=zfs:tank/vms\ntemp=/root\n";

proptest! {
    #[test]
    fn fuzz_property_strings(text in text(&PROPERTIES)) {
        let read = PropertyString::parse(&text);
        let again = PropertyString::parse(&read.to_string());
        prop_assert_eq!(read.to_string(), again.to_string());
        for key in ["file", "size", "bridge", ""] {
            prop_assert_eq!(read.value(key), again.value(key));
        }
        let (_, _) = (read.bare(), again.bare());
    }

    #[test]
    fn fuzz_drives(key in text(&["scsi0", "virtio15", "ide2", "sata5", "efidisk0", "tpmstate0", "unused12"]),
                   value in text(&PROPERTIES)) {
        for key in DriveKey::from_str(&key).into_iter().chain(DriveKey::from_str("scsi1")) {
            prop_assert_eq!(DriveKey::from_str(&key.to_string()), Ok(key));
            if let Ok(drive) = Drive::parse(key, &value) {
                let again = Drive::parse(key, &drive.to_string());
                prop_assert_eq!(again.as_ref().map(Drive::volume), Ok(drive.volume()));
                let _ = (drive.is_cdrom(), drive.is_cloudinit());
            }
        }
    }

    #[test]
    fn fuzz_names(text in text(&[
        "local-zfs:vm-100-disk-0", "local:565/vm-565-disk-0.qcow2", "tank:base-9-disk-0/vm-100-disk-1", "node1", "100",
        "web-1.example.com", "vm:100", "ct:7", "8.4.1", "9.1-2~beta", "4096", "10%", "tag=prod", "pool=web", "migrate", "maximum",
    ])) {
        macro_rules! same {
            ($($kind:ty),*) => {$(
                if let Ok(value) = <$kind>::from_str(&text) {
                    prop_assert_eq!(<$kind>::from_str(&value.to_string()), Ok(value));
                }
            )*};
        }
        same!(Vmid, Volid, NodeName, StorageId, ClusterAlias, PoolId);
        if let Ok(volid) = Volid::from_str(&text) {
            let _ = volid.last_name();
        }
        if let Ok(sid) = HaSid::from_str(&text) {
            prop_assert!(HaSid::from_str(&sid.to_string()).is_ok());
        }
        let _ = owner(&text);
        let _ = (Release::from_str(&text).is_ok(), Policy::from_str(&text).is_ok(), Selector::from_str(&text).is_ok());
        let _ = (Reserve::from_str(&text).is_ok(), MemoryBasis::from_str(&text).is_ok());
    }

    #[test]
    fn fuzz_upids(text in text(&[
        "UPID:node1:000C5C2B:0A7D9B21:65B2C3D4:qmstart:100:root@pam:",
        "UPID:nodea1:00001234:00ABCDEF:5F3A2B1C:vzdump::mover@pve!token:",
        "UPID:n:1:2:3:qmigrate:7:a@b:",
    ])) {
        if let Ok(upid) = Upid::from_str(&text) {
            prop_assert_eq!(Upid::from_str(&upid.to_string()).map(|again| again.to_string()), Ok(upid.to_string()));
            let _ = (upid.node(), upid.started(), upid.kind(), upid.guest(), upid.user(), upid.migrates());
        }
        let _ = task::verdict(Some(&text), Some(&text));
        let _ = task::verdict(None, Some(&text));
    }

    #[test]
    fn fuzz_files_of_guests(file in text(&[FILE]), name in text(&["early", "a-new_one", "current"])) {
        let keys = BTreeMap::from([("snaptime".to_owned(), "5".to_owned()), ("cores".to_owned(), "3".to_owned())]);
        let section = Section {
            name: name.clone(),
            description: String::new(),
            keys,
        };
        if let Ok(with) = with_sections(&file, std::slice::from_ref(&section), Some(&name)) {
            // A repeat changes nothing, once all lines have an end.
            let with = with_sections(&with, std::slice::from_ref(&section), Some(&name));
            let Ok(with) = with else {
                return Err(TestCaseError::fail("a repeat is refused"));
            };
            let again = with_sections(&with, &[section], Some(&name));
            prop_assert_eq!(again, Ok(with));
        }
        let _ = with_sections(&file, &[], None);
    }

    #[test]
    fn fuzz_proxmoverc(text in text(&[RC, include_str!("../fixtures/config/twelve-problems.rc"), include_str!("../../proxmoverc.sample")])) {
        // What damage has made the name of a section or of a key is shown as that.
        let in_its_place = |line: &str| !line.contains(HIDDEN) || line.trim_start().starts_with("api=");
        let hidden = text.lines().all(in_its_place);
        if let Err(problems) = proxmove::config::parse(&text, "proxmoverc") {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!hidden || !problem.to_string().contains(HIDDEN), "{}", problem);
            }
        }
    }
}
