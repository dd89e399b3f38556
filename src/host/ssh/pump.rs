//! The pump: moves input, output and errors of one channel at the same time, without ever waiting for one of them.
//!
//! libssh2 is not blocking here, and one thread owns its session. The loop tries all three directions, and only when
//! none of them moved it waits for the socket, for more input, or for room in a queue. Two rules come from the library
//! (transport.c): a call that would block is repeated with the same bytes, because its packet may be half sent; and no
//! keepalive is sent into a full socket, because that packet could never be completed. Knows no keys, no hosts and no
//! commands. Read next: `worker.rs`.

use std::future::Future;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, ErrorCode, Session};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::host::{CHUNK, Exit, QUEUE, ShellError, Stream};

/// After how much silence the host is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// After how much silence the connection is lost, when [`QUESTIONS`] were unanswered.
const SILENCE: Duration = Duration::from_secs(60);

/// How many questions must be unanswered. A machine that slept has heard nothing for long, and it is not the host's fault.
const QUESTIONS: u32 = 3;

/// How many bytes a host may send before it hears from us: 80 MB/s at 50 ms round trip, and several connections carry
/// more. The library queues at most this much when its reader is slow; sshd does, too, and gets slow with more.
const WINDOW: u32 = 4 << 20;

/// The largest packet we ask for; OpenSSH sends none above 32 KiB.
const PACKET: u32 = 32 << 10;

/// The library's "try again" (LIBSSH2_ERROR_EAGAIN).
const TRY_AGAIN: ErrorCode = ErrorCode::Session(-37);

/// What the next wait is for.
#[derive(Clone, Copy, Default)]
struct Wants {
    read: bool,
    write: bool,
}

impl Wants {
    /// Adds what the library says it is blocked on.
    fn add(&mut self, session: &Session) {
        match session.block_directions() {
            BlockDirections::Inbound => self.read = true,
            BlockDirections::Outbound => self.write = true,
            BlockDirections::Both => {
                self.read = true;
                self.write = true;
            }
            // Blocked on nothing: the answer is still to come.
            BlockDirections::None => self.read = true,
        }
    }
}

/// A session without blocking calls, and the socket to wait on.
pub(super) struct Wire {
    session: Session,
    /// The session's socket, for its readiness alone: which kind of socket it is does not matter for that.
    socket: UnixStream,
    /// When something moved last.
    heard: Instant,
    /// When the last keepalive was sent.
    asked: Instant,
    /// How many were sent since something moved.
    questions: u32,
}

impl Wire {
    /// Takes over a session; needs a tokio runtime around it.
    pub(super) fn new(session: Session, socket: OwnedFd) -> std::io::Result<Wire> {
        session.set_blocking(false);
        // Our own clock decides when to send; the library only must not hold it back. Not earlier: while it still
        // blocks, the library would send keepalives into the key exchange.
        session.set_keepalive(true, 5);
        let now = Instant::now();
        Ok(Wire {
            session,
            socket: UnixStream::from_std(socket.into())?,
            heard: now,
            asked: now,
            questions: 0,
        })
    }

    /// Takes note that something moved.
    fn hear(&mut self) {
        self.heard = Instant::now();
        self.questions = 0;
    }

    /// Opens a channel for one command.
    pub(super) async fn open(&mut self) -> Result<Channel, String> {
        self.finish(|session| session.channel_open("session", WINDOW, PACKET, None))
            .await
    }

    /// Repeats a call until it does not block any more.
    pub(super) async fn finish<T>(
        &mut self,
        mut call: impl FnMut(&Session) -> Result<T, ssh2::Error>,
    ) -> Result<T, String> {
        self.hear();
        loop {
            match call(&self.session) {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == TRY_AGAIN => {
                    let mut wants = Wants::default();
                    wants.add(&self.session);
                    self.wait(wants).await?;
                }
                Err(error) => return Err(error.message().to_owned()),
            }
        }
    }

    /// Tells the host goodbye, if it listens, and closes the socket for every holder.
    pub(super) fn close(self) {
        if self.look(PollFlags::OUT).contains(PollFlags::OUT) {
            let _ = self.session.disconnect(None, "done", None);
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Returns which of `flags` hold right now.
    fn look(&self, flags: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(&self.socket, flags)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => fds[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }

    /// Waits until the socket can do what is wanted; fails when the host gave no sign of life for [`SILENCE`].
    ///
    /// Readiness is told once by tokio, so the socket itself is asked before and after: nothing is missed whatever the
    /// library left unread.
    async fn wait(&mut self, wants: Wants) -> Result<(), String> {
        let (interest, mut flags) = match (wants.read, wants.write) {
            (true, true) => (
                Interest::READABLE | Interest::WRITABLE,
                PollFlags::IN | PollFlags::OUT,
            ),
            (true, false) => (Interest::READABLE, PollFlags::IN),
            (false, true) => (Interest::WRITABLE, PollFlags::OUT),
            (false, false) => {
                // Both of our queues are full: the silence is ours, and whoever waits beside this call ends it.
                self.hear();
                return std::future::pending().await;
            }
        };
        let seen = self.look(flags);
        if !seen.is_empty() {
            self.hear();
            tokio::task::yield_now().await;
            return Ok(());
        }
        loop {
            let next = self.heard.max(self.asked) + KEEPALIVE;
            tokio::select! {
                ready = self.socket.ready(interest) => {
                    ready.map_err(|error| error.to_string())?;
                    // This is how tokio is told to look again; the error is the one given here.
                    let _ = self.socket.try_io(interest, || {
                        Err::<(), _>(ErrorKind::WouldBlock.into())
                    });
                    flags |= PollFlags::IN;
                    if !self.look(flags).is_empty() {
                        self.hear();
                        return Ok(());
                    }
                }
                () = sleep_until(next) => self.ask()?,
            }
        }
    }

    /// Asks a silent host for a sign of life, or gives it up.
    fn ask(&mut self) -> Result<(), String> {
        let silence = self.heard.elapsed();
        if silence >= SILENCE && self.questions >= QUESTIONS {
            return Err(format!("no sign of life for {} s", silence.as_secs()));
        }
        self.asked = Instant::now();
        self.questions += 1;
        if self.look(PollFlags::OUT).contains(PollFlags::OUT)
            && let Err(error) = self.session.keepalive_send()
        {
            return Err(error.message().to_owned());
        }
        Ok(())
    }
}

/// The pump's ends of a [`Stream`].
pub(super) struct Queues {
    input: mpsc::Receiver<Vec<u8>>,
    output: mpsc::Sender<Vec<u8>>,
    errors: mpsc::Sender<Vec<u8>>,
    pub(super) exit: oneshot::Sender<Result<Exit, ShellError>>,
}

/// Returns both ends of a stream.
pub(super) fn queues() -> (Stream, Queues) {
    let (input_sender, input) = mpsc::channel(QUEUE);
    let (output, output_receiver) = mpsc::channel(QUEUE);
    let (errors, errors_receiver) = mpsc::channel(QUEUE);
    let (exit, exit_receiver) = oneshot::channel();
    let stream = Stream {
        input: input_sender,
        output: output_receiver,
        errors: errors_receiver,
        exit: exit_receiver,
    };
    let queues = Queues {
        input,
        output,
        errors,
        exit,
    };
    (stream, queues)
}

/// How pumping ended.
pub(super) enum End {
    /// The command ended, and everything it wrote was handed over.
    Exit(Exit),
    /// Whoever started the command dropped its stream.
    Abandoned,
    /// The connection broke.
    Broken(String),
}

/// From our input to the channel.
struct Inlet {
    input: mpsc::Receiver<Vec<u8>>,
    open: bool,
    pending: Vec<u8>,
    done: usize,
    ended: bool,
}

impl Inlet {
    /// Tells whether more input may be taken: the chunk before must have left whole.
    fn is_hungry(&self) -> bool {
        self.open && self.pending.is_empty()
    }

    fn take(&mut self, chunk: Option<Vec<u8>>) {
        match chunk {
            Some(chunk) => {
                self.pending = chunk;
                self.done = 0;
            }
            None => self.open = false,
        }
    }

    /// Writes what can be written; returns whether something moved.
    fn turn(
        &mut self,
        channel: &mut Channel,
        wants: &mut Wants,
        wire: &Wire,
    ) -> Result<bool, String> {
        if self.is_hungry() {
            match self.input.try_recv() {
                Ok(chunk) => self.take(Some(chunk)),
                Err(mpsc::error::TryRecvError::Disconnected) => self.open = false,
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
        }
        if !self.pending.is_empty() {
            return match channel.write(&self.pending[self.done..]) {
                Ok(0) => {
                    wants.read = true;
                    Ok(false)
                }
                Ok(count) => {
                    self.done += count;
                    if self.done == self.pending.len() {
                        self.pending = Vec::new();
                    }
                    Ok(true)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wants.add(&wire.session);
                    Ok(false)
                }
                Err(error) => Err(error.to_string()),
            };
        }
        if !self.open && !self.ended {
            match channel.send_eof() {
                Ok(()) => self.ended = true,
                Err(error) if error.code() == TRY_AGAIN => wants.add(&wire.session),
                Err(error) => return Err(error.message().to_owned()),
            }
            return Ok(self.ended);
        }
        Ok(false)
    }
}

/// From one of the channel's streams to our reader.
struct Outlet {
    number: i32,
    sender: Option<mpsc::Sender<Vec<u8>>>,
    waiting: Option<Vec<u8>>,
}

impl Outlet {
    fn new(number: i32, sender: mpsc::Sender<Vec<u8>>) -> Outlet {
        Outlet {
            number,
            sender: Some(sender),
            waiting: None,
        }
    }

    /// Hands the waiting chunk over if there is room; a chunk nobody wants is dropped.
    fn hand_over(&mut self) {
        if let (Some(chunk), Some(sender)) = (self.waiting.take(), &self.sender)
            && let Err(mpsc::error::TrySendError::Full(chunk)) = sender.try_send(chunk)
        {
            self.waiting = Some(chunk);
        }
    }

    /// Reads what can be read; returns whether something moved.
    fn turn(
        &mut self,
        channel: &Channel,
        buffer: &mut [u8],
        wants: &mut Wants,
        wire: &Wire,
    ) -> Result<bool, String> {
        self.hand_over();
        if self.waiting.is_some() {
            return Ok(false);
        }
        match channel.stream(self.number).read(buffer) {
            Ok(0) => {
                wants.read = true;
                Ok(false)
            }
            Ok(count) => {
                self.waiting = Some(buffer[..count].to_vec());
                self.hand_over();
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wants.read = true;
                wants.add(&wire.session);
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits for room for the waiting chunk.
    async fn room(&self) {
        match &self.sender {
            Some(sender) => drop(sender.reserve().await),
            None => std::future::pending().await,
        }
    }

    /// Tells whether nobody reads this any more.
    fn is_deaf(&self) -> bool {
        self.sender.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Waits until nobody reads this any more.
    fn deaf(&self) -> impl Future<Output = ()> + use<> {
        let sender = self.sender.clone();
        async move {
            if let Some(sender) = sender {
                sender.closed().await;
            }
        }
    }
}

/// Moves everything until the command's end; returns the end and where to tell it.
pub(super) async fn pump(
    wire: &mut Wire,
    channel: &mut Channel,
    queues: Queues,
) -> (End, oneshot::Sender<Result<Exit, ShellError>>) {
    let Queues {
        input,
        output,
        errors,
        mut exit,
    } = queues;
    let mut inlet = Inlet {
        input,
        open: true,
        pending: Vec::new(),
        done: 0,
        ended: false,
    };
    let mut outlets = [Outlet::new(0, output), Outlet::new(1, errors)];
    let end = turns(wire, channel, &mut inlet, &mut outlets, &mut exit).await;
    (end.unwrap_or_else(End::Broken), exit)
}

async fn turns(
    wire: &mut Wire,
    channel: &mut Channel,
    inlet: &mut Inlet,
    outlets: &mut [Outlet; 2],
    exit: &mut oneshot::Sender<Result<Exit, ShellError>>,
) -> Result<End, String> {
    let mut buffer = vec![0; CHUNK];
    wire.hear();
    loop {
        if exit.is_closed() && outlets.iter().all(Outlet::is_deaf) {
            return Ok(End::Abandoned);
        }
        let mut wants = Wants::default();
        let mut moved = inlet.turn(channel, &mut wants, wire)?;
        if channel.eof() {
            outlets.iter_mut().for_each(Outlet::hand_over);
            if outlets.iter().all(|outlet| outlet.waiting.is_none()) {
                // The readers see the end now, even if the command goes on reading.
                outlets.iter_mut().for_each(|outlet| outlet.sender = None);
                match channel.wait_close() {
                    Ok(()) => return ending(channel).map(End::Exit),
                    Err(error) if error.code() == TRY_AGAIN => wants.read = true,
                    Err(error) => return Err(error.message().to_owned()),
                }
            }
        } else {
            for outlet in outlets.iter_mut() {
                moved |= outlet.turn(channel, &mut buffer, &mut wants, wire)?;
            }
            // The end may have come along with nothing else, and then nothing more comes to wake us.
            moved |= channel.eof();
        }
        if moved {
            wire.hear();
            tokio::task::yield_now().await;
            continue;
        }
        let [output, errors] = &*outlets;
        let abandoned = async {
            exit.closed().await;
            output.deaf().await;
            errors.deaf().await;
        };
        tokio::select! {
            ready = wire.wait(wants) => ready?,
            chunk = inlet.input.recv(), if inlet.is_hungry() => inlet.take(chunk),
            () = output.room(), if output.waiting.is_some() => {}
            () = errors.room(), if errors.waiting.is_some() => {}
            () = abandoned => return Ok(End::Abandoned),
        }
    }
}

/// Returns how the command ended, once the host closed its channel.
fn ending(channel: &Channel) -> Result<Exit, String> {
    let signal = channel
        .exit_signal()
        .map_err(|error| error.message().to_owned())?;
    match signal.exit_signal {
        Some(signal) => Ok(Exit::Signal(signal)),
        None => {
            let code = channel.exit_status();
            code.map(Exit::Code)
                .map_err(|error| error.message().to_owned())
        }
    }
}
