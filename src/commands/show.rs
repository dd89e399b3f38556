//! `proxmove config show`: the configuration, and what is derived from the clusters where the file is silent.
//!
//! Read next: `config/show.rs`.

use super::{Process, derived, file, load, print};
use crate::cli::Common;
use crate::cluster::http::HttpApi;
use crate::cluster::{Api, ApiError};
use crate::config::{Config, Problem, show};
use crate::error::{ExitCode, Failure};
use crate::pve::id::ClusterAlias;

/// Prints every section with its origin. A cluster that cannot be asked costs a warning, not the rest.
pub(super) async fn run(process: &Process, common: &Common) -> Result<ExitCode, Failure> {
    let mut config = load(common, process)?;
    for (alias, cluster) in config.clusters.clone() {
        let api = HttpApi::connect(cluster, common.verify_tls);
        if let Err(error) = add_derived(&mut config, &alias, &api).await {
            config.warnings.push(Problem {
                section: format!("[pve:{alias}]"),
                key: None,
                message: format!("nothing could be derived: {error}"),
                hint: Some("`proxmove check` looks closer".to_owned()),
            });
        }
    }
    let file = file(common, process).display().to_string();
    if common.json {
        print(&format!("{:#}\n", show::json(&config, &file)))
    } else {
        print(&show::text(&config, &file))
    }
}

/// Adds the sections that one cluster's storages would have.
pub(super) async fn add_derived(
    config: &mut Config,
    alias: &ClusterAlias,
    api: &dyn Api,
) -> Result<(), ApiError> {
    for node in api.nodes().await?.into_iter().filter(|node| node.online) {
        for storage in api.storages(&node.name).await? {
            match derived(alias, &node, &storage) {
                Ok(section) => {
                    config.add_derived(section);
                }
                Err(reason) => log::debug!("{alias}: {} on {}: {reason}", storage.id, node.name),
            }
        }
    }
    Ok(())
}
