//! What is to happen after the start on the target: `--boot-check` and `--on-failure`; and to HA: `--ha`.
//!
//! Declarations, and what they become. Read next: `../plan/returning.rs`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::arguments::time;
use crate::plan::MoveRequest;
use crate::plan::ha::HaWish;
use crate::plan::returning::OnFailure;

/// Of a move, and of a way back.
#[derive(Debug, Args)]
pub(super) struct Afterwards {
    /// Watch the VM after its start on the destination for up to this time (2min): until its guest agent answers, or,
    /// where it has none, until it has kept running for a moment
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "After the start")]
    boot_check: Option<Duration>,
    /// When the VM cannot be started on the destination, or fails the check: keep things as they are, or return to the
    /// source and start that; what was copied is kept for another try
    #[arg(long, value_enum, default_value_t, help_heading = "After the start")]
    on_failure: OnFailureArg,
    /// What becomes of a VM that HA manages: it is refused; HA ignores it from before its stop on (suspend); or it is also
    /// given to HA on the destination when it runs there, and removed from HA here (recreate)
    #[arg(long, value_enum, default_value_t, help_heading = "High availability")]
    ha: HaArg,
}

/// Of a move that began earlier.
#[derive(Debug, Args)]
pub(super) struct OtherAfterwards {
    /// Watch the VM after its start on the destination for up to this time, whatever was said at first; 0s for not at all
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "After the start")]
    boot_check: Option<Duration>,
    /// When the VM cannot be started on the destination, or fails the check: keep or return, whatever was said at first
    #[arg(long, value_enum, help_heading = "After the start")]
    on_failure: Option<OnFailureArg>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OnFailureArg {
    // Say what to type.
    #[default]
    Keep,
    // Go back to the source.
    Return,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum HaArg {
    // As long as HA manages it.
    #[default]
    Refuse,
    // HA ignores the source.
    Suspend,
    // HA manages the target.
    Recreate,
}

impl From<OnFailureArg> for OnFailure {
    fn from(wish: OnFailureArg) -> OnFailure {
        match wish {
            OnFailureArg::Keep => OnFailure::Keep,
            OnFailureArg::Return => OnFailure::Return,
        }
    }
}

impl Afterwards {
    /// Writes them into a request.
    pub(super) fn put(self, request: &mut MoveRequest) {
        request.boot_check = self.boot_check.filter(|time| !time.is_zero());
        request.on_failure = self.on_failure.into();
        request.ha = match self.ha {
            HaArg::Refuse => HaWish::Refuse,
            HaArg::Suspend => HaWish::Suspend,
            HaArg::Recreate => HaWish::Recreate,
        };
    }
}

/// What a resumed move does other than was asked for at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterwardsInstead {
    /// `--boot-check`; nothing for no check.
    pub boot_check: Option<Duration>,
    /// `--on-failure`.
    pub on_failure: Option<OnFailure>,
}

impl AfterwardsInstead {
    /// Writes them into a request.
    pub fn put(self, request: &mut MoveRequest) {
        if let Some(time) = self.boot_check {
            request.boot_check = (!time.is_zero()).then_some(time);
        }
        request.on_failure = self.on_failure.unwrap_or(request.on_failure);
    }
}

impl OtherAfterwards {
    pub(super) fn instead(self) -> AfterwardsInstead {
        AfterwardsInstead {
            boot_check: self.boot_check,
            on_failure: self.on_failure.map(OnFailure::from),
        }
    }
}
