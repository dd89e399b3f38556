//! Simulated clusters on the lab's machines, one on each, with real pools: for whole moves by the real program.
//!
//! Each has datasets and a directory of its own, so tests do not meet; all of it is removed at the end. Nothing here
//! knows how a move is done. Read next: `machines.rs`, `../move_lab.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proxmove::sim::world::scenario::{
    ClusterSpec, GuestSpec, NodeSpec, Pace, Scenario, StorageSpec, TokenSpec, UserSpec,
};
use serde_json::{Value, json};

use super::machines::{Lab, Machine};

/// What the token of every site is.
pub const TOKEN: &str = "PVEAPIToken=root@pam!lab=4d1c4a2e-7a54-4c0e-8b52-3f1f6d1c0b11";

/// What a guest writes to of each disk: little of it, as of most disks, and the emulated machines are slow.
const HOT: u64 = 8 << 20;

/// Returns a zfspool storage on a real pool; each site gives it a dataset of its own.
pub fn zfspool(id: &str, settings: &[(&str, &str)]) -> StorageSpec {
    StorageSpec {
        id: id.to_owned(),
        kind: "zfspool".to_owned(),
        path: String::new(),
        content: "images".to_owned(),
        real: true,
        extra: settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..StorageSpec::default()
    }
}

/// Returns a directory storage.
pub fn files(id: &str) -> StorageSpec {
    StorageSpec {
        id: id.to_owned(),
        path: format!("/srv/{id}"),
        content: "images".to_owned(),
        ..StorageSpec::default()
    }
}

/// Returns a cluster with one node of that name.
pub fn cluster(
    alias: &str,
    node: &str,
    storages: Vec<StorageSpec>,
    guests: Vec<GuestSpec>,
) -> ClusterSpec {
    ClusterSpec {
        alias: alias.to_owned(),
        nodes: vec![NodeSpec {
            name: node.to_owned(),
            ..NodeSpec::default()
        }],
        storages,
        guests,
        users: vec![UserSpec {
            id: "root@pam".to_owned(),
            password: "root".to_owned(),
            tokens: vec![TokenSpec {
                name: "lab".to_owned(),
                secret: "4d1c4a2e-7a54-4c0e-8b52-3f1f6d1c0b11".to_owned(),
                ..TokenSpec::default()
            }],
            ..UserSpec::default()
        }],
        ..ClusterSpec::default()
    }
}

/// One cluster on one machine.
pub struct Site {
    /// The machine.
    pub machine: Machine,
    /// `127.0.0.1:PORT` of this machine, which leads to the API.
    pub api: String,
    /// What the site said when it was up.
    pub ready: Value,
    /// Its dataset; each storage is right below it.
    pub dataset: String,
    /// Its directory.
    pub directory: String,
    spec: ClusterSpec,
    program: String,
    process: Child,
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Site {
    /// Starts a cluster on a machine; its running guests' disks are filled to a part before they write.
    pub fn start(machine: Machine, program: &Path, mut spec: ClusterSpec, filled: f64) -> Site {
        let program = machine.install(program);
        let name = format!("t{:08x}", fastrand::u32(..));
        let (dataset, directory) = (format!("tank/{name}"), format!("/root/{name}"));
        let mut line = format!("mkdir -p {directory}/temp && zfs create {dataset}");
        for storage in &mut spec.storages {
            if storage.real {
                let pool = format!("{dataset}/{}", storage.id);
                let _ = write!(line, " && zfs create {pool}");
                storage.extra.insert("pool".to_owned(), pool);
            }
        }
        machine.run(&line);
        let scenario = Scenario {
            clusters: vec![spec.clone()],
            pace: Pace::quick(),
        };
        let text = serde_json::to_vec(&scenario).unwrap();
        machine.put(&text, &format!("{directory}/scenario"));
        let line = format!(
            "exec {program} sim --scenario {directory}/scenario --cluster {} --directory {directory} --filled {filled} --hot {HOT}",
            spec.alias
        );
        let mut process = machine
            .ssh(&[], &[&line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut first = String::new();
        answers.read_line(&mut first).unwrap();
        let ready: Value = serde_json::from_str(&first).expect("the site does not start");
        let port = ready["address"].as_str().unwrap().rsplit_once(':').unwrap();
        let api = format!("127.0.0.1:{}", machine.forward(port.1.parse().unwrap()));
        Site {
            machine,
            api,
            ready,
            dataset,
            directory,
            spec,
            program,
            process,
            talk: Mutex::new(Some((orders, answers))),
        }
    }

    /// Returns the path of the program on the machine.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Gives an order and returns the answer.
    #[track_caller]
    pub fn order(&self, order: &Value) -> Value {
        let mut talk = self.talk.lock().unwrap();
        let (orders, answers) = talk.as_mut().unwrap();
        writeln!(orders, "{order}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_null(), "{order}: {answer}");
        answer
    }

    /// Returns how a guest is: `running`, `config`, `images`, `completed`, `ledger`.
    #[track_caller]
    pub fn guest(&self, vmid: u32) -> Value {
        let guest = self.order(&json!({"order": "guest", "vmid": vmid}));
        assert!(guest["trouble"].is_null(), "{guest}");
        guest
    }

    /// Waits until a guest has completed so many records since its start.
    pub fn await_records(&self, vmid: u32, records: u64) {
        let began = Instant::now();
        while self.guest(vmid)["completed"].as_u64().unwrap() < records {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "guest {vmid} does not write"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Returns the devices or files of a guest's disks, in the order of its drives.
    #[track_caller]
    pub fn images(&self, vmid: u32) -> Vec<String> {
        let guest = self.guest(vmid);
        let images = guest["images"].as_array().unwrap();
        images
            .iter()
            .map(|image| image["path"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Returns the ledger that was saved when a guest ended.
    pub fn ledger(&self, vmid: u32) -> Vec<u8> {
        self.machine
            .run(&format!("cat {}/ledger-{vmid}.json", self.directory))
            .into_bytes()
    }

    /// Proves that disks of this machine hold every record of a ledger; returns how many there are.
    #[track_caller]
    pub fn prove(&self, ledger: &[u8], images: &[String]) -> u64 {
        let file = format!("{}/proof-{:08x}.json", self.directory, fastrand::u32(..));
        self.machine.put(ledger, &file);
        let line = format!(
            "{} sim-proof --ledger {file} {}",
            self.program,
            images.join(" ")
        );
        let output = self.machine.try_run(&line);
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{errors}");
        let verdict: Value = serde_json::from_str(&said).unwrap();
        for wrong in ["missing", "torn", "stale", "foreign"] {
            assert_eq!(verdict[wrong], 0, "{verdict}");
        }
        verdict["expected"].as_u64().unwrap()
    }

    /// Asks the API; returns the status, the reason and `data`.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, Value) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = self.ready["certificate"].as_str().unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()])
            .build()
            .unwrap();
        let response = client
            .request(
                method.parse().unwrap(),
                format!("https://{}/api2/json{path}", self.api),
            )
            .header("authorization", TOKEN)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let reason = response
            .extensions()
            .get::<hyper::ext::ReasonPhrase>()
            .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
            .unwrap_or_default();
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        let reason = match &body["errors"] {
            Value::Null => reason,
            errors => format!("{reason} {errors}"),
        };
        (status, reason, body["data"].clone())
    }

    /// Asks for something that a task does, and returns the task's exit status.
    pub async fn ask_task(&self, method: &str, path: &str, body: &str) -> String {
        let (status, reason, upid) = self.ask(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {reason}");
        let upid = upid.as_str().unwrap().to_owned();
        let node = upid.split(':').nth(1).unwrap();
        let path = format!("/nodes/{node}/tasks/{upid}/status");
        let began = Instant::now();
        loop {
            let (_, _, task) = self.ask("GET", &path, "").await;
            if let Some(exit) = task["exitstatus"].as_str() {
                return exit.to_owned();
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{upid} does not end"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the sections of proxmoverc for this cluster and its storages.
    fn sections(&self) -> String {
        let alias = &self.spec.alias;
        let mut text = format!(
            "[pve:{alias}]\napi=https://root@pam:root@{}\nfingerprint={}\n\n",
            self.api,
            self.ready["fingerprint"].as_str().unwrap()
        );
        let roots: BTreeMap<&str, &str> = self.ready["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| {
                (
                    node["name"].as_str().unwrap(),
                    node["root"].as_str().unwrap(),
                )
            })
            .collect();
        for (node, root) in roots {
            for storage in &self.spec.storages {
                let path = match storage.extra.get("pool") {
                    Some(pool) => format!("zfs:{pool}"),
                    None => format!("{root}{}/images", storage.path),
                };
                let _ = writeln!(
                    text,
                    "[storage:{alias}:{}@{node}]\nssh={}\npath={path}\ntemp={}/temp\n",
                    storage.id, self.machine.storage_host, self.directory
                );
            }
        }
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The end of its orders ends it.
        drop(self.talk.lock().map(|mut talk| talk.take()));
        let _ = self.process.wait();
        // Snapshots that a move keeps are held.
        let line = format!(
            "zfs list -H -o name -t snapshot -r {0} | xargs -r zfs holds -H |
                 while read -r snapshot tag when; do zfs release \"$tag\" \"$snapshot\"; done
             for n in 1 2 3 4 5; do zfs destroy -r {0} && break; sleep 1; done
             rm -rf {1}",
            self.dataset, self.directory
        );
        let output = self.machine.try_run(&line);
        if !output.status.success() || !output.stderr.is_empty() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Two sites and an operator's home from which the program reaches them.
pub struct Sites {
    /// On machine A.
    pub source: Site,
    /// On machine B.
    pub target: Site,
    /// The operator's home.
    pub home: PathBuf,
    key: PathBuf,
    known_hosts: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Sites {
    /// Starts both.
    pub fn start(lab: &Lab, program: &Path, source: ClusterSpec, target: ClusterSpec) -> Sites {
        Sites::start_filled(lab, program, source, target, 0.3)
    }

    /// Starts both; of the guests' disks that part is written before they write.
    pub fn start_filled(
        lab: &Lab,
        program: &Path,
        source: ClusterSpec,
        target: ClusterSpec,
        filled: f64,
    ) -> Sites {
        let site = |letter, spec| Site::start(lab.connect(letter), program, spec, filled);
        let (source, target) = (site('A', source), site('B', target));
        let mut sites = Sites {
            source,
            target,
            home: PathBuf::new(),
            key: lab.key(),
            known_hosts: lab.known_hosts(),
            _directory: None,
        };
        let directory = sites.another_home();
        sites.home = directory.path().to_owned();
        sites._directory = Some(directory);
        sites
    }

    /// Makes a home for another operator.
    pub fn another_home(&self) -> tempfile::TempDir {
        let directory = tempfile::Builder::new().prefix("lab-").tempdir().unwrap();
        let home = directory.path();
        let private = |path: PathBuf, text: &[u8]| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        let ssh = home.join(".ssh");
        fs::create_dir(&ssh).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
        private(ssh.join("id_ed25519"), &fs::read(&self.key).unwrap());
        private(
            ssh.join("known_hosts"),
            &fs::read(&self.known_hosts).unwrap(),
        );
        let sections = self.source.sections() + &self.target.sections();
        private(home.join(".proxmoverc"), sections.as_bytes());
        directory
    }
}
