//! Reports the changes of the tree to those who listen: each item as it was shown before a
//! transaction and after it.

use std::collections::{HashMap, HashSet};

use tokio::sync::{broadcast, watch};
use vfs_sync_core::client::flush::FlushCommit;
use vfs_sync_core::client::pull::PageCommit;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::tree::Node;

use super::{MAX_STEPS, ReplicaStore};
use crate::api::TreePath;
use crate::api::node::step;
use crate::event::{ItemChange, ShownItem, TreeChange};
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, NewEdits, Upload};
use crate::replica::view::View;

/// The greatest number of items of one transaction that are reported singly; a larger transaction
/// is reported as a change of the whole tree.
const REPORTED_SINGLY: usize = 2_048;

/// The receivers of what transactions change.
pub(crate) struct Reports {
    pub(crate) changes: broadcast::Sender<TreeChange>,
    /// A number that grows with every transaction that may change the tree.
    pub(crate) version: watch::Sender<u64>,
}

/// The items that a transaction may change.
pub(super) enum Touched {
    Items(Vec<ItemId>),
    /// Any item of the tree may change.
    All,
}

/// The state before a transaction, to be compared with the state after it.
pub(super) struct Before {
    local: bool,
    changes: broadcast::Sender<TreeChange>,
    /// The touched items as they were shown; `None` if there are too many, or any.
    items: Option<Vec<(ItemId, Option<ShownItem>)>>,
}

impl ReplicaStore {
    /// Notes how the `touched` items are shown, before a transaction that changes at most these.
    /// `local` is true for an edit of this replica. Nothing is read if nobody listens.
    pub(super) fn before(
        &mut self,
        local: bool,
        touched: impl FnOnce(&mut dyn Rows) -> Result<Touched>,
    ) -> Result<Option<Before>> {
        let indexed = self.has_index()?;
        let reports = self.reports.as_ref();
        let listened = reports.filter(|reports| reports.changes.receiver_count() > 0);
        let changes = listened.map(|reports| reports.changes.clone());
        if !indexed && changes.is_none() {
            return Ok(None);
        }
        let mut touched = touched(&mut *self.rows)?;
        if let Touched::Items(items) = &mut touched {
            items.sort_unstable();
            items.dedup();
        }
        let items = match &touched {
            Touched::Items(items) if items.len() <= REPORTED_SINGLY => Some(items.clone()),
            _ => None,
        };
        self.touched = indexed.then_some(touched);
        let Some(changes) = changes else { return Ok(None) };
        let items = match items {
            Some(items) => {
                let shown = self.shown(items.iter())?;
                Some(items.into_iter().zip(shown).collect())
            }
            None => None,
        };
        Ok(Some(Before { local, changes, items }))
    }

    /// Reports what a committed transaction changed since `before`.
    pub(super) fn report(&mut self, before: Option<Before>) {
        if let Some(Before { local, changes, items }) = before {
            // Nobody listening any more is no failure, and what cannot be compared any more is
            // reported as a whole: the transaction is committed.
            let after = items.map(|items| (self.shown(items.iter().map(|(id, _)| id)), items));
            match after {
                Some((Ok(after), items)) => {
                    for ((id, before), after) in items.into_iter().zip(after) {
                        if before != after {
                            let change = ItemChange { id, before, after, local };
                            let _ = changes.send(TreeChange::Item(Box::new(change)));
                        }
                    }
                }
                None | Some((Err(_), _)) => drop(changes.send(TreeChange::Rebuilt)),
            }
        }
        self.bump_version();
    }

    /// Runs `work`, a transaction that changes at most the `touched` items, and reports what it
    /// changed.
    pub(super) fn reported<T>(
        &mut self,
        local: bool,
        touched: impl FnOnce(&mut dyn Rows) -> Result<Touched>,
        work: impl FnOnce(&mut dyn Rows, &mut Meta) -> Result<T>,
    ) -> Result<T> {
        let before = self.before(local, touched)?;
        let done = self.transaction(work)?;
        self.report(before);
        Ok(done)
    }

    fn bump_version(&self) {
        if let Some(reports) = &self.reports {
            reports.version.send_modify(|version| *version += 1);
        }
    }

    fn shown<'a>(
        &mut self,
        items: impl Iterator<Item = &'a ItemId>,
    ) -> Result<Vec<Option<ShownItem>>> {
        self.read(|view| {
            let mut known = HashMap::new();
            let shown = items.map(|id| {
                let Some(node) = view.node(id)? else { return Ok(None) };
                let parents = view.parents(id)?;
                let path = path(view, &node, &parents, &mut known)?;
                Ok(Some(ShownItem { path, parents, node }))
            });
            shown.collect()
        })
    }
}

/// Returns the path of an item by the names as they were set, through the first container in its
/// own tree at each step. `known` has the steps of containers that were looked at before.
fn path(
    view: &mut View<'_>,
    node: &Node,
    parents: &[ItemId],
    known: &mut HashMap<ItemId, Vec<String>>,
) -> Result<String> {
    let mut steps = vec![step(node.name.as_ref(), &node.id)];
    let (mut passed, mut chain) = (HashSet::from([node.id.clone()]), Vec::new());
    let mut above = parents.to_vec();
    let mut top: Vec<String> = Vec::new();
    while steps.len() < MAX_STEPS {
        let mut container = None;
        for id in &above {
            if let Some(found) = view.node(id)?.filter(|found| found.owner == node.owner) {
                container = Some(found);
                break;
            }
        }
        let Some(container) = container.filter(|found| passed.insert(found.id.clone())) else {
            break;
        };
        if let Some(steps) = known.get(&container.id) {
            top.clone_from(steps);
            break;
        }
        chain.push((container.id.clone(), steps.len()));
        steps.push(step(container.name.as_ref(), &container.id));
        above = view.parents(&container.id)?;
    }
    steps.reverse();
    let (from_top, count) = (top.len(), steps.len());
    top.extend(steps);
    for (id, below) in chain {
        known.insert(id, top[..from_top + count - below].to_vec());
    }
    let path = if node.owner == *view.user {
        TreePath::Own(top)
    } else {
        TreePath::Shared { owner: node.owner.clone(), steps: top }
    };
    Ok(path.to_string())
}

/// Returns the items of a page; a page that settles a pull also ends the overlay of the operations
/// that it covers.
pub(super) fn of_page(
    rows: &mut dyn Rows,
    copied: bool,
    epoch: Option<Epoch>,
    page: &PageCommit,
) -> Result<Touched> {
    if page.settled.is_some() && copied {
        return Ok(Touched::All);
    }
    let item = |key| match key {
        EntryKey::Item(item)
        | EntryKey::Content(item)
        | EntryKey::Grant { item, .. }
        | EntryKey::Attachment { item, .. } => item,
        EntryKey::Link { child, .. } => child,
    };
    let mut items: Vec<ItemId> =
        page.entries.iter().map(|entry| item(entry.body.change.key())).collect();
    if page.settled.is_some() || page.epoch != epoch {
        items.extend(rows.unsettled_items()?);
    }
    Ok(Touched::Items(items))
}

pub(super) fn of_edits(edits: &NewEdits) -> Touched {
    let edited = edits.actions.iter().map(|edit| edit.item.clone());
    Touched::Items(edited.chain(edits.uploads.iter().map(|(_, one)| one.item.clone())).collect())
}

/// Returns the items of the operations of a push. A rejection may also withdraw a move, and reject
/// what depends on the operation.
pub(super) fn of_flush(rows: &mut dyn Rows, commit: &FlushCommit) -> Result<Touched> {
    if commit.rejected.is_empty() {
        // Those that were pushed are the first ones. The server may have given them other times.
        let decided = commit.acknowledged.len() + commit.outdated.len();
        let pushed = rows.pending(decided)?.into_iter();
        return Ok(Touched::Items(pushed.map(|(op, _)| op.item_id).collect()));
    }
    let queue = rows.queue(REPORTED_SINGLY + 1)?;
    if queue.len() > REPORTED_SINGLY {
        return Ok(Touched::All);
    }
    Ok(Touched::Items(queue.into_iter().map(|one| one.operation.item_id).collect()))
}

/// Returns the items of uploads, and those that moves hold.
pub(super) fn of_uploads(rows: &mut dyn Rows, uploads: &[Upload]) -> Result<Touched> {
    let mut items: Vec<ItemId> = uploads.iter().map(|upload| upload.item.clone()).collect();
    held(rows, &mut items)?;
    Ok(Touched::Items(items))
}

/// Returns the item of a rejected operation, and those that moves hold.
pub(super) fn of_rejected(rows: &mut dyn Rows, op_id: &OpId) -> Result<Touched> {
    let mut rejected = rows.rejected(usize::MAX)?.into_iter();
    let found = rejected.find(|one| one.operation.op_id == *op_id);
    let mut items: Vec<ItemId> = found.map(|one| one.operation.item_id).into_iter().collect();
    held(rows, &mut items)?;
    Ok(Touched::Items(items))
}

/// Returns an item, and those that moves hold.
pub(super) fn of_held(rows: &mut dyn Rows, item: &ItemId) -> Result<Touched> {
    let mut items = vec![item.clone()];
    held(rows, &mut items)?;
    Ok(Touched::Items(items))
}

fn held(rows: &mut dyn Rows, items: &mut Vec<ItemId>) -> Result<()> {
    for moved in rows.held_moves()? {
        items.extend(rows.held_of(&moved)?.into_iter().map(|op| op.item_id));
    }
    Ok(())
}
