//! The Python original: installed from PyPI into a directory of the benchmark's own, and run as people run it.
//!
//! What it needs beside itself: an SSH agent whose key it forwards to the source host, which then logs in at the target
//! host, and the target's host key known there. Both are made for one move and removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machines::Lab;
use crate::sites::Sites;

/// The release that is measured.
const PACKAGE: &str = "proxmove==1.2";

/// An installed original.
pub(crate) struct Original {
    program: PathBuf,
    version: String,
}

impl Original {
    /// Installs it, once.
    pub(crate) fn install() -> Result<Original, String> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("zfs-original");
        let program = directory.join("bin/proxmove");
        if !program.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
            let pip = directory.join("bin/pip");
            run(Command::new(pip).args(["install", "-q", PACKAGE]))?;
        }
        let said = run(Command::new(&program).arg("--version"))?;
        let version = said.split_whitespace().last().unwrap_or("?").to_owned();
        Ok(Original { program, version })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Makes what a move by it needs.
    pub(crate) fn operator(&self, lab: &Lab, sites: &Sites) -> Operator {
        let directory = tempfile::Builder::new().prefix("zfs-").tempdir().unwrap();
        let root = directory.path();
        let known = lab.known_hosts();
        // It calls ssh without any way to say which configuration; ssh asks the system for the home, not the environment.
        let ssh = root.join("ssh");
        let options = format!(
            "-F none -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={}",
            lab.key().display(),
            known.display()
        );
        fs::write(
            &ssh,
            format!("#!/bin/sh\nexec /usr/bin/ssh {options} \"$@\"\n"),
        )
        .unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = root.join("agent");
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !socket.exists() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut add = Command::new("ssh-add");
        add.arg(lab.key()).env("SSH_AUTH_SOCK", &socket);
        run(&mut add).unwrap();
        sites.source.machine.run("mkdir -p -m 700 /root/.ssh");
        let text = fs::read(&known).unwrap();
        sites.source.machine.put(&text, "/root/.ssh/known_hosts");
        Operator {
            program: self.program.clone(),
            agent,
            directory,
        }
    }
}

/// Who runs it for one move.
pub(crate) struct Operator {
    program: PathBuf,
    agent: Child,
    directory: tempfile::TempDir,
}

impl Operator {
    /// Returns the command line, and the environment that it needs.
    pub(crate) fn command(&self, home: &Path) -> (String, Vec<(&'static str, String)>) {
        let root = self.directory.path();
        // It knows no pinned certificates.
        let text = fs::read_to_string(home.join(".proxmoverc")).unwrap();
        let known = text
            .lines()
            .filter(|line| !line.starts_with("fingerprint="));
        let text = known.collect::<Vec<&str>>().join("\n");
        let file = root.join("proxmoverc");
        fs::write(&file, text).unwrap();
        let line = format!(
            "{} -c {} --no-verify-ssl apple banana node2 tank web1",
            self.program.display(),
            file.display()
        );
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = vec![
            ("PATH", format!("{}:{path}", root.display())),
            ("SSH_AUTH_SOCK", root.join("agent").display().to_string()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("PYTHONWARNINGS", "ignore".to_owned()),
        ];
        (line, environment)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {errors}", output.status))
}
