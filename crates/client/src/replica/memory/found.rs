//! The index of shown items, in memory: a query looks at every row.

use std::collections::BTreeMap;

use vfs_sync_core::id::ItemId;

use crate::api::{NameIs, Query, SortBy};
use crate::replica::rows::FoundRow;

#[derive(Default)]
pub(super) struct Found {
    pub(super) indexed: bool,
    pub(super) rows: BTreeMap<ItemId, FoundRow>,
}

fn meets(row: &FoundRow, query: &Query) -> bool {
    let name = match &query.name {
        Some(NameIs::Exactly(name)) => row.name == *name,
        Some(NameIs::StartsWith(prefix)) => row.name.starts_with(prefix.as_str()),
        None => true,
    };
    let metadata = query.metadata.as_ref();
    name && query.object_type.is_none_or(|object_type| row.object_type == object_type)
        && query.owner.as_ref().is_none_or(|owner| row.owner == *owner)
        && metadata.is_none_or(|(key, value)| row.metadata.get(key.as_str()) == Some(value))
        && query.modified_since.is_none_or(|since| row.modified_at >= since)
}

impl Found {
    pub(super) fn find(&self, query: &Query) -> Vec<ItemId> {
        let mut rows: Vec<&FoundRow> = self.rows.values().filter(|row| meets(row, query)).collect();
        match query.sort_by {
            SortBy::Name => rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id))),
            SortBy::ModifiedAt => {
                rows.sort_by(|a, b| (a.modified_at, &a.id).cmp(&(b.modified_at, &b.id)));
            }
        }
        if query.descending {
            rows.reverse();
        }
        let beyond = |row: &&FoundRow| {
            query.after.as_ref().is_none_or(|after| {
                let order = match query.sort_by {
                    SortBy::Name => (&row.name, &row.id).cmp(&(&after.name, &after.id)),
                    SortBy::ModifiedAt => {
                        (row.modified_at, &row.id).cmp(&(after.modified_at, &after.id))
                    }
                };
                if query.descending { order.is_lt() } else { order.is_gt() }
            })
        };
        let page = rows.into_iter().filter(beyond).take(query.page_size());
        page.map(|row| row.id.clone()).collect()
    }
}
