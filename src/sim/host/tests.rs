//! Both kinds of server, against OpenSSH's own client and against libssh2.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::*;

struct Fixture {
    directory: tempfile::TempDir,
    host: SimHost,
    key: PathBuf,
    public: String,
}

fn sshd() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/sbin/sshd");
    let keygen = Path::new("/usr/bin/ssh-keygen").exists();
    if path.exists() && keygen {
        return Some(path);
    }
    crate::not_run::not_run(
        "hosts of the simulation by OpenSSH",
        "openssh-server is not installed",
    );
    None
}

fn has_ssh() -> bool {
    let found = Path::new("/usr/bin/ssh").exists();
    if !found {
        crate::not_run::not_run(
            "hosts of the simulation with OpenSSH's client",
            "openssh-client is not installed",
        );
    }
    found
}

impl Fixture {
    async fn start(server: Server) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let (key, public) = generate_key(directory.path()).unwrap();
        let home = directory.path().join("a home");
        std::fs::create_dir(&home).unwrap();
        let host = SimHost::start(HostSettings {
            name: "node1".into(),
            directory: home,
            authorized_keys: vec![public.clone()],
            server,
        })
        .await
        .unwrap();
        let known = directory.path().join("known_hosts");
        std::fs::write(known, format!("{}\n", host.known_hosts_line)).unwrap();
        Fixture {
            directory,
            host,
            key,
            public,
        }
    }

    /// OpenSSH's client, with nothing of this machine's own configuration.
    fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("/usr/bin/ssh");
        ssh.args([
            "-q",
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "ControlPath=none"])
        .arg("-o")
        .arg(format!(
            "UserKnownHostsFile=\"{}\"",
            self.directory.path().join("known_hosts").display()
        ))
        .arg("-i")
        .arg(&self.key)
        .args(["-p", &self.host.port.to_string()])
        .arg(format!("{}@{}", self.host.user, self.host.address.ip()))
        .arg(command)
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .kill_on_drop(true);
        ssh
    }

    async fn output(&self, command: &str) -> std::process::Output {
        self.ssh(command).output().await.unwrap()
    }

    fn libssh2(&self) -> ssh2::Session {
        let mut session = ssh2::Session::new().unwrap();
        session.set_tcp_stream(std::net::TcpStream::connect(self.host.address).unwrap());
        session.handshake().unwrap();
        let public = self.key.with_extension("pub");
        session
            .userauth_pubkey_file(&self.host.user, Some(&public), &self.key, None)
            .unwrap();
        session
    }

    /// The number of processes whose command line holds `mark`, apart from ssh clients.
    fn running(mark: &str) -> usize {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .filter(|line| line.contains(mark) && !line.contains("BatchMode"))
            .count()
    }

    async fn until_running(mark: &str, count: usize) {
        for _ in 0..600 {
            if Fixture::running(mark) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} instead of {count} of {mark}", Fixture::running(mark));
    }
}

/// Bytes that no compression and no confusion of blocks survives.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

async fn answers_like_a_shell(server: Server) {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(server).await;
    let output = fixture
        .output("printf 'a\\0b'; echo problem >&2; exit 7")
        .await;
    assert_eq!(output.stdout, b"a\0b");
    assert!(String::from_utf8_lossy(&output.stderr).contains("problem"));
    assert_eq!(output.status.code(), Some(7));

    let output = fixture.output("cd && pwd; echo $HOME").await;
    let home = fixture.directory.path().join("a home");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{0}\n{0}\n", home.display())
    );

    // 255 is what ssh makes of an exit signal.
    let output = fixture.output("kill -9 $$").await;
    assert_eq!(output.status.code(), Some(255));

    let output = fixture
        .output("head -c 10000000 /dev/zero >&2; echo done")
        .await;
    assert_eq!(output.stdout, b"done\n");
    assert!(output.stderr.len() >= 10_000_000);

    // Input nobody reads does not keep a command from ending.
    let mut child = fixture.ssh("exit 3").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = tokio::spawn(async move { while stdin.write_all(&[0; 65536]).await.is_ok() {} });
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
    feed.abort();
    fixture.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_answers_like_a_shell() {
    answers_like_a_shell(Server::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_answers_like_a_shell() {
    if let Some(sshd) = sshd() {
        answers_like_a_shell(Server::OpenSsh(sshd)).await;
    }
}

async fn returns_what_it_was_sent(server: Server, mebibytes: usize, slow: bool) {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(server).await;
    let sent = noise(mebibytes << 20, 1);
    let expected = blake3::hash(&sent);
    let mut child = fixture
        .ssh("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let feed = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
    });
    if slow {
        // Long enough for every buffer on the way to fill and for the server to stop reading.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let mut received = Vec::new();
    stdout.read_to_end(&mut received).await.unwrap();
    feed.await.unwrap();
    assert_eq!(blake3::hash(&received), expected);
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_returns_what_it_was_sent() {
    returns_what_it_was_sent(Server::Embedded, 200, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_waits_for_a_slow_client() {
    returns_what_it_was_sent(Server::Embedded, 120, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_returns_what_it_was_sent() {
    if let Some(sshd) = sshd() {
        returns_what_it_was_sent(Server::OpenSsh(sshd), 40, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_read_holds_the_client_back() {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(Server::Embedded).await;
    let mut child = fixture
        .ssh("while test ! -e go; do sleep 0.1; done; wc -c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (count, mut counted) = tokio::sync::watch::channel(0_usize);
    let feed = tokio::spawn(async move {
        for _ in 0..100 {
            stdin.write_all(&vec![1; 1 << 20]).await.unwrap();
            count.send_modify(|count| *count += 1 << 20);
        }
    });
    // Until nothing moves for two seconds.
    while tokio::time::timeout(Duration::from_secs(2), counted.changed())
        .await
        .is_ok()
    {}
    let ahead = *counted.borrow();
    assert!(
        ahead < 50 << 20,
        "{ahead} bytes were taken that nobody reads"
    );
    std::fs::write(fixture.directory.path().join("a home/go"), "").unwrap();
    feed.await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "104857600");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_with_their_client_and_with_their_host() {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(Server::Embedded).await;

    // A client that dies while its command sleeps, one beside it in the same group.
    let mut child = fixture.ssh("sleep 71001 & sleep 71001").spawn().unwrap();
    Fixture::until_running("71001", 3).await;
    child.start_kill().unwrap();
    Fixture::until_running("71001", 0).await;

    // The same, with a connection full of data that the command never reads.
    let mut child = fixture
        .ssh("sleep 71002")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = tokio::spawn(async move { while stdin.write_all(&[0; 65536]).await.is_ok() {} });
    Fixture::until_running("sleep\x0071002", 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    child.start_kill().unwrap();
    Fixture::until_running("71002", 0).await;
    feed.await.unwrap();

    // A host that stops.
    let mut child = fixture
        .ssh("trap '' HUP TERM; sleep 71003; :")
        .spawn()
        .unwrap();
    Fixture::until_running("sleep\x0071003", 1).await;
    fixture.host.stop().await;
    Fixture::until_running("71003", 0).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(255));
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_ends_with_its_host() {
    let Some(sshd) = sshd().filter(|_| has_ssh()) else {
        return;
    };
    let fixture = Fixture::start(Server::OpenSsh(sshd)).await;
    let mut child = fixture.ssh("sleep 71004; :").spawn().unwrap();
    Fixture::until_running("sleep\x0071004", 1).await;
    fixture.host.stop().await;
    Fixture::until_running("71004", 0).await;
    child.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_host_leaves_nothing_behind() {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(Server::Embedded).await;
    let mut child = fixture.ssh("sleep 71005; :").spawn().unwrap();
    Fixture::until_running("sleep\x0071005", 1).await;
    drop(fixture.host);
    Fixture::until_running("71005", 0).await;
    child.wait().await.unwrap();
}

async fn refuses_everything_else(server: Server) {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(server).await;
    let stranger = tempfile::tempdir().unwrap();
    let (stranger_key, _) = generate_key(stranger.path()).unwrap();
    let host_only = Fixture {
        key: stranger_key,
        ..fixture
    };
    let output = host_only.output("echo in").await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    let fixture = Fixture {
        key: host_only.directory.path().join("id_ed25519"),
        ..host_only
    };
    assert_eq!(fixture.output("echo in").await.stdout, b"in\n");

    let session = fixture.libssh2();
    assert!(session.channel_direct_tcpip("127.0.0.1", 1, None).is_err());
    let mut channel = session.channel_session().unwrap();
    assert!(channel.request_pty("xterm", None, None).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_refuses_everything_else() {
    refuses_everything_else(Server::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_refuses_everything_else() {
    if let Some(sshd) = sshd() {
        refuses_everything_else(Server::OpenSsh(sshd)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libssh2_gets_on_with_the_embedded_server() {
    let fixture = Fixture::start(Server::Embedded).await;
    let fixture = tokio::task::spawn_blocking(move || {
        let session = fixture.libssh2();
        for round in 0..3 {
            let mut channel = session.channel_session().unwrap();
            channel.exec("cat; echo oops >&2; exit 5").unwrap();
            let sent = noise(1 << 20, round);
            // Less than a window, so that one thread can write it all before it reads.
            channel.write_all(&sent).unwrap();
            channel.send_eof().unwrap();
            let mut received = Vec::new();
            channel.read_to_end(&mut received).unwrap();
            assert_eq!(received, sent);
            let mut errors = String::new();
            channel.stderr().read_to_string(&mut errors).unwrap();
            assert_eq!(errors, "oops\n");
            channel.wait_close().unwrap();
            assert_eq!(channel.exit_status().unwrap(), 5);
        }
        let mut channel = session.channel_session().unwrap();
        channel
            .exec("cat > received && b=$(wc -c < received) && echo $b")
            .unwrap();
        let sent = noise(100 << 20, 9);
        channel.write_all(&sent).unwrap();
        channel.send_eof().unwrap();
        let mut answer = String::new();
        channel.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "104857600\n");
        let file = std::fs::read(fixture.directory.path().join("a home/received")).unwrap();
        assert_eq!(blake3::hash(&file), blake3::hash(&sent));
        let mut channel = session.channel_session().unwrap();
        channel.exec("kill -TERM $$").unwrap();
        channel.wait_eof().unwrap();
        channel.wait_close().unwrap();
        assert_eq!(
            channel.exit_signal().unwrap().exit_signal.as_deref(),
            Some("TERM")
        );
        fixture
    })
    .await
    .unwrap();
    fixture.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_share_a_host() {
    if !has_ssh() {
        return;
    }
    let fixture = Fixture::start(Server::Embedded).await;
    let mut runs = Vec::new();
    for number in 0..12_u64 {
        let mut child = fixture
            .ssh("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let sent = noise(3 << 20, number);
        let expected = sent.clone();
        let mut stdin = child.stdin.take().unwrap();
        tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
        runs.push((child, expected));
    }
    for (child, expected) in runs {
        assert_eq!(child.wait_with_output().await.unwrap().stdout, expected);
    }
}

#[tokio::test]
async fn a_host_keeps_its_key_and_a_pair_is_usable() {
    let fixture = Fixture::start(Server::Embedded).await;
    let key = |line: &str| line.split_whitespace().last().unwrap().to_owned();
    let first = key(&fixture.host.known_hosts_line);
    fixture.host.stop().await;
    let again = SimHost::start(HostSettings {
        name: "node1".into(),
        directory: fixture.directory.path().join("a home"),
        authorized_keys: vec![format!("{} with a comment", fixture.public)],
        server: Server::Embedded,
    })
    .await
    .unwrap();
    assert_eq!(key(&again.known_hosts_line), first);
    assert!(generate_key(fixture.directory.path()).is_err());
    let refused = SimHost::start(HostSettings {
        name: "node1".into(),
        directory: fixture.directory.path().to_owned(),
        authorized_keys: vec!["no key".into()],
        server: Server::Embedded,
    })
    .await;
    assert!(matches!(refused, Err(HostError::Key { .. })));
}
