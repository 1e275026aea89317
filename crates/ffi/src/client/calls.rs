//! The effect of each call on the client.

use serde_json::{Value, json};
use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::operation::{Action, Upsert};
use vfs_sync_client::{Batch, Query, StateExport, SyncClient};

use crate::Result;
use crate::call::{Edit, MAX_LISTED, Read, Remote, Write};
use crate::runtime::blocking;
use crate::value::{self, text};

pub(super) fn read(client: &SyncClient, call: Read) -> Result<String> {
    let at_most = |limit: usize| limit.min(MAX_LISTED);
    Ok(match call {
        Read::User {} => text(&client.user()),
        Read::ClientId {} => text(&client.client_id()),
        Read::Device {} => text(&client.device()),
        Read::NewItemId {} => text(&client.new_item_id()),
        Read::Status {} => value::status(&client.status()?),
        Read::SyncState {} => {
            value::sync_state(&client.status()?, &client.queue().outstanding()?).to_string()
        }
        Read::Node { item } => {
            client.node(&item)?.map_or_else(|| "null".into(), |node| value::node(&node))
        }
        Read::Children { parent } => value::children(&client.children(parent.as_ref())?),
        Read::Resolve { path } => value::node(&client.resolve(&path)?),
        Read::PathOf { item } => text(&client.path_of(&item)?),
        Read::ParentsOf { item } => text(&client.parents_of(&item)?),
        Read::Walk { root, owner, limit } => {
            let entries: std::result::Result<Vec<_>, _> = match owner {
                None => client.walk(root.as_ref())?.take(at_most(limit)).collect(),
                Some(owner) => client.walk_shared(&owner)?.take(at_most(limit)).collect(),
            };
            value::entries(&entries?)
        }
        Read::SharedOwners {} => text(&client.shared_owners()?),
        Read::SharedBy { owner } => value::children(&client.shared_by(&owner)?),
        Read::SharedWithMe {} => value::children(&client.sharing().with_me()?),
        Read::Grants { item } => all(&client.sharing().grants(&item)?, value::grant),
        Read::Audience { item } => all(&client.sharing().audience(&item)?, value::reader),
        Read::MayDelete { item } => text(&client.sharing().may_delete(&item)?),
        Read::Operations { limit } => {
            all(&client.queue().operations(at_most(limit))?, value::queued)
        }
        Read::Rejected { limit } => all(&client.queue().rejected(at_most(limit))?, value::rejected),
        Read::RejectedUploads {} => {
            all(&client.queue().rejected_uploads()?, value::rejected_upload)
        }
        Read::WaitingUploads {} => all(&client.queue().waiting_uploads()?, value::waiting_upload),
        Read::Outstanding {} => value::outstanding(&client.queue().outstanding()?).to_string(),
        Read::Lost { after, limit } => {
            all(&client.lost().list(after, at_most(limit))?, value::lost)
        }
        Read::PendingTrash {} => all(&client.trash().pending()?, value::trashed),
        Read::CacheUsage {} => {
            let usage = client.contents().usage()?;
            json!({ "bytes": usage.bytes, "contents": usage.contents, "limit": usage.limit })
                .to_string()
        }
        Read::ExportState { redact } => {
            let mut bytes = Vec::new();
            client.export_state(StateExport { redact }, &mut bytes)?;
            text(&String::from_utf8_lossy(&bytes))
        }
    })
}

fn all<T>(list: &[T], form: impl Fn(&T) -> Value) -> String {
    list.iter().map(form).collect::<Value>().to_string()
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
