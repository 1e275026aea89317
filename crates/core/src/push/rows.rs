//! The rows that go into a decision, and the row changes that come out of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::access::Principal;
use crate::content::Attachment;
use crate::cursor::{Cursor, Epoch, Position};
use crate::entry::EntryBody;
use crate::id::{ItemId, OpId, UserId, WriteId};
use crate::register::{GrantRegister, Item, LinkRegister, MoveRegister};
use crate::time::Timestamp;
use crate::wire::PushReason;

/// Parent and child.
pub type LinkKey = (ItemId, ItemId);

/// A link as a row holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whether it is there.
    pub register: LinkRegister,
    /// Whether both ends have one owner. Others are shortcuts, which are never walked.
    pub in_realm: bool,
}

/// Rows to load, each set in key order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Items by id.
    pub items: BTreeSet<ItemId>,
    /// Link registers by parent and child.
    pub links: BTreeSet<LinkKey>,
    /// Grant registers by item and principal.
    pub grants: BTreeSet<(ItemId, Principal)>,
    /// Move registers by child and realm.
    pub moves: BTreeSet<(ItemId, UserId)>,
    /// Items whose present links (as parent and as child), grants and attachments are wanted.
    pub around: BTreeSet<ItemId>,
    /// Items whose present links upward are wanted, in their realm, all the way.
    pub ancestors: BTreeSet<ItemId>,
}

impl Needs {
    /// Whether there is nothing to load.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
            && self.links.is_empty()
            && self.grants.is_empty()
            && self.moves.is_empty()
            && self.around.is_empty()
            && self.ancestors.is_empty()
    }

    pub(super) fn retain_missing(&mut self, rows: &Rows) {
        self.items.retain(|id| !rows.items.contains_key(id));
        self.links.retain(|key| !rows.links.contains_key(key));
        self.grants.retain(|key| !rows.grants.contains_key(key));
        self.moves.retain(|key| !rows.moves.contains_key(key));
        self.around.retain(|id| !rows.around.contains(id));
        self.ancestors.retain(|id| !rows.ancestors.contains(id));
    }
}

/// What was loaded. A key that is there with `None` was looked for and not found.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The greatest write id that the replica used.
    pub last_write_id: Option<WriteId>,
    /// Operations of the replica under the write ids of [`super::PushBatch::replayed`].
    pub accepted: HashMap<WriteId, Accepted>,
    /// Of each realm in play, the last `changedAt` of its owner's feed.
    pub last_changed: HashMap<UserId, Timestamp>,
    /// Items.
    pub items: HashMap<ItemId, Option<Item>>,
    /// Link registers.
    pub links: HashMap<LinkKey, Option<Link>>,
    /// Grant registers.
    pub grants: HashMap<(ItemId, Principal), Option<GrantRegister>>,
    /// Move registers.
    pub moves: HashMap<(ItemId, UserId), Option<MoveRegister>>,
    /// The attachments of the items in `around`: the current content and what is no content.
    pub attachments: HashMap<ItemId, Vec<Attachment>>,
    /// Items whose surroundings are loaded.
    pub around: HashSet<ItemId>,
    /// Items whose links upward are loaded.
    pub ancestors: HashSet<ItemId>,
}

impl Rows {
    pub(super) fn item(&self, id: &ItemId) -> Option<&Item> {
        self.items.get(id)?.as_ref()
    }

    /// Notes that everything in `needs` was looked for; what was found is put in besides.
    /// To be called after a load: it leaves what is there as it is.
    pub fn nothing_found(&mut self, needs: Needs) {
        for id in needs.items {
            self.items.entry(id).or_insert(None);
        }
        for key in needs.links {
            self.links.entry(key).or_insert(None);
        }
        for key in needs.grants {
            self.grants.entry(key).or_insert(None);
        }
        for key in needs.moves {
            self.moves.entry(key).or_insert(None);
        }
        self.around.extend(needs.around);
        self.ancestors.extend(needs.ancestors);
    }

    /// A link's visibility depends on both its ends.
    pub(super) fn add_ends_of_links(&self, needs: &mut Needs) {
        let present = self.links.iter().filter(|(_, link)| link.is_some());
        for ((parent, child), _) in present {
            needs.items.insert(parent.clone());
            needs.items.insert(child.clone());
        }
    }
}

/// An operation that used up its write id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub op_id: OpId,
    /// Its digest, [`crate::op::Operation::digest`].
    pub digest: [u8; 32],
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an operation that used up its write id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was applied with this time.
    Applied(Timestamp),
    /// It was beaten: [`PushReason::Superseded`] or [`PushReason::Cycle`].
    Outdated(PushReason),
}

/// A row for `accepted_ops`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedOp {
    /// Under which write id.
    pub write_id: WriteId,
    /// The operation.
    pub accepted: Accepted,
}

/// The row changes of a transaction, in key order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Items as they are now.
    pub items: BTreeMap<ItemId, Item>,
    /// Those of them that are new: a conflict means that another transaction took the id.
    pub new_items: BTreeSet<ItemId>,
    /// Link registers as they are now.
    pub links: BTreeMap<LinkKey, Link>,
    /// Grant registers as they are now.
    pub grants: BTreeMap<(ItemId, Principal), GrantRegister>,
    /// Move registers as they are now.
    pub moves: BTreeMap<(ItemId, UserId), MoveRegister>,
    /// Operations that used up a write id, ascending.
    pub accepted: Vec<AcceptedOp>,
    /// The greatest of those write ids.
    pub last_write_id: Option<WriteId>,
    /// What to tell whom, in this order. The users' heads are what to lock.
    pub feed: BTreeMap<UserId, Vec<EntryBody>>,
}

/// The head of a feed, held under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The epoch.
    pub epoch: Epoch,
    /// The last position taken; 0 if none was.
    pub counter: u64,
    /// When it was taken.
    pub changed_at: Timestamp,
    /// The greatest position whose entry was pruned, and its time.
    pub pruned: Option<(u64, Timestamp)>,
}

impl Head {
    /// The cursor of the last position; `None` if none was taken.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        (self.counter > 0)
            .then(|| Position { epoch: self.epoch, counter: self.counter }.at(self.changed_at))
    }

    /// The cursor of the greatest position that was pruned.
    #[must_use]
    pub fn pruned_cursor(&self) -> Option<Cursor> {
        let (counter, changed_at) = self.pruned?;
        Some(Position { epoch: self.epoch, counter }.at(changed_at))
    }
}

/// A feed entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// [`crate::entry::EntryKey::to_bytes`].
    pub key: Vec<u8>,
    /// Its position.
    pub counter: u64,
    /// [`EntryBody::to_stored_json`].
    pub json: String,
    /// Whether retention may prune it.
    pub removal: bool,
}

/// Gives each entry its position behind `head`, which moves along; all have the head's new time.
#[must_use]
pub fn place(head: &mut Head, entries: &[EntryBody], now: Timestamp) -> Vec<PlacedEntry> {
    if entries.is_empty() {
        return Vec::new();
    }
    head.changed_at = head.changed_at.max(now);
    entries
        .iter()
        .map(|entry| {
            head.counter += 1;
            PlacedEntry {
                key: entry.change.key().to_bytes(),
                counter: head.counter,
                json: entry.to_stored_json(),
                removal: entry.change.is_removal(),
            }
        })
        .collect()
}
