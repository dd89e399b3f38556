#![allow(clippy::unwrap_used)]

use super::*;

use proptest::prelude::*;
use std::process::Command;

const MIB: u64 = 1 << 20;

fn images(directory: &std::path::Path, formats: &[Format], size: u64) -> Vec<Image> {
    formats
        .iter()
        .enumerate()
        .map(|(index, format)| {
            let image = Image {
                drive: format!("virtio{index}"),
                path: directory.join(format!("vm-1-disk-{index}.{format:?}")),
                format: *format,
                size,
            };
            image.create().unwrap();
            image
        })
        .collect()
}

fn wait_for(writer: &Writer, records: u64) {
    for _ in 0..6000 {
        if writer.completed() >= records {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("only {} records in a minute", writer.completed());
}

fn busy(seed: u64) -> Workload {
    Workload {
        bytes_per_second: 20 * MIB,
        seed,
        hot_bytes: None,
    }
}

#[test]
fn a_stopped_guest_has_written_all_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Raw, Format::Qcow2], 16 * MIB);
    for image in &images {
        assert!(fill(image, 0.5, 3).unwrap() > 0);
    }
    let writer = Writer::start(images.clone(), busy(5)).unwrap();
    wait_for(&writer, 2000);
    let ledger = writer.stop().unwrap();
    assert!(ledger.in_flight.is_empty());
    assert!(ledger.last_sequence >= 2000);
    let verdict = ledger.check(&images).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
    assert_eq!(verdict.expected, ledger.records());

    // Somebody else sees the same, from a file.
    let path = directory.path().join("ledger.json");
    ledger.save(&path).unwrap();
    assert_eq!(Ledger::load(&path).unwrap(), ledger);

    // Swapped disks are not the guest's disks.
    let swapped: Vec<Image> = images.iter().rev().cloned().collect();
    let verdict = ledger.check(&swapped).unwrap();
    assert_eq!(verdict.found, 0, "{verdict}");

    // A guest that goes on makes the old ledger stale, and its own is complete.
    let writer = Writer::resume(images.clone(), busy(5), ledger.clone()).unwrap();
    wait_for(&writer, 2000);
    let newer = writer.stop().unwrap();
    assert!(newer.last_sequence >= ledger.last_sequence + 2000);
    let verdict = newer.check(&images).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
    let verdict = ledger.check(&images).unwrap();
    assert!(verdict.foreign > 0 && !verdict.is_complete(), "{verdict}");
}

#[test]
fn a_copy_made_too_early_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Raw], 4 * MIB);
    let writer = Writer::start(images.clone(), busy(6)).unwrap();
    wait_for(&writer, 1500);
    let copy = Image {
        path: directory.path().join("copy"),
        ..images[0].clone()
    };
    std::fs::copy(&images[0].path, &copy.path).unwrap();
    wait_for(&writer, 3000);
    let ledger = writer.stop().unwrap();
    let verdict = ledger.check(&[copy]).unwrap();
    assert!(verdict.stale > 0 && !verdict.is_complete(), "{verdict}");
    assert!(ledger.check(&images).unwrap().is_complete());
}

#[test]
fn a_killed_guest_keeps_what_was_completed() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Qcow2, Format::Raw], 8 * MIB);
    let writer = Writer::start(images.clone(), busy(7)).unwrap();
    wait_for(&writer, 1000);
    let ledger = writer.kill().unwrap();
    let verdict = ledger.check(&images).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
    let writer = Writer::resume(images.clone(), busy(7), ledger).unwrap();
    wait_for(&writer, 1000);
    let verdict = writer.stop().unwrap().check(&images).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
}

#[test]
fn a_paused_guest_does_not_write() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Raw], 8 * MIB);
    let writer = Writer::start(images.clone(), busy(8)).unwrap();
    wait_for(&writer, 100);
    writer.pause();
    let before = (writer.completed(), std::fs::read(&images[0].path).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    let after = (writer.completed(), std::fs::read(&images[0].path).unwrap());
    assert!(before == after);
    writer.unpause();
    wait_for(&writer, before.0 + 100);
    writer.pause();
    assert!(writer.stop().unwrap().check(&images).unwrap().is_complete());
}

#[test]
fn a_region_confines_the_writes() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Raw], 64 * MIB);
    let workload = Workload {
        hot_bytes: Some(MIB),
        ..busy(9)
    };
    let writer = Writer::start(images, workload).unwrap();
    wait_for(&writer, 1000);
    let ledger = writer.stop().unwrap();
    let offsets = &ledger.completed[0];
    let (first, _) = offsets.first_key_value().unwrap();
    let (last, _) = offsets.last_key_value().unwrap();
    assert!(last - first < MIB && offsets.len() > 100);
}

#[test]
fn what_cannot_work_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Raw], 1024);
    let refused = Writer::start(images.clone(), Workload::default());
    assert!(matches!(refused, Err(GuestError::Room { .. })));
    assert!(matches!(
        images[0].create(),
        Err(GuestError::Image { verb: "create", .. })
    ));
    assert!(matches!(
        Ledger::new(1, 2).check(&images),
        Err(GuestError::Disks {
            expected: 2,
            given: 1
        })
    ));
}

#[test]
fn qemu_agrees_with_a_qcow2_image_of_ours() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        crate::not_run::not_run(
            "images of the simulation against qemu-img",
            "qemu-utils is not installed",
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let images = images(directory.path(), &[Format::Qcow2], 32 * MIB);
    let written = fill(&images[0], 0.3, 4).unwrap();
    assert!(written < 32 * MIB);
    let writer = Writer::start(images.clone(), busy(4)).unwrap();
    wait_for(&writer, 1000);
    let ledger = writer.stop().unwrap();
    let checked = Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(&images[0].path)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let raw = Image {
        path: directory.path().join("raw"),
        format: Format::Raw,
        ..images[0].clone()
    };
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(&images[0].path)
        .arg(&raw.path)
        .status()
        .unwrap();
    assert!(converted.success());
    let verdict = ledger.check(&[raw]).unwrap();
    assert!(verdict.is_complete(), "{verdict}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Damage to one completed record, of any kind and at any place, is reported as what it is.
    #[test]
    fn damage_is_reported(kind in 0..4_u8, choice in any::<prop::sample::Index>(), place in 40..4095_usize) {
        let directory = tempfile::tempdir().unwrap();
        let images = images(directory.path(), &[Format::Raw], 4 * MIB);
        let mut ledger = Ledger::new(11, 1);
        let disk = images[0].open(Access::Write).unwrap();
        for sequence in 1..=64 {
            let offset = (sequence * 37 % 1024) * RECORD as u64;
            let record = Record { seed: 11, sequence, disk: 0, offset };
            disk.write(&record.encode(), offset).unwrap();
            ledger.completed[0].insert(offset, sequence);
            ledger.last_sequence = sequence;
        }
        prop_assert!(ledger.check(&images).unwrap().is_complete());
        let (&offset, &sequence) = ledger.completed[0].iter().nth(choice.index(64)).unwrap();
        let older = Record { seed: 11, sequence: sequence - 1, disk: 0, offset }.encode();
        match kind {
            0 => disk.write(&[0; RECORD], offset).unwrap(),
            // The end of the block is an older record's.
            1 => disk.write(&older[place..], offset + place as u64).unwrap(),
            2 => disk.write(&older, offset).unwrap(),
            _ => disk.write(&Record { seed: 12, sequence, disk: 0, offset }.encode(), offset).unwrap(),
        }
        let verdict = ledger.check(&images).unwrap();
        let counts = [verdict.missing, verdict.torn, verdict.stale, verdict.foreign];
        let mut expected = [0; 4];
        expected[kind as usize] = 1;
        prop_assert_eq!(counts, expected, "{}", verdict);
        prop_assert_eq!((verdict.expected, verdict.found), (64, 63));
        prop_assert_eq!(verdict.examples.len(), 1);
        // The same damage by a write in flight is what a power cut does.
        ledger.in_flight.push(Write { disk: 0, offset, sequence: sequence + 1000 });
        let torn_is_allowed = ledger.check(&images).unwrap().is_complete();
        prop_assert_eq!(torn_is_allowed, kind == 1);
    }
}
