//! The system's own sshd as a host, with a configuration of its own in the host's directory.
//!
//! It needs `sshd` and `ssh-keygen`, never reads the system's configuration, and runs in the foreground as our child.
//! What it runs is in its process group or reparented to nobody we know: as with any sshd, a command outlives a closed
//! connection until it meets its closed pipes, but not the host. Read next: `host.rs`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{ANY_PORT, HostError, HostSettings};

/// Another process may take the port between our choice and sshd's start, so it is tried more than once.
const ATTEMPTS: usize = 5;
/// How often the port is looked at until sshd answers there.
const INTERVAL: Duration = Duration::from_millis(20);
/// How often at most: 20 seconds, for a machine with much else to do. sshd ending early is noticed before.
const LOOKS: usize = 1000;

/// A running sshd.
#[derive(Debug)]
pub(super) struct OpenSsh {
    pub(super) address: SocketAddr,
    child: Child,
}

impl OpenSsh {
    /// Starts it, and returns it with its public host key.
    pub(super) async fn start(
        settings: &HostSettings,
        program: &Path,
        user: &str,
        key_path: &Path,
    ) -> Result<(OpenSsh, String), HostError> {
        if !key_path.exists() {
            make_host_key(settings, key_path).await?;
        }
        let public = read(&key_path.with_extension("pub"))?;
        let keys_path = settings.directory.join("authorized_keys");
        write(&keys_path, &(settings.authorized_keys.join("\n") + "\n"))?;
        // Without it sshd refuses to start; a system that never ran its service has none.
        if rustix::process::geteuid().is_root() {
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let address = free_address(settings).await?;
            let config_path = settings.directory.join("sshd_config");
            write(
                &config_path,
                &config(
                    settings,
                    address,
                    user,
                    key_path,
                    &keys_path,
                    lenience(&log),
                ),
            )?;
            match launch(settings, program, &config_path, address).await? {
                Ok(child) => return Ok((OpenSsh { address, child }, public)),
                Err(text) => log = text,
            }
        }
        Err(HostError::Mute {
            name: settings.name.clone(),
            log,
        })
    }

    pub(super) async fn stop(mut self) {
        end_sessions(&self.child);
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        // The listener itself is killed by `kill_on_drop`.
        end_sessions(&self.child);
    }
}

/// Kills what the listener started, and what that started, and so on.
fn end_sessions(listener: &Child) {
    let Some(listener) = listener.id() else {
        return;
    };
    let mut parents = vec![listener as i32];
    let mut found = Vec::new();
    let family = processes();
    while let Some(parent) = parents.pop() {
        let children = family.iter().filter(|(_, of)| *of == parent);
        for (process, _) in children {
            parents.push(*process);
            found.push(*process);
        }
    }
    // It must not start more meanwhile, nor be told of its children's end one by one.
    for process in std::iter::once(listener as i32).chain(found) {
        if let Some(process) = Pid::from_raw(process) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// Returns all processes of this machine with their parents.
fn processes() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything, parentheses as well.
            let (_, after_name) = stat.rsplit_once(')')?;
            let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
            Some((process, parent))
        })
        .collect()
}

/// Returns the line that keeps sshd from punishing clients that come often or leave early, as tests do.
///
/// It is new in OpenSSH 9.8, and an error before that: one that sshd logged at the last attempt.
fn lenience(log: &str) -> &'static str {
    if log.contains("PerSourcePenalties") {
        ""
    } else {
        "PerSourcePenalties no\n"
    }
}

fn config(
    settings: &HostSettings,
    address: SocketAddr,
    user: &str,
    key_path: &Path,
    keys_path: &Path,
    lenience: &str,
) -> String {
    format!(
        "Port {port}\n\
         ListenAddress {ip}\n\
         HostKey \"{key}\"\n\
         AuthorizedKeysFile \"{keys}\"\n\
         AllowUsers {user}\n\
         PubkeyAuthentication yes\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\n\
         UsePAM no\n\
         StrictModes no\n\
         PidFile none\n\
         PermitTTY no\n\
         DisableForwarding yes\n\
         PrintMotd no\n\
         PermitUserRC no\n\
         MaxStartups 100\n\
         MaxSessions 100\n\
         SetEnv \"HOME={home}\"\n\
         Subsystem sftp internal-sftp\n\
         {lenience}",
        port = address.port(),
        ip = address.ip(),
        key = key_path.display(),
        keys = keys_path.display(),
        home = settings.directory.display(),
    )
}

async fn make_host_key(settings: &HostSettings, key_path: &Path) -> Result<(), HostError> {
    let program_error = |source| HostError::Program {
        name: settings.name.clone(),
        program: "ssh-keygen".into(),
        source,
    };
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "host key", "-f"])
        .arg(key_path)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(program_error)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(program_error(std::io::Error::other(text)))
}

async fn free_address(settings: &HostSettings) -> Result<SocketAddr, HostError> {
    let listen = |source| HostError::Listen {
        name: settings.name.clone(),
        source,
    };
    let listener = TcpListener::bind(ANY_PORT).await.map_err(listen)?;
    listener.local_addr().map_err(listen)
}

/// Starts sshd; the inner error is what it logged when it ended again.
async fn launch(
    settings: &HostSettings,
    program: &Path,
    config_path: &Path,
    address: SocketAddr,
) -> Result<Result<Child, String>, HostError> {
    let log_path = settings.directory.join("sshd.log");
    let log_file = std::fs::File::create(&log_path).map_err(|source| HostError::File {
        path: log_path.clone(),
        source,
    })?;
    let mut child = Command::new(program)
        .args(["-D", "-e", "-f"])
        .arg(config_path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| HostError::Program {
            name: settings.name.clone(),
            program: program.to_owned(),
            source,
        })?;
    for _ in 0..LOOKS {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        if answers(address).await {
            return Ok(Ok(child));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(Err(read(&log_path)?.trim().to_owned()))
}

/// Says whether an SSH server answers at `address`.
async fn answers(address: SocketAddr) -> bool {
    let mut greeting = [0; 4];
    match TcpStream::connect(address).await {
        Ok(mut stream) => stream.read_exact(&mut greeting).await.is_ok() && greeting == *b"SSH-",
        Err(_) => false,
    }
}

fn read(path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::File {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), HostError> {
    std::fs::write(path, text).map_err(|source| HostError::File {
        path: path.to_owned(),
        source,
    })
}
