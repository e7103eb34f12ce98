//! Two network namespaces with a link between them: one for servers, one for clients.
//!
//! A namespace lives as long as a process is in it. Here that is a child that waits for its input
//! to end, so both namespaces and the link go with the bench, however that ends; nothing has a name
//! that could be left behind.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::client::{self, Burst, Expect};
use crate::wire;

/// The clients' network, as a list of networks has it.
pub(crate) const CLIENTS: &str = "10.203.0.0/24";

/// The servers' address on the link.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 1);

/// How many addresses the clients have, 10.203.0.2 and up.
pub(crate) const ADDRESSES: u8 = 32;

/// The two namespaces.
pub(crate) struct Pair {
    server: Helper,
    client: Helper,
}

impl Pair {
    /// Makes them and the link.
    pub(crate) fn new() -> Pair {
        let bench = this_program();
        let unshare = ["unshare".into(), "--net".into(), bench, "anchor".into()];
        let pair = Pair {
            server: Helper::start(&unshare),
            client: Helper::start(&unshare),
        };
        let peer = pair.client.process.id().to_string();
        let (servers, clients) = (enter(&pair.server), enter(&pair.client));
        ip(
            &servers,
            "link add epmd0 type veth peer name epmd1 netns",
            &[&peer],
        );
        ip(&servers, "link set lo up", &[]);
        ip(
            &servers,
            "address add dev epmd0",
            &[&format!("{SERVER}/24")],
        );
        ip(&servers, "link set epmd0 up", &[]);
        for address in client_addresses() {
            ip(
                &clients,
                "address add dev epmd1",
                &[&format!("{address}/24")],
            );
        }
        ip(&clients, "link set epmd1 up", &[]);
        pair
    }

    /// The command that runs another one where the servers are.
    pub(crate) fn enter_server(&self) -> Vec<String> {
        enter(&self.server)
    }

    /// Registers a node with the epmd on `port` from the epmd's own host, and keeps it registered
    /// until the returned helper is dropped.
    pub(crate) fn hold_node(&self, port: u16) -> Helper {
        let mut line = self.enter_server();
        line.extend([this_program(), "hold-node".into(), port.to_string()]);
        Helper::start(&line)
    }

    /// Runs `requests` lookups of that node from the clients' side, one at a time.
    pub(crate) fn run_burst(&self, port: u16, requests: usize, refused: bool) {
        let mut line = enter(&self.client);
        line.extend([this_program(), "burst".into()]);
        line.extend([port.to_string(), requests.to_string(), refused.to_string()]);
        run(&line);
    }
}

/// A child that does its work until its input ends.
pub(crate) struct Helper {
    process: Child,
    input: Option<ChildStdin>,
}

impl Helper {
    /// Starts it, and waits for the line that says that it has come up.
    fn start(line: &[String]) -> Helper {
        let (program, arguments) = line.split_first().expect("there is a program");
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let output = process.stdout.take().expect("its output is a pipe");
        let input = process.stdin.take();
        let helper = Helper { process, input };
        let mut told = String::new();
        let read = BufReader::new(output).read_line(&mut told);
        assert!(read.is_ok_and(|length| length > 0), "{line:?} failed");
        helper
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.input.take());
        // Its input has ended, so it ends by itself, unless it already has.
        let _ = self.process.wait();
    }
}

/// The child that keeps a namespace alive.
pub(crate) fn anchor() {
    wait_for_end("up");
}

/// The child that keeps a node registered.
pub(crate) fn hold_node(port: u16) {
    let epmd = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let _node = client::register(epmd, &wire::node_name(0)).expect("epmd registers");
    wait_for_end("registered");
}

/// The child that looks names up.
pub(crate) fn burst(port: u16, requests: usize, refused: bool) {
    let burst = Burst {
        to: (SERVER, port).into(),
        from: client_addresses().map(IpAddr::V4).collect(),
        names: 1,
        requests,
        clients: 1,
        expect: if refused {
            Expect::Refusal
        } else {
            Expect::Answer
        },
    };
    burst.run();
}

/// Says `word`, and waits until the other end of the input closes.
fn wait_for_end(word: &str) {
    println!("{word}");
    let mut rest = Vec::new();
    io::stdin()
        .read_to_end(&mut rest)
        .expect("the input is a pipe");
}

/// The clients' addresses.
fn client_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (2..2 + ADDRESSES).map(|last| Ipv4Addr::new(10, 203, 0, last))
}

/// The command that runs another one in the namespace of `anchor`.
fn enter(anchor: &Helper) -> Vec<String> {
    let namespace = format!("--net=/proc/{}/ns/net", anchor.process.id());
    vec!["nsenter".into(), namespace]
}

/// Runs `ip` with the words of `arguments` and then `last` behind `prefix`.
fn ip(prefix: &[String], arguments: &str, last: &[&str]) {
    let mut line = prefix.to_vec();
    line.push("ip".into());
    line.extend(arguments.split(' ').map(str::to_owned));
    line.extend(last.iter().map(|&word| word.to_owned()));
    run(&line);
}

/// Runs a command that has to succeed.
fn run(line: &[String]) {
    let (program, arguments) = line.split_first().expect("there is a program");
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    assert!(status.success(), "{line:?}: {status}");
}

/// This program's path.
fn this_program() -> String {
    let path = env::current_exe().expect("this program has a path");
    path.display().to_string()
}
