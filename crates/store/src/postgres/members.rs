//! Groups and organizations, and who is in them.

use std::collections::BTreeSet;

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, UserId};

use super::rows::Columns;
use super::transaction::{PostgresTransaction, texts};
use crate::{StoreError, codes};

/// Locks the group against other changes of its members, and against grants to it.
pub(super) async fn lock_group(
    tx: &PostgresTransaction<'_>,
    group: &Principal,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO groups (kind, group_id) VALUES ($1, $2) \
         ON CONFLICT (kind, group_id) DO UPDATE SET group_id = excluded.group_id",
        &[&codes::principal_code(group.kind), &group.id.as_str()],
    )
    .await?;
    Ok(())
}

/// Locks the groups against changes of their members.
pub(super) async fn share_groups(
    tx: &PostgresTransaction<'_>,
    groups: &BTreeSet<Principal>,
) -> Result<(), StoreError> {
    if groups.is_empty() {
        return Ok(());
    }
    let kinds: Vec<i64> = groups.iter().map(|one| codes::principal_code(one.kind)).collect();
    let ids = texts(groups.iter().map(|one| &one.id));
    tx.execute(
        "INSERT INTO groups (kind, group_id) \
         SELECT kind, id FROM unnest($1::bigint[], $2::text[]) AS g (kind, id) \
         ORDER BY kind, id COLLATE \"C\" ON CONFLICT (kind, group_id) DO NOTHING",
        &[&kinds, &ids],
    )
    .await?;
    // One by one, in the order of the set: a join would lock in an order of its own.
    for (kind, id) in kinds.iter().zip(&ids) {
        tx.query_opt(
            "SELECT 1 FROM groups WHERE kind = $1 AND group_id = $2 FOR SHARE",
            &[kind, id],
        )
        .await?;
    }
    Ok(())
}

/// Puts `user` into the group, or takes the user out; tells whether that changed anything.
pub(super) async fn write_member(
    tx: &PostgresTransaction<'_>,
    group: &Principal,
    user: &UserId,
    present: bool,
) -> Result<bool, StoreError> {
    let sql = if present {
        "INSERT INTO members (kind, group_id, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM members WHERE kind = $1 AND group_id = $2 AND user_id = $3"
    };
    let kind = codes::principal_code(group.kind);
    Ok(tx.execute(sql, &[&kind, &group.id.as_str(), &user.as_str()]).await? > 0)
}

/// At most `limit` members after `after`, ascending.
pub(super) async fn members(
    tx: &mut PostgresTransaction<'_>,
    group: &Principal,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<UserId>, StoreError> {
    let rows = tx
        .query(
            "SELECT user_id FROM members WHERE kind = $1 AND group_id = $2 AND user_id > $3 \
             ORDER BY user_id LIMIT $4",
            &[
                &codes::principal_code(group.kind),
                &group.id.as_str(),
                &after.map_or("", UserId::as_str),
                &i64::from(limit),
            ],
        )
        .await?;
    rows.iter().map(|row| Columns { row, table: "members", key: &group.id }.parse(0)).collect()
}

/// The groups and organizations of a user, ascending.
pub(super) async fn groups_of(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
) -> Result<Vec<Principal>, StoreError> {
    let rows = tx
        .query("SELECT kind, group_id FROM members WHERE user_id = $1", &[&user.as_str()])
        .await?;
    let mut groups = Vec::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns { row, table: "members", key: user };
        groups.push(Principal { kind: columns.code(0, codes::principal)?, id: columns.parse(1)? });
    }
    groups.sort();
    Ok(groups)
}

/// Whether the user ever had a replica, or the group has a member.
pub(super) async fn knows(
    tx: &mut PostgresTransaction<'_>,
    principal: &Principal,
) -> Result<bool, StoreError> {
    let id = principal.id.as_str();
    let found = match principal.kind {
        PrincipalType::User => {
            tx.query_opt(
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM replicas WHERE user_id = $1) \
                 OR EXISTS (SELECT 1 FROM reconcile_state WHERE user_id = $1)",
                &[&id],
            )
            .await?
        }
        PrincipalType::Group | PrincipalType::Organization => {
            let kind = codes::principal_code(principal.kind);
            tx.query_opt(
                "SELECT 1 FROM members WHERE kind = $1 AND group_id = $2 LIMIT 1",
                &[&kind, &id],
            )
            .await?
        }
    };
    Ok(found.is_some())
}

/// The items that a principal is granted.
pub(super) async fn granted_to(
    tx: &PostgresTransaction<'_>,
    principal: &Principal,
) -> Result<BTreeSet<ItemId>, StoreError> {
    let rows = tx
        .query(
            "SELECT item_id FROM grants \
             WHERE kind = $1 AND principal_id = $2 AND level IS NOT NULL",
            &[&codes::principal_code(principal.kind), &principal.id.as_str()],
        )
        .await?;
    rows.iter().map(|row| Columns { row, table: "grants", key: &principal.id }.parse(0)).collect()
}

/// All items that are granted to somebody, and all users who may be somebody.
pub(super) async fn all_grants(
    tx: &PostgresTransaction<'_>,
) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError> {
    let (mut users, mut items) = (BTreeSet::new(), BTreeSet::new());
    let sql = "SELECT item_id, kind, principal_id FROM grants WHERE level IS NOT NULL";
    for row in &tx.query(sql, &[]).await? {
        let columns = Columns { row, table: "grants", key: "?" };
        items.insert(columns.parse(0)?);
        let principal =
            Principal { kind: columns.code(1, codes::principal)?, id: columns.parse(2)? };
        users.extend(principal.user());
    }
    for row in &tx.query("SELECT user_id FROM members", &[]).await? {
        users.insert(Columns { row, table: "members", key: "?" }.parse(0)?);
    }
    Ok((users, items))
}

/// Has `user` block `owner`, or ends that; tells whether that changed anything.
pub(super) async fn write_block(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
    owner: &UserId,
    blocked: bool,
) -> Result<bool, StoreError> {
    let sql = if blocked {
        "INSERT INTO blocks (owner, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM blocks WHERE owner = $1 AND user_id = $2"
    };
    Ok(tx.execute(sql, &[&owner.as_str(), &user.as_str()]).await? > 0)
}

/// Returns the owners whom a user blocks, ascending.
pub(super) async fn blocked_by(
    tx: &PostgresTransaction<'_>,
    user: &UserId,
) -> Result<Vec<UserId>, StoreError> {
    let rows = tx
        .query("SELECT owner FROM blocks WHERE user_id = $1 ORDER BY owner", &[&user.as_str()])
        .await?;
    rows.iter().map(|row| Columns { row, table: "blocks", key: user }.parse(0)).collect()
}
