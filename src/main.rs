//! `epmd`: the daemon and its client commands, by one name, as stock's.
//!
//! Takes the command line apart and starts what it asks for; everything else is the library's.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hardened_epmd::config::{self, Command, Invocation, Mode, Settings, Snapshot, Sources};
use hardened_epmd::core::status::CONTROL_SOCKET;
use hardened_epmd::core::wire::Request;
use hardened_epmd::daemon::listen::{self, Bound, ListenError};
use hardened_epmd::daemon::log::{Level, Log};
use hardened_epmd::daemon::server::{self, Keeping, Start, budget};
use hardened_epmd::daemon::systemd::inherited::{self, Inherited};
use hardened_epmd::daemon::systemd::store::Store;
use hardened_epmd::daemon::systemd::{self, KeptSettings, Notifier};
use hardened_epmd::exit::{Exit, complain, print};
use hardened_epmd::sys;
use hardened_epmd::tools::client;
use hardened_epmd::tools::control;
use hardened_epmd::tools::doctor;
use hardened_epmd::tools::refused;

/// How long a service waits for a port that somebody else holds.
const PATIENCE_WITH_A_HOLDER: Duration = Duration::from_secs(5);
/// How long it waits between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run().into()
}

fn run() -> Exit {
    let Invocation { command, sources } =
        match Invocation::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
            Ok(invocation) => invocation,
            Err(error) => {
                complain(&error);
                return error.exit();
            }
        };
    match command {
        Command::Run(mode) => daemon(mode, sources),
        Command::CheckConfig => match load(&sources) {
            Ok(settings) => print(&config::show(&settings)),
            Err(exit) => exit,
        },
        Command::Doctor { targets, json } => doctor::run(&sources, &targets, json),
        Command::Names => ask(&sources, |port| client::list(port, &Request::List)),
        Command::Dump => ask(&sources, |port| client::list(port, &Request::Dump)),
        Command::Kill => ask(&sources, client::kill),
        Command::Stop(name) => ask(&sources, |port| client::stop(port, &name)),
        Command::Started => match sources.client_port() {
            Ok((port, _)) => client::started(port),
            Err(_) => Exit::Failure,
        },
        Command::Status { json } => control::status(json),
        Command::Refused { since, json } => refused::run(since.as_deref(), json),
        Command::Help => print(&config::help()),
        Command::Version => print(&config::version()),
    }
}

/// Runs a client command against the local epmd.
fn ask(sources: &Sources, command: impl FnOnce(u16) -> Exit) -> Exit {
    match sources.client_port() {
        Ok((port, warning)) => {
            if let Some(warning) = warning {
                complain(warning);
            }
            command(port)
        }
        Err(errors) => {
            complain(errors);
            Exit::Config
        }
    }
}

fn load(sources: &Sources) -> Result<Settings, Exit> {
    sources.load().map_err(|errors| {
        complain(errors);
        Exit::Config
    })
}

/// Starts the daemon. All that can fail comes before it detaches, so that who started it hears of it.
fn daemon(mode: Mode, sources: Sources) -> Exit {
    match try_daemon(mode, sources) {
        Ok(()) => Exit::Success,
        Err(exit) => exit,
    }
}

fn try_daemon(mode: Mode, sources: Sources) -> Result<(), Exit> {
    let mut inherited = None;
    match mode {
        Mode::Foreground => {}
        Mode::Daemon => {
            if let Err(error) = sys::close_inherited() {
                complain(format_args!(
                    "epmd: can't close inherited descriptors: {error}"
                ));
            }
        }
        Mode::Systemd => inherited = Some(inherit()?),
    }
    let descriptors = budget::raise_descriptor_limit();
    let mut loaded = settings(&sources, inherited.as_ref())?;
    let Bound {
        listeners,
        mut notes,
    } = sockets(mode, &mut loaded.settings, inherited.as_mut())?;
    if mode == Mode::Daemon
        && let Err(error) = nix::unistd::daemon(false, false)
    {
        complain(format_args!("epmd: can't detach: {error}"));
        return Err(Exit::Failure);
    }
    let Loaded {
        settings,
        snapshot,
        complaint,
    } = loaded;
    let kept = inherited.map(|inherited| keep(inherited, snapshot, &listeners, &mut notes));
    let log = Log::start(settings.audit.format, mode).map_err(|error| {
        complain(format_args!("epmd: can't start the log's thread: {error}"));
        Exit::Failure
    })?;
    let listening = listen::addresses(listeners.iter());
    log.note(
        Level::Info,
        format!("listening on {}", listening.join(", ")),
    );
    log.note(Level::Info, settings.whom_it_serves());
    for note in notes {
        log.note(Level::Warning, note);
    }
    if let Some(complaint) = &complaint {
        log.note(Level::Error, complaint.clone());
    }
    let start = Start {
        sources,
        settings,
        listeners,
        descriptors,
        log: log.clone(),
        notifier: Notifier::new(mode == Mode::Systemd),
        kept,
        control: control_socket(mode),
        complaint,
    };
    let result = server::run(start);
    if let Err(error) = &result {
        log.note(Level::Error, format!("can't go on: {error}"));
    }
    log.close();
    result.map_err(|_| Exit::Failure)
}

/// Where the control socket is to be: an epmd that erl starts inside an application's unit must not
/// take that unit's folder.
fn control_socket(mode: Mode) -> PathBuf {
    let own = match mode {
        Mode::Systemd => systemd::runtime_directory(),
        Mode::Foreground | Mode::Daemon => None,
    };
    own.map_or_else(
        || CONTROL_SOCKET.into(),
        |folder| folder.join("control.sock"),
    )
}

fn inherit() -> Result<Inherited, Exit> {
    inherited::inherit().map_err(|error| {
        complain(format_args!(
            "epmd: can't take over what systemd hands over: {error}"
        ));
        Exit::Failure
    })
}

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
fn settings(sources: &Sources, inherited: Option<&Inherited>) -> Result<Loaded, Exit> {
    let errors = match sources.load_and_keep() {
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
    let Some(inherited) = inherited.filter(|inherited| inherited.is_warm()) else {
        return Err(Exit::Config);
    };
    match inherited.settings_from_before() {
        Ok(settings) => {
            let complaint = Some(errors.not_in_force("the settings are wrong"));
            Ok(Loaded {
                settings,
                snapshot: None,
                complaint,
            })
        }
        Err(why) => {
            complain(format_args!(
                "epmd: the settings from before can't be had either: {why}"
            ));
            Err(Exit::Config)
        }
    }
}

/// Hands what is to outlive this process to systemd's store.
fn keep(
    inherited: Inherited,
    snapshot: Option<Snapshot>,
    listeners: &[TcpListener],
    notes: &mut Vec<String>,
) -> Keeping {
    notes.extend(inherited.notes);
    let (store, registrations) = Store::open(inherited.drawers, notes);
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
    if inherited.activated.is_empty() {
        for listener in listeners {
            failed("listening sockets", systemd::keep_listener(listener));
        }
    }
    Keeping {
        store,
        registrations,
        settings,
    }
}

/// The listening sockets: a socket unit's, where there is one, else our own, from before a restart as
/// far as they are what the settings say.
fn sockets(
    mode: Mode,
    settings: &mut Settings,
    inherited: Option<&mut Inherited>,
) -> Result<Bound, Exit> {
    let mut ours = Vec::new();
    if let Some(inherited) = inherited {
        ours = std::mem::take(&mut inherited.listeners);
        if !inherited.activated.is_empty() {
            systemd::give_up_listeners(ours);
            // They may listen on more than the operator asked for.
            settings.rules.served.clone_from(&settings.listen);
            let listeners = std::mem::take(&mut inherited.activated);
            return Ok(Bound {
                listeners,
                notes: Vec::new(),
            });
        }
    }
    let plan = listen::plan(settings.listen.as_deref());
    let (mut ours, others) = listen::in_plan(ours, &plan, settings.port);
    systemd::give_up_listeners(others);
    let deadline = Instant::now() + PATIENCE_WITH_A_HOLDER;
    loop {
        match listen::bind(&plan, settings.port, &ours) {
            Ok(mut bound) => {
                bound.listeners.append(&mut ours);
                return Ok(bound.with_own_queues());
            }
            // systemd would start it again at once, and again: rather wait here for the port.
            Err(ListenError::Taken(_)) if mode == Mode::Systemd && Instant::now() < deadline => {
                std::thread::sleep(TRY_AGAIN);
            }
            Err(ListenError::Taken(address)) => return Err(taken(mode, address)),
            Err(error) => {
                complain(format_args!("epmd: {error}"));
                return Err(Exit::Failure);
            }
        }
    }
}

/// The port is taken. By an epmd: then there is one, which is all that erl wants of `epmd -daemon`.
fn taken(mode: Mode, address: SocketAddr) -> Exit {
    let by_an_epmd = client::is_an_epmd(address);
    match (by_an_epmd, mode) {
        (true, Mode::Daemon) => Exit::Success,
        (true, Mode::Foreground) => {
            complain(format_args!(
                "epmd: an epmd is running on {address} already"
            ));
            Exit::Success
        }
        (true, Mode::Systemd) => {
            complain(format_args!(
                "epmd: an epmd is running on {address} already; stop it, so that this one can take its place"
            ));
            Exit::Failure
        }
        (false, _) => {
            complain(format_args!(
                "epmd: can't listen on {address}: another program has that port, and it does not answer as an epmd; \
                 stop it (`ss -ltnp 'sport = :{}'` shows it), or use -port",
                address.port()
            ));
            Exit::Failure
        }
    }
}
