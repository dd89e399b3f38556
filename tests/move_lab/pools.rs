//! One simulated cluster with real pools: guests that write to zvols, volumes that are made and unmade.
//!
//! Nothing is moved here; it shows that what `../move_lab.rs` relies on can be relied on.

use serde_json::{Value, json};

use super::sites::{Site, cluster};
use super::stage::{MIB, disk, guest, program};
use super::{dataset, lab, on, property, three_pools, three_zvols};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_writes_to_zvols_and_what_it_was_told_is_written_is_in_their_snapshots() {
    let Some(lab) = lab("simulated guests on zvols") else {
        return;
    };
    let spec = cluster("apple", "node1", three_pools(), vec![three_zvols(MIB)]);
    let site = Site::start(lab.connect('A'), program(), spec, 0.1);
    site.await_records(565, 300);
    let images = site.images(565);
    assert_eq!(images.len(), 3);
    for (image, block) in images.iter().zip(["8192", "16384", "16384"]) {
        assert_eq!(
            property(&site.machine, "volblocksize", dataset(image)),
            block
        );
    }
    // Only the storage that says so has sparse zvols.
    let reserved =
        |place: usize| property(&site.machine, "refreservation", dataset(&images[place]));
    assert_ne!(reserved(0), "0");
    assert_ne!(reserved(1), "0");
    assert_eq!(reserved(2), "0");

    // Switched off, nothing flushed: what was acknowledged is in the zvol all the same.
    assert_eq!(
        site.ask_task("POST", "/nodes/node1/qemu/565/status/stop", "")
            .await,
        "OK"
    );
    site.machine
        .run(&format!("zfs snapshot -r {}@after", site.dataset));
    let killed = site.ledger(565);
    assert!(site.prove(&killed, &images) > 0);
    // The disks have what the guest wrote and nothing since, as their snapshots show.
    assert_eq!(property(&site.machine, "written", dataset(&images[0])), "0");

    // Started again it goes on, and a shutdown flushes. A shutdown's ledger knows of nothing in flight.
    assert_eq!(
        site.ask_task("POST", "/nodes/node1/qemu/565/status/start", "")
            .await,
        "OK"
    );
    site.await_records(565, 50);
    assert_eq!(
        site.ask_task("POST", "/nodes/node1/qemu/565/status/shutdown", "")
            .await,
        "OK"
    );
    let ended: Value = serde_json::from_slice(&site.ledger(565)).unwrap();
    let before: Value = serde_json::from_slice(&killed).unwrap();
    assert!(ended["last_sequence"].as_u64() > before["last_sequence"].as_u64());
    assert_eq!(ended["in_flight"], json!([]));
    let records = site.prove(&site.ledger(565), &images);
    assert_ne!(property(&site.machine, "written", dataset(&images[0])), "0");

    // And the proof is one: on the disks as they were before, records are missing or old.
    let old = format!("{}/clone", site.dataset);
    site.machine.run(&format!(
        "zfs clone {}@after {old} && udevadm settle",
        dataset(&images[0])
    ));
    let file = format!("{}/ledger-565.json", site.directory);
    let clone = format!("/dev/zvol/{old}");
    let line = format!(
        "{} sim-proof --ledger {file} {clone} {} {}",
        site.program(),
        images[1],
        images[2]
    );
    let output = site.machine.try_run(&line);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    site.machine.run(&format!("zfs destroy {old}"));
    eprintln!("{records} records on three zvols");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_on_a_pool_are_allocated_attached_and_freed_as_by_proxmox_ve() {
    let Some(lab) = lab("volumes of a simulated cluster on a zpool") else {
        return;
    };
    let mut idle = guest(
        100,
        "idle",
        vec![on("z8", disk("scsi0", "raw", 5 * MIB))],
        0,
    );
    idle.running = false;
    let spec = cluster("apple", "node1", three_pools(), vec![idle]);
    let site = Site::start(lab.connect('A'), program(), spec, 0.0);
    let content = "/nodes/node1/storage/thin/content";

    // A size that is no whole MiB is rounded up, but only on the pool.
    let body = "vmid=100&filename=vm-100-disk-7&size=5121";
    let (status, reason, volid) = site.ask("POST", content, body).await;
    assert_eq!(
        (status, volid),
        (200, json!("thin:vm-100-disk-7")),
        "{reason}"
    );
    let (_, reason, _) = site.ask("POST", content, body).await;
    let zvol = format!("{}/thin/vm-100-disk-7", site.dataset);
    assert_eq!(
        reason,
        format!("zfs error: cannot create '{zvol}': dataset already exists")
    );
    let (_, reason, _) = site
        .ask("POST", content, "vmid=100&filename=disk&size=1M")
        .await;
    assert_eq!(reason, "illegal name 'disk' - should be 'vm-100-*'");
    let thick = "/nodes/node1/storage/z16/content";
    let body = "vmid=100&filename=vm-100-disk-9&size=900G";
    let (_, reason, _) = site.ask("POST", thick, body).await;
    assert!(
        reason.ends_with("/z16/vm-100-disk-9': out of space"),
        "{reason}"
    );
    let (_, _, rows) = site.ask("GET", content, "").await;
    assert_eq!(
        rows,
        json!([{
            "volid": "thin:vm-100-disk-7", "content": "images", "format": "raw", "size": 6 * MIB,
            "name": "vm-100-disk-7", "vmid": 100, "parent": null,
        }])
    );
    let (_, _, state) = site
        .ask("GET", "/nodes/node1/storage/thin/status", "")
        .await;
    assert_eq!(
        (&state["active"], &state["type"]),
        (&json!(1), &json!("zfspool"))
    );
    let number = |key: &str| state[key].as_u64().unwrap();
    assert_eq!(number("total"), number("used") + number("avail"));
    assert!(
        number("total") > 1 << 30 && number("total") < 16 << 30,
        "{state}"
    );
    let (_, _, one) = site
        .ask("GET", &format!("{content}/thin:vm-100-disk-7"), "")
        .await;
    assert_eq!(
        (&one["path"], &one["size"]),
        (&json!(format!("/dev/zvol/{zvol}")), &json!(6 * MIB))
    );

    // Attached, taken out, attached again; one that is not there never is.
    let config = "/nodes/node1/qemu/100/config";
    let (_, reason, _) = site.ask("PUT", config, "scsi1=thin:vm-100-disk-8").await;
    assert_eq!(
        reason,
        "timeout: no zvol device link for 'vm-100-disk-8' found after 10 sec."
    );
    let (status, reason, _) = site
        .ask("PUT", config, "scsi1=thin:vm-100-disk-7%2Csize%3D1G")
        .await;
    assert_eq!(status, 200, "{reason}");
    let shown = site.guest(100)["config"].clone();
    assert_eq!(shown["scsi1"], "thin:vm-100-disk-7,size=6M");
    let (_, reason, _) = site
        .ask("DELETE", &format!("{content}/thin:vm-100-disk-7"), "")
        .await;
    assert_eq!(
        reason,
        "cannot remove volume 'thin:vm-100-disk-7', used by VM with ID '100'"
    );
    assert_eq!(site.ask("PUT", config, "delete=scsi1").await.0, 200);
    assert_eq!(site.guest(100)["config"]["unused0"], "thin:vm-100-disk-7");
    // A snapshot goes with its zvol.
    site.machine.run(&format!("zfs snapshot {zvol}@before"));
    assert_eq!(site.ask("PUT", config, "delete=unused0").await.0, 200);
    assert_eq!(site.ask("GET", content, "").await.2, json!([]));

    // The lowest free number is taken; a new disk starts empty, grows, and starts only while its zvol is there.
    let (status, reason, _) = site.ask("PUT", config, "scsi2=z8:0.0625").await;
    assert_eq!(status, 200, "{reason}");
    assert_eq!(
        site.guest(100)["config"]["scsi2"],
        "z8:vm-100-disk-1,size=64M"
    );
    let resize = "/nodes/node1/qemu/100/resize";
    assert_eq!(
        site.ask_task("PUT", resize, "disk=scsi2&size=%2B16M").await,
        "OK"
    );
    let grown = format!("{}/z8/vm-100-disk-1", site.dataset);
    assert_eq!(
        property(&site.machine, "volsize", &grown),
        (80 * MIB).to_string()
    );
    site.machine
        .run(&format!("zfs rename {grown} {grown}-hidden"));
    let start = "/nodes/node1/qemu/100/status/start";
    assert_eq!(
        site.ask_task("POST", start, "").await,
        "timeout: no zvol device link for 'vm-100-disk-1' found after 300 sec."
    );
    site.machine.run(&format!(
        "zfs rename {grown}-hidden {grown} && udevadm settle"
    ));
    assert_eq!(site.ask_task("POST", start, "").await, "OK");
    assert_eq!(
        site.ask_task("POST", "/nodes/node1/qemu/100/status/stop", "")
            .await,
        "OK"
    );
    assert_eq!(
        site.ask_task("DELETE", "/nodes/node1/qemu/100", "").await,
        "OK"
    );
    let left = site.machine.run(&format!(
        "zfs list -H -o name -t volume -r {}",
        site.dataset
    ));
    assert_eq!(left, "");
}
