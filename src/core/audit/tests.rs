//! The audit as its caller sees it: outcomes and times in, lines out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::budget::LINES_A_SECOND;
use super::table::SOURCES;
use super::*;
use crate::core::outcome::{Ends, Setting};

const WINDOW: Duration = Duration::from_secs(60);

fn policy(lookups: bool) -> Policy {
    Policy {
        window: WINDOW,
        lookups,
        hint: Hint::default(),
    }
}

fn audit() -> Audit {
    Audit::new(policy(false))
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A connection from there to this host.
fn ends(peer: IpAddr, port: u16) -> Ends {
    let local = SocketAddr::from(([10, 0, 3, 5], 4369));
    Ends::new(SocketAddr::new(peer, port), local)
}

/// A refused lookup of `node` from the `source`th address.
fn refused(source: u32, node: &[u8]) -> Outcome<'_> {
    let address = Ipv4Addr::from_bits(0xcb00_7100 + source);
    Outcome {
        ends: ends(address.into(), 40_000),
        operation: Operation::Lookup,
        node: Some(node),
        verdict: Verdict::Refused,
        reason: Some(Reason::NotAllowed),
        setting: Some(Setting::Allow),
        since: None,
        holder: None,
    }
}

/// What `f` tells.
fn told(f: impl FnOnce(&mut dyn FnMut(Event))) -> Vec<Event> {
    let mut events = Vec::new();
    f(&mut |event| events.push(event));
    events
}

fn record(audit: &mut Audit, now: Duration, outcome: &Outcome<'_>) -> Vec<Event> {
    told(|mut tell| audit.record(now, outcome, &mut tell))
}

fn due(audit: &mut Audit, now: Duration) -> Vec<Event> {
    told(|mut tell| audit.due(now, &mut tell))
}

#[test]
fn the_first_is_told_at_once_and_repeats_at_the_end_of_the_window() {
    let mut audit = audit();
    assert_eq!(audit.next_due(), None);
    let mut outcome = refused(9, b"api");
    let first = record(&mut audit, ms(1000), &outcome);
    assert_eq!(first.len(), 1);
    assert_eq!(
        first[0],
        Event {
            kind: Kind::Refused,
            operation: Some(Operation::Lookup),
            node: Some("api".into()),
            peer: Some(("203.0.113.9".parse().unwrap(), 40_000)),
            local: Some("10.0.3.5".parse().unwrap()),
            uid: None,
            reason: Some(Reason::NotAllowed),
            repeats: 0,
            message: "refused lookup of \"api\" from 203.0.113.9: not in access.allow \
                      (to admit it: add \"203.0.113.9\" to allow in [access] of /etc/epmd.toml, \
                      or to EPMD_ALLOW)"
                .into(),
        }
    );
    // A window without repeats ends by itself.
    assert_eq!(audit.next_due(), None);
    for i in 0..37 {
        outcome.ends = ends(outcome.ends.peer().ip(), 50_000 + i);
        assert_eq!(record(&mut audit, ms(2000), &outcome), []);
    }
    assert_eq!(audit.next_due(), Some(ms(61_000)));
    assert_eq!(due(&mut audit, ms(60_999)), []);
    let sum = due(&mut audit, ms(61_000));
    assert_eq!(sum.len(), 1);
    assert_eq!((sum[0].repeats, sum[0].node.as_deref()), (37, Some("api")));
    assert_eq!(sum[0].peer.unwrap().1, 50_036);
    assert!(
        sum[0]
            .message
            .ends_with("not in access.allow, 37 more times in 60 s")
    );
    // The sum began a window.
    assert_eq!(audit.next_due(), None);
    assert_eq!(record(&mut audit, ms(120_999), &outcome), []);
    assert_eq!(due(&mut audit, ms(121_000))[0].repeats, 1);
    // This one passes without repeats: the next is a first again.
    let again = record(&mut audit, ms(181_000), &outcome);
    assert_eq!((again.len(), again[0].repeats), (1, 0));
}

#[test]
fn a_late_timer_does_not_lengthen_the_window() {
    let mut audit = audit();
    record(&mut audit, ms(0), &refused(1, b"a"));
    record(&mut audit, ms(1), &refused(1, b"a"));
    let late = record(&mut audit, ms(60_001), &refused(1, b"a"));
    assert_eq!((late.len(), late[0].repeats), (1, 1));
    assert_eq!(audit.next_due(), Some(ms(120_001)));
}

#[test]
fn repeats_for_different_names_name_none() {
    let mut audit = audit();
    record(&mut audit, ms(0), &refused(1, b"a"));
    record(&mut audit, ms(1), &refused(1, b"b"));
    record(&mut audit, ms(2), &refused(1, b"b"));
    // All repeats asked for b: that the first asked for a does not matter.
    assert_eq!(due(&mut audit, ms(60_000))[0].node.as_deref(), Some("b"));
    for name in [b"b", b"c", b"b"] {
        record(&mut audit, ms(60_001), &refused(1, name));
    }
    let sum = due(&mut audit, ms(120_000));
    assert_eq!(sum[0].node, None);
    assert!(sum[0].message.contains("lookup of different names from"));
}

#[test]
fn each_operation_reason_and_kind_is_told_by_itself() {
    let mut audit = audit();
    let mut outcome = refused(1, b"a");
    assert_eq!(record(&mut audit, ms(0), &outcome).len(), 1);
    outcome.reason = Some(Reason::Denied);
    assert_eq!(record(&mut audit, ms(0), &outcome).len(), 1);
    outcome.operation = Operation::List;
    assert_eq!(record(&mut audit, ms(0), &outcome).len(), 1);
    outcome.verdict = Verdict::Answered;
    let would = record(&mut audit, ms(0), &outcome);
    assert_eq!((would.len(), would[0].kind), (1, Kind::WouldRefuse));
    assert!(would[0].message.starts_with("would refuse list"));
    outcome.verdict = Verdict::Unknown;
    assert_eq!(record(&mut audit, ms(0), &outcome), []);
    outcome.verdict = Verdict::Failed;
    assert_eq!(record(&mut audit, ms(0), &outcome), []);
    outcome.reason = None;
    assert_eq!(record(&mut audit, ms(0), &outcome), []);
    assert_eq!(audit.tracked().map(|t| t.count).sum::<u64>(), 6);
}

#[test]
fn a_mapped_address_is_its_ipv4_address() {
    let mut audit = audit();
    record(&mut audit, ms(0), &refused(1, b"a"));
    let mut outcome = refused(1, b"a");
    let mapped: IpAddr = Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped().into();
    outcome.ends = ends(mapped, outcome.ends.peer().port());
    assert_eq!(record(&mut audit, ms(1), &outcome), []);
    let sources: Vec<_> = audit.tracked().map(|t| t.source).collect();
    assert_eq!(sources, ["203.0.113.1"]);
}

#[test]
fn what_finds_no_budget_is_told_in_the_next_second() {
    let mut audit = audit();
    let mut lines = 0;
    for source in 0..120 {
        lines += record(&mut audit, ms(1500), &refused(source, b"a")).len();
    }
    assert_eq!(lines, 50);
    assert_eq!(audit.next_due(), Some(ms(2000)));
    // While it waits, more come: the first is told as a first, the others with its window.
    record(&mut audit, ms(1600), &refused(119, b"b"));
    record(&mut audit, ms(1700), &refused(119, b"b"));
    let second = due(&mut audit, ms(2000));
    assert_eq!(second.len(), 50);
    assert!(second.iter().all(|e| e.repeats == 0));
    let third = due(&mut audit, ms(3000));
    assert_eq!(third.len(), 20);
    let last = third.iter().find(|e| e.node.as_deref() == Some("b"));
    assert_eq!(last.map(|e| e.repeats), Some(0));
    assert_eq!(audit.next_due(), Some(ms(63_000)));
    let sum = due(&mut audit, ms(63_000));
    assert_eq!((sum.len(), sum[0].repeats), (1, 2));
    assert_eq!(audit.next_due(), None);
}

/// All have as much to tell all the time; nobody's place in the table may silence him.
#[test]
fn nobody_waits_for_ever_behind_the_same_others() {
    let mut audit = Audit::new(Policy {
        window: ms(1000),
        ..policy(false)
    });
    let mut lines: HashMap<IpAddr, u32> = HashMap::new();
    for second in 0..40 {
        for source in 0..200 {
            let events = record(&mut audit, ms(second * 1000), &refused(source, b"a"));
            for event in events {
                *lines.entry(event.peer.unwrap().0).or_default() += 1;
            }
        }
    }
    assert_eq!(lines.len(), 200);
    assert!(lines.values().all(|n| (5..=8).contains(n)), "{lines:?}");
}

#[test]
fn what_falls_out_of_the_table_untold_is_told_as_one_line() {
    let mut audit = audit();
    let sources = u32::try_from(SOURCES).unwrap();
    let mut lines = Vec::new();
    for source in 0..sources + 100 {
        lines.extend(record(&mut audit, ms(100), &refused(source, b"a")));
    }
    assert_eq!(lines.len(), 50);
    assert_eq!(audit.tracked().count(), SOURCES);
    let mut at = audit.next_due().unwrap();
    while at < ms(60_100) {
        lines.extend(due(&mut audit, at));
        at = audit.next_due().unwrap();
    }
    assert_eq!(at, ms(60_100));
    let over = due(&mut audit, at);
    assert_eq!(over.len(), 1);
    // The 50 told ones were among the first to go.
    assert_eq!(
        (over[0].repeats, over[0].peer, over[0].operation),
        (50, None, None)
    );
    assert_eq!(
        over[0].message,
        "refused 50 more requests from sources beyond the 1024 tracked"
    );
    assert_eq!(lines.len() + 50, SOURCES + 100);
    assert_eq!(audit.next_due(), None);
}

#[test]
fn the_source_that_keeps_asking_outlives_those_that_come_once() {
    let mut audit = audit();
    let known = refused(0, b"a");
    record(&mut audit, ms(0), &known);
    for source in 1..20_000 {
        record(&mut audit, ms(1), &refused(source, b"a"));
        if source % 500 == 0 {
            record(&mut audit, ms(1), &known);
        }
    }
    let kept = audit
        .tracked()
        .find(|t| t.source == known.ends.peer().ip().to_string());
    assert_eq!(kept.map(|t| t.count), Some(40));
}

/// One that went and comes back must not be taken for the one that has its place now.
#[test]
fn a_source_that_fell_out_is_forgotten() {
    let mut audit = audit();
    let sources = u32::try_from(SOURCES).unwrap();
    for source in 0..=sources {
        record(&mut audit, ms(0), &refused(source, b"a"));
    }
    (1..30).for_each(|second| drop(due(&mut audit, ms(second * 1000))));
    let again = record(&mut audit, ms(30_000), &refused(0, b"a"));
    assert_eq!((again.len(), again[0].repeats), (1, 0));
    let one = refused(0, b"a").ends.peer().ip();
    assert_eq!(again[0].peer.map(|p| p.0), Some(one));
    let kept: Vec<_> = audit.tracked().map(|t| t.source).collect();
    assert!(
        kept.contains(&one.to_string())
            && kept.contains(&refused(sources, b"a").ends.peer().ip().to_string())
    );
    assert_eq!((kept.len(), audit.table.sources.len()), (SOURCES, SOURCES));
}

#[test]
fn answered_lookups_have_a_budget_of_their_own() {
    let mut audit = Audit::new(policy(true));
    let mut outcome = refused(1, b"api");
    (outcome.verdict, outcome.reason) = (Verdict::Answered, None);
    let mut lines = Vec::new();
    for _ in 0..80 {
        lines.extend(record(&mut audit, ms(100), &outcome));
    }
    assert_eq!(lines.len(), 50);
    assert_eq!(
        lines[0].message,
        "answered lookup of \"api\" from 203.0.113.1"
    );
    assert_eq!(record(&mut audit, ms(100), &refused(2, b"x")).len(), 1);
    assert_eq!(audit.tracked().count(), 1);
    let at = audit.next_due().unwrap();
    let more = due(&mut audit, at);
    assert_eq!((more[0].kind, more[0].repeats), (Kind::Lookup, 30));
    assert_eq!(more[0].message, "answered 30 more lookups");
    assert_eq!(audit.next_due(), None);
    outcome.verdict = Verdict::Unknown;
    let unknown = record(&mut audit, ms(70_000), &outcome);
    assert!(unknown[0].message.ends_with(": the name is not registered"));
    // Off, nothing is told, and other operations never are.
    outcome.operation = Operation::List;
    assert_eq!(record(&mut audit, ms(70_000), &outcome), []);
    outcome.operation = Operation::Lookup;
    audit.reconfigure(policy(false));
    assert_eq!(record(&mut audit, ms(70_000), &outcome), []);
}

#[test]
fn a_reload_changes_open_windows() {
    let mut audit = audit();
    record(&mut audit, ms(0), &refused(1, b"a"));
    record(&mut audit, ms(0), &refused(1, b"a"));
    let shorter = Policy {
        window: ms(5000),
        ..policy(false)
    };
    audit.reconfigure(shorter);
    assert_eq!(audit.next_due(), Some(ms(5000)));
    assert_eq!(due(&mut audit, ms(5000)).len(), 1);
}

#[test]
fn the_end_tells_what_is_untold() {
    let mut audit = audit();
    for source in 0..600 {
        record(&mut audit, ms(0), &refused(source, b"a"));
        record(&mut audit, ms(0), &refused(source, b"a"));
    }
    let lines = told(|mut tell| audit.flush(ms(12_000), &mut tell));
    assert_eq!(lines.len(), 513);
    assert!(
        lines[0].message.ends_with(", 1 more time in 12 s"),
        "{}",
        lines[0].message
    );
    assert_eq!(lines.iter().map(|e| e.repeats.max(1)).sum::<u64>(), 1150);
    assert_eq!(audit.next_due(), None);
}

#[test]
fn nothing_in_a_name_forges_a_line_or_a_field() {
    let mut audit = audit();
    let name = b"x\" from 10.0.0.1\nepmd: refused \\\xe2\x80\xae\xff\x1b[0m";
    let event = &record(&mut audit, ms(0), &refused(1, name))[0];
    let safe = "x\\\" from 10.0.0.1\\nepmd: refused \\\\\\u{202e}\\xff\\u{1b}[0m";
    assert_eq!(event.node.as_deref(), Some(safe));
    assert!(event.message.starts_with(&format!(
        "refused lookup of \"{safe}\" from 203.0.113.1: not in"
    )));
    let long = [b'y'; 3056];
    let event = &record(&mut audit, ms(0), &refused(2, &long))[0];
    assert_eq!(event.node.as_deref().map(|n| n.chars().count()), Some(256));
    let node = audit
        .tracked()
        .find_map(|t| t.node.filter(|n| n.starts_with('x')));
    assert_eq!(node.as_deref(), Some(safe));
}

#[test]
fn what_is_remembered_comes_most_recent_first() {
    let mut audit = audit();
    record(&mut audit, ms(1), &refused(1, b"a"));
    record(&mut audit, ms(2), &refused(2, b"b"));
    record(&mut audit, ms(3), &refused(1, b"c"));
    let all: Vec<_> = audit.tracked().collect();
    assert_eq!(
        all[0],
        Tracked {
            source: "203.0.113.1".into(),
            kind: Kind::Refused,
            operation: Operation::Lookup,
            uid: None,
            reason: Reason::NotAllowed,
            node: Some("c".into()),
            first: ms(1),
            last: ms(3),
            count: 2,
        }
    );
    assert_eq!((all.len(), all[1].count), (2, 1));
}

/// xorshift: a random sequence that a failure can be repeated with.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Whatever comes in whatever order: the lines told add up to the refusals, and no second has more
/// lines than it may.
#[test]
fn the_lines_add_up_to_the_refusals() {
    for seed in 1..=30_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut audit = Audit::new(policy(true));
        let (mut now, mut before) = (ms(0), ms(0));
        let mut recorded: HashMap<&str, u64> = HashMap::new();
        let mut lines: Vec<(Duration, Event)> = Vec::new();
        let sources = [3, 900, 5000][random.below(3) as usize];
        let pace = [1, 50, 3000][random.below(3) as usize];
        for _ in 0..20_000 {
            now += ms(random.below(pace));
            // The caller's timer: in time mostly, sometimes late.
            while let Some(at) = audit.next_due().filter(|at| *at <= now) {
                // A reload can make something due that lies behind us; time does not turn back.
                let at = if random.below(4) == 0 {
                    now
                } else {
                    at.max(before)
                };
                before = at;
                audit.due(at, &mut |event| lines.push((at, event)));
                assert!(audit.next_due() != Some(at), "no progress");
            }
            before = now;
            let bits = u128::from(random.below(sources)) << 56;
            let names: [&[u8]; 3] = [b"a", b"b", b"\xff"];
            let outcome = Outcome {
                ends: ends(Ipv6Addr::from_bits(bits).into(), 1),
                operation: Operation::ALL[random.below(2) as usize],
                node: Some(names[random.below(3) as usize]),
                verdict: Verdict::ALL[random.below(5) as usize],
                reason: [Some(Reason::NotAllowed), Some(Reason::Denied), None]
                    [random.below(3) as usize],
                setting: [Some(Setting::Node), Some(Setting::Allow)][random.below(2) as usize],
                since: None,
                holder: None,
            };
            let served = matches!(outcome.verdict, Verdict::Answered | Verdict::Unknown);
            let kind = match outcome.reason {
                Some(_) if served => "would_refuse",
                Some(_) => "refused",
                None if served && outcome.operation == Operation::Lookup => "lookup",
                None if outcome.verdict == Verdict::Taken => "taken",
                None => "nothing",
            };
            *recorded.entry(kind).or_default() += 1;
            audit.record(now, &outcome, &mut |event| lines.push((now, event)));
            if random.below(5000) == 0 {
                let window = ms(1 + random.below(100_000));
                audit.reconfigure(Policy {
                    window,
                    ..policy(true)
                });
            }
        }
        let mut each_second: HashMap<(u64, bool), u32> = HashMap::new();
        for (at, event) in &lines {
            let lookup = event.kind == Kind::Lookup;
            *each_second.entry((at.as_secs(), lookup)).or_default() += 1;
        }
        let most = each_second.values().max();
        assert!(
            most.is_some_and(|n| *n <= LINES_A_SECOND),
            "seed {seed}: {most:?}"
        );
        audit.flush(now, &mut |event| lines.push((now, event)));
        assert_eq!(audit.next_due(), None);
        recorded.remove("nothing");
        let mut added_up: HashMap<&str, u64> = HashMap::new();
        for (_, event) in &lines {
            *added_up.entry(event.kind.name()).or_default() += event.repeats.max(1);
        }
        assert_eq!(added_up, recorded, "seed {seed}");
    }
}

/// A refused lookup from an address of this IPv6 network.
fn refused_v6(network: u64, host: u64) -> Outcome<'static> {
    let address = Ipv6Addr::from_bits(u128::from(network) << 64 | u128::from(host));
    Outcome {
        ends: ends(address.into(), 40_000),
        ..refused(0, b"a")
    }
}

/// One host with a /64, and one with a /48, each of whose addresses comes once: others keep their rows and
/// lines, and who comes for the first time is told at once.
#[test]
fn who_has_many_addresses_takes_rows_and_lines_from_itself_alone() {
    const NETWORK: u64 = 0x2001_0db8_0001_0000;
    for many in [|n| refused_v6(NETWORK, n), |n| refused_v6(NETWORK + n, 1)] {
        let mut audit = audit();
        let mut lines = Vec::new();
        for n in 0..40 {
            lines.extend(record(&mut audit, ms(n / 10), &refused(n as u32, b"a")));
        }
        for n in 0..60_000 {
            lines.extend(record(&mut audit, ms(1000 + n / 60), &many(n)));
        }
        let prober = refused_v6(0xfd00_0003_0000_0000, 7);
        for n in 0..30 {
            let now = record(&mut audit, ms(1999), &prober);
            // At once, and once.
            assert_eq!(now.len(), usize::from(n == 0));
            lines.extend(now);
        }
        let tracked: Vec<_> = audit.tracked().collect();
        assert!(tracked.len() <= SOURCES);
        let rows = |s: &table::Tracked| s.rows.len() <= 33;
        assert!(audit.table.sources.iter().all(rows));
        let of = |source: String| tracked.iter().find(|t| t.source == source).map(|t| t.count);
        assert_eq!(of("fd00:3::7".into()), Some(30));
        for n in 0..40 {
            assert_eq!(
                of(refused(n, b"a").ends.peer().ip().to_string()),
                Some(1),
                "{n}"
            );
        }
        let end = audit.next_due().unwrap() + WINDOW * 2;
        while let Some(at) = audit.next_due().filter(|at| *at <= end) {
            lines.extend(due(&mut audit, at));
        }
        lines.extend(told(|mut tell| audit.flush(end, &mut tell)));
        assert_eq!(lines.iter().map(|e| e.repeats.max(1)).sum::<u64>(), 60_070);
    }
}

#[test]
fn a_line_for_several_addresses_of_a_64_says_the_network() {
    let mut audit = audit();
    let of = |host| refused_v6(0xfd00_0003_0000_0000, host);
    // The hosts of one network are told apart, as far as they are few.
    let mut lines = Vec::new();
    for host in 0..32 {
        lines.extend(record(&mut audit, ms(host * 100), &of(host)));
    }
    assert_eq!(lines.len(), 32);
    for (host, line) in lines.iter().enumerate() {
        let address = format!("from {}:", of(host as u64).ends.peer().ip());
        assert!(line.message.contains(&address), "{}", line.message);
    }
    let first = record(&mut audit, ms(4000), &of(100));
    let words = "from fd00:3::64: not in access.allow (to admit it: add \"fd00:3::64\"";
    assert!(first[0].message.contains(words), "{}", first[0].message);
    record(&mut audit, ms(4001), &of(101));
    assert_eq!(audit.tracked().next().unwrap().source, "fd00:3::/64");
    // All that is summed up came from one.
    let sum = due(&mut audit, ms(64_000));
    assert!(
        sum[0]
            .message
            .contains("from fd00:3::65: not in access.allow, 1 more")
    );
    for host in [102, 103, 5] {
        record(&mut audit, ms(64_001), &of(host));
    }
    let sum = due(&mut audit, ms(124_000));
    assert_eq!(
        sum[0].message,
        "refused lookup of \"a\" from different addresses of fd00:3::/64: not in access.allow, 2 more times in 60 s"
    );
    assert_eq!(sum[0].peer, Some(("fd00:3::67".parse().unwrap(), 40_000)));
    assert_eq!(audit.tracked().count(), 33);
}

/// A registration of a name that is taken.
fn taken(name: &[u8]) -> Outcome<'_> {
    Outcome {
        ends: ends(Ipv4Addr::LOCALHOST.into(), 40_000),
        operation: Operation::Register,
        verdict: Verdict::Taken,
        reason: None,
        setting: None,
        since: Some(0),
        ..refused(0, name)
    }
}

#[test]
fn each_name_that_is_taken_is_told_once_a_window() {
    let mut audit = audit();
    let told = record(&mut audit, ms(0), &taken(b"api"));
    assert_eq!(
        told[0],
        Event {
            kind: Kind::Taken,
            operation: Some(Operation::Register),
            node: Some("api".into()),
            peer: Some((Ipv4Addr::LOCALHOST.into(), 40_000)),
            local: Some("10.0.3.5".parse().unwrap()),
            uid: None,
            reason: None,
            repeats: 0,
            message: "\"api\" is registered already, since 00:00 UTC".into(),
        }
    );
    assert_eq!(record(&mut audit, ms(1), &taken(b"api")), []);
    assert_eq!(record(&mut audit, ms(1), &taken(b"web")).len(), 1);
    assert_eq!(record(&mut audit, ms(1), &taken(b"web")), []);
    let sums = due(&mut audit, ms(60_001));
    let of: Vec<_> = sums
        .iter()
        .map(|e| (e.node.as_deref(), e.repeats))
        .collect();
    assert_eq!(of, [(Some("api"), 1), (Some("web"), 1)]);
    // It is no refusal.
    assert_eq!(audit.tracked().count(), 0);
    // However many there are, rows are not; and what has nothing to tell any more gives way.
    for round in 1..4 {
        let mut lines = 0;
        for n in 0..5000 {
            let name = format!("n{n}");
            lines += record(&mut audit, WINDOW * 3 * round, &taken(name.as_bytes())).len();
        }
        assert!((20..=50).contains(&lines), "{lines}");
        assert!(audit.table.sources[0].rows.len() <= 33);
        let end = WINDOW * (3 * round + 2);
        while let Some(at) = audit.next_due().filter(|at| *at <= end) {
            due(&mut audit, at);
        }
    }
}
