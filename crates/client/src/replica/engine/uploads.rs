//! Contents on their way to the server, and conflicted copies of superseded ones.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::id::{BlobId, ItemId, OpId};
use vfs_sync_core::item::Name;
use vfs_sync_core::operation::{Action, Upsert};
use vfs_sync_core::shown::{self, MTIME, TOUCHED};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::tree::conflict_copy_name;

use super::flush::leave_alone;
use super::moves;
use super::tops::refresh_affected;
use crate::api::node::{Node, QueuedState};
use crate::event::ChangeEvent;
use crate::replica::edits::make_operation;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, Slot, Superseded, Upload, UploadState};
use crate::replica::view::View;

/// Records the outcomes of uploads, and the contents that later uploads of the same items expect.
/// Returns events about originals that stay because their copy was rejected.
pub(super) fn settle_uploads(
    rows: &mut dyn Rows,
    meta: &Meta,
    uploads: &[Upload],
) -> Result<Vec<ChangeEvent>> {
    let mut events = Vec::new();
    let refused = uploads.iter().filter(|upload| upload.state == UploadState::Rejected);
    leave_alone(rows, refused.map(|upload| upload.item.clone()).collect())?;
    for upload in uploads {
        let mut upload = upload.clone();
        let queue = rows.uploads_of_item(&upload.item)?;
        let before = queue.iter().find(|one| one.seq == upload.seq);
        if let Some(before) = before.filter(|one| one.blob_id != upload.blob_id) {
            // A touch names the bytes by the id that they lose.
            let node = View::new(rows, &meta.user, Slot::Current).node(&upload.item)?;
            let touched = node.as_ref().and_then(|node| shown::touched(&node.metadata));
            let of_these = touched.filter(|(_, of)| *of == before.blob_id.as_str());
            upload.modified_at = of_these.map(|(time, _)| time).or(upload.modified_at);
        }
        let now = match upload.state {
            UploadState::Rejected => upload.expected.clone(),
            UploadState::Queued | UploadState::Attached => Some(upload.blob_id.clone()),
        };
        if let Some(before) = before {
            let gone = Some(before.blob_id.clone());
            for later in queue.iter().filter(|later| later.expected == gone && now != gone) {
                let expected = now.clone();
                rows.put_upload(&Upload { expected, attach: None, ..later.clone() })?;
            }
        }
        rows.put_upload(&upload)?;
        moves::withdraw_of_refused(rows, meta, &upload, &mut events)?;
    }
    Ok(events)
}

/// The reason for rejecting a content that cannot even become a conflicted copy.
const WENT: &str = "the item went while its content was on its way";

/// The greatest number of siblings that are searched for the name and the bytes of a conflicted
/// copy; in a larger folder, the copy's name is made unique like that of any sibling.
const SIBLINGS_AT_MOST: usize = 2_048;

/// Keeps a superseded content in a new item beside the original, unless that is unnecessary or
/// impossible. If the original was deleted after the other content, this one is sent again to bring it
/// back: the other one stays its version. Returns the resulting events.
pub(super) fn copy_aside(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    Superseded { upload, current: before }: Superseded,
    op_id: OpId,
    copy: ItemId,
    device: &str,
    now: Timestamp,
) -> Result<Vec<ChangeEvent>> {
    let current = rows.content(Slot::Current, &upload.item)?;
    if current.is_some_and(|row| row.attachment.digest == upload.digest) {
        discard(rows, &upload)?;
        return Ok(Vec::new());
    }
    let there = rows.content(Slot::Current, &copy)?;
    if there.is_some_and(|row| row.attachment.digest == upload.digest) {
        // Another device of the user has made the same copy.
        discard(rows, &upload)?;
        return Ok(Vec::new());
    }
    let mut view = View::new(rows, &meta.user, Slot::Current);
    let Some(node) = view.node(&upload.item)? else {
        if is_being_deleted(rows, &upload.item)? {
            rows.put_upload(&Upload { attach: None, ..upload })?;
            return Ok(Vec::new());
        }
        if before.is_some() && upload.expected != before && !upload.offered {
            // The next pull comes first. If it shows the item again, with yet another content, the
            // server does not take this one either, and it becomes a copy of the item.
            rows.put_upload(&Upload { expected: before, attach: None, ..upload })?;
            return Ok(Vec::new());
        }
        leave_alone(rows, BTreeSet::from([upload.item.clone()]))?;
        let (item_id, reason) = (upload.item.clone(), WENT.to_owned());
        let mut events = vec![ChangeEvent::UploadRejected { item_id, reason: reason.clone() }];
        let (state, reason) = (UploadState::Rejected, Some(reason));
        let upload = Upload { state, reason, ..upload };
        rows.put_upload(&upload)?;
        moves::withdraw_of_refused(rows, meta, &upload, &mut events)?;
        return Ok(events);
    };
    let parent = view.parents(&upload.item)?.into_iter().next();
    let siblings = siblings_of(&mut view, parent.as_ref())?;
    let same = siblings.iter().find(|sibling| {
        let content = sibling.content.as_ref();
        sibling.id != upload.item
            && sibling.owner == node.owner
            && content.is_some_and(|content| content.digest == upload.digest)
            && is_copy_of(sibling, &node)
    });
    if let Some(same) = same.map(|sibling| sibling.id.clone()) {
        // Another device, or an earlier attempt, kept these bytes.
        follow_copy(rows, &upload, &same, parent.as_ref())?;
        discard(rows, &upload)?;
        return Ok(Vec::new());
    }
    let made_at = upload.modified_at.unwrap_or(now);
    let name = node.name.as_ref().map(|name| free_copy_name(name, device, made_at, &siblings));
    // Contents that were written on top of it move to the copy too.
    let later = rows.uploads_of_item(&upload.item)?.into_iter();
    let later = later.filter(|later| later.expected.as_ref() == Some(&upload.blob_id));
    let later: Vec<Upload> = later.collect();
    // So do the times of these bytes, and no others.
    let goes_along = |blob: &str| {
        let mut along = later.iter().chain([&upload]);
        along.any(|one| one.blob_id.as_str() == blob)
    };
    let touched = shown::touched(&node.metadata).is_some_and(|(_, of)| goes_along(of));
    let stays = |key: &str| match key {
        TOUCHED => touched,
        MTIME => upload.modified_at.is_none(),
        _ => true,
    };
    let metadata = node.metadata.into_iter().filter(|(key, _)| stays(key));
    let metadata = metadata.map(|(key, value)| (key, Some(value)));
    let encrypted = node.encrypted;
    let upsert = Upsert {
        object_type: Some(node.object_type),
        name: if encrypted.is_some() { None } else { name },
        metadata: if encrypted.is_some() { BTreeMap::new() } else { metadata.collect() },
        encrypted,
        parent: parent.clone(),
    };
    let action = Action::Upsert(Box::new(upsert));
    let basis = Some(meta.basis());
    let op = make_operation(meta, op_id, copy.clone(), action, basis, now)?;
    rows.push_queue(&op, QueuedState::Pending)?;
    refresh_affected(rows, &meta.user, &[op])?;
    for later in later {
        rows.put_upload(&Upload { item: copy.clone(), attach: None, ..later })?;
    }
    follow_copy(rows, &upload, &copy, parent.as_ref())?;
    let item_id = upload.item.clone();
    rows.put_upload(&Upload { item: copy.clone(), expected: None, attach: None, ..upload })?;
    Ok(vec![ChangeEvent::ConflictedCopy { item_id, copy }])
}

/// Returns true if the user deleted an item and the deletion is not settled yet. The item's contents
/// wait: they are sent if the deletion turns out not to apply, and are removed with the item.
pub(super) fn is_being_deleted(rows: &mut dyn Rows, item: &ItemId) -> Result<bool> {
    let last = rows
        .queue_of_item(item)?
        .into_iter()
        .map(|one| one.operation.action)
        .rfind(|action| matches!(action, Action::Delete | Action::Upsert(_)));
    Ok(last == Some(Action::Delete))
}

/// Removes the waiting contents of an item that this replica deleted as the last edit of it. If the
/// item lives on, those on top of its content are sent; another content keeps it alive without them.
pub(super) fn settle_deletion(rows: &mut dyn Rows, item: &ItemId, lives: bool) -> Result<()> {
    let mut waiting = rows.uploads_of_item(item)?;
    waiting.retain(|upload| upload.state == UploadState::Queued);
    let Some(first) = waiting.first() else { return Ok(()) };
    let current = rows.content(Slot::Current, item)?.map(|row| row.attachment.blob_id.clone());
    if lives && (first.expected == current || Some(&first.blob_id) == current.as_ref()) {
        return Ok(());
    }
    for upload in waiting {
        discard(rows, &upload)?;
    }
    Ok(())
}

/// Removes an upload, and its bytes once nothing else needs them.
fn discard(rows: &mut dyn Rows, upload: &Upload) -> Result<()> {
    rows.remove_upload(upload.seq)?;
    rows.forget(&upload.item, &upload.blob_id)
}

fn siblings_of(view: &mut View<'_>, parent: Option<&ItemId>) -> Result<Vec<Node>> {
    let ids = match parent {
        Some(parent) => {
            let few = view.rows.children(Slot::Current, parent)?.len() <= SIBLINGS_AT_MOST;
            return if few { view.children(parent) } else { Ok(Vec::new()) };
        }
        None => view.rows.tops()?.into_iter().map(|(id, _)| id).collect::<Vec<_>>(),
    };
    let mut siblings = Vec::new();
    for id in ids.iter().filter(|_| ids.len() <= SIBLINGS_AT_MOST) {
        siblings.extend(view.node(id)?);
    }
    Ok(siblings)
}

/// Returns true if a sibling has the name of a conflicted copy of an item, made by any device.
fn is_copy_of(sibling: &Node, node: &Node) -> bool {
    let (Some(name), Some(of)) = (&sibling.name, &node.name) else { return false };
    let at = Timestamp::MIN;
    name != of && conflict_copy_name(name, "x", at, 0) == conflict_copy_name(of, "x", at, 0)
}

fn free_copy_name(name: &Name, device: &str, at: Timestamp, siblings: &[Node]) -> Name {
    let taken: BTreeSet<&Name> = siblings.iter().filter_map(|one| one.name.as_ref()).collect();
    let names = (0..).map(|number| conflict_copy_name(name, device, at, number));
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_else(|| name.clone())
}

/// Moves the directory rows of a content that became a conflicted copy to the copy.
fn follow_copy(
    rows: &mut dyn Rows,
    upload: &Upload,
    copy: &ItemId,
    parent: Option<&ItemId>,
) -> Result<()> {
    if rows.directories()?.is_empty() {
        return Ok(());
    }
    for (directory, mut row) in rows.entries_of_items(&BTreeSet::from([upload.item.clone()]))? {
        if row.tree.digest == Some(upload.digest) {
            row.tree.item = copy.clone();
            row.tree.parent = parent.cloned();
            row.tree.blob_id = Some(upload.blob_id.clone());
            rows.put_entry(directory, &row)?;
        }
    }
    Ok(())
}

/// Returns the next contents whose bytes nothing needs any more.
pub(super) fn forgettable(rows: &mut dyn Rows, at_most: usize) -> Result<Vec<BlobId>> {
    let mut going = Vec::new();
    while going.is_empty() {
        let forgotten = rows.forgotten(at_most)?;
        if forgotten.is_empty() {
            break;
        }
        for (item, blob_id) in forgotten {
            // It came back, or is on its way to the server under the same id.
            let current = rows.content(Slot::Current, &item)?;
            let shown = current.is_some_and(|row| row.attachment.blob_id == blob_id);
            if shown || rows.is_needed(&blob_id)? {
                rows.remove_forgotten(&blob_id)?;
            } else {
                going.push(blob_id);
            }
        }
    }
    Ok(going)
}
