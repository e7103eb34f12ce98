//! `node@host`, as it stands on the command line.
//!
//! Takes it apart, and says whether its host has a short or a full name; it resolves nothing. Called
//! by `config` for the command line, and by the checks.

use std::fmt;

use crate::core::wire;

/// The most bytes of a host's name, as DNS has it.
const MAX_HOST: usize = 253;

/// A node, by its whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Before the `@`: what epmd knows.
    pub name: String,
    /// Behind it: what the resolver knows.
    pub host: String,
}

impl Target {
    /// Takes a node's whole name apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, host) = text
            .split_once('@')
            .ok_or("is no node; expected NAME@HOST")?;
        if wire::name_fault(name.as_bytes()).is_some() {
            return Err("has no name that a node can have before the @; expected NAME@HOST");
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '@';
        if host.is_empty() || host.len() > MAX_HOST || host.contains(odd) {
            return Err("has no host's name behind the @; expected NAME@HOST");
        }
        Ok(Self {
            name: name.to_owned(),
            host: host.to_owned(),
        })
    }

    /// Whether its host has a full name, which a node started with `-name` has. An address is one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.host.contains(['.', ':'])
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_taken_apart() {
        for (text, name, host, full) in [
            ("api@api.test", "api", "api.test", true),
            ("api@api", "api", "api", false),
            ("a@10.77.0.1", "a", "10.77.0.1", true),
            ("a@fd77::1", "a", "fd77::1", true),
            ("größe@h", "größe", "h", false),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((&*target.name, &*target.host), (name, host));
            assert_eq!(target.is_full(), full);
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_node() {
        let long = format!("a@{}", "h".repeat(MAX_HOST + 1));
        for text in [
            "api", "", "@", "@h", "a@", "a b@h", "a@h\n", "a@b@c", "a@h x", &long,
        ] {
            assert!(Target::parse(text).is_err(), "{text:?}");
        }
        assert!(Target::parse(&format!("a@{}", "h".repeat(MAX_HOST))).is_ok());
    }
}
