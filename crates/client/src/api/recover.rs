//! Changes that a restored server lost and that this replica could not offer again: listed until
//! they are present again, sent with the user's consent, or discarded.

use vfs_sync_core::access::Principal;
use vfs_sync_core::client::offer::LostChange;
use vfs_sync_core::id::ItemId;

use crate::api::outstanding::LostEntry;
use crate::client::SyncClient;
use crate::error::{ClientError, Result};

/// The number of list entries that are read at a time.
const PAGE: usize = 500;

/// The calls about changes that a restored server lost and that this replica could not offer again.
#[derive(Clone, Copy)]
pub struct LostChanges<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls about the changes that a restored server lost.
    #[must_use]
    pub fn lost(&self) -> LostChanges<'_> {
        LostChanges { client: self }
    }
}

impl LostChanges<'_> {
    /// Lists up to `limit` changes that a restored server lost and that this replica could not
    /// offer again, after the number `after`; 0 begins the list.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn list(self, after: i64, limit: usize) -> Result<Vec<LostEntry>> {
        let lost = self.client.store().lost(after, limit)?;
        Ok(lost.into_iter().map(|(number, lost)| LostEntry { number, lost }).collect())
    }

    /// Grants again the lost grants on items for which the replica shows the level `admin`. Returns
    /// the grants that were queued; the others stay in the list.
    ///
    /// # Errors
    /// A failure to read or write the replica.
    pub fn grant_again(self) -> Result<Vec<(ItemId, Principal)>> {
        let mut granted = Vec::new();
        let mut after = 0;
        loop {
            let page = self.list(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.number;
            for LostEntry { number, lost } in page {
                let LostChange::Grant { principal_type, principal_id, access_level } = lost.change
                else {
                    continue;
                };
                let principal = Principal { kind: principal_type, id: principal_id };
                match self.client.sharing().share(&lost.item, principal.clone(), access_level) {
                    Ok(()) => {}
                    Err(
                        ClientError::UnknownItem(_)
                        | ClientError::NotPermitted { .. }
                        | ClientError::Invalid(_),
                    ) => continue,
                    Err(error) => return Err(error),
                }
                self.client.store().discard_lost(&[number])?;
                granted.push((lost.item, principal));
            }
        }
        Ok(granted)
    }

    /// Removes entries from the list of lost changes, and the bytes kept for them.
    ///
    /// # Errors
    /// A failure to write the replica.
    pub fn discard(self, numbers: &[i64]) -> Result<()> {
        self.client.store().discard_lost(numbers)
    }
}
