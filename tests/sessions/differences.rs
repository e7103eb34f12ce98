//! Where the answers may differ: each place once, under its entry in docs/differences.md.

use super::common::wire::Answer;
use super::requests::Request;

/// The most characters of a name.
const LONGEST_NAME: usize = 255;

/// An entry of docs/differences.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Registered by stock, refused here.
    ForgingName,
    /// Registered by stock, closed here.
    EmptyName,
    /// Stock counts the NUL behind the name.
    LongestName,
    /// Stock sends both words.
    UnknownStop,
}

impl Difference {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [
        Self::ForgingName,
        Self::EmptyName,
        Self::LongestName,
        Self::UnknownStop,
    ];

    /// Its name in the document.
    pub(crate) fn entry(self) -> &'static str {
        match self {
            Self::ForgingName => "a name with a control character or white space",
            Self::EmptyName => "an empty name, where extra data follows",
            Self::LongestName => "lookup of a name of 255 characters",
            Self::UnknownStop => "stop of a name that is not registered",
        }
    }

    /// Whether this is why stock and we answered `request` as we did.
    fn explains(self, request: &Request, stock: &Answer, ours: &Answer) -> bool {
        match self {
            Self::ForgingName => {
                let forges = |c: char| c.is_control() || c.is_whitespace();
                let name = text(request.registers());
                name.is_some_and(|name| name.contains(forges))
                    && result(stock) == Some(0)
                    && result(ours) == Some(1)
            }
            Self::EmptyName => {
                // Result 1 where the extra data is too long.
                request.registers() == Some(b"")
                    && result(stock).is_some()
                    && *ours == Answer::Nothing
            }
            Self::LongestName => {
                let name = text(request.looks_up());
                name.is_some_and(|name| name.chars().count() == LONGEST_NAME)
                    && *stock == Answer::Nothing
                    && matches!(ours, Answer::Bytes(bytes) if bytes.first() == Some(&b'w'))
            }
            Self::UnknownStop => {
                let is = |answer: &Answer, text: &[u8]| *answer == Answer::Bytes(text.to_vec());
                request.stops().is_some() && is(stock, b"NOEXISTSTOPPED") && is(ours, b"NOEXIST")
            }
        }
    }
}

/// The entry that explains why the two answers are not the same.
pub(crate) fn explanation(request: &Request, stock: &Answer, ours: &Answer) -> Option<Difference> {
    let mut all = Difference::ALL.into_iter();
    all.find(|difference| difference.explains(request, stock, ours))
}

fn text(name: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(name?).ok()
}

/// The result in an answer to a registration.
fn result(answer: &Answer) -> Option<u8> {
    match answer {
        Answer::Bytes(bytes) => bytes.get(1).copied(),
        Answer::Nothing => None,
    }
}
