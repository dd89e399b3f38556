//! Evacuating and restoring: scenarios as data, properties of plans and schedules.
//!
//! `evacuation/scenario.rs` reads `scenarios/evacuation/*.json`.

#![allow(clippy::unwrap_used)]

#[path = "evacuation/plan.rs"]
mod plan;
#[path = "evacuation/properties.rs"]
mod properties;
#[path = "evacuation/scenario.rs"]
mod scenario;
