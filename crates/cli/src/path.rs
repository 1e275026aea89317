//! Parses and resolves paths of the tree in arguments.

use vfs_sync_client::{Child, ClientError, Node, Reader, SyncClient, TreePath};
use vfs_sync_core::access::{AccessLevel, PrincipalType};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};

use crate::error::{Failure, Kind, Result};

/// The place that a path names.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The top of the user's own tree, which is no item itself.
    Top,
    /// The path `shared:`, the list of users who share something, which is no item itself.
    Owners,
    /// The items that one owner shares, which are no item together.
    Owner(UserId),
    /// An item of some tree.
    Item(Box<Node>),
}

impl Place {
    /// Returns the container in which new items are created: an item, or the top of the user's own
    /// tree.
    ///
    /// # Errors
    /// The top of another owner's shared items, where nobody else can create items.
    pub(crate) fn container(&self) -> Result<Option<&ItemId>> {
        match self {
            Self::Top => Ok(None),
            Self::Item(node) => Ok(Some(&node.id)),
            Self::Owners => Err(Failure::usage("shared: is the list of users who share something")
                .hint("name a folder in it, as in shared:alice/photos; see `vfs-sync ls shared:`")),
            Self::Owner(owner) => {
                let at = TreePath::Shared { owner: owner.clone(), steps: Vec::new() };
                Err(Failure::usage(format!("{at} is what {owner} shares, not a folder"))
                    .hint(format!("name a folder in it; see `vfs-sync ls '{at}'`")))
            }
        }
    }

    /// Returns the owner of the tree that contains the place; `None` for the list of owners.
    pub(crate) fn owner(&self, client: &SyncClient) -> Option<UserId> {
        match self {
            Self::Top => Some(client.user()),
            Self::Owners => None,
            Self::Owner(owner) => Some(owner.clone()),
            Self::Item(node) => Some(node.owner.clone()),
        }
    }

    /// Returns the children by name; none for the list of owners, because owners are no items.
    pub(crate) fn children(&self, client: &SyncClient) -> Result<Vec<Child>> {
        Ok(match self {
            Self::Top => client.children(None)?,
            Self::Owners => Vec::new(),
            Self::Owner(owner) => client.shared_by(owner)?,
            Self::Item(node) => client.children(Some(&node.id))?,
        })
    }

    /// Returns whether the place can have children.
    pub(crate) fn is_folder(&self) -> bool {
        match self {
            Self::Top | Self::Owners | Self::Owner(_) => true,
            Self::Item(node) => on_disk(node.object_type) != OnDisk::File,
        }
    }
}

/// Parses a path argument.
pub(crate) fn parse(path: &str) -> Result<TreePath> {
    TreePath::parse(path).ok_or_else(|| {
        let wrong = format!("{path}: no user has such an id");
        Failure::new(Kind::NotFound, wrong).hint("see `vfs-sync ls shared:`")
    })
}

/// Resolves a path to the place that it names.
pub(crate) fn find(client: &SyncClient, path: &str) -> Result<Place> {
    let parsed = parse(path)?;
    match parsed {
        TreePath::Own(ref steps) if steps.is_empty() => return Ok(Place::Top),
        TreePath::Owners => return Ok(Place::Owners),
        TreePath::Shared { owner, steps } if steps.is_empty() => {
            if client.shared_by(&owner)?.is_empty() {
                let nothing =
                    format!("{owner} shares nothing with you, as far as this replica knows");
                return Err(Failure::new(Kind::NotFound, nothing).hint("see `vfs-sync ls shared:`"));
            }
            return Ok(if owner == client.user() { Place::Top } else { Place::Owner(owner) });
        }
        _ => {}
    }
    match client.resolve(path) {
        Ok(node) => Ok(Place::Item(Box::new(node))),
        Err(ClientError::UnknownPath(_)) => {
            let nothing = format!("{parsed} does not exist");
            let nearest = nearest(client, &parsed);
            let mut hint = format!("see `vfs-sync ls '{nearest}'`");
            if let TreePath::Own(steps) = &parsed
                && let Some(shared) = shared_so(client, steps)?
            {
                hint = format!(
                    "items that others share have paths of their own: did you mean {shared}?"
                );
            }
            Err(Failure::new(Kind::NotFound, nothing).hint(hint))
        }
        Err(error) => Err(error.into()),
    }
}

/// Finds a shared item whose name is the first step of an own path.
fn shared_so(client: &SyncClient, steps: &[String]) -> Result<Option<TreePath>> {
    for owner in client.shared_owners()? {
        let names = client.shared_by(&owner)?;
        if names.iter().any(|child| Some(&child.name) == steps.first()) {
            return Ok(Some(TreePath::Shared { owner, steps: steps.to_vec() }));
        }
    }
    Ok(None)
}

/// Returns the nearest existing folder above a path, for a hint.
fn nearest(client: &SyncClient, path: &TreePath) -> TreePath {
    let mut at = path.clone();
    while let Some((parent, _)) = at.split() {
        let is_there = match &parent {
            TreePath::Shared { owner, steps } if steps.is_empty() => {
                client.shared_by(owner).is_ok_and(|shared| !shared.is_empty())
            }
            parent if parent.steps().is_empty() => true,
            parent => client.resolve(&parent.to_string()).is_ok(),
        };
        if is_there {
            return parent;
        }
        at = parent;
    }
    match at {
        TreePath::Own(_) => TreePath::Own(Vec::new()),
        _ => TreePath::Owners,
    }
}

/// Resolves a path; `None` if it leads to nothing.
pub(crate) fn find_if_there(client: &SyncClient, path: &str) -> Result<Option<Place>> {
    match find(client, path) {
        Ok(place) => Ok(Some(place)),
        Err(failure) if failure.kind == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Returns the item at a path; the top of a tree is an error.
pub(crate) fn item(client: &SyncClient, path: &str) -> Result<Node> {
    match find(client, path)? {
        Place::Item(node) => Ok(*node),
        Place::Top => Err(Failure::usage("the top of the tree is not an item")),
        Place::Owners | Place::Owner(_) => Err(Failure::usage(format!(
            "{} is not an item: it lists what others share",
            parse(path)?
        ))
        .hint(format!("name something in it; see `vfs-sync ls '{}'`", parse(path)?))),
    }
}

/// Returns the item at a path and, if the path ends in a shortcut, the folder that contains it.
pub(crate) fn entry(client: &SyncClient, path: &str) -> Result<(Node, Option<ItemId>)> {
    let node = item(client, path)?;
    let above = parse(path)?.split().map(|(above, _)| above.to_string()).unwrap_or_default();
    let shortcut_in = match find(client, &above)? {
        Place::Item(folder) if folder.owner != node.owner => Some(folder.id),
        _ => None,
    };
    Ok((node, shortcut_in))
}

/// Returns the folder at a path.
pub(crate) fn folder(client: &SyncClient, path: &str) -> Result<Place> {
    let place = find(client, path)?;
    if place.is_folder() {
        return Ok(place);
    }
    Err(Failure::failed(format!("{path} is a file, not a folder")))
}

/// Checks that a write to a path goes to the owner that the user expects: the path leads through no
/// shortcut that somebody else may have made. A shortcut has the name of its target, so it could
/// stand where the user expects a folder of their own.
///
/// # Errors
/// The failure names the place by a path with its owner, which always works.
pub(crate) fn check_way(client: &SyncClient, path: &str) -> Result<()> {
    let mut ways = Vec::new();
    let mut at = parse(path)?;
    while let Some((above, _)) = at.split() {
        ways.push(std::mem::replace(&mut at, above));
    }
    let mut above: Option<Node> = None;
    while let Some(way) = ways.pop() {
        // A step that does not exist yet will belong to the tree above it.
        let Ok(node) = client.resolve(&way.to_string()) else { return Ok(()) };
        if let Some(folder) = above.filter(|folder| folder.owner != node.owner) {
            let user = client.user();
            let mine = |Reader { principal, .. }: &Reader| {
                principal.kind == PrincipalType::User && principal.id.as_str() == user.as_str()
            };
            let others = client.sharing().audience(&folder.id)?;
            let others = others.iter().any(|who| who.level >= AccessLevel::Write && !mine(who));
            if others {
                let owner = &node.owner;
                return Err(Failure::failed(format!(
                    "{way} is a shortcut into {owner}'s tree that somebody else may have created: \
                     new items there would belong to {owner}"
                ))
                .hint(format!("if that is intended, name it '{}'", of(client, &node.id)?)));
            }
        }
        above = Some(node);
    }
    Ok(())
}

/// Returns the path without its last name.
pub(crate) fn above(path: &str) -> Result<String> {
    Ok(parse(path)?.split().map_or_else(|| "/".to_owned(), |(above, _)| above.to_string()))
}

/// Returns the path of an item: `/…` in the user's own tree, `shared:<owner>/…` in another's.
pub(crate) fn of(client: &SyncClient, item: &ItemId) -> Result<String, ClientError> {
    client.path_of(item)
}

/// Converts client errors into failures that name paths instead of ids.
pub(crate) fn explain(client: &SyncClient) -> impl Fn(ClientError) -> Failure {
    move |error| {
        let path = |item: &ItemId| of(client, item).unwrap_or_else(|_| item.to_string());
        let ClientError::NotPermitted { item, needs, has } = &error else { return error.into() };
        let owner = client.node(item).ok().flatten().map(|node| node.owner);
        let tree =
            owner.map_or("another owner's tree".to_owned(), |owner| format!("{owner}'s tree"));
        let at = path(item);
        Failure::failed(format!("{at} is in {tree}: this needs {needs} access, and you have {has}"))
            .hint(format!("its owner can grant you more; see `vfs-sync shares '{at}'`"))
    }
}

/// Splits a path into the path above and its last name; fails if the path has no names.
pub(crate) fn split(path: &str) -> Result<(String, String)> {
    let path = parse(path)?;
    match path.split() {
        Some((above, name)) => Ok((above.to_string(), name.to_owned())),
        None => {
            Err(Failure::usage(format!("the path {path} has no name"))
                .hint("name an item under it"))
        }
    }
}

/// Parses the name of a new item.
pub(crate) fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|reason| Failure::usage(format!("the name {text:?} {reason}")))
}

/// Returns the destination of an item named `own` that is sent to `to`: inside `to` if that is a
/// folder, else at the path `to` itself. Fails if the destination exists.
pub(crate) fn destination(client: &SyncClient, to: &str, own: &str) -> Result<(Place, Name)> {
    let (parent, text) = match find_if_there(client, to)? {
        Some(place) if place.is_folder() => (place, own.to_owned()),
        Some(_) => {
            return Err(Failure::new(Kind::Exists, format!("{to} exists already"))
                .hint("delete it first with `vfs-sync rm`, or choose another name"));
        }
        None if to.ends_with('/') => {
            return Err(Failure::new(Kind::NotFound, format!("the folder {to} does not exist"))
                .hint(format!("create it with `vfs-sync mkdir -p '{to}'`")));
        }
        None => {
            let (parent, text) = split(to)?;
            return Ok((folder(client, &parent)?, name(&text)?));
        }
    };
    let taken = parent.children(client)?.into_iter().any(|child| child.name == text);
    if taken {
        let there = format!("{text} exists already in {to}");
        return Err(Failure::new(Kind::Exists, there).hint("choose another name"));
    }
    Ok((parent, name(&text)?))
}
