//! A client with its replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vfs_sync_ffi::{Error, Server, StaticToken};

use crate::callback::{Calls, TokenProvider, Tokens, Transport};
use crate::content::{Content, ContentWriter};
use crate::json::JsonValue;
use crate::options::{ClientOptions, Edit, Query, QueryCursor};
use crate::stream::{
    ChangeStream, ChildrenStream, EventStream, ProgressStream, ResultStream, SyncStateStream,
};
use crate::value::{
    AccessLevel, CacheUsage, Child, Emptied, Grant, GrantedAgain, HeldUpload, Hydrated, Item,
    LostChange, ObjectType, Outstanding, Principal, QueuedOperation, Reader, RejectedOperation,
    Status, StoredContent, SyncReport, SyncState, Trashed, TreeEntry, Version,
};
use crate::{Cancellation, Result, VfsSyncError, parsed, read_value, time, token};

/// A page of the result of a query.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
pub struct Found {
    /// The items.
    pub items: Vec<Item>,
    /// The place after which the next page begins.
    pub next: Option<QueryCursor>,
}

/// A client: a durable replica of a user's tree, and the connection to its server. Reads are local and immediate.
/// Edits are durable, and visible, when they return, online or not; they are made in the order of the calls, and once
/// begun to their end. `sync`, or background work, exchanges them with the user's other devices.
#[derive(uniffi::Object)]
pub struct Client(vfs_sync_ffi::Client);

impl Client {
    fn get<T: DeserializeOwned>(&self, call: Value) -> Result<T> {
        parsed(&self.0.read(&call.to_string())?)
    }

    async fn write<T: DeserializeOwned>(&self, call: Value) -> Result<T> {
        parsed(&self.0.write(&call.to_string()).await?)
    }

    async fn edit<T: DeserializeOwned>(&self, edit: Edit) -> Result<T> {
        let mut results: Vec<Value> =
            self.write(json!({ "call": "edit", "edits": [edit.form()?] })).await?;
        read_value(results.pop().unwrap_or(Value::Null))
    }

    async fn run<T: DeserializeOwned>(
        &self,
        call: Value,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<T> {
        parsed(&self.0.run(&call.to_string(), token(cancel)).await?)
    }

    fn subscribe(&self, stream: Value) -> Result<vfs_sync_ffi::Subscription> {
        Ok(self.0.subscribe(&stream.to_string())?)
    }
}

fn put_options(item: &str, modified_at: Option<SystemTime>) -> Result<vfs_sync_ffi::PutOptions> {
    let options = match modified_at {
        Some(at) => json!({ "item": item, "modifiedAt": time::text(at)? }),
        None => json!({ "item": item }),
    };
    Ok(vfs_sync_ffi::PutOptions::parse(&options.to_string())?)
}

/// Opening, closing and reading: local, and immediate.
#[uniffi::export]
impl Client {
    /// Opens the replica in a directory, or creates it; without a directory, a replica in memory. The tokens are those of
    /// `tokens`, or `options.token`. A transport answers calls instead of the server or, with tokens, stands before it.
    #[uniffi::constructor(default(tokens = None, transport = None))]
    pub async fn open(
        options: ClientOptions,
        tokens: Option<Arc<dyn TokenProvider>>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Self> {
        let parsed = vfs_sync_ffi::ClientOptions::parse(&options.form()?.to_string())?;
        let tokens: Option<Box<dyn vfs_sync_ffi::TokenProvider>> = match (tokens, options.token) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("`token` and `tokens` exclude one another").into());
            }
            (Some(tokens), None) => Some(Box::new(Tokens(tokens))),
            (None, Some(token)) => Some(Box::new(StaticToken::new(token))),
            (None, None) => None,
        };
        let server = match (tokens, transport) {
            (Some(tokens), Some(calls)) => Server::Around(tokens, Arc::new(Calls(calls))),
            (Some(tokens), None) => Server::Http(tokens),
            (None, Some(calls)) => Server::Foreign(Arc::new(Calls(calls))),
            (None, None) => {
                let missing = "neither a token nor a transport is given: one of them is needed";
                return Err(Error::invalid(missing).into());
            }
        };
        Ok(Self(vfs_sync_ffi::Client::open(parsed, server).await?))
    }

    /// Ends calls and streams, finishes edits and background work, and releases the replica. Each later call fails with
    /// `Closed`.
    pub async fn shutdown(&self) -> Result<()> {
        Ok(self.0.close().await?)
    }

    /// Returns the user that the replica belongs to.
    pub fn user(&self) -> Result<String> {
        self.get(json!({ "call": "user" }))
    }

    /// Returns the id of this replica.
    pub fn client_id(&self) -> Result<String> {
        self.get(json!({ "call": "clientId" }))
    }

    /// Returns the name of this device in the names of conflicted copies.
    pub fn device(&self) -> Result<String> {
        self.get(json!({ "call": "device" }))
    }

    /// Makes a new item id.
    pub fn new_item_id(&self) -> Result<String> {
        self.get(json!({ "call": "newItemId" }))
    }

    /// Returns the state of the replica.
    pub fn status(&self) -> Result<Status> {
        self.get(json!({ "call": "status" }))
    }

    /// Returns the state of synchronisation; `syncStates` returns each change of it.
    pub fn sync_state(&self) -> Result<SyncState> {
        self.get(json!({ "call": "syncState" }))
    }

    /// Returns an item; none if the replica does not show it.
    pub fn node(&self, item: String) -> Result<Option<Item>> {
        self.get(json!({ "call": "node", "item": item }))
    }

    /// Returns the children of a container, by name; without one, those at the top.
    #[uniffi::method(default(parent = None))]
    pub fn children(&self, parent: Option<String>) -> Result<Vec<Child>> {
        self.get(json!({ "call": "children", "parent": parent }))
    }

    /// Returns the item at a path: `/docs/plan.txt`, or `shared:alice/plan.txt`.
    pub fn resolve(&self, path: String) -> Result<Item> {
        self.get(json!({ "call": "resolve", "path": path }))
    }

    /// Returns a path of an item.
    pub fn path_of(&self, item: String) -> Result<String> {
        self.get(json!({ "call": "pathOf", "item": item }))
    }

    /// Returns the containers of an item, by id.
    pub fn parents_of(&self, item: String) -> Result<Vec<String>> {
        self.get(json!({ "call": "parentsOf", "item": item }))
    }

    /// Returns the items under a container, containers before their children: at most `limit`, which is at most 100,000.
    /// With an owner, those that another user shares.
    #[uniffi::method(default(root = None, owner = None, limit = 10000))]
    pub fn walk(
        &self,
        root: Option<String>,
        owner: Option<String>,
        limit: u32,
    ) -> Result<Vec<TreeEntry>> {
        self.get(json!({ "call": "walk", "root": root, "owner": owner, "limit": limit }))
    }

    /// Lists the other users who share something with this one.
    pub fn shared_owners(&self) -> Result<Vec<String>> {
        self.get(json!({ "call": "sharedOwners" }))
    }

    /// Lists what a user shares with this one.
    pub fn shared_by(&self, owner: String) -> Result<Vec<Child>> {
        self.get(json!({ "call": "sharedBy", "owner": owner }))
    }

    /// Lists everything that others share with this user.
    pub fn shared_with_me(&self) -> Result<Vec<Child>> {
        self.get(json!({ "call": "sharedWithMe" }))
    }

    /// Lists the grants on an item itself.
    pub fn grants(&self, item: String) -> Result<Vec<Grant>> {
        self.get(json!({ "call": "grants", "item": item }))
    }

    /// Lists who may read an item.
    pub fn audience(&self, item: String) -> Result<Vec<Reader>> {
        self.get(json!({ "call": "audience", "item": item }))
    }

    /// Returns whether this user may delete an item.
    pub fn may_delete(&self, item: String) -> Result<bool> {
        self.get(json!({ "call": "mayDelete", "item": item }))
    }

    /// Counts the work that is still to be sent, and the rejected work.
    pub fn outstanding(&self) -> Result<Outstanding> {
        self.get(json!({ "call": "outstanding" }))
    }

    /// Lists the queued operations, in order.
    #[uniffi::method(default(limit = 10000))]
    pub fn operations(&self, limit: u32) -> Result<Vec<QueuedOperation>> {
        self.get(json!({ "call": "operations", "limit": limit }))
    }

    /// Lists the changes after a number that a restored server lost.
    #[uniffi::method(default(after = 0, limit = 10000))]
    pub fn lost(&self, after: i64, limit: u32) -> Result<Vec<LostChange>> {
        self.get(json!({ "call": "lost", "after": after, "limit": limit }))
    }

    /// Lists the rejected operations, the oldest first.
    #[uniffi::method(default(limit = 10000))]
    pub fn rejected(&self, limit: u32) -> Result<Vec<RejectedOperation>> {
        self.get(json!({ "call": "rejected", "limit": limit }))
    }

    /// Lists the contents whose upload was rejected for good; their bytes are kept.
    pub fn rejected_uploads(&self) -> Result<Vec<HeldUpload>> {
        self.get(json!({ "call": "rejectedUploads" }))
    }

    /// Lists the contents that the server could not take at the last attempt.
    pub fn waiting_uploads(&self) -> Result<Vec<HeldUpload>> {
        self.get(json!({ "call": "waitingUploads" }))
    }

    /// Lists the deletions that are still queued.
    pub fn pending_trash(&self) -> Result<Vec<Trashed>> {
        self.get(json!({ "call": "pendingTrash" }))
    }

    /// Returns the size of the content cache.
    pub fn cache_usage(&self) -> Result<CacheUsage> {
        self.get(json!({ "call": "cacheUsage" }))
    }

    /// Returns the replica's state as canonical JSON: the same text if nothing changed.
    #[uniffi::method(default(redact = false))]
    pub fn export_state(&self, redact: bool) -> Result<String> {
        self.get(json!({ "call": "exportState", "redact": redact }))
    }

    /// Returns the violated guardrails so far.
    pub fn violations(&self) -> Vec<VfsSyncError> {
        self.0.violations().list().into_iter().map(Into::into).collect()
    }

    /// Removes and returns the violated guardrails so far.
    pub fn take_violations(&self) -> Vec<VfsSyncError> {
        self.0.violations().take().into_iter().map(Into::into).collect()
    }

    /// Moves the clock of a client that was opened with `test`.
    pub fn advance_clock(&self, millis: i64) -> Result<()> {
        Ok(self.0.advance_clock(millis)?)
    }
}

/// Edits: durable when they return.
#[uniffi::export]
impl Client {
    /// Creates an item of any type; returns its id.
    #[uniffi::method(default(parent = None, id = None, metadata))]
    pub async fn create(
        &self,
        object_type: ObjectType,
        name: String,
        parent: Option<String>,
        metadata: HashMap<String, JsonValue>,
        id: Option<String>,
    ) -> Result<String> {
        self.edit(Edit::Create { id, object_type, parent, name, metadata }).await
    }

    /// Creates a folder; each call makes a new one: see `getOrCreateFolder`.
    #[uniffi::method(default(parent = None))]
    pub async fn create_folder(&self, name: String, parent: Option<String>) -> Result<String> {
        self.create(ObjectType::Folder, name, parent, HashMap::new(), None).await
    }

    /// Creates a file without content; returns its id.
    #[uniffi::method(default(parent = None))]
    pub async fn create_file(&self, name: String, parent: Option<String>) -> Result<String> {
        self.create(ObjectType::File, name, parent, HashMap::new(), None).await
    }

    /// Returns the folder of this name, and creates it if it is not there. Devices that create it offline make one
    /// folder.
    #[uniffi::method(default(parent = None))]
    pub async fn get_or_create_folder(
        &self,
        name: String,
        parent: Option<String>,
    ) -> Result<String> {
        self.write(json!({ "call": "getOrCreateFolder", "parent": parent, "name": name })).await
    }

    /// Changes the name of an item.
    pub async fn rename(&self, item: String, name: String) -> Result<()> {
        self.edit(Edit::Rename { item, name }).await
    }

    /// Moves an item into a container of the same owner; without one, to the top.
    pub async fn move_to(&self, item: String, parent: Option<String>) -> Result<()> {
        self.edit(Edit::Move { item, parent }).await
    }

    /// Links an item under one more container.
    pub async fn link(&self, item: String, parent: String) -> Result<()> {
        self.edit(Edit::Link { item, parent }).await
    }

    /// Removes an item from a container.
    pub async fn unlink(&self, item: String, parent: String) -> Result<()> {
        self.edit(Edit::Unlink { item, parent }).await
    }

    /// Deletes an item, with everything under it if `recursive`; returns the number of deleted items.
    #[uniffi::method(default(recursive = false))]
    pub async fn delete(&self, item: String, recursive: bool) -> Result<u64> {
        self.edit(Edit::Delete { item, recursive }).await
    }

    /// Sets metadata keys of an item; `Null` removes a key.
    pub async fn set_metadata(
        &self,
        item: String,
        metadata: HashMap<String, JsonValue>,
    ) -> Result<()> {
        self.edit(Edit::SetMetadata { item, metadata }).await
    }

    /// Makes an item show a modification time for as long as it keeps its present content.
    pub async fn touch(&self, item: String, modified_at: SystemTime) -> Result<()> {
        self.edit(Edit::Touch { item, modified_at }).await
    }

    /// Copies an item with everything under it; returns the copy's id. Contents must be on this machine.
    #[uniffi::method(default(parent = None))]
    pub async fn copy(&self, item: String, name: String, parent: Option<String>) -> Result<String> {
        self.write(json!({ "call": "copy", "item": item, "name": name, "parent": parent })).await
    }

    /// Moves an item into another owner's tree, by a copy and a deletion; returns the copy's id.
    #[uniffi::method(default(parent = None))]
    pub async fn move_by_copy(
        &self,
        item: String,
        name: String,
        parent: Option<String>,
    ) -> Result<String> {
        let call = json!({ "call": "moveByCopy", "item": item, "name": name, "parent": parent });
        self.write(call).await
    }

    /// Grants a principal a level on an item.
    pub async fn share(
        &self,
        item: String,
        principal: Principal,
        level: AccessLevel,
    ) -> Result<()> {
        self.edit(Edit::Share { item, principal, level }).await
    }

    /// Removes a principal's grant on an item.
    pub async fn unshare(&self, item: String, principal: Principal) -> Result<()> {
        self.edit(Edit::Unshare { item, principal }).await
    }

    /// Removes the grant that names this user.
    pub async fn decline(&self, item: String) -> Result<()> {
        self.write(json!({ "call": "decline", "item": item })).await
    }

    /// Makes several edits in one transaction, all of them or none. `newItemId` makes the ids of items that later edits
    /// of it use.
    pub async fn transaction(&self, edits: Vec<Edit>) -> Result<()> {
        let edits = edits.into_iter().map(Edit::form).collect::<Result<Vec<_>>>()?;
        let _: Vec<Value> = self.write(json!({ "call": "edit", "edits": edits })).await?;
        Ok(())
    }

    /// Queues a rejected operation again; returns its new id.
    pub async fn retry(&self, op_id: String) -> Result<String> {
        self.write(json!({ "call": "retry", "opId": op_id })).await
    }

    /// Removes a rejected operation for good.
    pub async fn discard(&self, op_id: String) -> Result<()> {
        self.write(json!({ "call": "discard", "opId": op_id })).await
    }

    /// Uploads a rejected content again.
    pub async fn retry_upload(&self, blob_id: String) -> Result<()> {
        self.write(json!({ "call": "retryUpload", "blobId": blob_id })).await
    }

    /// Removes a rejected content and its bytes for good.
    pub async fn discard_upload(&self, blob_id: String) -> Result<()> {
        self.write(json!({ "call": "discardUpload", "blobId": blob_id })).await
    }

    /// Grants lost grants again, where this user may.
    pub async fn grant_again(&self) -> Result<Vec<GrantedAgain>> {
        self.write(json!({ "call": "grantAgain" })).await
    }

    /// Removes changes from the list of lost ones.
    pub async fn discard_lost(&self, numbers: Vec<i64>) -> Result<()> {
        self.write(json!({ "call": "discardLost", "numbers": numbers })).await
    }

    /// Imports an exported state into a client that is pristine and has the same client id.
    pub async fn hydrate_state(&self, state: String) -> Result<Hydrated> {
        self.write(json!({ "call": "hydrateState", "state": state })).await
    }
}

/// Contents: durable when they are queued; the next sync uploads them.
#[uniffi::export]
impl Client {
    /// Stores a content for an item.
    #[uniffi::method(default(modified_at = None))]
    pub async fn put(
        &self,
        item: String,
        bytes: Vec<u8>,
        modified_at: Option<SystemTime>,
    ) -> Result<StoredContent> {
        read_value(self.0.put(put_options(&item, modified_at)?, bytes).await?)
    }

    /// Stores the content of a file, with the file's modification time.
    pub async fn put_file(&self, item: String, path: String) -> Result<StoredContent> {
        self.write(json!({ "call": "putFile", "item": item, "path": path })).await
    }

    /// Opens a writer of a content for an item.
    #[uniffi::method(default(modified_at = None))]
    pub fn writer(&self, item: String, modified_at: Option<SystemTime>) -> Result<ContentWriter> {
        Ok(ContentWriter(self.0.writer(put_options(&item, modified_at)?)?))
    }

    /// Opens the content of an item; one that is not on this machine is downloaded first. `version` is the `blobId` of an
    /// earlier one.
    #[uniffi::method(default(version = None, cancel = None))]
    pub async fn read(
        &self,
        item: String,
        version: Option<String>,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<Content> {
        Ok(Content(self.0.reader(item, version, token(cancel)).await?))
    }

    /// Downloads the contents of items that are not on this machine; returns their number.
    #[uniffi::method(default(cancel = None))]
    pub async fn fetch(
        &self,
        items: Vec<String>,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<u64> {
        let fetched: Value = self.run(json!({ "call": "fetch", "items": items }), cancel).await?;
        read_value(fetched["downloaded"].clone())
    }

    /// Lists the present and earlier contents of a file that the server keeps, the newest first.
    #[uniffi::method(default(cancel = None))]
    pub async fn versions(
        &self,
        item: String,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<Vec<Version>> {
        self.run(json!({ "call": "versions", "item": item }), cancel).await
    }
}

/// Calls that may need the server. They can be cancelled at any point.
#[uniffi::export]
impl Client {
    /// Pushes the queue, pulls until settled, and uploads queued contents.
    #[uniffi::method(default(cancel = None))]
    pub async fn sync(&self, cancel: Option<Arc<Cancellation>>) -> Result<SyncReport> {
        self.run(json!({ "call": "sync" }), cancel).await
    }

    /// Pushes only the queue.
    #[uniffi::method(default(cancel = None))]
    pub async fn flush(&self, cancel: Option<Arc<Cancellation>>) -> Result<SyncReport> {
        self.run(json!({ "call": "flush" }), cancel).await
    }

    /// Pulls until settled.
    #[uniffi::method(default(cancel = None))]
    pub async fn pull(&self, cancel: Option<Arc<Cancellation>>) -> Result<SyncReport> {
        self.run(json!({ "call": "pull" }), cancel).await
    }

    /// Rebuilds the replica from the server's state; the queue stays.
    #[uniffi::method(default(cancel = None))]
    pub async fn rematerialise(&self, cancel: Option<Arc<Cancellation>>) -> Result<SyncReport> {
        self.run(json!({ "call": "rematerialise" }), cancel).await
    }

    /// Asks for the server's state of this client, as on the wire.
    #[uniffi::method(default(cancel = None))]
    pub async fn server_state(&self, cancel: Option<Arc<Cancellation>>) -> Result<JsonValue> {
        self.run(json!({ "call": "serverState" }), cancel).await
    }

    /// Starts synchronising in the background; it clears the reason of an earlier stop.
    pub async fn start_background(&self) -> Result<()> {
        self.run(json!({ "call": "startBackground" }), None).await
    }

    /// Stops background work and waits until it has ended.
    pub async fn stop_background(&self) -> Result<()> {
        self.run(json!({ "call": "stopBackground" }), None).await
    }

    /// Requests a sync soon. It has no effect without background work.
    pub async fn request_sync(&self) -> Result<()> {
        self.run(json!({ "call": "requestSync" }), None).await
    }

    /// Returns a page of the items that a query finds.
    #[uniffi::method(default(cancel = None))]
    pub async fn find(&self, query: Query, cancel: Option<Arc<Cancellation>>) -> Result<Found> {
        self.run(json!({ "call": "find", "query": query.form()? }), cancel).await
    }

    /// Lists the items that can be restored, including deletions that are still queued.
    #[uniffi::method(default(cancel = None))]
    pub async fn trash(&self, cancel: Option<Arc<Cancellation>>) -> Result<Vec<Trashed>> {
        self.run(json!({ "call": "trash" }), cancel).await
    }

    /// Brings a deleted item back; returns the number of restored items.
    #[uniffi::method(default(recursive = true, cancel = None))]
    pub async fn restore(
        &self,
        item: String,
        recursive: bool,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<u64> {
        let call = json!({ "call": "restore", "item": item, "recursive": recursive });
        self.run(call, cancel).await
    }

    /// Removes a deleted item for good; returns the number of purged items.
    #[uniffi::method(default(recursive = true, cancel = None))]
    pub async fn purge(
        &self,
        item: String,
        recursive: bool,
        cancel: Option<Arc<Cancellation>>,
    ) -> Result<u64> {
        let call = json!({ "call": "purge", "item": item, "recursive": recursive });
        self.run(call, cancel).await
    }

    /// Removes all deleted items of this user for good.
    #[uniffi::method(default(cancel = None))]
    pub async fn empty_trash(&self, cancel: Option<Arc<Cancellation>>) -> Result<Emptied> {
        self.run(json!({ "call": "emptyTrash" }), cancel).await
    }
}

/// Streams, from now on. They end with the client.
#[uniffi::export]
impl Client {
    /// Returns the changes of the tree, each with the item before and after.
    pub fn changes(&self) -> Result<ChangeStream> {
        Ok(ChangeStream(self.subscribe(json!({ "stream": "changes" }))?))
    }

    /// Returns the events of synchronisation: rejected edits, conflicts, pauses, stops.
    pub fn events(&self) -> Result<EventStream> {
        Ok(EventStream(self.subscribe(json!({ "stream": "events" }))?))
    }

    /// Returns the state of synchronisation, at first and after each change.
    pub fn sync_states(&self) -> Result<SyncStateStream> {
        Ok(SyncStateStream(self.subscribe(json!({ "stream": "syncState" }))?))
    }

    /// Returns the progress of syncs and downloads.
    pub fn progress(&self) -> Result<ProgressStream> {
        Ok(ProgressStream(self.subscribe(json!({ "stream": "progress" }))?))
    }

    /// Returns the children of a container, at first and after each change of them.
    #[uniffi::method(default(parent = None))]
    pub fn watch_children(&self, parent: Option<String>) -> Result<ChildrenStream> {
        Ok(ChildrenStream(self.subscribe(json!({ "stream": "children", "parent": parent }))?))
    }

    /// Returns the first result of a query, all of it added, and each difference after it.
    pub fn watch(&self, query: Query) -> Result<ResultStream> {
        Ok(ResultStream(self.subscribe(json!({ "stream": "query", "query": query.form()? }))?))
    }
}
