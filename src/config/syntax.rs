//! What the TOML parser complains of, in our words, and what it leaves in doubt.
//!
//! The parser guesses on behind a mistake. Most of what it then understands is right, some is the
//! mistake again in other words; that is left out here. Called by `file`.

use std::collections::{BTreeSet, HashSet};

use toml::de::Error;

use super::diagnostic::{Text, quote};

/// Where a mistake of the walk's would only repeat one of the parser's.
#[derive(Debug)]
pub(super) struct Broken {
    /// On these lines.
    pub(super) lines: HashSet<usize>,
    /// From this byte on, nobody knows which table a key stands in.
    pub(super) header: usize,
}

impl Default for Broken {
    fn default() -> Self {
        Self {
            lines: HashSet::new(),
            header: usize::MAX,
        }
    }
}

/// The parser's complaints that are worth telling; `broken` learns what they leave in doubt.
pub(super) fn told(text: &Text, errors: &[Error], broken: &mut Broken) -> Vec<(usize, String)> {
    let mut told = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = text.line_of(span.start);
        let content = text.as_str().get(span.clone()).unwrap_or_default();
        if error.message() != DUPLICATE {
            // Of several complaints on one line, the later ones are echoes of the first.
            if !broken.lines.insert(line) {
                continue;
            }
            if text.line(line).1.trim_start().starts_with('[')
                || error.message().starts_with(UNCLOSED)
            {
                broken.header = broken.header.min(span.start);
            }
        }
        told.push((span.start, words(error.message(), content)));
    }
    told
}

/// The parser's messages that are looked for, by their beginning.
const DUPLICATE: &str = "duplicate key";
const BARE_KEY: &str = "key with no value";
const UNCLOSED: &str = "unclosed";

/// The part of the text that is read with spaces in place of the lines that are a key without a value,
/// where there are any. All offsets stay.
pub(super) fn without_bare_keys(text: &Text, part: &str, errors: &[Error]) -> Option<String> {
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
        rest.push_str(part.get(end..begin)?);
        end = (begin + content.len()).min(part.len());
        rest.extend(std::iter::repeat_n(' ', end - begin));
    }
    rest.push_str(part.get(end..)?);
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
