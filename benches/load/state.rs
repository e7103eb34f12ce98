//! What a server costs beside requests: its start, its memory, its sleep, and registrations in
//! bulk.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::client;
use crate::process;
use crate::report::{Report, Row, Target};
use crate::rounds::Rounds;
use crate::server::{Kind, Launcher};

/// Registrations made at once, where the server takes as many.
const BULK: usize = 10_000;

/// Measures all of it.
pub(crate) fn measure(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    starts(launcher, plan, report);
    idle(launcher, plan, report);
    bulk(launcher, plan, report);
}

/// The time from exec until the port takes connections, and until a lookup is answered.
fn starts(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    let listening = Rounds::run(plan.starts, &plan.kinds, |kind| {
        let start = Instant::now();
        let mut server = launcher.exec(kind, "", &[]);
        let address = server.address;
        server.wait_for("took connections", || TcpStream::connect(address).is_ok());
        start.elapsed().as_secs_f64() * 1e3
    });
    let ready = Rounds::run(plan.starts, &plan.kinds, |kind| {
        let start = Instant::now();
        let _server = launcher.start(kind);
        start.elapsed().as_secs_f64() * 1e3
    });
    report.add(Row::of_rounds("exec to listening", "ms", &listening, &[]));
    let mut row = Row::of_rounds("exec to the first answer", "ms", &ready, &[]);
    if let Some(time) = ready.median(Kind::Ours) {
        row = row.check("ours", time, Some(Target::AtMost(10.0)));
    }
    report.add(row);
}

/// Memory and wake-ups of servers that nobody asks anything.
fn idle(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    let servers: Vec<_> = plan
        .kinds
        .iter()
        .map(|&kind| launcher.start(kind))
        .collect();
    // Past the request timeout's first seconds: whatever the ready check left behind is gone.
    thread::sleep(Duration::from_secs(1));
    let before: Vec<_> = servers
        .iter()
        .map(|server| process::wakeups(server.pid()))
        .collect();
    thread::sleep(plan.idle);
    let mut memory = Row::new("resident when idle", "MiB");
    let what = format!("wake-ups in {} idle seconds", plan.idle.as_secs());
    let mut wakeups = Row::new(what, "");
    for (server, before) in servers.iter().zip(before) {
        let woken = (process::wakeups(server.pid()) - before) as f64;
        let resident = process::resident(server.pid()) as f64 / f64::from(1 << 20);
        memory = memory.value(server.kind, resident);
        wakeups = wakeups.value(server.kind, woken);
        if server.kind == Kind::Ours {
            memory = memory.check("ours", resident, Some(Target::AtMost(4.0)));
            wakeups = wakeups.check("ours", woken, Some(Target::AtMost(0.0)));
        }
    }
    report.add(memory);
    report.add(wakeups);
}

/// Registrations a second, one after the other from one client, and the memory that each takes.
fn bulk(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    let mut speed = Row::new("registrations", "1/s");
    let mut memory = Row::new("resident for each registration", "B");
    for &kind in plan.kinds.iter().filter(|&&kind| kind != Kind::Bare) {
        let count = kind.names(BULK).unwrap_or(1_000);
        let server = launcher.start(kind);
        let before = process::resident(server.pid());
        let mut nodes = Vec::new();
        let start = Instant::now();
        client::register_up_to(server.address, &mut nodes, count);
        let rate = count as f64 / start.elapsed().as_secs_f64();
        let grown = process::resident(server.pid()) - before;
        let bytes = grown as f64 / count as f64;
        speed = speed.value(kind, rate);
        memory = memory.value(kind, bytes);
        if kind == Kind::Ours {
            speed = speed.check("ours", rate, Some(Target::AtLeast(5_000.0)));
            memory = memory.check("ours", bytes, Some(Target::AtMost(1024.0)));
        }
    }
    report.add(speed);
    report.add(memory);
}
