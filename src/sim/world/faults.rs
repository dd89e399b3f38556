//! Faults on request, and the list of every request that would change something.
//!
//! A rule matches requests by cluster, method and path; tests use it to break a move at every single call.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use std::collections::BTreeMap;

use tokio::sync::Notify;

/// What happens to a request that a rule matches.
#[derive(Clone)]
pub enum FaultKind {
    /// Not carried out; answered with this status and reason.
    Error(u16, String),
    /// Carried out, but the connection breaks before the answer.
    LostAnswer,
    /// Not carried out; the connection breaks.
    LostRequest,
    /// Never answered, not carried out.
    Hang,
    /// The request is carried out, and no answer comes.
    HangAfter,
    /// Carried out after this time.
    Delay(Duration),
    /// The callback is called, then the request is carried out.
    Before(Callback),
    /// The request is carried out, the callback is called, and the connection breaks.
    After(Callback),
}

/// A function of a test.
pub type Callback = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::Error(status, reason) => write!(f, "Error({status}, {reason})"),
            FaultKind::LostAnswer => f.write_str("LostAnswer"),
            FaultKind::LostRequest => f.write_str("LostRequest"),
            FaultKind::Hang => f.write_str("Hang"),
            FaultKind::HangAfter => f.write_str("HangAfter"),
            FaultKind::Delay(time) => write!(f, "Delay({time:?})"),
            FaultKind::Before(_) => f.write_str("Before"),
            FaultKind::After(_) => f.write_str("After"),
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The cluster's alias; `None` for all.
    pub cluster: Option<String>,
    /// The method; `None` for all.
    pub method: Option<String>,
    /// The path without `/api2/json`; `*` stands for any text.
    pub path: String,
    /// Which matching call it hits, counted from 1; `None` for all of them.
    pub nth: Option<usize>,
    /// What happens.
    pub kind: FaultKind,
}

impl Fault {
    /// Returns a rule for the first call of this method and path on any cluster.
    pub fn first(method: &str, path: &str, kind: FaultKind) -> Fault {
        Fault {
            cluster: None,
            method: Some(method.to_owned()),
            path: path.to_owned(),
            nth: Some(1),
            kind,
        }
    }
}

/// One request as it came in, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The cluster's alias.
    pub cluster: String,
    /// Who asked; empty for a login.
    pub user: String,
    /// The method.
    pub method: String,
    /// The path without `/api2/json`.
    pub path: String,
    /// Its parameters; passwords are shown as `***`.
    pub params: BTreeMap<String, String>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
}

/// The end of whoever sends requests.
#[derive(Debug)]
struct Death {
    /// Requests until then; 0 afterwards.
    left: usize,
    after: bool,
    notify: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    death: Option<Death>,
    rules: Vec<(Fault, usize)>,
    recorded: Vec<Recorded>,
}

/// The rules and the record. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Inner>>);

impl Faults {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule.
    pub fn add(&self, fault: Fault) {
        self.inner().rules.push((fault, 0));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.inner().rules.clear();
    }

    /// Returns all requests that would change something (logins left out), oldest first.
    pub fn writes(&self) -> Vec<Recorded> {
        let inner = self.inner();
        let writes = inner
            .recorded
            .iter()
            .filter(|request| request.method != "GET" && request.path != "/access/ticket");
        writes.cloned().collect()
    }

    /// Returns all requests, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.inner().recorded.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.inner().recorded.clear();
    }

    /// Records a request; returns its place for [`Faults::answered`].
    pub(crate) fn record(&self, request: Recorded) -> usize {
        let mut inner = self.inner();
        inner.recorded.push(request);
        inner.recorded.len() - 1
    }

    /// Notes how a recorded request was answered.
    pub(crate) fn answered(&self, place: usize, status: u16) {
        if let Some(request) = self.inner().recorded.get_mut(place) {
            request.status = status;
        }
    }

    /// Has the n-th request from now on (counted from 1, logins included) be the last that is heard, as if its sender had
    /// died with it; with `after` it is carried out. Returns what is notified at that moment.
    ///
    /// Neither it nor any later request is answered until [`Faults::revive`].
    pub fn die_at(&self, nth: usize, after: bool) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        self.inner().death = Some(Death {
            left: nth.max(1),
            after,
            notify: Arc::clone(&notify),
        });
        notify
    }

    /// Tells that the last request was carried out.
    pub(crate) fn died(&self) {
        if let Some(death) = &self.inner().death {
            death.notify.notify_one();
        }
    }

    /// Has requests answered again; says whether the n-th had come.
    pub fn revive(&self) -> bool {
        let death = self.inner().death.take();
        death.is_some_and(|death| death.left == 0)
    }

    /// Returns what happens to this request; counts it for every rule it matches.
    pub(crate) fn hit(&self, cluster: &str, method: &str, path: &str) -> Option<FaultKind> {
        if let Some(death) = &mut self.inner().death {
            match death.left {
                0 => return Some(FaultKind::Hang),
                1 => {
                    death.left = 0;
                    if death.after {
                        return Some(FaultKind::HangAfter);
                    }
                    death.notify.notify_one();
                    return Some(FaultKind::Hang);
                }
                _ => death.left -= 1,
            }
        }
        let mut hit = None;
        for (fault, count) in &mut self.inner().rules {
            let same =
                |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
            if !same(&fault.cluster, cluster)
                || !same(&fault.method, method)
                || !matches_path(&fault.path, path)
            {
                continue;
            }
            *count += 1;
            if hit.is_none() && fault.nth.is_none_or(|nth| nth == *count) {
                hit = Some(fault.kind.clone());
            }
        }
        hit
    }
}

/// Matches a path against a pattern in which `*` stands for any text.
fn matches_path(pattern: &str, path: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let Some(rest) = path.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter(|at| rest.is_char_boundary(*at))
        .any(|at| matches_path(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let check = |pattern, path, expect| {
            assert_eq!(matches_path(pattern, path), expect, "{pattern} {path}");
        };
        check("/nodes/*/qemu", "/nodes/a/qemu", true);
        check("/nodes/*/qemu", "/nodes/a/qemu/100", false);
        check("*/config", "/nodes/a/qemu/100/config", true);
        check("/version", "/version", true);
        check("*", "", true);
    }

    #[test]
    fn the_dead_send_nothing_more() {
        let faults = Faults::default();
        faults.die_at(2, true);
        assert!(faults.hit("a", "GET", "/x").is_none());
        let last = faults.hit("a", "PUT", "/x");
        assert!(matches!(last, Some(FaultKind::HangAfter)), "{last:?}");
        let later = faults.hit("a", "PUT", "/x");
        assert!(matches!(later, Some(FaultKind::Hang)), "{later:?}");
        assert!(faults.revive());
        assert!(faults.hit("a", "PUT", "/x").is_none());
    }

    #[test]
    fn only_the_nth_call_is_hit() {
        let faults = Faults::default();
        faults.add(Fault {
            nth: Some(2),
            ..Fault::first("PUT", "*", FaultKind::LostAnswer)
        });
        assert!(faults.hit("a", "PUT", "/x").is_none());
        assert!(faults.hit("a", "GET", "/x").is_none());
        assert!(faults.hit("a", "PUT", "/x").is_some());
        assert!(faults.hit("a", "PUT", "/x").is_none());
    }
}
