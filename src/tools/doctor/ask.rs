//! Asking: one request, one connect, and several of them side by side, each with a time of its own.
//!
//! Threads are made with a small stack of a size that is said here, and where none can be had
//! (RLIMIT_NPROC) one thing is done after the other: it takes longer, and finds the same. Called by
//! `node`, `host` and `address`.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::HEAD_START;
use super::judge::{self, Answer, Barrier, End};
use crate::core::wire::Request;
use crate::tools::client::Call;

/// The stack of each thread. The system's resolver needs most, with whatever /etc/nsswitch.conf has it
/// load; nothing of it is taken before it is used.
pub(super) const STACK: usize = 512 * 1024;
/// How many threads may be left behind: -watch comes again and again where a resolver hangs.
const MOST_LEFT: usize = 128;
/// What a full buffer of an answer is read in.
const CHUNK: usize = 4096;

/// A thread to be made.
pub(in crate::tools) fn thread() -> thread::Builder {
    thread::Builder::new().stack_size(STACK)
}

/// Does something that can't be told when to give up; `None` where it takes longer than `limit`. A
/// thread that is left behind waits for it then, and where [`MOST_LEFT`] do, it is not even begun. Where there
/// is no thread for it, it takes what it takes.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    act: impl Fn() -> T + Clone + Send + 'static,
) -> Option<T> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    if RUNNING.fetch_add(1, Ordering::Relaxed) >= MOST_LEFT {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let (sender, receiver) = mpsc::channel();
    let there = act.clone();
    let made = thread().spawn(move || {
        let _ = sender.send(there());
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    });
    match made {
        Ok(_) => receiver.recv_timeout(limit).ok(),
        Err(_) => {
            RUNNING.fetch_sub(1, Ordering::Relaxed);
            Some(act())
        }
    }
}

/// Does all of these side by side; the results are in the same order.
pub(in crate::tools) fn side_by_side<A: Sync, T: Send>(
    all: &[A],
    act: impl Fn(&A) -> T + Sync,
) -> Vec<T> {
    let act = &act;
    thread::scope(|scope| {
        let made: Vec<_> = all
            .iter()
            .map(|one| (one, thread().spawn_scoped(scope, move || act(one)).ok()))
            .collect();
        made.into_iter()
            .map(
                |(one, made)| match made.map(thread::ScopedJoinHandle::join) {
                    Some(Ok(done)) => done,
                    // None could be had, or it died of something that will be seen here.
                    None | Some(Err(_)) => act(one),
                },
            )
            .collect()
    })
}

/// Tries one way, and a second one where the first fails or takes longer than [`HEAD_START`], so that
/// both are done in time. Gives what came of the first, and of the second where that was tried and the
/// first is not `good`.
pub(super) fn one_or_other<T: Send>(
    first: impl Fn() -> T + Sync,
    good: impl Fn(&T) -> bool,
    second: Option<impl FnOnce() -> T>,
) -> (T, Option<T>) {
    let Some(second) = second else {
        return (first(), None);
    };
    let begin = &first;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let made = thread().spawn_scoped(scope, move || {
            let _ = sender.send(begin());
        });
        let early = match made {
            Ok(_) => receiver.recv_timeout(HEAD_START).ok(),
            Err(_) => Some(begin()),
        };
        if let Some(done) = early {
            let more = (!good(&done)).then(second);
            return (done, more);
        }
        let more = second();
        let late = receiver.recv().unwrap_or_else(|_| begin());
        let more = (!good(&late)).then_some(more);
        (late, more)
    })
}

/// Sends one request, and reads what comes back until the other end closes, `most` bytes have come or
/// it is `deadline`.
///
/// # Errors
/// There is no connection; what happens to one is in the answer.
pub(super) fn ask(
    address: SocketAddr,
    request: &Request<'_>,
    most: usize,
    deadline: Instant,
) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut call = match Call::connect(address, deadline) {
        Ok(call) => call,
        Err(error) if judge::was_accepted(&error) => {
            let end = End::Closed;
            return Ok(Answer { bytes, end });
        }
        Err(error) => return Err(error),
    };
    // A connection that was closed at once may be told by the sending already; the reading says more.
    let _ = call.send(request);
    let mut buffer = [0; CHUNK];
    let end = loop {
        match call.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(count) => bytes.extend(buffer.iter().take(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => match judge::barrier(&error) {
                Barrier::NoAnswer => break End::Late,
                Barrier::Refused | Barrier::Unreachable => break End::Closed,
            },
        }
        if bytes.len() > most {
            break End::TooMuch;
        }
    };
    Ok(Answer { bytes, end })
}

/// Connects, and sends nothing.
///
/// # Errors
/// It was not accepted by `deadline`.
pub(super) fn connect(address: SocketAddr, deadline: Instant) -> io::Result<()> {
    match Call::connect(address, deadline) {
        Ok(_) => Ok(()),
        Err(error) if judge::was_accepted(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_peer_that_accepts_and_resets_at_once_has_accepted() {
        const ROUNDS: usize = 400;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let resets = thread::spawn(move || {
            for _ in 0..2 * ROUNDS {
                let (stream, _) = listener.accept().unwrap();
                let socket = socket2::Socket::from(stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        for _ in 0..ROUNDS {
            let soon = Instant::now() + Duration::from_secs(10);
            let answer = ask(address, &Request::Lookup(b"api"), 100, soon).unwrap();
            assert_eq!(judge::lookup(&answer, b"api"), judge::Lookup::Refused);
            connect(address, soon).unwrap();
        }
        resets.join().unwrap();
        let soon = Instant::now() + Duration::from_secs(10);
        assert!(connect(address, soon).is_err(), "nobody listens any more");
    }

    #[test]
    fn the_second_way_is_tried_where_the_first_fails() {
        let is_even = |n: &i32| n % 2 == 0;
        assert_eq!(one_or_other(|| 2, is_even, Some(|| 4)), (2, None));
        assert_eq!(one_or_other(|| 3, is_even, Some(|| 4)), (3, Some(4)));
        assert_eq!(one_or_other(|| 3, is_even, None::<fn() -> i32>), (3, None));
        let late = || {
            thread::sleep(HEAD_START + Duration::from_millis(200));
            3
        };
        assert_eq!(one_or_other(late, is_even, Some(|| 4)), (3, Some(4)));
        assert_eq!(side_by_side(&[1, 2, 3], |n| n * 2), [2, 4, 6]);
    }
}
