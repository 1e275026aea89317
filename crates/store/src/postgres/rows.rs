//! Reads columns whose values may be malformed.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::WriteId;
use vfs_sync_core::stamp::{Author, Stamp};
use vfs_sync_core::time::Timestamp;

use crate::encoding;
use crate::error::{Result, StoreError};

/// A row of `table`, read column by column. `key` names the row in errors.
pub(super) struct Columns<'r, K> {
    pub(super) row: &'r Row,
    pub(super) table: &'static str,
    pub(super) key: K,
}

impl<'r, K: Display> Columns<'r, K> {
    pub(super) fn malformed(&self, reason: impl Display) -> StoreError {
        encoding::malformed(self.table, &self.key, reason)
    }

    fn wrong(&self, column: usize, problem: impl Display) -> StoreError {
        let name = self.row.columns().get(column).map_or("?", |column| column.name());
        self.malformed(format_args!("{name} {problem}"))
    }

    pub(super) fn get<T: FromSql<'r>>(&self, column: usize) -> Result<T> {
        self.row.try_get(column).map_err(|error| self.wrong(column, error))
    }

    pub(super) fn unsigned(&self, column: usize) -> Result<u64> {
        u64::try_from(self.get::<i64>(column)?).map_err(|_| self.wrong(column, "is negative"))
    }

    pub(super) fn time(&self, column: usize) -> Result<Timestamp> {
        Timestamp::from_millis(self.get(column)?).ok_or_else(|| self.wrong(column, "is no time"))
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(&self, column: usize) -> Result<T> {
        self.get::<&str>(column)?.parse().map_err(|error: T::Err| self.wrong(column, error))
    }

    /// Reads a column that has only certain valid values.
    pub(super) fn code<C: FromSql<'r>, T>(
        &self,
        column: usize,
        known: impl FnOnce(C) -> Option<T>,
    ) -> Result<T> {
        known(self.get(column)?).ok_or_else(|| self.wrong(column, "has an unknown value"))
    }

    /// Reads the stamp in the columns `authored_at, author, replica_id, write_id` from `first` on.
    pub(super) fn stamp(&self, first: usize) -> Result<Stamp> {
        let author = Author {
            user: self.parse(first + 1)?,
            replica: self.parse(first + 2)?,
            write_id: self.write_id(first + 3)?,
        };
        Ok(Stamp { authored_at: self.time(first)?, author: Arc::new(author) })
    }

    pub(super) fn write_id(&self, column: usize) -> Result<WriteId> {
        WriteId::new(self.unsigned(column)?).ok_or_else(|| self.wrong(column, "is out of range"))
    }

    pub(super) fn digest(&self, column: usize) -> Result<[u8; 32]> {
        let bytes: &[u8] = self.get(column)?;
        bytes.try_into().map_err(|_| self.wrong(column, "is not 32 bytes"))
    }

    /// Reads the columns `size` and `digest`, which are both set or both empty.
    pub(super) fn size_and_digest(&self, first: usize) -> Result<Option<(u64, Sha256Digest)>> {
        if self.get::<Option<i64>>(first)?.is_none() {
            return Ok(None);
        }
        Ok(Some((self.unsigned(first)?, Sha256Digest(self.digest(first + 1)?))))
    }
}
