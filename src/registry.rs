//! The names, who holds them, and their creations.
//!
//! A lookup costs the same with one name as with a million; a registration or release adds one step
//! in an ordered map, which keeps "newest first". Knows no sockets: who holds a name is a type of
//! the caller's. Names that are gone are remembered for their creation. Called by `desk` alone.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::Bound;

use smallvec::SmallVec;

use crate::wire::{self, Node};

/// How many names that are gone are remembered, for their creation; as many as stock.
pub const MAX_GONE: usize = 1000;
/// The smallest creation: 0 is "any", 1 to 3 belong to nodes before version 6.
pub const MIN_CREATION: u32 = 4;

/// A node's name. Nearly all are short enough to stand in the table itself, so that a lookup waits for one
/// place in memory less.
type Name = SmallVec<[u8; 24]>;

/// Which registration: a number that is never used again while the daemon runs. Later ones are larger.
pub type Id = u64;

/// One registered name.
#[derive(Debug)]
pub struct Registration<H> {
    /// Its number.
    pub id: Id,
    /// Its distribution port.
    pub port: u16,
    /// 77 normal, 72 hidden.
    pub kind: u8,
    /// 0 is TCP over IPv4.
    pub protocol: u8,
    /// The highest version of the distribution protocol that the node speaks.
    pub highest: u16,
    /// The lowest.
    pub lowest: u16,
    /// The node's extra field.
    pub extra: Box<[u8]>,
    /// Its creation, in full (a node before version 6 was told 1 to 3 of it).
    pub creation: u32,
    /// When it registered, in milliseconds since 1970 UTC.
    pub since: u64,
    /// Who holds it.
    pub holder: H,
}

/// A name that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The number that its last registration had.
    pub id: Id,
    /// Its last distribution port.
    pub port: u16,
    /// Its last creation.
    pub creation: u32,
}

/// Where a listing has got to. Names that come or go meanwhile do not disturb it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(Id);

impl Cursor {
    /// Before the newest name.
    pub const START: Self = Self(Id::MAX);
}

/// All names.
#[derive(Debug)]
pub struct Registry<H> {
    names: HashMap<Name, Registration<H>>,
    order: BTreeMap<Id, Name>,
    next: Id,
    gone: HashMap<Name, Gone>,
    /// Oldest first; an entry whose number is not its name's any more is passed over.
    gone_order: VecDeque<(Id, Name)>,
    /// Where the first creation of an unknown name comes from.
    random: RandomState,
}

impl<H> Default for Registry<H> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            order: BTreeMap::new(),
            next: 1,
            gone: HashMap::new(),
            gone_order: VecDeque::new(),
            random: RandomState::new(),
        }
    }
}

impl<H> Registry<H> {
    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The registration of a name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Registration<H>> {
        self.names.get(name)
    }

    /// Registers a node whose name is free, and gives its number and creation. The holder of a
    /// registration that had the name is given back: the caller has looked first.
    pub fn register(&mut self, node: &Node<'_>, since: u64, holder: H) -> (Id, u32, Option<H>) {
        let previous = self.release_name(node.name).map(|r| r.holder);
        let id = self.next;
        self.next += 1;
        let (name, creation) = match self.gone.remove_entry(node.name) {
            Some((name, gone)) => (name, next_creation(gone.creation)),
            None => (
                Name::from_slice(node.name),
                self.first_creation(node.name, id),
            ),
        };
        let registration = Registration {
            id,
            port: node.port,
            kind: node.kind,
            protocol: node.protocol,
            highest: node.highest,
            lowest: node.lowest,
            extra: node.extra.into(),
            creation,
            since,
            holder,
        };
        self.order.insert(id, name.clone());
        self.names.insert(name, registration);
        (id, creation, previous)
    }

    /// Takes back a registration from before a restart, with its number, creation and time. What had
    /// the name until now is given back. Registrations come back in the order of their numbers.
    pub fn restore(&mut self, name: &[u8], registration: Registration<H>) -> Option<H> {
        let previous = self.release_name(name).map(|r| r.holder);
        let name = match self.gone.remove_entry(name) {
            Some((name, _)) => name,
            None => Name::from_slice(name),
        };
        self.next = self.next.max(registration.id.saturating_add(1));
        self.order.insert(registration.id, name.clone());
        self.names.insert(name, registration);
        previous
    }

    /// Remembers a name that went before a restart, or during it. What had the name until now is
    /// given back.
    pub fn restore_gone(&mut self, name: &[u8], gone: Gone) -> Option<H> {
        let previous = self.release_name(name).map(|r| r.holder);
        self.next = self.next.max(gone.id.saturating_add(1));
        self.remember(Name::from_slice(name), gone);
        previous
    }

    /// The registration with this number.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<(&[u8], &Registration<H>)> {
        let name = self.order.get(&id)?;
        self.names
            .get(name)
            .map(|registration| (&**name, registration))
    }

    /// How many names that are gone are remembered.
    #[must_use]
    pub fn gone_len(&self) -> usize {
        self.gone.len()
    }

    /// The names that are gone and remembered.
    pub fn gone(&self) -> impl Iterator<Item = (&[u8], Gone)> {
        self.gone.iter().map(|(name, gone)| (&**name, *gone))
    }

    /// Releases the registration with this number.
    pub fn release(&mut self, id: Id) -> Option<Registration<H>> {
        let name = self.order.get(&id)?.clone();
        self.release_name(&name)
    }

    /// Releases the registration of this name.
    pub fn release_name(&mut self, name: &[u8]) -> Option<Registration<H>> {
        let (name, registration) = self.names.remove_entry(name)?;
        self.order.remove(&registration.id);
        let Registration {
            id, port, creation, ..
        } = registration;
        self.remember(name, Gone { id, port, creation });
        Some(registration)
    }

    /// Remembers a name that is gone, and forgets the oldest where there are too many.
    fn remember(&mut self, name: Name, gone: Gone) {
        self.gone_order.push_back((gone.id, name.clone()));
        self.gone.insert(name, gone);
        while self.gone.len() > MAX_GONE
            && let Some((id, name)) = self.gone_order.pop_front()
        {
            if self.gone.get(&name).is_some_and(|gone| gone.id == id) {
                self.gone.remove(&name);
            }
        }
        // A name that comes and goes leaves entries behind that mean nothing any more. At least
        // half of these go at once, so that a release still costs the same on average.
        if self.gone_order.len() > 2 * MAX_GONE {
            let gone = &self.gone;
            self.gone_order
                .retain(|(id, name)| gone.get(name).is_some_and(|g| g.id == *id));
        }
    }

    /// A creation for a name that is not remembered. Random, so that a daemon that was started anew
    /// does not give the one that the name had before.
    fn first_creation(&self, name: &[u8], id: Id) -> u32 {
        let [a, b, c, d, ..] = self.random.hash_one((name, id)).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d]).max(MIN_CREATION)
    }

    /// The next name of a listing, newest first.
    pub fn list(&self, cursor: &mut Cursor) -> Option<(&[u8], &Registration<H>)> {
        let before = (Bound::Unbounded, Bound::Excluded(cursor.0));
        let (&id, name) = self.order.range::<Id, _>(before).next_back()?;
        *cursor = Cursor(id);
        self.names
            .get(name)
            .map(|registration| (&**name, registration))
    }

    /// The next name of a listing of those that are gone, oldest first, and its last port.
    pub fn list_gone(&self, position: &mut usize) -> Option<(&[u8], u16)> {
        loop {
            let (id, name) = self.gone_order.get(*position)?;
            *position += 1;
            if let Some(gone) = self.gone.get(name).filter(|gone| gone.id == *id) {
                return Some((name, gone.port));
            }
        }
    }
}

/// The creation after this one. Also as version 5's nodes see it, it is another.
fn next_creation(creation: u32) -> u32 {
    let next = creation.checked_add(1).unwrap_or(MIN_CREATION);
    debug_assert_ne!(wire::creation_for(5, next), wire::creation_for(5, creation));
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(registry: &Registry<u32>) -> Vec<String> {
        let mut cursor = Cursor::START;
        let mut all = Vec::new();
        while let Some((name, _)) = registry.list(&mut cursor) {
            all.push(String::from_utf8(name.to_vec()).unwrap());
        }
        all
    }

    fn gone(registry: &Registry<u32>) -> Vec<String> {
        let mut position = 0;
        let mut all = Vec::new();
        while let Some((name, _)) = registry.list_gone(&mut position) {
            all.push(String::from_utf8(name.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn names_are_listed_newest_first_and_gone_ones_oldest_first() {
        let mut registry = Registry::default();
        for name in ["a", "b", "c"] {
            registry.register(&Node::new(name.as_bytes(), 1), 0, 0);
        }
        assert_eq!(names(&registry), ["c", "b", "a"]);
        registry.release_name(b"b");
        registry.release_name(b"a");
        assert_eq!(names(&registry), ["c"]);
        assert_eq!(gone(&registry), ["b", "a"]);
        registry.register(&Node::new(b"b", 1), 0, 0);
        assert_eq!(names(&registry), ["b", "c"]);
        assert_eq!(gone(&registry), ["a"]);
    }

    #[test]
    fn a_listing_outlives_names_that_come_and_go() {
        let mut registry = Registry::default();
        for name in ["a", "b", "c", "d"] {
            registry.register(&Node::new(name.as_bytes(), 1), 0, 0);
        }
        let mut cursor = Cursor::START;
        assert_eq!(registry.list(&mut cursor).unwrap().0, b"d");
        registry.release_name(b"d");
        registry.release_name(b"c");
        registry.register(&Node::new(b"e", 1), 0, 0);
        assert_eq!(registry.list(&mut cursor).unwrap().0, b"b");
        assert_eq!(registry.list(&mut cursor).unwrap().0, b"a");
        assert!(registry.list(&mut cursor).is_none());
    }

    #[test]
    fn creations_never_repeat_in_a_row() {
        let mut registry = Registry::default();
        let mut last: Option<u32> = None;
        for _ in 0..1000 {
            let (id, creation, _) = registry.register(&Node::new(b"api", 1), 0, 0);
            assert!(creation >= MIN_CREATION);
            if let Some(last) = last {
                assert_ne!(creation, last);
                assert_ne!(wire::creation_for(5, creation), wire::creation_for(5, last));
            }
            last = Some(creation);
            assert!(registry.release(id).is_some());
        }
        assert_eq!(next_creation(u32::MAX), MIN_CREATION);
    }

    #[test]
    fn a_thousand_gone_names_are_remembered_and_no_more() {
        let mut registry = Registry::default();
        for i in 0..3 * MAX_GONE {
            let name = format!("n{i}");
            let (id, ..) = registry.register(&Node::new(name.as_bytes(), 1), 0, 0);
            registry.release(id);
            // The same few names again and again must not push the others out of the queue's memory.
            let (id, ..) = registry.register(&Node::new(b"often", 1), 0, 0);
            registry.release(id);
            assert!(registry.gone_order.len() <= 2 * MAX_GONE);
        }
        assert_eq!(registry.gone.len(), MAX_GONE);
        assert_eq!(gone(&registry).len(), MAX_GONE);
    }

    #[test]
    fn a_holder_that_is_pushed_out_is_given_back() {
        let mut registry = Registry::default();
        let (first, _, previous) = registry.register(&Node::new(b"api", 1), 0, 1);
        assert_eq!(previous, None);
        let (_, _, previous) = registry.register(&Node::new(b"api", 2), 0, 2);
        assert_eq!(previous, Some(1));
        assert!(registry.release(first).is_none());
        assert_eq!(registry.find(b"api").unwrap().port, 2);
        assert_eq!(registry.len(), 1);
    }
}
