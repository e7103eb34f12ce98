//! The users of this host: numbers by their names, and names by their numbers.
//!
//! The user database is whatever /etc/nsswitch.conf says, and may wait for a server that does not answer; so
//! it is asked by a thread of its own, for which nobody waits longer than he says. A binary without a C
//! library of the host's reads /etc/passwd alone. Called by `names`, and by whoever shows a user.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Uid, User};

/// Where users are, if nowhere else.
const PASSWD: &str = "/etc/passwd";
/// So many threads may wait for a user database that does not answer in time.
const MOST_LATE: usize = 2;
/// How long its modules may take to be loaded.
const PREPARED_WITHIN: Duration = Duration::from_millis(500);
/// Whether the user database is the file alone: the C library is linked in, and has no modules.
const FILE_ALONE: bool = cfg!(target_feature = "crt-static");

/// How many do.
static LATE: AtomicUsize = AtomicUsize::new(0);

/// Why it can't be told whether there is such a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There was no answer in time.
    Late,
    /// It can't be asked, or says that it failed.
    Failed(String),
    /// No thread can be had to ask it.
    NoThread,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("it does not answer"),
            Self::Failed(why) => f.write_str(why),
            Self::NoThread => f.write_str("no thread can be had to ask it"),
        }
    }
}

/// The number of the user of this name, if there is one; waits until `deadline` at most.
///
/// # Errors
/// It can't be told.
pub fn uid_of(name: &str, deadline: Instant) -> Result<Option<u32>, NoAnswer> {
    let wanted = name.to_owned();
    let user = find(
        deadline,
        move || User::from_name(&wanted),
        |user| user.name == name,
    );
    Ok(user?.map(|user| user.uid))
}

/// What the user of this number is called, if there is one; waits until `deadline` at most.
///
/// # Errors
/// It can't be told.
pub fn name_of(uid: u32, deadline: Instant) -> Result<Option<String>, NoAnswer> {
    let wanted = move || User::from_uid(Uid::from_raw(uid));
    let user = find(deadline, wanted, |user| user.uid == uid);
    Ok(user?.map(|user| user.name))
}

/// Has the C library load what it needs to look users up, before this process can't read that any more.
pub fn prepare() {
    const NOBODY: u32 = u32::MAX - 1;
    // Whatever comes of it: it is asked for that alone.
    let _ = name_of(NOBODY, Instant::now() + PREPARED_WITHIN);
}

/// A user as he is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    uid: u32,
}

/// Asks the user database or, where there is none or no thread to ask it, the file.
fn find(
    deadline: Instant,
    database: impl FnOnce() -> nix::Result<Option<User>> + Send + 'static,
    is_it: impl Fn(&Found) -> bool,
) -> Result<Option<Found>, NoAnswer> {
    if FILE_ALONE {
        return in_file(is_it);
    }
    let found = within(deadline, &LATE, move || match database() {
        Ok(user) => Ok(user.map(|user| Found {
            name: user.name,
            uid: user.uid.as_raw(),
        })),
        // For "no", a C library may say an error as well (getpwnam(3)).
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(error) => Err(NoAnswer::Failed(error.to_string())),
    });
    match found {
        Err(NoAnswer::NoThread) => in_file(is_it),
        found => found,
    }
}

/// Has a thread find it out, and waits for that as long as it may take. `late` counts the threads for which
/// nobody waits any more.
fn within<T: Send + 'static>(
    deadline: Instant,
    late: &'static AtomicUsize,
    find: impl FnOnce() -> Result<Option<T>, NoAnswer> + Send + 'static,
) -> Result<Option<T>, NoAnswer> {
    if late.load(Ordering::Acquire) >= MOST_LATE {
        return Err(NoAnswer::Late);
    }
    let (tell, told) = mpsc::sync_channel(1);
    // Whoever comes second to it knows what the other did: the thread has ended, or is late.
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    let thread = thread::Builder::new()
        .name("epmd-users".into())
        .spawn(move || {
            // Nobody waits for it any more, where it took its time.
            let _ = tell.send(find());
            if ends.swap(true, Ordering::AcqRel) {
                late.fetch_sub(1, Ordering::AcqRel);
            }
        });
    let Ok(thread) = thread else {
        return Err(NoAnswer::NoThread);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if let Ok(answer) = told.recv_timeout(left.max(Duration::from_millis(1))) {
        // It has nothing more to do; and who forks next must be alone.
        let _ = thread.join();
        return answer;
    }
    late.fetch_add(1, Ordering::AcqRel);
    if is_over.swap(true, Ordering::AcqRel) {
        late.fetch_sub(1, Ordering::AcqRel);
    }
    Err(NoAnswer::Late)
}

/// The first user of the file of whom this is true.
fn in_file(is_it: impl Fn(&Found) -> bool) -> Result<Option<Found>, NoAnswer> {
    match fs::read(PASSWD) {
        Ok(text) => Ok(in_text(&String::from_utf8_lossy(&text), is_it)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NoAnswer::Failed(format!("{PASSWD}: {error}"))),
    }
}

fn in_text(text: &str, is_it: impl Fn(&Found) -> bool) -> Option<Found> {
    let users = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        Some(Found {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
        })
    });
    users.into_iter().find(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn root_is_found_by_name_and_by_number() {
        assert_eq!(uid_of("root", soon()), Ok(Some(0)));
        assert_eq!(name_of(0, soon()), Ok(Some("root".to_owned())));
        for nobody in ["", "no such user", "0", "root:x:0"] {
            assert_eq!(uid_of(nobody, soon()), Ok(None), "{nobody}");
        }
        assert_eq!(name_of(u32::MAX - 1, soon()), Ok(None));
        let root = in_file(|user| user.name == "root").unwrap().unwrap();
        assert_eq!(root.uid, 0);
    }

    #[test]
    fn a_line_that_is_none_is_passed_over() {
        let text = "# a\n\nbroken\nx:y\nbad:x:abc:\ndeploy:x:1001:1001::/:/bin/sh\ndeploy:x:7:";
        let found = in_text(text, |user| user.name == "deploy").unwrap();
        assert_eq!(found.uid, 1001);
        assert_eq!(in_text(text, |user| user.name == "bad"), None);
        assert_eq!(in_text("", |_| true), None);
    }

    /// Whatever hangs hangs by itself, and no more than a few of them.
    #[test]
    fn who_asks_waits_no_longer_than_he_says() {
        static LATE: AtomicUsize = AtomicUsize::new(0);
        let start = Instant::now();
        let mut hanging = Vec::new();
        for _ in 0..4 {
            let (go, wait) = mpsc::channel::<()>();
            let deadline = Instant::now() + Duration::from_millis(20);
            let answer = within(deadline, &LATE, move || {
                let _ = wait.recv();
                Ok(Some(1))
            });
            assert_eq!(answer, Err(NoAnswer::Late));
            hanging.push(go);
        }
        assert_eq!(LATE.load(Ordering::Acquire), MOST_LATE);
        drop(hanging);
        // It answers again, once it does.
        while within(soon(), &LATE, || Ok(Some(1))) != Ok(Some(1)) {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        while LATE.load(Ordering::Acquire) > 0 {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }
}
