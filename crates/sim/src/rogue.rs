//! Somebody with a token and no manners: operations and requests that no client of ours would send.

use vfs_sync_client::Transport;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_core::id::{ItemId, OpId, PrincipalId, ReplicaId, UserId, WriteId};
use vfs_sync_core::op::{Action, Operation, Upsert};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushRequest;
use vfs_sync_testkit::Random;

use crate::ledger::Ledger;
use crate::transport::SimTransport;

/// A push of a few operations on anything at all, by a replica of `user`'s that is no device.
pub(crate) async fn push(
    ledger: &Ledger,
    transport: &SimTransport,
    user: &UserId,
    now: Timestamp,
    random: &mut Random,
) {
    let replica_id = ReplicaId::new(format!("rogue-{user}")).expect("an id");
    let last = ledger.book().model.last_write_id(user, &replica_id).unwrap_or(0);
    // Mostly the next numbers; at times some that were used.
    let mut write_id = if random.below(8) == 0 { last.saturating_sub(1) } else { last };
    let mut operations = Vec::new();
    for _ in 0..1 + random.below(4) {
        write_id += 1 + u64::from(random.below(5) == 0);
        let Some((item_id, action)) = wish(ledger, user, random) else { return };
        let op_id = {
            let mut book = ledger.book();
            book.names += 1;
            OpId::new(format!("rogue-{}", book.names)).expect("an id")
        };
        let off = *random.one(&[0, 0, 0, -5_000, -3_600_000, 30_000, 120_000, 3_600_000]);
        let occurred_at = now.plus_millis(off);
        let (replica_id, write_id) = (replica_id.clone(), WriteId::new(write_id).expect("small"));
        operations.push(Operation { op_id, item_id, replica_id, write_id, occurred_at, action });
    }
    let request = PushRequest { client_id: replica_id, operations };
    let sent = transport.push(&request).await;
    // What is the same as before must be answered so.
    if sent.is_ok() && random.below(3) == 0 {
        let _ = transport.push(&request).await;
    }
}

/// Asks for bytes that somebody has, whoever may see them.
pub(crate) async fn pry(ledger: &Ledger, transport: &SimTransport, random: &mut Random) {
    let blob = {
        let book = ledger.book();
        let blobs: Vec<_> = book.model.attached().map(|(_, content)| content.0.clone()).collect();
        (!blobs.is_empty()).then(|| random.one(&blobs).clone())
    };
    if let Some(blob_id) = blob {
        let _ = transport.download(&blob_id, 0).await;
    }
}

fn wish(ledger: &Ledger, user: &UserId, random: &mut Random) -> Option<(ItemId, Action)> {
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
            let principal = if random.below(2) == 0 { oneself } else { crate::edit::group(random) };
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
