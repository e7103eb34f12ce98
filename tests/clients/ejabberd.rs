//! ejabberd from Debian: two nodes on two hosts become a cluster by way of our epmds, with its own
//! scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::unistd::{User, chown};

use super::common::binary::Output;
use super::common::netns::{Host, network};
use super::common::service::Service;
use super::common::wait_for;
use super::scene::{COOKIE, admitting, client, run};

/// The user as whom its script runs it.
const USER: &str = "ejabberd";
/// Its script, which root has in its path and not everyone.
const SCRIPT: &str = "/usr/sbin/ejabberdctl";
/// A server without services: what it does with epmd is the same.
const SETTINGS: &str = "hosts: [chat.test]\nloglevel: warning\nlisten: []\nmodules: {}\n";

/// Its script, with all its files in the host's folder.
fn script(host: &Host, node: &str) -> Command {
    let folder = host.file("ejabberd");
    if !folder.exists() {
        let user = User::from_name(USER).expect("the list of users");
        let user = user.expect("ejabberd is not installed");
        fs::set_permissions(host.file(""), fs::Permissions::from_mode(0o711))
            .expect("a way to its folder");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("ejabberd.yml"), SETTINGS).expect("a written file");
        chown(&folder, Some(user.uid), Some(user.gid)).expect("a folder of its own");
    }
    let mut command = client(SCRIPT);
    command
        .env("ERL_OPTIONS", format!("-setcookie {COOKIE}"))
        .env("EJABBERD_PID_PATH", folder.join("pid"))
        .args(["--node", node]);
    for (option, file) in [
        ("--spool", ""),
        ("--logs", ""),
        ("--config-dir", ""),
        ("--ctl-config", "ejabberdctl.cfg"),
        ("--config", "ejabberd.yml"),
    ] {
        command.arg(option).arg(folder.join(file));
    }
    command
}

/// A server; dropping it ends it.
struct Server<'h> {
    host: &'h Host,
    node: &'static str,
    child: Child,
}

impl<'h> Server<'h> {
    fn start(host: &'h Host, node: &'static str) -> Self {
        let log = fs::File::create(host.file("server.log")).expect("a log");
        let mut command = script(host, node);
        command
            .arg("foreground")
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a second descriptor"))
            .stdout(log);
        let child = host.spawn(&mut command);
        Self { host, node, child }
    }

    fn control(&self, words: &[&str]) -> Output {
        run(self.host, script(self.host, self.node).args(words))
    }

    fn wait_until_started(&self) {
        // `started` waits for it by itself, as long as a slow machine may take.
        let output = self.control(&["started"]);
        let log = || fs::read_to_string(self.host.file("server.log")).unwrap_or_default();
        assert_eq!(output.status, Some(0), "{output:?}\n{}", log());
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_servers_on_two_hosts_cluster() {
    const NODES: [&str; 2] = ["ejabberd@one.test", "ejabberd@two.test"];
    let [one, two, stranger] = network(["one", "two", "stranger"]);
    let services = [
        Service::start(&one, &admitting(&two)),
        Service::start(&two, &admitting(&one)),
    ];
    let _own = Service::start(&stranger, "");
    let servers = [Server::start(&one, NODES[0]), Server::start(&two, NODES[1])];
    for server in &servers {
        server.wait_until_started();
    }
    let joined = servers[1].control(&["join_cluster", NODES[0]]);
    assert_eq!(joined.status, Some(0), "{joined:?}");
    for server in &servers {
        wait_for("both to be in the cluster", || {
            let list = server.control(&["list_cluster"]).stdout;
            NODES.iter().all(|node| list.contains(node)).then_some(())
        });
    }
    for service in &services {
        assert_eq!(service.other_events(), Vec::<serde_json::Value>::new());
    }

    // A stranger's script does not reach it, though it knows the cookie.
    let output = run(&stranger, script(&stranger, NODES[0]).arg("status"));
    assert_ne!(output.status, Some(0), "{output:?}");
    services[0].expect_event("refused lookup of ejabberd from 10.77.0.3: not_allowed");
}
