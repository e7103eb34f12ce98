//! What is asked: requests as nodes and tools make them, the same ones damaged, and garbage.

use std::fmt;

use super::common::wire::{Node, frame};
use super::random::Random;

/// A character of four bytes.
const WIDE: &str = "\u{1f600}";
/// The longest request, with its length field.
const LONGEST: usize = 3059;
/// Its length field.
const LONGEST_LENGTH: u16 = 3057;
/// Bytes of a request that a failure shows; the seed gives the rest.
const SHOWN: usize = 80;
/// Tags of requests, and two bytes that are none.
const TAGS: [u8; 8] = *b"xzndksq\0";

/// Bytes for a connection.
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    /// For a registration whose connection is to be kept: its name.
    pub(crate) holds: Option<Vec<u8>>,
}

impl Request {
    /// Any request. `held` are the names that are registered.
    pub(crate) fn make(random: &mut Random, held: &[&[u8]]) -> Self {
        if random.one_in(4) {
            let node = node(random, held);
            return Self {
                bytes: frame(&node.request()),
                holds: Some(node.name),
            };
        }
        let bytes = match random.below(16) {
            0 => garbage(random),
            1 | 2 => damaged(random, held),
            _ => sound(random, held),
        };
        Self { bytes, holds: None }
    }

    /// The request behind its length, if the bytes are one with nothing behind it.
    pub(crate) fn body(&self) -> Option<&[u8]> {
        let (length, body) = self.bytes.split_first_chunk::<2>()?;
        let whole = usize::from(u16::from_be_bytes(*length)) == body.len();
        (whole && !body.is_empty()).then_some(body)
    }

    /// Its tag.
    pub(crate) fn tag(&self) -> Option<u8> {
        Some(*self.body()?.first()?)
    }

    /// Whether it asks the daemon to end.
    pub(crate) fn is_kill(&self) -> bool {
        self.tag() == Some(b'k')
    }

    /// The name that it asks to release.
    pub(crate) fn stops(&self) -> Option<&[u8]> {
        let name = self.body()?.strip_prefix(b"s")?;
        name.split(|byte| *byte == 0).next()
    }

    /// The name that it looks up.
    pub(crate) fn looks_up(&self) -> Option<&[u8]> {
        let name = self.body()?.strip_prefix(b"z")?;
        Some(name.strip_suffix(b"\0").unwrap_or(name))
    }

    /// The name that it registers.
    pub(crate) fn registers(&self) -> Option<&[u8]> {
        let rest = self.body()?.strip_prefix(b"x")?.get(8..)?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        rest.get(..u16::from_be_bytes(*length).into())
    }

    /// Up to here it may be split: a daemon that has got a whole request answers and closes. One with
    /// bytes behind it is not split behind its length (see the document's entry on that), nor one
    /// whose length is none.
    pub(crate) fn splits_before(&self) -> usize {
        let whole = match self.bytes.split_first_chunk::<2>() {
            Some((length, _)) => 2 + usize::from(u16::from_be_bytes(*length)),
            None => 2,
        };
        let is_one = (3..=LONGEST).contains(&whole) && whole >= self.bytes.len();
        if is_one {
            self.bytes.len()
        } else {
            2.min(self.bytes.len())
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.holds.is_some() { "hold" } else { "ask" };
        let shown = &self.bytes[..self.bytes.len().min(SHOWN)];
        let length = self.bytes.len();
        write!(f, "{kind} \"{}\" ({length} bytes)", shown.escape_ascii())
    }
}

/// A name: mostly one of a few, so that they meet; now and then one at a limit or over it, or one
/// that is none.
fn name(random: &mut Random, held: &[&[u8]]) -> Vec<u8> {
    match random.below(24) {
        0 => return vec![b'n'; 253 + random.below(4)],
        1 => return WIDE.repeat(253 + random.below(4)).into(),
        2 => {
            let forging = [
                "a b",
                "a\nname b at port 1",
                "\t",
                "\u{7f}",
                "\u{85}",
                "a\u{2028}",
            ];
            return random.one_of(&forging).as_bytes().to_vec();
        }
        3 => {
            let none = [
                &b"\xff"[..],
                b"a\x80",
                b"cut\xe2\x82",
                b"\xc0\xaf",
                b"\xed\xa0\x80",
            ];
            return random.one_of(&none).to_vec();
        }
        4 => {
            let length = random.below(12);
            return random.bytes(length);
        }
        5 => {
            let odd: [&[u8]; 4] = [b"", b"\0", b"a\0b", b"a\0"];
            return random.one_of(&odd).to_vec();
        }
        6..14 if !held.is_empty() => return random.one_of(held).to_vec(),
        _ => {}
    }
    let few = [
        "api",
        "API",
        "a",
        "b",
        "c",
        "wg_man",
        "größe",
        "наука",
        WIDE,
        "<a>",
        "a@b",
    ];
    let mut name = random.one_of(&few).as_bytes().to_vec();
    if random.one_in(2) {
        name.extend((random.below(20)).to_string().into_bytes());
    }
    name
}

/// A node: what it says of itself is anything.
fn node(random: &mut Random, held: &[&[u8]]) -> Node {
    let extra = match random.below(8) {
        0 => vec![0; 1019 + random.below(3)],
        1 | 2 => {
            let length = random.below(40);
            random.bytes(length)
        }
        _ => Vec::new(),
    };
    let any = random.u16();
    Node {
        name: name(random, held),
        port: random.u16(),
        kind: *random.one_of(&[77, 77, 77, 72, 0, 255]),
        protocol: *random.one_of(&[0, 0, 0, 1, 255]),
        highest: *random.one_of(&[6, 6, 6, 5, 5, 4, 0, any]),
        lowest: *random.one_of(&[5, 5, 6, any]),
        extra,
    }
}

/// A request as nodes and tools make it.
fn sound(random: &mut Random, held: &[&[u8]]) -> Vec<u8> {
    let named = |tag: &[u8], name: Vec<u8>| frame(&[tag, &name].concat());
    match random.below(16) {
        0..7 => named(b"z", name(random, held)),
        7 => named(
            b"z",
            [name(random, held), vec![0; random.below(3)]].concat(),
        ),
        8..11 => frame(b"n"),
        11 => frame(b"d"),
        12 => named(b"s", name(random, held)),
        13 => named(
            b"s",
            [name(random, held), vec![0; random.below(3)]].concat(),
        ),
        14 => frame(b"k"),
        _ => frame(&node(random, held).request()),
    }
}

/// A request with something wrong in it.
fn damaged(random: &mut Random, held: &[&[u8]]) -> Vec<u8> {
    let mut bytes = sound(random, held);
    match random.below(6) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.push(random.byte()),
        2 => {
            let other = sound(random, held);
            bytes.extend(other);
        }
        3 => {
            let at = random.below(bytes.len());
            bytes[at] = random.byte();
        }
        4 => {
            let at = random.below(bytes.len());
            bytes.remove(at);
        }
        // Bytes behind what belongs to it, within its length.
        _ => {
            let length = random.below(40);
            let more = random.bytes(length);
            bytes = frame(&[&bytes[2..], &more].concat());
        }
    }
    bytes
}

/// Anything.
fn garbage(random: &mut Random) -> Vec<u8> {
    let length = *random.one_of(&[0, 1, 2, 3, 10, 100, 3056, 3057]);
    let body = random.bytes(length);
    match random.below(3) {
        0 => body,
        1 => frame(&body),
        _ => {
            let tag = *random.one_of(&TAGS);
            let lengths = [0, 1, 3057, 3058, 0x7fff, 0x8000, 0xffff];
            let length: u16 = *random.one_of(&lengths);
            let mut bytes = [&length.to_be_bytes()[..], &[tag], &body].concat();
            if length == LONGEST_LENGTH {
                // Stock has no room for a byte behind it, see the document's entry on those.
                bytes.truncate(LONGEST);
            }
            bytes
        }
    }
}
