//! How much of a file's text is handed to the TOML parser.
//!
//! The parser makes a list of all words and signs before it looks at one, and keeps a message for each
//! mistake: 4 MiB of `=` lines took it 1.8 GB and 4 s. So a large text is looked at beforehand, with the
//! parser's own lexer and a mistake costing nothing; behind more mistakes than are shown, or more words
//! and signs than any sound file has, it is cut. It judges nothing else. Called by `file`.

use toml_parser::decoder::Encoding;
use toml_parser::lexer::TokenKind;
use toml_parser::parser::{
    Event, EventKind, EventReceiver, RecursionGuard, ValidateWhitespace, parse_document,
};
use toml_parser::{ErrorSink, ParseError, Source, Span};

use super::diagnostic::MOST_SHOWN;

/// A text up to this size costs nobody anything, whatever is in it.
const SMALL: usize = 32 * 1024;
/// Words and signs (strings, brackets, commas, ends of lines, ...) of a file: some 250,000 networks.
const MOST_TOKENS: usize = 1_048_576;
/// Tables, each of which costs the parser some 2 KB: those in braces, those that a header opens, and one
/// for each dot; so some 20,000 nodes.
const MOST_TABLES: usize = 65_536;
/// Mistakes on lines of any length: a line tells its first one alone.
const MOST_MISTAKES: usize = 10_000;
/// How deep the TOML parser follows lists and tables in each other.
const DEEPEST: u32 = 80;

/// Where a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The byte up to which it is read.
    pub(super) at: usize,
    /// What there is too much of; else there are too many mistakes.
    pub(super) too_much: Option<&'static str>,
}

const TOO_MANY_TOKENS: &str =
    "there are more than 1048576 words and signs up to here; expected a smaller file";
const TOO_MANY_TABLES: &str =
    "there are more than 65536 tables and dots up to here; expected fewer";

/// Where `text` has to be cut, if it has to.
pub(super) fn cut(text: &str) -> Option<Cut> {
    if text.len() <= SMALL {
        return None;
    }
    let too_much = too_much(text);
    let part = too_much.map_or(text, |cut| text.get(..cut.at).unwrap_or(text));
    let source = Source::new(part);
    let tokens = source.lex().into_vec();
    let mut counter = Counter::new(part);
    let mut decoder = Decoder { source };
    let mut validate = ValidateWhitespace::new(&mut decoder, source);
    let mut guard = RecursionGuard::new(&mut validate, DEEPEST);
    parse_document(&tokens, &mut guard, &mut counter);
    let end = counter.end.map(|at| Cut { at, too_much: None });
    end.or(too_much)
}

/// Where a text has more in it than any sound one.
fn too_much(text: &str) -> Option<Cut> {
    let mut tables = 0;
    let mut begins_line = true;
    for (count, token) in Source::new(text).lex().enumerate() {
        let kind = token.kind();
        match kind {
            TokenKind::Dot | TokenKind::LeftCurlyBracket => tables += 1,
            TokenKind::LeftSquareBracket if begins_line => tables += 1,
            _ => {}
        }
        begins_line = match kind {
            TokenKind::Whitespace => begins_line,
            kind => kind == TokenKind::Newline,
        };
        let why = if count >= MOST_TOKENS {
            TOO_MANY_TOKENS
        } else if tables > MOST_TABLES {
            TOO_MANY_TABLES
        } else {
            continue;
        };
        return Some(Cut {
            at: token.span().start(),
            too_much: Some(why),
        });
    }
    None
}

/// Counts mistakes until there are enough.
struct Counter<'t> {
    text: &'t str,
    mistakes: usize,
    /// Lines that have one.
    lines: usize,
    /// The end of the last of these.
    line_end: usize,
    /// Where there are enough.
    end: Option<usize>,
}

impl<'t> Counter<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            mistakes: 0,
            lines: 0,
            line_end: 0,
            end: None,
        }
    }
}

impl ErrorSink for Counter<'_> {
    fn report_error(&mut self, error: ParseError) {
        let Some(place) = error.unexpected().filter(|_| self.end.is_none()) else {
            return;
        };
        self.mistakes += 1;
        if self.lines == 0 || place.start() > self.line_end {
            self.lines += 1;
            let rest = self.text.get(place.start()..).unwrap_or_default();
            self.line_end = place.start() + rest.find('\n').unwrap_or(rest.len());
        }
        if self.mistakes > MOST_MISTAKES {
            self.end = Some(place.end());
        } else if self.lines > MOST_SHOWN {
            self.end = Some(self.line_end);
        }
    }
}

/// Reads keys and values for their mistakes alone.
struct Decoder<'t> {
    source: Source<'t>,
}

impl EventReceiver for Decoder<'_> {
    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let event = Event::new_unchecked(EventKind::SimpleKey, encoding, span);
        if let Some(raw) = self.source.get(event) {
            raw.decode_key(&mut (), error);
        }
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let event = Event::new_unchecked(EventKind::Scalar, encoding, span);
        if let Some(raw) = self.source.get(event) {
            let _ = raw.decode_scalar(&mut (), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_text_is_read_whole() {
        let network = "  \"10.200.300.0/24\",\n";
        let text = format!("allow = [\n{}]\n", network.repeat(200_000));
        assert_eq!(cut(&text), None);
        assert_eq!(cut(&"#".repeat(4 << 20)), None);
        assert_eq!(cut(&"=\n".repeat(SMALL / 2)), None);
    }

    #[test]
    fn a_text_is_cut_behind_more_mistakes_than_are_shown() {
        for line in ["=\n", "a = 1e\n", "a\n", "a = \"\\q\"\n", "[\n"] {
            let text = line.repeat(2 * SMALL / line.len());
            let cut = cut(&text).expect(line);
            assert_eq!(cut.too_much, None);
            let lines = text[..cut.at].lines().count();
            assert!(
                (MOST_SHOWN..=2 * MOST_SHOWN + 2).contains(&lines),
                "{line:?} {lines}"
            );
        }
        // On one line.
        let at = cut(&format!("a = [{}", "1e,".repeat(1 << 18)))
            .expect("too many")
            .at;
        assert!((MOST_MISTAKES..4 * MOST_MISTAKES).contains(&at), "{at}");
    }

    #[test]
    fn a_text_is_cut_behind_more_than_any_sound_one_has() {
        let lines = |line: &str| line.repeat((4 << 20) / line.len());
        for (line, tokens, why) in [
            ("\n", 1, TOO_MANY_TOKENS),
            ("a=1\n", 4, TOO_MANY_TOKENS),
            ("[access.node.a]\nallow=[]\n", 13, TOO_MANY_TABLES),
            ("access.node.a.allow=[]\n", 11, TOO_MANY_TABLES),
        ] {
            let text = lines(line);
            let cut = too_much(&text).expect(line);
            assert_eq!(cut.too_much, Some(why), "{line:?}");
            let most = match why {
                TOO_MANY_TOKENS => MOST_TOKENS / tokens,
                _ => MOST_TABLES / 3,
            };
            let read = cut.at / line.len();
            assert!((most - 1..=most + 1).contains(&read), "{line:?} {read}");
        }
        for (why, most) in [
            (TOO_MANY_TOKENS, MOST_TOKENS),
            (TOO_MANY_TABLES, MOST_TABLES),
        ] {
            assert!(why.contains(&most.to_string()));
        }
    }
}
