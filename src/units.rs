//! Units: sizes and rates that cannot be mixed up.
//!
//! Pure: values in, values out. Never prints, never measures. Read next: `pve/mod.rs`.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A number of bytes.
///
/// Displayed with binary prefixes and one decimal ("37.7 GiB"), as Proxmox VE counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes at all.
    pub const ZERO: Bytes = Bytes(0);

    /// Returns `count` KiB.
    pub const fn kib(count: u64) -> Bytes {
        Bytes(count << 10)
    }

    /// Returns `count` MiB.
    pub const fn mib(count: u64) -> Bytes {
        Bytes(count << 20)
    }

    /// Returns `count` GiB.
    pub const fn gib(count: u64) -> Bytes {
        Bytes(count << 30)
    }

    /// Returns the difference, or zero where `other` is larger.
    pub fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// Returns the average rate of these bytes over `time`; `None` for no time.
    pub fn per(self, time: Duration) -> Option<Bandwidth> {
        let seconds = time.as_secs_f64();
        (seconds > 0.0).then(|| Bandwidth((self.0 as f64 / seconds) as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // 1023.95 would be rounded up to "1024.0", so the next unit starts there.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{value:.1} {}", UNITS[unit]))
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0 + other.0)
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        self.0 += other.0;
    }
}

impl Sub for Bytes {
    type Output = Bytes;
    fn sub(self, other: Bytes) -> Bytes {
        Bytes(self.0 - other.0)
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(values: I) -> Bytes {
        values.fold(Bytes::ZERO, Add::add)
    }
}

/// An amount of processor work, in thousandths of a core: what a node has, or what a guest uses on average.
///
/// Displayed with one decimal ("2.5 cores").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cores(u64);

impl Cores {
    /// Nothing at all.
    pub const ZERO: Cores = Cores(0);

    /// Returns `count` whole cores.
    pub const fn whole(count: u32) -> Cores {
        Cores(count as u64 * 1000)
    }

    /// Returns the share (0.0 to 1.0) of `count` cores; odd shares count as none.
    pub fn share(share: f64, count: u32) -> Cores {
        // `as` saturates, and makes 0 of what is no number.
        Cores((share * f64::from(count) * 1000.0).round() as u64)
    }

    /// Returns the number of thousandths.
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// Returns the difference, or zero where `other` is larger.
    pub fn saturating_sub(self, other: Cores) -> Cores {
        Cores(self.0.saturating_sub(other.0))
    }
}

impl Add for Cores {
    type Output = Cores;
    fn add(self, other: Cores) -> Cores {
        Cores(self.0 + other.0)
    }
}

impl AddAssign for Cores {
    fn add_assign(&mut self, other: Cores) {
        self.0 += other.0;
    }
}

impl std::iter::Sum for Cores {
    fn sum<I: Iterator<Item = Cores>>(values: I) -> Cores {
        values.fold(Cores::ZERO, Add::add)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} cores", self.0 as f64 / 1000.0))
    }
}

/// A rate in bytes per second.
///
/// The constructors carry the unit, because the operator says Mbit/s (`--bwlimit`) and Proxmox VE says KiB/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth(u64);

impl Bandwidth {
    /// Returns a rate given in Mbit/s (10^6 bits per second), the unit of `--bwlimit`.
    pub const fn mbit_per_second(rate: u64) -> Bandwidth {
        Bandwidth(rate * 1_000_000 / 8)
    }

    /// Returns a rate given in KiB/s, the unit of Proxmox VE's own `bwlimit`.
    pub const fn kib_per_second(rate: u64) -> Bandwidth {
        Bandwidth(rate * 1024)
    }

    /// Returns a rate given in bytes per second.
    pub const fn bytes_per_second(rate: u64) -> Bandwidth {
        Bandwidth(rate)
    }

    /// Returns the rate in bytes per second.
    pub const fn as_bytes_per_second(self) -> u64 {
        self.0
    }

    /// Returns how long `bytes` take at this rate; a very long time at rate zero.
    pub fn time_for(self, bytes: Bytes) -> Duration {
        if self.0 == 0 {
            return Duration::from_secs(u32::MAX.into());
        }
        Duration::from_secs_f64(bytes.0 as f64 / self.0 as f64)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_binary_prefixes() {
        let shown = |bytes: u64| Bytes(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1024), "1.0 KiB");
        assert_eq!(shown(50 << 30), "50.0 GiB");
        assert_eq!(shown((1 << 20) - 1), "1.0 MiB");
        assert_eq!(shown(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn cores_are_counted_in_thousandths() {
        assert_eq!(Cores::share(0.25, 8), Cores::whole(2));
        assert_eq!(Cores::share(-1.0, 8), Cores::ZERO);
        assert_eq!(Cores::share(f64::NAN, 8), Cores::ZERO);
        assert_eq!(
            (Cores::whole(2) + Cores::share(0.5, 1)).to_string(),
            "2.5 cores"
        );
    }

    #[test]
    fn bandwidth_knows_both_units() {
        assert_eq!(
            Bandwidth::mbit_per_second(8).as_bytes_per_second(),
            1_000_000
        );
        assert_eq!(Bandwidth::kib_per_second(1).as_bytes_per_second(), 1024);
        assert_eq!(
            Bandwidth::mbit_per_second(8).time_for(Bytes(2_000_000)),
            Duration::from_secs(2)
        );
        assert_eq!(Bytes(10).per(Duration::ZERO), None);
    }
}
