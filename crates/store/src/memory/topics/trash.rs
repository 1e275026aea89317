//! Deleted items and tombstones.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::content::RelationKind;
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::time::Timestamp;

use crate::error::Result;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::{Trash, Versions as _};
use crate::values::{TrashCursor, TrashOf, TrashRow, TrashState};

impl Trash for MemoryTransaction<'_> {
    async fn trash_rows(&mut self, items: &BTreeSet<ItemId>) -> Result<BTreeMap<ItemId, TrashRow>> {
        let row = |id: &ItemId| Some((id.clone(), self.state.trash.get(id)?.clone()));
        Ok(items.iter().filter_map(row).collect())
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>> {
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
    ) -> Result<Vec<TrashRow>> {
        let all = self.state.trash.rows().values();
        let due = all.filter(|row| row.state == state && row.at < before);
        let mut due: Vec<TrashRow> = due.cloned().collect();
        due.sort_by(|a, b| (a.at, &a.item_id).cmp(&(b.at, &b.item_id)));
        due.truncate(usize::try_from(at_most).unwrap_or(usize::MAX));
        Ok(due)
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<()> {
        for row in rows {
            self.state.know(&row.owner);
            self.state.know(&row.deleted_by);
            self.state.trash.put(row.item_id.clone(), row.clone());
        }
        Ok(())
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>> {
        let all = self.state.trash.rows().values();
        let purging = all.filter(|row| row.state == TrashState::Purging);
        let refs = purging.flat_map(|row| self.state.refs_of.group(&row.item_id).keys());
        let found =
            refs.filter_map(|id| Some((id.clone(), self.state.refs.get(id)?.blob_id.clone())));
        Ok(found.take(usize::try_from(at_most).unwrap_or(usize::MAX)).collect())
    }

    async fn trashed_bytes(&mut self, user: &UserId, _at_most: u32) -> Result<u64> {
        let all = self.state.trash.rows().values();
        let kept = all.filter(|row| row.owner == *user && row.state == TrashState::Kept);
        let refs = kept.flat_map(|row| self.state.refs_of.group(&row.item_id).keys());
        let blobs = refs.filter_map(|id| self.state.blobs.get(&self.state.refs.get(id)?.blob_id));
        Ok(blobs.map(|blob| blob.reserved).sum())
    }
}
