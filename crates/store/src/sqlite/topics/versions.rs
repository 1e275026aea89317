//! Attachments: present and earlier contents of files, and other attachments.

use std::collections::BTreeSet;

use rusqlite::params;
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::server::attach::{AttachChanges, Expected, MadeAttach};
use vfs_sync_core::time::Timestamp;

use super::stages::size_and_digest;
use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Versions;
use crate::values::{BlobRow, KEPT_VERSIONS};

/// A query for the attachments of an item, without earlier versions.
const CURRENT: &str = "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, \
     b.content_type, b.size, b.digest, r.modified_at \
     FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.item_id = ?1 AND r.is_current = 1";

impl Versions for SqliteTransaction<'_> {
    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>> {
        attachments(self, CURRENT, item.as_str())
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>> {
        let sql = "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
         b.size, b.digest, r.modified_at, r.expected \
         FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.blob_id = ?1";
        let mut select = self.prepare(sql)?;
        let mut rows = select.query([blob.as_str()])?;
        let mut made = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "blob_refs", key: blob };
            let expected = columns.optional_text(9)?.map(|text| {
                Expected::from_text(text)
                    .ok_or_else(|| columns.malformed("expected is no expectation"))
            });
            let expected = expected.transpose()?;
            made.push(MadeAttach { attachment: attachment(&columns)?, expected });
        }
        Ok(made)
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<()> {
        let attachment = &changes.attachment;
        if attachment.relation_kind == RelationKind::File {
            self.prepare(
                "UPDATE blob_refs SET is_current = 0 \
                 WHERE item_id = ?1 AND is_current = 1 AND kind = 'file'",
            )?
            .execute([attachment.item_id.as_str()])?;
        }
        self.prepare(
            "INSERT INTO blob_refs (ref_id, item_id, blob_id, kind, is_current, attached_at, \
             modified_at, expected) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)",
        )?
        .execute(params![
            attachment.ref_id.as_str(),
            attachment.item_id.as_str(),
            attachment.blob_id.as_str(),
            encoding::kind_code(attachment.relation_kind),
            attachment.attached_at.as_millis(),
            attachment.modified_at.map(Timestamp::as_millis),
            changes.expected.to_text(),
        ])?;
        if attachment.relation_kind == RelationKind::File {
            // The one that this makes the first beyond the versions that are kept.
            self.prepare(
            "UPDATE blob_refs SET surplus_since = ?2 WHERE surplus_since IS NULL AND ref_id = ( \
             SELECT ref_id FROM blob_refs WHERE item_id = ?1 AND kind = 'file' \
             ORDER BY attached_at DESC, ref_id DESC LIMIT 1 OFFSET ?3)",
        )?
        .execute(params![
            attachment.item_id.as_str(),
            attachment.attached_at.as_millis(),
            KEPT_VERSIONS + 1,
        ])?;
        }
        Ok(())
    }

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool> {
        let gone = self
            .prepare("DELETE FROM blob_refs WHERE ref_id = ?1 AND is_current = 0")?
            .execute([ref_id.as_str()])?;
        Ok(gone > 0)
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool> {
        let gone =
            self.prepare("DELETE FROM blob_refs WHERE ref_id = ?1")?.execute([ref_id.as_str()])?;
        Ok(gone > 0)
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool> {
        Ok(self.prepare("SELECT 1 FROM blob_refs WHERE item_id = ?1")?.exists([item.as_str()])?)
    }

    async fn readable(
        &mut self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>> {
        blob_ids.iter().map(|id| readable(self, user, id)).collect()
    }

    async fn versions(
        &mut self,
        user: &UserId,
        item: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>> {
        if !sees(self, user, item)? {
            return Ok(None);
        }
        let sql = format!(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, b.size, \
             b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.item_id = ?1 AND r.kind = 'file' \
             ORDER BY r.attached_at DESC, r.ref_id DESC LIMIT {limit}"
        );
        attachments(self, &sql, item.as_str()).map(Some)
    }

    async fn surplus_versions(
        &mut self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>> {
        let mut select = self.prepare(
            "SELECT ref_id, blob_id FROM blob_refs WHERE surplus_since < ?1 \
             ORDER BY surplus_since LIMIT ?2",
        )?;
        let mut rows = select.query(params![before.as_millis(), at_most])?;
        let mut surplus = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "blob_refs", key: "?" };
            surplus.push((columns.parse(0)?, columns.parse(1)?));
        }
        Ok(surplus)
    }
}

/// Loads the attachments of `items`, without an entry for items that have none.
pub(super) fn load_attachments(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
    found: &mut vfs_sync_core::server::push::Map<ItemId, Vec<Attachment>>,
) -> Result<()> {
    let mut any = tx.prepare("SELECT 1 FROM blob_refs WHERE item_id = ?1 AND is_current = 1")?;
    for item in items {
        if any.exists([item.as_str()])? {
            found.insert(item.clone(), attachments(tx, CURRENT, item.as_str())?);
        }
    }
    Ok(())
}

fn attachments(tx: &mut SqliteTransaction<'_>, sql: &str, key: &str) -> Result<Vec<Attachment>> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query([key])?;
    let mut attachments = Vec::new();
    while let Some(row) = rows.next()? {
        attachments.push(attachment(&Columns { row, table: "blob_refs", key })?);
    }
    Ok(attachments)
}

fn attachment<K: std::fmt::Display>(columns: &Columns<'_, '_, K>) -> Result<Attachment> {
    let (size, digest) = size_and_digest(columns, 6)?
        .ok_or_else(|| columns.malformed("its blob has no size and digest"))?;
    Ok(Attachment {
        ref_id: columns.parse(0)?,
        item_id: columns.parse(1)?,
        blob_id: columns.parse(2)?,
        relation_kind: encoding::kind(columns.text(3)?)
            .ok_or_else(|| columns.malformed("kind has an unknown value"))?,
        attached_at: columns.time(4)?,
        content_type: columns.optional_text(5)?.map(Into::into),
        size,
        digest,
        modified_at: columns.optional_integer(8)?.map(|_| columns.time(8)).transpose()?,
    })
}

/// Returns whether the blob is attached to a live item that the user may read.
fn shown_to(tx: &mut SqliteTransaction<'_>, uid: i64, blob_id: &BlobId) -> Result<bool> {
    let mut select = tx.prepare(
        "SELECT i.item_id, i.fields FROM blob_refs r JOIN items i ON i.item_id = r.item_id \
         WHERE r.blob_id = ?1 AND (i.owner = ?2 OR EXISTS \
         (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.uid = ?2))",
    )?;
    let mut rows = select.query(params![blob_id.as_str(), uid])?;
    while let Some(row) = rows.next()? {
        let item: ItemId = Columns { row, table: "items", key: blob_id }.parse(0)?;
        let columns = Columns { row, table: "items", key: &item };
        let fields =
            ItemFields::from_bytes(columns.bytes(1)?).map_err(|error| columns.malformed(error))?;
        if !fields.is_deleted() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether the user sees the item.
fn sees(tx: &mut SqliteTransaction<'_>, user: &UserId, item: &ItemId) -> Result<bool> {
    let Some(uid) = tx.uid(user)? else { return Ok(false) };
    let mut select = tx.prepare(
        "SELECT fields FROM items i WHERE item_id = ?1 AND (owner = ?2 OR EXISTS \
         (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.uid = ?2))",
    )?;
    let mut rows = select.query(params![item.as_str(), uid])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    let columns = Columns { row, table: "items", key: item };
    let fields =
        ItemFields::from_bytes(columns.bytes(0)?).map_err(|error| columns.malformed(error))?;
    Ok(!fields.is_deleted())
}

/// Returns the blob if it has bytes, is not abandoned, and the user staged it or sees it on an
/// item.
fn readable(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    blob_id: &BlobId,
) -> Result<Option<BlobRow>> {
    let mut select = tx.prepare(
        "SELECT size, digest, content_type, owner FROM blobs \
         WHERE blob_id = ?1 AND status = 'live' AND size IS NOT NULL",
    )?;
    let mut rows = select.query([blob_id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns { row, table: "blobs", key: blob_id };
    let Some(uid) = tx.uid(user)? else { return Ok(None) };
    if columns.integer(3)? != uid && !shown_to(tx, uid, blob_id)? {
        return Ok(None);
    }
    let (size, digest) = size_and_digest(&columns, 0)?
        .ok_or_else(|| columns.malformed("it has no size and digest"))?;
    let content_type = columns.optional_text(2)?.map(ToOwned::to_owned);
    Ok(Some(BlobRow { blob_id: blob_id.clone(), size, digest, content_type }))
}
