//! `[names]`: which users may register which name, as the file says it, and as numbers.
//!
//! A user is a name or a number. Names are looked up in one go when all of the file is read, with a time
//! limit for all together; what the file said before a restart goes by the numbers from then, because a user
//! database that is down must not cost the registrations. Called by the table of keys and by `sources`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use toml::de::DeValue;

use super::diagnostic::quote;
use super::mistakes::Mistakes;
use super::types::{Type, Value, element_text, list, short};
use super::users::{self, NoAnswer};
use super::values;
use super::words::kind;
use crate::core::names::{NameRules, ROOT};

/// How long the user database may take for all users of a file.
const PATIENCE: Duration = Duration::from_secs(5);

/// `[names]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Who may register; `None` is every user of this host.
    pub users: Option<Users>,
    /// Who may register these names, in place of `users`.
    pub nodes: HashMap<Box<[u8]>, Users>,
    /// A name that is released stays its last user's for so long.
    pub hold: Hold,
}

/// Users, as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(Vec<User>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    /// As it stands in the file.
    given: String,
    /// At this byte of it.
    at: usize,
    /// `None` until the name is looked up.
    uid: Option<u32>,
}

/// A time that may be none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold(pub Duration);

impl Users {
    /// Names and numbers, as they are shown: without root, who always may.
    pub(super) fn shown(&self) -> impl Iterator<Item = String> + '_ {
        let others = self.0.iter().filter(|user| user.uid != Some(ROOT));
        others.map(|user| match user.uid {
            Some(uid) if uid.to_string() != user.given => format!("{} (uid {uid})", user.given),
            _ => user.given.clone(),
        })
    }

    fn uids(&self) -> BTreeSet<u32> {
        self.0.iter().filter_map(|user| user.uid).collect()
    }
}

impl Names {
    /// What the daemon goes by, once all names are looked up.
    pub(super) fn rules(&self) -> NameRules {
        let nodes = self.nodes.iter();
        NameRules {
            users: self.users.as_ref().map(Users::uids),
            nodes: nodes
                .map(|(name, users)| (name.clone(), users.uids()))
                .collect(),
            hold: self.hold.0,
        }
    }

    fn all_users(&mut self) -> impl Iterator<Item = &mut User> {
        let lists = self.users.iter_mut().chain(self.nodes.values_mut());
        lists.flat_map(|list| list.0.iter_mut())
    }

    /// The numbers of all users that were given by name, once they are looked up.
    pub fn looked_up(&self) -> BTreeMap<String, u32> {
        let lists = self.users.iter().chain(self.nodes.values());
        let users = lists.flat_map(|list| &list.0);
        users
            .filter(|user| number(&user.given).is_none())
            .filter_map(|user| Some((user.given.clone(), user.uid?)))
            .collect()
    }

    /// Looks all users up, those of whom it is not known from before; gives what is wrong, and where.
    pub(super) fn look_up(&mut self, from_before: &BTreeMap<String, u32>) -> Vec<(usize, String)> {
        let deadline = Instant::now() + PATIENCE;
        let mut known = from_before.clone();
        let mut late = false;
        let mut wrong = Vec::new();
        for user in self.all_users().filter(|user| user.uid.is_none()) {
            let given = &user.given;
            if let Some(uid) = known.get(given) {
                user.uid = Some(*uid);
                continue;
            }
            let answer = match late {
                true => Err(NoAnswer::Late),
                false => users::uid_of(given, deadline),
            };
            let shown = quote(given);
            let what = match answer {
                Ok(Some(uid)) => {
                    known.insert(given.clone(), uid);
                    user.uid = Some(uid);
                    continue;
                }
                Ok(None) => format!(
                    "there is no user {shown} on this host; expected the name of one (`getent passwd` lists \
                     them) or a number, such as \"1001\""
                ),
                Err(why) => {
                    late = late || why == NoAnswer::Late;
                    format!(
                        "user {shown} can't be looked up, because of the user database: {why} \
                         (`getent passwd {given}` asks it, /etc/nsswitch.conf says what it is); a number, such as \
                         \"1001\", needs none"
                    )
                }
            };
            wrong.push((user.at, what));
        }
        wrong
    }
}

/// The number that a text is, where it is one.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// The user of one element of a list.
fn user(text: &str, at: usize) -> Result<User, String> {
    let shown = quote(text);
    let given = text.to_owned();
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        let plain = text.len() == 1 || !text.starts_with('0');
        // The largest is none (chown(2), setresuid(2)).
        return match number(text).filter(|uid| plain && *uid < u32::MAX) {
            Some(uid) => Ok(User {
                given,
                at,
                uid: Some(uid),
            }),
            None => Err(format!(
                "{shown} is no user's number; expected one from 0 to {}",
                u32::MAX - 1
            )),
        };
    }
    if text == "*" {
        return Err(
            "\"*\" is no user; expected names or numbers, or no list at all for every user of this host"
                .to_owned(),
        );
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/');
    if text.is_empty() || text.contains(odd) {
        return Err(format!(
            "{shown} is no user's name; expected one, such as \"deploy\", or a number, such as \"1001\""
        ));
    }
    if let Some(group) = text.strip_prefix(['@', '%', '+']) {
        return Err(format!(
            "{shown} is no user, and groups are not known; expected users' names or numbers (`getent group {}` \
             lists its members)",
            group.escape_debug()
        ));
    }
    Ok(User {
        given,
        at,
        uid: None,
    })
}

impl Type for Users {
    const KIND: &'static str = "a list of users, by name or number";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let example = "deploy";
        let mut users: Vec<User> = Vec::new();
        for element in list(path, example, value, mistakes)? {
            let at = element.span().start;
            if let DeValue::Integer(number) = element.get_ref() {
                let number = number.to_string();
                mistakes.add(at, || {
                    format!(
                        "an element of {} is a number; expected a string: {}",
                        short(path),
                        quote(&number)
                    )
                });
                continue;
            }
            let Some(text) = element_text(path, example, element, mistakes) else {
                continue;
            };
            match user(text, at) {
                // Twice is as good as once.
                Ok(user) if users.iter().all(|known| known.given != user.given) => users.push(user),
                Ok(_) => {}
                Err(what) => mistakes.add(at, || what),
            }
        }
        Some(Self(users))
    }
}

impl Type for Hold {
    const KIND: &'static str = "a duration from \"0s\" to \"1day\"";

    fn from_toml(path: &str, value: &Value<'_>, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let DeValue::String(text) = value.get_ref()
            && values::is_no_time(text)
        {
            return Some(Self(Duration::ZERO));
        }
        if let DeValue::Integer(_) = value.get_ref() {
            mistakes.add(value.span().start, || {
                let (key, kind) = (short(path), kind(value.get_ref()));
                format!("{key} is {kind} without a unit; expected a string with one, such as \"60s\", or \"0s\"")
            });
            return None;
        }
        Duration::from_toml(path, value, mistakes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        user(text, 0).expect_err(text)
    }

    #[test]
    fn what_is_no_user_is_told() {
        for (text, told) in [
            (
                "",
                "\"\" is no user's name; expected one, such as \"deploy\", or a number, such as \"1001\"",
            ),
            (
                "a b",
                "\"a b\" is no user's name; expected one, such as \"deploy\", or a number, such as \"1001\"",
            ),
            (
                "4294967295",
                "\"4294967295\" is no user's number; expected one from 0 to 4294967294",
            ),
            (
                "99999999999",
                "\"99999999999\" is no user's number; expected one from 0 to 4294967294",
            ),
            (
                "007",
                "\"007\" is no user's number; expected one from 0 to 4294967294",
            ),
        ] {
            assert_eq!(wrong(text), told);
        }
        assert!(wrong("*").contains("no list at all"));
        assert!(wrong("@wheel").contains("getent group wheel"));
        for (text, uid) in [
            ("0", Some(0)),
            ("4294967294", Some(4_294_967_294)),
            ("deploy", None),
        ] {
            assert_eq!(
                user(text, 3).map(|user| (user.uid, user.at)),
                Ok((uid, 3)),
                "{text}"
            );
        }
    }

    #[test]
    fn names_are_looked_up_and_what_was_known_before_is_not() {
        let list =
            |texts: &[&str]| Users(texts.iter().map(|t| user(t, t.len()).unwrap()).collect());
        let mut names = Names {
            users: Some(list(&["root", "1001", "was-there"])),
            ..Names::default()
        };
        names
            .nodes
            .insert(b"api"[..].into(), list(&["no-such-user"]));
        let before = BTreeMap::from([("was-there".to_owned(), 77)]);
        let wrong = names.look_up(&before);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert_eq!(wrong[0].0, "no-such-user".len());
        assert!(
            wrong[0]
                .1
                .starts_with("there is no user \"no-such-user\" on this host")
        );
        let rules = names.rules();
        assert_eq!(rules.users, Some([0, 77, 1001].into()));
        assert_eq!(
            names.looked_up(),
            BTreeMap::from([("root".to_owned(), 0), ("was-there".to_owned(), 77)])
        );
    }
}
