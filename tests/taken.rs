//! A port that is taken, and an epmd that is to be found all the same: what `epmd -daemon` and the
//! client's commands say where addresses are dropped, held by others, or not there, and whom a message
//! names that says who has the port.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::binary::{Epmd, Output, finish};
use common::host::Detached;
use common::netns::{EPMD, Host, lone_host, network, v4};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::Node;
use socket2::{Domain, Socket, Type};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// A user with no rights of its own.
const NOBODY: &str = "65534";

fn silence(status: i32) -> Output {
    Output::new(status, "", "")
}

/// Our epmd with these arguments, on `host`.
fn epmd(host: &Host, arguments: &[&str]) -> Output {
    host.run(Epmd::Ours.command().args(arguments))
}

/// A table of nft whose input chain does this with what comes to these loopback addresses.
fn firewall(verdict: &str, addresses: &[IpAddr]) -> String {
    let rules = addresses.iter().map(|address| match address {
        IpAddr::V4(ip) => format!("ip daddr {ip} tcp dport {EPMD} {verdict}\n"),
        IpAddr::V6(ip) => format!("ip6 daddr {ip} tcp dport {EPMD} {verdict}\n"),
    });
    let rules: String = rules.collect();
    format!("table inet t {{\nchain c {{\ntype filter hook input priority 0;\n{rules}}}\n}}\n")
}

/// Whatever becomes of one loopback address, the epmd answers at the other.
#[test]
fn an_epmd_that_answers_at_one_loopback_address_is_found() {
    for verdict in ["drop", "reject with tcp reset", "reject"] {
        for lost in [V4, V6] {
            let host = lone_host();
            let service = Service::start(&host, "");
            let _name = service.hold("api");
            host.nft(&firewall(verdict, &[lost]));
            let what = format!("{verdict} at {lost}");
            let begin = Instant::now();
            assert_eq!(epmd(&host, &["-daemon"]), silence(0), "{what}");
            assert_eq!(epmd(&host, &["-started"]), silence(0), "{what}");
            for command in ["-names", "-dump"] {
                let output = epmd(&host, &[command]);
                let is_there = output.stdout.contains("api");
                assert!(output.status == Some(0) && is_there, "{what}: {output:?}");
            }
            let kill = epmd(&host, &["-kill"]);
            assert!(kill.stdout.starts_with("Killing not allowed"), "{what}");
            assert!(begin.elapsed() < Duration::from_secs(5), "{what}");
        }
    }
}

/// Somebody who listens at one of the two and is no epmd hides the other no more.
#[test]
fn whoever_holds_one_loopback_address_hides_no_epmd_at_the_other() {
    for stranger in [V6, V4] {
        let host = lone_host();
        let other = if stranger == V4 { V6 } else { V4 };
        let _silent = host.hold_port(stranger);
        // Held by a socket unit of one family.
        let mut child = activated(&host, host.hold_port(other));
        wait_for("the epmd to answer", || {
            (epmd(&host, &["-started"]) == silence(0)).then_some(())
        });
        let output = epmd(&host, &["-names"]);
        assert_eq!(output.status, Some(0), "{stranger}: {output:?}");
        assert_eq!(epmd(&host, &["-daemon"]), silence(0), "{stranger}");
        child.0.kill().unwrap();
    }
}

/// A child that is ended with the value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Our epmd with this socket from a socket unit.
fn activated(host: &Host, socket: TcpListener) -> Ended {
    const ACTIVATE: &str = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"";
    let mut command = Epmd::Ours.wrapped(&["sh", "-c", ACTIVATE, "sh"]);
    command
        .arg("-systemd")
        .stdin(OwnedFd::from(socket))
        .stderr(Stdio::null());
    Ended(host.spawn(&mut command))
}

/// Nothing of an epmd is to be stopped because a firewall hides it.
#[test]
fn an_epmd_that_a_firewall_hides_is_named_as_what_it_is() {
    let host = lone_host();
    let service = Service::start(&host, "");
    host.nft(&firewall("drop", &[V4, V6]));
    let output = epmd(&host, &["-daemon"]);
    assert_eq!((output.status, &*output.stdout), (Some(1), ""));
    let words = format!(
        "epmd (pid {}) has that port, but as an epmd it does not answer: no answer came in time; see whether a \
         firewall drops",
        service.pid()
    );
    assert!(output.stderr.contains(&words), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}

/// Each `erl -sname` runs `epmd -daemon`: where one runs, nothing else counts, and nothing is said.
#[test]
fn daemon_is_silent_where_an_epmd_runs_whatever_the_settings_are() {
    let [host, other] = network(["host", "other"]);
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    // Another host's address, which is in the plan: nobody may be asked there.
    let theirs = other.hold_port(v4(2));
    theirs.set_nonblocking(true).unwrap();
    let copy = host.file("epmd");
    fs::copy(Epmd::Ours.path(), &copy).unwrap();
    fs::set_permissions(host.file(""), fs::Permissions::from_mode(0o711)).unwrap();
    let (good, broken) = (host.file("good.toml"), host.file("broken.toml"));
    for (file, text) in [(&good, ""), (&broken, "listen = [\nnonsense")] {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let absent = host.file("absent.toml");
    for user in ["0", NOBODY] {
        for config in [&good, &broken, &absent] {
            for list in [
                "",
                "10.77.0.2",
                "10.77.0.9",
                "fd77::9,10.77.0.2",
                "127.0.0.1",
            ] {
                let ids = [format!("--reuid={user}"), format!("--regid={user}")];
                let mut command = Command::new("setpriv");
                command.args(ids).arg("--clear-groups").arg(&copy);
                command
                    .arg("-daemon")
                    .env_clear()
                    .env("EPMD_CONFIG", config);
                if !list.is_empty() {
                    command.args(["-address", list]);
                }
                let what = format!("user {user}, {}, told {list:?}", config.display());
                assert_eq!(host.run(&mut command), silence(0), "{what}");
            }
        }
    }
    let asked = theirs.accept().map(drop).unwrap_err();
    assert_eq!(
        asked.kind(),
        ErrorKind::WouldBlock,
        "another host was asked"
    );
    service.assert_alive();
}

/// Another host's epmd is not this host's, even if its address is in the plan.
#[test]
fn another_hosts_epmd_is_not_taken_for_this_hosts() {
    let [host, other] = network(["host", "other"]);
    let theirs = Service::start(&other, "[access]\nallow = [\"*\"]\n");
    let _stranger = closing(&host, V4);
    for list in ["10.77.0.2", "10.77.0.2,10.77.0.1", "10.77.0.1,10.77.0.2"] {
        let output = epmd(&host, &["-daemon", "-address", list]);
        assert_eq!(output.status, Some(1), "{list}: {output:?}");
        let words = "epmd: can't listen on 127.0.0.1:4369: another program has that port";
        assert!(output.stderr.starts_with(words), "{list}: {output:?}");
    }
    theirs.assert_alive();
}

/// Holds a port, and closes whatever comes.
fn closing(host: &Host, address: IpAddr) -> TcpListener {
    let listener = host.hold_port(address);
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for mut peer in accepting.incoming().flatten() {
            let _ = peer.read(&mut [0; 64]);
        }
    });
    listener
}

/// The message names who it is, and its command shows it.
#[test]
fn who_holds_the_port_is_named() {
    let host = lone_host();
    let _stranger = closing(&host, V4);
    let output = epmd(&host, &[]);
    let pid = format!("(pid {}) listens on 127.0.0.1:4369", std::process::id());
    assert!(output.stderr.contains(&pid), "{output:?}");
    assert_shown(&host, &output, "LISTEN");
}

/// A unit of `Type=simple` beside its own socket unit, whose command lacks `-systemd`.
#[test]
fn a_socket_that_systemd_passes_to_this_very_process_is_told_as_that() {
    let host = lone_host();
    let output = Launch::on(&host).inheriting(host.hold_port(V4)).run();
    assert_eq!(output.status, Some(1), "{output:?}");
    let words = "systemd has passed the socket that listens on 127.0.0.1:4369 to this very process: start epmd with \
                 -systemd";
    assert!(output.stderr.contains(words), "{output:?}");
    // What it says to do helps.
    let service = Launch::on(&host).activated(host.hold_port(V4)).start();
    service.assert_alive();
}

/// Fails unless the command in the message shows a socket in this state.
fn assert_shown(host: &Host, output: &Output, state: &str) {
    assert_eq!(output.status, Some(1), "{output:?}");
    let command = output.stderr.split('`').nth(1).unwrap();
    assert!(command.starts_with("ss "), "{output:?}");
    let shown = host.run(Command::new("sh").args(["-c", command]));
    assert!(shown.stdout.contains(state), "{command}: {shown:?}");
}

#[test]
fn a_connection_that_has_the_port_as_its_source_is_named_as_that() {
    let host = lone_host();
    let peer = host.enter(|| TcpListener::bind((V4, 0))).unwrap();
    let to = peer.local_addr().unwrap();
    let connection = host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(V4, EPMD).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket
    });
    for mode in [&[][..], &["-daemon"]] {
        let output = epmd(&host, mode);
        for words in [
            "nobody listens there, but a connection of ".to_owned(),
            format!("(pid {})", std::process::id()),
            format!("127.0.0.1:{EPMD} to {to}"),
        ] {
            assert!(output.stderr.contains(&words), "{words}: {output:?}");
        }
        assert_shown(&host, &output, "ESTAB");
    }
    // What is said to help against it does.
    let output = epmd(&host, &[]);
    let remedy = output.stderr.split('`').nth(3).unwrap();
    let set = host.run(Command::new("sh").args(["-c", remedy]));
    assert_eq!(set.status, Some(0), "{remedy}: {set:?}");
    // It is over, but not for the kernel.
    drop(connection);
    drop(peer.accept());
    let output = epmd(&host, &[]);
    assert!(output.stderr.contains("is hardly over"), "{output:?}");
    assert_shown(&host, &output, "TIME-WAIT");
}

#[test]
fn a_port_that_is_bound_and_not_listened_on_is_told_as_that() {
    let host = lone_host();
    let _bound = host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(V4, EPMD).into()).unwrap();
        socket
    });
    for mode in [&[][..], &["-daemon"]] {
        let output = epmd(&host, mode);
        assert_eq!(output.status, Some(1), "{output:?}");
        let words = "has bound 127.0.0.1:4369 and does not listen there";
        assert!(output.stderr.contains(words), "{output:?}");
    }
}

/// The patience is for the epmd, not for whoever reads what is printed.
#[test]
fn a_slow_reader_of_the_list_gets_all_of_it() {
    const NAMES: usize = 600;
    let host = lone_host();
    let service = Service::start(&host, "");
    let name = |number: usize| format!("{number:0>250}");
    let _holders: Vec<_> = (0..NAMES)
        .map(|number| service.register(&Node::new(name(number))).held().0)
        .collect();
    let mut command = Epmd::Ours.command();
    let mut child = Ended(host.spawn(command.arg("-names").stdout(Stdio::piped())));
    let mut stdout = child.0.stdout.take().unwrap();
    // Longer than a command waits for the epmd: a pager that shows its first page.
    std::thread::sleep(Duration::from_secs(6));
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), NAMES + 1);
    assert!(child.0.wait().unwrap().success());
}

/// The same in scripts as with stock: the one that was ended does not keep the next one away.
#[test]
fn kill_and_daemon_leave_an_epmd_every_time() {
    let detached = Detached::on_free_port();
    let port = detached.port.to_string();
    let run = |argument: &str| {
        finish(Epmd::Ours.command().args(["-port", &port, argument])).wherever_it_logs()
    };
    assert_eq!(run("-daemon"), silence(0));
    for round in 0..60 {
        assert_eq!(run("-kill"), Output::new(0, "Killed\n", ""), "{round}");
        assert_eq!(run("-daemon"), silence(0), "{round}");
        assert_eq!(run("-started"), silence(0), "{round}: there is no epmd");
    }
    assert_eq!(run("-kill").status, Some(0));
    wait_for("the epmd to end", || {
        detached.find().is_none().then_some(())
    });
}

/// Nothing that a client does needs an option of a socket.
#[test]
fn a_client_needs_no_option_of_a_socket() {
    let host = lone_host();
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    for inject in [
        "inject=setsockopt:error=EPERM",
        "inject=socket:error=EPERM:when=1",
        "inject=socket:error=EAFNOSUPPORT:when=1",
    ] {
        for (argument, status) in [("-names", 0), ("-started", 0), ("-daemon", 0), ("-kill", 1)] {
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject];
            let output = host.run(Epmd::Ours.wrapped(&wrapper).arg(argument));
            assert_eq!(
                output.status,
                Some(status),
                "{inject}: {argument}: {output:?}"
            );
            assert_eq!(output.stderr, "", "{inject}: {argument}");
        }
    }
}
