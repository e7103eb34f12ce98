//! The other end of the control socket: asking the running daemon what it is doing.
//!
//! One request, one JSON answer ([`Status`]); the daemon gives it. Whoever could have put a socket there
//! in the daemon's place is not believed: the folder must be one that only root, this user or the
//! daemon's user can write to, and who answers must be root or the folder's owner. Called by `main` for
//! `-status` and by `doctor`.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::holders;
use crate::config::Control;
use crate::core::audit::{escape_again, escape_json};
use crate::core::status::{STATUS_REQUEST, Status, is_everybodys};
use crate::exit::{Exit, complain};

/// How long the answer may take, in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that is read of an answer: 65,536 names are some 20 MiB at most.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// The bits of a mode that let others write.
const WRITE_FOR_OTHERS: u32 = 0o022;
/// Where it is set, nobody but its owner takes a file out of a folder, or puts another in its place.
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// Why the daemon could not be asked.
#[derive(Debug)]
pub enum Unasked {
    /// No daemon is there, or it does not answer this user.
    Failed(io::Error),
    /// What is there may be anybody's: what is wrong, and what to do.
    NotTrusted(String),
}

impl From<io::Error> for Unasked {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Asks the daemon; gives its answer as it is.
///
/// # Errors
/// No daemon is there, it does not answer this user, or it is not to be believed.
pub fn ask(control: &Control) -> Result<Vec<u8>, Unasked> {
    match control.path() {
        Some(path) => ask_at(path),
        None => Err(Unasked::Failed(io::Error::new(
            ErrorKind::Unsupported,
            "control.socket is \"none\": the daemon has no control socket",
        ))),
    }
}

/// Connects to the daemon's control socket.
///
/// # Errors
/// No daemon is there, or what is there is not to be believed.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Unasked> {
    let owner = owner_of_its_folder(path)?;
    let daemon = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Bounds the connect as well: where a queue is full the kernel waits for as long.
    daemon.set_write_timeout(Some(PATIENCE))?;
    daemon.connect(&SockAddr::unix(path)?)?;
    let daemon = UnixStream::from(std::os::fd::OwnedFd::from(daemon));
    let who = getsockopt(&daemon, PeerCredentials).map_err(io::Error::from)?;
    if who.uid() != ROOT && who.uid() != owner {
        return Err(Unasked::NotTrusted(format!(
            "user {} answers there, who is neither root nor the owner of the folder (user {owner}), so it is not \
             believed; see what it is: ss -xlp src {}",
            who.uid(),
            path.display()
        )));
    }
    Ok(daemon)
}

fn ask_at(path: &Path) -> Result<Vec<u8>, Unasked> {
    let deadline = Instant::now() + PATIENCE;
    let mut daemon = connect(path)?;
    daemon.write_all(STATUS_REQUEST)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::from(ErrorKind::TimedOut).into());
        }
        daemon.set_read_timeout(Some(left))?;
        match daemon.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend(chunk.iter().take(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if answer.is_empty() {
        let text = "the daemon closed without an answer: it answers root and its own user";
        return Err(io::Error::new(ErrorKind::PermissionDenied, text).into());
    }
    Ok(answer)
}

/// The owner of the socket's folder, where nobody else but root and this user could have made the
/// folder, or the socket in it.
fn owner_of_its_folder(path: &Path) -> Result<u32, Unasked> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // Links are followed once, here; who may make them is looked at on the way.
    let real = fs::canonicalize(folder)?;
    let at = fs::metadata(&real)?;
    let us = geteuid().as_raw();
    let mode = at.mode() & 0o7777;
    if mode & WRITE_FOR_OTHERS != 0 {
        let remedy = if is_everybodys(&real) {
            format!(
                "give the socket a folder of its own in it: control.socket = \"{}/epmd/control.sock\"",
                real.display()
            )
        } else {
            format!("take that from them: chmod go-w {}", real.display())
        };
        return Err(Unasked::NotTrusted(format!(
            "others may write to {} (mode {mode:04o}), so whoever answers there may be anyone; {remedy}",
            real.display()
        )));
    }
    let by_link = parents(folder).chain([folder.to_owned()]);
    for place in by_link.chain(parents(&real)) {
        let of = fs::symlink_metadata(&place)?;
        // Whose folder it is may answer there anyway, so what leads to it may be theirs as well; but by a link
        // it would be in the place of another one.
        let is_owners = of.uid() == at.uid() && real == folder;
        let is_theirs = of.uid() != ROOT && of.uid() != us && !is_owners;
        let lets_others_in = !of.is_symlink() && is_open(&of, &at, us);
        // The folder itself may be the daemon's; what leads to it may not be somebody's.
        let is_on_the_way = place != real;
        if is_on_the_way && (is_theirs || lets_others_in) {
            let is_link = fs::symlink_metadata(folder)?.is_symlink();
            let remedy = match (is_link, is_theirs) {
                (true, _) => format!("rm {}, and start epmd again", folder.display()),
                // /tmp and the like are to stay everybody's.
                (false, false) if is_everybodys(&place) => {
                    let owner = at.uid();
                    format!(
                        "ask as user {owner}: setpriv --reuid={owner} --clear-groups epmd -status"
                    )
                }
                (false, true) => format!("chown root {}", place.display()),
                (false, false) => format!("chmod go-w {}", place.display()),
            };
            return Err(Unasked::NotTrusted(format!(
                "the way to {} is by {} (user {}, mode {:04o}), which others than root may change, so whoever answers \
                 there may be anyone: {remedy}",
                folder.display(),
                place.display(),
                of.uid(),
                of.mode() & 0o7777,
            )));
        }
    }
    Ok(at.uid())
}

/// Whether others may put something into this folder where `at` is: not where it is sticky and `at` is
/// root's or this user's.
fn is_open(folder: &Metadata, at: &Metadata, us: u32) -> bool {
    let mode = folder.mode();
    let sticks = mode & STICKY != 0 && (at.uid() == ROOT || at.uid() == us);
    mode & WRITE_FOR_OTHERS != 0 && !sticks
}

/// All folders above this one.
fn parents(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    path.ancestors().skip(1).map(Path::to_owned)
}

/// `-status`: prints the answer, for people or as it is.
#[must_use]
pub fn status(control: &Control, json: bool) -> Exit {
    let answer = match ask(control) {
        Ok(answer) => answer,
        Err(unasked) => {
            let what = match unasked {
                Unasked::NotTrusted(what) => what,
                Unasked::Failed(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
                {
                    "no epmd answers there; `epmd -names` tells whether any is running".to_owned()
                }
                Unasked::Failed(error) => error.to_string(),
            };
            let place = control.path().unwrap_or(Path::new("-status"));
            complain(format_args!(
                "epmd: {}: {}",
                escape_again(&place.to_string_lossy()),
                escape_again(&what)
            ));
            return Exit::Failure;
        }
    };
    let status = serde_json::from_slice::<Status>(&answer).map(|mut status| {
        holders::complete(&mut status.registrations);
        status
    });
    let text = if json {
        // That of another version is shown as it is.
        let whole = status.and_then(|status| serde_json::to_string(&status));
        let whole = whole.map(|text| text + "\n");
        escape_json(&whole.unwrap_or_else(|_| String::from_utf8_lossy(&answer).into_owned()))
    } else {
        match status {
            Ok(status) => status.to_string(),
            Err(error) => {
                complain(format_args!(
                    "epmd: the daemon's answer is that of another version ({error}); try -json"
                ));
                return Exit::Failure;
            }
        }
    };
    crate::exit::print(&text)
}
