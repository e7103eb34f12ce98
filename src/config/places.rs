//! Who said a value: the file, an environment variable, an option, or several of them.
//!
//! Keeps all of them, because what is beaten is worth a word: a network that is taken out of the file is
//! still served where a variable says so. Filled by `file` and `sources`, shown by `show` and `whom`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::diagnostic::show_path;
use crate::core::audit::Origin;

/// Who gives one value. Nobody: then it is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Whether the file gives it.
    pub file: bool,
    /// The file's line, counted from 1, where there is one place alone.
    pub line: Option<usize>,
    /// The environment variable that gives it.
    pub variable: Option<&'static str>,
    /// The option that gives it, without its dash.
    pub option: Option<&'static str>,
}

impl Place {
    /// The one that counts.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        if self.option.is_some() {
            Origin::CommandLine
        } else if self.variable.is_some() {
            Origin::Environment
        } else if self.file {
            Origin::File
        } else {
            Origin::Default
        }
    }

    /// All that give it, as they are called, the one that counts first.
    #[must_use]
    pub fn names(&self, file: Option<&Path>) -> Vec<String> {
        let option = self.option.map(|name| format!("-{name}"));
        let variable = self.variable.map(str::to_owned);
        let file = self.file.then(|| {
            let mut name = file.map_or_else(|| "the file".to_owned(), show_path);
            if let Some(line) = self.line {
                let _ = write!(name, ":{line}");
            }
            name
        });
        [option, variable, file].into_iter().flatten().collect()
    }
}

/// Who gives what, by the path of the key; what is not in it is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<&'static str, Place>);

impl Places {
    /// Who gives `path`.
    #[must_use]
    pub fn of(&self, path: &str) -> Place {
        self.0.get(path).copied().unwrap_or_default()
    }

    /// All that somebody gives.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Place)> {
        self.0.iter().map(|(path, place)| (*path, *place))
    }

    /// The entry of `path`, to be filled.
    pub(super) fn at(&mut self, path: &'static str) -> &mut Place {
        self.0.entry(path).or_default()
    }
}
