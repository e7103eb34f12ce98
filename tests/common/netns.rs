//! Hosts made of namespaces: each has a network, a host name, an /etc/hosts and processes of its own.
//!
//! The namespaces have no names, so nothing of them stands in /run/netns, in /etc/netns or in the
//! machine's own network, and any number of tests can have theirs at once. The first process of a
//! host holds them: it waits for the end of a pipe that the test holds, and with it the kernel ends
//! every other process of the host and takes the links away. That holds for a test that panics, and
//! for one that is killed.
//!
//! A test's thread goes to a host for the length of a call ([`Host::enter`]): sockets that are made
//! there stay that host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::{fs, panic, thread};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::PATIENCE;
use super::binary::{Output, finish, spawn};
use super::wire::{Answer, ask, frame};

/// Where epmd listens on every host.
pub(crate) const EPMD: u16 = 4369;
/// What follows a host's name in its full name.
pub(crate) const DOMAIN: &str = "test";

/// The namespaces of a host: their names in /proc/PID/ns, and in clone(2).
const NAMESPACES: [(&str, CloneFlags); 4] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A host; dropping it ends all its processes.
pub(crate) struct Host {
    /// Its number in the network, the last part of its addresses.
    number: u8,
    /// Its first process.
    keeper: Child,
    namespaces: Vec<(OwnedFd, CloneFlags)>,
    folder: TempDir,
    /// What its link leads to.
    switch: Option<Arc<Host>>,
}

/// Hosts of these names, on one link: the first is 10.77.0.1 and fd77::1. All know all names.
pub(crate) fn network<const N: usize>(names: [&str; N]) -> [Host; N] {
    let hosts: String = names
        .iter()
        .zip(1..)
        .map(|(name, number)| {
            let (v4, v6) = (v4(number), v6(number));
            format!("{v4} {name}.{DOMAIN} {name}\n{v6} {name}.{DOMAIN} {name}\n")
        })
        .collect();
    let switch = Host::boot("switch", 0, &hosts, None);
    // Without snooping, neighbours find each other at once.
    switch.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
    let switch = Arc::new(switch);
    let mut number = 0;
    names.map(|name| {
        number += 1;
        let host = Host::boot(name, number, &hosts, Some(Arc::clone(&switch)));
        host.link_to(&switch);
        host
    })
}

/// A host of its own, with loopback alone.
pub(crate) fn lone_host() -> Host {
    Host::boot("alone", 1, "127.0.0.1 alone.test alone\n", None)
}

/// The IPv4 address with this number.
pub(crate) fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number).into()
}

/// The IPv6 address with this number.
pub(crate) fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into()
}

impl Host {
    /// A host with its loopback up.
    fn boot(name: &str, number: u8, hosts: &str, switch: Option<Arc<Self>>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hosts_file = folder.path().join("hosts");
        let hosts = format!("127.0.0.1 localhost\n::1 localhost\n{hosts}");
        fs::write(&hosts_file, hosts).expect("a written file");
        let full_name = format!("{name}.{DOMAIN}");
        let keeper = in_a_thread(|| {
            let all = NAMESPACES.map(|(_, flag)| flag);
            let all = all.into_iter().fold(CloneFlags::empty(), CloneFlags::union);
            unshare(all).unwrap_or_else(|error| {
                panic!(
                    "this machine can't make a host out of namespaces: unshare: {error}; \
                     the test has to run as root, where network, mount, UTS and PID namespaces are allowed"
                )
            });
            set_mounts(&hosts_file);
            nix::unistd::sethostname(&full_name).expect("a host name");
            // Ends when its input does.
            spawn(
                Command::new("cat")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null()),
            )
        });
        let namespaces = NAMESPACES
            .map(|(name, flag)| {
                let path = format!("/proc/{}/ns/{name}", keeper.id());
                let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                (file.into(), flag)
            })
            .into();
        let host = Self {
            number,
            keeper,
            namespaces,
            folder,
            switch,
        };
        host.ip("link set lo up\n");
        host
    }

    /// Gives it a link to `switch`, with its addresses.
    fn link_to(&self, switch: &Self) {
        let (number, v4, v6) = (self.number, self.v4(), self.v6());
        let there = format!("/proc/{}/ns/net", switch.keeper.id());
        // Without duplicate address detection, which would keep the address from use for a second.
        self.ip(&format!(
            "link add eth0 type veth peer name port{number} netns {there}\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n"
        ));
        switch.ip(&format!(
            "link set port{number} master br0\nlink set port{number} up\n"
        ));
    }

    /// Its IPv4 address.
    pub(crate) fn v4(&self) -> IpAddr {
        v4(self.number)
    }

    /// Its IPv6 address.
    pub(crate) fn v6(&self) -> IpAddr {
        v6(self.number)
    }

    /// A path in its folder, which goes with it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Does something on this host. A panic in it is the caller's.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        in_a_thread(|| {
            // A thread that shares its root and working directory can't change its mounts.
            unshare(CloneFlags::CLONE_FS).expect("a root of the thread's own");
            for (namespace, flag) in &self.namespaces {
                setns(namespace, *flag).expect("the host's namespaces");
            }
            act()
        })
    }

    /// Runs lines of `ip` on it, all of which must succeed.
    pub(crate) fn ip(&self, lines: &str) {
        let script = self.file("ip");
        fs::write(&script, lines).expect("a written file");
        let output = self.run(Command::new("ip").arg("-batch").arg(script));
        assert_eq!(output, Output::new(0, "", ""), "ip: {lines}");
    }

    /// Has `ip netns exec NAME` on it lead to each of these hosts' networks, by their full names.
    pub(crate) fn leads_to(&self, hosts: &[(&str, &Self)]) {
        self.enter(|| {
            fs::create_dir_all("/run/netns").expect("a folder");
            for (name, host) in hosts {
                let from = format!("/proc/{}/ns/net", host.keeper.id());
                let to = format!("/run/netns/{name}.{DOMAIN}");
                fs::write(&to, "").expect("a file");
                let nothing = None::<&str>;
                mount(Some(&*from), &*to, nothing, MsFlags::MS_BIND, nothing)
                    .unwrap_or_else(|error| panic!("{to}: {error}"));
            }
        });
    }

    /// Adds a line to its /etc/hosts.
    pub(crate) fn add_name(&self, line: &str) {
        let path = self.file("hosts");
        let hosts = fs::read_to_string(&path).expect("a file that can be read");
        // Written in place: another file under the same name would not be the one that is mounted.
        fs::write(&path, format!("{hosts}{line}\n")).expect("a written file");
    }

    /// What its link leads to: whatever is on the way from it to the other hosts.
    pub(crate) fn way(&self) -> &Self {
        self.switch.as_deref().expect("a host with a link")
    }

    /// Gives it these rules of `nft`, beside those that it has.
    pub(crate) fn nft(&self, rules: &str) {
        let script = self.file("nft");
        fs::write(&script, rules).expect("a written file");
        let output = self.run(Command::new("nft").arg("-f").arg(script));
        assert_eq!(output, Output::new(0, "", ""), "nft: {rules}");
    }

    /// Writes a setting of its kernel, such as `net/ipv6/conf/all/disable_ipv6`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Starts a program on it.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        self.enter(|| spawn(command))
    }

    /// Runs a program on it to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Output {
        self.enter(|| finish(command))
    }

    /// A connection from it to the epmd at `to`.
    pub(crate) fn connect(&self, to: IpAddr) -> TcpStream {
        self.try_connect(to)
            .unwrap_or_else(|error| panic!("{to} port {EPMD}: {error}"))
    }

    /// As [`Self::connect`], which may fail.
    pub(crate) fn try_connect(&self, to: IpAddr) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(to, EPMD);
        let stream = self.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        patient(&stream);
        Ok(stream)
    }

    /// A connection from this address of its to the epmd at `to`.
    pub(crate) fn connect_from(&self, from: IpAddr, to: IpAddr) -> TcpStream {
        let socket = self.enter(|| {
            let address = SocketAddr::new(from, 0);
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&address.into())?;
            socket.connect_timeout(&SocketAddr::new(to, EPMD).into(), PATIENCE)?;
            Ok::<_, std::io::Error>(socket)
        });
        let stream = socket
            .unwrap_or_else(|error| panic!("from {from} to {to} port {EPMD}: {error}"))
            .into();
        patient(&stream);
        stream
    }

    /// Sends a request from it to the epmd at `to`, and reads until the close.
    pub(crate) fn ask(&self, to: IpAddr, body: &[u8]) -> Answer {
        ask(self.connect(to), &frame(body))
    }

    /// Holds an address's port 4369 on it, as long as the value lives.
    pub(crate) fn hold_port(&self, address: IpAddr) -> TcpListener {
        self.enter(|| TcpListener::bind((address, EPMD)))
            .unwrap_or_else(|error| panic!("{address} port {EPMD}: {error}"))
    }

    /// A socket that listens for both families at once, as systemd's do by default: IPv4 peers have
    /// IPv4-mapped addresses there.
    pub(crate) fn dual_stack_listener(&self) -> TcpListener {
        self.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), EPMD).into())?;
            socket.listen(128)?;
            Ok::<_, std::io::Error>(socket.into())
        })
        .expect("a socket for both families")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The first process of a PID namespace takes all others with it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Gives the calling thread's mount namespace this /etc/hosts and an empty /run, which nobody else
/// sees: each host's epmd has its control socket in its own.
fn set_mounts(hosts: &Path) {
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .expect("mounts of the host's own");
    mount(
        Some(hosts),
        "/etc/hosts",
        nothing,
        MsFlags::MS_BIND,
        nothing,
    )
    .unwrap_or_else(|error| panic!("this machine can't bind-mount over /etc/hosts: {error}"));
    mount(nothing, "/run", Some("tmpfs"), MsFlags::empty(), nothing)
        .unwrap_or_else(|error| panic!("this machine can't mount a tmpfs on /run: {error}"));
}

/// Does something in a thread that ends with it: what is changed of a thread there is nobody else's.
fn in_a_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(act).join())
        .unwrap_or_else(|reason| panic::resume_unwind(reason))
}

/// Makes a connection fail a test that waits for it for too long.
fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
}
