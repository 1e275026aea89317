//! Edits of the tree: made locally, durable when the call returns, and visible at once.

mod stable;

use std::collections::{HashMap, HashSet};
use std::io::Read;

use vfs_sync_core::access::{AccessLevel, Principal};
use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Upsert};
use vfs_sync_core::shown::{self, MTIME, TOUCHED};
use vfs_sync_core::time::Timestamp;

use crate::api::node::Node;
use crate::api::record::RecordChange;
use crate::client::SyncClient;
use crate::content::{NewContent, StoredContent, TakenContent};
use crate::error::{ClientError, Result};
use crate::replica::{NewEdit, NewEdits};

/// The extent of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// Only the item; children that have no other container go to the top.
    Item,
    /// The item and everything under it that has no container outside the item.
    Recursive,
}

/// The condition under which an edit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    BySight,
    None,
}

/// Metadata keys to set; `None` removes a key.
pub type MetadataChange = Vec<(String, Option<serde_json::Value>)>;

/// Several edits that enter the queue in one transaction: all of them, or none. Later edits may use
/// items that earlier ones create. A batch that is dropped without [`Batch::commit`] has no effect.
pub struct Batch<'a> {
    client: &'a SyncClient,
    actions: Vec<(ItemId, Action, Condition)>,
    contents: Vec<(ItemId, NewContent)>,
    /// The items as they were copied; the batch deletes their originals.
    copied: Vec<Node>,
    records: Vec<(i64, RecordChange)>,
}

impl Batch<'_> {
    /// Returns the number of operations in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Returns true if there is nothing to commit: neither operations nor contents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.contents.is_empty() && self.records.is_empty()
    }

    /// Creates an item under `parent`, or at the top; returns its id.
    pub fn create(
        &mut self,
        object_type: ObjectType,
        parent: Option<&ItemId>,
        name: Name,
        metadata: MetadataChange,
    ) -> ItemId {
        let id = self.client.new_item_id();
        let upsert = Upsert {
            object_type: Some(object_type),
            name: Some(name),
            metadata: metadata.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            encrypted: None,
            parent: parent.cloned(),
        };
        self.push(&id, Action::Upsert(Box::new(upsert)));
        id
    }

    /// Changes the name of an item.
    pub fn rename(&mut self, item: &ItemId, name: Name) {
        self.push(item, Action::Upsert(Box::new(Upsert { name: Some(name), ..Upsert::default() })));
    }

    /// Sets metadata keys of an item.
    pub fn set_metadata(&mut self, item: &ItemId, metadata: MetadataChange) {
        let metadata = metadata.into_iter().map(|(key, value)| (key.into(), value)).collect();
        self.push(item, Action::Upsert(Box::new(Upsert { metadata, ..Upsert::default() })));
    }

    /// Moves an item under `parent`, away from its other containers in that tree.
    pub fn move_to(&mut self, item: &ItemId, parent: &ItemId) {
        self.push(item, Action::LinkReassign { parent: parent.clone() });
    }

    /// Moves an item to the top of the user's own tree, away from its containers there.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], and [`ClientError::OtherTree`] for another owner's item.
    pub fn move_to_top(&mut self, item: &ItemId) -> Result<()> {
        let unknown = || ClientError::UnknownItem(item.clone());
        let node = self.client.node(item)?.ok_or_else(unknown)?;
        if node.owner != self.client.user() {
            return Err(ClientError::OtherTree { item: item.clone(), parent: None });
        }
        for parent in self.client.parents_of(item)? {
            if self.client.node(&parent)?.is_some_and(|above| above.owner == node.owner) {
                self.unlink(item, &parent);
            }
        }
        Ok(())
    }

    /// Links an item under one more container.
    pub fn link(&mut self, item: &ItemId, parent: &ItemId) {
        self.push(item, Action::LinkAdd { parent: parent.clone() });
    }

    /// Removes an item from a container.
    pub fn unlink(&mut self, item: &ItemId, parent: &ItemId) {
        self.push(item, Action::LinkRemove { parent: parent.clone() });
    }

    /// Deletes one item, unless somebody changed it in a way that this replica has not seen; see
    /// [`SyncClient::delete`] for a subtree.
    pub fn delete(&mut self, item: &ItemId) {
        self.push(item, Action::Delete);
    }

    /// Deletes an item and everything under it that has no container outside the item; returns the
    /// number of deleted items. Items that this batch puts there are not included.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn delete_tree(&mut self, item: &ItemId) -> Result<u64> {
        let going = self.client.subtree(item)?;
        for item in &going {
            self.delete(item);
        }
        Ok(u64::try_from(going.len()).unwrap_or(u64::MAX))
    }

    /// Deletes one item regardless of what this replica has seen: edits that another device made
    /// before and that arrive later are deleted with it.
    pub fn delete_unseen(&mut self, item: &ItemId) {
        self.actions.push((item.clone(), Action::Delete, Condition::None));
    }

    /// Grants `principal` a level on an item.
    pub fn grant(&mut self, item: &ItemId, principal: Principal, level: AccessLevel) {
        self.push(item, Action::GrantAdd { principal, level });
    }

    /// Removes a principal's grant on an item.
    pub fn revoke(&mut self, item: &ItemId, principal: Principal) {
        self.push(item, Action::GrantRemove { principal });
    }

    /// Stores a content for an item of the replica or of this batch. The bytes are copied now and
    /// queued with the commit, which is also their modification time.
    ///
    /// # Errors
    /// A failure to read or write.
    pub fn put_content(&mut self, item: &ItemId, reader: impl Read) -> Result<StoredContent> {
        let content = self.client.inner.cache.take(reader)?;
        Ok(self.put_taken(item, TakenContent(content)))
    }

    /// Works as [`Batch::put_content`], with the modification time of the bytes.
    ///
    /// # Errors
    /// A failure to read or write.
    pub fn put_content_at(
        &mut self,
        item: &ItemId,
        reader: impl Read,
        modified_at: Timestamp,
    ) -> Result<StoredContent> {
        let content = TakenContent(self.client.inner.cache.take(reader)?);
        Ok(self.put_taken(item, content.with_time(modified_at)))
    }

    /// Makes an item show `modified_at` for as long as the item keeps its present content. A
    /// content that this batch puts gets the time itself.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if neither the tree nor this batch has the item.
    pub fn touch(&mut self, item: &ItemId, modified_at: Timestamp) -> Result<()> {
        if let Some((_, content)) = self.contents.iter_mut().rfind(|(of, _)| of == item) {
            content.modified_at = Some(modified_at);
            return Ok(());
        }
        let node = self.client.node(item)?;
        let new = || self.actions.iter().any(|(of, ..)| of == item);
        if node.is_none() && !new() {
            return Err(ClientError::UnknownItem(item.clone()));
        }
        let content = node.and_then(|node| node.content).map(|content| content.blob_id);
        let (key, value) = shown::touch(content.as_ref(), modified_at);
        self.set_metadata(item, vec![(key.to_owned(), Some(value))]);
        Ok(())
    }

    /// Works as [`Batch::put_content`] for a content that is already in the cache.
    pub fn put_taken(&mut self, item: &ItemId, content: TakenContent) -> StoredContent {
        let stored = content.0.stored();
        self.contents.push((item.clone(), content.0));
        stored
    }

    /// Changes the record of a directory, in the transaction of this batch.
    pub fn record(&mut self, directory: i64, change: RecordChange) {
        self.records.push((directory, change));
    }

    /// Adds any other operation.
    pub fn push(&mut self, item: &ItemId, action: Action) {
        self.actions.push((item.clone(), action, Condition::BySight));
    }

    /// Creates an item with the fields and the content of `node`.
    fn copy_of(
        &mut self,
        node: &Node,
        parent: Option<&ItemId>,
        name: Option<Name>,
    ) -> Result<ItemId> {
        let id = self.client.new_item_id();
        // The time of a content goes with the bytes, under their new id.
        let is_time = |key: &str| node.content.is_some() && matches!(key, MTIME | TOUCHED);
        let metadata = node.metadata.iter().filter(|(key, _)| !is_time(key));
        let metadata = metadata.map(|(key, value)| (key.clone(), Some(value.clone())));
        let encrypted = node.encrypted.clone();
        let upsert = Upsert {
            object_type: Some(node.object_type),
            name: if encrypted.is_some() { None } else { name },
            metadata: if encrypted.is_some() { Default::default() } else { metadata.collect() },
            encrypted,
            parent: parent.cloned(),
        };
        self.push(&id, Action::Upsert(Box::new(upsert)));
        if let Some(content) = &node.content {
            let local =
                self.client.inner.cache.find(&content.blob_id, content.size, content.digest);
            let local = local.ok_or_else(|| ClientError::NoContent(node.id.clone()))?;
            self.put_content_at(&id, local.reader()?, node.modified_at())?;
        }
        Ok(id)
    }

    /// Queues the whole batch durably; returns the operations' ids in the order in which they were
    /// added.
    ///
    /// # Errors
    /// The first edit that the present tree does not allow; then nothing is queued.
    pub fn commit(self) -> Result<Vec<OpId>> {
        let inner = &self.client.inner;
        let here = inner.environment();
        let (items, contents): (Vec<ItemId>, Vec<NewContent>) = self.contents.into_iter().unzip();
        let uploads = items
            .into_iter()
            .zip(&contents)
            .map(|(item, one)| (here.new_op_id(), one.upload(item, here)));
        let actions = self.actions.into_iter().map(|(item, action, condition)| NewEdit {
            op_id: here.new_op_id(),
            item,
            action,
            unconditional: condition == Condition::None,
        });
        let edits = NewEdits {
            actions: actions.collect(),
            uploads: uploads.collect(),
            records: self.records,
            moves: !self.copied.is_empty(),
        };
        let ids = edits.actions.iter().map(|edit| edit.op_id.clone()).collect();
        // The bytes become durable first, so that queued operations have them even after a crash.
        inner.cache.keep(&contents)?;
        {
            let mut store = self.client.store();
            for copied in &self.copied {
                // The deletion would also delete changes made after the copy.
                let now = store.node(&copied.id)?;
                // Whether something of it is on its way is no change.
                let now = now.map(|now| Node { pending: copied.pending, ..now });
                if now.as_ref() != Some(copied) {
                    return Err(ClientError::Changed(copied.id.clone()));
                }
            }
            store.enqueue(edits, here.now())?;
            inner.cache.place(contents);
        }
        self.client.request_sync();
        Ok(ids)
    }
}

impl SyncClient {
    /// Begins a batch of edits that enter the queue together.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        let (actions, contents) = (Vec::new(), Vec::new());
        Batch { client: self, actions, contents, copied: Vec::new(), records: Vec::new() }
    }

    /// Creates a folder under `parent`, or at the top.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if the parent does not exist.
    pub fn create_folder(&self, parent: Option<&ItemId>, name: Name) -> Result<ItemId> {
        self.create(ObjectType::Folder, parent, name)
    }

    /// Creates a file under `parent`, or at the top; [`Contents::put`](crate::Contents::put) sets
    /// its content.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if the parent does not exist.
    pub fn create_file(&self, parent: Option<&ItemId>, name: Name) -> Result<ItemId> {
        self.create(ObjectType::File, parent, name)
    }

    /// Creates an item of any type.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`] if the parent does not exist.
    pub fn create(
        &self,
        object_type: ObjectType,
        parent: Option<&ItemId>,
        name: Name,
    ) -> Result<ItemId> {
        let mut batch = self.batch();
        let item = batch.create(object_type, parent, name, Vec::new());
        batch.commit()?;
        Ok(item)
    }

    /// Changes the name of an item.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn rename(&self, item: &ItemId, name: Name) -> Result<()> {
        let mut batch = self.batch();
        batch.rename(item, name);
        batch.commit().map(drop)
    }

    /// Sets metadata keys of an item; `None` removes one.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], or [`ClientError::Invalid`] if the metadata exceeds the
    /// protocol's limits.
    pub fn set_metadata(&self, item: &ItemId, metadata: MetadataChange) -> Result<()> {
        let mut batch = self.batch();
        batch.set_metadata(item, metadata);
        batch.commit().map(drop)
    }

    /// Makes an item show `modified_at` for as long as the item keeps its present content.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], [`ClientError::NotPermitted`].
    pub fn touch(&self, item: &ItemId, modified_at: Timestamp) -> Result<()> {
        let mut batch = self.batch();
        batch.touch(item, modified_at)?;
        batch.commit().map(drop)
    }

    /// Moves an item under `parent`, away from its other containers in that tree; `None` is the
    /// top. A shortcut moves within the tree that contains it; its target stays in place.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], [`ClientError::Cycle`], [`ClientError::NotPermitted`], and
    /// [`ClientError::OtherTree`] if the item is not in the tree of `parent`'s owner, or, for the
    /// top, in the user's own.
    pub fn move_to(&self, item: &ItemId, parent: Option<&ItemId>) -> Result<()> {
        let mut batch = self.batch();
        match parent {
            Some(parent) => batch.move_to(item, parent),
            None => batch.move_to_top(item)?,
        }
        batch.commit().map(drop)
    }

    /// Moves an item into another owner's tree: copies it with everything under it to `parent`
    /// (`None`: the top of the user's own tree) and deletes the original, in one transaction;
    /// returns the copy's id. Contents are copied as by [`SyncClient::copy`]. Only items that were
    /// copied are deleted.
    ///
    /// Other users see the original until the server has the copy with all its contents. If the
    /// server rejects a part of the copy, the original stays for good, and the client emits
    /// [`ChangeEvent::NotMoved`].
    ///
    /// [`ChangeEvent::NotMoved`]: crate::event::ChangeEvent::NotMoved
    ///
    /// The copy has the access of its new place: grants are not copied.
    ///
    /// # Errors
    /// As [`SyncClient::copy`]; [`ClientError::NotPermitted`] without `admin` on the original or
    /// `write` on `parent`; [`ClientError::Invalid`] within one tree, where [`SyncClient::move_to`]
    /// moves the item itself; [`ClientError::Changed`] if a pull changed a part of the original
    /// during the call.
    pub fn move_by_copy(
        &self,
        item: &ItemId,
        parent: Option<&ItemId>,
        name: Name,
    ) -> Result<ItemId> {
        let unknown = |id: &ItemId| ClientError::UnknownItem(id.clone());
        let owner = self.node(item)?.ok_or_else(|| unknown(item))?.owner;
        let home = match parent {
            Some(parent) => self.node(parent)?.ok_or_else(|| unknown(parent))?.owner,
            None => self.user(),
        };
        if owner == home {
            return Err(ClientError::Invalid(format!("{item} stays in {owner}'s tree: move it")));
        }
        let mut batch = self.batch();
        let (copy, mut copied) = self.copy_into(&mut batch, item, parent, name)?;
        for item in self.subtree(item)? {
            let original =
                copied.remove(&item).ok_or_else(|| ClientError::Changed(item.clone()))?;
            batch.copied.push(original);
            batch.delete(&item);
        }
        batch.commit()?;
        Ok(copy)
    }

    /// Links an item under one more container.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], [`ClientError::Cycle`].
    pub fn link(&self, item: &ItemId, parent: &ItemId) -> Result<()> {
        let mut batch = self.batch();
        batch.link(item, parent);
        batch.commit().map(drop)
    }

    /// Removes an item from a container; if it has no other container, the item goes to the top.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn unlink(&self, item: &ItemId, parent: &ItemId) -> Result<()> {
        let mut batch = self.batch();
        batch.unlink(item, parent);
        batch.commit().map(drop)
    }

    /// Deletes an item; returns the number of deleted items. An item that somebody else changed in
    /// a way that this replica has not seen stays, with the folders that contain it: see
    /// [`ChangeEvent::Kept`].
    ///
    /// [`ChangeEvent::Kept`]: crate::event::ChangeEvent::Kept
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn delete(&self, item: &ItemId, what: Delete) -> Result<u64> {
        self.delete_by(item, what, |batch, item| batch.delete(item))
    }

    /// Deletes as [`SyncClient::delete`] does, but regardless of what this replica has seen:
    /// changes that other devices made before and that arrive later are deleted too.
    ///
    /// # Errors
    /// As [`SyncClient::delete`].
    pub fn delete_unseen(&self, item: &ItemId, what: Delete) -> Result<u64> {
        self.delete_by(item, what, |batch, item| batch.delete_unseen(item))
    }

    fn delete_by(
        &self,
        item: &ItemId,
        what: Delete,
        delete: impl Fn(&mut Batch<'_>, &ItemId),
    ) -> Result<u64> {
        let mut batch = self.batch();
        let going = match what {
            Delete::Item => vec![item.clone()],
            Delete::Recursive => self.subtree(item)?,
        };
        for item in &going {
            delete(&mut batch, item);
        }
        batch.commit()?;
        Ok(u64::try_from(going.len()).unwrap_or(u64::MAX))
    }

    /// Returns an item and its owner's items under it that have no container outside in the owner's
    /// tree, containers first. The targets of shortcuts are not included.
    fn subtree(&self, root: &ItemId) -> Result<Vec<ItemId>> {
        let mut store = self.store();
        let unknown = || ClientError::UnknownItem(root.clone());
        let owner = store.node(root)?.ok_or_else(unknown)?.owner;
        let mut inside: HashSet<ItemId> = HashSet::from([root.clone()]);
        let mut found = vec![root.clone()];
        // Something with containers inside and outside is looked at again when one more is inside.
        let mut next = 0;
        while next < found.len() {
            for child in store.children(Some(&found[next].clone()))? {
                if child.owner != owner {
                    continue;
                }
                let mut held = false;
                for parent in store.parents(&child.id)? {
                    held |= !inside.contains(&parent)
                        && store.node(&parent)?.is_some_and(|above| above.owner == owner);
                }
                if !held && inside.insert(child.id.clone()) {
                    found.push(child.id);
                }
            }
            next += 1;
        }
        Ok(found)
    }

    /// Copies an item, with everything under it, to `parent` (`None`: the top); returns the copy's
    /// id. Contents are copied from the cache; missing ones must be fetched first
    /// ([`Contents::fetch`](crate::Contents::fetch)). A shortcut is copied as a shortcut, and left
    /// out if its target belongs to the owner of the copy's tree.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], [`ClientError::NoContent`] if a content is not on this device.
    pub fn copy(&self, item: &ItemId, parent: Option<&ItemId>, name: Name) -> Result<ItemId> {
        let mut batch = self.batch();
        let (copy, _) = self.copy_into(&mut batch, item, parent, name)?;
        batch.commit()?;
        Ok(copy)
    }

    /// Copies an item with everything under it; returns the copy's id, and the copied items in
    /// their original state.
    fn copy_into(
        &self,
        batch: &mut Batch<'_>,
        item: &ItemId,
        parent: Option<&ItemId>,
        name: Name,
    ) -> Result<(ItemId, HashMap<ItemId, Node>)> {
        let unknown = |id: &ItemId| ClientError::UnknownItem(id.clone());
        let source = self.node(item)?.ok_or_else(|| unknown(item))?;
        let home = match parent {
            Some(parent) => self.node(parent)?.ok_or_else(|| unknown(parent))?.owner,
            None => self.user(),
        };
        let copy = batch.copy_of(&source, parent, Some(name))?;
        let mut copies = HashMap::from([(item.clone(), copy.clone())]);
        let mut copied = HashMap::from([(item.clone(), source)]);
        for entry in self.walk(Some(item))? {
            let entry = entry?;
            let under = entry.parent.as_ref().and_then(|parent| copies.get(parent)).cloned();
            // A walk visits containers before their children.
            let under = under.ok_or_else(|| ClientError::Changed(entry.node.id.clone()))?;
            if entry.shortcut {
                if entry.node.owner != home {
                    batch.link(&entry.node.id, &under);
                }
                continue;
            }
            match copies.get(&entry.node.id).cloned() {
                // Met before under another container: the copy hangs under both copies.
                Some(again) => batch.link(&again, &under),
                None => {
                    let name = entry.node.name.clone();
                    let copy = batch.copy_of(&entry.node, Some(&under), name)?;
                    copies.insert(entry.node.id.clone(), copy);
                    copied.insert(entry.node.id.clone(), entry.node);
                }
            }
        }
        Ok((copy, copied))
    }
}
