//! Earlier contents of a file: `versions`, and the selection by `get --version`.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Node, SyncClient, Version};

use crate::args::{Global, OnePath};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, bytes_text, table};
use crate::{path, replica, shutdown};

pub(in crate::commands) async fn versions(
    global: &Global,
    args: OnePath,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let node = path::item(&client, &args.path)?;
    let versions = all(&client, &node, &args.path, &stop).await?;
    if output.json {
        let versions: Vec<_> = (1..)
            .zip(&versions)
            .map(|(number, version)| {
                json!({
                    "number": number, "blobId": version.blob_id, "size": version.size,
                    "digest": version.digest, "contentType": version.content_type,
                    "attachedAt": version.attached_at, "modifiedAt": version.modified_at,
                })
            })
            .collect();
        let path = &args.path;
        return output.json(&json!({ "id": node.id, "path": path, "versions": versions }));
    }
    if versions.is_empty() {
        return output.say("the server has no content of it");
    }
    let mut rows = table(&["number", "since", "modified", "size", "id"], &[0, 3]);
    for (number, version) in (1..).zip(&versions) {
        rows.add_row([
            number.to_string(),
            version.attached_at.to_string(),
            version.modified_at.map_or("-".to_owned(), |time| time.to_string()),
            bytes_text(version.size),
            escaped(version.blob_id.as_str()),
        ]);
    }
    output.table(rows)
}

async fn all(
    client: &SyncClient,
    node: &Node,
    path: &str,
    stop: &CancellationToken,
) -> Result<Vec<Version>> {
    let asked = tokio::select! {
        asked = client.contents().versions(&node.id) => asked,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    };
    asked.map_err(|error| match error {
        vfs_sync_client::ClientError::Transport(vfs_sync_client::TransportError::Refused {
            status: 404,
            ..
        }) => Failure::new(Kind::NotFound, format!("the server has no content of {path}"))
            .hint("`vfs-sync sync` sends new contents, and reports removed ones"),
        other => other.into(),
    })
}

/// Selects a version by a blob's id or a number: 1 is the newest.
pub(in crate::commands) async fn one(
    client: &SyncClient,
    node: &Node,
    path: &str,
    which: &str,
    stop: &CancellationToken,
) -> Result<Version> {
    let mut versions = all(client, node, path, stop).await?;
    let by_id = versions.iter().position(|version| version.blob_id.as_str() == which);
    let by_number = || which.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match by_id.or_else(by_number).filter(|at| *at < versions.len()) {
        Some(at) => Ok(versions.swap_remove(at)),
        None => {
            let there = versions.len();
            let sentence = format!("{path} has no version {which}; there are {there}");
            Err(Failure::new(Kind::NotFound, sentence)
                .hint(format!("see `vfs-sync versions '{path}'`")))
        }
    }
}
