//! Following the daemon: a thread that hears what is registered and who may look it up, and keeps it for
//! whoever acts on it.
//!
//! What it heard last stays when the daemon goes; it asks again until there is one, and is told everything
//! anew. Decides nothing. Signals ring at the same bell (`signals`). Called by `guard`.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::audit::escape_again;
use crate::core::follow::{Access, FOLLOW_REQUEST, Registration, Report, Told};
use crate::tools::control::{self, Unasked};

/// Between two tries to reach the daemon: it is back 100 ms after a crash.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How long the daemon may take for its first line, and to take a report.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line: 65,536 names of the longest and 200,000 networks are some 100 MiB.
const MAX_LINE: u64 = 256 * 1024 * 1024;
/// What to do about a daemon that does not speak as this guard does.
const OTHER_VERSION: &str = "restart it, so that both are of one version (systemctl restart hardened-epmd \
                             hardened-epmd-guard)";

/// What was heard, and a bell that rings when there is more.
#[derive(Debug, Default)]
pub(super) struct Bell {
    heard: Mutex<Heard>,
    rings: Condvar,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The names that are registered.
    pub(super) names: BTreeMap<String, Registration>,
    /// The lists; `None` before the first daemon has told them.
    pub(super) access: Option<Arc<Access>>,
    /// How the daemon can be reached.
    pub(super) link: Link,
    /// SIGHUP has come.
    pub(super) reload: bool,
    /// SIGTERM or SIGINT has come.
    pub(super) end: bool,
    /// There is something that was not there before.
    rung: bool,
}

/// The connection to the daemon.
#[derive(Clone, Debug, Default)]
pub(super) enum Link {
    /// It is being made.
    #[default]
    Asking,
    /// All is heard.
    Up(Arc<UnixStream>),
    /// There is none, for this reason.
    Down(String),
}

impl Bell {
    /// Changes what was heard, and rings.
    pub(super) fn ring(&self, change: impl FnOnce(&mut Heard)) {
        let mut heard = self.lock();
        change(&mut heard);
        heard.rung = true;
        self.rings.notify_all();
    }

    /// Waits until it rings, at most until then.
    pub(super) fn wait(&self, until: Instant) -> MutexGuard<'_, Heard> {
        let mut heard = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if std::mem::take(&mut heard.rung) || left.is_zero() {
                return heard;
            }
            let waited = self.rings.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows for ever, in a thread.
///
/// # Errors
/// No thread can be had.
pub(super) fn start(bell: &Arc<Bell>, socket: &Path) -> io::Result<()> {
    let (bell, socket) = (Arc::clone(bell), socket.to_owned());
    let follow = move || {
        loop {
            let why = match follow(&bell, &socket) {
                Ok(why) => why.to_owned(),
                Err(Unasked::NotTrusted(what)) => what,
                Err(Unasked::Failed(error)) => match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        "no epmd answers there; see: systemctl status hardened-epmd".to_owned()
                    }
                    ErrorKind::PermissionDenied => {
                        format!("{error}; it answers root and its own user alone")
                    }
                    _ => error.to_string(),
                },
            };
            let why = format!("{}: {}", socket.display(), escape_again(&why));
            bell.ring(|heard| heard.link = Link::Down(why));
            thread::sleep(TRY_AGAIN);
        }
    };
    let thread = thread::Builder::new().name("epmd-follow".into());
    thread.spawn(follow).map(|_| ())
}

/// Follows until the connection ends; gives the reason.
fn follow(bell: &Bell, socket: &Path) -> Result<&'static str, Unasked> {
    let mut stream = ask(socket)?;
    let mut first = true;
    loop {
        let line = match stream.line()? {
            Line::Whole(told) => *told,
            Line::End if first => return Ok(CLOSED_AT_ONCE),
            Line::End => return Ok("the daemon has ended, or let us go"),
            Line::Part => return Ok("it closed in the middle of a line"),
        };
        if first {
            let Told::State(_) = line else {
                return Err(nonsense("it does not begin with its state"));
            };
            stream.reader.get_ref().set_read_timeout(None)?;
        }
        let writer = stream.reader.get_ref().try_clone()?;
        bell.ring(|heard| {
            take(heard, line);
            if first {
                heard.link = Link::Up(Arc::new(writer));
            }
        });
        first = false;
    }
}

/// What is said of a daemon that does not answer.
const CLOSED_AT_ONCE: &str = "the daemon closed without an answer: it is of a version that can't be followed, or four \
                              follow it already; restart it (systemctl restart hardened-epmd)";

/// The daemon's whole state, once.
///
/// # Errors
/// There is no daemon, it is not to be believed, or it is of another version.
pub(super) fn state(socket: &Path) -> Result<crate::core::follow::State, Unasked> {
    match ask(socket)?.line()? {
        Line::Whole(told) => match *told {
            Told::State(state) => Ok(state),
            _ => Err(nonsense("it does not begin with its state")),
        },
        Line::End => Err(io::Error::other(CLOSED_AT_ONCE).into()),
        Line::Part => Err(io::Error::other("it closed in the middle of a line").into()),
    }
}

/// Tells the daemon how the guard is.
///
/// # Errors
/// It does not take it.
pub(super) fn report(daemon: &UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut daemon = daemon;
    daemon.write_all(&line)
}

fn nonsense(what: &str) -> Unasked {
    io::Error::other(format!(
        "the daemon says what this version does not know: {what}; {OTHER_VERSION}"
    ))
    .into()
}

/// What the daemon says, line by line.
struct Stream {
    reader: BufReader<UnixStream>,
}

enum Line {
    Whole(Box<Told>),
    Part,
    End,
}

fn ask(socket: &Path) -> Result<Stream, Unasked> {
    let mut daemon = control::connect(socket)?;
    daemon.set_read_timeout(Some(PATIENCE))?;
    daemon.set_write_timeout(Some(PATIENCE))?;
    daemon.write_all(FOLLOW_REQUEST)?;
    Ok(Stream {
        reader: BufReader::with_capacity(64 * 1024, daemon),
    })
}

impl Stream {
    fn line(&mut self) -> Result<Line, Unasked> {
        let mut text = Vec::new();
        (&mut self.reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Ok(Line::End);
        }
        if text.pop() != Some(b'\n') {
            return Ok(Line::Part);
        }
        match serde_json::from_slice(&text) {
            Ok(told) => Ok(Line::Whole(Box::new(told))),
            Err(error) => Err(nonsense(&error.to_string())),
        }
    }
}

/// Takes a line into what was heard.
fn take(heard: &mut Heard, told: Told) {
    match told {
        Told::State(state) => {
            let named = |r: Registration| (r.name.clone(), r);
            heard.names = state.registrations.into_iter().map(named).collect();
            heard.access = Some(Arc::new(state.access));
        }
        Told::Registered(registration) => {
            heard.names.insert(registration.name.clone(), registration);
        }
        Told::Released { name } => {
            heard.names.remove(&name);
        }
        Told::Access(access) => heard.access = Some(Arc::new(access)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A daemon that answers each `follow` with the next of these, then closes.
    fn daemon(answers: &[&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = answers.to_vec();
        thread::spawn(move || {
            for answer in answers {
                let (mut client, _) = listener.accept().unwrap();
                let mut request = [0; FOLLOW_REQUEST.len()];
                client.read_exact(&mut request).unwrap();
                client.write_all(answer.as_bytes()).unwrap();
            }
        });
        (folder, path)
    }

    const STATE: &str = r#"{"state":{"version":"0.1.0","registrations":[{"name":"api","port":9100,"connection":null}],"access":{"allow":["10.0.3.0/24"],"deny":[],"nodes":{},"enforce":true}}}"#;

    fn heard_of(answer: &'static str) -> (Result<&'static str, String>, Vec<String>) {
        let (_folder, path) = daemon(&[answer]);
        let bell = Bell::default();
        let ended = follow(&bell, &path).map_err(|unasked| match unasked {
            Unasked::Failed(error) => error.to_string(),
            Unasked::NotTrusted(what) => what,
        });
        let names = bell.lock().names.keys().cloned().collect();
        (ended, names)
    }

    #[test]
    fn what_is_told_is_kept_also_when_the_daemon_goes() {
        let more = concat!(
            r#"{"registered":{"name":"web","port":9101,"connection":null}}"#,
            "\n",
            r#"{"released":{"name":"api"}}"#,
            "\n",
            r#"{"released":{"name":"nobody"}}"#,
            "\n"
        );
        let text: &'static str = format!("{STATE}\n{more}").leak();
        let (ended, names) = heard_of(text);
        assert!(ended.unwrap().contains("has ended"));
        assert_eq!(names, ["web"]);
    }

    #[test]
    fn a_line_that_breaks_off_changes_nothing() {
        let text: &'static str = format!("{STATE}\n{{\"released\":{{\"name\":\"ap").leak();
        let (ended, names) = heard_of(text);
        assert_eq!(ended.unwrap(), "it closed in the middle of a line");
        assert_eq!(names, ["api"]);
        let (ended, names) = heard_of(STATE);
        assert_eq!(ended.unwrap(), "it closed in the middle of a line");
        assert!(names.is_empty());
    }

    #[test]
    fn a_daemon_of_another_version_is_said_to_be_one() {
        assert!(
            heard_of("")
                .0
                .unwrap()
                .contains("version that can't be followed")
        );
        for text in [
            "{\"banned\":{\"name\":\"api\"}}\n",
            "{\"released\":{\"name\":\"api\"}}\n",
            "{\"state\":{}}\n",
            "{}\n",
            "\n",
            "EPMD\n",
        ] {
            let why = heard_of(text).0.unwrap_err();
            assert!(
                why.contains("what this version does not know"),
                "{text}: {why}"
            );
            assert!(why.contains("systemctl restart"), "{why}");
        }
    }
}
