//! Calls that read the tree, and a walk through it.

mod query;

use std::collections::{HashMap, HashSet};

use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::tree::sibling_names;

use crate::api::node::{Child, Node, TreeEntry};
use crate::api::path::TreePath;
use crate::client::SyncClient;
use crate::error::{ClientError, Result};
pub use query::{MAX_FOUND, NameIs, Query, QueryCursor, QueryWatch, ResultChange, SortBy};

impl SyncClient {
    /// Returns the children of `parent`, by name; `None` is the top of the user's own tree, which
    /// has the user's items without a visible container of the user's. Items that others share are
    /// never in it; [`SyncClient::shared_by`] lists them.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn children(&self, parent: Option<&ItemId>) -> Result<Vec<Child>> {
        let mut store = self.store();
        let nodes = store.children(parent)?;
        let home = match parent {
            Some(parent) => store.node(parent)?.map(|node| node.owner),
            None => None,
        };
        let home = home.unwrap_or_else(|| store.meta().user.clone());
        drop(store);
        Ok(named(&home, nodes))
    }

    /// Returns the other users who share something with this one.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn shared_owners(&self) -> Result<Vec<UserId>> {
        Ok(self.store().other_owners()?.into_iter().collect())
    }

    /// Returns the items that `owner` shares with this user, by name: those of `owner`'s items that
    /// have no visible container of `owner`'s. For the user's own id it returns the top of the own
    /// tree.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn shared_by(&self, owner: &UserId) -> Result<Vec<Child>> {
        let nodes = self.store().tops_of(owner)?;
        Ok(named(owner, nodes))
    }

    /// Returns an item, if the replica shows it.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn node(&self, id: &ItemId) -> Result<Option<Node>> {
        self.store().node(id)
    }

    /// Returns the item at a path in the form of [`TreePath`]: `/docs/plan.txt` in the user's own
    /// tree, `shared:alice/docs/plan.txt` among the items that alice shares. A path without names,
    /// such as that of the top, leads to no item.
    ///
    /// # Errors
    /// [`ClientError::UnknownPath`].
    pub fn resolve(&self, path: &str) -> Result<Node> {
        let unknown = || ClientError::UnknownPath(path.to_owned());
        let path = TreePath::parse(path).ok_or_else(unknown)?;
        let mut at: Option<Node> = None;
        for step in path.steps() {
            let children = match (&at, &path) {
                (Some(node), _) => self.children(Some(&node.id))?,
                (None, TreePath::Shared { owner, .. }) => self.shared_by(owner)?,
                (None, _) => self.children(None)?,
            };
            let found = children.into_iter().find(|child| child.name == *step);
            at = Some(found.ok_or_else(unknown)?.node);
        }
        at.ok_or_else(unknown)
    }

    /// Returns a path of an item, by its first container in its own tree at each step, so no path
    /// leads through a shortcut. The path begins with `/` if the item is the user's own, else with
    /// `shared:` and its owner; see [`TreePath`].
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`]; [`ClientError::Cycle`] for an item in a cycle that the server
    /// has not rejected yet, which has no path.
    pub fn path_of(&self, id: &ItemId) -> Result<String> {
        let unknown = |id: &ItemId| ClientError::UnknownItem(id.clone());
        let home = self.node(id)?.ok_or_else(|| unknown(id))?.owner;
        let mut steps = Vec::new();
        let mut passed = HashSet::new();
        let mut at = id.clone();
        loop {
            let mut parent = None;
            for above in self.parents_of(&at)? {
                if self.node(&above)?.is_some_and(|node| node.owner == home) {
                    parent = Some(above);
                    break;
                }
            }
            let siblings = match &parent {
                Some(parent) => self.children(Some(parent))?,
                None => self.shared_by(&home)?,
            };
            let own = siblings.into_iter().find(|child| child.node.id == at);
            steps.push(own.ok_or_else(|| unknown(&at))?.name);
            let Some(parent) = parent else { break };
            passed.insert(std::mem::replace(&mut at, parent));
            if passed.contains(&at) {
                return Err(ClientError::Cycle { parent: at.clone(), child: at });
            }
        }
        steps.reverse();
        let own = home == self.user();
        let path = if own { TreePath::Own(steps) } else { TreePath::Shared { owner: home, steps } };
        Ok(path.to_string())
    }

    /// Returns the containers of an item, by id.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn parents_of(&self, id: &ItemId) -> Result<Vec<ItemId>> {
        let mut store = self.store();
        store.node(id)?.ok_or_else(|| ClientError::UnknownItem(id.clone()))?;
        store.parents(id)
    }

    /// Walks the tree under `root` (`None`: the user's whole own tree), containers before their
    /// children, siblings by name. The walk visits an item with several containers under each of
    /// them, but descends into it only the first time ([`TreeEntry::linked_again`] has that path),
    /// so a walk is no longer than the number of links. It visits shortcuts without descending into
    /// them. It shows a change made during the walk if it has not passed that place yet.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`]; each step may fail to read the replica.
    pub fn walk(
        &self,
        root: Option<&ItemId>,
    ) -> Result<impl Iterator<Item = Result<TreeEntry>> + Send + use<>> {
        let mut walk = Walk::new(self);
        walk.push_children(root, None, 0)?;
        Ok(walk)
    }

    /// Walks the items that `owner` shares, as [`SyncClient::walk`] does.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn walk_shared(
        &self,
        owner: &UserId,
    ) -> Result<impl Iterator<Item = Result<TreeEntry>> + Send + use<>> {
        let mut walk = Walk::new(self);
        walk.push(self.shared_by(owner)?, None, None, 0);
        Ok(walk)
    }

    /// Returns the containers that changed after `after` (`None`: ever), in the order of their last
    /// change, each with its position; at most `limit`.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn list_changed_containers(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<(ItemId, Cursor)>> {
        self.store().changed_containers(after, limit)
    }
}

/// Assigns names to the items under a container of `home`'s, or at the top of `home`'s tree.
fn named(home: &UserId, nodes: Vec<Node>) -> Vec<Child> {
    let names = sibling_names(home, &nodes);
    let child = |(name, node): (String, Node)| Child { name, shortcut: node.owner != *home, node };
    let mut children: Vec<Child> = names.into_iter().zip(nodes).map(child).collect();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    children
}

/// A walk through the tree, one container at a time. It uses little memory: each container keeps
/// one name, at any depth.
struct Walk {
    client: SyncClient,
    /// The children to visit, the last one first.
    ahead: Vec<Ahead>,
    /// The containers that the walk descended into, and their steps; the root has none. Without
    /// them, the walk would never end in folders that contain each other in a cycle that the server
    /// has not rejected yet.
    through: HashMap<ItemId, Option<usize>>,
    /// The names of the containers that the walk descended into.
    steps: Vec<Step>,
}

/// A step of a path: its parent step, and a name.
struct Step {
    above: Option<usize>,
    name: String,
}

/// A child that the walk will visit.
struct Ahead {
    parent: Option<ItemId>,
    /// The step of the container.
    above: Option<usize>,
    depth: usize,
    child: Child,
}

impl Walk {
    fn new(client: &SyncClient) -> Self {
        Self {
            client: client.clone(),
            ahead: Vec::new(),
            through: HashMap::new(),
            steps: Vec::new(),
        }
    }

    fn push_children(
        &mut self,
        parent: Option<&ItemId>,
        above: Option<usize>,
        depth: usize,
    ) -> Result<()> {
        let children = self.client.children(parent)?;
        if let Some(parent) = parent.filter(|_| !children.is_empty()) {
            self.through.insert(parent.clone(), above);
        }
        self.push(children, parent, above, depth);
        Ok(())
    }

    fn push(
        &mut self,
        children: Vec<Child>,
        parent: Option<&ItemId>,
        above: Option<usize>,
        depth: usize,
    ) {
        let ahead = children.into_iter().rev();
        let ahead = ahead.map(|child| Ahead { parent: parent.cloned(), above, depth, child });
        self.ahead.extend(ahead);
    }

    /// Returns the path of `name` under the container at `above`.
    fn path(&self, mut above: Option<usize>, name: Option<&str>) -> String {
        let mut names: Vec<&str> = name.into_iter().collect();
        while let Some(step) = above.and_then(|at| self.steps.get(at)) {
            names.push(&step.name);
            above = step.above;
        }
        names.reverse();
        names.join("/")
    }
}

impl Iterator for Walk {
    type Item = Result<TreeEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let Ahead { parent, above, depth, child: Child { name, shortcut, node } } =
            self.ahead.pop()?;
        let again = self.through.get(&node.id).filter(|_| !shortcut).copied();
        let path = self.path(above, Some(&name));
        if !shortcut && again.is_none() {
            let step = self.steps.len();
            self.steps.push(Step { above, name });
            match self.push_children(Some(&node.id), Some(step), depth + 1) {
                // The item was removed during the walk: what the walk has visited stays visited.
                Ok(()) | Err(ClientError::UnknownItem(_)) => {}
                Err(error) => return Some(Err(error)),
            }
            if !self.through.contains_key(&node.id) {
                self.steps.truncate(step);
            }
        }
        let linked_again = again.map(|at| self.path(at, None));
        Some(Ok(TreeEntry { path, depth, parent, shortcut, linked_again, node }))
    }
}
