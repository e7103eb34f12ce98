//! Why a takeover does not come about, in words: what is wrong, with which process, and what to do.
//!
//! Called by `takeover`.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::hold::HoldError;
use super::holder::{Holder, Process};
use crate::daemon::process;

/// What a takeover that can't be costs, if one goes on without.
const COST: &str = "without it every name would be gone at once: nodes of OTP 24 and later register again \
                    by themselves within seconds, older ones have to be restarted; -takeover=force ends the \
                    old epmd all the same";

/// Root's rights are not whole, as in most containers.
const NO_PTRACE: &str = "this process has no CAP_SYS_PTRACE, without which root can't look into other processes \
                         either: start it with that (docker's and podman's --cap-add=SYS_PTRACE)";

/// Why a takeover does not come about.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The kernel or /proc can't be asked who holds the port.
    Blind(io::Error),
    /// Whoever listens there can't be seen.
    Unseen(SocketAddr),
    /// The port is not one process's.
    Several(Vec<Holder>),
    /// It does not answer as an epmd.
    NoEpmd(Process, SocketAddr, String),
    /// The kernel does not let it be done.
    Cannot(Process, String),
    /// What it says of itself does not hold.
    Lies(Process, String),
    /// It is over, or does not stand still.
    Lost(Process, String),
    /// All is taken, but has no place.
    NoPlace(String),
}

impl Trouble {
    /// The old one is an epmd, so that it may be ended where the operator has said so.
    pub(super) fn is_of_an_epmd(&self) -> bool {
        matches!(
            self,
            Self::Cannot(..) | Self::Lies(..) | Self::Lost(..) | Self::NoPlace(_)
        )
    }

    /// It can't be held.
    pub(super) fn holding(process: &Process, error: &HoldError) -> Self {
        match error {
            HoldError::Gone => Self::Lost(process.clone(), "it has just ended".to_owned()),
            HoldError::Stopped => Self::Lost(
                process.clone(),
                format!("it is stopped; `kill -CONT {}` has it go on", process.pid),
            ),
            HoldError::Restless => {
                let why = "it does not come to a stand within a second";
                Self::Lost(process.clone(), why.to_owned())
            }
            HoldError::Refused(error) => {
                Self::Cannot(process.clone(), why_not_held(process, *error))
            }
        }
    }

    /// Its descriptors can't be copied.
    pub(super) fn copying(process: &Process, error: &io::Error) -> Self {
        let why = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSYS) => format!(
                "pidfd_getfd(2) came with Linux 5.6, and this is {}",
                kernel_release()
            ),
            Some(Errno::ESRCH) => return Self::holding(process, &HoldError::Gone),
            Some(Errno::EPERM) => why_forbidden(process, "pidfd_getfd"),
            Some(Errno::EMFILE | Errno::ENFILE) => format!(
                "a copy of each of its descriptors is needed, and this process may have no more ({error}): \
                 raise the limit (LimitNOFILE=, ulimit -n)"
            ),
            _ => format!("pidfd_getfd(2) says: {error}"),
        };
        Self::Cannot(process.clone(), why)
    }

    /// It can't answer, because somebody has stopped it.
    pub(super) fn stopped(process: &Process, place: SocketAddr) -> Option<Self> {
        let is_stopped = process.status("State")?.starts_with('T');
        let why = format!(
            "it does not answer a dump, because it is stopped; `kill -CONT {}` has it go on",
            process.pid
        );
        is_stopped.then(|| Self::NoEpmd(process.clone(), place, why))
    }
}

/// Why ptrace(2) is refused.
fn why_not_held(process: &Process, error: Errno) -> String {
    match error {
        Errno::EPERM => why_forbidden(process, "ptrace"),
        Errno::ENOSYS => format!("this kernel ({}) has no ptrace(2)", kernel_release()),
        error => format!("ptrace(2) says: {}", io::Error::from(error)),
    }
}

/// Who forbids a system call that looks into another process.
fn why_forbidden(process: &Process, call: &str) -> String {
    if let Some(tracer) = process.status("TracerPid").and_then(|pid| pid.parse().ok())
        && tracer != 0
        && u32::try_from(tracer) != Ok(std::process::id())
    {
        return format!("{} traces it already", Process::of(tracer));
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if scope.trim() == "3" {
        return "kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot"
            .to_owned();
    }
    if !geteuid().is_root() {
        return "only root may look into it".to_owned();
    }
    if !may_trace() {
        return NO_PTRACE.to_owned();
    }
    format!(
        "{call}(2) is forbidden, as a container's seccomp filter does it (systemd-nspawn's is lifted by \
         --system-call-filter={call}) or a security module"
    )
}

/// Whether this process may look into those of others, as far as its capabilities go.
fn may_trace() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let own = process::own().and_then(|own| Process::of(own).status("CapEff"));
    let own = own.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    own.is_none_or(|mask| mask & CAP_SYS_PTRACE != 0)
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blind(error) => write!(
                f,
                "can't find out who holds the port, because the kernel can't be asked: {error}"
            ),
            Self::Unseen(address) => {
                write!(
                    f,
                    "somebody listens on {address}, and no process that can be seen holds that socket"
                )?;
                if geteuid().is_root() && !may_trace() {
                    write!(f, ", because {NO_PTRACE}")
                } else if geteuid().is_root() {
                    f.write_str("; it may be another container's, which has to be stopped there")
                } else {
                    f.write_str("; start this as root")
                }
            }
            Self::Several(holders) => {
                f.write_str("not one process has the port, but several: ")?;
                for (place, holder) in holders.iter().enumerate() {
                    let comma = if place > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", holder.process)?;
                    if let Some((_, socket)) = holder.sockets.first() {
                        write!(f, " on {}", socket.address)?;
                    }
                }
                f.write_str("; stop all but the epmd whose place is to be taken")
            }
            Self::NoEpmd(process, place, why) => write!(
                f,
                "{process} has {place}, and is no epmd whose place can be taken: {why}; it is left alone: \
                 stop it, or use -port"
            ),
            Self::Cannot(process, why) | Self::Lost(process, why) => write!(
                f,
                "can't take the place of {process}: {why}; it is left alone: {COST}"
            ),
            Self::Lies(process, why) => write!(
                f,
                "can't take the place of {process}, whose dump is not true: {why}; it is left alone: {COST}"
            ),
            Self::NoPlace(why) => write!(f, "{why}; the old epmd is left alone: {COST}"),
        }
    }
}
