//! The part of a feed that a pull gets, and how a page is put together.

use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::wire_json;
use vfs_sync_core::limits::{MAX_PULL_BYTES, MAX_PULL_LIMIT};
use vfs_sync_core::server::feed_window::History;
use vfs_sync_core::server::push::Head;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::WriteIds;

use crate::error::Result;
use crate::values::{FeedPage, PullAnswer, PullRequest};

/// Returns whether the answer to `request` takes the epochs of the feed before its head's: to tell
/// the positions of entries, to judge a cursor, or to refuse one.
pub(crate) fn takes_history(request: &PullRequest, head: Option<&Head>) -> bool {
    let Some(head) = head else { return false };
    request.cursor.is_none()
        || !History::told_by_head(Some(head), request.positions())
        || is_pruned(head, request)
}

/// Returns whether removals were pruned that the client may not know of.
fn is_pruned(head: &Head, request: &PullRequest) -> bool {
    let pruned = head.pruned.map_or(0, |(counter, _)| counter);
    counter(request.cursor.as_ref()).max(counter(request.baseline.as_ref())) < pruned
}

fn counter(cursor: Option<&Cursor>) -> u64 {
    let position = cursor.and_then(|cursor| Position::parse(&cursor.change_id));
    position.map_or(0, |position| position.counter)
}

/// The part of a feed to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Entries strictly after this counter.
    pub(crate) after: u64,
    /// Removals up to this counter are left out.
    pub(crate) skip_removals_to: u64,
    /// The baseline that the answer carries.
    pub(crate) baseline: Option<Cursor>,
    limit: usize,
    history: History,
    epoch: Epoch,
}

impl Window {
    /// The window that `request` asks for; `epoch` is the database's present one. The history has
    /// the feed's earlier epochs if [`takes_history`] says so.
    ///
    /// # Errors
    /// The answer, where there is nothing to read.
    pub(crate) fn of(
        request: &PullRequest,
        history: Option<History>,
        epoch: Epoch,
        write_ids: &WriteIds,
    ) -> Result<Self, PullAnswer> {
        let mut given = request.positions();
        let Some(history) = history else {
            return Err(match given.next() {
                Some(_) => {
                    PullAnswer::Rematerialize { oldest_available: None, history: Vec::new() }
                }
                None => PullAnswer::Page(FeedPage {
                    items: Vec::new(),
                    next_cursor: None,
                    has_more: false,
                    last_reconciled_write_ids: write_ids.clone(),
                    baseline: None,
                    head: None,
                    epoch,
                }),
            });
        };
        let pruned = request.cursor.is_some() && is_pruned(history.head(), request);
        if pruned || given.any(|cursor| !history.has(cursor)) {
            return Err(PullAnswer::Rematerialize {
                oldest_available: history.pruned_cursor(),
                history: history.ends(),
            });
        }
        let limit = request.limit.clamp(1, MAX_PULL_LIMIT) as usize;
        let after = counter(request.cursor.as_ref());
        let (skip_removals_to, baseline) = match request.cursor {
            None => (history.head().counter, history.head().cursor()),
            Some(_) => (counter(request.baseline.as_ref()), None),
        };
        Ok(Self { after, skip_removals_to, baseline, limit, history, epoch })
    }

    /// Returns the number of rows to read: one more than the page may have, to know whether there
    /// is more.
    pub(crate) fn rows(&self) -> usize {
        self.limit + 1
    }
}

/// A page as it fills up, row by row.
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

    /// Adds the next row; `false` once the page is full and no further row is needed.
    pub(crate) fn add(&mut self, counter: u64, changed_at: Timestamp, stored: &str) -> bool {
        if self.items.len() == self.window.limit {
            self.has_more = true;
            return false;
        }
        let position = self.window.history.position(counter);
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

    pub(crate) fn finish(self, last_reconciled_write_ids: WriteIds) -> FeedPage {
        let last = self.last.filter(|_| self.has_more);
        let history = &self.window.history;
        FeedPage {
            items: self.items,
            next_cursor: last.map(|(counter, at)| history.position(counter).at(at)),
            has_more: self.has_more,
            last_reconciled_write_ids,
            epoch: self.window.epoch,
            baseline: self.window.baseline,
            head: last.and_then(|_| history.head().cursor()),
        }
    }
}
