//! What happens to a simulated cluster without proxmove: nodes that fail and boot, colleagues who migrate guests, the
//! command line of the HA manager.
//!
//! Tests give orders through [`Orders`], also from within a fault's callback. It never answers requests. Read next:
//! `world/ha.rs`, `api/lrm.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Simulation;
use super::api::migrate::task;
use super::api::server::Server;
use super::api::{lrm, power};
use super::world::migration::Wish;
use super::world::rights::Identity;
use super::world::scenario::ClusterSpec;
use super::world::task::Work;

/// The directory that the programs of nodes write their orders to.
const COMMANDS: &str = "crm_commands";

/// Gives orders to one cluster.
#[derive(Clone)]
pub struct Orders {
    server: Server,
    runtime: tokio::runtime::Handle,
}

impl Simulation {
    /// Returns who gives orders to a cluster; `None` when there is no such cluster.
    pub fn orders(&self, alias: &str) -> Option<Orders> {
        let place = self
            .clusters
            .iter()
            .position(|cluster| cluster.alias == alias)?;
        Some(Orders {
            server: self.server(place, tokio::sync::watch::channel(false).1),
            runtime: self.runtime()?.clone(),
        })
    }
}

impl Orders {
    /// Cuts a node's power: its guests are gone at once, and so are its tasks, which tidy up nothing.
    pub fn cut_power(&self, node: &str) {
        go_down(&self.server, node, Down::Cut);
    }

    /// Boots a node. Guests with `onboot` are started, but for those of HA, which the manager starts.
    pub fn boot(&self, node: &str) {
        for (upid, work) in come_up(&self.server, node) {
            self.run(upid, work);
        }
    }

    /// Has a colleague migrate a guest, live or, for a container, with a restart; returns the task.
    pub fn migrate(&self, user: &str, vmid: u32, target: &str) -> Option<String> {
        let mut world = self.server.lock();
        let cluster = &mut world.clusters[self.server.place];
        let guest = cluster.guests.get(&vmid)?.clone();
        let who = Identity {
            user: user.to_owned(),
            token: None,
        };
        let wish = Wish {
            target: target.to_owned(),
            online: !guest.container,
            with_local_disks: true,
            ..Wish::default()
        };
        let (kind, work) = match guest.container {
            false => ("qmigrate", task::vm_work(guest.node.clone(), vmid, wish)),
            true => (
                "vzmigrate",
                task::container_work(guest.node.clone(), vmid, wish, Some(180)),
            ),
        };
        let upid = cluster.add_task(&guest.node, kind, &vmid.to_string(), &who);
        drop(world);
        self.run(upid.clone(), work);
        Some(upid)
    }

    /// Asks the HA manager for maintenance of a node, or for its end, as the command line of a node does.
    pub fn maintenance(&self, node: &str, enable: bool) {
        let verb = if enable { "enable" } else { "disable" };
        let mut world = self.server.lock();
        let cluster = &mut world.clusters[self.server.place];
        cluster
            .manager
            .commands
            .push(format!("{verb}-node-maintenance {node}"));
    }

    fn run(&self, upid: String, work: Work) {
        let server = self.server.clone();
        self.runtime
            .spawn(async move { server.run_task(upid, work).await });
    }
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders")
            .field("cluster", &self.server.place)
            .finish_non_exhaustive()
    }
}

/// One round of everything that a cluster does by itself. Must be called within the simulation's runtime.
pub(super) fn round(server: &Server) {
    obey_power(server);
    let jobs = {
        let mut world = server.lock();
        let cluster = &mut world.clusters[server.place];
        for command in take_commands(&cluster.directory) {
            match command.strip_prefix("reboot ") {
                Some(node) => {
                    let asked = (node.to_owned(), true, Instant::now());
                    cluster.power_requests.push(asked);
                }
                None => cluster.manager.commands.push(command),
            }
        }
        cluster.manage();
        match cluster.is_quorate() {
            true => lrm::round(cluster),
            false => Vec::new(),
        }
    };
    for (upid, work) in jobs {
        let server = server.clone();
        tokio::spawn(async move { server.run_task(upid, work).await });
    }
}

/// Takes what the programs of nodes queued, in its order: a file for each command, complete as soon as it is there.
fn take_commands(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(COMMANDS));
    let mut files: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let mut commands = Vec::new();
    for (_, file) in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        // One that cannot be removed would be obeyed in every round.
        if std::fs::remove_file(&file).is_ok() {
            commands.extend(text.lines().map(str::to_owned));
        }
    }
    commands
}

/// Puts the programs of a node into a directory: `ha-manager`, as far as the API has no way for it, and `reboot`.
///
/// They write what they are told into the cluster's directory, where it is found in the next round.
pub fn install_programs(
    programs: &Path,
    cluster: &Path,
    spec: &ClusterSpec,
    node: &str,
) -> std::io::Result<()> {
    let queue = cluster.join(COMMANDS);
    std::fs::create_dir_all(&queue)?;
    std::fs::create_dir_all(programs)?;
    let names: Vec<&str> = spec.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut numbers = spec.version.split('.').map(|n| n.parse().unwrap_or(0));
    let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // Maintenance by hand came with 7.4.
    let known = if release >= (7, 4) {
        "crm-command"
    } else {
        "-"
    };
    let (queue, names) = (queue.display(), names.join(" "));
    // A file is complete as soon as it has its name.
    let order =
        format!("order() {{ echo \"$*\" >'{queue}'/.$$ && mv '{queue}'/.$$ '{queue}'/$$; }}\n");
    let ha_manager = format!(
        "#!/bin/sh\n{order}\
         wrong() {{ echo \"ERROR: unknown command 'ha-manager $*'\" >&2; exit 255; }}\n\
         [ \"$1\" = '{known}' ] && [ \"$2\" = node-maintenance ] || wrong \"$@\"\n\
         case \"$3\" in enable|disable) ;; *) wrong \"$@\" ;; esac\n\
         [ $# -eq 4 ] || {{ echo '400 not enough arguments' >&2; exit 255; }}\n\
         case ' {names} ' in *\" $4 \"*) ;; *) echo \"no such cluster node '$4'\" >&2; exit 255 ;; esac\n\
         order \"$3-node-maintenance $4\"\n"
    );
    let reboot = format!("#!/bin/sh\n{order}order 'reboot {node}'\n");
    for (name, script) in [("ha-manager", ha_manager), ("reboot", reboot)] {
        let file = programs.join(name);
        std::fs::write(&file, script)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Has nodes go down that were asked to, and those boot again that were to reboot.
fn obey_power(server: &Server) {
    let (due, pace) = {
        let mut world = server.lock();
        let pace = world.pace.clone();
        let requests = &mut world.clusters[server.place].power_requests;
        let ripe = Duration::from_millis(pace.task);
        let due: Vec<_> = requests
            .extract_if(.., |(_, _, asked)| asked.elapsed() >= ripe)
            .collect();
        (due, pace)
    };
    for (node, reboots, _) in due {
        go_down(
            server,
            &node,
            if reboots { Down::Reboot } else { Down::Off },
        );
        if reboots {
            let server = server.clone();
            let boot = Duration::from_millis(pace.boot);
            tokio::spawn(async move {
                tokio::time::sleep(boot).await;
                for (upid, work) in come_up(&server, &node) {
                    let server = server.clone();
                    tokio::spawn(async move { server.run_task(upid, work).await });
                }
            });
        }
    }
}

/// How a node goes down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    /// Its power is cut.
    Cut,
    /// It shuts down, and stays off.
    Off,
    /// It shuts down and comes back.
    Reboot,
}

/// Takes a node down with its guests; only one whose power is cut does not let them finish what they write.
fn go_down(server: &Server, node: &str, how: Down) {
    let mut world = server.lock();
    let cluster = &mut world.clusters[server.place];
    let stopped: Vec<_> = cluster
        .guests
        .values()
        .filter(|guest| guest.node == node)
        .cloned()
        .collect();
    for guest in stopped {
        if guest.run.is_some() {
            server
                .machine
                .stop(&cluster.running_guest(&guest), how == Down::Cut);
        }
        if let Some(guest) = cluster.guests.get_mut(&guest.vmid) {
            guest.run = None;
            guest.holder = None;
            guest.migrating_to = None;
        }
        cluster.remember(guest.vmid);
    }
    if let Some(node) = cluster.nodes.iter_mut().find(|known| known.name == node) {
        node.online = false;
    }
    // Where there is no SSH host, nobody looks for it.
    let _ = std::fs::write(cluster.power_off_file(node), "");
    // One that reboots is not fenced: its guests of HA wait for it.
    if how == Down::Reboot {
        cluster.manager.resting.insert(node.to_owned());
    }
}

/// Brings a node up; returns the tasks that start its guests.
fn come_up(server: &Server, node: &str) -> Vec<(String, Work)> {
    let mut world = server.lock();
    let cluster = &mut world.clusters[server.place];
    let Some(found) = cluster.nodes.iter_mut().find(|known| known.name == node) else {
        return Vec::new();
    };
    found.online = true;
    let _ = std::fs::remove_file(cluster.power_off_file(node));
    cluster.booted.insert(node.to_owned(), Instant::now());
    cluster.manager.resting.remove(node);
    let onboot: Vec<_> = cluster
        .guests
        .values()
        .filter(|guest| guest.node == node && guest.run.is_none() && !guest.is_template())
        .filter(|guest| guest.config.get("onboot").is_some_and(|value| value == "1"))
        .filter(|guest| cluster.managed(guest.vmid).is_none())
        .map(|guest| (guest.vmid, guest.container))
        .collect();
    let root = Identity {
        user: "root@pam".to_owned(),
        token: None,
    };
    let mut jobs = Vec::new();
    for (vmid, container) in onboot {
        let kind = if container { "vzstart" } else { "qmstart" };
        let upid = cluster.add_task(node, kind, &vmid.to_string(), &root);
        let order = power::Order {
            node: node.to_owned(),
            vmid,
            container,
            ..power::Order::default()
        };
        jobs.push((upid, power::start_work(order)));
    }
    jobs
}
