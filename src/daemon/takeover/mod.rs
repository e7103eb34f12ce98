//! Taking the place of an epmd that runs, so that no node notices.
//!
//! A takeover is a warm start whose store somebody else has filled: the old epmd says by its dump which
//! descriptor holds which name, it is held still (`hold`), its connections and listening sockets are
//! copied out of it (`old`, by pidfd_getfd(2)), and only when all of them are where they should be is it
//! ended. Until then nothing of it is changed: whatever ends the takeover, the old one goes on. What a
//! request has read in part is lost with it; connections that have asked nothing yet come along (`settle`).
//!
//! `into_store` is `epmd -takeover -systemd`, an `ExecStartPre=+` of the unit; `in_process` is the start of
//! `epmd -takeover`, with or without `-daemon`. Called by `main` and by `start`.

mod ask;
mod hold;
mod holder;
mod keep;
mod old;
mod settle;
mod socket;
mod taken;
mod trouble;
mod units;

use std::collections::BTreeSet;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::holder::{Holder, Port, Process};
use self::old::take;
pub(in crate::daemon) use self::taken::Taken;
use self::trouble::Trouble;
use crate::config::{Settings, Snapshot, Sources};
use crate::daemon::listen;
use crate::daemon::server::budget;
use crate::daemon::server::whose::Eyes;
use crate::daemon::systemd;
use crate::exit::{Exit, complain};

/// A takeover that fails is tried again no more often than this: systemd would do it at once.
const PACE: Duration = Duration::from_secs(1);
/// How long an epmd that is ended without being taken over may take to end by itself.
const PATIENCE_WITH_THE_END: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What becomes of an epmd that can't be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is left alone.
    No,
    /// `-takeover=force`: it is ended all the same.
    Yes,
}

/// `epmd -takeover -systemd`: fills the store of the unit whose `ExecStartPre=` this is. Where the port is
/// free, or held by process 1 alone, it puts in nothing but the socket by which the daemon, which can't see
/// other users from inside its sandbox, asks whose a connection is; in silence.
pub fn into_store(sources: &Sources, force: Force) -> Exit {
    let end = Instant::now() + PACE;
    let eyes = Eyes::open(None);
    if let Some(netlink) = eyes.netlink() {
        // Where it is missed, the daemon says so.
        let _ = systemd::keep_sock_diag(netlink);
    }
    // What is wrong with the settings the daemon says a moment later; nothing is touched by them.
    let Ok((settings, snapshot)) = sources.load_and_keep() else {
        return Exit::Success;
    };
    if eyes.can_go_by(&settings).is_err() {
        return Exit::Success;
    }
    // Each name is copied; where there are too few descriptors, the copying says so.
    let _ = budget::raise_descriptor_limit();
    let Err(trouble) = fill_store(&settings, &snapshot, force) else {
        return Exit::Success;
    };
    complain(format_args!("epmd: {trouble}"));
    sleep(end.saturating_duration_since(Instant::now()));
    Exit::Failure
}

fn fill_store(settings: &Settings, snapshot: &Snapshot, force: Force) -> Result<(), Trouble> {
    let Some(holder) = holder(settings)? else {
        return Ok(());
    };
    let plan = listen::plan(settings.listen.as_deref());
    let inodes = holder.inodes();
    let addresses: Vec<_> = holder.sockets.iter().map(|(_, l)| l.address).collect();
    if units::held_by_the_manager(&inodes) > 0 && can_tell_systemd() {
        // It may be a socket unit's, or what a takeover has left that was killed. Where this fails, what
        // follows does as well.
        let _ = keep::clear(&addresses);
    }
    let no_place = |error: io::Error| {
        Trouble::NoPlace(format!(
            "can't hand what {} holds over to systemd: {error}",
            holder.process
        ))
    };
    let took = take(&holder, &plan, settings.port, |taken| {
        if !can_tell_systemd() {
            return Err(no_place(io::Error::other(
                "NOTIFY_SOCKET is not set, because this is no ExecStartPre=+ of a unit with \
                 NotifyAccess=exec; by hand it is `epmd -daemon -takeover`",
            )));
        }
        let put = keep::put(taken, snapshot).and_then(|()| {
            let own = taken.listeners.len();
            free_from_the_manager(&holder.process, settings.port, &inodes, own)
        });
        put.map_err(|error| {
            // What is there already would be in the way of the next try.
            let _ = keep::clear(&addresses);
            no_place(error)
        })
    });
    took.map(|_| ())
        .or_else(|trouble| end_by_force(&holder, settings.port, &inodes, trouble, force))
}

/// What has a unit of the user's own take the place of an epmd that has its port: in words, for who asks
/// for the port and does not take it over.
pub(in crate::daemon) fn remedy() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/epmd".into());
    format!(
        "with this line in the unit's [Service], beside NotifyAccess=exec and FileDescriptorStoreMax=4096, its \
         next start takes that epmd's place, and no node notices: ExecStartPre=+{} -takeover -systemd",
        program.display()
    )
}

fn can_tell_systemd() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The start of `epmd -takeover`: everything of the epmd that has the port, which has ended then. `None`
/// where there is none to be taken over; whether the port can be had is found out by binding it.
///
/// # Errors
/// Why not, which has been said; the old one goes on.
pub(in crate::daemon) fn in_process(
    settings: &Settings,
    force: Force,
) -> Result<Option<Taken>, Exit> {
    let taken = holder(settings).and_then(|holder| {
        let Some(holder) = holder else {
            return Ok(None);
        };
        let plan = listen::plan(settings.listen.as_deref());
        let inodes = holder.inodes();
        let took = take(&holder, &plan, settings.port, |_| {
            free_from_the_manager(&holder.process, settings.port, &inodes, 0)
                .map_err(|error| Trouble::NoPlace(error.to_string()))
        });
        took.map(Some).or_else(|trouble| {
            end_by_force(&holder, settings.port, &inodes, trouble, force).map(|()| None)
        })
    });
    taken.map_err(|trouble| {
        complain(format_args!("epmd: {trouble}"));
        Exit::Failure
    })
}

/// The one process that has the port where these settings have epmd listen.
fn holder(settings: &Settings) -> Result<Option<Holder>, Trouble> {
    if settings.port == 0 {
        return Ok(None);
    }
    let plan = listen::plan(settings.listen.as_deref());
    match holder::of_port(&plan, settings.port).map_err(Trouble::Blind)? {
        Port::Free | Port::Managers => Ok(None),
        Port::Held(holder) => Ok(Some(holder)),
        Port::Several(holders) => Err(Trouble::Several(holders)),
        Port::Unseen(address) => Err(Trouble::Unseen(address)),
    }
}

impl Holder {
    /// The inodes of its listening sockets.
    fn inodes(&self) -> BTreeSet<u64> {
        self.sockets.iter().map(|(_, l)| l.inode).collect()
    }
}

/// Has process 1 let go of the sockets, but for the `own` descriptors that this unit's store has of them.
fn free_from_the_manager(
    process: &Process,
    port: u16,
    inodes: &BTreeSet<u64>,
    own: usize,
) -> io::Result<()> {
    if units::held_by_the_manager(inodes) <= own {
        return Ok(());
    }
    units::stop_sockets(process, port)?;
    let end = Instant::now() + PATIENCE_WITH_THE_END;
    while units::held_by_the_manager(inodes) > own {
        if Instant::now() >= end {
            let text = format!("process 1 does not let go of the listening sockets of {process}");
            return Err(io::Error::other(text));
        }
        sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Where it was said so, ends an epmd that can't be taken over.
fn end_by_force(
    holder: &Holder,
    port: u16,
    inodes: &BTreeSet<u64>,
    trouble: Trouble,
    force: Force,
) -> Result<(), Trouble> {
    if force == Force::No || !trouble.is_of_an_epmd() {
        return Err(trouble);
    }
    let process = &holder.process;
    complain(format_args!("epmd: {trouble}"));
    let cannot = |why: String| Trouble::Cannot(process.clone(), why);
    let pid = Pid::from_raw(process.pid);
    free_from_the_manager(process, port, inodes, 0).map_err(|error| cannot(error.to_string()))?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let end = Instant::now() + PATIENCE_WITH_THE_END;
        match kill(pid, signal) {
            // One that is stopped has to go on in order to end.
            Ok(()) => drop(kill(pid, Signal::SIGCONT)),
            Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(cannot(format!("it can't be ended: {error}"))),
        }
        while Instant::now() < end {
            let sockets = holder::sockets(process.pid).unwrap_or_default();
            if !sockets.values().any(|inode| inodes.contains(inode)) {
                complain(format_args!(
                    "epmd: ended {process}, by -takeover=force: its names are gone until their nodes \
                     register again"
                ));
                return Ok(());
            }
            sleep(LOOK_AGAIN);
        }
    }
    Err(cannot("it does not end".to_owned()))
}
