//! The control socket: what the daemon says of itself, to root and to its own user.
//!
//! One request, one JSON answer, nothing that changes anything. Where the socket can't be had the
//! daemon says so and goes on; a live daemon's socket is left alone, a dead one's is replaced. Who
//! sends nothing, or nonsense, has a few seconds and a few slots, and holds nobody up. Called by
//! `server` at the start.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::core::status::{STATUS_REQUEST, Status};
use crate::daemon::log::{Level, Log};

/// How long nothing is done after an error that would only come again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// How long a client may take, in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many clients are served at once.
const CLIENTS: usize = 16;

/// Makes the socket.
///
/// # Errors
/// Why there is none: a folder that can't be made, or another daemon that lives.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir(folder)?;
    }
    match Blocking::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                ErrorKind::AddrInUse,
                "another epmd answers there",
            ));
        }
        // Nobody listens there any more.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for ever, with what `status` makes for each question.
pub(super) async fn answer(
    listener: UnixListener,
    log: Log,
    status: impl Fn() -> Status + Clone + Send + 'static,
) {
    let slots = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // It is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let status = status.clone();
                tokio::spawn(async move {
                    // A client that goes away, or takes too long, has itself to thank.
                    let _ = timeout(PATIENCE, serve(client, status)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                log.note(Level::Warning, format!("control socket: {error}"));
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// One request, one answer.
async fn serve(mut client: UnixStream, status: impl Fn() -> Status) -> io::Result<()> {
    let who = client.peer_cred()?.uid();
    if who != 0 && who != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let mut request = [0; STATUS_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request != STATUS_REQUEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut answer = serde_json::to_vec(&status())?;
    answer.push(b'\n');
    client.write_all(&answer).await
}
