//! The bytes that a node or a looking-up client sends, and the ones it gets back.
//!
//! Written apart from the library's own `wire`: a load generator that shares the daemon's encoder
//! would agree with its mistakes.

/// The distribution port that every node here registers with.
pub(crate) const NODE_PORT: u16 = 40_000;

/// The result byte that follows the opcode of an answer to ALIVE2 and to PORT2: all went well.
const OK: u8 = 0;

/// The name of the `index`th node. All have the same length, so that answers cost the same bytes.
pub(crate) fn node_name(index: usize) -> String {
    format!("n{index:06}")
}

/// A lookup (`PORT_PLEASE2_REQ`) of `name`.
pub(crate) fn lookup(name: &str) -> Vec<u8> {
    framed([b"z", name.as_bytes()].concat())
}

/// A list (`NAMES_REQ`).
pub(crate) fn list() -> Vec<u8> {
    framed(b"n".to_vec())
}

/// A registration (`ALIVE2_REQ`) of `name` as a visible node that speaks versions 5 and 6.
pub(crate) fn register(name: &str) -> Vec<u8> {
    let mut body = b"x".to_vec();
    body.extend(node_record(name));
    framed(body)
}

/// What a lookup of `name` answers (`PORT2_RESP`).
pub(crate) fn lookup_answer(name: &str) -> Vec<u8> {
    let mut answer = vec![b'w', OK];
    answer.extend(node_record(name));
    answer
}

/// Whether `answer` says that the registration succeeded (`ALIVE2_X_RESP`, with a 32-bit creation).
pub(crate) fn is_registered(answer: &[u8]) -> bool {
    answer.len() == 6 && answer.starts_with(&[b'v', OK])
}

/// Port, type, protocol, versions, name and extra: the same in a registration and in the answer to
/// a lookup.
fn node_record(name: &str) -> Vec<u8> {
    let mut record = NODE_PORT.to_be_bytes().to_vec();
    record.extend([77, 0]); // a visible node, over TCP over IPv4
    record.extend([0, 6, 0, 5]); // the highest and the lowest version it speaks
    record.extend(length(name.as_bytes()));
    record.extend(name.as_bytes());
    record.extend([0, 0]); // no extra
    record
}

/// `body` behind its length.
fn framed(body: Vec<u8>) -> Vec<u8> {
    [&length(&body)[..], &body].concat()
}

/// The 16-bit length of `bytes`.
fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len())
        .expect("requests here are short")
        .to_be_bytes()
}
