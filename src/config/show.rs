//! What `-check_config` prints: the settings in force, for people.
//!
//! Settings in, text out; one line for each setting, in the order of the table of keys, and who said it.
//! Called by `main` and, for `-status`, by the daemon.

use std::fmt::Write as _;

use super::diagnostic::show_path;
use super::said::time;
use super::settings::Settings;
use super::table::KEYS;

/// The settings as text, one `name: value [who said it]` a line. Ends with a newline.
#[must_use]
pub fn show(settings: &Settings) -> String {
    let mut text = String::new();
    let file = settings.file.as_deref();
    let _ = writeln!(text, "file: {}", file.map_or("none".to_owned(), show_path));
    let mut add = |path: &str, name: &str, value: &str| {
        let mut names = settings.places.of(path).names(file).into_iter();
        let mut who = names.next().unwrap_or_else(|| "default".to_owned());
        let beaten: Vec<_> = names.collect();
        if !beaten.is_empty() {
            let _ = write!(who, ", which beats {}", beaten.join(" and "));
        }
        let _ = writeln!(text, "{name}: {value} [{who}]");
    };
    for key in KEYS {
        for (name, value) in key.slot.lines(key.path, settings) {
            add(key.path, &name, &value);
        }
    }
    let relaxed = settings.relaxed_command_check.to_string();
    add("relaxed_command_check", "relaxed_command_check", &relaxed);
    for (name, delay) in [
        ("delay_accept", settings.delay_accept),
        ("delay_write", settings.delay_write),
    ] {
        if !delay.is_zero() {
            add(name, name, &time(&delay));
        }
    }
    if settings.debug > 0 {
        add("debug", "debug", &settings.debug.to_string());
    }
    if settings.no_sandbox {
        add("no_sandbox", "no_sandbox", "true");
    }
    text
}
