//! Text from strangers, made harmless: what comes out is one line of printable characters, and two
//! different inputs never give the same output.
//!
//! Printable Unicode stays, so that a node called `größe` reads as that. Everything that moves the
//! cursor, turns the direction of the text, or is not seen at all becomes an escape. The question
//! what is printable is left to the standard library's Unicode tables, but for what these print and
//! nobody sees. Called by `audit` for names, by `log` for its notes, and by the tools for whatever they
//! show that others wrote; `epmd -names` alone prints names byte for byte, as stock does.

use std::fmt::Write;

/// A name may have 255 characters; one that is longer was never a node's, and what a stranger makes
/// us write is not to grow with what it sends. So the rest is cut off.
const LONGEST_TOLD: usize = 255;

/// `bytes` as text in which control and format characters, newlines, `"`, `\` and bytes that are not
/// UTF-8 are escapes: `\n`, `\r`, `\t`, `\"`, `\\`, `\u{202e}`, `\xff`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    escape_at_most(bytes, usize::MAX)
}

/// A name that a stranger asked for, as it is told: escaped, and cut with an ellipsis after 255
/// characters.
#[must_use]
pub fn escape_name(bytes: &[u8]) -> String {
    escape_at_most(bytes, LONGEST_TOLD)
}

/// One line that came from a daemon's own log, where names are escaped already: its quotes and
/// backslashes stay, and whatever is not printable becomes an escape, newlines and tabs too.
#[must_use]
pub fn escape_again(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_plain = false;
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push(c);
                after_plain = false;
            }
            _ => after_plain = push(&mut out, c, after_plain),
        }
    }
    out
}

/// JSON with everything that is not printable as JSON's own escapes, which mean the same to whoever
/// parses it. Outside of its strings JSON is printable as it is, newlines apart, which stay.
#[must_use]
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut after_plain = false;
    for c in json.chars() {
        after_plain = c == '\n' || is_printable(c, after_plain);
        if after_plain {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        after_plain &= !matches!(c, '"' | '\\' | '\n');
    }
    out
}

/// A text as a string of TOML, in quotes, in printable characters alone. It means the same text, however
/// long that is and whatever is in it.
#[must_use]
pub fn toml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut after_plain = false;
    for c in text.chars() {
        after_plain = match c {
            '"' | '\\' => {
                out.extend(['\\', c]);
                false
            }
            c if is_printable(c, after_plain) => {
                out.push(c);
                true
            }
            c => {
                let _ = match u32::from(c) {
                    code @ ..=0xffff => write!(out, "\\u{code:04X}"),
                    code => write!(out, "\\U{code:08X}"),
                };
                false
            }
        };
    }
    out.push('"');
    out
}

/// A text of our own that may quote a file: its newlines, tabs, quotes and backslashes stay, other
/// characters that are not printable become escapes.
#[must_use]
pub fn escape_note(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_plain = false;
    for c in text.chars() {
        match c {
            '\n' | '\t' | '"' | '\\' => {
                out.push(c);
                after_plain = false;
            }
            _ => after_plain = push(&mut out, c, after_plain),
        }
    }
    out
}

fn escape_at_most(bytes: &[u8], mut left: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(1024));
    let mut after_plain = false;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if left == 0 {
                out.push('…');
                return out;
            }
            left -= 1;
            after_plain = push(&mut out, c, after_plain);
        }
        for byte in chunk.invalid() {
            if left == 0 {
                out.push('…');
                return out;
            }
            left -= 1;
            // Writing to a String can't fail.
            let _ = write!(out, "\\x{byte:02x}");
            after_plain = false;
        }
    }
    out
}

/// Appends one character, escaped where it must be; whether it went in as it is.
fn push(out: &mut String, c: char, after_plain: bool) -> bool {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '"' | '\\' => out.extend(['\\', c]),
        _ if is_printable(c, after_plain) => {
            out.push(c);
            return true;
        }
        _ => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
    false
}

/// Whether `c` is seen for what it is. A combining mark is, but only behind a character that it can
/// combine with: at the start of a name it would change the quote before it.
fn is_printable(c: char, after_plain: bool) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    if is_blank(c) {
        return false;
    }
    // The standard library escapes a mark by itself or at the start of a text, and nowhere else.
    let text = if after_plain {
        format!("a{c}")
    } else {
        c.to_string()
    };
    text.escape_debug().eq(text.chars())
}

/// Whether `c` is a letter, mark or symbol to Unicode, and nothing to the eye: those of
/// `Default_Ignorable_Code_Point` that are no format characters, and the empty pattern of Braille. Two
/// names that differ by these alone would look alike.
const fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn printable_text_stays() {
        for name in ["api", "größe", "名前", "it's", "a b", "e\u{301}", "🦀", ""] {
            assert_eq!(escape(name.as_bytes()), name);
        }
    }

    #[test]
    fn what_could_forge_a_line_or_hide_is_escaped() {
        for (name, told) in [
            ("a\nepmd: forged", "a\\nepmd: forged"),
            ("\r\t\0\x1b[2J\x7f", "\\r\\t\\u{0}\\u{1b}[2J\\u{7f}"),
            ("\"\\", "\\\"\\\\"),
            ("\u{85}\u{9b}", "\\u{85}\\u{9b}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{301}x", "\\u{301}x"),
            ("\"\u{301}", "\\\"\\u{301}"),
            ("\u{a0}\u{ad}\u{e0041}", "\\u{a0}\\u{ad}\\u{e0041}"),
        ] {
            assert_eq!(escape(name.as_bytes()), told);
        }
        let hidden = (0x200b..=0x200f)
            .chain(0x2028..=0x202e)
            .chain(0x2060..=0x206f)
            .chain(0x80..=0x9f)
            .chain([0xfeff, 0x61c, 0xfff9, 0xe000]);
        for c in hidden.filter_map(char::from_u32) {
            let told = escape(format!("a{c}b").as_bytes());
            assert_eq!(told, format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    /// Characters that turn the direction of a text, or are not seen: Unicode's format characters, what
    /// it calls default-ignorable, blanks of all kinds, and what has no meaning.
    fn unseen() -> impl Iterator<Item = char> {
        [
            0x7f..=0xa0,
            0xad..=0xad,
            0x34f..=0x34f,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x1680..=0x1680,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x2000..=0x200f,
            0x2028..=0x202f,
            0x205f..=0x206f,
            0x2800..=0x2800,
            0x3000..=0x3000,
            0x3164..=0x3164,
            0xe000..=0xe010,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff9..=0xfffb,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
            0xf0000..=0xf0010,
        ]
        .into_iter()
        .flatten()
        .filter_map(char::from_u32)
    }

    #[test]
    fn nothing_that_is_not_seen_goes_through_anywhere_in_a_text() {
        for c in unseen() {
            for text in [
                format!("{c}"),
                format!("a{c}b"),
                format!("{c}{c}"),
                format!("é{c}"),
            ] {
                let all = [
                    escape(text.as_bytes()),
                    escape_name(text.as_bytes()),
                    escape_note(&text),
                    escape_again(&text),
                    escape_json(&format!("[\"{text}\"]\n")),
                    toml_string(&text),
                ];
                for told in all {
                    assert!(!told.contains(c), "{:x}: {told}", u32::from(c));
                }
            }
        }
    }

    #[test]
    fn json_and_toml_mean_what_they_meant() {
        let mut texts: Vec<String> = unseen().map(|c| format!("{c}a\u{301}{c}\"\\\n")).collect();
        texts.extend(["größe", "🦀\u{fe0f}", "", "\t\u{1}", "a.b"].map(str::to_owned));
        texts.push("\u{301}".repeat(500));
        for text in texts {
            let json = serde_json::to_string(&[&text]).unwrap();
            let [back]: [String; 1] = serde_json::from_str(&escape_json(&json)).unwrap();
            assert_eq!(back, text);
            let file = format!("{} = 1", toml_string(&text));
            let table = toml::de::DeTable::parse(&file).unwrap();
            let key = table.get_ref().keys().next().unwrap().get_ref();
            assert_eq!(key, &text, "{file}");
        }
        assert_eq!(toml_string("größe"), "\"größe\"");
        assert_eq!(
            escape_again("\\n \"x\" \t\u{202e}"),
            "\\n \"x\" \\t\\u{202e}"
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_told_one_by_one() {
        assert_eq!(escape(b"a\xff\xc3(\xe2\x82"), "a\\xff\\xc3(\\xe2\\x82");
    }

    #[test]
    fn different_names_are_told_differently() {
        let alphabet: [&[u8]; 9] = [
            b"\\",
            b"x",
            b"f",
            b"\xff",
            b"\n",
            b"n",
            b"\"",
            b"\xe2\x80\xae",
            b"u{202e}",
        ];
        let mut seen: HashMap<String, Vec<u8>> = HashMap::new();
        for i in 0..9_usize.pow(4) {
            let picks = [i % 9, i / 9 % 9, i / 81 % 9, i / 729];
            let name = picks.map(|p| alphabet[p]).concat();
            let told = escape(&name);
            assert!(!told.chars().any(char::is_control));
            assert_eq!(seen.entry(told).or_insert(name.clone()), &name);
        }
    }

    #[test]
    fn a_name_too_long_for_a_node_is_cut() {
        assert_eq!(escape_name("é".repeat(255).as_bytes()), "é".repeat(255));
        let cut = format!("{}…", "é".repeat(255));
        assert_eq!(escape_name("é".repeat(256).as_bytes()), cut);
        assert_eq!(
            escape_name(&[0xff; 3056]),
            format!("{}…", "\\xff".repeat(255))
        );
    }

    #[test]
    fn a_note_keeps_its_lines() {
        let note = "epmd: f:1:2: \"x\"\n\t^ \\ \x1b\u{202e}\r";
        assert_eq!(
            escape_note(note),
            "epmd: f:1:2: \"x\"\n\t^ \\ \\u{1b}\\u{202e}\\r"
        );
    }
}
