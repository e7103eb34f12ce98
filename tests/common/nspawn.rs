//! A throwaway host with a real systemd, booted in about a second from a Debian's tree that
//! `tests/parts` keeps (`EPMD_TEST_HOST`, see [`Release`]).
//!
//! The tree is whole, with nothing enabled. What is written there outlives a reboot of the host, and is
//! gone with it; its network has nothing but a loopback. It is entered through its first process. Needs
//! root, and no systemd on this machine's side: process 1 may be anything, and cgroups of any version.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::binary::{Output, finish_within};
use super::host::process;
use super::{wait_for, wait_within};

/// How long a command on the host may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How long all its services together may take to start or to end, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(240);

/// Where `tests/parts` has put its parts.
const TREES: &str = "/var/cache/hardened-epmd-tests";

/// Which Debian a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// systemd 252, OTP 25, RabbitMQ 3.10, ejabberd.
    Debian12,
    /// systemd 257, OTP 27, RabbitMQ 4, ejabberd.
    Debian13,
}

impl Release {
    /// The one that `EPMD_TEST_HOST` names: `debian12` (the default) or `debian13`.
    pub(crate) fn under_test() -> Self {
        match std::env::var("EPMD_TEST_HOST").as_deref() {
            Ok("debian12") | Err(_) => Self::Debian12,
            Ok("debian13") => Self::Debian13,
            Ok(other) => {
                panic!("EPMD_TEST_HOST is {other:?}; it must be \"debian12\" or \"debian13\"")
            }
        }
    }

    /// Which part of `tests/parts` it is.
    fn part(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
        }
    }

    /// Where its files are on this machine.
    fn tree(self) -> PathBuf {
        Path::new(TREES).join(self.part())
    }
}

/// Boots the host `$1`, whose files from outside are in `$2`, from the tree `$3`, as often as it reboots,
/// and returns when it is over. Mounts and processes are in namespaces of its own, so that none is left
/// behind whatever becomes of it. nspawn's own filter forbids some calls that a host of its own has; `$4`
/// are let through.
const BOOT: &str = r#"
name=$1 dir=$2 tree=$3 calls=$4
if mountpoint -q /sys/fs/cgroup; then umount -R /sys/fs/cgroup; fi
mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=/sys/fs/cgroup/$name
mkdir "$group"
echo $$ > "$group/cgroup.procs"
# What nspawn keeps outside of the host.
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t tmpfs tmpfs "$dir"
mkdir "$dir/new" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/new,workdir=$dir/work" "$dir/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
status=133
# What nspawn ends with when its host reboots.
while [ $status = 133 ]; do
    status=0
    systemd-nspawn --quiet --machine="$name" --register=no --keep-unit --directory="$dir/root" \
        --private-network --console=pipe --system-call-filter="$calls" \
        --boot systemd.unit=multi-user.target || status=$?
done
echo $$ > /sys/fs/cgroup/cgroup.procs
find "$group" -depth -type d -exec rmdir {} +
"#;

/// What a takeover needs, and nspawn's filter forbids.
const CALLS: &str = "pidfd_getfd ptrace";
/// The same for the daemon's own sandbox, which does without on every other host.
const LANDLOCK: &str = "landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// What a host is made of: a program or a file, and the Debian package or kernel option that brings it.
const PARTS: [(&str, &str); 5] = [
    ("/usr/bin/systemd-nspawn", "package systemd-container"),
    ("/usr/bin/nsenter", "package util-linux"),
    ("/usr/bin/unshare", "package util-linux"),
    ("/usr/bin/setpriv", "package util-linux"),
    ("/sbin/ip", "package iproute2"),
];

/// What this machine lacks to boot a host of this release.
fn lacking(release: Release) -> Vec<String> {
    let mut lacking = Vec::new();
    if !geteuid().is_root() {
        lacking.push("root: start the tests as root".to_owned());
    }
    for (file, package) in PARTS {
        if !Path::new(file).exists() {
            lacking.push(format!("{file} ({package})"));
        }
    }
    let (tree, part) = (release.tree(), release.part());
    if !tree.exists() {
        lacking.push(format!("{} (tests/parts {part} makes it)", tree.display()));
    }
    let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for kind in ["cgroup2", "overlay", "tmpfs"] {
        if !kinds
            .lines()
            .any(|line| line.ends_with(&format!("\t{kind}")))
        {
            lacking.push(format!("a kernel with {kind} (/proc/filesystems)"));
        }
    }
    lacking
}

/// Hosts run one after the other: what is measured on one is not to be another's load.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A host that runs until it is dropped.
pub(crate) struct Host {
    /// `unshare`, which runs [`BOOT`].
    outer: Mutex<Child>,
    /// Its first process, as this machine numbers it.
    init: AtomicU32,
    // After the others: what is gone with the host goes last.
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    /// Boots a host of the release under test, and returns when everything on it has started.
    pub(crate) fn boot() -> Self {
        Self::boot_letting(CALLS)
    }

    /// As [`Self::boot`], where Landlock can be used.
    pub(crate) fn boot_with_landlock() -> Self {
        Self::boot_letting(&format!("{CALLS} {LANDLOCK}"))
    }

    fn boot_letting(calls: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let release = Release::under_test();
        let lacking = lacking(release);
        assert!(
            lacking.is_empty(),
            "no host with a systemd of its own can be booted, because this machine lacks: {}",
            lacking.join("; ")
        );
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("epmd-test-{}-{number}", std::process::id());
        let dir = tempfile::tempdir().expect("a folder");
        let files = dir.path().join("files");
        fs::create_dir(&files).expect("a folder");
        let console = File::create(dir.path().join("console")).expect("a file");
        let outer = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["--pid", "--mount-proc", "--fork", "--kill-child"])
            .args(["bash", "-euc", BOOT, "bash", &name])
            .args([files, release.tree()])
            .arg(calls)
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("a second descriptor"))
            .stderr(console)
            .spawn()
            .expect("unshare");
        let host = Self {
            outer: Mutex::new(outer),
            init: AtomicU32::new(0),
            dir,
            _turn: turn,
        };
        host.wait_until_up();
        host
    }

    /// Reboots it, and returns when everything on it has started. Its network is another one then.
    pub(crate) fn reboot(&self) {
        let before = self.init();
        self.run(&["systemctl", "reboot"]);
        wait_within(LONG, "the host's end", || {
            process::is_over(before).then_some(())
        });
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        let init = wait_for("the host's first process", || {
            self.fail_if_over();
            self.find_init()
        });
        self.init.store(init, Ordering::Relaxed);
        wait_within(LONG, "the host to be up", || {
            self.fail_if_over();
            let state = self.run(&["systemctl", "is-system-running"]).stdout;
            assert_ne!(state, "degraded\n", "{}", self.must("systemctl --failed"));
            (state == "running\n").then_some(())
        });
    }

    fn outer(&self) -> MutexGuard<'_, Child> {
        self.outer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail_if_over(&self) {
        if let Some(status) = self.outer().try_wait().expect("a status") {
            let console = fs::read_to_string(self.dir.path().join("console"));
            panic!("the host does not boot: {status}, {console:?}");
        }
    }

    /// The process that is the first one of its namespace.
    fn find_init(&self) -> Option<u32> {
        let below = |pids: Vec<u32>| -> Vec<u32> { pids.into_iter().flat_map(children).collect() };
        // unshare, bash, systemd-nspawn.
        below(below(below(vec![self.outer().id()])))
            .into_iter()
            .find(|pid| process::name(*pid) == "systemd" && number_inside(*pid) == Some(1))
    }

    /// Its first process, as this machine numbers it.
    pub(crate) fn init(&self) -> u32 {
        self.init.load(Ordering::Relaxed)
    }

    /// One of its files, as this machine finds it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init()))
    }

    /// Writes a file, with the folders that lead to it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        let folder = path.parent().expect("a folder");
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        fs::write(&path, content).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Puts a program in its place in one step, as a package does it.
    pub(crate) fn install(&self, program: &[u8], path: &str) {
        let place = self.path(path);
        let beside = self.path(&format!("{path}.new"));
        let mut file = File::create(&beside).expect("a file");
        file.write_all(program).expect("a program");
        let mode = fs::Permissions::from_mode(0o755);
        file.set_permissions(mode).expect("a mode");
        // A file that is open for writing can't be run.
        drop(file);
        fs::rename(&beside, &place).expect("a program in its place");
    }

    /// Runs a command on the host.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let mut inside = Command::new("nsenter");
        inside
            .args(["--all", "--target", &self.init().to_string(), "--"])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "")
            .stdin(Stdio::null());
        finish_within(&mut inside, COMMAND).unwrap_or_else(|| panic!("{command:?} does not end"))
    }

    /// Runs a command line that must succeed, and gives what it says.
    pub(crate) fn must(&self, command: &str) -> String {
        let output = self.run(&["sh", "-c", command]);
        if output.status != Some(0) {
            // A command of systemd's says where to look, and no more.
            let journal = self.run(&[
                "journalctl",
                "--no-pager",
                "--lines=40",
                "--output=short-precise",
            ]);
            panic!("{command}: {output:?}\n{}", journal.stdout);
        }
        output.stdout
    }

    /// Has this thread, and those that it starts, use the host's network.
    pub(crate) fn enter_network(&self) {
        enter_network(self.init());
    }

    /// The host's processes of this name whose parent is its first process: services' main ones.
    pub(crate) fn services(&self, name: &str) -> Vec<u32> {
        children(self.init())
            .into_iter()
            .filter(|pid| process::name(*pid) == name && !process::is_over(*pid))
            .collect()
    }

    /// How much CPU its first process has used.
    pub(crate) fn init_cpu(&self) -> Duration {
        // /proc/PID/stat: utime and stime, the 12th and 13th behind the name, in hundredths.
        let stat = process::stat(self.init()).expect("the first process");
        let ticks: u64 = stat[11..13]
            .iter()
            .map(|it| it.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Another host, whose only neighbour is this one. `number` tells it from others.
    pub(crate) fn neighbour(&self, number: u8) -> Neighbour {
        let process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "sleep",
                "infinity",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let neighbour = Neighbour { process, number };
        let (pid, name) = (neighbour.process.id(), format!("n{number}"));
        wait_for("the neighbour", || {
            (process::name(pid) == "sleep").then_some(())
        });
        let ip = |pid: u32, words: &str| {
            let status = Command::new("nsenter")
                .args(["--net", "--target", &pid.to_string(), "ip"])
                .args(words.split_whitespace())
                .status();
            assert!(status.is_ok_and(|status| status.success()), "ip {words}");
        };
        ip(
            self.init(),
            &format!("link add {name} type veth peer name there netns {pid}"),
        );
        for (at, link, last) in [(self.init(), &*name, 1), (pid, "there", 2)] {
            ip(at, &format!("addr add 10.77.{number}.{last}/24 dev {link}"));
            ip(
                at,
                &format!("addr add fd77:{number}::{last}/64 dev {link} nodad"),
            );
            ip(at, &format!("link set {link} up"));
        }
        neighbour
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // All its processes end with the first one.
        let first = match self.init() {
            0 => self.outer().id(),
            init => init,
        };
        let _ = kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL);
        let end = Instant::now() + COMMAND;
        let mut outer = self.outer();
        while matches!(outer.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = outer.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A host's neighbour on a network of their own, 10.77.N.0/24 and fd77:N::/64, where the host is
/// number 1 and the neighbour number 2. It ends when it is dropped.
pub(crate) struct Neighbour {
    process: Child,
    number: u8,
}

impl Neighbour {
    /// The host's address.
    pub(crate) fn host(&self) -> String {
        format!("10.77.{}.1", self.number)
    }

    /// Its own address.
    pub(crate) fn own(&self) -> String {
        format!("10.77.{}.2", self.number)
    }

    /// The same over IPv6.
    pub(crate) fn host_v6(&self) -> String {
        format!("fd77:{}::1", self.number)
    }

    /// The same over IPv6.
    pub(crate) fn own_v6(&self) -> String {
        format!("fd77:{}::2", self.number)
    }

    /// A connection from there to an address of the host.
    pub(crate) fn connect(&self, address: &str, port: u16) -> TcpStream {
        let connected =
            self.there(|| super::try_connect(address.parse().expect("an address"), port));
        connected.unwrap_or_else(|error| panic!("{address} port {port}: {error}"))
    }

    /// Whether nobody listens there, as seen from the neighbour.
    pub(crate) fn is_turned_away(&self, address: &str, port: u16) -> bool {
        let connected =
            self.there(|| super::try_connect(address.parse().expect("an address"), port));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    /// Does something in a thread that uses the neighbour's network.
    pub(crate) fn there<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let pid = self.process.id();
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_network(pid);
                action()
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Has this thread, and those that it starts, use the network of process `pid`.
fn enter_network(pid: u32) {
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
    setns(network, CloneFlags::CLONE_NEWNET).expect("another network");
}

/// A process's children.
fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// How a process is numbered in its own namespace.
fn number_inside(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}
