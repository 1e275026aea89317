//! Writing what a transaction decided: a statement for each table, the rows in the order of their
//! keys, sent without waiting for one another.

use futures::stream::FuturesUnordered;
use futures::{TryStreamExt as _, try_join};
use vfs_sync_core::id::{ReplicaId, WriteId};
use vfs_sync_core::server::push::{Cause, Changes, Mark};
use vfs_sync_core::stamp::Stamp;

use super::transaction::{PostgresTransaction, texts};
use crate::transaction::{FeedWrite, MAX_EPOCHS, PushWrite};
use crate::trash::{revived, rows_of_push};
use crate::{StoreError, codes};

/// Entries of a feed that a statement writes.
const ENTRIES_AT_ONCE: usize = 8_192;
/// Marks an entry that tells of no change of the thing: its row keeps whose change it tells.
const SAME: i64 = -1;
/// Statements that are sent before the first is answered: the database writes some while the next
/// are made.
const WRITES_IN_FLIGHT: usize = 3;

pub(super) async fn push(
    tx: &mut PostgresTransaction<'_>,
    write: &PushWrite<'_>,
) -> Result<(), StoreError> {
    let Some(last_write_id) = write.changes.last_write_id else { return Ok(()) };
    let changes = write.changes;
    let this: &PostgresTransaction<'_> = tx;
    let (deleted, revived) = (rows_of_push(write), revived(changes));
    let (taken, ..) = try_join!(
        new_items(this, changes),
        replica(this, write, last_write_id),
        old_items(this, changes),
        links(this, changes),
        grants(this, changes),
        moves(this, changes),
        super::access::write(this, changes),
        super::trash::put(this, &deleted),
        super::trash::remove(this, &revived),
        accepted(this, write),
        feeds(this, write.feeds),
    )?;
    if taken { Err(tx.begin_again()) } else { Ok(()) }
}

/// Writes what the server itself changed; it makes no items.
pub(super) async fn changes(
    tx: &PostgresTransaction<'_>,
    changes: &Changes,
    written: &[FeedWrite],
) -> Result<(), StoreError> {
    let revived = revived(changes);
    try_join!(
        old_items(tx, changes),
        links(tx, changes),
        grants(tx, changes),
        moves(tx, changes),
        super::access::write(tx, changes),
        super::trash::remove(tx, &revived),
        feeds(tx, written),
    )?;
    Ok(())
}

/// Writes the new items; `true` if another transaction took one of the ids.
async fn new_items(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<bool, StoreError> {
    if changes.new_items.is_empty() {
        return Ok(false);
    }
    let new = || changes.items.iter().filter(|(id, _)| changes.new_items.contains(*id));
    let ids = texts(new().map(|(id, _)| id));
    let owners = texts(new().map(|(_, item)| &item.owner));
    let created: Vec<i64> = new().map(|(_, item)| item.created_at.as_millis()).collect();
    let fields: Vec<Vec<u8>> = new().map(|(_, item)| item.fields.to_bytes()).collect();
    let written = tx
        .execute(
            "INSERT INTO items (item_id, owner, created_at, fields) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) \
             ON CONFLICT (item_id) DO NOTHING",
            &[&ids, &owners, &created, &fields],
        )
        .await?;
    Ok(written != ids.len() as u64)
}

async fn old_items(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    let old = || changes.items.iter().filter(|(id, _)| !changes.new_items.contains(*id));
    let ids = texts(old().map(|(id, _)| id));
    if ids.is_empty() {
        return Ok(());
    }
    let fields: Vec<Vec<u8>> = old().map(|(_, item)| item.fields.to_bytes()).collect();
    tx.execute(
        "UPDATE items SET fields = v.fields \
         FROM unnest($1::text[], $2::bytea[]) AS v (item_id, fields) \
         WHERE items.item_id = v.item_id",
        &[&ids, &fields],
    )
    .await?;
    Ok(())
}

async fn replica(
    tx: &PostgresTransaction<'_>,
    write: &PushWrite<'_>,
    last_write_id: WriteId,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE replicas SET last_write_id = $3, accepted_from = coalesce(accepted_from, $4) \
         WHERE user_id = $1 AND replica_id = $2",
        &[
            &write.user.as_str(),
            &write.replica.as_str(),
            &(last_write_id.get() as i64),
            &write.now.as_millis(),
        ],
    )
    .await?;
    Ok(())
}

/// The columns of stamps: `authored_at`, `author`, `replica_id`, `write_id`.
type StampColumns = (Vec<i64>, Vec<String>, Vec<String>, Vec<i64>);

fn stamp_columns<'a>(stamps: impl Iterator<Item = &'a Stamp>) -> StampColumns {
    let mut columns = StampColumns::default();
    for stamp in stamps {
        columns.0.push(stamp.authored_at.as_millis());
        columns.1.push(stamp.author.user.as_str().to_owned());
        columns.2.push(stamp.author.replica.as_str().to_owned());
        columns.3.push(stamp.author.write_id.get() as i64);
    }
    columns
}

async fn links(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    if changes.links.is_empty() {
        return Ok(());
    }
    let parents = texts(changes.links.keys().map(|(parent, _)| parent));
    let children = texts(changes.links.keys().map(|(_, child)| child));
    let present: Vec<bool> = changes.links.values().map(|link| link.register.value).collect();
    let in_realm: Vec<bool> = changes.links.values().map(|link| link.in_realm).collect();
    let (at, author, replica, write_id) =
        stamp_columns(changes.links.values().map(|link| &link.register.stamp));
    tx.execute(
        "INSERT INTO links \
         (parent, child, present, in_realm, authored_at, author, replica_id, write_id) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::bool[], $4::bool[], $5::bigint[], \
         $6::text[], $7::text[], $8::bigint[]) ON CONFLICT (parent, child) DO UPDATE SET \
         present = excluded.present, in_realm = excluded.in_realm, \
         authored_at = excluded.authored_at, author = excluded.author, \
         replica_id = excluded.replica_id, write_id = excluded.write_id",
        &[&parents, &children, &present, &in_realm, &at, &author, &replica, &write_id],
    )
    .await?;
    Ok(())
}

async fn grants(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    if changes.grants.is_empty() {
        return Ok(());
    }
    let items = texts(changes.grants.keys().map(|(item, _)| item));
    let kinds: Vec<i64> =
        changes.grants.keys().map(|(_, who)| codes::principal_code(who.kind)).collect();
    let ids = texts(changes.grants.keys().map(|(_, who)| &who.id));
    let levels: Vec<Option<i64>> =
        changes.grants.values().map(|grant| grant.value.map(codes::level_code)).collect();
    let (at, author, replica, write_id) =
        stamp_columns(changes.grants.values().map(|grant| &grant.stamp));
    tx.execute(
        "INSERT INTO grants \
         (item_id, kind, principal_id, level, authored_at, author, replica_id, write_id) \
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], \
         $6::text[], $7::text[], $8::bigint[]) ON CONFLICT (item_id, kind, principal_id) \
         DO UPDATE SET level = excluded.level, authored_at = excluded.authored_at, \
         author = excluded.author, replica_id = excluded.replica_id, write_id = excluded.write_id",
        &[&items, &kinds, &ids, &levels, &at, &author, &replica, &write_id],
    )
    .await?;
    Ok(())
}

async fn moves(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    if changes.moves.is_empty() {
        return Ok(());
    }
    let children = texts(changes.moves.keys().map(|(child, _)| child));
    let realms = texts(changes.moves.keys().map(|(_, realm)| realm));
    let parents = texts(changes.moves.values().map(|moved| &moved.value));
    let (at, author, replica, write_id) =
        stamp_columns(changes.moves.values().map(|moved| &moved.stamp));
    tx.execute(
        "INSERT INTO moves (child, realm, parent, authored_at, author, replica_id, write_id) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], \
         $6::text[], $7::bigint[]) ON CONFLICT (child, realm) DO UPDATE SET \
         parent = excluded.parent, authored_at = excluded.authored_at, \
         author = excluded.author, replica_id = excluded.replica_id, write_id = excluded.write_id",
        &[&children, &realms, &parents, &at, &author, &replica, &write_id],
    )
    .await?;
    Ok(())
}

async fn accepted(tx: &PostgresTransaction<'_>, write: &PushWrite<'_>) -> Result<(), StoreError> {
    let all = &write.changes.accepted;
    let write_ids: Vec<i64> = all.iter().map(|one| one.write_id.get() as i64).collect();
    let op_ids = texts(all.iter().map(|one| &one.accepted.op_id));
    let digests: Vec<&[u8]> = all.iter().map(|one| one.accepted.digest.as_slice()).collect();
    let (outcomes, authored): (Vec<i64>, Vec<Option<i64>>) =
        all.iter().map(|one| codes::outcome_code(one.accepted.outcome)).unzip();
    tx.execute(
        "INSERT INTO accepted_ops \
         (user_id, replica_id, write_id, op_id, digest, outcome, authored_at, accepted_at) \
         SELECT $1, $2, v.write_id, v.op_id, v.digest, v.outcome, v.authored_at, $8 \
         FROM unnest($3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[]) \
         AS v (write_id, op_id, digest, outcome, authored_at)",
        &[
            &write.user.as_str(),
            &write.replica.as_str(),
            &write_ids,
            &op_ids,
            &digests,
            &outcomes,
            &authored,
            &write.now.as_millis(),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn feeds(
    tx: &PostgresTransaction<'_>,
    feeds: &[FeedWrite],
) -> Result<(), StoreError> {
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

/// Writes as many entries of a feed as a statement does, after those that are `skipped`.
async fn entries(
    tx: &PostgresTransaction<'_>,
    feed: &FeedWrite,
    skipped: usize,
) -> Result<(), StoreError> {
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
    // A change of what the feed tells already moves its row to the head.
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
