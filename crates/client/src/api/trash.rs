//! The trash: listing deleted items, restoring them, removing them for good.

use std::collections::HashSet;

use vfs_sync_core::id::ItemId;
use vfs_sync_core::wire::trash::TrashedItem;

use crate::api::node::{Emptied, Trashed};
use crate::client::SyncClient;
use crate::error::ClientError;
use crate::transport::{TransportError, TransportExt as _};

/// Items that one question to the server is about.
const PAGE: u32 = 500;
/// Deletions that are not synchronised yet and that a listing has at most.
const MAX_PENDING: usize = 100_000;

/// The deleted items that can be restored.
#[derive(Clone, Copy)]
pub struct Trash<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls that list, restore and purge deleted items.
    #[must_use]
    pub fn trash(&self) -> Trash<'_> {
        Trash { client: self }
    }
}

impl Trash<'_> {
    /// Lists what can be restored, the newest deletion first: what the user owns, and what the user
    /// deleted and may still write. Deletions that are still queued on this device come first. Asks
    /// the server.
    ///
    /// # Errors
    /// [`ClientError::Transport`], or the replica cannot be read.
    pub async fn list(self) -> Result<Vec<Trashed>, ClientError> {
        let mut all = self.pending()?;
        let mut known: HashSet<ItemId> = HashSet::new();
        for found in self.trash_of_server().await? {
            if known.insert(found.item_id.clone()) {
                all.retain(|pending| pending.item != found.item_id);
                all.push(Trashed::of_server(found));
            }
        }
        Ok(all)
    }

    async fn trash_of_server(self) -> Result<Vec<TrashedItem>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = self.client.inner.transport.trash(cursor.as_deref(), PAGE).await?;
            all.extend(page.items);
            match page.next_cursor {
                // A server that repeats itself is not asked for ever.
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Lists the deletions that are queued on this device, as part of [`Self::list`]. Works without
    /// the server.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn pending(self) -> Result<Vec<Trashed>, ClientError> {
        self.client.store().deleted_here(MAX_PENDING)
    }

    /// Brings a deleted item back, and with it, if `recursive`, what was deleted under it by the
    /// same device; returns how many items came back. Sends what is queued first, so that a deletion
    /// that is not synchronised yet can be restored as well, and pulls after. What was moved into another
    /// owner's tree, and is still there for others, stays with all that moved along.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if it is not in the trash, for this user;
    /// [`ClientError::Transport`], and what a synchronisation fails with.
    pub async fn restore(self, item: &ItemId, recursive: bool) -> Result<u64, ClientError> {
        self.client.flush().await?;
        let stays = self.client.store().give_up_move(item)?;
        if !stays.is_empty() {
            let count = u64::try_from(stays.len()).unwrap_or(u64::MAX);
            self.client.inner.emit(stays);
            return Ok(count);
        }
        let answer = self.client.inner.transport.restore(item, recursive).await;
        let restored = answer.map_err(|error| unknown(item, error))?.restored;
        self.client.pull().await?;
        Ok(restored)
    }

    /// Removes a deleted item for good, and with it, if `recursive`, what was deleted under it by the
    /// same device; returns how many items went. Only the owner may.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub async fn purge(self, item: &ItemId, recursive: bool) -> Result<u64, ClientError> {
        self.client.flush().await?;
        let answer = self.client.inner.transport.purge(item, recursive).await;
        Ok(answer.map_err(|error| unknown(item, error))?.purged)
    }

    /// Removes for good what is in the trash now and belongs to the user.
    ///
    /// # Errors
    /// As [`Self::restore`]; what was removed before stays removed.
    pub async fn empty(self) -> Result<Emptied, ClientError> {
        self.client.flush().await?;
        let mut emptied = Emptied::default();
        let user = self.client.user();
        for found in self.trash_of_server().await? {
            if found.owner_id != user {
                emptied.of_others += 1;
                continue;
            }
            // Restored, or removed, by somebody else in between: that is as it should be.
            match self.client.inner.transport.purge(&found.item_id, false).await {
                Ok(answer) => emptied.purged += answer.purged,
                Err(TransportError::Refused { status: 404 | 409, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(emptied)
    }
}

/// A server that does not know the item says what it says to those who may not see it.
fn unknown(item: &ItemId, error: TransportError) -> ClientError {
    match error {
        TransportError::Refused { status: 404, .. } => ClientError::UnknownItem(item.clone()),
        other => other.into(),
    }
}
