//! A feed's history, and the part of the feed that a pull gets: the epochs of the feed, the
//! positions that it has in each, and whether it can serve a cursor.
//!
//! Counters continue across epochs, so an entry's epoch follows from its counter.

use crate::cursor::{Cursor, Epoch, Position};
use crate::id::ReplicaId;
use crate::limits::MAX_PULL_LIMIT;
use crate::server::push::Head;
use crate::wire::EpochEnd;

/// The first entry of a feed in an epoch.
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
    /// Creates a history whose epochs began with `starts`, in ascending order.
    #[must_use]
    pub fn new(head: Head, starts: Vec<EpochStart>) -> Self {
        Self { head, starts }
    }

    /// Returns whether the head alone decides about these cursors: all are positions of its epoch.
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
    /// that epoch.
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

    /// Returns whether the feed handed `cursor` out: the feed has the cursor's epoch, and the
    /// cursor's counter is not above the feed's last one in that epoch.
    #[must_use]
    pub fn has(&self, cursor: &Cursor) -> bool {
        let Some(position) = Position::parse(&cursor.change_id) else { return false };
        let last = self.last_in(position.epoch);
        last.is_some_and(|last| position.counter <= last)
            && cursor.changed_at <= self.head.changed_at
    }

    /// Returns the counter up to which a reader that applied `cursor` has seen this feed: the
    /// cursor's own, or that of the last remaining entry in the cursor's epoch; 0 if the feed does
    /// not have the epoch.
    #[must_use]
    pub fn seen_through(&self, cursor: &Cursor) -> u64 {
        let position = Position::parse(&cursor.change_id);
        let last = position.and_then(|position| self.last_in(position.epoch));
        position.map_or(0, |position| position.counter.min(last.unwrap_or(0)))
    }

    /// Returns the answer to a cursor that is not in this history.
    #[must_use]
    pub fn rematerialize(&self) -> Rematerialize {
        Rematerialize { oldest_available: self.pruned_cursor(), history: self.ends(), epoch: None }
    }

    /// The cursor of the greatest position that was pruned.
    #[must_use]
    pub fn pruned_cursor(&self) -> Option<Cursor> {
        let (counter, changed_at) = self.head.pruned?;
        Some(self.position(counter).at(changed_at))
    }
}

/// A request for the next part of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// The position that the client has applied; `None` starts from the beginning.
    pub cursor: Option<Cursor>,
    /// The head at the client's first pull, while its cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that is not settled.
    pub head: Option<Cursor>,
    /// The replica whose write id must be in the map.
    pub client_id: Option<ReplicaId>,
    /// The greatest number of entries: 1 to 500.
    pub limit: u32,
}

impl PullRequest {
    /// Returns the positions that the request names, all of which the feed's history must have.
    pub fn positions(&self) -> impl Iterator<Item = &Cursor> {
        self.cursor.iter().chain(&self.baseline).chain(&self.head)
    }

    /// Returns whether answering needs the feed's epochs before the head's: to name the positions
    /// of entries, to check a cursor, or to reject one.
    #[must_use]
    pub fn takes_history(&self, head: Option<&Head>) -> bool {
        let Some(head) = head else { return false };
        self.cursor.is_none()
            || !History::told_by_head(Some(head), self.positions())
            || self.misses_pruned(head)
    }

    /// Returns whether removals were pruned that the client may not have received.
    fn misses_pruned(&self, head: &Head) -> bool {
        let pruned = head.pruned.map_or(0, |(counter, _)| counter);
        counter(self.cursor.as_ref()).max(counter(self.baseline.as_ref())) < pruned
    }
}

fn counter(cursor: Option<&Cursor>) -> u64 {
    let position = cursor.and_then(|cursor| Position::parse(&cursor.change_id));
    position.map_or(0, |position| position.counter)
}

/// The answer to a cursor that a feed cannot serve: the client rebuilds its replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rematerialize {
    /// The oldest cursor that can be served, if removals were pruned.
    pub oldest_available: Option<Cursor>,
    /// The feed's epochs, ascending.
    pub history: Vec<EpochEnd>,
    /// The present epoch of the database, in which the feed may have no entry yet.
    pub epoch: Option<Epoch>,
}

/// The part of a feed that a pull gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// The entries of this window.
    Window(Window),
    /// An empty page: the feed has no entry yet.
    Empty,
    /// No entries: the feed cannot serve the cursor.
    Rematerialize(Rematerialize),
}

/// A range of a feed's entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The counter after which the entries begin.
    pub after: u64,
    /// The counter up to which the page leaves out removals.
    pub skip_removals_to: u64,
    /// The baseline that the answer carries.
    pub baseline: Option<Cursor>,
    /// The greatest number of entries.
    pub limit: usize,
    history: History,
}

impl Window {
    /// Decides which part of a feed `request` gets. The history has the feed's earlier epochs if
    /// [`PullRequest::takes_history`] says so, and is `None` for a feed that never had an entry.
    #[must_use]
    pub fn of(request: &PullRequest, history: Option<History>) -> Served {
        let mut given = request.positions();
        let Some(history) = history else {
            return match given.next() {
                Some(_) => Served::Rematerialize(Rematerialize::default()),
                None => Served::Empty,
            };
        };
        let pruned = request.cursor.is_some() && request.misses_pruned(history.head());
        if pruned || given.any(|cursor| !history.has(cursor)) {
            return Served::Rematerialize(history.rematerialize());
        }
        let limit = request.limit.clamp(1, MAX_PULL_LIMIT) as usize;
        let after = counter(request.cursor.as_ref());
        let (skip_removals_to, baseline) = match request.cursor {
            None => (history.head().counter, history.head().cursor()),
            Some(_) => (counter(request.baseline.as_ref()), None),
        };
        Served::Window(Self { after, skip_removals_to, baseline, limit, history })
    }

    /// Creates the window of the entries after a counter, removals included.
    #[must_use]
    pub const fn after(after: u64, limit: usize, history: History) -> Self {
        Self { after, skip_removals_to: 0, baseline: None, limit, history }
    }

    /// Returns the number of rows to read: one above the page's limit, to detect further entries.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.limit + 1
    }

    /// Returns the feed's history.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
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

    fn request(cursor: Option<Cursor>, baseline: Option<Cursor>) -> PullRequest {
        PullRequest { cursor, baseline, head: None, client_id: None, limit: 10 }
    }

    fn pruned_feed() -> History {
        let head =
            Head { epoch: epoch(1), counter: 9, changed_at: at(90), pruned: Some((4, at(40))) };
        History::new(head, Vec::new())
    }

    fn shown(counter: u64) -> Cursor {
        Position { epoch: epoch(1), counter }.at(at(40))
    }

    #[test]
    fn a_feed_without_entries_serves_who_comes_without_a_cursor() {
        assert_eq!(Window::of(&request(None, None), None), Served::Empty);
        let refused = Served::Rematerialize(Rematerialize::default());
        assert_eq!(Window::of(&request(Some(shown(1)), None), None), refused);
    }

    #[test]
    fn a_cursor_below_the_pruned_removals_is_served_only_with_a_baseline_above_them() {
        let refused = Served::Rematerialize(Rematerialize {
            oldest_available: Some(shown(4)),
            history: pruned_feed().ends(),
            epoch: None,
        });
        let served =
            |from, baseline| Window::of(&request(Some(shown(from)), baseline), Some(pruned_feed()));
        assert_eq!(served(3, None), refused);
        assert!(matches!(served(4, None), Served::Window(window) if window.after == 4));
        let with_baseline = served(3, Some(shown(5)));
        assert!(matches!(with_baseline, Served::Window(window) if window.skip_removals_to == 5));
        let first = Window::of(&request(None, None), Some(pruned_feed()));
        assert!(matches!(first, Served::Window(window) if window.skip_removals_to == 9));
    }

    #[test]
    fn a_cursor_that_the_feed_never_gave_is_refused() {
        let ahead = Window::of(&request(Some(shown(10)), None), Some(pruned_feed()));
        assert!(matches!(ahead, Served::Rematerialize(_)));
    }
}
