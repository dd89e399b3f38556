//! Changes that were wanted long ago, while the server could not be reached: a machine that slept does not send them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::server::{Server, ok};
use super::{HttpApi, place, quick, simple};
use crate::cluster::{Api, ApiError, ConfigChange};

/// Sends a change to a server that is back a moment later; returns what came of it and how many requests it has seen.
async fn change_when(late: Duration) -> (Result<(), ApiError>, usize) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("its address").port();
    drop(free);
    let other = Server::start(|_, _| ok("null")).await;
    let mut config = simple(&other).config;
    config.port = port;
    config.fingerprints.clear();
    let mut api = HttpApi::connect(config, false);
    api.pace = quick();
    api.pace.lost = vec![Duration::from_millis(300)];
    api.pace.late = late;
    api.answered.store(true, Ordering::Relaxed);
    let change = ConfigChange {
        set: [("onboot".to_owned(), "0".to_owned())].into(),
        ..ConfigChange::default()
    };
    let place = place(100);
    let back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Server::start_at(&format!("127.0.0.1:{port}"), |_, _| ok("null")).await
    };
    let (changed, server) = tokio::join!(api.configure(&place, &change), back);
    (changed, server.seen().len())
}

#[tokio::test]
async fn a_change_is_not_sent_long_after_it_was_wanted() {
    let (changed, seen) = change_when(Duration::from_secs(60)).await;
    changed.expect("the server is back");
    assert_eq!(seen, 1);
    let (changed, seen) = change_when(Duration::ZERO).await;
    let error = changed.expect_err("too late");
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error:?}");
    assert_eq!(seen, 0);
}
