//! Host keys, logins, aliases and ciphers against a real sshd.
#![allow(clippy::unwrap_used)]

#[path = "support/home.rs"]
mod home;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;

use home::{Home, PATIENCE, sh};
use proxmove::host::command::Command;
use proxmove::host::ssh::Identity;
use proxmove::host::{Shell as _, ShellError};
use sshd::{Agent, Sshd, generate_key};

macro_rules! need_sshd {
    ($name:literal) => {
        if !sshd::is_here($name) {
            return;
        }
    };
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
