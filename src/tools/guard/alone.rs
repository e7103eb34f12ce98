//! One guard for one network namespace.
//!
//! A socket with an abstract name belongs to its network namespace, as nftables' tables do, and goes with its
//! process. Anybody may take such a name: one that is held by neither root, this user nor the daemon's is
//! nobody's proof that a guard runs. Called by `guard`.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{User, geteuid};

use super::owners;

const NAME: &[u8] = b"hardened-epmd-guard";
/// The user as which the unit runs it.
const USER: &str = "epmd";

/// Whether this guard is the only one.
#[derive(Debug)]
pub(super) enum Alone {
    /// As long as this lives.
    Yes(#[expect(dead_code, reason = "its life is the lock")] UnixListener),
    /// As far as can be told; what is in the way.
    Perhaps(String),
    /// Another one runs.
    No(String),
}

/// Finds out.
pub(super) fn find() -> Alone {
    let taken = SocketAddr::from_abstract_name(NAME).and_then(|name| {
        UnixListener::bind_addr(&name)
            .map(Alone::Yes)
            .or_else(|error| match error.kind() {
                ErrorKind::AddrInUse => Ok(holder(&name)),
                _ => Err(error),
            })
    });
    taken.unwrap_or_else(|error| {
        Alone::Perhaps(format!("whether another guard runs can't be told: {error}"))
    })
}

fn holder(name: &SocketAddr) -> Alone {
    let peer =
        UnixStream::connect_addr(name).and_then(|stream| Ok(getsockopt(&stream, PeerCredentials)?));
    let peer = match peer {
        Ok(peer) => peer,
        Err(error) => {
            return Alone::Perhaps(format!("whether another guard runs can't be told: {error}"));
        }
    };
    let daemons = User::from_name(USER)
        .ok()
        .flatten()
        .map(|user| user.uid.as_raw());
    let trusted = [Some(0), Some(geteuid().as_raw()), daemons];
    if trusted.contains(&Some(peer.uid())) {
        Alone::No(format!(
            "another guard keeps these rules already: process {}; two would undo each other's (systemctl status \
             hardened-epmd-guard)",
            peer.pid()
        ))
    } else {
        Alone::Perhaps(format!(
            "{} (process {}) holds the name by which guards know of each other, and is none: whether another one \
             runs can't be told",
            owners::user(peer.uid()),
            peer.pid()
        ))
    }
}
