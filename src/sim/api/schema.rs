//! The table of the API's endpoints: parameters, their types, and who may call them, per release.
//!
//! Written for this project from the published facts; `tests/sim_schema.rs` compares it with Proxmox VE's own schema.
//! It holds values only and never checks anything: read next `check.rs` (the checks) and `config_keys.rs` (the keys
//! of a VM's configuration).

use super::{config_keys, container_keys};

/// A release as major and minor.
pub type Version = (u32, u32);

/// The type of a parameter, in the words of Proxmox VE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number with decimals.
    Number,
    /// 0 or 1.
    Boolean,
}

impl Kind {
    /// Returns the schema's word for the type.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }
}

/// What a text must look like beyond its type.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// No further check.
    Any,
    /// A host name: labels of letters, digits and `-`.
    DnsName,
    /// 100 to 999999999.
    Vmid,
    /// A list of VMIDs.
    VmidList,
    /// A pool's name.
    PoolId,
    /// A name made of a letter, then letters, digits, `-` and `_`.
    ConfigId,
    /// A unicast MAC address.
    MacAddress,
    /// `32G`, `528K`, `131072`.
    DiskSize,
    /// Text with percent-encoded specials.
    UrlEncoded,
    /// A UUID, `0` or `1`.
    GenerationId,
    /// The text of `boot=`.
    Boot,
    /// The text of `smbios1=`.
    Smbios,
    /// The text of `cpu=`.
    Cpu,
    /// Tags in a list.
    Tags,
    /// A volume that is a script.
    Hookscript,
    /// One of some words separated by `-list` separators.
    ContentList,
    /// `1G`, `+5G`, `1024`.
    ResizeSize,
    /// `1G`, `512M`, or KiB.
    AllocSize,
    /// `socket` or a device path.
    Serial,
    /// `/dev/parport0` and the like.
    Parallel,
    /// `/dev/urandom` and its like, by `source=`.
    Rng,
    /// A property string.
    Property(&'static Property),
}

/// The sub-keys of a property string.
#[derive(Debug)]
pub struct Property {
    /// The key a bare first part stands for.
    pub default_key: Option<&'static str>,
    /// The sub-keys.
    pub keys: &'static [Param],
    /// Sub-keys that stand for another: name, what it stands for, and the key that gets the name as its value.
    pub aliases: &'static [(&'static str, &'static str, Option<&'static str>)],
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name; `scsi[n]` stands for `scsi0` and so on.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be left out.
    pub optional: bool,
    /// How many there are of a numbered one.
    pub count: u32,
    /// The first release that knows it.
    pub since: Version,
    /// The smallest value.
    pub least: Option<i64>,
    /// The largest value.
    pub most: Option<i64>,
    /// The longest text.
    pub longest: Option<usize>,
    /// The words allowed.
    pub words: &'static [&'static str],
    /// What it must look like.
    pub format: Format,
}

const fn param(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        optional: true,
        count: 0,
        since: (0, 0),
        least: None,
        most: None,
        longest: None,
        words: &[],
        format: Format::Any,
    }
}

/// Returns an optional text parameter.
pub const fn text(name: &'static str) -> Param {
    param(name, Kind::Text)
}

/// Returns an optional integer parameter.
pub const fn integer(name: &'static str) -> Param {
    param(name, Kind::Integer)
}

/// Returns an optional number parameter.
pub const fn number(name: &'static str) -> Param {
    param(name, Kind::Number)
}

/// Returns an optional boolean parameter.
pub const fn boolean(name: &'static str) -> Param {
    param(name, Kind::Boolean)
}

impl Param {
    /// Makes it required.
    pub const fn required(mut self) -> Param {
        self.optional = false;
        self
    }

    /// Makes it a numbered one, of which there are `count`.
    pub const fn numbered(mut self, count: u32) -> Param {
        self.count = count;
        self
    }

    /// Sets the first release that knows it.
    pub const fn since(mut self, major: u32, minor: u32) -> Param {
        self.since = (major, minor);
        self
    }

    /// Sets the smallest value.
    pub const fn least(mut self, value: i64) -> Param {
        self.least = Some(value);
        self
    }

    /// Sets the largest value.
    pub const fn most(mut self, value: i64) -> Param {
        self.most = Some(value);
        self
    }

    /// Sets the longest text.
    pub const fn longest(mut self, characters: usize) -> Param {
        self.longest = Some(characters);
        self
    }

    /// Sets the words allowed.
    pub const fn words(mut self, words: &'static [&'static str]) -> Param {
        self.words = words;
        self
    }

    /// Sets what it must look like.
    pub const fn format(mut self, format: Format) -> Param {
        self.format = format;
        self
    }

    /// Returns the type in a release: `memory` was an integer up to 8.0.
    pub fn kind_in(&self, version: Version) -> Kind {
        match self.name == "memory" && version < (8, 1) {
            true => Kind::Integer,
            false => self.kind,
        }
    }

    /// Tells whether `key` is this parameter, numbered or not.
    pub fn matches(&self, key: &str) -> bool {
        let Some(stem) = self.name.strip_suffix("[n]") else {
            return self.name == key;
        };
        key.strip_prefix(stem).is_some_and(|digits| {
            let canonical = digits == "0" || !digits.starts_with('0');
            canonical && digits.parse::<u32>().is_ok_and(|n| n < self.count)
        })
    }
}

/// Who may call an endpoint, as far as the path alone decides.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Anybody, also without logging in.
    World,
    /// Everybody who is logged in; the handler looks further.
    User,
    /// Everybody with one of the privileges on the path.
    Any(&'static str, &'static [&'static str]),
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// The method.
    pub method: &'static str,
    /// The path with `{placeholders}`.
    pub path: &'static str,
    /// The first release that has it.
    pub since: Version,
    /// Who may call it.
    pub access: Access,
    /// Its own parameters.
    pub params: &'static [Param],
    /// Whether it takes the keys of a guest's configuration as well.
    pub config: Keys,
}

/// Which keys of a configuration an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// Those of a VM.
    Vm,
    /// Those of a container.
    Container,
}

impl Endpoint {
    /// Returns all parameters a release knows.
    pub fn params_in(&self, version: Version) -> impl Iterator<Item = &'static Param> {
        let config: &'static [Param] = match self.config {
            Keys::Vm => config_keys::KEYS,
            Keys::Container => container_keys::KEYS,
            Keys::None => &[],
        };
        self.params
            .iter()
            .chain(config)
            .filter(move |param| param.since <= version)
    }
}

const fn endpoint(
    method: &'static str,
    path: &'static str,
    access: Access,
    params: &'static [Param],
) -> Endpoint {
    Endpoint {
        method,
        path,
        since: (0, 0),
        access,
        params,
        config: Keys::None,
    }
}

impl Endpoint {
    const fn since(mut self, major: u32, minor: u32) -> Endpoint {
        self.since = (major, minor);
        self
    }

    const fn with_config(mut self) -> Endpoint {
        self.config = Keys::Vm;
        self
    }

    const fn with_container_config(mut self) -> Endpoint {
        self.config = Keys::Container;
        self
    }
}

const NODE: Param = text("node").required();
const VMID: Param = integer("vmid").required().format(Format::Vmid);
const SKIPLOCK: Param = boolean("skiplock");
const TIMEOUT: Param = integer("timeout").least(0);
const POOLID: Param = text("poolid").required().format(Format::PoolId);
const STORAGE: Param = text("storage").required();
const VOLUME: Param = text("volume").required();
const UPID: Param = text("upid").required();
const SNAPNAME: Param = text("snapname")
    .required()
    .longest(40)
    .format(Format::ConfigId);
const VM: &[Param] = &[NODE, VMID];
const SID: Param = text("sid").required();
const MIGRATE_VM: Access = Access::Any("/vms/{vmid}", &["VM.Migrate"]);
const CONSOLE: Access = Access::Any("/", &["Sys.Console"]);
const AUDIT_VM: Access = Access::Any("/vms/{vmid}", &["VM.Audit"]);
/// VM.Monitor up to release 8, which has none of the others; 9 has no VM.Monitor any more.
const ASK_AGENT: Access = Access::Any(
    "/vms/{vmid}",
    &[
        "VM.GuestAgent.Audit",
        "VM.GuestAgent.Unrestricted",
        "VM.Monitor",
    ],
);
const POWER_VM: Access = Access::Any("/vms/{vmid}", &["VM.PowerMgmt"]);
const AUDIT_ROOT: Access = Access::Any("/", &["Sys.Audit"]);
const AUDIT_NODE: Access = Access::Any("/nodes/{node}", &["Sys.Audit"]);
const USE_STORAGE: Access = Access::Any(
    "/storage/{storage}",
    &["Datastore.Audit", "Datastore.AllocateSpace"],
);
const CONFIGURE_VM: Access = Access::Any(
    "/vms/{vmid}",
    &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ],
);
const POOL_CHANGES: &[Param] = &[
    POOLID,
    text("comment"),
    text("vms").format(Format::VmidList),
    text("storage"),
    boolean("delete"),
    boolean("allow-move").since(8, 1),
];
const CONFIG_CHANGES: &[Param] = &[
    NODE,
    VMID,
    SKIPLOCK,
    text("delete"),
    text("revert"),
    boolean("force"),
    text("digest").longest(40),
];
const CONFIG_TASK: &[Param] = &[
    NODE,
    VMID,
    SKIPLOCK,
    text("delete"),
    text("revert"),
    boolean("force"),
    text("digest").longest(40),
    integer("background_delay").least(1).most(30),
    text("import-working-storage").since(8, 3),
];

/// All endpoints the simulated clusters answer.
pub const ENDPOINTS: &[Endpoint] = &[
    endpoint("GET", "/version", Access::User, &[]),
    endpoint(
        "POST",
        "/access/ticket",
        Access::World,
        &[
            text("username").required().longest(64),
            text("password").required(),
            text("realm").longest(32),
            text("otp"),
            text("path").longest(64),
            text("privs").longest(64),
            boolean("new-format").since(7, 1),
            text("tfa-challenge").since(7, 1),
        ],
    ),
    endpoint(
        "GET",
        "/access/permissions",
        Access::User,
        &[text("userid"), text("path")],
    ),
    endpoint("GET", "/access/acl", Access::User, &[]),
    endpoint("GET", "/cluster/status", AUDIT_ROOT, &[]),
    endpoint(
        "GET",
        "/cluster/resources",
        Access::User,
        &[text("type").words(&["vm", "storage", "node", "sdn"])],
    ),
    endpoint(
        "GET",
        "/cluster/nextid",
        Access::User,
        &[integer("vmid").format(Format::Vmid)],
    ),
    endpoint("GET", "/cluster/tasks", Access::User, &[]),
    endpoint("GET", "/cluster/options", Access::User, &[]),
    endpoint("GET", "/cluster/replication", Access::User, &[]),
    endpoint(
        "GET",
        "/nodes/{node}/replication",
        Access::User,
        &[NODE, integer("guest").format(Format::Vmid)],
    ),
    endpoint(
        "GET",
        "/cluster/ha/resources",
        AUDIT_ROOT,
        &[text("type").words(&["ct", "vm"])],
    ),
    endpoint("GET", "/cluster/ha/resources/{sid}", AUDIT_ROOT, &[SID]),
    endpoint(
        "POST",
        "/cluster/ha/resources",
        CONSOLE,
        &[
            SID,
            text("comment").longest(4096),
            boolean("failback").since(9, 0),
            text("group").format(Format::ConfigId),
            integer("max_relocate").least(0),
            integer("max_restart").least(0),
            text("state").words(&["started", "stopped", "enabled", "disabled", "ignored"]),
            text("type").words(&["ct", "vm"]),
        ],
    ),
    endpoint(
        "DELETE",
        "/cluster/ha/resources/{sid}",
        CONSOLE,
        &[SID, boolean("purge").since(9, 1)],
    ),
    endpoint(
        "PUT",
        "/cluster/ha/resources/{sid}",
        CONSOLE,
        &[
            SID,
            text("comment").longest(4096),
            text("delete"),
            text("digest"),
            boolean("failback").since(9, 0),
            text("group").format(Format::ConfigId),
            integer("max_relocate").least(0),
            integer("max_restart").least(0),
            text("state").words(&["started", "stopped", "enabled", "disabled", "ignored"]),
        ],
    ),
    endpoint(
        "POST",
        "/cluster/ha/resources/{sid}/migrate",
        CONSOLE,
        &[SID, text("node").required()],
    ),
    endpoint(
        "POST",
        "/cluster/ha/resources/{sid}/relocate",
        CONSOLE,
        &[SID, text("node").required()],
    ),
    endpoint("GET", "/cluster/ha/groups", AUDIT_ROOT, &[]),
    endpoint(
        "GET",
        "/cluster/ha/rules",
        AUDIT_ROOT,
        &[
            text("type").words(&["node-affinity", "resource-affinity"]),
            text("resource"),
        ],
    )
    .since(9, 0),
    endpoint("GET", "/cluster/ha/status/current", AUDIT_ROOT, &[]),
    endpoint("GET", "/cluster/ha/status/manager_status", AUDIT_ROOT, &[]),
    endpoint("GET", "/nodes", Access::User, &[]),
    endpoint("GET", "/nodes/{node}/status", AUDIT_NODE, &[NODE]),
    endpoint(
        "POST",
        "/nodes/{node}/status",
        Access::Any("/nodes/{node}", &["Sys.PowerMgmt"]),
        &[
            NODE,
            text("command").required().words(&["reboot", "shutdown"]),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/config",
        AUDIT_ROOT,
        &[NODE, text("property")],
    ),
    endpoint(
        "PUT",
        "/nodes/{node}/config",
        Access::Any("/", &["Sys.Modify"]),
        &[
            NODE,
            text("delete"),
            text("description").longest(64 << 10),
            text("digest").longest(40),
        ],
    ),
    endpoint("GET", "/nodes/{node}/version", Access::User, &[NODE]),
    endpoint(
        "GET",
        "/nodes/{node}/network",
        Access::User,
        &[
            NODE,
            text("type").words(&[
                "bridge",
                "bond",
                "eth",
                "alias",
                "vlan",
                "fabric",
                "OVSBridge",
                "OVSBond",
                "OVSPort",
                "OVSIntPort",
                "vnet",
                "any_bridge",
                "any_local_bridge",
                "include_sdn",
            ]),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/capabilities/qemu/machines",
        Access::User,
        &[NODE, text("arch").words(&["x86_64", "aarch64"]).since(9, 1)],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/capabilities/qemu/cpu",
        Access::User,
        &[NODE, text("arch").words(&["x86_64", "aarch64"]).since(9, 1)],
    )
    .since(7, 0),
    endpoint(
        "GET",
        "/nodes/{node}/tasks",
        Access::User,
        &[
            NODE,
            integer("start").least(0),
            integer("limit").least(0),
            text("userfilter"),
            text("typefilter"),
            integer("vmid").format(Format::Vmid),
            boolean("errors"),
            text("source").words(&["archive", "active", "all"]),
            integer("since").since(7, 0),
            integer("until").since(7, 0),
            text("statusfilter").since(7, 0),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/tasks/{upid}/status",
        Access::User,
        &[NODE, UPID],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/tasks/{upid}/log",
        Access::User,
        &[
            NODE,
            UPID,
            integer("start").least(0),
            integer("limit").least(0),
            boolean("download").since(7, 3),
        ],
    ),
    endpoint(
        "DELETE",
        "/nodes/{node}/tasks/{upid}",
        Access::User,
        &[NODE, UPID],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/qemu",
        Access::User,
        &[NODE, boolean("full")],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu",
        Access::User,
        &[
            NODE,
            VMID,
            text("archive").longest(255),
            text("storage"),
            boolean("force"),
            boolean("unique"),
            boolean("live-restore"),
            boolean("start"),
            boolean("ha-managed").since(9, 1),
            text("pool").format(Format::PoolId),
            integer("bwlimit").least(0),
            text("import-working-storage").since(8, 3),
        ],
    )
    .with_config(),
    endpoint(
        "DELETE",
        "/nodes/{node}/qemu/{vmid}",
        Access::Any("/vms/{vmid}", &["VM.Allocate"]),
        &[
            NODE,
            VMID,
            SKIPLOCK,
            boolean("purge"),
            boolean("destroy-unreferenced-disks"),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/qemu/{vmid}/config",
        AUDIT_VM,
        &[
            NODE,
            VMID,
            boolean("current"),
            text("snapshot").longest(40).format(Format::ConfigId),
        ],
    ),
    endpoint(
        "PUT",
        "/nodes/{node}/qemu/{vmid}/config",
        CONFIGURE_VM,
        CONFIG_CHANGES,
    )
    .with_config(),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/config",
        CONFIGURE_VM,
        CONFIG_TASK,
    )
    .with_config(),
    endpoint("GET", "/nodes/{node}/qemu/{vmid}/pending", AUDIT_VM, VM),
    endpoint("GET", "/nodes/{node}/qemu/{vmid}/snapshot", AUDIT_VM, VM),
    endpoint(
        "GET",
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
        Access::Any(
            "/vms/{vmid}",
            &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"],
        ),
        &[NODE, VMID, SNAPNAME],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/snapshot",
        Access::Any("/vms/{vmid}", &["VM.Snapshot"]),
        &[
            NODE,
            VMID,
            SNAPNAME,
            text("description"),
            boolean("vmstate"),
        ],
    ),
    endpoint(
        "DELETE",
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}",
        Access::Any("/vms/{vmid}", &["VM.Snapshot"]),
        &[NODE, VMID, SNAPNAME, boolean("force")],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback",
        Access::Any("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback"]),
        &[NODE, VMID, SNAPNAME, boolean("start").since(7, 4)],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/qemu/{vmid}/migrate",
        MIGRATE_VM,
        &[NODE, VMID, text("target")],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/migrate",
        MIGRATE_VM,
        &[
            NODE,
            VMID,
            text("target").required(),
            boolean("online"),
            boolean("force"),
            text("migration_type").words(&["secure", "insecure"]),
            text("migration_network"),
            boolean("with-local-disks"),
            text("targetstorage"),
            integer("bwlimit").least(0),
            boolean("with-conntrack-state").since(9, 0),
        ],
    ),
    endpoint(
        "PUT",
        "/nodes/{node}/qemu/{vmid}/resize",
        Access::Any("/vms/{vmid}", &["VM.Config.Disk"]),
        &[
            NODE,
            VMID,
            SKIPLOCK,
            text("disk").required(),
            text("size").required().format(Format::ResizeSize),
            text("digest").longest(40),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/qemu/{vmid}/status/current",
        AUDIT_VM,
        VM,
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/start",
        POWER_VM,
        &[
            NODE,
            VMID,
            SKIPLOCK,
            TIMEOUT,
            text("stateuri").longest(128),
            text("migratedfrom"),
            text("migration_type").words(&["secure", "insecure"]),
            text("migration_network"),
            text("machine"),
            text("force-cpu"),
            text("targetstorage"),
            text("nets-host-mtu").since(8, 4),
            boolean("with-conntrack-state").since(9, 0),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/stop",
        POWER_VM,
        &[
            NODE,
            VMID,
            SKIPLOCK,
            TIMEOUT,
            text("migratedfrom"),
            boolean("keepActive"),
            boolean("overrule-shutdown").since(8, 2),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/shutdown",
        POWER_VM,
        &[
            NODE,
            VMID,
            SKIPLOCK,
            TIMEOUT,
            boolean("forceStop"),
            boolean("keepActive"),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/reset",
        POWER_VM,
        &[NODE, VMID, SKIPLOCK],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/suspend",
        Access::Any("/vms/{vmid}", &["VM.PowerMgmt"]),
        &[
            NODE,
            VMID,
            SKIPLOCK,
            boolean("todisk"),
            text("statestorage"),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/resume",
        POWER_VM,
        &[NODE, VMID, SKIPLOCK, boolean("nocheck")],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/reboot",
        POWER_VM,
        &[NODE, VMID, TIMEOUT],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/qemu/{vmid}/agent/ping",
        ASK_AGENT,
        VM,
    ),
    endpoint("GET", "/nodes/{node}/lxc", Access::User, &[NODE]),
    endpoint(
        "GET",
        "/nodes/{node}/lxc/{vmid}/config",
        AUDIT_VM,
        &[
            NODE,
            VMID,
            boolean("current"),
            text("snapshot").longest(40).format(Format::ConfigId),
        ],
    ),
    endpoint(
        "PUT",
        "/nodes/{node}/lxc/{vmid}/config",
        CONFIGURE_VM,
        &[
            NODE,
            VMID,
            text("delete"),
            text("revert"),
            text("digest").longest(40),
        ],
    )
    .with_container_config(),
    endpoint("GET", "/nodes/{node}/lxc/{vmid}/pending", AUDIT_VM, VM),
    endpoint("GET", "/nodes/{node}/lxc/{vmid}/snapshot", AUDIT_VM, VM),
    endpoint(
        "GET",
        "/nodes/{node}/lxc/{vmid}/status/current",
        AUDIT_VM,
        VM,
    ),
    endpoint(
        "POST",
        "/nodes/{node}/lxc/{vmid}/status/start",
        POWER_VM,
        &[NODE, VMID, SKIPLOCK, boolean("debug")],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/lxc/{vmid}/status/stop",
        POWER_VM,
        &[
            NODE,
            VMID,
            SKIPLOCK,
            boolean("overrule-shutdown").since(8, 2),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/lxc/{vmid}/status/shutdown",
        POWER_VM,
        &[NODE, VMID, TIMEOUT, boolean("forceStop")],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/lxc/{vmid}/migrate",
        MIGRATE_VM,
        &[NODE, VMID, text("target")],
    )
    .since(9, 0),
    endpoint(
        "POST",
        "/nodes/{node}/lxc/{vmid}/migrate",
        MIGRATE_VM,
        &[
            NODE,
            VMID,
            text("target").required(),
            boolean("online"),
            boolean("restart"),
            integer("timeout"),
            number("bwlimit").least(0),
            text("target-storage").since(7, 2),
        ],
    ),
    endpoint(
        "GET",
        "/storage",
        Access::User,
        &[text("type").words(&[
            "btrfs",
            "cephfs",
            "cifs",
            "dir",
            "esxi",
            "iscsi",
            "iscsidirect",
            "lvm",
            "lvmthin",
            "nfs",
            "pbs",
            "rbd",
            "zfs",
            "zfspool",
        ])],
    ),
    endpoint(
        "GET",
        "/storage/{storage}",
        Access::Any("/storage/{storage}", &["Datastore.Allocate"]),
        &[STORAGE],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/storage",
        Access::User,
        &[
            NODE,
            text("storage"),
            text("content").format(Format::ContentList),
            boolean("enabled"),
            text("target"),
            boolean("format"),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/storage/{storage}/status",
        USE_STORAGE,
        &[NODE, STORAGE],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/storage/{storage}/content",
        USE_STORAGE,
        &[
            NODE,
            STORAGE,
            text("content").format(Format::ContentList),
            integer("vmid").format(Format::Vmid),
        ],
    ),
    endpoint(
        "POST",
        "/nodes/{node}/storage/{storage}/content",
        Access::Any("/storage/{storage}", &["Datastore.AllocateSpace"]),
        &[
            NODE,
            STORAGE,
            text("filename").required(),
            VMID,
            text("size").required().format(Format::AllocSize),
            text("format").words(&["raw", "qcow2", "subvol", "vmdk"]),
        ],
    ),
    endpoint(
        "GET",
        "/nodes/{node}/storage/{storage}/content/{volume}",
        Access::User,
        &[NODE, text("storage"), VOLUME],
    ),
    endpoint(
        "DELETE",
        "/nodes/{node}/storage/{storage}/content/{volume}",
        Access::User,
        &[
            NODE,
            text("storage"),
            VOLUME,
            integer("delay").least(1).most(30),
        ],
    ),
    endpoint(
        "GET",
        "/pools",
        Access::User,
        &[
            text("poolid").format(Format::PoolId).since(8, 1),
            text("type").words(&["qemu", "lxc", "storage"]).since(8, 1),
        ],
    ),
    endpoint("POST", "/pools", Access::User, &[POOLID, text("comment")]),
    endpoint("PUT", "/pools", Access::User, POOL_CHANGES).since(8, 1),
    endpoint("DELETE", "/pools", Access::User, &[POOLID]).since(8, 1),
    endpoint(
        "GET",
        "/pools/{poolid}",
        Access::Any("/pool/{poolid}", &["Pool.Audit"]),
        &[
            POOLID,
            text("type").words(&["qemu", "lxc", "storage"]).since(7, 0),
        ],
    ),
    endpoint("PUT", "/pools/{poolid}", Access::User, POOL_CHANGES),
    endpoint("DELETE", "/pools/{poolid}", Access::User, &[POOLID]),
];
