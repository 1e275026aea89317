//! Derives again what differs from what it is derived from. Each repair is one transaction, which decides
//! by the rows as they are then, and is in the audit log.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_store::{DerivedFault, Findings, Identity, MetadataStore};

use super::super::check::Check;
use super::super::fix::Action;
use super::Ground;
use super::state::Found;
use crate::output::counted;
use crate::server::{self, store_failure};

/// Items, or entries of a feed, that one transaction repairs.
const AT_A_TIME: usize = 200;

/// Findings that a person has to resolve before anything is written.
const EXPLAINED: [&str; 3] = ["database.identity", "database.place", "database.clock"];

/// Repairs what an examination found.
pub(super) async fn repair(ground: &Ground<'_>, checks: &[Check], found: &Found) -> Vec<Action> {
    let Findings { faults, held, charges, .. } = &found.rows;
    if faults.is_empty() && held.is_empty() && charges.is_empty() {
        return Vec::new();
    }
    let first = checks.iter().find(|check| check.is_problem() && EXPLAINED.contains(&check.id));
    if let Some(check) = first {
        let text = format!("not tried because of {}: {}", check.id, check.summary);
        return vec![Action::new("repair", text, false)];
    }
    // As a start of a server does: a restored database gets no entries in an epoch that clients have
    // seen the rest of.
    let store = match vfs_sync_store::open(&ground.database, server::now()).await {
        Ok(store) => store,
        Err(error) => return vec![Action::new("repair", store_failure(error).message, false)],
    };
    let identity = match store.identity().await {
        Ok(identity) => identity,
        Err(error) => return vec![Action::new("repair", store_failure(error).message, false)],
    };
    let repairs = Repairs { ground, store: &*store, identity };
    let mut actions = Vec::new();
    // What takes access away goes first: a level that is derived below one that is too high would give
    // what nobody granted. For the same reason no feed is written beside a level that stays wrong.
    let levels = repairs.levels(faults).await;
    let wrong = levels.as_ref().is_some_and(|action| !action.is_done());
    actions.extend(levels);
    match wrong {
        false => actions.extend(repairs.feeds(faults).await),
        true => actions.push(Action::new("feeds", "not tried: levels of access stay wrong", false)),
    }
    actions.extend(repairs.counts(&found.rows).await);
    actions
}

struct Repairs<'a> {
    ground: &'a Ground<'a>,
    store: &'a dyn MetadataStore,
    identity: Identity,
}

/// Items, each with the users whose levels on it are wrong.
type Levels<'a> = BTreeMap<&'a ItemId, BTreeSet<&'a UserId>>;

/// The sum of several repairs of a kind.
#[derive(Default)]
struct Sum {
    done: u64,
    failed: Option<String>,
}

impl Sum {
    fn action(self, name: &'static str, what: &str) -> Action {
        match self.failed {
            None => Action::new(name, format!("{what}: {}", self.done), true),
            Some(error) => Action::new(name, format!("{what}: {}, then {error}", self.done), false),
        }
    }
}

impl Repairs<'_> {
    /// Writes a line of the audit log.
    fn note(&self, event: &'static str, of: &UserId, count: u64) {
        let of = self.identity.pseudonym(of);
        tracing::info!(target: "audit", event, by = "admin doctor", of, count);
    }

    async fn levels(&self, faults: &[DerivedFault]) -> Option<Action> {
        let (mut taken, mut given) = (Levels::new(), Levels::new());
        for fault in faults {
            if let DerivedFault::Level { item, user, stored, derived } = fault {
                let of = if derived < stored { &mut taken } else { &mut given };
                of.entry(item).or_default().insert(user);
            }
        }
        if taken.is_empty() && given.is_empty() {
            return None;
        }
        let mut sum = Sum::default();
        for of in [taken, given] {
            let all: Vec<_> = of.into_iter().collect();
            for part in all.chunks(AT_A_TIME) {
                self.ground.progress.set("repairing levels of access".to_owned());
                if !self.levels_of(part, &mut sum).await && part.len() > 1 {
                    // One that has too many consequences must not keep the others wrong.
                    sum.failed = None;
                    for one in part.chunks(1) {
                        self.levels_of(one, &mut sum).await;
                    }
                }
            }
            if sum.failed.is_some() {
                break;
            }
        }
        Some(sum.action("levels", "levels of access derived again"))
    }

    /// Derives some levels again; returns whether it could.
    async fn levels_of(&self, part: &[(&ItemId, BTreeSet<&UserId>)], sum: &mut Sum) -> bool {
        let items: Vec<ItemId> = part.iter().map(|(item, _)| (*item).clone()).collect();
        let users: BTreeSet<&UserId> = part.iter().flat_map(|(_, users)| users).copied().collect();
        let users: Vec<UserId> = users.into_iter().cloned().collect();
        match self.store.repair_levels(items, &*users, server::now()).await {
            Ok(count) => {
                sum.done += count;
                users.iter().for_each(|user| self.note("repair_levels", user, count));
                true
            }
            Err(error) => {
                sum.failed = Some(store_failure(error).message);
                false
            }
        }
    }

    async fn feeds(&self, faults: &[DerivedFault]) -> Option<Action> {
        let mut of: BTreeMap<&UserId, Vec<DerivedFault>> = BTreeMap::new();
        for fault in faults.iter().filter(|fault| !matches!(fault, DerivedFault::Level { .. })) {
            of.entry(fault.user()).or_default().push(fault.clone());
        }
        if of.is_empty() {
            return None;
        }
        let mut sum = Sum::default();
        for (user, faults) in of {
            self.ground.progress.set("repairing feeds".to_owned());
            for part in faults.chunks(AT_A_TIME) {
                match self.store.repair_feed(user, part, server::now()).await {
                    Ok(count) => {
                        sum.done += count;
                        self.note("repair_feed", user, count);
                    }
                    Err(error) => sum.failed = Some(store_failure(error).message),
                }
            }
        }
        Some(sum.action("feeds", "entries of feeds written again"))
    }

    async fn counts(&self, found: &Findings) -> Option<Action> {
        let mut sum = Sum::default();
        let changed = "its rows changed meanwhile: run it again";
        for (user, seen, counted) in &found.held {
            match self.store.repair_held(user, *seen, *counted).await {
                Ok(true) => {
                    sum.done += 1;
                    self.note("repair_counts", user, 1);
                }
                Ok(false) => sum.failed = Some(changed.to_owned()),
                Err(error) => sum.failed = Some(store_failure(error).message),
            }
        }
        for (user, seen, counted) in &found.charges {
            match self.store.repair_usage(user, *seen, *counted).await {
                Ok(true) => {
                    sum.done += 1;
                    self.note("repair_counts", user, 1);
                }
                Ok(false) => sum.failed = Some(changed.to_owned()),
                Err(error) => sum.failed = Some(store_failure(error).message),
            }
        }
        let tried = found.held.len() + found.charges.len();
        let what =
            counted(tried as u64, "sum was wrong, counted again", "sums were wrong, counted again");
        (tried > 0).then(|| sum.action("counts", &what))
    }
}
