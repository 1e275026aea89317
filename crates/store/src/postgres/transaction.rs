//! An open transaction in PostgreSQL.

use std::collections::BTreeSet;
use std::time::Duration;

use deadpool_postgres::Transaction as Connection;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::UserId;

use crate::backend::plan_memory::PlanMemory;
use crate::backend::row_limit::RowLimit;
use crate::backend::served::Served;
use crate::error::{Result, StoreError};
use crate::moves::{MovedHead, moved_by};
use crate::topics::FeedWrite;

/// The time that the database has to answer a statement, a little more than the server itself allows
/// for one. No time-out of the server ends a commit that waits for a synchronous standby.
const ANSWERED_WITHIN: Duration = Duration::from_secs(35);

/// Waits for the answer to a statement.
///
/// # Errors
/// [`StoreError::Unavailable`] if there is none in time: then nobody knows whether it was executed.
pub(super) async fn answered<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let text = "it does not answer a statement: is it frozen, or does it wait for a standby?";
    let late = |_| StoreError::Unavailable(text.into());
    Ok(tokio::time::timeout(ANSWERED_WITHIN, asked).await.map_err(late)??)
}

/// An open transaction, with facts that its runner needs afterwards.
pub(super) struct PostgresTransaction<'c> {
    connection: &'c Connection<'c>,
    /// The realms to lock in addition to those known before any lock.
    pub(super) realms: BTreeSet<UserId>,
    /// True on a snapshot, which locks nothing.
    pub(super) only_reads: bool,
    /// The states seen by earlier transactions, and the tick at which this one began.
    pub(super) served: Option<(&'c Served, u64)>,
    /// The heads that the transaction wrote, with the epoch.
    pub(super) written: Vec<(UserId, u64, Epoch)>,
    /// The heads that the transaction moved.
    pub(super) moved: Vec<MovedHead>,
    /// The database's epoch, once it was read together with the heads.
    pub(super) epoch: Option<Epoch>,
    /// The epoch that the transaction begins, if any.
    pub(super) begun: Option<Epoch>,
    /// The rows that the transaction may load.
    pub(super) limit: RowLimit,
    /// The bytes of memory that planning a change may take.
    pub(super) plan_memory: PlanMemory,
}

/// Converts ids to the array that a statement takes.
pub(super) fn texts<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Vec<String> {
    ids.into_iter().map(|id| id.as_ref().to_owned()).collect()
}

impl<'c> PostgresTransaction<'c> {
    pub(super) fn new(connection: &'c Connection<'c>, realms: BTreeSet<UserId>) -> Self {
        Self {
            connection,
            realms,
            only_reads: false,
            served: None,
            written: Vec::new(),
            moved: Vec::new(),
            epoch: None,
            begun: None,
            limit: RowLimit::NONE,
            plan_memory: PlanMemory::UNBOUNDED,
        }
    }

    /// Begins a transaction on a snapshot, which locks nothing.
    pub(super) fn on_snapshot(connection: &'c Connection<'c>) -> Self {
        Self { only_reads: true, ..Self::new(connection, BTreeSet::new()) }
    }

    /// Makes the transaction compare its reads with the states that were seen before.
    pub(super) fn held_to(self, served: &'c Served) -> Self {
        Self { served: Some((served, served.now())), ..self }
    }

    /// Records the heads that the transaction writes, for use after its commit.
    pub(super) fn note_written(&mut self, feeds: &[FeedWrite]) {
        self.moved.extend(moved_by(feeds));
        let Some(present) = self.epoch else { return };
        let heads = feeds.iter().map(|feed| (feed.user.clone(), feed.head.counter, present));
        self.written.extend(heads);
    }

    async fn prepare(&self, sql: &str) -> Result<Statement> {
        #[cfg(all(feature = "testing", unix))]
        crate::testing::note_statement("postgres", sql);
        answered(self.connection.prepare_cached(sql)).await
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let statement = self.prepare(sql).await?;
        answered(self.connection.query(&statement, parameters)).await
    }

    pub(super) async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Returns the number that a query counts.
    pub(super) async fn query_count(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        let row = self.query_opt(sql, parameters).await?;
        let found: i64 = row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
        Ok(found.unsigned_abs())
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        let statement = self.prepare(sql).await?;
        answered(self.connection.execute(&statement, parameters)).await
    }
}
