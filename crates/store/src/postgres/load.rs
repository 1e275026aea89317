//! Loading the rows that a decision needs: a statement for each kind of row, whatever the batch.

use futures::try_join;
use tokio_postgres::Row;
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::register::{Item, ItemFields, Register};
use vfs_sync_core::server::push::{Link, LinkKey, Map, Needs, Rows};

use super::blobs;
use super::rows::Columns;
use super::transaction::{PostgresTransaction, texts};
use crate::{StoreError, codes};

pub(super) async fn items(
    tx: &PostgresTransaction<'_>,
    ids: &[String],
    found: &mut Map<ItemId, Option<Item>>,
) -> Result<(), StoreError> {
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

pub(super) async fn needs(
    tx: &PostgresTransaction<'_>,
    needs: &Needs,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    items(tx, &texts(&needs.items), &mut rows.items).await?;
    let (links, grants, moves) = try_join!(links(tx, needs), grants(tx, needs), moves(tx, needs))?;
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
        for attachment in blobs::attachments_of(tx, &texts(&needs.around)).await? {
            rows.attachments.entry(attachment.item_id.clone()).or_default().push(attachment);
        }
    }
    Ok(())
}

async fn links(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>, StoreError> {
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

fn link(row: &Row) -> Result<(LinkKey, Link), StoreError> {
    let columns = Columns { row, table: "links", key: "?" };
    let key: LinkKey = (columns.parse(0)?, columns.parse(1)?);
    let columns = Columns { row, table: "links", key: format_args!("{} -> {}", key.0, key.1) };
    let register = Register { value: columns.get(2)?, stamp: columns.stamp(4)? };
    let in_realm = columns.get(3)?;
    Ok((key.clone(), Link { register, in_realm }))
}

async fn grants(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    if !needs.grants.is_empty() {
        let items = texts(needs.grants.iter().map(|(item, _)| item));
        let kinds: Vec<i64> =
            needs.grants.iter().map(|(_, who)| codes::principal_code(who.kind)).collect();
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

type Grant = (ItemId, Principal, vfs_sync_core::register::GrantRegister);

fn grant(row: &Row) -> Result<Grant, StoreError> {
    let item: ItemId = Columns { row, table: "grants", key: "?" }.parse(0)?;
    let columns = Columns { row, table: "grants", key: &item };
    let principal = Principal { kind: columns.code(1, codes::principal)?, id: columns.parse(2)? };
    let value = match columns.get::<Option<i64>>(3)? {
        None => None,
        Some(_) => Some(columns.code(3, codes::level)?),
    };
    let register = Register { value, stamp: columns.stamp(4)? };
    Ok((item.clone(), principal, register))
}

async fn moves(tx: &PostgresTransaction<'_>, needs: &Needs) -> Result<Vec<Row>, StoreError> {
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
