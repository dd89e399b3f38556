//! The storage hosts of one run: a connection each, and the volumes of a plan as pairs of ends.
//!
//! The one place below `main` where a move opens shells; everything it does with them is the engine's business. Read
//! next: `transfer/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::survey::Shells;
use crate::config::{SshAddress, StorageConfig};
use crate::host::agent::{Scope, ScopedAgent, Signer};
use crate::host::node_file::NodeFile;
use crate::host::ssh::{SshOptions, SshShell};
use crate::host::{Shell, ShellError};
use crate::plan::{DriveAction, GuestPlan, MoveRequest, VolumePlan};
use crate::pve::drive::DriveKey;
use crate::transfer::carry::{DirectAccess, GrantDirect};
use crate::transfer::{End, Format, Pair, Zvol};
use crate::units::Bandwidth;

/// Connections to storage hosts, one per address for the whole run.
pub struct Hosts {
    options: SshOptions,
    open: Mutex<BTreeMap<SshAddress, Arc<SshShell>>>,
}

impl Hosts {
    /// Connects to nobody yet.
    pub fn new(options: SshOptions) -> Hosts {
        Hosts {
            options,
            open: Mutex::default(),
        }
    }

    /// Returns what all connections have in common.
    pub fn options(&self) -> &SshOptions {
        &self.options
    }

    /// Returns the shell for an address; connects when it is first used.
    pub fn shell(&self, address: &SshAddress) -> Result<Arc<SshShell>, ShellError> {
        // A poisoned lock only says that another thread panicked; the map is whole.
        let mut open = self
            .open
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some(shell) = open.get(address) {
            return Ok(Arc::clone(shell));
        }
        let shell = Arc::new(SshShell::new(address, self.options.clone())?);
        open.insert(address.clone(), Arc::clone(&shell));
        Ok(shell)
    }

    /// Returns what grants a pair its direct access: the key in use, for one login on one verified host.
    pub fn grant(self: &Arc<Self>) -> GrantDirect {
        let hosts = Arc::clone(self);
        Arc::new(move |pair| hosts.access(pair))
    }

    fn access(&self, pair: &Pair) -> Result<DirectAccess, String> {
        let target = self
            .by_shell_address(pair.target.shell.address())
            .ok_or("the target host is not reached by SSH")?;
        let verified = target
            .remembered()
            .ok_or("the target host was not verified yet")?;
        let resolved = target.resolved();
        // Without `peer=` the address is the operator's own, which ~/.ssh/config may have completed.
        let peer = &pair.target.peer;
        let of_operator = self
            .shell(peer)
            .is_ok_and(|shell| Arc::ptr_eq(&shell, &target));
        let address = if of_operator {
            resolved.clone()
        } else {
            peer.clone()
        };
        let user = address.user.clone().or(resolved.user).unwrap_or_default();
        let known_hosts = verified.known_hosts_line(&address.host, address.port.unwrap_or(22));
        let signer = Signer::of(&verified.identity).map_err(|error| error.to_string())?;
        let scope = Scope {
            user: user.clone(),
            host_keys: vec![verified.host_key],
        };
        let agent = Mutex::new(ScopedAgent::new(scope, signer));
        Ok(DirectAccess {
            address: SshAddress {
                user: Some(user),
                ..address
            },
            known_hosts,
            ciphers: self
                .options
                .ciphers
                .clone()
                .filter(|ciphers| ciphers != "-"),
            answerer: Arc::new(move |request| {
                agent
                    .lock()
                    .unwrap_or_else(|poison| poison.into_inner())
                    .answer(request)
            }),
        })
    }

    fn by_shell_address(&self, address: &str) -> Option<Arc<SshShell>> {
        let open = self
            .open
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        open.values()
            .find(|shell| shell.address() == address)
            .cloned()
    }

    /// Connects to every address, so that an unknown host key is asked about before anything begins.
    pub async fn connect(&self, addresses: BTreeSet<SshAddress>) -> Shells {
        let mut shells = Shells::new();
        for address in addresses {
            let shell = match self.shell(&address) {
                Ok(shell) => match shell.verified().await {
                    Ok(_) => Ok(shell as Arc<dyn Shell>),
                    Err(error) => Err(crate::transfer::probe::with_causes(&error)),
                },
                Err(error) => Err(crate::transfer::probe::with_causes(&error)),
            };
            shells.insert(address, shell);
        }
        shells
    }

    /// Returns the volumes of a plan as pairs, each with its share of the bandwidth.
    pub fn pairs(&self, plan: &GuestPlan, request: &MoveRequest) -> Result<Vec<Pair>, ShellError> {
        let volumes: Vec<(DriveKey, &VolumePlan)> = plan
            .drives
            .iter()
            .filter_map(|drive| match &drive.action {
                DriveAction::Copy(volume) => Some((drive.key, volume.as_ref())),
                DriveAction::Set { .. } | DriveAction::Leave => None,
            })
            .collect();
        // The limit is for the whole move: volumes that are copied at the same time share it.
        let at_once = request.parallel.min(volumes.len()).max(1) as u64;
        let limit = request.limit.map(|limit| {
            Bandwidth::bytes_per_second((limit.as_bytes_per_second() / at_once).max(1))
        });
        volumes
            .into_iter()
            .map(|(drive, volume)| {
                Ok(Pair {
                    drive,
                    engine: volume.engine,
                    stream: volume.stream,
                    source: self.end(
                        &volume.source_storage,
                        &volume.source_path,
                        volume.source_zvol.clone(),
                        volume.source_format,
                    )?,
                    target: self.end(
                        &volume.target_storage,
                        &volume.target_path,
                        volume.target_zvol.clone(),
                        volume.target_format,
                    )?,
                    size: volume.size,
                    name: format!("{}-{}-{drive}", plan.source.vmid, plan.target.vmid),
                    route: volume.route,
                    tool: volume.tool,
                    limit,
                    adopt: false,
                    snapshots: volume.snapshots.clone(),
                    kept: false,
                    forget: request.forget,
                })
            })
            .collect()
    }

    /// Returns the configuration file of a plan's target, to be reached by that login.
    pub fn node_file(&self, plan: &GuestPlan, login: &SshAddress) -> Result<NodeFile, ShellError> {
        let target = &plan.target;
        Ok(NodeFile::of(self.shell(login)?, &target.node, target.vmid))
    }

    fn end(
        &self,
        storage: &StorageConfig,
        path: &str,
        zvol: Option<Zvol>,
        format: Format,
    ) -> Result<End, ShellError> {
        Ok(End {
            shell: self.shell(&storage.ssh)?,
            peer: storage.peer.clone().unwrap_or_else(|| storage.ssh.clone()),
            path: path.to_owned(),
            zvol,
            format,
            temp: storage.temp.clone(),
        })
    }
}
