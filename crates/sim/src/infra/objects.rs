//! The object store: in memory, with faults, and as strict as its contract permits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use sha2::{Digest as _, Sha256};
use vfs_sync_blobs::{
    BlobError, BlobOperation, BlobStore, Listing, Object, Outgoing, PutError, Stored, Upload,
};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

use crate::infra::process::Process;
use crate::oracle::ledger::Ledger;

/// The size of a part in bytes: so small that small contents have several parts.
const PART: usize = 64;

/// The object store of all servers. Clones are cheap and share it.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    state: Arc<Mutex<State>>,
    /// The number of failing calls in 1,000.
    pub(crate) faults: Arc<AtomicU32>,
    handles: Arc<AtomicU64>,
    forgets: bool,
}

/// The blobs of an object store at one moment.
pub(crate) struct ObjectsCopy(BTreeMap<BlobId, Bytes>);

#[derive(Default)]
struct State {
    blobs: BTreeMap<BlobId, Bytes>,
    uploads: BTreeMap<String, Parts>,
    removed: BTreeSet<BlobId>,
}

#[derive(Default)]
struct Parts {
    parts: BTreeMap<u32, Bytes>,
    tails: BTreeMap<String, Bytes>,
}

pub(crate) fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

impl Objects {
    /// Creates an object store; with `forgets` it accepts everything and keeps nothing.
    pub(crate) fn new(forgets: bool) -> Self {
        Self { forgets, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes of a blob, for the checkers.
    pub(crate) fn peek(&self, id: &BlobId) -> Option<Bytes> {
        self.state().blobs.get(id).cloned()
    }

    /// Returns whether the bytes of a blob were ever removed.
    pub(crate) fn were_removed(&self, id: &BlobId) -> bool {
        self.state().removed.contains(id)
    }

    /// Returns a copy of the blobs.
    pub(crate) fn copy(&self) -> ObjectsCopy {
        ObjectsCopy(self.state().blobs.clone())
    }

    /// Restores the objects of a copy; later ones stay.
    pub(crate) fn put_back(&self, copy: &ObjectsCopy) {
        let mut state = self.state();
        for (id, bytes) in &copy.0 {
            state.blobs.entry(id.clone()).or_insert_with(|| bytes.clone());
        }
    }

    /// Returns the store as a server process reaches it.
    pub(crate) fn of_process(&self, ledger: Ledger, process: Arc<Process>) -> ProcessObjects {
        ProcessObjects { objects: self.clone(), ledger, process }
    }

    fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError> {
        let mut state = self.state();
        match state.blobs.get(id) {
            Some(there) if *there != bytes => Err(PutError::Differs),
            _ if self.forgets => Ok(()),
            _ => {
                state.blobs.insert(id.clone(), bytes);
                Ok(())
            }
        }
    }
}

pub(crate) struct ProcessObjects {
    objects: Objects,
    ledger: Ledger,
    process: Arc<Process>,
}

const CODES: [(&str, &str); 5] = [
    ("ServiceUnavailable", "objects: ServiceUnavailable"),
    ("SlowDown", "objects: SlowDown"),
    ("InternalError", "objects: InternalError"),
    ("AccessDenied", "objects: AccessDenied"),
    ("NoSuchKey", "objects: NoSuchKey"),
];

impl ProcessObjects {
    fn fails(&self) -> bool {
        let often = self.objects.faults.load(Ordering::Relaxed);
        often > 0 && self.process.below(1_000) < usize::try_from(often).unwrap_or(0)
    }

    /// Runs before an operation: it may fail with one of the store's codes.
    async fn before(&self, operation: BlobOperation) -> Result<(), BlobError> {
        self.process.moment().await;
        if self.fails() {
            // Only reading finds that something is missing.
            let codes = if operation == BlobOperation::Read { 5 } else { 4 };
            let (code, name) = CODES[self.process.below(codes)];
            self.ledger.fault(name, || format!("{operation}"));
            return Err(BlobError::new(operation, code, "simulated"));
        }
        Ok(())
    }

    /// Runs after an operation: its answer may be lost.
    async fn after(&self, operation: BlobOperation) -> Result<(), BlobError> {
        if self.fails() {
            self.ledger.fault("objects: done, answer lost", || format!("{operation}"));
            return Err(BlobError::new(operation, "ServiceUnavailable", "simulated"));
        }
        self.process.moment().await;
        Ok(())
    }
}

#[async_trait]
impl BlobStore for ProcessObjects {
    async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), PutError> {
        self.before(BlobOperation::Persist).await?;
        self.objects.put(id, bytes)?;
        self.after(BlobOperation::Persist).await?;
        Ok(())
    }

    async fn begin(&self, _: &BlobId) -> Result<String, BlobError> {
        self.before(BlobOperation::Persist).await?;
        let name = format!("u{}", self.objects.handles.fetch_add(1, Ordering::Relaxed));
        self.objects.state().uploads.insert(name.clone(), Parts::default());
        self.after(BlobOperation::Persist).await?;
        Ok(name)
    }

    async fn take_up(&self, id: &BlobId, upload: &str) -> Result<Box<dyn Upload>, BlobError> {
        self.before(BlobOperation::Persist).await?;
        Ok(Box::new(ProcessUpload {
            store: self.objects.of_process(self.ledger.clone(), Arc::clone(&self.process)),
            id: id.clone(),
            name: upload.to_owned(),
        }))
    }

    async fn abort(&self, _: &BlobId, upload: &str) -> Result<(), BlobError> {
        self.before(BlobOperation::Delete).await?;
        self.objects.state().uploads.remove(upload);
        self.after(BlobOperation::Delete).await
    }

    fn part_size(&self, _: u32) -> usize {
        PART
    }

    fn max_size(&self) -> u64 {
        1 << 30
    }

    async fn get(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Outgoing, BlobError> {
        self.before(BlobOperation::Read).await?;
        let missing = || BlobError::new(BlobOperation::Read, "NoSuchKey", "no such object");
        let mut bytes = self.objects.peek(id).ok_or_else(missing)?;
        if let Some(range) = range {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
            bytes = bytes.slice(at(range.start)..at(range.end));
        }
        if self.fails() {
            self.ledger.fault("objects: cut while reading", || id.to_string());
            let half = bytes.slice(..bytes.len() / 2);
            let cut = BlobError::new(BlobOperation::Read, "InternalError", "simulated: cut");
            return Ok(stream::iter([Ok(half), Err(cut)]).boxed());
        }
        Ok(stream::iter([Ok(bytes)]).boxed())
    }

    async fn delete(&self, id: &BlobId) -> Result<(), BlobError> {
        self.before(BlobOperation::Delete).await?;
        {
            let mut state = self.objects.state();
            state.blobs.remove(id);
            state.removed.insert(id.clone());
        }
        self.after(BlobOperation::Delete).await
    }

    fn list(&self) -> Listing {
        let object = |(id, bytes): (&BlobId, &Bytes)| {
            let name = vfs_sync_blobs::key::object_name(id);
            Ok(Object { name, size: bytes.len() as u64, modified: 0 })
        };
        let all: Vec<_> = self.objects.state().blobs.iter().map(object).collect();
        stream::iter(all).boxed()
    }

    fn list_temporary(&self) -> Listing {
        stream::empty().boxed()
    }

    async fn remove(&self, name: &str) -> Result<(), BlobError> {
        let mut state = self.objects.state();
        state.blobs.retain(|id, _| vfs_sync_blobs::key::object_name(id) != name);
        Ok(())
    }

    async fn probe(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

struct ProcessUpload {
    store: ProcessObjects,
    id: BlobId,
    name: String,
}

impl ProcessUpload {
    fn change<T>(&self, change: impl FnOnce(&mut Parts) -> T) -> Result<T, BlobError> {
        let mut state = self.store.objects.state();
        state.uploads.get_mut(&self.name).map(change).ok_or_else(gone)
    }
}

fn gone() -> BlobError {
    BlobError::new(BlobOperation::Persist, "NoSuchUpload", "the upload is over")
}

#[async_trait]
impl Upload for ProcessUpload {
    async fn write_part(&self, number: u32, _: u64, bytes: Bytes) -> Result<String, BlobError> {
        self.store.before(BlobOperation::Persist).await?;
        self.change(|upload| upload.parts.insert(number, bytes))?;
        self.store.after(BlobOperation::Persist).await?;
        Ok(number.to_string())
    }

    async fn write_tail(&self, start: u64, tail: Bytes) -> Result<String, BlobError> {
        self.store.before(BlobOperation::Persist).await?;
        let name = format!("{start}+{}", tail.len());
        self.change(|upload| upload.tails.insert(name.clone(), tail))?;
        self.store.after(BlobOperation::Persist).await?;
        Ok(name)
    }

    async fn read_tail(&self, name: &str, _: u64, length: usize) -> Result<Bytes, BlobError> {
        self.store.before(BlobOperation::Read).await?;
        let state = self.store.objects.state();
        let upload = state.uploads.get(&self.name).ok_or_else(gone)?;
        let tail = upload.tails.get(name).filter(|tail| tail.len() >= length).ok_or_else(gone)?;
        Ok(tail.slice(..length))
    }

    async fn finish(&self, parts: Vec<String>, stored: Stored) -> Result<(), PutError> {
        self.store.before(BlobOperation::Persist).await?;
        let mut whole = Vec::new();
        {
            let state = self.store.objects.state();
            let there = state.blobs.get(&self.id);
            if let Some(there) = there.filter(|_| !state.uploads.contains_key(&self.name)) {
                return if digest(there) == stored.digest {
                    Ok(())
                } else {
                    Err(PutError::Differs)
                };
            }
            let upload = state.uploads.get(&self.name).ok_or_else(gone)?;
            for part in &parts {
                let number = part.parse().map_err(|_| gone())?;
                whole.extend_from_slice(upload.parts.get(&number).ok_or_else(gone)?);
            }
        }
        self.store.objects.put(&self.id, whole.into())?;
        self.store.after(BlobOperation::Persist).await?;
        Ok(())
    }
}
