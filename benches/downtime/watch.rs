//! The peak memory of the processes of one move, read from /proc while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The kernel keeps the peak, so this only must not miss the last moment of a process by much.
const PAUSE: Duration = Duration::from_millis(50);

/// Peaks of resident memory, in bytes; 0 for what was not seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peaks {
    pub(crate) operator: u64,
    pub(crate) sender: u64,
    pub(crate) receiver: u64,
}

/// A thread that looks.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Peaks>,
}

impl Watch {
    /// Watches a process and all porters that have a path below `directory` among their arguments.
    pub(crate) fn start(operator: u32, directory: PathBuf) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut peaks = Peaks::default();
            while !ended.load(Ordering::Relaxed) {
                look(&mut peaks, operator, &directory);
                std::thread::sleep(PAUSE);
            }
            peaks
        });
        Watch { over, thread }
    }

    /// Ends it and returns what it saw.
    pub(crate) fn stop(self) -> Peaks {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn look(peaks: &mut Peaks, operator: u32, directory: &Path) {
    let own = PathBuf::from(format!("/proc/{operator}"));
    peaks.operator = peaks.operator.max(peak(&own));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let Ok(line) = fs::read(process.join("cmdline")) else {
            continue;
        };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        // A shell or an ssh has the porter's command line in one word.
        let [executable, b"porter", verb, ..] = words.as_slice() else {
            continue;
        };
        if !executable.starts_with(directory.as_os_str().as_encoded_bytes()) {
            continue;
        }
        match *verb {
            b"send" => peaks.sender = peaks.sender.max(peak(&process)),
            b"receive" => peaks.receiver = peaks.receiver.max(peak(&process)),
            _ => {}
        }
    }
}

fn peak(process: &Path) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}
