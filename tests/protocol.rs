//! What epmd says over its sockets, to whatever a peer may send: every request, well-formed or not.
//!
//! Run against this crate's daemon and against stock epmd (`EPMD_UNDER_TEST`, see `common`). The
//! expectations are bytes, written down from OTP's chapter "Distribution Protocol" and from what
//! stock epmd does.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::Read;
use std::net::{Ipv6Addr, Shutdown};
use std::time::Duration;

use common::binary::differs;
use common::daemon::{Daemon, Setup};
use common::host::has_ipv6;
use common::wait_for;
use common::wire::{
    Answer, Node, Registered, frame, is_left_open, lookup_answer, names_answer, read_to_end,
    register, send,
};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};

/// The largest value of a request's length field.
const LONGEST_REQUEST: usize = 3057;
/// The most characters of a name.
const LONGEST_NAME: usize = 255;
/// The most bytes of extra data.
const LONGEST_EXTRA: usize = 1020;
/// A character of four bytes.
const WIDE: &str = "\u{1f600}";

fn bytes(text: &[u8]) -> Answer {
    Answer::Bytes(text.to_vec())
}

fn found(node: &Node) -> Answer {
    Answer::Bytes(lookup_answer(Some(node)))
}

fn not_found() -> Answer {
    Answer::Bytes(lookup_answer(None))
}

fn names(daemon: &Daemon, nodes: &[(&str, u16)]) -> Answer {
    Answer::Bytes(names_answer(daemon.port, nodes))
}

/// An epmd that lets itself be told to release names, and to end while it holds some.
fn relaxed() -> Daemon {
    Daemon::with(&["-relaxed_command_check"])
}

/// Result 1 to a registration, and what becomes of its connection.
fn taken() -> Registered {
    let left_open = differs(
        true,
        false,
        "what holds no name must not hold a connection for ever",
    );
    Registered::Taken { left_open }
}

/// Registers, checks the answer and the lookup that follows.
fn registers_and_is_found(daemon: &Daemon, node: &Node) {
    let (holder, _) = daemon.register(node).held();
    assert_eq!(daemon.lookup(&node.name), found(node));
    drop(holder);
}

// --- x: registrations ---

#[test]
fn a_registered_node_is_found_with_all_that_it_said() {
    let daemon = Daemon::start();
    let node = Node {
        port: 65535,
        kind: 72,
        protocol: 7,
        highest: 9,
        lowest: 6,
        ..Node::new("all").extra(b"\0more\0")
    };
    registers_and_is_found(&daemon, &node);
    registers_and_is_found(&daemon, &Node::new("none").port(0));
}

#[test]
fn the_highest_version_decides_the_form_of_the_answer() {
    let daemon = Daemon::start();
    for highest in [0, 4, 5, 6, 7, u16::MAX] {
        let node = Node::new(format!("v{highest}")).highest(highest);
        // `register` checks the form: y with 16 bits below 6, v with 32 bits from 6 on.
        let (_holder, creation) = daemon.register(&node).held();
        if highest < 6 {
            assert!((1..=3).contains(&creation), "{creation}");
        } else {
            assert!(creation >= 4, "{creation}");
        }
    }
}

#[test]
fn a_name_may_be_any_unicode() {
    let daemon = Daemon::start();
    for name in [
        "å",
        "наука",
        "ノード",
        WIDE,
        "a\u{301}",
        "\u{ffff}",
        "<a>",
        "a@b",
        "a,b",
    ] {
        registers_and_is_found(&daemon, &Node::new(name));
    }
}

#[test]
fn a_name_has_up_to_255_characters() {
    let daemon = Daemon::start();
    for letter in ["n", "å", WIDE] {
        registers_and_is_found(&daemon, &Node::new(letter.repeat(LONGEST_NAME - 1)));
        let longest = Node::new(letter.repeat(LONGEST_NAME));
        let _holder = daemon.register(&longest).held();
        let answer = differs(
            Answer::Nothing,
            found(&longest),
            "stock registers 255 characters, but counts a NUL in a lookup and finds 254 only",
        );
        assert_eq!(daemon.lookup(&longest.name), answer);
        let one_over = Node::new(letter.repeat(LONGEST_NAME + 1));
        assert_eq!(daemon.register(&one_over).end, taken());
        assert_eq!(daemon.lookup(&one_over.name), Answer::Nothing);
    }
}

#[test]
fn a_name_that_is_no_utf8_is_not_registered() {
    let daemon = Daemon::start();
    for name in [
        &b"\xff"[..],
        b"a\x80",
        b"cut\xe2\x82",
        b"overlong\xc0\xaf",
        b"surrogate\xed\xa0\x80",
        b"beyond\xf4\x90\x80\x80",
    ] {
        assert_eq!(daemon.register(&Node::new(name)).end, taken());
        assert_eq!(daemon.lookup(name), Answer::Nothing, "{name:?}");
    }
    assert_eq!(daemon.names(), names(&daemon, &[]));
}

#[test]
fn a_name_that_would_forge_a_line_of_the_list_is_not_registered() {
    let daemon = Daemon::start();
    let forging = [
        "a b",
        "a\nname b at port 1",
        "\r",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
    ];
    for name in forging {
        let end = differs(
            Registered::Held,
            taken(),
            "one line of `epmd -names` for each name",
        );
        assert_eq!(daemon.register(&Node::new(name)).end, end, "{name:?}");
    }
}

#[test]
fn a_name_with_a_nul_is_no_request() {
    let daemon = Daemon::start();
    for name in [&b"\0"[..], b"a\0", b"a\0b"] {
        assert_eq!(daemon.register(&Node::new(name)).end, Registered::Closed);
    }
    daemon.assert_alive();
}

#[test]
fn an_empty_name_is_not_registered() {
    let daemon = Daemon::start();
    assert_eq!(daemon.register(&Node::new("")).end, Registered::Closed);
    assert_eq!(daemon.names(), names(&daemon, &[]));
}

#[test]
fn an_empty_name_is_not_registered_by_means_of_extra_data() {
    let daemon = Daemon::start();
    let end = differs(
        Registered::Held,
        Registered::Closed,
        "nobody can look an empty name up",
    );
    assert_eq!(daemon.register(&Node::new("").extra("x")).end, end);
}

#[test]
fn extra_data_has_up_to_1020_bytes() {
    let daemon = Daemon::start();
    for length in [0, 1, LONGEST_EXTRA] {
        let extra = vec![0; length];
        registers_and_is_found(&daemon, &Node::new(format!("e{length}")).extra(extra));
    }
    let over = Node::new("over").extra([b'x'; LONGEST_EXTRA + 1]);
    assert_eq!(daemon.register(&over).end, taken());
    assert_eq!(daemon.lookup("over"), not_found());
}

#[test]
fn the_largest_registration_fits() {
    let daemon = Daemon::start();
    let node = Node::new(WIDE.repeat(LONGEST_NAME)).extra([0xff; LONGEST_EXTRA]);
    let _holder = daemon.register(&node).held();
}

#[test]
fn a_registration_whose_inner_lengths_do_not_fit_is_no_request() {
    let daemon = Daemon::start();
    let good = Node::new("node").extra("extra").request();
    let (name_length, extra_length) = (9, 15);
    let mut name_too_long = good.clone();
    name_too_long[name_length] = 1;
    let mut extra_too_long = good.clone();
    extra_too_long[extra_length + 1] += 1;
    let cut = |length: usize| good[..length].to_vec();
    let bad = [
        name_too_long,
        extra_too_long,
        cut(1),
        cut(extra_length),
        cut(good.len() - 1),
    ];
    for body in bad {
        assert_eq!(daemon.request(&body), Answer::Nothing, "{body:?}");
    }
    assert_eq!(daemon.names(), names(&daemon, &[]));
}

#[test]
fn a_name_that_is_held_is_taken_for_everyone_else() {
    let daemon = Daemon::start();
    let first = Node::new("api").port(1);
    let (_holder, _) = daemon.register(&first).held();
    for highest in [5, 6] {
        // `register` wants creation 99, as stock answers.
        let second = Node::new("api").port(2).highest(highest);
        assert_eq!(daemon.register(&second).end, taken());
    }
    assert_eq!(daemon.lookup("api"), found(&first));
}

#[test]
fn names_that_differ_in_case_are_different() {
    let daemon = Daemon::start();
    let _holders = [daemon.hold("api"), daemon.hold("API")];
}

#[test]
fn a_name_is_free_when_its_connection_is_closed() {
    let daemon = Daemon::start();
    drop(daemon.hold("api"));
    daemon.wait_until_free("api");
    assert_eq!(daemon.names(), names(&daemon, &[]));
    daemon.hold("api");
}

#[test]
fn a_name_is_free_when_its_connection_is_reset() {
    let daemon = Daemon::start();
    let holder = daemon.hold("api");
    nix::sys::socket::setsockopt(
        &holder,
        nix::sys::socket::sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
    drop(holder);
    daemon.wait_until_free("api");
    daemon.hold("api");
}

sockopt_impl!(
    /// What the kernel knows of a connection (`TCP_INFO`, tcp(7)).
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info
);

/// The state of a connection whose close the other side has.
const FIN_WAIT2: u8 = 5;

#[test]
fn a_name_whose_holder_has_just_closed_is_free_at_once() {
    let daemon = Daemon::start();
    // In stock the request is looked at before the close if its connection stands in a lower slot.
    let lower_slot = daemon.connect();
    let holder = daemon.hold("api");
    assert_eq!(read_after_shutdown(lower_slot), Answer::Nothing);
    let registration = daemon.paused(|| {
        holder.shutdown(Shutdown::Write).unwrap();
        // The daemon's side has it; what another core sends next could come before it.
        wait_for("the close to arrive", || {
            (getsockopt(&holder, TcpInfo).unwrap().tcpi_state == FIN_WAIT2).then_some(())
        });
        drop(holder);
        let mut again = daemon.connect();
        send(&mut again, &frame(&Node::new("api").request()));
        again
    });
    let mut answer = [0; 6];
    { registration }.read_exact(&mut answer).unwrap();
    let result = differs(
        1,
        0,
        "a node that is restarted quickly must not hear that its name is in use",
    );
    assert_eq!(answer[..2], [b'v', result]);
}

#[test]
fn a_creation_never_comes_twice_in_a_row() {
    const ROUNDS: usize = 200;
    let daemon = Daemon::start();
    for highest in [5, 6] {
        let node = Node::new(format!("v{highest}")).highest(highest);
        let mut last = 0;
        for round in 0..ROUNDS {
            let (holder, creation) = daemon.register(&node).held();
            assert_ne!(creation, last, "round {round}");
            last = creation;
            drop(holder);
            daemon.wait_until_free(std::str::from_utf8(&node.name).unwrap());
        }
    }
}

#[test]
fn anything_sent_after_a_registration_ends_it() {
    let daemon = Daemon::start();
    let mut holder = daemon.hold("api");
    send(&mut holder, b"\0");
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
    assert_eq!(daemon.lookup("api"), not_found());
}

#[test]
fn a_registration_that_shuts_its_sending_side_is_answered_and_ends() {
    let daemon = Daemon::start();
    let (mut holder, _) = daemon.register(&Node::new("api")).held();
    holder.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
    assert_eq!(daemon.lookup("api"), not_found());
}

#[test]
fn bytes_of_a_registration_behind_its_extra_data_are_ignored() {
    let daemon = Daemon::start();
    let body = [&Node::new("api").request()[..], b"xx"].concat();
    let mut stream = daemon.connect();
    send(&mut stream, &frame(&body));
    stream.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(daemon.lookup("api"), found(&Node::new("api")));
}

// --- z: lookups ---

#[test]
fn an_unknown_name_is_answered_so() {
    let daemon = Daemon::start();
    assert_eq!(daemon.lookup("nobody"), not_found());
    assert_eq!(daemon.lookup("n".repeat(LONGEST_NAME - 1)), not_found());
}

#[test]
fn a_lookup_may_end_in_one_nul() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    assert_eq!(daemon.lookup("api\0"), found(&Node::new("api")));
    for name in ["api\0\0", "a\0pi", "\0api", "api\0x"] {
        assert_eq!(daemon.lookup(name), Answer::Nothing, "{name:?}");
    }
}

#[test]
fn a_lookup_of_nothing_is_no_request() {
    let daemon = Daemon::start();
    assert_eq!(daemon.lookup(""), Answer::Nothing);
    assert_eq!(daemon.lookup("\0"), Answer::Nothing);
}

#[test]
fn the_answer_to_a_lookup_comes_whole_in_one_read() {
    let daemon = Daemon::start();
    let node = Node::new("n".repeat(LONGEST_NAME - 1)).extra([b'x'; LONGEST_EXTRA]);
    let _holder = daemon.register(&node).held();
    for _ in 0..50 {
        let mut stream = daemon.connect();
        send(&mut stream, &frame(&[b"z", &node.name[..]].concat()));
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap();
        assert_eq!(buffer[..length], node.found());
        assert_eq!(read_to_end(&mut stream), Answer::Nothing);
    }
}

// --- n and d: lists and dumps ---

#[test]
fn a_list_gives_the_port_and_the_newest_name_first() {
    let daemon = Daemon::start();
    assert_eq!(daemon.names(), names(&daemon, &[]));
    let nodes = [("first", 0), ("second", 80), ("ä", 65535)];
    let holders = nodes.map(|(name, port)| daemon.register(&Node::new(name).port(port)).held());
    let mut newest_first = nodes;
    newest_first.reverse();
    assert_eq!(daemon.names(), names(&daemon, &newest_first));
    drop(holders);
}

#[test]
fn a_name_that_is_registered_again_is_the_newest() {
    let daemon = Daemon::start();
    let first = daemon.hold("first");
    let _second = daemon.hold("second");
    drop(first);
    daemon.wait_until_free("first");
    let _first = daemon.hold("first");
    let port = Node::new("").port;
    assert_eq!(
        daemon.names(),
        names(&daemon, &[("first", port), ("second", port)])
    );
}

#[test]
fn a_list_of_a_hundred_names_is_whole() {
    let daemon = Daemon::start();
    let nodes: Vec<String> = (0..100)
        .map(|n| format!("{n}{}", WIDE.repeat(200)))
        .collect();
    let holders: Vec<_> = nodes.iter().map(|name| daemon.hold(name)).collect();
    let port = Node::new("").port;
    let lines: Vec<_> = nodes
        .iter()
        .rev()
        .map(|name| (name.as_str(), port))
        .collect();
    assert_eq!(daemon.names(), names(&daemon, &lines));
    drop(holders);
}

#[test]
fn a_dump_gives_names_in_use_newest_first_then_names_that_are_gone_oldest_first() {
    let daemon = Daemon::start();
    assert_eq!(daemon.dump(), (u32::from(daemon.port), String::new()));
    let [first, second, third, _fourth] = ["a", "b", "c", "ä"].map(|name| daemon.hold(name));
    for (holder, name) in [(third, "c"), (first, "a")] {
        drop(holder);
        daemon.wait_until_free(name);
    }
    let expected = "active name     <ä> at port 4711, fd = N\n\0\
                    active name     <b> at port 4711, fd = N\n\0\
                    old/unused name <c>, port = 4711, fd = N \n\0\
                    old/unused name <a>, port = 4711, fd = N \n\0";
    assert_eq!(daemon.dump().1, expected);
    let _third = daemon.hold("c");
    let expected = "active name     <c> at port 4711, fd = N\n\0\
                    active name     <ä> at port 4711, fd = N\n\0\
                    active name     <b> at port 4711, fd = N\n\0\
                    old/unused name <a>, port = 4711, fd = N \n\0";
    assert_eq!(daemon.dump().1, expected);
    drop(second);
}

#[test]
fn bytes_of_a_list_dump_or_kill_behind_its_tag_are_ignored() {
    let daemon = Daemon::start();
    let mut padded = vec![b'n'];
    padded.resize(LONGEST_REQUEST, 0);
    assert_eq!(daemon.request(&padded), daemon.names());
    assert_eq!(daemon.request(b"dump"), daemon.request(b"d"));
    assert_eq!(daemon.request(b"kill"), bytes(b"OK"));
}

// --- k and s: kill and stop ---

#[test]
fn a_kill_ends_the_daemon_while_it_holds_no_name() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.request(b"k"), bytes(b"OK"));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_kill_is_not_done_while_names_are_held() {
    let mut daemon = Daemon::start();
    let mut holder = daemon.hold("api");
    assert_eq!(daemon.request(b"k"), bytes(b"NO"));
    assert_eq!(daemon.lookup("api"), found(&Node::new("api")));
    assert!(is_left_open(&mut holder));
    drop(holder);
    daemon.wait_until_free("api");
    assert_eq!(daemon.request(b"k"), bytes(b"OK"));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_kill_ends_a_relaxed_daemon_whatever_it_holds() {
    let mut daemon = relaxed();
    let mut holder = daemon.hold("api");
    assert_eq!(daemon.request(b"k"), bytes(b"OK"));
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
}

#[test]
fn a_stop_releases_a_name_and_closes_its_connection() {
    let daemon = relaxed();
    let mut holder = daemon.hold("api");
    assert_eq!(daemon.request(b"sapi"), bytes(b"STOPPED"));
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
    assert_eq!(daemon.lookup("api"), not_found());
    let _holder = daemon.hold("api");
    assert_eq!(daemon.request(b"sapi\0"), bytes(b"STOPPED"));
}

#[test]
fn a_stop_of_an_unknown_name_says_so() {
    let daemon = relaxed();
    let answer = differs(
        &b"NOEXISTSTOPPED"[..],
        b"NOEXIST",
        "stock goes on after NOEXIST; its own client reads 7 bytes and does not see it",
    );
    assert_eq!(daemon.request(b"snobody"), bytes(answer));
    daemon.assert_alive();
}

#[test]
fn a_stop_of_nothing_is_no_request() {
    assert_eq!(relaxed().request(b"s"), Answer::Nothing);
}

#[test]
fn a_stop_is_not_done_unless_relaxed() {
    let daemon = Daemon::start();
    let mut holder = daemon.hold("api");
    for name in ["api", "nobody", ""] {
        assert_eq!(
            daemon.request(format!("s{name}").as_bytes()),
            Answer::Nothing
        );
    }
    assert!(is_left_open(&mut holder));
    assert_eq!(daemon.lookup("api"), found(&Node::new("api")));
}

// --- bytes that are no request, or come in pieces ---

#[test]
fn an_unknown_tag_is_no_request() {
    let daemon = Daemon::start();
    for tag in (0..=u8::MAX).filter(|tag| !b"xzndks".contains(tag)) {
        assert_eq!(daemon.request(&[tag]), Answer::Nothing, "{tag}");
        assert_eq!(daemon.request(&[tag, b'a']), Answer::Nothing, "{tag}");
    }
    daemon.assert_alive();
}

#[test]
fn a_length_of_0_or_above_3057_is_no_request() {
    let daemon = Daemon::start();
    for length in [0, LONGEST_REQUEST + 1, 0x7fff, 0x8000, 0xffff] {
        // The length alone decides: nothing more needs to come.
        let length = u16::try_from(length).unwrap().to_be_bytes();
        assert_eq!(daemon.send(&length), Answer::Nothing);
        assert_eq!(daemon.send(&[&length[..], b"n"].concat()), Answer::Nothing);
    }
    let mut body = vec![b'n'];
    body.resize(LONGEST_REQUEST + 1, 0);
    assert_eq!(daemon.request(&body), Answer::Nothing);
    daemon.assert_alive();
}

#[test]
fn bytes_behind_a_request_make_it_none() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    for body in [&b"n"[..], b"d", b"zapi", b"k", &Node::new("more").request()] {
        let twice = [frame(body), frame(body)].concat();
        let one_more = [&frame(body)[..], b"\0"].concat();
        for bytes in [twice, one_more] {
            assert_eq!(daemon.send(&bytes), Answer::Nothing, "{bytes:?}");
        }
    }
    assert_eq!(
        daemon.names(),
        names(&daemon, &[("api", Node::new("").port)])
    );
}

#[test]
fn bytes_behind_a_request_that_comes_in_pieces_make_it_none() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    let (length, rest) = (2_u16.to_be_bytes(), b"zaz");
    send(&mut stream, &length);
    // Until both of these are answered, the length has been read.
    daemon.assert_alive();
    daemon.assert_alive();
    send(&mut stream, rest);
    let answer = differs(
        not_found(),
        Answer::Nothing,
        "what a request is must not depend on how the network cuts it",
    );
    assert_eq!(read_to_end(&mut stream), answer);
}

#[test]
fn a_request_may_come_one_byte_at_a_time() {
    let daemon = Daemon::start();
    let node = Node::new("api");
    let (mut holder, mut asking) = (daemon.connect(), daemon.connect());
    for byte in frame(&node.request()) {
        send(&mut holder, &[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    holder.read_exact(&mut [0; 6]).unwrap();
    for byte in frame(b"zapi") {
        send(&mut asking, &[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(read_to_end(&mut asking), found(&node));
}

#[test]
fn half_a_request_is_never_answered_and_disturbs_nobody() {
    let daemon = Daemon::start();
    let node = Node::new("api");
    let whole = frame(&node.request());
    let mut halves: Vec<_> = (0..whole.len())
        .map(|length| {
            let mut stream = daemon.connect();
            send(&mut stream, &whole[..length]);
            stream
        })
        .collect();
    registers_and_is_found(&daemon, &node);
    daemon.wait_until_free("api");
    for half in &mut halves {
        half.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(half), Answer::Nothing);
    }
    assert_eq!(daemon.names(), names(&daemon, &[]));
}

#[test]
fn a_requester_that_shuts_its_sending_side_still_gets_its_answer() {
    let daemon = relaxed();
    let _holder = daemon.hold("api");
    let requests: [(&[u8], Answer); 5] = [
        (b"zapi", found(&Node::new("api"))),
        (b"n", daemon.names()),
        (b"d", daemon.request(b"d")),
        (b"sapi", bytes(b"STOPPED")),
        (b"k", bytes(b"OK")),
    ];
    for (body, answer) in requests {
        let mut stream = daemon.connect();
        send(&mut stream, &frame(body));
        assert_eq!(read_after_shutdown(stream), answer, "{body:?}");
    }
}

/// Shuts the sending side, and reads until the close.
fn read_after_shutdown(mut stream: std::net::TcpStream) -> Answer {
    stream.shutdown(Shutdown::Write).unwrap();
    read_to_end(&mut stream)
}

#[test]
fn a_connection_that_is_closed_without_a_word_disturbs_nobody() {
    let daemon = Daemon::start();
    for _ in 0..100 {
        drop(daemon.connect());
    }
    daemon.assert_alive();
}

#[test]
fn many_connections_at_once_are_all_answered() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    let answer = found(&Node::new("api"));
    let mut streams: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for stream in streams.iter_mut().rev() {
        send(stream, &frame(b"zapi"));
    }
    for stream in &mut streams {
        assert_eq!(read_to_end(stream), answer);
    }
}

// --- time ---

#[test]
fn a_silent_connection_is_closed_after_the_packet_timeout_and_a_registration_is_not() {
    let daemon = Daemon::with(&["-packet_timeout", "1"]);
    let mut holder = daemon.hold("api");
    let begin = std::time::Instant::now();
    let mut silent = daemon.connect();
    let mut half = daemon.connect();
    send(&mut half, b"\0");
    assert_eq!(read_to_end(&mut silent), Answer::Nothing);
    assert_eq!(read_to_end(&mut half), Answer::Nothing);
    assert!(
        begin.elapsed() >= common::daemon::about(1),
        "{:?}",
        begin.elapsed()
    );
    assert!(is_left_open(&mut holder));
    assert_eq!(daemon.lookup("api"), found(&Node::new("api")));
}

#[test]
fn a_request_that_trickles_in_has_the_packet_timeout_as_a_whole() {
    let daemon = Daemon::with(&["-packet_timeout", "1"]);
    let mut stream = daemon.connect();
    for byte in frame(b"zapi-of-mine") {
        send(&mut stream, &[byte]);
        std::thread::sleep(Duration::from_millis(250));
    }
    let answer = differs(
        not_found(),
        Answer::Nothing,
        "stock's clock begins anew with every byte, so that a slow sender stays for hours",
    );
    assert_eq!(read_to_end(&mut stream), answer);
}

// --- IPv6 ---

#[test]
fn every_request_is_served_over_ipv6_as_well() {
    assert!(
        has_ipv6(),
        "this host has no IPv6 loopback; the test needs one"
    );
    let mut daemon = Setup::new().arguments(&["-relaxed_command_check"]).start();
    let connect = || daemon.connect_to(Ipv6Addr::LOCALHOST.into());
    let ask = |body: &[u8]| common::wire::ask(connect(), &frame(body));
    let node = Node::new("six");
    let (mut holder, _) = register(connect(), &node).held();
    assert_eq!(ask(b"zsix"), found(&node));
    assert_eq!(daemon.lookup("six"), found(&node));
    assert_eq!(ask(b"n"), names(&daemon, &[("six", node.port)]));
    assert_eq!(ask(b"d"), daemon.request(b"d"));
    assert_eq!(register(connect(), &node).end, taken());
    assert_eq!(ask(b"ssix"), bytes(b"STOPPED"));
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
    assert_eq!(ask(b"k"), bytes(b"OK"));
    let status = wait_for("the end", || daemon.ended());
    assert_eq!(status.code(), Some(0));
}
