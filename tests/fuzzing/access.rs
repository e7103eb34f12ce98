//! `access`: the longest-prefix structure and the rules agree with a scan that a child could check.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use hardened_epmd::core::access::{Decision, Networks, Rules};
use hardened_epmd::core::outcome::{Ends, Operation, Reason};
use ipnet::IpNet;

use super::input::Input;

/// Networks of one list.
const MOST: u8 = 6;
/// The name that has a list of its own.
const NAMED: &[u8] = b"named";

/// Addresses that are asked for.
const QUESTIONS: usize = 8;

/// The lists, as they are read.
struct Lists {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    list: Option<Vec<IpNet>>,
    node: Vec<IpNet>,
    enforce: bool,
    served: Option<Vec<IpAddr>>,
}

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let lists = Lists {
        allow: networks(&mut input),
        deny: networks(&mut input),
        list: (flags & 1 != 0).then(|| networks(&mut input)),
        node: networks(&mut input),
        enforce: flags & 2 == 0,
        served: (flags & 4 != 0).then(|| vec![input.address().to_canonical()]),
    };
    let set = |list: &Vec<IpNet>| list.iter().copied().collect::<Networks>();
    let rules = Rules {
        allow: set(&lists.allow),
        deny: set(&lists.deny),
        list: lists.list.as_ref().map(set),
        nodes: HashMap::from([(Box::from(NAMED), set(&lists.node))]),
        enforce: lists.enforce,
        served: lists.served.clone(),
        ..Rules::default()
    };
    for _ in 0..QUESTIONS {
        let (address, local) = (near(&mut input, &lists), near(&mut input, &lists));
        for (structure, scanned) in [(&rules.allow, &lists.allow), (&rules.deny, &lists.deny)] {
            assert_eq!(structure.contains(address), contains(scanned, address));
        }
        let end = |address| SocketAddr::new(address, 1);
        let ends = Ends::new(end(address), end(local));
        for operation in Operation::ALL {
            for node in [None, Some(NAMED), Some(&b"other"[..])] {
                let decided = rules.decide(&ends, operation, node);
                let expected = lists.decide(address, local, operation, node);
                assert_eq!(
                    decided, expected,
                    "{address} to {local}: {operation} {node:?}"
                );
            }
        }
        assert_eq!(rules.may_ask(&ends), lists.may_ask(address, local));
        if input.is_empty() {
            return;
        }
    }
}

fn networks(input: &mut Input<'_>) -> Vec<IpNet> {
    (0..input.byte() % (MOST + 1))
        .map(|_| {
            let address = input.address().to_canonical();
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let network = IpNet::new(address, input.byte() % (longest + 1));
            network.expect("a length that fits").trunc()
        })
        .collect()
}

/// An address: any, or one of a list's, or one bit beside it.
fn near(input: &mut Input<'_>, lists: &Lists) -> IpAddr {
    let all = [&lists.allow, &lists.deny, &lists.node];
    let count: usize = all.iter().map(|list| list.len()).sum();
    let which = usize::from(input.byte()) % (count + 1);
    let Some(network) = all.into_iter().flatten().nth(which) else {
        return input.address();
    };
    let bit = input.byte();
    match network.network() {
        IpAddr::V4(a) if bit < 32 => IpAddr::V4((a.to_bits() ^ 1 << bit).into()),
        IpAddr::V4(a) if bit & 1 == 0 => a.to_ipv6_mapped().into(),
        IpAddr::V6(a) if bit < 128 => IpAddr::V6((a.to_bits() ^ 1 << bit).into()),
        other => other,
    }
}

/// One network after the other.
fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| {
        let length = u32::from(network.prefix_len());
        match (network.network(), address.to_canonical()) {
            // A shift by all bits is none: a network of length 0 has every address.
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(32 - length).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(128 - length).unwrap_or(0) == 0
            }
            _ => false,
        }
    })
}

impl Lists {
    /// What the manual says of a request, in the manual's order.
    fn decide(
        &self,
        address: IpAddr,
        local: IpAddr,
        operation: Operation,
        node: Option<&[u8]>,
    ) -> Decision {
        if !self.serves(local) {
            return Decision::Refuse(Reason::AddressNotServed);
        }
        if is_this_host(address, local) {
            return Decision::Admit;
        }
        let admitting = match operation {
            Operation::Lookup | Operation::Connect if node == Some(NAMED) => &self.node,
            Operation::Lookup | Operation::Connect => &self.allow,
            Operation::List => self.list.as_ref().unwrap_or(&self.allow),
            Operation::Invalid | Operation::None => return Decision::Admit,
            _ => return Decision::Refuse(Reason::NotLocal),
        };
        let reason = match (contains(&self.deny, address), contains(admitting, address)) {
            (true, _) => Reason::Denied,
            (false, false) => Reason::NotAllowed,
            (false, true) => return Decision::Admit,
        };
        if self.enforce {
            Decision::Refuse(reason)
        } else {
            Decision::WouldRefuse(reason)
        }
    }

    /// Whether anything at all would be answered.
    fn may_ask(&self, address: IpAddr, local: IpAddr) -> bool {
        if !self.serves(local) || is_this_host(address, local) {
            return self.serves(local);
        }
        let all = [Some(&self.allow), self.list.as_ref(), Some(&self.node)];
        let admitted = all.into_iter().flatten().any(|l| contains(l, address));
        !contains(&self.deny, address) && (admitted || !self.enforce)
    }

    fn serves(&self, local: IpAddr) -> bool {
        let local = local.to_canonical();
        local.is_loopback() || self.served.as_ref().is_none_or(|all| all.contains(&local))
    }
}

fn is_this_host(address: IpAddr, local: IpAddr) -> bool {
    address.to_canonical().is_loopback() || address.to_canonical() == local.to_canonical()
}
