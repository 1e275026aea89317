//! Offering again, against a model: what a server lost of what a replica was told is offered or

//! listed, in an order in which it can be applied, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::client::offer::{
    Deleted, Held, HeldGrant, HeldLink, Lost, LostChange, LostReason, Offer, Removal, Shared,
    Sides, Trail, decide, derived_id,
};
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::entry::ItemView;
use vfs_sync_core::id::{BlobId, ItemId, PrincipalId, RefId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::Action;

use super::world::{at, user};

fn item_id(number: u8) -> ItemId {
    ItemId::new(format!("i{number:02}")).unwrap()
}

fn to(name: &str) -> Principal {
    Principal { kind: PrincipalType::User, id: PrincipalId::new(name).unwrap() }
}

fn position(epoch: u64, counter: u64) -> Position {
    Position { epoch: Epoch::from_u64(epoch).unwrap(), counter }
}

/// One side: each register with the position that told it.
#[derive(Debug, Clone, Default)]
struct Side {
    items: BTreeMap<ItemId, Held<ItemView>>,
    links: BTreeMap<(ItemId, ItemId), Held<()>>,
    contents: BTreeMap<ItemId, Held<Attachment>>,
    grants: BTreeMap<(ItemId, Principal), Held<AccessLevel>>,
    removals: Vec<Held<Removal>>,
    epoch: u64,
    counter: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Make(u8, Option<u8>, bool),
    Rename(u8, u8),
    Write(u8, u8),
    Move(u8, u8),
    Remove(u8),
    Grant(u8, AccessLevel),
    Revoke(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let level =
        prop_oneof![Just(AccessLevel::Read), Just(AccessLevel::Write), Just(AccessLevel::Admin)];
    prop_oneof![
        4 => (0u8..12, prop::option::of(0u8..12), prop::bool::weighted(0.2))
            .prop_map(|(i, p, foreign)| Step::Make(i, p, foreign)),
        2 => (0u8..12, 0u8..4).prop_map(|(i, n)| Step::Rename(i, n)),
        3 => (0u8..12, 0u8..6).prop_map(|(i, c)| Step::Write(i, c)),
        2 => (0u8..12, 0u8..12).prop_map(|(i, p)| Step::Move(i, p)),
        1 => (0u8..12).prop_map(Step::Remove),
        1 => (0u8..12, level).prop_map(|(i, level)| Step::Grant(i, level)),
        1 => (0u8..12).prop_map(Step::Revoke),
    ]
}

impl Side {
    fn told<T>(&mut self, value: T) -> Held<T> {
        self.counter += 1;
        let authored_at = at(i64::try_from(self.epoch * 1_000 + self.counter).unwrap());
        Held { value, authored_at, at: Some(position(self.epoch, self.counter)) }
    }

    fn removed(&mut self, removal: Removal) {
        self.removals.retain(|held| held.value != removal);
        let held = self.told(removal);
        self.removals.push(held);
    }

    fn parents(&self, id: &ItemId) -> Vec<ItemId> {
        self.links
            .keys()
            .filter(|(_, child)| child == id)
            .map(|(parent, _)| parent.clone())
            .collect()
    }

    fn is_under(&self, id: &ItemId, above: &ItemId) -> bool {
        id == above || self.parents(id).iter().any(|parent| self.is_under(parent, above))
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Make(number, parent, foreign) => {
                let id = item_id(*number);
                if self.items.contains_key(&id) {
                    return;
                }
                let parent = parent.map(item_id).filter(|parent| self.items.contains_key(parent));
                let owner = match &parent {
                    Some(parent) => self.items[parent].value.owner_id.clone(),
                    None => user(if *foreign { "bob" } else { "alice" }),
                };
                let mine = owner.as_str() == "alice";
                let view = ItemView {
                    item_id: id.clone(),
                    owner_id: owner,
                    object_type: ObjectType::Folder,
                    name: Some(Name::new(format!("n{number}")).unwrap()),
                    metadata: BTreeMap::new(),
                    encrypted: None,
                    created_at: at(0),
                    access_level: if mine { AccessLevel::Admin } else { AccessLevel::Write },
                };
                let held = self.told(view);
                self.items.insert(id.clone(), held);
                if let Some(parent) = parent {
                    let held = self.told(());
                    self.links.insert((parent, id), held);
                }
            }
            Step::Rename(number, name) => {
                let id = item_id(*number);
                let Some(before) = self.items.get(&id) else { return };
                let mut view = before.value.clone();
                view.name = Some(Name::new(format!("renamed{name}")).unwrap());
                let held = self.told(view);
                self.items.insert(id, held);
            }
            Step::Write(number, content) => {
                let id = item_id(*number);
                if !self.items.contains_key(&id) {
                    return;
                }
                let unique = format!("b{}-{}", self.epoch, self.counter);
                let mut attachment = blank();
                attachment.item_id = id.clone();
                attachment.blob_id = BlobId::new(unique.clone()).unwrap();
                attachment.digest = Sha256Digest([*content; 32]);
                attachment.ref_id = RefId::new(unique).unwrap();
                let held = self.told(attachment);
                self.contents.insert(id, held);
            }
            Step::Move(number, parent) => {
                let (id, parent) = (item_id(*number), item_id(*parent));
                let (Some(item), Some(container)) = (self.items.get(&id), self.items.get(&parent))
                else {
                    return;
                };
                let same = item.value.owner_id == container.value.owner_id;
                if !same || self.is_under(&parent, &id) {
                    return;
                }
                for before in self.parents(&id) {
                    if before != parent {
                        self.links.remove(&(before.clone(), id.clone()));
                        self.removed(Removal::Link { parent: before, child: id.clone() });
                    }
                }
                if !self.links.contains_key(&(parent.clone(), id.clone())) {
                    let held = self.told(());
                    self.links.insert((parent, id), held);
                }
            }
            Step::Remove(number) => {
                let id = item_id(*number);
                if self.items.remove(&id).is_none() {
                    return;
                }
                self.removed(Removal::Item(id.clone()));
                self.contents.remove(&id);
                self.grants.retain(|(item, _), _| *item != id);
                let links: Vec<_> = self.links.keys().cloned().collect();
                for (parent, child) in links {
                    if parent == id || child == id {
                        self.links.remove(&(parent.clone(), child.clone()));
                        self.removed(Removal::Link { parent, child });
                    }
                }
            }
            Step::Grant(number, level) => {
                let id = item_id(*number);
                if self.items.get(&id).is_none_or(|one| one.value.owner_id.as_str() != "alice") {
                    return;
                }
                let held = self.told(*level);
                self.grants.insert((id, to("carol")), held);
            }
            Step::Revoke(number) => {
                let key = (item_id(*number), to("carol"));
                if self.grants.remove(&key).is_some() {
                    self.removed(Removal::Grant { item: key.0, principal: key.1 });
                }
            }
        }
    }
}

fn blank() -> Attachment {
    serde_json::from_value(serde_json::json!({
        "item_id": "i", "blob_id": "b", "relation_kind": "file", "size": 0,
        "digest": "0".repeat(64), "content_type": null, "ref_id": "r",
        "attached_at": "1970-01-01T00:00:00.000Z", "modified_at": null,
    }))
    .unwrap()
}

/// Both sides, and what came of the decision.
struct Both {
    old: Side,
    new: Side,
    created: BTreeSet<ItemId>,
    offers: Vec<Offer>,
    lost: Vec<Lost>,
    bytes: bool,
}

impl Both {
    fn decide(old: &Side, new: &Side, shared: &Shared, bytes: bool) -> Self {
        let mut both = Self {
            old: old.clone(),
            new: new.clone(),
            created: BTreeSet::new(),
            offers: Vec::new(),
            lost: Vec::new(),
            bytes,
        };
        let Ok(_) = decide(&mut both, &user("alice"), shared, Epoch::from_u64(old.epoch));
        both
    }
}

fn after<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>, after: Option<&K>) -> Vec<(K, V)> {
    let rest = map.iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
    // Pages of two: going on where the page before ended is part of what is tested.
    rest.take(2).map(|(key, value)| (key.clone(), value.clone())).collect()
}

type Never<T> = Result<T, Infallible>;

impl Sides for Both {
    type Error = Infallible;

    fn removals(&mut self, after: i64) -> Never<Vec<(i64, Held<Removal>)>> {
        let all = self.old.removals.iter().cloned().enumerate();
        let numbered = all.map(|(index, held)| (i64::try_from(index).unwrap(), held));
        Ok(numbered.filter(|(number, _)| *number > after).take(2).collect())
    }
    fn grants(&mut self) -> Never<Vec<HeldGrant>> {
        let all = self.old.grants.clone().into_iter();
        Ok(all.map(|((item, principal), held)| (item, principal, held)).collect())
    }
    fn items(&mut self, from: Option<&ItemId>) -> Never<Vec<Held<ItemView>>> {
        Ok(after(&self.old.items, from).into_iter().map(|(_, held)| held).collect())
    }
    fn links(&mut self, from: Option<&(ItemId, ItemId)>) -> Never<Vec<HeldLink>> {
        let page = after(&self.old.links, from).into_iter();
        Ok(page
            .map(|(key, held)| Held { value: key, authored_at: held.authored_at, at: held.at })
            .collect())
    }
    fn contents(&mut self, from: Option<&ItemId>) -> Never<Vec<Held<Attachment>>> {
        Ok(after(&self.old.contents, from).into_iter().map(|(_, held)| held).collect())
    }
    fn old_item(&mut self, id: &ItemId) -> Never<Option<Held<ItemView>>> {
        Ok(self.old.items.get(id).cloned())
    }
    fn old_parents(&mut self, id: &ItemId) -> Never<Vec<Held<ItemId>>> {
        Ok(parents(&self.old, id))
    }
    fn old_grant(&mut self, item: &ItemId, who: &Principal) -> Never<Option<AccessLevel>> {
        Ok(self.old.grants.get(&(item.clone(), who.clone())).map(|held| held.value))
    }
    fn new_item(&mut self, id: &ItemId) -> Never<Option<ItemView>> {
        Ok(self.new.items.get(id).map(|held| held.value.clone()))
    }
    fn new_parents(&mut self, id: &ItemId) -> Never<Vec<Held<ItemId>>> {
        Ok(parents(&self.new, id))
    }
    fn new_content(&mut self, id: &ItemId) -> Never<Option<Held<Attachment>>> {
        Ok(self.new.contents.get(id).cloned())
    }
    fn new_grant(&mut self, item: &ItemId, who: &Principal) -> Never<Option<AccessLevel>> {
        Ok(self.new.grants.get(&(item.clone(), who.clone())).map(|held| held.value))
    }
    fn is_offered(&mut self, id: &ItemId) -> Never<bool> {
        Ok(self.created.contains(id))
    }
    fn deleted(&mut self, _: &ItemId) -> Never<Option<Deleted>> {
        Ok(None)
    }
    fn has_bytes(&mut self, _: &Attachment) -> Never<bool> {
        Ok(self.bytes)
    }
    fn offer(&mut self, offer: Offer) -> Never<()> {
        if let Offer::Operation { item, action: Action::Upsert(upsert), .. } = &offer
            && upsert.object_type.is_some()
        {
            assert!(self.created.insert(item.clone()), "{item} is created once");
        }
        self.offers.push(offer);
        Ok(())
    }
    fn list(&mut self, lost: Lost) -> Never<()> {
        self.lost.push(lost);
        Ok(())
    }
    fn is_listed(&mut self, id: &ItemId) -> Never<bool> {
        Ok(self.lost.iter().any(|one| one.item == *id && one.change == LostChange::Item))
    }
}

fn parents(side: &Side, id: &ItemId) -> Vec<Held<ItemId>> {
    let links = side.links.iter().filter(|((_, child), _)| child == id);
    links
        .map(|((parent, _), held)| Held {
            value: parent.clone(),
            authored_at: held.authored_at,
            at: held.at,
        })
        .collect()
}

/// The new side once the server has applied the offers, in their order.
fn applied(new: &Side, offers: &[Offer]) -> Side {
    let mut side = new.clone();
    side.epoch += 1;
    for offer in offers {
        match offer {
            Offer::Content { item, attachment, .. } => {
                assert!(side.items.contains_key(item), "the item of a content is there");
                let held = side.told((**attachment).clone());
                side.contents.insert(item.clone(), held);
            }
            Offer::Operation { item, action, occurred_at } => match action {
                Action::Upsert(upsert) => match side.items.get_mut(item) {
                    Some(held) => {
                        if let Some(name) = &upsert.name {
                            held.value.name = Some(name.clone());
                        }
                    }
                    None => {
                        let owner = match &upsert.parent {
                            Some(parent) => {
                                side.items.get(parent).expect("in the order of the tree")
                            }
                            None => &Held {
                                value: ItemView {
                                    item_id: item.clone(),
                                    owner_id: user("alice"),
                                    object_type: ObjectType::Folder,
                                    name: None,
                                    metadata: BTreeMap::new(),
                                    encrypted: None,
                                    created_at: at(0),
                                    access_level: AccessLevel::Admin,
                                },
                                authored_at: *occurred_at,
                                at: None,
                            },
                        };
                        let view = ItemView {
                            item_id: item.clone(),
                            owner_id: owner.value.owner_id.clone(),
                            object_type: upsert.object_type.expect("a creation"),
                            name: upsert.name.clone(),
                            metadata: BTreeMap::new(),
                            encrypted: None,
                            created_at: at(0),
                            access_level: owner.value.access_level,
                        };
                        let held = side.told(view);
                        side.items.insert(item.clone(), held);
                        if let Some(parent) = &upsert.parent {
                            let held = side.told(());
                            side.links.insert((parent.clone(), item.clone()), held);
                        }
                    }
                },
                Action::Delete => {
                    let number: u8 = item.as_str()[1..].parse().unwrap();
                    side.apply(&Step::Remove(number));
                }
                Action::GrantRemove { principal } => {
                    side.grants.remove(&(item.clone(), principal.clone()));
                }
                Action::GrantAdd { principal, level } => {
                    let key = (item.clone(), principal.clone());
                    let before = side.grants.get(&key).expect("never given by itself").value;
                    assert!(*level < before, "only lowered");
                    let held = side.told(*level);
                    side.grants.insert(key, held);
                }
                Action::LinkAdd { parent } => {
                    if side.items.contains_key(parent) && !side.is_under(parent, item) {
                        let held = side.told(());
                        side.links.insert((parent.clone(), item.clone()), held);
                    }
                }
                Action::LinkRemove { parent } => {
                    side.links.remove(&(parent.clone(), item.clone()));
                }
                Action::LinkReassign { parent } => {
                    if !side.is_under(parent, item) {
                        side.links.retain(|(_, child), _| child != item);
                        let held = side.told(());
                        side.links.insert((parent.clone(), item.clone()), held);
                    }
                }
            },
        }
    }
    side
}

fn phase(offer: &Offer) -> u8 {
    match offer {
        Offer::Operation { action, .. } => match action {
            Action::GrantRemove { .. } | Action::GrantAdd { .. } => 1,
            Action::Delete | Action::LinkRemove { .. } => 2,
            Action::Upsert(_) | Action::LinkAdd { .. } | Action::LinkReassign { .. } => 3,
        },
        Offer::Content { .. } => 4,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 3_000 } else { 30_000 }))]

    #[test]
    fn what_a_server_lost_is_offered_or_listed_and_nothing_else_is(
        before in prop::collection::vec(step(), 0..30),
        lost in prop::collection::vec(step(), 0..20),
        since in prop::collection::vec(step(), 0..10),
        bytes in any::<bool>(),
    ) {
        let mut base = Side { epoch: 1, ..Side::default() };
        before.iter().for_each(|step| base.apply(step));
        let mut old = base.clone();
        lost.iter().for_each(|step| old.apply(step));
        let mut new = Side { epoch: 2, counter: 0, ..base.clone() };
        since.iter().for_each(|step| new.apply(step));
        let fork = position(1, base.counter);
        let shared = if base.counter == 0 {
            Shared::nothing()
        } else {
            Shared::through(fork, at(1_000))
        };
        let is_lost = |at: Option<Position>| at.unwrap() > fork;
        let both = Both::decide(&old, &new, &shared, bytes);

        // In order, and each can be applied.
        prop_assert!(both.offers.is_sorted_by_key(phase), "{:?}", both.offers);
        let result = applied(&new, &both.offers);

        let listed = |id: &ItemId| both.lost.iter().any(|one| one.item == *id);
        let above_listed = |id: &ItemId| {
            let mut at = vec![id.clone()];
            while let Some(id) = at.pop() {
                if listed(&id) {
                    return true;
                }
                at.extend(old.parents(&id));
            }
            false
        };
        for (id, held) in &old.items {
            let mine = held.value.owner_id.as_str() == "alice";
            let taken = new.items.get(id).is_some_and(|one| one.value.owner_id != held.value.owner_id);
            if is_lost(held.at) && !taken {
                prop_assert!(result.items.contains_key(id) || above_listed(id), "{id} went");
                if mine {
                    prop_assert!(result.items.contains_key(id), "{id} is the user's own");
                    prop_assert_eq!(&result.items[id].value.name, &held.value.name);
                }
            }
            if taken && mine && is_lost(held.at) {
                let other = derived_id(id, held.at.map(|at| at.epoch), &user("alice"));
                prop_assert!(result.items.contains_key(&other), "{id} has another id");
            }
        }
        for (id, held) in &old.contents {
            let taken = new.items.get(id)
                .is_some_and(|one| one.value.owner_id != old.items[id].value.owner_id);
            if is_lost(held.at) && !taken {
                let there = result.contents.get(id).map(|one| one.value.digest);
                let done = there == Some(held.value.digest);
                prop_assert!(done || above_listed(id), "the content of {id} went");
            }
        }
        for held in &old.removals {
            match &held.value {
                Removal::Item(id) if is_lost(held.at) && !old.items.contains_key(id) => {
                    let offered = both.offers.iter().any(|offer| matches!(
                        offer, Offer::Operation { item, action: Action::Delete, .. } if item == id
                    ));
                    prop_assert_eq!(offered, new.items.contains_key(id), "the deletion of {}", id);
                }
                Removal::Grant { item, principal } if is_lost(held.at) => {
                    let key = (item.clone(), principal.clone());
                    if !old.grants.contains_key(&key) && old.items.contains_key(item) {
                        prop_assert!(!result.grants.contains_key(&key), "revoked stays revoked");
                    }
                }
                _ => {}
            }
        }
        for ((item, principal), held) in &old.grants {
            let key = (item.clone(), principal.clone());
            let present = new.grants.get(&key).map(|one| one.value);
            // That of an item which was deleted since is not missed, nor if another user took its id.
            let shared_item = &old.items[item];
            let owner = &shared_item.value.owner_id;
            let taken = new.items.get(item).is_some_and(|one| one.value.owner_id != *owner);
            let there = if taken && is_lost(shared_item.at) {
                let other = derived_id(item, shared_item.at.map(|at| at.epoch), &user("alice"));
                result.items.contains_key(&other)
            } else {
                result.items.get(item).is_some_and(|one| one.value.owner_id == *owner)
            };
            if there && is_lost(held.at) && present < Some(held.value) {
                prop_assert!(result.grants.get(&key).map(|one| one.value) <= present);
                prop_assert!(both.lost.iter().any(|one| one.item == *item
                    && one.reason == LostReason::NeedsConsent));
            }
        }
        // Nothing of the shared history is offered but what something lost needs.
        for offer in &both.offers {
            if let Offer::Content { item, attachment, expected, .. } = offer {
                let held = &old.contents[&attachment.item_id];
                prop_assert!(is_lost(held.at) || both.created.contains(item));
                if let Some(there) = new.contents.get(item) {
                    let known = !is_lost(there.at);
                    prop_assert_eq!(known, expected.as_ref() == Some(&there.value.blob_id));
                }
            }
        }
    }

    #[test]
    fn a_server_that_lost_nothing_is_offered_nothing(
        before in prop::collection::vec(step(), 1..40),
        since in prop::collection::vec(step(), 0..20),
    ) {
        let mut old = Side { epoch: 1, ..Side::default() };
        before.iter().for_each(|step| old.apply(step));
        let mut new = Side { epoch: 2, counter: 0, ..old.clone() };
        since.iter().for_each(|step| new.apply(step));
        for shared in [Shared::through(position(1, old.counter), at(0)), Shared::everything()] {
            let both = Both::decide(&old, &new, &shared, true);
            prop_assert!(both.offers.is_empty(), "{:?}", both.offers);
            prop_assert!(both.lost.is_empty(), "{:?}", both.lost);
        }
    }
}

#[test]
fn the_last_shared_position_is_the_last_of_an_epoch_that_both_went_through() {
    let cursor =
        |epoch, counter: u64| position(epoch, counter).at(at(i64::try_from(counter).unwrap()));
    let mut trail = Trail::default();
    let mut last: Option<Cursor> = None;
    for next in [cursor(1, 3), cursor(1, 50), cursor(2, 51), cursor(4, 60)] {
        trail.step(last.as_ref(), &next);
        last = Some(next);
    }
    let held = last.unwrap();
    let fork = |history: &[(u64, u64)]| {
        trail.fork(&held, |epoch| {
            history.iter().find(|(one, _)| *one == epoch.as_u64()).map(|(_, last)| *last)
        })
    };
    assert_eq!(fork(&[]), None, "emptied");
    assert_eq!(fork(&[(9, 4)]), None, "another database");
    assert_eq!(fork(&[(1, 40)]), Some((position(1, 40), None)));
    assert_eq!(fork(&[(1, 70), (3, 80)]), Some((position(1, 50), Some(at(50)))), "a branch");
    assert_eq!(fork(&[(1, 50), (2, 51)]), Some((position(2, 51), Some(at(51)))));
    assert_eq!(fork(&[(1, 50), (4, 55)]), Some((position(4, 55), None)));
}

#[test]
fn a_register_of_unknown_position_is_shared_only_where_everything_is() {
    let shared = Shared::through(position(1, 40), at(40));
    assert!(shared.has(Some(position(1, 40))));
    assert!(!shared.has(Some(position(1, 41))));
    assert!(!shared.has(None));
    assert!(Shared::everything().has(None));
    assert!(!Shared::nothing().has(Some(position(1, 1))));
}
