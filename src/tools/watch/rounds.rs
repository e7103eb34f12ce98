//! When a verdict is told: once it has held for some rounds, and then once.
//!
//! Pure: verdicts in, what is to be told out. What has never been examined counts as reachable, so that a
//! fault that is there at the start is told like any other. Called by `watch` after each examination.

use std::time::Duration;

use crate::core::lent::REACHABLE;

/// What is known of a node's verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The verdict that was told last.
    told: String,
    /// When that was, since the watch's start.
    told_at: Duration,
    /// The latest one.
    latest: String,
    /// How many rounds it has held.
    held: usize,
    /// For how many rounds in a row the node was not reached, whatever the verdicts.
    failed: usize,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It can't be reached, for the reason of this round.
    Unreachable,
    /// It can be reached again, after so long.
    Reachable(Duration),
}

impl Standing {
    pub(super) fn new() -> Self {
        Self {
            told: REACHABLE.to_owned(),
            told_at: Duration::ZERO,
            latest: REACHABLE.to_owned(),
            held: 0,
            failed: 0,
        }
    }

    /// A round with this verdict, at this time since the start; a verdict is told after `after` rounds. Where
    /// a node fails in one way after the other, it is told as well that it fails.
    pub(super) fn round(&mut self, verdict: &str, after: usize, now: Duration) -> Option<News> {
        if verdict == self.latest {
            self.held = self.held.saturating_add(1);
        } else {
            verdict.clone_into(&mut self.latest);
            self.held = 1;
        }
        let is_reachable = verdict == REACHABLE;
        self.failed = if is_reachable {
            0
        } else {
            self.failed.saturating_add(1)
        };
        let was_reachable = self.told == REACHABLE;
        let holds = self.held >= after || (was_reachable && self.failed >= after);
        if self.told == verdict || !holds {
            return None;
        }
        let since = now.saturating_sub(self.told_at);
        // How long it was out of reach counts from the first time that this was told.
        if was_reachable || is_reachable {
            self.told_at = now;
        }
        verdict.clone_into(&mut self.told);
        Some(match is_reachable {
            true => News::Reachable(since),
            false => News::Unreachable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told in which round, of verdicts by letters: `.` reachable.
    fn told(rounds: &str, after: usize) -> String {
        let mut standing = Standing::new();
        let mut told = String::new();
        for (now, c) in (0..).zip(rounds.chars()) {
            let verdict = match c {
                '.' => REACHABLE.to_owned(),
                c => c.to_string(),
            };
            told.push(
                match standing.round(&verdict, after, Duration::from_secs(now)) {
                    None => ' ',
                    Some(News::Unreachable) => c,
                    Some(News::Reachable(_)) => '.',
                },
            );
        }
        told
    }

    #[test]
    fn what_holds_is_told_once() {
        for (rounds, after, expected) in [
            ("....", 2, "    "),
            // There at the start, and for good.
            ("nnnn", 2, " n  "),
            ("nnnn", 1, "n   "),
            ("nnnn", 5, "    "),
            // It comes and goes.
            ("..nn..nn..", 2, "   n . n ."),
            ("..n.n.n.", 2, "        "),
            ("nn.n.nn..", 2, " n      ."),
            // For another reason: told once that holds.
            ("nnrrrnn", 2, " n r  n"),
            ("nnrnrn", 2, " n    "),
            // Never for the same reason twice, but never reached either.
            ("nrnr", 2, " r  "),
            ("nrnr..", 2, " r   ."),
        ] {
            assert_eq!(told(rounds, after), expected, "{rounds} {after}");
        }
    }

    #[test]
    fn how_long_it_was_out_of_reach_counts_from_the_first_word() {
        let mut standing = Standing::new();
        let mut last = None;
        for (now, verdict) in [(0, "a"), (10, "b"), (20, "b"), (70, REACHABLE)] {
            let news = standing.round(verdict, 1, Duration::from_secs(now));
            last = news.or(last);
        }
        assert_eq!(last, Some(News::Reachable(Duration::from_secs(70))));
    }
}
