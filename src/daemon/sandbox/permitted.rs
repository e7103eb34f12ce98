//! What the daemon may do once it is shut in, and for what it needs it: all else is forbidden, as far as
//! the kernel goes. Used by `sandbox` alone.
//!
//! Not here, because it is open or bound already, or because Landlock does not decide it: the listening
//! sockets, the control socket, what systemd keeps, the sockets of journald and syslog (they have paths, and a
//! socket's path is no file that is opened), the netlink socket, /dev/null.

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permitted {
    pub(super) what: What,
    pub(super) may: May,
    /// For what it is needed.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "it is for the reader, and for the test of it")
    )]
    pub(super) why: &'static str,
}

/// On what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The settings' file, as it is now.
    SettingsFile,
    /// The folders in which it may be replaced (`folder`).
    SettingsFolder,
    /// What `audit.file` is, where it is no file of a folder's.
    AuditFile,
    /// The folder in which it is made, and made anew.
    AuditFolder,
    /// This path, where it is there.
    At(&'static str),
    /// `metrics.listen`'s port.
    MetricsPort,
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    Read,
    ReadAndList,
    Write,
    WriteAndMake,
    Bind,
}

/// Everything that is permitted.
pub(super) const PERMITTED: &[Permitted] = &[
    Permitted {
        what: What::SettingsFile,
        may: May::Read,
        why: "SIGHUP: the settings are read again",
    },
    Permitted {
        what: What::SettingsFolder,
        may: May::Read,
        why: "SIGHUP, where another file has taken the settings' place, as editors and ConfigMaps do it",
    },
    Permitted {
        what: What::AuditFile,
        may: May::Write,
        why: "a pipe or device for lines is opened again when its reader has gone",
    },
    Permitted {
        what: What::AuditFolder,
        may: May::WriteAndMake,
        why: "the file for lines is made anew at SIGHUP, when logrotate has renamed it",
    },
    Permitted {
        what: What::At("/proc/self"),
        may: May::ReadAndList,
        why: "descriptors, memory and threads for -status and /metrics, and what is in force of the sandbox",
    },
    Permitted {
        what: What::At("/proc/sys/kernel/overflowuid"),
        may: May::Read,
        why: "the user that stands for all that are unknown, where sockets are asked for (diag)",
    },
    Permitted {
        what: What::At("/etc/localtime"),
        may: May::Read,
        why: "syslog(3) writes local time",
    },
    Permitted {
        what: What::At("/usr/share/zoneinfo"),
        may: May::Read,
        why: "the same, where TZ names a zone",
    },
    Permitted {
        what: What::At("/etc/passwd"),
        may: May::Read,
        why: "[names] at a reload, and what users are called in the audit",
    },
    Permitted {
        what: What::At("/etc/nsswitch.conf"),
        may: May::Read,
        why: "the C library looks whether that has changed where users are looked up",
    },
    Permitted {
        what: What::At("/run/systemd/userdb"),
        may: May::ReadAndList,
        why: "systemd's users: which services know any",
    },
    Permitted {
        what: What::At("/var/lib/sss/mc"),
        may: May::Read,
        why: "users of sssd, out of its memory",
    },
    Permitted {
        what: What::MetricsPort,
        may: May::Bind,
        why: "an exporter's address that is taken is tried again, and may change at a reload",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_permitted_thing_has_a_reason_of_its_own() {
        for (place, row) in PERMITTED.iter().enumerate() {
            let (before, _) = PERMITTED.split_at(place);
            assert!(!row.why.is_empty(), "{row:?}");
            assert!(
                before
                    .iter()
                    .all(|b| b.what != row.what && b.why != row.why),
                "{row:?} is there twice"
            );
            assert_eq!(row.may == May::Bind, row.what == What::MetricsPort);
        }
    }
}
