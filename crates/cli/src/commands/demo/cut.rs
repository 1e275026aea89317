//! A transport that can be disconnected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use vfs_sync_client::transport::{Answer, Call};
use vfs_sync_client::{Device, Transport, TransportError};
use vfs_sync_core::id::UserId;

/// A transport that forwards every call unless it is disconnected.
pub(super) struct Cuttable {
    inner: Arc<dyn Transport>,
    cut: AtomicBool,
}

impl Cuttable {
    pub(super) fn new(inner: Arc<dyn Transport>) -> Self {
        Self { inner, cut: AtomicBool::new(false) }
    }

    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

#[async_trait]
impl Transport for Cuttable {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.inner.bind_user(user)
    }

    fn bind_device(&self, device: &Arc<Device>) {
        self.inner.bind_device(device);
    }

    async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(TransportError::network("the network is cut"));
        }
        self.inner.call(call).await
    }
}
