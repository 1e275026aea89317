//! The history of a feed: the epochs in which it got entries, and the positions that it has.
//!
//! Counters continue across epochs, so an entry's epoch follows from its counter.

use crate::cursor::{Cursor, Epoch, Position};
use crate::server::push::Head;
use crate::wire::EpochEnd;

/// The first entry that a feed got in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochStart {
    /// The epoch that starts here.
    pub epoch: Epoch,
    /// The counter of the epoch's first entry.
    pub first: u64,
}

/// A feed's head with the epochs before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    head: Head,
    /// The epochs in ascending order; the oldest ones may be missing.
    starts: Vec<EpochStart>,
}

impl History {
    /// A history whose epochs began with `starts`, in ascending order.
    #[must_use]
    pub fn new(head: Head, starts: Vec<EpochStart>) -> Self {
        Self { head, starts }
    }

    /// Returns whether the head alone determines everything about these cursors: they are positions
    /// of its epoch.
    #[must_use]
    pub fn told_by_head<'a>(
        head: Option<&Head>,
        cursors: impl IntoIterator<Item = &'a Cursor>,
    ) -> bool {
        let Some(head) = head else { return true };
        let own = Self::new(*head, Vec::new());
        cursors.into_iter().all(|cursor| own.has(cursor))
    }

    /// Returns the head of the feed.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the position of an entry. Entries before the oldest stored epoch count as part of
    /// that.
    #[must_use]
    pub fn position(&self, counter: u64) -> Position {
        let at = self.starts.partition_point(|start| start.first <= counter);
        let start = self.starts.get(at.saturating_sub(1));
        Position { epoch: start.map_or(self.head.epoch, |start| start.epoch), counter }
    }

    /// The epochs with the counter of the last entry in each, ascending.
    #[must_use]
    pub fn ends(&self) -> Vec<EpochEnd> {
        let mut ends: Vec<EpochEnd> = Vec::with_capacity(self.starts.len().max(1));
        for (at, start) in self.starts.iter().enumerate() {
            let next = self.starts.get(at + 1).map(|next| next.first.saturating_sub(1));
            let last_counter = next.unwrap_or(self.head.counter);
            ends.push(EpochEnd { epoch: start.epoch, last_counter });
        }
        if self.starts.is_empty() && self.head.counter > 0 {
            ends.push(EpochEnd { epoch: self.head.epoch, last_counter: self.head.counter });
        }
        ends
    }

    /// The counter of the last entry that the feed has in an epoch; `None` if it has none.
    #[must_use]
    pub fn last_in(&self, epoch: Epoch) -> Option<u64> {
        if epoch == self.head.epoch && self.head.counter > 0 {
            return Some(self.head.counter);
        }
        let at = self.starts.binary_search_by_key(&epoch, |start| start.epoch).ok()?;
        Some(self.starts.get(at + 1).map_or(self.head.counter, |next| next.first.saturating_sub(1)))
    }

    /// Returns whether the feed handed `cursor` out: it has that epoch, and the counter is not
    /// after its last one there.
    #[must_use]
    pub fn has(&self, cursor: &Cursor) -> bool {
        let Some(position) = Position::parse(&cursor.change_id) else { return false };
        let last = self.last_in(position.epoch);
        last.is_some_and(|last| position.counter <= last)
            && cursor.changed_at <= self.head.changed_at
    }

    /// Returns the counter up to which a reader that applied `cursor` has seen this feed: that of
    /// the cursor, or of the last remaining entry of its epoch; 0 if the epoch is not known here.
    #[must_use]
    pub fn seen_through(&self, cursor: &Cursor) -> u64 {
        let position = Position::parse(&cursor.change_id);
        let last = position.and_then(|position| self.last_in(position.epoch));
        position.map_or(0, |position| position.counter.min(last.unwrap_or(0)))
    }

    /// The cursor of the greatest position that was pruned.
    #[must_use]
    pub fn pruned_cursor(&self) -> Option<Cursor> {
        let (counter, changed_at) = self.head.pruned?;
        Some(self.position(counter).at(changed_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn epoch(value: u64) -> Epoch {
        Epoch::from_u64(value).unwrap()
    }

    fn cursor(of: u64, counter: u64) -> Cursor {
        Position { epoch: epoch(of), counter }.at(at(5))
    }

    /// Entries 1 to 4 in epoch 3, 5 to 9 in epoch 7, 10 to 12 in epoch 8.
    fn history() -> History {
        let start = |of, first| EpochStart { epoch: epoch(of), first };
        let head =
            Head { epoch: epoch(8), counter: 12, changed_at: at(9), pruned: Some((4, at(2))) };
        History::new(head, vec![start(3, 1), start(7, 5), start(8, 10)])
    }

    #[test]
    fn a_cursor_is_of_the_history_if_its_epoch_got_that_far() {
        let history = history();
        for (of, last) in [(3, 4), (7, 9), (8, 12)] {
            assert!(history.has(&cursor(of, 1)) && history.has(&cursor(of, last)), "{of}");
            assert!(!history.has(&cursor(of, last + 1)), "{of}");
            assert_eq!(history.last_in(epoch(of)), Some(last));
        }
        for unknown in [0, 4, 9] {
            assert!(!history.has(&cursor(unknown, 1)), "{unknown}");
        }
        let later = Position { epoch: epoch(3), counter: 1 }.at(at(10));
        assert!(!history.has(&later), "of a time that the feed has not reached");
    }

    #[test]
    fn the_epoch_of_an_entry_follows_from_its_counter() {
        let history = history();
        let of = |counter| history.position(counter).epoch.as_u64();
        assert_eq!([1, 4, 5, 9, 10, 12].map(of), [3, 3, 7, 7, 8, 8]);
        assert_eq!(
            history.pruned_cursor(),
            Some(Position { epoch: epoch(3), counter: 4 }.at(at(2)))
        );
        let ends = history.ends();
        let ends: Vec<_> = ends.iter().map(|end| (end.epoch.as_u64(), end.last_counter)).collect();
        assert_eq!(ends, [(3, 4), (7, 9), (8, 12)]);
        let late = History::new(*history.head(), history.starts[1..].to_vec());
        assert_eq!(late.position(2).epoch, epoch(7), "the oldest that is remembered");
    }

    #[test]
    fn the_head_alone_tells_of_its_own_epoch() {
        let history = history();
        let head = Some(history.head());
        assert!(History::told_by_head(head, [&cursor(8, 12), &cursor(8, 10)]));
        assert!(!History::told_by_head(head, [&cursor(8, 12), &cursor(7, 9)]));
        assert!(!History::told_by_head(head, [&cursor(8, 13)]));
        assert!(History::told_by_head(None, [&cursor(8, 13)]), "there is nothing else to know");
        let empty = Head { counter: 0, ..*history.head() };
        assert!(!History::new(empty, Vec::new()).has(&cursor(8, 0)));
        assert_eq!(History::new(empty, Vec::new()).ends(), []);
    }

    #[test]
    fn what_a_lost_position_has_seen_ends_with_what_is_left_of_its_epoch() {
        let history = history();
        for (of, counter, through) in [(8, 11, 11), (7, 30, 9), (3, 2, 2), (5, 6, 0), (9, 1, 0)] {
            assert_eq!(history.seen_through(&cursor(of, counter)), through, "{of} {counter}");
        }
    }
}
