//! RabbitMQ from Debian: two nodes on two hosts become a cluster by way of our epmds, and its tools
//! find the nodes, on their own host and from the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::binary::Output;
use super::common::netns::{Host, network};
use super::common::service::Service;
use super::common::wire::Answer;
use super::scene::{COOKIE, admitting, client, run};

/// Where Debian puts a version of it. What is in PATH wants another user and the machine's own paths.
const LIBRARIES: &str = "/usr/lib/rabbitmq/lib";

/// How long a broker may take to serve.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// Its scripts.
fn scripts() -> PathBuf {
    let all = fs::read_dir(LIBRARIES).expect("rabbitmq-server is not installed");
    let mut all = all.map(|entry| entry.expect("an entry").path().join("sbin"));
    all.find(|path| path.is_dir()).expect("RabbitMQ's scripts")
}

/// One of its programs, with all its files in the host's folder, and with the host's /proc: a broker
/// looks up its own process there, and a [`Host`] has process ids of its own, but the machine's /proc.
fn program(host: &Host, name: &str, node: &str) -> Command {
    let cookie = host.file(".erlang.cookie");
    if !cookie.exists() {
        fs::write(&cookie, COOKIE).expect("a cookie");
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).expect("a private cookie");
    }
    let mut command = client("unshare");
    command.arg("--mount-proc").arg(scripts().join(name));
    for (variable, file) in [
        ("MNESIA_BASE", "mnesia"),
        ("LOG_BASE", "log"),
        ("GENERATED_CONFIG_DIR", "config"),
        ("CONFIG_FILE", "rabbitmq"),
        ("ADVANCED_CONFIG_FILE", "advanced.config"),
        ("ENABLED_PLUGINS_FILE", "plugins"),
        ("PID_FILE", "pid"),
    ] {
        command.env(format!("RABBITMQ_{variable}"), host.file(file));
    }
    command
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_USE_LONGNAME", "true")
        .env("RABBITMQ_NODENAME", node)
        .env("RABBITMQ_LOGS", "-")
        .env("HOME", host.file(""));
    command
}

/// A broker; dropping it ends it.
struct Broker<'h> {
    host: &'h Host,
    node: &'static str,
    child: Child,
}

impl<'h> Broker<'h> {
    fn start(host: &'h Host, node: &'static str) -> Self {
        let log = fs::File::create(host.file("broker.log")).expect("a log");
        let mut command = program(host, "rabbitmq-server", node);
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a second descriptor"))
            .stdout(log);
        let child = host.spawn(&mut command);
        Self { host, node, child }
    }

    /// Runs one of its tools on its host, about the node `about`.
    fn tool(&self, name: &str, about: &str, words: &[&str]) -> Output {
        tool(self.host, name, about, words)
    }

    /// Has `rabbitmqctl` do something, which must succeed.
    fn control(&self, words: &[&str]) -> String {
        let output = self.tool("rabbitmqctl", self.node, words);
        let log = self.log();
        assert_eq!(output.status, Some(0), "{words:?}: {output:?}\n{log}");
        output.stdout
    }

    /// Waits until it serves. Its tool waits by itself, but not for the node's registration.
    fn wait_until_started(&mut self) {
        let end = Instant::now() + START_PATIENCE;
        let words = ["await_startup", "--timeout", "100"];
        while self.tool("rabbitmqctl", self.node, &words).status != Some(0) {
            let status = self.child.try_wait().expect("its status");
            assert_eq!(status, None, "it ended:\n{}", self.log());
            assert!(Instant::now() < end, "{}", self.log());
        }
    }

    /// What it said.
    fn log(&self) -> String {
        fs::read_to_string(self.host.file("broker.log")).unwrap_or_default()
    }

    /// The nodes that it runs with.
    fn running(&self) -> Vec<String> {
        let status = self.control(&["cluster_status", "--formatter", "json"]);
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let nodes = status["running_nodes"].as_array().expect("a list");
        let mut nodes: Vec<_> = nodes
            .iter()
            .map(|node| node.as_str().expect("a name").to_owned())
            .collect();
        nodes.sort();
        nodes
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(host: &Host, name: &str, about: &str, words: &[&str]) -> Output {
    let mut command = program(host, name, about);
    command.args(["--quiet", "--longnames", "-n", about]);
    run(host, command.args(words))
}

#[test]
fn two_brokers_on_two_hosts_cluster() {
    const NODES: [&str; 2] = ["rabbit@one.test", "rabbit@two.test"];
    let [one, two, stranger] = network(["one", "two", "stranger"]);
    let services = [
        Service::start(&one, &admitting(&two)),
        Service::start(&two, &admitting(&one)),
    ];
    let _own = Service::start(&stranger, "");
    let mut brokers = [Broker::start(&one, NODES[0]), Broker::start(&two, NODES[1])];
    for broker in &mut brokers {
        broker.wait_until_started();
    }
    brokers[1].control(&["stop_app"]);
    brokers[1].control(&["join_cluster", NODES[0]]);
    brokers[1].control(&["start_app"]);
    for broker in &brokers {
        assert_eq!(broker.running(), NODES);
    }

    // Each host's tools ask the other one's node as well.
    for (broker, about) in [(&brokers[0], NODES[1]), (&brokers[1], NODES[0])] {
        for check in ["ping", "check_running", "check_local_alarms"] {
            let output = broker.tool("rabbitmq-diagnostics", about, &[check]);
            assert_eq!(output.status, Some(0), "{check} of {about}: {output:?}");
        }
    }
    for service in &services {
        assert_eq!(service.other_events(), Vec::<Value>::new());
    }

    // A stranger does not even learn that there is a broker, though it knows the cookie.
    let output = tool(&stranger, "rabbitmq-diagnostics", NODES[0], &["ping"]);
    assert_ne!(output.status, Some(0), "{output:?}");
    assert_eq!(stranger.ask(one.v4(), b"n"), Answer::Nothing);
    services[0].expect_event("refused lookup of rabbit from 10.77.0.3: not_allowed");
}
