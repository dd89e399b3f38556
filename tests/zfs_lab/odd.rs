//! What is found in the way, what is done about it, and what exactly is said.

use std::sync::Mutex;

use expect_test::{Expect, expect};
use proxmove::transfer::zfs::ZfsEngine;
use proxmove::transfer::{Engine as _, News, Pair, Pass, TransferError, Verify, VolumeState};

use crate::lab::{Lab, MIB};

const FINAL: Pass = Pass::Final(Verify::Full);

/// What came of a pass.
struct Outcome {
    /// Bytes carried.
    carried: u64,
    /// What the operator was told, and the error.
    text: String,
}

impl Outcome {
    fn check(&self, expect: Expect) {
        expect.assert_eq(&self.text);
    }
}

/// Puts words for what differs between runs.
fn plain(pair: &Pair, text: &str) -> String {
    let text = text
        .replace(pair.source.shell.address(), "node-a")
        .replace(pair.target.shell.address(), "node-b");
    let mut parts = text.split("guid ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("guid N");
        plain.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    // How much a volume occupies depends on the pool.
    let mut words: Vec<&str> = plain.split(' ').collect();
    for place in 1..words.len() {
        let unit = words[place].trim_end_matches([')', ',']);
        if ["B", "KiB", "MiB"].contains(&unit) {
            words[place - 1] = match words[place - 1].starts_with('(') {
                true => "(N",
                false => "N",
            };
        }
    }
    words.join(" ")
}

async fn pass(engine: &ZfsEngine, pair: &Pair, pass: Pass) -> Outcome {
    let said = |error: TransferError| match std::error::Error::source(&error) {
        Some(cause) => format!("failed: {error}: {cause}"),
        None => format!("failed: {error}"),
    };
    let lines = Mutex::new(Vec::new());
    let tell = |news: News| {
        if let News::Decision(text) = news {
            lines.lock().unwrap().push(text);
        }
    };
    let carried = match engine.begin(std::slice::from_ref(pair), pass).await {
        Ok(()) => engine.carry(pair, pass, &tell).await,
        Err(error) => Err(error),
    };
    let mut lines = lines.into_inner().unwrap();
    let carried = match carried {
        Ok(report) => {
            lines.push("done".to_owned());
            report.progress.carried.0
        }
        Err(error) => {
            lines.push(said(error));
            0
        }
    };
    Outcome {
        carried,
        text: plain(pair, &lines.join("\n")),
    }
}

async fn start(lab: &Lab, of: &str) -> (ZfsEngine, Pair) {
    let pair = lab.pair(of, "scsi0", 32 * MIB).await;
    lab.create(&pair, 32 * MIB, "-s").await;
    lab.fill(&pair, 0, 16).await;
    let engine = lab.engine();
    engine.prepare(std::slice::from_ref(&pair)).await.unwrap();
    (engine, pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_base_that_somebody_destroys() {
    let Some(lab) = Lab::open("a base that is gone").await else {
        return;
    };
    let (engine, pair) = start(&lab, "565-132").await;
    pass(&engine, &pair, Pass::Precopy)
        .await
        .check(expect!["done"]);
    let base = format!("{}@proxmove-565-132-1", lab.source(&pair));
    let said = lab.a(&format!("zfs destroy {base} 2>&1; true")).await;
    // The hold is respected by whoever prunes.
    expect!["cannot destroy snapshot tank/vm-565-565-132-scsi0@proxmove-565-132-1: it's being held. Run 'zfs holds -r tank/vm-565-565-132-scsi0@proxmove-565-132-1' to see holders."].assert_eq(&said);
    // Who insists finds that the bookmark is enough,
    lab.a(&format!(
        "zfs release proxmove {base} && zfs destroy {base}"
    ))
    .await;
    lab.fill(&pair, 2, 1).await;
    let outcome = pass(&engine, &pair, Pass::Precopy).await;
    outcome.check(expect![[r#"
        increment from #proxmove-565-132-1 to proxmove-565-132-2: the source has a bookmark, proxmove-565-132-1, of the target's proxmove-565-132-1 (guid N)
        done"#]]);
    assert!(outcome.carried < 2 * MIB, "{}", outcome.carried);
    // and who takes that as well, that everything is copied again.
    let names = lab
        .a(&format!(
            "zfs list -H -t snapshot,bookmark -o name -d 1 {}",
            lab.source(&pair)
        ))
        .await;
    for name in names.lines() {
        lab.a(&format!(
            "zfs release proxmove {name} 2>/dev/null; zfs destroy {name}"
        ))
        .await;
    }
    let outcome = pass(&engine, &pair, FINAL).await;
    outcome.check(expect![[r#"
        begin again: the source no longer has any of the snapshots that the target has: proxmove-565-132-2 (guid N)
        done"#]]);
    assert!(outcome.carried > 15 * MIB, "{}", outcome.carried);
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);
    lab.remove(&[pair]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_whose_snapshot_is_gone() {
    let Some(lab) = Lab::open("a stale token").await else {
        return;
    };
    let (engine, pair) = start(&lab, "565-133").await;
    engine
        .begin(std::slice::from_ref(&pair), Pass::Precopy)
        .await
        .unwrap();
    let (source, target) = (lab.source(&pair), lab.target(&pair));
    // An interrupted first receive of ours, made by hand.
    let name = format!("{source}@proxmove-565-133-1");
    lab.a(&format!("zfs send {name} | head -c 8M > /var/tmp/part"))
        .await;
    let part = lab.a("base64 -w 0 /var/tmp/part; rm /var/tmp/part").await;
    let feed = proxmove::host::command::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "base64 -d | zfs receive -s -u -o proxmove:move=565-133 {target}; true"
        ));
    lab.b
        .run(&feed, part.as_bytes(), std::time::Duration::from_secs(120))
        .await
        .unwrap();
    assert!(matches!(
        engine.observe(&pair).await.unwrap(),
        VolumeState::Partial { .. }
    ));
    lab.a(&format!("zfs release proxmove {name}; zfs destroy {name}"))
        .await;
    let outcome = pass(&engine, &pair, FINAL).await;
    outcome.check(expect![[r#"
        rest of a stream: an interrupted stream is continued where it broke off
        rest of a stream cannot be made: cannot resume send: 'tank/vm-565-565-133-scsi0@proxmove-565-133-1' used in the initial send no longer exists
        abandon an interrupted stream: the interrupted stream cannot be continued: the source no longer has what it was made of
        done"#]]);
    assert!(outcome.carried > 15 * MIB, "{}", outcome.carried);
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);
    lab.remove(&[pair]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_ours_stays() {
    let Some(lab) = Lab::open("foreign targets").await else {
        return;
    };
    let (engine, pair) = start(&lab, "565-134").await;
    let target = lab.target(&pair);
    for (what, prepare, expected) in [
        (
            "empty",
            format!("zfs create -s -V 32M {target}; udevadm settle"),
            expect![
                "failed: pre-copy of scsi0 failed on node-b: tank/vm-134-565-134-scsi0 is there and does not carry proxmove's mark: a volume (guid N) with N KiB of content, N KiB of it newer than its snapshots, and no snapshots"
            ],
        ),
        (
            "with data",
            format!(
                "{} of=/dev/zvol/{target}; zpool sync",
                "dd if=/dev/urandom bs=1M count=2 conv=notrunc,fsync status=none"
            ),
            expect![
                "failed: pre-copy of scsi0 failed on node-b: tank/vm-134-565-134-scsi0 is there and does not carry proxmove's mark: a volume (guid N) with N MiB of content, N MiB of it newer than its snapshots, and no snapshots"
            ],
        ),
        (
            "with a snapshot",
            format!("zfs snapshot {target}@daily"),
            expect![
                "failed: pre-copy of scsi0 failed on node-b: tank/vm-134-565-134-scsi0 is there and does not carry proxmove's mark: a volume (guid N) with N MiB of content, N B of it newer than its snapshots, and the snapshots daily (guid N)"
            ],
        ),
    ] {
        lab.b(&prepare).await;
        assert_eq!(engine.observe(&pair).await.unwrap(), VolumeState::Foreign);
        let before = lab.b(&format!("zfs get -Hp -o value guid {target}")).await;
        pass(&engine, &pair, Pass::Precopy).await.check(expected);
        assert!(engine.discard(&pair).await.is_err(), "{what}");
        let after = lab.b(&format!("zfs get -Hp -o value guid {target}")).await;
        assert_eq!(before, after, "{what}");
    }
    lab.b(&format!("zfs destroy -r {target}")).await;
    // A snapshot of somebody's on the target of ours.
    pass(&engine, &pair, Pass::Precopy)
        .await
        .check(expect!["done"]);
    lab.b(&format!("zfs snapshot {target}@daily")).await;
    pass(&engine, &pair, Pass::Precopy).await.check(expect!["failed: pre-copy of scsi0 failed on node-b: tank/vm-134-565-134-scsi0 has snapshots that are newer than the newest common one, proxmove-565-134-1 (guid N): daily (guid N)"]);
    lab.b(&format!("zfs destroy {target}@daily")).await;
    // Written to before it was complete: it goes back.
    lab.dirty_target(&pair, 1, 1).await;
    pass(&engine, &pair, FINAL).await.check(expect![[r#"
        back to proxmove-565-134-1: the target was written to (N MiB) since proxmove-565-134-1, before it was complete
        done"#]]);
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);
    lab.remove(&[pair]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_pool_and_an_encrypted_volume() {
    let Some(lab) = Lab::open("a full pool, encryption").await else {
        return;
    };
    let (engine, mut pair) = start(&lab, "565-135").await;
    lab.b(
        "zpool destroy small 2>/dev/null; rm -f /var/tmp/small; truncate -s 256M /var/tmp/small &&
         zpool create small /var/tmp/small && free=$(zfs get -Hp -o value available small) &&
         zfs create -o refreservation=$((free - 10 * 1048576)) small/r",
    )
    .await;
    let usual = pair.target.clone();
    pair.target.zvol.as_mut().unwrap().dataset = "small/v".to_owned();
    pair.target.path = "/dev/zvol/small/v".to_owned();
    pass(&engine, &pair, Pass::Precopy).await.check(expect!["failed: pre-copy of scsi0 failed on node-b: zfs receive exited with 1: cannot receive new filesystem stream: out of space"]);
    // With room, the same call goes on.
    lab.b("zfs set refreservation=none small/r").await;
    pass(&engine, &pair, FINAL).await.check(expect![[r#"
        rest of a stream: an interrupted stream is continued where it broke off
        done"#]]);
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);
    lab.b(
        "for try in 1 2 3 4 5; do zpool destroy small && break; sleep 1; done; rm /var/tmp/small",
    )
    .await;
    pair.target = usual;
    lab.remove(&[pair]).await;

    let mut pair = lab.pair("565-136", "scsi0", 32 * MIB).await;
    pair.source.zvol.as_mut().unwrap().dataset = "tank/enc/v".to_owned();
    pair.source.path = "/dev/zvol/tank/enc/v".to_owned();
    lab.remove(std::slice::from_ref(&pair)).await;
    lab.a(
        "zfs destroy -r tank/enc 2>/dev/null; echo passphrase |
         zfs create -o encryption=aes-256-gcm -o keyformat=passphrase -o keylocation=prompt -o mountpoint=none tank/enc",
    )
    .await;
    lab.create(&pair, 32 * MIB, "-s").await;
    lab.fill(&pair, 0, 8).await;
    let plain_hash = lab.hash_source(&pair).await;
    // Plain, with the key loaded.
    pass(&engine, &pair, FINAL).await.check(expect!["done"]);
    assert_eq!(plain_hash, lab.hash_target(&pair).await);
    // Without the key, only as it is.
    engine.discard(&pair).await.unwrap();
    lab.a("zfs set volmode=none tank/enc/v; udevadm settle; zfs unload-key tank/enc")
        .await;
    pass(&engine, &pair, FINAL).await.check(expect!["failed: final delta of scsi0 failed on node-a: zfs send exited with 1: warning: cannot send 'tank/enc/v@proxmove-565-136-1-final': dataset key must be loaded"]);
    pair.stream.raw = true;
    pass(&engine, &pair, Pass::Precopy)
        .await
        .check(expect!["done"]);
    lab.a("echo passphrase | zfs load-key tank/enc && zfs set volmode=default tank/enc/v && sleep 1 && udevadm settle")
        .await;
    lab.fill(&pair, 1, 1).await;
    pass(&engine, &pair, FINAL).await.check(expect!["done"]);
    let target = lab.target(&pair);
    let state = lab
        .b(&format!(
            "zfs get -H -o value encryption,keystatus {target}"
        ))
        .await;
    assert_eq!(state, "aes-256-gcm\nunavailable");
    lab.b(&format!(
        "echo passphrase | zfs load-key {target} && udevadm settle"
    ))
    .await;
    assert_eq!(lab.hash_source(&pair).await, lab.hash_target(&pair).await);
    lab.remove(&[pair]).await;
    lab.a("zfs destroy -r tank/enc").await;
}
