//! What is read and removed outside the flows. What the sweeper and retention look for is found by
//! a look at all rows: a store in memory is not large.

use std::ops::Bound;

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, StagingId, UserId, WriteId};
use vfs_sync_core::server::feed_window::History;
use vfs_sync_core::server::push::Head;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{StageStatus, WriteIds};

use super::state::{Replica, State};
use crate::codes::BlobStatus;
use crate::page::{PageBuilder, Window};
use crate::trash::TrashState;
use crate::{
    BlobRow, BlobSummary, Pruned, PullAnswer, PullRequest, Reclaim, Retention, StoreError,
};

/// How many rows a call asks for.
fn count(at_most: u32) -> usize {
    usize::try_from(at_most).unwrap_or(usize::MAX)
}

/// The first of `found`, by their times.
fn oldest<T: Ord>(
    found: impl Iterator<Item = (Timestamp, T)>,
    at_most: u32,
) -> impl Iterator<Item = T> {
    let mut found: Vec<_> = found.collect();
    found.sort();
    found.into_iter().take(count(at_most)).map(|(_, one)| one)
}

impl State {
    pub(super) fn pull(
        &self,
        user: &UserId,
        request: &PullRequest,
        history: Option<History>,
        write_ids: WriteIds,
    ) -> Result<PullAnswer, StoreError> {
        let window = match Window::of(request, history, self.present_epoch()?, &write_ids) {
            Ok(window) => window,
            Err(answer) => return Ok(answer),
        };
        let after = (Bound::Excluded(window.after), Bound::Unbounded);
        let rows = self.feeds.group(user).range(after);
        let skipped = window.skip_removals_to;
        let rows = rows.filter(|(counter, row)| !(row.removal && **counter <= skipped));
        let rows = rows.take(window.rows());
        let mut page = PageBuilder::new(window);
        for (counter, row) in rows {
            if !page.add(*counter, row.changed_at, &row.json) {
                break;
            }
        }
        Ok(PullAnswer::Page(page.finish(write_ids)))
    }

    pub(super) fn expired(&self, now: Timestamp, at_most: u32) -> Vec<(UserId, StagingId)> {
        let all = self.stages.rows().iter();
        let expired = all
            .filter(|(_, stage)| stage.status == StageStatus::Staged && stage.expires_at <= now)
            .map(|(id, stage)| (stage.expires_at, (id, &stage.owner)));
        oldest(expired, at_most).map(|(id, owner)| (owner.clone(), id.clone())).collect()
    }

    pub(super) fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Vec<Reclaim> {
        let all = self.blobs.rows().iter();
        let due = all.filter_map(|(id, blob)| Some((blob.reclaim_at?, id)));
        let due = oldest(due.filter(|(at, _)| *at <= now), at_most);
        due.filter_map(|id| self.reclaim(id)).collect()
    }

    pub(super) fn reclaim_of(&self, blob_id: &BlobId) -> Option<Reclaim> {
        let blob = self.blobs.get(blob_id)?;
        let left = blob.reclaim_at.is_some() && blob.status != BlobStatus::Deleted;
        if left { self.reclaim(blob_id) } else { None }
    }

    fn reclaim(&self, blob_id: &BlobId) -> Option<Reclaim> {
        let blob = self.blobs.get(blob_id)?;
        let upload = self.uploads.get(&blob.staging_id).and_then(|upload| upload.handle.clone());
        let bytes = blob.status != BlobStatus::Live;
        Some(Reclaim { blob_id: blob_id.clone(), upload, bytes })
    }

    pub(super) fn blobs_after(&self, after: Option<&BlobId>, at_most: u32) -> Vec<BlobSummary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.blobs.rows().range::<BlobId, _>((from, Bound::Unbounded));
        let summary = |(id, blob): (&BlobId, &super::state::Blob)| BlobSummary {
            blob_id: id.clone(),
            live: blob.status == BlobStatus::Live,
            size: blob.uploaded.map(|(size, _)| size),
        };
        rows.take(count(at_most)).map(summary).collect()
    }

    /// The blob, if it has bytes, is not abandoned, and the user staged it or sees it on an item.
    pub(super) fn readable(&self, user: &UserId, blob_id: &BlobId) -> Option<BlobRow> {
        let blob = self.blobs.get(blob_id).filter(|blob| blob.status == BlobStatus::Live)?;
        let (size, digest) = blob.uploaded?;
        let items = self.refs_with.group(blob_id).keys().filter_map(|id| self.refs.get(id));
        let mut shown = items.map(|row| self.sees(user, &row.item_id));
        if blob.owner != *user && !shown.any(|sees| sees) {
            return None;
        }
        let content_type = blob.content_type.as_deref().map(str::to_owned);
        Some(BlobRow { blob_id: blob_id.clone(), size, digest, content_type })
    }

    pub(super) fn versions_for(
        &self,
        user: &UserId,
        item: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>, StoreError> {
        if !self.sees(user, item) {
            return Ok(None);
        }
        self.attachments(self.versions(item).into_iter().take(count(limit))).map(Some)
    }

    pub(super) fn surplus(&self, before: Timestamp, at_most: u32) -> Vec<(RefId, BlobId)> {
        let all = self.refs.rows().iter();
        let surplus = all.filter_map(|(id, row)| Some((row.surplus_since?, (id, &row.blob_id))));
        let surplus = oldest(surplus.filter(|(since, _)| *since < before), at_most);
        surplus.map(|(id, blob)| (id.clone(), blob.clone())).collect()
    }

    /// The bytes of everything that the user owns in the trash.
    pub(super) fn trashed_bytes(&self, user: &UserId) -> u64 {
        let all = self.trash.rows().values();
        let kept = all.filter(|row| row.owner == *user && row.state == TrashState::Kept);
        let refs = kept.flat_map(|row| self.refs_of.group(&row.item_id).keys());
        let blobs = refs.filter_map(|id| self.blobs.get(&self.refs.get(id)?.blob_id));
        blobs.map(|blob| blob.reserved).sum()
    }

    pub(super) fn knows(&self, principal: &Principal) -> bool {
        match (principal.kind, principal.user()) {
            (PrincipalType::User, Some(user)) => {
                let synced = !self.reconciled.group(&user).is_empty();
                synced || !self.replicas.group(&user).is_empty()
            }
            _ => !self.members.group(principal).is_empty(),
        }
    }

    pub(super) fn prune(&mut self, retention: &Retention) -> Pruned {
        Pruned {
            removals: self.prune_removals(retention),
            accepted: self.prune_accepted(retention),
        }
    }

    /// Prunes the oldest removals; a feed's times ascend with its positions, so from each feed a
    /// beginning goes, and its head remembers how far.
    fn prune_removals(&mut self, retention: &Retention) -> u64 {
        let feeds = self.feeds.groups().iter();
        let rows = feeds.flat_map(|(user, rows)| rows.iter().map(move |row| (user, row)));
        let old = rows
            .filter(|(_, (_, row))| row.removal && row.changed_at < retention.removals_before)
            .map(|(user, (counter, row))| (row.changed_at, (user.clone(), *counter)));
        let old: Vec<(UserId, u64)> = oldest(old, retention.at_most).collect();
        for (user, counter) in &old {
            let Some(row) = self.feeds.get(user, counter) else { continue };
            let (key, changed_at) = (row.key.clone(), row.changed_at);
            self.feeds.remove(user, counter);
            self.counters.remove(user, &key);
            if let Some(head) = self.heads.get(user).copied() {
                let pruned = head.pruned.max(Some((*counter, changed_at)));
                self.heads.put(user.clone(), Head { pruned, ..head });
            }
        }
        old.len() as u64
    }

    /// Prunes the oldest accepted operations, replica by replica, from each its lowest write ids.
    fn prune_accepted(&mut self, retention: &Retention) -> u64 {
        let before = retention.accepted_before;
        let all = self.replicas.groups().iter();
        let all = all.flat_map(|(user, rows)| rows.iter().map(move |row| (user, row)));
        let old = all.filter_map(|(user, (id, row))| {
            let from = row.accepted_from.filter(|from| *from < before)?;
            Some((from, (user.clone(), id.clone())))
        });
        let old: Vec<_> = oldest(old, retention.at_most).collect();
        let mut left = count(retention.at_most);
        for replica in &old {
            let rows = self.accepted.group(replica).iter();
            let old = rows.take(left).take_while(|(_, (_, at))| *at < before);
            let old: Vec<WriteId> = old.map(|(write_id, _)| *write_id).collect();
            for write_id in &old {
                self.accepted.remove(replica, write_id);
            }
            left -= old.len();
            let accepted_from = self.accepted.group(replica).values().next().map(|(_, at)| *at);
            if let Some(row) = self.replicas.get(&replica.0, &replica.1) {
                let row = Replica { accepted_from, ..row.clone() };
                self.replicas.put(&replica.0, replica.1.clone(), row);
            }
            if left == 0 {
                break;
            }
        }
        (count(retention.at_most) - left) as u64
    }

    /// Begins an epoch after the present one and `seen`.
    pub(super) fn new_epoch(
        &mut self,
        seen: Option<Epoch>,
        now: Timestamp,
        chance: u16,
    ) -> Result<Epoch, StoreError> {
        let present = self.present_epoch()?;
        let epoch = Epoch::following(seen.map_or(present, |seen| seen.max(present)), now, chance);
        self.epoch.put((), epoch);
        Ok(epoch)
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let open = self.stages.rows().values().filter(|s| s.status == StageStatus::Staged);
        vec![
            ("users", self.users.rows().len() as u64),
            ("replicas", self.replicas.groups().values().map(|rows| rows.len() as u64).sum()),
            ("feed_positions", self.heads.rows().values().map(|head| head.counter).sum()),
            ("open_stages", open.count() as u64),
        ]
    }
}
