//! Memory: ordered maps, one transaction at a time, nothing on a disk.

mod feeds;
mod locks;
mod maintenance;
mod members;
mod registers;
mod replicas;
mod stages;
mod state;
mod table;
mod transaction;
mod trash;
mod uploads;
mod versions;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::FutureExt as _;
use vfs_sync_core::time::Timestamp;

use crate::command::{Backend, Call, Command, MetadataStore, Reply};
use crate::error::{Result, StoreError};
use crate::served::{Served, went_back};
use state::State;
use transaction::MemoryTransaction;

/// The metadata in memory, gone with the last clone: for tests and for trying things out. Clones
/// are one store, as several servers have one database.
///
/// It decides and tells what the other back ends do. It never waits and starts no thread, and the
/// same calls leave it the same.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    served: Arc<Served>,
}

/// The contents of a [`MemoryStore`] at some moment: a backup.
#[derive(Clone)]
pub struct MemorySnapshot(State);

impl MemoryStore {
    /// An empty store; `now` begins its epoch.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(now))), served: Arc::default() }
    }

    /// A copy of all that it holds, to be [put back](Self::restore) or to begin
    /// [another store](Self::of_snapshot) with.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Puts a backup in the place of what it holds, for all its clones. What was acknowledged since
    /// is lost. Whoever has it is told so once an epoch has begun: at the next call that finds that
    /// the store went back, or by `new_epoch`.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.lock() = snapshot.0.clone();
    }

    /// A store of its own with what a backup holds.
    #[must_use]
    pub fn of_snapshot(snapshot: &MemorySnapshot) -> Self {
        Self { state: Arc::new(Mutex::new(snapshot.0.clone())), served: Arc::default() }
    }

    /// A panic left nothing half done: an open transaction is undone when it is dropped.
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
                tx.commit();
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
}
