//! Addresses and networks as people write them, read strictly: whatever could mean two things is an
//! error that names both.
//!
//! Texts in, addresses or an explanation out; it knows neither files nor options. Called by `file`
//! and `sources` for every element of a list. Names are never looked up: an answer of DNS must not
//! decide who is served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::diagnostic::quote;

/// Stands for every address.
pub(super) const EVERY: &str = "*";

/// One element of a list of addresses to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenOn {
    /// `"*"`.
    Every,
    /// This address.
    One(IpAddr),
}

/// Reads one address to listen on. `port_setting` is how the port is set where this text stands
/// (such as `port = 4370`), for the one who wrote a port behind the address.
///
/// # Errors
/// What is wrong, and what is expected.
pub(super) fn listen_on(text: &str, port_setting: &str) -> Result<ListenOn, String> {
    let text = text.trim();
    if text == EVERY {
        return Ok(ListenOn::Every);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return match mapped(address) {
            Some(v4) => Err(format!(
                "{} is an IPv4-mapped address; write \"{v4}\"",
                quote(text)
            )),
            None => Ok(ListenOn::One(address)),
        };
    }
    if let Some((address, _)) = text.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(format!(
            "{} is a network; expected an address of this host, such as \"{address}\"",
            quote(text)
        ));
    }
    Err(no_address(text, &format!("use {port_setting}")))
}

/// Reads one element of a list of peers: an address, a network, or `"*"` (which makes two).
///
/// # Errors
/// What is wrong, and what is expected or probably meant.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let text = text.trim();
    if text == EVERY {
        return Ok(vec![
            IpNet::V4(Ipv4Net::default()),
            IpNet::V6(Ipv6Net::default()),
        ]);
    }
    let Some((host, length)) = text.split_once('/') else {
        let address = text
            .parse::<IpAddr>()
            .map_err(|_| no_address(text, "expected the address alone"))?;
        return match mapped(address) {
            Some(v4) => Err(format!(
                "{} is an IPv4-mapped address; write \"{v4}\"",
                quote(text)
            )),
            None => Ok(vec![IpNet::from(address)]),
        };
    };
    let address = host
        .parse::<IpAddr>()
        .map_err(|_| no_address(host, "expected the address alone"))?;
    network(text, address, length).map(|net| vec![net])
}

/// The network of `address` and the text behind its slash.
fn network(text: &str, address: IpAddr, length: &str) -> Result<IpNet, String> {
    let shown = quote(text);
    let (length, was_mask) = match netmask(address, length) {
        Some(length) => (length, true),
        None => (prefix_length(address, length)?, false),
    };
    let (plain, length) = match (mapped(address), length.checked_sub(96)) {
        (Some(v4), Some(length)) => (IpAddr::V4(v4), length),
        (Some(v4), None) => {
            return Err(format!(
                "{shown} begins as an IPv4-mapped address, but takes in others; expected an IPv4 \
                 network, such as \"{v4}/24\", or an IPv6 one"
            ));
        }
        (None, _) => (address, length),
    };
    let net = IpNet::new(plain, length)
        .map_err(|_| format!("{shown} is no network; expected one such as \"10.0.3.0/24\""))?;
    let whole = net.trunc();
    let wrong = if whole != net {
        "has bits set behind its prefix"
    } else if plain != address {
        "is an IPv4-mapped network"
    } else if was_mask {
        "has a netmask"
    } else {
        return Ok(net);
    };
    Err(if whole == net {
        format!("{shown} {wrong}; write \"{whole}\"")
    } else {
        format!("{shown} {wrong}; write \"{whole}\" for the network or \"{plain}\" for the host")
    })
}

/// Reads a prefix length, strictly.
fn prefix_length(address: IpAddr, length: &str) -> Result<u8, String> {
    let (family, most) = match address {
        IpAddr::V4(_) => ("IPv4", 32),
        IpAddr::V6(_) => ("IPv6", 128),
    };
    // A leading zero or plus would be read by `parse`, and by other programs as something else.
    let plain = length.bytes().all(|b| b.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    match length.parse::<u8>() {
        Ok(n) if plain && n <= most => Ok(n),
        _ => Err(format!(
            "{} is no prefix length; expected 0 to {most} behind an {family} address",
            quote(length)
        )),
    }
}

/// The prefix length that an IPv4 netmask stands for, where it is one.
fn netmask(address: IpAddr, mask: &str) -> Option<u8> {
    let mask: Ipv4Addr = mask.parse().ok()?;
    address
        .is_ipv4()
        .then(|| ipnet::ip_mask_to_prefix(IpAddr::V4(mask)).ok())
        .flatten()
}

/// The IPv4 address that an IPv4-mapped one stands for.
fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    }
}

/// Why `text` is no address. `instead_of_port` says what to do with a port.
fn no_address(text: &str, instead_of_port: &str) -> String {
    let shown = quote(text);
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .filter(|t| t.parse::<Ipv6Addr>().is_ok());
    let zone = text
        .split_once('%')
        .filter(|(address, _)| address.trim_start_matches('[').parse::<Ipv6Addr>().is_ok());
    if text.is_empty() {
        "an empty text; expected an address, such as \"10.0.3.5\"".to_owned()
    } else if text.contains(|c: char| c == ',' || c == ';' || c.is_whitespace()) {
        format!("{shown} is more than one address; expected a text of its own for each")
    } else if let Some((_, zone)) = zone {
        format!(
            "{shown}: a zone ({}) does not belong here; expected an address that is complete \
             without one",
            quote(&format!("%{zone}"))
        )
    } else if let Ok(socket) = text.parse::<SocketAddr>() {
        format!(
            "{shown}: a port does not belong here; write \"{}\" ({instead_of_port})",
            socket.ip().to_canonical()
        )
    } else if let Some(bare) = bare {
        format!("{shown}: brackets do not belong here; write \"{bare}\"")
    } else if is_name(text) {
        format!(
            "{shown} is a name, and names are not looked up; expected an address, such as \"10.0.3.5\""
        )
    } else {
        format!("{shown} is no address; expected one such as \"10.0.3.5\" or \"fd00:3::5\"")
    }
}

/// Whether `text` could be a host's name, with a port or without.
fn is_name(text: &str) -> bool {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => text,
    };
    host.contains(|c: char| c.is_alphabetic())
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: &str = "port = 4370";

    fn wrong(text: &str) -> String {
        networks(text).expect_err(text)
    }

    fn wrong_address(text: &str) -> String {
        listen_on(text, PORT).expect_err(text)
    }

    #[test]
    fn networks_and_hosts() {
        for (text, net) in [
            ("10.0.3.0/24", "10.0.3.0/24"),
            ("10.0.3.5", "10.0.3.5/32"),
            (" 10.0.3.5 ", "10.0.3.5/32"),
            ("10.0.3.5/32", "10.0.3.5/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:3::/64", "fd00:3::/64"),
            ("fd00:3::5", "fd00:3::5/128"),
            ("FD00:3::5", "fd00:3::5/128"),
            ("::/0", "::/0"),
            ("::/80", "::/80"),
        ] {
            assert_eq!(networks(text).unwrap(), [net.parse().unwrap()], "{text}");
        }
        assert_eq!(
            networks("*").unwrap(),
            ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]
        );
    }

    #[test]
    fn a_network_that_is_probably_not_meant() {
        for (text, message) in [
            (
                "10.0.3.5/24",
                r#""10.0.3.5/24" has bits set behind its prefix; write "10.0.3.0/24" for the network or "10.0.3.5" for the host"#,
            ),
            (
                "fd00:3::5/64",
                r#""fd00:3::5/64" has bits set behind its prefix; write "fd00:3::/64" for the network or "fd00:3::5" for the host"#,
            ),
            (
                "::ffff:10.0.3.0/120",
                r#""::ffff:10.0.3.0/120" is an IPv4-mapped network; write "10.0.3.0/24""#,
            ),
            (
                "::ffff:10.0.3.5/120",
                r#""::ffff:10.0.3.5/120" has bits set behind its prefix; write "10.0.3.0/24" for the network or "10.0.3.5" for the host"#,
            ),
            (
                "::ffff:0.0.0.0/96",
                r#""::ffff:0.0.0.0/96" is an IPv4-mapped network; write "0.0.0.0/0""#,
            ),
            (
                "::ffff:10.0.3.5/128",
                r#""::ffff:10.0.3.5/128" is an IPv4-mapped network; write "10.0.3.5/32""#,
            ),
            (
                "::ffff:10.0.3.5",
                r#""::ffff:10.0.3.5" is an IPv4-mapped address; write "10.0.3.5""#,
            ),
            (
                "::ffff:10.0.3.0/64",
                r#""::ffff:10.0.3.0/64" begins as an IPv4-mapped address, but takes in others; expected an IPv4 network, such as "10.0.3.0/24", or an IPv6 one"#,
            ),
            (
                "10.0.0.0/255.255.255.0",
                r#""10.0.0.0/255.255.255.0" has a netmask; write "10.0.0.0/24""#,
            ),
            (
                "10.0.0.5/255.255.255.0",
                r#""10.0.0.5/255.255.255.0" has bits set behind its prefix; write "10.0.0.0/24" for the network or "10.0.0.5" for the host"#,
            ),
            (
                "10.0.0.0/0.0.0.255",
                r#""0.0.0.255" is no prefix length; expected 0 to 32 behind an IPv4 address"#,
            ),
        ] {
            assert_eq!(wrong(text), message);
        }
    }

    #[test]
    fn prefix_lengths() {
        for bad in ["33", "", "-1", "+8", "024", "00", "256", "x", "8/8", " 8"] {
            assert_eq!(
                wrong(&format!("10.0.0.0/{bad}")),
                format!("{bad:?} is no prefix length; expected 0 to 32 behind an IPv4 address")
            );
        }
        assert_eq!(
            wrong("fd00::/129"),
            r#""129" is no prefix length; expected 0 to 128 behind an IPv6 address"#
        );
    }

    #[test]
    fn what_is_no_address() {
        for (text, message) in [
            (
                "",
                r#"an empty text; expected an address, such as "10.0.3.5""#,
            ),
            (
                "  ",
                r#"an empty text; expected an address, such as "10.0.3.5""#,
            ),
            (
                "10.0.3.5, 10.0.3.6",
                r#""10.0.3.5, 10.0.3.6" is more than one address; expected a text of its own for each"#,
            ),
            (
                "api.example.org",
                r#""api.example.org" is a name, and names are not looked up; expected an address, such as "10.0.3.5""#,
            ),
            (
                "localhost:4369",
                r#""localhost:4369" is a name, and names are not looked up; expected an address, such as "10.0.3.5""#,
            ),
            (
                "fe80::1%eth0",
                r#""fe80::1%eth0": a zone ("%eth0") does not belong here; expected an address that is complete without one"#,
            ),
            (
                "[::1]",
                r#""[::1]": brackets do not belong here; write "::1""#,
            ),
            (
                "10.0.3",
                r#""10.0.3" is no address; expected one such as "10.0.3.5" or "fd00:3::5""#,
            ),
            (
                "10.0.3.256",
                r#""10.0.3.256" is no address; expected one such as "10.0.3.5" or "fd00:3::5""#,
            ),
            (
                "010.0.3.5",
                r#""010.0.3.5" is no address; expected one such as "10.0.3.5" or "fd00:3::5""#,
            ),
            (
                "fd00::\u{1b}[2J",
                r#""fd00::\u{1b}[2J" is no address; expected one such as "10.0.3.5" or "fd00:3::5""#,
            ),
        ] {
            assert_eq!(wrong(text), message);
            assert_eq!(wrong_address(text), message);
        }
    }

    #[test]
    fn a_port_behind_an_address() {
        assert_eq!(
            wrong_address("10.0.3.5:4370"),
            r#""10.0.3.5:4370": a port does not belong here; write "10.0.3.5" (use port = 4370)"#
        );
        assert_eq!(
            wrong_address("[fd00::5]:4370"),
            r#""[fd00::5]:4370": a port does not belong here; write "fd00::5" (use port = 4370)"#
        );
        assert_eq!(
            wrong("10.0.3.5:4370"),
            r#""10.0.3.5:4370": a port does not belong here; write "10.0.3.5" (expected the address alone)"#
        );
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(listen_on("*", PORT), Ok(ListenOn::Every));
        for text in ["10.0.3.5", "::", "0.0.0.0", "fd00:3::5"] {
            assert_eq!(
                listen_on(text, PORT),
                Ok(ListenOn::One(text.parse().unwrap()))
            );
        }
        assert_eq!(
            wrong_address("::ffff:10.0.3.5"),
            r#""::ffff:10.0.3.5" is an IPv4-mapped address; write "10.0.3.5""#
        );
        assert_eq!(
            wrong_address("10.0.3.0/24"),
            r#""10.0.3.0/24" is a network; expected an address of this host, such as "10.0.3.0""#
        );
    }
}
