//! What is shown on a terminal while the doctor takes its time.
//!
//! Nothing where standard error is none. Called by `doctor` and `mesh`.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// After which time, and how often, progress is shown.
pub(in crate::tools) const PROGRESS: Duration = Duration::from_millis(500);

/// What is shown while it takes its time: one line on a terminal, which goes when it is done.
pub(in crate::tools) struct Progress {
    /// What is done with each: "examined".
    done: &'static str,
    of: usize,
    begun: Instant,
    terminal: bool,
    shown: bool,
}

impl Progress {
    /// `of` are to be `done`, such as "examined".
    pub(in crate::tools) fn new(done: &'static str, of: usize) -> Self {
        Self {
            done,
            of,
            begun: Instant::now(),
            terminal: io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// Shows nothing: somebody else does.
    pub(in crate::tools) fn silent() -> Self {
        Self {
            terminal: false,
            ..Self::new("", 0)
        }
    }

    /// So many are done. To be called now and then: it shows nothing before [`PROGRESS`].
    pub(in crate::tools) fn show(&mut self, done: usize) {
        let time = self.begun.elapsed();
        if !self.terminal || time < PROGRESS || done == self.of {
            return;
        }
        self.shown = true;
        let _ = write!(
            io::stderr(),
            "\r\x1b[Kepmd: {done} of {} {}, {:.1} s",
            self.of,
            self.done,
            time.as_secs_f32()
        );
    }

    /// Takes the line away.
    pub(in crate::tools) fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
