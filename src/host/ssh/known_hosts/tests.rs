use super::*;

/// Returns the wire form of a made-up key.
fn key(kind: &str, content: u8) -> Vec<u8> {
    let mut blob = (kind.len() as u32).to_be_bytes().to_vec();
    blob.extend(kind.as_bytes());
    blob.extend([0, 0, 0, 4, content, content, content, content]);
    blob
}

const ED: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";

fn judged(text: &str, name: &str, blob: &[u8]) -> &'static str {
    let mut known = KnownHost::default();
    known.add(text, Path::new("kh"), name);
    match known.judge(blob) {
        Verdict::Known => "known",
        Verdict::Unknown(None) => "unknown",
        Verdict::Unknown(Some(_)) => "authority",
        Verdict::Changed { place, .. } if place.line == 2 => "changed on line 2",
        Verdict::Changed { .. } => "changed",
        Verdict::Revoked(_) => "revoked",
    }
}

#[test]
fn lines_are_judged() {
    let (good, bad) = (key(ED, 1), key(ED, 2));
    let check = |text: &str, name: &str, expect: &str| {
        assert_eq!(judged(text, name, &good), expect, "{text:?} {name}");
    };
    check("", "h", "unknown");
    check(&line("h", &good), "h", "known");
    check(&line("H", &good), "h", "known");
    check(&line("h", &good), "i", "unknown");
    check(&line("a,h,b", &good), "h", "known");
    check(&line("*.lab,!x.lab", &good), "y.lab", "known");
    check(&line("*.lab,!x.lab", &good), "x.lab", "unknown");
    check(&line("[h]:23", &good), "[h]:23", "known");
    check(&line("h", &good), "[h]:23", "unknown");
    check(&line("h", &bad), "h", "changed");
    check(
        &format!("# x\n{}", line("h", &bad)),
        "h",
        "changed on line 2",
    );
    check(&line("h", &key(RSA, 1)), "h", "changed");
    // A second line for the same host counts as well.
    check(
        &format!("{}\n{}", line("h", &bad), line("h", &good)),
        "h",
        "known",
    );
    check(&format!("@revoked {}", line("*", &good)), "h", "revoked");
    check(
        &format!("{}\n@revoked {}", line("h", &good), line("h", &good)),
        "h",
        "revoked",
    );
    check(&format!("@revoked {}", line("*", &bad)), "h", "unknown");
    check(
        &format!("@cert-authority {}", line("*", &bad)),
        "h",
        "authority",
    );
    check(&format!("@other {}", line("h", &good)), "h", "unknown");
    check("h ssh-ed25519", "h", "unknown");
    check("h ssh-ed25519 !!!", "h", "unknown");
    check("h ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAABAEBAQE=", "h", "unknown");
}

#[test]
fn hashed_names_match() {
    let known_salt = STANDARD.encode([7; 20]);
    let hash_of = |name: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &[7; 20]);
        STANDARD.encode(hmac::sign(&key, name.as_bytes()))
    };
    let good = key(ED, 1);
    let name = format!("|1|{known_salt}|{}", hash_of("[h]:23"));
    assert_eq!(judged(&line(&name, &good), "[h]:23", &good), "known");
    assert_eq!(judged(&line(&name, &good), "h", &good), "unknown");
    assert_eq!(judged(&line("|1|x", &good), "h", &good), "unknown");
}

#[test]
fn known_types_keep_the_order_of_the_file() {
    let mut known = KnownHost::default();
    let text = [key(RSA, 1), key(ED, 1), key(RSA, 2)].map(|blob| line("h", &blob));
    known.add(&text.join("\n"), Path::new("kh"), "h");
    assert_eq!(known.types(), [RSA, ED]);
}

#[test]
fn remembering_appends_a_whole_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("new/known_hosts");
    remember(&file, "a b c").expect("written");
    let mode = |path: &Path| {
        let metadata = std::fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().expect("a parent")), 0o700);
    std::fs::write(&file, "no line end").expect("written");
    remember(&file, "d e f").expect("written");
    let text = std::fs::read_to_string(&file).expect("read");
    assert_eq!(text, "no line end\nd e f\n");
}

proptest::proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(text in "[@|#*?!, a-zA-Z0-9=\\[\\]:\\n]{0,120}", blob: Vec<u8>) {
        let mut known = KnownHost::default();
        known.add(&text, Path::new("kh"), "[h]:23");
        let _ = known.judge(&blob);
        let _ = (known.types().len(), line("h", &blob), fingerprint(&blob));
    }

    #[test]
    fn fuzz_known_hosts(text in crate::mutations::text(&[
        "h ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJNSzQ+vhZJLmwV4GcQkGVVKvI5cCg5fYKgqF3dP5aM1 me\n# a comment\n",
        "@revoked *.lan,!h,[h]:23 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJNSzQ+vhZJLmwV4GcQkGVVKvI5cCg5fYKgqF3dP5aM1\n",
        "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==\n",
        "@cert-authority h? ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJNSzQ+vhZJLmwV4GcQkGVVKvI5cCg5fYKgqF3dP5aM1\n",
    ]), name in crate::mutations::text(&["h", "[h]:23", "fe80::1"])) {
        let mut known = KnownHost::default();
        known.add(&text, Path::new("kh"), &name);
        for entry in known.entries.clone() {
            // What is read is found again by what is written.
            if entry.mark == Mark::Key && !name.contains(['*', '?', '!', ',', '|', '#', '@']) && !name.contains(char::is_whitespace) {
                let mut again = KnownHost::default();
                again.add(&line(&name, &entry.blob), Path::new("kh"), &name);
                proptest::prop_assert!(again.judge(&entry.blob) == Verdict::Known || name.is_empty());
            }
            let _ = known.judge(&entry.blob);
        }
    }
}
