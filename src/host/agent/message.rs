//! Pure: the agent protocol (draft-miller-ssh-agent, OpenSSH's PROTOCOL.agent) and the login it signs (RFC 4252, 7).
//!
//! Bytes in, values out and back; never panics, whatever the bytes, and never accepts trailing ones. Read next:
//! `../agent.rs`, which decides.

/// The largest message either side may send; OpenSSH has the same limit (AGENT_MAX_LEN).
pub const MAX_MESSAGE: usize = 256 * 1024;

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
const USERAUTH_REQUEST: u8 = 50;
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// One request, as far as this agent knows requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Which keys are there?
    Identities,
    /// Sign this.
    Sign {
        key: &'a [u8],
        data: &'a [u8],
        flags: u32,
    },
    /// What follows on this connection is for the host with this key.
    Bind {
        host_key: &'a [u8],
        session: &'a [u8],
        signature: &'a [u8],
        forwarding: bool,
    },
    /// Anything else; its name for a message.
    Other(String),
}

impl<'a> Request<'a> {
    /// Reads a request, without the length in front; `None` for nonsense.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let mut reader = Reader(bytes);
        let request = match reader.byte()? {
            REQUEST_IDENTITIES => Request::Identities,
            SIGN_REQUEST => Request::Sign {
                key: reader.string()?,
                data: reader.string()?,
                flags: reader.number()?,
            },
            EXTENSION => match reader.string()? {
                SESSION_BIND => Request::Bind {
                    host_key: reader.string()?,
                    session: reader.string()?,
                    signature: reader.string()?,
                    forwarding: reader.byte()? != 0,
                },
                name => {
                    let name: String = String::from_utf8_lossy(name).chars().take(60).collect();
                    return Some(Request::Other(format!(
                        "extension '{}'",
                        name.escape_default()
                    )));
                }
            },
            kind => return Some(Request::Other(format!("request {kind}"))),
        };
        reader.end(request)
    }
}

/// What a client signs to log in by public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login<'a> {
    pub(super) session: &'a [u8],
    pub(super) user: &'a [u8],
    pub(super) service: &'a [u8],
    pub(super) method: &'a [u8],
    pub(super) algorithm: &'a [u8],
    pub(super) key: &'a [u8],
    /// Only of `publickey-hostbound-v00@openssh.com`.
    pub(super) host_key: Option<&'a [u8]>,
}

impl<'a> Login<'a> {
    /// Reads the data of a sign request; `None` when it is not exactly such a login.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Login<'a>> {
        let mut reader = Reader(bytes);
        let session = reader.string()?;
        if reader.byte()? != USERAUTH_REQUEST {
            return None;
        }
        let (user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
        // With a signature to follow; the form without is a question, not a login.
        if reader.byte()? != 1 {
            return None;
        }
        let (algorithm, key) = (reader.string()?, reader.string()?);
        let host_key = if reader.0.is_empty() {
            None
        } else {
            Some(reader.string()?)
        };
        let login = Login {
            session,
            user,
            service,
            method,
            algorithm,
            key,
            host_key,
        };
        reader.end(login)
    }
}

/// Returns a refusal.
pub(super) fn failure() -> Vec<u8> {
    vec![FAILURE]
}

/// Returns a consent.
pub(super) fn success() -> Vec<u8> {
    vec![SUCCESS]
}

/// Returns the answer with the only key.
pub(super) fn identities(blob: &[u8], comment: &str) -> Vec<u8> {
    let mut message = vec![IDENTITIES_ANSWER, 0, 0, 0, 1];
    put(&mut message, blob);
    put(&mut message, comment.as_bytes());
    message
}

/// Returns the answer with a signature.
pub(super) fn signed(signature: &[u8]) -> Vec<u8> {
    let mut message = vec![SIGN_RESPONSE];
    put(&mut message, signature);
    message
}

/// Returns the request for a signature, for the operator's own agent.
pub(super) fn sign_request(blob: &[u8], data: &[u8], flags: u32) -> Vec<u8> {
    let mut message = vec![SIGN_REQUEST];
    put(&mut message, blob);
    put(&mut message, data);
    message.extend(flags.to_be_bytes());
    message
}

/// Returns the signature out of the operator's own agent's answer; `None` when it refused.
pub(super) fn signature_in(answer: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(answer);
    if reader.byte()? != SIGN_RESPONSE {
        return None;
    }
    let signature = reader.string()?;
    reader.end(signature)
}

/// Returns a message with its length in front, as it is sent over a socket.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    put(&mut framed, message);
    framed
}

/// Returns two strings in wire form: an algorithm's name and a value, as keys and signatures are.
pub(super) fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, name.as_bytes());
    put(&mut bytes, value);
    bytes
}

/// Returns the two strings of a signature in wire form.
pub(super) fn pair_in(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(bytes);
    let pair = (reader.string()?, reader.string()?);
    reader.end(pair)
}

/// Returns exponent and modulus of an RSA key in wire form, without leading zeros; `None` for other keys.
pub(super) fn rsa_parts(blob: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(blob);
    if reader.string()? != b"ssh-rsa" {
        return None;
    }
    let parts = (trim(reader.string()?), trim(reader.string()?));
    reader.end(parts)
}

/// Drops leading zeros.
pub(super) fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Appends a string with its length.
fn put(message: &mut Vec<u8>, value: &[u8]) {
    // Everything put here was read into memory from a message or a key file; 4 GiB are out of reach.
    message.extend((value.len() as u32).to_be_bytes());
    message.extend(value);
}

/// Reads values from the front of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    /// Returns `value` if nothing is left.
    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
