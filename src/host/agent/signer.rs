//! The signer: where the operator's private key is, in the operator's ssh-agent or in a key file.
//!
//! Signs whatever it is given; [`super::ScopedAgent`] decides. The key never leaves this machine and is never displayed.
//! Read next: `rsa.rs`.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::PrivateKey;
use russh::keys::ssh_key::private::KeypairData;

use super::message::{MAX_MESSAGE, frame, pair, sign_request, signature_in};
use super::rsa;
use crate::host::ssh::Identity;

/// How long the operator's agent may take: it may ask the operator, or wait for a touch.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);

/// The agent protocol's flags that choose the hash of an RSA signature.
const FLAG_SHA256: u32 = 2;
const FLAG_SHA512: u32 = 4;

/// Why a key cannot be lent or did not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// There is no key to lend.
    #[error("the login to the target used no key")]
    NoKey,
    /// The key file cannot be used.
    #[error("key {path} cannot be lent: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The operator's agent did not answer.
    #[error("ssh-agent at {socket} does not answer")]
    Agent {
        /// Its socket.
        socket: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operator's agent, or the operator, said no.
    #[error("ssh-agent refused to sign")]
    Refused,
    /// The client asked for a signature this key does not make.
    #[error("no signature of the kind '{0}' can be made")]
    Algorithm(String),
}

/// A key that can sign.
pub struct Signer {
    blob: Vec<u8>,
    comment: String,
    place: Place,
}

/// Where the private half is.
enum Place {
    Agent(PathBuf),
    Memory(Box<PrivateKey>),
    Rsa(Box<KeyPair>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.comment)
    }
}

impl Signer {
    /// Finds the key a login was accepted with.
    pub fn of(identity: &Identity) -> Result<Signer, SignerError> {
        match identity {
            Identity::Agent {
                socket,
                blob,
                comment,
            } => Ok(Signer {
                blob: blob.clone(),
                comment: comment.clone(),
                place: Place::Agent(socket.clone()),
            }),
            Identity::File { path } => Signer::from_file(path),
            Identity::Nothing => Err(SignerError::NoKey),
        }
    }

    /// Reads an unencrypted private key file.
    pub fn from_file(path: &Path) -> Result<Signer, SignerError> {
        let failed = |reason: String| SignerError::File {
            path: path.display().to_string(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let comment = path.display().to_string();
        if let Some(key) = rsa::from_pem(&text) {
            return Ok(Signer {
                blob: rsa::blob(&key),
                comment,
                place: Place::Rsa(Box::new(key)),
            });
        }
        let key = russh::keys::decode_secret_key(&text, None)
            // One in 256 ECDSA keys has a short secret number, which the library does not read.
            .map_err(|error| failed(format!("{error}; add it to ssh-agent")))?;
        let blob = key
            .public_key()
            .to_bytes()
            .map_err(|error| failed(error.to_string()))?;
        let place = match key.key_data() {
            KeypairData::Rsa(pair) => {
                let pair = rsa::from_openssh(pair).ok_or_else(|| {
                    failed("only RSA keys of 2048 to 4096 bits can be; add it to ssh-agent".into())
                })?;
                Place::Rsa(Box::new(pair))
            }
            KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => Place::Memory(Box::new(key)),
            _ => return Err(failed("this kind of key must be added to ssh-agent".into())),
        };
        Ok(Signer {
            blob,
            comment,
            place,
        })
    }

    /// Returns the public key in wire form.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Returns the key's comment, or its file.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs a login that names `algorithm`; returns the signature in wire form.
    pub(super) fn sign(
        &self,
        algorithm: &[u8],
        data: &[u8],
        flags: u32,
    ) -> Result<Vec<u8>, SignerError> {
        let wrong = || {
            let name = String::from_utf8_lossy(algorithm);
            SignerError::Algorithm(name.escape_default().to_string())
        };
        match &self.place {
            Place::Agent(socket) => {
                let answer = exchange(socket, &sign_request(&self.blob, data, flags));
                let answer = answer.map_err(|source| SignerError::Agent {
                    socket: socket.display().to_string(),
                    source,
                })?;
                let signature = signature_in(&answer).ok_or(SignerError::Refused)?;
                Ok(signature.to_vec())
            }
            Place::Memory(key) => {
                if key.algorithm().as_str().as_bytes() != algorithm {
                    return Err(wrong());
                }
                let signature = key.try_sign(data).map_err(|_| wrong())?;
                let name = signature.algorithm();
                Ok(pair(name.as_str(), signature.as_bytes()))
            }
            Place::Rsa(key) => {
                // The name in the login and the flags must agree; the old form with SHA-1 is not made.
                let (name, padding) = match (algorithm, flags) {
                    (b"rsa-sha2-256", FLAG_SHA256) => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    (b"rsa-sha2-512", FLAG_SHA512) => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    _ => return Err(wrong()),
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &SystemRandom::new(), data, &mut signature)
                    .map_err(|_| wrong())?;
                Ok(pair(name, &signature))
            }
        }
    }
}

/// Sends one request to an agent; returns its answer.
fn exchange(socket: &Path, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(AGENT_PATIENCE))?;
    stream.set_write_timeout(Some(AGENT_PATIENCE))?;
    stream.write_all(&frame(request))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(std::io::Error::other("its answer is too long"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
