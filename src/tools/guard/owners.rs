//! Whose a listening socket is, where no node is registered with it: an Erlang node's, or something else's.
//!
//! By the process that holds it, where that can be seen (root sees all of them); else by its user: one who
//! runs an Erlang node is believed. Reads /proc. Called by `guard` for the ports of `[guard] ports`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::core::audit::escape;

/// What the emulator's process is called, to its beginning: beam, beam.smp, beam.debug.smp.
const EMULATOR: &[u8] = b"beam";

/// What listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// An Erlang node.
    Node,
    /// Something else, or nobody knows: as it is told.
    Other(String),
}

/// Whose sockets these are, given as inode and user.
pub(super) fn of(sockets: &[(u64, Option<u32>)]) -> HashMap<u64, Owner> {
    let mut owners = HashMap::new();
    let mut users_of_nodes = Vec::new();
    let wanted: HashMap<String, u64> = sockets
        .iter()
        .map(|(inode, _)| (format!("socket:[{inode}]"), *inode))
        .collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name();
        let Some(pid) = pid.to_str().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        let folder = process.path();
        // It may have ended meanwhile.
        let Ok(program) = fs::read(folder.join("comm")) else {
            continue;
        };
        let is_node = program.starts_with(EMULATOR);
        if let (true, Ok(of)) = (is_node, fs::metadata(&folder)) {
            users_of_nodes.push(of.uid());
        }
        for inode in held(&folder, &wanted) {
            let owner = match is_node {
                true => Owner::Node,
                false => Owner::Other(format!("{} (process {pid})", escape(program.trim_ascii()))),
            };
            owners.insert(inode, owner);
        }
    }
    for (inode, uid) in sockets {
        owners.entry(*inode).or_insert_with(|| match uid {
            Some(uid) if users_of_nodes.contains(uid) => Owner::Node,
            Some(uid) => Owner::Other(user(*uid)),
            None => Owner::Other("somebody whom the kernel does not name".to_owned()),
        });
    }
    owners
}

/// Which of these sockets a process holds, as far as that is shown.
fn held(folder: &Path, wanted: &HashMap<String, u64>) -> Vec<u64> {
    let descriptors = fs::read_dir(folder.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links
        .filter_map(|link| wanted.get(link.to_str()?).copied())
        .collect()
}

/// A user as people know it.
pub(super) fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {}", escape(user.name.as_bytes())),
        _ => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_is_no_node_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        let inode = link.trim_start_matches("socket:[").trim_end_matches(']');
        let inode: u64 = inode.parse().unwrap();
        let nobodys = u64::MAX;
        let owners = of(&[(inode, Some(0)), (nobodys, Some(4_294_967_000))]);
        let own = format!("(process {})", std::process::id());
        assert!(
            matches!(&owners[&inode], Owner::Other(what) if what.contains(&own)),
            "{owners:?}"
        );
        assert_eq!(owners[&nobodys], Owner::Other("user 4294967000".to_owned()));
    }
}
