//! Pure: the words of a porter's command lines. `porter/mod.rs` reads them.
//!
//! Quotes nothing and runs nothing. Read next: `image.rs`.

use crate::transfer::device::Zvols;
use crate::transfer::{Format, Pair, Pass, Verify};

pub(in crate::transfer) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

/// Returns the words of a command about the target: `observe`, `receive`, `discard`.
pub(super) fn target_arguments(verb: &str, pair: &Pair, zvols: Zvols) -> Vec<String> {
    let mut arguments = [
        verb,
        "--path",
        &pair.target.path,
        "--temp",
        &pair.target.temp,
        "--name",
        &pair.name,
        "--format",
        format_name(pair.target.format),
    ]
    .map(String::from)
    .to_vec();
    if let Some(guid) = zvols.target {
        arguments.extend([String::from("--guid"), guid.to_string()]);
    }
    if zvols.fresh {
        arguments.extend(["--fresh", "yes"].map(String::from));
    }
    arguments
}

/// Returns the words of the sender.
pub(super) fn send_arguments(pair: &Pair, pass: Pass, zvols: Zvols) -> Vec<String> {
    let mut arguments = [
        "send",
        "--path",
        &pair.source.path,
        "--format",
        format_name(pair.source.format),
        "--layout",
        if pair.source.format == pair.target.format {
            "file"
        } else {
            "guest"
        },
        "--purpose",
        match pass {
            Pass::Precopy => "precopy",
            Pass::Final(Verify::Full) => "final-full",
            Pass::Final(Verify::Transfer) => "final-transfer",
        },
    ]
    .map(String::from)
    .to_vec();
    if let Some(limit) = pair.limit {
        arguments.push(String::from("--limit"));
        arguments.push(limit.as_bytes_per_second().to_string());
    }
    if let Some(guid) = zvols.snapshot {
        arguments.extend([String::from("--snapshot"), guid.to_string()]);
    }
    arguments
}
