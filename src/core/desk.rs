//! The desk at which every request is handled: bytes in, answer and outcome out.
//!
//! Decodes, asks the rules, asks the registry, encodes; what became of it is one [`Outcome`]. Knows
//! no sockets, no clock and nothing asynchronous: what holds a name is a [`Holder`], time is an
//! argument. Called by `server` for each connection, and by the tests without any.

use crate::core::access::{Decision, Rules};
use crate::core::holds::{Hold, Holds};
use crate::core::names::{NameRules, ROOT};
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Setting, Verdict};
use crate::core::registry::{Cursor, Gone, Id, Registration, Registry};
use crate::core::wire::{self, Decoded, NameFault, Node, Request};

/// How many bytes of a listing are made at a time: so much memory a slow reader of a long list costs.
pub const LISTING_CHUNK: usize = 8 * 1024;
/// A listing of so many names is answered on the spot.
const LISTED_AT_ONCE: usize = 64;

/// What holds a name: a node's connection, as the desk sees it.
pub trait Holder {
    /// Whether the node has closed its end, or has sent something more, which ends a registration.
    fn is_gone(&self) -> bool;
    /// The connection's descriptor, for a dump.
    fn descriptor(&self) -> i32;
    /// Whose the node is, where that is known.
    fn uid(&self) -> Option<u32>;
    /// Closes the connection.
    fn release(self);
}

/// What is to be done with a connection after the bytes that it has sent so far.
#[derive(Debug)]
pub enum Step<'a> {
    /// Wait: its request is not whole.
    Wait,
    /// Send what was encoded, if anything, and then the rest of the listing, and close.
    End(Reply, Outcome<'a>),
    /// Keep it: hand it to [`Desk::register`]. The outcome holds once the node has its answer.
    Register(Node<'a>, Outcome<'a>),
}

/// What belongs to an answer besides the encoded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing more.
    Whole,
    /// More lines: see [`Desk::continue_listing`].
    Listing(Listing),
    /// The daemon ends once it is sent.
    Exit,
}

/// Where a listing has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `NAMES_RESP`, or the first part of `DUMP_RESP`.
    Names {
        /// The names that are still to come.
        rest: Cursor,
        /// Whether it is a dump.
        dump: bool,
    },
    /// The second part of `DUMP_RESP`: names that are gone.
    Gone(usize),
}

/// Everything that requests are decided by.
#[derive(Debug)]
pub struct Desk<H> {
    /// Who may ask what.
    pub rules: Rules,
    /// Names at once.
    pub max_registrations: usize,
    /// Whether STOP_REQ, and KILL_REQ while names are registered, are allowed.
    pub relaxed_command_check: bool,
    /// The names.
    pub registry: Registry<H>,
    /// Names that are released, and are their last users' still.
    pub holds: Holds,
}

impl<H: Holder> Desk<H> {
    /// Handles all the bytes that a connection has sent so far; encodes the answer at the end of `out`.
    /// `now` is in milliseconds since boot, and of no matter to a lookup.
    pub fn handle<'a>(
        &mut self,
        ends: Ends,
        now: u64,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Step<'a> {
        let request = match wire::decode(bytes) {
            Decoded::Incomplete => return Step::Wait,
            Decoded::Malformed => None,
            Decoded::Request(request) => Some(request),
        };
        let (operation, node) = match &request {
            None => (Operation::Invalid, None),
            Some(Request::Register(node)) => (Operation::Register, Some(node.name)),
            Some(Request::Lookup(name)) => (Operation::Lookup, Some(*name)),
            Some(Request::List) => (Operation::List, None),
            Some(Request::Dump) => (Operation::Dump, None),
            Some(Request::Kill) => (Operation::Kill, None),
            Some(Request::Stop(name)) => (Operation::Stop, Some(*name)),
        };
        let setting = |reason| match reason {
            Some(Reason::NotAllowed) => self.rules.setting(operation, node),
            Some(Reason::NotOwner) => self.rules.forbidding(&ends, node),
            Some(Reason::TooMany) => Some(Setting::Registrations),
            _ => None,
        };
        let outcome = |verdict, reason| Outcome {
            ends,
            operation,
            node,
            verdict,
            reason,
            setting: setting(reason),
            since: None,
            holder: None,
        };
        let end = |reply, verdict, reason| Step::End(reply, outcome(verdict, reason));
        let refuse = |reason| end(Reply::Whole, Verdict::Refused, reason);

        let would = match self.rules.decide(&ends, operation, node) {
            Decision::Admit => None,
            Decision::WouldRefuse(reason) => Some(reason),
            Decision::Refuse(reason) => return refuse(Some(reason)),
        };
        match request {
            None => end(Reply::Whole, Verdict::Failed, Some(Reason::Malformed)),
            // As by stock, a name that no node can have is not answered; one that would only forge
            // lines is not found.
            Some(Request::Lookup(name))
                if wire::name_fault(name).is_some_and(|fault| fault != NameFault::ForgesLines) =>
            {
                end(Reply::Whole, Verdict::Failed, Some(Reason::Malformed))
            }
            Some(Request::Lookup(name)) => match self.registry.find(name) {
                Some(node) => {
                    wire::encode_found(&node, out);
                    end(Reply::Whole, Verdict::Answered, would)
                }
                None => {
                    wire::encode_not_found(out);
                    end(Reply::Whole, Verdict::Unknown, would)
                }
            },
            Some(Request::List | Request::Dump) => {
                wire::encode_listing_head(ends.local().port(), out);
                let dump = operation == Operation::Dump;
                let listing = Listing::Names {
                    rest: Cursor::START,
                    dump,
                };
                // A long one waits for its turn: whoever else has been accepted comes first.
                let reply = if self.registry.len() <= LISTED_AT_ONCE {
                    self.continue_listing(listing, out)
                } else {
                    Reply::Listing(listing)
                };
                end(reply, Verdict::Answered, would)
            }
            Some(Request::Kill) if self.relaxed_command_check || self.registry.is_empty() => {
                out.extend(wire::KILL_OK);
                end(Reply::Exit, Verdict::Answered, None)
            }
            Some(Request::Kill) => {
                out.extend(wire::KILL_NO);
                refuse(Some(Reason::NotAllowed))
            }
            Some(Request::Stop(_)) if !self.relaxed_command_check => {
                refuse(Some(Reason::NotAllowed))
            }
            Some(Request::Stop(name)) => match self.registry.id(name).and_then(|id| {
                let (registry, holds) = (&mut self.registry, &mut self.holds);
                release(registry, holds, &self.rules.names, id, now)
            }) {
                Some(holder) => {
                    holder.release();
                    out.extend(wire::STOP_OK);
                    end(Reply::Whole, Verdict::Answered, None)
                }
                None => {
                    out.extend(wire::STOP_NOEXIST);
                    end(Reply::Whole, Verdict::Unknown, None)
                }
            },
            Some(Request::Register(node)) => {
                if wire::name_fault(node.name).is_some() || node.extra.len() > wire::MAX_EXTRA {
                    wire::encode_taken(node.highest, out);
                    return end(Reply::Whole, Verdict::Failed, Some(Reason::Malformed));
                }
                // A node that was restarted quickly must not hear that its name is in use.
                let held = self.registry.holder(node.name).map(Holder::is_gone);
                if held == Some(false) {
                    wire::encode_taken(node.highest, out);
                    let taken = Outcome {
                        since: self.registry.since(node.name),
                        holder: self.registry.holder(node.name).and_then(Holder::uid),
                        ..outcome(Verdict::Taken, None)
                    };
                    return Step::End(Reply::Whole, taken);
                }
                if let Some(uid) = self.last_user_against(node.name, &ends, now) {
                    let refused = Outcome {
                        setting: Some(Setting::Hold),
                        holder: Some(uid),
                        ..outcome(Verdict::Refused, Some(Reason::NotOwner))
                    };
                    return Step::End(Reply::Whole, refused);
                }
                if held.is_none() && self.registry.len() >= self.max_registrations {
                    return refuse(Some(Reason::TooMany));
                }
                Step::Register(node, outcome(Verdict::Answered, None))
            }
        }
    }

    /// Whether an outcome is for the audit to judge. A connection that asked nothing is no event if
    /// its peer may ask, such as a health check; nor is a peer that went away before its answer came.
    #[must_use]
    pub fn is_event(&self, outcome: &Outcome<'_>) -> bool {
        let asked_nothing = outcome.operation == Operation::None;
        match outcome.reason {
            // A node that was registered, and is not any more.
            Some(Reason::Closed) if outcome.operation == Operation::Register => true,
            Some(Reason::Closed) => asked_nothing && !self.rules.may_ask(&outcome.ends),
            Some(Reason::Timeout) => !asked_nothing || !self.rules.may_ask(&outcome.ends),
            _ => true,
        }
    }

    /// Registers a node whose connection is now held, and encodes its answer at the end of `out`.
    /// `now` is in milliseconds since 1970 UTC.
    pub fn register(&mut self, node: &Node<'_>, now: u64, holder: H, out: &mut Vec<u8>) -> Id {
        let (id, creation, previous) = self.registry.register(node, now, holder);
        if let Some(previous) = previous {
            previous.release();
        }
        self.holds.remove(node.name);
        wire::encode_registered(node.highest, creation, out);
        id
    }

    /// Releases the registration with this number, and gives back who held it. `now` is in milliseconds
    /// since boot.
    pub fn release(&mut self, id: Id, now: u64) -> Option<H> {
        let (registry, holds) = (&mut self.registry, &mut self.holds);
        release(registry, holds, &self.rules.names, id, now)
    }

    /// Whose a name without a living node stays, if not this connection's user's.
    fn last_user_against(&self, name: &[u8], ends: &Ends, now: u64) -> Option<u32> {
        if !self.rules.names.holds() {
            return None;
        }
        match self.registry.holder(name) {
            // Its node is gone, and that has not been heard of yet: it is released just now.
            Some(gone) => {
                let may = |uid: &u32| ends.uid().is_some_and(|own| own == *uid || own == ROOT);
                gone.uid().filter(|uid| !may(uid))
            }
            None => {
                let time = self.rules.names.hold;
                self.holds.against(name, ends.uid(), now, time)
            }
        }
    }

    /// Encodes the next lines of a listing at the end of `out`, about [`LISTING_CHUNK`] bytes.
    pub fn continue_listing(&self, listing: Listing, out: &mut Vec<u8>) -> Reply {
        let mut listing = listing;
        while out.len() < LISTING_CHUNK {
            match &mut listing {
                Listing::Names { rest, dump } => match self.registry.list(rest) {
                    Some(Registration { node, holder, .. }) if *dump => {
                        wire::encode_active_line(node.name, node.port, holder.descriptor(), out);
                    }
                    Some(Registration { node, .. }) => {
                        wire::encode_name_line(node.name, node.port, out);
                    }
                    None if *dump => listing = Listing::Gone(0),
                    None => return Reply::Whole,
                },
                Listing::Gone(position) => match self.registry.list_gone(position) {
                    Some((name, port)) => wire::encode_unused_line(name, port, out),
                    None => return Reply::Whole,
                },
            }
        }
        Reply::Listing(listing)
    }
}

/// See [`Desk::release`]: a name whose last user is known is held for him.
fn release<H: Holder>(
    registry: &mut Registry<H>,
    holds: &mut Holds,
    rules: &NameRules,
    id: Id,
    now: u64,
) -> Option<H> {
    if rules.holds()
        && let Some(registration) = registry.get(id)
        && let Some(uid) = registration.holder.uid()
    {
        let hold = Hold {
            name: registration.node.name.into(),
            uid,
            released: now,
            gone: Gone {
                id,
                port: registration.node.port,
                creation: registration.creation,
            },
        };
        holds.hold(hold, now, rules.hold);
    }
    registry.release(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone, Debug, Default)]
    struct Node_ {
        gone: Rc<Cell<bool>>,
        released: Rc<Cell<bool>>,
        uid: Option<u32>,
    }

    impl Holder for Node_ {
        fn is_gone(&self) -> bool {
            self.gone.get()
        }
        fn descriptor(&self) -> i32 {
            7
        }
        fn uid(&self) -> Option<u32> {
            self.uid
        }
        fn release(self) {
            self.released.set(true);
        }
    }

    fn desk() -> Desk<Node_> {
        Desk {
            rules: Rules::default(),
            max_registrations: 10,
            relaxed_command_check: false,
            registry: Registry::default(),
            holds: Holds::default(),
        }
    }

    fn ends(peer: &str) -> Ends {
        let peer = format!("{peer}:40000").parse().unwrap();
        Ends::new(peer, "10.0.3.5:4369".parse().unwrap())
    }

    fn node(name: &str) -> Node<'_> {
        Node::new(name.as_bytes(), 4370)
    }

    fn ask(
        desk: &mut Desk<Node_>,
        peer: &str,
        request: Request<'_>,
    ) -> (Vec<u8>, Operation, Verdict, Option<Reason>) {
        let bytes = wire::encode_request(&request);
        let mut out = Vec::new();
        let (outcome, _) = match desk.handle(ends(peer), 0, &bytes, &mut out) {
            Step::End(reply, outcome) => (outcome, Some(reply)),
            Step::Register(node, outcome) => {
                desk.register(&node, 0, Node_::default(), &mut out);
                (outcome, None)
            }
            Step::Wait => panic!("a whole request"),
        };
        (out, outcome.operation, outcome.verdict, outcome.reason)
    }

    #[test]
    fn a_stranger_gets_not_a_byte_for_anything() {
        let mut desk = desk();
        ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        let requests = [
            (Request::Lookup(b"api"), Reason::NotAllowed),
            (Request::List, Reason::NotAllowed),
            (Request::Register(node("new")), Reason::NotLocal),
            (Request::Dump, Reason::NotLocal),
            (Request::Kill, Reason::NotLocal),
            (Request::Stop(b"api"), Reason::NotLocal),
        ];
        desk.relaxed_command_check = true;
        for (request, reason) in requests {
            let (out, _, verdict, why) = ask(&mut desk, "203.0.113.9", request);
            assert_eq!(
                (out, verdict, why),
                (vec![], Verdict::Refused, Some(reason)),
                "{request:?}"
            );
        }
        assert_eq!(desk.registry.len(), 1);
    }

    #[test]
    fn the_hosts_own_address_is_this_host() {
        let mut desk = desk();
        let (out, ..) = ask(&mut desk, "10.0.3.5", Request::Register(node("api")));
        assert_eq!(out[..2], *b"v\0");
        let (out, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Lookup(b"api"));
        assert_eq!((out[0], out[1], verdict), (b'w', 0, Verdict::Answered));
        let (out, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Lookup(b"other"));
        assert_eq!((&out[..], verdict), (&b"w\x01"[..], Verdict::Unknown));
    }

    #[test]
    fn with_enforce_off_strangers_look_up_and_list_but_the_outcome_says_so() {
        let mut desk = desk();
        desk.rules.enforce = false;
        ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        let (out, _, verdict, reason) = ask(&mut desk, "203.0.113.9", Request::Lookup(b"api"));
        assert_eq!(
            (out[1], verdict, reason),
            (0, Verdict::Answered, Some(Reason::NotAllowed))
        );
        let (_, _, verdict, reason) = ask(&mut desk, "203.0.113.9", Request::Kill);
        assert_eq!(
            (verdict, reason),
            (Verdict::Refused, Some(Reason::NotLocal))
        );
    }

    #[test]
    fn a_name_is_taken_while_its_holder_lives_and_free_after() {
        let mut desk = desk();
        let holder = Node_::default();
        let mut out = Vec::new();
        desk.register(&node("api"), 0, holder.clone(), &mut out);
        let (answer, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        assert_eq!((answer[1], verdict), (1, Verdict::Taken));
        assert!(!holder.released.get());
        holder.gone.set(true);
        let (answer, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        assert_eq!((answer[1], verdict), (0, Verdict::Answered));
        assert!(holder.released.get());
        assert_ne!(answer[2..], out[2..], "another creation");
    }

    #[test]
    fn a_lookup_of_a_name_that_no_node_can_have_is_not_answered_and_its_name_is_told() {
        let mut desk = desk();
        let ask = |desk: &mut Desk<_>, who| ask(desk, who, Request::Lookup(b"\xff\n"));
        let (out, operation, verdict, reason) = ask(&mut desk, "127.0.0.1");
        assert_eq!((out, operation), (vec![], Operation::Lookup));
        assert_eq!(
            (verdict, reason),
            (Verdict::Failed, Some(Reason::Malformed))
        );
        let (out, operation, _, reason) = ask(&mut desk, "203.0.113.9");
        assert_eq!(
            (out, operation, reason),
            (vec![], Operation::Lookup, Some(Reason::NotAllowed))
        );
    }

    #[test]
    fn names_that_forge_lines_are_refused_as_taken_ones_are() {
        let mut desk = desk();
        for name in ["a b", "a\nname x at port 1"] {
            let (answer, _, verdict, reason) =
                ask(&mut desk, "127.0.0.1", Request::Register(node(name)));
            assert_eq!(
                (answer[1], verdict, reason),
                (1, Verdict::Failed, Some(Reason::Malformed))
            );
        }
    }

    #[test]
    fn a_full_table_refuses_a_new_name_but_not_a_holder_that_is_gone() {
        let mut desk = desk();
        desk.max_registrations = 1;
        let holder = Node_::default();
        desk.register(&node("api"), 0, holder.clone(), &mut Vec::new());
        let (answer, _, verdict, reason) =
            ask(&mut desk, "127.0.0.1", Request::Register(node("new")));
        assert_eq!(
            (answer, verdict, reason),
            (vec![], Verdict::Refused, Some(Reason::TooMany))
        );
        holder.gone.set(true);
        let (answer, ..) = ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        assert_eq!(answer[1], 0);
    }

    #[test]
    fn kill_and_stop_want_relaxed_command_check() {
        let mut desk = desk();
        let (out, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Kill);
        assert_eq!((&out[..], verdict), (&b"OK"[..], Verdict::Answered));
        ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        let (out, _, verdict, reason) = ask(&mut desk, "127.0.0.1", Request::Kill);
        assert_eq!(
            (&out[..], verdict, reason),
            (&b"NO"[..], Verdict::Refused, Some(Reason::NotAllowed))
        );
        let (out, _, verdict, reason) = ask(&mut desk, "127.0.0.1", Request::Stop(b"api"));
        assert_eq!(
            (&out[..], verdict, reason),
            (&b""[..], Verdict::Refused, Some(Reason::NotAllowed))
        );
        desk.relaxed_command_check = true;
        let (out, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Stop(b"api"));
        assert_eq!((&out[..], verdict), (&b"STOPPED"[..], Verdict::Answered));
        let (out, _, verdict, _) = ask(&mut desk, "127.0.0.1", Request::Stop(b"api"));
        assert_eq!((&out[..], verdict), (&b"NOEXIST"[..], Verdict::Unknown));
    }

    #[test]
    fn a_long_listing_comes_in_chunks_and_whole() {
        let mut desk = desk();
        desk.max_registrations = 5000;
        let mut expected = Vec::new();
        for i in 0..3000 {
            let name = format!("n{i}");
            desk.register(&node(&name), 0, Node_::default(), &mut Vec::new());
            expected.splice(0..0, format!("name {name} at port 4370\n").into_bytes());
        }
        let mut out = Vec::new();
        let bytes = wire::encode_request(&Request::List);
        let Step::End(mut reply, _) = desk.handle(ends("127.0.0.1"), 0, &bytes, &mut out) else {
            panic!()
        };
        let mut all = out.clone();
        while let Reply::Listing(listing) = reply {
            assert!(out.len() < LISTING_CHUNK + 2048);
            out.clear();
            reply = desk.continue_listing(listing, &mut out);
            all.extend(&out);
        }
        assert_eq!(all[..4], 4369_u32.to_be_bytes());
        assert_eq!(all[4..], expected);
    }

    #[test]
    fn a_dump_ends_with_the_names_that_are_gone() {
        let mut desk = desk();
        desk.relaxed_command_check = true;
        ask(&mut desk, "127.0.0.1", Request::Register(node("old")));
        ask(&mut desk, "127.0.0.1", Request::Stop(b"old"));
        ask(&mut desk, "127.0.0.1", Request::Register(node("api")));
        let (out, ..) = ask(&mut desk, "127.0.0.1", Request::Dump);
        let expected = b"active name     <api> at port 4370, fd = 7\n\0old/unused name <old>, port = 4370, fd = -1 \n\0";
        assert_eq!(out[4..], expected[..]);
    }
}
