//! Resource pools, by path and, since 8.1, by query.

use serde_json::{Value, json};

use super::check::split_list;
use super::{Call, Refusal, Reply};
use crate::sim::world::{Broadcast, Pool};

fn missing(id: &str) -> String {
    format!("pool '{id}' does not exist")
}

/// `GET /pools`.
pub(super) fn list(call: &mut Call<'_>) -> Reply {
    if let Some(id) = call.text("poolid").map(str::to_owned) {
        call.require(&format!("/pool/{id}"), &["Pool.Audit"])?;
        let mut row = shown(call, &id)?;
        row["poolid"] = json!(id);
        return Ok(json!([row]));
    }
    let mut rows = Vec::new();
    for (id, pool) in &call.cluster.pools {
        if !call
            .cluster
            .may(&call.who, &format!("/pool/{id}"), &["Pool.Audit"])
        {
            continue;
        }
        let mut row = json!({"poolid": id});
        if let Some(comment) = &pool.comment {
            row["comment"] = json!(comment);
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

/// `GET /pools/ID`.
pub(super) fn show(call: &mut Call<'_>) -> Reply {
    let id = call.text("poolid").unwrap_or_default().to_owned();
    let mut row = shown(call, &id)?;
    if call.release() >= (8, 1) {
        row["poolid"] = json!(id);
    }
    Ok(row)
}

fn shown(call: &Call<'_>, id: &str) -> Reply {
    let pool = call
        .cluster
        .pools
        .get(id)
        .ok_or_else(|| Refusal::died(missing(id)))?;
    let mut members = Vec::new();
    for vmid in &pool.members {
        let Some(guest) = call.cluster.guests.get(vmid) else {
            continue;
        };
        let kind = if guest.container { "lxc" } else { "qemu" };
        let mut row = match call.cluster.broadcasts.get(vmid) {
            Some(Broadcast { row }) => Value::Object(row.clone()),
            None => json!({"status": "unknown"}),
        };
        row["id"] = json!(format!("{kind}/{vmid}"));
        row["type"] = json!(kind);
        row["vmid"] = json!(vmid);
        row["node"] = json!(guest.node);
        members.push(row);
    }
    let mut row = json!({"members": members});
    if let Some(comment) = &pool.comment {
        row["comment"] = json!(comment);
    }
    Ok(row)
}

/// `POST /pools`.
pub(super) fn create(call: &mut Call<'_>) -> Reply {
    let id = call.text("poolid").unwrap_or_default().to_owned();
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    let failed = |why: String| Refusal::died(format!("create pool failed: {why}"));
    if call.cluster.pools.contains_key(&id) {
        return Err(failed(format!("pool '{id}' already exists")));
    }
    if let Some((parent, _)) = id.rsplit_once('/')
        && !call.cluster.pools.contains_key(parent)
    {
        return Err(failed(format!(
            "parent '{parent}' of pool '{id}' does not exist"
        )));
    }
    let pool = Pool {
        comment: call.text("comment").map(str::to_owned),
        ..Pool::default()
    };
    call.cluster.pools.insert(id, pool);
    Ok(Value::Null)
}

/// `PUT /pools` and `PUT /pools/ID`.
pub(super) fn change(call: &mut Call<'_>) -> Reply {
    let id = call.text("poolid").unwrap_or_default().to_owned();
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    let failed = |why: String| Refusal::died(format!("update pools failed: {why}"));
    if !call.cluster.pools.contains_key(&id) {
        return Err(failed(missing(&id)));
    }
    let vmids: Vec<u32> = split_list(call.text("vms").unwrap_or_default())
        .filter_map(|vmid| vmid.parse().ok())
        .collect();
    for vmid in &vmids {
        call.require(&format!("/vms/{vmid}"), &["VM.Allocate"])?;
    }
    let mut pools = call.cluster.pools.clone();
    for vmid in vmids {
        let holder = pools
            .iter()
            .find(|(_, pool)| pool.members.contains(&vmid))
            .map(|(name, _)| name.clone());
        if call.flag("delete") {
            if holder.as_deref() != Some(id.as_str()) {
                return Err(failed(format!("VM {vmid} is not a pool member")));
            }
        } else if let Some(holder) = &holder {
            if *holder == id {
                return Err(failed(format!("VM {vmid} is already a pool member")));
            }
            if !call.flag("allow-move") {
                return Err(failed(format!(
                    "VM {vmid} belongs already to pool '{holder}' and 'allow-move' is not set"
                )));
            }
        }
        if let Some(pool) = holder.and_then(|holder| pools.get_mut(&holder)) {
            pool.members.remove(&vmid);
        }
        if !call.flag("delete")
            && let Some(pool) = pools.get_mut(&id)
        {
            pool.members.insert(vmid);
        }
    }
    if let Some(comment) = call.text("comment")
        && let Some(pool) = pools.get_mut(&id)
    {
        pool.comment = Some(comment.to_owned());
    }
    call.cluster.pools = pools;
    Ok(Value::Null)
}

/// `DELETE /pools` and `DELETE /pools/ID`.
pub(super) fn delete(call: &mut Call<'_>) -> Reply {
    let id = call.text("poolid").unwrap_or_default().to_owned();
    call.require(&format!("/pool/{id}"), &["Pool.Allocate"])?;
    let failed = |why: String| Refusal::died(format!("delete pool failed: {why}"));
    let pool = call
        .cluster
        .pools
        .get(&id)
        .ok_or_else(|| failed(missing(&id)))?;
    let children = format!("{id}/");
    if let Some(child) = call
        .cluster
        .pools
        .keys()
        .find(|name| name.starts_with(&children))
    {
        return Err(failed(format!(
            "pool '{id}' is not empty (contains pool '{child}')"
        )));
    }
    let alive = pool
        .members
        .iter()
        .find(|vmid| call.cluster.guests.contains_key(vmid));
    if let Some(vmid) = alive {
        return Err(failed(format!(
            "pool '{id}' is not empty (contains VM {vmid})"
        )));
    }
    call.cluster.pools.remove(&id);
    Ok(Value::Null)
}
