//! A walk through the tree.

use std::collections::HashMap;

use vfs_sync_core::id::ItemId;

use crate::api::node::{Child, TreeEntry};
use crate::client::SyncClient;
use crate::error::ClientError;

/// A walk through the tree, one container at a time, so that it takes little memory: each container
/// keeps one name, however deep it is.
pub(super) struct Walk {
    client: SyncClient,
    /// The children to meet, last first.
    ahead: Vec<Ahead>,
    /// The containers that it went through, and their steps; the root has none. Without them, folders
    /// that hang under each other twice, or in a circle that the server has yet to refuse, would be
    /// met without end.
    through: HashMap<ItemId, Option<usize>>,
    /// The names of the containers that it went through.
    steps: Vec<Step>,
}

/// A step of a path: the one above it, and a name.
struct Step {
    above: Option<usize>,
    name: String,
}

/// A child that the walk is to meet.
struct Ahead {
    parent: Option<ItemId>,
    /// The step of the container.
    above: Option<usize>,
    depth: usize,
    child: Child,
}

impl Walk {
    pub(super) fn new(client: &SyncClient) -> Self {
        Self {
            client: client.clone(),
            ahead: Vec::new(),
            through: HashMap::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn push_children(
        &mut self,
        parent: Option<&ItemId>,
        above: Option<usize>,
        depth: usize,
    ) -> Result<(), ClientError> {
        let children = self.client.children(parent)?;
        if let Some(parent) = parent.filter(|_| !children.is_empty()) {
            self.through.insert(parent.clone(), above);
        }
        self.push(children, parent, above, depth);
        Ok(())
    }

    pub(super) fn push(
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

    /// The path of `name` under the container at `above`.
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
    type Item = Result<TreeEntry, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Ahead { parent, above, depth, child: Child { name, shortcut, node } } =
            self.ahead.pop()?;
        let again = self.through.get(&node.id).filter(|_| !shortcut).copied();
        let path = self.path(above, Some(&name));
        if !shortcut && again.is_none() {
            let step = self.steps.len();
            self.steps.push(Step { above, name });
            match self.push_children(Some(&node.id), Some(step), depth + 1) {
                // It went while the walk was on its way: what was met stays met.
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
