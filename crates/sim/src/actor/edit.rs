//! Edits, chosen at random from the items that a device shows.

use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::{ClientError, Delete, Status};
use vfs_sync_core::id::{ItemId, PrincipalId};
use vfs_sync_core::operation::Action;
use vfs_sync_core::time::Timestamp;
use vfs_sync_testkit::Random;

use crate::actor::device::Device;
use crate::infra::objects::digest;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::{End, Ledger};
use crate::oracle::saved;
use crate::oracle::transactions::short;

/// Groups and organizations; one id names both kinds.
const GROUPS: [(PrincipalType, &str); 3] =
    [(PrincipalType::Group, "g"), (PrincipalType::Group, "h"), (PrincipalType::Organization, "g")];

pub(crate) fn group(random: &mut Random) -> Principal {
    let (kind, id) = *random.one(&GROUPS);
    Principal { kind, id: PrincipalId::new(id).expect("an id") }
}

fn principal(random: &mut Random, users: usize) -> Principal {
    if random.below(3) == 0 {
        return group(random);
    }
    // One more than there are: somebody unknown.
    let user = crate::actor::device::user(random.below(users + 1));
    Principal { kind: PrincipalType::User, id: PrincipalId::new(user.as_str()).expect("an id") }
}

/// Returns an item that the device shows, if a few random choices find one.
pub(crate) fn visible(device: &Device, ledger: &Ledger, random: &mut Random) -> Option<ItemId> {
    let tries: Vec<ItemId> = {
        let book = ledger.book();
        if book.items.is_empty() {
            return None;
        }
        // New items are more interesting.
        let from = if random.below(2) == 0 { book.items.len() / 2 } else { 0 };
        (0..4).map(|_| book.items[from + random.below(book.items.len() - from)].clone()).collect()
    };
    let shown = |id: &ItemId| device.client.node(id).expect("memory is read").is_some();
    tries.into_iter().find(shown)
}

/// Returns a name that was never used before.
fn name(ledger: &Ledger) -> Name {
    let mut book = ledger.book();
    book.names += 1;
    Name::new(format!("n{}", book.names)).expect("a name")
}

fn bytes(ledger: &Ledger, random: &mut Random) -> Vec<u8> {
    let mut bytes = name(ledger).as_str().as_bytes().to_vec();
    bytes.resize(bytes.len() + random.below(300), b'.');
    bytes
}

/// Returns a random modification time, sometimes the least or the greatest.
pub(crate) fn time(random: &mut Random) -> Timestamp {
    match random.below(20) {
        0 => Timestamp::MIN,
        1 => Timestamp::MAX,
        _ => {
            Timestamp::MIN.plus_millis(290_000 * i64::try_from(random.below(1 << 30)).unwrap_or(0))
        }
    }
}

/// Folder names that many users choose, so that shared items of others have them too.
const LIKELY: [&str; 3] = ["Documents", "photos", ".ssh"];

/// Creates an item at an own path, as `mkdir`, `put` and `import` do: in the folder of that name at
/// the top of the user's own tree, which is created if it is missing.
fn write_by_path(device: &Device, ledger: &Ledger, random: &mut Random) -> Result<(), ClientError> {
    let likely = *random.one(&LIKELY);
    let (client, user) = (&device.client, &device.user);
    let folder = match client.resolve(&format!("/{likely}")) {
        Ok(node) if node.owner != *user => {
            let (index, owner) = (device.index, &node.owner);
            let message =
                format!("device {index} of {user}: the own path /{likely} leads to {owner}'s");
            ledger.fail(FailureKind::Secrecy, message);
            return Ok(());
        }
        Ok(node) => node.id,
        Err(ClientError::UnknownPath(_)) => {
            let name = Name::new(likely).expect("a name");
            client.create(ObjectType::Folder, None, name)?
        }
        Err(error) => return Err(error),
    };
    let file = client.create(ObjectType::File, Some(&folder), name(ledger))?;
    ledger.book().own.extend([(folder, user.clone()), (file, user.clone())]);
    Ok(())
}

/// Declines a share; grants to others stay.
fn decline(device: &Device, ledger: &Ledger, item: &ItemId) -> Result<(), ClientError> {
    let others = || {
        let mut grants = device.client.sharing().grants(item).expect("it is shown");
        grants.retain(|grant| grant.principal.id.as_str() != device.user.as_str());
        grants
    };
    let before = others();
    let declined = device.client.sharing().decline(item);
    if matches!(declined, Err(ClientError::NotPermitted { .. })) {
        let message =
            format!("device {}: {} may not decline {}", device.index, device.user, short(item));
        ledger.fail(FailureKind::FalseAlarm, message);
    }
    declined?;
    let after = others();
    if after != before {
        let (index, user) = (device.index, &device.user);
        let message = format!(
            "device {index}: {user} declined {}, and of others' {before:?} are left {after:?}",
            short(item)
        );
        ledger.fail(FailureKind::Lost, message);
    }
    Ok(())
}

/// Chooses an edit for users who share: owners grant and delete, the others edit, delete and
/// decline.
fn among_others(device: &Device, ledger: &Ledger, random: &mut Random) -> (usize, Option<ItemId>) {
    let (kind, own) = *random.one(&[
        (GRANT, true),
        (DELETE, true),
        (RENAME, false),
        (DELETE, false),
        (DECLINE, false),
        (MOVE_BY_COPY, true),
        (MOVE_BY_COPY, false),
    ]);
    let is_own = |id: &ItemId| {
        let node = device.client.node(id).expect("memory is read");
        node.is_some_and(|node| node.owner == device.user)
    };
    let mut looks = (0..8).filter_map(|_| visible(device, ledger, random));
    (kind, looks.find(|id| is_own(id) == own))
}

/// Returns the numbers of waiting edits of each kind on a device; `None` if its disk cannot be
/// read.
fn waiting(device: &Device) -> Option<[u64; 5]> {
    let status = device.client.status().ok()?;
    let Status { pending, acknowledged, rejected, uploads, rejected_uploads, .. } = status;
    Some([pending, acknowledged, rejected, uploads, rejected_uploads])
}

/// The numbers that select the kinds of edits at random.
const RENAME: usize = 25;
const DELETE: usize = 66;
const GRANT: usize = 71;
const DECLINE: usize = 80;
const MOVE_BY_COPY: usize = 97;

/// Makes one random edit that a user could make.
pub(crate) fn edit(device: &mut Device, ledger: &Ledger, users: usize, random: &mut Random) {
    let kind = random.below(100);
    let before = waiting(device);
    let one = visible(device, ledger, random);
    let (kind, one) = if device.setup.shares && random.below(2) == 0 {
        among_others(device, ledger, random)
    } else {
        (kind, one)
    };
    let mut seen = None;
    let mut done = "create";
    let outcome = match (kind, &one) {
        (0..=4, _) => {
            done = "write by an own path";
            write_by_path(device, ledger, random)
        }
        (5..=24, _) | (_, None) => {
            let kinds = [ObjectType::Folder, ObjectType::Folder, ObjectType::File];
            let under = one.as_ref().filter(|_| random.below(4) > 0);
            let likely = under.is_none() && random.below(4) == 0;
            let name = if likely {
                Name::new(*random.one(&LIKELY)).expect("a name")
            } else {
                name(ledger)
            };
            device.client.create(*random.one(&kinds), under, name).map(drop)
        }
        (RENAME..=39, Some(item)) => {
            done = "rename";
            let node = device.client.node(item).expect("memory is read");
            seen = node.and_then(|node| node.name).map(|name| (item.clone(), name));
            device.client.rename(item, name(ledger))
        }
        (40..=45, Some(item)) => {
            done = "metadata";
            let key = (*random.one(&["mtime", "mode", "colour"])).to_owned();
            let value = (random.below(4) > 0).then(|| match &*key {
                "mtime" => time(random).to_string().into(),
                _ => random.below(100).into(),
            });
            device.client.set_metadata(item, vec![(key, value)])
        }
        (46..=57, Some(item)) => {
            done = "move";
            let to = visible(device, ledger, random).filter(|_| random.below(5) > 0);
            device.client.move_to(item, to.as_ref())
        }
        (58..=62, Some(item)) => {
            done = "link";
            match visible(device, ledger, random) {
                Some(parent) => device.client.link(item, &parent),
                None => Ok(()),
            }
        }
        (63..=65, Some(item)) => {
            done = "unlink";
            match device.client.parents_of(item).expect("it is shown").as_slice() {
                [] => Ok(()),
                parents => device.client.unlink(item, random.one(parents)),
            }
        }
        (DELETE..=70, Some(item)) => {
            done = "delete";
            let what = if random.below(3) == 0 { Delete::Recursive } else { Delete::Item };
            let shown = match what {
                Delete::Recursive => saved::shown_under(&device.client, item),
                _ => saved::shown(&device.client, item).into_iter().collect(),
            };
            let deleted = device.client.delete(item, what).map(drop);
            if deleted.is_ok() {
                ledger.book().saved.delete(shown);
            }
            deleted
        }
        (GRANT..=79, Some(item)) => {
            done = "grant";
            let levels = [AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin];
            device.client.sharing().share(item, principal(random, users), *random.one(&levels))
        }
        (DECLINE, Some(item)) => {
            done = "decline";
            decline(device, ledger, item)
        }
        (81..=84, Some(_)) => {
            done = "revoke";
            match device.client.sharing().list().expect("memory is read").as_slice() {
                [] => Ok(()),
                shares => {
                    let (item, grants) = random.one(shares);
                    device
                        .client
                        .sharing()
                        .unshare(item, random.one(grants).principal.clone())
                        .map(drop)
                }
            }
        }
        (85..=87, Some(item)) => {
            done = "touch";
            let time = time(random);
            let node = device.client.node(item).expect("memory is read");
            if let Some(content) = node.and_then(|node| node.content) {
                ledger.book().times.give(content.digest, time);
            }
            device.client.touch(item, time)
        }
        (88..=94, Some(item)) => {
            done = "content";
            let bytes = bytes(ledger, random);
            let time = time(random);
            // Recorded first: a durable content may be shown even if the call fails.
            ledger.book().times.give(digest(&bytes), time);
            let shown = saved::shown(&device.client, item);
            let put = device.client.contents().put_at(item, &*bytes, time);
            if let Ok(stored) = &put {
                let (mut book, key) = (ledger.book(), (device.index, item.clone()));
                book.note(|| {
                    format!("device {}: put {} on {}", key.0, stored.blob_id, short(item))
                });
                // One that nobody has heard of yet may be replaced by the next.
                book.saved.put(key.0, item, digest(&bytes), shown);
                book.contents.insert(key, digest(&bytes));
            }
            put.map(drop)
        }
        (95..=96, Some(item)) => {
            done = "copy";
            let to = visible(device, ledger, random);
            device.client.copy(item, to.as_ref(), name(ledger)).map(drop)
        }
        (MOVE_BY_COPY, Some(item)) => {
            done = "move by copy";
            let to = visible(device, ledger, random);
            device.client.move_by_copy(item, to.as_ref(), name(ledger)).map(drop)
        }
        (_, Some(_)) => {
            done = "retry what was rejected";
            match device.client.queue().rejected(10).expect("memory is read").as_slice() {
                [] => Ok(()),
                rejected => {
                    let one = &random.one(rejected).operation;
                    let op_id = one.op_id.clone();
                    // If the disk fails, the decision may be durable without a report.
                    ledger.book().ended(&op_id, End::Decided);
                    if random.below(2) == 0 {
                        // A retry is a new operation, whose author sees what is shown now.
                        let deletes = one.action == Action::Delete;
                        let shown =
                            if deletes { saved::shown(&device.client, &one.item_id) } else { None };
                        let retried = device.client.queue().retry(&op_id).map(drop);
                        if retried.is_ok() {
                            ledger.book().saved.delete(shown);
                        }
                        retried
                    } else {
                        device.client.queue().discard(&op_id)
                    }
                }
            }
        }
    };
    match outcome {
        Ok(()) => ledger.count(Kind::Edit, done),
        Err(
            ClientError::Cycle { .. }
            | ClientError::Invalid(_)
            | ClientError::NotPermitted { .. }
            | ClientError::OtherTree { .. }
            | ClientError::NotDeclined { .. }
            | ClientError::NoContent(_),
        ) => {
            ledger.count(Kind::Edit, "refused by the client");
            let after = waiting(device);
            if after != before {
                let index = device.index;
                let message = format!("device {index}: {done} was refused: {before:?}, {after:?}");
                ledger.fail(FailureKind::FailClosed, message);
            }
        }
        Err(error) if device.disk_may_fail(&error) => {
            ledger.count(Kind::Edit, "refused by the disk");
        }
        Err(error) => {
            let message = format!("device {}: {done}: {error}", device.index);
            ledger.fail(FailureKind::FalseAlarm, message);
        }
    }
    device.take_over(seen);
}
