//! Which keys there are, and words for one that is not.
//!
//! It sees names only. Called by `file`.

use toml::de::DeValue;

use super::diagnostic::quote;
use crate::core::audit::toml_string;

/// At the top of the file.
pub(super) const ROOT: &[&str] = &["listen", "port", "access", "limits", "audit", "metrics"];
/// In `[access]`.
pub(super) const ACCESS: &[&str] = &["allow", "deny", "list", "enforce", "node"];
/// In `[access.node.NAME]`.
pub(super) const NODE: &[&str] = &["allow"];
/// In `[limits]`.
pub(super) const LIMITS: &[&str] = &[
    "connections",
    "per-source",
    "request-timeout",
    "registrations",
];
/// In `[audit]`.
pub(super) const AUDIT: &[&str] = &["format", "window", "lookups"];

/// In `[metrics]`.
pub(super) const METRICS: &[&str] = &["listen"];

/// Where else a key may belong, and how that place is called.
const PLACES: [(&[&str], &str); 4] = [
    (ROOT, "at the top of the file"),
    (ACCESS, "in [access]"),
    (LIMITS, "in [limits]"),
    (AUDIT, "in [audit]"),
];

/// What is wrong with `key` where only `known` ones are expected.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    let place = PLACES.iter().find(|(keys, _)| keys.contains(&key));
    let hint = match (nearest(key, known), place) {
        (Some(near), _) => format!(", which is probably {near}"),
        (None, Some((_, place))) => format!(", which belongs {place}"),
        (None, None) => String::new(),
    };
    let expected = match known {
        [one] => (*one).to_owned(),
        _ => format!("one of {}", known.join(", ")),
    };
    format!("unknown key {}{hint}; expected {expected}", quote(key))
}

/// The known key that `key` is likely meant to be.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = key.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|k| (distance(&plain, k), *k))
        .filter(|(distance, k)| *distance <= (k.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// How many letters must be put in, taken out or changed to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    // A key from the file may have any length, a known one has not: no need to count that far.
    if a.len() > 4 * b.len().max(4) {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (above, x) in a.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let changed = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// What a value is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `name` as it stands in a table's header.
pub(crate) fn bare_or_quoted(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare {
        name.to_owned()
    } else {
        toml_string(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys() {
        for (key, known, message) in [
            (
                "lisen",
                ROOT,
                r#"unknown key "lisen", which is probably listen; expected one of listen, port, access, limits, audit, metrics"#,
            ),
            (
                "per_source",
                LIMITS,
                r#"unknown key "per_source", which is probably per-source; expected one of connections, per-source, request-timeout, registrations"#,
            ),
            (
                "Lookups",
                AUDIT,
                r#"unknown key "Lookups", which is probably lookups; expected one of format, window, lookups"#,
            ),
            (
                "deny",
                ROOT,
                r#"unknown key "deny", which belongs in [access]; expected one of listen, port, access, limits, audit, metrics"#,
            ),
            (
                "port",
                ACCESS,
                r#"unknown key "port", which belongs at the top of the file; expected one of allow, deny, list, enforce, node"#,
            ),
            (
                "deny",
                NODE,
                r#"unknown key "deny", which belongs in [access]; expected allow"#,
            ),
            (
                "colour",
                AUDIT,
                r#"unknown key "colour"; expected one of format, window, lookups"#,
            ),
            ("", NODE, r#"unknown key ""; expected allow"#),
        ] {
            assert_eq!(unknown(key, known), message);
        }
    }

    #[test]
    fn distances() {
        for (a, b, n) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abd", "abc", 1),
            ("ac", "abc", 1),
            ("xabc", "abc", 1),
            ("prot", "port", 2),
        ] {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
        assert_eq!(distance(&"x".repeat(1_000_000), "port"), usize::MAX);
    }

    #[test]
    fn headers() {
        assert_eq!(bare_or_quoted("wg_man"), "wg_man");
        assert_eq!(bare_or_quoted("a.b"), "\"a.b\"");
        assert_eq!(bare_or_quoted(""), "\"\"");
    }
}
