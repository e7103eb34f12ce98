//! `epmd -guard`: whoever may look a node up may connect to its own port, nobody else.
//!
//! Keeps one table of nftables, `inet hardened_epmd`, in step with the daemon, and touches nothing else. The
//! rules are nft's to set (`nft`); what they should be is worked out without it (`plan`, `rules`) from what
//! the daemon tells (`follow`) and what the kernel says of sockets (`facts`, `owners`). `keep` goes round:
//! it applies, reads whom the kernel turned away (`refused`), and tells (`tell`). Called by `main`.

mod alone;
mod check;
mod facts;
mod follow;
mod keep;
mod nft;
mod owners;
mod plan;
mod recall;
mod refused;
mod rules;
mod signals;
mod tell;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use self::alone::Alone;
use self::facts::Asking;
use self::follow::Bell;
use self::keep::Keeper;
use self::nft::{Found, Nft, Trouble};
use self::plan::{Facts, Plan};
use self::refused::Counts;
use crate::config::{Settings, Sources};
use crate::core::audit::{escape_again, escape_note};
use crate::core::lent::{Lent, Level};
use crate::core::status::table;
use crate::exit::{Exit, complain, print};
use crate::tools::control::Unasked;

/// So often `-check` looks again before it says that something is not as it should be: a node may have come or
/// gone just then.
const LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Where the daemon is asked.
fn socket(settings: &Settings) -> Result<PathBuf, Trouble> {
    let path = settings.control.path().map(PathBuf::from);
    path.ok_or_else(|| {
        "control.socket is \"none\", and it is there that the daemon tells the guard of names: take that line out of \
         the file, or name a socket in it"
            .to_owned()
    })
}

/// `-guard`: keeps the rules until a signal ends it. `lend` gives the log and the word to systemd.
#[must_use]
pub fn run<L: Lent<Settings>>(sources: Sources, lend: impl FnOnce(&Settings) -> L) -> Exit {
    let settings = match sources.load() {
        Ok(settings) => settings,
        Err(errors) => {
            complain(errors);
            return Exit::Config;
        }
    };
    // Before there is a second thread.
    if let Err(error) = signals::hold_back() {
        complain(format_args!("epmd: can't hold signals back: {error}"));
        return Exit::Failure;
    }
    let begun = socket(&settings).and_then(|socket| Ok((socket, begin()?)));
    let (socket, (nft, alone)) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            complain(format_args!("epmd: no guard: {}", escape_note(&why)));
            return Exit::Failure;
        }
    };
    let lent = lend(&settings);
    if let Alone::Perhaps(why) = &alone {
        lent.note(Level::Warning, why.clone());
    }
    let bell = Arc::new(Bell::default());
    let threads = signals::start(&bell).and_then(|()| follow::start(&bell, &socket));
    let kept = threads
        .map_err(|error| {
            format!("no thread can be had: {error} (LimitNPROC=, TasksMax=, ulimit -u)")
        })
        .and_then(|()| Keeper::new(nft, sources, settings, &lent))
        .and_then(|mut keeper| keeper.run(&bell));
    if let Err(why) = &kept {
        lent.note(Level::Error, format!("no guard: {why}"));
    }
    lent.close();
    match kept {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}

/// What must be there, before anything is touched.
fn begin() -> Result<(Nft, Alone), Trouble> {
    let nft = Nft::find()?;
    let alone = alone::find();
    if let Alone::No(why) = alone {
        return Err(why);
    }
    match nft.look() {
        Ok(Found::None | Found::Ours { .. }) => Ok((nft, alone)),
        Ok(Found::Foreign) => Err(keep::FOREIGN.to_owned()),
        Err(failure) => Err(failure.trouble()),
    }
}

/// What should be in force now.
/// `in_force` is what nft lists of the table.
fn wanted(sources: &Sources, in_force: &[Value]) -> Result<Plan, Exit> {
    let settings = sources.load().map_err(|errors| {
        complain(errors);
        Exit::Config
    })?;
    let socket = socket(&settings).map_err(|why| {
        complain(format_args!("epmd: {why}"));
        Exit::Failure
    })?;
    let failed = |what: String| {
        complain(format_args!(
            "epmd: {}: {}",
            socket.display(),
            escape_again(&what)
        ));
        Exit::Failure
    };
    let state = follow::state(&socket).map_err(|unasked| match unasked {
        Unasked::NotTrusted(what) => failed(what),
        Unasked::Failed(error) => failed(format!(
            "the daemon, which knows the names, does not tell: {error}; it answers root and its own user alone, \
             where it runs (systemctl status hardened-epmd)"
        )),
    })?;
    let asked = facts::sockets().and_then(|sockets| Ok((sockets, Asking::new()?)));
    let (numbered, mut asking) = asked.map_err(|error| {
        failed(format!(
            "can't ask the kernel whose sockets are whose (NETLINK_SOCK_DIAG): {error}"
        ))
    })?;
    let mut names = state.registrations;
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let named = asking.named(names.iter());
    let kept = recall::recall(in_force, &state.access);
    let others = asking.others(&settings.guard, &numbered, &named);
    let sockets: Vec<_> = numbered.into_iter().map(|(socket, _)| socket).collect();
    Ok(plan::plan(&Facts {
        names: &named,
        access: &state.access,
        sockets: &sockets,
        ports: &settings.guard,
        epmd: &keep::epmds_ports(&settings, &names),
        others: &others,
        kept: &kept,
    }))
}

/// `-guard -print`: the rules for who keeps them by hand.
#[must_use]
pub fn print_rules(sources: &Sources) -> Exit {
    match wanted(sources, &[]) {
        Ok(plan) => {
            for left in &plan.left_alone {
                complain(format_args!(
                    "epmd: {}",
                    escape_note(&tell::not_guarded(left))
                ));
            }
            print(&rules::replacing(&plan.table))
        }
        Err(exit) => exit,
    }
}

/// `-guard -check`: whether what is in force is what should be.
#[must_use]
pub fn check(sources: &Sources) -> Exit {
    let nft = match Nft::find() {
        Ok(nft) => nft,
        Err(why) => {
            complain(format_args!("epmd: {why}"));
            return Exit::Failure;
        }
    };
    let mut looks = 0;
    loop {
        looks += 1;
        let in_force = nft.list_table().unwrap_or_default();
        let plan = match wanted(sources, &in_force) {
            Ok(plan) => plan,
            Err(exit) => return exit,
        };
        let mut wrong = match keep::compare(&nft, &plan.table) {
            Ok(differences) => differences,
            Err(failure) if failure.is_missing() => vec![
                "there is no table inet hardened_epmd; start the guard: systemctl start hardened-epmd-guard".to_owned(),
            ],
            Err(failure) => {
                complain(format_args!("epmd: {}", failure.trouble()));
                return Exit::Failure;
            }
        };
        if !wrong.is_empty() && looks < LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            continue;
        }
        wrong.extend(plan.left_alone.iter().map(tell::not_guarded));
        let mut text = String::new();
        for line in &wrong {
            text.push_str(&format!("not as it should be: {}\n", escape_note(line)));
        }
        if wrong.is_empty() {
            let ports = plan.kept.keys().map(|place| place.port).collect();
            let summary = tell::summary(plan.kept.len(), &ports);
            text.push_str(&format!("as it should be: {summary}\n"));
        }
        text.push_str(&counts(&nft));
        let printed = print(&text);
        return match wrong.is_empty() && printed == Exit::Success {
            true => Exit::Success,
            false => Exit::Failure,
        };
    }
}

/// Whom the kernel has turned away, for people.
fn counts(nft: &Nft) -> String {
    let Ok(objects) = nft.list_table() else {
        return String::new(); // there is no table, as was said
    };
    let counts = Counts::of(&objects);
    let total = counts.total.unwrap_or_default();
    let mut text = format!("turned away since the table was made: {total}\n");
    let mut ways: Vec<_> = counts.ways.into_iter().collect();
    ways.sort_unstable();
    let lines = ways
        .iter()
        .map(|((source, to), count)| vec![source.to_string(), to.to_string(), count.to_string()]);
    text.push_str(&table(&["in the last minute", "to", "count"], lines));
    text
}
