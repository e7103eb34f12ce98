//! What of the sandbox is in force, read back from the process: `-status` tells what is, not what was meant.
//!
//! Of every thread, as all of it holds for threads. Called by `sandbox`.

use std::fs::{self, File};

use nix::sys::prctl;

use crate::core::status::Sandbox;
use crate::sys;

/// The fields of /proc/self/task/N/status that hold capabilities which could be used.
const CAPABILITIES: [&str; 4] = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];

/// What is in force. `landlock` is the version that was put in force, if one was.
pub(super) fn read(landlock: Option<u32>, is_off: bool) -> Sandbox {
    let (no_new_privs, capabilities) = of_all_threads().unwrap_or_else(of_this_thread);
    Sandbox {
        no_new_privs,
        capabilities,
        landlock: landlock.filter(|_| holds()),
        off: is_off,
    }
}

/// Whether Landlock keeps something from this thread that nothing else keeps from anybody.
fn holds() -> bool {
    File::open("/").is_err()
}

fn of_all_threads() -> Option<(bool, bool)> {
    let mut all = (true, false);
    for thread in fs::read_dir("/proc/self/task").ok()? {
        // One that has ended meanwhile is of no matter.
        let Ok(status) = fs::read_to_string(thread.ok()?.path().join("status")) else {
            continue;
        };
        let (no_new_privs, capabilities) = of_a_thread(&status)?;
        all = (all.0 && no_new_privs, all.1 || capabilities);
    }
    Some(all)
}

/// Whether a thread can get no new privileges, and whether it has capabilities.
fn of_a_thread(status: &str) -> Option<(bool, bool)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    let no_new_privs = field("NoNewPrivs:")? == "1";
    // A kernel before 4.3 has no ambient ones.
    let mut sets = CAPABILITIES.iter().filter_map(|name| field(name));
    let capabilities = sets.any(|set| set.bytes().any(|digit| digit != b'0'));
    Some((no_new_privs, capabilities))
}

/// The same where there is no /proc.
fn of_this_thread() -> (bool, bool) {
    let no_new_privs = prctl::get_no_new_privs().unwrap_or(false);
    (no_new_privs, sys::has_capabilities().unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_any_capability_is_seen() {
        let status = |inherited: &str, effective: &str, ambient: &str| {
            let none = "0000000000000000";
            let text = format!(
                "Name:\tepmd\nCapInh:\t{inherited}\nCapPrm:\t{none}\nCapEff:\t{effective}\n\
                 CapBnd:\t000001ffffffffff\nCapAmb:\t{ambient}\nNoNewPrivs:\t1\n"
            );
            of_a_thread(&text).unwrap()
        };
        let none = "0000000000000000";
        let one = "0000000000000400";
        assert_eq!(status(none, none, none), (true, false));
        assert_eq!(status(one, none, none), (true, true));
        assert_eq!(status(none, one, none), (true, true));
        assert_eq!(status(none, none, one), (true, true));
        assert_eq!(of_a_thread("Name:\tepmd\n"), None);
    }

    #[test]
    fn proc_says_of_this_thread_what_the_kernel_does() {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(of_a_thread(&status), Some(of_this_thread()));
    }
}
