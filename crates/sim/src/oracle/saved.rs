//! The promise that people care about: bytes that somebody saved stay until somebody who saw them
//! replaces or deletes them. The check uses only users' calls and the state of the world at the
//! end, never the protocol's own records.
//!
//! Contents of a world are unique, so a digest names one call that saved something.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_client::SyncClient;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::ItemId;

use crate::actor::device::Device;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// Contents that users saved, and those that users knowingly replaced or deleted.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Each content whose saving call returned, with its device and its item.
    by: BTreeMap<Sha256Digest, (usize, ItemId)>,
    /// The contents that somebody saw before replacing or deleting them.
    knowingly: BTreeSet<Sha256Digest>,
    /// The items that somebody deleted without stating what they had seen.
    blindly: BTreeSet<ItemId>,
    /// The earlier versions that retention removed.
    retired: BTreeSet<Sha256Digest>,
}

impl Saved {
    /// Records a content that `device` saved, and the content that the device showed there before.
    pub(crate) fn put(
        &mut self,
        device: usize,
        item: &ItemId,
        content: Sha256Digest,
        shown: Option<Sha256Digest>,
    ) {
        self.by.insert(content, (device, item.clone()));
        self.knowingly.extend(shown);
    }

    /// Records contents that somebody deleted while they were shown.
    pub(crate) fn delete(&mut self, shown: impl IntoIterator<Item = Sha256Digest>) {
        self.knowingly.extend(shown);
    }

    /// Records a deletion that does not state what its author had seen: the later stamp decides.
    pub(crate) fn delete_blindly(&mut self, item: &ItemId) {
        self.blindly.insert(item.clone());
    }

    /// Records an earlier version that retention removed.
    pub(crate) fn retire(&mut self, contents: impl IntoIterator<Item = Sha256Digest>) {
        self.retired.extend(contents);
    }

    /// Discards the records of contents that a lost device may have held alone; `elsewhere` returns
    /// whether another party holds a content.
    pub(crate) fn lose_device(&mut self, device: usize, elsewhere: impl Fn(&Sha256Digest) -> bool) {
        self.by.retain(|content, (by, _)| *by != device || elsewhere(content));
    }

    /// Discards the records of contents that no other party holds, as `elsewhere` returns.
    pub(crate) fn lose_all(&mut self, elsewhere: impl Fn(&Sha256Digest) -> bool) {
        self.by.retain(|content, _| elsewhere(content));
    }
}

/// Returns the contents that a device shows of `item` and of everything under it.
pub(crate) fn shown_under(client: &SyncClient, item: &ItemId) -> Vec<Sha256Digest> {
    let (mut contents, mut met) = (Vec::new(), BTreeSet::new());
    let mut open = vec![item.clone()];
    while let Some(id) = open.pop() {
        if !met.insert(id.clone()) {
            continue;
        }
        contents.extend(shown(client, &id));
        let below = client.children(Some(&id)).unwrap_or_default();
        open.extend(below.into_iter().map(|child| child.node.id));
    }
    contents
}

/// Returns the content that a device shows of `item`.
pub(crate) fn shown(client: &SyncClient, item: &ItemId) -> Option<Sha256Digest> {
    let node = client.node(item).ok().flatten()?;
    node.content.map(|content| content.digest)
}

/// Fails unless every content that somebody saved is present for its owner, waits for its user's
/// decision, or was replaced or deleted by somebody who had seen it.
pub(crate) fn accounted_for(ledger: &Ledger, devices: &[Device]) {
    let waiting: BTreeSet<Sha256Digest> = devices
        .iter()
        .flat_map(|device| device.client.queue().rejected_uploads().expect("memory is read"))
        .map(|upload| upload.digest)
        .collect();
    let mut book = ledger.book();
    book.coverage.count(Kind::Check, "what somebody saved is there, or somebody knew of it");
    let live: BTreeSet<Sha256Digest> = book
        .model
        .attached()
        .filter(|(item, _)| book.model.is_live(item) || book.saved.blindly.contains(*item))
        .map(|(_, content)| content.2)
        .collect();
    let saved = &book.saved;
    let lost = saved.by.iter().find(|(content, _)| {
        !live.contains(*content)
            && !waiting.contains(*content)
            && !saved.knowingly.contains(*content)
            && !saved.retired.contains(*content)
    });
    let Some((content, (device, item))) = lost else { return };
    let message = format!(
        "device {device} saved {content} on {item}: it is gone, and nobody who had seen it replaced or deleted it"
    );
    book.fail(FailureKind::Lost, message);
}
