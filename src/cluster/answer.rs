//! Answers: one HTTP answer of Proxmox VE to its data, or to an [`ApiError`] in the server's own words.
//!
//! Pure. Never sends anything and never looks at what the data mean. The text of a refusal is taken from the first of:
//! the body's `message`, its `errors`, the HTTP reason phrase, a plain-text body, the status. Read next: `wire.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ApiError;
use crate::pve::id::ClusterAlias;

/// Whether a request may change something, which decides what an unanswered one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A GET: nothing changes.
    Reads,
    /// Anything else.
    Writes,
}

/// What was asked, for messages. Never holds parameters, which may be secret.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The cluster.
    pub cluster: &'a ClusterAlias,
    /// `host:port`.
    pub address: &'a str,
    /// User or token id.
    pub user: &'a str,
    /// Method and path, such as `GET /nodes`.
    pub request: &'a str,
    /// Whether it may change something.
    pub effect: Effect,
}

impl Asked<'_> {
    /// Returns an [`ApiError::Unexpected`] about this request.
    pub fn unexpected(&self, reason: impl Into<String>) -> ApiError {
        ApiError::Unexpected {
            cluster: self.cluster.clone(),
            request: self.request.to_owned(),
            reason: reason.into(),
        }
    }
}

/// One HTTP answer, undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, among them 595 to 599: "the proxy did not reach the node".
    pub status: u16,
    /// The reason phrase; Proxmox VE puts its error text there.
    pub reason: Option<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Says whether the answering node's proxy failed to get an answer from where the work is done (595 to 599).
    pub fn is_proxy_failure(&self) -> bool {
        is_proxy_status(self.status)
    }

    /// Returns the envelope's `data`, `Null` when there is none, or the refusal.
    ///
    /// `{"data":null}` with 200 is success: that is how PUT answers. The `extjs` envelope, which always says 200, is
    /// understood as well.
    pub fn data(&self, asked: &Asked<'_>) -> Result<Value, ApiError> {
        if self.status != 200 {
            return Err(self.refusal(asked));
        }
        let mut body: Value = serde_json::from_str(&self.body)
            .map_err(|error| asked.unexpected(format!("the body is not JSON: {error}")))?;
        let Some(envelope) = body.as_object_mut() else {
            return Err(asked.unexpected("the body is not an envelope with 'data'"));
        };
        let failed = envelope
            .get("success")
            .is_some_and(|success| super::wire::flag(success) == Some(false));
        if failed {
            let status = envelope
                .get("status")
                .and_then(super::wire::count)
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(500);
            let inner = Answer {
                status,
                reason: None,
                body: self.body.clone(),
            };
            return Err(inner.refusal(asked));
        }
        match envelope.get_mut("data") {
            Some(data) => Ok(data.take()),
            None => Err(asked.unexpected("the envelope has no 'data'")),
        }
    }

    /// Returns the refusal this answer is, whatever its status.
    pub fn refusal(&self, asked: &Asked<'_>) -> ApiError {
        let body: Option<Value> = serde_json::from_str(&self.body).ok();
        let errors = body.as_ref().map(parameter_errors).unwrap_or_default();
        let reason = self.words(body.as_ref(), &errors);
        let cluster = asked.cluster.clone();
        let request = asked.request.to_owned();
        match self.status {
            400 if !errors.is_empty() => ApiError::Parameters {
                cluster,
                request,
                errors,
            },
            401 => ApiError::Login {
                cluster,
                user: asked.user.to_owned(),
                reason,
            },
            403 => ApiError::Forbidden {
                cluster,
                request,
                reason,
            },
            // 595 means that no connection came about, so nothing was done; after that the work may go on unseen.
            596..=599 if asked.effect == Effect::Writes => ApiError::Unreachable {
                cluster,
                address: asked.address.to_owned(),
                reason: format!("'{request}' got no answer ({}: {reason})", self.status),
                maybe_done: true,
            },
            status => ApiError::Refused {
                cluster,
                request,
                status,
                reason,
            },
        }
    }

    fn words(&self, body: Option<&Value>, errors: &BTreeMap<String, String>) -> String {
        let message = body
            .and_then(|body| body.get("message"))
            .and_then(Value::as_str)
            .map(one_line);
        let listed = (!errors.is_empty()).then(|| {
            let parts: Vec<_> = errors.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            parts.join("; ")
        });
        let phrase = self.reason.as_deref().map(one_line);
        let text = (body.is_none() && !self.body.trim_start().starts_with('<'))
            .then(|| one_line(&self.body));
        [message, listed, phrase, text]
            .into_iter()
            .flatten()
            .find(|words| !words.is_empty())
            .unwrap_or_else(|| format!("status {}", self.status))
    }
}

/// Says whether a status is one of the proxy's own, 595 to 599.
pub fn is_proxy_status(status: u16) -> bool {
    (595..=599).contains(&status)
}

/// Returns the body's `errors`: parameter (possibly nested, `scsi0.cache`) to what is wrong with it.
fn parameter_errors(body: &Value) -> BTreeMap<String, String> {
    let Some(errors) = body.get("errors").and_then(Value::as_object) else {
        return BTreeMap::new();
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), one_line);
    errors
        .iter()
        .map(|(parameter, value)| (parameter.clone(), text(value)))
        .collect()
}

/// Joins the lines of a server's text; some releases send the two characters `\n` for a line's end.
fn one_line(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(effect: Effect, status: u16, reason: &str, body: &str, expect: &str) {
        let cluster: ClusterAlias = "apple".parse().expect("alias");
        let asked = Asked {
            cluster: &cluster,
            address: "h:8006",
            user: "root@pam",
            request: "PUT /x",
            effect,
        };
        let answer = Answer {
            status,
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            body: body.to_owned(),
        };
        let shown = match answer.data(&asked) {
            Ok(value) => format!("ok {value}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expect);
    }

    #[test]
    fn a_refusal_speaks_in_the_servers_words() {
        use Effect::{Reads, Writes};
        check(Writes, 200, "OK", r#"{"data":null}"#, "ok null");
        check(
            Writes,
            500,
            "first line",
            r#"{"data":null,"message":"first line\nsecond\n"}"#,
            "apple answered 'PUT /x' with 500: first line second",
        );
        check(
            Writes,
            500,
            "VM is locked (migrate)",
            r#"{"data":null}"#,
            "apple answered 'PUT /x' with 500: VM is locked (migrate)",
        );
        check(
            Writes,
            400,
            "Parameter verification failed.",
            r#"{"data":null,"errors":{"a":"one\\n","b.c":"two\nthree"}}"#,
            "apple refused 'PUT /x': a: one; b.c: two three",
        );
        check(
            Writes,
            501,
            "",
            "for data too large",
            "apple answered 'PUT /x' with 501: for data too large",
        );
        check(
            Reads,
            502,
            "",
            "<html>no</html>",
            "apple answered 'PUT /x' with 502: status 502",
        );
        check(
            Reads,
            401,
            "No ticket",
            "",
            "apple refused the login of root@pam: No ticket",
        );
        check(
            Reads,
            403,
            "Permission check failed (/vms/1, VM.Audit)",
            "",
            "apple refused 'PUT /x': Permission check failed (/vms/1, VM.Audit)",
        );
        check(
            Reads,
            596,
            "Connection timed out",
            "",
            "apple answered 'PUT /x' with 596: Connection timed out",
        );
        check(
            Writes,
            596,
            "Connection timed out",
            "",
            "cannot reach the API of apple at h:8006: 'PUT /x' got no answer (596: Connection timed out)",
        );
        check(
            Writes,
            595,
            "No route to host",
            "",
            "apple answered 'PUT /x' with 595: No route to host",
        );
        check(
            Reads,
            200,
            "OK",
            r#"{"success":0,"status":"403","data":null,"message":"no\n"}"#,
            "apple refused 'PUT /x': no",
        );
        check(Reads, 200, "OK", r#"{"success":1,"data":[1]}"#, "ok [1]");
        check(
            Reads,
            200,
            "OK",
            "[]",
            "apple answered 'PUT /x' with something unexpected: the body is not an envelope with 'data'",
        );
    }
}
