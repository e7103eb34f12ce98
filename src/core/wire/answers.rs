//! Answers to lookups, lists and dumps, as a client reads them: bytes to [`Found`], [`Listing`] and
//! [`Dump`].
//!
//! They come from whatever listens on epmd's port, so every length has its cap here as well. Called by
//! `doctor` and `takeover`; `-names` and `-dump` pass answers on as they are.

use super::{MAX_EXTRA, MAX_NAME_BYTES, Node, PORT2_RESP, take_field, take_u16};

/// The most bytes of an answer to a lookup: its fixed part, a name and an extra field.
pub const MAX_FOUND: usize = 14 + MAX_NAME_BYTES + MAX_EXTRA;
/// The most bytes of an answer to a list that a client reads: some 100,000 names.
pub const MAX_LISTING: usize = 4 * 1024 * 1024;

/// What the answer to a lookup says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The beginning of an answer: more bytes are to come.
    Incomplete,
    /// No answer to a lookup, whatever may still come.
    Malformed,
    /// No node has this name.
    NotRegistered,
    /// Here it is.
    Node(Node<'a>),
}

/// Decodes `PORT2_RESP`, as far as it has come.
#[must_use]
pub fn decode_found(bytes: &[u8]) -> Found<'_> {
    match bytes {
        [] | [PORT2_RESP] => Found::Incomplete,
        [PORT2_RESP, 0, rest @ ..] if bytes.len() <= MAX_FOUND => {
            decode_found_node(rest).unwrap_or(Found::Incomplete)
        }
        [PORT2_RESP, 1..=u8::MAX] => Found::NotRegistered,
        _ => Found::Malformed,
    }
}

/// Decodes what stands behind the result; `None` where it ends too early.
fn decode_found_node(rest: &[u8]) -> Option<Found<'_>> {
    let (port, rest) = take_u16(rest)?;
    let (&kind, rest) = rest.split_first()?;
    let (&protocol, rest) = rest.split_first()?;
    let (highest, rest) = take_u16(rest)?;
    let (lowest, rest) = take_u16(rest)?;
    // A length over its cap will never be the beginning of an answer.
    let (length, _) = take_u16(rest)?;
    if usize::from(length) > MAX_NAME_BYTES {
        return Some(Found::Malformed);
    }
    let (name, rest) = take_field(rest)?;
    let (length, _) = take_u16(rest)?;
    if usize::from(length) > MAX_EXTRA {
        return Some(Found::Malformed);
    }
    let (extra, rest) = take_field(rest)?;
    if !rest.is_empty() {
        return Some(Found::Malformed);
    }
    Some(Found::Node(Node {
        port,
        kind,
        protocol,
        highest,
        lowest,
        name,
        extra,
    }))
}

/// What the answer to a list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<'a> {
    /// epmd's own port.
    pub port: u32,
    /// Names with their distribution ports, in the answer's order.
    pub nodes: Vec<(&'a [u8], u16)>,
}

/// Decodes a whole `NAMES_RESP`; `None` where it is none.
#[must_use]
pub fn decode_listing(bytes: &[u8]) -> Option<Listing<'_>> {
    if bytes.len() > MAX_LISTING {
        return None;
    }
    let (head, lines) = bytes.split_first_chunk::<4>()?;
    let nodes = match lines.strip_suffix(b"\n") {
        Some(lines) => lines
            .split(|&b| b == b'\n')
            .map(decode_name_line)
            .collect::<Option<_>>()?,
        None if lines.is_empty() => Vec::new(),
        None => return None,
    };
    Some(Listing {
        port: u32::from_be_bytes(*head),
        nodes,
    })
}

/// Decodes a line of `NAMES_RESP` without its end. Stock lets a name have spaces: the port is what
/// stands last.
fn decode_name_line(line: &[u8]) -> Option<(&[u8], u16)> {
    const BEHIND_NAME: &[u8] = b" at port ";
    let rest = line.strip_prefix(b"name ")?;
    let digits = rest.rsplit(|&b| b == b' ').next()?;
    let before = rest.get(..rest.len().checked_sub(digits.len())?)?;
    let name = before.strip_suffix(BEHIND_NAME)?;
    let plain = !name.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let port = str::from_utf8(digits).ok()?.parse().ok()?;
    (plain && name.len() <= MAX_NAME_BYTES).then_some((name, port))
}

/// What the answer to a dump says of the names that are registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump<'a> {
    /// epmd's own port.
    pub port: u32,
    /// The registered names, in the answer's order.
    pub active: Vec<Active<'a>>,
}

/// A registered name, as a dump tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active<'a> {
    /// Its name; anything but a NUL may stand in it.
    pub name: &'a [u8],
    /// Its distribution port.
    pub port: u16,
    /// The number that its connection has in the process that answers.
    pub descriptor: i32,
}

/// Decodes a whole `DUMP_RESP`; `None` where it is none.
#[must_use]
pub fn decode_dump(bytes: &[u8]) -> Option<Dump<'_>> {
    if bytes.len() > MAX_LISTING {
        return None;
    }
    let (head, entries) = bytes.split_first_chunk::<4>()?;
    let entries = match entries.strip_suffix(&[0]) {
        // No name has a NUL, so each of them ends an entry.
        Some(entries) => entries.split(|&b| b == 0).collect(),
        None if entries.is_empty() => Vec::new(),
        None => return None,
    };
    let mut active = Vec::new();
    for entry in entries {
        if !entry.starts_with(b"old/unused name <") {
            active.push(decode_active_line(entry)?);
        }
    }
    Some(Dump {
        port: u32::from_be_bytes(*head),
        active,
    })
}

/// Decodes an entry of `DUMP_RESP` for a registered name, without its NUL. A name may look like the rest
/// of an entry: what stands last is what counts.
fn decode_active_line(entry: &[u8]) -> Option<Active<'_>> {
    let rest = entry.strip_prefix(b"active name     <")?;
    let (rest, descriptor) = take_last_number(rest.strip_suffix(b"\n")?)?;
    let (rest, port) = take_last_number(rest.strip_suffix(b", fd = ")?)?;
    let name = rest.strip_suffix(b"> at port ")?;
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES).then_some(Active {
        name,
        port,
        descriptor,
    })
}

/// The decimal number at the end, and what stands before it.
fn take_last_number<T: std::str::FromStr>(bytes: &[u8]) -> Option<(&[u8], T)> {
    let digits = bytes
        .iter()
        .rev()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let (rest, digits) = bytes.split_at_checked(bytes.len().checked_sub(digits)?)?;
    Some((rest, str::from_utf8(digits).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::{encode_active_line, encode_unused_line};
    use super::super::{encode_found, encode_listing_head, encode_name_line, encode_not_found};
    use super::*;

    fn node<'a>(name: &'a [u8], extra: &'a [u8]) -> Node<'a> {
        Node {
            extra,
            ..Node::new(name, 4370)
        }
    }

    #[test]
    fn answers_to_a_lookup_are_read_back() {
        let mut out = Vec::new();
        let asked = node(b"api", b"e\0");
        encode_found(&asked, &mut out);
        assert_eq!(decode_found(&out), Found::Node(asked));
        for length in 0..out.len() {
            assert_eq!(decode_found(&out[..length]), Found::Incomplete, "{length}");
        }
        out.push(0);
        assert_eq!(decode_found(&out), Found::Malformed, "a byte behind it");
        out.clear();
        encode_not_found(&mut out);
        assert_eq!(decode_found(&out), Found::NotRegistered);
        assert_eq!(decode_found(b"w\xff"), Found::NotRegistered);
        for bytes in [&b"v"[..], b"HTTP/1.1 400", b"w\x01\0", b"\0"] {
            assert_eq!(decode_found(bytes), Found::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn answers_to_a_lookup_have_caps() {
        let (name, extra) = ([b'a'; MAX_NAME_BYTES], [0; MAX_EXTRA]);
        let mut out = Vec::new();
        encode_found(&node(&name, &extra), &mut out);
        assert_eq!(out.len(), MAX_FOUND);
        assert_eq!(decode_found(&out), Found::Node(node(&name, &extra)));
        let fixed = b"w\0\x11\x12\x4d\0\0\x06\0\x05";
        let name_over = [&fixed[..], &1021_u16.to_be_bytes()].concat();
        assert_eq!(decode_found(&name_over), Found::Malformed);
        let extra_over = [&fixed[..], b"\0\x01a", &1021_u16.to_be_bytes()].concat();
        assert_eq!(decode_found(&extra_over), Found::Malformed);
    }

    #[test]
    fn answers_to_a_list_are_read_back() {
        let mut out = Vec::new();
        encode_listing_head(4369, &mut out);
        let none = decode_listing(&out).unwrap();
        assert_eq!((none.port, none.nodes.len()), (4369, 0));
        encode_name_line(b"api", 4370, &mut out);
        encode_name_line(b"a at port 1", 65535, &mut out);
        let listing = decode_listing(&out).unwrap();
        let expected: [(&[u8], u16); 2] = [(b"api", 4370), (b"a at port 1", 65535)];
        assert_eq!(listing.nodes, expected);
        for length in 5..26 {
            assert_eq!(decode_listing(&out[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_is_no_answer_to_a_list() {
        for lines in [
            &b"name  at port 1\n"[..],
            b"name a at port 65536\n",
            b"name a at port +1\n",
            b"name a at port \n",
            b"name a\n",
            b"\n",
            b"name a at port 1\n\n",
            b"name a at port 1",
        ] {
            let bytes = [&[0, 0, 0x11, 0x11], lines].concat();
            assert_eq!(decode_listing(&bytes), None, "{lines:?}");
        }
        assert_eq!(decode_listing(b"\0\0\x11"), None);
        let line = [b"name ", &[b'a'; MAX_NAME_BYTES][..], b" at port 1\n"].concat();
        let most = [&[0; 4], &line[..]].concat();
        assert!(decode_listing(&most).is_some());
        let line = [b"name ", &[b'a'; MAX_NAME_BYTES + 1][..], b" at port 1\n"].concat();
        assert_eq!(decode_listing(&[&[0; 4], &line[..]].concat()), None);
        let mut large = vec![0; 4];
        while large.len() <= MAX_LISTING {
            encode_name_line(b"a", 1, &mut large);
        }
        assert_eq!(decode_listing(&large), None);
        large.truncate(large.len() - b"name a at port 1\n".len());
        assert!(decode_listing(&large).is_some());
    }

    #[test]
    fn answers_to_a_dump_are_read_back() {
        let names = [
            &b"api"[..],
            b"a> at port 1, fd = 2\n",
            "\u{1F98A} b".as_bytes(),
            b"old/unused name <x>",
        ];
        let mut out = Vec::new();
        encode_listing_head(4369, &mut out);
        assert_eq!(decode_dump(&out).unwrap().active, []);
        for (name, descriptor) in names.into_iter().zip(7..) {
            encode_active_line(name, 65535, descriptor, &mut out);
            encode_unused_line(name, 1, &mut out);
        }
        // Stock's descriptor of a name that is gone.
        out.extend(b"old/unused name <stocks>, port = 1, fd = 7 \n\0");
        let dump = decode_dump(&out).unwrap();
        assert_eq!((dump.port, dump.active.len()), (4369, names.len()));
        for (active, (name, descriptor)) in dump.active.iter().zip(names.into_iter().zip(7..)) {
            let expected = Active {
                name,
                port: 65535,
                descriptor,
            };
            assert_eq!(*active, expected);
        }
        let whole: Vec<_> = (4..out.len())
            .filter(|length| decode_dump(&out[..*length]).is_some())
            .collect();
        let ends = |length: &usize| *length == 4 || out[length - 1] == 0;
        assert!(whole.iter().all(ends), "{whole:?}");
    }

    #[test]
    fn what_is_no_answer_to_a_dump() {
        for entries in [
            &b"active name     <> at port 1, fd = 1\n\0"[..],
            b"active name     <a> at port 65536, fd = 1\n\0",
            b"active name     <a> at port -1, fd = 1\n\0",
            b"active name     <a> at port 1, fd = -1\n\0",
            b"active name     <a> at port 1, fd = 2147483648\n\0",
            b"active name     <a> at port 1, fd = \n\0",
            b"active name     <a> at port 1\n\0",
            b"active name     <a> at port 1, fd = 1\n",
            b"active name <a> at port 1, fd = 1\n\0",
            b"name a at port 1\n\0",
            b"\0",
        ] {
            let bytes = [&[0, 0, 0x11, 0x11], entries].concat();
            assert_eq!(decode_dump(&bytes), None, "{entries:?}");
        }
        let name = [b'a'; MAX_NAME_BYTES + 1];
        let mut long = vec![0; 4];
        encode_active_line(&name[..MAX_NAME_BYTES], 1, 1, &mut long);
        assert!(decode_dump(&long).is_some());
        encode_active_line(&name, 1, 1, &mut long);
        assert_eq!(decode_dump(&long), None);
        assert_eq!(decode_dump(&vec![0; MAX_LISTING + 1]), None);
    }
}
