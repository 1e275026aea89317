//! Attachments: present and earlier contents of files, and other attachments.

use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach};
use vfs_sync_core::server::stage::BlobStatus;
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::memory::state::{Reference, State, count, oldest};
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Versions;
use crate::values::{BlobRow, KEPT_VERSIONS};

impl Versions for MemoryTransaction<'_> {
    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>> {
        let refs = self.state.refs_of.group(item).keys();
        let current = |id: &&RefId| self.state.refs.get(id).is_some_and(|row| row.is_current);
        self.state.attachments(refs.filter(current))
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>> {
        self.state.made_attaches(blob)
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<()> {
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

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool> {
        let is_version = self.state.refs.get(ref_id).is_some_and(|row| !row.is_current);
        Ok(is_version && self.remove_ref(ref_id))
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool> {
        Ok(self.remove_ref(ref_id))
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool> {
        Ok(!self.state.refs_of.group(item).is_empty())
    }

    async fn readable(
        &mut self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>> {
        Ok(blob_ids.iter().map(|id| self.state.readable(user, id)).collect())
    }

    async fn versions(
        &mut self,
        user: &UserId,
        item: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>> {
        if !self.state.sees(user, item) {
            return Ok(None);
        }
        self.state.attachments(self.state.versions(item).into_iter().take(count(limit))).map(Some)
    }

    async fn surplus_versions(
        &mut self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>> {
        let all = self.state.refs.rows().iter();
        let surplus = all.filter_map(|(id, row)| Some((row.surplus_since?, (id, &row.blob_id))));
        let surplus = oldest(surplus.filter(|(since, _)| *since < before), at_most);
        Ok(surplus.map(|(id, blob)| (id.clone(), blob.clone())).collect())
    }
}

impl MemoryTransaction<'_> {
    /// Removes an attachment; returns whether it existed.
    fn remove_ref(&mut self, ref_id: &RefId) -> bool {
        let row = self.state.refs.get(ref_id).cloned();
        let Some(Reference { item_id, blob_id, .. }) = row else { return false };
        self.state.refs.remove(ref_id);
        self.state.refs_of.remove(&item_id, ref_id);
        self.state.refs_with.remove(&blob_id, ref_id)
    }
}

impl State {
    /// Returns the blob if it has bytes, is not abandoned, and the user staged it or sees it on an
    /// item.
    fn readable(&self, user: &UserId, blob_id: &BlobId) -> Option<BlobRow> {
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

    pub(super) fn attachment(&self, ref_id: &RefId) -> Result<Option<Attachment>> {
        let Some(row) = self.refs.get(ref_id) else { return Ok(None) };
        let blob = self.blobs.get(&row.blob_id);
        let (size, digest) = blob.and_then(|blob| blob.uploaded).ok_or_else(|| {
            encoding::malformed("blob_refs", ref_id, "its blob has no size and digest")
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

    /// Returns those attachments that exist, in the order of `refs`.
    pub(super) fn attachments<'a>(
        &self,
        refs: impl IntoIterator<Item = &'a RefId>,
    ) -> Result<Vec<Attachment>> {
        refs.into_iter().filter_map(|ref_id| self.attachment(ref_id).transpose()).collect()
    }

    /// Returns the attachments of a blob, with the content that each request expected.
    pub(super) fn made_attaches(&self, blob: &BlobId) -> Result<Vec<MadeAttach>> {
        let made = |ref_id: &RefId| {
            let expected = self.refs.get(ref_id).map(|row| row.expected.clone());
            let attachment = self.attachment(ref_id).transpose()?;
            Some(attachment.map(|attachment| MadeAttach { attachment, expected }))
        };
        self.refs_with.group(blob).keys().filter_map(made).collect()
    }

    /// Returns the present and earlier contents of a file, the newest first.
    pub(super) fn versions(&self, item: &ItemId) -> Vec<&RefId> {
        let of_item = self.refs_of.group(item).keys();
        let rows = of_item.filter_map(|id| Some((self.refs.get(id)?, id)));
        let mut files: Vec<_> = rows.filter(|(row, _)| row.kind == RelationKind::File).collect();
        files.sort_by(|(a, a_id), (b, b_id)| (b.attached_at, b_id).cmp(&(a.attached_at, a_id)));
        files.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns whether the user sees the item.
    pub(super) fn sees(&self, user: &UserId, item: &ItemId) -> bool {
        self.items.get(item).is_some_and(|row| {
            let allowed = row.owner == *user || self.access.get(item, user).is_some();
            allowed && !row.fields.is_deleted()
        })
    }
}
