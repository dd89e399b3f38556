//! Acting on one guest: the loop that observes, derives, steps and observes again.
//!
//! Read next: `survey.rs`, `check.rs`.

pub mod check;
pub mod survey;
