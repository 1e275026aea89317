//! Confirms that entries are gone, by looking more than once: a program that saves a file may have
//! renamed it away for a moment, and one that removes a tree takes its time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The time for which nothing else may go missing before the entries count as gone.
const APART: Duration = Duration::from_secs(2);
/// The time after which they count as gone in any case.
const AT_MOST: Duration = Duration::from_secs(60);

/// The entries that imports of one directory missed, by their rows.
#[derive(Debug, Default)]
pub struct Looks {
    missing: BTreeSet<u64>,
    first: Option<Instant>,
    grew: Option<Instant>,
    /// The entries whose deletion the user has confirmed, if the user was asked.
    confirmed: Option<BTreeSet<u64>>,
    /// True if entries that are missing count as gone at once: to ask the user.
    at_once: bool,
    /// True from when deletions were held until nothing is missing: all deletions are held.
    pub(super) holds: bool,
}

impl Looks {
    /// Creates the looks of an import after a question: the user has confirmed the deletion of
    /// exactly these entries.
    pub fn after_question(confirmed: BTreeSet<u64>) -> Self {
        Self { confirmed: Some(confirmed), at_once: true, ..Self::default() }
    }

    /// Creates the looks of a dry run that finds what to ask the user; `holds` is true if deletions
    /// were held before.
    pub fn for_question(holds: bool) -> Self {
        Self { at_once: true, holds, ..Self::default() }
    }

    /// Creates the looks of a new run; `holds` is true if deletions were held before.
    pub fn begin(holds: bool) -> Self {
        Self { holds, ..Self::default() }
    }

    /// Returns whether the user has confirmed the deletion of all these entries; `None` if the user
    /// was not asked.
    pub(super) fn covers(&self, missing: impl Iterator<Item = u64>) -> Option<bool> {
        let confirmed = self.confirmed.as_ref()?;
        let mut missing = missing;
        Some(missing.all(|entry| confirmed.contains(&entry)))
    }

    /// Returns the entries that are gone: an earlier import missed them too, and nothing else went
    /// missing for [`APART`], or imports have missed more and more for [`AT_MOST`].
    pub(super) fn confirm(
        &mut self,
        missing: impl Iterator<Item = u64>,
        now: Instant,
    ) -> BTreeSet<u64> {
        let missing: BTreeSet<u64> = missing.collect();
        if self.at_once {
            return missing;
        }
        if missing.is_empty() {
            *self = Self::default();
            return missing;
        }
        if !missing.is_subset(&self.missing) {
            self.grew = Some(now);
        }
        let first = *self.first.get_or_insert(now);
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.grew.is_some_and(|grew| since(grew) < APART) && since(first) < AT_MOST {
            self.missing = missing;
            return BTreeSet::new();
        }
        let gone = missing.intersection(&self.missing).copied().collect();
        let new: BTreeSet<u64> = missing.difference(&self.missing).copied().collect();
        let at = (!new.is_empty()).then_some(now);
        (self.missing, self.first, self.grew) = (new, at, at);
        gone
    }

    /// Returns the time of the next look that may confirm; `None` if nothing is missing.
    pub fn due(&self) -> Option<Instant> {
        self.grew.map(|grew| grew + APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_with_nothing_new_is_gone() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        let mut at = |millis, missing: &[u64]| {
            let gone =
                looks.confirm(missing.iter().copied(), start + Duration::from_millis(millis));
            gone.into_iter().eq(missing.iter().copied())
        };
        assert!(!at(0, &[1]));
        assert!(!at(1_999, &[1]));
        assert!(!at(2_000, &[1, 2]), "one more");
        assert!(!at(3_000, &[2]), "the first came back");
        assert!(at(4_000, &[2]));
        assert!(!at(4_001, &[2]), "a new look, since it was not deleted");
        assert!(at(4_002, &[]));
        assert!(!at(9_000, &[2]));
    }

    #[test]
    fn a_confirmation_covers_what_was_asked_and_nothing_more() {
        assert_eq!(Looks::default().covers([1].into_iter()), None);
        let looks = Looks::after_question(BTreeSet::from([1, 2]));
        assert_eq!(looks.covers([1, 2].into_iter()), Some(true));
        assert_eq!(looks.covers([2].into_iter()), Some(true), "one came back");
        assert_eq!(looks.covers([1, 2, 3].into_iter()), Some(false), "one more is gone");
    }

    #[test]
    fn what_goes_on_disappearing_is_gone_after_a_minute() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        for second in 0..60 {
            assert!(looks.confirm(0..=second, start + Duration::from_secs(second)).is_empty());
        }
        let gone = looks.confirm(0..=60, start + Duration::from_secs(60));
        assert!(gone.into_iter().eq(0..60), "the last one was missed only once");
        assert!(looks.confirm([60].into_iter(), start + Duration::from_secs(62)).contains(&60));
        assert_eq!(looks.due(), None);
    }
}
