//! A settings file that the user who asks may not read: it is the daemon's, and no client's business.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::as_nobody;
use super::common::binary::Output;
use super::common::netns::{Host, lone_host};
use super::common::service::Service;

/// A file that root alone may read, and one in a folder that root alone may look into.
fn secrets(host: &Host) -> [PathBuf; 2] {
    let (file, folder) = (host.file("secret.toml"), host.file("secrets"));
    fs::create_dir(&folder).unwrap();
    let inner = folder.join("epmd.toml");
    for path in [&file, &inner] {
        fs::write(path, "[access]\nallow = [\"10.0.3.0/24\"]\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    [file, inner]
}

/// Every way in which a file that can't be read is named.
fn ways(host: &Host) -> Vec<Command> {
    let mut ways = Vec::new();
    for file in secrets(host) {
        let mut by_option = as_nobody(host);
        by_option.arg("-config").arg(&file);
        let mut by_variable = as_nobody(host);
        by_variable.env("EPMD_CONFIG", &file);
        let mut with_port = as_nobody(host);
        with_port
            .env("EPMD_CONFIG", &file)
            .env("ERL_EPMD_PORT", "4369");
        ways.extend([by_option, by_variable, with_port]);
    }
    ways
}

/// This very call with one more argument.
fn with(host: &Host, way: &Command, arguments: &[&str]) -> Output {
    let mut command = Command::new(way.get_program());
    command.args(way.get_args()).args(arguments).env_clear();
    let variables = way
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    host.run(command.envs(variables))
}

#[test]
fn settings_that_a_user_may_not_read_are_fatal_only_to_a_daemon_that_would_serve_by_them() {
    let host = lone_host();
    let ways = ways(&host);
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    for way in &ways {
        let done = |arguments: &[&str]| with(&host, way, arguments);
        // One runs: that is all that erl wants, and all that it is told.
        assert_eq!(done(&["-daemon"]), Output::new(0, "", ""), "{way:?}");
        assert_eq!(done(&["-started"]), Output::new(0, "", ""), "{way:?}");
        for (command, status) in [("-names", 0), ("-dump", 0), ("-kill", 1)] {
            let output = done(&[command]);
            assert_eq!(
                (output.status, &*output.stderr),
                (Some(status), ""),
                "{way:?} {command}"
            );
            assert!(!output.stdout.is_empty(), "{way:?} {command}");
        }
        let stop = done(&["-stop", "api"]);
        assert_eq!(stop.status, Some(1));
        assert!(!stop.stderr.contains("secret"), "{stop:?}");
        // These ask the daemon, which does not answer this user; the settings have no part in it.
        let status = done(&["-status"]);
        assert!(!status.stderr.contains("secret"), "{status:?}");
        let doctor = done(&["-doctor"]);
        assert_eq!(doctor.stderr, "", "{way:?}");
        assert!(
            !doctor.stdout.contains("can't be read") && !doctor.stdout.contains("cannot be read")
        );
    }
    drop(service);
    for way in &ways {
        // None runs: who would be the daemon, or asks what it would go by, is told.
        for arguments in [
            &["-daemon"][..],
            &[],
            &["-daemon", "-takeover"],
            &["-takeover"],
            &["-check_config"],
        ] {
            let output = with(&host, way, arguments);
            assert_eq!(output.status, Some(78), "{way:?} {arguments:?} {output:?}");
            let told = "cannot be read: permission denied; expected a readable file";
            assert_eq!(output.stderr.matches(told).count(), 1, "{output:?}");
        }
        let started = with(&host, way, &["-started"]);
        assert_eq!(started, Output::new(1, "", ""), "{way:?}");
        let names = with(&host, way, &["-names"]);
        assert_eq!(
            names.stderr, "epmd: Cannot connect to local epmd\n",
            "{way:?}"
        );
    }
}
