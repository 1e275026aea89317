//! The records of directories, as rows.

use std::collections::BTreeSet;

use rusqlite::{Params, params};
use serde::{Deserialize, Serialize};
use vfs_sync_core::id::ItemId;

use super::{SqliteRows, as_signed, encode};
use crate::api::record::{DirectoryRecord, EntryRecord, Intent};
use crate::replica::rows::Result;

/// The body of a row. Later versions add variants and keep the existing ones.
#[derive(Serialize, Deserialize)]
enum StoredEntry {
    V1(EntryRecord),
}

/// The body of an intent. Later versions add variants and keep the existing ones.
#[derive(Serialize, Deserialize)]
enum StoredIntent {
    V1(Intent),
}

impl SqliteRows {
    pub(super) fn all_directories(&self) -> Result<Vec<DirectoryRecord>> {
        self.all("SELECT id, body FROM directories ORDER BY id", [], |row| {
            let body: String = self.get(row, 1)?;
            let record: DirectoryRecord = self.json("a directory", &body)?;
            Ok(DirectoryRecord { id: self.get(row, 0)?, ..record })
        })
    }

    pub(super) fn write_directory(&self, record: &DirectoryRecord) -> Result<i64> {
        let body = serde_json::to_string(record).expect("a record is JSON");
        if record.id != 0 {
            let sql = "INSERT OR REPLACE INTO directories (id, body) VALUES (?1, ?2)";
            self.run(sql, params![record.id, body])?;
            return Ok(record.id);
        }
        self.run("INSERT INTO directories (body) VALUES (?1)", [body])?;
        Ok(self.conn.last_insert_rowid())
    }

    pub(super) fn write_entry(&self, directory: i64, row: &EntryRecord) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO directory_entries
             (directory, id, parent, name, inode, item, made, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let (id, parent) = (as_signed(row.id), as_signed(row.parent));
        let (inode, item) = (as_signed(row.disk.inode), row.tree.item.as_str());
        let body = encode(&StoredEntry::V1(row.clone()));
        self.run(sql, params![directory, id, parent, row.name, inode, item, row.made, body])
            .map(drop)
    }

    fn entry_row(&self, row: &rusqlite::Row<'_>, index: usize) -> Result<EntryRecord> {
        let body = row.get_ref(index).map_err(|error| self.failed(&error))?;
        let body = body.as_blob().map_err(|error| self.corrupt("a record", error))?;
        let StoredEntry::V1(entry) = self.bytes("a record", body)?;
        Ok(entry)
    }

    pub(super) fn entries_where(
        &self,
        end: &'static str,
        params: impl Params,
    ) -> Result<Vec<EntryRecord>> {
        let sql = format!("SELECT body FROM directory_entries {end}");
        self.all(&sql, params, |row| self.entry_row(row, 0))
    }

    pub(super) fn records_of_items(
        &self,
        items: &BTreeSet<ItemId>,
    ) -> Result<Vec<(i64, EntryRecord)>> {
        let ids = serde_json::to_string(items).expect("ids are JSON");
        let sql = "SELECT directory, body FROM directory_entries
             WHERE item IN (SELECT value FROM json_each(?1)) ORDER BY directory, id";
        self.all(sql, [ids], |row| Ok((self.get(row, 0)?, self.entry_row(row, 1)?)))
    }

    pub(super) fn records_made(&self) -> Result<Vec<(i64, EntryRecord)>> {
        let sql = "SELECT directory, body FROM directory_entries WHERE made = 1
             ORDER BY directory, id";
        self.all(sql, [], |row| Ok((self.get(row, 0)?, self.entry_row(row, 1)?)))
    }

    pub(super) fn write_intent(&self, directory: i64, intent: &Intent) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO directory_intents (directory, id, body)
             VALUES (?1, ?2, ?3)";
        let body = encode(&StoredIntent::V1(intent.clone()));
        self.run(sql, params![directory, intent.unique, body]).map(drop)
    }

    pub(super) fn intents_of(&self, directory: i64) -> Result<Vec<Intent>> {
        let sql = "SELECT body FROM directory_intents WHERE directory = ?1 ORDER BY id";
        self.all(sql, [directory], |row| {
            let body: Vec<u8> = self.get(row, 0)?;
            let StoredIntent::V1(intent) = self.bytes("an intent", &body)?;
            Ok(intent)
        })
    }

    pub(super) fn count(&self, sql: &'static str, directory: i64) -> Result<u64> {
        let count: Option<i64> = self.one(sql, [directory], |row| row.get(0))?;
        Ok(count.map_or(0, |count| u64::from_ne_bytes(count.to_ne_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::EntryKind;

    #[test]
    fn rows_of_earlier_versions_keep_their_kinds() {
        let kinds = [EntryKind::File, EntryKind::Folder, EntryKind::Link];
        assert_eq!(kinds.map(|kind| encode(&kind)), [[0], [1], [2]]);
    }
}
