//! Who sees what: audiences, the members of groups, what feeds tell.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use vfs_sync_core::access::{Audience, Principal};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{Changes, Needs, Rows, Set, Told};

use super::members;
use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::{StoreError, codes};

/// As many users are looked up one by one; of more, everybody's rows are read.
const FEW: usize = 4;

pub(super) fn load(
    tx: &mut SqliteTransaction<'_>,
    needs: &Needs,
    found: &mut Rows,
) -> Result<(), StoreError> {
    let among = needs.among.as_ref();
    for (item, audience) in audiences(tx, &needs.access, among)? {
        found.access.insert(item, audience);
    }
    for group in &needs.members {
        let mut members = all_members(tx, group)?;
        if let Some(among) = among {
            members.retain(|member| among.contains(member));
        }
        found.members.insert(group.clone(), members);
    }
    for user in &needs.groups_of {
        let groups = members::groups_of(tx, user)?;
        found.groups.insert(user.clone(), groups.into_iter().collect());
    }
    for owner in &needs.blocks {
        let mut users = match among.filter(|among| among.len() <= FEW) {
            Some(few) => {
                let mut users = BTreeSet::new();
                for user in few {
                    if members::is_blocked(tx, user, owner)? {
                        users.insert(user.clone());
                    }
                }
                users
            }
            None => members::blockers(tx, owner)?,
        };
        tx.with_block(owner, &mut users);
        if let Some(among) = among {
            users.retain(|user| among.contains(user));
        }
        found.blocks.insert(owner.clone(), users);
    }
    Ok(())
}

fn audiences(
    tx: &mut SqliteTransaction<'_>,
    items: &BTreeSet<ItemId>,
    among: Option<&BTreeSet<UserId>>,
) -> Result<Vec<(ItemId, Audience)>, StoreError> {
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
                    audience.insert((*user).clone(), columns.code(0, codes::level)?);
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
            audience.insert(user, columns.code(1, codes::level)?);
        }
        if let Some(among) = among {
            audience.retain(|user, _| among.contains(user));
        }
        audiences.push((item.clone(), audience));
    }
    Ok(audiences)
}

fn all_members(
    tx: &mut SqliteTransaction<'_>,
    group: &Principal,
) -> Result<BTreeSet<UserId>, StoreError> {
    let mut members = members::members(tx, group, None, u32::MAX)?.into_iter().collect();
    tx.with_change(group, &mut members);
    Ok(members)
}

pub(super) fn write(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<(), StoreError> {
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
                    upsert.execute(params![item.as_str(), uid, codes::level_code(*level)])?
                }
                None => delete.execute(params![item.as_str(), uid])?,
            };
        }
    }
    Ok(())
}

pub(super) fn told(
    tx: &mut SqliteTransaction<'_>,
    keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
) -> Result<Told, StoreError> {
    let mut told = Told::new();
    let mut select =
        tx.prepare("SELECT 1 FROM feed WHERE uid = ?1 AND key = ?2 AND removal = 0")?;
    for (user, keys) in keys {
        let Some(uid) = tx.uid(user)? else { continue };
        let mut present = Set::default();
        for key in keys {
            if select.exists(params![uid, key])? {
                present.insert(key.clone());
            }
        }
        told.insert(user.clone(), present);
    }
    Ok(told)
}
