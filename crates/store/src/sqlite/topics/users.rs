//! Users, and what operators decided about them.

use rusqlite::{Params, params};
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::server::user::{UserLimits, UserRecord};
use vfs_sync_core::time::Timestamp;

use super::members;
use crate::encoding;
use crate::error::Result;
use crate::sqlite::rows::Columns;
use crate::sqlite::transaction::SqliteTransaction;
use crate::topics::Users;

impl Users for SqliteTransaction<'_> {
    async fn users_after(&mut self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>> {
        let sql = "SELECT r.user_id, r.disabled_at, r.limits, r.items, r.links, r.grants, \
             r.bytes, b.stored, b.staged, b.open_stages, \
             (SELECT count(*) FROM devices d WHERE d.user_id = r.user_id) \
             FROM realms r LEFT JOIN blob_usage b ON b.owner = r.uid \
             WHERE r.user_id > ?1 AND r.user_id NOT LIKE 'deleted:%' ORDER BY r.user_id LIMIT ?2";
        read(self, sql, params![after.map_or("", UserId::as_str), limit])
    }

    async fn user_record(&mut self, user: &UserId) -> Result<Option<UserRecord>> {
        let sql = "SELECT r.user_id, r.disabled_at, r.limits, r.items, r.links, r.grants, \
             r.bytes, b.stored, b.staged, b.open_stages, \
             (SELECT count(*) FROM devices d WHERE d.user_id = r.user_id) \
             FROM realms r LEFT JOIN blob_usage b ON b.owner = r.uid WHERE r.user_id = ?1";
        Ok(read(self, sql, [user.as_str()])?.pop())
    }

    async fn limits_of(&mut self, user: &UserId) -> Result<UserLimits> {
        members::usage(self, user).map(|(_, limits)| limits)
    }

    async fn set_limits(&mut self, user: &UserId, limits: &UserLimits) -> Result<()> {
        let uid = self.make_uid(user)?;
        self.prepare("UPDATE realms SET limits = ?2 WHERE uid = ?1")?
            .execute(params![uid, encoding::limits_json(limits)?])?;
        Ok(())
    }

    async fn set_disabled(&mut self, user: &UserId, since: Option<Timestamp>) -> Result<()> {
        let uid = self.make_uid(user)?;
        self.prepare("UPDATE realms SET disabled_at = ?2 WHERE uid = ?1")?
            .execute(params![uid, since.map(Timestamp::as_millis)])?;
        Ok(())
    }
}

fn read(tx: &SqliteTransaction<'_>, sql: &str, of: impl Params) -> Result<Vec<UserRecord>> {
    let mut select = tx.prepare(sql)?;
    let mut rows = select.query(of)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let columns = Columns { row, table: "realms", key };
        let or_none =
            |column| columns.optional_integer(column)?.map_or(Ok(0), |_| columns.unsigned(column));
        found.push(UserRecord {
            user: columns.parse(0)?,
            disabled_at: columns.optional_integer(1)?.map(|_| columns.time(1)).transpose()?,
            limits: encoding::limits(&columns.key, columns.optional_text(2)?)?,
            metadata: MetadataUsage {
                items: columns.unsigned(3)?,
                links: columns.unsigned(4)?,
                grants: columns.unsigned(5)?,
                bytes: columns.unsigned(6)?,
            },
            blobs: Usage { stored: or_none(7)?, staged: or_none(8)?, open_stages: or_none(9)? },
            devices: columns.unsigned(10)?,
        });
    }
    Ok(found)
}
