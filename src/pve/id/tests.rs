use proptest::prelude::*;

use super::*;

#[test]
fn vmids_are_100_to_999999999() {
    for (text, good) in [
        ("99", false),
        ("100", true),
        ("999999999", true),
        ("1000000000", false),
        ("+100", false),
        ("0100", false),
        ("-100", false),
        ("", false),
        ("1e3", false),
    ] {
        assert_eq!(text.parse::<Vmid>().is_ok(), good, "{text}");
    }
}

#[test]
fn names_are_checked() {
    fn check<T: FromStr>(good: &[&str], wrong: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text}");
        }
        for text in wrong {
            assert!(text.parse::<T>().is_err(), "{text}");
        }
    }
    check::<StorageId>(
        &["local", "local-zfs", "node2_ssd.1"],
        &["", "-a", "a/b", "a:b", "a b", "ä"],
    );
    check::<PoolId>(
        &["a", "a/b", "Customer-1", "_x", "a.b"],
        &["", "/a", "a/", "a//b", "a/../b", "..", "a b"],
    );
    check::<NodeName>(&["node1", "pve-2.example"], &["", "-x", "a/b", "a_b"]);
    check::<Volid>(
        &[
            "local:100/vm-100-disk-0.raw",
            "tank:vm-1-disk-0",
            "l:iso/a b.iso",
        ],
        &[
            "local",
            "local:",
            ":x",
            "local:/etc/passwd",
            "local:a/../b",
            "local:..",
            "l:a\nb",
        ],
    );
}

#[test]
fn a_wrong_id_says_what_was_expected() {
    assert_eq!(
        "1".parse::<Vmid>().expect_err("not in order").to_string(),
        "'1' is not a valid VMID (100 to 999999999)"
    );
}

proptest! {
    #[test]
    fn what_is_accepted_is_shown_as_it_was(text in "\\PC{0,24}") {
        if let Ok(id) = text.parse::<Vmid>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(id) = text.parse::<StorageId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(id) = text.parse::<PoolId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(id) = text.parse::<Volid>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn no_volume_name_climbs_out(text in "[a-z]{1,3}:[./a-z]{1,16}") {
        if let Ok(volid) = text.parse::<Volid>() {
            let path = format!("/x/{}/", volid.volname);
            prop_assert!(!path.contains("/../"), "{}", path);
        }
    }
}

#[test]
fn a_volumes_name_says_whose_it_is() {
    for (name, expect) in [
        ("100/vm-100-disk-0.qcow2", Some(100)),
        ("100/anything.raw", Some(100)),
        ("vm-126-disk-0", Some(126)),
        ("vm-126-cloudinit", Some(126)),
        ("base-126-disk-0", Some(126)),
        ("subvol-126-disk-0", Some(126)),
        ("basevol-126-disk-0", Some(126)),
        ("base-9000-disk-0/vm-126-disk-1", Some(126)),
        (
            "9000/base-9000-disk-0.qcow2/126/vm-126-disk-0.qcow2",
            Some(126),
        ),
        ("iso/debian.iso", None),
        ("vm-126", None),
        ("vm-1-disk-0", None),
        ("backup/vzdump-qemu-126-2026.vma", None),
        ("", None),
    ] {
        assert_eq!(owner(name).map(Vmid::number), expect, "{name}");
    }
}
