//! How a test says that it could not do its work on this machine.
//!
//! It never makes a test fail, and a test that calls it has shown nothing: `tests/run` lists all that was said here.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Notes that `what` was not tested, and why: to the file that PROXMOVE_NOT_RUN names, else to standard error.
///
/// Standard error is written to directly, because the test harness keeps back what the tests that pass print. An
/// entry is one write of one line to a file opened for appending, so tests that run at the same time do not mix.
pub(crate) fn not_run(what: impl Display, why: impl Display) {
    let line = format!("not run: {what} ({why})\n");
    let file = std::env::var_os("PROXMOVE_NOT_RUN")
        .and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let written = match file {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    // There is nowhere left to say it.
    drop(written);
}
