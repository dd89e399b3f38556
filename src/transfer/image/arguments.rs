//! Pure: the words of a porter's command lines. `porter/mod.rs` reads them.
//!
//! Quotes nothing and runs nothing. Read next: `image.rs`.

use crate::host::command::Command;
use crate::transfer::carry::DirectAccess;
use crate::transfer::device::Zvols;
use crate::transfer::{Format, Pair, Pass, Verify};

fn format_name(format: Format) -> &'static str {
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

/// Returns the further words of a sender that connects to the target host itself and runs `receive` there.
pub(super) fn direct_arguments(
    pair: &Pair,
    access: &DirectAccess,
    receive: &Command,
) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--host",
        &access.address.host,
        "--receive",
        receive.line(),
        "--temp",
        &pair.source.temp,
        "--name",
        &pair.name,
    ]
    .map(String::from)
    .to_vec();
    let options = [
        ("--user", access.address.user.clone()),
        ("--port", access.address.port.map(|port| port.to_string())),
        ("--ciphers", access.ciphers.clone()),
    ];
    for (key, value) in options {
        if let Some(value) = value {
            arguments.push(String::from(key));
            arguments.push(value);
        }
    }
    arguments
}
