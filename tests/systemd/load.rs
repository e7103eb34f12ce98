//! Nodes that hold names, and lookups without a pause.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::common::wire::{Answer, Node, ask, frame, lookup_answer, names_answer};
use super::common::{PATIENCE, wait_for};
use super::{PORT, hold, local};

/// How many connections look names up at the same time.
const CONNECTIONS: usize = 16;
/// How many lookups each has done before and after what happens to the daemon.
const AROUND: u64 = 50;

/// A name's lookup, and the answer to it.
struct Query {
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// Nodes with their connections, the oldest first.
#[derive(Default)]
pub(super) struct Nodes {
    held: Vec<(Node, TcpStream)>,
}

impl Nodes {
    /// Registers `count` nodes, NAME0 and so on.
    pub(super) fn register(name: &str, count: u16) -> Self {
        let mut nodes = Self::default();
        for number in 0..count {
            nodes.add(Node::new(format!("{name}{number}")).port(10_000 + number));
        }
        nodes
    }

    /// Registers nodes of all kinds.
    pub(super) fn of_all_kinds(count: u16) -> Self {
        let mut nodes = Self::default();
        Node::of_all_kinds(count).for_each(|node| nodes.add(node));
        nodes
    }

    /// Registers one more.
    pub(super) fn add(&mut self, node: Node) {
        let (stream, _) = hold(&node);
        self.held.push((node, stream));
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes the connections of every second one.
    pub(super) fn take_half(&mut self) -> Vec<TcpStream> {
        let all = std::mem::take(&mut self.held);
        let mut taken = Vec::new();
        for (number, (node, stream)) in all.into_iter().enumerate() {
            if number % 2 == 0 {
                taken.push(stream);
            } else {
                self.held.push((node, stream));
            }
        }
        taken
    }

    /// Whether the daemon lists them, the newest first, and no others.
    pub(super) fn are_all(&self) -> bool {
        let newest_first = self.held.iter().rev();
        let names: Vec<(&str, u16)> = newest_first
            .map(|(node, _)| {
                let name = std::str::from_utf8(&node.name).expect("UTF-8");
                (name, node.port)
            })
            .collect();
        ask(local(), &frame(b"n")) == Answer::Bytes(names_answer(PORT, &names))
    }

    /// How many are lost: their connections have ended, or a lookup does not find them as they were.
    pub(super) fn lost(&self) -> usize {
        let is_lost = |(node, stream): &&(Node, TcpStream)| {
            let answer = super::lookup(local(), &node.name);
            !is_open(stream) || answer != Answer::Bytes(lookup_answer(Some(node)))
        };
        self.held.iter().filter(is_lost).count()
    }

    fn queries(&self) -> Vec<Query> {
        let query = |(node, _): &(Node, TcpStream)| Query {
            request: frame(&[b"z", &*node.name].concat()),
            answer: lookup_answer(Some(node)),
        };
        self.held.iter().map(query).collect()
    }
}

/// Whether nothing has come on a connection, not even its end.
pub(super) fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let peek = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("blocking");
    peek.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// What became of lookups.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How many there were.
    pub(super) lookups: u64,
    /// Closed or reset before the whole answer.
    pub(super) cut: u64,
    /// Could not even connect.
    pub(super) refused: u64,
    /// Answered, but not with the node.
    pub(super) missed: u64,
    /// How long the longest one took.
    pub(super) longest: Duration,
}

impl Tally {
    fn count(&mut self, query: &Query) {
        let begin = Instant::now();
        let fate = look_up(query);
        self.longest = self.longest.max(begin.elapsed());
        self.lookups += 1;
        match fate {
            Fate::Found => {}
            Fate::Cut => self.cut += 1,
            Fate::Refused => self.refused += 1,
            Fate::Missed => self.missed += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.cut += other.cut;
        self.refused += other.refused;
        self.missed += other.missed;
        self.longest = self.longest.max(other.longest);
    }
}

enum Fate {
    Found,
    Cut,
    Refused,
    Missed,
}

fn look_up(query: &Query) -> Fate {
    let epmd = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let Ok(mut stream) = TcpStream::connect_timeout(&epmd, PATIENCE) else {
        return Fate::Refused;
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = Vec::new();
    let done = stream
        .write_all(&query.request)
        .and_then(|()| stream.read_to_end(&mut answer));
    match done {
        Ok(_) if answer == query.answer => Fate::Found,
        Ok(_) if answer.is_empty() => Fate::Cut,
        Ok(_) => Fate::Missed,
        Err(_) => Fate::Cut,
    }
}

/// Looks the nodes up from sixteen connections without a pause, before, while and after `action`.
pub(super) fn under_load(nodes: &Nodes, action: impl FnOnce()) -> Tally {
    let queries = nodes.queries();
    let over = AtomicBool::new(false);
    let done = [(); CONNECTIONS].map(|()| AtomicU64::new(0));
    let everyone_does = |more: u64| {
        let goals = done.each_ref().map(|d| d.load(Ordering::Relaxed) + more);
        wait_for("lookups", || {
            let all = done.iter().zip(goals);
            all.into_iter()
                .all(|(done, goal)| done.load(Ordering::Relaxed) >= goal)
                .then_some(())
        });
    };
    thread::scope(|scope| {
        let threads: Vec<_> = done
            .iter()
            .enumerate()
            .map(|(number, done)| {
                let (queries, over) = (&queries, &over);
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    // Each begins somewhere else.
                    for query in queries
                        .iter()
                        .cycle()
                        .skip(number * queries.len() / CONNECTIONS)
                    {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        tally.count(query);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    tally
                })
            })
            .collect();
        let end = End(&over);
        everyone_does(AROUND);
        action();
        everyone_does(AROUND);
        drop(end);
        let mut all = Tally::default();
        for thread in threads {
            all.add(&thread.join().expect("a thread"));
        }
        all
    })
}

/// Ends the threads, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
