//! Sending to process 1, without ever waiting for it.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names (sd_notify(3)), and descriptors with it. Process 1
//! may be frozen or busy, and its socket full: then the answer is "not now", and who has something to say
//! keeps it and comes again. Decides nothing about what is said. Used by all of `systemd`.

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use tokio::sync::Notify;

/// Between two tries at the start, where waiting holds nobody up.
const TRY_AGAIN: Duration = Duration::from_millis(5);
/// So long process 1's socket may be full at the start.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rings when something has to be done again later, because process 1 did not take it.
pub static BEHIND: Notify = Notify::const_new();

/// Process 1, as far as it hears of this process.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
    address: UnixAddr,
    waiting: Mutex<Waiting>,
}

/// What process 1 did not take yet.
#[derive(Debug, Default)]
struct Waiting {
    /// How the daemon is: at most a reload, and how it ended.
    states: Vec<String>,
    /// What it shall take out of the store.
    removals: Vec<String>,
}

/// The one that started this process as a service; `None` where none did.
///
/// # Errors
/// Where there is one, and it can't be talked to.
pub fn manager() -> io::Result<Option<&'static Manager>> {
    static MANAGER: OnceLock<Result<Option<Manager>, String>> = OnceLock::new();
    let made = MANAGER.get_or_init(|| Manager::from_environment().map_err(|e| e.to_string()));
    match made {
        Ok(manager) => Ok(manager.as_ref()),
        Err(why) => Err(io::Error::other(format!("NOTIFY_SOCKET: {why}"))),
    }
}

/// Whether the one that started this process as a service is told by a socket that has no path.
#[must_use]
pub fn is_abstract() -> bool {
    let manager = manager().ok().flatten();
    manager.is_some_and(|manager| manager.address.as_abstract().is_some())
}

impl Manager {
    fn from_environment() -> io::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => UnixAddr::new_abstract(rest)?,
            _ => UnixAddr::new(Path::new(&name))?,
        };
        Self::at(address).map(Some)
    }

    /// The one that listens there.
    ///
    /// # Errors
    /// Where no socket can be had.
    pub fn at(address: UnixAddr) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        Ok(Self {
            socket,
            address,
            waiting: Mutex::default(),
        })
    }

    /// Says these lines, and hands over descriptors, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` where process 1 has not read what it was told before; else what sendmsg(2) says.
    pub fn tell(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let data = [IoSlice::new(text.as_bytes())];
        let socket = self.socket.as_raw_fd();
        match sendmsg(socket, &data, rights, flags, Some(&self.address)) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "systemd has not read yet what it was told before",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// The same at the start, where process 1 is waited for a little.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub fn tell_patiently(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.tell(text, descriptors) {
                Err(error) if is_full(&error) && Instant::now() < end => sleep(TRY_AGAIN),
                result => return result,
            }
        }
    }

    /// Puts a descriptor into the store.
    ///
    /// # Errors
    /// As [`Self::tell`]. That it has no room process 1 tells only its own log.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.tell(&store_text(name), &[descriptor])
    }

    /// The same at the start, where process 1 is waited for a little.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub fn store_patiently(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.tell_patiently(&store_text(name), &[descriptor])
    }

    /// Says what waits to be said, and waits for process 1 a little.
    ///
    /// # Errors
    /// `TimedOut` where it does not take all of it.
    pub fn catch_up_patiently(&self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.catch_up() {
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(TRY_AGAIN);
        }
        Ok(())
    }

    /// Takes all descriptors of this name out of the store; later, where that can't be said now.
    pub fn take_out(&self, name: &str) {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={name}");
        let mut waiting = self.waiting();
        if !waiting.removals.is_empty() || self.tell(&text, &[]).is_err() {
            waiting.removals.push(text);
            BEHIND.notify_one();
        }
    }

    /// Says how the daemon is; later, where that can't be said now. Of what is to be said later, a new
    /// state takes the place of those before: `begins` tells apart a reload's begin, which takes that of
    /// all, from its end, which needs the begin before it.
    pub fn say(&self, text: String, begins: bool) {
        let mut waiting = self.waiting();
        if waiting.states.is_empty() && self.tell(&text, &[]).is_ok() {
            return;
        }
        waiting.states.truncate(if begins { 0 } else { 1 });
        waiting.states.push(text);
        BEHIND.notify_one();
    }

    /// Says what waits to be said; whether that is all.
    pub fn catch_up(&self) -> bool {
        let mut waiting = self.waiting();
        let Waiting { states, removals } = &mut *waiting;
        for texts in [states, removals] {
            let said = texts.iter().take_while(|text| self.tell(text, &[]).is_ok());
            let said = said.count();
            texts.drain(..said);
            if !texts.is_empty() {
                return false;
            }
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes all descriptors of this name out of the store of who started this process.
pub(super) fn take_out(name: &str) {
    if let Ok(Some(manager)) = manager() {
        manager.take_out(name);
    }
}

/// What puts a descriptor into the store.
fn store_text(name: &str) -> String {
    format!("FDSTORE=1\nFDNAME={name}")
}

/// Whether process 1 has not read what it was told before: it may, later.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
