//! Paths of the tree, as arguments.

use vfs_sync_client::{ClientError, Node, SyncClient};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::Name;

use crate::error::{Failure, Kind, Result};
use crate::fs::metadata::{OnDisk, on_disk};

/// What a path leads to.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The top of the tree, which is no item.
    Top,
    /// An item.
    Item(Box<Node>),
}

impl Place {
    pub(crate) fn id(&self) -> Option<&ItemId> {
        match self {
            Self::Top => None,
            Self::Item(node) => Some(&node.id),
        }
    }

    /// Whether something can hang under it.
    pub(crate) fn is_folder(&self) -> bool {
        match self {
            Self::Top => true,
            Self::Item(node) => on_disk(node.object_type) != OnDisk::File,
        }
    }
}

/// Whether the path is that of the top.
pub(crate) fn is_top(path: &str) -> bool {
    path.split('/').all(str::is_empty)
}

/// What is at a path.
pub(crate) fn find(client: &SyncClient, path: &str) -> Result<Place> {
    if is_top(path) {
        return Ok(Place::Top);
    }
    match client.resolve(path) {
        Ok(node) => Ok(Place::Item(Box::new(node))),
        Err(error @ ClientError::UnknownPath(_)) => {
            let nearest = nearest(client, path);
            Err(Failure::from(error).hint(format!("see `vfs-sync ls '{nearest}'`")))
        }
        Err(error) => Err(error.into()),
    }
}

/// The folder above a path that is there: where to look for what was meant.
fn nearest<'a>(client: &SyncClient, mut path: &'a str) -> &'a str {
    while let Some((parent, _)) = split(path).filter(|(parent, _)| !is_top(parent)) {
        if client.resolve(parent).is_ok() {
            return parent;
        }
        path = parent;
    }
    "/"
}

/// What is at a path, if something is.
pub(crate) fn find_if_there(client: &SyncClient, path: &str) -> Result<Option<Place>> {
    match find(client, path) {
        Ok(place) => Ok(Some(place)),
        Err(failure) if failure.kind == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The item at a path, which must not be the top.
pub(crate) fn item(client: &SyncClient, path: &str) -> Result<Node> {
    match find(client, path)? {
        Place::Item(node) => Ok(*node),
        Place::Top => Err(Failure::usage("the top of the tree is no item")),
    }
}

/// The item at a path, and, if it is a shortcut there, the folder that has it.
pub(crate) fn entry(client: &SyncClient, path: &str) -> Result<(Node, Option<ItemId>)> {
    let node = item(client, path)?;
    let above = split(path).map_or("", |(above, _)| above);
    let shortcut_in = match find(client, above)? {
        Place::Item(folder) if folder.owner != node.owner => Some(folder.id),
        _ => None,
    };
    Ok((node, shortcut_in))
}

/// The folder at a path.
pub(crate) fn folder(client: &SyncClient, path: &str) -> Result<Place> {
    let place = find(client, path)?;
    if place.is_folder() {
        return Ok(place);
    }
    Err(Failure::failed(format!("{path} is a file, not a folder")))
}

/// Where an item is, from the top.
pub(crate) fn of(client: &SyncClient, item: &ItemId) -> Result<String, ClientError> {
    Ok(format!("/{}", client.path_of(item)?.trim_start_matches('/')))
}

/// What went wrong, with paths where the client has ids.
pub(crate) fn explain(client: &SyncClient) -> impl Fn(ClientError) -> Failure {
    move |error| {
        let path = |item: &ItemId| of(client, item).unwrap_or_else(|_| item.to_string());
        let ClientError::NotPermitted { item, needs, has } = &error else { return error.into() };
        let owner = client.node(item).ok().flatten().map(|node| node.owner);
        let tree = owner.map_or("another's tree".to_owned(), |owner| format!("{owner}'s tree"));
        let at = path(item);
        Failure::failed(format!("{at} is in {tree}: this takes {needs}, and you have {has}"))
            .hint(format!("its owner can give you more; see `vfs-sync shares '{at}'`"))
    }
}

/// A path's last name, and what is before it.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').unwrap_or(("", path)))
}

/// A name for a new item.
pub(crate) fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|reason| Failure::usage(format!("the name {text:?} {reason}")))
}

/// Where something goes that is called `own` and sent to `to`: into `to` if that is a folder, else
/// to that name; nothing may be there.
pub(crate) fn destination(client: &SyncClient, to: &str, own: &str) -> Result<(Place, Name)> {
    let (parent, text) = match find_if_there(client, to)? {
        Some(place) if place.is_folder() => (place, own),
        Some(_) => {
            return Err(Failure::new(Kind::Exists, format!("there is something at {to} already"))
                .hint("delete it first with `vfs-sync rm`, or choose another name"));
        }
        None if to.ends_with('/') => {
            return Err(Failure::new(Kind::NotFound, format!("there is no folder {to}"))
                .hint(format!("make it with `vfs-sync mkdir -p '{to}'`")));
        }
        None => {
            let (parent, text) = split(to).unwrap_or(("", to));
            return Ok((folder(client, parent)?, name(text)?));
        }
    };
    let taken = client.children(parent.id())?.into_iter().any(|child| child.name == text);
    if taken {
        let there = format!("there is a {text} in {to} already");
        return Err(Failure::new(Kind::Exists, there).hint("choose another name"));
    }
    Ok((parent, name(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_last_name_unless_it_is_the_top() {
        assert_eq!(split("/a/b/"), Some(("/a", "b")));
        assert_eq!(split("a"), Some(("", "a")));
        assert_eq!(split("//"), None);
        assert!(is_top("") && is_top("//") && !is_top("/ "));
    }
}
