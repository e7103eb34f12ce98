//! What there is to say about listening sockets, and to whom.
//!
//! Made by `listen` and its parts; `start` tells it.

use std::net::IpAddr;

/// What there is to say about the sockets.
#[derive(Debug, Default)]
pub struct Notes {
    /// For every operator.
    pub(super) warnings: Vec<String>,
    /// Addresses of a family that this host does not have: for who has named them.
    pub(super) lacking: Vec<(IpAddr, String)>,
}

impl Notes {
    /// What matters to who has asked for these addresses (`None`: for every address), and then what does
    /// not: a host without IPv6 is as it should be.
    #[must_use]
    pub fn for_who_asked(self, listen: Option<&[IpAddr]>) -> (Vec<String>, Vec<String>) {
        let is_named = |ip: &IpAddr| listen.is_some_and(|listen| listen.contains(ip));
        let (named, others): (Vec<_>, Vec<_>) =
            self.lacking.into_iter().partition(|(ip, _)| is_named(ip));
        let texts = |notes: Vec<(_, String)>| notes.into_iter().map(|(_, text)| text);
        let mut warnings = self.warnings;
        warnings.extend(texts(named));
        (warnings, texts(others).collect())
    }

    /// All of them, in a line.
    pub(super) fn line(&self) -> String {
        let lacking = self.lacking.iter().map(|(_, text)| text);
        let all: Vec<_> = self.warnings.iter().chain(lacking).cloned().collect();
        all.join("; ")
    }

    pub(super) fn append(&mut self, mut more: Self) {
        self.warnings.append(&mut more.warnings);
        self.lacking.append(&mut more.lacking);
    }

    /// Once, for however many sockets.
    pub(super) fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
}
