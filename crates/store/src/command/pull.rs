//! The pull: the part of a feed that it reads, and how a page is put together.

use std::collections::BTreeSet;

use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::wire_json;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::limits::{MAX_PULL_BYTES, MAX_PULL_LIMIT, MAX_WRITE_ID_ENTRIES};
use vfs_sync_core::server::feed_window::History;
use vfs_sync_core::server::push::Head;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{EpochEnd, StateResponse, WriteIds};

use super::{Command, Pull, State};
use crate::error::Result;
use crate::topics::Topics;

/// What a pull asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// What the client has; `None` starts from the beginning.
    pub cursor: Option<Cursor>,
    /// The head at the client's first pull, while its cursor is below it.
    pub baseline: Option<Cursor>,
    /// The newest head of the pages of a pull that the client has not settled.
    pub head: Option<Cursor>,
    /// Whose write id must be in the map.
    pub client_id: Option<ReplicaId>,
    /// Entries at most: 1 to 500.
    pub limit: u32,
}

impl PullRequest {
    /// The positions that the feed must have for the client to go on from its cursor.
    pub fn positions(&self) -> impl Iterator<Item = &Cursor> {
        self.cursor.iter().chain(&self.baseline).chain(&self.head)
    }
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq)]
pub enum PullAnswer {
    /// A page.
    Page(FeedPage),
    /// The cursor cannot be served.
    Rematerialize {
        /// The oldest cursor that can be: what was pruned through, if anything was.
        oldest_available: Option<Cursor>,
        /// The feed's epochs, ascending.
        history: Vec<EpochEnd>,
    },
}

/// A page whose entries are JSON already, as they go on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The entries.
    pub items: Vec<String>,
    /// The last item's position, where there is more.
    pub next_cursor: Option<Cursor>,
    /// Whether the feed goes on.
    pub has_more: bool,
    /// The user's replicas: the most recently active, at most 512, the client's own among them.
    pub last_reconciled_write_ids: WriteIds,
    /// The head, if the pull had no cursor.
    pub baseline: Option<Cursor>,
    /// The head, if there is more.
    pub head: Option<Cursor>,
    /// The feed's epoch.
    pub epoch: Epoch,
}

impl Command for Pull {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, request } = self;
        let history = history_for(tx, user, request).await?;
        let write_ids = write_id_map(tx, user, request.client_id.as_ref()).await?;
        let window = match Window::of(request, history, tx.epoch().await?, &write_ids) {
            Ok(window) => window,
            Err(answer) => return Ok(answer),
        };
        let page = tx.read_page(user, window).await?;
        Ok(PullAnswer::Page(page.finish(write_ids)))
    }
}

impl Command for State {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, client } = self;
        let reconcile_state = tx.reconcile_state(user, client).await?.transpose()?;
        let head = tx.head(user).await?;
        let history = history_of(tx, user, head).await?;
        Ok(StateResponse {
            client_id: client.clone(),
            reconcile_state,
            feed_head: head.and_then(|head| head.cursor()),
            epoch: Some(tx.epoch().await?.as_u64()),
            pruned_through: history.and_then(|history| history.pruned_cursor()),
            last_write_ids: write_id_map(tx, user, Some(client)).await?,
        })
    }
}

/// The user's most recently active replicas, `client` among them.
async fn write_id_map<T: Topics>(
    tx: &mut T,
    user: &UserId,
    client: Option<&ReplicaId>,
) -> Result<WriteIds> {
    let mut active = tx.active_replicas(user, MAX_WRITE_ID_ENTRIES).await?;
    let own = client.filter(|client| active.iter().all(|(replica, _)| replica != *client));
    if let Some(client) = own {
        let found = tx.replicas(user, &BTreeSet::from([client.clone()])).await?;
        if let Some(row) = found.get(client) {
            active.truncate(MAX_WRITE_ID_ENTRIES - 1);
            active.push((client.clone(), row.last_write_id));
        }
    }
    Ok(active.into_iter().collect())
}

/// A feed's head with the epochs before it.
pub(super) async fn history_of<T: Topics>(
    tx: &mut T,
    user: &UserId,
    head: Option<Head>,
) -> Result<Option<History>> {
    let Some(head) = head else { return Ok(None) };
    Ok(Some(History::new(head, tx.epoch_starts(user).await?)))
}

/// The history that an answer to `request` takes: all of it only where that makes a difference.
async fn history_for<T: Topics>(
    tx: &mut T,
    user: &UserId,
    request: &PullRequest,
) -> Result<Option<History>> {
    let head = tx.head(user).await?;
    if tx.served().is_some() {
        let present = tx.epoch().await?;
        if let Some((served, since)) = tx.served() {
            served.check(user, head.as_ref(), present, since)?;
        }
    }
    if takes_history(request, head.as_ref()) {
        return history_of(tx, user, head).await;
    }
    Ok(head.map(|head| History::new(head, Vec::new())))
}

/// Whether the answer to `request` takes the epochs of the feed before its head's: to tell the
/// positions of entries, to judge a cursor, or to refuse one.
fn takes_history(request: &PullRequest, head: Option<&Head>) -> bool {
    let Some(head) = head else { return false };
    request.cursor.is_none()
        || !History::told_by_head(Some(head), request.positions())
        || is_pruned(head, request)
}

/// Whether removals went that the client may not know of.
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
    /// What the answer carries as its baseline.
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
