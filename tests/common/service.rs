//! Our epmd on a host of its own, with a file that can be written anew, and the audit that it leaves.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::binary::{Epmd, Output, text};
use super::host::listeners;
use super::netns::{EPMD, Host};
use super::wait_for;
use super::wire::{Answer, Node, Registration, ask, frame, names_answer, register};

/// A shell that adopts its input as the one socket that systemd hands over.
const ACTIVATE: &str = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"";

/// How our epmd is to be started on a host.
pub(crate) struct Launch<'h> {
    host: &'h Host,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    config: String,
    activation: Option<TcpListener>,
    stderr: Option<Stdio>,
}

/// A service manager that hears what it is told when the test wants it to, and keeps nothing.
pub(crate) struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    /// What it has heard.
    heard: RefCell<String>,
}

impl Manager {
    /// One for services of this host.
    pub(crate) fn on(host: &Host) -> Self {
        let path = host.file("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        Self {
            path,
            socket,
            heard: RefCell::default(),
        }
    }

    /// Reads what it was told.
    pub(crate) fn hear(&self) {
        let mut buffer = [0; 65_536];
        while let Ok(count) = self.socket.recv(&mut buffer) {
            let told = String::from_utf8_lossy(&buffer[..count]);
            self.heard.borrow_mut().push_str(&told);
        }
    }

    /// Reads until it is told this.
    pub(crate) fn wait_until_told(&self, words: &str) {
        wait_for(words, || {
            self.hear();
            self.heard.borrow().contains(words).then_some(())
        });
    }

    /// Has its socket so full that nobody can tell it anything until it reads.
    pub(crate) fn stop_hearing(&self) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("an option");
        self.heard.borrow_mut().clear();
        while sender.send_to(b"X_FULL=1", &self.path).is_ok() {}
    }
}

/// Our epmd, running; dropping it ends it.
pub(crate) struct Service<'h> {
    host: &'h Host,
    child: Child,
    stderr: File,
    config: PathBuf,
    /// How many of its events the test has seen.
    seen: Cell<usize>,
}

impl<'h> Launch<'h> {
    /// With nothing set.
    pub(crate) fn on(host: &'h Host) -> Self {
        Self {
            host,
            wrapper: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            config: String::new(),
            activation: None,
            stderr: None,
        }
    }

    /// With this text as its file.
    pub(crate) fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// With more arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// With an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// By way of another program that runs its arguments.
    pub(crate) fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// As a service of this service manager.
    pub(crate) fn under(self, manager: &Manager) -> Self {
        let path = manager.path.to_str().expect("a path in UTF-8");
        self.variable("NOTIFY_SOCKET", path)
            .arguments(&["-systemd"])
    }

    /// By socket activation: with `-systemd`, and this socket as systemd hands it over.
    pub(crate) fn activated(self, listener: TcpListener) -> Self {
        self.inheriting(listener).arguments(&["-systemd"])
    }

    /// With this socket, and the variables by which systemd tells of it, but without `-systemd`.
    pub(crate) fn inheriting(self, listener: TcpListener) -> Self {
        let mut launch = self.wrapped(&["sh", "-c", ACTIVATE, "sh"]);
        launch.activation = Some(listener);
        launch
    }

    /// With its lines going here; the test sees none of them then.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it, and returns when it answers on this host.
    pub(crate) fn start(self) -> Service<'h> {
        let mut service = self.start_unasked();
        wait_for("the daemon to answer", || {
            let ended = service.ended();
            assert_eq!(ended, None, "the daemon ended: {}", service.said());
            service.answers().then_some(())
        });
        service
    }

    /// Starts it, and returns at once.
    pub(crate) fn start_unasked(mut self) -> Service<'h> {
        let file = tempfile::tempfile().expect("a temporary file");
        let stderr = self
            .stderr
            .take()
            .unwrap_or_else(|| file.try_clone().expect("a second descriptor").into());
        let host = self.host;
        let (mut command, config) = self.command();
        let child = host.spawn(command.stdout(Stdio::null()).stderr(stderr));
        Service {
            host,
            child,
            stderr: file,
            config,
            seen: Cell::new(0),
        }
    }

    /// Runs it to its end, which is expected to come.
    pub(crate) fn run(self) -> Output {
        let host = self.host;
        host.run(&mut self.command().0)
    }

    /// The command, and its file.
    fn command(mut self) -> (Command, PathBuf) {
        let config = self.host.file("epmd.toml");
        fs::write(&config, &self.config).expect("a written file");
        let wrapper: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        let mut command = Epmd::Ours.wrapped(&wrapper);
        command
            .env("EPMD_CONFIG", &config)
            .envs(self.variables)
            .args(self.arguments);
        if let Some(listener) = self.activation.take() {
            command.stdin(OwnedFd::from(listener));
        }
        (command, config)
    }
}

impl<'h> Service<'h> {
    /// Our epmd on `host`, with this text as its file.
    pub(crate) fn start(host: &'h Host, config: &str) -> Self {
        Launch::on(host).config(config).start()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its file is.
    pub(crate) fn config(&self) -> &str {
        self.config.to_str().expect("a path in UTF-8")
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's status")
    }

    /// Its exit status, waited for.
    pub(crate) fn status(&mut self) -> ExitStatus {
        wait_for("the daemon to end", || self.ended())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("a running process");
    }

    /// The addresses on which it listens.
    pub(crate) fn listeners(&self) -> Vec<IpAddr> {
        listeners(self.pid(), EPMD).into_iter().collect()
    }

    /// Everything that it said so far.
    pub(crate) fn said(&self) -> String {
        text(&self.stderr)
    }

    /// Waits until it has said this.
    pub(crate) fn wait_until_said(&self, words: &str) {
        wait_for(words, || self.said().contains(words).then_some(()));
    }

    /// Writes its file anew and has it read again; returns when that is done, well or not.
    pub(crate) fn reload(&self, config: &str) {
        fs::write(&self.config, config).expect("a written file");
        self.reread();
    }

    /// Has it read its file again; returns when that is told, and thereby all that came before it.
    fn reread(&self) {
        // A good one is told as "reloaded: ", a bad one as "not reloaded".
        let reloads =
            |said: &str| said.matches("reloaded: ").count() + said.matches("not reloaded").count();
        let before = reloads(&self.said());
        self.signal(Signal::SIGHUP);
        wait_for("the file to be read again", || {
            (reloads(&self.said()) > before).then_some(())
        });
    }

    /// Every whole line that it wrote as JSON and that is an event of the audit. What is not written yet
    /// may be missing, unless it has ended.
    pub(crate) fn events(&self) -> Vec<Value> {
        let said = self.said();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
            })
            .filter(|line: &Value| line.get("event").is_some())
            .collect()
    }

    /// The next event that the test has not seen yet, waited for.
    pub(crate) fn next_event(&self) -> Value {
        let event = wait_for("an event of the audit", || {
            self.events().into_iter().nth(self.seen.get())
        });
        self.seen.set(self.seen.get() + 1);
        event
    }

    /// Fails the test unless this is the next event, with nothing in between: see [`brief`].
    pub(crate) fn expect_event(&self, wanted: &str) -> Value {
        let event = self.next_event();
        assert_eq!(brief(&event), wanted);
        event
    }

    /// The events that the test has not seen yet, of all requests that have ended. It must be running.
    pub(crate) fn other_events(&self) -> Vec<Value> {
        // Its log has a thread of its own, so that a client may end before what became of it is told.
        self.reread();
        let events = self.events().split_off(self.seen.get());
        self.seen.set(self.seen.get() + events.len());
        events
    }

    /// A connection from its own host.
    pub(crate) fn connect(&self) -> TcpStream {
        self.host.connect(Ipv4Addr::LOCALHOST.into())
    }

    /// Sends it a request from its own host, and reads until the close.
    pub(crate) fn ask(&self, body: &[u8]) -> Answer {
        self.host.ask(Ipv4Addr::LOCALHOST.into(), body)
    }

    /// Tries to register a node of its own host.
    pub(crate) fn register(&self, node: &Node) -> Registration {
        register(self.connect(), node)
    }

    /// Registers a node of its own host, which must succeed; the connection holds the name.
    pub(crate) fn hold(&self, name: &str) -> TcpStream {
        self.register(&Node::new(name)).held().0
    }

    /// Whether it answers its own host.
    fn answers(&self) -> bool {
        self.host
            .try_connect(Ipv4Addr::LOCALHOST.into())
            .is_ok_and(|stream| matches!(ask(stream, &frame(b"n")), Answer::Bytes(_)))
    }

    /// Fails the test unless it answers its own host.
    pub(crate) fn assert_alive(&self) {
        assert!(self.answers(), "{}", self.said());
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon on {} said:\n{}", self.host.v4(), self.said());
        }
    }
}

/// An event in one line: what it is, the operation, the node's name where there is one, the peer and
/// the reason, such as `refused lookup of api from 10.77.0.3: not_allowed`.
pub(crate) fn brief(event: &Value) -> String {
    let field = |name: &str| event.get(name).and_then(Value::as_str);
    let part = |words: &str, name: &str| {
        field(name).map_or_else(String::new, |value| format!("{words}{value}"))
    };
    format!(
        "{}{}{}{}{}",
        part("", "event"),
        part(" ", "operation"),
        part(" of ", "node"),
        part(" from ", "peer"),
        part(": ", "reason"),
    )
}

/// The answer to a lookup of a node that [`Service::hold`] registered.
pub(crate) fn found(name: &str) -> Answer {
    Answer::Bytes(Node::new(name).found())
}

/// The answer to a list of nodes that [`Service::hold`] registered, the newest first.
pub(crate) fn listed(names: &[&str]) -> Answer {
    let nodes: Vec<(&str, u16)> = names
        .iter()
        .map(|name| (*name, Node::new(name).port))
        .collect();
    Answer::Bytes(names_answer(EPMD, &nodes))
}
