//! The gates a request passes before its endpoint: path, login, privilege, node, parameters.
//!
//! The order is Proxmox VE's, so that a request with several faults gets the same complaint.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema::{Access, ENDPOINTS, Endpoint};
use super::{Call, Refusal, access, check, routes};
use crate::sim::world::Cluster;
use crate::sim::world::rights::Identity;
use crate::sim::world::task::Work;

/// A request after HTTP: what is asked, by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, without `/api2/json`.
    pub(crate) path: String,
    pub(crate) params: BTreeMap<String, String>,
    /// The cookie's ticket or the header's token.
    pub(crate) credential: access::Credential,
    pub(crate) csrf: Option<String>,
}

/// What a request led to.
pub(crate) struct Outcome {
    pub(crate) reply: Result<Value, Refusal>,
    pub(crate) total: Option<usize>,
    pub(crate) jobs: Vec<(String, Work)>,
    /// Who asked, for the record.
    pub(crate) user: String,
}

/// Lets a request through all gates and carries it out.
pub(crate) fn answer(cluster: &mut Cluster, request: &Request) -> Outcome {
    let mut outcome = Outcome {
        reply: Ok(Value::Null),
        total: None,
        jobs: Vec::new(),
        user: String::new(),
    };
    let passed = pass(cluster, request);
    let (endpoint, who, node, params) = match passed {
        Ok(passed) => passed,
        Err(refusal) => {
            outcome.reply = Err(refusal);
            return outcome;
        }
    };
    outcome.user = who.id();
    let mut call = Call {
        cluster,
        who,
        node,
        params,
        jobs: Vec::new(),
        total: None,
    };
    outcome.reply = routes::handler(endpoint.method, endpoint.path)(&mut call);
    outcome.total = call.total;
    outcome.jobs = call.jobs;
    outcome
}

type Passed = (
    &'static Endpoint,
    Identity,
    String,
    BTreeMap<String, String>,
);

fn pass(cluster: &Cluster, request: &Request) -> Result<Passed, Refusal> {
    let release = cluster.release();
    let found = find(&request.method, &request.path, release);
    let world = matches!(found, Some((endpoint, _)) if matches!(endpoint.access, Access::World));
    let who = match world {
        true => access::nobody(&request.credential)?,
        false => access::identify(cluster, request)?,
    };
    let Some((endpoint, places)) = found else {
        let reason = format!(
            "Method '{} {}' not implemented",
            request.method, request.path
        );
        return Err(Refusal {
            status: 501,
            reason,
            ..Refusal::default()
        });
    };
    let mut params = request.params.clone();
    for (name, value) in &places {
        if params.get(name).is_some_and(|given| given != value) {
            return Err(Refusal::param(
                name,
                "duplicate parameter (already defined in URI) with conflicting values!",
            ));
        }
        params.insert(name.clone(), value.clone());
    }
    if let Access::Any(template, privileges) = endpoint.access {
        let path = places
            .iter()
            .fold(template.to_owned(), |path, (name, value)| {
                path.replace(&format!("{{{name}}}"), value)
            });
        if !cluster.may(&who, &path, privileges) {
            return Err(Refusal::forbidden(&path, privileges));
        }
    }
    let node = node_of(cluster, places.get("node"))?;
    let errors = check::check_params(endpoint.params_in(release), &params, release);
    if !errors.is_empty() {
        return Err(Refusal::params(errors));
    }
    Ok((endpoint, who, node, params))
}

/// Finds the node a request goes to; one that is down cannot be reached.
fn node_of(cluster: &Cluster, name: Option<&String>) -> Result<String, Refusal> {
    let Some(name) = name else {
        return Ok(cluster
            .nodes
            .first()
            .map(|n| n.name.clone())
            .unwrap_or_default());
    };
    match cluster.node(name) {
        None => Err(Refusal::died(format!(
            "hostname lookup '{name}' failed - failed to get address info for: {name}: Temporary failure in name \
             resolution"
        ))),
        Some(node) if !node.online => Err(Refusal {
            status: 595,
            reason: "No route to host".to_owned(),
            body: Some(String::new()),
            ..Refusal::default()
        }),
        Some(node) => Ok(node.name.clone()),
    }
}

/// Finds the endpoint of a path, and what stands in its placeholders.
fn find(
    method: &str,
    path: &str,
    release: (u32, u32),
) -> Option<(&'static Endpoint, BTreeMap<String, String>)> {
    let mut candidates: Vec<_> = ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.method == method && endpoint.since <= release)
        .filter_map(|endpoint| Some((endpoint, places(endpoint.path, path)?)))
        .collect();
    candidates.sort_by_key(|(_, places)| places.len());
    candidates.into_iter().next()
}

fn places(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut places = BTreeMap::new();
    let mut rest = path;
    for segment in template.split('/').skip(1) {
        rest = rest.strip_prefix('/')?;
        // A volume's name has slashes of its own and always stands last.
        let end = match segment {
            "{volume}" => rest.len(),
            _ => rest.find('/').unwrap_or(rest.len()),
        };
        let (part, tail) = rest.split_at(end);
        match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(_) if part.is_empty() => return None,
            Some(name) => {
                places.insert(name.to_owned(), part.to_owned());
            }
            None if part != segment => return None,
            None => {}
        }
        rest = tail;
    }
    rest.is_empty().then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_handler_and_is_found() {
        for endpoint in ENDPOINTS {
            assert!(
                routes::known(endpoint.method, endpoint.path),
                "{} {}",
                endpoint.method,
                endpoint.path
            );
            let (found, _) = find(endpoint.method, endpoint.path, (9, 9)).expect("found");
            assert_eq!(found.path, endpoint.path);
        }
    }

    #[test]
    fn volumes_keep_their_slashes() {
        let (endpoint, places) = find(
            "GET",
            "/nodes/a/storage/data/content/data:101/vm-101-disk-2.raw",
            (8, 4),
        )
        .expect("found");
        assert!(endpoint.path.ends_with("{volume}"));
        assert_eq!(places["volume"], "data:101/vm-101-disk-2.raw");
        assert!(find("GET", "/pools/a/b", (8, 4)).is_none());
    }
}
