//! A host's own nodes while it burns: they look names up and register, and notice nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::common::netns::{EPMD, Host};
use crate::common::wire::{Answer, Node, ask, frame, register};

/// How often something is asked.
const PACE: Duration = Duration::from_millis(3);
/// Each so-manieth time a new name is registered as well.
const REGISTERS_EACH: usize = 15;
/// The most names that are registered.
const NAMES: usize = 100;

/// What the nodes have seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// How many lookups were answered.
    pub(crate) lookups: usize,
    pub(crate) slowest_lookup: Duration,
    /// The names that were registered, with the connections that hold them.
    pub(crate) held: Vec<(String, TcpStream)>,
    pub(crate) slowest_registration: Duration,
    /// All connections that it took.
    pub(crate) connections: usize,
}

/// Looks up `known` and registers names on `host` until `over`, by each way that a node may take.
/// Every request must succeed at the first try.
pub(crate) fn probe(host: &Host, known: &str, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let ways = [
        Ipv4Addr::LOCALHOST.into(),
        host.v4(),
        Ipv6Addr::LOCALHOST.into(),
        host.v6(),
    ];
    host.enter(|| {
        for (turn, way) in ways.into_iter().cycle().enumerate() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            seen.look_up(way, known);
            if turn % REGISTERS_EACH == 0 && seen.held.len() < NAMES {
                let name = format!("new{turn}");
                seen.register(way, &name);
                seen.look_up(way, &name);
            }
            thread::sleep(PACE);
        }
    });
    seen
}

impl Seen {
    fn look_up(&mut self, way: IpAddr, name: &str) {
        let start = Instant::now();
        let answer = ask(self.connect(way), &frame(&[b"z", name.as_bytes()].concat()));
        let wanted = Answer::Bytes(Node::new(name).found());
        assert_eq!(answer, wanted, "a lookup of {name} at {way}");
        self.slowest_lookup = self.slowest_lookup.max(start.elapsed());
        self.lookups += 1;
    }

    fn register(&mut self, way: IpAddr, name: &str) {
        let start = Instant::now();
        let (stream, _) = register(self.connect(way), &Node::new(name)).held();
        self.slowest_registration = self.slowest_registration.max(start.elapsed());
        self.held.push((name.to_owned(), stream));
    }

    fn connect(&mut self, way: IpAddr) -> TcpStream {
        self.connections += 1;
        let stream = TcpStream::connect_timeout(&SocketAddr::new(way, EPMD), PATIENCE)
            .unwrap_or_else(|error| panic!("{way}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}
