use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::config::SshAddress;

fn key(directory: Option<&str>, temp: &str) -> HostKey {
    HostKey {
        ssh: SshAddress {
            user: None,
            host: "h".to_owned(),
            port: None,
        },
        directory: directory.map(str::to_owned),
        dataset: None,
        temp: temp.to_owned(),
    }
}

fn vmids(numbers: &[u32]) -> BTreeSet<Vmid> {
    numbers
        .iter()
        .map(|number| Vmid::new(*number).expect("a VMID"))
        .collect()
}

const ANSWER: &str = "Welcome to san!
proxmove-probe 1
system Linux
machine x86_64
tool dd
tool sha256sum
ssh OpenSSH_8.9p1 Ubuntu-3ubuntu0.6, OpenSSL 3.0.2 15 Mar 2022
path-exists yes
path-writable yes
path-df /dev/mapper/data 1000 400 600 40% /pool0
path-options rw,relatime
temp-writable yes
temp-df tmpfs 1000 1000 0 100% /tmp
temp-options rw,nosuid,noexec
file 100 vm-100-disk-0.qcow2
file 100 with blank.raw
end 1
";

#[test]
fn an_answer_is_read() {
    let facts = parse("root@san", None, ANSWER).expect("in order");
    let path = facts.path.as_ref().expect("in order");
    assert_eq!(
        (facts.system.as_str(), facts.architecture.as_str()),
        ("Linux", "x86_64")
    );
    assert_eq!(facts.ssh, Some((8, 9)));
    assert_eq!(facts.tools.len(), 2);
    assert!(path.exists && path.writable && path.executable);
    assert_eq!(path.free, Some(Bytes::kib(600)));
    assert!(!facts.temp.exists && facts.temp.writable && !facts.temp.executable);
    assert_eq!(facts.temp.free, Some(Bytes::ZERO));
    let files: Vec<&str> = facts.listing[&Vmid::new(100).expect("in order")]
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(files, ["vm-100-disk-0.qcow2", "with blank.raw"]);
}

#[test]
fn what_is_no_answer_is_said() {
    let wrong = parse("h", None, "This account is restricted.\n").expect_err("not in order");
    assert!(wrong.contains("did not run the question"), "{wrong}");
    let cut = ANSWER.replace("end 1\n", "");
    assert_eq!(
        parse("h", None, &cut).expect_err("not in order"),
        "its answer was cut off"
    );
}

#[test]
fn versions_of_ssh_are_read() {
    for (text, expect) in [
        (
            "OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15",
            Some((9, 2)),
        ),
        ("OpenSSH_10.0p2", Some((10, 0))),
        ("OpenSSH_7.4p1", Some((7, 4))),
        ("Dropbear v2022.83", None),
        ("sh: ssh: not found", None),
        ("OpenSSH_for_Windows_8.1p1", None),
        ("", None),
    ] {
        assert_eq!(openssh(text), expect, "{text}");
    }
}

#[test]
fn free_space_is_read() {
    for (text, expect) in [
        ("/dev/sda1 100 40 60 40% /", Some(Bytes::kib(60))),
        (
            "//server/my share 100 40 60 40% /mnt/pve/x y",
            Some(Bytes::kib(60)),
        ),
        ("nas:/x 100 40 18446744073709551615 40% /mnt", None),
        ("df: no such file", None),
        ("40% /", None),
        ("", None),
    ] {
        assert_eq!(free(text), expect, "{text}");
    }
}

/// Runs the question with a real shell and reads the answer.
fn ask_locally(shell: &[&str], key: &HostKey, vmids: &BTreeSet<Vmid>) -> Result<HostFacts, String> {
    let line = command(key, vmids).line().to_owned();
    // The login shell reads the line, as sshd would have it; inside, `sh` is the shell under test.
    let line = line.replacen("sh -c", &format!("{} -c", shell.join(" ")), 1);
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(line)
        .output()
        .map_err(|error| error.to_string())?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    parse(
        "here",
        key.dataset.as_deref(),
        &String::from_utf8_lossy(&output.stdout),
    )
}

fn shells() -> Vec<Vec<&'static str>> {
    let there = |program: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|at| at.join(program).exists()))
    };
    let all = [
        vec!["sh"],
        vec!["dash"],
        vec!["bash", "--posix"],
        vec!["busybox", "sh"],
    ];
    all.into_iter()
        .filter(|shell| there(shell.first().expect("a program")))
        .collect()
}

#[test]
fn real_shells_answer() {
    let top = tempfile::tempdir().expect("in order");
    let images = top.path().join("it's images");
    fs::create_dir_all(images.join("100")).expect("in order");
    fs::create_dir_all(images.join("200")).expect("in order");
    fs::write(images.join("100/vm-100-disk-0.qcow2"), "x").expect("in order");
    fs::write(images.join("100/two words.raw"), "x").expect("in order");
    std::os::unix::fs::symlink("/nowhere", images.join("100/dangling.raw")).expect("in order");
    let temp = top.path().join("temp/not/there");
    let key = key(images.to_str(), temp.to_str().expect("in order"));
    for shell in shells() {
        let facts = ask_locally(&shell, &key, &vmids(&[100, 200, 300])).expect("in order");
        assert_eq!(facts.system, "Linux", "{shell:?}");
        assert_eq!(facts.architecture, std::env::consts::ARCH);
        assert!(facts.tools.contains("dd"), "{shell:?}");
        let path = facts.path.expect("in order");
        assert!(
            path.exists && path.writable && path.free.is_some(),
            "{shell:?} {path:?}"
        );
        assert!(!facts.temp.exists && facts.temp.writable, "{shell:?}");
        assert!(facts.temp.free.is_some(), "{shell:?}");
        let files: Vec<&String> = facts.listing[&Vmid::new(100).expect("in order")]
            .iter()
            .collect();
        assert_eq!(
            files,
            ["dangling.raw", "two words.raw", "vm-100-disk-0.qcow2"]
        );
        assert_eq!(facts.listing.len(), 1, "{shell:?}");
    }
    // Asking has left nothing behind.
    assert!(!top.path().join("temp").exists());
}

#[test]
fn real_shells_know_what_is_missing_or_forbidden() {
    let top = tempfile::tempdir().expect("in order");
    let closed = top.path().join("closed");
    fs::create_dir(&closed).expect("in order");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("in order");
    let missing = top.path().join("gone");
    for shell in shells() {
        let asked = key(missing.to_str(), closed.to_str().expect("in order"));
        let facts = ask_locally(&shell, &asked, &vmids(&[100])).expect("in order");
        assert!(!facts.path.expect("in order").exists, "{shell:?}");
        // Root may write everywhere; then only /proc, which nobody can write to, shows the difference.
        let root = rustix::process::geteuid().is_root();
        assert_eq!(facts.temp.writable, root, "{shell:?}");
        let facts = ask_locally(&shell, &key(None, "/proc/nothing/here"), &vmids(&[100]))
            .expect("in order");
        assert_eq!(facts.path, None, "{shell:?}");
        assert!(!facts.temp.exists, "{shell:?}");
        assert!(facts.listing.is_empty(), "{shell:?}");
        // A relative path cannot be climbed for ever.
        ask_locally(&shell, &key(Some("no/such"), "nor-this"), &vmids(&[])).expect("in order");
    }
}

#[test]
fn nothing_is_asked_about_vmids_without_a_directory() {
    let line = command(&key(None, "/tmp"), &vmids(&[100]))
        .line()
        .to_owned();
    assert!(!line.ends_with("100"), "{line}");
}

/// What stands in for zfs and zpool: it answers as OpenZFS 2.3 does, refuses what is not asked of it, and never
/// changes anything.
const ZFS: &str = r#"#!/bin/sh
case "$*" in
version) printf 'zfs-2.3.9-1\nzfs-kmod-2.3.9-1\n' ;;
"get -Hp -d 1 -t filesystem,volume -o name,property,value type,"*" tank/my data")
  for name in "tank/my data" "tank/my data/vm-100-disk-0" "tank/my data/subvol-100-disk-1" "tank/my data/vm-1001-disk-0" \
    "tank/my data/vm-300-disk-0" "tank/my data/other"; do
    case $name in */subvol* | *a | */other) kind=filesystem ;; *) kind=volume ;; esac
    printf '%s\ttype\t%s\n%s\tavailable\t1000\n%s\tvolsize\t5\n' "$name" $kind "$name" "$name"
  done ;;
"get -Hp -d 1 -t filesystem,volume -o name,property,value encryption,"*)
  echo "bad property list: invalid property 'encryption'" >&2; exit 2 ;;
"get -Hp all tank") printf 'tank\thealth\tONLINE\t-\ntank\tfeature@lz4_compress\tactive\tlocal\n' ;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac
"#;

#[test]
fn real_shells_ask_zfs() {
    let top = tempfile::tempdir().expect("in order");
    for name in ["zfs", "zpool"] {
        let file = top.path().join(name);
        fs::write(&file, ZFS).expect("in order");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("in order");
    }
    let asked = HostKey {
        dataset: Some("tank/my data".to_owned()),
        ..key(None, "/tmp")
    };
    let path = format!("PATH={}:$PATH", top.path().display());
    for shell in shells() {
        let line = command(&asked, &vmids(&[100, 300])).line().to_owned();
        let line = line.replacen("sh -c", &format!("{path} {} -c", shell.join(" ")), 1);
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .expect("in order");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell:?}");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let facts = parse("here", asked.dataset.as_deref(), &answer).expect("in order");
        let zfs = facts.zfs.expect("in order");
        assert_eq!(zfs.version, Some((2, 3)), "{shell:?}");
        assert_eq!(zfs.health.as_deref(), Some("ONLINE"));
        assert_eq!(zfs.available, Some(Bytes(1000)));
        assert!(zfs.has("lz4_compress") && !zfs.has("encryption"));
        let zvols: Vec<&String> = zfs.zvols.keys().collect();
        assert_eq!(zvols, ["vm-100-disk-0", "vm-300-disk-0"], "{shell:?}");
        assert_eq!(zfs.others, BTreeSet::from(["subvol-100-disk-1".to_owned()]));
        assert_eq!(zfs.complaint, None, "{answer}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics(text in "\\PC{0,200}", rest in "((path|temp|file|ssh|df|tool|zpool|dataset|allow|zfs-login|zfs-version|end)[-a-z ]{0,12}[0-9% /]{0,20}\n){0,8}") {
        let _ = parse("h", None, &text);
        let _ = parse("h", Some("tank"), &format!("proxmove-probe 1\n{rest}"));
    }
}
