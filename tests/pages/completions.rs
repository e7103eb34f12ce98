//! The completions for bash, zsh and fish, made of the table of options.
//!
//! What stands behind an option is known by the word that the table has for its value. Names of nodes come from
//! strangers to whoever completes, root among them: each script takes those alone that no shell could take for
//! anything else, and hands them to nothing that evaluates.

use std::fmt::Write as _;

use hardened_epmd::config::{OPTIONS, OptionSpec};

/// What can be offered for an option's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Names of files.
    Files,
    /// Names that are registered here.
    Names,
    /// These words.
    Words(&'static [&'static str]),
    /// Nothing that is known.
    Unknown,
}

/// What stands behind an option, where it takes a word.
fn values(option: &OptionSpec) -> Option<Values> {
    if !option.takes_the_next() {
        return None;
    }
    Some(match option.value? {
        "File" => Values::Files,
        "Name" => Values::Names,
        "Proto" => Values::Words(&["inet_tcp", "inet6_tcp"]),
        "Time" => Values::Words(&["today", "yesterday", "-1h"]),
        _ => Values::Unknown,
    })
}

/// What may stand behind an option's equals sign.
fn behind_equals(option: &OptionSpec) -> Option<&'static str> {
    option.value?.strip_prefix("[=")?.strip_suffix(']')
}

/// Whether nodes stand behind a command.
fn takes_nodes(option: &OptionSpec) -> bool {
    option
        .operands
        .is_some_and(|operands| operands.starts_with("Node@"))
}

/// All names with a dash, and what they are of.
fn names() -> impl Iterator<Item = (String, &'static OptionSpec)> {
    OPTIONS.iter().flat_map(|option| {
        let short = option.short.map(|short| format!("-{short}"));
        short
            .into_iter()
            .chain([format!("-{}", option.name)])
            .map(move |name| (name, option))
    })
}

/// The names of those that this goes for, with bars between them.
fn patterns(wanted: impl Fn(&OptionSpec) -> bool) -> String {
    let found = names().filter(|(_, option)| wanted(option));
    let found: Vec<_> = found.map(|(name, _)| name).collect();
    found.join("|")
}

/// What is said of an option in a list: up to its first full stop or colon.
fn brief(option: &OptionSpec) -> String {
    let text = option.brief;
    let end = text.find([':', ';']).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or(text);
    text.trim_end_matches('.').to_owned()
}

const HEAD: &str = "made of the table of options by tests/pages: change that, not this.\n";

/// completions/epmd.bash.
pub(crate) fn bash() -> String {
    let mut words: Vec<_> = names().map(|(name, _)| name).collect();
    for option in OPTIONS {
        if let Some(value) = behind_equals(option) {
            words.push(format!("-{}={value}", option.name));
        }
    }
    let words = words.join(" ");
    let mut cases = String::new();
    let files = patterns(|option| values(option) == Some(Values::Files));
    let _ = writeln!(
        cases,
        "        {files})\n            compopt -o filenames 2>/dev/null\n            mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n            return\n            ;;"
    );
    let registered = patterns(|option| values(option) == Some(Values::Names));
    let _ = writeln!(
        cases,
        "        {registered})\n            mapfile -t offered < <(_epmd_names)\n            ;;"
    );
    for option in OPTIONS {
        if let Some(Values::Words(words)) = values(option) {
            let name = &option.name;
            let words = words.join(" ");
            let _ = writeln!(
                cases,
                "        -{name})\n            offered=({words})\n            ;;"
            );
        }
    }
    let unknown = patterns(|option| values(option) == Some(Values::Unknown));
    let nodes = patterns(takes_nodes);
    format!(
        r#"# Completion of epmd for bash, {HEAD}
# The names that the epmd of this command line lists.
_epmd_names() {{
    local line
    "${{_epmd_ask[@]}}" -names 2>/dev/null | while read -r line; do
        # Any user of this host may have given them.
        if [[ $line =~ ^name\ ([A-Za-z0-9_.-]+)\ at\ port\ [0-9]+$ ]]; then
            printf '%s\n' "${{BASH_REMATCH[1]}}"
        fi
    done
}}

_epmd() {{
    local word before behind i name offered=() _epmd_ask=("${{COMP_WORDS[0]}}") operands=no
    COMPREPLY=()
    # Words as the shell sees them: bash's own are broken at = : and @.
    local line=${{COMP_LINE:0:COMP_POINT}} words=()
    read -ra words <<<"$line"
    word=
    if [[ $line != *[[:space:]] ]]; then
        word=${{words[-1]}}
        unset 'words[-1]'
    fi
    before=
    ((${{#words[@]}} > 1)) && before=${{words[-1]/#--/-}}
    for ((i = 1; i < ${{#words[@]}}; i++)); do
        case ${{words[i]/#--/-}} in
            -port) [[ ${{words[i + 1]-}} =~ ^[0-9]+$ ]] && _epmd_ask+=(-port "${{words[i + 1]}}") ;;
            {nodes}) operands=yes ;;
        esac
    done
    case $before in
{cases}        {unknown}) return ;;
        *)
            if [[ $word == -* ]]; then
                offered=({words})
                [[ $word == --* ]] && offered=("${{offered[@]/#-/--}}")
            elif [[ $operands == yes ]]; then
                while read -r name; do
                    offered+=("$name@${{HOSTNAME%%.*}}")
                    [[ $HOSTNAME == *.* ]] && offered+=("$name@$HOSTNAME")
                done < <(_epmd_names)
            elif [[ -z $word ]]; then
                offered=({words})
            fi
            ;;
    esac
    # What stands before the last of bash's breaks is there already.
    behind=${{word##*[=:@]}}
    for name in "${{offered[@]}}"; do
        [[ $name == "$word"* ]] && COMPREPLY+=("${{name#"${{word%"$behind"}}"}}")
    done
}}

complete -F _epmd epmd
"#
    )
}

/// completions/_epmd, for zsh.
pub(crate) fn zsh() -> String {
    let mut specs = String::new();
    for option in OPTIONS {
        let brief = brief(option)
            .replace('\\', "\\\\")
            .replace('[', "\\[")
            .replace(']', "\\]")
            .replace('\'', "'\\''");
        let behind = match values(option) {
            Some(Values::Files) => ":file:_files".to_owned(),
            Some(Values::Names) => ":name:_epmd_names".to_owned(),
            Some(Values::Words(words)) => format!(":value:({})", words.join(" ")),
            Some(Values::Unknown) => format!(":{}: ", option.value.unwrap_or("value")),
            None => String::new(),
        };
        let name = option.name;
        let spec = match (option.short, behind_equals(option)) {
            (_, Some(value)) => format!("'-{name}=-[{brief}]::value:({value})'"),
            (Some(short), None) => format!("'*'{{-{short},-{name}}}'[{brief}]{behind}'"),
            (None, None) => format!("'-{name}[{brief}]{behind}'"),
        };
        let _ = writeln!(specs, "    {spec} \\");
    }
    let nodes = patterns(takes_nodes);
    format!(
        r#"#compdef epmd
# Completion of epmd for zsh, {HEAD}
# The names that the epmd of this command line lists, into reply.
_epmd_listed() {{
  local -a ask
  local -i port
  ask=(${{(Q)words[1]}})
  port=${{words[(I)-port]}}
  (( port )) && [[ ${{words[port+1]}} == <-> ]] && ask+=(-port ${{words[port+1]}})
  reply=("${{(f)$($ask -names 2>/dev/null)}}")
  # Any user of this host may have given them.
  reply=(${{(M)reply:#name [A-Za-z0-9_.-]## at port <->}})
  reply=(${{${{reply#name }}%% at port *}})
}}

_epmd_names() {{
  local -a reply
  _epmd_listed
  compadd "$@" -- $reply
}}

_epmd_nodes() {{
  (( ${{words[(I)({nodes}|-{nodes})]}} )) || return 1
  local -a reply hosts
  local host
  _epmd_listed
  hosts=(${{HOST%%.*}})
  [[ $HOST == *.* ]] && hosts+=($HOST)
  for host in $hosts; do
    compadd "$@" -- ${{^reply}}@$host
  done
}}

_epmd() {{
  setopt localoptions extendedglob
  _arguments \
{specs}    '*:node:_epmd_nodes'
}}

_epmd "$@"
"#
    )
}

/// completions/epmd.fish.
pub(crate) fn fish() -> String {
    let mut lines = String::new();
    for option in OPTIONS {
        let brief = brief(option).replace('\\', "\\\\").replace('\'', "\\'");
        let short = option.short.map(|short| format!(" -o {short}"));
        let behind = match values(option) {
            Some(Values::Files) => " -r -F".to_owned(),
            Some(Values::Names) => " -x -a '(__epmd_names)'".to_owned(),
            Some(Values::Words(words)) => format!(" -x -a '{}'", words.join(" ")),
            Some(Values::Unknown) => " -x".to_owned(),
            None => String::new(),
        };
        let name = option.name;
        let _ = writeln!(
            lines,
            "complete -c epmd{} -o {name}{behind} -d '{brief}'",
            short.unwrap_or_default()
        );
        if let Some(value) = behind_equals(option) {
            let _ = writeln!(
                lines,
                "complete -c epmd -n 'string match -q -- \"-*\" (commandline -ct)' -a '-{name}={value}' -d '{brief}'"
            );
        }
        if takes_nodes(option) {
            let _ = writeln!(
                lines,
                "complete -c epmd -n '__fish_seen_argument -o {name}' -a '(__epmd_nodes)' -d 'Registered here'"
            );
        }
    }
    format!(
        r#"# Completion of epmd for fish, {HEAD}
# The names that the epmd of this command line lists.
function __epmd_names
    set -l words (commandline -opc)
    set -l ask $words[1]
    if set -l at (contains -i -- -port $words)
        set -l port $words[(math $at + 1)]
        string match -qr '^[0-9]+$' -- "$port"; and set ask $ask -port $port
    end
    # Any user of this host may have given them.
    command $ask -names 2>/dev/null | string replace -rf '^name ([A-Za-z0-9_.-]+) at port [0-9]+$' '$1'
end

function __epmd_nodes
    for name in (__epmd_names)
        echo $name@(string replace -r '\..*' '' -- $hostname)
        string match -q '*.*' -- $hostname; and echo $name@$hostname
    end
end

complete -c epmd -f
{lines}"#
    )
}
