//! How a guest is just now, and whether its agent answers.
//!
//! Reads only: a ping asks the agent for nothing. Read next: `wire/guest.rs`.

use super::ApiError;
use super::http::{HttpApi, Repeat};
use super::observe::guest_path;
use super::wire::guest as guests;
use crate::pve::guest::{AgentPing, GuestRef, Vitals};

impl HttpApi {
    pub(super) async fn read_vitals(&self, place: &GuestRef) -> Result<Vitals, ApiError> {
        let path = format!("{}/status/current", guest_path(place));
        self.fetch(&path, &[], guests::vitals).await
    }

    pub(super) async fn ask_agent(&self, place: &GuestRef) -> Result<AgentPing, ApiError> {
        let path = format!("{}/agent/ping", guest_path(place));
        match self.post(&path, &[], Repeat::Harmless).await {
            Ok(_) => Ok(AgentPing::Answers),
            // There are no codes for this, only words, and the first releases had others: "No Qemu Guest Agent".
            Err(ApiError::Refused {
                status: 500,
                reason,
                ..
            }) => {
                let words = reason.to_lowercase();
                Ok(match words.contains("no qemu guest agent") {
                    true => AgentPing::NotConfigured,
                    false => {
                        log::debug!("{}: {}: {reason}", self.config.alias, place.vmid);
                        AgentPing::NotRunning
                    }
                })
            }
            // The node's proxy gave up: a guest that is busy booting may keep the call so long.
            Err(ApiError::Refused { status, .. }) if (595..=599).contains(&status) => {
                Ok(AgentPing::NotRunning)
            }
            Err(error) => Err(error),
        }
    }
}
