//! Tasks: work that outlives its request, its UPID, its log and how it ended.
//!
//! A task's work is a closure that is polled until it says how it ended; it holds no lock in between.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Cluster;
use super::machine::GuestMachine;
use super::rights::Identity;
use super::scenario::Pace;

/// What a task's work sees each time it is polled.
pub struct Stage<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// Who plays the guests.
    pub machine: &'a Arc<dyn GuestMachine>,
    /// How long things take.
    pub pace: &'a Pace,
    /// Time since the task began.
    pub elapsed: Duration,
    /// Lines for the log.
    pub log: Vec<String>,
    /// The task's UPID.
    pub upid: &'a str,
}

/// Work that is polled until it ends; the error is the exit status.
pub type Work = Box<dyn FnMut(&mut Stage<'_>) -> Option<Result<(), String>> + Send>;

/// One task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub upid: String,
    /// Its node.
    pub node: String,
    /// `qmcreate` ...
    pub kind: String,
    /// The VMID, or empty.
    pub id: String,
    /// Who started it, with the token.
    pub user: String,
    /// Unix time of its start.
    pub started: u64,
    /// The same as ticks since boot.
    pub ticks: u64,
    /// Its process.
    pub pid: u32,
    /// Its beginning.
    pub began: Instant,
    /// Unix time of its end and how it ended.
    pub ended: Option<(u64, String)>,
    /// Its log.
    pub log: Vec<String>,
    /// Whether somebody asked to stop it.
    pub aborted: bool,
}

/// Returns the Unix time.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

impl Cluster {
    /// Records a task and returns its UPID; the caller starts the work.
    pub fn add_task(&mut self, node: &str, kind: &str, id: &str, who: &Identity) -> String {
        let pid = self.next_pid();
        let started = unix_now();
        let ticks = self.uptime() * 100;
        let upid = format!(
            "UPID:{node}:{pid:08X}:{ticks:08X}:{started:08X}:{kind}:{id}:{}:",
            who.id()
        );
        self.tasks.push(Task {
            upid: upid.clone(),
            node: node.to_owned(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: who.id(),
            started,
            ticks,
            pid,
            began: Instant::now(),
            ended: None,
            log: Vec::new(),
            aborted: false,
        });
        upid
    }

    /// Returns the task of that UPID.
    pub fn task_mut(&mut self, upid: &str) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.upid == upid)
    }

    /// Polls a task's work once; true when it has ended.
    pub fn poll_task(
        &mut self,
        upid: &str,
        work: &mut Work,
        machine: &Arc<dyn GuestMachine>,
        pace: &Pace,
    ) -> bool {
        let Some(task) = self.task_mut(upid) else {
            return true;
        };
        let (elapsed, aborted, node) = (task.began.elapsed(), task.aborted, task.node.clone());
        if !self.is_online(&node) {
            // It died with its node: nothing is tidied up, and its log has no end.
            if let Some(task) = self.task_mut(upid) {
                task.ended = Some((unix_now(), "unexpected status".to_owned()));
            }
            return true;
        }
        let mut stage = Stage {
            cluster: self,
            machine,
            pace,
            elapsed,
            log: Vec::new(),
            upid,
        };
        let outcome = match aborted {
            true => Some(Err("received interrupt".to_owned())),
            false => work(&mut stage),
        };
        let log = std::mem::take(&mut stage.log);
        if outcome.is_some() {
            // Whatever the task held is free again, also when it was interrupted.
            let mut given_up = Vec::new();
            for guest in self.guests.values_mut() {
                let held = guest.holder.take_if(|holder| holder == upid).is_some();
                if held && guest.migrating_to.take().is_some() {
                    guest.config.remove("lock");
                    given_up.push(guest.vmid);
                }
            }
            for vmid in given_up {
                self.remember(vmid);
            }
        }
        let Some(task) = self.task_mut(upid) else {
            return true;
        };
        task.log.extend(log);
        let Some(outcome) = outcome else {
            return false;
        };
        let status = match outcome {
            Ok(()) => "OK".to_owned(),
            Err(text) => text,
        };
        task.log.push(match status.as_str() {
            "OK" => "TASK OK".to_owned(),
            text => format!("TASK ERROR: {text}"),
        });
        task.ended = Some((unix_now(), status));
        true
    }
}
