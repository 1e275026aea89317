//! Writing what a transaction decided, each table in the order of its keys.

use rusqlite::params;
use vfs_sync_core::server::push::{Cause, Changes, Mark};
use vfs_sync_core::time::Timestamp;

use super::feed::{COUNTER_BITS, MAX_COUNTER, MAX_UID};
use super::transaction::SqliteTransaction;
use crate::StoreError;
use crate::codes;
use crate::transaction::{FeedWrite, MAX_EPOCHS, PushWrite};
use crate::trash::{revived, rows_of_push};

pub(super) fn push(
    tx: &mut SqliteTransaction<'_>,
    write: &PushWrite<'_>,
) -> Result<(), StoreError> {
    let uid = tx.make_uid(write.user)?;
    let replica = write.replica.as_str();
    let Some(last_write_id) = write.changes.last_write_id else {
        tx.prepare(
            "UPDATE replicas SET last_seen = max(last_seen, ?3) WHERE uid = ?1 AND replica_id = ?2",
        )?
        .execute(params![uid, replica, write.now.as_millis()])?;
        return Ok(());
    };
    let rid = tx
        .prepare(
            "INSERT INTO replicas (uid, replica_id, last_write_id, last_seen, accepted_from) \
             VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (uid, replica_id) DO UPDATE SET \
             last_write_id = excluded.last_write_id, \
             last_seen = max(last_seen, excluded.last_seen), \
             accepted_from = coalesce(accepted_from, excluded.accepted_from) RETURNING rid",
        )?
        .query_row(
            params![uid, replica, last_write_id.get() as i64, write.now.as_millis()],
            |row| row.get(0),
        )?;
    items(tx, write.changes)?;
    registers(tx, write.changes)?;
    super::access::write(tx, write.changes)?;
    super::trash::put(tx, &rows_of_push(write))?;
    super::trash::remove(tx, &revived(write.changes))?;
    accepted(tx, rid, write.changes, write.now)?;
    feeds(tx, write.feeds)
}

/// Writes what the server itself changed.
pub(super) fn changes(
    tx: &mut SqliteTransaction<'_>,
    changes: &Changes,
    written: &[FeedWrite],
) -> Result<(), StoreError> {
    items(tx, changes)?;
    registers(tx, changes)?;
    super::access::write(tx, changes)?;
    super::trash::remove(tx, &revived(changes))?;
    feeds(tx, written)
}

fn items(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    let mut insert = tx.prepare(
        "INSERT INTO items (item_id, owner, created_at, fields) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut update = tx.prepare("UPDATE items SET fields = ?2 WHERE item_id = ?1")?;
    for (id, item) in &changes.items {
        let fields = item.fields.to_bytes();
        if changes.new_items.contains(id) {
            let owner = tx.make_uid(&item.owner)?;
            insert.execute(params![id.as_str(), owner, item.created_at.as_millis(), fields])?;
        } else {
            update.execute(params![id.as_str(), fields])?;
        }
    }
    Ok(())
}

fn registers(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    let mut upsert = tx.prepare(
        "INSERT INTO links (parent, child, present, in_realm, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (parent, child) DO UPDATE SET \
         present = excluded.present, in_realm = excluded.in_realm, \
         authored_at = excluded.authored_at, author = excluded.author, \
         write_id = excluded.write_id",
    )?;
    for ((parent, child), link) in &changes.links {
        let stamp = &link.register.stamp;
        upsert.execute(params![
            parent.as_str(),
            child.as_str(),
            link.register.value,
            link.in_realm,
            stamp.authored_at.as_millis(),
            tx.author(&stamp.author)?,
            stamp.author.write_id.get() as i64,
        ])?;
    }
    let mut upsert = tx.prepare(
        "INSERT INTO grants (item_id, kind, principal_id, level, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (item_id, kind, principal_id) \
         DO UPDATE SET level = excluded.level, authored_at = excluded.authored_at, \
         author = excluded.author, write_id = excluded.write_id",
    )?;
    for ((item, principal), grant) in &changes.grants {
        upsert.execute(params![
            item.as_str(),
            codes::principal_code(principal.kind),
            principal.id.as_str(),
            grant.value.map(codes::level_code),
            grant.stamp.authored_at.as_millis(),
            tx.author(&grant.stamp.author)?,
            grant.stamp.author.write_id.get() as i64,
        ])?;
    }
    let mut upsert = tx.prepare(
        "INSERT INTO moves (child, realm, parent, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (child, realm) DO UPDATE SET \
         parent = excluded.parent, authored_at = excluded.authored_at, \
         author = excluded.author, write_id = excluded.write_id",
    )?;
    for ((child, realm), moved) in &changes.moves {
        upsert.execute(params![
            child.as_str(),
            tx.make_uid(realm)?,
            moved.value.as_str(),
            moved.stamp.authored_at.as_millis(),
            tx.author(&moved.stamp.author)?,
            moved.stamp.author.write_id.get() as i64,
        ])?;
    }
    Ok(())
}

fn accepted(
    tx: &mut SqliteTransaction<'_>,
    rid: i64,
    changes: &Changes,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut insert = tx.prepare(
        "INSERT INTO accepted_ops \
         (rid, write_id, op_id, digest, outcome, authored_at, accepted_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for one in &changes.accepted {
        let (outcome, authored_at) = codes::outcome_code(one.accepted.outcome);
        insert.execute(params![
            rid,
            one.write_id.get() as i64,
            one.accepted.op_id.as_str(),
            one.accepted.digest.as_slice(),
            outcome,
            authored_at,
            now.as_millis(),
        ])?;
    }
    Ok(())
}

pub(super) fn feeds(tx: &mut SqliteTransaction<'_>, feeds: &[FeedWrite]) -> Result<(), StoreError> {
    // A change of what the feed tells already moves its row to the head.
    let mut upsert = tx.prepare(
        "INSERT INTO feed (position, uid, key, changed_at, removal, json, writer) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (uid, key) DO UPDATE SET \
         position = excluded.position, changed_at = excluded.changed_at, \
         removal = excluded.removal, json = excluded.json, writer = excluded.writer, kept = NULL, \
         other = CASE WHEN writer IS excluded.writer THEN other \
         ELSE ifnull(kept, position & 0xFFFFFFFFFF) END",
    )?;
    let mut keep = tx.prepare(
        "INSERT INTO feed (position, uid, key, changed_at, removal, json) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (uid, key) DO UPDATE SET \
         position = excluded.position, changed_at = excluded.changed_at, \
         removal = excluded.removal, json = excluded.json, \
         kept = ifnull(kept, position & 0xFFFFFFFFFF)",
    )?;
    let mut move_head = tx.prepare(
        "INSERT INTO feed_head (uid, epoch, counter, changed_at, writer) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (uid) DO UPDATE SET \
         epoch = excluded.epoch, counter = excluded.counter, changed_at = excluded.changed_at, \
         writer = excluded.writer, \
         other = CASE WHEN writer IS excluded.writer THEN other ELSE counter END",
    )?;
    for feed in feeds {
        let uid = tx.make_uid(&feed.user)?;
        if uid > MAX_UID || feed.head.counter > MAX_COUNTER {
            return Err(StoreError::Failed("SQLite is too small for so long a feed".into()));
        }
        let changed_at = feed.head.changed_at.as_millis();
        for entry in feed.entries() {
            let position = uid << COUNTER_BITS | entry.counter as i64;
            let (key, json) = (entry.key.as_slice(), entry.json.as_str());
            let removal = entry.removal;
            if entry.cause == Cause::Same {
                keep.execute(params![position, uid, key, changed_at, removal, json])?;
            } else {
                let writer = tx.writer(uid, entry.cause.replica())?;
                upsert.execute(params![position, uid, key, changed_at, removal, json, writer])?;
            }
        }
        let epoch = feed.head.epoch.as_u64() as i64;
        if feed.places.begins {
            tx.prepare("INSERT INTO feed_epochs (uid, epoch, first_counter) VALUES (?1, ?2, ?3)")?
                .execute(params![uid, epoch, feed.places.first as i64])?;
            tx.prepare(
                "DELETE FROM feed_epochs WHERE uid = ?1 AND epoch <= (SELECT epoch FROM \
                 feed_epochs WHERE uid = ?1 ORDER BY epoch DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![uid, MAX_EPOCHS as i64])?;
        }
        let writer = tx.writer(uid, Mark::cause_of(&feed.bodies).replica())?;
        move_head.execute(params![uid, epoch, feed.head.counter as i64, changed_at, writer])?;
    }
    Ok(())
}
