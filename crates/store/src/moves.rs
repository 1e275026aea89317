//! The moves of feed heads: a process hears of those that its own transactions commit, and, where
//! the database has notifications, of those of other processes.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::id::UserId;

use crate::topics::FeedWrite;

/// The head of a feed that a committed transaction moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedHead {
    /// The user whose feed it is.
    pub user: UserId,
    /// The position of the feed's last entry.
    pub position: Position,
    /// True if a replica of this user made the change.
    pub own: bool,
}

/// The heads of some users' feeds, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedHeads {
    /// The database's present epoch.
    pub epoch: Epoch,
    /// The users that have a feed, each with the position of its last entry, if it has any.
    pub heads: Vec<(UserId, Option<Position>)>,
}

/// Receives the moves of feed heads. A move may be reported late, twice, or not at all; the heads
/// in the database are the truth. The calls come from the store's own threads and must not block.
pub trait HeadObserver: Send + Sync + 'static {
    /// Reports heads that one transaction moved, after its commit.
    fn moved(&self, heads: &[MovedHead]);

    /// Reports that other processes may have moved any head.
    fn any_moved(&self);
}

/// The way in which a store hears of heads that other processes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcements {
    /// The database notifies this process.
    Notified,
    /// There are none: whoever needs the heads has to read them again.
    None,
    /// The database has notifications, but they do not arrive on this connection: a pooler that
    /// shares connections between transactions is in between.
    Swallowed,
}

/// The observers of a store.
#[derive(Default)]
pub(crate) struct Observers(Mutex<Vec<Weak<dyn HeadObserver>>>);

impl Observers {
    fn all(&self) -> MutexGuard<'_, Vec<Weak<dyn HeadObserver>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an observer, until it is dropped.
    pub(crate) fn add(&self, observer: Weak<dyn HeadObserver>) {
        let mut all = self.all();
        all.retain(|one| one.strong_count() > 0);
        all.push(observer);
    }

    /// Returns whether anybody would hear of a move.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn each(&self, tell: impl Fn(&dyn HeadObserver)) {
        // Outside the lock: an observer may call the store.
        let all = self.all().clone();
        for observer in all.iter().filter_map(Weak::upgrade) {
            tell(&*observer);
        }
    }

    pub(crate) fn moved(&self, heads: &[MovedHead]) {
        if !heads.is_empty() {
            self.each(|observer| observer.moved(heads));
        }
    }

    pub(crate) fn any_moved(&self) {
        self.each(|observer| observer.any_moved());
    }
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}

/// Returns the heads that a transaction moves by writing `feeds`.
pub(crate) fn moved_by(feeds: &[FeedWrite]) -> impl Iterator<Item = MovedHead> {
    feeds.iter().filter(|feed| !feed.bodies.is_empty()).map(|feed| MovedHead {
        user: feed.user.clone(),
        position: Position { epoch: feed.head.epoch, counter: feed.head.counter },
        own: feed.bodies.iter().any(|body| body.cause.replica().is_some()),
    })
}
