//! The client's transport to the servers: the bytes of HTTP, without sockets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, TryStreamExt as _};
use http::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vfs_sync_client::transport::{
    Answer, ByteStream, Call, MeantFor, PullQuery, Result, batch_request, batch_results,
    read_answer, read_blobs_answer,
};
use vfs_sync_client::{Device, Transport, TransportError};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, StagingId, UserId};
use vfs_sync_core::wire::{
    BlobReadRequest, PROTOCOL_HEADER, PROTOCOL_VERSION, PullPage, PushRequest, PushResponse,
    ReconcileRequest, ReconcileResponse, StageRequest, USER_HEADER, UploadResponse,
};

use crate::actor::byzantine_server::Hostile;
use crate::infra::network::Link;
use crate::infra::sabotage::{Sabotage, push_thrown_away, without_an_entry};
use crate::infra::server::Answer as Response;
use crate::oracle::belongs;
use crate::oracle::coverage::Kind;
use crate::oracle::ledger::Ledger;
use crate::oracle::write_ids::Numbers;

/// A token, and the user that it belongs to.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) bearer: String,
    pub(crate) of: UserId,
}

pub(crate) struct SimTransport {
    pub(crate) link: Arc<Link>,
    pub(crate) ledger: Ledger,
    pub(crate) hostile: Arc<Hostile>,
    /// The token of requests, which is not always the user's own.
    token: Mutex<Token>,
    meant_for: MeantFor,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) numbers: Numbers,
    /// The blobs whose bytes were received.
    fetched: Mutex<BTreeSet<BlobId>>,
}

fn malformed(call: &'static str, field: &str, reason: &str) -> TransportError {
    TransportError::MalformedResponse { call, field: field.into(), reason: reason.into() }
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

fn read<T: DeserializeOwned>(call: &'static str, answer: &Response) -> Result<T> {
    let seconds = header(answer, "retry-after").and_then(|text| text.parse().ok());
    read_answer(call, answer.status, seconds.map(Duration::from_secs), &answer.body)
}

/// Joins the steps of a path; ids here have no characters that need an escape.
fn path(parts: &[&str]) -> String {
    format!("/v1/vfs/{}", parts.join("/"))
}

impl SimTransport {
    pub(crate) fn new(
        link: Arc<Link>,
        ledger: Ledger,
        hostile: Arc<Hostile>,
        token: Token,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let (numbers, fetched, meant_for) =
            (Numbers::default(), Mutex::default(), MeantFor::default());
        let token = Mutex::new(token);
        Self { link, ledger, hostile, token, meant_for, sabotage, numbers, fetched }
    }

    /// Sends requests with another token from now on.
    pub(crate) fn set_token(&self, token: Token) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header(PROTOCOL_HEADER, PROTOCOL_VERSION)
            .header("authorization", &token.bearer)
            .extension(token);
        match self.meant_for.header() {
            Some(user) => builder.header(USER_HEADER, user),
            None => builder,
        }
    }

    /// Returns whether bytes of a blob were received.
    pub(crate) fn has_fetched(&self, blob_id: &BlobId) -> bool {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).contains(blob_id)
    }

    fn note_fetched(&self, blob_id: &BlobId) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).insert(blob_id.clone());
    }

    async fn send(
        &self,
        call: &'static str,
        builder: http::request::Builder,
        body: Bytes,
    ) -> Result<Response> {
        let request = builder.body(body).expect("a request of ours is one");
        let token = request.extensions().get::<Token>().cloned();
        let answer = self.link.send(call, request).await?;
        // Tokens here say nothing to a client: only the server's word counts.
        let named = header(&answer, "vfs-sync-user");
        let (own, of) = (self.meant_for.user(), token.as_ref().map(|token| &token.of));
        belongs::answered(&self.ledger, own, of, call, answer.status);
        self.meant_for.check(answer.status, named, None)?;
        Ok(answer)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        builder: http::request::Builder,
        body: Bytes,
    ) -> Result<T> {
        let read = read(call, &self.send(call, builder, body).await?);
        if read.is_ok() {
            self.ledger.count(Kind::Call, call);
        }
        read
    }

    async fn get<T: DeserializeOwned>(&self, call: &'static str, path: &str) -> Result<T> {
        self.call(call, self.request(Method::GET, path), Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let json = serde_json::to_vec(body).expect("a request serializes");
        let builder = self.request(Method::POST, path);
        self.call(call, builder.header("content-type", "application/json"), json.into()).await
    }
}

impl SimTransport {
    /// Abandons a stage, which our client never does.
    pub(crate) async fn abandon(&self, staging_id: &StagingId) -> Result<()> {
        let path = path(&["blobs", "stage", staging_id.as_str(), "abandon"]);
        let answer: Result<serde_json::Value, _> =
            self.call("abandon", self.request(Method::POST, &path), Bytes::new()).await;
        answer.map(drop)
    }

    /// Deletes a blob, which our client never does.
    pub(crate) async fn delete_blob(&self, blob_id: &BlobId) -> Result<()> {
        let path = path(&["blobs", blob_id.as_str()]);
        let answer: Result<serde_json::Value, _> =
            self.call("deleteBlob", self.request(Method::DELETE, &path), Bytes::new()).await;
        answer.map(drop)
    }
}

async fn whole(data: ByteStream) -> Result<Bytes> {
    let all: Result<BytesMut, std::io::Error> = data.try_collect().await;
    all.map(BytesMut::freeze).map_err(|error| TransportError::network(error.to_string()))
}

#[async_trait]
impl Transport for SimTransport {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.meant_for.bind(user)
    }

    // The simulated servers know no devices: their lists are no part of what is modelled.
    fn bind_device(&self, _: &Arc<Device>) {}

    async fn call(&self, call: Call) -> Result<Answer> {
        Ok(match call {
            Call::Push(request) => Answer::Push(self.push(&request).await?),
            Call::Pull(query) => Answer::Pull(self.pull(&query).await?),
            Call::Reconcile(request) => Answer::Reconcile(self.reconcile(&request).await?),
            Call::State(client_id) => {
                let path = path(&["crdt", "state"]);
                Answer::State(self.get("state", &format!("{path}?clientId={client_id}")).await?)
            }
            Call::Limits => Answer::Limits(Box::new(self.get("limits", &path(&["limits"])).await?)),
            Call::Stage(request) => {
                Answer::Stage(self.post("stage", &path(&["blobs", "stage"]), &request).await?)
            }
            Call::Upload { staging_id, digest, data, .. } => {
                Answer::Upload(self.upload(&staging_id, digest, data).await?)
            }
            Call::StageState(staging_id) => {
                let path = path(&["blobs", "stage", staging_id.as_str()]);
                Answer::StageState(self.get("stageState", &path).await?)
            }
            Call::OpenUpload { stage, size } => {
                Answer::OpenUpload(self.open_upload(&stage, size).await?)
            }
            Call::Append { staging_id, offset, data, .. } => {
                Answer::Append(self.append(&staging_id, offset, data).await?)
            }
            Call::Attach { staging_id, request } => {
                let path = path(&["blobs", "stage", staging_id.as_str(), "attach"]);
                Answer::Attach(self.post("attach", &path, &request).await?)
            }
            Call::BlobBatch(files) => {
                let (body, path) = (batch_request(&files), path(&["blobs", "batch"]));
                let answer = self.post("blobBatch", &path, &body).await?;
                Answer::BlobBatch(batch_results(answer, files)?)
            }
            Call::Versions(item_id) => {
                let path = path(&["items", item_id.as_str(), "versions"]);
                Answer::Versions(self.get("versions", &path).await?)
            }
            Call::ReadBlobs(blobs) => Answer::ReadBlobs(Some(self.read_blobs(&blobs).await?)),
            Call::Download { blob_id, offset } => {
                Answer::Download(self.download(&blob_id, offset).await?)
            }
            Call::Trash { .. }
            | Call::Restore { .. }
            | Call::Purge { .. }
            | Call::Events(_)
            | Call::Telemetry(_) => {
                return Err(TransportError::unsupported(call.kind()));
            }
        })
    }
}

/// The calls that consist of more than one request and its answer.
impl SimTransport {
    async fn push(&self, request: &PushRequest) -> Result<PushResponse> {
        self.numbers.sent(&self.ledger, request);
        if let Some(answer) = self.hostile.instead_of_push(request) {
            return Ok(answer);
        }
        if self.sabotage == Some(Sabotage::LostPush) && request.operations.len() == 1 {
            return Ok(push_thrown_away(request));
        }
        let answer = self.post("push", &path(&["crdt", "push"]), request).await?;
        let answer = self.hostile.push(answer)?;
        self.numbers.answered(request, &answer);
        Ok(answer)
    }

    async fn pull(&self, query: &PullQuery) -> Result<PullPage> {
        let mut path = path(&["crdt", "vfs-sync"]);
        path.push_str(&format!("?clientId={}&limit={}", query.client_id, query.limit));
        let given =
            [("cursor", &query.cursor), ("baseline", &query.baseline), ("head", &query.head)];
        for (name, cursor) in given {
            if let Some(cursor) = cursor {
                path.push_str(&format!("&{name}={}", cursor.encode()));
            }
        }
        let page = self.get("pull", &path).await;
        if matches!(page, Err(TransportError::RematerializationRequired { .. })) {
            self.hostile.rebuild();
        }
        let mut page = page?;
        if self.sabotage == Some(Sabotage::LostEntry) {
            page = without_an_entry(page);
        }
        self.hostile.pull(query, page)
    }

    async fn reconcile(&self, request: &ReconcileRequest) -> Result<ReconcileResponse> {
        let answer = self.post("reconcile", &path(&["crdt", "reconcile"]), request).await?;
        self.hostile.reconcile(request, answer)
    }

    async fn upload(
        &self,
        staging_id: &StagingId,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse> {
        let path = path(&["blobs", "stage", staging_id.as_str(), "data"]);
        let builder = self
            .request(Method::PUT, &path)
            .header("content-digest", format!("sha-256=:{}:", STANDARD.encode(digest.0)));
        self.call("upload", builder, whole(data).await?).await
    }

    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64> {
        let mut names = vec![format!("blobId {}", STANDARD.encode(stage.blob_id.as_str()))];
        if let Some(id) = &stage.staging_id {
            names.push(format!("stagingId {}", STANDARD.encode(id.as_str())));
        }
        let builder = self
            .request(Method::POST, &path(&["blobs", "uploads"]))
            .header("tus-resumable", "1.0.0")
            .header("upload-length", size)
            .header("upload-metadata", names.join(","));
        let answer = self.send("openUpload", builder, Bytes::new()).await?;
        if answer.status != 201 {
            return Err(read::<()>("openUpload", &answer).expect_err("it is refused"));
        }
        let offset = header(&answer, "upload-offset").and_then(|text| text.parse().ok());
        self.ledger.count(Kind::Call, "openUpload");
        offset.ok_or_else(|| malformed("openUpload", "Upload-Offset", "is no number"))
    }

    async fn append(&self, staging_id: &StagingId, offset: u64, data: ByteStream) -> Result<()> {
        let path = path(&["blobs", "uploads", staging_id.as_str()]);
        let builder = self
            .request(Method::PATCH, &path)
            .header("tus-resumable", "1.0.0")
            .header("upload-offset", offset)
            .header("content-type", "application/offset+octet-stream");
        let answer = self.send("append", builder, whole(data).await?).await?;
        if answer.status == 204 {
            self.ledger.count(Kind::Call, "append");
            return Ok(());
        }
        read("append", &answer)
    }

    async fn read_blobs(&self, blobs: &[BlobId]) -> Result<Vec<Result<Bytes>>> {
        let json = serde_json::to_vec(&BlobReadRequest { blob_ids: blobs.to_vec() });
        let json = json.expect("a request serializes");
        let builder = self
            .request(Method::POST, &path(&["blobs", "batch", "read"]))
            .header("content-type", "application/json");
        let answer = self.send("readBlobs", builder, json.into()).await?;
        if answer.status != 200 {
            return Err(read::<()>("readBlobs", &answer).expect_err("it is refused"));
        }
        let mut outcomes = read_blobs_answer(blobs, &answer.body)?;
        self.ledger.count(Kind::Call, "readBlobs");
        for (blob_id, outcome) in blobs.iter().zip(&mut outcomes) {
            let Ok(bytes) = outcome else { continue };
            self.note_fetched(blob_id);
            *bytes = self.hostile.download(std::mem::take(bytes));
        }
        Ok(outcomes)
    }

    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream> {
        let mut builder = self.request(Method::GET, &path(&["blobs", blob_id.as_str()]));
        if offset > 0 {
            builder = builder.header("range", format!("bytes={offset}-"));
        }
        let answer = self.send("download", builder, Bytes::new()).await?;
        let from = match answer.status {
            200 => offset,
            206 => 0,
            _ => return Err(read::<()>("download", &answer).expect_err("it is refused")),
        };
        self.ledger.count(Kind::Call, "download");
        self.note_fetched(blob_id);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(answer.body.len());
        let broken = header(&answer, "x-broken-off").is_some();
        let bytes = self.hostile.download(answer.body.slice(from..));
        let cut = broken.then(|| Err(std::io::Error::other("simulated: broken off")));
        Ok(Box::pin(stream::iter([Ok(bytes)].into_iter().chain(cut))))
    }
}
