//! What a server costs, as the kernel has it: CPU time, resident memory, wake-ups.

use std::fs;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// The CPU time that the process has used so far, all its threads together, those that have ended
/// included, in nanoseconds.
///
/// Its CPU clock is the scheduler's own sum. utime and stime of /proc/PID/stat have the same sum,
/// cut to ticks of 10 ms; schedstat has it for living threads only, and not on every kernel.
pub(crate) fn cpu_time(pid: Pid) -> Duration {
    let clock = clock_getcpuclockid(pid).expect("the server is alive");
    clock_gettime(clock).expect("its clock is read").into()
}

/// The resident memory of the process in bytes.
pub(crate) fn resident(pid: Pid) -> u64 {
    1024 * status_number(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// How often the process has gone to sleep by itself, and so has been woken, all threads together.
pub(crate) fn wakeups(pid: Pid) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the server is alive")
        .map(|task| task.expect("a thread").path().join("status"))
        .map(|status| status_number(&status.to_string_lossy(), "voluntary_ctxt_switches:"))
        .sum()
}

/// The number behind `key` in a status file of proc.
fn status_number(file: &str, key: &str) -> u64 {
    let status = fs::read_to_string(file).expect("the server is alive");
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .expect("the kernel tells it")
}

/// Raises this process's soft descriptor limit to the hard one; what it starts inherits that.
/// Returns the limit.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the descriptor limit is read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be the hard one");
    hard
}

/// Binds this process, and so whatever it starts, to `core`, or else to the last one that it may
/// run on.
///
/// Where client and server are on two cores, each wake-up is an interrupt sent to the other one. On a
/// virtual machine that costs as much as the request itself, varies, and is the same for all
/// servers: it would make their ratios look better than they are.
pub(crate) fn stay_on_one_core(core: Option<usize>) {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the cores are read");
    let last = (0..CpuSet::count()).rfind(|&core| allowed.is_set(core).unwrap_or(false));
    let core = core.or(last).expect("it runs on some core");
    let mut cores = CpuSet::new();
    cores.set(core).expect("a core's number");
    sched_setaffinity(this, &cores).expect("there is such a core");
}
