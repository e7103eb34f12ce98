//! Starting the daemon: settings, sockets, what is kept of an earlier process, the log; and then it serves.
//!
//! `run` reads from top to bottom. What went wrong is said on stderr, and an exit status tells which kind
//! it was. Called by `main`, which also lends the question whether a port's holder is an epmd (that is
//! the client's, and `daemon` knows no tools).

mod sockets;

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::control;
use super::detach::{self, Side};
use super::listen::{self, Bound};
use super::log::{self, Level, Log};
use super::sandbox::{FirstThread, Plan, Sandbox};
use super::server::budget::{self, Budget};
use super::server::whose::Eyes;
use super::server::{self, Carried, Keeping, Start, signals};
use super::systemd::inherited::{self, Inherited};
use super::systemd::store::{Room, Store};
use super::systemd::{self, KeptSettings, Notifier, notify};
use super::takeover::{self, Force, Taken};
use crate::config::{self, Control, Errors, Limits, Mode, Settings, Snapshot, Sources};
use crate::exit::{Exit, complain};
use crate::sys;
pub use sockets::Ask;
use sockets::{adopted, sockets};

/// What main lends.
#[derive(Debug)]
pub struct FromMain {
    /// The question whether an epmd runs.
    pub ask: Ask,
    /// The process's first thread, where this is another one.
    pub first_thread: Option<FirstThread>,
}

/// Starts the daemon, and returns when it has ended. In the background it lets go of who started it when
/// it serves, so that who started it hears of all that can fail before.
pub fn run(mode: Mode, sources: Sources, lent: FromMain) -> Exit {
    match start(mode, sources, lent, None) {
        Ok(()) => Exit::Success,
        Err(exit) => exit,
    }
}

/// As [`run`], in the place of the epmd that has the port, if one has it.
pub fn run_in_place(mode: Mode, sources: Sources, lent: FromMain, force: Force) -> Exit {
    match start(mode, sources, lent, Some(force)) {
        Ok(()) => Exit::Success,
        Err(exit) => exit,
    }
}

fn start(
    mode: Mode,
    mut sources: Sources,
    lent: FromMain,
    takeover: Option<Force>,
) -> Result<(), Exit> {
    let FromMain {
        ask,
        mut first_thread,
    } = lent;
    signals::prepare().map_err(|error| {
        complain(format_args!("epmd: can't set what signals do: {error}"));
        Exit::Failure
    })?;
    let mut inherited = match mode {
        Mode::Systemd => Some(inherit()?),
        Mode::Foreground | Mode::Daemon => None,
    };
    let descriptors = budget::raise_descriptor_limit();
    // Once: the file may be a pipe (`-config <(...)`).
    let read = sources.load_and_keep();
    // Each `erl -sname` does this: whoever runs it may have no right to read the settings, and where an
    // epmd runs already they are of no matter.
    if mode == Mode::Daemon && takeover.is_none() && runs_already(&read, &sources, ask) {
        return Ok(());
    }
    let mut loaded = settings(read, inherited.as_ref())?;
    let spent = sources.let_go();
    if mode == Mode::Daemon {
        // Not before the settings are read: their file may be one of these (`-config <(...)`).
        sys::close_inherited();
    }
    let eyes = Eyes::open(inherited.as_mut().and_then(|i| i.sock_diag.take()));
    if let Err(why) = eyes.can_go_by(&loaded.settings) {
        complain(format_args!("epmd: {why}"));
        let what = "the settings can't be gone by, those from before stay in force";
        loaded = from_before(inherited.as_ref(), format!("{what}: {why}"))?;
        eyes.can_go_by(&loaded.settings).map_err(|why| {
            complain(format_args!(
                "epmd: and those from before can't either: {why}"
            ));
            Exit::Config
        })?;
    }
    let taken = match takeover {
        Some(force) => takeover::in_process(&loaded.settings, force)?,
        None => None,
    };
    let mut tether = None;
    if mode == Mode::Daemon {
        match detach::detach()? {
            Side::Parent(Exit::Success) => return Ok(()),
            Side::Parent(exit) => return Err(exit),
            Side::Daemon(ours) => {
                tether = Some(ours);
                // That was the parent's.
                first_thread = None;
            }
        }
    }
    let (
        Bound {
            mut listeners,
            mut activated,
            notes,
        },
        carried,
    ) = match taken {
        Some(taken) => taken_over(&mut loaded.settings, taken)?,
        None => {
            let mut carried = Carried::default();
            if let Some(inherited) = &mut inherited {
                carried.arrivals = std::mem::take(&mut inherited.arrivals);
            }
            let inherited = inherited.as_mut();
            let bound = sockets(mode, &mut loaded.settings, inherited, &mut carried, ask)?;
            (bound, carried)
        }
    };
    let Loaded {
        settings,
        snapshot,
        complaint,
    } = loaded;
    let (mut notes, remarks) = notes.for_who_asked(settings.listen.as_deref());
    let room = Room {
        descriptors,
        connections: room_for_registrations(
            &settings.limits,
            descriptors,
            listeners.len().saturating_add(activated.len()),
        ),
    };
    let kept = inherited.map(|inherited| keep(inherited, snapshot, &listeners, room, &mut notes));
    let of_a_unit = activated.len();
    listeners.append(&mut activated);
    let lines = log::Destination::from(&settings.audit);
    if let Some(unwritten) = log::unwritten(&lines, mode) {
        complain(unwritten);
    }
    let early = log::early(&lines);
    signals::hold_back().map_err(|error| {
        complain(format_args!("epmd: can't hold signals back: {error}"));
        Exit::Failure
    })?;
    signals::see_orphans_off().map_err(|error| {
        complain(format_args!(
            "epmd: can't set what becomes of orphans: {error}"
        ));
        Exit::Failure
    })?;
    let control = control_socket(&settings.control, mode).map(|path| {
        let socket = control::bind(&path);
        (path, socket)
    });
    // What is opened and bound by name is open and bound, and there is no second thread yet.
    if settings.rules.names.ask_for_users() {
        config::users::prepare();
    }
    let (sandbox, of_the_sandbox) = if settings.no_sandbox {
        Sandbox::off()
    } else {
        let plan = Plan {
            settings: sources.path(),
            audit: settings.audit.file.clone(),
            is_service: mode == Mode::Systemd,
            metrics_port: settings.metrics.map(|address| address.port()),
            tells_an_abstract_socket: mode == Mode::Systemd && notify::is_abstract(),
        };
        Sandbox::shut_in(&plan, first_thread.as_ref())
    };
    let (log, wrong) = Log::start_holding(lines, mode, early);
    if let Some(wrong) = wrong.filter(|_| mode == Mode::Daemon) {
        // Else it has been said there.
        complain(format_args!("epmd: {wrong}"));
    }
    let listening = listen::addresses(listeners.iter());
    log.note(
        Level::Info,
        format!("listening on {}", listening.join(", ")),
    );
    log.note(Level::Info, settings.whom_it_serves());
    for warning in settings.warnings() {
        log.note(Level::Warning, warning.what);
    }
    for note in spent.into_iter().chain(notes) {
        log.note(Level::Warning, note);
    }
    for remark in remarks.into_iter().filter(|_| settings.debug > 0) {
        log.note(Level::Debug, remark);
    }
    for (level, note) in of_the_sandbox {
        log.note(level, note);
    }
    if let Some(complaint) = &complaint {
        log.note(Level::Error, complaint.clone());
    }
    let start = Start {
        sources,
        settings,
        listeners,
        of_a_unit,
        descriptors,
        log: log.clone(),
        notifier: Notifier::new(mode == Mode::Systemd),
        kept,
        carried,
        control,
        sandbox,
        complaint,
        tether,
        eyes,
    };
    let result = server::run(start);
    if let Err(error) = &result {
        log.note(Level::Error, format!("can't go on: {error}"));
        if mode == Mode::Daemon {
            // Who started it reads no log; once it has served, nobody reads this.
            complain(format_args!("epmd: can't go on: {error}"));
        }
    }
    log.close();
    result.map_err(|_| Exit::Failure)
}

/// The sockets, names and connections of the epmd whose place was taken. It has ended already.
fn taken_over(settings: &mut Settings, mut taken: Taken) -> Result<(Bound, Carried), Exit> {
    let carried = Carried {
        registrations: taken.registrations(),
        arrivals: taken.unasked,
        leaving: Vec::new(),
    };
    Ok((adopted(settings, taken.listeners)?, carried))
}

/// Where the control socket is to be, if anywhere: an epmd that erl starts inside an application's unit must
/// not take that unit's folder.
fn control_socket(control: &Control, mode: Mode) -> Option<PathBuf> {
    let own = match (control, mode) {
        (Control::Default, Mode::Systemd) => systemd::runtime_directory(),
        _ => None,
    };
    match own {
        Some(folder) => Some(folder.join("control.sock")),
        None => control.path().map(Path::to_owned),
    }
}

fn inherit() -> Result<Inherited, Exit> {
    inherited::inherit().map_err(|error| {
        complain(format_args!(
            "epmd: can't take over what systemd hands over: {error}"
        ));
        Exit::Failure
    })
}

/// What was read: settings, and what they can be made of again.
type Read = Result<(Settings, Snapshot), Errors>;

/// The settings in force.
struct Loaded {
    settings: Settings,
    /// What they can be made of again; absent where they are from before a restart themselves.
    snapshot: Option<Snapshot>,
    /// Why they are not those of the file, where they are not.
    complaint: Option<String>,
}

/// Loads the settings. Where the file is broken at a restart, those from before stay in force: a bad
/// file must not cost the registrations.
fn settings(read: Read, inherited: Option<&Inherited>) -> Result<Loaded, Exit> {
    let errors = match read {
        Ok((settings, snapshot)) => {
            return Ok(Loaded {
                settings,
                snapshot: Some(snapshot),
                complaint: None,
            });
        }
        Err(errors) => errors,
    };
    complain(&errors);
    from_before(inherited, errors.not_in_force("the settings are wrong"))
}

/// The settings from before a restart, where there are any, and why they are in force.
fn from_before(inherited: Option<&Inherited>, complaint: String) -> Result<Loaded, Exit> {
    let Some(inherited) = inherited.filter(|inherited| inherited.is_warm()) else {
        return Err(Exit::Config);
    };
    match inherited.settings_from_before() {
        Ok(settings) => Ok(Loaded {
            settings,
            snapshot: None,
            complaint: Some(complaint),
        }),
        Err(why) => {
            complain(format_args!(
                "epmd: the settings from before can't be had either: {why}"
            ));
            Err(Exit::Config)
        }
    }
}

/// How many registrations the descriptors are good for, whatever `limits.registrations` is now: who has a
/// name keeps it.
fn room_for_registrations(limits: &Limits, descriptors: usize, listeners: usize) -> usize {
    let limits = Limits {
        registrations: usize::MAX,
        ..limits.clone()
    };
    Budget::beside(&limits, descriptors, listeners, true).registrations
}

/// Hands what is to outlive this process to systemd's store.
fn keep(
    inherited: Inherited,
    snapshot: Option<Snapshot>,
    listeners: &[TcpListener],
    room: Room,
    notes: &mut Vec<String>,
) -> Keeping {
    notes.extend(inherited.notes);
    let manager = notify::manager().unwrap_or_else(|error| {
        notes.push(format!("registrations will not survive a restart: {error}"));
        None
    });
    let (store, registrations) = Store::open(manager, inherited.drawers, room, notes);
    let last = inherited
        .settings
        .last_key_value()
        .map_or(0, |(number, _)| *number);
    let mut settings = KeptSettings::new(last);
    let mut failed = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            notes.push(format!("can't keep the {what} for a restart: {error}"));
        }
    };
    if let Some(snapshot) = snapshot {
        failed("settings", settings.keep(&snapshot));
    }
    for listener in listeners {
        failed("listening sockets", systemd::keep_listener(listener));
    }
    Keeping {
        store,
        registrations,
        settings,
    }
}

/// Whether an epmd runs on the port already, in silence. Only loopback is asked: an address of the plan
/// may be another host's.
fn runs_already(read: &Read, sources: &Sources, ask: Ask) -> bool {
    let port = match read {
        Ok((settings, _)) => Some(settings.port),
        // What is wrong with the port is said where the settings are loaded.
        Err(_) => sources.client_port().ok().map(|(port, _)| port),
    };
    port.is_some_and(|port| port != 0 && ask(port, &[]).is_ok())
}
