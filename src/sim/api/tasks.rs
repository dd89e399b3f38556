//! Tasks: lists, state, log, stopping.

use serde_json::{Value, json};

use super::{Call, Refusal, Reply};
use crate::sim::world::task::Task;

fn is_upid(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 9
        && parts[0] == "UPID"
        && parts[2..5].iter().all(|part| hex(part))
        && parts[8].is_empty()
}

/// Finds the task of a request, if the caller may see it.
fn find<'a>(call: &'a Call<'_>) -> Result<Option<&'a Task>, Refusal> {
    let upid = call.text("upid").unwrap_or_default();
    if !is_upid(upid) {
        return Err(Refusal::param("upid", "unable to parse worker upid"));
    }
    let owner = upid.split(':').nth(7).unwrap_or_default();
    if !owns(call, owner) {
        call.require(&format!("/nodes/{}", call.node), &["Sys.Audit"])?;
    }
    Ok(call.cluster.tasks.iter().find(|task| task.upid == upid))
}

/// A user owns the tasks of its tokens; a token owns its own.
fn owns(call: &Call<'_>, owner: &str) -> bool {
    owner == call.who.id()
        || (call.who.token.is_none() && owner.split('!').next() == Some(call.who.user.as_str()))
}

/// `GET tasks/UPID/status`.
pub(super) fn status(call: &mut Call<'_>) -> Reply {
    let task = find(call)?.ok_or_else(|| Refusal::param("upid", "no such task"))?;
    let (user, token) = match task.user.split_once('!') {
        Some((user, token)) => (user, Some(token)),
        None => (task.user.as_str(), None),
    };
    let mut reply = json!({
        "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.ticks, "starttime": task.started,
        "type": task.kind, "id": task.id, "user": user,
        "status": if task.ended.is_some() { "stopped" } else { "running" },
    });
    if let Some((_, exit)) = &task.ended {
        reply["exitstatus"] = json!(exit);
    }
    if let Some(token) = token {
        reply["tokenid"] = json!(token);
    }
    Ok(reply)
}

/// `GET tasks/UPID/log`.
pub(super) fn log(call: &mut Call<'_>) -> Reply {
    let modern = call.release() >= (9, 0);
    let Some(task) = find(call)? else {
        let line = json!({"n": 1, "t": "unable to open file - No such file or directory"});
        call.total = Some(1);
        // Before 9 the list is missing around the only line.
        return Ok(if modern { json!([line]) } else { line });
    };
    let mut lines = task.log.clone();
    if lines.is_empty() {
        lines.push("no content".to_owned());
    }
    let total = lines.len();
    let start = call.number("start").unwrap_or(0) as usize;
    let limit = match call.number("limit") {
        Some(0) => usize::MAX,
        Some(limit) => limit as usize,
        None => 50,
    };
    let rows: Vec<Value> = lines
        .iter()
        .enumerate()
        .skip(start)
        .take(limit)
        .map(|(place, text)| json!({"n": place + 1, "t": text}))
        .collect();
    call.total = Some(total);
    Ok(json!(rows))
}

/// `DELETE tasks/UPID`.
pub(super) fn stop(call: &mut Call<'_>) -> Reply {
    let upid = call.text("upid").unwrap_or_default().to_owned();
    if !is_upid(&upid) {
        return Err(Refusal::param("upid", "unable to parse worker upid"));
    }
    let owner = upid.split(':').nth(7).unwrap_or_default().to_owned();
    if !owns(call, &owner) {
        call.require(&format!("/nodes/{}", call.node), &["Sys.Modify"])?;
    }
    if let Some(task) = call.cluster.task_mut(&upid) {
        task.aborted = true;
    }
    Ok(Value::Null)
}

/// `GET /nodes/N/tasks`.
pub(super) fn of_node(call: &mut Call<'_>) -> Reply {
    let all = call
        .cluster
        .may(&call.who, &format!("/nodes/{}", call.node), &["Sys.Audit"]);
    let source = call.text("source").unwrap_or("archive");
    let wanted = |task: &&Task| {
        let ended = task.ended.is_some();
        let in_source = match source {
            "active" => !ended,
            "all" => true,
            _ => ended,
        };
        let failed = task.ended.as_ref().is_some_and(|(_, exit)| exit != "OK");
        in_source
            && task.node == call.node
            && (all || owns(call, &task.user))
            && call.text("typefilter").is_none_or(|kind| task.kind == kind)
            && call.text("vmid").is_none_or(|vmid| task.id == vmid)
            && call
                .text("userfilter")
                .is_none_or(|user| task.user.contains(user))
            && (!call.flag("errors") || failed)
            && call
                .number("since")
                .is_none_or(|since| task.started >= since)
            && call
                .number("until")
                .is_none_or(|until| task.started <= until)
    };
    let tasks: Vec<&Task> = call.cluster.tasks.iter().rev().filter(wanted).collect();
    let start = call.number("start").unwrap_or(0) as usize;
    let limit = call.number("limit").unwrap_or(50) as usize;
    let rows: Vec<Value> = tasks
        .iter()
        .skip(start)
        .take(limit)
        .map(|task| {
            let mut row = json!({
                "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.ticks,
                "starttime": task.started, "type": task.kind, "id": task.id, "user": task.user,
            });
            match &task.ended {
                Some((time, exit)) => {
                    row["endtime"] = json!(time);
                    row["status"] = json!(exit);
                }
                None => row["status"] = json!("RUNNING"),
            }
            row
        })
        .collect();
    let total = tasks.len();
    call.total = (total > 0).then_some(total);
    Ok(json!(rows))
}

/// `GET /cluster/tasks`.
pub(super) fn of_cluster(call: &mut Call<'_>) -> Reply {
    let all = call.cluster.may(&call.who, "/", &["Sys.Audit"]);
    let rows: Vec<Value> = call
        .cluster
        .tasks
        .iter()
        .rev()
        .filter(|task| all || owns(call, &task.user))
        .take(25)
        .map(|task| {
            let mut row = json!({
                "upid": task.upid, "node": task.node, "starttime": task.started, "type": task.kind,
                "id": task.id, "user": task.user, "saved": "1",
            });
            match &task.ended {
                Some((time, exit)) => {
                    row["endtime"] = json!(time);
                    row["status"] = json!(exit);
                }
                None => row["pid"] = json!(task.pid),
            }
            row
        })
        .collect();
    Ok(json!(rows))
}
