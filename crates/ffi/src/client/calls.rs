//! The effect of each call on the client.

use serde_json::{Value, json};
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::operation::{Action, Upsert};
use vfs_sync_client::{Batch, Query, StateExport, SyncClient};

use crate::call::{Edit, MAX_LISTED, Read, Remote, Write};
use crate::runtime::blocking;
use crate::{Result, value};

pub(super) fn read(client: &SyncClient, call: Read) -> Result<String> {
    let at_most = |limit: usize| limit.min(MAX_LISTED);
    let value: Value = match call {
        Read::Node { item } => {
            return Ok(client
                .node(&item)?
                .map_or_else(|| "null".into(), |node| value::node(&node)));
        }
        Read::Children { parent } => {
            return Ok(value::children(&client.children(parent.as_ref())?));
        }
        Read::Resolve { path } => return Ok(value::node(&client.resolve(&path)?)),
        Read::Walk { root, owner, limit } => {
            let entries: std::result::Result<Vec<_>, _> = match owner {
                None => client.walk(root.as_ref())?.take(at_most(limit)).collect(),
                Some(owner) => client.walk_shared(&owner)?.take(at_most(limit)).collect(),
            };
            return Ok(value::entries(&entries?));
        }
        Read::SharedBy { owner } => return Ok(value::children(&client.shared_by(&owner)?)),
        Read::SharedWithMe {} => return Ok(value::children(&client.sharing().with_me()?)),
        Read::User {} => json!(client.user()),
        Read::ClientId {} => json!(client.client_id()),
        Read::Device {} => json!(client.device()),
        Read::NewItemId {} => json!(client.new_item_id()),
        Read::Status {} => value::status(&client.status()?),
        Read::SyncState {} => value::sync_state(&client.status()?, &client.queue().outstanding()?),
        Read::PathOf { item } => json!(client.path_of(&item)?),
        Read::ParentsOf { item } => json!(client.parents_of(&item)?),
        Read::SharedOwners {} => json!(client.shared_owners()?),
        Read::Grants { item } => client.sharing().grants(&item)?.iter().map(value::grant).collect(),
        Read::Audience { item } => {
            client.sharing().audience(&item)?.iter().map(value::reader).collect()
        }
        Read::MayDelete { item } => json!(client.sharing().may_delete(&item)?),
        Read::Operations { limit } => {
            client.queue().operations(at_most(limit))?.iter().map(value::queued).collect()
        }
        Read::Rejected { limit } => {
            client.queue().rejected(at_most(limit))?.iter().map(value::rejected).collect()
        }
        Read::RejectedUploads {} => {
            client.queue().rejected_uploads()?.iter().map(value::rejected_upload).collect()
        }
        Read::WaitingUploads {} => {
            client.queue().waiting_uploads()?.iter().map(value::waiting_upload).collect()
        }
        Read::Outstanding {} => value::outstanding(&client.queue().outstanding()?),
        Read::Lost { after, limit } => {
            client.lost().list(after, at_most(limit))?.iter().map(value::lost).collect()
        }
        Read::PendingTrash {} => client.trash().pending()?.iter().map(value::trashed).collect(),
        Read::CacheUsage {} => {
            let usage = client.contents().usage()?;
            json!({ "bytes": usage.bytes, "contents": usage.contents, "limit": usage.limit })
        }
        Read::ExportState { redact } => {
            let mut bytes = Vec::new();
            client.export_state(StateExport { redact }, &mut bytes)?;
            json!(String::from_utf8_lossy(&bytes))
        }
    };
    Ok(value.to_string())
}

pub(super) fn write(client: &SyncClient, call: Write) -> Result<Value> {
    Ok(match call {
        Write::Edit { edits } => {
            let mut batch = client.batch();
            let results = edits.into_iter().map(|edit| add(client, &mut batch, edit));
            let results = results.collect::<Result<Value>>()?;
            batch.commit()?;
            results
        }
        Write::GetOrCreateFolder { parent, name } => {
            json!(client.get_or_create_folder(parent.as_ref(), name)?)
        }
        Write::Copy { item, parent, name } => json!(client.copy(&item, parent.as_ref(), name)?),
        Write::MoveByCopy { item, parent, name } => {
            json!(client.move_by_copy(&item, parent.as_ref(), name)?)
        }
        Write::PutFile { item, path } => value::stored(&client.contents().put_file(&item, &path)?),
        Write::Decline { item } => {
            client.sharing().decline(&item)?;
            Value::Null
        }
        Write::Retry { op_id } => json!(client.queue().retry(&op_id)?),
        Write::Discard { op_id } => {
            client.queue().discard(&op_id)?;
            Value::Null
        }
        Write::RetryUpload { blob_id } => {
            client.queue().retry_upload(&blob_id)?;
            Value::Null
        }
        Write::DiscardUpload { blob_id } => {
            client.queue().discard_upload(&blob_id)?;
            Value::Null
        }
        Write::DiscardLost { numbers } => {
            client.lost().discard(&numbers)?;
            Value::Null
        }
        Write::GrantAgain {} => {
            let granted = client.lost().grant_again()?.into_iter();
            granted
                .map(|(item, principal)| json!({ "item": item, "principal": principal }))
                .collect()
        }
        Write::HydrateState { state } => {
            let outcome = client.hydrate_state(state.as_bytes())?;
            json!({ "items": outcome.items, "queued": outcome.queued })
        }
    })
}

/// Adds an edit to a batch; returns its result.
fn add(client: &SyncClient, batch: &mut Batch<'_>, edit: Edit) -> Result<Value> {
    match edit {
        Edit::Create { id, object_type, parent, name, metadata } => {
            let id: ItemId = id.unwrap_or_else(|| client.new_item_id());
            let metadata = metadata.into_iter().map(|(key, value)| (key.into(), Some(value)));
            let upsert = Upsert {
                object_type: Some(object_type),
                name: Some(name),
                metadata: metadata.collect(),
                encrypted: None,
                parent,
            };
            batch.push(&id, Action::Upsert(Box::new(upsert)));
            return Ok(json!(id));
        }
        Edit::Rename { item, name } => batch.rename(&item, name),
        Edit::Move { item, parent: Some(parent) } => batch.move_to(&item, &parent),
        Edit::Move { item, parent: None } => batch.move_to_top(&item)?,
        Edit::Link { item, parent } => batch.link(&item, &parent),
        Edit::Unlink { item, parent } => batch.unlink(&item, &parent),
        Edit::Delete { item, recursive: true } => return Ok(json!(batch.delete_tree(&item)?)),
        Edit::Delete { item, recursive: false } => {
            batch.delete(&item);
            return Ok(json!(1));
        }
        Edit::SetMetadata { item, metadata } => {
            let metadata = metadata.into_iter();
            let change = metadata.map(|(key, value)| (key, Some(value).filter(|v| !v.is_null())));
            batch.set_metadata(&item, change.collect());
        }
        Edit::Touch { item, modified_at } => batch.touch(&item, modified_at)?,
        Edit::Share { item, principal, level } => batch.grant(&item, principal, level),
        Edit::Unshare { item, principal } => batch.revoke(&item, principal),
    }
    Ok(Value::Null)
}

pub(super) async fn run(client: SyncClient, call: Remote) -> Result<String> {
    let value = match call {
        Remote::Sync {} => value::report(&client.sync().await?),
        Remote::Flush {} => value::report(&client.flush().await?),
        Remote::Pull {} => value::report(&client.pull().await?),
        Remote::Rematerialise {} => value::report(&client.rematerialise().await?),
        Remote::ServerState {} => {
            serde_json::to_value(client.server_state().await?).unwrap_or(Value::Null)
        }
        Remote::StartBackground {} => {
            client.start_background()?;
            Value::Null
        }
        Remote::StopBackground {} => {
            client.stop_background().await;
            Value::Null
        }
        Remote::RequestSync {} => {
            client.request_sync();
            Value::Null
        }
        Remote::Fetch { items } => json!({
            "downloaded": client.contents().fetch(&items).await?.downloaded,
        }),
        Remote::Find { query } => {
            let query = Query::try_from(*query)?;
            // The first query of a replica makes an index of it.
            let found = blocking(move || Ok(client.find(&query)?)).await?;
            return Ok(value::found(&found));
        }
        Remote::Versions { item } => {
            client.contents().versions(&item).await?.iter().map(value::version).collect()
        }
        Remote::Trash {} => client.trash().list().await?.iter().map(value::trashed).collect(),
        Remote::Restore { item, recursive } => {
            json!(client.trash().restore(&item, recursive).await?)
        }
        Remote::Purge { item, recursive } => json!(client.trash().purge(&item, recursive).await?),
        Remote::EmptyTrash {} => {
            let emptied = client.trash().empty().await?;
            json!({ "purged": emptied.purged, "ofOthers": emptied.of_others })
        }
    };
    Ok(value.to_string())
}
