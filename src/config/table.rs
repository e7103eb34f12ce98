//! The table of the file's keys: what there is, of which type, by default, and what it does.
//!
//! The walk over the file in `file`, the hints at unknown keys, the options and variables that give the
//! same values, what `-check_config` prints, and the manual's table all come from it, so that they can't
//! disagree. A new key is a row here, a field of the settings, and its use. It reads nothing itself.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::control::Control;
use super::guard;
use super::mistakes::Mistakes;
use super::options::OPTIONS;
use super::said;
use super::settings::Settings;
use super::types::{Giver, Type, Value};
use super::words::bare_or_quoted;

/// Stands in a path for any node's name.
pub(super) const NAME: &str = "NAME";

/// One key of the file.
#[derive(Clone, Copy)]
pub struct Key {
    /// Its tables and its name, with dots between them; `NAME` stands for a node's name.
    pub path: &'static str,
    /// The option that gives it too, without its dash.
    pub option: Option<&'static str>,
    /// The environment variable that gives it too.
    pub variable: Option<&'static str>,
    /// What it does, in a sentence.
    pub brief: &'static str,
    /// A value as it stands in the file, for the manual page; the keys' examples make one good file.
    pub example: &'static str,
    /// Its field, its type, and how it is shown.
    pub(super) slot: &'static dyn Slot,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

impl Key {
    /// The one that the client commands need, and that alone.
    pub(super) const fn port() -> &'static Self {
        &PORT
    }

    /// Its type, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.slot.kind()
    }

    /// What is in force where nobody says anything; empty for what stands in a node's table.
    #[must_use]
    pub fn default_value(&self) -> String {
        let mut lines = self.slot.lines(self.path, &Settings::default());
        lines.pop().map(|(_, value)| value).unwrap_or_default()
    }
}

/// Gives what makes a [`Field`]: how its place in the settings is found, to read and to write.
macro_rules! field {
    ($type:ident, $($name:ident).+, $show:expr $(, $more:ident: $value:expr)?) => {
        $type {
            $($more: $value,)?
            get: |settings| &settings.$($name).+,
            get_mut: |settings| &mut settings.$($name).+,
            show: $show,
        }
    };
}

/// At the file's top, and what the client commands need alone.
const PORT: Key = Key {
    path: "port",
    option: Some("port"),
    variable: Some("ERL_EPMD_PORT"),
    brief: "Listen on this port; 0 lets the kernel choose. Nodes ask at ERL_EPMD_PORT, else at 4369, \
            whatever stands here.",
    example: "4369",
    slot: &field!(Field, port, said::port),
};

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        path: "listen",
        option: Some("address"),
        variable: Some("ERL_EPMD_ADDRESS"),
        brief: "Addresses to listen on; loopback is always added.",
        example: "[\"10.0.3.5\", \"fd00:3::5\"]",
        slot: &field!(Field, listen, said::listen),
    },
    PORT,
    Key {
        path: "access.allow",
        option: Some("allow"),
        variable: Some("EPMD_ALLOW"),
        brief: "Who may look names up here; this host always may.",
        example: "[\"10.0.3.0/24\", \"fd00:3::/64\"]",
        slot: &field!(Field, rules.allow, said::served),
    },
    Key {
        path: "access.deny",
        option: None,
        variable: None,
        brief: "Who is refused whatever the other lists say; never this host.",
        example: "[\"10.0.3.66\"]",
        slot: &field!(Field, rules.deny, said::denied),
    },
    Key {
        path: "access.list",
        option: None,
        variable: None,
        brief: "Who may list all names; this host always may.",
        example: "[\"10.0.3.10\"]",
        slot: &field!(Field, rules.list, said::list_of_names),
    },
    Key {
        path: "access.enforce",
        option: None,
        variable: None,
        brief: "False: lookups and lists are served to everyone, and what would have been refused is \
                logged.",
        example: "false",
        slot: &field!(Field, rules.enforce, said::enforce),
    },
    Key {
        path: "access.node.NAME.allow",
        option: None,
        variable: None,
        brief: "Who may look this name up, in place of access.allow.",
        example: "[\"10.0.3.0/28\"]",
        slot: &field!(
            ByNode,
            rules.nodes,
            said::served,
            missing: "expected one, such as allow = [\"10.0.3.0/28\"], or [] for this host alone"
        ),
    },
    Key {
        path: "access.strangers",
        option: None,
        variable: None,
        brief: "Addresses of this host that a proxy has: their peers are strangers, decided by the lists.",
        example: "[\"127.0.0.6\"]",
        slot: &field!(Field, rules.strangers, said::strangers),
    },
    Key {
        path: "names.users",
        option: None,
        variable: None,
        brief: "Which users of this host may register names; root always may.",
        example: "[\"root\", \"1001\"]",
        slot: &field!(Field, names.users, said::owners),
    },
    Key {
        path: "names.hold",
        option: None,
        variable: None,
        brief: "A name that is released stays its last user's for so long.",
        example: "\"60s\"",
        slot: &field!(Field, names.hold, said::hold),
    },
    Key {
        path: "names.node.NAME.users",
        option: None,
        variable: None,
        brief: "Who may register this name, in place of names.users.",
        example: "[\"1002\"]",
        slot: &field!(
            ByNode,
            names.nodes,
            said::users,
            missing: "expected one, such as users = [\"deploy\"], or [] for root alone"
        ),
    },
    Key {
        path: "limits.connections",
        option: None,
        variable: None,
        brief: "Connections open at once, registrations apart.",
        example: "2048",
        slot: &field!(Field, limits.connections, ToString::to_string),
    },
    Key {
        path: "limits.per-source",
        option: None,
        variable: None,
        brief: "Of these from one address (IPv6: one /64); this host is exempt.",
        example: "128",
        slot: &field!(Field, limits.per_source, ToString::to_string),
    },
    Key {
        path: "limits.request-timeout",
        option: Some("packet_timeout"),
        variable: None,
        brief: "From accept to the last byte of the request.",
        example: "\"10s\"",
        slot: &field!(Field, limits.request_timeout, said::time),
    },
    Key {
        path: "limits.registrations",
        option: None,
        variable: None,
        brief: "Names at once, as far as the descriptor limit goes.",
        example: "1000",
        slot: &field!(Field, limits.registrations, ToString::to_string),
    },
    Key {
        path: "audit.format",
        option: None,
        variable: None,
        brief: "Where and how lines are written.",
        example: "\"json\"",
        slot: &field!(Field, audit.format, said::format),
    },
    Key {
        path: "audit.file",
        option: None,
        variable: None,
        brief: "Append lines to this file, as JSON or text; it is opened anew at SIGHUP. A pipe, /dev/stderr and \
                /proc/1/fd/2 will do as well.",
        example: "\"/var/log/epmd.log\"",
        slot: &field!(Field, audit.file, said::file),
    },
    Key {
        path: "audit.window",
        option: None,
        variable: None,
        brief: "Repeats of a refusal within it are counted, and told once at its end.",
        example: "\"5m\"",
        slot: &field!(Field, audit.window, said::time),
    },
    Key {
        path: "audit.lookups",
        option: None,
        variable: None,
        brief: "True: answered lookups are logged as well.",
        example: "true",
        slot: &field!(Field, audit.lookups, ToString::to_string),
    },
    Key {
        path: "metrics.listen",
        option: None,
        variable: None,
        brief: "Where Prometheus may read the counters, at /metrics.",
        example: "\"127.0.0.1:9436\"",
        slot: &field!(Field, metrics, said::metrics),
    },
    Key {
        path: "watch.nodes",
        option: None,
        variable: None,
        brief: "The nodes that -watch examines.",
        example: "[\"api@api.test\", \"dashboard@dashboard.test\"]",
        slot: &field!(Field, watch.nodes, |nodes| said::nodes(nodes)),
    },
    Key {
        path: "watch.every",
        option: None,
        variable: None,
        brief: "How often -watch examines each of them.",
        example: "\"1m\"",
        slot: &field!(Field, watch.every, said::every),
    },
    Key {
        path: "watch.after",
        option: None,
        variable: None,
        brief: "How many rounds a change has to hold before -watch tells it.",
        example: "3",
        slot: &field!(Field, watch.after, ToString::to_string),
    },
    Key {
        path: "watch.metrics",
        option: None,
        variable: None,
        brief: "Where Prometheus may read what -watch finds, at /metrics.",
        example: "\"127.0.0.1:9437\"",
        slot: &field!(Field, watch.metrics, said::metrics),
    },
    Key {
        path: "control.socket",
        option: None,
        variable: None,
        brief: "Where epmd -status asks the daemon, or \"none\"; its folder may be nobody else's to write to.",
        example: "\"/var/lib/app/epmd/control.sock\"",
        slot: &field!(Field, control, Control::said),
    },
    Key {
        path: "guard.ports",
        option: None,
        variable: None,
        brief: "Ports that `epmd -guard` guards whether a node is registered with them or not.",
        example: "[\"9100-9109\"]",
        slot: &field!(Field, guard, guard::shown),
    },
];

/// What a row does with the settings.
pub(super) trait Slot: Sync {
    /// Its type, in words.
    fn kind(&self) -> &'static str;

    /// Reads the value of the key `path`, of this node where the path has one.
    fn read(
        &self,
        path: &str,
        node: Option<&str>,
        value: &Value<'_>,
        settings: &mut Settings,
        mistakes: &mut Mistakes<'_>,
    );

    /// Reads an option's or variable's text; false where it is as good as not given.
    ///
    /// # Errors
    /// All that is wrong with it.
    fn read_text(
        &self,
        text: &str,
        giver: Giver,
        settings: &mut Settings,
    ) -> Result<bool, Vec<String>>;

    /// Names and values, for `-check_config`.
    fn lines(&self, path: &str, settings: &Settings) -> Vec<(String, String)>;

    /// What is told of a node's table that lacks it, where it must not.
    fn missing(&self) -> Option<&'static str> {
        None
    }
}

/// A row with a field of its own.
struct Field<T> {
    get: fn(&Settings) -> &T,
    get_mut: fn(&mut Settings) -> &mut T,
    show: fn(&T) -> String,
}

impl<T: Type> Slot for Field<T> {
    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn read(
        &self,
        path: &str,
        _node: Option<&str>,
        value: &Value<'_>,
        settings: &mut Settings,
        mistakes: &mut Mistakes<'_>,
    ) {
        if let Some(value) = T::from_toml(path, value, mistakes) {
            *(self.get_mut)(settings) = value;
        }
    }

    fn read_text(
        &self,
        text: &str,
        giver: Giver,
        settings: &mut Settings,
    ) -> Result<bool, Vec<String>> {
        let value = T::from_text(text, giver)?;
        let given = value.is_some();
        if let Some(value) = value {
            *(self.get_mut)(settings) = value;
        }
        Ok(given)
    }

    fn lines(&self, path: &str, settings: &Settings) -> Vec<(String, String)> {
        vec![(path.to_owned(), (self.show)((self.get)(settings)))]
    }
}

/// Values by the UTF-8 bytes of a node's name.
type Nodes<T> = HashMap<Box<[u8]>, T>;

/// A row that stands once in the table of each node.
struct ByNode<T> {
    get: fn(&Settings) -> &Nodes<T>,
    get_mut: fn(&mut Settings) -> &mut Nodes<T>,
    show: fn(&T) -> String,
    missing: &'static str,
}

impl<T: Type> Slot for ByNode<T> {
    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn read(
        &self,
        path: &str,
        node: Option<&str>,
        value: &Value<'_>,
        settings: &mut Settings,
        mistakes: &mut Mistakes<'_>,
    ) {
        if let (Some(node), Some(value)) = (node, T::from_toml(path, value, mistakes)) {
            (self.get_mut)(settings).insert(node.as_bytes().into(), value);
        }
    }

    fn read_text(&self, _: &str, _: Giver, _: &mut Settings) -> Result<bool, Vec<String>> {
        Ok(false)
    }

    fn lines(&self, path: &str, settings: &Settings) -> Vec<(String, String)> {
        let mut nodes: Vec<_> = (self.get)(settings).iter().collect();
        nodes.sort_unstable_by_key(|(name, _)| *name);
        let mut lines: Vec<_> = nodes
            .iter()
            .take(said::MOST_SHOWN)
            .map(|(name, value)| {
                let name = bare_or_quoted(&String::from_utf8_lossy(name));
                (path.replace(NAME, &name), (self.show)(value))
            })
            .collect();
        if let Some(rest) = said::more(nodes.len()) {
            let section = path.split_once(NAME).map_or(path, |(section, _)| section);
            lines.push((section.trim_end_matches('.').to_owned(), rest));
        }
        lines
    }

    fn missing(&self) -> Option<&'static str> {
        Some(self.missing)
    }
}

/// The row of this path.
pub(super) fn row(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The keys and tables of a table; `prefix` is its path and a dot, or empty for the file's top.
pub(super) fn children(prefix: &str) -> Vec<&'static str> {
    let rest = KEYS.iter().filter_map(|key| key.path.strip_prefix(prefix));
    let mut children: Vec<_> = rest.filter_map(|rest| rest.split('.').next()).collect();
    children.dedup();
    children
}

/// The table, outside those of nodes, that has a key of this name.
pub(super) fn belongs(name: &str) -> Option<String> {
    let has = |at: usize| move |key: &&Key| key.path.split('.').nth(at) == Some(name);
    if KEYS.iter().any(|key| has(0)(&key)) {
        return Some("at the top of the file".to_owned());
    }
    let section = KEYS.iter().find(has(1))?.path.split('.').next()?;
    Some(format!("in [{section}]"))
}

/// The table as Markdown, for the manual. Ends with a newline.
#[must_use]
pub fn settings_markdown() -> String {
    let mut text =
        "| key | type | default | option | variable | what it does |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for key in KEYS {
        let option = OPTIONS
            .iter()
            .find(|option| Some(option.name) == key.option);
        let option = option.map(|option| format!("`{}`", option.synopsis()));
        let variable = key.variable.map(|name| format!("`{name}`"));
        let default = match key.default_value() {
            value if value.is_empty() => "none".to_owned(),
            value => value,
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {} | {} | {} |",
            key.path,
            key.kind(),
            option.unwrap_or_default(),
            variable.unwrap_or_default(),
            key.brief
        );
    }
    text
}
