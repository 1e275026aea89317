//! An open transaction in memory. It never waits.

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::UserId;

use super::state::State;
use crate::served::Served;

/// An open transaction; its changes are undone when it is dropped, unless it was committed.
pub(super) struct MemoryTransaction<'s> {
    pub(super) state: &'s mut State,
    /// The states that were seen before, and when it began.
    pub(super) served: (&'s Served, u64),
    /// The heads that it wrote.
    pub(super) written: Vec<(UserId, u64)>,
    /// An epoch that it begins.
    pub(super) begun: Option<Epoch>,
}

impl<'s> MemoryTransaction<'s> {
    pub(super) fn new(state: &'s mut State, served: &'s Served) -> Self {
        let served = (served, served.now());
        Self { state, served, written: Vec::new(), begun: None }
    }

    pub(super) fn commit(mut self) {
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
    }
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        self.state.rollback();
    }
}
