//! The attach of a stage to an item.

use std::collections::BTreeSet;

use vfs_sync_core::content::RelationKind;
use vfs_sync_core::server::attach::{AttachRefusal, AttachRows, Checkpoint, decide_attach};
use vfs_sync_core::server::push::{Changes, Needs, Revival, Rows};
use vfs_sync_core::wire::StageStatus;

use super::upload::charged;
use crate::command::push::{check_served, loaded, place_all, propagate};
use crate::command::{Attach, Command};
use crate::error::{Result, StoreError};
use crate::topics::{Decision, Stored, Topics};

impl Command for Attach {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<Self::Answer> {
        let Self { user, staging_id, request, ref_id, quota, .. } = self;
        let now = self.now;
        let stored = for_decision(tx.stage(staging_id).await?)?;
        let stage = stored.as_ref().map(|stored| stored.as_ref().map(|s| s.row.clone()));
        let stage = stage.map(|stage| stage.map_err(Clone::clone));
        let mut rows = AttachRows { stage, ..AttachRows::default() };
        if let Ok(Some(checkpoint)) = Checkpoint::of(request) {
            let state = tx.reconcile_state(user, &checkpoint.client_id).await?;
            rows.reconcile = for_decision(state)?;
        }
        if let Some(Ok(stage)) = &rows.stage {
            rows.attached = tx.attachments_with(&stage.blob_id).await?;
        }
        let item = BTreeSet::from([request.item_id.clone()]);
        let mut found = Rows::default();
        tx.lock_realms(Some(user), &item, &mut found).await?;
        // To an attach a tombstone is nothing.
        let item_row = found.items.remove(&request.item_id).flatten();
        rows.item = item_row.filter(|item| !item.is_purged());
        tx.load(&Needs { access: item, ..Needs::default() }, &mut found).await?;
        rows.audience = found.access.remove(&request.item_id).unwrap_or_default();
        let is_deleted = rows.item.as_ref().is_some_and(|item| item.fields.is_deleted());
        let revival = Revival::of(user, request, now).filter(|_| is_deleted);
        if let Some(revival) = &revival {
            found.items.insert(request.item_id.clone(), rows.item.clone());
            while let Some(needs) = revival.needs(&found) {
                let more = loaded(tx, &needs).await?;
                found.absorb(needs, more);
            }
            rows.returning = revival.level(&found);
        }
        let attachments = tx.attachments_of(&request.item_id).await?;
        rows.current = attachments.into_iter().find(|a| a.relation_kind == RelationKind::File);
        let attached = match decide_attach(user, request, &rows, ref_id.clone(), now) {
            Ok(attached) => attached,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let (Some(changes), Some(Ok(stored))) = (&attached.changes, &stored) {
            let owner = rows.item.as_ref().map_or(user, |item| &item.owner);
            let decision = match revival {
                Some(revival) => {
                    let returning = revival.apply(found, &changes.attachment, now);
                    propagate(tx, returning, now).await?
                }
                None => {
                    let heads = tx.lock_heads(&changes.feed.keys().cloned().collect(), now).await?;
                    check_served(tx, &heads).await?;
                    let feeds = place_all(tx, heads, changes.feed.clone(), now).await?;
                    Decision { changes: Changes::default(), feeds }
                }
            };
            // Usages are locked last: a call that exceeds one has written nothing yet.
            let usages = match charged(tx, stored, owner, quota).await? {
                Some(usages) => usages,
                None => return Ok(Err(AttachRefusal::OwnerOverQuota)),
            };
            tx.insert_attachment(changes).await?;
            tx.write_changes(&decision.changes, &decision.feeds).await?;
            tx.set_stage_status(staging_id, StageStatus::Attached).await?;
            if *owner != stored.row.owner {
                tx.set_charged(&stored.row.blob_id, owner).await?;
            }
            for (user, usage) in usages {
                tx.set_usage(&user, usage).await?;
            }
        }
        Ok(Ok(attached.response))
    }
}

/// Passes a malformed row on to the decision; any other error ends the transaction.
fn for_decision<A>(stored: Stored<A>) -> Result<Option<Result<A, String>>> {
    match stored {
        None => Ok(None),
        Some(Ok(row)) => Ok(Some(Ok(row))),
        Some(Err(error @ StoreError::MalformedRow { .. })) => Ok(Some(Err(error.to_string()))),
        Some(Err(error)) => Err(error),
    }
}
