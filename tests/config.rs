//! proxmoverc as people write it: the sample, and files with mistakes, each with what proxmove says about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect, expect_file};
use proxmove::config::{self, Config, ConfigError, Credentials};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sample() -> Config {
    config::load(&root().join("proxmoverc.sample")).expect("the sample has no mistake")
}

fn problems(path: &Path) -> String {
    match config::load(path) {
        Ok(_) => panic!("{} has no problem", path.display()),
        Err(error @ ConfigError::Read { .. }) => panic!("{error}"),
        Err(error) => error
            .problems()
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect(),
    }
}

#[test]
fn the_sample_is_understood_and_shown_without_its_secrets() {
    let mut config = sample();
    // Whether the checked-out sample can be read by others is not the sample's business.
    config.warnings.clear();
    expect![[r#"
        [pve:apple-cluster] ; from proxmoverc.sample
        api=https://user@pve:***@apple-cluster.com:443

          [storage:apple-cluster:sharedsan] ; from proxmoverc.sample
          ssh=root@san.apple-cluster.com
          peer=root@10.1.0.20:22
          path=/pool0/san/images
          temp=/pool0/san/private

          [storage:apple-cluster:local@node1] ; from proxmoverc.sample
          ssh=root@node1.apple-cluster.com
          path=/srv/images
          temp=/srv/temp

        [pve:banana-cluster] ; from proxmoverc.sample
        api=https://user@pve@banana-cluster.com:8006
        also=node2.banana-cluster.com:8006, node3.banana-cluster.com:8006
        password_command=pass show proxmox/banana-cluster
        fingerprint=4E:8A:11:0C:F2:93:7B:60:D5:2E:A8:41:9F:C6:07:3D:B8:52:E1:7C:04:AF:69:90:1B:D3:36:FE:85:4A:C0:27

          [storage:banana-cluster:node1-ssd@node1] ; from proxmoverc.sample
          ssh=root@node1.banana-cluster.com
          path=zfs:node1-ssd/images
          temp=/node1-ssd/temp

          [storage:banana-cluster:node2-ssd@node2] ; from proxmoverc.sample
          ssh=root@node2.banana-cluster.com
          path=zfs:node2-ssd/images
          temp=/node2-ssd/temp

        [pve:cherry-cluster] ; from proxmoverc.sample
        api=https://cherry-cluster.com:8006
        token=user@pve!proxmove=***
        ca=/etc/ssl/private-ca.pem

        [evacuate:apple-cluster] ; from proxmoverc.sample
        policy=auto
        live-migrate=pool=prod
        stop=tag=lab, vmid=101
        local_disks=yes
        ha_maintenance=yes
        parallel=2
        parallel_per_target=2
        memory=both
        memory_reserve=10%
        storage_reserve=5%
        cpu_limit=90%
        stop_timeout=3m
        patience=10m

        [budget:web] ; from proxmoverc.sample
        tag=web
        min_running=2

    "#]].assert_eq(&config::show::text(&config, "proxmoverc.sample"));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let mut config = sample();
    config.warnings.clear();
    let shown = config::show::text(&config, "proxmoverc.sample");
    let again = config::parse(&shown, "shown").expect("it has the form of a proxmoverc");
    assert_eq!(again.storages, config.storages);
    assert_eq!(config::show::text(&again, "proxmoverc.sample"), shown);
}

#[test]
fn the_sample_has_every_key() {
    let text = fs::read_to_string(root().join("proxmoverc.sample")).expect("it is there");
    for key in [
        "api",
        "token",
        "password_command",
        "fingerprint",
        "ca",
        "ssh",
        "peer",
        "path",
        "temp",
    ] {
        assert!(
            text.lines()
                .any(|line| line.trim_start().starts_with(&format!("{key}="))),
            "{key} is not in the sample"
        );
    }
}

#[test]
fn the_sample_as_json() {
    let mut config = sample();
    config.warnings.clear();
    let shown = serde_json::to_string_pretty(&config::show::json(&config, "proxmoverc.sample"))
        .expect("it is JSON");
    expect![[r#"
        {
          "budgets": [
            {
              "budget": "web",
              "min_running": "2",
              "origin": "proxmoverc.sample",
              "tag": "web"
            }
          ],
          "clusters": [
            {
              "alias": "apple-cluster",
              "api": "https://user@pve:***@apple-cluster.com:443",
              "origin": "proxmoverc.sample"
            },
            {
              "alias": "banana-cluster",
              "also": "node2.banana-cluster.com:8006, node3.banana-cluster.com:8006",
              "api": "https://user@pve@banana-cluster.com:8006",
              "fingerprint": "4E:8A:11:0C:F2:93:7B:60:D5:2E:A8:41:9F:C6:07:3D:B8:52:E1:7C:04:AF:69:90:1B:D3:36:FE:85:4A:C0:27",
              "origin": "proxmoverc.sample",
              "password_command": "pass show proxmox/banana-cluster"
            },
            {
              "alias": "cherry-cluster",
              "api": "https://cherry-cluster.com:8006",
              "ca": "/etc/ssl/private-ca.pem",
              "origin": "proxmoverc.sample",
              "token": "user@pve!proxmove=***"
            }
          ],
          "evacuations": [
            {
              "cluster": "apple-cluster",
              "cpu_limit": "90%",
              "ha_maintenance": "yes",
              "live-migrate": "pool=prod",
              "local_disks": "yes",
              "memory": "both",
              "memory_reserve": "10%",
              "origin": "proxmoverc.sample",
              "parallel": "2",
              "parallel_per_target": "2",
              "patience": "10m",
              "policy": "auto",
              "stop": "tag=lab, vmid=101",
              "stop_timeout": "3m",
              "storage_reserve": "5%"
            }
          ],
          "storages": [
            {
              "cluster": "apple-cluster",
              "derived": false,
              "node": null,
              "origin": "proxmoverc.sample",
              "path": "/pool0/san/images",
              "peer": "root@10.1.0.20:22",
              "ssh": "root@san.apple-cluster.com",
              "storage": "sharedsan",
              "temp": "/pool0/san/private"
            },
            {
              "cluster": "apple-cluster",
              "derived": false,
              "node": "node1",
              "origin": "proxmoverc.sample",
              "path": "/srv/images",
              "ssh": "root@node1.apple-cluster.com",
              "storage": "local",
              "temp": "/srv/temp"
            },
            {
              "cluster": "banana-cluster",
              "derived": false,
              "node": "node1",
              "origin": "proxmoverc.sample",
              "path": "zfs:node1-ssd/images",
              "ssh": "root@node1.banana-cluster.com",
              "storage": "node1-ssd",
              "temp": "/node1-ssd/temp"
            },
            {
              "cluster": "banana-cluster",
              "derived": false,
              "node": "node2",
              "origin": "proxmoverc.sample",
              "path": "zfs:node2-ssd/images",
              "ssh": "root@node2.banana-cluster.com",
              "storage": "node2-ssd",
              "temp": "/node2-ssd/temp"
            }
          ],
          "warnings": []
        }"#]].assert_eq(&shown);
}

#[test]
fn twelve_problems_are_reported_at_once() {
    let found = problems(&root().join("tests/fixtures/config/twelve-problems.rc"));
    assert_eq!(found.lines().count(), 12, "{found}");
    expect![[r#"
        [pve:apple]: line 6 is neither a section, nor a key with a value, nor a comment (hint: KEY=VALUE)
        twelve-problems.rc token: stands above the first section (hint: move it below a [pve:ALIAS])
        [pve:apple] api: must begin with https:// (hint: api=https://user@realm:PASSWORD@host:8006)
        [pve:apple] fingerprint: is not a SHA-256 fingerprint (hint: 32 bytes as AA:BB:..., from 'pvenode cert info' on the node)
        [pve:banana] passwort_command: is not a key of this section (hint: did you mean 'password_command'?)
        [pve:banana] token: is a second way to log in (hint: keep one of: password in api=, password_command=, token=)
        [storage:apple:sharedsan] path: appears twice (hint: keep one)
        [storage:banna:ssd@node1]: there is no cluster 'banna' (hint: did you mean 'banana'?)
        [storage:banna:ssd@node1] path: 'zfs:' needs a dataset (hint: zfs:POOL/images)
        [storage:banana:local@node2] ssh: is empty (hint: root@host or root@host:22)
        [storage:banana:local@node2] temp: is not an absolute path (hint: temp=/DIRECTORY)
        [stroage:banana:other]: 'stroage' is not a kind of section (hint: did you mean 'storage'?)
    "#]].assert_eq(&found);
}

#[test]
fn each_mistake_has_its_words() {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/fixtures/config/invalid"))
        .expect("it is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rc"))
        .collect();
    files.sort();
    assert!(files.len() > 20);
    let mut all = String::new();
    for path in &files {
        let name = path.file_name().expect("it has one").to_string_lossy();
        all.push_str(&format!("# {name}\n{}\n", problems(path)));
    }
    expect_file!["fixtures/config/invalid/expected.txt"].assert_eq(&all);
    assert!(!all.contains("SECRET"), "a secret is repeated");
}

fn warnings(content: &str, mode: u32, expect: Expect) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rc");
    fs::write(&path, content).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
    let config = config::load(&path).expect("it has no mistake");
    let shown: String = config
        .warnings
        .iter()
        .map(|warning| format!("{warning}\n"))
        .collect();
    expect.assert_eq(&shown.replace(&directory.path().display().to_string(), "DIR"));
}

#[test]
fn a_secret_that_others_can_read_is_a_warning() {
    let password = "[pve:apple]\napi=https://user@pve:SECRET@apple\n";
    let token = "[pve:apple]\napi=https://apple\ntoken=user@pve!move=SECRET\n";
    let command = "[pve:apple]\napi=https://user@pve@apple\npassword_command=pass show apple\n";
    warnings(password, 0o600, expect![[r#""#]]);
    warnings(
        password,
        0o644,
        expect![[r#"
        rc: holds a password or token and can be read by others (hint: chmod 600 DIR/rc)
    "#]],
    );
    warnings(
        password,
        0o640,
        expect![[r#"
        rc: holds a password or token and can be read by others (hint: chmod 600 DIR/rc)
    "#]],
    );
    warnings(
        token,
        0o604,
        expect![[r#"
        rc: holds a password or token and can be read by others (hint: chmod 600 DIR/rc)
    "#]],
    );
    warnings(command, 0o644, expect![[r#""#]]);
}

#[test]
fn a_password_that_may_be_meant_literally_is_a_warning() {
    warnings(
        "[pve:apple]\napi=https://user@pve:a%41@b@apple\n",
        0o600,
        expect![[r#"
            [pve:apple] api: the password has '%' escapes, which were decoded, beside characters that would be escaped too (hint: write a literal '%' as %25)
        "#]],
    );
}

#[test]
fn a_file_that_is_not_there_or_not_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rc");
    let error = config::load(&path).expect_err("it is not there");
    assert!(error.to_string().starts_with("cannot read /"), "{error}");
    assert!(error.problems().is_empty());
    fs::write(&path, b"[pve:apple]\napi=\xff\n").expect("it can be written");
    let error = config::load(&path).expect_err("it is not text");
    assert!(error.to_string().ends_with("rc has 1 problem"), "{error}");
    expect!["rc: line 2 is not UTF-8 (hint: save it as UTF-8, or write such characters of a password as %XX of their UTF-8)"].assert_eq(&error.problems()[0].to_string());
}

#[test]
fn no_secret_is_ever_shown() {
    let config = sample();
    let Credentials::Password { password, .. } =
        &config.clusters.values().next().expect("one").credentials
    else {
        panic!("the first cluster of the sample has a password")
    };
    assert_eq!(password.reveal(), "PASSWORD");
    let shown = format!(
        "{config:?}{:#?}{}{}",
        config,
        config::show::text(&config, "f"),
        config::show::json(&config, "f")
    );
    assert!(!shown.contains("PASSWORD"));
    assert!(!shown.contains("1234567890ab"));
}

#[test]
fn a_derived_section_never_replaces_one_of_the_file() {
    let mut config = sample();
    let count = config.storages.len();
    let mut derived = config.storages[0].clone();
    derived.node = Some("node1".parse().expect("a name"));
    derived.origin = config::Origin::Derived(
        "storage.cfg of apple-cluster: dir /x on node1 (10.0.0.1)".to_owned(),
    );
    assert!(
        !config.add_derived(derived.clone()),
        "sharedsan is there for all nodes"
    );
    derived.storage = "other".parse().expect("an id");
    assert!(config.add_derived(derived.clone()));
    assert!(!config.add_derived(derived.clone()), "a repeat is harmless");
    derived.node = Some("node2".parse().expect("a name"));
    assert!(config.add_derived(derived));
    assert_eq!(config.storages.len(), count + 2);
    assert!(
        config::show::text(&config, "rc")
            .contains("[storage:apple-cluster:other@node1] ; from storage.cfg of apple")
    );
}

proptest::proptest! {
    /// Whatever the file holds, reading it ends with a configuration or with problems, and tells no secret.
    #[test]
    fn no_text_can_break_the_reader(lines in proptest::collection::vec(
        "(\\[(pve|storage):[a-z:@ ]{0,6}\\]?|(api|ssh|path|temp|token|ca)[=: ]\\PC{0,20}|\\PC{0,20}|api=https://[a@:/%\\[\\]#0-9 ;]{0,20})",
        0..12,
    )) {
        let _ = config::parse(&lines.join("\n"), "rc");
    }

    /// A password in the URL is taken as it stands, unless it has white space or an escape.
    #[test]
    fn any_password_is_taken_as_it_stands(password in "[!-$&-~¡-ÿ]{1,24}") {
        let text = format!("[pve:apple]\n  api=https://user@pve:{password}@apple:443 ; x\n");
        let config = config::parse(&text, "rc").expect("it has no mistake");
        let cluster = config.clusters.values().next().expect("one");
        proptest::prop_assert_eq!((cluster.host.as_str(), cluster.port), ("apple", 443));
        let Credentials::Password { user, password: read } = &cluster.credentials else { panic!("no password") };
        proptest::prop_assert_eq!((user.as_str(), read.reveal()), ("user@pve", password.as_str()));
    }

    /// An encoded password is decoded, whatever is in it.
    #[test]
    fn any_encoded_password_is_decoded(password in "\\PC{1,16}") {
        let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
        let text = format!("[pve:apple]\napi=https://user@pve:{encoded}@apple\n");
        let config = config::parse(&text, "rc").expect("it has no mistake");
        let cluster = config.clusters.values().next().expect("one");
        let Credentials::Password { password: read, .. } = &cluster.credentials else { panic!("no password") };
        proptest::prop_assert_eq!(read.reveal(), password.as_str());
        proptest::prop_assert!(config.warnings.is_empty());
    }
}
