//! Streams that break at seeded places, in every way they can, and go on from there.
//!
//! What a break costs is what was sent before it and is not in the token after it. What was sent is what the sender says
//! it wrote, or what reached this machine, whichever is more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxmove::host::{Exit, Shell};
use proxmove::transfer::{Engine as _, News, Pair, Pass, Tool, TransferError, Verify};
use proxmove::units::Bytes;
use tokio::sync::Notify;

use crate::cutting::Cutting;
use crate::lab::{Lab, MIB, reboot, run};

const FINAL: Pass = Pass::Final(Verify::Full);
const SEED: u64 = 20;

/// How a stream is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The connection to the source host is reset after so many bytes.
    Reset,
    KillSend,
    KillReceive,
    KillPour,
    KillCatch,
    RebootSource,
    RebootTarget,
}

impl How {
    fn of(number: u64, positions: u64) -> How {
        match number {
            _ if number == positions / 2 => How::RebootTarget,
            _ if number == positions * 3 / 4 => How::RebootSource,
            _ => match number % 5 {
                0 => How::KillReceive,
                1 => How::Reset,
                2 => How::KillCatch,
                3 => How::KillSend,
                _ => How::KillPour,
            },
        }
    }

    /// Breaks it, unless it breaks by itself.
    async fn strike(self, lab: &Lab, pair: &Pair) {
        let (source, target) = (lab.source(pair), lab.target(pair));
        // None of these matches the command line that looks for it.
        let (shell, pattern): (&Arc<dyn Shell>, String) = match self {
            How::Reset => return,
            How::KillSend => (&lab.a, format!("^zfs send .*({source}@|-t )")),
            How::KillReceive => (&lab.b, format!("^zfs receive .*{target}")),
            How::KillPour => (&lab.a, "[p]orter pour".to_owned()),
            How::KillCatch => (&lab.b, "[p]orter catch".to_owned()),
            How::RebootSource => return reboot('a').await,
            How::RebootTarget => return reboot('b').await,
        };
        let killed = run(shell, &format!("pkill -KILL -f '{pattern}'")).await;
        assert_eq!(killed.exit, Exit::Code(0), "nothing to kill: {pattern}");
    }
}

/// What happened to a stream.
struct Broken {
    error: TransferError,
    sent: u64,
}

/// Carries until `after` bytes were sent, and breaks it then in that way.
async fn carry_and_break(lab: &Lab, pair: &Pair, how: How, after: u64) -> Broken {
    let engine = lab.engine();
    engine.prepare(std::slice::from_ref(pair)).await.unwrap();
    let passed = Arc::new(AtomicU64::new(0));
    let mut counted = pair.clone();
    counted.source.shell = Arc::new(Cutting {
        inner: Arc::clone(&lab.a),
        left: if how == How::Reset { after } else { u64::MAX },
        passed: Arc::clone(&passed),
    });
    let told = AtomicU64::new(0);
    let there = Notify::new();
    let tell = |news: News| {
        if let News::Progress(now) = news {
            told.fetch_max(now.wire.0, Ordering::Relaxed);
            if now.wire.0 >= after {
                there.notify_one();
            }
        }
    };
    let striking = async {
        tokio::select! {
            () = there.notified() => how.strike(lab, pair).await,
            () = tokio::time::sleep(Duration::from_secs(900)) => {}
        }
    };
    let carrying = engine.carry(&counted, Pass::Precopy, &tell);
    let (result, ()) = match how {
        // It is told about, or not.
        How::Reset => (carrying.await, ()),
        _ => tokio::join!(carrying, striking),
    };
    Broken {
        error: result.expect_err("the stream was broken"),
        sent: told.into_inner().max(passed.load(Ordering::Relaxed)),
    }
}

/// How much of the stream is there, by the token that zfs receive left.
async fn kept(lab: &Lab, pair: &Pair) -> u64 {
    let target = lab.target(pair);
    let ask = format!("zfs get -Hp -o value receive_resume_token {target}");
    let token = lab.b(&ask).await;
    assert!(token.len() > 20, "no token after a break: {token}");
    let said = lab.a(&format!("zfs send -nvP -t {token}")).await;
    let bytes = said.lines().find_map(|line| {
        let line = line.trim();
        line.strip_prefix("bytes = 0x")
    });
    let bytes = bytes.unwrap_or_else(|| panic!("no bytes in {said}"));
    u64::from_str_radix(bytes, 16).unwrap()
}

async fn broken(tool: Tool, of: &str, size: u64, positions: u64) {
    let Some(mut lab) = Lab::open("streams that break").await else {
        return;
    };
    let mut pair = lab.pair(of, "scsi0", size).await;
    pair.tool = tool;
    lab.create(&pair, size, "-s -o volblocksize=16k").await;
    lab.fill(&pair, 0, size / MIB).await;
    let engine = lab.engine();
    engine.prepare(std::slice::from_ref(&pair)).await.unwrap();
    let began = engine.begin(std::slice::from_ref(&pair), Pass::Precopy);
    began.await.unwrap();
    let name = format!("{}@proxmove-{of}-1", lab.source(&pair));
    let full = size_of(&lab.a(&format!("zfs send -nvP -c -L -e {name}")).await);
    let mut random = fastrand::Rng::with_seed(SEED);
    let step = full / (positions + 1);
    let (mut had, mut worst, mut sum) = (0, 0, 0);
    eprintln!("position     how           sent again                 what was said");
    for number in 0..positions {
        let how = match tool {
            Tool::Porter => How::of(number, positions),
            // mbuffer runs far ahead of the connection: zfs send has ended long before its stream has.
            Tool::Stock => How::Reset,
        };
        if number % 4 == 3 {
            // Another operator, with a home and connections of their own.
            lab = Lab::open("streams that break").await.unwrap();
            lab.at(&mut pair);
        }
        let place = number * step + random.u64(step / 2..step);
        let after = place.saturating_sub(had).max(64 * 1024);
        let Broken { error, sent } = carry_and_break(&lab, &pair, how, after).await;
        if matches!(how, How::RebootSource | How::RebootTarget) {
            lab = Lab::open("streams that break").await.unwrap();
            lab.at(&mut pair);
        }
        let now = kept(&lab, &pair).await;
        assert!(now >= had, "{now} kept after {had}");
        let again = (had + sent).saturating_sub(now);
        eprintln!(
            "{:<12} {:<13} {:<11} ({:.2} %)  {error}{}",
            Bytes(had + sent).to_string(),
            format!("{how:?}"),
            Bytes(again).to_string(),
            100.0 * again as f64 / full as f64,
            std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}")),
        );
        (worst, sum, had) = (worst.max(again), sum + again, now);
    }
    // The rest, and whatever came after it, in a pass that is not disturbed.
    let pairs = [pair];
    let engine = lab.engine();
    engine.prepare(&pairs).await.unwrap();
    engine.begin(&pairs, FINAL).await.unwrap();
    let began = Instant::now();
    let report = engine.carry(&pairs[0], FINAL, &|_| {}).await.unwrap();
    eprintln!(
        "{tool:?}: {} in the end, {:.1} s; of {}: at most {} again ({:.2} %), {} in all",
        report.progress.carried,
        began.elapsed().as_secs_f64(),
        Bytes(full),
        Bytes(worst),
        100.0 * worst as f64 / full as f64,
        Bytes(sum),
    );
    let (here, there) = (
        lab.hash_source(&pairs[0]).await,
        lab.hash_target(&pairs[0]).await,
    );
    assert_eq!(here, there);
    assert!(worst * 50 < full, "{worst}");
    lab.remove(&pairs).await;
}

fn size_of(printed: &str) -> u64 {
    let mut lines = printed.lines();
    let size = lines.find_map(|line| line.strip_prefix("size\t"));
    size.unwrap().parse().unwrap()
}

fn number(name: &str, usual: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn positions() -> u64 {
    number("PROXMOVE_LAB_POSITIONS", 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_that_breaks_goes_on_from_there() {
    let size = number("PROXMOVE_LAB_STREAM", 512);
    broken(Tool::Porter, "565-130", size * MIB, positions()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_of_the_hosts_own_tools_goes_on_as_well() {
    broken(Tool::Stock, "565-131", 128 * MIB, positions().min(3)).await;
}
