//! The file of `[audit] file`: bytes appended to it, whatever becomes of it.
//!
//! One that was renamed away is opened anew at SIGHUP, one that was cut off is written on at its new end. It may as
//! well be a pipe, a terminal, or the standard error of this process or of another one (`/proc/1/fd/2`): such a
//! thing is opened before the process shuts itself in, and kept. It knows bytes and no lines, says nothing by
//! itself, and waits for a pipe's reader no longer than it was told. Called by `target` and `opened`, from the log's
//! thread: a file system that hangs holds that one up, and nobody else.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

/// The mode of a file that is made.
const MODE: u32 = 0o640;
/// What a pipe that is ready takes without waiting (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    /// How long a reader that takes nothing is waited for.
    patience: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: Option<Open>,
    /// The last line is there in part: the next one begins on a line of its own.
    torn: bool,
    /// Why the last line is not there.
    failed: Option<io::Error>,
}

#[derive(Debug)]
struct Open {
    file: File,
    is_regular: bool,
}

/// Opens what can't be opened any more later: once this process is shut in, /proc/1/fd/2 can't be, and a daemon's
/// own standard error soon leads elsewhere. All else is the log's thread's to open.
pub(super) fn early(path: &Path) -> Option<File> {
    if stays(path) { open(path).ok() } else { None }
}

/// Whether it is a name for what some process has open, or for a device: it is never renamed away.
fn stays(path: &Path) -> bool {
    path.starts_with("/proc") || path.starts_with("/dev")
}

impl AuditFile {
    /// `early` is what [`early`] gave.
    pub(super) fn new(path: &Path, early: Option<File>, patience: Duration) -> Self {
        Self {
            path: path.to_owned(),
            patience,
            inner: Mutex::new(Inner {
                open: early.map(Open::of),
                torn: false,
                failed: None,
            }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, where it is not open.
    pub(super) fn open(&self) -> io::Result<()> {
        self.lock().open(&self.path)
    }

    /// Opens it anew: it may be another one by now. What was no file of a folder's is kept.
    pub(super) fn open_again(&self) {
        let mut inner = self.lock();
        let keeps = |open: &Open| !open.is_regular || stays(&self.path);
        if !inner.open.as_ref().is_some_and(keeps) {
            inner.open = None;
            inner.torn = false;
        }
    }

    /// Appends a line; [`Self::failed`] tells what came of it.
    pub(super) fn append(&self, line: &[u8]) {
        let mut inner = self.lock();
        let result = inner.append(&self.path, line, self.patience);
        inner.failed = result.err();
    }

    /// Why the last line is not there, in words.
    pub(super) fn failed(&self) -> Option<String> {
        let error = self.lock().failed.take()?;
        Some(self.words(&error))
    }

    /// An error of this file in words.
    pub(super) fn words(&self, error: &io::Error) -> String {
        let kind = fs::metadata(&self.path).map(|found| found.file_type());
        let no_reader = error.raw_os_error() == Some(Errno::ENXIO as i32)
            || matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::TimedOut);
        match kind {
            Ok(kind) if kind.is_socket() => {
                "this is a socket; expected a file or a pipe".to_owned()
            }
            Ok(kind) if kind.is_dir() => "this is a folder; expected a file or a pipe".to_owned(),
            _ if no_reader => "nobody reads at its other end".to_owned(),
            _ => error.to_string(),
        }
    }

    /// Whether a line is taken at once, for who can't wait.
    pub(super) fn takes(&self) -> bool {
        match &self.lock().open {
            Some(open) if !open.is_regular => open.is_ready(Duration::ZERO),
            _ => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn open(&mut self, path: &Path) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(Open::of(open(path)?));
        }
        Ok(())
    }

    fn append(&mut self, path: &Path, line: &[u8], patience: Duration) -> io::Result<()> {
        self.open(path)?;
        let Some(open) = &self.open else {
            return Ok(());
        };
        let deadline = Instant::now() + patience;
        if self.torn {
            open.write(b"\n", deadline).map_err(|(error, _)| error)?;
            self.torn = false;
        }
        open.write(line, deadline).map_err(|(error, written)| {
            self.torn = written > 0;
            // Its reader is gone: the next one may come to another pipe of this name.
            if error.kind() == ErrorKind::BrokenPipe && !stays(path) {
                self.open = None;
                self.torn = false;
            }
            error
        })
    }
}

impl Open {
    fn of(file: File) -> Self {
        let is_regular = file.metadata().is_ok_and(|found| found.is_file());
        Self { file, is_regular }
    }

    /// Writes all of it; else the error, and how much is written.
    fn write(&self, bytes: &[u8], deadline: Instant) -> Result<(), (io::Error, usize)> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let most = if self.is_regular { rest.len() } else { AT_ONCE };
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.is_regular && !self.is_ready(left) {
                return Err((ErrorKind::TimedOut.into(), written));
            }
            match (&self.file).write(rest.get(..most).unwrap_or(rest)) {
                Ok(0) => return Err((ErrorKind::WriteZero.into(), written)),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another writer was faster.
                Err(error) if error.kind() == ErrorKind::WouldBlock && !left.is_zero() => {}
                Err(error) => return Err((error, written)),
            }
        }
        Ok(())
    }

    /// Whether it takes bytes within this time.
    fn is_ready(&self, within: Duration) -> bool {
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        // Where it can't be asked, writing tells.
        !matches!(poll(&mut polled, timeout), Ok(0))
    }
}

/// Opens it for appending, and makes it where it is not there. Waits for nobody.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .mode(MODE)
        .custom_flags(O_NONBLOCK | O_NOCTTY);
    let error = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match options.clone().create_new(true).open(path) {
                Ok(file) => {
                    // Whatever the umask of who started us.
                    file.set_permissions(Permissions::from_mode(MODE))?;
                    Ok(file)
                }
                // A link that leads to nothing yet, or somebody was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    options.create(true).open(path)
                }
                Err(error) => Err(error),
            };
        }
        Err(error) => error,
        Ok(file) => return Ok(file),
    };
    // What can't be opened by its name (a socket; the pipe of another user) may be what we have.
    own_stderr(path).ok_or(error)
}

/// A copy of our standard error, where this names the same thing.
fn own_stderr(path: &Path) -> Option<File> {
    let stderr = io::stderr();
    let named = fs::metadata(path).ok()?;
    let ours = fstat(stderr.as_fd()).ok()?;
    let is_same = (named.dev(), named.ino()) == (ours.st_dev, ours.st_ino);
    let copy = is_same.then(|| stderr.as_fd().try_clone_to_owned().ok())?;
    copy.map(File::from)
}
