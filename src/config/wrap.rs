//! Words in lines that a terminal of 80 columns shows whole.
//!
//! Called by what makes `-help` and the usage text.

/// Where descriptions are broken.
pub(super) const WIDTH: usize = 74;

/// Adds `items` with spaces between them, in lines of at most `width`; `first` begins the first
/// line, and as many spaces each other.
pub(super) fn wrap(text: &mut String, first: &str, items: &[String], width: usize) {
    let mut line = first.to_owned();
    let mut empty = true;
    for item in items {
        if !empty && line.len() + 1 + item.len() > width {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(first.len());
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(item);
        empty = false;
    }
    text.push_str(&line);
    text.push('\n');
}
