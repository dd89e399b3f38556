use super::super::parse;
use super::*;

/// Reads an answer about tank/data.
fn read(lines: &str) -> Option<ZfsFacts> {
    let answer = format!("proxmove-probe 1\nsystem Linux\n{lines}\nend 1\n");
    let facts = parse("root@tank", Some("tank/data"), &answer).expect("an answer");
    facts.zfs
}

/// What OpenZFS 2.3.9 says, with tabs where it has them.
const ANSWER: &str = "zfs-version zfs-2.3.9-1
zfs-module 2.2.7-1
zfs-login 0 root root
zpool tank\tsize\t8053063680\t-
zpool tank\tcapacity\t3\t-
zpool tank\taltroot\t-\tdefault
zpool tank\thealth\tONLINE\t-
zpool tank\tguid\t5921938837418063441\t-
zpool tank\tbootfs\t-\tdefault
zpool tank\treadonly\toff\t-
zpool tank\tcomment\t-\tdefault
zpool tank\tfeature@async_destroy\tenabled\tlocal
zpool tank\tfeature@lz4_compress\tactive\tlocal
zpool tank\tfeature@embedded_data\tactive\tlocal
zpool tank\tfeature@large_blocks\tenabled\tlocal
zpool tank\tfeature@encryption\tactive\tlocal
zpool tank\tfeature@zstd_compress\tdisabled\tlocal
dataset tank/data\ttype\tfilesystem
dataset tank/data\tavailable\t5368709120
dataset tank/data\tvolsize\t-
dataset tank/data\treferenced\t98304
dataset tank/data\tlogicalreferenced\t43008
dataset tank/data\tvolblocksize\t-
dataset tank/data\trefreservation\tnone
dataset tank/data\tcompression\ton
dataset tank/data/vm-100-disk-0\ttype\tvolume
dataset tank/data/vm-100-disk-0\tavailable\t5502926848
dataset tank/data/vm-100-disk-0\tvolsize\t134217728
dataset tank/data/vm-100-disk-0\treferenced\t12345678
dataset tank/data/vm-100-disk-0\tlogicalreferenced\t23456789
dataset tank/data/vm-100-disk-0\tvolblocksize\t16384
dataset tank/data/vm-100-disk-0\trefreservation\t138412032
dataset tank/data/vm-100-disk-0\tcompression\tlz4
dataset tank/data/vm-100-disk-1\ttype\tvolume
dataset tank/data/vm-100-disk-1\tvolsize\t1048576
dataset tank/data/vm-100-disk-1\treferenced\t8192
dataset tank/data/vm-100-disk-1\tvolblocksize\t8192
dataset tank/data/vm-100-disk-1\trefreservation\t0
dataset tank/data/vm-100-disk-1\tcompression\tzstd-3
dataset tank/data/subvol-100-disk-2\ttype\tfilesystem
dataset tank/data\tencryption\taes-256-gcm
dataset tank/data\tencryptionroot\ttank/data
dataset tank/data\tkeystatus\tavailable
dataset tank/data/vm-100-disk-0\tencryption\toff
dataset tank/data/vm-100-disk-0\tencryptionroot\t-
dataset tank/data/vm-100-disk-0\tkeystatus\t-
dataset tank/data/vm-100-disk-1\tencryption\taes-256-gcm
dataset tank/data/vm-100-disk-1\tencryptionroot\ttank/data/vm-100-disk-1
dataset tank/data/vm-100-disk-1\tkeystatus\tunavailable
dataset tank/data2\tencryption\toff";

#[test]
fn an_answer_is_read() {
    let facts = read(ANSWER).expect("a dataset");
    // The older of programs and module.
    assert_eq!(facts.version, Some((2, 2)));
    assert_eq!(facts.kind, Some(DatasetKind::Filesystem));
    assert_eq!(facts.available, Some(Bytes::gib(5)));
    assert_eq!(facts.health.as_deref(), Some("ONLINE"));
    assert!(!facts.read_only);
    assert_eq!(facts.rights, ZfsRights::Root);
    assert_eq!(facts.complaint, None);
    assert!(facts.has("large_blocks") && !facts.uses("large_blocks"));
    assert!(facts.has("lz4_compress") && facts.uses("lz4_compress"));
    assert!(!facts.has("zstd_compress") && !facts.has("no_such"));
    let own = facts.encryption.as_ref().expect("encrypted");
    assert_eq!((own.root.as_str(), own.key_loaded), ("tank/data", true));
    assert_eq!(
        facts.others,
        BTreeSet::from(["subvol-100-disk-2".to_owned()])
    );
    assert!(facts.is_taken("subvol-100-disk-2") && facts.is_taken("vm-100-disk-0"));
    let names: Vec<&String> = facts.zvols.keys().collect();
    assert_eq!(names, ["vm-100-disk-0", "vm-100-disk-1"]);
    let expect = ZvolFacts {
        size: Bytes::mib(128),
        referenced: Some(Bytes(12_345_678)),
        logical: Some(Bytes(23_456_789)),
        block_size: Some(Bytes::kib(16)),
        sparse: false,
        compression: "lz4".to_owned(),
        encryption: None,
    };
    assert_eq!(facts.zvols["vm-100-disk-0"], expect);
    let locked = &facts.zvols["vm-100-disk-1"];
    assert!(locked.sparse && locked.logical.is_none());
    let encryption = locked.encryption.as_ref().expect("encrypted");
    assert!(!encryption.key_loaded && encryption.root.ends_with("disk-1"));
}

#[test]
fn complaints_are_kept() {
    for (lines, complaint) in [
        (
            "zfs-version \nzpool Cannot get properties of tank: no such pool available.\ndataset cannot open 'tank/data': dataset \
             does not exist",
            "Cannot get properties of tank: no such pool available.",
        ),
        (
            "zfs-version zfs-2.1.11-1\nzpool tank\thealth\tONLINE\t-\ndataset cannot open 'tank/data': dataset does not exist",
            "cannot open 'tank/data': dataset does not exist",
        ),
        (
            "zfs-version \nzpool The ZFS modules are not loaded.\nzpool Try running '/sbin/modprobe zfs' as root to load them.",
            "The ZFS modules are not loaded.",
        ),
    ] {
        let facts = read(lines).expect("zfs");
        assert_eq!(facts.complaint.as_deref(), Some(complaint));
        assert_eq!(facts.kind, None);
    }
    // A suspended pool is not asked further.
    let facts = read("zfs-version \nzpool tank\thealth\tSUSPENDED\t-").expect("zfs");
    assert_eq!(facts.health.as_deref(), Some("SUSPENDED"));
    // A host without zfs says nothing at all.
    assert_eq!(read("tool dd"), None);
}

#[test]
fn versions_are_read() {
    for (text, expect) in [
        ("zfs-2.3.9-1~bpo12+1", Some((2, 3))),
        ("zfs-kmod-0.8.3-1ubuntu12", Some((0, 8))),
        ("2.1.11-pve1", Some((2, 1))),
        ("0.7.12-2+deb10u1", Some((0, 7))),
        ("zfs-2.4.0-rc1", Some((2, 4))),
        ("", None),
        ("unrecognized command 'version'", None),
    ] {
        assert_eq!(version(text), expect, "{text}");
    }
}

/// Returns what a login may do, by what `zfs allow tank/data` prints.
fn allowed(login: &str, lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("allow {line}")).collect();
    let text = format!("zfs-version \nzfs-login {login}\n{}", lines.join("\n"));
    match read(&text).expect("zfs").rights {
        ZfsRights::Root => "root".to_owned(),
        ZfsRights::Delegated {
            user,
            devices,
            allowed,
        } => {
            let allowed: Vec<String> = allowed.into_iter().collect();
            format!("{user} {devices} {}", allowed.join(","))
        }
    }
}

#[test]
fn delegated_rights_are_read() {
    let lines = "---- Permissions on tank/data -----------------------------------------
Permission sets:
\t@move create,mount,receive
\t@more hold,@move
Create time permissions:
\tdestroy
Local permissions:
\tuser ann quota
Local+Descendent permissions:
\tuser ann send,@more
\tuser bob clone
\tgroup backup snapshot
\teveryone userprop
---- Permissions on tank ----------------------------------------------
Local permissions:
\tuser ann rename
Descendent permissions:
\tuser ann release";
    for (login, expect) in [
        (
            "1000 ann ann disk",
            "ann true @more,@move,create,destroy,hold,mount,quota,receive,release,send,userprop",
        ),
        ("1001 bob bob", "bob false clone,destroy,userprop"),
        ("1002 eve backup", "eve false destroy,snapshot,userprop"),
        ("0 root root", "root"),
    ] {
        assert_eq!(allowed(login, lines), expect);
    }
    assert_eq!(allowed("1000 ann ann", ""), "ann false ");
}
