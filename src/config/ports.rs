//! Ports, as a set: ranges that are merged, in ascending order.
//!
//! Plain data. Filled by `guard`, kept in the settings, and read by `tools::guard`.

use std::ops::RangeInclusive;

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// The ports, each once, in ascending order; neighbours are one range.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().cloned()
    }

    /// Whether this port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<RangeInclusive<u16>> for Ports {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<u16>>>(ranges: T) -> Self {
        let mut all: Vec<_> = ranges.into_iter().collect();
        all.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_merged() {
        let all: Ports = [
            9105..=9109,
            9100..=9104,
            9200..=9200,
            9102..=9103,
            65_535..=65_535,
        ]
        .into_iter()
        .collect();
        let ranges: Vec<_> = all.ranges().collect();
        assert_eq!(ranges, [9100..=9109, 9200..=9200, 65_535..=65_535]);
        assert!(all.contains(9104) && all.contains(65_535) && !all.contains(9110));
    }
}
