//! `epmd`: the daemon and its client commands, by one name, as stock's.
//!
//! Takes the command line apart and starts what it asks for; everything else is the library's.

#![forbid(unsafe_code)]

use std::process::{self, ExitCode};
use std::thread;

use hardened_epmd::config::{self, Command, Invocation, Mode, Settings, Sources};
use hardened_epmd::core::wire::Request;
use hardened_epmd::daemon::lent::ToATool;
use hardened_epmd::daemon::sandbox::{self, FirstThread};
use hardened_epmd::daemon::takeover::{self, Force};
use hardened_epmd::daemon::{self, FromMain};
use hardened_epmd::exit::{Exit, complain, print};
use hardened_epmd::sys;
use hardened_epmd::tools::{client, control, doctor, guard, mesh, refused, watch};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};

/// A stack that is enough for everything; the kernel's limit is 8 MiB on most hosts.
const STACK: usize = 1024 * 1024;

fn main() -> ExitCode {
    // Asked here: how this program is linked is not told to the library.
    if cfg!(target_feature = "crt-static") {
        sys::use_own_name_services();
    }
    on_enough_stack(run).into()
}

/// Runs on this thread or, where its stack is limited to less than enough (`LimitSTACK=64K`), on one that
/// has its own.
fn on_enough_stack(run: fn(Option<FirstThread>) -> Exit) -> Exit {
    let enough = u64::try_from(STACK).unwrap_or(u64::MAX);
    match getrlimit(Resource::RLIMIT_STACK) {
        Ok((soft, _)) if soft < enough => {}
        _ => return run(None),
    }
    // Signals are that thread's, as if it were the only one.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let restore = move || {
        if let Ok(mask) = mask {
            let _ = mask.thread_set_mask();
        }
    };
    let (this_thread, jobs) = sandbox::first_thread();
    let thread = thread::Builder::new()
        .name("epmd".into())
        .stack_size(STACK)
        // It ends the process by itself: a daemon in the background has no other thread to do it.
        .spawn(move || {
            restore();
            process::exit(run(Some(this_thread)) as i32)
        });
    match thread {
        Ok(thread) => {
            // The daemon shuts this one in with itself. Neither comes to an end, unless by a panic.
            jobs.work();
            let _ = thread.join();
            Exit::Failure
        }
        Err(_) => {
            restore();
            run(None)
        }
    }
}

fn run(first_thread: Option<FirstThread>) -> Exit {
    let Invocation { command, sources } =
        match Invocation::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
            Ok(invocation) => invocation,
            Err(error) => {
                complain(&error);
                return error.exit();
            }
        };
    let lent = FromMain {
        ask: client::epmd_runs,
        first_thread,
    };
    match command {
        Command::Run(mode) => daemon::run(mode, sources, lent),
        Command::TakeOver { mode, force } => {
            let force = if force { Force::Yes } else { Force::No };
            match mode {
                Mode::Systemd => takeover::into_store(&sources, force),
                Mode::Daemon | Mode::Foreground => daemon::run_in_place(mode, sources, lent, force),
            }
        }
        Command::CheckConfig => match load(&sources) {
            Ok(settings) => print(&config::show(&settings)),
            Err(exit) => exit,
        },
        Command::Doctor {
            targets,
            over_ipv6,
            json,
        } => doctor::run(&sources, &targets, over_ipv6, json),
        Command::Mesh {
            targets,
            via,
            over_ipv6,
            json,
        } => mesh::run(sources, targets, via, over_ipv6, json),
        Command::Watch { mode, over_ipv6 } => watch::run(&sources, over_ipv6, |settings, page| {
            ToATool::start(settings, mode, "watch.metrics", |s| s.watch.metrics, page)
        }),
        Command::Names => ask(&sources, |port| client::list(port, &Request::List)),
        Command::Dump => ask(&sources, |port| client::list(port, &Request::Dump)),
        Command::Kill => ask(&sources, client::kill),
        Command::Stop(name) => ask(&sources, |port| client::stop(port, &name)),
        Command::Started => match sources.client_port() {
            Ok((port, _)) => client::started(port),
            Err(_) => Exit::Failure,
        },
        Command::Status { json } => control::status(&sources.control(), json),
        Command::Refused { since, json } => refused::run(since.as_deref(), json),
        Command::Guard(mode) => {
            guard::run(sources, |settings| ToATool::without_page(settings, mode))
        }
        Command::CheckGuard => guard::check(&sources),
        Command::PrintGuard => guard::print_rules(&sources),
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
