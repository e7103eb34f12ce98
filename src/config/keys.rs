//! Words for a key that there is not.
//!
//! It sees names only: what is known comes from the table. Called by `file`.

use super::diagnostic::quote;
use super::table;

/// What is wrong with `key` where only `known` ones are expected.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    let hint = match (nearest(key, known), table::belongs(key)) {
        (Some(near), _) => format!(", which is probably {near}"),
        (None, Some(place)) => format!(", which belongs {place}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys() {
        for (key, prefix, message) in [
            (
                "lisen",
                "",
                r#"unknown key "lisen", which is probably listen; expected one of listen, port, access, names, limits, audit, metrics, watch, control, guard"#,
            ),
            (
                "per_source",
                "limits.",
                r#"unknown key "per_source", which is probably per-source; expected one of connections, per-source, request-timeout, registrations"#,
            ),
            (
                "Lookups",
                "audit.",
                r#"unknown key "Lookups", which is probably lookups; expected one of format, file, window, lookups"#,
            ),
            (
                "deny",
                "",
                r#"unknown key "deny", which belongs in [access]; expected one of listen, port, access, names, limits, audit, metrics, watch, control, guard"#,
            ),
            (
                "port",
                "access.",
                r#"unknown key "port", which belongs at the top of the file; expected one of allow, deny, list, enforce, node, strangers"#,
            ),
            (
                "deny",
                "access.node.NAME.",
                r#"unknown key "deny", which belongs in [access]; expected allow"#,
            ),
            (
                "colour",
                "audit.",
                r#"unknown key "colour"; expected one of format, file, window, lookups"#,
            ),
            ("", "access.node.NAME.", r#"unknown key ""; expected allow"#),
        ] {
            assert_eq!(unknown(key, &table::children(prefix)), message);
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
}
