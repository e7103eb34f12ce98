//! The file: TOML in, settings and all mistakes out.
//!
//! The parser goes on behind a mistake, and the walk over what it understood looks at every key, so
//! that one run tells everything. Each mistake has its place from the parser's spans. It opens no
//! file. Called by `sources`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::diagnostic::{Problem, Text, quote};
use super::nets::{self, ListenOn};
use super::{Audit, Format, Limits, Origin, Settings, keys, syntax, values};
use crate::core::access::Networks;

/// Digits of a number that are shown.
const MOST_DIGITS: usize = 40;

/// The most of anything that is counted: beyond it, a number is a slip.
pub(super) const MOST: usize = 1_048_576;
/// The longest node name, in characters.
const LONGEST_NAME: usize = 255;

type Value<'i> = Spanned<DeValue<'i>>;

/// Lays what the file says over `settings`. Gives the mistakes, from top to bottom; the settings are
/// then of no use but for what is known to be right.
pub(super) fn read_into(settings: &mut Settings, text: &Text) -> Vec<Problem> {
    let (mut table, mut errors) = DeTable::parse_recoverable(text.as_str());
    // The parser understands nothing behind a key without a value, so it gets another try.
    let rest = syntax::without_bare_keys(text, &errors);
    if let Some(rest) = &rest {
        let more;
        (table, more) = DeTable::parse_recoverable(rest);
        errors.extend(more);
    }
    let mut walk = Walk::default();
    walk.root(table.get_ref(), settings);
    text.problems(syntax::merge(text, &errors, walk.wrong))
}

/// A mistake in what the parser understood.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The byte where it begins.
    pub(super) at: usize,
    /// What is wrong, and what is expected.
    pub(super) what: String,
    /// It is about which keys stand in which table, and so of no worth behind a broken header.
    pub(super) about_keys: bool,
}

#[derive(Default)]
struct Walk {
    wrong: Vec<Wrong>,
}

impl Walk {
    fn root(&mut self, table: &DeTable<'_>, settings: &mut Settings) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "listen" => {
                    self.listen(value, &mut settings.listen);
                    settings.listen_from = Origin::File;
                }
                "port" => self.port(value, &mut settings.port),
                "access" => self.access(value, settings),
                "limits" => self.limits(value, &mut settings.limits),
                "audit" => self.audit(value, &mut settings.audit),
                "metrics" => self.metrics(value, &mut settings.metrics),
                _ => self.unknown(key, keys::ROOT),
            }
        }
    }

    fn access(&mut self, value: &Value<'_>, settings: &mut Settings) {
        let Some(table) = self.table("access", "[access]", value) else {
            return;
        };
        let rules = &mut settings.rules;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "allow" => {
                    set(&mut rules.allow, self.networks("allow", value));
                    settings.allow_from = Origin::File;
                }
                "deny" => set(&mut rules.deny, self.networks("deny", value)),
                "list" => set(&mut rules.list, self.networks("list", value).map(Some)),
                "enforce" => set(&mut rules.enforce, self.boolean("enforce", value)),
                "node" => self.nodes(value, &mut rules.nodes),
                _ => self.unknown(key, keys::ACCESS),
            }
        }
    }

    fn limits(&mut self, value: &Value<'_>, limits: &mut Limits) {
        let Some(table) = self.table("limits", "[limits]", value) else {
            return;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "connections" => set(&mut limits.connections, self.count("connections", value)),
                "per-source" => set(&mut limits.per_source, self.count("per-source", value)),
                "request-timeout" => set(
                    &mut limits.request_timeout,
                    self.duration("request-timeout", value),
                ),
                "registrations" => set(
                    &mut limits.registrations,
                    self.count("registrations", value),
                ),
                _ => self.unknown(key, keys::LIMITS),
            }
        }
    }

    fn audit(&mut self, value: &Value<'_>, audit: &mut Audit) {
        let Some(table) = self.table("audit", "[audit]", value) else {
            return;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "format" => set(&mut audit.format, self.format(value)),
                "window" => set(&mut audit.window, self.duration("window", value)),
                "lookups" => set(&mut audit.lookups, self.boolean("lookups", value)),
                _ => self.unknown(key, keys::AUDIT),
            }
        }
    }

    fn metrics(&mut self, value: &Value<'_>, listen: &mut Option<SocketAddr>) {
        let Some(table) = self.table("metrics", "[metrics]", value) else {
            return;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "listen" => set(listen, self.socket_address(value).map(Some)),
                _ => self.unknown(key, keys::METRICS),
            }
        }
    }

    /// `[access.node.*]`.
    fn nodes(&mut self, value: &Value<'_>, nodes: &mut HashMap<Box<[u8]>, Networks>) {
        let Some(table) = self.table("node", "[access.node.NAME]", value) else {
            return;
        };
        for (name, value) in table {
            if let Some(what) = wrong_name(name.get_ref()) {
                self.add(name.span().start, what);
            }
            let shown = quote(name.get_ref());
            let DeValue::Table(node) = value.get_ref() else {
                let what = format!(
                    "node {shown} is {}; expected a table with the key allow, such as \
                     [access.node.{}]",
                    keys::kind(value.get_ref()),
                    keys::bare_or_quoted(name.get_ref()),
                );
                self.add(value.span().start, what);
                continue;
            };
            let mut has_allow = false;
            for (key, value) in node {
                if key.get_ref() == "allow" {
                    has_allow = true;
                    if let Some(networks) = self.networks("allow", value) {
                        nodes.insert(name.get_ref().as_bytes().into(), networks);
                    }
                } else {
                    self.unknown(key, keys::NODE);
                }
            }
            if !has_allow {
                self.add_about_keys(
                    name.span().start,
                    format!(
                        "node {shown} has no allow; expected one, such as \
                         allow = [\"10.0.3.0/28\"], or [] for this host alone"
                    ),
                );
            }
        }
    }

    fn listen(&mut self, value: &Value<'_>, listen: &mut Option<Vec<IpAddr>>) {
        let Some(list) = self.list("listen", "10.0.3.5", value) else {
            return;
        };
        let mut addresses = Vec::new();
        let mut every = false;
        for element in list {
            let Some(text) = self.element("listen", "10.0.3.5", element) else {
                continue;
            };
            match nets::listen_on(text, "port = 4369") {
                Ok(ListenOn::Every) => every = true,
                Ok(ListenOn::One(address)) => addresses.push(address),
                Err(what) => self.add(element.span().start, what),
            }
        }
        *listen = (!every).then_some(addresses);
    }

    fn networks(&mut self, key: &str, value: &Value<'_>) -> Option<Networks> {
        let list = self.list(key, "10.0.3.0/24", value)?;
        let mut networks = Networks::default();
        for element in list {
            let Some(text) = self.element(key, "10.0.3.0/24", element) else {
                continue;
            };
            match nets::networks(text) {
                Ok(nets) => nets.into_iter().for_each(|n| networks.insert(n)),
                Err(what) => self.add(element.span().start, what),
            }
        }
        Some(networks)
    }

    fn format(&mut self, value: &Value<'_>) -> Option<Format> {
        let expected = "expected \"auto\", \"journald\", \"json\" or \"text\"";
        let what = match value.get_ref() {
            DeValue::String(name) => match Format::ALL.iter().find(|f| f.name() == name) {
                Some(format) => return Some(*format),
                None => format!("{} is no format; {expected}", quote(name)),
            },
            other => format!("format is {}; {expected}", keys::kind(other)),
        };
        self.add(value.span().start, what);
        None
    }

    fn port(&mut self, value: &Value<'_>, port: &mut u16) {
        if let Some(n) = self.integer("port", 0, u16::MAX.into(), "port = 4369", value) {
            *port = u16::try_from(n).unwrap_or(*port);
        }
    }

    fn count(&mut self, key: &str, value: &Value<'_>) -> Option<usize> {
        self.integer(key, 1, MOST, &format!("{key} = 1024"), value)
    }

    fn integer(
        &mut self,
        key: &str,
        least: usize,
        most: usize,
        example: &str,
        value: &Value<'_>,
    ) -> Option<usize> {
        let what = match value.get_ref() {
            DeValue::Integer(n) => {
                let number = usize::from_str_radix(n.as_str(), n.radix());
                match number {
                    Ok(number) if (least..=most).contains(&number) => return Some(number),
                    _ => {
                        let shown = show_number(n);
                        format!("{key} is {shown}; expected a whole number from {least} to {most}")
                    }
                }
            }
            other => format!(
                "{key} is {}; expected a whole number from {least} to {most}, such as {example}",
                keys::kind(other)
            ),
        };
        self.add(value.span().start, what);
        None
    }

    fn boolean(&mut self, key: &str, value: &Value<'_>) -> Option<bool> {
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        let kind = keys::kind(value.get_ref());
        self.add(
            value.span().start,
            format!("{key} is {kind}; expected true or false"),
        );
        None
    }

    fn socket_address(&mut self, value: &Value<'_>) -> Option<SocketAddr> {
        let what = match value.get_ref() {
            DeValue::String(text) => match text.parse::<SocketAddr>() {
                Ok(address) => return Some(address),
                Err(_) => quote(text),
            },
            other => keys::kind(other).to_string(),
        };
        let what = format!(
            "metrics.listen is {what}; expected an address and a port, such as \"127.0.0.1:9436\" or \
             \"[::1]:9436\""
        );
        self.add(value.span().start, what);
        None
    }

    fn duration(&mut self, key: &str, value: &Value<'_>) -> Option<Duration> {
        let what = match value.get_ref() {
            DeValue::String(text) => match values::duration(text) {
                Ok(duration) => return Some(duration),
                Err(what) => what,
            },
            DeValue::Integer(n) if is_short_number(n) => format!(
                "{key} is a number without a unit; expected a string with one, such as \"{n}s\""
            ),
            other => format!(
                "{key} is {}; expected a string with numbers and units, such as \"5s\" or \"1m 30s\"",
                keys::kind(other)
            ),
        };
        self.add(value.span().start, what);
        None
    }

    fn table<'v, 'i>(
        &mut self,
        key: &str,
        header: &str,
        value: &'v Value<'i>,
    ) -> Option<&'v DeTable<'i>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        let kind = keys::kind(value.get_ref());
        self.add(
            value.span().start,
            format!("{key} is {kind}; expected a table: {header}"),
        );
        None
    }

    fn list<'v, 'i>(
        &mut self,
        key: &str,
        example: &str,
        value: &'v Value<'i>,
    ) -> Option<&'v DeArray<'i>> {
        let example = match value.get_ref() {
            DeValue::Array(list) => return Some(list),
            DeValue::String(text) => quote(text),
            _ => quote(example),
        };
        let kind = keys::kind(value.get_ref());
        self.add(
            value.span().start,
            format!("{key} is {kind}; expected a list of strings: {key} = [{example}]"),
        );
        None
    }

    fn element<'v>(&mut self, key: &str, example: &str, value: &'v Value<'_>) -> Option<&'v str> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text);
        }
        let kind = keys::kind(value.get_ref());
        self.add(
            value.span().start,
            format!("an element of {key} is {kind}; expected a string, such as \"{example}\""),
        );
        None
    }

    fn unknown(&mut self, key: &Spanned<Cow<'_, str>>, known: &'static [&'static str]) {
        let what = keys::unknown(key.get_ref(), known);
        self.add_about_keys(key.span().start, what);
    }

    fn add(&mut self, at: usize, what: String) {
        self.wrong.push(Wrong {
            at,
            what,
            about_keys: false,
        });
    }

    fn add_about_keys(&mut self, at: usize, what: String) {
        self.wrong.push(Wrong {
            at,
            what,
            about_keys: true,
        });
    }
}

/// A number for a message. Behind an underscore the parser takes any character for a digit: what is no
/// number by that is shown as a text is, escaped.
fn show_number(number: &DeInteger<'_>) -> String {
    let shown = number.to_string();
    if is_number(&shown) {
        shown.chars().take(MOST_DIGITS).collect()
    } else {
        quote(&shown)
    }
}

/// Whether it may have been meant for some seconds.
fn is_short_number(number: &DeInteger<'_>) -> bool {
    number.radix() == 10 && number.as_str().len() < 10 && is_number(number.as_str())
}

/// Digits of any radix, its prefix and a sign.
fn is_number(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'))
}

/// Sets what was read, where it could be.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Why no node could ever have this name, so that a rule for it would protect nothing.
fn wrong_name(name: &str) -> Option<String> {
    let shown = quote(name);
    if let Some((before, _)) = name.split_once('@') {
        let before = quote(before);
        return Some(format!(
            "node {shown} has an @; expected the part before it alone: {before}"
        ));
    }
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        return Some(format!(
            "node {shown} is no name; expected 1 to {LONGEST_NAME} characters"
        ));
    }
    if name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Some(format!(
            "node {shown} is no name; expected one without spaces and control characters"
        ));
    }
    if name.contains('*') {
        return Some(format!(
            "node {shown} is no name, and patterns are not known; expected one node's name"
        ));
    }
    None
}
