//! The transactions, written once over rows, locks and batches.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::content::RelationKind;
use vfs_sync_core::id::{ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::limits::MAX_WRITE_ID_ENTRIES;
use vfs_sync_core::server::attach::{AttachRefusal, AttachRows, Checkpoint, decide_attach};
use vfs_sync_core::server::feed_window::History;
use vfs_sync_core::server::push::{
    Addition, Changes, FeedPropagation, Head, Needs, PushBatch, Revival, Rows, Told, decide,
};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, ReconcileState, StageStatus,
    StateResponse, WriteIds,
};

use crate::page::takes_history;
use crate::transaction::{FeedWrite, PushWrite, Stored, StoredStage, Transaction};
use crate::uploads::{charged, close_stage, reserve};
use crate::{
    AbandonAnswer, NewStage, NewUpload, PullRequest, Quota, ReconcileAnswer, StageAnswer,
    StoreError, UploadAnswer,
};

pub(crate) async fn push<T: Transaction>(
    tx: &mut T,
    batch: &PushBatch,
    now: Timestamp,
) -> Result<PushResponse, StoreError> {
    let (response, decision) = decide_push(tx, batch, now).await?;
    write_push(tx, batch, &decision, now).await?;
    Ok(response)
}

/// What a transaction is to write.
pub(crate) struct Decision {
    changes: Changes,
    feeds: Vec<FeedWrite>,
}

impl Decision {
    /// Rows that it takes to write it, about.
    pub(crate) fn rows(&self) -> usize {
        let told: usize = self.feeds.iter().map(|feed| feed.bodies.len()).sum();
        told + self.changes.access.len()
    }
}

/// Takes a push's locks and decides it; writes nothing yet.
pub(crate) async fn decide_push<T: Transaction>(
    tx: &mut T,
    batch: &PushBatch,
    now: Timestamp,
) -> Result<(PushResponse, Decision), StoreError> {
    let last_write_id = tx.lock_replica(&batch.user, &batch.replica, now).await?;
    let mut rows = Rows::default();
    rows.last_write_id = last_write_id;
    let replayed = batch.replayed(last_write_id);
    if !replayed.is_empty() {
        rows.accepted = tx.accepted(&batch.user, &batch.replica, &replayed).await?;
    }
    tx.share_groups(&batch.named_groups()).await?;
    tx.lock_realms(Some(&batch.user), &batch.named_items(), &mut rows).await?;
    if let Some(tail) = &mut rows.tail
        && batch.operations().any(|op| op.basis.as_ref().is_some_and(|basis| !tail.knows(basis)))
    {
        let starts = tx.epoch_starts(&batch.user).await?;
        tail.take_history(starts);
    }
    while let Some(needs) = batch.needs(&rows) {
        let mut found = Rows::default();
        tx.load(&needs, &mut found).await?;
        if !needs.marks.is_empty() {
            found.marks = tx.marks(&batch.user, &needs.marks).await?;
        }
        rows.absorb(needs, found);
    }
    let decided = decide(batch, rows, now);
    let decision = spread(tx, decided.spread, now).await?;
    let mut response = decided.response;
    response.epoch = Some(tx.epoch().await?);
    Ok((response, decision))
}

/// Writes what was decided, under the locks that deciding took.
pub(crate) async fn write_push<T: Transaction>(
    tx: &mut T,
    batch: &PushBatch,
    decision: &Decision,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Decision { changes, feeds } = decision;
    tx.write_push(&PushWrite { user: &batch.user, replica: &batch.replica, changes, feeds, now })
        .await
}

/// Writes what was decided for a write that is no push.
pub(crate) async fn write_decision<T: Transaction>(
    tx: &mut T,
    decision: &Decision,
) -> Result<(), StoreError> {
    tx.write_changes(&decision.changes, &decision.feeds).await
}

/// Follows changes to everybody who sees them, under the locks of their feeds.
pub(crate) async fn spread<T: Transaction>(
    tx: &mut T,
    mut spread: FeedPropagation,
    now: Timestamp,
) -> Result<Decision, StoreError> {
    while let Some(needs) = tx.reckon(spread.size(), || spread.needs()) {
        let mut found = Rows::default();
        tx.load(&needs, &mut found).await?;
        spread.absorb(needs, found);
    }
    let readers = tx.reckon(spread.size(), || spread.readers());
    let mut heads = BTreeMap::new();
    if !readers.is_empty() {
        heads = tx.lock_heads(&readers, now).await?;
        hold_to_served(tx, &heads).await?;
    }
    if let Some(needs) = spread.needs_under_heads() {
        let mut found = Rows::default();
        tx.load(&needs, &mut found).await?;
        spread.absorb(needs, found);
    }
    let doubtful = tx.reckon(spread.size(), || spread.doubtful());
    let told = if doubtful.is_empty() { Told::new() } else { tx.told(&doubtful).await? };
    let mut changes = tx.reckon(spread.size(), || spread.finish(&told));
    let feeds = place_all(tx, heads, std::mem::take(&mut changes.feed), now).await?;
    Ok(Decision { changes, feeds })
}

/// Ends the transaction if one of the heads, which are locked, was further on before.
async fn hold_to_served<T: Transaction>(
    tx: &mut T,
    heads: &BTreeMap<UserId, Head>,
) -> Result<(), StoreError> {
    if tx.served().is_none() {
        return Ok(());
    }
    let present = tx.epoch().await?;
    if let Some((served, since)) = tx.served() {
        for (user, head) in heads {
            served.check(user, Some(head), present, since)?;
        }
    }
    Ok(())
}

/// Gives each entry its place in its feed.
async fn place_all<T: Transaction>(
    tx: &mut T,
    mut heads: BTreeMap<UserId, Head>,
    feed: BTreeMap<UserId, Vec<Addition>>,
    now: Timestamp,
) -> Result<Vec<FeedWrite>, StoreError> {
    if feed.is_empty() {
        return Ok(Vec::new());
    }
    let present = tx.epoch().await?;
    let write = |(user, bodies): (UserId, Vec<Addition>)| {
        let mut head = heads.remove(&user)?;
        let places = head.advance(bodies.len(), now, present);
        Some(FeedWrite { user, head, places, bodies })
    };
    Ok(feed.into_iter().filter_map(write).collect())
}

pub(crate) async fn set_member<T: Transaction>(
    tx: &mut T,
    group: &Principal,
    member: &UserId,
    present: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    match decide_member(tx, group, member, present, now).await? {
        Some(decision) => write_regranted(tx, &decision).await,
        None => Ok(()),
    }
}

/// Changes a group's members and decides what follows from it; `None` if nothing does.
pub(crate) async fn decide_member<T: Transaction>(
    tx: &mut T,
    group: &Principal,
    member: &UserId,
    present: bool,
    now: Timestamp,
) -> Result<Option<Decision>, StoreError> {
    tx.lock_group(group).await?;
    if !tx.write_member(group, member, present).await? {
        return Ok(None);
    }
    let items = tx.granted_to(group).await?;
    decide_regrant(tx, BTreeSet::from([member.clone()]), items, now).await
}

pub(crate) async fn set_block<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    owner: &UserId,
    blocked: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    match decide_block(tx, user, owner, blocked, now).await? {
        Some(decision) => write_regranted(tx, &decision).await,
        None => Ok(()),
    }
}

/// Has `user` block `owner`, or ends that, and decides what follows; `None` if nothing does.
///
/// The owner's realm is locked, so nothing is granted in it meanwhile. Whoever changes the members
/// of one of the user's groups locks the realms in which it is granted something, and reckons the
/// user's access anew, before or after.
pub(crate) async fn decide_block<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    owner: &UserId,
    blocked: bool,
    now: Timestamp,
) -> Result<Option<Decision>, StoreError> {
    let mut rows = Rows::default();
    tx.lock_realms(Some(owner), &BTreeSet::new(), &mut rows).await?;
    if !tx.write_block(user, owner, blocked).await? {
        return Ok(None);
    }
    let mut found = Rows::default();
    let needs = Needs { groups_of: BTreeSet::from([user.clone()]), ..Needs::default() };
    tx.load(&needs, &mut found).await?;
    let mut principals = found.groups.remove(user).unwrap_or_default();
    principals.extend(Principal::of_user(user));
    let mut items = BTreeSet::new();
    for principal in &principals {
        items.extend(tx.granted_to(principal).await?);
    }
    let needs = Needs { items: items.clone(), ..Needs::default() };
    let mut found = Rows::default();
    tx.load(&needs, &mut found).await?;
    items.retain(|id| {
        let item = found.items.get(id).and_then(Option::as_ref);
        item.is_some_and(|item| item.owner == *owner)
    });
    if items.is_empty() {
        return Ok(None);
    }
    let regranted = FeedPropagation::of_grants(BTreeSet::from([user.clone()]), items, rows, now);
    Ok(Some(spread(tx, regranted, now).await?))
}

/// Gives effect to the grants of a database in which they had none.
pub(crate) async fn regrant_all<T: Transaction>(
    tx: &mut T,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (users, items) = tx.all_grants().await?;
    match decide_regrant(tx, users, items, now).await? {
        Some(decision) => write_regranted(tx, &decision).await,
        None => Ok(()),
    }
}

/// Reckons anew what `users` may see of `items`, and what to tell them of it.
async fn decide_regrant<T: Transaction>(
    tx: &mut T,
    users: BTreeSet<UserId>,
    items: BTreeSet<ItemId>,
    now: Timestamp,
) -> Result<Option<Decision>, StoreError> {
    if items.is_empty() || users.is_empty() {
        return Ok(None);
    }
    let mut rows = Rows::default();
    tx.lock_realms(None, &items, &mut rows).await?;
    let regranted = FeedPropagation::of_grants(users, items, rows, now);
    Ok(Some(spread(tx, regranted, now).await?))
}

/// Writes what follows from a change of members.
pub(crate) async fn write_regranted<T: Transaction>(
    tx: &mut T,
    decision: &Decision,
) -> Result<(), StoreError> {
    tx.write_access(&decision.changes).await?;
    tx.write_feeds(&decision.feeds).await
}

pub(crate) async fn reconcile<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    request: &ReconcileRequest,
    now: Timestamp,
) -> Result<ReconcileAnswer, StoreError> {
    let stored = tx.reconcile_state(user, &request.client_id).await?.transpose()?;
    let head = tx.head(user).await?;
    if head.is_none() || !History::told_by_head(head.as_ref(), [&request.cursor]) {
        let history = history_of(tx, user, head).await?;
        if !history.as_ref().is_some_and(|history| history.has(&request.cursor)) {
            return Ok(ReconcileAnswer::Rematerialize {
                oldest_available: history.as_ref().and_then(History::pruned_cursor),
                history: history.map(|history| history.ends()).unwrap_or_default(),
            });
        }
    }
    let mut merged = ReconcileState {
        cursor: request.cursor.clone(),
        last_reconciled_write_ids: request.last_reconciled_write_ids.clone(),
    };
    let named: BTreeSet<ReplicaId> = merged.last_reconciled_write_ids.keys().cloned().collect();
    let known = tx.replicas(user, &named).await?;
    // A replica that is known no longer, or never was, has nothing to be behind of.
    merged.last_reconciled_write_ids.retain(|replica, _| known.contains_key(replica));
    for (replica_id, sent) in &merged.last_reconciled_write_ids {
        let last = known.get(replica_id).map(|row| row.last_write_id);
        if Some(*sent) > last {
            let replica_id = replica_id.clone();
            return Ok(ReconcileAnswer::WriteIdsAhead { replica_id, sent: *sent, last });
        }
    }
    if let Some(stored) = &stored {
        merged.cursor = merged.cursor.max(stored.cursor.clone());
        for (replica, write_id) in &stored.last_reconciled_write_ids {
            let slot = merged.last_reconciled_write_ids.entry(replica.clone()).or_insert(*write_id);
            *slot = (*slot).max(*write_id);
        }
    }
    if merged.last_reconciled_write_ids.len() > MAX_WRITE_ID_ENTRIES {
        keep_most_active(tx, user, &mut merged.last_reconciled_write_ids).await?;
    }
    if stored.as_ref() != Some(&merged) {
        let new = stored.is_none();
        tx.write_reconcile_state(user, &request.client_id, &merged, new).await?;
    }
    tx.touch_replica(user, &request.client_id, now).await?;
    Ok(ReconcileAnswer::Merged(merged))
}

/// Drops the entries of the least recently active replicas, down to the limit.
async fn keep_most_active<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    write_ids: &mut WriteIds,
) -> Result<(), StoreError> {
    let all: BTreeSet<ReplicaId> = write_ids.keys().cloned().collect();
    let rows = tx.replicas(user, &all).await?;
    let mut by_activity: Vec<_> = all
        .into_iter()
        .map(|replica| (rows.get(&replica).map(|row| row.last_seen), replica))
        .collect();
    by_activity.sort_by(|a, b| b.cmp(a));
    for (_, replica) in by_activity.drain(MAX_WRITE_ID_ENTRIES..) {
        write_ids.remove(&replica);
    }
    Ok(())
}

/// The user's most recently active replicas, `client` among them.
pub(crate) async fn write_id_map<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    client: Option<&ReplicaId>,
) -> Result<WriteIds, StoreError> {
    let mut active = tx.active_replicas(user, MAX_WRITE_ID_ENTRIES).await?;
    let own = client.filter(|client| active.iter().all(|(replica, _)| replica != *client));
    if let Some(client) = own {
        let found = tx.replicas(user, &BTreeSet::from([client.clone()])).await?;
        if let Some(row) = found.get(client) {
            active.truncate(MAX_WRITE_ID_ENTRIES - 1);
            active.push((client.clone(), row.last_write_id));
        }
    }
    Ok(active.into_iter().collect())
}

/// A feed's head with the epochs before it.
async fn history_of<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    head: Option<Head>,
) -> Result<Option<History>, StoreError> {
    let Some(head) = head else { return Ok(None) };
    Ok(Some(History::new(head, tx.epoch_starts(user).await?)))
}

/// The history that an answer to `request` takes: all of it only where that makes a difference.
pub(crate) async fn history_for<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    request: &PullRequest,
) -> Result<Option<History>, StoreError> {
    let head = tx.head(user).await?;
    if tx.served().is_some() {
        let present = tx.epoch().await?;
        if let Some((served, since)) = tx.served() {
            served.check(user, head.as_ref(), present, since)?;
        }
    }
    if takes_history(request, head.as_ref()) {
        return history_of(tx, user, head).await;
    }
    Ok(head.map(|head| History::new(head, Vec::new())))
}

pub(crate) async fn state<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    client: &ReplicaId,
) -> Result<StateResponse, StoreError> {
    let reconcile_state = tx.reconcile_state(user, client).await?.transpose()?;
    let head = tx.head(user).await?;
    let history = history_of(tx, user, head).await?;
    Ok(StateResponse {
        client_id: client.clone(),
        reconcile_state,
        feed_head: head.and_then(|head| head.cursor()),
        epoch: Some(tx.epoch().await?.as_u64()),
        pruned_through: history.and_then(|history| history.pruned_cursor()),
        last_write_ids: write_id_map(tx, user, Some(client)).await?,
    })
}

pub(crate) async fn open_stage<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    stage: &NewStage,
    quota: &Quota,
    now: Timestamp,
) -> Result<StageAnswer, StoreError> {
    if let Some(stored) = tx.stage(&stage.staging_id).await?.transpose()? {
        if !repeats(&stored, user, stage) {
            return Ok(StageAnswer::Taken);
        }
        let waits = stored.row.uploaded.is_none() && stored.row.status == StageStatus::Staged;
        if waits
            && stage.size > stored.reserved
            && let Err(over) = reserve(tx, &stored, stage.size, quota).await?
        {
            return Ok(StageAnswer::OverQuota(over));
        }
        return Ok(StageAnswer::Open(stored.row));
    }
    if !tx.insert_stage(user, stage, now).await? {
        return Ok(StageAnswer::Taken);
    }
    let usage = tx.usage(user).await?;
    match usage.with_stage(quota).and_then(|usage| usage.with_staged(stage.size, quota)) {
        Ok(usage) => {
            tx.set_usage(user, usage).await?;
            if stage.size > 0 {
                tx.set_reserved(&stage.blob_id, stage.size).await?;
            }
        }
        Err(over) => {
            tx.delete_stage(&stage.staging_id, &stage.blob_id).await?;
            return Ok(StageAnswer::OverQuota(over));
        }
    }
    let made = tx.stage(&stage.staging_id).await?.transpose()?;
    made.map(|made| StageAnswer::Open(made.row))
        .ok_or_else(|| StoreError::Failed("a stage that was just made is not there".into()))
}

fn repeats(stored: &StoredStage, user: &UserId, stage: &NewStage) -> bool {
    stored.row.owner == *user
        && stored.row.blob_id == stage.blob_id
        && stored.row.content_type.as_deref() == stage.content_type.as_deref()
        && stored.expiry_chosen == stage.expiry_chosen
        && (!stage.expiry_chosen || stored.row.expires_at == stage.expires_at)
}

/// The stage, if it is the user's: to everybody else it does not exist.
pub(crate) async fn stage<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
) -> Result<Option<vfs_sync_core::server::attach::StageRow>, StoreError> {
    let stored = tx.stage(staging_id).await?.transpose()?;
    Ok(stored.map(|stored| stored.row).filter(|row| row.owner == *user))
}

pub(crate) async fn record_upload<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    upload: &NewUpload,
    quota: &Quota,
    now: Timestamp,
) -> Result<UploadAnswer, StoreError> {
    let stored = tx.stage(staging_id).await?.transpose()?;
    let Some(stored) = stored.filter(|stored| stored.row.owner == *user) else {
        return Ok(UploadAnswer::Unknown);
    };
    let mut row = stored.row.clone();
    let (size, digest) = (upload.size, upload.digest);
    if row.status == StageStatus::Abandoned {
        return Ok(UploadAnswer::Over(row));
    }
    match row.uploaded {
        Some(before) if before == (size, digest) => {
            return Ok(UploadAnswer::Recorded { row, left_over: false });
        }
        Some(_) => return Ok(UploadAnswer::Differs(row)),
        None => {}
    }
    if row.status != StageStatus::Staged || row.expires_at <= now {
        return Ok(UploadAnswer::Over(row));
    }
    let parts = tx.upload(staging_id).await?;
    if upload.lease.is_some() && parts.as_ref().map(|parts| &parts.lease) != upload.lease.as_ref() {
        return Ok(UploadAnswer::Lost);
    }
    if let Err(over) = reserve(tx, &stored, size, quota).await? {
        return Ok(UploadAnswer::OverQuota(over));
    }
    tx.set_uploaded(&row.blob_id, size, digest).await?;
    let left_over = parts.is_some();
    if left_over {
        tx.set_reclaim(&row.blob_id, now).await?;
    }
    row.uploaded = Some((size, digest));
    Ok(UploadAnswer::Recorded { row, left_over })
}

pub(crate) async fn abandon<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    now: Timestamp,
) -> Result<AbandonAnswer, StoreError> {
    let stored = tx.stage(staging_id).await?.transpose()?;
    let Some(stored) = stored.filter(|stored| stored.row.owner == *user) else {
        return Ok(AbandonAnswer::Unknown);
    };
    let mut row = stored.row.clone();
    match row.status {
        StageStatus::Attached => return Ok(AbandonAnswer::Attached(row)),
        StageStatus::Abandoned => {}
        StageStatus::Staged => {
            close_stage(tx, &stored, StageStatus::Abandoned, now).await?;
            row.status = StageStatus::Abandoned;
        }
    }
    Ok(AbandonAnswer::Abandoned(row))
}

pub(crate) async fn attach<T: Transaction>(
    tx: &mut T,
    user: &UserId,
    staging_id: &StagingId,
    request: &AttachRequest,
    ref_id: RefId,
    quota: &Quota,
    now: Timestamp,
) -> Result<Result<AttachResponse, AttachRefusal>, StoreError> {
    let stored = for_decision(tx.stage(staging_id).await?, |stored| stored)?;
    let stage = stored.as_ref().map(|stored| stored.as_ref().map(|s| s.row.clone()));
    let stage = stage.map(|stage| stage.map_err(Clone::clone));
    let mut rows = AttachRows { stage, ..AttachRows::default() };
    if let Ok(Some(checkpoint)) = Checkpoint::of(request) {
        let state = tx.reconcile_state(user, &checkpoint.client_id).await?;
        rows.reconcile = for_decision(state, |state| state)?;
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
            let mut more = Rows::default();
            tx.load(&needs, &mut more).await?;
            found.absorb(needs, more);
        }
        rows.returning = revival.level(&found);
    }
    let attachments = tx.attachments_of(&request.item_id).await?;
    rows.current = attachments.into_iter().find(|a| a.relation_kind == RelationKind::File);
    let attached = match decide_attach(user, request, &rows, ref_id, now) {
        Ok(attached) => attached,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let (Some(changes), Some(Ok(stored))) = (&attached.changes, &stored) {
        let owner = rows.item.as_ref().map_or(user, |item| &item.owner);
        let decision = match revival {
            Some(revival) => {
                let returning = revival.apply(found, &changes.attachment, now);
                spread(tx, returning, now).await?
            }
            None => {
                let heads = tx.lock_heads(&changes.feed.keys().cloned().collect(), now).await?;
                hold_to_served(tx, &heads).await?;
                let feeds = place_all(tx, heads, changes.feed.clone(), now).await?;
                Decision { changes: Changes::default(), feeds }
            }
        };
        // Usages are locked last: what is refused by them has written nothing.
        let usages = match charged(tx, stored, owner, quota).await? {
            Some(usages) => usages,
            None => return Ok(Err(AttachRefusal::OwnerOverQuota)),
        };
        tx.insert_attachment(changes).await?;
        write_decision(tx, &decision).await?;
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

/// A malformed row is for the rules to answer; any other error ends the transaction.
fn for_decision<A, B>(
    stored: Stored<A>,
    take: impl FnOnce(A) -> B,
) -> Result<Option<Result<B, String>>, StoreError> {
    match stored {
        None => Ok(None),
        Some(Ok(row)) => Ok(Some(Ok(take(row)))),
        Some(Err(error @ StoreError::MalformedRow { .. })) => Ok(Some(Err(error.to_string()))),
        Some(Err(error)) => Err(error),
    }
}
