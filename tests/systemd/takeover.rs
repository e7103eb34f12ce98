//! The place of another epmd, taken by the unit at its start: no registration and no lookup is lost.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockFilter, Socket, Type};

use super::common::wait_for;
use super::common::wire::Answer;
use super::load::{Nodes, Tally, under_load};
use super::{PORT, Service, local, lookup, on_a_stock_host, unknown};

/// What an operator types, once ours is installed (README, docs/operating.md).
pub(super) const COMMAND: &str = "systemctl enable --quiet --now hardened-epmd";

/// Fails unless each lookup was answered.
fn assert_no_loss(tally: &Tally) {
    let lost = (tally.cut, tally.refused, tally.missed);
    assert_eq!(lost, (0, 0, 0), "{tally:?}");
}

/// The processes of the host that are epmds.
fn epmds(service: &Service<'_>) -> BTreeSet<u32> {
    let inside = service.must("pgrep -x epmd || :");
    inside.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// A peer that is so far away that its connection is still being made.
struct Far(Socket);

impl Far {
    fn begin(ip: IpAddr) -> Self {
        let address = SocketAddr::new(ip, PORT);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        // BPF_RET: nothing of any packet, and so no answer of the kernel's at the other end.
        let deaf = [SockFilter::new(6, 0, 0, 0)];
        socket.attach_filter(&deaf).expect("a filter");
        socket.set_nonblocking(true).expect("non-blocking");
        socket.connect(&address.into()).expect_err("no answer");
        Self(socket)
    }

    /// The answer comes again, and comes through.
    fn come_through(self) -> TcpStream {
        self.0.detach_filter().expect("no filter");
        wait_for("a connection", || self.0.peer_addr().ok());
        self.0.set_nonblocking(false).expect("blocking");
        self.0.into()
    }
}

/// Starts the epmd that is installed.
fn start_by_hand(service: &Service<'_>) {
    service.must("epmd -daemon");
    wait_for("it to listen", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok()
    });
}

/// Installs ours over a stock epmd that runs and starts it, while names are looked up.
fn take_over(service: &Service<'_>, nodes: &Nodes) {
    service.install_ours();
    let stock = epmds(service);
    let tally = under_load(nodes, || {
        service.must(COMMAND);
    });
    assert_no_loss(&tally);
    assert_eq!(nodes.lost(), 0);
    assert!(nodes.are_all());
    let ours = epmds(service);
    assert!(
        ours.len() == 1 && ours.is_disjoint(&stock),
        "{stock:?} {ours:?}"
    );
    assert_eq!(service.property("ActiveState"), "active");
    assert!(
        service
            .messages()
            .contains(&format!("took back {} registrations", nodes.len()))
    );
}

/// Fails unless a stranger is refused, and called by its own address, whatever socket it came by.
fn peers_are_known(service: &Service<'_>) {
    let neighbour = service.neighbour(1);
    for (host, own) in [
        (neighbour.host(), neighbour.own()),
        (neighbour.host_v6(), neighbour.own_v6()),
    ] {
        let answer = lookup(neighbour.connect(&host, PORT), "none");
        assert_eq!(answer, Answer::Nothing);
        wait_for("the refusal", || {
            let lines = service.must(&format!(
                "journalctl --no-pager -o cat -u hardened-epmd EPMD_REASON=not_allowed EPMD_PEER={own}"
            ));
            (lines.lines().count() == 1).then_some(())
        });
    }
}

/// Fails unless restarts and kills lose nothing, and what is listened on is what the settings say then.
fn lasts(service: &Service<'_>, nodes: &Nodes) {
    let far = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(Far::begin);
    let tally = under_load(nodes, || service.systemctl("restart"));
    assert_no_loss(&tally);
    assert_eq!(nodes.lost(), 0);
    for peer in far {
        assert_eq!(lookup(peer.come_through(), "none"), unknown());
    }
    let expected = BTreeSet::from(["0.0.0.0:4369", "[::]:4369"]);
    wait_for("other sockets to be closed", || {
        let listening = service.must("ss -Hltn 'sport = :4369'");
        let addresses = listening
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        (addresses.collect::<BTreeSet<_>>() == expected).then_some(())
    });
    let before = service.kill_daemon();
    service.daemon_after(before);
    assert_eq!(nodes.lost(), 0);
}

#[test]
fn from_debians_socket_unit() {
    on_a_stock_host(|service| {
        service.must("systemctl start epmd.socket");
        assert_eq!(lookup(local(), "none"), unknown());
        let nodes = Nodes::of_all_kinds(500);
        take_over(service, &nodes);
        peers_are_known(service);
        lasts(service, &nodes);
        // Stock, which was ended in it, has not left the shim failed.
        assert_eq!(
            service.must("systemctl is-failed epmd.service || :"),
            "active\n"
        );
    });
}

#[test]
fn from_a_stock_epmd_that_was_started_by_hand() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let nodes = Nodes::of_all_kinds(500);
        take_over(service, &nodes);
        peers_are_known(service);
        lasts(service, &nodes);
    });
}

/// As each `erl -sname` does it where no epmd runs.
#[test]
fn from_a_stock_epmd_that_a_node_has_started() {
    on_a_stock_host(|service| {
        service.must(
            "HOME=/root setsid erl -sname first -noshell -eval 'receive after infinity -> ok end.' \
             </dev/null >/dev/null 2>&1 &",
        );
        let names = || service.run(&["epmd", "-names"]).stdout;
        let before = wait_for("the node to register", || {
            Some(names()).filter(|names| names.contains("name first at port "))
        });
        let stock = epmds(service);
        service.install_ours();
        for command in [COMMAND, "systemctl restart hardened-epmd"] {
            service.must(command);
            assert_eq!(names(), before, "{command}");
            assert!(epmds(service).is_disjoint(&stock));
        }
        service.must("pkill -x beam.smp");
        wait_for("the node to be gone", || {
            (!names().contains("first")).then_some(())
        });
    });
}

/// What keeps the daemon from its start keeps the takeover from its own, or has it do nothing.
#[test]
fn whatever_is_wrong_with_the_unit_or_the_settings_the_old_one_goes_on() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let stock = epmds(service);
        let nodes = Nodes::of_all_kinds(20);
        service.install_ours();
        let variable = "/etc/default/epmd";
        let file = "/etc/epmd.toml";
        for (wrong, mended) in [
            (
                "chmod 644 /usr/bin/epmd".to_owned(),
                "chmod 755 /usr/bin/epmd".to_owned(),
            ),
            (
                format!("echo EPMD_ALLOW=300.1.2.3 >{variable}"),
                format!("rm {variable}"),
            ),
            (format!("echo 'listn = []' >{file}"), format!("rm {file}")),
            (format!("mkdir {file}"), format!("rmdir {file}")),
        ] {
            service.must(&wrong);
            assert_ne!(
                service.run(&["sh", "-c", COMMAND]).status,
                Some(0),
                "{wrong}"
            );
            service.systemctl("stop");
            service.must(&mended);
            assert_eq!(epmds(service), stock, "{wrong}");
            assert_eq!(nodes.lost(), 0, "{wrong}");
        }
        for wrong in ["User=nosuchuser", "ExecStart=", "NotifyAccess=main"] {
            service.drop_in(&format!("[Service]\n{wrong}\n"));
            assert_ne!(
                service.run(&["sh", "-c", COMMAND]).status,
                Some(0),
                "{wrong}"
            );
            service.run(&["systemctl", "stop", "hardened-epmd"]);
            assert_eq!(epmds(service), stock, "{wrong}");
            assert_eq!(nodes.lost(), 0, "{wrong}");
        }
        service.drop_in("");
        service.must(COMMAND);
        assert!(epmds(service).is_disjoint(&stock));
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
    });
}

#[test]
fn from_ours_that_was_started_by_hand() {
    on_a_stock_host(|service| {
        service.install_ours();
        start_by_hand(service);
        let nodes = Nodes::of_all_kinds(500);
        take_over(service, &nodes);
        lasts(service, &nodes);
    });
}

/// Where it can't be, the start fails no more often than once a second, and stock goes on.
#[test]
fn a_takeover_that_fails_is_tried_once_a_second_and_says_why() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let nodes = Nodes::register("node", 3);
        service.install_ours();
        // A unit of the user's own, whose store is too small.
        service.drop_in("[Service]\nFileDescriptorStoreMax=1\n");
        assert_ne!(service.run(&["sh", "-c", COMMAND]).status, Some(0));
        let tries = || service.messages().matches("systemd has not kept").count();
        wait_for("three tries", || (tries() >= 3).then_some(()));
        let begin = Instant::now();
        let before = tries();
        wait_for("three more", || (tries() >= before + 3).then_some(()));
        assert!(begin.elapsed() >= Duration::from_secs(2));
        assert_eq!(nodes.lost(), 0);
        assert!(service.messages().contains("FileDescriptorStoreMax="));
        // What the message says.
        service.drop_in("");
        wait_for("the takeover", || {
            (service.property("ActiveState") == "active").then_some(())
        });
        assert_eq!(nodes.lost(), 0);
    });
}

/// Has a takeover killed, each time that it is tried, when it comes to a system call.
fn killed_at(service: &Service<'_>, call: &str, when: u32) {
    service.drop_in(&format!(
        "[Service]\nNotifyAccess=all\nExecStartPre=\n\
         ExecStartPre=+/usr/bin/strace -o /dev/null -e inject={call}:signal=SIGKILL:when={when} \
         /usr/bin/epmd -takeover -systemd\n"
    ));
    service.must("systemctl start --no-block hardened-epmd");
}

/// Killed at any instant: the old one goes on, or the new one has everything.
#[test]
fn a_takeover_that_is_killed_under_its_unit_loses_nothing() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let stock = epmds(service);
        let nodes = Nodes::register("node", 20);
        service.install_ours();
        let holding = [("ptrace", 1), ("wait4", 1), ("pidfd_getfd", 4)];
        let filling = [1, 2, 3, 5, 20, 25, 26].map(|when| ("sendmsg", when));
        for (call, when) in holding.into_iter().chain(filling).chain([("kill", 1)]) {
            killed_at(service, call, when);
            wait_for("two tries", || {
                let tries: u32 = service.property("NRestarts").parse().expect("a number");
                (tries >= 2).then_some(())
            });
            assert_eq!(
                epmds(service).intersection(&stock).count(),
                1,
                "{call} {when}"
            );
            assert_eq!(nodes.lost(), 0, "{call} {when}");
            if call != "kill" {
                service.systemctl("stop");
            }
        }
        // What the last one has left in the store is known for what it is.
        service.drop_in("");
        wait_for("the takeover", || {
            (service.property("ActiveState") == "active").then_some(())
        });
        assert!(epmds(service).is_disjoint(&stock));
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
    });
}

#[test]
fn a_takeover_that_is_killed_at_its_very_end_has_done_everything() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let stock = epmds(service);
        let nodes = Nodes::register("node", 20);
        service.install_ours();
        killed_at(service, "exit_group", 1);
        // Where the port is process 1's alone it ends as well, and is killed: until it is let.
        wait_for("stock's end", || {
            epmds(service).is_disjoint(&stock).then_some(())
        });
        service.drop_in("");
        wait_for("the start", || {
            (service.property("ActiveState") == "active").then_some(())
        });
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
    });
}

/// A host whose owner keeps Debian's units beside ours: process 1 holds the port as well.
#[test]
fn from_debians_socket_unit_that_is_not_masked() {
    on_a_stock_host(|service| {
        service.must("systemctl start epmd.socket");
        assert_eq!(lookup(local(), "none"), unknown());
        let nodes = Nodes::register("node", 100);
        service.write_file(
            "hardened-epmd.service",
            "/etc/systemd/system/hardened-epmd.service",
        );
        service.install(&super::program(), "/usr/bin/epmd");
        service.must("systemctl daemon-reload");
        let tally = under_load(&nodes, || {
            service.must(COMMAND);
        });
        assert_no_loss(&tally);
        assert_eq!(nodes.lost(), 0);
        assert_eq!(
            service.must("systemctl is-active epmd.socket || :"),
            "inactive\n"
        );
        lasts(service, &nodes);
    });
}

/// A unit of the user's own, without the line: its message says it.
#[test]
fn a_unit_that_takes_nothing_over_says_the_line_that_would() {
    on_a_stock_host(|service| {
        start_by_hand(service);
        let nodes = Nodes::register("node", 3);
        service.install_ours();
        service.drop_in("[Service]\nExecStartPre=\n");
        assert_ne!(service.run(&["sh", "-c", COMMAND]).status, Some(0));
        let begin = "no node notices: ";
        let line = wait_for("the remedy", || {
            let messages = service.messages();
            let (_, line) = messages.split_once(begin)?;
            Some(line.lines().next()?.to_owned())
        });
        assert!(line.starts_with("ExecStartPre=+/usr/bin/epmd "), "{line}");
        service.drop_in(&format!("[Service]\nExecStartPre=\n{line}\n"));
        wait_for("the takeover", || {
            (service.property("ActiveState") == "active").then_some(())
        });
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
    });
}

/// Process 1 splits others off all the time, and until they run their programs, or end, they have all of its
/// descriptors, the port's among them.
#[test]
fn what_process_1_splits_off_is_nobody_whose_place_is_to_be_taken() {
    on_a_stock_host(|service| {
        service.install_ours();
        service.must(COMMAND);
        let nodes = Nodes::of_all_kinds(300);
        let begin =
            "setsid sh -c 'while :; do systemd-run --quiet --collect true; done' >/dev/null 2>&1 &";
        for _ in 0..2 {
            service.must(begin);
        }
        for _ in 0..20 {
            service.systemctl("restart");
        }
        assert_eq!(nodes.lost(), 0);
    });
}
