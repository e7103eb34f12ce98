//! Whose a name is: which users of this host may register which name (`[names]`).
//!
//! Users are the kernel's numbers, and one that is not known is none of them. How long a name stays its last
//! user's is told here; which names are kept so is `holds`'. Called by `access`, and by `config` to build
//! the rules.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::core::outcome::Setting;

/// The user whom no list forbids anything.
pub const ROOT: u32 = 0;

/// `[names]`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRules {
    /// Who may register; `None` is every user of this host. Root always may.
    pub users: Option<BTreeSet<u32>>,
    /// Who may register these names, in place of `users`. Keyed by the name's UTF-8 bytes.
    pub nodes: HashMap<Box<[u8]>, BTreeSet<u32>>,
    /// A name that is released stays its last user's for so long; zero is not at all.
    pub hold: Duration,
}

impl NameRules {
    /// Whether it matters whose a connection is.
    #[must_use]
    pub fn ask_for_users(&self) -> bool {
        self.users.is_some() || !self.nodes.is_empty() || self.holds()
    }

    /// Whether names stay their last users'.
    #[must_use]
    pub const fn holds(&self) -> bool {
        !self.hold.is_zero()
    }

    /// The list that forbids this user the name, where one does. A user who is not known is in no list.
    #[must_use]
    pub fn forbidding(&self, name: &[u8], uid: Option<u32>) -> Option<Setting> {
        let (list, setting) = match self.nodes.get(name) {
            Some(list) => (list, Setting::UsersOfNode),
            None => (self.users.as_ref()?, Setting::Users),
        };
        let may = uid.is_some_and(|uid| uid == ROOT || list.contains(&uid));
        (!may).then_some(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_names_own_list_is_in_place_of_the_other_and_root_always_may() {
        let none = NameRules::default();
        assert_eq!(none.forbidding(b"api", None), None);
        assert!(!none.ask_for_users());
        let rules = NameRules {
            users: Some([1001, 1002].into()),
            nodes: HashMap::from([
                (b"rabbit"[..].into(), [104].into()),
                (b"nobodys"[..].into(), BTreeSet::new()),
            ]),
            hold: Duration::ZERO,
        };
        assert!(rules.ask_for_users());
        for (name, uid, forbidding) in [
            ("api", Some(1001), None),
            ("api", Some(ROOT), None),
            ("api", Some(104), Some(Setting::Users)),
            ("api", None, Some(Setting::Users)),
            ("rabbit", Some(104), None),
            ("rabbit", Some(ROOT), None),
            ("rabbit", Some(1001), Some(Setting::UsersOfNode)),
            ("rabbit", None, Some(Setting::UsersOfNode)),
            ("nobodys", Some(1001), Some(Setting::UsersOfNode)),
            ("nobodys", Some(ROOT), None),
        ] {
            assert_eq!(
                rules.forbidding(name.as_bytes(), uid),
                forbidding,
                "{name} {uid:?}"
            );
        }
        let only_hold = NameRules {
            hold: Duration::from_secs(60),
            ..none
        };
        assert!(only_hold.ask_for_users());
        assert_eq!(only_hold.forbidding(b"api", None), None);
    }
}
