//! A source disk of which some sectors cannot be read: QEMU's storage daemon serves the image as a file, by FUSE, and
//! answers reads of these sectors with a real I/O error.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::alone::{Own, alone};
use crate::not_run::not_run;
use crate::stage::{self, MIB, clusters, config, disk, guest, nothing_left, runs, to_banana};
use crate::{image, said, source_image, target_storage};

const SIZE: u64 = 64 * MIB;
/// The sector that cannot be read, and the chunk it is in.
const BAD: u64 = 37 * MIB + 70 * 512;
const CHUNK: u64 = 65_536;
const DAEMON: &str = "qemu-storage-daemon";

/// A file whose content is another file's, but for one sector.
struct FailingFile {
    child: Child,
}

impl FailingFile {
    /// Serves `content` at `place`, which must be a file. `None` when the daemon cannot.
    fn serve(content: &Path, place: &Path) -> Option<FailingFile> {
        let sector = BAD / 512;
        let file = format!("driver=file,filename={},node-name=whole", content.display());
        let failing = format!(
            "driver=blkdebug,node-name=failing,image=whole,inject-error.0.event=none,inject-error.0.iotype=read,\
             inject-error.0.errno=5,inject-error.0.sector={sector},inject-error.0.once=off"
        );
        let export = format!(
            "type=fuse,id=export,node-name=failing,writable=on,allow-other=off,mountpoint={}",
            place.display()
        );
        let mut child = Command::new(DAEMON)
            .args([
                "--blockdev",
                &file,
                "--blockdev",
                &failing,
                "--export",
                &export,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let began = Instant::now();
        // Only what it serves fails to be read there.
        while began.elapsed() < Duration::from_secs(20) {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            let file = fs::File::open(place).unwrap();
            if file
                .read_exact_at(&mut [0; 512], BAD)
                .is_err_and(|error| error.raw_os_error() == Some(5))
            {
                return Some(FailingFile { child });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

impl Drop for FailingFile {
    /// Ends it; what is at its place then is the file that was there.
    fn drop(&mut self) {
        if let Some(process) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_with_a_sector_that_cannot_be_read() {
    let test = "reading::a_source_with_a_sector_that_cannot_be_read";
    if Command::new(DAEMON).arg("--version").output().is_err() || !Path::new("/dev/fuse").exists() {
        return not_run(test, format!("needs {DAEMON} and /dev/fuse"));
    }
    if !alone(test, Own::Mounts) {
        return;
    }
    // It runs and writes nothing, so that what is served is what it has.
    let spec = guest(600, "vm0", vec![disk("scsi0", "raw", SIZE)], 0);
    let stage = stage::start(clusters(vec![spec]), |_| {}).await;
    let source = source_image(&stage, 600);
    let content = stage.simulation.directory.join("content");
    let mut bytes = vec![0; SIZE as usize];
    fastrand::Rng::with_seed(9).fill(&mut bytes);
    fs::write(&source, &bytes).unwrap();
    fs::copy(&source, &content).unwrap();
    let before = config(&stage, "apple", 600);
    let Some(failing) = FailingFile::serve(&content, &source) else {
        return not_run(test, format!("{DAEMON} cannot serve files by FUSE here"));
    };
    let words = to_banana(&[], &["vm0"]);
    for route in ["relay", "auto"] {
        let words = to_banana(&["--route", route], &["vm0"]);
        let (error, state, next) = said(&stage::run(&stage, &words).expect(5));
        assert!(error.contains("scsi0"), "{error}");
        let place = format!("read {} at offset ", source.display());
        assert!(error.contains(&place), "{error}");
        let offset = error.split_once(&place).unwrap().1;
        let offset: u64 = offset.split(':').next().unwrap().trim().parse().unwrap();
        assert_eq!(offset / CHUNK, BAD / CHUNK, "{error}");
        assert!(error.contains("Input/output error"), "{error}");
        assert!(
            state.starts_with("vm0 is RUNNING on apple as before"),
            "{state}"
        );
        assert!(next.contains("run the same command again"), "{next}");
        assert!(runs(&stage, "apple", 600));
        assert_eq!(config(&stage, "apple", 600), before);
        // Nothing pretends to be the copy: the target has no drive, and no zeros that stand for what was not read.
        let target = stage.vmid("banana", "vm0--CREATING").unwrap();
        let config = config(&stage, "banana", target);
        assert!(!config.contains_key("scsi0"), "{config:?}");
        assert_eq!(stage.vmid("banana", "vm0"), None);
    }
    drop(failing);
    assert_eq!(fs::metadata(&source).unwrap().len(), SIZE);
    stage::run(&stage, &words).expect(0);
    let target = stage::moved(&stage, ("apple", 600), "banana", "vm0");
    let copy = image(&target_storage(&stage).join("images"), target);
    assert!(
        fs::read(copy).unwrap() == bytes,
        "the copy is not the source"
    );
    nothing_left(&stage);
}
