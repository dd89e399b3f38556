//! The configuration files of the VMs, where they stand in /etc/pve: written whenever a VM changes, read before each
//! answer.
//!
//! The directory is `pmxcfs` beside the nodes' own; who wants to see it at /etc/pve on a machine links it there. A file
//! that somebody else wrote counts, as it does on a real node, and is read as strictly: what is no line of a
//! configuration, and keys and values that Proxmox VE does not know, are read over. Unlike the real one it is an
//! ordinary directory: it has no quorum and no limit of size. Read next: `guest.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::Cluster;
use super::guest::{Guest, Snapshot};
use crate::sim::api::config_keys;

/// What is known of a file: what is in it, and the VM it was written from or read into.
#[derive(Clone, Debug)]
pub struct Filed {
    /// Where it is: below the node that has the VM.
    path: PathBuf,
    text: String,
    guest: String,
}

/// Keys that the server writes itself.
const OWN_KEYS: &[&str] = &[
    "lock",
    "meta",
    "parent",
    "runningcpu",
    "runningmachine",
    "running-nets-host-mtu",
    "snapstate",
    "snaptime",
    "vmstate",
];

impl Cluster {
    /// Returns the directory that stands for /etc/pve.
    pub fn files(&self) -> PathBuf {
        self.directory.join("pmxcfs")
    }

    fn file_of(&self, guest: &Guest) -> PathBuf {
        let (node, vmid) = (&guest.node, guest.vmid);
        self.files()
            .join(format!("nodes/{node}/qemu-server/{vmid}.conf"))
    }

    /// Makes the directories, and the link of the node that answers as `localhost`.
    pub fn make_files(&mut self) -> io::Result<()> {
        for node in &self.nodes {
            let path = format!("nodes/{}/qemu-server", node.name);
            fs::create_dir_all(self.files().join(path))?;
        }
        let local = self.files().join("local");
        if let Some(node) = self.nodes.first()
            && !local.is_symlink()
        {
            symlink(format!("nodes/{}", node.name), local)?;
        }
        self.sync_files();
        Ok(())
    }

    /// Takes in what somebody else wrote into the files, and writes what has changed here.
    pub fn sync_files(&mut self) {
        let vmids: Vec<u32> = self.guests.keys().copied().collect();
        for vmid in vmids {
            let Some(guest) = self.guests.get(&vmid).filter(|guest| !guest.container) else {
                continue;
            };
            let path = self.file_of(guest);
            if let Some(filed) = self.filed.get_mut(&vmid).filter(|filed| filed.path != path) {
                // A migration renames the file. Should that fail, what is known of it is written anew.
                match fs::rename(&filed.path, &path) {
                    Ok(()) => filed.path.clone_from(&path),
                    Err(_) => {
                        let _ = fs::remove_file(&path);
                        self.filed.remove(&vmid);
                    }
                }
            }
            let text = fs::read_to_string(&path).ok();
            let filed = self.filed.get(&vmid).cloned();
            if let (Some(filed), Some(text)) = (filed, text)
                && filed.text != text
                && let Some(guest) = self.guests.get_mut(&vmid)
            {
                read_into(guest, &text);
                let guest = written(guest);
                let path = path.clone();
                self.filed.insert(vmid, Filed { path, text, guest });
            }
            let Some(guest) = self.guests.get(&vmid) else {
                continue;
            };
            let now = written(guest);
            if self.filed.get(&vmid).is_none_or(|filed| filed.guest != now) {
                // Who cannot write here will see files that are old, which is bad enough for a test to notice.
                let draft = path.with_extension("conf.tmp");
                if fs::write(&draft, &now).is_ok() && fs::rename(&draft, &path).is_ok() {
                    let text = now.clone();
                    self.filed.insert(
                        vmid,
                        Filed {
                            path,
                            text,
                            guest: now,
                        },
                    );
                }
            }
        }
        let gone: Vec<u32> = self
            .filed
            .keys()
            .filter(|vmid| !self.guests.contains_key(vmid))
            .copied()
            .collect();
        for vmid in gone {
            self.filed.remove(&vmid);
            for node in &self.nodes {
                let path = format!("nodes/{}/qemu-server/{vmid}.conf", node.name);
                // On the other nodes there is none.
                let _ = fs::remove_file(self.files().join(path));
            }
        }
    }
}

/// Returns a VM's file as Proxmox VE writes it.
fn written(guest: &Guest) -> String {
    let mut out = section(&guest.config);
    if !guest.pending.is_empty() || !guest.pending_delete.is_empty() {
        out.push_str("\n[PENDING]\n");
        let deleted: Vec<String> = guest
            .pending_delete
            .iter()
            .map(|(key, how)| format!("{}{key}", if *how > 1 { "!" } else { "" }))
            .collect();
        if !deleted.is_empty() {
            let _ = writeln!(out, "delete: {}", deleted.join(","));
        }
        out.push_str(&section(&guest.pending));
    }
    let mut snapshots: Vec<&Snapshot> = guest.snapshots.iter().collect();
    snapshots.sort_by(|a, b| a.name.cmp(&b.name));
    for snapshot in snapshots {
        let mut config = snapshot.config.clone();
        config.remove("parent");
        config.extend(snapshot.parent.clone().map(|it| ("parent".to_owned(), it)));
        config.insert("snaptime".to_owned(), snapshot.taken.to_string());
        if !snapshot.description.is_empty() {
            config.insert("description".to_owned(), snapshot.description.clone());
        }
        let _ = write!(out, "\n[{}]\n{}", snapshot.name, section(&config));
    }
    out
}

fn section(config: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    for line in config
        .get("description")
        .into_iter()
        .flat_map(|it| it.lines())
    {
        out.push('#');
        for byte in line.bytes() {
            match byte {
                b' '..=b'$' | b'&'..=b'9' | b';'..=b'~' => out.push(char::from(byte)),
                _ => {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
        out.push('\n');
    }
    for (key, value) in config.iter().filter(|(key, _)| *key != "description") {
        let _ = writeln!(out, "{key}: {value}");
    }
    out
}

/// What a line of a file begins.
enum Heading<'a> {
    Pending,
    Special,
    Snapshot(&'a str),
}

fn heading(line: &str) -> Option<Heading<'_>> {
    let name = line.strip_prefix('[')?.trim_end().strip_suffix(']')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match name {
        "PENDING" => Some(Heading::Pending),
        _ if name.starts_with("special:") => Some(Heading::Special),
        _ if name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() > 1
            && name.chars().all(plain) =>
        {
            Some(Heading::Snapshot(name))
        }
        _ => None,
    }
}

/// Reads a file into a VM.
fn read_into(guest: &mut Guest, text: &str) {
    let mut sections: Vec<(Option<Heading<'_>>, BTreeMap<String, String>)> =
        vec![(None, BTreeMap::new())];
    let mut notes: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            continue;
        }
        if let Some(heading) = heading(line) {
            sections.push((Some(heading), BTreeMap::new()));
            notes.push(String::new());
            continue;
        }
        let (Some((_, config)), Some(note)) = (sections.last_mut(), notes.last_mut()) else {
            continue;
        };
        if let Some(comment) = line.strip_prefix('#') {
            note.push_str(&percent_decode_str(comment).decode_utf8_lossy());
            note.push('\n');
        } else if let Some((key, value)) = line.split_once(':') {
            let value = value.trim();
            if is_known(key, value) {
                config.insert(key.to_owned(), value.to_owned());
            }
        }
    }
    let old = std::mem::take(&mut guest.snapshots);
    (guest.pending, guest.pending_delete) = (BTreeMap::new(), BTreeMap::new());
    for ((heading, mut config), note) in sections.into_iter().zip(notes) {
        let note = note.trim_end_matches('\n').to_owned();
        match heading {
            None => {
                if !note.is_empty() {
                    config.insert("description".to_owned(), note);
                }
                guest.config = config;
            }
            Some(Heading::Pending) => {
                let deleted = config.remove("delete").unwrap_or_default();
                for key in deleted.split(',').filter(|key| !key.is_empty()) {
                    let forced = 1 + u8::from(key.starts_with('!'));
                    let key = key.trim_start_matches('!').to_owned();
                    guest.pending_delete.insert(key, forced);
                }
                guest.pending = config;
            }
            Some(Heading::Special) => {}
            Some(Heading::Snapshot(name)) => {
                let known = old.iter().find(|snapshot| snapshot.name == name);
                let taken = config.remove("snaptime");
                guest.snapshots.push(Snapshot {
                    name: name.to_owned(),
                    description: note,
                    with_memory: config.contains_key("vmstate")
                        || known.is_some_and(|known| known.with_memory),
                    taken: taken.and_then(|taken| taken.parse().ok()).unwrap_or(0),
                    parent: config.remove("parent"),
                    config,
                });
            }
        }
    }
    guest.snapshots.sort_by_key(|snapshot| snapshot.taken);
}

/// Says whether Proxmox VE would keep a key with that value.
fn is_known(key: &str, value: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '-';
    let is_key = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .chars()
            .all(plain);
    let known = OWN_KEYS.contains(&key) || key == "delete" || config_keys::key(key).is_some();
    is_key && known && !value.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let mut guest = Guest::new(126, "node2");
        for (key, value) in [
            ("name", "web1"),
            ("description", "a: 100%\nüber"),
            ("scsi0", "tank:vm-126-disk-0,size=1G"),
        ] {
            guest.config.insert(key.to_owned(), value.to_owned());
        }
        guest
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut one = guest();
        one.pending.insert("cores".to_owned(), "2".to_owned());
        one.pending_delete.insert("agent".to_owned(), 2);
        one.config.insert("parent".to_owned(), "s1".to_owned());
        one.snapshots.push(Snapshot {
            name: "s1".to_owned(),
            description: "first".to_owned(),
            with_memory: false,
            taken: 7,
            parent: Some("s0".to_owned()),
            config: guest().config,
        });
        let text = written(&one);
        assert!(
            text.starts_with("#a%3A 100%25\n#%C3%BCber\nname: web1\n"),
            "{text}"
        );
        let mut other = Guest::new(126, "node2");
        read_into(&mut other, &text);
        assert_eq!(written(&other), text);
        assert_eq!(other.pending_delete, one.pending_delete);
        assert_eq!(other.snapshots[0].parent.as_deref(), Some("s0"));
    }

    #[test]
    fn what_is_no_configuration_is_read_over() {
        let mut guest = guest();
        read_into(
            &mut guest,
            "name: web1\nNAME: x\nnonsense\nfrobnicate: 1\ncores:\n\n[1x]\ncores: 3\n[s1]\nsnaptime: 9\ncores: 4\nfoo: 1\n",
        );
        let keys: Vec<(&str, &str)> = guest
            .config
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        // A heading that is none of a section is a line like others, and what follows belongs to what was before.
        assert_eq!(keys, [("cores", "3"), ("name", "web1")]);
        assert_eq!(guest.snapshots.len(), 1);
        assert_eq!(guest.snapshots[0].config.len(), 1);
    }
}
