//! Users, and what operators decided about them.

use tokio_postgres::Row;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::MetadataUsage;
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::server::user::{UserLimits, UserRecord};
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::PostgresTransaction;
use crate::topics::Users;

impl Users for PostgresTransaction<'_> {
    async fn users_after(&mut self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>> {
        let rows = self
            .query(
                "SELECT r.user_id, r.disabled_at, r.limits, r.items, r.links, r.grants, r.bytes, \
                 coalesce(b.stored, 0), coalesce(b.staged, 0), coalesce(b.open_stages, 0), \
                 (SELECT count(*) FROM devices d WHERE d.user_id = r.user_id) \
                 FROM realms r LEFT JOIN blob_usage b ON b.owner = r.user_id \
                 WHERE r.user_id > $1 AND r.user_id NOT LIKE 'deleted:%' ORDER BY r.user_id LIMIT $2",
                &[&after.map_or("", UserId::as_str), &i64::from(limit)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn user_record(&mut self, user: &UserId) -> Result<Option<UserRecord>> {
        let row = self
            .query_opt(
                "SELECT r.user_id, r.disabled_at, r.limits, r.items, r.links, r.grants, r.bytes, \
                 coalesce(b.stored, 0), coalesce(b.staged, 0), coalesce(b.open_stages, 0), \
                 (SELECT count(*) FROM devices d WHERE d.user_id = r.user_id) \
                 FROM realms r LEFT JOIN blob_usage b ON b.owner = r.user_id \
                 WHERE r.user_id = $1",
                &[&user.as_str()],
            )
            .await?;
        row.as_ref().map(read).transpose()
    }

    async fn limits_of(&mut self, user: &UserId) -> Result<UserLimits> {
        let sql = "SELECT limits FROM realms WHERE user_id = $1";
        let row = self.query_opt(sql, &[&user.as_str()]).await?;
        let Some(row) = row else { return Ok(UserLimits::default()) };
        let columns = Columns { row: &row, table: "realms", key: user };
        encoding::limits(user.as_str(), columns.get(0)?)
    }

    async fn set_limits(&mut self, user: &UserId, limits: &UserLimits) -> Result<()> {
        self.execute(
            "INSERT INTO realms (user_id, limits) VALUES ($1, $2) \
             ON CONFLICT (user_id) DO UPDATE SET limits = excluded.limits",
            &[&user.as_str(), &encoding::limits_json(limits)?],
        )
        .await?;
        Ok(())
    }

    async fn set_disabled(&mut self, user: &UserId, since: Option<Timestamp>) -> Result<()> {
        self.execute(
            "INSERT INTO realms (user_id, disabled_at) VALUES ($1, $2) \
             ON CONFLICT (user_id) DO UPDATE SET disabled_at = excluded.disabled_at",
            &[&user.as_str(), &since.map(Timestamp::as_millis)],
        )
        .await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<UserRecord> {
    let key: String = row.try_get(0)?;
    let columns = Columns { row, table: "realms", key };
    Ok(UserRecord {
        user: columns.parse(0)?,
        disabled_at: columns.get::<Option<i64>>(1)?.map(|_| columns.time(1)).transpose()?,
        limits: encoding::limits(&columns.key, columns.get(2)?)?,
        metadata: MetadataUsage {
            items: columns.unsigned(3)?,
            links: columns.unsigned(4)?,
            grants: columns.unsigned(5)?,
            bytes: columns.unsigned(6)?,
        },
        blobs: Usage {
            stored: columns.unsigned(7)?,
            staged: columns.unsigned(8)?,
            open_stages: columns.unsigned(9)?,
        },
        devices: columns.unsigned(10)?,
    })
}
