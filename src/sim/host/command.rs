//! One command that a client of the embedded server asked for: a child of `sh -c`, joined to its channel.
//!
//! Its standard input, output and error are pipes; there is no terminal. It never buffers more than a pipe and a
//! window hold. When the channel closes, the pipes close at once, as with any SSH server; what has not ended by itself
//! [`GRACE`] later is killed with its whole process group.
//!
//! Read next: `gate.rs`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::Future;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::gate::Gate;

/// How long a command has after its channel closed: enough to see end of file and to put its things in order, which on
/// a busy disk takes seconds. An sshd would let it go on for as long as it likes.
const GRACE: Duration = Duration::from_secs(5);
/// Output that cannot be passed on within this time is taken to wait for the client's window.
const PATIENCE: Duration = Duration::from_millis(5);
/// What is read from a command at once: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// RFC 4254, section 5.2: SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;

/// The process groups that run now, so that the end of a host is the end of them all.
#[derive(Debug, Default)]
pub(super) struct Groups {
    state: Mutex<GroupsState>,
}

#[derive(Debug, Default)]
struct GroupsState {
    leaders: BTreeSet<i32>,
    over: bool,
}

impl Groups {
    fn state(&self) -> MutexGuard<'_, GroupsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a group that was started. One that comes too late is killed at once.
    pub(super) fn add(&self, leader: i32) {
        let mut state = self.state();
        state.leaders.insert(leader);
        if state.over {
            signal_group(leader, Signal::KILL);
        }
    }

    fn forget(&self, leader: i32) {
        self.state().leaders.remove(&leader);
    }

    /// Kills them all, and those that are added later.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.over = true;
        for leader in &state.leaders {
            signal_group(*leader, Signal::KILL);
        }
    }

    /// Sends a signal to a group, unless it is gone.
    fn signal(&self, leader: i32, signal: Signal) {
        if self.state().leaders.contains(&leader) {
            signal_group(leader, signal);
        }
    }

    /// Passes a client's signal request on; names that have no business here are ignored.
    pub(super) fn pass_signal(&self, leader: i32, signal: &Sig) {
        let signal = match signal {
            Sig::ABRT => Signal::ABORT,
            Sig::ALRM => Signal::ALARM,
            Sig::HUP => Signal::HUP,
            Sig::INT => Signal::INT,
            Sig::KILL => Signal::KILL,
            Sig::QUIT => Signal::QUIT,
            Sig::TERM => Signal::TERM,
            Sig::USR1 => Signal::USR1,
            Sig::FPE | Sig::ILL | Sig::PIPE | Sig::SEGV | Sig::Custom(_) => return,
        };
        self.signal(leader, signal);
    }
}

/// Sends a signal to a process group. It may be gone already, which is as good.
fn signal_group(leader: i32, signal: Signal) {
    if let Some(leader) = Pid::from_raw(leader) {
        let _ = kill_process_group(leader, signal);
    }
}

/// What to start.
#[derive(Debug)]
pub(super) enum Program {
    /// `sh -c` with the bytes the client sent.
    Shell(Vec<u8>),
    /// A subsystem's own program.
    Subsystem(PathBuf),
}

/// What of a node is the host's own, where its directory has it. A command of the embedded server runs on this machine,
/// which has something else there, or nothing; so it is told the other name.
const OF_A_NODE: [&str; 2] = ["/etc/pve", "/var/lock/qemu-server"];

/// Returns a command line with the names of files of a node as this machine has them.
fn seen_from(home: &Path, line: Vec<u8>) -> Vec<u8> {
    if !home.join("etc/pve").is_dir() {
        return line;
    }
    match String::from_utf8(line) {
        Ok(text) => {
            let named =
                |text: String, name: &str| text.replace(name, &format!("{}{name}", home.display()));
            OF_A_NODE.into_iter().fold(text, named).into_bytes()
        }
        Err(odd) => odd.into_bytes(),
    }
}

/// Starts a program as the leader of a process group of its own, with an environment like that of an SSH server.
pub(super) fn spawn(program: Program, home: &Path, user: &str) -> std::io::Result<Child> {
    let mut command = match program {
        Program::Shell(line) => {
            let mut command = tokio::process::Command::new("/bin/sh");
            command
                .arg("-c")
                .arg(OsString::from_vec(seen_from(home, line)));
            command
        }
        Program::Subsystem(path) => tokio::process::Command::new(path),
    };
    let mut path = home.join(super::PROGRAMS).into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("USER", user)
        .env("LOGNAME", user)
        .env("SHELL", "/bin/sh")
        .current_dir(home)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// A command with its channel.
pub(super) struct Exec {
    pub(super) child: Child,
    pub(super) leader: i32,
    pub(super) reader: ChannelReadHalf,
    pub(super) writer: ChannelWriteHalf<Msg>,
    pub(super) handle: Handle,
    pub(super) gate: Arc<Gate>,
    pub(super) groups: Arc<Groups>,
    /// Ends, by a value or by losing its sender, when the channel closes or the connection breaks.
    pub(super) closed: oneshot::Receiver<()>,
    /// Whether the client is told how it ended.
    pub(super) answers: bool,
}

impl Exec {
    /// Carries the three streams until the command has ended or the channel is closed; ends in either case with the
    /// command gone and the channel closed.
    pub(super) async fn run(mut self) {
        let id = self.writer.id();
        let stdin = self.child.stdin.take();
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let ended = {
            let input = carry_input(&mut self.reader, stdin, &self.gate);
            let outputs = async {
                tokio::join!(
                    carry_output(stdout, None, &self.writer, &self.gate),
                    carry_output(stderr, Some(STDERR), &self.writer, &self.gate),
                );
                // Both are at their end, so the client may know before the command itself ends.
                let _ = self.writer.eof().await;
            };
            let work = async { tokio::join!(outputs, self.child.wait()).1 };
            tokio::pin!(input, work);
            let mut listening = true;
            loop {
                tokio::select! {
                    ended = &mut work => break Some(ended),
                    _ = &mut self.closed => break None,
                    () = &mut input, if listening => listening = false,
                }
            }
        };
        // Whatever was not finished is dropped by now, and with it our ends of the pipes.
        if let Some(Ok(status)) = ended {
            // First of all, as the number may be used anew from here on.
            self.groups.forget(self.leader);
            if self.answers {
                report_exit(&self.handle, id, status).await;
            }
        } else {
            if timeout(GRACE, self.child.wait()).await.is_err() {
                self.groups.signal(self.leader, Signal::KILL);
                let _ = self.child.wait().await;
            } else {
                // The leader left in time; what it left behind in its group did not.
                signal_group(self.leader, Signal::KILL);
            }
            self.groups.forget(self.leader);
        }
        let _ = self.writer.close().await;
        // What still arrives before the client closes its side must be taken off the queue.
        carry_input(&mut self.reader, None, &self.gate).await;
    }
}

/// Takes a message off the gate's account when it is dropped, however that comes.
struct Message<'a> {
    gate: &'a Gate,
    bytes: usize,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.gate.taken(self.bytes);
    }
}

/// Carries what the client sends into the command, or nowhere once the command does not want it, until the channel is
/// closed.
async fn carry_input(reader: &mut ChannelReadHalf, mut pipe: Option<ChildStdin>, gate: &Gate) {
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let _message = Message {
                    gate,
                    bytes: data.len(),
                };
                if let Some(open) = &mut pipe
                    && open.write_all(&data).await.is_err()
                {
                    pipe = None;
                }
            }
            ChannelMsg::Eof => pipe = None,
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

/// Carries one output of the command to the client, as far as the client's window allows.
async fn carry_output(
    pipe: Option<impl AsyncRead + Unpin>,
    kind: Option<u32>,
    writer: &ChannelWriteHalf<Msg>,
    gate: &Arc<Gate>,
) {
    let Some(mut pipe) = pipe else { return };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match pipe.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let sending = async {
            match kind {
                None => writer.data_bytes(chunk).await,
                Some(kind) => writer.extended_data_bytes(kind, chunk).await,
            }
        };
        if or_starving(sending, gate).await.is_err() {
            return;
        }
    }
}

/// Awaits `sending`, and counts as starving when that takes a while.
async fn or_starving<T>(sending: impl Future<Output = T>, gate: &Arc<Gate>) -> T {
    tokio::pin!(sending);
    tokio::select! {
        biased;
        sent = &mut sending => return sent,
        () = sleep(PATIENCE) => {}
    }
    let _starved = gate.starve();
    sending.await
}

async fn report_exit(handle: &Handle, id: russh::ChannelId, status: ExitStatus) {
    let _ = match (status.code(), status.signal()) {
        (Some(code), _) => handle.exit_status_request(id, code as u32).await,
        (None, signal) => {
            let name = signal_name(signal.unwrap_or_default());
            handle
                .exit_signal_request(id, name, status.core_dumped(), String::new(), String::new())
                .await
        }
    };
}

fn signal_name(number: i32) -> Sig {
    match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        // RFC 4254, section 6.10: names of our own carry an at sign.
        other => Sig::Custom(format!("{other}@proxmove")),
    }
}
