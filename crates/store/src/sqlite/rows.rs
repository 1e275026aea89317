//! Reads columns whose values may be malformed.

use rusqlite::Row;
use rusqlite::types::ValueRef;
use vfs_sync_core::time::Timestamp;

use crate::error::{Result, StoreError};

/// A row of `table`, read column by column. `key` names the row in errors.
pub(super) struct Columns<'r, 's, K> {
    pub(super) row: &'r Row<'s>,
    pub(super) table: &'static str,
    pub(super) key: K,
}

impl<'r, K: std::fmt::Display> Columns<'r, '_, K> {
    pub(super) fn malformed(&self, reason: impl std::fmt::Display) -> StoreError {
        crate::encoding::malformed(self.table, &self.key, reason)
    }

    fn value(&self, column: usize) -> Result<ValueRef<'r>> {
        Ok(self.row.get_ref(column)?)
    }

    fn wrong(&self, column: usize, expected: &str) -> StoreError {
        let name = self.row.as_ref().column_name(column).unwrap_or("?").to_owned();
        self.malformed(format_args!("{name} {expected}"))
    }

    pub(super) fn integer(&self, column: usize) -> Result<i64> {
        match self.value(column)? {
            ValueRef::Integer(value) => Ok(value),
            _ => Err(self.wrong(column, "is not an integer")),
        }
    }

    pub(super) fn is_null(&self, column: usize) -> Result<bool> {
        Ok(matches!(self.value(column)?, ValueRef::Null))
    }

    pub(super) fn optional_integer(&self, column: usize) -> Result<Option<i64>> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            _ => self.integer(column).map(Some),
        }
    }

    pub(super) fn unsigned(&self, column: usize) -> Result<u64> {
        let value = self.integer(column)?;
        u64::try_from(value).map_err(|_| self.wrong(column, "is negative"))
    }

    pub(super) fn time(&self, column: usize) -> Result<Timestamp> {
        let millis = self.integer(column)?;
        Timestamp::from_millis(millis).ok_or_else(|| self.wrong(column, "is no time"))
    }

    pub(super) fn text(&self, column: usize) -> Result<&'r str> {
        match self.value(column)? {
            ValueRef::Text(text) => {
                std::str::from_utf8(text).map_err(|_| self.wrong(column, "is not UTF-8"))
            }
            _ => Err(self.wrong(column, "is not text")),
        }
    }

    pub(super) fn optional_text(&self, column: usize) -> Result<Option<&'r str>> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            _ => self.text(column).map(Some),
        }
    }

    pub(super) fn bytes(&self, column: usize) -> Result<&'r [u8]> {
        match self.value(column)? {
            ValueRef::Blob(bytes) => Ok(bytes),
            _ => Err(self.wrong(column, "is not a blob")),
        }
    }

    /// Parses a text column.
    pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        column: usize,
    ) -> Result<T> {
        self.text(column)?.parse().map_err(|error: T::Err| self.wrong(column, &error.to_string()))
    }

    /// Reads a column that has only certain valid values.
    pub(super) fn code<T>(&self, column: usize, known: impl FnOnce(i64) -> Option<T>) -> Result<T> {
        known(self.integer(column)?).ok_or_else(|| self.wrong(column, "has an unknown value"))
    }
}
