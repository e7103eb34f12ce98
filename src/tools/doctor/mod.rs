//! `epmd -doctor`: why don't my nodes see each other, and what do I show the world?
//!
//! Examines this host and each `node@host` side by side, each step within [`LIMIT`], and reports. It
//! works with any epmd and from any host; all that it sends are lookups, lists and connects without a
//! byte. Called by `main`; `mesh` and `watch` examine by it as well.
//!
//! - `node`: one of them, step by step; `host`: this host, with `listens` (its epmd), `settings` (whom that
//!   serves), `name` (its own name) and `ports` (its nodes' ports).
//! - `address` and `ask`: resolving, connecting and asking, side by side.
//! - `kernel`: who listens where; `told`: what the running daemon tells; `in_force`: the settings.
//! - `judge`: what errors and bytes mean; `words` and `distribution`: how that is said.
//! - `report`: findings, as text and JSON; `progress`: what a terminal shows meanwhile.

pub(in crate::tools) mod address;
pub(in crate::tools) mod ask;
mod distribution;
mod host;
mod in_force;
mod judge;
mod kernel;
mod listens;
mod name;
pub(in crate::tools) mod node;
mod ports;
mod progress;
pub(in crate::tools) mod report;
mod settings;
mod told;
mod words;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use self::host::Host;
use self::in_force::InForce;
use self::node::How;
pub(in crate::tools) use self::progress::{PROGRESS, Progress};
use self::report::{Check, Code, Finding, NodeReport, Report};
use crate::config::{DEFAULT_PORT, Sources, Target};
use crate::exit::{Exit, complain, print};

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(2);
/// After this time without an answer over one family, the other is asked as well, so that both are done
/// in time.
const HEAD_START: Duration = Duration::from_secs(1);
/// The stack of the thread that does the work: a settings file may be nested.
pub(in crate::tools) const MAIN_STACK: usize = 2 * 1024 * 1024;
/// How many nodes are examined at once.
const AT_ONCE: usize = 64;

/// Runs the checks, and prints the report. IPv6 is asked first if `over_ipv6`.
#[must_use]
pub fn run(sources: &Sources, targets: &[Target], over_ipv6: bool, json: bool) -> Exit {
    // The main thread's stack is as large as RLIMIT_STACK lets it be.
    let act = || run_here(sources, targets, over_ipv6, json);
    thread::scope(|scope| {
        let made = thread::Builder::new().stack_size(MAIN_STACK);
        match made.spawn_scoped(scope, act) {
            Ok(made) => made.join().unwrap_or(Exit::Failure),
            Err(_) => act(),
        }
    })
}

fn run_here(sources: &Sources, targets: &[Target], over_ipv6: bool, json: bool) -> Exit {
    let progress = Progress::new("examined", targets.len() + 1);
    let report = match look(sources, targets, over_ipv6, progress) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    let text = match json {
        false => report.text(),
        true => match report.json() {
            Ok(text) => text,
            Err(error) => {
                complain(format_args!("epmd: {error}"));
                return Exit::Failure;
            }
        },
    };
    let printed = print(&text);
    if printed != Exit::Success || report.fails() {
        Exit::Failure
    } else {
        Exit::Success
    }
}

/// Examines this host and these nodes. `progress` counts this host as one of them.
///
/// # Errors
/// A mistake of the command line, which is told already.
pub(in crate::tools) fn look(
    sources: &Sources,
    targets: &[Target],
    over_ipv6: bool,
    progress: Progress,
) -> Result<Report, Exit> {
    let mut in_force = in_force(sources)?;
    in_force.needs_no_epmd =
        !targets.is_empty() && targets.iter().all(|target| target.port.is_some());
    Ok(examine(&in_force, targets, over_ipv6, progress))
}

/// Finds out by which settings this host's epmd goes. A mistake in the command line is one in the
/// question; in the environment or the file, it is a finding; a file that this user may not read is
/// neither.
fn in_force(sources: &Sources) -> Result<InForce, Exit> {
    let mut unreadable = None;
    let (loaded, broken) = match sources.load() {
        Ok(settings) => (Some(settings), None),
        Err(errors) => {
            if errors
                .iter()
                .any(|problem| problem.place().starts_with('-'))
            {
                complain(errors);
                return Err(Exit::Usage);
            }
            let count = errors.iter().count();
            unreadable = sources.kept_from_this_user().filter(|_| count == 1);
            let first = errors.iter().next().map(|first| first.headline());
            let broken = first.map(|first| (first, count.saturating_sub(1)));
            (None, broken.filter(|_| unreadable.is_none()))
        }
    };
    let port = sources.client_port().map_or(DEFAULT_PORT, |(port, _)| port);
    let (told, not_trusted) = match told::ask_the_daemon(&sources.control()) {
        Ok(told) => (told, None),
        Err(why) => (None, Some(why)),
    };
    // Who asks about another port asks about another epmd.
    let told = told.filter(|t| !sources.gives_port() || t.ports.contains(&port));
    let port = match &told {
        Some(told) if !told.ports.contains(&port) => told.settings.port,
        _ => port,
    };
    let only_in_file = loaded
        .as_ref()
        .filter(|s| !sources.gives_port() && s.port == port && port != DEFAULT_PORT)
        .and_then(|settings| Some((DEFAULT_PORT, settings.file.clone()?)));
    let settings = told.as_ref().map(|told| told.settings.clone()).or(loaded);
    Ok(InForce {
        port,
        settings,
        broken,
        unreadable,
        told,
        not_trusted,
        only_in_file,
        needs_no_epmd: false,
    })
}

/// One thing that is done.
enum Done {
    Host(Host),
    Node(usize, NodeReport),
}

/// Runs all checks side by side.
fn examine(in_force: &InForce, targets: &[Target], over_ipv6: bool, progress: Progress) -> Report {
    let how = How {
        port: in_force.port,
        over_ipv6,
        lists: true,
    };
    let next = AtomicUsize::new(0);
    // Worker 0 begins with this host; each takes nodes as long as there are any.
    let work = |worker: usize, done: Sender<Done>| {
        if worker == 0 {
            let _ = done.send(Done::Host(host::examine(in_force)));
        }
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = targets.get(index) else {
                return;
            };
            let _ = done.send(Done::Node(index, node::examine(target, how)));
        }
    };
    let (sender, receiver) = mpsc::channel();
    let work = &work;
    thread::scope(|scope| {
        for worker in 1..=targets.len().min(AT_ONCE) {
            let sender = sender.clone();
            // With fewer threads it takes longer, and that is all.
            let _ = ask::thread().spawn_scoped(scope, move || work(worker, sender));
        }
        let first = sender.clone();
        if ask::thread()
            .spawn_scoped(scope, || work(0, first))
            .is_err()
        {
            work(0, sender);
        } else {
            drop(sender);
        }
        collect(&receiver, targets, progress)
    })
}

/// Puts the results together as they come.
fn collect(results: &Receiver<Done>, targets: &[Target], mut progress: Progress) -> Report {
    let mut host = None;
    let mut nodes: Vec<Option<NodeReport>> = targets.iter().map(|_| None).collect();
    loop {
        match results.recv_timeout(PROGRESS) {
            Ok(Done::Host(seen)) => host = Some(seen),
            Ok(Done::Node(index, report)) => {
                if let Some(place) = nodes.get_mut(index) {
                    *place = Some(report);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let done = usize::from(host.is_some()) + nodes.iter().flatten().count();
        progress.show(done);
    }
    progress.clear();
    let Host {
        findings,
        nodes: local,
    } = host.unwrap_or(Host {
        findings: Vec::new(),
        nodes: Vec::new(),
    });
    let mut nodes: Vec<NodeReport> = nodes.into_iter().flatten().collect();
    for (report, (target, mixed)) in nodes
        .iter_mut()
        .zip(targets.iter().zip(mixed(targets, &local)))
    {
        if let Some(other) = mixed {
            let behind_resolve = report.checks.len().min(1);
            report
                .checks
                .insert(behind_resolve, short_name(target, &other));
        }
    }
    Report {
        host: findings,
        nodes,
    }
}

/// For each target, a node whose name is of the other kind, where the two kinds are mixed: a short one
/// stands out wherever there is a full one, a full one where this host's nodes have short ones.
fn mixed(targets: &[Target], local: &[(String, bool)]) -> Vec<Option<String>> {
    let local_of = |full: bool| {
        local
            .iter()
            .find(|(_, f)| *f == full)
            .map(|(name, _)| format!("\"{name}\" of this host"))
    };
    targets
        .iter()
        .map(
            |target| match (target.is_full(), local_of(true), local_of(false)) {
                (false, Some(full), _) => Some(full),
                (false, None, _) => targets
                    .iter()
                    .find(|t| t.is_full())
                    .map(ToString::to_string),
                (true, None, short) => short,
                (true, Some(_), _) => None,
            },
        )
        .collect()
}

fn short_name(target: &Target, other: &str) -> Finding {
    let (own, others) = match target.is_full() {
        true => ("full", "short"),
        false => ("short", "full"),
    };
    Finding::warn(
        Check::Resolve,
        Code::ShortName,
        format!(
            "{} is a {own} host name, and {other} has a {others} one: nodes of the two kinds refuse each other",
            target.host,
        ),
        "Start all nodes with -name and full names (NAME@HOST.DOMAIN), or all with -sname and short ones.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_names_are_told_of_the_ones_that_stand_out() {
        let targets: Vec<_> = ["a@api", "b@api.test"]
            .map(|t| Target::parse(t).unwrap())
            .into();
        let other = |targets: &[Target], local: &[(&str, bool)]| {
            let local: Vec<_> = local.iter().map(|(n, f)| ((*n).to_owned(), *f)).collect();
            mixed(targets, &local)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(other(&targets, &[]), [some("b@api.test"), None]);
        assert_eq!(other(&targets[..1], &[]), [None]);
        assert_eq!(other(&targets[1..], &[]), [None]);
        assert_eq!(
            other(&targets[..1], &[("x", true)]),
            [some("\"x\" of this host")]
        );
        assert_eq!(other(&targets[..1], &[("x", false)]), [None]);
        assert_eq!(
            other(&targets[1..], &[("x", false)]),
            [some("\"x\" of this host")]
        );
        assert_eq!(other(&targets[1..], &[("x", false), ("y", true)]), [None]);
    }
}
