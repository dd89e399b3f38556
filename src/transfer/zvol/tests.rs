//! Tables of command lines and answers.

use super::*;

fn zvol(sparse: bool, block_size: Option<u64>) -> Zvol {
    Zvol {
        dataset: String::from("tank/vm data/vm-126-disk-0"),
        sparse,
        block_size: block_size.map(Bytes),
    }
}

#[test]
fn command_lines() {
    let (dataset, device) = ("tank/vm-1-disk-0", "/dev/zvol/tank/vm-1-disk-0");
    let snapshot = seal_name(dataset, "1-2-scsi0");
    for (command, expect) in [
        (
            look(dataset),
            "env LC_ALL=C zfs get -Hp -o property,value,source \
             type,guid,volsize,refreservation,referenced,proxmove:move tank/vm-1-disk-0",
        ),
        (
            look_at_seal(&snapshot),
            "env LC_ALL=C zfs get -Hp -o property,value,source guid,proxmove:digest,proxmove:move \
             tank/vm-1-disk-0@proxmove-1-2-scsi0-seal",
        ),
        (
            written_since(dataset, device, &snapshot),
            "sync -- /dev/zvol/tank/vm-1-disk-0 && zpool sync tank && env LC_ALL=C zfs get -Hp -o \
             property,value,source written@proxmove-1-2-scsi0-seal tank/vm-1-disk-0",
        ),
        (
            create(&zvol(true, Some(16384)), Bytes(4 << 20), "1-2-scsi0"),
            "env LC_ALL=C zfs create -V 4194304 -s -o volblocksize=16384 -o proxmove:move=1-2-scsi0 \
             'tank/vm data/vm-126-disk-0'",
        ),
        (
            create(&zvol(false, None), Bytes(540_672), "p"),
            "env LC_ALL=C zfs create -V 1048576 -o proxmove:move=p 'tank/vm data/vm-126-disk-0'",
        ),
        (
            grow(dataset, Bytes((5 << 20) + 1)),
            "env LC_ALL=C zfs set volsize=6291456 tank/vm-1-disk-0",
        ),
        (
            mark(dataset, "p"),
            "env LC_ALL=C zfs set proxmove:move=p tank/vm-1-disk-0",
        ),
        (
            unmark(dataset),
            "env LC_ALL=C zfs inherit proxmove:move tank/vm-1-disk-0",
        ),
        (
            reserve(dataset, true),
            "env LC_ALL=C zfs set refreservation=auto tank/vm-1-disk-0",
        ),
        (
            seal(dataset, device, &snapshot, "1-2-scsi0", Some("abc")),
            "sync -- /dev/zvol/tank/vm-1-disk-0 && zpool sync tank && env LC_ALL=C zfs snapshot -o \
             proxmove:move=1-2-scsi0 -o proxmove:digest=abc tank/vm-1-disk-0@proxmove-1-2-scsi0-seal",
        ),
        (
            destroy(&snapshot),
            "env LC_ALL=C zfs destroy tank/vm-1-disk-0@proxmove-1-2-scsi0-seal",
        ),
    ] {
        assert_eq!(command.line(), expect);
    }
}

#[test]
fn sizes_are_whole() {
    for (size, expect) in [
        (0, 1),
        (1, 1),
        (1 << 20, 1),
        ((1 << 20) + 512, 2),
        (64 << 20, 64),
    ] {
        assert_eq!(rounded(Bytes(size)), Bytes(expect << 20), "{size}");
    }
}

#[test]
fn answers_about_zvols() {
    let printed = "type\tvolume\t-\nguid\t1234\t-\nvolsize\t67108864\tlocal\nrefreservation\t0\tdefault\n\
                   referenced\t57344\t-\nproxmove:move\t1-2-scsi0\tlocal\n";
    let own = Seen {
        guid: 1234,
        size: Bytes(64 << 20),
        reserved: false,
        referenced: Bytes(57344),
        pair: Some(String::from("1-2-scsi0")),
    };
    assert_eq!(seen(printed), Ok(Some(own.clone())));
    let stranger = Seen { pair: None, ..own };
    for (from, to) in [
        ("\t1-2-scsi0\tlocal", "\t-\t-"),
        ("\tlocal\n", "\tinherited from tank\n"),
        ("\t1-2-scsi0\tlocal", "\t1-2-scsi0\treceived"),
    ] {
        let found = seen(&printed.replace(from, to));
        assert_eq!(found, Ok(Some(stranger.clone())), "{to}");
    }
    assert_eq!(seen("type\tfilesystem\t-\n"), Ok(None));
    assert!(seen("").is_err());
    assert!(seen(&printed.replace("1234", "x")).is_err());
}

#[test]
fn answers_about_seals() {
    let snapshot = "tank/v@proxmove-p-seal";
    assert_eq!(
        seen_seal(
            "guid\t7\t-\nproxmove:digest\tabc\tlocal\nproxmove:move\tp\tinherited from tank/v\n"
        ),
        Ok(SeenSeal {
            guid: 7,
            pair: None,
            digest: Some(String::from("abc")),
        })
    );
    let written = |text: &str| seen_written(text, snapshot);
    assert_eq!(written("written@proxmove-p-seal\t0\t-\n"), Ok(Bytes(0)));
    assert_eq!(
        written("written@proxmove-p-seal\t8192\t-\n"),
        Ok(Bytes(8192))
    );
    assert!(written("written@proxmove-p-seal\t-\t-\n").is_err());
    assert!(written("written@other\t0\t-\n").is_err());
}

#[test]
fn what_zfs_says_when_it_refuses() {
    assert!(is_missing("cannot open 'tank/x': dataset does not exist\n"));
    assert!(is_missing(
        "could not find any snapshots to destroy; check snapshot names.\n"
    ));
    assert!(is_taken("cannot create 'tank/x': dataset already exists\n"));
    assert!(is_busy("cannot destroy 'tank/x': dataset is busy\n"));
    assert!(is_full("cannot create snapshot 'tank/x@y': out of space\n"));
    assert!(!is_missing("cannot open 'tank/x': permission denied\n"));
}

proptest::proptest! {
    #[test]
    fn fuzz_what_is_said_of_zvols(text in crate::mutations::text(&[
        "type\tvolume\t-\nguid\t77\t-\nvolsize\t34359738368\tlocal\nrefreservation\tnone\tdefault\nreferenced\t8192\t-\n\
         proxmove:move\t1-2-scsi0\tlocal\n",
        "guid\t5\t-\nproxmove:digest\t0a1b\tlocal\nproxmove:move\t1-2-scsi0\tinherited from tank\nwritten@proxmove-p-seal\t0\t-\n",
    ])) {
        let _ = (seen(&text), seen_seal(&text), seen_written(&text, "tank/x@proxmove-p-seal"));
        let _ = (is_missing(&text), is_taken(&text), is_full(&text), is_busy(&text));
    }
}
