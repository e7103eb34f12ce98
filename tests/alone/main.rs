//! Our epmd where there is no systemd: its lines in a file, its control socket elsewhere, settings that not everybody
//! may read, and containers, where it or erl is process 1.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod containers;
mod file;
mod settings;
mod socket;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use common::binary::Epmd;
use common::netns::Host;
use common::wait_for;

/// A user with no rights of its own.
const NOBODY: &str = "65534";

/// A copy of our epmd on this host that every user can run: a build's folder may be root's alone.
fn copy(host: &Host) -> PathBuf {
    let copy = host.file("epmd");
    if !copy.exists() {
        fs::copy(Epmd::Ours.path(), &copy).unwrap();
        fs::set_permissions(host.file(""), fs::Permissions::from_mode(0o711)).unwrap();
    }
    copy
}

/// That copy, as a user with no rights.
fn as_nobody(host: &Host) -> Command {
    let mut command = Command::new("setpriv");
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    command
        .args([&user, &group, "--clear-groups"])
        .arg(copy(host));
    command.env_clear();
    command
}

/// An empty folder of the host's own in place of this one, with the mode that such have.
fn empty(host: &Host, folder: &str, mode: u32) {
    let nothing = None::<&str>;
    let folder = folder.to_owned();
    host.enter(move || {
        mount(nothing, &*folder, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    });
}

/// The text of a file, which may not be there yet.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until a file has this in it.
fn wait_until_in(path: &Path, words: &str) {
    wait_for(words, || read(path).contains(words).then_some(()));
}

/// The first block of this language behind these words of docs/operating.md.
fn block(words: &str, language: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, behind) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("no {words}"));
    let (_, behind) = behind.split_once(&format!("```{language}\n")).unwrap();
    behind.split_once("```").unwrap().0.to_owned()
}
