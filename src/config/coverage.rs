//! How much of the world a list of networks takes in.
//!
//! `0.0.0.0/1` and `128.0.0.0/1` are everybody as much as `"*"` is, so networks are joined before they are
//! measured. Of IPv6 only 2000::/3 counts, out of which all addresses are that strangers have. Called by
//! `show` and `whom`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::core::access::Networks;

/// The addresses that strangers have.
const WORLD_V6: (u128, u128) = (0x2000 << 112, (0x4000 << 112) - 1);

/// One part of so many of the world's addresses is more than any cluster has.
const SHARE: u128 = 8;

/// `everyone`, or `nearly everyone` where the networks take in much of the world; else nothing.
pub(super) fn words(networks: &Networks) -> Option<&'static str> {
    let everything = |net: IpNet| net.prefix_len() == 0;
    if networks.iter().filter(|net| everything(*net)).count() == 2 {
        Some("everyone")
    } else {
        let world = World::without(&Networks::default());
        world.much_is_in(networks).then_some("nearly everyone")
    }
}

/// The world, less what is denied.
#[derive(Debug)]
pub(super) struct World {
    denied_v4: Sums,
    denied_v6: Sums,
}

impl World {
    pub(super) fn without(denied: &Networks) -> Self {
        Self {
            denied_v4: Sums::of(&joined(v4(denied))),
            denied_v6: Sums::of(&joined(v6(denied))),
        }
    }

    /// Whether `admitted` takes in much of it.
    pub(super) fn much_is_in(&self, admitted: &Networks) -> bool {
        let is_much = |admitted: Vec<Range>, denied: &Sums, world: u128| {
            let served = admitted
                .iter()
                .map(|range| range.1 - range.0 + 1 - denied.within(*range));
            served.sum::<u128>() >= world / SHARE
        };
        let world_v6 = WORLD_V6.1 - WORLD_V6.0 + 1;
        is_much(joined(v4(admitted)), &self.denied_v4, 1 << 32)
            || is_much(joined(v6(admitted)), &self.denied_v6, world_v6)
    }
}

/// From the first to the last address.
type Range = (u128, u128);

fn v4(networks: &Networks) -> impl Iterator<Item = Range> {
    let number = |address: Ipv4Addr| u128::from(address.to_bits());
    networks.iter().filter_map(move |net| match net {
        IpNet::V4(net) => Some((number(net.network()), number(net.broadcast()))),
        IpNet::V6(_) => None,
    })
}

fn v6(networks: &Networks) -> impl Iterator<Item = Range> {
    let number = |address: Ipv6Addr| address.to_bits();
    networks.iter().filter_map(move |net| match net {
        IpNet::V6(net) => within((number(net.network()), number(net.broadcast())), WORLD_V6),
        IpNet::V4(_) => None,
    })
}

fn within(range: Range, world: Range) -> Option<Range> {
    let (from, to) = (range.0.max(world.0), range.1.min(world.1));
    (from <= to).then_some((from, to))
}

/// Ascending ranges that do not touch each other.
fn joined(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (from, to) in ranges {
        match joined.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// Ranges, with how many addresses there are before each of them: a list may be long on both sides.
#[derive(Debug)]
struct Sums(Vec<(Range, u128)>);

impl Sums {
    /// Of ascending ranges that do not touch each other.
    fn of(ranges: &[Range]) -> Self {
        let mut before = 0;
        let mut sums = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            sums.push(((*from, *to), before));
            before += to - from + 1;
        }
        Self(sums)
    }

    /// How many addresses of a range are in these.
    fn within(&self, range: Range) -> u128 {
        self.below(range.1 + 1) - self.below(range.0)
    }

    /// How many addresses before this one are in these.
    fn below(&self, address: u128) -> u128 {
        let after = self.0.partition_point(|((from, _), _)| *from < address);
        let last = after.checked_sub(1).and_then(|last| self.0.get(last));
        last.map_or(0, |((from, to), before)| {
            before + (address - from).min(to - from + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter()
            .map(|net| net.parse::<IpNet>().unwrap())
            .collect()
    }

    #[test]
    fn much_of_the_world_is_nearly_everyone_however_it_is_written() {
        for (list, said) in [
            (&["0.0.0.0/0", "::/0"][..], Some("everyone")),
            (&["0.0.0.0/0"], Some("nearly everyone")),
            (&["::/0"], Some("nearly everyone")),
            (&["0.0.0.0/1", "128.0.0.0/1"], Some("nearly everyone")),
            (&["::/1", "8000::/1"], Some("nearly everyone")),
            (&["2000::/3"], Some("nearly everyone")),
            (&["0.0.0.0/3"], Some("nearly everyone")),
            (
                &["16.0.0.0/5", "24.0.0.0/5", "32.0.0.0/5", "40.0.0.0/5"],
                Some("nearly everyone"),
            ),
            // The same twice is not twice as much.
            (&["16.0.0.0/4", "16.0.0.0/5", "16.0.0.0/8"], None),
            (&["8000::/1", "fc00::/7", "fe80::/10"], None),
            (&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], None),
            (&["2001:db8::/32"], None),
            (&[], None),
        ] {
            assert_eq!(words(&networks(list)), said, "{list:?}");
        }
    }

    #[test]
    fn what_is_denied_is_not_admitted() {
        let all = networks(&["0.0.0.0/0", "::/0"]);
        for (denied, nearly) in [
            (&["0.0.0.0/0", "::/0"][..], false),
            (&["0.0.0.0/0"], true),
            (&["0.0.0.0/1", "128.0.0.0/1", "2000::/3"], false),
            (&["10.0.0.0/8"], true),
            (
                &["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/4", "2000::/3"],
                true,
            ),
        ] {
            let world = World::without(&networks(denied));
            assert_eq!(world.much_is_in(&all), nearly, "{denied:?}");
        }
    }
}
