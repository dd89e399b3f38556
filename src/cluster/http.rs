//! The client: requests to one cluster's API over HTTPS, with login, renewal and retries.
//!
//! The only place that knows reqwest. It repeats a request only where that is harmless: a GET after a broken connection
//! or a proxy's 595 to 599 (of the next node, where several serve the API), anything when no connection came about at all, and whatever may be repeated after one new
//! login. It never uses a proxy from the environment (a cluster's API is reached directly, and nothing below `main` reads
//! the environment), never follows a redirect with credentials, and never logs a parameter. Read next: `login.rs`,
//! `observe.rs`, `act.rs`.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, DATE, HeaderValue};
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio::time::Instant;

use super::ApiError;
use super::answer::{Answer, Asked, Effect};
use super::places::Places;
use super::session::{Proof, Session};
use super::tls::{self, Trust};
use crate::config::{ClusterConfig, Secret};
use crate::pve::inventory::Release;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may be silent within one request. Its own limit is 30 s, between pveproxy and pvedaemon.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an unused connection is kept. pveproxy closes idle ones after some seconds, and a POST on a connection that
/// is just being closed is a POST of which nobody knows whether it was done.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Everything but the unreserved characters of RFC 3986: PVE splits forms at ';' as well, and volume ids and UPIDs hold
/// ':', '/', '@' and '!'.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encodes one segment of a path, or a value of a form.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Whether the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Yes,
    No,
}

/// The pauses of the client, so that tests can shorten them.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Before each repeat of a GET whose connection broke.
    pub(super) broken: Vec<Duration>,
    /// Before each repeat of a GET that a proxy could not pass on.
    pub(super) proxy: Vec<Duration>,
    /// Before each attempt to reach a server that has answered before: some minutes, enough for a reboot of pveproxy.
    pub(super) lost: Vec<Duration>,
    /// The shortest pause between two looks at a task.
    pub(super) poll: Duration,
    /// How long a task or a state may show no sign of progress.
    pub(super) patience: Duration,
    /// How long a lock held by somebody else is waited for.
    pub(super) lock: Duration,
    /// For how long after it was wanted a change may still be sent, by the clock on the wall: a machine may sleep while it
    /// tries to reach a server, and whoever wanted the change does not know what has happened meanwhile. Longer than all
    /// attempts take, shorter than a claim lives without a sign (`plan/claim.rs`).
    pub(super) late: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        let millis = |pauses: &[u64]| pauses.iter().map(|n| Duration::from_millis(*n)).collect();
        Pace {
            broken: millis(&[200, 1_000, 3_000]),
            proxy: millis(&[1_000, 3_000]),
            lost: millis(&[500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]),
            poll: Duration::from_millis(500),
            patience: Duration::from_secs(10 * 60),
            lock: Duration::from_secs(2 * 60),
            late: Duration::from_secs(4 * 60),
        }
    }
}

/// A client of one cluster's API. Logs in when it is first needed.
pub struct HttpApi {
    pub(super) config: ClusterConfig,
    pub(super) pace: Pace,
    verify: Verify,
    /// The nodes that serve this API.
    pub(super) places: Places,
    client: OnceCell<reqwest::Client>,
    pub(super) session: AsyncMutex<Option<Arc<Session>>>,
    pub(super) password: OnceCell<Secret>,
    answered: AtomicBool,
    skew: Mutex<Option<i64>>,
    pub(super) known_release: Mutex<Option<Release>>,
}

impl std::fmt::Debug for HttpApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpApi")
            .field("cluster", &self.config.alias)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// Whether a request may be sent a second time when the first one's fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A repeat changes nothing more.
    Harmless,
    /// Once only.
    Never,
}

/// How long a GET tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    /// With pauses, as the pace says.
    Several,
    /// Once: the caller polls.
    One,
}

/// The method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Delete => "DELETE",
        }
    }

    fn effect(self) -> Effect {
        match self {
            Verb::Get => Effect::Reads,
            Verb::Post | Verb::Put | Verb::Delete => Effect::Writes,
        }
    }
}

/// Parameters of a request, in their order.
pub(super) type Parameters<'a> = &'a [(&'a str, &'a str)];

/// One request, before it is sent.
pub(super) struct Request<'a> {
    pub(super) verb: Verb,
    pub(super) path: &'a str,
    pub(super) parameters: Parameters<'a>,
    pub(super) repeat: Repeat,
    pub(super) tries: Tries,
}

impl Request<'_> {
    /// Returns method and path, for messages.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.verb.name(), self.path)
    }
}

/// A request that got no answer.
struct Failure {
    error: ApiError,
    sent: Sent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// No connection came about.
    Nothing,
    /// The server may have got the request.
    Perhaps,
    /// There is no use in trying again, as with a wrong certificate.
    Hopeless,
}

impl HttpApi {
    /// Returns a client of that cluster, not yet connected.
    ///
    /// With `verify_tls` false (`--no-verify-ssl`) any certificate is good, unless one is pinned.
    pub fn connect(config: ClusterConfig, verify_tls: bool) -> HttpApi {
        HttpApi {
            places: Places::of(&config),
            config,
            pace: Pace::default(),
            verify: if verify_tls { Verify::Yes } else { Verify::No },
            client: OnceCell::new(),
            session: AsyncMutex::new(None),
            password: OnceCell::new(),
            answered: AtomicBool::new(false),
            skew: Mutex::new(None),
            known_release: Mutex::new(None),
        }
    }

    /// Returns the client with another shortest pause between two looks at a task: for rehearsals, where tasks take
    /// milliseconds.
    pub fn polling_every(mut self, pause: Duration) -> HttpApi {
        self.pace.poll = pause;
        self
    }

    /// Reads a path of the API, repeating after broken connections and proxy failures.
    pub(super) async fn get(
        &self,
        path: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, ApiError> {
        self.read(path, parameters, Tries::Several).await
    }

    /// Reads a path of the API.
    pub(super) async fn read(
        &self,
        path: &str,
        parameters: Parameters<'_>,
        tries: Tries,
    ) -> Result<Value, ApiError> {
        let request = Request {
            verb: Verb::Get,
            path,
            parameters,
            repeat: Repeat::Harmless,
            tries,
        };
        self.call(request).await
    }

    /// Posts a form.
    pub(super) async fn post(
        &self,
        path: &str,
        parameters: Parameters<'_>,
        repeat: Repeat,
    ) -> Result<Value, ApiError> {
        let request = Request {
            verb: Verb::Post,
            path,
            parameters,
            repeat,
            tries: Tries::One,
        };
        self.call(request).await
    }

    /// Puts a form; all of proxmove's PUTs may be repeated after a new login.
    pub(super) async fn put(
        &self,
        path: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, ApiError> {
        let request = Request {
            verb: Verb::Put,
            path,
            parameters,
            repeat: Repeat::Harmless,
            tries: Tries::One,
        };
        self.call(request).await
    }

    /// Deletes; the parameters go into the query, because PVE refuses a DELETE with a body.
    pub(super) async fn delete_path(
        &self,
        path: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, ApiError> {
        let request = Request {
            verb: Verb::Delete,
            path,
            parameters,
            repeat: Repeat::Harmless,
            tries: Tries::One,
        };
        self.call(request).await
    }

    /// Returns a file that is served without login; `None` when it is not there.
    pub(super) async fn public_file(&self, path: &str) -> Result<Option<String>, ApiError> {
        let request = Request {
            verb: Verb::Get,
            path,
            parameters: &[],
            repeat: Repeat::Harmless,
            tries: Tries::Several,
        };
        let answer = self.attempts(&request, None).await?;
        Ok((answer.status == 200).then_some(answer.body))
    }

    /// Returns an [`ApiError::Unexpected`] for an answer whose data are odd.
    pub(super) fn odd(&self, request: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::Unexpected {
            cluster: self.config.alias.clone(),
            request: request.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Returns the server's clock minus ours, as of the newest answer.
    pub(super) fn newest_skew(&self) -> Option<i64> {
        *self
            .skew
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn asked<'a>(&'a self, request: &'a Request<'_>, shown: &'a str) -> Asked<'a> {
        Asked {
            cluster: &self.config.alias,
            address: self.address(),
            user: self.configured_user(),
            request: shown,
            effect: request.verb.effect(),
        }
    }

    async fn call(&self, request: Request<'_>) -> Result<Value, ApiError> {
        let mut session = self.session(None).await?;
        let shown = request.shown();
        let mut answer = self.attempts(&request, Some(&session)).await?;
        if answer.status == 401 {
            // Whoever comes next logs in anew; this request is repeated when that is harmless, once.
            self.forget(session.generation).await;
            let ticket = matches!(session.proof, Proof::Ticket { .. });
            if ticket && request.repeat == Repeat::Harmless {
                session = self.session(Some(session.generation)).await?;
                answer = self.attempts(&request, Some(&session)).await?;
            }
        }
        answer.data(&self.asked(&request, &shown))
    }

    /// Sends a request, and again where the pace and the request allow it.
    pub(super) async fn attempts(
        &self,
        request: &Request<'_>,
        session: Option<&Session>,
    ) -> Result<Answer, ApiError> {
        let several = request.verb == Verb::Get && request.tries == Tries::Several;
        let mut broken = self.pace.broken.iter();
        let mut proxy = self.pace.proxy.iter();
        let mut lost = self.pace.lost.iter();
        // Nodes that did not answer one after the other.
        let mut mute = 0;
        let mut earlier = None;
        let wanted = SystemTime::now();
        loop {
            let node = self.places.asked();
            let mut unsent = None;
            let pause = match self.exchange(request, session).await {
                Ok(answer) if several && answer.is_proxy_failure() => match proxy.next() {
                    Some(pause) => pause,
                    None => return Ok(answer),
                },
                Ok(answer) => return Ok(answer),
                Err(mut failure) => {
                    if self.is_distrusted(node, &failure.error) {
                        // Nothing was sent, and what went wrong is rather what went wrong with those that are believed.
                        failure.error = earlier.take().unwrap_or(failure.error);
                        failure.sent = Sent::Nothing;
                    }
                    // The next request goes to the next node, and so does this one where that is no repeat.
                    if failure.sent != Sent::Hopeless {
                        let all = self.places.ask_after(node, failure.sent == Sent::Nothing);
                        mute += 1;
                        let no_repeat = failure.sent == Sent::Nothing || several;
                        if no_repeat && mute < all {
                            log::debug!(
                                "{}: {}; asking the next node",
                                self.config.alias,
                                failure.error
                            );
                            earlier = Some(failure.error);
                            continue;
                        }
                        mute = 0;
                    }
                    let pause = match failure.sent {
                        // Nothing was sent, so trying again is no repeat. But a server that never answered is rather
                        // misspelt than restarting.
                        Sent::Nothing if self.answered.load(Ordering::Relaxed) => {
                            (request.verb != Verb::Get || several).then(|| lost.next())
                        }
                        Sent::Perhaps if several => Some(broken.next()),
                        Sent::Nothing | Sent::Perhaps | Sent::Hopeless => None,
                    };
                    match pause.flatten() {
                        Some(pause) => {
                            unsent = Some(failure.error);
                            pause
                        }
                        None => return Err(failure.error),
                    }
                }
            };
            log::debug!(
                "{}: {} again in {pause:?}",
                self.config.alias,
                request.shown()
            );
            tokio::time::sleep(*pause).await;
            // A clock that was set back tells nothing.
            let late = wanted.elapsed().is_ok_and(|age| age >= self.pace.late);
            if let (true, Verb::Post | Verb::Put | Verb::Delete, Some(error)) =
                (late, request.verb, unsent)
            {
                return Err(error);
            }
        }
    }

    /// Returns the node that is asked, as `host:port`.
    fn address(&self) -> &str {
        self.places.address()
    }

    /// Says whether an error is that a node which the cluster has told of does not show a certificate that holds; it is left
    /// out from now on.
    fn is_distrusted(&self, node: usize, error: &ApiError) -> bool {
        let distrusted =
            self.places.is_found(node) && matches!(error, ApiError::Certificate { .. });
        if distrusted && self.places.distrust(node) {
            log::warn!(
                "{}: a node that the cluster tells of is not asked: {error}",
                self.config.alias
            );
        }
        distrusted
    }

    /// Sends one request and reads its answer.
    async fn exchange(
        &self,
        request: &Request<'_>,
        session: Option<&Session>,
    ) -> Result<Answer, Failure> {
        let client = self.client().await.map_err(|error| Failure {
            error,
            sent: Sent::Hopeless,
        })?;
        let root = match request.path.starts_with("/pve-docs/") {
            true => "",
            false => "/api2/json",
        };
        let mut url = format!("https://{}{root}{}", self.address(), request.path);
        let pairs: Vec<_> = request
            .parameters
            .iter()
            .map(|(key, value)| format!("{}={}", encoded(key), encoded(value)))
            .collect();
        let form = pairs.join("&");
        let in_query = matches!(request.verb, Verb::Get | Verb::Delete);
        if in_query && !form.is_empty() {
            url = format!("{url}?{form}");
        }
        let mut builder = match request.verb {
            Verb::Get => client.get(url),
            Verb::Delete => client.delete(url),
            Verb::Post => client.post(url),
            Verb::Put => client.put(url),
        };
        if !in_query {
            builder = builder
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
        }
        if let Some(session) = session {
            builder = prove(builder, &session.proof, request.verb.effect()).map_err(|reason| {
                Failure {
                    error: self.odd(&request.shown(), reason),
                    sent: Sent::Hopeless,
                }
            })?;
        }
        let started = Instant::now();
        let result = self.receive(builder).await;
        let elapsed = started.elapsed().as_millis();
        let shown = request.shown();
        match result {
            Ok(answer) => {
                self.answered.store(true, Ordering::Relaxed);
                let status = answer.status;
                log::debug!("{}: {shown} {status} {elapsed} ms", self.config.alias);
                Ok(answer)
            }
            Err(error) => {
                let failure = self.failure(error, request.verb.effect());
                let reason = failure.error.reason();
                log::debug!("{}: {shown} {elapsed} ms: {reason}", self.config.alias);
                Err(failure)
            }
        }
    }

    async fn receive(&self, builder: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = builder.send().await?;
        if let Some(skew) = response.headers().get(DATE).and_then(clock_skew) {
            *self
                .skew
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(skew);
        }
        let status = response.status();
        let phrase = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let reason = phrase
            .map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned())
            .or_else(|| status.canonical_reason().map(str::to_owned));
        let body = response.bytes().await?;
        Ok(Answer {
            status: status.as_u16(),
            reason,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn failure(&self, error: reqwest::Error, effect: Effect) -> Failure {
        let error = error.without_url();
        if let Some(untrusted) = tls::untrusted(&error) {
            let hint = match self.config.fingerprints.first() {
                Some(_) => "was it renewed? compare with `pvenode cert info` before changing \
                            fingerprint=, or trust the cluster's own authority with ca= instead"
                    .to_owned(),
                None => format!(
                    "if `pvenode cert info` on that node shows the same, write fingerprint={} in [pve:{}]; \
                     or name its authority with ca=",
                    untrusted.fingerprint, self.config.alias
                ),
            };
            return Failure {
                error: ApiError::Certificate {
                    address: self.address().to_owned(),
                    reason: format!("{untrusted}; {hint}"),
                },
                sent: Sent::Hopeless,
            };
        }
        let sent = match error.is_connect() {
            true => Sent::Nothing,
            false if error.is_builder() => Sent::Hopeless,
            false => Sent::Perhaps,
        };
        Failure {
            error: ApiError::Unreachable {
                cluster: self.config.alias.clone(),
                address: self.address().to_owned(),
                reason: innermost(&error),
                maybe_done: sent == Sent::Perhaps && effect == Effect::Writes,
            },
            sent,
        }
    }

    async fn client(&self) -> Result<&reqwest::Client, ApiError> {
        let build = || async {
            let pinned = &self.config.fingerprints;
            let trust = match (pinned.is_empty(), self.verify) {
                (false, _) => Trust::Fingerprint(pinned.clone()),
                (true, Verify::No) => Trust::Anybody,
                (true, Verify::Yes) => Trust::Roots {
                    ca: self.config.ca.clone(),
                },
            };
            let wrong = |reason: String| ApiError::Certificate {
                address: self.address().to_owned(),
                reason,
            };
            let tls = tls::client_config(&trust).map_err(wrong)?;
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .http1_only()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(SILENCE_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .user_agent(concat!("proxmove/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| wrong(innermost(&error)))
        };
        self.client.get_or_try_init(build).await
    }
}

/// Adds the headers that show who asks, marked so that nothing prints them.
fn prove(
    builder: reqwest::RequestBuilder,
    proof: &Proof,
    effect: Effect,
) -> Result<reqwest::RequestBuilder, &'static str> {
    let sensitive = |text: &str| -> Result<HeaderValue, &'static str> {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| "the credentials hold characters that a header cannot carry")?;
        value.set_sensitive(true);
        Ok(value)
    };
    Ok(match proof {
        Proof::Token(secret) => builder.header(AUTHORIZATION, sensitive(secret.reveal())?),
        Proof::Ticket { ticket, csrf, .. } => {
            let cookie = format!("PVEAuthCookie={}", encoded(ticket.reveal()));
            let builder = builder.header(COOKIE, sensitive(&cookie)?);
            match effect {
                Effect::Reads => builder,
                Effect::Writes => builder.header("CSRFPreventionToken", sensitive(csrf.reveal())?),
            }
        }
    })
}

/// Returns the server's clock minus ours in seconds, from a `Date` header.
fn clock_skew(date: &HeaderValue) -> Option<i64> {
    let server = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(date.to_str().ok()?)
        .ok()?;
    Some(server.as_second() - jiff::Timestamp::now().as_second())
}

/// Returns the words of the innermost cause, which say what happened ("Connection refused (os error 111)").
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = cause.to_string();
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests;
