//! The direct route: this host connects to the target host itself, with the operator's keys and nothing left behind.
//!
//! ```text
//!  operator <== standard input and output ==> this porter <-- private socket -- ssh ==> the other porter
//! ```
//! Requests that ssh makes of its agent travel to the operator and are answered there (or refused); the data goes
//! straight to the target. The host key that the operator's machine verified is the only one accepted. Nothing of it
//! outlives the pass: the socket and the known_hosts file lie in a directory that only we can open. Messages are a
//! length and a connection's number, both 32 bits little endian, and a body. `transfer/carry.rs` is the other end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::TARGET_ALIAS;
use super::error::PorterError;
use super::places::Places;
use super::send::Outcome;
use super::tell::{Line, Teller};

/// The number under which the operator sends the target's host keys, before anything else.
pub(crate) const SETUP: u32 = u32::MAX;
/// The longest agent message; what OpenSSH's own agent accepts.
pub(crate) const LONGEST_MESSAGE: usize = 256 * 1024;
/// What fits into the address of a socket, with room for the name of the socket itself.
const SOCKET_LIMIT: usize = 100;
/// Lines of ssh's own words that are kept for the error.
const WORDS: usize = 5;

/// How to reach the receiver.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Name or address of the target host.
    pub(crate) host: String,
    /// Who to be there.
    pub(crate) user: Option<String>,
    /// Port of its sshd.
    pub(crate) port: Option<u16>,
    /// Value of ssh's option Ciphers.
    pub(crate) ciphers: Option<String>,
    /// The command line that runs the receiver there.
    pub(crate) receive: String,
    /// Where the private directory goes.
    pub(crate) places: Places,
}

/// Connects to the receiver on another host and runs `work` with the streams from and to it.
pub(crate) fn through(
    door: &Door,
    work: impl FnOnce(ChildStdout, ChildStdin) -> Result<Outcome, PorterError>,
) -> Result<Outcome, PorterError> {
    if door.host.starts_with('-') || door.host.is_empty() {
        return Err(PorterError::Usage(format!("no host '{}'", door.host)));
    }
    let mut stdin = std::io::stdin();
    let (number, host_keys) = read_message(&mut stdin).ok_or(PorterError::Gone)?;
    if number != SETUP {
        return Err(PorterError::Protocol(String::from("no host keys")));
    }
    let directory = private_directory(&door.places)?;
    let known_hosts = directory.path().join("known_hosts");
    std::fs::write(&known_hosts, host_keys).map_err(PorterError::file("write", &known_hosts))?;
    let socket = directory.path().join("agent");
    let listener = UnixListener::bind(&socket).map_err(PorterError::file("listen on", &socket))?;
    relay_agent(listener, directory.path().to_owned());

    let mut child = ssh(door, &socket, &known_hosts)
        .spawn()
        .map_err(|error| PorterError::Direct(format!("cannot run ssh: {error}")))?;
    let (Some(input), Some(output), Some(errors)) =
        (child.stdout.take(), child.stdin.take(), child.stderr.take())
    else {
        return Err(PorterError::Direct(String::from("ssh has no streams")));
    };
    let words = Arc::new(Mutex::new(VecDeque::new()));
    let listening = listen(errors, Arc::clone(&words));
    let sent = work(input, output);
    let (exit, code) = settle(&mut child);
    // Its other end is closed now that ssh is gone.
    let _ = listening.join();
    match sent {
        Err(PorterError::NoAnswer) => {
            let words = words
                .lock()
                .map(|words| Vec::from_iter(words.iter().cloned()));
            let words = words.unwrap_or_default().join("; ");
            if let Some(126 | 127) = code {
                return Err(PorterError::Missing(words));
            }
            Err(PorterError::Direct(if words.is_empty() {
                format!("ssh {exit}")
            } else {
                words
            }))
        }
        other => other,
    }
}

fn ssh(door: &Door, socket: &Path, known_hosts: &Path) -> Command {
    let mut command = Command::new("ssh");
    let options = [
        format!("IdentityAgent={}", socket.display()),
        format!("UserKnownHostsFile={}", known_hosts.display()),
        format!("HostKeyAlias={TARGET_ALIAS}"),
        // The host's own keys are not ours to use.
        String::from("IdentityFile=none"),
        String::from("IdentitiesOnly=no"),
        String::from("GlobalKnownHostsFile=/dev/null"),
        String::from("StrictHostKeyChecking=yes"),
        String::from("CheckHostIP=no"),
        String::from("UpdateHostKeys=no"),
        String::from("BatchMode=yes"),
        String::from("PreferredAuthentications=publickey"),
        String::from("ForwardAgent=no"),
        String::from("ControlMaster=no"),
        String::from("ControlPath=none"),
        String::from("Compression=no"),
        String::from("ConnectTimeout=20"),
        String::from("ServerAliveInterval=15"),
        String::from("ServerAliveCountMax=8"),
        String::from("LogLevel=ERROR"),
    ];
    command.args(["-F", "none", "-T", "-x", "-a"]);
    // A private agent was given by name; -a above refuses to forward it.
    for option in options {
        command.arg("-o").arg(option);
    }
    if let Some(ciphers) = &door.ciphers {
        command.arg("-o").arg(format!("Ciphers={ciphers}"));
    }
    if let Some(port) = door.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &door.user {
        command.arg("-l").arg(user);
    }
    command.arg("--").arg(&door.host).arg(&door.receive);
    command
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Makes a directory for us alone, in temp unless a socket in there would have too long a name.
fn private_directory(places: &Places) -> Result<tempfile::TempDir, PorterError> {
    // With our number, so that it can be told whether its maker still lives (`transfer/image.rs`, tidying).
    let prefix = format!("proxmove-{}.agent-{}-", places.name(), std::process::id());
    let room = places.temp().as_os_str().len() + prefix.len() + 16;
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let short = runtime
        .filter(|path| path.is_dir() && path.as_os_str().len() < SOCKET_LIMIT / 3)
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let parent = if room < SOCKET_LIMIT {
        places.temp()
    } else {
        short.as_path()
    };
    // The crate makes it with mode 0700.
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(parent)
        .map_err(PorterError::file("create a directory in", parent))
}

/// Waits for ssh to end after its streams were closed, and returns its own account of it, and its exit code.
fn settle(child: &mut Child) -> (String, Option<i32>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return (format!("ended with {status}"), status.code()),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(None) | Err(_) => {
                // It is ours, and it has nothing left to do.
                let _ = child.kill();
                let _ = child.wait();
                return (String::from("did not end by itself"), None);
            }
        }
    }
}

/// Passes the receiver's JSON lines on, whole, and keeps ssh's own words.
fn listen(
    errors: impl Read + Send + 'static,
    words: Arc<Mutex<VecDeque<String>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let teller = Teller::new(Box::new(std::io::stderr()));
        for line in BufReader::new(errors).split(b'\n') {
            let Ok(line) = line else { break };
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line::Error(mut report)) => {
                    report.peer = true;
                    teller.tell(&Line::Error(report));
                }
                Ok(line) => teller.tell(&line),
                Err(_) => {
                    let text = String::from_utf8_lossy(&line).trim().to_owned();
                    if let (false, Ok(mut words)) = (text.is_empty(), words.lock()) {
                        if words.len() == WORDS {
                            words.pop_front();
                        }
                        words.push_back(text);
                    }
                }
            }
        }
    })
}

/// Answers waited for, by the number of the connection.
type Waiting = Arc<Mutex<BTreeMap<u32, Sender<Vec<u8>>>>>;

/// Carries agent requests to the operator and answers back, in threads of their own, until the process ends.
///
/// When the operator is gone, there is nobody to work for: the process ends, ssh with it, and the receiver keeps what
/// it has.
fn relay_agent(listener: UnixListener, directory: PathBuf) {
    let waiting: Waiting = Arc::default();
    let answers = Arc::clone(&waiting);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin();
        while let Some((number, answer)) = read_message(&mut stdin) {
            if let Some(sender) = answers.lock().ok().and_then(|mut all| all.remove(&number)) {
                // An ssh that hung up needs no answer.
                let _ = sender.send(answer);
            }
        }
        // Nothing in it outlives us, whether removing it works or not.
        let _ = std::fs::remove_dir_all(&directory);
        std::process::exit(1);
    });
    std::thread::spawn(move || {
        for (number, stream) in (0..SETUP).zip(listener.incoming()) {
            let Ok(stream) = stream else { break };
            let waiting = Arc::clone(&waiting);
            std::thread::spawn(move || serve(stream, number, &waiting));
        }
    });
}

/// Serves one connection of ssh to its agent; ends when either side does not speak the protocol.
fn serve(mut stream: UnixStream, number: u32, waiting: &Waiting) -> Option<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > LONGEST_MESSAGE {
            return None;
        }
        let mut request = vec![0; length];
        stream.read_exact(&mut request).ok()?;
        let (sender, answer): (_, Receiver<Vec<u8>>) = channel();
        waiting.lock().ok()?.insert(number, sender);
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&message(number, &request)).ok()?;
        stdout.flush().ok()?;
        drop(stdout);
        let answer = answer.recv().ok()?;
        stream
            .write_all(&(answer.len() as u32).to_be_bytes())
            .ok()?;
        stream.write_all(&answer).ok()?;
    }
}

/// Returns a message's bytes.
pub(crate) fn message(number: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn read_message(input: &mut impl Read) -> Option<(u32, Vec<u8>)> {
    let mut head = [0; 8];
    input.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let number = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if length > LONGEST_MESSAGE {
        return None;
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some((number, body))
}
