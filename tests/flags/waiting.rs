//! `--wait-before-stop` on a pseudo terminal, and `--yes` without one.
//!
//! Read next: `../flags.rs`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use super::world::{CLASSIC, World};
use super::{RUNNING, is_whole, moved, not_run, world};

/// A move on a pseudo terminal, which `script` makes: what it says comes on `stdout`, events go to a file.
struct Terminal {
    child: tokio::process::Child,
    events: PathBuf,
}

impl Terminal {
    fn start(world: &World, options: &str) -> Terminal {
        let events = world.root.join("events");
        let command = format!(
            "'{}' --json {options} {CLASSIC} >'{}'",
            env!("CARGO_BIN_EXE_proxmove"),
            events.display()
        );
        let child = tokio::process::Command::new("script")
            .args(["-q", "-e", "-f", "-c", &command, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &world.stage.home)
            .env("SHELL", "/bin/sh")
            .current_dir(&world.stage.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Terminal { child, events }
    }

    /// Waits for words on the terminal; returns all that was shown.
    async fn wait_for(&mut self, words: &str) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut shown = Vec::new();
        let reading = async {
            let out = self.child.stdout.as_mut().unwrap();
            let mut buffer = [0; 4096];
            loop {
                let text = String::from_utf8_lossy(&shown);
                if text.contains(words) {
                    return text.into_owned();
                }
                let read = out.read(&mut buffer).await.unwrap();
                assert!(read > 0, "it ended: {text}");
                shown.extend(&buffer[..read]);
            }
        };
        let shown = tokio::time::timeout(world::PATIENCE, reading).await;
        shown.unwrap_or_else(|_| panic!("no '{words}'"))
    }

    /// Returns the passes that are done so far.
    fn passes(&self) -> usize {
        let text = std::fs::read_to_string(&self.events).unwrap();
        text.matches(r#""event":"pass-done""#).count()
    }

    /// Types a line, and returns the exit code.
    async fn answer(&mut self, line: &str) -> Option<i32> {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(line.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
        let ended = tokio::time::timeout(world::PATIENCE, async {
            // Read to the end, lest it waits for somebody to read.
            let mut out = self.child.stdout.take().unwrap();
            let _ = tokio::io::copy(&mut out, &mut tokio::io::sink()).await;
            self.child.wait().await.unwrap()
        });
        ended.await.unwrap().code()
    }
}

fn has_script() -> bool {
    let there = Path::new("/usr/bin/script").exists();
    if !there {
        not_run::not_run(
            "--wait-before-stop on a terminal",
            "/usr/bin/script is missing",
        );
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wait_before_stop_asks_and_copies_meanwhile() {
    if !has_script() {
        return;
    }
    let world = world(RUNNING).await;
    let mut terminal = Terminal::start(&world, "--wait-before-stop --target-vmid 300");
    let shown = terminal.wait_for("[y/N]").await;
    assert!(shown.contains("web1 is copied"), "{shown}");
    world.has_no_secret(&shown);
    let passes = terminal.passes();
    assert!(passes > 0);
    let begin = Instant::now();
    while terminal.passes() == passes {
        assert!(
            begin.elapsed() < world::PATIENCE,
            "it does not copy meanwhile"
        );
        assert_eq!(world.runs("apple", 565), Some(true));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(terminal.answer("n\n").await, Some(130));
    assert_eq!(world.runs("apple", 565), Some(true), "no is no");
    assert_eq!(world.runs("banana", 300), Some(false));

    let mut terminal = Terminal::start(&world, "--wait-before-stop");
    terminal.wait_for("Continue? [y/N]").await;
    let input = terminal.child.stdin.as_mut().unwrap();
    input.write_all(b"y\n").await.unwrap();
    terminal.wait_for("finish the move? [y/N]").await;
    assert_eq!(terminal.answer("y\n").await, Some(0));
    assert_eq!(world.runs("banana", 300), Some(true));
    assert_eq!(world.runs("apple", 565), Some(false));
    is_whole(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn yes_answers_what_would_be_asked() {
    let world = world(RUNNING).await;
    let run = world.run(&format!("--wait-before-stop {CLASSIC}")).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("--yes"), "{run:?}");
    assert_eq!(world.writes(), Vec::<String>::new());
    moved(&world, "--wait-before-stop --yes", 0).await;
    is_whole(&world);
}
