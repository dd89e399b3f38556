use proptest::prelude::*;

use super::*;

fn permissions(entries: &[(&str, &[(&str, bool)])]) -> Permissions {
    Permissions(
        entries
            .iter()
            .map(|(path, privileges)| {
                let privileges = privileges
                    .iter()
                    .map(|(name, down)| ((*name).to_owned(), *down));
                ((*path).to_owned(), privileges.collect())
            })
            .collect(),
    )
}

#[test]
fn the_nearest_entry_decides() {
    let rights = permissions(&[
        ("/", &[("Sys.Audit", true)]),
        ("/vms", &[("VM.Audit", true), ("VM.Allocate", false)]),
        ("/vms/100", &[("VM.PowerMgmt", false)]),
    ]);
    for (path, privilege, allowed) in [
        ("/vms", "VM.Allocate", true),
        ("/vms/101", "VM.Allocate", false),
        ("/vms/101", "VM.Audit", true),
        ("/vms/100", "VM.PowerMgmt", true),
        ("/vms/100", "VM.Audit", false),
        ("/nodes/a", "Sys.Audit", true),
        ("/vms", "Sys.Audit", false),
        ("", "Sys.Audit", true),
    ] {
        assert_eq!(
            rights.allows(path, privilege),
            allowed,
            "{path} {privilege}"
        );
    }
    assert!(!Permissions::default().allows("/vms/100", "VM.Audit"));
}

#[test]
fn releases_are_compared() {
    let release = |text: &str| text.parse::<Release>();
    assert_eq!(release("8.4").map(|r| (r.major, r.minor)), Ok((8, 4)));
    assert_eq!(release("7.4-17").map(|r| (r.major, r.minor)), Ok((7, 4)));
    assert_eq!(release("9").map(|r| (r.major, r.minor)), Ok((9, 0)));
    assert!(release("pve").is_err());
    assert!(release("8.4").expect("in order") < release("9.0").expect("in order"));
}

#[test]
fn numbered_keys_are_found_in_the_schema() {
    let schema = ConfigSchema(
        ["net[n]", "numa", "numa[n]", "efidisk0", "memory"]
            .into_iter()
            .map(|key| (key.to_owned(), None))
            .collect(),
    );
    for (key, known) in [
        ("net0", true),
        ("net31", true),
        ("numa", true),
        ("numa1", true),
        ("efidisk0", true),
        ("memory", true),
        ("memory1", false),
        ("virtiofs0", false),
        ("", false),
    ] {
        assert_eq!(schema.entry(key).is_some(), known, "{key}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(path in "\\PC{0,20}", text in "\\PC{0,12}") {
        let rights = permissions(&[("/vms", &[("VM.Audit", true)])]);
        let _ = rights.allows(&path, "VM.Audit");
        let _ = text.parse::<Release>();
        let _ = ConfigSchema::default().entry(&text);
    }
}
