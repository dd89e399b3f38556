//! Streams that break at seeded places, and go on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use proxmove::host::command::Command;
use proxmove::host::{Exit, Output, Shell, ShellError, Stream};
use proxmove::transfer::{Engine as _, Pass, Progress, Tool, Verify};
use proxmove::units::{Bandwidth, Bytes};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::lab::{Lab, MIB, run};

/// A host whose streams end after so many bytes, as when its connection is reset.
struct Cutting {
    inner: Arc<dyn Shell>,
    left: u64,
    passed: Arc<AtomicU64>,
}

#[async_trait]
impl Shell for Cutting {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn run(
        &self,
        command: &Command,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, ShellError> {
        self.inner.run(command, input, patience).await
    }

    async fn stream(&self, command: &Command) -> Result<Stream, ShellError> {
        let mut stream = self.inner.stream(command).await?;
        let (sender, output) = mpsc::channel(8);
        let (tell, exit) = oneshot::channel();
        let (input, errors) = {
            let (closed, errors) = mpsc::channel(1);
            drop(closed);
            let input = stream.input.clone();
            (input, std::mem::replace(&mut stream.errors, errors))
        };
        let (mut left, passed) = (self.left, Arc::clone(&self.passed));
        let lost = ShellError::Lost {
            address: self.address().to_owned(),
            command: command.brief(),
            reason: String::from("cut off by the test"),
        };
        tokio::spawn(async move {
            while let Some(mut bytes) = stream.output.recv().await {
                bytes.truncate(left as usize);
                left -= bytes.len() as u64;
                passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if sender.send(bytes).await.is_err() || left == 0 {
                    break;
                }
            }
            let end = if left == 0 {
                Err(lost)
            } else {
                let exit = std::mem::replace(&mut stream.exit, oneshot::channel().1);
                exit.await.unwrap()
            };
            drop(stream);
            let _ = tell.send(end);
        });
        Ok(Stream {
            input,
            output,
            errors,
            exit,
        })
    }
}

fn seeded(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}

/// How a stream is broken.
#[derive(Clone, Copy, Debug)]
enum How {
    Cut,
    KillSend,
    KillReceive,
}

async fn broken(tool: Tool, of: &str, positions: u64) {
    let Some(lab) = Lab::open("streams that break").await else {
        return;
    };
    let size = 128 * MIB;
    let mut pair = lab.pair(of, "scsi0", size).await;
    pair.tool = tool;
    // About what the target takes in, so that little is on its way when it is killed.
    pair.limit = Some(Bandwidth::bytes_per_second(2 * MIB));
    lab.create(&pair, size, "-s -o volblocksize=16k").await;
    lab.fill(&pair, 0, size / MIB).await;
    let engine = lab.engine();
    let pairs = [pair];
    engine.prepare(&pairs).await.unwrap();
    engine.begin(&pairs, Pass::Precopy).await.unwrap();
    let name = format!("{}@proxmove-{of}-1", lab.source(&pairs[0]));
    let full = size_of(&lab.a(&format!("zfs send -nvP -c -L -e {name}")).await);
    let mut random = seeded(20);
    let step = size / (positions + 1);
    let mut worst = 0;
    // What zfs receive has according to its token, after each break.
    let mut kept = 0;
    for number in 0..positions {
        let how = match tool {
            Tool::Porter => [How::Cut, How::KillSend, How::KillReceive][(number % 3) as usize],
            // mbuffer runs far ahead of the connection: zfs send has ended long before its stream has.
            Tool::Stock => How::Cut,
        };
        let place = number * step + random.u64(step / 2..step);
        let after = place.saturating_sub(kept).max(64 * 1024);
        let mut pair = pairs[0].clone();
        let passed = Arc::new(AtomicU64::new(0));
        if matches!(how, How::Cut) {
            pair.source.shell = Arc::new(Cutting {
                inner: Arc::clone(&lab.a),
                left: after,
                passed: Arc::clone(&passed),
            });
        }
        let seen = AtomicU64::new(0);
        let there = Notify::new();
        let tell = |now: Progress| {
            seen.fetch_max(now.wire.0, Ordering::Relaxed);
            if now.wire.0 >= after {
                there.notify_one();
            }
        };
        let killing = async {
            there.notified().await;
            let (shell, what) = match how {
                How::Cut => return,
                How::KillSend => (
                    &lab.a,
                    format!("zfs send .*{}", if kept == 0 { "@" } else { "-t" }),
                ),
                How::KillReceive => (&lab.b, format!("zfs receive .*{}", lab.target(&pair))),
            };
            let kill = format!("pkill -KILL -f '^zfs .*{}'", &what[4..]);
            let killed = run(shell, &kill).await;
            assert_eq!(killed.exit, Exit::Code(0), "nothing to kill: {kill}");
        };
        let carrying = engine.carry(&pair, Pass::Precopy, &tell);
        let (result, ()) = tokio::join!(carrying, async {
            tokio::select! {
                () = killing => {}
                () = tokio::time::sleep(Duration::from_secs(90)) => {}
            }
        });
        let error = result.expect_err("the stream was broken");
        let token = lab
            .b(&format!(
                "zfs get -Hp -o value receive_resume_token {}",
                lab.target(&pair)
            ))
            .await;
        let printed = lab.a(&format!("zfs send -nvP -t {token}")).await;
        let had = full.saturating_sub(size_of(&printed));
        let delivered = match how {
            How::Cut => kept + passed.load(Ordering::Relaxed),
            How::KillSend | How::KillReceive => kept + seen.load(Ordering::Relaxed),
        };
        let resent = delivered.saturating_sub(had);
        match how {
            How::Cut | How::KillSend => worst = worst.max(resent),
            // What was on its way to a receiver that is no more is lost with any tool: queues and windows, however large
            // the volume is.
            How::KillReceive => assert!(resent < 12 * MIB, "{resent}"),
        }
        eprintln!(
            "{tool:?} {how:?} at {}: kept {}, to be sent again {} ({:.2} %): {error}",
            Bytes(place),
            Bytes(had),
            Bytes(resent),
            100.0 * resent as f64 / full as f64
        );
        kept = had;
    }
    // The rest, and whatever came after it, in a pass that is not disturbed.
    engine
        .begin(&pairs, Pass::Final(Verify::Full))
        .await
        .unwrap();
    let report = engine
        .carry(&pairs[0], Pass::Final(Verify::Full), &|_| {})
        .await
        .unwrap();
    eprintln!(
        "{tool:?}: {} in the end; worst case {} again of {}",
        report.progress.carried,
        Bytes(worst),
        Bytes(full)
    );
    assert_eq!(
        lab.hash_source(&pairs[0]).await,
        lab.hash_target(&pairs[0]).await
    );
    assert!(worst * 50 < full, "{worst}");
    lab.remove(&pairs).await;
}

fn size_of(printed: &str) -> u64 {
    let mut lines = printed.lines();
    let size = lines.find_map(|line| line.strip_prefix("size\t"));
    size.unwrap().parse().unwrap()
}

fn positions() -> u64 {
    let set = std::env::var("PROXMOVE_LAB_POSITIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_that_breaks_goes_on_from_there() {
    broken(Tool::Porter, "565-130", positions()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_of_the_hosts_own_tools_goes_on_as_well() {
    broken(Tool::Stock, "565-131", positions().min(3)).await;
}
