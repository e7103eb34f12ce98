//! Mistakes as they are found, in bounded memory: the first of the file are kept, the rest is counted.
//!
//! The walk over a file goes by the order of keys, not of lines, and a file of 4 MiB may be wrong in two
//! million places; so words are made only for what may still be among those that are shown. Filled by
//! `file` and `types`.

use super::diagnostic::MOST_SHOWN;

/// What makes a mistake worth telling: at this byte, and whether it is about which keys stand in which
/// table.
pub(super) type Worth<'a> = Box<dyn Fn(usize, bool) -> bool + 'a>;

/// What is wrong with what the parser understood.
pub(super) struct Mistakes<'a> {
    worth: Worth<'a>,
    kept: Vec<(usize, String)>,
    /// From this byte on, a mistake is only counted.
    full: usize,
    counted: usize,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(worth: Worth<'a>) -> Self {
        Self {
            worth,
            kept: Vec::new(),
            full: usize::MAX,
            counted: 0,
        }
    }

    /// A mistake at byte `at`: what is wrong, and what is expected.
    pub(super) fn add(&mut self, at: usize, what: impl FnOnce() -> String) {
        if (self.worth)(at, false) {
            self.keep(at, what);
        }
    }

    /// The same about which keys stand in which table, which is of no worth behind a broken header.
    pub(super) fn add_about_keys(&mut self, at: usize, what: impl FnOnce() -> String) {
        if (self.worth)(at, true) {
            self.keep(at, what);
        }
    }

    fn keep(&mut self, at: usize, what: impl FnOnce() -> String) {
        if at >= self.full {
            self.counted += 1;
            return;
        }
        self.kept.push((at, what()));
        if self.kept.len() >= 2 * MOST_SHOWN {
            self.kept.sort_by_key(|(at, _)| *at);
            self.counted += self.kept.len() - MOST_SHOWN;
            self.kept.truncate(MOST_SHOWN);
            self.full = self.kept.last().map_or(usize::MAX, |(at, _)| *at);
        }
    }

    /// Those that may be shown, and how many more there are.
    pub(super) fn into_parts(self) -> (Vec<(usize, String)>, usize) {
        (self.kept, self.counted)
    }
}
