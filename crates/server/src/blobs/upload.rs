//! Uploads in parts: bytes go to the object store part by part, and the registry records the
//! progress, so that an upload resumes after any interruption.
//!
//! A writer holds a lease, a name that the registry keeps with the upload. A later call takes the
//! lease over; the former holder notices at its next access to the registry, and stops.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vfs_sync_blobs::{BlobError, Stored, Upload, part_start};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{StagingId, UserId};
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::wire::{StageStatus, code};
use vfs_sync_store::{
    Advance, NewUpload, OverQuota, UploadAccess, UploadAnswer, UploadReplacement, UploadRow,
};

use crate::admission::shares::Share;
use crate::blobs::reclaim;
use crate::blobs::stage::MAX_AT_ONCE;
use crate::error::{ApiError, upload_differs};
use crate::http::body::{Incoming, Received};
use crate::state::App;

/// The number of parts in flight to the store at one time; memory holds these and one more.
const PARTS_IN_FLIGHT: usize = 2;
/// The number of bytes after which progress is recorded in the registry.
const TOLD_EVERY: u64 = 32 * 1024 * 1024;
/// The number of bytes that are counted ahead where nobody knows how many will come.
const COUNTED_AHEAD: u64 = 32 * 1024 * 1024;
/// The number of bytes after which other requests have their turn: hashing them takes a millisecond.
const TURN: usize = 256 * 1024;
/// The interval at which an upload that waits for bytes checks its lease.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Returns the error for an upload that may not continue.
pub(crate) async fn refused(app: &App, user: &UserId, access: UploadAccess) -> ApiError {
    match access {
        UploadAccess::Unknown => ApiError::unknown_stage(),
        UploadAccess::Over(row) => over(&row),
        // Completed by another call: a repetition gets whether these were its bytes.
        UploadAccess::Lost | UploadAccess::Complete(_) => superseded(),
        UploadAccess::OverQuota(over) => over_quota(app, user, over).await,
        UploadAccess::Open(..) => ApiError::internal(),
    }
}

pub(crate) fn over(stage: &StageRow) -> ApiError {
    if stage.status == StageStatus::Staged {
        return ApiError::conflict(code::STAGE_EXPIRED, "The stage has expired");
    }
    ApiError::conflict(code::STAGE_NOT_ATTACHABLE, "The stage takes no more bytes")
        .with("status", stage.status.as_str())
}

fn superseded() -> ApiError {
    ApiError::conflict(code::UPLOAD_SUPERSEDED, "Another call took the upload over")
}

/// Returns the error for an exhausted quota, with the bytes in the trash, which the user can free.
pub(crate) async fn over_quota(app: &App, user: &UserId, over: OverQuota) -> ApiError {
    metrics::counter!("vfs_sync_quota_exceeded_total", "limit" => over.limit).increment(1);
    let trashed = match app.store.trashed_bytes(user).await {
        Ok(trashed) => trashed,
        Err(error) => return error.into(),
    };
    let sentence = if trashed > 0 && over.limit == "maxStoredBytes" {
        "That would be more than the user may have; emptying the trash frees a part"
    } else {
        "That would be more than the user may have"
    };
    let status = http::StatusCode::PAYLOAD_TOO_LARGE;
    ApiError::new(status, code::QUOTA_EXCEEDED, sentence)
        .with("limit", over.limit)
        .with("max", over.max)
        .with("wanted", over.wanted)
        .with("trashedBytes", trashed)
}

/// An upload that this call writes to.
pub(crate) struct UploadWriter {
    app: App,
    user: UserId,
    stage: StageRow,
    upload: UploadRow,
    writer: Arc<dyn Upload>,
    /// Bytes of the part that is not full yet; `start` is the offset of the first.
    buffer: BytesMut,
    start: u64,
    /// The number of parts that are written or in flight.
    parts: u32,
    in_flight: VecDeque<JoinHandle<Result<String, BlobError>>>,
    /// Tags of parts that the registry does not have yet.
    new_parts: Vec<String>,
    /// True if writing a part failed: the received bytes are not all stored.
    lacks_a_part: bool,
    /// The offset that the registry has recorded.
    told: u64,
    hash: Sha256,
    size: u64,
    /// True if progress is recorded before the end of the upload.
    tells: bool,
    /// Bytes that count against the user's quota: no byte beyond them is written.
    counted: u64,
    /// Bytes that the call announced, if it did.
    announced: Option<u64>,
    /// Bytes that came by this call.
    came: usize,
    /// The memory for what came, and for the part that was not full before.
    memory: Received,
    /// The place among large uploads, from the moment at which more came than is held at once.
    place: Option<Share>,
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        for part in &self.in_flight {
            part.abort();
        }
    }
}

impl UploadWriter {
    /// Takes over the upload at its recorded offset, or restarts it: then earlier bytes are
    /// discarded and nothing is recorded before the end.
    pub(crate) async fn take(
        app: &App,
        user: &UserId,
        staging_id: &StagingId,
        anew: bool,
    ) -> Result<Self, ApiError> {
        let (stage, upload) = loop {
            if let Some(claimed) = Self::claim(app, user, staging_id, anew).await? {
                break claimed;
            }
        };
        let handle = upload.handle.clone().ok_or_else(ApiError::internal)?;
        let writer: Arc<dyn Upload> = app.blobs.take_up(&stage.blob_id, &handle).await?.into();
        let complete = upload.length == Some(upload.received);
        let start = part_start(&*app.blobs, upload.parts);
        let mut buffer = BytesMut::new();
        let mut memory = app.received(user)?;
        if !complete && upload.received > start {
            let length = usize::try_from(upload.received - start).unwrap_or(usize::MAX);
            memory.add(length)?;
            buffer.extend_from_slice(&writer.read_tail(&upload.tail, start, length).await?);
        }
        Ok(Self {
            app: app.clone(),
            user: user.clone(),
            buffer,
            start,
            parts: upload.parts,
            in_flight: VecDeque::new(),
            new_parts: Vec::new(),
            lacks_a_part: false,
            told: upload.received,
            hash: hash_of(&upload)?,
            size: upload.received,
            tells: true,
            counted: upload.length.unwrap_or(0).max(upload.received),
            announced: None,
            came: 0,
            memory,
            place: None,
            writer,
            stage,
            upload,
        })
    }

    /// Claims the upload for this call. Returns `None` if another call restarted it at the same
    /// time; the other call then finishes it.
    async fn claim(
        app: &App,
        user: &UserId,
        staging_id: &StagingId,
        anew: bool,
    ) -> Result<Option<(StageRow, UploadRow)>, ApiError> {
        let access = app.store.upload(user, staging_id, app.now()).await?;
        let UploadAccess::Open(stage, before) = access else {
            return Err(refused(app, user, access).await);
        };
        let lease = app.environment.new_name();
        let anew = if anew || before.received == 0 || before.handle.is_none() {
            // The previous writer can then no longer complete a blob from it.
            if let Some(old) = &before.handle {
                app.blobs.abort(&stage.blob_id, old).await?;
            }
            let handle = app.blobs.begin(&stage.blob_id).await?;
            Some(UploadReplacement { handle, instead_of: before.handle })
        } else {
            None
        };
        let claimed =
            app.store.claim_upload(user, staging_id, &lease, anew.clone(), app.now()).await;
        if let Ok(UploadAccess::Open(stage, upload)) = claimed {
            return Ok(Some((stage, upload)));
        }
        if let Some(anew) = &anew {
            app.blobs.abort(&stage.blob_id, &anew.handle).await?;
        }
        match claimed? {
            UploadAccess::Lost => Ok(None),
            access => Err(refused(app, user, access).await),
        }
    }

    /// Drops the expected length of the upload.
    pub(crate) fn of_any_length(mut self) -> Self {
        self.upload.length = None;
        self
    }

    /// Names the bytes that will come, and those that count already.
    pub(crate) fn announced(mut self, bytes: Option<u64>, counted: u64) -> Self {
        self.announced = bytes;
        self.counted = self.counted.max(counted);
        self
    }

    /// Records nothing before all bytes have arrived: they count as a whole or not at all.
    pub(crate) fn whole(mut self) -> Self {
        self.tells = false;
        self
    }

    /// The number of bytes received so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The total number of bytes, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.upload.length
    }

    /// Sets the total number of bytes.
    pub(crate) fn set_length(&mut self, length: u64) {
        self.upload.length = Some(length);
    }

    /// Receives all bytes of the stream, and keeps those that arrived before an error.
    pub(crate) async fn receive(
        &mut self,
        bytes: &mut Incoming,
        mut seen: impl FnMut(&[u8]) + Send,
    ) -> Result<(), ApiError> {
        // Chunks come in thousands: the timer is set again only when it ends.
        let mut alarm = std::pin::pin!(tokio::time::sleep(HEARTBEAT));
        let mut next_look = alarm.deadline();
        let mut since_turn = 0_usize;
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = bytes.next() => chunk,
                () = &mut alarm => {
                    if alarm.deadline() >= next_look {
                        self.check_lease().await?;
                        next_look = Instant::now() + HEARTBEAT;
                    }
                    alarm.as_mut().reset(next_look);
                    continue;
                }
            };
            next_look = Instant::now() + HEARTBEAT;
            match chunk {
                None => return Ok(()),
                Some(Ok(chunk)) => {
                    seen(&chunk);
                    since_turn += chunk.len();
                    self.push(chunk).await?;
                    if since_turn >= TURN {
                        since_turn = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Some(Err(error)) => return Err(crate::error::broken_source(&error)),
            }
        }
    }

    async fn check_lease(&self) -> Result<(), ApiError> {
        let (id, lease) = (&self.stage.staging_id, &self.upload.lease);
        if self.app.store.holds_upload(&self.user, id, lease, self.app.now()).await? {
            return Ok(());
        }
        Err(superseded())
    }

    /// Returns the reason of a failure. If the store no longer knows the upload, another call has
    /// taken it over, or is about to.
    pub(crate) async fn why(&self, error: ApiError) -> ApiError {
        if error.code != code::BLOB_STORE_ERROR {
            return error;
        }
        let storage_code = error.details.get("storageCode").and_then(|code| code.as_str());
        let aborted = matches!(storage_code, Some("NoSuchUpload" | "NoSuchKey"));
        match self.check_lease().await {
            Ok(()) if !aborted => error,
            Ok(()) => superseded(),
            Err(superseded) => superseded,
        }
    }

    /// Appends bytes to the upload.
    pub(crate) async fn push(&mut self, mut chunk: Bytes) -> Result<(), ApiError> {
        let after = self.size + chunk.len() as u64;
        if let Some(length) = self.upload.length.filter(|length| after > *length) {
            let sentence = format!("The upload has {length} bytes in total, but more arrived");
            return Err(ApiError::too_large(sentence).with("length", length));
        }
        let max = self.app.max_blob_bytes();
        if after > max {
            return Err(too_large(max));
        }
        self.make_room(chunk.len()).await?;
        let turn = self.app.upload_turns.acquire().await;
        self.hash.update(&chunk);
        drop(turn);
        self.size = after;
        while !chunk.is_empty() {
            let size = self.app.blobs.part_size(self.parts);
            if self.buffer.is_empty() && self.place.is_some() {
                // A buffer that grows with each chunk is copied several times.
                self.buffer.reserve(size);
            }
            let missing = size - self.buffer.len();
            let taken = chunk.split_to(missing.min(chunk.len()));
            self.buffer.extend_from_slice(&taken);
            if self.buffer.len() == size {
                self.send_part().await?;
            }
        }
        if self.tells && self.size - self.told >= TOLD_EVERY {
            self.tell().await?;
        }
        Ok(())
    }

    /// Counts bytes that came against the user's memory; a call that brings many takes a place for
    /// large uploads instead.
    async fn make_room(&mut self, bytes: usize) -> Result<(), ApiError> {
        if self.place.is_some() {
            return Ok(());
        }
        self.came = self.came.saturating_add(bytes);
        if self.came <= MAX_AT_ONCE {
            return self.memory.add(bytes);
        }
        self.place = Some(self.app.upload_share(&self.user).await?);
        self.memory = self.app.received(&self.user)?;
        Ok(())
    }

    /// Counts `bytes` against the user's quota before they are written: all that was announced, or
    /// some ahead, so that it is done seldom.
    async fn count(&mut self, bytes: u64) -> Result<(), ApiError> {
        if bytes <= self.counted {
            return Ok(());
        }
        let announced = self.announced.filter(|announced| *announced >= bytes);
        let tries = match announced {
            Some(announced) => [announced, announced],
            None => [bytes.saturating_add(COUNTED_AHEAD), bytes],
        };
        let (id, quota) = (&self.stage.staging_id, self.app.config.quota());
        for wanted in tries {
            let now = self.app.now();
            match self.app.store.reserve_upload(&self.user, id, wanted, &quota, now).await? {
                UploadAccess::Open(..) => {
                    self.counted = wanted;
                    return Ok(());
                }
                UploadAccess::OverQuota(_) if wanted != tries[1] => {}
                access => return Err(refused(&self.app, &self.user, access).await),
            }
        }
        Err(ApiError::internal())
    }

    async fn send_part(&mut self) -> Result<(), ApiError> {
        self.count(self.start + self.buffer.len() as u64).await?;
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.one_written().await?;
        }
        let bytes = std::mem::take(&mut self.buffer).freeze();
        let (number, start, writer) = (self.parts, self.start, Arc::clone(&self.writer));
        self.parts += 1;
        self.start += bytes.len() as u64;
        let write = async move { writer.write_part(number, start, bytes).await };
        self.in_flight.push_back(tokio::spawn(write));
        Ok(())
    }

    async fn one_written(&mut self) -> Result<(), ApiError> {
        let Some(part) = self.in_flight.front_mut() else { return Ok(()) };
        let written = part.await;
        self.in_flight.pop_front();
        match written.map_err(|_| ApiError::internal()).and_then(|written| Ok(written?)) {
            Ok(tag) => {
                self.new_parts.push(tag);
                Ok(())
            }
            Err(error) => {
                self.lacks_a_part = true;
                Err(error)
            }
        }
    }

    async fn all_written(&mut self) -> Result<(), ApiError> {
        while !self.in_flight.is_empty() {
            self.one_written().await?;
        }
        Ok(())
    }

    /// Returns whether the received bytes can be made durable: not after writing a part has failed.
    pub(crate) fn can_tell(&self) -> bool {
        !self.lacks_a_part
    }

    /// Waits for the parts in flight, so that no byte is written after the answer of a call.
    pub(crate) async fn settle(&mut self) {
        for part in self.in_flight.drain(..) {
            // Whatever became of it, it is over.
            let _ = part.await;
        }
    }

    /// Makes the received bytes durable and records the offset in the registry.
    pub(crate) async fn tell(&mut self) -> Result<(), ApiError> {
        self.count(self.size).await?;
        self.all_written().await?;
        let tail = self.buffer.clone().freeze();
        let tail = self.writer.write_tail(self.start, tail).await?;
        self.advance(tail).await
    }

    async fn advance(&mut self, tail: String) -> Result<(), ApiError> {
        let advance = Advance {
            received: self.size,
            parts: self.parts,
            new_parts: self.new_parts.clone(),
            tail,
            hash: self.hash.serialize().to_vec(),
            length: self.upload.length,
        };
        let (store, config) = (&self.app.store, &self.app.config);
        let (id, lease) = (&self.stage.staging_id, &self.upload.lease);
        let quota = config.quota();
        let access =
            store.advance_upload(&self.user, id, lease, &advance, &quota, self.app.now()).await?;
        let UploadAccess::Open(..) = access else {
            return Err(refused(&self.app, &self.user, access).await);
        };
        self.told = self.size;
        self.counted = self.upload.length.unwrap_or(0).max(self.size);
        self.new_parts.clear();
        Ok(())
    }

    /// Discards what came by this call, of which nothing was recorded, and what was counted for it.
    pub(crate) async fn discard(&mut self) {
        self.settle().await;
        match self.writer.cut(self.upload.received).await {
            Ok(true) => {}
            // It goes on counting until the upload is completed or ended.
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(%error, "bytes of a refused call could not be discarded");
            }
        }
        let before = &self.upload;
        let before = Advance {
            received: before.received,
            parts: before.parts,
            new_parts: Vec::new(),
            tail: before.tail.clone(),
            hash: before.hash.clone(),
            // The one that was recorded stays, not one that came with this call.
            length: None,
        };
        self.advance_to(&before).await;
    }

    /// Records a state of the upload whose bytes are there; what fails is left to the stage's end.
    async fn advance_to(&self, advance: &Advance) {
        let (id, lease, quota) =
            (&self.stage.staging_id, &self.upload.lease, self.app.config.quota());
        let told =
            self.app.store.advance_upload(&self.user, id, lease, advance, &quota, self.app.now());
        if let Err(error) = told.await {
            tracing::warn!(%error, "the end of an upload could not be recorded in the registry");
        }
    }

    pub(crate) fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// Completes the blob of the upload. The registry first records that all bytes have arrived, so that any
    /// server can repeat the rest.
    pub(crate) async fn finish(&mut self) -> Result<Stored, ApiError> {
        let stored = Stored { size: self.size, digest: self.digest() };
        if self.told != self.size || self.upload.length != Some(self.size) {
            self.upload.length = Some(self.size);
            if !self.buffer.is_empty() {
                self.send_part().await?;
            }
            self.all_written().await?;
            self.advance(String::new()).await?;
        } else if self.size == 0 {
            self.advance(String::new()).await?;
        }
        let parts = self.app.store.upload_parts(&self.stage.staging_id).await?;
        self.check_lease().await?;
        self.writer.finish(parts, stored).await?;
        let upload = NewUpload {
            size: stored.size,
            digest: stored.digest,
            lease: Some(self.upload.lease.clone()),
        };
        record(&self.app, &self.user, &self.stage, &upload).await?;
        Ok(stored)
    }

    /// Abandons the upload and removes its bytes.
    pub(crate) async fn give_up(mut self) {
        // A part that arrives after the abort would stay in the store, uncounted.
        self.settle().await;
        let Some(handle) = &self.upload.handle else { return };
        if let Err(error) = self.app.blobs.abort(&self.stage.blob_id, handle).await {
            // Its bytes go on counting.
            return tracing::warn!(%error, "an upload could not be aborted; the sweeper will abort it");
        }
        // Nobody may take it for one that has all its bytes.
        self.advance_to(&Advance::default()).await;
    }
}

fn hash_of(upload: &UploadRow) -> Result<Sha256, ApiError> {
    if upload.hash.is_empty() {
        return Ok(Sha256::new());
    }
    let malformed = || {
        tracing::error!("the digest's state of an upload is malformed");
        ApiError::internal()
    };
    let state = upload.hash.as_slice().try_into().map_err(|_| malformed())?;
    Sha256::deserialize(state).map_err(|_| malformed())
}

pub(crate) fn too_large(max: u64) -> ApiError {
    ApiError::too_large(format!("A blob has at most {max} bytes")).with("maxSize", max)
}

/// Records in the registry that the stage has its bytes, once they are stored.
///
/// A rejected call does not remove the bytes of a blob that is not deleted: another call may just
/// have registered the same bytes.
pub(crate) async fn record(
    app: &App,
    user: &UserId,
    stage: &StageRow,
    upload: &NewUpload,
) -> Result<(), ApiError> {
    let quota = app.config.quota();
    let recorded =
        app.store.record_upload(user, &stage.staging_id, upload, &quota, app.now()).await?;
    match recorded {
        UploadAnswer::Recorded { left_over, .. } => {
            if left_over {
                reclaim::leftovers(app, &stage.blob_id).await;
            }
            Ok(())
        }
        UploadAnswer::Over(row) => {
            // Bytes that arrived after the stage was abandoned belong to nobody. A stage that only
            // expired is for the sweeper to end: by another server's clock it may still be open for
            // a moment.
            if row.status == StageStatus::Abandoned {
                app.blobs.delete(&stage.blob_id).await?;
            }
            Err(over(&row))
        }
        UploadAnswer::Unknown => Err(ApiError::unknown_stage()),
        // The bytes were counted before they were written; a reservation that a concurrent call
        // reduced ends with the stage.
        UploadAnswer::OverQuota(over) => Err(over_quota(app, user, over).await),
        UploadAnswer::Lost => Err(superseded()),
        UploadAnswer::Differs(_) => Err(upload_differs()),
    }
}

/// Finishes an upload whose bytes are all stored, if its writer stopped just before completing it.
pub(crate) async fn finish_if_complete(
    app: &App,
    user: &UserId,
    staging_id: &StagingId,
    access: UploadAccess,
) -> Result<UploadAccess, ApiError> {
    match &access {
        UploadAccess::Open(_, upload) if upload.length == Some(upload.received) => {
            let finished = async {
                let mut session = UploadWriter::take(app, user, staging_id, false).await?;
                session.finish().await
            };
            let finished = finished.await;
            match app.store.upload(user, staging_id, app.now()).await? {
                // The upload is complete, no matter which call completed it.
                access @ UploadAccess::Complete(_) => Ok(access),
                access => finished.map(|_| access),
            }
        }
        _ => Ok(access),
    }
}
