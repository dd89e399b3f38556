use proptest::prelude::*;

use super::*;

#[test]
fn parts_are_found_set_and_removed() {
    let mut value = PropertyString::parse("virtio=BC:24:11:00:00:01,bridge=vmbr0,,firewall=1");
    assert_eq!(value.value("bridge"), Some("vmbr0"));
    assert_eq!(value.bare(), None);
    value.set("bridge", "vmbr7");
    value.set("mtu", "1400");
    assert!(value.remove("firewall"));
    assert!(!value.remove("firewall"));
    assert_eq!(
        value.to_string(),
        "virtio=BC:24:11:00:00:01,bridge=vmbr7,mtu=1400"
    );
    assert_eq!(
        PropertyString::parse("1,fstrim_cloned_disks=1").bare(),
        Some("1")
    );
    // Only the first '=' parts key from value: base64 padding stays.
    assert_eq!(
        PropertyString::parse("product=dm0=,base64=1").value("product"),
        Some("dm0=")
    );
}

proptest! {
    #[test]
    fn parsing_never_fails_and_is_stable(text in "\\PC{0,80}") {
        let once = PropertyString::parse(&text);
        prop_assert_eq!(PropertyString::parse(&once.to_string()), once);
    }

    #[test]
    fn setting_keeps_all_other_parts(text in "([a-z]{1,4}=[a-z0-9]{1,4},){0,5}", key in "[a-z]{1,4}", value in "[a-z0-9]{1,4}") {
        let before = PropertyString::parse(&text);
        let mut after = before.clone();
        after.set(&key, value.clone());
        prop_assert_eq!(after.value(&key), Some(value.as_str()));
        for (other, kept) in before.parts.iter().filter(|(k, _)| k.as_deref() != Some(key.as_str())) {
            prop_assert!(after.parts.contains(&(other.clone(), kept.clone())));
        }
    }
}
