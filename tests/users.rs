//! What another user of this host may not: see docs/threat-model.md.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
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

/// Our epmd as a user with no rights, once its control socket is there; what ends it.
struct Nobodys(std::process::Child);

impl Nobodys {
    fn start(host: &Host) -> Self {
        let copy = host.file("epmd");
        fs::copy(Epmd::Ours.path(), &copy).unwrap();
        fs::set_permissions(host.file(""), fs::Permissions::from_mode(0o711)).unwrap();
        let mut command = std::process::Command::new("setpriv");
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        command
            .args(ids)
            .arg("--clear-groups")
            .arg(&copy)
            .env_clear();
        let epmd = Self(host.spawn(command.stderr(std::process::Stdio::null())));
        common::wait_for("its control socket", || {
            host.enter(|| std::os::unix::net::UnixStream::connect(SOCKET))
                .ok()
        });
        epmd
    }
}

impl Drop for Nobodys {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host whose /run is as on any other: root's alone to write to.
fn host_with_roots_run() -> Host {
    let host = host();
    let root = fs::Permissions::from_mode(0o755);
    host.enter(|| fs::set_permissions("/run", root)).unwrap();
    host
}

/// Runs a line of a shell on it.
fn does(host: &Host, line: &str) {
    let done = host.run(std::process::Command::new("sh").args(["-c", line]));
    assert_eq!(done.status, Some(0), "{line}: {done:?}");
}

/// What root's -status and -doctor say where they do not believe what is at the control socket, or
/// `None` where they do. What they say to do follows the last colon.
fn not_believed(host: &Host) -> Option<String> {
    let status = host.run(Epmd::Ours.command().arg("-status"));
    let doctor = host.run(Epmd::Ours.command().args(["-doctor", "-json"]));
    let json: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
    let host = json["host"].as_array().unwrap();
    let told = host.iter().find(|f| f["code"] == "control_not_trusted");
    assert_eq!(
        told.is_some(),
        status.stderr.contains("anyone") || status.stderr.contains("believed")
    );
    assert!(
        told.is_none() || !doctor.stdout.contains("in force, "),
        "{}",
        doctor.stdout
    );
    let told = told?;
    assert_eq!(
        (told["result"].as_str(), status.status),
        (Some("warn"), Some(1)),
        "{status:?}"
    );
    assert_eq!(status.stdout, "");
    let remedy = told["remedy"].as_str().unwrap();
    Some(remedy.lines().last().unwrap().trim().to_owned())
}

#[test]
fn a_folder_that_others_may_write_to_is_not_believed_until_that_is_put_right() {
    let host = host_with_roots_run();
    let _service = Service::start(&host, "");
    assert_eq!(not_believed(&host), None);
    for mode in ["0777", "0775", "0757", "1777"] {
        does(&host, &format!("chmod {mode} /run/epmd"));
        let remedy = not_believed(&host).expect(mode);
        does(&host, &remedy);
        assert_eq!(not_believed(&host), None, "{mode}");
    }
    does(&host, "chmod 0777 /run");
    let remedy = not_believed(&host).unwrap();
    does(&host, &remedy);
    assert_eq!(not_believed(&host), None);
}

#[test]
fn who_answers_at_the_control_socket_is_root_or_the_folders_owner() {
    let host = host_with_roots_run();
    does(
        &host,
        &format!("mkdir -m 0755 /run/epmd && chown {NOBODY} /run/epmd"),
    );
    let _epmd = Nobodys::start(&host);
    // The daemon's own user, by a folder that root gave it: as under the unit.
    assert_eq!(not_believed(&host), None);
    does(&host, "chown 65533 /run/epmd");
    let remedy = not_believed(&host).unwrap();
    assert!(remedy.starts_with("ss -xlp src "), "{remedy}");
    does(&host, &remedy);
}

#[test]
fn a_folder_that_another_user_made_or_that_a_link_leads_to_is_not_believed() {
    // Anybody may make a folder in this /run.
    let open = host();
    let epmd = Nobodys::start(&open);
    assert!(not_believed(&open).unwrap().starts_with("chmod go-w /run"));
    drop(epmd);
    let host = host_with_roots_run();
    does(
        &host,
        &format!(
            "mkdir -p /run/home/theirs && chown -R {NOBODY} /run/home && ln -s /run/home/theirs /run/epmd"
        ),
    );
    let listener =
        host.enter(|| std::os::unix::net::UnixListener::bind("/run/home/theirs/control.sock"));
    let remedy = not_believed(&host).unwrap();
    assert_eq!(remedy, "rm /run/epmd, and start epmd again");
    does(&host, remedy.split(',').next().unwrap());
    assert_eq!(not_believed(&host), None, "there is none to be believed");
    drop(listener);
}
