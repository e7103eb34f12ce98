//! A registration as it is kept in systemd's descriptor store: bytes, with a version.
//!
//! Pure encoding and decoding. A record of another version, or one that makes no sense, is told
//! apart and dropped, never misread. Called by `store` and, at the start, by `server`.

#![deny(clippy::arithmetic_side_effects)]

use std::fmt;

use crate::core::registry::Id;
use crate::core::wire::{self, NameFault, Node};

/// What every record begins with.
const MAGIC: [u8; 4] = *b"epmd";
/// The version of the layout where nothing is known of users. An epmd before there were any reads it alone,
/// so it is written where it does.
const VERSION: u8 = 1;
/// That where it is known whose a name is, and when it was released.
const VERSION_WITH_USER: u8 = 2;
/// Stands for a time that has not come.
const NOT_RELEASED: u64 = u64::MAX;
/// The most bytes of a record.
pub const MAX_RECORD: usize = 4096;
/// Numbers beyond are none that a daemon has come to.
const MAX_ID: Id = Id::MAX >> 1;

/// One registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub id: Id,
    /// Its creation.
    pub creation: u32,
    /// When it registered, in milliseconds since 1970 UTC.
    pub since: u64,
    /// The node as it described itself.
    pub node: Node<'a>,
    /// Whose it is, and when it was released and is held for him, where that is known.
    pub user: Option<OfUser>,
}

/// Whose a registration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfUser {
    /// The user.
    pub uid: u32,
    /// When it was released, in milliseconds since boot; `None` where it is not, as far as is known.
    pub released: Option<u64>,
}

/// Why some bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was written by a daemon with another layout.
    Version(u8),
    /// It makes no sense.
    Malformed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(
                    f,
                    "it has version {version}, and this epmd reads {VERSION} and {VERSION_WITH_USER}"
                )
            }
            Self::Malformed => f.write_str("it makes no sense"),
        }
    }
}

impl<'a> Record<'a> {
    /// The record as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(match self.user {
            None => VERSION,
            Some(_) => VERSION_WITH_USER,
        });
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.creation.to_be_bytes());
        bytes.extend(self.since.to_be_bytes());
        if let Some(OfUser { uid, released }) = self.user {
            bytes.extend(uid.to_be_bytes());
            bytes.extend(released.unwrap_or(NOT_RELEASED).to_be_bytes());
        }
        // The node stands as it came over the wire.
        bytes.extend(wire::encode_request(&wire::Request::Register(self.node)));
        bytes
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Anything that [`Self::encode`] does not write.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(Fault::Malformed)?;
        let (&version, rest) = rest.split_first().ok_or(Fault::Malformed)?;
        let has_user = match version {
            VERSION => false,
            VERSION_WITH_USER => true,
            other => return Err(Fault::Version(other)),
        };
        Self::decode_fields(rest, has_user).ok_or(Fault::Malformed)
    }

    fn decode_fields(bytes: &'a [u8], has_user: bool) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (creation, rest) = rest.split_first_chunk()?;
        let (since, mut rest) = rest.split_first_chunk()?;
        let mut user = None;
        if has_user {
            let (uid, more) = rest.split_first_chunk()?;
            let (released, more) = more.split_first_chunk()?;
            let released = u64::from_be_bytes(*released);
            user = Some(OfUser {
                uid: u32::from_be_bytes(*uid),
                released: (released != NOT_RELEASED).then_some(released),
            });
            rest = more;
        }
        let wire::Decoded::Request(wire::Request::Register(node)) = wire::decode(rest) else {
            return None;
        };
        let (id, creation) = (Id::from_be_bytes(*id), u32::from_be_bytes(*creation));
        let sound = id <= MAX_ID
            && creation >= crate::core::registry::MIN_CREATION
            && is_kept(node.name)
            && node.extra.len() <= wire::MAX_EXTRA;
        sound.then_some(Self {
            id,
            creation,
            since: u64::from_be_bytes(*since),
            node,
            user,
        })
    }
}

/// Whether a name can be in a record. One that forges lines can: such a node can't register here, but an
/// epmd whose place was taken may have let it.
fn is_kept(name: &[u8]) -> bool {
    matches!(wire::name_fault(name), None | Some(NameFault::ForgesLines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(name: &'a [u8], extra: &'a [u8]) -> Record<'a> {
        let node = Node {
            extra,
            ..Node::new(name, 4370)
        };
        Record {
            id: 7,
            creation: 99,
            since: 1_790_000_000_000,
            node,
            user: None,
        }
    }

    #[test]
    fn the_largest_registration_survives() {
        let name = "\u{1F98A}".repeat(255);
        let largest = Record {
            user: Some(OfUser {
                uid: 1001,
                released: Some(1),
            }),
            ..record(name.as_bytes(), &[0; wire::MAX_EXTRA])
        };
        let bytes = largest.encode();
        assert!(bytes.len() <= MAX_RECORD);
        assert_eq!(Record::decode(&bytes), Ok(largest));
    }

    #[test]
    fn another_version_is_told_apart() {
        let mut bytes = record(b"api", b"").encode();
        bytes[4] = 3;
        assert_eq!(Record::decode(&bytes), Err(Fault::Version(3)));
        assert!(Fault::Version(3).to_string().contains("version 3"));
    }

    #[test]
    fn whose_it_is_and_since_when_no_more_survives_and_is_not_written_where_nothing_is_known() {
        assert_eq!(record(b"api", b"").encode()[4], VERSION);
        for released in [None, Some(0), Some(123_456_789)] {
            for uid in [0, 1001, u32::MAX] {
                let with = Record {
                    user: Some(OfUser { uid, released }),
                    ..record(b"api", b"extra")
                };
                let bytes = with.encode();
                assert_eq!(Record::decode(&bytes), Ok(with));
                for cut in 0..bytes.len() {
                    assert_eq!(Record::decode(&bytes[..cut]), Err(Fault::Malformed));
                }
            }
        }
    }

    #[test]
    fn a_name_that_another_epmd_has_taken_stays_one() {
        let taken = record(b"a b\n", b"");
        assert_eq!(Record::decode(&taken.encode()), Ok(taken));
    }

    #[test]
    fn no_other_bytes_are_a_record() {
        let bytes = record(b"api", b"extra").encode();
        for cut in 0..bytes.len() {
            assert_eq!(
                Record::decode(&bytes[..cut]),
                Err(Fault::Malformed),
                "{cut} bytes"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Record::decode(&longer), Err(Fault::Malformed));
        for bad in [
            record(b"\xff", b""),
            Record {
                creation: 3,
                ..record(b"api", b"")
            },
        ] {
            assert_eq!(Record::decode(&bad.encode()), Err(Fault::Malformed));
        }
        let far = Record {
            id: Id::MAX,
            ..record(b"api", b"")
        };
        assert_eq!(Record::decode(&far.encode()), Err(Fault::Malformed));
    }
}
