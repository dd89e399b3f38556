//! A throw-away sshd for tests: own keys, own port, own configuration in a temporary directory; nothing of it remains.
//!
//! Self-contained; a test file takes it in with `#[path = "support/sshd.rs"] mod sshd;`. It never touches the machine's
//! own sshd, and ends only processes it started.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set this to let the tests pass on a machine without sshd; each then says that it was not run.
pub const WITHOUT: &str = "PROXMOVE_TESTS_WITHOUT_SSHD";

const SSHD: &str = "/usr/sbin/sshd";

/// Tells whether the test can run. Panics where sshd is missing and nobody said that this is all right.
pub fn is_here(test: &str) -> bool {
    if Path::new(SSHD).exists() {
        return true;
    }
    assert!(
        std::env::var_os(WITHOUT).is_some(),
        "{SSHD} is missing: install openssh-server, or set {WITHOUT}=1 to leave these tests out"
    );
    let _ = writeln!(std::io::stderr(), "not run: {test} (no {SSHD})");
    false
}

/// A running sshd.
pub struct Sshd {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// The only user that can log in: the one that runs the tests.
    pub user: String,
    directory: tempfile::TempDir,
    child: Child,
}

impl Sshd {
    /// Starts one with an ed25519 host key and additional configuration lines.
    pub fn start(extra: &[&str]) -> Sshd {
        Sshd::start_with(&["ed25519"], extra)
    }

    /// Starts one with host keys of these types (`ed25519`, `ecdsa`, `rsa`).
    pub fn start_with(host_keys: &[&str], extra: &[&str]) -> Sshd {
        let directory = tempfile::tempdir().unwrap();
        let user = output(Command::new("id").arg("-un")).trim().to_owned();
        if user == "root" {
            // Debian's sshd insists on it even for one connection.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let path = |name: &str| directory.path().join(name);
        fs::write(path("authorized_keys"), "").unwrap();
        for kind in host_keys {
            generate_key(&path(&format!("host_{kind}")), kind, "");
        }
        for attempt in 0.. {
            let port = free_port();
            let mut config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nUseDNS no\n\
                 MaxStartups 100\nAuthorizedKeysFile {}\n",
                path("authorized_keys").display()
            );
            for kind in host_keys {
                let file = path(&format!("host_{kind}"));
                config.push_str(&format!("HostKey {}\n", file.display()));
            }
            for line in extra {
                config.push_str(line);
                config.push('\n');
            }
            fs::write(path("config"), config).unwrap();
            let log = fs::File::create(path("log")).unwrap();
            let mut child = Command::new(SSHD)
                .args(["-D", "-e", "-f"])
                .arg(path("config"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            if listens(port, &mut child) {
                return Sshd {
                    port,
                    user,
                    directory,
                    child,
                };
            }
            let _ = child.kill();
            let _ = child.wait();
            // Somebody else may have taken the port in between.
            assert!(
                attempt < 5,
                "sshd does not start: {}",
                fs::read_to_string(path("log")).unwrap()
            );
        }
        unreachable!()
    }

    /// Lets the holder of a key in; `public` is a line as in a `.pub` file.
    pub fn authorize(&self, public: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(self.directory.path().join("authorized_keys"))
            .unwrap();
        writeln!(file, "{}", public.trim_end()).unwrap();
    }

    /// Returns the known_hosts line for the host key of this type.
    pub fn known_hosts_line(&self, kind: &str) -> String {
        let file = self.directory.path().join(format!("host_{kind}.pub"));
        let public = fs::read_to_string(file).unwrap();
        let mut words = public.split(' ');
        let (algorithm, key) = (words.next().unwrap(), words.next().unwrap());
        format!("[127.0.0.1]:{} {algorithm} {}", self.port, key.trim_end())
    }

    /// Returns the fingerprint of the host key of this type, as ssh-keygen shows it.
    pub fn fingerprint(&self, kind: &str) -> String {
        let file = self.directory.path().join(format!("host_{kind}.pub"));
        let shown = output(Command::new("ssh-keygen").arg("-lf").arg(file));
        shown.split(' ').nth(1).unwrap().to_owned()
    }

    /// Returns what it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Returns the file with the private host key of this type.
    pub fn host_key_file(&self, kind: &str) -> PathBuf {
        self.directory.path().join(format!("host_{kind}"))
    }

    /// Returns the processes that serve connections, without what runs in them.
    pub fn sessions(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// Kills all sessions with SIGKILL; the listener stays.
    pub fn kill_sessions(&self) {
        for session in self.sessions() {
            kill(session);
            // A login of another user than root has its connection in a child of the session.
            children(session).into_iter().for_each(kill);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A throw-away ssh-agent.
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
    child: Child,
}

impl Agent {
    /// Starts one that holds these private keys.
    pub fn start(keys: &[&Path]) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while !socket.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "no ssh-agent");
            std::thread::sleep(Duration::from_millis(10));
        }
        for key in keys {
            let added = Command::new("ssh-add")
                .arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &socket)
                .status()
                .unwrap();
            assert!(added.success());
        }
        Agent {
            socket,
            _directory: directory,
            child,
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key pair `file` and `file.pub`; returns the public line.
pub fn generate_key(file: &Path, kind: &str, passphrase: &str) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"]);
    if kind == "rsa" {
        command.args([file.to_str().unwrap(), "-b", "2048"]);
    } else {
        command.arg(file);
    }
    output(&mut command);
    let public = PathBuf::from(format!("{}.pub", file.display()));
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::read_to_string(public).unwrap().trim_end().to_owned()
}

/// Returns a port nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits for the banner; `false` when the process ended instead.
fn listens(port: u16, child: &mut Child) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut banner = [0; 4];
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            if stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-" {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Returns the direct children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The fields behind the name in parentheses: state, parent ...
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        if after.split_ascii_whitespace().nth(1) == Some(&parent.to_string()) {
            found.push(id);
        }
    }
    found
}

fn kill(id: u32) {
    let _ = Command::new("kill")
        .args(["-9", &id.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Runs a command that must succeed; returns its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
