//! Other processes, and their sockets, as /proc shows them to this user.
//!
//! It only looks. Called by `listen` and by `takeover`, where a port is somebody else's.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::RawFd;

use crate::core::audit::escape;

/// Process 1, which holds the sockets of socket units, and what is in the descriptor store.
pub(super) const MANAGER: i32 = 1;

/// A process as one calls it: `pid 4711 (epmd)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// What runs there, escaped.
    pub(super) program: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.program)
    }
}

impl Process {
    pub(super) fn of(pid: i32) -> Self {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = name.strip_suffix(b"\n").unwrap_or(&name);
        Self {
            pid,
            program: escape(name).to_string(),
        }
    }

    /// A field of its /proc/PID/status.
    pub(super) fn status(&self, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.strip_prefix(':')?.trim().to_owned())
    }
}

/// The numbers of all processes that can be seen.
///
/// # Errors
/// There is no /proc, or it can't be read.
pub(super) fn all() -> io::Result<Vec<i32>> {
    let names =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// This process's own number there.
pub(super) fn own() -> Option<i32> {
    let own = fs::read_link("/proc/self").ok()?;
    own.to_str()?.parse().ok()
}

/// A process's sockets: their numbers there, and their inodes.
///
/// # Errors
/// Where it is gone, or its descriptors can't be seen.
pub(super) fn sockets(pid: i32) -> io::Result<BTreeMap<RawFd, u64>> {
    let mut sockets = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // Between the two, a descriptor may be closed.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let inode = link
            .to_str()
            .and_then(|link| link.strip_prefix("socket:["))
            .and_then(|link| link.strip_suffix(']')?.parse().ok());
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let (Some(number), Some(inode)) = (number, inode) {
            sockets.insert(number, inode);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    #[test]
    fn a_programs_name_is_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("n\x1bc");
        fs::copy("/bin/cat", &program).unwrap();
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It bears its own name once it does what it is for.
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let process = Process::of(child.id().cast_signed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.program, "n\\u{1b}c");
    }
}
