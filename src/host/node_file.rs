//! A guest's configuration file on its node: the one file of Proxmox VE that proxmove writes itself.
//!
//! Only sections of snapshots are added, because the API cannot create them; everything else goes through the API. It is
//! done as Proxmox VE does it: under the guest's own lock file, into a file beside it that is then renamed. What was read
//! must still be there when the lock is had, else it is read again. Never decides what is written. Read next:
//! `pve/guest_file.rs` (what becomes of the text), `moves/perform.rs`.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::command::Command;
use super::{Exit, Output, Shell, ShellError};
use crate::pve::guest_file::{Section, Unfit, with_sections};
use crate::pve::id::{NodeName, Vmid};

/// How long a node may be silent; Proxmox VE itself holds a guest's lock for less.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a file that changes meanwhile is read again.
const TRIES: u32 = 5;

/// Says whether a login may write a node's files: `$1` the node. A line for each thing that is not as it must be.
const EXAMINE: &str = r#"
[ "$(id -u)" = 0 ] || echo "the login is $(id -un), and only root may write there"
if [ -d /etc/pve ]; then
  at=$(readlink /etc/pve/local)
  at=${at##*/}
  if [ -z "$at" ]; then echo "/etc/pve has no link 'local': is the cluster's file system mounted?"
  elif [ "$at" != "$1" ]; then echo "it is node $at"
  elif [ ! -d "/etc/pve/nodes/$1/qemu-server" ]; then echo "there is no /etc/pve/nodes/$1/qemu-server"
  fi
else echo "there is no /etc/pve"
fi
for tool in flock sha256sum; do
  command -v $tool >/dev/null 2>&1 || echo "it has no $tool"
done
echo end
"#;

/// Replaces a file by what comes in: `$1` the file, `$2` the lock, `$3` the SHA-256 it must still have, `$4` that of what
/// comes in, which may be cut off. Ends with 75 when the lock is not to be had, and with 76 when the file is another one
/// by now.
const WRITE: &str = r#"
mkdir -p "${2%/*}" && exec 9>>"$2" || exit 1
flock -w 15 9 || exit 75
sum() { at=$(sha256sum <"$1") && [ "${at%% *}" = "$2" ]; }
[ -f "$1" ] || exit 1
sum "$1" "$3" || exit 76
draft=$1.tmp.$$
if cat >"$draft" && sum "$draft" "$4" && mv -- "$draft" "$1"; then exit 0; fi
rm -f -- "$draft"
exit 1
"#;

const NO_LOCK: i32 = 75;
const CHANGED: i32 = 76;

/// What went wrong with the file. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// The node did not do what it was asked.
    #[error("cannot reach the configuration file on {address}")]
    Host {
        /// The node's login.
        address: String,
        /// Why.
        #[source]
        source: ShellError,
    },
    /// It could not be read or written.
    #[error("cannot {verb} {path} on {address}: {reason}")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: String,
        /// The node's login.
        address: String,
        /// Its words.
        reason: String,
    },
    /// Nothing may be added to it.
    #[error("the snapshots cannot be entered into {path} on {address}: {reason}")]
    Unfit {
        /// The file.
        path: String,
        /// The node's login.
        address: String,
        /// Why.
        reason: Unfit,
    },
}

/// A guest's configuration file.
#[derive(Clone)]
pub struct NodeFile {
    shell: Arc<dyn Shell>,
    path: String,
    lock: String,
}

fn script(text: &str, arguments: &[&str]) -> Command {
    Command::new("sh")
        .arg("-c")
        .arg(text)
        .arg("proxmove")
        .args(arguments)
}

/// Returns the SHA-256 of a text, as sha256sum prints it.
fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Finds out whether a login may write the files of a node's guests; the error says why not.
pub async fn examine(shell: &dyn Shell, node: &NodeName) -> Result<(), String> {
    let command = script(EXAMINE, &[node.as_str()]);
    let output = shell
        .run(&command, &[], PATIENCE)
        .await
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = said.lines().collect();
    match (output.exit, lines.pop()) {
        (Exit::Code(0), Some("end")) if lines.is_empty() => Ok(()),
        (Exit::Code(0), Some("end")) => Err(lines.join("; ")),
        _ => Err("its shell did not run the question".to_owned()),
    }
}

impl NodeFile {
    /// Returns the file of a guest, on the node that the shell is on.
    pub fn of(shell: Arc<dyn Shell>, node: &NodeName, vmid: Vmid) -> NodeFile {
        NodeFile {
            shell,
            path: format!("/etc/pve/nodes/{node}/qemu-server/{vmid}.conf"),
            lock: format!("/var/lock/qemu-server/lock-{vmid}.conf"),
        }
    }

    /// Enters snapshots, of which the guest's present state comes from `parent`. A repeat changes nothing.
    pub async fn enter(
        &self,
        sections: &[Section],
        parent: Option<&str>,
    ) -> Result<(), NodeFileError> {
        for _ in 0..TRIES {
            let read = Command::new("cat").arg(&self.path);
            let output = self.run(&read, &[]).await?;
            if output.exit != Exit::Code(0) {
                return Err(self.file("read", &output));
            }
            let Ok(text) = std::str::from_utf8(&output.stdout) else {
                return Err(self.error("read", "it is no text in UTF-8".to_owned()));
            };
            let after =
                with_sections(text, sections, parent).map_err(|reason| NodeFileError::Unfit {
                    path: self.path.clone(),
                    address: self.shell.address().to_owned(),
                    reason,
                })?;
            if after == text {
                return Ok(());
            }
            let (old, new) = (digest(text), digest(&after));
            let write = script(WRITE, &[&self.path, &self.lock, &old, &new]);
            let output = self.run(&write, after.as_bytes()).await?;
            match output.exit {
                Exit::Code(0) => return Ok(()),
                Exit::Code(CHANGED) => {}
                _ => return Err(self.file("write", &output)),
            }
        }
        let reason = "somebody else changes it again and again";
        Err(self.error("write", reason.to_owned()))
    }

    async fn run(&self, command: &Command, input: &[u8]) -> Result<Output, NodeFileError> {
        log::debug!("{}: {}", self.shell.address(), self.path);
        let ran = self.shell.run(command, input, PATIENCE).await;
        ran.map_err(|source| NodeFileError::Host {
            address: self.shell.address().to_owned(),
            source,
        })
    }

    fn file(&self, verb: &'static str, output: &Output) -> NodeFileError {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or_default();
        let reason = match &output.exit {
            Exit::Code(NO_LOCK) => format!("{} is held by something else", self.lock),
            exit => format!("its shell {exit}: {last}"),
        };
        self.error(verb, reason)
    }

    fn error(&self, verb: &'static str, reason: String) -> NodeFileError {
        NodeFileError::File {
            verb,
            path: self.path.clone(),
            address: self.shell.address().to_owned(),
            reason,
        }
    }
}

impl std::fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.shell.address(), self.path)
    }
}

#[cfg(test)]
#[path = "node_file/tests.rs"]
mod tests;
