//! Two operators at once on the same guest: the second is told who works on it, and may take it over on request only.

use std::sync::Arc;

use crate::stage::faults::{CONFIG, before, claimed_by_bob};
use crate::stage::{clusters, moved, nothing_left, proved, run, runs, to_banana};
use crate::{STOPS, of_kind, status_of, stop_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_second_operator_is_told_who_holds_a_move() {
    let specs = (0..4)
        .map(|number| of_kind(0, 600 + number, &format!("vm{number}")))
        .collect();
    let stage =
        Arc::new(crate::stage::start(clusters(specs), |settings| settings.filled = 0.1).await);
    let again = |name: &str, option: &'static str| {
        let options: &[&str] = match option {
            "" => &[],
            option => &[option],
        };
        run(&stage, &to_banana(options, &[name]))
    };
    // Alive: neither the same command nor an abort goes on, and both say who it is.
    stop_at(&stage, &STOPS[2], "vm0");
    claimed_by_bob(&stage, "vm0", 20);
    stage.simulation.faults().forget();
    for ended in [
        again("vm0", ""),
        run(&stage, &["abort", "--json", "apple", "banana", "vm0"]),
        run(
            &stage,
            &["resume", "--json", "--yes", "apple", "banana", "vm0"],
        ),
    ] {
        let ended = ended.expect(4);
        let failed = &ended.told("move-failed")[0];
        let error = failed["error"][0].as_str().unwrap();
        assert!(
            error.contains("is being moved by bob@desk (process 77) since "),
            "{error}"
        );
        assert!(error.contains("last sign 2"), "{error}");
        assert!(
            failed["next"].as_str().unwrap().contains("--take-over"),
            "{failed:#}"
        );
    }
    assert_eq!(stage.simulation.faults().writes(), []);
    let found = status_of(&stage, "vm0");
    assert_eq!(found["held"]["alive"], true, "{found:#}");
    assert_eq!(
        found["resume"],
        "proxmove resume --take-over apple banana vm0"
    );
    // On request it is taken over.
    let ended = again("vm0", "--take-over").expect(0);
    assert!(
        ended.stdout.contains("taken over from bob@desk"),
        "{}",
        ended.stdout
    );
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    proved(&stage, ("apple", 600), ("banana", target));

    // Without a sign for long it is anybody's.
    stop_at(&stage, &STOPS[2], "vm1");
    claimed_by_bob(&stage, "vm1", 400);
    assert_eq!(status_of(&stage, "vm1")["held"]["alive"], false);
    let ended = again("vm1", "").expect(0);
    assert!(
        ended.stdout.contains("stale claim of bob@desk"),
        "{}",
        ended.stdout
    );
    moved(&stage, ("apple", 601), "banana", "vm1");

    // Whoever is taken over from notices before the next step, and leaves everything as it is.
    let shared = Arc::clone(&stage);
    stage.simulation.faults().clear();
    before(&stage, "apple", ("PUT", CONFIG), move || {
        claimed_by_bob(&shared, "vm2", 0);
    });
    let ended = again("vm2", "").expect(6);
    let failed = &ended.told("move-failed")[0];
    assert!(
        failed["error"][0]
            .as_str()
            .unwrap()
            .contains("bob@desk has taken the move of vm2 over"),
        "{failed:#}"
    );
    stage.simulation.faults().clear();
    assert!(!runs(&stage, "apple", 602));
    assert_eq!(status_of(&stage, "vm2")["held"]["alive"], true);
    run(
        &stage,
        &["abort", "--json", "--take-over", "apple", "banana", "vm2"],
    )
    .expect(0);
    assert!(runs(&stage, "apple", 602));
    nothing_left(&stage);
}

/// Moves of one guest to two places do not know each other's placeholder; the note on the source tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_another_move_has_stopped_is_left_alone() {
    let stage = crate::stage::start(clusters(vec![of_kind(0, 600, "vm0")]), |settings| {
        settings.filled = 0.1
    })
    .await;
    stop_at(&stage, &STOPS[3], "vm0");
    let note = |id: &str| {
        let mut world = stage.simulation.world();
        let apple = world
            .clusters
            .iter_mut()
            .find(|cluster| cluster.alias == "apple")
            .unwrap();
        let description = apple
            .guests
            .get_mut(&600)
            .unwrap()
            .config
            .get_mut("description")
            .unwrap();
        let (before, rest) = description.split_once("(move ").unwrap();
        let (own, after) = rest.split_once(')').unwrap();
        let own = own.to_owned();
        *description = format!("{before}(move {id}){after}");
        own
    };
    let own = note("ffff0000");
    let words = to_banana(&[], &["vm0"]);
    let ended = run(&stage, &words).expect(6);
    assert!(
        ended.stdout.contains("stopped by another move of it"),
        "{}",
        ended.stdout
    );
    run(&stage, &["abort", "--json", "apple", "banana", "vm0"]).expect(6);
    note(&own);
    run(&stage, &words).expect(0);
    moved(&stage, ("apple", 600), "banana", "vm0");
}
