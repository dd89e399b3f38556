//! Tests of passes over volumes of which little was written, in small pieces.

use proptest::prelude::*;

use super::*;

/// Writes other content to `count` pages of the volume at random places; returns how many bytes differ.
fn scatter(path: &Path, size: u64, count: u64, seed: u64) -> u64 {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pages = std::collections::BTreeSet::new();
    while (pages.len() as u64) < count {
        pages.insert(random.u64(0..size / PAGE as u64));
    }
    let mut bytes = vec![0; PAGE];
    for page in &pages {
        random.fill(&mut bytes);
        file.write_all_at(&bytes, page * PAGE as u64)
            .expect("writes");
    }
    pages.len() as u64 * PAGE as u64
}

/// The same through QEMU, into an image.
fn scatter_guest(path: &Path, size: u64, count: u64, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pages = std::collections::BTreeSet::new();
    while (pages.len() as u64) < count {
        pages.insert(random.u64(0..size / PAGE as u64));
    }
    let commands: String = pages
        .iter()
        .map(|page| format!("write -P {} {} 4k\n", random.u8(1..), page * PAGE as u64))
        .collect();
    let mut child = Command::new("qemu-io")
        .args(["-f", "qcow2", text(path)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("qemu-io, where qemu-img is");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(commands.as_bytes()).expect("writes");
    drop(input);
    assert!(child.wait().expect("ends").success());
    pages.len() as u64 * PAGE as u64
}

fn at_most_twice(pass: &Outcome, dirty: u64) {
    let counts = pass.counts;
    assert!(counts.carried >= dirty, "{counts:?}");
    assert!(counts.carried <= 2 * dirty, "{counts:?}, dirty {dirty}");
    assert!(counts.wire <= 2 * dirty, "{counts:?}, dirty {dirty}");
    assert_eq!(pass.repaired, 0);
}

#[test]
fn a_percent_written_at_random_costs_at_most_two() {
    let lab = Lab::new();
    let size = 256 * MIB;
    let pages = size / PAGE as u64 / 100;
    noise(&lab.source, 0, size, 1);
    lab.pass(Purpose::Precopy);
    for (purpose, seed) in [
        (Purpose::Precopy, 2),
        (Purpose::FinalTransfer, 3),
        (Purpose::FinalFull, 4),
    ] {
        let dirty = scatter(&lab.source, size, pages, seed);
        let pass = lab.pass(purpose);
        assert_eq!(pass.counts.carried, dirty, "just these pages");
        at_most_twice(&pass, dirty);
    }
    lab.same();
    assert!(lab.sealed());
}

/// The same with an image on at least one side.
fn percent_of_an_image(source_image: bool, target_image: bool) {
    let mut lab = Lab::new();
    (lab.source_image, lab.target_image) = (source_image, target_image);
    let size = 256 * MIB;
    let pages = size / PAGE as u64 / 100;
    let plain = lab.root.path().join("plain");
    noise(&plain, 0, size, 1);
    let (source, target) = (text(&lab.source).to_owned(), text(&lab.target).to_owned());
    let format = |image: bool| if image { "qcow2" } else { "raw" };
    let (from, to) = (format(source_image), format(target_image));
    let made = ["convert", "-f", "raw", "-O", from, text(&plain), &source];
    if qemu("qemu-img", &made).is_none() {
        return;
    }
    fs::remove_file(&plain).expect("removes");
    lab.pass(Purpose::Precopy);
    for (purpose, seed) in [(Purpose::Precopy, 2), (Purpose::FinalFull, 3)] {
        let dirty = if source_image {
            scatter_guest(&lab.source, size, pages, seed)
        } else {
            scatter(&lab.source, size, pages, seed)
        };
        at_most_twice(&lab.pass(purpose), dirty);
    }
    assert!(lab.sealed());
    let compare = ["compare", "-f", from, "-F", to, &source, &target];
    assert!(
        qemu("qemu-img", &compare)
            .expect("compares")
            .contains("identical")
    );
    if target_image {
        qemu("qemu-img", &["check", "-f", "qcow2", &target]);
    }
}

#[test]
fn a_percent_of_a_qcow2_image_costs_at_most_two() {
    percent_of_an_image(true, true);
}

#[test]
fn a_percent_of_a_volume_being_converted_costs_at_most_two() {
    percent_of_an_image(false, true);
    percent_of_an_image(true, false);
}

#[test]
fn what_was_rewritten_whole_costs_hardly_more_than_itself() {
    let lab = Lab::new();
    let size = 64 * MIB;
    noise(&lab.source, 0, size, 1);
    lab.pass(Purpose::Precopy);
    noise(&lab.source, 0, size, 2);
    let pass = lab.pass(Purpose::Precopy);
    assert_eq!(pass.counts.carried, size);
    let more = pass.counts.wire - size;
    assert!(more < size / 100, "{:?}", pass.counts);
    lab.same();
}

#[test]
fn small_files_on_an_empty_disk_travel_without_the_zeros_around_them() {
    let lab = Lab::new();
    let size = 64 * MIB;
    fs::write(&lab.source, vec![0; size as usize]).expect("writes");
    let dirty = scatter(&lab.source, size, 200, 1);
    let first = lab.pass(Purpose::Precopy);
    assert_eq!(first.counts.carried, dirty);
    lab.same();
    let last = lab.pass(Purpose::FinalFull);
    assert_eq!((last.counts.carried, last.repaired), (0, 0));
}

#[test]
fn a_patch_is_made_for_what_is_on_the_disk_and_not_for_what_is_claimed() {
    let lab = Lab::new();
    noise(&lab.source, 0, 4 * MIB, 1);
    lab.pass(Purpose::Precopy);
    // Rot, in the chunk that the guest writes to.
    noise(&lab.target, MIB + 20_000, 100, 8);
    noise(&lab.source, MIB + 40_000, 100, 9);
    let pass = lab.pass(Purpose::Precopy);
    assert_eq!(pass.counts.carried, 2 * PAGE as u64);
    lab.same();
}

#[test]
fn a_receiver_does_not_tell_what_it_has_far_ahead() {
    let lab = Lab::new();
    let chunks = 3 * super::super::wire::HAVE_AHEAD;
    set_length(&lab.source, chunks * CHUNK as u64);
    lab.pass(Purpose::Precopy);
    // Claims that cannot be told as runs, and are not true: each is replaced.
    let manifest = super::super::manifest::Manifest::open_locked(&lab.places().manifest())
        .expect("opens")
        .expect("there");
    for index in 0..chunks {
        let claim = super::super::chunk::Fingerprint::of(&index.wrapping_add(1).to_le_bytes());
        manifest.write(index, 1, claim).expect("writes");
    }
    drop(manifest);
    let pass = lab.pass(Purpose::Precopy);
    assert!(pass.counts.wire > chunks * 32, "{:?}", pass.counts);
    let last = lab.pass(Purpose::FinalTransfer);
    assert_eq!(last.counts.carried, 0);
    assert!(last.counts.wire < 100_000, "{:?}", last.counts);
}

/// Something that happens between two passes, or a pass.
#[derive(Clone, Debug)]
enum Event {
    Noise {
        offset: u64,
        length: u64,
    },
    Zeros {
        offset: u64,
        length: u64,
    },
    Resize {
        size: u64,
    },
    Pass {
        purpose: Purpose,
        cut: Option<(u64, u64)>,
    },
}

const LARGEST: u64 = 700_000;

fn event() -> impl Strategy<Value = Event> {
    let place = || {
        let small = prop_oneof![Just(4096u64), 1..9000u64, 1..150_000u64];
        (0..LARGEST, small, any::<bool>()).prop_map(|(offset, length, aligned)| {
            if aligned {
                (offset / 4096 * 4096, length.next_multiple_of(4096))
            } else {
                (offset, length)
            }
        })
    };
    let purpose = prop_oneof![
        Just(Purpose::Precopy),
        Just(Purpose::FinalTransfer),
        Just(Purpose::FinalFull)
    ];
    prop_oneof![
        6 => place().prop_map(|(offset, length)| Event::Noise { offset, length }),
        2 => place().prop_map(|(offset, length)| Event::Zeros { offset, length }),
        1 => (0..LARGEST).prop_map(|size| Event::Resize { size }),
        3 => (purpose, proptest::option::weighted(0.4, (0..300_000u64, 0..6000u64)))
            .prop_map(|(purpose, cut)| Event::Pass { purpose, cut }),
    ]
}

/// Lets events happen to a volume of which whole sectors are read, then passes it a last time.
fn happen(lab: &Lab, events: &[Event]) -> Outcome {
    let whole = lab.source_image != lab.target_image;
    noise(&lab.source, 0, 300_032, 1);
    for (seed, event) in (2..).zip(events) {
        let size = fs::metadata(&lab.source).expect("source").len();
        let inside = |offset: &u64, length: &u64| (*length).min(size.saturating_sub(*offset));
        match event {
            Event::Noise { offset, length } => {
                noise(&lab.source, *offset, inside(offset, length), seed);
            }
            Event::Zeros { offset, length } => {
                let file = OpenOptions::new().write(true).open(&lab.source);
                file.expect("opens")
                    .write_all_at(&vec![0; inside(offset, length) as usize], *offset)
                    .expect("writes");
            }
            Event::Resize { size } if whole => {
                set_length(&lab.source, size.next_multiple_of(512).max(512))
            }
            Event::Resize { size } => set_length(&lab.source, *size),
            Event::Pass { purpose, cut: None } => {
                lab.pass(*purpose);
            }
            Event::Pass {
                purpose,
                cut: Some((forth, back)),
            } => {
                // May come to its end all the same.
                let _ = lab.pass_cut(*purpose, *forth, *back);
            }
        }
    }
    lab.pass(Purpose::FinalFull)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_written_and_broken_off_the_copy_is_equal(
        events in proptest::collection::vec(event(), 1..14),
    ) {
        let lab = Lab::new();
        let last = happen(&lab, &events);
        lab.same();
        prop_assert!(lab.sealed());
        prop_assert_eq!(last.repaired, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_conversion_is_equal_too(events in proptest::collection::vec(event(), 1..10)) {
        let mut lab = Lab::new();
        lab.target_image = true;
        let last = happen(&lab, &events);
        prop_assert!(lab.sealed());
        prop_assert_eq!(last.repaired, 0);
        let compare = ["compare", "-f", "raw", "-F", "qcow2", text(&lab.source), text(&lab.target)];
        if let Some(compared) = qemu("qemu-img", &compare) {
            prop_assert!(compared.contains("identical"), "{}", compared);
            qemu("qemu-img", &["check", "-f", "qcow2", text(&lab.target)]);
        }
    }
}
