//! The wire format of deleted items that can be restored.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ItemId, UserId};
use crate::item::{Encrypted, Name, ObjectType};
use crate::register::Item;
use crate::time::Timestamp;

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrashedItem {
    /// The id of the item.
    pub item_id: ItemId,
    /// The user who owns the item.
    pub owner_id: UserId,
    /// The type of the deleted item.
    pub object_type: ObjectType,
    /// The name of the deleted item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The payload of the item's encrypted form, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_payload: Option<Arc<str>>,
    /// The key of the item's encrypted form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_epoch: Option<u64>,
    /// The nonce of the item's encrypted form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_nonce: Option<Arc<str>>,
    /// The additional data that the encrypted form authenticates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_aad: Option<Arc<str>>,
    /// The signature of the item's encrypted form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_signature: Option<Arc<str>>,
    /// The item's direct former containers, deleted ones included, as far as the reader may see
    /// them.
    #[serde(default)]
    pub parents: Vec<TrashedParent>,
    /// The containers from the top down to the first of `parents`.
    #[serde(default)]
    pub path: Vec<TrashedParent>,
    /// The server's time of the deletion.
    pub deleted_at: Timestamp,
    /// The user who deleted the item.
    pub deleted_by: UserId,
    /// The size of the item's content in bytes; `None` if it has no content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The time at which the server purges the item.
    pub expires_at: Timestamp,
}

/// A container that a deleted item hung under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrashedParent {
    /// The id of the container.
    pub item_id: ItemId,
    /// The name of the container, if the caller may see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// True if the container is deleted as well.
    #[serde(default)]
    pub deleted: bool,
}

/// A page of the trash, the newest deletion first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrashPage {
    /// The items, newest deletion first.
    pub items: Vec<TrashedItem>,
    /// The start of the next page; `None` on the last page.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// The answer to a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreResponse {
    /// The item that the call named.
    pub item_id: ItemId,
    /// The number of items that this call restored: the item and those deleted with it.
    pub restored: u64,
}

/// The answer to a purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PurgeResponse {
    /// The item that the call named.
    pub item_id: ItemId,
    /// The number of items that this call purged: the item and those deleted with it.
    pub purged: u64,
}

impl TrashedItem {
    /// Describes the deleted `item` without its former containers; `None` for a tombstone.
    #[must_use]
    pub fn of_item(
        item_id: &ItemId,
        item: &Item,
        deleted_at: Timestamp,
        deleted_by: UserId,
        expires_at: Timestamp,
    ) -> Option<Self> {
        let encrypted = item.fields.encrypted.as_ref().map(|register| &register.value);
        let (payload, key_epoch, nonce, aad, signature) = Encrypted::to_fields(encrypted);
        Some(Self {
            item_id: item_id.clone(),
            owner_id: item.owner.clone(),
            object_type: item.fields.object_type.as_ref()?.value,
            name: item.fields.name.as_ref().map(|register| register.value.clone()),
            encrypted_payload: payload,
            key_epoch,
            encryption_nonce: nonce,
            encryption_aad: aad,
            encryption_signature: signature,
            parents: Vec::new(),
            path: Vec::new(),
            deleted_at,
            deleted_by,
            size: None,
            expires_at,
        })
    }
}
