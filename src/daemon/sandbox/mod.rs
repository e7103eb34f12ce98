//! The daemon shuts itself in, whoever starts it: `erl` does, most of all, as the application's user, and
//! a fault here must be worth nothing to who wants that user's files and keys.
//!
//! No new privileges, then no capabilities, then Landlock as far as the kernel goes; in this order, because
//! each holds for one thread and those that it starts. So it comes after everything is bound and before there
//! is a second thread (`start`), and the process's first thread is asked where the daemon runs on another one
//! ([`FirstThread`]). What is permitted then, and why, is one table (`permitted`); what is in force is read
//! back from the process for `-status` (`in_force`). What can't be had is said once, and it serves without.

mod folder;
mod in_force;
mod permitted;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};
use nix::sys::prctl;

use super::log::Level;
use crate::sys;
use permitted::{May, PERMITTED, What};

/// The newest rights that are asked of the kernel. Those of later ones (paths of sockets, UDP) could not be
/// tried yet, and what is handled is forbidden where no rule permits it.
const NEWEST: ABI = ABI::V7;
/// How long the first thread may take to shut itself in: it does nothing else.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon is to be able to do once it is shut in, as far as the operator decides it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The settings' file, be it there or not.
    pub settings: PathBuf,
    /// The audit's file, where there is one, be it there or not.
    pub audit: Option<PathBuf>,
    /// Whether systemd runs it: as a service and not as root its user is epmd's own.
    pub is_service: bool,
    /// The exporter's port.
    pub metrics_port: Option<u16>,
    /// Whom it tells how it is (`NOTIFY_SOCKET`) has an abstract socket, which is outside.
    pub tells_an_abstract_socket: bool,
}

/// What has come of it.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// `-no_sandbox`.
    is_off: bool,
    /// The version of Landlock's rights that holds.
    landlock: Option<u32>,
    /// The ports that can still be bound, where that is restricted.
    ports: Option<Vec<u16>>,
    /// The settings' file as it was, and whether it may be another one.
    settings: Settings,
    /// Without these open, what the rules for /proc are tied to would go when the kernel needs memory.
    _open: Vec<File>,
}

#[derive(Debug, Default)]
struct Settings {
    path: PathBuf,
    /// Device and inode.
    was: Option<(u64, u64)>,
    folder_is_permitted: bool,
}

/// A line for the log.
pub type Note = (Level, String);

impl Sandbox {
    /// None: `-no_sandbox`.
    #[must_use]
    pub fn off() -> (Self, Vec<Note>) {
        let text = "no sandbox (-no_sandbox): a fault in this epmd can do all that its user may";
        let sandbox = Self {
            is_off: true,
            ..Self::default()
        };
        (sandbox, vec![(Level::Warning, text.to_owned())])
    }

    /// Shuts this process in: to be called when everything is bound, while this is its only thread but for
    /// `first`. Gives what is to be said of it.
    #[must_use]
    pub fn shut_in(plan: &Plan, first: Option<&FirstThread>) -> (Self, Vec<Note>) {
        let settings = folder::of(&plan.settings, plan.is_service);
        let folder_is_permitted = !settings.folders.is_empty();
        let was = identity(&plan.settings);
        let of_proc = PERMITTED.iter().filter_map(|row| match row.what {
            What::At(path) if path.starts_with("/proc/") => File::open(path).ok(),
            _ => None,
        });
        let open = of_proc.collect();
        let rules = Rules {
            files: settings.files,
            folders: settings.folders,
            audit: plan
                .audit
                .as_deref()
                .map(folder::of_lines)
                .unwrap_or_default(),
            ports: plan.metrics_port.into_iter().collect(),
            tells_an_abstract_socket: plan.tells_an_abstract_socket,
        };
        let (mut landlock, mut notes) = rules.shut_this_thread_in();
        if let Some(first) = first {
            match first.shut_in(rules.clone()) {
                Some((_, other)) if other == notes => {}
                Some((there, other)) => {
                    landlock = landlock.min(there);
                    notes.extend(other);
                }
                None => notes.push((
                    Level::Warning,
                    "sandbox: the process's first thread is outside of it, as it does not answer"
                        .into(),
                )),
            }
        }
        let net = |abi: &u32| *abi >= ABI::V4 as u32;
        let sandbox = Self {
            is_off: false,
            landlock,
            ports: landlock.filter(net).map(|_| rules.ports),
            settings: Settings {
                path: plan.settings.clone(),
                was,
                folder_is_permitted,
            },
            _open: open,
        };
        (sandbox, notes)
    }

    /// Whether a TCP port can still be bound.
    #[must_use]
    pub fn may_bind(&self, port: u16) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&port))
    }

    /// Why the settings' file can't be read, where it is that another one has taken its place since the
    /// start; and what to do.
    #[must_use]
    pub fn keeps_from_the_settings(&self) -> Option<String> {
        let Settings {
            path,
            was,
            folder_is_permitted,
        } = &self.settings;
        let is_another = identity(path).is_some_and(|is| Some(is) != *was);
        if self.landlock.is_none() || *folder_is_permitted || !is_another {
            return None;
        }
        let path = path.display();
        Some(format!(
            "{path} is not the file that was there when this epmd started, and it may read no other one: it has shut \
             itself in, and {} holds more than its settings. Start it again (as root, `epmd -daemon -takeover` does \
             and loses nothing); and from then on write into the file instead of replacing it, or keep it in a \
             folder of its own (-config, EPMD_CONFIG), in which it may be replaced",
            folder::of_file(&self.settings.path).display()
        ))
    }

    /// What is in force in this process now, as the kernel says.
    #[must_use]
    pub fn in_force(&self) -> crate::core::status::Sandbox {
        in_force::read(self.landlock, self.is_off)
    }
}

/// What tells a file from another one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino()))
}

/// What one thread is to be held to.
#[derive(Clone, Debug)]
struct Rules {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// What lines may be written to, and the folders in which it may be made.
    audit: folder::Places,
    ports: Vec<u16>,
    tells_an_abstract_socket: bool,
}

impl Rules {
    /// Does it; gives the version of Landlock that holds, and what could not be had.
    fn shut_this_thread_in(&self) -> (Option<u32>, Vec<Note>) {
        let mut notes = Vec::new();
        let mut lacks = |level, what: String| notes.push((level, format!("sandbox: {what}")));
        if let Err(error) = prctl::set_no_new_privs() {
            lacks(
                Level::Warning,
                format!("new privileges could still be had, as prctl(2) says: {error}"),
            );
        }
        if let Err(error) = sys::drop_capabilities() {
            lacks(
                Level::Warning,
                format!(
                    "the capabilities that it was started with stay, as capset(2) says: {error}"
                ),
            );
        }
        let landlock = match self.landlock(&mut lacks) {
            Ok(Ok(version)) => Some(version),
            Ok(Err(why)) => {
                lacks(Level::Info, why.to_owned());
                None
            }
            Err(error) => {
                lacks(
                    Level::Warning,
                    format!(
                        "files and connections are not kept from it, as Landlock can't be had: {error}"
                    ),
                );
                None
            }
        };
        (landlock, notes)
    }

    /// Landlock, as far as the kernel goes; why there is none, where it has none.
    fn landlock(
        &self,
        lacks: &mut impl FnMut(Level, String),
    ) -> Result<Result<u32, &'static str>, RulesetError> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::Signal)?;
        if !self.tells_an_abstract_socket {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
        }
        let mut ruleset = ruleset.create()?;
        for row in PERMITTED {
            ruleset = self.permit(ruleset, row.what, row.may, lacks)?;
        }
        // That is done, or said, already.
        let status = ruleset.no_new_privs(false).restrict_self()?;
        Ok(match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err(
                "files and connections are not kept from it: this kernel has Landlock, and it is not switched on \
                 (landlock in the kernel's option lsm=)",
            ),
            (RulesetStatus::NotEnforced, _) => Err(
                "files and connections are not kept from it: this kernel has no Landlock (Linux 5.13 and later \
                 have), or a seccomp filter does not let it be used (landlock_create_ruleset, landlock_add_rule, \
                 landlock_restrict_self)",
            ),
            (_, LandlockStatus::Available { effective_abi, .. }) => {
                Ok(effective_abi.min(NEWEST) as u32)
            }
            (_, _) => Ok(0),
        })
    }

    fn permit(
        &self,
        ruleset: RulesetCreated,
        what: What,
        may: May,
        lacks: &mut impl FnMut(Level, String),
    ) -> Result<RulesetCreated, RulesetError> {
        let one;
        let paths: &[PathBuf] = match what {
            What::SettingsFile => &self.files,
            What::SettingsFolder => &self.folders,
            What::AuditFile => &self.audit.files,
            What::AuditFolder => &self.audit.folders,
            What::At(path) => {
                one = [PathBuf::from(path)];
                &one
            }
            What::MetricsPort => {
                let mut ports = self.ports.iter();
                return ports.try_fold(ruleset, |ruleset, port| {
                    ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))
                });
            }
        };
        let mut paths = paths.iter();
        paths.try_fold(ruleset, |ruleset, path| match PathFd::new(path) {
            Ok(place) => ruleset.add_rule(PathBeneath::new(place, rights(may))),
            Err(error) => {
                // What is not there needs no rule.
                if path.exists() {
                    lacks(
                        Level::Warning,
                        format!("it can't be permitted what it needs there: {error}"),
                    );
                }
                Ok(ruleset)
            }
        })
    }
}

fn rights(may: May) -> BitFlags<AccessFs> {
    match may {
        May::Read => AccessFs::ReadFile.into(),
        May::ReadAndList => AccessFs::ReadFile | AccessFs::ReadDir,
        May::Write => AccessFs::WriteFile.into(),
        May::WriteAndMake => AccessFs::WriteFile | AccessFs::MakeReg,
        // Of a port, which is none of a file's.
        May::Bind => BitFlags::EMPTY,
    }
}

/// The process's first thread, where the daemon runs on another one that has more stack. It waits for the
/// other's end, and has to be shut in like all.
#[derive(Debug)]
pub struct FirstThread(Sender<Job>);

/// What it waits for; see [`first_thread`].
#[derive(Debug)]
pub struct Jobs(Receiver<Job>);

type Job = (Rules, Sender<(Option<u32>, Vec<Note>)>);

/// The two ends of what is said to the first thread.
#[must_use]
pub fn first_thread() -> (FirstThread, Jobs) {
    let (asks, asked) = mpsc::channel();
    (FirstThread(asks), Jobs(asked))
}

impl FirstThread {
    fn shut_in(&self, rules: Rules) -> Option<(Option<u32>, Vec<Note>)> {
        let (says, said) = mpsc::channel();
        self.0.send((rules, says)).ok()?;
        said.recv_timeout(PATIENCE).ok()
    }
}

impl Jobs {
    /// Does what this thread is asked for, until nobody can ask any more.
    pub fn work(self) {
        for (rules, says) in self.0 {
            // Nobody hears it where that took too long.
            let _ = says.send(rules.shut_this_thread_in());
        }
    }
}
