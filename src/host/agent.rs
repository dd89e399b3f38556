//! The scoped agent: lends the operator's key to a source host for logging in to one target, and for nothing else.
//!
//! For the direct route the porter on the source host offers the ssh there a private agent socket; what arrives on it
//! travels back to the operator's machine and is answered by [`ScopedAgent`]. The source host is not trusted: whoever is
//! root there can ask anything. What is signed is therefore bound three times, by what the operator's machine verified
//! itself: to the target's host key, to the user, to the session in which the target proved that key.
//!
//! ```text
//! request identities            -> the one key
//! session-bind@openssh.com      -> the target signed this session with the expected host key, not forwarded: remember
//! sign a login                  -> of a remembered session, of the user, with the key: sign
//! anything else                 -> failure, logged and counted
//! ```
//!
//! The binding is sent by OpenSSH 8.9 and later (Debian 12, Proxmox VE 8). An older ssh on the source host does not say
//! which host it talks to, and is refused: such a move goes through the operator's machine.
//!
//! Never adds, removes or lists other keys, never signs anything but a login. Read next: `message.rs` (the protocol, pure),
//! `signer.rs` (where the private key is), `verify.rs`.

mod message;
mod rsa;
mod signer;
mod verify;

use message::{Login, Request};
pub use message::{MAX_MESSAGE, frame};
pub use signer::{Signer, SignerError};

/// How many sessions may be bound: parallel connections and their retries, and an end to what a hostile host can pile up.
const MAX_SESSIONS: usize = 256;

/// What the key is lent for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The login name on the target.
    pub user: String,
    /// The target's verified host keys in wire form, usually one.
    pub host_keys: Vec<Vec<u8>>,
}

/// Answers an agent's requests within a scope.
pub struct ScopedAgent {
    scope: Scope,
    signer: Signer,
    sessions: Vec<Vec<u8>>,
    logins: u64,
    refusals: u64,
    last_refusal: Option<String>,
}

impl ScopedAgent {
    /// Lends the key of `signer` for `scope`.
    pub fn new(scope: Scope, signer: Signer) -> ScopedAgent {
        ScopedAgent {
            scope,
            signer,
            sessions: Vec::new(),
            logins: 0,
            refusals: 0,
            last_refusal: None,
        }
    }

    /// Answers one request, both without the length in front; see [`frame`].
    ///
    /// Never fails and never panics: what is not allowed is answered with `SSH_AGENT_FAILURE`. Blocks while the
    /// operator's ssh-agent signs, which may ask the operator.
    pub fn answer(&mut self, request: &[u8]) -> Vec<u8> {
        match self.decide(request) {
            Ok(answer) => answer,
            Err(reason) => {
                log::warn!("agent request from the source host refused: {reason}");
                self.refusals += 1;
                self.last_refusal = Some(reason);
                message::failure()
            }
        }
    }

    /// Returns how many logins were signed.
    pub fn logins(&self) -> u64 {
        self.logins
    }

    /// Returns how many requests were refused.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Returns why the last refused request was refused.
    pub fn last_refusal(&self) -> Option<&str> {
        self.last_refusal.as_deref()
    }

    fn decide(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        match Request::parse(request).ok_or("it cannot be understood")? {
            Request::Identities => Ok(message::identities(
                self.signer.blob(),
                self.signer.comment(),
            )),
            Request::Bind {
                host_key,
                session,
                signature,
                forwarding,
            } => self.bind(host_key, session, signature, forwarding),
            Request::Sign { key, data, flags } => self.sign(key, data, flags),
            Request::Other(kind) => Err(format!("{kind} is not allowed")),
        }
    }

    /// Remembers a session in which the target proved its host key.
    fn bind(
        &mut self,
        host_key: &[u8],
        session: &[u8],
        signature: &[u8],
        forwarding: bool,
    ) -> Result<Vec<u8>, String> {
        if forwarding {
            return Err("the agent is not lent to further hosts".to_owned());
        }
        if !self.is_target(host_key) {
            return Err("the connection is to another host than the target".to_owned());
        }
        if !verify::is_signed(host_key, session, signature) {
            return Err("the target's signature on the session is not valid".to_owned());
        }
        if !self.sessions.iter().any(|bound| bound == session) {
            if self.sessions.len() >= MAX_SESSIONS {
                return Err(format!("more than {MAX_SESSIONS} sessions"));
            }
            self.sessions.push(session.to_vec());
        }
        Ok(message::success())
    }

    /// Signs the login of a bound session.
    fn sign(&mut self, key: &[u8], data: &[u8], flags: u32) -> Result<Vec<u8>, String> {
        if key != self.signer.blob() {
            return Err("it asks for another key".to_owned());
        }
        let login = Login::parse(data).ok_or("what it wants signed is not a login")?;
        if !self.sessions.iter().any(|bound| bound == login.session) {
            return Err(
                "the login's session was not bound to the target; the ssh on the source host may be older than \
                 OpenSSH 8.9"
                    .to_owned(),
            );
        }
        if login.user != self.scope.user.as_bytes() {
            return Err(format!(
                "the login is for the user '{}', not '{}'",
                String::from_utf8_lossy(login.user).escape_default(),
                self.scope.user
            ));
        }
        if login.service != b"ssh-connection" {
            return Err("the login is for another service".to_owned());
        }
        if login.key != key {
            return Err("the login is with another key".to_owned());
        }
        match (login.method, login.host_key) {
            (b"publickey", None) => {}
            (b"publickey-hostbound-v00@openssh.com", Some(host_key))
                if self.is_target(host_key) => {}
            _ => return Err("the login's method or host does not fit".to_owned()),
        }
        let signature = self
            .signer
            .sign(login.algorithm, data, flags)
            .map_err(|error| error.to_string())?;
        self.logins += 1;
        Ok(message::signed(&signature))
    }

    fn is_target(&self, host_key: &[u8]) -> bool {
        self.scope.host_keys.iter().any(|known| known == host_key)
    }
}

#[cfg(test)]
mod tests;
