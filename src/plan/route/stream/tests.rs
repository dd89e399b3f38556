use super::*;
use crate::plan::sample::zfs_host;

fn encryption(key_loaded: bool) -> Encryption {
    Encryption {
        root: "tank/secret".to_owned(),
        key_loaded,
    }
}

/// Returns what is decided: `-` for no encryption, `+` for a loaded key, `x` for one that is not.
fn decided(engine: EngineKind, source: char, target: char, allow: bool, start: bool) -> String {
    let side = |side| match side {
        '-' => None,
        key => Some(encryption(key == '+')),
    };
    let (source, target) = (side(source), side(target));
    let sides = Sides {
        engine,
        source: source.as_ref(),
        target: target.as_ref(),
        began: Began::Nothing,
        allow_plain: allow,
        start,
    };
    match encrypting(&sides) {
        Ok(encrypting) => format!("{encrypting:?}"),
        Err(why) => {
            assert!(!why.reason.is_empty() && !why.remedy.is_empty());
            why.code.to_owned()
        }
    }
}

#[test]
fn encryption_is_never_lost_silently() {
    use EngineKind::{Image, Zfs};
    for (engine, source, target, allow, start, expect) in [
        (Zfs, '-', '-', false, true, "Nowhere"),
        (Image, '-', '-', true, true, "Nowhere"),
        // The target's dataset encrypts what it takes.
        (Zfs, '-', '+', false, true, "Anew"),
        (Image, '-', '+', false, true, "Anew"),
        (Zfs, '+', '+', false, true, "Anew"),
        (Zfs, '-', 'x', false, true, "target-key-not-loaded"),
        (Image, '-', 'x', true, false, "target-key-not-loaded"),
        // Between pools the blocks can travel as they are, but a guest cannot start without its key.
        (Zfs, '+', '-', false, false, "Kept"),
        (Zfs, '+', '-', false, true, "key-not-there"),
        (Zfs, '+', '-', true, true, "Opened"),
        (Zfs, '+', '-', true, false, "Opened"),
        (Zfs, '+', 'x', true, true, "key-not-there"),
        (Zfs, '+', 'x', false, false, "Kept"),
        // Without its key nothing can be opened, allowed or not.
        (Zfs, 'x', '-', false, false, "Kept"),
        (Zfs, 'x', '-', true, false, "Kept"),
        (Zfs, 'x', '+', false, false, "Kept"),
        (Zfs, 'x', '-', true, true, "key-not-there"),
        (Image, 'x', '-', true, false, "source-key-not-loaded"),
        // A file is not encrypted.
        (Image, '+', '-', false, true, "encryption-lost"),
        (Image, '+', '-', false, false, "encryption-lost"),
        (Image, '+', '-', true, true, "Opened"),
    ] {
        let found = decided(engine, source, target, allow, start);
        assert_eq!(
            found, expect,
            "{engine:?} {source} {target} {allow} {start}"
        );
    }
}

#[test]
fn what_began_as_it_was_goes_on_so() {
    let (source, target) = (encryption(true), encryption(true));
    for target in [None, Some(&target)] {
        let sides = Sides {
            engine: EngineKind::Zfs,
            source: Some(&source),
            target,
            began: Began::Kept,
            allow_plain: true,
            start: false,
        };
        assert_eq!(encrypting(&sides), Ok(Encrypting::Kept));
    }
    // What began otherwise is not mixed with blocks as they are.
    for (key_loaded, allow_plain, expect) in [
        (true, true, Ok(Encrypting::Opened)),
        (true, false, Err("encryption-lost")),
        (false, true, Err("source-key-not-loaded")),
    ] {
        let source = encryption(key_loaded);
        let sides = Sides {
            engine: EngineKind::Zfs,
            source: Some(&source),
            target: None,
            began: Began::Changed,
            allow_plain,
            start: false,
        };
        assert_eq!(encrypting(&sides).map_err(|why| why.code), expect);
    }
}

/// Checks the flags after a change to the source, its zvol and the target.
fn check(
    change: impl FnOnce(&mut ZfsFacts, &mut ZvolFacts, &mut ZfsFacts),
    encrypting: Encrypting,
    expect: &str,
) {
    let facts = |zvols: &[&str]| zfs_host("h", zvols).zfs.expect("a dataset");
    let (mut source, mut target) = (facts(&["vm-1-disk-0"]), facts(&[]));
    let mut zvol = source.zvols["vm-1-disk-0"].clone();
    change(&mut source, &mut zvol, &mut target);
    let shown = match flags(&source, &zvol, &target, encrypting) {
        Ok(flags) => [
            (flags.compressed, "c"),
            (flags.large_blocks, "L"),
            (flags.embedded, "e"),
            (flags.raw, "w"),
        ]
        .into_iter()
        .filter_map(|(set, letter)| set.then_some(letter))
        .collect(),
        Err(why) => format!("{}: {}", why.code, why.reason),
    };
    assert_eq!(shown, expect);
}

fn without(facts: &mut ZfsFacts, feature: &str) {
    let features = facts.features.as_mut().expect("features");
    features.enabled.remove(feature);
    features.active.remove(feature);
}

#[test]
fn flags_are_what_both_pools_support() {
    use Encrypting::{Anew, Nowhere, Opened};
    check(|_, _, _| {}, Nowhere, "cLe");
    check(
        |_, _, target| without(target, "large_blocks"),
        Nowhere,
        "ce",
    );
    check(
        |source, _, _| without(source, "large_blocks"),
        Nowhere,
        "ce",
    );
    check(
        |_, _, target| without(target, "embedded_data"),
        Nowhere,
        "cL",
    );
    check(
        |_, _, target| without(target, "lz4_compress"),
        Nowhere,
        "Le",
    );
    check(
        |_, _, target| without(target, "zstd_compress"),
        Nowhere,
        "Le",
    );
    // A pool on which nothing is compressed so needs no reader.
    let unused = |source: &mut ZfsFacts, _: &mut ZvolFacts, target: &mut ZfsFacts| {
        let features = source.features.as_mut().expect("features");
        features.active.remove("zstd_compress");
        without(target, "zstd_compress");
    };
    check(unused, Nowhere, "cLe");
    check(|source, _, _| source.version = Some((0, 6)), Nowhere, "Le");
    check(|_, _, target| target.version = None, Nowhere, "Le");
    check(|_, _, target| target.features = None, Nowhere, "");
    check(|source, _, _| source.features = None, Nowhere, "c");
    // Encrypted datasets hold no data in records about blocks.
    check(
        |_, _, target| target.encryption = Some(encryption(true)),
        Anew,
        "cL",
    );
    check(
        |_, zvol, _| zvol.encryption = Some(encryption(true)),
        Opened,
        "cL",
    );
}

#[test]
fn encrypted_blocks_need_a_pool_that_takes_them() {
    use Encrypting::Kept;
    check(|_, _, _| {}, Kept, "w");
    check(|_, _, target| without(target, "embedded_data"), Kept, "w");
    check(|_, _, target| without(target, "zstd_compress"), Kept, "w");
    check(
        |_, _, target| without(target, "encryption"),
        Kept,
        "pool-feature-missing: it is encrypted and travels as it is, which the target's pool cannot take without: encryption",
    );
    check(
        |_, zvol, target| {
            zvol.compression = "zstd-9".to_owned();
            zvol.block_size = Some(Bytes::mib(1));
            without(target, "zstd_compress");
            without(target, "large_blocks");
        },
        Kept,
        "pool-feature-missing: it is encrypted and travels as it is, which the target's pool cannot take without: \
         zstd_compress, large_blocks",
    );
}
