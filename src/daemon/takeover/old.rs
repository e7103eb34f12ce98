//! An epmd whose place is taken: it is asked, held still, and copied, until what it has said is what it has.
//!
//! `take` is a takeover from its first question to the end of the old process; what has to be done in
//! between for the new one is the caller's, and so is what is said where it can't be. Called by `takeover`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ask::{self, Facts};
use super::hold::Held;
use super::holder::{self, Holder, Port, Process};
use super::settle::{self, Fate, Holds, Settling, Sockets};
use super::socket::{self, Kind};
use super::taken::{Taken, TakenName};
use super::trouble::Trouble;
use crate::core::audit::escape_name;
use crate::core::wire;
use crate::sys;

/// How long an epmd whose names come and go is asked again and again, once it has told all of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is held by one dump.
const HOLDS: usize = 16;
/// How long it goes on between two holds.
const GOES_ON: Duration = Duration::from_micros(300);

/// An epmd whose place is to be taken.
struct Old<'a> {
    process: &'a Process,
    descriptor: OwnedFd,
    place: SocketAddr,
    port: u16,
}

/// Takes everything of an epmd and ends it. `commit` comes when all is copied and it is held: where that
/// fails, it goes on.
pub(super) fn take(
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
