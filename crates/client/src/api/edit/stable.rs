//! Folders with a stable id: devices that make the same folder while they are apart make one.

use sha2::{Digest as _, Sha256};
use uuid::Builder;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Upsert};

use crate::client::SyncClient;
use crate::error::{ClientError, Result};

/// The number of stable ids of one folder. The first that the server has not rejected counts.
const STABLE_IDS: u8 = 16;

impl SyncClient {
    /// Returns the folder `name` under `parent`, or at the top of the user's own tree, and creates it
    /// if it is not there. Its id follows from the user, the parent and the name, so devices that
    /// create it offline create the same folder, and their contents meet in it.
    ///
    /// A folder that was created so is found wherever it was moved, and under any name; another
    /// folder counts if it has the name and the place. A deleted folder comes back empty.
    ///
    /// If the server rejects the creation, because the folder was purged or the id belongs to
    /// another user's item, the next call takes another id.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if the parent does not exist, [`ClientError::NotPermitted`].
    pub fn get_or_create_folder(&self, parent: Option<&ItemId>, name: Name) -> Result<ItemId> {
        let owner = match parent {
            Some(parent) => {
                let unknown = || ClientError::UnknownItem(parent.clone());
                self.node(parent)?.ok_or_else(unknown)?.owner
            }
            None => self.user(),
        };
        let rejected = self.queue().rejected(usize::MAX)?;
        let is_rejected = |id: &ItemId| {
            rejected.iter().any(|one| {
                let action = &one.operation.action;
                let creates =
                    matches!(action, Action::Upsert(upsert) if upsert.object_type.is_some());
                creates && one.operation.item_id == *id
            })
        };
        let mut ids = (0..STABLE_IDS).map(|number| stable_id(&owner, parent, &name, number));
        let id = ids.find(|id| !is_rejected(id)).unwrap_or_else(|| self.new_item_id());
        if let Some(node) = self.node(&id)?
            && node.object_type == ObjectType::Folder
            && node.owner == owner
        {
            return Ok(id);
        }
        let same = |node: &crate::Node| {
            node.object_type == ObjectType::Folder && node.name.as_ref() == Some(&name)
        };
        let children = self.children(parent)?.into_iter();
        let mut there = children.filter(|child| !child.shortcut && same(&child.node));
        if let Some(child) = there.next() {
            return Ok(child.node.id);
        }
        let upsert = Upsert {
            object_type: Some(ObjectType::Folder),
            name: Some(name),
            parent: parent.cloned(),
            ..Upsert::default()
        };
        let mut batch = self.batch();
        batch.push(&id, Action::Upsert(Box::new(upsert)));
        batch.commit()?;
        Ok(id)
    }
}

/// Derives a folder's id, in the form of a UUID, from its place and name.
fn stable_id(owner: &UserId, parent: Option<&ItemId>, name: &Name, number: u8) -> ItemId {
    let mut hash = Sha256::new();
    hash.update(b"vfs-sync folder\0");
    // A length before each part: no two places have the same bytes.
    for part in [owner.as_str(), parent.map_or("", ItemId::as_str), name.as_str()] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.update([u8::from(parent.is_some()), number]);
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    let id = Builder::from_custom_bytes(bytes).into_uuid().to_string();
    ItemId::new(id).expect("a UUID is an id")
}
