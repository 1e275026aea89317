//! The body of an attachment's row. The encoding does not describe itself, so fields of later
//! versions follow those of the first one, and are missing from its rows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfs_sync_core::content::{Attachment, RelationKind, Sha256Digest};
use vfs_sync_core::id::{BlobId, ItemId, RefId};
use vfs_sync_core::time::Timestamp;

/// The fields of the first version, in its order.
#[derive(Serialize, Deserialize)]
struct First {
    item_id: ItemId,
    blob_id: BlobId,
    relation_kind: RelationKind,
    size: u64,
    digest: Sha256Digest,
    content_type: Option<Arc<str>>,
    ref_id: RefId,
    attached_at: Timestamp,
}

pub(super) fn encode(attachment: &Attachment) -> Vec<u8> {
    let first = First {
        item_id: attachment.item_id.clone(),
        blob_id: attachment.blob_id.clone(),
        relation_kind: attachment.relation_kind,
        size: attachment.size,
        digest: attachment.digest,
        content_type: attachment.content_type.clone(),
        ref_id: attachment.ref_id.clone(),
        attached_at: attachment.attached_at,
    };
    super::encode(&(first, attachment.modified_at))
}

pub(super) fn decode(body: &[u8]) -> Result<Attachment, postcard::Error> {
    let (first, rest): (First, &[u8]) = postcard::take_from_bytes(body)?;
    let modified_at = if rest.is_empty() { None } else { postcard::from_bytes(rest)? };
    Ok(Attachment {
        item_id: first.item_id,
        blob_id: first.blob_id,
        relation_kind: first.relation_kind,
        size: first.size,
        digest: first.digest,
        content_type: first.content_type,
        ref_id: first.ref_id,
        attached_at: first.attached_at,
        modified_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_first_version_has_no_time_of_its_own() {
        let mut attachment = Attachment {
            item_id: ItemId::new("i").unwrap(),
            blob_id: BlobId::new("b").unwrap(),
            relation_kind: RelationKind::File,
            size: 3,
            digest: Sha256Digest([7; 32]),
            content_type: Some("text/plain".into()),
            ref_id: RefId::new("r").unwrap(),
            attached_at: Timestamp::MIN,
            modified_at: Timestamp::from_millis(-1),
        };
        let body = encode(&attachment);
        assert_eq!(decode(&body).unwrap(), attachment);
        attachment.modified_at = None;
        let now = encode(&attachment);
        assert_eq!(decode(&now).unwrap(), attachment);
        let first = &now[..now.len() - 1];
        assert_eq!(decode(first).unwrap(), attachment);
        assert!(decode(&first[..first.len() - 1]).is_err());
    }
}
