//! The log without a thread of its own: each line is written where it arises.
//!
//! For hosts on which no thread can be had (`LimitNPROC=1`). Who tells a line has other work to do, so it
//! is written only where its reader takes it at once, and else counted, as lines are that find the
//! thread's channel full. Called by `log`.

use std::fmt;
use std::sync::atomic::Ordering;

use super::line::{Destination, Line, Shared, lock};
use super::opened::Opened;

/// Where lines go.
pub(super) struct Here {
    /// As it was said last, and how often that was.
    said: u64,
    to: Destination,
    open: Box<dyn Fn(&Destination) -> Opened + Send>,
    /// Opened with the first line.
    opened: Option<Opened>,
}

impl Here {
    pub(super) fn new(
        to: Destination,
        open: impl Fn(&Destination) -> Opened + Send + 'static,
    ) -> Self {
        Self {
            said: 0,
            to,
            open: Box::new(open),
            opened: None,
        }
    }

    /// Writes a line, or counts it.
    pub(super) fn write(&mut self, line: &Line, shared: &Shared) {
        let (said, to) = lock(&shared.to).clone();
        if said != self.said {
            self.said = said;
            if to == self.to {
                self.opened.iter_mut().for_each(Opened::open_again);
            } else {
                self.to = to;
                self.opened = None;
            }
        }
        let target = self.opened.get_or_insert_with(|| {
            let mut opened = (self.open)(&self.to);
            opened.begin();
            opened
        });
        if !(target.takes)() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        target.tell_lost(shared);
        if (target.takes)() {
            target.write(line);
        } else {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells what was counted, if that is taken.
    pub(super) fn tell_lost(&mut self, shared: &Shared) {
        if let Some(target) = &mut self.opened
            && (target.takes)()
        {
            target.tell_lost(shared);
        }
    }
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Here").field("to", &self.to).finish()
    }
}
