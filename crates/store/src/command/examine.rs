//! Pages of rows that are compared with what they are derived from, and their repair. A page is read on
//! one snapshot; a repair decides again under the locks of what it writes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vfs_sync_core::access::Principal;
use vfs_sync_core::entry::{Change, Entry, EntryKey};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::feed_window::{History, Window};
use vfs_sync_core::server::push::{
    Changes, DerivedFault, Examination, FeedPropagation, MetadataUsage, Rows, UsageChange,
};

use super::push::{check_served, loaded, place_all, propagate};
use super::{
    Command, CountCharges, CountHeld, Decides, ExamineFeed, ExamineItems, ExamineStates,
    KnownUsers, ReadDatabaseFacts, ReadOldestRows, RepairFeed, RepairHeld, RepairLevels,
    RepairUsage, one_call,
};
use crate::error::Result;
use crate::examination::{
    ChargeCounts, ChargePlace, FeedExamined, HeldCounts, ItemsExamined, ItemsOf, MalformedRow,
};
use crate::topics::{Decision, Topics};

one_call! {
    KnownUsers: |tx, it| tx.known_after(it.after.as_ref(), it.at_most);
    ExamineStates: |tx, it| tx.malformed_states(&it.user, &it.after, it.at_most);
    ReadOldestRows: |tx, it| tx.oldest_rows(it.before);
    ReadDatabaseFacts: |tx, _it| tx.database_facts();
}

/// Loads everything that an examination needs.
async fn load<T: Topics>(tx: &mut T, mut examination: Examination) -> Result<Examination> {
    while let Some(needs) = examination.needs() {
        let found = loaded(tx, &needs).await?;
        examination.absorb(needs, found);
    }
    let users: Vec<_> = examination.users().into_iter().collect();
    let leaving = tx.leaving(&users).await?.into_iter().collect();
    examination.leave_out(leaving);
    Ok(examination)
}

impl Command for ExamineItems {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<ItemsExamined> {
        let (after, at_most) = (self.after.as_ref(), self.at_most);
        let (mut items, mut next) = match &self.of {
            ItemsOf::Reader(reader) => tx.read_after(reader, after, at_most).await?,
            ItemsOf::Grantee(user) => granted(tx, user, after, at_most).await?,
            ItemsOf::All => paged(tx.items_after(after, at_most).await?, at_most),
            ItemsOf::Owner(owner) | ItemsOf::Unshown(owner) => {
                paged(tx.owned_after(owner, after, at_most).await?, at_most)
            }
        };
        if let Some(until) = &self.until {
            items.retain(|item| item <= until);
            next = next.filter(|next| next < until);
        }
        let mut malformed = BTreeSet::new();
        let mut faults = Vec::new();
        let count = items.len() as u64;
        if let ItemsOf::Unshown(owner) = &self.of {
            let keys = items.iter().map(|id| EntryKey::Item(id.clone())).collect();
            let keys = BTreeMap::from([(owner.clone(), keys)]);
            items = absent(tx, keys).await?.filter_map(|(_, key)| item_of(key)).collect();
        }
        let mut open = vec![items];
        while let Some(mut items) = open.pop() {
            match examine(tx, &self.of, &items).await {
                Ok(found) => faults.extend(found),
                Err(error) => {
                    malformed.insert(MalformedRow::of(error)?);
                    let half = items.split_off(items.len() / 2);
                    if !items.is_empty() {
                        open.extend([half, items]);
                    }
                }
            }
        }
        Ok(ItemsExamined { malformed: malformed.into_iter().collect(), faults, items: count, next })
    }
}

/// Returns items that are granted to a user or to a group of the user's, in the order of their ids.
async fn granted<T: Topics>(
    tx: &mut T,
    user: &UserId,
    after: Option<&ItemId>,
    at_most: u32,
) -> Result<(Vec<ItemId>, Option<ItemId>)> {
    let mut items = BTreeSet::new();
    let mut principals = tx.groups_of(user).await?;
    principals.extend(Principal::of_user(user));
    for principal in &principals {
        items.extend(tx.granted_to(principal).await?);
    }
    let next = items.into_iter().filter(|item| Some(item) > after);
    let next = next.take(usize::try_from(at_most).unwrap_or(usize::MAX));
    Ok(paged(next.collect(), at_most))
}

/// Compares what is derived from items, and fails if a row that is needed for it is malformed.
async fn examine<T: Topics>(
    tx: &mut T,
    of: &ItemsOf,
    items: &[ItemId],
) -> Result<Vec<DerivedFault>> {
    let only = match of {
        ItemsOf::All => None,
        ItemsOf::Owner(user)
        | ItemsOf::Unshown(user)
        | ItemsOf::Reader(user)
        | ItemsOf::Grantee(user) => Some(user),
    };
    let examination = load(tx, Examination::of(items.iter().cloned().collect())).await?;
    let mut faults = examination.levels(only);
    let shown = examination.shown(only);
    if matches!(of, ItemsOf::Reader(_)) {
        // An item whose level is missing is not among those that the user sees.
        let below = load(tx, Examination::of(examination.children())).await?;
        let lost = |fault: &DerivedFault| matches!(fault, DerivedFault::Level { stored: None, .. });
        faults.extend(below.levels(only).into_iter().filter(lost));
    }
    let missing = absent(tx, shown).await?;
    faults.extend(missing.map(|(user, key)| DerivedFault::Missing { user, key }));
    Ok(faults)
}

/// Returns the keys of which the feeds of their users have no entry, or a removal.
async fn absent<T: Topics>(
    tx: &mut T,
    keys: BTreeMap<UserId, Vec<EntryKey>>,
) -> Result<impl Iterator<Item = (UserId, EntryKey)> + use<T>> {
    let mut wanted = BTreeMap::new();
    for (user, keys) in &keys {
        let mut keys: Vec<_> = keys.iter().map(EntryKey::to_bytes).collect();
        // A database reads adjacent keys faster together.
        keys.sort_unstable();
        wanted.insert(user.clone(), keys);
    }
    let present = tx.present_in_feed(&wanted).await?;
    let of_user = move |(user, keys): (UserId, Vec<EntryKey>)| {
        let held = present.get(&user);
        let is_absent = |key: &EntryKey| held.is_none_or(|held| !held.contains(&key.to_bytes()));
        let absent: Vec<_> = keys.into_iter().filter(is_absent).collect();
        absent.into_iter().map(move |key| (user.clone(), key))
    };
    Ok(keys.into_iter().flat_map(of_user))
}

fn item_of(key: EntryKey) -> Option<ItemId> {
    match key {
        EntryKey::Item(item) => Some(item),
        _ => None,
    }
}

/// Compares the user's own items among those of entries of the user's feed, as far as the entries
/// themselves do not.
async fn examine_own<T: Topics>(
    tx: &mut T,
    user: &UserId,
    changes: &[Change],
    examination: &Examination,
) -> Result<Vec<DerivedFault>> {
    let is_own = |fault: &DerivedFault| examination.is_owner(user, fault.item());
    let mut faults = examination.levels(Some(user));
    faults.retain(is_own);
    let here: HashSet<_> = changes
        .iter()
        .filter(|change| !change.is_removal())
        .map(|change| change.key().to_bytes())
        .collect();
    let mut shown = examination.shown(Some(user));
    for keys in shown.values_mut() {
        keys.retain(|key| !here.contains(&key.to_bytes()));
    }
    let missing = absent(tx, shown).await?;
    faults.extend(missing.map(|(user, key)| DerivedFault::Missing { user, key }));
    Ok(faults)
}

/// Returns a page with the item after which the next one begins.
fn paged(items: Vec<ItemId>, at_most: u32) -> (Vec<ItemId>, Option<ItemId>) {
    let is_full = items.len() >= usize::try_from(at_most).unwrap_or(usize::MAX);
    let next = items.last().filter(|_| is_full).cloned();
    (items, next)
}

impl Command for ExamineFeed {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<FeedExamined> {
        let Self { user, after, at_most, own } = self;
        let Some(head) = tx.head(user).await? else { return Ok(FeedExamined::default()) };
        let limit = usize::try_from(*at_most).unwrap_or(usize::MAX);
        let window = Window::after(*after, limit, History::new(head, Vec::new()));
        let (rows, next) = tx.read_page(user, window).await?.rows();
        let mut found =
            FeedExamined { entries: rows.len() as u64, next, ..FeedExamined::default() };
        if !tx.leaving(std::slice::from_ref(user)).await?.is_empty() {
            return Ok(found);
        }
        let mut malformed = BTreeSet::new();
        let mut changes = Vec::with_capacity(rows.len());
        for json in &rows {
            match serde_json::from_str::<Entry>(json) {
                Ok(entry) => changes.push(entry.body.change),
                Err(error) => {
                    malformed.insert(MalformedRow {
                        table: "feed".to_owned(),
                        key: format!("an entry of {user}"),
                        reason: format!("json {error}"),
                    });
                }
            }
        }
        let mut open = vec![changes];
        while let Some(mut changes) = open.pop() {
            match load(tx, Examination::of_entries(&changes)).await {
                Ok(examination) => {
                    let compared = changes.iter().filter_map(|one| examination.entry(user, one));
                    found.faults.extend(compared);
                    if *own {
                        let faults = examine_own(tx, user, &changes, &examination).await?;
                        found.faults.extend(faults);
                    }
                }
                Err(error) => {
                    malformed.insert(MalformedRow::of(error)?);
                    let half = changes.split_off(changes.len() / 2);
                    if !changes.is_empty() {
                        open.extend([half, changes]);
                    }
                }
            }
        }
        found.malformed = malformed.into_iter().collect();
        Ok(found)
    }
}

impl Command for CountHeld {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<(HeldCounts, Option<ItemId>)> {
        let Self { user, after, at_most } = self;
        let stored = tx.held(user).await?.unwrap_or_default();
        let items = tx.owned_after(user, after.as_ref(), *at_most).await?;
        let (links, grants) = tx.count_registers(&items).await?;
        let counted = MetadataUsage { items: items.len() as u64, links, grants, bytes: 0 };
        Ok((HeldCounts { counted, stored }, paged(items, *at_most).1))
    }
}

impl Command for CountCharges {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<(ChargeCounts, Option<ChargePlace>)> {
        let Self { user, after, at_most } = self;
        let stored = tx.usage(user).await?;
        let (counted, next) = tx.count_charges(user, after.as_ref(), *at_most).await?;
        Ok((ChargeCounts { counted, stored }, next))
    }
}

impl Decides for RepairLevels {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(u64, Option<Decision>)> {
        let items: BTreeSet<ItemId> = self.items.iter().cloned().collect();
        let users = self.users.iter().cloned().collect();
        if items.is_empty() {
            return Ok((0, None));
        }
        let mut rows = Rows::default();
        tx.lock_realms(None, &items, &mut rows).await?;
        let propagation = FeedPropagation::of_grants(users, items, rows, self.now);
        let decision = propagate(tx, propagation, self.now).await?;
        let levels = decision.changes.access.values().map(BTreeMap::len).sum::<usize>();
        Ok((levels as u64, Some(decision)))
    }
}

impl Command for RepairFeed {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<u64> {
        let Self { user, faults, now } = self;
        let items: BTreeSet<ItemId> = faults.iter().map(|fault| fault.item().clone()).collect();
        tx.lock_realms(Some(user), &items, &mut Rows::default()).await?;
        if !tx.leaving(std::slice::from_ref(user)).await?.is_empty() {
            return Ok(0);
        }
        let readers = BTreeSet::from([user.clone()]);
        let heads = tx.lock_heads(&readers, *now).await?;
        check_served(tx, &heads).await?;
        let examination = load(tx, Examination::of(items)).await?;
        let (mut additions, mut strays) = (Vec::new(), BTreeMap::new());
        // Two walks may have met the same one.
        let mut met = BTreeSet::new();
        for fault in faults {
            match fault {
                DerivedFault::Missing { key, .. } | DerivedFault::Differs { key, .. }
                    if met.insert(key.to_bytes()) =>
                {
                    additions.extend(examination.repair(user, key, None, *now));
                }
                DerivedFault::Stray { change, .. } => {
                    strays.insert(change.key().to_bytes(), change);
                }
                _ => {}
            }
        }
        let keys = strays.keys().cloned().collect();
        let present = tx.present_in_feed(&BTreeMap::from([(user.clone(), keys)])).await?;
        for (key, change) in strays {
            // It may have been retracted since.
            if present.get(user).is_some_and(|held| held.contains(&key)) {
                additions.extend(examination.repair(user, &change.key(), Some(change), *now));
            }
        }
        let count = additions.len() as u64;
        if count > 0 {
            let feed = BTreeMap::from([(user.clone(), additions)]);
            let feeds = place_all(tx, heads, feed, *now).await?;
            tx.write_changes(&Changes::default(), &feeds).await?;
        }
        Ok(count)
    }
}

impl Command for RepairHeld {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<bool> {
        let Self { user, seen, counted } = self;
        tx.lock_realms(Some(user), &BTreeSet::new(), &mut Rows::default()).await?;
        if tx.held(user).await? != Some(*seen) {
            return Ok(false);
        }
        let change = |counted: u64, seen: u64| counted.cast_signed() - seen.cast_signed();
        let usage = UsageChange {
            items: change(counted.items, seen.items),
            links: change(counted.links, seen.links),
            grants: change(counted.grants, seen.grants),
            bytes: 0,
        };
        let usage = BTreeMap::from([(user.clone(), usage)]);
        tx.write_changes(&Changes { usage, ..Changes::default() }, &[]).await?;
        Ok(true)
    }
}

impl Command for RepairUsage {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<bool> {
        let Self { user, seen, counted } = self;
        if tx.usage(user).await? != *seen {
            return Ok(false);
        }
        tx.set_usage(user, *counted).await?;
        Ok(true)
    }
}
