//! The command line: each option's effect on the request, what is refused, and the help texts.

use std::ffi::OsString;
use std::time::Duration;

use clap::error::ErrorKind;
use expect_test::{Expect, expect, expect_file};
use proxmove::cli::{self, MoveCommand, Request};
use proxmove::transfer::{Route, Verify};
use proxmove::units::Bandwidth;

fn parse(line: &str) -> Result<Request, clap::Error> {
    cli::parse(
        std::iter::once("proxmove")
            .chain(line.split_whitespace())
            .map(OsString::from),
    )
}

fn moved(line: &str) -> MoveCommand {
    match parse(line) {
        Ok(Request::Move(command)) => command,
        Ok(other) => panic!("{line}: {other:?}"),
        Err(error) => panic!("{line}: {error}"),
    }
}

/// The classic form with one more option.
fn with(option: &str) -> MoveCommand {
    moved(&format!("{option} apple banana node2 ssd web1"))
}

fn refused(line: &str, expect: Expect) {
    let error = parse(line).expect_err("it is refused");
    assert_eq!(error.exit_code(), 2, "{line}");
    expect.assert_eq(&error.to_string());
}

#[test]
fn the_classic_form_and_its_defaults() {
    expect![[r#"
        MoveCommand {
            request: MoveRequest {
                source: ClusterAlias(
                    "apple",
                ),
                target: ClusterAlias(
                    "banana",
                ),
                node: NodeName(
                    "node2",
                ),
                storage: StorageId(
                    "ssd",
                ),
                guests: [
                    "web1",
                    "db1",
                ],
                skip_disks: false,
                skip_start: false,
                wait_before_stop: false,
                ignore_exists: false,
                allow_plain: false,
                with_snapshots: false,
                forget: false,
                target_vmid: None,
                bridges: {},
                storages: {},
                max_downtime: None,
                stop_timeout: 120s,
                boot_check: None,
                on_failure: Keep,
                ha: Refuse,
                route: None,
                verify: Full,
                limit: None,
                parallel: 2,
            },
            dry_run: false,
            conduct: Conduct {
                yes: false,
                take_over: false,
                fail_fast: false,
                wait_for_locks: 0ns,
                common: Common {
                    config: None,
                    verify_tls: true,
                    ssh_ciphers: Some(
                        "aes128-gcm@openssh.com,aes128-ctr",
                    ),
                    json: false,
                    debug: false,
                },
            },
        }
    "#]]
    .assert_debug_eq(&moved("apple banana node2 ssd web1 db1"));
}

#[test]
fn options_stand_anywhere() {
    let expect = format!(
        "{:?}",
        moved("-n --bwlimit 100 -c rc apple banana node2 ssd web1 db1")
    );
    for line in [
        "apple banana node2 ssd web1 db1 -n --bwlimit 100 -c rc",
        "apple -n banana --bwlimit=100 node2 ssd web1 -crc db1",
        "--config rc apple banana node2 --bwlimit 100 ssd web1 --dry-run db1",
        "move apple banana node2 ssd web1 db1 -n --bwlimit 100 -c rc",
        "-c rc move --bwlimit 100 apple banana -n node2 ssd web1 db1",
        "--bwlimit 100 -nc rc -- apple banana node2 ssd web1 db1",
    ] {
        assert_eq!(format!("{:?}", moved(line)), expect, "{line}");
    }
}

#[test]
fn each_option_of_the_original_has_its_effect() {
    let plain = with("");
    assert!(!plain.dry_run && with("-n").dry_run && with("--dry-run").dry_run);
    assert_eq!(with("-c rc").conduct.common.config, Some("rc".into()));
    assert_eq!(with("--config rc").conduct.common.config, Some("rc".into()));
    assert_eq!(
        with("--bwlimit 100").request.limit,
        Some(Bandwidth::mbit_per_second(100))
    );
    assert!(plain.conduct.common.verify_tls && !with("--no-verify-ssl").conduct.common.verify_tls);
    assert!(!plain.request.forget && with("--forget").request.forget);
    assert!(!plain.request.skip_disks && !plain.request.skip_start);
    let skipped = with("--skip-disks").request;
    assert!(
        skipped.skip_disks && skipped.skip_start,
        "no disks, no start"
    );
    let skipped = with("--skip-start").request;
    assert!(skipped.skip_start && !skipped.skip_disks);
    assert!(with("--wait-before-stop").request.wait_before_stop);
    assert_eq!(
        plain.conduct.common.ssh_ciphers.as_deref(),
        Some("aes128-gcm@openssh.com,aes128-ctr")
    );
    assert_eq!(with("--ssh-ciphers -").conduct.common.ssh_ciphers, None);
    assert_eq!(
        with("--ssh-ciphers a-1,b@c.d")
            .conduct
            .common
            .ssh_ciphers
            .as_deref(),
        Some("a-1,b@c.d")
    );
    assert!(with("--debug").conduct.common.debug);
    assert!(with("--ignore-exists").request.ignore_exists);
    assert!(with("--allow-plain").request.allow_plain);
    assert!(with("--with-snapshots").request.with_snapshots);
    for help in ["-h", "--help", "apple banana node2 ssd web1 --help"] {
        assert_eq!(
            parse(help).expect_err("help").kind(),
            ErrorKind::DisplayHelp,
            "{help}"
        );
    }
    let version = parse("--version").expect_err("version");
    assert_eq!(
        (version.kind(), version.exit_code()),
        (ErrorKind::DisplayVersion, 0)
    );
    assert_eq!(
        version.to_string(),
        format!("proxmove {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn each_new_option_has_its_effect() {
    assert!(with("--yes").conduct.yes);
    assert!(with("--json").conduct.common.json);
    assert_eq!(
        with("--target-vmid 126")
            .request
            .target_vmid
            .map(|vmid| vmid.number()),
        Some(126)
    );
    let bridges = with("--map-bridge vmbr0=vmbr1,vmbr2=vnet0 --map-bridge vmbr3=vmbr4")
        .request
        .bridges;
    let bridges: Vec<_> = bridges
        .iter()
        .map(|(from, to)| format!("{from}={to}"))
        .collect();
    assert_eq!(bridges, ["vmbr0=vmbr1", "vmbr2=vnet0", "vmbr3=vmbr4"]);
    let storages = with("--map-storage scsi0=a,virtio1=b --map-storage scsi2=c")
        .request
        .storages;
    let storages: Vec<_> = storages
        .iter()
        .map(|(drive, storage)| format!("{drive}={storage}"))
        .collect();
    assert_eq!(storages, ["scsi0=a", "scsi2=c", "virtio1=b"]);
    assert_eq!(
        with("--max-downtime 1min30s").request.max_downtime,
        Some(Duration::from_secs(90))
    );
    assert_eq!(
        with("--stop-timeout 5m").request.stop_timeout,
        Duration::from_secs(300)
    );
    assert_eq!(with("").request.stop_timeout, Duration::from_secs(120));
    assert_eq!(with("--route auto").request.route, None);
    assert_eq!(with("--route direct").request.route, Some(Route::Direct));
    assert_eq!(with("--route relay").request.route, Some(Route::Relay));
    assert_eq!(with("--parallel 4").request.parallel, 4);
    assert_eq!(
        with("--wait-for-locks 2h").conduct.wait_for_locks,
        Duration::from_secs(7200)
    );
    assert!(with("--take-over").conduct.take_over && !with("--yes").conduct.take_over);
    assert!(with("--fail-fast").conduct.fail_fast && !with("--yes").conduct.fail_fast);
    assert_eq!(with("--verify full").request.verify, Verify::Full);
    assert_eq!(with("--verify transfer").request.verify, Verify::Transfer);
}

#[test]
fn commands_are_told_from_clusters() {
    let shown = |line: &str| match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")) {
        Request::Move(command) => format!(
            "move {} {}",
            command.request.source,
            command.request.guests.join(" ")
        ),
        Request::Check(command) => format!(
            "check {} {}",
            command.request.source,
            command.request.guests.join(" ")
        ),
        Request::Status(command) => {
            format!("status {:?} {}", command.clusters.len(), command.thorough)
        }
        Request::Resume(command) => format!(
            "resume {} {} {} {:?}",
            command.which.source,
            command.which.target,
            command.which.guests.join(" "),
            command.limit
        ),
        Request::Abort(command) => format!(
            "abort {} {} {} {} {:?}",
            command.which.source,
            command.which.target,
            command.which.guests.join(" "),
            command.start,
            command.patience
        ),
        Request::Verify(command) => format!("verify {}", command.which.guests.join(" ")),
        Request::ConfigShow(common) => format!("config show {:?} {}", common.config, common.json),
        Request::Completions(shell) => format!("completions {shell}"),
        Request::Man => "man".to_owned(),
        Request::Demo(common) => format!("demo {}", common.json),
        Request::Sim(common) => format!("sim {}", common.debug),
        Request::Site(site) => format!("site {site:?}"),
        Request::SimProof { ledger, images } => format!("sim-proof {ledger:?} {images:?}"),
        Request::Porter(arguments) => format!("porter {arguments:?}"),
        Request::Back(back) => {
            let wishes = &back.command.request;
            format!(
                "back {} {:?} {} {}",
                back.cluster,
                back.to.map(|to| to.to_string()),
                wishes.guests.join(" "),
                [back.command.dry_run, wishes.forget, wishes.skip_start]
                    .map(|set| if set { 'y' } else { 'n' })
                    .iter()
                    .collect::<String>()
            )
        }
        Request::Cleanup(cleanup) => {
            let clusters: Vec<&str> = cleanup.clusters.iter().map(|one| one.as_str()).collect();
            format!(
                "cleanup {} {} {}",
                clusters.join(" "),
                cleanup.dry_run,
                cleanup.yes
            )
        }
        Request::Evacuate(command) => format!("evacuate {} {:?}", command.cluster, command.node),
        Request::Restore(command) => format!("restore {} {}", command.cluster, command.node),
        Request::Cordon(command) => format!("close {} {}", command.close, command.node),
    };
    assert_eq!(shown("apple banana node2 ssd check"), "move apple check");
    assert_eq!(shown("sim --debug"), "sim true");
    assert_eq!(shown("status"), "status 0 false");
    assert_eq!(shown("status --thorough apple banana"), "status 2 true");
    assert_eq!(
        shown("resume apple banana web1 db1"),
        "resume apple banana web1 db1 None"
    );
    assert_eq!(
        shown("abort apple banana web1"),
        "abort apple banana web1 true 600s"
    );
    assert_eq!(
        shown("abort --skip-start --patience 5s apple banana web1"),
        "abort apple banana web1 false 5s"
    );
    assert!(parse("resume apple banana").is_err() && parse("abort apple banana a a").is_err());
    assert!(shown("sim --scenario s --cluster apple --directory d").starts_with("site SiteArgs {"));
    assert_eq!(
        shown("sim-proof --ledger l /dev/a b.qcow2"),
        "sim-proof \"l\" [\"/dev/a\", \"b.qcow2\"]"
    );
    assert_eq!(shown("-n apple check node2 ssd man"), "move apple man");
    assert_eq!(shown("move check banana node2 ssd web1"), "move check web1");
    assert_eq!(shown("move move move move move move"), "move move move");
    assert_eq!(shown("-- check banana node2 ssd web1"), "move check web1");
    assert_eq!(
        shown("-c check apple banana node2 ssd web1"),
        "move apple web1"
    );
    assert_eq!(shown("check apple banana node2 ssd"), "check apple ");
    assert_eq!(
        shown("-c rc --route relay check apple banana node2 ssd web1 db1"),
        "check apple web1 db1"
    );
    assert_eq!(shown("config show"), "config show None false");
    assert_eq!(
        shown("config show --json -c rc"),
        "config show Some(\"rc\") true"
    );
    assert_eq!(shown("completions zsh"), "completions zsh");
    assert_eq!(shown("man"), "man");
    assert_eq!(shown("demo --json"), "demo true");
    assert_eq!(
        shown("evacuate apple node1 --selector tag=web"),
        "evacuate apple Some(NodeName(\"node1\"))"
    );
    assert_eq!(shown("evacuate --rolling apple"), "evacuate apple None");
    assert_eq!(shown("restore apple node1"), "restore apple node1");
    assert_eq!(shown("cordon apple node1"), "close true node1");
    assert_eq!(shown("uncordon apple node1"), "close false node1");
    for wrong in [
        "evacuate apple",
        "evacuate --rolling apple node1",
        "evacuate apple node1 -n --yes",
    ] {
        assert_eq!(parse(wrong).expect_err(wrong).exit_code(), 2);
    }
    assert_eq!(shown("--debug sim"), "sim true");
    assert_eq!(
        shown("back banana web1 db1"),
        "back banana None web1 db1 nnn"
    );
    assert_eq!(
        shown("-n back --to apple --forget --skip-start banana web1"),
        "back banana Some(\"apple\") web1 yyy"
    );
    assert_eq!(shown("cleanup"), "cleanup  false false");
    assert_eq!(
        shown("cleanup -n apple banana --yes"),
        "cleanup apple banana true true"
    );
    assert_eq!(
        shown("porter send --help -- -x"),
        "porter [\"send\", \"--help\", \"--\", \"-x\"]"
    );
}

#[test]
fn what_is_refused_and_in_which_words() {
    refused(
        "chekc apple banana node2",
        expect![[r#"
        error: there is no command 'chekc'; did you mean 'check'?

        As a SOURCE, 'chekc' needs DESTINATION, NODEID, STORAGE and VM behind it.

        Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
               proxmove [OPTIONS] COMMAND ...

        For more information, try '--help'.
    "#]],
    );
    refused(
        "-n demoo",
        expect![[r#"
        error: there is no command 'demoo'; did you mean 'demo'?

        As a SOURCE, 'demoo' needs DESTINATION, NODEID, STORAGE and VM behind it.

        Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
               proxmove [OPTIONS] COMMAND ...

        For more information, try '--help'.
    "#]],
    );
    refused(
        "apple banana node2",
        expect![[r#"
        error: the following required arguments were not provided:
          <STORAGE>
          <VM>...

        Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
               proxmove [OPTIONS] COMMAND ...

        For more information, try '--help'.
    "#]],
    );
    refused(
        "--dry-run",
        expect![[r#"
        error: the following required arguments were not provided:
          <SOURCE>
          <DESTINATION>
          <NODEID>
          <STORAGE>
          <VM>...

        Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
               proxmove [OPTIONS] COMMAND ...

        For more information, try '--help'.
    "#]],
    );
    refused(
        "apple banana node2 ssd web1 web2 --target-vmid 126",
        expect![[r#"
            error: --target-vmid is for one VM, and several were named

            Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
                   proxmove [OPTIONS] COMMAND ...

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 web1",
        expect![[r#"
            error: VM 'web1' is named twice

            Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
                   proxmove [OPTIONS] COMMAND ...

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --target-vmid 99",
        expect![[r#"
            error: invalid value '99' for '--target-vmid <VMID>': '99' is not a valid VMID (100 to 999999999)

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node_2 ssd web1",
        expect![[r#"
        error: invalid value 'node_2' for '<NODEID>': 'node_2' is not a valid node name (letters, digits and '-')

        For more information, try '--help'.
    "#]],
    );
    refused(
        "apple banana node2 ssd web1 --bwlimit 0",
        expect![[r#"
        error: invalid value '0' for '--bwlimit <MBPS>': 0 is not in 1..=10000000

        For more information, try '--help'.
    "#]],
    );
    refused(
        "apple banana node2 ssd web1 --map-bridge vmbr0",
        expect![[r#"
            error: invalid value 'vmbr0' for '--map-bridge <A=B>': write two names with '=' between them

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --map-bridge vmbr0=vmbr1,tag=5=6",
        expect![[r#"
            error: invalid value 'tag=5=6' for '--map-bridge <A=B>': write two names with '=' between them

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --map-bridge a=b --map-bridge a=c",
        expect![[r#"
            error: --map-bridge maps 'a' to two different names

            Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
                   proxmove [OPTIONS] COMMAND ...

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --map-storage scsi99=a",
        expect![[r#"
            error: invalid value 'scsi99=a' for '--map-storage <DRIVE=STORAGE>': 'scsi99' is not a valid drive (such as scsi0 or virtio1)

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --max-downtime 30",
        expect![[r#"
            error: invalid value '30' for '--max-downtime <TIME>': write a time with its unit, such as 30s or 2min

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --stop-timeout 0s",
        expect![[r#"
            error: invalid value '0s' for '--stop-timeout <TIME>': a guest needs at least 1s to stop

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --ssh-ciphers a;b",
        expect![[r#"
            error: invalid value 'a;b' for '--ssh-ciphers <CIPHERS>': write ciphers separated by commas, or "-" for ssh defaults

            For more information, try '--help'.
        "#]],
    );
    refused(
        "apple banana node2 ssd web1 --parallel 0",
        expect![[r#"
        error: invalid value '0' for '--parallel <N>': 0 is not in 1..=64

        For more information, try '--help'.
    "#]],
    );
    refused(
        "apple banana node2 ssd web1 --skip-disk",
        expect![[r#"
        error: unexpected argument '--skip-disk' found

          tip: a similar argument exists: '--skip-disks'

        Usage: proxmove [OPTIONS] SOURCE DESTINATION NODEID STORAGE VM...
               proxmove [OPTIONS] COMMAND ...

        For more information, try '--help'.
    "#]],
    );
    refused(
        "completions cmd.exe",
        expect![[r#"
        error: invalid value 'cmd.exe' for '<SHELL>'
          [possible values: bash, elvish, fish, powershell, zsh]

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn the_help_of_each_command() {
    let mut all = String::new();
    for line in [
        "-h",
        "move --help",
        "check --help",
        "config --help",
        "config show --help",
        "completions --help",
        "man --help",
        "demo --help",
        "sim --help",
        "back --help",
        "cleanup --help",
        "status --help",
        "resume --help",
        "abort --help",
        "verify --help",
        "evacuate --help",
        "restore --help",
        "cordon --help",
        "uncordon --help",
    ] {
        let error = parse(line).expect_err("help");
        assert_eq!(error.exit_code(), 0, "{line}");
        all.push_str(&format!("$ proxmove {line}\n{error}\n"));
    }
    expect_file!["help.txt"].assert_eq(&all);
}

#[test]
fn no_arguments_show_the_help_and_are_an_error() {
    let error = parse("").expect_err("help");
    assert_eq!(
        (error.kind(), error.exit_code()),
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, 2)
    );
}

#[test]
fn completions_and_manual_know_the_options_and_hide_the_porter() {
    use clap::ValueEnum;
    for shell in clap_complete::Shell::value_variants() {
        let mut script = Vec::new();
        cli::completions(*shell, &mut script).expect("it can be written");
        let script = String::from_utf8(script).expect("it is text");
        assert!(
            script.contains("wait-before-stop") && script.contains("completions"),
            "{shell}"
        );
        assert!(!script.contains("porter"), "{shell}");
    }
    let mut page = Vec::new();
    cli::manual(&mut page).expect("it can be written");
    let page = String::from_utf8(page).expect("it is text");
    for word in [
        "PROXMOVE",
        r"\-\-bwlimit",
        r"\-\-map\-storage",
        "Exit codes",
        "SOURCE DESTINATION NODEID STORAGE VM",
    ] {
        assert!(page.contains(word), "{word} is not in\n{page}");
    }
    assert!(!page.contains("porter"));
}

#[test]
fn a_closed_pipe_is_an_error_and_no_panic() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(cli::completions(clap_complete::Shell::Bash, &mut Closed).is_err());
    assert!(cli::manual(&mut Closed).is_err());
}

proptest::proptest! {
    /// Whatever is typed, it is understood or refused.
    #[test]
    fn no_arguments_can_break_the_parser(words in proptest::collection::vec(
        "(apple|check|move|config|show|help|man|porter|--|-|-n|-c|-nc|--bwlimit|--map-bridge=a=b|--[a-z-]{0,12}=?|\\PC{0,8})",
        0..10,
    )) {
        let _ = cli::parse(std::iter::once("proxmove".to_owned()).chain(words).map(OsString::from));
    }
}

#[test]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let wrong = OsString::from_vec(vec![0xff, 0xfe]);
    let words = ["proxmove", "apple", "banana", "node2", "ssd"].map(OsString::from);
    let error = cli::parse(words.into_iter().chain([wrong.clone()])).expect_err("it is no text");
    assert_eq!(error.exit_code(), 2);
    // The porter gets its arguments as they are.
    let words = ["proxmove", "porter"]
        .map(OsString::from)
        .into_iter()
        .chain([wrong.clone()]);
    assert!(matches!(cli::parse(words), Ok(Request::Porter(rest)) if rest == [wrong]));
    // A file's name need not be text.
    let file = OsString::from_vec(b"rc\xff".to_vec());
    let words = ["proxmove", "-c"]
        .map(OsString::from)
        .into_iter()
        .chain([file.clone()]);
    let rest = ["apple", "banana", "node2", "ssd", "web1"].map(OsString::from);
    match cli::parse(words.chain(rest)) {
        Ok(Request::Move(command)) => assert_eq!(command.conduct.common.config, Some(file.into())),
        other => panic!("{other:?}"),
    }
}
