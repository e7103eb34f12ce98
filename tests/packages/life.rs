//! One host's life with the package: installed under running applications, upgraded, beside an Erlang that
//! is reinstalled and upgraded, removed, installed again and purged.

use std::time::{Duration, Instant};

use super::common::nspawn::{LONG, Release};
use super::common::wait_within;
use super::snapshot::Snapshot;
use super::{Nodes, OLDER, PACKAGE, Stage, on_a_host};

/// Units with a node each, and the nodes' names.
const APPLICATIONS: [(&str, &str); 3] = [
    ("rabbitmq-server", "rabbit"),
    ("ejabberd", "ejabberd"),
    ("elixir-node", "elixir"),
];
/// What an installation may take of its own; apt's work comes on top, and a busy machine's.
const INSTALLATION: Duration = Duration::from_secs(3);
/// When nodes of OTP 24 and later are back, counted from stock's start, on a busy machine.
const BACK: Duration = Duration::from_secs(5);

/// Makes `$1` into a package of the version `$2`, `$3`.
const OTHER_VERSION: &str = "
set -e
dpkg-deb -R $1 /root/unpacked
sed -i \"s/^Version: .*/Version: $2/\" /root/unpacked/DEBIAN/control
dpkg-deb -Znone -b /root/unpacked $3 >/dev/null
rm -r /root/unpacked";

fn other_version(stage: &Stage<'_>, package: &str, version: &str, to: &str) {
    let output = stage.run(&["sh", "-c", OTHER_VERSION, "sh", package, version, to]);
    assert_eq!(output.status, Some(0), "{output:?}");
}

fn main_pids(stage: &Stage<'_>) -> [String; 3] {
    APPLICATIONS.map(|(unit, _)| stage.main_pid(unit))
}

fn are_registered(stage: &Stage<'_>) -> bool {
    let names = stage.run(&["epmd", "-names"]).stdout;
    APPLICATIONS.iter().all(|(_, name)| {
        let begin = format!("name {name} at port ");
        names.lines().any(|line| line.starts_with(&begin))
    })
}

fn wait_until_up(stage: &Stage<'_>) {
    wait_within(LONG, "the applications to be up", || {
        let up = APPLICATIONS
            .iter()
            .all(|(unit, _)| stage.state("is-active", unit) == "active");
        (up && are_registered(stage)).then_some(())
    });
}

/// A host as it is before: applications run under stock epmd.
fn start_applications(stage: &Stage<'_>) {
    stage.start_stock();
    stage.must("systemctl start --no-block rabbitmq-server ejabberd");
    stage.must(
        "systemd-run --quiet --unit elixir-node --setenv=HOME=/root --setenv=LC_ALL=C.UTF-8 \
         elixir --sname elixir --no-halt",
    );
    wait_until_up(stage);
}

/// What must be true after every step: ours serves, nobody was unregistered or restarted.
struct Watched<'a> {
    stage: &'a Stage<'a>,
    nodes: Nodes,
    pids: [String; 3],
}

impl Watched<'_> {
    fn are_unharmed(&self, step: &str) {
        self.stage.is_in_force();
        self.nodes.are_kept(step);
        assert!(are_registered(self.stage), "{step}");
        assert_eq!(main_pids(self.stage), self.pids, "{step}");
    }
}

#[test]
fn no_node_notices_the_package_and_its_purge_leaves_the_host_as_it_was() {
    on_a_host(|stage| {
        start_applications(stage);
        other_version(stage, PACKAGE, "0.0.9", OLDER);
        let before = Snapshot::of(stage);
        let mut watched = Watched {
            stage,
            nodes: Nodes::register(),
            pids: main_pids(stage),
        };

        installation(&watched);
        upgrade(&watched);
        new_erlang(&mut watched);
        removal(&watched, &before, "remove");
        // Nodes that do not register again are gone with the removal.
        watched.nodes = Nodes::register();
        stage.install_ours(PACKAGE);
        watched.are_unharmed("installed again");
        removal(&watched, &before, "purge");
        before.is_still(stage, "after the purge");
        assert_ne!(stage.must("id -u epmd"), "", "erlang-base has it");
    });
}

fn installation(watched: &Watched<'_>) {
    let stage = watched.stage;
    let said = stage.install_ours(OLDER);
    assert_eq!(said.own().len(), 2, "{:?}", said.own());
    watched.are_unharmed("installed");
    let again = stage.does(&format!("dpkg --install {OLDER}"));
    watched.are_unharmed("installed once more");
    eprintln!("apt: {:?}, dpkg alone: {:?}", said.took, again.took);
    assert!(again.took < 3 * INSTALLATION, "{:?}", again.took);

    assert_eq!(
        stage.must("stat -c '%U:%G %a' /etc/epmd.toml"),
        "root:epmd 640\n"
    );
    assert_eq!(
        stage.must(
            "setpriv --reuid=epmd --regid=epmd --clear-groups epmd -check_config | head -n 1"
        ),
        "file: /etc/epmd.toml\n"
    );
    assert_eq!(
        stage.must(
            "systemd-analyze verify hardened-epmd.service hardened-epmd.socket epmd.service 2>&1"
        ),
        ""
    );
    assert_eq!(stage.must("dpkg --verify hardened-epmd erlang-base"), "");
    // The catalogue is known without anybody's doing.
    let catalogue = stage.must("journalctl --list-catalog | grep -c 'epmd refused a request'");
    assert_eq!(catalogue, "1\n");
}

fn upgrade(watched: &Watched<'_>) {
    let stage = watched.stage;
    stage.must("echo '[access]\nallow = [\"192.0.2.7\"]' >/etc/epmd.toml");
    let daemon = stage.main_pid("hardened-epmd");
    let said = stage.install_ours(PACKAGE);
    assert_ne!(stage.main_pid("hardened-epmd"), daemon, "the new one runs");
    watched.are_unharmed("upgraded");
    // The settings are the operator's, and in force.
    let own = said.own();
    assert!(own.iter().any(|line| line.contains("192.0.2.7")), "{own:?}");
}

fn new_erlang(watched: &mut Watched<'_>) {
    let stage = watched.stage;
    let version = stage.must("dpkg-query -W -f '${Version}' erlang-base");
    stage.must("mv /var/cache/apt/archives/erlang-base_*.deb /root/erlang-base.deb");
    other_version(
        stage,
        "/root/erlang-base.deb",
        &format!("{version}+new"),
        "/root/erlang-base-new.deb",
    );
    for (step, package) in [
        ("erlang-base reinstalled", "/root/erlang-base.deb"),
        ("erlang-base upgraded", "/root/erlang-base-new.deb"),
    ] {
        stage.must(&format!("dpkg --install {package} 2>&1"));
        // Its scripts have told the daemon to end.
        wait_within(LONG, "the daemon", || {
            (stage.state("is-active", "hardened-epmd.service") == "active").then_some(())
        });
        if Release::under_test() == Release::Debian12 {
            // Its scripts stop both by name, and start them again.
            wait_until_up(stage);
            watched.pids[..2].clone_from_slice(&main_pids(stage)[..2]);
        }
        watched.are_unharmed(step);
    }
    // As it was.
    stage.must("dpkg --install --force-downgrade /root/erlang-base.deb 2>&1");
    stage
        .must("mv /root/erlang-base.deb $(dirname /var/cache/apt/archives/lock)/erlang-base_0.deb");
    wait_until_up(stage);
    watched.pids = main_pids(stage);
}

fn removal(watched: &Watched<'_>, before: &Snapshot, how: &str) {
    let stage = watched.stage;
    stage.take_away(how);
    let begin = Instant::now();
    stage.stock_serves();
    wait_within(LONG, "the nodes to be back", || {
        are_registered(stage).then_some(())
    });
    let took = begin.elapsed();
    eprintln!("{how}: back after {took:?}");
    assert!(took < 3 * BACK, "{took:?}");
    assert_eq!(main_pids(stage), watched.pids, "{how}");
    for unit in ["epmd.service", "epmd.socket"] {
        assert_eq!(stage.state("is-enabled", unit), "enabled", "{how}: {unit}");
        assert_eq!(stage.state("is-active", unit), "active", "{how}: {unit}");
    }
    if how == "remove" {
        // Settings stay for the next installation, and nothing else does.
        stage.must("test -e /etc/epmd.toml");
        assert_eq!(stage.must("dpkg-divert --list '*epmd*'"), "");
        let _ = before;
    }
}
