//! The pull: which part of the feed it reads, and how it builds a page.

use std::collections::BTreeSet;

use vfs_sync_core::cursor::Position;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::limits::MAX_WRITE_ID_ENTRIES;
use vfs_sync_core::server::feed_window::{History, PullRequest, Rematerialize, Served, Window};
use vfs_sync_core::server::push::Head;
use vfs_sync_core::wire::{StateResponse, WriteIds};

use super::{Command, Pull, ReadHeads, State};
use crate::error::Result;
use crate::moves::FeedHeads;
use crate::topics::Topics;
use crate::values::{FeedPage, PullAnswer};

/// Owners that a state names whose grants have no effect.
const MAX_WITHHELD_OWNERS: usize = 1_000;

impl Command for Pull {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, request } = self;
        let (head, awaits_call) = tx.feed_state(user).await?;
        check_head(tx, user, head.as_ref()).await?;
        if head.is_none() || awaits_call {
            return Ok(None);
        }
        let history = history_for(tx, user, head, request).await?;
        let write_ids = write_id_map(tx, user, request.client_id.as_ref()).await?;
        let epoch = tx.epoch().await?;
        let window = match Window::of(request, history) {
            Served::Window(window) => window,
            Served::Empty => {
                return Ok(Some(PullAnswer::Page(FeedPage {
                    items: Vec::new(),
                    next_cursor: None,
                    has_more: false,
                    last_reconciled_write_ids: write_ids,
                    baseline: None,
                    head: None,
                    epoch,
                })));
            }
            Served::Rematerialize(refused) => {
                let refused = Rematerialize { epoch: Some(epoch), ..refused };
                return Ok(Some(PullAnswer::Rematerialize(refused)));
            }
        };
        let page = tx.read_page(user, window).await?;
        Ok(Some(PullAnswer::Page(page.finish(epoch, write_ids))))
    }
}

impl Command for ReadHeads {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let epoch = tx.epoch().await?;
        let heads = tx.heads(&self.users).await?;
        let position = |head: &Head| {
            let Head { epoch, counter, .. } = *head;
            (counter > 0).then_some(Position { epoch, counter })
        };
        let heads = heads.into_iter().map(|(user, head)| (user, position(&head))).collect();
        Ok(FeedHeads { epoch, heads })
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
            withheld_owners: tx.withheld_owners(user, MAX_WITHHELD_OWNERS).await?,
        })
    }
}

/// Returns the last write ids of the user's most recently active replicas, including `client`.
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

/// Loads the history of a feed: its head and the epochs before it.
pub(super) async fn history_of<T: Topics>(
    tx: &mut T,
    user: &UserId,
    head: Option<Head>,
) -> Result<Option<History>> {
    let Some(head) = head else { return Ok(None) };
    Ok(Some(History::new(head, tx.epoch_starts(user).await?)))
}

/// Fails if the feed's head showed a later state before.
async fn check_head<T: Topics>(tx: &mut T, user: &UserId, head: Option<&Head>) -> Result<()> {
    if tx.served().is_some() {
        let present = tx.epoch().await?;
        if let Some((served, since)) = tx.served() {
            served.check(user, head, present, since)?;
        }
    }
    Ok(())
}

/// The history that an answer to `request` takes: all of it only where that makes a difference.
async fn history_for<T: Topics>(
    tx: &mut T,
    user: &UserId,
    head: Option<Head>,
    request: &PullRequest,
) -> Result<Option<History>> {
    if request.takes_history(head.as_ref()) {
        return history_of(tx, user, head).await;
    }
    Ok(head.map(|head| History::new(head, Vec::new())))
}
