//! Who was turned away: the kernel's counts, read again and again, as what came since.
//!
//! The kernel counts each (source, address, port) in a set of bounded size whose elements go after a minute
//! without a packet, and all of them in one counter. What is beyond the set is the difference of both. Pure:
//! JSON in, counts out. Called by `guard` and `check`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::rules::TURNED_AWAY;

/// So many elements are as good as all: the kernel's own count of them is not exact.
const FULL: usize = TURNED_AWAY - TURNED_AWAY / 16;

/// Who came to which address and port.
pub(super) type Way = (IpAddr, SocketAddr);

/// The counts at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// By who came where.
    pub(super) ways: HashMap<Way, u64>,
    /// Of all, where that was listed as well.
    pub(super) total: Option<u64>,
    /// Whether a set has no room for more.
    pub(super) full: bool,
}

impl Counts {
    /// Out of nft's answer.
    pub(super) fn of(objects: &[Value]) -> Self {
        let mut counts = Self::default();
        for object in objects {
            if let Some(counter) = object.get("counter") {
                counts.total = Some(number(counter, "packets"));
            }
            let Some(set) = object.get("set") else {
                continue;
            };
            let is_ours = matches!(name(set), "refused4" | "refused6");
            let elements = set
                .get("elem")
                .and_then(Value::as_array)
                .filter(|_| is_ours);
            let elements = elements.map_or(&[][..], Vec::as_slice);
            counts.full |= elements.len() >= FULL;
            counts.ways.extend(elements.iter().filter_map(way));
        }
        counts
    }
}

fn name(object: &Value) -> &str {
    object
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn number(object: &Value, field: &str) -> u64 {
    object
        .get(field)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// `{"elem": {"val": {"concat": [source, address, port]}, "counter": {"packets": N}}}`
fn way(element: &Value) -> Option<(Way, u64)> {
    let element = element.get("elem")?;
    let [source, address, port] = element.get("val")?.get("concat")?.as_array()?.as_slice() else {
        return None;
    };
    let address_of = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let port = u16::try_from(port.as_u64()?).ok()?;
    let to = SocketAddr::new(address_of(address)?, port);
    Some((
        (address_of(source)?, to),
        number(element.get("counter")?, "packets"),
    ))
}

/// What is known of the counts already.
#[derive(Debug, Default)]
pub(super) struct Tally {
    last: Counts,
    /// The last total.
    total: u64,
    /// Told one by one, of what `total` counts; and as beyond the set.
    told: u64,
    beyond: u64,
}

/// What came since.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    /// By who came where, in order.
    pub(super) ways: Vec<(Way, u64)>,
    /// From sources beyond the set.
    pub(super) beyond: u64,
}

impl Tally {
    /// Begins with these counts: what they hold was told by somebody else.
    pub(super) fn begin(counts: Counts) -> Self {
        Self {
            total: counts.total.unwrap_or_default(),
            told: counts.total.unwrap_or_default(),
            last: counts,
            beyond: 0,
        }
    }

    /// Takes the next counts.
    pub(super) fn take(&mut self, counts: Counts) -> Since {
        if counts.total.is_some_and(|total| total < self.total) {
            // The table was made anew.
            *self = Self::default();
        }
        let mut ways = Vec::new();
        for (way, count) in &counts.ways {
            // One that is smaller is that of an element that went and came again.
            let before = self.last.ways.get(way).filter(|before| *before <= count);
            let more = count - before.copied().unwrap_or_default();
            if more > 0 {
                ways.push((*way, more));
            }
        }
        ways.sort_unstable();
        self.told += ways.iter().map(|(_, count)| count).sum::<u64>();
        // The counter is read a moment after the sets: only where they are full is there more in it.
        let all = self.told.saturating_add(self.beyond);
        let beyond = match counts.total.filter(|_| counts.full) {
            Some(total) => total.saturating_sub(all),
            None => 0,
        };
        self.total = counts.total.unwrap_or(self.total);
        self.beyond = self.beyond.saturating_add(beyond);
        self.last = counts;
        Since { ways, beyond }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects(ways: &[(&str, &str, u16, u64)], total: u64) -> Vec<Value> {
        let set = |family: &str| {
            let mine = ways
                .iter()
                .filter(|(source, ..)| source.contains(':') == (family == "6"));
            let elements: Vec<_> = mine
                .map(|(source, address, port, count)| {
                    json!({"elem": {"val": {"concat": [source, address, port]}, "expires": 59,
                           "counter": {"packets": count, "bytes": 60 * count}}})
                })
                .collect();
            json!({"set": {"name": format!("refused{family}"), "elem": elements}})
        };
        vec![
            json!({"metainfo": {}}),
            set("4"),
            set("6"),
            json!({"set": {"name": "allow4", "elem": ["10.0.0.1"]}}),
            json!({"counter": {"name": "refused", "packets": total, "bytes": 0}}),
        ]
    }

    fn since(tally: &mut Tally, ways: &[(&str, &str, u16, u64)], total: u64) -> (Vec<u64>, u64) {
        let since = tally.take(Counts::of(&objects(ways, total)));
        (since.ways.iter().map(|(_, n)| *n).collect(), since.beyond)
    }

    #[test]
    fn what_came_since_is_told_once() {
        let mut tally = Tally::default();
        let (a, b) = ("10.77.0.3", "fd77::3");
        assert_eq!(
            since(&mut tally, &[(a, "10.77.0.1", 9100, 3)], 3),
            (vec![3], 0)
        );
        let both = [(a, "10.77.0.1", 9100, 3), (b, "fd77::1", 9100, 1)];
        assert_eq!(since(&mut tally, &both, 4), (vec![1], 0));
        assert_eq!(since(&mut tally, &both, 4), (vec![], 0));
        // The counter is read later, and has more already.
        assert_eq!(since(&mut tally, &both, 9), (vec![], 0));
        // An element that expired, and came again.
        assert_eq!(
            since(&mut tally, &[(a, "10.77.0.1", 9100, 2)], 11),
            (vec![2], 0)
        );
        // A table that was made anew.
        assert_eq!(
            since(&mut tally, &[(a, "10.77.0.1", 9100, 1)], 1),
            (vec![1], 0)
        );
        assert_eq!(since(&mut tally, &[], 1), (vec![], 0));
    }

    #[test]
    fn what_found_no_room_in_the_set_is_counted_all_the_same() {
        let mut tally = Tally::default();
        let sources: Vec<_> = (0..TURNED_AWAY)
            .map(|n| format!("10.1.{}.{}", n / 256, n % 256))
            .collect();
        let ways: Vec<_> = sources
            .iter()
            .map(|s| (s.as_str(), "10.77.0.1", 9100, 2))
            .collect();
        let (told, beyond) = since(&mut tally, &ways, 5000);
        assert_eq!((told.len(), told.iter().sum::<u64>()), (TURNED_AWAY, 2048));
        assert_eq!(beyond, 5000 - 2048);
        assert_eq!(since(&mut tally, &ways, 5000), (vec![], 0));
        assert_eq!(since(&mut tally, &ways, 5010).1, 10);
    }

    #[test]
    fn what_was_counted_before_is_somebody_elses_to_tell() {
        let a = [("10.77.0.3", "10.77.0.1", 9100, 3)];
        let mut tally = Tally::begin(Counts::of(&objects(&a, 70)));
        assert_eq!(since(&mut tally, &a, 70), (vec![], 0));
        let a = [("10.77.0.3", "10.77.0.1", 9100, 5)];
        assert_eq!(since(&mut tally, &a, 72), (vec![2], 0));
    }
}
