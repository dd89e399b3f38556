//! The porter on a host: put there once, found again by its hash, never trusted unseen.
//!
//! Its file is named by its SHA-256, so another version never meets it; the host's own sha256sum checks what arrived
//! before it may run. It never installs anything outside of the temp directory. Read next: `image.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::{End, TransferError};
use crate::host::command::Command;
use crate::host::{Exit, Output, ShellError};
use crate::pve::drive::DriveKey;

/// What putting the porter on a host is called in errors.
pub(crate) const OPERATION: &str = "upload of the porter";
/// How long a short command may be silent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Checks that the file is there and whole; prints `ready` when it is.
const LOOK: &str =
    r#"test -x "$1" && test "$(sha256sum < "$1" | cut -c 1-64)" = "$2" && echo ready"#;
/// Receives the file under a name of its own, checks it, and puts it in its place.
const PUT: &str = r#"umask 077; new="$1.new.$$"
cat > "$new" && test "$(sha256sum < "$new" | cut -c 1-64)" = "$2" && chmod 700 "$new" && mv -f "$new" "$1" ||
{ rm -f "$new"; echo "it did not arrive whole" >&2; exit 1; }"#;
/// Removes the file, and what uploads left that were killed before they could: a draft's name ends with the process
/// that writes it, and one of a process that still runs may be another operator's.
const REMOVE: &str = r#"for draft in "${1%-*}"-*.new.*; do test -e "/proc/${draft##*.}" || rm -f -- "$draft"; done
rm -f -- "$1""#;

/// A temp directory of a host.
type Place = (String, String);

/// Knows on which hosts the porter is.
pub(crate) struct Uploads {
    executable: PathBuf,
    content: Mutex<Option<(std::sync::Arc<Vec<u8>>, String)>>,
    ready: Mutex<BTreeSet<Place>>,
    users: Mutex<BTreeMap<Place, BTreeSet<String>>>,
}

impl Uploads {
    /// Takes the path of the executable to upload.
    pub(crate) fn new(executable: PathBuf) -> Uploads {
        Uploads {
            executable,
            content: Mutex::default(),
            ready: Mutex::default(),
            users: Mutex::default(),
        }
    }

    /// Returns the porter's path on a host, after making sure that it is there, whole, and runs.
    pub(crate) async fn ensure(&self, end: &End, drive: DriveKey) -> Result<String, TransferError> {
        let (content, hash) = self.content(end, drive).await?;
        let path = path(end, &hash);
        let place = place(end);
        // Held over the upload: several drives of a guest ask for the same host at once.
        let mut ready = self.ready.lock().await;
        if ready.contains(&place) {
            return Ok(path);
        }
        if !look(end, &path, &hash)
            .await
            .map_err(|source| host(drive, source))?
        {
            let put = shell(PUT, &[&path, &hash]);
            let output = end
                .shell
                .run(&put, &content, PATIENCE)
                .await
                .map_err(|source| host(drive, source))?;
            succeed(end, drive, &output)?;
        }
        let version = Command::new(&path).arg("porter").arg("version");
        let output = end
            .shell
            .run(&version, &[], PATIENCE)
            .await
            .map_err(|source| host(drive, source))?;
        if output.exit != Exit::Code(0) || !output.stdout.starts_with(b"proxmove porter") {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(TransferError::Porter {
                operation: OPERATION,
                drive,
                address: end.shell.address().to_owned(),
                reason: format!(
                    "it cannot run in {} there ({}{}{words}); is that directory mounted noexec, or the machine of \
                     another kind?",
                    end.temp,
                    output.exit,
                    if words.is_empty() { "" } else { ": " },
                ),
            });
        }
        ready.insert(place);
        Ok(path)
    }

    /// Returns the porter's path on a host when it is there already; writes nothing.
    pub(crate) async fn find(
        &self,
        end: &End,
        drive: DriveKey,
    ) -> Result<Option<String>, TransferError> {
        let (_, hash) = self.content(end, drive).await?;
        let path = path(end, &hash);
        if self.ready.lock().await.contains(&place(end)) {
            return Ok(Some(path));
        }
        let found = look(end, &path, &hash)
            .await
            .map_err(|source| host(drive, source))?;
        Ok(found.then_some(path))
    }

    /// Forgets that the porter is on a host, since it was found missing.
    pub(crate) async fn forget(&self, end: &End) {
        self.ready.lock().await.remove(&place(end));
    }

    /// Notes that a pair needs the porter on a host.
    pub(crate) async fn enter(&self, end: &End, pair: &str) {
        let mut users = self.users.lock().await;
        users.entry(place(end)).or_default().insert(pair.to_owned());
    }

    /// Notes that a pair is done with a host, and removes the porter there when no other pair needs it.
    pub(crate) async fn leave(
        &self,
        end: &End,
        pair: &str,
        drive: DriveKey,
    ) -> Result<(), TransferError> {
        let place = place(end);
        let last = {
            let mut users = self.users.lock().await;
            let pairs = users.entry(place.clone()).or_default();
            pairs.remove(pair);
            pairs.is_empty()
        };
        if !last {
            return Ok(());
        }
        let (_, hash) = self.content(end, drive).await?;
        let mut ready = self.ready.lock().await;
        let remove = shell(REMOVE, &[&path(end, &hash)]);
        let output = end
            .shell
            .run(&remove, &[], PATIENCE)
            .await
            .map_err(|source| host(drive, source))?;
        ready.remove(&place);
        succeed(end, drive, &output)
    }

    async fn content(
        &self,
        end: &End,
        drive: DriveKey,
    ) -> Result<(std::sync::Arc<Vec<u8>>, String), TransferError> {
        let mut content = self.content.lock().await;
        if let Some(known) = &*content {
            return Ok(known.clone());
        }
        let bytes =
            tokio::fs::read(&self.executable)
                .await
                .map_err(|error| TransferError::Porter {
                    operation: OPERATION,
                    drive,
                    address: end.shell.address().to_owned(),
                    reason: format!("cannot read {}: {error}", self.executable.display()),
                })?;
        let hash = crate::porter::hex(&Sha256::digest(&bytes));
        Ok(content.insert((std::sync::Arc::new(bytes), hash)).clone())
    }
}

fn place(end: &End) -> Place {
    (end.shell.address().to_owned(), end.temp.clone())
}

fn path(end: &End, hash: &str) -> String {
    format!("{}/proxmove-porter-{}", end.temp, &hash[..16])
}

async fn look(end: &End, path: &str, hash: &str) -> Result<bool, ShellError> {
    let output = end
        .shell
        .run(&shell(LOOK, &[path, hash]), &[], PATIENCE)
        .await?;
    Ok(output.stdout.starts_with(b"ready"))
}

/// Returns a script with its arguments, which never become part of it.
pub(crate) fn shell(script: &str, arguments: &[&str]) -> Command {
    Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg("proxmove")
        .args(arguments)
}

fn host(drive: DriveKey, source: ShellError) -> TransferError {
    TransferError::Host {
        operation: OPERATION,
        drive,
        source,
    }
}

fn succeed(end: &End, drive: DriveKey, output: &Output) -> Result<(), TransferError> {
    if output.exit == Exit::Code(0) {
        return Ok(());
    }
    Err(TransferError::Porter {
        operation: OPERATION,
        drive,
        address: end.shell.address().to_owned(),
        reason: format!(
            "{}: {}",
            output.exit,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    })
}
