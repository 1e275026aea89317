//! Checks the names that one device shows: never an older name after a newer one, and its own names
//! until somebody writes a later one.

use std::collections::BTreeMap;

use vfs_sync_core::id::{ItemId, OpId};
use vfs_sync_core::item::Name;

use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Book;

/// The names that a device has written and shown. Every name is used once, so a name identifies its
/// write.
#[derive(Debug, Default)]
pub(crate) struct Session {
    own: BTreeMap<ItemId, (OpId, Name)>,
    /// The latest of each item's names that was shown, as an index in the order of the commits.
    shown: BTreeMap<ItemId, usize>,
}

impl Session {
    /// Records that the device named an item.
    pub(crate) fn wrote(&mut self, item: &ItemId, op_id: &OpId, name: &Name) {
        self.own.insert(item.clone(), (op_id.clone(), name.clone()));
    }

    /// Returns the operation by which the device set an item's name, if it did.
    pub(crate) fn own(&self, item: &ItemId, name: &Name) -> Option<&OpId> {
        self.own.get(item).filter(|(_, own)| own == name).map(|(op_id, _)| op_id)
    }

    /// Records that the shown names may no longer be on the device.
    pub(crate) fn forget_shown(&mut self) {
        self.shown.clear();
    }

    /// Checks a name that the device shows for an item.
    pub(crate) fn shows(&mut self, book: &mut Book, device: usize, item: &ItemId, name: &Name) {
        book.coverage.count(Kind::Check, "session: a name that is shown");
        let place = book.model.name_index(item, name);
        if let Some((op_id, own)) = self.own.get(item).filter(|(_, own)| own != name) {
            let ended = book.operations.get(op_id).is_some_and(|queued| queued.end.is_some());
            // An operation is applied if any of its registers is set. That the name is not, because a
            // later one was there, happens to who creates under an id that somebody guessed.
            let own_place = book.model.name_index(item, own);
            let later = match own_place {
                Some(_) => place > own_place,
                None => book.model.was_applied(op_id),
            };
            if !ended && !later {
                let message = format!("device {device} named {item} {own}, and shows {name}");
                book.fail(FailureKind::Session, message);
            }
        }
        let Some(place) = place else { return };
        let before = self.shown.insert(item.clone(), place);
        if before.is_some_and(|before| place < before) {
            let message = format!("device {device} shows {name} for {item}, after a later name");
            book.fail(FailureKind::Session, message);
        }
    }
}
