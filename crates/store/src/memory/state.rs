//! The tables of the store.

use std::sync::Arc;

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::content::{RelationKind, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::register::{GrantRegister, Item, MoveRegister};
use vfs_sync_core::server::attach::Expected;
use vfs_sync_core::server::credential::{Credential, SigningKey};
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::server::device::Device;
use vfs_sync_core::server::push::{Accepted, Awaited, Head, Link, Mark, MetadataUsage};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::server::stage::{BlobStatus, UploadRow, Usage};
use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use super::table::{Grouped, Table};
use crate::encoding;
use crate::error::Result;
use crate::values::TrashRow;

#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) last_write_id: WriteId,
    pub(super) last_seen: Timestamp,
    /// The time at which the oldest accepted operation of the replica was accepted.
    pub(super) accepted_from: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct FeedRow {
    pub(super) key: Vec<u8>,
    pub(super) changed_at: Timestamp,
    pub(super) removal: bool,
    /// The entry in the stored form, the same as in the other back ends.
    pub(super) json: Arc<str>,
    pub(super) mark: Mark,
}

/// The grants of an owner to a user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grantee {
    /// The number of present ones.
    pub(super) grants: u64,
    pub(super) awaited: Awaited,
}

#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) owner: UserId,
    pub(super) staging_id: StagingId,
    pub(super) status: BlobStatus,
    pub(super) uploaded: Option<(u64, Sha256Digest)>,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) reserved: u64,
    /// The user whom the blob counts against, if not the stager.
    pub(super) charged: Option<UserId>,
    pub(super) reclaim_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct StoredStage {
    pub(super) owner: UserId,
    pub(super) blob_id: BlobId,
    pub(super) status: StageStatus,
    pub(super) staged_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) expiry_chosen: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) item_id: ItemId,
    pub(super) blob_id: BlobId,
    pub(super) kind: RelationKind,
    /// True while no newer content of the file replaced it.
    pub(super) is_current: bool,
    pub(super) attached_at: Timestamp,
    pub(super) modified_at: Option<Timestamp>,
    /// The content that the attach expected to replace.
    pub(super) expected: Expected,
    /// The time since when it has been beyond the versions that are always kept.
    pub(super) surplus_since: Option<Timestamp>,
}

/// Declares the tables, and operations on all of them.
macro_rules! tables {
    ($($name:ident: $table:ty,)*) => {
        /// All tables of a store.
        #[derive(Debug, Clone, Default)]
        pub(super) struct State { $(pub(super) $name: $table,)* }

        impl State {
            pub(super) fn commit(&mut self) { $(self.$name.commit();)* }
            pub(super) fn rollback(&mut self) { $(self.$name.rollback();)* }
        }
    };
}

tables! {
    epoch: Table<(), Epoch>,
    removals_held_until: Table<(), Timestamp>,
    users: Table<UserId, ()>,
    items: Table<ItemId, Item>,
    // By parent and child.
    links: Grouped<ItemId, ItemId, Link>,
    parents: Grouped<ItemId, ItemId, ()>,
    grants: Grouped<ItemId, Principal, GrantRegister>,
    // The present grants by principal.
    granted: Grouped<Principal, ItemId, ()>,
    // By owner and user.
    grantees: Grouped<UserId, UserId, Grantee>,
    // Owners whose grants wait for a call of a user.
    awaiting: Grouped<UserId, UserId, ()>,
    // Owners whose grants to a user were too many to give effect to.
    withheld: Grouped<UserId, UserId, ()>,
    moves: Table<(ItemId, UserId), MoveRegister>,
    access: Grouped<ItemId, UserId, AccessLevel>,
    // By counter.
    feeds: Grouped<UserId, u64, FeedRow>,
    counters: Grouped<UserId, Vec<u8>, u64>,
    heads: Table<UserId, Head>,
    // Of each feed as a whole.
    tails: Table<UserId, Mark>,
    // By epoch: the counter of the first entry.
    epoch_starts: Grouped<UserId, Epoch, u64>,
    replicas: Grouped<UserId, ReplicaId, Replica>,
    accepted: Grouped<(UserId, ReplicaId), WriteId, (Accepted, Timestamp)>,
    reconciled: Grouped<UserId, ReplicaId, ReconcileState>,
    members: Grouped<Principal, UserId, ()>,
    groups: Grouped<UserId, Principal, ()>,
    // Who blocks an owner, and whom a user blocks.
    blockers: Grouped<UserId, UserId, ()>,
    blocked: Grouped<UserId, UserId, ()>,
    blobs: Table<BlobId, Blob>,
    stages: Table<StagingId, StoredStage>,
    refs: Table<RefId, Reference>,
    refs_of: Grouped<ItemId, RefId, ()>,
    refs_with: Grouped<BlobId, RefId, ()>,
    uploads: Table<StagingId, UploadRow>,
    parts: Grouped<StagingId, u32, String>,
    usages: Table<UserId, Usage>,
    // What the realms hold besides contents.
    holds: Table<UserId, MetadataUsage>,
    trash: Table<ItemId, TrashRow>,
    devices: Table<(UserId, ReplicaId), Device>,
    credentials: Table<(UserId, ReplicaId), Credential>,
    signing_keys: Table<String, SigningKey>,
    sessions: Table<String, ConsoleSession>,
    limits: Table<UserId, UserLimits>,
    // Since when users are disabled.
    disabled: Table<UserId, Timestamp>,
    // Users who are being deleted: no push of theirs is applied.
    leaving: Table<UserId, ()>,
    // By pseudonym.
    deletions: Table<String, Deletion>,
    // The number that changes with every change of an admission.
    admission: Table<(), u64>,
}

impl State {
    pub(super) fn new(now: Timestamp) -> Self {
        let mut state = Self::default();
        state.epoch.put((), Epoch::first(now));
        state.commit();
        state
    }

    pub(super) fn present_epoch(&self) -> Result<Epoch> {
        let missing = || encoding::malformed("meta", "epoch", "is missing");
        self.epoch.get(&()).copied().ok_or_else(missing)
    }

    /// Records the user as known.
    pub(super) fn know(&mut self, user: &UserId) {
        if self.users.get(user).is_none() {
            self.users.put(user.clone(), ());
        }
    }

    /// Begins an epoch after the present one and `seen`.
    pub(super) fn begin_epoch(
        &mut self,
        seen: Option<Epoch>,
        now: Timestamp,
        chance: u16,
    ) -> Result<Epoch> {
        let present = self.present_epoch()?;
        let epoch = Epoch::following(seen.map_or(present, |seen| seen.max(present)), now, chance);
        self.epoch.put((), epoch);
        Ok(epoch)
    }
}

/// Converts a limit to a number of rows.
pub(super) fn count(at_most: u32) -> usize {
    usize::try_from(at_most).unwrap_or(usize::MAX)
}

/// Returns the first `at_most` of `found`, in the order of their times.
pub(super) fn oldest<T: Ord>(
    found: impl Iterator<Item = (Timestamp, T)>,
    at_most: u32,
) -> impl Iterator<Item = T> {
    let mut found: Vec<_> = found.collect();
    found.sort();
    found.into_iter().take(count(at_most)).map(|(_, one)| one)
}
