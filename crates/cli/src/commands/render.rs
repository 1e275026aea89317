//! Rendering that several commands share: items as JSON, names, progress.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use vfs_sync_client::{Node, Observer, Progress};
use vfs_sync_folder::disk::link;
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};

use crate::escape::escaped;
use crate::output::{self, bytes_text, count_text};

/// Renders an item as JSON, for `ls`, `tree` and `stat`.
pub(super) fn node_json(node: &Node) -> Value {
    json!({
        "id": node.id,
        "type": node.object_type,
        "owner": node.owner,
        "accessLevel": node.access_level,
        "size": node.content.as_ref().map(|content| content.size),
        "digest": node.content.as_ref().map(|content| content.digest),
        "blobId": node.content.as_ref().map(|content| &content.blob_id),
        "contentType": node.content.as_ref().and_then(|content| content.content_type.as_deref()),
        "metadata": node.metadata,
        "encrypted": node.encrypted.is_some(),
        "createdAt": node.created_at,
        "modifiedAt": node.modified_at(),
        "pending": node.pending,
    })
}

pub(super) fn with_field(mut value: Value, key: &str, more: impl Into<Value>) -> Value {
    if let Value::Object(map) = &mut value {
        map.insert(key.to_owned(), more.into());
    }
    value
}

/// Renders a name, a folder's with a `/`, a shortcut's with a `@`.
pub(super) fn display_name(name: &str, node: &Node, shortcut: bool) -> String {
    let mark = match on_disk(node.object_type) {
        _ if shortcut => "@",
        OnDisk::Folder => "/",
        _ => "",
    };
    match link::target(node) {
        Some(target) if !shortcut => {
            format!("{} -> {}", escaped(name), escaped(&target.to_string_lossy()))
        }
        _ => format!("{}{mark}", escaped(name)),
    }
}

/// A display of the client's progress, which can be switched on and off.
#[derive(Default)]
pub(super) struct SyncProgress(Mutex<Option<output::Progress>>, Mutex<Progress>);

impl SyncProgress {
    /// Sets the display to `progress`, or removes it.
    pub(super) fn with(&self, progress: Option<output::Progress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Returns the bytes that were moved so far, and the progress in words.
    pub(super) fn last(&self) -> (u64, String) {
        let last = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        (last.uploaded_bytes.saturating_add(last.downloaded_bytes), progress_text(&last))
    }
}

impl Observer for SyncProgress {
    fn progress(&self, progress: &Progress) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = *progress;
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shown) = &*shown else { return };
        shown.set(progress_text(progress));
    }
}

fn progress_text(progress: &Progress) -> String {
    let mut text = Vec::new();
    let (pushing, pushed) = (progress.pushed + progress.to_push, progress.pushed);
    if pushing > 0 {
        text.push(format!("pushed {} of {}", count_text(pushed), count_text(pushing)));
    }
    if progress.pulled > 0 {
        text.push(format!("pulled {}", count_text(progress.pulled)));
    }
    if progress.uploaded + progress.to_upload > 0 {
        text.push(format!(
            "uploaded {} of {} ({})",
            count_text(progress.uploaded),
            count_text(progress.uploaded + progress.to_upload),
            bytes_text(progress.uploaded_bytes),
        ));
    }
    if progress.downloaded + progress.to_download > 0 {
        text.push(format!(
            "downloaded {} of {} ({} of {})",
            count_text(progress.downloaded),
            count_text(progress.downloaded + progress.to_download),
            bytes_text(progress.downloaded_bytes),
            bytes_text(progress.downloaded_bytes + progress.to_download_bytes),
        ));
    }
    text.join(" · ")
}
