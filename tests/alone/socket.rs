//! `[control] socket`, and who asks there.

use std::fs;

use super::common::binary::{Epmd, Output};
use super::common::netns::{Host, lone_host};
use super::common::service::Service;
use super::common::wait_for;
use super::{NOBODY, as_nobody, copy, empty};

/// What `-status` on this host says, asked with these arguments as root.
fn status(host: &Host, arguments: &[&str]) -> Output {
    host.run(Epmd::Ours.command().arg("-status").args(arguments))
}

fn start<'h>(host: &'h Host, socket: &str) -> Service<'h> {
    Service::start(host, &format!("[control]\nsocket = \"{socket}\"\n"))
}

/// A host with a copy of our epmd.
fn host() -> Host {
    let host = lone_host();
    copy(&host);
    host
}

#[test]
fn the_control_socket_is_where_the_settings_say() {
    let host = host();
    empty(&host, "/run", 0o755);
    let socket = host.file("control/epmd.sock");
    let socket = socket.to_str().unwrap();
    let service = start(&host, socket);
    let _name = service.hold("api");
    wait_for("the socket", || {
        (status(&host, &["-socket", socket]).status == Some(0)).then_some(())
    });
    for asked in [&["-socket", socket][..], &["-config", service.config()]] {
        let told = status(&host, asked);
        assert_eq!(told.status, Some(0), "{told:?}");
        assert!(told.stdout.contains("api"), "{told:?}");
    }
    // A name of its own from where one stands.
    let mut relative = Epmd::Ours.command();
    relative.args(["-status", "-socket", "epmd.sock"]);
    let relative = host.run(relative.current_dir(host.file("control")));
    assert_eq!(relative.status, Some(0), "{relative:?}");
    // Nobody is at the place where it would be otherwise.
    let other = status(&host, &[]);
    assert_eq!(other.status, Some(1));
    assert!(
        other
            .stderr
            .starts_with("epmd: /run/epmd/control.sock: no epmd answers there")
    );
    // The doctor hears the settings in force there.
    let doctor = host.run(
        Epmd::Ours
            .command()
            .args(["-doctor", "-json", "-socket", socket]),
    );
    assert!(doctor.stdout.contains("in force"), "{doctor:?}");
    let wrong = host.run(Epmd::Ours.command().args(["-socket", socket, "-names"]));
    assert_eq!(wrong.status, Some(1));
    assert!(
        wrong
            .stderr
            .contains("\"-socket\" is of no use here; expected it with \"-status\" or \"-doctor\"")
    );
    // To move it takes another start.
    service.reload("[control]\nsocket = \"none\"\n");
    service
        .wait_until_said("control.socket has changed: that takes force when epmd is started again");
    assert_eq!(status(&host, &["-socket", socket]).status, Some(0));
}

#[test]
fn there_is_no_control_socket_where_the_settings_say_none() {
    let host = host();
    empty(&host, "/run", 0o755);
    let service = start(&host, "none");
    service.assert_alive();
    assert!(!host.enter(|| fs::exists("/run/epmd")).unwrap());
    assert!(
        !service.said().contains("control socket"),
        "{}",
        service.said()
    );
    let told = status(&host, &["-config", service.config()]);
    assert_eq!(told.status, Some(1));
    assert!(
        told.stderr.contains("control.socket is \"none\""),
        "{told:?}"
    );
}

#[test]
fn a_folder_that_is_everybodys_is_not_taken_and_one_in_it_is() {
    let host = host();
    empty(&host, "/var/tmp", 0o1777);
    let service = start(&host, "/var/tmp/control.sock");
    service.wait_until_said(
        "others may write to /var/tmp (mode 1777); give the socket a folder of its own in it",
    );
    let said = service.said();
    let (_, remedy) = said.split_once("control.socket = \"").unwrap();
    let remedy = remedy.split('"').next().unwrap().to_owned();
    drop(service);
    let _service = start(&host, &remedy);
    wait_for("the socket", || {
        (status(&host, &["-socket", &remedy]).status == Some(0)).then_some(())
    });
    // A socket of somebody's in /tmp itself is not believed either, nor a folder that others may write to.
    let told = status(&host, &["-socket", "/var/tmp/control.sock"]);
    assert!(
        told.stderr
            .contains("others may write to /var/tmp (mode 1777)"),
        "{told:?}"
    );
    assert!(!told.stderr.contains("chmod"), "{told:?}");
}

#[test]
fn a_user_without_rights_has_a_control_socket_of_his_own() {
    let host = host();
    empty(&host, "/run", 0o755);
    empty(&host, "/var/tmp", 0o1777);
    let socket = "/var/tmp/epmd/control.sock";
    let settings = host.file("epmd.toml");
    fs::write(&settings, format!("[control]\nsocket = \"{socket}\"\n")).unwrap();
    let mut epmd = host.spawn(as_nobody(&host).env("EPMD_CONFIG", &settings));
    let own = || {
        host.run(
            as_nobody(&host)
                .env("EPMD_CONFIG", &settings)
                .arg("-status"),
        )
    };
    wait_for("the socket", || (own().status == Some(0)).then_some(()));
    // Root is not to believe a folder that anybody could have made; what it is told to do instead works.
    let told = status(&host, &["-socket", socket]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let (_, remedy) = told.stderr.trim_end().rsplit_once(": ").unwrap();
    assert_eq!(
        remedy,
        format!("setpriv --reuid={NOBODY} --clear-groups epmd -status")
    );
    let remedy = remedy.replace(
        "epmd -status",
        &format!("{} -status -socket {socket}", copy(&host).display()),
    );
    let done = host.run(std::process::Command::new("sh").args(["-c", &remedy]));
    assert_eq!(done.status, Some(0), "{done:?}");
    epmd.kill().unwrap();
    epmd.wait().unwrap();
    // In a folder of his own all the way is his, and root may ask: nobody else could have put it there.
    host.enter(|| {
        fs::create_dir("/run/home").unwrap();
        std::os::unix::fs::chown("/run/home", Some(65_534), Some(65_534)).unwrap();
    });
    let socket = "/run/home/epmd/control.sock";
    fs::write(&settings, format!("[control]\nsocket = \"{socket}\"\n")).unwrap();
    let mut epmd = host.spawn(as_nobody(&host).env("EPMD_CONFIG", &settings));
    wait_for("the socket", || {
        (status(&host, &["-socket", socket]).status == Some(0)).then_some(())
    });
    epmd.kill().unwrap();
    epmd.wait().unwrap();
}
