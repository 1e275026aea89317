//! Who sees what: audiences, the members of groups, what feeds tell.

use std::collections::BTreeMap;

use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{Changes, Needs, Rows, Told};

use super::rows::Columns;
use super::transaction::{PostgresTransaction, texts};
use crate::{StoreError, codes};

pub(super) async fn load(
    tx: &PostgresTransaction<'_>,
    needs: &Needs,
    found: &mut Rows,
) -> Result<(), StoreError> {
    let among = needs.among.as_ref().map(texts);
    if !needs.access.is_empty() {
        let rows = tx
            .query(
                "SELECT item_id, user_id, level FROM access \
                 WHERE item_id = ANY($1) AND ($2::text[] IS NULL OR user_id = ANY($2))",
                &[&texts(&needs.access), &among],
            )
            .await?;
        for row in &rows {
            let item: ItemId = Columns { row, table: "access", key: "?" }.parse(0)?;
            let columns = Columns { row, table: "access", key: &item };
            let (user, level) = (columns.parse(1)?, columns.code(2, codes::level)?);
            found.access.entry(item.clone()).or_default().insert(user, level);
        }
    }
    if !needs.members.is_empty() {
        let kinds: Vec<i64> =
            needs.members.iter().map(|one| codes::principal_code(one.kind)).collect();
        let ids = texts(needs.members.iter().map(|one| &one.id));
        let rows = tx
            .query(
                "SELECT m.kind, m.group_id, m.user_id \
                 FROM unnest($1::bigint[], $2::text[]) AS g (kind, id) \
                 JOIN members m ON m.kind = g.kind AND m.group_id = g.id \
                 WHERE $3::text[] IS NULL OR m.user_id = ANY($3)",
                &[&kinds, &ids, &among],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "members", key: "?" };
            let group =
                Principal { kind: columns.code(0, codes::principal)?, id: columns.parse(1)? };
            found.members.entry(group).or_default().insert(columns.parse(2)?);
        }
    }
    for user in &needs.groups_of {
        let groups = super::members::groups_of(tx, user).await?;
        found.groups.insert(user.clone(), groups.into_iter().collect());
    }
    if !needs.blocks.is_empty() {
        let rows = tx
            .query(
                "SELECT owner, user_id FROM blocks \
                 WHERE owner = ANY($1) AND ($2::text[] IS NULL OR user_id = ANY($2))",
                &[&texts(&needs.blocks), &among],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "blocks", key: "?" };
            found.blocks.entry(columns.parse(0)?).or_default().insert(columns.parse(1)?);
        }
    }
    Ok(())
}

pub(super) async fn write(
    tx: &PostgresTransaction<'_>,
    changes: &Changes,
) -> Result<(), StoreError> {
    let (mut items, mut users, mut levels) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut losers) = (Vec::new(), Vec::new());
    for (item, changed) in &changes.access {
        for (user, level) in changed {
            match level {
                Some(level) => {
                    items.push(item.as_str());
                    users.push(user.as_str());
                    levels.push(codes::level_code(*level));
                }
                None => {
                    lost.push(item.as_str());
                    losers.push(user.as_str());
                }
            }
        }
    }
    if !items.is_empty() {
        tx.execute(
            "INSERT INTO access (item_id, user_id, level) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) \
             ON CONFLICT (item_id, user_id) DO UPDATE SET level = excluded.level",
            &[&items, &users, &levels],
        )
        .await?;
    }
    if !lost.is_empty() {
        tx.execute(
            "DELETE FROM access a USING unnest($1::text[], $2::text[]) AS k (item_id, user_id) \
             WHERE a.item_id = k.item_id AND a.user_id = k.user_id",
            &[&lost, &losers],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn told(
    tx: &PostgresTransaction<'_>,
    keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
) -> Result<Told, StoreError> {
    let mut told = Told::new();
    for (user, keys) in keys {
        let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let rows = tx
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
