//! The number of rows that a transaction may load.

use crate::error::{Result, StoreError};

/// The rows that a transaction may still load; `None` once it exceeded the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLimit(Option<usize>);

impl RowLimit {
    /// The limit that nothing exceeds.
    pub(crate) const NONE: Self = Self::of(usize::MAX);

    /// Creates a limit of `rows` rows.
    pub(crate) const fn of(rows: usize) -> Self {
        Self(Some(rows))
    }

    /// Returns whether more rows were counted than the limit allows.
    pub(crate) const fn is_exceeded(self) -> bool {
        self.0.is_none()
    }

    /// Counts rows that the transaction loaded.
    ///
    /// # Errors
    /// Once the limit is exceeded; the transaction then ends.
    pub(crate) fn count(&mut self, rows: usize) -> Result<()> {
        self.0 = self.0.and_then(|left| left.checked_sub(rows));
        if self.is_exceeded() {
            return Err(StoreError::Failed("the transaction loads too many rows".into()));
        }
        Ok(())
    }
}
