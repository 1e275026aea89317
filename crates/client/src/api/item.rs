//! A handle of one item, for code that makes several calls about it.

use std::io::Read;

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;

use crate::api::edit::Delete;
use crate::api::node::{Child, Grant, Node, Reader};
use crate::client::SyncClient;
use crate::content::{LocalContent, StoredContent};
use crate::error::{ClientError, Result};

/// A handle of an item: its client and its id. It reads nothing by itself, so the item need not
/// exist. Each call has the errors of the client's call with the same name.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    client: &'a SyncClient,
    id: &'a ItemId,
}

impl SyncClient {
    /// Returns a handle of an item.
    #[must_use]
    pub fn item<'a>(&'a self, id: &'a ItemId) -> Item<'a> {
        Item { client: self, id }
    }
}

impl Item<'_> {
    /// Returns the id of the item.
    #[must_use]
    pub fn id(self) -> ItemId {
        self.id.clone()
    }

    /// Returns the item as this replica shows it: [`SyncClient::node`].
    pub fn node(self) -> Result<Node> {
        self.client.node(self.id)?.ok_or_else(|| ClientError::UnknownItem(self.id.clone()))
    }

    /// Lists the children of the item: [`SyncClient::children`].
    pub fn children(self) -> Result<Vec<Child>> {
        self.client.children(Some(self.id))
    }

    /// Returns a path of the item: [`SyncClient::path_of`].
    pub fn path(self) -> Result<String> {
        self.client.path_of(self.id)
    }

    /// Changes the name of the item: [`SyncClient::rename`].
    pub fn rename(self, name: Name) -> Result<()> {
        self.client.rename(self.id, name)
    }

    /// Moves the item into another folder of the same owner: [`SyncClient::move_to`].
    pub fn move_to(self, parent: Option<&ItemId>) -> Result<()> {
        self.client.move_to(self.id, parent)
    }

    /// Deletes the item: [`SyncClient::delete`].
    pub fn delete(self, what: Delete) -> Result<u64> {
        self.client.delete(self.id, what)
    }

    /// Stores a content for the item: [`Contents::put`](crate::Contents::put).
    pub fn put(self, reader: impl Read) -> Result<StoredContent> {
        self.client.contents().put(self.id, reader)
    }

    /// Reads the content of the item: [`Contents::read`](crate::Contents::read).
    pub async fn read(self) -> Result<LocalContent> {
        self.client.contents().read(self.id).await
    }

    /// Shares the item: [`Sharing::share`](crate::Sharing::share).
    pub fn share(self, principal: Principal, level: AccessLevel) -> Result<()> {
        self.client.sharing().share(self.id, principal, level)
    }

    /// Ends a grant on the item: [`Sharing::unshare`](crate::Sharing::unshare).
    pub fn unshare(self, principal: Principal) -> Result<bool> {
        self.client.sharing().unshare(self.id, principal)
    }

    /// Lists the grants on the item: [`Sharing::grants`](crate::Sharing::grants).
    pub fn grants(self) -> Result<Vec<Grant>> {
        self.client.sharing().grants(self.id)
    }

    /// Lists who may read the item: [`Sharing::audience`](crate::Sharing::audience).
    pub fn audience(self) -> Result<Vec<Reader>> {
        self.client.sharing().audience(self.id)
    }
}
