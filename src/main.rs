//! `epmd`: the daemon and its client commands, by one name, as stock's.
//!
//! Takes the command line apart and starts what it asks for; everything else is the library's.

#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use hardened_epmd::client;
use hardened_epmd::config::{self, Command, Invocation, Mode, Settings, Sources};
use hardened_epmd::exit::Exit;
use hardened_epmd::log::{Level, Log};
use hardened_epmd::server::listen::{self, Bound, ListenError};
use hardened_epmd::server::{self, Start, budget};
use hardened_epmd::sys;
use hardened_epmd::systemd::{self, Notifier};
use hardened_epmd::wire::Request;

fn main() -> ExitCode {
    run().into()
}

fn run() -> Exit {
    let Invocation { command, sources } =
        match Invocation::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
            Ok(invocation) => invocation,
            Err(error) => {
                eprintln!("{error}");
                return error.exit();
            }
        };
    match command {
        Command::Run(mode) => daemon(mode, sources),
        Command::CheckConfig => match load(&sources) {
            Ok(settings) => print(&config::show(&settings)),
            Err(exit) => exit,
        },
        Command::Names => ask(&sources, |port| client::list(port, &Request::List)),
        Command::Dump => ask(&sources, |port| client::list(port, &Request::Dump)),
        Command::Kill => ask(&sources, client::kill),
        Command::Stop(name) => ask(&sources, |port| client::stop(port, &name)),
        Command::Started => match sources.client_port() {
            Ok((port, _)) => client::started(port),
            Err(_) => Exit::Failure,
        },
        Command::Help => print(&config::help()),
        Command::Version => print(&config::version()),
    }
}

/// Prints a command's output, where anybody reads it.
fn print(text: &str) -> Exit {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}

/// Runs a client command against the local epmd.
fn ask(sources: &Sources, command: impl FnOnce(u16) -> Exit) -> Exit {
    match sources.client_port() {
        Ok((port, warning)) => {
            if let Some(warning) = warning {
                eprintln!("{warning}");
            }
            command(port)
        }
        Err(errors) => {
            eprintln!("{errors}");
            Exit::Config
        }
    }
}

fn load(sources: &Sources) -> Result<Settings, Exit> {
    sources.load().map_err(|errors| {
        eprintln!("{errors}");
        Exit::Config
    })
}

/// Starts the daemon. All that can fail comes before it detaches, so that who started it hears of it.
fn daemon(mode: Mode, sources: Sources) -> Exit {
    if mode == Mode::Daemon
        && let Err(error) = sys::close_inherited()
    {
        eprintln!("epmd: can't close inherited descriptors: {error}");
    }
    let mut settings = match load(&sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    let Bound { listeners, notes } = match sockets(mode, &mut settings) {
        Ok(bound) => bound,
        Err(exit) => return exit,
    };
    if mode == Mode::Daemon
        && let Err(error) = nix::unistd::daemon(false, false)
    {
        eprintln!("epmd: can't detach: {error}");
        return Exit::Failure;
    }
    let log = match Log::start(settings.audit.format, mode) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("epmd: can't start the log's thread: {error}");
            return Exit::Failure;
        }
    };
    let listening: Vec<String> = listeners.iter().filter_map(address).collect();
    log.note(
        Level::Info,
        format!("listening on {}", listening.join(", ")),
    );
    log.note(Level::Info, settings.whom_it_serves());
    for note in notes {
        log.note(Level::Warning, note);
    }
    let start = Start {
        sources,
        settings,
        listeners,
        descriptors: budget::raise_descriptor_limit(),
        log: log.clone(),
        notifier: Notifier::new(mode == Mode::Systemd),
    };
    let exit = match server::run(start) {
        Ok(()) => Exit::Success,
        Err(error) => {
            log.note(Level::Error, format!("can't go on: {error}"));
            Exit::Failure
        }
    };
    log.close();
    exit
}

fn address(listener: &TcpListener) -> Option<String> {
    listener.local_addr().ok().map(|a| a.to_string())
}

/// The listening sockets: systemd's, where it hands some over, else our own.
fn sockets(mode: Mode, settings: &mut Settings) -> Result<Bound, Exit> {
    if mode == Mode::Systemd {
        match systemd::sockets() {
            Ok(listeners) if listeners.is_empty() => {}
            Ok(listeners) => {
                // They may listen on more than the operator asked for.
                settings.rules.served.clone_from(&settings.listen);
                return Ok(Bound {
                    listeners,
                    notes: Vec::new(),
                });
            }
            Err(error) => {
                eprintln!("epmd: can't take over systemd's sockets: {error}");
                return Err(Exit::Failure);
            }
        }
    }
    let plan = listen::plan(settings.listen.as_deref());
    listen::bind(&plan, settings.port).map_err(|error| match error {
        ListenError::Taken(address) => taken(mode, address),
        error => {
            eprintln!("epmd: {error}");
            Exit::Failure
        }
    })
}

/// The port is taken. By an epmd: then there is one, which is all that erl wants of `epmd -daemon`.
fn taken(mode: Mode, address: SocketAddr) -> Exit {
    let by_an_epmd = client::is_an_epmd(address);
    match (by_an_epmd, mode) {
        (true, Mode::Daemon) => Exit::Success,
        (true, Mode::Foreground) => {
            eprintln!("epmd: an epmd is running on {address} already");
            Exit::Success
        }
        (true, Mode::Systemd) => {
            eprintln!(
                "epmd: an epmd is running on {address} already; stop it, so that this one can take its place"
            );
            Exit::Failure
        }
        (false, _) => {
            eprintln!(
                "epmd: can't listen on {address}: another program has that port, and it does not answer as an epmd; \
                 stop it (`ss -ltnp 'sport = :{}'` shows it), or use -port",
                address.port()
            );
            Exit::Failure
        }
    }
}
