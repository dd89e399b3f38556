//! Several moves half-way between the same hosts: what ends with one of them is not missed by the others.

use crate::stage::{self, clusters, moved, names, nothing_left, proved, run};
use crate::{STOPS, of_kind, status_of, stop_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_one_move_leaves_what_another_is_judged_by() {
    let specs = (0..2)
        .map(|number| of_kind(0, 600 + number, &format!("vm{number}")))
        .collect();
    let stage = stage::start(clusters(specs), |settings| settings.filled = 0.1).await;
    let stop = |rung: &str| STOPS.iter().find(|stop| stop.rung == rung).unwrap();
    stop_at(&stage, stop("switched-over"), "vm0");
    stop_at(&stage, stop("placed"), "vm1");
    // The porters on both hosts go with it: no other move of this command needs them.
    run(&stage, &["abort", "apple", "banana", "vm1"]).expect(0);
    assert!(!names(&stage, "banana").contains(&"vm1--CREATING".to_owned()));
    assert_eq!(status_of(&stage, "vm0")["rung"], "switched-over");
    run(&stage, &["resume", "--yes", "apple", "banana", "vm0"]).expect(0);
    let target = moved(&stage, ("apple", 600), "banana", "vm0");
    proved(&stage, ("apple", 600), ("banana", target));
    nothing_left(&stage);
}
