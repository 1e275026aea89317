//! Queries as data, like the calls.

use serde::Deserialize;
use serde_json::Value;
use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::ObjectType;
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{NameIs, Query, QueryCursor, SortBy};

use crate::{Error, Result};

/// A query, as `vfs_sync_client::Query`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "as the fields of Query")]
pub struct QueryForm {
    pub name: Option<String>,
    /// The beginning of the name; it excludes `name`.
    pub name_prefix: Option<String>,
    #[serde(rename = "type")]
    pub object_type: Option<ObjectType>,
    pub owner: Option<UserId>,
    pub metadata: Option<MetadataForm>,
    pub modified_since: Option<Timestamp>,
    pub sort_by: SortForm,
    pub descending: bool,
    pub after: Option<CursorForm>,
    pub limit: usize,
}

/// A metadata key, and the value that an item must have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as the field of Query")]
pub struct MetadataForm {
    pub key: String,
    pub value: Value,
}

/// The order of a query's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "as SortBy")]
pub enum SortForm {
    #[default]
    Name,
    ModifiedAt,
}

/// The place in a query's result after which a page begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as QueryCursor")]
pub struct CursorForm {
    pub name: String,
    pub modified_at: Timestamp,
    pub id: ItemId,
}

impl TryFrom<QueryForm> for Query {
    type Error = Error;

    fn try_from(form: QueryForm) -> Result<Self> {
        let name = match (form.name, form.name_prefix) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("`name` and `namePrefix` exclude one another"));
            }
            (Some(name), None) => Some(NameIs::Exactly(name)),
            (None, Some(prefix)) => Some(NameIs::StartsWith(prefix)),
            (None, None) => None,
        };
        let place = |form: CursorForm| {
            let CursorForm { name, modified_at, id } = form;
            QueryCursor { name, modified_at, id }
        };
        Ok(Self {
            name,
            object_type: form.object_type,
            owner: form.owner,
            metadata: form.metadata.map(|metadata| (metadata.key, metadata.value)),
            modified_since: form.modified_since,
            sort_by: match form.sort_by {
                SortForm::Name => SortBy::Name,
                SortForm::ModifiedAt => SortBy::ModifiedAt,
            },
            descending: form.descending,
            after: form.after.map(place),
            limit: form.limit,
        })
    }
}
