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
    match call {
        Call::Push(request) => Call::Push(request.clone()),
        Call::Pull(query) => Call::Pull(query.clone()),
        Call::Reconcile(request) => Call::Reconcile(request.clone()),
        Call::State(client_id) => Call::State(client_id.clone()),
        Call::Limits => Call::Limits,
        Call::Stage(request) => Call::Stage(request.clone()),
        Call::Upload { staging_id, size, digest, .. } => Call::Upload {
            staging_id: staging_id.clone(),
            size: *size,
            digest: *digest,
            data: Box::pin(futures::stream::empty()),
        },
        Call::StageState(staging_id) => Call::StageState(staging_id.clone()),
        Call::OpenUpload { stage, size } => Call::OpenUpload { stage: stage.clone(), size: *size },
        Call::Append { staging_id, offset, size, .. } => Call::Append {
            staging_id: staging_id.clone(),
            offset: *offset,
            size: *size,
            data: Box::pin(futures::stream::empty()),
        },
        Call::Attach { staging_id, request } => {
            Call::Attach { staging_id: staging_id.clone(), request: request.clone() }
        }
        Call::BlobBatch(files) => Call::BlobBatch(files.clone()),
        Call::Versions(item_id) => Call::Versions(item_id.clone()),
        Call::Trash { cursor, limit } => Call::Trash { cursor: cursor.clone(), limit: *limit },
        Call::Restore { item_id, recursive } => {
            Call::Restore { item_id: item_id.clone(), recursive: *recursive }
        }
        Call::Purge { item_id, recursive } => {
            Call::Purge { item_id: item_id.clone(), recursive: *recursive }
        }
        Call::ReadBlobs(blobs) => Call::ReadBlobs(blobs.clone()),
        Call::Download { blob_id, offset } => {
            Call::Download { blob_id: blob_id.clone(), offset: *offset }
        }
        Call::Events(client_id) => Call::Events(client_id.clone()),
        Call::Telemetry(request) => Call::Telemetry(request.clone()),
    }
}
