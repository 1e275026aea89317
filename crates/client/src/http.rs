//! The protocol over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ReplicaId, StagingId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
};

use crate::transport::{BatchFile, ByteStream, PullQuery, Transport, TransportError};

/// Gives the bearer token.
#[async_trait]
pub trait TokenProvider: Send + Sync + 'static {
    /// The token to send. `refresh` is set when the server has just refused the one before.
    ///
    /// # Errors
    /// A sentence that says why there is no token.
    async fn token(&self, refresh: bool) -> Result<String, String>;
}

/// A token that never changes.
#[derive(Clone)]
pub struct StaticToken(String);

impl StaticToken {
    /// Takes the token.
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

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `http://` or `https://`, host and port; a path is kept as a prefix.
    pub base_url: String,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long a call may take, but for streamed contents.
    pub request_timeout: Duration,
    /// How long a streamed content may stand still.
    pub idle_timeout: Duration,
}

impl HttpConfig {
    /// The server at `base_url`, with the usual time-outs.
    #[must_use]
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// A server reached over HTTP.
pub struct HttpTransport {
    _config: HttpConfig,
    _token: Box<dyn TokenProvider>,
}

impl HttpTransport {
    /// A transport to the server of `config`.
    ///
    /// # Errors
    /// [`TransportError::Refused`] if the base URL is none.
    pub fn new(config: HttpConfig, token: impl TokenProvider) -> Result<Self, TransportError> {
        Ok(Self { _config: config, _token: Box::new(token) })
    }
}

fn later<T>() -> Result<T, TransportError> {
    Err(TransportError::network("not there yet"))
}

#[async_trait]
impl Transport for HttpTransport {
    async fn push(&self, _request: &PushRequest) -> Result<PushResponse, TransportError> {
        later()
    }
    async fn pull(&self, _query: &PullQuery) -> Result<PullPage, TransportError> {
        later()
    }
    async fn reconcile(
        &self,
        _request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError> {
        later()
    }
    async fn state(&self, _client_id: &ReplicaId) -> Result<StateResponse, TransportError> {
        later()
    }
    async fn limits(&self) -> Result<Limits, TransportError> {
        later()
    }
    async fn stage(&self, _request: &StageRequest) -> Result<StageResponse, TransportError> {
        later()
    }
    async fn upload(
        &self,
        _staging_id: &StagingId,
        _size: u64,
        _digest: Sha256Digest,
        _data: ByteStream,
    ) -> Result<UploadResponse, TransportError> {
        later()
    }
    async fn attach(
        &self,
        _staging_id: &StagingId,
        _request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError> {
        later()
    }
    async fn blob_batch(
        &self,
        _files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError> {
        later()
    }
    async fn download(&self, _blob_id: &BlobId) -> Result<ByteStream, TransportError> {
        later()
    }
}
