//! A service manager of the test's own, as far as a descriptor store goes: it keeps what a daemon puts
//! there, and hands it to the next one.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use hardened_epmd::sys::adopt;
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

/// What is handed over gets a number from here on, until a shell has put it in its place.
const FIRST_SPARE: RawFd = 200;
/// As systemd numbers it.
const FIRST: usize = 3;

/// The store of one service.
pub(crate) struct Store {
    folder: TempDir,
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
    /// All that it was told.
    pub(crate) told: String,
}

impl Store {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        Self {
            folder,
            socket,
            kept: Vec::new(),
            told: String::new(),
        }
    }

    /// Where it is to be told, for `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> String {
        let path: &Path = &self.folder.path().join("notify");
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Does what it was told meanwhile.
    pub(crate) fn hear(&mut self) {
        let mut buffer = [0; 65_536];
        let mut space = cmsg_space!([RawFd; 16]);
        loop {
            let mut data = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let socket = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<()>(socket, &mut data, Some(&mut space), flags) else {
                return;
            };
            let mut descriptors = Vec::new();
            for control in message.cmsgs().expect("whole messages") {
                if let ControlMessageOwned::ScmRights(some) = control {
                    descriptors.extend(some.into_iter().map(adopt));
                }
            }
            let count = message.bytes;
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            match name {
                Some(name) if text.contains("FDSTORE=1") => {
                    let named = descriptors.drain(..).map(|d| (name.to_owned(), d));
                    self.kept.extend(named);
                }
                Some(name) if text.contains("FDSTOREREMOVE=1") => {
                    self.kept.retain(|(kept, _)| kept != name);
                }
                _ => {}
            }
            // What is left is of a barrier, which is over when it is closed.
            drop(descriptors);
            self.told.push_str(&text);
            self.told.push('\n');
        }
    }

    /// Has everything handed to the command that stands behind this script of bash's, as `$@`.
    /// The descriptors have to be open until it has begun.
    pub(crate) fn script(&self) -> (String, Vec<OwnedFd>) {
        if self.kept.is_empty() {
            // Of nothing systemd says nothing.
            return ("exec \"$@\"".to_owned(), Vec::new());
        }
        let mut lent = Vec::new();
        let (mut places, mut spares) = (String::new(), String::new());
        for (place, (_, descriptor)) in (FIRST..).zip(&self.kept) {
            let spare = fcntl(descriptor, FcntlArg::F_DUPFD(FIRST_SPARE)).expect("a descriptor");
            lent.push(adopt(spare));
            places.push_str(&format!(" {place}<&{spare}"));
            spares.push_str(&format!(" {spare}<&-"));
        }
        let names: Vec<_> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        let script = format!(
            "exec{places}; exec{spares}; export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec \"$@\"",
            self.kept.len(),
            names.join(":")
        );
        (script, lent)
    }
}
