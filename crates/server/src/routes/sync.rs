//! Push, pull and reconcile, and the state that triage and clients query.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode, Uri};
use serde_json::json;
use tokio::time::Instant;
use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, UserId};
use vfs_sync_core::limits::{self, BlobLimits, Limits, MetadataLimits, RequestRates};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::server::push::{InvalidPush, PushBatch};
use vfs_sync_core::wire::{
    PushReason, PushResponse, PushResult, PushStatus, ReconcileRequest, ReconcileResponse,
    StateResponse, code,
};
use vfs_sync_store::{
    FeedPage, KEPT_VERSIONS, MetadataQuota, PullAnswer, PullRequest, ReconcileAnswer,
};

use crate::admission::rates::Origin;
use crate::admission::shares::Share;
use crate::config::{Rate, Rates};
use crate::error::ApiError;
use crate::http::body::{MAX_JSON_BYTES, memory_units};
use crate::http::extract::{AuthenticatedUser, CallerDevice, RawBody};
use crate::http::query::Query;
use crate::operator::audit;
use crate::state::App;

pub(super) const NO_STORE: (http::HeaderName, HeaderValue) =
    (CACHE_CONTROL, HeaderValue::from_static("no-store"));
const JSON: (http::HeaderName, HeaderValue) =
    (CONTENT_TYPE, HeaderValue::from_static("application/json"));

pub(crate) async fn push(
    State(app): State<App>,
    origin: Origin,
    CallerDevice(caller): CallerDevice,
    raw: RawBody,
) -> Result<Json<PushResponse>, ApiError> {
    let user = origin.user.clone();
    let body = app.reader(&user).json_bytes(&raw.headers, raw.body, limits::MAX_PUSH_BYTES).await?;
    let batch = PushBatch::parse(user, &body.bytes).map_err(invalid_push)?;
    app.check_device(&origin.user, caller.as_ref(), &batch.replica).await?;
    app.rates.operations(&origin, batch.len())?;
    let batch = batch.with_quota(app.config.metadata);
    let _memory = body.into_memory();
    #[allow(clippy::cast_precision_loss, reason = "a push has few operations")]
    metrics::histogram!("vfs_sync_push_operations").record(batch.len() as f64);
    let grants = Grants::of(&batch);
    let begun = Instant::now();
    let response = app.store.push(batch, app.now()).await?;
    grants.note(&app, &origin.user, &response);
    metrics::histogram!("vfs_sync_push_duration_seconds").record(begun.elapsed());
    count_results(&response);
    Ok(Json(response))
}

fn invalid_push(error: InvalidPush) -> ApiError {
    match error {
        InvalidPush::Form(_) => {
            ApiError::new(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, error.to_string())
        }
        InvalidPush::TooMany(_) => ApiError::too_large(error.to_string())
            .with("maxOperations", limits::MAX_PUSH_OPERATIONS),
    }
}

/// The grants that a push sets and removes, for the audit log.
struct Grants(Vec<(OpId, &'static str, ItemId, Principal)>);

impl Grants {
    fn of(batch: &PushBatch) -> Self {
        let grant = |op: &Operation| {
            let (event, principal) = match &op.action {
                Action::GrantAdd { principal, .. } => ("granted", principal),
                Action::GrantRemove { principal } => ("grant_removed", principal),
                _ => return None,
            };
            Some((op.op_id.clone(), event, op.item_id.clone(), principal.clone()))
        };
        Self(batch.operations().filter_map(grant).collect())
    }

    /// Logs those that were applied.
    fn note(&self, app: &App, by: &UserId, response: &PushResponse) {
        for (op_id, event, item_id, principal) in &self.0 {
            let of_it = |result: &&PushResult| result.op_id.as_ref() == Some(op_id);
            let result = response.results.iter().find(of_it);
            if result.is_some_and(|result| result.status == PushStatus::Applied) {
                // A group's name is no user's; a user is named by the pseudonym.
                match (principal.kind, UserId::new(principal.id.as_str())) {
                    (PrincipalType::User, Ok(user)) => {
                        audit::note(app, by, event, &user, item_id.as_str());
                    }
                    _ => audit::note(app, by, event, by, &format!("{item_id} {principal}")),
                }
            }
        }
    }
}

fn count_results(response: &PushResponse) {
    let mut counts: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
    for result in &response.results {
        let status = match result.status {
            PushStatus::Applied => "applied",
            PushStatus::AlreadyApplied => "alreadyApplied",
            PushStatus::OutdatedOp => "outdatedOp",
            PushStatus::StaleWriteId => "staleWriteId",
            PushStatus::InvalidOp => "invalidOp",
        };
        *counts.entry((status, result.reason.map_or("", PushReason::as_str))).or_default() += 1;
    }
    for ((status, reason), count) in counts {
        metrics::counter!("vfs_sync_push_results_total", "status" => status, "reason" => reason)
            .increment(count);
    }
}

pub(crate) async fn pull(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = Query::parse(&uri, &["limit", "cursor", "clientId", "baseline", "head"])?;
    let request = PullRequest {
        cursor: cursor(&query, "cursor")?,
        baseline: cursor(&query, "baseline")?,
        head: cursor(&query, "head")?,
        client_id: query.get("clientId").map(client_id).transpose()?,
        limit: query.limit(limits::DEFAULT_PULL_LIMIT, limits::MAX_PULL_LIMIT)?,
    };
    let mut memory = app.answer_memory(&user, page_bytes(request.limit)).await?;
    let begun = Instant::now();
    let answer = app.store.pull(&user, &request).await?;
    app.live.pulled(begun.elapsed());
    match answer {
        PullAnswer::Page(page) => {
            metrics::counter!("vfs_sync_pull_items_total").increment(page.items.len() as u64);
            let body = page_body(&page);
            drop(page);
            memory.shrink_to(memory_units(body.len()));
            let body = Bytes::from_owner(Page { body, _memory: memory });
            Ok(([NO_STORE, JSON], body).into_response())
        }
        PullAnswer::Rematerialize(refused) => {
            metrics::counter!("vfs_sync_pulls_refused_total").increment(1);
            let requested = request.cursor.or(request.baseline);
            Err(ApiError::rematerialize(requested.as_ref(), &refused))
        }
    }
}

/// The most bytes of an entry of a page: payload, metadata, names and ids.
const MAX_ENTRY_BYTES: usize = limits::MAX_ENCRYPTED_BYTES + limits::MAX_METADATA_BYTES + 16 * 1024;

/// Returns the bytes that a page of `limit` entries takes at most while it is made: its entries, and
/// the body that is put together from them.
fn page_bytes(limit: u32) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    2 * limit.saturating_mul(MAX_ENTRY_BYTES).min(limits::MAX_PULL_BYTES + MAX_ENTRY_BYTES)
}

/// The body of a page, with the memory that it takes.
struct Page {
    body: String,
    _memory: Share,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.body.as_bytes()
    }
}

fn cursor(query: &Query, field: &'static str) -> Result<Option<Cursor>, ApiError> {
    let text = query.get(field);
    text.map(Cursor::decode).transpose().map_err(|_| ApiError::invalid_cursor(field))
}

pub(super) fn client_id(text: &str) -> Result<ReplicaId, ApiError> {
    ReplicaId::new(text).map_err(|reason| ApiError::invalid("clientId", reason))
}

/// Builds the body of a page from entries that are JSON already, without parsing them.
fn page_body(page: &FeedPage) -> String {
    let text = |value: serde_json::Value| value.to_string();
    let length: usize = page.items.iter().map(|item| item.len() + 1).sum();
    let write_ids = text(json!(page.last_reconciled_write_ids));
    let mut body = String::with_capacity(length + write_ids.len() + 1_024);
    body.push_str(r#"{"items":["#);
    for (at, item) in page.items.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        body.push_str(item);
    }
    let _ = write!(
        body,
        r#"],"nextCursor":{},"hasMore":{},"lastReconciledWriteIds":{write_ids},"epoch":{}"#,
        text(json!(page.next_cursor)),
        page.has_more,
        page.epoch.as_u64(),
    );
    if let Some(baseline) = &page.baseline {
        let _ = write!(body, r#","baseline":{}"#, text(json!(baseline)));
    }
    if let Some(head) = &page.head {
        let _ = write!(body, r#","head":{}"#, text(json!(head)));
    }
    body.push('}');
    body
}

pub(crate) async fn reconcile(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    CallerDevice(caller): CallerDevice,
    raw: RawBody,
) -> Result<Json<ReconcileResponse>, ApiError> {
    let (request, _memory): (ReconcileRequest, _) =
        app.reader(&user).json(&raw.headers, raw.body, MAX_JSON_BYTES).await?;
    app.check_device(&user, caller.as_ref(), &request.client_id).await?;
    check_write_ids("lastReconciledWriteIds", request.last_reconciled_write_ids.len())?;
    match app.store.reconcile(&user, &request, app.now()).await? {
        ReconcileAnswer::Merged(state) => Ok(Json(ReconcileResponse {
            client_id: request.client_id,
            cursor: state.cursor,
            last_reconciled_write_ids: state.last_reconciled_write_ids,
        })),
        ReconcileAnswer::Rematerialize(refused) => {
            Err(ApiError::rematerialize(Some(&request.cursor), &refused))
        }
        ReconcileAnswer::WriteIdsAhead { replica_id, sent, last } => Err(ApiError::conflict(
            code::WRITE_IDS_AHEAD,
            "A write id is above the last that the server has of its replica",
        )
        .with("replicaId", json!(replica_id))
        .with("sentWriteId", json!(sent))
        .with("lastWriteId", json!(last))),
    }
}

/// Checks that a map of write ids is not too large.
pub(crate) fn check_write_ids(field: &str, entries: usize) -> Result<(), ApiError> {
    let max = limits::MAX_WRITE_ID_ENTRIES;
    if entries <= max {
        return Ok(());
    }
    Err(ApiError::invalid(field, format_args!("has at most {max} entries, this one {entries}")))
}

pub(crate) async fn state(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    uri: Uri,
) -> Result<([(http::HeaderName, HeaderValue); 1], Json<StateResponse>), ApiError> {
    let query = Query::parse(&uri, &["clientId"])?;
    let client =
        query.get("clientId").ok_or_else(|| ApiError::invalid("clientId", "is missing"))?;
    let state = app.store.state(&user, &client_id(client)?).await?;
    Ok(([NO_STORE], Json(state)))
}

pub(crate) async fn limits(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
) -> Result<Json<Limits>, ApiError> {
    let config = &app.config;
    let own = app.store.user_record(&user).await?.map(|record| record.limits).unwrap_or_default();
    let quota = own.blobs(&config.quota());
    let blobs = BlobLimits {
        max_blob_bytes: app.max_blob_bytes(),
        max_stored_bytes: quota.stored,
        max_staged_bytes: quota.staged,
        max_open_stages: quota.open_stages,
        max_stage_seconds: config.max_stage_lifetime.as_secs(),
        default_stage_seconds: config.stage_lifetime.as_secs(),
        kept_versions: u64::from(KEPT_VERSIONS),
        keep_versions_seconds: config.keep_versions.as_secs(),
        keep_deleted_seconds: config.keep_deleted.as_secs(),
    };
    let MetadataQuota { items, links, grants, bytes, replicas, .. } =
        own.metadata(&config.metadata);
    let metadata = MetadataLimits {
        max_items: items,
        max_links: links,
        max_grants: grants,
        max_register_bytes: bytes,
        max_replicas: replicas,
    };
    let Rates { user_requests, user_operations, user_bytes, .. } = config.rates;
    let [requests, operations, bytes] = [user_requests, user_operations, user_bytes]
        .map(|rate| rate.unwrap_or(Rate { per_second: 0, burst: 0 }));
    let rates = RequestRates {
        max_requests_per_second: requests.per_second,
        max_request_burst: requests.burst,
        max_operations_per_second: operations.per_second,
        max_operation_burst: operations.burst,
        max_bytes_per_second: bytes.per_second,
        max_byte_burst: bytes.burst,
        max_concurrent_requests: config.max_user_requests as u64,
        max_event_streams: config.max_user_event_streams as u64,
    };
    Ok(Json(Limits { blobs, metadata, rates, ..Limits::default() }))
}
