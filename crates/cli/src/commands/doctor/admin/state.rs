//! Compares what is derived in the database with what it is derived from: levels of access, feeds, and
//! the numbers that count against quotas; and finds rows that cannot be read.

use std::collections::BTreeSet;
use std::time::Instant;

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_store::{
    ChargeCounts, DerivedFault, HeldCounts, ItemsOf, MalformedRow, MetadataStore, MetadataUsage,
    StoreError, Usage,
};

use super::super::check::Check;
use super::super::site::quoted;
use super::database::failed;
use super::{Ground, Scope, random_place};
use crate::output::{count_text, counted};

/// Rows of a page.
const PAGE: u32 = 200;
/// Entries of a feed of a page.
const FEED_PAGE: u32 = 500;
/// Rows that are counted at a time.
const COUNT_PAGE: u32 = 2_000;
/// Users of a page.
const USERS: u32 = 500;
/// Items, and entries of feeds, of a sample.
const SAMPLE: u64 = 5_000;
/// Users of a sample.
const SAMPLE_USERS: u64 = 100;
/// The items of a user up to which a sample counts them.
const SAMPLE_COUNT: u64 = 20_000;
/// Faults that are kept, to be repaired or shown; further ones are counted.
const KEPT: usize = 100_000;
/// Faults that are named.
const SHOWN: usize = 20;
/// The number of times that a user's rows are counted, if somebody writes meanwhile.
const TRIES: usize = 3;

/// The rows that differ from what they are derived from, and how many were examined.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) faults: Vec<DerivedFault>,
    /// The entries of feeds that differ, as far as they are kept.
    met: BTreeSet<(UserId, Vec<u8>)>,
    /// The number of levels and of entries that differ.
    levels: u64,
    entries_off: u64,
    malformed: BTreeSet<MalformedRow>,
    /// Users whose numbers differ: as stored, and as counted.
    pub(super) held: Vec<(UserId, MetadataUsage, MetadataUsage)>,
    pub(super) charges: Vec<(UserId, Usage, Usage)>,
    /// Users who wrote each time that their rows were counted.
    busy: u64,
    items: u64,
    entries: u64,
    users: u64,
    /// True if one user was examined, of whom there is nothing.
    pub(super) nobody: bool,
}

impl Found {
    fn add(&mut self, faults: Vec<DerivedFault>, malformed: Vec<MalformedRow>) {
        for fault in faults {
            let entry = match &fault {
                // One level is found once.
                DerivedFault::Level { .. } => None,
                DerivedFault::Missing { key, .. } | DerivedFault::Differs { key, .. } => {
                    Some(key.to_bytes())
                }
                DerivedFault::Stray { change, .. } => Some(change.key().to_bytes()),
            };
            // The walks over what a user owns, reads and was granted meet the same entries.
            if let Some(entry) = entry
                && self.met.len() < KEPT
                && !self.met.insert((fault.user().clone(), entry))
            {
                continue;
            }
            match fault {
                DerivedFault::Level { .. } => self.levels += 1,
                _ => self.entries_off += 1,
            }
            if self.faults.len() < KEPT {
                self.faults.push(fault);
            }
        }
        self.malformed.extend(malformed);
    }
}

/// A walk over the rows of a server.
struct Walk<'a> {
    ground: &'a Ground<'a>,
    store: &'a dyn MetadataStore,
    found: Found,
}

pub(super) async fn checks(
    ground: &Ground<'_>,
    store: &dyn MetadataStore,
    checks: &mut Vec<Check>,
) -> Found {
    let mut walk = Walk { ground, store, found: Found::default() };
    let walked = walk.all().await;
    let mut found = walk.found;
    if let Scope::User(user) = &ground.scope {
        let known = store.user_record(user).await;
        found.nobody = found.items + found.entries == 0 && known.is_ok_and(|known| known.is_none());
    }
    let examined = format!(
        "{} items, {} entries of feeds, {} users",
        count_text(found.items),
        count_text(found.entries),
        count_text(found.users)
    );
    let examined = match ground.scope {
        Scope::Sample => format!("a sample: {examined}"),
        Scope::User(_) | Scope::All => examined,
    };
    checks.push(match walked {
        Ok(()) => rows(ground, &found, &examined),
        Err(error) => failed(ground, "state.rows", "the examination ended early", error),
    });
    checks.push(levels(ground, &found, &examined));
    checks.push(feeds(ground, &found, &examined));
    checks.push(counts(ground, &found));
    found
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<(), StoreError> {
        match self.ground.scope.clone() {
            Scope::User(user) => {
                self.items(ItemsOf::Owner(user.clone())).await?;
                self.items(ItemsOf::Reader(user.clone())).await?;
                self.items(ItemsOf::Grantee(user.clone())).await?;
                self.user(&user, u64::MAX).await?;
                self.found.users += 1;
            }
            Scope::All => {
                self.items(ItemsOf::All).await?;
                self.users(None, None, u64::MAX).await?;
            }
            Scope::Sample => {
                // What comes before the place follows at the end.
                let place = random_place();
                let item = ItemId::new(&place).ok();
                self.walk_items(&ItemsOf::All, item.clone(), None, SAMPLE).await?;
                let left = SAMPLE.saturating_sub(self.found.items);
                self.walk_items(&ItemsOf::All, None, item, left).await?;
                let user = UserId::new(&place).ok();
                self.users(user.clone(), None, SAMPLE_USERS).await?;
                let left = SAMPLE_USERS.saturating_sub(self.found.users);
                self.users(None, user, left).await?;
            }
        }
        Ok(())
    }

    fn progress(&self) {
        let Found { items, entries, .. } = &self.found;
        let (items, entries) = (count_text(*items), count_text(*entries));
        self.ground.progress.set(format!("{items} items, {entries} entries of feeds"));
    }

    async fn items(&mut self, of: ItemsOf) -> Result<(), StoreError> {
        self.walk_items(&of, None, None, u64::MAX).await
    }

    /// Examines items after `after`, up to `until`, but no more than `left`.
    async fn walk_items(
        &mut self,
        of: &ItemsOf,
        mut after: Option<ItemId>,
        until: Option<ItemId>,
        mut left: u64,
    ) -> Result<(), StoreError> {
        while left > 0 {
            let begun = Instant::now();
            let at_most = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE);
            let page = self.store.examine_items(of, after, &until, at_most).await?;
            self.found.items += page.items;
            self.found.add(page.faults, page.malformed);
            left = left.saturating_sub(page.items);
            self.progress();
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            self.ground.give_way(begun.elapsed()).await;
        }
        Ok(())
    }

    async fn users(
        &mut self,
        mut after: Option<UserId>,
        until: Option<UserId>,
        mut left: u64,
    ) -> Result<(), StoreError> {
        while left > 0 {
            let at_most = u32::try_from(left).unwrap_or(u32::MAX).min(USERS);
            let page = self.store.known_users(after, at_most).await?;
            for user in &page {
                if until.as_ref().is_some_and(|until| user > until) {
                    return Ok(());
                }
                let entries = match self.ground.scope {
                    Scope::Sample => SAMPLE.saturating_sub(self.found.entries),
                    Scope::User(_) | Scope::All => u64::MAX,
                };
                self.user(user, entries).await?;
                self.found.users += 1;
            }
            left = left.saturating_sub(page.len() as u64);
            if page.len() < usize::try_from(at_most).unwrap_or(usize::MAX) {
                return Ok(());
            }
            after = page.last().cloned();
        }
        Ok(())
    }

    /// Examines a user's feed, up to so many entries, and the user's numbers.
    async fn user(&mut self, user: &UserId, entries: u64) -> Result<(), StoreError> {
        self.feed(user, entries).await?;
        self.states(user).await?;
        self.held(user).await?;
        self.charges(user).await
    }

    async fn states(&mut self, user: &UserId) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let (malformed, next) = self.store.examine_states(user, after, FEED_PAGE).await?;
            self.found.add(Vec::new(), malformed);
            let Some(next) = next else { return Ok(()) };
            after = next;
        }
    }

    async fn feed(&mut self, user: &UserId, mut left: u64) -> Result<(), StoreError> {
        let mut after = 0;
        while left > 0 {
            let begun = Instant::now();
            let page = self.store.examine_feed(user, after, FEED_PAGE).await?;
            self.found.entries += page.entries;
            self.found.add(page.faults, page.malformed);
            left = left.saturating_sub(page.entries);
            self.progress();
            let Some(next) = page.next else { return Ok(()) };
            after = next;
            self.ground.give_way(begun.elapsed()).await;
        }
        Ok(())
    }

    /// Counts a user's registers, page by page, and compares the sums with the stored numbers if these
    /// were the same all the time.
    async fn held(&mut self, user: &UserId) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let mut sum = MetadataUsage::default();
            let (mut first, mut after, mut steady) = (None, None, true);
            let stored = loop {
                let begun = Instant::now();
                let (HeldCounts { counted, stored }, next) =
                    self.store.count_held(user, after, COUNT_PAGE).await?;
                if self.ground.scope == Scope::Sample && stored.items > SAMPLE_COUNT {
                    return Ok(());
                }
                sum.items += counted.items;
                sum.links += counted.links;
                sum.grants += counted.grants;
                steady &= *first.get_or_insert(stored) == stored;
                after = next;
                if after.is_none() {
                    break stored;
                }
                self.ground.give_way(begun.elapsed()).await;
            };
            if steady {
                // The bytes are kept incrementally, about right: they are not derived from the rows.
                sum.bytes = stored.bytes;
                if sum != stored {
                    self.found.held.push((user.clone(), stored, sum));
                }
                return Ok(());
            }
        }
        self.found.busy += 1;
        Ok(())
    }

    async fn charges(&mut self, user: &UserId) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let mut sum = Usage::default();
            let (mut first, mut after, mut steady) = (None, None, true);
            let stored = loop {
                let begun = Instant::now();
                let (ChargeCounts { counted, stored }, next) =
                    self.store.count_charges(user, after, COUNT_PAGE).await?;
                sum.stored = sum.stored.saturating_add(counted.stored);
                sum.staged = sum.staged.saturating_add(counted.staged);
                sum.open_stages += counted.open_stages;
                steady &= *first.get_or_insert(stored) == stored;
                after = next;
                if after.is_none() {
                    break stored;
                }
                self.ground.give_way(begun.elapsed()).await;
            };
            if steady {
                if sum != stored {
                    self.found.charges.push((user.clone(), stored, sum));
                }
                return Ok(());
            }
        }
        self.found.busy += 1;
        Ok(())
    }
}

fn rows(ground: &Ground<'_>, found: &Found, examined: &str) -> Check {
    const ID: &str = "state.rows";
    let Some(first) = found.malformed.first() else {
        return Check::ok(ID, format!("every row can be read ({examined})"));
    };
    let count = counted(found.malformed.len() as u64, "row is", "rows are");
    let named: Vec<_> = found.malformed.iter().take(SHOWN).collect();
    let named: Vec<_> = named.iter().map(|row| (&row.table, &row.key, &row.reason)).collect();
    let states = found.malformed.iter().all(|row| row.table == "reconcile_state");
    let next = match states {
        true => ground.command("admin repair reconcile-state"),
        false => "vfs-sync backup restore --help".to_owned(),
    };
    Check::problem(ID, format!("{count} malformed, one in {}: {}", first.table, first.reason))
        .with("count", found.malformed.len())
        .name("rows", named)
        .explained("malformed_row")
        .next(next)
}

/// Returns the command that repairs what the check found.
fn fix(ground: &Ground<'_>) -> String {
    let scope = match &ground.scope {
        Scope::User(user) => {
            format!(" --user {}", quoted(std::path::Path::new(user.as_str())))
        }
        // A sample would find others the next time.
        Scope::Sample | Scope::All => " --all".to_owned(),
    };
    ground.command(&format!("admin doctor{scope} --fix"))
}

fn levels(ground: &Ground<'_>, found: &Found, examined: &str) -> Check {
    const ID: &str = "state.levels";
    if found.levels == 0 {
        return Check::ok(ID, format!("levels of access are those that grants give ({examined})"));
    }
    let faults = found.faults.iter().filter_map(|fault| match fault {
        DerivedFault::Level { item, user, stored, derived } => Some((item, user, stored, derived)),
        _ => None,
    });
    let text = format!(
        "{} of access {} not what the grants give",
        counted(found.levels, "level", "levels"),
        if found.levels == 1 { "is" } else { "are" }
    );
    Check::problem(ID, text)
        .with("count", found.levels)
        .name("levels", faults.take(SHOWN).collect::<Vec<_>>())
        .next(fix(ground))
}

fn feeds(ground: &Ground<'_>, found: &Found, examined: &str) -> Check {
    const ID: &str = "state.feeds";
    if found.entries_off == 0 {
        return Check::ok(ID, format!("feeds show what their users see ({examined})"));
    }
    let (mut missing, mut stray, mut differs) = (0_u64, 0_u64, 0_u64);
    let mut named = Vec::new();
    for fault in &found.faults {
        let what = match fault {
            DerivedFault::Level { .. } => continue,
            DerivedFault::Missing { .. } => (&mut missing, "missing"),
            DerivedFault::Stray { .. } => (&mut stray, "stray"),
            DerivedFault::Differs { .. } => (&mut differs, "differs"),
        };
        *what.0 += 1;
        if named.len() < SHOWN {
            named.push((fault.user(), fault.item(), what.1));
        }
    }
    let text = format!(
        "{} of feeds {} not what their users see: {missing} missing, {stray} of what they do not see, \
         {differs} of another state",
        counted(found.entries_off, "entry", "entries"),
        if found.entries_off == 1 { "is" } else { "are" }
    );
    Check::problem(ID, text)
        .with("count", found.entries_off)
        .with("missing", missing)
        .with("stray", stray)
        .with("differs", differs)
        .name("entries", named)
        .next(fix(ground))
}

fn counts(ground: &Ground<'_>, found: &Found) -> Check {
    const ID: &str = "state.counts";
    let users: BTreeSet<&UserId> = found
        .held
        .iter()
        .map(|(user, ..)| user)
        .chain(found.charges.iter().map(|(user, ..)| user))
        .collect();
    let check = if users.is_empty() {
        Check::ok(ID, "the numbers that count against quotas are those of the rows")
    } else {
        let text = format!(
            "the numbers that count against quotas differ from the rows of {}",
            counted(users.len() as u64, "user", "users")
        );
        let held = found.held.iter().take(SHOWN).map(|(user, stored, counted)| {
            let of = |usage: &MetadataUsage| [usage.items, usage.links, usage.grants];
            (user, of(stored), of(counted))
        });
        let charged = found.charges.iter().take(SHOWN).map(|(user, stored, counted)| {
            let of = |usage: &Usage| [usage.stored, usage.staged, usage.open_stages];
            (user, of(stored), of(counted))
        });
        Check::problem(ID, text)
            .name("registers", held.collect::<Vec<_>>())
            .name("contents", charged.collect::<Vec<_>>())
            .next(fix(ground))
    };
    check.with("users", users.len()).with("notCompared", found.busy)
}
