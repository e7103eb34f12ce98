//! A refusal read back by field, and what the catalogue says under it.

use serde_json::Value;

use super::common::wait_for;
use super::common::wire::{Answer, ask, frame};
use super::{PORT, Service, lookup, on_a_host};
use hardened_epmd::daemon::log::REFUSED_MESSAGE_ID;

/// The journal's entries of the unit that match, once there are `count`.
fn entries(service: &Service<'_>, matches: &str, count: usize) -> Vec<Value> {
    wait_for(matches, || {
        let command = format!("journalctl --no-pager -o json -u hardened-epmd.service {matches}");
        let lines = service.must(&command);
        let entries: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert!(entries.len() <= count, "{entries:#?}");
        (entries.len() == count).then_some(entries)
    })
}

#[test]
fn a_refusal_is_read_back_by_field() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        service.systemctl("start");
        for (own, host) in [
            (neighbour.own(), neighbour.host()),
            (neighbour.own_v6(), neighbour.host_v6()),
        ] {
            let stream = neighbour.connect(&host, PORT);
            let port = stream.local_addr().expect("an address").port().to_string();
            assert_eq!(lookup(stream, "api"), Answer::Nothing);
            let entry =
                entries(service, &format!("EPMD_EVENT=refused EPMD_PEER={own}"), 1).remove(0);
            let message = format!(
                "refused lookup of \"api\" from {own}: not in access.allow (to admit it: add \"{own}\" \
                 to allow in [access] of /etc/epmd.toml, or to EPMD_ALLOW)"
            );
            for (field, value) in [
                ("EPMD_EVENT", "refused"),
                ("EPMD_OPERATION", "lookup"),
                ("EPMD_NODE", "api"),
                ("EPMD_PEER", &*own),
                ("EPMD_PEER_PORT", &port),
                ("EPMD_LOCAL", &host),
                ("EPMD_REASON", "not_allowed"),
                ("EPMD_REPEATS", "0"),
                ("MESSAGE", &message),
                ("MESSAGE_ID", REFUSED_MESSAGE_ID),
                ("PRIORITY", "4"),
                ("SYSLOG_IDENTIFIER", "epmd"),
                ("_SYSTEMD_UNIT", "hardened-epmd.service"),
            ] {
                assert_eq!(entry[field], value, "{field}: {entry:#?}");
            }
        }
        explanation(service, &neighbour.own());
        added_up(service, &[neighbour.own(), neighbour.own_v6()]);
        forged(service);
    });
}

/// What another user's program of the same name writes to the journal is no refusal of the daemon's.
fn forged(service: &Service<'_>) {
    const FORGED: &str = "203.0.113.77";
    service.must("cp /usr/bin/logger /tmp/epmd && chmod 755 /tmp/epmd");
    let fields = format!(
        "MESSAGE=x\\nSYSLOG_IDENTIFIER=epmd\\nEPMD_EVENT=refused\\nEPMD_OPERATION=lookup\\nEPMD_PEER={FORGED}\\n"
    );
    // journald learns the program's name where it looks before that has ended.
    wait_for("an entry of a program called epmd", || {
        service.must(&format!(
            "printf '{fields}' | setpriv --reuid=65534 --clear-groups /tmp/epmd --journald"
        ));
        let found = service.must(&format!(
            "journalctl --no-pager -o cat _COMM=epmd _UID=65534 EPMD_PEER={FORGED} || true"
        ));
        (!found.is_empty()).then_some(())
    });
    for table in ["/usr/bin/epmd -refused", "/usr/bin/epmd -refused -json"] {
        let told = service.must(table);
        assert!(!told.contains(FORGED), "{told}");
    }
}

/// What `epmd -refused` makes of it.
fn added_up(service: &Service<'_>, peers: &[String]) {
    let table = service.must("/usr/bin/epmd -refused -since today");
    assert!(table.starts_with("source "), "{table}");
    let lines = service.must("/usr/bin/epmd -refused -json");
    for peer in peers {
        let row = table.lines().find(|l| l.starts_with(&format!("{peer} ")));
        assert!(
            row.is_some_and(|r| r.ends_with("lookup of \"api\"  not_allowed")),
            "{peer}: {table}"
        );
        let told = lines
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
        let told = told
            .into_iter()
            .find(|l| l["source"] == **peer)
            .expect("its line");
        assert_eq!(
            (&told["count"], &told["reasons"][0]),
            (&1.into(), &"not_allowed".into())
        );
    }
    assert_eq!(
        service.must("/usr/bin/epmd -refused -since tomorrow"),
        "nobody was refused\n"
    );
}

/// What `journalctl -x` adds.
fn explanation(service: &Service<'_>, peer: &str) {
    let text = service.must(&format!(
        "journalctl --no-pager -x -u hardened-epmd.service EPMD_EVENT=refused EPMD_PEER={peer}"
    ));
    for part in [
        format!("Subject: epmd refused a request from {peer}"),
        "Defined-By: hardened-epmd".to_owned(),
        format!("  allow = [\"{peer}\"]"),
        "systemctl reload hardened-epmd".to_owned(),
        format!("journalctl -u hardened-epmd EPMD_PEER={peer}"),
    ] {
        assert!(text.contains(&part), "{part}:\n{text}");
    }
    assert!(!text.contains("@EPMD_"), "{text}");
}

/// A node name is a stranger's word, and stays inside its field.
#[test]
fn a_hostile_name_forges_no_field() {
    const HOSTILE: &[u8] = b"x\nEPMD_EVENT=forged\nPRIORITY=0\n\nEPMD_NODE=injected\n\x1b[2J";
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        service.systemctl("start");
        assert_eq!(
            lookup(neighbour.connect(&neighbour.host(), PORT), HOSTILE),
            Answer::Nothing
        );
        // Names of a registration and of a stop go other ways.
        let register = super::Node::new(HOSTILE).request();
        for request in [register, [b"s", HOSTILE].concat()] {
            let stream = neighbour.connect(&neighbour.host(), PORT);
            assert_eq!(ask(stream, &frame(&request)), Answer::Nothing);
        }
        for entry in entries(service, "EPMD_EVENT=refused", 3) {
            assert_eq!(entry["PRIORITY"], "4", "{entry:#?}");
            // A field that is no text would be an array of bytes here, and two of a name an array.
            for field in ["MESSAGE", "EPMD_NODE"] {
                let value = entry[field]
                    .as_str()
                    .unwrap_or_else(|| panic!("{field}: {entry:#?}"));
                assert!(!value.contains(char::is_control), "{field}: {value:?}");
            }
        }
        entries(service, "EPMD_EVENT=forged", 0);
        entries(service, "EPMD_NODE=injected", 0);
    });
}
