//! Whether a message that does not open is damaged or forged, or whether the secret here is another. Pure.
//!
//! Nothing in such a message tells, but its neighbours of the same key do. A message behind it in the partition that opens
//! was sealed later: the secret is right. One before it says so of the time before, and excuses one failure: after a
//! change of the secret that only the producer knows, one message of each partition is set aside, and no more.

use std::collections::BTreeSet;

/// What a partition knows of its keys.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// Keys whose last message opened.
    good: BTreeSet<String>,
}

impl Trust {
    /// Notes that a message of a key opened.
    pub(crate) fn opened(&mut self, key: &str) {
        if !self.good.contains(key) {
            self.good.insert(key.to_owned());
        }
    }

    /// Whether it is the message's fault that it does not open; `behind` are the keys of those behind it that do. Otherwise
    /// it has to wait: for one behind it that opens, or for another secret.
    pub(crate) fn is_damaged<'a>(&mut self, key: &str, mut behind: impl Iterator<Item = &'a str>) -> bool {
        self.good.remove(key) || behind.any(|opened| opened == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_the_messages_fault_if_one_before_or_behind_it_opens() {
        let mut trust = Trust::default();
        assert!(!trust.is_damaged("a", ["b"].into_iter()), "nothing is known");
        assert!(trust.is_damaged("a", ["b", "a"].into_iter()));
        trust.opened("a");
        assert!(!trust.is_damaged("b", [].into_iter()), "another key");
        assert!(trust.is_damaged("a", [].into_iter()));
        assert!(!trust.is_damaged("a", [].into_iter()), "the second in a row");
        trust.opened("a");
        assert!(trust.is_damaged("a", [].into_iter()));
    }
}
