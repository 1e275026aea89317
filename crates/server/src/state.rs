//! The state that handlers share.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use vfs_sync_blobs::BlobStore;
use vfs_sync_core::time::Timestamp;
use vfs_sync_store::MetadataStore;

use crate::auth::Authenticator;
use crate::config::ServerConfig;
use crate::environment::Environment;
use crate::error::ApiError;
use crate::http::body::{BodyMemory, Reader};

/// The state shared by all handlers. It holds nothing that another server instance would need.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) auth: Authenticator,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) config: ServerConfig,
    body_memory: BodyMemory,
    requests: Semaphore,
    large_uploads: Semaphore,
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(
        store: Arc<dyn MetadataStore>,
        blobs: Arc<dyn BlobStore>,
        auth: Authenticator,
        environment: Arc<dyn Environment>,
        config: ServerConfig,
    ) -> Self {
        let body_memory = BodyMemory::new(config.max_body_memory);
        let requests = Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS));
        let large_uploads = Semaphore::new(config.max_large_uploads.min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner {
            store,
            blobs,
            auth,
            environment,
            config,
            body_memory,
            requests,
            large_uploads,
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// Returns the size of the largest blob: the lesser of the configured limit and the object
    /// store's.
    pub(crate) fn max_blob_bytes(&self) -> u64 {
        self.config.max_blob_bytes.min(self.blobs.max_size())
    }

    /// Takes a permit for a request in progress; fails if all are taken.
    pub(crate) fn request_share(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.requests.try_acquire()
    }

    /// Waits for a permit to upload a content that is too large for memory.
    pub(crate) async fn upload_share(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let turn = self.large_uploads.acquire();
        match tokio::time::timeout(self.config.idle_timeout, turn).await {
            Ok(Ok(share)) => Ok(share),
            _ => Err(ApiError::overloaded()),
        }
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { memory: &self.body_memory, idle: self.config.idle_timeout }
    }
}
