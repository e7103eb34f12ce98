//! This host's own name: nodes are named by it, and other nodes of this host look it up.
//!
//! Asks the resolver, as nodes do, and compares with the kernel's addresses. All is well is not worth a
//! line. Called by `host`.

use ipnet::IpNet;

use super::address::{Address, addresses, resolve};
use super::report::{Check, Code, Finding};
use crate::core::audit::escape;

/// What is wrong with it, where something is.
pub(super) fn examine(own: &[IpNet]) -> Option<Finding> {
    let name = nix::unistd::gethostname().ok()?;
    let name = name.to_str().filter(|name| !name.is_empty())?;
    judge(&escape(name.as_bytes()), resolve(name, false), own)
}

/// What it means that the name leads there.
fn judge(name: &str, found: Result<Vec<Address>, String>, own: &[IpNet]) -> Option<Finding> {
    let line = match name.split_once('.') {
        Some((short, _)) => format!("127.0.1.1 {name} {short}"),
        None => format!("127.0.1.1 {name}"),
    };
    let add = format!(
        "Give it one on this host, as Debian does, in /etc/hosts:\n  \
         echo '{line}' >> /etc/hosts\n\
         and on the other hosts an address of this one's that they can reach."
    );
    let all = match found {
        Ok(all) => all,
        Err(why) => {
            return Some(Finding::warn(
                Check::Resolve,
                Code::OwnNameUnresolved,
                format!(
                    "this host's own name, {name}, has no address here ({why}): nodes that are named by it do not \
                     find each other, on this host either"
                ),
                add,
            ));
        }
    };
    let own = addresses(own);
    let is_own = |address: &&Address| address.ip.is_loopback() || own.contains(&address.ip);
    if let Some(other) = all.iter().find(|address| !is_own(address)) {
        return Some(Finding::warn(
            Check::Resolve,
            Code::OwnNameElsewhere,
            format!(
                "this host's own name, {name}, is {other}, which is no address of this host: nodes here that look \
                 for each other by that name ask another host's epmd"
            ),
            format!(
                "See where it comes from, and put an address of this host's in its place (behind a translation of \
                 addresses, one that this host reaches itself by):\n  \
                 getent ahosts {name}; grep -nw {name} /etc/hosts"
            ),
        ));
    }
    (all.iter().all(|address| address.ip.is_loopback() && address.is_ipv6())).then(|| {
        Finding::warn(
            Check::Resolve,
            Code::OwnNameElsewhere,
            format!(
                "this host's own name, {name}, is ::1 alone: nodes that are started without `-proto_dist inet6_tcp` \
                 ask for an IPv4 address, and find none"
            ),
            add,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn where_this_hosts_own_name_leads_to() {
        let own: Vec<IpNet> = ["127.0.0.1/8", "10.77.0.1/24", "fd77::1/64"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect();
        let code = |found: &[&str]| {
            let of = |a: &&str| Address::from(a.parse::<IpAddr>().unwrap());
            let found = match found {
                [] => Err("no".to_owned()),
                all => Ok(all.iter().map(of).collect()),
            };
            judge("api.test", found, &own).and_then(|finding| finding.code)
        };
        assert_eq!(code(&[]), Some(Code::OwnNameUnresolved));
        for well in [
            &["127.0.1.1"][..],
            &["10.77.0.1", "fd77::1"],
            &["fd77::1"],
            &["127.0.0.1", "::1"],
        ] {
            assert_eq!(code(well), None, "{well:?}");
        }
        for elsewhere in [&["10.77.0.9"][..], &["10.77.0.1", "fd77::9"], &["::1"]] {
            assert_eq!(
                code(elsewhere),
                Some(Code::OwnNameElsewhere),
                "{elsewhere:?}"
            );
        }
    }
}
