//! Queued and rejected operations: `queue`, `rejected`.

use serde_json::{Value, json};
use vfs_sync_client::{QueuedState, SyncClient};
use vfs_sync_core::id::{BlobId, ItemId, OpId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::wire::PushReason;

use crate::args::{Discard, Global, Limit, Rejected, RejectedAction, Which};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, table};
use crate::{path, replica};

/// The greatest number of entries in a request for all of them.
const ALL: usize = 1_000_000;

fn operation_json(operation: &Operation) -> Value {
    serde_json::from_str(&operation.to_json()).unwrap_or(Value::Null)
}

fn operation_type(operation: &Operation) -> String {
    let json = operation_json(operation);
    json["opType"].as_str().unwrap_or_default().to_owned()
}

/// Returns the path of an item, or its id if it has none.
fn place(client: &SyncClient, item: &ItemId) -> String {
    escaped(&path::of(client, item).unwrap_or_else(|_| item.to_string()))
}

pub(in crate::commands) fn queue(global: &Global, args: Limit, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let queue = client.queue().operations(args.limit)?;
    let state = |state| match state {
        QueuedState::Pending => "pending",
        QueuedState::Acknowledged => "acknowledged",
        QueuedState::Held => "held",
    };
    if output.json {
        let operations: Vec<_> = queue
            .iter()
            .map(|op| json!({ "state": state(op.state), "operation": operation_json(&op.operation) }))
            .collect();
        let status = client.status()?;
        return output.json(&json!({
            "operations": operations, "pending": status.pending, "acknowledged": status.acknowledged,
        }));
    }
    if queue.is_empty() {
        return output.say("the queue is empty");
    }
    let mut rows = table(&["write id", "state", "operation", "item"], &[0]);
    for op in &queue {
        rows.add_row([
            op.operation.write_id.to_string(),
            state(op.state).to_owned(),
            operation_type(&op.operation),
            place(&client, &op.operation.item_id),
        ]);
    }
    output.table(rows)
}

pub(in crate::commands) fn rejected(global: &Global, args: Rejected, output: Output) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    match args.action.unwrap_or(RejectedAction::List(Limit { limit: 100 })) {
        RejectedAction::List(limit) => list(&client, limit, output),
        RejectedAction::Retry(which) => {
            let all = which.all;
            let chosen = chosen(&client, which)?;
            let (mut queued, mut uploads, mut left) = (Vec::new(), Vec::new(), Vec::new());
            for id in &chosen.operations {
                match client.queue().retry(id) {
                    Ok(again) => queued.push(json!({ "opId": id, "queuedAs": again })),
                    Err(error) if all => left.push((id.to_string(), error.to_string())),
                    Err(error) => return Err(error.into()),
                }
            }
            for id in &chosen.uploads {
                match client.queue().retry_upload(id) {
                    Ok(()) => uploads.push(id),
                    // A content whose bytes are lost does not block the others.
                    Err(error) if all => left.push((id.to_string(), error.to_string())),
                    Err(error) => return Err(error.into()),
                }
            }
            output.say(format_args!("{} queued again", queued.len() + uploads.len()))?;
            for (id, reason) in &left {
                output.say(format_args!("not queued: {}: {}", escaped(id), escaped(reason)))?;
            }
            let failed: Vec<Value> =
                left.iter().map(|(id, reason)| json!({ "id": id, "reason": reason })).collect();
            output.json(&json!({
                "retried": queued, "retriedUploads": uploads, "failed": failed,
            }))?;
            match left.len() {
                0 => Ok(()),
                count => Err(Failure::new(
                    Kind::Partial,
                    format!("{count} rejected changes could not be queued again"),
                )
                .hint("upload the lost contents again, then discard these entries")),
            }
        }
        RejectedAction::Discard(Discard { which, yes }) => {
            if which.all && !yes {
                let left = client.queue().outstanding()?;
                let count = left.rejected + left.rejected_uploads;
                return Err(Failure::usage(format!(
                    "nothing was discarded: {count} rejected changes would be lost"
                ))
                .hint("add --yes to discard them all; `vfs-sync rejected` lists them"));
            }
            let chosen = chosen(&client, which)?;
            chosen.operations.iter().try_for_each(|id| client.queue().discard(id))?;
            chosen.uploads.iter().try_for_each(|id| client.queue().discard_upload(id))?;
            output.say(format_args!("{} discarded", chosen.count()))?;
            output.json(&json!({
                "discarded": chosen.operations, "discardedUploads": chosen.uploads,
            }))
        }
    }
}

/// The selected rejected operations and contents.
struct Chosen {
    operations: Vec<OpId>,
    uploads: Vec<BlobId>,
}

impl Chosen {
    fn count(&self) -> usize {
        self.operations.len() + self.uploads.len()
    }
}

fn chosen(client: &SyncClient, which: Which) -> Result<Chosen> {
    let mut uploads: Vec<BlobId> =
        client.queue().rejected_uploads()?.into_iter().map(|upload| upload.blob_id).collect();
    if which.all {
        let rejected = client.queue().rejected(ALL)?.into_iter();
        return Ok(Chosen { operations: rejected.map(|op| op.operation.op_id).collect(), uploads });
    }
    uploads.retain(|blob_id| which.ids.iter().any(|id| id == blob_id.as_str()));
    let others = which.ids.iter().filter(|id| !uploads.iter().any(|blob| blob.as_str() == **id));
    let parse = |text: &String| {
        OpId::new(text).map_err(|reason| Failure::usage(format!("the id {text:?} {reason}")))
    };
    Ok(Chosen { operations: others.map(parse).collect::<Result<_>>()?, uploads })
}

fn list(client: &SyncClient, limit: Limit, output: Output) -> Result<()> {
    let rejected = client.queue().rejected(limit.limit)?;
    let mut uploads = client.queue().rejected_uploads()?;
    uploads.truncate(limit.limit);
    if output.json {
        let operations: Vec<_> = rejected
            .iter()
            .map(|op| {
                json!({
                    "reason": op.reason, "detail": op.detail,
                    "operation": operation_json(&op.operation),
                })
            })
            .collect();
        let uploads: Vec<_> = uploads
            .iter()
            .map(|upload| {
                json!({
                    "blobId": upload.blob_id, "itemId": upload.item_id, "size": upload.size,
                    "reason": upload.reason,
                })
            })
            .collect();
        return output.json(&json!({ "operations": operations, "uploads": uploads }));
    }
    if rejected.is_empty() && uploads.is_empty() {
        return output.say("nothing was rejected");
    }
    let mut rows = table(&["id", "what", "reason", "item"], &[]);
    for op in &rejected {
        let mut reason = op.reason.map_or("-", PushReason::as_str).to_owned();
        if let Some(detail) = &op.detail {
            reason = format!("{reason}: {}", escaped(detail));
        }
        rows.add_row([
            op.operation.op_id.to_string(),
            operation_type(&op.operation),
            reason,
            place(client, &op.operation.item_id),
        ]);
    }
    for upload in &uploads {
        rows.add_row([
            upload.blob_id.to_string(),
            format!("content, {}", bytes_text(upload.size)),
            escaped(&upload.reason),
            place(client, &upload.item_id),
        ]);
    }
    output.table(rows)
}
