//! The log as its callers see it: lines in, bytes out.

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::*;
use crate::config::{Format, Settings};
use crate::core::audit::{Audit, Kind};
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Verdict};

type Written = Arc<Mutex<Vec<String>>>;

/// A log whose lines are kept.
fn log(format: Format) -> (Log, Written) {
    let written = Written::default();
    let kept = Arc::clone(&written);
    let open = move |to: &Destination, _| {
        let kept = Arc::clone(&kept);
        let out: lines::Out = Box::new(move |line: &[u8]| {
            lock(&kept).push(String::from_utf8(line.to_vec()).unwrap());
        });
        let dispatch = match to.format {
            Format::Json => target::json(out),
            _ => target::text(out),
        };
        Opened::new(dispatch, None, target::always())
    };
    let (log, _) = Log::start_with(format.into(), open, Duration::from_secs(60));
    (log, written)
}

fn lines_of(log: Log, written: &Written) -> Vec<String> {
    drop(log);
    std::mem::take(&mut lock(written))
}

/// The line that the audit tells of a refused lookup of `node`.
fn refused(node: &[u8]) -> Event {
    let outcome = Outcome {
        ends: Ends::new(
            "203.0.113.9:40000".parse().unwrap(),
            "10.0.3.5:4369".parse().unwrap(),
        ),
        operation: Operation::Lookup,
        node: Some(node),
        verdict: Verdict::Refused,
        reason: Some(Reason::Denied),
        setting: None,
        since: None,
        holder: None,
    };
    let mut told = None;
    Audit::new(Settings::default().audit_policy()).record(Duration::ZERO, &outcome, &mut |event| {
        told = Some(event);
    });
    told.unwrap()
}

fn answered() -> Event {
    Event {
        kind: Kind::Lookup,
        operation: Some(Operation::Lookup),
        node: None,
        peer: None,
        local: None,
        uid: None,
        reason: None,
        repeats: 7,
        message: "answered 7 more lookups".into(),
    }
}

#[test]
fn json_has_the_designs_members_in_their_order() {
    let (log, written) = log(Format::Json);
    log.tell(refused(b"api"));
    log.tell(answered());
    log.note(Level::Error, "a \"note\"\nof two lines");
    let lines = lines_of(log, &written);
    assert_eq!(lines.len(), 3);
    let (time, rest) = lines[0].split_at("{\"time\":\"2026-11-23T16:40:00.123Z\"".len());
    let stamp = time
        .strip_prefix("{\"time\":\"")
        .unwrap()
        .trim_end_matches('"');
    let at = humantime::parse_rfc3339(stamp).unwrap();
    assert!(SystemTime::now().duration_since(at).unwrap() < Duration::from_secs(60));
    assert_eq!(
        rest,
        ",\"severity\":\"WARNING\",\"event\":\"refused\",\"operation\":\"lookup\",\
         \"node\":\"api\",\"peer\":\"203.0.113.9\",\"peer_port\":40000,\"local\":\"10.0.3.5\",\
         \"reason\":\"denied\",\"repeats\":0,\
         \"message\":\"refused lookup of \\\"api\\\" from 203.0.113.9: in access.deny\"}\n"
    );
    assert!(lines[1].ends_with(
        ",\"severity\":\"INFO\",\"event\":\"lookup\",\"operation\":\"lookup\",\"repeats\":7,\
         \"message\":\"answered 7 more lookups\"}\n"
    ));
    assert!(
        lines[2]
            .ends_with(",\"severity\":\"ERROR\",\"message\":\"a \\\"note\\\"\\nof two lines\"}\n")
    );
}

const HOSTILE: [&[u8]; 6] = [
    b"x\"}\n{\"severity\":\"INFO\"",
    b"\\\\\"\\n",
    b"\x00\x1b[2J\r\xff\xfe",
    b"a\nMESSAGE=forged\nPRIORITY=0\n",
    b"2026-11-23T16:40:00.123Z epmd: forged",
    "\u{202e}\u{2028}\u{85}".as_bytes(),
];

#[test]
fn json_survives_hostile_names() {
    let (log, written) = log(Format::Json);
    HOSTILE.iter().for_each(|name| log.tell(refused(name)));
    let lines = lines_of(log, &written);
    assert_eq!(lines.len(), HOSTILE.len());
    for (line, name) in lines.iter().zip(HOSTILE) {
        let line = line.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(char::is_control));
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["node"], crate::core::audit::escape(name));
        assert_eq!(object["severity"], "WARNING");
        assert_eq!(object.as_object().unwrap().len(), 11);
    }
}

#[test]
fn text_is_one_line_for_each_event() {
    let (log, written) = log(Format::Text);
    HOSTILE.iter().for_each(|name| log.tell(refused(name)));
    log.note(Level::Warning, "epmd.toml:1:2: wrong\nlisten = 5\n\x1b^\n");
    let mut lines = lines_of(log, &written);
    let note = lines.pop().unwrap();
    let (_, note) = note.split_once(' ').unwrap();
    assert_eq!(
        note,
        "epmd: epmd.toml:1:2: wrong\n    listen = 5\n    \\u{1b}^\n"
    );
    for (line, name) in lines.iter().zip(HOSTILE) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok());
        let name = crate::core::audit::escape(name);
        let told = format!("epmd: refused lookup of \"{name}\" from 203.0.113.9: in access.deny\n");
        assert_eq!(rest, told);
    }
}

#[test]
fn a_reload_changes_the_format() {
    let (log, written) = log(Format::Text);
    log.set_destination(Format::Json);
    log.note(Level::Info, "now");
    assert!(lines_of(log, &written)[0].starts_with('{'));
}

#[test]
fn clones_are_one_log_and_closing_it_writes_what_waits() {
    let (log, written) = log(Format::Text);
    let clone = log.clone();
    for _ in 0..100 {
        clone.note(Level::Info, "line");
    }
    log.close();
    assert_eq!(lock(&written).len(), 100);
    clone.note(Level::Info, "too late");
    log.close();
    assert_eq!(lock(&written).len(), 100);
}

/// A log whose reader takes no line before it is let go; says when it has the first one.
fn stuck(patience: Duration) -> (Log, Receiver<()>, Sender<()>, Written) {
    let written = Written::default();
    let kept = Arc::clone(&written);
    let (has_one, has) = mpsc::channel();
    let (go, let_go) = mpsc::channel();
    let let_go = Arc::new(Mutex::new(let_go));
    let open = move |_: &Destination, _| {
        let (kept, has_one, let_go) = (Arc::clone(&kept), has_one.clone(), Arc::clone(&let_go));
        let out: lines::Out = Box::new(move |line: &[u8]| {
            let _ = has_one.send(());
            let _ = lock(&let_go).recv(); // fails at once when `go` is gone
            lock(&kept).push(String::from_utf8(line.to_vec()).unwrap());
        });
        Opened::new(target::text(out), None, target::always())
    };
    let (log, _) = Log::start_with(Format::Text.into(), open, patience);
    (log, has, go, written)
}

#[test]
fn lines_that_the_reader_has_no_room_for_are_counted() {
    let (log, has, go, written) = stuck(Duration::from_secs(60));
    log.note(Level::Info, "taken");
    has.recv().unwrap();
    for _ in 0..CAPACITY + 5 {
        log.tell(refused(b"api"));
    }
    drop(go);
    let lines = lines_of(log, &written);
    assert_eq!(lines.len(), 1 + CAPACITY + 1);
    let last = lines.iter().find(|l| l.contains("lost")).unwrap();
    assert!(last.ends_with(" epmd: 5 log lines lost: the log's reader does not keep up\n"));
}

#[test]
fn a_reader_that_hangs_does_not_keep_the_daemon_from_ending() {
    let (log, has, go, written) = stuck(Duration::from_millis(1));
    log.note(Level::Info, "taken");
    has.recv().unwrap();
    let begun = Instant::now();
    log.close();
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(lock(&written).len(), 0);
    drop(go);
}

/// The fields of one datagram of journald's native protocol.
fn fields(mut datagram: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(end) = datagram.iter().position(|b| *b == b'\n') {
        let name = String::from_utf8(datagram[..end].to_vec()).unwrap();
        datagram = &datagram[end + 1..];
        if let Some((name, value)) = name.split_once('=') {
            fields.push((name.into(), value.into()));
            continue;
        }
        let (length, rest) = datagram.split_first_chunk().unwrap();
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        let value = String::from_utf8(rest[..length].to_vec()).unwrap();
        fields.push((name, value));
        datagram = rest[length..].strip_prefix(b"\n").unwrap();
    }
    fields.retain(|(name, _)| name != "CODE_LINE" && name != "CODE_FILE");
    fields
}

/// Held by the tests that take the place of a socket of the host's.
static HOST: Mutex<()> = Mutex::new(());

/// In a namespace of its own: `unshare -rm sh -c 'mount -t tmpfs none /run && mount -t tmpfs none /dev
/// && exec TEST_BINARY --ignored takes_the_place'`.
#[test]
#[ignore = "takes the place of journald's socket"]
fn takes_the_place_of_journald_which_gets_the_designs_fields_also_after_a_restart() {
    let _alone = lock(&HOST);
    let path = "/run/systemd/journal/socket";
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let bind = || {
        let journal = UnixDatagram::bind(path).unwrap();
        journal
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        journal
    };
    let next = |journal: &UnixDatagram| {
        let mut datagram = [0; 65_536];
        loop {
            match journal.recv(&mut datagram).unwrap() {
                0 => {} // each layer asks once whether somebody is there
                length => return fields(&datagram[..length]),
            }
        }
    };
    let expected = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        fields.iter().map(owned).collect()
    };
    let journal = bind();
    let log = Log::start(Format::Journald, Mode::Foreground);
    log.tell(refused(b"a\nPRIORITY=0\n"));
    assert_eq!(
        next(&journal),
        expected(&[
            ("PRIORITY", "4"),
            ("TARGET", "epmd::audit"),
            ("SYSLOG_IDENTIFIER", "epmd"),
            ("MESSAGE_ID", REFUSED_MESSAGE_ID),
            ("EPMD_EVENT", "refused"),
            ("EPMD_OPERATION", "lookup"),
            ("EPMD_NODE", "a\\nPRIORITY=0\\n"),
            ("EPMD_PEER", "203.0.113.9"),
            ("EPMD_PEER_PORT", "40000"),
            ("EPMD_LOCAL", "10.0.3.5"),
            ("EPMD_REASON", "denied"),
            ("EPMD_REPEATS", "0"),
            (
                "MESSAGE",
                "refused lookup of \"a\\nPRIORITY=0\\n\" from 203.0.113.9: in access.deny"
            ),
        ])
    );
    log.tell(answered());
    assert_eq!(
        next(&journal),
        expected(&[
            ("PRIORITY", "6"),
            ("TARGET", "epmd::audit"),
            ("SYSLOG_IDENTIFIER", "epmd"),
            ("EPMD_EVENT", "lookup"),
            ("EPMD_OPERATION", "lookup"),
            ("EPMD_REPEATS", "7"),
            ("MESSAGE", "answered 7 more lookups"),
        ])
    );
    log.tell(Event {
        kind: Kind::Taken,
        ..answered()
    });
    assert_eq!(
        next(&journal)[..5],
        expected(&[
            ("PRIORITY", "4"),
            ("TARGET", "epmd::taken"),
            ("SYSLOG_IDENTIFIER", "epmd"),
            ("MESSAGE_ID", TAKEN_MESSAGE_ID),
            ("EPMD_EVENT", "taken"),
        ])
    );
    // journald ends and starts again.
    drop(journal);
    fs::remove_file(path).unwrap();
    let journal = bind();
    for (level, priority) in [
        (Level::Error, "3"),
        (Level::Warning, "4"),
        (Level::Info, "6"),
        (Level::Debug, "7"),
    ] {
        log.note(level, "two\nlines");
        assert_eq!(
            next(&journal),
            expected(&[
                ("PRIORITY", priority),
                ("TARGET", "epmd"),
                ("SYSLOG_IDENTIFIER", "epmd"),
                ("MESSAGE", "two\nlines"),
            ])
        );
    }
    fs::remove_file(path).unwrap();
}

/// In a namespace of its own, as above.
#[test]
#[ignore = "takes the place of syslog's socket"]
fn takes_the_place_of_syslog_which_gets_each_line_with_its_priority() {
    let _alone = lock(&HOST);
    let syslog = UnixDatagram::bind("/dev/log").unwrap();
    let patience = Some(Duration::from_secs(20));
    syslog.set_read_timeout(patience).unwrap();
    let log = Log::start(Format::Auto, Mode::Daemon);
    let told = || {
        let mut datagram = [0; 65_536];
        let length = syslog.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    };
    let name = format!(" epmd[{}]: ", std::process::id());
    let starts_and_ends = |told: String, priority: &str, message: &str| {
        let (start, end) = told.split_once(&name).unwrap();
        assert!(start.starts_with(priority), "{told}");
        assert_eq!(end.trim_end_matches('\0'), message);
    };
    log.tell(refused(b"%s%n\n"));
    let message = "refused lookup of \"%s%n\\n\" from 203.0.113.9: in access.deny";
    starts_and_ends(told(), "<28>", message);
    log.note(Level::Error, "two\nlines");
    starts_and_ends(told(), "<27>", "two");
    starts_and_ends(told(), "<27>", "lines");
}

/// An address is told canonically, whatever the family.
#[test]
fn addresses_are_told_without_their_port() {
    let (log, written) = log(Format::Json);
    let mut event = refused(b"api");
    event.peer = Some((IpAddr::from([0xfd00, 3, 0, 0, 0, 0, 0, 1]), 1));
    log.tell(event);
    assert!(lines_of(log, &written)[0].contains("\"peer\":\"fd00:3::1\",\"peer_port\":1,"));
}

fn reach(verdict: &str, remedy: Option<&str>) -> Reach {
    Reach {
        node: "a@api.test".into(),
        verdict: verdict.into(),
        peer: Some("10.77.0.1".into()),
        message: "a@api.test: what the doctor says".into(),
        remedy: remedy.map(Into::into),
    }
}

#[test]
fn a_node_that_is_out_of_reach_is_told_with_what_to_do() {
    let (log, written) = log(Format::Json);
    log.tell_reach(reach("epmd_no_answer", Some("do this:\n  that")));
    log.tell_reach(reach("reachable", None));
    let lines = lines_of(log, &written);
    assert!(
        lines[0].ends_with(
            "\"severity\":\"WARNING\",\"event\":\"unreachable\",\"node\":\"a@api.test\",\
             \"verdict\":\"epmd_no_answer\",\"peer\":\"10.77.0.1\",\
             \"message\":\"a@api.test: what the doctor says\",\"remedy\":\"do this:\\n  that\"}\n"
        ),
        "{lines:?}"
    );
    assert!(
        lines[1].ends_with(
            "\"severity\":\"INFO\",\"event\":\"reachable\",\"node\":\"a@api.test\",\
             \"verdict\":\"reachable\",\"peer\":\"10.77.0.1\",\
             \"message\":\"a@api.test: what the doctor says\"}\n"
        ),
        "{lines:?}"
    );
    let (log, written) = self::log(Format::Text);
    log.tell_reach(reach("epmd_no_answer", Some("do this:\n  that")));
    let lines = lines_of(log, &written);
    assert!(
        lines[0].ends_with(" epmd: a@api.test: what the doctor says\n    do this:\n      that\n"),
        "{lines:?}"
    );
}
