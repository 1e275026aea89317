//! Checks that a device always shows the time of an item together with the bytes to which it
//! belongs.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_client::Node;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::time::Timestamp;

use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Book;

/// The times that users gave to bytes, when storing them or by touching an item. No two users write
/// the same bytes, so a digest identifies their author.
#[derive(Debug, Default)]
pub(crate) struct Times {
    given: BTreeMap<Sha256Digest, BTreeSet<Timestamp>>,
    /// Times that a malicious client gave to the bytes of a stage.
    rogue: BTreeSet<Timestamp>,
}

impl Times {
    /// Records that a user gave bytes a time.
    pub(crate) fn give(&mut self, digest: Sha256Digest, time: Timestamp) {
        self.given.entry(digest).or_default().insert(time);
    }

    /// Records that a malicious client attached somebody's stage with this time.
    pub(crate) fn give_to_a_stage(&mut self, time: Timestamp) {
        self.rogue.insert(time);
    }

    fn belongs(&self, digest: &Sha256Digest, time: Timestamp) -> bool {
        let given = self.given.get(digest).is_some_and(|given| given.contains(&time));
        given || self.rogue.contains(&time)
    }
}

/// Checks the time of an item that a device shows.
pub(crate) fn shown(book: &mut Book, device: usize, node: &Node) {
    let Some(content) = &node.content else { return };
    let time = node.modified_at();
    book.coverage.count(Kind::Check, "a shown time belongs to the shown bytes");
    if !book.times.belongs(&content.digest, time) {
        let given = book.times.given.get(&content.digest);
        let message = format!(
            "device {device} shows {time} for {} with {}, whose times are {given:?}",
            node.id, content.blob_id
        );
        book.fail(FailureKind::Content, message);
    }
}
