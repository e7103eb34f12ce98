//! The guard as a unit of its own: what it may do, and whose life it does not share.

use std::fs;

use super::common::binary::finish;
use super::common::host::process;
use super::common::wait_for;
use super::common::wire::Node;
use super::{Service, hold, on_a_host, signal};

use nix::sys::signal::Signal;

/// Tenths: what `systemd-analyze security` may give at most, of 100.
const MOST_EXPOSED: &str = "20";
const UNIT: &str = "hardened-epmd-guard.service";
/// CAP_NET_ADMIN alone.
const NET_ADMIN: &str = "0000000000001000";

/// The guard's process; none while there is none.
fn found(service: &Service<'_>) -> Option<u32> {
    let is_guard = |pid: &u32| process::arguments(*pid).iter().any(|it| it == "-guard");
    service.services("epmd").into_iter().find(is_guard)
}

fn pid(service: &Service<'_>) -> u32 {
    wait_for("the guard's process", || found(service))
}

fn is_in_step(service: &Service<'_>) -> bool {
    service
        .must("epmd -status")
        .contains("\nguard: in step since ")
}

fn has_table(service: &Service<'_>) -> bool {
    service
        .must("nft list tables")
        .contains("table inet hardened_epmd\n")
}

#[test]
fn it_has_one_capability_runs_nothing_but_nft_and_lives_by_itself() {
    on_a_host(|service| {
        service.write_file(UNIT, &format!("/etc/systemd/system/{UNIT}"));
        service.must("systemctl daemon-reload");
        let verified = format!("systemd-analyze verify --man=no {UNIT} 2>&1");
        assert_eq!(service.must(&verified), "");
        let off = service.must(&format!("systemctl is-enabled {UNIT} || true"));
        assert_eq!(off, "disabled\n");
        service.write(
            "/etc/epmd.toml",
            "[access]\nallow = [\"10.0.3.0/24\"]\n[guard]\nports = [\"9100-9109\"]\n",
        );
        service.must("chgrp epmd /etc/epmd.toml && chmod 640 /etc/epmd.toml");
        // The two commands of docs/guard.md.
        service.systemctl("start");
        service.must(&format!("systemctl enable --now --quiet {UNIT}"));
        wait_for("the guard to be in step", || {
            is_in_step(service).then_some(())
        });
        service.must("epmd -guard -check");
        assert!(
            service
                .must("nft list table inet hardened_epmd")
                .contains("9100-9109")
        );
        rights(service);
        service.must(&format!(
            "systemd-analyze security --no-pager --threshold={MOST_EXPOSED} {UNIT}"
        ));

        // Its life is not the daemon's.
        let (_name, _) = hold(&Node::new("api"));
        let first = pid(service);
        service.systemctl("restart");
        wait_for("the guard to be in step", || {
            is_in_step(service).then_some(())
        });
        service.kill_daemon();
        wait_for("the guard to be in step", || {
            service
                .run(&["epmd", "-status"])
                .stdout
                .contains("\nguard: in step since ")
                .then_some(())
        });
        assert_eq!(pid(service), first);
        service.write("/etc/epmd.toml", "[guard]\nports = [\"9200\"]\n");
        service.must("chgrp epmd /etc/epmd.toml && chmod 640 /etc/epmd.toml");
        service.must(&format!("systemctl reload {UNIT}"));
        wait_for("the file to be read again", || {
            let rules = service.must("nft list table inet hardened_epmd");
            (rules.contains("elements = { 9200 }") && !rules.contains("9100-9109")).then_some(())
        });

        // A crash leaves the table, the next one goes on from it; a stop takes it away.
        signal(first, Signal::SIGKILL);
        wait_for("its end", || process::is_over(first).then_some(()));
        assert!(has_table(service));
        wait_for("the next one", || {
            let next = found(service)?;
            (next != first && is_in_step(service)).then_some(())
        });
        service.must(&format!("systemctl disable --now --quiet {UNIT}"));
        assert!(!has_table(service));
    });
}

/// What the kernel says of the process, and what can be run where it is.
fn rights(service: &Service<'_>) {
    let pid = pid(service);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    let user = service.must("id -u epmd");
    assert_eq!(field("Uid"), [user.trim(); 4].join("\t"));
    for (name, value) in [
        ("CapInh", NET_ADMIN),
        ("CapPrm", NET_ADMIN),
        ("CapEff", NET_ADMIN),
        ("CapBnd", NET_ADMIN),
        ("CapAmb", NET_ADMIN),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        finish(
            command
                .args(["--mount", "--target", &pid.to_string(), "--"])
                .args(words),
        )
    };
    let nft = run(&["/usr/sbin/nft", "--version"]);
    assert_eq!(nft.status, Some(0), "{nft:?}");
    for program in [
        "/bin/sh",
        "/usr/bin/env",
        "/usr/bin/perl",
        "/usr/sbin/ip",
        "/bin/kill",
    ] {
        let other = run(&[program]);
        assert_ne!(other.status, Some(0), "{program}");
        assert!(
            other.stderr.contains("Permission denied"),
            "{program}: {other:?}"
        );
    }
}
