//! The tables.

use std::sync::Arc;

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::content::{Attachment, RelationKind, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::register::{GrantRegister, Item, MoveRegister};
use vfs_sync_core::server::attach::{Expected, MadeAttach};
use vfs_sync_core::server::push::{Accepted, Head, Link, Mark};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use super::table::{Grouped, Table};
use crate::codes::BlobStatus;
use crate::trash::TrashRow;
use crate::{StoreError, UploadRow, Usage, codes};

#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) last_write_id: WriteId,
    pub(super) last_seen: Timestamp,
    /// When the oldest of its accepted operations was accepted.
    pub(super) accepted_from: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct FeedRow {
    pub(super) key: Vec<u8>,
    pub(super) changed_at: Timestamp,
    pub(super) removal: bool,
    /// The entry, as the other back ends store it too.
    pub(super) json: Arc<str>,
    pub(super) mark: Mark,
}

#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) owner: UserId,
    pub(super) staging_id: StagingId,
    pub(super) status: BlobStatus,
    pub(super) uploaded: Option<(u64, Sha256Digest)>,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) reserved: u64,
    /// Who it counts against, if not who staged it.
    pub(super) charged: Option<UserId>,
    pub(super) reclaim_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct Stage {
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
    /// Whether no newer content of a file replaced it.
    pub(super) is_current: bool,
    pub(super) attached_at: Timestamp,
    pub(super) modified_at: Option<Timestamp>,
    /// What the attach expected to replace.
    pub(super) expected: Expected,
    /// Since when it is none of the versions that are kept in any case.
    pub(super) surplus_since: Option<Timestamp>,
}

/// Declares the tables, and what is done with all of them.
macro_rules! tables {
    ($($name:ident: $table:ty,)*) => {
        /// Everything that a store holds.
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
    users: Table<UserId, ()>,
    items: Table<ItemId, Item>,
    // By parent and child.
    links: Grouped<ItemId, ItemId, Link>,
    parents: Grouped<ItemId, ItemId, ()>,
    grants: Grouped<ItemId, Principal, GrantRegister>,
    // What is granted to a principal at present.
    granted: Grouped<Principal, ItemId, ()>,
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
    stages: Table<StagingId, Stage>,
    refs: Table<RefId, Reference>,
    refs_of: Grouped<ItemId, RefId, ()>,
    refs_with: Grouped<BlobId, RefId, ()>,
    uploads: Table<StagingId, UploadRow>,
    parts: Grouped<StagingId, u32, String>,
    usages: Table<UserId, Usage>,
    trash: Table<ItemId, TrashRow>,
}

impl State {
    pub(super) fn new(now: Timestamp) -> Self {
        let mut state = Self::default();
        state.epoch.put((), Epoch::first(now));
        state.commit();
        state
    }

    pub(super) fn present_epoch(&self) -> Result<Epoch, StoreError> {
        let missing = || codes::malformed("meta", "epoch", "is missing");
        self.epoch.get(&()).copied().ok_or_else(missing)
    }

    /// The user is known from now on.
    pub(super) fn know(&mut self, user: &UserId) {
        if self.users.get(user).is_none() {
            self.users.put(user.clone(), ());
        }
    }

    pub(super) fn change_blob(&mut self, blob_id: &BlobId, change: impl FnOnce(&mut Blob)) {
        if let Some(mut blob) = self.blobs.get(blob_id).cloned() {
            change(&mut blob);
            self.blobs.put(blob_id.clone(), blob);
        }
    }

    pub(super) fn attachment(&self, ref_id: &RefId) -> Result<Option<Attachment>, StoreError> {
        let Some(row) = self.refs.get(ref_id) else { return Ok(None) };
        let blob = self.blobs.get(&row.blob_id);
        let (size, digest) = blob.and_then(|blob| blob.uploaded).ok_or_else(|| {
            codes::malformed("blob_refs", ref_id, "its blob has no size and digest")
        })?;
        Ok(Some(Attachment {
            item_id: row.item_id.clone(),
            blob_id: row.blob_id.clone(),
            relation_kind: row.kind,
            size,
            digest,
            content_type: blob.and_then(|blob| blob.content_type.clone()),
            ref_id: ref_id.clone(),
            attached_at: row.attached_at,
            modified_at: row.modified_at,
        }))
    }

    /// Those of the attachments that are there.
    pub(super) fn attachments<'a>(
        &self,
        refs: impl IntoIterator<Item = &'a RefId>,
    ) -> Result<Vec<Attachment>, StoreError> {
        refs.into_iter().filter_map(|ref_id| self.attachment(ref_id).transpose()).collect()
    }

    /// The attachments of a blob, with what their requests expected.
    pub(super) fn made_attaches(&self, blob: &BlobId) -> Result<Vec<MadeAttach>, StoreError> {
        let made = |ref_id: &RefId| {
            let expected = self.refs.get(ref_id).map(|row| row.expected.clone());
            let attachment = self.attachment(ref_id).transpose()?;
            Some(attachment.map(|attachment| MadeAttach { attachment, expected }))
        };
        self.refs_with.group(blob).keys().filter_map(made).collect()
    }

    /// The contents that a file had and has, the newest first.
    pub(super) fn versions(&self, item: &ItemId) -> Vec<&RefId> {
        let of_item = self.refs_of.group(item).keys();
        let rows = of_item.filter_map(|id| Some((self.refs.get(id)?, id)));
        let mut files: Vec<_> = rows.filter(|(row, _)| row.kind == RelationKind::File).collect();
        files.sort_by(|(a, a_id), (b, b_id)| (b.attached_at, b_id).cmp(&(a.attached_at, a_id)));
        files.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether the item is there, for the user.
    pub(super) fn sees(&self, user: &UserId, item: &ItemId) -> bool {
        self.items.get(item).is_some_and(|row| {
            let allowed = row.owner == *user || self.access.get(item, user).is_some();
            allowed && !row.fields.is_deleted()
        })
    }
}
