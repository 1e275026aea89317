//! The tree as an application sees it: confirmed state, queued operations on top, a name for
//! each sibling.

use std::sync::Arc;

use crate::access::AccessLevel;
use crate::content::Sha256Digest;
use crate::id::{BlobId, ItemId, UserId};
use crate::item::{Encrypted, Metadata, Name, ObjectType};
use crate::time::Timestamp;

/// An item as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Which.
    pub id: ItemId,
    /// Whose it is.
    pub owner: UserId,
    /// What it is.
    pub object_type: ObjectType,
    /// Its name as it was given; siblings may share it.
    pub name: Option<Name>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its encrypted form.
    pub encrypted: Option<Encrypted>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What the reader may do with it.
    pub access_level: AccessLevel,
    /// Its content, if it has one.
    pub content: Option<NodeContent>,
    /// Whether operations or contents of this replica are still on their way to the server.
    pub pending: bool,
}

/// The content of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContent {
    /// Its bytes.
    pub blob_id: BlobId,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub digest: Sha256Digest,
    /// What the uploader called them.
    pub content_type: Option<Arc<str>>,
}
