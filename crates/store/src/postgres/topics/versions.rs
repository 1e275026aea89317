//! Attachments: present and earlier contents of files, and other attachments.

use tokio_postgres::Row;
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::id::{BlobId, ItemId, RefId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::server::attach::{AttachChanges, Expected, MadeAttach};
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::Versions;
use crate::values::{BlobRow, KEPT_VERSIONS};

impl Versions for PostgresTransaction<'_> {
    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>> {
        current(self, &[item.as_str().to_owned()]).await
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>> {
        let rows = self
            .query(
                "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
                 b.size, b.digest, r.modified_at, r.expected \
                 FROM blob_refs r JOIN blobs b USING (blob_id) WHERE r.blob_id = $1",
                &[&blob.as_str()],
            )
            .await?;
        let read = |row| {
            let columns = Columns { row, table: "blob_refs", key: blob };
            let expected = columns.get::<Option<&str>>(9)?.map(|text| {
                Expected::from_text(text)
                    .ok_or_else(|| columns.malformed("expected is no expectation"))
            });
            Ok(MadeAttach { attachment: attachment(row)?, expected: expected.transpose()? })
        };
        rows.iter().map(read).collect()
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<()> {
        let attachment = &changes.attachment;
        if attachment.relation_kind == RelationKind::File {
            self.execute(
                "UPDATE blob_refs SET is_current = false \
                 WHERE item_id = $1 AND is_current AND kind = 'file'",
                &[&attachment.item_id.as_str()],
            )
            .await?;
        }
        self.execute(
            "INSERT INTO blob_refs (ref_id, item_id, blob_id, kind, is_current, attached_at, \
             modified_at, expected) VALUES ($1, $2, $3, $4, true, $5, $6, $7)",
            &[
                &attachment.ref_id.as_str(),
                &attachment.item_id.as_str(),
                &attachment.blob_id.as_str(),
                &encoding::kind_code(attachment.relation_kind),
                &attachment.attached_at.as_millis(),
                &attachment.modified_at.map(Timestamp::as_millis),
                &changes.expected.to_text(),
            ],
        )
        .await?;
        if attachment.relation_kind == RelationKind::File {
            // The one that this makes the first beyond the versions that are kept.
            self.execute(
            "UPDATE blob_refs SET surplus_since = $2 WHERE surplus_since IS NULL AND ref_id = ( \
             SELECT ref_id FROM blob_refs WHERE item_id = $1 AND kind = 'file' \
             ORDER BY attached_at DESC, ref_id DESC LIMIT 1 OFFSET $3)",
            &[
                &attachment.item_id.as_str(),
                &attachment.attached_at.as_millis(),
                &i64::from(KEPT_VERSIONS + 1),
            ],
        )
        .await?;
        }
        Ok(())
    }

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool> {
        let gone = self
            .execute(
                "DELETE FROM blob_refs WHERE ref_id = $1 AND NOT is_current",
                &[&ref_id.as_str()],
            )
            .await?;
        Ok(gone > 0)
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool> {
        let gone =
            self.execute("DELETE FROM blob_refs WHERE ref_id = $1", &[&ref_id.as_str()]).await?;
        Ok(gone > 0)
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool> {
        let found = self
            .query_opt("SELECT 1 FROM blob_refs WHERE item_id = $1 LIMIT 1", &[&item.as_str()])
            .await?;
        Ok(found.is_some())
    }

    async fn readable(
        &mut self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>> {
        let this: &PostgresTransaction<'_> = self;
        // All are asked for at once.
        futures::future::try_join_all(blob_ids.iter().map(|id| readable(this, user, id))).await
    }

    async fn versions(
        &mut self,
        user: &UserId,
        item: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>> {
        if !sees(self, user, item).await? {
            return Ok(None);
        }
        let rows = self
            .query(
                "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
                 b.size, b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
                 WHERE r.item_id = $1 AND r.kind = 'file' \
                 ORDER BY r.attached_at DESC, r.ref_id DESC LIMIT $2",
                &[&item.as_str(), &i64::from(limit)],
            )
            .await?;
        rows.iter().map(attachment).collect::<Result<_, _>>().map(Some)
    }

    async fn surplus_versions(
        &mut self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>> {
        let rows = self
            .query(
                "SELECT ref_id, blob_id FROM blob_refs WHERE surplus_since < $1 \
                 ORDER BY surplus_since LIMIT $2",
                &[&before.as_millis(), &i64::from(at_most)],
            )
            .await?;
        let read = |row| {
            let columns = Columns { row, table: "blob_refs", key: "?" };
            Ok((columns.parse(0)?, columns.parse(1)?))
        };
        rows.iter().map(read).collect()
    }
}

pub(super) async fn current(
    tx: &PostgresTransaction<'_>,
    items: &[String],
) -> Result<Vec<Attachment>> {
    let rows = tx
        .query(
            "SELECT r.ref_id, r.item_id, r.blob_id, r.kind, r.attached_at, b.content_type, \
             b.size, b.digest, r.modified_at FROM blob_refs r JOIN blobs b USING (blob_id) \
             WHERE r.item_id = ANY($1) AND r.is_current",
            &[&items],
        )
        .await?;
    rows.iter().map(attachment).collect()
}

fn attachment(row: &Row) -> Result<Attachment> {
    let key = row.try_get::<_, &str>(0).unwrap_or("?");
    let columns = Columns { row, table: "blob_refs", key };
    let (size, digest) = columns
        .size_and_digest(6)?
        .ok_or_else(|| columns.malformed("its blob has no size and digest"))?;
    Ok(Attachment {
        ref_id: columns.parse(0)?,
        item_id: columns.parse(1)?,
        blob_id: columns.parse(2)?,
        relation_kind: columns.code(3, encoding::kind)?,
        attached_at: columns.time(4)?,
        content_type: columns.get::<Option<&str>>(5)?.map(Into::into),
        size,
        digest,
        modified_at: columns.get::<Option<i64>>(8)?.map(|_| columns.time(8)).transpose()?,
    })
}

/// Returns the blob if it has bytes, is not abandoned, and the user staged it or sees it on an
/// item.
async fn readable(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    blob_id: &BlobId,
) -> Result<Option<BlobRow>> {
    let row = tx
        .query_opt(
            "SELECT owner, content_type, size, digest FROM blobs \
             WHERE blob_id = $1 AND status = 'live' AND size IS NOT NULL",
            &[&blob_id.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let columns = Columns { row: &row, table: "blobs", key: blob_id };
    if columns.get::<&str>(0)? != user.as_str() && !shown_to(tx, user, blob_id).await? {
        return Ok(None);
    }
    let (size, digest) = columns
        .size_and_digest(2)?
        .ok_or_else(|| columns.malformed("it has no size and digest"))?;
    let content_type = columns.get(1)?;
    Ok(Some(BlobRow { blob_id: blob_id.clone(), size, digest, content_type }))
}

/// Returns whether the blob is attached to a live item that the user may read.
async fn shown_to(tx: &PostgresTransaction<'_>, user: &UserId, blob_id: &BlobId) -> Result<bool> {
    let rows = tx
        .query(
            "SELECT i.item_id, i.fields FROM blob_refs r JOIN items i USING (item_id) \
             WHERE r.blob_id = $1 AND (i.owner = $2 OR EXISTS \
             (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.user_id = $2))",
            &[&blob_id.as_str(), &user.as_str()],
        )
        .await?;
    for row in &rows {
        let item: ItemId = Columns { row, table: "items", key: blob_id }.parse(0)?;
        let columns = Columns { row, table: "items", key: &item };
        let fields =
            ItemFields::from_bytes(columns.get(1)?).map_err(|error| columns.malformed(error))?;
        if !fields.is_deleted() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether the user sees the item.
async fn sees(tx: &mut PostgresTransaction<'_>, user: &UserId, item: &ItemId) -> Result<bool> {
    let row = tx
        .query_opt(
            "SELECT fields FROM items i WHERE item_id = $1 AND (owner = $2 OR EXISTS \
             (SELECT 1 FROM access a WHERE a.item_id = i.item_id AND a.user_id = $2))",
            &[&item.as_str(), &user.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let columns = Columns { row: &row, table: "items", key: item };
    let fields =
        ItemFields::from_bytes(columns.get(0)?).map_err(|error| columns.malformed(error))?;
    Ok(!fields.is_deleted())
}
