//! `-via`: how a command is run on another host, as words with the host's name to be filled in.
//!
//! Split at blanks as a shell would, with its quotes, and run without one: no other character means
//! anything. Called by `cli` for the command line, and by `-doctor -mesh` for each host.

use super::diagnostic::quote;

/// Where the host's name goes.
const HOST: &str = "{host}";
/// What is used where nothing is said: no question is asked, as nobody would answer it.
pub(super) const DEFAULT: &str = "ssh -o BatchMode=yes {host}";

/// The words that run a command on a host, with [`HOST`] in at least one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<String>);

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = split(text).map_err(|what| format!("{} {what}", quote(text)))?;
        match words.first() {
            None => Err(format!("is empty; expected a command, such as {DEFAULT:?}")),
            Some(program) if program.is_empty() => Err(format!(
                "{} begins with an empty word; expected a program's name",
                quote(text)
            )),
            Some(_) if !words.iter().any(|word| word.contains(HOST)) => Err(format!(
                "{} has no {HOST} in it; expected it where the host's name belongs, as in {DEFAULT:?}",
                quote(text)
            )),
            Some(_) if words.iter().any(|word| word.contains('\0')) => {
                Err(format!("{} has a NUL in it", quote(text)))
            }
            Some(_) => Ok(Self(words)),
        }
    }

    /// The words for this host. The first one is a program.
    #[must_use]
    pub fn words(&self, host: &str) -> Vec<String> {
        let words = self.0.iter();
        words.map(|word| word.replace(HOST, host)).collect()
    }
}

impl Default for Template {
    fn default() -> Self {
        Self(DEFAULT.split(' ').map(str::to_owned).collect())
    }
}

/// The words of a text: blanks part them, but within single or double quotes; a backslash takes the next
/// character as it is, but within single quotes.
fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut open = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (open, c) {
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                open = Some(c);
                // Quotes with nothing in between are a word as well.
                word.get_or_insert_default();
            }
            (Some(quote), c) if c == quote => open = None,
            (None | Some('"'), '\\') => {
                let c = characters
                    .next()
                    .ok_or("ends with a backslash; expected a character behind it")?;
                word.get_or_insert_default().push(c);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if open.is_some() {
        return Err("has a quote without its end");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_split_as_a_shell_splits_words() {
        for (text, expected) in [
            (DEFAULT, &["ssh", "-o", "BatchMode=yes", "h"][..]),
            ("kubectl exec {host} --", &["kubectl", "exec", "h", "--"]),
            (" ssh\t-l 'a b'\n {host} ", &["ssh", "-l", "a b", "h"]),
            (r#"x "a \" '{host}'" ''"#, &["x", "a \" 'h'", ""]),
            (
                r"x a\ b '\' root@{host}.test",
                &["x", "a b", "\\", "root@h.test"],
            ),
            (
                "x $(reboot) `y` ; {host}|z",
                &["x", "$(reboot)", "`y`", ";", "h|z"],
            ),
            ("{host}", &["h"]),
        ] {
            assert_eq!(
                Template::parse(text).unwrap().words("h"),
                expected,
                "{text}"
            );
        }
        assert_eq!(Template::default(), Template::parse(DEFAULT).unwrap());
        // What is filled in is not taken apart again.
        let words = Template::parse("ssh {host}").unwrap().words("a b'{host}");
        assert_eq!(words, ["ssh", "a b'{host}"]);
    }

    #[test]
    fn what_is_no_template() {
        for (text, what) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("ssh host", "no {host}"),
            ("ssh {Host}", "no {host}"),
            ("ssh '{host}", "a quote without its end"),
            ("ssh \"{host}", "a quote without its end"),
            ("ssh {host} \\", "ends with a backslash"),
            ("'' {host}", "an empty word"),
            ("ssh {host} \0", "a NUL"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }
}
