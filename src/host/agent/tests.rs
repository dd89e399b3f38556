use std::path::PathBuf;

use super::*;

/// The session the target signed.
const SESSION: &[u8] = b"a session of the target";

/// A key pair in a file of its own.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Keys {
        Keys {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn make(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let file = self.directory.path().join(name);
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", name, "-f"])
            .arg(&file)
            .args(arguments)
            .status()
            .expect("ssh-keygen runs");
        assert!(made.success());
        file
    }

    /// Makes a key the library can read: one in 256 ECDSA keys it cannot (see `Signer::from_file`).
    fn readable(&self, name: &str, arguments: &[&str]) -> PathBuf {
        for _ in 0..5 {
            let file = self.make(name, arguments);
            if Signer::from_file(&file).is_ok() {
                return file;
            }
            std::fs::remove_file(file).expect("removed");
        }
        panic!("no key of {arguments:?} can be read");
    }

    fn signer(&self, name: &str, arguments: &[&str]) -> Signer {
        Signer::from_file(&self.readable(name, arguments)).expect("a signer")
    }
}

/// Returns the flags and the algorithm a client would use with a key.
fn kind(signer: &Signer) -> (&'static [u8], u32) {
    match pair_type(signer) {
        b"ssh-rsa" => (b"rsa-sha2-512", 4),
        b"ssh-ed25519" => (b"ssh-ed25519", 0),
        _ => (b"ecdsa-sha2-nistp256", 0),
    }
}

fn pair_type(signer: &Signer) -> &[u8] {
    let length = u32::from_be_bytes(*signer.blob().first_chunk().expect("a key")) as usize;
    &signer.blob()[4..4 + length]
}

fn strings(values: &[&[u8]]) -> Vec<u8> {
    values.iter().flat_map(|value| frame(value)).collect()
}

fn bind_request(host: &Signer, signed: &[u8], forwarding: u8) -> Vec<u8> {
    let (algorithm, flags) = kind(host);
    let signature = host.sign(algorithm, signed, flags).expect("signs");
    let mut request = vec![27];
    request.extend(strings(&[
        b"session-bind@openssh.com",
        host.blob(),
        SESSION,
        &signature,
    ]));
    request.push(forwarding);
    request
}

fn login(session: &[u8], user: &str, method: &str, key: &Signer, host: Option<&Signer>) -> Vec<u8> {
    let mut data = frame(session);
    data.push(50);
    data.extend(strings(&[
        user.as_bytes(),
        b"ssh-connection",
        method.as_bytes(),
    ]));
    data.push(1);
    data.extend(strings(&[kind(key).0, key.blob()]));
    if let Some(host) = host {
        data.extend(frame(host.blob()));
    }
    data
}

fn sign_request(key: &Signer, data: &[u8]) -> Vec<u8> {
    message::sign_request(key.blob(), data, kind(key).1)
}

const PLAIN: &str = "publickey";
const BOUND: &str = "publickey-hostbound-v00@openssh.com";

#[test]
fn only_the_login_it_was_lent_for_is_signed() {
    let keys = Keys::new();
    for arguments in [
        &["-t", "ed25519"] as &[&str],
        &["-t", "ecdsa"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "2048", "-m", "PEM"],
    ] {
        let name = |role: &str| format!("{role}{}", arguments.join(""));
        let host = keys.signer(&name("host"), arguments);
        let other_host = keys.signer(&name("other"), arguments);
        let file = keys.readable(&name("user"), arguments);
        let user = Signer::from_file(&file).expect("a signer");
        let mut agent = ScopedAgent::new(
            Scope {
                user: "root".to_owned(),
                host_keys: vec![host.blob().to_vec()],
            },
            Signer::from_file(&file).expect("a signer"),
        );
        let mut refused = 0;
        let mut check = |agent: &mut ScopedAgent, request: &[u8], because: Option<&str>| {
            let answer = agent.answer(request);
            match because {
                Some(because) => {
                    refused += 1;
                    assert_eq!(answer, [5], "{because}");
                    let reason = agent.last_refusal().expect("a reason");
                    assert!(reason.contains(because), "{reason}");
                }
                None => assert_ne!(answer[0], 5, "{:?}", agent.last_refusal()),
            }
            assert_eq!(agent.refusals(), refused);
            answer
        };
        let root = login(SESSION, "root", PLAIN, &user, None);

        let listed = check(&mut agent, &[11], None);
        assert_eq!(listed, message::identities(user.blob(), user.comment()));
        check(&mut agent, &sign_request(&user, &root), Some("not bound"));
        check(
            &mut agent,
            &bind_request(&other_host, SESSION, 0),
            Some("another host"),
        );
        check(
            &mut agent,
            &bind_request(&host, SESSION, 1),
            Some("further hosts"),
        );
        check(
            &mut agent,
            &bind_request(&host, b"other", 0),
            Some("not valid"),
        );
        check(&mut agent, &sign_request(&user, &root), Some("not bound"));
        check(&mut agent, &bind_request(&host, SESSION, 0), None);

        let answer = check(&mut agent, &sign_request(&user, &root), None);
        let signature = message::signature_in(&answer).expect("a signature");
        assert!(verify::is_signed(user.blob(), &root, signature));
        assert!(!verify::is_signed(user.blob(), b"else", signature));
        assert!(!verify::is_signed(host.blob(), &root, signature));
        let bound = login(SESSION, "root", BOUND, &user, Some(&host));
        check(&mut agent, &sign_request(&user, &bound), None);
        assert_eq!(agent.logins(), 2);

        for (data, because) in [
            (login(b"other", "root", PLAIN, &user, None), "not bound"),
            (
                login(SESSION, "toor", PLAIN, &user, None),
                "'toor', not 'root'",
            ),
            (
                login(SESSION, "root", BOUND, &user, Some(&other_host)),
                "method or host",
            ),
            (login(SESSION, "root", BOUND, &user, None), "method or host"),
            (
                login(SESSION, "root", PLAIN, &user, Some(&host)),
                "method or host",
            ),
            (
                login(SESSION, "root", "hostbased", &user, None),
                "method or host",
            ),
            (
                login(SESSION, "root", PLAIN, &other_host, None),
                "another key",
            ),
            (b"SSHSIG".to_vec(), "not a login"),
            (Vec::new(), "not a login"),
            ([root.as_slice(), b"x"].concat(), "not a login"),
        ] {
            check(&mut agent, &sign_request(&user, &data), Some(because));
        }
        check(&mut agent, &sign_request(&host, &root), Some("another key"));
        check(&mut agent, &[19], Some("request 19"));
        check(&mut agent, &[], Some("cannot be understood"));
        check(&mut agent, &[11, 0], Some("cannot be understood"));
        let mut extension = vec![27];
        extension.extend(frame(b"query"));
        check(&mut agent, &extension, Some("extension 'query'"));
        assert_eq!(agent.logins(), 2);
    }
}

#[test]
fn sessions_do_not_pile_up() {
    let keys = Keys::new();
    let host = keys.signer("host", &["-t", "ed25519"]);
    let user = keys.signer("user", &["-t", "ed25519"]);
    let scope = Scope {
        user: "root".to_owned(),
        host_keys: vec![host.blob().to_vec()],
    };
    let mut agent = ScopedAgent::new(scope, user);
    for number in 0..MAX_SESSIONS + 5 {
        let session = number.to_string();
        let signature = host
            .sign(b"ssh-ed25519", session.as_bytes(), 0)
            .expect("signs");
        let bound = agent.bind(host.blob(), session.as_bytes(), &signature, false);
        assert_eq!(bound.is_ok(), number < MAX_SESSIONS);
    }
}

proptest::proptest! {
    #[test]
    fn no_request_makes_it_panic(kind in proptest::sample::select(vec![11_u8, 13, 27, 0, 255]), rest: Vec<u8>) {
        let request = [&[kind][..], &rest].concat();
        let _ = Request::parse(&request);
        let _ = Login::parse(&rest);
        let _ = (message::rsa_parts(&rest), message::pair_in(&rest), message::signature_in(&rest));
        proptest::prop_assert!(!verify::is_signed(&rest, b"data", &rest));
    }

    #[test]
    fn what_is_written_is_read(key: Vec<u8>, data: Vec<u8>, flags: u32, cut in 0_usize..8) {
        let request = message::sign_request(&key, &data, flags);
        let expect = Request::Sign { key: &key, data: &data, flags };
        proptest::prop_assert_eq!(Request::parse(&request), Some(expect));
        if cut > 0 {
            proptest::prop_assert_eq!(Request::parse(&request[..request.len() - cut]), None);
        }
    }
}
