//! Where lines go once that is opened; and where they go instead, while the audit's file can't be written.
//!
//! The first line that the file does not take is told elsewhere, after a word that says so; a second later the file
//! is tried again, and once it takes lines it says what it lacks. Called by `log` and `here`, made by `target`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tracing::dispatcher::Dispatch;

use super::file::AuditFile;
use super::line::{Line, Shared, write};
use crate::core::lent::Level;

/// How long a file that can't be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// Where lines are written to, and what is to be said of that.
pub(super) struct Opened {
    pub(super) dispatch: Dispatch,
    pub(super) note: Option<String>,
    /// Whether the reader takes a line at once, for who can't wait.
    pub(super) takes: Takes,
    /// The file that `dispatch` writes to, where it is the operator's.
    file: Option<WithFile>,
}

/// See [`Opened::takes`].
pub(super) type Takes = Box<dyn Fn() -> bool + Send>;

/// Opens what there is but for the file; and where lines go then.
pub(super) type Elsewhere = Box<dyn Fn() -> (Opened, &'static str) + Send>;

/// A file, and what there is else.
struct WithFile {
    file: Arc<AuditFile>,
    elsewhere: Elsewhere,
    trouble: Option<Trouble>,
}

/// A file can't be written.
struct Trouble {
    since: SystemTime,
    again: Instant,
    /// Where lines go meanwhile, and how many did.
    instead: Box<Opened>,
    place: &'static str,
    lines: u64,
}

impl Opened {
    pub(super) fn new(dispatch: Dispatch, note: Option<String>, takes: Takes) -> Self {
        Self {
            dispatch,
            note,
            takes,
            file: None,
        }
    }

    /// Lines go to this file, by `dispatch`.
    pub(super) fn file(dispatch: Dispatch, file: Arc<AuditFile>, elsewhere: Elsewhere) -> Self {
        let asked = Arc::clone(&file);
        Self {
            file: Some(WithFile {
                file,
                elsewhere,
                trouble: None,
            }),
            ..Self::new(dispatch, None, Box::new(move || asked.takes()))
        }
    }

    /// Says what is to be said; and, where the file can't be opened, that. Gives that as well, for who reads
    /// no log.
    pub(super) fn begin(&mut self) -> Option<String> {
        if let Some(note) = self.note.take() {
            self.write(&Line::now(Level::Warning, note));
        }
        let with = self.file.as_mut()?;
        let error = with.file.open().err()?;
        let why = with.file.words(&error);
        Some(with.fails(&why))
    }

    /// Opens the file anew, where there is one.
    pub(super) fn open_again(&mut self) {
        if let Some(with) = &mut self.file {
            with.file.open_again();
            // It was asked for: nothing is waited for.
            if let Some(trouble) = &mut with.trouble {
                trouble.again = Instant::now();
            }
        }
    }

    /// Writes a line.
    pub(super) fn write(&mut self, line: &Line) {
        let Some(with) = &mut self.file else {
            return write(&self.dispatch, line);
        };
        if let Some(trouble) = &mut with.trouble {
            let it_takes_lines = Instant::now() >= trouble.again && {
                let ended = Line::now(Level::Warning, trouble.words(&with.file));
                write(&self.dispatch, &ended);
                trouble.again = Instant::now() + PAUSE;
                with.file.failed().is_none()
            };
            if !it_takes_lines {
                return trouble.write(line);
            }
            with.trouble = None;
        }
        write(&self.dispatch, line);
        if let Some(why) = with.file.failed() {
            with.fails(&why);
            if let Some(trouble) = &mut with.trouble {
                trouble.write(line);
            }
        }
    }

    pub(super) fn tell_lost(&mut self, shared: &Shared) {
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let lines = if lost == 1 { "line" } else { "lines" };
            let text = format!("{lost} log {lines} lost: the log's reader does not keep up");
            self.write(&Line::now(Level::Warning, text));
        }
    }
}

impl WithFile {
    /// From now on lines go elsewhere, where that is said. Gives what is said.
    fn fails(&mut self, why: &str) -> String {
        let (mut instead, place) = (self.elsewhere)();
        let path = self.file.path().display();
        let text =
            format!("audit.file: {path}: can't be written: {why}; until it can, lines go {place}");
        instead.begin();
        instead.write(&Line::now(Level::Error, text.clone()));
        self.trouble = Some(Trouble {
            since: SystemTime::now(),
            again: Instant::now() + PAUSE,
            instead: Box::new(instead),
            place,
            lines: 0,
        });
        text
    }
}

impl Trouble {
    fn write(&mut self, line: &Line) {
        self.lines += 1;
        self.instead.write(line);
    }

    /// What the file says when it can be written again.
    fn words(&self, file: &AuditFile) -> String {
        let since = humantime::format_rfc3339_seconds(self.since);
        let lines = if self.lines == 1 { "line" } else { "lines" };
        format!(
            "audit.file: {}: could not be written from {since} until now: {} {lines} went {}",
            file.path().display(),
            self.lines,
            self.place
        )
    }
}
