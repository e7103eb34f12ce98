//! `wire`: any bytes decode to something, always the same; what is encoded decodes to itself; every
//! answer has its form.

use hardened_epmd::core::wire::{
    self, Decoded, LENGTH_FIELD, MAX_EXTRA, MAX_NAME_CHARS, MAX_REQUEST, Node, Request,
    creation_for, name_fault,
};

use super::input::Input;

pub fn run(bytes: &[u8]) {
    decodes(bytes);
    let mut input = Input(bytes);
    let request = request(&mut input);
    survives(&request);
    answers(&input.node(), u32::from_be_bytes(input.array()));
}

/// What comes from a peer.
fn decodes(bytes: &[u8]) {
    match wire::decode(bytes) {
        // A connection never has to keep more than this.
        Decoded::Incomplete => assert!(bytes.len() < LENGTH_FIELD + MAX_REQUEST),
        // Whatever may still come.
        Decoded::Malformed => {
            let longer = [bytes, &[0]].concat();
            assert_eq!(wire::decode(&longer), Decoded::Malformed);
        }
        Decoded::Request(request) => {
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                assert_eq!(wire::decode(&bytes[..cut]), Decoded::Incomplete);
            }
            let longer = [bytes, &[0]].concat();
            assert_eq!(wire::decode(&longer), Decoded::Malformed);
            survives(&request);
        }
    }
}

/// What `client` sends is what the daemon reads, as far as it is within the caps.
fn survives(request: &Request<'_>) {
    let within = match request {
        Request::Register(node) => !node.name.is_empty() && !node.name.contains(&0),
        Request::Lookup(name) => {
            let text = std::str::from_utf8(name);
            !name.is_empty()
                && !name.contains(&0)
                && text.is_ok_and(|text| text.chars().count() <= MAX_NAME_CHARS)
        }
        // A stop of nothing is no request, for stock's client and daemon as for ours.
        Request::Stop(name) => !name.is_empty() && !name.contains(&0),
        Request::List | Request::Dump | Request::Kill => true,
    };
    let bytes = wire::encode_request(request);
    if within && bytes.len() <= LENGTH_FIELD + MAX_REQUEST {
        assert_eq!(wire::decode(&bytes), Decoded::Request(*request));
    }
}

fn request<'a>(input: &mut Input<'a>) -> Request<'a> {
    match input.byte() % 6 {
        0 => Request::Register(input.node()),
        1 => Request::Lookup(input.field()),
        2 => Request::List,
        3 => Request::Dump,
        4 => Request::Kill,
        _ => Request::Stop(input.field()),
    }
}

/// Every answer about a node that can be registered.
fn answers(node: &Node<'_>, creation: u32) {
    let mut out = Vec::new();
    wire::encode_registered(node.highest, creation, &mut out);
    let told = creation_for(node.highest, creation);
    if node.highest >= 6 {
        assert_eq!(out, [&b"v\0"[..], &creation.to_be_bytes()].concat());
    } else {
        assert!((1..=3).contains(&told));
        assert_eq!(out, [b'y', 0, 0, told as u8]);
    }
    out.clear();
    wire::encode_taken(node.highest, &mut out);
    assert_eq!(out[1], 1);

    if name_fault(node.name).is_some() || node.extra.len() > MAX_EXTRA {
        return;
    }
    // The answer to a lookup is what the node said, behind another tag and a result.
    out.clear();
    wire::encode_found(node, &mut out);
    let asked = wire::encode_request(&Request::Register(*node));
    assert_eq!(out[..2], *b"w\0");
    assert_eq!(out[2..], asked[LENGTH_FIELD + 1..]);
    // One line for one name, and its words where scripts look for them.
    out.clear();
    wire::encode_name_line(node.name, node.port, &mut out);
    let line = std::str::from_utf8(&out).expect("UTF-8");
    let words: Vec<_> = line.split_whitespace().collect();
    let name = std::str::from_utf8(node.name).expect("UTF-8");
    assert_eq!(words, ["name", name, "at", "port", &node.port.to_string()]);
    assert_eq!(line.lines().count(), 1);
    assert!(line.ends_with('\n'));
    out.clear();
    wire::encode_active_line(node.name, node.port, 7, &mut out);
    wire::encode_unused_line(node.name, node.port, &mut out);
    assert_eq!(out.iter().filter(|byte| **byte == 0).count(), 2);
}
