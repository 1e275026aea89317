//! Checks that no restore loses anything that a device still holds.

use std::collections::BTreeSet;

use vfs_sync_client::core::client::state;
use vfs_sync_core::client::offer::LostChange;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::ItemId;
use vfs_sync_core::operation::Action;

use crate::actor::byzantine_server::export;
use crate::actor::device::Device;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::{Book, Ledger};

/// The items and contents that devices hold at the time of a restore.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Each user's own items, by the devices that show them or have queued their creation.
    pub(crate) items: BTreeSet<(usize, ItemId)>,
    /// Contents, by the devices that stored and show them.
    contents: BTreeSet<(usize, Sha256Digest)>,
}

impl Held {
    /// Collects the items and contents that `devices` hold now.
    pub(crate) fn by(ledger: &Ledger, devices: &[Device]) -> Self {
        let mut held = Self::default();
        let put = ledger.book().contents.clone();
        for device in devices.iter().filter(|device| !device.is_dark()) {
            held.items.extend(Self::items_of(device));
        }
        for ((device, item), digest) in put {
            let shown = devices[device].client.node(&item).ok().flatten();
            if shown.and_then(|node| node.content).is_some_and(|one| one.digest == digest) {
                held.contents.insert((device, digest));
            }
        }
        held
    }

    /// Collects the items that a device holds now.
    fn items_of(device: &Device) -> BTreeSet<(usize, ItemId)> {
        let exported = export(&device.client);
        let parsed = state::parse(&exported, &device.client.client_id());
        let state = parsed.expect("an export is well formed");
        let own = state.items.iter().filter(|row| row.item.owner_id == device.user);
        let own = own.map(|row| row.item.item_id.clone());
        let created = state.queue.iter().map(|one| &one.operation);
        let created = created.filter(|op| {
            let root = |upsert: &vfs_sync_core::operation::Upsert| {
                upsert.object_type.is_some() && upsert.parent.is_none()
            };
            matches!(&op.action, Action::Upsert(upsert) if root(upsert))
        });
        let created = created.map(|op| op.item_id.clone());
        own.chain(created).map(|item| (device.index, item)).collect()
    }

    /// Forgets the items that a device lost with its power: a page is durable some time after it
    /// was applied.
    pub(crate) fn lose_power(ledger: &Ledger, device: &Device) {
        let now = Self::items_of(device);
        let stays = |one: &(usize, ItemId)| one.0 != device.index || now.contains(one);
        ledger.book().held.items.retain(stays);
    }

    /// Returns whether a device holds a content.
    pub(crate) fn has(&self, device: usize, digest: Sha256Digest) -> bool {
        self.contents.contains(&(device, digest))
    }
}

/// Returns the number of contents that the devices list as lost.
pub(crate) fn listed(devices: &[Device]) -> usize {
    let entries = devices
        .iter()
        .flat_map(|device| device.client.lost().list(0, usize::MAX).expect("memory is read"));
    entries.filter(|entry| matches!(entry.lost.change, LostChange::Content { .. })).count()
}

/// Checks that every item that a device held when a server was restored is present, was deleted, or
/// is listed as lost.
pub(crate) fn kept(ledger: &Ledger, devices: &[Device]) {
    let mut book = ledger.book();
    book.coverage.count(Kind::Check, "what devices held through a restore is there or listed");
    let message = went(&book, devices);
    message.into_iter().for_each(|message| book.fail(FailureKind::Lost, message));
}

fn went(book: &Book, devices: &[Device]) -> Option<String> {
    let missing = book.held.items.iter().filter(|(_, item)| book.model.owner(item).is_none());
    for (device, item) in missing {
        let client = &devices[*device].client;
        let listed = client.lost().list(0, usize::MAX).expect("memory is read");
        let rejected = client.queue().rejected(usize::MAX).expect("memory is read");
        let waits = listed.iter().any(|entry| entry.lost.item == *item)
            || rejected.iter().any(|one| one.operation.item_id == *item);
        if !waits {
            let message = format!(
                "device {device} held {item} when the server was restored: it is neither at the \
                 server nor listed"
            );
            return Some(message);
        }
    }
    None
}
