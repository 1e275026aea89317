//! The present and earlier contents of a file.

use crate::command::{ReadableBlobs, SurplusVersions, Versions, one_call};

one_call! {
    ReadableBlobs: |tx, it| tx.readable(&it.user, &it.blob_ids);
    Versions: |tx, it| tx.versions(&it.user, &it.item_id, it.limit);
    SurplusVersions: |tx, it| tx.surplus_versions(it.before, it.at_most);
}
