//! The model of stages, blobs and attachments.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::{RelationKind, Sha256Digest};
use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, StageStatus};

use super::Model;

/// A content with the time that its attach gave it.
pub(crate) type Content = (BlobId, u64, Sha256Digest, Option<Timestamp>);

/// A stage in its required state.
#[derive(Debug, Clone)]
pub(crate) struct StageModel {
    pub(crate) owner: UserId,
    pub(crate) blob_id: BlobId,
    pub(crate) expires_at: Timestamp,
    pub(crate) status: StageStatus,
    pub(crate) uploaded: Option<(u64, Sha256Digest)>,
    attached_to: Option<ItemId>,
    /// The time and the expectation in the attach that was made.
    said: Option<(Option<Timestamp>, Option<Option<BlobId>>)>,
}

/// The reason why an attach must be rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    UnknownStage,
    UnknownItem,
    NotPermitted,
    NotAttachable,
    Expired,
    Empty,
    Behind,
    ContentChanged,
    Differs,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    stages: BTreeMap<StagingId, StageModel>,
    current: BTreeMap<ItemId, Content>,
    /// The contents of each item, the newest last.
    versions: BTreeMap<ItemId, Vec<Content>>,
    /// The digests of everything that was ever attached.
    ever: BTreeSet<Sha256Digest>,
}

impl Contents {
    pub(super) fn current(&self, id: &ItemId) -> Option<&Content> {
        self.current.get(id)
    }
}

impl Model {
    /// Records that a stage was opened, or found open.
    pub(crate) fn stage_opened(
        &mut self,
        owner: &UserId,
        staging_id: &StagingId,
        blob_id: &BlobId,
        expires_at: Timestamp,
    ) {
        self.contents.stages.entry(staging_id.clone()).or_insert_with(|| StageModel {
            owner: owner.clone(),
            blob_id: blob_id.clone(),
            expires_at,
            status: StageStatus::Staged,
            uploaded: None,
            attached_to: None,
            said: None,
        });
    }

    /// Records that the registry has the stage's bytes.
    pub(crate) fn stage_uploaded(&mut self, id: &StagingId, size: u64, digest: Sha256Digest) {
        if let Some(stage) = self.contents.stages.get_mut(id) {
            stage.uploaded = Some((size, digest));
        }
    }

    pub(crate) fn is_stage_attached(&self, id: &StagingId) -> bool {
        self.contents.stages.get(id).is_some_and(|stage| stage.status == StageStatus::Attached)
    }

    pub(crate) fn stage_abandoned(&mut self, id: &StagingId) {
        if let Some(stage) = self.contents.stages.get_mut(id) {
            stage.status = StageStatus::Abandoned;
        }
    }

    pub(crate) fn stages(&self) -> impl Iterator<Item = (&StagingId, &StageModel)> {
        self.contents.stages.iter()
    }

    pub(crate) fn stage(&self, id: &StagingId) -> Option<&StageModel> {
        self.contents.stages.get(id)
    }

    /// Returns the stage of a blob, open or complete.
    pub(crate) fn stage_of(&self, blob_id: &BlobId) -> Option<&StagingId> {
        let mut stages = self.contents.stages.iter();
        stages.find(|(_, stage)| stage.blob_id == *blob_id).map(|(id, _)| id)
    }

    /// Attaches a stage, or returns why the attach must be rejected. `Ok(false)` is a repetition.
    /// `believed` is the latest time that the realm knows, at least `now`.
    pub(crate) fn attach(
        &mut self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        now: Timestamp,
        believed: Timestamp,
    ) -> Result<bool, Refused> {
        let stage = self.contents.stages.get(staging_id).filter(|stage| stage.owner == *user);
        let stage = stage.ok_or(Refused::UnknownStage)?;
        let is_dead = self.items.get(&request.item_id).is_some_and(super::Item::is_dead);
        let comes_back = is_dead && request.basis.is_some();
        match self.level(user, &request.item_id, comes_back) {
            None => return Err(Refused::UnknownItem),
            Some(AccessLevel::Read) => return Err(Refused::NotPermitted),
            Some(_) => {}
        }
        if stage.status == StageStatus::Attached {
            if stage.attached_to.as_ref() != Some(&request.item_id) {
                return Err(Refused::NotAttachable);
            }
            let said = (request.modified_at, request.expected_blob_id.clone());
            let same = stage.said.as_ref() == Some(&said);
            return if same { Ok(false) } else { Err(Refused::Differs) };
        }
        if stage.status != StageStatus::Staged {
            return Err(Refused::NotAttachable);
        }
        if stage.expires_at <= now {
            return Err(Refused::Expired);
        }
        let (size, digest) = stage.uploaded.ok_or(Refused::Empty)?;
        if self.is_behind(user, request) {
            return Err(Refused::Behind);
        }
        let file = request.relation_kind == RelationKind::File;
        let current = self.contents.current(&request.item_id).map(|content| &content.0);
        if let Some(expected) = request.expected_blob_id.as_ref().filter(|_| file)
            && expected.as_ref() != current
        {
            return Err(Refused::ContentChanged);
        }
        let content = (stage.blob_id.clone(), size, digest, request.modified_at);
        let item = request.item_id.clone();
        if let Some(stage) = self.contents.stages.get_mut(staging_id) {
            stage.status = StageStatus::Attached;
            stage.attached_to = Some(item.clone());
            stage.said = Some((request.modified_at, request.expected_blob_id.clone()));
        }
        if file {
            self.contents.current.insert(item.clone(), content.clone());
        }
        self.contents.ever.insert(digest);
        self.contents.versions.entry(item).or_default().push(content);
        self.returned.clear();
        if comes_back {
            self.come_back_by_attach(user, request, now, believed);
        }
        Ok(true)
    }

    /// Returns whether the client's reconciled state is behind the checkpoint of the attach.
    fn is_behind(&self, user: &UserId, request: &AttachRequest) -> bool {
        let Some(client) = &request.client_id else { return false };
        let Some(stored) = self.reconciled(user, client) else { return true };
        let required = request.required_last_reconciled_write_ids.iter().flatten();
        request.required_cursor.as_ref().is_some_and(|cursor| stored.cursor < *cursor)
            || required.into_iter().any(|(replica, needed)| {
                stored.last_reconciled_write_ids.get(replica).is_none_or(|has| has < needed)
            })
    }

    /// Removes an earlier version; returns the digests of its bytes.
    pub(crate) fn version_removed(&mut self, blob_id: &BlobId) -> Vec<Sha256Digest> {
        let mut removed = Vec::new();
        for versions in self.contents.versions.values_mut() {
            removed.extend(versions.iter().filter(|one| one.0 == *blob_id).map(|one| one.2));
            versions.retain(|version| version.0 != *blob_id);
        }
        removed
    }

    /// Returns whether `user` may read a blob.
    pub(crate) fn may_read(&self, user: &UserId, blob_id: &BlobId) -> bool {
        let mut stages = self.contents.stages.values();
        stages.any(|stage| {
            stage.blob_id == *blob_id
                && stage.owner == *user
                && stage.status != StageStatus::Abandoned
        }) || self.contents.versions.iter().any(|(item, versions)| {
            versions.iter().any(|version| version.0 == *blob_id)
                && self.level(user, item, false).is_some()
        })
    }

    /// Returns the present content of an item.
    pub(crate) fn content_of(&self, item: &ItemId) -> Option<&BlobId> {
        self.contents.current(item).map(|content| &content.0)
    }

    pub(crate) fn is_attached(&self, blob_id: &BlobId) -> bool {
        self.attached().any(|(_, content)| content.0 == *blob_id)
    }

    /// Returns everything that is attached, with the item and the content.
    pub(crate) fn attached(&self) -> impl Iterator<Item = (&ItemId, &Content)> {
        let versions = self.contents.versions.iter();
        versions.flat_map(|(item, versions)| versions.iter().map(move |one| (item, one)))
    }

    /// Returns whether bytes of this digest were ever attached.
    pub(crate) fn held(&self, digest: &Sha256Digest) -> bool {
        self.contents.ever.contains(digest)
    }
}
