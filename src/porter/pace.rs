//! Pace: how fast bytes may leave, and whether compressing them pays.
//!
//! Pure: both are told the time. They never sleep and never send. Read next: `send.rs`.

use std::time::{Duration, Instant};

/// A token bucket that holds at most a tenth of a second of its rate.
pub(crate) struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// Makes a bucket of `rate` bytes per second.
    pub(crate) fn new(rate: u64, now: Instant) -> Bucket {
        Bucket {
            rate: rate.max(1) as f64,
            tokens: 0.0,
            filled: now,
        }
    }

    /// Takes `bytes` out, and returns how long to wait before sending them.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate / 10.0);
        self.tokens -= bytes as f64;
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            // One hour bounds what a tiny rate can ask for; the debt stays in the bucket.
            Duration::from_secs_f64((-self.tokens / self.rate).min(3600.0))
        }
    }
}

/// How the next chunk is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is.
    Plain,
    /// Compressed by zstd at level 1.
    Packed,
}

/// Finds out by measuring whether compression carries more content per second.
///
/// Time is cut into windows. Each window sends in one mode and measures content bytes per second; the better mode is
/// kept, and the other one is tried again from time to time, since links and contents change. Compression is not even
/// tried while the link takes everything at once (the queue to it never filled), as the compressor could only slow
/// things down then.
pub(crate) struct Chooser {
    mode: Mode,
    started: Instant,
    content: u64,
    wire: u64,
    congested: bool,
    plain_rate: Option<f64>,
    packed_rate: Option<f64>,
    windows: u32,
    wait: u32,
}

/// Long enough to average over the queue, short enough to settle within the first seconds of a copy.
const WINDOW: Duration = Duration::from_millis(250);
/// After how many windows the other mode is tried again; doubles while it keeps losing.
const FIRST_WAIT: u32 = 8;
const LONGEST_WAIT: u32 = 128;

impl Chooser {
    /// Starts with plain chunks.
    pub(crate) fn new(now: Instant) -> Chooser {
        Chooser {
            mode: Mode::Plain,
            started: now,
            content: 0,
            wire: 0,
            congested: false,
            plain_rate: None,
            packed_rate: None,
            windows: 0,
            wait: FIRST_WAIT,
        }
    }

    /// Returns how to send the next chunk.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Notes a chunk that was queued: its content bytes, its bytes on the wire, and whether the queue was full.
    pub(crate) fn note(&mut self, content: usize, wire: usize, full: bool, now: Instant) {
        self.content += content as u64;
        self.wire += wire as u64;
        self.congested |= full;
        let passed = now.saturating_duration_since(self.started);
        if passed < WINDOW {
            return;
        }
        let rate = self.content as f64 / passed.as_secs_f64();
        match self.mode {
            Mode::Plain => self.plain_rate = Some(rate),
            Mode::Packed => self.packed_rate = Some(rate),
        }
        self.decide();
        self.started = now;
        self.content = 0;
        self.wire = 0;
        self.congested = false;
    }

    fn decide(&mut self) {
        self.windows += 1;
        let packed_saves = self.wire < self.content - self.content / 16;
        self.mode = match (self.mode, self.plain_rate, self.packed_rate) {
            (Mode::Plain, _, None) if self.congested => Mode::Packed,
            (Mode::Plain, _, None) => Mode::Plain,
            (Mode::Plain, Some(plain), Some(packed)) if packed > plain && self.congested => {
                self.settle(true);
                Mode::Packed
            }
            (Mode::Plain, _, Some(_)) => self.after_wait(Mode::Plain, self.congested),
            (Mode::Packed, Some(plain), Some(packed)) if packed <= plain || !packed_saves => {
                self.settle(false);
                Mode::Plain
            }
            (Mode::Packed, _, _) => self.after_wait(Mode::Packed, true),
        };
    }

    /// Resets the waiting time when the trial won, doubles it when it lost.
    fn settle(&mut self, won: bool) {
        self.windows = 0;
        self.wait = if won {
            FIRST_WAIT
        } else {
            (self.wait * 2).min(LONGEST_WAIT)
        };
    }

    /// Stays in `mode`, or tries the other one when it waited long enough.
    fn after_wait(&mut self, mode: Mode, worth_it: bool) -> Mode {
        if self.windows < self.wait || !worth_it {
            return mode;
        }
        self.windows = 0;
        match mode {
            Mode::Plain => Mode::Packed,
            Mode::Packed => Mode::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_keeps_its_rate() {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = Bucket::new(1_000_000, now);
        for _ in 0..100 {
            now += bucket.take(100_000, now);
        }
        let seconds = (now - start).as_secs_f64();
        assert!((9.8..10.2).contains(&seconds), "{seconds}");
    }

    #[test]
    fn an_idle_bucket_saves_little() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000_000, start);
        let later = start + Duration::from_secs(100);
        assert_eq!(bucket.take(100_000, later), Duration::ZERO);
        assert!(bucket.take(100_000, later) > Duration::from_millis(90));
    }

    /// Runs ten seconds over a link of `link` bytes a second with a compressor of `compressor` bytes a second that
    /// reaches `ratio`; returns the share of chunks that were compressed.
    fn check(link: f64, compressor: f64, ratio: f64) -> f64 {
        let start = Instant::now();
        let mut chooser = Chooser::new(start);
        let (mut now, mut link_free) = (start, start);
        let (mut packed, mut all) = (0u32, 0u32);
        const QUEUE: f64 = 0.05;
        while now < start + Duration::from_secs(10) {
            let size = 65536.0;
            let wire = match chooser.mode() {
                Mode::Plain => size,
                Mode::Packed => size * ratio,
            };
            let work = match chooser.mode() {
                Mode::Plain => size / 2e9,
                Mode::Packed => size / compressor,
            };
            now += Duration::from_secs_f64(work);
            let backlog = link_free.saturating_duration_since(now).as_secs_f64();
            let full = backlog > QUEUE;
            if full {
                now += Duration::from_secs_f64(backlog - QUEUE);
            }
            link_free = link_free.max(now) + Duration::from_secs_f64(wire / link);
            all += 1;
            packed += u32::from(chooser.mode() == Mode::Packed);
            chooser.note(65536, wire as usize, full, now);
        }
        f64::from(packed) / f64::from(all)
    }

    #[test]
    fn compression_is_used_where_it_pays() {
        let slow_link = check(10e6, 400e6, 0.4);
        assert!(slow_link > 0.8, "slow link: {slow_link}");
        let fast_link = check(4e9, 400e6, 0.4);
        assert!(fast_link < 0.1, "fast link: {fast_link}");
        let faster_than_compressor = check(1e9, 300e6, 0.4);
        assert!(faster_than_compressor < 0.1, "{faster_than_compressor}");
        let incompressible = check(100e6, 400e6, 1.0);
        assert!(incompressible < 0.2, "incompressible: {incompressible}");
    }
}
