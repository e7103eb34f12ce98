//! The `process_*` metrics that every dashboard knows, of this process.
//!
//! From getrusage(2) and /proc/self/status, which is all of /proc that the daemon may read once it is shut
//! in; where it can't be had, the figures that come from it stay 0. Called by `metrics`.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use prometheus::{Counter, Gauge, Registry};

/// The figures.
#[derive(Debug)]
pub(super) struct Process {
    cpu: Counter,
    open_descriptors: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    threads: Gauge,
}

impl Process {
    /// Registers them. `started`: in seconds since 1970 UTC; `descriptors`: how many it may have.
    pub(super) fn register(
        registry: &Registry,
        started: f64,
        descriptors: usize,
    ) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let cpu = Counter::new(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        )?;
        registry.register(Box::new(cpu.clone()))?;
        let began = "Start time of the process since unix epoch in seconds.";
        gauge("process_start_time_seconds", began)?.set(started);
        let most = "Maximum number of open file descriptors.";
        gauge("process_max_fds", most)?.set(descriptors as f64);
        Ok(Self {
            cpu,
            open_descriptors: gauge("process_open_fds", "Number of open file descriptors.")?,
            virtual_memory: gauge(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            )?,
            resident_memory: gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            threads: gauge("process_threads", "Number of OS threads in the process.")?,
        })
    }

    /// Brings them up to date; `open_descriptors` is how many it has.
    pub(super) fn update(&self, open_descriptors: usize) {
        self.open_descriptors.set(open_descriptors as f64);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
            let used = seconds(usage.user_time()) + seconds(usage.system_time());
            self.cpu.inc_by((used - self.cpu.get()).max(0.0));
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| number(&status, name) * 1024.0;
        self.virtual_memory.set(bytes("VmSize:"));
        self.resident_memory.set(bytes("VmRSS:"));
        self.threads.set(number(&status, "Threads:"));
    }
}

/// The number behind a name; what is memory is in KiB.
fn number(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_them() {
        let registry = Registry::new();
        let process = Process::register(&registry, 1.7e9, 1024).unwrap();
        process.update(7);
        let families = registry.gather();
        let named: Vec<_> = families.iter().map(|family| family.name()).collect();
        assert_eq!(named.len(), 7, "{named:?}");
        assert!(process.resident_memory.get() > 1e5);
        assert!(process.virtual_memory.get() > process.resident_memory.get());
        assert!(process.threads.get() >= 1.0);
        assert!(process.cpu.get() > 0.0);
        assert_eq!(process.open_descriptors.get(), 7.0);
    }
}
