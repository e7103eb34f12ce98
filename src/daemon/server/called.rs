//! What users are called, for the audit's messages.
//!
//! The user database may be slow, so a name is waited for a moment at most, remembered for a while, and no
//! other is asked for where one came too late. Called by `whose`, under no lock of the state's.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::users::{self, NoAnswer};

/// How long a user's name may take, and how long nobody is asked for one after it took longer.
const PATIENCE_WITH_A_NAME: Duration = Duration::from_millis(200);
const AFTER_A_LATE_ONE: Duration = Duration::from_secs(20);
/// How long a name is believed, and of how many users at most.
const BELIEVED: Duration = Duration::from_secs(60);
const MOST_NAMES: usize = 1024;

/// What users are called, as it was lately.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    names: HashMap<u32, Option<String>>,
    since: Option<Instant>,
    /// When a name took too long.
    late: Option<Instant>,
}

impl Names {
    /// What a user is called, if that is known or found out soon.
    pub(super) fn of(&self, uid: u32) -> Option<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = known.since.is_none_or(|since| since.elapsed() > BELIEVED);
        if is_old || known.names.len() >= MOST_NAMES {
            known.names.clear();
            known.since = Some(Instant::now());
        }
        if let Some(name) = known.names.get(&uid) {
            return name.clone();
        }
        if known
            .late
            .is_some_and(|late| late.elapsed() < AFTER_A_LATE_ONE)
        {
            return None;
        }
        match users::name_of(uid, Instant::now() + PATIENCE_WITH_A_NAME) {
            Ok(name) => {
                known.names.insert(uid, name.clone());
                name
            }
            // It is asked again when names are not believed any more.
            Err(NoAnswer::Failed(_) | NoAnswer::NoThread) => {
                known.names.insert(uid, None);
                None
            }
            Err(NoAnswer::Late) => {
                known.late = Some(Instant::now());
                None
            }
        }
    }
}
