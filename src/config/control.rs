//! Where the control socket is: the type of `control.socket`.
//!
//! A name, checked; whether the socket can be made there is the daemon's to find out. Called by the table of keys.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::diagnostic::{quote, show_path};
use super::mistakes::Mistakes;
use super::types::{Type, Value};
use super::words::kind;
use crate::core::status::CONTROL_SOCKET;

/// The longest name that a socket can have (unix(7)).
const MOST_BYTES: usize = 107;
/// What stands for no socket at all.
const NONE: &str = "none";

/// Where the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// At [`CONTROL_SOCKET`]; as a service of systemd, in the folder that that gives.
    #[default]
    Default,
    /// At this place.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl Control {
    /// The place at which a client asks; `None` where there is none.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Default => Some(Path::new(CONTROL_SOCKET)),
            Self::At(path) => Some(path),
            Self::None => None,
        }
    }

    /// In words.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Default => format!("{CONTROL_SOCKET} (as systemd's service, in its own folder)"),
            Self::At(path) => show_path(path),
            Self::None => NONE.to_owned(),
        }
    }
}

impl Type for Control {
    const KIND: &'static str = "a socket's name, or \"none\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let what = match value.get_ref() {
            DeValue::String(text) if text == NONE => return Some(Self::None),
            DeValue::String(text) => {
                let is_full = text.starts_with('/') && !text.ends_with('/') && !text.contains('\0');
                if is_full && text.len() <= MOST_BYTES {
                    return Some(Self::At(text.as_ref().into()));
                }
                quote(text)
            }
            other => kind(other).to_owned(),
        };
        mistakes.add(value.span().start, || {
            format!(
                "{path} is {what}; expected \"none\", or a socket's full name, which begins with / and has at most \
                 {MOST_BYTES} bytes"
            )
        });
        None
    }
}
