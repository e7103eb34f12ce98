//! Whether what is in force is what should be.
//!
//! Compares nft's listing with the table that the plan asks for: rules as text, without the two ways in which
//! nft's versions write one of them; elements as ranges, whichever way they are cut. Pure; called by `guard`
//! for `-check`, and by itself from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use super::rules::{Elements, Table, blocks};

/// So many differences are told one by one.
const MOST_TOLD: usize = 8;

/// The differences, each in a line; none where all is as it should be. `rules` is nft's listing without
/// elements, `objects` is all of the table.
pub(super) fn differences(table: &Table, rules: &str, objects: &[Value]) -> Vec<String> {
    let mut all = rules_differ(table, rules);
    for (name, elements) in &table.elements {
        let listed = elements_of(objects, name);
        match elements {
            Elements::Ranges(ranges) => {
                let expected = merged(ranges.iter().filter_map(|text| range(text)));
                let found = merged(listed.iter().filter_map(range_of));
                if expected != found {
                    all.push(format!(
                        "set {name} holds {} ranges; expected {}",
                        found.len(),
                        expected.len()
                    ));
                }
            }
            Elements::Places(places) => all.extend(places_differ(name, places, listed)),
        }
    }
    let more = all.len().saturating_sub(MOST_TOLD);
    all.truncate(MOST_TOLD);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

fn rules_differ(table: &Table, rules: &str) -> Vec<String> {
    let found = taken_apart(rules);
    let mut all = Vec::new();
    for block in blocks(table) {
        let expected: Vec<_> = block.lines().map(normal).collect();
        match found.get(&block.head) {
            None => all.push(format!("there is no {}", block.head)),
            Some(lines) if *lines != expected => {
                let lacks = expected.iter().find(|line| !lines.contains(line));
                all.push(match lacks {
                    Some(line) => format!("{} lacks: {line}", block.head),
                    None => format!(
                        "{} has more than it should, or in another order",
                        block.head
                    ),
                });
            }
            Some(_) => {}
        }
    }
    all
}

/// The blocks of a listing: what stands in each, by its first line.
fn taken_apart(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut block: Option<(String, Vec<String>)> = None;
    for line in listing.lines().map(str::trim) {
        match &mut block {
            None if line.starts_with("table ") => {}
            None => {
                if let Some(head) = line.strip_suffix(" {") {
                    block = Some((head.to_owned(), Vec::new()));
                }
            }
            Some(_) if line == "}" => all.extend(block.take()),
            // A counter's value.
            Some(_) if line.starts_with("packets ") => {}
            Some((_, lines)) => lines.push(normal(line)),
        }
    }
    all
}

/// A line as the newer versions of nft write it, on a host that has an /etc/protocols.
fn normal(line: &str) -> String {
    line.replace(
        "tcp flags syn / syn,ack ",
        "tcp flags & (syn | ack) == syn ",
    )
    .replace("meta l4proto 6 ", "meta l4proto tcp ")
}

fn elements_of<'v>(objects: &'v [Value], name: &str) -> &'v [Value] {
    let of = |object: &'v Value| object.get("set").or_else(|| object.get("map"));
    let mut all = objects.iter().filter_map(of);
    let found = all.find(|set| set.get("name").and_then(Value::as_str) == Some(name));
    let elements = found.and_then(|set| set.get("elem")?.as_array());
    elements.map_or(&[], Vec::as_slice)
}

/// Addresses or ports, from one to another.
type Range = RangeInclusive<u128>;

/// A network, a port, or ports from one to another.
fn range(text: &str) -> Option<Range> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(bits(net.network())..=bits(net.broadcast()));
    }
    if let Some((first, last)) = text.split_once('-') {
        return Some(*range(first)?.start()..=*range(last)?.end());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(bits(address)..=bits(address));
    }
    let port = text.parse::<u16>().ok()?;
    Some(port.into()..=port.into())
}

/// The same in nft's JSON: a value, `{"prefix": {"addr", "len"}}`, `{"range": [first, last]}`, or one of these
/// in an `elem`.
fn range_of(element: &Value) -> Option<Range> {
    if let Some(inner) = element.get("elem") {
        return range_of(inner.get("val")?);
    }
    if let Some(prefix) = element.get("prefix") {
        let address = prefix.get("addr")?.as_str()?;
        return range(&format!("{address}/{}", prefix.get("len")?.as_u64()?));
    }
    if let Some(Value::Array(ends)) = element.get("range") {
        let [first, last] = ends.as_slice() else {
            return None;
        };
        return Some(*range_of(first)?.start()..=*range_of(last)?.end());
    }
    match element {
        Value::String(text) => range(text),
        Value::Number(number) => range(&number.to_string()),
        _ => None,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Ranges in order, neighbours as one.
fn merged(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut all: Vec<_> = ranges.collect();
    all.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<Range> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn places_differ(map: &str, places: &BTreeMap<String, String>, listed: &[Value]) -> Vec<String> {
    let found: BTreeMap<_, _> = listed.iter().filter_map(place_of).collect();
    let mut all = Vec::new();
    for (key, rest) in places {
        let chain = rest.rsplit_once(" : goto ").map_or("", |(_, chain)| chain);
        match found.get(key) {
            Some(goes_to) if goes_to == chain => {}
            Some(goes_to) => all.push(format!(
                "{key} of {map} goes to {goes_to}; expected {chain}"
            )),
            None => all.push(format!("{map} lacks {key}")),
        }
    }
    let known: BTreeSet<_> = places.keys().collect();
    let more = found.keys().filter(|key| !known.contains(key));
    all.extend(more.map(|key| format!("{map} has {key}, which nobody is registered with")));
    all
}

/// A map's element: its key as we write it, and the chain that it leads to.
fn place_of(element: &Value) -> Option<(String, String)> {
    let [key, verdict] = element.as_array()?.as_slice() else {
        return None;
    };
    let key = key
        .get("elem")
        .and_then(|elem| elem.get("val"))
        .unwrap_or(key);
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let key = match key.get("concat").and_then(Value::as_array) {
        Some(parts) => parts.iter().map(plain).collect::<Vec<_>>().join(" . "),
        None => plain(key),
    };
    let chain = verdict.get("goto")?.get("target")?.as_str()?;
    Some((key, chain.to_owned()))
}
