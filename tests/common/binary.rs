//! Which epmd a test drives, and one run of it to its end.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A file for our epmd that sets nothing.
const NO_SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/nothing.toml");

/// Where `tests/parts` has put the epmd of Erlang/OTP 29.
const STOCK_29: &str = "/var/cache/hardened-epmd-tests/stock29/epmd";

/// One of the epmds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epmd {
    /// The one that comes with this machine's Erlang/OTP: 25 on Debian 12.
    Stock,
    /// The one that comes with Erlang/OTP 29.
    Stock29,
    /// The one of this crate.
    Ours,
}

/// The epmd that `EPMD_UNDER_TEST` names.
pub(crate) fn under_test() -> Epmd {
    match std::env::var("EPMD_UNDER_TEST").as_deref() {
        Ok("stock") => Epmd::Stock,
        Ok("stock29") => Epmd::Stock29,
        Ok("ours") | Err(_) => Epmd::Ours,
        Ok(other) => {
            panic!("EPMD_UNDER_TEST is {other:?}; it must be \"stock\", \"stock29\" or \"ours\"")
        }
    }
}

/// What to expect where ours differs from every stock on purpose. `reason` is for the reader; a longer
/// one stands in docs/differences.md.
pub(crate) fn differs<T>(stock: T, ours: T, _reason: &str) -> T {
    match under_test() {
        Epmd::Stock | Epmd::Stock29 => stock,
        Epmd::Ours => ours,
    }
}

/// As [`differs`], where OTP 29's differs from the stock ones before it as well.
pub(crate) fn each_differs<T>(stock: T, stock29: T, ours: T, reason: &str) -> T {
    match under_test() {
        Epmd::Stock29 => stock29,
        _ => differs(stock, ours, reason),
    }
}

/// What one run of an epmd left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its exit status; `None` after a signal.
    pub(crate) status: Option<i32>,
    /// Everything on its standard output.
    pub(crate) stdout: String,
    /// Everything on its standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// The output that a command with this status and these streams leaves.
    pub(crate) fn new(status: i32, stdout: &str, stderr: &str) -> Self {
        Self {
            status: Some(status),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }
}

/// How the line begins that `-daemon` says where nobody reads the log, as in most containers.
pub(crate) const NOBODY_READS: &str = "epmd: nobody will see the log, nor who is refused: ";

impl Output {
    /// The same without that line: whether there is one is up to the machine.
    pub(crate) fn wherever_it_logs(mut self) -> Self {
        let lines = self.stderr.split_inclusive('\n');
        self.stderr = lines
            .filter(|line| !line.starts_with(NOBODY_READS))
            .collect();
        self
    }
}

impl Epmd {
    /// The stock ones.
    pub(crate) const ALL_STOCK: [Self; 2] = [Self::Stock, Self::Stock29];

    /// Where the binary is.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Ours => PathBuf::from(env!("CARGO_BIN_EXE_epmd")),
            Self::Stock => stock_path(),
            Self::Stock29 => {
                let path = PathBuf::from(STOCK_29);
                assert!(
                    path.is_file(),
                    "{STOCK_29} is missing: tests/parts stock29 (as root) makes it"
                );
                path
            }
        }
    }

    /// The binary with a clean environment: nothing of this process's settings, nor of the
    /// machine's /etc/epmd.toml, reaches it.
    pub(crate) fn command(self) -> Command {
        self.wrapped(&[])
    }

    /// As [`Self::command`], started by way of another program that runs its arguments.
    pub(crate) fn wrapped(self, wrapper: &[&str]) -> Command {
        let mut words = wrapper.iter().map(PathBuf::from).chain([self.path()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).env_clear().stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if self == Self::Ours {
            command.env("EPMD_CONFIG", NO_SETTINGS);
        }
        command
    }

    /// Runs the binary with these arguments until it ends.
    pub(crate) fn run(self, arguments: &[&str]) -> Output {
        finish(self.command().args(arguments))
    }
}

/// Starts `command`, and says so where there is no such program.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| match error.kind() {
        ErrorKind::NotFound => panic!(
            "{:?} is not installed; tests/run installs what the tests need",
            command.get_program()
        ),
        _ => panic!("{command:?}: {error}"),
    })
}

/// Runs `command` to its end; fails the test if it takes longer than [`PATIENCE`].
pub(crate) fn finish(command: &mut Command) -> Output {
    finish_within(command, PATIENCE).unwrap_or_else(|| panic!("{command:?} does not end"))
}

/// Runs `command` for at most `time`; `None` (and a dead process) if it goes on.
pub(crate) fn finish_within(command: &mut Command, time: Duration) -> Option<Output> {
    // Files and not pipes: a process that leaves a child behind can't hold up the reading.
    let streams = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let [stdout, stderr] = streams
        .each_ref()
        .map(|file| Stdio::from(file.try_clone().expect("a second descriptor")));
    let mut child = spawn(command.stdout(stdout).stderr(stderr));
    let end = Instant::now() + time;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child's status") {
            break status;
        }
        if Instant::now() >= end {
            child.kill().expect("a child that can be ended");
            child.wait().expect("a child's status");
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let [stdout, stderr] = streams.each_ref().map(text);
    Some(Output {
        status: status.code(),
        stdout,
        stderr,
    })
}

/// What was written to a file so far. Bytes that are no UTF-8 become U+FFFD.
pub(crate) fn text(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8 * 1024];
    // The writer's descriptor shares its position with this one, so that must not be moved.
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64) {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(count) => bytes.extend(&chunk[..count]),
            Err(error) => panic!("a file that can't be read: {error}"),
        }
    }
}

/// Stock epmd: `$STOCK_EPMD`, or the first in `PATH`, or Debian's place.
fn stock_path() -> PathBuf {
    if let Some(path) = std::env::var_os("STOCK_EPMD") {
        return PathBuf::from(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .map(|folder| folder.join("epmd"))
        .find(|file| file.is_file())
        .expect("stock epmd is not installed: apt-get install erlang-base, or set STOCK_EPMD")
}
