//! The SSH server in this process.
//!
//! It logs in one user by public key, runs commands and the sftp subsystem (where its program is installed), and
//! refuses everything else: passwords, terminals, shells, forwarding of any kind. Read next: `command.rs`, `gate.rs`.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::keys::{PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
    run_stream,
};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Preferred, Pty, Sig, cipher};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::command::{Exec, Groups, Program, spawn};
use super::faults::{CommandFault, CommandFaults};
use super::gate::{Gate, GatedStream};
use super::{ANY_PORT, HostError, HostSettings};

/// What clients may send ahead, as with OpenSSH. How much they really can is decided in `gate.rs`.
const WINDOW: u32 = 2 << 20;
/// Messages a channel may hold. Never reached in practice, because `gate.rs` stops at a number of bytes with at least
/// 64 counted for each: the session must not wait for a command.
const MESSAGES: usize = 8 << 20;
/// Read from a connection at once.
const READ: usize = 256 << 10;
/// The kernel's buffer for what a connection received, of which Linux grants twice as much or what it allows.
const RECEIVE: u32 = 512 << 10;
/// Where distributions keep OpenSSH's sftp-server.
const SFTP_SERVERS: [&str; 3] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
];

/// A running server.
#[derive(Debug)]
pub(super) struct Embedded {
    pub(super) address: SocketAddr,
    accepting: AbortHandle,
    stop: watch::Sender<bool>,
    groups: Arc<Groups>,
    received: Arc<Received>,
    pub(super) faults: Arc<CommandFaults>,
    /// Closed when the last task of the server has ended.
    ended: mpsc::Receiver<()>,
}

/// How many bytes arrived on the standard input of each command line, over all of its runs.
type Received = Mutex<BTreeMap<String, u64>>;

/// What all connections of a server share.
#[derive(Debug)]
struct Shared {
    name: String,
    user: String,
    home: PathBuf,
    authorized: Vec<PublicKey>,
    groups: Arc<Groups>,
    received: Arc<Received>,
    faults: Arc<CommandFaults>,
}

impl Shared {
    fn is_off(&self) -> bool {
        self.home.join(super::POWERED_OFF).exists()
    }
}

impl Embedded {
    pub(super) async fn start(
        settings: &HostSettings,
        user: &str,
        key: PrivateKey,
    ) -> Result<Embedded, HostError> {
        let authorized = settings
            .authorized_keys
            .iter()
            .map(|line| {
                PublicKey::from_openssh(line.trim()).map_err(|error| HostError::Key {
                    key: line.clone(),
                    source: Box::new(error),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let listen = |source| HostError::Listen {
            name: settings.name.clone(),
            source,
        };
        let listener = listen_anywhere().map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let groups = Arc::new(Groups::default());
        let received = Arc::new(Received::default());
        let faults = Arc::new(CommandFaults::default());
        let shared = Arc::new(Shared {
            name: settings.name.clone(),
            user: user.to_owned(),
            home: settings.directory.clone(),
            authorized,
            groups: Arc::clone(&groups),
            received: Arc::clone(&received),
            faults: Arc::clone(&faults),
        });
        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let config = Arc::new(config(key));
        let accepting = tokio::spawn(accept(listener, config, shared, stopped, alive));
        Ok(Embedded {
            address,
            accepting: accepting.abort_handle(),
            stop,
            groups,
            received,
            faults,
            ended,
        })
    }

    /// Returns the bytes that arrived for each command line.
    pub(super) fn received(&self) -> BTreeMap<String, u64> {
        let received = self.received.lock();
        received.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self) {
        self.accepting.abort();
        self.stop.send_replace(true);
        self.groups.kill();
    }

    pub(super) async fn stop(mut self) {
        self.end();
        while self.ended.recv().await.is_some() {}
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen_anywhere() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // What the kernel holds for us stands before a window adjustment, so it is kept small. Accepted ones inherit it.
    socket.set_recv_buffer_size(RECEIVE)?;
    socket.bind(ANY_PORT)?;
    socket.listen(128)
}

fn config(key: PrivateKey) -> Config {
    // No chacha20: most clients prefer it, and here it is several times slower than AES, which processors help with.
    let ciphers = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::AES_128_CTR,
        cipher::AES_256_CTR,
    ];
    Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_millis(20),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        window_size: WINDOW,
        channel_buffer_size: MESSAGES,
        event_buffer_size: 64,
        preferred: Preferred {
            cipher: ciphers.into(),
            ..Preferred::DEFAULT
        },
        inactivity_timeout: None,
        nodelay: true,
        ..Config::default()
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<Config>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    loop {
        match listener.accept().await {
            // Without power there is nobody to answer.
            Ok((stream, _)) if shared.is_off() => drop(stream),
            Ok((stream, _)) => {
                let config = Arc::clone(&config);
                let shared = Arc::clone(&shared);
                tokio::spawn(serve(
                    stream,
                    config,
                    shared,
                    stopped.clone(),
                    alive.clone(),
                ));
            }
            // Out of file descriptors, most likely, which passes.
            Err(error) => {
                log::warn!("{}: cannot accept a connection: {error}", shared.name);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve(
    stream: TcpStream,
    config: Arc<Config>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("{}: cannot turn off delays: {error}", shared.name);
    }
    let name = shared.name.clone();
    let gate = Arc::new(Gate::default());
    let connection = Connection {
        shared,
        gate: Arc::clone(&gate),
        alive,
        waiting: HashMap::new(),
        running: HashMap::new(),
        lines: HashMap::new(),
    };
    let stream = BufReader::with_capacity(READ, GatedStream::new(stream, Arc::clone(&gate)));
    let session = async { run_stream(config, stream, connection).await?.await };
    tokio::pin!(session);
    let stop = async {
        // An error means that the server was dropped, which says the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let ended = tokio::select! {
        result = &mut session => Some(result),
        () = stop => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            gate.close();
            session.await
        }
    };
    if let Err(error) = result {
        log::debug!("{name}: connection ended: {error}");
    }
}

/// One client.
struct Connection {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    alive: mpsc::Sender<()>,
    /// Channels that nothing was asked of yet.
    waiting: HashMap<ChannelId, Channel<Msg>>,
    /// The leader of each channel's process group; dropping the sender tells it that the channel is closed.
    running: HashMap<ChannelId, (i32, oneshot::Sender<()>)>,
    /// What runs in each channel, for the count of what it receives.
    lines: HashMap<ChannelId, String>,
}

impl Connection {
    fn judge(&self, user: &str, key: &PublicKey) -> Auth {
        let known = |authorized: &PublicKey| authorized.key_data() == key.key_data();
        if user == self.shared.user && self.shared.authorized.iter().any(known) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }

    fn start(
        &mut self,
        id: ChannelId,
        mut program: Program,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(channel) = self.waiting.remove(&id) else {
            return session.channel_failure(id);
        };
        if self.shared.is_off() {
            return session.channel_failure(id);
        }
        let mut fault = None;
        if let Program::Shell(line) = &program {
            let line = String::from_utf8_lossy(line).into_owned();
            fault = self.shared.faults.hit(&line);
            self.lines.insert(id, line);
        }
        match &fault {
            Some(CommandFault::Error) => {
                program = Program::Shell(b"echo broken >&2; exit 1".to_vec())
            }
            Some(CommandFault::Hang) => program = Program::Shell(b"exec sleep 3600".to_vec()),
            Some(CommandFault::LostAnswer | CommandFault::Started(_)) | None => {}
        }
        let started = spawn(program, &self.shared.home, &self.shared.user).and_then(|child| {
            match child.id() {
                Some(leader) => Ok((child, leader as i32)),
                None => Err(std::io::ErrorKind::NotFound.into()),
            }
        });
        let (child, leader) = match started {
            Ok(started) => started,
            Err(error) => {
                log::warn!("{}: cannot start a command: {error}", self.shared.name);
                self.waiting.insert(id, channel);
                return session.channel_failure(id);
            }
        };
        self.shared.groups.add(leader);
        session.channel_success(id)?;
        let (close, closed) = oneshot::channel();
        self.running.insert(id, (leader, close));
        let (reader, writer) = channel.split();
        let exec = Exec {
            child,
            leader,
            reader,
            writer,
            handle: session.handle(),
            gate: Arc::clone(&self.gate),
            groups: Arc::clone(&self.shared.groups),
            closed,
            answers: !matches!(fault, Some(CommandFault::LostAnswer)),
        };
        if let Some(CommandFault::Started(callback)) = fault {
            callback();
        }
        let alive = self.alive.clone();
        tokio::spawn(async move {
            exec.run().await;
            drop(alive);
        });
        Ok(())
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.judge(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.judge(user, key.public_key))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.waiting.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.start(id, Program::Shell(line.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let program = SFTP_SERVERS
            .into_iter()
            .find(|path| Path::new(path).exists());
        match program {
            Some(program) if name == "sftp" => {
                self.start(id, Program::Subsystem(program.into()), session)
            }
            _ => session.channel_failure(id),
        }
    }

    fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> impl Future<Output = Result<(), russh::Error>> + Send {
        if self.running.contains_key(&id) {
            self.gate.queued(data.len());
        }
        if let Some(line) = self.lines.get(&id) {
            let received = self.shared.received.lock();
            let mut received = received.unwrap_or_else(PoisonError::into_inner);
            match received.get_mut(line) {
                Some(bytes) => *bytes += data.len() as u64,
                None => drop(received.insert(line.clone(), data.len() as u64)),
            }
        }
        std::future::ready(Ok(()))
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.waiting.remove(&id);
        self.running.remove(&id);
        self.lines.remove(&id);
        Ok(())
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some((leader, _)) = self.running.get(&id) {
            self.shared.groups.pass_signal(*leader, &signal);
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _terminal: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }
}
