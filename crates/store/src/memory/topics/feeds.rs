//! Feeds: heads, pages, epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::feed_window::{EpochStart, Window};
use vfs_sync_core::server::push::{Head, Map, Mark, PresentInFeed};
use vfs_sync_core::time::Timestamp;

use crate::backend::page::PageBuilder;
use crate::error::Result;
use crate::memory::state::FeedRow;
use crate::memory::transaction::MemoryTransaction;
use crate::moves::moved_by;
use crate::topics::{FeedWrite, Feeds, MAX_EPOCHS};

impl Feeds for MemoryTransaction<'_> {
    async fn head(&mut self, user: &UserId) -> Result<Option<Head>> {
        Ok(self.state.heads.get(user).copied())
    }

    async fn heads(&mut self, users: &[UserId]) -> Result<Vec<(UserId, Head)>> {
        let head = |user: &UserId| Some((user.clone(), *self.state.heads.get(user)?));
        Ok(users.iter().filter_map(head).collect())
    }

    async fn feed_state(&mut self, user: &UserId) -> Result<(Option<Head>, bool)> {
        let awaits_call = !self.state.awaiting.group(user).is_empty();
        Ok((self.state.heads.get(user).copied(), awaits_call))
    }

    async fn begin_feed(&mut self, user: &UserId) -> Result<()> {
        if self.state.heads.get(user).is_none() {
            let epoch = self.state.present_epoch()?;
            let head = Head { epoch, counter: 0, changed_at: Timestamp::MIN, pruned: None };
            self.state.know(user);
            self.state.heads.put(user.clone(), head);
        }
        Ok(())
    }

    async fn awaiting_owner(&mut self, user: &UserId) -> Result<Option<UserId>> {
        Ok(self.state.awaiting.group(user).keys().next().cloned())
    }

    async fn withheld_owners(&mut self, user: &UserId, limit: usize) -> Result<Vec<UserId>> {
        Ok(self.state.withheld.group(user).keys().take(limit).cloned().collect())
    }

    async fn epoch(&mut self) -> Result<Epoch> {
        self.state.present_epoch()
    }

    async fn begin_epoch(&mut self, now: Timestamp, chance: u16) -> Result<Epoch> {
        let epoch = self.state.begin_epoch(self.served.0.latest(), now, chance)?;
        self.begun = Some(epoch);
        Ok(epoch)
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>> {
        let all = self.state.epoch_starts.group(user).iter();
        let start = |(epoch, first): (&Epoch, &u64)| EpochStart { epoch: *epoch, first: *first };
        let mut starts: Vec<_> = all.rev().take(MAX_EPOCHS).map(start).collect();
        starts.reverse();
        Ok(starts)
    }

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>> {
        let rows = self.state.feeds.group(user);
        let mark = |key: &EntryKey| {
            let counter = self.state.counters.get(user, &key.to_bytes())?;
            let row = rows.get(counter).filter(|row| !row.removal)?;
            Some((key.clone(), Some(row.mark.clone())))
        };
        Ok(keys.iter().filter_map(mark).collect())
    }

    async fn present_in_feed(
        &mut self,
        keys: &BTreeMap<UserId, Vec<Vec<u8>>>,
    ) -> Result<PresentInFeed> {
        let mut told = PresentInFeed::new();
        for (user, keys) in keys {
            let rows = self.state.feeds.group(user);
            let present = |key: &&Vec<u8>| {
                let row = self.state.counters.get(user, key).and_then(|counter| rows.get(counter));
                row.is_some_and(|row| !row.removal)
            };
            told.insert(user.clone(), keys.iter().filter(present).cloned().collect());
        }
        Ok(told)
    }

    async fn read_page(&mut self, user: &UserId, window: Window) -> Result<PageBuilder> {
        let after = (Bound::Excluded(window.after), Bound::Unbounded);
        let rows = self.state.feeds.group(user).range(after);
        let skipped = window.skip_removals_to;
        let rows = rows.filter(|(counter, row)| !(row.removal && **counter <= skipped));
        let rows = rows.take(window.rows());
        let mut page = PageBuilder::new(window);
        for (counter, row) in rows {
            if !page.add(*counter, row.changed_at, &row.json) {
                break;
            }
        }
        Ok(page)
    }
}

impl MemoryTransaction<'_> {
    pub(super) fn place_entries(&mut self, feeds: &[FeedWrite]) {
        self.written.extend(feeds.iter().map(|feed| (feed.user.clone(), feed.head.counter)));
        self.moved.extend(moved_by(feeds));
        let state = &mut *self.state;
        for feed in feeds {
            let user = &feed.user;
            state.know(user);
            let head = Mark::after(
                state.tails.get(user),
                &Mark::cause_of(&feed.bodies),
                feed.head.counter,
            );
            state.tails.put(user.clone(), head);
            for entry in feed.entries() {
                // A change of a subject that the feed already has moves its row to the head.
                let mut before = None;
                if let Some(counter) = state.counters.get(user, &entry.key).copied() {
                    before = state.feeds.get(user, &counter).map(|row| row.mark.clone());
                    state.feeds.remove(user, &counter);
                }
                let row = FeedRow {
                    mark: Mark::after(before.as_ref(), &entry.cause, entry.counter),
                    key: entry.key.clone(),
                    changed_at: feed.head.changed_at,
                    removal: entry.removal,
                    json: entry.json.as_str().into(),
                };
                state.feeds.put(user, entry.counter, row);
                state.counters.put(user, entry.key, entry.counter);
            }
            if feed.places.begins {
                state.epoch_starts.put(user, feed.head.epoch, feed.places.first);
                let starts = state.epoch_starts.group(user);
                if starts.len() > MAX_EPOCHS
                    && let Some(oldest) = starts.keys().next().copied()
                {
                    state.epoch_starts.remove(user, &oldest);
                }
            }
            state.heads.put(user.clone(), feed.head);
        }
    }
}
