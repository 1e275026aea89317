//! Groups and organizations, and who is in them.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, params};
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, UserId};

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::{StoreError, codes};

/// Puts `user` into the group, or takes the user out; tells whether that changed anything.
pub(super) fn write_member(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
    user: &UserId,
    present: bool,
) -> Result<bool, StoreError> {
    let (kind, id) = (codes::principal_code(group.kind), group.id.as_str());
    let changed = if present {
        let uid = tx.make_uid(user)?;
        tx.prepare(
            "INSERT INTO members (kind, group_id, uid) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![kind, id, uid])?
    } else {
        let Some(uid) = tx.uid(user)? else { return Ok(false) };
        tx.prepare("DELETE FROM members WHERE kind = ?1 AND group_id = ?2 AND uid = ?3")?
            .execute(params![kind, id, uid])?
    };
    Ok(changed > 0)
}

/// Whether `user` is in the group.
pub(super) fn is_member(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
    user: &UserId,
) -> Result<bool, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(false) };
    let mut select =
        tx.prepare("SELECT 1 FROM members WHERE kind = ?1 AND group_id = ?2 AND uid = ?3")?;
    Ok(select.exists(params![codes::principal_code(group.kind), group.id.as_str(), uid])?)
}

/// At most `limit` members after `after`, ascending.
pub(super) fn members(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<UserId>, StoreError> {
    // The order is that of the ids, which the rows do not have: a group is sorted whole.
    let mut select = tx.prepare(
        "SELECT user_id FROM members JOIN realms USING (uid) WHERE kind = ?1 AND group_id = ?2",
    )?;
    let mut rows = select.query(params![codes::principal_code(group.kind), group.id.as_str()])?;
    let mut members = Vec::new();
    while let Some(row) = rows.next()? {
        let member: UserId = Columns { row, table: "members", key: &group.id }.parse(0)?;
        if Some(&member) > after {
            members.push(member);
        }
    }
    members.sort();
    members.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(members)
}

/// The groups and organizations of a user, ascending.
pub(super) fn groups_of(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
) -> Result<Vec<Principal>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(Vec::new()) };
    let mut select = tx.prepare("SELECT kind, group_id FROM members WHERE uid = ?1")?;
    let mut rows = select.query([uid])?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "members", key: user };
        groups.push(Principal { kind: columns.code(0, codes::principal)?, id: columns.parse(1)? });
    }
    groups.sort();
    Ok(groups)
}

/// Whether the user ever had a replica, or the group has a member.
pub(super) fn knows(
    tx: &mut SqliteTransaction<'_>,
    principal: &Principal,
) -> Result<bool, StoreError> {
    let id = principal.id.as_str();
    let found = match principal.kind {
        PrincipalType::User => tx
            .prepare(
                "SELECT 1 FROM realms r WHERE user_id = ?1 AND \
                 (EXISTS (SELECT 1 FROM replicas WHERE uid = r.uid) \
                 OR EXISTS (SELECT 1 FROM reconcile_state WHERE uid = r.uid))",
            )?
            .query_row([id], |_| Ok(()))
            .optional()?,
        PrincipalType::Group | PrincipalType::Organization => tx
            .prepare("SELECT 1 FROM members WHERE kind = ?1 AND group_id = ?2 LIMIT 1")?
            .query_row(params![codes::principal_code(principal.kind), id], |_| Ok(()))
            .optional()?,
    };
    Ok(found.is_some())
}

/// The items that a principal is granted.
pub(super) fn granted_to(
    tx: &mut SqliteTransaction<'_>,
    principal: &Principal,
) -> Result<BTreeSet<ItemId>, StoreError> {
    let mut select = tx.prepare(
        "SELECT item_id FROM grants WHERE kind = ?1 AND principal_id = ?2 AND level IS NOT NULL",
    )?;
    let kind = codes::principal_code(principal.kind);
    let mut rows = select.query(params![kind, principal.id.as_str()])?;
    let mut items = BTreeSet::new();
    while let Some(row) = rows.next()? {
        items.insert(Columns { row, table: "grants", key: &principal.id }.parse(0)?);
    }
    Ok(items)
}

/// All items that are granted to somebody, and all users who may be somebody.
pub(super) fn all_grants(
    tx: &mut SqliteTransaction<'_>,
) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError> {
    let (mut users, mut items) = (BTreeSet::new(), BTreeSet::new());
    let mut select =
        tx.prepare("SELECT item_id, kind, principal_id FROM grants WHERE level IS NOT NULL")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let columns = Columns { row, table: "grants", key: "?" };
        items.insert(columns.parse(0)?);
        let principal =
            Principal { kind: columns.code(1, codes::principal)?, id: columns.parse(2)? };
        users.extend(principal.user());
    }
    let mut select = tx.prepare("SELECT user_id FROM members JOIN realms USING (uid)")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        users.insert(Columns { row, table: "members", key: "?" }.parse(0)?);
    }
    Ok((users, items))
}

/// Has `user` block `owner`, or ends that; tells whether that changed anything.
pub(super) fn write_block(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    owner: &UserId,
    blocked: bool,
) -> Result<bool, StoreError> {
    let changed = if blocked {
        let (uid, owner) = (tx.make_uid(user)?, tx.make_uid(owner)?);
        tx.prepare("INSERT INTO blocks (owner, uid) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute([owner, uid])?
    } else {
        let (Some(uid), Some(owner)) = (tx.uid(user)?, tx.uid(owner)?) else { return Ok(false) };
        tx.prepare("DELETE FROM blocks WHERE owner = ?1 AND uid = ?2")?.execute([owner, uid])?
    };
    Ok(changed > 0)
}

/// Whether `user` blocks `owner`.
pub(super) fn is_blocked(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    owner: &UserId,
) -> Result<bool, StoreError> {
    let (Some(uid), Some(owner)) = (tx.uid(user)?, tx.uid(owner)?) else { return Ok(false) };
    Ok(tx.prepare("SELECT 1 FROM blocks WHERE owner = ?1 AND uid = ?2")?.exists([owner, uid])?)
}

/// All who block `owner`.
pub(super) fn blockers(
    tx: &mut SqliteTransaction<'_>,
    owner: &UserId,
) -> Result<BTreeSet<UserId>, StoreError> {
    let Some(uid) = tx.uid(owner)? else { return Ok(BTreeSet::new()) };
    let mut select =
        tx.prepare("SELECT user_id FROM blocks b JOIN realms r ON r.uid = b.uid WHERE owner = ?1")?;
    users(&mut select.query([uid])?, owner)
}

/// Returns the owners whom a user blocks.
pub(super) fn blocked_by(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
) -> Result<BTreeSet<UserId>, StoreError> {
    let Some(uid) = tx.uid(user)? else { return Ok(BTreeSet::new()) };
    let mut select = tx.prepare(
        "SELECT user_id FROM blocks b JOIN realms r ON r.uid = b.owner WHERE b.uid = ?1",
    )?;
    users(&mut select.query([uid])?, user)
}

fn users(rows: &mut rusqlite::Rows<'_>, key: &UserId) -> Result<BTreeSet<UserId>, StoreError> {
    let mut users = BTreeSet::new();
    while let Some(row) = rows.next()? {
        users.insert(Columns { row, table: "blocks", key }.parse(0)?);
    }
    Ok(users)
}
