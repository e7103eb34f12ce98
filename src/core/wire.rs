//! Bytes to [`Request`], answers to bytes: the whole of epmd's protocol, and nothing but it.
//!
//! As in the chapter "Distribution Protocol" of the ERTS User's Guide, and as stock epmd behaves
//! where the chapter is silent. "Not all here yet" is an outcome of its own, apart from "malformed",
//! so that a caller never has to guess. Every length is checked against a named cap before anything
//! is taken for it. Called by `desk` (the daemon's side), by `client` and by `doctor`.

#![deny(clippy::arithmetic_side_effects)]

mod answers;

pub use self::answers::{
    Active, Dump, Found, Listing, MAX_FOUND, MAX_LISTING, decode_dump, decode_found, decode_listing,
};

/// `ALIVE2_REQ`, tag `x`: register a node.
pub const ALIVE2_REQ: u8 = b'x';
/// `PORT_PLEASE2_REQ`, tag `z`: which distribution port has this name?
pub const PORT_PLEASE2_REQ: u8 = b'z';
/// `NAMES_REQ`, tag `n`: which names are there?
pub const NAMES_REQ: u8 = b'n';
/// `DUMP_REQ`, tag `d`: all names, gone ones too.
pub const DUMP_REQ: u8 = b'd';
/// `KILL_REQ`, tag `k`: end the daemon.
pub const KILL_REQ: u8 = b'k';
/// `STOP_REQ`, tag `s`: release a name.
pub const STOP_REQ: u8 = b's';

/// `ALIVE2_X_RESP`: answer to a node that speaks version 6 of the distribution protocol.
const ALIVE2_X_RESP: u8 = b'v';
/// `ALIVE2_RESP`: answer to an older node.
const ALIVE2_RESP: u8 = b'y';
/// `PORT2_RESP`.
const PORT2_RESP: u8 = b'w';

/// The length field in front of a request.
pub const LENGTH_FIELD: usize = 2;
/// The largest value of the length field (stock's buffer of 3060 holds it, its field and a NUL).
pub const MAX_REQUEST: usize = 3057;
/// The most bytes of a name: 255 characters of four bytes.
pub const MAX_NAME_BYTES: usize = 1020;
/// The most characters of a name.
pub const MAX_NAME_CHARS: usize = 255;
/// The most bytes of a registration's extra field.
pub const MAX_EXTRA: usize = 1020;
/// From this version of the distribution protocol on, creations have 32 bits.
pub const VERSION_OF_LARGE_CREATIONS: u16 = 6;
/// The creation in an answer that says that the name is taken, as stock's.
const CREATION_OF_TAKEN: u32 = 99;

/// What a node says of itself when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Its distribution port.
    pub port: u16,
    /// 77 normal, 72 hidden.
    pub kind: u8,
    /// 0 is TCP over IPv4.
    pub protocol: u8,
    /// The highest version of the distribution protocol that it speaks.
    pub highest: u16,
    /// The lowest.
    pub lowest: u16,
    /// The part of the node's name before the `@`. Not checked yet: see [`name_fault`].
    pub name: &'a [u8],
    /// Anything; given back by a lookup.
    pub extra: &'a [u8],
}

impl<'a> Node<'a> {
    /// A visible node over TCP and IPv4, as OTP registers them, without extra data.
    #[must_use]
    pub fn new(name: &'a [u8], port: u16) -> Self {
        Self {
            port,
            kind: 77,
            protocol: 0,
            highest: 6,
            lowest: 5,
            name,
            extra: b"",
        }
    }
}

/// A whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Register this node.
    Register(Node<'a>),
    /// Which distribution port has this name? Not checked yet: see [`name_fault`].
    Lookup(&'a [u8]),
    /// Which names are there?
    List,
    /// All names, gone ones too.
    Dump,
    /// End.
    Kill,
    /// Release this name.
    Stop(&'a [u8]),
}

/// What some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The beginning of a request: more bytes are to come.
    Incomplete,
    /// No request, whatever may still come.
    Malformed,
    /// A whole request, and nothing behind it.
    Request(Request<'a>),
}

/// Why a node can't register under a name or with its extra field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// No character at all.
    Empty,
    /// More than [`MAX_NAME_CHARS`] characters or [`MAX_NAME_BYTES`] bytes.
    TooLong,
    /// Not UTF-8.
    NotUtf8,
    /// A control character or a space: it would forge lines of `epmd -names`.
    ForgesLines,
}

/// Whether the bytes of a request, or of its beginning, are those of a lookup, as far as its tag tells.
#[must_use]
pub fn looks_up(bytes: &[u8]) -> bool {
    bytes.get(LENGTH_FIELD) == Some(&PORT_PLEASE2_REQ)
}

/// Whether this is a registration, or will be when it is whole.
#[must_use]
pub fn registers(bytes: &[u8]) -> bool {
    bytes.get(LENGTH_FIELD) == Some(&ALIVE2_REQ)
}

/// Decodes all the bytes that a connection has sent so far.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some((field, body)) = bytes.split_first_chunk::<LENGTH_FIELD>() else {
        return Decoded::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes(*field));
    if length == 0 || length > MAX_REQUEST || body.len() > length {
        return Decoded::Malformed;
    }
    if body.len() < length {
        return Decoded::Incomplete;
    }
    decode_body(body).map_or(Decoded::Malformed, Decoded::Request)
}

/// Decodes what stands behind the length field.
fn decode_body(body: &[u8]) -> Option<Request<'_>> {
    let (&tag, rest) = body.split_first()?;
    match tag {
        ALIVE2_REQ => decode_node(rest).map(Request::Register),
        PORT_PLEASE2_REQ => {
            let name = rest.strip_suffix(&[0]).unwrap_or(rest);
            (!name.is_empty() && !name.contains(&0)).then_some(Request::Lookup(name))
        }
        NAMES_REQ => Some(Request::List),
        DUMP_REQ => Some(Request::Dump),
        KILL_REQ => Some(Request::Kill),
        STOP_REQ => {
            // Stock reads the name up to the first NUL.
            let name = rest.split(|&b| b == 0).next().unwrap_or_default();
            (!rest.is_empty()).then_some(Request::Stop(name))
        }
        _ => None,
    }
}

/// Decodes an `ALIVE2_REQ` behind its tag. Bytes behind the extra field are tolerated, as by stock.
fn decode_node(rest: &[u8]) -> Option<Node<'_>> {
    let (port, rest) = take_u16(rest)?;
    let (&kind, rest) = rest.split_first()?;
    let (&protocol, rest) = rest.split_first()?;
    let (highest, rest) = take_u16(rest)?;
    let (lowest, rest) = take_u16(rest)?;
    let (name, rest) = take_field(rest)?;
    let (extra, _) = take_field(rest)?;
    // Stock as well answers nothing to these.
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    Some(Node {
        port,
        kind,
        protocol,
        highest,
        lowest,
        name,
        extra,
    })
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (field, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*field), rest))
}

/// A 16-bit length and that many bytes.
fn take_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_u16(bytes)?;
    rest.split_at_checked(usize::from(length))
}

/// Why no node can have this name, if so.
#[must_use]
pub fn name_fault(name: &[u8]) -> Option<NameFault> {
    if name.is_empty() {
        return Some(NameFault::Empty);
    }
    // Nearly every name is of letters that need no decoding.
    if name.len() <= MAX_NAME_CHARS && name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(NameFault::TooLong);
    }
    let Ok(name) = str::from_utf8(name) else {
        return Some(NameFault::NotUtf8);
    };
    if name.chars().count() > MAX_NAME_CHARS {
        return Some(NameFault::TooLong);
    }
    let forges = |c: char| c.is_control() || c.is_whitespace();
    name.contains(forges).then_some(NameFault::ForgesLines)
}

/// The creation as a node of this highest version can take it: versions before 6 know 1 to 3 only.
#[must_use]
pub fn creation_for(highest: u16, creation: u32) -> u32 {
    if highest >= VERSION_OF_LARGE_CREATIONS {
        creation
    } else {
        // The remainder is 0, 1 or 2.
        (creation % 3).saturating_add(1)
    }
}

/// `ALIVE2_X_RESP` or `ALIVE2_RESP`: the node is registered, with this creation.
pub fn encode_registered(highest: u16, creation: u32, out: &mut Vec<u8>) {
    encode_alive2(highest, 0, creation_for(highest, creation), out);
}

/// `ALIVE2_X_RESP` or `ALIVE2_RESP`: the name can't be had. Nodes say that it is in use.
pub fn encode_taken(highest: u16, out: &mut Vec<u8>) {
    encode_alive2(highest, 1, CREATION_OF_TAKEN, out);
}

fn encode_alive2(highest: u16, result: u8, creation: u32, out: &mut Vec<u8>) {
    if highest >= VERSION_OF_LARGE_CREATIONS {
        out.extend([ALIVE2_X_RESP, result]);
        out.extend(creation.to_be_bytes());
    } else {
        out.extend([ALIVE2_RESP, result]);
        // At most 99, see the callers.
        out.extend(u16::try_from(creation).unwrap_or(u16::MAX).to_be_bytes());
    }
}

/// `PORT2_RESP`: here is the node.
pub fn encode_found(node: &Node<'_>, out: &mut Vec<u8>) {
    out.extend([PORT2_RESP, 0]);
    encode_facts(node, out);
}

/// What `ALIVE2_REQ` and `PORT2_RESP` say of a node alike.
fn encode_facts(node: &Node<'_>, out: &mut Vec<u8>) {
    out.extend(node.port.to_be_bytes());
    out.extend([node.kind, node.protocol]);
    out.extend(node.highest.to_be_bytes());
    out.extend(node.lowest.to_be_bytes());
    encode_field(node.name, out);
    encode_field(node.extra, out);
}

/// A 16-bit length and the bytes; what would not fit the length field is cut (a registered name or
/// extra field always fits).
fn encode_field(field: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(field.get(..usize::from(length)).unwrap_or(field));
}

/// `PORT2_RESP`: no node has this name.
pub fn encode_not_found(out: &mut Vec<u8>) {
    out.extend([PORT2_RESP, 1]);
}

/// The beginning of `NAMES_RESP` and `DUMP_RESP`: epmd's own port.
pub fn encode_listing_head(port: u16, out: &mut Vec<u8>) {
    out.extend(u32::from(port).to_be_bytes());
}

/// A line of `NAMES_RESP`.
pub fn encode_name_line(name: &[u8], port: u16, out: &mut Vec<u8>) {
    out.extend(b"name ");
    out.extend(name);
    out.extend(b" at port ");
    out.extend(port.to_string().as_bytes());
    out.push(b'\n');
}

/// A line of `DUMP_RESP` for a registered name, held by this descriptor.
pub fn encode_active_line(name: &[u8], port: u16, descriptor: i32, out: &mut Vec<u8>) {
    out.extend(b"active name     <");
    out.extend(name);
    out.extend(format!("> at port {port}, fd = {descriptor}\n\0").as_bytes());
}

/// A line of `DUMP_RESP` for a name that is gone.
pub fn encode_unused_line(name: &[u8], port: u16, out: &mut Vec<u8>) {
    out.extend(b"old/unused name <");
    out.extend(name);
    // The node's descriptor is closed and its number somebody else's by now.
    out.extend(format!(">, port = {port}, fd = -1 \n\0").as_bytes());
}

/// `KILL_RESP`: the daemon ends.
pub const KILL_OK: &[u8] = b"OK";
/// `KILL_RESP`: names are registered.
pub const KILL_NO: &[u8] = b"NO";
/// `STOP_RESP`: the name is released.
pub const STOP_OK: &[u8] = b"STOPPED";
/// `STOP_RESP`: no node has this name.
pub const STOP_NOEXIST: &[u8] = b"NOEXIST";

/// A request, as `client` sends it. What is over the caps is cut, and then refused by the daemon.
#[must_use]
pub fn encode_request(request: &Request<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    match request {
        Request::Register(node) => {
            body.push(ALIVE2_REQ);
            encode_facts(node, &mut body);
        }
        Request::Lookup(name) => {
            body.push(PORT_PLEASE2_REQ);
            body.extend(*name);
        }
        Request::List => body.push(NAMES_REQ),
        Request::Dump => body.push(DUMP_REQ),
        Request::Kill => body.push(KILL_REQ),
        Request::Stop(name) => {
            body.push(STOP_REQ);
            body.extend(*name);
        }
    }
    let mut request = Vec::new();
    encode_field(&body, &mut request);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(body);
        bytes
    }

    fn node<'a>(name: &'a [u8], extra: &'a [u8]) -> Node<'a> {
        Node {
            extra,
            ..Node::new(name, 4370)
        }
    }

    #[test]
    fn every_request_survives_encode_and_decode() {
        let requests = [
            Request::Register(node(b"api", b"")),
            Request::Register(node("знак".as_bytes(), b"a\0b")),
            Request::Lookup(b"api"),
            Request::List,
            Request::Dump,
            Request::Kill,
            Request::Stop(b"api"),
        ];
        for request in requests {
            assert_eq!(decode(&encode_request(&request)), Decoded::Request(request));
        }
    }

    #[test]
    fn every_proper_prefix_is_incomplete_and_every_longer_one_malformed() {
        let whole = encode_request(&Request::Register(node(b"api", b"extra")));
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), Decoded::Incomplete, "{cut} bytes");
        }
        let mut longer = whole;
        longer.push(0);
        assert_eq!(decode(&longer), Decoded::Malformed);
    }

    #[test]
    fn the_length_field_has_caps() {
        assert_eq!(decode(&[0, 0]), Decoded::Malformed);
        assert_eq!(decode(&[0x0b, 0xf1]), Decoded::Incomplete, "3057");
        assert_eq!(decode(&[0x0b, 0xf2]), Decoded::Malformed, "3058");
        let mut largest = vec![0; MAX_REQUEST];
        largest[0] = NAMES_REQ;
        assert_eq!(decode(&framed(&largest)), Decoded::Request(Request::List));
    }

    #[test]
    fn a_lookup_tolerates_one_trailing_nul_and_no_other() {
        assert_eq!(
            decode(&framed(b"zapi\0")),
            Decoded::Request(Request::Lookup(b"api"))
        );
        for bad in [&b"z"[..], b"z\0", b"za\0b", b"zapi\0\0"] {
            assert_eq!(decode(&framed(bad)), Decoded::Malformed, "{bad:?}");
        }
    }

    #[test]
    fn fields_that_run_over_the_end_are_malformed() {
        let mut body = encode_request(&Request::Register(node(b"api", b"xy")))[2..].to_vec();
        let last = body.len() - 3;
        body[last] = 3; // the extra field's length
        assert_eq!(decode(&framed(&body)), Decoded::Malformed);
        body[10] = 200; // the name's length
        assert_eq!(decode(&framed(&body)), Decoded::Malformed);
        assert_eq!(decode(&framed(b"x")), Decoded::Malformed);
        assert_eq!(decode(&framed(b"GET / HTTP/1.1")), Decoded::Malformed);
    }

    #[test]
    fn names_have_caps() {
        assert_eq!(name_fault(b"api"), None);
        assert_eq!(name_fault(b""), Some(NameFault::Empty));
        assert_eq!(name_fault("\u{1F98A}".repeat(255).as_bytes()), None);
        assert_eq!(name_fault(&[b'a'; 255]), None);
        assert_eq!(name_fault(&[b'a'; 256]), Some(NameFault::TooLong));
        assert_eq!(name_fault(&[b'a'; 1021]), Some(NameFault::TooLong));
        assert_eq!(name_fault(b"\xc3"), Some(NameFault::NotUtf8));
        for forging in [
            "a b",
            "a\nname b at port 1",
            "\u{7f}",
            "a\u{85}",
            "a\u{2028}",
        ] {
            assert_eq!(
                name_fault(forging.as_bytes()),
                Some(NameFault::ForgesLines),
                "{forging:?}"
            );
        }
    }

    #[test]
    fn answers_are_laid_out_as_the_chapter_says() {
        let mut out = Vec::new();
        encode_registered(6, 0x0102_0304, &mut out);
        assert_eq!(out, b"v\0\x01\x02\x03\x04");
        out.clear();
        encode_registered(5, 7, &mut out);
        assert_eq!(out, b"y\0\0\x02");
        out.clear();
        encode_taken(6, &mut out);
        assert_eq!(out, b"v\x01\0\0\0\x63");
        out.clear();
        encode_taken(5, &mut out);
        assert_eq!(out, b"y\x01\0\x63");
        out.clear();
        encode_found(&node(b"api", b"e\0"), &mut out);
        assert_eq!(out, b"w\0\x11\x12\x4d\0\0\x06\0\x05\0\x03api\0\x02e\0");
        out.clear();
        encode_listing_head(4369, &mut out);
        encode_name_line(b"api", 4370, &mut out);
        assert_eq!(out, b"\0\0\x11\x11name api at port 4370\n");
        out.clear();
        encode_active_line(b"api", 4370, 7, &mut out);
        encode_unused_line(b"old", 1, &mut out);
        assert_eq!(
            out,
            b"active name     <api> at port 4370, fd = 7\n\0old/unused name <old>, port = 1, fd = -1 \n\0"
        );
    }
}
