//! `record`: what systemd's store gives back is a record as it was written, or is told apart.

use hardened_epmd::core::registry::MIN_CREATION;
use hardened_epmd::core::wire::{MAX_EXTRA, name_fault};
use hardened_epmd::daemon::systemd::record::{MAX_RECORD, OfUser, Record};

use super::input::Input;

pub fn run(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_is_kept(&record);
    }
    let mut input = Input(bytes);
    let record = Record {
        id: u64::from_be_bytes(input.array()) >> 1,
        creation: u32::from_be_bytes(input.array()).max(MIN_CREATION),
        since: u64::from_be_bytes(input.array()),
        node: input.node(),
        user: (!bytes.len().is_multiple_of(2)).then(|| OfUser {
            uid: u32::from_be_bytes(input.array()),
            released: (!bytes.len().is_multiple_of(3))
                .then(|| u64::from_be_bytes(input.array()) >> 1),
        }),
    };
    if name_fault(record.node.name).is_none() && record.node.extra.len() <= MAX_EXTRA {
        assert_is_kept(&record);
    }
}

/// It fits, and comes back as it was.
fn assert_is_kept(record: &Record<'_>) {
    let bytes = record.encode();
    assert!(bytes.len() <= MAX_RECORD);
    assert_eq!(Record::decode(&bytes), Ok(*record));
}
