//! `[audit] file`: what is in the file, and what becomes of lines when it can't be written.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use nix::libc::O_NONBLOCK;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::common::binary::Epmd;
use super::common::host::process;
use super::common::netns::{Host, lone_host};
use super::common::service::{Launch, Service};
use super::common::wait_for;
use super::{block, empty, read, wait_until_in};

/// A file of settings whose lines go there.
fn to(path: &Path, more: &str) -> String {
    format!("[audit]\nfile = \"{}\"\n{more}", path.display())
}

/// Our epmd with lines that go there, started with an umask that keeps others out.
fn start<'h>(host: &'h Host, path: &Path) -> Service<'h> {
    let umask = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    Launch::on(host)
        .config(&to(path, ""))
        .wrapped(&umask)
        .start()
}

/// Has it read its settings again, which makes a line.
fn hup(service: &Service<'_>) {
    service.signal(Signal::SIGHUP);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn lines_are_appended_to_a_file_that_may_be_renamed_or_cut_off() {
    let host = lone_host();
    let file = host.file("epmd.log");
    fs::write(&file, "before\n").unwrap();
    let service = start(&host, &file);
    wait_until_in(&file, "epmd: serving this host alone\n");
    assert!(read(&file).starts_with("before\n"));
    assert_eq!(service.said(), "");
    // Renamed, and SIGHUP: a new file, whatever the umask; with bad settings as well.
    for (turn, settings) in [(1, to(&file, "")), (2, to(&file, "bogus = 1\n"))] {
        let old = host.file(&format!("epmd.log.{turn}"));
        fs::rename(&file, &old).unwrap();
        fs::write(service.config(), settings).unwrap();
        let before = read(&old);
        hup(&service);
        wait_until_in(&file, "reloaded");
        assert_eq!(mode(&file), 0o640);
        assert_eq!(read(&old), before);
    }
    // Cut off: what follows begins at its beginning.
    fs::write(service.config(), to(&file, "")).unwrap();
    File::create(&file).unwrap();
    hup(&service);
    wait_until_in(&file, "reloaded: ");
    assert!(!read(&file).contains('\0'));
    // Another file, and another form.
    let other = host.file("epmd.json");
    fs::write(service.config(), to(&other, "format = \"json\"\n")).unwrap();
    hup(&service);
    wait_until_in(&other, "reloaded: ");
    for line in read(&other).lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "{line}"
        );
    }
    // And none: standard error again.
    fs::write(service.config(), "").unwrap();
    hup(&service);
    service.wait_until_said("reloaded: ");
}

#[test]
fn logrotate_renames_it_by_the_lines_of_the_documents() {
    let host = lone_host();
    let file = host.file("epmd.log");
    let service = start(&host, &file);
    wait_until_in(&file, "serving this host alone\n");
    let rules =
        block("logrotate\nmay rename it", "").replace("/var/log/epmd.log", file.to_str().unwrap());
    let path = host.file("logrotate.conf");
    fs::write(&path, rules).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // Its pkill is to see the processes of this host alone.
    let script = format!(
        "mount -t proc proc /proc && logrotate -f -s {} {}",
        host.file("state").display(),
        path.display()
    );
    let done = host.run(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!((done.status, &*done.stderr), (Some(0), ""), "{done:?}");
    wait_until_in(&file, "reloaded: ");
    assert!(read(&host.file("epmd.log.1")).ends_with("serving this host alone\n"));
    assert_eq!(service.said(), "");
}

#[test]
fn a_file_that_cannot_be_written_is_told_once_and_tried_again() {
    let host = lone_host();
    let folder = host.file("missing");
    let pipe = host.file("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    let socket = host.file("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let (of_folder, full) = (folder.join("epmd.log"), host.file("full"));
    let blocked = host.file("blocked");
    fs::create_dir(&blocked).unwrap();
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    for (path, why) in [
        (&*of_folder, "No such file or directory"),
        (&*full, "No space left on device"),
        (&*pipe, "nobody reads at its other end"),
        (&*socket, "this is a socket; expected a file or a pipe"),
        (&*blocked, "this is a folder; expected a file or a pipe"),
    ] {
        let service = start(&host, path);
        service.wait_until_said("serving this host alone");
        let told = format!("audit.file: {}: can't be written: {why}", path.display());
        for turn in 1..4 {
            hup(&service);
            wait_for("a line", || {
                (service.said().matches("reloaded: ").count() == turn).then_some(())
            });
        }
        assert_eq!(
            service.said().matches("can't be written").count(),
            1,
            "{}",
            service.said()
        );
        assert!(service.said().contains(&told), "{}", service.said());
        assert!(
            service
                .said()
                .contains("until it can, lines go to stderr, as text")
        );
        service.assert_alive();
        if path == blocked {
            fs::remove_dir(&blocked).unwrap();
            wait_for("the file", || {
                hup(&service);
                read(path).contains("reloaded: ").then_some(())
            });
            let text = read(path);
            let first = text.lines().next().unwrap();
            assert!(first.contains("could not be written from 20"), "{first}");
            assert!(first.ends_with(" lines went to stderr, as text"), "{first}");
        }
    }
}

#[test]
fn a_full_disk_leaves_no_line_in_two() {
    let host = lone_host();
    let nothing = None::<&str>;
    host.enter(|| {
        let size = Some("size=16k");
        nix::mount::mount(
            nothing,
            "/mnt",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            size,
        )
        .unwrap();
    });
    let fill = |bytes: usize| host.enter(|| drop(fs::write("/mnt/filler", vec![b'x'; bytes])));
    let service = start(&host, Path::new("/mnt/epmd.log"));
    let text = || host.enter(|| read(Path::new("/mnt/epmd.log")));
    wait_for("a line", || text().contains("serving this").then_some(()));
    fill(1 << 20);
    // The page of the file that is there has room for some lines.
    wait_for("the disk to be full", || {
        hup(&service);
        service
            .said()
            .contains("can't be written: No space left on device")
            .then_some(())
    });
    service.assert_alive();
    host.enter(|| fs::remove_file("/mnt/filler")).unwrap();
    wait_for("the file to be written", || {
        hup(&service);
        text().contains("could not be written from").then_some(())
    });
    wait_for("lines behind that", || {
        text()
            .split("could not be written")
            .nth(1)?
            .contains("reloaded: ")
            .then_some(())
    });
    for line in text()
        .lines()
        .filter(|line| line.matches("epmd: ").count() != 1)
    {
        // What was cut off stands alone.
        assert!(
            line.matches("epmd: ").count() == 0 || line.starts_with("20"),
            "{line}"
        );
        assert!(
            !line.contains("epmd: reloaded: serving this host alone20"),
            "{line}"
        );
    }
    assert_eq!(service.said().matches("can't be written").count(), 1);
}

#[test]
fn a_pipe_is_written_while_somebody_reads_and_holds_nobody_up() {
    let host = lone_host();
    let pipe = host.file("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    let open = || {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open(&pipe)
            .unwrap()
    };
    let mut reader = open();
    let settings = to(&pipe, "lookups = true\n");
    let service = Launch::on(&host).config(&settings).start();
    let mut text = String::new();
    let mut read_until = |reader: &mut File, words: &str| {
        wait_for(words, || {
            let mut bytes = [0; 65_536];
            if let Ok(count) = reader.read(&mut bytes) {
                text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            text.contains(words).then(|| std::mem::take(&mut text))
        })
    };
    read_until(&mut reader, "serving this host alone");
    // A reader that reads nothing: each line is longer than a name, and a pipe has 64 KiB.
    for turn in 0..400 {
        service.ask(format!("z{turn}{}", "x".repeat(200)).as_bytes());
    }
    service.assert_alive();
    // It goes, and another one comes.
    drop(reader);
    hup(&service);
    service.wait_until_said("nobody reads at its other end");
    let mut reader = open();
    wait_for("the pipe to be tried again", || {
        hup(&service);
        let mut bytes = [0; 65_536];
        let count = reader.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count])
            .contains("could not be written")
            .then_some(())
    });
    assert_eq!(service.said().matches("can't be written").count(), 1);
}

#[test]
fn a_daemon_in_the_background_writes_to_the_standard_error_that_it_was_started_with() {
    let host = lone_host();
    for name in ["/dev/stderr", "/proc/self/fd/2"] {
        fs::write(host.file("epmd.toml"), to(Path::new(name), "")).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Epmd::Ours.command();
        command
            .arg("-daemon")
            .arg("-config")
            .arg(host.file("epmd.toml"));
        let mut parent = host.spawn(command.stderr(Stdio::from(writer)).stdout(Stdio::null()));
        assert!(parent.wait().unwrap().success());
        drop(command);
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with("serving this host alone\n") {
            assert_eq!(reader.read(&mut byte).unwrap(), 1, "{name}: {text}");
            text.push(byte[0].into());
        }
        // What it leads to later is another thing: it is kept at SIGHUP.
        let settings = host.file("epmd.toml").display().to_string();
        let is_it = |pid: &u32| {
            process::name(*pid) == "epmd" && process::arguments(*pid).contains(&settings)
        };
        let pid = process::all().into_iter().find(is_it).unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGHUP).unwrap();
        while !text.contains("reloaded: ") {
            assert_eq!(reader.read(&mut byte).unwrap(), 1, "{name}: {text}");
            text.push(byte[0].into());
        }
        assert_eq!(host.run(Epmd::Ours.command().arg("-kill")).status, Some(0));
        // It is gone when nobody has the other end any more.
        reader.read_to_string(&mut text).unwrap();
    }
}

#[test]
fn a_daemon_in_the_background_says_where_its_lines_go() {
    let host = lone_host();
    empty(&host, "/run", 0o755);
    let run = |settings: &str| {
        fs::write(host.file("epmd.toml"), settings).unwrap();
        let mut command = Epmd::Ours.command();
        let output = host.run(
            command
                .arg("-daemon")
                .arg("-config")
                .arg(host.file("epmd.toml")),
        );
        assert_eq!(output.status, Some(0), "{output:?}");
        assert_eq!(host.run(Epmd::Ours.command().arg("-kill")).status, Some(0));
        wait_for("its end", || {
            host.enter(|| std::net::TcpListener::bind("127.0.0.1:4369"))
                .ok()
        });
        output.stderr
    };
    let told = run("[audit]\nformat = \"json\"\n");
    assert!(told.starts_with("epmd: nobody will see the log"), "{told}");
    assert!(
        told.contains("audit.format = \"json\"") && told.contains("(audit.file)"),
        "{told}"
    );
    // The remedy; and one that does not work.
    let file = host.file("epmd.log");
    assert_eq!(run(&to(&file, "format = \"json\"\n")), "");
    assert!(read(&file).starts_with("{\"time\":"));
    let told = run(&to(Path::new("/nonexistent/epmd.log"), ""));
    assert!(
        told.starts_with("epmd: audit.file: /nonexistent/epmd.log: can't be written: "),
        "{told}"
    );
    assert!(told.ends_with("lines go nowhere\n"), "{told}");
}
