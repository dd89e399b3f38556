//! HA resources: what HA is to do with a guest, and whether it has taken notice.
//!
//! What came of a change is read from the resource itself, so a repeat is harmless and no wording of the server counts,
//! but that for a resource which is not there. Read next: `wire/ha.rs`.

use super::ApiError;
use super::http::{HttpApi, Repeat, encoded};
use super::wire::ha;
use crate::pve::ha::{HaSettings, HaSid};

fn path(sid: HaSid) -> String {
    format!("/cluster/ha/resources/{}", encoded(&sid.to_string()))
}

impl HttpApi {
    pub(super) async fn read_ha_resource(
        &self,
        sid: HaSid,
    ) -> Result<Option<HaSettings>, ApiError> {
        match self.fetch(&path(sid), &[], ha::settings).await {
            Ok(settings) => Ok(Some(settings)),
            Err(ApiError::Refused {
                status: 500,
                reason,
                ..
            }) if reason.contains("no such resource") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says whether the HA manager still has the guest among those it acts on.
    pub(super) async fn read_ha_acts_on(&self, sid: HaSid) -> Result<bool, ApiError> {
        let status = "/cluster/ha/status/manager_status";
        let acted_on = self.fetch(status, &[], ha::acted_on).await?;
        Ok(acted_on.contains(&sid))
    }

    pub(super) async fn write_ha_state(&self, sid: HaSid, state: &str) -> Result<(), ApiError> {
        match self.put(&path(sid), &[("state", state)]).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let found = self.read_ha_resource(sid).await;
                let done = matches!(found, Ok(Some(found)) if found.state == state);
                if done { Ok(()) } else { Err(error) }
            }
        }
    }

    pub(super) async fn create_ha_resource(
        &self,
        sid: HaSid,
        settings: &HaSettings,
    ) -> Result<(), ApiError> {
        let sid_text = sid.to_string();
        let number = |most: Option<u32>| most.map(|most| most.to_string());
        let (restart, relocate) = (number(settings.max_restart), number(settings.max_relocate));
        let failback = settings.failback.map(|on| if on { "1" } else { "0" });
        let mut parameters = vec![("sid", sid_text.as_str()), ("state", &settings.state)];
        let optional = [
            ("group", settings.group.as_deref()),
            ("failback", failback),
            ("max_restart", restart.as_deref()),
            ("max_relocate", relocate.as_deref()),
            (
                "comment",
                settings.comment.as_deref().filter(|text| !text.is_empty()),
            ),
        ];
        parameters.extend(
            optional
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        let resources = "/cluster/ha/resources";
        match self.post(resources, &parameters, Repeat::Harmless).await {
            Ok(_) => Ok(()),
            Err(error) => match self.read_ha_resource(sid).await {
                Ok(Some(found)) if found.state == settings.state => Ok(()),
                Ok(_) | Err(_) => Err(error),
            },
        }
    }

    pub(super) async fn delete_ha_resource(&self, sid: HaSid) -> Result<(), ApiError> {
        if self.read_ha_resource(sid).await?.is_none() {
            return Ok(());
        }
        match self.delete_path(&path(sid), &[]).await {
            Ok(_) => Ok(()),
            Err(error) => match self.read_ha_resource(sid).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(error),
            },
        }
    }
}
