//! Feeds: heads, pages, epochs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::TryStreamExt as _;
use futures::stream::FuturesUnordered;
use tokio_postgres::Row;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::limits::MAX_PULL_BYTES;
use vfs_sync_core::server::feed_window::{EpochStart, Window};
use vfs_sync_core::server::push::{Cause, Head, Map, Mark, PresentInFeed};
use vfs_sync_core::time::Timestamp;

use crate::backend::page::PageBuilder;
use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::{FeedWrite, Feeds, MAX_EPOCHS};

/// The number of feed entries that one statement writes.
const ENTRIES_AT_ONCE: usize = 8_192;

/// Marks an entry whose subject did not change: its row keeps the mark of the last change.
const SAME: i64 = -1;

/// The number of statements that are sent before the first is answered: the database executes some
/// while the next are built.
const WRITES_IN_FLIGHT: usize = 3;

impl Feeds for PostgresTransaction<'_> {
    async fn head(&mut self, user: &UserId) -> Result<Option<Head>> {
        let row = self
            .query_opt(
                "SELECT user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at, \
                 (SELECT value FROM meta WHERE name = 'epoch') FROM feed_head WHERE user_id = $1",
                &[&user.as_str()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        self.epoch = Some(read_epoch(&row)?);
        Ok(Some(read_head(&row)?.1))
    }

    async fn heads(&mut self, users: &[UserId]) -> Result<Vec<(UserId, Head)>> {
        let rows = self
            .query(
                "SELECT user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at \
                 FROM feed_head WHERE user_id = ANY($1)",
                &[&texts(users)],
            )
            .await?;
        rows.iter().map(read_head).collect()
    }

    async fn feed_state(&mut self, user: &UserId) -> Result<(Option<Head>, bool)> {
        let row = self
            .query_opt(
                "SELECT user_id, epoch, counter, changed_at, pruned_counter, pruned_changed_at, \
                 (SELECT value FROM meta WHERE name = 'epoch'), \
                 EXISTS (SELECT 1 FROM grantees WHERE user_id = $1 AND awaited = 1) \
                 FROM feed_head WHERE user_id = $1",
                &[&user.as_str()],
            )
            .await?;
        let Some(row) = row else { return Ok((None, false)) };
        self.epoch = Some(read_epoch(&row)?);
        Ok((Some(read_head(&row)?.1), row.try_get(7)?))
    }

    async fn begin_feed(&mut self, user: &UserId) -> Result<()> {
        self.execute(
            "INSERT INTO feed_head (user_id, epoch, counter, changed_at) \
             SELECT $1, value, 0, $2 FROM meta WHERE name = 'epoch' ON CONFLICT DO NOTHING",
            &[&user.as_str(), &Timestamp::MIN.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn awaiting_owner(&mut self, user: &UserId) -> Result<Option<UserId>> {
        let row = self
            .query_opt(
                "SELECT owner FROM grantees WHERE user_id = $1 AND awaited = 1 LIMIT 1",
                &[&user.as_str()],
            )
            .await?;
        row.map(|row| Columns { row: &row, table: "grantees", key: user }.parse(0)).transpose()
    }

    async fn withheld_owners(&mut self, user: &UserId, limit: usize) -> Result<Vec<UserId>> {
        let rows = self
            .query(
                "SELECT owner FROM grantees WHERE user_id = $1 AND awaited = 2 \
                 ORDER BY owner LIMIT $2",
                &[&user.as_str(), &(limit as i64)],
            )
            .await?;
        let owner = |row| Columns { row, table: "grantees", key: user }.parse(0);
        rows.iter().map(owner).collect()
    }

    async fn epoch(&mut self) -> Result<Epoch> {
        match self.epoch {
            Some(epoch) => Ok(epoch),
            None => {
                let row =
                    self.query_opt("SELECT value FROM meta WHERE name = 'epoch'", &[]).await?;
                present(row.as_ref())
            }
        }
    }

    async fn begin_epoch(&mut self, now: Timestamp, chance: u16) -> Result<Epoch> {
        // A transaction that read the previous epoch continues in it: no head returns to it
        // afterwards.
        let locked =
            self.query("SELECT value FROM meta WHERE name = 'epoch' FOR UPDATE", &[]).await?;
        let mut before = present(locked.first())?;
        if let Some(seen) = self.served.and_then(|(served, _)| served.latest()) {
            before = before.max(seen);
        }
        let epoch = Epoch::following(before, now, chance);
        let value = epoch.as_u64() as i64;
        self.execute("UPDATE meta SET value = $1 WHERE name = 'epoch'", &[&value]).await?;
        self.begun = Some(epoch);
        Ok(epoch)
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>> {
        let rows = self
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

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>> {
        let by_bytes: HashMap<Vec<u8>, &EntryKey> =
            keys.iter().map(|key| (key.to_bytes(), key)).collect();
        let mut wanted: Vec<&[u8]> = by_bytes.keys().map(Vec::as_slice).collect();
        wanted.sort_unstable();
        let rows = self
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

    async fn present_in_feed(
        &mut self,
        keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
    ) -> Result<PresentInFeed> {
        let mut told = PresentInFeed::new();
        for (user, keys) in keys {
            let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let rows = self
                .query(
                    "SELECT key FROM feed WHERE user_id = $1 AND key = ANY($2) AND NOT removal",
                    &[&user.as_str(), &wanted],
                )
                .await?;
            let present = rows.iter().map(|row| Columns { row, table: "feed", key: user }.get(0));
            told.insert(user.clone(), present.collect::<Result<_, _>>()?);
        }
        Ok(told)
    }

    async fn read_page(&mut self, user: &UserId, window: Window) -> Result<PageBuilder> {
        let counter = |counter: u64| i64::try_from(counter).unwrap_or(i64::MAX);
        // The page ends at its bytes here too, so that no more travels than is answered. The bound
        // is twice the page's: which row is the last is the page's to say, and whether there is
        // more.
        let rows = self
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
        Ok(page)
    }
}

/// Reads the epoch of the database from a row that has it after the head's columns.
pub(super) fn read_epoch(row: &Row) -> Result<Epoch> {
    Columns { row, table: "meta", key: "epoch" }.code(6, stored_epoch)
}

pub(super) fn read_head(row: &Row) -> Result<(UserId, Head)> {
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

/// Reads the mark of a change at `change` from the columns `writer` and `other`, which begin at
/// `first`.
pub(super) fn mark<K: std::fmt::Display>(
    columns: &Columns<'_, K>,
    first: usize,
    change: u64,
) -> Result<Mark> {
    let replica = match columns.get::<Option<&str>>(first)? {
        None => None,
        Some(_) => Some(columns.parse(first)?),
    };
    let other = columns.get::<Option<i64>>(first + 1)?;
    let other = other.and_then(|other| u64::try_from(other).ok()).unwrap_or(0);
    Ok(Mark { replica, change, other })
}

pub(in crate::postgres) fn stored_epoch(value: i64) -> Option<Epoch> {
    u64::try_from(value).ok().and_then(Epoch::from_u64)
}

fn present(row: Option<&Row>) -> Result<Epoch> {
    let row = row.ok_or_else(|| encoding::malformed("meta", "epoch", "is missing"))?;
    Columns { row, table: "meta", key: "epoch" }.code(0, stored_epoch)
}

pub(super) async fn write(tx: &PostgresTransaction<'_>, feeds: &[FeedWrite]) -> Result<()> {
    for feed in feeds {
        let mut in_flight = FuturesUnordered::new();
        for skipped in (0..feed.bodies.len()).step_by(ENTRIES_AT_ONCE) {
            in_flight.push(entries(tx, feed, skipped));
            if in_flight.len() == WRITES_IN_FLIGHT {
                in_flight.try_next().await?;
            }
        }
        in_flight.try_collect::<()>().await?;
        let cause = Mark::cause_of(&feed.bodies);
        let epoch = feed.head.epoch.as_u64() as i64;
        tx.execute(
            "UPDATE feed_head SET counter = $2, changed_at = $3, writer = $4, \
             other = CASE WHEN writer IS NOT DISTINCT FROM $4 THEN other ELSE counter END, \
             epoch = $5 WHERE user_id = $1",
            &[
                &feed.user.as_str(),
                &(feed.head.counter as i64),
                &feed.head.changed_at.as_millis(),
                &cause.replica().map(ReplicaId::as_str),
                &epoch,
            ],
        )
        .await?;
        if feed.places.begins {
            tx.execute(
                "INSERT INTO feed_epochs (user_id, epoch, first_counter) VALUES ($1, $2, $3)",
                &[&feed.user.as_str(), &epoch, &(feed.places.first as i64)],
            )
            .await?;
            tx.execute(
                "DELETE FROM feed_epochs WHERE user_id = $1 AND epoch <= (SELECT epoch FROM \
                 feed_epochs WHERE user_id = $1 ORDER BY epoch DESC LIMIT 1 OFFSET $2)",
                &[&feed.user.as_str(), &(MAX_EPOCHS as i64)],
            )
            .await?;
        }
    }
    Ok(())
}

/// Writes as many entries of a feed as one statement takes, after the first `skipped`.
async fn entries(tx: &PostgresTransaction<'_>, feed: &FeedWrite, skipped: usize) -> Result<()> {
    let (mut counters, mut keys, mut removals, mut json) =
        <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    let (mut writers, mut others) = <(Vec<Option<String>>, Vec<Option<i64>>)>::default();
    for entry in feed.entries_from(skipped).take(ENTRIES_AT_ONCE) {
        counters.push(entry.counter as i64);
        keys.push(entry.key);
        removals.push(entry.removal);
        writers.push(entry.cause.replica().map(ToString::to_string));
        others.push((entry.cause == Cause::Same).then_some(SAME));
        json.push(entry.json);
    }
    let (user, changed_at) = (feed.user.as_str(), feed.head.changed_at.as_millis());
    // A change of a subject that the feed already has moves its row to the head.
    tx.execute(
        "INSERT INTO feed (user_id, changed_at, counter, key, removal, json, writer, other) \
         SELECT $1, $2, v.counter, v.key, v.removal, v.json, v.writer, v.other \
         FROM unnest($3::bigint[], $4::bytea[], $5::bool[], $6::text[], $7::text[], $8::bigint[]) \
         AS v (counter, key, removal, json, writer, other) \
         ON CONFLICT (user_id, key) DO UPDATE SET \
         counter = excluded.counter, changed_at = excluded.changed_at, \
         removal = excluded.removal, json = excluded.json, \
         writer = CASE WHEN excluded.other < 0 THEN feed.writer ELSE excluded.writer END, \
         kept = CASE WHEN excluded.other < 0 THEN coalesce(feed.kept, feed.counter) END, \
         other = CASE WHEN excluded.other < 0 \
         OR feed.writer IS NOT DISTINCT FROM excluded.writer THEN feed.other \
         ELSE coalesce(feed.kept, feed.counter) END",
        &[&user, &changed_at, &counters, &keys, &removals, &json, &writers, &others],
    )
    .await?;
    Ok(())
}
