//! A host whose stream is counted, and ends after so many bytes, as when its connection is reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use proxmove::host::command::Command;
use proxmove::host::{Output, Shell, ShellError, Stream};
use tokio::sync::{mpsc, oneshot};

pub(crate) struct Cutting {
    pub(crate) inner: Arc<dyn Shell>,
    /// How much of its streams' output gets through; more than there is for a line that holds.
    pub(crate) left: u64,
    /// How much got through.
    pub(crate) passed: Arc<AtomicU64>,
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
        let (told, errors) = mpsc::channel(8);
        let (tell, exit) = oneshot::channel();
        // Not kept here: the command's input ends when whoever writes to it lets go of it.
        let input = std::mem::replace(&mut stream.input, mpsc::channel(1).0);
        let (mut left, passed) = (self.left, Arc::clone(&self.passed));
        let lost = ShellError::Lost {
            address: self.address().to_owned(),
            command: command.brief(),
            reason: String::from("cut off by the test"),
        };
        tokio::spawn(async move {
            let (mut is_open, mut is_heard) = (true, true);
            while left > 0 && (is_open || is_heard) {
                tokio::select! {
                    bytes = stream.output.recv(), if is_open => match bytes {
                        Some(mut bytes) => {
                            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                            left -= bytes.len() as u64;
                            passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                            is_open = sender.send(bytes).await.is_ok();
                            if !is_open {
                                stream.output.close();
                            }
                        }
                        None => is_open = false,
                    },
                    bytes = stream.errors.recv(), if is_heard => match bytes {
                        // Whoever does not listen to errors misses them.
                        Some(bytes) => drop(told.send(bytes).await),
                        None => is_heard = false,
                    },
                }
            }
            drop(sender);
            let end = if left == 0 {
                Err(lost)
            } else {
                let exit = std::mem::replace(&mut stream.exit, oneshot::channel().1);
                exit.await.unwrap_or(Ok(proxmove::host::Exit::Code(255)))
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
