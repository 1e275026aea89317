//! Feeds: heads, pages, epochs.

use std::collections::BTreeSet;

use futures::executor::block_on;
use rusqlite::params;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::feed_window::EpochStart;
use vfs_sync_core::server::push::{Head, Map, Mark, Tail};
use vfs_sync_core::time::Timestamp;

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::page::{PageBuilder, Window};
use crate::transaction::MAX_EPOCHS;
use crate::{PullAnswer, PullRequest, StoreError, codes, flow};

/// A row's position in the table is its user's number above so many bits of counter.
pub(super) const COUNTER_BITS: u32 = 40;
pub(super) const MAX_COUNTER: u64 = (1 << COUNTER_BITS) - 1;
pub(super) const MAX_UID: i64 = (1 << (63 - COUNTER_BITS)) - 1;

pub(super) fn head(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
) -> Result<Option<Head>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(None) };
    let mut select = tx.prepare(
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

/// The end of a user's feed, whose head is `head`.
pub(super) fn tail(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    head: &Head,
) -> Result<Option<Tail>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(None) };
    let mut select = tx.prepare("SELECT writer, other FROM feed_head WHERE uid = ?1")?;
    let mut rows = select.query([uid])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns { row, table: "feed_head", key: user };
    let mark = mark(tx, &columns, head.counter)?;
    Ok(Some(Tail { history: vec![(head.epoch, head.counter)], mark }))
}

/// The mark in the columns `writer` and `other`, of a change at `change`.
fn mark<K: std::fmt::Display>(
    tx: &mut SqliteTransaction<'_>,
    columns: &Columns<'_, '_, K>,
    change: u64,
) -> Result<Mark, StoreError> {
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

pub(super) fn marks(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    keys: &BTreeSet<EntryKey>,
) -> Result<Map<EntryKey, Option<Mark>>, StoreError> {
    let mut found = Map::default();
    let Some(uid) = tx.uid(user)? else { return Ok(found) };
    let mut select = tx.prepare(
        "SELECT writer, other, ifnull(kept, position & 0xFFFFFFFFFF) FROM feed \
         WHERE uid = ?1 AND key = ?2 AND removal = 0",
    )?;
    for key in keys {
        let mut rows = select.query(params![uid, key.to_bytes()])?;
        if let Some(row) = rows.next()? {
            let columns = Columns { row, table: "feed", key: user };
            let mark = mark(tx, &columns, columns.unsigned(2)?)?;
            found.insert(key.clone(), Some(mark));
        }
    }
    Ok(found)
}

fn stored_epoch(value: i64) -> Option<Epoch> {
    u64::try_from(value).ok().and_then(Epoch::from_u64)
}

pub(super) fn epoch(tx: &mut SqliteTransaction<'_>) -> Result<Epoch, StoreError> {
    let mut select = tx.prepare("SELECT value FROM meta WHERE name = 'epoch'")?;
    let mut rows = select.query([])?;
    let Some(row) = rows.next()? else {
        return Err(codes::malformed("meta", "epoch", "is missing"));
    };
    Columns { row, table: "meta", key: "epoch" }.code(0, stored_epoch)
}

pub(super) fn epoch_starts(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
) -> Result<Vec<EpochStart>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(Vec::new()) };
    let mut select = tx.prepare(
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

pub(super) fn new_epoch(
    tx: &mut SqliteTransaction<'_>,
    now: Timestamp,
    chance: u16,
) -> Result<Epoch, StoreError> {
    let epoch = Epoch::following(epoch(tx)?, now, chance);
    let value = epoch.as_u64() as i64;
    tx.locks.everything = true;
    tx.prepare("UPDATE meta SET value = ?1 WHERE name = 'epoch'")?.execute([value])?;
    Ok(epoch)
}

pub(super) fn pull(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    request: &PullRequest,
) -> Result<PullAnswer, StoreError> {
    let history = block_on(flow::history_for(tx, user, request))?;
    let write_ids = block_on(flow::write_id_map(tx, user, request.client_id.as_ref()))?;
    let window = match Window::of(request, history, epoch(tx)?, &write_ids) {
        Ok(window) => window,
        Err(answer) => return Ok(answer),
    };
    let Some(uid) = tx.uid(user)? else {
        return Err(codes::malformed("feed_head", user, "is of an unknown user"));
    };
    let first = uid << COUNTER_BITS;
    let position = |counter: u64| first | counter.min(MAX_COUNTER) as i64;
    let mut select = tx.prepare(
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
    Ok(PullAnswer::Page(page.finish(write_ids)))
}
