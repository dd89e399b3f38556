//! Which function carries out which endpoint.

use super::{Call, Refusal, Reply};
use super::{
    access, agent, cluster, configure, containers, create, destroy, guests, ha, migrate, nodes,
    pools, power, preconditions, snapshots, storage, tasks,
};

type Handler = fn(&mut Call<'_>) -> Reply;

/// Returns the function of an endpoint in the table.
pub(super) fn handler(method: &str, path: &str) -> Handler {
    find(method, path).unwrap_or(missing)
}

/// Tells whether an endpoint has a function.
#[cfg(test)]
pub(super) fn known(method: &str, path: &str) -> bool {
    find(method, path).is_some()
}

fn missing(_call: &mut Call<'_>) -> Reply {
    Err(Refusal::died("this endpoint is not simulated"))
}

fn find(method: &str, path: &str) -> Option<Handler> {
    let handler: Handler = match (method, path) {
        ("GET", "/version" | "/nodes/{node}/version") => cluster::version,
        ("POST", "/access/ticket") => access::login,
        ("GET", "/access/permissions") => access::permissions,
        ("GET", "/access/acl") => access::acl,
        ("GET", "/cluster/status") => cluster::status,
        ("GET", "/cluster/resources") => cluster::resources,
        ("GET", "/cluster/nextid") => cluster::next_id,
        ("GET", "/cluster/options") => cluster::options,
        ("GET", "/cluster/replication") => cluster::replication,
        ("GET", "/nodes/{node}/replication") => cluster::replication_states,
        ("GET", "/cluster/ha/resources") => ha::resources,
        ("GET", "/cluster/ha/resources/{sid}") => ha::show,
        ("PUT", "/cluster/ha/resources/{sid}") => ha::change,
        ("POST", "/cluster/ha/resources") => ha::create,
        ("DELETE", "/cluster/ha/resources/{sid}") => ha::remove,
        ("POST", "/cluster/ha/resources/{sid}/migrate") => ha::migrate,
        ("POST", "/cluster/ha/resources/{sid}/relocate") => ha::relocate,
        ("GET", "/cluster/ha/groups") => ha::groups,
        ("GET", "/cluster/ha/rules") => ha::rules,
        ("GET", "/cluster/ha/status/current") => ha::current,
        ("GET", "/cluster/ha/status/manager_status") => ha::manager,
        ("GET", "/cluster/tasks") => tasks::of_cluster,
        ("GET", "/nodes") => nodes::list,
        ("GET", "/nodes/{node}/status") => nodes::status,
        ("POST", "/nodes/{node}/status") => nodes::command,
        ("GET", "/nodes/{node}/config") => nodes::config,
        ("PUT", "/nodes/{node}/config") => nodes::configure,
        ("GET", "/nodes/{node}/network") => nodes::network,
        ("GET", "/nodes/{node}/capabilities/qemu/machines") => nodes::machines,
        ("GET", "/nodes/{node}/capabilities/qemu/cpu") => nodes::cpus,
        ("GET", "/nodes/{node}/tasks") => tasks::of_node,
        ("GET", "/nodes/{node}/tasks/{upid}/status") => tasks::status,
        ("GET", "/nodes/{node}/tasks/{upid}/log") => tasks::log,
        ("DELETE", "/nodes/{node}/tasks/{upid}") => tasks::stop,
        ("GET", "/nodes/{node}/qemu") => guests::list_vms,
        ("GET", "/nodes/{node}/lxc") => guests::list_containers,
        ("POST", "/nodes/{node}/qemu") => create::create,
        ("DELETE", "/nodes/{node}/qemu/{vmid}") => destroy::destroy,
        ("GET", "/nodes/{node}/qemu/{vmid}/config") => guests::config,
        ("PUT", "/nodes/{node}/qemu/{vmid}/config") => configure::change,
        ("POST", "/nodes/{node}/qemu/{vmid}/config") => configure::change_by_task,
        ("GET", "/nodes/{node}/qemu/{vmid}/pending") => guests::pending,
        ("GET", "/nodes/{node}/qemu/{vmid}/snapshot") => guests::snapshots,
        ("GET", "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config") => guests::snapshot_config,
        ("POST", "/nodes/{node}/qemu/{vmid}/snapshot") => snapshots::take,
        ("DELETE", "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}") => snapshots::delete,
        ("POST", "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback") => snapshots::rollback,
        ("GET", "/nodes/{node}/qemu/{vmid}/migrate") => preconditions::of_vm,
        ("POST", "/nodes/{node}/qemu/{vmid}/migrate") => migrate::vm,
        ("PUT", "/nodes/{node}/qemu/{vmid}/resize") => configure::resize,
        ("GET", "/nodes/{node}/qemu/{vmid}/status/current") => guests::current,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/start") => power::start,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/stop") => power::stop,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown") => power::shutdown,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/reset") => power::reset,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/suspend") => power::suspend,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/resume") => power::resume,
        ("POST", "/nodes/{node}/qemu/{vmid}/status/reboot") => power::reboot,
        ("POST", "/nodes/{node}/qemu/{vmid}/agent/ping") => agent::ping,
        ("GET", "/nodes/{node}/lxc/{vmid}/config") => containers::config,
        ("PUT", "/nodes/{node}/lxc/{vmid}/config") => containers::change,
        ("GET", "/nodes/{node}/lxc/{vmid}/pending") => containers::pending,
        ("GET", "/nodes/{node}/lxc/{vmid}/snapshot") => containers::snapshots,
        ("GET", "/nodes/{node}/lxc/{vmid}/status/current") => containers::current,
        ("POST", "/nodes/{node}/lxc/{vmid}/status/start") => containers::start,
        ("POST", "/nodes/{node}/lxc/{vmid}/status/stop") => containers::stop,
        ("POST", "/nodes/{node}/lxc/{vmid}/status/shutdown") => containers::shutdown,
        ("GET", "/nodes/{node}/lxc/{vmid}/migrate") => preconditions::of_container,
        ("POST", "/nodes/{node}/lxc/{vmid}/migrate") => migrate::container,
        ("GET", "/storage") => storage::configs,
        ("GET", "/storage/{storage}") => storage::config,
        ("GET", "/nodes/{node}/storage") => storage::of_node,
        ("GET", "/nodes/{node}/storage/{storage}/status") => storage::status,
        ("GET", "/nodes/{node}/storage/{storage}/content") => storage::content,
        ("POST", "/nodes/{node}/storage/{storage}/content") => storage::allocate,
        ("GET", "/nodes/{node}/storage/{storage}/content/{volume}") => storage::volume,
        ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}") => storage::free,
        ("GET", "/pools") => pools::list,
        ("POST", "/pools") => pools::create,
        ("PUT", "/pools" | "/pools/{poolid}") => pools::change,
        ("DELETE", "/pools" | "/pools/{poolid}") => pools::delete,
        ("GET", "/pools/{poolid}") => pools::show,
        _ => return None,
    };
    Some(handler)
}
