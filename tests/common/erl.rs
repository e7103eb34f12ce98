//! Real Erlang nodes on hosts of their own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::netns::Host;

/// How long a node may take for one answer, its own start included, on a busy machine.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// Evaluates line by line what comes on standard input; each answer is a line with a mark, because
/// a node logs to the same stream. Ends with its input.
const EVALUATE: &str = r#"
    Answer = fun(Line) ->
        try
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Value, _} = erl_eval:exprs(Expressions, []),
            Value
        catch Class:Reason -> {Class, Reason}
        end
    end,
    Loop = fun Loop() ->
        case io:get_line("") of
            eof -> halt(0);
            Line -> io:format("~n=> ~0p~n", [Answer(Line)]), Loop()
        end
    end,
    spawn(Loop)."#;

/// A real node; dropping it ends it.
pub(crate) struct Erl {
    child: Child,
    /// What it is asked.
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Erl {
    /// A node with this full name, which it registers with its own host's epmd.
    pub(crate) fn named(host: &Host, name: &str, arguments: &[&str]) -> Self {
        let mut child = host.spawn(
            Command::new("erl")
                .args(["-name", name, "-setcookie", "cluster"])
                // There is an epmd, and it is to be ours.
                .args(["-start_epmd", "false", "-noshell", "-eval", EVALUATE])
                .args(arguments)
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", host.file(""))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let input = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        // It ends with the node's output, or with the test.
        std::thread::spawn(move || {
            let mut all = BufReader::new(output).lines().map_while(Result::ok);
            all.try_for_each(|line| sender.send(line))
        });
        let mut node = Self {
            child,
            input,
            lines,
        };
        assert_eq!(node.eval("node()"), format!("'{name}'"));
        node
    }

    /// The value of an Erlang expression, as the node prints it.
    pub(crate) fn eval(&mut self, expression: &str) -> String {
        writeln!(self.input, "{expression}.").expect("a node that reads");
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(NODE_PATIENCE) {
                Ok(line) => match line.strip_prefix("=> ") {
                    Some(value) => return value.to_owned(),
                    None => others.push(line),
                },
                Err(error) => panic!("{expression}: {error}; the node said {others:#?}"),
            }
        }
    }
}

impl Drop for Erl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
