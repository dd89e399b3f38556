//! SSH hosts of the simulation: real SSH servers on the loopback address, each with a directory of its own.
//!
//! Two kinds, alike from outside: one inside this process, which needs nothing installed, and the system's own sshd.
//! Both accept public keys only, run what a client asks for with a plain shell, and forward nothing. A host never
//! outlives its [`SimHost`], and neither do the commands it runs. It is no sandbox: a command has the rights and the
//! file system of this process.
//!
//! Read next: `host/embedded.rs`, `host/command.rs` (one command), `host/gate.rs` (back-pressure), `host/openssh.rs`.

mod command;
mod embedded;
pub mod faults;
mod gate;
mod openssh;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// The directory below a host's own where programs of the host itself are, found before those of this machine.
pub const PROGRAMS: &str = "bin";

/// The file below a host's own directory that says it has no power: nobody can log in, nothing is run. It may be a link to
/// where that is known.
pub const POWERED_OFF: &str = "powered-off";

/// Which SSH server a host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// The one in this process.
    Embedded,
    /// The system's, at this absolute path (sshd insists on being started by its full path).
    OpenSsh(PathBuf),
}

/// What a host is made of.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// The host's name, for messages.
    pub name: String,
    /// An existing directory that belongs to the host: its HOME, and where its own files go. When there is `etc/pve` in it,
    /// commands of the embedded server find that at /etc/pve, and `var/lock/qemu-server` where a node has it.
    pub directory: PathBuf,
    /// Public keys that may log in, as lines of an authorized_keys file.
    pub authorized_keys: Vec<String>,
    /// Which server it runs.
    pub server: Server,
}

/// What can go wrong with a host. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of the host could not be written or read.
    #[error("cannot use '{path}'", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key could not be made, read or written.
    #[error("cannot use the key '{key}'")]
    Key {
        /// The public line, or the key's file.
        key: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No port could be had.
    #[error("cannot listen on a loopback port for {name}")]
    Listen {
        /// The host.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system's SSH server could not be started.
    #[error("cannot start '{program}' for {name}", program = program.display())]
    Program {
        /// The host.
        name: String,
        /// What was started.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system's SSH server did not come up.
    #[error("the SSH server of {name} does not answer: {log}")]
    Mute {
        /// The host.
        name: String,
        /// The last lines it logged.
        log: String,
    },
}

/// A running host. Dropping it stops the server and kills what it runs; [`SimHost::stop`] waits for that as well.
#[derive(Debug)]
pub struct SimHost {
    /// Where it listens, always on 127.0.0.1.
    pub address: SocketAddr,
    /// The port of `address`.
    pub port: u16,
    /// The only user that may log in: the one this process runs as.
    pub user: String,
    /// The line a known_hosts file needs: `[127.0.0.1]:PORT ssh-ed25519 KEY`.
    pub known_hosts_line: String,
    name: String,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Embedded(embedded::Embedded),
    OpenSsh(openssh::OpenSsh),
}

impl SimHost {
    /// Starts a host and returns when it accepts connections.
    ///
    /// Must be called within a tokio runtime that outlives the host. Host keys are kept in the host's directory
    /// (`ssh_host_ed25519_key`), so a host that is started again in the same directory is the same host on another
    /// port.
    pub async fn start(mut settings: HostSettings) -> Result<SimHost, HostError> {
        // sshd insists on it, and commands run elsewhere.
        settings.directory =
            std::path::absolute(&settings.directory).map_err(|source| HostError::File {
                path: settings.directory.clone(),
                source,
            })?;
        let user = current_user();
        let key_path = settings.directory.join("ssh_host_ed25519_key");
        let (address, running, public) = match &settings.server {
            Server::Embedded => {
                let key = host_key(&key_path)?;
                let public = public_line(key.public_key(), &key_path)?;
                let server = embedded::Embedded::start(&settings, &user, key).await?;
                (server.address, Running::Embedded(server), public)
            }
            Server::OpenSsh(program) => {
                let (server, public) =
                    openssh::OpenSsh::start(&settings, program, &user, &key_path).await?;
                (server.address, Running::OpenSsh(server), public)
            }
        };
        // Only the type and the key: a comment after them would be no error, but nothing anyone needs either.
        let key: Vec<&str> = public.split_whitespace().take(2).collect();
        Ok(SimHost {
            address,
            port: address.port(),
            user,
            known_hosts_line: format!("[{}]:{} {}", address.ip(), address.port(), key.join(" ")),
            name: settings.name,
            running,
        })
    }

    /// Returns the host's name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many bytes arrived on the standard input of each command line, over all of its runs.
    ///
    /// What a killed client had sent counts too. Only the server of this process counts; of the system's sshd it is
    /// empty.
    pub fn received(&self) -> BTreeMap<String, u64> {
        match &self.running {
            Running::Embedded(server) => server.received(),
            Running::OpenSsh(_) => BTreeMap::new(),
        }
    }

    /// Returns the rules and the record of commands; only the server of this process has them.
    pub fn commands(&self) -> Option<&faults::CommandFaults> {
        match &self.running {
            Running::Embedded(server) => Some(&server.faults),
            Running::OpenSsh(_) => None,
        }
    }

    /// Stops the host and returns when its server and the commands it ran have ended.
    pub async fn stop(self) {
        match self.running {
            Running::Embedded(server) => server.stop().await,
            Running::OpenSsh(server) => server.stop().await,
        }
    }
}

/// Makes a key pair of type ed25519 for a client and returns the private key's path and the public line.
///
/// The private key is written in OpenSSH's own format as `id_ed25519`, readable by its owner only, the public one
/// beside it as `id_ed25519.pub`. Fails where the private key exists already.
pub fn generate_key(directory: &Path) -> Result<(PathBuf, String), HostError> {
    let path = directory.join("id_ed25519");
    let key = write_new_key(&path)?;
    let line = public_line(key.public_key(), &path)?;
    let public_path = directory.join("id_ed25519.pub");
    std::fs::write(&public_path, format!("{line}\n")).map_err(|source| HostError::File {
        path: public_path,
        source,
    })?;
    Ok((path, line))
}

/// Returns the host key kept at `path`, which is made when it is not there yet.
fn host_key(path: &Path) -> Result<PrivateKey, HostError> {
    match std::fs::read_to_string(path) {
        Ok(text) => PrivateKey::from_openssh(text).map_err(|error| key_error(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_new_key(path),
        Err(source) => Err(HostError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_new_key(path: &Path) -> Result<PrivateKey, HostError> {
    let mut random = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut random, Algorithm::Ed25519)
        .map_err(|error| key_error(path, error))?;
    let text = key
        .to_openssh(LineEnding::LF)
        .map_err(|error| key_error(path, error))?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| HostError::File {
            path: path.to_owned(),
            source,
        })?;
    Ok(key)
}

fn public_line(key: &russh::keys::PublicKey, path: &Path) -> Result<String, HostError> {
    key.to_openssh().map_err(|error| key_error(path, error))
}

fn key_error(path: &Path, error: russh::keys::ssh_key::Error) -> HostError {
    HostError::Key {
        key: path.display().to_string(),
        source: Box::new(error),
    }
}

/// Returns the name of the user this process runs as, by /etc/passwd, or `root` where that does not know it.
fn current_user() -> String {
    let id = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&id.as_str()))
        .and_then(|fields| fields.first().map(|name| (*name).to_owned()))
        .unwrap_or_else(|| "root".to_owned())
}

/// A loopback address with a port that the system chooses.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
