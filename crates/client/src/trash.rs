//! What was deleted: listed, restored, removed for good.

use std::collections::HashSet;

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::trash::{TrashedItem, TrashedParent};

use crate::client::SyncClient;
use crate::error::ClientError;
use crate::transport::{TransportError, TransportExt as _};

/// Items that one question to the server is about.
const PAGE: u32 = 500;
/// Deletions that are not synchronised yet and that a listing has at most.
const MAX_PENDING: usize = 100_000;

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The item.
    pub item: ItemId,
    /// The type that it had.
    pub object_type: ObjectType,
    /// The name that it had; `None` if it had none, or an encrypted one.
    pub name: Option<Name>,
    /// Its owner.
    pub owner: UserId,
    /// The names from the top of the tree down to the item, as far as the user may see them. An item
    /// without a name stands there with its id.
    pub path: Vec<String>,
    /// When it was deleted: by the server's clock, or by this device's while it is pending.
    pub deleted_at: Timestamp,
    /// Who deleted it.
    pub deleted_by: UserId,
    /// The bytes of its content; `None` if it had none.
    pub size: Option<u64>,
    /// When the server removes it for good; `None` while the deletion is pending.
    pub expires_at: Option<Timestamp>,
    /// Whether the deletion is still on its way to the server.
    pub pending: bool,
}

/// What emptying the trash came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emptied {
    /// Items that were removed for good.
    pub purged: u64,
    /// Items that stay, since only their owners may remove them.
    pub of_others: u64,
}

impl SyncClient {
    /// Lists what can be restored, the newest deletion first: what the user owns, and what the user
    /// deleted and may still write. Deletions that are still queued on this device come first. Asks
    /// the server.
    ///
    /// # Errors
    /// [`ClientError::Transport`], or the replica cannot be read.
    pub async fn trash(&self) -> Result<Vec<Trashed>, ClientError> {
        let mut all = self.trash_pending()?;
        let mut known: HashSet<ItemId> = HashSet::new();
        for found in self.trash_of_server().await? {
            if known.insert(found.item_id.clone()) {
                all.retain(|pending| pending.item != found.item_id);
                all.push(Trashed::of_server(found));
            }
        }
        Ok(all)
    }

    async fn trash_of_server(&self) -> Result<Vec<TrashedItem>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = self.inner.transport.trash(cursor.as_deref(), PAGE).await?;
            all.extend(page.items);
            match page.next_cursor {
                // A server that repeats itself is not asked for ever.
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Lists the deletions that are queued on this device, as part of [`Self::trash`]. Works without
    /// the server.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn trash_pending(&self) -> Result<Vec<Trashed>, ClientError> {
        self.store().deleted_here(MAX_PENDING)
    }

    /// Brings a deleted item back, and with it, if `recursive`, what was deleted under it by the
    /// same device; gives how many items came back. Sends what is queued first, so that a deletion
    /// that is not synchronised yet can be restored as well, and pulls after.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if it is not in the trash, for this user;
    /// [`ClientError::Transport`], and what a synchronisation fails with.
    pub async fn restore(&self, item: &ItemId, recursive: bool) -> Result<u64, ClientError> {
        self.flush().await?;
        let answer = self.inner.transport.restore(item, recursive).await;
        let restored = answer.map_err(|error| unknown(item, error))?.restored;
        self.pull().await?;
        Ok(restored)
    }

    /// Removes a deleted item for good, and with it, if `recursive`, what was deleted under it by the
    /// same device; gives how many items went. Only the owner may.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub async fn purge(&self, item: &ItemId, recursive: bool) -> Result<u64, ClientError> {
        self.flush().await?;
        let answer = self.inner.transport.purge(item, recursive).await;
        Ok(answer.map_err(|error| unknown(item, error))?.purged)
    }

    /// Removes for good what is in the trash now and belongs to the user.
    ///
    /// # Errors
    /// As [`Self::restore`]; what was removed before stays removed.
    pub async fn empty_trash(&self) -> Result<Emptied, ClientError> {
        self.flush().await?;
        let mut emptied = Emptied::default();
        let user = self.user();
        for found in self.trash_of_server().await? {
            if found.owner_id != user {
                emptied.of_others += 1;
                continue;
            }
            // Restored, or removed, by somebody else in between: that is as it should be.
            match self.inner.transport.purge(&found.item_id, false).await {
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

impl Trashed {
    fn of_server(found: TrashedItem) -> Self {
        let step = |parent: &TrashedParent| step(parent.name.as_ref(), &parent.item_id);
        let mut path: Vec<String> = found.path.iter().map(step).collect();
        path.push(self::step(found.name.as_ref(), &found.item_id));
        Self {
            item: found.item_id,
            object_type: found.object_type,
            name: found.name,
            owner: found.owner_id,
            path,
            deleted_at: found.deleted_at,
            deleted_by: found.deleted_by,
            size: found.size,
            expires_at: Some(found.expires_at),
            pending: false,
        }
    }
}

/// A step of a path.
pub(crate) fn step(name: Option<&Name>, id: &ItemId) -> String {
    name.map_or_else(|| id.to_string(), |name| name.as_str().to_owned())
}
