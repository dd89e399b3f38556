//! Login: agent identities first, then key files, and a reason for each that was not accepted.
//!
//! Never asks for a passphrase or password and never stores a key: ssh-agent does that. Read next: `pump.rs`.

use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{PrivateKey, PublicKey};
use ssh2::Session;

use super::known_hosts::fingerprint;
use super::settings::Destination;

/// The key a login was accepted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A key the operator's ssh-agent holds.
    Agent {
        /// The agent's socket.
        socket: PathBuf,
        /// The public key in wire form.
        blob: Vec<u8>,
        /// The agent's comment on it.
        comment: String,
    },
    /// An unencrypted private key file.
    File {
        /// The private key's file.
        path: PathBuf,
    },
    /// The host wants no key at all; only hosts made for tests do that.
    Nothing,
}

/// Logs in, or says what was tried.
pub(super) fn login(
    session: &Session,
    destination: &Destination,
    agent_socket: Option<&Path>,
) -> Result<Identity, String> {
    let user = &destination.user;
    // This is also the question whether the host lets anyone in.
    match session.auth_methods(user) {
        Err(_) if session.authenticated() => return Ok(Identity::Nothing),
        Ok(methods) if !methods.split(',').any(|method| method == "publickey") => {
            return Err(format!("it offers {methods}, but no login by key"));
        }
        Ok(_) => {}
        Err(error) => return Err(error.message().to_owned()),
    }
    let mut tried = Vec::new();
    match agent_socket {
        Some(socket) => {
            if let Some(identity) = by_agent(session, destination, socket, &mut tried) {
                return Ok(identity);
            }
        }
        None => tried.push("no ssh-agent is running (SSH_AUTH_SOCK is not set)".to_owned()),
    }
    for path in &destination.identities {
        if let Some(identity) = by_file(session, destination, path, &mut tried) {
            return Ok(identity);
        }
    }
    Err(tried.join("; "))
}

/// Tries the agent's keys, the configured ones first.
fn by_agent(
    session: &Session,
    destination: &Destination,
    socket: &Path,
    tried: &mut Vec<String>,
) -> Option<Identity> {
    let listed = || -> Result<_, ssh2::Error> {
        let mut agent = session.agent()?;
        agent.set_identity_path(socket)?;
        agent.connect()?;
        agent.list_identities()?;
        let identities = agent.identities()?;
        Ok((agent, identities))
    };
    let (agent, mut identities) = match listed() {
        Ok(listed) => listed,
        Err(error) => {
            tried.push(format!(
                "ssh-agent at {}: {}",
                socket.display(),
                error.message()
            ));
            return None;
        }
    };
    let wanted: Vec<Vec<u8>> = destination
        .identities
        .iter()
        .filter_map(|path| public_half(path))
        .collect();
    identities.sort_by_key(|identity| {
        let position = wanted.iter().position(|blob| blob == identity.blob());
        position.unwrap_or(usize::MAX)
    });
    if destination.identities_only {
        identities.retain(|identity| wanted.iter().any(|blob| blob == identity.blob()));
    }
    if identities.is_empty() {
        tried.push("ssh-agent holds no usable key".to_owned());
    }
    for identity in identities {
        let shown = format!(
            "agent key {} {}",
            fingerprint(identity.blob()),
            identity.comment()
        );
        match agent.userauth(&destination.user, &identity) {
            Ok(()) => {
                log::debug!("{}: logged in with {shown}", destination.address());
                return Some(Identity::Agent {
                    socket: socket.to_owned(),
                    blob: identity.blob().to_vec(),
                    comment: identity.comment().to_owned(),
                });
            }
            Err(error) => tried.push(format!("{shown}: {}", refusal(&error))),
        }
    }
    None
}

/// Tries one private key file.
fn by_file(
    session: &Session,
    destination: &Destination,
    path: &Path,
    tried: &mut Vec<String>,
) -> Option<Identity> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            if destination.identities_configured || !missing {
                tried.push(format!("key {shown}: {error}"));
            }
            return None;
        }
    };
    if is_encrypted(&text) {
        tried.push(format!(
            "key {shown} has a passphrase: type `ssh-add {shown}` first"
        ));
        return None;
    }
    match session.userauth_pubkey_memory(&destination.user, None, &text, None) {
        Ok(()) => {
            log::debug!("{}: logged in with key {shown}", destination.address());
            Some(Identity::File {
                path: path.to_owned(),
            })
        }
        Err(error) => {
            tried.push(format!("key {shown}: {}", refusal(&error)));
            None
        }
    }
}

/// Words the usual refusal shortly; the library calls it a combination of username and key.
fn refusal(error: &ssh2::Error) -> String {
    const AUTHENTICATION_FAILED: i32 = -18;
    const PUBLICKEY_UNVERIFIED: i32 = -19;
    match error.code() {
        ssh2::ErrorCode::Session(AUTHENTICATION_FAILED | PUBLICKEY_UNVERIFIED) => {
            "not accepted".to_owned()
        }
        _ => error.message().to_owned(),
    }
}

/// Tells whether a private key needs a passphrase, in OpenSSH's form or one of the older ones.
fn is_encrypted(text: &str) -> bool {
    match PrivateKey::from_openssh(text) {
        Ok(key) => key.is_encrypted(),
        Err(_) => {
            text.contains("-----BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENC")
        }
    }
}

/// Returns the public key that belongs to a private key file: from `FILE.pub`, else from the file itself.
fn public_half(path: &Path) -> Option<Vec<u8>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    if let Ok(text) = std::fs::read_to_string(&name) {
        return PublicKey::from_openssh(&text).ok()?.to_bytes().ok();
    }
    let text = std::fs::read_to_string(path).ok()?;
    // An IdentityFile may also be the public half, of a key only the agent holds.
    if let Ok(key) = PublicKey::from_openssh(&text) {
        return key.to_bytes().ok();
    }
    let key = PrivateKey::from_openssh(text).ok()?;
    key.public_key().to_bytes().ok()
}
