//! Builds the page of a pull.

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::wire_json;
use vfs_sync_core::limits::MAX_PULL_BYTES;
use vfs_sync_core::server::feed_window::Window;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::WriteIds;

use crate::values::FeedPage;

/// A page under construction, row by row.
pub(crate) struct PageBuilder {
    window: Window,
    items: Vec<String>,
    bytes: usize,
    last: Option<(u64, Timestamp)>,
    has_more: bool,
}

impl PageBuilder {
    pub(crate) fn new(window: Window) -> Self {
        let items = Vec::with_capacity(window.limit.min(128));
        Self { window, items, bytes: 0, last: None, has_more: false }
    }

    /// Adds the next row; returns `false` once the page is full and needs no further row.
    pub(crate) fn add(&mut self, counter: u64, changed_at: Timestamp, stored: &str) -> bool {
        if self.items.len() == self.window.limit {
            self.has_more = true;
            return false;
        }
        let position = self.window.history().position(counter);
        let json = wire_json(stored, position, changed_at);
        if !self.items.is_empty() && self.bytes + json.len() > MAX_PULL_BYTES {
            self.has_more = true;
            return false;
        }
        self.bytes += json.len();
        self.items.push(json);
        self.last = Some((counter, changed_at));
        true
    }

    /// Returns the entries, and the counter of the last one if there are more.
    pub(crate) fn rows(self) -> (Vec<String>, Option<u64>) {
        let last = self.last.filter(|_| self.has_more).map(|(counter, _)| counter);
        (self.items, last)
    }

    pub(crate) fn finish(self, epoch: Epoch, last_reconciled_write_ids: WriteIds) -> FeedPage {
        let last = self.last.filter(|_| self.has_more);
        let history = self.window.history();
        FeedPage {
            items: self.items,
            next_cursor: last.map(|(counter, at)| history.position(counter).at(at)),
            has_more: self.has_more,
            last_reconciled_write_ids,
            epoch,
            baseline: self.window.baseline.clone(),
            head: last.and_then(|_| history.head().cursor()),
        }
    }
}
