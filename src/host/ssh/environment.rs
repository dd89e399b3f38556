//! The environment of the operator's SSH: home, login name, agent, configuration and known_hosts files.
//!
//! A value that is passed in, so that nothing else reads the process's environment and tests bring their own. Never
//! reads a file. Read next: `settings.rs`.

use std::path::PathBuf;

/// Where the operator's SSH things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshEnvironment {
    /// The home directory; `~` in the configuration.
    pub home: PathBuf,
    /// The login name on this machine, used where none is configured.
    pub user: String,
    /// The socket of the operator's ssh-agent.
    pub agent_socket: Option<PathBuf>,
    /// The configuration files, the first value found wins; missing files are skipped.
    pub ssh_config: Vec<PathBuf>,
    /// The operator's known_hosts files; the first one is appended to.
    pub user_known_hosts: Vec<PathBuf>,
    /// The machine's known_hosts files; never written.
    pub system_known_hosts: Vec<PathBuf>,
}

impl SshEnvironment {
    /// Returns the environment with OpenSSH's own file names below `home`.
    pub fn below(home: impl Into<PathBuf>, user: impl Into<String>) -> SshEnvironment {
        let home = home.into();
        SshEnvironment {
            user: user.into(),
            agent_socket: None,
            ssh_config: vec![home.join(".ssh/config")],
            user_known_hosts: vec![
                home.join(".ssh/known_hosts"),
                home.join(".ssh/known_hosts2"),
            ],
            system_known_hosts: Vec::new(),
            home,
        }
    }

    /// Reads the process's environment; only `main` calls this.
    ///
    /// Without `HOME` everything below it is simply absent; without `USER` and `LOGNAME` the login name is `root`, the
    /// name storage hosts are reached by.
    pub fn from_process() -> SshEnvironment {
        let name = |key: &str| std::env::var(key).ok().filter(|value| !value.is_empty());
        let home = name("HOME").unwrap_or_else(|| "/nonexistent".to_owned());
        let user = name("USER")
            .or_else(|| name("LOGNAME"))
            .unwrap_or_else(|| "root".to_owned());
        let mut environment = SshEnvironment::below(home, user);
        environment.agent_socket = name("SSH_AUTH_SOCK").map(PathBuf::from);
        environment
            .ssh_config
            .push(PathBuf::from("/etc/ssh/ssh_config"));
        environment.system_known_hosts = vec![
            PathBuf::from("/etc/ssh/ssh_known_hosts"),
            PathBuf::from("/etc/ssh/ssh_known_hosts2"),
        ];
        environment
    }
}
