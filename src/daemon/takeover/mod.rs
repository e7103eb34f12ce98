//! Taking the place of an epmd that runs, so that no node notices.
//!
//! A takeover is a warm start whose store somebody else has filled: the old epmd says by its dump which
//! descriptor holds which name, it is held still (`hold`), its connections and listening sockets are
//! copied out of it (pidfd_getfd(2)), and only when all of them are where they should be is it ended. Until
//! then nothing of it is changed: whatever ends the takeover, the old one goes on. What a request has read
//! in part is lost with it; connections that have asked nothing yet come along (`settle`).
//!
//! `into_store` is `epmd -takeover -systemd`, an `ExecStartPre=+` of the unit; `in_process` is the start of
//! `epmd -takeover`, with or without `-daemon`. Called by `main` and by `start`.

mod ask;
mod hold;
mod holder;
mod keep;
mod settle;
mod socket;
mod taken;
mod trouble;
mod units;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::ask::Facts;
use self::hold::Held;
use self::holder::{Holder, Port, Process};
use self::settle::{Fate, Holds, Settling, Sockets};
use self::socket::Kind;
pub(in crate::daemon) use self::taken::Taken;
use self::taken::TakenName;
use self::trouble::Trouble;
use crate::config::{Settings, Snapshot, Sources};
use crate::core::audit::escape_name;
use crate::core::wire;
use crate::daemon::listen;
use crate::daemon::server::budget;
use crate::exit::{Exit, complain};
use crate::sys;

/// How long an epmd whose names come and go is asked again and again, once it has told all of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is held by one dump.
const HOLDS: usize = 16;
/// How long it goes on between two holds.
const GOES_ON: Duration = Duration::from_micros(300);
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
/// free, or held by process 1 alone, it does nothing, in silence.
pub fn into_store(sources: &Sources, force: Force) -> Exit {
    let end = Instant::now() + PACE;
    // What is wrong with the settings the daemon says a moment later; nothing is touched by them.
    let Ok((settings, snapshot)) = sources.load_and_keep() else {
        return Exit::Success;
    };
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

/// An epmd whose place is to be taken.
struct Old<'a> {
    process: &'a Process,
    descriptor: OwnedFd,
    place: SocketAddr,
    port: u16,
}

/// Takes everything of an epmd and ends it. `commit` comes when all is copied and it is held: where that
/// fails, it goes on.
fn take(
    holder: &Holder,
    plan: &[IpAddr],
    port: u16,
    commit: impl FnOnce(&Taken) -> Result<(), Trouble>,
) -> Result<Taken, Trouble> {
    let process = &holder.process;
    // Whether it is an epmd is asked first: what it says otherwise, it is left alone.
    let place = answering_place(holder)?;
    let descriptor =
        sys::pidfd_open(process.pid).map_err(|error| Trouble::copying(process, &error))?;
    let old = Old {
        process,
        descriptor,
        place,
        port,
    };
    if let Some((number, _)) = holder.sockets.first() {
        // Rather now than when it is held.
        old.copy(*number)?;
    }
    let (held, taken) = old.settle()?;
    // It may have had children since, which would go on taking connections out of its sockets.
    match holder::of_port(plan, port).map_err(Trouble::Blind)? {
        Port::Held(now) if now.process.pid == process.pid => {}
        Port::Several(holders) => return Err(Trouble::Several(holders)),
        _ => return Err(old.lost("its listening sockets are not its own any more".to_owned())),
    }
    commit(&taken)?;
    // The instant: until here the old one went on, whatever happened.
    kill(Pid::from_raw(process.pid), Signal::SIGKILL)
        .map_err(|error| Trouble::Lost(process.clone(), format!("it can't be ended: {error}")))?;
    held.over();
    Ok(taken)
}

/// Where the holder of the port answers a dump as an epmd does.
fn answering_place(holder: &Holder) -> Result<SocketAddr, Trouble> {
    let mut trouble = None;
    for (_, listening) in &holder.sockets {
        let place = ask::place(listening.address);
        if let Some(stopped) = Trouble::stopped(&holder.process, place) {
            return Err(stopped);
        }
        match ask::dump(place) {
            Ok(bytes) if wire::decode_dump(&bytes).is_some() => return Ok(place),
            Ok(_) => trouble = Some((place, "its answer to a dump is none".to_owned())),
            Err(error) => trouble = Some((place, format!("it does not answer a dump: {error}"))),
        }
    }
    let (place, why) = trouble.unwrap_or((
        SocketAddr::from(([127, 0, 0, 1], 0)),
        "it listens nowhere".to_owned(),
    ));
    Err(Trouble::NoEpmd(holder.process.clone(), place, why))
}

/// A name as the last dump has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Told {
    name: Box<[u8]>,
    port: u16,
    descriptor: RawFd,
}

/// What was found when it was held.
enum Look {
    /// All is as it has said.
    Settled(Taken),
    /// It is in the middle of something.
    Busy,
    /// It has to be asked again, for this reason.
    Changed(String),
}

impl Old<'_> {
    /// A copy of one of its descriptors.
    fn copy(&self, number: RawFd) -> Result<OwnedFd, Trouble> {
        sys::pidfd_getfd(&self.descriptor, number)
            .map_err(|error| Trouble::copying(self.process, &error))
    }

    fn sockets(&self) -> Result<Sockets, Trouble> {
        holder::sockets(self.process.pid).map_err(|error| {
            Trouble::Lost(
                self.process.clone(),
                format!("its descriptors can't be seen: {error}"),
            )
        })
    }

    fn lost(&self, why: String) -> Trouble {
        Trouble::Lost(self.process.clone(), why)
    }

    fn lies(&self, why: String) -> Trouble {
        Trouble::Lies(self.process.clone(), why)
    }

    /// Asks it and holds it until what it has said is what it has. It is held when this returns.
    fn settle(&self) -> Result<(Held, Taken), Trouble> {
        let start = Instant::now();
        let mut settling = Settling::default();
        let mut facts = HashMap::new();
        let mut deadline = None;
        loop {
            settling.before_dump();
            let before = self.sockets()?;
            let told = self.dump()?;
            let mut why = None;
            let mut known = HashMap::new();
            for name in &told {
                let key = (name.clone(), before.get(&name.descriptor).copied());
                let found = match facts.remove(&key) {
                    Some(found) => Some(found),
                    None => self.facts(name)?,
                };
                // One that is gone by now is seen to be so when it is held.
                if let Some(found) = found {
                    known.insert(key, found);
                }
            }
            facts = known;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            for _ in 0..HOLDS {
                let held = Held::hold(self.process.pid)
                    .map_err(|error| Trouble::holding(self.process, &error))?;
                match self.look(&told, &before, &facts, &mut settling, start.elapsed())? {
                    Look::Settled(taken) => return Ok((held, taken)),
                    Look::Busy => {}
                    Look::Changed(what) => {
                        why = Some(what);
                        break;
                    }
                }
                drop(held);
                if Instant::now() >= deadline {
                    break;
                }
                sleep(GOES_ON);
            }
            if Instant::now() >= deadline {
                let why = why.unwrap_or_else(|| "it is in the middle of a request".to_owned());
                let text = format!(
                    "for {} s it has not been as it says, and the last time {why}",
                    PATIENCE.as_secs()
                );
                return Err(Trouble::Lost(self.process.clone(), text));
            }
        }
    }

    /// Its names, newest first.
    fn dump(&self) -> Result<Vec<Told>, Trouble> {
        let silent = |why: String| Trouble::Lost(self.process.clone(), why);
        let bytes = ask::dump(self.place)
            .map_err(|error| silent(format!("it does not answer a dump: {error}")))?;
        let dump = wire::decode_dump(&bytes)
            .ok_or_else(|| silent("its answer to a dump is none".to_owned()))?;
        if dump.port != u32::from(self.port) {
            return Err(self.lies(format!(
                "it says that its port is {}, and it is {}",
                dump.port, self.port
            )));
        }
        let mut seen = HashSet::new();
        for active in &dump.active {
            if !seen.insert(active.descriptor) {
                return Err(self.lies(format!(
                    "descriptor {} is to hold \"{}\" and another name",
                    active.descriptor,
                    escape_name(active.name)
                )));
            }
        }
        let told = dump.active.iter().map(|active| Told {
            name: active.name.into(),
            port: active.port,
            descriptor: active.descriptor,
        });
        Ok(told.collect())
    }

    fn facts(&self, name: &Told) -> Result<Option<Facts>, Trouble> {
        ask::facts(self.place, &name.name, name.port).map_err(|error| {
            let name = escape_name(&name.name);
            let text = format!("it does not answer a lookup of \"{name}\": {error}");
            Trouble::Lost(self.process.clone(), text)
        })
    }

    fn changed(&self, name: &Told) -> String {
        format!(
            "\"{}\" was not what its dump had said",
            escape_name(&name.name)
        )
    }

    /// Looks at it while it is held.
    fn look(
        &self,
        told: &[Told],
        before: &Sockets,
        facts: &HashMap<(Told, Option<u64>), Facts>,
        settling: &mut Settling,
        time: Duration,
    ) -> Result<Look, Trouble> {
        let now = self.sockets()?;
        let mut names: HashSet<RawFd> = HashSet::new();
        let mut there = Vec::new();
        for name in told {
            match settle::holder_of(name.descriptor, before, &now) {
                // Its connection is closed, and the name with it.
                Holds::Gone => {}
                Holds::Same => {
                    names.insert(name.descriptor);
                    there.push(name);
                }
                Holds::Unclear => return Ok(Look::Changed(self.changed(name))),
            }
        }
        let mut taken = Taken::default();
        let (mut busy, mut new) = (false, false);
        for (&number, &inode) in now.iter().filter(|(number, _)| !names.contains(number)) {
            let copy = self.copy(number)?;
            match socket::kind(&copy) {
                Kind::Listener(address) if address.port() == self.port => {
                    taken.listeners.push(copy.into());
                }
                Kind::Connection(address, progress) if address.port() == self.port => {
                    match settling.fate(inode, progress, time) {
                        Fate::Goes => taken.unasked.push(copy),
                        Fate::Left => {}
                        Fate::Busy => busy = true,
                        Fate::New => new = true,
                    }
                }
                _ => {}
            }
        }
        if new {
            return Ok(Look::Changed("a name was new".to_owned()));
        }
        if busy {
            return Ok(Look::Busy);
        }
        for name in there.into_iter().rev() {
            let connection = self.copy(name.descriptor)?;
            let is_here = |kind| matches!(kind, Kind::Connection(a, _) if a.port() == self.port);
            if !is_here(socket::kind(&connection)) {
                return Err(self.lies(format!(
                    "descriptor {}, which is to hold \"{}\", is no connection to port {}",
                    name.descriptor,
                    escape_name(&name.name),
                    self.port
                )));
            }
            let key = (name.clone(), before.get(&name.descriptor).copied());
            let Some(facts) = facts.get(&key).cloned() else {
                return Ok(Look::Changed(self.changed(name)));
            };
            taken.names.push(TakenName {
                name: name.name.clone(),
                facts,
                connection,
            });
        }
        Ok(Look::Settled(taken))
    }
}
