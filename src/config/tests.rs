//! The module as its callers see it: command line, environment and file in, settings or mistakes out.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::core::access::Networks;
use crate::exit::Exit;

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epmd-config-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The sources of one call, with no default file.
fn sources(args: &[&str], env: &[(&str, &str)]) -> Sources {
    let get = |name: &str| {
        env.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| OsString::from(value))
    };
    Invocation::parse(args.iter().map(OsString::from), get)
        .expect("a command line")
        .sources
        .with_default_file(Path::new("/nonexistent/epmd.toml"))
}

fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, Errors> {
    sources(args, env).load()
}

/// The settings of a file.
fn good(content: &str) -> Settings {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", content);
    load(&["-config", &file], &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// What is told of a file, with `FILE` for its name.
fn bad(content: impl AsRef<[u8]>) -> String {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", content);
    let errors = load(&["-config", &file], &[]).expect_err("a mistake");
    assert_eq!(errors.exit(), Exit::Config);
    errors.to_string().replace(&file, "FILE")
}

/// The same without excerpts.
fn headlines(content: impl AsRef<[u8]>) -> Vec<String> {
    bad(content)
        .lines()
        .filter_map(|l| l.strip_prefix("epmd: FILE:"))
        .map(str::to_owned)
        .collect()
}

fn nets(texts: &[&str]) -> Networks {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn all(networks: &Networks) -> Vec<String> {
    networks.iter().map(|n| n.to_string()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_configured_serves_this_host_on_every_address() {
    let settings = load(&[], &[]).unwrap();
    assert_eq!(settings.file, None);
    assert_eq!(settings.listen, None);
    assert_eq!(settings.port, 4369);
    assert!(settings.rules.allow.is_empty());
    assert!(settings.rules.enforce);
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.audit, Audit::default());
    assert!(!settings.relaxed_command_check);
    assert_eq!(settings.debug, 0);
}

#[test]
fn an_empty_file_is_the_default() {
    for content in [
        "",
        "\n",
        "# nothing\n",
        "\u{feff}",
        "[access]\n[limits]\n[audit]\n",
    ] {
        assert_eq!(good(content).limits, Limits::default());
    }
}

/// The example of the manual.
const WHOLE: &str = r#"
listen = ["10.0.3.5", "fd00:3::5"]  # default: every address. Loopback is always added.
port = 4370

[access]
allow = ["10.0.3.0/24", "fd00:3::/64"]
deny = ["10.0.3.66"]
list = ["10.0.3.10"]
enforce = false

[access.node.wg_man]
allow = ["10.0.3.0/28"]
[access.node."é"]
allow = []

[limits]
connections = 2048
per-source = 32
request-timeout = "7s"
registrations = 1_000

[audit]
format = "json"
file = "/var/log/epmd.json"
window = "1m 30s"
lookups = true
"#;

#[test]
fn every_key() {
    let settings = good(WHOLE);
    assert!(settings.file.is_some());
    assert_eq!(settings.listen, Some(vec![ip("10.0.3.5"), ip("fd00:3::5")]));
    assert_eq!(settings.port, 4370);
    let rules = &settings.rules;
    assert_eq!(all(&rules.allow), ["10.0.3.0/24", "fd00:3::/64"]);
    assert_eq!(all(&rules.deny), ["10.0.3.66/32"]);
    assert_eq!(
        rules.list.as_ref().map(all),
        Some(vec!["10.0.3.10/32".to_owned()])
    );
    assert!(!rules.enforce);
    assert_eq!(rules.nodes.len(), 2);
    assert_eq!(all(&rules.nodes[b"wg_man".as_slice()]), ["10.0.3.0/28"]);
    assert!(rules.nodes["é".as_bytes()].is_empty());
    assert_eq!(rules.served, None);
    assert_eq!(
        settings.limits,
        Limits {
            connections: 2048,
            per_source: 32,
            request_timeout: Duration::from_secs(7),
            registrations: 1000,
        }
    );
    assert_eq!(
        settings.audit,
        Audit {
            format: Format::Json,
            file: Some("/var/log/epmd.json".into()),
            window: Duration::from_secs(90),
            lookups: true,
        }
    );
}

#[test]
fn other_ways_to_write_the_same() {
    let settings = good(
        "port = 0x1111\nlisten = [\n  \"*\",\n]\naccess.allow = [\"*\"]\naccess.node = { api = { allow = [\"*\"] } }\r\n",
    );
    assert_eq!(settings.port, 0x1111);
    assert_eq!(settings.listen, None);
    assert_eq!(all(&settings.rules.allow), ["0.0.0.0/0", "::/0"]);
    assert_eq!(
        all(&settings.rules.nodes[b"api".as_slice()]),
        ["0.0.0.0/0", "::/0"]
    );
    assert_eq!(good("listen = [\"10.0.0.1\", \"*\"]").listen, None);
    assert_eq!(good("listen = []").listen, Some(vec![]));
    assert_eq!(good("port = 0").port, 0);
    assert!(
        good("access.list = []")
            .rules
            .list
            .is_some_and(|l| l.is_empty())
    );
    for format in Format::ALL {
        let content = format!("audit.format = \"{}\"", format.name());
        assert_eq!(good(&content).audit.format, format);
    }
}

#[test]
fn every_mistake_of_one_file_is_told_in_one_run() {
    assert_eq!(
        bad("lisen = [\"10.0.3.5\"]\n\
             port = \"4369\"\n\
             [access]\n\
             allow = [\"10.0.3.5/24\",\n\
             \t\"api.example.org\", 5]\n\
             enforce = \"no\"\n\
             [access.node.\"wg@host\"]\n\
             [limits]\n\
             connections = 0\n\
             request-timeout = 5\n\
             [audit]\n\
             format = \"xml\"\n\
             window = \"2 days\"\n\
             lookups = 1\n"),
        r#"epmd: FILE:1:1: unknown key "lisen", which is probably listen; expected one of listen, port, access, names, limits, audit, metrics, watch, control, guard
    lisen = ["10.0.3.5"]
    ^
epmd: FILE:2:8: port is a string; expected a whole number from 0 to 65535, such as port = 4369
    port = "4369"
           ^
epmd: FILE:4:10: "10.0.3.5/24" has bits set behind its prefix; write "10.0.3.0/24" for the network or "10.0.3.5" for the host
    allow = ["10.0.3.5/24",
             ^
epmd: FILE:5:2: "api.example.org" is a name, and names are not looked up; expected an address, such as "10.0.3.5"
    	"api.example.org", 5]
    	^
epmd: FILE:5:21: an element of allow is a number; expected a string, such as "10.0.3.0/24"
    	"api.example.org", 5]
    	                   ^
epmd: FILE:6:11: enforce is a string; expected true or false
    enforce = "no"
              ^
epmd: FILE:7:14: node "wg@host" has an @; expected the part before it alone: "wg"
    [access.node."wg@host"]
                 ^
epmd: FILE:7:14: node "wg@host" has no allow; expected one, such as allow = ["10.0.3.0/28"], or [] for this host alone
    [access.node."wg@host"]
                 ^
epmd: FILE:9:15: connections is 0; expected a whole number from 1 to 1048576
    connections = 0
                  ^
epmd: FILE:10:19: request-timeout is a number without a unit; expected a string with one, such as "5s"
    request-timeout = 5
                      ^
epmd: FILE:12:10: "xml" is no format; expected "auto", "journald", "json" or "text"
    format = "xml"
             ^
epmd: FILE:13:10: "2 days" is too long; expected a duration of at most "1day", such as "5s"
    window = "2 days"
             ^
epmd: FILE:14:11: lookups is a number; expected true or false
    lookups = 1
              ^"#
    );
}

#[test]
fn wrong_types() {
    for (content, message) in [
        (
            "listen = \"10.0.3.5\"",
            r#"1:10: listen is a string; expected a list of strings: listen = ["10.0.3.5"]"#,
        ),
        (
            "listen = 5",
            r#"1:10: listen is a number; expected a list of strings: listen = ["10.0.3.5"]"#,
        ),
        (
            "access.deny = true",
            r#"1:15: deny is true or false; expected a list of strings: deny = ["10.0.3.0/24"]"#,
        ),
        (
            "access.list = [[\"10.0.3.1\"]]",
            r#"1:16: an element of list is a list; expected a string, such as "10.0.3.0/24""#,
        ),
        (
            "access = 1979-05-27",
            "1:10: access is a date or time; expected a table: [access]",
        ),
        (
            "[[limits]]",
            "1:1: limits is a list; expected a table: [limits]",
        ),
        (
            "audit = \"json\"",
            "1:9: audit is a string; expected a table: [audit]",
        ),
        (
            "access.node = []",
            "1:15: node is a list; expected a table: [access.node.NAME]",
        ),
        (
            "access.node.api = [\"10.0.3.1\"]",
            r#"1:19: node "api" is a list; expected a table with the key allow, such as [access.node.api]"#,
        ),
        (
            "port = 4369.0",
            "1:8: port is a number with a fraction; expected a whole number from 0 to 65535, such as port = 4369",
        ),
        (
            "audit.format = true",
            r#"1:16: format is true or false; expected "auto", "journald", "json" or "text""#,
        ),
        (
            "audit.window = true",
            r#"1:16: window is true or false; expected a string with numbers and units, such as "5s" or "1m 30s""#,
        ),
        (
            "limits.request-timeout = 5.5",
            r#"1:26: request-timeout is a number with a fraction; expected a string with numbers and units, such as "5s" or "1m 30s""#,
        ),
        (
            "limits.per-source = \"64\"",
            "1:21: per-source is a string; expected a whole number from 1 to 1048576, such as per-source = 1024",
        ),
    ] {
        assert_eq!(headlines(content), [message]);
    }
}

#[test]
fn numbers_out_of_range() {
    for (content, message) in [
        (
            "port = 65536",
            "1:8: port is 65536; expected a whole number from 0 to 65535",
        ),
        (
            "port = -1",
            "1:8: port is -1; expected a whole number from 0 to 65535",
        ),
        (
            "port = 99999999999999999999999999999999999999999999999999999999999999",
            "1:8: port is 9999999999999999999999999999999999999999; expected a whole number from 0 to 65535",
        ),
        (
            "limits.registrations = 1_048_577",
            "1:24: registrations is 1048577; expected a whole number from 1 to 1048576",
        ),
        (
            "limits.per-source = 0",
            "1:21: per-source is 0; expected a whole number from 1 to 1048576",
        ),
        (
            "limits.request-timeout = \"0s\"",
            r#"1:26: "0s" is too short; expected a duration of at least "1ms", such as "5s""#,
        ),
    ] {
        assert_eq!(headlines(content), [message]);
    }
    assert_eq!(
        good("limits.connections = 1_048_576").limits.connections,
        1_048_576
    );
    assert_eq!(good("limits.connections = 1").limits.connections, 1);
}

#[test]
fn addresses_to_listen_on() {
    for (text, message) in [
        (
            "10.0.3.5:4369",
            r#""10.0.3.5:4369": a port does not belong here; write "10.0.3.5" (use port = 4369)"#,
        ),
        (
            "::ffff:10.0.3.5",
            r#""::ffff:10.0.3.5" is an IPv4-mapped address; write "10.0.3.5""#,
        ),
        (
            "fe80::1%eth0",
            r#""fe80::1%eth0": a zone ("%eth0") does not belong here; expected an address that is complete without one"#,
        ),
        (
            "10.0.3.0/24",
            r#""10.0.3.0/24" is a network; expected an address of this host, such as "10.0.3.0""#,
        ),
    ] {
        assert_eq!(
            headlines(format!("listen = [\"{text}\"]")),
            [format!("1:11: {message}")]
        );
    }
}

#[test]
fn names_of_nodes() {
    let long = "x".repeat(256);
    for (name, message) in [
        ("", r#"node "" is no name; expected 1 to 255 characters"#),
        (
            "@host",
            r#"node "@host" has an @; expected the part before it alone: """#,
        ),
        (
            "a b",
            r#"node "a b" is no name; expected one without spaces and control characters"#,
        ),
        (
            "a\\n",
            r#"node "a\n" is no name; expected one without spaces and control characters"#,
        ),
        (
            "app-*",
            r#"node "app-*" is no name, and patterns are not known; expected one node's name"#,
        ),
    ] {
        let content = format!("access.node.\"{name}\".allow = []");
        assert_eq!(headlines(content), [format!("1:13: {message}")]);
    }
    let message = format!(
        "1:13: node \"{}\"... is no name; expected 1 to 255 characters",
        "x".repeat(64)
    );
    assert_eq!(
        headlines(format!("access.node.{long}.allow = []")),
        [message]
    );
    let longest = "é".repeat(255);
    let settings = good(&format!("access.node.\"{longest}\".allow = []"));
    assert!(settings.rules.nodes.contains_key(longest.as_bytes()));
}

#[test]
fn keys_of_a_node() {
    assert_eq!(
        headlines("[access.node.api]\ndeny = []\n"),
        [
            "1:14: node \"api\" has no allow; expected one, such as allow = [\"10.0.3.0/28\"], or [] for this host alone",
            "2:1: unknown key \"deny\", which belongs in [access]; expected allow",
        ]
    );
    // An unquoted dot makes a table within.
    assert_eq!(
        headlines("[access.node.a.b]\nallow = []\n"),
        [
            "1:14: node \"a\" has no allow; expected one, such as allow = [\"10.0.3.0/28\"], or [] for this host alone",
            "1:16: unknown key \"b\"; expected allow",
        ]
    );
}

#[test]
fn nodes_to_be_watched_are_checked_each() {
    let settings = good(
        "[watch]\nnodes = [\"a@h\", \"b@[fd77::1]:9100\", \"a@h\", \"c@fe80::1%eth0\", \"c@[fe80::1%eth0]\"]\nevery = \"5s\"\n",
    );
    let nodes: Vec<_> = settings
        .watch
        .nodes
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(nodes, ["a@h", "b@[fd77::1]:9100", "c@fe80::1%eth0"]);
    assert_eq!(settings.watch.every.0, Duration::from_secs(5));
    assert_eq!(
        headlines(
            "[watch]\nnodes = [\"a@h\", \"b\", 7, \"c@h:0\", \"d@$(x)\"]\nevery = \"4999ms\"\nafter = 0\n"
        ),
        [
            "2:17: \"b\" is no node; expected NAME@HOST",
            "2:22: an element of nodes is a number; expected a string, such as \"api@api.test\"",
            "2:25: \"c@h:0\" has no port behind the host; expected NAME@HOST:PORT with a port from 1 to 65535",
            "2:34: \"d@$(x)\" has no host's name behind the @; expected NAME@HOST",
            "3:9: every is 4s 999ms; expected 5s or more: each round asks each node's epmd",
            "4:9: after is 0; expected a whole number from 1 to 1048576",
        ]
    );
}

#[test]
fn metrics_are_served_where_the_file_says() {
    assert_eq!(good("").metrics, None);
    let settings = good("[metrics]\nlisten = \"[::1]:9436\"\n");
    assert_eq!(settings.metrics, Some("[::1]:9436".parse().unwrap()));
    for (value, what) in [
        ("\"127.0.0.1\"", "\"127.0.0.1\""),
        ("\"localhost:9436\"", "\"localhost:9436\""),
        ("9436", "a number"),
    ] {
        assert_eq!(
            headlines(format!("[metrics]\nlisten = {value}\n")),
            [format!(
                "2:10: metrics.listen is {what}; expected an address and a port, such as \"127.0.0.1:9436\" or \
                 \"[::1]:9436\""
            )]
        );
    }
}

#[test]
fn syntax_errors() {
    for (content, messages) in [
        (
            "port = \n",
            &["1:8: no value; expected one behind the =, a string in quotes"][..],
        ),
        (
            "limits.request-timeout = 5s",
            &[r#"1:26: "5s" has no quotes around it; expected "..." around a string"#],
        ),
        (
            "listen = [10.0.0.1]",
            &[r#"1:15: neither a number nor a string; expected "..." around a string"#],
        ),
        (
            "access.enforce = False",
            &[r#"1:18: "False" is no value; expected true or false"#],
        ),
        (
            "access.enforce = True",
            &[r#"1:18: "True" is no value; expected true or false"#],
        ),
        (
            "port = 1\nport = 2",
            &[
                r#"2:1: "port" is given twice; expected it once, with everything that belongs to it"#,
            ],
        ),
        (
            "[audit]\nlookups = true\n[access]\n[audit]",
            &[
                r#"4:2: "audit" is given twice; expected it once, with everything that belongs to it"#,
            ],
        ),
        (
            "port\nlisten = []",
            &["1:5: a key without a value; expected = and a value"],
        ),
        // What stands behind a broken header may belong anywhere.
        (
            "[access\nallow = []\n",
            &["1:8: unclosed table; expected `]`"],
        ),
        (
            "audit.format = \"json",
            &["1:21: invalid basic string; expected `\"`"],
        ),
    ] {
        assert_eq!(headlines(content), messages, "{content}");
    }
}

#[test]
fn users_are_found_or_told_with_their_place() {
    let text = bad("[names]\nusers = [\"root\", \"no-such-user\"]\nhold = \"0s\"\n");
    assert_eq!(
        text,
        r#"epmd: FILE:2:18: there is no user "no-such-user" on this host; expected the name of one (`getent passwd` lists them) or a number, such as "1001"
    users = ["root", "no-such-user"]
                     ^"#
    );
    assert_eq!(
        headlines(
            "[names]\nusers = [1001, \"4294967295\", \"*\"]\nhold = 60\n[names.node.rabbit]\nuser = []\n"
        ),
        [
            "2:10: an element of users is a number; expected a string: \"1001\"",
            "2:16: \"4294967295\" is no user's number; expected one from 0 to 4294967294",
            "2:30: \"*\" is no user; expected names or numbers, or no list at all for every user of this host",
            "3:8: hold is a number without a unit; expected a string with one, such as \"60s\", or \"0s\"",
            "4:13: node \"rabbit\" has no users; expected one, such as users = [\"deploy\"], or [] for root alone",
            "5:1: unknown key \"user\", which is probably users; expected users",
        ]
    );
    assert_eq!(
        headlines("access.strangers = [\"127.0.0.1\", \"::\", \"10.0.0.0/8\"]\n"),
        [
            "1:21: \"127.0.0.1\" is where this host's own nodes come from; expected an address that a proxy alone has, such as \"127.0.0.6\"",
            "1:34: \"::\" is no address that a peer has; expected one of this host's, such as \"127.0.0.6\"",
            "1:40: \"10.0.0.0/8\" is a network; expected an address of this host, such as \"10.0.0.0\"",
        ]
    );
    let settings = good(
        "[names]\nusers = [\"root\", \"1001\", \"1001\"]\nhold = \"60s\"\n[names.node.rabbit]\nusers = []\n",
    );
    let rules = &settings.rules.names;
    assert_eq!(rules.users, Some([0, 1001].into()));
    assert_eq!(rules.nodes.get(&b"rabbit"[..]), Some(&[].into()));
    assert_eq!(rules.hold, Duration::from_secs(60));
    let shown = show(&settings);
    for line in [
        "names.users: root, 1001 [",
        "names.node.rabbit.users: root alone [",
        "names.hold: 1m [",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

/// A user database that is down at a restart must not cost the registrations.
#[test]
fn what_is_kept_goes_by_the_numbers_from_then() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "[names]\nusers = [\"root\"]\n");
    let (_, snapshot) = sources(&["-config", &file], &[]).load_and_keep().unwrap();
    let bytes = snapshot.to_bytes().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\"users\":{\"root\":0}"), "{text}");
    // The user is gone since.
    let text = text
        .replace("\"root\"", "\"was-there\"")
        .replace("\\\"root\\\"", "\\\"was-there\\\"");
    let kept = Snapshot::from_bytes(text.as_bytes()).unwrap();
    let settings = kept.settings().unwrap();
    assert_eq!(settings.rules.names.users, Some([0].into()));
    // One without is as it was before there were any.
    let without = text.replace(",\"users\":{\"was-there\":0}", "");
    assert!(
        Snapshot::from_bytes(without.as_bytes())
            .unwrap()
            .settings()
            .is_err()
    );
}

#[test]
fn mistakes_of_all_kinds_in_one_run() {
    assert_eq!(
        headlines(
            "port = x\nlisten = [1\n,2]\n[limits]\nconnektions = 5\nper-source = 0\nregistrations = = 5\n"
        ),
        [
            r#"1:8: "x" has no quotes around it; expected "..." around a string"#,
            r#"2:11: an element of listen is a number; expected a string, such as "10.0.3.5""#,
            r#"3:2: an element of listen is a number; expected a string, such as "10.0.3.5""#,
            r#"5:1: unknown key "connektions", which is probably connections; expected one of connections, per-source, request-timeout, registrations"#,
            "6:14: per-source is 0; expected a whole number from 1 to 1048576",
            "7:17: extra `=`; expected nothing",
        ]
    );
}

#[test]
fn behind_a_key_without_a_value_the_rest_is_read() {
    assert_eq!(
        headlines(
            "port: 4369\n[limits]\nper-source 5\nconnections = 0\nconnections = 1\né\n[audit]\nwindow = \"1\""
        ),
        [
            "1:7: a key without a value; expected = and a value",
            "3:12: a key without a value; expected = and a value",
            "4:15: connections is 0; expected a whole number from 1 to 1048576",
            "5:1: \"connections\" is given twice; expected it once, with everything that belongs to it",
            "6:2: a key without a value; expected = and a value",
            "8:10: \"1\" has no unit; expected a duration with one, such as \"1s\"",
        ]
    );
}

#[test]
fn text_that_is_not_utf8() {
    assert_eq!(
        bad(b"port = 1\n# \xe9\xff \xc3\xa9\nlisten = [\"\xc0\"]\n"),
        "epmd: FILE:2:3: byte 0xe9 is not UTF-8; expected UTF-8 text\n    \
             # \u{fffd}\u{fffd} é\n      ^\n\
         epmd: FILE:2:4: byte 0xff is not UTF-8; expected UTF-8 text\n    \
             # \u{fffd}\u{fffd} é\n       ^\n\
         epmd: FILE:3:12: byte 0xc0 is not UTF-8; expected UTF-8 text\n    \
             listen = [\"\u{fffd}\"]\n               ^"
    );
    assert_eq!(
        headlines(b"\xef\xbb\xbf\xff"),
        ["1:1: byte 0xff is not UTF-8; expected UTF-8 text"]
    );
}

#[test]
fn control_characters_are_escaped() {
    let text = bad("listen = [\"a\u{1b}[2J\"]");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("\\u{1b}[2J"), "{text}");
}

/// What the fuzzer found: behind an underscore the parser takes whatever follows for digits.
#[test]
fn control_characters_in_a_number_are_escaped() {
    for key in ["port", "limits.connections", "limits.request-timeout"] {
        for number in ["4_9/\u{1b}[2J", "4369_9/8\u{7f}\u{0}", "0x_\u{1b}"] {
            let text = bad(format!("{key} = {number}\n"));
            let control = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(control), "{text:?}");
        }
    }
    assert_eq!(
        headlines("port = 4_9\u{1b}"),
        [r#"1:8: port is "49\u{1b}"; expected a whole number from 0 to 65535"#]
    );
}

#[test]
fn no_bytes_make_it_panic() {
    // Every piece of a whole file, with every kind of byte behind it.
    for end in 0..WHOLE.len() {
        for byte in [b'\0', b'"', b'[', b'=', b'.', b'\n', b'9', 0xff] {
            let mut bytes = WHOLE.as_bytes()[..end].to_vec();
            bytes.push(byte);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let text = diagnostic::Text::new(Path::new("f"), text);
            for problem in file::read_into(&mut Settings::default(), &text, |_| Vec::new()) {
                assert!(!problem.to_string().is_empty());
            }
        }
    }
    // Nested as deep as can be.
    for text in [
        "[".repeat(100_000),
        "a.".repeat(100_000),
        "a={".repeat(50_000),
    ] {
        let text = diagnostic::Text::new(Path::new("f"), text);
        assert!(!file::read_into(&mut Settings::default(), &text, |_| Vec::new()).is_empty());
    }
}

#[test]
fn twenty_thousand_networks() {
    let nets: Vec<_> = (0..20_000u32)
        .map(|n| format!("\"10.{}.{}.0/24\"", n >> 8, n & 255))
        .collect();
    let begin = Instant::now();
    let settings = good(&format!("access.allow = [{}]", nets.join(", ")));
    assert_eq!(settings.rules.allow.iter().count(), 20_000);
    // All wrong, in one line: the first are told, the rest counted, and that in time.
    let wrong = nets.join(", ").replace(".0/24", ".1/24");
    let lines = bad(format!("access.allow = [{wrong}]"));
    assert!(
        lines.ends_with("epmd: FILE: 19800 more mistakes; expected none, the first 200 are shown")
    );
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn command_line_beats_environment_beats_file() {
    let folder = Folder::new();
    let file = folder.file(
        "epmd.toml",
        "listen = [\"10.0.0.1\"]\nport = 1\naccess.allow = [\"10.1.0.0/16\"]\nlimits.request-timeout = \"9s\"\n",
    );
    let env = [
        ("EPMD_CONFIG", file.as_str()),
        ("ERL_EPMD_ADDRESS", "10.0.0.2, fd00::2"),
        ("ERL_EPMD_PORT", "2"),
        ("EPMD_ALLOW", "10.2.0.0/16, 10.3.0.0/16"),
    ];
    let settings = load(&[], &env[..1]).unwrap();
    assert_eq!(settings.file, Some(PathBuf::from(&file)));
    assert_eq!(settings.listen, Some(vec![ip("10.0.0.1")]));
    assert_eq!(settings.port, 1);
    assert_eq!(all(&settings.rules.allow), ["10.1.0.0/16"]);
    assert_eq!(settings.limits.request_timeout, Duration::from_secs(9));

    let settings = load(&[], &env).unwrap();
    assert_eq!(settings.listen, Some(vec![ip("10.0.0.2"), ip("fd00::2")]));
    assert_eq!(settings.port, 2);
    assert_eq!(all(&settings.rules.allow), ["10.2.0.0/16", "10.3.0.0/16"]);

    let other = folder.file("other.toml", "audit.lookups = true\n");
    let args = [
        "-config",
        &other,
        "-address",
        "10.0.0.3",
        "-port",
        "3",
        "-allow",
        "*",
        "-packet_timeout",
        "60",
        "-delay_accept",
        "1",
        "-delay_write",
        "2",
        "-d",
        "-d",
    ];
    let settings = load(&args, &env).unwrap();
    assert_eq!(settings.file, Some(PathBuf::from(&other)));
    assert!(settings.audit.lookups);
    assert_eq!(settings.listen, Some(vec![ip("10.0.0.3")]));
    assert_eq!(settings.port, 3);
    assert_eq!(all(&settings.rules.allow), ["0.0.0.0/0", "::/0"]);
    assert_eq!(settings.limits.request_timeout, Duration::from_secs(60));
    assert_eq!(settings.delay_accept, Duration::from_secs(1));
    assert_eq!(settings.delay_write, Duration::from_secs(2));
    assert_eq!(settings.debug, 2);
}

#[test]
fn lists_of_separators_are_no_lists() {
    let env = [("ERL_EPMD_ADDRESS", " , "), ("EPMD_ALLOW", ",")];
    let settings = load(&["-address", ",,", "-allow", " "], &env).unwrap();
    assert_eq!(settings.listen, None);
    assert!(settings.rules.allow.is_empty());
    let env = [("ERL_EPMD_ADDRESS", "10.0.0.1 10.0.0.2,,10.0.0.3 ")];
    let settings = load(&["-address", ","], &env).unwrap();
    assert_eq!(settings.listen.map(|l| l.len()), Some(3));
    assert_eq!(load(&["-address", "*"], &[]).unwrap().listen, None);
}

#[test]
fn relaxed_command_check() {
    for value in ["", "false", "true"] {
        let env = [("ERL_EPMD_RELAXED_COMMAND_CHECK", value)];
        assert!(load(&[], &env).unwrap().relaxed_command_check);
    }
    assert!(
        load(&["-relaxed_command_check"], &[])
            .unwrap()
            .relaxed_command_check
    );
}

#[test]
fn mistakes_of_options_environment_and_file_in_one_run() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "port = true\n");
    let errors = load(
        &[
            "-allow",
            "10.0.3.5/24,x",
            "-packet_timeout",
            "0",
            "-delay_accept",
            "1.5",
            "-delay_write",
            "",
        ],
        &[
            ("EPMD_CONFIG", &file),
            ("ERL_EPMD_PORT", "epmd"),
            ("ERL_EPMD_ADDRESS", "10.0.0.1:4369"),
            ("EPMD_ALLOW", "beaten and so not looked at"),
        ],
    )
    .unwrap_err();
    assert_eq!(
        errors.to_string().replace(&file, "FILE"),
        r#"epmd: -allow: "10.0.3.5/24" has bits set behind its prefix; write "10.0.3.0/24" for the network or "10.0.3.5" for the host
epmd: -allow: "x" is a name, and names are not looked up; expected an address, such as "10.0.3.5"
epmd: -packet_timeout: "0" is no time; expected whole seconds from 1 to 86400
epmd: -delay_accept: "1.5" is no time; expected whole seconds from 1 to 86400
epmd: -delay_write: "" is no time; expected whole seconds from 1 to 86400
epmd: ERL_EPMD_PORT: "epmd" is no port; expected a number from 0 to 65535
epmd: ERL_EPMD_ADDRESS: "10.0.0.1:4369": a port does not belong here; write "10.0.0.1" (use ERL_EPMD_PORT)
epmd: FILE:1:8: port is true or false; expected a whole number from 0 to 65535, such as port = 4369
    port = true
           ^"#
    );
}

#[test]
fn the_default_file_is_read_where_it_exists() {
    let folder = Folder::new();
    let file = folder.file("default.toml", "port = 7\n");
    let with = |path: &str| sources(&[], &[]).with_default_file(Path::new(path));
    let settings = with(&file).load().unwrap();
    assert_eq!(
        (settings.port, settings.file),
        (7, Some(PathBuf::from(&file)))
    );
    assert_eq!(with(&folder.path("none.toml")).load().unwrap().file, None);
    // A link that leads nowhere is there, and can't be read.
    let link = folder.path("link.toml");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert_eq!(
        with(&link).load().unwrap_err().to_string(),
        format!("epmd: {link}: cannot be read: no such file; expected a readable file")
    );
    // Named ones beat it, and it is not looked at then.
    let broken = folder.file("broken.toml", "port = x\n");
    let sources = sources(&["-config", &file], &[]).with_default_file(Path::new(&broken));
    assert_eq!(sources.load().unwrap().port, 7);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new();
    let error = |name: &str| {
        load(&["-config", name], &[])
            .expect_err(name)
            .to_string()
            .replace(name, "FILE")
    };
    assert_eq!(
        error(&folder.path("none.toml")),
        "epmd: FILE: cannot be read: no such file; expected a readable file"
    );
    assert_eq!(
        error(folder.0.to_str().unwrap()),
        "epmd: FILE: this is a directory; expected a regular file or a pipe"
    );
    assert_eq!(
        error("/dev/zero"),
        "epmd: FILE: this is a device; expected a regular file or a pipe"
    );
    let socket = folder.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(
        error(&socket),
        "epmd: FILE: this is a socket; expected a regular file or a pipe"
    );
    let huge = folder.file("huge.toml", "#".repeat(4 * 1024 * 1024 + 1));
    assert_eq!(
        error(&huge),
        "epmd: FILE: this is too large; expected at most 4194304 bytes"
    );
    let largest = folder.file("largest.toml", "#".repeat(4 * 1024 * 1024));
    assert!(load(&["-config", &largest], &[]).is_ok());
    let secret = folder.file("secret.toml", "");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&secret).is_err() {
        // Not as root, to whom everything is readable.
        assert_eq!(
            error(&secret),
            "epmd: FILE: cannot be read: permission denied; expected a readable file"
        );
    }
}

#[test]
fn a_pipe_is_read_to_its_end_and_hangs_nobody() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    let pipe = |writer: Box<dyn FnOnce(std::io::PipeWriter) -> Option<std::io::PipeWriter>>| {
        let (reader, end) = std::io::pipe().unwrap();
        let _kept = writer(end);
        let name = format!("/proc/self/fd/{}", reader.as_raw_fd());
        load(&["-config", &name], &[]).map_err(|e| e.to_string().replace(&name, "FILE"))
    };
    let settings = pipe(Box::new(|mut end| {
        end.write_all(b"port = 7\n").unwrap();
        None
    }));
    assert_eq!(settings.unwrap().port, 7);
    assert_eq!(
        pipe(Box::new(|_| None)).unwrap_err(),
        "epmd: FILE: this pipe is empty; expected a file's text"
    );
    assert_eq!(
        pipe(Box::new(Some)).unwrap_err(),
        "epmd: FILE: nothing more comes through this pipe; expected its end within 2 seconds"
    );
}

#[test]
fn a_relative_name_is_told_as_given_and_kept_in_full() {
    let errors = load(&["-config", "none-such.toml"], &[]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "epmd: none-such.toml: cannot be read: no such file; expected a readable file"
    );
    let settings = load(&["-config", "Cargo.toml"], &[]);
    assert!(
        settings
            .unwrap_err()
            .to_string()
            .starts_with("epmd: Cargo.toml:1:2: unknown key")
    );
}

#[test]
fn the_file_is_read_again() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "port = 1\naccess.enforce = true\n");
    let sources = sources(&["-config", &file, "-port", "9"], &[]);
    assert!(sources.load().unwrap().rules.enforce);
    folder.file("epmd.toml", "port = 2\naccess.enforce = false\n");
    let settings = sources.load().unwrap();
    assert!(!settings.rules.enforce);
    assert_eq!(settings.port, 9);
    folder.file("epmd.toml", "port = 70000\n");
    assert!(sources.load().is_err());
}

#[test]
fn the_clients_port() {
    let folder = Folder::new();
    let port = |args: &[&str], env: &[(&str, &str)]| sources(args, env).client_port().unwrap();
    assert_eq!(port(&[], &[]), (4369, None));
    assert_eq!(port(&[], &[("ERL_EPMD_PORT", "5")]), (5, None));
    assert_eq!(port(&["-port", "6"], &[("ERL_EPMD_PORT", "x")]), (6, None));
    let file = folder.file("good.toml", "port = 7\n");
    assert_eq!(port(&["-config", &file], &[]), (7, None));
    assert_eq!(port(&["-config", &file, "-port", "8"], &[]), (8, None));
    // What a client does not need can't stop it.
    assert_eq!(
        port(&["-allow", "x", "-packet_timeout", "x"], &[]),
        (4369, None)
    );
    let half = folder.file("half.toml", "port = 7\nbogus = 1\n");
    let warning = format!(
        "epmd: warning: {half}:2:1: unknown key \"bogus\"; expected one of listen, port, access, names, limits, audit, metrics, watch, control, guard; asking port 7"
    );
    assert_eq!(port(&["-config", &half], &[]), (7, Some(warning)));
    let none = folder.path("none.toml");
    let warning = format!(
        "epmd: warning: {none}: cannot be read: no such file; expected a readable file; asking port 4369"
    );
    assert_eq!(port(&["-config", &none], &[]), (4369, Some(warning)));
    assert_eq!(port(&["-config", &none, "-port", "8"], &[]), (8, None));
    for (args, env, message) in [
        (
            &["-port", "abc"][..],
            &[][..],
            r#"epmd: -port: "abc" is no port; expected a number from 0 to 65535"#,
        ),
        (
            &[],
            &[("ERL_EPMD_PORT", "70000")],
            r#"epmd: ERL_EPMD_PORT: "70000" is no port; expected a number from 0 to 65535"#,
        ),
    ] {
        let errors = sources(args, env).client_port().unwrap_err();
        assert_eq!(errors.to_string(), message);
        assert_eq!(errors.exit(), Exit::Config);
    }
}

#[test]
fn what_is_in_force_is_shown_and_who_said_it() {
    assert_eq!(
        show(&Settings::default()),
        "file: none\n\
         listen: every address (0.0.0.0 and ::) [default]\n\
         port: 4369 [default]\n\
         access.allow: this host alone [default]\n\
         access.deny: nobody [default]\n\
         access.list: as access.allow [default]\n\
         access.enforce: true [default]\n\
         access.strangers: none [default]\n\
         names.users: every user of this host [default]\n\
         names.hold: 0s [default]\n\
         limits.connections: 1024 [default]\n\
         limits.per-source: 64 [default]\n\
         limits.request-timeout: 5s [default]\n\
         limits.registrations: 65536 [default]\n\
         audit.format: auto (journald as systemd's service; as a daemon journald, else syslog; else text) [default]\n\
         audit.file: none [default]\n\
         audit.window: 1m [default]\n\
         audit.lookups: false [default]\n\
         metrics.listen: nowhere [default]\n\
         watch.nodes: none [default]\n\
         watch.every: 30s [default]\n\
         watch.after: 2 [default]\n\
         watch.metrics: nowhere [default]\n\
         control.socket: /run/epmd/control.sock (as systemd's service, in its own folder) [default]\n\
         guard.ports: none but those that nodes are registered with [default]\n\
         relaxed_command_check: false [default]\n"
    );
    let folder = Folder::new();
    let file = folder.file("epmd.toml", WHOLE);
    let settings = load(
        &[
            "-config",
            &file,
            "-allow",
            "10.9.0.0/16",
            "-delay_accept",
            "3",
            "-d",
            "-d",
        ],
        &[
            ("ERL_EPMD_PORT", "4371"),
            ("EPMD_ALLOW", "10.8.0.0/16"),
            ("ERL_EPMD_RELAXED_COMMAND_CHECK", ""),
        ],
    )
    .unwrap();
    assert_eq!(
        show(&settings).replace(&file, "FILE"),
        "file: FILE\n\
         listen: 10.0.3.5, fd00:3::5, and loopback (127.0.0.1, 127.0.1.1, ::1) [FILE:2]\n\
         port: 4371 [ERL_EPMD_PORT, which beats FILE:3]\n\
         access.allow: this host, 10.9.0.0/16 [-allow, which beats EPMD_ALLOW and FILE:6]\n\
         access.deny: 10.0.3.66/32; never this host [FILE:7]\n\
         access.list: this host, 10.0.3.10/32 [FILE:8]\n\
         access.enforce: false: lookups and lists are SERVED TO EVERYONE, and what would be refused is logged [FILE:9]\n\
         access.node.wg_man.allow: this host, 10.0.3.0/28 [FILE]\n\
         access.node.\"é\".allow: this host alone [FILE]\n\
         access.strangers: none [default]\n\
         names.users: every user of this host [default]\n\
         names.hold: 0s [default]\n\
         limits.connections: 2048 [FILE:17]\n\
         limits.per-source: 32 [FILE:18]\n\
         limits.request-timeout: 7s [FILE:19]\n\
         limits.registrations: 1000 [FILE:20]\n\
         audit.format: json [FILE:23]\n\
         audit.file: /var/log/epmd.json [FILE:24]\n\
         audit.window: 1m 30s [FILE:25]\n\
         audit.lookups: true [FILE:26]\n\
         metrics.listen: nowhere [default]\n\
         watch.nodes: none [default]\n\
         watch.every: 30s [default]\n\
         watch.after: 2 [default]\n\
         watch.metrics: nowhere [default]\n\
         control.socket: /run/epmd/control.sock (as systemd's service, in its own folder) [default]\n\
         guard.ports: none but those that nodes are registered with [default]\n\
         relaxed_command_check: true [ERL_EPMD_RELAXED_COMMAND_CHECK]\n\
         delay_accept: 3s [-delay_accept]\n\
         debug: 2 [-debug]\n"
    );
    assert_eq!(
        said(&settings, "overridden").replace(&file, "FILE"),
        "access.allow is what -allow says; what EPMD_ALLOW and what FILE:6 says is not in force\n\
         port is what ERL_EPMD_PORT says; what FILE:3 says is not in force"
    );
}

/// What is warned of this kind.
fn said(settings: &Settings, code: &str) -> String {
    let warnings = settings.warnings().into_iter();
    let texts: Vec<_> = warnings
        .filter(|warning| warning.code == code)
        .map(|warning| warning.to_string())
        .collect();
    texts.join("\n")
}

#[test]
fn every_key_of_the_table_is_read_shown_and_documented() {
    let default = show(&Settings::default());
    let manual = settings_markdown();
    for key in KEYS {
        let (path, value) = (key.path, key.example);
        // It takes effect, in a line of its own that names its place.
        let shown = show(&good(&format!("{path} = {value}\n")));
        let changed: Vec<_> = shown
            .lines()
            .filter(|line| !default.contains(line) && !line.starts_with("file: "))
            .collect();
        assert_eq!(changed.len(), 1, "{path}: {changed:?}");
        assert!(changed[0].starts_with(&format!("{path}: ")), "{changed:?}");
        assert!(changed[0].contains("epmd.toml"), "{changed:?}");
        // A wrong one is told.
        assert!(
            !headlines(format!("{path} = 1979-05-27\n")).is_empty(),
            "{path}"
        );
        // The manual has its row.
        let row = format!("| `{path}` | {} | ", key.kind());
        assert!(manual.lines().any(|line| line.starts_with(&row)), "{row}");
        assert!(key.brief.ends_with('.'), "{path}");
    }
}

#[test]
fn every_option_and_variable_of_the_table_gives_its_key() {
    for key in KEYS {
        let value = match key.kind() {
            kind if kind.contains("port") || kind.contains("65535") => "7",
            kind if kind.contains("duration") => "7",
            _ => "10.0.3.5",
        };
        let line = |settings: &Settings| {
            let shown = show(settings);
            let begin = format!("{}: ", key.path);
            shown
                .lines()
                .find(|line| line.starts_with(&begin))
                .unwrap_or_default()
                .to_owned()
        };
        if let Some(name) = key.option {
            assert!(OPTIONS.iter().any(|option| option.name == name), "{name}");
            let shown = line(&load(&[&format!("-{name}"), value], &[]).unwrap());
            assert!(shown.contains('7') || shown.contains(value), "{shown}");
            assert!(shown.ends_with(&format!(" [-{name}]")), "{shown}");
        }
        if let Some(name) = key.variable {
            assert!(key.option.is_some(), "{name} has an option beside it");
            let shown = line(&load(&[], &[(name, value)]).unwrap());
            assert!(shown.contains('7') || shown.contains(value), "{shown}");
            assert!(shown.ends_with(&format!(" [{name}]")), "{shown}");
        }
    }
}

#[test]
fn what_strangers_may_do_is_said() {
    for (content, whom) in [
        ("", "serving this host alone"),
        (
            "access.allow = [\"10.0.3.0/24\"]",
            "serving this host, 10.0.3.0/24",
        ),
        (
            "access.allow = [\"0.0.0.0/1\", \"128.0.0.0/1\"]",
            "serving this host, nearly everyone (0.0.0.0/1, 128.0.0.0/1)",
        ),
        (
            "access.list = [\"*\"]",
            "serving this host alone; all names are listed to this host, everyone (0.0.0.0/0, ::/0)",
        ),
        (
            "access.node.api.allow = [\"*\"]",
            "serving this host alone, and one name has a list of its own; nearly everyone may look up \"api\"",
        ),
        (
            "access.enforce = false",
            "serving lookups and lists to EVERYONE, because access.enforce is false; what it would refuse is logged",
        ),
    ] {
        assert_eq!(good(content).whom_it_serves(), whom);
    }
}

#[test]
fn every_list_that_takes_in_nearly_everybody_is_warned_of() {
    let warned = |content: &str| {
        let folder = Folder::new();
        let file = folder.file("epmd.toml", content);
        let settings = load(&["-config", &file], &[]).unwrap();
        said(&settings, "epmd_serves_everyone").replace(&file, "FILE")
    };
    let end = "give the networks of the cluster's hosts alone";
    assert_eq!(
        warned("access.allow = [\"*\"]"),
        format!(
            "access.allow (FILE:1) admits everyone (0.0.0.0/0, ::/0): strangers may look up every name and list them all; {end}"
        )
    );
    assert_eq!(
        warned("[access]\nallow = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\nlist = []"),
        format!(
            "access.allow (FILE:2) admits nearly everyone (0.0.0.0/1, 128.0.0.0/1): strangers may look up every name; {end}"
        )
    );
    assert_eq!(
        warned("access.list = [\"::/0\"]"),
        format!(
            "access.list (FILE:1) admits nearly everyone (::/0): strangers may list all names; {end}"
        )
    );
    let nodes: String = (0..7)
        .map(|n| format!("access.node.n{n}.allow = [\"2000::/3\"]\n"))
        .collect();
    assert_eq!(
        warned(&nodes),
        format!(
            "access.node (FILE) admits nearly everyone: strangers may look up \"n0\", \"n1\", \"n2\", \"n3\", \"n4\" and 2 more; {end}"
        )
    );
    assert!(warned("access.enforce = false").starts_with("access.enforce is false: "));
    // Nobody is let in by these.
    for content in [
        "access.allow = [\"10.0.0.0/8\", \"fc00::/7\"]",
        "access.allow = [\"*\"]\naccess.deny = [\"*\"]",
        "access.allow = [\"*\"]\nlisten = []",
        "access.allow = [\"*\"]\nlisten = [\"127.0.0.2\"]",
        "",
    ] {
        assert_eq!(warned(content), "", "{content}");
    }
    let settings = load(&["-allow", "*"], &[]).unwrap();
    assert!(said(&settings, "epmd_serves_everyone").starts_with("access.allow (-allow) admits"));
}

#[test]
fn a_port_that_nodes_will_not_ask_is_warned_of() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "port = 4370\n");
    let warned = |args: &[&str], env: &[(&str, &str)]| {
        let settings = load(&[&["-config", &file], args].concat(), env).unwrap();
        said(&settings, "port_only_in_file").replace(&file, "FILE")
    };
    assert_eq!(
        warned(&[], &[]),
        "port is 4370 (FILE:1), and nodes don't read that: they ask at ERL_EPMD_PORT, else at 4369; set \
         ERL_EPMD_PORT=4370 for epmd and for all nodes, or take port out of the file"
    );
    assert_eq!(warned(&[], &[("ERL_EPMD_PORT", "4370")]), "");
    assert_eq!(warned(&["-port", "4370"], &[]), "");
    folder.file("epmd.toml", "port = 4369\n");
    assert_eq!(warned(&[], &[]), "");
    folder.file("epmd.toml", "port = 0\n");
    assert_eq!(warned(&[], &[]), "");
}

#[test]
fn an_empty_list_is_an_empty_list() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "access.allow = [\"*\"]\n");
    for empty in ["", ",", " , "] {
        let settings = load(&["-config", &file, "-allow", empty], &[]).unwrap();
        assert!(settings.rules.allow.is_empty(), "{empty:?}");
        assert_eq!(settings.allow_from, Origin::CommandLine);
        assert_eq!(settings.whom_it_serves(), "serving this host alone");
    }
    let env = [("EPMD_CONFIG", file.as_str()), ("EPMD_ALLOW", ",")];
    let settings = load(&[], &env).unwrap();
    assert!(settings.rules.allow.is_empty());
    assert_eq!(settings.allow_from, Origin::Environment);
    // A variable without a value is as good as none, as in a unit's EnvironmentFile.
    let env = [("EPMD_CONFIG", file.as_str()), ("EPMD_ALLOW", "")];
    let settings = load(&[], &env).unwrap();
    assert_eq!(settings.allow_from, Origin::File);
    assert_eq!(said(&settings, "overridden"), "");
}

#[test]
fn a_file_that_only_the_daemon_may_read_leaves_its_clients_in_silence() {
    // Root reads everything, so it is told here what another user would be.
    let text = "cannot be read: permission denied; expected a readable file";
    let problem = diagnostic::Problem::new("/etc/epmd.toml", text).forbidden();
    assert!(
        Errors::check(vec![problem.clone()])
            .unwrap_err()
            .is_only_forbidden()
    );
    let other = diagnostic::Problem::new("-port", "wrong");
    assert!(
        !Errors::check(vec![problem, other])
            .unwrap_err()
            .is_only_forbidden()
    );
    let folder = Folder::new();
    let secret = folder.file("secret.toml", "port = 7\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&secret).is_err() {
        let sources = sources(&[], &[]).with_default_file(Path::new(&secret));
        assert_eq!(sources.client_port().unwrap(), (4369, None));
        assert!(sources.load().unwrap_err().is_only_forbidden());
    }
}

#[test]
fn a_file_for_lines_and_journald_exclude_each_other() {
    let settings = good("[audit]\nfile = \"/proc/1/fd/2\"\n");
    assert_eq!(settings.audit.file, Some("/proc/1/fd/2".into()));
    let wrong = "file is of no use with format = \"journald\"; expected one of the two, or format = \"json\" or \"text\"";
    for (text, place) in [
        ("[audit]\nformat = \"journald\"\n  file = \"/x\"\n", "3:3"),
        ("audit.file = \"/x\"\naudit.format = \"journald\"\n", "1:1"),
    ] {
        assert_eq!(headlines(text), [format!("{place}: {wrong}")]);
    }
    for value in ["\"epmd.log\"", "\"\"", "7", "\"/a\\u0000b\""] {
        let told = headlines(format!("[audit]\nfile = {value}\n"));
        assert!(told[0].contains("expected a file's full name"), "{told:?}");
    }
}

#[test]
fn the_control_socket_is_where_the_file_says() {
    let of = |value: &str| good(&format!("[control]\nsocket = {value}\n")).control;
    assert_eq!(good("").control, Control::Default);
    assert_eq!(of("\"none\""), Control::None);
    assert_eq!(of("\"/tmp/e/c.sock\""), Control::At("/tmp/e/c.sock".into()));
    let longest = format!("\"/{}\"", "x".repeat(106));
    assert!(matches!(of(&longest), Control::At(_)));
    let longer = format!("\"/{}\"", "x".repeat(107));
    for value in [
        "\"None\"",
        "\"c.sock\"",
        "\"\"",
        "\"/tmp/\"",
        "false",
        &longer,
    ] {
        let told = headlines(format!("[control]\nsocket = {value}\n"));
        assert!(told[0].starts_with("2:10: control.socket is "), "{told:?}");
        assert!(
            told[0].contains("expected \"none\", or a socket's full name"),
            "{told:?}"
        );
    }
}

#[test]
fn a_client_asks_at_the_socket_of_the_file_and_of_its_option() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "[control]\nsocket = \"/a/b\"\n");
    assert_eq!(
        sources(&["-config", &file], &[]).control(),
        Control::At("/a/b".into())
    );
    assert_eq!(
        sources(&[], &[("EPMD_CONFIG", &file)]).control(),
        Control::At("/a/b".into())
    );
    let given = sources(&["-config", &file, "-status", "-socket", "/c/d"], &[]);
    assert_eq!(given.control(), Control::At("/c/d".into()));
    // Relative to where it was typed; `none` is a name like another there.
    let here = std::env::current_dir().unwrap().join("none");
    assert_eq!(
        sources(&["-status", "-socket", "none"], &[]).control(),
        Control::At(here)
    );
    // What is not there, wrong, or none of a file is as good as nothing, in silence.
    let broken = folder.file("broken.toml", "[control]\nsocket = 7\n");
    for config in [&broken, "/nonexistent", "/dev/full", "/"] {
        assert_eq!(
            sources(&["-config", config], &[]).control(),
            Control::Default
        );
    }
}

#[test]
fn a_message_names_the_variable_that_named_a_file() {
    let errors = load(&[], &[("EPMD_CONFIG", "/nonexistent/x")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "epmd: /nonexistent/x: cannot be read: no such file; expected a readable file (EPMD_CONFIG names it)"
    );
    assert_eq!(
        errors.for_log(),
        "/nonexistent/x: cannot be read: no such file; expected a readable file (EPMD_CONFIG names it)"
    );
}

#[test]
fn behind_a_line_that_says_its_name_it_is_not_said_again() {
    let folder = Folder::new();
    let file = folder.file("epmd.toml", "port = x\nlisen = 1\n");
    let errors = load(&["-config", &file], &[]).unwrap_err();
    let text = errors.for_log();
    assert!(!text.contains("epmd: "), "{text}");
    assert_eq!(errors.to_string().replace("epmd: ", ""), text);
}

/// Sources may be read by a thread of its own, while a file system hangs.
#[test]
fn settings_are_read_in_any_thread() {
    let sources = sources(&["-port", "9"], &[]);
    let (settings, _) = std::thread::spawn(move || sources.load_and_keep())
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(settings.port, 9);
}

/// Files of the largest size that are wrong all over, each kind in another way.
fn huge_wrong_files() -> Vec<(&'static str, String)> {
    const SIZE: usize = 4 * 1024 * 1024;
    let lines = |line: &str| line.repeat(SIZE / line.len());
    let numbered = |line: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for n in 0.. {
            let line = line(n);
            if text.len() + line.len() > SIZE {
                break;
            }
            text.push_str(&line);
        }
        text
    };
    vec![
        ("equals signs", lines("=\n")),
        ("equals signs on one line", lines("=")),
        ("equals signs in a list", format!("a = [{}", lines("=\n"))),
        ("newlines", lines("\n")),
        ("commas", lines(",")),
        ("bare keys", lines("a\n")),
        ("bare keys that differ", numbered(&|n| format!("k{n}\n"))),
        ("one bare key", lines("a")),
        ("unknown keys", numbered(&|n| format!("k{n}=1\n"))),
        (
            "unknown keys, the last first",
            numbered(&|n| format!("k{}=1\n", 9_999_999 - n)),
        ),
        ("a key over and over", lines("port=1\n")),
        ("a table over and over", lines("[access]\n")),
        ("lists of tables", lines("[[limits]]\n")),
        ("unclosed tables", lines("[\n")),
        ("unclosed brackets", lines("[")),
        ("brackets in a list", format!("listen={}", lines("["))),
        ("braces", format!("listen={}", lines("{a="))),
        ("dots", lines("a.")),
        ("a long key", format!("{}=1", lines("k"))),
        ("a long name", format!("access.node.{}.allow=1", lines("k"))),
        ("numbers in a list", format!("listen=[{}]", lines("1,"))),
        (
            "wrong networks",
            format!("access.allow=[{}]", lines("\"10.0.3.5/24\",")),
        ),
        (
            "wrong networks on lines",
            format!("access.allow=[\n{}]", lines("\"10.0.3.5/24\",\n")),
        ),
        (
            "wrong networks behind right ones",
            format!(
                "access.allow=[{}{}]",
                lines("\"10.0.3.0/24\",")
                    .split_at(SIZE - SIZE % 14 - 14 * 400)
                    .0,
                "\"10.0.3.5/24\",".repeat(300)
            ),
        ),
        ("wrong numbers", numbered(&|n| format!("k{n}=1e\n"))),
        ("wrong strings", numbered(&|n| format!("k{n}=\"\\q\"\n"))),
        ("unclosed strings", numbered(&|n| format!("k{n}=\"\n"))),
        ("an unclosed string", format!("k=\"\"\"{}", lines("x\n"))),
        ("control characters", lines("#\u{1}\n")),
        (
            "nodes without a list",
            numbered(&|n| format!("[access.node.n{n}]\n")),
        ),
        (
            "nodes that are none",
            numbered(&|n| format!("access.node.\"a b{n}\".x=1\n")),
        ),
        ("marks", lines("\u{fffd}")),
    ]
    .into_iter()
    .map(|(kind, mut text)| {
        let mut end = text.len().min(SIZE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        (kind, text)
    })
    .collect()
}

#[test]
fn a_huge_file_that_is_wrong_all_over_costs_little() {
    for (kind, text) in huge_wrong_files() {
        let begin = Instant::now();
        let lines = bad(&text).lines().count();
        let took = begin.elapsed();
        println!("{kind}: {lines} lines, {took:?}");
        assert!(lines <= 3 * (diagnostic::MOST_SHOWN + 1), "{kind}: {lines}");
        assert!(took < Duration::from_secs(5), "{kind}: {took:?}");
    }
    let begin = Instant::now();
    let told = bad(vec![0xff; 4 * 1024 * 1024]);
    assert!(
        told.ends_with("epmd: FILE: 4194104 more mistakes; expected none, the first 200 are shown")
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
    // The first of them are told as those of a small file are.
    let few = "=\n".repeat(1000);
    let many = "=\n".repeat(1_000_000);
    let first = |text: &str| headlines(text)[..diagnostic::MOST_SHOWN].to_vec();
    assert_eq!(first(&many), first(&few));
    for table in ["", "[limits]\n"] {
        let many: String = (0..400_000).map(|n| format!("k{n}=1\n")).collect();
        assert!(first(&format!("{table}{many}"))[0].contains("unknown key"));
    }
}

#[test]
fn long_lists_are_cut() {
    let mut settings = Settings {
        listen: Some(vec![]),
        port: 0,
        ..Settings::default()
    };
    settings.rules.allow = nets(&["0.0.0.0/0", "::/0"]);
    settings.rules.deny = (0..25)
        .map(|n| format!("10.0.{n}.0/24").parse().unwrap())
        .collect();
    settings.rules.nodes = (0..22)
        .map(|n| (format!("n{n:02}").into_bytes().into(), Networks::default()))
        .collect();
    let text = show(&settings);
    for line in [
        "listen: loopback (127.0.0.1, 127.0.1.1, ::1) alone",
        "port: 0 (the kernel chooses)",
        "access.allow: this host, everyone (0.0.0.0/0, ::/0)",
        "access.node: and 2 more",
    ] {
        let line = format!("{line} [default]");
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.contains("10.0.19.0/24, and 5 more; never this host [default]\n"));
    assert!(text.contains("access.node.n19.allow: this host alone [default]\n"));
    assert!(!text.contains("n20"));
}
