//! The keys of a container's configuration: types, limits, and the first release that knows each.
//!
//! Values only. Part of the table in `schema.rs`; the checks are in `check.rs`.

use serde_json::{Value, json};

use super::schema::{Format, Kind, Param, Property, boolean, integer, number, text};

/// What both kinds of mounts know.
macro_rules! mount {
    ($($own:expr),* $(,)?) => {
        Property {
            default_key: Some("volume"),
            keys: &[
                text("volume").required(),
                text("size").format(Format::DiskSize),
                text("mountoptions"),
                boolean("acl"),
                boolean("quota"),
                boolean("replicate"),
                boolean("ro"),
                boolean("shared"),
                $($own),*
            ],
            aliases: &[],
        }
    };
}

static ROOT: Property = mount!();
static MOUNT: Property = mount!(
    text("mp").required(),
    boolean("backup"),
    boolean("keepattrs")
);
static UNUSED: Property = Property {
    default_key: Some("volume"),
    keys: &[text("volume").required()],
    aliases: &[],
};
static FEATURES: Property = Property {
    default_key: None,
    keys: &[
        boolean("force_rw_sys"),
        boolean("fuse"),
        boolean("keyctl"),
        boolean("mknod"),
        text("mount"),
        boolean("nesting"),
    ],
    aliases: &[],
};
static NETWORK: Property = Property {
    default_key: None,
    keys: &[
        text("name").required(),
        text("bridge"),
        boolean("firewall"),
        text("gw"),
        text("gw6"),
        boolean("host-managed").since(9, 1),
        text("hwaddr").format(Format::MacAddress),
        text("ip"),
        text("ip6"),
        boolean("link_down").since(7, 3),
        integer("mtu").least(64).most(65535),
        number("rate"),
        integer("tag").least(1).most(4094),
        text("trunks"),
        text("type").words(&["veth"]),
    ],
    aliases: &[],
};
static DEVICE: Property = Property {
    default_key: Some("path"),
    keys: &[
        text("path"),
        boolean("deny-write"),
        integer("gid").least(0),
        text("mode"),
        integer("uid").least(0),
    ],
    aliases: &[],
};

/// All keys that may be set.
pub const KEYS: &[Param] = &[
    text("arch").words(&["amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"]),
    text("cmode").words(&["shell", "console", "tty"]),
    boolean("console"),
    integer("cores").least(1).most(8192),
    number("cpulimit").least(0).most(8192),
    integer("cpuunits").least(0).most(500_000),
    boolean("debug"),
    text("description").longest(8192),
    text("dev[n]")
        .numbered(256)
        .format(Format::Property(&DEVICE))
        .since(8, 1),
    text("entrypoint").since(9, 1),
    text("env").since(9, 1),
    text("features").format(Format::Property(&FEATURES)),
    text("hookscript").format(Format::Hookscript),
    text("hostname").longest(255).format(Format::DnsName),
    text("lock").words(&[
        "backup",
        "create",
        "destroyed",
        "disk",
        "fstrim",
        "migrate",
        "mounted",
        "rollback",
        "snapshot",
        "snapshot-delete",
    ]),
    integer("memory").least(16),
    text("mp[n]").numbered(256).format(Format::Property(&MOUNT)),
    text("nameserver"),
    text("net[n]")
        .numbered(32)
        .format(Format::Property(&NETWORK)),
    boolean("onboot"),
    text("ostype").words(&[
        "debian",
        "devuan",
        "ubuntu",
        "centos",
        "fedora",
        "opensuse",
        "archlinux",
        "alpine",
        "gentoo",
        "nixos",
        "unmanaged",
    ]),
    boolean("protection"),
    text("rootfs").format(Format::Property(&ROOT)),
    text("searchdomain"),
    text("startup"),
    integer("swap").least(0),
    text("tags").format(Format::Tags),
    boolean("template"),
    text("timezone"),
    integer("tty").least(0).most(6),
    boolean("unprivileged"),
    text("unused[n]")
        .numbered(256)
        .format(Format::Property(&UNUSED)),
];

/// Tells whether there is such a key.
pub fn exists(key: &str) -> bool {
    KEYS.iter().any(|param| param.matches(key))
}

/// Returns a value as the API shows it: numbers and truth as numbers.
pub fn shown(key: &str, value: &str) -> Value {
    let kind = KEYS
        .iter()
        .find(|param| param.matches(key))
        .map(|param| param.kind);
    match (kind, value.parse::<i64>()) {
        (Some(Kind::Integer | Kind::Boolean), Ok(number)) => json!(number),
        _ => json!(value),
    }
}
