//! What was taken of an epmd, and its registrations as they are kept.
//!
//! Plain data. Made by `takeover`; put into a store by `keep`, or served by the process that took it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use super::ask::Facts;
use crate::core::registry::MIN_CREATION;
use crate::daemon::systemd::kept::Kept;
use crate::daemon::systemd::record::Record;

/// Everything of an epmd that outlives it.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Taken {
    /// Its listening sockets, with what waits in them.
    pub(in crate::daemon) listeners: Vec<TcpListener>,
    /// Its names, the oldest first.
    pub(super) names: Vec<TakenName>,
    /// Connections that it had accepted and that have asked nothing yet.
    pub(in crate::daemon) unasked: Vec<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct TakenName {
    pub(super) name: Box<[u8]>,
    pub(super) facts: Facts,
    pub(super) connection: OwnedFd,
}

/// A registration as it is kept, and its connection.
pub(super) struct Taking<'a> {
    pub(super) record: Record<'a>,
    pub(super) connection: &'a OwnedFd,
}

impl Taken {
    /// The registrations as they are kept. Their creations are in no dump: they get random ones, so that
    /// the next registration of a name has another than this.
    pub(super) fn records(&self) -> impl Iterator<Item = Taking<'_>> {
        let random = RandomState::new();
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        (1..).zip(&self.names).map(move |(id, taken)| {
            let [a, b, c, d, ..] = random.hash_one(&taken.name).to_ne_bytes();
            let record = Record {
                id,
                creation: u32::from_ne_bytes([a, b, c, d]).max(MIN_CREATION),
                since,
                node: taken.facts.node(&taken.name),
                user: None,
            };
            Taking {
                record,
                connection: &taken.connection,
            }
        })
    }

    /// The registrations, as if they came out of the store.
    pub(in crate::daemon) fn registrations(&mut self) -> Vec<Kept> {
        let records: Vec<_> = self.records().map(|t| t.record.encode()).collect();
        let connections = self.names.drain(..).map(|taken| Some(taken.connection));
        let all = records.into_iter().zip(connections);
        all.map(|(record, connection)| Kept { record, connection })
            .collect()
    }
}
