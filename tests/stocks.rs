//! Where one stock epmd differs from the next and that is no matter of bytes on a socket: what
//! docs/differences.md and docs/threat-model.md say of each release, and what ours does in the same place.
//!
//! Needs all of them, whatever `EPMD_UNDER_TEST` says.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::binary::{Epmd, spawn, text};
use common::host::{listeners, process};
use common::netns::{EPMD, Host, lone_host};
use common::wire::{frame, names_answer};
use common::{PATIENCE, try_connect, wait_for};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A descriptor limit that is soon reached.
const FEW: &str = "--nofile=32:32";
/// More connections than that.
const MORE: usize = 40;

/// An epmd on a host of its own, with what it writes.
struct Running {
    child: Child,
    log: File,
}

impl Running {
    fn start(host: &Host, epmd: Epmd, arguments: &[&str], wrapper: &[&str]) -> Self {
        let log = tempfile::tempfile().unwrap();
        let mut command = epmd.wrapped(wrapper);
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log.try_clone().unwrap());
        let child = host.enter(|| spawn(&mut command));
        Self { child, log }
    }

    /// Its exit status, if it has ended.
    fn ended(&mut self) -> Option<Option<i32>> {
        Some(self.child.try_wait().unwrap()?.code())
    }

    fn listens(&self) -> bool {
        !listeners(self.child.id(), EPMD).is_empty()
    }

    /// Bytes that it has written.
    fn written(&self) -> u64 {
        self.log.metadata().unwrap().len()
    }

    /// How much CPU it has used.
    fn cpu(&self) -> Duration {
        // utime and stime, in hundredths: see proc(5).
        let stat = process::stat(self.child.id()).unwrap();
        let ticks = stat.iter().skip(11).take(2);
        let ticks = ticks.map(|it| it.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// IPv6's loopback is told, and the host has none.
#[test]
fn an_ipv6_loopback_that_is_told_and_that_the_host_lacks() {
    for epmd in [Epmd::Stock, Epmd::Stock29, Epmd::Ours] {
        let host = lone_host();
        host.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        let mut running = Running::start(&host, epmd, &["-address", "::1"], &[]);
        match epmd {
            Epmd::Stock29 => {
                let status = wait_for("its end", || running.ended());
                assert_eq!(status, Some(1), "{}", text(&running.log));
            }
            Epmd::Stock | Epmd::Ours => {
                wait_for("it to listen", || running.listens().then_some(()));
            }
        }
        // It says why, whether it starts or not.
        let said = || text(&running.log).contains("::1");
        wait_for("its reason", || said().then_some(()));
    }
}

/// Connections that never send, more of them than there are descriptors.
fn hold_more_than_fit(host: &Host) -> Vec<TcpStream> {
    host.enter(|| {
        let connect = |_| try_connect(LOCALHOST, EPMD).ok();
        (0..MORE).map_while(connect).collect()
    })
}

/// An epmd that has got more connections than it has descriptors for.
fn without_descriptors(host: &Host, epmd: Epmd) -> (Running, Vec<TcpStream>) {
    let running = Running::start(host, epmd, &[], &["prlimit", FEW]);
    wait_for("the daemon to listen", || running.listens().then_some(()));
    let held = hold_more_than_fit(host);
    (running, held)
}

/// CVE-2026-42792: stock up to OTP 27.3.4.14, 28.5.0.3 and 29.0.3. The other one is what its fix left.
#[test]
fn stock_without_descriptors_ends_or_spins_until_a_connection_ends() {
    /// Of what it writes: a thousand times the same line.
    const MANY: u64 = 1000 * 70;
    for epmd in Epmd::ALL_STOCK {
        let host = lone_host();
        let (mut running, held) = without_descriptors(&host, epmd);
        let ended = wait_for("its end, or lines without an end", || {
            let ended = running.ended().map(Some);
            ended.or_else(|| (running.written() > MANY).then_some(None))
        });
        let said = text(&running.log);
        assert!(said.contains("error in accept: Too many open files"));
        match epmd {
            Epmd::Stock29 => {
                assert_eq!(ended, None);
                rate(&running);
                serves_again_without_them(&host, &running, held);
            }
            _ => assert_eq!(ended, Some(Some(1)), "{said}"),
        }
    }
}

/// Prints what the spinning costs; fails unless nobody is served meanwhile.
fn rate(running: &Running) {
    const TIME: Duration = Duration::from_millis(500);
    let (written, cpu, begin) = (running.written(), running.cpu(), Instant::now());
    std::thread::sleep(TIME);
    let time = begin.elapsed().as_secs_f64();
    println!(
        "without descriptors: {:.0} bytes of log and {:.2} s of CPU a second",
        (running.written() - written) as f64 / time,
        (running.cpu() - cpu).as_secs_f64() / time
    );
    assert!(running.cpu() - cpu > TIME / 20, "it waits");
}

/// A node that asks is answered when the others have gone, and no sooner.
fn serves_again_without_them(host: &Host, running: &Running, held: Vec<TcpStream>) {
    let mut asking = host.connect(LOCALHOST);
    asking.write_all(&frame(b"n")).unwrap();
    let short = Some(Duration::from_millis(300));
    asking.set_read_timeout(short).unwrap();
    let mut answer = Vec::new();
    assert!(asking.read_to_end(&mut answer).is_err());
    assert_eq!(answer, b"");
    drop(held);
    asking.set_read_timeout(Some(PATIENCE)).unwrap();
    asking.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, names_answer(EPMD, &[]));
    // The last of them may be closed a moment after the answer.
    common::wait_for("it to have written all", || {
        let written = running.written();
        std::thread::sleep(Duration::from_millis(100));
        (running.written() == written).then_some(())
    });
}
