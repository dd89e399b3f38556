//! TLS: whom the client believes to be the cluster.
//!
//! Three ways: the machine's trusted roots plus an optional `ca` file; a pinned fingerprint (then neither chain nor name
//! count, as Proxmox VE's own tools do it); or anybody, with `--no-verify-ssl`. Signatures of the handshake are checked
//! in all three. Never learns a certificate by itself. Read next: `http.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The machine's roots, and the certificates of a PEM file.
    Roots {
        /// Path of the PEM file.
        ca: Option<String>,
    },
    /// Exactly the certificates with one of these SHA-256.
    Fingerprint(Vec<[u8; 32]>),
    /// Anybody.
    Anybody,
}

/// A certificate that was not trusted: what is wrong with it and its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    /// `AA:BB:...`, SHA-256 of the certificate.
    pub fingerprint: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; its fingerprint is {}",
            self.reason, self.fingerprint
        )
    }
}

impl StdError for Untrusted {}

/// Returns a fingerprint as Proxmox VE shows it: upper-case hex with colons.
pub fn shown(fingerprint: &[u8]) -> String {
    let pairs: Vec<_> = fingerprint
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

/// Builds the client's TLS configuration; the error says which file cannot be used and why.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let judge = match trust {
        Trust::Roots { ca } => Judge::Roots(roots(ca.as_deref(), &provider)?),
        Trust::Fingerprint(expected) => Judge::Fingerprint(expected.clone()),
        Trust::Anybody => Judge::Anybody,
    };
    let gate = Gate {
        judge,
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(gate))
        .with_no_client_auth();
    Ok(config)
}

/// Returns the untrusted certificate that made a connection fail, if that was the reason.
///
/// The chain of causes is searched, looking into `io::Error`s, which hide what they wrap.
pub fn untrusted(error: &(dyn StdError + 'static)) -> Option<Untrusted> {
    if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) =
        error.downcast_ref::<rustls::Error>()
    {
        return why.downcast_ref::<Untrusted>().cloned();
    }
    let hidden = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match hidden {
        Some(inner) => untrusted(inner),
        None => untrusted(error.source()?),
    }
}

/// Collects the trusted roots; `None` when there are none, which only matters when a certificate must be judged.
fn roots(
    ca: Option<&str>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, String> {
    let mut store = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        log::debug!("trusted roots of this machine: {error}");
    }
    store.add_parsable_certificates(native.certs);
    if let Some(path) = ca {
        let wrong = |reason: String| format!("cannot read ca={path}: {reason}");
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        let mut found = false;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            store
                .add(certificate)
                .map_err(|error| wrong(error.to_string()))?;
            found = true;
        }
        if !found {
            return Err(wrong("no certificate in it".to_owned()));
        }
    }
    if store.is_empty() {
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map(Some)
        .map_err(|error| error.to_string())
}

#[derive(Debug)]
enum Judge {
    Roots(Option<Arc<WebPkiServerVerifier>>),
    Fingerprint(Vec<[u8; 32]>),
    Anybody,
}

#[derive(Debug)]
struct Gate {
    judge: Judge,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Gate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen: [u8; 32] = Sha256::digest(end_entity).into();
        let refuse = |reason: String| {
            let untrusted = Untrusted {
                fingerprint: shown(&seen),
                reason,
            };
            let other = OtherError(Arc::new(untrusted));
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                other,
            )))
        };
        match &self.judge {
            Judge::Anybody => Ok(ServerCertVerified::assertion()),
            Judge::Fingerprint(expected) if expected.contains(&seen) => {
                Ok(ServerCertVerified::assertion())
            }
            Judge::Fingerprint(expected) => {
                let pinned: Vec<String> = expected.iter().map(|one| shown(one)).collect();
                refuse(format!("it is not the pinned one, {}", pinned.join(" or ")))
            }
            Judge::Roots(None) => refuse("this machine trusts no authority at all".to_owned()),
            Judge::Roots(Some(verifier)) => verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .or_else(|error| match error {
                    rustls::Error::InvalidCertificate(reason) => refuse(reason.to_string()),
                    other => refuse(other.to_string()),
                }),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
