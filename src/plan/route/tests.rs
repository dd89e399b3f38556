use super::*;
use crate::config::SshAddress;
use crate::plan::sample::{host, id, release, section};

#[test]
fn the_table_of_engines_is_asked_by_place() {
    let directory = section("apple", "san", "h", "/images");
    let zfs = section("banana", "tank", "h", "zfs:tank/images");
    let engine = |a, b| super::engine(a, b).map(|capability| capability.engine);
    assert_eq!(engine(&directory, &directory), Ok(EngineKind::Image));
    assert_eq!(engine(&zfs, &directory), Ok(EngineKind::Image));
    assert_eq!(engine(&directory, &zfs), Ok(EngineKind::Image));
    assert_eq!(engine(&zfs, &zfs), Ok(EngineKind::Zfs));
    for (kind, expect) in [
        ("dir", Some(Place::Directory)),
        ("cifs", Some(Place::Directory)),
        ("zfspool", Some(Place::Zfs)),
        ("zfs", None),
        ("lvmthin", None),
    ] {
        assert_eq!(place(kind), expect, "{kind}");
        assert_eq!(
            STORAGE_KINDS.split(", ").any(|word| word == kind),
            expect.is_some()
        );
    }
}

#[test]
fn formats_are_kept_unless_the_target_cannot_use_them() {
    for (key, format, target, expect) in [
        ("scsi0", Format::Qcow2, "8.4", Format::Qcow2),
        ("scsi0", Format::Raw, "8.4", Format::Raw),
        ("efidisk0", Format::Qcow2, "8.4", Format::Qcow2),
        ("tpmstate0", Format::Qcow2, "8.4", Format::Raw),
        ("tpmstate0", Format::Qcow2, "9.0", Format::Qcow2),
        ("tpmstate0", Format::Raw, "9.0", Format::Raw),
    ] {
        assert_eq!(
            target_format(id(key), format, release(target), Place::Directory),
            expect,
            "{key}"
        );
        let zvol = target_format(id(key), format, release(target), Place::Zfs);
        assert_eq!(zvol, Format::Raw, "{key}");
    }
    assert_eq!(format("vmdk"), None);
    for word in ["raw", "qcow2"] {
        assert_eq!(format(word).map(extension), Some(word));
    }
}

#[test]
fn the_porter_runs_where_it_can() {
    let check = |change: fn(&mut HostFacts), converts, expect: &str| {
        let (good, mut other) = (host("good"), host("other"));
        change(&mut other);
        for (a, b) in [(&good, &other), (&other, &good)] {
            let image = between(Place::Directory, Place::Directory).expect("in the table");
            let shown = match tool(image, a, b, converts) {
                Ok((tool, why)) => format!("{tool:?}: {why}"),
                Err(why) => format!("{}: {}", why.code, why.reason),
            };
            assert_eq!(shown, expect);
        }
    };
    check(|_| {}, true, "Porter: the porter runs on both hosts");
    check(
        |host| host.temp.executable = false,
        false,
        "Stock: dd and sha256sum, slower and without compression, because nothing may be run from temp on other",
    );
    check(
        |host| host.temp.executable = false,
        true,
        "tool-missing: the format must be converted, which only the porter can do, and nothing may be run from temp on \
         other",
    );
    check(
        |host| {
            host.system = "FreeBSD".to_owned();
            host.tools.remove("sha256sum");
        },
        false,
        "tool-missing: the porter cannot run (other runs FreeBSD), and other has no sha256sum",
    );
    let mut other = host("other");
    other.architecture = "riscv128".to_owned();
    let image = between(Place::Directory, Place::Directory).expect("in the table");
    let (chosen, why) = tool(image, &host("good"), &other, false).expect("in order");
    assert_eq!(chosen, Tool::Stock);
    assert!(
        why.contains("other is riscv128, proxmove is built for"),
        "{why}"
    );
    // Between pools the tools of ZFS are enough; with ZFS on one side only, nothing but the porter is.
    let zfs = between(Place::Zfs, Place::Zfs).expect("in the table");
    let why = tool(zfs, &host("good"), &other, false).expect_err("not in order");
    assert!(why.reason.ends_with("good has no zfs"), "{}", why.reason);
    let mut good = host("good");
    good.tools.insert("zfs".to_owned());
    other.tools = ["zfs".to_owned()].into();
    let (chosen, why) = tool(zfs, &good, &other, false).expect("in order");
    assert_eq!(chosen, Tool::Stock);
    assert!(why.starts_with("zfs alone, relayed"), "{why}");
    for (a, b) in [
        (Place::Zfs, Place::Directory),
        (Place::Directory, Place::Zfs),
    ] {
        let one_sided = between(a, b).expect("in the table");
        let why = tool(one_sided, &good, &other, false).expect_err("not in order");
        assert_eq!(why.code, "tool-missing");
        assert!(
            why.reason.starts_with("ZFS is on one side only"),
            "{}",
            why.reason
        );
    }
}

#[test]
fn the_route_is_direct_where_that_is_safe() {
    let direct = || section("banana", "ssd", "node2.banana.example", "/ssd");
    let check =
        |wanted, tool, ssh, target: &StorageConfig, expect: Result<Route, &str>, says: &str| {
            let mut source = host("san");
            source.ssh = ssh;
            let shown = route(wanted, tool, &source, target);
            match &shown {
                Ok((_, why)) => assert!(why.contains(says), "{why}"),
                Err(why) => assert!(why.reason.contains(says), "{}", why.reason),
            }
            assert_eq!(
                shown.map(|(route, _)| route).map_err(|why| why.code),
                expect
            );
        };
    let new = Some((8, 9));
    check(
        None,
        Tool::Porter,
        new,
        &direct(),
        Ok(Route::Direct),
        "from host to host",
    );
    check(
        None,
        Tool::Porter,
        Some((8, 4)),
        &direct(),
        Ok(Route::Relay),
        "OpenSSH 8.4",
    );
    check(
        None,
        Tool::Porter,
        None,
        &direct(),
        Ok(Route::Relay),
        "no OpenSSH",
    );
    check(
        None,
        Tool::Stock,
        new,
        &direct(),
        Ok(Route::Relay),
        "without the porter",
    );
    check(
        Some(Route::Relay),
        Tool::Porter,
        new,
        &direct(),
        Ok(Route::Relay),
        "as asked",
    );
    check(
        Some(Route::Direct),
        Tool::Porter,
        new,
        &direct(),
        Ok(Route::Direct),
        "as asked",
    );
    let refused = Err("route-impossible");
    check(
        Some(Route::Direct),
        Tool::Porter,
        Some((7, 9)),
        &direct(),
        refused,
        "OpenSSH 7.9",
    );
    check(
        Some(Route::Direct),
        Tool::Stock,
        new,
        &direct(),
        refused,
        "no credentials",
    );
    // A bare name may be an alias that only this machine's ~/.ssh/config knows.
    let mut alias = direct();
    alias.ssh.host = "node2".to_owned();
    check(
        None,
        Tool::Porter,
        new,
        &alias,
        Ok(Route::Relay),
        "set 'peer='",
    );
    alias.peer = Some(SshAddress {
        user: None,
        host: "node2".to_owned(),
        port: None,
    });
    check(
        None,
        Tool::Porter,
        new,
        &alias,
        Ok(Route::Direct),
        "from host to host",
    );
}
