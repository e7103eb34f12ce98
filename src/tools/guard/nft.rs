//! nft, the program: a script in, its answer out, within a time.
//!
//! Scripts go to its standard input, so that nothing of them is a word of a command line. What it says when it
//! fails is turned into what to do. Decides nothing about rules. Called by `guard` and its parts.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

use super::rules::MARK;
use crate::core::audit::escape_again;

/// How long one call may take: 200,000 networks take some seconds on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Where it is, where PATH does not say so: a user's own often lacks these.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// The most that is kept of what it says.
const MOST: u64 = 256 * 1024 * 1024;
/// The most of its complaint that is shown.
const MOST_SHOWN: usize = 300;

/// What lists the table.
const LIST_TABLE: [&str; 4] = ["list", "table", "inet", "hardened_epmd"];
/// What nft says of what is not there.
const MISSING: &str = "No such file or directory";

/// What went wrong, and what to do, in a line.
pub(super) type Trouble = String;

/// nft, where it is.
#[derive(Clone, Debug)]
pub(super) struct Nft(PathBuf);

/// The table of ours, as far as its name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    None,
    /// The guard made it: the names of its sets and maps, and of its chains.
    Ours {
        sets: BTreeSet<String>,
        chains: BTreeSet<String>,
    },
    /// Somebody else did.
    Foreign,
}

impl Nft {
    /// # Errors
    /// It is nowhere.
    pub(super) fn find() -> Result<Self, Trouble> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
        let found = folders
            .map(|folder| folder.join("nft"))
            .find(|nft| nft.is_file());
        found.map(Self).ok_or_else(|| {
            "there is no nft, by which the rules are set: install it (package nftables), or have PATH lead to it"
                .to_owned()
        })
    }

    /// Does what the script says, all of it or nothing.
    ///
    /// # Errors
    /// It was not done.
    pub(super) fn apply(&self, script: &str) -> Result<(), Trouble> {
        self.run(&["-f", "-"], script)
            .map(|_| ())
            .map_err(|e| e.trouble())
    }

    /// What one set of the table holds. Of all that nft lists, this alone costs little where another set has
    /// 20,000 networks.
    ///
    /// # Errors
    /// There is no such set, or nft can't be asked.
    pub(super) fn list_set(&self, set: &str) -> Result<Vec<Value>, Failure> {
        objects(&self.run(&["-j", "list", "set", "inet", "hardened_epmd", set], "")?)
    }

    /// What the table holds, with its elements.
    ///
    /// # Errors
    /// There is no table, or nft can't be asked.
    pub(super) fn list_table(&self) -> Result<Vec<Value>, Failure> {
        objects(&self.run(&[&["-j"], &LIST_TABLE[..]].concat(), "")?)
    }

    /// The same without the elements of sets and maps.
    ///
    /// # Errors
    /// As [`Self::list_table`].
    pub(super) fn list_structure(&self) -> Result<Vec<Value>, Failure> {
        objects(&self.run(&[&["-j", "-t"], &LIST_TABLE[..]].concat(), "")?)
    }

    /// The same as text.
    ///
    /// # Errors
    /// As [`Self::list_table`].
    pub(super) fn list_rules(&self) -> Result<String, Failure> {
        self.run(&[&["-t"], &LIST_TABLE[..]].concat(), "")
    }

    /// Looks whether there is a table of this name, and whose.
    ///
    /// # Errors
    /// nft can't be asked.
    pub(super) fn look(&self) -> Result<Found, Failure> {
        match self.list_structure() {
            Ok(objects) => Ok(found(&objects)),
            Err(failure) if failure.is_missing() => Ok(Found::None),
            Err(failure) => Err(failure),
        }
    }

    fn run(&self, arguments: &[&str], script: &str) -> Result<String, Failure> {
        let memory =
            |content: &str| memory(content).map_err(|error| Failure::not_run(&self.0, &error));
        let input = memory(script)?;
        let (mut output, mut complaint) = (memory("")?, memory("")?);
        let second = |file: &File| {
            file.try_clone()
                .map_err(|error| Failure::not_run(&self.0, &error))
        };
        let mut child = Command::new(&self.0)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(input)
            .stdout(second(&output)?)
            .stderr(second(&complaint)?)
            .spawn()
            .map_err(|error| Failure::not_run(&self.0, &error))?;
        match wait(&mut child, Instant::now() + PATIENCE) {
            Ok(true) => Ok(text(&mut output)),
            Ok(false) => Err(Failure::Refused(text(&mut complaint))),
            Err(error) => Err(Failure::Other(format!("nft: {error}"))),
        }
    }
}

/// A file that is nowhere but in memory: nobody has to read one end while another one writes.
fn memory(content: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("nft", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// What was written to it.
fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What can't be read makes no sense to whoever parses it.
    let _ = file
        .rewind()
        .and_then(|()| file.take(MOST).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for its end, and makes one where it takes too long; whether it succeeded.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<bool> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("it did not end within {PATIENCE:?}"),
            ));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Why nft did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It refused, in these words.
    Refused(String),
    /// It could not be run, or its answer makes no sense.
    Other(String),
}

impl Failure {
    fn not_run(nft: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "; install it (package nftables)",
            ErrorKind::PermissionDenied => {
                "; whoever runs the guard must be let run it (ExecPaths= of the unit, its mode)"
            }
            _ => "",
        };
        Self::Other(format!("can't run {}: {error}{remedy}", nft.display()))
    }

    /// Whether what was to be listed is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(complaint) if complaint.contains(MISSING))
    }

    /// What it is, and what to do.
    pub(super) fn trouble(&self) -> Trouble {
        let complaint = match self {
            Self::Other(what) => return what.clone(),
            Self::Refused(complaint) => complaint,
        };
        let first = complaint.lines().find(|line| !line.trim().is_empty());
        let first: String = first
            .unwrap_or("no reason")
            .chars()
            .take(MOST_SHOWN)
            .collect();
        let says = escape_again(first.trim());
        let has = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        let remedy = if has(&[
            "Operation not permitted",
            "must be root",
            "Permission denied",
        ]) {
            "it takes CAP_NET_ADMIN: start hardened-epmd-guard.service, or run this as root"
        } else if has(&["not supported", MISSING, "Invalid argument"]) {
            "this kernel can't hold these rules: it needs nf_tables with tables of the family inet, interval sets, \
             maps and reject (modules nf_tables and nft_reject_inet); in a container they are the host's"
        } else if has(&["No buffer space", "Message too long", "Cannot allocate"]) {
            "the kernel has no room for so much: see net.core.wmem_max, and the memory of this unit or container"
        } else {
            "see what is there: nft list table inet hardened_epmd"
        };
        format!("nft says {says:?}; {remedy}")
    }
}

/// The objects of all answers in a text.
fn objects(text: &str) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    for answer in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let mut answer = answer.map_err(|error| {
            Failure::Other(format!(
                "nft's JSON makes no sense: {error}; is it older than 0.9.3?"
            ))
        })?;
        if let Some(Value::Array(objects)) = answer.get_mut("nftables").map(Value::take) {
            all.extend(objects);
        }
    }
    Ok(all)
}

/// Whose table it is, by what it consists of.
fn found(objects: &[Value]) -> Found {
    let named = |kinds: &[&str]| -> BTreeSet<String> {
        let of = |object: &Value| {
            let found = kinds.iter().find_map(|kind| object.get(*kind))?;
            Some(found.get("name")?.as_str()?.to_owned())
        };
        objects.iter().filter_map(of).collect()
    };
    let is_marked = objects
        .iter()
        .filter_map(|o| o.get("set")?.get("comment")?.as_str());
    if is_marked
        .into_iter()
        .any(|comment| comment.starts_with(MARK))
    {
        Found::Ours {
            sets: named(&["set", "map"]),
            chains: named(&["chain"]),
        }
    } else {
        Found::Foreign
    }
}
