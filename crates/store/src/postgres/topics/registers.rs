//! Registers: loaded by one statement for each kind of row, whatever the size of the batch; written
//! by one statement for each table, with the rows in the order of their keys, all sent at once.

use std::collections::BTreeSet;

use futures::try_join;
use tokio_postgres::Row;
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, UserId, WriteId};
use vfs_sync_core::limits::MAX_ITEM_GRANTS_EVER;
use vfs_sync_core::register::{Item, ItemFields, Register};
use vfs_sync_core::server::push::{Changes, GrantCounts, Link, LinkKey, Map, Needs, Rows};
use vfs_sync_core::stamp::Stamp;

use super::{feeds, members, trash, versions};
use crate::command::trash::{revived, rows_of_push};
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::{Cleared, FeedWrite, PushWrite, Registers};

impl Registers for PostgresTransaction<'_> {
    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<()> {
        self.limit.count(needs.items.len() + needs.around.len())?;
        load_needs(self, needs, found).await?;
        self.limit.count(found.links.len())?;
        members::load(self, needs, found).await
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<()> {
        let Some(last_write_id) = write.changes.last_write_id else { return Ok(()) };
        let changes = write.changes;
        self.note_written(write.feeds);
        let this: &PostgresTransaction<'_> = self;
        let (deleted, revived) = (rows_of_push(write), revived(changes));
        let (taken, ..) = try_join!(
            new_items(this, changes),
            replica(this, write, last_write_id),
            old_items(this, changes),
            write_links(this, changes),
            write_grants(this, changes),
            write_moves(this, changes),
            members::write_access(this, changes),
            members::write_grantees(this, changes),
            members::write_usage(this, changes),
            trash::put(this, &deleted),
            trash::remove(this, &revived),
            accepted(this, write),
            feeds::write(this, write.feeds),
        )?;
        if taken { Err(StoreError::Conflict) } else { Ok(()) }
    }

    async fn write_changes(&mut self, changes: &Changes, feeds: &[FeedWrite]) -> Result<()> {
        self.note_written(feeds);
        let this: &PostgresTransaction<'_> = self;
        let revived = revived(changes);
        try_join!(
            old_items(this, changes),
            write_links(this, changes),
            write_grants(this, changes),
            write_moves(this, changes),
            members::write_access(this, changes),
            members::write_grantees(this, changes),
            members::write_usage(this, changes),
            trash::remove(this, &revived),
            feeds::write(this, feeds),
        )?;
        Ok(())
    }

    async fn granted_to(&mut self, principal: &Principal) -> Result<BTreeSet<ItemId>> {
        let rows = self
            .query(
                "SELECT item_id FROM grants \
                 WHERE kind = $1 AND principal_id = $2 AND level IS NOT NULL",
                &[&encoding::principal_code(principal.kind), &principal.id.as_str()],
            )
            .await?;
        rows.iter()
            .map(|row| Columns { row, table: "grants", key: &principal.id }.parse(0))
            .collect()
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>)> {
        let (mut users, mut items) = (BTreeSet::new(), BTreeSet::new());
        let sql = "SELECT item_id, kind, principal_id FROM grants WHERE level IS NOT NULL";
        for row in &self.query(sql, &[]).await? {
            let columns = Columns { row, table: "grants", key: "?" };
            items.insert(columns.parse(0)?);
            let principal =
                Principal { kind: columns.code(1, encoding::principal)?, id: columns.parse(2)? };
            users.extend(principal.user());
        }
        for row in &self.query("SELECT user_id FROM members", &[]).await? {
            users.insert(Columns { row, table: "members", key: "?" }.parse(0)?);
        }
        Ok((users, items))
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<Cleared> {
        let mut left = at_most;
        for sql in [
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE parent = $1 LIMIT $2)",
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE child = $1 AND in_realm LIMIT $2)",
        ] {
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            left -= self.execute(sql, &[&item.as_str(), &limit]).await?;
        }
        let links = at_most - left;
        for sql in [
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE child = $1 LIMIT $2)",
            "DELETE FROM moves WHERE (child, realm) IN \
             (SELECT child, realm FROM moves WHERE child = $1 LIMIT $2)",
            "DELETE FROM access WHERE (item_id, user_id) IN \
             (SELECT item_id, user_id FROM access WHERE item_id = $1 LIMIT $2)",
        ] {
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            left -= self.execute(sql, &[&item.as_str(), &limit]).await?;
        }
        let grants = clear_grants(self, item, left).await?;
        Ok(Cleared { rows: at_most - left + grants, links, grants })
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<()> {
        self.execute("DELETE FROM items WHERE item_id = ANY($1)", &[&texts(items)]).await?;
        trash::remove(self, &items.iter().collect::<Vec<_>>()).await
    }
}

/// Removes grants of an item, at most `at_most`; gives how many.
async fn clear_grants(tx: &PostgresTransaction<'_>, item: &ItemId, at_most: u64) -> Result<u64> {
    let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
    let rows = tx
        .query(
            "DELETE FROM grants WHERE (item_id, kind, principal_id) IN \
             (SELECT item_id, kind, principal_id FROM grants WHERE item_id = $1 LIMIT $2) \
             RETURNING kind, principal_id, level, \
             (SELECT owner FROM items WHERE item_id = $1)",
            &[&item.as_str(), &limit],
        )
        .await?;
    let mut changes = Changes::default();
    for row in &rows {
        let columns = Columns { row, table: "grants", key: item };
        let principal =
            Principal { kind: columns.code(0, encoding::principal)?, id: columns.parse(1)? };
        let (level, owner) = (columns.get::<Option<i64>>(2)?, columns.get::<Option<&str>>(3)?);
        if let (Some(user), Some(_), Some(_)) = (principal.user(), level, owner) {
            *changes.user_grants.entry((columns.parse(3)?, user)).or_default() -= 1;
        }
    }
    members::write_grantees(tx, &changes).await?;
    Ok(rows.len() as u64)
}

pub(super) async fn items(
    tx: &PostgresTransaction<'_>,
    ids: &[String],
    found: &mut Map<ItemId, Option<Item>>,
) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = tx
        .query(
            "SELECT item_id, owner, created_at, fields FROM items WHERE item_id = ANY($1)",
            &[&ids],
        )
        .await?;
    for row in &rows {
        let id: ItemId = Columns { row, table: "items", key: "?" }.parse(0)?;
        let columns = Columns { row, table: "items", key: &id };
        let fields =
            ItemFields::from_bytes(columns.get(3)?).map_err(|error| columns.malformed(error))?;
        let item = Item { owner: columns.parse(1)?, created_at: columns.time(2)?, fields };
        found.insert(id, Some(item));
    }
    Ok(())
}

pub(super) async fn load_needs(
    tx: &PostgresTransaction<'_>,
    needs: &Needs,
    rows: &mut Rows,
) -> Result<()> {
    items(tx, &texts(&needs.items), &mut rows.items).await?;
    let (links, grants, moves) =
        try_join!(load_links(tx, needs), load_grants(tx, needs), load_moves(tx, needs))?;
    count_grants(tx, needs, rows).await?;
    for row in &links {
        let (key, link) = link(row)?;
        rows.links.insert(key, Some(link));
    }
    for row in &grants {
        let (item, principal, register) = grant(row)?;
        rows.grants.insert((item, principal), Some(register));
    }
    for row in &moves {
        let columns = Columns { row, table: "moves", key: "?" };
        let key = (columns.parse(0)?, columns.parse(1)?);
        let columns = Columns { row, table: "moves", key: &key.0 };
        let register = Register { value: columns.parse(2)?, stamp: columns.stamp(3)? };
        rows.moves.insert(key, Some(register));
    }
    if !needs.around.is_empty() {
        for item in &needs.around {
            rows.attachments.entry(item.clone()).or_default();
        }
        for attachment in versions::current(tx, &texts(&needs.around)).await? {
            rows.attachments.entry(attachment.item_id.clone()).or_default().push(attachment);
        }
    }
    Ok(())
}

async fn load_links(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    if !needs.links.is_empty() {
        let parents = texts(needs.links.iter().map(|(parent, _)| parent));
        let children = texts(needs.links.iter().map(|(_, child)| child));
        let sql = "SELECT l.parent, l.child, l.present, l.in_realm, \
                   l.authored_at, l.author, l.replica_id, l.write_id \
                   FROM unnest($1::text[], $2::text[]) AS k (parent, child) \
                   JOIN links l ON l.parent = k.parent AND l.child = k.child";
        found.extend(tx.query(sql, &[&parents, &children]).await?);
    }
    if !needs.around.is_empty() {
        let around = texts(&needs.around);
        for sql in [
            "SELECT parent, child, present, in_realm, authored_at, author, replica_id, write_id \
             FROM links WHERE parent = ANY($1) AND present",
            "SELECT parent, child, present, in_realm, authored_at, author, replica_id, write_id \
             FROM links WHERE child = ANY($1) AND present",
        ] {
            found.extend(tx.query(sql, &[&around]).await?);
        }
    }
    if !needs.ancestors.is_empty() {
        let sql = "WITH RECURSIVE up (id) AS ( \
                       SELECT id COLLATE \"C\" FROM unnest($1::text[]) AS id \
                       UNION SELECT l.parent FROM up JOIN links l ON l.child = up.id \
                       WHERE l.present AND l.in_realm \
                   ) SELECT l.parent, l.child, l.present, l.in_realm, \
                   l.authored_at, l.author, l.replica_id, l.write_id \
                   FROM up JOIN links l ON l.child = up.id WHERE l.present AND l.in_realm";
        found.extend(tx.query(sql, &[&texts(&needs.ancestors)]).await?);
    }
    Ok(found)
}

fn link(row: &Row) -> Result<(LinkKey, Link)> {
    let columns = Columns { row, table: "links", key: "?" };
    let key: LinkKey = (columns.parse(0)?, columns.parse(1)?);
    let columns = Columns { row, table: "links", key: format_args!("{} -> {}", key.0, key.1) };
    let register = Register { value: columns.get(2)?, stamp: columns.stamp(4)? };
    let in_realm = columns.get(3)?;
    Ok((key.clone(), Link { register, in_realm }))
}

async fn load_grants(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    if !needs.grants.is_empty() {
        let items = texts(needs.grants.iter().map(|(item, _)| item));
        let kinds: Vec<i64> =
            needs.grants.iter().map(|(_, who)| encoding::principal_code(who.kind)).collect();
        let ids = texts(needs.grants.iter().map(|(_, who)| &who.id));
        let sql = "SELECT g.item_id, g.kind, g.principal_id, g.level, \
                   g.authored_at, g.author, g.replica_id, g.write_id \
                   FROM unnest($1::text[], $2::bigint[], $3::text[]) AS k (item, kind, id) \
                   JOIN grants g ON g.item_id = k.item AND g.kind = k.kind \
                   AND g.principal_id = k.id";
        found.extend(tx.query(sql, &[&items, &kinds, &ids]).await?);
    }
    if !(needs.around.is_empty() && needs.granted.is_empty()) {
        let sql = "SELECT item_id, kind, principal_id, level, \
                   authored_at, author, replica_id, write_id FROM grants \
                   WHERE item_id = ANY($1) AND level IS NOT NULL";
        let items = texts(needs.around.union(&needs.granted));
        found.extend(tx.query(sql, &[&items]).await?);
    }
    Ok(found)
}

/// Counts the grants of items, up to one more than there may be.
async fn count_grants(tx: &PostgresTransaction<'_>, needs: &Needs, rows: &mut Rows) -> Result<()> {
    if needs.grant_counts.is_empty() {
        return Ok(());
    }
    let found = tx
        .query(
            "SELECT k.id, n.present, n.ever FROM unnest($1::text[]) AS k (id), \
             LATERAL (SELECT count(level) AS present, count(*) AS ever FROM ( \
                 SELECT level FROM grants WHERE item_id = k.id LIMIT $2) AS g) AS n",
            &[&texts(&needs.grant_counts), &(MAX_ITEM_GRANTS_EVER as i64 + 1)],
        )
        .await?;
    for row in &found {
        let columns = Columns { row, table: "grants", key: "?" };
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let (present, ever) = (number(columns.unsigned(1)?), number(columns.unsigned(2)?));
        rows.grant_counts.insert(columns.parse(0)?, GrantCounts { present, ever });
    }
    Ok(())
}

type Grant = (ItemId, Principal, vfs_sync_core::register::GrantRegister);

fn grant(row: &Row) -> Result<Grant> {
    let item: ItemId = Columns { row, table: "grants", key: "?" }.parse(0)?;
    let columns = Columns { row, table: "grants", key: &item };
    let principal =
        Principal { kind: columns.code(1, encoding::principal)?, id: columns.parse(2)? };
    let value = match columns.get::<Option<i64>>(3)? {
        None => None,
        Some(_) => Some(columns.code(3, encoding::level)?),
    };
    let register = Register { value, stamp: columns.stamp(4)? };
    Ok((item.clone(), principal, register))
}

async fn load_moves(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>> {
    if needs.moves.is_empty() {
        return Ok(Vec::new());
    }
    let children = texts(needs.moves.iter().map(|(child, _)| child));
    let realms = texts(needs.moves.iter().map(|(_, realm)| realm));
    tx.query(
        "SELECT m.child, m.realm, m.parent, m.authored_at, m.author, m.replica_id, m.write_id \
         FROM unnest($1::text[], $2::text[]) AS k (child, realm) \
         JOIN moves m ON m.child = k.child AND m.realm = k.realm",
        &[&children, &realms],
    )
    .await
}

/// Writes the new items; returns `true` if another transaction took one of the ids.
async fn new_items(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<bool> {
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

async fn old_items(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
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
) -> Result<()> {
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

async fn write_links(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
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

async fn write_grants(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
    if changes.grants.is_empty() {
        return Ok(());
    }
    let items = texts(changes.grants.keys().map(|(item, _)| item));
    let kinds: Vec<i64> =
        changes.grants.keys().map(|(_, who)| encoding::principal_code(who.kind)).collect();
    let ids = texts(changes.grants.keys().map(|(_, who)| &who.id));
    let levels: Vec<Option<i64>> =
        changes.grants.values().map(|grant| grant.value.map(encoding::level_code)).collect();
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

async fn write_moves(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
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

async fn accepted(tx: &PostgresTransaction<'_>, write: &PushWrite<'_>) -> Result<()> {
    let all = &write.changes.accepted;
    let write_ids: Vec<i64> = all.iter().map(|one| one.write_id.get() as i64).collect();
    let op_ids = texts(all.iter().map(|one| &one.accepted.op_id));
    let digests: Vec<&[u8]> = all.iter().map(|one| one.accepted.digest.as_slice()).collect();
    let (outcomes, authored): (Vec<i64>, Vec<Option<i64>>) =
        all.iter().map(|one| encoding::outcome_code(one.accepted.outcome)).unzip();
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
    // Statements that are sent together may arrive in any order.
    let Some((through, at_most)) = write.forgets() else { return Ok(()) };
    tx.execute(
        "DELETE FROM accepted_ops WHERE user_id = $1 AND replica_id = $2 AND write_id IN \
         (SELECT write_id FROM accepted_ops WHERE user_id = $1 AND replica_id = $2 \
         AND write_id <= $3 ORDER BY write_id LIMIT $4)",
        &[
            &write.user.as_str(),
            &write.replica.as_str(),
            &(through.get() as i64),
            &i64::try_from(at_most).unwrap_or(i64::MAX),
        ],
    )
    .await?;
    Ok(())
}
