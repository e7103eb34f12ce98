//! The listening sockets at the start: handed over, from before a restart, another epmd's, or bound anew.
//!
//! `listen` binds; here it is decided what there is to bind, and what is said where the port is another's.
//! Called by `start`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::config::{Mode, Settings};
use crate::daemon::listen::holder::Holders;
use crate::daemon::listen::{self, Bound, ListenError};
use crate::daemon::server::Carried;
use crate::daemon::systemd::inherited::Inherited;
use crate::daemon::{systemd, takeover};
use crate::exit::{Exit, complain};

/// How long a service waits for a port that somebody else holds.
const PATIENCE_WITH_A_HOLDER: Duration = Duration::from_secs(5);
/// How long it waits between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Asks whether an epmd runs on a port of this host: at loopback, and then at these addresses, as far as
/// they are this host's own. The error says what came of it otherwise.
pub type Ask = fn(u16, &[IpAddr]) -> io::Result<()>;

/// The listening sockets: a socket unit's, where there is one, with loopback beside them; else our own,
/// from before a restart as far as they are what the settings say; others give way.
pub(super) fn sockets(
    mode: Mode,
    settings: &mut Settings,
    inherited: Option<&mut Inherited>,
    carried: &mut Carried,
    ask: Ask,
) -> Result<Bound, Exit> {
    let mut ours = Vec::new();
    if let Some(inherited) = inherited {
        ours = std::mem::take(&mut inherited.listeners);
        if inherited.is_taken_over() && !ours.is_empty() {
            // What another epmd listened on is served as it is, until the next start.
            return adopted(settings, ours);
        }
        let activated = std::mem::take(&mut inherited.activated);
        if !activated.is_empty() {
            // They may listen on more than the operator asked for.
            settings.rules.served = served(settings);
            let (bound, others) = listen::beside_activated(activated, ours, settings.port);
            systemd::give_up_listeners(&others);
            return Ok(bound);
        }
    }
    let plan = listen::plan(settings.listen.as_deref());
    let (mut ours, others) = listen::in_plan(ours, &plan, settings.port);
    if !others.is_empty() {
        let beside = listen::bind_beside(&others, &plan, settings.port, &ours);
        systemd::give_up_listeners(&others);
        if let Ok(mut bound) = beside {
            bound.listeners.append(&mut ours);
            listen::lead_past(&others);
            carried.leaving = others;
            return Ok(bound.with_own_queues(mode == Mode::Systemd));
        }
        // What is wrong with them shows when they are bound by themselves.
        carried.arrivals.extend(listen::empty(&others));
        drop(others);
    }
    let deadline = Instant::now() + PATIENCE_WITH_A_HOLDER;
    loop {
        match listen::bind(&plan, settings.port, &ours) {
            Ok(mut bound) => {
                bound.listeners.append(&mut ours);
                return Ok(bound.with_own_queues(mode == Mode::Systemd));
            }
            // systemd would start it again at once, and again: rather wait here for the port.
            Err(ListenError::Taken(_)) if mode == Mode::Systemd && Instant::now() < deadline => {
                std::thread::sleep(TRY_AGAIN);
            }
            Err(ListenError::Taken(address)) => return Err(taken(mode, address, ask)),
            Err(error) => {
                complain(format_args!("epmd: {error}"));
                return Err(Exit::Failure);
            }
        }
    }
}

/// Listening sockets that another epmd has made. They are served as they are, until the next start; they
/// may listen on more than the operator asked for.
pub(super) fn adopted(settings: &mut Settings, listeners: Vec<TcpListener>) -> Result<Bound, Exit> {
    settings.rules.served = served(settings);
    for listener in &listeners {
        listen::adopt(listener).map_err(|error| {
            complain(format_args!(
                "epmd: can't go on listening where another epmd did: {error}"
            ));
            Exit::Failure
        })?;
    }
    Ok(Bound {
        listeners,
        ..Bound::default()
    })
}

/// The only addresses that are served where sockets that others have made listen on more: those that we
/// would have listened on ourselves.
fn served(settings: &Settings) -> Option<Vec<IpAddr>> {
    let listen = settings.listen.as_deref()?;
    Some(listen::plan(Some(listen)))
}

/// The port is taken. By an epmd: then there is one, which is all that erl wants of `epmd -daemon`.
fn taken(mode: Mode, address: SocketAddr, ask: Ask) -> Exit {
    let holders = Holders::of(address.port());
    let Err(error) = ask(address.port(), &holders.listening()) else {
        return match mode {
            Mode::Daemon => Exit::Success,
            Mode::Foreground => {
                complain(format_args!(
                    "epmd: an epmd is running on {address} already"
                ));
                Exit::Success
            }
            Mode::Systemd => {
                complain(format_args!(
                    "epmd: an epmd is running on {address} already; {}",
                    takeover::remedy()
                ));
                Exit::Failure
            }
        };
    };
    let unlike_an_epmd = match error.kind() {
        ErrorKind::TimedOut => "no answer came in time".to_owned(),
        ErrorKind::UnexpectedEof => "it closes without an answer".to_owned(),
        ErrorKind::InvalidData => "its answer is none of an epmd's".to_owned(),
        _ => error.to_string(),
    };
    complain(format_args!(
        "epmd: can't listen on {address}: {}",
        holders.words(address, &unlike_an_epmd)
    ));
    Exit::Failure
}
