//! Containers: epmd as process 1, or started by an erl that is, with no rights, no /run and nothing to write to;
//! and the files of other service managers that the documents show.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::binary::{Epmd, finish};
use super::common::host::process;
use super::common::netns::{EPMD, Host, lone_host};
use super::common::wait_for;
use super::common::wire::Answer;
use super::{block, copy, read, wait_until_in};

/// A program with process numbers and a /proc of its own, in which it is number 1, its standard error in a file.
struct Container {
    child: Child,
    stderr: PathBuf,
}

impl Container {
    /// A shell's script as its first process.
    fn run(host: &Host, script: &str) -> Self {
        let stderr = host.file("stderr");
        let file = fs::File::create(&stderr).unwrap();
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .stderr(file);
        let child = host.spawn(&mut unshare);
        Self { child, stderr }
    }

    /// Its first process, as this host knows it.
    fn first(&self) -> u32 {
        let parent = self.child.id().to_string();
        let is_its = |pid: &u32| process::stat(*pid).is_some_and(|fields| fields[1] == parent);
        wait_for("the first process", || {
            process::all().into_iter().find(is_its)
        })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.first().cast_signed()), signal).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes whose parent is this one.
fn children(of: u32) -> Vec<u32> {
    let of = of.to_string();
    let is_child = |pid: &u32| process::stat(*pid).is_some_and(|fields| fields[1] == of);
    process::all().into_iter().filter(is_child).collect()
}

fn answers(host: &Host) -> bool {
    let there = std::net::Ipv4Addr::LOCALHOST.into();
    host.try_connect(there).is_ok() && matches!(host.ask(there, b"n"), Answer::Bytes(_))
}

#[test]
fn as_process_1_it_heeds_signals_and_has_orphans_gone() {
    let host = lone_host();
    for (signal, ends_before) in [(Signal::SIGTERM, "true &"), (Signal::SIGINT, "sleep 0.3 &")] {
        // A child of its own from before exec that has ended, or will; and one whose parent ends later.
        let script = format!(
            "{ends_before} (sleep 0.3; (sleep 0.3 &)) & sleep 0.1; exec {}",
            copy(&host).display()
        );
        let mut container = Container::run(&host, &script);
        wait_for("the daemon", || answers(&host).then_some(()));
        let first = container.first();
        assert_eq!(process::name(first), "epmd");
        wait_for("the orphans to be gone", || {
            children(first).is_empty().then_some(())
        });
        container.signal(Signal::SIGHUP);
        wait_until_in(&container.stderr, "reloaded: ");
        assert!(answers(&host));
        container.signal(signal);
        let ended = wait_for("its end", || container.child.try_wait().unwrap());
        assert_eq!(
            ended.code(),
            Some(0),
            "{signal} {}",
            read(&container.stderr)
        );
    }
}

#[test]
fn an_erl_without_rights_in_a_container_that_is_read_only_starts_one_whose_lines_are_the_containers()
 {
    let host = lone_host();
    let binary = copy(&host);
    let settings = host.file("epmd.toml");
    fs::write(&settings, "[audit]\nfile = \"/proc/1/fd/2\"\n").unwrap();
    // As an image has it: ours over the one that the release brings.
    let theirs = glob_one("/usr/lib/erlang", "erts-", "bin/epmd");
    let script = format!(
        "mount --bind {} {} && mount -t tmpfs -o ro none /run && mount -o remount,bind,ro / || exit 1
         exec setpriv --reuid=65534 --regid=65534 --clear-groups env EPMD_CONFIG={} HOME=/ \
            erl -name a@127.0.0.1 -setcookie x -noinput -eval 'receive after infinity -> ok end.'",
        binary.display(),
        theirs.display(),
        settings.display(),
    );
    let container = Container::run(&host, &script);
    wait_for("the node's name", || {
        let there = std::net::Ipv4Addr::LOCALHOST.into();
        let is_there = host.try_connect(there).is_ok()
            && matches!(host.ask(there, b"za"), Answer::Bytes(bytes) if bytes.starts_with(b"w\0"));
        is_there.then_some(())
    });
    wait_until_in(&container.stderr, " epmd: serving this host alone\n");
    let said = read(&container.stderr);
    assert!(
        said.contains(&format!("listening on 0.0.0.0:{EPMD}")),
        "{said}"
    );
    assert!(!said.contains("can't be written"), "{said}");
    // Ours it is, in the background, and a refusal of what may not be done is told there as well.
    assert!(finish_on(&host, &["-kill"]).contains("Killing not allowed"));
    wait_until_in(&container.stderr, "refused kill from ");
}

fn finish_on(host: &Host, arguments: &[&str]) -> String {
    host.run(Epmd::Ours.command().args(arguments)).stdout
}

/// The one path of this form.
fn glob_one(folder: &str, begins: &str, rest: &str) -> PathBuf {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found = entries.filter(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(begins)
    });
    found.next().unwrap().join(rest)
}

#[test]
fn runit_runs_it_by_the_script_of_the_documents() {
    let host = lone_host();
    let service = host.file("service");
    let run = service.join("run");
    fs::create_dir(&service).unwrap();
    let script =
        block("### runit", "sh").replace("/usr/local/bin/epmd", copy(&host).to_str().unwrap());
    fs::write(&run, script).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    let log = host.file("log");
    let mut runsv = host.spawn(
        Command::new("runsv")
            .arg(&service)
            .stdout(fs::File::create(&log).unwrap())
            .stderr(Stdio::null()),
    );
    wait_for("the daemon", || answers(&host).then_some(()));
    wait_until_in(&log, "serving this host alone");
    let sv = |word: &str| host.run(Command::new("sv").arg(word).arg(&service));
    assert_eq!(sv("hup").status, Some(0));
    wait_until_in(&log, "reloaded: ");
    // Another one in its place when it ends.
    assert_eq!(host.run(Epmd::Ours.command().arg("-kill")).status, Some(0));
    wait_for("the next daemon", || {
        (read(&log).matches("serving this host alone").count() >= 3).then_some(())
    });
    assert_eq!(sv("stop").status, Some(0));
    let pid = Pid::from_raw(runsv.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    wait_for("its end", || runsv.try_wait().unwrap());
}

#[test]
fn the_script_for_openrc_and_the_containerfile_name_what_there_is() {
    let script = block("### OpenRC", "sh");
    assert!(script.starts_with("#!/sbin/openrc-run\n"));
    assert_eq!(
        finish(Command::new("sh").args(["-n", "-c", &script])).status,
        Some(0)
    );
    // Its words as a shell has them once it is read: the command takes its arguments.
    let asked = format!(
        "{script}\nexec {} $command_args -check_config",
        Epmd::Ours.path().display()
    );
    let check = finish(
        Command::new("sh")
            .args(["-c", &asked])
            .env("EPMD_CONFIG", no_settings()),
    );
    assert_eq!(check.status, Some(0), "{check:?}");
    // Its reload and its needs, with OpenRC's words in place of OpenRC.
    let calls = format!(
        "need() {{ :; }}; start_stop_daemon() {{ :; }}; ebegin() {{ :; }}; eend() {{ return $1; }}\n\
         start-stop-daemon() {{ printf '%s\\n' \"$*\"; }}\n{script}\ndepend && reload"
    );
    let reload = finish(
        Command::new("bash")
            .args(["-c", &calls])
            .env("RC_SVCNAME", "epmd"),
    );
    assert_eq!(
        (reload.status, &*reload.stderr),
        (Some(0), ""),
        "{reload:?}"
    );
    assert_eq!(reload.stdout, "--signal HUP --pidfile /run/epmd.pid\n");
    let containerfile = block("### In an image", "dockerfile");
    let lines: Vec<_> = containerfile.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, word) in lines.iter().zip(["FROM ", "COPY ", "RUN ", "ENV "]) {
        assert!(line.starts_with(word), "{line}");
    }
    // What RUN does, on a release.
    let release = tempfile::tempdir().unwrap();
    let bin = release.path().join("erts-13.1.5/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("epmd"), "stock").unwrap();
    let ours = release.path().join("epmd");
    fs::write(&ours, "ours").unwrap();
    let run = lines[2].strip_prefix("RUN ").unwrap();
    let run = run
        .replace("/usr/local/bin/epmd", ours.to_str().unwrap())
        .replace("/app", release.path().to_str().unwrap());
    let done = finish(Command::new("sh").args(["-c", &run]));
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(fs::read_to_string(bin.join("epmd")).unwrap(), "ours");
    // What ENV has the daemon read.
    let variable = lines[3].strip_prefix("ENV ").unwrap();
    let (name, value) = variable.split_once('=').unwrap();
    assert!(lines[1].contains("epmd.toml /usr/local/bin/") && value == "/usr/local/bin/epmd.toml");
    let settings = release.path().join("epmd.toml");
    fs::write(&settings, block("### In an image", "toml")).unwrap();
    let mut check = Epmd::Ours.command();
    check.arg("-check_config").env(name, &settings);
    let checked = finish(&mut check);
    assert!(
        checked.stdout.contains("audit.file: /proc/1/fd/2 ["),
        "{checked:?}"
    );
}

/// A file that sets nothing.
fn no_settings() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/nothing.toml")
}
