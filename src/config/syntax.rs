//! What the TOML parser complains of, in our words, and which mistakes are worth telling beside it.
//!
//! The parser guesses on behind a mistake. Most of what it then understands is right, some is the
//! mistake again in other words; that is left out here. Called by `file`.

use std::collections::HashSet;

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
            if text.line(line).1.trim_start().starts_with('[') || is_open(error.message()) {
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

const DUPLICATE: &str = "duplicate key";

/// Whether the parser met the end of something later than it should, or skipped the rest.
fn is_open(message: &str) -> bool {
    message.starts_with("unclosed") || message.starts_with("key with no value")
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
