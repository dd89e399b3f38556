//! The scoped agent against OpenSSH itself: a real client, two real hosts, and everything a source host might try.
#![allow(clippy::unwrap_used)]

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use proxmove::host::agent::{Scope, ScopedAgent, Signer, frame};
use proxmove::host::ssh::Identity;
use sshd::{Agent, Sshd, generate_key};

/// A source host's view: a socket, and nothing else of the operator's.
struct Source {
    directory: tempfile::TempDir,
    agent: Arc<Mutex<ScopedAgent>>,
    public: String,
}

impl Source {
    /// Offers an agent that lends `signer` for `user` on `target`.
    fn new(target: &Sshd, user: &str, kind: &str, signer: Signer, public: &str) -> Source {
        let directory = tempfile::tempdir().unwrap();
        let scope = Scope {
            user: user.to_owned(),
            host_keys: vec![blob(&target.known_hosts_line(kind))],
        };
        let agent = Arc::new(Mutex::new(ScopedAgent::new(scope, signer)));
        let listener = UnixListener::bind(directory.path().join("agent")).unwrap();
        let shared = Arc::clone(&agent);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        // The client offers exactly this key of the agent's.
        fs::write(directory.path().join("key.pub"), public).unwrap();
        Source {
            directory,
            agent,
            public: public.to_owned(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a real ssh that has only the socket, and knows the host's key.
    fn ssh(&self, host: &Sshd, kind: &str, user: &str) -> Output {
        let known = self.file("known_hosts");
        fs::write(&known, host.known_hosts_line(kind)).unwrap();
        Command::new("ssh")
            .args(["-F", "none", "-p", &host.port.to_string(), "-l", user])
            .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .args([
                "-o",
                "GlobalKnownHostsFile=none",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .args(["-o", &format!("UserKnownHostsFile={}", known.display())])
            .args([
                "-o",
                &format!("IdentityAgent={}", self.file("agent").display()),
            ])
            .args([
                "-o",
                &format!("IdentityFile={}", self.file("key.pub").display()),
            ])
            .args(["127.0.0.1", "echo in"])
            .output()
            .unwrap()
    }

    fn assert_in(&self, output: &Output) {
        let errors = String::from_utf8_lossy(&output.stderr);
        let agent = self.agent.lock().unwrap();
        assert_eq!(
            output.stdout,
            b"in\n",
            "{errors} {:?}",
            agent.last_refusal()
        );
    }

    /// Asserts that nothing was signed and that the reason of the last refusal says so.
    fn assert_refused(&self, output: &Output, logins: u64, because: &str) {
        assert!(!output.status.success());
        let agent = self.agent.lock().unwrap();
        assert_eq!(agent.logins(), logins);
        let reason = agent.last_refusal().unwrap_or_default();
        assert!(reason.contains(because), "{reason}");
    }
}

/// Answers one connection, as the porter's channel does.
fn serve(mut stream: UnixStream, agent: &Mutex<ScopedAgent>) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).unwrap();
        let answer = agent.lock().unwrap().answer(&request);
        if stream.write_all(&frame(&answer)).is_err() {
            return;
        }
    }
}

/// Returns the key of a known_hosts line in wire form.
fn blob(line: &str) -> Vec<u8> {
    let key = line.rsplit_once(' ').unwrap().1;
    base64::engine::general_purpose::STANDARD
        .decode(key)
        .unwrap()
}

#[test]
fn a_source_host_can_log_in_to_the_target_and_nothing_else() {
    if !sshd::is_here("a_source_host_can_log_in_to_the_target_and_nothing_else") {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (target, other) = (
            Sshd::start_with(&[kind], &[]),
            Sshd::start_with(&[kind], &[]),
        );
        let file = keys.path().join(kind);
        let mut public = generate_key(&file, kind, "");
        while Signer::from_file(&file).is_err() {
            // One in 256 ECDSA keys cannot be read by the library.
            fs::remove_file(&file).unwrap();
            public = generate_key(&file, kind, "");
        }
        target.authorize(&public);
        other.authorize(&public);
        let own = Agent::start(&[&file]);
        let key = public.rsplit_once(' ').unwrap().0;
        for identity in [
            Identity::File { path: file.clone() },
            Identity::Agent {
                socket: own.socket.clone(),
                blob: blob(key),
                comment: "test".to_owned(),
            },
        ] {
            let signer = Signer::of(&identity).unwrap();
            let source = Source::new(&target, &target.user, kind, signer, &public);

            // (a) The login it is meant for.
            let output = source.ssh(&target, kind, &target.user);
            source.assert_in(&output);
            assert_eq!(source.agent.lock().unwrap().logins(), 1);

            // (b) Another host, although that host would let this key in.
            let output = source.ssh(&other, kind, &other.user);
            source.assert_refused(&output, 1, "not bound");

            // (c) Another user.
            let output = source.ssh(&target, kind, "nobody");
            source.assert_refused(&output, 1, "the user 'nobody'");

            // (d) Anything else to sign.
            let text = source.file("text");
            fs::write(&text, "I owe you").unwrap();
            fs::write(source.file("key.pub"), &source.public).unwrap();
            let output = Command::new("ssh-keygen")
                .args(["-Y", "sign", "-n", "file", "-f"])
                .arg(source.file("key.pub"))
                .arg(&text)
                .env("SSH_AUTH_SOCK", source.file("agent"))
                .output()
                .unwrap();
            source.assert_refused(&output, 1, "not a login");

            // Nothing of that spoilt the permission.
            let output = source.ssh(&target, kind, &target.user);
            source.assert_in(&output);
        }
    }
}

#[test]
fn the_agent_cannot_be_filled_or_forwarded() {
    if !sshd::is_here("the_agent_cannot_be_filled_or_forwarded") {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let target = Sshd::start(&[]);
    let file = keys.path().join("key");
    let public = generate_key(&file, "ed25519", "");
    target.authorize(&public);
    let signer = Signer::from_file(&file).unwrap();
    let source = Source::new(&target, &target.user, "ed25519", signer, &public);
    for arguments in [&[file.to_str().unwrap()] as &[&str], &["-D"], &["-X"]] {
        let output = Command::new("ssh-add")
            .args(arguments)
            .env("SSH_AUTH_SOCK", source.file("agent"))
            .env("SSH_ASKPASS", "true")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
    }
    let listed = Command::new("ssh-add")
        .arg("-L")
        .env("SSH_AUTH_SOCK", source.file("agent"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let key = public.rsplit_once(' ').unwrap().0;
    assert!(
        listed.starts_with(key) && listed.lines().count() == 1,
        "{listed}"
    );
    assert_eq!(source.agent.lock().unwrap().logins(), 0);
}
