//! Where settings come from, in which order they beat each other, and the reading of all of them in
//! one go.
//!
//! Command line beats environment, environment beats file, file beats default; a value that is beaten
//! is not looked at, but the file is always checked as a whole. Made by `cli`; `main` loads it at the
//! start, `server` again at SIGHUP, and the client commands ask it for their port only.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use super::diagnostic::{Errors, Problem, Text};
use super::nets::{self, ListenOn};
use super::{DEFAULT_FILE, Origin, Settings, file, read, values};
use crate::core::access::Networks;

/// Values as they were given, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) config: Option<PathBuf>,
    pub(super) address: Option<String>,
    pub(super) port: Option<String>,
    pub(super) allow: Option<String>,
    pub(super) packet_timeout: Option<String>,
    pub(super) delay_accept: Option<String>,
    pub(super) delay_write: Option<String>,
    pub(super) relaxed_command_check: bool,
    pub(super) debug: u8,
}

/// What the operator gave, kept as it was, so that reading the file again gives the same precedence.
#[derive(Clone, Debug)]
pub struct Sources {
    options: Given,
    environment: Given,
    /// Read where none is named and it exists.
    default_file: PathBuf,
    /// What relative names of files start from: `-daemon` changes the working directory later.
    folder: PathBuf,
}

impl Sources {
    /// Keeps what was given.
    pub(super) fn new(options: Given, environment: Given) -> Self {
        Self {
            options,
            environment,
            default_file: DEFAULT_FILE.into(),
            // Where there is no working directory, a relative name can't be opened either way.
            folder: std::env::current_dir().unwrap_or_default(),
        }
    }

    /// Reads the file, where there is one, and checks everything.
    ///
    /// # Errors
    /// All mistakes of command line, environment and file, where there is any.
    pub fn load(&self) -> Result<Settings, Errors> {
        check(&self.options, &self.environment, self.read()).map(|(settings, _)| settings)
    }

    /// The same, with all that is needed to come to these settings again whatever becomes of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_and_keep(&self) -> Result<(Settings, Snapshot), Errors> {
        let (settings, text) = check(&self.options, &self.environment, self.read())?;
        let snapshot = Snapshot {
            options: self.options.clone(),
            environment: self.environment.clone(),
            file: settings
                .file
                .clone()
                .zip(text.map(|text| text.as_str().to_owned())),
        };
        Ok((settings, snapshot))
    }

    /// The port on which the client commands ask, and a warning (one line) where the file that may
    /// say it is broken: `epmd -names` must work all the same. `-started` stays silent even so.
    ///
    /// # Errors
    /// An explicit port, `-port` or `ERL_EPMD_PORT`, that is none.
    pub fn client_port(&self) -> Result<(u16, Option<String>), Errors> {
        let mut settings = Settings::default();
        let mut overlay = Overlay::new(&self.options, &self.environment);
        let explicit = overlay.port(&mut settings);
        Errors::check(overlay.problems)?;
        if explicit {
            return Ok((settings.port, None));
        }
        let problems = match self.read() {
            Ok(None) => Vec::new(),
            Ok(Some((_, text))) => file::read_into(&mut settings, &text),
            Err(problems) => problems,
        };
        let warning = problems.first().map(|first| {
            let port = settings.port;
            format!("epmd: warning: {}; asking port {port}", first.headline())
        });
        Ok((settings.port, warning))
    }

    /// Whether the command line or the environment says a port.
    #[must_use]
    pub fn gives_port(&self) -> bool {
        self.options.port.is_some() || self.environment.port.is_some()
    }

    /// The file that would be read, where it is there and this user may not read it.
    #[must_use]
    pub fn kept_from_this_user(&self) -> Option<PathBuf> {
        let named = self.options.config.as_deref();
        let named = named.or(self.environment.config.as_deref());
        let path = named.map_or_else(|| self.default_file.clone(), |name| self.folder.join(name));
        let here = AtFlags::AT_EACCESS;
        let may = faccessat(AT_FDCWD, &path, AccessFlags::R_OK, here);
        (may == Err(Errno::EACCES)).then_some(path)
    }

    /// The file that is in force, opened and read, with its full name.
    fn read(&self) -> ReadFile {
        let named = self.options.config.as_deref();
        let named = named.or(self.environment.config.as_deref());
        if let Some(name) = named {
            let path = self.folder.join(name);
            return read::read(&path, name).map(|text| Some((path, text)));
        }
        let path: &Path = &self.default_file;
        if read::is_absent(path) {
            return Ok(None);
        }
        read::read(path, path).map(|text| Some((path.to_owned(), text)))
    }

    #[cfg(test)]
    pub(super) fn options(&self) -> &Given {
        &self.options
    }

    #[cfg(test)]
    pub(super) fn environment(&self) -> &Given {
        &self.environment
    }

    /// With another file in place of [`DEFAULT_FILE`].
    #[cfg(test)]
    pub(super) fn with_default_file(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.default_file);
        self
    }
}

/// What settings were once made of, for a time when the file is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    options: Given,
    environment: Given,
    /// The file's full name, and what it said.
    file: Option<(PathBuf, String)>,
}

impl Snapshot {
    /// The settings that it was made of.
    ///
    /// # Errors
    /// Where this version of the daemon takes them no longer.
    pub fn settings(&self) -> Result<Settings, Errors> {
        let file = self.file.clone().map(|(path, text)| {
            let text = Text::new(&path, text);
            (path, text)
        });
        check(&self.options, &self.environment, Ok(file)).map(|(settings, _)| settings)
    }

    /// As bytes.
    ///
    /// # Errors
    /// The name of a file that is not UTF-8.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// From bytes.
    ///
    /// # Errors
    /// Anything that [`Self::to_bytes`] of this version does not make.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A file that was read, or what is wrong with it; `None` is no file.
type ReadFile = Result<Option<(PathBuf, Text)>, Vec<Problem>>;

/// Checks everything, and makes settings of it.
fn check(
    options: &Given,
    environment: &Given,
    read: ReadFile,
) -> Result<(Settings, Option<Text>), Errors> {
    let mut settings = Settings::default();
    let mut in_file = Vec::new();
    let mut text = None;
    match read {
        Ok(None) => {}
        Ok(Some((path, said))) => {
            in_file = file::read_into(&mut settings, &said);
            settings.file = Some(path);
            text = Some(said);
        }
        Err(problems) => in_file = problems,
    }
    let mut problems = Overlay::new(options, environment).apply(&mut settings);
    problems.append(&mut in_file);
    Errors::check(problems).map(|()| (settings, text))
}

/// Options and environment, laid over what the file said.
struct Overlay<'a> {
    options: &'a Given,
    environment: &'a Given,
    problems: Vec<Problem>,
}

impl<'a> Overlay<'a> {
    fn new(options: &'a Given, environment: &'a Given) -> Self {
        Self {
            options,
            environment,
            problems: Vec::new(),
        }
    }

    /// Lays all of them over `settings`; gives what is wrong with them, options first.
    fn apply(mut self, settings: &mut Settings) -> Vec<Problem> {
        self.port(settings);
        self.address(settings);
        self.allow(settings);
        for (place, text, field) in [
            (
                "-packet_timeout",
                &self.options.packet_timeout,
                &mut settings.limits.request_timeout,
            ),
            (
                "-delay_accept",
                &self.options.delay_accept,
                &mut settings.delay_accept,
            ),
            (
                "-delay_write",
                &self.options.delay_write,
                &mut settings.delay_write,
            ),
        ] {
            match text.as_deref().map(values::seconds) {
                Some(Ok(time)) => *field = time,
                Some(Err(what)) => self.problems.push(Problem::new(place, what)),
                None => {}
            }
        }
        settings.relaxed_command_check =
            self.options.relaxed_command_check || self.environment.relaxed_command_check;
        settings.debug = self.options.debug;
        self.problems.sort_by_key(|p| !p.place().starts_with('-'));
        self.problems
    }

    /// Whether the port was given.
    fn port(&mut self, settings: &mut Settings) -> bool {
        let option = self.options.port.as_deref().map(|v| ("-port", v));
        let variable = self.environment.port.as_deref();
        let Some((place, text)) = option.or(variable.map(|v| ("ERL_EPMD_PORT", v))) else {
            return false;
        };
        match values::port(text) {
            Ok(port) => settings.port = port,
            Err(what) => self.problems.push(Problem::new(place, what)),
        }
        true
    }

    fn address(&mut self, settings: &mut Settings) {
        let option = items(self.options.address.as_deref()).map(|v| ("-address", "-port No", v));
        let variable = items(self.environment.address.as_deref())
            .map(|v| ("ERL_EPMD_ADDRESS", "ERL_EPMD_PORT", v));
        settings.listen_from = origin(&option, &variable, settings.listen_from);
        let Some((place, port_setting, items)) = option.or(variable) else {
            return;
        };
        let mut addresses = Vec::new();
        let mut every = false;
        for item in items {
            match nets::listen_on(item, port_setting) {
                Ok(ListenOn::Every) => every = true,
                Ok(ListenOn::One(address)) => addresses.push(address),
                Err(what) => self.problems.push(Problem::new(place, what)),
            }
        }
        settings.listen = (!every).then_some(addresses);
    }

    fn allow(&mut self, settings: &mut Settings) {
        let option = items(self.options.allow.as_deref()).map(|v| ("-allow", v));
        let variable = items(self.environment.allow.as_deref()).map(|v| ("EPMD_ALLOW", v));
        settings.allow_from = origin(&option, &variable, settings.allow_from);
        let Some((place, items)) = option.or(variable) else {
            return;
        };
        settings.rules.allow = Networks::default();
        for item in items {
            match nets::networks(item) {
                Ok(nets) => nets
                    .into_iter()
                    .for_each(|n| settings.rules.allow.insert(n)),
                Err(what) => self.problems.push(Problem::new(place, what)),
            }
        }
    }
}

/// Where a value comes from that option, variable and file may give.
fn origin<T>(option: &Option<T>, variable: &Option<T>, before: Origin) -> Origin {
    match (option, variable) {
        (Some(_), _) => Origin::CommandLine,
        (None, Some(_)) => Origin::Environment,
        (None, None) => before,
    }
}

/// The elements of a list with commas or spaces; a list of separators alone is none, as in stock.
fn items(text: Option<&str>) -> Option<Vec<&str>> {
    let items: Vec<_> = text?
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
        .collect();
    (!items.is_empty()).then_some(items)
}
