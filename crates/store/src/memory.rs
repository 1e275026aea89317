//! The store in memory: ordered maps, one transaction at a time, no disk.

mod state;
mod table;
mod topics;
mod transaction;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use futures::FutureExt as _;
use vfs_sync_core::time::Timestamp;

use crate::backend::served::{Served, went_back};
use crate::command::{Backend, Call, Command, MetadataStore, Reply};
use crate::error::{Result, StoreError};
use crate::moves::{HeadObserver, Observers};
use state::State;
use transaction::MemoryTransaction;

/// The metadata in memory, which ends with the last clone: for tests and for experiments. Clones
/// share one store, as several servers share one database.
///
/// It makes the same decisions and returns the same answers as the other back ends. It never waits
/// and starts no thread, and the same calls always produce the same state.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    served: Arc<Served>,
    observers: Arc<Observers>,
}

/// The contents of a [`MemoryStore`] at one moment: a backup.
#[derive(Clone)]
pub struct MemorySnapshot(State);

impl MemoryStore {
    /// Creates an empty store whose first epoch begins at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self::of(State::new(now))
    }

    fn of(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        Self { state, served: Arc::default(), observers: Arc::default() }
    }

    /// Returns a copy of all contents, to be [restored](Self::restore) or to create [another
    /// store](Self::of_snapshot) from.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Replaces the contents by a backup, for all clones. Changes acknowledged since the backup are
    /// lost. Clients notice the loss once an epoch has begun: at the next call that finds the older
    /// state, or by `new_epoch`.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.lock() = snapshot.0.clone();
    }

    /// Creates an independent store with the contents of a backup.
    #[must_use]
    pub fn of_snapshot(snapshot: &MemorySnapshot) -> Self {
        Self::of(snapshot.0.clone())
    }

    /// Locks the state, also after a panic: an open transaction is undone when it is dropped, so
    /// none stays half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MemorySnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySnapshot").finish_non_exhaustive()
    }
}

impl Backend for MemoryStore {
    async fn reads<C: Command>(&self, command: C) -> Result<C::Answer> {
        self.writes(command).await
    }

    async fn writes<C: Command>(&self, command: C) -> Result<C::Answer> {
        let mut state = self.lock();
        let mut tx = MemoryTransaction::new(&mut state, &self.served);
        let waits = || Err(StoreError::Failed("a transaction in memory waits".into()));
        match command.run(&mut tx).now_or_never().unwrap_or_else(waits) {
            Err(StoreError::WentBack) => {
                drop(tx);
                state.begin_epoch(self.served.latest(), Timestamp::MIN, 0)?;
                state.commit();
                Err(went_back())
            }
            Err(error) => Err(error),
            Ok(answer) => {
                let moved = tx.commit();
                drop(state);
                self.observers.moved(&moved);
                Ok(answer)
            }
        }
    }
}

#[async_trait]
impl MetadataStore for MemoryStore {
    async fn call(&self, call: Call) -> Result<Reply> {
        call.run_on(self).await
    }

    fn observe_heads(&self, observer: Weak<dyn HeadObserver>) {
        self.observers.add(observer);
    }
}
