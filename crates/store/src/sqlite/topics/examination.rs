//! Reads for a doctor: pages of rows, counts of registers and blobs, and facts about the file.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, params};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::StageStatus;

use super::members;
use crate::encoding;
use crate::error::{Result, StoreError};
use crate::examination::{
    ChargePlace, DatabaseFacts, Examine, MalformedRow, OldestRows, state_row,
};
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Maintenance as _;

impl Examine for SqliteTransaction<'_> {
    async fn owned_after(
        &mut self,
        owner: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<Vec<ItemId>> {
        let Some(uid) = self.uid(owner)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT item_id FROM items WHERE owner = ?1 AND item_id > ?2 ORDER BY item_id LIMIT ?3",
        )?;
        let mut rows = select.query(params![uid, after.map_or("", ItemId::as_str), at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Columns { row, table: "items", key: owner }.parse(0)?);
        }
        Ok(found)
    }

    async fn known_after(&mut self, after: Option<&UserId>, at_most: u32) -> Result<Vec<UserId>> {
        let mut select = self
            .prepare("SELECT user_id FROM realms WHERE user_id > ?1 ORDER BY user_id LIMIT ?2")?;
        let mut rows = select.query(params![after.map_or("", UserId::as_str), at_most])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Columns { row, table: "realms", key: "?" }.parse(0)?);
        }
        Ok(found)
    }

    async fn read_after(
        &mut self,
        reader: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<(Vec<ItemId>, Option<ItemId>)> {
        let Some(uid) = self.uid(reader)? else { return Ok((Vec::new(), None)) };
        // The rows are in the order of the items: those of others are passed over, so many at a time.
        let scanned = at_most.saturating_mul(8);
        let mut select = self.prepare(
            "SELECT item_id, uid FROM access WHERE item_id > ?1 ORDER BY item_id, uid LIMIT ?2",
        )?;
        let mut rows = select.query(params![after.map_or("", ItemId::as_str), scanned])?;
        let (mut found, mut count, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "access", key: reader };
            let item: ItemId = columns.parse(0)?;
            if columns.integer(1)? == uid {
                found.push(item.clone());
            }
            count += 1;
            last = Some(item);
            if found.len() as u64 == u64::from(at_most) {
                return Ok((found, last));
            }
        }
        if count < scanned {
            return Ok((found, None));
        }
        // The last item may have more rows: they are looked up, so that the page ends after it.
        if let Some(last) = &last
            && found.last() != Some(last)
        {
            let mut held = self.prepare("SELECT 1 FROM access WHERE item_id = ?1 AND uid = ?2")?;
            if held.exists(params![last.as_str(), uid])? {
                found.push(last.clone());
            }
        }
        Ok((found, last))
    }

    async fn count_registers(&mut self, items: &[ItemId]) -> Result<(u64, u64)> {
        let (mut links, mut grants) = (0, 0);
        for item in items {
            links +=
                self.query_count("SELECT count(*) FROM links WHERE parent = ?1", [item.as_str()])?;
            grants += self
                .query_count("SELECT count(*) FROM grants WHERE item_id = ?1", [item.as_str()])?;
        }
        Ok((links, grants))
    }

    async fn held(&mut self, owner: &UserId) -> Result<Option<MetadataUsage>> {
        let mut select =
            self.prepare("SELECT items, links, grants, bytes FROM realms WHERE user_id = ?1")?;
        let mut rows = select.query([owner.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "realms", key: owner };
        Ok(Some(MetadataUsage {
            items: columns.unsigned(0)?,
            links: columns.unsigned(1)?,
            grants: columns.unsigned(2)?,
            bytes: columns.unsigned(3)?,
        }))
    }

    async fn leaving(&mut self, users: &[UserId]) -> Result<Vec<UserId>> {
        let mut found = Vec::new();
        for user in users {
            if members::is_leaving(self, user)? {
                found.push(user.clone());
            }
        }
        Ok(found)
    }

    async fn count_charges(
        &mut self,
        user: &UserId,
        after: Option<&ChargePlace>,
        at_most: u32,
    ) -> Result<(Usage, Option<ChargePlace>)> {
        let mut usage = Usage::default();
        let Some(uid) = self.uid(user)? else { return Ok((usage, None)) };
        let (staged_after, charged_after) = match after {
            None => (Some(""), ""),
            Some(ChargePlace::Stage(stage)) => (Some(stage.as_str()), ""),
            Some(ChargePlace::Blob(blob)) => (None, blob.as_str()),
        };
        let mut left = at_most;
        if let Some(after) = staged_after {
            let mut select = self.prepare(
                "SELECT s.staging_id, s.status, b.reserved, b.charged IS NULL FROM blob_stages s \
                 JOIN blobs b ON b.blob_id = s.blob_id \
                 WHERE s.owner = ?1 AND s.staging_id > ?2 ORDER BY s.staging_id LIMIT ?3",
            )?;
            let mut rows = select.query(params![uid, after, left])?;
            let mut last: Option<StagingId> = None;
            while let Some(row) = rows.next()? {
                let columns = Columns { row, table: "blob_stages", key: user };
                let reserved = columns.unsigned(2)?;
                let is_own = columns.integer(3)? != 0;
                let is_staged = columns.text(1)? == StageStatus::Staged.as_str();
                add(&mut usage, reserved, is_own, is_staged);
                last = Some(columns.parse(0)?);
                left -= 1;
            }
            if left == 0 {
                return Ok((usage, last.map(ChargePlace::Stage)));
            }
        }
        let mut select = self.prepare(
            "SELECT blob_id, reserved FROM blobs WHERE charged = ?1 AND blob_id > ?2 \
             ORDER BY blob_id LIMIT ?3",
        )?;
        let mut rows = select.query(params![uid, charged_after, left])?;
        let mut last: Option<BlobId> = None;
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "blobs", key: user };
            add(&mut usage, columns.unsigned(1)?, true, false);
            last = Some(columns.parse(0)?);
            left -= 1;
        }
        Ok((usage, last.filter(|_| left == 0).map(ChargePlace::Blob)))
    }

    async fn malformed_states(
        &mut self,
        user: &UserId,
        after: &str,
        at_most: u32,
    ) -> Result<(Vec<MalformedRow>, Option<String>)> {
        let Some(uid) = self.uid(user)? else { return Ok((Vec::new(), None)) };
        let mut select = self.prepare(
            "SELECT changed_at, change_id, write_ids, client FROM reconcile_state \
             WHERE uid = ?1 AND client > ?2 ORDER BY client LIMIT ?3",
        )?;
        let mut rows = select.query(params![uid, after, at_most])?;
        let (mut malformed, mut left, mut last) = (Vec::new(), at_most, None);
        while let Some(row) = rows.next()? {
            let client: String = row.get(3)?;
            let columns = Columns { row, table: "reconcile_state", key: &client };
            let parse = || {
                let (changed_at, change_id) = (columns.integer(0)?, columns.text(1)?);
                encoding::reconcile_state(&client, changed_at, change_id, columns.text(2)?)
            };
            if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
                malformed.push(state_row(user, &client, reason));
            }
            left -= 1;
            last = Some(client);
        }
        Ok((malformed, last.filter(|_| left == 0)))
    }

    async fn oldest_rows(&mut self, before: Timestamp) -> Result<OldestRows> {
        let before = before.as_millis();
        let oldest = |sql: &str| -> Result<Option<Timestamp>> {
            let millis: Option<i64> =
                self.prepare(sql)?.query_row([before], |row| row.get(0)).optional()?;
            Ok(millis.and_then(Timestamp::from_millis))
        };
        let mut found = OldestRows {
            stage: oldest(
                "SELECT expires_at FROM blob_stages WHERE status = 'blob-stage:staged' \
                 AND expires_at < ?1 ORDER BY expires_at LIMIT 1",
            )?,
            reclaim: oldest(
                "SELECT reclaim_at FROM blobs WHERE reclaim_at < ?1 ORDER BY reclaim_at LIMIT 1",
            )?,
            version: oldest(
                "SELECT surplus_since FROM blob_refs WHERE surplus_since < ?1 \
                 ORDER BY surplus_since LIMIT 1",
            )?,
            trashed: oldest(
                "SELECT at FROM trash WHERE state = 0 AND at < ?1 ORDER BY at LIMIT 1",
            )?,
            purging: oldest(
                "SELECT at FROM trash WHERE state = 1 AND at < ?1 ORDER BY at LIMIT 1",
            )?,
            removal: oldest(
                "SELECT changed_at FROM feed WHERE removal = 1 AND changed_at < ?1 \
                 ORDER BY changed_at LIMIT 1",
            )?,
            result: oldest(
                "SELECT accepted_from FROM replicas WHERE accepted_from < ?1 \
                 ORDER BY accepted_from LIMIT 1",
            )?,
            deletion: oldest(
                "SELECT due_at FROM deletions WHERE due_at < ?1 ORDER BY due_at LIMIT 1",
            )?,
            last_call: oldest(
                "SELECT last_seen FROM devices WHERE last_seen > ?1 - 1000000000000000 \
                 ORDER BY last_seen DESC LIMIT 1",
            )?,
            held_until: None,
        };
        found.held_until = Some(self.removals_held_until().await?);
        Ok(found)
    }

    async fn database_facts(&mut self) -> Result<DatabaseFacts> {
        let mut numbers = BTreeMap::new();
        for name in ["page_size", "page_count", "freelist_count"] {
            let number: i64 = self.connection.pragma_query_value(None, name, |row| row.get(0))?;
            numbers.insert(name, number.unsigned_abs());
        }
        let pages = |name: &str| numbers[name] * numbers["page_size"];
        Ok(DatabaseFacts {
            product: format!("SQLite {}", rusqlite::version()),
            clock: None,
            bytes: pages("page_count"),
            unused_bytes: pages("freelist_count"),
            unsafe_settings: Vec::new(),
            server: None,
        })
    }
}

/// Adds a blob that a user staged (`is_own`: and that counts against nobody else).
fn add(usage: &mut Usage, reserved: u64, is_own: bool, is_staged: bool) {
    if is_own {
        usage.stored = usage.stored.saturating_add(reserved);
    }
    if is_staged {
        usage.staged = usage.staged.saturating_add(reserved);
        usage.open_stages += 1;
    }
}
