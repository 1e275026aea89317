//! Queries of the whole replica, and their results while they change.

use std::collections::BTreeMap;

use tokio::sync::watch;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::ObjectType;
use vfs_sync_core::time::Timestamp;

use crate::api::node::Node;
use crate::client::SyncClient;
use crate::error::Result;

/// The greatest number of items in a page of a query.
pub const MAX_FOUND: usize = 1_000;

/// A condition on the name of an item, as it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameIs {
    /// The name is this text.
    Exactly(String),
    /// The name begins with this text.
    StartsWith(String),
}

/// The order of the result of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// By name, byte by byte; items without a name come first.
    #[default]
    Name,
    /// By the time that [`Node::modified_at`] returns.
    ModifiedAt,
}

/// A place in the result of a query: the item after which the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCursor {
    /// The name of the item; empty if it has none.
    pub name: String,
    /// The time of the item.
    pub modified_at: Timestamp,
    /// The id of the item.
    pub id: ItemId,
}

impl QueryCursor {
    /// Returns the place of an item.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let name = node.name.as_ref().map_or_else(String::new, |name| name.as_str().to_owned());
        Self { name, modified_at: node.modified_at(), id: node.id.clone() }
    }
}

/// A query of the items that the replica shows, the user's own and those that others share. Every
/// condition that is given must hold.
///
/// The cost is that of the items that meet the first given condition of `metadata`, `object_type` and
/// `owner`, up to the end of the page; without these, of those in the range of `name` or
/// `modified_since`, whichever is sorted by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// The name of the items.
    pub name: Option<NameIs>,
    /// The type of the items.
    pub object_type: Option<ObjectType>,
    /// The owner of the items.
    pub owner: Option<UserId>,
    /// A metadata key, and its value.
    pub metadata: Option<(String, serde_json::Value)>,
    /// The earliest time of the items.
    pub modified_since: Option<Timestamp>,
    /// The order of the result.
    pub sort_by: SortBy,
    /// True for the opposite order.
    pub descending: bool,
    /// The place after which the page begins.
    pub after: Option<QueryCursor>,
    /// The greatest number of items in the page, at most [`MAX_FOUND`]; 0 stands for that.
    pub limit: usize,
}

impl Query {
    pub(crate) fn page_size(&self) -> usize {
        if self.limit == 0 { MAX_FOUND } else { self.limit.min(MAX_FOUND) }
    }
}

/// The difference between two results of a query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResultChange {
    /// The items that are new in the result.
    pub added: Vec<Node>,
    /// The items that changed, and are still in the result.
    pub changed: Vec<Node>,
    /// The items that are no longer in the result.
    pub removed: Vec<ItemId>,
    /// All items of the result, in order.
    pub order: Vec<ItemId>,
}

impl ResultChange {
    /// Compares two results; `None` if they are the same.
    #[must_use]
    pub fn between(before: &[Node], after: &[Node]) -> Option<Self> {
        if before == after {
            return None;
        }
        let mut known: BTreeMap<&ItemId, &Node> =
            before.iter().map(|node| (&node.id, node)).collect();
        let mut change = Self::default();
        for node in after {
            change.order.push(node.id.clone());
            match known.remove(&node.id) {
                None => change.added.push(node.clone()),
                Some(old) if old != node => change.changed.push(node.clone()),
                Some(_) => {}
            }
        }
        change.removed = known.into_keys().cloned().collect();
        Some(change)
    }
}

/// The result of a query while it changes.
pub struct QueryWatch {
    client: SyncClient,
    query: Query,
    version: watch::Receiver<u64>,
    last: Option<Vec<Node>>,
}

impl QueryWatch {
    /// Returns the first result, all of it added, and then each change of it; `None` never comes, as
    /// the watch keeps the client open. Changes that come faster than they are taken are joined.
    ///
    /// # Errors
    /// As [`SyncClient::find`].
    pub async fn next(&mut self) -> Result<Option<ResultChange>> {
        loop {
            self.version.borrow_and_update();
            let now = self.client.find(&self.query)?;
            let first = self.last.is_none();
            let change = ResultChange::between(self.last.as_deref().unwrap_or_default(), &now);
            self.last = Some(now);
            if change.is_some() || first {
                return Ok(Some(change.unwrap_or_default()));
            }
            if self.version.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl SyncClient {
    /// Returns a page of the items that a query finds. The first query of a replica makes an index of
    /// all its items, which edits and pulls keep up to date from then on.
    ///
    /// # Errors
    /// Only if the replica cannot be read or written.
    pub fn find(&self, query: &Query) -> Result<Vec<Node>> {
        self.store().find(query)
    }

    /// Watches a page of the items that a query finds.
    #[must_use]
    pub fn watch(&self, query: Query) -> QueryWatch {
        QueryWatch { client: self.clone(), query, version: self.tree_version(), last: None }
    }
}
