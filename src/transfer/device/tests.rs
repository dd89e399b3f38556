//! What is asked of hosts, in which order, and what is never asked; with hosts that answer from a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::config::SshAddress;
use crate::host::{Shell, ShellError, Stream};
use crate::transfer::{End, EngineKind, Format, Progress, Route, StreamFlags, Tool, Verify};

const FINAL: Pass = Pass::Final(Verify::Full);
const OURS: &str = "type\tvolume\t-\nguid\t5\t-\nvolsize\t67108864\tlocal\nrefreservation\t0\tlocal\n\
                    referenced\t57344\t-\nproxmove:move\tp\tlocal\n";
const SEAL: &str = "guid\t9\t-\nproxmove:digest\tabc\tlocal\nproxmove:move\tp\tlocal\n";

/// Expects commands that contain these words, in this order, and gives these answers.
struct Script(Mutex<VecDeque<(&'static str, Result<String, &'static str>)>>);

#[async_trait]
impl Shell for Script {
    fn address(&self) -> &str {
        "node1"
    }

    async fn run(&self, command: &Command, _: &[u8], _: Duration) -> Result<Output, ShellError> {
        let next = self.0.lock().expect("lock").pop_front();
        let (words, answer) = next.unwrap_or_else(|| panic!("unexpected: {command}"));
        assert!(command.line().contains(words), "{command}: {words}");
        let (code, stdout, stderr) = match answer {
            Ok(printed) => (0, printed, ""),
            Err(said) => (1, String::new(), said),
        };
        Ok(Output {
            exit: Exit::Code(code),
            stdout: stdout.into_bytes(),
            stderr: stderr.as_bytes().to_vec(),
        })
    }

    async fn stream(&self, command: &Command) -> Result<Stream, ShellError> {
        panic!("unexpected stream: {command}")
    }
}

/// Returns a pair of which the given sides are zvols, and its hosts, which both go by one list.
fn pair(source: bool, target: bool, script: &[(&'static str, Answer)]) -> (Pair, Arc<Script>) {
    let script = script
        .iter()
        .cloned()
        .map(|(words, answer)| (words, answer.0));
    let script = Arc::new(Script(Mutex::new(script.collect())));
    let end = |zvol: bool, dataset: &str| End {
        shell: script.clone(),
        peer: SshAddress {
            user: None,
            host: String::from("node1"),
            port: None,
        },
        path: format!("/dev/zvol/{dataset}"),
        zvol: zvol.then(|| Zvol {
            dataset: dataset.to_owned(),
            sparse: false,
            block_size: None,
        }),
        format: Format::Raw,
        temp: String::from("/tmp"),
    };
    let pair = Pair {
        drive: "scsi0".parse().expect("a drive"),
        engine: EngineKind::Image,
        stream: StreamFlags::default(),
        source: end(source, "tank/s"),
        target: end(target, "tank/t"),
        size: Bytes(64 << 20),
        name: String::from("p"),
        route: Route::Relay,
        tool: Tool::Porter,
        limit: None,
        adopt: false,
        snapshots: Vec::new(),
        kept: false,
        forget: false,
    };
    (pair, script)
}

#[derive(Clone)]
struct Answer(Result<String, &'static str>);

fn says(text: &str) -> Answer {
    Answer(Ok(text.to_owned()))
}

fn refuses(text: &'static str) -> Answer {
    Answer(Err(text))
}

fn missing() -> Answer {
    refuses("cannot open 'tank/t': dataset does not exist")
}

fn done(script: &Script) {
    let left = script.0.lock().expect("lock");
    assert!(left.is_empty(), "never asked: {:?}", left.front());
}

fn foreign_ours() -> [String; 3] {
    [
        OURS.replace("\tp\tlocal", "\t-\t-"),
        OURS.replace("\tp\tlocal", "\tp\tinherited from tank"),
        OURS.replace("\tp\tlocal", "\tanother\tlocal"),
    ]
}

#[tokio::test]
async fn a_zvol_is_made_with_its_mark() {
    let (pair, script) = pair(
        false,
        true,
        &[
            ("get -Hp", missing()),
            ("create -V 67108864 -o proxmove:move=p tank/t", says("")),
            ("get -Hp", says(OURS)),
            ("tank/t@proxmove-p-seal", missing()),
            ("test -b", says("")),
        ],
    );
    let zvols = before(&pair, FINAL).await.expect("is made");
    assert_eq!((zvols.target, zvols.fresh), (Some(5), true));
    assert_eq!(zvols.snapshot, None);
    done(&script);
}

#[tokio::test]
async fn nothing_is_done_to_what_is_not_ours() {
    for text in foreign_ours() {
        for verb in 0..4 {
            let (pair, script) = pair(false, true, &[("get -Hp", says(&text))]);
            let ended = match verb {
                0 => before(&pair, Pass::Precopy).await.map(drop),
                1 => before(&pair, FINAL).await.map(drop),
                2 => discard(&pair).await,
                _ => {
                    tidy(&pair).await.expect("has nothing to do");
                    Err(foreign(&pair, Side::Target, ""))
                }
            };
            assert!(
                matches!(ended, Err(TransferError::Foreign { .. })),
                "{text}"
            );
            done(&script);
        }
    }
    // Nor to a snapshot of a zvol of ours.
    let stranger = SEAL.replace("\tp\tlocal", "\tp\tinherited from tank/t");
    let (pair, script) = pair(
        false,
        true,
        &[("get -Hp", says(OURS)), ("-seal", says(&stranger))],
    );
    let ended = discard(&pair).await;
    assert!(
        matches!(ended, Err(TransferError::Foreign { .. })),
        "{ended:?}"
    );
    done(&script);
}

#[tokio::test]
async fn only_a_zvol_without_any_mark_is_adopted() {
    let [bare, inherited, another] = foreign_ours();
    for text in [bare, inherited] {
        let (mut pair, script) = pair(
            false,
            true,
            &[
                ("get -Hp", says(&text)),
                ("set proxmove:move=p tank/t", says("")),
                ("get -Hp", says(OURS)),
                ("-seal", says(SEAL)),
                ("destroy tank/t@proxmove-p-seal", says("")),
                ("test -b", says("")),
            ],
        );
        pair.adopt = true;
        let adopted = before(&pair, Pass::Precopy).await;
        assert_eq!(adopted.map(|zvols| zvols.fresh).ok(), Some(false));
        done(&script);
    }
    for text in [another, String::from("type\tfilesystem\t-\n")] {
        let (mut pair, script) = pair(false, true, &[("get -Hp", says(&text))]);
        pair.adopt = true;
        before(&pair, FINAL).await.expect_err("is foreign");
        done(&script);
    }
}

fn report() -> PassReport {
    PassReport {
        progress: Progress::default(),
        duration: Duration::ZERO,
        digest: Some(String::from("abc")),
        repaired: Bytes::ZERO,
        repaired_at: None,
    }
}

#[tokio::test]
async fn a_source_is_frozen_before_it_is_read_and_asked_after() {
    for (written, well) in [("0", true), ("8192", false)] {
        let written = format!("written@proxmove-p-seal\t{written}\t-\n");
        let (pair, script) = pair(
            true,
            false,
            &[
                ("-seal", says(SEAL)),
                ("destroy tank/s@proxmove-p-seal", says("")),
                (
                    "sync -- /dev/zvol/tank/s && zpool sync tank && env LC_ALL=C zfs snapshot",
                    says(""),
                ),
                ("-seal", says(&SEAL.replace("\t9\t", "\t10\t"))),
                ("zpool sync tank && env LC_ALL=C zfs get", says(&written)),
            ],
        );
        let zvols = before(&pair, FINAL).await.expect("is frozen");
        assert_eq!(zvols.snapshot, Some(10));
        let ended = after(&pair, FINAL, zvols, &report()).await;
        assert_eq!(ended.is_ok(), well, "{ended:?}");
        done(&script);
    }
}

#[tokio::test]
async fn only_the_very_snapshot_of_a_seal_is_a_fact() {
    let mut sealed = SourceState {
        size: 0,
        written: 0,
        changed: 0,
        inode: 0,
        file: false,
        snapshot: Some(9),
    };
    let written = |count: u64| says(&format!("written@proxmove-p-seal\t{count}\t-\n"));
    for (guid, script, expect) in [
        (
            9,
            vec![("-seal", says(SEAL)), ("written@", written(0))],
            Some(true),
        ),
        (
            9,
            vec![("-seal", says(SEAL)), ("written@", written(1))],
            Some(false),
        ),
        (8, vec![("-seal", says(SEAL))], None),
        (9, vec![("-seal", missing())], None),
    ] {
        let (pair, script) = pair(true, false, &script);
        sealed.snapshot = Some(guid);
        assert_eq!(source_same(&pair, &sealed).await.ok(), Some(expect));
        done(&script);
    }
    for (digest, script, expect) in [
        (
            "abc",
            vec![("-seal", says(SEAL)), ("written@", written(0))],
            Some(true),
        ),
        (
            "abc",
            vec![("-seal", says(SEAL)), ("written@", written(1))],
            Some(false),
        ),
        ("other", vec![("-seal", says(SEAL))], None),
    ] {
        let (pair, script) = pair(false, true, &script);
        assert_eq!(target_kept(&pair, digest).await.ok(), Some(expect));
        done(&script);
    }
}

#[tokio::test]
async fn the_mark_goes_last_and_what_is_busy_is_tried_again() {
    let (tidied, script) = pair(
        false,
        true,
        &[
            ("get -Hp", says(OURS)),
            ("-seal", says(SEAL)),
            ("destroy tank/t@proxmove-p-seal", says("")),
            ("set refreservation=auto tank/t", says("")),
            ("inherit proxmove:move tank/t", says("")),
        ],
    );
    tidy(&tidied).await.expect("tidies");
    done(&script);
    let (discarded, script) = pair(
        false,
        true,
        &[
            ("get -Hp", says(OURS)),
            ("-seal", missing()),
            (
                "destroy tank/t",
                refuses("cannot destroy 'tank/t': dataset is busy"),
            ),
            ("destroy tank/t", says("")),
        ],
    );
    discard(&discarded).await.expect("discards");
    done(&script);
}
