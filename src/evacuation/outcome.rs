//! What became of each guest, for people and as JSON, and the exit code.
//!
//! Pure. Read next: `run.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::error::ExitCode;
use crate::plan::evacuate::show;
use crate::pve::id::{ClusterAlias, NodeName, Vmid};

/// How it went with one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Result {
    /// It is where it should be, in the state it should be in.
    Ok,
    /// It was stopped, as planned.
    Stopped,
    /// It was left as it was, for a reason that is no failure.
    Left,
    /// It should have gone and did not.
    Failed,
}

impl Result {
    /// Returns the word of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Result::Ok => "OK",
            Result::Stopped => "STOPPED",
            Result::Left => "LEFT",
            Result::Failed => "FAILED",
        }
    }
}

/// What became of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its number.
    pub vmid: Vmid,
    /// Its name.
    pub name: String,
    /// Where it was.
    pub source: NodeName,
    /// Where it is, as far as is known.
    pub target: Option<NodeName>,
    /// The cluster of that node, when it is another one.
    pub cluster: Option<ClusterAlias>,
    /// How it went.
    pub result: Result,
    /// Why, or what is to know about it.
    pub reason: String,
    /// Whether it ran before and does not run now, against the plan.
    pub down: bool,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Returns where it is, for people.
    fn place(&self) -> String {
        let node = self.target.as_ref().map_or("?", |node| node.as_str());
        match &self.cluster {
            Some(cluster) => format!("{cluster}:{node}"),
            None => node.to_owned(),
        }
    }
}

/// Everything that became of an evacuation or a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// `evacuate` or `restore`.
    pub what: &'static str,
    /// The node.
    pub node: NodeName,
    /// Each guest of the plan.
    pub guests: Vec<Outcome>,
    /// What is wrong with the node as a whole, at the end.
    pub problems: Vec<String>,
    /// What stays on the node and is meant to, because guests come back to it.
    pub kept: Vec<String>,
    /// Whether the operator ended it.
    pub interrupted: bool,
}

impl Outcomes {
    /// Returns what the process exits with.
    pub fn exit(&self) -> ExitCode {
        if self.guests.iter().any(|guest| guest.down) {
            return ExitCode::SourceDown;
        }
        if self.interrupted {
            return ExitCode::Interrupted;
        }
        let failed = self
            .guests
            .iter()
            .any(|guest| guest.result == Result::Failed);
        if failed || !self.problems.is_empty() {
            return ExitCode::Failed;
        }
        ExitCode::Done
    }

    /// Returns the table.
    pub fn text(&self) -> String {
        let mut rows = vec![show::row(&[
            "VMID", "NAME", "SOURCE", "NOW ON", "RESULT", "TIME", "REASON",
        ])];
        rows.extend(self.guests.iter().map(|guest| {
            vec![
                guest.vmid.to_string(),
                guest.name.clone(),
                guest.source.to_string(),
                guest.place(),
                guest.result.as_str().to_owned(),
                format!("{} s", guest.took.as_secs()),
                guest.reason.clone(),
            ]
        }));
        let count = |result: Result| {
            self.guests
                .iter()
                .filter(|guest| guest.result == result)
                .count()
        };
        let mut text = format!(
            "{}\n{} OK, {} STOPPED, {} LEFT, {} FAILED\n",
            show::table(&rows),
            count(Result::Ok),
            count(Result::Stopped),
            count(Result::Left),
            count(Result::Failed)
        );
        for kept in &self.kept {
            text.push_str(&format!("kept: {kept}\n"));
        }
        for problem in &self.problems {
            text.push_str(&format!("problem: {problem}\n"));
        }
        text
    }

    /// Returns one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "result_of": self.what,
            "node": self.node.as_str(),
            "exit_code": self.exit().code(),
            "interrupted": self.interrupted,
            "problems": self.problems,
            "kept": self.kept,
            "guests": self.guests.iter().map(|guest| json!({
                "vmid": guest.vmid.number(),
                "name": guest.name,
                "source": guest.source.as_str(),
                "node": guest.target.as_ref().map(|node| node.as_str()),
                "cluster": guest.cluster.as_ref().map(|cluster| cluster.as_str()),
                "result": guest.result.as_str(),
                "reason": guest.reason,
                "down": guest.down,
                "seconds": guest.took.as_secs_f64(),
            })).collect::<Vec<_>>(),
        })
    }
}
