//! The protocol over HTTP.

pub(super) mod answer;
pub(super) mod blobs;
mod devices;
mod directory;
mod events;
pub(super) mod meant_for;
mod min_throughput;
pub(super) mod net;
#[cfg(not(target_family = "wasm"))]
pub(super) mod probe;
#[cfg(not(target_family = "wasm"))]
pub(super) mod sign_in;
mod tus;
mod user;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId, to_path_step};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::telemetry::TelemetryRequest;
use vfs_sync_core::wire::trash::{PurgeResponse, RestoreResponse, TrashPage};
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, BlobBatchAttached, BlobBatchFile, BlobBatchRequest,
    BlobBatchResponse, BlobBatchStatus, PROTOCOL_HEADER, PROTOCOL_VERSION, PullPage, PushRequest,
    PushResponse, ReconcileRequest, ReconcileResponse, StageRequest, StageResponse, StateResponse,
    UploadResponse, VersionsResponse,
};

use self::meant_for::MeantFor;
use self::net::{Body, Response, Url};
use super::call::{Answer, BatchFile, ByteStream, Call, PullQuery, Transport};
use super::error::{Result, TransportError};
use crate::device::{BoundDevice, Device};

/// A source of bearer tokens.
#[async_trait]
pub trait TokenProvider: Send + Sync + 'static {
    /// Returns the token to send. `refresh` is set if the server has just rejected the previous
    /// one.
    ///
    /// # Errors
    /// A sentence that says why there is no token.
    async fn token(&self, refresh: bool) -> Result<String, String>;

    /// Returns the token to send as [`Self::token`] does, or the error of the call that needs one. A
    /// provider that asks a server for tokens tells here whether the server could be reached.
    ///
    /// # Errors
    /// [`TransportError::Unauthorized`] with the sentence of [`Self::token`], unless the provider has
    /// errors of its own.
    async fn provide(&self, refresh: bool) -> Result<String> {
        self.token(refresh).await.map_err(TransportError::Unauthorized)
    }
}

/// A token that never changes.
#[derive(Clone)]
pub struct StaticToken(String);

impl StaticToken {
    /// Creates a provider of this token.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }
}

#[async_trait]
impl TokenProvider for StaticToken {
    async fn token(&self, _refresh: bool) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

/// The address of a server, and the limits of calls to it.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The URL of the server: `http://` or `https://`, host and port; a path is kept as a prefix.
    pub base_url: String,
    /// The longest time to open a connection.
    pub connect_timeout: Duration,
    /// The longest time of a call, except for streamed contents.
    pub request_timeout: Duration,
    /// The longest time without progress of a streamed content.
    pub idle_timeout: Duration,
    /// The rate in bytes per second below which a streamed content counts as stalled: for a
    /// download over each `idle_timeout`, for an upload over the whole of it.
    pub slowest_transfer: u64,
    /// Allows `http://` to a host that is not this machine: whoever is on the way then reads and
    /// changes everything, the token included.
    pub insecure_http: bool,
    /// The page's way to the network.
    #[cfg(target_family = "wasm")]
    pub fetch: Option<net::PageFetch>,
}

impl HttpConfig {
    /// Creates a configuration for the server at `base_url`, with the default time-outs.
    #[must_use]
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            slowest_transfer: 1024,
            insecure_http: false,
            #[cfg(target_family = "wasm")]
            fetch: None,
        }
    }
}

/// Returns whether what is sent to the server of a URL stays on this machine.
pub(crate) fn is_loopback(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl From<&str> for HttpConfig {
    fn from(base_url: &str) -> Self {
        Self::new(base_url)
    }
}

impl From<String> for HttpConfig {
    fn from(base_url: String) -> Self {
        Self::new(base_url)
    }
}

/// A transport to a server over HTTP.
pub struct HttpTransport {
    http: net::Client,
    base: Url,
    config: HttpConfig,
    token: Box<dyn TokenProvider>,
    meant_for: MeantFor,
    device: BoundDevice,
}

/// The size from which a body is compressed.
const COMPRESS_FROM: usize = 1_024;

/// The kind of data that a request sends to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gives {
    Nothing,
    /// Data that belongs to the user.
    Data,
}

/// A request that can be sent twice.
struct HttpCall {
    name: &'static str,
    method: Method,
    url: Url,
    /// The JSON body, and whether it is compressed.
    body: Option<(Bytes, bool)>,
    /// The time limit; `None` for streams.
    timeout: Option<Duration>,
    headers: HeaderMap,
}

impl HttpTransport {
    /// Creates a transport to the server of `config`.
    ///
    /// # Errors
    /// [`TransportError::InvalidAddress`] if the base URL is invalid, or TLS cannot be set up.
    pub fn new(config: HttpConfig, token: impl TokenProvider) -> Result<Self> {
        let refused = TransportError::InvalidAddress;
        let base = Url::parse(&config.base_url).map_err(|error| {
            refused(format!("the server's address {:?} is no URL: {error}", config.base_url))
        })?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            let message =
                format!("the server's address {:?} is not http or https", config.base_url);
            return Err(refused(message));
        }
        if base.scheme() == "http" && !config.insecure_http && !is_loopback(&base) {
            let message = format!(
                "the server's address {:?} is not encrypted: others could read the token; use https",
                config.base_url
            );
            return Err(refused(message));
        }
        if base.query().is_some() || base.fragment().is_some() {
            let message =
                format!("the server's address {:?} has a query or a fragment", config.base_url);
            return Err(refused(message));
        }
        let mut headers = HeaderMap::new();
        headers.insert(PROTOCOL_HEADER, HeaderValue::from(PROTOCOL_VERSION));
        let http = net::client(&config, headers).map_err(refused)?;
        let (token, meant_for, device) =
            (Box::new(token), MeantFor::default(), BoundDevice::default());
        Ok(Self { http, base, config, token, meant_for, device })
    }

    /// Returns the URL of a route; each element of `path` becomes one escaped step.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            let path = path.iter().map(|step| to_path_step(step));
            segments.pop_if_empty().extend(["v1", "vfs"]).extend(path);
        }
        url
    }

    /// Returns the URL of a call about a deleted item and, if `recursive`, the items deleted with
    /// it.
    fn trashed_url(&self, path: &[&str], recursive: bool) -> Url {
        let mut url = self.url(path);
        if !recursive {
            url.query_pairs_mut().append_pair("recursive", "false");
        }
        url
    }

    /// Sends a call; on `401` it asks for another token, once. Returns any answer except a `401`.
    async fn send(&self, call: &HttpCall) -> Result<Response> {
        let mut refresh = false;
        loop {
            let mut request = self.http.request(call.method.clone(), call.url.clone());
            if let Some(timeout) = call.timeout {
                request = request.timeout(timeout);
            }
            request = request.headers(call.headers.clone());
            if let Some((body, compressed)) = &call.body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
                if *compressed {
                    request = request.header(CONTENT_ENCODING, "zstd");
                }
            }
            let gives = if call.method == Method::GET { Gives::Nothing } else { Gives::Data };
            let response = self.exchange(request, gives, refresh).await?;
            if response.status() == http::StatusCode::UNAUTHORIZED && !refresh {
                refresh = true;
                continue;
            }
            return Ok(response);
        }
    }

    /// Sends a call and reads its answer.
    async fn fetch<T: DeserializeOwned>(&self, call: HttpCall) -> Result<T> {
        let response = self.send(&call).await?;
        answer::read(call.name, response).await
    }

    /// Returns an answer's body as a stream that fails when it stalls.
    fn stream(
        &self,
        response: Response,
    ) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + use<> {
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        let window = self.config.idle_timeout;
        let least = self.config.slowest_transfer.saturating_mul(window.as_secs());
        min_throughput::min_throughput(bytes, least, window)
    }

    fn get(&self, name: &'static str, url: Url) -> HttpCall {
        let timeout = Some(self.config.request_timeout);
        HttpCall { name, method: Method::GET, url, body: None, timeout, headers: HeaderMap::new() }
    }

    fn post(&self, name: &'static str, path: &[&str], body: &impl Serialize) -> HttpCall {
        let json = serde_json::to_vec(body).expect("a request serializes");
        let body = if json.len() < COMPRESS_FROM {
            (json.into(), false)
        } else {
            match net::compressed(&json) {
                Some(compressed) => (compressed.into(), true),
                None => (json.into(), false),
            }
        };
        let timeout = Some(self.config.request_timeout);
        let (url, body) = (self.url(path), Some(body));
        HttpCall { name, method: Method::POST, url, body, timeout, headers: HeaderMap::new() }
    }
}

fn malformed(call: &'static str, field: &str, reason: &str) -> TransportError {
    TransportError::MalformedResponse { call, field: field.into(), reason: reason.into() }
}

/// Builds the body of a batch.
#[must_use]
pub fn batch_request(files: &[BatchFile]) -> BlobBatchRequest {
    let file = |file: &BatchFile| BlobBatchFile {
        staging_id: Some(file.staging_id.clone()),
        blob_id: file.blob_id.clone(),
        content_type: file.content_type.clone(),
        data_base64: STANDARD.encode(&file.data),
        digest: Some(file.digest),
        attach: file.attach.clone(),
    };
    BlobBatchRequest { files: files.iter().map(file).collect() }
}

/// Returns the result of each file of a batch, in the order sent.
///
/// # Errors
/// [`TransportError::MalformedResponse`] if the answer does not have one result for each file.
pub fn batch_results(
    answer: BlobBatchResponse,
    files: Vec<BatchFile>,
) -> Result<Vec<Result<AttachResponse>>> {
    if answer.results.len() != files.len() {
        return Err(malformed("blobBatch", "results", "are not one for each file"));
    }
    let results = answer.results.into_iter().zip(files).enumerate().map(|(at, (result, file))| {
        let field = |name: &str| format!("results[{at}].{name}");
        if result.staging_id != file.staging_id {
            return Err(malformed("blobBatch", &field("stagingId"), "is not the one sent"));
        }
        if result.blob_id != file.blob_id {
            return Err(malformed("blobBatch", &field("blobId"), "is not the one sent"));
        }
        let other = |attached: &BlobBatchAttached| attached.item_id != file.attach.item_id;
        if result.attached.as_ref().is_some_and(other) {
            return Err(malformed("blobBatch", &field("itemId"), "is not the one sent"));
        }
        match (result.status, result.attached, result.error) {
            (BlobBatchStatus::Attached, Some(attached), _) => Ok(Ok(AttachResponse {
                attached: true,
                staging_id: result.staging_id,
                blob_id: result.blob_id,
                item_id: attached.item_id,
                relation_kind: attached.relation_kind,
                ref_id: attached.ref_id,
                attached_at: attached.attached_at,
                modified_at: attached.modified_at,
            })),
            (BlobBatchStatus::Failed, _, Some(error)) => {
                Ok(Err(answer::refused("blobBatch", error.http_status, None, error.body)))
            }
            (BlobBatchStatus::Failed, _, None) => {
                Err(malformed("blobBatch", &field("error"), "is missing"))
            }
            (BlobBatchStatus::Attached, None, _) => {
                Err(malformed("blobBatch", &field("status"), "promises more than is there"))
            }
        }
    });
    results.collect()
}

#[async_trait]
impl Transport for HttpTransport {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.meant_for.bind(user)
    }

    fn bind_device(&self, device: &Arc<Device>) {
        self.device.bind(device);
    }

    async fn call(&self, call: Call) -> Result<Answer> {
        Ok(match call {
            Call::Push(request) => Answer::Push(self.push(&request).await?),
            Call::Pull(query) => Answer::Pull(self.pull(&query).await?),
            Call::Reconcile(request) => Answer::Reconcile(self.reconcile(&request).await?),
            Call::State(client_id) => Answer::State(self.state(&client_id).await?),
            Call::Limits => Answer::Limits(Box::new(self.limits().await?)),
            Call::Stage(request) => Answer::Stage(self.stage(&request).await?),
            Call::Upload { staging_id, size, digest, data } => {
                Answer::Upload(self.upload(&staging_id, size, digest, data).await?)
            }
            Call::StageState(id) => Answer::StageState(self.stage_state(&id).await?),
            Call::OpenUpload { stage, size } => {
                Answer::OpenUpload(self.open_upload(&stage, size).await?)
            }
            Call::Append { staging_id, offset, size, data } => {
                Answer::Append(self.append(&staging_id, offset, size, data).await?)
            }
            Call::Attach { staging_id, request } => {
                Answer::Attach(self.attach(&staging_id, &request).await?)
            }
            Call::BlobBatch(files) => Answer::BlobBatch(self.blob_batch(files).await?),
            Call::Versions(item_id) => Answer::Versions(self.versions(&item_id).await?),
            Call::Trash { cursor, limit } => {
                Answer::Trash(self.trash(cursor.as_deref(), limit).await?)
            }
            Call::Restore { item_id, recursive } => {
                Answer::Restore(self.restore(&item_id, recursive).await?)
            }
            Call::Purge { item_id, recursive } => {
                Answer::Purge(self.purge(&item_id, recursive).await?)
            }
            Call::ReadBlobs(blobs) => Answer::ReadBlobs(self.read_blobs(&blobs).await?),
            Call::Download { blob_id, offset } => {
                Answer::Download(self.download(&blob_id, offset).await?)
            }
            Call::Events(client_id) => Answer::Events(self.events(&client_id).await?),
            Call::Telemetry(request) => Answer::Telemetry(self.telemetry(&request).await?),
        })
    }
}

/// The calls of [`Transport`], with one method for each.
impl HttpTransport {
    async fn push(&self, request: &PushRequest) -> Result<PushResponse> {
        self.fetch(self.post("push", &["crdt", "push"], request)).await
    }

    async fn pull(&self, query: &PullQuery) -> Result<PullPage> {
        let mut url = self.url(&["crdt", "vfs-sync"]);
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("clientId", query.client_id.as_str());
            pairs.append_pair("limit", &query.limit.to_string());
            if let Some(cursor) = &query.cursor {
                pairs.append_pair("cursor", &cursor.encode());
            }
            if let Some(baseline) = &query.baseline {
                pairs.append_pair("baseline", &baseline.encode());
            }
            if let Some(head) = &query.head {
                pairs.append_pair("head", &head.encode());
            }
        }
        self.fetch(self.get("pull", url)).await
    }

    async fn reconcile(&self, request: &ReconcileRequest) -> Result<ReconcileResponse> {
        let call = self.post("reconcile", &["crdt", "reconcile"], request);
        self.fetch::<answer::Reconciled>(call).await.map(Into::into)
    }

    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse> {
        let mut url = self.url(&["crdt", "state"]);
        url.query_pairs_mut().append_pair("clientId", client_id.as_str());
        let answer: StateResponse = self.fetch(self.get("state", url)).await?;
        if answer.client_id != *client_id {
            return Err(malformed("state", "clientId", "is not the one asked about"));
        }
        Ok(answer)
    }

    async fn limits(&self) -> Result<Limits> {
        self.fetch(self.get("limits", self.url(&["limits"]))).await
    }

    async fn stage(&self, request: &StageRequest) -> Result<StageResponse> {
        let answer: StageResponse =
            self.fetch(self.post("stage", &["blobs", "stage"], request)).await?;
        if request.staging_id.as_ref().is_some_and(|id| *id != answer.staging_id) {
            return Err(malformed("stage", "stagingId", "is not the one sent"));
        }
        Ok(answer)
    }

    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse> {
        let url = self.url(&["blobs", "stage", staging_id.as_str(), "data"]);
        let seconds = size.div_ceil(self.config.slowest_transfer.max(1));
        let timeout = self.config.request_timeout + Duration::from_secs(seconds);
        let request = self
            .http
            .put(url)
            .header("Content-Digest", format!("sha-256=:{}:", STANDARD.encode(digest.0)))
            .header("Content-Length", size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .timeout(timeout)
            .body(Body::wrap_stream(data));
        let response = self.exchange(request, Gives::Data, false).await?;
        answer::read("upload", response).await
    }

    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse> {
        let url = self.url(&["blobs", "stage", staging_id.as_str()]);
        let answer: StageResponse = self.fetch(self.get("stageState", url)).await?;
        if answer.staging_id != *staging_id {
            return Err(malformed("stageState", "stagingId", "is not the one asked for"));
        }
        Ok(answer)
    }

    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse> {
        let path = ["blobs", "stage", staging_id.as_str(), "attach"];
        let answer: AttachResponse = self.fetch(self.post("attach", &path, request)).await?;
        let wrong = [
            ("stagingId", answer.staging_id != *staging_id),
            ("itemId", answer.item_id != request.item_id),
            ("relationKind", answer.relation_kind != request.relation_kind),
            ("attached", !answer.attached),
        ];
        match wrong.into_iter().find(|(_, wrong)| *wrong) {
            Some((field, _)) => Err(malformed("attach", field, "is not what was asked for")),
            None => Ok(answer),
        }
    }

    async fn blob_batch(&self, mut files: Vec<BatchFile>) -> Result<Vec<Result<AttachResponse>>> {
        let call = self.post("blobBatch", &["blobs", "batch"], &batch_request(&files));
        // They are in the call's body now: while it is answered, once is enough.
        files.iter_mut().for_each(|file| file.data = Bytes::new());
        let answer: BlobBatchResponse = self.fetch(call).await?;
        batch_results(answer, files)
    }

    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse> {
        let url = self.url(&["items", item_id.as_str(), "versions"]);
        let answer: VersionsResponse = self.fetch(self.get("versions", url)).await?;
        if answer.item_id != *item_id {
            return Err(malformed("versions", "itemId", "is not the one asked for"));
        }
        Ok(answer)
    }

    async fn trash(&self, cursor: Option<&str>, limit: u32) -> Result<TrashPage> {
        let mut url = self.url(&["trash"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        self.fetch(self.get("trash", url)).await
    }

    async fn restore(&self, item_id: &ItemId, recursive: bool) -> Result<RestoreResponse> {
        let url = self.trashed_url(&["trash", item_id.as_str(), "restore"], recursive);
        let call = HttpCall { method: Method::POST, ..self.get("restore", url) };
        let answer: RestoreResponse = self.fetch(call).await?;
        if answer.item_id != *item_id {
            return Err(malformed("restore", "itemId", "is not the one sent"));
        }
        Ok(answer)
    }

    async fn purge(&self, item_id: &ItemId, recursive: bool) -> Result<PurgeResponse> {
        let url = self.trashed_url(&["trash", item_id.as_str()], recursive);
        let call = HttpCall { method: Method::DELETE, ..self.get("purge", url) };
        let answer: PurgeResponse = self.fetch(call).await?;
        if answer.item_id != *item_id {
            return Err(malformed("purge", "itemId", "is not the one sent"));
        }
        Ok(answer)
    }

    async fn telemetry(&self, request: &TelemetryRequest) -> Result<()> {
        let call = self.post("telemetry", &["telemetry"], request);
        answer::check_status(call.name, self.send(&call).await?).await.map(drop)
    }

    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream> {
        let url = self.url(&["blobs", blob_id.as_str()]);
        let mut call = HttpCall { timeout: None, ..self.get("download", url) };
        if let (true, Ok(range)) = (offset > 0, format!("bytes={offset}-").try_into()) {
            call.headers.insert(RANGE, range);
        }
        let response = answer::check_status(call.name, self.send(&call).await?).await?;
        let skip = answer::skipped(call.name, &response, offset)?;
        Ok(Box::pin(from_byte(self.stream(response), skip)))
    }
}

/// Returns a stream without its first `skip` bytes.
fn from_byte(
    bytes: impl Stream<Item = Result<Bytes, std::io::Error>> + Send,
    mut skip: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    bytes.map_ok(move |mut chunk| {
        let over = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        skip -= over as u64;
        chunk.split_off(over)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_this_machine_only_encrypted() {
        let transport = |url: &str, insecure_http: bool| {
            let config = HttpConfig { insecure_http, ..HttpConfig::new(url) };
            HttpTransport::new(config, StaticToken::new("t"))
        };
        for url in
            ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost/x", "https://a.example"]
        {
            assert!(transport(url, false).is_ok(), "{url}");
        }
        for url in [
            "http://files.example",
            "http://10.0.0.1",
            "http://127.0.0.1@files.example",
            "http://127.0.0.1.files.example",
            "http://localhost.files.example",
        ] {
            let error = transport(url, false).err().unwrap();
            assert!(matches!(&error, TransportError::InvalidAddress(_)), "{url}: {error}");
            assert!(transport(url, true).is_ok(), "{url}");
        }
    }
}
