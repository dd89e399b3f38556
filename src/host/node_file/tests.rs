use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::host::local::LocalShell;

const BEFORE: &str = "#notes\nname: web1--CREATING\nscsi0: tank:vm-126-disk-0\n";

fn file(directory: &Path) -> NodeFile {
    NodeFile {
        shell: Arc::new(LocalShell::default()),
        path: directory.join("126.conf").display().to_string(),
        lock: directory.join("lock/lock-126.conf").display().to_string(),
    }
}

fn section() -> Section {
    Section {
        name: "before".to_owned(),
        description: String::new(),
        keys: BTreeMap::from([("snaptime".to_owned(), "7".to_owned())]),
    }
}

#[tokio::test]
async fn snapshots_are_entered_once_and_under_the_lock() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path());
    fs::write(&file.path, BEFORE).expect("writes");
    for _ in 0..2 {
        let entered = file.enter(&[section()], Some("before")).await;
        entered.expect("enters");
        let after = fs::read_to_string(&file.path).expect("reads");
        assert_eq!(
            after,
            format!("{BEFORE}parent: before\n\n[before]\nsnaptime: 7\n")
        );
    }
    let mut left: Vec<_> = fs::read_dir(directory.path())
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["126.conf", "lock"]);
}

#[tokio::test]
async fn a_file_that_changed_or_an_input_that_is_cut_off_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path());
    fs::write(&file.path, BEFORE).expect("writes");
    let new = "name: other\n";
    for (old, input, exit) in [
        ("something else\n", new, Exit::Code(CHANGED)),
        (BEFORE, "name: oth", Exit::Code(1)),
        (BEFORE, "", Exit::Code(1)),
    ] {
        let write = script(WRITE, &[&file.path, &file.lock, &digest(old), &digest(new)]);
        let output = file.run(&write, input.as_bytes()).await.expect("runs");
        assert_eq!(output.exit, exit, "{old} {input}");
        assert_eq!(fs::read_to_string(&file.path).expect("reads"), BEFORE);
    }
    // The lock and the file are all that is there.
    assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 2);
    let missing = NodeFile {
        path: directory.path().join("127.conf").display().to_string(),
        ..file
    };
    let refused = missing.enter(&[section()], None).await;
    let refused = refused.expect_err("there is none").to_string();
    assert!(refused.contains("No such file"), "{refused}");
}

#[tokio::test]
async fn a_machine_that_is_no_node_is_told_apart() {
    if Path::new("/etc/pve").exists() {
        return;
    }
    let node = "node2".parse().expect("a name");
    let refused = examine(&LocalShell::default(), &node).await;
    let refused = refused.expect_err("this is no node");
    assert!(refused.contains("there is no /etc/pve"), "{refused}");
}
