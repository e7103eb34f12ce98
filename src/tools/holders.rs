//! Who holds registered names: what users are called, and which processes they are.
//!
//! The daemon tells users' numbers and the sockets of nodes; this looks the rest up, as far as whoever runs
//! it may see it, and for no longer than it may take. Called by `control`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::config::users;
use crate::core::audit::escape;
use crate::core::status::Registered;

/// How long all names of users may take, and how long the search for processes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Completes who holds these.
pub(super) fn complete(registrations: &mut [Registered]) {
    let deadline = Instant::now() + PATIENCE;
    let mut names = BTreeMap::new();
    for holder in registrations.iter_mut().map(|r| &mut r.holder) {
        let Some(uid) = holder.uid else { continue };
        let name = names.entry(uid).or_insert_with(|| {
            let is_late = Instant::now() >= deadline;
            (!is_late).then(|| users::name_of(uid, deadline).ok().flatten())?
        });
        holder.user.clone_from(name);
    }
    let sockets = registrations.iter().filter_map(|r| r.holder.socket);
    let processes = match geteuid().is_root() {
        true => processes(&sockets.collect::<Vec<_>>(), Instant::now() + PATIENCE),
        false => HashMap::new(),
    };
    for holder in registrations.iter_mut().map(|r| &mut r.holder) {
        let process = holder.socket.take().and_then(|s| processes.get(&s));
        if let Some((pid, program)) = process {
            holder.pid = Some(*pid);
            holder.program = Some(program.clone());
        }
    }
}

/// The processes that have these sockets, with what runs there.
fn processes(sockets: &[u64], deadline: Instant) -> HashMap<u64, (u32, String)> {
    let mut found: HashMap<u64, (u32, String)> = HashMap::new();
    let wanted: std::collections::HashSet<u64> = sockets.iter().copied().collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if found.len() == wanted.len() || Instant::now() >= deadline {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let link = fs::read_link(descriptor.path());
            let Some(socket) = link.ok().and_then(|link| socket(&link)) else {
                continue;
            };
            if wanted.contains(&socket) {
                let name = fs::read(process.path().join("comm")).unwrap_or_default();
                found.insert(socket, (pid, escape(name.trim_ascii_end())));
            }
        }
    }
    found
}

/// The number of a socket, from where its descriptor leads to.
fn socket(link: &Path) -> Option<u64> {
    let link = link.to_str()?;
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}
