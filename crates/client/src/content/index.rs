//! The index of the cache: its contents, and the order of their last use.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

/// The digest of a blob's id, as a file name: the id itself may have any characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(super) Sha256Digest);

impl Key {
    pub(crate) fn of(blob_id: &BlobId) -> Self {
        Self(Sha256Digest(Sha256::digest(blob_id.as_str().as_bytes()).into()))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Sha256Digest::parse(text).map(Self)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u64,
    used: SystemTime,
    /// The order of uses that have the same time.
    turn: u64,
    /// True if this process wrote or hashed the content.
    verified: bool,
    /// True if this process downloaded the content: the server has it, even if it is queued too.
    fetched: bool,
}

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<Key, Entry>,
    bytes: u64,
    turns: u64,
    /// True once the files of earlier processes are in the index.
    loaded: bool,
    held: HashMap<Key, usize>,
}

impl Index {
    pub(super) fn put(&mut self, key: Key, size: u64, used: SystemTime, verified: bool) {
        let before = self.entries.get(&key).copied();
        let fetched = before.is_some_and(|before| before.fetched);
        self.turns += 1;
        let turn = self.turns;
        self.entries.insert(key, Entry { size, used, turn, verified, fetched });
        self.bytes += size;
        self.bytes -= before.map_or(0, |before| before.size);
    }

    pub(super) fn mark_fetched(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.fetched = true;
        }
    }

    pub(super) fn forget(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.size;
        }
    }

    pub(super) fn is_verified(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.verified)
    }

    pub(super) fn hold(&mut self, key: Key) {
        *self.held.entry(key).or_default() += 1;
    }

    /// Releases one hold on a content. Returns true if the content is to be removed: it was
    /// downloaded while only held contents made the cache exceed its limit.
    pub(super) fn release(&mut self, key: Key, limit: Option<u64>) -> bool {
        let Some(count) = self.held.get_mut(&key) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.held.remove(&key);
        let goes = self.loaded
            && limit.is_some_and(|limit| self.is_over(limit))
            && self.entries.get(&key).is_some_and(|entry| entry.fetched);
        if goes {
            self.forget(key);
        }
        goes
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Adds the contents found on the disk; entries that are already known are newer and stay.
    pub(super) fn load(&mut self, found: Vec<(Key, u64, SystemTime)>) {
        for (key, size, used) in found {
            if !self.entries.contains_key(&key) {
                self.put(key, size, used, false);
            }
        }
        self.loaded = true;
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        (self.bytes, u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_over(&self, limit: u64) -> bool {
        self.bytes > limit
    }

    /// Removes the least recently used contents, except `queued` and held ones, down to an eighth
    /// below `limit`, so that not every new content evicts one.
    pub(super) fn evict(&mut self, limit: u64, queued: &HashSet<Key>) -> Vec<Key> {
        let target = limit - limit / 8;
        let mut candidates: Vec<(SystemTime, u64, Key)> = self
            .entries
            .iter()
            .filter(|(key, _)| !queued.contains(*key) && !self.held.contains_key(*key))
            .map(|(key, entry)| (entry.used, entry.turn, *key))
            .collect();
        candidates.sort_unstable_by_key(|(used, turn, _)| (*used, *turn));
        let mut evicted = Vec::new();
        for (.., key) in candidates {
            if self.bytes <= target {
                break;
            }
            self.forget(key);
            evicted.push(key);
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(name: &str) -> Key {
        Key::of(&BlobId::new(name).unwrap())
    }

    fn filled(sizes: &[(&str, u64)]) -> Index {
        let mut index = Index::default();
        for (at, (name, size)) in (1..).zip(sizes) {
            index.put(key(name), *size, SystemTime::UNIX_EPOCH + Duration::from_secs(at), true);
        }
        index
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_what_must() {
        let mut index = filled(&[("a", 40), ("b", 40), ("c", 40)]);
        index.put(key("a"), 40, SystemTime::UNIX_EPOCH + Duration::from_secs(9), true);
        assert!(index.is_over(100));
        assert_eq!(index.evict(100, &HashSet::new()), [key("b")]);
        assert_eq!(index.totals(), (80, 2));
        assert!(!index.is_over(100));
    }

    #[test]
    fn what_is_queued_or_held_stays() {
        let mut index = filled(&[("queued", 40), ("held", 40), ("free", 40)]);
        index.hold(key("held"));
        index.hold(key("held"));
        index.release(key("held"), None);
        assert_eq!(index.evict(0, &HashSet::from([key("queued")])), [key("free")]);
        assert_eq!(index.totals(), (80, 2));
        assert!(!index.release(key("held"), Some(0)), "it may be queued");
        index.put(key("new"), 1, SystemTime::UNIX_EPOCH + Duration::from_secs(9), true);
        assert_eq!(index.evict(0, &HashSet::from([key("queued")])), [key("held"), key("new")]);
    }

    #[test]
    fn what_was_fetched_beyond_the_limit_goes_when_it_is_released() {
        let mut index = filled(&[("fetched", 40), ("small", 10)]);
        index.load(Vec::new());
        index.mark_fetched(key("fetched"));
        index.hold(key("fetched"));
        index.hold(key("fetched"));
        assert!(!index.release(key("fetched"), Some(20)));
        assert!(index.release(key("fetched"), Some(20)));
        assert_eq!(index.totals(), (10, 1));
        index.mark_fetched(key("small"));
        index.hold(key("small"));
        assert!(!index.release(key("small"), Some(20)), "there is room");
    }

    #[test]
    fn what_an_earlier_process_left_counts_but_is_not_trusted() {
        let mut index = filled(&[("a", 40)]);
        let old = SystemTime::UNIX_EPOCH;
        index.load(vec![(key("a"), 40, old), (key("b"), 40, old)]);
        assert!(index.is_verified(key("a")) && !index.is_verified(key("b")));
        assert_eq!(index.totals(), (80, 2));
        assert_eq!(index.evict(50, &HashSet::new()), [key("b")]);
    }
}
