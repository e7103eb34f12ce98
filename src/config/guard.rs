//! `guard.ports` as it stands in the file: how it is read, and how it is shown.
//!
//! Ports by which a host is administered, or that are epmd's own, are refused here; who listens on the others
//! now, the guard looks at. Called by the table of keys.

use std::ops::RangeInclusive;

use super::diagnostic::quote;
use super::mistakes::Mistakes;
use super::ports::Ports;
use super::settings::DEFAULT_PORT;
use super::types::{Type, Value, element_text, list};

/// What is never guarded, and why not.
const NEVER: [(u16, &str); 2] = [
    (
        22,
        "ssh's, by which this host is administered: a list without its operator would lock the operator out",
    ),
    (DEFAULT_PORT, "epmd's own, which has lists of its own"),
];

impl Type for Ports {
    const KIND: &'static str = "a list of ports and ranges of ports";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "9100-9109";
        let mut ranges = Vec::new();
        for element in list(path, example, value, mistakes)? {
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match range(text) {
                Ok(range) => ranges.push(range),
                Err(what) => mistakes.add(element.span().start, || what),
            }
        }
        Some(ranges.into_iter().collect())
    }
}

/// Reads `9100` or `9100-9109`.
fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let shown = quote(text);
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(format!(
            "{shown} is no port and no range of ports; expected one from 1 to 65535 such as \"9100\", or \
             \"9100-9109\""
        ));
    };
    if last < first {
        return Err(format!(
            "{shown} ends before it begins; expected \"{last}-{first}\""
        ));
    }
    let never = NEVER.iter().find(|(port, _)| (first..=last).contains(port));
    if let Some((port, whose)) = never {
        return Err(format!(
            "{shown} holds port {port}, which is {whose}; expected ports of Erlang nodes alone, as \
             inet_dist_listen_min and _max name them"
        ));
    }
    Ok(first..=last)
}

/// The ports for `-check_config`.
pub(super) fn shown(ports: &Ports) -> String {
    if ports.is_empty() {
        return "none but those that nodes are registered with".to_owned();
    }
    let ranges = ports.ranges().map(|range| show(&range));
    ranges.collect::<Vec<_>>().join(", ")
}

/// A range as it is written.
fn show(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_range_and_what_holds_a_port_that_is_not_a_nodes_is_refused() {
        assert_eq!(range("9100"), Ok(9100..=9100));
        assert_eq!(range(" 9100 - 9109 "), Ok(9100..=9109));
        for (text, expected) in [
            ("", "is no port"),
            ("0", "is no port"),
            ("65536", "is no port"),
            ("+9100", "is no port"),
            ("9100-", "is no port"),
            ("-9100", "is no port"),
            ("1-2-3", "is no port"),
            ("api", "is no port"),
            ("9109-9100", "ends before it begins; expected \"9100-9109\""),
            ("22", "holds port 22, which is ssh's"),
            ("1-65535", "holds port 22"),
            ("20-23", "holds port 22"),
            ("4000-5000", "holds port 4369, which is epmd's own"),
        ] {
            let what = range(text).unwrap_err();
            assert!(what.contains(expected), "{text}: {what}");
        }
    }
}
