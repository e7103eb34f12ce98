//! The daemon's own sandbox beside the unit's: what is in force, and that nothing of the host's is cut off by it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use nix::unistd::geteuid;
use serde_json::Value;

use super::common::PATIENCE;
use super::common::inject::{Outside, succeeds};
use super::common::wait_for;
use super::common::wire::{Answer, Node, lookup_answer};
use super::{PORT, Service, hold, local, lookup, on_a_host, on_a_host_with_landlock, unknown};

const FILE: &str = "/etc/epmd.toml";

/// What the daemon says of its sandbox.
fn told(service: &Service<'_>) -> Value {
    let socket = service.path("/run/epmd/control.sock");
    let mut socket = UnixStream::connect(socket).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(b"status\n").expect("asked");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let status: Value = serde_json::from_str(&answer).expect("JSON");
    status["sandbox"].clone()
}

#[test]
fn under_the_unit_it_shuts_itself_in_as_well_and_all_goes_on() {
    assert!(geteuid().is_root());
    on_a_host_with_landlock(|service| {
        let neighbour = service.neighbour(1);
        let ask = || lookup(neighbour.connect(&neighbour.host(), PORT), "api");
        service.write(FILE, "");
        service.systemctl("start");
        let node = Node::new("api");
        let _holder = hold(&node);
        let sandbox = told(service);
        assert_eq!(sandbox["no_new_privs"], true);
        assert_eq!(sandbox["capabilities"], false);
        assert!(sandbox["landlock"].as_u64() >= Some(4), "{sandbox}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let outside = Outside {
            file: FILE.to_owned(),
            folder: "/run/epmd".to_owned(),
            port: listener.local_addr().expect("an address").port(),
            free: 1234,
        };
        // As epmd's own user it may read what everybody may, where its settings are.
        let mut done = succeeds(service.daemon(), &outside);
        done.retain(|what| {
            !what.starts_with("reading /etc/group") && !what.starts_with("reading a file")
        });
        assert!(done.is_empty(), "{done:#?}");

        // Another file in the settings' place, read again; journald's socket, made anew.
        assert_eq!(ask(), Answer::Nothing);
        service.must("systemctl restart systemd-journald");
        service.write(
            "/etc/epmd.toml.new",
            "[access]\nallow = [\"10.77.1.0/24\"]\n",
        );
        service.must("mv /etc/epmd.toml.new /etc/epmd.toml");
        service.systemctl("reload");
        let found = Answer::Bytes(lookup_answer(Some(&node)));
        wait_for("the new settings", || (ask() == found).then_some(()));
        service.wait_for_message("reloaded: serving this host, 10.77.1.0/24");
        // What is kept for the next one is handed on.
        let before = service.kill_daemon();
        service.daemon_after(before);
        assert_eq!(ask(), found, "after a kill");
        service.must("rm /etc/epmd.toml");
        service.systemctl("restart");
        assert_eq!(lookup(local(), "api"), found, "after a restart");
        // And a file that was not there when it started.
        assert_eq!(ask(), Answer::Nothing);
        service.write(FILE, "[access]\nallow = [\"10.77.1.0/24\"]\n");
        service.systemctl("reload");
        wait_for("the new settings", || (ask() == found).then_some(()));
        assert!(
            !service.messages().contains("sandbox: "),
            "{}",
            service.messages()
        );
        assert!(told(service)["landlock"].as_u64() >= Some(4));
    });
}

#[test]
fn on_a_host_whose_filter_forbids_landlock_it_goes_on_and_says_so() {
    on_a_host(|service| {
        service.systemctl("start");
        assert_eq!(lookup(local(), "api"), unknown());
        let sandbox = told(service);
        assert_eq!(sandbox["no_new_privs"], true);
        assert_eq!(sandbox["capabilities"], false);
        assert!(sandbox["landlock"].is_null(), "{sandbox}");
        service.wait_for_message("a seccomp filter does not let it be used");
    });
}
