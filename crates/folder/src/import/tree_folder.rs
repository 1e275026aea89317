//! A folder of the tree that an import fills, which may not exist yet.

use std::cell::RefCell;
use std::rc::Rc;

use vfs_sync_client::{Child, EntryRecord, EntryState, Node, RecordChange, TreeState};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::{Name, ObjectType};

use super::super::ignore::RULES_FILE;
use super::Import;
use crate::disk::metadata::{self, OnDisk, on_disk};
use crate::error::Result;

/// A folder of the tree, which may not exist yet.
#[derive(Debug, Clone)]
pub(super) struct TreeFolder(pub(super) Rc<TreeFolderInner>);

#[derive(Debug)]
pub(super) struct TreeFolderInner {
    pub(super) state: RefCell<TreeFolderState>,
    /// The row of the folder in the record.
    pub(super) row: u64,
    /// True if the record may have rows of the folder's entries.
    pub(super) has_rows: bool,
}

#[derive(Debug, Clone)]
pub(super) enum TreeFolderState {
    Top,
    There(ItemId),
    /// The folder was created by this import and is empty.
    New(ItemId),
    /// The folder was deleted in the tree; it is created again for entries that are new or edited
    /// in it.
    Gone {
        above: TreeFolder,
        name: Name,
        mode: u32,
        record: Box<EntryRecord>,
    },
}

impl TreeFolder {
    pub(super) fn new(state: TreeFolderState, row: u64, has_rows: bool) -> Self {
        Self(Rc::new(TreeFolderInner { state: RefCell::new(state), row, has_rows }))
    }

    /// Returns the folder's item, if there is one.
    pub(super) fn id(&self) -> Option<ItemId> {
        match &*self.0.state.borrow() {
            TreeFolderState::There(id) | TreeFolderState::New(id) => Some(id.clone()),
            TreeFolderState::Top | TreeFolderState::Gone { .. } => None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(&*self.0.state.borrow(), TreeFolderState::Gone { .. })
    }

    pub(super) fn is_new(&self) -> bool {
        matches!(&*self.0.state.borrow(), TreeFolderState::New(_))
    }
}

impl Import<'_> {
    /// Returns the folder's item, creating it again if the tree deleted it.
    pub(super) fn ensure_created(&mut self, place: &TreeFolder) -> Result<Option<ItemId>> {
        let mut missing = vec![place.clone()];
        while let Some(last) = missing.last() {
            let above = match &*last.0.state.borrow() {
                TreeFolderState::Gone { above, .. } => above.clone(),
                _ => break,
            };
            missing.push(above);
        }
        let mut parent = missing.pop().and_then(|above| above.id());
        for place in missing.into_iter().rev() {
            let state = place.0.state.borrow().clone();
            let TreeFolderState::Gone { above, name, mode, record } = state else { continue };
            let joins =
                if above.is_new() { None } else { self.folder_named(parent.as_ref(), &name)? };
            let (item, state) = match joins {
                Some(node) => (node.id.clone(), TreeFolderState::There(node.id)),
                None => {
                    self.report.folders_created += 1;
                    let change = metadata::mode_change(mode);
                    let (kind, parent) = (ObjectType::Folder, parent.as_ref());
                    let item = self.batch.create(kind, parent, name.clone(), change);
                    (item.clone(), TreeFolderState::New(item))
                }
            };
            let name = name.as_str().to_owned();
            let mode = Some(mode);
            let tree = TreeState { item: item.clone(), parent, name, mode, ..record.tree.clone() };
            let row = EntryRecord { tree, state: EntryState::Agreed, ..*record };
            let id = row.id;
            self.row(RecordChange::Put(Box::new(row)));
            self.keep_rules(id)?;
            *place.0.state.borrow_mut() = state;
            parent = Some(item);
        }
        Ok(parent)
    }

    /// Removes the row of the file with rules in a folder that lives on, if the tree deleted that
    /// file with the folder: the next import then brings it back too.
    fn keep_rules(&mut self, folder: u64) -> Result<()> {
        let rows = self.client.directories().entries(self.record.directory.id, folder)?;
        if let Some(row) = rows.iter().find(|row| row.name == RULES_FILE.as_bytes())
            && self.client.node(&row.tree.item)?.is_none()
        {
            self.row(RecordChange::Remove(row.id));
        }
        Ok(())
    }

    fn folder_named(&self, parent: Option<&ItemId>, name: &Name) -> Result<Option<Node>> {
        let Ok(children) = self.client.children(parent) else { return Ok(None) };
        let is_it = |child: &Child| {
            child.name == name.as_str()
                && on_disk(child.node.object_type) == OnDisk::Folder
                && !child.shortcut
        };
        Ok(children.into_iter().find(is_it).map(|child| child.node))
    }
}
