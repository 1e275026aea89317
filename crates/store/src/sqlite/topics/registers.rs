//! Registers: loaded by single look-ups, because SQLite has no round trips; written table by table,
//! in the order of the keys.

use std::collections::BTreeSet;

use rusqlite::{CachedStatement, OptionalExtension as _, params};
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::limits::MAX_ITEM_GRANTS_EVER;
use vfs_sync_core::register::{Item, ItemFields, Register};
use vfs_sync_core::server::push::{Changes, GrantCounts, Link, LinkKey, Map, Needs, Rows};
use vfs_sync_core::time::Timestamp;

use super::{feeds, members, trash, versions};
use crate::command::trash::{revived, rows_of_push};
use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::{Cleared, FeedWrite, PushWrite, Registers, Trash as _};

impl Registers for SqliteTransaction<'_> {
    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<()> {
        self.limit.count(needs.items.len() + needs.around.len())?;
        self.load_items(&needs.items, &mut found.items)?;
        self.load_links(&needs.links, &mut found.links)?;
        self.load_grants(needs, found)?;
        self.load_moves(needs, found)?;
        self.load_around(&needs.around, found)?;
        self.load_ancestors(&needs.ancestors, found)?;
        self.limit.count(found.links.len())?;
        members::load(self, needs, found).await
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<()> {
        let uid = self.make_uid(write.user)?;
        let replica = write.replica.as_str();
        let Some(last_write_id) = write.changes.last_write_id else {
            self.prepare(
            "UPDATE replicas SET last_seen = max(last_seen, ?3) WHERE uid = ?1 AND replica_id = ?2",
        )?
        .execute(params![uid, replica, write.now.as_millis()])?;
            return Ok(());
        };
        let rid = self
            .prepare(
                "INSERT INTO replicas (uid, replica_id, last_write_id, last_seen, accepted_from) \
                 VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (uid, replica_id) DO UPDATE SET \
                 last_write_id = excluded.last_write_id, \
                 last_seen = max(last_seen, excluded.last_seen), \
                 accepted_from = coalesce(accepted_from, excluded.accepted_from) RETURNING rid",
            )?
            .query_row(
                params![uid, replica, last_write_id.get() as i64, write.now.as_millis()],
                |row| row.get(0),
            )?;
        items(self, write.changes)?;
        registers(self, write.changes)?;
        members::write_access(self, write.changes)?;
        members::write_grantees(self, write.changes)?;
        members::write_usage(self, write.changes)?;
        self.put_trash(&rows_of_push(write)).await?;
        trash::remove(self, &revived(write.changes))?;
        accepted(self, rid, write.changes, write.now)?;
        forget_accepted(self, rid, write)?;
        feeds::write(self, write.feeds)
    }

    async fn write_changes(&mut self, changes: &Changes, written: &[FeedWrite]) -> Result<()> {
        items(self, changes)?;
        registers(self, changes)?;
        members::write_access(self, changes)?;
        members::write_grantees(self, changes)?;
        members::write_usage(self, changes)?;
        trash::remove(self, &revived(changes))?;
        feeds::write(self, written)
    }

    async fn granted_to(&mut self, principal: &Principal) -> Result<BTreeSet<ItemId>> {
        let mut select = self.prepare(
        "SELECT item_id FROM grants WHERE kind = ?1 AND principal_id = ?2 AND level IS NOT NULL",
    )?;
        let kind = encoding::principal_code(principal.kind);
        let mut rows = select.query(params![kind, principal.id.as_str()])?;
        let mut items = BTreeSet::new();
        while let Some(row) = rows.next()? {
            items.insert(Columns { row, table: "grants", key: &principal.id }.parse(0)?);
        }
        Ok(items)
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>)> {
        let (mut users, mut items) = (BTreeSet::new(), BTreeSet::new());
        let mut select =
            self.prepare("SELECT item_id, kind, principal_id FROM grants WHERE level IS NOT NULL")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "grants", key: "?" };
            items.insert(columns.parse(0)?);
            let principal =
                Principal { kind: columns.code(1, encoding::principal)?, id: columns.parse(2)? };
            users.extend(principal.user());
        }
        let mut select = self.prepare("SELECT user_id FROM members JOIN realms USING (uid)")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            users.insert(Columns { row, table: "members", key: "?" }.parse(0)?);
        }
        Ok((users, items))
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<Cleared> {
        let mut left = at_most;
        for sql in [
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE parent = ?1 LIMIT ?2)",
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE child = ?1 AND in_realm = 1 LIMIT ?2)",
        ] {
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            left -= self.prepare(sql)?.execute(params![item.as_str(), limit])? as u64;
        }
        let links = at_most - left;
        for sql in [
            "DELETE FROM links WHERE (parent, child) IN \
             (SELECT parent, child FROM links WHERE child = ?1 LIMIT ?2)",
            "DELETE FROM moves WHERE (child, realm) IN \
             (SELECT child, realm FROM moves WHERE child = ?1 LIMIT ?2)",
            "DELETE FROM access WHERE (item_id, uid) IN \
             (SELECT item_id, uid FROM access WHERE item_id = ?1 LIMIT ?2)",
        ] {
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            left -= self.prepare(sql)?.execute(params![item.as_str(), limit])? as u64;
        }
        let grants = clear_grants(self, item, left)?;
        Ok(Cleared { rows: at_most - left + grants, links, grants })
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<()> {
        let mut delete = self.prepare("DELETE FROM items WHERE item_id = ?1")?;
        for item in items {
            delete.execute([item.as_str()])?;
        }
        trash::remove(self, &items.iter().collect::<Vec<_>>())
    }
}

impl SqliteTransaction<'_> {
    pub(super) fn load_items(
        &mut self,
        ids: &BTreeSet<ItemId>,
        found: &mut Map<ItemId, Option<Item>>,
    ) -> Result<()> {
        let mut select =
            self.prepare("SELECT owner, created_at, fields FROM items WHERE item_id = ?1")?;
        for id in ids {
            let mut rows = select.query([id.as_str()])?;
            let Some(row) = rows.next()? else {
                found.insert(id.clone(), None);
                continue;
            };
            let columns = Columns { row, table: "items", key: id };
            let owner = self.user(columns.integer(0)?, "items", id)?;
            let fields = ItemFields::from_bytes(columns.bytes(2)?)
                .map_err(|error| columns.malformed(error))?;
            let item = Item { owner, created_at: columns.time(1)?, fields };
            found.insert(id.clone(), Some(item));
        }
        Ok(())
    }

    /// Loads links by their keys.
    pub(super) fn load_links(
        &mut self,
        keys: &BTreeSet<LinkKey>,
        found: &mut Map<LinkKey, Option<Link>>,
    ) -> Result<()> {
        let mut select = self.prepare(
            "SELECT authored_at, author, write_id, present, in_realm FROM links \
             WHERE parent = ?1 AND child = ?2",
        )?;
        for key in keys {
            let mut rows = select.query([key.0.as_str(), key.1.as_str()])?;
            if let Some(row) = rows.next()? {
                let name = LinkName(&key.0, &key.1);
                let link = self.link(&Columns { row, table: "links", key: name })?;
                found.insert(key.clone(), Some(link));
            }
        }
        Ok(())
    }

    fn link<K: std::fmt::Display>(&mut self, columns: &Columns<'_, '_, K>) -> Result<Link> {
        let flag = |code| match code {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        let stamp = self.stamp(columns, 0)?;
        let register = Register { value: columns.code(3, flag)?, stamp };
        Ok(Link { register, in_realm: columns.code(4, flag)? })
    }

    /// Loads the present links that have `id` at the end which `select` names; returns their other
    /// ends.
    fn load_links_of(
        &mut self,
        select: &mut CachedStatement<'_>,
        id: &ItemId,
        key: impl Fn(ItemId) -> LinkKey,
        found: &mut Map<LinkKey, Option<Link>>,
    ) -> Result<Vec<ItemId>> {
        let mut rows = select.query([id.as_str()])?;
        let mut others = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "links", key: id };
            let other: ItemId = columns.parse(5)?;
            let link = self.link(&columns)?;
            found.insert(key(other.clone()), Some(link));
            others.push(other);
        }
        Ok(others)
    }

    pub(super) fn load_grants(&mut self, needs: &Needs, found: &mut Rows) -> Result<()> {
        let mut one = self.prepare(
            "SELECT authored_at, author, write_id, level, kind, principal_id FROM grants \
             WHERE item_id = ?1 AND kind = ?2 AND principal_id = ?3",
        )?;
        for (item, principal) in &needs.grants {
            let kind = encoding::principal_code(principal.kind);
            let rows = one.query(params![item.as_str(), kind, principal.id.as_str()])?;
            self.take_grants(item, rows, found)?;
        }
        let mut all = self.prepare(
            "SELECT authored_at, author, write_id, level, kind, principal_id FROM grants \
             WHERE item_id = ?1 AND level IS NOT NULL",
        )?;
        for item in needs.around.union(&needs.granted) {
            let rows = all.query([item.as_str()])?;
            self.take_grants(item, rows, found)?;
        }
        let mut count = self.prepare(
            "SELECT count(level), count(*) FROM \
             (SELECT level FROM grants WHERE item_id = ?1 LIMIT ?2)",
        )?;
        for item in &needs.grant_counts {
            let enough = MAX_ITEM_GRANTS_EVER as i64 + 1;
            let mut rows = count.query(params![item.as_str(), enough])?;
            if let Some(row) = rows.next()? {
                let columns = Columns { row, table: "grants", key: item };
                let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
                let counts = GrantCounts {
                    present: number(columns.unsigned(0)?),
                    ever: number(columns.unsigned(1)?),
                };
                found.grant_counts.insert(item.clone(), counts);
            }
        }
        Ok(())
    }

    fn take_grants(
        &mut self,
        item: &ItemId,
        mut rows: rusqlite::Rows<'_>,
        found: &mut Rows,
    ) -> Result<()> {
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "grants", key: item };
            let kind = columns.code(4, encoding::principal)?;
            let principal = Principal { kind, id: columns.parse(5)? };
            let value = match columns.optional_integer(3)? {
                None => None,
                Some(_) => Some(columns.code(3, encoding::level)?),
            };
            let register = Register { value, stamp: self.stamp(&columns, 0)? };
            found.grants.insert((item.clone(), principal), Some(register));
        }
        Ok(())
    }

    pub(super) fn load_moves(&mut self, needs: &Needs, found: &mut Rows) -> Result<()> {
        let mut select = self.prepare(
            "SELECT authored_at, author, write_id, parent FROM moves \
             WHERE child = ?1 AND realm = ?2",
        )?;
        for key in &needs.moves {
            let Some(realm) = self.uid(&key.1)? else { continue };
            let mut rows = select.query(params![key.0.as_str(), realm])?;
            if let Some(row) = rows.next()? {
                let columns = Columns { row, table: "moves", key: &key.0 };
                let stamp = self.stamp(&columns, 0)?;
                let register = Register { value: columns.parse(3)?, stamp };
                found.moves.insert(key.clone(), Some(register));
            }
        }
        Ok(())
    }

    pub(super) fn load_around(&mut self, items: &BTreeSet<ItemId>, found: &mut Rows) -> Result<()> {
        let mut below = self.prepare(
            "SELECT authored_at, author, write_id, present, in_realm, child FROM links \
             WHERE parent = ?1 AND present = 1",
        )?;
        for item in items {
            self.load_links_of(&mut below, item, |child| (item.clone(), child), &mut found.links)?;
        }
        let mut above = self.prepare(
            "SELECT authored_at, author, write_id, present, in_realm, parent FROM links \
             WHERE child = ?1 AND present = 1",
        )?;
        for item in items {
            let key = |parent| (parent, item.clone());
            self.load_links_of(&mut above, item, key, &mut found.links)?;
        }
        versions::load_attachments(self, items, &mut found.attachments)
    }

    /// Loads the links from each of `items` to all its ancestors.
    pub(super) fn load_ancestors(
        &mut self,
        items: &BTreeSet<ItemId>,
        found: &mut Rows,
    ) -> Result<()> {
        let mut open: Vec<ItemId> = items.iter().cloned().collect();
        let mut seen: BTreeSet<ItemId> = items.clone();
        let mut select = self.prepare(
            "SELECT authored_at, author, write_id, present, in_realm, parent FROM links \
             WHERE child = ?1 AND present = 1 AND in_realm = 1",
        )?;
        while let Some(child) = open.pop() {
            let parents = self.load_links_of(
                &mut select,
                &child,
                |parent| (parent, child.clone()),
                &mut found.links,
            )?;
            open.extend(parents.into_iter().filter(|parent| seen.insert(parent.clone())));
        }
        Ok(())
    }
}

/// Removes grants of an item, at most `at_most`; gives how many.
fn clear_grants(tx: &mut SqliteTransaction<'_>, item: &ItemId, at_most: u64) -> Result<u64> {
    let mut owner = tx.prepare("SELECT owner FROM items WHERE item_id = ?1")?;
    let owner: Option<i64> = owner.query_row([item.as_str()], |row| row.get(0)).optional()?;
    let mut delete = tx.prepare(
        "DELETE FROM grants WHERE (item_id, kind, principal_id) IN \
         (SELECT item_id, kind, principal_id FROM grants WHERE item_id = ?1 LIMIT ?2) \
         RETURNING kind, principal_id, level",
    )?;
    let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
    let mut rows = delete.query(params![item.as_str(), limit])?;
    let (mut removed, mut changes) = (0, Changes::default());
    while let Some(row) = rows.next()? {
        removed += 1;
        let columns = Columns { row, table: "grants", key: item };
        let kind = columns.code(0, encoding::principal)?;
        let principal = Principal { kind, id: columns.parse(1)? };
        if let (Some(owner), Some(user), Some(_)) =
            (owner, principal.user(), columns.optional_integer(2)?)
        {
            let owner = tx.user(owner, "items", item)?;
            *changes.user_grants.entry((owner, user)).or_default() -= 1;
        }
    }
    drop(rows);
    members::write_grantees(tx, &changes)?;
    Ok(removed)
}

/// The name of a link in errors.
struct LinkName<'a>(&'a ItemId, &'a ItemId);

impl std::fmt::Display for LinkName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.0, self.1)
    }
}

fn items(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<()> {
    let mut insert = tx.prepare(
        "INSERT INTO items (item_id, owner, created_at, fields) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut update = tx.prepare("UPDATE items SET fields = ?2 WHERE item_id = ?1")?;
    for (id, item) in &changes.items {
        let fields = item.fields.to_bytes();
        if changes.new_items.contains(id) {
            let owner = tx.make_uid(&item.owner)?;
            insert.execute(params![id.as_str(), owner, item.created_at.as_millis(), fields])?;
        } else {
            update.execute(params![id.as_str(), fields])?;
        }
    }
    Ok(())
}

fn registers(tx: &mut SqliteTransaction<'_>, changes: &Changes) -> Result<()> {
    let mut upsert = tx.prepare(
        "INSERT INTO links (parent, child, present, in_realm, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (parent, child) DO UPDATE SET \
         present = excluded.present, in_realm = excluded.in_realm, \
         authored_at = excluded.authored_at, author = excluded.author, \
         write_id = excluded.write_id",
    )?;
    for ((parent, child), link) in &changes.links {
        let stamp = &link.register.stamp;
        upsert.execute(params![
            parent.as_str(),
            child.as_str(),
            link.register.value,
            link.in_realm,
            stamp.authored_at.as_millis(),
            tx.author(&stamp.author)?,
            stamp.author.write_id.get() as i64,
        ])?;
    }
    let mut upsert = tx.prepare(
        "INSERT INTO grants (item_id, kind, principal_id, level, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (item_id, kind, principal_id) \
         DO UPDATE SET level = excluded.level, authored_at = excluded.authored_at, \
         author = excluded.author, write_id = excluded.write_id",
    )?;
    for ((item, principal), grant) in &changes.grants {
        upsert.execute(params![
            item.as_str(),
            encoding::principal_code(principal.kind),
            principal.id.as_str(),
            grant.value.map(encoding::level_code),
            grant.stamp.authored_at.as_millis(),
            tx.author(&grant.stamp.author)?,
            grant.stamp.author.write_id.get() as i64,
        ])?;
    }
    let mut upsert = tx.prepare(
        "INSERT INTO moves (child, realm, parent, authored_at, author, write_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (child, realm) DO UPDATE SET \
         parent = excluded.parent, authored_at = excluded.authored_at, \
         author = excluded.author, write_id = excluded.write_id",
    )?;
    for ((child, realm), moved) in &changes.moves {
        upsert.execute(params![
            child.as_str(),
            tx.make_uid(realm)?,
            moved.value.as_str(),
            moved.stamp.authored_at.as_millis(),
            tx.author(&moved.stamp.author)?,
            moved.stamp.author.write_id.get() as i64,
        ])?;
    }
    Ok(())
}

/// Forgets the replica's oldest results beyond those that are kept.
fn forget_accepted(tx: &mut SqliteTransaction<'_>, rid: i64, write: &PushWrite<'_>) -> Result<()> {
    let Some((through, at_most)) = write.forgets() else { return Ok(()) };
    let mut oldest = tx.prepare(
        "SELECT write_id FROM accepted_ops WHERE rid = ?1 AND write_id <= ?2 \
         ORDER BY write_id LIMIT ?3",
    )?;
    let key = params![rid, through.get() as i64, i64::try_from(at_most).unwrap_or(i64::MAX)];
    let oldest: Vec<i64> = oldest.query_map(key, |row| row.get(0))?.collect::<Result<_, _>>()?;
    if let Some(last) = oldest.last() {
        tx.prepare("DELETE FROM accepted_ops WHERE rid = ?1 AND write_id <= ?2")?
            .execute([rid, *last])?;
    }
    Ok(())
}

fn accepted(
    tx: &mut SqliteTransaction<'_>,
    rid: i64,
    changes: &Changes,
    now: Timestamp,
) -> Result<()> {
    let mut insert = tx.prepare(
        "INSERT INTO accepted_ops \
         (rid, write_id, op_id, digest, outcome, authored_at, accepted_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for one in &changes.accepted {
        let (outcome, authored_at) = encoding::outcome_code(one.accepted.outcome);
        insert.execute(params![
            rid,
            one.write_id.get() as i64,
            one.accepted.op_id.as_str(),
            one.accepted.digest.as_slice(),
            outcome,
            authored_at,
            now.as_millis(),
        ])?;
    }
    Ok(())
}
