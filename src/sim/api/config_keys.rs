//! The keys of a VM's configuration: types, limits, sub-keys, and the first release that knows each.
//!
//! Values only. Part of the table in `schema.rs`; the checks are in `check.rs`.

use super::schema::{Format, Param, Property, boolean, integer, number, text};

const FORMATS: &[&str] = &["raw", "qcow", "qed", "qcow2", "vmdk", "cloop"];

/// The sub-keys every disk knows, then those of its bus.
macro_rules! drive {
    ($($own:expr),* $(,)?) => {
        Property {
            default_key: Some("file"),
            keys: &[
                text("file").required(),
                text("media").words(&["cdrom", "disk"]),
                text("size").format(Format::DiskSize),
                text("format").words(FORMATS),
                text("cache").words(&["none", "writethrough", "writeback", "unsafe", "directsync"]),
                text("aio").words(&["native", "threads", "io_uring"]),
                text("discard").words(&["ignore", "on"]),
                text("rerror").words(&["ignore", "report", "stop"]),
                text("werror").words(&["enospc", "ignore", "report", "stop"]),
                text("serial").format(Format::UrlEncoded),
                text("import-from").since(7, 2),
                boolean("backup"),
                boolean("replicate"),
                boolean("snapshot"),
                boolean("shared"),
                boolean("detect_zeroes"),
                integer("bps"), integer("bps_rd"), integer("bps_wr"),
                integer("bps_max_length"), integer("bps_rd_max_length"), integer("bps_wr_max_length"),
                integer("iops"), integer("iops_rd"), integer("iops_wr"),
                integer("iops_max"), integer("iops_rd_max"), integer("iops_wr_max"),
                integer("iops_max_length"), integer("iops_rd_max_length"), integer("iops_wr_max_length"),
                number("mbps"), number("mbps_rd"), number("mbps_wr"),
                number("mbps_max"), number("mbps_rd_max"), number("mbps_wr_max"),
                $($own),*
            ],
            aliases: &[
                ("volume", "file", None),
                ("bps_rd_length", "bps_rd_max_length", None),
                ("bps_wr_length", "bps_wr_max_length", None),
                ("iops_rd_length", "iops_rd_max_length", None),
                ("iops_wr_length", "iops_wr_max_length", None),
            ],
        }
    };
}

static IDE: Property = drive!(
    text("model").format(Format::UrlEncoded),
    boolean("ssd"),
    text("wwn"),
);
static SATA: Property = drive!(boolean("ssd"), text("wwn"));
static SCSI: Property = drive!(
    boolean("ssd"),
    text("wwn"),
    boolean("iothread"),
    boolean("ro").since(7, 0),
    boolean("scsiblock"),
    integer("queues").least(2),
    text("product").since(8, 2),
    text("vendor").since(8, 2),
);
static VIRTIO: Property = drive!(boolean("iothread"), boolean("ro").since(7, 0));

static EFIDISK: Property = Property {
    default_key: Some("file"),
    keys: &[
        text("file").required(),
        text("size").format(Format::DiskSize),
        text("format").words(FORMATS),
        text("efitype").words(&["2m", "4m"]).since(7, 1),
        boolean("pre-enrolled-keys").since(7, 1),
        text("import-from").since(7, 2),
        text("ms-cert")
            .words(&["2011", "2023", "2023w", "2023k"])
            .since(8, 4),
    ],
    aliases: &[("volume", "file", None)],
};
static TPMSTATE: Property = Property {
    default_key: Some("file"),
    keys: &[
        text("file").required(),
        text("size").format(Format::DiskSize),
        text("version").words(&["v1.2", "v2.0"]),
        text("import-from").since(7, 2),
        text("format").words(&["raw", "qcow2", "vmdk"]).since(9, 0),
    ],
    aliases: &[("volume", "file", None)],
};
static UNUSED: Property = Property {
    default_key: Some("file"),
    keys: &[text("file").required()],
    aliases: &[("volume", "file", None)],
};

/// The models of network cards.
pub const NET_MODELS: &[&str] = &[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];
static NET: Property = Property {
    default_key: Some("model"),
    keys: &[
        text("model").required().words(NET_MODELS),
        text("macaddr").format(Format::MacAddress),
        text("bridge"),
        integer("queues").least(0).most(64),
        number("rate").least(0),
        integer("tag").least(1).most(4094),
        text("trunks"),
        boolean("firewall"),
        boolean("link_down"),
        integer("mtu").least(1).most(65520),
    ],
    aliases: &[
        ("e1000", "macaddr", Some("model")),
        ("e1000-82540em", "macaddr", Some("model")),
        ("e1000-82544gc", "macaddr", Some("model")),
        ("e1000-82545em", "macaddr", Some("model")),
        ("e1000e", "macaddr", Some("model")),
        ("i82551", "macaddr", Some("model")),
        ("i82557b", "macaddr", Some("model")),
        ("i82559er", "macaddr", Some("model")),
        ("ne2k_isa", "macaddr", Some("model")),
        ("ne2k_pci", "macaddr", Some("model")),
        ("pcnet", "macaddr", Some("model")),
        ("rtl8139", "macaddr", Some("model")),
        ("virtio", "macaddr", Some("model")),
        ("vmxnet3", "macaddr", Some("model")),
    ],
};

static AGENT: Property = Property {
    default_key: Some("enabled"),
    keys: &[
        boolean("enabled").required(),
        boolean("fstrim_cloned_disks"),
        boolean("freeze-fs").since(9, 1),
        text("type").words(&["virtio", "isa"]),
    ],
    aliases: &[
        ("freeze-fs-on-backup", "freeze-fs", None),
        ("guest-fsfreeze", "freeze-fs", None),
    ],
};
static MEMORY: Property = Property {
    default_key: Some("current"),
    keys: &[integer("current").required().least(16)],
    aliases: &[],
};
static MACHINE: Property = Property {
    default_key: Some("type"),
    keys: &[
        text("type").longest(40),
        text("viommu").words(&["intel", "virtio"]).since(8, 2),
        boolean("enable-s3").since(8, 4),
        boolean("enable-s4").since(8, 4),
        number("aw-bits").least(32).most(64).since(9, 0),
    ],
    aliases: &[],
};
static VGA: Property = Property {
    default_key: Some("type"),
    keys: &[
        text("type").words(&[
            "cirrus",
            "qxl",
            "qxl2",
            "qxl3",
            "qxl4",
            "none",
            "serial0",
            "serial1",
            "serial2",
            "serial3",
            "std",
            "virtio",
            "virtio-gl",
            "vmware",
        ]),
        integer("memory").least(4).most(512),
        text("clipboard").words(&["vnc"]).since(8, 1),
    ],
    aliases: &[],
};
static AUDIO: Property = Property {
    default_key: None,
    keys: &[
        text("device")
            .required()
            .words(&["ich9-intel-hda", "intel-hda", "AC97"]),
        text("driver").words(&["spice", "none"]),
    ],
    aliases: &[],
};
static USB: Property = Property {
    default_key: Some("host"),
    keys: &[text("host"), text("mapping").since(8, 0), boolean("usb3")],
    aliases: &[],
};

/// The options every release shows in its list of drives.
pub const OS_TYPES: &[&str] = &[
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24",
    "l26", "solaris",
];

/// All keys that may be set; those the server writes itself (`meta`, `digest`, `parent` ...) are not among them.
pub const KEYS: &[Param] = &[
    boolean("acpi"),
    text("affinity").since(7, 3),
    text("agent").format(Format::Property(&AGENT)),
    boolean("allow-ksm").since(9, 1),
    text("amd-sev").since(8, 3),
    text("arch").words(&["x86_64", "aarch64"]),
    text("args"),
    text("audio0").format(Format::Property(&AUDIO)),
    boolean("autostart"),
    integer("balloon").least(0),
    text("bios").words(&["seabios", "ovmf"]),
    text("boot").format(Format::Boot),
    text("bootdisk"),
    text("cdrom").format(Format::Property(&IDE)),
    text("cicustom"),
    text("cipassword"),
    text("citype").words(&["configdrive2", "nocloud", "opennebula"]),
    boolean("ciupgrade").since(8, 0),
    text("ciuser"),
    integer("cores").least(1),
    text("cpu").format(Format::Cpu),
    number("cpulimit").least(0).most(128),
    integer("cpuunits").least(1).most(262_144),
    text("description").longest(8192),
    text("efidisk0").format(Format::Property(&EFIDISK)),
    boolean("freeze"),
    text("hookscript").format(Format::Hookscript),
    text("hostpci[n]").numbered(16),
    text("hotplug"),
    text("hugepages").words(&["any", "2", "1024"]),
    text("ide[n]").numbered(4).format(Format::Property(&IDE)),
    text("intel-tdx").since(9, 1),
    text("ipconfig[n]").numbered(32),
    text("ivshmem"),
    boolean("keephugepages"),
    text("keyboard").words(&[
        "de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu",
        "is", "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr",
    ]),
    boolean("kvm"),
    boolean("localtime"),
    text("lock").words(&[
        "backup",
        "clone",
        "create",
        "migrate",
        "rollback",
        "snapshot",
        "snapshot-delete",
        "suspending",
        "suspended",
    ]),
    text("machine").format(Format::Property(&MACHINE)),
    text("memory").format(Format::Property(&MEMORY)),
    number("migrate_downtime").least(0),
    integer("migrate_speed").least(0),
    text("name").format(Format::DnsName),
    text("nameserver"),
    text("net[n]").numbered(32).format(Format::Property(&NET)),
    boolean("numa"),
    text("numa[n]").numbered(8),
    boolean("onboot"),
    text("ostype").words(OS_TYPES),
    text("parallel[n]").numbered(3).format(Format::Parallel),
    boolean("protection"),
    boolean("reboot"),
    text("rng0").format(Format::Rng),
    text("sata[n]").numbered(6).format(Format::Property(&SATA)),
    text("scsi[n]").numbered(31).format(Format::Property(&SCSI)),
    text("scsihw").words(&[
        "lsi",
        "lsi53c810",
        "virtio-scsi-pci",
        "virtio-scsi-single",
        "megasas",
        "pvscsi",
    ]),
    text("searchdomain"),
    text("serial[n]").numbered(4).format(Format::Serial),
    integer("shares").least(0).most(50_000),
    text("smbios1").longest(512).format(Format::Smbios),
    integer("smp").least(1),
    integer("sockets").least(1),
    text("spice_enhancements"),
    text("sshkeys").format(Format::UrlEncoded),
    text("startdate"),
    text("startup"),
    boolean("tablet"),
    text("tags").format(Format::Tags),
    boolean("tdf"),
    boolean("template"),
    text("tpmstate0")
        .since(7, 1)
        .format(Format::Property(&TPMSTATE)),
    text("unused[n]")
        .numbered(256)
        .format(Format::Property(&UNUSED)),
    text("usb[n]").numbered(14).format(Format::Property(&USB)),
    integer("vcpus").least(1),
    text("vga").format(Format::Property(&VGA)),
    text("virtio[n]")
        .numbered(16)
        .format(Format::Property(&VIRTIO)),
    text("virtiofs[n]").numbered(10).since(8, 4),
    text("vmgenid").format(Format::GenerationId),
    text("vmstatestorage"),
    text("watchdog"),
];

/// Returns the table's entry for a key of a configuration.
pub fn key(name: &str) -> Option<&'static Param> {
    KEYS.iter().find(|param| param.matches(name))
}
