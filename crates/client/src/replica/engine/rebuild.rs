//! Replaces the replica's registers by rebuilt ones.

use std::sync::Arc;

use vfs_sync_core::client::offer::{Offered, Trail};
use vfs_sync_core::wire::ReconcileState;

use super::epoch::{Again, requeue};
use super::tops::refresh_affected;
use crate::replica::offering;
use crate::replica::rows::{Result, Rows};
use crate::replica::store::{Meta, Offering, Rebuilt, Slot};

/// The number of contents that a swap examines in one query.
const CONTENTS_AT_ONCE: usize = 1_000;

/// Makes the rebuilt slot, which passed through `trail`, the current one.
pub(super) fn swap(
    rows: &mut dyn Rows,
    meta: &mut Meta,
    trail: Trail,
    rebuilt: Rebuilt,
    with: &Offering<'_>,
) -> Result<Offered> {
    let shared = offering::shared_with(rows, meta, &rebuilt.history)?;
    forget_what_went(rows)?;
    meta.rebuilds += 1;
    // Operations that this epoch acknowledged and has are done; about the others nothing is
    // certain.
    let own = rebuilt.settled.get(&meta.client_id).copied();
    let again = match rebuilt.epoch {
        Some(_) => Again::Lacking { covered: own },
        None => Again::AsSent { used: own },
    };
    let mut affecting = match again {
        Again::Lacking { covered: Some(own) } => rows.remove_covered(own)?,
        _ => Vec::new(),
    };
    requeue(rows, meta, again)?;
    rows.reset_uploads()?;
    let offered = offering::offer_again(rows, meta, &shared, &affecting, with)?;
    rows.swap_slots()?;
    rows.clear(Slot::Building)?;
    meta.unsettled = false;
    meta.trail = Arc::new(trail);
    meta.cursor = rebuilt.cursor;
    meta.baseline = rebuilt.baseline;
    meta.head = None;
    meta.floor = Arc::new(rebuilt.floor);
    (meta.settled, meta.reconciled) = (None, None);
    if let Some(cursor) = meta.cursor.clone() {
        let last_reconciled_write_ids = rebuilt.settled;
        let state = ReconcileState { cursor, last_reconciled_write_ids };
        meta.settled = Some(Arc::new(state));
    }
    meta.items = rows.count_items()?;
    affecting.extend(rows.queue(usize::MAX)?.into_iter().map(|one| one.operation));
    refresh_affected(rows, &meta.user, &affecting)?;
    offering::settle_lost(rows, meta)?;
    Ok(offered)
}

/// Before a swap, marks the contents that the rebuilt replica no longer has as removable.
fn forget_what_went(rows: &mut dyn Rows) -> Result<()> {
    let mut after = None;
    loop {
        let page = rows.contents(after.as_ref(), CONTENTS_AT_ONCE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.attachment.item_id.clone());
        for row in page {
            let (item, blob_id) = (&row.attachment.item_id, &row.attachment.blob_id);
            let rebuilt = rows.content(Slot::Building, item)?;
            if rebuilt.is_none_or(|rebuilt| rebuilt.attachment.blob_id != *blob_id) {
                rows.forget(item, blob_id)?;
            }
        }
    }
}
