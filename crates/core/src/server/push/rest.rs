//! The rest of a propagation that narrows views: it is written in chunks, in one transaction.
//!
//! A chunk recomputes some audiences and leaves the items below them to later chunks, which read what
//! the earlier ones wrote. So the memory of a change that takes something from its readers is that of
//! a chunk, however much it takes; only the ids of the items that still wait are kept. Changes that
//! show something are planned whole: their size is bounded, and what is beyond is refused before
//! anything is written.

use std::collections::BTreeSet;

use super::propagate::{Bound, FeedPropagation};
use super::rows::Rows;
use crate::id::{ItemId, UserId};
use crate::time::Timestamp;

/// The memory of the id of an item that waits for a later chunk.
const WAITING_BYTES: usize = 100;

/// Items whose audiences are still to be recomputed, after what was decided so far is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// The users whose access may change.
    users: BTreeSet<UserId>,
    /// The realms that the transaction has locked.
    realms: BTreeSet<UserId>,
    /// The items that each chunk left. Those left last are next: they are the deepest, and few wait.
    waiting: Vec<BTreeSet<ItemId>>,
    now: Timestamp,
    bound: Bound,
    /// The consequences of the chunks before.
    weighed: Bound,
    chunk: usize,
}

impl Rest {
    /// Records what a first chunk leaves.
    pub(super) fn new(
        users: BTreeSet<UserId>,
        realms: BTreeSet<UserId>,
        items: BTreeSet<ItemId>,
        now: Timestamp,
        (bound, weighed): (Bound, Bound),
        chunk: usize,
    ) -> Self {
        Self { users, realms, waiting: vec![items], now, bound, weighed, chunk }
    }

    /// Takes the next chunk; returns `None` once no item is left. It is to be written before the
    /// one after it is taken.
    pub fn next_chunk(&mut self) -> Option<FeedPropagation> {
        let mut items = self.waiting.pop()?;
        let most = chunk_items(self.chunk, self.users.len());
        if let Some(first_left) = items.iter().nth(most).cloned() {
            let left = items.split_off(&first_left);
            self.waiting.push(left);
        }
        let mut rows = Rows::default();
        rows.realms.clone_from(&self.realms);
        let waiting: usize = self.waiting.iter().map(BTreeSet::len).sum();
        Some(
            FeedPropagation::of_grants(self.users.clone(), items, rows, self.now)
                .within(self.bound)
                .in_chunks_of(self.chunk)
                .after_chunks(self.weighed, waiting * WAITING_BYTES),
        )
    }

    /// Returns the time of the change.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Adds what a chunk left: the items below those that it recomputed.
    pub fn add(&mut self, left: Self) {
        self.waiting.extend(left.waiting);
        self.weighed = left.weighed;
    }
}

/// The memory of an item with its links and attachments that is loaded to be recomputed.
const ITEM_BYTES: usize = 1_000;
/// The memory of a user's level on an item and on its parents.
const LEVEL_BYTES: usize = 200;

/// Returns the number of items that a chunk of this many bytes loads at one time, for this many
/// users.
pub(super) fn chunk_items(chunk: usize, users: usize) -> usize {
    (chunk / (ITEM_BYTES + users.saturating_mul(LEVEL_BYTES))).max(1)
}
