//! Random sessions, side by side: the same sequence of requests to stock epmd and to this one, and
//! the same answers, byte for byte, but for creations, descriptors' numbers and what
//! docs/differences.md lists.
//!
//! A session is 500 requests to two fresh daemons, and a seed; it is passed with each stock epmd. A
//! failure says its seed; `EPMD_TEST_SEED=<seed> cargo test --test sessions` passes that one session
//! again. With `EPMD_TEST_LONG=1` there are 200 sessions with each, 200,000 requests.
//!
//! - `random`: numbers from a seed.
//! - `requests`: what is asked.
//! - `pair`: both daemons, and what they answer.
//! - `differences`: which answers may differ.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod differences;
mod pair;
mod random;
mod requests;

#[path = "../common/mod.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use common::binary::Epmd;
use differences::Difference;
use pair::{Observed, Pair, Release, Streams};
use random::Random;
use requests::Request;

/// Requests of a session.
const REQUESTS: usize = 500;
/// Sessions, and sessions of the long form.
const SESSIONS: [usize; 2] = [10, 200];
/// Names held at once, far below stock's 1017.
const MOST_HELD: usize = 40;
/// Requests that are on their way at once.
const MOST_BEGUN: usize = 12;
/// How many of the last steps a failure shows.
const SHOWN: usize = 12;

#[test]
fn random_sessions_get_the_same_answers() {
    pass_all(Epmd::Stock);
}

#[test]
fn random_sessions_get_the_same_answers_as_of_otp_29() {
    pass_all(Epmd::Stock29);
}

/// Passes the session that is asked for, or a number of any.
fn pass_all(stock: Epmd) {
    if let Ok(seed) = std::env::var("EPMD_TEST_SEED") {
        let seed = seed.parse().expect("EPMD_TEST_SEED is a number");
        return pass(stock, seed);
    }
    let long = std::env::var_os("EPMD_TEST_LONG").is_some();
    let mut seeds = Random::from_chance();
    for _ in 0..SESSIONS[usize::from(long)] {
        pass(stock, seeds.next());
    }
}

#[test]
fn every_difference_that_is_tolerated_is_an_entry_of_the_document() {
    let document = include_str!("../../docs/differences.md");
    for difference in Difference::ALL {
        let entry = format!("\n| {} | ", difference.entry());
        assert!(document.contains(&entry), "{entry}");
    }
}

/// Passes the session with this seed, and says which it was where it fails.
fn pass(stock: Epmd, seed: u64) {
    let mut session = Session::new(stock, seed);
    let passed = catch_unwind(AssertUnwindSafe(|| session.pass()));
    if let Err(reason) = passed {
        let first = session.steps.len().saturating_sub(SHOWN);
        eprintln!("the last steps were:");
        for step in &session.steps[first..] {
            eprintln!("  {step}");
        }
        eprintln!(
            "to pass this session with {stock:?} again: EPMD_TEST_SEED={seed} cargo test --test sessions"
        );
        resume_unwind(reason);
    }
}

/// A name that both daemons hold.
struct Held {
    name: Vec<u8>,
    streams: Streams,
}

/// A request of which the rest is still to be sent.
struct Begun {
    request: Request,
    sent: usize,
    streams: Streams,
}

/// One session.
struct Session {
    random: Random,
    pair: Pair,
    relaxed: bool,
    held: Vec<Held>,
    begun: Vec<Begun>,
    /// Requests that both daemons got to their end.
    asked: usize,
    /// What was done, for people.
    steps: Vec<String>,
}

impl Session {
    fn new(stock: Epmd, seed: u64) -> Self {
        let mut random = Random::from_seed(seed);
        let relaxed = random.one_in(2);
        Self {
            random,
            pair: Pair::start(stock, relaxed),
            relaxed,
            held: Vec::new(),
            begun: Vec::new(),
            asked: 0,
            steps: Vec::new(),
        }
    }

    fn pass(&mut self) {
        while self.asked < REQUESTS {
            match self.random.below(10) {
                0 if !self.held.is_empty() => self.release(),
                1 if !self.begun.is_empty() => self.go_on(),
                _ => self.ask(),
            }
        }
        self.end();
    }

    /// Asks something, at once or in pieces, or begins to ask.
    fn ask(&mut self) {
        let names: Vec<&[u8]> = self.held.iter().map(|held| &*held.name).collect();
        let request = Request::make(&mut self.random, &names);
        if request.is_kill() && (self.relaxed || self.held.is_empty()) {
            return; // It would be the session's end.
        }
        let streams = self.pair.connect(self.random.one_in(4));
        let begun = Begun {
            request,
            sent: 0,
            streams,
        };
        match self.random.below(8) {
            0 if self.begun.len() < MOST_BEGUN => {
                let begun = self.send_some(begun);
                self.begun.push(begun);
            }
            1 | 2 => {
                let begun = self.send_some(begun);
                let begun = self.send_some(begun);
                self.finish(begun);
            }
            _ => self.finish(begun),
        }
    }

    /// Sends more of a request that was begun, or all of it.
    fn go_on(&mut self) {
        let begun = self.begun.swap_remove(self.random.below(self.begun.len()));
        // What was begun may have become the session's end meanwhile.
        if begun.request.is_kill() && self.held.is_empty() {
            return;
        }
        if self.random.one_in(2) {
            let begun = self.send_some(begun);
            self.begun.push(begun);
        } else {
            self.finish(begun);
        }
    }

    /// Sends a piece of a request: none that would make it whole.
    fn send_some(&mut self, mut begun: Begun) -> Begun {
        let left = begun.request.splits_before().saturating_sub(begun.sent);
        let piece = self.random.below(left.max(1));
        let bytes = &begun.request.bytes[begun.sent..begun.sent + piece];
        self.steps.push(format!("begin {bytes:?}"));
        begun.streams.send(bytes);
        begun.sent += piece;
        begun
    }

    /// Sends the rest of a request, and compares the answers.
    fn finish(&mut self, begun: Begun) {
        let Begun {
            request,
            sent,
            mut streams,
        } = begun;
        self.steps.push(format!("{request:?} from byte {sent}"));
        self.asked += 1;
        streams.send(&request.bytes[sent..]);
        if let Some(name) = &request.holds
            && self.held.len() < MOST_HELD
        {
            let name = name.clone();
            if self.pair.registers(&request, &mut streams) {
                self.held.push(Held { name, streams });
            }
            return;
        }
        let released = self.pair.compare(&request, streams);
        if released == Observed::Stopped {
            let name = request.stops().unwrap_or_default();
            let index = self.held.iter().position(|held| held.name == name);
            let held = self.held.swap_remove(index.expect("a name that is held"));
            held.streams.expect_close();
        }
    }

    /// Ends one registration, in one of the ways in which connections end.
    fn release(&mut self) {
        let held = self.held.swap_remove(self.random.below(self.held.len()));
        let release = *self.random.one_of(&Release::ALL);
        self.steps.push(format!(
            "{release:?} of {:?}",
            String::from_utf8_lossy(&held.name)
        ));
        self.pair.release(release, &held.name, held.streams);
    }

    /// Ends both daemons, as a command does.
    fn end(&mut self) {
        self.steps.push("the end".to_owned());
        self.begun.clear();
        while !self.relaxed && !self.held.is_empty() {
            self.release();
        }
        self.pair.kill();
    }
}
