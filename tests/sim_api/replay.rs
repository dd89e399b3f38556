//! Sends what was recorded and keeps count of what came back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use proxmove::sim::api::schema::ENDPOINTS;
use proxmove::sim::{SimulatedCluster, Simulation};
use serde_json::Value;

use super::client::{self, Answer};
use super::{compare, laboratory};

/// How a recording went.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) matched: usize,
    pub(crate) not_simulated: usize,
    pub(crate) differences: Vec<(usize, String)>,
    by_endpoint: BTreeMap<String, (usize, usize)>,
}

impl Outcome {
    /// Returns the counts as a table.
    pub(crate) fn table(&self, file: &str) -> String {
        let mut text = format!(
            "{file}: {} alike, {} different, {} not simulated\n",
            self.matched,
            self.differences.len(),
            self.not_simulated
        );
        for (endpoint, (alike, different)) in &self.by_endpoint {
            text.push_str(&format!("  {alike:4} {different:4}  {endpoint}\n"));
        }
        text
    }
}

/// One recorded request and its answer.
struct Row {
    cluster: Option<String>,
    user: String,
    method: String,
    path: String,
    params: Vec<(String, String)>,
    raw: Option<String>,
    status: u16,
    reason: String,
    body: String,
    note: String,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Parameters that were too long to record are made up again in the same length.
fn lengthened(value: String) -> String {
    let recorded = value
        .strip_suffix(" characters]")
        .and_then(|text| text.rsplit_once("...["));
    match recorded {
        Some((start, count)) => {
            let letter = start.chars().next().unwrap_or('x').to_string();
            letter.repeat(count.parse().unwrap_or(0))
        }
        None => value,
    }
}

fn read(line: &str) -> Row {
    let value: Value = serde_json::from_str(line).expect("a recorded row");
    let field = |name: &str| value.get(name).map(text).unwrap_or_default();
    let params = value["params"].as_object().map_or_else(Vec::new, |map| {
        map.iter()
            .map(|(key, value)| (key.clone(), lengthened(text(value))))
            .collect()
    });
    let user = match field("user") {
        _ if field("path").ends_with("/access/ticket") && !field("user").contains('!') => {
            "(none)".to_owned()
        }
        user if user.is_empty() => "mover@pve".to_owned(),
        user => user,
    };
    Row {
        cluster: value.get("cluster").map(text),
        user,
        method: field("method"),
        path: field("path"),
        params,
        raw: value["raw_body"].as_str().map(str::to_owned),
        status: value["status"].as_u64().unwrap_or(0) as u16,
        reason: field("reason"),
        body: field("body"),
        note: field("note"),
    }
}

/// Returns the endpoint a path belongs to, if it is simulated.
fn endpoint(method: &str, path: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let path = percent_decode_str(path).decode_utf8_lossy();
    let path = path.replace("//", "/");
    let path = path
        .strip_prefix("/api2/json")
        .or(path.strip_prefix("/api2/extjs"))?;
    let path = path.trim_end_matches('/');
    let fits = |template: &str| {
        let (mut given, wanted) = (path.split('/'), template.split('/'));
        for segment in wanted {
            let Some(part) = given.next() else {
                return false;
            };
            if segment == "{volume}" {
                return true;
            }
            if !segment.starts_with('{') && segment != part {
                return false;
            }
        }
        given.next().is_none()
    };
    ENDPOINTS
        .iter()
        .find(|endpoint| endpoint.method == method && fits(endpoint.path))
        .map(|endpoint| format!("{} {}", endpoint.method, endpoint.path))
}

struct Player<'a> {
    simulation: &'a Simulation,
    clients: BTreeMap<String, reqwest::Client>,
    tickets: BTreeMap<(String, String), (String, String)>,
    /// Recorded texts and what stands for them here: UPIDs, tickets.
    renamed: Vec<(String, String)>,
}

impl Player<'_> {
    fn rename(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (recorded, ours) in &self.renamed {
            text = text.replace(recorded.as_str(), ours);
            let encoded = |text: &str| {
                text.replace(':', "%3A")
                    .replace('@', "%40")
                    .replace('!', "%21")
            };
            text = text.replace(&encoded(recorded), &encoded(ours));
        }
        text
    }

    async fn login(&mut self, cluster: &SimulatedCluster, user: &str) -> (String, String) {
        let key = (cluster.alias.clone(), user.to_owned());
        if let Some(found) = self.tickets.get(&key) {
            return found.clone();
        }
        let body = format!(
            "username={}&password={}",
            user.replace('@', "%40"),
            laboratory::password(user)
        );
        let url = format!("https://{}/api2/json/access/ticket", cluster.address);
        let form = "application/x-www-form-urlencoded".to_owned();
        let client = self.clients[&cluster.alias].clone();
        let answer = client::send(&client, "POST", &url, &[], Some((form, body))).await;
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let pair = (
            text(&value["data"]["ticket"]),
            text(&value["data"]["CSRFPreventionToken"]),
        );
        self.tickets.insert(key, pair.clone());
        pair
    }

    /// Returns the headers of the recorded user, odd ones included.
    async fn headers(
        &mut self,
        cluster: &SimulatedCluster,
        row: &Row,
    ) -> Vec<(&'static str, String)> {
        let token = |text: &str| vec![("authorization", format!("PVEAPIToken={text}"))];
        match (row.user.as_str(), row.note.as_str()) {
            ("(none)", note) if note.starts_with("garbage cookie") => {
                vec![("cookie", "PVEAuthCookie=garbage".to_owned())]
            }
            ("(none)", note) if note.starts_with("old ticket") => {
                vec![(
                    "cookie",
                    "PVEAuthCookie=PVE:root@pam:5B010000::x".to_owned(),
                )]
            }
            ("(none)", _) => Vec::new(),
            ("garbage", _) => token("garbage"),
            ("mover@pve!t1", "token: wrong secret") => token("mover@pve!t1=wrong"),
            (user, _) if user.contains('!') => token(&format!("{user}=secret")),
            ("tfa@pve(partial)", _) => {
                vec![("cookie", "PVEAuthCookie=PVE:!tfa!x:6B01018E::x".to_owned())]
            }
            (_, "login") => Vec::new(),
            (user, note) => {
                let (ticket, csrf) = self.login(cluster, user).await;
                let mut headers = vec![("cookie", format!("PVEAuthCookie={ticket}"))];
                if !note.contains("CSRF") {
                    headers.push(("csrfpreventiontoken", csrf));
                } else if note.contains("wrong") {
                    headers.push(("csrfpreventiontoken", "6B010174:wrong".to_owned()));
                }
                headers
            }
        }
    }

    fn busy(&self, cluster: &str) -> bool {
        let world = self.simulation.world();
        world
            .clusters
            .iter()
            .filter(|entry| entry.alias == cluster)
            .any(|entry| entry.tasks.iter().any(|task| task.ended.is_none()))
    }

    async fn settle(&self, cluster: &str) {
        while self.busy(cluster) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn broadcast(&self) {
        for cluster in &mut self.simulation.world().clusters {
            cluster.refresh_broadcasts();
        }
    }

    async fn send(&mut self, cluster: &SimulatedCluster, row: &Row) -> Answer {
        let headers = self.headers(cluster, row).await;
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let pairs: Vec<String> = row
            .params
            .iter()
            .map(|(key, value)| format!("{}={}", encode(key), encode(&self.rename(value))))
            .collect();
        let mut url = format!("https://{}{}", cluster.address, self.rename(&row.path));
        let mut body = None;
        let form = "application/x-www-form-urlencoded".to_owned();
        if let Some(raw) = &row.raw {
            let kind = match raw.chars().next() {
                Some('{') => "application/json".to_owned(),
                Some('<') => "text/xml".to_owned(),
                _ => form,
            };
            body = Some((kind, self.rename(raw)));
        } else if !pairs.is_empty() {
            match row.method.as_str() {
                "GET" | "DELETE" => url = format!("{url}?{}", pairs.join("&")),
                _ => body = Some((form, pairs.join("&"))),
            }
        }
        let client = self.clients[&cluster.alias].clone();
        client::send(&client, &row.method, &url, &headers, body).await
    }

    /// Sends a request until the answer is the recorded one, or nothing goes on any more that could change it. A list
    /// that lags is asked again after a broadcast.
    async fn compare(
        &mut self,
        cluster: &SimulatedCluster,
        row: &Row,
        roots: &[String],
    ) -> (Answer, Option<String>) {
        let lags = row.path.contains("/cluster/resources") || row.path.contains("/pools");
        loop {
            let busy = self.busy(&cluster.alias);
            let answer = self.send(cluster, row).await;
            let text = difference(row, &answer, roots);
            if row.method != "GET" || text.is_none() {
                return (answer, text);
            }
            if busy {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            if !lags {
                return (answer, text);
            }
            self.broadcast();
            let answer = self.send(cluster, row).await;
            let text = difference(row, &answer, roots);
            return (answer, text);
        }
    }

    /// Remembers what a recorded UPID or ticket is called here.
    fn learn(&mut self, row: &Row, answer: &Answer) {
        let parse = |body: &str| serde_json::from_str::<Value>(body).unwrap_or_default();
        let (recorded, ours) = (parse(&row.body), parse(&answer.body));
        for pointer in ["/data", "/data/ticket"] {
            let pair = (recorded.pointer(pointer), ours.pointer(pointer));
            if let (Some(Value::String(recorded)), Some(Value::String(ours))) = pair
                && recorded.len() > 20
            {
                self.renamed.push((recorded.clone(), ours.clone()));
            }
        }
    }
}

/// Rows that were sent while something else was going on.
fn meanwhile(note: &str) -> bool {
    [
        "immediately",
        "during",
        "concurrent",
        "race",
        "stop overrule",
        "stop task",
    ]
    .iter()
    .any(|word| note.contains(word))
}

/// Replays a recording, each of its sessions against a laboratory of its own.
pub(crate) async fn replay(file: &str, path: &Path) -> Outcome {
    let lines = std::fs::read_to_string(path).expect("a recording");
    let rows: Vec<Row> = lines.lines().map(read).collect();
    let mut outcome = Outcome::default();
    let sessions = laboratory::sessions(file);
    let inside = |number: &usize| sessions.iter().any(|range| range.contains(number));
    outcome.not_simulated = (0..rows.len()).filter(|number| !inside(number)).count();
    for range in sessions {
        play(file, &rows, range, &mut outcome).await;
    }
    outcome
}

/// Returns the guest a path is about.
fn guest_of(path: &str) -> Option<u32> {
    let rest = path.split("/qemu/").nth(1).or(path.split("/lxc/").nth(1))?;
    rest.split('/').next()?.parse().ok()
}

/// Returns the guests that rows of this recording create by a simulated endpoint.
fn created(rows: &[Row]) -> Vec<u32> {
    let creates = rows
        .iter()
        .filter(|row| row.method == "POST" && row.path.ends_with("/qemu") && row.status == 200);
    creates
        .filter_map(|row| match &row.raw {
            Some(raw) => raw
                .split('&')
                .find_map(|pair| pair.strip_prefix("vmid=")?.parse().ok()),
            None => row
                .params
                .iter()
                .find(|(key, _)| key == "vmid")
                .and_then(|(_, value)| value.parse().ok()),
        })
        .collect()
}

async fn play(file: &str, rows: &[Row], range: std::ops::Range<usize>, outcome: &mut Outcome) {
    let scenario = laboratory::scenario(file, range.start);
    let mut known = created(rows);
    known.extend(
        scenario
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.guests)
            .map(|guest| guest.vmid),
    );
    let simulation = Simulation::start(scenario).expect("a simulation");
    laboratory::prepare(&simulation, file);
    let roots: Vec<String> = simulation
        .clusters
        .iter()
        .flat_map(|cluster| &cluster.nodes)
        .map(|node| node.root.display().to_string())
        .collect();
    let mut player = Player {
        simulation: &simulation,
        clients: simulation
            .clusters
            .iter()
            .map(|cluster| (cluster.alias.clone(), client::client(cluster)))
            .collect(),
        tickets: BTreeMap::new(),
        renamed: Vec::new(),
    };
    let mut logins = 0;
    for (number, row) in rows
        .iter()
        .enumerate()
        .filter(|(number, _)| range.contains(number))
    {
        let name = endpoint(&row.method, &row.path).or((row.status == 501).then(String::new));
        // Guests that come from cloning, containers or other recordings are not there.
        let foreign = guest_of(&row.path).is_some_and(|vmid| !known.contains(&vmid));
        let foreign = foreign && !row.body.contains("does not exist") && !row.path.contains("/999");
        let strange_task = row.path.contains("/tasks/UPID")
            && row.status == 200
            && !row.note.contains("unknown")
            && player.rename(&row.path) == row.path;
        let Some(name) = name.filter(|_| !foreign && !strange_task) else {
            outcome.not_simulated += 1;
            continue;
        };
        // The older program's recordings do not say which cluster: the node does, and else the turn.
        let place = match &row.cluster {
            Some(alias) => simulation.clusters.iter().position(|c| c.alias == *alias),
            None => {
                let on = |node: &str| row.path.contains(&format!("/nodes/{node}"));
                let by_node = simulation
                    .clusters
                    .iter()
                    .position(|c| c.nodes.iter().any(|node| on(&node.name)));
                by_node.or_else(|| turn(row, &mut logins))
            }
        };
        let cluster = simulation.clusters[place.unwrap_or(0)].clone();
        let staged = row.note == "snapshot list";
        if (row.method != "GET" || staged) && !meanwhile(&row.note) {
            player.settle(&cluster.alias).await;
        }
        laboratory::before_row(&simulation, file, number, &row.note);
        let (answer, text) = player.compare(&cluster, row, &roots).await;
        player.learn(row, &answer);
        let count = outcome.by_endpoint.entry(name).or_default();
        match text {
            None => {
                outcome.matched += 1;
                count.0 += 1;
            }
            Some(text) => {
                count.1 += 1;
                let request = format!("{} {}", row.method, row.path.replace("/api2/json", ""));
                outcome
                    .differences
                    .push((number, format!("{request:.90} ({}) {text}", row.note)));
            }
        }
    }
}

/// The older program logs in to one cluster, then to the other, and asks both for their guests.
fn turn(row: &Row, logins: &mut usize) -> Option<usize> {
    if row.path.contains("/access/ticket") {
        *logins += 1;
    }
    let mentions = |node: &str| row.body.contains(node);
    if mentions("nodeb1") || mentions("noded1") {
        return Some(1);
    }
    if mentions("nodea1") || mentions("nodeg1") {
        return Some(0);
    }
    Some(match row.path.rsplit('/').next().unwrap_or_default() {
        "ticket" | "version" => (*logins + 1) % 2,
        _ if row.method != "GET" || row.body == "{\"data\":[]}" => 1,
        _ => 0,
    })
}

fn difference(row: &Row, answer: &Answer, roots: &[String]) -> Option<String> {
    if row.status != answer.status {
        return Some(format!(
            "{} {} became {} {}",
            row.status, row.reason, answer.status, answer.reason
        ));
    }
    let (recorded, ours) = (
        compare::normal(&row.reason, roots),
        compare::normal(&answer.reason, roots),
    );
    if recorded != ours {
        return Some(format!("'{recorded}' became '{ours}'"));
    }
    let values =
        row.method == "GET" && (row.path.ends_with("/config") || row.path.ends_with("/pending"));
    let ours = match row.path.contains("/nodes/nodeg1") || row.path.contains("/nodes/noded1") {
        true => without_process(&answer.body),
        false => answer.body.clone(),
    };
    compare::bodies(&row.body, &ours, values, roots)
}

/// The laboratory's QEMU under 9.2 did not answer questions about itself, so that these keys are missing there.
fn without_process(body: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return body.to_owned();
    };
    let strip = |value: &mut Value| {
        if let Some(map) = value.as_object_mut() {
            for key in [
                "balloon",
                "ballooninfo",
                "blockstat",
                "proxmox-support",
                "running-machine",
                "running-qemu",
            ] {
                // A configuration has a key `balloon` too, and that one is compared.
                if key != "balloon" || map.contains_key("qmpstatus") {
                    map.remove(key);
                }
            }
        }
    };
    match &mut value["data"] {
        Value::Array(rows) => rows.iter_mut().for_each(strip),
        data => strip(data),
    }
    value.to_string()
}
