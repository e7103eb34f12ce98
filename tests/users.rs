//! What another user of this host may not: see docs/threat-model.md.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::mount::{MsFlags, mount};

use common::binary::Epmd;
use common::netns::{Host, lone_host};
use common::service::Service;

/// Where the daemon is asked for its status.
const SOCKET: &str = "/run/epmd/control.sock";
/// A user with no rights of its own.
const NOBODY: &str = "65534";

/// A host with a /run of its own.
fn host() -> Host {
    let host = lone_host();
    let nothing = None::<&str>;
    host.enter(|| mount(nothing, "/run", Some("tmpfs"), MsFlags::empty(), nothing))
        .unwrap();
    host
}

#[test]
fn another_user_gets_no_status() {
    let host = host();
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    let own = host.run(Epmd::Ours.command().arg("-status"));
    assert_eq!(own.status, Some(0), "{own:?}");
    assert!(own.stdout.contains("api"), "{own:?}");
    // A copy that everyone can run: a build's folder may be root's alone.
    let copy = host.file("epmd");
    fs::copy(Epmd::Ours.path(), &copy).unwrap();
    fs::set_permissions(host.file(""), fs::Permissions::from_mode(0o711)).unwrap();
    let ask = || {
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        let mut command = std::process::Command::new("setpriv");
        command.args(ids).arg("--clear-groups").arg(&copy);
        host.run(command.env_clear().arg("-status"))
    };
    let mode = |mode| fs::set_permissions(SOCKET, fs::Permissions::from_mode(mode)).unwrap();
    // The socket's mode keeps it out, and where that does not, its user does.
    for opened in [false, true] {
        if opened {
            host.enter(|| mode(0o666));
        }
        let other = ask();
        assert_eq!((other.status, &*other.stdout), (Some(1), ""), "{other:?}");
        assert!(!other.stderr.contains("api"), "{other:?}");
    }
    service.assert_alive();
}
