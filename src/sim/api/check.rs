//! Checks the parameters of a request against the table, with the words Proxmox VE uses.
//!
//! Pure: text in, complaints out. It knows nothing of guests or storages. Read next: `schema.rs` (the table).

use std::collections::BTreeMap;

use super::schema::{Format, Kind, Param, Property, Version};

const UNKNOWN: &str =
    "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";

/// Complaints by parameter.
pub type Errors = BTreeMap<String, String>;

/// Checks `given` against `params`, as `release` would; empty means all is well.
pub fn check_params<'a>(
    params: impl Iterator<Item = &'a Param>,
    given: &BTreeMap<String, String>,
    release: Version,
) -> Errors {
    let params: Vec<&Param> = params.collect();
    let mut errors = Errors::new();
    for (key, value) in given {
        match params.iter().find(|param| param.matches(key)) {
            None => {
                errors.insert(key.clone(), UNKNOWN.to_owned());
            }
            Some(param) => check_value(param, key, value, release, &mut errors),
        }
    }
    for param in params {
        if !param.optional && !given.contains_key(param.name) {
            errors.insert(param.name.to_owned(), MISSING.to_owned());
        }
    }
    errors
}

fn check_value(param: &Param, path: &str, value: &str, release: Version, errors: &mut Errors) {
    let mut complain = |text: String| {
        errors.insert(path.to_owned(), text);
    };
    let kind = param.kind_in(release);
    let typed = match kind {
        _ if value.is_empty() => true,
        Kind::Text => true,
        Kind::Integer => is_integer(value),
        Kind::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
        Kind::Boolean => value == "0" || value == "1",
    };
    if !typed {
        return complain(format!(
            "type check ('{}') failed - got '{value}'",
            kind.word()
        ));
    }
    if kind == Kind::Integer && param.kind == Kind::Text {
        // `memory` before 8.1: a plain integer with a lower limit.
        if value.parse::<i64>().is_ok_and(|number| number < 16) {
            complain("value must have a minimum value of 16".to_owned());
        }
        return;
    }
    if let Err(reason) = check_format(param.format, path, value, release) {
        return complain(format!("invalid format - {reason}\n"));
    }
    if kind != Kind::Text {
        let Ok(number) = value.parse::<f64>() else {
            return;
        };
        if let Some(least) = param.least.filter(|least| number < *least as f64) {
            return complain(format!("value must have a minimum value of {least}"));
        }
        if let Some(most) = param.most.filter(|most| number > *most as f64) {
            complain(format!("value must have a maximum value of {most}"));
        }
        return;
    }
    if let Some(longest) = param.longest.filter(|max| value.chars().count() > *max) {
        return complain(format!("value may only be {longest} characters long"));
    }
    if !param.words.is_empty() && !param.words.contains(&value) {
        return complain(format!(
            "value '{value}' does not have a value in the enumeration '{}'",
            param.words.join(", ")
        ));
    }
    if !matches_pattern(param, value) {
        complain("value does not match the regex pattern".to_owned());
    }
}

fn is_integer(value: &str) -> bool {
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The formats that Proxmox VE states as a pattern, whose complaint is always the same.
fn matches_pattern(param: &Param, value: &str) -> bool {
    match param.format {
        Format::GenerationId => value == "0" || value == "1" || is_uuid(value),
        Format::Serial => {
            value == "socket"
                || value
                    .strip_prefix("/dev/")
                    .is_some_and(|rest| !rest.is_empty())
        }
        Format::Parallel => ["/dev/parport", "/dev/usb/lp"].iter().any(|stem| {
            value.strip_prefix(stem).is_some_and(|digits| {
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
            })
        }),
        Format::ResizeSize => {
            let number = value.strip_prefix('+').unwrap_or(value);
            let number = number.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(number);
            !number.is_empty() && number.parse::<f64>().is_ok() && !number.starts_with('-')
        }
        Format::AllocSize => {
            let number = value.strip_suffix(['M', 'G']).unwrap_or(value);
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        }
        _ => true,
    }
}

fn check_format(format: Format, path: &str, value: &str, release: Version) -> Result<(), String> {
    let require = |holds: bool, text: &str| match holds {
        true => Ok(()),
        false => Err(text.to_owned()),
    };
    match format {
        Format::DnsName => require(
            is_dns_name(value),
            "value does not look like a valid DNS name",
        ),
        Format::Vmid => require(is_vmid(value), "value does not look like a valid VM ID"),
        Format::VmidList => require(
            split_list(value).all(is_vmid),
            "value does not look like a valid VM ID",
        ),
        Format::PoolId => require(
            is_pool_id(value),
            &format!("pool name '{value}' contains invalid characters"),
        ),
        Format::ConfigId => require(
            is_config_id(value),
            &format!("invalid configuration ID '{value}'"),
        ),
        Format::MacAddress => require(
            is_unicast_mac(value),
            "value does not look like a valid unicast MAC address",
        ),
        Format::DiskSize => require(
            parse_size(value).is_some(),
            &format!("value does not look like a valid disk size: {value}"),
        ),
        Format::UrlEncoded => require(
            is_url_encoded(value),
            &format!("invalid urlencoded string: {value}"),
        ),
        Format::Tags => check_tags(value),
        Format::Boot => check_boot(value),
        Format::Smbios => check_smbios(value),
        Format::Cpu => {
            let model = value.split(',').next().unwrap_or_default();
            let model = model.strip_prefix("cputype=").unwrap_or(model);
            match model.strip_prefix("custom-") {
                Some(name) => Err(format!("Custom cputype '{name}' not found")),
                None => Ok(()),
            }
        }
        Format::Property(property) => check_property(property, path, value, release),
        _ => Ok(()),
    }
}

/// Splits a property string into its sub-keys, as Proxmox VE does; the error is its complaint.
pub fn parse_property(property: &Property, text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut parsed = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => (key, value),
            Some(_) => return Err("missing key in comma-separated list property".to_owned()),
            None => match property.default_key {
                Some(key) => (key, part),
                None => {
                    return Err(
                        "value without key, but schema does not define a default key".into(),
                    );
                }
            },
        };
        let mut target = key;
        if let Some((_, real, named)) = property.aliases.iter().find(|alias| alias.0 == key) {
            target = real;
            if let Some(named) = named {
                if parsed.contains_key(*named) {
                    return Err(format!("key alias '{named}' is already defined"));
                }
                parsed.insert((*named).to_owned(), key.to_owned());
            }
        }
        if parsed.insert(target.to_owned(), value.to_owned()).is_some() {
            return Err(format!(
                "duplicate key in comma-separated list property: {key}"
            ));
        }
    }
    Ok(parsed)
}

fn check_property(
    property: &Property,
    path: &str,
    text: &str,
    release: Version,
) -> Result<(), String> {
    let parsed = parse_property(property, text)?;
    let known = property.keys.iter().filter(|key| key.since <= release);
    let mut errors = Errors::new();
    for (key, value) in &parsed {
        match known.clone().find(|param| param.matches(key)) {
            None => {
                errors.insert(key.clone(), UNKNOWN.to_owned());
            }
            Some(param) => {
                let spoken = match param.kind {
                    Kind::Boolean => spoken_boolean(value),
                    _ => value.clone(),
                };
                check_value(param, key, &spoken, release, &mut errors);
            }
        }
    }
    for param in known {
        if !param.optional && !parsed.contains_key(param.name) {
            errors.insert(param.name.to_owned(), MISSING.to_owned());
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = errors
        .iter()
        .map(|(key, error)| format!("{path}.{key}: {error}"))
        .collect();
    Err(format!("format error\n{}", lines.join("\n")))
}

/// Inside property strings `yes`, `on` and `true` are booleans too.
fn spoken_boolean(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => "1".to_owned(),
        "0" | "off" | "no" | "false" => "0".to_owned(),
        _ => value.to_owned(),
    }
}

/// Splits a list written with commas, semicolons, blanks or NUL.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';', ' ', '\t', '\n', '\0'])
        .filter(|part| !part.is_empty())
}

fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|label| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            edge(label.chars().next())
                && edge(label.chars().last())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
}

fn is_vmid(text: &str) -> bool {
    !text.starts_with('0')
        && text
            .parse::<u32>()
            .is_ok_and(|n| (100..=999_999_999).contains(&n))
}

fn is_pool_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3
        && parts.iter().all(|part| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
}

fn is_config_id(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn is_unicast_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        && u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 0)
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

fn is_url_encoded(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "%-_.!~*'()".contains(c))
}

/// Parses a size as it stands in a drive; `None` when it is none.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1u64 << 10),
        (at, 'M') => (&text[..at], 1 << 20),
        (at, 'G') => (&text[..at], 1 << 30),
        (at, 'T') => (&text[..at], 1 << 40),
        _ => (text, 1),
    };
    let number: f64 = digits.parse().ok()?;
    (number >= 0.0).then_some((number * unit as f64) as u64)
}

/// Writes a size as Proxmox VE writes it: the largest binary unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let mut rest = bytes;
    let mut unit = "";
    for next in ["K", "M", "G", "T"] {
        if !rest.is_multiple_of(1024) || rest == 0 {
            break;
        }
        rest /= 1024;
        unit = next;
    }
    format!("{rest}{unit}")
}

fn check_tags(text: &str) -> Result<(), String> {
    for tag in split_list(text) {
        let start = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let rest = |c: char| start(c) || "+.-".contains(c);
        if !(tag.starts_with(start) && tag.chars().all(rest)) {
            return Err("invalid characters in tag".to_owned());
        }
    }
    Ok(())
}

/// Returns the devices of `order=`; `None` for the legacy letters.
pub fn boot_order(text: &str) -> Option<Vec<String>> {
    text.split(',')
        .find_map(|part| part.strip_prefix("order="))
        .map(|list| split_list(list).map(str::to_owned).collect())
}

fn check_boot(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split(',').filter(|p| !p.trim().is_empty()).collect();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or(("legacy", part));
        match key {
            "order" => {}
            "legacy" if value.chars().all(|c| "acdn".contains(c)) && value.len() <= 4 => {}
            "legacy" => {
                return Err(
                    "format error\nboot.legacy: value does not match the regex pattern".to_owned(),
                );
            }
            other => return Err(format!("format error\nboot.{other}: {UNKNOWN}")),
        }
    }
    Ok(())
}

fn check_smbios(text: &str) -> Result<(), String> {
    let mut lines = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err("value without key, but schema does not define a default key".to_owned());
        };
        let fine = match key {
            "uuid" => is_uuid(value),
            "base64" => matches!(value, "0" | "1"),
            "version" | "serial" | "manufacturer" | "product" | "sku" | "family" => value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)),
            _ => {
                lines.push(format!("smbios1.{key}: {UNKNOWN}"));
                continue;
            }
        };
        if !fine {
            lines.push(format!(
                "smbios1.{key}: value does not match the regex pattern"
            ));
        }
    }
    match lines.is_empty() {
        true => Ok(()),
        false => Err(format!("format error\n{}", lines.join("\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config_keys;
    use super::*;

    fn complaint(key: &str, value: &str) -> String {
        let given = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let errors = check_params(config_keys::KEYS.iter(), &given, (8, 4));
        errors.get(key).cloned().unwrap_or_default()
    }

    #[test]
    fn complaints_have_the_words_of_the_real_thing() {
        let check = |key, value, expect| assert_eq!(complaint(key, value), expect, "{key}={value}");
        check("name", "vm100--CLONING", "");
        check(
            "name",
            "bad_name",
            "invalid format - value does not look like a valid DNS name\n",
        );
        check(
            "onboot",
            "true",
            "type check ('boolean') failed - got 'true'",
        );
        check("cores", "0", "value must have a minimum value of 1");
        check(
            "net0",
            "virtio=BC:24:11:00:00:01,bridge=",
            "invalid format - missing key in comma-separated list property\n",
        );
        check(
            "net0",
            "virtio=zz,bridge=vmbr0",
            "invalid format - format error\nnet0.macaddr: invalid format - value does not look like a valid \
             unicast MAC address\n\n",
        );
        check(
            "memory",
            "15",
            "invalid format - format error\nmemory.current: value must have a minimum value of 16\n",
        );
        check(
            "virtio0",
            "data:100/vm-100-disk-0.raw,size=banana",
            "invalid format - format error\nvirtio0.size: invalid format - value does not look like a valid \
             disk size: banana\n\n",
        );
        check("virtio99", "data:1", UNKNOWN);
        check("meta", "x=y", UNKNOWN);
    }

    #[test]
    fn releases_know_different_keys() {
        let given = BTreeMap::from([("allow-ksm".to_owned(), "1".to_owned())]);
        assert_eq!(
            check_params(config_keys::KEYS.iter(), &given, (9, 1)).len(),
            0
        );
        let old = config_keys::KEYS.iter().filter(|key| key.since <= (8, 4));
        assert_eq!(check_params(old, &given, (8, 4)).len(), 1);
    }

    #[test]
    fn sizes_are_written_as_the_server_does() {
        assert_eq!(format_size(107_374_592), "104858K");
        assert_eq!(format_size(3_146_240), "3146240");
        assert_eq!(format_size(1 << 30), "1G");
        assert_eq!(parse_size("528K"), Some(540_672));
    }
}
