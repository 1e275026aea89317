//! Feeds: heads, pages, epochs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Row;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::UserId;
use vfs_sync_core::limits::MAX_PULL_BYTES;
use vfs_sync_core::server::feed_window::EpochStart;
use vfs_sync_core::server::push::{Head, Map, Mark};
use vfs_sync_core::time::Timestamp;

use super::rows::Columns;
use super::transaction::{PostgresTransaction, texts};
use crate::page::{PageBuilder, Window};
use crate::transaction::{MAX_EPOCHS, Transaction as _};
use crate::{PullAnswer, PullRequest, StoreError, codes, flow};

/// The user's head, and the epoch that was read with it.
pub(super) async fn head(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
) -> Result<Option<(Head, Epoch)>, StoreError> {
    let row = tx
        .query_opt(
            "SELECT user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at, \
             (SELECT value FROM meta WHERE name = 'epoch') FROM feed_head WHERE user_id = $1",
            &[&user.as_str()],
        )
        .await?;
    row.map(|row| Ok((read_head(&row)?.1, read_epoch(&row)?))).transpose()
}

/// The epoch of the database that a row has behind its head.
fn read_epoch(row: &Row) -> Result<Epoch, StoreError> {
    Columns { row, table: "meta", key: "epoch" }.code(6, stored_epoch)
}

pub(super) fn read_head(row: &Row) -> Result<(UserId, Head), StoreError> {
    let user: UserId = Columns { row, table: "feed_head", key: "?" }.parse(0)?;
    let columns = Columns { row, table: "feed_head", key: &user };
    let pruned = match columns.get::<Option<i64>>(4)? {
        None => None,
        Some(_) => Some((columns.unsigned(4)?, columns.time(5)?)),
    };
    let head = Head {
        epoch: columns.code(1, stored_epoch)?,
        counter: columns.unsigned(2)?,
        changed_at: columns.time(3)?,
        pruned,
    };
    Ok((user.clone(), head))
}

/// The mark in the columns `writer` and `other`, which begin at `first`, of a change at `change`.
pub(super) fn mark<K: std::fmt::Display>(
    columns: &Columns<'_, K>,
    first: usize,
    change: u64,
) -> Result<Mark, StoreError> {
    let replica = match columns.get::<Option<&str>>(first)? {
        None => None,
        Some(_) => Some(columns.parse(first)?),
    };
    let other = columns.get::<Option<i64>>(first + 1)?;
    let other = other.and_then(|other| u64::try_from(other).ok()).unwrap_or(0);
    Ok(Mark { replica, change, other })
}

pub(super) async fn marks(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    keys: &BTreeSet<EntryKey>,
) -> Result<Map<EntryKey, Option<Mark>>, StoreError> {
    let by_bytes: HashMap<Vec<u8>, &EntryKey> =
        keys.iter().map(|key| (key.to_bytes(), key)).collect();
    let mut wanted: Vec<&[u8]> = by_bytes.keys().map(Vec::as_slice).collect();
    wanted.sort_unstable();
    let rows = tx
        .query(
            "SELECT key, coalesce(kept, counter), writer, other FROM feed \
             WHERE user_id = $1 AND key = ANY($2) AND NOT removal",
            &[&user.as_str(), &wanted],
        )
        .await?;
    let mut found = Map::default();
    for row in &rows {
        let columns = Columns { row, table: "feed", key: user };
        let mark = mark(&columns, 2, columns.unsigned(1)?)?;
        if let Some(key) = by_bytes.get(columns.get::<&[u8]>(0)?) {
            found.insert((*key).clone(), Some(mark));
        }
    }
    Ok(found)
}

pub(super) fn stored_epoch(value: i64) -> Option<Epoch> {
    u64::try_from(value).ok().and_then(Epoch::from_u64)
}

pub(super) async fn epoch(tx: &PostgresTransaction<'_>) -> Result<Epoch, StoreError> {
    let row = tx.query_opt("SELECT value FROM meta WHERE name = 'epoch'", &[]).await?;
    present(row.as_ref())
}

fn present(row: Option<&Row>) -> Result<Epoch, StoreError> {
    let row = row.ok_or_else(|| codes::malformed("meta", "epoch", "is missing"))?;
    Columns { row, table: "meta", key: "epoch" }.code(0, stored_epoch)
}

pub(super) async fn epoch_starts(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
) -> Result<Vec<EpochStart>, StoreError> {
    let rows = tx
        .query(
            "SELECT epoch, first_counter FROM feed_epochs WHERE user_id = $1 \
             ORDER BY epoch DESC LIMIT $2",
            &[&user.as_str(), &(MAX_EPOCHS as i64)],
        )
        .await?;
    let start = |row| {
        let columns = Columns { row, table: "feed_epochs", key: user };
        let epoch = columns.code(0, stored_epoch)?;
        Ok(EpochStart { epoch, first: columns.unsigned(1)? })
    };
    rows.iter().rev().map(start).collect()
}

/// Locks the heads, and gives the epoch that was read with them.
pub(super) async fn lock_heads(
    tx: &PostgresTransaction<'_>,
    users: &BTreeSet<UserId>,
    now: Timestamp,
) -> Result<(BTreeMap<UserId, Head>, Option<Epoch>), StoreError> {
    let rows = tx
        .query(
            "INSERT INTO feed_head (user_id, epoch, counter, changed_at) \
             SELECT id, (SELECT value FROM meta WHERE name = 'epoch'), 0, $2 \
             FROM unnest($1::text[]) AS id ORDER BY id COLLATE \"C\" \
             ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id \
             RETURNING user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at, \
             (SELECT value FROM meta WHERE name = 'epoch')",
            &[&texts(users), &now.as_millis()],
        )
        .await?;
    let present = rows.first().map(read_epoch).transpose()?;
    Ok((rows.iter().map(read_head).collect::<Result<_, _>>()?, present))
}

pub(super) async fn new_epoch(
    tx: &mut PostgresTransaction<'_>,
    now: Timestamp,
    chance: u16,
) -> Result<Epoch, StoreError> {
    // A transaction that read the epoch before goes on in it: no head goes back to it.
    let locked = tx.query("SELECT value FROM meta WHERE name = 'epoch' FOR UPDATE", &[]).await?;
    let mut before = present(locked.first())?;
    if let Some(seen) = tx.served().and_then(|(served, _)| served.latest()) {
        before = before.max(seen);
    }
    let epoch = Epoch::following(before, now, chance);
    let value = epoch.as_u64() as i64;
    tx.execute("UPDATE meta SET value = $1 WHERE name = 'epoch'", &[&value]).await?;
    Ok(epoch)
}

pub(super) async fn pull(
    tx: &mut PostgresTransaction<'_>,
    user: &UserId,
    request: &PullRequest,
) -> Result<PullAnswer, StoreError> {
    let history = flow::history_for(tx, user, request).await?;
    let write_ids = flow::write_id_map(tx, user, request.client_id.as_ref()).await?;
    let epoch = tx.epoch().await?;
    let window = match Window::of(request, history, epoch, &write_ids) {
        Ok(window) => window,
        Err(answer) => return Ok(answer),
    };
    let counter = |counter: u64| i64::try_from(counter).unwrap_or(i64::MAX);
    // The page ends at its bytes here too, so that no more travels than is answered. The bound
    // is twice the page's: which row is the last is the page's to say, and whether there is more.
    let rows = tx
        .query(
            "SELECT counter, changed_at, json FROM ( \
                 SELECT counter, changed_at, json, \
                 sum(octet_length(json)) OVER (ORDER BY counter) - octet_length(json) AS before \
                 FROM (SELECT counter, changed_at, json FROM feed \
                     WHERE user_id = $1 AND counter > $2 AND NOT (removal AND counter <= $3) \
                     ORDER BY counter LIMIT $4) AS page \
             ) AS measured WHERE before < $5 ORDER BY counter",
            &[
                &user.as_str(),
                &counter(window.after),
                &counter(window.skip_removals_to),
                &(window.rows() as i64),
                &(2 * MAX_PULL_BYTES as i64),
            ],
        )
        .await?;
    let mut page = PageBuilder::new(window);
    for row in &rows {
        let columns = Columns { row, table: "feed", key: user };
        if !page.add(columns.unsigned(0)?, columns.time(1)?, columns.get(2)?) {
            break;
        }
    }
    Ok(PullAnswer::Page(page.finish(write_ids)))
}
