//! Whether what an epmd has said of itself still holds of the process that stands still.
//!
//! Names come and go between its dump and the moment in which it is held, and a request may be half done
//! in that moment. Then it goes on for a while, and is held and asked again. Decides; knows no process,
//! and time is an argument. Called by `takeover`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::RawFd;
use std::time::Duration;

use super::socket::Progress;
use crate::core::wire::LENGTH_FIELD;

/// A whole request is longer than its length field: what has sent less has sent none.
const NO_REQUEST: u64 = LENGTH_FIELD as u64;
/// An epmd answers a whole request at once. What has been read for so long without an answer is the
/// beginning of one.
const PATIENCE: Duration = Duration::from_millis(100);

/// A process's sockets: their numbers there, and their inodes.
pub(super) type Sockets = BTreeMap<RawFd, u64>;

/// What is known of connections that hold no name, over several holds.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Connections of which something was read, and since when.
    reading: HashMap<u64, (u64, Duration)>,
    /// Connections to which something was sent.
    answered: HashSet<u64>,
    /// Of these, who had been answered before the last dump: no name is theirs, or it would be in it.
    no_holders: HashSet<u64>,
}

/// What becomes of a connection that holds no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has asked nothing yet: it goes along.
    Goes,
    /// It is of no use to anybody, or the beginning of its request is lost with the old epmd.
    Left,
    /// It is in the middle of something: the old epmd has to go on.
    Busy,
    /// It may hold a name that is new: the old epmd has to be asked again.
    New,
}

impl Settling {
    /// A dump is about to be asked for.
    pub(super) fn before_dump(&mut self) {
        self.no_holders.clone_from(&self.answered);
    }

    /// What becomes of the connection with this inode, which holds no name by the last dump.
    pub(super) fn fate(&mut self, inode: u64, progress: Progress, now: Duration) -> Fate {
        match progress {
            Progress::Unasked => Fate::Goes,
            Progress::Reading(read) if read <= NO_REQUEST => Fate::Left,
            Progress::Reading(read) => {
                let since = self.reading.entry(inode).or_insert((read, now));
                if since.0 != read {
                    *since = (read, now);
                }
                if now.saturating_sub(since.1) >= PATIENCE {
                    Fate::Left
                } else {
                    Fate::Busy
                }
            }
            Progress::Answered if self.no_holders.contains(&inode) => Fate::Left,
            // It was seen so already: it stays, so it may hold a name.
            Progress::Answered if !self.answered.insert(inode) => Fate::New,
            Progress::Answered => Fate::Busy,
        }
    }
}

/// What has become of the connection that held a name by a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// It is there, and has been all the time.
    Same,
    /// It is closed, and the name is gone with it.
    Gone,
    /// The number is no connection's, or another's than before the dump: whose it was at the dump can't be
    /// told.
    Unclear,
}

/// What has become of a name's descriptor, by what there was before the dump and what there is now.
pub(super) fn holder_of(number: RawFd, before: &Sockets, now: &Sockets) -> Holds {
    match (before.get(&number), now.get(&number)) {
        (Some(before), Some(now)) if before == now => Holds::Same,
        (Some(_), None) => Holds::Gone,
        _ => Holds::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1);

    #[test]
    fn who_has_asked_nothing_goes_along() {
        let mut settling = Settling::default();
        assert_eq!(settling.fate(1, Progress::Unasked, START), Fate::Goes);
    }

    #[test]
    fn a_request_in_work_is_waited_for_and_the_beginning_of_one_is_not() {
        let mut settling = Settling::default();
        assert_eq!(settling.fate(1, Progress::Reading(2), START), Fate::Left);
        assert_eq!(settling.fate(2, Progress::Reading(3), START), Fate::Busy);
        let later = START + PATIENCE;
        // More of it has come meanwhile.
        assert_eq!(settling.fate(2, Progress::Reading(4), later), Fate::Busy);
        let later = later + PATIENCE;
        assert_eq!(settling.fate(2, Progress::Reading(4), later), Fate::Left);
    }

    #[test]
    fn who_was_answered_before_the_dump_and_is_not_in_it_holds_no_name() {
        let mut settling = Settling::default();
        settling.before_dump();
        // It may be about to be closed.
        assert_eq!(settling.fate(1, Progress::Answered, START), Fate::Busy);
        assert_eq!(settling.fate(1, Progress::Answered, START), Fate::New);
        settling.before_dump();
        assert_eq!(settling.fate(1, Progress::Answered, START), Fate::Left);
        assert_eq!(settling.fate(2, Progress::Answered, START), Fate::Busy);
    }

    #[test]
    fn a_number_that_is_another_connections_by_now_is_noticed() {
        let before = Sockets::from([(5, 50), (6, 60), (8, 80)]);
        let now = Sockets::from([(5, 50), (6, 61), (7, 70)]);
        let found = [5, 6, 7, 8, 9].map(|number| holder_of(number, &before, &now));
        assert_eq!(
            found,
            [
                Holds::Same,
                Holds::Unclear,
                Holds::Unclear,
                Holds::Gone,
                Holds::Unclear
            ]
        );
    }
}
