//! The pull cycle: checks each page, and returns the changes to commit or the rule that was broken.
//!
//! ```
//! use vfs_sync_core::client::pull::PullCycle;
//! use vfs_sync_core::wire::{PullPage, WriteIds};
//!
//! let mut cycle = PullCycle::new(None, None, WriteIds::new());
//! let page = PullPage {
//!     items: Vec::new(), next_cursor: None, has_more: false,
//!     last_reconciled_write_ids: WriteIds::new(), baseline: None, head: None, epoch: None,
//! };
//! assert!(cycle.page(page).unwrap().settled.is_some());
//! ```

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use crate::cursor::{Cursor, Epoch, Position};
use crate::entry::Entry;
use crate::guardrail::{Stage, Violation};
use crate::id::ChangeId;
use crate::limits::MAX_WRITE_ID_ENTRIES;
use crate::time::Timestamp;
use crate::wire::{PullPage, WriteIds};

/// The state of a pull until it is settled.
#[derive(Debug, Clone)]
pub struct PullCycle {
    cursor: Option<Cursor>,
    baseline: Option<Cursor>,
    head: Option<Cursor>,
    floor: WriteIds,
    epoch: Option<Epoch>,
    seen: Seen,
}

/// The effects of a valid page, to be committed in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct PageCommit {
    /// The entries to apply, in this order.
    pub entries: Vec<Entry>,
    /// The cursor after the page.
    pub cursor: Option<Cursor>,
    /// The baseline to send with later pulls.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages so far, to send with the next pull; `None` once settled.
    pub head: Option<Cursor>,
    /// The new floor, if the page changed it.
    pub floor: Option<WriteIds>,
    /// The greatest time in the page, for the clock.
    pub latest: Option<Timestamp>,
    /// The server's map, if the page settled the pull.
    pub settled: Option<WriteIds>,
    /// The server's epoch, if the page has one. Operations acknowledged in another epoch must be
    /// queued again: no map of this epoch covers them.
    pub epoch: Option<Epoch>,
}

impl PullCycle {
    /// Starts a cycle at `cursor`; `floor` has the write ids seen in all earlier pages.
    #[must_use]
    pub fn new(cursor: Option<Cursor>, baseline: Option<Cursor>, floor: WriteIds) -> Self {
        Self { cursor, baseline, head: None, floor, epoch: None, seen: Seen::default() }
    }

    /// Sets the epoch that the floor belongs to; `None` if it is not known.
    #[must_use]
    pub fn in_epoch(self, epoch: Option<Epoch>) -> Self {
        Self { epoch, ..self }
    }

    /// Continues a pull that was left unsettled: `head` is the newest head of its pages.
    #[must_use]
    pub fn seen_through(self, head: Option<Cursor>) -> Self {
        Self { head, ..self }
    }

    /// Returns the last epoch that the server reported.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The cursor to pull from.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// The baseline to send with the pull.
    #[must_use]
    pub fn baseline(&self) -> Option<&Cursor> {
        self.baseline.as_ref()
    }

    /// Returns the newest head of the pages so far, to send with the next pull. An entry that moves
    /// up to this head while the pages are read is in none of them. A server that lost the head has
    /// such an entry at its older place again, before the cursor.
    #[must_use]
    pub fn head(&self) -> Option<&Cursor> {
        self.head.as_ref()
    }

    /// Checks a page in the order of the guardrail table, and advances the cycle past it.
    ///
    /// # Errors
    /// The first rule that the page breaks; the cycle is then unchanged.
    pub fn page(&mut self, page: PullPage) -> Result<PageCommit, Violation> {
        // Write ids of an earlier epoch may never have been in this one.
        let anew = page.epoch.is_some() && page.epoch != self.epoch;
        if !anew {
            check_write_ids(&self.floor, &page.last_reconciled_write_ids)?;
        }
        if page.has_more && page.items.is_empty() {
            return Err(Violation::EmptyPageWithMore);
        }
        let ascending = self.seen.ascending.len();
        self.check_replay(&page.items)?;
        if let Err(violation) = self.check_positions(&page) {
            self.seen.forget(ascending, &page.items);
            return Err(violation);
        }
        if self.cursor.is_none() && page.baseline.is_some() {
            self.baseline = page.baseline;
        }
        if let Some(last) = page.items.last() {
            self.cursor = Some(last.position.clone());
        }
        if self.baseline.is_some() && self.cursor >= self.baseline {
            self.baseline = None;
        }
        self.head = if page.has_more { self.head.take().max(page.head) } else { None };
        if anew {
            self.epoch = page.epoch;
            self.floor.clear();
        }
        let raised = raise(&mut self.floor, &page.last_reconciled_write_ids);
        let latest =
            page.items.iter().map(|entry| entry.position.changed_at.max(entry.body.authored_at));
        Ok(PageCommit {
            latest: latest.max(),
            epoch: page.epoch,
            floor: (anew || raised).then(|| self.floor.clone()),
            settled: (!page.has_more).then_some(page.last_reconciled_write_ids),
            entries: page.items,
            cursor: self.cursor.clone(),
            baseline: self.baseline.clone(),
            head: self.head.clone(),
        })
    }

    /// Records the page's ids as seen; fails if one of them was seen before.
    fn check_replay(&mut self, items: &[Entry]) -> Result<(), Violation> {
        let ascending = self.seen.ascending.len();
        for (index, entry) in items.iter().enumerate() {
            let op_id = &entry.position.change_id;
            if !self.seen.insert(op_id) {
                self.seen.forget(ascending, &items[..index]);
                return Err(Violation::DuplicateOpReplay { op_id: op_id.clone() });
            }
        }
        Ok(())
    }

    fn check_positions(&self, page: &PullPage) -> Result<(), Violation> {
        let tail = page.items.last().map(|entry| &entry.position);
        if let Some(tail) = tail {
            let missing = page.has_more && page.next_cursor.is_none();
            let differs = page.next_cursor.as_ref().is_some_and(|next| next != tail);
            if missing || differs {
                return Err(Violation::NextCursorMismatch {
                    next_cursor: page.next_cursor.clone(),
                    page_cursor: tail.clone(),
                });
            }
        }
        let mut before = self.cursor.as_ref();
        if let (Some(local), Some(incoming)) = (before, tail.or(page.next_cursor.as_ref()))
            && incoming < local
        {
            return Err(Violation::PullCursorRegression {
                previous: local.clone(),
                incoming: incoming.clone(),
            });
        }
        for (item_index, entry) in page.items.iter().enumerate() {
            if before.is_some_and(|before| entry.position <= *before) {
                let op_id = entry.position.change_id.clone();
                return Err(Violation::ItemsOutOfOrder { item_index, op_id });
            }
            before = Some(&entry.position);
        }
        Ok(())
    }
}

fn check_write_ids(floor: &WriteIds, incoming: &WriteIds) -> Result<(), Violation> {
    for (replica_id, &write_id) in incoming {
        if let Some(&previous) = floor.get(replica_id)
            && write_id < previous
        {
            return Err(Violation::LastWriteIdRegression {
                stage: Stage::Pull,
                replica_id: replica_id.clone(),
                previous,
                incoming: write_id,
            });
        }
    }
    Ok(())
}

/// Raises the floor to `map` and returns whether that changed it. If there are too many replicas,
/// it drops some that the server no longer names, as the server does.
fn raise(floor: &mut WriteIds, map: &WriteIds) -> bool {
    let mut changed = false;
    for (replica, &write_id) in map {
        if floor.get(replica) != Some(&write_id) {
            floor.insert(replica.clone(), write_id);
            changed = true;
        }
    }
    if floor.len() > 2 * MAX_WRITE_ID_ENTRIES {
        floor.retain(|replica, _| map.contains_key(replica));
    }
    changed
}

/// The change ids seen in a cycle. Ids that our own server made ascend and are kept as numbers; any
/// other id is kept as half of a strong hash. So a long cycle takes little memory, and nobody can
/// construct two ids that collide.
#[derive(Debug, Clone, Default)]
struct Seen {
    ascending: Vec<Position>,
    others: HashSet<[u8; 16], BuildHasherDefault<FirstBytes>>,
}

impl Seen {
    /// Inserts `id` and returns whether it is new.
    fn insert(&mut self, id: &ChangeId) -> bool {
        if let Some(position) = Position::parse(id) {
            if self.others.is_empty() && self.ascending.last().is_none_or(|last| *last < position) {
                self.ascending.push(position);
                return true;
            }
            if self.ascending.binary_search(&position).is_ok() {
                return false;
            }
        }
        self.others.insert(hash(id))
    }

    /// Removes the entries inserted since the set held `ascending` numbered ones.
    fn forget(&mut self, ascending: usize, inserted: &[Entry]) {
        self.ascending.truncate(ascending);
        if !self.others.is_empty() {
            for entry in inserted {
                self.others.remove(&hash(&entry.position.change_id));
            }
        }
    }
}

fn hash(id: &ChangeId) -> [u8; 16] {
    let hash = blake3::hash(id.as_str().as_bytes());
    hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

/// A hasher that takes the first bytes: the keys are hashes already.
#[derive(Debug, Clone, Copy, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{Change, EntryBody};
    use crate::id::ItemId;
    use proptest::prelude::*;

    fn entry(id: ChangeId) -> Entry {
        let at = Timestamp::from_millis(0).unwrap();
        let change = Change::ItemDelete { item: ItemId::new("i").unwrap(), reason: None };
        let body =
            EntryBody { actor: None, authored_at: at, origin: None, author_replica: None, change };
        Entry { position: Cursor { changed_at: at, change_id: id }, body }
    }

    fn id(ours: bool, counter: u64) -> ChangeId {
        if ours {
            Position { epoch: Epoch::from_u64(1).unwrap(), counter }.change_id()
        } else {
            ChangeId::new(format!("{counter}")).unwrap()
        }
    }

    proptest! {
        #[test]
        fn an_id_is_new_once_whoever_made_it_and_in_any_order(
            pages in prop::collection::vec(
                (any::<bool>(), prop::collection::vec((any::<bool>(), 0u64..40), 0..12)),
                0..12,
            ),
        ) {
            let mut seen = Seen::default();
            let mut model: HashSet<ChangeId> = HashSet::new();
            for (kept, page) in pages {
                let (before, ascending) = (model.clone(), seen.ascending.len());
                let mut inserted = Vec::new();
                for (ours, counter) in page {
                    let id = id(ours, counter);
                    let new = model.insert(id.clone());
                    prop_assert_eq!(seen.insert(&id), new, "{}", id);
                    if new {
                        inserted.push(entry(id));
                    }
                }
                if !kept {
                    seen.forget(ascending, &inserted);
                    model = before;
                }
            }
        }
    }
}
