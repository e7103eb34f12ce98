//! Where epmd listens, on hosts that lack what others have: what the kernel says of its sockets, and
//! what peers find at an address.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::thread::JoinHandle;

use common::binary::Output;
use common::crowd;
use common::host::process;
use common::netns::{EPMD, Host, lone_host, network, v4, v6};
use common::service::{Launch, Service, found, listed};
use common::wire::{Answer, ask, frame};
use nix::unistd::setfsuid;
use socket2::{Domain, SockRef, Socket, Type};

const EVERYONE: &str = "[access]\nallow = [\"*\"]\n";

/// Addresses, parted by spaces.
fn addresses(list: &str) -> BTreeSet<IpAddr> {
    let all = list.split_whitespace();
    all.map(|address| address.parse().unwrap()).collect()
}

fn listeners(service: &Service<'_>) -> BTreeSet<IpAddr> {
    service.listeners().into_iter().collect()
}

/// Our epmd, told these addresses; none is no option at all.
fn told<'h>(host: &'h Host, list: &str) -> Launch<'h> {
    let launch = Launch::on(host).config(EVERYONE);
    if list.is_empty() {
        launch
    } else {
        launch.arguments(&["-address", list])
    }
}

/// Fails the test unless our epmd, told `list`, starts on `host`, listens on `expected`, and answers
/// there.
fn assert_listens(host: &Host, list: &str, expected: &str) {
    let service = told(host, list).start();
    assert_eq!(listeners(&service), addresses(expected), "told {list:?}");
    let _name = service.hold("api");
    let own = addresses(expected).into_iter();
    for address in own.filter(|address| !address.is_unspecified()) {
        assert_eq!(host.ask(address, b"zapi"), found("api"), "at {address}");
    }
}

#[test]
fn it_listens_on_what_it_is_told_and_on_loopback() {
    let [host] = network(["host"]);
    for (list, expected) in [
        ("", "0.0.0.0 ::"),
        ("0.0.0.0", "0.0.0.0 ::1"),
        ("::", ":: 127.0.0.1 127.0.1.1"),
        ("0.0.0.0,::", "0.0.0.0 ::"),
        ("127.0.0.1", "127.0.0.1 127.0.1.1 ::1"),
        ("::1", "127.0.0.1 127.0.1.1 ::1"),
        ("10.77.0.1", "10.77.0.1 127.0.0.1 127.0.1.1 ::1"),
        ("10.77.0.1,10.77.0.1", "10.77.0.1 127.0.0.1 127.0.1.1 ::1"),
        (
            "10.77.0.1,fd77::1",
            "10.77.0.1 fd77::1 127.0.0.1 127.0.1.1 ::1",
        ),
        ("10.77.0.1,0.0.0.0", "0.0.0.0 ::1"),
        ("fd77::1,::", ":: 127.0.0.1 127.0.1.1"),
    ] {
        assert_listens(&host, list, expected);
    }
}

#[test]
fn peers_find_it_only_where_it_listens() {
    let [server, peer] = network(["server", "peer"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    let service = told(&server, "10.77.0.1").start();
    let _name = service.hold("api");
    assert_eq!(peer.ask(v4(1), b"zapi"), found("api"));
    for address in [v4(101), v6(1)] {
        let error = peer.try_connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

/// Where every local address is served, the host reaches itself by any of its names.
#[test]
fn this_host_reaches_itself_at_all_its_addresses() {
    let [server] = network(["server"]);
    let service = Service::start(&server, "");
    let _name = service.hold("api");
    for address in addresses("127.0.0.1 127.0.1.1 127.9.9.9 ::1 10.77.0.1 fd77::1") {
        assert_eq!(server.ask(address, b"zapi"), found("api"), "{address}");
    }
}

/// However many strangers wait to be accepted, this host's nodes do not wait behind them, by whichever
/// of its addresses they come.
#[test]
fn strangers_fill_no_queue_of_this_hosts() {
    const ROOM: usize = 4;
    let [server, stranger] = network(["server", "stranger"]);
    server.sysctl("net/core/somaxconn", &ROOM.to_string());
    for list in ["", "10.77.0.1,fd77::1"] {
        let service = told(&server, list).start();
        let _name = service.hold("api");
        let ways = addresses("127.0.0.1 127.0.1.1 ::1 10.77.0.1 fd77::1");
        let connected: Vec<_> = process::paused(service.pid(), || {
            for address in [server.v4(), server.v6()] {
                stranger.enter(|| crowd(address, EPMD, ROOM));
            }
            ways.iter().map(|way| server.connect(*way)).collect()
        });
        for (way, stream) in ways.iter().zip(connected) {
            assert_eq!(ask(stream, &frame(b"zapi")), found("api"), "{way}");
        }
    }
}

#[test]
fn it_starts_on_a_host_without_ipv6() {
    let [server, peer] = network(["server", "peer"]);
    for interface in ["all", "default", "lo", "eth0"] {
        server.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1");
    }
    let service = told(&server, "").start();
    assert!(listeners(&service).contains(&"0.0.0.0".parse().unwrap()));
    let _name = service.hold("api");
    assert_eq!(peer.ask(v4(1), b"zapi"), found("api"));
    drop(service);
    for (list, v4s) in [
        ("0.0.0.0", "0.0.0.0"),
        ("127.0.0.1", "127.0.0.1 127.0.1.1"),
        ("::1", "127.0.0.1 127.0.1.1"),
        ("10.77.0.1", "10.77.0.1 127.0.0.1 127.0.1.1"),
    ] {
        assert_listens(&server, list, v4s);
        // Who has named it hears that it is not there; for everybody else a host without IPv6 is as it
        // should be, and that is a remark at -d.
        let words = "not listening on ::1: this host does not have it";
        let service = told(&server, list).start();
        service.wait_until_said("serving ");
        service.reload(EVERYONE);
        assert_eq!(service.said().contains(words), list == "::1", "{list}");
        drop(service);
        let service = told(&server, list).arguments(&["-d"]).start();
        service.wait_until_said(words);
    }
    // Whether there is anything at the other wildcard is for the kernel to say; it starts.
    let service = told(&server, "::").start();
    let v4s = listeners(&service).into_iter().filter(IpAddr::is_ipv4);
    assert_eq!(
        v4s.collect::<BTreeSet<_>>(),
        addresses("127.0.0.1 127.0.1.1")
    );
}

/// It is not there yet, as far as anybody can tell.
#[test]
fn it_starts_on_a_host_without_127_0_1_1() {
    let host = lone_host();
    host.ip("addr del 127.0.0.1/8 dev lo\naddr add 127.0.0.1/32 dev lo\n");
    assert_listens(&host, "", "0.0.0.0 ::");
    let service = told(&host, "127.0.0.1").start();
    let expected = addresses("127.0.0.1 127.0.1.1 ::1");
    assert_eq!(listeners(&service), expected);
    service.wait_until_said("listening on 127.0.1.1, which this host does not have yet");
    let _name = service.hold("api");
    host.ip("addr add 127.0.1.1/32 dev lo\n");
    for address in expected {
        assert_eq!(host.ask(address, b"zapi"), found("api"), "at {address}");
    }
}

/// The loopback interface that comes up after epmd, or gets its addresses then.
#[test]
fn loopback_that_comes_later_is_served_once_it_is_there() {
    for (before, after) in [
        ("link set lo down\n", "link set lo up\n"),
        (
            "addr flush dev lo\n",
            "addr add 127.0.0.1/8 dev lo\naddr add ::1/128 dev lo\n",
        ),
    ] {
        for list in ["", "127.0.0.1", "10.77.0.1"] {
            let [host] = network(["host"]);
            host.ip(before);
            let service = told(&host, list).start_unasked();
            service.wait_until_said("serving ");
            if !list.is_empty() {
                service.wait_until_said("listening on ::1, which this host does not have yet");
            }
            host.ip(after);
            let _name = service.hold("api");
            for address in addresses("127.0.0.1 127.0.1.1 ::1") {
                let what = format!("{before}told {list:?}: {address}");
                assert_eq!(host.ask(address, b"zapi"), found("api"), "{what}");
            }
        }
    }
}

/// A VPN that comes up after epmd.
#[test]
fn an_address_that_is_not_there_yet_is_served_once_it_is() {
    let [server, peer] = network(["server", "peer"]);
    let service = told(&server, "10.77.0.9,fd77::9").start();
    let expected = addresses("10.77.0.9 fd77::9 127.0.0.1 127.0.1.1 ::1");
    assert_eq!(listeners(&service), expected);
    for address in [v4(9), v6(9)] {
        let words = format!(
            "listening on {address}, which this host does not have yet; it is served once it is there"
        );
        service.wait_until_said(&words);
    }
    let _name = service.hold("api");
    server.ip("addr add 10.77.0.9/24 dev eth0\naddr add fd77::9/64 dev eth0 nodad\n");
    for address in [v4(9), v6(9)] {
        assert_eq!(peer.ask(address, b"zapi"), found("api"), "{address}");
        assert_eq!(peer.ask(address, b"n"), listed(&["api"]), "{address}");
    }
}

/// Holds a port and closes whatever comes without an answer, as no epmd does.
struct Stranger {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    /// Holds epmd's port of this address of `host`.
    fn on(host: &Host, address: IpAddr) -> Self {
        let listener = host.hold_port(address);
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            for mut peer in accepting.incoming().map_while(Result::ok) {
                // What is left unread would turn the close into a reset.
                let _ = peer.read(&mut [0; 64]);
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Ends the accept that waits.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Fails the test unless our epmd, told `list`, ends because somebody else holds the port of
/// `address`, and says so.
fn assert_taken(host: &Host, list: &str, address: IpAddr) {
    let _stranger = Stranger::on(host, address);
    for mode in [&[][..], &["-daemon"], &["-systemd"]] {
        let output = told(host, list).arguments(mode).run();
        let what = format!("{address} held, told {list:?}, {mode:?}: {output:?}");
        assert_eq!(output.status, Some(1), "{what}");
        let place = SocketAddr::new(address, EPMD);
        let words = format!("epmd: can't listen on {place}: another program has that port");
        assert!(output.stderr.starts_with(&words), "{what}");
        // All or nothing: none of the other addresses is held on to.
        for other in addresses("127.0.0.1 127.0.1.1 ::1 10.77.0.1") {
            if other != address {
                let error = host.try_connect(other).map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{what}");
            }
        }
    }
}

/// A stranger on a loopback port would receive this host's registrations.
#[test]
fn a_loopback_port_that_a_stranger_holds_is_an_error() {
    let [host] = network(["host"]);
    for address in addresses("127.0.0.1 127.0.1.1 ::1") {
        assert_taken(&host, "10.77.0.1", address);
    }
}

#[test]
fn one_taken_address_is_enough() {
    let [host] = network(["host"]);
    assert_taken(&host, "10.77.0.1", v4(1));
    assert_taken(&host, "fd77::1,10.77.0.1", v6(1));
}

/// A wildcard does not listen beside somebody else's address: that one would get its share.
#[test]
fn a_wildcard_does_not_listen_around_a_stranger() {
    let [host] = network(["host"]);
    for (address, wildcard) in [
        ("127.0.0.1", "0.0.0.0"),
        ("::1", "::"),
        ("10.77.0.1", "0.0.0.0"),
    ] {
        let _stranger = Stranger::on(&host, address.parse().unwrap());
        let output = told(&host, "").run();
        assert_eq!(output.status, Some(1), "{address}: {output:?}");
        let place = SocketAddr::new(wildcard.parse().unwrap(), EPMD);
        let words = format!("epmd: can't listen on {place}: another program has that port");
        assert!(output.stderr.starts_with(&words), "{address}: {output:?}");
    }
}

/// Whether the kernel tells of sockets that are bound and do no more: from Linux 6.8 on.
fn kernel_tells_of_bound_sockets() -> bool {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    number >= (6, 8)
}

/// /proc shows nothing of such a socket.
#[test]
fn a_port_that_is_bound_and_not_listened_on_is_told_with_its_program() {
    for address in addresses("127.0.0.1 ::1 10.77.0.1 0.0.0.0") {
        // Of its own each, or the last one's connections would linger there.
        let [host] = network(["host"]);
        let place = SocketAddr::new(address, EPMD);
        let bound = host.enter(|| {
            let socket = Socket::new(Domain::for_address(place), Type::STREAM, None).unwrap();
            socket.bind(&place.into()).unwrap();
            socket
        });
        for mode in [&[][..], &["-daemon"]] {
            let output = told(&host, "").arguments(mode).run();
            let what = format!("{place}, {mode:?}: {output:?}");
            assert_eq!(output.status, Some(1), "{what}");
            let words = if kernel_tells_of_bound_sockets() {
                let own = std::process::id();
                format!("(pid {own}) has bound {place} and does not listen there; end it")
            } else {
                "a program has that port, and neither listens there".to_owned()
            };
            assert!(output.stderr.contains(&words), "{what}");
        }
        drop(bound);
        let _service = told(&host, "").start();
    }
}

/// An epmd that is there already is what erl wants of `epmd -daemon`.
#[test]
fn a_port_that_an_epmd_holds_is_left_to_it() {
    let [host] = network(["host"]);
    for list in ["", "127.0.0.1", "10.77.0.1", "::"] {
        let service = told(&host, list).start();
        let _name = service.hold("api");
        for (mode, status, words) in [
            (&[][..], 0, " already"),
            (&["-daemon"], 0, ""),
            (&["-systemd"], 1, "ExecStartPre=+"),
        ] {
            let output = told(&host, "10.77.0.1").arguments(mode).run();
            let what = format!("told {list:?}, {mode:?}: {output:?}");
            assert_eq!(output.status, Some(status), "{what}");
            assert_eq!(output.stderr.is_empty(), words.is_empty(), "{what}");
            assert!(output.stderr.contains(words), "{what}");
        }
        assert_eq!(service.ask(b"n"), listed(&["api"]), "told {list:?}");
    }
}

#[test]
fn systemd_without_sockets_binds_by_itself() {
    let [host] = network(["host"]);
    let service = told(&host, "10.77.0.1").arguments(&["-systemd"]).start();
    let expected = addresses("10.77.0.1 127.0.0.1 127.0.1.1 ::1");
    assert_eq!(listeners(&service), expected);
}

/// An epmd that erl starts inside an application's unit inherits that unit's sockets: they are none
/// of its business.
#[test]
fn sockets_of_systemd_are_taken_only_where_that_is_asked_for() {
    let [server, peer] = network(["server", "peer"]);
    let socket = server.dual_stack_listener();
    let service = Launch::on(&server)
        .config(EVERYONE)
        .activated(socket)
        .start();
    assert_eq!(listeners(&service), addresses("::"));
    assert_eq!(peer.ask(v4(1), b"zapi"), Answer::Bytes(b"w\x01".to_vec()));
    drop(service);
    let other = server
        .enter(|| TcpListener::bind(("::", EPMD + 1)))
        .unwrap();
    let service = Launch::on(&server)
        .config(EVERYONE)
        .inheriting(other)
        .start();
    assert_eq!(listeners(&service), addresses("0.0.0.0 ::"));
}

/// With what systemd hands over, what is served is what would be listened on without it.
#[test]
fn under_a_socket_unit_a_wildcard_serves_its_family_and_an_address_itself() {
    let [server, peer] = network(["server", "peer"]);
    let unknown = || Answer::Bytes(b"w\x01".to_vec());
    for (list, v4_is_served, v6_is_served) in [
        ("", true, true),
        ("0.0.0.0", true, false),
        ("::", false, true),
        ("0.0.0.0,::", true, true),
        ("::,10.77.0.1", true, true),
        ("10.77.0.1", true, false),
        ("fd77::1", false, true),
        ("127.0.0.1", false, false),
    ] {
        let socket = server.dual_stack_listener();
        let service = told(&server, list).activated(socket).start();
        for (address, is_served) in [(v4(1), v4_is_served), (v6(1), v6_is_served)] {
            let expected = if is_served {
                unknown()
            } else {
                Answer::Nothing
            };
            let what = format!("told {list:?}: {address}");
            assert_eq!(peer.ask(address, b"znone"), expected, "{what}");
            // This host itself is nobody else, there either.
            assert_eq!(server.ask(address, b"znone"), expected, "{what}");
        }
        for address in addresses("127.0.0.1 127.0.1.1 ::1") {
            assert_eq!(server.ask(address, b"znone"), unknown(), "told {list:?}");
        }
        drop(service);
    }
}

/// Nodes of this host register at loopback, whatever a socket unit listens on.
#[test]
fn loopback_is_added_to_a_socket_units_sockets() {
    let [server, peer] = network(["server", "peer"]);
    for (unit, expected) in [
        ("10.77.0.1", "10.77.0.1 127.0.0.1 127.0.1.1 ::1"),
        ("fd77::1", "fd77::1 127.0.0.1 127.0.1.1 ::1"),
        ("::1", "::1 127.0.0.1 127.0.1.1"),
        ("127.0.0.1", "127.0.0.1 127.0.1.1 ::1"),
        ("0.0.0.0", "0.0.0.0 ::1"),
    ] {
        let unit: IpAddr = unit.parse().unwrap();
        let service = Launch::on(&server)
            .config(EVERYONE)
            .activated(server.hold_port(unit))
            .start();
        assert_eq!(listeners(&service), addresses(expected), "{unit}");
        let _name = service.hold("api");
        for address in addresses("127.0.0.1 127.0.1.1 ::1") {
            assert_eq!(server.ask(address, b"zapi"), found("api"), "{unit}");
        }
        if !unit.is_loopback() && !unit.is_unspecified() {
            assert_eq!(peer.ask(unit, b"zapi"), found("api"), "{unit}");
        }
        assert!(!service.said().contains("WARNING"), "{}", service.said());
        let output = told(&server, "").arguments(&["-daemon"]).run();
        assert_eq!(output, Output::new(0, "", ""), "{unit}");
    }
}

/// The others are served, and whoever runs this host is told who is not. An epmd is asked for where it
/// listens.
#[test]
fn loopback_that_a_stranger_holds_beside_a_socket_unit_is_a_warning() {
    let [server] = network(["server"]);
    let loopback = addresses("127.0.0.1 127.0.1.1 ::1");
    let strangers: Vec<_> = loopback.iter().map(|a| Stranger::on(&server, *a)).collect();
    let service = Launch::on(&server)
        .config(EVERYONE)
        .activated(server.hold_port(v4(1)))
        .start_unasked();
    for address in &loopback {
        service.wait_until_said(&format!(
            "not listening on {address} beside the socket unit's sockets: another program listens on {}; nodes \
             of this host that look for epmd there can't register",
            SocketAddr::new(*address, EPMD)
        ));
    }
    assert_eq!(server.ask(v4(1), b"n"), listed(&[]));
    for mode in [&["-daemon"][..], &[]] {
        let output = told(&server, "").arguments(mode).run();
        assert_eq!(output.status, Some(0), "{mode:?}: {output:?}");
    }
    drop(strangers);
}

/// Whom a process of this user or another gets to listen beside epmd: nobody.
#[test]
fn nobody_listens_beside_it_not_even_a_process_of_the_same_user() {
    let [host] = network(["host"]);
    for list in ["", "0.0.0.0", "::", "10.77.0.1,fd77::1"] {
        let service = told(&host, list).start();
        let _name = service.hold("api");
        let own = listeners(&service);
        for user in [0, 65_534] {
            for address in
                addresses("127.0.0.1 127.0.1.1 127.9.9.9 ::1 10.77.0.1 fd77::1 0.0.0.0 ::")
            {
                let address = SocketAddr::new(address, EPMD);
                let listening = host.enter(|| {
                    setfsuid(user.into());
                    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                    socket.set_reuse_address(true)?;
                    socket.set_reuse_port(true)?;
                    if address.is_ipv6() {
                        socket.set_only_v6(true)?;
                    }
                    socket.bind(&address.into())?;
                    socket.listen(16)?;
                    Ok::<_, std::io::Error>(TcpListener::from(socket))
                });
                // Where epmd does not listen itself, the port is anybody's.
                let is_epmds = |own: &IpAddr| {
                    *own == address.ip()
                        || address.ip().is_unspecified() && own.is_ipv4() == address.is_ipv4()
                        || own.is_unspecified() && own.is_ipv4() == address.is_ipv4()
                };
                let what = format!("told {list:?}, user {user}: {address}");
                assert_eq!(listening.is_err(), own.iter().any(is_epmds), "{what}");
            }
        }
        assert_eq!(service.ask(b"zapi"), found("api"));
    }
}

/// What the kernel, or a filter of system calls, refuses of what only helps.
#[test]
fn an_option_that_is_refused_is_done_without() {
    for error in ["EPERM", "ENOPROTOOPT", "ENOSYS"] {
        let inject = format!("inject=setsockopt:error={error}");
        for list in ["127.0.0.1", "10.77.0.1,fd77::1", "0.0.0.0", ""] {
            // Without SO_REUSEADDR the port is not to be had for a minute after it.
            let [server, peer] = network(["server", "peer"]);
            let service = told(&server, list)
                .wrapped(&[
                    "strace",
                    "-D",
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    &inject,
                ])
                .start();
            for option in ["SO_REUSEADDR", "TCP_DEFER_ACCEPT"] {
                service.wait_until_said(&format!("listening without {option}, which is refused"));
                assert_eq!(service.said().matches(option).count(), 1, "once");
            }
            let _name = service.hold("api");
            for address in addresses("127.0.0.1 127.0.1.1 ::1") {
                assert_eq!(server.ask(address, b"zapi"), found("api"), "{address}");
            }
            if list != "127.0.0.1" {
                assert_eq!(peer.ask(v4(1), b"zapi"), found("api"), "told {list:?}");
            }
            // Without IPV6_V6ONLY a wildcard would take the other family's connections, too.
            assert!(!listeners(&service).contains(&"::".parse().unwrap()));
            drop(service);
        }
    }
}

#[test]
fn a_family_whose_sockets_are_refused_is_done_without() {
    let host = lone_host();
    for error in ["EACCES", "EPERM", "EPROTONOSUPPORT", "EAFNOSUPPORT"] {
        // The first two are to ask the kernel for sockets; then comes 0.0.0.0's, and that of every IPv6
        // address.
        for (which, left, lost) in [(3, "::", "0.0.0.0"), (4, "0.0.0.0", "::")] {
            let inject = format!("inject=socket:error={error}:when={which}");
            let service = told(&host, "")
                .wrapped(&[
                    "strace",
                    "-D",
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    &inject,
                ])
                .start_unasked();
            service.wait_until_said("serving ");
            assert_eq!(listeners(&service), addresses(left), "{error}");
            // A kernel without IPv6 is nothing to warn of; one that refuses it is.
            let words = format!("not listening on {lost}: ");
            let is_news = (error, lost) != ("EAFNOSUPPORT", "::");
            service.reload(EVERYONE);
            assert_eq!(service.said().contains(&words), is_news, "{error}");
        }
        let inject = format!("inject=socket:error={error}");
        let output = told(&host, "")
            .wrapped(&[
                "strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &inject,
            ])
            .run();
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""));
        let start = "epmd: no address to listen on: ";
        assert!(output.stderr.starts_with(start), "{}", output.stderr);
    }
}
