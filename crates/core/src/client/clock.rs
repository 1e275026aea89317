//! The client's hybrid logical clock: wall time, but later than everything seen.

use crate::time::Timestamp;

/// Assigns each operation its `occurredAt`.
///
/// A write after seeing X is stamped later than X, regardless of any clock. Equal times of one
/// replica are ordered by write id, so a burst does not run ahead of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HybridClock {
    last: Option<Timestamp>,
    seen: Option<Timestamp>,
}

impl HybridClock {
    /// Restores a clock from its stored state.
    #[must_use]
    pub const fn new(last: Option<Timestamp>, seen: Option<Timestamp>) -> Self {
        Self { last, seen }
    }

    /// The last stamp that the clock assigned.
    #[must_use]
    pub const fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// The greatest time seen in the feed.
    #[must_use]
    pub const fn seen(&self) -> Option<Timestamp> {
        self.seen
    }

    /// The time of an operation made at `now`.
    pub fn stamp(&mut self, now: Timestamp) -> Timestamp {
        let after_seen = self.seen.map_or(now, |seen| now.max(seen.plus_millis(1)));
        let time = self.last.map_or(after_seen, |last| after_seen.max(last));
        self.last = Some(time);
        time
    }

    /// Raises the greatest time seen in the feed to `time`.
    pub fn observe(&mut self, time: Timestamp) {
        self.seen = self.seen.max(Some(time));
    }

    /// Lowers the last stamp to `believed`, the earlier time that the server stored, but never
    /// below `queued`, the greatest stamp in the queue, nor below the greatest time seen in the
    /// feed.
    pub fn lower(&mut self, believed: Timestamp, queued: Option<Timestamp>) {
        let floor = Some(believed).max(queued).max(self.seen);
        self.last = self.last.min(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    #[test]
    fn what_was_written_after_seeing_something_is_later() {
        let mut clock = HybridClock::default();
        clock.observe(at(1_000));
        assert_eq!(clock.stamp(at(10)), at(1_001));
        assert_eq!(clock.stamp(at(10)), at(1_001), "a burst does not run ahead");
        assert_eq!(clock.stamp(at(2_000)), at(2_000));
        assert_eq!(clock.stamp(at(500)), at(2_000), "nor does it step back");
    }

    #[test]
    fn a_clock_that_was_told_off_comes_back() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.stamp(at(9_000)), at(9_000));
        clock.lower(at(100), Some(at(200)));
        assert_eq!(clock.last(), Some(at(200)));
        clock.observe(at(300));
        clock.lower(at(100), None);
        assert_eq!(clock.seen(), Some(at(300)));
        assert_eq!(clock.stamp(at(120)), at(301));
    }
}
