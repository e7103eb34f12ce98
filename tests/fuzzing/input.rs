//! A fuzzer's bytes, taken apart from the front. When they have run out there are zeros.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hardened_epmd::core::wire::Node;

/// The bytes that are left.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// As many bytes as the next two say, or as there are.
    pub fn field(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16()).min(self.0.len());
        let (field, rest) = self.0.split_at(length);
        self.0 = rest;
        field
    }

    /// An address: IPv4, IPv6, or IPv4-mapped.
    pub fn address(&mut self) -> IpAddr {
        match self.byte() % 3 {
            0 => Ipv4Addr::from(self.array::<4>()).into(),
            1 => Ipv6Addr::from(self.array::<16>()).into(),
            _ => Ipv4Addr::from(self.array::<4>()).to_ipv6_mapped().into(),
        }
    }

    pub fn node(&mut self) -> Node<'a> {
        Node {
            port: self.u16(),
            kind: self.byte(),
            protocol: self.byte(),
            highest: self.u16(),
            lowest: self.u16(),
            name: self.field(),
            extra: self.field(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
