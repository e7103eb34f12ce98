//! Applications of a host, RabbitMQ and ejabberd with their own units: their place with epmd is taken
//! over, and whatever happens to the daemon or to Erlang's package, they run on and are registered.
//!
//! ejabberd requires epmd.service, RabbitMQ wants epmd.socket.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::host::process;
use super::common::nspawn::{LONG, Release};
use super::common::{wait_for, wait_within};
use super::{Service, on_a_stock_host, program, signal};

/// The applications' units, and their nodes' names.
const APPLICATIONS: [(&str, &str); 2] = [("rabbitmq-server", "rabbit"), ("ejabberd", "ejabberd")];

/// Something that happens on a host, and is no business of the applications.
type Event = (&'static str, fn(&Service<'_>));

const NEW_ERLANG: &str = "a new erlang-base";

const EVENTS: [Event; 10] = [
    ("restart", |service| service.systemctl("restart")),
    ("SIGKILL", |service| {
        service.kill_daemon();
    }),
    ("SIGSEGV", |service| {
        let daemon = service.daemon();
        // Rust's handler lets the first one pass: a real one comes again at once.
        wait_for("a crash", || {
            let sent = kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGSEGV);
            (sent.is_err() || process::is_over(daemon)).then_some(())
        });
    }),
    ("reload of what they require", |service| {
        let before = service.messages().matches("Reloaded ").count();
        service.must("systemctl reload epmd.service");
        wait_for("the daemon's reload", || {
            (service.messages().matches("Reloaded ").count() > before).then_some(())
        });
    }),
    ("restart of what they require", |service| {
        // As the scripts of Erlang's package say it, and a hand in a hurry.
        let output = service.run(&["systemctl", "restart", "epmd.service"]);
        assert_ne!(output.status, Some(0));
        assert!(output.stderr.contains("refuse"), "{output:?}");
        service.must("deb-systemd-invoke restart epmd.service epmd.socket 2>&1 || :");
    }),
    ("a new binary", |service| {
        // What stands behind the end of a program is not looked at.
        service.install(&[&program()[..], b"new"].concat(), "/usr/bin/epmd");
        service.systemctl("restart");
    }),
    (NEW_ERLANG, |service| {
        // As `apt-get install --reinstall` does it, of a package that is there already.
        service.must("dpkg --install /var/cache/apt/archives/erlang-base_*.deb");
        assert_eq!(
            service.must("epmd -version | cut -d' ' -f1"),
            "hardened-epmd\n"
        );
    }),
    ("daemon-reexec and SIGKILL", |service| {
        service.must("systemctl daemon-reexec");
        service.kill_daemon();
    }),
    ("epmd -kill of the package's script", |service| {
        service.must("epmd -kill || kill $(pgrep -x epmd | head -n 1)");
    }),
    ("twice SIGKILL", |service| {
        for _ in 0..2 {
            let before = service.daemon();
            signal(before, Signal::SIGKILL);
            service.daemon_after(before);
        }
    }),
];

/// The applications' processes.
fn main_pids(service: &Service<'_>) -> [String; 2] {
    APPLICATIONS.map(|(unit, _)| service.must(&format!("systemctl show --value -p MainPID {unit}")))
}

/// Whether all their names are registered.
fn are_registered(service: &Service<'_>) -> bool {
    let names = service.run(&["epmd", "-names"]).stdout;
    APPLICATIONS.iter().all(|(_, name)| {
        let begin = format!("name {name} at port ");
        names.lines().any(|line| line.starts_with(&begin))
    })
}

/// Starts the applications as a boot does, with the epmd that comes with Erlang.
fn start_applications(service: &Service<'_>) {
    service.must("systemctl start --no-block rabbitmq-server ejabberd");
    wait_until_up(service);
}

/// Waits until the applications are up and registered.
fn wait_until_up(service: &Service<'_>) {
    wait_within(LONG, "the applications to be up", || {
        let state = service.must("systemctl is-active rabbitmq-server ejabberd || :");
        (state == "active\nactive\n" && are_registered(service)).then_some(())
    });
}

#[test]
fn applications_run_on_whatever_happens_to_the_daemon() {
    on_a_stock_host(|service| {
        start_applications(service);
        let mut pids = main_pids(service);
        service.must("dpkg-divert --quiet --local --rename --add /usr/bin/epmd");
        service.install_ours();
        service.must(super::takeover::COMMAND);
        assert!(are_registered(service), "after the takeover");
        assert_eq!(main_pids(service), pids, "after the takeover");
        for (event, act) in EVENTS {
            act(service);
            wait_for("the daemon", || {
                (service.property("ActiveState") == "active").then_some(())
            });
            if event == NEW_ERLANG && Release::under_test() == Release::Debian12 {
                // Its scripts stop both by name, and start them again.
                wait_until_up(service);
                pids = main_pids(service);
            }
            assert!(are_registered(service), "{event}");
            assert_eq!(main_pids(service), pids, "{event}");
        }
        assert_eq!(
            service.must("systemctl is-active epmd.service || :"),
            "active\n"
        );
    });
}

/// With Debian's own units enabled, as its packages leave them, from before ours came.
#[test]
fn a_reboot_brings_ours_up_and_the_applications_with_it() {
    on_a_stock_host(|service| {
        service.must("systemctl enable --quiet epmd.service rabbitmq-server ejabberd 2>&1");
        service.must("dpkg-divert --quiet --local --rename --add /usr/bin/epmd");
        service.install_ours();
        service.must(super::takeover::COMMAND);
        service.reboot();
        service.enter_network();
        wait_until_up(service);
        assert_eq!(
            service.must("systemctl is-enabled epmd.socket epmd@.socket || :"),
            "masked\nmasked\n"
        );
        assert_eq!(
            service.must("systemctl is-active hardened-epmd epmd.service epmd.socket || :"),
            "active\nactive\ninactive\n"
        );
        // Nobody else has the port, nor has had it since the boot.
        let daemon = service.property("MainPID");
        assert_eq!(service.must("pgrep -x epmd"), format!("{daemon}\n"));
        let listening = service.must("ss -Hltnp 'sport = :4369'");
        assert!(!listening.is_empty());
        for socket in listening.lines() {
            assert!(socket.contains(&format!("pid={daemon},")), "{socket}");
        }
        let messages = service.must("journalctl --no-pager -o cat -b -u '*epmd*'");
        assert!(!messages.contains("took back"), "{messages}");
    });
}
