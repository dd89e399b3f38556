//! The program: parse, run, print one error, exit.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use proxmove::cli::{self, Request};
use proxmove::commands::{self, Process};
use proxmove::error::{self, Colour, Failure};
use proxmove::host::ssh::SshEnvironment;

fn main() -> ExitCode {
    let request = match cli::parse(std::env::args_os()) {
        Ok(request) => request,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error; a closed pipe is no bug.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Request::Porter(arguments) = &request {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        return ExitCode::from(u8::try_from(proxmove::porter::run(&arguments)).unwrap_or(1));
    }
    start_log(request.debug());
    let process = process();
    let result = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(request, &process));
            // A question nobody answered blocks a thread; it must not block the end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::new(error::ExitCode::Bug, &error)),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let colour = Colour::choose(std::io::stderr().is_terminal(), process.no_color);
            let _ = std::io::stderr().write_all(failure.render(colour).as_bytes());
            failure.exit.into()
        }
    }
}

fn start_log(debug: bool) {
    let level = if debug {
        "proxmove=debug"
    } else {
        "proxmove=error"
    };
    env_logger::Builder::new()
        .parse_filters(level)
        .target(env_logger::Target::Stderr)
        .init();
}

fn process() -> Process {
    let ssh = SshEnvironment::from_process();
    let machine = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Process {
        identity: format!("{}@{machine}", ssh.user),
        ssh,
        // Where the executable cannot be found out, uploading it will say so.
        executable: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("proxmove")),
        no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    }
}
