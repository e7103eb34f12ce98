//! Hosts that are otherwise: units masked, settings broken, a disk full, no erlang, no systemd. Each ends as
//! it was.

use super::snapshot::Snapshot;
use super::{Nodes, PACKAGE, Stage, on_a_host};

/// A host where nothing of Erlang's is enabled or runs, and that is the same again at the end.
fn scene(act: impl FnOnce(&Stage<'_>) + Send) {
    on_a_host(|stage| {
        for unit in ["epmd.socket", "epmd.service"] {
            stage.must(&format!(
                "systemctl --quiet disable {unit} 2>/dev/null || :"
            ));
        }
        let before = Snapshot::of(stage);
        act(stage);
        // What the scene has started and enabled by itself.
        for unit in ["epmd.service", "epmd.socket"] {
            stage.must(&format!(
                "systemctl --quiet stop {unit}; systemctl --quiet disable {unit} 2>/dev/null || :"
            ));
        }
        stage.must("rm -f /etc/epmd.toml");
        before.is_still(stage, "at the end");
    });
}

#[test]
fn where_nothing_runs_nothing_is_left_running() {
    scene(|stage| {
        stage.install_ours(PACKAGE);
        stage.take_away("purge");
        assert_eq!(stage.must("pgrep -x epmd || :"), "", "nobody asked for one");
        for unit in ["epmd.service", "epmd.socket"] {
            assert_eq!(stage.state("is-enabled", unit), "disabled");
        }
        a_static_binary_loads_nothing_of_another_libc(stage);
    });
}

/// On Debian 13 the host's libc is another than the one that is in the tarball's binary, and a name service
/// that is a library of the host's would end it.
fn a_static_binary_loads_nothing_of_another_libc(stage: &Stage<'_>) {
    let tarball = std::fs::read(super::package(".tar.gz")).expect("the tarball");
    stage.write("/root/epmd.tar.gz", tarball);
    stage.must(
        "mkdir /root/static && tar -xzf /root/epmd.tar.gz -C /root/static --strip-components=1",
    );
    stage.must(
        "cp -p /etc/nsswitch.conf /root/ &&
         printf 'hosts: hesiod compat files dns\npasswd: hesiod compat files\n' >/etc/nsswitch.conf",
    );
    let said = stage
        .try_to("/root/static/epmd -doctor api@named.test")
        .output;
    stage.must("cp -p /root/nsswitch.conf /etc/");
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(
        said.stdout.contains("named.test has no address"),
        "{said:?}"
    );
}

#[test]
fn nodes_whose_epmd_came_from_erl_have_one_again_though_units_are_masked() {
    scene(|stage| {
        stage.must("systemctl --quiet mask epmd.socket && epmd -daemon");
        stage.stock_serves();
        let nodes = Nodes::register();
        stage.install_ours(PACKAGE);
        nodes.are_kept("masked");
        stage.take_away("purge");
        // Nodes run: they find an epmd, though no unit may start.
        stage.stock_serves();
        assert_eq!(stage.state("is-enabled", "epmd.socket"), "masked");
        stage.must("systemctl --quiet stop epmd-for-running-nodes");
        stage.must("systemctl --quiet unmask epmd.socket");
    });
}

/// The other epmd goes on, and what the message says brings ours into force.
fn is_not_in_force(stage: &Stage<'_>, own: &[&str], why: &str) {
    assert!(
        own.iter()
            .any(|line| line.starts_with("NOT in force; the epmd that ran before")),
        "{own:?}"
    );
    assert!(
        own.iter()
            .any(|line| line.contains("systemctl restart hardened-epmd")),
        "{own:?}"
    );
    stage.stock_runs_on(why);
}

impl Stage<'_> {
    fn stock_runs_on(&self, why: &str) {
        let running = self.must("readlink /proc/$(pgrep -xo epmd)/exe");
        assert!(running.starts_with("/usr/lib/erlang/"), "{why}: {running}");
    }

    /// What mends it, by the message's own words.
    fn restart_brings_it(&self) {
        self.must("systemctl restart hardened-epmd");
        self.is_in_force();
    }
}

#[test]
fn broken_settings_leave_the_old_epmd_serving_and_say_what_to_do() {
    scene(|stage| {
        stage.start_stock();
        let nodes = Nodes::register();
        stage.write("/etc/epmd.toml", "[access]\nallow = [\"10.0.3.5/24\"]\n");
        let said = stage.install_package(PACKAGE);
        is_not_in_force(stage, &said.own(), "broken settings");
        let place = "/etc/epmd.toml:2:10: \"10.0.3.5/24\" has bits set";
        assert!(said.output.stdout.contains(place), "{}", said.output.stdout);
        nodes.are_kept("broken settings");
        stage.write("/etc/epmd.toml", "[access]\nallow = [\"10.0.3.0/24\"]\n");
        stage.restart_brings_it();
        nodes.are_kept("mended");
        // Broken once more: an upgrade keeps what was in force.
        stage.write("/etc/epmd.toml", "[access\n");
        stage.install_package(&format!("--reinstall {PACKAGE}"));
        stage.is_in_force();
        nodes.are_kept("reinstalled");
        stage.take_away("purge");
        stage.stock_serves();
    });
}

#[test]
fn settings_from_before_are_kept_and_nobody_is_asked() {
    scene(|stage| {
        let text = "[access]\nallow = [\"192.0.2.9\"]\n";
        stage.write("/etc/epmd.toml", text);
        let said = stage.install_ours(PACKAGE);
        assert_eq!(stage.must("cat /etc/epmd.toml"), text, "nobody was asked");
        assert!(
            said.own().iter().any(|line| line.contains("192.0.2.9")),
            "{:?}",
            said.own()
        );
        stage.take_away("remove");
        assert_eq!(stage.must("cat /etc/epmd.toml"), text);
        stage.install_ours(PACKAGE);
        assert_eq!(stage.must("cat /etc/epmd.toml"), text);
        stage.take_away("purge");
    });
}

/// As docs/operating.md says it for who has no package.
#[test]
fn an_installation_by_hand_becomes_the_packages() {
    scene(|stage| {
        stage.must("dpkg-divert --quiet --local --rename --add /usr/bin/epmd");
        stage.must("dpkg-deb --fsys-tarfile /root/hardened-epmd.deb | tar -x -C / ./usr/bin/epmd");
        stage.must("epmd -daemon");
        let nodes = Nodes::register();
        stage.install_ours(PACKAGE);
        nodes.are_kept("by hand");
        stage.take_away("purge");
        stage.stock_serves();
        stage.must("systemctl --quiet stop epmd-for-running-nodes");
    });
}

#[test]
fn a_takeover_that_can_not_be_leaves_the_old_epmd_serving_and_says_why() {
    scene(|stage| {
        stage.start_stock();
        let nodes = Nodes::register();
        let drop_in = "/etc/systemd/system/hardened-epmd.service.d";
        stage.write(
            &format!("{drop_in}/test.conf"),
            "[Service]\nFileDescriptorStoreMax=1\n",
        );
        let said = stage.install_package(PACKAGE);
        is_not_in_force(stage, &said.own(), "no takeover");
        assert!(
            said.output.stdout.contains("FileDescriptorStoreMax="),
            "{}",
            said.output.stdout
        );
        nodes.are_kept("no takeover");
        stage.must(&format!("rm -r {drop_in} && systemctl daemon-reload"));
        stage.restart_brings_it();
        nodes.are_kept("taken over");
        stage.take_away("purge");
        stage.stock_serves();
    });
}

#[test]
fn a_full_disk_leaves_the_host_as_it_was() {
    scene(|stage| {
        stage.start_stock();
        let nodes = Nodes::register();
        // Anew, or the way back that dpkg has by hard links ends with ESTALE: the host is an overlay.
        stage.must(
            "cd /usr/lib/systemd/system && for file in epmd.service epmd.socket; do
                 cp -a $file $file.new && mv $file.new $file; done",
        );
        // Where its script puts aside what is there, and where dpkg comes to after the program.
        for folder in ["/usr/lib/systemd/system", "/usr/share/doc"] {
            stage.must(&format!(
                "cp -a {folder} /root/copy && mount -t tmpfs -o size=40m none {folder} &&
                 cp -a /root/copy/. {folder} && {{ cat /dev/zero >{folder}/full 2>/dev/null || :; }}"
            ));
            let said = stage.try_to(&format!("dpkg --install {PACKAGE}"));
            assert_ne!(said.output.status, Some(0), "{folder}");
            let stderr = &said.output.stderr;
            assert!(stderr.contains("No space left"), "{folder}: {stderr}");
            nodes.are_kept(folder);
            stage.stock_serves();
            assert_eq!(stage.must("dpkg-divert --list '*epmd*'"), "", "{folder}");
            assert_eq!(
                stage.must("ls /usr/lib/systemd/system /usr/bin | grep -c distrib || :"),
                "0\n"
            );
            stage.must(&format!("umount {folder} && rm -r /root/copy"));
        }
        stage.install_ours(PACKAGE);
        nodes.are_kept("room again");
        stage.take_away("purge");
        stage.stock_serves();
    });
}

/// A tree that is put together elsewhere: no systemd runs in it, though one runs here.
#[test]
fn a_chroot_without_systemd_installs_and_purges_without_a_complaint() {
    scene(|stage| {
        const TREE: &str = "
    set -e
    mkdir /chroot && mount -t tmpfs none /chroot && mkdir /chroot/new /chroot/work /chroot/root
    mount -t overlay -o lowerdir=/,upperdir=/chroot/new,workdir=/chroot/work none /chroot/root
    mount -t proc none /chroot/root/proc";
        const FILES: &str = "chroot /chroot/root sh -c 'find /etc /usr ! -name \"*-\" ! -name .pwd.lock -printf \"%p %m %u %g %l\\n\" | sort; dpkg-divert --list'";
        stage.start_stock();
        let nodes = Nodes::register();
        stage.must(TREE);
        let before = stage.must(FILES);
        let inside = "chroot /chroot/root env DEBIAN_FRONTEND=noninteractive";
        let said = stage.does(&format!("{inside} apt-get install --yes --quiet {PACKAGE}"));
        assert_eq!(said.own().len(), 1, "{:?}", said.own());
        assert!(
            said.own()[0].contains("no systemd runs here"),
            "{:?}",
            said.own()
        );
        assert_ne!(stage.must(FILES), before);
        stage.must("chroot /chroot/root test -L /etc/systemd/system/multi-user.target.wants/hardened-epmd.service");
        stage.does(&format!(
            "{inside} apt-get purge --yes --quiet hardened-epmd"
        ));
        let after = stage.must(FILES);
        let changed: Vec<_> = after
            .lines()
            .filter(|line| !before.contains(line))
            .collect();
        assert!(after == before, "{changed:#?}");
        stage.must("umount /chroot/root/proc /chroot/root /chroot && rmdir /chroot");
        nodes.are_kept("a chroot");
        stage.stock_serves();
    });
}

#[test]
fn erlang_may_come_after_it_and_go_before_it() {
    scene(|stage| {
        stage.must("dpkg --purge --force-depends erlang-base 2>&1");
        // apt installs nothing where so much is missing.
        stage.must(&format!("dpkg --install {PACKAGE}"));
        stage.is_in_force();
        let nodes = Nodes::register();
        stage.must("dpkg --install /var/cache/apt/archives/erlang-base_*.deb 2>&1");
        stage.host_is_up();
        stage.is_in_force();
        nodes.are_kept("erlang-base came");
        // It goes, and takes the user along, and comes again.
        stage.must("dpkg --purge --force-depends erlang-base 2>&1");
        stage.host_is_up();
        stage.must("id -u epmd && systemctl restart hardened-epmd");
        stage.is_in_force();
        stage.must("dpkg --install /var/cache/apt/archives/erlang-base_*.deb 2>&1");
        stage.host_is_up();
        stage.take_away("purge");
        // As Erlang's package has its units on a host of its own.
        for unit in ["epmd.service", "epmd.socket"] {
            assert_eq!(stage.state("is-enabled", unit), "enabled", "{unit}");
        }
        stage.stock_serves();
    });
}

impl Stage<'_> {
    /// Erlang's scripts tell the daemon to end: it is back at once.
    fn host_is_up(&self) {
        super::wait_for("the daemon", || {
            (self.state("is-active", "hardened-epmd.service") == "active").then_some(())
        });
    }
}
