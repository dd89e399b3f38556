//! The guest agent: whether it answers a ping. What else it can do is not simulated.
//!
//! Read next: `power.rs`.

use std::time::Duration;

use serde_json::json;

use super::{Call, Refusal, Reply};

/// How long after its start an agent begins to answer: a guest boots first.
const BOOT: Duration = Duration::from_millis(300);

/// `POST agent/ping`.
pub(super) fn ping(call: &mut Call<'_>) -> Reply {
    let guest = call.guest()?;
    let vmid = guest.vmid;
    let configured = guest.config.get("agent").is_some_and(|agent| {
        agent
            .split(',')
            .any(|part| part == "1" || part == "enabled=1")
    });
    if !configured {
        return Err(Refusal::died("No QEMU guest agent configured"));
    }
    let Some(run) = &guest.run else {
        return Err(Refusal::died(format!("VM {vmid} is not running")));
    };
    let mute = call.cluster.boots.get(&vmid).is_some_and(|boot| boot.mute);
    let answers = !mute && run.qmp_status == "running" && run.since.elapsed() >= BOOT;
    match answers {
        true => Ok(json!({"result": {}})),
        false => Err(Refusal::died("QEMU guest agent is not running")),
    }
}
