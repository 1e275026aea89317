//! Groups and organizations, and who is in them.

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::UserId;

use super::rows::Columns;
use super::transaction::PostgresTransaction;
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
    tx: &mut PostgresTransaction<'_>,
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
            tx.query_opt("SELECT 1 FROM replicas WHERE user_id = $1 LIMIT 1", &[&id]).await?
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
