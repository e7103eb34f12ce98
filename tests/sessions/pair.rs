//! Both daemons: the same bytes to each, and whether the answers are the same.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};

use super::common::binary::Epmd;
use super::common::daemon::{Daemon, Setup};
use super::common::wait_for;
use super::common::wire::{Answer, frame, masked, read_to_end, send};
use super::differences::{Difference, explanation};
use super::requests::Request;

/// Begun requests have to live as long as the session does with either.
const ARGUMENTS: [&str; 2] = ["-packet_timeout", "60"];

/// How a registration ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    /// The node closes its connection.
    Close,
    /// It shuts its sending side only.
    Shutdown,
    /// It sends something.
    Send,
}

impl Release {
    pub(crate) const ALL: [Self; 3] = [Self::Close, Self::Shutdown, Self::Send];
}

/// What a request did besides its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// A name that was held is not any more.
    Stopped,
    /// Nothing that matters here.
    Answered,
}

/// A stock epmd and ours.
pub(crate) struct Pair {
    daemons: [Daemon; 2],
    /// The last creation that each daemon gave each name.
    creations: [HashMap<Vec<u8>, Vec<u8>>; 2],
    /// Names that stock registered and we did not: its dump remembers them.
    only_in_stock: HashSet<Vec<u8>>,
}

/// A connection to each.
pub(crate) struct Streams([TcpStream; 2]);

impl Streams {
    /// Sends the same to both.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|stream| send(stream, bytes));
    }

    /// Waits until both are closed, without a byte.
    pub(crate) fn expect_close(mut self) {
        for stream in &mut self.0 {
            assert_eq!(read_to_end(stream), Answer::Nothing);
        }
    }
}

impl Pair {
    /// Both, freshly started.
    pub(crate) fn start(stock: Epmd, relaxed: bool) -> Self {
        let daemons = [stock, Epmd::Ours].map(|epmd| {
            let setup = Setup::of(epmd).arguments(&ARGUMENTS);
            if relaxed {
                setup.arguments(&["-relaxed_command_check"]).start()
            } else {
                setup.start()
            }
        });
        Self {
            daemons,
            creations: [HashMap::new(), HashMap::new()],
            only_in_stock: HashSet::new(),
        }
    }

    /// A connection to each, over IPv6 or IPv4.
    pub(crate) fn connect(&self, ipv6: bool) -> Streams {
        let address = if ipv6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        Streams(self.daemons.each_ref().map(|it| it.connect_to(address)))
    }

    /// Whether both register the node whose request has been sent. Neither, or both.
    pub(crate) fn registers(&mut self, request: &Request, streams: &mut Streams) -> bool {
        let answers = streams.0.each_mut().map(first_answer);
        self.check(request, &answers);
        // What only stock holds is let go before anything else is asked.
        let held = answers
            .each_ref()
            .map(|answer| matches!(answer, Answer::Bytes(bytes) if bytes[1] == 0));
        if held[0] && !held[1] {
            shut_and_wait(&mut streams.0[0]);
        }
        held[0] && held[1]
    }

    /// Reads and compares the answers to a request that has been sent. The sending side is shut, so
    /// that half a request has its end, and a registration is none for long.
    pub(crate) fn compare(&mut self, request: &Request, mut streams: Streams) -> Observed {
        let answers = streams.0.each_mut().map(|stream| {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Write);
            read_to_end(stream)
        });
        let stopped = answers[0] == Answer::Bytes(b"STOPPED".to_vec());
        self.check(request, &answers);
        if stopped {
            Observed::Stopped
        } else {
            Observed::Answered
        }
    }

    /// Fails the test unless both answers are the same, or an entry of the document says why not.
    fn check(&mut self, request: &Request, answers: &[Answer; 2]) {
        let [stock, ours] = [0, 1].map(|which| self.comparable(request, which, &answers[which]));
        if stock == ours {
            return;
        }
        let explanation = explanation(request, &stock, &ours);
        assert!(
            explanation.is_some(),
            "{request:?}:\nstock {stock:?}\nours  {ours:?}"
        );
        if let Some(Difference::ForgingName | Difference::EmptyName) = explanation {
            let name = request.registers().expect("a registration");
            self.only_in_stock.insert(name.to_vec());
        }
    }

    /// An answer without what can't be the same: ports, creations, descriptors' numbers, and in a
    /// dump of stock's the names that it alone had.
    fn comparable(&mut self, request: &Request, which: usize, answer: &Answer) -> Answer {
        let Answer::Bytes(bytes) = answer else {
            return Answer::Nothing;
        };
        Answer::Bytes(match request.tag() {
            Some(b'n') => self.without_port(which, bytes).to_vec(),
            Some(b'd') => {
                let lines = std::str::from_utf8(self.without_port(which, bytes)).expect("UTF-8");
                let known = |line: &&str| !self.is_only_in_stock(line);
                let lines: String = lines.split_inclusive('\0').filter(known).collect();
                masked(&lines).into_bytes()
            }
            Some(b'x') if bytes.get(1) == Some(&0) => self.without_creation(request, which, bytes),
            _ => bytes.clone(),
        })
    }

    /// A listing behind the daemon's own port.
    fn without_port<'a>(&self, which: usize, bytes: &'a [u8]) -> &'a [u8] {
        let port = u32::from(self.daemons[which].port).to_be_bytes();
        bytes.strip_prefix(&port).expect("the daemon's port")
    }

    fn is_only_in_stock(&self, line: &str) -> bool {
        let name = line.strip_prefix("old/unused name <");
        let name = name.and_then(|rest| rest.rsplit_once(">, port = "));
        name.is_some_and(|(name, _)| self.only_in_stock.contains(name.as_bytes()))
    }

    /// Tag and result; the creation must be another than the last one of this name.
    fn without_creation(&mut self, request: &Request, which: usize, bytes: &[u8]) -> Vec<u8> {
        let name = request.registers().expect("a registration").to_vec();
        let (start, creation) = bytes.split_at(2);
        let length = if start[0] == b'v' { 4 } else { 2 };
        assert_eq!(creation.len(), length, "{bytes:?}");
        let last = self.creations[which].insert(name, creation.to_vec());
        assert_ne!(last.as_deref(), Some(creation), "the same creation again");
        start.to_vec()
    }

    /// Ends a registration, and waits until both daemons have seen it.
    pub(crate) fn release(&self, release: Release, name: &[u8], mut streams: Streams) {
        match release {
            Release::Close => drop(streams),
            Release::Shutdown => streams
                .0
                .each_mut()
                .map(shut_and_wait)
                .into_iter()
                .collect(),
            Release::Send => {
                streams.send(b"\0");
                streams.expect_close();
            }
        }
        // Where the close alone has told it, a daemon may see it after the next request.
        let line = [b"name ", name, b" at port "].concat();
        for daemon in &self.daemons {
            wait_for("a name to be released", || match daemon.names() {
                Answer::Bytes(list) if !contains(&list, &line) => Some(()),
                _ => None,
            });
        }
    }

    /// Ends both.
    pub(crate) fn kill(&mut self) {
        for daemon in &mut self.daemons {
            assert_eq!(daemon.send(&frame(b"k")), Answer::Bytes(b"OK".to_vec()));
            assert_eq!(daemon.wait().code(), Some(0));
        }
    }
}

fn contains(list: &[u8], line: &[u8]) -> bool {
    list.windows(line.len()).any(|window| window == line)
}

/// The first answer on a connection that stays open, or its close.
fn first_answer(stream: &mut TcpStream) -> Answer {
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(0) => Answer::Nothing,
        Ok(length) => Answer::Bytes(buffer[..length].to_vec()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Answer::Nothing,
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Shuts the sending side and waits until the daemon has closed.
fn shut_and_wait(stream: &mut TcpStream) {
    stream
        .shutdown(Shutdown::Write)
        .expect("an open connection");
    assert_eq!(read_to_end(stream), Answer::Nothing);
}
