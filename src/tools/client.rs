//! The client's side of `epmd`: `-names`, `-started`, `-dump`, `-kill`, `-stop`, and the question
//! whether an epmd runs on a port of this host.
//!
//! Scripts read what these print, by text and column, and their statuses: both are stock's. Asks [::1],
//! and 127.0.0.1 beside it where that does not answer soon, and gives up when the epmd has kept it waiting
//! for [`PATIENCE`] (stock never does). Called by `main`.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

pub(crate) use super::call::Call;
use super::call::{NoAnswer, Place, Wanted};
use crate::core::wire::{self, Request};
use crate::exit::{Exit, complain};

/// How long a command waits for the local epmd, in all.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long the question whether an epmd runs may take: erl waits for the answer to start.
const PATIENCE_OF_ERL: Duration = Duration::from_secs(2);
/// Where the local epmd is looked for.
pub(crate) const LOCAL: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
];
/// The length of the answers to KILL_REQ and STOP_REQ.
const KILL_ANSWER: usize = 2;
const STOP_ANSWER: usize = 7;
/// What the answer to a list begins with: a port.
const HEAD: Wanted = Wanted {
    bytes: 4,
    holds: |_, _| true,
};
/// The same, of an epmd: it tells its own port.
const HEAD_OF_AN_EPMD: Wanted = Wanted {
    bytes: 4,
    holds: |head, port| head == u32::from(port).to_be_bytes(),
};

/// Has the local epmd do something.
fn order(port: u16, request: &Request<'_>) -> Result<Call, NoAnswer> {
    let places = LOCAL.map(|ip| Place::local(ip, port));
    Call::first_to_accept(&places, request, Instant::now() + PATIENCE)
}

/// Asks the local epmd something that may be asked twice: gives also how the answer begins.
fn ask(port: u16, request: &Request<'_>) -> Result<(Call, Vec<u8>), NoAnswer> {
    let places = LOCAL.map(|ip| Place::local(ip, port));
    Call::first_to_answer(&places, request, Instant::now() + PATIENCE, &HEAD)
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
    let (mut call, head) = match ask(port, request) {
        Ok((call, head)) => (call, head),
        Err(failed) if failed.connected => {
            writeln!(out, "epmd: no response from local epmd")?;
            return Ok(Exit::Failure);
        }
        Err(_) => return Ok(cannot_connect()),
    };
    let head = head
        .iter()
        .fold(0, |port, byte| port << 8 | u32::from(*byte));
    writeln!(out, "epmd: up and running on port {head} with data:")?;
    let mut buffer = [0; 8192];
    loop {
        match call.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                // Whoever reads our output may take its time (`| less`): that is not the epmd's.
                let begin = Instant::now();
                out.write_all(buffer.get(..count).unwrap_or_default())?;
                call.excuse(begin.elapsed());
            }
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
    match ask(port, &Request::List) {
        Ok(_) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}

/// `-kill`.
#[must_use]
pub fn kill(port: u16) -> Exit {
    let Ok(mut call) = order(port, &Request::Kill) else {
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
    let Ok(mut call) = order(port, &Request::Stop(name)) else {
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

/// Asks whether an epmd runs on this port: at loopback, and where none answers there, at those of `others`
/// that are addresses of this host. Nothing goes out to the network.
///
/// # Errors
/// There is none: nobody accepts a connection, or who does closes without an answer (`UnexpectedEof`), says
/// something else (`InvalidData`), or nothing in time (`TimedOut`).
pub fn epmd_runs(port: u16, others: &[IpAddr]) -> io::Result<()> {
    let asked = |places: &[Place]| {
        let deadline = Instant::now() + PATIENCE_OF_ERL;
        Call::first_to_answer(places, &Request::List, deadline, &HEAD_OF_AN_EPMD)
            .map(drop)
            .map_err(|failed| failed.error)
    };
    let others: Vec<_> = others
        .iter()
        .filter(|ip| !LOCAL.contains(ip))
        .map(|ip| Place::own(*ip, port))
        .collect();
    match asked(&LOCAL.map(|ip| Place::local(ip, port))) {
        Err(_) if !others.is_empty() => asked(&others),
        result => result,
    }
}
