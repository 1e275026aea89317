//! The trash: lists deleted items, restores them, and purges them.

use std::collections::HashSet;

use vfs_sync_core::id::ItemId;
use vfs_sync_core::wire::trash::TrashedItem;

use crate::api::node::{Emptied, Trashed};
use crate::client::SyncClient;
use crate::error::{ClientError, Result};
use crate::transport::{TransportError, TransportExt as _};

/// The number of items in one request to the server.
const PAGE: u32 = 500;
/// The greatest number of unsynchronised deletions in a listing.
const MAX_PENDING: usize = 100_000;

/// The calls about deleted items that can be restored.
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
    /// Lists restorable items, the newest deletion first: items that the user owns, and items that
    /// the user deleted and may still write. Deletions that are still queued on this device come
    /// first. The call asks the server.
    ///
    /// # Errors
    /// [`ClientError::Transport`], or a failure to read the replica.
    pub async fn list(self) -> Result<Vec<Trashed>> {
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

    async fn trash_of_server(self) -> Result<Vec<TrashedItem>> {
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

    /// Lists the deletions that are queued on this device, a part of [`Self::list`]. It works
    /// without the server.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn pending(self) -> Result<Vec<Trashed>> {
        self.client.store().deleted_here(MAX_PENDING)
    }

    /// Restores a deleted item and, if `recursive`, the items under it that the same device
    /// deleted; returns the number of restored items. It sends the queue first, so that a deletion
    /// that is not synchronised yet can be restored too, and pulls afterwards. If the item was
    /// moved into another owner's tree and others still see the original, the original stays with
    /// everything moved along with it.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if the user has no such item in the trash;
    /// [`ClientError::Transport`], and the errors of a synchronisation.
    pub async fn restore(self, item: &ItemId, recursive: bool) -> Result<u64> {
        let stays = self.client.store().give_up_move(item)?;
        if !stays.is_empty() {
            let count = u64::try_from(stays.len()).unwrap_or(u64::MAX);
            self.client.inner.emit(stays);
            return Ok(count);
        }
        self.client.flush().await?;
        let answer = self.client.inner.transport.restore(item, recursive).await;
        let restored = answer.map_err(|error| unknown(item, error))?.restored;
        self.client.pull().await?;
        Ok(restored)
    }

    /// Sends the queue, but goes on if the server has no room for it, because purging makes some.
    async fn flush_what_fits(self) -> Result<()> {
        match self.client.flush().await {
            Err(ClientError::Transport(error)) if error.waits() => Ok(()),
            flushed => flushed.map(drop),
        }
    }

    /// Purges a deleted item and, if `recursive`, the items under it that the same device deleted;
    /// returns the number of purged items. Only the owner may purge.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub async fn purge(self, item: &ItemId, recursive: bool) -> Result<u64> {
        self.flush_what_fits().await?;
        let answer = self.client.inner.transport.purge(item, recursive).await;
        Ok(answer.map_err(|error| unknown(item, error))?.purged)
    }

    /// Purges all items of the user that are in the trash now.
    ///
    /// # Errors
    /// As [`Self::restore`]; items purged before the failure stay purged.
    pub async fn empty(self) -> Result<Emptied> {
        self.flush_what_fits().await?;
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

/// Converts the server's answer about an item that it does not know or may not show to the user.
fn unknown(item: &ItemId, error: TransportError) -> ClientError {
    match error {
        TransportError::Refused { status: 404, .. } => ClientError::UnknownItem(item.clone()),
        other => other.into(),
    }
}
