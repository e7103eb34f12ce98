//! `connection`: whole connections, one after the other, from any peer, with any bytes in any pieces:
//! each has one outcome, the answer is what the outcome says, a stranger gets no byte, and nothing
//! grows beyond its bound.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hardened_epmd::config::Settings;
use hardened_epmd::core::access::{Networks, Rules};
use hardened_epmd::core::audit::{Audit, Event};
use hardened_epmd::core::counters::Counters;
use hardened_epmd::core::desk::{Desk, Holder, LISTING_CHUNK, Reply, Step};
use hardened_epmd::core::holds::Holds;
use hardened_epmd::core::outcome::{Ends, Operation, Outcome, Reason, Verdict};
use hardened_epmd::core::registry::{MAX_GONE, Registry};
use hardened_epmd::core::wire::{LENGTH_FIELD, MAX_NAME_BYTES, MAX_REQUEST};

use super::input::Input;

/// Names at once: few, so that the table is full soon.
const REGISTRATIONS: usize = 4;
/// A line of a listing, at most.
const LONGEST_LINE: usize = MAX_NAME_BYTES + 64;
/// Where the connections come to.
const LOCAL: &str = "10.0.3.5";
/// Who connects: this host, whom the rules admit, whom they deny, and strangers.
const PEERS: [&str; 9] = [
    "127.0.0.1",
    "::1",
    LOCAL,
    "::ffff:10.0.3.5",
    "10.0.3.20",
    "fd00:3::9",
    "10.0.3.66",
    "203.0.113.9",
    "2001:db8::9",
];

/// A node's connection, which the fuzzer may close.
#[derive(Clone, Debug, Default)]
struct Node(Rc<(Cell<bool>, Cell<u32>)>);

impl Holder for Node {
    fn is_gone(&self) -> bool {
        self.0.0.get()
    }
    fn descriptor(&self) -> i32 {
        7
    }
    fn uid(&self) -> Option<u32> {
        None
    }
    fn release(self) {
        self.0.1.set(self.0.1.get() + 1);
    }
}

/// What a daemon has, without its sockets.
struct Daemon {
    desk: Desk<Node>,
    audit: Audit,
    counters: Counters,
    /// Who was ever registered.
    nodes: Vec<Node>,
    connections: u64,
    killed: bool,
}

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut daemon = Daemon::new(input.byte());
    while !input.is_empty() && !daemon.killed {
        match input.byte() {
            // A node's connection ends.
            which @ 0..32 => {
                if let Some(node) = daemon.nodes.get(usize::from(which)) {
                    node.0.0.set(true);
                }
            }
            kind => {
                let peer = PEERS[usize::from(kind) % PEERS.len()];
                daemon.connect(peer, kind & 1 == 0, &mut input);
            }
        }
    }
    daemon.finish();
}

impl Daemon {
    fn new(flags: u8) -> Self {
        let networks = |list: &[&str]| -> Networks {
            list.iter().map(|n| n.parse().expect("a network")).collect()
        };
        let rules = Rules {
            allow: networks(&["10.0.3.0/24", "fd00:3::/64"]),
            deny: networks(&["10.0.3.66/32"]),
            list: (flags & 1 != 0).then(|| networks(&["fd00:3::/64"])),
            nodes: [(b"a"[..].into(), networks(&["10.0.3.0/28"]))].into(),
            enforce: flags & 2 == 0,
            ..Rules::default()
        };
        let settings = Settings::default();
        Self {
            desk: Desk {
                rules,
                max_registrations: REGISTRATIONS,
                relaxed_command_check: flags & 4 != 0,
                registry: Registry::default(),
                holds: Holds::default(),
            },
            audit: Audit::new(settings.audit_policy()),
            counters: Counters::default(),
            nodes: Vec::new(),
            connections: 0,
            killed: false,
        }
    }

    /// A connection from its first byte to its outcome. `whole`: the bytes get a length in front.
    fn connect(&mut self, peer: &str, whole: bool, input: &mut Input<'_>) {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let ends = Ends::new(
            SocketAddr::new(address(peer), 40_000),
            SocketAddr::new(address(LOCAL), 4369),
        );
        let body = input.field();
        let sent = if whole {
            let length = u16::try_from(body.len()).expect("a field's length");
            [&length.to_be_bytes()[..], body].concat()
        } else {
            body.to_vec()
        };
        self.connections += 1;
        let (mut got, mut step) = (0, 1 + usize::from(input.byte()));
        loop {
            let bytes = &sent[..got];
            let mut out = Vec::new();
            match self.desk.handle(ends, 0, bytes, &mut out) {
                Step::Wait => {
                    assert!(out.is_empty());
                    assert!(got < LENGTH_FIELD + MAX_REQUEST, "waits for more than fits");
                    if got == sent.len() {
                        return self.conclude(&hung_up(ends), &[]);
                    }
                    // One piece after the other, of different lengths.
                    got = sent.len().min(got + step);
                    step = 1 + step * 7 % 256;
                }
                Step::Register(node, outcome) => {
                    assert!(out.is_empty());
                    let held = Node::default();
                    self.nodes.push(held.clone());
                    self.desk.register(&node, 0, held, &mut out);
                    return self.conclude(&outcome, &out);
                }
                Step::End(reply, outcome) => {
                    let answer = self.whole_answer(reply, out);
                    self.killed = reply == Reply::Exit;
                    return self.conclude(&outcome, &answer);
                }
            }
        }
    }

    /// The answer with all the lines of a listing, made as a slow reader has them made.
    fn whole_answer(&self, mut reply: Reply, mut out: Vec<u8>) -> Vec<u8> {
        let mut answer = Vec::new();
        loop {
            assert!(out.len() <= LISTING_CHUNK + LONGEST_LINE);
            answer.append(&mut out);
            let Reply::Listing(listing) = reply else {
                return answer;
            };
            reply = self.desk.continue_listing(listing, &mut out);
        }
    }

    /// Takes the one outcome of a connection, which says what its peer got.
    fn conclude(&mut self, outcome: &Outcome<'_>, answer: &[u8]) {
        assert_eq!(
            outcome.ends,
            Ends::new(outcome.ends.peer(), outcome.ends.local())
        );
        let peer = outcome.ends.peer().ip();
        let this_host = peer.is_loopback() || peer == outcome.ends.local().ip();
        match (outcome.verdict, outcome.reason) {
            // A kill that is not allowed, or a name that can't be had, has an answer for this host.
            (Verdict::Refused, Some(_)) => assert!(answer.is_empty()),
            (Verdict::Refused, None) => assert!(this_host && matches!(answer, b"" | b"NO")),
            (Verdict::Failed, _) => assert!(answer.is_empty() || this_host),
            (Verdict::Taken, _) => assert!(this_host && answer[1] == 1),
            (Verdict::Answered | Verdict::Unknown, would) => {
                assert!(!answer.is_empty());
                assert!(would.is_none() || !self.desk.rules.enforce);
                let asks = matches!(outcome.operation, Operation::Lookup | Operation::List);
                assert!(this_host || asks, "{outcome:?}");
            }
        }
        let admitted = this_host
            || !self.desk.rules.enforce
            || self.desk.rules.allow.contains(peer) && !self.desk.rules.deny.contains(peer);
        assert!(admitted || answer.is_empty(), "a stranger got {answer:?}");

        self.counters.count(outcome);
        if self.desk.is_event(outcome) {
            let now = Duration::from_millis(self.connections);
            self.audit.record(now, outcome, &mut one_line);
        }
        assert!(self.desk.registry.len() <= REGISTRATIONS);
        assert!(self.desk.registry.gone_len() <= MAX_GONE);
    }

    /// The sums are right at the end.
    fn finish(mut self) {
        self.audit.flush(Duration::from_secs(1), &mut one_line);
        let all = Operation::ALL.iter().flat_map(|operation| {
            let counters = &self.counters;
            Verdict::ALL.map(|verdict| counters.requests(*operation, verdict))
        });
        assert_eq!(all.sum::<u64>(), self.connections, "one outcome each");
        let released = self.nodes.iter().map(|node| node.0.1.get());
        assert!(released.clone().all(|times| times <= 1), "released twice");
        let held = self.nodes.len() - released.filter(|times| *times == 1).count();
        assert_eq!(held, self.desk.registry.len(), "a holder was lost");
    }
}

/// The peer went away before its request was whole, as `server` says it.
fn hung_up(ends: Ends) -> Outcome<'static> {
    Outcome {
        ends,
        operation: Operation::None,
        node: None,
        verdict: Verdict::Failed,
        reason: Some(Reason::Closed),
        setting: None,
        since: None,
        holder: None,
    }
}

/// A line of the audit is a line, whatever was asked.
fn one_line(event: Event) {
    let harmless = |text: &str| !text.chars().any(char::is_control);
    assert!(harmless(&event.message), "{:?}", event.message);
    assert!(event.node.as_deref().is_none_or(harmless));
}
