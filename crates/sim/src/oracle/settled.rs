//! Checks of a device that has settled, and of all devices after all faults have ended.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_client::Child;
use vfs_sync_client::core::client::state;
use vfs_sync_core::client::state::ReplicaState;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, OpId, UserId};
use vfs_sync_core::wire::WriteIds;

use super::held;
use crate::actor::byzantine_server::export;
use crate::actor::device::Device;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::{Book, End, Ledger};
use crate::oracle::model::View;
use crate::oracle::times;

fn state_of(device: &Device) -> ReplicaState {
    let exported = export(&device.client);
    state::parse(&exported, &device.client.client_id()).expect("an export is well formed")
}

/// Checks that the replica equals a view that it received during its last pull, and that it has
/// stored the write ids of that view.
pub(crate) fn as_told(ledger: &Ledger, device: &Device) {
    let mut book = ledger.book();
    let Some((_, pages)) = book.watched.take() else { return };
    let Some((last, _)) = pages.last() else { return };
    let state = state_of(device);
    let held = View::held(&state);
    book.coverage.count(Kind::Check, "a settled replica holds what its user may see");
    let (index, user) = (device.index, &device.user);
    // A request that was doubled is answered twice, and the network keeps one of the answers.
    let mut alike = pages.iter().filter(|(view, _)| *view == held).map(|(_, map)| map).peekable();
    if alike.peek().is_none() {
        let differs = held.differs(last).unwrap_or_default();
        let message = format!("device {index} of {user}, settled:\n{differs}");
        return book.fail(FailureKind::Convergence, message);
    }
    let mut wrong = None;
    for map in alike {
        wrong = not_kept(&state, map);
        if wrong.is_none() {
            return;
        }
    }
    if let Some(wrong) = wrong {
        book.fail(FailureKind::Session, format!("device {index} {wrong}"));
    }
}

/// Returns the write ids that a settled replica received and has not stored.
fn not_kept(state: &ReplicaState, map: &WriteIds) -> Option<String> {
    let forgotten =
        map.iter().find(|(replica, told)| state.write_id_floor.get(*replica) < Some(told));
    if let Some((replica, told)) = forgotten {
        return Some(format!("was told write id {told} of {replica}, and forgot it"));
    }
    let reconciled = state.reconcile_state.as_ref().map(|state| &state.last_reconciled_write_ids);
    let kept = state.replay_cursor.is_none() || reconciled == Some(map);
    (!kept).then(|| format!("has settled, and has not taken over {map:?}"))
}

/// Checks that the replica equals its user's view, and that no work is in progress.
pub(crate) fn converged(ledger: &Ledger, device: &Device) {
    let state = state_of(device);
    let mut book = ledger.book();
    let expected = book.model.view(&device.user);
    book.coverage.count(Kind::Check, "convergence");
    if let Some(differs) = View::held(&state).differs(&expected) {
        let message = format!("device {} of {}, at the end:\n{differs}", device.index, device.user);
        return book.fail(FailureKind::Convergence, message);
    }
    for item in expected.contents.keys() {
        if let Some(node) = device.client.node(item).expect("memory is read") {
            times::shown(&mut book, device.index, &node);
        }
    }
    if let Some(message) = stands_apart(device, &expected) {
        return book.fail(FailureKind::Convergence, message);
    }
    let message = keeps_what_went(&book, device, &expected);
    message.into_iter().for_each(|message| book.fail(FailureKind::Secrecy, message));
}

/// Checks that the top of the tree has only the user's own items, that each owner's shared items
/// are under that owner, and that the path of each item leads to it and names its owner.
fn stands_apart(device: &Device, expected: &View) -> Option<String> {
    let (index, user) = (device.index, &device.user);
    let places = expected.places();
    let ids = |children: Vec<Child>| children.into_iter().map(|child| child.node.id);
    let mut shown: BTreeMap<UserId, BTreeSet<ItemId>> = BTreeMap::new();
    let own = device.client.children(None).expect("memory is read");
    if !own.is_empty() {
        shown.insert(user.clone(), ids(own).collect());
    }
    for owner in device.client.shared_owners().expect("memory is read") {
        let shared = device.client.shared_by(&owner).expect("memory is read");
        shown.insert(owner, ids(shared).collect());
    }
    if shown != places {
        return Some(format!("device {index} of {user}: the tops are {shown:?}, not {places:?}"));
    }
    for (owner, item) in
        places.iter().flat_map(|(owner, ids)| ids.iter().map(move |id| (owner, id)))
    {
        let path = device.client.path_of(item).expect("it is shown");
        let begins = if owner == user { "/".to_owned() } else { format!("shared:{owner}/") };
        let leads = device.client.resolve(&path).map(|node| node.id);
        if !path.starts_with(&begins) || leads.as_ref().ok() != Some(item) {
            return Some(format!("device {index} of {user}: {item} of {owner} is at {path}"));
        }
    }
    None
}

/// Checks that every content on the device is shown and is the user's own, stored or downloaded
/// here, or waits for the user's decision. After a restore, another device may have offered a
/// content of this one.
fn keeps_what_went(book: &Book, device: &Device, shown: &View) -> Option<String> {
    let stages = book.model.stages().filter(|(_, stage)| stage.owner == device.user);
    let own: BTreeSet<&BlobId> = stages.map(|(_, stage)| &stage.blob_id).collect();
    let transport = device.transport();
    let here = |blob_id: &BlobId| own.contains(blob_id) || transport.has_fetched(blob_id);
    let put = |item: &ItemId, digest: &Sha256Digest| {
        book.contents.get(&(device.index, item.clone())) == Some(digest)
    };
    let shown = shown.contents.iter();
    let shown = shown.filter(|(item, (blob_id, _, digest, ..))| here(blob_id) || put(item, digest));
    let shown = shown.count();
    let kept = device.client.contents().usage().expect("memory is read").contents;
    let waiting = device.client.queue().rejected_uploads().expect("memory is read").len();
    let waiting = waiting + held::listed(std::slice::from_ref(device));
    (kept > (shown + waiting) as u64).then(|| {
        let (index, user) = (device.index, &device.user);
        format!(
            "device {index} of {user} keeps {kept} contents: {shown} that were its own or came are \
             shown, {waiting} wait"
        )
    })
}

/// Checks that every operation that a device accepted has an outcome, and that every content exists
/// somewhere.
pub(crate) fn nothing_lost(ledger: &Ledger, devices: &[Device]) {
    let waiting: Vec<_> = devices
        .iter()
        .flat_map(|device| device.client.queue().rejected_uploads().expect("memory is read"))
        .map(|upload| upload.blob_id)
        .collect();
    let listed = held::listed(devices);
    let mut book = ledger.book();
    book.coverage.count(Kind::Check, "nothing acknowledged is lost");
    let lost = book
        .operations
        .iter()
        .find(|(op_id, queued)| queued.end.is_none() && !book.model.was_applied(op_id));
    if let Some((op_id, queued)) = lost {
        let message = format!("{op_id} of device {} on {}", queued.device, queued.item);
        return book.fail(FailureKind::Lost, message);
    }
    let refused = book.operations.iter().find(|(op_id, queued)| {
        let refused = matches!(queued.end, Some(End::Outdated | End::Rejected | End::Decided));
        refused && book.model.was_applied(op_id)
    });
    if let Some((op_id, queued)) = refused.filter(|_| !book.may_repeat) {
        let message = format!(
            "{op_id} of device {} was applied, and told as {:?}",
            queued.device, queued.end
        );
        return book.fail(FailureKind::Lost, message);
    }
    book.coverage.count(Kind::Check, "nothing of a user's is under another");
    // An id that a malicious client took first belongs to that client. The server rejects what the
    // user did while the item was the user's own, but not what the user does to the other item once
    // it is shown.
    let done_by = |item: &ItemId, user: &UserId| {
        book.operations.iter().any(|(op_id, queued)| {
            queued.item == *item
                && queued.as_own
                && devices[queued.device].user == *user
                && book.model.was_applied(op_id)
        })
    };
    let strange = book.own.iter().find_map(|(item, user)| {
        let owner = book.model.owner(item).filter(|owner| *owner != user)?;
        done_by(item, user)
            .then(|| format!("{item} was made by an own path of {user}'s, and is {owner}'s"))
    });
    if let Some(message) = strange {
        return book.fail(FailureKind::Secrecy, message);
    }
    let waits = |op_id: &OpId, device: &Device| {
        let rejected = device.client.queue().rejected(usize::MAX).expect("memory is read");
        rejected.iter().any(|one| one.operation.op_id == *op_id)
    };
    let dropped = book.operations.iter().find(|(op_id, queued)| {
        queued.end == Some(End::Rejected) && !waits(op_id, &devices[queued.device])
    });
    if let Some((op_id, queued)) = dropped {
        let message = format!("{op_id} was rejected, and device {} forgot it", queued.device);
        return book.fail(FailureKind::Lost, message);
    }
    // Those that wait are known by their blob alone; there are few.
    let missing: Vec<_> =
        book.contents.iter().filter(|(_, digest)| !book.model.held(digest)).collect();
    if missing.len() > waiting.len() + listed {
        let message = format!("attached to nothing: {missing:?}, {} wait", waiting.len());
        return book.fail(FailureKind::Lost, message);
    }
    let gone = book.model.attached().find(|(_, (blob_id, size, digest, _))| {
        let stored = book.objects.peek(blob_id);
        stored.is_none_or(|bytes| {
            bytes.len() as u64 != *size || crate::infra::objects::digest(&bytes) != *digest
        })
    });
    if let Some((item, (blob_id, ..))) = gone {
        let message = format!("{blob_id} of {item} has no bytes, or other ones");
        book.fail(FailureKind::Content, message);
    }
}
