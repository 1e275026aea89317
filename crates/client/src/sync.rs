//! Synchronising: pushing, pulling, telling what was applied.

use vfs_sync_core::id::ItemId;
use vfs_sync_core::wire::StateResponse;

use crate::client::SyncClient;
use crate::content::LocalContent;
use crate::error::ClientError;
use crate::event::SyncReport;

fn later<T>() -> Result<T, ClientError> {
    Err(ClientError::Invalid("not there yet".into()))
}

impl SyncClient {
    /// Pushes the queue, pulls until settled, tells the server what was applied, and uploads
    /// queued contents. Cancelled at any point it loses nothing; calls in parallel take turns.
    ///
    /// # Errors
    /// [`ClientError::Violation`] and [`ClientError::Transport`]; what was done before stays.
    pub async fn sync(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Pushes the queue only.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn flush(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Pulls until settled, and tells the server so.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn pull(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// Rebuilds the replica from the server's state, beside the present one, and swaps it in at
    /// once. The queue, the rejected list and the clock stay.
    ///
    /// # Errors
    /// As [`Self::sync`]; then the replica is as it was.
    pub async fn rematerialise(&self) -> Result<SyncReport, ClientError> {
        later()
    }

    /// What the server knows of this client.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn server_state(&self) -> Result<StateResponse, ClientError> {
        later()
    }

    /// Starts synchronising in the background, at the configured interval and when poked. Clears
    /// the reason of an earlier stop. Does nothing if it is running.
    ///
    /// # Errors
    /// [`ClientError::Storage`]. Must be called within a tokio runtime.
    pub fn start_background(&self) -> Result<(), ClientError> {
        later()
    }

    /// Ends background work and waits until it has.
    pub async fn stop_background(&self) {}

    /// The content of an item, from the cache, or downloaded into it and verified.
    ///
    /// # Errors
    /// [`ClientError::NoContent`], [`ClientError::UnknownItem`], or why it cannot be had.
    pub async fn read_content(&self, item: &ItemId) -> Result<LocalContent, ClientError> {
        let _ = item;
        later()
    }

    /// Downloads the contents of `items` that are not in the cache, several at a time; gives how
    /// many were downloaded. Items without content are passed over.
    ///
    /// # Errors
    /// The first that could not be had; those before it are in the cache.
    pub async fn fetch_contents(&self, items: &[ItemId]) -> Result<u64, ClientError> {
        let _ = items;
        later()
    }
}
