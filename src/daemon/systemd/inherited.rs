//! What systemd hands to the process at its start: sockets of a socket unit, and everything that an
//! earlier process put into the descriptor store.
//!
//! Each descriptor is looked at before it is believed: what makes no sense is dropped with a note, and
//! the daemon starts. Called by `main`, once, and only with `-systemd`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

use super::notify::take_out;
use super::store::{End, drawer_end};
use super::{
    LISTENER_PREFIX, SETTINGS_PREFIX, SOCK_DIAG, TAKEN_OVER, arrivals, listener_name, read_settings,
};
use crate::config::Settings;
use crate::daemon::listen;
use crate::sys;

/// What was handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Of a socket unit: what epmd listens on is what that unit says.
    pub activated: Vec<TcpListener>,
    /// Our own, from before a restart.
    pub listeners: Vec<TcpListener>,
    /// The registrations' drawers.
    pub drawers: BTreeMap<(u32, End), OwnedFd>,
    /// The last good settings, by their number.
    pub settings: BTreeMap<u64, File>,
    /// Connections of an epmd whose place was taken, which have asked nothing yet.
    pub arrivals: Vec<OwnedFd>,
    /// A socket that was opened outside of the unit's sandbox, to ask the kernel for users.
    pub sock_diag: Option<OwnedFd>,
    /// What was dropped, and why.
    pub notes: Vec<String>,
}

impl Inherited {
    /// Whether an earlier process left anything: this is then no cold start.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        !(self.listeners.is_empty() && self.drawers.is_empty() && self.settings.is_empty())
    }

    /// Whether what was left is another epmd's, whose place a takeover has taken since.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        let last = self.settings.last_key_value();
        last.is_some_and(|(number, _)| *number == TAKEN_OVER)
    }

    /// The last good settings.
    ///
    /// # Errors
    /// In words: there are none, or this version takes them no longer.
    pub fn settings_from_before(&self) -> Result<Settings, String> {
        let (_, file) = self.settings.last_key_value().ok_or("there are none")?;
        let snapshot = read_settings(file).map_err(|error| error.to_string())?;
        snapshot.settings().map_err(|errors| errors.for_log())
    }
}

/// Takes over everything that systemd hands to this process.
///
/// # Errors
/// Where `LISTEN_FDS` and its company make no sense.
pub fn inherit() -> io::Result<Inherited> {
    let mut all = Inherited::default();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        let descriptor = sys::adopt(number);
        let settings = name
            .strip_prefix(SETTINGS_PREFIX)
            .and_then(|n| n.parse().ok());
        if let Some(end) = drawer_end(&name) {
            all.drawers.insert(end, descriptor);
        } else if let Some(number) = settings {
            all.settings.insert(number, descriptor.into());
        } else if name == SOCK_DIAG {
            all.sock_diag = Some(descriptor);
        } else if let Some(is_output) = arrivals::end(&name) {
            if is_output && let Err(error) = arrivals::unpack(&descriptor, &mut all.arrivals) {
                all.notes.push(format!(
                    "connections of the epmd before can't all be had: {error}"
                ));
            }
            take_out(&name);
        } else {
            let ours = name.starts_with(LISTENER_PREFIX);
            match listener(descriptor) {
                Ok((listener, address)) if ours && listener_name(address) == name => {
                    all.listeners.push(listener);
                }
                Ok((listener, _)) if !ours => all.activated.push(listener),
                Ok((_, address)) => {
                    take_out(&name);
                    all.notes.push(format!(
                        "dropped \"{name}\" of systemd's store: it listens on {address}"
                    ));
                }
                Err(why) => {
                    take_out(&name);
                    all.notes.push(format!(
                        "dropped \"{name}\", which systemd handed over: {why}"
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// A listening TCP socket, set non-blocking (Debian's epmd.socket has them blocking).
fn listener(descriptor: OwnedFd) -> Result<(TcpListener, SocketAddr), String> {
    let socket = Socket::from(descriptor);
    let is_listener =
        socket.is_listener().is_ok_and(|is| is) && socket.r#type().is_ok_and(|t| t == Type::STREAM);
    let address = socket
        .local_addr()
        .ok()
        .and_then(|a| a.as_socket())
        .filter(|_| is_listener);
    let address = address.ok_or("it is no listening TCP socket")?;
    socket
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    // Only saves time: where the kernel refuses it, the socket serves all the same.
    let _ = listen::defer_accept(&socket);
    Ok((socket.into(), address))
}
