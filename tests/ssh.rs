//! Hosts behind a real sshd: quoting, ends, volumes of data, broken connections, keys, logins and jumps.
#![allow(clippy::unwrap_used)]

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxmove::config::SshAddress;
use proxmove::host::command::Command;
use proxmove::host::ssh::{Identity, SshEnvironment, SshOptions, SshShell};
use proxmove::host::{Exit, Shell as _, ShellError, Stream};
use proxmove::report::Operator;
use sshd::{Agent, Sshd, generate_key};

const PATIENCE: Duration = Duration::from_secs(60);

/// Someone who always gives the same answer, and remembers the questions.
struct Scripted {
    answer: Option<bool>,
    questions: Mutex<Vec<String>>,
}

impl Operator for Scripted {
    fn confirm(&self, question: &str) -> Option<bool> {
        self.questions.lock().unwrap().push(question.to_owned());
        self.answer
    }
}

/// An operator's home with one key.
struct Home {
    directory: tempfile::TempDir,
    key: PathBuf,
    public: String,
    operator: Arc<Scripted>,
    options: SshOptions,
}

impl Home {
    /// Makes a home whose default key is let in by all of `hosts`, which are known.
    fn new(hosts: &[&Sshd]) -> Home {
        let home = Home::stranger();
        for host in hosts {
            host.authorize(&home.public);
            home.know(&host.known_hosts_line("ed25519"));
        }
        home
    }

    /// Makes a home that knows nobody.
    fn stranger() -> Home {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".ssh")).unwrap();
        let key = directory.path().join(".ssh/id_ed25519");
        let public = generate_key(&key, "ed25519", "");
        let user = std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap();
        let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
        let operator = Arc::new(Scripted {
            answer: None,
            questions: Mutex::default(),
        });
        let options = SshOptions {
            ciphers: None,
            operator: operator.clone(),
            environment: SshEnvironment::below(directory.path(), user),
        };
        Home {
            directory,
            key,
            public,
            operator,
            options,
        }
    }

    fn answers(mut self, answer: bool) -> Home {
        self.operator = Arc::new(Scripted {
            answer: Some(answer),
            questions: Mutex::default(),
        });
        self.options.operator = self.operator.clone();
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn know(&self, line: &str) {
        let file = self.file(".ssh/known_hosts");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, format!("{before}{line}\n")).unwrap();
    }

    fn known(&self) -> String {
        fs::read_to_string(self.file(".ssh/known_hosts")).unwrap_or_default()
    }

    fn shell(&self, host: &Sshd) -> SshShell {
        self.reach("127.0.0.1", Some(host.port))
    }

    fn reach(&self, host: &str, port: Option<u16>) -> SshShell {
        let address = SshAddress {
            user: None,
            host: host.to_owned(),
            port,
        };
        SshShell::new(&address, self.options.clone()).unwrap()
    }
}

fn sh(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script)
}

/// Returns bytes that repeat nowhere, so that any shift or loss shows.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Feeds `input` into a stream and gathers what it says.
async fn drive(stream: Stream, input: Vec<u8>) -> (Vec<u8>, Vec<u8>, Result<Exit, ShellError>) {
    let Stream {
        input: sender,
        mut output,
        mut errors,
        exit,
    } = stream;
    let feeding = tokio::spawn(async move {
        for chunk in input.chunks(300_000) {
            if sender.send(chunk.to_vec()).await.is_err() {
                return;
            }
        }
    });
    let reading = async move {
        let mut all = Vec::new();
        while let Some(chunk) = output.recv().await {
            all.extend(chunk);
        }
        all
    };
    let complaining = async move {
        let mut all = Vec::new();
        while let Some(chunk) = errors.recv().await {
            all.extend(chunk);
        }
        all
    };
    let (output, errors) = tokio::join!(reading, complaining);
    feeding.await.unwrap();
    (output, errors, exit.await.unwrap())
}

macro_rules! need_sshd {
    ($name:literal) => {
        if !sshd::is_here($name) {
            return;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_arrive_as_they_were_given() {
    need_sshd!("arguments_arrive_as_they_were_given");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let nasty = [
        "",
        " ",
        "it's",
        "\"$HOME\"",
        "`id`",
        "$(id)",
        "a;b|c&d",
        "*",
        "~",
        "\\",
        "\\n",
        "a\nb",
        "-n",
        "ü€",
        "\t#x",
        "!!",
        "{a,b}",
        "=x",
        "%s",
    ];
    let command = Command::new("printf").arg("%s\\0").args(nasty);
    let output = shell.run(&command, b"", PATIENCE).await.unwrap();
    let expect: String = nasty.iter().map(|word| format!("{word}\0")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told() {
    need_sshd!("ends_are_told");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    for code in [0, 1, 2, 127, 255] {
        let output = shell
            .run(&sh(&format!("cat >&2; exit {code}")), b"why", PATIENCE)
            .await
            .unwrap();
        assert_eq!(output.exit, Exit::Code(code));
        assert_eq!(output.stderr, b"why");
    }
    // In place of the login shell, whose end is what sshd tells.
    let killed = Command::new("exec").args(["sh", "-c", "kill -TERM $$"]);
    let output = shell.run(&killed, b"", PATIENCE).await.unwrap();
    assert_eq!(output.exit, Exit::Signal("TERM".to_owned()));
    // All of this was one session.
    assert_eq!(host.log().matches("Accepted publickey").count(), 1);
    // Still alive after an end by signal, and a new session when the old one was killed.
    host.kill_sessions();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let output = shell.run(&sh("echo again"), b"", PATIENCE).await.unwrap();
    assert_eq!(output.stdout, b"again\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_noticed() {
    need_sshd!("silence_is_noticed");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let error = shell
        .run(&sh("exec sleep 30"), b"", Duration::from_millis(500))
        .await
        .unwrap_err();
    assert!(matches!(error, ShellError::Silent { .. }), "{error}");
    let output = shell.run(&sh("echo well"), b"", PATIENCE).await.unwrap();
    assert_eq!(output.stdout, b"well\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_data_both_ways_with_many_errors() {
    need_sshd!("much_data_both_ways_with_many_errors");
    // A small rekey limit makes the key change happen while all directions are busy.
    let host = Sshd::start(&["RekeyLimit 20M"]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let input = noise(200_000_000);
    let stream = shell
        .stream(&sh("head -c 10000000 /dev/zero >&2 & cat; wait; exit 5"))
        .await
        .unwrap();
    let (output, errors, exit) = drive(stream, input.clone()).await;
    assert!(output == input, "{} bytes came back", output.len());
    assert_eq!(errors.len(), 10_000_000);
    assert_eq!(exit.unwrap(), Exit::Code(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_host_back() {
    need_sshd!("a_slow_reader_holds_the_host_back");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let mark = host.host_key_file("mark");
    let script = format!("head -c 100000000 /dev/zero; : > {}", mark.display());
    let mut stream = shell.stream(&sh(&script)).await.unwrap();
    let first = stream.output.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        !mark.exists(),
        "100 MB were taken although nobody reads them"
    );
    let mut count = first.len();
    while let Some(chunk) = stream.output.recv().await {
        count += chunk.len();
    }
    assert_eq!(count, 100_000_000);
    assert_eq!(stream.exit.await.unwrap().unwrap(), Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_input_is_not_closing_the_output() {
    need_sshd!("closing_the_input_is_not_closing_the_output");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let stream = shell
        .stream(&sh("wc -c; sleep 1; echo later"))
        .await
        .unwrap();
    let (output, _, exit) = drive(stream, vec![b'x'; 1000]).await;
    assert_eq!(String::from_utf8(output).unwrap(), "1000\nlater\n");
    assert_eq!(exit.unwrap(), Exit::Code(0));

    // The other way round: the output ends, the input is still read.
    let mark = host.host_key_file("read");
    let script = format!("exec >&- 2>&-; cat > {}", mark.display());
    let mut stream = shell.stream(&sh(&script)).await.unwrap();
    assert_eq!(stream.output.recv().await, None);
    stream.input.send(noise(3_000_000)).await.unwrap();
    drop(stream.input);
    assert_eq!(stream.exit.await.unwrap().unwrap(), Exit::Code(0));
    assert!(fs::read(mark).unwrap() == noise(3_000_000));

    // A command that ends before it read everything.
    let stream = shell
        .stream(&sh("head -c 10 > /dev/null; echo enough"))
        .await
        .unwrap();
    let (output, _, exit) = drive(stream, noise(20_000_000)).await;
    assert_eq!(output, b"enough\n");
    assert_eq!(exit.unwrap(), Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_ends_the_remote_pipe() {
    need_sshd!("a_dropped_stream_ends_the_remote_pipe");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let mark = host.host_key_file("ended");
    let script = format!("cat > /dev/null; : > {}", mark.display());
    let stream = shell.stream(&sh(&script)).await.unwrap();
    stream.input.send(b"x".to_vec()).await.unwrap();
    drop(stream);
    // One that never stops talking, which nobody listens to.
    let talking = host.host_key_file("talked");
    let script = format!("trap '' PIPE; yes; : > {}", talking.display());
    let mut stream = shell.stream(&sh(&script)).await.unwrap();
    stream.output.recv().await.unwrap();
    drop(stream);
    for file in [mark, talking] {
        let begin = Instant::now();
        while !file.exists() {
            assert!(begin.elapsed() < PATIENCE, "{} still runs", file.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sshd_is_a_lost_connection() {
    need_sshd!("a_killed_sshd_is_a_lost_connection");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    let mut stream = shell.stream(&sh("exec cat /dev/zero")).await.unwrap();
    stream.output.recv().await.unwrap();
    host.kill_sessions();
    let (_, _, exit) = drive(stream, Vec::new()).await;
    let error = exit.unwrap_err();
    assert!(matches!(error, ShellError::Lost { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_refused_unless_someone_says_yes() {
    need_sshd!("an_unknown_host_is_refused_unless_someone_says_yes");
    let host = Sshd::start(&[]);
    let refused = |home: &Home| {
        let shell = home.shell(&host);
        async move {
            shell
                .run(&sh("true"), b"", PATIENCE)
                .await
                .unwrap_err()
                .to_string()
        }
    };
    let home = Home::stranger();
    host.authorize(&home.public);
    let error = refused(&home).await;
    assert!(error.contains("ssh -p"), "{error}");
    assert!(error.contains(&host.fingerprint("ed25519")), "{error}");
    let home = home.answers(false);
    let error = refused(&home).await;
    assert!(error.contains("not accepted"), "{error}");
    assert_eq!(home.known(), "");

    let home = home.answers(true);
    let shell = home.shell(&host);
    shell.run(&sh("true"), b"", PATIENCE).await.unwrap();
    let question = home.operator.questions.lock().unwrap()[0].clone();
    assert!(
        question.contains(&host.fingerprint("ed25519")),
        "{question}"
    );
    let line = host.known_hosts_line("ed25519");
    assert_eq!(home.known(), format!("{line}\n"));
    assert_eq!(shell.known_host_line().await.unwrap(), line);
    // Remembered: a second shell does not ask.
    home.shell(&host)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap();
    assert_eq!(home.operator.questions.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_is_always_refused() {
    need_sshd!("a_changed_key_is_always_refused");
    let (host, other) = (Sshd::start(&[]), Sshd::start(&[]));
    let home = Home::stranger().answers(true);
    host.authorize(&home.public);
    let wrong = other.known_hosts_line("ed25519");
    let key = wrong.split_once(' ').unwrap().1;
    home.know("# a comment");
    home.know(&format!("[127.0.0.1]:{} {key}", host.port));
    let error = home
        .shell(&host)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ShellError::HostKey(_)), "{error}");
    let error = error.to_string();
    assert!(error.contains("known_hosts:2"), "{error}");
    assert!(error.contains(&host.fingerprint("ed25519")), "{error}");
    assert!(error.contains(&other.fingerprint("ed25519")), "{error}");
    assert!(home.operator.questions.lock().unwrap().is_empty());

    let home = Home::new(&[&host]);
    home.know(&format!("@revoked * {key}"));
    home.shell(&host)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap();
    let own = host.known_hosts_line("ed25519");
    home.know(&format!("@revoked * {}", own.split_once(' ').unwrap().1));
    let error = home
        .shell(&host)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_known_type_of_key_is_asked_for() {
    need_sshd!("the_known_type_of_key_is_asked_for");
    let kinds = ["rsa", "ecdsa", "ed25519"];
    let host = Sshd::start_with(&kinds, &[]);
    for kind in kinds {
        let home = Home::stranger();
        host.authorize(&home.public);
        home.know(&host.known_hosts_line(kind));
        // As OpenSSH writes it with HashKnownHosts.
        let hashed = std::process::Command::new("ssh-keygen")
            .args(["-q", "-H", "-f"])
            .arg(home.file(".ssh/known_hosts"))
            .output()
            .unwrap();
        assert!(hashed.status.success());
        assert!(home.known().starts_with("|1|"), "{}", home.known());
        let shell = home.shell(&host);
        shell.run(&sh("true"), b"", PATIENCE).await.unwrap();
        assert_eq!(
            shell.known_host_line().await.unwrap(),
            host.known_hosts_line(kind)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_by_agent_and_by_file() {
    need_sshd!("logins_by_agent_and_by_file");
    let host = Sshd::start(&[]);
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let mut home = Home::stranger();
        home.know(&host.known_hosts_line("ed25519"));
        fs::remove_file(&home.key).unwrap();
        let key = home.file(&format!("agent_{kind}"));
        host.authorize(&generate_key(&key, kind, ""));
        let agent = Agent::start(&[&key]);
        home.options.environment.agent_socket = Some(agent.socket.clone());
        let shell = home.shell(&host);
        let verified = shell.verified().await.unwrap();
        assert!(
            matches!(&verified.identity, Identity::Agent { comment, .. } if comment == "test"),
            "{verified:?}"
        );

        home.options.environment.agent_socket = None;
        let file = home.file(&format!(".ssh/id_{kind}"));
        fs::copy(&key, &file).unwrap();
        let verified = home.shell(&host).verified().await.unwrap();
        assert_eq!(verified.identity, Identity::File { path: file });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_says_what_was_tried() {
    need_sshd!("a_refused_login_says_what_was_tried");
    let host = Sshd::start(&[]);
    let mut home = Home::stranger();
    home.know(&host.known_hosts_line("ed25519"));
    let encrypted = home.file(".ssh/id_ecdsa");
    host.authorize(&generate_key(&encrypted, "ecdsa", "a passphrase"));
    let stranger = home.file("stranger");
    generate_key(&stranger, "ed25519", "");
    let agent = Agent::start(&[&stranger]);
    home.options.environment.agent_socket = Some(agent.socket.clone());
    let error = home
        .shell(&host)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ShellError::Login { .. }), "{error}");
    let error = error.to_string();
    let add = format!("ssh-add {}", encrypted.display());
    for part in ["agent key SHA256:", "id_ed25519: not accepted", &add] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_brings_port_user_and_key() {
    need_sshd!("an_alias_brings_port_user_and_key");
    let host = Sshd::start(&[]);
    let mut home = Home::stranger();
    home.options.environment.user = "nobody-at-all".to_owned();
    home.know(&host.known_hosts_line("ed25519"));
    let key = home.file("special");
    host.authorize(&generate_key(&key, "ed25519", ""));
    let config = format!(
        "Host storage\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {}\n FancyOption yes\n",
        host.port,
        host.user,
        key.display()
    );
    fs::write(home.file(".ssh/config"), config).unwrap();
    let shell = home.reach("storage", None);
    let output = shell
        .run(&Command::new("id").arg("-un"), b"", PATIENCE)
        .await
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), host.user);
    assert_eq!(
        proxmove::host::Shell::address(&shell),
        format!("{}@127.0.0.1:{}", host.user, host.port)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_are_taken() {
    need_sshd!("jumps_are_taken");
    let (first, second, target) = (Sshd::start(&[]), Sshd::start(&[]), Sshd::start(&[]));
    let home = Home::new(&[&first, &second, &target]);
    let config = format!(
        "Host first second target\n HostName 127.0.0.1\n\
         Host first\n Port {}\nHost second\n Port {}\nHost target\n Port {}\n ProxyJump first,second\n\
         Host loop\n ProxyJump loop\nHost dead\n HostName 127.0.0.1\n Port 1\n ProxyJump first\n",
        first.port, second.port, target.port
    );
    fs::write(home.file(".ssh/config"), config).unwrap();
    let shell = home.reach("target", None);
    let input = noise(30_000_000);
    let stream = shell.stream(&Command::new("cat")).await.unwrap();
    let (output, _, exit) = drive(stream, input.clone()).await;
    assert!(output == input, "{} bytes came back", output.len());
    assert_eq!(exit.unwrap(), Exit::Code(0));
    for host in [&first, &second, &target] {
        assert!(host.log().contains("Accepted publickey"));
    }
    let error = home
        .reach("loop", None)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ShellError::Configuration(_)), "{error}");
    let error = home
        .reach("dead", None)
        .run(&sh("true"), b"", PATIENCE)
        .await
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("through"), "{source}");
    // The connections through the jump hosts end with the shells.
    drop(shell);
    let begin = Instant::now();
    while !first.sessions().is_empty() || !second.sessions().is_empty() {
        assert!(
            begin.elapsed() < PATIENCE,
            "a jump host still has a session"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ciphers_are_chosen() {
    need_sshd!("ciphers_are_chosen");
    let host = Sshd::start(&[]);
    let mut home = Home::new(&[&host]);
    for (list, expect) in [
        ("aes256-ctr,aes128-ctr", "aes256-ctr"),
        ("none-such,aes128-gcm@openssh.com", "aes128-gcm@openssh.com"),
    ] {
        home.options.ciphers = Some(list.to_owned());
        let verified = home.shell(&host).verified().await.unwrap();
        assert_eq!(
            (verified.cipher_in, verified.cipher_out),
            (expect.to_owned(), expect.to_owned())
        );
    }
    for (list, expect) in [
        (None, "aes128-gcm@openssh.com"),
        (Some("-"), "chacha20-poly1305@openssh.com"),
    ] {
        home.options.ciphers = list.map(str::to_owned);
        let verified = home.shell(&host).verified().await.unwrap();
        assert_eq!(verified.cipher_in, expect);
    }
    home.options.ciphers = Some("none-such".to_owned());
    let error = home.shell(&host).verified().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("none-such") && source.contains("aes256-ctr"),
        "{source}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_sshd_is_tried_again() {
    need_sshd!("a_busy_sshd_is_tried_again");
    let host = Sshd::start(&["MaxStartups 1", "LoginGraceTime 2"]);
    let home = Home::new(&[&host]);
    // Somebody else holds the only place until the grace time is over.
    let _place = std::net::TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let output = home
        .shell(&host)
        .run(&sh("echo in"), b"", PATIENCE)
        .await
        .unwrap();
    assert_eq!(output.stdout, b"in\n");
    assert!(host.log().contains("MaxStartups"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once() {
    need_sshd!("many_streams_at_once");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = Arc::new(home.shell(&host));
    let mut running = Vec::new();
    for number in 0..8 {
        let shell = Arc::clone(&shell);
        running.push(tokio::spawn(async move {
            let input = noise(2_000_000 + number);
            let stream = shell.stream(&Command::new("cat")).await.unwrap();
            let (output, _, _) = drive(stream, input.clone()).await;
            output == input
        }));
    }
    for stream in running {
        assert!(stream.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more than a minute: `cargo test --test ssh silent_host -- --ignored`"]
async fn a_silent_host_is_lost_and_a_quiet_command_is_not() {
    need_sshd!("a_silent_host_is_lost_and_a_quiet_command_is_not");
    let host = Sshd::start(&[]);
    let home = Home::new(&[&host]);
    let shell = home.shell(&host);
    // A command that says nothing for longer than a silent host would be waited for.
    let quiet = shell
        .stream(&sh("sleep 80; echo still here"))
        .await
        .unwrap();
    let quiet = tokio::spawn(drive(quiet, Vec::new()));
    // A host that says nothing: its session is stopped, its kernel still acknowledges.
    let before = host.sessions();
    let frozen = shell.stream(&sh("exec cat")).await.unwrap();
    for session in host.sessions() {
        if !before.contains(&session) {
            let id = session.to_string();
            std::process::Command::new("kill")
                .args(["-STOP", &id])
                .status()
                .unwrap();
        }
    }
    let (_, _, exit) = drive(frozen, Vec::new()).await;
    let error = exit.unwrap_err();
    assert!(error.to_string().contains("no sign of life"), "{error}");
    let (output, _, exit) = quiet.await.unwrap();
    assert_eq!(output, b"still here\n");
    assert_eq!(exit.unwrap(), Exit::Code(0));
}

/// Measures; asserts nothing about speed. `cargo test --test ssh throughput -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    use std::io::Write as _;
    need_sshd!("throughput");
    let host = Sshd::start(&[]);
    let mut home = Home::new(&[&host]);
    const SIZE: usize = 500_000_000;
    for ciphers in [
        None,
        Some("aes256-ctr"),
        Some("chacha20-poly1305@openssh.com"),
    ] {
        home.options.ciphers = ciphers.map(str::to_owned);
        let shell = home.shell(&host);
        let begin = Instant::now();
        let mut stream = shell
            .stream(&sh(&format!("head -c {SIZE} /dev/zero")))
            .await
            .unwrap();
        let mut count = 0;
        while let Some(chunk) = stream.output.recv().await {
            count += chunk.len();
        }
        assert_eq!(count, SIZE);
        let from = SIZE as f64 / 1e6 / begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let stream = shell.stream(&sh("cat > /dev/null")).await.unwrap();
        let chunk = vec![0; 256 << 10];
        for _ in 0..SIZE / chunk.len() {
            stream.input.send(chunk.clone()).await.unwrap();
        }
        drop(stream.input);
        stream.exit.await.unwrap().unwrap();
        let to = SIZE as f64 / 1e6 / begin.elapsed().as_secs_f64();
        let _ = writeln!(
            std::io::stderr(),
            "{:32} from the host {from:6.0} MB/s, to the host {to:6.0} MB/s",
            shell.verified().await.unwrap().cipher_out
        );
    }
}
