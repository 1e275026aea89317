//! The index of shown items that queries read. It exists from the first query on, and each
//! transaction keeps it up to date for the items that it touches.

use std::collections::BTreeSet;

use vfs_sync_core::id::ItemId;

use super::ReplicaStore;
use crate::api::{Node, Query, QueryCursor};
use crate::replica::rows::{FoundRow, Result, Rows};
use crate::replica::store::{Meta, Slot};
use crate::replica::view::View;

/// The number of items that are indexed in one transaction.
const INDEXED_TOGETHER: usize = 4_096;

impl ReplicaStore {
    /// Returns true if there is an index.
    pub(super) fn has_index(&mut self) -> Result<bool> {
        if let Some(known) = self.indexed {
            return Ok(known);
        }
        let indexed = self.rows.is_indexed()?;
        self.indexed = Some(indexed);
        Ok(indexed)
    }

    pub(super) fn found(&mut self, query: &Query) -> Result<Vec<Node>> {
        if !self.has_index()? {
            self.make_index()?;
        }
        let ids = self.rows.find(query)?;
        self.read(|view| {
            let mut nodes = Vec::with_capacity(ids.len());
            for id in ids {
                nodes.extend(view.node(&id)?);
            }
            Ok(nodes)
        })
    }

    /// Makes the index of all items. A crash on the way leaves an index that does not count, and is made anew.
    fn make_index(&mut self) -> Result<()> {
        self.transaction(|rows, _| rows.clear_found())?;
        let mut after: Option<ItemId> = None;
        loop {
            let page = self.rows.items_told_after(None, after.as_ref(), INDEXED_TOGETHER)?;
            let ids: Vec<ItemId> = page.into_iter().map(|row| row.view.item_id.clone()).collect();
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            self.transaction(|rows, meta| refresh(rows, meta, &ids))?;
        }
        let queue = self.rows.queue(usize::MAX)?;
        let queued: BTreeSet<ItemId> = queue.into_iter().map(|one| one.operation.item_id).collect();
        let queued: Vec<ItemId> = queued.into_iter().collect();
        self.transaction(|rows, meta| {
            refresh(rows, meta, &queued)?;
            rows.set_indexed(true)
        })?;
        self.indexed = Some(true);
        Ok(())
    }
}

/// Brings the rows of some items up to date.
pub(super) fn refresh(rows: &mut dyn Rows, meta: &Meta, ids: &[ItemId]) -> Result<()> {
    for id in ids {
        let node = View::new(rows, &meta.user, Slot::Current).node(id)?;
        rows.remove_found(id)?;
        if let Some(node) = node {
            let QueryCursor { name, modified_at, id } = QueryCursor::of(&node);
            let (object_type, owner, metadata) = (node.object_type, node.owner, node.metadata);
            rows.put_found(FoundRow { id, name, object_type, owner, modified_at, metadata })?;
        }
    }
    Ok(())
}
