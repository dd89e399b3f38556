//! Settings: an address as the operator wrote it, completed from ~/.ssh/config.
//!
//! Knows what OpenSSH's directives mean, connects nowhere. Directives proxmove does not use are skipped, a broken file
//! is one error. Read next: `known_hosts.rs`.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::environment::SshEnvironment;
use super::known_hosts::entry_name;
use crate::config::SshAddress;
use crate::host::ShellError;

/// The key files OpenSSH tries without being told, in its order.
const DEFAULT_IDENTITIES: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];

/// Everything needed to reach and recognise one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Login name.
    pub user: String,
    /// Name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// The name its key is filed under in known_hosts: `HostKeyAlias` as it is, else the host with its port.
    pub key_name: String,
    /// Private key files to try, in order.
    pub identities: Vec<PathBuf>,
    /// Whether those were configured; the default ones may be missing in silence.
    pub identities_configured: bool,
    /// Whether the agent may only offer the keys of `identities`.
    pub identities_only: bool,
    /// known_hosts files of the operator; the first is appended to.
    pub user_known_hosts: Vec<PathBuf>,
    /// known_hosts files of the machine.
    pub system_known_hosts: Vec<PathBuf>,
    /// Hosts to go through, in order.
    pub jumps: Vec<SshAddress>,
}

impl Destination {
    /// Returns `user@host`, with the port where it is not 22.
    pub(super) fn address(&self) -> String {
        match (self.port, self.host.contains(':')) {
            (22, _) => format!("{}@{}", self.user, self.host),
            (port, true) => format!("{}@[{}]:{port}", self.user, self.host),
            (port, false) => format!("{}@{}:{port}", self.user, self.host),
        }
    }
}

/// Completes `address` from the configuration files of `environment`.
///
/// What the address says wins, then the first value found in the files, then the defaults. Fails with
/// [`ShellError::Configuration`] on a file that cannot be read or understood, and on `ProxyCommand`.
pub(super) fn resolve(
    address: &SshAddress,
    environment: &SshEnvironment,
) -> Result<Destination, ShellError> {
    let mut found: Option<HostParams> = None;
    for path in &environment.ssh_config {
        let Some(config) = read(path, &environment.home)? else {
            continue;
        };
        let params = config.query(&address.host);
        match &mut found {
            Some(first) => first.overwrite_if_none(&params),
            None => found = Some(params),
        }
    }
    let params = found.unwrap_or_else(|| SshConfig::default().query(&address.host));
    let other = |key: &str| -> Option<Vec<String>> {
        let hit = params
            .unsupported_fields
            .iter()
            .chain(&params.ignored_fields)
            .find(|(name, _)| name.eq_ignore_ascii_case(key));
        hit.map(|(_, values)| values.clone())
    };

    let user = address
        .user
        .clone()
        .or_else(|| params.user.clone())
        .unwrap_or_else(|| environment.user.clone());
    let host = match &params.host_name {
        Some(name) => name.replace("%h", &address.host).replace("%%", "%"),
        None => address.host.clone(),
    };
    let port = address.port.or(params.port).unwrap_or(22);
    let jumps = match &params.proxy_jump {
        Some(hops) => jumps(hops, &address.host)?,
        None => Vec::new(),
    };
    let command = other("proxycommand").filter(|words| !is_none(words));
    if let (Some(_), true) = (command, params.proxy_jump.is_none()) {
        return Err(ShellError::Configuration(format!(
            "ProxyCommand of {} is not supported; write ProxyJump into ~/.ssh/config instead",
            address.host
        )));
    }

    let place = |text: &Path| {
        let text = text.to_string_lossy();
        let text = text
            .replace("%d", &environment.home.to_string_lossy())
            .replace("%h", &host)
            .replace("%r", &user)
            .replace("%u", &environment.user)
            .replace("%%", "%");
        match text.strip_prefix("~/") {
            Some(rest) => environment.home.join(rest),
            None => PathBuf::from(text),
        }
    };
    let configured = params.identity_file.clone().unwrap_or_default();
    let identities_configured = !configured.is_empty();
    let identities = if identities_configured {
        configured.iter().map(|path| place(path)).collect()
    } else {
        DEFAULT_IDENTITIES
            .iter()
            .map(|name| environment.home.join(name))
            .collect()
    };
    let user_known_hosts = match other("userknownhostsfile") {
        Some(words) if is_none(&words) => Vec::new(),
        Some(words) => words
            .iter()
            .map(|word| place(Path::new(word.trim_matches('"'))))
            .collect(),
        None => environment.user_known_hosts.clone(),
    };
    let key_name = other("hostkeyalias")
        .and_then(|words| words.first().cloned())
        .unwrap_or_else(|| entry_name(&host, port));
    let identities_only = other("identitiesonly")
        .and_then(|words| words.first().cloned())
        .is_some_and(|word| word.eq_ignore_ascii_case("yes"));

    Ok(Destination {
        user,
        host,
        port,
        key_name: key_name.to_ascii_lowercase(),
        identities,
        identities_configured,
        identities_only,
        user_known_hosts,
        system_known_hosts: environment.system_known_hosts.clone(),
        jumps,
    })
}

/// Reads one configuration file; `None` when it does not exist.
fn read(path: &Path, home: &Path) -> Result<Option<SshConfig>, ShellError> {
    let wrong = |reason: String| {
        Err(ShellError::Configuration(format!(
            "{}: {reason}",
            path.display()
        )))
    };
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return wrong(error.to_string()),
    };
    let rules = ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS;
    let text = without_matches(&text);
    match SshConfig::default()
        .home_dir(home)
        .parse(&mut Cursor::new(text), rules)
    {
        Ok(config) => Ok(Some(config)),
        Err(error) => wrong(error.to_string()),
    }
}

/// Drops `Match` sections: the parser does not know them, and would file their lines under the host before.
///
/// `Match all` applies always and becomes `Host *`.
fn without_matches(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut skipping = false;
    for line in text.lines() {
        let key = keyword(line);
        if key == "match" {
            let criteria = line.trim_start()["match".len()..].trim_matches([' ', '\t', '=', '"']);
            skipping = !criteria.eq_ignore_ascii_case("all");
            if skipping {
                log::debug!("ssh configuration: '{}' is not evaluated", line.trim());
            } else {
                kept.push_str("Host *\n");
            }
            continue;
        }
        skipping &= key != "host";
        if !skipping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Returns the lowercase keyword of a line, empty for none.
fn keyword(line: &str) -> String {
    line.trim_start()
        .split([' ', '\t', '='])
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
}

/// Tells whether a value is OpenSSH's `none`.
fn is_none(words: &[String]) -> bool {
    words.len() == 1 && words[0].eq_ignore_ascii_case("none")
}

/// Reads the hops of `ProxyJump`.
fn jumps(hops: &[String], host: &str) -> Result<Vec<SshAddress>, ShellError> {
    if is_none(hops) {
        return Ok(Vec::new());
    }
    hops.iter()
        .flat_map(|hop| hop.split(','))
        .map(|hop| {
            hop_address(hop.trim()).ok_or_else(|| {
                ShellError::Configuration(format!("ProxyJump of {host}: cannot read '{hop}'"))
            })
        })
        .collect()
}

/// Reads `[user@]host[:port]`, `[user@][address]:port` or the same as `ssh://` URL.
fn hop_address(text: &str) -> Option<SshAddress> {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, text),
    };
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        (host, after.strip_prefix(':'))
    } else {
        match rest.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (rest, None),
        }
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| SshAddress {
        user,
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(config: &str, host: &str) -> Result<Destination, String> {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("config");
        std::fs::write(&path, config).expect("written");
        let mut environment = SshEnvironment::below("/home/me", "me");
        environment.ssh_config = vec![path];
        let address = hop_address(host).expect("an address");
        resolve(&address, &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_address_wins_over_the_file_and_the_file_over_the_defaults() {
        fn check(config: &str, host: &str, expect: &str) {
            let found = resolved(config, host).expect("resolves");
            assert_eq!(found.address(), expect, "{config}");
        }
        check("", "plain", "me@plain");
        check("", "root@plain:23", "root@plain:23");
        let alias = "Host n1\n HostName 10.0.0.1\n User root\n Port 2222\n";
        check(alias, "n1", "root@10.0.0.1:2222");
        check(alias, "you@n1:24", "you@10.0.0.1:24");
        check(alias, "n2", "me@n2");
        check(
            "Host *.lab\n HostName %h.example\n",
            "a.lab",
            "me@a.lab.example",
        );
        check("Frobnicate yes\nHost n1\n User root\n", "n1", "root@n1");
        check(
            "Host n1\n Port 23\nMatch exec true\n User evil\n",
            "n1",
            "me@n1:23",
        );
        check("Match all\n User root\n", "n1", "root@n1");
        check(
            "Host fe80\n HostName fe80::1\n Port 23\n",
            "fe80",
            "me@[fe80::1]:23",
        );
    }

    #[test]
    fn keys_known_hosts_and_jumps_are_found() {
        let config = "Host n1\n IdentityFile ~/.ssh/pve\n IdentitiesOnly yes\n \
                      UserKnownHostsFile /a /b\n HostKeyAlias Node1\n ProxyJump j1,root@j2:23\n";
        let found = resolved(config, "n1").expect("resolves");
        assert_eq!(found.identities, [PathBuf::from("/home/me/.ssh/pve")]);
        assert!(found.identities_only && found.identities_configured);
        assert_eq!(found.user_known_hosts, [Path::new("/a"), Path::new("/b")]);
        assert_eq!(found.key_name, "node1");
        let hops: Vec<_> = found
            .jumps
            .iter()
            .map(|hop| (hop.user.as_deref(), hop.host.as_str(), hop.port))
            .collect();
        assert_eq!(hops, [(None, "j1", None), (Some("root"), "j2", Some(23))]);

        let found = resolved("", "n1").expect("resolves");
        assert_eq!(found.identities.len(), 3);
        assert!(!found.identities_configured && found.jumps.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn fuzz_ssh_configuration(config in crate::mutations::text(&[
            "Host n1 *.lab !x\n HostName %h.example\n User root\n Port 2222\n IdentityFile ~/.ssh/pve\n IdentitiesOnly yes\n",
            "Match all\n User root\nMatch exec \"test -f x\"\n Port 3\nHost n1\n UserKnownHostsFile /a \"/b c\"\n HostKeyAlias Node1\n",
            "Host=n1\n\tProxyJump j1,root@[::1]:23,ssh://me@j3:4\n ProxyCommand none\n Ciphers +aes256-gcm@openssh.com\n",
            "Include conf.d/*\nServerAliveInterval 15\nCompression no\nConnectTimeout 5\nBindAddress ::\nLocalForward 1 a:2\n",
        ]), host in crate::mutations::text(&["root@n1:22", "n1", "me@[fe80::1]:23"])) {
            if let Some(address) = hop_address(&host) {
                let mut environment = SshEnvironment::below("/home/me", "me");
                let file = tempfile::NamedTempFile::new().expect("a file");
                std::fs::write(file.path(), &config).expect("written");
                environment.ssh_config = vec![file.path().to_owned()];
                if let Ok(found) = resolve(&address, &environment) {
                    let _ = found.address();
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_said() {
        let error = resolved("Host n1\n Port twenty\n", "n1").expect_err("refused");
        assert!(error.contains("config"), "{error}");
        let error = resolved("Host n1\n ProxyCommand nc %h %p\n", "n1").expect_err("refused");
        assert!(error.contains("ProxyJump"), "{error}");
    }
}
