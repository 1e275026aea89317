//! The life of a stage (opened, written to, complete, attached or abandoned), and the quota that
//! its bytes count against.
//!
//! Every decision is a function of the rows, read under their locks. It returns the rows to write,
//! or the reason why nothing changes.

use std::sync::Arc;

use crate::content::Sha256Digest;
use crate::id::{BlobId, StagingId, UserId};
use crate::time::Timestamp;
use crate::wire::{StageResponse, StageStatus};

/// A stage as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRow {
    /// The id of the stage.
    pub staging_id: StagingId,
    /// The user who staged the blob; for all others the stage does not exist.
    pub owner: UserId,
    /// The blob that the stage holds.
    pub blob_id: BlobId,
    /// The state of the stage.
    pub status: StageStatus,
    /// The time at which the stage was opened.
    pub staged_at: Timestamp,
    /// The time until which the stage can be attached.
    pub expires_at: Timestamp,
    /// The media type of the bytes, a hint for readers.
    pub content_type: Option<Arc<str>>,
    /// Size and digest, once the bytes are in the object store.
    pub uploaded: Option<(u64, Sha256Digest)>,
}

impl StageRow {
    /// Returns the stage in the form that the server sends to its owner.
    #[must_use]
    pub fn to_response(&self) -> StageResponse {
        StageResponse {
            staging_id: self.staging_id.clone(),
            blob_id: self.blob_id.clone(),
            status: self.status,
            staged_at: self.staged_at,
            expires_at: self.expires_at,
            size: self.uploaded.map(|(size, _)| size),
            digest: self.uploaded.map(|(_, digest)| digest),
            offset: None,
        }
    }
}

/// The state of a blob's bytes in the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobStatus {
    /// The bytes are stored, or will be.
    Live,
    /// The bytes are to be removed.
    Deleting,
    /// The bytes were removed; the id is not assigned again for a while.
    Deleted,
}

/// A stage with all data that decisions about it need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The row of the stage.
    pub row: StageRow,
    /// True if the client chose the expiry; a repetition must then name the same one.
    pub expiry_chosen: bool,
    /// The bytes that count against the quota of `charged`.
    pub reserved: u64,
    /// The user whom the bytes count against: the stager until they are attached, the item's owner
    /// from then on.
    pub charged: UserId,
    /// The state of the blob's bytes.
    pub blob_status: BlobStatus,
}

/// A request to open a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStage {
    /// The id of the stage.
    pub staging_id: StagingId,
    /// The blob that the stage is to hold.
    pub blob_id: BlobId,
    /// The time at which the stage expires.
    pub expires_at: Timestamp,
    /// True if the client chose `expires_at`; a repetition must then name the same time.
    pub expiry_chosen: bool,
    /// The media type of the bytes, a hint for readers.
    pub content_type: Option<String>,
    /// The number of bytes in the request, which count from now on; 0 if they follow later.
    pub size: u64,
}

/// An upload in parts, as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadRow {
    /// The object store's name of the upload; `None` before its first byte.
    pub handle: Option<String>,
    /// The lease of the process that writes to the upload.
    pub lease: String,
    /// The total number of bytes, if it is known.
    pub length: Option<u64>,
    /// The client's metadata, as the client sent it.
    pub metadata: Option<String>,
    /// The number of bytes that the object store holds durably.
    pub received: u64,
    /// The number of full parts among the received bytes.
    pub parts: u32,
    /// The object store's reference to the bytes after the last full part.
    pub tail: String,
    /// The digest's state after the received bytes.
    pub hash: Vec<u8>,
}

/// A new upload that replaces the one in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadReplacement {
    /// The object store's name of the new upload.
    pub handle: String,
    /// The name of the upload to replace; if the upload has another name by then, nothing changes.
    pub instead_of: Option<String>,
}

/// Progress of an upload in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advance {
    /// The number of bytes that the object store has now.
    pub received: u64,
    /// The number of full parts, including the new ones.
    pub parts: u32,
    /// The tags of the new parts, which are the last ones.
    pub new_parts: Vec<String>,
    /// The object store's reference to the bytes after the last full part.
    pub tail: String,
    /// The state of the digest after these bytes.
    pub hash: Vec<u8>,
    /// The total number of bytes, if it is known now.
    pub length: Option<u64>,
}

/// An upload that is complete in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUpload {
    /// The size of the upload in bytes.
    pub size: u64,
    /// The digest of the bytes.
    pub digest: Sha256Digest,
    /// The lease under which an upload in parts was written; `None` for any other upload.
    pub lease: Option<String>,
}

/// The bounds on a user's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The number of stored bytes, including staged ones.
    pub stored: u64,
    /// The number of bytes that are staged and not attached.
    pub staged: u64,
    /// The number of stages that are neither attached nor abandoned.
    pub open_stages: u64,
}

/// The sum of a user's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of stored bytes, including staged ones.
    pub stored: u64,
    /// The number of bytes that are staged and not attached.
    pub staged: u64,
    /// The number of stages that are neither attached nor abandoned.
    pub open_stages: u64,
}

/// The limit that a call would have exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    /// The name of the limit in [`crate::limits::BlobLimits`].
    pub limit: &'static str,
    /// The value of the limit.
    pub max: u64,
    /// The sum that the call would have reached.
    pub wanted: u64,
}

fn within(limit: &'static str, wanted: u64, max: u64) -> Result<(), OverQuota> {
    if wanted <= max { Ok(()) } else { Err(OverQuota { limit, max, wanted }) }
}

impl Usage {
    /// Returns the usage with a new stage of `bytes`.
    ///
    /// # Errors
    /// [`OverQuota`] names the first limit that would be exceeded.
    pub fn with_stage(self, bytes: u64, quota: &Quota) -> Result<Self, OverQuota> {
        let open_stages = self.open_stages.saturating_add(1);
        within("maxOpenStages", open_stages, quota.open_stages)?;
        Self { open_stages, ..self }.with_staged(bytes, quota)
    }

    fn with_staged(self, bytes: u64, quota: &Quota) -> Result<Self, OverQuota> {
        let stored = self.stored.saturating_add(bytes);
        let staged = self.staged.saturating_add(bytes);
        within("maxStoredBytes", stored, quota.stored)?;
        within("maxStagedBytes", staged, quota.staged)?;
        Ok(Self { stored, staged, ..self })
    }

    /// Returns the usage once a stage's reservation is `bytes` instead of `reserved`. A smaller
    /// reservation is never rejected, even if the limits are lower by now.
    ///
    /// # Errors
    /// [`OverQuota`] names the first limit that would be exceeded.
    pub fn with_reservation(
        self,
        reserved: u64,
        bytes: u64,
        quota: &Quota,
    ) -> Result<Self, OverQuota> {
        let without = Self {
            stored: self.stored.saturating_sub(reserved),
            staged: self.staged.saturating_sub(reserved),
            ..self
        };
        let unbounded = Quota { stored: u64::MAX, staged: u64::MAX, ..*quota };
        without.with_staged(bytes, if bytes < reserved { &unbounded } else { quota })
    }

    /// Returns the usage of the stager once an open stage of `reserved` bytes is attached. The
    /// bytes are no longer staged; they stay stored if the stager owns the item (`keeps`).
    #[must_use]
    pub fn without_attached(self, reserved: u64, keeps: bool) -> Self {
        Self {
            stored: if keeps { self.stored } else { self.stored.saturating_sub(reserved) },
            staged: self.staged.saturating_sub(reserved),
            open_stages: self.open_stages.saturating_sub(1),
        }
    }

    /// Returns the usage of an item's owner who receives `reserved` bytes that another user staged;
    /// `None` if this exceeds the owner's quota.
    #[must_use]
    pub fn with_received(self, reserved: u64, quota: &Quota) -> Option<Self> {
        let stored = self.stored.saturating_add(reserved);
        (stored <= quota.stored).then_some(Self { stored, ..self })
    }

    /// Returns the usage once an open stage of `reserved` bytes is abandoned.
    #[must_use]
    pub fn without_abandoned(self, reserved: u64) -> Self {
        self.without_attached(reserved, false)
    }

    /// Returns the usage once attached bytes are discarded.
    #[must_use]
    pub fn without_stored(self, reserved: u64) -> Self {
        Self { stored: self.stored.saturating_sub(reserved), ..self }
    }
}

/// The reasons why a stage takes no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotWritable {
    /// The stage already has its bytes.
    Complete,
    /// The stage is attached, abandoned or expired.
    Over,
}

/// The decision about a complete upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// The same bytes were recorded before.
    Repeated,
    /// The stage has other bytes already.
    Differs,
    /// The stage is attached, abandoned or expired.
    Over,
    /// Another process took over the upload.
    LeaseLost,
    /// The bytes are to be recorded.
    Record {
        /// True if the object store may have the remains of an upload in parts.
        left_over: bool,
    },
}

impl Stage {
    /// Returns the stage if `user` staged it; for all others it does not exist.
    #[must_use]
    pub fn of(self, user: &UserId) -> Option<Self> {
        Some(self).filter(|stage| stage.row.owner == *user)
    }

    /// Returns whether `request` by `user` repeats the one that opened the stage.
    #[must_use]
    pub fn is_repeated_by(&self, user: &UserId, request: &NewStage) -> bool {
        self.row.owner == *user
            && self.row.blob_id == request.blob_id
            && self.row.content_type.as_deref() == request.content_type.as_deref()
            && self.expiry_chosen == request.expiry_chosen
            && (!request.expiry_chosen || self.row.expires_at == request.expires_at)
    }

    /// Returns the bytes that a repetition of the opening request has to reserve: more than were
    /// counted, while the stage still waits for its bytes. `None` if it reserves nothing.
    #[must_use]
    pub fn to_reserve_again(&self, request: &NewStage) -> Option<u64> {
        let waits = self.row.uploaded.is_none() && self.row.status == StageStatus::Staged;
        (waits && request.size > self.reserved).then_some(request.size)
    }

    /// Checks that the stage takes bytes at `now`.
    ///
    /// # Errors
    /// [`NotWritable`] says why it takes none.
    pub fn check_writable(&self, now: Timestamp) -> Result<(), NotWritable> {
        if self.row.status != StageStatus::Abandoned && self.row.uploaded.is_some() {
            return Err(NotWritable::Complete);
        }
        if self.row.status != StageStatus::Staged || self.row.expires_at <= now {
            return Err(NotWritable::Over);
        }
        Ok(())
    }

    /// Decides how to record the complete `upload`; `parts` is the upload in parts in progress.
    #[must_use]
    pub fn record(
        &self,
        upload: &NewUpload,
        parts: Option<&UploadRow>,
        now: Timestamp,
    ) -> Recording {
        if self.row.status == StageStatus::Abandoned {
            return Recording::Over;
        }
        match self.row.uploaded {
            Some(before) if before == (upload.size, upload.digest) => return Recording::Repeated,
            Some(_) => return Recording::Differs,
            None => {}
        }
        if self.row.status != StageStatus::Staged || self.row.expires_at <= now {
            return Recording::Over;
        }
        if upload.lease.is_some() && parts.map(|parts| &parts.lease) != upload.lease.as_ref() {
            return Recording::LeaseLost;
        }
        Recording::Record { left_over: parts.is_some() }
    }
}

impl UploadRow {
    /// Adds the length and the metadata that a client names when it opens an upload. Values that
    /// are already set stay, and a length below the received bytes is ignored.
    #[must_use]
    pub fn opened(mut self, length: Option<u64>, metadata: Option<&str>) -> Self {
        self.length = self.length.or(length.filter(|length| *length >= self.received));
        self.metadata = self.metadata.or_else(|| metadata.map(str::to_owned));
        self
    }

    /// Transfers the upload to `lease`, which invalidates the previous holder. A `replacement`
    /// begins at byte 0; `None` if the upload to replace is no longer the one in progress.
    #[must_use]
    pub fn claimed(self, lease: &str, replacement: Option<&UploadReplacement>) -> Option<Self> {
        let lease = lease.to_owned();
        match replacement {
            None => Some(Self { lease, ..self }),
            Some(replacement) if replacement.instead_of != self.handle => None,
            Some(replacement) => Some(Self {
                handle: Some(replacement.handle.clone()),
                lease,
                length: self.length,
                metadata: self.metadata,
                ..Self::default()
            }),
        }
    }

    /// Returns the upload after `advance`, with the number of bytes that it has to reserve; `None`
    /// if another process holds the lease.
    #[must_use]
    pub fn advanced(self, lease: &str, advance: &Advance) -> Option<(Self, u64)> {
        if self.lease != lease {
            return None;
        }
        let length = advance.length.or(self.length);
        let reserve = length.unwrap_or(0).max(advance.received);
        let upload = Self {
            length,
            received: advance.received,
            parts: advance.parts,
            tail: advance.tail.clone(),
            hash: advance.hash.clone(),
            ..self
        };
        Some((upload, reserve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { stored: 100, staged: 50, open_stages: 2 };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn digest(last: char) -> Sha256Digest {
        Sha256Digest::parse(&format!("{}{last}", "0".repeat(63))).unwrap()
    }

    fn stage() -> Stage {
        let user = UserId::new("alice").unwrap();
        Stage {
            row: StageRow {
                staging_id: StagingId::new("s").unwrap(),
                owner: user.clone(),
                blob_id: BlobId::new("b").unwrap(),
                status: StageStatus::Staged,
                staged_at: at(0),
                expires_at: at(1_000),
                content_type: None,
                uploaded: None,
            },
            expiry_chosen: false,
            reserved: 10,
            charged: user,
            blob_status: BlobStatus::Live,
        }
    }

    fn upload(lease: Option<&str>) -> NewUpload {
        NewUpload { size: 3, digest: digest('1'), lease: lease.map(str::to_owned) }
    }

    #[test]
    fn a_quota_is_passed_by_one_and_kept_to_the_last_byte() {
        let usage = Usage { stored: 90, staged: 40, open_stages: 1 };
        let full = Usage { stored: 100, staged: 50, open_stages: 2 };
        assert_eq!(usage.with_stage(10, &QUOTA), Ok(full));
        let over = |limit, max, wanted| Err(OverQuota { limit, max, wanted });
        assert_eq!(usage.with_stage(11, &QUOTA), over("maxStoredBytes", 100, 101));
        assert_eq!(full.with_stage(0, &QUOTA), over("maxOpenStages", 2, 3));
        let staged = Usage { stored: 40, ..usage };
        assert_eq!(staged.with_stage(11, &QUOTA), over("maxStagedBytes", 50, 51));
    }

    #[test]
    fn fewer_bytes_are_reserved_whatever_the_bounds_are_by_now() {
        let usage = Usage { stored: 500, staged: 400, open_stages: 1 };
        let less = Usage { stored: 499, staged: 399, open_stages: 1 };
        assert_eq!(usage.with_reservation(10, 9, &QUOTA), Ok(less));
        assert!(usage.with_reservation(10, 10, &QUOTA).is_err());
    }

    #[test]
    fn attached_bytes_move_to_the_owner_of_the_item() {
        let stager = Usage { stored: 30, staged: 10, open_stages: 1 };
        let own = Usage { stored: 30, staged: 0, open_stages: 0 };
        assert_eq!(stager.without_attached(10, true), own);
        assert_eq!(stager.without_attached(10, false), Usage { stored: 20, ..own });
        let owner = Usage { stored: 90, ..Usage::default() };
        assert_eq!(owner.with_received(10, &QUOTA), Some(Usage { stored: 100, ..owner }));
        assert_eq!(owner.with_received(11, &QUOTA), None);
    }

    #[test]
    fn bytes_are_taken_until_the_stage_is_complete_or_over() {
        let open = stage();
        assert_eq!(open.check_writable(at(999)), Ok(()));
        assert_eq!(open.check_writable(at(1_000)), Err(NotWritable::Over));
        let mut complete = stage();
        complete.row.uploaded = Some((3, digest('1')));
        assert_eq!(complete.check_writable(at(2_000)), Err(NotWritable::Complete));
        complete.row.status = StageStatus::Abandoned;
        assert_eq!(complete.check_writable(at(0)), Err(NotWritable::Over));
    }

    #[test]
    fn a_recording_is_repeated_by_the_same_bytes_alone() {
        let mut complete = stage();
        assert_eq!(
            complete.record(&upload(None), None, at(0)),
            Recording::Record { left_over: false }
        );
        complete.row.uploaded = Some((3, digest('1')));
        assert_eq!(complete.record(&upload(None), None, at(9_999)), Recording::Repeated);
        complete.row.uploaded = Some((3, digest('2')));
        assert_eq!(complete.record(&upload(None), None, at(0)), Recording::Differs);
        complete.row.status = StageStatus::Abandoned;
        assert_eq!(complete.record(&upload(None), None, at(0)), Recording::Over);
    }

    #[test]
    fn a_lease_that_was_transferred_records_and_advances_nothing() {
        let parts = UploadRow { handle: Some("h".into()), received: 5, ..UploadRow::default() };
        let first = parts.claimed("one", None).unwrap();
        let second = first.clone().claimed("two", None).unwrap();
        assert_eq!(second.received, 5);
        assert_eq!(
            stage().record(&upload(Some("one")), Some(&second), at(0)),
            Recording::LeaseLost
        );
        assert!(second.clone().advanced("one", &Advance::default()).is_none());
        assert!(second.advanced("two", &Advance::default()).is_some());
    }

    #[test]
    fn a_replacement_begins_at_byte_0_and_replaces_only_the_upload_that_it_names() {
        let under_way = UploadRow {
            handle: Some("old".into()),
            length: Some(9),
            received: 5,
            ..UploadRow::default()
        };
        let replace = |instead_of: Option<&str>| UploadReplacement {
            handle: "new".into(),
            instead_of: instead_of.map(str::to_owned),
        };
        assert!(under_way.clone().claimed("l", Some(&replace(None))).is_none());
        let replaced = under_way.claimed("l", Some(&replace(Some("old")))).unwrap();
        assert_eq!((replaced.received, replaced.length), (0, Some(9)));
    }

    #[test]
    fn the_first_length_stays_and_none_is_below_what_was_received() {
        let row = UploadRow { received: 5, ..UploadRow::default() };
        assert_eq!(row.clone().opened(Some(4), None).length, None);
        let opened = row.opened(Some(5), Some("a"));
        assert_eq!(opened.clone().opened(Some(9), Some("b")), opened);
    }
}
