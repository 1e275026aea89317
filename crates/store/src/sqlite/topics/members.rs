//! Groups and blocks, and the audiences that they determine.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::access::{Audience, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{Changes, MetadataUsage, Needs, Rows, UsageChange};
use vfs_sync_core::server::user::UserLimits;

use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::{Deferred, SqliteTransaction};
use crate::topics::Members;

/// The number of users up to which each is looked up; beyond it, the rows of all users are read.
const FEW: usize = 4;

impl Members for SqliteTransaction<'_> {
    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool> {
        if !self.is_snapshot {
            return write_member(self, group, user, present);
        }
        let changes = is_member(self, group, user)? != present;
        self.deferred.member = Some((group.clone(), user.clone(), present));
        Ok(changes)
    }

    async fn write_block(&mut self, user: &UserId, owner: &UserId, blocked: bool) -> Result<bool> {
        if !self.is_snapshot {
            return write_block(self, user, owner, blocked);
        }
        let changes = is_blocked(self, user, owner)? != blocked;
        self.deferred.block = Some((user.clone(), owner.clone(), blocked));
        Ok(changes)
    }

    async fn members_after(
        &mut self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>> {
        // The order is that of the ids, which the rows do not have: a group is sorted whole.
        let mut select = self.prepare(
            "SELECT user_id FROM members JOIN realms USING (uid) WHERE kind = ?1 AND group_id = ?2",
        )?;
        let mut rows =
            select.query(params![encoding::principal_code(group.kind), group.id.as_str()])?;
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

    async fn group_size(&mut self, group: &Principal, enough: u64) -> Result<u64> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM \
             (SELECT 1 FROM members WHERE kind = ?1 AND group_id = ?2 LIMIT ?3)";
        let kind = encoding::principal_code(group.kind);
        self.query_count(sql, params![kind, group.id.as_str(), enough])
    }

    async fn groups_of(&mut self, user: &UserId) -> Result<Vec<Principal>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare("SELECT kind, group_id FROM members WHERE uid = ?1")?;
        let mut rows = select.query([uid])?;
        let mut groups = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "members", key: user };
            groups.push(Principal {
                kind: columns.code(0, encoding::principal)?,
                id: columns.parse(1)?,
            });
        }
        groups.sort();
        Ok(groups)
    }

    async fn blocked_by(&mut self, user: &UserId) -> Result<Vec<UserId>> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT user_id FROM blocks b JOIN realms r ON r.uid = b.owner WHERE b.uid = ?1",
        )?;
        Ok(users(&mut select.query([uid])?, user)?.into_iter().collect())
    }

    async fn knows(&mut self, principal: &Principal) -> Result<bool> {
        let id = principal.id.as_str();
        let found = match principal.kind {
            PrincipalType::User => self
                .prepare(
                    "SELECT 1 FROM realms r WHERE user_id = ?1 AND \
                     (EXISTS (SELECT 1 FROM replicas WHERE uid = r.uid) \
                     OR EXISTS (SELECT 1 FROM reconcile_state WHERE uid = r.uid))",
                )?
                .query_row([id], |_| Ok(()))
                .optional()?,
            PrincipalType::Group | PrincipalType::Organization => self
                .prepare("SELECT 1 FROM members WHERE kind = ?1 AND group_id = ?2 LIMIT 1")?
                .query_row(params![encoding::principal_code(principal.kind), id], |_| Ok(()))
                .optional()?,
        };
        Ok(found.is_some())
    }
}

impl Deferred {
    /// Writes the changes that a decision on a snapshot assumed.
    pub(in crate::sqlite) async fn write(&self, tx: &mut SqliteTransaction<'_>) -> Result<()> {
        if let Some((group, user, present)) = &self.member {
            tx.write_member(group, user, *present).await?;
        }
        if let Some((user, owner, blocked)) = &self.block {
            tx.write_block(user, owner, *blocked).await?;
        }
        Ok(())
    }
}

/// Adds `user` to the group or removes the user; returns whether that changed anything.
fn write_member(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
    user: &UserId,
    present: bool,
) -> Result<bool> {
    let (kind, id) = (encoding::principal_code(group.kind), group.id.as_str());
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

/// Sets or clears a block of `owner` by `user`; returns whether that changed anything.
fn write_block(
    tx: &mut SqliteTransaction<'_>,
    user: &UserId,
    owner: &UserId,
    blocked: bool,
) -> Result<bool> {
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

/// Returns whether `user` is in the group.
fn is_member(tx: &mut SqliteTransaction<'_>, group: &Principal, user: &UserId) -> Result<bool> {
    let Some(uid) = tx.uid(user)? else { return Ok(false) };
    let mut select =
        tx.prepare("SELECT 1 FROM members WHERE kind = ?1 AND group_id = ?2 AND uid = ?3")?;
    Ok(select.exists(params![encoding::principal_code(group.kind), group.id.as_str(), uid])?)
}

/// Returns whether `user` blocks `owner`.
fn is_blocked(tx: &mut SqliteTransaction<'_>, user: &UserId, owner: &UserId) -> Result<bool> {
    let (Some(uid), Some(owner)) = (tx.uid(user)?, tx.uid(owner)?) else { return Ok(false) };
    Ok(tx.prepare("SELECT 1 FROM blocks WHERE owner = ?1 AND uid = ?2")?.exists([owner, uid])?)
}

/// Returns all users who block `owner`.
fn blockers(tx: &mut SqliteTransaction<'_>, owner: &UserId) -> Result<BTreeSet<UserId>> {
    let Some(uid) = tx.uid(owner)? else { return Ok(BTreeSet::new()) };
    let mut select =
        tx.prepare("SELECT user_id FROM blocks b JOIN realms r ON r.uid = b.uid WHERE owner = ?1")?;
    users(&mut select.query([uid])?, owner)
}

fn users(rows: &mut rusqlite::Rows<'_>, key: &UserId) -> Result<BTreeSet<UserId>> {
    let mut users = BTreeSet::new();
    while let Some(row) = rows.next()? {
        users.insert(Columns { row, table: "blocks", key }.parse(0)?);
    }
    Ok(users)
}

pub(super) async fn load(
    tx: &mut SqliteTransaction<'_>,
    needs: &Needs,
    found: &mut Rows,
) -> Result<()> {
    let among = needs.among.as_ref();
    for (item, audience) in audiences(tx, &needs.access, among)? {
        found.access.insert(item, audience);
    }
    for group in &needs.members {
        let mut members = all_members(tx, group).await?;
        if let Some(among) = among {
            members.retain(|member| among.contains(member));
        }
        found.members.insert(group.clone(), members);
    }
    for user in &needs.groups_of {
        let groups = tx.groups_of(user).await?;
        found.groups.insert(user.clone(), groups.into_iter().collect());
    }
    for owner in &needs.blocks {
        let mut users = match among.filter(|among| among.len() <= FEW) {
            Some(few) => {
                let mut users = BTreeSet::new();
                for user in few {
                    if is_blocked(tx, user, owner)? {
                        users.insert(user.clone());
                    }
                }
                users
            }
            None => blockers(tx, owner)?,
        };
        tx.with_block(owner, &mut users);
        if let Some(among) = among {
            users.retain(|user| among.contains(user));
        }
        found.blocks.insert(owner.clone(), users);
    }
    for owner in &needs.awaited {
        let users = awaited(tx, owner, among.into_iter().flatten())?;
        found.awaited.insert(owner.clone(), users);
    }
    for (owner, user) in &needs.user_grants {
        let Some(uid) = tx.uid(owner)? else { continue };
        let mut select =
            tx.prepare("SELECT grants FROM grantees WHERE owner = ?1 AND user_id = ?2")?;
        let mut rows = select.query(params![uid, user.as_str()])?;
        if let Some(row) = rows.next()? {
            let grants = Columns { row, table: "grantees", key: user }.unsigned(0)?;
            found.user_grants.insert((owner.clone(), user.clone()), grants);
        }
    }
    Ok(())
}

/// Those of `users` to whom the grants of `owner` give nothing yet.
fn awaited<'a>(
    tx: &mut SqliteTransaction<'_>,
    owner: &UserId,
    users: impl Iterator<Item = &'a UserId>,
) -> Result<BTreeSet<UserId>> {
    let owner = tx.uid(owner)?;
    let mut head = tx.prepare("SELECT 1 FROM feed_head WHERE uid = ?1")?;
    let mut waits =
        tx.prepare("SELECT 1 FROM grantees WHERE owner = ?1 AND user_id = ?2 AND awaited <> 0")?;
    let mut found = BTreeSet::new();
    for user in users {
        let has_feed = match tx.uid(user)? {
            Some(uid) => head.exists([uid])?,
            None => false,
        };
        let waits = match owner {
            Some(owner) if has_feed => waits.exists(params![owner, user.as_str()])?,
            _ => false,
        };
        if !has_feed || waits {
            found.insert(user.clone());
        }
    }
    Ok(found)
}

/// Returns whether the user is being deleted.
pub(super) fn is_leaving(tx: &mut SqliteTransaction<'_>, user: &UserId) -> Result<bool> {
    let mut select = tx.prepare("SELECT leaving FROM realms WHERE user_id = ?1")?;
    let found: Option<bool> = select.query_row([user.as_str()], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(false))
}

/// Returns what a realm holds, and the limits of its owner's own.
pub(super) fn usage(
    tx: &mut SqliteTransaction<'_>,
    owner: &UserId,
) -> Result<(MetadataUsage, UserLimits)> {
    let mut select =
        tx.prepare("SELECT items, links, grants, bytes, limits FROM realms WHERE user_id = ?1")?;
    let mut rows = select.query([owner.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(Default::default()) };
    let columns = Columns { row, table: "realms", key: owner };
    let usage = MetadataUsage {
        items: columns.unsigned(0)?,
        links: columns.unsigned(1)?,
        grants: columns.unsigned(2)?,
        bytes: columns.unsigned(3)?,
    };
    Ok((usage, encoding::limits(owner.as_str(), columns.optional_text(4)?)?))
}

/// Writes by how much what realms hold changed.
pub(super) fn write_usage(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<()> {
    if changes.usage.is_empty() {
        return Ok(());
    }
    let mut update = tx.prepare(
        "UPDATE realms SET items = max(items + ?2, 0), links = max(links + ?3, 0), \
         grants = max(grants + ?4, 0), bytes = max(bytes + ?5, 0) WHERE uid = ?1",
    )?;
    for (owner, UsageChange { items, links, grants, bytes }) in &changes.usage {
        update.execute(params![tx.make_uid(owner)?, items, links, grants, bytes])?;
    }
    Ok(())
}

/// Writes how many grants of owners to users there are, and which wait for a call.
pub(super) fn write_grantees(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<()> {
    if changes.user_grants.is_empty() && changes.awaited.is_empty() {
        return Ok(());
    }
    let mut count = tx.prepare(
        "INSERT INTO grantees (owner, user_id, grants, awaited) VALUES (?1, ?2, max(?3, 0), 0) \
         ON CONFLICT (owner, user_id) DO UPDATE SET grants = max(grants + ?3, 0)",
    )?;
    let mut delete = tx.prepare(
        "DELETE FROM grantees WHERE owner = ?1 AND user_id = ?2 AND grants = 0 AND awaited = 0",
    )?;
    let mut mark = tx.prepare(
        "INSERT INTO grantees (owner, user_id, grants, awaited) VALUES (?1, ?2, 0, ?3) \
         ON CONFLICT (owner, user_id) DO UPDATE SET awaited = excluded.awaited",
    )?;
    for ((owner, user), change) in &changes.user_grants {
        count.execute(params![tx.make_uid(owner)?, user.as_str(), change])?;
    }
    for ((owner, user), awaited) in &changes.awaited {
        let awaited = encoding::awaited_code(*awaited);
        mark.execute(params![tx.make_uid(owner)?, user.as_str(), awaited])?;
    }
    for (owner, user) in changes.user_grants.keys().chain(changes.awaited.keys()) {
        delete.execute(params![tx.make_uid(owner)?, user.as_str()])?;
    }
    Ok(())
}

fn audiences(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
    among: Option<&BTreeSet<UserId>>,
) -> Result<Vec<(ItemId, Audience)>> {
    let mut audiences = Vec::new();
    let few = among.filter(|among| among.len() <= FEW);
    if let Some(few) = few {
        let mut uids = Vec::new();
        for user in few {
            uids.extend(tx.uid(user)?.map(|uid| (user, uid)));
        }
        let mut select = tx.prepare("SELECT level FROM access WHERE item_id = ?1 AND uid = ?2")?;
        for item in items {
            let mut audience = Audience::new();
            for (user, uid) in &uids {
                let mut rows = select.query(params![item.as_str(), uid])?;
                if let Some(row) = rows.next()? {
                    let columns = Columns { row, table: "access", key: item };
                    audience.insert((*user).clone(), columns.code(0, encoding::level)?);
                }
            }
            audiences.push((item.clone(), audience));
        }
        return Ok(audiences);
    }
    let mut select = tx.prepare("SELECT uid, level FROM access WHERE item_id = ?1")?;
    for item in items {
        let mut audience = Audience::new();
        let mut rows = select.query([item.as_str()])?;
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "access", key: item };
            let user = tx.user(columns.integer(0)?, "access", item)?;
            audience.insert(user, columns.code(1, encoding::level)?);
        }
        if let Some(among) = among {
            audience.retain(|user, _| among.contains(user));
        }
        audiences.push((item.clone(), audience));
    }
    Ok(audiences)
}

async fn all_members(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
) -> Result<BTreeSet<UserId>> {
    let mut members = tx.members_after(group, None, u32::MAX).await?.into_iter().collect();
    tx.with_change(group, &mut members);
    Ok(members)
}

pub(super) fn write_access(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<()> {
    let mut upsert = tx.prepare(
        "INSERT INTO access (item_id, uid, level) VALUES (?1, ?2, ?3) \
         ON CONFLICT (item_id, uid) DO UPDATE SET level = excluded.level",
    )?;
    let mut delete = tx.prepare("DELETE FROM access WHERE item_id = ?1 AND uid = ?2")?;
    for (item, users) in &changes.access {
        for (user, level) in users {
            let uid = tx.make_uid(user)?;
            match level {
                Some(level) => {
                    upsert.execute(params![item.as_str(), uid, encoding::level_code(*level)])?
                }
                None => delete.execute(params![item.as_str(), uid])?,
            };
        }
    }
    Ok(())
}
