//! The replica in a SQLite file: WAL, with every commit durable before it is acknowledged.
//!
//! The registers exist twice, as slots `a` and `b`: one is read, a rematerialisation builds the
//! other. A row of `meta` says which is which, so that a swap is one write.

mod attachment;
mod found;
pub(super) mod inspect;
pub(super) mod open;
mod queue;
mod record;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};
use serde::{Deserialize, Serialize};
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::client::offer::{Lost, LostChange, Removal};
use vfs_sync_core::content::{Attachment, RelationKind};
use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::ItemView;
use vfs_sync_core::id::{BlobId, ChangeId, ItemId, OpId, PrincipalId, RefId, UserId, WriteId};
use vfs_sync_core::item::{Encrypted, Name, ObjectType};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;

use super::rows::{
    AttachmentRow, FoundRow, GrantRow, ItemRow, LinkRow, LostRow, Parents, RemovalRow, Result, Rows,
};
use super::store::{Counts, Meta, MoveId, Slot, Upload};
use crate::api::Query;
use crate::api::node::{QueuedOp, QueuedState, RejectedOp};
use crate::api::record::{DirectoryRecord, EntryRecord, Intent};
use crate::error::ClientError;

/// Builds the statement for a slot: the table's name is followed by the slot's letter.
macro_rules! by_slot {
    ($rows:expr, $slot:expr, $before:literal, $after:literal) => {
        if $rows.is_b($slot) {
            concat!($before, "_b", $after)
        } else {
            concat!($before, "_a", $after)
        }
    };
}
use by_slot;

pub(super) struct SqliteRows {
    conn: Connection,
    path: PathBuf,
    /// True if slot `b` is the current one.
    current_b: bool,
    /// The value before the running transaction.
    committed_b: bool,
    /// True if commits are durable when they return.
    at_once: bool,
    /// The file lock, held as long as the replica is open.
    _lock: std::fs::File,
}

/// An item's body: the fields that are looked up only by the item's id.
#[derive(Serialize, Deserialize)]
struct StoredItem {
    object_type: ObjectType,
    name: Option<String>,
    /// The metadata as JSON text: the compact encoding does not describe itself.
    metadata: String,
    encrypted: Option<Encrypted>,
    created_at: Timestamp,
    access_level: AccessLevel,
    authored_at: Timestamp,
}

impl SqliteRows {
    fn is_b(&self, slot: Slot) -> bool {
        self.current_b == (slot == Slot::Current)
    }

    fn failed(&self, error: &rusqlite::Error) -> ClientError {
        storage_error(&self.path, error)
    }

    fn corrupt(&self, what: &str, reason: impl std::fmt::Display) -> ClientError {
        ClientError::CorruptReplica {
            path: self.path.display().to_string(),
            reason: format!("{what}: {reason}"),
        }
    }

    /// Runs a statement; returns the number of changed rows.
    fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        let run = || self.conn.prepare_cached(sql)?.execute(params);
        run().map_err(|error| self.failed(&error))
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let run = || self.conn.prepare_cached(sql)?.query_row(params, read).optional();
        run().map_err(|error| self.failed(&error))
    }

    fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let failed = |error: rusqlite::Error| self.failed(&error);
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query(params).map_err(failed)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            all.push(read(row)?);
        }
        Ok(all)
    }

    fn get<T: rusqlite::types::FromSql>(&self, row: &Row<'_>, index: usize) -> Result<T> {
        row.get(index).map_err(|error| self.failed(&error))
    }

    fn time(&self, row: &Row<'_>, index: usize) -> Result<Timestamp> {
        let millis: i64 = self.get(row, index)?;
        Timestamp::from_millis(millis).ok_or_else(|| self.corrupt("a time", "is out of range"))
    }

    /// Reads an id from a column, as text or JSON text.
    fn id<T>(&self, row: &Row<'_>, index: usize) -> Result<T>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text = row.get_ref(index).map_err(|error| self.failed(&error))?;
        let text = text.as_str().map_err(|error| self.corrupt("an id", error))?;
        text.parse().map_err(|error| self.corrupt("an id", error))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, what: &str, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| self.corrupt(what, error))
    }

    fn bytes<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T> {
        postcard::from_bytes(bytes).map_err(|error| self.corrupt(what, error))
    }

    fn item_row(&self, row: &Row<'_>) -> Result<ItemRow> {
        let body = row.get_ref(2).map_err(|error| self.failed(&error))?;
        let body = body.as_blob().map_err(|error| self.corrupt("an item", error))?;
        let stored: StoredItem = self.bytes("an item", body)?;
        let name = stored.name.map(Name::new).transpose();
        let view = ItemView {
            item_id: self.id(row, 0)?,
            owner_id: self.id(row, 1)?,
            object_type: stored.object_type,
            name: name.map_err(|error| self.corrupt("a name", error))?,
            metadata: self.json("metadata", &stored.metadata)?,
            encrypted: stored.encrypted,
            created_at: stored.created_at,
            access_level: stored.access_level,
        };
        let at = self.position(row, 3)?;
        Ok(ItemRow { view: Box::new(view), authored_at: stored.authored_at, at })
    }

    fn grant_row(&self, row: &Row<'_>) -> Result<GrantRow> {
        let kind: String = self.get(row, 1)?;
        let kind = match kind.as_str() {
            "user" => PrincipalType::User,
            "group" => PrincipalType::Group,
            "organization" => PrincipalType::Organization,
            other => return Err(self.corrupt("a principal's type", other)),
        };
        let id: PrincipalId = self.id(row, 2)?;
        let level = match self.get::<i64>(row, 3)? {
            1 => AccessLevel::Read,
            2 => AccessLevel::Write,
            3 => AccessLevel::Admin,
            other => return Err(self.corrupt("an access level", other)),
        };
        let (item, principal) = (self.id(row, 0)?, Principal { kind, id });
        let (authored_at, at) = (self.time(row, 4)?, self.position(row, 5)?);
        Ok(GrantRow { item, principal, level, authored_at, at })
    }

    fn attachment_row(&self, row: &Row<'_>) -> Result<AttachmentRow> {
        let body: Vec<u8> = self.get(row, 0)?;
        let attachment = attachment::decode(&body);
        let attachment = attachment.map_err(|error| self.corrupt("an attachment", error))?;
        let attachment = Box::new(attachment);
        let (authored_at, at) = (self.time(row, 1)?, self.position(row, 2)?);
        Ok(AttachmentRow { attachment, authored_at, at })
    }

    fn link_row(&self, row: &Row<'_>) -> Result<LinkRow> {
        let (parent, child) = (self.id(row, 0)?, self.id(row, 1)?);
        let (authored_at, at) = (self.time(row, 2)?, self.position(row, 3)?);
        Ok(LinkRow { parent, child, authored_at, at })
    }

    fn position(&self, row: &Row<'_>, index: usize) -> Result<Option<Position>> {
        let bytes: Option<[u8; POSITION_BYTES]> = self.get(row, index)?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (epoch, counter) = bytes.split_at(6);
        let number =
            |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let epoch = Epoch::from_u64(number(epoch));
        Ok(epoch.map(|epoch| Position { epoch, counter: number(counter) }))
    }

    fn cursor(&self, row: &Row<'_>, index: usize) -> Result<Cursor> {
        let change_id: ChangeId = self.id(row, index + 1)?;
        Ok(Cursor { changed_at: self.time(row, index)?, change_id })
    }
}

const POSITION_BYTES: usize = 14;

/// Encodes a position as bytes whose order is that of positions.
fn position_bytes(at: Option<Position>) -> Option<[u8; POSITION_BYTES]> {
    let at = at?;
    let mut bytes = [0; POSITION_BYTES];
    bytes[..6].copy_from_slice(&at.epoch.as_u64().to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&at.counter.to_be_bytes());
    Some(bytes)
}

fn removal_key(removal: &Removal) -> Vec<u8> {
    use vfs_sync_core::entry::EntryKey;
    let key = match removal.clone() {
        Removal::Item(item) => EntryKey::Item(item),
        Removal::Link { parent, child } => EntryKey::Link { parent, child },
        Removal::Grant { item, principal } => EntryKey::Grant { item, principal },
    };
    key.to_bytes()
}

/// Converts a 64-bit number, such as an inode, to the database's signed integer.
fn as_signed(number: u64) -> i64 {
    i64::from_ne_bytes(number.to_ne_bytes())
}

/// Converts an error of the database.
pub(super) fn storage_error(path: &std::path::Path, error: &rusqlite::Error) -> ClientError {
    use rusqlite::ErrorCode;
    let path = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ClientError::CorruptReplica {
            path,
            reason: format!("{error}; restore it from a backup, or make a new replica and sync"),
        },
        Some(ErrorCode::DiskFull) => {
            ClientError::Storage(format!("the disk of {path} is full: free some space"))
        }
        _ => ClientError::Storage(format!("{path}: {error}")),
    }
}

fn level_number(level: AccessLevel) -> i64 {
    match level {
        AccessLevel::Read => 1,
        AccessLevel::Write => 2,
        AccessLevel::Admin => 3,
    }
}

/// Returns the key of an attachment among those of its item: its id, or nothing for the current
/// content.
fn ref_key(attachment: &Attachment) -> &str {
    match attachment.relation_kind {
        RelationKind::File => "",
        _ => attachment.ref_id.as_str(),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("writing to memory does not fail")
}

impl Rows for SqliteRows {
    fn begin(&mut self, at_once: bool) -> Result<()> {
        self.committed_b = self.current_b;
        if !self.conn.is_autocommit() {
            // A panic left a transaction open: nothing of it was promised.
            self.rollback();
        }
        if self.at_once != at_once {
            // In WAL mode NORMAL keeps the order of commits and leaves out the sync of each.
            let level = if at_once { "FULL" } else { "NORMAL" };
            let set = self.conn.pragma_update(None, "synchronous", level);
            set.map_err(|error| self.failed(&error))?;
            self.at_once = at_once;
        }
        self.run("BEGIN IMMEDIATE", []).map(drop)
    }

    fn commit(&mut self, before: &Meta, meta: &Meta) -> Result<()> {
        self.put_meta(Some(before), meta)?;
        self.run("COMMIT", []).map(drop)
    }

    fn rollback(&mut self) {
        self.current_b = self.committed_b;
        // SQLite may have rolled back by itself already: then there is nothing left to do.
        let _ = self.conn.execute_batch("ROLLBACK");
    }

    fn put_item(&mut self, slot: Slot, row: ItemRow) -> Result<bool> {
        let view = &row.view;
        let body = encode(&StoredItem {
            object_type: view.object_type,
            name: view.name.as_ref().map(|name| name.as_str().to_owned()),
            metadata: serde_json::to_string(&view.metadata).expect("JSON is JSON"),
            encrypted: view.encrypted.clone(),
            created_at: view.created_at,
            access_level: view.access_level,
            authored_at: row.authored_at,
        });
        let (id, owner) = (view.item_id.as_str(), view.owner_id.as_str());
        let insert = by_slot!(
            self,
            slot,
            "INSERT INTO items",
            " (id, owner, body, position) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
        );
        let at = position_bytes(row.at);
        if self.run(insert, params![id, owner, body, at])? == 1 {
            return Ok(true);
        }
        let update = by_slot!(
            self,
            slot,
            "UPDATE items",
            " SET owner = ?2, body = ?3, position = ?4 WHERE id = ?1"
        );
        self.run(update, params![id, owner, body, at])?;
        Ok(false)
    }

    fn remove_item(&mut self, slot: Slot, id: &ItemId) -> Result<bool> {
        let sql = by_slot!(self, slot, "DELETE FROM items", " WHERE id = ?1");
        Ok(self.run(sql, [id.as_str()])? == 1)
    }

    fn item(&mut self, slot: Slot, id: &ItemId) -> Result<Option<ItemRow>> {
        let sql =
            by_slot!(self, slot, "SELECT id, owner, body, position FROM items", " WHERE id = ?1");
        Ok(self.all(sql, [id.as_str()], |row| self.item_row(row))?.pop())
    }

    fn owner(&mut self, slot: Slot, id: &ItemId) -> Result<Option<UserId>> {
        let sql = by_slot!(self, slot, "SELECT owner FROM items", " WHERE id = ?1");
        Ok(self.all(sql, [id.as_str()], |row| self.id(row, 0))?.pop())
    }

    fn put_link(&mut self, slot: Slot, row: LinkRow) -> Result<()> {
        let sql = by_slot!(
            self,
            slot,
            "INSERT INTO links",
            " (parent, child, authored_at, position) VALUES (?1, ?2, ?3, ?4)
              ON CONFLICT DO UPDATE
              SET authored_at = excluded.authored_at, position = excluded.position"
        );
        let (parent, child) = (row.parent.as_str(), row.child.as_str());
        let (at, position) = (row.authored_at.as_millis(), position_bytes(row.at));
        self.run(sql, params![parent, child, at, position]).map(drop)
    }

    fn remove_link(&mut self, slot: Slot, parent: &ItemId, child: &ItemId) -> Result<()> {
        let sql = by_slot!(self, slot, "DELETE FROM links", " WHERE parent = ?1 AND child = ?2");
        self.run(sql, [parent.as_str(), child.as_str()]).map(drop)
    }

    fn parents(&mut self, slot: Slot, child: &ItemId) -> Result<Parents> {
        let sql =
            by_slot!(self, slot, "SELECT parent FROM links", " WHERE child = ?1 ORDER BY parent");
        self.all(sql, [child.as_str()], |row| self.id(row, 0)).map(Parents::from_vec)
    }

    fn children(&mut self, slot: Slot, parent: &ItemId) -> Result<Vec<ItemId>> {
        let sql =
            by_slot!(self, slot, "SELECT child FROM links", " WHERE parent = ?1 ORDER BY child");
        self.all(sql, [parent.as_str()], |row| self.id(row, 0))
    }

    fn put_grant(&mut self, slot: Slot, row: GrantRow) -> Result<()> {
        let sql = by_slot!(
            self,
            slot,
            "INSERT OR REPLACE INTO grants",
            " (item, kind, principal, level, authored_at, position)
              VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        );
        let (kind, id) = (row.principal.kind.as_str(), row.principal.id.as_str());
        let (level, at) = (level_number(row.level), row.authored_at.as_millis());
        let position = position_bytes(row.at);
        self.run(sql, params![row.item.as_str(), kind, id, level, at, position]).map(drop)
    }

    fn grants(&mut self, slot: Slot, item: &ItemId) -> Result<Vec<GrantRow>> {
        let sql = by_slot!(
            self,
            slot,
            "SELECT item, kind, principal, level, authored_at, position FROM grants",
            " WHERE item = ?1"
        );
        self.all(sql, [item.as_str()], |row| self.grant_row(row))
    }

    fn remove_grant(&mut self, slot: Slot, item: &ItemId, principal: &Principal) -> Result<()> {
        let sql = by_slot!(
            self,
            slot,
            "DELETE FROM grants",
            " WHERE item = ?1 AND kind = ?2 AND principal = ?3"
        );
        let (kind, id) = (principal.kind.as_str(), principal.id.as_str());
        self.run(sql, [item.as_str(), kind, id]).map(drop)
    }

    fn put_attachment(&mut self, slot: Slot, row: AttachmentRow) -> Result<()> {
        let sql = by_slot!(
            self,
            slot,
            "INSERT OR REPLACE INTO attachments",
            " (item, ref_id, body, authored_at, position) VALUES (?1, ?2, ?3, ?4, ?5)"
        );
        let (item, key) = (row.attachment.item_id.as_str(), ref_key(&row.attachment));
        let at = row.authored_at.as_millis();
        let position = position_bytes(row.at);
        self.run(sql, params![item, key, attachment::encode(&row.attachment), at, position])
            .map(drop)
    }

    fn remove_attachment(
        &mut self,
        slot: Slot,
        item: &ItemId,
        ref_id: Option<&RefId>,
    ) -> Result<()> {
        let sql =
            by_slot!(self, slot, "DELETE FROM attachments", " WHERE item = ?1 AND ref_id = ?2");
        self.run(sql, [item.as_str(), ref_id.map_or("", RefId::as_str)]).map(drop)
    }

    fn content(&mut self, slot: Slot, item: &ItemId) -> Result<Option<AttachmentRow>> {
        let sql = by_slot!(
            self,
            slot,
            "SELECT body, authored_at, position FROM attachments",
            " WHERE item = ?1 AND ref_id = ''"
        );
        Ok(self.all(sql, [item.as_str()], |row| self.attachment_row(row))?.pop())
    }

    fn contents(&mut self, after: Option<&ItemId>, at_most: usize) -> Result<Vec<AttachmentRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT body, authored_at, position FROM attachments",
            " WHERE item > ?1 AND ref_id = '' ORDER BY item LIMIT ?2"
        );
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let after = after.map_or("", ItemId::as_str);
        self.all(sql, params![after, limit], |row| self.attachment_row(row))
    }

    fn parent_links(&mut self, slot: Slot, child: &ItemId) -> Result<Vec<LinkRow>> {
        let sql = by_slot!(
            self,
            slot,
            "SELECT parent, child, authored_at, position FROM links",
            " WHERE child = ?1 ORDER BY parent"
        );
        self.all(sql, [child.as_str()], |row| self.link_row(row))
    }
    fn items_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<&ItemId>,
        at_most: usize,
    ) -> Result<Vec<ItemRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT id, owner, body, position FROM items",
            " WHERE id > ?1 AND (position IS NULL OR position > ?2) ORDER BY id LIMIT ?3"
        );
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let position = position_bytes(position).unwrap_or_default();
        let after = after.map_or("", ItemId::as_str);
        self.all(sql, params![after, position, limit], |row| self.item_row(row))
    }
    fn links_told_after(
        &mut self,
        position: Option<Position>,
        after: Option<(&ItemId, &ItemId)>,
        at_most: usize,
    ) -> Result<Vec<LinkRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT parent, child, authored_at, position FROM links",
            " WHERE (parent, child) > (?1, ?2) AND (position IS NULL OR position > ?3)
              ORDER BY parent, child LIMIT ?4"
        );
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let position = position_bytes(position).unwrap_or_default();
        let (parent, child) = after.map_or(("", ""), |(p, c)| (p.as_str(), c.as_str()));
        self.all(sql, params![parent, child, position, limit], |row| self.link_row(row))
    }
    fn put_removal(&mut self, row: RemovalRow) -> Result<()> {
        let body = serde_json::to_string(&row.removal).expect("a removal serializes");
        let sql = "INSERT OR REPLACE INTO removals (key, body, authored_at, changed_at, change_id)
             VALUES (?1, ?2, ?3, ?4, ?5)";
        let (authored_at, at) = (row.authored_at.as_millis(), row.position.changed_at.as_millis());
        let change = row.position.change_id.as_str();
        self.run(sql, params![removal_key(&row.removal), body, authored_at, at, change]).map(drop)
    }
    fn removals(&mut self, after: i64, at_most: usize) -> Result<Vec<(i64, RemovalRow)>> {
        let sql = "SELECT seq, body, authored_at, changed_at, change_id FROM removals
             WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.all(sql, [after, limit], |row| {
            let body: String = self.get(row, 1)?;
            let removal = self.json("a removal", &body)?;
            let (authored_at, position) = (self.time(row, 2)?, self.cursor(row, 3)?);
            Ok((self.get(row, 0)?, RemovalRow { removal, authored_at, position }))
        })
    }
    fn prune_removals(&mut self, before: Timestamp, at_most: usize) -> Result<()> {
        self.run("DELETE FROM removals WHERE changed_at < ?1", [before.as_millis()])?;
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let sql = "DELETE FROM removals WHERE seq <= (SELECT max(seq) FROM removals) - ?1";
        self.run(sql, [at_most]).map(drop)
    }
    fn container_clock_up_to(&mut self, position: Position) -> Result<Option<Cursor>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT changed_at, change_id FROM containers",
            " WHERE change_id <= ?1 ORDER BY changed_at DESC, change_id DESC LIMIT 1"
        );
        let change = position.change_id();
        Ok(self.all(sql, [change.as_str()], |row| self.cursor(row, 0))?.pop())
    }

    fn push_lost(&mut self, lost: &Lost) -> Result<()> {
        let body = serde_json::to_string(lost).expect("a lost change serializes");
        let kept = lost.change.kept().map(BlobId::as_str);
        let sql = "INSERT INTO lost (key, item, blob_id, body) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET blob_id = excluded.blob_id, body = excluded.body";
        self.run(sql, params![lost.key(), lost.item.as_str(), kept, body]).map(drop)
    }
    fn lost(&mut self, after: i64, at_most: usize) -> Result<Vec<LostRow>> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let sql = "SELECT seq, body FROM lost WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        self.all(sql, [after, limit], |row| {
            let body: String = self.get(row, 1)?;
            Ok(LostRow { seq: self.get(row, 0)?, lost: self.json("a lost change", &body)? })
        })
    }
    fn is_lost(&mut self, item: &ItemId) -> Result<bool> {
        let sql = "SELECT 1 FROM lost WHERE key = ?1";
        let found: Option<i64> = self.one(sql, [LostChange::Item.key(item)], |row| row.get(0))?;
        Ok(found.is_some())
    }
    fn remove_lost(&mut self, seq: i64) -> Result<()> {
        self.run("DELETE FROM lost WHERE seq = ?1", [seq]).map(drop)
    }
    fn remove_lost_content(&mut self, item: &ItemId) -> Result<()> {
        let sql = "DELETE FROM lost WHERE key = ?1 AND blob_id IS NULL";
        self.run(sql, [LostChange::content_key(item)]).map(drop)
    }

    fn forget(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO forgotten (blob_id, item) VALUES (?1, ?2)";
        self.run(sql, [blob_id.as_str(), item.as_str()]).map(drop)
    }

    fn forgotten(&mut self, at_most: usize) -> Result<Vec<(ItemId, BlobId)>> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let sql = "SELECT item, blob_id FROM forgotten LIMIT ?1";
        self.all(sql, [limit], |row| Ok((self.id(row, 0)?, self.id(row, 1)?)))
    }

    fn remove_forgotten(&mut self, blob_id: &BlobId) -> Result<()> {
        self.run("DELETE FROM forgotten WHERE blob_id = ?1", [blob_id.as_str()]).map(drop)
    }

    fn bump_container(&mut self, slot: Slot, id: &ItemId, at: &Cursor) -> Result<()> {
        let sql = by_slot!(
            self,
            slot,
            "INSERT OR REPLACE INTO containers",
            " (id, changed_at, change_id) VALUES (?1, ?2, ?3)"
        );
        let (millis, change) = (at.changed_at.as_millis(), at.change_id.as_str());
        self.run(sql, params![id.as_str(), millis, change]).map(drop)
    }

    fn changed_containers(
        &mut self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT id, changed_at, change_id FROM containers",
            " WHERE (changed_at, change_id) > (?1, ?2) ORDER BY changed_at, change_id, id LIMIT ?3"
        );
        let millis = after.map_or(i64::MIN, |cursor| cursor.changed_at.as_millis());
        let change = after.map_or("", |cursor| cursor.change_id.as_str());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(sql, params![millis, change, limit], |row| {
            let change_id: ChangeId = self.id(row, 2)?;
            Ok((self.id(row, 0)?, Cursor { changed_at: self.time(row, 1)?, change_id }))
        })
    }

    fn set_top(&mut self, slot: Slot, id: &ItemId, top: bool) -> Result<()> {
        let sql = if top {
            by_slot!(self, slot, "INSERT INTO tops", " (id) VALUES (?1) ON CONFLICT DO NOTHING")
        } else {
            by_slot!(self, slot, "DELETE FROM tops", " WHERE id = ?1")
        };
        self.run(sql, [id.as_str()]).map(drop)
    }

    fn tops(&mut self) -> Result<Vec<(ItemId, Option<UserId>)>> {
        let sql = if self.is_b(Slot::Current) {
            "SELECT t.id, i.owner FROM tops_b t LEFT JOIN items_b i ON i.id = t.id ORDER BY t.id"
        } else {
            "SELECT t.id, i.owner FROM tops_a t LEFT JOIN items_a i ON i.id = t.id ORDER BY t.id"
        };
        self.all(sql, [], |row| {
            let told = self.get::<Option<String>>(row, 1)?.is_some();
            Ok((self.id(row, 0)?, if told { Some(self.id(row, 1)?) } else { None }))
        })
    }

    fn clear(&mut self, slot: Slot) -> Result<()> {
        self.run(by_slot!(self, slot, "DELETE FROM items", ""), [])?;
        self.run(by_slot!(self, slot, "DELETE FROM links", ""), [])?;
        self.run(by_slot!(self, slot, "DELETE FROM grants", ""), [])?;
        self.run(by_slot!(self, slot, "DELETE FROM attachments", ""), [])?;
        self.run(by_slot!(self, slot, "DELETE FROM containers", ""), [])?;
        self.run(by_slot!(self, slot, "DELETE FROM tops", ""), []).map(drop)
    }

    fn swap_slots(&mut self) -> Result<()> {
        self.current_b = !self.current_b;
        let current = if self.current_b { "b" } else { "a" };
        self.run("INSERT OR REPLACE INTO meta (key, value) VALUES ('slot', ?1)", [current])
            .map(drop)
    }

    fn is_indexed(&mut self) -> Result<bool> {
        let sql = "SELECT 1 FROM meta WHERE key = 'indexed'";
        let found: Option<i64> = self.one(sql, [], |row| row.get(0))?;
        Ok(found.is_some())
    }
    fn set_indexed(&mut self, indexed: bool) -> Result<()> {
        let sql = if indexed {
            "INSERT OR REPLACE INTO meta (key, value) VALUES ('indexed', '1')"
        } else {
            "DELETE FROM meta WHERE key = 'indexed'"
        };
        self.run(sql, []).map(drop)
    }
    fn clear_found(&mut self) -> Result<()> {
        self.set_indexed(false)?;
        self.run("DELETE FROM found_metadata", [])?;
        self.run("DELETE FROM found", []).map(drop)
    }
    fn put_found(&mut self, row: FoundRow) -> Result<()> {
        self.insert_found(&row)
    }
    fn remove_found(&mut self, id: &ItemId) -> Result<()> {
        self.run("DELETE FROM found_metadata WHERE id = ?1", [id.as_str()])?;
        self.run("DELETE FROM found WHERE id = ?1", [id.as_str()]).map(drop)
    }
    fn find(&mut self, query: &Query) -> Result<Vec<ItemId>> {
        self.find_ids(query)
    }

    fn push_queue(&mut self, op: &Operation, state: QueuedState) -> Result<()> {
        self.insert_queued(None, op, state)
    }
    fn push_queue_of(&mut self, of: &MoveId, op: &Operation, state: QueuedState) -> Result<()> {
        self.insert_queued(Some(of), op, state)
    }
    fn move_of(&mut self, op_id: &OpId) -> Result<Option<MoveId>> {
        let sql = "SELECT moved FROM queue WHERE op_id = ?1 AND moved IS NOT NULL";
        Ok(self.all(sql, [op_id.as_str()], |row| self.id(row, 0))?.pop())
    }
    fn held_moves(&mut self) -> Result<BTreeSet<MoveId>> {
        let sql = "SELECT DISTINCT moved FROM queue WHERE state = 2";
        Ok(self.all(sql, [], |row| self.id(row, 0))?.into_iter().collect())
    }
    fn held_of(&mut self, of: &MoveId) -> Result<Vec<Operation>> {
        let held = self.queued("WHERE moved = ?1 AND state = 2 ORDER BY seq", [of.as_str()])?;
        Ok(held.into_iter().map(|one| one.operation).collect())
    }
    fn is_moving(&mut self, of: &MoveId) -> Result<bool> {
        let queued = "SELECT 1 FROM queue WHERE moved = ?1 AND state = 0 LIMIT 1";
        let uploads = "SELECT 1 FROM uploads WHERE state = 0 AND body ->> '$.moved' = ?1 LIMIT 1";
        for sql in [queued, uploads] {
            if self.one(sql, [of.as_str()], |_| Ok(()))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
    fn to_the_end(&mut self, op_id: &OpId) -> Result<()> {
        let sql = "UPDATE queue SET seq = (SELECT max(seq) FROM queue) + 1 WHERE op_id = ?1";
        self.run(sql, [op_id.as_str()]).map(drop)
    }
    fn queue_is_empty(&mut self) -> Result<bool> {
        self.one("SELECT 1 FROM queue LIMIT 1", [], |_| Ok(())).map(|found| found.is_none())
    }
    fn queue_of_item(&mut self, item: &ItemId) -> Result<Vec<QueuedOp>> {
        self.queued("WHERE item = ?1 ORDER BY seq", [item.as_str()])
    }
    fn queue_of_parent(&mut self, parent: &ItemId) -> Result<Vec<ItemId>> {
        let sql = "SELECT DISTINCT item FROM queue WHERE parent = ?1";
        self.all(sql, [parent.as_str()], |row| self.id(row, 0))
    }
    fn pending(&mut self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        self.pending_operations(at_most)
    }
    fn queue(&mut self, limit: usize) -> Result<Vec<QueuedOp>> {
        self.queued("ORDER BY seq LIMIT ?1", [i64::try_from(limit).unwrap_or(i64::MAX)])
    }
    fn unsettled_items(&mut self) -> Result<Vec<ItemId>> {
        let sql = "SELECT item FROM queue WHERE state = 1
             UNION SELECT item FROM uploads WHERE state = 1";
        self.all(sql, [], |row| self.id(row, 0))
    }
    fn acknowledge(
        &mut self,
        op_id: &OpId,
        write_id: WriteId,
        at: Option<Timestamp>,
    ) -> Result<Option<ItemId>> {
        let write_id = i64::try_from(write_id.get()).expect("a write id has 53 bits");
        let at = at.map(Timestamp::as_millis);
        let sql = "UPDATE queue SET state = 1, given_at = NULL, write_id = min(write_id, ?2),
             occurred_at = min(occurred_at, ifnull(?3, occurred_at)) WHERE op_id = ?1
             RETURNING item, seq, occurred_at";
        let found = self.all(sql, params![op_id.as_str(), write_id, at], |row| {
            Ok((self.id::<ItemId>(row, 0)?, self.get::<i64>(row, 1)?, self.get::<i64>(row, 2)?))
        })?;
        let Some((item, seq, stored_at)) = found.into_iter().next() else { return Ok(None) };
        let sql = "UPDATE queue SET given_at = max(given_at, ?3)
             WHERE item = ?1 AND seq > ?2 AND given_at IS NOT NULL";
        self.run(sql, params![item.as_str(), seq, stored_at])?;
        Ok(Some(item))
    }
    fn unacknowledge(&mut self, covered: Option<WriteId>, as_sent: bool) -> Result<BTreeSet<OpId>> {
        let covered = covered.map_or(0, WriteId::get);
        let covered = i64::try_from(covered).expect("a write id has 53 bits");
        let which = "WHERE state = 1 AND write_id > ?1";
        let texts: Vec<String> =
            self.all(&format!("SELECT op FROM queue {which}"), [covered], |row| self.get(row, 0))?;
        let mut again = BTreeSet::new();
        for text in &texts {
            // The text has the time that it was sent with.
            let Operation { op_id, occurred_at, .. } = self.sent(text)?;
            if as_sent {
                let sql = "UPDATE queue SET given_at = occurred_at, occurred_at = ?2
                     WHERE op_id = ?1";
                self.run(sql, params![op_id.as_str(), occurred_at.as_millis()])?;
            } else if let Some(one) = self.queued("WHERE op_id = ?1", [op_id.as_str()])?.pop() {
                self.restamp(&op_id, one.operation.occurred_at)?;
            }
            again.insert(op_id);
        }
        self.run(&format!("UPDATE queue SET state = 0 {which}"), [covered])?;
        Ok(again)
    }
    fn restamp(&mut self, op_id: &OpId, occurred_at: Timestamp) -> Result<()> {
        let found = self.queued("WHERE op_id = ?1", [op_id.as_str()])?.pop();
        let Some(one) = found else { return Ok(()) };
        let text = Operation { occurred_at, ..one.operation }.to_json();
        let sql = "UPDATE queue SET occurred_at = ?2, op = ?3, given_at = NULL WHERE op_id = ?1";
        self.run(sql, params![op_id.as_str(), occurred_at.as_millis(), text]).map(drop)
    }
    fn remove_queued(&mut self, op_id: &OpId) -> Result<Option<Operation>> {
        let found = self.queued("WHERE op_id = ?1", [op_id.as_str()])?.pop();
        self.run("DELETE FROM queue WHERE op_id = ?1", [op_id.as_str()])?;
        Ok(found.map(|one| one.operation))
    }
    fn remove_covered(&mut self, through: WriteId) -> Result<Vec<Operation>> {
        self.take_covered(through)
    }
    fn given_times(&mut self) -> Result<BTreeMap<OpId, Timestamp>> {
        let sql = "SELECT op_id, given_at FROM queue WHERE state = 0 AND given_at IS NOT NULL";
        let given = self.all(sql, [], |row| {
            let at: i64 = self.get(row, 1)?;
            let given_at = Timestamp::from_millis(at)
                .ok_or_else(|| self.corrupt("a queued operation's time", at))?;
            Ok((self.id(row, 0)?, given_at))
        })?;
        Ok(given.into_iter().collect())
    }
    fn shift_pending(&mut self, by: u64) -> Result<()> {
        self.shift(by)
    }
    fn renumber(&mut self, op_id: &OpId, write_id: WriteId) -> Result<()> {
        let write_id = i64::try_from(write_id.get()).expect("a write id has 53 bits");
        let sql = "UPDATE queue SET write_id = ?2 WHERE op_id = ?1";
        self.run(sql, params![op_id.as_str(), write_id]).map(drop)
    }
    fn latest_queued_stamp(&mut self) -> Result<Option<Timestamp>> {
        let sql = "SELECT max(occurred_at) FROM queue";
        let millis: Option<i64> = self.one(sql, [], |row| row.get(0))?.flatten();
        Ok(millis.and_then(Timestamp::from_millis))
    }

    fn push_rejected(&mut self, op: &RejectedOp) -> Result<()> {
        self.insert_rejected(op)
    }
    fn rejected(&mut self, limit: usize) -> Result<Vec<RejectedOp>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.rejected_where("ORDER BY seq LIMIT ?1", [limit])
    }
    fn remove_rejected(&mut self, op_id: &OpId) -> Result<Option<RejectedOp>> {
        let found = self.rejected_where("WHERE op_id = ?1", [op_id.as_str()])?.pop();
        self.run("DELETE FROM rejected WHERE op_id = ?1", [op_id.as_str()])?;
        Ok(found)
    }

    fn put_upload(&mut self, upload: &Upload) -> Result<()> {
        self.write_upload(upload)
    }
    fn remove_upload(&mut self, seq: i64) -> Result<()> {
        self.run("DELETE FROM uploads WHERE seq = ?1", [seq]).map(drop)
    }
    fn uploads(&mut self, after: i64, at_most: usize) -> Result<Vec<Upload>> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.uploads_where(
            "WHERE seq > ?1 AND state = 0 AND NOT EXISTS (
                 SELECT 1 FROM queue WHERE queue.item = uploads.item AND queue.state = 0)
             ORDER BY seq LIMIT ?2",
            [after, limit],
        )
    }
    fn uploads_of_item(&mut self, item: &ItemId) -> Result<Vec<Upload>> {
        self.uploads_where("WHERE item = ?1 ORDER BY seq", [item.as_str()])
    }
    fn remove_attached_upload(&mut self, item: &ItemId, blob_id: &BlobId) -> Result<()> {
        let sql = "DELETE FROM uploads WHERE item = ?1 AND blob_id = ?2 AND state = 1";
        self.run(sql, [item.as_str(), blob_id.as_str()]).map(drop)
    }
    fn remove_attached_uploads(&mut self) -> Result<Vec<Upload>> {
        let removed = self.uploads_where("WHERE state = 1", [])?;
        if !removed.is_empty() {
            self.run("DELETE FROM uploads WHERE state = 1", [])?;
        }
        Ok(removed)
    }
    fn reset_uploads(&mut self) -> Result<()> {
        self.reset_all_uploads()
    }
    fn rejected_uploads(&mut self) -> Result<Vec<Upload>> {
        self.uploads_where("WHERE state = 2 ORDER BY seq", [])
    }
    fn is_uploading(&mut self, blob_id: &BlobId) -> Result<bool> {
        let sql = "SELECT 1 FROM uploads WHERE blob_id = ?1";
        let found: Option<i64> = self.one(sql, [blob_id.as_str()], |row| row.get(0))?;
        Ok(found.is_some())
    }
    fn is_needed(&mut self, blob_id: &BlobId) -> Result<bool> {
        let sql = "SELECT 1 FROM uploads WHERE blob_id = ?1
             UNION ALL SELECT 1 FROM lost WHERE blob_id = ?1 LIMIT 1";
        let found: Option<i64> = self.one(sql, [blob_id.as_str()], |row| row.get(0))?;
        Ok(found.is_some())
    }

    fn blobs_to_keep(&mut self) -> Result<Vec<BlobId>> {
        let sql = "SELECT blob_id FROM uploads
             UNION ALL SELECT blob_id FROM lost WHERE blob_id IS NOT NULL";
        self.all(sql, [], |row| self.id(row, 0))
    }
    fn counts(&mut self) -> Result<Counts> {
        self.count_all()
    }

    fn directories(&mut self) -> Result<Vec<DirectoryRecord>> {
        self.all_directories()
    }
    fn put_directory(&mut self, record: &DirectoryRecord) -> Result<i64> {
        self.write_directory(record)
    }
    fn remove_directory(&mut self, directory: i64) -> Result<()> {
        self.run("DELETE FROM directory_entries WHERE directory = ?1", [directory])?;
        self.run("DELETE FROM directory_intents WHERE directory = ?1", [directory])?;
        self.run("DELETE FROM directories WHERE id = ?1", [directory]).map(drop)
    }
    fn put_entry(&mut self, directory: i64, row: &EntryRecord) -> Result<()> {
        self.write_entry(directory, row)
    }
    fn remove_entry(&mut self, directory: i64, id: u64) -> Result<()> {
        let sql = "DELETE FROM directory_entries WHERE directory = ?1 AND id = ?2";
        self.run(sql, params![directory, as_signed(id)]).map(drop)
    }
    fn entries(&mut self, directory: i64, parent: u64) -> Result<Vec<EntryRecord>> {
        let end = "WHERE directory = ?1 AND parent = ?2 ORDER BY name";
        self.entries_where(end, params![directory, as_signed(parent)])
    }
    fn entry(&mut self, directory: i64, id: u64) -> Result<Option<EntryRecord>> {
        let found = self
            .entries_where("WHERE directory = ?1 AND id = ?2", params![directory, as_signed(id)]);
        Ok(found?.pop())
    }
    fn entry_named(
        &mut self,
        directory: i64,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<EntryRecord>> {
        let end = "WHERE directory = ?1 AND parent = ?2 AND name = ?3";
        Ok(self.entries_where(end, params![directory, as_signed(parent), name])?.pop())
    }
    fn entries_of_inode(&mut self, directory: i64, inode: u64) -> Result<Vec<EntryRecord>> {
        let end = "WHERE directory = ?1 AND inode = ?2 ORDER BY id";
        self.entries_where(end, params![directory, as_signed(inode)])
    }
    fn entries_of_items(&mut self, items: &BTreeSet<ItemId>) -> Result<Vec<(i64, EntryRecord)>> {
        self.records_of_items(items)
    }
    fn entries_made(&mut self) -> Result<Vec<(i64, EntryRecord)>> {
        self.records_made()
    }
    fn count_entries(&mut self, directory: i64) -> Result<u64> {
        self.count("SELECT count(*) FROM directory_entries WHERE directory = ?1", directory)
    }
    fn last_entry(&mut self, directory: i64) -> Result<u64> {
        self.count(
            "SELECT ifnull(max(id), 0) FROM directory_entries WHERE directory = ?1",
            directory,
        )
    }
    fn put_intent(&mut self, directory: i64, intent: &Intent) -> Result<()> {
        self.write_intent(directory, intent)
    }
    fn remove_intent(&mut self, directory: i64, unique: &str) -> Result<()> {
        let sql = "DELETE FROM directory_intents WHERE directory = ?1 AND id = ?2";
        self.run(sql, params![directory, unique]).map(drop)
    }
    fn intents(&mut self, directory: i64) -> Result<Vec<Intent>> {
        self.intents_of(directory)
    }

    fn count_items(&mut self) -> Result<u64> {
        let sql = by_slot!(self, Slot::Current, "SELECT count(*) FROM items", "");
        let count: Option<i64> = self.one(sql, [], |row| row.get(0))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    fn queued_uploads(&mut self, at_most: usize) -> Result<Vec<Upload>> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.uploads_where("WHERE state = 0 ORDER BY seq LIMIT ?1", [limit])
    }
    fn integrity(&mut self) -> Result<Vec<String>> {
        self.check_integrity()
    }
    fn verify(&mut self) -> Result<u64> {
        self.verify_all()
    }
    fn all_items(&mut self) -> Result<Vec<ItemRow>> {
        let slot = Slot::Current;
        let sql =
            by_slot!(self, slot, "SELECT id, owner, body, position FROM items", " ORDER BY id");
        self.all(sql, [], |row| self.item_row(row))
    }
    fn all_links(&mut self) -> Result<Vec<LinkRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT parent, child, authored_at, position FROM links",
            " ORDER BY parent, child"
        );
        self.all(sql, [], |row| self.link_row(row))
    }
    fn all_grants(&mut self) -> Result<Vec<GrantRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT item, kind, principal, level, authored_at, position FROM grants",
            " ORDER BY item, kind, principal"
        );
        let mut grants = self.all(sql, [], |row| self.grant_row(row))?;
        grants.sort_by(|a, b| (&a.item, &a.principal).cmp(&(&b.item, &b.principal)));
        Ok(grants)
    }
    fn all_attachments(&mut self) -> Result<Vec<AttachmentRow>> {
        let sql = by_slot!(
            self,
            Slot::Current,
            "SELECT body, authored_at, position FROM attachments",
            " ORDER BY item, ref_id"
        );
        self.all(sql, [], |row| self.attachment_row(row))
    }
}
