//! The control socket: what the daemon says of itself, to root and to its own user.
//!
//! One request, one JSON answer, nothing that changes anything; who asks to follow is handed on. Where the
//! socket can't be had the daemon says so and goes on; a live daemon's socket is left alone, a dead one's is
//! replaced. Who sends nothing, or nonsense, has a few seconds and a few slots, and holds nobody up. Bound by
//! `start`, served by `server`.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener as Bound, UnixStream as Blocking};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::core::follow::FOLLOW_REQUEST;
use crate::core::slots::{self, Entry, Slots};
use crate::core::status::{STATUS_REQUEST, Status, is_everybodys};
use crate::daemon::log::{Level, Log};

/// How long nothing is done after an error that would only come again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// The modes of the folder, where it has to be made, and of the socket in it.
const FOLDER_MODE: u32 = 0o755;
const SOCKET_MODE: u32 = 0o600;
/// The bits that let a group or everybody write.
const OTHERS_WRITE: u32 = 0o022;
/// How long a client may take, in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many clients are served at once.
const CLIENTS: usize = 16;

/// Makes the socket. To be called before the daemon shuts itself in, which keeps it from folders and files.
///
/// # Errors
/// Why there is none: a folder that can't be made, or that others may write to, something there that is
/// no socket, or another daemon that lives.
pub(super) fn bind(path: &Path) -> io::Result<Bound> {
    if let Some(folder) = path.parent() {
        have_folder(folder)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other(
                "there is something that is no socket; remove it",
            ));
        }
        Ok(_) => match Blocking::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    ErrorKind::AddrInUse,
                    "another epmd answers there",
                ));
            }
            // Nobody listens there any more.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
    }
    let listener = Bound::bind(path)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Makes the folder where there is none, and sees to it that nobody else can put a socket of theirs there,
/// whom `epmd -status` would believe.
fn have_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        // Whatever the umask of who started it.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(folder)?;
    let name = folder.display();
    let wrong = |what: String| Err(io::Error::new(ErrorKind::PermissionDenied, what));
    if !found.is_dir() {
        return wrong(format!(
            "{name} is no folder, but a link or a file; remove it"
        ));
    }
    let (owner, own) = (found.uid(), nix::unistd::geteuid().as_raw());
    if owner != 0 && owner != own {
        return wrong(format!(
            "{name} belongs to user {owner}; expected root or user {own}"
        ));
    }
    let mode = found.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        let remedy = if is_everybodys(folder) {
            format!(
                "give the socket a folder of its own in it: control.socket = \"{name}/epmd/control.sock\""
            )
        } else {
            format!("`chmod {FOLDER_MODE:o} {name}` mends that")
        };
        return wrong(format!(
            "others may write to {name} (mode {mode:04o}); {remedy}"
        ));
    }
    Ok(())
}

/// Answers for ever: with what `status` makes for each question, and by handing who asks to follow to
/// `follow`.
pub(super) async fn answer<F: Future<Output = ()> + Send>(
    listener: UnixListener,
    log: Log,
    status: impl Fn() -> Status + Clone + Send + 'static,
    follow: impl Fn(UnixStream) -> F + Clone + Send + 'static,
) {
    let clients = Arc::new(Clients::default());
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (status, follow) = (status.clone(), follow.clone());
                clients.serve(move |asked| async move {
                    // A client that goes away, or takes too long, has itself to thank.
                    let served = timeout(PATIENCE, serve(client, asked, status)).await;
                    if let Ok(Ok(Some(follower))) = served {
                        follow(follower).await;
                    }
                });
            }
            Err(error) => {
                log.note(Level::Warning, format!("control socket: {error}"));
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// The clients that are served: as on epmd's own port, the oldest that has not asked makes room for a
/// newcomer, so that those that never ask keep nobody waiting.
#[derive(Debug)]
struct Clients(Mutex<(Slots, HashMap<slots::Id, AbortHandle>)>);

/// To be called by a client that has asked.
type Asked = Box<dyn FnOnce() + Send>;

impl Default for Clients {
    fn default() -> Self {
        Self(Mutex::new((Slots::new(CLIENTS, CLIENTS), HashMap::new())))
    }
}

impl Clients {
    /// Serves a client, unless too many are being answered.
    fn serve<F>(self: &Arc<Self>, task: impl FnOnce(Asked) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut inner = self.lock();
        let (slots, tasks) = &mut *inner;
        let (id, out) = match slots.enter(None) {
            Entry::Free(id) => (id, None),
            Entry::InPlaceOf { id, out, .. } => (id, tasks.remove(&out)),
            Entry::Full(_) => return,
        };
        if let Some(out) = out {
            out.abort();
        }
        let (clients, asking) = (Arc::clone(self), Arc::clone(self));
        let task = task(Box::new(move || asking.lock().0.answering(id)));
        let served = tokio::spawn(async move {
            task.await;
            let mut inner = clients.lock();
            inner.0.leave(id);
            inner.1.remove(&id);
        });
        tasks.insert(id, served.abort_handle());
    }

    fn lock(&self) -> MutexGuard<'_, (Slots, HashMap<slots::Id, AbortHandle>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, one answer. Gives a client back that asks to follow.
async fn serve(
    mut client: UnixStream,
    asked: Asked,
    status: impl Fn() -> Status,
) -> io::Result<Option<UnixStream>> {
    let who = client.peer_cred()?.uid();
    if who != 0 && who != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    // Both requests have one length.
    let mut request = [0; STATUS_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request == FOLLOW_REQUEST {
        asked();
        return Ok(Some(client));
    }
    if request != STATUS_REQUEST {
        return Err(ErrorKind::InvalidData.into());
    }
    asked();
    let mut answer = serde_json::to_vec(&status())?;
    answer.push(b'\n');
    client.write_all(&answer).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::status::{InForce, Limits, Use};
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    fn status() -> Status {
        let none = Use { used: 0, limit: 0 };
        Status {
            version: String::new(),
            pid: 0,
            uptime_seconds: 0,
            listening: vec![],
            registrations: vec![],
            requests: [].into(),
            refusals: vec![],
            limits: Limits {
                connections: none,
                registrations: none,
                descriptors: none,
            },
            sandbox: None,
            settings: InForce {
                file: None,
                allow: vec![],
                enforce: true,
                nodes: vec![],
                text: String::new(),
                ..InForce::default()
            },
            answered: vec![],
            guard: None,
        }
    }

    /// Tries to make the socket, on an event loop.
    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_that_others_may_write_to_or_have_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("epmd");
        let socket = folder.join("control.sock");
        drop(bind(&socket).unwrap());
        assert_eq!((mode(&folder), mode(&socket)), (0o755, 0o600));
        for open in [0o777, 0o775, 0o757, 0o1777] {
            fs::set_permissions(&folder, Permissions::from_mode(open)).unwrap();
            let error = bind(&socket).unwrap_err().to_string();
            assert!(error.contains("others may write to "), "{error}");
            assert!(error.contains(&format!("mode {open:04o}")), "{error}");
            assert_eq!(mode(&folder), open, "it is not ours to change");
        }
        // The remedy of the message.
        fs::set_permissions(&folder, Permissions::from_mode(FOLDER_MODE)).unwrap();
        drop(bind(&socket).unwrap());
        // Root alone can give a folder away.
        if std::os::unix::fs::chown(&folder, Some(12_345), None).is_ok() {
            let error = bind(&socket).unwrap_err().to_string();
            assert!(error.contains("belongs to user 12345"), "{error}");
        }
    }

    #[test]
    fn no_link_is_followed_and_nothing_but_a_dead_socket_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tmp.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let kept = elsewhere.join("control.sock");
        fs::write(&kept, "precious").unwrap();
        // The folder is a link into another one.
        let folder = tmp.path().join("epmd");
        std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
        assert!(bind(&folder.join("control.sock")).is_err());
        // What is there is a file, a link to a file, a link to nothing, a folder.
        assert!(bind(&kept).is_err());
        let socket = tmp.path().join("control.sock");
        for target in [&kept, &elsewhere, Path::new("/nonexistent")] {
            std::os::unix::fs::symlink(target, &socket).unwrap();
            assert!(bind(&socket).is_err(), "{target:?}");
            fs::remove_file(&socket).unwrap();
        }
        assert_eq!(fs::read_to_string(&kept).unwrap(), "precious");
        // A live daemon's socket is left alone, a dead one's is replaced.
        let live = bind(&socket).unwrap();
        let error = bind(&socket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(live);
        bind(&socket).unwrap();
    }

    #[test]
    fn clients_that_ask_nothing_make_room_for_one_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let log = crate::daemon::log::Log::start(
            crate::config::Format::Text,
            crate::config::Mode::Foreground,
        );
        let bound = bind(&path).unwrap();
        let client = std::thread::spawn(move || {
            let silent: Vec<_> = (0..100)
                .map(|_| Blocking::connect(&path).unwrap())
                .collect();
            let start = Instant::now();
            let mut asks = Blocking::connect(&path).unwrap();
            asks.write_all(STATUS_REQUEST).unwrap();
            let mut answer = String::new();
            asks.read_to_string(&mut answer).unwrap();
            drop(silent);
            (answer, start.elapsed())
        });
        runtime.block_on(async {
            let socket = UnixListener::from_std(bound).unwrap();
            let serving = tokio::spawn(answer(socket, log, status, |_| async {}));
            while !client.is_finished() {
                sleep(Duration::from_millis(5)).await;
            }
            serving.abort();
        });
        let (answer, took) = client.join().unwrap();
        assert!(answer.starts_with('{'), "{answer:?}");
        assert!(took < PATIENCE, "{took:?}");
    }
}
