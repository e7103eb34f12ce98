//! The log without a thread of its own: each line is written where it arises.
//!
//! For hosts on which no thread can be had (`LimitNPROC=1`). Who tells a line has other work to do, so it
//! is written only where its reader takes it at once, and else counted, as lines are that find the
//! thread's channel full. Called by `log`.

use std::fmt;
use std::sync::atomic::Ordering;

use super::line::{Line, Opened, Shared, lock, opened, tell_lost, write};
use crate::config::Format;

/// Where lines go.
pub(super) struct Here {
    format: Format,
    open: Box<dyn Fn(Format) -> Opened + Send>,
    /// Opened with the first line.
    opened: Option<Opened>,
}

impl Here {
    pub(super) fn new(format: Format, open: impl Fn(Format) -> Opened + Send + 'static) -> Self {
        Self {
            format,
            open: Box::new(open),
            opened: None,
        }
    }

    /// Writes a line, or counts it.
    pub(super) fn write(&mut self, line: &Line, shared: &Shared) {
        let wanted = *lock(&shared.format);
        if wanted != self.format {
            self.format = wanted;
            self.opened = None;
        }
        let target = self
            .opened
            .get_or_insert_with(|| opened((self.open)(wanted)));
        if !(target.takes)() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tell_lost(&target.dispatch, shared);
        if (target.takes)() {
            write(&target.dispatch, line);
        } else {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells what was counted, if that is taken.
    pub(super) fn tell_lost(&mut self, shared: &Shared) {
        if let Some(target) = &self.opened
            && (target.takes)()
        {
            tell_lost(&target.dispatch, shared);
        }
    }
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Here")
            .field("format", &self.format)
            .finish()
    }
}
