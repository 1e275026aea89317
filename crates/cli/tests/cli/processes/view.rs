//! The items that a device shows, and those that the grants require.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{ItemId, PrincipalId};
use vfs_sync_client::{Node, SyncClient};
use vfs_sync_testkit::everything;

/// A tree by item, with what hangs where.
#[derive(Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) items: BTreeMap<ItemId, Node>,
    pub(crate) links: BTreeSet<(ItemId, ItemId)>,
    pub(crate) grants: BTreeSet<(ItemId, Principal, AccessLevel)>,
    /// Each with the names that lead to it.
    paths: BTreeSet<(String, ItemId)>,
}

impl View {
    pub(crate) fn of(client: &SyncClient) -> Self {
        let mut view = Self {
            items: BTreeMap::new(),
            links: BTreeSet::new(),
            grants: BTreeSet::new(),
            paths: BTreeSet::new(),
        };
        for entry in everything(client).unwrap() {
            if entry.depth == 0 {
                let apart = entry.path.starts_with("shared:");
                assert_eq!(apart, entry.node.owner != client.user(), "{}", entry.path);
            }
            view.paths.insert((entry.path, entry.node.id.clone()));
            view.items.insert(entry.node.id.clone(), entry.node);
        }
        for item in view.items.keys() {
            for parent in client.parents_of(item).unwrap() {
                view.links.insert((parent, item.clone()));
            }
            for grant in client.sharing().grants(item).unwrap() {
                view.grants.insert((item.clone(), grant.principal, grant.level));
            }
        }
        view
    }
}

/// The state of the tree, whoever sees it.
pub(crate) struct Truth {
    /// Each owner's, as their own devices have them.
    items: BTreeMap<ItemId, Node>,
    grants: BTreeSet<(ItemId, Principal, AccessLevel)>,
    /// As they are in the database, those of deleted items too.
    pub(crate) links: BTreeSet<(ItemId, ItemId)>,
    pub(crate) members: BTreeSet<(PrincipalId, String)>,
}

impl Truth {
    pub(crate) fn new(
        views: &BTreeMap<&str, View>,
        links: BTreeSet<(ItemId, ItemId)>,
        members: BTreeSet<(PrincipalId, String)>,
    ) -> Self {
        let own = |user: &str, node: &Node| node.owner.as_str() == user;
        let mut truth = Self { items: BTreeMap::new(), grants: BTreeSet::new(), links, members };
        for (user, view) in views {
            let items = view.items.iter().filter(|(_, node)| own(user, node));
            truth.items.extend(items.map(|(item, node)| (item.clone(), node.clone())));
            let grants = view.grants.iter().filter(|(item, ..)| own(user, &view.items[item]));
            truth.grants.extend(grants.cloned());
        }
        truth
    }

    fn is_for(&self, principal: &Principal, user: &str) -> bool {
        match principal.kind {
            PrincipalType::User => principal.id.as_str() == user,
            PrincipalType::Group => self.members.contains(&(principal.id.clone(), user.to_owned())),
            PrincipalType::Organization => false,
        }
    }

    /// The highest of what is the user's own, is granted, and comes down within a realm.
    fn levels(&self, user: &str) -> BTreeMap<ItemId, AccessLevel> {
        let mut levels: BTreeMap<ItemId, AccessLevel> = BTreeMap::new();
        let owned = self.items.values().filter(|node| node.owner.as_str() == user);
        let mut open: Vec<_> = owned.map(|node| (node.id.clone(), AccessLevel::Admin)).collect();
        let granted = self.grants.iter().filter(|(_, principal, _)| self.is_for(principal, user));
        open.extend(granted.map(|(item, _, level)| (item.clone(), *level)));
        while let Some((item, level)) = open.pop() {
            let Some(node) = self.items.get(&item) else { continue };
            if levels.get(&item).is_some_and(|known| *known >= level) {
                continue;
            }
            levels.insert(item.clone(), level);
            for (_, child) in self.links.iter().filter(|(parent, _)| *parent == item) {
                if self.items.get(child).is_some_and(|child| child.owner == node.owner) {
                    open.push((child.clone(), level));
                }
            }
        }
        levels
    }

    /// Fails unless the view is exactly what the user may see.
    pub(crate) fn check(&self, user: &str, view: &View) {
        let levels = self.levels(user);
        let shown: BTreeMap<_, _> =
            view.items.iter().map(|(item, node)| (item.clone(), node.access_level)).collect();
        assert_eq!(shown, levels, "{user}'s items");
        for (item, node) in &view.items {
            let expected = Node { access_level: node.access_level, ..self.items[item].clone() };
            assert_eq!(*node, expected, "{user} sees {item} as its owner does");
        }
        let seen = |item: &ItemId| levels.contains_key(item);
        let links = self.links.iter().filter(|(parent, child)| seen(parent) && seen(child));
        assert_eq!(view.links, links.cloned().collect(), "{user}'s links");
        let grants = self.grants.iter().filter(|(item, ..)| seen(item));
        assert_eq!(view.grants, grants.cloned().collect(), "{user}'s grants");
    }
}
