//! What a mistake looks like: where it stands, what is wrong, the line and a caret under it.
//!
//! Counts lines and columns and draws; it judges nothing. Called by `file` and `sources`, and read
//! through [`Errors`] by `main` (at the start) and `server` (at SIGHUP).
//! A file's text is shown, so what would move a terminal's cursor is escaped first.

use std::fmt::{self, Write as _};
use std::path::Path;

use unicode_width::UnicodeWidthChar;

use crate::exit::Exit;

/// How many mistakes of one file are shown; the rest is counted. A list of 20,000 networks that is
/// wrong in each line would bury its own first line.
pub(super) const MOST_SHOWN: usize = 200;
/// How many columns of a line are shown on either side of the caret.
const WINDOW: usize = 72;
/// How many characters of a wrong value are repeated in a message.
const MOST_QUOTED: usize = 64;

/// One mistake: where, what is wrong and what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    what: String,
    excerpt: Option<String>,
    /// It is that this user may not read the file.
    forbidden: bool,
}

impl Problem {
    /// A mistake that has no line: in an option (`-port`), an environment variable, or a whole file.
    pub(super) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            excerpt: None,
            forbidden: false,
        }
    }

    /// The same of a file that this user may not read.
    pub(super) fn forbidden(mut self) -> Self {
        self.forbidden = true;
        self
    }

    /// Whether it is that this user may not read the file.
    pub(super) const fn is_forbidden(&self) -> bool {
        self.forbidden
    }

    /// The same with more words at its end.
    pub(super) fn with(mut self, more: &str) -> Self {
        self.what.push_str(more);
        self
    }

    /// The headline, then the line and the caret where there is a line.
    fn for_log(&self) -> String {
        match &self.excerpt {
            Some(excerpt) => format!("{}\n{excerpt}", self.headline()),
            None => self.headline(),
        }
    }

    /// Where it is: `FILE:LINE:COLUMN`, `FILE`, an option with its dash, or an environment variable.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What is wrong, and what is expected; one line.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// `PLACE: WHAT` on one line, for a log or a status line.
    #[must_use]
    pub fn headline(&self) -> String {
        format!("{}: {}", self.place, self.what)
    }
}

impl fmt::Display for Problem {
    /// `epmd: PLACE: WHAT`, then the line and the caret where there is a line. No newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epmd: {}", self.for_log())
    }
}

/// All mistakes of one run: of the command line first, then of the environment, then of the file from
/// top to bottom. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// In one line, for `systemctl status`: what was not done, and the first mistake.
    #[must_use]
    pub fn not_in_force(&self, what: &str) -> String {
        let first = self.0.first().map(Problem::headline).unwrap_or_default();
        let more = match self.0.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        format!("{what}, the settings from before stay in force: {first}{more}")
    }

    /// As [`fmt::Display`] shows them, without `epmd: ` before each: for the end of a line that has it
    /// already.
    #[must_use]
    pub fn for_log(&self) -> String {
        let texts: Vec<_> = self.0.iter().map(Problem::for_log).collect();
        texts.join("\n")
    }

    /// Whether nothing is wrong but that this user may not read the file. That is fatal to a daemon that
    /// would go by it, and to nobody else.
    #[must_use]
    pub fn is_only_forbidden(&self) -> bool {
        self.0.iter().all(|problem| problem.forbidden)
    }

    /// Whether it is wrong, among others, that this user may not read the file.
    #[must_use]
    pub fn is_any_forbidden(&self) -> bool {
        self.0.iter().any(|problem| problem.forbidden)
    }

    /// `Ok` where there are none.
    pub(super) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self(problems))
        }
    }

    /// The mistakes, one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// The status with which the process ends when these come at its start.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        Exit::Config
    }
}

impl fmt::Display for Errors {
    /// Each as [`Problem`] shows itself, a newline between them and none at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A file's text, in which a byte's offset has a line and a column.
#[derive(Debug)]
pub(super) struct Text {
    /// The file as the operator named it, escaped.
    name: String,
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Text {
    /// `text` as read from `path`. A byte order mark is no part of it.
    pub(super) fn new(path: &Path, mut text: String) -> Self {
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self {
            name: show_path(path),
            text,
            lines,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The line in which `offset` stands, counted from 0.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= offset) - 1
    }

    /// A line's text without its end, and where it begins.
    pub(super) fn line(&self, line: usize) -> (usize, &str) {
        let begin = self.lines.get(line).copied().unwrap_or(self.text.len());
        let end = match self.lines.get(line + 1) {
            Some(next) => next - 1,
            None => self.text.len(),
        };
        let line = self.text.get(begin..end).unwrap_or_default();
        (begin, line.strip_suffix('\r').unwrap_or(line))
    }

    /// A mistake at byte `offset` (of its line's end, where it is behind that). `counted` is a byte of
    /// the same line before it, and how many characters stand before that one.
    fn problem_from(&self, offset: usize, what: String, counted: &mut Counted) -> Problem {
        let number = self.line_of(offset);
        let (begin, line) = self.line(number);
        let mut at = (offset - begin).min(line.len());
        while !line.is_char_boundary(at) {
            at -= 1;
        }
        if counted.line != number || counted.at > at {
            *counted = Counted {
                line: number,
                at: 0,
                characters: 0,
            };
        }
        let between = line.get(counted.at..at).unwrap_or_default();
        counted.characters += between.chars().count();
        counted.at = at;
        let column = counted.characters + 1;
        let (before, behind) = line.split_at(at);
        Problem {
            place: format!("{}:{}:{column}", self.name, number + 1),
            what,
            excerpt: Some(excerpt(before, behind)),
            forbidden: false,
        }
    }

    /// What was found in the order of the file, the first [`MOST_SHOWN`] of it.
    pub(super) fn problems(&self, found: impl Into<Found>) -> Vec<Problem> {
        let Found {
            mut wrong,
            counted,
            unread,
        } = found.into();
        wrong.sort_by_key(|(offset, _)| *offset);
        wrong.dedup();
        let rest = wrong.len().saturating_sub(MOST_SHOWN) + counted;
        let mut column = Counted::default();
        let mut problems: Vec<_> = wrong
            .into_iter()
            .take(MOST_SHOWN)
            .map(|(offset, what)| self.problem_from(offset, what, &mut column))
            .collect();
        let shown = problems.len();
        if unread {
            let what = format!(
                "there is too much wrong to read the rest; expected no mistake, the first {shown} are shown"
            );
            problems.push(Problem::new(&self.name, what));
        } else if rest > 0 {
            problems.push(Problem::new(
                &self.name,
                format!("{rest} more mistakes; expected none, the first {shown} are shown"),
            ));
        }
        problems
    }
}

/// What was found wrong with a text.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where it is, and what.
    pub(super) wrong: Vec<(usize, String)>,
    /// How much more there is, behind the last of these.
    pub(super) counted: usize,
    /// Whether the text was not read to its end.
    pub(super) unread: bool,
}

impl From<Vec<(usize, String)>> for Found {
    fn from(wrong: Vec<(usize, String)>) -> Self {
        Self {
            wrong,
            ..Self::default()
        }
    }
}

/// How many characters of a line are counted: a line may be 4 MiB long, and wrong in 200 places.
#[derive(Debug, Default)]
struct Counted {
    line: usize,
    at: usize,
    characters: usize,
}

/// A file's name for a message.
pub(super) fn show_path(path: &Path) -> String {
    let mut shown = String::new();
    let name = path.to_string_lossy();
    name.chars().for_each(|c| push_escaped(&mut shown, c));
    shown
}

/// A value for a message: in quotes, escaped, cut where it is long.
pub(super) fn quote(value: &str) -> String {
    match value.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{:?}...", value.get(..end).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

/// The line and the caret under the first character of `behind`, each indented by four.
fn excerpt(before: &str, behind: &str) -> String {
    let mut line = String::from("    ");
    let mut caret = String::from("    ");
    let near = before.char_indices().rev().take(WINDOW).last();
    let (skipped, near) = before.split_at(near.map_or(0, |(at, _)| at));
    if !skipped.is_empty() {
        line.push_str("...");
        caret.push_str("   ");
    }
    for c in near.chars() {
        let from = line.len();
        push_escaped(&mut line, c);
        // A tab stays one on both lines, so that both are as wide whatever the terminal's tab stops.
        match c {
            '\t' => caret.push('\t'),
            _ => {
                let shown = line.get(from..).unwrap_or_default();
                let width: usize = shown.chars().filter_map(UnicodeWidthChar::width).sum();
                caret.extend(std::iter::repeat_n(' ', width));
            }
        }
    }
    for c in behind.chars().take(WINDOW) {
        push_escaped(&mut line, c);
    }
    if behind.chars().nth(WINDOW).is_some() {
        line.push_str("...");
    }
    format!("{}\n{caret}^", line.trim_end())
}

/// Adds `c`, escaped where it would move the cursor or turn the direction of the text.
fn push_escaped(text: &mut String, c: char) {
    let turns = matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    if (c.is_control() && c != '\t') || turns {
        let _ = write!(text, "{}", c.escape_unicode());
    } else {
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::new(Path::new("/etc/epmd.toml"), text.to_owned())
    }

    fn shown(source: &str, offset: usize) -> String {
        let wrong = vec![(offset, "wrong; expected right".to_owned())];
        text(source).problems(wrong)[0].to_string()
    }

    #[test]
    fn line_column_and_caret() {
        assert_eq!(
            shown("a = 1\n  port = x\nb = 2\n", 15),
            "epmd: /etc/epmd.toml:2:10: wrong; expected right\n      port = x\n             ^"
        );
    }

    #[test]
    fn the_end_of_the_file() {
        assert_eq!(
            shown("", 0),
            "epmd: /etc/epmd.toml:1:1: wrong; expected right\n\n    ^"
        );
        assert_eq!(
            shown("a", 1),
            "epmd: /etc/epmd.toml:1:2: wrong; expected right\n    a\n     ^"
        );
        assert_eq!(
            shown("a\n", 2),
            "epmd: /etc/epmd.toml:2:1: wrong; expected right\n\n    ^"
        );
        // Behind the end: the end.
        assert_eq!(shown("a", 99), shown("a", 1));
    }

    #[test]
    fn a_line_may_end_in_cr_lf() {
        assert_eq!(
            shown("a = 1\r\nb\r\n", 8),
            "epmd: /etc/epmd.toml:2:2: wrong; expected right\n    b\n     ^"
        );
    }

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        assert_eq!(
            shown("\u{feff}port", 0),
            "epmd: /etc/epmd.toml:1:1: wrong; expected right\n    port\n    ^"
        );
    }

    #[test]
    fn columns_count_characters_and_the_caret_counts_cells() {
        assert_eq!(
            shown("\té\u{4e2d}e\u{301}x", "\té\u{4e2d}e\u{301}".len()),
            "epmd: /etc/epmd.toml:1:6: wrong; expected right\n    \té\u{4e2d}e\u{301}x\n    \t    ^"
        );
        // Within a character: that character.
        assert!(shown("é", 1).starts_with("epmd: /etc/epmd.toml:1:1:"));
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(
            shown("\u{1b}[2J\u{202e}\rx", "\u{1b}[2J\u{202e}\r".len()),
            "epmd: /etc/epmd.toml:1:7: wrong; expected right\n    \\u{1b}[2J\\u{202e}\\u{d}x\n                          ^"
        );
        let named = Text::new(Path::new("a\nb"), String::new());
        let named = named.problems(vec![(0, "wrong".to_owned())]);
        assert_eq!(named[0].place(), "a\\u{a}b:1:1");
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = "x".repeat(1000);
        let shown = shown(&long, 500);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "epmd: /etc/epmd.toml:1:501: wrong; expected right"
        );
        assert_eq!(lines[1], format!("    ...{}...", "x".repeat(144)));
        assert_eq!(lines[2], format!("       {}^", " ".repeat(72)));
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(quote("a\n"), r#""a\n""#);
        assert_eq!(quote(&"é".repeat(65)), format!("\"{}\"...", "é".repeat(64)));
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_the_rest_is_counted() {
        let source = text(&"x\n".repeat(300));
        let wrong: Vec<_> = (0..300)
            .rev()
            .map(|n| (2 * n, "wrong".to_owned()))
            .collect();
        let problems = source.problems(wrong);
        assert_eq!(problems.len(), MOST_SHOWN + 1);
        assert_eq!(problems[1].headline(), "/etc/epmd.toml:2:1: wrong");
        assert_eq!(
            problems[MOST_SHOWN].to_string(),
            "epmd: /etc/epmd.toml: 100 more mistakes; expected none, the first 200 are shown"
        );
    }

    #[test]
    fn errors_are_all_shown() {
        assert_eq!(Errors::check(Vec::new()), Ok(()));
        let problems = vec![
            Problem::new("-port", "wrong"),
            Problem::new("EPMD_ALLOW", "too"),
        ];
        let errors = Errors::check(problems).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "epmd: -port: wrong\nepmd: EPMD_ALLOW: too"
        );
        assert_eq!(errors.exit(), Exit::Config);
        assert_eq!(errors.iter().count(), 2);
    }
}
