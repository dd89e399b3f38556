//! The values of proxmoverc one by one: the API's URL, tokens, fingerprints, SSH addresses, paths.
//!
//! Pure. A message never repeats the value: where a URL is broken, any part of it may be the password. Read next:
//! `parse.rs`.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::{Secret, SshAddress, StoragePath};

/// Why a value is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

fn wrong<T>(message: &str, hint: &str) -> Result<T, Wrong> {
    Err(Wrong {
        message: message.to_owned(),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    })
}

/// What `api=` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiUrl {
    /// `user@realm`.
    pub(super) user: Option<String>,
    /// Decoded.
    pub(super) password: Option<Secret>,
    pub(super) host: String,
    pub(super) port: u16,
    /// The password has `%XX` that was decoded beside characters that an encoded password would not have.
    pub(super) doubtful_encoding: bool,
}

/// The port of a Proxmox VE API where the URL names none (pveproxy's own).
const DEFAULT_PORT: u16 = 8006;
const API_HINT: &str = "api=https://user@realm:PASSWORD@host:8006";

/// Parses `https://user@realm:PASSWORD@host:port`.
///
/// The password may stand as it is, because that is how people write it: the user ends at the first ':', the password
/// at the last '@'.
pub(super) fn api_url(text: &str) -> Result<ApiUrl, Wrong> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("is not a URL", API_HINT);
    };
    if !scheme.eq_ignore_ascii_case("https") {
        return wrong("must begin with https://", API_HINT);
    }
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (place, path) = place.split_once('/').unwrap_or((place, ""));
    if !matches!(path, "" | "api2/json" | "api2/json/") {
        return wrong("has a path after the host, and an API has none", API_HINT);
    }
    let (user, password) = match login {
        None => (None, None),
        Some(login) => {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            (Some(user_id(&decoded(user))?), password)
        }
    };
    if password == Some("") {
        return wrong("has an empty password", API_HINT);
    }
    let (host, port) = host_and_port(place)?;
    Ok(ApiUrl {
        user,
        doubtful_encoding: password.is_some_and(is_doubtful),
        password: password.map(|password| Secret::new(decoded(password))),
        host,
        port: port.unwrap_or(DEFAULT_PORT),
    })
}

/// Decodes `%XX`; a '%' that two hexadecimal digits do not follow stays, and so does what would not be a text.
fn decoded(text: &str) -> String {
    percent_decode_str(text)
        .decode_utf8()
        .map_or_else(|_| text.to_owned(), |plain| plain.into_owned())
}

fn is_doubtful(password: &str) -> bool {
    decoded(password) != password && {
        // An encoded password has no such character, so its `%XX` may be meant literally.
        let escapes = password.split('%').skip(1);
        let broken = escapes
            .map(|rest| rest.as_bytes().get(..2))
            .any(|digits| !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)));
        broken || password.contains(['@', ':', '/', '?', '#', '[', ']'])
    }
}

/// Checks `user@realm` (pve-access-control, `pve-userid`).
fn user_id(text: &str) -> Result<String, Wrong> {
    let Some((name, realm)) = text.rsplit_once('@') else {
        return wrong("names a user without a realm", "root@pam or user@pve");
    };
    let realm_ok = realm.starts_with(|c: char| c.is_ascii_alphabetic())
        && realm
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let name_ok =
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == ':' || c == '/');
    if !realm_ok || !name_ok {
        return wrong("names a user that cannot exist", "root@pam or user@pve");
    }
    Ok(text.to_owned())
}

/// Parses `user@realm!name=SECRET`, also with the `PVEAPIToken=` of the HTTP header in front.
pub(super) fn token(text: &str) -> Result<(String, Secret), Wrong> {
    const HINT: &str = "token=user@realm!name=SECRET";
    let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
    let Some((id, secret)) = text.split_once('=') else {
        return wrong("is not an id and a secret", HINT);
    };
    let Some((user, name)) = id.rsplit_once('!') else {
        return wrong("has no token name", HINT);
    };
    if user_id(user).is_err() {
        return wrong("does not begin with user@realm", HINT);
    }
    if name.is_empty()
        || !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    {
        return wrong("has a token name that cannot exist", HINT);
    }
    if secret.is_empty() {
        return wrong("has no secret", HINT);
    }
    Ok((id.to_owned(), Secret::new(secret)))
}

/// Returns the words of a list that is separated by commas or spaces.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t']).filter(|word| !word.is_empty())
}

/// Parses other hosts of the same API: `host` or `host:port` each.
pub(super) fn hosts(text: &str) -> Result<Vec<(String, u16)>, Wrong> {
    let hosts = words(text).map(|word| {
        if word.contains("://") || word.contains('@') {
            return wrong(
                "has more than hosts; the login is that of api=",
                "also=apple2.example.com, apple3.example.com:8006",
            );
        }
        let (host, port) = host_and_port(word)?;
        Ok((host, port.unwrap_or(DEFAULT_PORT)))
    });
    hosts.collect()
}

/// Parses the fingerprints of one certificate or several.
pub(super) fn fingerprints(text: &str) -> Result<Vec<[u8; 32]>, Wrong> {
    match words(text)
        .map(fingerprint)
        .collect::<Result<Vec<_>, _>>()?
    {
        none if none.is_empty() => fingerprint("").map(|one| vec![one]),
        some => Ok(some),
    }
}

/// Parses the SHA-256 fingerprint of a certificate, with or without colons.
pub(super) fn fingerprint(text: &str) -> Result<[u8; 32], Wrong> {
    const HINT: &str = "32 bytes as AA:BB:..., from 'pvenode cert info' on the node";
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .unwrap_or_default();
    if digits.len() == 40 {
        return wrong("is a SHA-1 fingerprint", HINT);
    }
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    match <[u8; 32]>::try_from(bytes) {
        Ok(bytes) if digits.len() == 64 => Ok(bytes),
        _ => wrong("is not a SHA-256 fingerprint", HINT),
    }
}

/// Parses `[user@]host[:port]`; an IPv6 address stands in brackets.
pub(super) fn ssh_address(text: &str) -> Result<SshAddress, Wrong> {
    const HINT: &str = "root@host or root@host:22";
    if text.is_empty() {
        return wrong("is empty", HINT);
    }
    if text.contains("://") {
        return wrong("is a URL", HINT);
    }
    if text.chars().any(char::is_whitespace) {
        return wrong("has white space in it", "options belong into ~/.ssh/config");
    }
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, text),
    };
    if user.is_some_and(|user| user.is_empty() || user.starts_with('-') || user.contains(':')) {
        return wrong("has no usable user in front of the '@'", HINT);
    }
    let (host, port) = host_and_port(place)?;
    Ok(SshAddress {
        user: user.map(str::to_owned),
        host,
        port,
    })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), Wrong> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else {
            return wrong("has '[' without ']'", "[2001:db8::1]:PORT");
        };
        let plain = host.split('%').next().unwrap_or(host);
        if plain.parse::<Ipv6Addr>().is_err() {
            return wrong("has no IPv6 address in its brackets", "[2001:db8::1]:PORT");
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return wrong("has text after ']'", "[2001:db8::1]:PORT"),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() {
        return wrong("has an IPv6 address without brackets", "[2001:db8::1]:PORT");
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return wrong("names no host", "");
    }
    let is_name = host.starts_with(|c: char| c.is_alphanumeric())
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || ".-_".contains(c));
    if !text.starts_with('[') && !is_name {
        return wrong("has a host name that cannot exist", "");
    }
    match port.map(str::parse::<u16>) {
        None => Ok((host.to_owned(), None)),
        Some(Ok(port)) if port > 0 => Ok((host.to_owned(), Some(port))),
        Some(_) => wrong(
            "has a port that is not a number from 1 to 65535",
            "HOST:PORT",
        ),
    }
}

/// Parses `path=`: a directory, or `zfs:POOL/DATASET`.
pub(super) fn storage_path(text: &str) -> Result<StoragePath, Wrong> {
    if let Some(dataset) = text.strip_prefix("zfs:") {
        if dataset.is_empty() {
            return wrong("'zfs:' needs a dataset", "zfs:POOL/images");
        }
        let usable = dataset.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c))
        });
        if !usable {
            return wrong(
                "'zfs:' is followed by something that is no dataset",
                "zfs:POOL/images, no '/' at either end",
            );
        }
        return Ok(StoragePath::Zfs(dataset.to_owned()));
    }
    if let Some((kind, _)) = text.split_once(':').filter(|(kind, _)| !kind.contains('/')) {
        return wrong(
            &format!("'{kind}:' is not a kind of path"),
            "/DIRECTORY or zfs:POOL/DATASET",
        );
    }
    directory(text, "/DIRECTORY or zfs:POOL/DATASET").map(StoragePath::Directory)
}

/// Parses an absolute path; slashes at its end are dropped.
pub(super) fn directory(text: &str, hint: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return wrong("is empty", hint);
    }
    if !text.starts_with('/') {
        return wrong("is not an absolute path", hint);
    }
    match text.trim_end_matches('/') {
        "" => wrong("is the root directory", hint),
        path => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests;
