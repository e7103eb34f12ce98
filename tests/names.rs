//! Whose a name is: which user of this host may register it, what is told of one who may not, and for how
//! long a released name stays its last user's.
//!
//! Users are made by the test, in an /etc/passwd of the host's own. A thread takes another user's place for
//! one connection (setfsuid(2)); where a process is wanted, setpriv(1) does.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use common::binary::Epmd;
use common::netns::{EPMD, Host, lone_host, network, v4, v6};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Answer, Node, Registered, Registration, frame, register, send};
use nix::mount::{MsFlags, mount};
use nix::unistd::{Uid, setfsuid};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const JSON: &str = "[audit]\nformat = \"json\"\n";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const ALICE: u32 = 71_001;
const BOB: u32 = 71_002;
/// Has a number, and no name.
const NAMELESS: u32 = 71_003;

/// Gives a host these users.
fn with_users(host: &Host) {
    let users = format!(
        "root:x:0:0::/root:/bin/sh\nalice:x:{ALICE}:{ALICE}::/:/bin/sh\nbob:x:{BOB}:{BOB}::/:/bin/sh\n"
    );
    let file = host.file("passwd");
    fs::write(&file, users).unwrap();
    let nothing = None::<&str>;
    host.enter(|| {
        mount(
            Some(&file),
            "/etc/passwd",
            nothing,
            MsFlags::MS_BIND,
            nothing,
        )
    })
    .unwrap();
}

fn host() -> Host {
    let host = lone_host();
    with_users(&host);
    host
}

/// A connection of this user's.
fn connect(host: &Host, uid: u32, to: IpAddr) -> TcpStream {
    let socket = host.enter(|| {
        let to = SocketAddr::new(to, EPMD);
        setfsuid(Uid::from_raw(uid));
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.connect_timeout(&to.into(), common::PATIENCE)?;
        socket.set_read_timeout(Some(common::PATIENCE))?;
        Ok::<_, std::io::Error>(socket)
    });
    socket.unwrap().into()
}

fn try_register(host: &Host, uid: u32, name: &str) -> Registration {
    register(connect(host, uid, LOOPBACK), &Node::new(name))
}

fn end(host: &Host, uid: u32, name: &str) -> Registered {
    try_register(host, uid, name).end
}

fn names(lines: &str) -> String {
    format!("{JSON}[names]\n{lines}\n")
}

fn message(event: &Value) -> &str {
    event["message"].as_str().unwrap()
}

const HELD: Registered = Registered::Held;
const CLOSED: Registered = Registered::Closed;

#[test]
fn a_name_goes_to_the_users_of_its_list_and_to_root() {
    let host = host();
    let lists = format!(
        "users = [\"alice\", \"{NAMELESS}\"]\n[names.node.rabbit]\nusers = [\"bob\"]\n[names.node.nobodys]\nusers = []"
    );
    let service = Service::start(&host, &names(&lists));
    for (uid, name, expected) in [
        (ALICE, "api", HELD),
        (NAMELESS, "api", HELD),
        (0, "api", HELD),
        (BOB, "api", CLOSED),
        (71_004, "api", CLOSED),
        (BOB, "rabbit", HELD),
        (0, "rabbit", HELD),
        (ALICE, "rabbit", CLOSED),
        (NAMELESS, "nobodys", CLOSED),
        (0, "nobodys", HELD),
    ] {
        wait_for("the name to be free", || {
            (service.ask(format!("z{name}").as_bytes()) == Answer::Bytes(b"w\x01".to_vec()))
                .then_some(())
        });
        assert_eq!(end(&host, uid, name), expected, "{uid} {name}");
    }
    let refused = |name: &str, uid: u32, why: &str| {
        let told = service.expect_event(&format!(
            "refused register of {name} from 127.0.0.1: not_owner"
        ));
        assert_eq!(told["uid"], uid);
        let begin = format!("refused registration of \"{name}\" from 127.0.0.1: ");
        let file = service.config();
        assert_eq!(message(&told), format!("{begin}{why} of {file})"));
    };
    refused(
        "api",
        BOB,
        "user bob (uid 71002) is not in names.users (to admit it: add \"bob\" to users in [names]",
    );
    // This host has no user of that number.
    refused(
        "api",
        71_004,
        "uid 71004 is not in names.users (to admit it: add \"71004\" to users in [names]",
    );
    refused(
        "rabbit",
        ALICE,
        "user alice (uid 71001) is not in names.node.rabbit.users (to admit it: add \"alice\" to users in \
         [names.node.rabbit]",
    );
    refused(
        "nobodys",
        NAMELESS,
        "uid 71003 is not in names.node.nobodys.users (to admit it: add \"71003\" to users in [names.node.nobodys]",
    );
    // Whom the message says to add is admitted; who has a name keeps it, whatever the lists say since.
    let (held, _) = try_register(&host, ALICE, "api").held();
    service.reload(&names("users = [\"bob\"]"));
    assert_eq!(end(&host, BOB, "web"), HELD);
    assert_eq!(end(&host, ALICE, "other"), CLOSED);
    assert_eq!(service.ask(b"zapi"), common::service::found("api"));
    drop(held);
    // Lookups and lists are everybody's, as they were.
    let mut ask = connect(&host, ALICE, LOOPBACK);
    send(&mut ask, &frame(b"n"));
    assert!(matches!(
        common::wire::read_to_end(&mut ask),
        Answer::Bytes(_)
    ));
}

/// Over each family, over sockets for both, and between different addresses of loopback and of the host.
#[test]
fn a_user_is_known_by_whatever_way_he_comes() {
    let [server] = network(["server"]);
    with_users(&server);
    server.ip("addr add 10.77.0.101/24 dev eth0\n");
    let lists = names("users = [\"alice\"]");
    for for_both in [false, true] {
        let _service = match for_both {
            false => Service::start(&server, &lists),
            true => {
                let launch = Launch::on(&server).activated(server.dual_stack_listener());
                launch.config(&lists).start()
            }
        };
        for to in [
            LOOPBACK,
            "127.0.1.1".parse().unwrap(),
            "127.0.0.77".parse().unwrap(),
            "::1".parse().unwrap(),
            v4(1),
            v4(101),
            v6(1),
        ] {
            let register =
                |uid| register(connect(&server, uid, to), &Node::new(format!("n{to}"))).end;
            assert_eq!(register(BOB), CLOSED, "{for_both} {to}");
            assert_eq!(register(ALICE), HELD, "{for_both} {to}");
        }
    }
}

#[test]
fn a_name_that_is_taken_is_told_with_its_holder() {
    let host = host();
    let service = Service::start(&host, JSON);
    let (_held, _) = try_register(&host, ALICE, "api").held();
    let taken = Registered::Taken { left_open: false };
    for uid in [BOB, NAMELESS, BOB] {
        assert_eq!(end(&host, uid, "api"), taken);
    }
    for uid in [BOB, NAMELESS] {
        let told = service.expect_event("taken register of api from 127.0.0.1");
        assert_eq!((&told["uid"], &told["repeats"]), (&uid.into(), &0.into()));
        let words = message(&told);
        assert!(
            words.starts_with("\"api\" is registered already, by alice (uid 71001), since ")
                && words.ends_with(&format!(" UTC; refused to uid {uid}")),
            "{words}"
        );
    }
    assert_eq!(service.other_events(), Vec::<Value>::new(), "once a window");
}

#[test]
fn a_released_name_stays_its_last_users() {
    let host = host();
    let service = Service::start(&host, &names("hold = \"60s\""));
    let free = || {
        wait_for("the name to be free", || {
            (service.ask(b"zrabbit") == Answer::Bytes(b"w\x01".to_vec())).then_some(())
        });
    };
    for _ in 0..3 {
        // An ordinary restart: at once, whether the end has been heard of or not.
        assert_eq!(end(&host, ALICE, "rabbit"), HELD);
    }
    free();
    assert_eq!(end(&host, BOB, "rabbit"), CLOSED);
    let told = service.expect_event("refused register of rabbit from 127.0.0.1: not_owner");
    assert_eq!(told["uid"], BOB);
    assert_eq!(
        message(&told),
        format!(
            "refused registration of \"rabbit\" from 127.0.0.1: names.hold keeps the name for alice (uid 71001), who \
             had it last, and this is bob (uid 71002) (to admit it: wait, or set hold = \"0s\" in [names] of {}; \
             root may at once)",
            service.config()
        )
    );
    assert_eq!(end(&host, BOB, "other"), HELD, "another name");
    // Nobody's flood makes it forget: neither another's nor his own.
    for uid in [BOB, ALICE] {
        for number in 0..1500 {
            assert_eq!(end(&host, uid, &format!("{uid}-{number}")), HELD);
        }
    }
    assert_eq!(end(&host, BOB, "rabbit"), CLOSED);
    assert_eq!(end(&host, ALICE, "rabbit"), HELD);
    free();
    // Root takes it, and it is root's then.
    assert_eq!(end(&host, 0, "rabbit"), HELD);
    free();
    assert_eq!(end(&host, ALICE, "rabbit"), CLOSED);
    // With a shorter time it is over sooner.
    service.reload(&names("hold = \"1ms\""));
    wait_for("the time to be over", || {
        (end(&host, BOB, "rabbit") == HELD).then_some(())
    });
    service.reload(&names("hold = \"0s\""));
    free();
    assert_eq!(end(&host, ALICE, "rabbit"), HELD);
}

/// A process of a user's that holds a name until it is dropped.
struct OfUser(Child);

impl Drop for OfUser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program as a user, with its output to be read.
fn as_user(host: &Host, uid: u32, command: &[&str]) -> OfUser {
    let mut setpriv = Command::new("setpriv");
    setpriv
        .args([format!("--reuid={uid}"), format!("--regid={uid}")])
        .args(["--clear-groups", "--"])
        .args(command)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    OfUser(host.spawn(&mut setpriv))
}

/// A real node of this user's; with what it says first.
fn node(host: &Host, uid: u32, name: &str) -> (OfUser, String) {
    let name = format!("{name}@127.0.0.1");
    let wait = "io:format(\"up~n\"), receive never -> ok end.";
    let erl = [
        "erl",
        "-name",
        &name,
        "-setcookie",
        "names",
        "-start_epmd",
        "false",
        "-noshell",
        "-eval",
        wait,
    ];
    let mut node = as_user(host, uid, &erl);
    let mut first = String::new();
    let output = node.0.stdout.take().unwrap();
    let _ = BufReader::new(output).read_line(&mut first);
    (node, first.trim().to_owned())
}

/// The story: while a node restarts, another user takes its name, and its cluster connects there.
#[test]
fn nobody_takes_a_nodes_name_while_it_restarts() {
    for rule in ["hold = \"60s\"", "[names.node.rabbit]\nusers = [\"alice\"]"] {
        let host = host();
        let service = Service::start(&host, &names(rule));
        let (alices, up) = node(&host, ALICE, "rabbit");
        assert_eq!(up, "up", "{rule}");
        drop(alices);
        wait_for("the name to be free", || {
            (service.ask(b"zrabbit") == Answer::Bytes(b"w\x01".to_vec())).then_some(())
        });
        let (mut bobs, up) = node(&host, BOB, "rabbit");
        assert_ne!(up, "up", "{rule}");
        assert!(!bobs.0.wait().unwrap().success());
        let told = service.expect_event("refused register of rabbit from 127.0.0.1: not_owner");
        assert_eq!(told["uid"], BOB, "{rule}");
        let (_alices, up) = node(&host, ALICE, "rabbit");
        assert_eq!(up, "up", "{rule}");
    }
}

#[test]
fn the_status_says_who_holds_a_name() {
    let host = host();
    let service = Service::start(&host, JSON);
    let bash = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{EPMD}; printf '\\0\\x10x\\x12\\x67M\\0\\0\\x06\\0\\x05\\0\\x03api\\0\\0' >&3; \
         read -r -N 1 <&3; exec sleep 1000"
    );
    let mut holds = as_user(&host, ALICE, &["bash", "-c", &bash]);
    wait_for("the name", || {
        (service.ask(b"zapi") != Answer::Bytes(b"w\x01".to_vec())).then_some(())
    });
    let asked = host.run(Epmd::Ours.command().args(["-status", "-json"]));
    let status: Value =
        serde_json::from_str(&asked.stdout).unwrap_or_else(|e| panic!("{e}: {asked:?}"));
    let holder = &status["registrations"][0]["holder"];
    assert_eq!(
        (&holder["uid"], &holder["user"], &holder["program"]),
        (&ALICE.into(), &"alice".into(), &"sleep".into()),
        "{status}"
    );
    let text = host.run(Epmd::Ours.command().arg("-status")).stdout;
    let pid = holder["pid"].as_u64().expect("a process");
    assert!(
        text.contains(&format!("alice (uid 71001), sleep (pid {pid})")),
        "{text}"
    );
    assert_eq!(holder.as_object().unwrap().len(), 4, "{holder}");
    let _ = holds.0.kill();
}

/// Whoever asks for users where they can't be told apart is not served more than he says.
#[test]
fn where_users_cannot_be_told_apart_no_rule_about_them_is_in_force() {
    let host = host();
    let forbidden = [
        "strace",
        "-f",
        "-D",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=socket",
        "-e",
    ];
    let forbidden = [&forbidden[..], &["inject=socket:error=EACCES:when=1"]].concat();
    let alone = ["unshare", "--user", "--map-root-user"];
    for (wrapper, why) in [
        (
            &forbidden[..],
            "the kernel can't be asked (Permission denied (os error 13)): see what forbids netlink",
        ),
        (&alone, "inside this user namespace other users look alike"),
    ] {
        for rule in [
            "users = [\"71001\"]",
            "users = []",
            "hold = \"1s\"",
            "node.a.users = [\"0\"]",
        ] {
            let output = Launch::on(&host)
                .wrapped(wrapper)
                .config(&names(rule))
                .run();
            assert_eq!(output.status, Some(78), "{output:?}");
            assert!(output.stderr.contains(why), "{output:?}");
            assert_eq!(output.stderr.matches("epmd: ").count(), 1, "{output:?}");
        }
        // Without a rule it serves; and a reload that brings one changes nothing.
        let service = Launch::on(&host).wrapped(wrapper).start();
        let _name = service.hold("api");
        service.reload(&names("users = [\"71001\"]"));
        assert!(service.said().contains(why), "{}", service.said());
        assert!(
            service
                .said()
                .contains("not reloaded, the settings from before stay in force: [names]")
        );
        let _other = service.hold("other");
    }
}

/// A user database that does not answer is told, with the user, in bounded time; a number needs none.
#[test]
fn a_user_who_is_not_found_keeps_the_daemon_from_its_start() {
    let host = host();
    let output = Launch::on(&host)
        .config("[names]\nusers = [\"alice\", \"carol\"]\n")
        .run();
    assert_eq!(output.status, Some(78), "{output:?}");
    let told = ":2:19: there is no user \"carol\" on this host; expected ";
    assert!(output.stderr.contains(told), "{output:?}");
    assert!(
        output
            .stderr
            .contains("\n    users = [\"alice\", \"carol\"]\n                      ^"),
        "{output:?}"
    );
    // A fifo in place of the file: whoever opens it waits for its other end.
    let fifo = host.file("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let nothing = None::<&str>;
    host.enter(|| {
        mount(
            Some(&fifo),
            "/etc/passwd",
            nothing,
            MsFlags::MS_BIND,
            nothing,
        )
    })
    .unwrap();
    let start = std::time::Instant::now();
    let output = Launch::on(&host)
        .config("[names]\nusers = [\"alice\", \"carol\"]\n")
        .run();
    assert!(start.elapsed().as_secs() < 9, "{:?}", start.elapsed());
    assert_eq!(output.status, Some(78), "{output:?}");
    for user in ["alice", "carol"] {
        let told = format!(
            "user \"{user}\" can't be looked up, because of the user database: it does not answer"
        );
        assert!(output.stderr.contains(&told), "{output:?}");
    }
    let service = Service::start(&host, &names(&format!("users = [\"{ALICE}\"]")));
    assert_eq!(end(&host, ALICE, "api"), HELD);
    // Nor does what he is called hold anybody up.
    let start = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(end(&host, BOB, "api"), CLOSED);
    }
    assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
    let told = service.expect_event("refused register of api from 127.0.0.1: not_owner");
    assert!(
        message(&told).contains(": uid 71002 is not in names.users"),
        "{told}"
    );
}

/// A proxy of this host has its peers' requests come from an address of this host.
#[test]
fn the_peers_of_an_address_of_strangers_are_strangers() {
    let host = host();
    let config = format!("{JSON}[access]\nstrangers = [\"127.0.0.6\"]\n");
    let service = Service::start(&host, &config);
    let _name = service.hold("api");
    let proxy: IpAddr = "127.0.0.6".parse().unwrap();
    let ask = |body: &[u8]| {
        let stream = host.connect_from(proxy, LOOPBACK);
        common::wire::ask(stream, &frame(body))
    };
    for (body, event) in [
        (
            &b"zapi"[..],
            "refused lookup of api from 127.0.0.6: not_allowed",
        ),
        (b"n", "refused list from 127.0.0.6: not_allowed"),
        (
            &Node::new("evil").request(),
            "refused register of evil from 127.0.0.6: not_local",
        ),
        (b"k", "refused kill from 127.0.0.6: not_local"),
    ] {
        assert_eq!(ask(body), Answer::Nothing, "{event}");
        service.expect_event(event);
    }
    assert_eq!(service.ask(b"zapi"), common::service::found("api"));
    // The lists decide; and without the key it is this host, as it was.
    service.reload(&format!(
        "{JSON}[access]\nstrangers = [\"127.0.0.6\"]\nallow = [\"127.0.0.6\"]\n"
    ));
    assert_eq!(ask(b"zapi"), common::service::found("api"));
    assert_eq!(ask(b"d"), Answer::Nothing);
    service.reload(JSON);
    assert!(matches!(ask(b"d"), Answer::Bytes(_)));
}
