//! A file's bytes, with everything that may be wrong with them before they are TOML.
//!
//! A daemon must not hang at, or read without end, what somebody put in its file's place: devices are
//! refused, a pipe (`-config <(...)`) has its time, and every file a largest size. It knows nothing of
//! what the file says. Called by `sources`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::diagnostic::{Found, MOST_SHOWN, Problem, Text, show_path};

/// The largest file, in bytes: some 100,000 networks.
pub(super) const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// How long a pipe may take until its end.
const PIPE_TIME: Duration = Duration::from_secs(2);

/// Whether there is nothing of that name. A name that leads nowhere is something: it is there, and
/// can't be read.
pub(super) fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Whether this name is one of a descriptor: /dev/stdin, /dev/fd/63 (`<(...)` of a shell), or a link to
/// such. What it leads to is another thing, or nothing, once the daemon has let go of who started it.
pub(super) fn is_descriptor(path: &Path) -> bool {
    /// As many links as the kernel follows.
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Some(folder) = path.parent().and_then(|f| fs::canonicalize(f).ok()) else {
            return false;
        };
        if folder.starts_with("/proc") && folder.ends_with("fd") {
            return true;
        }
        let Ok(target) = fs::read_link(&path) else {
            return false;
        };
        path = folder.join(target);
    }
    false
}

/// Reads the file at `path`, which the operator called `name`.
///
/// # Errors
/// It is not there, can't be opened or read, is no file, is too large, or is not UTF-8 (each place
/// where it is not).
pub(super) fn read(path: &Path, name: &Path) -> Result<Text, Vec<Problem>> {
    let bytes = bytes(path).map_err(|what| {
        let forbidden = what == FORBIDDEN;
        let problem = Problem::new(show_path(name), what);
        vec![if forbidden {
            problem.forbidden()
        } else {
            problem
        }]
    })?;
    String::from_utf8(bytes)
        .map(|text| Text::new(name, text))
        .map_err(|e| not_utf8(name, e.as_bytes()))
}

/// The file's bytes, or why there are none.
fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let kind = fs::metadata(path).map_err(|e| unreadable(&e))?.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(format!("this is {what}; expected a regular file or a pipe"));
    }
    // Between the look and the opening it may have become something else: O_NONBLOCK, so that not
    // even that can hang.
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)
        .map_err(|e| unreadable(&e))?;
    let bytes = if kind.is_fifo() {
        from_pipe(&mut file)?
    } else {
        let mut bytes = Vec::new();
        (&mut file)
            .take(MOST_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| unreadable(&e))?;
        bytes
    };
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!(
            "this is too large; expected at most {MOST_BYTES} bytes"
        ));
    }
    Ok(bytes)
}

/// All that comes through a pipe in time.
fn from_pipe(pipe: &mut File) -> Result<Vec<u8>, String> {
    let late = || {
        format!(
            "nothing more comes through this pipe; expected its end within {} seconds",
            PIPE_TIME.as_secs()
        )
    };
    let end = Instant::now() + PIPE_TIME;
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while bytes.len() as u64 <= MOST_BYTES {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(late()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(unreadable(&e.into())),
        }
        match pipe.read(&mut buffer) {
            // A pipe that nobody writes to looks like an empty one; an empty file must not become
            // the default settings by mistake.
            Ok(0) if bytes.is_empty() => {
                return Err("this pipe is empty; expected a file's text".to_owned());
            }
            Ok(0) => break,
            Ok(n) => bytes.extend(buffer.iter().take(n)),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(unreadable(&e)),
        }
    }
    Ok(bytes)
}

/// What is told of a file that this user may not read.
const FORBIDDEN: &str = "cannot be read: permission denied; expected a readable file";

fn unreadable(error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => return FORBIDDEN.to_owned(),
        _ => error.to_string(),
    };
    format!("cannot be read: {why}; expected a readable file")
}

/// A mistake for each place that is not UTF-8. The text is shown with a mark in each of them.
fn not_utf8(name: &Path, bytes: &[u8]) -> Vec<Problem> {
    let mut text = String::new();
    let mut wrong = Vec::new();
    let mut counted = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if let Some(byte) = chunk.invalid().first() {
            if wrong.len() < MOST_SHOWN {
                let what = format!("byte 0x{byte:02x} is not UTF-8; expected UTF-8 text");
                wrong.push((text.len(), what));
            } else {
                counted += 1;
            }
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    // The byte order mark goes with the text, and the offsets with it.
    let mark = if text.starts_with('\u{feff}') { 3 } else { 0 };
    wrong.iter_mut().for_each(|(offset, _)| *offset -= mark);
    Text::new(name, text).problems(Found {
        wrong,
        counted,
        unread: false,
    })
}
