//! What this epmd costs, against stock epmd and against the least that an epmd could do.
//!
//! ```text
//! cargo bench --bench load                      # the table; as root also the lines over a link
//! cargo bench --bench load -- --svg docs/cost.svg --json cost.json
//! cargo bench --bench load -- --quick           # a short form: whether it runs, not what it costs
//! ```
//!
//! Server CPU per request is the measure: the scheduler's own count of the server's process, which
//! wall time on a busy machine is not. The servers are measured in rounds in turn, and each ratio is
//! of neighbours in one round. On loopback the server's share holds what the kernel does for the
//! client's end of the connection while it sends; that is the same for every server.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that can't measure ends loudly"
)]

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{self as this_process, ExitCode};
use std::thread;
use std::time::{Duration, SystemTime};

use getopts::{Matches, Options};
use nix::unistd::Uid;

use crate::report::Report;
use crate::server::{Kind, Launcher};

mod bare;
mod client;
mod lookups;
mod netns;
mod networks;
mod owners;
mod picture;
mod process;
mod report;
mod rounds;
mod server;
mod state;
mod wire;

/// The epmd that was built with this bench.
const OURS: &str = env!("CARGO_BIN_EXE_epmd");

/// Where stock epmd is, unless the command line says otherwise.
const STOCK: &str = "/usr/bin/epmd";

/// How much is measured.
pub(crate) struct Plan {
    /// The servers.
    pub(crate) kinds: Vec<Kind>,
    /// At which numbers of names, upwards.
    pub(crate) names: Vec<usize>,
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Requests of one server in one round.
    pub(crate) requests: usize,
    /// Lists, one after the other.
    pub(crate) lists: usize,
    /// Starts of each server.
    pub(crate) starts: usize,
    /// How long idle servers are watched.
    pub(crate) idle: Duration,
}

impl Plan {
    /// What a picture needs, in a few minutes.
    fn full(kinds: Vec<Kind>) -> Plan {
        Plan {
            kinds,
            names: vec![1, 10, 100, 1_000, 15_000],
            rounds: 21,
            requests: 2_000,
            lists: 20,
            starts: 15,
            idle: Duration::from_secs(3),
        }
    }

    /// All the same steps in a few seconds; its numbers are rough.
    fn quick(kinds: Vec<Kind>) -> Plan {
        Plan {
            kinds,
            names: vec![1, 10, 1_000],
            rounds: 3,
            requests: 1_000,
            lists: 3,
            starts: 3,
            idle: Duration::from_secs(1),
        }
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["bare-loop", port] => bare::serve(port.parse()?),
        ["anchor"] => netns::anchor(),
        ["hold-node", port] => netns::hold_node(port.parse()?),
        ["burst", port, requests, refused] => {
            netns::burst(port.parse()?, requests.parse()?, refused.parse()?);
        }
        _ => return compare(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// The options of the command line.
fn options() -> Options {
    let mut options = Options::new();
    options.optflag("", "quick", "a short form, with rough numbers");
    options.optopt("", "json", "write the numbers to FILE", "FILE");
    options.optopt("", "svg", "draw CPU per lookup by names into FILE", "FILE");
    options.optopt("", "servers", "of bare,ours,stock (default: all)", "LIST");
    options.optopt("", "ours", "another build of this epmd", "PROGRAM");
    options.optopt(
        "",
        "stock",
        "stock epmd (default: /usr/bin/epmd)",
        "PROGRAM",
    );
    options.optopt(
        "",
        "core",
        "bind all to this core, or to none: any",
        "NUMBER",
    );
    options.optopt("", "date", "the date for the caption", "DATE");
    options.optopt("", "machine", "the machine for the caption", "TEXT");
    options.optflag("", "bench", "cargo bench gives it; without: --quick");
    options.optflag("h", "help", "this text");
    options
}

/// Measures what the command line asks for.
fn compare(arguments: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let options = options();
    let given = options.parse(arguments)?;
    if given.opt_present("help") {
        let brief = "cargo bench --bench load -- [OPTIONS] [lookups] [networks] [state]";
        print!("{}", options.usage(brief));
        return Ok(ExitCode::SUCCESS);
    }
    let machine = given.opt_str("machine").unwrap_or_else(machine);
    match given.opt_str("core").as_deref() {
        Some("any") => {}
        core => process::stay_on_one_core(core.map(str::parse).transpose()?),
    }
    let scratch = Scratch::new()?;
    let launcher = Launcher {
        ours: given.opt_str("ours").unwrap_or(OURS.into()).into(),
        stock: given.opt_str("stock").unwrap_or(STOCK.into()).into(),
        folder: scratch.0.clone(),
    };
    let kinds = servers(&given, &launcher)?;
    // `cargo test --all-targets` runs benches as well, and means to try them, not to measure.
    let plan = if given.opt_present("quick") || !given.opt_present("bench") {
        Plan::quick(kinds)
    } else {
        Plan::full(kinds)
    };
    let wanted =
        |scenario: &str| given.free.is_empty() || given.free.iter().any(|it| it == scenario);
    check_descriptors(&plan)?;

    let mut report = Report::default();
    let mut points = Vec::new();
    if wanted("lookups") {
        points = lookups::measure(&launcher, &plan, &mut report);
    }
    if wanted("networks") {
        if plan.kinds.contains(&Kind::Ours) && Uid::effective().is_root() {
            networks::measure(&launcher, &plan, &mut report);
        } else {
            eprintln!("networks: left out; this needs root and a server of ours");
        }
    }
    if wanted("owners") && plan.kinds.contains(&Kind::Ours) {
        owners::measure(&launcher, &plan, &mut report);
    }
    if wanted("state") {
        state::measure(&launcher, &plan, &mut report);
    }

    let date = given.opt_str("date").unwrap_or_else(today);
    println!("{date}, {machine}\n\n{}", report.table());
    if let Some(file) = given.opt_str("json") {
        let json = report.json(&date, &machine);
        fs::write(&file, format!("{json:#}\n")).map_err(|error| format!("{file}: {error}"))?;
    }
    if let Some(file) = given.opt_str("svg") {
        let caption = format!("{date}, {machine}; cargo bench --bench load -- --svg {file}");
        picture::draw(&points, file.as_ref(), &caption)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The servers to compare: those that were asked for, else all that are here.
fn servers(given: &Matches, launcher: &Launcher) -> Result<Vec<Kind>, Box<dyn Error>> {
    if let Some(list) = given.opt_str("servers") {
        let named = list.split(',').map(|name| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            kind.ok_or(format!("--servers: {name:?} is none of bare, ours, stock").into())
        });
        return named.collect();
    }
    let mut kinds = Kind::ALL.to_vec();
    if !server::is_stock(&launcher.stock) {
        eprintln!(
            "stock: left out; {} is not stock epmd",
            launcher.stock.display()
        );
        kinds.retain(|&kind| kind != Kind::Stock);
    }
    Ok(kinds)
}

/// Every registration takes a descriptor here, as it does in its server.
fn check_descriptors(plan: &Plan) -> Result<(), String> {
    let limit = process::raise_descriptor_limit();
    let names = plan.names.iter().max().copied().unwrap_or_default();
    // Stock's registrations, and what else is open.
    let needed = names as u64 + 1_000 + 200;
    if limit < needed {
        return Err(format!(
            "{needed} descriptors are needed, the hard limit is {limit}"
        ));
    }
    Ok(())
}

/// A folder for one run; dropped, it is removed.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it among cargo's own files.
    fn new() -> io::Result<Scratch> {
        let folder = format!("load-{}", this_process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
        fs::create_dir_all(&folder)?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind, it is cleaned up with all that cargo made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Today's date, in UTC.
fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.chars().take_while(|&letter| letter != 'T').collect()
}

/// The processor, how many of its cores there are, and the kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}
