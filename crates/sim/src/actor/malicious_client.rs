//! A malicious client with a valid token: it sends operations and requests that our client never
//! sends.

use vfs_sync_client::TransportExt as _;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::transport::PullQuery;
use vfs_sync_core::id::{ItemId, OpId, PrincipalId, ReplicaId, UserId, WriteId};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{AttachRequest, PushRequest, ReconcileRequest, StageStatus};
use vfs_sync_testkit::Random;

use crate::actor::edit::time;
use crate::infra::transport::SimTransport;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;
use crate::oracle::model::StageModel;

/// Returns a replica id of a user that belongs to no device.
fn replica(user: &UserId) -> ReplicaId {
    ReplicaId::new(format!("{PREFIX}{user}")).expect("an id")
}

const PREFIX: &str = "rogue-";

/// Returns whether a replica belongs to no device.
pub(crate) fn is_one(replica: &ReplicaId) -> bool {
    replica.as_str().starts_with(PREFIX)
}

/// Pushes a few operations on random items, by a replica of `user` that belongs to no device.
pub(crate) async fn push(
    ledger: &Ledger,
    transport: &SimTransport,
    user: &UserId,
    now: Timestamp,
    random: &mut Random,
) {
    let replica_id = replica(user);
    let last = ledger.book().model.last_write_id(user, &replica_id).unwrap_or(0);
    // Mostly the next numbers; at times some that were used.
    let mut write_id = if random.below(8) == 0 { last.saturating_sub(1) } else { last };
    let mut operations = Vec::new();
    for _ in 0..1 + random.below(4) {
        write_id += 1 + u64::from(random.below(5) == 0);
        let Some((item_id, action)) = random_op(ledger, user, random) else { return };
        let op_id = {
            let mut book = ledger.book();
            book.names += 1;
            OpId::new(format!("rogue-{}", book.names)).expect("an id")
        };
        let off = *random.one(&[0, 0, 0, -5_000, -3_600_000, 30_000, 120_000, 3_600_000]);
        let occurred_at = now.plus_millis(off);
        let (replica_id, write_id) = (replica_id.clone(), WriteId::new(write_id).expect("small"));
        if action == Action::Delete {
            ledger.book().saved.delete_blindly(&item_id);
        }
        let basis = None;
        operations.push(Operation {
            op_id,
            item_id,
            replica_id,
            write_id,
            occurred_at,
            basis,
            action,
        });
    }
    let request = PushRequest { client_id: replica_id, operations };
    let sent = transport.push(&request).await;
    // An identical push must get the same answer.
    if sent.is_ok() && random.below(3) == 0 {
        let _ = transport.push(&request).await;
    }
}

/// Requests somebody's bytes, with or without the right to read them.
pub(crate) async fn read_foreign(ledger: &Ledger, transport: &SimTransport, random: &mut Random) {
    let blob = {
        let book = ledger.book();
        let blobs: Vec<_> = book.model.attached().map(|(_, content)| content.0.clone()).collect();
        (!blobs.is_empty()).then(|| random.one(&blobs).clone())
    };
    if let Some(blob_id) = blob {
        let _ = transport.download(&blob_id, 0).await;
    }
}

/// Abandons a stage or deletes a blob of any owner, attached or not.
pub(crate) async fn tamper(
    ledger: &Ledger,
    transport: &SimTransport,
    user: &UserId,
    random: &mut Random,
) {
    let open_only = random.below(2) == 0;
    let (staging_id, stage) = {
        let book = ledger.book();
        let open = |stage: &StageModel| !open_only || stage.status == StageStatus::Staged;
        let stages: Vec<_> = book.model.stages().filter(|(_, stage)| open(stage)).collect();
        if stages.is_empty() {
            return;
        }
        let (id, stage) = *random.one(&stages);
        (id.clone(), stage.clone())
    };
    let done = if random.below(2) == 0 {
        ledger.book().given_up.insert(staging_id.clone());
        transport.abandon(&staging_id).await
    } else {
        transport.delete_blob(&stage.blob_id).await
    };
    let (mut book, blob_id) = (ledger.book(), &stage.blob_id);
    if done.is_ok() && stage.uploaded.is_some() && !book.objects.were_removed(blob_id) {
        let message = format!("{user} was told that the bytes of {blob_id} are gone");
        book.fail(FailureKind::Content, message);
    }
}

/// Reports a reconcile state ahead of the server's.
pub(crate) async fn overclaim(transport: &SimTransport, user: &UserId, random: &mut Random) {
    let client_id = replica(user);
    let (cursor, baseline, head) = (None, None, None);
    let query = PullQuery { client_id: client_id.clone(), cursor, baseline, head, limit: 10 };
    let Ok(page) = transport.pull(&query).await else { return };
    let mut last_reconciled_write_ids = page.last_reconciled_write_ids;
    let replicas: Vec<ReplicaId> = last_reconciled_write_ids.keys().cloned().collect();
    let Some(last) = page.items.last().filter(|_| !replicas.is_empty()) else { return };
    if let Some(id) = last_reconciled_write_ids.get_mut(random.one(&replicas)) {
        let ahead = u64::try_from(random.below(3)).unwrap_or(0);
        *id = WriteId::new(id.get() + ahead).expect("small");
    }
    let cursor = last.position.clone();
    let request = ReconcileRequest { client_id, cursor, last_reconciled_write_ids };
    let _ = transport.reconcile(&request).await;
}

/// Attaches somebody's stage to a random item, with a checkpoint that may or may not be reached.
pub(crate) async fn attach(
    ledger: &Ledger,
    transport: &SimTransport,
    user: &UserId,
    random: &mut Random,
) {
    let (staging_id, request) = {
        let modified_at = time(random);
        let mut book = ledger.book();
        book.times.give_to_a_stage(modified_at);
        let open = |stage: &StageModel| stage.status == StageStatus::Staged;
        let stages = book.model.stages().filter(|(_, stage)| open(stage));
        let stages: Vec<_> = stages.map(|(id, _)| id).collect();
        let clients: Vec<_> = book.model.reconciled_of(user).collect();
        if stages.is_empty() || clients.is_empty() || book.items.is_empty() {
            return;
        }
        let ((client_id, state), item_id) = (*random.one(&clients), random.one(&book.items));
        let (mut cursor, mut write_ids) =
            (state.cursor.clone(), state.last_reconciled_write_ids.clone());
        match random.below(3) {
            0 => cursor.changed_at = cursor.changed_at.plus_millis(1),
            1 => {
                for id in write_ids.values_mut() {
                    *id = WriteId::new(id.get() + 1).expect("small");
                }
            }
            _ => {}
        }
        let request = AttachRequest {
            client_id: Some(client_id.clone()),
            required_cursor: Some(cursor),
            required_last_reconciled_write_ids: Some(write_ids),
            expected_blob_id: Some(book.model.content_of(item_id).cloned()),
            modified_at: Some(modified_at),
            ..AttachRequest::to(item_id.clone())
        };
        ((*random.one(&stages)).clone(), request)
    };
    let _ = transport.attach(&staging_id, &request).await;
}

fn random_op(ledger: &Ledger, user: &UserId, random: &mut Random) -> Option<(ItemId, Action)> {
    let (item, other) = {
        let mut book = ledger.book();
        if book.items.is_empty() || random.below(8) == 0 {
            let id = ItemId::new(format!("rogue-{}-{}", book.items.len(), random.below(1_000)));
            let id = id.expect("an id");
            if !book.items.contains(&id) {
                book.items.push(id);
            }
        }
        (random.one(&book.items).clone(), random.one(&book.items).clone())
    };
    let name = {
        let mut book = ledger.book();
        book.names += 1;
        Name::new(format!("n{}", book.names)).expect("a name")
    };
    let known = ledger.book().model.owner(&item).is_some();
    let upsert = |upsert| Action::Upsert(Box::new(upsert));
    let action = match random.below(10) {
        0..=2 => upsert(Upsert {
            object_type: (!known || random.below(4) == 0).then_some(ObjectType::Folder),
            name: Some(name),
            parent: (random.below(2) == 0 && item != other).then_some(other),
            ..Upsert::default()
        }),
        3 => Action::Delete,
        4 | 5 => {
            let id = PrincipalId::new(user.as_str()).expect("an id");
            let oneself = Principal { kind: PrincipalType::User, id };
            let principal =
                if random.below(2) == 0 { oneself } else { crate::actor::edit::group(random) };
            let levels = [AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin];
            match random.below(3) {
                0 => Action::GrantRemove { principal },
                _ => Action::GrantAdd { principal, level: *random.one(&levels) },
            }
        }
        _ if item == other => return None,
        6 => Action::LinkRemove { parent: other },
        7 => Action::LinkAdd { parent: other },
        _ => Action::LinkReassign { parent: other },
    };
    Some((item, action))
}
