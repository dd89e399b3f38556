//! Connecting: from a destination to a session whose host key was verified and whose login was accepted.
//!
//! Blocking, for a thread of its own. Runs no command. The order is fixed: reach, agree on methods, verify the key, log
//! in; nothing of the operator's is shown to a host before its key was verified. Read next: `auth.rs`.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use ssh2::{ErrorCode, MethodType, Session};

use super::SshOptions;
use super::auth::{self, Identity};
use super::known_hosts::{self, KnownHost, Verdict, entry_name, fingerprint, key_type};
use super::settings::{Destination, resolve};
use super::worker;
use crate::host::ShellError;

/// How long one address may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a host may take for each answer of the key exchange and the login.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How often a connection that sshd dropped before its banner is tried again. `MaxStartups` drops at random, so a few
/// tries spread over seconds are enough for a batch that connects in parallel.
const ATTEMPTS: u32 = 6;

/// Our own order of ciphers. The library begins with ChaCha20, which it computes without the processor's help and for
/// which OpenSSH changes keys every gigabyte; storage hosts have AES in hardware.
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,\
                       aes192-ctr,aes256-ctr";

/// How many hosts a chain of `ProxyJump` may have; more is taken for a loop.
const MAX_JUMPS: usize = 8;

/// One question at a time, and the second asker finds the first one's answer in the file.
static ASKING: Mutex<()> = Mutex::new(());

/// A session that is ready for commands.
pub(super) struct Connection {
    pub(super) session: Session,
    /// A second handle of the session's socket, for waiting on it.
    pub(super) socket: OwnedFd,
    pub(super) verified: Verified,
}

/// What a successful login established about a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The login name.
    pub user: String,
    /// The name the key is filed under in the operator's known_hosts.
    pub name: String,
    /// The host's public key in wire form.
    pub host_key: Vec<u8>,
    /// The key the login was accepted with.
    pub identity: Identity,
    /// The cipher towards the host.
    pub cipher_out: String,
    /// The cipher from the host.
    pub cipher_in: String,
}

impl Verified {
    /// Returns the host key as a known_hosts line for `host` and `port`, as another machine calls this host.
    pub fn known_hosts_line(&self, host: &str, port: u16) -> String {
        known_hosts::line(&entry_name(host, port), &self.host_key)
    }
}

/// Connects and logs in; tries again when sshd is too busy to talk at all.
pub(super) fn connect(
    destination: &Destination,
    options: &SshOptions,
) -> Result<Connection, ShellError> {
    connect_at_depth(destination, options, 0)
}

fn connect_at_depth(
    destination: &Destination,
    options: &SshOptions,
    depth: usize,
) -> Result<Connection, ShellError> {
    let unreachable = |source| ShellError::Connect {
        address: destination.address(),
        source,
    };
    let mut attempt = 1;
    loop {
        let (session, socket) = match shake_hands(destination, options, depth) {
            Ok(reached) => reached,
            Err(Reach::Busy(reason)) if attempt < ATTEMPTS => {
                log::debug!("{}: {reason}, trying again", destination.address());
                let most = 250_u64 << attempt;
                std::thread::sleep(Duration::from_millis(fastrand::u64(most / 2..most)));
                attempt += 1;
                continue;
            }
            Err(Reach::Busy(reason)) => return Err(unreachable(io::Error::other(reason))),
            Err(Reach::Failed(source)) => return Err(unreachable(source)),
            Err(Reach::Jump(error)) => return Err(error),
        };
        let host_key = verify(&session, destination, options)?;
        let agent = options.environment.agent_socket.as_deref();
        let identity = auth::login(&session, destination, agent).map_err(|reason| {
            let address = destination.address();
            ShellError::Login { address, reason }
        })?;
        let cipher = |kind| session.methods(kind).unwrap_or_default().to_owned();
        let verified = Verified {
            user: destination.user.clone(),
            name: destination.key_name.clone(),
            host_key,
            identity,
            cipher_out: cipher(MethodType::CryptCs),
            cipher_in: cipher(MethodType::CryptSc),
        };
        log::debug!(
            "{}: ciphers {} to it, {} from it",
            destination.address(),
            verified.cipher_out,
            verified.cipher_in
        );
        return Ok(Connection {
            session,
            socket,
            verified,
        });
    }
}

/// Why no session came to be.
enum Reach {
    /// The host closed the connection before it said who it is.
    Busy(String),
    /// Anything else on the way to the host.
    Failed(io::Error),
    /// A host on the way could not be used.
    Jump(ShellError),
}

/// Reaches the host and agrees on keys and methods.
fn shake_hands(
    destination: &Destination,
    options: &SshOptions,
    depth: usize,
) -> Result<(Session, OwnedFd), Reach> {
    let failed = |error: ssh2::Error| Reach::Failed(other(&error));
    let mut session = Session::new().map_err(failed)?;
    session.set_timeout(ANSWER_PATIENCE.as_millis() as u32);
    prefer_known_keys(&session, destination).map_err(Reach::Failed)?;
    match options.ciphers.as_deref() {
        Some("-") => {}
        Some(list) => prefer_ciphers(&session, list).map_err(Reach::Failed)?,
        None => prefer_ciphers(&session, CIPHERS).map_err(Reach::Failed)?,
    }
    let socket = if destination.jumps.is_empty() {
        let stream = dial(&destination.host, destination.port).map_err(Reach::Failed)?;
        let socket = stream.as_fd().try_clone_to_owned().map_err(Reach::Failed)?;
        session.set_tcp_stream(stream);
        socket
    } else {
        let stream = through_jumps(destination, options, depth).map_err(Reach::Jump)?;
        let socket = stream.as_fd().try_clone_to_owned().map_err(Reach::Failed)?;
        session.set_tcp_stream(stream);
        socket
    };
    session.handshake().map_err(|error| {
        const BANNER_RECV: i32 = -2;
        match error.code() {
            // A connection that was closed instead has the code of the socket's error, and these words.
            code if code == ErrorCode::Session(BANNER_RECV)
                || error.message().contains("banner") =>
            {
                Reach::Busy(format!(
                    "the connection was closed before the SSH banner ({})",
                    error.message()
                ))
            }
            _ => failed(error),
        }
    })?;
    Ok((session, socket))
}

/// Opens a TCP connection to the first address that accepts it.
fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => {
                // Small answers of the porter must not wait for more to say.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Opens a connection through the last of the jump hosts, which is reached through the ones before it.
fn through_jumps(
    destination: &Destination,
    options: &SshOptions,
    depth: usize,
) -> Result<UnixStream, ShellError> {
    let Some((last, before)) = destination.jumps.split_last() else {
        return Err(ShellError::Configuration("ProxyJump is empty".to_owned()));
    };
    if depth >= MAX_JUMPS || before.len() >= MAX_JUMPS {
        return Err(ShellError::Configuration(format!(
            "ProxyJump of {}: more than {MAX_JUMPS} hosts, or a loop",
            destination.host
        )));
    }
    let mut via = resolve(last, &options.environment)?;
    if !before.is_empty() {
        via.jumps = before.to_vec();
    }
    let connection = connect_at_depth(&via, options, depth + 1)?;
    worker::bridge(connection, &destination.host, destination.port).map_err(|reason| {
        ShellError::Connect {
            address: destination.address(),
            source: io::Error::other(format!("through {}: {reason}", via.address())),
        }
    })
}

/// Asks for a plain host key, of a type that known_hosts has if it has one, so that a known host is not taken for a
/// changed one.
fn prefer_known_keys(session: &Session, destination: &Destination) -> io::Result<()> {
    let known = known_host(destination)?;
    let supported = session
        .supported_algs(MethodType::HostKey)
        .map_err(|error| other(&error))?;
    let rank = |algorithm: &str| {
        // All signatures with an RSA key are files under the one key type.
        let kind = match algorithm {
            "rsa-sha2-512" | "rsa-sha2-256" => "ssh-rsa",
            kind => kind,
        };
        known.types().iter().position(|have| *have == kind)
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = supported
        .into_iter()
        // A certificate could not be judged; the plain key behind it can.
        .filter(|algorithm| !algorithm.contains("-cert-"))
        .partition(|algorithm| rank(algorithm).is_some());
    first.sort_by_key(|algorithm| rank(algorithm));
    first.extend(rest);
    session
        .method_pref(MethodType::HostKey, &first.join(","))
        .map_err(|error| other(&error))
}

/// Restricts both directions to the ciphers of a list, in its order; unknown ones are skipped.
fn prefer_ciphers(session: &Session, list: &str) -> io::Result<()> {
    let supported = session
        .supported_algs(MethodType::CryptCs)
        .map_err(|error| other(&error))?;
    let (usable, unknown): (Vec<_>, Vec<_>) = list
        .split(',')
        .map(str::trim)
        .filter(|cipher| !cipher.is_empty())
        .partition(|cipher| supported.contains(cipher));
    if !unknown.is_empty() {
        log::debug!("ciphers not supported here: {}", unknown.join(","));
    }
    if usable.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "none of the ciphers '{list}' is supported; supported are {}",
                supported.join(",")
            ),
        ));
    }
    let usable = usable.join(",");
    session
        .method_pref(MethodType::CryptCs, &usable)
        .and_then(|()| session.method_pref(MethodType::CryptSc, &usable))
        .map_err(|error| other(&error))
}

/// Reads what all known_hosts files say about a destination.
fn known_host(destination: &Destination) -> io::Result<KnownHost> {
    let mut files = destination.user_known_hosts.clone();
    files.extend(destination.system_known_hosts.iter().cloned());
    KnownHost::read(&files, &destination.key_name)
}

/// Verifies the host's key; returns it.
fn verify(
    session: &Session,
    destination: &Destination,
    options: &SshOptions,
) -> Result<Vec<u8>, ShellError> {
    let refuse = |text: String| Err(ShellError::HostKey(text));
    let name = &destination.key_name;
    let Some((blob, _)) = session.host_key() else {
        return refuse(format!("{name} presented no host key"));
    };
    // A poisoned lock only says that another asker panicked.
    let _asking = ASKING.lock().unwrap_or_else(|poison| poison.into_inner());
    let known = known_host(destination).map_err(|error| ShellError::HostKey(error.to_string()))?;
    let shown = format!("{} {}", key_type(blob), fingerprint(blob));
    match known.judge(blob) {
        Verdict::Known => Ok(blob.to_vec()),
        Verdict::Revoked(place) => refuse(format!(
            "the key of {name} ({shown}) is marked as revoked at {place}"
        )),
        Verdict::Changed { known, place } => refuse(format!(
            "the key of {name} has changed: it presents {shown}, but {place} has {known}; somebody may be in \
             between. If the host was reinstalled, remove that line after comparing the fingerprint on the host itself \
             (ssh-keygen -lf /etc/ssh/ssh_host_*.pub)"
        )),
        Verdict::Unknown(authority) => {
            let mut question = format!(
                "The host {name} is not known yet. Its key is\n  {shown}\nCompare it with the output of `ssh-keygen \
                 -lf` on the host."
            );
            if let Some(place) = authority {
                question.push_str(&format!(
                    "\n(The certificate authority at {place} cannot be used: host certificates are not supported.)"
                ));
            }
            question.push_str("\nConnect and remember the key?");
            match options.operator.confirm(&question) {
                Some(true) => {
                    if let Some(file) = destination.user_known_hosts.first() {
                        let line = known_hosts::line(name, blob);
                        known_hosts::remember(file, &line).map_err(|error| {
                            ShellError::HostKey(format!(
                                "cannot remember the key of {name} in {}: {error}",
                                file.display()
                            ))
                        })?;
                    }
                    Ok(blob.to_vec())
                }
                Some(false) => refuse(format!("the key of {name} ({shown}) was not accepted")),
                None => refuse(format!(
                    "the host {name} is not known yet ({shown}), and nobody can be asked; type `ssh {}` once, or add \
                     the line from `ssh-keyscan` to ~/.ssh/known_hosts after comparing the fingerprint",
                    with_port(destination)
                )),
            }
        }
    }
}

/// Returns the arguments for ssh to reach the destination.
fn with_port(destination: &Destination) -> String {
    match destination.port {
        22 => destination.host.clone(),
        port => format!("-p {port} {}", destination.host),
    }
}

/// Wraps an error of the library with its own words.
fn other(error: &ssh2::Error) -> io::Error {
    io::Error::other(error.message().to_owned())
}
