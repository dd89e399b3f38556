//! The way back of a guest that does not come up on its former self: it is returned to where it ran meanwhile.
//!
//! What it wrote there is the only copy of it, and the former self has to be found again by the next try. Read next:
//! `../back.rs`, the way back itself.

use proxmove::sim::stage::Stage;

use super::stage::{self, Ended, config, names, nothing_left, proved, run, runs, write_on};
use super::{APPLE, BANANA, TARGET, boots_on, failure, go, hangs, images, moved, stage_with, text};
use super::{Boot, with_agent};

const RATE: u64 = 64 * 1024;

fn back(stage: &Stage, options: &[&str]) -> Ended {
    let words = ["back", "--json", "--yes"];
    run(stage, &[&words, options, &["banana", "web1"]].concat())
}

const RETURNING: [&str; 4] = ["--boot-check", "2s", "--on-failure", "return"];

/// Tries to bring it back, and is told that it was returned, and what to type.
fn returns(stage: &Stage) {
    let ended = back(stage, &RETURNING).expect(5);
    let failed = failure(&ended);
    let error = text(&failed, "error");
    assert!(
        error.contains("was returned to its source") && error.contains("does not answer"),
        "{failed:#}"
    );
    let state = text(&failed, "state");
    assert!(
        state.starts_with("web1 is RUNNING on banana as before"),
        "{failed:#}"
    );
    let next = text(&failed, "next");
    assert!(
        next.contains("run `proxmove back banana web1` again"),
        "{next}"
    );
    assert!(!next.contains("remove"), "{next}");
}

/// Moves a guest there, has it write there, and fails to bring it back: its former self hangs.
async fn returned_to_banana() -> Stage {
    let stage = stage_with(vec![with_agent(565, "web1")]).await;
    go(&stage, &["--target-vmid", "300"], "web1").expect(0);
    moved(&stage, ("apple", 565), "banana", "web1");
    write_on(&stage, ("apple", 565), ("banana", TARGET), RATE);
    // Where it is now, it has another configuration than where it was.
    {
        let mut world = stage.simulation.world();
        let banana = world
            .clusters
            .iter_mut()
            .find(|known| known.alias == "banana");
        let guest = banana.unwrap().guests.get_mut(&TARGET).unwrap();
        guest.config.insert("cores".to_owned(), "3".to_owned());
        guest
            .config
            .insert("description".to_owned(), "changed there".to_owned());
    }
    let before = config(&stage, "banana", TARGET);
    boots_on(&stage, "apple", 565, hangs());
    returns(&stage);
    // It runs where it ran, as it was, and goes on writing.
    assert_eq!(config(&stage, "banana", TARGET), before);
    assert!(runs(&stage, "banana", TARGET) && !runs(&stage, "apple", 565));
    let began = std::time::Instant::now();
    while stage.completed("banana", TARGET) < 40 {
        assert!(began.elapsed().as_secs() < 60, "it does not write");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Its former self is a placeholder, with all it had.
    let former = config(&stage, "apple", 565);
    assert_eq!(former["name"], "web1--CREATING");
    assert!(!former["description"].contains("returning"), "{former:?}");
    assert_eq!(images(&stage, APPLE, 565).len(), 2);
    boots_on(&stage, "apple", 565, Boot::default());
    stage
}

/// Brings it back at last, and proves that nothing of it is lost, and nothing of the failed boot left.
fn brought_back(stage: &Stage) {
    let wrote = stage.check(("apple", 565), ("apple", 565)).unwrap();
    assert!(wrote.found > 0, "the failed boot wrote nothing: {wrote}");
    let ended = back(stage, &RETURNING).expect(0);
    assert_eq!(moved(stage, ("banana", TARGET), "apple", "web1"), 565);
    let records = proved(stage, ("banana", TARGET), ("apple", 565));
    let (source, now) = (images(stage, BANANA, TARGET), images(stage, APPLE, 565));
    assert_eq!(source.len(), 2);
    for (name, bytes) in &source {
        assert!(now[name] == *bytes, "{name} differs");
    }
    let back = config(stage, "apple", 565);
    assert_eq!(
        (&*back["cores"], &*back["description"]),
        ("3", "changed there")
    );
    let carried = ended.events().pop().unwrap()["carried"].as_u64().unwrap();
    let all: usize = source.values().map(Vec::len).sum();
    eprintln!("{records} records, {carried} of {all} bytes carried again");
    nothing_left(stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_does_not_come_up_on_its_former_self_returns_to_where_it_ran() {
    let stage = returned_to_banana().await;
    brought_back(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_way_back_that_was_returned_may_be_given_up_and_the_former_self_stays() {
    let stage = returned_to_banana().await;
    // A second time, as nothing was repaired.
    boots_on(&stage, "apple", 565, hangs());
    returns(&stage);
    boots_on(&stage, "apple", 565, Boot::default());
    let kept = images(&stage, APPLE, 565);
    let ended = run(&stage, &["abort", "--json", "banana", "apple", "web1"]).expect(0);
    let left = ended.told("move-aborted")[0]["left"].to_string();
    assert!(left.contains("web1--MIGRATED on apple/565"), "{left}");
    assert!(runs(&stage, "banana", TARGET));
    assert_eq!(names(&stage, "apple"), ["web1--MIGRATED"]);
    assert!(
        kept == images(&stage, APPLE, 565),
        "its volumes are changed"
    );
    stage::no_secret_was_shown(&stage);
    brought_back(&stage);
}
