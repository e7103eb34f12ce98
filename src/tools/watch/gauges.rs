//! What Prometheus reads of the watch: each node's last round.
//!
//! Gauges alone; encoding is the `prometheus` crate's. Filled by `watch` after each examination, read by the
//! exporter whenever it is asked.

use std::time::Duration;

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// The gauges of all nodes.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    registry: Registry,
    reachable: IntGaugeVec,
    verdict: IntGaugeVec,
    seconds: GaugeVec,
}

impl Gauges {
    /// # Errors
    /// None that these names can cause.
    pub(super) fn new() -> prometheus::Result<Self> {
        let reachable = IntGaugeVec::new(
            Opts::new(
                "epmd_peer_reachable",
                "Whether this host reached the node in the last round.",
            ),
            &["node"],
        )?;
        let verdict = IntGaugeVec::new(
            Opts::new(
                "epmd_peer_verdict",
                "1 for the verdict of the last round, reachable or what failed first.",
            ),
            &["node", "verdict"],
        )?;
        let seconds = GaugeVec::new(
            Opts::new(
                "epmd_peer_check_seconds",
                "How long the last round took for the node.",
            ),
            &["node"],
        )?;
        let registry = Registry::new();
        registry.register(Box::new(reachable.clone()))?;
        registry.register(Box::new(verdict.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            registry,
            reachable,
            verdict,
            seconds,
        })
    }

    /// A round of a node; `before` is the verdict of the one before, which is in force no more.
    pub(super) fn round(
        &self,
        node: &str,
        before: Option<&str>,
        verdict: &str,
        reachable: bool,
        took: Duration,
    ) {
        if let Some(before) = before.filter(|before| *before != verdict) {
            // It is there, unless nothing was.
            let _ = self.verdict.remove_label_values(&[node, before]);
        }
        self.verdict.with_label_values(&[node, verdict]).set(1);
        self.reachable
            .with_label_values(&[node])
            .set(i64::from(reachable));
        self.seconds
            .with_label_values(&[node])
            .set(took.as_secs_f64());
    }

    /// The node is watched no more.
    pub(super) fn forget(&self, node: &str, verdict: &str) {
        let _ = self.verdict.remove_label_values(&[node, verdict]);
        let _ = self.reachable.remove_label_values(&[node]);
        let _ = self.seconds.remove_label_values(&[node]);
    }

    /// All of them as Prometheus' text.
    ///
    /// # Errors
    /// What the encoder says.
    pub(super) fn text(&self) -> Result<String, String> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verdict_of_a_node_is_in_force() {
        let gauges = Gauges::new().unwrap();
        let took = Duration::from_millis(1500);
        gauges.round("a@h", None, "reachable", true, took);
        gauges.round("a@h", Some("reachable"), "epmd_no_answer", false, took);
        gauges.round("b@h", None, "reachable", true, took);
        let text = gauges.text().unwrap();
        let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "epmd_peer_check_seconds{node=\"a@h\"} 1.5",
                "epmd_peer_check_seconds{node=\"b@h\"} 1.5",
                "epmd_peer_reachable{node=\"a@h\"} 0",
                "epmd_peer_reachable{node=\"b@h\"} 1",
                "epmd_peer_verdict{node=\"a@h\",verdict=\"epmd_no_answer\"} 1",
                "epmd_peer_verdict{node=\"b@h\",verdict=\"reachable\"} 1",
            ]
        );
        gauges.forget("a@h", "epmd_no_answer");
        assert!(!gauges.text().unwrap().contains("a@h"));
    }
}
