//! The metadata store, whose connections users share fairly.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument as _;
use vfs_sync_core::id::UserId;
use vfs_sync_store::{Call, Capacity, MetadataStore, Reply, StoreError};

use crate::error::ApiError;
use crate::shares::{Bounds, Shares};

/// The time that a call waits for the user's turn: as long as a back end waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls of one user that wait for their turn: some batches of files.
const WAITING: usize = 4_096;
/// The multiple of what stays free that a user may hold: alone, three quarters of all.
const OF_FREE: usize = 3;

tokio::task_local! {
    /// The user for whom a task calls the store.
    static CALLER: UserId;
}

/// Runs `work`, whose calls of the store count as the user's.
pub(crate) async fn calling_for<T>(user: &UserId, work: impl Future<Output = T>) -> T {
    CALLER.scope(user.clone(), work).await
}

/// Runs `work` for the user in a task of its own: it completes even if the caller disconnects.
///
/// # Errors
/// [`ApiError`] if the work panics.
pub(crate) async fn complete_for<T: Send + 'static>(
    user: &UserId,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let user = user.clone();
    let work = async move { calling_for(&user, work).await };
    tokio::spawn(work.in_current_span()).await.map_err(|_| ApiError::internal())
}

/// A store that runs as many calls of one user at a time as leave room for others. The server's own
/// calls wait for nobody.
pub(crate) struct FairStore {
    inner: Arc<dyn MetadataStore>,
    calls: Option<Shares>,
    reads: Option<Shares>,
}

impl FairStore {
    pub(crate) fn new(inner: Arc<dyn MetadataStore>) -> Self {
        let shares = |name, total: usize| {
            let bounds = Bounds { total, per_user: total, of_free: OF_FREE, waiting: WAITING };
            Shares::new(name, bounds)
        };
        let Capacity { calls, reads } = inner.capacity();
        Self {
            inner,
            calls: calls.map(|calls| shares("database_calls", calls)),
            reads: reads.map(|reads| shares("database_reads", reads)),
        }
    }
}

#[async_trait]
impl MetadataStore for FairStore {
    async fn call(&self, call: Call) -> Result<Reply, StoreError> {
        let shares = if call.reads() {
            self.reads.as_ref().or(self.calls.as_ref())
        } else {
            self.calls.as_ref()
        };
        let caller = shares.and_then(|shares| Some((shares, CALLER.try_with(Clone::clone).ok()?)));
        let _share = match caller {
            Some((shares, user)) => {
                let share = shares.take(&user, 1, PATIENCE).await;
                Some(share.map_err(|_| StoreError::TooMany)?)
            }
            None => None,
        };
        self.inner.call(call).await
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }
}
