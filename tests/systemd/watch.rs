//! The watch as a unit of its own: what it may do, and what the journal has of a node.

use serde_json::Value;

use super::common::wait_for;
use super::common::wire::Node;
use super::{hold, on_a_host};
use hardened_epmd::daemon::log::{REACHABLE_MESSAGE_ID, UNREACHABLE_MESSAGE_ID};

const UNIT: &str = "hardened-epmd-watch.service";
/// Tenths: what `systemd-analyze security` may give at most, of 100. Two more than the daemon's: it may read a
/// group's file, and connect to anywhere.
const MOST_EXPOSED: &str = "13";
const SETTINGS: &str = "[watch]\nnodes = [\"api@127.0.0.1\"]\nevery = \"5s\"\nafter = 1\nmetrics = \"127.0.0.1:9437\"\n";

#[test]
fn the_watch_tells_the_journal_who_is_out_of_reach() {
    on_a_host(|service| {
        service.write_file(UNIT, "/etc/systemd/system/hardened-epmd-watch.service");
        service.must("systemctl daemon-reload");
        service.write("/etc/epmd.toml", SETTINGS);
        service.must("chown root:epmd /etc/epmd.toml && chmod 640 /etc/epmd.toml");
        assert_eq!(
            service.must(&format!("systemd-analyze verify --man=no {UNIT} 2>&1")),
            ""
        );
        service.systemctl("start");
        service.must(&format!("systemctl start {UNIT}"));
        let entry = |event: &str| -> Value {
            let command = format!("journalctl --no-pager -o json -u {UNIT} EPMD_EVENT={event}");
            wait_for(event, || {
                let lines = service.must(&command);
                lines
                    .lines()
                    .next()
                    .map(|line| serde_json::from_str(line).expect("JSON"))
            })
        };
        let lost = entry("unreachable");
        for (field, value) in [
            ("EPMD_NODE", "api@127.0.0.1"),
            ("EPMD_VERDICT", "not_registered"),
            ("EPMD_PEER", "127.0.0.1"),
            ("MESSAGE_ID", UNREACHABLE_MESSAGE_ID),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "epmd"),
        ] {
            assert_eq!(lost[field], value, "{field}: {lost:#}");
        }
        let remedy = lost["EPMD_REMEDY"].as_str().expect("a remedy");
        assert!(remedy.contains("whether the node runs"), "{remedy}");
        let explained = service.must(&format!(
            "journalctl --no-pager -x -u {UNIT} EPMD_EVENT=unreachable"
        ));
        for part in [
            "The node api@127.0.0.1 can't be reached from this host",
            "verdict  not_registered",
            "whether the node runs",
        ] {
            assert!(explained.contains(part), "{part}: {explained}");
        }
        let page = service.must("bash -c 'exec 3<>/dev/tcp/127.0.0.1/9437; printf \"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\" >&3; cat <&3'");
        assert!(
            page.contains("epmd_peer_verdict{node=\"api@127.0.0.1\",verdict=\"not_registered\"} 1"),
            "{page}"
        );
        let (_holder, _) = hold(&Node::new("api").port(4369));
        let again = entry("reachable");
        for (field, value) in [
            ("EPMD_NODE", "api@127.0.0.1"),
            ("MESSAGE_ID", REACHABLE_MESSAGE_ID),
            ("PRIORITY", "6"),
        ] {
            assert_eq!(again[field], value, "{field}: {again:#}");
        }
        let property = |name: &str| {
            let value = service.must(&format!("systemctl show --value -p {name} {UNIT}"));
            value.trim_end().to_owned()
        };
        assert!(property("StatusText").starts_with("watching 1 node every 5s"));
        service.must(&format!(
            "systemd-analyze security --no-pager --threshold={MOST_EXPOSED} {UNIT}"
        ));
        let pid = property("MainPID");
        let status = service.must(&format!("cat /proc/{pid}/status"));
        for line in [
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        // A reload without a node is no reload, and a start without one none.
        service.write("/etc/epmd.toml", "");
        service.must(&format!("systemctl reload {UNIT}"));
        wait_for("the reload", || {
            property("StatusText")
                .starts_with("not reloaded, the nodes from before are watched")
                .then_some(())
        });
        let restart = service.run(&["systemctl", "restart", UNIT]);
        assert_ne!(restart.status, Some(0));
        wait_for("the end", || {
            (property("ActiveState") == "failed").then_some(())
        });
        assert_eq!(property("ExecMainStatus"), "78");
    });
}
