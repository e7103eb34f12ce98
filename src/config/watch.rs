//! `[watch]`: which nodes are examined, how often, and where Prometheus may read what came of it.
//!
//! The section's values, their defaults and their types, for the table of keys. Read by `-watch`; the
//! daemon checks them with the rest of the file, and goes by none.

use std::net::SocketAddr;
use std::time::Duration;

use super::diagnostic::quote;
use super::mistakes::Mistakes;
use super::target::Target;
use super::types::{Type, Value, element_text, list};

/// Default of `watch.every`.
pub const DEFAULT_EVERY: Duration = Duration::from_secs(30);
/// A peer is not asked more often than this.
const LEAST_EVERY: Duration = Duration::from_secs(5);
/// Default of `watch.after`.
pub const DEFAULT_AFTER: usize = 2;
/// How many nodes may be watched.
pub const MOST_NODES: usize = 10_000;

/// `[watch]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The nodes, each once.
    pub nodes: Vec<Target>,
    /// How often each is examined.
    pub every: Every,
    /// How many rounds a verdict has to hold before it is told.
    pub after: usize,
    /// Where Prometheus may read the gauges; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            every: Every(DEFAULT_EVERY),
            after: DEFAULT_AFTER,
            metrics: None,
        }
    }
}

/// The time from one round to the next, 5 s at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub Duration);

impl Type for Every {
    const KIND: &'static str = "a duration from \"5s\" to \"1day\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let every = Duration::from_toml(path, value, mistakes)?;
        if every < LEAST_EVERY {
            mistakes.add(value.span().start, || {
                let shown = humantime::format_duration(every);
                format!("every is {shown}; expected {LEAST_EVERY:?} or more: each round asks each node's epmd")
            });
            return None;
        }
        Some(Self(every))
    }
}

/// Nodes, each once.
impl Type for Vec<Target> {
    const KIND: &'static str = "a list of nodes, NAME@HOST or NAME@HOST:PORT";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "api@api.test";
        let list = list(path, example, value, mistakes)?;
        if list.len() > MOST_NODES {
            mistakes.add(value.span().start, || {
                let count = list.len();
                format!("nodes has {count} elements; expected {MOST_NODES} at most")
            });
            return None;
        }
        let mut targets = Self::new();
        let mut seen = std::collections::HashSet::new();
        for element in list {
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match Target::parse(text) {
                Ok(target) => {
                    if seen.insert(target.to_string()) {
                        targets.push(target);
                    }
                }
                Err(what) => {
                    mistakes.add(element.span().start, || format!("{} {what}", quote(text)))
                }
            }
        }
        Some(targets)
    }
}
