//! A scripted HTTPS server: a function from request to reply, and a record of what was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    line: String,
    pub(super) query: String,
    pub(super) body: String,
    headers: BTreeMap<String, String>,
    before: Vec<String>,
}

impl Seen {
    /// Returns method and path.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Counts the earlier requests whose path ends like that.
    pub(super) fn times(&self, end: &str) -> usize {
        self.before
            .iter()
            .filter(|line| line.ends_with(end))
            .count()
    }
}

/// What the server says: an answer, or nothing but the end of the connection.
pub(super) struct Reply(Option<Response<Body>>);

impl Reply {
    pub(super) fn new(status: u16, reason: &str, body: &str) -> Reply {
        let mut response = Response::builder()
            .status(status)
            .body(Body::from(body.to_owned()))
            .expect("a response");
        let phrase = ReasonPhrase::try_from(reason.as_bytes()).expect("a phrase");
        response.extensions_mut().insert(phrase);
        Reply(Some(response))
    }

    pub(super) fn location(mut self, url: &'static str) -> Reply {
        let response = self.0.as_mut().expect("an answer");
        let value = hyper::header::HeaderValue::from_static(url);
        response.headers_mut().insert("location", value);
        self
    }

    /// The connection is cut without an answer.
    pub(super) fn cut() -> Reply {
        Reply(None)
    }
}

/// Returns 200 with these data.
pub(super) fn ok(data: &str) -> Reply {
    Reply::new(200, "OK", &format!(r#"{{"data":{data}}}"#))
}

/// The server; it ends with the test's runtime.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) fingerprint: [u8; 32],
    pub(super) ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts a server on the loopback. The script gets each request and how often that very request came before.
    pub(super) async fn start(
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::start_at("127.0.0.1:0", script).await
    }

    /// The same at another address.
    pub(super) async fn start_at(
        address: &str,
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let (acceptor, fingerprint, ca_pem) = identity();
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Server {
            port,
            fingerprint,
            ca_pem,
            seen: seen.clone(),
        };
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, script) = (acceptor.clone(), seen.clone(), script.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(|request| {
                        answer(request, seen.clone(), script.clone())
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        server
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("unpoisoned").clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    record: Arc<Mutex<Vec<Seen>>>,
    script: Arc<impl Fn(&Seen, usize) -> Reply>,
) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), 1 << 20).await.expect("a body");
    let headers = head.headers.iter().map(|(name, value)| {
        (
            name.to_string(),
            value.to_str().unwrap_or_default().to_owned(),
        )
    });
    let line = format!("{} {}", head.method, head.uri.path());
    let seen = {
        let mut record = record.lock().expect("unpoisoned");
        let before: Vec<_> = record.iter().map(|seen| seen.line.clone()).collect();
        let seen = Seen {
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&body).into_owned(),
            headers: headers.collect(),
            before,
            line,
        };
        record.push(seen.clone());
        seen
    };
    let count = seen
        .before
        .iter()
        .filter(|line| **line == seen.line)
        .count();
    script(&seen, count)
        .0
        .ok_or_else(|| std::io::Error::other("cut"))
}

/// Makes an authority and a certificate of it for 127.0.0.1.
fn identity() -> (TlsAcceptor, [u8; 32], String) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority_certificate = authority
        .self_signed(&authority_key)
        .expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let key = KeyPair::generate().expect("a key");
    let certificate = leaf.signed_by(&key, &issuer).expect("a certificate");
    let fingerprint = Sha256::digest(certificate.der()).into();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a key that fits");
    (
        Arc::new(config).into(),
        fingerprint,
        authority_certificate.pem(),
    )
}
