use proptest::prelude::*;

use super::*;

fn check(key: &str, value: &str, expect: &str) {
    let key: DriveKey = key.parse().expect("a drive key");
    let shown = match Drive::parse(key, value) {
        Ok(drive) => format!(
            "{} {:?} cdrom={} cloudinit={}",
            drive,
            drive.volume().map(ToString::to_string),
            drive.is_cdrom(),
            drive.is_cloudinit()
        ),
        Err(error) => error.to_string(),
    };
    assert_eq!(shown, expect, "{value}");
}

#[test]
fn drives_are_understood() {
    check(
        "virtio0",
        "local:100/vm-100-disk-0.qcow2,discard=on,size=4G",
        "local:100/vm-100-disk-0.qcow2,discard=on,size=4G Some(\"local:100/vm-100-disk-0.qcow2\") cdrom=false cloudinit=false",
    );
    check(
        "scsi1",
        "size=4G,file=tank:vm-100-disk-1",
        "tank:vm-100-disk-1,size=4G Some(\"tank:vm-100-disk-1\") cdrom=false cloudinit=false",
    );
    check(
        "ide2",
        "none,media=cdrom",
        "none,media=cdrom None cdrom=true cloudinit=false",
    );
    check("ide2", "cdrom", "cdrom None cdrom=true cloudinit=false");
    check(
        "ide2",
        "local:100/vm-100-cloudinit.qcow2,media=cdrom,size=4M",
        "local:100/vm-100-cloudinit.qcow2,media=cdrom,size=4M Some(\"local:100/vm-100-cloudinit.qcow2\") cdrom=true cloudinit=true",
    );
    check(
        "ide2",
        "iso:iso/tiny.iso,media=cdrom",
        "iso:iso/tiny.iso,media=cdrom Some(\"iso:iso/tiny.iso\") cdrom=true cloudinit=false",
    );
    check(
        "scsi2",
        "/dev/disk/by-id/x,size=1G",
        "/dev/disk/by-id/x,size=1G None cdrom=false cloudinit=false",
    );
    check(
        "scsi0",
        "size=4G",
        "'size=4G' is not a valid drive value (STORAGE:VOLUME,...)",
    );
    check(
        "scsi0",
        "local:../../etc/shadow",
        "'local:../../etc/shadow' is not a valid volume id (STORAGE:VOLUME)",
    );
}

#[test]
fn slots_are_counted_as_pve_counts() {
    for (text, good) in [
        ("scsi30", true),
        ("scsi31", false),
        ("ide3", true),
        ("ide4", false),
        ("sata5", true),
        ("sata6", false),
        ("virtio15", true),
        ("virtio16", false),
        ("efidisk0", true),
        ("efidisk1", false),
        ("unused255", true),
        ("scsi", false),
        ("scsi+5", false),
        ("scsi05", false),
        ("scsihw", false),
        ("net0", false),
        ("", false),
    ] {
        assert_eq!(text.parse::<DriveKey>().is_ok(), good, "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(key in "\\PC{0,12}", value in "\\PC{0,60}") {
        let _ = key.parse::<DriveKey>();
        let _ = Drive::parse(DriveKey { bus: Bus::Scsi, index: 0 }, &value);
    }

    #[test]
    fn a_drive_survives_being_written_and_read(
        volume in "[a-z]{1,6}:[0-9]{3}/[a-z0-9.-]{1,12}",
        properties in proptest::collection::vec(("[a-z_]{1,8}", "[a-zA-Z0-9:+/.-]{1,8}"), 0..5),
    ) {
        let mut text = volume;
        for (key, value) in properties.iter().filter(|(key, _)| key != "file" && key != "volume") {
            text.push_str(&format!(",{key}={value}"));
        }
        let key = DriveKey { bus: Bus::Virtio, index: 3 };
        if let Ok(drive) = Drive::parse(key, &text) {
            prop_assert_eq!(drive.to_string(), text.clone());
            prop_assert_eq!(Drive::parse(key, &drive.to_string()), Ok(drive));
        }
    }

    #[test]
    fn a_key_survives_being_written_and_read(text in "(ide|sata|scsi|virtio|efidisk|tpmstate|unused)[0-9]{1,3}") {
        if let Ok(key) = text.parse::<DriveKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}
