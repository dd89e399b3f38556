//! Rights that are missing, as verdicts.
//!
//! Pure. What is needed is computed in `plan/rights.rs`.

use crate::plan::Verdict;
use crate::plan::rights::{Missing, grant_command};

/// Refuses for each path on which privileges are missing, with the command that grants them.
pub fn missing(name: &str, cluster: &str, user: &str, missing: &Missing) -> Vec<Verdict> {
    missing
        .iter()
        .map(|(path, (privileges, purposes))| {
            let privileges: Vec<&str> = privileges.iter().copied().collect();
            let purposes: Vec<&str> = purposes.iter().map(String::as_str).collect();
            Verdict::refuse(
                name,
                "right-missing",
                format!(
                    "{user} lacks {} on {path} of {cluster} (to {})",
                    privileges.join(", "),
                    purposes.join(", ")
                ),
                grant_command(user, path, &privileges),
            )
        })
        .collect()
}
