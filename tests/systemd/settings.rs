//! Environment and file, good and bad, at a start, a reload and a restart.

use super::common::nspawn::Neighbour;
use super::common::wait_for;
use super::common::wire::{Answer, Node, lookup_answer};
use super::{PORT, Service, at, hold, local, lookup, on_a_host, unknown};

const FILE: &str = "/etc/epmd.toml";
const ENVIRONMENT: &str = "/etc/default/epmd";
/// The mistake in it stands in line 2, from column 10 on.
const BAD: &str = "[access]\nallow = [10]\n";
const BAD_AT: &str = "/etc/epmd.toml:2:10: ";

/// The two variables that most hosts need.
#[test]
fn the_environment_file_says_where_and_whom_to_serve() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        let stranger = service.neighbour(2);
        let node = Node::new("api");
        let found = || Answer::Bytes(lookup_answer(Some(&node)));
        service.systemctl("start");
        let _holder = hold(&node);
        let from = |from: &Neighbour| lookup(from.connect(&from.host(), PORT), "api");
        assert_eq!(from(&neighbour), Answer::Nothing);

        service.write(
            ENVIRONMENT,
            format!(
                "ERL_EPMD_ADDRESS={}\nEPMD_ALLOW=10.77.1.0/24\n",
                neighbour.host()
            ),
        );
        service.systemctl("restart");
        // systemd's own "Started" may stand between the two.
        service.wait_for_message(
            "listening on 10.77.1.1:4369, 127.0.0.1:4369, 127.0.1.1:4369, [::1]:4369\n",
        );
        service.wait_for_message("serving this host, 10.77.1.0/24\n");
        assert_eq!(from(&neighbour), found());
        assert_eq!(
            lookup(local(), "api"),
            found(),
            "registered before the restart"
        );
        assert!(
            stranger.is_turned_away(&stranger.host(), PORT),
            "nothing listens on an address that is not named"
        );
        // The listening sockets of before are not in the store any more.
        service.remove(ENVIRONMENT);
        service.systemctl("restart");
        assert_eq!(from(&neighbour), Answer::Nothing);
        assert_eq!(from(&stranger), Answer::Nothing);
        assert_eq!(lookup(at(&stranger.host()), "api"), found());
    });
}

#[test]
fn a_reload_takes_a_good_file_and_leaves_a_bad_one() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        let ask = || lookup(neighbour.connect(&neighbour.host(), PORT), "api");
        service.systemctl("start");
        let pid = service.daemon();
        assert_eq!(ask(), Answer::Nothing);

        service.write(FILE, "[access]\nallow = [\"10.77.1.0/24\"]\n");
        service.systemctl("reload");
        wait_for("the new settings", || (ask() == unknown()).then_some(()));

        service.write(FILE, BAD);
        service.systemctl("reload");
        service.wait_for_message(BAD_AT);
        assert_eq!(ask(), unknown(), "the settings from before are in force");
        wait_for("the complaint in the status", || {
            complains(service).then_some(())
        });

        service.write(FILE, "");
        service.systemctl("reload");
        wait_for("the new settings", || {
            (ask() == Answer::Nothing).then_some(())
        });
        wait_for("the complaint to go", || {
            (!complains(service)).then_some(())
        });
        assert_eq!(service.daemon(), pid);
    });
}

#[test]
fn a_bad_file_fails_a_cold_start_and_not_a_warm_one() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        let ask = || lookup(neighbour.connect(&neighbour.host(), PORT), "api");
        service.write(FILE, BAD);
        let start = service.run(&["systemctl", "start", "hardened-epmd.service"]);
        assert_eq!(start.status, Some(1), "{start:?}");
        for (property, value) in [
            ("ActiveState", "failed"),
            ("ExecMainStatus", "78"),
            ("NRestarts", "0"),
        ] {
            assert_eq!(service.property(property), value, "{property}");
        }
        service.wait_for_message(BAD_AT);

        service.write(FILE, "[access]\nallow = [\"10.77.1.0/24\"]\n");
        service.systemctl("start");
        let node = Node::new("api");
        let _holder = hold(&node);
        let found = Answer::Bytes(lookup_answer(Some(&node)));
        assert_eq!(ask(), found);
        assert!(!complains(service));
        service.must("journalctl --rotate --vacuum-time=1s");

        service.write(FILE, BAD);
        service.systemctl("restart");
        assert_eq!(ask(), found, "after a restart");
        service.wait_for_message(BAD_AT);
        assert!(complains(service));
        // Nor is it lost when the daemon that had read the good file is long gone.
        for _ in 0..2 {
            let before = service.kill_daemon();
            service.daemon_after(before);
            assert_eq!(ask(), found, "after a kill");
            wait_for("the complaint", || complains(service).then_some(()));
        }

        service.write(FILE, "");
        service.systemctl("restart");
        assert_eq!(ask(), Answer::Nothing);
        assert_eq!(lookup(local(), "api"), found);
        assert!(!complains(service));
    });
}

/// Whether `systemctl status` says where the file is wrong.
fn complains(service: &Service<'_>) -> bool {
    service
        .property("StatusText")
        .contains("/etc/epmd.toml:2:10")
}
