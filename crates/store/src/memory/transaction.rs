//! An open transaction in memory. It never waits.

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::UserId;

use super::state::State;
use crate::backend::served::Served;
use crate::moves::MovedHead;

/// An open transaction in memory. Its changes are undone when it is dropped uncommitted.
pub(super) struct MemoryTransaction<'s> {
    pub(super) state: &'s mut State,
    /// The states seen by earlier transactions, and the tick at which this one began.
    pub(super) served: (&'s Served, u64),
    /// The heads that the transaction wrote.
    pub(super) written: Vec<(UserId, u64)>,
    /// The heads that the transaction moves.
    pub(super) moved: Vec<MovedHead>,
    /// The epoch that the transaction begins, if any.
    pub(super) begun: Option<Epoch>,
}

impl<'s> MemoryTransaction<'s> {
    pub(super) fn new(state: &'s mut State, served: &'s Served) -> Self {
        let served = (served, served.now());
        Self { state, served, written: Vec::new(), moved: Vec::new(), begun: None }
    }

    /// Commits the transaction; returns the heads that it moved.
    pub(super) fn commit(mut self) -> Vec<MovedHead> {
        self.state.commit();
        let (served, _) = self.served;
        if let Some(epoch) = self.begun.take() {
            served.begin(epoch);
        }
        let written = std::mem::take(&mut self.written);
        if let Ok(present) = self.state.present_epoch() {
            for (user, counter) in written {
                served.note(&user, counter, present);
            }
        }
        std::mem::take(&mut self.moved)
    }
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        self.state.rollback();
    }
}
