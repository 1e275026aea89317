//! Deletions of users, and the rows that name a user.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::register::ItemFields;
use vfs_sync_core::server::deletion::Deletion;
use vfs_sync_core::time::Timestamp;

use super::feeds::{COUNTER_BITS, MAX_COUNTER};
use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{Deletions, Mention, Renamed};

impl Deletions for SqliteTransaction<'_> {
    async fn deletion(&mut self, pseudonym: &str) -> Result<Option<Deletion>> {
        let mut select = self.prepare("SELECT body FROM deletions WHERE pseudonym = ?1")?;
        let body: Option<String> = select.query_row([pseudonym], |row| row.get(0)).optional()?;
        body.map(|body| encoding::deletion(pseudonym, &body)).transpose()
    }

    async fn put_deletion(&mut self, deletion: &Deletion) -> Result<()> {
        let due = (!deletion.is_done()).then(|| deletion.due_at.as_millis());
        self.prepare(
            "INSERT INTO deletions (pseudonym, due_at, body) VALUES (?1, ?2, ?3) \
             ON CONFLICT (pseudonym) DO UPDATE SET due_at = excluded.due_at, body = excluded.body",
        )?
        .execute(params![deletion.pseudonym, due, encoding::deletion_json(deletion)?])?;
        Ok(())
    }

    async fn drop_deletion(&mut self, pseudonym: &str) -> Result<()> {
        self.prepare("DELETE FROM deletions WHERE pseudonym = ?1")?.execute([pseudonym])?;
        Ok(())
    }

    async fn due_deletions(&mut self, now: Timestamp, at_most: u32) -> Result<Vec<String>> {
        let mut select = self.prepare(
            "SELECT pseudonym FROM deletions WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2",
        )?;
        let found = select.query_map(params![now.as_millis(), at_most], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    async fn refuse_pushes(&mut self, user: &UserId) -> Result<()> {
        let uid = self.make_uid(user)?;
        self.prepare("UPDATE realms SET leaving = 1 WHERE uid = ?1")?.execute([uid])?;
        Ok(())
    }

    async fn owned_items(&mut self, owner: &UserId, at_most: u32) -> Result<BTreeSet<ItemId>> {
        let Some(uid) = self.uid(owner)? else { return Ok(BTreeSet::new()) };
        let mut select = self
            .prepare("SELECT item_id FROM items WHERE owner = ?1 ORDER BY item_id DESC LIMIT ?2")?;
        let mut rows = select.query(params![uid, at_most])?;
        let mut found = BTreeSet::new();
        while let Some(row) = rows.next()? {
            found.insert(Columns { row, table: "items", key: owner }.parse(0)?);
        }
        Ok(found)
    }

    async fn items_after(&mut self, after: Option<&ItemId>, at_most: u32) -> Result<Vec<ItemId>> {
        let mut select =
            self.prepare("SELECT item_id FROM items WHERE item_id > ?1 ORDER BY item_id LIMIT ?2")?;
        let mut rows = select.query(params![after.map_or("", ItemId::as_str), at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Columns { row, table: "items", key: "?" }.parse(0)?);
        }
        Ok(found)
    }

    async fn items_naming(&mut self, user: &UserId, items: &[ItemId]) -> Result<BTreeSet<ItemId>> {
        let Some(uid) = self.uid(user)? else { return Ok(BTreeSet::new()) };
        let mut fields = self.prepare("SELECT fields FROM items WHERE item_id = ?1")?;
        let mut others = self.prepare(
            "SELECT EXISTS (SELECT 1 FROM links WHERE parent = ?1 \
              AND author IN (SELECT rid FROM replicas WHERE uid = ?2)) \
             OR EXISTS (SELECT 1 FROM grants WHERE item_id = ?1 \
              AND ((kind = 1 AND principal_id = ?3 AND level IS NULL) \
               OR author IN (SELECT rid FROM replicas WHERE uid = ?2))) \
             OR EXISTS (SELECT 1 FROM moves WHERE child = ?1 \
              AND (realm = ?2 OR author IN (SELECT rid FROM replicas WHERE uid = ?2))) \
             OR EXISTS (SELECT 1 FROM access WHERE item_id = ?1 AND uid = ?2) \
             OR EXISTS (SELECT 1 FROM trash WHERE item_id = ?1 AND deleted_by = ?2)",
        )?;
        let mut found = BTreeSet::new();
        for item in items {
            let stored: Option<Vec<u8>> =
                fields.query_row([item.as_str()], |row| row.get(0)).optional()?;
            let named = stored.is_some_and(|bytes| names(&bytes, user));
            let mut elsewhere = || {
                others.query_row(params![item.as_str(), uid, user.as_str()], |row| {
                    row.get::<_, bool>(0)
                })
            };
            if named || elsewhere()? {
                found.insert(item.clone());
            }
        }
        Ok(found)
    }

    async fn rename_author(
        &mut self,
        user: &UserId,
        by: &UserId,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, Renamed>> {
        let mut found = BTreeMap::new();
        let Some(uid) = self.uid(user)? else { return Ok(found) };
        let to = self.make_uid(by)?;
        let replica = ReplicaId::nameless();
        self.prepare(
            "INSERT INTO replicas (uid, replica_id, last_write_id, last_seen) \
             VALUES (?1, ?2, 0, 0) ON CONFLICT (uid, replica_id) DO NOTHING",
        )?
        .execute(params![to, replica.as_str()])?;
        let rid = self.rid(by, &replica)?;
        for item in items {
            let id = item.as_str();
            let mut rows = 0;
            for sql in [
                "UPDATE links SET author = ?3 WHERE parent = ?1 \
                 AND author IN (SELECT rid FROM replicas WHERE uid = ?2)",
                "UPDATE grants SET author = ?3 WHERE item_id = ?1 \
                 AND author IN (SELECT rid FROM replicas WHERE uid = ?2)",
                "UPDATE moves SET author = ?3 WHERE child = ?1 \
                 AND author IN (SELECT rid FROM replicas WHERE uid = ?2)",
            ] {
                rows += self.prepare(sql)?.execute(params![id, uid, rid])?;
            }
            rows += self
                .prepare(
                    "UPDATE trash SET deleted_by = ?3, replica_id = ?4 \
                          WHERE item_id = ?1 AND deleted_by = ?2",
                )?
                .execute(params![id, uid, to, replica.as_str()])?;
            for sql in [
                "DELETE FROM moves WHERE child = ?1 AND realm = ?2",
                "DELETE FROM access WHERE item_id = ?1 AND uid = ?2",
            ] {
                rows += self.prepare(sql)?.execute(params![id, uid])?;
            }
            let grants = self
                .prepare(
                    "DELETE FROM grants WHERE item_id = ?1 AND kind = 1 \
                          AND principal_id = ?2 AND level IS NULL",
                )?
                .execute(params![id, user.as_str()])?;
            let renamed = Renamed { rows: (rows + grants) as u64, grants: grants as u64 };
            found.insert(item.clone(), renamed);
        }
        Ok(found)
    }

    async fn feed_keys(&mut self, user: &UserId, at_most: u32) -> Result<Vec<(u64, Vec<u8>)>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT position, key FROM feed WHERE position > ?1 AND position <= ?2 \
             ORDER BY position LIMIT ?3",
        )?;
        let first = uid << COUNTER_BITS;
        let last = first | MAX_COUNTER as i64;
        let mut rows = select.query(params![first, last, at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let position: i64 = row.get(0)?;
            let columns = Columns { row, table: "feed", key: user };
            found
                .push(((position & MAX_COUNTER as i64).unsigned_abs(), columns.bytes(1)?.to_vec()));
        }
        Ok(found)
    }

    async fn remove_feed(
        &mut self,
        user: &UserId,
        counters: &[u64],
        items: &BTreeSet<ItemId>,
    ) -> Result<()> {
        let Some(uid) = self.uid(user)? else { return Ok(()) };
        let mut delete = self.prepare("DELETE FROM feed WHERE position = ?1")?;
        for counter in counters {
            delete.execute([uid << COUNTER_BITS | (*counter).min(MAX_COUNTER) as i64])?;
        }
        let mut delete = self.prepare("DELETE FROM access WHERE item_id = ?1 AND uid = ?2")?;
        for item in items {
            delete.execute(params![item.as_str(), uid])?;
        }
        Ok(())
    }

    async fn stages_of(
        &mut self,
        owner: &UserId,
        after: Option<&StagingId>,
        at_most: u32,
    ) -> Result<Vec<StagingId>> {
        let Some(uid) = self.uid(owner)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT staging_id FROM blob_stages WHERE owner = ?1 AND staging_id > ?2 \
             ORDER BY staging_id LIMIT ?3",
        )?;
        let after = after.map_or("", StagingId::as_str);
        stages(&mut select.query(params![uid, after, at_most])?, owner)
    }

    async fn give_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
        to: &UserId,
        forget: bool,
    ) -> Result<()> {
        let to = self.make_uid(to)?;
        self.prepare("UPDATE blob_stages SET owner = ?2 WHERE staging_id = ?1")?
            .execute(params![staging_id.as_str(), to])?;
        let sql = if forget {
            "UPDATE blobs SET owner = ?2, charged = NULL, content_type = NULL WHERE blob_id = ?1"
        } else {
            "UPDATE blobs SET owner = ?2 WHERE blob_id = ?1"
        };
        self.prepare(sql)?.execute(params![blob_id.as_str(), to])?;
        Ok(())
    }

    async fn stages_charged_to(&mut self, user: &UserId, at_most: u32) -> Result<Vec<StagingId>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT s.staging_id FROM blobs b JOIN blob_stages s ON s.blob_id = b.blob_id \
             WHERE b.charged = ?1 LIMIT ?2",
        )?;
        stages(&mut select.query(params![uid, at_most])?, user)
    }

    async fn mentions(
        &mut self,
        name: &UserId,
        after: Option<&str>,
        at_most: u32,
    ) -> Result<(Vec<Mention>, Option<String>)> {
        let mut select = self.prepare(
            "SELECT position, json FROM feed WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?;
        let after: i64 = after.and_then(|after| after.parse().ok()).unwrap_or(0);
        let mut rows = select.query(params![after, at_most])?;
        let (mut found, mut last) = (Vec::new(), None);
        let quoted = encoding::json_text(name.as_str());
        while let Some(row) = rows.next()? {
            let position: i64 = row.get(0)?;
            let json = Columns { row, table: "feed", key: position }.text(1)?;
            if json.contains(&quoted) {
                found.push(Mention { place: position.to_string(), json: json.to_owned() });
            }
            last = Some(position.to_string());
        }
        Ok((found, last))
    }

    async fn replace_mention(&mut self, mention: &Mention, json: &str) -> Result<()> {
        let position: i64 = mention.place.parse().unwrap_or(0);
        self.prepare("UPDATE feed SET json = ?3 WHERE position = ?1 AND json = ?2")?
            .execute(params![position, mention.json, json])?;
        Ok(())
    }

    async fn remove_rows(&mut self, user: &UserId, at_most: u32) -> Result<u64> {
        let mut left = u64::from(at_most);
        let limit = |left: u64| i64::try_from(left).unwrap_or(i64::MAX);
        for sql in [
            "DELETE FROM devices WHERE (user_id, client) IN \
             (SELECT user_id, client FROM devices WHERE user_id = ?1 LIMIT ?2)",
            "DELETE FROM credentials WHERE id IN \
             (SELECT id FROM credentials WHERE user_id = ?1 LIMIT ?2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE user_id = ?1 AND awaited = 1 LIMIT ?2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE user_id = ?1 AND awaited = 2 LIMIT ?2)",
        ] {
            left -= self.prepare(sql)?.execute(params![user.as_str(), limit(left)])? as u64;
        }
        let Some(uid) = self.uid(user)? else { return Ok(u64::from(at_most) - left) };
        // Results before the replicas by whose numbers they are found.
        for sql in [
            "DELETE FROM accepted_ops WHERE (rid, write_id) IN \
             (SELECT a.rid, a.write_id FROM replicas r JOIN accepted_ops a ON a.rid = r.rid \
              WHERE r.uid = ?1 LIMIT ?2)",
            "DELETE FROM replicas WHERE rid IN (SELECT rid FROM replicas WHERE uid = ?1 LIMIT ?2)",
            "DELETE FROM reconcile_state WHERE (uid, client) IN \
             (SELECT uid, client FROM reconcile_state WHERE uid = ?1 LIMIT ?2)",
            "DELETE FROM members WHERE (kind, group_id, uid) IN \
             (SELECT kind, group_id, uid FROM members WHERE uid = ?1 LIMIT ?2)",
            "DELETE FROM blocks WHERE (owner, uid) IN \
             (SELECT owner, uid FROM blocks WHERE owner = ?1 LIMIT ?2)",
            "DELETE FROM blocks WHERE (owner, uid) IN \
             (SELECT owner, uid FROM blocks WHERE uid = ?1 LIMIT ?2)",
            "DELETE FROM grantees WHERE (owner, user_id) IN \
             (SELECT owner, user_id FROM grantees WHERE owner = ?1 LIMIT ?2)",
            "DELETE FROM feed_epochs WHERE (uid, epoch) IN \
             (SELECT uid, epoch FROM feed_epochs WHERE uid = ?1 LIMIT ?2)",
        ] {
            if left == 0 {
                break;
            }
            left -= self.prepare(sql)?.execute(params![uid, limit(left)])? as u64;
        }
        Ok(u64::from(at_most) - left)
    }

    async fn remove_user(&mut self, user: &UserId) -> Result<u64> {
        let Some(uid) = self.uid(user)? else { return Ok(0) };
        let first = uid << COUNTER_BITS;
        let named: bool = self
            .prepare(
                "SELECT EXISTS (SELECT 1 FROM items WHERE owner = ?1) \
                 OR EXISTS (SELECT 1 FROM blob_stages WHERE owner = ?1) \
                 OR EXISTS (SELECT 1 FROM blobs WHERE charged = ?1) \
                 OR EXISTS (SELECT 1 FROM feed WHERE position > ?2 AND position <= ?3)",
            )?
            .query_row(params![uid, first, first | MAX_COUNTER as i64], |row| row.get(0))?;
        if named {
            return Ok(0);
        }
        let mut rows = 0;
        for sql in [
            "DELETE FROM feed_head WHERE uid = ?1",
            "DELETE FROM writers WHERE uid = ?1",
            "DELETE FROM blob_usage WHERE owner = ?1",
            "DELETE FROM realms WHERE uid = ?1",
        ] {
            rows += self.prepare(sql)?.execute([uid])?;
        }
        self.forget_user(user);
        Ok(rows as u64)
    }

    async fn has_rows(&mut self, user: &UserId) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM realms WHERE user_id = ?1) \
             OR EXISTS (SELECT 1 FROM devices WHERE user_id = ?1) \
             OR EXISTS (SELECT 1 FROM credentials WHERE user_id = ?1)";
        Ok(self.prepare(sql)?.query_row([user.as_str()], |row| row.get(0))?)
    }
}

/// Returns whether the stored fields of an item name the user as an author.
fn names(bytes: &[u8], user: &UserId) -> bool {
    let name = user.as_str().as_bytes();
    bytes.windows(name.len()).any(|window| window == name)
        && ItemFields::from_bytes(bytes)
            .is_ok_and(|mut fields| fields.rename_author(user, &user.clone()))
}

fn stages(rows: &mut rusqlite::Rows<'_>, key: &UserId) -> Result<Vec<StagingId>> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Columns { row, table: "blob_stages", key }.parse(0)?);
    }
    Ok(found)
}
