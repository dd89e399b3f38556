//! The operator's wish to stop: Ctrl-C, a closed terminal, SIGTERM.
//!
//! The first wish ends the move at the next place that can be derived again; copying stops at once, since what was
//! copied stays. The second one ends the process. Read next: `mod.rs`.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Knows whether the operator wants to stop.
#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: watch::Receiver<bool>,
}

impl Interrupt {
    /// Returns one that nobody ever asks.
    pub fn never() -> Interrupt {
        Interrupt {
            asked: watch::channel(false).1,
        }
    }

    /// Listens for SIGINT, SIGTERM and SIGHUP. A second one calls `leave`, which must not return to its caller's work.
    pub fn listen(leave: impl Fn() + Send + 'static) -> io::Result<Interrupt> {
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
                    leave();
                }
                ask.send_replace(true);
            }
        });
        Ok(Interrupt { asked })
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
