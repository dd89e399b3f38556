use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    Command::new("sh").arg("-c").arg(script)
}

#[tokio::test]
async fn a_command_tells_what_it_wrote_and_how_it_ended() {
    async fn check(script: &str, input: &str, expect: (&str, &str, Exit)) {
        let output = LocalShell::default()
            .run(&sh(script), input.as_bytes(), PATIENCE)
            .await
            .expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = (text(&output.stdout), text(&output.stderr), output.exit);
        assert_eq!(
            found,
            (expect.0.to_owned(), expect.1.to_owned(), expect.2),
            "{script}"
        );
    }
    check("echo a; echo b >&2", "", ("a\n", "b\n", Exit::Code(0))).await;
    check("cat; exit 3", "in", ("in", "", Exit::Code(3))).await;
    check(
        "kill -9 $PPID",
        "",
        ("", "", Exit::Signal("KILL".to_owned())),
    )
    .await;
    // The command never reads its input.
    check("exec 0<&-; echo x", "unread", ("x\n", "", Exit::Code(0))).await;
}

#[tokio::test]
async fn silence_ends_with_an_error_and_chatter_does_not() {
    let shell = LocalShell::default();
    let patience = Duration::from_millis(400);
    let error = shell.run(&sh("exec sleep 5"), b"", patience).await;
    assert!(matches!(error, Err(ShellError::Silent { .. })), "{error:?}");
    let output = shell
        .run(
            &sh("for i in 1 2 3 4 5 6 7 8; do echo; sleep 0.1; done"),
            b"",
            patience,
        )
        .await
        .expect("lives");
    assert_eq!(output.stdout.len(), 8);
}

#[tokio::test]
async fn both_directions_and_the_errors_move_together() {
    let input: Vec<u8> = (0..20_000_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let output = LocalShell::default()
        .run(
            &sh("head -c 3000000 /dev/zero >&2; exec cat"),
            &input,
            PATIENCE,
        )
        .await
        .expect("runs");
    assert!(output.stdout == input);
    assert_eq!(output.stderr.len(), 64 << 10);
}

#[tokio::test]
async fn a_dropped_stream_closes_the_pipes() {
    let directory = tempfile::tempdir().expect("a directory");
    let mark = directory.path().join("ended");
    let mark_name = mark.to_str().expect("plain");
    let stream = LocalShell::default()
        .stream(&sh(&format!(
            "cat > {mark_name}.part; mv {mark_name}.part {mark_name}"
        )))
        .await
        .expect("starts");
    stream.input.send(b"abc".to_vec()).await.expect("reads");
    drop(stream);
    for _ in 0..200 {
        if mark.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the command's input was never closed");
}
