//! Names that are released, and stay their last user's for a while (`names.hold`).
//!
//! Bounded: of [`MOST`] names at most, and where there are more the user who has the most gives up the one
//! that was released first, so that nobody's flood of names makes another's be forgotten. Time is an
//! argument, in milliseconds since boot, which goes on in a suspend and over a restart of the daemon.
//! Called by `desk`, and by `server` for what a restart brings back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use smallvec::SmallVec;

use crate::core::names::ROOT;
use crate::core::registry::{Gone, Id};

/// How many names are held at most.
pub const MOST: usize = 16_384;

/// A name that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which.
    pub name: SmallVec<[u8; 24]>,
    /// For whom: its last user.
    pub uid: u32,
    /// When it was released, in milliseconds since boot.
    pub released: u64,
    /// What is remembered of its last registration.
    pub gone: Gone,
}

/// All names that are held. Some of them may be so no more: that is seen when they are asked for.
#[derive(Debug, Default)]
pub struct Holds {
    /// By the number that the last registration had.
    all: BTreeMap<Id, Hold>,
    names: HashMap<SmallVec<[u8; 24]>, Id>,
    /// What each user has, in the order in which it was released.
    users: HashMap<u32, BTreeSet<(u64, Id)>>,
    /// How many each user has.
    sizes: BTreeSet<(usize, u32)>,
    /// All of them in the order in which they were released.
    order: BTreeSet<(u64, Id)>,
    /// Those that are new since [`Self::take_new`].
    new: Vec<Id>,
}

impl Holds {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The one whose last registration had this number.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<&Hold> {
        self.all.get(&id)
    }

    /// The numbers of those that are new since the last time, for who keeps them.
    pub fn take_new(&mut self) -> Vec<Id> {
        std::mem::take(&mut self.new)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Hold> {
        self.all.values()
    }

    /// Whom a name is held for against this user, if it is: for `time` from its release on. Root is
    /// kept from nothing, and a user who is not known from what is held for anybody.
    #[must_use]
    pub fn against(&self, name: &[u8], uid: Option<u32>, now: u64, time: Duration) -> Option<u32> {
        let hold = self.all.get(self.names.get(name)?)?;
        let is_over = is_over(hold.released, now, time);
        let may = uid.is_some_and(|uid| uid == ROOT || uid == hold.uid);
        (!is_over && !may).then_some(hold.uid)
    }

    /// Holds a name, in place of what was known of it. Those whose `time` is over go.
    pub fn hold(&mut self, hold: Hold, now: u64, time: Duration) {
        while let Some(&(released, id)) = self.order.first()
            && is_over(released, now, time)
        {
            self.remove_id(id);
        }
        self.remove(&hold.name);
        let (id, uid, released) = (hold.gone.id, hold.uid, hold.released);
        self.remove_id(id);
        self.new.push(id);
        self.names.insert(hold.name.clone(), id);
        self.all.insert(id, hold);
        self.order.insert((released, id));
        self.change(uid, |its| its.insert((released, id)));
        if self.all.len() > MOST {
            self.give_one_up();
        }
    }

    /// Lets go of a name: it is registered again.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some(&id) = self.names.get(name) {
            self.remove_id(id);
        }
    }

    fn remove_id(&mut self, id: Id) {
        if let Some(hold) = self.all.remove(&id) {
            self.names.remove(&hold.name);
            self.order.remove(&(hold.released, id));
            self.change(hold.uid, |its| its.remove(&(hold.released, id)));
        }
    }

    /// The user who has most gives up what was released first; where nobody has more than one, it is the
    /// latest that finds no place.
    fn give_one_up(&mut self) {
        let most = self.sizes.last().copied();
        let id = match most {
            Some((size, uid)) if size > 1 => self.users.get(&uid).and_then(BTreeSet::first),
            _ => self.order.last(),
        };
        if let Some(&(_, id)) = id {
            self.remove_id(id);
        }
    }

    /// Changes what a user has, and what is known of how much that is.
    fn change(&mut self, uid: u32, with: impl FnOnce(&mut BTreeSet<(u64, Id)>) -> bool) {
        let its = self.users.entry(uid).or_default();
        self.sizes.remove(&(its.len(), uid));
        with(its);
        match its.len() {
            0 => {
                self.users.remove(&uid);
            }
            size => {
                self.sizes.insert((size, uid));
            }
        }
    }
}

fn is_over(released: u64, now: u64, time: Duration) -> bool {
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    now >= released.saturating_add(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn hold(name: &str, id: Id, uid: u32, released: u64) -> Hold {
        Hold {
            name: SmallVec::from_slice(name.as_bytes()),
            uid,
            released,
            gone: Gone {
                id,
                port: 1,
                creation: 4,
            },
        }
    }

    #[test]
    fn a_name_stays_its_last_users_for_a_while() {
        let mut holds = Holds::default();
        holds.hold(hold("api", 1, 1001, 5_000), 5_000, MINUTE);
        for (uid, now, against) in [
            (Some(1002), 5_000, Some(1001)),
            (None, 64_999, Some(1001)),
            (Some(1001), 5_000, None),
            (Some(ROOT), 5_000, None),
            (Some(1002), 65_000, None),
            (None, 65_000, None),
        ] {
            assert_eq!(
                holds.against(b"api", uid, now, MINUTE),
                against,
                "{uid:?} {now}"
            );
        }
        assert_eq!(holds.against(b"other", None, 5_000, MINUTE), None);
        assert_eq!(holds.against(b"api", None, 5_000, Duration::ZERO), None);
        holds.remove(b"api");
        assert_eq!(holds.against(b"api", None, 5_000, MINUTE), None);
        assert!(holds.is_empty() && holds.users.is_empty() && holds.sizes.is_empty());
    }

    #[test]
    fn no_flood_of_names_makes_anothers_be_forgotten() {
        let mut holds = Holds::default();
        holds.hold(hold("rabbit", 1, 104, 0), 0, MINUTE);
        holds.hold(hold("web", 2, 33, 1), 1, MINUTE);
        let flood = u64::try_from(3 * MOST).unwrap();
        for id in 3..flood {
            // One user with all of them, and then a thousand with some each.
            let uid = if id < flood / 2 {
                1002
            } else {
                100_000 + (id % 1000) as u32
            };
            holds.hold(hold(&format!("n{id}"), id, uid, 2), 2, MINUTE);
            assert!(holds.len() <= MOST);
        }
        assert_eq!(holds.against(b"rabbit", Some(1002), 3, MINUTE), Some(104));
        assert_eq!(holds.against(b"web", Some(1002), 3, MINUTE), Some(33));
        assert_eq!(
            (holds.len(), holds.names.len(), holds.order.len()),
            (MOST, MOST, MOST)
        );
        let sizes: usize = holds.sizes.iter().map(|(size, _)| size).sum();
        assert_eq!(sizes, MOST);
        // They take no place for longer than they are held.
        holds.hold(hold("late", flood, 1, 70_000), 70_000, MINUTE);
        assert_eq!(holds.len(), 1);
    }

    #[test]
    fn where_all_are_of_different_users_the_latest_finds_no_place() {
        let mut holds = Holds::default();
        for id in 0..u64::try_from(MOST).unwrap() + 10 {
            holds.hold(hold(&format!("n{id}"), id, id as u32 + 1, id), id, MINUTE);
        }
        assert_eq!(holds.len(), MOST);
        assert_eq!(holds.against(b"n0", None, 1, MINUTE), Some(1));
    }
}
