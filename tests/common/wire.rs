//! The bytes of requests and answers, written down here once more and not taken from the crate: a
//! mistake there must not hide itself.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::PATIENCE;

/// The creation in stock's answer that a name is taken.
const CREATION_OF_TAKEN: u32 = 99;

/// A request with its length in front.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a request of at most 65535 bytes");
    [&length.to_be_bytes()[..], body].concat()
}

/// What a node says of itself when it registers.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its name, without the host.
    pub(crate) name: Vec<u8>,
    /// Its distribution port.
    pub(crate) port: u16,
    /// 77 normal, 72 hidden.
    pub(crate) kind: u8,
    /// 0: TCP over IPv4.
    pub(crate) protocol: u8,
    /// The highest distribution version that it speaks.
    pub(crate) highest: u16,
    /// The lowest one.
    pub(crate) lowest: u16,
    /// Whatever else it says.
    pub(crate) extra: Vec<u8>,
}

impl Node {
    /// Nodes of all kinds: of versions 5 and 6, hidden, with extra data, with names that are long.
    pub(crate) fn of_all_kinds(count: u16) -> impl Iterator<Item = Self> {
        (0..count).map(|number| Self {
            kind: if number % 5 == 0 { 72 } else { 77 },
            highest: if number % 2 == 0 { 6 } else { 5 },
            protocol: (number % 3 == 0).into(),
            extra: match number % 4 {
                0 => Vec::new(),
                1 => vec![0; usize::from(number)],
                2 => b"a\0b\n, fd = 1\n\0".to_vec(),
                _ => vec![0xff; 1020],
            },
            port: number,
            ..Self::new(match number % 50 {
                49 => format!("{number:\u{1F98A}>254}"),
                48 => format!("{number:x>200}>\u{1F98A},port=1,fd=2"),
                _ => format!("node{number}"),
            })
        })
    }

    /// A node as OTP 25 registers it.
    pub(crate) fn new(name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            port: 4711,
            kind: 77,
            protocol: 0,
            highest: 6,
            lowest: 5,
            extra: Vec::new(),
        }
    }

    /// The same with another port.
    pub(crate) fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The same with another highest version.
    pub(crate) fn highest(self, highest: u16) -> Self {
        Self { highest, ..self }
    }

    /// The same with extra data.
    pub(crate) fn extra(self, extra: impl AsRef<[u8]>) -> Self {
        Self {
            extra: extra.as_ref().to_vec(),
            ..self
        }
    }

    /// `ALIVE2_REQ`, without its length.
    pub(crate) fn request(&self) -> Vec<u8> {
        let mut body = vec![b'x'];
        body.extend(self.port.to_be_bytes());
        body.extend([self.kind, self.protocol]);
        self.push_rest(&mut body);
        body
    }

    /// `PORT2_RESP` with result 0.
    pub(crate) fn found(&self) -> Vec<u8> {
        let mut answer = vec![b'w', 0];
        answer.extend(self.port.to_be_bytes());
        answer.extend([self.kind, self.protocol]);
        self.push_rest(&mut answer);
        answer
    }

    /// What request and answer have in common: versions, name and extra data.
    fn push_rest(&self, bytes: &mut Vec<u8>) {
        for number in [self.highest, self.lowest] {
            bytes.extend(number.to_be_bytes());
        }
        for field in [&self.name, &self.extra] {
            bytes.extend(frame(field));
        }
    }
}

/// `PORT2_RESP`: the node, or result 1.
pub(crate) fn lookup_answer(node: Option<&Node>) -> Vec<u8> {
    node.map_or_else(|| b"w\x01".to_vec(), Node::found)
}

/// `NAMES_RESP` of an epmd on `port`, with its lines in this order.
pub(crate) fn names_answer(port: u16, nodes: &[(&str, u16)]) -> Vec<u8> {
    let lines = nodes
        .iter()
        .map(|(name, port)| format!("name {name} at port {port}\n"));
    let mut answer = u32::from(port).to_be_bytes().to_vec();
    answer.extend(lines.collect::<String>().into_bytes());
    answer
}

/// What came back on a connection until it was closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These bytes and the close.
    Bytes(Vec<u8>),
    /// The close alone.
    Nothing,
}

/// Reads until the connection is closed. A reset is a close as well: the kernel sends one where
/// bytes of ours were left unread.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no close: {error}; came so far: {bytes:?}"),
    }
    if bytes.is_empty() {
        Answer::Nothing
    } else {
        Answer::Bytes(bytes)
    }
}

/// Sends these very bytes. A connection that is closed meanwhile is the reader's business.
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8]) {
    match stream.write_all(bytes) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            panic!("can't send: {error}")
        }
        _ => {}
    }
}

/// Sends these very bytes and reads until the close.
pub(crate) fn ask(mut stream: TcpStream, bytes: &[u8]) -> Answer {
    send(&mut stream, bytes);
    read_to_end(&mut stream)
}

/// Whether the other end leaves the connection open. This takes its time where it does.
pub(crate) fn is_left_open(stream: &mut TcpStream) -> bool {
    let wait = |time| stream.set_read_timeout(Some(time)).expect("a timeout");
    wait(Duration::from_millis(300));
    let read = (&*stream).read(&mut [0; 1]);
    wait(PATIENCE);
    match read {
        Ok(0) => false,
        Ok(_) => panic!("more bytes came"),
        Err(error) => error.kind() != ErrorKind::ConnectionReset,
    }
}

/// How an attempt to register ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    /// Result 0: the name is held as long as the connection.
    Held,
    /// Result 1, which nodes take for "the name is in use".
    Taken {
        /// Whether the connection was left open after it.
        left_open: bool,
    },
    /// Closed without an answer.
    Closed,
}

/// An attempt to register, and what came of it.
#[derive(Debug)]
pub(crate) struct Registration {
    /// How it ended.
    pub(crate) end: Registered,
    stream: TcpStream,
    creation: u32,
}

impl Registration {
    /// The connection and the creation of a registration that must have succeeded.
    pub(crate) fn held(self) -> (TcpStream, u32) {
        assert_eq!(self.end, Registered::Held);
        (self.stream, self.creation)
    }
}

/// Registers `node`. The answer must come whole in one read: OTP's nodes do not read twice.
pub(crate) fn register(mut stream: TcpStream, node: &Node) -> Registration {
    send(&mut stream, &frame(&node.request()));
    registered(stream, node)
}

/// What came of an attempt to register `node` that has been sent already.
pub(crate) fn registered(mut stream: TcpStream, node: &Node) -> Registration {
    let mut buffer = [0; 64];
    let answer = match stream.read(&mut buffer) {
        Ok(length) => &buffer[..length],
        Err(error) if error.kind() == ErrorKind::ConnectionReset => &[],
        Err(error) => panic!("no answer: {error}"),
    };
    let (result, creation) = match *answer {
        [] => (None, 0),
        [b'y', result, a, b] if node.highest < 6 => {
            (Some(result), u32::from(u16::from_be_bytes([a, b])))
        }
        [b'v', result, a, b, c, d] if node.highest >= 6 => {
            (Some(result), u32::from_be_bytes([a, b, c, d]))
        }
        _ => panic!("no answer to this registration: {answer:?}"),
    };
    let end = match (result, creation) {
        (None, _) => Registered::Closed,
        (Some(0), _) => Registered::Held,
        (Some(1), CREATION_OF_TAKEN) => Registered::Taken {
            left_open: is_left_open(&mut stream),
        },
        other => panic!("result and creation: {other:?}"),
    };
    Registration {
        end,
        stream,
        creation,
    }
}

/// The answer to a dump, without the port in front, with every descriptor's number masked.
pub(crate) fn masked(dump: &str) -> String {
    let mut parts = dump.split("fd = ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        assert_ne!(rest.len(), part.len(), "a descriptor's number: {part:?}");
        text.push_str("fd = N");
        text.push_str(rest);
    }
    text
}
