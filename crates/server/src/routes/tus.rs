//! Resumable uploads by tus 1.0: core, creation, creation-with-upload, creation-defer-length,
//! checksum, expiration, termination.

mod fields;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::wire::{StageStatus, code};
use vfs_sync_store::{AbandonAnswer, UploadAccess};

use crate::admission::fair_store::complete_for;
use crate::blobs::reclaim;
use crate::blobs::stage::{self, StageOrder};
use crate::blobs::upload::{self, UploadWriter, over, refused, too_large};
use crate::error::ApiError;
use crate::http::body::{Incoming, check_plain, timed};
use crate::http::extract::{AuthenticatedUser, RawBody};
use crate::routes::blobs::{PathId, staging_id};
use crate::state::App;

use fields::{Checksum, Metadata};

/// The path where uploads are created.
pub(crate) const UPLOADS: &str = "/v1/vfs/blobs/uploads";
/// The path of one upload.
pub(crate) const UPLOAD: &str = "/v1/vfs/blobs/uploads/{stagingId}";

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const EXTENSIONS: HeaderValue = HeaderValue::from_static(
    "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination",
);
const ALGORITHMS: HeaderValue = HeaderValue::from_static("sha1,sha256");
/// The content type of an upload's bytes.
const OFFSET_STREAM: &str = "application/offset+octet-stream";

/// Adds the protocol's version to every answer.
pub(crate) async fn versioned(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let refused = response.status() == StatusCode::PRECONDITION_FAILED;
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, VERSION);
    if refused {
        headers.insert(TUS_VERSION, VERSION);
    }
    response
}

/// A marker: the request names this version of the protocol.
pub(crate) struct Tus;

impl<S: Send + Sync> FromRequestParts<S> for Tus {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if parts.headers.get(TUS_RESUMABLE).is_some_and(|version| *version == VERSION) {
            return Ok(Self);
        }
        let sentence = "The header Tus-Resumable must be 1.0.0";
        Err(ApiError::new(StatusCode::PRECONDITION_FAILED, code::INVALID_REQUEST, sentence))
    }
}

/// Answers `OPTIONS` with the supported version, extensions and limits.
pub(crate) async fn capabilities(State(app): State<App>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, VERSION);
    headers.insert(TUS_VERSION, VERSION);
    headers.insert(TUS_EXTENSION, EXTENSIONS);
    headers.insert(TUS_CHECKSUM_ALGORITHM, ALGORITHMS);
    headers.insert(TUS_MAX_SIZE, app.max_blob_bytes().into());
    response
}

pub(crate) async fn create(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    _: Tus,
    raw: RawBody,
) -> Result<Response, ApiError> {
    let headers = &raw.headers;
    if headers.contains_key(UPLOAD_CONCAT) {
        return Err(ApiError::invalid("Upload-Concat", "is not taken: upload the whole"));
    }
    let length = fields::length_to_be(headers)?;
    let max = app.max_blob_bytes();
    if length.is_some_and(|length| length > max) {
        return Err(too_large(max));
    }
    let metadata = Metadata::of(headers)?;
    let stage = open(&app, &user, &metadata).await?;
    let told = metadata.completed(&stage);
    let access = app
        .store
        .open_upload(
            &user,
            &stage.staging_id,
            length,
            Some(told.clone()),
            &app.config.quota(),
            app.now(),
        )
        .await?;
    let access = upload::finish_if_complete(&app, &user, &stage.staging_id, access).await?;
    let offset = match access {
        UploadAccess::Complete(stage) if stage.status == StageStatus::Staged => {
            let size = stage.uploaded.map_or(0, |(size, _)| size);
            if length.is_some_and(|length| length != size) {
                return Err(other_length(Some(size)));
            }
            size
        }
        UploadAccess::Open(_, upload) if length.is_some() && upload.length != length => {
            return Err(other_length(upload.length));
        }
        UploadAccess::Open(_, upload) => {
            let with_bytes = headers.get(CONTENT_TYPE).is_some_and(|kind| *kind == OFFSET_STREAM);
            if upload.received == 0 && with_bytes {
                receive(&app, &user, &stage.staging_id, 0, raw).await?
            } else {
                upload.received
            }
        }
        access => return Err(refused(&app, &user, access).await),
    };
    let mut response = StatusCode::CREATED.into_response();
    let fields = response.headers_mut();
    let location = format!(
        "{}{UPLOADS}/{}",
        app.config.public_path,
        fields::escaped(stage.staging_id.as_str())
    );
    insert(fields, LOCATION, &location);
    insert(fields, UPLOAD_METADATA, &told);
    fields.insert(UPLOAD_OFFSET, offset.into());
    expires(fields, &stage);
    Ok(response)
}

fn other_length(length: Option<u64>) -> ApiError {
    ApiError::conflict(code::ID_TAKEN, "The upload was created with another length")
        .with("length", length)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn expires(headers: &mut HeaderMap, stage: &StageRow) {
    insert(headers, UPLOAD_EXPIRES, &fields::http_date(stage.expires_at));
}

/// Opens the stage of an upload; a client that lost its state gets the stage that it opened before.
async fn open(app: &App, user: &UserId, metadata: &Metadata) -> Result<StageRow, ApiError> {
    let new = &app.environment;
    let mut order = StageOrder {
        staging_id: metadata.staging_id.clone().unwrap_or_else(|| new.new_staging_id()),
        blob_id: metadata.blob_id.clone().unwrap_or_else(|| new.new_blob_id()),
        expires_at: None,
        content_type: metadata.content_type.clone(),
        size: 0,
    };
    if metadata.staging_id.is_some()
        && let Some(there) = app.store.stage(user, &order.staging_id).await?
    {
        if there.status != StageStatus::Staged || there.expires_at <= app.now() {
            return Err(over(&there));
        }
        if metadata.blob_id.is_none() {
            order.blob_id = there.blob_id.clone();
        }
        let content_type = there.content_type.as_deref().map(str::to_owned);
        let same = order.content_type.is_none() || order.content_type == content_type;
        if order.blob_id == there.blob_id && same {
            return Ok(there);
        }
    }
    stage::open(app, user, order).await
}

/// Returns the error for an upload that has ended and that its stager knew.
async fn gone(app: &App, user: &UserId, access: UploadAccess) -> ApiError {
    match access {
        UploadAccess::Over(stage) => {
            let mut error = over(&stage);
            error.status = StatusCode::GONE;
            error
        }
        access => refused(app, user, access).await,
    }
}

pub(crate) async fn look(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    _: Tus,
    path: PathId,
) -> Result<Response, ApiError> {
    let staging_id = staging_id(path)?;
    let access = app.store.upload(&user, &staging_id, app.now()).await?;
    let access = upload::finish_if_complete(&app, &user, &staging_id, access).await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let stage = match access {
        UploadAccess::Open(stage, upload) => {
            headers.insert(UPLOAD_OFFSET, upload.received.into());
            match upload.length {
                Some(length) => headers.insert(UPLOAD_LENGTH, length.into()),
                None => headers.insert(UPLOAD_DEFER_LENGTH, 1.into()),
            };
            let told = upload.metadata.unwrap_or_else(|| Metadata::default().completed(&stage));
            insert(headers, UPLOAD_METADATA, &told);
            stage
        }
        UploadAccess::Complete(stage) => {
            let size = stage.uploaded.map_or(0, |(size, _)| size);
            headers.insert(UPLOAD_OFFSET, size.into());
            headers.insert(UPLOAD_LENGTH, size.into());
            insert(headers, UPLOAD_METADATA, &Metadata::default().completed(&stage));
            stage
        }
        access => return Err(gone(&app, &user, access).await),
    };
    expires(headers, &stage);
    Ok(response)
}

pub(crate) async fn append(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    _: Tus,
    path: PathId,
    raw: RawBody,
) -> Result<Response, ApiError> {
    let staging_id = staging_id(path)?;
    let headers = &raw.headers;
    if headers.get(CONTENT_TYPE).is_none_or(|kind| *kind != OFFSET_STREAM) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The Content-Type must be application/offset+octet-stream",
        ));
    }
    let offset = fields::number(headers, &UPLOAD_OFFSET, "Upload-Offset")?
        .ok_or_else(|| ApiError::invalid("Upload-Offset", "is missing"))?;
    let access = app.store.upload(&user, &staging_id, app.now()).await?;
    let access = upload::finish_if_complete(&app, &user, &staging_id, access).await?;
    let (stage, received) = match access {
        UploadAccess::Open(stage, upload) => {
            check_offset(offset, upload.received)?;
            let received = receive(&app, &user, &staging_id, offset, raw).await?;
            (stage, received)
        }
        UploadAccess::Complete(stage) => {
            let size = stage.uploaded.map_or(0, |(size, _)| size);
            check_offset(offset, size)?;
            (stage, size)
        }
        access => return Err(gone(&app, &user, access).await),
    };
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, received.into());
    expires(headers, &stage);
    Ok(response)
}

fn check_offset(given: u64, expected: u64) -> Result<(), ApiError> {
    if given == expected {
        return Ok(());
    }
    let sentence = format!("The upload continues at offset {expected}");
    Err(ApiError::conflict(code::OFFSET_MISMATCH, sentence).with("offset", expected))
}

/// Receives the bytes of a request, in a task of its own, so that received bytes are kept if the
/// caller disconnects. Returns the new offset.
async fn receive(
    app: &App,
    user: &UserId,
    staging_id: &StagingId,
    offset: u64,
    raw: RawBody,
) -> Result<u64, ApiError> {
    check_plain(&raw.headers)?;
    let job = Receiving {
        app: app.clone(),
        user: user.clone(),
        staging_id: staging_id.clone(),
        offset,
        length: fields::number(&raw.headers, &UPLOAD_LENGTH, "Upload-Length")?,
        comes: fields::number(&raw.headers, &CONTENT_LENGTH, "Content-Length")?,
        checksum: Checksum::of(&raw.headers)?,
        bytes: timed(raw.body, app.config.pace()).boxed(),
    };
    complete_for(user, job.run()).await?
}

struct Receiving {
    app: App,
    user: UserId,
    staging_id: StagingId,
    offset: u64,
    length: Option<u64>,
    /// The number of bytes that the request announces.
    comes: Option<u64>,
    checksum: Option<Checksum>,
    bytes: Incoming,
}

impl Receiving {
    async fn run(mut self) -> Result<u64, ApiError> {
        let app = self.app.clone();
        let mut session = UploadWriter::take(&app, &self.user, &self.staging_id, false).await?;
        check_offset(self.offset, session.size())?;
        self.settle_length(&mut session)?;
        if self.checksum.is_some() {
            session = session.whole();
        }
        match self.take_in(&mut session).await {
            Ok(size) => Ok(size),
            Err(error) => {
                session.settle().await;
                Err(session.why(error).await)
            }
        }
    }

    async fn take_in(&mut self, session: &mut UploadWriter) -> Result<u64, ApiError> {
        let mut checksum = self.checksum.take();
        let received = session
            .receive(&mut self.bytes, |chunk| {
                if let Some(checksum) = &mut checksum {
                    checksum.update(chunk);
                }
            })
            .await;
        if let Some(checksum) = checksum {
            if let Err(error) = received.and_then(|()| checksum.verify()) {
                session.discard().await;
                return Err(error);
            }
        } else if let Err(error) = received {
            // The received bytes are kept, and the client resumes after them.
            let superseded = error.code == code::UPLOAD_SUPERSEDED;
            if session.size() > self.offset && session.can_tell() && !superseded {
                session.tell().await?;
            }
            return Err(error);
        }
        let size = session.size();
        if session.length() == Some(size) {
            session.finish().await?;
        } else {
            session.tell().await?;
        }
        Ok(size)
    }

    fn settle_length(&self, session: &mut UploadWriter) -> Result<(), ApiError> {
        if let Some(length) = self.length {
            if session.length().is_some_and(|known| known != length) || length < self.offset {
                return Err(ApiError::invalid("Upload-Length", "contradicts the announced length"));
            }
            let max = self.app.max_blob_bytes();
            if length > max {
                return Err(too_large(max));
            }
            session.set_length(length);
        }
        let end = self.comes.map(|comes| self.offset.saturating_add(comes));
        match (end, session.length()) {
            (Some(end), Some(length)) if end > length => {
                let sentence =
                    format!("The upload has {length} bytes in total, but more would arrive");
                Err(ApiError::too_large(sentence).with("length", length))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) async fn terminate(
    State(app): State<App>,
    AuthenticatedUser(user): AuthenticatedUser,
    _: Tus,
    path: PathId,
) -> Result<StatusCode, ApiError> {
    match app.store.abandon(&user, &staging_id(path)?, app.now()).await? {
        AbandonAnswer::Unknown => Err(ApiError::unknown_stage()),
        AbandonAnswer::Attached(row) => Err(over(&row)),
        AbandonAnswer::Abandoned(row) => {
            reclaim::now(&app, &row.blob_id).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

/// Handles method overrides, for clients whose network passes only `POST`.
pub(crate) async fn overridden(
    State(app): State<App>,
    caller: AuthenticatedUser,
    tus: Tus,
    path: PathId,
    raw: RawBody,
) -> Result<Response, ApiError> {
    let method = raw.headers.get(METHOD_OVERRIDE).map(|value| Method::from_bytes(value.as_bytes()));
    match method {
        Some(Ok(Method::PATCH)) => append(State(app), caller, tus, path, raw).await,
        Some(Ok(Method::HEAD)) => look(State(app), caller, tus, path).await,
        Some(Ok(Method::DELETE)) => {
            terminate(State(app), caller, tus, path).await.map(|status| status.into_response())
        }
        _ => Err(ApiError::of_status(StatusCode::METHOD_NOT_ALLOWED)),
    }
}
