//! Single values as people write them: ports, seconds, durations.
//!
//! Texts in, values or an explanation out; it knows neither files nor options. Called by `sources` for
//! the values of options and the environment, and by `file`.

use std::time::Duration;

use super::diagnostic::quote;

/// The longest time that any setting takes: more than a day is a slip of the unit.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);
/// The shortest: below it, nothing would ever be in time.
const SHORTEST: Duration = Duration::from_millis(1);

/// Reads a port; 0 lets the kernel choose.
///
/// # Errors
/// What is wrong, and what is expected.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let text = text.trim();
    digits(text)
        .and_then(|n| u16::try_from(n).ok())
        .ok_or_else(|| {
            format!(
                "{} is no port; expected a number from 0 to 65535",
                quote(text)
            )
        })
}

/// Reads whole seconds, from 1 to a day, as stock's options take them.
///
/// # Errors
/// What is wrong, and what is expected.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    digits(text)
        .filter(|n| (1..=LONGEST.as_secs()).contains(n))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            format!(
                "{} is no time; expected whole seconds from 1 to {}",
                quote(text),
                LONGEST.as_secs()
            )
        })
}

/// Reads a duration with its unit, such as `5s` or `1m 30s`, from a millisecond to a day.
///
/// # Errors
/// What is wrong, and what is expected.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| Err(format!("{} {why}", quote(text)));
    match humantime::parse_duration(text) {
        Ok(time) if time < SHORTEST => {
            wrong("is too short; expected a duration of at least \"1ms\", such as \"5s\"")
        }
        Ok(time) if time > LONGEST => {
            wrong("is too long; expected a duration of at most \"1day\", such as \"5s\"")
        }
        Ok(time) => Ok(time),
        Err(_) if digits(text.trim()).is_some() => wrong(&format!(
            "has no unit; expected a duration with one, such as \"{}s\"",
            text.trim()
        )),
        Err(_) => {
            wrong("is no duration; expected numbers with units, such as \"5s\" or \"1m 30s\"")
        }
    }
}

/// Whether a text is a duration of nothing.
pub(super) fn is_no_time(text: &str) -> bool {
    humantime::parse_duration(text).is_ok_and(|time| time.is_zero())
}

/// A number in plain decimal digits. `parse` alone would take a plus as well.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, value) in [("0", 0), ("4369", 4369), (" 65535 ", 65535)] {
            assert_eq!(port(text), Ok(value));
        }
        for text in [
            "",
            "65536",
            "-1",
            "+1",
            "0x1",
            "epmd",
            "4369.0",
            "99999999999999999999999",
        ] {
            assert_eq!(
                port(text),
                Err(format!(
                    "{text:?} is no port; expected a number from 0 to 65535"
                ))
            );
        }
    }

    #[test]
    fn whole_seconds() {
        assert_eq!(seconds("1"), Ok(Duration::from_secs(1)));
        assert_eq!(seconds("86400"), Ok(LONGEST));
        for text in [
            "0",
            "",
            "86401",
            "1.5",
            "5s",
            "-1",
            "99999999999999999999999",
        ] {
            assert_eq!(
                seconds(text),
                Err(format!(
                    "{text:?} is no time; expected whole seconds from 1 to 86400"
                ))
            );
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("5s", 5_000),
            ("1m 30s", 90_000),
            ("250ms", 250),
            ("1day", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for (text, why) in [
            (
                "0s",
                r#""0s" is too short; expected a duration of at least "1ms", such as "5s""#,
            ),
            (
                "0",
                r#""0" is too short; expected a duration of at least "1ms", such as "5s""#,
            ),
            (
                "1ns",
                r#""1ns" is too short; expected a duration of at least "1ms", such as "5s""#,
            ),
            (
                "25h",
                r#""25h" is too long; expected a duration of at most "1day", such as "5s""#,
            ),
            (
                "60",
                r#""60" has no unit; expected a duration with one, such as "60s""#,
            ),
            (
                "",
                r#""" is no duration; expected numbers with units, such as "5s" or "1m 30s""#,
            ),
            (
                "5 parsecs",
                r#""5 parsecs" is no duration; expected numbers with units, such as "5s" or "1m 30s""#,
            ),
            (
                "99999999999999999999999y",
                r#""99999999999999999999999y" is no duration; expected numbers with units, such as "5s" or "1m 30s""#,
            ),
        ] {
            assert_eq!(duration(text), Err(why.to_owned()));
        }
    }
}
