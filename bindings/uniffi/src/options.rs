//! The options of a client and of its calls.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::json::{self, JsonValue};
use crate::value::ObjectType;
use crate::{Result, time};

/// The way in which a client comes to its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Opens the replica in the directory, or creates it.
    OpenOrCreate,
    /// Opens the replica in the directory.
    Open,
    /// Creates a replica in the directory.
    Create,
    /// Creates a replica in memory, which ends with the client.
    Memory,
}

/// A clock that stands still and ids that count, for tests.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Record)]
pub struct TestOptions {
    /// The seed of the ids: two clients of one seed and one history make the same ids.
    pub seed: u64,
    /// The time of the clock.
    pub now: SystemTime,
}

/// The options of a client.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ClientOptions {
    /// The user that the replica belongs to; an existing replica knows it.
    #[uniffi(default = None)]
    pub user: Option<String>,
    /// The directory of the replica; without one, it is in memory.
    #[uniffi(default = None)]
    pub directory: Option<String>,
    /// The address of the server: `http://` or `https://`.
    #[uniffi(default = None)]
    pub server: Option<String>,
    /// A bearer token that does not change; a `TokenProvider` has those that do.
    #[uniffi(default = None)]
    pub token: Option<String>,
    /// The way in which the client comes to its replica.
    #[uniffi(default = None)]
    pub mode: Option<Mode>,
    /// The client id of a new replica, for an exported state.
    #[uniffi(default = None)]
    pub client_id: Option<String>,
    /// The name of the device in the names of conflicted copies.
    #[uniffi(default = None)]
    pub device: Option<String>,
    /// Whether the replica is rebuilt where the server asks for it; true otherwise.
    #[uniffi(default = None)]
    pub rematerialise: Option<bool>,
    /// The greatest number of changes in a page, at most 500.
    #[uniffi(default = None)]
    pub page_limit: Option<u32>,
    /// The number of contents that are transferred at once, at most 64.
    #[uniffi(default = None)]
    pub transfers: Option<u32>,
    /// The size of the content cache in bytes.
    #[uniffi(default = None)]
    pub cache_size: Option<u64>,
    /// The milliseconds between two syncs of background work without live updates.
    #[uniffi(default = None)]
    pub interval_ms: Option<u64>,
    /// Whether background work asks for live updates; true otherwise.
    #[uniffi(default = None)]
    pub live: Option<bool>,
    /// The milliseconds between two syncs of background work with live updates.
    #[uniffi(default = None)]
    pub live_interval_ms: Option<u64>,
    /// Permits `http://` to other machines.
    #[uniffi(default = false)]
    pub insecure_http: bool,
    /// A clock and ids for tests.
    #[uniffi(default = None)]
    pub test: Option<TestOptions>,
}

impl ClientOptions {
    pub(crate) fn form(&self) -> Result<Value> {
        let memory = self.directory.is_none().then_some(Mode::Memory);
        let test = self.test.map(|TestOptions { seed, now }| {
            Ok::<_, crate::VfsSyncError>(json!({ "seed": seed, "now": time::text(now)? }))
        });
        Ok(given(json!({
            "user": self.user, "directory": self.directory, "server": self.server,
            "mode": self.mode.or(memory), "clientId": self.client_id, "device": self.device,
            "rematerialise": self.rematerialise, "pageLimit": self.page_limit,
            "transfers": self.transfers, "cacheSize": self.cache_size,
            "intervalMs": self.interval_ms, "live": self.live,
            "liveIntervalMs": self.live_interval_ms, "insecureHttp": self.insecure_http,
            "test": test.transpose()?,
        })))
    }
}

/// Leaves out what is `null`.
fn given(object: Value) -> Value {
    let Value::Object(fields) = object else { return object };
    Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

/// The order of a query's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, uniffi::Enum)]
#[serde(rename_all = "camelCase")]
pub enum SortBy {
    /// By name.
    Name,
    /// By modification time.
    ModifiedAt,
}

/// The place in a query's result after which a page begins.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, uniffi::Record)]
#[serde(rename_all = "camelCase")]
pub struct QueryCursor {
    /// The name of the last item.
    pub name: String,
    /// The modification time of the last item.
    #[serde(deserialize_with = "time::required")]
    pub modified_at: SystemTime,
    /// The id of the last item.
    pub id: String,
}

/// A metadata key, and the value that an item must have.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct MetadataIs {
    /// The key.
    pub key: String,
    /// The value.
    pub value: JsonValue,
}

/// A query. Without a condition it finds every item.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Query {
    /// The name.
    #[uniffi(default = None)]
    pub name: Option<String>,
    /// The beginning of the name; it excludes `name`.
    #[uniffi(default = None)]
    pub name_prefix: Option<String>,
    /// The type.
    #[uniffi(default = None)]
    pub object_type: Option<ObjectType>,
    /// The user in whose tree the item is.
    #[uniffi(default = None)]
    pub owner: Option<String>,
    /// A value of the metadata.
    #[uniffi(default = None)]
    pub metadata: Option<MetadataIs>,
    /// The earliest modification time.
    #[uniffi(default = None)]
    pub modified_since: Option<SystemTime>,
    /// The order; by name otherwise.
    #[uniffi(default = None)]
    pub sort_by: Option<SortBy>,
    /// Whether the order is the other way round.
    #[uniffi(default = false)]
    pub descending: bool,
    /// The place after which the page begins: `next` of the page before.
    #[uniffi(default = None)]
    pub after: Option<QueryCursor>,
    /// The greatest number of items; 0 for all.
    #[uniffi(default = 0)]
    pub limit: u32,
}

impl Query {
    pub(crate) fn form(self) -> Result<Value> {
        let metadata = self.metadata.map(|MetadataIs { key, value }| {
            let value = json::object(HashMap::from([("value".to_owned(), value)]))?;
            Ok::<_, crate::VfsSyncError>(json!({ "key": key, "value": value["value"] }))
        });
        let after = self.after.map(|QueryCursor { name, modified_at, id }| {
            let modified_at = time::text(modified_at)?;
            Ok::<_, crate::VfsSyncError>(
                json!({ "name": name, "modifiedAt": modified_at, "id": id }),
            )
        });
        Ok(given(json!({
            "name": self.name, "namePrefix": self.name_prefix, "type": self.object_type,
            "owner": self.owner, "metadata": metadata.transpose()?,
            "modifiedSince": self.modified_since.map(time::text).transpose()?,
            "sortBy": self.sort_by, "descending": self.descending, "after": after.transpose()?,
            "limit": self.limit,
        })))
    }
}

/// An edit of a transaction.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Edit {
    /// Creates an item.
    Create {
        /// The id; one that `newItemId` made can be used by later edits.
        id: Option<String>,
        /// The type.
        object_type: ObjectType,
        /// The container; at the top without one.
        parent: Option<String>,
        /// The name.
        name: String,
        /// The metadata.
        metadata: HashMap<String, JsonValue>,
    },
    /// Changes the name of an item.
    Rename {
        /// The item.
        item: String,
        /// The new name.
        name: String,
    },
    /// Moves an item into a container of the same owner; without one, to the top.
    Move {
        /// The item.
        item: String,
        /// The container.
        parent: Option<String>,
    },
    /// Links an item under one more container.
    Link {
        /// The item.
        item: String,
        /// The container.
        parent: String,
    },
    /// Removes an item from a container.
    Unlink {
        /// The item.
        item: String,
        /// The container.
        parent: String,
    },
    /// Deletes an item.
    Delete {
        /// The item.
        item: String,
        /// Whether everything under it goes too.
        recursive: bool,
    },
    /// Sets metadata keys; `Null` removes a key.
    SetMetadata {
        /// The item.
        item: String,
        /// The values by key.
        metadata: HashMap<String, JsonValue>,
    },
    /// Makes an item show a modification time for as long as it keeps its present content.
    Touch {
        /// The item.
        item: String,
        /// The time.
        modified_at: SystemTime,
    },
    /// Grants a principal a level on an item.
    Share {
        /// The item.
        item: String,
        /// The principal.
        principal: crate::value::Principal,
        /// The level.
        level: crate::value::AccessLevel,
    },
    /// Removes a principal's grant on an item.
    Unshare {
        /// The item.
        item: String,
        /// The principal.
        principal: crate::value::Principal,
    },
}

impl Edit {
    pub(crate) fn form(self) -> Result<Value> {
        Ok(match self {
            Self::Create { id, object_type, parent, name, metadata } => json!({
                "edit": "create", "id": id, "type": object_type, "parent": parent, "name": name,
                "metadata": json::object(metadata)?,
            }),
            Self::Rename { item, name } => json!({ "edit": "rename", "item": item, "name": name }),
            Self::Move { item, parent } => {
                json!({ "edit": "move", "item": item, "parent": parent })
            }
            Self::Link { item, parent } => {
                json!({ "edit": "link", "item": item, "parent": parent })
            }
            Self::Unlink { item, parent } => {
                json!({ "edit": "unlink", "item": item, "parent": parent })
            }
            Self::Delete { item, recursive } => {
                json!({ "edit": "delete", "item": item, "recursive": recursive })
            }
            Self::SetMetadata { item, metadata } => {
                let metadata = json::object(metadata)?;
                json!({ "edit": "setMetadata", "item": item, "metadata": metadata })
            }
            Self::Touch { item, modified_at } => {
                json!({ "edit": "touch", "item": item, "modifiedAt": time::text(modified_at)? })
            }
            Self::Share { item, principal, level } => {
                json!({ "edit": "share", "item": item, "principal": principal, "level": level })
            }
            Self::Unshare { item, principal } => {
                json!({ "edit": "unshare", "item": item, "principal": principal })
            }
        })
    }
}
