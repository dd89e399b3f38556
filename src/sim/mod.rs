//! A simulated PVE, for `proxmove demo`, for tests, and for people who want to rehearse.
//!
//! Never used by a real move. Read next: [`host`], then [`guest`].

pub mod guest;
pub mod host;
