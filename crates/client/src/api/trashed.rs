//! The items in the trash.

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::trash::{TrashedItem, TrashedParent};

/// A deleted item that can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The id of the item.
    pub item: ItemId,
    /// The type that it had.
    pub object_type: ObjectType,
    /// The name that it had; `None` if it had none, or an encrypted one.
    pub name: Option<Name>,
    /// The owner of the item.
    pub owner: UserId,
    /// The names from the top of the tree down to the item, as far as the user may see them. An item
    /// without a name stands there with its id.
    pub path: Vec<String>,
    /// The time of the deletion: by the server's clock, or by this device's while it is pending.
    pub deleted_at: Timestamp,
    /// The user who deleted it.
    pub deleted_by: UserId,
    /// The bytes of its content; `None` if it had none.
    pub size: Option<u64>,
    /// The time at which the server removes it for good; `None` while the deletion is pending.
    pub expires_at: Option<Timestamp>,
    /// True while the deletion is on its way to the server.
    pub pending: bool,
}

/// The result of emptying the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emptied {
    /// Items that were removed for good.
    pub purged: u64,
    /// Items that stay, since only their owners may remove them.
    pub of_others: u64,
}

impl Trashed {
    pub(crate) fn of_server(found: TrashedItem) -> Self {
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
