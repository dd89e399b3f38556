//! An operator at home, for tests of SSH: a key, known hosts, and someone who answers questions.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxmove::config::SshAddress;
use proxmove::host::command::Command;
use proxmove::host::ssh::{SshEnvironment, SshOptions, SshShell};
use proxmove::host::{Exit, ShellError, Stream};
use proxmove::report::Operator;

use crate::sshd::{Sshd, generate_key};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Someone who always gives the same answer, and remembers the questions.
pub struct Scripted {
    pub answer: Option<bool>,
    pub questions: Mutex<Vec<String>>,
}

impl Operator for Scripted {
    fn confirm(&self, question: &str) -> Option<bool> {
        self.questions.lock().unwrap().push(question.to_owned());
        self.answer
    }
}

/// An operator's home with one key.
pub struct Home {
    pub directory: tempfile::TempDir,
    pub key: PathBuf,
    pub public: String,
    pub operator: Arc<Scripted>,
    pub options: SshOptions,
}

impl Home {
    /// Makes a home whose default key is let in by all of `hosts`, which are known.
    pub fn new(hosts: &[&Sshd]) -> Home {
        let home = Home::stranger();
        for host in hosts {
            host.authorize(&home.public);
            home.know(&host.known_hosts_line("ed25519"));
        }
        home
    }

    /// Makes a home that knows nobody.
    pub fn stranger() -> Home {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".ssh")).unwrap();
        let key = directory.path().join(".ssh/id_ed25519");
        let public = generate_key(&key, "ed25519", "");
        let user = std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap();
        let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
        let operator = Arc::new(Scripted {
            answer: None,
            questions: Mutex::default(),
        });
        let options = SshOptions {
            ciphers: None,
            operator: operator.clone(),
            environment: SshEnvironment::below(directory.path(), user),
        };
        Home {
            directory,
            key,
            public,
            operator,
            options,
        }
    }

    pub fn answers(mut self, answer: bool) -> Home {
        self.operator = Arc::new(Scripted {
            answer: Some(answer),
            questions: Mutex::default(),
        });
        self.options.operator = self.operator.clone();
        self
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn know(&self, line: &str) {
        let file = self.file(".ssh/known_hosts");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, format!("{before}{line}\n")).unwrap();
    }

    pub fn known(&self) -> String {
        fs::read_to_string(self.file(".ssh/known_hosts")).unwrap_or_default()
    }

    pub fn shell(&self, host: &Sshd) -> SshShell {
        self.reach("127.0.0.1", Some(host.port))
    }

    pub fn reach(&self, host: &str, port: Option<u16>) -> SshShell {
        let address = SshAddress {
            user: None,
            host: host.to_owned(),
            port,
        };
        SshShell::new(&address, self.options.clone()).unwrap()
    }
}

pub fn sh(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script)
}

/// Returns bytes that repeat nowhere, so that any shift or loss shows.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Feeds `input` into a stream and gathers what it says.
pub async fn drive(stream: Stream, input: Vec<u8>) -> (Vec<u8>, Vec<u8>, Result<Exit, ShellError>) {
    let Stream {
        input: sender,
        mut output,
        mut errors,
        exit,
    } = stream;
    let feeding = tokio::spawn(async move {
        for chunk in input.chunks(300_000) {
            if sender.send(chunk.to_vec()).await.is_err() {
                return;
            }
        }
    });
    let reading = async move {
        let mut all = Vec::new();
        while let Some(chunk) = output.recv().await {
            all.extend(chunk);
        }
        all
    };
    let complaining = async move {
        let mut all = Vec::new();
        while let Some(chunk) = errors.recv().await {
            all.extend(chunk);
        }
        all
    };
    let (output, errors) = tokio::join!(reading, complaining);
    feeding.await.unwrap();
    (output, errors, exit.await.unwrap())
}
