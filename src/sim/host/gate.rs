//! Back-pressure for a connection of the embedded server: when to read from a client, and when to let it wait.
//!
//! The SSH library widens a channel's window as soon as data arrive, not when a command took them, and hands them to
//! us in its only task. If that task waited for a slow command, nothing would leave it either, and two busy directions
//! would lock each other up. So it never waits. Instead, data queue up, and [`GatedStream`] stops reading the TCP
//! connection while too much is queued, which TCP passes on to the client.
//!
//! Window adjustments for our own output come through the same connection, though. While output waits for one,
//! reading goes on above the first limit. What then comes in is bounded by what the kernel holds for the
//! connection, except for a client that never reads our output and yet sends: it is slowed down, and in the end cut
//! off.
//!
//! This never looks into the bytes: it sees ciphertext. Read next: `command.rs`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Queued bytes above which a connection is not read: two of the windows most clients use.
const COMFORT: usize = 4 << 20;
/// Queued bytes up to which output that waits for a window lets us read on: more than the kernel's buffers of a
/// connection (net.ipv4.tcp_rmem and tcp_wmem end at 6 and 4 MiB by default), so the adjustment is found within.
const STRETCH: usize = 64 << 20;
/// Queued bytes at which the client is cut off, having sent all that without reading.
const BREAKING: usize = 256 << 20;
/// Between the last two: one read at a time, with this pause, which doubles with every [`STEP`] more that is queued.
/// Short at first, since a client that reads, if slowly, has an adjustment on the way.
const TRICKLE: Duration = Duration::from_millis(2);
/// Some minutes pass until a client is cut off.
const STEP: usize = 16 << 20;
/// How often a client that we do not read from is checked for being there at all.
const PRESENCE: Duration = Duration::from_secs(1);
/// What a queued message weighs beside its bytes.
const MESSAGE: usize = 64;
/// Outgoing bytes kept for a client that does not empty its TCP buffer. What may be outstanding is bounded by the
/// windows the client gave, so this much is only reached by one with many channels.
const UNSENT: usize = 16 << 20;

/// What a connection's parts share about its queues.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Signed: a message may be taken before it is counted.
    queued: i64,
    starved: usize,
    closed: bool,
    reader: Option<Waker>,
}

#[derive(Debug, PartialEq, Eq)]
enum Pace {
    Free,
    Wait,
    Trickle(Duration),
    Closed,
    Overflow,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that was queued for a command.
    pub(super) fn queued(&self, bytes: usize) {
        self.state().queued += (bytes + MESSAGE) as i64;
    }

    /// Counts a message that a command took, or that nobody wants any more.
    pub(super) fn taken(&self, bytes: usize) {
        let mut state = self.state();
        state.queued -= (bytes + MESSAGE) as i64;
        if state.queued < COMFORT as i64
            && let Some(reader) = state.reader.take()
        {
            reader.wake();
        }
    }

    /// Marks output as waiting for the client's window, until the value is dropped.
    pub(super) fn starve(self: &Arc<Self>) -> Starved {
        let mut state = self.state();
        state.starved += 1;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Starved(Arc::clone(self))
    }

    /// Makes the connection end at its next step.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    fn pace(&self, waker: &Waker) -> Pace {
        let mut state = self.state();
        state.reader = Some(waker.clone());
        let queued = state.queued.max(0) as usize;
        match (state.closed, state.starved > 0) {
            (true, _) => Pace::Closed,
            (false, _) if queued < COMFORT => Pace::Free,
            (false, false) => Pace::Wait,
            (false, true) if queued < STRETCH => Pace::Free,
            (false, true) if queued < BREAKING => {
                Pace::Trickle(TRICKLE * (1 << ((queued - STRETCH) / STEP)))
            }
            (false, true) => Pace::Overflow,
        }
    }
}

/// Output waits for the client's window as long as this lives.
#[derive(Debug)]
pub(super) struct Starved(Arc<Gate>);

impl Drop for Starved {
    fn drop(&mut self) {
        self.0.state().starved -= 1;
    }
}

/// A TCP connection that is read at the pace of its [`Gate`], and whose writes wait only for a full [`UNSENT`].
#[derive(Debug)]
pub(super) struct GatedStream {
    stream: TcpStream,
    gate: Arc<Gate>,
    unsent: VecDeque<u8>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl GatedStream {
    pub(super) fn new(stream: TcpStream, gate: Arc<Gate>) -> GatedStream {
        GatedStream {
            stream,
            gate,
            unsent: VecDeque::new(),
            pause: None,
        }
    }

    /// Sends what was left over, as far as the client takes it.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, front))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for `time` from the first call on; the next call after it is over starts anew.
    fn poll_pause(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<()> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(time)));
        let soonest = Instant::now() + time;
        if pause.deadline() > soonest {
            pause.as_mut().reset(soonest);
        }
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }
}

impl AsyncRead for GatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The session always has a read under way, so this is what carries the left-over on.
        if let Poll::Ready(Err(error)) = self.poll_unsent(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match self.gate.pace(cx.waker()) {
                Pace::Free => return Pin::new(&mut self.stream).poll_read(cx, buffer),
                Pace::Trickle(pause) => {
                    ready!(self.poll_pause(cx, pause));
                    return Pin::new(&mut self.stream).poll_read(cx, buffer);
                }
                Pace::Wait => {
                    ready!(self.poll_pause(cx, PRESENCE));
                    if peer_has_left(&self.stream) {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                }
                Pace::Closed => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Pace::Overflow => {
                    log::warn!("a client sends without reading what it is sent; cut off");
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
            }
        }
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.poll_unsent(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if self.unsent.len() >= UNSENT => return Poll::Pending,
            Poll::Pending => {
                self.unsent.extend(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => {
                self.unsent.extend(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            ready => ready,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Not waited for: the session would not read meanwhile. The next read sends the rest.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Says whether the other end of a loopback connection is gone.
///
/// A connection that is not read cannot tell: its end of file stands behind the data. But both ends are on this
/// machine, so the kernel's table has the client's end too, and says when nobody holds it open any more.
fn peer_has_left(stream: &TcpStream) -> bool {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
        return true;
    };
    let Ok(table) = std::fs::read_to_string("/proc/net/tcp") else {
        return false;
    };
    let ends = |field: &str, port: u16| {
        field
            .rsplit_once(':')
            .and_then(|(_, digits)| u16::from_str_radix(digits, 16).ok())
            == Some(port)
    };
    // Columns: number, local address, remote address, state; 01 is ESTABLISHED, 08 CLOSE_WAIT (held open, both).
    let held = table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        matches!(
            (columns.next(), columns.next(), columns.next()),
            (Some(from), Some(to), Some("01" | "08"))
                if ends(from, peer.port()) && ends(to, local.port())
        )
    });
    !held
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(queued: usize, starving: bool, expected: Pace) {
        let gate = Arc::new(Gate::default());
        let starved = starving.then(|| gate.starve());
        gate.queued(queued);
        assert_eq!(gate.pace(Waker::noop()), expected, "{queued} {starving}");
        drop(starved);
        // What was queued and taken leaves nothing, in whichever order it is counted.
        gate.taken(10);
        gate.taken(queued);
        gate.queued(10);
        assert_eq!(gate.pace(Waker::noop()), Pace::Free);
        gate.close();
        assert_eq!(gate.pace(Waker::noop()), Pace::Closed);
    }

    #[test]
    fn a_connection_is_read_as_far_as_its_output_needs_it() {
        check(0, false, Pace::Free);
        check(COMFORT - 2 * MESSAGE, false, Pace::Free);
        check(COMFORT, false, Pace::Wait);
        check(BREAKING, false, Pace::Wait);
        check(COMFORT, true, Pace::Free);
        check(STRETCH, true, Pace::Trickle(TRICKLE));
        check(STRETCH + STEP, true, Pace::Trickle(TRICKLE * 2));
        check(BREAKING - 2 * MESSAGE, true, Pace::Trickle(TRICKLE * 2048));
        check(BREAKING, true, Pace::Overflow);
    }

    #[tokio::test]
    async fn a_peer_that_left_is_noticed_behind_its_data() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert!(!peer_has_left(&server));
        client.set_nonblocking(true).unwrap();
        // Until nothing more fits, so that its end of file has no way here.
        while std::io::Write::write(&mut &client, &[0; 65536]).is_ok() {}
        assert!(!peer_has_left(&server));
        drop(client);
        assert!(peer_has_left(&server));
    }
}
