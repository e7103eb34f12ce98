//! Which uids the kernel shows truly.
//!
//! It shows a user to a user namespace as that one calls it, and whoever the namespace does not know as the
//! overflow uid (user_namespaces(7)), which may be a user's own as well: that is then nobody known. Called
//! by `diag`.

use std::fs;
use std::ops::RangeInclusive;

/// The uid that stands for whoever is not known, where nobody has set another.
const OVERFLOW: u32 = 65_534;
/// What one has to know to be taken for a namespace that knows all users: those that systems give out.
const ALL_USERS: RangeInclusive<u32> = 0..=65_533;

/// What can be believed of the kernel's uids.
#[derive(Debug)]
pub(super) struct Sight {
    /// The users that are known; `None` where that can't be told.
    known: Option<Vec<RangeInclusive<u32>>>,
    /// Stands for the others.
    overflow: u32,
}

impl Sight {
    /// What is shown to this process's own namespace.
    pub(super) fn own() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").ok();
        Self {
            // Without /proc nobody may be taken for somebody else.
            known: Some(map.map_or_else(Vec::new, |map| known(&map))),
            ..Self::elsewhere()
        }
    }

    /// What is shown to a namespace of which nothing is known, such as the host's own.
    pub(super) fn elsewhere() -> Self {
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        Self {
            known: None,
            overflow: overflow
                .and_then(|number| number.trim().parse().ok())
                .unwrap_or(OVERFLOW),
        }
    }

    /// The user of a socket, as the kernel tells of it. That of one which no process has is 0, and is
    /// nobody's.
    pub(super) fn user(&self, uid: u32, inode: u32) -> Option<u32> {
        let is_true = match &self.known {
            Some(known) if knows(known, &(0..=u32::MAX - 1)) => true,
            Some(known) => uid != self.overflow && knows(known, &(uid..=uid)),
            None => uid != self.overflow,
        };
        (is_true && inode != 0).then_some(uid)
    }

    /// Whether all users are known that a system gives out.
    pub(super) fn sees_all_users(&self) -> bool {
        self.known
            .as_ref()
            .is_none_or(|known| knows(known, &ALL_USERS))
    }
}

/// The users that a `uid_map` names, in ascending order.
fn known(map: &str) -> Vec<RangeInclusive<u32>> {
    let mut all: Vec<_> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (first, _outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let first = first.ok()?;
            let last = first.saturating_add(count.ok()?.checked_sub(1)?);
            Some(first..=last)
        })
        .collect();
    all.sort_unstable_by_key(|range| *range.start());
    all
}

/// Whether all of these are known.
fn knows(known: &[RangeInclusive<u32>], all: &RangeInclusive<u32>) -> bool {
    let mut next = *all.start();
    for range in known {
        if range.contains(&next) {
            if range.end() >= all.end() {
                return true;
            }
            next = range.end().saturating_add(1);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(map: &str) -> Sight {
        Sight {
            known: Some(known(map)),
            overflow: OVERFLOW,
        }
    }

    #[test]
    fn whoever_a_namespace_does_not_know_is_nobody_known() {
        // The host; a service with PrivateUsers=; a container; a rootless one; no /proc.
        for (map, all, seen, unseen) in [
            (
                "         0          0 4294967295\n",
                true,
                &[0, 1001, OVERFLOW][..],
                &[][..],
            ),
            ("0 0 1\n995 995 1\n", false, &[0, 995], &[1, 1001, OVERFLOW]),
            (
                "0 100000 65536\n",
                true,
                &[0, 1001, 65_535],
                &[OVERFLOW, 65_536],
            ),
            (
                "0 1000 1\n1 100000 65536\n",
                true,
                &[0, 1, 65_536],
                &[OVERFLOW],
            ),
            ("", false, &[], &[0, 1, OVERFLOW]),
            ("x y z\n0 0 0\n7\n", false, &[], &[0, 7]),
            ("4294967294 0 9\n", false, &[u32::MAX - 1], &[0]),
        ] {
            let sight = of(map);
            assert_eq!(sight.sees_all_users(), all, "{map:?}");
            for uid in seen {
                assert_eq!(sight.user(*uid, 7), Some(*uid), "{map:?}");
                assert_eq!(sight.user(*uid, 0), None, "no process has it");
            }
            for uid in unseen {
                assert_eq!(sight.user(*uid, 7), None, "{map:?} {uid}");
            }
        }
        let elsewhere = Sight {
            known: None,
            overflow: OVERFLOW,
        };
        assert!(elsewhere.sees_all_users());
        assert_eq!(elsewhere.user(1001, 7), Some(1001));
        assert_eq!(elsewhere.user(OVERFLOW, 7), None);
    }
}
