//! Nodes that hold names, and lookups without a pause.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::common::wire::{Answer, Node, ask, frame, register};
use super::common::{connect, try_connect, wait_for};

/// How many look names up at the same time.
const CLIENTS: usize = 16;
/// How many lookups each has done before and after what happens.
const AROUND: u64 = 30;

/// A connection to the epmd on this port.
pub(super) fn to(port: u16) -> TcpStream {
    connect(Ipv4Addr::LOCALHOST.into(), port)
}

/// Nodes with their connections, the oldest first, and what a lookup said of each.
pub(super) struct Nodes {
    port: u16,
    held: Vec<(Vec<u8>, TcpStream, Answer)>,
}

impl Nodes {
    /// Nodes of all kinds.
    pub(super) fn of_all_kinds(port: u16, count: u16) -> Self {
        Self::register(port, Node::of_all_kinds(count))
    }

    /// These nodes.
    pub(super) fn register(port: u16, nodes: impl IntoIterator<Item = Node>) -> Self {
        let held = nodes.into_iter().map(|node| {
            let (stream, _) = register(to(port), &node).held();
            let answer = lookup(port, &node.name);
            (node.name, stream, answer)
        });
        let held = held.collect();
        Self { port, held }
    }

    /// Fails the test unless each is registered as it was, in the same order, and its connection lives.
    pub(super) fn assert_all_as_before(&self) {
        for (name, stream, answer) in &self.held {
            let name = String::from_utf8_lossy(name);
            assert_eq!(&lookup(self.port, name.as_bytes()), answer, "{name}");
            assert!(is_open(stream), "{name}");
        }
        let Answer::Bytes(list) = ask(to(self.port), &frame(b"n")) else {
            panic!("no list");
        };
        let lines = list[4..].split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let newest_first: Vec<_> = self.held.iter().rev().map(|(name, ..)| name).collect();
        let listed: Vec<_> = lines.collect();
        assert_eq!(listed.len(), newest_first.len());
        for (line, name) in listed.into_iter().zip(newest_first) {
            let begin = [b"name ", &name[..], b" at port "].concat();
            assert!(
                line.starts_with(&begin),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }

    /// Fails the test unless the end of each connection is heard of.
    pub(super) fn assert_all_are_watched(self) {
        for (name, stream, _) in self.held.into_iter().take(20) {
            drop(stream);
            wait_for("a name to be free", || {
                (lookup(self.port, &name) == Answer::Bytes(b"w\x01".to_vec())).then_some(())
            });
        }
    }

    /// Looks the nodes up from sixteen clients without a pause, before, while and after `action`; fails the
    /// test where one is refused, cut off, or answered otherwise than before.
    pub(super) fn looked_up_without_a_pause<T>(&self, action: impl FnOnce() -> T) -> T {
        let (port, held) = (self.port, &self.held);
        let over = &AtomicBool::new(false);
        let done: &[AtomicU64; CLIENTS] = &std::array::from_fn(|_| AtomicU64::new(0));
        let everyone_does = |more: u64| {
            let goals = done
                .each_ref()
                .map(|done| done.load(Ordering::Relaxed) + more);
            wait_for("lookups", || {
                let mut all = done.iter().zip(goals);
                let enough = |(done, goal): (&AtomicU64, u64)| done.load(Ordering::Relaxed) >= goal;
                (over.load(Ordering::Relaxed) || all.all(enough)).then_some(())
            });
        };
        thread::scope(|scope| {
            let clients: Vec<_> = done
                .iter()
                .enumerate()
                .map(|(client, done)| {
                    let first = client * held.len() / CLIENTS;
                    scope.spawn(move || {
                        // Whatever becomes of this client, the others are not to go on for ever.
                        let end = End(over);
                        for (name, _, expected) in held.iter().cycle().skip(first) {
                            if over.load(Ordering::Relaxed) {
                                break;
                            }
                            assert_eq!(&lookup(port, name), expected);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        drop(end);
                    })
                })
                .collect();
            let end = End(over);
            everyone_does(AROUND);
            let result = action();
            everyone_does(AROUND);
            drop(end);
            for client in clients {
                client
                    .join()
                    .unwrap_or_else(|e| std::panic::resume_unwind(e));
            }
            result
        })
    }
}

/// Ends the clients, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer to a lookup. One that is reset, or can't connect, fails the test.
pub(super) fn lookup(port: u16, name: &[u8]) -> Answer {
    let mut stream = to(port);
    stream
        .write_all(&frame(&[b"z", name].concat()))
        .expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    if answer.is_empty() {
        Answer::Nothing
    } else {
        Answer::Bytes(answer)
    }
}

/// Whether nothing has come on a connection, not even its end.
pub(super) fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let peek = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("blocking");
    peek.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Names that come and go, so many a second, until this is dropped.
pub(super) struct Passing {
    over: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u32>>,
}

impl Passing {
    pub(super) fn each_second(port: u16, count: u32) -> Self {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut passed = 0;
            let mut here = std::collections::VecDeque::new();
            while !told.load(Ordering::Relaxed) {
                let stream = try_connect(Ipv4Addr::LOCALHOST.into(), port).expect("a connection");
                let node = Node::new(format!("passing{passed}"));
                here.push_back(register(stream, &node).held().0);
                // Each stays for a few more.
                if here.len() > 5 {
                    here.pop_front();
                }
                passed += 1;
                thread::sleep(std::time::Duration::from_secs(1) / count);
            }
            passed
        });
        Self {
            over,
            thread: Some(thread),
        }
    }

    /// Ends it, and says how many there were.
    pub(super) fn end(mut self) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a thread");
        thread
            .join()
            .unwrap_or_else(|e| std::panic::resume_unwind(e))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Waits until nobody listens on a port.
pub(super) fn wait_until_free(port: u16) {
    wait_for("a free port", || {
        try_connect(Ipv4Addr::LOCALHOST.into(), port)
            .is_err()
            .then_some(())
    });
}
