//! By which list a port is guarded, and whose port it is.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::common::netns::network;
use super::common::service::{Service, brief};
use super::common::wait_for;
use super::common::wire::{Node, register};
use super::{Met, Stand, epmd, event, file, guard, meet, rules, status, until_met};

#[test]
fn lists_by_name_deny_and_enforce_go_by_the_daemons_reload() {
    let [api, member, other] = network(["api", "member", "other"]);
    let config = file(&format!(
        "allow = [\"{}\", \"{}\", \"10.77.0.0/24\", \"fd77::/64\"]\n[access.node.wg_man]\nallow = [\"{}\"]",
        member.v4(),
        other.v4(),
        member.v4()
    ));
    let service = Service::start(&api, &config);
    let plain = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let both = Stand::up(&api, &service, "both", "[::]:0");
    let own = Stand::up(&api, &service, "wg_man", "0.0.0.0:0");
    let one = Stand::up(&api, &service, "odd\"};\u{fc}", &format!("{}:0", api.v4()));
    let guard = guard(&api, &config);
    for host in [&member, &other] {
        for to in [
            plain.at(api.v4()),
            both.at(api.v4()),
            both.at(api.v6()),
            one.at(api.v4()),
        ] {
            assert_eq!(meet(host, to), Met::Accepted, "{to}: {}", rules(&api));
        }
    }
    assert_eq!(meet(&member, own.at(api.v4())), Met::Accepted);
    assert_eq!(
        meet(&other, own.at(api.v4())),
        Met::Reset,
        "{}",
        rules(&api)
    );
    let told = event(&guard, |e| e["node"] == "wg_man");
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("not in access.node.wg_man.allow"),
        "{message}"
    );

    // A peer that is admitted is taken out: new connections are turned away, those that are go on.
    let established = member
        .enter(|| TcpStream::connect(plain.at(api.v4())))
        .unwrap();
    let peer = established.local_addr().unwrap();
    // Others came before, and went.
    let mut accepted = wait_for("its other end", || {
        let (stream, from) = plain.listener.accept().unwrap();
        (from == peer).then_some(stream)
    });
    let denying = file(&format!(
        "allow = [\"10.77.0.0/24\"]\ndeny = [\"{}\"]",
        member.v4()
    ));
    service.reload(&denying);
    let took = until_met(&member, plain.at(api.v4()), Met::Reset);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let told = event(&guard, |e| e["reason"] == "denied");
    assert_eq!(
        brief(&told),
        format!("refused connect of api from {}: denied", member.v4())
    );
    assert_eq!(
        meet(&other, own.at(api.v4())),
        Met::Accepted,
        "its own list is gone"
    );
    assert_eq!(
        meet(&other, both.at(api.v6())),
        Met::Reset,
        "IPv6 is out of the list"
    );
    std::io::Write::write_all(&mut &established, b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();

    // Without enforce, it is counted and let in.
    service.reload(&denying.replace("[audit]", "enforce = false\n[audit]"));
    until_met(&member, plain.at(api.v4()), Met::Accepted);
    let told = event(&guard, |e| e["event"] == "would_refuse");
    assert_eq!(
        brief(&told),
        format!("would_refuse connect of api from {}: denied", member.v4())
    );
    service.reload(&denying);
    until_met(&member, plain.at(api.v4()), Met::Reset);
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(0), "{check:?}");
    assert!(check.stdout.contains("as it should be: "), "{check:?}");
    drop(accepted);
}

#[test]
fn a_port_is_guarded_only_where_the_user_listens_who_registered_it() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    let service = Service::start(&api, &config);
    // Root's listener, nobody's registration; and root's ssh by root itself.
    let web = api.enter(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    let ssh = api.enter(|| TcpListener::bind("0.0.0.0:22")).unwrap();
    let _ssh_name = register(
        service.connect(),
        &Node {
            port: 22,
            ..Node::new("root")
        },
    )
    .held();
    let mut other = api.spawn(
        Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                REGISTER,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut ready = [0; 1];
    other
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let own = Stand::up(&api, &service, "own", "0.0.0.0:0");
    let guard = guard(&api, &config);
    until_met(&stranger, own.at(api.v4()), Met::Reset);
    for port in [8080, 22, 4369] {
        assert_eq!(
            meet(&stranger, (api.v4(), port)),
            Met::Accepted,
            "{port}: {}",
            rules(&api)
        );
    }
    for (port, why) in [
        (
            8080,
            "user 0 listens there, and user 65534 registered the name",
        ),
        (22, "it is ssh's"),
        (4369, "it is epmd's own"),
    ] {
        let text = format!("port {port}, with which");
        guard.wait_until_said(&text);
        let said = guard.said();
        let line = said.lines().find(|line| line.contains(&text)).unwrap();
        assert!(line.contains(why), "{line}");
    }
    // Its own port of the other family does not open root's, nor the other way.
    let left = wait_for("the ports that are left alone", || {
        let left = status(&api)["guard"]["left_alone"].clone();
        (left.as_array()?.len() == 3).then_some(left)
    });
    assert_eq!(left[0]["port"], 4369, "{left}");
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(1), "{check:?}");
    assert!(check.stdout.contains("port 8080, with which"), "{check:?}");
    let _ = other.kill();
    let _ = other.wait();
    drop((web, ssh));
}

/// Registers names with ports of others, says so, and waits.
const REGISTER: &str = r#"
import socket, struct, sys
held = []
for name, port in ((b"a-epmd", 4369), (b"thief", 8080)):
    s = socket.create_connection(("127.0.0.1", 4369))
    body = b"x" + struct.pack(">HBBHHH", port, 77, 0, 6, 5, len(name)) + name + b"\0\0"
    s.sendall(struct.pack(">H", len(body)) + body)
    assert s.recv(1) == b"v"
    held.append(s)
sys.stdout.write("r"); sys.stdout.flush()
sys.stdin.read()
"#;

#[test]
fn ports_of_the_file_are_guarded_before_a_node_registers_and_refused_where_others_listen() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = format!("{}[guard]\nports = [\"9100-9109\"]\n", file("allow = []"));
    let service = Service::start(&api, &config);
    let taken = api.enter(|| TcpListener::bind("0.0.0.0:9105")).unwrap();
    let guard = guard(&api, &config);
    guard.wait_until_said("port 9105 of [guard] ports is refused, and not guarded: ");
    let said = guard.said();
    assert!(
        said.contains(&format!("(process {})", std::process::id())),
        "{said}"
    );
    assert_eq!(meet(&stranger, (api.v4(), 9105)), Met::Accepted);
    assert_eq!(meet(&stranger, (api.v4(), 9104)), Met::Reset);
    let told = event(&guard, |e| e["operation"] == "connect");
    assert!(told.get("node").is_none(), "{told}");
    assert!(
        told["message"].as_str().unwrap().contains("on port 9104"),
        "{told}"
    );
    // It goes by the file again at SIGHUP; a bad one changes nothing.
    drop(taken);
    until_met(&stranger, (api.v4(), 9105), Met::Reset);
    fs::write(guard.config(), config.replace("9100-9109", "9104-9200")).unwrap();
    guard.signal(nix::sys::signal::Signal::SIGHUP);
    guard.wait_until_said("reloaded: [guard] and [audit]");
    until_met(&stranger, (api.v4(), 9150), Met::Reset);
    fs::write(guard.config(), config.replace("9100-9109", "20-30")).unwrap();
    guard.signal(nix::sys::signal::Signal::SIGHUP);
    guard.wait_until_said("holds port 22, which is ssh's");
    guard.wait_until_said("not reloaded");
    assert!(rules(&api).contains("9104-9200"));
    // A node of the range is one of its name once it has registered.
    fs::write(guard.config(), &config).unwrap();
    let node = Stand::up(&api, &service, "api", "0.0.0.0:9107");
    until_met(&stranger, node.at(api.v4()), Met::Reset);
    // What came before, to no node, is in a line of its own.
    wait_for("an event with its name", || {
        assert_eq!(meet(&stranger, node.at(api.v4())), Met::Reset);
        guard
            .events()
            .iter()
            .any(|e| e["node"] == "api")
            .then_some(())
    });
}

#[test]
fn the_printed_rules_are_rules_and_do_what_the_guards_do() {
    let [api, stranger] = network(["api", "stranger"]);
    let service = Service::start(&api, &file("allow = []"));
    let node = Stand::up(&api, &service, "api", "[::]:0");
    let printed = epmd(&api, &["-guard", "-print"]);
    assert_eq!(
        (printed.status, &*printed.stderr),
        (Some(0), ""),
        "{printed:?}"
    );
    // Twice: what is there is replaced.
    for _ in 0..2 {
        api.nft(&printed.stdout);
    }
    for address in [api.v4(), api.v6()] {
        assert_eq!(
            meet(&stranger, SocketAddr::new(address, node.port())),
            Met::Reset
        );
    }
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(0), "{check:?}");
}
