//! The client's values as JSON, with the names that every language uses.

mod item;

use serde::Serialize;
use serde_json::{Value, json};
use vfs_sync_client::core::client::offer::Offered;
use vfs_sync_client::core::cursor::Cursor;
use vfs_sync_client::core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_client::core::wire::{Version, WriteIds};
use vfs_sync_client::{
    ChangeEvent, Connection, Connectivity, Grant, LostEntry, Outstanding, PollingReason, Progress,
    QueuedOp, QueuedState, Reader, RejectedOp, RejectedUpload, Status, StopReason, StoredContent,
    SyncReport, Trashed, WaitingUpload,
};

pub(crate) use item::{children, entries, found, node, result_change, tree_change};

/// Writes a value as JSON.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are text, and all numbers finite")
}

fn stop(reason: Option<&StopReason>) -> Value {
    reason.map_or(Value::Null, |reason| {
        let details = serde_json::from_str(&reason.details).unwrap_or(Value::Null);
        json!({
            "signature": reason.signature, "message": reason.message, "details": details,
            "oldestAvailable": reason.oldest_available,
        })
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusForm<'a> {
    client_id: &'a ReplicaId,
    user: &'a UserId,
    server: &'a str,
    cursor: Option<&'a Cursor>,
    last_reconciled_write_ids: &'a WriteIds,
    pending: u64,
    acknowledged: u64,
    rejected: u64,
    uploads: u64,
    rejected_uploads: u64,
    lost: u64,
    items: u64,
    stopped: Value,
    paused: Value,
    running: bool,
}

/// Returns the state of the replica as JSON text.
pub(crate) fn status(status: &Status) -> String {
    text(&StatusForm {
        client_id: &status.client_id,
        user: &status.user,
        server: &status.server,
        cursor: status.cursor.as_ref(),
        last_reconciled_write_ids: &status.last_reconciled_write_ids,
        pending: status.pending,
        acknowledged: status.acknowledged,
        rejected: status.rejected,
        uploads: status.uploads,
        rejected_uploads: status.rejected_uploads,
        lost: status.lost,
        items: status.items,
        stopped: stop(status.stopped.as_ref()),
        paused: stop(status.paused.as_ref()),
        running: status.running,
    })
}

/// Returns the state of synchronisation that an application shows.
pub(crate) fn sync_state(status: &Status, outstanding: &Outstanding) -> Value {
    let Connection { state, in_step_at } = status.connection;
    let polling = |reason: PollingReason| -> &'static str { reason.into() };
    let (name, since, reason) = match state {
        Connectivity::Unknown => ("unknown", None, None),
        Connectivity::Online => ("online", None, None),
        Connectivity::Live => ("live", None, None),
        Connectivity::Polling(reason) => ("polling", None, Some(polling(reason))),
        Connectivity::Offline { since } => ("offline", Some(since), None),
    };
    json!({
        "connection": name, "offlineSince": since, "pollingReason": reason,
        "lastInStepAt": in_step_at, "pending": outstanding.pending,
        "uploads": outstanding.uploads, "waiting": outstanding.waiting,
        "rejected": outstanding.rejected, "rejectedUploads": outstanding.rejected_uploads,
        "refused": outstanding.refused, "lost": outstanding.lost, "running": status.running,
        "stopped": stop(status.stopped.as_ref()), "paused": stop(status.paused.as_ref()),
    })
}

fn offered(offered: &Offered) -> Value {
    json!({
        "revocations": offered.revocations, "deletions": offered.deletions,
        "items": offered.items, "links": offered.links, "contents": offered.contents,
        "listed": offered.listed,
    })
}

pub(crate) fn report(report: &SyncReport) -> Value {
    json!({
        "applied": report.applied, "outdated": report.outdated, "rejected": report.rejected,
        "pulled": report.pulled, "uploaded": report.uploaded, "waiting": report.waiting,
        "uploadedBytes": report.uploaded_bytes, "pushes": report.pushes, "pages": report.pages,
        "rematerialised": report.rematerialised, "offered": offered(&report.offered),
    })
}

pub(crate) fn progress(progress: &Progress) -> Value {
    json!({
        "pushed": progress.pushed, "toPush": progress.to_push, "pulled": progress.pulled,
        "uploaded": progress.uploaded, "toUpload": progress.to_upload,
        "uploadedBytes": progress.uploaded_bytes, "downloaded": progress.downloaded,
        "toDownload": progress.to_download, "downloadedBytes": progress.downloaded_bytes,
        "toDownloadBytes": progress.to_download_bytes,
    })
}

pub(crate) fn outstanding(outstanding: &Outstanding) -> Value {
    json!({
        "pending": outstanding.pending, "uploads": outstanding.uploads,
        "waiting": outstanding.waiting, "rejected": outstanding.rejected,
        "rejectedUploads": outstanding.rejected_uploads, "refused": outstanding.refused,
        "lost": outstanding.lost,
    })
}

/// Returns an event of synchronisation; `None` for those that the other streams carry.
pub(crate) fn event(event: &ChangeEvent) -> Option<Value> {
    let item = |kind: &str, item: &ItemId| json!({ "type": kind, "item": item });
    Some(match event {
        ChangeEvent::Appeared(_)
        | ChangeEvent::Changed(_)
        | ChangeEvent::Went(_)
        | ChangeEvent::Connection(_)
        | ChangeEvent::Rebuilt => return None,
        ChangeEvent::Revoked(id) => item("revoked", id),
        ChangeEvent::Kept(id) => item("kept", id),
        ChangeEvent::NotMoved(id) => item("notMoved", id),
        ChangeEvent::Shared { item_id, owner, level } => {
            json!({ "type": "shared", "item": item_id, "owner": owner, "level": level })
        }
        ChangeEvent::Rejected { op_id, item_id, reason } => {
            json!({ "type": "rejected", "opId": op_id, "item": item_id, "reason": reason })
        }
        ChangeEvent::Outdated { op_id, item_id, reason } => {
            json!({ "type": "outdated", "opId": op_id, "item": item_id, "reason": reason })
        }
        ChangeEvent::ConflictedCopy { item_id, copy } => {
            json!({ "type": "conflictedCopy", "item": item_id, "copy": copy })
        }
        ChangeEvent::UploadRejected { item_id, reason } => {
            json!({ "type": "uploadRejected", "item": item_id, "reason": reason })
        }
        ChangeEvent::Paused(reason) => json!({ "type": "paused", "reason": stop(Some(reason)) }),
        ChangeEvent::Resumed => json!({ "type": "resumed" }),
        ChangeEvent::Outstanding(work) => {
            json!({ "type": "outstanding", "outstanding": outstanding(work) })
        }
        ChangeEvent::Stopped(reason) => json!({ "type": "stopped", "reason": stop(Some(reason)) }),
        ChangeEvent::Offered(counts) => json!({ "type": "offered", "offered": offered(counts) }),
    })
}

pub(crate) fn grant(grant: &Grant) -> Value {
    json!({ "principal": grant.principal, "level": grant.level, "pending": grant.pending })
}

pub(crate) fn reader(reader: &Reader) -> Value {
    json!({ "principal": reader.principal, "level": reader.level, "through": reader.through })
}

fn operation(operation: &vfs_sync_client::core::operation::Operation) -> Value {
    serde_json::from_str(&operation.to_json()).unwrap_or(Value::Null)
}

pub(crate) fn queued(one: &QueuedOp) -> Value {
    let state = match one.state {
        QueuedState::Pending => "pending",
        QueuedState::Acknowledged => "acknowledged",
        QueuedState::Held => "held",
    };
    json!({ "operation": operation(&one.operation), "state": state })
}

pub(crate) fn rejected(one: &RejectedOp) -> Value {
    json!({
        "opId": one.operation.op_id, "item": one.operation.item_id,
        "operation": operation(&one.operation), "reason": one.reason, "detail": one.detail,
    })
}

pub(crate) fn rejected_upload(one: &RejectedUpload) -> Value {
    json!({
        "item": one.item_id, "blobId": one.blob_id, "size": one.size, "digest": one.digest,
        "reason": one.reason,
    })
}

pub(crate) fn waiting_upload(one: &WaitingUpload) -> Value {
    json!({
        "item": one.item_id, "blobId": one.blob_id, "size": one.size, "reason": one.reason,
    })
}

pub(crate) fn lost(entry: &LostEntry) -> Value {
    json!({
        "number": entry.number, "item": entry.lost.item, "path": entry.lost.path,
        "change": entry.lost.change, "reason": entry.lost.reason,
        "authoredAt": entry.lost.authored_at,
    })
}

pub(crate) fn trashed(item: &Trashed) -> Value {
    json!({
        "item": item.item, "type": item.object_type, "name": item.name, "owner": item.owner,
        "path": item.path, "deletedAt": item.deleted_at, "deletedBy": item.deleted_by,
        "size": item.size, "expiresAt": item.expires_at, "pending": item.pending,
    })
}

pub(crate) fn version(version: &Version) -> Value {
    json!({
        "blobId": version.blob_id, "size": version.size, "digest": version.digest,
        "contentType": version.content_type, "attachedAt": version.attached_at,
        "modifiedAt": version.modified_at,
    })
}

pub(crate) fn stored(content: &StoredContent) -> Value {
    json!({ "blobId": content.blob_id, "size": content.size, "digest": content.digest })
}
