//! The order: what the operator asked for, in one line of the mark, so that `proxmove resume` need not be told again.
//!
//! Pure. It is written in the words of the command line, and whoever reads a placeholder's notes can type them. An order
//! with a word that is not known here (of a newer release) is none: half an order is worse than asking for all of it.
//! Read next: `mark.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::MoveRequest;
use super::ha::HaWish;
use super::returning::OnFailure;
use crate::pve::drive::DriveKey;
use crate::pve::id::{ClusterAlias, NodeName, StorageId};
use crate::transfer::{Route, Verify};
use crate::units::Bandwidth;

/// What was asked for when a move began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The target cluster's alias at the operator's who began.
    pub target: ClusterAlias,
    /// The node on the target.
    pub node: NodeName,
    /// The storage on the target.
    pub storage: StorageId,
    /// `--map-bridge`.
    pub bridges: BTreeMap<String, String>,
    /// `--map-storage`.
    pub storages: BTreeMap<DriveKey, StorageId>,
    /// `--skip-disks`.
    pub skip_disks: bool,
    /// `--skip-start`.
    pub skip_start: bool,
    /// `--wait-before-stop`.
    pub wait_before_stop: bool,
    /// `--ignore-exists`.
    pub ignore_exists: bool,
    /// `--allow-plain`.
    pub allow_plain: bool,
    /// `--with-snapshots`.
    pub with_snapshots: bool,
    /// `--forget`.
    pub forget: bool,
    /// `--max-downtime`.
    pub max_downtime: Option<Duration>,
    /// `--stop-timeout`.
    pub stop_timeout: Duration,
    /// `--boot-check`.
    pub boot_check: Option<Duration>,
    /// `--on-failure`.
    pub on_failure: OnFailure,
    /// `--ha`.
    pub ha: HaWish,
    /// `--route`.
    pub route: Option<Route>,
    /// `--verify`.
    pub verify: Verify,
    /// `--bwlimit`.
    pub limit: Option<Bandwidth>,
    /// `--parallel`.
    pub parallel: usize,
}

/// What `--stop-timeout` is unless it is said, as on the command line.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// What `--parallel` is unless it is said, as on the command line.
const PARALLEL: usize = 2;

impl Order {
    /// Returns the order of a request.
    pub fn of(request: &MoveRequest) -> Order {
        Order {
            target: request.target.clone(),
            node: request.node.clone(),
            storage: request.storage.clone(),
            bridges: request.bridges.clone(),
            storages: request.storages.clone(),
            skip_disks: request.skip_disks,
            skip_start: request.skip_start,
            wait_before_stop: request.wait_before_stop,
            ignore_exists: request.ignore_exists,
            allow_plain: request.allow_plain,
            with_snapshots: request.with_snapshots,
            forget: request.forget,
            max_downtime: request.max_downtime,
            stop_timeout: request.stop_timeout,
            boot_check: request.boot_check,
            on_failure: request.on_failure,
            ha: request.ha,
            route: request.route,
            verify: request.verify,
            limit: request.limit,
            parallel: request.parallel,
        }
    }

    /// Returns an order that says nothing but where to.
    pub fn plain(target: ClusterAlias, node: NodeName, storage: StorageId) -> Order {
        Order {
            target,
            node,
            storage,
            bridges: BTreeMap::new(),
            storages: BTreeMap::new(),
            skip_disks: false,
            skip_start: false,
            wait_before_stop: false,
            ignore_exists: false,
            allow_plain: false,
            with_snapshots: false,
            forget: false,
            max_downtime: None,
            stop_timeout: STOP_TIMEOUT,
            boot_check: None,
            on_failure: OnFailure::Keep,
            ha: HaWish::Refuse,
            route: None,
            verify: Verify::Full,
            limit: None,
            parallel: PARALLEL,
        }
    }

    /// Returns the request for one guest, by the aliases of whoever asks now.
    pub fn request(
        &self,
        source: &ClusterAlias,
        target: &ClusterAlias,
        guest: &str,
    ) -> MoveRequest {
        MoveRequest {
            source: source.clone(),
            target: target.clone(),
            node: self.node.clone(),
            storage: self.storage.clone(),
            guests: vec![guest.to_owned()],
            skip_disks: self.skip_disks,
            skip_start: self.skip_start,
            wait_before_stop: self.wait_before_stop,
            ignore_exists: self.ignore_exists,
            allow_plain: self.allow_plain,
            with_snapshots: self.with_snapshots,
            forget: self.forget,
            // The placeholder has its number.
            target_vmid: None,
            bridges: self.bridges.clone(),
            storages: self.storages.clone(),
            max_downtime: self.max_downtime,
            stop_timeout: self.stop_timeout,
            boot_check: self.boot_check,
            on_failure: self.on_failure,
            ha: self.ha,
            route: self.route,
            verify: self.verify,
            limit: self.limit,
            parallel: self.parallel,
        }
    }

    /// Returns the line: `banana node2 local-ssd --skip-start --map-bridge=vmbr1=vmbr0`.
    pub fn render(&self) -> String {
        let mut words = vec![
            self.target.to_string(),
            self.node.to_string(),
            self.storage.to_string(),
        ];
        for (is, word) in [
            (self.skip_disks, "--skip-disks"),
            (self.skip_start && !self.skip_disks, "--skip-start"),
            (self.wait_before_stop, "--wait-before-stop"),
            (self.ignore_exists, "--ignore-exists"),
            (self.allow_plain, "--allow-plain"),
            (self.with_snapshots, "--with-snapshots"),
            (self.forget, "--forget"),
        ] {
            if is {
                words.push(word.to_owned());
            }
        }
        let bridges = self.bridges.iter();
        words.extend(bridges.map(|(from, to)| format!("--map-bridge={from}={to}")));
        let storages = self.storages.iter();
        words.extend(storages.map(|(drive, storage)| format!("--map-storage={drive}={storage}")));
        if let Some(most) = self.max_downtime {
            words.push(format!("--max-downtime={}ms", most.as_millis()));
        }
        if self.stop_timeout != STOP_TIMEOUT {
            words.push(format!(
                "--stop-timeout={}ms",
                self.stop_timeout.as_millis()
            ));
        }
        if let Some(most) = self.boot_check {
            words.push(format!("--boot-check={}ms", most.as_millis()));
        }
        match self.on_failure {
            OnFailure::Keep => {}
            OnFailure::Return => words.push("--on-failure=return".to_owned()),
        }
        match self.ha {
            HaWish::Refuse => {}
            wish => words.push(format!("--ha={wish}")),
        }
        match self.route {
            None => {}
            Some(Route::Direct) => words.push("--route=direct".to_owned()),
            Some(Route::Relay) => words.push("--route=relay".to_owned()),
        }
        if self.verify == Verify::Transfer {
            words.push("--verify=transfer".to_owned());
        }
        if let Some(limit) = self.limit {
            // Asked for in whole Mbit/s, so nothing is lost here.
            words.push(format!(
                "--bwlimit={}",
                (limit.as_bytes_per_second() / 125_000).max(1)
            ));
        }
        if self.parallel != PARALLEL {
            words.push(format!("--parallel={}", self.parallel));
        }
        words.join(" ")
    }

    /// Reads the line; `None` when a word of it is not known.
    pub fn parse(line: &str) -> Option<Order> {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let target = words.next()?.parse().ok()?;
        let node = words.next()?.parse().ok()?;
        let storage = words.next()?.parse().ok()?;
        let mut order = Order::plain(target, node, storage);
        for word in words {
            match word.split_once('=') {
                None => match word {
                    "--skip-disks" => (order.skip_disks, order.skip_start) = (true, true),
                    "--skip-start" => order.skip_start = true,
                    "--wait-before-stop" => order.wait_before_stop = true,
                    "--ignore-exists" => order.ignore_exists = true,
                    "--allow-plain" => order.allow_plain = true,
                    "--with-snapshots" => order.with_snapshots = true,
                    "--forget" => order.forget = true,
                    _ => return None,
                },
                Some((option, value)) => order.take(option, value)?,
            }
        }
        Some(order)
    }

    fn take(&mut self, option: &str, value: &str) -> Option<()> {
        match (option, value) {
            ("--map-bridge", _) => {
                let (from, to) = value.split_once('=')?;
                self.bridges.insert(from.to_owned(), to.to_owned());
            }
            ("--map-storage", _) => {
                let (drive, storage) = value.split_once('=')?;
                let storage = storage.parse().ok()?;
                self.storages.insert(drive.parse().ok()?, storage);
            }
            ("--max-downtime", _) => self.max_downtime = Some(millis(value)?),
            ("--stop-timeout", _) => self.stop_timeout = millis(value)?,
            ("--boot-check", _) => self.boot_check = Some(millis(value)?),
            ("--on-failure", "return") => self.on_failure = OnFailure::Return,
            ("--ha", "suspend") => self.ha = HaWish::Suspend,
            ("--ha", "recreate") => self.ha = HaWish::Recreate,
            ("--route", "direct") => self.route = Some(Route::Direct),
            ("--route", "relay") => self.route = Some(Route::Relay),
            ("--verify", "transfer") => self.verify = Verify::Transfer,
            ("--bwlimit", _) => {
                let limit: u64 = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=10_000_000).contains(n))?;
                self.limit = Some(Bandwidth::mbit_per_second(limit));
            }
            ("--parallel", _) => {
                self.parallel = value.parse().ok().filter(|n| (1..=64).contains(n))?
            }
            _ => return None,
        }
        Some(())
    }
}

fn millis(text: &str) -> Option<Duration> {
    let number = text.strip_suffix("ms")?.parse().ok()?;
    Some(Duration::from_millis(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> Order {
        let parsed = |text: &str| text.parse().expect("a storage");
        Order::plain(
            "banana".parse().expect("an alias"),
            "node2".parse().expect("a node"),
            parsed("local-ssd"),
        )
    }

    #[test]
    fn an_order_is_written_as_it_would_be_typed() {
        assert_eq!(plain().render(), "banana node2 local-ssd");
        let order = Order {
            skip_start: true,
            bridges: BTreeMap::from([("vmbr1".to_owned(), "vmbr0".to_owned())]),
            storages: BTreeMap::from([(
                "virtio1".parse().expect("a drive"),
                "slow".parse().expect("a storage"),
            )]),
            limit: Some(Bandwidth::mbit_per_second(100)),
            boot_check: Some(Duration::from_secs(120)),
            on_failure: OnFailure::Return,
            ha: HaWish::Suspend,
            route: Some(Route::Relay),
            verify: Verify::Transfer,
            max_downtime: Some(Duration::from_secs(30)),
            parallel: 4,
            ..plain()
        };
        let line = order.render();
        assert_eq!(
            line,
            "banana node2 local-ssd --skip-start --map-bridge=vmbr1=vmbr0 --map-storage=virtio1=slow \
             --max-downtime=30000ms --boot-check=120000ms --on-failure=return --ha=suspend --route=relay --verify=transfer --bwlimit=100 --parallel=4"
        );
        assert_eq!(Order::parse(&line), Some(order));
    }

    #[test]
    fn a_word_that_is_not_known_makes_it_no_order() {
        assert_eq!(Order::parse("banana node2 local-ssd --with-wings"), None);
        assert_eq!(Order::parse("banana node2 local-ssd --route=air"), None);
        assert_eq!(Order::parse("banana node2"), None);
        assert_eq!(Order::parse(""), None);
    }

    proptest! {
        #[test]
        fn every_order_survives_its_line(
            flags: [bool; 7],
            downtime in proptest::option::of(0u64..10_000_000),
            timeout in 1_000u64..10_000_000,
            boot_check in proptest::option::of(1u64..10_000_000),
            ha in prop_oneof![Just(HaWish::Refuse), Just(HaWish::Suspend), Just(HaWish::Recreate)],
            on_failure in prop_oneof![Just(OnFailure::Keep), Just(OnFailure::Return)],
            route in prop_oneof![Just(None), Just(Some(Route::Direct)), Just(Some(Route::Relay))],
            transfer: bool,
            limit in proptest::option::of(1u64..=10_000_000),
            parallel in 1usize..=64,
        ) {
            let [skip_disks, skip_start, wait_before_stop, ignore_exists, allow_plain, with_snapshots, forget] = flags;
            let order = Order {
                skip_disks,
                skip_start: skip_start || skip_disks,
                wait_before_stop,
                ignore_exists,
                allow_plain,
                with_snapshots,
                forget,
                max_downtime: downtime.map(Duration::from_millis),
                stop_timeout: Duration::from_millis(timeout),
                boot_check: boot_check.map(Duration::from_millis),
                on_failure,
                ha,
                route,
                verify: if transfer { Verify::Transfer } else { Verify::Full },
                limit: limit.map(Bandwidth::mbit_per_second),
                parallel,
                ..plain()
            };
            prop_assert_eq!(Order::parse(&order.render()), Some(order));
        }

        #[test]
        fn no_line_makes_it_panic(line in ".{0,200}") {
            let _ = Order::parse(&line);
            let _ = Order::parse(&format!("banana node2 ssd {line}"));
        }
    }
}
