//! Reads answers: limited in size, strict, with every failure as an error of the protocol.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_RANGE, RETRY_AFTER};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::problem::Problem;
use vfs_sync_core::wire::{EpochEnd, ErrorBody, ReconcileResponse, WriteIds, code};

use super::net::{self, Response};
use crate::transport::error::{Result, STORAGE_FULL, TransportError};

/// The greatest size of an answer that is read: a page of 4 MiB, with a margin.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// The longest time that a server can make a client wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// A [`ReconcileResponse`] with no optional fields: a request may omit the write ids, but an answer
/// that does has acknowledged none.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reconciled {
    client_id: ReplicaId,
    cursor: Cursor,
    last_reconciled_write_ids: WriteIds,
}

impl From<Reconciled> for ReconcileResponse {
    fn from(answer: Reconciled) -> Self {
        let Reconciled { client_id, cursor, last_reconciled_write_ids } = answer;
        Self { client_id, cursor, last_reconciled_write_ids }
    }
}

/// Converts a network failure to an error.
pub(super) fn network(error: net::Error) -> TransportError {
    use std::error::Error as _;
    // The URL in the error may contain confidential parts.
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    TransportError::Network { reason, retry_after: None }
}

pub(super) async fn body(call: &'static str, mut response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(super::malformed(call, "body", "is longer than any answer"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Returns an answer with a success status; converts any other status to its error.
pub(super) async fn check_status(call: &'static str, response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = seconds
        .and_then(|text| text.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    let body = body(call, response).await?;
    Err(failure(call, status, retry_after, &body))
}

fn failure(
    call: &'static str,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> TransportError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => refused(call, status.as_u16(), retry_after, body),
        // Something on the way, a proxy perhaps, answered for the server.
        Err(_) => unreadable(call, status, retry_after, body),
    }
}

/// Reads a complete answer as [`crate::HttpTransport`] does, for custom transports. `call` names
/// the call in errors, `retry_after` is the header of that name.
///
/// # Errors
/// The error that status and body describe; [`TransportError::MalformedResponse`] if they do not
/// follow the protocol.
pub fn read_answer<T: DeserializeOwned>(
    call: &'static str,
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<T> {
    match StatusCode::from_u16(status) {
        Ok(StatusCode::OK | StatusCode::CREATED) => parse(call, body),
        Ok(status) if !status.is_success() => Err(failure(call, status, retry_after, body)),
        _ => Err(super::malformed(call, "status", &format!("is {status}"))),
    }
}

fn is_transient(status: u16) -> bool {
    status >= 500 || status == 429 || status == 408
}

fn unreadable(
    call: &'static str,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> TransportError {
    match status.as_u16() {
        401 => TransportError::Unauthorized("401 without a reason".into()),
        413 => TransportError::TooLarge("413 without a reason".into()),
        other if is_transient(other) => {
            TransportError::Network { reason: format!("status {status}"), retry_after }
        }
        _ => match parse::<ErrorBody>(call, body) {
            Err(TransportError::MalformedResponse { field, .. }) if field != "body" => {
                super::malformed(call, &field, &format!("is wrong in an error of status {status}"))
            }
            _ => super::malformed(call, "body", &format!("is no error body, with status {status}")),
        },
    }
}

/// Converts an error body to the error that the client acts upon.
pub(super) fn refused(
    call: &'static str,
    status: u16,
    retry_after: Option<Duration>,
    body: ErrorBody,
) -> TransportError {
    let details = &body.details;
    // A repetition brings the same until somebody makes room or mends the row, and the caller gets
    // the reason until then.
    let final_failure = details.get("retryable") == Some(&Value::Bool(false))
        || details.get("storageCode").is_some_and(|code| code == STORAGE_FULL)
        || [code::STORAGE_FULL, code::MALFORMED_ROW, code::ATTACH_FAILED].contains(&&*body.code);
    match (status, body.code.as_str()) {
        (401, _) => TransportError::Unauthorized(body.error),
        (403, code::WRONG_USER) => {
            let user = |field: &str| UserId::new(details.get(field)?.as_str()?).ok();
            match (user("expected"), user("actual")) {
                (Some(expected), actual) => TransportError::WrongUser { expected, actual },
                _ => super::malformed(call, "expected", "is no user"),
            }
        }
        (403, code::DEVICE_REVOKED | code::USER_DISABLED | code::USER_DELETED) => {
            TransportError::Denied { code: body.code, message: body.error }
        }
        (413, other) if other != code::QUOTA_EXCEEDED => TransportError::TooLarge(body.error),
        (409, code::REMATERIALIZATION_REQUIRED) => {
            let required = || {
                let cursor = |field: &str| cursor(call, field, details.get(field));
                Ok(TransportError::RematerializationRequired {
                    requested: cursor("requestedCursor")?,
                    oldest_available: cursor("oldestAvailableCursor")?,
                    history: history(call, details.get("history"))?,
                    epoch: optional(call, details, "epoch")?,
                })
            };
            required().unwrap_or_else(|error| error)
        }
        (409, code::WRITE_IDS_AHEAD) => {
            match (optional(call, details, "replicaId"), optional(call, details, "lastWriteId")) {
                (Ok(replica_id), Ok(last)) => TransportError::WriteIdsAhead { replica_id, last },
                (Err(error), _) | (_, Err(error)) => error,
            }
        }
        _ if is_transient(status) && !final_failure => {
            let reason = format!("{} ({status} {})", body.error, body.code);
            TransportError::Network { reason, retry_after }
        }
        _ => TransportError::Refused {
            status,
            code: body.code,
            message: body.error,
            details: body.details,
        },
    }
}

/// Reads a detail of an error that may be missing or `null`.
fn optional<T: DeserializeOwned>(
    call: &'static str,
    details: &serde_json::Map<String, Value>,
    field: &str,
) -> Result<Option<T>> {
    let value = details.get(field).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| super::malformed(call, field, &error.to_string()))
}

fn cursor(call: &'static str, field: &str, value: Option<&Value>) -> Result<Option<Cursor>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Cursor::decode(text)
            .map(Some)
            .map_err(|error| super::malformed(call, field, &error.to_string())),
        Some(_) => Err(super::malformed(call, field, "is not a cursor")),
    }
}

fn history(call: &'static str, value: Option<&Value>) -> Result<Option<Vec<EpochEnd>>> {
    let malformed = |reason: &str| super::malformed(call, "history", reason);
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let history = Vec::<EpochEnd>::deserialize(value).map_err(|e| malformed(&e.to_string()))?;
    let ascends = |pair: &[EpochEnd]| matches!(pair, [a, b] if a.epoch < b.epoch && a.last_counter < b.last_counter);
    if history.windows(2).all(ascends) {
        Ok(Some(history))
    } else {
        Err(malformed("does not ascend"))
    }
}

/// Returns the number of the answer's first bytes to leave out, so that it begins at `offset`.
pub(super) fn skipped(call: &'static str, response: &Response, offset: u64) -> Result<u64> {
    match response.status() {
        // A server may ignore the range and answer with the whole content.
        StatusCode::OK => Ok(offset),
        StatusCode::PARTIAL_CONTENT if offset > 0 => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
            let first = range
                .and_then(|text| text.trim().strip_prefix("bytes "))
                .and_then(|text| text.split_once('-'))
                .and_then(|(first, _)| first.parse::<u64>().ok());
            match first {
                Some(first) if first == offset => Ok(0),
                _ => Err(super::malformed(call, "Content-Range", "is not from where was asked")),
            }
        }
        status => Err(super::malformed(call, "status", &format!("is {status}"))),
    }
}

/// Parses an answer of the protocol.
pub(super) async fn read<T: DeserializeOwned>(call: &'static str, response: Response) -> Result<T> {
    let response = check_status(call, response).await?;
    let status = response.status();
    if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Err(super::malformed(call, "status", &format!("is {status}")));
    }
    let body = body(call, response).await?;
    parse(call, &body)
}

pub(super) fn parse<T: DeserializeOwned>(call: &'static str, body: &[u8]) -> Result<T> {
    // Serde would take an array for a struct's fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(super::malformed(call, "body", "is not an object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        // Read once more, slower, to name the field.
        let mut source = serde_json::Deserializer::from_slice(body);
        let field = match serde_path_to_error::deserialize::<_, T>(&mut source) {
            Ok(_) => "body".to_owned(),
            Err(error) => {
                let problem = Problem::of::<T>(body);
                field_of(error.path(), problem.as_ref().and_then(Problem::field))
                    .or_else(|| culprit::<T>(body))
                    .unwrap_or_else(|| "body".to_owned())
            }
        };
        super::malformed(call, &field, &error.to_string())
    })
}

/// The greatest size of an answer whose fields are tried one by one.
const MAX_TRIED_BYTES: usize = 64 * 1024;

/// Finds the field whose value makes the answer invalid, by trying other values: serde reports no
/// name for fields of a flattened part.
fn culprit<T: DeserializeOwned>(body: &[u8]) -> Option<String> {
    if body.len() > MAX_TRIED_BYTES {
        return None;
    }
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
    let others: [Value; 5] =
        [1.into(), true.into(), "x".into(), Vec::<Value>::new().into(), Value::Null];
    let is_it = |key: &&String| {
        others.iter().any(|other| {
            let mut changed = fields.clone();
            changed.insert((*key).clone(), other.clone());
            serde_json::from_value::<T>(Value::Object(changed)).is_ok()
        })
    };
    fields.keys().take(64).find(is_it).cloned()
}

/// Returns the field that an error concerns: the error's path, and the field of the object there
/// that is missing or wrong.
fn field_of(path: &serde_path_to_error::Path, below: Option<&str>) -> Option<String> {
    // A step that the answer breaks off in has no name.
    let path = path.to_string();
    let path = path.trim_end_matches('?').trim_end_matches('.');
    let field = match below {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => return None,
        None => path.to_owned(),
    };
    // An answer's own words, cut: they end up in a log.
    Some(field.chars().filter(|c| !c.is_control()).take(256).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vfs_sync_core::wire::{PullPage, PushResponse};

    fn field_of<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        match parse::<T>("test", json.as_bytes()) {
            Err(TransportError::MalformedResponse { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_is_not_of_the_protocols_form_names_the_field() {
        let page = |items: &str| {
            format!(
                r#"{{"items":{items},"nextCursor":null,"hasMore":false,"lastReconciledWriteIds":{{}}}}"#
            )
        };
        assert!(parse::<PullPage>("pull", page("[]").as_bytes()).is_ok());
        assert_eq!(field_of::<PullPage>(&page("5")), "items");
        assert_eq!(field_of::<PullPage>(&page(r#"[{"itemId":""}]"#)), "items[0].itemId");
        assert_eq!(field_of::<PullPage>("{}"), "items");
        assert_eq!(field_of::<PullPage>("<html>"), "body");
        assert_eq!(
            field_of::<PullPage>(&page("[]").replace("{}", r#"{"r":0}"#)),
            "lastReconciledWriteIds.r"
        );
        let push = r#"{"clientId":"c","results":[{"opId":"o","status":"maybe"}]}"#;
        assert_eq!(field_of::<PushResponse>(push), "results[0].status");
        let truncated = page(r#"[{"itemId":"i","opType"#);
        assert_eq!(field_of::<PullPage>(truncated.split_once("opType").unwrap().0), "items[0]");
        assert_eq!(field_of::<PullPage>(r#"[[],null,false,{}]"#), "body");
        assert_eq!(field_of::<PullPage>(r#"{"hasMore":true}"#), "items");
        assert_eq!(field_of::<PullPage>(&format!("{} x", page("[]"))), "body");
        let refused = |body: &str| match read_answer::<PullPage>("p", 404, None, body.as_bytes()) {
            Err(TransportError::MalformedResponse { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(r#"{"error":"no"}"#), "code");
        assert_eq!(refused(r#"{"error":7,"code":"c"}"#), "error");
        assert_eq!(refused("<html>"), "body");
    }

    /// Collects every value in `json`, with the client's name for it and its JSON pointer.
    fn places(value: &Value, name: &str, pointer: &str, found: &mut Vec<(String, String)>) {
        if !name.is_empty() {
            found.push((name.to_owned(), pointer.to_owned()));
        }
        match value {
            Value::Object(fields) => {
                for (key, below) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    let name = format!("{name}{dot}{key}");
                    places(below, &name, &format!("{pointer}/{key}"), found);
                }
            }
            Value::Array(elements) => {
                for (at, below) in elements.iter().enumerate() {
                    places(below, &format!("{name}[{at}]"), &format!("{pointer}/{at}"), found);
                }
            }
            _ => {}
        }
    }

    /// Removes each field of an answer, and changes the type of each: if the answer is rejected,
    /// the error must name that field. Returns the number of rejected answers.
    fn every_field<T: DeserializeOwned + std::fmt::Debug>(sample: Value) -> usize {
        parse::<T>("test", sample.to_string().as_bytes()).unwrap();
        let (mut found, mut refused) = (Vec::new(), 0);
        places(&sample, "", "", &mut found);
        for (name, pointer) in found {
            let (above, key) = pointer.rsplit_once('/').unwrap();
            let mut without = sample.clone();
            if let Some(fields) = without.pointer_mut(above).unwrap().as_object_mut() {
                fields.remove(key);
                if let Err(TransportError::MalformedResponse { field, reason, .. }) =
                    parse::<T>("test", without.to_string().as_bytes())
                {
                    // Without its payload, the other fields of an encrypted form are the malformed
                    // ones.
                    let part = key == "encryptedPayload" && field.ends_with("keyEpoch");
                    assert!(part || field == name, "{name} is not there: {field}, {reason}");
                    refused += 1;
                }
            }
            let there = sample.pointer(&pointer).unwrap();
            for other in [json!(true), json!(-7), json!("\u{7}"), json!([1]), json!({"x": 1})] {
                let mut changed = sample.clone();
                *changed.pointer_mut(&pointer).unwrap() = other.clone();
                match parse::<T>("test", changed.to_string().as_bytes()) {
                    Err(TransportError::MalformedResponse { field, reason, .. }) => {
                        // For an object or array, the error may name a field inside it.
                        let inside = there.is_object() || there.is_array();
                        let same = field == name || inside && field.starts_with(&name);
                        assert!(same, "{name} as {other}: {field}, {reason}");
                        refused += 1;
                    }
                    Ok(_) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        refused
    }

    #[test]
    fn every_field_of_every_answer_is_named_when_it_is_missing_or_wrong() {
        use vfs_sync_core::wire::*;
        let time = "2026-01-01T00:00:00.000Z";
        let cursor = "eyJ2ZXJzaW9uIjoxLCJjaGFuZ2VkQXQiOiIyMDI2LTAxLTAxVDAwOjAwOjAwLjAwMFoiLCJjaGFuZ2VJZCI6ImMifQ";
        let digest = "ab".repeat(32);
        let entry = |more: Value| {
            let mut entry = json!({
                "opId": "1", "occurredAt": time, "itemId": "i", "authoredAt": time,
                "actorId": "u", "principalType": null, "principalId": null, "accessLevel": null,
                "parentId": null, "childId": null,
            });
            entry.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            entry
        };
        let items = json!([
            entry(json!({"opType": "item_upsert", "objectType": "file", "name": "n",
                "metadata": {"mode": 1}, "ownerId": "u", "createdAt": time, "accessLevel": "read",
                "authorOpId": "o", "replicaId": "r", "writeId": 1})),
            entry(
                json!({"opType": "item_upsert", "objectType": "file", "encryptedPayload": "AAAA",
                "keyEpoch": 1, "encryptionNonce": "AAAA", "ownerId": "u", "createdAt": time,
                "accessLevel": "admin"})
            ),
            entry(json!({"opType": "item_delete", "reason": "revoked"})),
            entry(json!({"opType": "link_add", "parentId": "p", "childId": "i"})),
            entry(json!({"opType": "link_remove", "parentId": "p", "childId": "i"})),
            entry(json!({"opType": "acl_add", "principalType": "user", "principalId": "b",
                "accessLevel": "read"})),
            entry(json!({"opType": "acl_remove", "principalType": "user", "principalId": "b"})),
            entry(
                json!({"opType": "blob_attach", "blobId": "b", "relationKind": "file", "size": 1,
                "digest": digest, "contentType": "t", "refId": "f", "attachedAt": time,
                "modifiedAt": time, "authorReplicaId": "r"})
            ),
            entry(json!({"opType": "blob_detach", "blobId": "b", "relationKind": "file",
                "refId": "f"})),
        ]);
        let write_ids = json!({"r": 3});
        let refused = every_field::<PullPage>(json!({
            "items": items, "nextCursor": cursor, "hasMore": true,
            "lastReconciledWriteIds": write_ids, "baseline": cursor, "epoch": 7,
        }));
        assert!(refused > 300, "{refused}");
        every_field::<PushResponse>(json!({"clientId": "c", "epoch": 7, "results": [
            {"opId": "o", "status": "applied", "reason": "superseded", "detail": "d",
                "authoredAt": time, "lastWriteId": 3}]}));
        every_field::<Reconciled>(json!({"clientId": "c", "cursor": cursor,
            "lastReconciledWriteIds": write_ids}));
        every_field::<StateResponse>(json!({"clientId": "c", "feedHead": cursor, "epoch": 7,
            "reconcileState": {"cursor": cursor, "lastReconciledWriteIds": write_ids},
            "prunedThrough": cursor, "lastWriteIds": write_ids}));
        every_field::<MembersResponse>(json!({"members": ["u"], "hasMore": false}));
        every_field::<GroupsResponse>(json!({"groups": ["g"], "organizations": ["o"]}));
        every_field::<KnownResponse>(json!({"known": true}));
        every_field::<StageResponse>(json!({"stagingId": "s", "blobId": "b",
            "status": "blob-stage:staged", "stagedAt": time, "expiresAt": time, "size": 1,
            "digest": digest, "offset": 1}));
        every_field::<UploadResponse>(json!({"size": 1, "digest": digest}));
        every_field::<AttachResponse>(json!({"attached": true, "stagingId": "s", "blobId": "b",
            "itemId": "i", "relationKind": "file", "refId": "r", "attachedAt": time}));
        every_field::<VersionsResponse>(json!({"itemId": "i", "versions": [{"blobId": "b",
            "size": 1, "digest": digest, "contentType": null, "refId": "r", "attachedAt": time,
            "modifiedAt": time}]}));
        every_field::<BlobBatchResponse>(json!({"results": [
            {"stagingId": "s", "blobId": "b", "status": "attached", "size": 1, "digest": digest,
                "itemId": "i", "relationKind": "file", "refId": "r", "attachedAt": time},
            {"stagingId": "s", "blobId": "b", "status": "failed",
                "error": {"httpStatus": 409, "error": "e", "code": "c", "requestId": "i"}}]}));
        every_field::<BlobReadHead>(json!({"blobId": "b", "size": 1, "digest": digest}));
        every_field::<vfs_sync_core::limits::Limits>(
            serde_json::to_value(vfs_sync_core::limits::Limits::default()).unwrap(),
        );
    }

    #[test]
    fn a_refused_cursor_comes_with_the_history_or_without() {
        let answer = |history: Value| {
            let error = serde_json::json!({
                "error": "no", "code": code::REMATERIALIZATION_REQUIRED, "history": history,
            });
            refused("pull", 409, None, serde_json::from_value(error).unwrap())
        };
        let end =
            |epoch: u64, counter: u64| serde_json::json!({"epoch": epoch, "lastCounter": counter});
        for (told, expected) in [
            (Value::Null, None),
            (serde_json::json!([]), Some(0)),
            (serde_json::json!([end(1, 5), end(7, 9)]), Some(2)),
        ] {
            let TransportError::RematerializationRequired { history, .. } = answer(told) else {
                panic!("is a refusal of the cursor")
            };
            assert_eq!(history.map(|history| history.len()), expected);
        }
        for bad in [serde_json::json!(5), serde_json::json!([end(2, 1), end(1, 2)])] {
            let field = match answer(bad) {
                TransportError::MalformedResponse { field, .. } => field,
                other => panic!("{other:?}"),
            };
            assert_eq!(field, "history");
        }
    }

    #[test]
    fn reading_never_panics() {
        for json in ["", "\"", "\\", "{\"a\":[{\"b\":", "}}}", "[[[[", "{\"\u{0}\":\"\\"] {
            assert!(parse::<PullPage>("pull", json.as_bytes()).is_err());
        }
    }
}
