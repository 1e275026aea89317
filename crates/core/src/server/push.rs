//! Decides a push in three parts: load, decide, write.
//!
//! A back end opens a transaction, takes its locks, and asks [`PushBatch::needs`] which rows to
//! load until it asks for none; then [`decide()`] turns batch and rows into the results and a
//! [`FeedPropagation`], whose steps say what the back end has to load, lock and look up until it
//! returns one set of [`Changes`] to write. The rules are all here; a back end knows rows, locks
//! and batches.
//!
//! ```
//! use vfs_sync_core::id::UserId;
//! use vfs_sync_core::server::push::{PushBatch, Rows, Step, decide};
//! use vfs_sync_core::time::Timestamp;
//! use vfs_sync_core::wire::PushStatus;
//!
//! let body = br#"{"clientId": "laptop", "operations": [{
//!     "opId": "o1", "opType": "item_upsert", "itemId": "i1", "replicaId": "laptop", "writeId": 1,
//!     "occurredAt": "2026-01-01T00:00:00Z", "objectType": "folder", "name": "Photos"
//! }]}"#;
//! let batch = PushBatch::parse(UserId::new("alice")?, body)?;
//! let mut rows = Rows::default();
//! while let Some(needs) = batch.needs(&rows) {
//!     rows.absorb(needs, Rows::default()); // an empty database
//! }
//! let decided = decide(&batch, rows, Timestamp::parse("2026-01-01T00:00:01Z")?);
//! assert_eq!(decided.response.results[0].status, PushStatus::Applied);
//! let mut step = decided.propagation.step();
//! let changes = loop {
//!     step = match step {
//!         Step::Load(load) => load.resume(Rows::default()),
//!         Step::LockHeads(lock) => lock.resume(), // nobody else is here
//!         Step::LookUp(look_up) => look_up.resume(&Default::default()),
//!         Step::Write(changes) => break changes,
//!         Step::TooMuch | Step::NoMemory => unreachable!("one item has few consequences"),
//!     };
//! };
//! assert_eq!(changes.items.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decide;
mod departure;
mod examine;
mod order;
mod permissions;
mod propagate;
mod quota;
mod rest;
mod revive;
mod rows;
mod tombstone;
mod trash;
mod visibility;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::{Principal, PrincipalType};
use crate::id::{ItemId, OpId, ReplicaId, UserId, WriteId};
use crate::limits::MAX_PUSH_OPERATIONS;
use crate::operation::{Action, Operation};

pub use decide::{Carried, Decided, decide};
pub use examine::{DerivedFault, Examination};
pub use propagate::{
    Bound, BoundKind, FeedPropagation, Load, LockHeads, LookUp, PresentInFeed, Step,
};
pub use quota::{MetadataQuota, MetadataUsage, UsageChange};
pub use rest::Rest;
pub use revive::Revival;
pub use rows::{
    Accepted, AcceptedOp, Addition, Awaited, Cause, Changes, GrantCounts, Head, Link, LinkKey, Map,
    Mark, Needs, Outcome, PlacedEntry, Places, Rows, Set, Tail,
};

/// A push as the server received it: each operation is parsed, or known to be malformed.
#[derive(Debug, Clone)]
pub struct PushBatch {
    /// The user of the verified token.
    pub user: UserId,
    /// The replica that pushes.
    pub replica: ReplicaId,
    entries: Vec<Received>,
    /// True for a replica's push, with write ids; false for the operation of an attach.
    is_push: bool,
    /// The state that the part of the push before this one passed on.
    carried: Carried,
    /// The number of operations to try in one transaction.
    at_most: usize,
    bounds: Bounds,
    /// The bounds on what the owner of each realm may have.
    pub quota: MetadataQuota,
}

/// The bounds of a push's consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The bound of several operations that one transaction applies.
    pub part: Bound,
    /// The bound of a single operation; beyond it, it is refused.
    pub operation: Bound,
}

#[derive(Debug, Clone)]
enum Received {
    Operation { op: Box<Operation>, digest: [u8; 32] },
    Malformed { op_id: Option<OpId>, detail: String },
}

/// A body that does not have the form of a push.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPush {
    /// The body is not the JSON of a push.
    #[error("the body is not a push: {0}")]
    Form(String),
    /// The push has too many operations.
    #[error("a push has at most {MAX_PUSH_OPERATIONS} operations, this one {0}")]
    TooMany(usize),
}

impl PushBatch {
    /// Reads a push's body. A malformed operation does not fail the batch; it gets its own result.
    ///
    /// # Errors
    /// [`InvalidPush`] if the body does not have the form of a push.
    pub fn parse(user: UserId, body: &[u8]) -> Result<Self, InvalidPush> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            client_id: ReplicaId,
            #[serde(borrow)]
            operations: Vec<&'a RawValue>,
        }
        // Serde would take an array for a struct's fields in their order.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(InvalidPush::Form("it must be an object".into()));
        }
        let body: Body<'_> =
            serde_json::from_slice(body).map_err(|error| InvalidPush::Form(error.to_string()))?;
        if body.operations.len() > MAX_PUSH_OPERATIONS {
            return Err(InvalidPush::TooMany(body.operations.len()));
        }
        let entries =
            body.operations.iter().map(|raw| Received::parse(raw.get(), &body.client_id)).collect();
        Ok(Self::of(user, body.client_id, entries))
    }

    /// Creates a push of well-formed operations.
    #[must_use]
    pub fn new(user: UserId, replica: ReplicaId, operations: Vec<Operation>) -> Self {
        let entries = operations.into_iter().map(|op| Received::checked(op, &replica)).collect();
        Self::of(user, replica, entries)
    }

    fn of(user: UserId, replica: ReplicaId, entries: Vec<Received>) -> Self {
        let carried = Carried::default();
        let bounds = Bounds { part: Bound::PART, operation: Bound::OPERATION };
        Self {
            user,
            replica,
            entries,
            is_push: true,
            carried,
            at_most: usize::MAX,
            bounds,
            quota: MetadataQuota::NONE,
        }
    }

    /// Bounds what the owner of each realm may have.
    #[must_use]
    pub fn with_quota(self, quota: MetadataQuota) -> Self {
        Self { quota, ..self }
    }

    /// Sets other bounds of the consequences than the protocol's.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Returns the bound of the consequences of this many of the operations.
    #[must_use]
    pub fn bound(&self, operations: usize) -> Bound {
        if operations > 1 { self.bounds.part } else { self.bounds.operation }
    }

    /// Returns the number of operations to try in one transaction: all, but for the rest of a push
    /// whose first operations had many consequences.
    #[must_use]
    pub fn to_try(&self) -> usize {
        self.at_most.min(self.len()).max(1)
    }

    /// Returns whether this is the rest of a push whose first operations had many consequences.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        self.at_most < usize::MAX
    }

    /// Returns the first operations, as a push of its own.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let entries = self.entries.iter().take(count).cloned().collect();
        let (user, replica) = (self.user.clone(), self.replica.clone());
        Self { entries, user, replica, carried: self.carried.clone(), ..*self }
    }

    /// Returns the push without its first operations, which were decided and left `carried`; `None`
    /// if there are no others.
    #[must_use]
    pub fn after(&self, count: usize, carried: Carried) -> Option<Self> {
        let entries: Vec<Received> = self.entries.iter().skip(count).cloned().collect();
        if entries.is_empty() {
            return None;
        }
        let (user, replica) = (self.user.clone(), self.replica.clone());
        let at_most = count.saturating_mul(2);
        Some(Self { entries, user, replica, carried, at_most, ..*self })
    }

    /// Returns the number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the push has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the well-formed operations, in the order sent.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.entries.iter().filter_map(|entry| match entry {
            Received::Operation { op, .. } => Some(&**op),
            Received::Malformed { .. } => None,
        })
    }

    /// Returns every item that the batch names; their owners' realms must be locked.
    #[must_use]
    pub fn named_items(&self) -> BTreeSet<ItemId> {
        self.operations()
            .flat_map(|op| std::iter::once(&op.item_id).chain(op.parent()))
            .cloned()
            .collect()
    }

    /// Returns the groups and organizations whose grants the batch adds or removes.
    #[must_use]
    pub fn named_groups(&self) -> BTreeSet<Principal> {
        let named = self.operations().filter_map(Operation::principal);
        named.filter(|principal| principal.kind != PrincipalType::User).cloned().collect()
    }

    /// Returns the write ids that are not above `last`: their earlier uses must be looked up.
    #[must_use]
    pub fn replayed(&self, last: Option<WriteId>) -> BTreeSet<WriteId> {
        self.operations().map(|op| op.write_id).filter(|id| Some(*id) <= last).collect()
    }

    /// Returns the rows that deciding needs and `rows` lacks; `None` once it has all of them.
    #[must_use]
    pub fn needs(&self, rows: &Rows) -> Option<Needs> {
        let mut needs = Needs::default();
        for op in self.operations() {
            needs.items.insert(op.item_id.clone());
            if let Some(parent) = op.parent() {
                needs.items.insert(parent.clone());
                needs.links.insert((parent.clone(), op.item_id.clone()));
            }
            if let Some(principal) = op.principal() {
                needs.grants.insert((op.item_id.clone(), principal.clone()));
            }
        }
        // An item that does not exist has no links, so those of a new item are not looked up.
        needs.links.retain(|(_, child)| !matches!(rows.items.get(child), Some(None)));
        needs.retain_missing(rows);
        if !needs.is_empty() {
            return Some(needs);
        }
        self.add_surroundings(rows, &mut needs);
        self.add_seen(rows, &mut needs);
        self.add_rights(rows, &mut needs);
        self.add_counts(rows, &mut needs);
        rows.add_ends_of_links(&mut needs);
        needs.retain_missing(rows);
        (!needs.is_empty()).then_some(needs)
    }

    /// Adds the surroundings of items that are deleted or come back, whose visibility changes, and
    /// the ancestors with which a link may close a cycle.
    fn add_surroundings(&self, rows: &Rows, needs: &mut Needs) {
        let mut parents = BTreeSet::new();
        let mut reorganises = false;
        for op in self.operations() {
            let Some(item) = rows.item(&op.item_id) else {
                parents.extend(op.parent().cloned());
                continue;
            };
            match &op.action {
                Action::Delete => {
                    needs.around.insert(op.item_id.clone());
                }
                Action::Upsert(_) if item.fields.is_deleted() => {
                    needs.around.insert(op.item_id.clone());
                }
                Action::LinkAdd { parent } | Action::LinkReassign { parent } => {
                    reorganises = true;
                    parents.insert(parent.clone());
                    if matches!(op.action, Action::LinkReassign { .. }) {
                        needs.ancestors.insert(op.item_id.clone());
                    }
                    if let Some(parent) = rows.item(parent) {
                        needs.moves.insert((op.item_id.clone(), parent.owner.clone()));
                        if parent.owner != item.owner {
                            // A shortcut that moves: where it was is no link of the child's realm.
                            needs.around.insert(op.item_id.clone());
                        }
                    } else {
                        // Made in this very push, in whichever of the realms that it touches.
                        let moves =
                            rows.realms.iter().map(|realm| (op.item_id.clone(), realm.clone()));
                        needs.moves.extend(moves);
                        if rows.realms.len() > 1 {
                            needs.around.insert(op.item_id.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        if reorganises {
            needs.ancestors.extend(parents.into_iter().filter(|id| rows.item(id).is_some()));
        }
    }
}

impl PushBatch {
    /// Adds the rows that determine the user's rights on others' items: their lineage, the grants
    /// in it, and the user's groups.
    fn add_rights(&self, rows: &Rows, needs: &mut Needs) {
        let foreign = |id: &ItemId| rows.item(id).is_some_and(|item| item.owner != self.user);
        let mut named = BTreeSet::new();
        for op in self.operations() {
            let ids = std::iter::once(&op.item_id).chain(op.parent());
            named.extend(ids.filter(|id| foreign(id)).cloned());
            if let Action::LinkReassign { .. } = &op.action {
                let others = rows.links_above(&op.item_id).iter().map(|(other, _)| other);
                named.extend(others.filter(|id| foreign(id)).cloned());
            }
        }
        if named.is_empty() {
            return;
        }
        needs.groups_of.insert(self.user.clone());
        let owners = named.iter().filter_map(|id| rows.item(id)).map(|item| item.owner.clone());
        needs.blocks.extend(owners);
        needs.among = Some(BTreeSet::from([self.user.clone()]));
        for id in &named {
            needs.granted.extend(rows.lineage(id).into_iter().cloned());
        }
        needs.ancestors.extend(named);
    }

    /// Adds the numbers of grants that bound further ones.
    fn add_counts(&self, rows: &Rows, needs: &mut Needs) {
        for op in self.operations() {
            let Some(principal) = op.principal() else { continue };
            let item = rows.item(&op.item_id);
            if item.is_some() {
                needs.grant_counts.insert(op.item_id.clone());
            }
            if let (Action::GrantAdd { .. }, Some(user)) = (&op.action, principal.user()) {
                // An item that is made in this very push is in one of the realms that it touches.
                let owners = match item {
                    Some(item) => vec![&item.owner],
                    None => rows.realms.iter().collect(),
                };
                let pairs = owners.into_iter().map(|owner| (owner.clone(), user.clone()));
                needs.user_grants.extend(pairs);
            }
        }
    }
}

impl Received {
    fn parse(json: &str, replica: &ReplicaId) -> Self {
        match Operation::parse(json) {
            Ok(op) => Self::checked(op, replica),
            Err(malformed) => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct OnlyId {
                    op_id: OpId,
                }
                let op_id = serde_json::from_str::<OnlyId>(json).ok().map(|only| only.op_id);
                Self::Malformed { op_id, detail: malformed.to_string() }
            }
        }
    }

    fn checked(op: Operation, replica: &ReplicaId) -> Self {
        if op.replica_id == *replica {
            let digest = op.digest();
            Self::Operation { op: Box::new(op), digest }
        } else {
            Self::Malformed {
                op_id: Some(op.op_id),
                detail: "replicaId must be the push's clientId".into(),
            }
        }
    }
}
