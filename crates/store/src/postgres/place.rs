//! Checks whether a connection leads to the database that this program last wrote to.
//!
//! A database that was restored, or failed over to a lagging standby, may lack changes that it has
//! answered. Before a connection is used, its place is compared with the place at which the epoch
//! began; if they differ, a new epoch begins.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Client;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::time::Timestamp;

use super::topics::feeds::stored_epoch;
use crate::backend::served::Served;
use crate::encoding;
use crate::error::{Result, StoreError};

/// The query for the place of a connection. The place changes with another cluster, another
/// timeline of its log, another start of the server, another database, or newly created tables.
pub(super) const PLACE: &str = "SELECT concat_ws(' ', \
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), \
    extract(epoch FROM pg_postmaster_start_time()), \
    (SELECT oid FROM pg_database WHERE datname = current_database()), \
    to_regclass('meta')::oid, pg_relation_filenode(to_regclass('meta')))";

/// The place of a primary, as the text that is stored with the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(String);

impl Place {
    /// Asks where a connection leads to.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] for a standby, among others.
    pub(super) async fn of(client: &Client) -> Result<Self> {
        Self::find(client).await?.ok_or_else(|| {
            let text =
                "it is a standby, which nothing can be written to: promote it, or name the primary";
            StoreError::Unavailable(text.into())
        })
    }

    /// Asks where a connection leads to; `None` if that is a standby.
    pub(super) async fn find(client: &Client) -> Result<Option<Self>, tokio_postgres::Error> {
        if client.query_one("SELECT pg_is_in_recovery()", &[]).await?.try_get(0)? {
            return Ok(None);
        }
        let may = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')";
        let mut place = String::new();
        if client.query_one(may, &[]).await?.try_get(0)? {
            let system = "SELECT system_identifier::text FROM pg_control_system()";
            place = client.query_one(system, &[]).await?.try_get(0)?;
        }
        place.push(' ');
        place.push_str(client.query_one(PLACE, &[]).await?.try_get(0)?);
        Ok(Some(Self(place)))
    }

    /// The number of its timeline, which grows with each promotion of a standby.
    pub(super) fn timeline(&self) -> u32 {
        let timeline = self.0.split(' ').nth(1);
        timeline.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

/// Begins an epoch if a connection's place differs from that of the present epoch; with `start`
/// always, at that time.
///
/// If several programs notice this at one time, one begins the epoch and the others use it.
pub(super) async fn check(
    client: &mut ClientWrapper,
    place: &Place,
    start: Option<Timestamp>,
    served: &Served,
) -> Result<()> {
    let stored = "SELECT value FROM identity WHERE name = 'place'";
    let is_it = |row: Option<tokio_postgres::Row>| {
        row.is_some_and(|row| row.try_get::<_, &str>(0).is_ok_and(|stored| stored == place.0))
    };
    if start.is_none() && is_it(client.query_opt(stored, &[]).await?) {
        return Ok(());
    }
    let tx = client.transaction().await?;
    let now = "SELECT value, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM meta \
               WHERE name = 'epoch' FOR UPDATE";
    let row = tx.query_one(now, &[]).await?;
    if start.is_none() && is_it(tx.query_opt(stored, &[]).await?) {
        return Ok(());
    }
    let present = stored_epoch(row.try_get(0)?)
        .ok_or_else(|| encoding::malformed("meta", "epoch", "is no epoch"))?;
    let now = start.or_else(|| Timestamp::from_millis(row.try_get(1).ok()?));
    let now = now.ok_or_else(|| StoreError::Failed("the database has no time".into()))?;
    let present = served.latest().map_or(present, |latest| latest.max(present));
    let epoch = Epoch::following(present, now, encoding::low_bits(encoding::chance()));
    let value = epoch.as_u64() as i64;
    tx.execute("UPDATE meta SET value = $1 WHERE name = 'epoch'", &[&value]).await?;
    tx.execute(
        "INSERT INTO identity (name, value) VALUES ('place', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[&place.0],
    )
    .await?;
    tx.commit().await?;
    served.begin(epoch);
    if start.is_none() {
        tracing::warn!(
            epoch = epoch.as_u64(),
            "the database is not where it was: an epoch has begun, so that what it may lack is found"
        );
    }
    Ok(())
}
