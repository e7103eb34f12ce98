//! Where settings come from, in which order they beat each other, and the reading of all of them in
//! one go.
//!
//! Command line beats environment, environment beats file, file beats default; a value that is beaten
//! is not looked at, but the file is always checked as a whole. Made by `cli`; `main` loads it at the
//! start, `server` again at SIGHUP, and the client commands ask it for their port only.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::diagnostic::{Errors, Problem, Text, show_path};
use super::settings::{DEFAULT_FILE, Settings};
use super::table::{KEYS, Key};
use super::types::Giver;
use super::{file, read, values};

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
    /// Not in what an older version kept.
    #[serde(default)]
    pub(super) no_sandbox: bool,
}

impl Given {
    /// The text of what the option of this name gives, or the variable that stands for it.
    pub(super) fn text(&self, option: &str) -> Option<&str> {
        match option {
            "address" => self.address.as_deref(),
            "port" => self.port.as_deref(),
            "allow" => self.allow.as_deref(),
            "packet_timeout" => self.packet_timeout.as_deref(),
            "delay_accept" => self.delay_accept.as_deref(),
            "delay_write" => self.delay_write.as_deref(),
            _ => None,
        }
    }
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
    /// The file was a descriptor's, and is read no more.
    spent: bool,
    /// `-socket`: where a client asks the daemon.
    socket: Option<PathBuf>,
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
            spent: false,
            socket: None,
        }
    }

    /// To be called once the daemon's settings are read. Where they come by way of a descriptor
    /// (`-config /dev/stdin`, `-config <(...)`), they can't be had again, and what is read there later may
    /// be anything: it gives what to say of that, and reading again is a mistake from now on.
    pub fn let_go(&mut self) -> Option<String> {
        let name = self.named()?;
        if !read::is_descriptor(&self.folder.join(name)) {
            return None;
        }
        let said = format!(
            "the settings came by way of a descriptor ({}), which can't be read again: SIGHUP changes nothing; \
             name a file to change them while epmd runs",
            show_path(name)
        );
        self.spent = true;
        Some(said)
    }

    /// The file that was named, if one was.
    fn named(&self) -> Option<&Path> {
        let named = self.options.config.as_deref();
        named.or(self.environment.config.as_deref())
    }

    /// With the place at which a client asks the daemon.
    pub(super) fn asking_at(mut self, socket: Option<PathBuf>) -> Self {
        self.socket = socket;
        self
    }

    /// Reads the file, where there is one, and checks everything.
    ///
    /// # Errors
    /// All mistakes of command line, environment and file, where there is any.
    pub fn load(&self) -> Result<Settings, Errors> {
        let read = self.read();
        check(&self.options, &self.environment, read, &BTreeMap::new())
            .map(|(settings, _)| settings)
    }

    /// The same, with all that is needed to come to these settings again whatever becomes of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_and_keep(&self) -> Result<(Settings, Snapshot), Errors> {
        let read = self.read();
        let (settings, text) = check(&self.options, &self.environment, read, &BTreeMap::new())?;
        let snapshot = Snapshot {
            options: self.options.clone(),
            environment: self.environment.clone(),
            file: settings
                .file
                .clone()
                .zip(text.map(|text| text.as_str().to_owned())),
            users: settings.names.looked_up(),
        };
        Ok((settings, snapshot))
    }

    /// The port on which the client commands ask, and a warning (one line) where the file that may
    /// say it is broken: `epmd -names` must work all the same. `-started` stays silent even so. Where this
    /// user may not read the file, which is then the daemon's alone, the default port is asked in silence.
    ///
    /// # Errors
    /// An explicit port, `-port` or `ERL_EPMD_PORT`, that is none.
    pub fn client_port(&self) -> Result<(u16, Option<String>), Errors> {
        let mut settings = Settings::default();
        let mut overlay = Overlay::new(&self.options, &self.environment);
        let explicit = overlay.key(Key::port(), &mut settings);
        Errors::check(overlay.problems)?;
        if explicit {
            return Ok((settings.port, None));
        }
        let problems = match self.read() {
            Ok(None) => Vec::new(),
            Ok(Some((_, text))) => file::read_into(&mut settings, &text, |_| Vec::new()),
            Err(problems) => problems,
        };
        let told = problems.first().filter(|first| !first.is_forbidden());
        let warning = told.map(|first| {
            let port = settings.port;
            format!("epmd: warning: {}; asking port {port}", first.headline())
        });
        Ok((settings.port, warning))
    }

    /// Where the daemon is asked for its status: `-socket`, else what the file says. Where that can't be read, or is
    /// wrong, or is a pipe, which is read once, it is the default, in silence.
    #[must_use]
    pub fn control(&self) -> Control {
        if let Some(path) = &self.socket {
            return Control::At(self.folder.join(path));
        }
        let mut settings = Settings::default();
        if self.path().is_file()
            && let Ok(Some((_, text))) = self.read()
        {
            file::read_into(&mut settings, &text, |_| Vec::new());
        }
        settings.control
    }

    /// Whether the command line or the environment says a port.
    #[must_use]
    pub fn gives_port(&self) -> bool {
        self.options.port.is_some() || self.environment.port.is_some()
    }

    /// The file that is read where it is there, with its full name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let named = self.named();
        named.map_or_else(|| self.default_file.clone(), |name| self.folder.join(name))
    }

    /// The file that would be read, where it is there and this user may not read it.
    #[must_use]
    pub fn kept_from_this_user(&self) -> Option<PathBuf> {
        let path = self.path();
        let here = AtFlags::AT_EACCESS;
        let may = faccessat(AT_FDCWD, &path, AccessFlags::R_OK, here);
        (may == Err(Errno::EACCES)).then_some(path)
    }

    /// The file that is in force, opened and read, with its full name.
    fn read(&self) -> ReadFile {
        if let Some(name) = self.named() {
            if self.spent {
                return Err(vec![Problem::new(show_path(name), SPENT)]);
            }
            let path = self.folder.join(name);
            // Who typed the name knows where it stands; of a variable one may not even know that it is set.
            let by = match self.options.config {
                Some(_) => "",
                None => " (EPMD_CONFIG names it)",
            };
            return match read::read(&path, name) {
                Ok(text) => Ok(Some((path, text))),
                Err(problems) => Err(problems.into_iter().map(|p| p.with(by)).collect()),
            };
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
    /// The numbers of the users whom it names, as they were then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<String, u32>,
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
        check(&self.options, &self.environment, Ok(file), &self.users).map(|(settings, _)| settings)
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

/// What is wrong with a descriptor's file at a reload.
const SPENT: &str =
    "this came by way of a descriptor, and can't be read again; expected the name of a file";

/// A file that was read, or what is wrong with it; `None` is no file.
type ReadFile = Result<Option<(PathBuf, Text)>, Vec<Problem>>;

/// Checks everything, and makes settings of it. `users` are known by number already.
fn check(
    options: &Given,
    environment: &Given,
    read: ReadFile,
    users: &BTreeMap<String, u32>,
) -> Result<(Settings, Option<Text>), Errors> {
    let mut settings = Settings::default();
    let mut in_file = Vec::new();
    let mut text = None;
    match read {
        Ok(None) => {}
        Ok(Some((path, said))) => {
            in_file = file::read_into(&mut settings, &said, |settings| {
                settings.names.look_up(users)
            });
            settings.rules.names = settings.names.rules();
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
        self.key(Key::port(), settings);
        for key in KEYS.iter().filter(|key| key.path != Key::port().path) {
            self.key(key, settings);
        }
        for (option, field) in [
            ("delay_accept", &mut settings.delay_accept),
            ("delay_write", &mut settings.delay_write),
        ] {
            match self.options.text(option).map(values::seconds) {
                Some(Ok(time)) => {
                    *field = time;
                    settings.places.at(option).option = Some(option);
                }
                Some(Err(what)) => self.problems.push(Problem::new(format!("-{option}"), what)),
                None => {}
            }
        }
        settings.relaxed_command_check =
            self.options.relaxed_command_check || self.environment.relaxed_command_check;
        if settings.relaxed_command_check {
            let place = settings.places.at(RELAXED);
            if self.options.relaxed_command_check {
                place.option = Some(RELAXED);
            } else {
                place.variable = Some("ERL_EPMD_RELAXED_COMMAND_CHECK");
            }
        }
        settings.debug = self.options.debug;
        if settings.debug > 0 {
            settings.places.at("debug").option = Some("debug");
        }
        settings.no_sandbox = self.options.no_sandbox;
        if settings.no_sandbox {
            settings.places.at("no_sandbox").option = Some("no_sandbox");
        }
        settings.listen_from = settings.places.of("listen").origin();
        settings.allow_from = settings.places.of("access.allow").origin();
        self.problems.sort_by_key(|p| !p.place().starts_with('-'));
        self.problems
    }

    /// Whether an option or a variable gave this key's value. The weaker of them is not looked at, but
    /// that it is there is kept.
    fn key(&mut self, key: &'static Key, settings: &mut Settings) -> bool {
        let Some(name) = key.option else {
            return false;
        };
        let by_variable = self.environment.text(name).zip(key.variable);
        let by_option = self.options.text(name);
        if let Some(text) = by_option
            && self.text(key, &format!("-{name}"), text, Giver::Option, settings)
        {
            settings.places.at(key.path).option = Some(name);
            // A variable that says nothing is not beaten.
            let says = |text: &str| text.contains(|c: char| c != ',' && !c.is_whitespace());
            if let Some((_, variable)) = by_variable.filter(|(text, _)| says(text)) {
                settings.places.at(key.path).variable = Some(variable);
            }
            return true;
        }
        if let Some((text, variable)) = by_variable
            && self.text(key, variable, text, Giver::Variable, settings)
        {
            settings.places.at(key.path).variable = Some(variable);
            return true;
        }
        false
    }

    /// Whether this text gives a value, be it right or wrong.
    fn text(
        &mut self,
        key: &Key,
        place: &str,
        text: &str,
        giver: Giver,
        settings: &mut Settings,
    ) -> bool {
        match key.slot.read_text(text, giver, settings) {
            Ok(given) => given,
            Err(wrong) => {
                let problems = wrong.into_iter().map(|what| Problem::new(place, what));
                self.problems.extend(problems);
                true
            }
        }
    }
}

/// The option's name, and the key under which it is shown.
const RELAXED: &str = "relaxed_command_check";
