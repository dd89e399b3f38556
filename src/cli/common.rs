//! What most commands know: how clusters and storage machines are reached, and what is printed.
//!
//! Declarations, and what they become.

use std::path::PathBuf;

use clap::Args;

use super::{Common, DEFAULT_SSH_CIPHERS};

/// Of a command that works with storage machines.
#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    ssh: SshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CommonArgs {
    pub(super) fn settle(self) -> Common {
        let ciphers = Some(self.ssh.ssh_ciphers);
        Common {
            ssh_ciphers: ciphers.filter(|ciphers| ciphers != "-"),
            ..settle(self.connection, &self.output)
        }
    }
}

/// Returns what a command knows that works with clusters at most.
pub(super) fn settle(connection: ConnectionArgs, output: &OutputArgs) -> Common {
    Common {
        config: connection.config,
        verify_tls: !connection.no_verify_ssl,
        ssh_ciphers: Some(DEFAULT_SSH_CIPHERS.to_owned()),
        json: output.json,
        debug: output.debug,
    }
}

/// How to reach clusters.
#[derive(Debug, Default, Args)]
pub(super) struct ConnectionArgs {
    /// Use alternate configuration inifile [default: ~/.proxmoverc]
    #[arg(
        short = 'c',
        long,
        value_name = "FILENAME",
        help_heading = "Connections"
    )]
    pub(super) config: Option<PathBuf>,
    /// Skip ssl verification on the api hosts (fingerprint= in the configuration is the safe way)
    #[arg(long, help_heading = "Connections")]
    pub(super) no_verify_ssl: bool,
}

/// How to reach storage machines.
#[derive(Debug, Args)]
pub(super) struct SshArgs {
    /// Comma separated list of ssh ciphers to prefer; set to "-" to use ssh defaults
    #[arg(
        long,
        value_name = "CIPHERS",
        value_parser = ciphers,
        default_value = DEFAULT_SSH_CIPHERS,
        help_heading = "Connections"
    )]
    pub(super) ssh_ciphers: String,
}

/// What is printed.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print events or results as JSON on standard output, one object a line
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
    /// Enable extra debug logging
    #[arg(long, help_heading = "Output")]
    pub(super) debug: bool,
}

fn ciphers(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "@.-_".contains(c))
    };
    if text == "-" || text.split(',').all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("write ciphers separated by commas, or \"-\" for ssh defaults".to_owned())
    }
}
