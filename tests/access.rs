//! Who is served, who is refused, and what the audit says of it: with peers at real addresses, over
//! IPv4, over IPv6, and over sockets on which IPv4 peers are IPv4-mapped ones.
//!
//! The server is the first host of its network, so 10.77.0.1 and fd77::1; the others are numbered on.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::net::{IpAddr, SocketAddr};

use common::binary::Epmd;
use common::netns::{EPMD, Host, network, v4, v6};
use common::service::{Launch, Service, brief, found, listed};
use common::wire::{Answer, Node, Registered, ask, frame, register, send};
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Lines as JSON, so that a test can read them.
const JSON: &str = "[audit]\nformat = \"json\"\n";

/// A file with these lines of `[access]`.
fn access(lines: &str) -> String {
    format!("{JSON}[access]\n{lines}\n")
}

/// Fails the test unless `from` gets no byte for this request, and the audit's next event is this.
fn refused(service: &Service<'_>, from: &Host, to: IpAddr, request: &[u8], event: &str) -> Value {
    let what = String::from_utf8_lossy(request);
    assert_eq!(from.ask(to, request), Answer::Nothing, "{what}: {event}");
    let told = service.expect_event(event);
    assert_eq!(told["local"], to.to_string());
    told
}

/// The message of an event.
fn message(event: &Value) -> &str {
    event["message"].as_str().expect("a message")
}

/// Which address of a host a test goes by.
type Family = fn(&Host) -> IpAddr;

/// Every list that decides about lookups and lists, over one family.
fn assert_lists_decide(family: Family, start: impl for<'h> FnOnce(&'h Host, &str) -> Service<'h>) {
    let [server, member, lister, denied, outsider] =
        network(["server", "member", "lister", "denied", "outsider"]);
    let of = |host: &Host| family(host).to_string();
    let config = access(&format!(
        "allow = [\"{0}\", \"{1}\", \"{2}\"]\n\
         deny = [\"{2}\"]\n\
         list = [\"{1}\", \"{2}\"]\n\
         [access.node.wg_man]\n\
         allow = [\"{3}\", \"{2}\"]\n",
        of(&member),
        of(&lister),
        of(&denied),
        of(&outsider),
    ));
    let service = start(&server, &config);
    let _names = [service.hold("api"), service.hold("wg_man")];
    let to = family(&server);
    let both = listed(&["wg_man", "api"]);

    assert_eq!(member.ask(to, b"zapi"), found("api"));
    assert_eq!(lister.ask(to, b"zapi"), found("api"));
    assert_eq!(lister.ask(to, b"n"), both);
    assert_eq!(outsider.ask(to, b"zwg_man"), found("wg_man"));
    // A name that nobody has is looked up by the same rules.
    let unknown = Answer::Bytes(b"w\x01".to_vec());
    assert_eq!(member.ask(to, b"znobody"), unknown);

    for (from, request, operation, reason, words) in [
        (
            &member,
            &b"n"[..],
            "list",
            "not_allowed",
            "not in access.list",
        ),
        (
            &member,
            b"zwg_man",
            "lookup of wg_man",
            "not_allowed",
            "not in access.node.wg_man.allow",
        ),
        (
            &outsider,
            b"zapi",
            "lookup of api",
            "not_allowed",
            "not in access.allow",
        ),
        (&outsider, b"n", "list", "not_allowed", "not in access.list"),
        (
            &denied,
            b"zapi",
            "lookup of api",
            "denied",
            "in access.deny",
        ),
        (&denied, b"n", "list", "denied", "in access.deny"),
    ] {
        let event = format!("refused {operation} from {}: {reason}", of(from));
        let told = refused(&service, from, to, request, &event);
        assert!(message(&told).contains(words), "{told}");
    }
    // What changes something is this host's alone, whoever else is in a list.
    let registration = Node::new("intruder").request();
    for (request, operation) in [
        (&registration[..], "register of intruder"),
        (b"d", "dump"),
        (b"k", "kill"),
        (b"sapi", "stop of api"),
    ] {
        let event = format!("refused {operation} from {}: not_local", of(&lister));
        refused(&service, &lister, to, request, &event);
    }
    // This host is this host at every address of its own.
    assert_eq!(server.ask(to, b"n"), both);
    assert_eq!(server.ask(to, b"zwg_man"), found("wg_man"));
    let _held = register(server.connect(to), &Node::new("own")).held();
    assert_eq!(member.ask(to, b"zown"), found("own"));
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

#[test]
fn lists_decide_over_ipv4() {
    assert_lists_decide(Host::v4, |host, config| Service::start(host, config));
}

#[test]
fn lists_decide_over_ipv6() {
    assert_lists_decide(Host::v6, |host, config| Service::start(host, config));
}

/// Debian's epmd.socket listens for both families at once: IPv4 peers have IPv4-mapped addresses
/// there, and are the same peers in every list and in every line.
#[test]
fn lists_decide_about_ipv4_peers_of_a_socket_for_both_families() {
    assert_lists_decide(Host::v4, |host, config| {
        let socket = host.dual_stack_listener();
        Launch::on(host).config(config).activated(socket).start()
    });
}

#[test]
fn lists_decide_about_ipv6_peers_of_a_socket_for_both_families() {
    assert_lists_decide(Host::v6, |host, config| {
        let socket = host.dual_stack_listener();
        Launch::on(host).config(config).activated(socket).start()
    });
}

#[test]
fn with_nothing_configured_only_this_host_is_served() {
    let [server, stranger] = network(["server", "stranger"]);
    let service = Service::start(&server, JSON);
    let _name = service.hold("api");
    for (to, from) in [(server.v4(), stranger.v4()), (server.v6(), stranger.v6())] {
        assert_eq!(server.ask(to, b"zapi"), found("api"));
        let event = format!("refused lookup of api from {from}: not_allowed");
        refused(&service, &stranger, to, b"zapi", &event);
        let event = format!("refused list from {from}: not_allowed");
        refused(&service, &stranger, to, b"n", &event);
    }
}

/// The kernel has a node of this host come from its first address, whatever other one it connects to.
#[test]
fn this_host_is_served_at_each_of_its_addresses() {
    let [server, stranger] = network(["server", "stranger"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    let service = Service::start(&server, JSON);
    let _name = service.hold("api");
    let second = v4(101);
    assert_eq!(server.ask(second, b"zapi"), found("api"));
    assert_eq!(server.ask(second, b"n"), listed(&["api"]));
    let (_held, creation) = register(server.connect(second), &Node::new("web")).held();
    assert!(creation >= 4);
    let event = format!("refused lookup of api from {}: not_allowed", stranger.v4());
    refused(&service, &stranger, second, b"zapi", &event);
}

/// A node that connects to a secondary address of its host comes from the primary one; where a socket unit
/// listens everywhere and that address alone is served, it is this host all the same.
#[test]
fn this_host_is_served_where_a_secondary_address_alone_is() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    let service = Launch::on(&server)
        .activated(server.dual_stack_listener())
        .config(&access("allow = [\"10.77.0.2\"]"))
        .variable("ERL_EPMD_ADDRESS", "10.77.0.101")
        .start();
    let served = v4(101);
    let (_held, creation) = register(server.connect(served), &Node::new("api")).held();
    assert!(creation >= 4);
    assert_eq!(server.ask(served, b"zapi"), found("api"));
    assert_eq!(member.ask(served, b"zapi"), found("api"));
    let event = "refused lookup of api from 10.77.0.3: not_allowed";
    refused(&service, &stranger, served, b"zapi", event);
    let event = "refused lookup of api from 10.77.0.1: address_not_served";
    refused(&service, &server, v4(1), b"zapi", event);
}

/// A stranger's packets may be given an address of this host, by translation at the input hook: no socket of
/// this host is at that end, so it is a stranger, whatever it asks. (At 127.0.0.1 it is not asked for a lookup,
/// which is to cost a node of this host no more than it does.)
#[test]
fn a_stranger_with_an_address_of_this_host_is_a_stranger() {
    let [server, stranger] = network(["server", "stranger"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    server.ip("addr add fd77::101/64 dev eth0 nodad\n");
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    for (to, from, family) in [
        (v4(1), v4(1), "ip"),
        (v4(1), v4(101), "ip"),
        (v4(101), v4(1), "ip"),
        (v4(1), loopback, "ip"),
        (v6(1), v6(1), "ip6"),
        (v6(1), "fd77::101".parse().unwrap(), "ip6"),
    ] {
        let service = Service::start(&server, JSON);
        let _name = service.hold("api");
        server.nft(&format!(
            "table {family} t {{\nchain c {{\ntype nat hook input priority 100\niifname \"eth0\" snat to {from}\n}}\n}}\n"
        ));
        let register = Node::new("evil").request();
        for (asked, what, told) in [
            (&b"zapi"[..], "lookup of api", "not_allowed"),
            (b"n", "list", "not_allowed"),
            (b"d", "dump", "not_local"),
            (b"k", "kill", "not_local"),
            (b"sapi", "stop of api", "not_local"),
            (&register, "register of evil", "not_local"),
        ] {
            if from != loopback || asked != b"zapi" {
                let event = format!("refused {what} from {from}: {told}");
                refused(&service, &stranger, to, asked, &event);
            }
        }
        // Without the table: it would change the port of a connection that has a translated stranger's.
        server.nft(&format!("delete table {family} t\n"));
        // This host itself is there by the same addresses.
        assert_eq!(server.ask(to, b"zapi"), found("api"));
        assert_eq!(server.ask(to, b"n"), listed(&["api"]));
        assert_eq!(service.ask(b"n"), listed(&["api"]));
    }
}

/// What this host is exempt from, it is exempt from under each of its addresses: its share, and the
/// pressure of strangers.
#[test]
fn this_host_has_no_share_whatever_its_address() {
    let [server, stranger] = network(["server", "stranger"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    let limits = "[limits]\nconnections = 16\nper-source = 4\nrequest-timeout = \"60s\"\n";
    let service = Service::start(&server, &format!("{JSON}{limits}"));
    let _name = service.hold("api");
    let begin = |from: &Host| {
        let mut stream = from.connect(v4(101));
        send(&mut stream, b"\0\x04z");
        stream
    };
    let ours: Vec<_> = (0..10).map(|_| begin(&server)).collect();
    let _theirs: Vec<_> = (0..40).map(|_| begin(&stranger)).collect();
    // When this one is answered, all before it have been accepted.
    assert_eq!(stranger.ask(v4(101), b"zapi"), Answer::Nothing);
    for stream in ours {
        assert_eq!(ask(stream, b"api"), found("api"));
    }
}

#[test]
fn a_network_admits_what_is_in_it() {
    let [server, inside, outside] = network(["server", "inside", "outside"]);
    let service = Service::start(
        &server,
        &access("allow = [\"10.77.0.2/31\", \"fd77::2/128\"]"),
    );
    let _name = service.hold("api");
    assert_eq!(inside.ask(server.v4(), b"zapi"), found("api"));
    assert_eq!(outside.ask(server.v4(), b"zapi"), found("api"));
    assert_eq!(inside.ask(server.v6(), b"zapi"), found("api"));
    let event = "refused lookup of api from fd77::3: not_allowed";
    refused(&service, &outside, server.v6(), b"zapi", event);
}

#[test]
fn a_star_is_every_address_but_the_denied_ones() {
    let [server, anybody, denied] = network(["server", "anybody", "denied"]);
    let config = access("allow = [\"*\"]\ndeny = [\"10.77.0.3\", \"fd77::3\"]");
    let service = Service::start(&server, &config);
    let _name = service.hold("api");
    for to in [server.v4(), server.v6()] {
        assert_eq!(anybody.ask(to, b"zapi"), found("api"));
        assert_eq!(anybody.ask(to, b"n"), listed(&["api"]));
    }
    for (to, from) in [(server.v4(), denied.v4()), (server.v6(), denied.v6())] {
        let event = format!("refused lookup of api from {from}: denied");
        refused(&service, &denied, to, b"zapi", &event);
    }
    // Registration is no lookup: "*" does not open it.
    let registration = Node::new("intruder").request();
    let event = "refused register of intruder from 10.77.0.2: not_local";
    refused(&service, &anybody, server.v4(), &registration, event);
}

#[test]
fn without_enforcement_everyone_is_served_and_told_of() {
    let [server, stranger, denied] = network(["server", "stranger", "denied"]);
    let config = access("enforce = false\ndeny = [\"10.77.0.3\"]");
    let service = Service::start(&server, &config);
    let _name = service.hold("api");
    let to = server.v4();
    assert_eq!(stranger.ask(to, b"zapi"), found("api"));
    let told = service.expect_event("would_refuse lookup of api from 10.77.0.2: not_allowed");
    assert!(message(&told).starts_with("would refuse lookup of \"api\""));
    assert_eq!(told["severity"], "WARNING");
    assert_eq!(stranger.ask(to, b"n"), listed(&["api"]));
    service.expect_event("would_refuse list from 10.77.0.2: not_allowed");
    assert_eq!(denied.ask(to, b"zapi"), found("api"));
    service.expect_event("would_refuse lookup of api from 10.77.0.3: denied");
    // Who may look names up may look at the port.
    drop(stranger.connect(to));
    let registration = Node::new("intruder").request();
    for (request, event) in [
        (
            &registration[..],
            "refused register of intruder from 10.77.0.2: not_local",
        ),
        (b"d", "refused dump from 10.77.0.2: not_local"),
        (b"k", "refused kill from 10.77.0.2: not_local"),
        (b"sapi", "refused stop of api from 10.77.0.2: not_local"),
    ] {
        refused(&service, &stranger, to, request, event);
    }
    assert_eq!(service.ask(b"zapi"), found("api"));
}

/// systemd's socket listens everywhere whatever the epmd behind it was told: what came to another
/// address is refused then, however the epmd was told.
#[test]
fn an_address_that_is_not_to_be_served_is_not() {
    let told = [
        ("-address", "-address"),
        ("ERL_EPMD_ADDRESS", "ERL_EPMD_ADDRESS"),
        ("listen", "listen of "),
    ];
    let [server, member] = network(["server", "member"]);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    for (way, words) in told {
        let socket = server.dual_stack_listener();
        let launch = Launch::on(&server).activated(socket);
        let rest = access("allow = [\"10.77.0.0/24\", \"fd77::/64\"]");
        let launch = match way {
            "-address" => launch.config(&rest).arguments(&[way, "10.77.0.1"]),
            "listen" => launch.config(&format!("listen = [\"10.77.0.1\"]\n{rest}")),
            variable => launch.config(&rest).variable(variable, "10.77.0.1"),
        };
        let service = launch.start();
        let _name = service.hold("api");
        assert_eq!(member.ask(v4(1), b"zapi"), found("api"), "{way}");
        for (to, from) in [(v4(101), member.v4()), (v6(1), member.v6())] {
            let event = format!("refused lookup of api from {from}: address_not_served");
            let told = refused(&service, &member, to, b"zapi", &event);
            let words = format!("it came to {to}, which is not in {words}");
            assert!(message(&told).contains(&words), "{told}");
        }
        // That holds for this host's own connections too, loopback apart.
        let event = "refused list from 10.77.0.1: address_not_served";
        refused(&service, &server, v4(101), b"n", event);
        assert_eq!(server.ask("::1".parse().unwrap(), b"zapi"), found("api"));
        // A reload changes nothing of it.
        let both = "listen = [\"10.77.0.1\", \"10.77.0.101\"]\n";
        service.reload(&format!("{both}{rest}"));
        let event = "refused dump from 10.77.0.2: address_not_served";
        refused(&service, &member, v4(101), b"d", event);
    }
}

#[test]
fn a_good_file_is_in_force_at_once() {
    let [server, first, second] = network(["server", "first", "second"]);
    let service = Service::start(&server, &access("allow = [\"10.77.0.2\"]"));
    let _name = service.hold("api");
    let to = server.v4();
    assert_eq!(first.ask(to, b"zapi"), found("api"));
    let event = "refused lookup of api from 10.77.0.3: not_allowed";
    refused(&service, &second, to, b"zapi", event);
    service.reload(&access("allow = [\"10.77.0.3\"]"));
    assert_eq!(second.ask(to, b"zapi"), found("api"));
    let event = "refused lookup of api from 10.77.0.2: not_allowed";
    refused(&service, &first, to, b"zapi", event);
    assert_eq!(service.ask(b"n"), listed(&["api"]), "names are kept");
}

/// A request that has begun to come before the file is read again is one of the new file's.
#[test]
fn a_request_that_is_whole_after_a_reload_is_decided_by_the_new_file() {
    let [server, member] = network(["server", "member"]);
    let service = Service::start(&server, &access("allow = [\"10.77.0.2\"]"));
    let _name = service.hold("api");
    let mut stream = member.connect(server.v4());
    send(&mut stream, b"\0\x04za");
    service.reload(&access(""));
    assert_eq!(ask(stream, b"pi"), Answer::Nothing);
    service.expect_event("refused lookup of api from 10.77.0.2: not_allowed");
}

#[test]
fn a_bad_file_changes_nothing_and_all_its_errors_are_told() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let good = access("allow = [\"10.77.0.2\"]");
    let service = Service::start(&server, &good);
    let _name = service.hold("api");
    let config = service.config().to_owned();
    let still = |event: &str| {
        assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
        refused(&service, &stranger, server.v4(), b"zapi", event);
        service.wait_until_said("the settings from before stay in force");
    };

    service.reload(
        "[access]\nallow = [\"10.77.0.0/33\", \"10.77.0.3/24\"]\nalow = []\n[limits]\nconnections = \"many\"\n",
    );
    still("refused lookup of api from 10.77.0.3: not_allowed");
    for place in ["2:10", "2:26", "3:1", "5:15"] {
        let place = format!("{config}:{place}: ");
        assert!(
            service.said().contains(&place),
            "{place} {}",
            service.said()
        );
    }

    // A file that is no TOML, and none at all.
    service.reload("[access\n");
    assert!(service.said().contains(&format!("{config}:1:")));
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    fs::remove_file(&config).unwrap();
    service.signal(Signal::SIGHUP);
    service.wait_until_said(&format!("{config}: "));
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    // Lines of JSON have no name before them, nor have journald's.
    assert!(!service.said().contains("epmd: "), "{}", service.said());

    // The next good one is taken.
    service.reload(&access("allow = [\"10.77.0.3\"]"));
    assert_eq!(stranger.ask(server.v4(), b"zapi"), found("api"));
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

#[test]
fn a_line_of_json_has_the_fields_of_the_contract() {
    let [server, stranger] = network(["server", "stranger"]);
    let service = Service::start(&server, JSON);
    let fields = |event: &Value| -> Vec<String> {
        let object = event.as_object().expect("an object");
        object.keys().cloned().collect()
    };
    let to = server.v4();
    let told = refused(
        &service,
        &stranger,
        to,
        b"zapi",
        "refused lookup of api from 10.77.0.2: not_allowed",
    );
    let mut all = [
        "event",
        "local",
        "message",
        "node",
        "operation",
        "peer",
        "peer_port",
        "reason",
        "repeats",
        "severity",
        "time",
    ]
    .to_vec();
    assert_eq!(fields(&told), all);
    assert_eq!(told["severity"], "WARNING");
    assert_eq!(told["repeats"], 0);
    assert!(told["peer_port"].is_u64());
    let time = told["time"].as_str().unwrap();
    assert_eq!((time.len(), &time[19..20], &time[23..]), (24, ".", "Z"));
    let line = service.said();
    let line = line.lines().last().unwrap();
    let start = format!("{{\"time\":\"{time}\",\"severity\":\"WARNING\",");
    assert!(line.starts_with(&start), "{line}");
    // Without a name, there is no field for one.
    all.retain(|field| *field != "node");
    let event = "refused list from 10.77.0.2: not_allowed";
    assert_eq!(fields(&refused(&service, &stranger, to, b"n", event)), all);
}

#[test]
fn lines_of_text_say_the_same_and_the_format_can_be_changed() {
    let [server, stranger] = network(["server", "stranger"]);
    let service = Service::start(&server, "[audit]\nformat = \"text\"\n");
    let to = server.v4();
    assert_eq!(stranger.ask(to, b"zapi"), Answer::Nothing);
    let words =
        "epmd: refused lookup of \"api\" from 10.77.0.2: not in access.allow (to admit it: ";
    service.wait_until_said(words);
    let said = service.said();
    let line = said.lines().find(|line| line.contains(words)).unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(rest.starts_with(words), "{line}");
    assert_eq!((time.len(), &time[23..]), (24, "Z"), "{line}");

    service.reload(JSON);
    assert_eq!(stranger.ask(to, b"n"), Answer::Nothing);
    service.wait_until_said("\"operation\":\"list\"");
    let said = service.said();
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(brief(&last), "refused list from 10.77.0.2: not_allowed");
}

#[test]
fn answered_lookups_are_told_where_that_is_asked_for() {
    let [server, member] = network(["server", "member"]);
    let config = format!("{JSON}lookups = true\n[access]\nallow = [\"10.77.0.2\"]\n");
    let service = Service::start(&server, &config);
    let _name = service.hold("api");
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    let told = service.expect_event("lookup lookup of api from 10.77.0.2");
    assert_eq!(told["severity"], "INFO");
    assert_eq!(told.get("reason"), None);
    // A list is no lookup.
    assert_eq!(member.ask(server.v4(), b"n"), listed(&["api"]));
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    service.expect_event("lookup lookup of api from 10.77.0.2");
}

#[test]
fn repeats_are_counted_and_told_once_at_the_end_of_the_window() {
    let [server, stranger, other] = network(["server", "stranger", "other"]);
    let service = Service::start(&server, &format!("{JSON}window = \"2s\"\n"));
    let to = server.v4();
    for request in [
        &b"zapi"[..],
        b"zapi",
        b"zpartner",
        b"zapi",
        b"n",
        b"n",
        b"d",
    ] {
        assert_eq!(stranger.ask(to, request), Answer::Nothing);
    }
    for _ in 0..3 {
        assert_eq!(other.ask(to, b"zapi"), Answer::Nothing);
    }
    // The first of each is told at once.
    for event in [
        "refused lookup of api from 10.77.0.2: not_allowed",
        "refused list from 10.77.0.2: not_allowed",
        "refused dump from 10.77.0.2: not_local",
        "refused lookup of api from 10.77.0.3: not_allowed",
    ] {
        assert_eq!(service.expect_event(event)["repeats"], 0);
    }
    // The others are counted: with the name where it was one, without it where there were several.
    // A dump that came once is not told again.
    let mut sums = [(); 3].map(|()| {
        let event = service.next_event();
        let text = message(&event);
        assert!(
            text.contains(" more time") && text.ends_with(" s"),
            "{text}"
        );
        (brief(&event), event["repeats"].as_u64().unwrap())
    });
    sums.sort();
    assert_eq!(
        sums,
        [
            ("refused list from 10.77.0.2: not_allowed".to_owned(), 1),
            ("refused lookup from 10.77.0.2: not_allowed".to_owned(), 3),
            (
                "refused lookup of api from 10.77.0.3: not_allowed".to_owned(),
                2
            ),
        ]
    );
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

/// What is counted and not yet told when the daemon ends is told then.
#[test]
fn what_is_untold_at_the_end_is_told() {
    let [server, stranger] = network(["server", "stranger"]);
    let mut service = Service::start(&server, JSON);
    for _ in 0..3 {
        assert_eq!(stranger.ask(server.v4(), b"zapi"), Answer::Nothing);
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    let event = "refused lookup of api from 10.77.0.2: not_allowed";
    assert_eq!(service.expect_event(event)["repeats"], 0);
    assert_eq!(service.expect_event(event)["repeats"], 2);
}

/// Names that would be lines, fields or commands of a terminal, if they were told as they are.
const HOSTILE: [(&[u8], &str); 5] = [
    (
        b"x\",\"event\":\"lookup\",\"peer\":\"127.0.0.1",
        r#"x\",\"event\":\"lookup\",\"peer\":\"127.0.0.1"#,
    ),
    (
        b"x\n{\"event\":\"refused\",\"peer\":\"192.0.2.7\"}",
        r#"x\n{\"event\":\"refused\",\"peer\":\"192.0.2.7\"}"#,
    ),
    (
        b"x\" from 192.0.2.7: in access.deny\r\n2026-01-01T00:00:00.000Z epmd: refused all",
        r#"x\" from 192.0.2.7: in access.deny\r\n2026-01-01T00:00:00.000Z epmd: refused all"#,
    ),
    (b"\x1b[2J\x1b]0;owned\x07", r"\u{1b}[2J\u{1b}]0;owned\u{7}"),
    (
        "\u{202e}ipa\u{2028}\u{85}".as_bytes(),
        r"\u{202e}ipa\u{2028}\u{85}",
    ),
];

#[test]
fn no_name_forges_a_line_or_a_field_of_json() {
    let [server, stranger] = network(["server", "stranger"]);
    // With a window that is over at once, each of them is told.
    let service = Service::start(&server, &format!("{JSON}window = \"1ms\"\n"));
    let to = server.v4();
    for (name, told) in HOSTILE {
        let event = format!("refused lookup of {told} from 10.77.0.2: not_allowed");
        refused(&service, &stranger, to, &[b"z", name].concat(), &event);
    }
    // As the name of a node to be registered, and of one to be stopped.
    let (name, told) = HOSTILE[1];
    let registration = Node::new(name).request();
    let event = format!("refused register of {told} from 10.77.0.2: not_local");
    refused(&service, &stranger, to, &registration, &event);
    let event = format!("refused stop of {told} from 10.77.0.2: not_local");
    refused(&service, &stranger, to, &[b"s", name].concat(), &event);
    // No node can have a name that is no UTF-8; what was asked for is told all the same.
    let event = "refused lookup of \\xff\\xfe\\xc3( from 10.77.0.2: not_allowed";
    refused(&service, &stranger, to, b"z\xff\xfe\xc3(", event);
    // Every line is one object, and they are as many as there were requests.
    let said = service.said();
    let events = said.matches("\"event\":\"refused\"").count();
    assert_eq!(events, HOSTILE.len() + 3, "{said}");
}

#[test]
fn no_name_forges_a_line_of_text() {
    let [server, stranger] = network(["server", "stranger"]);
    let config = "[audit]\nformat = \"text\"\nwindow = \"1ms\"\n";
    let service = Service::start(&server, config);
    for (name, told) in HOSTILE {
        let request = [b"z", name].concat();
        assert_eq!(stranger.ask(server.v4(), &request), Answer::Nothing);
        service.wait_until_said(&format!("lookup of \"{told}\" from 10.77.0.2: "));
    }
    let said = service.said();
    let mut told = 0;
    for line in said.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line:?}");
        assert!(rest.starts_with("epmd: "), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        told += usize::from(rest.starts_with("epmd: refused "));
    }
    assert_eq!(told, HOSTILE.len(), "{said}");
}

/// A connection that asks nothing is a health check, if the peer may ask; else it is a scanner.
#[test]
fn a_connection_that_asks_nothing_is_an_event_only_from_a_stranger() {
    let [server, member, lister, looker, denied, stranger] =
        network(["server", "member", "lister", "looker", "denied", "stranger"]);
    let service = Service::start(
        &server,
        &access(
            "allow = [\"10.77.0.2\", \"10.77.0.5\", \"fd77::2\"]\n\
             list = [\"10.77.0.3\"]\n\
             deny = [\"10.77.0.5\"]\n\
             [access.node.wg_man]\n\
             allow = [\"10.77.0.4\"]\n",
        ),
    );
    for host in [&server, &member, &lister, &looker] {
        drop(host.connect(server.v4()));
    }
    drop(member.connect(server.v6()));
    for (host, to, from) in [
        (&stranger, server.v4(), stranger.v4()),
        (&stranger, server.v6(), stranger.v6()),
        (&denied, server.v4(), denied.v4()),
    ] {
        drop(host.connect(to));
        let told = service.expect_event(&format!("refused none from {from}: closed"));
        assert!(message(&told).starts_with(&format!("refused connection from {from}: closed ")));
    }
    // Bytes that are no request are an event, whoever sent them.
    let to = server.v4();
    let event = "refused invalid from 10.77.0.2: malformed";
    refused(&service, &member, to, b"?", event);
    let event = "refused invalid from 10.77.0.6: malformed";
    refused(&service, &stranger, to, b"?", event);
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

/// What the message says has to be added, and to what.
fn admitting(event: &Value) -> (String, String) {
    let (_, rest) = message(event)
        .split_once(" (to admit it: add \"")
        .expect("a line that would admit the peer");
    let (address, place) = rest.split_once("\" to ").expect("a place");
    let place = place.strip_suffix(')').expect("the end of the message");
    (address.to_owned(), place.to_owned())
}

#[test]
fn the_line_that_the_first_refusal_names_admits_the_peer() {
    for family in [Host::v4 as Family, Host::v6] {
        let [server, peer] = network(["server", "peer"]);
        let (to, from) = (family(&server), family(&peer).to_string());
        let service = Service::start(&server, JSON);
        let _names = [service.hold("api"), service.hold("wg_man")];
        let config = service.config().to_owned();
        let lookup = |name: &str| format!("refused lookup of {name} from {from}: not_allowed");
        let list = format!("refused list from {from}: not_allowed");
        let of_file = |place: &str| format!("{place} of {config}");

        // Nothing configured: the file, or the variable.
        let told = refused(&service, &peer, to, b"zapi", &lookup("api"));
        let place = of_file("allow in [access]") + ", or to EPMD_ALLOW";
        assert_eq!(admitting(&told), (from.clone(), place));
        let allow = format!("allow = [\"{from}\"]\n");
        service.reload(&access(&allow));
        assert_eq!(peer.ask(to, b"zapi"), found("api"));

        // A list of its own for lists.
        service.reload(&access(&format!("{allow}list = []\n")));
        let told = refused(&service, &peer, to, b"n", &list);
        let place = of_file("list in [access]");
        assert_eq!(admitting(&told), (from.clone(), place));
        service.reload(&access(&format!("{allow}list = [\"{from}\"]\n")));
        assert_eq!(peer.ask(to, b"n"), listed(&["wg_man", "api"]));

        // A list of its own for a name.
        let node = "[access.node.wg_man]\n";
        service.reload(&access(&format!("{allow}{node}allow = []\n")));
        // Its refusals are still in the window of the first one: another peer would be told.
        drop(service);
        let service = Service::start(&server, &access(&format!("{allow}{node}allow = []\n")));
        let _names = [service.hold("api"), service.hold("wg_man")];
        let told = refused(&service, &peer, to, b"zwg_man", &lookup("wg_man"));
        let place = of_file("allow in [access.node.wg_man]");
        assert_eq!(admitting(&told), (from.clone(), place));
        service.reload(&access(&format!("{allow}{node}{allow}")));
        assert_eq!(peer.ask(to, b"zwg_man"), found("wg_man"));
    }
}

/// A list that comes from elsewhere takes the place of the file's: the message names that one.
#[test]
fn the_line_that_admits_is_named_where_the_list_in_force_comes_from() {
    let [server, peer] = network(["server", "peer"]);
    let to = server.v4();
    let launch = |place: &str, networks: &str| {
        let launch = Launch::on(&server).config(JSON);
        if place.starts_with('-') {
            launch.arguments(&[place, networks]).start()
        } else {
            launch.variable(place, networks).start()
        }
    };
    for place in ["EPMD_ALLOW", "-allow"] {
        let service = launch(place, "192.0.2.7");
        let event = "refused lookup of api from 10.77.0.2: not_allowed";
        let told = refused(&service, &peer, to, b"zapi", event);
        assert_eq!(admitting(&told), ("10.77.0.2".into(), place.into()));
        drop(service);
        let service = launch(place, "192.0.2.7,10.77.0.2");
        let _name = service.hold("api");
        assert_eq!(peer.ask(to, b"zapi"), found("api"));
    }
}

/// A kill or a stop that is not allowed is answered as ever, and told and counted as every refusal.
#[test]
fn a_kill_or_stop_of_this_host_that_is_not_allowed_is_told() {
    let [server] = network(["server"]);
    let service = Service::start(&server, "[audit]\nformat = \"json\"\nwindow = \"1s\"\n");
    let _api = service.hold("api");
    for (request, answer, event, why) in [
        (
            &b"k"[..],
            Answer::Bytes(b"NO".to_vec()),
            "refused kill from 127.0.0.1: not_allowed",
            "names are registered, and relaxed_command_check is off",
        ),
        (
            b"sapi",
            Answer::Nothing,
            "refused stop of api from 127.0.0.1: not_allowed",
            "relaxed_command_check is off",
        ),
    ] {
        for _ in 0..3 {
            assert_eq!(service.ask(request), answer);
        }
        let told = service.expect_event(event);
        assert!(message(&told).ends_with(why), "{told}");
        let sum = service.expect_event(event);
        assert_eq!(sum["repeats"], 2);
    }
    service.assert_alive();
}

#[test]
fn a_name_that_is_taken_is_told_once_a_window() {
    let [server] = network(["server"]);
    let service = Service::start(&server, "[audit]\nformat = \"json\"\nwindow = \"1s\"\n");
    let _api = service.hold("api");
    let _web = service.hold("web");
    for name in ["api", "web", "api", "api"] {
        let registration = service.register(&Node::new(name));
        assert_eq!(registration.end, Registered::Taken { left_open: false });
    }
    for name in ["api", "web"] {
        let told = service.expect_event(&format!("taken register of {name} from 127.0.0.1"));
        assert_eq!(
            (&told["repeats"], &told["severity"]),
            (&0.into(), &"WARNING".into())
        );
        assert!(told.get("reason").is_none(), "{told}");
        let words = format!("\"{name}\" is registered already, by root (uid 0), since ");
        let rest = message(&told).strip_prefix(&words).expect("since when");
        let time = rest.strip_suffix("; refused to uid 0").expect("to whom");
        assert!(
            time.len() == "14:02 UTC".len() && time.ends_with(" UTC"),
            "{time}"
        );
    }
    let sum = service.expect_event("taken register of api from 127.0.0.1");
    assert_eq!(sum["repeats"], 2);
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

/// One host with a /64 full of addresses keeps nobody else out of lines and table.
#[test]
fn a_host_with_many_addresses_keeps_nobody_out() {
    let [server, many, prober] = network(["server", "many", "prober"]);
    many.ip("route add local fd78::/48 dev lo\n");
    server.ip("route add fd78::/48 via fd77::2\n");
    let service = Service::start(&server, JSON);
    many.enter(|| {
        for n in 0..300 {
            let from: IpAddr = [0xfd78, 0, 0, n % 2, 0, 0, 0, n + 1].into();
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
            // It is the host's by a route; there is no interface that has it.
            socket.set_freebind_v6(true).expect("an option");
            socket
                .bind(&SocketAddr::new(from, 0).into())
                .expect("bound");
            let to = SocketAddr::new(server.v6(), EPMD);
            socket.connect(&to.into()).expect("connected");
            assert_eq!(ask(socket.into(), &frame(b"zapi")), Answer::Nothing);
        }
    });
    for _ in 0..3 {
        assert_eq!(prober.ask(server.v6(), b"zapi"), Answer::Nothing);
    }
    let told: Vec<String> = service.other_events().iter().map(brief).collect();
    let first = "refused lookup of api from fd77::3: not_allowed";
    assert_eq!(
        told.iter().filter(|line| *line == first).count(),
        1,
        "{told:#?}"
    );
    assert!(told.len() <= 100, "{told:#?}");
    let status = server.run(Epmd::Ours.command().args(["-status", "-json"]));
    let status: Value = serde_json::from_str(&status.stdout).expect("one JSON object");
    let refusals: Vec<_> = status["refusals"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| (r["source"].as_str(), r["count"].as_u64()))
        .collect();
    assert_eq!(
        refusals[..4],
        [
            (Some("fd77::3"), Some(3)),
            (Some("fd78:0:0:1::/64"), Some(118)),
            (Some("fd78::/64"), Some(118)),
            (Some("fd78:0:0:1::40"), Some(1)),
        ]
    );
    assert_eq!(refusals.len(), 3 + 64);
}
