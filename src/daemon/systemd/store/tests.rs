//! Drawers, with a process 1 of the tests' own.

use std::collections::BTreeMap;
use std::io::{IoSliceMut, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, UnixAddr, recvmsg};

use super::*;
use crate::core::wire::Node;
use crate::sys;

const PLENTY: Room = Room {
    descriptors: 100_000,
    connections: 100_000,
};

fn record(id: Id, name: &str) -> Record<'_> {
    let node = Node::new(name.as_bytes(), 1);
    Record {
        id,
        creation: 4,
        since: 0,
        node,
        user: None,
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::empty();
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

/// A connection: the daemon's end, and the node's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, node)
}

/// Process 1 as far as its store goes.
struct Init {
    socket: UnixDatagram,
    manager: &'static Manager,
    store: BTreeMap<String, OwnedFd>,
    _folder: tempfile::TempDir,
}

impl Init {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::at(UnixAddr::new(&path).unwrap()).unwrap();
        Self {
            socket,
            manager: Box::leak(Box::new(manager)),
            store: BTreeMap::new(),
            _folder: folder,
        }
    }

    /// Reads and does what it was told.
    fn work(&mut self) {
        let mut buffer = [0; 4096];
        let mut space = cmsg_space!([libc::c_int; 1]);
        loop {
            let mut data = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let from = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<()>(from, &mut data, Some(&mut space), flags) else {
                return;
            };
            let mut descriptor = None;
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(d) = control {
                    descriptor = d.into_iter().map(sys::adopt).next();
                }
            }
            let count = message.bytes;
            let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
            let (what, name) = text.split_once("\nFDNAME=").unwrap();
            match what {
                "FDSTORE=1" => assert!(
                    self.store
                        .insert(name.into(), descriptor.unwrap())
                        .is_none()
                ),
                "FDSTOREREMOVE=1" => drop(self.store.remove(name)),
                other => panic!("{other}"),
            }
        }
    }

    /// Fills its socket, so that it takes nothing more.
    fn fill(&self) {
        while self.manager.tell("FDSTOREREMOVE=1\nFDNAME=x", &[]).is_ok() {}
    }

    /// What the next process is handed.
    fn hand_over(&self) -> BTreeMap<(u32, End), OwnedFd> {
        let copy =
            |(name, fd): (&String, &OwnedFd)| (drawer_end(name).unwrap(), fd.try_clone().unwrap());
        self.store.iter().map(copy).collect()
    }

    /// A restart.
    fn reopen(&self) -> (Store, Vec<Kept>, Vec<String>) {
        let mut notes = Vec::new();
        let ends = self.hand_over();
        let (store, kept) = Store::open(Some(self.manager), ends, PLENTY, &mut notes);
        (store, kept, notes)
    }
}

#[test]
fn names_of_drawers_are_read_back() {
    for end in [End::Input, End::Output] {
        assert_eq!(drawer_end(&name(17, end)), Some((17, end)));
    }
    for other in ["drawer-17", "drawer-x-in", "drawer-1-up", "listen-1", ""] {
        assert_eq!(drawer_end(other), None, "{other}");
    }
}

#[test]
fn what_is_kept_is_read_again_and_again() {
    let (connection, mut node) = connection();
    let (input, output) = pair();
    send(
        input.as_fd(),
        &record(1, "api").encode(),
        Some(connection.as_fd()),
    )
    .unwrap();
    send(input.as_fd(), &record(2, "gone").encode(), None).unwrap();
    drop(connection);
    for _ in 0..3 {
        let mut kept = Vec::new();
        read(output.as_fd(), |k| kept.push(k)).unwrap();
        assert_eq!(kept.len(), 2);
        assert_eq!(Record::decode(&kept[0].record), Ok(record(1, "api")));
        assert_eq!(Record::decode(&kept[1].record), Ok(record(2, "gone")));
        assert!(kept[1].connection.is_none());
        let connection = TcpStream::from(kept.remove(0).connection.unwrap());
        assert_eq!(connection.peer_addr().unwrap(), node.local_addr().unwrap());
    }
    node.write_all(b"still connected").unwrap();
}

#[test]
fn a_full_drawer_is_followed_by_another_and_a_worn_one_is_given_up() {
    let mut store = Store::new(None, PLENTY.descriptors);
    let mut id = 0;
    while store.drawers.len() < 3 {
        id += 1;
        store.keep(&record(id, "api"), None).unwrap();
    }
    assert_eq!(store.messages as u64, id);
    let each = store.drawers[&0].holds.len();
    assert!(each > 100, "{each} to a drawer");
    assert_eq!(store.worn(0, store.messages), None, "all is of use");
    while store.messages <= SLACK {
        id += 1;
        store.keep(&record(id, "api"), None).unwrap();
    }
    let (number, holds) = store.worn(0, 0).unwrap();
    assert_eq!((number, holds[0], holds.len()), (0, 1, each));
    store.discard(number);
    assert_eq!(store.messages as u64, id - each as u64);
    store.keep(&record(id, "api"), None).unwrap();
    assert!(!store.drawers.contains_key(&0));
}

/// A user may have no more descriptors in messages than in a process: those of connections that are gone
/// count as well.
#[test]
fn dead_connections_in_drawers_are_bounded_by_the_limit_of_descriptors() {
    let (connection, _node) = connection();
    for descriptors in [256, 1024, 2048] {
        let mut store = Store::new(None, descriptors);
        let mut most = 0;
        let live = descriptors / 4;
        for id in 0..3000 {
            store
                .keep(&record(id, "api"), Some(connection.as_fd()))
                .unwrap();
            most = most.max(store.connections);
            if let Some((number, holds)) = store.worn(live, 1000) {
                // The last ones live.
                for id in holds.into_iter().filter(|old| old + live as u64 > id) {
                    store
                        .keep(&record(id, "api"), Some(connection.as_fd()))
                        .unwrap();
                    most = most.max(store.connections);
                }
                store.discard(number);
            }
        }
        assert!(most <= descriptors, "{most} of {descriptors}");
    }
}

#[test]
fn an_end_without_its_other_end_is_given_up_and_what_it_held_is_kept_anew() {
    let ((whole_in, whole_out), (input, _), (lost, output)) = (pair(), pair(), pair());
    send(whole_in.as_fd(), &record(1, "api").encode(), None).unwrap();
    send(lost.as_fd(), &record(1, "api").encode(), None).unwrap();
    send(lost.as_fd(), &record(2, "web").encode(), None).unwrap();
    let ends = BTreeMap::from([
        ((0, End::Input), whole_in),
        ((0, End::Output), whole_out),
        ((1, End::Input), input),
        ((2, End::Output), output),
    ]);
    let mut notes = Vec::new();
    let (mut store, kept) = Store::open(None, ends, PLENTY, &mut notes);
    assert_eq!(kept.len(), 2, "also that of the drawer that has no input");
    assert_eq!(store.drawers.keys().collect::<Vec<_>>(), [&0]);
    assert_eq!(store.take_lost(), BTreeSet::from([2]));
    assert_eq!(store.next, 3);
    assert!(notes.is_empty(), "{notes:?}");
}

/// Two ends of different pairs under one number, as an orphan and a reused number made them.
#[test]
fn ends_that_do_not_belong_together_are_no_drawer() {
    let ((input, _other_out), (other_in, output)) = (pair(), pair());
    let (a, b) = pair();
    let flags = MsgFlags::MSG_DONTWAIT;
    assert!(belong_together(a.as_fd(), b.as_fd()));
    // What an earlier probe left does not matter.
    send_bytes(b.as_raw_fd(), b"left", flags).unwrap();
    assert!(belong_together(a.as_fd(), b.as_fd()));
    assert!(!belong_together(input.as_fd(), output.as_fd()));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(!belong_together(file.as_fd(), b.as_fd()));
    send(other_in.as_fd(), &record(7, "api").encode(), None).unwrap();
    let ends = BTreeMap::from([((4, End::Input), input), ((4, End::Output), output)]);
    let (mut store, kept) = Store::open(None, ends, PLENTY, &mut Vec::new());
    assert_eq!((store.drawers.len(), kept.len(), store.next), (0, 1, 5));
    assert_eq!(store.take_lost(), BTreeSet::from([7]));
}

/// One failed send while a drawer is made cost all registrations two restarts later: the orphan took the
/// place of the drawer that came after it under the same number.
#[test]
fn a_send_that_fails_while_a_drawer_is_made_costs_nothing_later() {
    for sent_before in 0..4 {
        let mut init = Init::new();
        let mut store = Store::new(Some(init.manager), PLENTY.descriptors);
        init.fill();
        // So much of it is taken.
        for _ in 0..sent_before {
            init.socket.recv(&mut [0; 4096]).unwrap();
        }
        let failed = store.keep(&record(1, "api"), None).is_err();
        assert_eq!(failed, sent_before < 2);
        for restart in 0..4 {
            init.work();
            assert!(init.manager.catch_up());
            init.work();
            for id in 0..3 {
                store
                    .keep(&record(100 * restart + id, "api"), None)
                    .unwrap();
                store.prepare().unwrap();
            }
            init.work();
            let (next, kept, notes) = init.reopen();
            assert_eq!(kept.len() as u64, 3 * (restart + 1));
            assert!(notes.is_empty(), "{notes:?}");
            assert_eq!(init.store.len(), 4, "{:?}", init.store.keys());
            store = next;
            assert!(store.take_lost().is_empty());
        }
    }
}

#[test]
fn a_drawer_whose_other_end_is_gone_is_replaced_and_what_it_held_is_kept_anew() {
    let mut init = Init::new();
    let mut store = Store::new(Some(init.manager), PLENTY.descriptors);
    store.keep(&record(1, "api"), None).unwrap();
    init.work();
    let (other, _) = pair();
    store.drawers.get_mut(&0).unwrap().output = other;
    init.store.clear();
    store.keep(&record(2, "web"), None).unwrap();
    assert_eq!(store.take_lost(), BTreeSet::from([1]));
    assert_eq!((store.messages, store.drawers.len()), (1, 1));
    init.work();
    let (_, kept, _) = init.reopen();
    assert_eq!(Record::decode(&kept[0].record), Ok(record(2, "web")));
}

/// The next process needs a descriptor for each connection that lives, and no more.
#[test]
fn dead_connections_are_closed_as_they_are_read_and_what_finds_no_room_is_shut_down() {
    let init = Init::new();
    let mut store = Store::new(None, PLENTY.descriptors);
    let mut nodes = Vec::new();
    for id in 0..10 {
        let (connection, node) = connection();
        store
            .keep(&record(id, "api"), Some(connection.as_fd()))
            .unwrap();
        if id % 2 == 0 {
            nodes.push(node);
        }
    }
    let ends = store.drawers.into_iter().flat_map(|(number, drawer)| {
        [
            ((number, End::Input), drawer.input),
            ((number, End::Output), drawer.output),
        ]
    });
    let room = Room {
        connections: 3,
        ..PLENTY
    };
    let mut notes = Vec::new();
    let (_, kept) = Store::open(Some(init.manager), ends.collect(), room, &mut notes);
    let lives: Vec<_> = kept.iter().map(|k| k.connection.is_some()).collect();
    assert_eq!(
        lives,
        [
            true, false, true, false, true, false, false, false, false, false
        ]
    );
    assert!(
        notes[0].starts_with("ended the registrations of 2 nodes"),
        "{notes:?}"
    );
    assert_eq!(notes.len(), 1);
    for (number, node) in nodes.iter().enumerate() {
        node.set_nonblocking(true).unwrap();
        let ended = matches!(node.peek(&mut [0]), Ok(0));
        assert_eq!(ended, number >= 3, "{number}");
    }
}

/// A registration never waits for process 1: a drawer is there ahead, and then it says no.
#[test]
fn a_process_1_that_does_not_read_holds_nobody_up() {
    let mut init = Init::new();
    let mut store = Store::new(Some(init.manager), PLENTY.descriptors);
    store.prepare().unwrap();
    store.prepare().unwrap();
    init.work();
    init.fill();
    let start = std::time::Instant::now();
    let mut id = 0;
    while store.keep(&record(id, "api"), None).is_ok() {
        id += 1;
        let _ = store.prepare();
    }
    assert!(id > 300, "{id}");
    let error = store.keep(&record(id, "api"), None).unwrap_err();
    assert!(super::super::notify::is_full(&error), "{error}");
    init.manager.say("READY=1".into(), false);
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
    assert!(!init.manager.catch_up());
}
