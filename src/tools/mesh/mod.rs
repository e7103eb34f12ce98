//! `epmd -doctor -mesh`: who can't reach whom, from every host of the cluster at once.
//!
//! Has the doctor of each host examine all nodes, this host's by itself, the others' by a command (`-via`),
//! and puts what they say into one table, with the culprit of what fails named first: a pair, a target, a
//! source. What other hosts answer is taken for strangers' words. Called by `main`.
//!
//! - `hosts`: which hosts the nodes are on, and which of them is this one.
//! - `ask`: a command, run to its end in bounded time and memory; `told`: what its output means.
//! - `cells`: what the table holds.
//! - `conclude`: what fails for whom, and whose fault it is; `table`: how it is shown.

mod ask;
mod cells;
mod conclude;
mod hosts;
mod table;
mod told;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use self::ask::Commands;
use self::cells::{Row, Unasked};
use self::hosts::Host;
use self::table::Table;
use super::doctor::{self, MAIN_STACK, Progress, ask::thread as small_thread};
use super::signals::{Signal, Signals};
use crate::config::{Sources, Target, Template};
use crate::exit::{Exit, complain, print};

/// How many hosts are asked at once.
const AT_ONCE: usize = 16;
/// How long a host may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often signals and progress are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What is asked, and how.
struct Question {
    sources: Sources,
    targets: Vec<Target>,
    via: Template,
    over_ipv6: bool,
    /// The port that every epmd is asked at, where one was given.
    port: Option<u16>,
}

/// Asks, and prints the table and what follows from it.
#[must_use]
pub fn run(
    sources: Sources,
    targets: Vec<Target>,
    via: Template,
    over_ipv6: bool,
    json: bool,
) -> Exit {
    let port = match sources.gives_port().then(|| sources.client_port()) {
        None => None,
        Some(Ok((port, _))) => Some(port),
        Some(Err(errors)) => {
            complain(errors);
            return Exit::Usage;
        }
    };
    let ends = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    let signals = match Signals::hold_back(&ends) {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("epmd: can't hold signals back: {error}"));
            return Exit::Failure;
        }
    };
    let question = Question {
        sources,
        targets,
        via,
        over_ipv6,
        port,
    };
    let table = match ask_all(question, &signals) {
        Ok(table) => table,
        Err(signal) => {
            signals.die_of(signal);
            return Exit::Failure;
        }
    };
    let text = match json {
        false => Ok(table.text()),
        true => table.json(),
    };
    match text.map(|text| print(&text)) {
        Ok(Exit::Success) if !table.fails() => Exit::Success,
        Ok(_) => Exit::Failure,
        Err(error) => {
            complain(format_args!("epmd: {error}"));
            Exit::Failure
        }
    }
}

/// One host's answer.
type Said = (usize, Result<Row, Unasked>);

/// Asks every host. Threads are left behind where a signal ends it, which is the error: the process ends
/// with them.
fn ask_all(question: Question, signals: &Signals) -> Result<Table, Signal> {
    let hosts = hosts::find(&question.targets);
    let question = Arc::new(question);
    let commands = Arc::new(Commands::default());
    let (sender, answers) = mpsc::channel();
    start_asking(&question, &hosts, &commands, &sender);
    drop(sender);
    let mut progress = Progress::new("hosts asked", hosts.len());
    let rows = match collect(&answers, hosts.len(), signals, &mut progress) {
        Ok(rows) => rows,
        Err(signal) => {
            commands.end();
            progress.clear();
            return Err(signal);
        }
    };
    progress.clear();
    // The last handle, but for threads that are about to end.
    let targets = question.targets.clone();
    Ok(Table::new(targets, hosts, rows))
}

/// Starts as many threads as hosts are asked at once, and one for this host. Without threads it is done
/// here, one host after the other.
fn start_asking(
    question: &Arc<Question>,
    hosts: &[Host],
    commands: &Arc<Commands>,
    sender: &Sender<Said>,
) {
    if let Some(index) = hosts.iter().position(|host| host.is_this) {
        let (asked, answers) = (Arc::clone(question), sender.clone());
        let act = move || {
            let _ = answers.send((index, examine_here(&asked)));
        };
        let made = thread::Builder::new().stack_size(MAIN_STACK);
        if made.spawn(act.clone()).is_err() {
            act();
        }
    }
    let others: Arc<Vec<(usize, String)>> = Arc::new(
        hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| !host.is_this)
            .map(|(index, host)| (index, host.name.clone()))
            .collect(),
    );
    let next = Arc::new(AtomicUsize::new(0));
    let mut working = 0;
    for _ in 0..others.len().min(AT_ONCE) {
        let (question, commands) = (Arc::clone(question), Arc::clone(commands));
        let (others, next, sender) = (Arc::clone(&others), Arc::clone(&next), sender.clone());
        let work = move || {
            while let Some((index, host)) = others.get(next.fetch_add(1, Ordering::Relaxed)) {
                let _ = sender.send((*index, examine_there(&question, host, &commands)));
            }
        };
        if small_thread().spawn(work.clone()).is_ok() {
            working += 1;
        } else if working == 0 {
            work();
        }
    }
}

/// This host's answer: its doctor's, taken as another host's would be.
fn examine_here(question: &Question) -> Result<Row, Unasked> {
    let Question {
        sources, targets, ..
    } = question;
    let report = doctor::look(sources, targets, question.over_ipv6, Progress::silent());
    let json = match report {
        Ok(report) => report.json().map_err(|error| error.to_string()),
        Err(_) => Err("the command line is wrong".to_owned()),
    };
    json.and_then(|json| told::row(json.as_bytes(), targets))
        .map_err(|message| Unasked {
            message,
            remedy: None,
        })
}

/// Another host's answer.
fn examine_there(question: &Question, host: &str, commands: &Commands) -> Result<Row, Unasked> {
    let targets = &question.targets;
    let mut words = question.via.words(host);
    words.push("epmd".to_owned());
    if let Some(port) = question.port {
        words.extend(["-port".to_owned(), port.to_string()]);
    }
    words.extend(["-doctor".to_owned(), "-json".to_owned()]);
    if question.over_ipv6 {
        words.extend(["-proto_dist".to_owned(), "inet6_tcp".to_owned()]);
    }
    words.extend(targets.iter().map(ToString::to_string));
    let most = told::most_bytes(targets.len());
    let ran = commands.run(&words, most, Instant::now() + PATIENCE, PATIENCE);
    let row = match ran {
        Ok(ran) => told::row(&ran.output, targets).map_err(|what| told::why(&ran, &what)),
        Err(why) => Err(why),
    };
    row.map_err(|message| Unasked {
        message,
        remedy: Some(format!(
            "See what this says there:\n  {}",
            told::as_typed(&words)
        )),
    })
}

/// Puts the answers together as they come.
fn collect(
    answers: &Receiver<Said>,
    of: usize,
    signals: &Signals,
    progress: &mut Progress,
) -> Result<Vec<Result<Row, Unasked>>, Signal> {
    let mut rows: Vec<Option<Result<Row, Unasked>>> = (0..of).map(|_| None).collect();
    loop {
        match answers.recv_timeout(TICK) {
            Ok((index, row)) => {
                if let Some(place) = rows.get_mut(index) {
                    *place = Some(row);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(signal) = signals.next(Duration::ZERO) {
            return Err(signal);
        }
        progress.show(rows.iter().flatten().count());
    }
    let lost = || {
        Err(Unasked {
            message: "the thread that asked it ended".to_owned(),
            remedy: None,
        })
    };
    Ok(rows
        .into_iter()
        .map(|row| row.unwrap_or_else(lost))
        .collect())
}
