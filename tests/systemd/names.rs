//! Whose a name is, asked from inside the unit's sandbox, where other users are hidden.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, setfsuid};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::common::PATIENCE;
use super::common::wait_for;
use super::common::wire::{Node, Registered, register};
use super::{PORT, Service, local, lookup, on_a_host, signal, unknown};

const FILE: &str = "/etc/epmd.toml";
const ALICE: u32 = 71_001;
const BOB: u32 = 71_002;

/// What becomes of a registration by this user, and its connection.
fn try_register(uid: u32, name: &str) -> (Registered, Option<TcpStream>) {
    let stream = std::thread::scope(|scope| {
        let connect = || {
            setfsuid(Uid::from_raw(uid));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let epmd = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
            socket.connect(&epmd.into()).expect("a connection");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            TcpStream::from(socket)
        };
        scope.spawn(connect).join().expect("a connection")
    });
    let registration = register(stream, &Node::new(name));
    match registration.end {
        Registered::Held => (Registered::Held, Some(registration.held().0)),
        other => (other, None),
    }
}

fn end(uid: u32, name: &str) -> Registered {
    try_register(uid, name).0
}

fn wait_until_free(name: &str) {
    wait_for("the name to be free", || {
        (lookup(local(), name) == unknown()).then_some(())
    });
}

/// The user who holds a name, as `epmd -status` has it.
fn holder(service: &Service<'_>, name: &str) -> Value {
    let status = service.must("epmd -status -json");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let all = status["registrations"].as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == name).expect(name);
    one["holder"]["uid"].clone()
}

#[test]
fn a_name_is_its_users_inside_the_sandbox_and_over_restarts() {
    on_a_host(|service| {
        service.must(&format!(
            "printf 'alice:x:{ALICE}:{ALICE}::/:/bin/sh\nbob:x:{BOB}:{BOB}::/:/bin/sh\n' >> /etc/passwd"
        ));
        service.write(FILE, "[names]\nusers = [\"alice\"]\n");
        service.systemctl("start");
        let (held, _alices) = try_register(ALICE, "api");
        assert_eq!(held, Registered::Held);
        assert_eq!(end(BOB, "web"), Registered::Closed);
        let entry =
            "journalctl --no-pager -o cat EPMD_REASON=not_owner EPMD_UID=71002 EPMD_NODE=web";
        wait_for("the audit's line", || {
            let told = service.must(entry);
            let words = "user bob (uid 71002) is not in names.users (to admit it: add \"bob\" to users in [names] of";
            told.contains(words).then_some(())
        });
        assert_eq!(holder(service, "api"), ALICE);
        let stored = service.property("NFileDescriptorStore");

        service.systemctl("restart");
        assert_eq!(holder(service, "api"), ALICE, "after a restart");
        assert_eq!(end(BOB, "web"), Registered::Closed, "after a restart");
        for _ in 0..2 {
            let before = service.kill_daemon();
            service.daemon_after(before);
            assert_eq!(end(BOB, "web"), Registered::Closed, "after a kill");
            assert_eq!(holder(service, "api"), ALICE, "after a kill");
        }
        assert_eq!(
            service.property("NFileDescriptorStore"),
            stored,
            "it piles up"
        );

        // What is held is held over restarts; also where the node ends while no daemon runs.
        service.write(FILE, "[names]\nhold = \"1h\"\n");
        service.systemctl("reload");
        wait_for("the new settings", || {
            (end(BOB, "free") == Registered::Held).then_some(())
        });
        let (held, rabbit) = try_register(ALICE, "rabbit");
        assert_eq!(held, Registered::Held);
        let (held, late) = try_register(ALICE, "late");
        assert_eq!(held, Registered::Held);
        drop(rabbit);
        wait_until_free("rabbit");
        service.systemctl("restart");
        assert_eq!(end(BOB, "rabbit"), Registered::Closed, "after a restart");
        let daemon = service.daemon();
        signal(daemon, Signal::SIGSTOP);
        drop(late);
        let before = service.kill_daemon();
        service.daemon_after(before);
        wait_until_free("late");
        for name in ["rabbit", "late"] {
            assert_eq!(end(BOB, name), Registered::Closed, "{name} after a kill");
            assert_eq!(end(ALICE, name), Registered::Held, "{name} after a kill");
        }

        // A unit without the line that opens the socket: it says what is missing, and does not start.
        service.systemctl("stop");
        service.drop_in("[Service]\nExecStartPre=\n");
        let start = service.run(&["systemctl", "start", "hardened-epmd.service"]);
        assert_eq!(start.status, Some(1), "{start:?}");
        assert_eq!(service.property("ExecMainStatus"), "78");
        service.wait_for_message("inside this user namespace other users look alike");
        service.write(FILE, "");
        service.systemctl("start");
        assert_eq!(end(BOB, "web"), Registered::Held);
    });
}
