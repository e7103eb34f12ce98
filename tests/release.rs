//! What `release/build` makes, looked at without installing it: contents, scripts, dependencies, sizes, the
//! bill of materials, and that the same tree gives the same bytes anywhere. tests/packages installs it.
//!
//! Needs the packages that `release/build --draft --into target/packages` makes (tests/run does).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hardened_epmd::config::KEYS;

/// What the .deb may weigh.
const MOST_BYTES: u64 = 1_572_864;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> PathBuf {
    root().join("target/packages")
}

/// The one file of this kind.
fn package(end: &str) -> PathBuf {
    let folder = packages();
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!("{folder:?}: {error}; release/build --draft --into target/packages makes it")
    });
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(end));
    let path = found.next().unwrap_or_else(|| panic!("no {end}"));
    assert!(found.next().is_none(), "two {end}");
    path
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A shell's command line, which must succeed, with these as `$1` and so on.
fn must(script: &str, arguments: &[&Path]) -> String {
    let output = run(Command::new("bash")
        .args(["-euo", "pipefail", "-c", script, "bash"])
        .args(arguments));
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names in a folder of the tree, which need not be there.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The lines of a text.
fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// Version of Cargo.toml.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn there_are_five_files_and_their_sums_are_right() {
    for end in [".deb", ".rpm", ".tar.gz", ".cdx.json"] {
        let name = package(end);
        let name = name.file_name().unwrap().to_str().unwrap();
        assert!(name.contains(VERSION), "{name}");
    }
    let checked = must("cd \"$1\" && sha256sum -c SHA256SUMS", &[&packages()]);
    assert_eq!(checked.matches(": OK").count(), 4, "{checked}");
    assert_eq!(fs::read_dir(packages()).unwrap().count(), 5);
}

#[test]
fn the_deb_is_small_and_needs_neither_erlang_nor_systemd() {
    let deb = package(".deb");
    let size = fs::metadata(&deb).unwrap().len();
    assert!(size < MOST_BYTES, "{size} bytes");
    let fields = must("dpkg-deb --field \"$1\"", &[&deb]);
    let field = |name: &str| {
        let mut all = fields.lines();
        all.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    assert_eq!(field("Version"), Some(VERSION));
    for name in ["Depends", "Pre-Depends", "Recommends"] {
        let value = field(name).unwrap_or_default();
        assert!(
            !value.contains("erlang") && !value.contains("systemd"),
            "{name}: {value}"
        );
    }
    for name in ["Conflicts", "Breaks", "Replaces", "Provides"] {
        assert_eq!(field(name), None);
    }
    let scripts = must(
        "t=$(mktemp -d); dpkg-deb --control \"$1\" $t
         for script in preinst postinst postrm; do sh -n $t/$script; if grep @ $t/$script | grep COMMON; then exit 1; fi; done
         cat $t/conffiles; rm -r $t",
        &[&deb],
    );
    assert_eq!(scripts, "/etc/epmd.toml\n");
}

#[test]
fn the_deb_has_every_unit_and_masks_those_that_would_hold_the_port() {
    let list = must(
        "dpkg-deb --contents \"$1\" | awk '{print $1, $2, $6, $7, $8}'",
        &[&package(".deb")],
    );
    let list = lines(&list);
    let mut wanted = vec![
        "-rwxr-xr-x root/root ./usr/bin/epmd  ".to_owned(),
        "-rw-r----- root/root ./etc/epmd.toml  ".to_owned(),
        "lrwxrwxrwx root/root ./usr/lib/systemd/system/epmd.socket -> /dev/null".to_owned(),
        "lrwxrwxrwx root/root ./usr/lib/systemd/system/epmd@.socket -> /dev/null".to_owned(),
        "-rw-r--r-- root/root ./usr/lib/sysusers.d/hardened-epmd.conf  ".to_owned(),
        "-rw-r--r-- root/root ./usr/lib/systemd/catalog/hardened-epmd.catalog  ".to_owned(),
        "-rw-r--r-- root/root ./usr/share/doc/hardened-epmd/examples/default-epmd  ".to_owned(),
    ];
    for name in files("systemd") {
        if name.ends_with(".service") || name.ends_with(".socket") {
            wanted.push(format!(
                "-rw-r--r-- root/root ./usr/lib/systemd/system/{name}  "
            ));
        }
    }
    for page in files("man") {
        let section = page.rsplit('.').next().unwrap();
        wanted.push(format!(
            "-rw-r--r-- root/root ./usr/share/man/man{section}/{page}.gz  "
        ));
    }
    for completion in files("completions") {
        let place = match completion.rsplit('.').next().unwrap() {
            "bash" => "bash-completion/completions/epmd",
            "fish" => "fish/vendor_completions.d/epmd.fish",
            _ => "zsh/vendor-completions/_epmd",
        };
        wanted.push(format!("-rw-r--r-- root/root ./usr/share/{place}  "));
    }
    for line in wanted {
        assert!(list.contains(line.as_str()), "no {line:?} in {list:#?}");
    }
    assert!(
        !list.iter().any(|line| line.contains("/etc/default")),
        "{list:#?}"
    );
}

/// The file of settings says nothing, shows what can be said, and what it shows is good.
#[test]
fn the_settings_that_come_along_are_all_commented_out() {
    let text = must(
        "dpkg-deb --fsys-tarfile \"$1\" | tar -xO ./etc/epmd.toml",
        &[&package(".deb")],
    );
    assert!(
        text.lines()
            .all(|line| line.is_empty() || line.starts_with('#')),
        "{text}"
    );
    let shown: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("epmd.toml");
    fs::write(&file, &shown).unwrap();
    let output = run(Command::new(env!("CARGO_BIN_EXE_epmd"))
        .arg("-config")
        .arg(&file)
        .arg("-check_config")
        .env_clear());
    assert!(output.status.success(), "{output:?}\n{shown}");
    let missing: Vec<_> = KEYS
        .iter()
        .map(|key| key.path.rsplit('.').next().unwrap())
        .filter(|key| !shown.contains(&format!("{key} = ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_rpm_has_a_program_and_units_of_its_own_and_touches_nothing_else() {
    let rpm = package(".rpm");
    let files = must(
        "rpm -qp --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\\n]' \"$1\"",
        &[&rpm],
    );
    let files = lines(&files);
    for wanted in [
        "-rwxr-xr-x root:root /usr/libexec/hardened-epmd/epmd",
        "-rw-r--r-- root:root /usr/lib/systemd/system/hardened-epmd.service",
        "-rw-r--r-- root:root /usr/lib/systemd/system/hardened-epmd.socket",
        "-rw-r----- root:epmd /etc/epmd.toml",
        "-rw-r--r-- root:root /usr/share/doc/hardened-epmd/README.rpm",
        "-rw-r--r-- root:root /usr/share/doc/hardened-epmd/examples/epmd.service",
    ] {
        assert!(files.contains(wanted), "no {wanted:?} in {files:#?}");
    }
    for others in ["/usr/bin/epmd", "/system/epmd.", "/system/epmd@"] {
        assert!(!files.iter().any(|line| line.contains(others)), "{others}");
    }
    let unit = must(
        "t=$(mktemp -d); cd $t; rpm2cpio \"$1\" | cpio -idm --quiet; grep -h /epmd usr/lib/systemd/system/*.service; rm -r $t",
        &[&rpm],
    );
    assert!(
        unit.contains("ExecStart=/usr/libexec/hardened-epmd/epmd -systemd\n"),
        "{unit}"
    );
    assert!(
        unit.contains("ExecStartPre=+/usr/libexec/hardened-epmd/epmd -takeover -systemd\n"),
        "{unit}"
    );
    assert!(!unit.contains("/usr/bin/epmd"), "{unit}");
}

#[test]
fn the_rpm_needs_libc_alone_and_its_scriptlets_are_a_shells() {
    let rpm = package(".rpm");
    let needs = must("rpm -qp --requires \"$1\"", &[&rpm]);
    for need in needs.lines() {
        let known = [
            "/bin/sh",
            "/usr/bin/getent",
            "/usr/sbin/",
            "config(",
            "libc.so.6",
            "libgcc_s.so.1",
            "rpmlib(",
            "rtld(",
        ];
        // The loader, by name.
        let is_known = known.iter().any(|it| need.starts_with(it)) || need.starts_with("ld-linux");
        assert!(is_known, "{need}");
    }
    for kind in ["PREIN", "POSTIN", "PREUN", "POSTUN"] {
        let script = must(
            &format!("rpm -qp --queryformat '%{{{kind}}}' \"$1\""),
            &[&rpm],
        );
        assert!(script.ends_with("exit 0"), "{kind}: {script}");
        must("sh -n -c \"$1\"", &[Path::new(&script)]);
    }
    let output = run(Command::new("rpmlint")
        .arg("-c")
        .arg(root().join("release/rpm/rpmlint.toml"))
        .arg(&rpm));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(" 0 errors, 0 warnings"), "{said}");
}

/// No libc, no /etc, no /proc: as in a container that is made from nothing, and on a host with another libc.
#[test]
fn the_static_binary_serves_and_asks_in_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    must(
        "tar -xzf \"$1\" -C \"$2\" --strip-components=1 --wildcards '*/epmd'",
        &[&package(".tar.gz"), folder.path()],
    );
    let version = in_chroot(folder.path(), "/epmd -version");
    assert_eq!(version, format!("hardened-epmd {VERSION}\n"));
    // A network of its own, whose loopback is up.
    let session = "ip link set lo up; chroot $1 /epmd 2>$1/log & epmd=$!
        until chroot $1 /epmd -started; do kill -0 $epmd; sleep 0.02; done
        chroot $1 /epmd -names; chroot $1 /epmd -doctor -json api@named.test || :
        chroot $1 /epmd -kill; wait $epmd";
    let said = in_namespaces(folder.path(), session);
    assert!(
        said.starts_with("epmd: up and running on port 4369 with data:\n"),
        "{said}"
    );
    // Without a resolver it says why not.
    assert!(
        said.contains("\"verdict\": \"unresolved\"") || said.contains("\"verdict\":\"unresolved\""),
        "{said}"
    );
    assert!(
        said.contains("failed to lookup address information"),
        "{said}"
    );
    assert!(said.ends_with("Killed\n"), "{said}");
    // And by the files of a host that has no libc of ours: Alpine's have these.
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(
        folder.path().join("etc/hosts"),
        "127.0.0.1 localhost\n127.0.0.9 named.test\n",
    )
    .unwrap();
    let said = in_namespaces(folder.path(), session);
    assert!(said.contains("127.0.0.9"), "{said}");
    assert!(said.contains("not_registered"), "{said}");
}

/// Runs a program in a folder that is its whole world.
fn in_chroot(folder: &Path, command: &str) -> String {
    in_namespaces(folder, &format!("chroot $1 {command}"))
}

/// Runs a script in namespaces of its own, with the folder as `$1`.
fn in_namespaces(folder: &Path, script: &str) -> String {
    let output = run(Command::new("unshare")
        .args([
            "--map-root-user",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .args(["bash", "-euc", script, "bash"])
        .arg(folder)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_bill_of_materials_has_every_crate_of_the_binary() {
    let text = fs::read_to_string(package(".cdx.json")).unwrap();
    let bill: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    assert_eq!(bill["metadata"]["component"]["version"], VERSION);
    let components = bill["components"].as_array().unwrap();
    let listed: BTreeSet<_> = components
        .iter()
        .map(|it| {
            format!(
                "{} v{}",
                it["name"].as_str().unwrap(),
                it["version"].as_str().unwrap()
            )
        })
        .collect();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let tree = must(
        "cd \"$1\" && cargo tree --locked --edges normal --prefix none --target \"$2\" | cut -d' ' -f1,2 | sort -u",
        &[root(), Path::new(&target)],
    );
    let tree: BTreeSet<_> = tree
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("hardened-epmd "))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, tree);
    for component in components {
        for part in ["purl", "licenses", "hashes"] {
            assert!(!component[part].is_null(), "{part}: {component}");
        }
    }
}

/// A checkout in a folder of its own, with what is in no commit yet.
fn checkout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    must(
        "git clone --quiet --no-hardlinks \"$1\" \"$2/tree\"
         cd \"$1\" && git ls-files -z --cached --others --exclude-standard |
             { xargs -0 ls -d 2>/dev/null || :; } | tar -c -T - | tar -x -C \"$2/tree\"
         cd \"$2/tree\" && git add -A && git -c user.name=t -c user.email=t@t commit --quiet --allow-empty -m test",
        &[root(), folder.path()],
    );
    folder
}

/// What release/build says, which refuses before it builds anything.
fn refusal(tree: &Path) -> String {
    let output = run(Command::new(tree.join("release/build")).current_dir(tree));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!tree.join("dist").exists() && !tree.join("target").exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_tree_that_nobody_could_have_again_is_not_released() {
    let folder = checkout();
    let tree = folder.path().join("tree");
    fs::write(tree.join("src/more.rs"), "").unwrap();
    let said = refusal(&tree);
    assert!(
        said.contains("changes that are in no commit") && said.contains("src/more.rs"),
        "{said}"
    );
    fs::remove_file(tree.join("src/more.rs")).unwrap();
    let changelog = fs::read_to_string(tree.join("CHANGELOG.md")).unwrap();
    fs::write(
        tree.join("CHANGELOG.md"),
        changelog.replacen(&format!("## {VERSION}"), "## 0.0.1", 1),
    )
    .unwrap();
    must(
        "cd \"$1\" && git -c user.name=t -c user.email=t@t commit --quiet -am test",
        &[&tree],
    );
    let said = refusal(&tree);
    assert!(
        said.contains("begins with version 0.0.1") && said.contains(VERSION),
        "{said}"
    );
    fs::remove_dir_all(tree.join(".git")).unwrap();
    fs::write(tree.join("CHANGELOG.md"), changelog).unwrap();
    let said = refusal(&tree);
    assert!(said.contains("no git checkout"), "{said}");
}

/// Unoptimized, which is quicker; with EPMD_TEST_LONG=1 as it is released.
#[test]
#[ignore = "four builds from nothing: tests/run --long has it"]
fn two_folders_give_the_same_bytes() {
    let long = std::env::var_os("EPMD_TEST_LONG").is_some_and(|value| value == "1");
    let mut sums = BTreeSet::new();
    for name in ["one", "another folder/of another length"] {
        let folder = checkout();
        let tree = folder.path().join(name);
        fs::create_dir_all(tree.parent().unwrap()).unwrap();
        fs::rename(folder.path().join("tree"), &tree).unwrap();
        // The commits' own times differ.
        let output = run(Command::new(tree.join("release/build"))
            .args(if long {
                &["--draft"][..]
            } else {
                &["--draft", "--quick"]
            })
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .current_dir(folder.path()));
        assert!(output.status.success(), "{output:?}");
        let made = tree.join("dist");
        sums.insert(fs::read_to_string(made.join("SHA256SUMS")).unwrap());
        // Nothing tells where it was made.
        let place = folder.path().to_str().unwrap();
        let binaries = must(
            "cd \"$1\"; t=$(mktemp -d); tar -xzf *.tar.gz -C $t; dpkg-deb -x *.deb $t/deb
             grep -rlF -e \"$2\" -e \"${CARGO_HOME:-$HOME/.cargo}\" $t || :; rm -r $t",
            &[&made, Path::new(place)],
        );
        assert_eq!(binaries, "");
    }
    assert_eq!(sums.len(), 1, "{sums:#?}");
}
