//! A host's files, units and diversions, to be compared before and after.
//!
//! Not compared is what a package manager and a running system write for themselves: their records, caches,
//! logs, and the users' numbers: erlang-base, too, makes one and takes it away.

use std::collections::BTreeMap;

use super::Stage;

/// Files by their path: kind, mode, owner and, where it may be one of settings or of units, content.
#[derive(Clone, Debug)]
pub(super) struct Snapshot(BTreeMap<String, String>);

const FILES: &str = r"
find /etc /usr /opt /srv /var/lib/systemd /var/lib/epmd /run/epmd \
    \( -name '*-' -o -name .pwd.lock -o -name ld.so.cache -o -path /var/lib/systemd/catalog/database \
       -o -path /var/lib/systemd/timers -o -path /var/lib/systemd/random-seed -o -path /etc/rabbitmq \
       -o -name __pycache__ \) -prune -o \
    ! -type d -printf '%p\t%y %m %u %g %l\n' -o -printf '%p\t%y %m %u %g\n' 2>/dev/null
find /etc /usr/lib/systemd/system /usr/bin/epmd /usr/lib/sysusers.d -type f \
    ! -name '*-' ! -name .pwd.lock ! -name ld.so.cache ! -path '/etc/rabbitmq/*' \
    ! -name passwd ! -name group ! -name shadow ! -name gshadow -exec md5sum {} + |
    sed 's/^\([^ ]*\)  \(.*\)/\2 (content)\t\1/'
find /run/systemd/system /run/systemd/transient -type f -printf '%p\tis there\n' 2>/dev/null
getent passwd | cut -d: -f 1,6,7 | sed 's/$/\ta user/'
getent group | cut -d: -f 1 | sed 's/$/\ta group/'
dpkg-divert --list | grep epmd | sed 's/$/\tdiverted/'
for unit in epmd.service epmd.socket epmd@.service epmd@.socket hardened-epmd.service hardened-epmd.socket; do
    printf '%s enabled\t%s\n' $unit $(systemctl is-enabled $unit 2>/dev/null)
    systemctl cat $unit 2>/dev/null | sed -n 's/^# \(\/.*\)/\1/p' | sed 's/^/unit /; s/$/\tthere/'
done
dpkg --verify erlang-base 2>&1 | sed 's/$/\tdpkg --verify/'
:";

impl Snapshot {
    /// As the host is now.
    pub(super) fn of(stage: &Stage<'_>) -> Self {
        let lines = stage.must(FILES);
        let pairs = lines.lines().filter_map(|line| line.split_once('\t'));
        Self(
            pairs
                .map(|(path, rest)| (path.to_owned(), rest.trim_end().to_owned()))
                .collect(),
        )
    }

    /// Fails where the host is another now.
    pub(super) fn is_still(&self, stage: &Stage<'_>, when: &str) {
        let now = Self::of(stage);
        let mut changes = Vec::new();
        for (path, before) in &self.0 {
            match now.0.get(path) {
                Some(after) if after == before => {}
                Some(after) => changes.push(format!("{path}: {before} is now {after}")),
                None => changes.push(format!("{path}: gone, was {before}")),
            }
        }
        let more = now.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        changes.extend(more.map(|(path, after)| format!("{path}: is new, {after}")));
        assert!(changes.is_empty(), "{when}: {changes:#?}");
        assert!(self.0.len() > 1000, "{} things are compared", self.0.len());
    }
}
