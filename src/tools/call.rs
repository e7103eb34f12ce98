//! A connection to an epmd, with a time by which everything must be done, and the race between several
//! addresses where one may be had.
//!
//! A firewall that drops what comes to ::1 must not hide the epmd that answers at 127.0.0.1: the next
//! address is tried after a head start, side by side with the first. The only waiting is poll(2)'s, and no
//! option is set on a socket, so nothing that may be refused is needed. Called by `client`, and for its
//! [`Call`] by `doctor`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::core::wire::{self, Request};

/// How long an address is tried alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(100);
/// The same for one that has accepted, and is to answer.
const HEAD_START_TO_ANSWER: Duration = Duration::from_secs(1);

/// A connection to an epmd.
pub(crate) struct Call {
    /// Non-blocking.
    stream: TcpStream,
    deadline: Instant,
}

/// An address to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    address: SocketAddr,
    /// Only if it is this host's own: the connection comes from the same address.
    is_own: bool,
}

/// What an answer must be like, for a question that may be asked of several.
pub(crate) struct Wanted {
    /// So many bytes,
    pub(crate) bytes: usize,
    /// for which this holds.
    pub(crate) holds: fn(&[u8], u16) -> bool,
}

/// Why nobody has answered.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// Somebody has accepted the connection.
    pub(crate) connected: bool,
    pub(crate) error: io::Error,
}

impl Place {
    /// An address that is this host's in any case.
    pub(crate) fn local(ip: IpAddr, port: u16) -> Self {
        Self {
            address: SocketAddr::new(ip, port),
            is_own: false,
        }
    }

    /// An address that must be this host's: nothing goes out to the network.
    pub(crate) fn own(ip: IpAddr, port: u16) -> Self {
        Self {
            address: SocketAddr::new(ip, port),
            is_own: true,
        }
    }
}

impl Call {
    /// Connects, and sends nothing yet.
    pub(crate) fn connect(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        let place = Place {
            address,
            is_own: false,
        };
        let call = Self::begin(place, deadline)?;
        call.wait(PollFlags::POLLOUT)?;
        match call.stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(call),
        }
    }

    /// Begins to connect.
    fn begin(place: Place, deadline: Instant) -> io::Result<Self> {
        let Place { address, is_own } = place;
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if is_own {
            socket.bind(&SocketAddr::new(address.ip(), 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self {
                stream: socket.into(),
                deadline,
            }),
        }
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: &Request<'_>) -> io::Result<()> {
        let bytes = wire::encode_request(request);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Reads up to `count` bytes, fewer only where the answer ends before.
    pub(crate) fn read_up_to(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; count];
        let mut got = 0;
        while let Some(rest) = answer.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.read(rest)? {
                0 => break,
                count => got += count,
            }
        }
        answer.truncate(got);
        Ok(answer)
    }

    /// Time that did not go by in waiting for the peer.
    pub(crate) fn excuse(&mut self, time: Duration) {
        self.deadline += time;
    }

    fn wait(&self, event: PollFlags) -> io::Result<()> {
        let mut this = [PollFd::new(self.stream.as_fd(), event)];
        if wait(&mut this, self.deadline)? {
            Ok(())
        } else {
            Err(ErrorKind::TimedOut.into())
        }
    }

    /// The first of these places that accepts a connection, with the request sent: to nobody else.
    pub(crate) fn first_to_accept(
        places: &[Place],
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Self, NoAnswer> {
        race(places, request, deadline, None).map(|(call, _)| call)
    }

    /// The first of these places that answers as is wanted, and the bytes that were wanted.
    pub(crate) fn first_to_answer(
        places: &[Place],
        request: &Request<'_>,
        deadline: Instant,
        wanted: &Wanted,
    ) -> Result<(Self, Vec<u8>), NoAnswer> {
        race(places, request, deadline, Some(wanted))
    }
}

/// One of those that are tried side by side.
struct Attempt {
    call: Call,
    port: u16,
    /// The answer so far, once somebody has accepted and was asked.
    answer: Option<Vec<u8>>,
}

/// How far it has come.
enum Step {
    Waits,
    Accepted,
    Done,
}

impl Attempt {
    fn event(&self) -> PollFlags {
        if self.answer.is_none() {
            PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        }
    }

    /// Goes on with what poll(2) has told of.
    fn go_on(&mut self, request: &Request<'_>, wanted: Option<&Wanted>) -> io::Result<Step> {
        let Some(answer) = &mut self.answer else {
            if let Some(error) = self.call.stream.take_error()? {
                return Err(error);
            }
            self.answer = Some(Vec::new());
            self.call.send(request)?;
            return Ok(match wanted {
                Some(_) => Step::Accepted,
                None => Step::Done,
            });
        };
        let Some(wanted) = wanted else {
            return Ok(Step::Done);
        };
        let mut buffer = vec![0; wanted.bytes.saturating_sub(answer.len())];
        match self.call.stream.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                answer.extend(buffer.iter().take(count));
                if answer.len() < wanted.bytes {
                    Ok(Step::Waits)
                } else if (wanted.holds)(answer, self.port) {
                    Ok(Step::Done)
                } else {
                    Err(ErrorKind::InvalidData.into())
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(Step::Waits)
            }
            Err(error) => Err(error),
        }
    }
}

fn race(
    places: &[Place],
    request: &Request<'_>,
    deadline: Instant,
    wanted: Option<&Wanted>,
) -> Result<(Call, Vec<u8>), NoAnswer> {
    let mut places = places.iter().peekable();
    let mut running: Vec<Attempt> = Vec::new();
    let mut failed = NoAnswer {
        connected: false,
        error: ErrorKind::ConnectionRefused.into(),
    };
    let mut next_at = Instant::now();
    loop {
        if running.is_empty() || Instant::now() >= next_at {
            if let Some(place) = places.next() {
                match Call::begin(*place, deadline) {
                    Ok(call) => {
                        let port = place.address.port();
                        let answer = None;
                        running.push(Attempt { call, port, answer });
                        next_at = Instant::now() + HEAD_START;
                    }
                    Err(error) => failed.is_followed_by(false, error),
                }
                continue;
            }
            if running.is_empty() {
                return Err(failed);
            }
        }
        let until = if places.peek().is_some() {
            deadline.min(next_at)
        } else {
            deadline
        };
        let mut events: Vec<_> = running
            .iter()
            .map(|attempt| PollFd::new(attempt.call.stream.as_fd(), attempt.event()))
            .collect();
        let waited = wait(&mut events, until);
        let ready: Vec<bool> = events.iter().map(|it| it.any() == Some(true)).collect();
        if let Err(error) = waited {
            failed.is_followed_by(false, error);
            return Err(failed);
        }
        for at in (0..running.len()).rev() {
            if ready.get(at) != Some(&true) {
                continue;
            }
            let mut attempt = running.swap_remove(at);
            match attempt.go_on(request, wanted) {
                Ok(Step::Done) => return Ok((attempt.call, attempt.answer.unwrap_or_default())),
                Ok(Step::Accepted) => {
                    next_at = Instant::now() + HEAD_START_TO_ANSWER;
                    running.push(attempt);
                }
                Ok(Step::Waits) => running.push(attempt),
                Err(error) => failed.is_followed_by(attempt.answer.is_some(), error),
            }
        }
        if Instant::now() >= deadline {
            let connected = running.iter().any(|attempt| attempt.answer.is_some());
            failed.is_followed_by(connected, ErrorKind::TimedOut.into());
            return Err(failed);
        }
    }
}

impl NoAnswer {
    /// What one failed of says more than another that nobody has accepted.
    fn is_followed_by(&mut self, connected: bool, error: io::Error) {
        if connected || !self.connected {
            *self = Self { connected, error };
        }
    }
}

/// Waits until one of them is ready: false where none is by then.
fn wait(events: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: poll(2) counts in milliseconds.
        let timeout = left
            .as_micros()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(PollTimeout::MAX);
        match poll(events, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    const WANTED: Wanted = Wanted {
        bytes: 4,
        holds: |answer, port| answer == u32::from(port).to_be_bytes(),
    };

    /// Somebody who answers so and closes, after a while.
    fn peer(last: u8, port: u16, after: Duration, answer: Vec<u8>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 64]);
                thread::sleep(after);
                let _ = stream.write_all(&answer);
            }
        });
        port
    }

    fn ask(port: u16, patience: Duration) -> Result<Vec<u8>, NoAnswer> {
        let places = [2, 3].map(|last| Place::local(Ipv4Addr::new(127, 0, 0, last).into(), port));
        let deadline = Instant::now() + patience;
        Call::first_to_answer(&places, &Request::List, deadline, &WANTED).map(|(_, answer)| answer)
    }

    #[test]
    fn whoever_does_not_answer_as_an_epmd_hides_nobody_who_does() {
        const PATIENCE: Duration = Duration::from_secs(5);
        let at_once = Duration::ZERO;
        for (after, answer) in [
            (at_once, b"".to_vec()),
            (at_once, b"HTTP".to_vec()),
            (at_once, b"x".to_vec()),
            (2 * PATIENCE, b"".to_vec()),
        ] {
            let port = peer(2, 0, after, answer);
            peer(3, port, at_once, u32::from(port).to_be_bytes().to_vec());
            assert_eq!(ask(port, PATIENCE).unwrap(), u32::from(port).to_be_bytes());
        }
    }

    #[test]
    fn why_nobody_has_answered_is_known() {
        const PATIENCE: Duration = Duration::from_millis(300);
        for (after, answer, expected) in [
            (Duration::ZERO, &b""[..], ErrorKind::UnexpectedEof),
            (Duration::ZERO, b"HTTP", ErrorKind::InvalidData),
            (2 * PATIENCE, b"", ErrorKind::TimedOut),
        ] {
            let port = peer(2, 0, after, answer.to_vec());
            let failed = ask(port, PATIENCE).unwrap_err();
            assert!(failed.connected);
            assert_eq!(failed.error.kind(), expected);
        }
        let free = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let failed = ask(port, PATIENCE).unwrap_err();
        assert!(!failed.connected);
        assert_eq!(failed.error.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn another_hosts_address_is_never_asked() {
        let places = [Place::own("192.0.2.1".parse().unwrap(), 9)];
        let deadline = Instant::now() + Duration::from_secs(5);
        let failed = Call::first_to_answer(&places, &Request::List, deadline, &WANTED);
        let failed = failed.map(|_| ()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::AddrNotAvailable);
    }
}
