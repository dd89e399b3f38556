//! The two machines of the storage lab, reached over SSH: commands, files, forwarded ports.
//!
//! It neither boots them nor ends them; `PROXMOVE_LAB_ENV` names the file that says how to reach them. One connection
//! to each carries everything, because a login is dear under emulation. Read next: `sites.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a test's lab says about itself.
#[derive(Clone, Debug)]
pub struct Lab {
    words: BTreeMap<String, String>,
}

impl Lab {
    /// Returns the lab, or why there is none.
    pub fn find() -> Result<Lab, String> {
        let file = std::env::var_os("PROXMOVE_LAB_ENV")
            .ok_or_else(|| "PROXMOVE_LAB_ENV names no lab".to_owned())?;
        let text = fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}", Path::new(&file).display()))?;
        let words = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
            .collect();
        Ok(Lab { words })
    }

    fn word(&self, key: &str) -> &str {
        self.words
            .get(key)
            .unwrap_or_else(|| panic!("the lab's file has no {key}"))
    }

    /// Returns the private key that opens both machines.
    pub fn key(&self) -> PathBuf {
        self.word("LAB_KEY").into()
    }

    /// Returns the file with the host keys of both.
    pub fn known_hosts(&self) -> PathBuf {
        self.word("LAB_KNOWN_HOSTS").into()
    }

    /// Tells whether this machine reaches the others at their own addresses, as they reach each other.
    fn is_routed(&self) -> bool {
        self.words
            .get("LAB_NETWORK")
            .is_none_or(|kind| kind == "tap")
    }

    /// Connects to machine `A` or `B`.
    pub fn connect(&self, letter: char) -> Machine {
        let port = self.word(&format!("LAB_{letter}_PORT")).to_owned();
        let address = self.word(&format!("LAB_{letter}_ADDRESS")).to_owned();
        let directory = tempfile::Builder::new().prefix("lab-").tempdir().unwrap();
        let socket = directory.path().join("ssh");
        let common: Vec<String> = [
            "-F".to_owned(),
            "none".to_owned(),
            "-S".to_owned(),
            socket.display().to_string(),
            "-i".to_owned(),
            self.key().display().to_string(),
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", self.known_hosts().display()),
            "-o".to_owned(),
            "BatchMode=yes".to_owned(),
            "-o".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "-p".to_owned(),
            port.clone(),
            "root@127.0.0.1".to_owned(),
        ]
        .into();
        let link = Command::new("ssh")
            .args(["-M", "-N"])
            .args(&common)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let storage_host = match self.is_routed() {
            true => format!("root@{address}"),
            false => format!("root@127.0.0.1:{port}"),
        };
        let mut machine = Machine {
            letter,
            storage_host,
            common,
            link,
            _directory: directory,
        };
        let began = Instant::now();
        while !socket.exists() {
            let ended = machine.link.try_wait().unwrap();
            assert!(ended.is_none(), "no connection to machine {letter}");
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "no login on machine {letter}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        machine
    }
}

/// One machine, and the connection to it, which ends with this.
#[derive(Debug)]
pub struct Machine {
    /// `A` or `B`.
    pub letter: char,
    /// `ssh=` of storages on it, as proxmove reaches it from here.
    pub storage_host: String,
    common: Vec<String>,
    link: Child,
    _directory: tempfile::TempDir,
}

impl Machine {
    /// Returns an ssh command for it, with options before the address and the command line after it.
    pub fn ssh(&self, options: &[&str], line: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(options).args(&self.common).args(line);
        command
    }

    /// Runs a shell's command line and returns all of its outcome.
    pub fn try_run(&self, line: &str) -> Output {
        self.ssh(&[], &[line])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a shell's command line that must succeed; returns what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "on machine {}: {line}\n{errors}",
            self.letter
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a file.
    pub fn put(&self, bytes: &[u8], path: &str) {
        use std::io::Write as _;
        let mut child = self
            .ssh(&[], &[&format!("cat > {path}.new && mv {path}.new {path}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait().unwrap().success(), "cannot write {path}");
    }

    /// Puts a program on it, unless it is there already; returns its path.
    pub fn install(&self, program: &Path) -> String {
        let bytes = fs::read(program).unwrap();
        let path = format!("/root/lab-{}", &blake3::hash(&bytes).to_hex()[..16]);
        if !self.try_run(&format!("test -x {path}")).status.success() {
            // Another test may be at it: each has a draft of its own.
            let draft = format!("{path}-{:08x}", fastrand::u32(..));
            self.put(&bytes, &draft);
            self.run(&format!("chmod 755 {draft} && mv {draft} {path}"));
        }
        path
    }

    /// Lets a free port of this machine lead to a port of that one; returns the former.
    pub fn forward(&self, port: u16) -> u16 {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let here = free.local_addr().unwrap().port();
        drop(free);
        let status = self
            .ssh(
                &[
                    "-O",
                    "forward",
                    "-L",
                    &format!("127.0.0.1:{here}:127.0.0.1:{port}"),
                ],
                &[],
            )
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "cannot forward port {port}");
        here
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.link.kill();
        let _ = self.link.wait();
    }
}
