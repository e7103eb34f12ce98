//! `epmd -watch`: the doctor's examination of the nodes in `watch.nodes`, again and again.
//!
//! Tells once when a node can't be reached any more and why, and once when it can again (`rounds`); what each
//! round found is Prometheus' to read (`gauges`). It binds nothing but the exporter's address, and sends what
//! the doctor sends, but for lists: a lookup and a connect each round. The log, the exporter and the word to
//! systemd are lent by `main`, which calls this.
//!
//! One thread, the caller's, keeps the time and hears signals; a bounded number of others examine.

mod gauges;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::gauges::Gauges;
use self::rounds::{News, Standing};
use super::doctor::ask::thread;
use super::doctor::node::{self, How};
use super::doctor::report::NodeReport;
use super::signals::{Signal, Signals};
use crate::config::{DEFAULT_FILE, Settings, Sources, Target, Watch};
use crate::core::audit::escape;
use crate::core::lent::{Lent, Level, Page, Reach};
use crate::exit::{Exit, complain};
use crate::sys;

/// How many nodes are examined at once.
const AT_ONCE: usize = 32;
/// The first round of all nodes is spread over this time, or over that of a round where that is less.
const FIRST_ROUND: Duration = Duration::from_secs(5);
/// By so many hundredths of it at most, a round begins earlier or later than the time between two says: hosts
/// that are started together don't stay in step.
const SPREAD: u64 = 10;
/// The longest time without a look at the clock.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Watches until a signal ends it. `lend` is what lends the rest of it, once signals are held back; it is
/// given what Prometheus is to read. IPv6 is asked first if `over_ipv6`.
#[must_use]
pub fn run<L: Lent<Settings> + 'static>(
    sources: &Sources,
    over_ipv6: bool,
    lend: impl FnOnce(&Settings, Page) -> L,
) -> Exit {
    let signals = match hold_back() {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("epmd: can't hold signals back: {error}"));
            return Exit::Failure;
        }
    };
    let settings = match sources.load() {
        Ok(settings) => settings,
        Err(errors) => {
            complain(errors);
            return Exit::Config;
        }
    };
    if let Err(what) = something_to_watch(&settings) {
        complain(format_args!("epmd: {what}"));
        return Exit::Config;
    }
    let gauges = match Gauges::new() {
        Ok(gauges) => gauges,
        Err(error) => {
            complain(format_args!("epmd: {error}"));
            return Exit::Failure;
        }
    };
    let read = gauges.clone();
    let page: Page = Arc::new(move || read.text());
    let shared = Arc::new(Shared {
        lent: Box::new(lend(&settings, page)),
        gauges,
        begun: Instant::now(),
        nodes: Mutex::default(),
    });
    let mut watching = Watching::new(Arc::clone(&shared), over_ipv6);
    let status = watching.follow(&settings);
    if watching.workers == 0 {
        shared
            .lent
            .note(Level::Error, "no thread can be had to examine nodes; raise the limit of processes (TasksMax=, ulimit -u) or of memory".to_owned());
        shared.lent.close();
        return Exit::Failure;
    }
    shared.lent.ready(&status);
    watching.until_the_end(sources, &signals);
    shared.lent.close();
    Exit::Success
}

/// The signals that steer it. A SIGHUP or SIGTERM that was ignored is heeded all the same, as the daemon does.
fn hold_back() -> std::io::Result<Signals> {
    sys::set_ignored(Signal::SIGHUP, false)?;
    sys::set_ignored(Signal::SIGTERM, false)?;
    Signals::hold_back(&[Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT])
}

/// Whether the settings name a node.
fn something_to_watch(settings: &Settings) -> Result<(), String> {
    if !settings.watch.nodes.is_empty() {
        return Ok(());
    }
    let file = settings
        .file
        .as_ref()
        .map(|file| file.display().to_string());
    let file = file.unwrap_or_else(|| DEFAULT_FILE.to_owned());
    Err(format!(
        "watch.nodes is empty, so there is nothing to watch; name the cluster's nodes in {file}:\n  \
         [watch]\n  nodes = [\"NAME@HOST\"]"
    ))
}

/// What all threads see.
struct Shared {
    lent: Box<dyn Lent<Settings>>,
    gauges: Gauges,
    begun: Instant,
    /// By their whole names, escaped.
    nodes: Mutex<BTreeMap<String, Watched>>,
}

/// A node that is watched.
struct Watched {
    target: Target,
    /// When it is examined next.
    due: Instant,
    /// It waits for a thread, or is being examined.
    begun: bool,
    standing: Standing,
    /// The verdict of its last round.
    verdict: Option<String>,
}

/// A node to be examined.
struct Work {
    label: String,
    target: Target,
    how: How,
    after: usize,
}

/// The thread that keeps the time.
struct Watching {
    shared: Arc<Shared>,
    settings: Watch,
    how: How,
    work: Sender<Work>,
    queue: Arc<Mutex<Receiver<Work>>>,
    workers: usize,
    /// It was told that rounds take longer than they may.
    told_late: bool,
}

impl Watching {
    fn new(shared: Arc<Shared>, over_ipv6: bool) -> Self {
        let (work, queue) = mpsc::channel();
        Self {
            shared,
            settings: Watch::default(),
            how: How {
                port: 0,
                over_ipv6,
                // Each would stand in the peer's audit, every round.
                lists: false,
            },
            work,
            queue: Arc::new(Mutex::new(queue)),
            workers: 0,
            told_late: false,
        }
    }

    /// Goes by these settings from now on; says what that means. A node that stays keeps what is known of it.
    fn follow(&mut self, settings: &Settings) -> String {
        let shared = Arc::clone(&self.shared);
        shared.lent.follow(settings);
        self.settings = settings.watch.clone();
        self.how.port = settings.port;
        let now = Instant::now();
        let first_round = FIRST_ROUND.min(self.settings.every.0);
        {
            let mut nodes = shared.nodes();
            let mut wanted = BTreeSet::new();
            for target in &self.settings.nodes {
                let label = escape(target.to_string().as_bytes());
                nodes.entry(label.clone()).or_insert_with(|| Watched {
                    target: target.clone(),
                    due: now + first_round.mul_f64(fraction()),
                    begun: false,
                    standing: Standing::new(),
                    verdict: None,
                });
                wanted.insert(label);
            }
            nodes.retain(|label, node| {
                let stays = wanted.contains(label);
                if let (false, Some(verdict)) = (stays, &node.verdict) {
                    shared.gauges.forget(label, verdict);
                }
                stays
            });
            // The time between two rounds may be less than it was.
            let latest = now + longest(self.settings.every.0);
            for node in nodes.values_mut() {
                node.due = node.due.min(latest);
            }
        }
        self.hire();
        self.told_late = false;
        let count = self.settings.nodes.len();
        let nodes = if count == 1 { "node" } else { "nodes" };
        let every = humantime::format_duration(self.settings.every.0);
        let after = self.settings.after;
        let rounds = if after == 1 { "round" } else { "rounds" };
        let status = format!(
            "watching {count} {nodes} every {every}; a change is told after {after} {rounds}"
        );
        shared.lent.note(Level::Info, status.clone());
        status
    }

    /// Has as many threads as are of use. With fewer, rounds take longer, and that is said.
    fn hire(&mut self) {
        while self.workers < self.settings.nodes.len().min(AT_ONCE) {
            let (shared, queue) = (Arc::clone(&self.shared), Arc::clone(&self.queue));
            let work = move || {
                loop {
                    let work = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(work) = work else { return };
                    shared.examine(work);
                }
            };
            if thread().spawn(work).is_err() {
                return;
            }
            self.workers += 1;
        }
    }

    /// Begins what is due, until a signal ends it.
    fn until_the_end(&mut self, sources: &Sources, signals: &Signals) {
        let watchdog = self.shared.lent.watchdog();
        let mut alive = Instant::now();
        loop {
            if watchdog.is_some_and(|every| alive.elapsed() >= every) {
                self.shared.lent.alive();
                alive = Instant::now();
            }
            let due = self.begin_what_is_due();
            let now = Instant::now();
            let mut rest = due.saturating_duration_since(now).min(LONGEST_REST);
            if let Some(every) = watchdog {
                rest = rest.min((alive + every).saturating_duration_since(now));
            }
            // A millisecond more than nothing, which it would round a part of one to.
            match signals.next(rest + Duration::from_millis(1)) {
                Some(Signal::SIGHUP) => self.reload(sources),
                Some(_) => return,
                None => {}
            }
        }
    }

    /// Hands the nodes that are due to the threads; gives when the next one is.
    fn begin_what_is_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut late = false;
        let mut next = now + LONGEST_REST;
        for (label, node) in self.shared.nodes().iter_mut() {
            if node.due <= now {
                // One that has not been examined since its last turn misses this one.
                late |= node.begun;
                if !node.begun {
                    node.begun = true;
                    // The threads are there as long as this is.
                    let _ = self.work.send(Work {
                        label: label.clone(),
                        target: node.target.clone(),
                        how: self.how,
                        after: self.settings.after,
                    });
                }
                let turn = spread(self.settings.every.0, fraction());
                node.due = (node.due + turn).max(now + turn / 2);
            }
            next = next.min(node.due);
        }
        if late && !self.told_late {
            self.told_late = true;
            let text = "rounds take longer than watch.every: nodes are examined less often; raise it, or watch fewer nodes here";
            self.shared.lent.note(Level::Warning, text.to_owned());
        }
        next
    }

    /// Reads the settings again. Bad ones are told, and those from before stay.
    fn reload(&mut self, sources: &Sources) {
        let shared = Arc::clone(&self.shared);
        shared.lent.reloading();
        let wrong = match sources.load() {
            Err(errors) => {
                shared.lent.note(Level::Error, errors.to_string());
                errors.not_in_force("not reloaded")
            }
            Ok(settings) => match something_to_watch(&settings) {
                Ok(()) => {
                    let status = self.follow(&settings);
                    return shared.lent.ready(&status);
                }
                Err(what) => format!("not reloaded, the nodes from before are watched: {what}"),
            },
        };
        shared.lent.note(Level::Error, wrong.clone());
        shared.lent.ready(&wrong);
    }
}

impl Shared {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One node's round.
    fn examine(&self, work: Work) {
        let begun = Instant::now();
        let report = node::examine(&work.target, work.how);
        let took = begun.elapsed();
        let verdict = report.verdict.to_string();
        let news = {
            let mut nodes = self.nodes();
            // The settings may have been read again meanwhile.
            let Some(node) = nodes.get_mut(&work.label) else {
                return;
            };
            node.begun = false;
            let before = node.verdict.replace(verdict.clone());
            let reachable = report.verdict.is_reachable();
            self.gauges
                .round(&work.label, before.as_deref(), &verdict, reachable, took);
            let now = self.begun.elapsed();
            node.standing.round(&verdict, work.after, now)
        };
        if let Some(news) = news {
            self.lent.tell(told(news, work.label, verdict, &report));
        }
    }
}

/// The line that tells it.
fn told(news: News, node: String, verdict: String, report: &NodeReport) -> Reach {
    let finding = report.verdicts_finding();
    let said = finding.map_or("", |finding| &finding.message);
    let message = match news {
        News::Unreachable => format!("{node} can't be reached ({verdict}): {said}"),
        News::Reachable(after) => {
            let after = humantime::format_duration(Duration::from_secs(after.as_secs()));
            format!("{node} can be reached again, after {after}: {said}")
        }
    };
    Reach {
        peer: report.address.map(|address| address.to_string()),
        remedy: match news {
            News::Unreachable => finding.and_then(|finding| finding.remedy.clone()),
            News::Reachable(_) => None,
        },
        node,
        verdict,
        message,
    }
}

/// The longest time between two rounds of a node.
fn longest(every: Duration) -> Duration {
    spread(every, 1.0)
}

/// The time between two rounds: `every`, a little more or less; `fraction` from 0 to 1.
fn spread(every: Duration, fraction: f64) -> Duration {
    let least = every / 100 * u32::try_from(100 - SPREAD).unwrap_or(100);
    least + (every - least).mul_f64(2.0 * fraction)
}

/// A random number from 0 to 1: whatever the hosts are like, they don't agree on it.
fn fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_around_their_time() {
        let every = Duration::from_secs(30);
        assert_eq!(spread(every, 0.0), Duration::from_secs(27));
        assert_eq!(spread(every, 0.5), every);
        assert_eq!(longest(every), Duration::from_secs(33));
        let fractions: BTreeSet<u64> = (0..100).map(|_| (fraction() * 1e9) as u64).collect();
        assert!(fractions.len() > 90, "{fractions:?}");
        assert!(fractions.iter().all(|f| *f <= 1_000_000_000));
    }
}
