//! Strangers who do their worst: many connections at once from many addresses, each reopened when it
//! is closed, for as long as the fire burns.
//!
//! One thread keeps its share of the connections with one epoll, so that two threads are two cores'
//! worth of attack. Bounded in number and in time; nothing leaves the hosts that the test made.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::common::PATIENCE;
use crate::common::netns::{EPMD, Host};

/// How many threads attack: as many as two cores can run.
const THREADS: usize = 2;
/// How many events are taken from the kernel at a time.
const BATCH: usize = 256;
/// How long a thread sleeps at most before it looks at the time.
const TICK: Duration = Duration::from_millis(20);

/// What the strangers do.
pub(crate) struct Flood {
    /// Connections open at once, all threads and sources together.
    pub(crate) connections: usize,
    /// Where they come from.
    pub(crate) sources: Vec<Ipv4Addr>,
    /// What the connection with this number sends as soon as it is there.
    pub(crate) says: fn(usize) -> Vec<u8>,
    /// What it does then.
    pub(crate) then: Then,
    /// How long a connection's place stays empty at least, from one opening to the next.
    pub(crate) pause: Duration,
}

/// What a connection does after its first bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Waits for the close.
    Wait,
    /// Sends one byte a second.
    Drip,
    /// Never reads what comes.
    Ignore,
}

/// When a flood ends.
#[derive(Default)]
pub(crate) struct Ends {
    /// Nothing is opened any more.
    pub(crate) burnt_down: AtomicBool,
    /// The daemon has let go of everything: whoever does not read can't know.
    pub(crate) let_go: AtomicBool,
}

/// What became of it, as the strangers saw it.
#[derive(Debug, Default)]
pub(crate) struct Burnt {
    /// Connections that were opened.
    pub(crate) opened: usize,
    /// Bytes that they were given.
    pub(crate) bytes: usize,
    /// Connections of which they never saw the end.
    pub(crate) left_open: usize,
}

impl Flood {
    /// Attacks `to` from `host`, and waits until the daemon has closed everything.
    pub(crate) fn burn(&self, host: &Host, to: IpAddr, ends: &Ends) -> Burnt {
        let burnt: Vec<Burnt> = thread::scope(|scope| {
            let start = |number| {
                scope.spawn(move || host.enter(|| Thread::new(self, to, number).run(ends)))
            };
            let threads: Vec<_> = (0..THREADS).map(start).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        burnt.into_iter().fold(Burnt::default(), |all, one| Burnt {
            opened: all.opened + one.opened,
            bytes: all.bytes + one.bytes,
            left_open: all.left_open + one.left_open,
        })
    }
}

/// One thread's share of it.
struct Thread<'f> {
    flood: &'f Flood,
    to: SocketAddr,
    epoll: Epoll,
    places: Vec<Place>,
    /// The number of the next connection; the threads take turns at them.
    next: usize,
    open: usize,
    burnt: Burnt,
}

/// Where a connection is kept, and the next one after it.
struct Place {
    stream: Option<TcpStream>,
    source: Ipv4Addr,
    number: usize,
    connected: bool,
    /// When it was last.
    opened: Option<Instant>,
    dripped: Instant,
}

impl<'f> Thread<'f> {
    fn new(flood: &'f Flood, to: IpAddr, number: usize) -> Self {
        let now = Instant::now();
        let places = (number..flood.connections)
            .step_by(THREADS)
            .map(|at| Place {
                stream: None,
                source: flood.sources[at % flood.sources.len()],
                number: 0,
                connected: false,
                opened: None,
                dripped: now,
            })
            .collect();
        Self {
            flood,
            to: SocketAddr::new(to, EPMD),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
            places,
            next: number,
            open: 0,
            burnt: Burnt::default(),
        }
    }

    fn run(mut self, ends: &Ends) -> Burnt {
        let mut give_up = None;
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            let burning = !ends.burnt_down.load(Ordering::Relaxed);
            if !burning {
                let give_up = *give_up.get_or_insert(now + 2 * PATIENCE);
                let let_go = ends.let_go.load(Ordering::Relaxed);
                if self.open == 0 || now >= give_up || (let_go && self.flood.then == Then::Ignore) {
                    break;
                }
            }
            if now >= next_look {
                self.look_after_all(now, burning);
                next_look = now + TICK;
            }
            self.attend_to_all(burning);
        }
        self.burnt.left_open = self.open;
        self.burnt
    }

    /// Waits for what happens to the connections.
    fn attend_to_all(&mut self, burning: bool) {
        let mut events = [EpollEvent::empty(); BATCH];
        let tick = EpollTimeout::try_from(TICK).unwrap();
        let count = match self.epoll.wait(&mut events, tick) {
            Err(Errno::EINTR) => 0,
            count => count.unwrap(),
        };
        for event in &events[..count] {
            let at = usize::try_from(event.data()).unwrap();
            self.attend_to(at, event.events());
            // Where nothing is paused, the next one follows the last.
            if burning && self.flood.pause.is_zero() && self.places[at].stream.is_none() {
                self.open(at, Instant::now());
            }
        }
    }

    /// Opens what is due, and lets drip what drips.
    fn look_after_all(&mut self, now: Instant, burning: bool) {
        const A_SECOND: Duration = Duration::from_secs(1);
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            match &place.stream {
                None => {
                    let paused = |opened| now.duration_since(opened) >= self.flood.pause;
                    if burning && place.opened.is_none_or(paused) {
                        self.open(at, now);
                    }
                }
                Some(stream) => {
                    let drips = self.flood.then == Then::Drip && place.connected;
                    if drips && now.duration_since(place.dripped) >= A_SECOND {
                        place.dripped = now;
                        // That it is closed is seen by the event.
                        let _ = (&*stream).write(b"z");
                    }
                }
            }
        }
    }

    fn open(&mut self, at: usize, now: Instant) {
        let place = &mut self.places[at];
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // The addresses are the host's by a route; there is no interface that has them.
        socket.set_freebind_v4(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        if self.flood.then == Then::Ignore {
            // Little room, or the kernel would read all of it.
            socket.set_recv_buffer_size(4096).unwrap();
        }
        bind_late(&socket);
        socket
            .bind(&SocketAddr::new(place.source.into(), 0).into())
            .unwrap();
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                panic!("{} to {}: {error}", place.source, self.to)
            }
            _ => {}
        }
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        self.epoll
            .add(&socket, EpollEvent::new(flags, at as u64))
            .unwrap();
        place.stream = Some(socket.into());
        place.number = self.next;
        place.connected = false;
        place.opened = Some(now);
        place.dripped = now;
        self.next += THREADS;
        self.open += 1;
        self.burnt.opened += 1;
    }

    /// Something has happened to a connection.
    fn attend_to(&mut self, at: usize, what: EpollFlags) {
        let place = &mut self.places[at];
        let Some(stream) = &mut place.stream else {
            return;
        };
        if !place.connected && what.contains(EpollFlags::EPOLLOUT) {
            place.connected = true;
            let bytes = (self.flood.says)(place.number);
            // A connection that is closed by now says so below.
            if !bytes.is_empty() {
                let _ = stream.write(&bytes);
            }
        }
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let closed = if self.flood.then == Then::Ignore {
            what.intersects(ended)
        } else {
            is_read_to_its_end(stream, &mut self.burnt.bytes)
        };
        if closed {
            place.stream = None;
            self.open -= 1;
        }
    }
}

/// Has a port chosen at connect(2), when it is known which are free towards the peer.
fn bind_late(socket: &Socket) {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true).unwrap();
}

/// Reads what is there; whether the close is.
fn is_read_to_its_end(stream: &mut TcpStream, bytes: &mut usize) -> bool {
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(count) => *bytes += count,
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}
