//! The file: TOML in, settings and all mistakes out.
//!
//! The parser goes on behind a mistake, and the walk over what it understood looks at every key, so
//! that one run tells everything. Each mistake has its place from the parser's spans. It opens no
//! file, and knows no key: these are the table's. Called by `sources`.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bounds;
use super::diagnostic::{Found, Problem, Text, quote};
use super::keys::unknown;
use super::mistakes::Mistakes;
use super::settings::{Format, Settings};
use super::syntax::{self, Broken};
use super::table::{self, NAME};
use super::types::Value;
use super::words::{bare_or_quoted, kind};

/// The longest node name, in characters.
const LONGEST_NAME: usize = 255;

/// Lays what the file says over `settings`. Gives the mistakes, from top to bottom, with what `look_up`
/// finds wrong when all is read; the settings are then of no use but for what is known to be right.
pub(super) fn read_into(
    settings: &mut Settings,
    text: &Text,
    look_up: impl FnOnce(&mut Settings) -> Vec<(usize, String)>,
) -> Vec<Problem> {
    let whole = text.as_str();
    let cut = bounds::cut(whole);
    let part = cut.and_then(|cut| whole.get(..cut.at)).unwrap_or(whole);
    let (mut table, mut errors) = DeTable::parse_recoverable(part);
    // The parser understands nothing behind a key without a value, so it gets another try.
    let rest = syntax::without_bare_keys(text, part, &errors);
    if let Some(rest) = &rest {
        let more;
        (table, more) = DeTable::parse_recoverable(rest);
        errors.extend(more);
    }
    let mut broken = Broken::default();
    if cut.is_some() {
        // What ends at the cut is broken by it.
        errors.retain(|error| error.span().is_some_and(|span| span.end < part.len()));
    }
    let mut wrong = syntax::told(text, &errors, &mut broken);
    drop(errors);
    if let Some(cut) = cut
        && let Some(why) = cut.too_much
    {
        wrong.push((cut.at, why.to_owned()));
    }
    let worth = |at: usize, about_keys: bool| {
        !broken.lines.contains(&text.line_of(at)) && (!about_keys || at < broken.header)
    };
    let mut walk = Walk {
        text,
        settings,
        whole_up_to: match cut {
            None => usize::MAX,
            Some(_) => part.rfind("\n[").unwrap_or_default(),
        },
        mistakes: Mistakes::new(Box::new(worth)),
    };
    walk.table("", table.get_ref());
    wrong.extend(look_up(walk.settings));
    walk.file_of_journald();
    let (more_wrong, counted) = walk.mistakes.into_parts();
    wrong.extend(more_wrong);
    text.problems(Found {
        wrong,
        counted,
        unread: cut.is_some(),
    })
}

/// The way through the tables, by the table of keys.
struct Walk<'a> {
    text: &'a Text,
    settings: &'a mut Settings,
    /// A table that begins behind this byte may have more than was read of it.
    whole_up_to: usize,
    mistakes: Mistakes<'a>,
}

impl Walk<'_> {
    /// The table whose path, with a dot behind it, is `prefix`.
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        let known = table::children(prefix);
        if known == [NAME] {
            self.nodes(prefix, table);
            return;
        }
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                self.unknown(key, &known);
                continue;
            }
            let path = format!("{prefix}{name}");
            if self.is_read(&path, None, key, value) {
                continue;
            }
            let inner = format!("{path}.");
            if let DeValue::Table(table) = value.get_ref() {
                self.table(&inner, table);
                continue;
            }
            self.mistakes.add(value.span().start, || {
                let kind = kind(value.get_ref());
                let header = match table::children(&inner)[..] {
                    [NAME] => format!("[{path}.{NAME}]"),
                    _ => format!("[{path}]"),
                };
                format!("{name} is {kind}; expected a table: {header}")
            });
        }
    }

    /// journald takes lines, and not where a file is asked for.
    fn file_of_journald(&mut self) {
        let audit = &self.settings.audit;
        let line = self.settings.places.of("audit.file").line;
        if let (Some(line), Some(_), Format::Journald) = (line, &audit.file, audit.format) {
            let (begin, text) = self.text.line(line - 1);
            let indent = text.len() - text.trim_start().len();
            self.mistakes.add(begin + indent, || {
                "file is of no use with format = \"journald\"; expected one of the two, or format = \"json\" or \
                 \"text\""
                    .to_owned()
            });
        }
    }

    /// A table of tables, one for each node.
    fn nodes(&mut self, prefix: &str, table: &DeTable<'_>) {
        let inner = format!("{prefix}{NAME}.");
        let known = table::children(&inner);
        for (name, value) in table {
            if let Some(what) = wrong_name(name.get_ref()) {
                self.mistakes.add(name.span().start, || what);
            }
            let DeValue::Table(node) = value.get_ref() else {
                self.mistakes.add(value.span().start, || {
                    format!(
                        "node {} is {}; expected a table with the key {}, such as [{prefix}{}]",
                        quote(name.get_ref()),
                        kind(value.get_ref()),
                        known.join(" or "),
                        bare_or_quoted(name.get_ref()),
                    )
                });
                continue;
            };
            for (key, value) in node {
                let path = format!("{inner}{}", key.get_ref());
                if !self.is_read(&path, Some(name.get_ref()), key, value) {
                    self.unknown(key, &known);
                }
            }
            let begin = name.span().start;
            let lacks = |key: &str| begin < self.whole_up_to && !node.contains_key(key);
            for key in known.iter().filter(|key| lacks(key)) {
                let row = table::row(&format!("{inner}{key}"));
                if let Some(expected) = row.and_then(|row| row.slot.missing()) {
                    self.mistakes.add_about_keys(begin, || {
                        format!("node {} has no {key}; {expected}", quote(name.get_ref()))
                    });
                }
            }
        }
    }

    /// Whether there is a key of this path, which is then read.
    fn is_read(
        &mut self,
        path: &str,
        node: Option<&str>,
        key: &Spanned<Cow<'_, str>>,
        value: &Value<'_>,
    ) -> bool {
        let Some(row) = table::row(path) else {
            return false;
        };
        let place = self.settings.places.at(row.path);
        place.file = true;
        place.line = match node {
            None => Some(self.text.line_of(key.span().start) + 1),
            Some(_) => None,
        };
        row.slot
            .read(row.path, node, value, self.settings, &mut self.mistakes);
        true
    }

    fn unknown(&mut self, key: &Spanned<Cow<'_, str>>, known: &[&str]) {
        self.mistakes
            .add_about_keys(key.span().start, || unknown(key.get_ref(), known));
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
