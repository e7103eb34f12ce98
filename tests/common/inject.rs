//! System calls made from within a running process, in a thread of its choice: what a fault in that
//! process could do.
//!
//! By ptrace(2): the thread is stopped, made to run one `syscall` instruction with our arguments, and goes on
//! as if nothing had been. Needs root. One thread of a test does all of it for one process.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Below a thread's stack there is room for a path, behind what the ABI lets it use.
const BELOW_THE_STACK: u64 = 8192;
/// A `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// What is tried, and on what, as the process itself finds it.
pub(crate) struct Outside {
    /// A file that its user may write to.
    pub(crate) file: String,
    /// A folder in which its user may make something.
    pub(crate) folder: String,
    /// A TCP port of 127.0.0.1 on which somebody listens.
    pub(crate) port: u16,
    /// A TCP port that is free.
    pub(crate) free: u16,
}

/// What of all that a program could do succeeds from within a process, thread by thread; the rest is
/// forbidden.
pub(crate) fn succeeds(pid: u32, outside: &Outside) -> Vec<String> {
    let mut done = Vec::new();
    for (id, name) in threads(pid) {
        let thread = Thread::stop(pid, id);
        let mut tries = thread.tries(outside);
        tries.push((
            "running a program",
            thread.on_path(libc::SYS_execve, "/bin/true", [0, 0]),
        ));
        for (what, result) in tries {
            match result {
                Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => {}
                other => done.push(format!("{what} in {name}: {other:?}")),
            }
        }
    }
    done
}

/// The threads of a process, with their names.
pub(crate) fn threads(pid: u32) -> Vec<(u32, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let mut all: Vec<_> = tasks
        .map(|task| {
            let path = task.expect("a thread").path();
            let name = fs::read_to_string(path.join("comm")).expect("a name");
            let id = path.file_name().and_then(|id| id.to_str()?.parse().ok());
            (id.expect("a number"), name.trim_end().to_owned())
        })
        .collect();
    all.sort();
    all
}

/// A thread that stands still; dropped, it goes on.
pub(crate) struct Thread {
    id: Pid,
    before: libc::user_regs_struct,
    memory: File,
    instruction: u64,
}

impl Thread {
    /// Stops this thread of a process.
    pub(crate) fn stop(pid: u32, id: u32) -> Self {
        let id = Pid::from_raw(id.cast_signed());
        ptrace::seize(id, ptrace::Options::empty()).expect("a thread to trace (root)");
        ptrace::interrupt(id).expect("a thread that stops");
        waitpid(id, Some(WaitPidFlag::__WALL)).expect("a thread that has stopped");
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .expect("its memory");
        Self {
            id,
            before: ptrace::getregs(id).expect("its registers"),
            instruction: instruction(pid, &memory),
            memory,
        }
    }

    /// Makes a system call.
    pub(crate) fn call(&self, number: i64, arguments: [u64; 4]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx, r10] = arguments;
        let registers = libc::user_regs_struct {
            rip: self.instruction,
            rax: number.cast_unsigned(),
            // It is in no system call, so that none is begun anew.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            ..self.before
        };
        ptrace::setregs(self.id, registers).expect("its registers");
        ptrace::step(self.id, None).expect("a step");
        waitpid(self.id, Some(WaitPidFlag::__WALL)).expect("the end of the step");
        let result = ptrace::getregs(self.id)
            .expect("its registers")
            .rax
            .cast_signed();
        match i32::try_from(-result) {
            Ok(number @ 1..4096) => Err(Errno::from_raw(number)),
            _ => Ok(result.cast_unsigned()),
        }
    }

    /// Puts bytes where the thread finds them.
    fn lend(&self, bytes: &[u8]) -> u64 {
        let place = (self.before.rsp - BELOW_THE_STACK) & !63;
        self.memory.write_all_at(bytes, place).expect("its memory");
        place
    }

    fn on_path(&self, number: i64, path: &str, more: [i32; 2]) -> Result<u64, Errno> {
        let path = self.lend(&[path.as_bytes(), b"\0"].concat());
        let [a, b] = more.map(|it| u64::from(it.cast_unsigned()));
        self.call(number, [path, a, b, 0])
    }

    /// A TCP socket that is bound or connected to this port of 127.0.0.1.
    pub(crate) fn tcp(&self, number: i64, port: u16) -> Result<u64, Errno> {
        let kind = [libc::AF_INET, libc::SOCK_STREAM, 0, 0].map(|it| u64::from(it.cast_unsigned()));
        let socket = self.call(libc::SYS_socket, kind)?;
        let [high, low] = port.to_be_bytes();
        let address = [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let place = self.lend(&address);
        let result = self.call(number, [socket, place, address.len() as u64, 0]);
        self.call(libc::SYS_close, [socket, 0, 0, 0])?;
        result
    }

    /// Tries all that it could do and go on afterwards.
    pub(crate) fn tries(&self, outside: &Outside) -> Vec<(&'static str, Result<u64, Errno>)> {
        let Outside {
            file,
            folder,
            port,
            free,
        } = outside;
        let new = libc::O_CREAT | libc::O_WRONLY;
        vec![
            (
                "reading /etc/group",
                self.on_path(libc::SYS_open, "/etc/group", [libc::O_RDONLY, 0]),
            ),
            (
                "reading /etc/shadow",
                self.on_path(libc::SYS_open, "/etc/shadow", [libc::O_RDONLY, 0]),
            ),
            (
                "listing /",
                self.on_path(libc::SYS_open, "/", [libc::O_DIRECTORY, 0]),
            ),
            (
                "reading a file",
                self.on_path(libc::SYS_open, file, [libc::O_RDONLY, 0]),
            ),
            (
                "writing",
                self.on_path(libc::SYS_open, file, [libc::O_WRONLY, 0]),
            ),
            (
                "emptying",
                self.on_path(libc::SYS_open, file, [libc::O_WRONLY | libc::O_TRUNC, 0]),
            ),
            (
                "making a file",
                self.on_path(libc::SYS_open, &format!("{folder}/new"), [new, 0o644]),
            ),
            (
                "making a folder",
                self.on_path(libc::SYS_mkdir, &format!("{folder}/dir"), [0o755, 0]),
            ),
            ("removing", self.on_path(libc::SYS_unlink, file, [0, 0])),
            ("connecting", self.tcp(libc::SYS_connect, *port)),
            ("binding", self.tcp(libc::SYS_bind, *free)),
            (
                "a signal to process 1",
                self.call(libc::SYS_kill, [1, 0, 0, 0]),
            ),
        ]
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.id, self.before);
        let _ = ptrace::detach(self.id, None);
    }
}

/// Where the process has a `syscall` instruction.
fn instruction(pid: u32, memory: &File) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    let code = maps
        .lines()
        .filter(|line| line.contains(" r-xp ") && line.contains('/'));
    for line in code {
        let (begin, rest) = line.split_once('-').expect("a range");
        let end = rest.split(' ').next().expect("an end");
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        let (begin, end) = (number(begin), number(end));
        let mut bytes = vec![0; usize::try_from(end - begin).expect("a length")];
        if memory.read_exact_at(&mut bytes, begin).is_err() {
            continue;
        }
        if let Some(at) = bytes.windows(2).position(|it| it == SYSCALL) {
            return begin + at as u64;
        }
    }
    panic!("no system call is made in {maps}");
}
