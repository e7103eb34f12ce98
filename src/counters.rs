//! How many requests ended how, since the start.
//!
//! Counts outcomes; decides nothing. Fed by `server` at the end of every request, read by whoever
//! shows the daemon's state.

use crate::outcome::{Operation, Outcome, Reason, Verdict};

/// Counts by operation and verdict, and of refusals by operation and reason.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    requests: [[u64; Verdict::ALL.len()]; Operation::ALL.len()],
    refused: [[u64; Reason::ALL.len()]; Operation::ALL.len()],
}

impl Counters {
    /// Counts one request's end.
    pub fn count(&mut self, outcome: &Outcome<'_>) {
        let operation = outcome.operation as usize;
        let count = self
            .requests
            .get_mut(operation)
            .and_then(|row| row.get_mut(outcome.verdict as usize));
        increase(count);
        if let (Verdict::Refused, Some(reason)) = (outcome.verdict, outcome.reason) {
            increase(
                self.refused
                    .get_mut(operation)
                    .and_then(|row| row.get_mut(reason as usize)),
            );
        }
    }

    /// How many requests for this ended so.
    #[must_use]
    pub fn requests(&self, operation: Operation, verdict: Verdict) -> u64 {
        let row = self.requests.get(operation as usize);
        row.and_then(|row| row.get(verdict as usize))
            .copied()
            .unwrap_or_default()
    }

    /// How many requests for this were refused for that reason.
    #[must_use]
    pub fn refused(&self, operation: Operation, reason: Reason) -> u64 {
        let row = self.refused.get(operation as usize);
        row.and_then(|row| row.get(reason as usize))
            .copied()
            .unwrap_or_default()
    }
}

fn increase(count: Option<&mut u64>) {
    if let Some(count) = count {
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Ends;

    #[test]
    fn every_pair_has_a_count_of_its_own() {
        let address = "127.0.0.1:1".parse().unwrap();
        let mut counters = Counters::default();
        for operation in Operation::ALL {
            for verdict in Verdict::ALL {
                let reason = Some(Reason::TooMany);
                let ends = Ends {
                    peer: address,
                    local: address,
                };
                counters.count(&Outcome {
                    ends,
                    operation,
                    node: None,
                    verdict,
                    reason,
                    setting: None,
                });
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
