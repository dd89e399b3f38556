//! What a machine's network devices and processors count, apart from the simulated cluster that runs on it.

use crate::sites::Site;

/// Counters of one machine at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// Bytes sent and received on all devices but the loopback one.
    sent: u64,
    received: u64,
    /// Hundredths of seconds that its processor was busy, without the simulation.
    busy: u64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) cpu_seconds: f64,
}

impl Meter {
    pub(crate) fn read(site: &Site) -> Meter {
        let ask = format!(
            "cat /proc/net/dev; head -n 1 /proc/stat; \
             for pid in $(pgrep -f 'sim --scenario {}/'); do echo sim $(cat /proc/$pid/stat); done",
            site.directory
        );
        let text = site.machine.run(&ask);
        let mut meter = Meter::default();
        let mut simulation = 0;
        for line in text.lines() {
            let line = line.trim();
            let numbers = |text: &str| -> Vec<u64> {
                let words = text.split_whitespace();
                words.filter_map(|word| word.parse().ok()).collect()
            };
            if let Some(times) = line.strip_prefix("cpu ") {
                let times = numbers(times);
                // User, nice, system; irq and softirq. Idle and waiting for disks are no work.
                meter.busy = times[0] + times[1] + times[2] + times[5] + times[6];
            } else if let Some(process) = line.strip_prefix("sim ") {
                // The name, in parentheses, may have blanks.
                let (_, rest) = process.rsplit_once(')').unwrap();
                let words: Vec<&str> = rest.split_whitespace().collect();
                simulation += words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap();
            } else if let Some((device, counts)) = line.split_once(':')
                && device != "lo"
            {
                let counts = numbers(counts);
                meter.received += counts[0];
                meter.sent += counts[8];
            }
        }
        meter.busy = meter.busy.saturating_sub(simulation);
        meter
    }

    pub(crate) fn since(self, before: Meter) -> Used {
        Used {
            sent: self.sent - before.sent,
            received: self.received - before.received,
            cpu_seconds: self.busy.saturating_sub(before.busy) as f64 / 100.0,
        }
    }
}
