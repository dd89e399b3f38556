use super::*;

fn url(text: &str) -> String {
    match api_url(text) {
        Ok(url) => format!(
            "{} {} {} {}{}",
            url.user.as_deref().unwrap_or("-"),
            url.password.as_ref().map_or("-", Secret::reveal),
            url.host,
            url.port,
            if url.doubtful_encoding {
                " doubtful"
            } else {
                ""
            }
        ),
        Err(wrong) => wrong.message,
    }
}

#[test]
fn urls_of_the_original_are_understood() {
    assert_eq!(
        url("https://user@pve:PASSWORD@apple-cluster.com:443"),
        "user@pve PASSWORD apple-cluster.com 443"
    );
    assert_eq!(
        url("https://root@pam:x@10.0.0.1"),
        "root@pam x 10.0.0.1 8006"
    );
    assert_eq!(
        url("https://root@pam:x@[2001:db8::1]:443/"),
        "root@pam x 2001:db8::1 443"
    );
    assert_eq!(url("https://root%40pam:x@h/api2/json"), "root@pam x h 8006");
    assert_eq!(url("HTTPS://h:1"), "- - h 1");
    assert_eq!(url("https://root@pam@h"), "root@pam - h 8006");
}

#[test]
fn passwords_may_be_encoded_or_not() {
    assert_eq!(
        url("https://u@pve:p@ss:w/rd#?@h"),
        "u@pve p@ss:w/rd#? h 8006"
    );
    assert_eq!(url("https://u@pve:100%@h"), "u@pve 100% h 8006");
    assert_eq!(url("https://u@pve:%zz%4@h"), "u@pve %zz%4 h 8006");
    assert_eq!(url("https://u@pve:p%40ss%25@h"), "u@pve p@ss% h 8006");
    assert_eq!(url("https://u@pve:p%C3%A4@h"), "u@pve pä h 8006");
    assert_eq!(url("https://u@pve:%ff%fe@h"), "u@pve %ff%fe h 8006");
    assert_eq!(url("https://u@pve:a%41@b@h"), "u@pve aA@b h 8006 doubtful");
    assert_eq!(url(r"https://u@pve:a\b@h"), r"u@pve a\b h 8006");
}

#[test]
fn broken_urls_are_refused_without_repeating_them() {
    assert_eq!(url("h:8006"), "is not a URL");
    assert_eq!(url("http://u@pve:SECRET@h"), "must begin with https://");
    assert_eq!(url("https://root:SECRET@h"), "names a user without a realm");
    assert_eq!(
        url("https://user@pve:SECRET"),
        "names a user without a realm"
    );
    assert_eq!(
        url("https://@pve:SECRET@h"),
        "names a user that cannot exist"
    );
    assert_eq!(url("https://u@pve:@h"), "has an empty password");
    assert_eq!(url("https://u@pve:SECRET@"), "names no host");
    assert_eq!(
        url("https://u@pve:SECRET@h:0"),
        "has a port that is not a number from 1 to 65535"
    );
    assert_eq!(
        url("https://u@pve:SECRET@h:99999"),
        "has a port that is not a number from 1 to 65535"
    );
    assert_eq!(
        url("https://u@pve:SECRET@::1"),
        "has an IPv6 address without brackets"
    );
    assert_eq!(
        url("https://u@pve:SECRET@[::g]"),
        "has no IPv6 address in its brackets"
    );
    assert_eq!(
        url("https://u@pve:SECRET@h/cluster"),
        "has a path after the host, and an API has none"
    );
}

#[test]
fn tokens() {
    let check = |text: &str| match token(text) {
        Ok((id, secret)) => format!("{id} {}", secret.reveal()),
        Err(wrong) => wrong.message,
    };
    assert_eq!(check("root@pam!mover=0-1-2"), "root@pam!mover 0-1-2");
    assert_eq!(
        check("PVEAPIToken=root@pam!mover=a=b"),
        "root@pam!mover a=b"
    );
    assert_eq!(check("root@pam!mover"), "is not an id and a secret");
    assert_eq!(check("root@pam=SECRET"), "has no token name");
    assert_eq!(check("root!mover=SECRET"), "does not begin with user@realm");
    assert_eq!(
        check("root@pam!=SECRET"),
        "has a token name that cannot exist"
    );
    assert_eq!(check("root@pam!mover="), "has no secret");
}

#[test]
fn a_fingerprint() {
    let bytes: Vec<String> = (0..32).map(|n| format!("{n:02X}")).collect();
    let expect: Vec<u8> = (0..32).collect();
    assert_eq!(
        fingerprint(&bytes.join(":")).map(Vec::from),
        Ok(expect.clone())
    );
    assert_eq!(
        fingerprint(&bytes.concat().to_lowercase()).map(Vec::from),
        Ok(expect)
    );
    let check = |text: &str| fingerprint(text).map_err(|wrong| wrong.message);
    let none = Err("is not a SHA-256 fingerprint".to_owned());
    assert_eq!(check(""), none);
    assert_eq!(check(&bytes[..31].join(":")), none);
    assert_eq!(check(&format!("{}x", bytes.concat())), none);
    assert_eq!(check(&bytes.concat()[1..]), none);
    assert_eq!(
        check(&bytes[..20].join(":")),
        Err("is a SHA-1 fingerprint".to_owned())
    );
}

#[test]
fn lists_of_hosts_and_fingerprints() {
    let check = |text: &str| hosts(text).map_err(|wrong| wrong.message);
    let host = |name: &str, port| (name.to_owned(), port);
    assert_eq!(check(""), Ok(vec![]));
    assert_eq!(
        check("apple2.lan, [2001:db8::1]:8007  10.0.0.3"),
        Ok(vec![
            host("apple2.lan", 8006),
            host("2001:db8::1", 8007),
            host("10.0.0.3", 8006)
        ])
    );
    let more = Err("has more than hosts; the login is that of api=".to_owned());
    assert_eq!(check("https://apple2.lan:8006"), more);
    assert_eq!(check("apple1, root@apple2"), more);
    let (one, two) = ("0A".repeat(32), "0B".repeat(32));
    assert_eq!(
        fingerprints(&format!("{one}, {two}")),
        Ok(vec![[10; 32], [11; 32]])
    );
    assert!(fingerprints("").is_err() && fingerprints(&format!("{one},x")).is_err());
}

#[test]
fn ssh_addresses() {
    let check = |text: &str| match ssh_address(text) {
        Ok(address) => format!("{:?} {} {:?}", address.user, address.host, address.port),
        Err(wrong) => wrong.message,
    };
    assert_eq!(
        check("root@san.apple.com"),
        "Some(\"root\") san.apple.com None"
    );
    assert_eq!(check("san"), "None san None");
    assert_eq!(check("root@san:2222"), "Some(\"root\") san Some(2222)");
    assert_eq!(
        check("root@[fe80::1%eth0]:22"),
        "Some(\"root\") fe80::1%eth0 Some(22)"
    );
    assert_eq!(check("a@b@san"), "Some(\"a@b\") san None");
    assert_eq!(check(""), "is empty");
    assert_eq!(check("root@"), "names no host");
    assert_eq!(check("@san"), "has no usable user in front of the '@'");
    assert_eq!(
        check("-oProxyCommand=x"),
        "has a host name that cannot exist"
    );
    assert_eq!(check("-l@san"), "has no usable user in front of the '@'");
    assert_eq!(check("ssh://root@san"), "is a URL");
    assert_eq!(check("root@san -p 22"), "has white space in it");
    assert_eq!(
        check("root@2001:db8::1"),
        "has an IPv6 address without brackets"
    );
    assert_eq!(
        check("root@san:/srv"),
        "has a port that is not a number from 1 to 65535"
    );
}

#[test]
fn paths() {
    let check = |text: &str| match storage_path(text) {
        Ok(StoragePath::Directory(path)) => format!("dir {path}"),
        Ok(StoragePath::Zfs(dataset)) => format!("zfs {dataset}"),
        Err(wrong) => wrong.message,
    };
    assert_eq!(check("/srv/images/"), "dir /srv/images");
    assert_eq!(check("/srv/a:b"), "dir /srv/a:b");
    assert_eq!(check("zfs:node2-ssd/images"), "zfs node2-ssd/images");
    assert_eq!(check("zfs:tank"), "zfs tank");
    assert_eq!(check("zfs:"), "'zfs:' needs a dataset");
    assert_eq!(
        check("zfs:/tank/images"),
        "'zfs:' is followed by something that is no dataset"
    );
    assert_eq!(
        check("zfs:tank/"),
        "'zfs:' is followed by something that is no dataset"
    );
    assert_eq!(
        check("zfs:tank/a@b"),
        "'zfs:' is followed by something that is no dataset"
    );
    assert_eq!(check("lvm:vg"), "'lvm:' is not a kind of path");
    assert_eq!(check("srv/images"), "is not an absolute path");
    assert_eq!(check(""), "is empty");
    assert_eq!(check("/"), "is the root directory");
}
