//! Other people's clients: whom our epmd admits they serve as they always did, whom it refuses learn
//! nothing.
//!
//! Three hosts: `api` with our epmd and a node, `friend` whom its file admits, and `stranger`.
//!
//! - `scene`: these hosts.
//! - `rabbitmq`, `ejabberd`: whole systems, with their own tools.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod ejabberd;
mod rabbitmq;
mod scene;

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::erl::Erl;
use common::netns::Host;
use common::service::Service;
use scene::{COOKIE, Scene, client, run};

/// Debian's jinterface (erlang-jinterface).
const JINTERFACE: &str = "/usr/share/java/OtpErlang.jar";

/// What an Erlang expression gives on a host, in a VM without distribution.
fn erl(host: &Host, expression: &str) -> String {
    let eval = format!("io:format(\"~0p\", [{expression}]), halt(0).");
    run(host, client("erl").args(["-noshell", "-eval", &eval])).stdout
}

#[test]
fn erlangs_erl_epmd() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let port = &scene.port;
    let names = "net_adm:names(\"api.test\")";
    let lookup = "erl_epmd:port_please(\"api\", \"api.test\")";
    assert_eq!(erl(&friend, names), format!("{{ok,[{{\"api\",{port}}}]}}"));
    let found = erl(&friend, lookup);
    assert!(found.starts_with(&format!("{{port,{port},")), "{found}");
    assert_eq!(
        erl(&friend, "erl_epmd:port_please(\"no\", \"api.test\")"),
        "noport"
    );
    assert_eq!(scene.events(), [""; 0]);

    assert_eq!(erl(&stranger, names), "{ok,[]}");
    assert_eq!(erl(&stranger, lookup), "closed");
    assert_eq!(
        scene.events(),
        [
            "refused list from 10.77.0.3: not_allowed",
            "refused lookup of api from 10.77.0.3: not_allowed"
        ]
    );
}

/// What an Elixir script says that starts a node on this host, which has an epmd of its own.
fn elixir(host: &Host, own_name: &str) -> String {
    let script = format!(
        "{{:ok, _}} = Node.start(:\"{own_name}\", :longnames)\n\
         Node.set_cookie(:{COOKIE})\n\
         IO.inspect({{Node.connect(:\"api@api.test\"), Node.list(), :net_adm.names('api.test')}})"
    );
    let output = run(
        host,
        client("elixir").args(["--erl", "-start_epmd false", "-e", &script]),
    );
    assert_eq!(output.status, Some(0), "{output:?}");
    output.stdout
}

#[test]
fn elixirs_node() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let _epmds = [&friend, &stranger].map(|host| Service::start(host, ""));
    let port = &scene.port;
    assert_eq!(
        elixir(&friend, "ex@friend.test"),
        format!("{{true, [:\"api@api.test\"], {{:ok, [{{'api', {port}}}]}}}}\n")
    );
    assert_eq!(
        elixir(&stranger, "ex@stranger.test"),
        "{false, [], {:ok, []}}\n"
    );
    assert_eq!(
        scene.events(),
        [
            "refused lookup of api from 10.77.0.3: not_allowed",
            "refused list from 10.77.0.3: not_allowed"
        ]
    );
}

/// ei, the C library, as `erl_call` uses it.
#[test]
fn cs_erl_call() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let call = |host: &Host| {
        let words = ["-name", "api@api.test", "-c", COOKIE, "-a", "erlang node"];
        run(host, client("erl_call").args(words))
    };
    let admitted = call(&friend);
    assert_eq!(admitted.stdout, "'api@api.test'", "{admitted:?}");
    let refused = call(&stranger);
    assert_eq!(refused.stdout, "", "{refused:?}");
    assert_ne!(refused.status, Some(0));
    assert_eq!(
        scene.events(),
        ["refused lookup of api from 10.77.0.3: not_allowed"]
    );
}

#[test]
fn javas_jinterface() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let _epmds = [&friend, &stranger].map(|host| Service::start(host, ""));
    let classes = api.file("classes");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/Client.java");
    let mut compiler = client("javac");
    compiler.args(["-cp", JINTERFACE, "-d"]).arg(&classes);
    let compiled = run(&api, compiler.arg(source));
    assert_eq!(compiled.status, Some(0), "{compiled:?}");
    let class_path = format!("{JINTERFACE}:{}", classes.display());
    let java = |host: &Host, own_name: &str| {
        let words = ["-cp", &class_path, "Client", own_name, COOKIE];
        run(host, client("java").args(words)).stdout
    };
    let port = &scene.port;
    assert_eq!(
        java(&friend, "java@friend.test"),
        format!("published true\nnames [name api at port {port}]\nport {port}\nping true\n")
    );
    assert_eq!(scene.events(), [""; 0]);
    assert_eq!(
        java(&stranger, "java@stranger.test"),
        "published true\nnames none\nport none\nping false\n"
    );
    let events = scene.events();
    assert_eq!(events[0], "refused list from 10.77.0.3: not_allowed");
    assert!(!events[1..].is_empty());
    for event in &events[1..] {
        assert_eq!(event, "refused lookup of api from 10.77.0.3: not_allowed");
    }
}

/// Builds the crate that uses both; see its Cargo.toml.
fn rust_clients() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients-rs");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-rs");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo");
    assert!(built.success(), "tests/clients-rs does not build");
    target.join("debug/clients")
}

#[test]
fn rusts_erl_dist_and_edp_client() {
    let program = rust_clients();
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let port = &scene.port;
    for (library, unknown) in [("erl_dist", "none"), ("edp_client", "Node not found")] {
        let ask = |host: &Host, name: &str, register: &str| {
            let mut command = Command::new(&program);
            run(host, command.args([library, "10.77.0.1", name, register])).stdout
        };
        // From the host itself, it registers as well.
        assert_eq!(
            ask(&api, "api", "register"),
            format!("names api {port}\nlookup api {port}\nregistered\n"),
            "{library}"
        );
        scene.wait_until_free("rust");
        assert_eq!(
            ask(&friend, "api", ""),
            format!("names api {port}\nlookup api {port}\n"),
            "{library}"
        );
        let nobody = ask(&friend, "nobody", "");
        assert!(nobody.contains(unknown), "{library}: {nobody}");
        let refused = ask(&stranger, "api", "register");
        assert!(!refused.contains(port.as_str()), "{library}: {refused}");
        assert!(!refused.contains("registered"), "{library}: {refused}");
    }
    let events = scene.events();
    for asked in ["list", "lookup of api", "register of rust"] {
        let told = |event: &String| event.starts_with(&format!("refused {asked} from 10.77.0.3"));
        assert!(events.iter().any(told), "{asked}: {events:?}");
    }
}

#[test]
fn nmaps_epmd_info() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    let scan = |host: &Host| {
        let words = [
            "-Pn",
            "-n",
            "-sT",
            "-p",
            "4369",
            "--script",
            "epmd-info",
            "10.77.0.1",
        ];
        let output = run(host, client("nmap").args(words));
        assert!(output.stdout.contains("4369/tcp open"), "{output:?}");
        output.stdout
    };
    let admitted = scan(&friend);
    for line in ["epmd_port: 4369", &format!("api: {}", scene.port)] {
        assert!(admitted.contains(line), "{admitted}");
    }
    let refused = scan(&stranger);
    for word in ["epmd_port", "epmd-info", "api:", &scene.port] {
        assert!(!refused.contains(word), "{refused}");
    }
    let events = scene.events();
    let list = "refused list from 10.77.0.3: not_allowed";
    assert!(events.iter().any(|event| event == list), "{events:?}");
}

/// Scans with half-open connections, with none, and with whatever services are recognised by.
#[test]
fn a_port_scan_disturbs_nobody() {
    let [api, friend, stranger] = scene::hosts();
    let scene = Scene::on(&api, &friend);
    for how in [
        &["-sS"][..],
        &["-sN"],
        &["-sX"],
        &["-sT", "-sV", "--version-light"],
    ] {
        let words = ["-Pn", "-n", "-p", "4360-4379"];
        let output = run(
            &stranger,
            client("nmap").args(words).args(how).arg("10.77.0.1"),
        );
        assert_eq!(output.status, Some(0), "{output:?}");
        let names = erl(&friend, "net_adm:names(\"api.test\")");
        assert_eq!(
            names,
            format!("{{ok,[{{\"api\",{}}}]}}", scene.port),
            "{how:?}"
        );
    }
}

/// A node sees a refusal at once: nothing in it waits for a timeout.
#[test]
fn a_refused_node_hears_so_at_once() {
    let [api, friend, stranger] = scene::hosts();
    let _scene = Scene::on(&api, &friend);
    let _epmd = Service::start(&stranger, "");
    let mut node = Erl::named(&stranger, "n@stranger.test", &[]);
    let timed = "element(1, timer:tc(fun() -> pang = net_adm:ping('api@api.test') end)) < 1000000";
    assert_eq!(node.eval(timed), "true");
}
