//! Merges items that two devices imported into one folder independently: equal folders and files
//! become one item, others get distinct names.

use std::collections::{BTreeSet, HashMap};

use vfs_sync_client::{Batch, ClientError, EntryRecord, Node, RecordChange, SyncClient, TreeState};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;
use vfs_sync_core::tree::conflict_copy_name;

use super::disk::link;
use super::disk::metadata::{OnDisk, on_disk};
use super::record;
use crate::error::Result;

/// The number of operations that are queued in one transaction.
const BATCH_OPERATIONS: usize = 256;
/// The number of rows that are written in one transaction.
const ROWS_TOGETHER: usize = 4_096;

/// The counts of a merge.
#[derive(Debug, Clone, Copy, Default)]
pub struct Merged {
    /// The number of items that were merged into another one.
    pub merged: u64,
    /// The number of files that were renamed to conflicted copies.
    pub renamed: u64,
}

/// Merges items that this replica imported with items of the same name from other devices. The
/// lesser id wins on every device, so several may merge at once. Only confirmed items are merged;
/// the others wait for the next call.
pub fn merge(client: &SyncClient) -> Result<Merged> {
    let mut work = Merge {
        client,
        batch: client.batch(),
        siblings: HashMap::new(),
        done: BTreeSet::new(),
        waiting: BTreeSet::new(),
        merged: Merged::default(),
    };
    let mut settled_rows = Vec::new();
    for (directory, row) in client.directories().entries_made()? {
        let settled = match client.node(&row.tree.item)? {
            Some(node) if node.pending => false,
            Some(node) => work.beside(&node, row.tree.parent.as_ref())?,
            None => true,
        };
        if settled {
            settled_rows.push((directory, row.id));
        }
    }
    let (merged, waiting) = (work.merged, work.waiting);
    for rows in settled_rows.chunks(ROWS_TOGETHER) {
        let mut batch = client.batch();
        for (directory, id) in rows {
            // Read again: the row may belong to another item now.
            let row = client.directories().entry(*directory, *id)?;
            if let Some(row) = row.filter(|row| row.made && !waiting.contains(&row.tree.item)) {
                let row = EntryRecord { made: false, ..row };
                batch.record(*directory, RecordChange::Put(Box::new(row)));
            }
        }
        batch.commit()?;
    }
    Ok(merged)
}

/// A step of merging two folders.
enum Step {
    /// Merges the second item into the first.
    Pair(Box<Node>, Box<Node>),
    /// Deletes a folder that has become empty.
    Delete(ItemId),
}

struct Merge<'a> {
    client: &'a SyncClient,
    batch: Batch<'a>,
    /// The children of a folder by name, in the state of its first reading.
    siblings: HashMap<Option<ItemId>, HashMap<Name, Vec<Node>>>,
    /// The items that are merged already.
    done: BTreeSet<ItemId>,
    /// The files of merged folders whose contents are not all known yet: another call merges them.
    waiting: BTreeSet<ItemId>,
    merged: Merged,
}

impl Merge<'_> {
    /// Merges an item with its siblings of the same name; returns `false` if it is too early.
    fn beside(&mut self, node: &Node, parent: Option<&ItemId>) -> Result<bool> {
        if self.done.contains(&node.id) {
            return Ok(true);
        }
        let key = parent.cloned();
        if !self.siblings.contains_key(&key) {
            let children = match self.client.children(parent) {
                Ok(children) => children,
                Err(ClientError::UnknownItem(_)) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            let mut by_name: HashMap<Name, Vec<Node>> = HashMap::new();
            for child in children.into_iter().filter(|child| !child.shortcut) {
                if let Some(name) = child.node.name.clone() {
                    by_name.entry(name).or_default().push(child.node);
                }
            }
            self.siblings.insert(key.clone(), by_name);
        }
        let by_name = self.siblings.get(&key);
        let siblings = node.name.as_ref().and_then(|name| by_name?.get(name));
        let siblings = siblings.map(Vec::as_slice).unwrap_or_default();
        let alike = |other: &&Node| {
            other.owner == node.owner
                && on_disk(other.object_type) == on_disk(node.object_type)
                && on_disk(other.object_type) != OnDisk::Nothing
        };
        let mut alike: Vec<Node> = siblings.iter().filter(alike).cloned().collect();
        alike.retain(|node| !self.done.contains(&node.id));
        alike.sort_by(|a, b| a.id.cmp(&b.id));
        if alike.iter().any(|node| node.pending) {
            return Ok(false);
        }
        if alike.len() > 1 && alike.iter().any(awaits_content) {
            return Ok(false);
        }
        let mut alike = alike.into_iter();
        let Some(first) = alike.next() else { return Ok(true) };
        for other in alike {
            self.done.insert(other.id.clone());
            self.pair(&first, other, parent)?;
        }
        Ok(true)
    }

    fn pair(&mut self, first: &Node, other: Node, parent: Option<&ItemId>) -> Result<()> {
        if on_disk(first.object_type) == OnDisk::File {
            self.files(first, &other, parent)?;
            return self.commit();
        }
        let mut steps = vec![Step::Pair(Box::new(first.clone()), Box::new(other))];
        while let Some(step) = steps.pop() {
            let (first, other) = match step {
                Step::Delete(item) => {
                    self.batch.delete(&item);
                    self.merged.merged += 1;
                    self.commit_if_full()?;
                    continue;
                }
                Step::Pair(first, other) => (first, other),
            };
            let above = self.client.parents_of(&first.id)?.into_iter().next();
            self.follow(&other.id, |row| become_that(row, &first, above.as_ref()))?;
            steps.push(Step::Delete(other.id.clone()));
            let there = self.client.children(Some(&first.id))?;
            for child in self.client.children(Some(&other.id))? {
                let node = child.node;
                let same = there.iter().map(|there| &there.node).find(|there| {
                    there.name == node.name
                        && there.owner == node.owner
                        && on_disk(there.object_type) == on_disk(node.object_type)
                });
                match same {
                    Some(same) if same.id == node.id => {}
                    Some(same) if on_disk(node.object_type) == OnDisk::Folder => {
                        steps.push(Step::Pair(Box::new(same.clone()), Box::new(node)));
                    }
                    Some(same) if is_same_file(same, &node) => {
                        self.files(same, &node, Some(&first.id))?;
                    }
                    Some(same) if is_too_early(same, &node) => {
                        self.batch.move_to(&node.id, &first.id);
                        let parent = first.id.clone();
                        self.follow(&node.id, |row| row.tree.parent = Some(parent.clone()))?;
                        self.wait_for(&node.id)?;
                        self.wait_for(&same.id)?;
                    }
                    same => {
                        self.batch.move_to(&node.id, &first.id);
                        let renamed = same.is_some();
                        if renamed {
                            self.rename(&node, Some(&first.id))?;
                        } else {
                            let parent = first.id.clone();
                            self.follow(&node.id, |row| row.tree.parent = Some(parent.clone()))?;
                        }
                    }
                }
                self.commit_if_full()?;
            }
        }
        self.commit()
    }

    /// Merges two files with one name if they are equal; otherwise renames the second.
    fn files(&mut self, first: &Node, other: &Node, parent: Option<&ItemId>) -> Result<()> {
        if !is_same_file(first, other) {
            return self.rename(other, parent);
        }
        self.follow(&other.id, |row| become_that(row, first, parent))?;
        self.batch.delete(&other.id);
        self.merged.merged += 1;
        Ok(())
    }

    /// Has a later call merge a file with its siblings.
    fn wait_for(&mut self, file: &ItemId) -> Result<()> {
        self.waiting.insert(file.clone());
        self.follow(file, |row| row.made = true)
    }

    fn rename(&mut self, node: &Node, parent: Option<&ItemId>) -> Result<()> {
        let Some(name) = &node.name else { return Ok(()) };
        let there = self.client.children(parent)?;
        let device = self.client.device();
        let names = (0..).map(|n| conflict_copy_name(name, &device, node.modified_at(), n));
        let is_free = |copy: &Name| there.iter().all(|child| child.name != copy.as_str());
        let Some(copy) = names.into_iter().find(is_free) else { return Ok(()) };
        self.follow(&node.id, |row| {
            row.tree.parent = parent.cloned();
            row.tree.name = copy.as_str().to_owned();
        })?;
        self.batch.rename(&node.id, copy);
        self.merged.renamed += 1;
        Ok(())
    }

    /// Changes the rows of an item in every directory.
    fn follow(&mut self, item: &ItemId, change: impl Fn(&mut EntryRecord)) -> Result<()> {
        for (directory, mut row) in self.client.directories().entries_of_item(item)? {
            change(&mut row);
            self.batch.record(directory, RecordChange::Put(Box::new(row)));
        }
        Ok(())
    }

    fn commit_if_full(&mut self) -> Result<()> {
        if self.batch.len() >= BATCH_OPERATIONS { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<()> {
        let batch = std::mem::replace(&mut self.batch, self.client.batch());
        if !batch.is_empty() {
            batch.commit()?;
        }
        Ok(())
    }
}

/// Makes a row refer to another item. The next export applies that item's time and bits.
fn become_that(row: &mut EntryRecord, node: &Node, parent: Option<&ItemId>) {
    let (mtime, mode) = (row.tree.mtime, row.tree.mode);
    row.tree = TreeState { mtime, mode, ..record::tree(node, parent) };
}

/// Returns whether two files cannot be compared yet.
fn is_too_early(one: &Node, other: &Node) -> bool {
    awaits_content(one) || awaits_content(other)
}

/// Returns whether an item is a file without a content, which may be on its way.
pub(super) fn awaits_content(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::File && link::digest_of(node).is_none()
}

fn is_same_file(one: &Node, other: &Node) -> bool {
    let digest = link::digest_of(one);
    digest.is_some() && digest == link::digest_of(other)
}
