//! What a table of before was guarding: a guard that was killed leaves it, and the next one goes on from it.
//!
//! Each place has the names and the user in its comment, and its chain tells whose list it goes by. Pure: JSON
//! in, places out. Called by `keep`, and by `-check`, which has not seen what came before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::plan::{Kept, Place};
use super::rules::{Family, list_name, list_of, of, whose};
use crate::core::follow::Access;

/// What the maps of a table hold. Names that have lists of their own are those of `access`.
pub(super) fn recall(objects: &[Value], access: &Access) -> BTreeMap<Place, Kept> {
    let mut all = BTreeMap::new();
    for family in Family::ALL {
        let lists: BTreeMap<_, _> = access
            .nodes
            .keys()
            .map(|name| (format!("admit_{}", list_of(&list_name(name), family)), name))
            .collect();
        for map in objects.iter().filter_map(|object| object.get("map")) {
            let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
            let is_ours = [of("by_address", family), of("by_port", family)]
                .iter()
                .any(|n| n == name);
            let elements = map
                .get("elem")
                .and_then(Value::as_array)
                .filter(|_| is_ours);
            for element in elements.into_iter().flatten() {
                let Some((place, comment, chain)) = element_of(element, family) else {
                    continue;
                };
                let (uid, names) = whose(comment);
                let name = lists.get(chain).map_or(names, |name| name.as_str());
                let kept = Kept {
                    names: vec![name.to_owned()],
                    uid,
                };
                all.insert(place, kept);
            }
        }
    }
    all
}

fn element_of(element: &Value, family: Family) -> Option<(Place, &str, &str)> {
    let [key, verdict] = element.as_array()?.as_slice() else {
        return None;
    };
    let chain = verdict.get("goto")?.get("target")?.as_str()?;
    let elem = key.get("elem");
    let comment = elem
        .and_then(|elem| elem.get("comment")?.as_str())
        .unwrap_or_default();
    let key = elem.and_then(|elem| elem.get("val")).unwrap_or(key);
    let (address, port) = match key.get("concat").and_then(Value::as_array) {
        Some(parts) => {
            let [address, port] = parts.as_slice() else {
                return None;
            };
            (Some(address.as_str()?.parse::<IpAddr>().ok()?), port)
        }
        None => (None, key),
    };
    let place = Place {
        family,
        address,
        port: u16::try_from(port.as_u64()?).ok()?,
    };
    Some((place, comment, chain))
}
