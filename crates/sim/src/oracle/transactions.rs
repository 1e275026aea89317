//! Checks every transaction of the server against the model, at the time of its commit.

use std::collections::BTreeMap;

use vfs_sync_core::entry::{Change, Entry};
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId, UserId};
use vfs_sync_core::operation::{Action, Operation};
use vfs_sync_core::server::attach::AttachRefusal;
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushReason, PushResponse, PushStatus, ReconcileRequest,
    ReconcileState, StageStatus, WriteIds,
};
use vfs_sync_store::{BlobRow, PullAnswer, PullRequest, Reclaim, ReconcileAnswer, Retention};

use super::positions;
use crate::actor::malicious_client;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::{Book, Ledger, Seen};
use crate::oracle::model::{Expected, Model, Refused};

const fn result_name(status: PushStatus, reason: Option<PushReason>) -> &'static str {
    match (status, reason) {
        (PushStatus::Applied, _) => "applied",
        (PushStatus::AlreadyApplied, _) => "alreadyApplied",
        (PushStatus::StaleWriteId, _) => "staleWriteId",
        (PushStatus::OutdatedOp, Some(PushReason::Cycle)) => "outdatedOp: cycle",
        (PushStatus::OutdatedOp, Some(PushReason::Unseen)) => "outdatedOp: unseen",
        (PushStatus::OutdatedOp, _) => "outdatedOp: superseded",
        (PushStatus::InvalidOp, Some(PushReason::NotPermitted)) => "invalidOp: notPermitted",
        (PushStatus::InvalidOp, Some(PushReason::UnknownItem)) => "invalidOp: unknownItem",
        (PushStatus::InvalidOp, _) => "invalidOp: malformed",
    }
}

/// Checks a push, in the order of the commits: each result follows the rules, and no write is
/// superseded by one that its author had seen.
pub(crate) fn push(
    ledger: &Ledger,
    user: &UserId,
    replica: &ReplicaId,
    operations: &[Operation],
    now: Timestamp,
    last_changed: &BTreeMap<UserId, Timestamp>,
    answer: &PushResponse,
) {
    let mut book = ledger.book();
    book.note(|| format!("commit: push of {user} by {replica}: {} operations", operations.len()));
    book.commits += u64::from(answer.results.iter().any(|one| one.status == PushStatus::Applied));
    let again = operations.iter().find(|op| {
        let before = book.model.applied_as(&op.op_id);
        before.is_some_and(|write_id| write_id != op.write_id.get())
    });
    let again = again.filter(|_| !book.may_repeat).map(|op| op.op_id.clone());
    let last = |owner: &UserId| last_changed.get(owner).copied();
    let mut before = Vec::with_capacity(operations.len());
    let Book { model, operations: queued, .. } = &mut *book;
    let expected = model.push(user, replica, operations, now, &last, |model, op| {
        let seen = queued.get(&op.op_id).and_then(|queued| queued.seen.as_ref());
        before.push(seen.is_some_and(|seen| is_the_newest(model, &op.item_id, seen)));
    });
    if answer.results.len() != operations.len() || answer.client_id != *replica {
        let message =
            format!("{} results for {} operations", answer.results.len(), operations.len());
        return book.fail(FailureKind::Answer, message);
    }
    let results = operations.iter().zip(&expected).zip(&answer.results).zip(before);
    for (((op, expected), result), saw_the_newest) in results {
        let got = Expected::got(result);
        book.coverage.count(Kind::Result, result_name(got.status, got.reason));
        book.note(|| {
            format!(
                "  {} {:?} {:?} {:?} {}",
                show(op),
                got.status,
                got.reason,
                got.authored_at,
                op.to_json()
            )
        });
        if got.status == PushStatus::Applied && expected.status == PushStatus::AlreadyApplied {
            let message = format!("{} was applied before, and once more", op.op_id);
            return book.fail(FailureKind::AppliedTwice, message);
        }
        if got != *expected || result.op_id.as_ref() != Some(&op.op_id) {
            let message = format!("{}: got {got:?}, expected {expected:?}", show(op));
            return book.fail(FailureKind::Answer, message);
        }
        if got.status == PushStatus::Applied && again.as_ref() == Some(&op.op_id) {
            let message = format!("{} is applied once more, as #{}", op.op_id, op.write_id);
            return book.fail(FailureKind::AppliedTwice, message);
        }
        let superseded = got.reason == Some(PushReason::Superseded);
        if superseded && saw_the_newest {
            let message = format!("{} was beaten, though its author had seen the newest", show(op));
            return book.fail(FailureKind::Causality, message);
        }
    }
    // Only an operation that changed a tree's shape can have closed a cycle, and only through the
    // item that it moved.
    let cycle = operations.iter().find(|op| {
        let shapes = matches!(
            op.action,
            Action::LinkAdd { .. } | Action::LinkReassign { .. } | Action::Upsert(_)
        );
        shapes && book.model.is_in_cycle(&op.item_id)
    });
    if let Some(op) = cycle {
        book.fail(FailureKind::Cycle, format!("{} is under itself", op.item_id));
    }
}

/// Checks that no tree has a cycle.
pub(crate) fn no_cycle(ledger: &Ledger) {
    let mut book = ledger.book();
    book.coverage.count(Kind::Check, "nothing contains itself");
    if let Some(id) = book.model.cycle() {
        book.fail(FailureKind::Cycle, format!("{id} is under itself"));
    }
}

/// Returns whether the name that the author of a rename saw is the item's present one. A name that
/// the servers did not have yet counts only with the stamp of its own operation: if another device
/// offers it again after a restore, it has the time of the item's newest change.
fn is_the_newest(model: &Model, item: &ItemId, seen: &Seen) -> bool {
    let Some(newest) = model.stamp_of_name(item, &seen.name) else { return false };
    match (&seen.stamp, &seen.own) {
        (Some(stamp), _) => stamp == newest,
        (None, Some(op_id)) => model.is_stamp_of(op_id, newest),
        (None, None) => false,
    }
}

pub(crate) fn show(op: &Operation) -> String {
    let what = match &op.action {
        Action::Upsert(upsert) => {
            let name = upsert.name.as_ref().map_or("", |name| name.as_str());
            let made = if upsert.object_type.is_some() { "create" } else { "edit" };
            let under = upsert.parent.as_ref().map(short).unwrap_or_default();
            format!("{made} {name:?} {under}")
        }
        Action::Delete => "delete".into(),
        Action::GrantAdd { principal, level } => format!("grant {level} to {}", principal.id),
        Action::GrantRemove { principal } => format!("revoke from {}", principal.id),
        Action::LinkAdd { parent } => format!("link under {}", short(parent)),
        Action::LinkRemove { parent } => format!("unlink from {}", short(parent)),
        Action::LinkReassign { parent } => format!("move under {}", short(parent)),
    };
    format!("#{} {what} ({})", op.write_id.get(), short(&op.item_id))
}

/// Returns the first digits of an id, for a trace.
pub(crate) fn short(id: &ItemId) -> String {
    id.as_str().chars().take(6).collect()
}

/// Checks a page: it may contain only items that its reader may see now, in their present state,
/// and removals of items that the reader can have seen.
pub(crate) fn pull(ledger: &Ledger, user: &UserId, request: &PullRequest, answer: &PullAnswer) {
    let mut book = ledger.book();
    positions::pull(&mut book, user, request, answer);
    let page = match answer {
        PullAnswer::Page(page) => page,
        PullAnswer::Rematerialize(_) => {
            book.coverage.count(Kind::Result, "pull: rematerialize");
            if !book.may_rematerialize {
                let message = format!("{user} is to rematerialise for no reason: {request:?}");
                book.fail(FailureKind::FalseAlarm, message);
            }
            return;
        }
    };
    book.note(|| {
        format!("read: page of {user}: {} entries, more: {}", page.items.len(), page.has_more)
    });
    if page.items.len() > usize::try_from(request.limit).unwrap_or(usize::MAX) {
        let message =
            format!("a page of {} entries, {} asked for", page.items.len(), request.limit);
        return book.fail(FailureKind::Answer, message);
    }
    for (replica, told) in &page.last_reconciled_write_ids {
        if book.model.last_write_id(user, replica) != Some(told.get()) {
            let message = format!("{replica} is told to have used write id {told}");
            return book.fail(FailureKind::Answer, message);
        }
    }
    for json in &page.items {
        let entry = match book.entry(json) {
            Ok(entry) => entry,
            Err(error) => {
                return book.fail(FailureKind::Answer, format!("no entry: {error}: {json}"));
            }
        };
        if let Some(message) = leak(&book, user, &entry) {
            return book.fail(FailureKind::Secrecy, message);
        }
    }
    let watched = book.watched.as_ref().map(|(client, _)| client);
    if !page.has_more && watched.is_some() && watched == request.client_id.as_ref() {
        let view = book.model.view(user);
        let told = (view, page.last_reconciled_write_ids.clone());
        book.watched.iter_mut().for_each(|(_, pages)| pages.push(told.clone()));
    }
    book.coverage.count(Kind::Check, "pages: nothing but what the reader may see");
}

fn leak(book: &Book, user: &UserId, entry: &Entry) -> Option<String> {
    let sees = |id: &ItemId| book.model.level(user, id, false).is_some();
    let saw = |id: &ItemId| book.model.can_have_seen(user, id);
    let fine = match &entry.body.change {
        Change::ItemUpsert(view) => book.model.shows(user, view),
        Change::GrantAdd { item, .. } => sees(item),
        Change::LinkAdd { parent, child } => sees(parent) && sees(child),
        Change::BlobAttach(attachment) => sees(&attachment.item_id),
        Change::ItemDelete { item, .. }
        | Change::GrantRemove { item, .. }
        | Change::BlobDetach { item, .. } => saw(item),
        Change::LinkRemove { parent, child, .. } => saw(parent) && saw(child),
    };
    (!fine).then(|| format!("{user} is told {:?}", entry.body.change))
}

/// Checks a reconcile: the stored state of a client never regresses, and never exceeds the feed.
pub(crate) fn reconcile(
    ledger: &Ledger,
    user: &UserId,
    request: &ReconcileRequest,
    answer: &ReconcileAnswer,
) {
    let mut book = ledger.book();
    match answer {
        ReconcileAnswer::Merged(state) => {
            let sent = ReconcileState {
                cursor: request.cursor.clone(),
                last_reconciled_write_ids: known_write_ids(&book, user, request),
            };
            let before = book.model.reconciled(user, &request.client_id).cloned();
            let merged = merge(before, sent);
            if *state != merged {
                let message = format!("{user} reconciled: got {state:?}, expected {merged:?}");
                return book.fail(FailureKind::Answer, message);
            }
            for (replica, told) in &state.last_reconciled_write_ids {
                if book.model.last_write_id(user, replica) < Some(told.get()) {
                    let message = format!("{replica} is taken to have reconciled {told}");
                    return book.fail(FailureKind::Answer, message);
                }
            }
            book.model.reconcile(user, &request.client_id, merged);
        }
        ReconcileAnswer::WriteIdsAhead { replica_id, sent, .. }
            if malicious_client::is_one(&request.client_id)
                && book.model.last_write_id(user, replica_id) < Some(sent.get()) =>
        {
            book.coverage.count(Kind::Result, "reconcile: write ids ahead");
        }
        ReconcileAnswer::Rematerialize(_) | ReconcileAnswer::WriteIdsAhead { .. } => {
            book.coverage.count(Kind::Result, "reconcile: refused");
            if !book.may_rematerialize {
                let message = format!("{user} may not reconcile {request:?}: {answer:?}");
                book.fail(FailureKind::FalseAlarm, message);
            }
        }
    }
}

/// Returns the write ids of a request, without those of replicas that the server does not know.
pub(super) fn known_write_ids(book: &Book, user: &UserId, request: &ReconcileRequest) -> WriteIds {
    let sent = request.last_reconciled_write_ids.iter();
    let known = sent.filter(|(replica, _)| book.model.last_write_id(user, replica).is_some());
    known.map(|(replica, write_id)| (replica.clone(), *write_id)).collect()
}

pub(super) fn merge(before: Option<ReconcileState>, sent: ReconcileState) -> ReconcileState {
    let Some(mut merged) = before else { return sent };
    merged.cursor = merged.cursor.max(sent.cursor);
    for (replica, id) in sent.last_reconciled_write_ids {
        let held = merged.last_reconciled_write_ids.entry(replica).or_insert(id);
        *held = id.max(*held);
    }
    merged
}

/// Checks that the object store has the bytes when the registry records them.
pub(crate) fn recorded(ledger: &Ledger, row: &StageRow) {
    let mut book = ledger.book();
    let Some((size, digest)) = row.uploaded else { return };
    let stored = book.objects.peek(&row.blob_id);
    if !stored.is_some_and(|bytes| {
        bytes.len() as u64 == size && crate::infra::objects::digest(&bytes) == digest
    }) {
        let message = format!("{} is registered with bytes that are not stored", row.blob_id);
        return book.fail(FailureKind::Content, message);
    }
    book.model.stage_uploaded(&row.staging_id, size, digest);
}

fn refused(refusal: &AttachRefusal) -> Option<Refused> {
    Some(match refusal {
        AttachRefusal::UnknownStage => Refused::UnknownStage,
        AttachRefusal::UnknownItem => Refused::UnknownItem,
        AttachRefusal::NotPermitted => Refused::NotPermitted,
        AttachRefusal::Behind(_) => Refused::Behind,
        AttachRefusal::Empty => Refused::Empty,
        AttachRefusal::NotAttachable(_) => Refused::NotAttachable,
        AttachRefusal::Expired => Refused::Expired,
        AttachRefusal::ContentChanged(_) => Refused::ContentChanged,
        AttachRefusal::Differs(_) => Refused::Differs,
        AttachRefusal::IncompleteCheckpoint
        | AttachRefusal::OtherKind(_)
        | AttachRefusal::OwnerOverQuota
        | AttachRefusal::MalformedRow(_) => return None,
    })
}

/// Checks that an attach succeeds exactly if the rules permit it.
pub(crate) fn attach(
    ledger: &Ledger,
    user: &UserId,
    staging_id: &StagingId,
    request: &AttachRequest,
    now: Timestamp,
    believed: Timestamp,
    answer: &Result<AttachResponse, AttachRefusal>,
) {
    let mut book = ledger.book();
    // A request that does not state the content that its author saw can overwrite an unseen one.
    if request.expected_blob_id.is_none() || request.client_id.is_none() {
        let message = format!("{user} attaches without saying behind what: {request:?}");
        book.fail(FailureKind::Content, message);
    }
    let expected = book.model.attach(user, staging_id, request, now, believed);
    book.commits += u64::from(matches!(expected, Ok(true)));
    let agrees = match (answer, &expected) {
        (Ok(_), Ok(_)) => true,
        (Err(refusal), Err(expected)) => refused(refusal) == Some(*expected),
        _ => false,
    };
    let name = match answer {
        Ok(_) => "attach: attached",
        Err(AttachRefusal::Behind(_)) => "attach: behind",
        Err(AttachRefusal::ContentChanged(_)) => "attach: content changed",
        Err(AttachRefusal::Expired) => "attach: expired",
        Err(_) => "attach: refused otherwise",
    };
    book.coverage.count(Kind::Result, name);
    book.note(|| format!("commit: attach by {user} to {}: {name}", short(&request.item_id)));
    if !agrees {
        let message = format!("an attach of {user}: got {answer:?}, expected {expected:?}");
        book.fail(FailureKind::Answer, message);
    }
}

/// Checks that a blob is readable for exactly the users who see an item that it is attached to.
pub(crate) fn readable(ledger: &Ledger, user: &UserId, blob_id: &BlobId, row: Option<&BlobRow>) {
    let mut book = ledger.book();
    let may = book.model.may_read(user, blob_id);
    if row.is_some() && !may {
        book.fail(FailureKind::Secrecy, format!("{user} is given the bytes of {blob_id}"));
    } else if row.is_none() && may && book.model.is_attached(blob_id) {
        book.fail(FailureKind::Content, format!("{user} may read {blob_id} and is refused"));
    }
}

/// Checks that a stage is abandoned only by its owner or after its expiry, and never once it is
/// attached.
pub(crate) fn abandoned(ledger: &Ledger, user: &UserId, staging_id: &StagingId, now: Timestamp) {
    let mut book = ledger.book();
    let why = match book.model.stage(staging_id) {
        Some(stage) if stage.owner != *user => Some("is somebody else's"),
        Some(stage) => match stage.status {
            StageStatus::Attached => Some("is attached"),
            StageStatus::Staged
                if stage.expires_at > now && !book.given_up.contains(staging_id) =>
            {
                Some("has time left")
            }
            _ => None,
        },
        None => None,
    };
    if let Some(why) = why {
        let message = format!("{staging_id} {why}, and was abandoned for {user}");
        return book.fail(FailureKind::Content, message);
    }
    book.model.stage_abandoned(staging_id);
}

/// Checks that a blob is deleted only by its owner, and only while it is not attached.
pub(crate) fn deleted(ledger: &Ledger, user: &UserId, blob_id: &BlobId) {
    let mut book = ledger.book();
    let staging_id = book.model.stage_of(blob_id).cloned();
    let stage = staging_id.as_ref().and_then(|id| book.model.stage(id));
    let others = stage.is_some_and(|stage| stage.owner != *user);
    let staged = stage.is_some_and(|stage| stage.status == StageStatus::Staged);
    if others || book.model.is_attached(blob_id) {
        let message = format!("{blob_id} is attached, or not of {user}, and was deleted");
        return book.fail(FailureKind::Content, message);
    }
    if let Some(staging_id) = staging_id.filter(|_| staged) {
        book.model.stage_abandoned(&staging_id);
    }
}

/// Checks that the blobs which the sweeper is about to remove are not attached.
pub(crate) fn reclaiming(ledger: &Ledger, reclaims: &[Reclaim]) {
    let mut book = ledger.book();
    for reclaim in reclaims.iter().filter(|reclaim| reclaim.bytes) {
        book.coverage.count(Kind::Call, "sweeper: a blob");
        if book.model.is_attached(&reclaim.blob_id) {
            let message = format!("{} is attached, and to be removed", reclaim.blob_id);
            return book.fail(FailureKind::Content, message);
        }
    }
}

/// Records that retention has pruned removals, which may make a client rematerialise.
pub(crate) fn removals_pruned(ledger: &Ledger) {
    let mut book = ledger.book();
    book.coverage.count(Kind::Call, "retention: removals");
    book.may_rematerialize = true;
}

/// Checks that the audit trail is kept for exactly as long as promised.
pub(crate) fn accepted_pruned(ledger: &Ledger, retention: &Retention, accepted: u64) {
    let mut book = ledger.book();
    let expected = book.model.prune_accepted(retention.accepted_before);
    book.may_repeat |= expected > 0;
    if accepted != expected {
        let message = format!("{accepted} accepted operations pruned, not {expected}");
        book.fail(FailureKind::Answer, message);
    }
}

#[cfg(test)]
mod tests {
    use vfs_sync_core::id::{OpId, WriteId};
    use vfs_sync_core::item::{Name, ObjectType};
    use vfs_sync_core::operation::Upsert;

    use super::*;

    fn item() -> ItemId {
        ItemId::new("item").expect("an id")
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn named(op_id: &str, replica: &str, write_id: u64, millis: i64, text: &str) -> Operation {
        let upsert = Upsert {
            object_type: (write_id == 1).then_some(ObjectType::Folder),
            name: Some(name(text)),
            ..Upsert::default()
        };
        Operation {
            op_id: OpId::new(op_id).expect("an id"),
            item_id: item(),
            replica_id: ReplicaId::new(replica).expect("an id"),
            write_id: WriteId::new(write_id).expect("small"),
            occurred_at: Timestamp::MIN.plus_millis(millis),
            basis: None,
            action: Action::Upsert(Box::new(upsert)),
        }
    }

    /// Pushes operations of one replica; returns for each whether `seen` was then the newest name.
    fn push(model: &mut Model, seen: &Seen, operations: &[Operation]) -> Vec<bool> {
        let user = UserId::new("ann").expect("an id");
        let replica = operations[0].replica_id.clone();
        let now = Timestamp::MIN.plus_millis(1_000);
        let mut met = Vec::new();
        model.push(&user, &replica, operations, now, &|_| None, |model, _| {
            met.push(is_the_newest(model, &item(), seen));
        });
        met
    }

    /// Returns the name of an operation that the servers did not have yet.
    fn seen_before_it_was_sent(op: &Operation) -> Seen {
        Seen { name: name("seen"), own: Some(op.op_id.clone()), stamp: None }
    }

    #[test]
    fn a_name_that_waited_is_the_newest_until_there_is_another() {
        let made = named("made", "laptop", 1, 10, "seen");
        let seen = seen_before_it_was_sent(&made);
        let renamed = |write_id| named("renamed", "laptop", write_id, 30, "other");
        let late = named("late", "laptop", 3, 20, "late");
        let met = push(&mut Model::default(), &seen, &[made, renamed(2), late]);
        assert_eq!(met, [false, true, false], "each meets what came before it in its push");
    }

    #[test]
    fn a_name_that_another_device_offered_again_is_not_what_was_seen() {
        let mut model = Model::default();
        let made = named("made", "laptop", 1, 10, "seen");
        let seen = seen_before_it_was_sent(&made);
        push(&mut model, &seen, &[named("offered", "phone", 1, 40, "seen")]);
        let renamed = named("renamed", "laptop", 2, 30, "other");
        assert_eq!(push(&mut model, &seen, &[renamed]), [false]);
    }
}
