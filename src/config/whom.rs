//! Whom the daemon serves, in a line, and what about the settings deserves a warning.
//!
//! Settings in, words out. Said by the daemon at its start and after each reload, and by the doctor.

use std::fmt;

use super::coverage::World;
use super::diagnostic::{quote, show_path};
use super::said;
use super::settings::{DEFAULT_PORT, Settings};
use super::words::some_of;
use crate::core::access::Networks;
use crate::core::audit::Origin;

/// How many names of nodes are shown in a warning.
const MOST_NAMES: usize = 5;

/// What about settings that are right deserves a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Its kind: `epmd_serves_everyone`, `port_only_in_file` or `overridden`.
    pub code: &'static str,
    /// What is so, why it may not be meant, and what to do; one line.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Settings {
    /// Whom the daemon serves, in one line.
    #[must_use]
    pub fn whom_it_serves(&self) -> String {
        if !self.rules.enforce {
            return "serving lookups and lists to EVERYONE, because access.enforce is false; what it would \
                    refuse is logged"
                .to_owned();
        }
        let mut text = format!("serving {}", said::served(&self.rules.allow));
        match self.rules.nodes.len() {
            0 => {}
            1 => text.push_str(", and one name has a list of its own"),
            count => text.push_str(&format!(", and {count} names have lists of their own")),
        }
        let open = self.open_names();
        if !open.is_empty() {
            text.push_str(&format!("; nearly everyone may look up {}", names(&open)));
        }
        if let Some(list) = &self.rules.list {
            text.push_str(&format!("; all names are listed to {}", said::served(list)));
        }
        text
    }

    /// What deserves a word at the start, at a reload, and from the doctor: lists that take in nearly
    /// everybody, a port that nodes will not ask, and what is said in vain because something beats it.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        self.add_open_lists(&mut warnings);
        self.add_port(&mut warnings);
        self.add_beaten(&mut warnings);
        warnings
    }

    fn add_open_lists(&self, warnings: &mut Vec<Warning>) {
        // Where nothing but loopback is listened on, no stranger comes.
        let local = |listen: &Vec<_>| listen.iter().all(std::net::IpAddr::is_loopback);
        if self.listen.as_ref().is_some_and(local) {
            return;
        }
        let mut add = |what: String| {
            warnings.push(Warning {
                code: "epmd_serves_everyone",
                what,
            });
        };
        if !self.rules.enforce {
            add(
                "access.enforce is false: strangers may look up every name and list them all; set it to \
                 true once the log shows nobody who should be served"
                    .to_owned(),
            );
            return;
        }
        let instead = "give the networks of the cluster's hosts alone";
        let world = World::without(&self.rules.deny);
        let is_open = |list: &Networks| world.much_is_in(list);
        if is_open(&self.rules.allow) {
            let may = match &self.rules.list {
                None => "look up every name and list them all",
                Some(_) => "look up every name",
            };
            add(format!(
                "access.allow ({}) admits {}: strangers may {may}; {instead}",
                self.whose("access.allow"),
                said::networks(&self.rules.allow)
            ));
        }
        if let Some(list) = self.rules.list.as_ref().filter(|list| is_open(list)) {
            add(format!(
                "access.list ({}) admits {}: strangers may list all names; {instead}",
                self.whose("access.list"),
                said::networks(list)
            ));
        }
        let open = self.open_names();
        if !open.is_empty() {
            add(format!(
                "access.node ({}) admits nearly everyone: strangers may look up {}; {instead}",
                self.whose("access.node.NAME.allow"),
                names(&open)
            ));
        }
    }

    fn add_port(&self, warnings: &mut Vec<Warning>) {
        let only_in_file = self.places.of("port").origin() == Origin::File;
        let port = self.port;
        if only_in_file && port != DEFAULT_PORT && port != 0 {
            warnings.push(Warning {
                code: "port_only_in_file",
                what: format!(
                    "port is {port} ({}), and nodes don't read that: they ask at ERL_EPMD_PORT, else at \
                     {DEFAULT_PORT}; set ERL_EPMD_PORT={port} for epmd and for all nodes, or take port out \
                     of the file",
                    self.whose("port")
                ),
            });
        }
    }

    fn add_beaten(&self, warnings: &mut Vec<Warning>) {
        for (path, place) in self.places.iter() {
            let names = place.names(self.file.as_deref());
            let Some((counts, beaten)) = names.split_first().filter(|(_, b)| !b.is_empty()) else {
                continue;
            };
            warnings.push(Warning {
                code: "overridden",
                what: format!(
                    "{path} is what {counts} says; what {} says is not in force",
                    beaten.join(" and what ")
                ),
            });
        }
    }

    /// Who said a value.
    fn whose(&self, path: &str) -> String {
        let names = self.places.of(path).names(self.file.as_deref());
        names.into_iter().next().unwrap_or_else(|| {
            let file = self.file.as_deref();
            file.map_or_else(|| "default".to_owned(), show_path)
        })
    }

    /// The names whose own lists are open, in order.
    fn open_names(&self) -> Vec<String> {
        let world = World::without(&self.rules.deny);
        let nodes = self.rules.nodes.iter();
        let mut open: Vec<_> = nodes
            .filter(|(_, list)| world.much_is_in(list))
            .map(|(name, _)| quote(&String::from_utf8_lossy(name)))
            .collect();
        open.sort_unstable();
        open
    }
}

/// The first of some names, and how many more there are.
fn names(all: &[String]) -> String {
    some_of(all.iter().map(String::as_str), MOST_NAMES)
}
