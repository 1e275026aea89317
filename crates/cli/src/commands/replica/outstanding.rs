//! Outstanding work of a replica: `sync` and `status` report it and exit with 5 while there is any.

use serde_json::{Value, json};
use vfs_sync_client::{Outstanding, StopReason, SyncClient};

use crate::error::{Failure, Kind, Result, explain_command};
use crate::escape::escaped;
use crate::output::{Output, count_text, counted};
use crate::path;

/// The number of waiting contents that are shown to a person.
const SHOWN: usize = 20;

/// Renders everything outstanding as JSON.
pub(super) fn json(client: &SyncClient, left: &Outstanding) -> Result<Value> {
    let waiting: Vec<Value> = client
        .queue()
        .waiting_uploads()?
        .into_iter()
        .map(|upload| {
            json!({
                "blobId": upload.blob_id, "itemId": upload.item_id, "size": upload.size,
                "path": path::of(client, &upload.item_id).ok(), "reason": upload.reason,
            })
        })
        .collect();
    Ok(json!({
        "pending": left.pending,
        "uploads": left.uploads,
        "waiting": waiting,
        "rejected": left.rejected,
        "rejectedUploads": left.rejected_uploads,
        "refused": left.refused,
        "lost": left.lost,
    }))
}

/// Lists the waiting contents with their reasons.
pub(super) fn say(client: &SyncClient, output: Output) -> Result<()> {
    let waiting = client.queue().waiting_uploads()?;
    for upload in waiting.iter().take(SHOWN) {
        let at = path::of(client, &upload.item_id);
        let at = at.unwrap_or_else(|_| upload.item_id.to_string());
        output.say(format_args!("waiting: {}: {}", escaped(&at), escaped(&upload.reason)))?;
    }
    if waiting.len() > SHOWN {
        let more = count_text((waiting.len() - SHOWN) as u64);
        output.say(format_args!("… and {more} more contents are waiting"))?;
    }
    Ok(())
}

/// Returns the failure of a command that finds synchronising stopped.
pub(in crate::commands) fn stopped(reason: &StopReason) -> Failure {
    let text = format!("synchronisation is stopped: {}", reason.message);
    Failure::new(Kind::Partial, text).hint(next_of_stop(&reason.signature))
}

/// Returns the next step after a stop.
pub(super) fn next_of_stop(signature: &str) -> String {
    match explain_command(signature) {
        Some(command) => format!("see `{command}`, and `vfs-sync doctor`"),
        None => "see `vfs-sync doctor`".to_owned(),
    }
}

/// Summarises the outstanding work in a sentence; `None` if there is none.
pub(in crate::commands) fn sentence(left: &Outstanding) -> Option<String> {
    let mut parts = Vec::new();
    let mut part = |count: u64, one: &str, many: &str, why: Option<&String>| {
        if count > 0 {
            let mut text = counted(count, one, many);
            if let Some(why) = why {
                text.push_str(&format!(" ({why})"));
            }
            parts.push(text);
        }
    };
    let refused = left.refused.as_ref();
    let (of_operation, of_upload) =
        if left.rejected > 0 { (refused, None) } else { (None, refused) };
    part(left.rejected, "change was rejected", "changes were rejected", of_operation);
    let (one, many) = ("content was rejected", "contents were rejected");
    part(left.rejected_uploads, one, many, of_upload);
    let (one, many) = ("content waits to be uploaded", "contents wait to be uploaded");
    part(left.uploads, one, many, left.waiting.as_ref());
    part(left.pending, "change waits to be pushed", "changes wait to be pushed", None);
    let (one, many) = (
        "change that the restored server lost is missing",
        "changes that the restored server lost are missing",
    );
    part(left.lost, one, many, None);
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Returns the failure of a command if work is outstanding.
pub(super) fn failure(left: &Outstanding) -> Option<Failure> {
    let failure = Failure::new(Kind::Partial, sentence(left)?);
    let mut hints = Vec::new();
    if left.rejected + left.rejected_uploads > 0 {
        hints.push(
            "`vfs-sync rejected` lists rejected changes, `rejected retry --all` queues them again; \
             they are kept until they are discarded",
        );
    }
    if left.uploads + left.pending > 0 {
        hints.push("waiting changes are kept here, and sent by the next `vfs-sync sync`");
    }
    if left.lost > 0 {
        hints.push("`vfs-sync recover` lists what this device could not offer to the server again");
    }
    Some(failure.hint(hints.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outstanding_is_told_with_its_reason() {
        assert_eq!(sentence(&Outstanding::default()), None);
        let left = Outstanding {
            pending: 1,
            uploads: 1_234,
            waiting: Some("the disk is full".into()),
            rejected: 0,
            rejected_uploads: 2,
            refused: Some("not yours".into()),
            lost: 0,
        };
        let text = sentence(&left).unwrap();
        assert_eq!(
            text,
            "2 contents were rejected (not yours); 1,234 contents wait to be uploaded (the disk is \
             full); 1 change waits to be pushed"
        );
        assert_eq!(failure(&left).unwrap().kind.exit_code(), 5);
    }
}
