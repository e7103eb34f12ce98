//! A store that holds what no daemon of this version puts there: what makes no sense is dropped, and said,
//! and the daemon starts.

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hardened_epmd::core::wire;
use hardened_epmd::daemon::systemd::record::Record;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use sd_notify::NotifyState;

use super::common::wire::{Answer, Node, lookup_answer};
use super::{hold, local, lookup, on_a_host, unknown};

/// What stands in for the daemon: this program, told to run one function.
const STAND_IN: &str = "[Service]\nExecStart=\n\
    ExecStart=/usr/bin/stand-in --ignored --exact junk::fills_the_store --nocapture\n";

fn store(name: &str, descriptor: BorrowedFd<'_>) {
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    sd_notify::notify_with_fds(&states, &[descriptor]).expect("systemd told");
}

/// A drawer, both ends in the store; the first one is for messages.
fn drawer(number: u32) -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (input, output) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair");
    store(&format!("drawer-{number}-in"), input.as_fd());
    store(&format!("drawer-{number}-out"), output.as_fd());
    (input, output)
}

/// Puts a message into a drawer, with descriptors.
fn put(drawer: &(OwnedFd, OwnedFd), message: &[u8], with: &[BorrowedFd<'_>]) {
    let descriptors: Vec<_> = with.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if with.is_empty() { &[][..] } else { &rights };
    let data = [std::io::IoSlice::new(message)];
    let input = drawer.0.as_raw_fd();
    sendmsg::<()>(input, &data, rights, MsgFlags::empty(), None).expect("a message sent");
}

/// A record as the daemon writes it.
fn record(id: u64, name: &str) -> Vec<u8> {
    let node = wire::Node::new(name.as_bytes(), 4711);
    Record {
        id,
        creation: 4,
        since: 0,
        node,
        user: None,
    }
    .encode()
}

/// Not a test: runs on the host in the daemon's place, and fills the store.
#[test]
#[ignore = "runs as a service of a host"]
fn fills_the_store() {
    // systemd takes no descriptor twice.
    let file = || fs::File::open("/usr/bin/stand-in").expect("a file");
    let udp = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    store("drawer-0-in", file().as_fd());
    store("drawer-0-out", reader.as_fd());
    store("drawer-1-in", udp().as_fd());
    store("settings-1", udp().as_fd());
    store("settings-2", file().as_fd());
    store("listen-127.0.0.1-4369", udp().as_fd());
    store("listen-0.0.0.0-4369", elsewhere.as_fd());
    store("whatever", file().as_fd());

    let drawer = drawer(9);
    let node = TcpStream::connect(elsewhere.local_addr().expect("an address")).expect("connected");
    put(&drawer, b"no record", &[]);
    put(&drawer, b"no record", &[node.as_fd(), file().as_fd()]);
    let mut newer = record(1, "newer");
    newer[4] = 200;
    put(&drawer, &newer, &[node.as_fd()]);
    put(&drawer, &record(2, "file"), &[file().as_fd()]);
    put(&drawer, &record(3, "udp"), &[udp().as_fd()]);
    put(&drawer, &record(4, "gone"), &[]);
    put(&drawer, &record(5, "listener"), &[elsewhere.as_fd()]);
    // Its other end is `elsewhere`, in this process, and ends with it.
    put(&drawer, &record(6, "dead"), &[node.as_fd()]);
    sd_notify::notify(&[NotifyState::Ready]).expect("systemd told");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn what_makes_no_sense_is_dropped_and_the_daemon_starts() {
    on_a_host(|service| {
        let this = std::env::current_exe().expect("this program");
        service.install(&fs::read(this).expect("this program"), "/usr/bin/stand-in");
        service.drop_in(STAND_IN);
        service.systemctl("start");
        // With the takeover's own socket.
        assert_eq!(service.property("NFileDescriptorStore"), "11");

        service.remove("/etc/systemd/system/hardened-epmd.service.d/test.conf");
        service.must("systemctl daemon-reload");
        service.systemctl("restart");
        for name in ["newer", "file", "udp", "gone", "listener", "dead"] {
            assert_eq!(lookup(local(), name), unknown(), "{name}");
        }
        service.wait_for_message("version 200");
        service.wait_for_message("\"file\": its connection is no TCP connection");
        service.wait_for_message("\"udp\": its connection is no TCP connection");
        service.wait_for_message("dropped \"listen-127.0.0.1-4369\"");
        service.wait_for_message("dropped \"whatever\"");

        // It keeps registrations as ever.
        let node = Node::new("api");
        let _holder = hold(&node);
        let before = service.kill_daemon();
        service.daemon_after(before);
        let found = Answer::Bytes(lookup_answer(Some(&node)));
        assert_eq!(lookup(local(), "api"), found);
        assert_eq!(service.property("Result"), "success");
    });
}
