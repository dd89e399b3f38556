//! How bytes get from a porter on one host to a porter on another one.
//!
//! ```text
//!  relay    source host --stream--> this machine --stream--> target host      (bounded, both ways)
//!  direct   source host --ssh--> target host      and only the ssh's agent requests come here
//! ```
//! Progress, not a clock, decides that something hangs: a carry fails when nothing moved for five minutes. It never
//! decides which route to take and never reads what it carries. Read next: `image.rs`, `porter/direct.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lines::{Side, Told};
use super::{Pair, Progress};
use crate::config::SshAddress;
use crate::host::{Exit, ShellError, Stream};
use crate::porter::{LONGEST_MESSAGE, SETUP, TARGET_ALIAS, message};

/// How long nothing may move. A disk that is busy with other things stalls for seconds, a dead peer forever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Answers one request of the SSH agent protocol (without its length), or refuses it with a failure message.
///
/// It may block; it is called on a thread where that is allowed.
pub type AgentAnswerer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What the source host needs for one connection to the target host, and nothing beyond it.
#[derive(Clone)]
pub struct DirectAccess {
    /// Where the source host connects to, resolved: no alias of the operator's ~/.ssh/config.
    pub address: SshAddress,
    /// The target's host keys that the operator's machine trusts, one known_hosts line each; the names in them do not
    /// matter.
    pub known_hosts: String,
    /// Value for ssh's option `Ciphers`.
    pub ciphers: Option<String>,
    /// Answers the agent requests of that connection.
    pub answerer: AgentAnswerer,
}

/// Grants a pair its direct access; the text says why there is none.
pub type GrantDirect = Arc<dyn Fn(&Pair) -> Result<DirectAccess, String> + Send + Sync>;

/// What came of the two commands of a carry.
pub(crate) struct Carried {
    /// What was said on standard error.
    pub(crate) told: Vec<Told>,
    /// How the commands ended.
    pub(crate) exits: Vec<(Side, Result<Exit, ShellError>)>,
}

type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Carries between a sender and a receiver through this machine. `None` when nothing moved for [`PATIENCE`].
pub(crate) async fn relay(sender: Stream, receiver: Stream, tell: Tell<'_>) -> Option<Carried> {
    let moved = AtomicU64::new(0);
    let whole = async {
        let (_, _, source, target, source_exit, target_exit) = tokio::join!(
            pump(sender.output, receiver.input, &moved),
            pump(receiver.output, sender.input, &moved),
            listen(Side::Source, sender.errors, &moved, tell),
            listen(Side::Target, receiver.errors, &moved, tell),
            sender.exit,
            receiver.exit,
        );
        Carried {
            told: vec![source, target],
            exits: vec![
                (Side::Source, source_exit.unwrap_or_else(|_| vanished())),
                (Side::Target, target_exit.unwrap_or_else(|_| vanished())),
            ],
        }
    };
    unless_still(&moved, PATIENCE, whole).await
}

/// Answers a direct sender's agent requests while it works. `None` when nothing moved for [`PATIENCE`].
pub(crate) async fn direct(
    sender: Stream,
    access: &DirectAccess,
    tell: Tell<'_>,
) -> Option<Carried> {
    let moved = AtomicU64::new(0);
    let whole = async {
        let (_, source, exit) = tokio::join!(
            answer(sender.output, sender.input, access),
            listen(Side::Source, sender.errors, &moved, tell),
            sender.exit,
        );
        Carried {
            told: vec![source],
            exits: vec![(Side::Source, exit.unwrap_or_else(|_| vanished()))],
        }
    };
    unless_still(&moved, PATIENCE, whole).await
}

/// Stands for an exit that was never told, which a shell does only when its task was ended.
fn vanished() -> Result<Exit, ShellError> {
    Ok(Exit::Signal(String::from("nobody knows what")))
}

/// Awaits something that counts its movements, `None` when it did not move for so long.
pub(crate) async fn unless_still<T>(
    moved: &AtomicU64,
    patience: Duration,
    whole: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(whole);
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        tokio::select! {
            result = &mut whole => return Some(result),
            () = tokio::time::sleep(patience / 300) => {
                let now = moved.load(Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() >= patience {
                    return None;
                }
            }
        }
    }
}

/// Moves bytes until either side ends; then the other side sees the end as well.
async fn pump(mut from: mpsc::Receiver<Vec<u8>>, to: mpsc::Sender<Vec<u8>>, moved: &AtomicU64) {
    while let Some(bytes) = from.recv().await {
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if to.send(bytes).await.is_err() {
            break;
        }
    }
}

async fn listen(
    side: Side,
    mut errors: mpsc::Receiver<Vec<u8>>,
    moved: &AtomicU64,
    tell: Tell<'_>,
) -> Told {
    let mut told = Told::new(side);
    while let Some(bytes) = errors.recv().await {
        if told.take(&bytes, tell) {
            moved.fetch_add(1, Ordering::Relaxed);
        }
    }
    told.end();
    told
}

/// Hands the host keys over, then answers requests until the sender ends.
async fn answer(
    mut requests: mpsc::Receiver<Vec<u8>>,
    answers: mpsc::Sender<Vec<u8>>,
    access: &DirectAccess,
) {
    let host_keys = host_keys(&access.known_hosts);
    if answers
        .send(message(SETUP, host_keys.as_bytes()))
        .await
        .is_err()
    {
        return;
    }
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(bytes) = requests.recv().await {
        buffer.extend_from_slice(&bytes);
        while let Some((number, request, length)) = next_message(&buffer) {
            let answerer = Arc::clone(&access.answerer);
            let answered = tokio::task::spawn_blocking(move || answerer(&request)).await;
            // An answerer that panicked refuses (SSH_AGENT_FAILURE).
            let reply = answered.unwrap_or_else(|_| vec![5]);
            buffer.drain(..length);
            if answers.send(message(number, &reply)).await.is_err() {
                return;
            }
        }
        if buffer.len() > LONGEST_MESSAGE + 8 {
            return;
        }
    }
}

/// Returns the first whole message: its number, its body, and its length.
fn next_message(buffer: &[u8]) -> Option<(u32, Vec<u8>, usize)> {
    let (head, rest) = buffer.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let number = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let body = rest.get(..length)?;
    Some((number, body.to_vec(), 8 + length))
}

/// Returns known_hosts lines for the one name under which the source host knows the target.
fn host_keys(known_hosts: &str) -> String {
    let mut lines = String::new();
    for line in known_hosts.lines().map(str::trim) {
        let (marker, line) = match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
            Some((marker, rest)) => (format!("@{marker} "), rest.trim_start()),
            None => (String::new(), line),
        };
        let Some((_, key)) = line.split_once(' ') else {
            continue;
        };
        if !line.starts_with('#') {
            lines.push_str(&format!("{marker}{TARGET_ALIAS} {}\n", key.trim_start()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_filed_under_one_name() {
        let given = "# a comment\n\n[node2]:2222,10.0.0.2 ssh-ed25519 AAAA me\n|1|x=|y= ssh-rsa BBBB\n\
                     @cert-authority *.lan ssh-ed25519 CCCC\n@revoked * ssh-rsa DDDD\n";
        assert_eq!(
            host_keys(given),
            "proxmove-target ssh-ed25519 AAAA me\nproxmove-target ssh-rsa BBBB\n\
             @cert-authority proxmove-target ssh-ed25519 CCCC\n@revoked proxmove-target ssh-rsa DDDD\n"
        );
    }

    #[test]
    fn messages_are_found_whole() {
        let mut bytes = message(7, b"request");
        bytes.extend_from_slice(&message(8, b""));
        assert_eq!(next_message(&bytes), Some((7, b"request".to_vec(), 15)));
        assert_eq!(next_message(&bytes[15..]), Some((8, Vec::new(), 8)));
        for end in 0..15 {
            assert_eq!(next_message(&bytes[..end]), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn fuzz_messages_of_a_direct_sender(bytes in crate::mutations::bytes(vec![
            [message(7, b"request"), message(8, b"")].concat(),
            message(SETUP, b"proxmove-target ssh-ed25519 AAAA\n"),
        ])) {
            let mut rest = bytes.as_slice();
            while let Some((number, body, length)) = next_message(rest) {
                proptest::prop_assert_eq!(&message(number, &body), &rest[..length]);
                rest = &rest[length..];
            }
            let _ = host_keys(&String::from_utf8_lossy(&bytes));
        }
    }

    #[tokio::test]
    async fn stillness_ends_a_carry_and_movement_does_not() {
        let patience = Duration::from_millis(600);
        let moved = AtomicU64::new(0);
        let busy = async {
            for _ in 0..20 {
                tokio::time::sleep(patience / 10).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert_eq!(unless_still(&moved, patience, busy).await, Some(()));
        let still = std::future::pending::<()>();
        assert_eq!(unless_still(&moved, patience, still).await, None);
    }
}
