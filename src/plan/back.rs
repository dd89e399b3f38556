//! The way back: a guest goes to its own former self, whose volumes are overwritten with what differs.
//!
//! Pure. A retired source, `web1--MIGRATED`, is kept as a way back, and nothing changes it until somebody asks for exactly
//! that (`proxmove back`). Then it becomes the placeholder of an ordinary move: same rungs, same mark, which also says
//! which volumes were there before. It takes over the guest's present configuration; its drives are taken out of their
//! slots, so that it cannot be started half written, and put back when their data is equal. Neither it nor its volumes are
//! ever removed. Read next: `check/former.rs`, `state.rs`; `moves/back.rs` finds it.

use std::collections::{BTreeMap, BTreeSet};

use super::mark::{Mark, retired_note, with_given_up_note};
use super::{DriveAction, DrivePlan, GuestPlan, Verdict};
use crate::pve::drive::{Bus, Drive, DriveKey};
use crate::pve::guest::{GuestConfig, GuestDetail};
use crate::pve::id::Volid;
use crate::transfer::Kept;
use crate::units::Bytes;

/// What becomes of a guest's former self.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Back {
    /// The drives whose volumes were there before.
    pub kept: BTreeSet<DriveKey>,
    /// The keys taken out of its configuration when it becomes the placeholder; volumes of drives stay, as `unusedN`.
    pub delete: Vec<String>,
    /// Whether it is protected, which forbids that.
    pub protected: bool,
    /// Its notes, with the one about its retirement.
    pub notes: String,
    /// Volumes of it that have no drive any more.
    pub left: Vec<String>,
    /// When it was retired, by its mover's clock.
    pub since: Option<i64>,
}

impl Back {
    /// Returns what becomes of a former self; without one, because the move began earlier, only what is kept. `keys` are those
    /// of the guest's present configuration.
    pub fn of(
        kept: &BTreeSet<DriveKey>,
        drives: &[DrivePlan],
        former: Option<&GuestDetail>,
        keys: &BTreeMap<String, String>,
    ) -> Back {
        let Some(former) = former else {
            return Back {
                kept: kept.clone(),
                ..Back::default()
            };
        };
        let used: BTreeSet<DriveKey> = drives
            .iter()
            .filter(|drive| matches!(&drive.action, DriveAction::Copy(volume) if volume.kept))
            .map(|drive| drive.key)
            .collect();
        let (there, _) = former.config.drives();
        let left = there
            .iter()
            .filter(|drive| kept.contains(&drive.key) && !used.contains(&drive.key))
            .filter_map(|drive| Some(format!("{} ({})", drive.key, drive.volume()?)))
            .collect();
        Back {
            kept: used,
            delete: deleted(&former.config, keys),
            protected: former.config.value("protection") == Some("1"),
            notes: former.description().to_owned(),
            left,
            since: match given_up(former) {
                Some(_) => None,
                None => retired_note(former.description()).and_then(|note| note.since),
            },
        }
    }
}

/// Returns the drives of a former self whose volumes can be written on.
///
/// One that was the placeholder of a way back that was given up has its volumes as `unusedN`, and the mark says whose.
pub fn reusable(former: &GuestDetail) -> BTreeMap<DriveKey, Volid> {
    let (drives, _) = former.config.drives();
    let is_unused = |volid: &Volid| {
        let unused = |drive: &&Drive| drive.key.bus == Bus::Unused && drive.volume() == Some(volid);
        drives.iter().any(|drive| unused(&drive))
    };
    let given_up = given_up(former).into_iter().flat_map(|mark| {
        let kept = mark.kept.unwrap_or_default();
        let volumes = mark.volumes.into_iter();
        volumes.filter(move |(drive, _)| kept.contains(drive))
    });
    let attached = drives
        .iter()
        .filter(|drive| drive.key.bus != Bus::Unused && !drive.is_cdrom())
        .filter_map(|drive| Some((drive.key, drive.volume()?.clone())));
    given_up
        .filter(|(_, volid)| is_unused(volid))
        .chain(attached)
        .collect()
}

/// Returns the notes of a former self, the way back to which is given up.
///
/// The mark stays in them, since it alone says whose its unused volumes are; nobody works on that move any more. `notes` are
/// those it has as the placeholder.
pub fn shelved(notes: &str, mark: &Mark) -> String {
    let marked = Mark {
        claim: None,
        order: None,
        ha: None,
        returning: false,
        ..mark.clone()
    }
    .replaced_in(notes);
    let place = format!("{}/{}", mark.source_cluster, mark.source.vmid);
    let noted = with_given_up_note(&marked, &place);
    // Too long for a note: the older one has to do, by which it is found as well.
    match retired_note(&noted) {
        Some(_) => noted,
        None => marked,
    }
}

/// Returns the mark of an earlier way back that was given up.
fn given_up(former: &GuestDetail) -> Option<Mark> {
    Mark::parse(former.description()).filter(|mark| mark.kept.is_some())
}

/// Returns the keys of a former self that the guest's present configuration does not have, and all its drives.
///
/// A cloud-init drive stays, since taking it out destroys its volume.
fn deleted(former: &GuestConfig, keys: &BTreeMap<String, String>) -> Vec<String> {
    let (drives, _) = former.drives();
    let goes = |drive: &&Drive| drive.key.bus != Bus::Unused && !drive.is_cloudinit();
    let drives = drives.iter().filter(goes);
    let mut deleted = obsolete(former, keys);
    deleted.extend(drives.map(|drive| drive.key.to_string()));
    deleted
}

/// Returns the keys of a target that the guest's present configuration does not have, drives apart.
///
/// What Proxmox VE or the move itself put there stays. The boot order follows the drives by itself.
pub fn obsolete(target: &GuestConfig, keys: &BTreeMap<String, String>) -> Vec<String> {
    const STAY: [&str; 12] = [
        "name",
        "description",
        "onboot",
        "digest",
        "meta",
        "smbios1",
        "vmgenid",
        "parent",
        "lock",
        "boot",
        "bootdisk",
        "template",
    ];
    let goes = |key: &&String| {
        let is_drive = key.parse::<DriveKey>().is_ok();
        !is_drive && !STAY.contains(&key.as_str()) && !keys.contains_key(*key)
    };
    target.0.keys().filter(goes).cloned().collect()
}

/// What the look at a kept volume means for the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// What speaks against it.
    pub verdict: Option<Verdict>,
    /// Bytes that changed on the other side since, when that is known.
    pub changed: Option<Bytes>,
    /// What to tell the plan's reader.
    pub because: String,
}

/// A file written so many seconds after its guest was retired was written to by somebody: the last writes of the guest
/// come before its shutdown is over, but two clocks and a file server's third one never agree fully.
const SLACK: i64 = 5;

/// Judges a kept volume. `now` is the time by the clock of this machine, in seconds since 1970.
pub fn judge(plan: &GuestPlan, drive: DriveKey, kept: &Kept, now: i64) -> Judged {
    let (name, place) = (&plan.name, &plan.target);
    let guest = format!(
        "{name}{} on {} ({})",
        super::mark::MIGRATED,
        plan.target_cluster,
        place.vmid
    );
    let instead = format!(
        "look at what it holds; to leave it alone and copy everything to a new guest: proxmove {} {} {} STORAGE {name}",
        plan.source_cluster, plan.target_cluster, place.node
    );
    let refuse = |code, reason: String| Judged {
        verdict: Some(Verdict::refuse(name, code, reason, instead.clone())),
        ..Judged::default()
    };
    match kept {
        Kept::Base { snapshot, changed } => Judged {
            verdict: None,
            changed: Some(*changed),
            because: format!("both sides have @{snapshot}, and {changed} were written since"),
        },
        Kept::File {
            written,
            now: theirs,
        } => {
            let Some(since) = plan.back.as_ref().and_then(|back| back.since) else {
                return Judged {
                    verdict: Some(untold(name, drive, &guest)),
                    ..chunks()
                };
            };
            let after = written + (now - theirs) - since;
            if after > SLACK {
                refuse(
                    "former-written",
                    format!(
                        "{drive}: the volume of {guest} was written to {after} s after that guest was retired; \
                         somebody used it meanwhile"
                    ),
                )
            } else {
                chunks()
            }
        }
        Kept::Untold => Judged {
            verdict: Some(untold(name, drive, &guest)),
            ..chunks()
        },
        Kept::Missing => refuse(
            "former-volume-missing",
            format!("{drive}: the volume of {guest} is not there any more"),
        ),
        Kept::Unfit { evidence } => refuse(
            "former-diverged",
            format!("{drive}: the volume of {guest} cannot be gone back to: {evidence}"),
        ),
    }
}

fn chunks() -> Judged {
    Judged {
        because: "what the volume has already is compared and not sent".to_owned(),
        ..Judged::default()
    }
}

fn untold(name: &str, drive: DriveKey, guest: &str) -> Verdict {
    Verdict::warn(
        name,
        "former-untold",
        format!(
            "{drive}: nothing tells whether the volume of {guest} was used since that guest was retired"
        ),
        "if somebody started it meanwhile, what was written then will be overwritten",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::mark::with_retired_note;
    use crate::plan::sample::{World, id};
    use crate::pve::guest::{GuestSnapshot, LONGEST_DESCRIPTION, Power};

    fn detail(config: &str) -> GuestDetail {
        World::of(config).guest().detail.clone()
    }

    #[test]
    fn a_former_self_loses_its_drives_and_what_the_guest_no_longer_has() {
        let former = detail(
            "boot: order=scsi0;net0\nname: web1--MIGRATED\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\n\
             args: -cpu host\nprotection: 1\nscsi0: data:565/vm-565-disk-0.qcow2,size=1G\n\
             scsi1: data:565/vm-565-disk-1.raw,size=1G\nide2: data:iso/x.iso,media=cdrom\n\
             ide0: data:565/vm-565-cloudinit.qcow2,media=cdrom\nunused0: data:565/vm-565-disk-7.raw\n\
             description: mine\\n\\nproxmove: moved to banana/126 on node2 on 2026-01-02 03:04:05 UTC; kept as a way back",
        );
        let kept: BTreeSet<DriveKey> = ["scsi0", "scsi1"].into_iter().map(id).collect();
        let keys: BTreeMap<String, String> =
            [("net0", "virtio"), ("ostype", "l26"), ("protection", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let back = Back::of(&kept, &[], Some(&former), &keys);
        assert_eq!(back.delete, ["args", "ide2", "scsi0", "scsi1"]);
        assert!(back.protected);
        assert_eq!(back.left.len(), 2, "{:?}", back.left);
        let begun = Back::of(&kept, &[], None, &keys);
        assert_eq!((begun.kept, begun.delete), (kept, Vec::new()));
        let volumes = |former: &GuestDetail| -> Vec<String> {
            let found = reusable(former).into_iter();
            found.map(|(key, volid)| format!("{key} {volid}")).collect()
        };
        let both = [
            "scsi0 data:565/vm-565-disk-0.qcow2",
            "scsi1 data:565/vm-565-disk-1.raw",
        ];
        assert_eq!(volumes(&former), both);

        // A way back that was given up: its volumes are unused, and the mark says whose they are. One was attached again.
        let mark = Mark {
            kept: Some(["scsi0", "scsi1"].into_iter().map(id).collect()),
            volumes: reusable(&former),
            ..World::new_mark()
        };
        let mut given_up = detail(
            "name: web1--MIGRATED\nunused0: data:565/vm-565-disk-0.qcow2\nunused1: data:565/vm-565-disk-9.raw\n\
             scsi1: data:565/vm-565-disk-1.raw,size=1G",
        );
        let notes = mark.over(former.description());
        given_up.config.0.insert("description".to_owned(), notes);
        assert_eq!(volumes(&given_up), both);
        let back = Back::of(&BTreeSet::new(), &[], Some(&given_up), &keys);
        // What was written to its files since was written by that way back.
        assert_eq!(back.since, None);
    }

    #[test]
    fn a_former_self_that_was_shelved_is_found_and_nothing_proves_what_it_holds() {
        let mut world = World::new();
        world.began(&[]);
        let mark = Mark {
            kept: Some(BTreeSet::from([id("virtio0")])),
            returning: true,
            ..world.existing.remove("web1").expect("web1").mark
        };
        let retired = |own: &str| {
            let since = "2026-01-02 03:04:05 UTC";
            mark.over(&with_retired_note(
                own,
                "apple/565 on node1",
                since,
                Some("0a1b2c3d"),
            ))
        };
        // Nothing but the older note has room.
        let bare = Mark {
            claim: None,
            order: None,
            ..mark.clone()
        };
        let mut full = format!("{}\n\nproxmove: moved to apple/565\n", bare.render());
        full.extend(std::iter::repeat_n('x', LONGEST_DESCRIPTION - full.len()));
        for (notes, own, fits) in [
            (retired(""), "", true),
            (retired("mine\nand more"), "mine\nand more", true),
            (mark.over(""), "", true),
            (full, "xxx", false),
        ] {
            let shelved = shelved(&notes, &mark);
            assert!(shelved.len() <= LONGEST_DESCRIPTION && shelved.contains(own));
            assert_eq!(shelved.contains("partly overwritten"), fits, "{shelved}");
            let mut former = detail("name: web1--MIGRATED");
            let description = "description".to_owned();
            former.config.0.insert(description, shelved.clone());
            let found = given_up(&former).expect("its mark");
            assert_eq!((&found.kept, &found.volumes), (&mark.kept, &mark.volumes));
            assert_eq!(
                (found.claim, found.order, found.returning),
                (None, None, false)
            );
            let place = retired_note(&shelved).map(|note| (note.cluster, note.vmid));
            assert_eq!(place, Some((id("apple"), id("565"))), "{shelved}");
            let back = Back::of(&BTreeSet::new(), &[], Some(&former), &BTreeMap::new());
            assert_eq!(back.since, None);
            // Given up once more, it is as it was.
            assert_eq!(super::shelved(&shelved, &mark), shelved);
        }
    }

    #[test]
    fn a_guest_goes_back_to_its_old_number_and_volumes_and_new_drives_are_added() {
        let mut world = World::of(
            "boot: order=virtio0;net0\nname: web1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\n\
             virtio0: san:565/vm-565-disk-0.qcow2,size=50G\nvirtio1: san:565/vm-565-disk-1.qcow2,size=50G",
        );
        world.goes_back(&[
            ("virtio0", "ssd:140/vm-140-disk-0.qcow2"),
            ("scsi7", "ssd:140/vm-140-disk-1.raw"),
        ]);
        let names = world.target.volumes.get_mut(&id("ssd")).expect("ssd");
        names.extend(["140/vm-140-disk-0.qcow2", "140/vm-140-disk-1.raw"].map(str::to_owned));
        assert_eq!(world.codes(), ["former-overwritten", "former-unattached"]);
        let plan = world.decide().plans.remove(0);
        assert_eq!(plan.target.vmid, id("140"));
        let copies: Vec<(String, String, bool)> = plan
            .drives
            .iter()
            .filter_map(|drive| match &drive.action {
                DriveAction::Copy(volume) => Some((
                    drive.key.to_string(),
                    volume.target.to_string(),
                    volume.kept,
                )),
                DriveAction::Set { .. } | DriveAction::Leave => None,
            })
            .collect();
        let expect = [
            ("virtio0", "ssd:140/vm-140-disk-0.qcow2", true),
            ("virtio1", "ssd:140/vm-140-disk-2.qcow2", false),
        ];
        let expect = expect.map(|(key, volid, kept)| (key.to_owned(), volid.to_owned(), kept));
        assert_eq!(copies, expect);
        let back = plan.back.expect("it goes back");
        assert_eq!(back.kept, BTreeSet::from([id("virtio0")]));
        assert_eq!(back.delete, ["scsi7", "virtio0"]);
    }

    #[test]
    fn a_former_self_that_is_in_use_is_refused() {
        let codes = |change: &dyn Fn(&mut World)| {
            let mut world = World::new();
            world.goes_back(&[("virtio0", "ssd:140/vm-140-disk-0.qcow2")]);
            change(&mut world);
            let mut codes = world.codes();
            codes.retain(|code| code != "former-overwritten");
            codes
        };
        fn former(world: &mut World) -> &mut GuestDetail {
            let existing = world.existing.get_mut("web1").expect("web1");
            existing.former.as_mut().expect("a former self")
        }
        assert_eq!(codes(&|_| {}), [] as [&str; 0]);
        let power = |power| move |world: &mut World| former(world).power = power;
        assert_eq!(codes(&power(Power::Running)), ["!former-running"]);
        assert_eq!(codes(&power(Power::Unknown)), ["!former-running"]);
        let locked = |world: &mut World| former(world).lock = Some("backup".to_owned());
        assert_eq!(codes(&locked), ["!former-locked"]);
        assert_eq!(
            codes(&|world| former(world).ha_managed = true),
            ["!former-ha-managed"]
        );
        let snapshot = |world: &mut World| {
            former(world).snapshots.push(GuestSnapshot {
                name: "before".to_owned(),
                parent: None,
                taken: 0,
                with_memory: false,
            });
        };
        assert_eq!(codes(&snapshot), ["!former-snapshots"]);
        let taken = |world: &mut World| {
            world
                .target
                .guests
                .push(crate::plan::sample::summary("node3", 107, "web1"));
        };
        assert_eq!(codes(&taken), ["!name-taken"]);
        // An ordinary move leaves it alone and points at it.
        let ordinary = |world: &mut World| world.existing.clear();
        assert_eq!(codes(&ordinary), ["way-back"]);
        // Begun, it is as any move that was interrupted.
        let begun = |world: &mut World| {
            world.existing.get_mut("web1").expect("web1").former = None;
        };
        assert_eq!(codes(&begun), [] as [&str; 0]);
    }

    #[test]
    fn a_kept_volume_is_judged_by_what_its_host_says() {
        let world = World::new();
        let mut plan = world.decide().plans.remove(0);
        let drive: DriveKey = id("virtio0");
        plan.back = Some(Back {
            since: Some(1_000_000),
            ..Back::default()
        });
        let code = |plan: &GuestPlan, kept: Kept| {
            let judged = judge(plan, drive, &kept, 2_000_000);
            judged
                .verdict
                .map(|verdict| crate::plan::sample::code(&verdict))
        };
        let file = |written, now| Kept::File { written, now };
        assert_eq!(code(&plan, file(999_990, 2_000_000)), None);
        assert_eq!(code(&plan, file(1_000_005, 2_000_000)), None);
        assert_eq!(
            code(&plan, file(1_000_006, 2_000_000)),
            Some("!former-written".to_owned())
        );
        // Its clock is an hour late, and then an hour early.
        assert_eq!(
            code(&plan, file(996_410, 1_996_400)),
            Some("!former-written".to_owned())
        );
        assert_eq!(code(&plan, file(1_003_590, 2_003_600)), None);
        assert_eq!(code(&plan, Kept::Untold), Some("former-untold".to_owned()));
        assert_eq!(
            code(&plan, Kept::Missing),
            Some("!former-volume-missing".to_owned())
        );
        let evidence = "written to".to_owned();
        assert_eq!(
            code(&plan, Kept::Unfit { evidence }),
            Some("!former-diverged".to_owned())
        );
        let base = Kept::Base {
            snapshot: "proxmove-1-2-3-final".to_owned(),
            changed: Bytes::mib(3),
        };
        assert_eq!(judge(&plan, drive, &base, 0).changed, Some(Bytes::mib(3)));
        plan.back = Some(Back::default());
        assert_eq!(code(&plan, file(1, 2)), Some("former-untold".to_owned()));
    }
}
