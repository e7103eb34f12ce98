//! How many requests ended how, since the start, and how much of what there is room for is used.
//!
//! Written at the end of every request, read by any thread, so that who looks takes no part in serving.
//! Decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::outcome::{Operation, Outcome, Reason, Verdict};

/// Counts by operation and verdict, and of refusals by operation and reason.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [[AtomicU64; Verdict::ALL.len()]; Operation::ALL.len()],
    refused: [[AtomicU64; Reason::ALL.len()]; Operation::ALL.len()],
    registered: AtomicU64,
    open: AtomicU64,
}

impl Counters {
    /// Counts one request's end.
    pub fn count(&self, outcome: &Outcome<'_>) {
        let operation = outcome.operation as usize;
        add(cell(&self.requests, operation, outcome.verdict as usize), 1);
        if let (Verdict::Refused, Some(reason)) = (outcome.verdict, outcome.reason) {
            add(cell(&self.refused, operation, reason as usize), 1);
        }
    }

    /// Counts refusals that something else has counted: the guard's.
    pub fn add_refused(&self, operation: Operation, reason: Reason, count: u64) {
        let (row, verdict) = (operation as usize, Verdict::Refused as usize);
        add(cell(&self.requests, row, verdict), count);
        add(cell(&self.refused, row, reason as usize), count);
    }

    /// Takes down how many names are registered.
    pub fn set_registered(&self, count: usize) {
        self.registered.store(count as u64, Ordering::Relaxed);
    }

    /// Takes down how many connections are open, registrations apart.
    pub fn set_open(&self, count: usize) {
        self.open.store(count as u64, Ordering::Relaxed);
    }

    /// How many requests for this ended so.
    #[must_use]
    pub fn requests(&self, operation: Operation, verdict: Verdict) -> u64 {
        value(cell(&self.requests, operation as usize, verdict as usize))
    }

    /// How many requests for this were refused for that reason.
    #[must_use]
    pub fn refused(&self, operation: Operation, reason: Reason) -> u64 {
        value(cell(&self.refused, operation as usize, reason as usize))
    }

    /// How many names are registered.
    #[must_use]
    pub fn registered(&self) -> u64 {
        self.registered.load(Ordering::Relaxed)
    }

    /// How many connections are open, registrations apart.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

fn cell<const N: usize>(table: &[[AtomicU64; N]], row: usize, column: usize) -> Option<&AtomicU64> {
    table.get(row)?.get(column)
}

fn add(cell: Option<&AtomicU64>, count: u64) {
    if let Some(cell) = cell {
        cell.fetch_add(count, Ordering::Relaxed);
    }
}

fn value(cell: Option<&AtomicU64>) -> u64 {
    cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::outcome::Ends;

    #[test]
    fn every_pair_has_a_count_of_its_own() {
        let address = "127.0.0.1:1".parse().unwrap();
        let ends = Ends::new(address, address);
        let counters = Counters::default();
        for operation in Operation::ALL {
            for verdict in Verdict::ALL {
                let reason = Some(Reason::TooMany);
                let outcome = Outcome {
                    ends,
                    operation,
                    node: None,
                    verdict,
                    reason,
                    setting: None,
                    since: None,
                    holder: None,
                };
                counters.count(&outcome);
            }
        }
        for operation in Operation::ALL {
            for verdict in Verdict::ALL {
                assert_eq!(counters.requests(operation, verdict), 1);
            }
            for reason in Reason::ALL {
                let expected = u64::from(reason == Reason::TooMany);
                assert_eq!(counters.refused(operation, reason), expected);
            }
        }
    }
}
