//! A transaction's rows and batches in memory. It has the tables to itself, so that nothing needs a
//! lock; the methods never wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, RelationKind, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach, StageRow};
use vfs_sync_core::server::push::{
    Accepted, Changes, Head, LinkKey, Map, Mark, Needs, Rows, Tail, Told,
};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use super::state::{Blob, FeedRow, Reference, Replica, Stage, State};
use crate::codes::BlobStatus;
use crate::served::Served;
use crate::transaction::{
    FeedWrite, MAX_EPOCHS, PushWrite, ReplicaRow, Stored, StoredStage, Transaction,
};
use crate::trash::{TrashCursor, TrashOf, TrashRow, TrashState, revived, rows_of_push};
use crate::{KEPT_VERSIONS, NewStage, StoreError, UploadRow, Usage, codes};
use vfs_sync_core::server::feed_window::EpochStart;

/// An open transaction; what it did is undone when it is dropped, unless it was committed.
pub(super) struct MemoryTransaction<'s> {
    pub(super) state: &'s mut State,
    /// What was seen before, and when it began.
    pub(super) served: (&'s Served, u64),
    /// The heads that it wrote.
    pub(super) written: Vec<(UserId, u64)>,
}

impl MemoryTransaction<'_> {
    pub(super) fn commit(mut self) {
        self.state.commit();
        let written = std::mem::take(&mut self.written);
        if let Ok(present) = self.state.present_epoch() {
            for (user, counter) in written {
                self.served.0.note(&user, counter, present);
            }
        }
    }

    fn take_link(&self, key: LinkKey, found: &mut Rows) {
        if let Some(link) = self.state.links.get(&key.0, &key.1) {
            found.links.insert(key, Some(link.clone()));
        }
    }

    /// The present links to an item's parents; gives these.
    fn take_links_above(&self, child: &ItemId, found: &mut Rows) -> Vec<LinkKey> {
        let above = self.state.parents.group(child).keys();
        let links = above.filter_map(|parent| {
            let link = self.state.links.get(parent, child)?;
            link.register.value.then_some((parent, link))
        });
        let links: Vec<_> = links.map(|(parent, link)| (parent.clone(), link.clone())).collect();
        let mut keys = Vec::with_capacity(links.len());
        for (parent, link) in links {
            if link.in_realm {
                keys.push((parent.clone(), child.clone()));
            }
            found.links.insert((parent, child.clone()), Some(link));
        }
        keys
    }

    fn load_links(&self, needs: &Needs, found: &mut Rows) {
        for key in &needs.links {
            self.take_link(key.clone(), found);
        }
        for item in &needs.around {
            for (child, link) in self.state.links.group(item) {
                if link.register.value {
                    found.links.insert((item.clone(), child.clone()), Some(link.clone()));
                }
            }
            self.take_links_above(item, found);
        }
        let mut open: Vec<ItemId> = needs.ancestors.iter().cloned().collect();
        let mut seen = needs.ancestors.clone();
        while let Some(child) = open.pop() {
            let parents = self.take_links_above(&child, found).into_iter().map(|key| key.0);
            open.extend(parents.filter(|parent| seen.insert(parent.clone())));
        }
    }

    fn load_grants(&self, needs: &Needs, found: &mut Rows) {
        for (item, principal) in &needs.grants {
            if let Some(grant) = self.state.grants.get(item, principal) {
                found.grants.insert((item.clone(), principal.clone()), Some(grant.clone()));
            }
        }
        for item in needs.around.union(&needs.granted) {
            for (principal, grant) in self.state.grants.group(item) {
                if grant.value.is_some() {
                    found.grants.insert((item.clone(), principal.clone()), Some(grant.clone()));
                }
            }
        }
    }

    fn load_access(&self, needs: &Needs, found: &mut Rows) {
        let wanted = |user: &UserId| needs.among.as_ref().is_none_or(|among| among.contains(user));
        for item in &needs.access {
            let audience = self.state.access.group(item).iter();
            let audience = audience.filter(|(user, _)| wanted(user));
            let audience = audience.map(|(user, level)| (user.clone(), *level)).collect();
            found.access.insert(item.clone(), audience);
        }
        for group in &needs.members {
            let members = self.state.members.group(group).keys();
            let members = members.filter(|user| wanted(user)).cloned().collect();
            found.members.insert(group.clone(), members);
        }
        for user in &needs.groups_of {
            let groups = self.state.groups.group(user).keys().cloned().collect();
            found.groups.insert(user.clone(), groups);
        }
        for owner in &needs.blocks {
            let users = self.state.blockers.group(owner).keys();
            let users = users.filter(|user| wanted(user)).cloned().collect();
            found.blocks.insert(owner.clone(), users);
        }
    }

    fn write_registers(&mut self, changes: &Changes) {
        let state = &mut *self.state;
        for (id, item) in &changes.items {
            state.know(&item.owner);
            state.items.put(id.clone(), item.clone());
        }
        for ((parent, child), link) in &changes.links {
            state.links.put(parent, child.clone(), link.clone());
            state.parents.put(child, parent.clone(), ());
        }
        for ((item, principal), grant) in &changes.grants {
            match grant.value {
                Some(_) => state.granted.put(principal, item.clone(), ()),
                None => drop(state.granted.remove(principal, item)),
            }
            state.grants.put(item, principal.clone(), grant.clone());
        }
        for ((child, realm), moved) in &changes.moves {
            state.know(realm);
            state.moves.put((child.clone(), realm.clone()), moved.clone());
        }
    }

    /// Tells whether it was there.
    fn remove_ref(&mut self, ref_id: &RefId) -> bool {
        let row = self.state.refs.get(ref_id).cloned();
        let Some(Reference { item_id, blob_id, .. }) = row else { return false };
        self.state.refs.remove(ref_id);
        self.state.refs_of.remove(&item_id, ref_id);
        self.state.refs_with.remove(&blob_id, ref_id)
    }

    fn leave_trash(&mut self, changes: &Changes) {
        for item in revived(changes) {
            self.state.trash.remove(item);
        }
    }

    fn remove_link(&mut self, parent: &ItemId, child: &ItemId) {
        self.state.links.remove(parent, child);
        self.state.parents.remove(child, parent);
    }

    fn place_entries(&mut self, feeds: &[FeedWrite]) {
        self.written.extend(feeds.iter().map(|feed| (feed.user.clone(), feed.head.counter)));
        let state = &mut *self.state;
        for feed in feeds {
            let user = &feed.user;
            state.know(user);
            let head = Mark::after(
                state.tails.get(user),
                &Mark::cause_of(&feed.bodies),
                feed.head.counter,
            );
            state.tails.put(user.clone(), head);
            for entry in feed.entries() {
                // A change of what the feed tells already moves its row to the head.
                let mut before = None;
                if let Some(counter) = state.counters.get(user, &entry.key).copied() {
                    before = state.feeds.get(user, &counter).map(|row| row.mark.clone());
                    state.feeds.remove(user, &counter);
                }
                let row = FeedRow {
                    mark: Mark::after(before.as_ref(), &entry.cause, entry.counter),
                    key: entry.key.clone(),
                    changed_at: feed.head.changed_at,
                    removal: entry.removal,
                    json: entry.json.as_str().into(),
                };
                state.feeds.put(user, entry.counter, row);
                state.counters.put(user, entry.key, entry.counter);
            }
            if feed.places.begins {
                state.epoch_starts.put(user, feed.head.epoch, feed.places.first);
                let starts = state.epoch_starts.group(user);
                if starts.len() > MAX_EPOCHS
                    && let Some(oldest) = starts.keys().next().copied()
                {
                    state.epoch_starts.remove(user, &oldest);
                }
            }
            state.heads.put(user.clone(), feed.head);
        }
    }
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        self.state.rollback();
    }
}

impl Transaction for MemoryTransaction<'_> {
    fn served(&self) -> Option<(&Served, u64)> {
        Some(self.served)
    }

    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        _now: Timestamp,
    ) -> Result<Option<WriteId>, StoreError> {
        Ok(self.state.replicas.get(user, replica).map(|row| row.last_write_id))
    }

    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>, StoreError> {
        let rows = self.state.accepted.group(&(user.clone(), replica.clone()));
        let found = write_ids.iter().filter_map(|id| Some((*id, rows.get(id)?.0.clone())));
        Ok(found.collect())
    }

    async fn share_groups(&mut self, _groups: &BTreeSet<Principal>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lock_group(&mut self, _group: &Principal) -> Result<(), StoreError> {
        Ok(())
    }

    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool, StoreError> {
        let was = self.state.members.get(group, user).is_some();
        if present {
            self.state.know(user);
        }
        match (was, present) {
            (false, true) => {
                self.state.members.put(group, user.clone(), ());
                self.state.groups.put(user, group.clone(), ());
            }
            (true, false) => {
                self.state.members.remove(group, user);
                self.state.groups.remove(user, group);
            }
            _ => {}
        }
        Ok(was != present)
    }

    async fn write_block(
        &mut self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
    ) -> Result<bool, StoreError> {
        let was = self.state.blocked.get(user, owner).is_some();
        match (was, blocked) {
            (false, true) => {
                self.state.know(user);
                self.state.know(owner);
                self.state.blocked.put(user, owner.clone(), ());
                self.state.blockers.put(owner, user.clone(), ());
            }
            (true, false) => {
                self.state.blocked.remove(user, owner);
                self.state.blockers.remove(owner, user);
            }
            _ => {}
        }
        Ok(was != blocked)
    }

    async fn granted_to(&mut self, group: &Principal) -> Result<BTreeSet<ItemId>, StoreError> {
        Ok(self.state.granted.group(group).keys().cloned().collect())
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError> {
        let granted = self.state.granted.groups();
        let mut users: BTreeSet<UserId> = granted.keys().filter_map(Principal::user).collect();
        users.extend(self.state.groups.groups().keys().cloned());
        Ok((users, granted.values().flat_map(BTreeMap::keys).cloned().collect()))
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        let mut owners: BTreeSet<UserId> = user.cloned().into_iter().collect();
        for id in named {
            let item = self.state.items.get(id).cloned();
            owners.extend(item.as_ref().map(|item| item.owner.clone()));
            rows.items.insert(id.clone(), item);
        }
        for owner in &owners {
            if let Some(head) = self.state.heads.get(owner) {
                rows.last_changed.insert(owner.clone(), head.changed_at);
                if user == Some(owner) {
                    let mark = self.state.tails.get(owner).cloned().unwrap_or_default();
                    rows.tail = Some(Tail { history: vec![(head.epoch, head.counter)], mark });
                }
            }
        }
        rows.realms = owners;
        Ok(())
    }

    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<(), StoreError> {
        for id in &needs.items {
            found.items.insert(id.clone(), self.state.items.get(id).cloned());
        }
        self.load_links(needs, found);
        self.load_grants(needs, found);
        for key in &needs.moves {
            if let Some(moved) = self.state.moves.get(key) {
                found.moves.insert(key.clone(), Some(moved.clone()));
            }
        }
        for item in &needs.around {
            let attached = self.attachments_of(item).await?;
            if !attached.is_empty() {
                found.attachments.insert(item.clone(), attached);
            }
        }
        self.load_access(needs, found);
        Ok(())
    }

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>, StoreError> {
        let rows = self.state.feeds.group(user);
        let mark = |key: &EntryKey| {
            let counter = self.state.counters.get(user, &key.to_bytes())?;
            let row = rows.get(counter).filter(|row| !row.removal)?;
            Some((key.clone(), Some(row.mark.clone())))
        };
        Ok(keys.iter().filter_map(mark).collect())
    }

    async fn told(&mut self, keys: &BTreeMap<UserId, Vec<Vec<u8>>>) -> Result<Told, StoreError> {
        let mut told = Told::new();
        for (user, keys) in keys {
            let rows = self.state.feeds.group(user);
            let present = |key: &&Vec<u8>| {
                let row = self.state.counters.get(user, key).and_then(|counter| rows.get(counter));
                row.is_some_and(|row| !row.removal)
            };
            told.insert(user.clone(), keys.iter().filter(present).cloned().collect());
        }
        Ok(told)
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>, StoreError> {
        let epoch = self.state.present_epoch()?;
        let new = Head { epoch, counter: 0, changed_at: now, pruned: None };
        let head =
            |user: &UserId| (user.clone(), self.state.heads.get(user).copied().unwrap_or(new));
        Ok(users.iter().map(head).collect())
    }

    async fn write_access(&mut self, changes: &Changes) -> Result<(), StoreError> {
        for (item, users) in &changes.access {
            for (user, level) in users {
                self.state.know(user);
                match level {
                    Some(level) => self.state.access.put(item, user.clone(), *level),
                    None => drop(self.state.access.remove(item, user)),
                }
            }
        }
        Ok(())
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<(), StoreError> {
        self.state.know(write.user);
        let Some(last_write_id) = write.changes.last_write_id else {
            return self.touch_replica(write.user, write.replica, write.now).await;
        };
        let before = self.state.replicas.get(write.user, write.replica);
        let replica = Replica {
            last_write_id,
            last_seen: before.map_or(write.now, |before| before.last_seen.max(write.now)),
            accepted_from: before.and_then(|before| before.accepted_from).or(Some(write.now)),
        };
        self.state.replicas.put(write.user, write.replica.clone(), replica);
        self.write_registers(write.changes);
        self.write_access(write.changes).await?;
        self.put_trash(&rows_of_push(write)).await?;
        self.leave_trash(write.changes);
        let author = (write.user.clone(), write.replica.clone());
        for one in &write.changes.accepted {
            let row = (one.accepted.clone(), write.now);
            self.state.accepted.put(&author, one.write_id, row);
        }
        self.place_entries(write.feeds);
        Ok(())
    }

    async fn write_changes(
        &mut self,
        changes: &Changes,
        feeds: &[FeedWrite],
    ) -> Result<(), StoreError> {
        self.write_registers(changes);
        self.leave_trash(changes);
        self.write_access(changes).await?;
        self.place_entries(feeds);
        Ok(())
    }

    async fn head(&mut self, user: &UserId) -> Result<Option<Head>, StoreError> {
        Ok(self.state.heads.get(user).copied())
    }

    async fn epoch(&mut self) -> Result<Epoch, StoreError> {
        self.state.present_epoch()
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>, StoreError> {
        let all = self.state.epoch_starts.group(user).iter();
        let start = |(epoch, first): (&Epoch, &u64)| EpochStart { epoch: *epoch, first: *first };
        let mut starts: Vec<_> = all.rev().take(MAX_EPOCHS).map(start).collect();
        starts.reverse();
        Ok(starts)
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>, StoreError> {
        let rows = self.state.replicas.group(user);
        let found = replicas.iter().filter_map(|id| {
            let row = rows.get(id)?;
            let (last_write_id, last_seen) = (row.last_write_id, row.last_seen);
            Some((id.clone(), ReplicaRow { last_write_id, last_seen }))
        });
        Ok(found.collect())
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>, StoreError> {
        let mut active: Vec<_> = self.state.replicas.group(user).iter().collect();
        active.sort_by_key(|(_, row)| std::cmp::Reverse(row.last_seen));
        active.truncate(limit);
        Ok(active.into_iter().map(|(id, row)| (id.clone(), row.last_write_id)).collect())
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(row) = self.state.replicas.get(user, replica) {
            let row = Replica { last_seen: row.last_seen.max(now), ..row.clone() };
            self.state.replicas.put(user, replica.clone(), row);
        }
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>, StoreError> {
        Ok(self.state.reconciled.get(user, client).cloned().map(Ok))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        _new: bool,
    ) -> Result<(), StoreError> {
        self.state.know(user);
        self.state.reconciled.put(user, client.clone(), state.clone());
        Ok(())
    }

    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<StoredStage>, StoreError> {
        let Some(stage) = self.state.stages.get(staging_id) else { return Ok(None) };
        let Some(blob) = self.state.blobs.get(&stage.blob_id) else {
            return Ok(Some(Err(codes::malformed("blob_stages", staging_id, "has no blob"))));
        };
        let charged = blob.charged.clone().unwrap_or_else(|| stage.owner.clone());
        let row = StageRow {
            staging_id: staging_id.clone(),
            owner: stage.owner.clone(),
            blob_id: stage.blob_id.clone(),
            status: stage.status,
            staged_at: stage.staged_at,
            expires_at: stage.expires_at,
            content_type: blob.content_type.clone(),
            uploaded: blob.uploaded,
        };
        Ok(Some(Ok(StoredStage {
            row,
            expiry_chosen: stage.expiry_chosen,
            reserved: blob.reserved,
            charged,
            blob_status: blob.status,
        })))
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.state.blobs.get(&stage.blob_id).is_some() {
            return Ok(false);
        }
        self.state.know(user);
        let blob = Blob {
            owner: user.clone(),
            staging_id: stage.staging_id.clone(),
            status: BlobStatus::Live,
            uploaded: None,
            content_type: stage.content_type.as_deref().map(Into::into),
            reserved: 0,
            charged: None,
            reclaim_at: None,
        };
        self.state.blobs.put(stage.blob_id.clone(), blob);
        let row = Stage {
            owner: user.clone(),
            blob_id: stage.blob_id.clone(),
            status: StageStatus::Staged,
            staged_at: now,
            expires_at: stage.expires_at,
            expiry_chosen: stage.expiry_chosen,
        };
        self.state.stages.put(stage.staging_id.clone(), row);
        Ok(true)
    }

    async fn delete_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
    ) -> Result<(), StoreError> {
        self.state.stages.remove(staging_id);
        self.state.blobs.remove(blob_id);
        Ok(())
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| blob.uploaded = Some((size, digest)));
        Ok(())
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<(), StoreError> {
        if let Some(stage) = self.state.stages.get(staging_id) {
            let stage = Stage { status, ..stage.clone() };
            self.state.stages.put(staging_id.clone(), stage);
        }
        Ok(())
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| {
            (blob.status, blob.reserved, blob.reclaim_at) = (BlobStatus::Deleting, 0, Some(now));
        });
        Ok(())
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| blob.reclaim_at = Some(at));
        Ok(())
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| {
            blob.reclaim_at = blob.reclaim_at.filter(|at| *at > now);
        });
        Ok(())
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| {
            blob.reclaim_at = blob.reclaim_at.map(|due| if due <= now { at } else { due });
        });
        Ok(())
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| {
            (blob.status, blob.reclaim_at) = (BlobStatus::Deleted, Some(again));
        });
        Ok(())
    }

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        let is_version = self.state.refs.get(ref_id).is_some_and(|row| !row.is_current);
        Ok(is_version && self.remove_ref(ref_id))
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>, StoreError> {
        Ok(self.state.blobs.get(blob_id).map(|blob| blob.staging_id.clone()))
    }

    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>, StoreError> {
        Ok(self.state.uploads.get(staging_id).cloned())
    }

    async fn write_upload(
        &mut self,
        staging_id: &StagingId,
        upload: &UploadRow,
    ) -> Result<(), StoreError> {
        self.state.uploads.put(staging_id.clone(), upload.clone());
        Ok(())
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        self.state.uploads.remove(staging_id);
        self.delete_parts(staging_id).await
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<(), StoreError> {
        for (part, tag) in (from..).zip(tags) {
            self.state.parts.put(staging_id, part, tag.clone());
        }
        Ok(())
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        self.state.parts.remove_group(staging_id);
        Ok(())
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage, StoreError> {
        Ok(self.state.usages.get(owner).copied().unwrap_or_default())
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<(), StoreError> {
        self.state.know(owner);
        self.state.usages.put(owner.clone(), usage);
        Ok(())
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<(), StoreError> {
        self.state.change_blob(blob_id, |blob| blob.reserved = bytes);
        Ok(())
    }

    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>, StoreError> {
        let refs = self.state.refs_of.group(item).keys();
        let current = |id: &&RefId| self.state.refs.get(id).is_some_and(|row| row.is_current);
        self.state.attachments(refs.filter(current))
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>, StoreError> {
        self.state.made_attaches(blob)
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<(), StoreError> {
        let attachment = &changes.attachment;
        let (item, is_file) = (&attachment.item_id, attachment.relation_kind == RelationKind::File);
        if is_file {
            for id in self.state.versions(item).into_iter().cloned().collect::<Vec<_>>() {
                if let Some(row) = self.state.refs.get(&id).filter(|row| row.is_current) {
                    let row = Reference { is_current: false, ..row.clone() };
                    self.state.refs.put(id, row);
                }
            }
        }
        let row = Reference {
            item_id: item.clone(),
            blob_id: attachment.blob_id.clone(),
            kind: attachment.relation_kind,
            is_current: true,
            attached_at: attachment.attached_at,
            modified_at: attachment.modified_at,
            expected: changes.expected.clone(),
            surplus_since: None,
        };
        let id = &attachment.ref_id;
        self.state.refs.put(id.clone(), row);
        self.state.refs_of.put(item, id.clone(), ());
        self.state.refs_with.put(&attachment.blob_id, id.clone(), ());
        if is_file {
            // The one that this makes the first beyond the versions that are kept.
            let beyond = self.state.versions(item).get(KEPT_VERSIONS as usize + 1).cloned();
            if let Some(id) = beyond.cloned()
                && let Some(row) = self.state.refs.get(&id)
            {
                let since = row.surplus_since.or(Some(attachment.attached_at));
                let row = Reference { surplus_since: since, ..row.clone() };
                self.state.refs.put(id, row);
            }
        }
        Ok(())
    }

    async fn trash_rows(
        &mut self,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, TrashRow>, StoreError> {
        let row = |id: &ItemId| Some((id.clone(), self.state.trash.get(id)?.clone()));
        Ok(items.iter().filter_map(row).collect())
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>, StoreError> {
        let all = self.state.trash.rows().values();
        let theirs = all.filter(|row| match of {
            TrashOf::Owner => row.owner == *user,
            TrashOf::Deleter => row.deleted_by == *user,
        });
        let after = after.map(|after| (after.at, &after.item_id));
        let kept = theirs.filter(|row| row.state == TrashState::Kept);
        let mut found: Vec<TrashRow> = kept
            .filter(|row| after.is_none_or(|after| (row.at, &row.item_id) < after))
            .cloned()
            .collect();
        found.sort_by(|a, b| (b.at, &b.item_id).cmp(&(a.at, &a.item_id)));
        found.truncate(limit);
        for row in &mut found {
            let attached = self.attachments_of(&row.item_id).await?;
            let content = attached.iter().find(|one| one.relation_kind == RelationKind::File);
            row.size = content.map(|content| content.size);
        }
        Ok(found)
    }

    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>, StoreError> {
        let all = self.state.trash.rows().values();
        let due = all.filter(|row| row.state == state && row.at < before);
        let mut due: Vec<TrashRow> = due.cloned().collect();
        due.sort_by(|a, b| (a.at, &a.item_id).cmp(&(b.at, &b.item_id)));
        due.truncate(usize::try_from(at_most).unwrap_or(usize::MAX));
        Ok(due)
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<(), StoreError> {
        for row in rows {
            self.state.know(&row.owner);
            self.state.know(&row.deleted_by);
            self.state.trash.put(row.item_id.clone(), row.clone());
        }
        Ok(())
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        let all = self.state.trash.rows().values();
        let purging = all.filter(|row| row.state == TrashState::Purging);
        let refs = purging.flat_map(|row| self.state.refs_of.group(&row.item_id).keys());
        let found =
            refs.filter_map(|id| Some((id.clone(), self.state.refs.get(id)?.blob_id.clone())));
        Ok(found.take(usize::try_from(at_most).unwrap_or(usize::MAX)).collect())
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        Ok(self.remove_ref(ref_id))
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool, StoreError> {
        Ok(!self.state.refs_of.group(item).is_empty())
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<u64, StoreError> {
        let mut left = at_most;
        let mut take = |wanted: usize| {
            let taken = left.min(wanted as u64);
            left -= taken;
            usize::try_from(taken).unwrap_or(usize::MAX)
        };
        let below: Vec<ItemId> = self.state.links.group(item).keys().cloned().collect();
        let room = take(below.len());
        for child in below.into_iter().take(room) {
            self.remove_link(item, &child);
        }
        let above: Vec<ItemId> = self.state.parents.group(item).keys().cloned().collect();
        let room = take(above.len());
        for parent in above.into_iter().take(room) {
            self.remove_link(&parent, item);
        }
        let grants: Vec<Principal> = self.state.grants.group(item).keys().cloned().collect();
        let room = take(grants.len());
        for principal in grants.into_iter().take(room) {
            self.state.grants.remove(item, &principal);
            self.state.granted.remove(&principal, item);
        }
        let moves = self.state.moves.rows().keys().filter(|(child, _)| child == item);
        let moves: Vec<(ItemId, UserId)> = moves.cloned().collect();
        let room = take(moves.len());
        for key in moves.into_iter().take(room) {
            self.state.moves.remove(&key);
        }
        let seen: Vec<UserId> = self.state.access.group(item).keys().cloned().collect();
        let room = take(seen.len());
        for user in seen.into_iter().take(room) {
            self.state.access.remove(item, &user);
        }
        Ok(at_most - left)
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<(), StoreError> {
        for item in items {
            self.state.items.remove(item);
            self.state.trash.remove(item);
        }
        Ok(())
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<(), StoreError> {
        self.state.know(user);
        self.state.change_blob(blob_id, |blob| blob.charged = Some(user.clone()));
        Ok(())
    }

    async fn write_feeds(&mut self, feeds: &[FeedWrite]) -> Result<(), StoreError> {
        self.place_entries(feeds);
        Ok(())
    }
}
