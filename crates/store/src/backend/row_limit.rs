//! The number of rows that a transaction may load.

use crate::error::{Result, StoreError};

/// The rows that a transaction loaded, and the most that it may load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLimit {
    loaded: usize,
    most: usize,
}

impl RowLimit {
    /// The limit that nothing exceeds.
    pub(crate) const NONE: Self = Self::of(usize::MAX);

    /// Creates a limit of `rows` rows.
    pub(crate) const fn of(rows: usize) -> Self {
        Self { loaded: 0, most: rows }
    }

    /// Returns the number of rows that were counted.
    pub(crate) const fn loaded(self) -> usize {
        self.loaded
    }

    /// Returns whether more rows were counted than the limit allows.
    pub(crate) const fn is_exceeded(self) -> bool {
        self.loaded > self.most
    }

    /// Counts rows that the transaction loaded.
    ///
    /// # Errors
    /// Once the limit is exceeded; the transaction then ends.
    pub(crate) fn count(&mut self, rows: usize) -> Result<()> {
        self.loaded = self.loaded.saturating_add(rows);
        if self.is_exceeded() {
            return Err(StoreError::Failed("the transaction loads too many rows".into()));
        }
        Ok(())
    }
}
