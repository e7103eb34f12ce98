//! The completions in real shells, with a real epmd that has names, wicked ones among them.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::gethostname;

use super::common::binary::{Epmd, finish};
use super::common::daemon::{Daemon, Setup};
use super::path;

/// A shell's view of the completion of a line.
type Complete = fn(&Scene, &str) -> Vec<String>;

const SHELLS: [(&str, Complete); 3] = [("bash", bash), ("zsh", zsh), ("fish", fish)];

/// A folder with a file in it, an epmd in the `PATH`, and one that runs.
struct Scene {
    folder: tempfile::TempDir,
    daemon: Daemon,
    _nodes: Vec<TcpStream>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(Epmd::Ours.path(), folder.path().join("bin/epmd")).unwrap();
        fs::write(folder.path().join("my settings.toml"), "").unwrap();
        let daemon = Setup::of(Epmd::Ours).start();
        // What a shell would run, and what would end a line of it.
        let wicked = [
            "$(touch${IFS}ran)",
            "`touch${IFS}ran`",
            "a;touch${IFS}ran",
            "x'y",
            "ap\"i",
        ];
        let names = ["api", "wg_man"].into_iter().chain(wicked);
        let nodes = names.map(|name| daemon.hold(name)).collect();
        Self {
            folder,
            daemon,
            _nodes: nodes,
        }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A shell that starts in the folder.
    fn shell(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let bin = self.file("bin");
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TERM", "dumb")
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        command
    }
}

/// Quoted for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn sorted(output: &str) -> Vec<String> {
    let mut lines: Vec<_> = output.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.is_empty());
    lines.sort();
    lines.dedup();
    lines
}

/// The words that bash would put in place of the last one.
fn bash(scene: &Scene, line: &str) -> Vec<String> {
    // What bash's own reader does: words broken at COMP_WORDBREAKS, and what is found put behind the last break.
    let script = format!(
        r#"source {}
        complete -p epmd >/dev/null || exit 9
        HOSTNAME={}
        COMP_LINE={} COMP_POINT=${{#COMP_LINE}}
        read -ra COMP_WORDS <<<"$COMP_LINE"
        COMP_CWORD=${{#COMP_WORDS[@]}}
        _epmd epmd
        word=${{COMP_LINE##* }}
        for found in "${{COMPREPLY[@]}}"; do printf '%s\n' "${{word%"${{word##*[=:@]}}"}}$found"; done"#,
        quoted(path("completions/epmd.bash").to_str().unwrap()),
        hostname(),
        quoted(line),
    );
    let output = finish(&mut scene.shell("bash", &["--norc", "-c", &script]));
    assert_eq!((output.status, &*output.stderr), (Some(0), ""), "{line}");
    sorted(&output.stdout)
}

/// What zsh's own completion adds, heard by a `compadd` in place of its own.
fn zsh(scene: &Scene, line: &str) -> Vec<String> {
    let script = format!(
        r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'PS1=; fpath=({} $fpath); autoload -Uz compinit; compinit -u -D'
        zpty -w shell 'compadd () {{
            if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
            typeset -a __hits; builtin compadd -A __hits "$@"; builtin compadd "$@"
            for __hit in $__hits; do print -r -- "HIT<$__hit>"; done
        }}'
        zpty -w shell 'null-line () {{ zle kill-whole-line; print "EN""DED" }}; zle -N null-line; bindkey "^M" null-line; bindkey "^J" null-line; bindkey "^I" complete-word; print REA""DY'
        zpty -m shell seen '*READY*'
        zpty -n -w shell {}$'\t'
        zpty -n -w shell $'\n'
        zpty -r -m shell seen '*ENDED*'
        print -r -- $seen
        zpty -d shell
        "#,
        quoted(path("completions").to_str().unwrap()),
        quoted(line),
    );
    let script = script.replace("zpty -m shell seen", "zpty -r -m shell seen");
    let output = finish(&mut scene.shell("zsh", &["-f", "-c", &script]));
    assert_eq!(output.status, Some(0), "{line}: {output:?}");
    let hits = output.stdout.split("HIT<").skip(1);
    // As it stands on the line, quoted.
    let hits: Vec<_> = hits
        .filter_map(|hit| Some(hit.split_once('>')?.0.replace('\\', "")))
        .collect();
    sorted(&hits.join("\n"))
}

/// What fish's own engine gives.
fn fish(scene: &Scene, line: &str) -> Vec<String> {
    let script = format!(
        "source {}; complete -C {}",
        quoted(path("completions/epmd.fish").to_str().unwrap()),
        quoted(line).replace("'\\''", "\\'"),
    );
    let output = finish(&mut scene.shell("fish", &["--no-config", "-c", &script]));
    assert_eq!((output.status, &*output.stderr), (Some(0), ""), "{line}");
    let words = output
        .stdout
        .lines()
        .map(|line| line.split('\t').next().unwrap());
    sorted(&words.collect::<Vec<_>>().join("\n"))
}

fn hostname() -> String {
    gethostname().unwrap().into_string().unwrap()
}

/// The node's possible full names here.
fn here(name: &str) -> Vec<String> {
    let full = hostname();
    let short = full.split('.').next().unwrap().to_owned();
    let mut nodes: Vec<_> = [short, full].map(|host| format!("{name}@{host}")).into();
    nodes.sort();
    nodes.dedup();
    nodes
}

#[test]
fn each_shell_understands_its_file() {
    for (shell, file) in [
        ("bash", "completions/epmd.bash"),
        ("zsh", "completions/_epmd"),
        ("fish", "completions/epmd.fish"),
    ] {
        let check = finish(Command::new(shell).arg("-n").arg(path(file)));
        assert_eq!((check.status, &*check.stderr), (Some(0), ""), "{shell}");
    }
}

#[test]
fn every_shell_offers_options_files_and_the_names_of_the_local_epmd() {
    let scene = Scene::new();
    let port = scene.daemon.port.to_string();
    for (shell, complete) in SHELLS {
        let offered = |line: &str| complete(&scene, line);
        assert_eq!(offered("epmd -check_"), ["-check_config"], "{shell}");
        assert!(
            offered("epmd -takeo").contains(&"-takeover".to_owned()),
            "{shell}"
        );
        let forced = offered("epmd -takeover=f");
        assert!(
            forced.len() == 1 && forced[0].ends_with("force"),
            "{shell}: {forced:?}"
        );
        let all = offered("epmd -");
        for option in [
            "-address", "-doctor", "-stop", "-version", "-status", "-socket",
        ] {
            assert!(
                all.iter().any(|it| it == option),
                "{shell}: {option} in {all:?}"
            );
        }
        assert_eq!(offered("epmd -config my"), ["my settings.toml"], "{shell}");
        assert_eq!(offered("epmd -proto_dist inet6"), ["inet6_tcp"], "{shell}");
        assert_eq!(
            offered(&format!("epmd -port {port} -stop ")),
            ["api", "wg_man"],
            "{shell}"
        );
        let doctor = format!("epmd -port {port} -doctor ");
        let both: Vec<_> = [here("api"), here("wg_man")].concat();
        assert_eq!(offered(&doctor), both, "{shell}");
        assert_eq!(offered(&format!("{doctor}wg")), here("wg_man"), "{shell}");
        let typed = format!("api@{}", &hostname()[..1]);
        assert_eq!(offered(&format!("{doctor}{typed}")), here("api"), "{shell}");
        assert!(
            !Path::new(&scene.file("ran")).exists(),
            "{shell} ran a name"
        );
    }
}

/// A line that is typed, with the key that completes, in a bash that a terminal talks to.
#[test]
fn bash_completes_what_is_typed() {
    let scene = Scene::new();
    let typed = format!(
        "source {}\nbind 'set bell-style none'\nepmd -port {} -stop wg\t\nepmd -port {} -nam\t\nexit\n",
        quoted(path("completions/epmd.bash").to_str().unwrap()),
        scene.daemon.port,
        scene.daemon.port,
    );
    let mut script = scene.shell(
        "script",
        &["-qec", "bash --norc --noprofile -i", "/dev/null"],
    );
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    // The first is refused, as the daemon was started without -relaxed_command_check; the second lists.
    assert!(seen.contains("local epmd responded with <>"), "{seen}");
    assert!(seen.contains("name wg_man at port"), "{seen}");
}
