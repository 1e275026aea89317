//! The look-up of an item for operators.

use std::collections::BTreeSet;

use vfs_sync_core::server::push::Needs;

use super::push::loaded;
use super::{AnyItem, Command};
use crate::error::Result;
use crate::topics::Topics;
use crate::values::ItemRecord;

impl Command for AnyItem {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Option<ItemRecord>> {
        let id = &self.item_id;
        let one = BTreeSet::from([id.clone()]);
        let needs = Needs {
            items: one.clone(),
            ancestors: one.clone(),
            grant_counts: one,
            ..Needs::default()
        };
        let mut rows = loaded(tx, &needs).await?;
        let Some(item) = rows.items.remove(id).flatten() else { return Ok(None) };
        let above = rows.links.iter().filter(|((_, child), link)| child == id && link.is_some());
        let mut parents: Vec<_> = above.map(|((parent, _), _)| parent.clone()).collect();
        parents.sort();
        let grants = rows.grant_counts.get(id).copied().unwrap_or_default().present;
        let attachments = tx.attachments_of(id).await?;
        Ok(Some(ItemRecord { item, parents, grants, attachments }))
    }
}
