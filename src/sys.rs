//! The one module with unsafe code: what std and nix have no safe function for.
//!
//! Adopting descriptors that were handed over, closing all others that were inherited, copying some out of
//! another process; fork(2), what a signal does, a program that is started apart, capabilities, and where names are
//! looked up. Each use says why it is sound; nothing here decides anything. Called by `daemon`, by `tools` for
//! signals and programs, and by `main`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use nix::libc;
use nix::sys::epoll::Epoll;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has this process find hosts by /etc/hosts and DNS, and users by /etc/passwd, whatever
/// /etc/nsswitch.conf says: what else that names is a library of the host's, and loading one that is of another
/// glibc than a static binary ends it (SIGFPE or SIGSEGV at the first name that is looked up).
///
/// To be called before anything is looked up, by a static binary: any other has the host's glibc.
pub fn use_own_name_services() {
    #[cfg(target_env = "gnu")]
    for (database, services) in [
        (c"hosts", c"files dns"),
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"services", c"files"),
        (c"initgroups", c"files"),
    ] {
        unsafe extern "C" {
            fn __nss_configure_lookup(
                database: *const libc::c_char,
                services: *const libc::c_char,
            ) -> libc::c_int;
        }
        // SAFETY: both are strings that end with NUL and live for ever, of which glibc makes copies; it is
        // glibc's own declaration (nss.h). No other thread looks names up yet, see above.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

/// Closes every descriptor above the standard streams, by whatever way there is: close_range(2) (Linux
/// 5.9, and not every seccomp profile), what /proc/self/fd lists, or one number after the other.
///
/// To be called while this process has none of its own open: in `-daemon` mode, once the settings are read.
pub fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: no value of this process owns a descriptor above 2 at this point, see above, so none
    // is closed under anybody's hands.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, NO_FLAGS) };
    if result == 0 {
        return;
    }
    for number in listed().unwrap_or_else(all_numbers) {
        // SAFETY: as above; the one by which the folder was read is closed by now, and closing a number
        // that is not open does nothing.
        unsafe { libc::close(number) };
    }
}

/// The numbers above the standard streams that /proc/self/fd lists, where there is one.
fn listed() -> Option<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    let numbers = entries.map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers = numbers.collect::<Option<Vec<RawFd>>>()?;
    numbers.retain(|number| *number > 2);
    Some(numbers)
}

/// All numbers that a descriptor can have, which are gone through in a tenth of a second. The limit in force
/// says nothing: it may have been lowered under those that are open.
fn all_numbers() -> Vec<RawFd> {
    /// `fs.nr_open`, where nobody has raised it.
    const MOST: RawFd = 1 << 20;
    (3..MOST).collect()
}

/// What fork(2) gave: `None` in the child, its process in the parent.
///
/// # Errors
/// What fork(2) says: `EAGAIN` or `ENOMEM` where no process can be had.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: `daemon::detach` calls it before there is a second thread that runs, so nothing in the child
    // is left half done by a thread that it does not have.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Has a signal ignored, or do again what it does to every process.
///
/// # Errors
/// What sigaction(2) says.
pub fn set_ignored(signal: Signal, ignored: bool) -> io::Result<()> {
    let handler = if ignored {
        SigHandler::SigIgn
    } else {
        SigHandler::SigDfl
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither of the two runs any code of this process.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Has a signal interrupt what a thread waits for in the kernel, and do nothing else.
///
/// # Errors
/// What sigaction(2) says.
pub fn interrupt_by(signal: Signal) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART: the call is to come back.
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing at all, so it may run in between anything.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Whether a signal is ignored.
///
/// # Errors
/// What sigaction(2) says.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed, and the kernel writes one `sigaction` into the place for one.
    let result =
        unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a `sigaction` already, and the kernel has filled it in.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Has a program be started apart: as a process group of its own, with no signal held back, and ended
/// (SIGKILL) where the thread ends that started it.
pub fn start_apart(command: &mut Command) {
    command.process_group(0);
    let prepare = || {
        SigSet::empty().thread_set_mask()?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: it runs in the child between fork(2) and exec(2), and makes two system calls, no more: it
    // takes no memory and no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Takes over a descriptor that was handed to this process: by systemd (`LISTEN_FDS`), or in a
/// message (`SCM_RIGHTS`).
#[must_use]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: both callers get the number from where it says that this process owns the descriptor,
    // and adopt it once: `systemd::inherited` at the start, before anything else could have opened or
    // closed that number, and `systemd::store` from the message that brought it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A descriptor that stands for a process, whatever becomes of its number (pidfd_open(2), Linux 5.3).
///
/// # Errors
/// What pidfd_open(2) says: `ESRCH` where there is no such process, `ENOSYS` on an older kernel.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: two numbers and no memory; what comes back is a new descriptor, or -1.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, NO_FLAGS) };
    new_descriptor(result)
}

/// A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6), closed when this one execs.
///
/// # Errors
/// What pidfd_getfd(2) says: `EBADF` where it has none of this number, `EPERM` where it may not be looked
/// into, `ENOSYS` on an older kernel.
pub fn pidfd_getfd(process: &OwnedFd, descriptor: RawFd) -> io::Result<OwnedFd> {
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: three numbers and no memory; what comes back is a new descriptor, or -1.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            descriptor,
            NO_FLAGS,
        )
    };
    new_descriptor(result)
}

/// What a system call gave that makes a descriptor.
fn new_descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        Ok(descriptor) if descriptor >= 0 => {
            // SAFETY: the kernel has made it just now, so nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a byte was ever sent, or given to the kernel to be sent, on a TCP connection (`TCP_INFO`,
/// tcp(7)). A kernel before 4.6 does not know: then it is taken for sent.
///
/// # Errors
/// What getsockopt(2) says; it is no TCP connection, for example.
pub fn has_sent(connection: BorrowedFd<'_>) -> io::Result<bool> {
    /// Where `tcpi_notsent_bytes` and `tcpi_data_segs_out` are in Linux's `struct tcp_info`, and its length
    /// with them; libc's own has neither.
    const NOT_SENT: usize = 144;
    const DATA_SEGMENTS_OUT: usize = 156;
    const LENGTH: usize = 160;
    let mut info = [0_u32; LENGTH / size_of::<u32>()];
    let mut length = LENGTH as libc::socklen_t;
    // SAFETY: `info` is LENGTH bytes that are ours to write, `length` says so, and the kernel writes no
    // more than that; any bytes are a u32.
    let result = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let field = |offset: usize| info.get(offset / size_of::<u32>()).copied();
    let is_known = usize::try_from(length).is_ok_and(|length| length >= LENGTH);
    Ok(!is_known || field(NOT_SENT) != Some(0) || field(DATA_SEGMENTS_OUT) != Some(0))
}

/// The version of capget(2)'s and capset(2)'s arguments with 64 capabilities, `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITIES: u32 = 0x2008_0522;
/// Of whom: this thread.
const THIS_THREAD: i32 = 0;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// Twice `struct __user_cap_data_struct`: effective, permitted, inheritable, each with 32 of them.
type CapSets = [[u32; 3]; 2];

/// Whether this thread has any capability: effective, permitted or inheritable, and so ambient.
///
/// # Errors
/// What capget(2) says.
pub fn has_capabilities() -> io::Result<bool> {
    let mut header = CapHeader {
        version: CAPABILITIES,
        pid: THIS_THREAD,
    };
    let mut sets: CapSets = [[0; 3]; 2];
    // SAFETY: both are what the kernel expects with this version, and are ours to be written.
    let result = unsafe {
        libc::syscall(
            libc::SYS_capget,
            &raw mut header,
            (&raw mut sets).cast::<u32>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sets.as_flattened().iter().any(|set| *set != 0))
}

/// Gives all capabilities of this thread up, and those that a program could bring, as far as that is allowed.
/// Does nothing where there are none.
///
/// # Errors
/// What capset(2) says.
pub fn drop_capabilities() -> io::Result<()> {
    const MOST: libc::c_ulong = 64;
    const NONE: libc::c_ulong = 0;
    if !has_capabilities().unwrap_or(true) {
        return Ok(());
    }
    // The bounding set first: it takes one of them to drop it. Without no_new_privs it is what counts, with
    // it there is nothing that would use it.
    for capability in 0..MOST {
        // SAFETY: numbers alone.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, NONE, NONE, NONE) };
        if result != 0 {
            break;
        }
    }
    let mut header = CapHeader {
        version: CAPABILITIES,
        pid: THIS_THREAD,
    };
    let sets: CapSets = [[0; 3]; 2];
    // The ambient ones go with the permitted ones.
    // SAFETY: both are what the kernel expects with this version; it writes to the header alone, which is ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_capset,
            &raw mut header,
            (&raw const sets).cast::<u32>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the event loop on which this is called watch a descriptor of signals.
///
/// # Errors
/// What epoll_ctl(2) says.
pub fn watch_signals(signals: SignalFd) -> io::Result<AsyncFd<SignalFd>> {
    // SAFETY: the value owns its one descriptor, which is open until the value is dropped with what is made
    // here, and has no way to be exchanged meanwhile.
    let watched = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) };
    Ok(watched?)
}

/// An epoll that the event loop watches.
#[derive(Debug)]
pub struct WatchedEpoll(Arc<Epoll>);

impl AsRawFd for WatchedEpoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// Has the event loop on which this is called watch an epoll.
///
/// # Errors
/// What epoll_ctl(2) says.
pub fn watch_epoll(epoll: Arc<Epoll>) -> io::Result<AsyncFd<WatchedEpoll>> {
    // SAFETY: the value holds a share of the epoll, whose one descriptor is open until the last share is
    // dropped, and has no way to be exchanged meanwhile.
    let watched =
        unsafe { AsyncFd::register_with_interest(WatchedEpoll(epoll), Interest::READABLE) };
    Ok(watched?)
}
