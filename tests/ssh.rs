//! Hosts behind a real sshd: quoting, ends, volumes of data, broken connections and jumps.
#![allow(clippy::unwrap_used)]

#[path = "support/home.rs"]
mod home;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use home::{Home, PATIENCE, drive, noise, sh};
use proxmove::host::command::Command;
use proxmove::host::{Exit, Shell as _, ShellError};
use sshd::Sshd;

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
