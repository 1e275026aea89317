//! The calls that a transport received.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vfs_sync_client::transport::{Call, CallKind, PullQuery};
use vfs_sync_core::id::{BlobId, StagingId};
use vfs_sync_core::wire::{PushRequest, ReconcileRequest};

/// The calls of a transport, in the order in which they were made; uploads are recorded without
/// their bytes.
#[derive(Default)]
pub struct Record(Mutex<Vec<(Option<String>, Call)>>);

impl Record {
    fn all(&self) -> MutexGuard<'_, Vec<(Option<String>, Call)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, phase: Option<String>, call: &Call) {
        self.all().push((phase, without_data(call)));
    }

    fn each<T>(&self, of: impl FnMut(&(Option<String>, Call)) -> Option<T>) -> Vec<T> {
        self.all().iter().filter_map(of).collect()
    }

    /// Returns all recorded calls.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.each(|(_, call)| Some(without_data(call)))
    }

    /// Returns the kinds of the calls that were made in a phase of a script.
    #[must_use]
    pub fn in_phase(&self, phase: &str) -> Vec<CallKind> {
        self.each(|(of, call)| (of.as_deref() == Some(phase)).then(|| call.kind()))
    }

    /// Counts the calls of a kind.
    #[must_use]
    pub fn count(&self, kind: CallKind) -> usize {
        self.all().iter().filter(|(_, call)| call.kind() == kind).count()
    }

    /// Returns the requests of pushes.
    #[must_use]
    pub fn pushed(&self) -> Vec<PushRequest> {
        self.each(|(_, call)| match call {
            Call::Push(request) => Some(request.clone()),
            _ => None,
        })
    }

    /// Returns the queries of pulls.
    #[must_use]
    pub fn pulled(&self) -> Vec<PullQuery> {
        self.each(|(_, call)| match call {
            Call::Pull(query) => Some(query.clone()),
            _ => None,
        })
    }

    /// Returns the requests of reconciles.
    #[must_use]
    pub fn reconciled(&self) -> Vec<ReconcileRequest> {
        self.each(|(_, call)| match call {
            Call::Reconcile(request) => Some(request.clone()),
            _ => None,
        })
    }

    /// Returns the downloads: each blob, and the byte at which the download began.
    #[must_use]
    pub fn downloaded(&self) -> Vec<(BlobId, u64)> {
        self.each(|(_, call)| match call {
            Call::Download { blob_id, offset } => Some((blob_id.clone(), *offset)),
            _ => None,
        })
    }

    /// Returns the parts of uploads: each stage, and the offset of the part.
    #[must_use]
    pub fn appended(&self) -> Vec<(StagingId, u64)> {
        self.each(|(_, call)| match call {
            Call::Append { staging_id, offset, .. } => Some((staging_id.clone(), *offset)),
            _ => None,
        })
    }
}

/// Copies a call without the bytes to upload.
pub(crate) fn without_data(call: &Call) -> Call {
    call.with_data(Box::pin(futures::stream::empty()))
}
