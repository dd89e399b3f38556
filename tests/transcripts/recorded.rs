//! The recorded requests and answers, one JSON object a line.

use proxmove::cluster::ApiError;
use proxmove::cluster::answer::{Answer, Asked, Effect};
use serde_json::Value;

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// `FILE:LINE: METHOD PATH`.
    pub(crate) place: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) body: String,
    /// What the recorder was after.
    pub(crate) note: String,
}

impl Recorded {
    pub(crate) fn file(&self) -> &str {
        self.place.split(':').next().unwrap_or_default()
    }

    /// Returns the path below `/api2/FORMAT`, without a query.
    pub(crate) fn api_path(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        let below = |root: &str| path.strip_prefix(root);
        below("/api2/json")
            .or_else(|| below("/api2/extjs"))
            .unwrap_or(path)
    }

    pub(crate) fn effect(&self) -> Effect {
        match self.method.as_str() {
            "GET" | "HEAD" | "OPTIONS" => Effect::Reads,
            _ => Effect::Writes,
        }
    }

    /// Returns what the client makes of the answer.
    pub(crate) fn data(&self) -> Result<Value, ApiError> {
        let answer = Answer {
            status: self.status,
            reason: Some(self.reason.clone()),
            body: self.body.clone(),
        };
        let cluster = "laboratory".parse().expect("alias");
        answer.data(&Asked {
            cluster: &cluster,
            address: "laboratory:8006",
            user: "somebody@pve",
            request: &format!("{} {}", self.method, self.api_path()),
            effect: self.effect(),
        })
    }
}

/// Returns all recordings, in the order of their files.
pub(crate) fn all() -> Vec<Recorded> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("the recordings")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        let text = std::fs::read_to_string(&file).expect("a text");
        for (index, line) in text.lines().enumerate() {
            let value: Value = serde_json::from_str(line).expect("a recording");
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let (method, path) = (text("method"), text("path"));
            entries.push(Recorded {
                place: format!("{name}:{}: {method} {path}", index + 1),
                status: value["status"]
                    .as_u64()
                    .and_then(|s| s.try_into().ok())
                    .expect("a status"),
                reason: text("reason"),
                body: text("body"),
                note: text("note"),
                method,
                path,
            });
        }
    }
    entries
}

/// Returns the first recording of a file with that note.
pub(crate) fn noted(file: &str, note: &str) -> Recorded {
    let mut entries = all().into_iter().filter(|entry| entry.file() == file);
    let found = entries.find(|entry| entry.note == note);
    found.unwrap_or_else(|| panic!("no '{note}' in {file}"))
}

/// Returns the recording of a file at a line.
pub(crate) fn at(file: &str, line: usize) -> Recorded {
    let start = format!("{file}:{line}: ");
    let found = all()
        .into_iter()
        .find(|entry| entry.place.starts_with(&start));
    found.unwrap_or_else(|| panic!("no {start}"))
}

/// Decodes percent-encoding in a segment of a path.
pub(crate) fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8_lossy()
        .into_owned()
}
