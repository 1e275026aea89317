//! Reading answers: bounded, strict, and every failure told as what the protocol makes of it.

use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{ErrorBody, code};

use crate::transport::{STORAGE_FULL, TransportError};

/// The longest answer that is read: a page of 4 MiB, with room.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// The longest that a server can make a client wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// A failure on the way.
pub(super) fn network(error: reqwest::Error) -> TransportError {
    use std::error::Error as _;
    // The URL of the error may hold what is nobody's business.
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    TransportError::Network { reason, retry_after: None }
}

async fn body(call: &'static str, mut response: Response) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(super::malformed(call, "body", "is longer than any answer"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Gives an answer that says that it is one; anything else as the error that it is.
pub(super) async fn check_status(
    call: &'static str,
    response: Response,
) -> Result<Response, TransportError> {
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
        Err(_) => unreadable(call, status, retry_after),
    }
}

/// Reads an answer that came whole, for a transport of one's own: what [`crate::HttpTransport`]
/// makes of it. `call` names the call in errors, `retry_after` is the header of that name.
///
/// # Errors
/// What the status and the body say; [`TransportError::MalformedResponse`] if they are none of the
/// protocol's.
pub fn read_answer<T: DeserializeOwned>(
    call: &'static str,
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<T, TransportError> {
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
) -> TransportError {
    match status.as_u16() {
        401 => TransportError::Unauthorized("401 without a reason".into()),
        413 => TransportError::TooLarge("413 without a reason".into()),
        other if is_transient(other) => {
            TransportError::Network { reason: format!("status {status}"), retry_after }
        }
        _ => super::malformed(call, "body", &format!("is no error body, with status {status}")),
    }
}

/// An error body as what the client does with it.
pub(super) fn refused(
    call: &'static str,
    status: u16,
    retry_after: Option<Duration>,
    body: ErrorBody,
) -> TransportError {
    let details = &body.details;
    // A repetition brings the same until somebody makes room or mends the row, and the caller is told
    // why meanwhile.
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
        (413, other) if other != code::QUOTA_EXCEEDED => TransportError::TooLarge(body.error),
        (409, code::REMATERIALIZATION_REQUIRED) => {
            let cursor = |field: &str| cursor(call, field, details.get(field));
            match (cursor("requestedCursor"), cursor("oldestAvailableCursor")) {
                (Ok(requested), Ok(oldest_available)) => {
                    TransportError::RematerializationRequired { requested, oldest_available }
                }
                (Err(error), _) | (_, Err(error)) => error,
            }
        }
        (409, code::WRITE_IDS_AHEAD) => {
            let field = |name: &str| details.get(name).cloned().unwrap_or_default();
            TransportError::WriteIdsAhead {
                replica_id: serde_json::from_value(field("replicaId")).ok(),
                last: serde_json::from_value(field("lastWriteId")).ok(),
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

fn cursor(
    call: &'static str,
    field: &str,
    value: Option<&Value>,
) -> Result<Option<Cursor>, TransportError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Cursor::decode(text)
            .map(Some)
            .map_err(|error| super::malformed(call, field, &error.to_string())),
        Some(_) => Err(super::malformed(call, field, "is not a cursor")),
    }
}

/// How many of the answer's first bytes to leave out, so that it begins at `offset`.
pub(super) fn skipped(
    call: &'static str,
    response: &Response,
    offset: u64,
) -> Result<u64, TransportError> {
    match response.status() {
        // Whoever answers may ignore that only a part is wanted.
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

/// Reads an answer of the protocol's form.
pub(super) async fn read<T: DeserializeOwned>(
    call: &'static str,
    response: Response,
) -> Result<T, TransportError> {
    let response = check_status(call, response).await?;
    let status = response.status();
    if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Err(super::malformed(call, "status", &format!("is {status}")));
    }
    let body = body(call, response).await?;
    parse(call, &body)
}

pub(super) fn parse<T: DeserializeOwned>(
    call: &'static str,
    body: &[u8],
) -> Result<T, TransportError> {
    serde_json::from_slice(body).map_err(|error| {
        let at = offset(body, error.line(), error.column());
        let mut field = path_at(body.get(..at).unwrap_or(body));
        if field.is_empty() {
            field = missing_field(&error.to_string()).unwrap_or("body").to_owned();
        }
        super::malformed(call, &field, &error.to_string())
    })
}

/// What a message like "missing field `items` at line 1" names.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>() + column
}

/// The path of the value that `json` breaks off in, such as `items[3].name`.
fn path_at(json: &[u8]) -> String {
    enum Step {
        Field(String),
        Index(usize),
    }
    let mut path: Vec<Step> = Vec::new();
    let mut last_string = String::new();
    let mut bytes = json.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                let mut text = Vec::new();
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => text.extend(bytes.next()),
                        other => text.push(other),
                    }
                }
                // An answer's own words, cut: they end up in a log.
                last_string = String::from_utf8_lossy(&text).chars().take(64).collect();
            }
            b'{' => path.push(Step::Field(String::new())),
            b'[' => path.push(Step::Index(0)),
            b'}' | b']' if bytes.len() > 0 => drop(path.pop()),
            b':' => {
                if let Some(Step::Field(name)) = path.last_mut() {
                    *name = std::mem::take(&mut last_string);
                }
            }
            b',' => match path.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                Some(Step::Field(name)) => name.clear(),
                None => {}
            },
            _ => {}
        }
    }
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Field(name) if name.is_empty() => {}
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&name);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn reading_never_panics() {
        for json in ["", "\"", "\\", "{\"a\":[{\"b\":", "}}}", "[[[[", "{\"\u{0}\":\"\\"] {
            assert!(parse::<PullPage>("pull", json.as_bytes()).is_err());
        }
    }
}
