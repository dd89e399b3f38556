use std::collections::BTreeMap;

use expect_test::expect;

use super::*;
use crate::config::Problem;
use crate::plan::sample::{host, id, node, release, section, zfs_host};
use crate::units::Bytes;

fn permissions(entries: &[(&str, &[&str])]) -> Permissions {
    Permissions(
        entries
            .iter()
            .map(|(path, privileges)| {
                let privileges = privileges.iter().map(|name| ((*name).to_owned(), true));
                ((*path).to_owned(), privileges.collect())
            })
            .collect(),
    )
}

fn observed(alias: &str, user: &str) -> ClusterObserved {
    ClusterObserved {
        alias: id(alias),
        role: Role::Source,
        release: Ok(release("8.4")),
        clock_skew: Ok(0),
        user: Ok(user.to_owned()),
        permissions: Ok(Permissions::default()),
        nodes: Ok(vec![node("node1")]),
    }
}

#[test]
fn everything_in_order_is_said_to_be() {
    let mut config = Config::default();
    config
        .storages
        .push(section("apple", "san", "san.example", "/images"));
    config
        .storages
        .push(section("apple", "san2", "san.example", "/images"));
    let asked = hosts_of(&config);
    assert_eq!(asked.len(), 1);
    let hosts = BTreeMap::from([(asked[0].key.clone(), Ok(host("root@san.example")))]);
    let found = findings(&config, &[observed("apple", "root@pam")], &asked, &hosts);
    expect![[r#"
        proxmoverc
          ok    0 clusters, 2 storages
        apple
          ok    reached, logged in as root@pam
          ok    PVE 8.4
          ok    its clock agrees with this machine's
          ok    node node1 is online
          ok    Sys.Audit on / (to see nodes, HA and replication)
          ok    Datastore.Audit on /storage (to read the size of a guest's volumes)
          ok    VM.Audit on /vms (to see guests and their configuration)
          ok    VM.Config.Disk on /vms (to read the size of a guest's volumes)
          ok    VM.Config.Options on /vms (to rename and retire the source)
          ok    VM.PowerMgmt on /vms (to shut the source down)
        root@san.example (apple:san; apple:san2)
          ok    reached; /var/tmp/proxmove is writable, 500.0 GiB free
          ok    the porter can run there
          ok    OpenSSH 9.2: can send directly to another host
        14 ok, 0 warnings, 0 failures
    "#]]
    .assert_eq(&text(&found));
    assert!(!failed(&found));
}

#[test]
fn what_is_wrong_comes_with_a_remedy() {
    let mut config = Config::default();
    config.warnings.push(Problem {
        section: "[pve:apple]".to_owned(),
        key: Some("api".to_owned()),
        message: "holds a password and is readable by others".to_owned(),
        hint: Some("chmod 600 ~/.proxmoverc".to_owned()),
    });
    let mut bad = observed("apple", "mover@pve!t");
    bad.role = Role::Target;
    bad.release = Ok(release("5.4"));
    bad.clock_skew = Ok(-400);
    bad.nodes = Ok(vec![
        Node {
            online: false,
            ..node("node1")
        },
        Node {
            maintenance: true,
            ..node("node2")
        },
    ]);
    let most = [
        "VM.Audit",
        "VM.Allocate",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Network",
        "VM.Config.Disk",
        "VM.Config.CDROM",
    ];
    bad.permissions = Ok(permissions(&[
        ("/vms", &most),
        ("/storage/ssd", &["Datastore.AllocateSpace"]),
        ("/", &["Sys.Audit"]),
    ]));
    let mut gone = observed("banana", "x");
    gone.release = Err("cannot reach the API of banana at b:8006: connection refused".to_owned());
    config
        .storages
        .push(section("apple", "san", "san.example", "/images"));
    config
        .storages
        .push(section("banana", "ssd", "off.example", "/images"));
    let asked = hosts_of(&config);
    let mut odd = host("root@san.example");
    odd.temp.executable = false;
    odd.temp.free = Some(Bytes::mib(5));
    odd.ssh = Some((7, 9));
    let hosts = BTreeMap::from([
        (asked[0].key.clone(), Ok(odd)),
        (asked[1].key.clone(), Err("connection timed out".to_owned())),
    ]);
    let found = findings(&config, &[bad, gone], &asked, &hosts);
    let worse: Vec<Finding> = found
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .cloned()
        .collect();
    expect![[r#"
        proxmoverc
          warn  [pve:apple] api: holds a password and is readable by others
                -> chmod 600 ~/.proxmoverc
        apple
          warn  PVE 5.4 is older than 6.4, the oldest release that is known to work
                -> update it first
          FAIL  its clock is 400 s behind this machine's
                -> synchronise both clocks (chrony, systemd-timesyncd)
          warn  node node1 is offline; its guests cannot be moved
                -> bring it up
          warn  node node2 is in maintenance
                -> ha-manager crm-command node-maintenance disable node2
          warn  missing: Sys.Modify on / (to set the start order of guests that have one)
                -> pveum role add ProxmoveSysModify --privs 'Sys.Modify' && pveum acl modify / --tokens 'mover@pve!t' --roles ProxmoveSysModify
          warn  missing: Pool.Allocate on /pool (to put guests into pools)
                -> pveum acl modify /pool --tokens 'mover@pve!t' --roles PVEPoolAdmin
          warn  missing: Datastore.AllocateSpace on /storage (to see and create volumes)
                -> pveum acl modify /storage --tokens 'mover@pve!t' --roles PVEDatastoreUser
          FAIL  missing: VM.PowerMgmt on /vms (to start the guest)
                -> pveum acl modify /vms --tokens 'mover@pve!t' --roles PVEVMAdmin
        banana
          FAIL  cannot reach the API of banana at b:8006: connection refused
                -> see 'api=' in [pve:banana] of proxmoverc
        root@san.example (apple:san)
          warn  /var/tmp/proxmove on root@san.example has 5.0 MiB free
                -> choose a 'temp' with more room in its storage section
          warn  copies would be made by dd and sha256sum, slower and without compression, because nothing may be run from temp on root@san.example
                -> choose a 'temp' on a file system without noexec
          warn  OpenSSH 7.9: what it sends goes through this machine
                -> update it to 8.9 or newer
        root@off.example (banana:ssd)
          FAIL  host root@off.example cannot be asked: connection timed out
                -> try 'ssh root@off.example'; see 'ssh=' of its storage section in proxmoverc
        0 ok, 10 warnings, 4 failures
    "#]]
    .assert_eq(&text(&worse));
    assert!(failed(&found));
    let json = serde_json::to_value(&worse[0]).expect("plain values");
    assert_eq!(json["level"], "warn");
    assert_eq!(json["subject"], "proxmoverc");
}

#[test]
fn datasets_are_told_about() {
    let mut config = Config::default();
    for (storage, host) in [
        ("tank", "tank.example"),
        ("fast", "fast.example"),
        ("odd", "odd.example"),
    ] {
        let section = section("apple", storage, host, &format!("zfs:{storage}/vms"));
        config.storages.push(section);
    }
    let asked = hosts_of(&config);
    let mut fast = zfs_host("mover@fast.example", &[]);
    let zfs = fast.zfs.as_mut().expect("a dataset");
    zfs.encryption = Some(Encryption {
        root: "fast".to_owned(),
        key_loaded: false,
    });
    zfs.version = Some((0, 7));
    zfs.rights = ZfsRights::Delegated {
        user: "mover".to_owned(),
        devices: true,
        allowed: ["send", "snapshot"].map(str::to_owned).into(),
    };
    let hosts = BTreeMap::from([
        (asked[0].key.clone(), Ok(zfs_host("root@tank.example", &[]))),
        (asked[1].key.clone(), Ok(fast)),
        (asked[2].key.clone(), Ok(host("root@odd.example"))),
    ]);
    let found = findings(&config, &[], &asked, &hosts);
    expect![[r#"
        proxmoverc
          ok    0 clusters, 3 storages
        root@tank.example (apple:tank)
          ok    reached; /var/tmp/proxmove is writable, 500.0 GiB free
          ok    dataset tank/vms is there, 500.0 GiB available; pool tank is ONLINE
          ok    OpenZFS 2.3
          ok    the porter can run there
          ok    OpenSSH 9.2: can send directly to another host
        root@fast.example (apple:fast)
          warn  mover is not root on mover@fast.example and lacks there for fast/vms: create, destroy, hold, mount, receive, refreservation, release, rollback, userprop
                -> zfs allow mover create,destroy,hold,mount,receive,refreservation,release,rollback,userprop fast/vms; or log in as root
          warn  mover@fast.example has OpenZFS 0.7; before 0.8 streams may travel uncompressed, encrypted volumes cannot travel as they are, and an interrupted stream may begin anew
                -> update it, or move while the way between the hosts is quiet
          warn  dataset fast/vms is there, 500.0 GiB available, encrypted, and the key of fast is not loaded; pool fast is ONLINE
                -> zfs load-key fast
          ok    the porter can run there
          ok    OpenSSH 9.2: can send directly to another host
        root@odd.example (apple:odd)
          FAIL  there is no zfs on root@odd.example
                -> install zfsutils-linux there, or see that 'ssh root@odd.example command -v zfs' finds it; or correct 'ssh' of the storage section
          ok    the porter can run there
          ok    OpenSSH 9.2: can send directly to another host
        10 ok, 3 warnings, 1 failures
    "#]].assert_eq(&text(&found));
}

#[test]
fn clocks_may_differ_a_little() {
    for (skew, expect) in [
        (0, Level::Ok),
        (30, Level::Ok),
        (-31, Level::Warn),
        (300, Level::Warn),
        (301, Level::Fail),
        (i64::MIN, Level::Fail),
    ] {
        assert_eq!(of_clock("apple", &Ok(skew)).level, expect, "{skew}");
    }
    assert_eq!(
        of_clock("apple", &Err("no Date".to_owned())).level,
        Level::Warn
    );
}
