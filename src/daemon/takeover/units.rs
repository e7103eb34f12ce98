//! Sockets of socket units: process 1 holds them as well, and would start another epmd at the next
//! connection.
//!
//! Called by `takeover` when everything of the old epmd is copied: what waits in the sockets' queues stays
//! there then, because process 1 was not the last to close them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::holder::{self, MANAGER, Process};

/// How long systemctl may take.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How many descriptors process 1 has of these sockets.
pub(super) fn held_by_the_manager(inodes: &BTreeSet<u64>) -> usize {
    let sockets = holder::sockets(MANAGER).unwrap_or_default();
    sockets.values().filter(|i| inodes.contains(i)).count()
}

/// Stops the socket units that brought the port to this process, and them alone: what requires them, and
/// what they start, is left as it is.
///
/// # Errors
/// Where there is none, or it can't be stopped.
pub(super) fn stop_sockets(process: &Process, port: u16) -> io::Result<()> {
    let units = sockets(process, port)?;
    if units.is_empty() {
        return Err(io::Error::other(format!(
            "process 1 holds its listening sockets as well, and no socket unit is known that brought them \
             to {process}: it may be a service of its own, which systemd would start again; stop that"
        )));
    }
    let mut command = systemctl(&["stop", "--job-mode=ignore-dependencies", "--"]);
    command.args(&units);
    run(&mut command).map(|_| ())
}

/// The socket units that trigger the service in which a process runs, and those that listen on the port.
fn sockets(process: &Process, port: u16) -> io::Result<BTreeSet<String>> {
    let mut units = BTreeSet::new();
    let list = systemctl(&["list-sockets", "--all", "--full", "--plain", "--no-legend"]);
    units.extend(listening_units(&run(&mut { list })?, port));
    if let Some(service) = service(process.pid) {
        let mut show = systemctl(&["show", "--property=TriggeredBy", "--value", "--"]);
        let triggers = run(show.arg(service))?;
        units.extend(
            triggers
                .split_whitespace()
                .filter(is_socket)
                .map(str::to_owned),
        );
    }
    Ok(units)
}

fn is_socket(unit: &&str) -> bool {
    unit.ends_with(".socket")
}

/// The units among `systemctl list-sockets`' lines (`0.0.0.0:4369 epmd.socket epmd.service`) that listen
/// on this port.
fn listening_units(lines: &str, port: u16) -> Vec<String> {
    let port = format!(":{port}");
    let units = lines.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let listens = words.next()?.ends_with(&port);
        words.next().filter(|_| listens).filter(is_socket)
    });
    units.map(str::to_owned).collect()
}

/// The service in whose cgroup a process runs.
fn service(pid: i32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let units = cgroups
        .lines()
        .filter_map(|line| line.rsplit('/').next())
        .find(|unit| unit.ends_with(".service"))?;
    Some(units.to_owned())
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.arg("--no-pager").args(arguments);
    command
}

/// Runs a command to its end, and gives what it says. It must be little: it is read at the end.
fn run(command: &mut Command) -> io::Result<String> {
    let told =
        |what: String| io::Error::other(format!("{command:?} {what}", command = "systemctl"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| told(format!("can't be run: {error}")))?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(told(format!(
                "does not end within {} s",
                PATIENCE.as_secs()
            )));
        }
        sleep(LOOK_AGAIN);
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = crate::core::audit::escape(output.stderr.trim_ascii()).to_string();
    Err(told(format!("ended with {}: {why}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_by_their_port() {
        let lines = "[::]:4369 epmd.socket epmd.service\n\
                     0.0.0.0:4369 epmd@0.0.0.0.socket epmd@0.0.0.0.service\n\
                     [::]:14369 other.socket other.service\n\
                     /run/dbus/system_bus_socket dbus.socket dbus.service\n\
                     [::]:4369\n\nx:4369 y\n";
        assert_eq!(
            listening_units(lines, 4369),
            ["epmd.socket", "epmd@0.0.0.0.socket"]
        );
    }
}
