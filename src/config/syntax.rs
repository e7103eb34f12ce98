//! What the TOML parser complains of, in our words, and which mistakes are worth telling beside it.
//!
//! The parser guesses on behind a mistake. Most of what it then understands is right, some is the
//! mistake again in other words; that is left out here. Called by `file`.

use std::collections::{BTreeSet, HashSet};

use toml::de::Error;

use super::diagnostic::{Text, quote};
use super::file::Wrong;

/// The parser's complaints, and those of the walk's that do not only repeat them.
pub(super) fn merge(text: &Text, errors: &[Error], wrong: Vec<Wrong>) -> Vec<(usize, String)> {
    let mut told = Vec::new();
    let mut broken_lines = HashSet::new();
    // From here on, nobody knows which table a key stands in.
    let mut broken_header = usize::MAX;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = text.line_of(span.start);
        let content = text.as_str().get(span.clone()).unwrap_or_default();
        if error.message() != DUPLICATE {
            // Of several complaints on one line, the later ones are echoes of the first.
            if !broken_lines.insert(line) {
                continue;
            }
            if text.line(line).1.trim_start().starts_with('[')
                || error.message().starts_with(UNCLOSED)
            {
                broken_header = broken_header.min(span.start);
            }
        }
        told.push((span.start, words(error.message(), content)));
    }
    told.extend(
        wrong
            .into_iter()
            .filter(|w| !broken_lines.contains(&text.line_of(w.at)))
            .filter(|w| !w.about_keys || w.at < broken_header)
            .map(|w| (w.at, w.what)),
    );
    told
}

/// The parser's messages that are looked for, by their beginning.
const DUPLICATE: &str = "duplicate key";
const BARE_KEY: &str = "key with no value";
const UNCLOSED: &str = "unclosed";

/// The text with spaces in place of the lines that are a key without a value, where there are any.
/// All offsets stay.
pub(super) fn without_bare_keys(text: &Text, errors: &[Error]) -> Option<String> {
    let mut rest = String::new();
    let mut end = 0;
    let lines: BTreeSet<_> = errors
        .iter()
        .filter(|e| e.message().starts_with(BARE_KEY))
        .filter_map(Error::span)
        .map(|span| text.line_of(span.start))
        .collect();
    for line in lines {
        let (begin, content) = text.line(line);
        rest.push_str(text.as_str().get(end..begin)?);
        rest.extend(std::iter::repeat_n(' ', content.len()));
        end = begin + content.len();
    }
    rest.push_str(text.as_str().get(end..)?);
    (end > 0).then_some(rest)
}

/// The parser's message: in our words where its own lead astray.
fn words(message: &str, content: &str) -> String {
    let content = content.trim();
    if message == DUPLICATE {
        return format!(
            "{} is given twice; expected it once, with everything that belongs to it",
            quote(content)
        );
    }
    if message.starts_with("string values must be quoted") {
        return if content.is_empty() {
            "no value; expected one behind the =, a string in quotes".to_owned()
        } else {
            let shown = quote(content);
            format!("{shown} has no quotes around it; expected \"...\" around a string")
        };
    }
    if message.starts_with(BARE_KEY) {
        return "a key without a value; expected = and a value".to_owned();
    }
    if message.starts_with("invalid float") {
        return "neither a number nor a string; expected \"...\" around a string".to_owned();
    }
    if message.starts_with("invalid boolean") {
        return format!("{} is no value; expected true or false", quote(content));
    }
    match message.split_once(", expected ") {
        Some((what, expected)) => format!("{what}; expected {expected}"),
        None => format!("{message}; expected valid TOML"),
    }
}
