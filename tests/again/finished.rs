//! What else an operator reaches for: comparing a finished move again, waiting for a backup, an API node that dies.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::stage::faults::before;
use crate::stage::{
    self, MIB, clusters, disk, guest, launch, moved, nothing_left, proved, run, to_banana,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_finished_move_is_compared_again_and_a_changed_byte_is_named() {
    let disks = vec![
        disk("scsi0", "raw", 68 * MIB),
        disk("scsi1", "qcow2", 2 * MIB),
    ];
    let specs = vec![guest(600, "vm0", disks, 64 * 1024)];
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.3).await;
    let words = to_banana(&["--skip-start"], &["vm0"]);
    let done = run(&stage, &words).expect(0);
    let verify = |code: i32| -> Vec<Value> {
        let ended = run(&stage, &["verify", "--json", "apple", "banana", "vm0"]).expect(code);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    stage.simulation.faults().forget();
    let equal = verify(0);
    assert_eq!(stage.simulation.faults().writes(), []);
    assert_eq!(equal.len(), 2);
    assert!(
        equal.iter().all(|found| found["equal"] == true),
        "{equal:#?}"
    );
    // The digest of a raw disk is the one the move had agreed on.
    let agreed = done.told("move-done")[0]["verified"][0][1].clone();
    assert_eq!(equal[0]["digest"], agreed);
    nothing_left(&stage);
    let target = stage.vmid("banana", "vm0").unwrap();
    let images = stage
        .simulation
        .directory
        .join(format!("banana/node2/srv/local-ssd/images/{target}"));
    let image = std::fs::read_dir(images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "raw"))
        .unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let offset = 65 * MIB + 12_345;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    let found = verify(5);
    assert_eq!(found[0]["equal"], false);
    assert_eq!(found[0]["offset"], offset / 65_536 * 65_536);
    assert_eq!(found[1]["equal"], true);
    let text = run(&stage, &["verify", "apple", "banana", "vm0"])
        .expect(5)
        .stdout;
    assert!(
        text.contains(&format!(
            "vm0 scsi0: DIFFERS from offset {}",
            offset / 65_536 * 65_536
        )),
        "{text}"
    );
    let other = run(&stage, &["verify", "apple", "banana", "vm7"])
        .expect(4)
        .stdout;
    assert!(
        other.contains("apple has no guest vm7--MIGRATED"),
        "{other}"
    );
    nothing_left(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_is_waited_for_when_asked() {
    let specs = vec![guest(600, "vm0", vec![disk("scsi0", "raw", 2 * MIB)], 0)];
    let stage = stage::start(clusters(specs), |_| {}).await;
    let lock = |locked: bool| {
        let mut world = stage.simulation.world();
        let apple = world
            .clusters
            .iter_mut()
            .find(|cluster| cluster.alias == "apple")
            .unwrap();
        let config = &mut apple.guests.get_mut(&600).unwrap().config;
        match locked {
            true => config.insert("lock".to_owned(), "backup".to_owned()),
            false => config.remove("lock"),
        };
    };
    lock(true);
    let words = to_banana(&[], &["vm0"]);
    let refused = run(&stage, &words).expect(4);
    assert!(
        refused.stdout.contains("it is locked (backup)"),
        "{}",
        refused.stdout
    );
    // In vain: it is refused as before, later.
    let mut waiting = words.to_vec();
    waiting.splice(1..1, ["--wait-for-locks", "1s"]);
    run(&stage, &waiting).expect(4);
    waiting[2] = "3min";
    let mut running = launch(&stage, &waiting, &[]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!running.is_over());
    lock(false);
    let ended = running.wait().expect(0);
    assert!(
        ended
            .stdout
            .contains("waiting for up to 3m: vm0: it is locked (backup)"),
        "{}",
        ended.stdout
    );
    moved(&stage, ("apple", 600), "banana", "vm0");
}

/// Passes connections on to an API, until it dies with all of them.
struct Node {
    port: u16,
    dead: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Node {
    fn start(to: std::net::SocketAddr) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dead, open) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let node = Node {
            port,
            dead: Arc::clone(&dead),
            open: Arc::clone(&open),
        };
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !dead.load(Ordering::Relaxed) {
                let Ok((near, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                near.set_nonblocking(false).unwrap();
                let far = TcpStream::connect(to).unwrap();
                open.lock()
                    .unwrap()
                    .extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far, near),
                ] {
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        node
    }

    fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn when_an_api_node_dies_in_the_middle_the_move_goes_on_with_another() {
    let specs = vec![guest(
        600,
        "vm0",
        vec![disk("scsi0", "raw", 8 * MIB)],
        32 * 1024,
    )];
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.5).await;
    let apple = stage
        .simulation
        .clusters
        .iter()
        .find(|cluster| cluster.alias == "apple")
        .unwrap();
    let address = apple.address;
    let node = Arc::new(Node::start(address));
    let text = std::fs::read_to_string(stage.proxmoverc()).unwrap();
    let api = format!("@{address}\n");
    assert_eq!(text.matches(&api).count(), 1, "{text}");
    let also = format!("@127.0.0.1:{}\nalso={address}\n", node.port);
    std::fs::write(stage.proxmoverc(), text.replace(&api, &also)).unwrap();
    // It dies while it has the request to shut the guest down.
    let dying = Arc::clone(&node);
    let stops = ("POST", "/nodes/*/qemu/*/status/shutdown");
    before(&stage, "apple", stops, move || dying.die());
    let words = to_banana(&[], &["vm0"]);
    run(&stage, &words).expect(0);
    assert!(node.dead.load(Ordering::Relaxed));
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    proved(&stage, ("apple", 600), ("banana", target));
    nothing_left(&stage);
}
