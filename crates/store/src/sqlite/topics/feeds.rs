//! Feeds: heads, pages, epochs.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::feed_window::{EpochStart, Window};
use vfs_sync_core::server::push::{Cause, Head, Map, Mark, PresentInFeed, Set, Tail};
use vfs_sync_core::time::Timestamp;

use crate::backend::page::PageBuilder;
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::moves::moved_by;
use crate::sqlite::conflicts::Lock;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{FeedWrite, Feeds, MAX_EPOCHS};

/// The bits of the counter in a row's position in the table; the user's number is above them.
pub(super) const COUNTER_BITS: u32 = 40;

pub(super) const MAX_COUNTER: u64 = (1 << COUNTER_BITS) - 1;

pub(super) const MAX_UID: i64 = (1 << (63 - COUNTER_BITS)) - 1;

impl Feeds for SqliteTransaction<'_> {
    async fn head(&mut self, user: &UserId) -> Result<Option<Head>> {
        let Some(uid) = self.uid(user)? else { return Ok(None) };
        let mut select = self.prepare(
            "SELECT epoch, counter, changed_at, pruned_counter, pruned_changed_at FROM feed_head \
             WHERE uid = ?1",
        )?;
        let mut rows = select.query([uid])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "feed_head", key: user };
        let pruned = match columns.optional_integer(3)? {
            None => None,
            Some(_) => Some((columns.unsigned(3)?, columns.time(4)?)),
        };
        Ok(Some(Head {
            epoch: columns.code(0, stored_epoch)?,
            counter: columns.unsigned(1)?,
            changed_at: columns.time(2)?,
            pruned,
        }))
    }

    async fn heads(&mut self, users: &[UserId]) -> Result<Vec<(UserId, Head)>> {
        let mut heads = Vec::with_capacity(users.len());
        for user in users {
            heads.extend(self.head(user).await?.map(|head| (user.clone(), head)));
        }
        Ok(heads)
    }

    async fn feed_state(&mut self, user: &UserId) -> Result<(Option<Head>, bool)> {
        let head = self.head(user).await?;
        let awaits_call = head.is_some() && self.awaiting_owner(user).await?.is_some();
        Ok((head, awaits_call))
    }

    async fn begin_feed(&mut self, user: &UserId) -> Result<()> {
        if self.head(user).await?.is_some() {
            return Ok(());
        }
        self.locks.own.push(Lock::Head(user.clone()));
        let epoch = self.epoch().await?.as_u64() as i64;
        let uid = self.make_uid(user)?;
        if uid > MAX_UID {
            return Err(StoreError::Failed("SQLite has no number for another user".into()));
        }
        self.prepare(
            "INSERT INTO feed_head (uid, epoch, counter, changed_at) VALUES (?1, ?2, 0, ?3)",
        )?
        .execute(params![uid, epoch, Timestamp::MIN.as_millis()])?;
        Ok(())
    }

    async fn awaiting_owner(&mut self, user: &UserId) -> Result<Option<UserId>> {
        let mut select = self.prepare(
            "SELECT r.user_id FROM grantees g JOIN realms r ON r.uid = g.owner \
             WHERE g.user_id = ?1 AND g.awaited = 1 LIMIT 1",
        )?;
        let mut rows = select.query([user.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Columns { row, table: "realms", key: user }.parse(0).map(Some)
    }

    async fn withheld_owners(&mut self, user: &UserId, limit: usize) -> Result<Vec<UserId>> {
        let mut select = self.prepare(
            "SELECT r.user_id FROM grantees g JOIN realms r ON r.uid = g.owner \
             WHERE g.user_id = ?1 AND g.awaited = 2 ORDER BY g.owner LIMIT ?2",
        )?;
        let mut rows = select.query(params![user.as_str(), limit as i64])?;
        let mut owners = Vec::new();
        while let Some(row) = rows.next()? {
            owners.push(Columns { row, table: "realms", key: user }.parse(0)?);
        }
        owners.sort_unstable();
        Ok(owners)
    }

    async fn epoch(&mut self) -> Result<Epoch> {
        let mut select = self.prepare("SELECT value FROM meta WHERE name = 'epoch'")?;
        let mut rows = select.query([])?;
        let Some(row) = rows.next()? else {
            return Err(encoding::malformed("meta", "epoch", "is missing"));
        };
        Columns { row, table: "meta", key: "epoch" }.code(0, stored_epoch)
    }

    async fn begin_epoch(&mut self, now: Timestamp, chance: u16) -> Result<Epoch> {
        let epoch = Epoch::following(self.epoch().await?, now, chance);
        let value = epoch.as_u64() as i64;
        self.locks.everything = true;
        self.prepare("UPDATE meta SET value = ?1 WHERE name = 'epoch'")?.execute([value])?;
        Ok(epoch)
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT epoch, first_counter FROM feed_epochs WHERE uid = ?1 \
             ORDER BY epoch DESC LIMIT ?2",
        )?;
        let mut rows = select.query(params![uid, MAX_EPOCHS as i64])?;
        let mut starts = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "feed_epochs", key: user };
            let epoch = columns.code(0, stored_epoch)?;
            starts.push(EpochStart { epoch, first: columns.unsigned(1)? });
        }
        starts.reverse();
        Ok(starts)
    }

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>> {
        let mut found = Map::default();
        let Some(uid) = self.uid(user)? else { return Ok(found) };
        let mut select = self.prepare(
            "SELECT writer, other, ifnull(kept, position & 0xFFFFFFFFFF) FROM feed \
             WHERE uid = ?1 AND key = ?2 AND removal = 0",
        )?;
        for key in keys {
            let mut rows = select.query(params![uid, key.to_bytes()])?;
            if let Some(row) = rows.next()? {
                let columns = Columns { row, table: "feed", key: user };
                let mark = mark(self, &columns, columns.unsigned(2)?)?;
                found.insert(key.clone(), Some(mark));
            }
        }
        Ok(found)
    }

    async fn present_in_feed(
        &mut self,
        keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
    ) -> Result<PresentInFeed> {
        let mut told = PresentInFeed::new();
        let mut select =
            self.prepare("SELECT 1 FROM feed WHERE uid = ?1 AND key = ?2 AND removal = 0")?;
        for (user, keys) in keys {
            let Some(uid) = self.uid(user)? else { continue };
            let mut present = Set::default();
            for key in keys {
                if select.exists(params![uid, key])? {
                    present.insert(key.clone());
                }
            }
            told.insert(user.clone(), present);
        }
        Ok(told)
    }

    async fn read_page(&mut self, user: &UserId, window: Window) -> Result<PageBuilder> {
        let Some(uid) = self.uid(user)? else {
            return Err(encoding::malformed("feed_head", user, "is of an unknown user"));
        };
        let first = uid << COUNTER_BITS;
        let position = |counter: u64| first | counter.min(MAX_COUNTER) as i64;
        let mut select = self.prepare(
            "SELECT position, changed_at, json FROM feed WHERE position > ?1 AND position <= ?2 \
             AND NOT (removal = 1 AND position <= ?3) ORDER BY position LIMIT ?4",
        )?;
        let mut rows = select.query(params![
            position(window.after),
            position(MAX_COUNTER),
            position(window.skip_removals_to),
            window.rows() as i64,
        ])?;
        let mut page = PageBuilder::new(window);
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_i64().unwrap_or(0) & MAX_COUNTER as i64;
            let columns = Columns { row, table: "feed", key: format_args!("{user} {key}") };
            if !page.add(key as u64, columns.time(1)?, columns.text(2)?) {
                break;
            }
        }
        Ok(page)
    }
}

/// Returns the end of a user's feed, whose head is `head`.
pub(super) fn tail(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    head: &Head,
) -> Result<Option<Tail>> {
    let Some(uid) = tx.uid(user)? else { return Ok(None) };
    let mut select = tx.prepare("SELECT writer, other FROM feed_head WHERE uid = ?1")?;
    let mut rows = select.query([uid])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns { row, table: "feed_head", key: user };
    let mark = mark(tx, &columns, head.counter)?;
    Ok(Some(Tail { history: vec![(head.epoch, head.counter)], mark }))
}

/// Reads the mark of a change at `change` from the columns `writer` and `other`.
fn mark<K: std::fmt::Display>(
    tx: &mut SqliteTransaction<'_>,
    columns: &Columns<'_, '_, K>,
    change: u64,
) -> Result<Mark> {
    let replica = match columns.optional_integer(0)? {
        None => None,
        Some(wid) => Some(tx.writer_name(wid, columns)?),
    };
    let other = match columns.optional_integer(1)? {
        None => 0,
        Some(_) => columns.unsigned(1)?,
    };
    Ok(Mark { replica, change, other })
}

fn stored_epoch(value: i64) -> Option<Epoch> {
    u64::try_from(value).ok().and_then(Epoch::from_u64)
}

pub(super) fn write(tx: &mut SqliteTransaction<'_>, feeds: &[FeedWrite]) -> Result<()> {
    tx.moved.extend(moved_by(feeds));
    // A change of a subject that the feed already has moves its row to the head.
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
