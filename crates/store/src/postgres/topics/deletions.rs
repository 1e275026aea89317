//! Deletions of users, and the rows that name a user.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::{Deletions, Mention, Renamed};

impl Deletions for PostgresTransaction<'_> {
    async fn deletion(&mut self, pseudonym: &str) -> Result<Option<Deletion>> {
        let sql = if self.only_reads {
            "SELECT body FROM deletions WHERE pseudonym = $1"
        } else {
            "SELECT body FROM deletions WHERE pseudonym = $1 FOR UPDATE"
        };
        let row = self.query_opt(sql, &[&pseudonym]).await?;
        row.map(|row| encoding::deletion(pseudonym, row.try_get(0)?)).transpose()
    }

    async fn put_deletion(&mut self, deletion: &Deletion) -> Result<()> {
        let due = (!deletion.is_done()).then(|| deletion.due_at.as_millis());
        self.execute(
            "INSERT INTO deletions (pseudonym, due_at, body) VALUES ($1, $2, $3) \
             ON CONFLICT (pseudonym) DO UPDATE SET due_at = excluded.due_at, body = excluded.body",
            &[&deletion.pseudonym, &due, &encoding::deletion_json(deletion)?],
        )
        .await?;
        Ok(())
    }

    async fn drop_deletion(&mut self, pseudonym: &str) -> Result<()> {
        self.execute("DELETE FROM deletions WHERE pseudonym = $1", &[&pseudonym]).await?;
        Ok(())
    }

    async fn due_deletions(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<String>> {
        let rows = self
            .query(
                "SELECT pseudonym FROM deletions WHERE due_at <= $1 ORDER BY due_at LIMIT $2",
                &[&now.as_millis(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn refuse_pushes(&mut self, user: &UserId) -> Result<()> {
        let sql = "UPDATE realms SET leaving = true WHERE user_id = $1";
        self.execute(sql, &[&user.as_str()]).await?;
        Ok(())
    }

    async fn owned_items(&mut self, owner: &UserId, at_most: u32) -> Result<BTreeSet<ItemId>> {
        let rows = self
            .query(
                "SELECT item_id FROM items WHERE owner = $1 ORDER BY item_id DESC LIMIT $2",
                &[&owner.as_str(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "items", key: owner }.parse(0)).collect()
    }

    async fn items_after(&mut self, after: Option<&ItemId>, at_most: u32) -> Result<Vec<ItemId>> {
        let rows = self
            .query(
                "SELECT item_id FROM items WHERE item_id > $1 ORDER BY item_id LIMIT $2",
                &[&after.map_or("", ItemId::as_str), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "items", key: "?" }.parse(0)).collect()
    }

    async fn items_naming(&mut self, user: &UserId, items: &[ItemId]) -> Result<BTreeSet<ItemId>> {
        let rows = self
            .query(
                "SELECT item_id FROM items WHERE item_id = ANY($1) AND position($3 in fields) > 0 \
                 UNION SELECT parent FROM links WHERE parent = ANY($1) AND author = $2 \
                 UNION SELECT item_id FROM grants WHERE item_id = ANY($1) AND (author = $2 \
                  OR (kind = 1 AND principal_id = $2 AND level IS NULL)) \
                 UNION SELECT child FROM moves WHERE child = ANY($1) \
                  AND (author = $2 OR realm = $2) \
                 UNION SELECT item_id FROM access WHERE item_id = ANY($1) AND user_id = $2 \
                 UNION SELECT item_id FROM trash WHERE item_id = ANY($1) AND deleted_by = $2",
                &[&texts(items), &user.as_str(), &user.as_str().as_bytes()],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "items", key: user }.parse(0)).collect()
    }

    async fn rename_author(
        &mut self,
        user: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, Renamed>> {
        let (ids, replica) = (texts(items), ReplicaId::nameless());
        let mut found: BTreeMap<ItemId, Renamed> = BTreeMap::new();
        let mut note = |rows: &[Row], of_grants: bool| -> Result<()> {
            for row in rows {
                let item = Columns { row, table: "items", key: user }.parse(0)?;
                let renamed = found.entry(item).or_default();
                renamed.rows += 1;
                renamed.grants += u64::from(of_grants);
            }
            Ok(())
        };
        for sql in [
            "UPDATE links SET author = $3, replica_id = $4 \
             WHERE parent = ANY($1) AND author = $2 RETURNING parent",
            "UPDATE grants SET author = $3, replica_id = $4 \
             WHERE item_id = ANY($1) AND author = $2 RETURNING item_id",
            "UPDATE moves SET author = $3, replica_id = $4 \
             WHERE child = ANY($1) AND author = $2 RETURNING child",
            "UPDATE trash SET deleted_by = $3, replica_id = $4 \
             WHERE item_id = ANY($1) AND deleted_by = $2 RETURNING item_id",
        ] {
            let rows =
                self.query(sql, &[&ids, &user.as_str(), &by.as_str(), &replica.as_str()]).await?;
            note(&rows, false)?;
        }
        for (sql, of_grants) in [
            ("DELETE FROM moves WHERE child = ANY($1) AND realm = $2 RETURNING child", false),
            (
                "DELETE FROM access WHERE item_id = ANY($1) AND user_id = $2 RETURNING item_id",
                false,
            ),
            (
                "DELETE FROM grants WHERE item_id = ANY($1) AND kind = 1 AND principal_id = $2 \
                 AND level IS NULL RETURNING item_id",
                true,
            ),
        ] {
            let rows = self.query(sql, &[&ids, &user.as_str()]).await?;
            note(&rows, of_grants)?;
        }
        Ok(found)
    }

    async fn feed_keys(&mut self, user: &UserId, at_most: u32) -> Result<Vec<(u64, Vec<u8>)>> {
        let rows = self
            .query(
                "SELECT counter, key FROM feed WHERE user_id = $1 ORDER BY counter LIMIT $2",
                &[&user.as_str(), &i64::from(at_most)],
            )
            .await?;
        let read = |row: &Row| {
            let columns = Columns { row, table: "feed", key: user };
            Ok((columns.unsigned(0)?, columns.get::<Vec<u8>>(1)?))
        };
        rows.iter().map(read).collect()
    }

    async fn remove_feed(
        &mut self,
        user: &UserId,
        counters: &[u64],
        items: &BTreeSet<ItemId>,
    ) -> Result<()> {
        let counters: Vec<i64> =
            counters.iter().filter_map(|counter| i64::try_from(*counter).ok()).collect();
        let sql = "DELETE FROM feed WHERE user_id = $1 AND counter = ANY($2)";
        self.execute(sql, &[&user.as_str(), &counters]).await?;
        let sql = "DELETE FROM access WHERE item_id = ANY($2) AND user_id = $1";
        self.execute(sql, &[&user.as_str(), &texts(items)]).await?;
        Ok(())
    }

    async fn stages_of(
        &mut self,
        owner: &UserId,
        after: Option<&StagingId>,
        at_most: u32,
    ) -> Result<Vec<StagingId>> {
        let after = after.map_or("", StagingId::as_str);
        let rows = self
            .query(
                "SELECT staging_id FROM blob_stages WHERE owner = $1 AND staging_id > $2 \
                 ORDER BY staging_id LIMIT $3",
                &[&owner.as_str(), &after, &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "blob_stages", key: owner }.parse(0)).collect()
    }

    async fn give_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
        to: &UserId,
        forget: bool,
    ) -> Result<()> {
        let sql = "UPDATE blob_stages SET owner = $2 WHERE staging_id = $1";
        self.execute(sql, &[&staging_id.as_str(), &to.as_str()]).await?;
        let sql = if forget {
            "UPDATE blobs SET owner = $2, charged = NULL, content_type = NULL WHERE blob_id = $1"
        } else {
            "UPDATE blobs SET owner = $2 WHERE blob_id = $1"
        };
        self.execute(sql, &[&blob_id.as_str(), &to.as_str()]).await?;
        Ok(())
    }

    async fn stages_charged_to(&mut self, user: &UserId, at_most: u32) -> Result<Vec<StagingId>> {
        let rows = self
            .query(
                "SELECT s.staging_id FROM blobs b JOIN blob_stages s ON s.blob_id = b.blob_id \
                 WHERE b.charged = $1 LIMIT $2",
                &[&user.as_str(), &i64::from(at_most)],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "blob_stages", key: user }.parse(0)).collect()
    }

    async fn mentions(
        &mut self,
        name: &UserId,
        after: Option<&str>,
        at_most: u32,
    ) -> Result<(Vec<Mention>, Option<String>)> {
        let (user, counter) = after.map_or((String::new(), 0), of_place);
        let rows = self
            .query(
                "SELECT user_id, counter, json, position($3 in json) > 0 FROM feed \
                 WHERE (user_id, counter) > ($1, $2) ORDER BY user_id, counter LIMIT $4",
                &[&user, &counter, &encoding::json_text(name.as_str()), &i64::from(at_most)],
            )
            .await?;
        let (mut found, mut last) = (Vec::new(), None);
        for row in &rows {
            let place = place(row.try_get(0)?, row.try_get(1)?);
            if row.try_get(3)? {
                found.push(Mention { place: place.clone(), json: row.try_get(2)? });
            }
            last = Some(place);
        }
        Ok((found, last))
    }

    async fn replace_mention(&mut self, mention: &Mention, json: &str) -> Result<()> {
        let (user, counter) = of_place(&mention.place);
        // A row that moved since was written under the new name.
        let sql = "UPDATE feed SET json = $4 WHERE user_id = $1 AND counter = $2 AND json = $3";
        self.execute(sql, &[&user, &counter, &mention.json, &json]).await?;
        Ok(())
    }

    async fn remove_rows(&mut self, user: &UserId, at_most: u32) -> Result<u64> {
        let mut left = u64::from(at_most);
        for sql in [
            "DELETE FROM devices WHERE (user_id, client) IN \
             (SELECT user_id, client FROM devices WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM credentials WHERE id IN \
             (SELECT id FROM credentials WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM accepted_ops WHERE (user_id, replica_id, write_id) IN \
             (SELECT user_id, replica_id, write_id FROM accepted_ops WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM replicas WHERE (user_id, replica_id) IN \
             (SELECT user_id, replica_id FROM replicas WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM reconcile_state WHERE (user_id, client) IN \
             (SELECT user_id, client FROM reconcile_state WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM members WHERE (kind, group_id, user_id) IN \
             (SELECT kind, group_id, user_id FROM members WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM blocks WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM blocks WHERE owner = $1 LIMIT $2)",
            "DELETE FROM blocks WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM blocks WHERE user_id = $1 LIMIT $2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE owner = $1 LIMIT $2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE user_id = $1 AND awaited = 1 LIMIT $2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE user_id = $1 AND awaited = 2 LIMIT $2)",
            "DELETE FROM feed_epochs WHERE (user_id, epoch) IN \
             (SELECT user_id, epoch FROM feed_epochs WHERE user_id = $1 LIMIT $2)",
        ] {
            if left == 0 {
                break;
            }
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            left -= self.execute(sql, &[&user.as_str(), &limit]).await?;
        }
        Ok(u64::from(at_most) - left)
    }

    async fn remove_user(&mut self, user: &UserId) -> Result<u64> {
        let named = self
            .query_opt(
                "SELECT EXISTS (SELECT 1 FROM items WHERE owner = $1) \
                 OR EXISTS (SELECT 1 FROM blob_stages WHERE owner = $1) \
                 OR EXISTS (SELECT 1 FROM blobs WHERE charged = $1) \
                 OR EXISTS (SELECT 1 FROM feed WHERE user_id = $1)",
                &[&user.as_str()],
            )
            .await?;
        if named.map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or(true) {
            return Ok(0);
        }
        let mut rows = 0;
        for sql in [
            "DELETE FROM feed_head WHERE user_id = $1",
            "DELETE FROM blob_usage WHERE owner = $1",
            "DELETE FROM realms WHERE user_id = $1",
        ] {
            rows += self.execute(sql, &[&user.as_str()]).await?;
        }
        Ok(rows)
    }

    async fn has_rows(&mut self, user: &UserId) -> Result<bool> {
        let row = self
            .query_opt(
                "SELECT EXISTS (SELECT 1 FROM realms WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM devices WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM credentials WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM replicas WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM reconcile_state WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM feed_head WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM members WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM blocks WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM blocks WHERE owner = $1) \
                 OR EXISTS (SELECT 1 FROM items WHERE owner = $1) \
                 OR EXISTS (SELECT 1 FROM blob_stages WHERE owner = $1) \
                 OR EXISTS (SELECT 1 FROM blobs WHERE charged = $1) \
                 OR EXISTS (SELECT 1 FROM blob_usage WHERE owner = $1)",
                &[&user.as_str()],
            )
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }
}

/// Returns the place of a feed's row as text: a cursor, or the place of a mention.
fn place(user: &str, counter: i64) -> String {
    format!("{counter} {user}")
}

fn of_place(place: &str) -> (String, i64) {
    let (counter, user) = place.split_once(' ').unwrap_or(("0", ""));
    (user.to_owned(), counter.parse().unwrap_or(0))
}
