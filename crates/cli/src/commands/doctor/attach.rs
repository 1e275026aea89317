//! The runbook's five steps for the contents that wait to be attached.

use serde_json::{Value, json};
use vfs_sync_client::{HttpTransport, QueuedUpload, SyncState, TransportError, TransportExt as _};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, StageStatus, StateResponse, code};

use super::check::Check;
use super::server::{key_of, within};
use super::site::Site;

const ID: &str = "sync.attach";

/// The number of contents that are looked at.
const LOOKED_AT: usize = 5;

/// A step of the runbook with its outcome: a failure has the key of its entry.
struct Step {
    number: u8,
    failure: Option<(&'static str, String)>,
    detail: String,
}

impl Step {
    fn ok(number: u8, detail: impl Into<String>) -> Self {
        Self { number, failure: None, detail: detail.into() }
    }

    fn failed(number: u8, key: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { number, failure: Some((key, detail.clone())), detail }
    }
}

/// Goes through the five steps for the first contents in the queue.
pub(super) async fn check(
    site: &Site<'_>,
    transport: &HttpTransport,
    here: &SyncState,
    there: Option<&StateResponse>,
    uploads: &[QueuedUpload],
    now: Timestamp,
) -> Check {
    let waiting: Vec<_> = uploads.iter().take(LOOKED_AT).collect();
    if waiting.is_empty() {
        return Check::ok(ID, "no content waits to be attached");
    }
    let mut shown = Vec::new();
    let mut first: Option<(u8, &'static str, String)> = None;
    for upload in &waiting {
        let steps = steps(transport, here, there, upload, now).await;
        let failure = steps.iter().find_map(|step| {
            step.failure.as_ref().map(|(key, why)| (step.number, *key, why.clone()))
        });
        shown.push(json!({
            "stagingId": upload.staging_id,
            "itemId": upload.item_id,
            "size": upload.size,
            "steps": steps.iter().map(|step| json!({
                "step": step.number, "ok": step.failure.is_none(), "detail": step.detail,
            })).collect::<Vec<Value>>(),
            "retryGoesThrough": failure.is_none(),
        }));
        first = first.or(failure);
    }
    let count = waiting.len();
    let check = match first {
        None => Check::note(
            ID,
            format!("{count} of the contents that wait were looked at: a retry goes through"),
        )
        .next(site.command("sync")),
        // The client does these by itself.
        Some((step, key, why)) if passes(key) => {
            Check::note(ID, format!("step {step} waits: {why}; the next sync does it"))
                .with("failingStep", step)
                .explained(key)
                .next(site.command("sync"))
        }
        Some((step, key, why)) => {
            let check = Check::problem(ID, format!("step {step} fails: {why}"))
                .with("failingStep", step)
                .explained(key);
            let next = check.entry().map(|entry| site.command_of(entry)).unwrap_or_default();
            check.next(next)
        }
    };
    check.name("contents", shown)
}

/// Returns whether a client resolves the failure by itself at its next sync.
fn passes(key: &str) -> bool {
    [code::RECONCILE_BEHIND, code::STAGE_EXPIRED, code::STAGE_NOT_ATTACHABLE].contains(&key)
}

async fn steps(
    transport: &HttpTransport,
    here: &SyncState,
    there: Option<&StateResponse>,
    upload: &QueuedUpload,
    now: Timestamp,
) -> Vec<Step> {
    let stage = within(transport.stage_state(&upload.staging_id)).await;
    let mut steps = vec![match stage {
        Ok(stage) if stage.status == StageStatus::Abandoned => Step::failed(
            1,
            code::STAGE_NOT_ATTACHABLE,
            "the stage is abandoned: it is staged again under new ids",
        ),
        Ok(stage) if stage.status == StageStatus::Staged && stage.expires_at <= now => {
            Step::failed(
                1,
                code::STAGE_EXPIRED,
                format!("the stage has expired at {}", stage.expires_at),
            )
        }
        Ok(stage) => Step::ok(
            1,
            format!("the stage is {} until {}", stage.status.as_str(), stage.expires_at),
        ),
        Err(TransportError::Refused { code: is, .. }) if is == code::UNKNOWN_STAGE => {
            Step::ok(1, "the content is not staged yet")
        }
        Err(error) => Step::failed(1, known(&key_of(&error)), error.to_string()),
    }];
    steps.push(checkpoint(upload.attach.as_ref()));
    steps.push(visible(here, there, upload.attach.as_ref()));
    steps.push(match there {
        Some(_) => Step::ok(4, "the stored reconcile state has its form"),
        None => Step::failed(
            4,
            "network",
            "the server does not give its state: the stored reconcile state cannot be looked at",
        ),
    });
    steps.push(match (&upload.reason, upload.on_disk) {
        (_, false) => Step::failed(5, "wrongContent", "the bytes are no longer on this device"),
        (Some(reason), _) => {
            let found = vfs_sync_core::runbook::find(reason).into_iter().next();
            let key = found.map_or("network", |entry| entry.key);
            Step::failed(5, key, format!("the server refused it at the last attempt: {reason}"))
        }
        (None, _) => Step::ok(5, "a retry sends the identical request"),
    });
    steps
}

/// Returns the runbook's own name of a key.
fn known(key: &str) -> &'static str {
    vfs_sync_core::runbook::entry(key).map_or("network", |entry| entry.key)
}

fn checkpoint(attach: Option<&AttachRequest>) -> Step {
    let Some(attach) = attach else { return Step::ok(2, "the request is not made yet") };
    let parts = [
        attach.client_id.is_some(),
        attach.required_cursor.is_some(),
        attach.required_last_reconciled_write_ids.is_some(),
    ];
    match parts {
        [true, true, true] => Step::ok(2, "the request has a whole checkpoint"),
        [false, false, false] => Step::ok(2, "the request has no checkpoint"),
        _ => Step::failed(2, code::INVALID_REQUEST, "the request has a part of a checkpoint only"),
    }
}

fn visible(
    here: &SyncState,
    there: Option<&StateResponse>,
    attach: Option<&AttachRequest>,
) -> Step {
    let Some(attach) = attach else { return Step::ok(3, "the request is not made yet") };
    let Some(required) = &attach.required_cursor else { return Step::ok(3, "nothing is required") };
    let Some(there) = there else {
        return Step::failed(3, "network", "the server does not give its state");
    };
    let Some(stored) = &there.reconcile_state else {
        return Step::failed(
            3,
            code::RECONCILE_BEHIND,
            format!("the server has no reconcile state for crdt:{}", here.client_id),
        );
    };
    if stored.cursor < *required {
        return Step::failed(
            3,
            code::RECONCILE_BEHIND,
            format!(
                "the stored cursor, of {}, is before the required one, of {}",
                stored.cursor.changed_at, required.changed_at
            ),
        );
    }
    let required = attach.required_last_reconciled_write_ids.iter().flatten();
    for (replica, id) in required {
        if stored.last_reconciled_write_ids.get(replica).is_none_or(|stored| stored < id) {
            return Step::failed(
                3,
                code::RECONCILE_BEHIND,
                format!("the stored write id of {replica} is below the required {}", id.get()),
            );
        }
    }
    Step::ok(3, "the stored reconcile state dominates the checkpoint")
}
