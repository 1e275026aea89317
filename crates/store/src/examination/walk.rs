//! The walk of an operator's doctor over the rows of a server: it compares what is derived in the
//! database with what it is derived from (levels of access, feeds, and the numbers that count against
//! quotas), and finds rows that cannot be read. It changes nothing, and runs beside servers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{DerivedFault, MetadataUsage};
use vfs_sync_core::server::stage::Usage;

use super::{ChargeCounts, HeldCounts, ItemsOf, MalformedRow};
use crate::command::MetadataStore;
use crate::error::Result;

/// Rows of a page.
const PAGE: u32 = 200;
/// Items of a page of which few are examined.
const UNSHOWN_PAGE: u32 = 1_000;
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
/// The number of times that a user's rows are counted, if somebody writes meanwhile.
const TRIES: usize = 3;

/// The part of a server's rows that is examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// A bounded number of rows: those after a place in the order of ids, then those before it.
    Sample {
        /// The id from which the sample begins.
        place: String,
    },
    /// Everything of one user.
    User(UserId),
    /// Everything of all users.
    All,
}

/// The rows that differ from what they are derived from, and how many were examined.
#[derive(Debug, Default)]
pub struct Findings {
    /// The derived rows that differ from what they follow from; at most 100,000 are kept.
    pub faults: Vec<DerivedFault>,
    /// The levels, and the entries of feeds, that differ, as far as they are kept.
    met: BTreeSet<(UserId, Vec<u8>)>,
    /// The number of levels of access that differ.
    pub levels: u64,
    /// The number of entries of feeds that differ.
    pub entries_off: u64,
    /// The rows that cannot be read.
    pub malformed: BTreeSet<MalformedRow>,
    /// Users whose numbers of registers differ: as stored, and as counted.
    pub held: Vec<(UserId, MetadataUsage, MetadataUsage)>,
    /// Users whose sums of contents differ: as stored, and as counted.
    pub charges: Vec<(UserId, Usage, Usage)>,
    /// Users who wrote each time that their rows were counted.
    pub busy: u64,
    /// The number of items that were examined.
    pub items: u64,
    /// The number of entries of feeds that were examined.
    pub entries: u64,
    /// The number of users whose feeds and numbers were examined.
    pub users: u64,
}

impl Findings {
    /// Returns whether everything that was examined is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.levels + self.entries_off == 0
            && self.malformed.is_empty()
            && self.held.is_empty()
            && self.charges.is_empty()
    }

    fn add(&mut self, faults: Vec<DerivedFault>, malformed: Vec<MalformedRow>) {
        for fault in faults {
            let row = match &fault {
                // No entry's key begins so.
                DerivedFault::Level { item, .. } => [b"\0", item.as_str().as_bytes()].concat(),
                DerivedFault::Missing { key, .. } | DerivedFault::Differs { key, .. } => {
                    key.to_bytes()
                }
                DerivedFault::Stray { change, .. } => change.key().to_bytes(),
            };
            // The walks over what a user owns, reads and was granted meet the same rows.
            if self.met.len() < KEPT && !self.met.insert((fault.user().clone(), row)) {
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
struct Walk<'a, P> {
    store: &'a dyn MetadataStore,
    extent: &'a Extent,
    between: P,
    found: Findings,
}

/// Examines rows; returns what was found, and the error that ended the walk early, if one did.
/// `between` is called after each page, with what was found by then and the time that the page took.
pub async fn examine(
    store: &dyn MetadataStore,
    extent: &Extent,
    between: impl AsyncFn(&Findings, Duration),
) -> (Findings, Result<()>) {
    let mut walk = Walk { store, extent, between, found: Findings::default() };
    let walked = walk.all().await;
    (walk.found, walked)
}

impl<P: AsyncFn(&Findings, Duration)> Walk<'_, P> {
    async fn all(&mut self) -> Result<()> {
        match self.extent.clone() {
            Extent::User(user) => {
                self.items(ItemsOf::Unshown(user.clone())).await?;
                self.items(ItemsOf::Reader(user.clone())).await?;
                self.items(ItemsOf::Grantee(user.clone())).await?;
                self.user(&user, u64::MAX).await?;
                self.found.users += 1;
            }
            Extent::All => {
                self.items(ItemsOf::All).await?;
                self.users(None, None, u64::MAX).await?;
            }
            Extent::Sample { place } => {
                // What comes before the place follows at the end.
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

    async fn items(&mut self, of: ItemsOf) -> Result<()> {
        self.walk_items(&of, None, None, u64::MAX).await
    }

    /// Examines items after `after`, up to `until`, but no more than `left`.
    async fn walk_items(
        &mut self,
        of: &ItemsOf,
        mut after: Option<ItemId>,
        until: Option<ItemId>,
        mut left: u64,
    ) -> Result<()> {
        while left > 0 {
            let begun = Instant::now();
            let page = if matches!(of, ItemsOf::Unshown(_)) { UNSHOWN_PAGE } else { PAGE };
            let at_most = u32::try_from(left).unwrap_or(u32::MAX).min(page);
            let page = self.store.examine_items(of, after, &until, at_most).await?;
            self.found.items += page.items;
            self.found.add(page.faults, page.malformed);
            left = left.saturating_sub(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            (self.between)(&self.found, begun.elapsed()).await;
        }
        Ok(())
    }

    async fn users(
        &mut self,
        mut after: Option<UserId>,
        until: Option<UserId>,
        mut left: u64,
    ) -> Result<()> {
        while left > 0 {
            let at_most = u32::try_from(left).unwrap_or(u32::MAX).min(USERS);
            let page = self.store.known_users(after, at_most).await?;
            for user in &page {
                if until.as_ref().is_some_and(|until| user > until) {
                    return Ok(());
                }
                let entries = match self.extent {
                    Extent::Sample { .. } => SAMPLE.saturating_sub(self.found.entries),
                    Extent::User(_) | Extent::All => u64::MAX,
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
    async fn user(&mut self, user: &UserId, entries: u64) -> Result<()> {
        self.feed(user, entries).await?;
        self.states(user).await?;
        self.held(user).await?;
        self.charges(user).await
    }

    async fn states(&mut self, user: &UserId) -> Result<()> {
        let mut after = String::new();
        loop {
            let (malformed, next) = self.store.examine_states(user, after, FEED_PAGE).await?;
            self.found.add(Vec::new(), malformed);
            let Some(next) = next else { return Ok(()) };
            after = next;
        }
    }

    async fn feed(&mut self, user: &UserId, mut left: u64) -> Result<()> {
        let own = matches!(self.extent, Extent::User(_));
        let mut after = 0;
        while left > 0 {
            let begun = Instant::now();
            let page = self.store.examine_feed(user, after, FEED_PAGE, own).await?;
            self.found.entries += page.entries;
            self.found.add(page.faults, page.malformed);
            left = left.saturating_sub(page.entries);
            let Some(next) = page.next else { return Ok(()) };
            after = next;
            (self.between)(&self.found, begun.elapsed()).await;
        }
        Ok(())
    }

    /// Compares the stored numbers of a user's registers with those of the rows.
    async fn held(&mut self, user: &UserId) -> Result<()> {
        let (store, is_sample) = (self.store, matches!(self.extent, Extent::Sample { .. }));
        let page = async |after| {
            let (HeldCounts { counted, stored }, next) =
                store.count_held(user, after, COUNT_PAGE).await?;
            let counts = !is_sample || stored.items <= SAMPLE_COUNT;
            Ok(counts.then_some((counted, stored, next)))
        };
        let add = |sum: &mut MetadataUsage, counted: MetadataUsage| {
            sum.items += counted.items;
            sum.links += counted.links;
            sum.grants += counted.grants;
        };
        if let Some((stored, mut sum)) = self.steady(page, add).await? {
            // The bytes are kept incrementally, about right: they are not derived from the rows.
            sum.bytes = stored.bytes;
            if sum != stored {
                self.found.held.push((user.clone(), stored, sum));
            }
        }
        Ok(())
    }

    /// Compares the stored sums of a user's contents with those of the rows.
    async fn charges(&mut self, user: &UserId) -> Result<()> {
        let store = self.store;
        let page = async |after| {
            let (ChargeCounts { counted, stored }, next) =
                store.count_charges(user, after, COUNT_PAGE).await?;
            Ok(Some((counted, stored, next)))
        };
        let add = |sum: &mut Usage, counted: Usage| {
            sum.stored = sum.stored.saturating_add(counted.stored);
            sum.staged = sum.staged.saturating_add(counted.staged);
            sum.open_stages += counted.open_stages;
        };
        if let Some((stored, sum)) = self.steady(page, add).await?
            && sum != stored
        {
            self.found.charges.push((user.clone(), stored, sum));
        }
        Ok(())
    }

    /// Counts a user's rows, page by page, until the stored numbers were the same all the time; returns
    /// these and the sums. `page` returns the numbers of a page, the stored ones, and the place after
    /// which to go on; `None` if the user is not to be counted.
    async fn steady<N: Copy + Default + PartialEq, After>(
        &mut self,
        page: impl AsyncFn(Option<After>) -> Result<Option<(N, N, Option<After>)>>,
        add: impl Fn(&mut N, N),
    ) -> Result<Option<(N, N)>> {
        for _ in 0..TRIES {
            let mut sum = N::default();
            let (mut first, mut after, mut steady) = (None, None, true);
            let stored = loop {
                let begun = Instant::now();
                let Some((counted, stored, next)) = page(after).await? else { return Ok(None) };
                add(&mut sum, counted);
                steady &= *first.get_or_insert(stored) == stored;
                after = next;
                if after.is_none() {
                    break stored;
                }
                (self.between)(&self.found, begun.elapsed()).await;
            };
            if steady {
                return Ok(Some((stored, sum)));
            }
        }
        self.found.busy += 1;
        Ok(None)
    }
}
