//! The names, who holds them, and their creations.
//!
//! A lookup costs the same with one name as with a million; a registration or release adds one step
//! in an ordered map, which keeps "newest first". Knows no sockets: who holds a name is a type of
//! the caller's. Names that are gone are remembered for their creation. Called by `desk`,
//! and by `server` for what no request asks for: an end, a restart, the status.

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Bound;

use smallvec::SmallVec;

use crate::core::wire::{self, Node};

/// How many names that are gone are remembered, for their creation; as many as stock.
pub const MAX_GONE: usize = 1000;
/// The smallest creation: 0 is "any", 1 to 3 belong to nodes before version 6.
pub const MIN_CREATION: u32 = 4;

/// A node's name. Nearly all are short enough to stand in the table itself.
type Name = SmallVec<[u8; 24]>;

/// Which registration: a number that is never used again while the daemon runs. Later ones are larger.
pub type Id = u64;

/// One registered name. `H` is who holds it, or a reference to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration<'r, H> {
    /// Its number.
    pub id: Id,
    /// The node as it described itself.
    pub node: Node<'r>,
    /// Its creation, in full (a node before version 6 was told 1 to 3 of it).
    pub creation: u32,
    /// When it registered, in milliseconds since 1970 UTC.
    pub since: u64,
    /// Who holds it.
    pub holder: H,
}

/// What a lookup tells of a name, and no more: what it has to wait for is memory, and this is one line of
/// the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    name: Name,
    extra: Box<[u8]>,
    id: Id,
    port: u16,
    highest: u16,
    lowest: u16,
    kind: u8,
    protocol: u8,
}

/// The rest of what is known of a name.
#[derive(Debug)]
struct Rest<H> {
    name: Name,
    creation: u32,
    since: u64,
    holder: H,
}

impl Entry {
    fn node(&self) -> Node<'_> {
        Node {
            port: self.port,
            kind: self.kind,
            protocol: self.protocol,
            highest: self.highest,
            lowest: self.lowest,
            name: &self.name,
            extra: &self.extra,
        }
    }
}

// An entry is found by its name, so it hashes and compares as one.
impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        &self.name
    }
}

impl Hash for Entry {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.name.as_slice().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Entry {}

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
    names: HashSet<Entry>,
    /// By number, so in the order in which they registered; exactly those of `names`.
    order: BTreeMap<Id, Rest<H>>,
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
            names: HashSet::new(),
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

    /// The node that has this name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Node<'_>> {
        self.names.get(name).map(Entry::node)
    }

    /// Who holds this name.
    #[must_use]
    pub fn holder(&self, name: &[u8]) -> Option<&H> {
        let id = self.names.get(name)?.id;
        self.order.get(&id).map(|rest| &rest.holder)
    }

    /// The number of this name's registration.
    #[must_use]
    pub fn id(&self, name: &[u8]) -> Option<Id> {
        self.names.get(name).map(|entry| entry.id)
    }

    /// Since when this name is held, in milliseconds since 1970 UTC.
    #[must_use]
    pub fn since(&self, name: &[u8]) -> Option<u64> {
        let id = self.names.get(name)?.id;
        self.order.get(&id).map(|rest| rest.since)
    }

    /// Registers a node whose name is free, and gives its number and creation. The holder of a
    /// registration that had the name is given back: the caller has looked first.
    pub fn register(&mut self, node: &Node<'_>, since: u64, holder: H) -> (Id, u32, Option<H>) {
        let previous = self.release_name(node.name);
        let id = self.next;
        let creation = match self.gone.get(node.name) {
            Some(gone) => next_creation(gone.creation),
            None => self.first_creation(node.name, id),
        };
        self.insert(Registration {
            id,
            node: *node,
            creation,
            since,
            holder,
        });
        (id, creation, previous)
    }

    /// Takes back a registration from before a restart, with its number, creation and time. What had
    /// the name until now is given back. Registrations come back in the order of their numbers.
    pub fn restore(&mut self, registration: Registration<'_, H>) -> Option<H> {
        let previous = self.release_name(registration.node.name);
        self.insert(registration);
        previous
    }

    /// Puts a registration into the tables; its name is free.
    fn insert(&mut self, registration: Registration<'_, H>) {
        let Registration {
            id,
            node,
            creation,
            since,
            holder,
        } = registration;
        self.next = self.next.max(id.saturating_add(1));
        let name = match self.gone.remove_entry(node.name) {
            Some((name, _)) => name,
            None => Name::from_slice(node.name),
        };
        let rest = Rest {
            name: name.clone(),
            creation,
            since,
            holder,
        };
        self.order.insert(id, rest);
        self.names.insert(Entry {
            name,
            extra: node.extra.into(),
            id,
            port: node.port,
            highest: node.highest,
            lowest: node.lowest,
            kind: node.kind,
            protocol: node.protocol,
        });
    }

    /// Remembers a name that went before a restart, or during it. What had the name until now is
    /// given back.
    pub fn restore_gone(&mut self, name: &[u8], gone: Gone) -> Option<H> {
        let previous = self.release_name(name);
        self.next = self.next.max(gone.id.saturating_add(1));
        self.remember(Name::from_slice(name), gone);
        previous
    }

    /// The registration with this number.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<Registration<'_, &H>> {
        let Rest {
            name,
            creation,
            since,
            holder,
        } = self.order.get(&id)?;
        Some(Registration {
            id,
            node: self.find(name)?,
            creation: *creation,
            since: *since,
            holder,
        })
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

    /// Releases the registration with this number, and gives back who held it.
    pub fn release(&mut self, id: Id) -> Option<H> {
        let Rest {
            name,
            creation,
            holder,
            ..
        } = self.order.remove(&id)?;
        if let Some(Entry { name, port, .. }) = self.names.take(name.as_slice()) {
            self.remember(name, Gone { id, port, creation });
        }
        Some(holder)
    }

    /// Releases the registration of this name, and gives back who held it.
    pub fn release_name(&mut self, name: &[u8]) -> Option<H> {
        let id = self.names.get(name)?.id;
        self.release(id)
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

    /// The next registration of a listing, newest first.
    pub fn list(&self, cursor: &mut Cursor) -> Option<Registration<'_, &H>> {
        let before = (Bound::Unbounded, Bound::Excluded(cursor.0));
        let (&id, _) = self.order.range::<Id, _>(before).next_back()?;
        *cursor = Cursor(id);
        self.get(id)
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
        while let Some(registration) = registry.list(&mut cursor) {
            all.push(String::from_utf8(registration.node.name.to_vec()).unwrap());
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
    fn a_lookup_touches_one_line_of_the_cache() {
        assert_eq!((size_of::<Entry>(), align_of::<Entry>()), (64, 64));
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
        assert_eq!(registry.list(&mut cursor).unwrap().node.name, b"d");
        registry.release_name(b"d");
        registry.release_name(b"c");
        registry.register(&Node::new(b"e", 1), 0, 0);
        assert_eq!(registry.list(&mut cursor).unwrap().node.name, b"b");
        assert_eq!(registry.list(&mut cursor).unwrap().node.name, b"a");
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
