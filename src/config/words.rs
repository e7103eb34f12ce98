//! A value and a name as messages call them.
//!
//! Called by whatever reads the file, and by the doctor for names in headers.

use toml::de::DeValue;

use crate::core::audit::toml_string;

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

/// The first `most` of these, and how many more there are.
pub(crate) fn some_of<'a>(all: impl ExactSizeIterator<Item = &'a str>, most: usize) -> String {
    let more = all.len().saturating_sub(most);
    let mut text = all.take(most).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(bare_or_quoted("wg_man"), "wg_man");
        assert_eq!(bare_or_quoted("a.b"), "\"a.b\"");
        assert_eq!(bare_or_quoted(""), "\"\"");
    }
}
