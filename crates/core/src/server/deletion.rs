//! The deletion of a user: the order in which everything goes, and the receipt.
//!
//! What has to hold at every moment, and what a person loses if it does not:
//!
//! 1. Until the wait is over nothing is removed, and the deletion can be called off. Else somebody
//!    loses a tree to a slip of an operator.
//! 2. From the first removal on nobody is served under the name, until an operator allows it. Else
//!    a device offers everything again that was to go, or takes the emptied tree for its own and
//!    empties its disk.
//! 3. Each step is one bounded transaction, and the row says which is next. Else a crash leaves a
//!    half of it that nobody finishes, and others wait.
//! 4. Others are told of each item that they saw, in the transaction that takes it. Else a device
//!    shows for ever what is no longer there.
//! 5. What others own stays, with what the user wrote in it; only the name of the author goes.
//! 6. A row that names the user by a number or a name goes before the user's own row. Else another
//!    user's call meets a row of nobody.
//! 7. After the last removal a look finds nothing more, later than any call of the user can still
//!    be under way. Else a late call leaves rows behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::UserId;
use crate::time::Timestamp;

/// The beginning of the names that stand for deleted users.
const REPLACED: &str = "deleted:";

/// The next work of a deletion. The phases follow one another in this order, and again from the
/// second on until a round removes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeletionPhase {
    /// Nothing: the deletion can still be called off.
    Waiting,
    /// Memberships, and grants of others to the user.
    Shares,
    /// The items of the user, with links, grants and contents.
    Items,
    /// The user's feed, and the access to others' items.
    Feed,
    /// The stages and blobs of the user.
    Contents,
    /// The user's name as an author in others' registers.
    Authors,
    /// The user's name in others' feeds.
    Mentions,
    /// Devices, replicas, and all other rows of the user.
    Rows,
    /// Nothing: all is removed.
    Done,
}

impl DeletionPhase {
    const fn next(self) -> Self {
        match self {
            Self::Waiting => Self::Shares,
            Self::Shares => Self::Items,
            Self::Items => Self::Feed,
            Self::Feed => Self::Contents,
            Self::Contents => Self::Authors,
            Self::Authors => Self::Mentions,
            Self::Mentions => Self::Rows,
            Self::Rows | Self::Done => Self::Done,
        }
    }
}

/// The numbers of the things that a deletion removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeletionCounts {
    /// Items that the user owned.
    pub items: u64,
    /// Contents whose bytes are gone, of earlier deletions too while their ids are kept.
    pub contents: u64,
    /// The bytes of these contents.
    pub bytes: u64,
    /// Grants of others to the user, and memberships of groups.
    pub shares: u64,
    /// Rows of the user's feed.
    pub feed_rows: u64,
    /// Places in others' items and feeds where another name replaced the user's.
    pub names: u64,
    /// Devices, replicas, results of operations, and other rows.
    pub rows: u64,
}

/// A deletion of a user: its progress, and its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// The keyed hash of the user's name, which stays.
    pub pseudonym: String,
    /// The user; `None` once all is removed.
    pub user: Option<UserId>,
    /// True if the user had been disabled before.
    pub was_disabled: bool,
    /// The time of the request.
    pub requested_at: Timestamp,
    /// The time of the next step.
    pub due_at: Timestamp,
    /// The phase of the next step.
    pub phase: DeletionPhase,
    /// The place where the phase resumes.
    pub cursor: Option<String>,
    /// The removals of the present round.
    pub removed: u64,
    /// The receipt's numbers so far.
    pub counts: DeletionCounts,
    /// The time at which all was removed.
    pub finished_at: Option<Timestamp>,
    /// The time at which an operator allowed the name again.
    pub allowed_at: Option<Timestamp>,
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// The numbers of removed things, for the receipt.
    pub counts: DeletionCounts,
    /// True if the phase has more to do.
    pub more: bool,
    /// The place where the phase resumes; `None` for its beginning.
    pub cursor: Option<String>,
    /// True if the rest of the phase waits for work of others, such as the object store's.
    pub waits: bool,
}

impl DeletionCounts {
    /// Returns the sum of both, number by number.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            items: self.items + other.items,
            contents: self.contents + other.contents,
            bytes: self.bytes + other.bytes,
            shares: self.shares + other.shares,
            feed_rows: self.feed_rows + other.feed_rows,
            names: self.names + other.names,
            rows: self.rows + other.rows,
        }
    }

    /// Returns the number of all things, without bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.items + self.contents + self.shares + self.feed_rows + self.names + self.rows
    }
}

/// The delays between the steps of a deletion, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletionPace {
    /// The time from the last removal to the look for what a late call left.
    pub settle_millis: i64,
    /// The time to the next look at work of others.
    pub retry_millis: i64,
}

impl Deletion {
    /// Begins a deletion: nothing is removed before `due_at`.
    #[must_use]
    pub fn new(
        user: UserId,
        pseudonym: String,
        was_disabled: bool,
        now: Timestamp,
        due_at: Timestamp,
    ) -> Self {
        Self {
            pseudonym,
            user: Some(user),
            was_disabled,
            requested_at: now,
            due_at,
            phase: DeletionPhase::Waiting,
            cursor: None,
            removed: 0,
            counts: DeletionCounts::default(),
            finished_at: None,
            allowed_at: None,
        }
    }

    /// Returns whether calls of the user are refused because of the deletion itself.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.phase != DeletionPhase::Waiting && self.allowed_at.is_none()
    }

    /// Returns whether there is nothing left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == DeletionPhase::Done
    }

    /// Returns the name that replaces the user's where others' things name their author. No token
    /// is accepted for such a name.
    #[must_use]
    pub fn replacement(&self) -> UserId {
        let name = UserId::new(format!("{REPLACED}{}", self.pseudonym));
        // A malformed row has a pseudonym of another form.
        name.unwrap_or_else(|_| UserId::new(REPLACED).expect("a short name of ASCII"))
    }

    /// Records a step's outcome and determines the next step. `is_known` says whether the database
    /// still has a row of the user's own; it counts after the last phase of a round.
    pub fn advance(&mut self, step: &Removed, is_known: bool, now: Timestamp, pace: DeletionPace) {
        self.counts = self.counts.and(step.counts);
        self.removed += step.counts.total();
        self.due_at = now;
        self.cursor.clone_from(&step.cursor);
        if step.waits {
            self.due_at = now.plus_millis(pace.retry_millis);
        }
        if step.more {
            return;
        }
        self.cursor = None;
        if self.phase != DeletionPhase::Rows {
            self.phase = self.phase.next();
        } else if is_known || self.removed > 0 {
            // A call that was under way may leave rows: a later round looks for them.
            self.phase = DeletionPhase::Shares;
            self.due_at = now.plus_millis(pace.settle_millis);
            self.removed = 0;
        } else {
            self.phase = DeletionPhase::Done;
            self.user = None;
            self.finished_at = Some(now);
        }
    }
}

/// Returns whether a name stands for a deleted user, and so is no user's.
#[must_use]
pub fn is_replacement(user: &UserId) -> bool {
    user.as_str().starts_with(REPLACED)
}

/// The parts of a user's data that no deletion reaches, as the receipt names them.
pub const OUT_OF_REACH: &[(&str, &str)] = &[
    ("backups", "backups made before hold everything: delete or replace them"),
    ("versionedBuckets", "a bucket with versions or a retention keeps the objects' old versions"),
    (
        "freePages",
        "free pages of the database keep old bytes until they are used again: VACUUM rewrites them",
    ),
    ("devices", "the disks of the user's own devices, and copies on others' disks"),
    ("removals", "others' feeds name the user in removals of grants until retention prunes them"),
    ("blobIds", "ids of removed contents stay taken for a year, without owner and type"),
];

/// Returns the parts out of reach by name.
#[must_use]
pub fn out_of_reach() -> BTreeMap<&'static str, &'static str> {
    OUT_OF_REACH.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    const PACE: DeletionPace = DeletionPace { settle_millis: 100, retry_millis: 10 };

    fn deletion() -> Deletion {
        Deletion::new(UserId::new("bob").unwrap(), "0123".into(), false, at(0), at(5))
    }

    #[test]
    fn a_deletion_goes_from_phase_to_phase_and_ends_with_a_round_that_finds_nothing() {
        let mut deletion = deletion();
        assert!(!deletion.denies());
        let mut phases = Vec::new();
        let rows = DeletionCounts { rows: 1, ..DeletionCounts::default() };
        let (removed, nothing) =
            (Removed { counts: rows, ..Removed::default() }, Removed::default());
        while !deletion.is_done() {
            phases.push(deletion.phase);
            let step = if phases.len() == 8 { &removed } else { &nothing };
            let due = deletion.due_at;
            deletion.advance(step, false, due, PACE);
            assert!(deletion.denies());
        }
        assert_eq!(phases.len(), 8 + 7);
        assert_eq!(phases[7], DeletionPhase::Rows);
        assert_eq!(deletion.finished_at, Some(at(105)));
        assert_eq!((deletion.user, deletion.counts.rows), (None, 1));
    }

    #[test]
    fn a_user_who_is_still_known_is_looked_at_again() {
        let mut deletion = Deletion { phase: DeletionPhase::Rows, ..deletion() };
        deletion.advance(&Removed::default(), true, at(7), PACE);
        assert_eq!((deletion.phase, deletion.due_at), (DeletionPhase::Shares, at(107)));
    }

    #[test]
    fn a_step_that_waits_or_has_more_stays_in_its_phase() {
        let mut deletion = Deletion { phase: DeletionPhase::Contents, ..deletion() };
        let step = Removed { more: true, waits: true, ..Removed::default() };
        deletion.advance(&step, true, at(7), PACE);
        assert_eq!((deletion.phase, deletion.due_at), (DeletionPhase::Contents, at(17)));
    }

    #[test]
    fn the_replacement_of_a_name_is_no_users_name() {
        assert!(is_replacement(&deletion().replacement()));
        assert!(!is_replacement(&UserId::new("bob").unwrap()));
    }
}
