//! Asking a storage host what it is like: one short shell command, whose answer is read by a pure function.
//!
//! It changes nothing on the host, not even a temporary file: what may be written or run there is read off the
//! permissions and the mount options. Works with dash and busybox. Read next: `probe/zfs.rs` (what is said about ZFS),
//! `moves/survey.rs`.

mod zfs;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::host::command::Command;
use crate::host::{Exit, Shell};
use crate::plan::facts::{DirectoryFacts, HostFacts, HostKey};
use crate::pve::id::Vmid;
use crate::units::Bytes;

/// The programs worth knowing about.
pub const TOOLS: &[&str] = &[
    "dd",
    "sha256sum",
    "b3sum",
    "qemu-img",
    "zstd",
    "lz4",
    "pv",
    "mbuffer",
    "zfs",
    "zpool",
    "ssh",
    "stat",
    "truncate",
    "cp",
    "mkdir",
    "timeout",
];

/// How long a host may be silent; the command itself takes a fraction of a second, a slow NFS server some more.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the host runs: `$1` the storage's directory or nothing, `$2` temp, `$3` the tools, `$4` the storage's dataset or
/// nothing, then VMIDs.
///
/// Every line of its answer is a word, a space and a value. `describe` climbs to the nearest directory that exists,
/// because that decides whether a missing one can be made. Where something else is in its way, none can. A suspended
/// pool would keep zfs waiting for ever, so zpool is asked first. Of what is below a dataset only names that Proxmox VE
/// gives to the guests in question are wanted, and complaints, which hold no tab. `zfs get` of a ZFS without encryption
/// refuses to answer anything when it is asked for it. Administrators' programs are looked for where the engine runs them
/// from, although the login may not look there.
const SCRIPT: &str = r#"
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
describe() {
  at=$2
  [ -d "$at" ] && echo "$1-exists yes"
  blocked=
  while [ ! -d "$at" ]; do
    if [ -e "$at" ] || [ -L "$at" ]; then blocked=yes; fi
    case $at in */*) at=${at%/*} ;; *) at= ;; esac
    [ -n "$at" ] || at=/
  done
  [ -z "$blocked" ] && [ -w "$at" ] && [ -x "$at" ] && echo "$1-writable yes"
  line=$(df -Pk -- "$at" 2>/dev/null || df -Pk "$at" 2>/dev/null)
  line=$(printf '%s\n' "$line" | tail -n 1)
  echo "$1-df $line"
  mount=${line##*% }
  options=
  while read -r _ on _ opts _; do
    [ "$on" = "$mount" ] && options=$opts
  done </proc/mounts
  echo "$1-options $options"
}
echo "proxmove-probe 1"
echo "system $(uname -s)"
echo "machine $(uname -m)"
for tool in $3; do
  command -v "$tool" >/dev/null 2>&1 && echo "tool $tool"
done
echo "ssh $(ssh -V 2>&1 </dev/null | head -n 1)"
[ -n "$1" ] && describe path "$1"
describe temp "$2"
dir=$1
dataset=$4
shift 4
if [ -n "$dir" ]; then
  for vmid in "$@"; do
    for file in "$dir/$vmid"/*; do
      if [ -e "$file" ] || [ -L "$file" ]; then echo "file $vmid ${file##*/}"; fi
    done
  done
fi
if [ -n "$dataset" ] && command -v zfs >/dev/null 2>&1; then
  echo "zfs-version $(zfs version 2>/dev/null | head -n 1)"
  echo "zfs-module $(cat /sys/module/zfs/version 2>/dev/null)"
  echo "zfs-login $(id -u) $(id -un) $(id -Gn)"
  tab=$(printf '\t')
  pool=$(zpool get -Hp all "${dataset%%/*}" 2>&1)
  printf '%s\n' "$pool" | sed 's/^/zpool /'
  case $pool in
  *"${tab}health${tab}SUSPENDED"*) ;;
  *)
    vmids=$(IFS='|' && echo "${*:-none}")
    names="^$dataset$tab|/(vm|base|basevol|subvol)-($vmids)-[^/$tab]*$tab|^[^$tab]*$"
    below() {
      zfs get -Hp -d 1 -t filesystem,volume -o name,property,value "$1" "$dataset" 2>&1 | grep -E -- "$names"
    }
    below type,available,volsize,referenced,logicalreferenced,volblocksize,refreservation,compression |
      sed 's/^/dataset /'
    below encryption,encryptionroot,keystatus 2>/dev/null | sed -n "/$tab/s/^/dataset /p"
    zvols=$(zfs list -H -d 1 -t volume -o name "$dataset" 2>/dev/null | grep -E -- "/(vm|base)-($vmids)-[^/]*\$")
    # The names of zvols of Proxmox VE have no blanks.
    [ -z "$zvols" ] || zfs list -Hp -d 1 -t snapshot -s createtxg -o name,written,referenced $zvols 2>/dev/null |
      sed 's/^/snapshot /'
    [ "$(id -u)" = 0 ] || zfs allow "$dataset" 2>/dev/null | sed 's/^/allow /'
    ;;
  esac
fi
echo "end 1"
"#;

/// Returns the command for a host.
pub fn command(key: &HostKey, vmids: &BTreeSet<Vmid>) -> Command {
    let vmids = match (&key.directory, &key.dataset) {
        (None, None) => Vec::new(),
        (Some(_), _) | (None, Some(_)) => vmids.iter().map(ToString::to_string).collect(),
    };
    Command::new("sh")
        .arg("-c")
        .arg(SCRIPT)
        .arg("proxmove-probe")
        .arg(key.directory.as_deref().unwrap_or_default())
        .arg(&key.temp)
        .arg(TOOLS.join(" "))
        .arg(key.dataset.as_deref().unwrap_or_default())
        .args(vmids)
}

/// Asks a host; the error is a text for the plan's reader.
pub async fn ask(
    shell: &dyn Shell,
    key: &HostKey,
    vmids: &BTreeSet<Vmid>,
) -> Result<HostFacts, String> {
    let output = shell
        .run(&command(key, vmids), &[], PATIENCE)
        .await
        .map_err(|error| with_causes(&error))?;
    if output.exit != Exit::Code(0) {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        return Err(format!("its shell {}: {last}", output.exit));
    }
    let dataset = key.dataset.as_deref();
    parse(
        shell.address(),
        dataset,
        &String::from_utf8_lossy(&output.stdout),
    )
}

/// Returns an error with its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Reads the answer of a host that was asked about this dataset, if about any.
pub fn parse(address: &str, dataset: Option<&str>, answer: &str) -> Result<HostFacts, String> {
    let mut facts = HostFacts {
        address: address.to_owned(),
        ..HostFacts::default()
    };
    // A login script may print before us; what counts begins at our own first line.
    let mut lines = answer
        .lines()
        .skip_while(|line| *line != "proxmove-probe 1");
    if lines.next().is_none() {
        return Err("its shell did not run the question; is it a POSIX shell?".to_owned());
    }
    let mut ended = false;
    let mut zfs = zfs::Answer::new(dataset.unwrap_or_default());
    for line in lines {
        let (word, value) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "system" => value.clone_into(&mut facts.system),
            "machine" => value.clone_into(&mut facts.architecture),
            "tool" => {
                facts.tools.insert(value.to_owned());
            }
            "ssh" => facts.ssh = openssh(value),
            "file" => {
                let file = value
                    .split_once(' ')
                    .and_then(|(vmid, name)| Some((vmid.parse::<Vmid>().ok()?, name.to_owned())));
                if let Some((vmid, name)) = file {
                    facts.listing.entry(vmid).or_default().insert(name);
                }
            }
            "end" => ended = true,
            _ => {
                if let Some(part) = word.strip_prefix("temp-") {
                    describe(&mut facts.temp, part, value);
                } else if let Some(part) = word.strip_prefix("path-") {
                    describe(facts.path.get_or_insert_default(), part, value);
                } else {
                    zfs.line(word, value);
                }
            }
        }
    }
    facts.zfs = zfs.facts().filter(|_| dataset.is_some());
    if ended {
        Ok(facts)
    } else {
        Err("its answer was cut off".to_owned())
    }
}

fn describe(directory: &mut DirectoryFacts, part: &str, value: &str) {
    match part {
        "exists" => directory.exists = value == "yes",
        "writable" => directory.writable = value == "yes",
        "df" => directory.free = free(value),
        "options" => directory.executable = !value.split(',').any(|option| option == "noexec"),
        _ => {}
    }
}

/// Reads the free bytes off a line of `df -Pk`: device, blocks, used, available, percent, mount point.
fn free(line: &str) -> Option<Bytes> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // A device's name may hold blanks; the percentage cannot be mistaken.
    let percent = words.iter().position(|word| {
        word.strip_suffix('%')
            .is_some_and(|n| n.parse::<u32>().is_ok())
    })?;
    let available: u64 = words.get(percent.checked_sub(1)?)?.parse().ok()?;
    available.checked_mul(1024).map(Bytes)
}

/// Reads the version off `OpenSSH_8.9p1 Ubuntu-3, OpenSSL 3.0.2`.
fn openssh(text: &str) -> Option<(u32, u32)> {
    let version = text.strip_prefix("OpenSSH_")?;
    // Windows' port says OpenSSH_for_Windows_8.1p1; it is no storage host.
    let (major, rest) = version.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests;
