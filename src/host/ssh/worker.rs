//! The worker: one thread that owns one session and runs one command after the other on it.
//!
//! Short commands share a worker, a long-running one has its own, and a jump host's worker carries another connection's
//! bytes. Never retries a command. Read next: `../ssh.rs`, which decides what is retried.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use ssh2::Channel;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use super::connect::{Connection, Verified, connect};
use super::pump::{End, Queues, Wire, pump, queues};
use super::settings::Destination;
use super::{SshOptions, pump};
use crate::host::{CHUNK, ShellError, Stream};

/// How long a session is kept for the next short command. Below the minute after which some firewalls forget a silent
/// connection.
const IDLE: Duration = Duration::from_secs(45);

/// One command to run.
pub(super) struct Job {
    line: String,
    brief: String,
    queues: Queues,
    started: oneshot::Sender<Result<(), Refusal>>,
}

/// Why a command did not start.
pub(super) enum Refusal {
    /// The session was dead before the command was sent: a new one may be tried.
    Stale(String),
    /// The command may have been started.
    Lost(String),
}

/// Makes a job; returns also the streams, and where it is told that it started.
pub(super) fn job(
    line: &str,
    brief: String,
) -> (Job, Stream, oneshot::Receiver<Result<(), Refusal>>) {
    let (stream, queues) = queues();
    let (started, has_started) = oneshot::channel();
    let job = Job {
        line: line.to_owned(),
        brief,
        queues,
        started,
    };
    (job, stream, has_started)
}

/// Connects in a thread of its own, which then serves jobs until their sender is dropped or the session is.
pub(super) async fn start(
    destination: Destination,
    options: SshOptions,
) -> Result<(mpsc::Sender<Job>, Verified), ShellError> {
    let address = destination.address();
    let (jobs_sender, jobs) = mpsc::channel(1);
    let (connected, has_connected) = oneshot::channel();
    let failed = |source| ShellError::Connect {
        address: address.clone(),
        source,
    };
    spawn(&address, {
        let address = address.clone();
        move || {
            let connection = match connect(&destination, &options) {
                Ok(connection) => connection,
                Err(error) => {
                    let _ = connected.send(Err(error));
                    return;
                }
            };
            if connected.send(Ok(connection.verified.clone())).is_ok() {
                serve(connection, jobs, &address);
            }
        }
    })
    .map_err(failed)?;
    let verified = has_connected
        .await
        .map_err(|_| failed(std::io::Error::other("the connection's thread ended")))??;
    Ok((jobs_sender, verified))
}

/// Starts a thread with a name that shows up in `top -H`.
fn spawn(address: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(format!("ssh {address}"))
        .spawn(body)
        .map(drop)
}

/// Runs a future on a runtime of this thread alone.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(future))
}

/// Serves jobs one after the other.
fn serve(connection: Connection, mut jobs: mpsc::Receiver<Job>, address: &str) {
    let served = block_on(async {
        let mut wire = Wire::new(connection.session, connection.socket)?;
        while let Ok(Some(job)) = tokio::time::timeout(IDLE, jobs.recv()).await {
            if !perform(&mut wire, job, address).await {
                break;
            }
        }
        // Nobody may hand over a job any more; one that is in the queue is seen as refused by its sender.
        drop(jobs);
        wire.close();
        Ok::<(), std::io::Error>(())
    });
    if let Err(error) | Ok(Err(error)) = served {
        log::debug!("{address}: {error}");
    }
}

/// Runs one job; returns whether the session can be used for another one.
async fn perform(wire: &mut Wire, job: Job, address: &str) -> bool {
    let Job {
        line,
        brief,
        queues,
        started,
    } = job;
    let mut channel = match wire.open().await {
        Ok(channel) => channel,
        Err(reason) => {
            let _ = started.send(Err(Refusal::Stale(reason)));
            return false;
        }
    };
    if let Err(reason) = wire.finish(|_| channel.exec(&line)).await {
        let _ = started.send(Err(Refusal::Lost(reason)));
        return false;
    }
    if started.send(Ok(())).is_err() {
        return false;
    }
    let (end, exit) = pump(wire, &mut channel, queues).await;
    match end {
        End::Exit(code) => {
            let _ = exit.send(Ok(code));
            wire.finish(|_| channel.close()).await.is_ok()
        }
        End::Abandoned => {
            log::debug!("{address}: '{brief}' was abandoned");
            false
        }
        End::Broken(reason) => {
            let _ = exit.send(Err(ShellError::Lost {
                address: address.to_owned(),
                command: brief,
                reason,
            }));
            false
        }
    }
}

/// Lets a jump host connect to `host` and `port`; returns our end of that connection.
///
/// A thread carries the bytes until one of both ends closes.
pub(super) fn bridge(connection: Connection, host: &str, port: u16) -> Result<UnixStream, String> {
    let channel = connection
        .session
        .channel_direct_tcpip(host, port, None)
        .map_err(|error| error.message().to_owned())?;
    let carried = || -> std::io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let label = format!("jump {host}");
        spawn(&label.clone(), move || {
            let ended = block_on(carry(connection, channel, theirs));
            if let Err(error) | Ok(Err(error)) = ended {
                log::debug!("{label}: {error}");
            }
        })?;
        Ok(ours)
    };
    carried().map_err(|error| error.to_string())
}

/// Carries bytes between a socket and a channel.
async fn carry(
    connection: Connection,
    mut channel: Channel,
    socket: UnixStream,
) -> std::io::Result<()> {
    let mut wire = Wire::new(connection.session, connection.socket)?;
    let (mut reader, mut writer) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let (stream, queues) = pump::queues();
    let Stream {
        input,
        mut output,
        errors,
        exit,
    } = stream;
    let to_host = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = reader.read(&mut buffer).await {
            if count == 0 || input.send(buffer[..count].to_vec()).await.is_err() {
                break;
            }
        }
    };
    let from_host = async move {
        while let Some(chunk) = output.recv().await {
            if writer.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    let from_channel = async {
        // What the channel still had to say is written out before its end counts.
        tokio::join!(pump(&mut wire, &mut channel, queues), from_host);
    };
    tokio::select! {
        () = to_host => {}
        () = from_channel => {}
    }
    drop((errors, exit));
    wire.close();
    Ok(())
}
