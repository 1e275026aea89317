//! The metadata store, whose connections users share fairly.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument as _;
use vfs_sync_core::id::UserId;
use vfs_sync_store::{
    Announcements, Call, Capacity, HeadObserver, MetadataStore, Reply, StoreError,
};

use super::shares::{Bounds, Share, Shares};
use crate::error::ApiError;
use crate::operator::traces;

/// The time that a call waits for the user's turn: as long as a back end waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls of one user that wait for their turn: some batches of files.
const WAITING: usize = 4_096;
/// The multiple of what stays free that a user may hold: alone, three quarters of all.
const OF_FREE: usize = 3;
/// The time that a large call waits for its turn: several of others take their turns first.
const LARGE_PATIENCE: Duration = Duration::from_secs(60);
/// Large calls of one user that wait for their turn.
const LARGE_WAITING: usize = 16;

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

/// A store that runs as many calls of one user at a time as leave room for others. Large calls, such
/// as a push that shows a large folder to many, run one after another in turns: each takes the memory
/// of a large plan. One that waits for its turn holds nothing that others wait for. The server's own
/// calls wait for nobody, but anybody may ask whether it is ready: of these looks at the database
/// one runs at a time, for all who ask meanwhile.
pub(crate) struct FairStore {
    inner: Arc<dyn MetadataStore>,
    calls: Option<Shares>,
    reads: Option<Shares>,
    large: Option<Shares>,
    /// The turn of one look at the database after the other, and the number of those that succeeded.
    looking: tokio::sync::Mutex<()>,
    looks: AtomicU64,
}

impl FairStore {
    pub(crate) fn new(inner: Arc<dyn MetadataStore>) -> Self {
        let shares = |name, total: usize, waiting| {
            Shares::new(name, Bounds { total, per_user: total, of_free: OF_FREE, waiting })
        };
        let Capacity { calls, reads, large } = inner.capacity();
        Self {
            inner,
            calls: calls.map(|calls| shares("database_calls", calls, WAITING)),
            reads: reads.map(|reads| shares("database_reads", reads, WAITING)),
            large: large.map(|large| shares("large_transactions", large, LARGE_WAITING)),
            looking: tokio::sync::Mutex::default(),
            looks: AtomicU64::new(0),
        }
    }

    /// Looks whether the database answers, or shares the answer of a look that ended meanwhile.
    async fn look(&self, call: Call) -> Result<Reply, StoreError> {
        let before = self.looks.load(Ordering::SeqCst);
        let _turn = self.looking.lock().await;
        if self.looks.load(Ordering::SeqCst) != before {
            return Ok(Reply::Ping(()));
        }
        let reply = self.inner.call(call).await?;
        self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(reply)
    }

    /// Takes the caller's part of `shares`, if it is a user's call and they are shared.
    async fn share(
        shares: Option<&Shares>,
        patience: Duration,
    ) -> Result<Option<Share>, StoreError> {
        let caller = shares.and_then(|shares| Some((shares, CALLER.try_with(Clone::clone).ok()?)));
        let Some((shares, user)) = caller else { return Ok(None) };
        let share = shares.take(&user, 1, patience).await;
        Ok(Some(share.map_err(|_| StoreError::TooMany)?))
    }

    async fn in_turn(&self, call: Call) -> Result<Reply, StoreError> {
        if matches!(call, Call::Ping(_)) {
            return self.look(call).await;
        }
        let reads = call.reads();
        let shares = if reads { self.reads.as_ref() } else { None }.or(self.calls.as_ref());
        let share = Self::share(shares, PATIENCE).await?;
        if reads || self.large.is_none() {
            return self.inner.call(call).await;
        }
        let call = match self.inner.call_if_small(call).await? {
            Ok(reply) => return Ok(reply),
            Err(call) => call,
        };
        drop(share);
        let _turn = Self::share(self.large.as_ref(), LARGE_PATIENCE).await?;
        let _share = Self::share(shares, PATIENCE).await?;
        self.inner.call_large(call).await
    }
}

#[async_trait]
impl MetadataStore for FairStore {
    async fn call(&self, call: Call) -> Result<Reply, StoreError> {
        let span = traces::of_store(&call);
        let reply = self.in_turn(call).instrument(span.clone()).await;
        traces::replied(&span, &reply);
        reply
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn observe_heads(&self, observer: Weak<dyn HeadObserver>) {
        self.inner.observe_heads(observer);
    }

    async fn announce_heads(&self) -> Announcements {
        self.inner.announce_heads().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// A database that answers as often as it is let.
    struct Slow {
        answers: Semaphore,
        asked: AtomicU64,
    }

    #[async_trait]
    impl MetadataStore for Slow {
        async fn call(&self, call: Call) -> Result<Reply, StoreError> {
            assert!(matches!(call, Call::Ping(_)));
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.answers.acquire().await.unwrap().forget();
            Ok(Reply::Ping(()))
        }
    }

    #[tokio::test]
    async fn looks_at_the_database_share_an_answer_instead_of_taking_connections() {
        let slow = Arc::new(Slow { answers: Semaphore::new(0), asked: AtomicU64::new(0) });
        let store: Arc<dyn MetadataStore> = Arc::new(FairStore::new(slow.clone()));
        let asked = || slow.asked.load(Ordering::SeqCst);
        let mut looks: Vec<_> = (0..1_000).map(|_| Box::pin(store.ping())).collect();
        for look in &mut looks {
            assert!(futures::poll!(look).is_pending());
        }
        assert_eq!(asked(), 1);
        slow.answers.add_permits(1);
        for look in looks {
            look.await.unwrap();
        }
        assert_eq!(asked(), 1);
        slow.answers.add_permits(1);
        store.ping().await.unwrap();
        assert_eq!(asked(), 2, "a later one looks again");
    }
}
