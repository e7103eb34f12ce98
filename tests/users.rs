//! What another user of this host may not: see docs/threat-model.md, whose references to tests are
//! checked here as well.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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

/// Every test that the threat model names is there: by its file and its name, or by its name alone
/// where it is of the same file as the one before.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let document = document.replace('\n', " ");
    let mut sources = String::new();
    let mut count = 0;
    for quoted in document.split('`').skip(1).step_by(2) {
        let name = match quoted.split_once(": ") {
            Some((file, name)) => {
                sources = source(root, file);
                name
            }
            None => quoted,
        };
        // A setting, an option or a function of OTP has no such form.
        if name.matches('_').count() >= 3 && name != "inet_dist_use_interface" {
            assert!(sources.contains(&format!("fn {name}(")), "{name}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} tests are named");
}

/// The text of a test file, or of all files of a folder of tests.
fn source(root: &Path, file: &str) -> String {
    let path = match file.strip_prefix("src/") {
        Some(_) => root.join(file),
        None => root.join("tests").join(file),
    };
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{file}: {e}"));
    if !path.is_dir() {
        return read(&path);
    }
    let files = fs::read_dir(path).unwrap().map(|it| it.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .map(|path| read(&path))
        .collect()
}
