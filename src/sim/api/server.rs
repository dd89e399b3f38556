//! HTTP: TLS connections in, requests parsed, answers written in the shape of Proxmox VE's own server.
//!
//! The message of an error stands in the HTTP reason line. Read next: `gate.rs`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request as HttpRequest, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::access::Credential;
use super::gate::{self, Outcome, Request};
use super::{Refusal, apidoc};
use crate::sim::world::World;
use crate::sim::world::faults::{FaultKind, Faults, Recorded};
use crate::sim::world::machine::GuestMachine;
use crate::sim::world::task::Work;

/// What every connection shares.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) world: Arc<Mutex<World>>,
    /// The place of the served cluster in the world.
    pub(crate) place: usize,
    pub(crate) machine: Arc<dyn GuestMachine>,
    pub(crate) faults: Faults,
    /// Becomes true when this way to the cluster ends.
    pub(crate) off: tokio::sync::watch::Receiver<bool>,
}

/// A connection that is to break without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken on purpose")]
struct Broken;

impl Server {
    /// Serves a cluster until the runtime ends, or this way to it.
    pub(crate) async fn serve(self, listener: TcpListener, tls: TlsAcceptor) {
        let mut off = self.off.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Without the listener connections are refused.
                Ok(_) = off.wait_for(|off| *off) => return,
            };
            let Ok((stream, _)) = accepted else {
                continue;
            };
            let (server, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                let mut first = [0_u8; 1];
                if stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0] != 0x16 {
                    return plain_http(stream).await;
                }
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move {
                        let clock = server.clock();
                        let mut response = server.respond(request).await?;
                        if let Some(date) = clock {
                            response.headers_mut().insert(header::DATE, date);
                        }
                        Ok::<_, Broken>(response)
                    }
                });
                // A client that goes away is nobody's business.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    /// Returns the wrong time that the cluster tells; `None` when its clock is right, and hyper tells the time.
    fn clock(&self) -> Option<HeaderValue> {
        let skew = self.lock().clusters[self.place].clock_skew;
        let told = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(skew);
        let text = told.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        HeaderValue::from_str(&text).ok().filter(|_| skew != 0)
    }

    async fn respond(self, request: HttpRequest<Incoming>) -> Result<Response<Body>, Broken> {
        if *self.off.borrow() {
            return Err(Broken);
        }
        let (alias, release) = {
            let world = self.lock();
            let cluster = &world.clusters[self.place];
            (cluster.alias.clone(), cluster.release())
        };
        if request.uri().path() == "/pve-docs/api-viewer/apidoc.js" {
            let mut response = Response::new(Body::from(apidoc::script(release)));
            let kind = HeaderValue::from_static("application/javascript");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return Ok(response);
        }
        let extjs = request.uri().path().starts_with("/api2/extjs/");
        let (parsed, body) = match read(request, release).await {
            Ok(parsed) => (parsed, None),
            Err(refusal) => (Request::default(), Some(refusal)),
        };
        if let Some(refusal) = body {
            return Ok(refused(&refusal, release, false));
        }
        let place = self.faults.record(Recorded {
            cluster: alias.clone(),
            user: String::new(),
            method: parsed.method.clone(),
            path: parsed.path.clone(),
            params: without_secrets(&parsed.params),
            status: 0,
        });
        let mut lost = false;
        match self.faults.hit(&alias, &parsed.method, &parsed.path) {
            None => {}
            Some(FaultKind::Error(status, reason)) => {
                self.faults.answered(place, status);
                let refusal = Refusal {
                    status,
                    reason,
                    ..Refusal::default()
                };
                return Ok(refused(&refusal, release, extjs));
            }
            Some(FaultKind::LostAnswer) => lost = true,
            Some(FaultKind::LostRequest) => return Err(Broken),
            Some(FaultKind::Hang) => std::future::pending::<()>().await,
            Some(FaultKind::HangAfter) => {
                self.carry_out(&parsed).await;
                self.faults.died();
                std::future::pending::<()>().await;
            }
            Some(FaultKind::Delay(time)) => tokio::time::sleep(time).await,
            Some(FaultKind::Before(callback)) => callback(),
            Some(FaultKind::After(callback)) => {
                self.carry_out(&parsed).await;
                callback();
                return Err(Broken);
            }
        }
        let outcome = self.carry_out(&parsed).await;
        if lost {
            return Err(Broken);
        }
        let status = outcome
            .reply
            .as_ref()
            .err()
            .map_or(200, |refusal| refusal.status);
        self.faults.answered(place, status);
        Ok(match outcome.reply {
            Ok(data) => accepted(data, outcome.total, extjs),
            Err(refusal) => refused(&refusal, release, extjs),
        })
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a request out, waiting while a task holds its guest, and starts the tasks it leads to.
    async fn carry_out(&self, request: &Request) -> Outcome {
        let began = Instant::now();
        loop {
            let (mut outcome, patience, refusal) = {
                let mut world = self.lock();
                let pace = world.pace.clone();
                let cluster = &mut world.clusters[self.place];
                cluster.sync_files();
                let outcome = gate::answer(cluster, request);
                cluster.sync_files();
                (
                    outcome,
                    Duration::from_millis(pace.lock_wait),
                    Duration::from_millis(pace.refusal),
                )
            };
            for (upid, work) in std::mem::take(&mut outcome.jobs) {
                let server = self.clone();
                tokio::spawn(async move { server.run_task(upid, work).await });
            }
            match &outcome.reply {
                Err(error) if error.busy && began.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) if error.slow => {
                    tokio::time::sleep(refusal).await;
                    return outcome;
                }
                _ => return outcome,
            }
        }
    }

    /// Does a task's work to its end.
    pub(crate) async fn run_task(&self, upid: String, mut work: Work) {
        loop {
            let ended = {
                let mut world = self.lock();
                let pace = world.pace.clone();
                let cluster = &mut world.clusters[self.place];
                let ended = cluster.poll_task(&upid, &mut work, &self.machine, &pace);
                if ended {
                    cluster.sync_files();
                }
                ended
            };
            if ended {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Sends somebody who speaks plain HTTP to the right place.
async fn plain_http(mut stream: tokio::net::TcpStream) {
    use tokio::io::AsyncWriteExt;
    let answer = b"HTTP/1.1 301 Moved Permanently\r\nLocation: https:/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // The client is wrong already; whether it hears of it makes no difference.
    let _ = stream.write_all(answer).await;
}

fn plain(status: u16, reason: impl Into<String>, with_body: bool) -> Refusal {
    let reason = reason.into();
    let body = if with_body {
        reason.clone()
    } else {
        String::new()
    };
    Refusal {
        status,
        reason,
        body: Some(body),
        ..Refusal::default()
    }
}

/// Reads a request: method, decoded path, parameters of query and body, credentials.
async fn read(request: HttpRequest<Incoming>, release: (u32, u32)) -> Result<Request, Refusal> {
    let (head, body) = request.into_parts();
    let method = head.method.as_str().to_owned();
    if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE") {
        return Err(plain(
            501,
            format!("method '{method}' not available"),
            false,
        ));
    }
    let decoded = percent_decode_str(head.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let full = collapse(&decoded);
    let (format, path) = match full.strip_prefix("/api2/").map(|rest| rest.split_once('/')) {
        Some(Some((format, path))) => (format.to_owned(), format!("/{path}")),
        _ => return Err(plain(500, format!("no such file '{full}'"), true)),
    };
    if format != "json" && format != "extjs" {
        return Err(plain(
            501,
            format!("no formatter for uri {path}, {format}"),
            true,
        ));
    }
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(plain(501, "chunked transfer encoding not supported", true));
    }
    let mut params = form(head.uri.query().unwrap_or_default());
    let limit = if release >= (8, 4) {
        512 << 10
    } else {
        64 << 10
    };
    let bytes = axum::body::to_bytes(Body::new(body), limit)
        .await
        .map_err(|_| plain(501, "for data too large", true))?;
    if !bytes.is_empty() {
        if matches!(method.as_str(), "GET" | "DELETE") {
            return Err(plain(
                501,
                format!("Unexpected content for method '{method}'"),
                true,
            ));
        }
        let kind = text_header(&head.headers, "content-type").unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        match kind.split(';').next().unwrap_or_default().trim() {
            "" | "application/x-www-form-urlencoded" => params.extend(form(&text)),
            "application/json" => params.extend(json_params(&text, release)?),
            other => {
                return Err(plain(
                    506,
                    format!("upload 'Content-Type '{other}' not implemented"),
                    true,
                ));
            }
        }
    }
    let path = match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    Ok(Request {
        method,
        path,
        params,
        credential: credential(&head.headers),
        csrf: text_header(&head.headers, "csrfpreventiontoken").map(str::to_owned),
    })
}

fn collapse(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && text.ends_with('/')) {
            text.push(c);
        }
    }
    text
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn credential(headers: &HeaderMap) -> Credential {
    let authorization = text_header(headers, "authorization").unwrap_or_default();
    if let Some(token) = authorization
        .strip_prefix("PVEAPIToken=")
        .or_else(|| authorization.strip_prefix("PVEAPIToken "))
    {
        return Credential::Token(token.to_owned());
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    if let Some(ticket) = authorization.strip_prefix("PVEAuthCookie=") {
        return Credential::Ticket(decode(ticket));
    }
    let cookies = text_header(headers, "cookie").unwrap_or_default();
    cookies
        .split(';')
        .find_map(|cookie| cookie.trim().strip_prefix("PVEAuthCookie="))
        .map_or(Credential::None, |ticket| {
            Credential::Ticket(decode(ticket))
        })
}

/// Reads a form; pairs are split at `&` and also at `;`, and a value ends at its second `=`.
fn form(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let mut parts = pair.split('=');
        let key = decode(parts.next().unwrap_or_default());
        let value = decode(parts.next().unwrap_or_default());
        params
            .entry(key)
            .and_modify(|all| {
                all.push('\0');
                all.push_str(&value);
            })
            .or_insert(value);
    }
    params
}

fn json_params(text: &str, release: (u32, u32)) -> Result<BTreeMap<String, String>, Refusal> {
    let broken = || {
        plain(
            500,
            "malformed JSON string at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line 917.",
            true,
        )
    };
    let map: Map<String, Value> = serde_json::from_str(text).map_err(|_| broken())?;
    let mut params = BTreeMap::new();
    for (key, value) in map {
        let text = match value {
            Value::Null => continue,
            Value::Bool(value) if release >= (8, 0) => u8::from(value).to_string(),
            Value::String(text) => text,
            Value::Array(items) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                })
                .collect::<Vec<_>>()
                .join("\0"),
            other => other.to_string(),
        };
        params.insert(key, text);
    }
    Ok(params)
}

/// Returns parameters that may be recorded.
fn without_secrets(params: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let secret = |key: &str| matches!(key, "password" | "cipassword" | "otp" | "tfa-challenge");
    params
        .iter()
        .map(|(key, value)| match secret(key) {
            true => (key.clone(), "***".to_owned()),
            false => (key.clone(), value.clone()),
        })
        .collect()
}

fn accepted(data: Value, total: Option<usize>, extjs: bool) -> Response<Body> {
    let mut body = json!({"data": data});
    if let Some(total) = total {
        body["total"] = json!(total);
    }
    if extjs {
        body["success"] = json!(1);
    }
    answer(200, "OK", Body::from(body.to_string()))
}

/// Writes a refusal: the text is in the reason line, and since 8.4 also in the body.
fn refused(refusal: &Refusal, release: (u32, u32), extjs: bool) -> Response<Body> {
    if let Some(text) = &refusal.body {
        let mut response = answer(refusal.status, &refusal.reason, Body::from(text.clone()));
        response.headers_mut().remove(header::CONTENT_TYPE);
        close(&mut response);
        return response;
    }
    let mut body = json!({"data": null});
    let ending = if refusal.status == 501 { "" } else { "\n" };
    if release >= (8, 4) || extjs {
        body["message"] = json!(format!("{}{ending}", refusal.reason));
    }
    if !refusal.errors.is_empty() {
        body["errors"] = json!(refusal.errors);
    }
    if extjs {
        body["success"] = json!(0);
        body["status"] = json!(refusal.status.to_string());
        return answer(200, "OK", Body::from(body.to_string()));
    }
    let mut response = answer(
        refusal.status,
        &refusal.reason,
        Body::from(body.to_string()),
    );
    close(&mut response);
    response
}

fn close(response: &mut Response<Body>) {
    let value = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, value);
}

fn answer(status: u16, reason: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let line = reason.lines().next().unwrap_or_default().to_owned();
    if let Ok(phrase) = ReasonPhrase::try_from(line) {
        response.extensions_mut().insert(phrase);
    }
    let kind = HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Returns the TLS side of a server for a certificate.
pub(crate) fn acceptor(
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
) -> io::Result<TlsAcceptor> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der())
        .map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
