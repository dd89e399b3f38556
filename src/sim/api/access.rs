//! Logging in: tickets, second factors, tokens, and what somebody may do.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::gate::Request;
use super::{Call, Refusal, Reply};
use crate::sim::world::Cluster;
use crate::sim::world::rights::{Identity, token};
use crate::sim::world::task::unix_now;

/// Two hours, and five minutes for clocks that differ.
const TICKET_LIFETIME: u64 = 7_200;

/// What a request shows to say who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Nothing.
    #[default]
    None,
    /// The ticket of the cookie.
    Ticket(String),
    /// `USER@REALM!NAME=SECRET`.
    Token(String),
}

fn unauthorized(reason: impl Into<String>) -> Refusal {
    Refusal {
        status: 401,
        reason: reason.into(),
        body: Some(String::new()),
        slow: true,
        ..Refusal::default()
    }
}

/// Returns the caller of an endpoint that is open to the world; a token may not call it.
pub(super) fn nobody(credential: &Credential) -> Result<Identity, Refusal> {
    match credential {
        Credential::Token(_) => Err(Refusal {
            status: 403,
            reason: "Permission check failed (URI '/access/ticket' not available with API token, need proper ticket."
                .to_owned(),
            ..Refusal::default()
        }),
        _ => Ok(Identity {
            user: String::new(),
            token: None,
        }),
    }
}

/// Finds out who sent a request.
pub(super) fn identify(cluster: &Cluster, request: &Request) -> Result<Identity, Refusal> {
    let modern = cluster.release() >= (9, 0);
    match &request.credential {
        Credential::None => Err(unauthorized("No ticket")),
        Credential::Token(text) => identify_token(cluster, text, modern),
        Credential::Ticket(ticket) => {
            let user = check_ticket(cluster, ticket).ok_or_else(|| {
                unauthorized(match modern {
                    true => "Authentication failed!",
                    false => "permission denied - invalid PVE ticket",
                })
            })?;
            let csrf = request.csrf.as_deref().unwrap_or_default();
            if request.method != "GET" && !check_csrf(cluster, &user, csrf) {
                return Err(unauthorized("Permission denied - invalid csrf token"));
            }
            Ok(Identity { user, token: None })
        }
    }
}

fn identify_token(cluster: &Cluster, text: &str, modern: bool) -> Result<Identity, Refusal> {
    let fail = |old: String| match modern {
        true => unauthorized("Authentication failed!"),
        false => unauthorized(old),
    };
    let Some((user_id, (name, secret))) = text
        .split_once('!')
        .and_then(|(user, rest)| Some((user, rest.split_once('=')?)))
    else {
        return Err(fail("no tokenid specified".to_owned()));
    };
    let user = cluster
        .users
        .get(user_id)
        .ok_or_else(|| fail(format!("no such user ('{user_id}')")))?;
    if user.disabled {
        return Err(fail(format!("user '{user_id}' is disabled")));
    }
    let token = token(user, name)
        .ok_or_else(|| fail(format!("no such token '{name}' for user '{user_id}'")))?;
    if token.expired {
        return Err(fail(format!("token '{name}' access expired")));
    }
    if token.secret != secret {
        return Err(fail("invalid token value!".to_owned()));
    }
    Ok(Identity {
        user: user_id.to_owned(),
        token: Some(name.to_owned()),
    })
}

fn signature(cluster: &Cluster, text: &str) -> String {
    BASE64.encode(Sha256::digest(format!("{} {text}", cluster.ticket_key)))
}

fn ticket(cluster: &Cluster, subject: &str) -> String {
    let plain = format!("PVE:{subject}:{:08X}", unix_now());
    format!("{plain}::{}", signature(cluster, &plain))
}

/// Returns whose ticket it is; a ticket of a first factor is nobody's.
fn check_ticket(cluster: &Cluster, ticket: &str) -> Option<String> {
    let subject = verify(cluster, ticket)?;
    (!subject.starts_with("!tfa!") && cluster.users.contains_key(&subject)).then_some(subject)
}

fn verify(cluster: &Cluster, ticket: &str) -> Option<String> {
    let (plain, given) = ticket.rsplit_once("::")?;
    if signature(cluster, plain) != given {
        return None;
    }
    let (subject, time) = plain.strip_prefix("PVE:")?.rsplit_once(':')?;
    let age = unix_now().saturating_sub(u64::from_str_radix(time, 16).ok()?);
    (age <= TICKET_LIFETIME + 300).then(|| subject.to_owned())
}

fn csrf(cluster: &Cluster, user: &str) -> String {
    let time = format!("{:08X}", unix_now());
    format!(
        "{time}:{}",
        signature(cluster, &format!("csrf {time} {user}"))
    )
}

fn check_csrf(cluster: &Cluster, user: &str, given: &str) -> bool {
    given.split_once(':').is_some_and(|(time, sign)| {
        let age = u64::from_str_radix(time, 16).map(|time| unix_now().saturating_sub(time));
        age.is_ok_and(|age| age <= TICKET_LIFETIME + 300)
            && signature(cluster, &format!("csrf {time} {user}")) == sign
    })
}

fn refused() -> Refusal {
    Refusal {
        status: 401,
        reason: "authentication failure".to_owned(),
        slow: true,
        ..Refusal::default()
    }
}

/// `POST /access/ticket`.
pub(super) fn login(call: &mut Call<'_>) -> Reply {
    let mut name = call.text("username").unwrap_or_default().to_owned();
    if let Some(realm) = call.text("realm")
        && !name.contains('@')
    {
        name = format!("{name}@{realm}");
    }
    let password = call.text("password").unwrap_or_default();
    let cluster = &*call.cluster;
    let user = cluster
        .users
        .get(&name)
        .filter(|user| !user.disabled && !user.expired)
        .ok_or_else(refused)?;
    if let Some(challenge) = call.text("tfa-challenge") {
        let first = verify(cluster, challenge).ok_or_else(refused)?;
        let right = first.starts_with(&format!("!tfa!{name}!"))
            && user
                .second_factor
                .as_ref()
                .is_some_and(|code| password == format!("totp:{code}"));
        return match right {
            true => Ok(logged_in(call, &name)),
            false => Err(refused()),
        };
    }
    let renewed =
        check_ticket(cluster, password).is_some_and(|owner| owner == name || owner == "root@pam");
    if !renewed && (user.password.is_empty() || user.password != password) {
        return Err(refused());
    }
    if user.second_factor.is_some() && !renewed {
        let half = ticket(
            cluster,
            &format!("!tfa!{name}!{{\"totp\"%3Atrue,\"recovery\"%3A\"unavailable\"}}"),
        );
        return Ok(json!({
            "username": name,
            "ticket": half,
            "CSRFPreventionToken": csrf(cluster, &name),
            "NeedTFA": 1,
        }));
    }
    Ok(logged_in(call, &name))
}

fn logged_in(call: &Call<'_>, user: &str) -> Value {
    let who = Identity {
        user: user.to_owned(),
        token: None,
    };
    let mut reply = json!({
        "username": user,
        "ticket": ticket(call.cluster, user),
        "CSRFPreventionToken": csrf(call.cluster, user),
        "cap": capabilities(call.cluster, &who),
    });
    if call.cluster.nodes.len() > 1
        && call.cluster.may(&who, "/", &["Sys.Audit"])
        && let Some(reply) = reply.as_object_mut()
    {
        reply.insert("clustername".to_owned(), json!(call.cluster.alias));
    }
    reply
}

/// What the web interface needs to know: privileges by area.
fn capabilities(cluster: &Cluster, who: &Identity) -> Value {
    let area = |path: &str, wanted: &dyn Fn(&str) -> bool| -> Value {
        let privileges = cluster.privileges(who, path);
        let mut map = Map::new();
        for privilege in privileges.into_iter().filter(|p| wanted(p)) {
            map.insert(privilege.to_owned(), json!(1));
        }
        Value::Object(map)
    };
    let own =
        |prefix: &'static str| move |p: &str| p.starts_with(prefix) || p == "Permissions.Modify";
    let mut caps = json!({
        "vms": area("/vms", &own("VM.")),
        "storage": area("/storage", &own("Datastore.")),
        "access": area("/access", &|p| {
            p.starts_with("User.") || p.starts_with("Group.") || p == "Permissions.Modify"
        }),
        "nodes": area("/nodes", &own("Sys.")),
        "dc": area("/", &|p| matches!(p, "Sys.Audit" | "Sys.Modify") || p.starts_with("SDN.")),
        "sdn": area("/sdn", &own("SDN.")),
    });
    if cluster.release() >= (8, 0)
        && let Some(caps) = caps.as_object_mut()
    {
        caps.insert("mapping".to_owned(), area("/mapping", &own("Mapping.")));
    }
    caps
}

/// `GET /access/permissions`.
pub(super) fn permissions(call: &mut Call<'_>) -> Reply {
    let who = match call.text("userid") {
        Some(id) if id != call.who.id() => {
            call.require("/access", &["Sys.Audit"])?;
            let (user, token) = match id.split_once('!') {
                Some((user, token)) => (user, Some(token.to_owned())),
                None => (id, None),
            };
            Identity {
                user: user.to_owned(),
                token,
            }
        }
        _ => call.who.clone(),
    };
    let mut paths: Vec<String> = [
        "/",
        "/access",
        "/access/groups",
        "/nodes",
        "/pool",
        "/sdn",
        "/storage",
        "/vms",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(call.cluster.acl_paths());
    if let Some(path) = call.text("path") {
        paths = vec![path.to_owned()];
    }
    let mut all = BTreeMap::new();
    for path in paths {
        let privileges: Map<String, Value> = call
            .cluster
            .privileges(&who, &path)
            .into_iter()
            .map(|privilege| (privilege.to_owned(), json!(1)))
            .collect();
        if !privileges.is_empty() {
            all.insert(path, privileges);
        }
    }
    Ok(json!(all))
}

/// `GET /access/acl`.
pub(super) fn acl(call: &mut Call<'_>) -> Reply {
    let everything = call
        .cluster
        .may(&call.who, "/access", &["Sys.Audit", "Permissions.Modify"]);
    let mut rows = Vec::new();
    for user in call.cluster.users.values() {
        let tokens = user.tokens.iter();
        let lists = std::iter::once((user.id.clone(), "user", &user.acl)).chain(
            tokens.map(|token| (format!("{}!{}", user.id, token.name), "token", &token.acl)),
        );
        for (id, kind, list) in lists {
            for (path, roles) in list {
                if !everything && !call.cluster.may(&call.who, path, &["Permissions.Modify"]) {
                    continue;
                }
                for role in roles.split(',') {
                    rows.push(json!({
                        "path": path, "ugid": id, "type": kind, "roleid": role.trim(), "propagate": 1,
                    }));
                }
            }
        }
    }
    Ok(json!(rows))
}
