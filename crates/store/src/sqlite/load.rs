//! Loading the rows that a decision needs, look-up by look-up: SQLite has no round trips.

use std::collections::BTreeSet;

use rusqlite::{CachedStatement, params};
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::register::{Item, ItemFields, Register};
use vfs_sync_core::server::push::{Link, LinkKey, Map, Needs, Rows};

use super::blobs;
use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::{StoreError, codes};

impl SqliteTransaction<'_> {
    pub(super) fn load_items(
        &mut self,
        ids: &BTreeSet<ItemId>,
        found: &mut Map<ItemId, Option<Item>>,
    ) -> Result<(), StoreError> {
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
    ) -> Result<(), StoreError> {
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

    fn link<K: std::fmt::Display>(
        &mut self,
        columns: &Columns<'_, '_, K>,
    ) -> Result<Link, StoreError> {
        let flag = |code| match code {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        let stamp = self.stamp(columns, 0)?;
        let register = Register { value: columns.code(3, flag)?, stamp };
        Ok(Link { register, in_realm: columns.code(4, flag)? })
    }

    /// Present links that have `id` at the end which `select` names; gives their other ends.
    fn load_links_of(
        &mut self,
        select: &mut CachedStatement<'_>,
        id: &ItemId,
        key: impl Fn(ItemId) -> LinkKey,
        found: &mut Map<LinkKey, Option<Link>>,
    ) -> Result<Vec<ItemId>, StoreError> {
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

    pub(super) fn load_grants(
        &mut self,
        needs: &Needs,
        found: &mut Rows,
    ) -> Result<(), StoreError> {
        let mut one = self.prepare(
            "SELECT authored_at, author, write_id, level, kind, principal_id FROM grants \
             WHERE item_id = ?1 AND kind = ?2 AND principal_id = ?3",
        )?;
        for (item, principal) in &needs.grants {
            let kind = codes::principal_code(principal.kind);
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
        Ok(())
    }

    fn take_grants(
        &mut self,
        item: &ItemId,
        mut rows: rusqlite::Rows<'_>,
        found: &mut Rows,
    ) -> Result<(), StoreError> {
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "grants", key: item };
            let kind = columns.code(4, codes::principal)?;
            let principal = Principal { kind, id: columns.parse(5)? };
            let value = match columns.optional_integer(3)? {
                None => None,
                Some(_) => Some(columns.code(3, codes::level)?),
            };
            let register = Register { value, stamp: self.stamp(&columns, 0)? };
            found.grants.insert((item.clone(), principal), Some(register));
        }
        Ok(())
    }

    pub(super) fn load_moves(&mut self, needs: &Needs, found: &mut Rows) -> Result<(), StoreError> {
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

    pub(super) fn load_around(
        &mut self,
        items: &BTreeSet<ItemId>,
        found: &mut Rows,
    ) -> Result<(), StoreError> {
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
        blobs::load_attachments(self, items, &mut found.attachments)
    }

    /// The links upward from each of `items`, all the way.
    pub(super) fn load_ancestors(
        &mut self,
        items: &BTreeSet<ItemId>,
        found: &mut Rows,
    ) -> Result<(), StoreError> {
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

/// How errors name a link.
struct LinkName<'a>(&'a ItemId, &'a ItemId);

impl std::fmt::Display for LinkName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.0, self.1)
    }
}
