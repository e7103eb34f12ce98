//! The other end of the control socket: asking the running daemon what it is doing.
//!
//! One request, one JSON answer ([`Status`]); the daemon gives it. Called by `main` for
//! `-status` and by `doctor`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::core::status::{CONTROL_SOCKET, STATUS_REQUEST, Status};
use crate::exit::{Exit, complain};

/// How long each read may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that is read of an answer: 65,536 names are some 20 MiB at most.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Asks the daemon; gives its answer as it is.
///
/// # Errors
/// No daemon is there, or it does not answer this user.
pub fn ask() -> io::Result<Vec<u8>> {
    ask_at(Path::new(CONTROL_SOCKET))
}

fn ask_at(path: &Path) -> io::Result<Vec<u8>> {
    let mut daemon = UnixStream::connect(path)?;
    daemon.set_read_timeout(Some(PATIENCE))?;
    daemon.set_write_timeout(Some(PATIENCE))?;
    daemon.write_all(STATUS_REQUEST)?;
    let mut answer = Vec::new();
    daemon.take(MAX_ANSWER).read_to_end(&mut answer)?;
    if answer.is_empty() {
        let text = "the daemon closed without an answer: it answers root and its own user";
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(answer)
}

/// `-status`: prints the answer, for people or as it is.
#[must_use]
pub fn status(json: bool) -> Exit {
    let answer = match ask() {
        Ok(answer) => answer,
        Err(error) => {
            let what = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "no epmd answers there; `epmd -names` tells whether any is running".to_owned()
                }
                _ => error.to_string(),
            };
            complain(format_args!("epmd: {CONTROL_SOCKET}: {what}"));
            return Exit::Failure;
        }
    };
    let text = if json {
        answer
    } else {
        match serde_json::from_slice::<Status>(&answer) {
            Ok(status) => status.to_string().into_bytes(),
            Err(error) => {
                complain(format_args!(
                    "epmd: the daemon's answer is that of another version ({error}); try -json"
                ));
                return Exit::Failure;
            }
        }
    };
    match io::stdout().write_all(&text) {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}
