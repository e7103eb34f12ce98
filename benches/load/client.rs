//! The clients: lookups in bursts, registrations that are held, lists.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::wire;

/// Longer than this, and an answer counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The names are looked up in steps of this prime, so that every server has to find names from
/// everywhere in its table.
const STRIDE: usize = 7919;

/// What every lookup of a burst has to get.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The record of a node.
    Answer,
    /// A closed connection without a byte.
    Refusal,
}

/// Many lookups, each over a connection of its own.
#[derive(Clone)]
pub(crate) struct Burst {
    /// The epmd.
    pub(crate) to: SocketAddr,
    /// The addresses they come from, in turn; the kernel chooses where there is none.
    pub(crate) from: Vec<IpAddr>,
    /// How many names are registered, all of which are looked up in turn.
    pub(crate) names: usize,
    /// How many lookups, all clients together.
    pub(crate) requests: usize,
    /// How many clients at once.
    pub(crate) clients: usize,
    /// What they get.
    pub(crate) expect: Expect,
}

impl Burst {
    /// Runs it, and ends the bench where a lookup got anything else than expected. Returns the
    /// slowest lookup.
    pub(crate) fn run(&self) -> Duration {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|client| scope.spawn(move || self.run_client(client)))
                .collect();
            let slowest = clients
                .into_iter()
                .map(|client| client.join().expect("a client got a wrong answer"))
                .max();
            slowest.expect("there is a client")
        })
    }

    /// The share of one client: every `clients`th lookup.
    fn run_client(&self, client: usize) -> Duration {
        let mut slowest = Duration::ZERO;
        for index in (client..self.requests).step_by(self.clients) {
            let name = wire::node_name(index * STRIDE % self.names);
            let from = self.from.get(index % self.from.len().max(1)).copied();
            let start = Instant::now();
            let answer = ask(self.to, from, &wire::lookup(&name)).expect("epmd answers");
            slowest = slowest.max(start.elapsed());
            match self.expect {
                Expect::Answer => assert_eq!(answer.len(), wire::lookup_answer(&name).len()),
                Expect::Refusal => assert!(answer.is_empty(), "a refused peer got bytes"),
            }
        }
        slowest
    }
}

/// Sends `request` over a new connection, and returns all that comes until the other end closes.
pub(crate) fn ask(to: SocketAddr, from: Option<IpAddr>, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = connect(to, from)?;
    connection.write_all(request)?;
    let mut answer = Vec::with_capacity(64);
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A connection that gives up after a while.
fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let connection = match from {
        None => TcpStream::connect(to)?,
        Some(from) => {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect(&to.into())?;
            socket.into()
        }
    };
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// A registered node: registered as long as this is kept.
pub(crate) struct Node {
    _connection: TcpStream,
}

/// Registers `name`.
pub(crate) fn register(to: SocketAddr, name: &str) -> io::Result<Node> {
    let mut connection = connect(to, None)?;
    connection.write_all(&wire::register(name))?;
    let mut answer = [0; 6];
    connection.read_exact(&mut answer)?;
    if wire::is_registered(&answer) {
        Ok(Node {
            _connection: connection,
        })
    } else {
        Err(io::Error::other(format!("epmd answered {answer:?}")))
    }
}

/// So many registrations go to one of loopback's addresses.
const NODES_TO_AN_ADDRESS: usize = 1000;

/// Registers further nodes until there are `count`.
///
/// They go to other addresses of loopback than the lookups. The kernel looks for a free port for each
/// lookup, and would have to pass over those of all nodes: with 15,000 of them that takes a client
/// more than a millisecond, and what it drives out of the caches the server would seem to pay for.
pub(crate) fn register_up_to(to: SocketAddr, nodes: &mut Vec<Node>, count: usize) {
    while nodes.len() < count {
        let name = wire::node_name(nodes.len());
        let number = u8::try_from(nodes.len() / NODES_TO_AN_ADDRESS + 1).expect("few addresses");
        let to = SocketAddr::from((Ipv4Addr::new(127, 1, 0, number), to.port()));
        nodes.push(register(to, &name).expect("epmd registers"));
    }
}

/// Asks for all names; returns how many there are.
pub(crate) fn list(to: SocketAddr) -> usize {
    let answer = ask(to, None, &wire::list()).expect("epmd lists");
    answer.iter().filter(|&&byte| byte == b'\n').count()
}
