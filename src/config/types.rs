//! The types that a key of the file can have: how each is read, from the file or from an option's text.
//!
//! A value in, what is wrong with it out; which key of the settings it is for, the table knows. Called by
//! `table`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeValue};

use super::diagnostic::quote;
use super::mistakes::Mistakes;
use super::nets::{self, ListenOn};
use super::settings::Format;
use super::values;
use super::words::kind;
use crate::core::access::Networks;

/// Digits of a number that are shown.
const MOST_DIGITS: usize = 40;
/// The most of anything that is counted: beyond it, a number is a slip.
const MOST: usize = 1_048_576;

/// A value of the file, with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What gives a text: an option, or an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giver {
    Option,
    Variable,
}

/// A type of values.
pub(super) trait Type: Sized {
    /// How the manual calls it.
    const KIND: &'static str;

    /// Reads the value of the key `path`; `None` where it is none, which is then among `mistakes`.
    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self>;

    /// Reads an option's or variable's text; `Ok(None)` where it is as good as not given. Types that no
    /// option has take nothing.
    ///
    /// # Errors
    /// All that is wrong with it.
    fn from_text(_text: &str, _giver: Giver) -> Result<Option<Self>, Vec<String>> {
        Ok(None)
    }
}

impl Type for bool {
    const KIND: &'static str = "true or false";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        mistakes.add(value.span().start, || {
            let kind = kind(value.get_ref());
            format!("{} is {kind}; expected true or false", short(path))
        });
        None
    }
}

/// A port.
impl Type for u16 {
    const KIND: &'static str = "a whole number from 0 to 65535";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = format!("{} = 4369", short(path));
        let port = integer(path, 0, Self::MAX.into(), &example, value, mistakes)?;
        Self::try_from(port).ok()
    }

    fn from_text(text: &str, _: Giver) -> Result<Option<Self>, Vec<String>> {
        values::port(text).map(Some).map_err(|what| vec![what])
    }
}

/// How much of something.
impl Type for usize {
    const KIND: &'static str = "a whole number from 1 to 1048576";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = format!("{} = 1024", short(path));
        integer(path, 1, MOST, &example, value, mistakes)
    }
}

impl Type for Duration {
    const KIND: &'static str = "a duration from \"1ms\" to \"1day\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let key = short(path);
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
                kind(other)
            ),
        };
        mistakes.add(value.span().start, || what);
        None
    }

    fn from_text(text: &str, _: Giver) -> Result<Option<Self>, Vec<String>> {
        values::seconds(text).map(Some).map_err(|what| vec![what])
    }
}

impl Type for String {
    const KIND: &'static str = "a string";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text.to_string());
        }
        mistakes.add(value.span().start, || {
            let kind = kind(value.get_ref());
            format!("{} is {kind}; expected a string", short(path))
        });
        None
    }
}

impl Type for PathBuf {
    const KIND: &'static str = "a file's name";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let what = match value.get_ref() {
            DeValue::String(text) if text.starts_with('/') && !text.contains('\0') => {
                return Some(text.as_ref().into());
            }
            DeValue::String(text) => quote(text),
            other => kind(other).to_owned(),
        };
        mistakes.add(value.span().start, || {
            format!("{path} is {what}; expected a file's full name, which begins with /")
        });
        None
    }
}

/// An address and a port.
impl Type for SocketAddr {
    const KIND: &'static str = "an address and a port";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let what = match value.get_ref() {
            DeValue::String(text) => match text.parse::<Self>() {
                Ok(address) => return Some(address),
                Err(_) => quote(text),
            },
            other => kind(other).to_owned(),
        };
        mistakes.add(value.span().start, || {
            format!(
                "{path} is {what}; expected an address and a port, such as \"127.0.0.1:9436\" or \
                 \"[::1]:9436\""
            )
        });
        None
    }
}

impl Type for Format {
    const KIND: &'static str = "\"auto\", \"journald\", \"json\" or \"text\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let key = short(path);
        let what = match value.get_ref() {
            DeValue::String(name) => match Self::ALL.iter().find(|f| f.name() == name) {
                Some(format) => return Some(*format),
                None => format!("{} is no {key}", quote(name)),
            },
            other => format!("{key} is {}", kind(other)),
        };
        mistakes.add(value.span().start, || {
            format!("{what}; expected {}", Self::KIND)
        });
        None
    }
}

/// Peers.
impl Type for Networks {
    const KIND: &'static str = "a list of networks and addresses, or \"*\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "10.0.3.0/24";
        let mut networks = Self::default();
        for element in list(path, example, value, mistakes)? {
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match nets::networks(text) {
                Ok(nets) => nets.into_iter().for_each(|n| networks.insert(n)),
                Err(what) => mistakes.add(element.span().start, || what),
            }
        }
        Some(networks)
    }

    /// An empty list is a list, and admits nobody.
    fn from_text(text: &str, _: Giver) -> Result<Option<Self>, Vec<String>> {
        let mut networks = Self::default();
        let mut wrong = Vec::new();
        for item in items(text) {
            match nets::networks(item) {
                Ok(nets) => nets.into_iter().for_each(|n| networks.insert(n)),
                Err(what) => wrong.push(what),
            }
        }
        if wrong.is_empty() {
            Ok(Some(networks))
        } else {
            Err(wrong)
        }
    }
}

/// Addresses to listen on; `None` is every address.
impl Type for Option<Vec<IpAddr>> {
    const KIND: &'static str = "a list of addresses, or \"*\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "10.0.3.5";
        let mut addresses = Vec::new();
        let mut every = false;
        for element in list(path, example, value, mistakes)? {
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match nets::listen_on(text, "port = 4369") {
                Ok(ListenOn::Every) => every = true,
                Ok(ListenOn::One(address)) => addresses.push(address),
                Err(what) => mistakes.add(element.span().start, || what),
            }
        }
        Some((!every).then_some(addresses))
    }

    /// A list of separators alone is as good as none, as in stock.
    fn from_text(text: &str, giver: Giver) -> Result<Option<Self>, Vec<String>> {
        let port_setting = match giver {
            Giver::Option => "-port No",
            Giver::Variable => "ERL_EPMD_PORT",
        };
        let mut addresses = Vec::new();
        let mut every = false;
        let mut wrong = Vec::new();
        for item in items(text) {
            match nets::listen_on(item, port_setting) {
                Ok(ListenOn::Every) => every = true,
                Ok(ListenOn::One(address)) => addresses.push(address),
                Err(what) => wrong.push(what),
            }
        }
        if !wrong.is_empty() {
            Err(wrong)
        } else if every {
            Ok(Some(None))
        } else {
            Ok((!addresses.is_empty()).then_some(Some(addresses)))
        }
    }
}

/// Addresses of this host whose peers are strangers.
impl Type for BTreeSet<IpAddr> {
    const KIND: &'static str = "a list of addresses";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        const OWN: [IpAddr; 2] = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let example = "127.0.0.6";
        let mut addresses = Self::new();
        for element in list(path, example, value, mistakes)? {
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match nets::listen_on(text, "expected the address alone") {
                Ok(ListenOn::One(own)) if OWN.contains(&own) => {
                    mistakes.add(element.span().start, || {
                        format!(
                            "{} is where this host's own nodes come from; expected an address that a proxy \
                             alone has, such as \"{example}\"",
                            quote(text)
                        )
                    });
                }
                Ok(ListenOn::One(address)) if !address.is_unspecified() => {
                    addresses.insert(address);
                }
                Ok(_) => mistakes.add(element.span().start, || {
                    format!(
                        "{} is no address that a peer has; expected one of this host's, such as \"{example}\"",
                        quote(text)
                    )
                }),
                Err(what) => mistakes.add(element.span().start, || what),
            }
        }
        Some(addresses)
    }
}

/// Words of any kind.
impl Type for Vec<String> {
    const KIND: &'static str = "a list of strings";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "...";
        let list = list(path, example, value, mistakes)?;
        let texts = list
            .iter()
            .filter_map(|element| element_text(path, example, element, mistakes));
        Some(texts.map(str::to_owned).collect())
    }
}

/// A value that may be absent, which it is by default.
impl<T: Type> Type for Option<T> {
    const KIND: &'static str = T::KIND;

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        T::from_toml(path, value, mistakes).map(Some)
    }

    fn from_text(text: &str, giver: Giver) -> Result<Option<Self>, Vec<String>> {
        T::from_text(text, giver).map(|value| value.map(Some))
    }
}

/// A key as messages call it, which show its line anyway.
pub(super) fn short(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The elements of a list with commas or spaces.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
}

fn integer(
    path: &str,
    least: usize,
    most: usize,
    example: &str,
    value: &Value<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<usize> {
    let key = short(path);
    let what = match value.get_ref() {
        DeValue::Integer(n) => match usize::from_str_radix(n.as_str(), n.radix()) {
            Ok(number) if (least..=most).contains(&number) => return Some(number),
            _ => {
                let shown = show_number(n);
                format!("{key} is {shown}; expected a whole number from {least} to {most}")
            }
        },
        other => format!(
            "{key} is {}; expected a whole number from {least} to {most}, such as {example}",
            kind(other)
        ),
    };
    mistakes.add(value.span().start, || what);
    None
}

pub(super) fn list<'v, 'i>(
    path: &str,
    example: &str,
    value: &'v Value<'i>,
    mistakes: &mut Mistakes<'_>,
) -> Option<&'v DeArray<'i>> {
    let example = match value.get_ref() {
        DeValue::Array(list) => return Some(list),
        DeValue::String(text) => quote(text),
        _ => quote(example),
    };
    mistakes.add(value.span().start, || {
        let (key, kind) = (short(path), kind(value.get_ref()));
        format!("{key} is {kind}; expected a list of strings: {key} = [{example}]")
    });
    None
}

pub(super) fn element_text<'v>(
    path: &str,
    example: &str,
    value: &'v Value<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<&'v str> {
    if let DeValue::String(text) = value.get_ref() {
        return Some(text);
    }
    mistakes.add(value.span().start, || {
        let (key, kind) = (short(path), kind(value.get_ref()));
        format!("an element of {key} is {kind}; expected a string, such as \"{example}\"")
    });
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    /// The value of `key = TEXT`, or what is told of it.
    fn read<T: Type>(text: &str) -> Result<T, Vec<String>> {
        let source = format!("key = {text}");
        let (table, errors) = DeTable::parse_recoverable(&source);
        assert_eq!(errors, [], "{text}");
        let mut mistakes = Mistakes::new(Box::new(|_, _| true));
        let value = table.get_ref().get("key").expect("a value");
        let value = T::from_toml("some.key", value, &mut mistakes);
        let (told, _) = mistakes.into_parts();
        value.ok_or_else(|| told.into_iter().map(|(_, what)| what).collect())
    }

    #[test]
    fn texts_and_names_of_files() {
        assert_eq!(read::<String>("\"x\""), Ok("x".to_owned()));
        assert_eq!(
            read::<String>("1"),
            Err(vec!["key is a number; expected a string".to_owned()])
        );
        assert_eq!(read::<PathBuf>("\"/run/x\""), Ok("/run/x".into()));
        for (text, what) in [("\"x\"", "\"x\""), ("\"\"", "\"\""), ("[]", "a list")] {
            assert_eq!(
                read::<PathBuf>(text),
                Err(vec![format!(
                    "some.key is {what}; expected a file's full name, which begins with /"
                )])
            );
        }
        let words = read::<Vec<String>>("[\"a\", \"b\"]");
        assert_eq!(words, Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read::<Option<Option<bool>>>("true"), Ok(Some(Some(true))));
    }
}
