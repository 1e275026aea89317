//! Items as JSON text. Most of what a client returns are items: their text is written as it stands, without
//! a tree of values in between.

use serde::Serialize;
use vfs_sync_client::core::access::AccessLevel;
use vfs_sync_client::core::content::Sha256Digest;
use vfs_sync_client::core::id::{BlobId, ItemId, UserId};
use vfs_sync_client::core::item::{Encrypted, Metadata, Name, ObjectType};
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{
    Child, ItemChange, Node, QueryCursor, ResultChange, ShownItem, TreeChange, TreeEntry,
};

use super::text;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContentForm<'a> {
    blob_id: &'a BlobId,
    size: u64,
    digest: &'a Sha256Digest,
    content_type: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeForm<'a> {
    id: &'a ItemId,
    owner: &'a UserId,
    #[serde(rename = "type")]
    object_type: ObjectType,
    name: Option<&'a Name>,
    metadata: &'a Metadata,
    encrypted: Option<&'a Encrypted>,
    created_at: Timestamp,
    modified_at: Timestamp,
    access_level: AccessLevel,
    content: Option<ContentForm<'a>>,
    pending: bool,
}

impl<'a> From<&'a Node> for NodeForm<'a> {
    fn from(node: &'a Node) -> Self {
        let content = node.content.as_ref().map(|content| ContentForm {
            blob_id: &content.blob_id,
            size: content.size,
            digest: &content.digest,
            content_type: content.content_type.as_deref(),
        });
        Self {
            id: &node.id,
            owner: &node.owner,
            object_type: node.object_type,
            name: node.name.as_ref(),
            metadata: &node.metadata,
            encrypted: node.encrypted.as_ref(),
            created_at: node.created_at,
            modified_at: node.modified_at(),
            access_level: node.access_level,
            content,
            pending: node.pending,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChildForm<'a> {
    #[serde(flatten)]
    node: NodeForm<'a>,
    shown_name: &'a str,
    shortcut: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryForm<'a> {
    #[serde(flatten)]
    node: NodeForm<'a>,
    path: &'a str,
    depth: usize,
    parent: Option<&'a ItemId>,
    shortcut: bool,
    linked_again: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownForm<'a> {
    #[serde(flatten)]
    node: NodeForm<'a>,
    path: &'a str,
    parents: &'a [ItemId],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CursorForm<'a> {
    name: &'a str,
    modified_at: Timestamp,
    id: &'a ItemId,
}

#[derive(Serialize)]
struct FoundForm<'a> {
    items: Vec<NodeForm<'a>>,
    next: Option<CursorForm<'a>>,
}

#[derive(Serialize)]
struct ResultForm<'a> {
    added: Vec<NodeForm<'a>>,
    changed: Vec<NodeForm<'a>>,
    removed: &'a [ItemId],
    order: &'a [ItemId],
}

#[derive(Serialize)]
struct ChangeForm<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a ItemId,
    local: bool,
    before: Option<ShownForm<'a>>,
    after: Option<ShownForm<'a>>,
}

fn forms<'a, T, F: From<&'a T>>(all: &'a [T]) -> Vec<F> {
    all.iter().map(F::from).collect()
}

impl<'a> From<&'a Child> for ChildForm<'a> {
    fn from(child: &'a Child) -> Self {
        Self { node: (&child.node).into(), shown_name: &child.name, shortcut: child.shortcut }
    }
}

impl<'a> From<&'a TreeEntry> for EntryForm<'a> {
    fn from(entry: &'a TreeEntry) -> Self {
        Self {
            node: (&entry.node).into(),
            path: &entry.path,
            depth: entry.depth,
            parent: entry.parent.as_ref(),
            shortcut: entry.shortcut,
            linked_again: entry.linked_again.as_deref(),
        }
    }
}

impl<'a> From<&'a ShownItem> for ShownForm<'a> {
    fn from(item: &'a ShownItem) -> Self {
        Self { node: (&item.node).into(), path: &item.path, parents: &item.parents }
    }
}

pub(crate) fn node(node: &Node) -> String {
    text(&NodeForm::from(node))
}

pub(crate) fn children(all: &[Child]) -> String {
    text(&forms::<_, ChildForm<'_>>(all))
}

pub(crate) fn entries(all: &[TreeEntry]) -> String {
    text(&forms::<_, EntryForm<'_>>(all))
}

/// Returns a page of a query, with the place after which the next one begins.
pub(crate) fn found(page: &[Node]) -> String {
    let last = page.last().map(QueryCursor::of);
    let next = last.as_ref().map(|place| CursorForm {
        name: &place.name,
        modified_at: place.modified_at,
        id: &place.id,
    });
    text(&FoundForm { items: forms(page), next })
}

pub(crate) fn result_change(change: &ResultChange) -> String {
    text(&ResultForm {
        added: forms(&change.added),
        changed: forms(&change.changed),
        removed: &change.removed,
        order: &change.order,
    })
}

pub(crate) fn tree_change(change: &TreeChange) -> String {
    let change = match change {
        TreeChange::Rebuilt => return r#"{"type":"rebuilt"}"#.into(),
        TreeChange::Item(change) => change,
    };
    let ItemChange { id, before, after, local } = &**change;
    let kind = match (before, after) {
        (None, _) => "appeared",
        (_, None) => "went",
        _ => "changed",
    };
    text(&ChangeForm {
        kind,
        id,
        local: *local,
        before: before.as_ref().map(ShownForm::from),
        after: after.as_ref().map(ShownForm::from),
    })
}
