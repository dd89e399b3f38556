//! The mark: what a placeholder's notes say about the move it belongs to.
//!
//! Pure. It is the only memory of a move: everything else is observed. A person can read it, and every proxmove on any
//! machine continues from it. Read next: `state.rs`.

use std::collections::BTreeMap;

use crate::pve::drive::DriveKey;
use crate::pve::guest::GuestRef;
use crate::pve::id::{ClusterAlias, Volid};

/// The name suffix of a placeholder on the target.
pub const CREATING: &str = "--CREATING";
/// The name suffix of a stopped source whose final delta is under way.
pub const CLONING: &str = "--CLONING";
/// The name suffix of a retired source.
pub const MIGRATED: &str = "--MIGRATED";

/// What a placeholder's notes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The source cluster's alias at the operator's who began.
    pub source_cluster: ClusterAlias,
    /// Where the source guest was.
    pub source: GuestRef,
    /// Its name.
    pub name: String,
    /// Whether it ran when the move began.
    pub running: bool,
    /// Its `onboot` before the move.
    pub onboot: bool,
    /// Who began, `user@machine`.
    pub by: String,
    /// When, RFC 3339.
    pub since: String,
    /// Each copied drive's volume on the target.
    pub volumes: BTreeMap<DriveKey, Volid>,
}
