//! `node@host` or `node@host:PORT`, as it stands on the command line.
//!
//! Takes it apart, and says whether its host has a short or a full name; it resolves nothing. An IPv6
//! address may stand in brackets, and must where a port follows. Called by `config` for the command
//! line, and by the checks.

use std::fmt;
use std::net::Ipv6Addr;

use crate::core::wire;

/// The most bytes of a host's name, as DNS has it.
const MAX_HOST: usize = 253;

/// A node, by its whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Before the `@`: what epmd knows.
    pub name: String,
    /// Behind it: what the resolver knows. An IPv6 address has no brackets here; its zone stays.
    pub host: String,
    /// The node's own port, where it is said: no epmd is asked for it then. Never 0.
    pub port: Option<u16>,
}

impl Target {
    /// Takes a node's whole name apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, rest) = text
            .split_once('@')
            .ok_or("is no node; expected NAME@HOST")?;
        if wire::name_fault(name.as_bytes()).is_some() {
            return Err("has no name that a node can have before the @; expected NAME@HOST");
        }
        let (host, port) = host_and_port(rest)?;
        Ok(Self {
            name: name.to_owned(),
            host: host.to_owned(),
            port,
        })
    }

    /// The same for a node that other hosts are to be asked about: its words go through `ssh` and a shell
    /// on the other side, so they are letters, digits and a few characters that mean nothing there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_plain(text: &str) -> Result<Self, &'static str> {
        let target = Self::parse(text)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-:[]@%".contains(c);
        if !text.chars().all(fits) {
            return Err(
                "has a character that -mesh hands to no other host; expected letters, digits and ._-:[]@%",
            );
        }
        if target.name.starts_with('-') || target.host.starts_with('-') {
            return Err("would be taken for an option; expected a name that does not begin with -");
        }
        Ok(target)
    }

    /// Whether its host has a full name, which a node started with `-name` has. An address is one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.host.contains(['.', ':'])
    }
}

/// What stands behind the `@`.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    const NO_ADDRESS: &str =
        "has no IPv6 address behind the @; expected NAME@ADDRESS or NAME@[ADDRESS]:PORT";
    if let Some(inner) = text.strip_prefix('[') {
        let (address, behind) = inner.split_once(']').ok_or(NO_ADDRESS)?;
        if !is_ipv6(address) {
            return Err(NO_ADDRESS);
        }
        return match behind.strip_prefix(':') {
            Some(port) => Ok((address, Some(port_of(port)?))),
            None if behind.is_empty() => Ok((address, None)),
            None => Err(NO_ADDRESS),
        };
    }
    match text.split_once(':') {
        Some((_, more)) if more.contains(':') => match is_ipv6(text) {
            true => Ok((text, None)),
            false => Err(NO_ADDRESS),
        },
        Some((host, port)) => Ok((host_of(host)?, Some(port_of(port)?))),
        None => Ok((host_of(text)?, None)),
    }
}

/// A host's name or an IPv4 address. No more than what these have: it is shown, and stands in commands.
fn host_of(text: &str) -> Result<&str, &'static str> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_HOST || !text.chars().all(fits) {
        return Err("has no host's name behind the @; expected NAME@HOST");
    }
    Ok(text)
}

fn port_of(text: &str) -> Result<u16, &'static str> {
    // `parse` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or("has no port behind the host; expected NAME@HOST:PORT with a port from 1 to 65535")
}

/// Whether it is an IPv6 address, with or without a zone.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_zone = |zone: &str| !zone.is_empty() && zone.len() < 16 && zone.chars().all(fits);
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(is_zone)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, host, port } = self;
        match port {
            Some(port) if host.contains(':') => write!(f, "{name}@[{host}]:{port}"),
            Some(port) => write!(f, "{name}@{host}:{port}"),
            None => write!(f, "{name}@{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_taken_apart() {
        for (text, name, host, port, full) in [
            ("api@api.test", "api", "api.test", None, true),
            ("api@api", "api", "api", None, false),
            ("api@api:9100", "api", "api", Some(9100), false),
            ("a@10.77.0.1", "a", "10.77.0.1", None, true),
            ("a@10.77.0.1:65535", "a", "10.77.0.1", Some(65535), true),
            ("a@fd77::1", "a", "fd77::1", None, true),
            ("a@fd77::1:9100", "a", "fd77::1:9100", None, true),
            ("a@::1", "a", "::1", None, true),
            ("a@[::1]:4370", "a", "::1", Some(4370), true),
            ("a@fe80::1%eth0", "a", "fe80::1%eth0", None, true),
            (
                "a@[fe80::1%eth0.7]:9100",
                "a",
                "fe80::1%eth0.7",
                Some(9100),
                true,
            ),
            ("größe@größe", "größe", "größe", None, false),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(
                (&*target.name, &*target.host, target.port),
                (name, host, port)
            );
            assert_eq!(target.is_full(), full);
            assert_eq!(target.to_string(), text);
        }
        let in_brackets = Target::parse("a@[fe80::1%2]").unwrap();
        assert_eq!(in_brackets, Target::parse("a@fe80::1%2").unwrap());
    }

    #[test]
    fn what_is_no_node() {
        let long = format!("a@{}", "h".repeat(MAX_HOST + 1));
        for text in [
            "api",
            "",
            "@",
            "@h",
            "a@",
            "a b@h",
            "a@h\n",
            "a@b@c",
            "a@h x",
            &long,
            "a@h\u{202e}",
            "a@$(reboot)",
            "a@h;x",
            "a@h'",
            "a@h%eth0",
        ] {
            assert!(Target::parse(text).is_err(), "{text:?}");
        }
        assert!(Target::parse(&format!("a@{}", "h".repeat(MAX_HOST))).is_ok());
    }

    #[test]
    fn what_goes_to_other_hosts_means_nothing_to_a_shell() {
        for text in [
            "a_1.b-c@h-1.test",
            "A@10.77.0.1:9100",
            "a@[fe80::1%eth0]:9100",
            "a@fd77::1",
        ] {
            assert_eq!(Target::parse_plain(text), Target::parse(text), "{text}");
        }
        // All of these are nodes to -doctor, whose words go nowhere.
        for name in [
            "größe", "a$x", "a`x`", "a;x", "a|x", "a&x", "a>x", "a*", "a?", "a'", "a\"", "a\\",
            "~a", "a(x)", "a{x}", "a#", "a!", "a=b", "a,b", "a+b", "-x",
        ] {
            for text in [format!("{name}@h.test"), format!("{name}@h.test:9100")] {
                assert!(Target::parse(&text).is_ok(), "{text}");
                assert!(Target::parse_plain(&text).is_err(), "{text}");
            }
        }
        for text in ["a@größe", "a@-oProxyCommand", "a@-"] {
            assert!(Target::parse(text).is_ok(), "{text}");
            assert!(Target::parse_plain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_malformed_port_is_no_part_of_a_hosts_name() {
        for host in ["h", "h.test", "10.77.0.1", "[::1]", "[fe80::1%eth0]"] {
            for port in [
                "",
                "0",
                "00",
                "65536",
                "99999999999",
                "x",
                "+1",
                "-1",
                "1x",
                " 1",
                "１",
                "1:",
            ] {
                let text = format!("a@{host}:{port}");
                assert!(Target::parse(&text).is_err(), "{text:?}");
            }
        }
        for text in [
            "a@[::1",
            "a@[]",
            "a@[h]",
            "a@[h]:1",
            "a@[10.77.0.1]",
            "a@[::1]x",
            "a@::1]",
            "a@:1",
            "a@[::1]1",
            "a@::g",
            "a@1:2:3",
            "a@fe80::1%",
            "a@fe80::1%eth0:9100",
            "a@[fe80::1%]:1",
        ] {
            assert!(Target::parse(text).is_err(), "{text:?}");
        }
    }
}
