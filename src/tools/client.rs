//! The client's side of `epmd`: `-names`, `-started`, `-dump`, `-kill`, `-stop`, and the question
//! whether it is an epmd that holds a port.
//!
//! Scripts read what these print, by text and column, and their statuses: both are stock's. Tries
//! [::1], then 127.0.0.1, and gives up after [`PATIENCE`] (stock never does). Called by `main`, and for
//! its [`Call`] by `doctor`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::core::wire::{self, Request};
use crate::exit::{Exit, complain};

/// How long a command waits for the local epmd, in all.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long the question whether an epmd holds a port may take: erl waits for the answer to start.
const PATIENCE_WITH_A_HOLDER: Duration = Duration::from_secs(2);
/// Where the local epmd is looked for.
pub(crate) const LOCAL: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
];
/// The length of the answers to KILL_REQ and STOP_REQ.
const KILL_ANSWER: usize = 2;
const STOP_ANSWER: usize = 7;

/// A connection to an epmd, with a time by which everything must be done.
pub(crate) struct Call {
    stream: TcpStream,
    deadline: Instant,
}

impl Call {
    /// Connects to the local epmd and sends a request.
    fn local(port: u16, request: &Request<'_>) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut result = Err(ErrorKind::ConnectionRefused.into());
        for ip in LOCAL {
            result = Self::to(SocketAddr::new(ip, port), deadline, request);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn to(address: SocketAddr, deadline: Instant, request: &Request<'_>) -> io::Result<Self> {
        let call = Self::connect(address, deadline)?;
        call.send(request)?;
        Ok(call)
    }

    /// Connects, and sends nothing yet.
    pub(crate) fn connect(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
        Ok(Self { stream, deadline })
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: &Request<'_>) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        (&self.stream).write_all(&wire::encode_request(request))
    }

    /// Reads once; 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }

    /// Reads up to `count` bytes, fewer only where the answer ends before.
    fn read_up_to(&mut self, count: usize) -> io::Result<Vec<u8>> {
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
}

/// The time that is left.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

/// `-names` and `-dump`: prints the answer.
#[must_use]
pub fn list(port: u16, request: &Request<'_>) -> Exit {
    match try_list(port, request, &mut io::stdout().lock()) {
        Ok(exit) => exit,
        // Whoever read our output has gone: nothing is left to be said to anybody.
        Err(_) => Exit::Failure,
    }
}

fn try_list(port: u16, request: &Request<'_>, out: &mut impl Write) -> io::Result<Exit> {
    let Ok(mut call) = Call::local(port, request) else {
        return Ok(cannot_connect());
    };
    let head = call.read_up_to(4).unwrap_or_default();
    let Ok(head) = <[u8; 4]>::try_from(head) else {
        writeln!(out, "epmd: no response from local epmd")?;
        return Ok(Exit::Failure);
    };
    writeln!(
        out,
        "epmd: up and running on port {} with data:",
        u32::from_be_bytes(head)
    )?;
    let mut buffer = [0; 8192];
    loop {
        match call.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => out.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(_) => {
                out.flush()?;
                complain("epmd: the answer of the local epmd broke off");
                return Ok(Exit::Failure);
            }
        }
    }
    out.flush()?;
    Ok(Exit::Success)
}

/// `-started`: prints nothing.
#[must_use]
pub fn started(port: u16) -> Exit {
    let answer = Call::local(port, &Request::List).and_then(|mut call| call.read_up_to(4));
    match answer {
        Ok(head) if head.len() == 4 => Exit::Success,
        _ => Exit::Failure,
    }
}

/// `-kill`.
#[must_use]
pub fn kill(port: u16) -> Exit {
    let Ok(mut call) = Call::local(port, &Request::Kill) else {
        return cannot_connect();
    };
    match call.read_up_to(KILL_ANSWER) {
        Ok(answer) if answer == wire::KILL_OK => say("Killed", Exit::Success),
        Ok(answer) if answer.len() == KILL_ANSWER => say(
            "Killing not allowed - living nodes in database.",
            Exit::Failure,
        ),
        answer => unexpected(answer),
    }
}

/// `-stop Name`.
#[must_use]
pub fn stop(port: u16, name: &[u8]) -> Exit {
    if name.len() > wire::MAX_NAME_BYTES {
        return say("epmd: Name too long!", Exit::Failure);
    }
    let Ok(mut call) = Call::local(port, &Request::Stop(name)) else {
        return cannot_connect();
    };
    match call.read_up_to(STOP_ANSWER) {
        Ok(answer) if answer == wire::STOP_OK || answer == wire::STOP_NOEXIST => {
            say(&String::from_utf8_lossy(&answer), Exit::Success)
        }
        answer => unexpected(answer),
    }
}

fn unexpected(answer: io::Result<Vec<u8>>) -> Exit {
    match answer {
        Ok(answer) => {
            let answer = crate::core::audit::escape(&answer);
            say(
                &format!("epmd: local epmd responded with <{answer}>"),
                Exit::Failure,
            )
        }
        Err(_) => say("epmd: failed to read answer from local epmd", Exit::Failure),
    }
}

fn cannot_connect() -> Exit {
    complain("epmd: Cannot connect to local epmd");
    Exit::Failure
}

/// Prints a line, where anybody reads it, and passes the status on.
fn say(line: &str, exit: Exit) -> Exit {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => exit,
        Err(_) => Exit::Failure,
    }
}

/// Whether it is an epmd that listens on this address of this host: it tells its own port.
#[must_use]
pub fn is_an_epmd(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let deadline = Instant::now() + PATIENCE_WITH_A_HOLDER;
    let answer = Call::to(
        SocketAddr::new(ip, address.port()),
        deadline,
        &Request::List,
    )
    .and_then(|mut call| call.read_up_to(4));
    answer.is_ok_and(|answer| answer == u32::from(address.port()).to_be_bytes())
}
