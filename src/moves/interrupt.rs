//! The operator's wish to stop: Ctrl-C, a closed terminal, SIGTERM.
//!
//! The first wish ends the move at the next place that can be derived again; copying stops at once, since what was
//! copied stays. The second one ends the process. Read next: `mod.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Knows whether the operator wants to stop.
#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: watch::Receiver<bool>,
    /// Whether a guest is down because of us right now: what a process that is left at once must say.
    down: Arc<AtomicBool>,
}

impl Interrupt {
    /// Returns one that nobody ever asks.
    pub fn never() -> Interrupt {
        Interrupt {
            asked: watch::channel(false).1,
            down: Arc::default(),
        }
    }

    /// Listens for SIGINT, SIGTERM and SIGHUP. A second one calls `leave` with whether a guest is down, and `leave`
    /// must end the process.
    pub fn listen(leave: impl Fn(bool) + Send + 'static) -> io::Result<Interrupt> {
        let down = Arc::new(AtomicBool::new(false));
        let is_down = Arc::clone(&down);
        let mut signals = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            signals.push(signal(kind)?);
        }
        let (ask, asked) = watch::channel(false);
        let (count, mut counted) = tokio::sync::mpsc::unbounded_channel();
        for mut signal in signals {
            let count = count.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    let _ = count.send(());
                }
            });
        }
        tokio::spawn(async move {
            while counted.recv().await.is_some() {
                if *ask.borrow() {
                    leave(is_down.load(Ordering::Relaxed));
                }
                ask.send_replace(true);
            }
        });
        Ok(Interrupt { asked, down })
    }

    /// Notes whether a guest is down because of us.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Says whether somebody asked to stop.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Waits until somebody asks to stop; forever when nobody can.
    pub async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
