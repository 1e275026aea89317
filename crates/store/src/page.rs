//! Which part of a feed a pull gets, and how a page is put together.

use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::wire_json;
use vfs_sync_core::limits::{MAX_PULL_BYTES, MAX_PULL_LIMIT};
use vfs_sync_core::push::Head;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::WriteIds;

use crate::{FeedPage, PullAnswer, PullRequest};

/// Whether `cursor` is a position of this feed that was handed out: of its epoch and not
/// beyond its head.
pub(crate) fn servable(head: Option<&Head>, cursor: &Cursor) -> bool {
    let (Some(head), Some(position)) = (head, Position::parse(&cursor.change_id)) else {
        return false;
    };
    position.epoch == head.epoch
        && position.counter <= head.counter
        && cursor.changed_at <= head.changed_at
}

/// The part of a feed to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Entries strictly after this counter.
    pub(crate) after: u64,
    /// Removals up to this counter are left out.
    pub(crate) skip_removals_to: u64,
    /// What the answer carries as its baseline.
    pub(crate) baseline: Option<Cursor>,
    limit: usize,
    head: Head,
}

impl Window {
    /// The window that `request` asks for; `epoch` is that of feeds that are not there yet, too.
    ///
    /// # Errors
    /// The answer, where there is nothing to read.
    pub(crate) fn of(
        request: &PullRequest,
        head: Option<Head>,
        epoch: Epoch,
        write_ids: &WriteIds,
    ) -> Result<Self, PullAnswer> {
        let refused = || PullAnswer::Rematerialize {
            oldest_available: head.and_then(|head| head.pruned_cursor()),
        };
        let given = [&request.cursor, &request.baseline];
        if given.into_iter().flatten().any(|cursor| !servable(head.as_ref(), cursor)) {
            return Err(refused());
        }
        let Some(head) = head else {
            return Err(PullAnswer::Page(FeedPage {
                items: Vec::new(),
                next_cursor: None,
                has_more: false,
                last_reconciled_write_ids: write_ids.clone(),
                baseline: None,
                epoch,
            }));
        };
        let counter = |cursor: &Option<Cursor>| {
            let position = cursor.as_ref().and_then(|cursor| Position::parse(&cursor.change_id));
            position.map_or(0, |position| position.counter)
        };
        let limit = request.limit.clamp(1, MAX_PULL_LIMIT) as usize;
        if request.cursor.is_none() {
            let (after, skip_removals_to) = (0, head.counter);
            return Ok(Self { after, skip_removals_to, baseline: head.cursor(), limit, head });
        }
        let after = counter(&request.cursor);
        let skip_removals_to = counter(&request.baseline);
        let pruned = head.pruned.map_or(0, |(counter, _)| counter);
        if after.max(skip_removals_to) < pruned {
            return Err(refused());
        }
        Ok(Self { after, skip_removals_to, baseline: None, limit, head })
    }

    /// How many rows to read: one more than the page may have, to know whether there is more.
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
        let position = Position { epoch: self.window.head.epoch, counter };
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
        let epoch = self.window.head.epoch;
        let last = self.last.filter(|_| self.has_more);
        FeedPage {
            items: self.items,
            next_cursor: last.map(|(counter, at)| Position { epoch, counter }.at(at)),
            has_more: self.has_more,
            last_reconciled_write_ids,
            baseline: self.window.baseline,
            epoch,
        }
    }
}
