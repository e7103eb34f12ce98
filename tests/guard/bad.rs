//! What is missing, or makes no sense: a message that says what to do, and no rules half in force.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use super::common::binary::{Epmd, Output};
use super::common::netns::{Host, network};
use super::common::service::{Launch, Service};
use super::{Met, Stand, TABLE, epmd, file, nft, rules, unasked, until_met};

/// Runs the guard to its end, with this PATH.
fn end_of(host: &Host, path: &str) -> Output {
    let mut command = Epmd::Ours.command();
    command
        .env("EPMD_CONFIG", host.file("epmd.toml"))
        .env("PATH", path);
    host.run(command.arg("-guard"))
}

/// A folder with an `nft` that is this script, before the real ones.
fn with_nft(host: &Host, script: &str) -> String {
    let folder: PathBuf = host.file("bin");
    fs::create_dir_all(&folder).unwrap();
    let nft = folder.join("nft");
    fs::write(&nft, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display())
}

#[test]
fn without_nft_it_says_what_to_install() {
    let [api] = network(["api"]);
    let _service = Service::start(&api, &file("allow = []"));
    // It is looked for in /usr/sbin as well: there, something else hides it.
    api.enter(|| {
        for place in ["/usr/sbin", "/sbin"] {
            let real = fs::canonicalize(place).unwrap();
            let nothing = None::<&str>;
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(nothing, &real, Some("tmpfs"), flags, nothing).unwrap();
        }
    });
    let output = end_of(&api, "/nowhere");
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("install it (package nftables)"),
        "{output:?}"
    );
}

#[test]
fn without_the_capability_it_says_which() {
    let [api] = network(["api"]);
    let _service = Service::start(&api, &file("allow = []"));
    let mut command = Epmd::Ours.wrapped(&[
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ]);
    let output = api.run(command.arg("-guard"));
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("it takes CAP_NET_ADMIN"),
        "{output:?}"
    );
    assert_eq!(nft(&api, "list ruleset").stdout, "");
}

#[test]
fn a_table_of_somebody_elses_is_left_as_it_is() {
    let [api] = network(["api"]);
    let _service = Service::start(&api, &file("allow = []"));
    api.nft(&format!(
        "table {TABLE} {{\n chain c {{\n type filter hook input priority 0;\n tcp dport 7 drop\n }}\n}}\n"
    ));
    let before = rules(&api);
    let output = end_of(&api, "/usr/sbin:/usr/bin");
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("the guard has not made"),
        "{output:?}"
    );
    assert_eq!(rules(&api), before);
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(1), "{check:?}");
    // The remedy of the message.
    let remedy = format!("delete table {TABLE}");
    assert!(
        output.stderr.contains(&format!("nft {remedy}")),
        "{output:?}"
    );
    assert_eq!(nft(&api, &remedy).status, Some(0));
    let guard = unasked(&api, &file("allow = []"));
    guard.wait_until_said("in step with the daemon");
}

#[test]
fn a_kernel_that_can_not_hold_the_rules_gets_none_of_them() {
    let [api] = network(["api"]);
    let _service = Service::start(&api, &file("allow = []"));
    let path = with_nft(
        &api,
        "case \"$*\" in\n\
         '-f -') cat >/dev/null; echo '/dev/stdin:3:6-11: Error: Could not process rule: Operation not supported' >&2; exit 1;;\n\
         *) exec /usr/sbin/nft \"$@\";;\nesac",
    );
    let output = end_of(&api, &path);
    assert_eq!(output.status, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("this kernel can't hold these rules"),
        "{output:?}"
    );
    assert_eq!(nft(&api, "list ruleset").stdout, "");
}

#[test]
fn an_nft_that_fails_later_is_said_once_and_tried_again() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    let service = Service::start(&api, &config);
    let broken = api.file("broken");
    let path = with_nft(
        &api,
        &format!(
            "if [ \"$*\" = '-f -' ] && [ -e {0} ]; then cat >/dev/null; echo 'Error: No buffer space available' >&2; exit 1; fi\n\
             exec /usr/sbin/nft \"$@\"",
            broken.display()
        ),
    );
    let guard = Launch::on(&api)
        .config(&config)
        .variable("PATH", &path)
        .arguments(&["-guard"])
        .start_unasked();
    guard.wait_until_said("in step with the daemon");
    fs::write(&broken, "").unwrap();
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    guard.wait_until_said("the rules are not what they should be: nft says ");
    assert!(
        guard.said().contains("net.core.wmem_max"),
        "{}",
        guard.said()
    );
    assert!(
        rules(&api).contains("hook input"),
        "what was in force stays"
    );
    let status = super::status(&api);
    assert!(status["guard"]["in_step_since"].is_null(), "{status}");
    fs::remove_file(&broken).unwrap();
    until_met(&stranger, node.at(api.v4()), Met::Reset);
    assert_eq!(
        guard
            .said()
            .matches("the rules are not what they should be")
            .count(),
        1
    );
}

#[test]
fn a_daemon_of_another_version_or_none_leaves_the_rules_as_they_are() {
    const STATE: &str = "{\"state\":{\"version\":\"9\",\"registrations\":[],\"access\":{\"allow\":[],\"deny\":[],\"nodes\":{},\"enforce\":true}}}\n";
    let [api] = network(["api"]);
    let config = file("allow = []");
    fs::write(api.file("epmd.toml"), &config).unwrap();
    for command in ["-check", "-print"] {
        let output = epmd(&api, &["-guard", command]);
        assert_eq!(
            (output.status, &*output.stdout),
            (Some(1), ""),
            "{output:?}"
        );
        assert!(
            output.stderr.contains("/run/epmd/control.sock"),
            "{output:?}"
        );
    }
    // Answers each of those who ask with the next of these, then closes.
    let listener = api.enter(|| {
        fs::create_dir("/run/epmd").unwrap();
        fs::set_permissions("/run/epmd", fs::Permissions::from_mode(0o755)).unwrap();
        UnixListener::bind("/run/epmd/control.sock").unwrap()
    });
    let guard = unasked(&api, &config);
    let answer = |text: &str| {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 7]).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client
    };
    answer("");
    guard.wait_until_said("it is of a version that can't be followed");
    assert!(
        guard.said().contains("nothing is guarded by this guard"),
        "{}",
        guard.said()
    );
    assert_eq!(nft(&api, "list ruleset").stdout, "");
    let first = answer(STATE);
    guard.wait_until_said("in step with the daemon");
    let before = rules(&api);
    drop(first);
    drop(answer(&STATE[..40]));
    drop(answer("{\"banned\":{}}\n"));
    drop(answer(&format!("{STATE}{{\"released\":")));
    assert_eq!(rules(&api), before);
    drop(listener);
    let output = api.run(Command::new("sh").args(["-c", "rm /run/epmd/control.sock"]));
    assert_eq!(output.status, Some(0));
    let _service = Service::start(&api, &config);
    guard.wait_until_said("the daemon answers again");
}
